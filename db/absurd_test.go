package db

import (
	"fmt"
	"strings"
	"testing"

	"ksefmirror/parse"
)

// payments gives n payments.
func payments(n int, amount string) string {
	return `<Platnosc><ZnacznikZaplatyCzesciowej>1</ZnacznikZaplatyCzesciowej>` +
		strings.Repeat(`<ZaplataCzesciowa><KwotaZaplatyCzesciowej>`+amount+`</KwotaZaplatyCzesciowej></ZaplataCzesciowa>`, n) + `</Platnosc>`
}

// absurdInvoices are of every kind whose amounts a view sums up: an invoice and two
// corrections of it, two advances and their settlement, each with so many payments.
func absurdInvoices(t *testing.T, amount string, paid int) []Invoice {
	t.Helper()
	var invoices []Invoice
	numbers := strings.NewReplacer("ORIGINAL", testNumber(0), "FIRST", testNumber(3), "SECOND", testNumber(4))
	correction := "<DaneFaKorygowanej><NrKSeFFaKorygowanej>ORIGINAL</NrKSeFFaKorygowanej></DaneFaKorygowanej>"
	settlement := "<FakturaZaliczkowa><NrKSeFFaZaliczkowej>FIRST</NrKSeFFaZaliczkowej></FakturaZaliczkowa><FakturaZaliczkowa><NrKSeFFaZaliczkowej>SECOND</NrKSeFFaZaliczkowej></FakturaZaliczkowa>"
	for i, each := range []struct{ kind, names string }{{"VAT", ""}, {"KOR", correction}, {"KOR", correction}, {"ZAL", ""}, {"ZAL", ""}, {"ROZ", settlement}} {
		in := testInvoice(i)
		in.XML = []byte(`<Faktura xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/"><Fa><KodWaluty>PLN</KodWaluty><P_1>2026-11-05</P_1><P_2>FV/` + fmt.Sprint(i) + `</P_2>` +
			strings.ReplaceAll(`<P_13_1>A</P_13_1><P_14_1>A</P_14_1><P_14_1W>A</P_14_1W><P_15>A</P_15>`, "A", amount) +
			`<RodzajFaktury>` + each.kind + `</RodzajFaktury>` + numbers.Replace(each.names) +
			payments(paid, amount) +
			`</Fa></Faktura>`)
		in.Hash = hashOf(in.XML)
		var err error
		if in.Document, err = parse.Parse(in.XML); err != nil {
			t.Fatal(err)
		}
		invoices = append(invoices, in)
	}
	return invoices
}

// readEverything reads every row of every view, and the register.
func readEverything(t *testing.T, d *DB) {
	t.Helper()
	views := rowsOf(t, d, "name) FROM sqlite_schema WHERE type = 'view'")
	if len(views) < 10 {
		t.Fatalf("views: %q", views)
	}
	for _, view := range views {
		view = strings.Trim(view, `["]`)
		rows, err := d.read.Query("SELECT * FROM " + view)
		if err != nil {
			t.Errorf("%s: %v", view, err)
			continue
		}
		for rows.Next() { // what it says is the business of other tests
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s: %v", view, err)
		}
		rows.Close()
	}
	for _, role := range []string{"seller", "buyer"} {
		for _, err := range d.Register(t.Context(), role, "tax", "2026-11-01", "2026-11-30") {
			if err != nil {
				t.Errorf("register of the %s: %v", role, err)
			}
		}
	}
}

// An amount that overflows when it is summed up is not read, and so breaks no view for
// those who read the other invoices. The largest that is read breaks none either.
func TestAbsurdAmounts(t *testing.T) {
	slow(t)
	for amount, want := range map[string]string{
		"90000000000000000.00": "", "-90000000000000000.00": "", "9999999999999999.99": "", "9000000000000.01": "",
		"9000000000000.00": "[900000000000000,1800000000000000,2700000000000000]",
	} {
		t.Run(amount, func(t *testing.T) {
			d := newTest(t)
			commit(t, d, Batch{Role: "seller", Invoices: absurdInvoices(t, amount, 2)})
			readEverything(t, d)
			if chain := strings.Join(rowsOf(t, d, "gross_after_minor) FROM v_chain ORDER BY step"), ""); want == "" && chain != "[null][null][null]" || want != "" && strings.ReplaceAll(chain, "][", ",") != want {
				t.Errorf("the chain is %s", chain)
			}
			said := rowsOf(t, d, "gross_minor, parse_error LIKE '%P_15: too large%') FROM v_invoices LIMIT 1")
			if want == "" && said[0] != "[null,1]" || want != "" && said[0] != "[900000000000000,null]" {
				t.Errorf("an invoice says %s", said[0])
			}
			if settled := value[int](t, d, "SELECT advances_found FROM v_settlements"); settled != 2 {
				t.Errorf("%d advances were found", settled)
			}
		})
	}
}

// No invoice does it alone, with as many payments as are read of one.
func TestAbsurdInvoice(t *testing.T) {
	slow(t)
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: absurdInvoices(t, fmt.Sprintf("%d.%02d", parse.MaxAmount/100, parse.MaxAmount%100), 10_001)[:1]})
	readEverything(t, d)
	if n := value[int](t, d, "SELECT count(amount_minor) FROM payments"); n != 10_000 {
		t.Errorf("%d payments were read", n)
	}
	if open := value[int64](t, d, "SELECT open_minor FROM v_due"); open/parse.MaxAmount != 1-10_000 {
		t.Errorf("%d are open", open)
	}
}
