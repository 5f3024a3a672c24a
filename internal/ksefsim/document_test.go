package ksefsim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// samples is where the official examples are, or the test is skipped.
func samples(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "ksef", "samples")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the official examples are not beside the project: ", err)
	}
	return dir
}

// Every official example can be served, and its row, checked by the contract,
// says what was read from it by other means.
func TestOfficialExamples(t *testing.T) {
	dir := samples(t)
	var expected map[string]map[string]any
	text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err == nil {
		err = json.Unmarshal(text, &expected)
	}
	if err != nil {
		t.Fatal(err)
	}
	invoices, err := ksefsim.LoadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	byText := make(map[string]map[string]any)
	for name, fields := range expected {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			byText[string(text)] = fields
		}
	}
	if len(invoices) < 30 || len(byText) < 30 {
		t.Fatalf("%d examples with %d expectations, want at least 30", len(invoices), len(byText))
	}

	everyone := ksef.Context{Type: ksef.ContextNIP, Value: "8888888888"}
	s := newSim(t, ksefsim.Options{Everyone: everyone}, contract.Wrap)
	s.AddToken(everyone, "everyone's")
	s.login(everyone, "everyone's")
	numbers, err := s.Add(invoices...)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]ksef.Metadata)
	for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		for _, row := range s.rows(subject, start.Add(-time.Hour), time.Time{}, 0, 250).Invoices {
			seen[row.KSeFNumber] = row
		}
	}
	compared := 0
	for i, number := range numbers {
		row, ok := seen[string(number)]
		fields := byText[string(invoices[i].XML)]
		if !ok {
			t.Errorf("example %v is not listed", fields["invoice_number"])
			continue
		}
		for key, got := range map[string]string{
			"invoice_number": row.InvoiceNumber, "issue_date": row.IssueDate, "currency": row.Currency,
			"gross": string(row.GrossAmount), "net_total": string(row.NetAmount), "form_code": row.FormCode.SystemCode,
		} {
			if want, ok := fields[key].(string); ok && want != "" {
				compared++
				if got != want {
					t.Errorf("%s: %s %q, want %q", row.InvoiceNumber, key, got, want)
				}
			}
		}
	}
	if compared < 100 {
		t.Errorf("only %d fields were compared", compared)
	}
}

func TestForms(t *testing.T) {
	for _, each := range []struct{ name, xml, kind, form, net, vat, gross, currency, seller string }{
		{"FA_RR", `<Faktura xmlns="x"><Naglowek><KodFormularza kodSystemowy="FA_RR (1)" wersjaSchemy="1-1E">FA_RR</KodFormularza></Naglowek>
<Podmiot1><DaneIdentyfikacyjne><NIP>5265877635</NIP></DaneIdentyfikacyjne></Podmiot1><FakturaRR><KodWaluty>PLN</KodWaluty><P_4B>2026-01-01</P_4B><P_4C>1</P_4C>
<P_11_1>100</P_11_1><P_11_2>7.00</P_11_2><P_12_1>107</P_12_1><P_12_2>sto siedem</P_12_2><RodzajFaktury>VAT_RR</RodzajFaktury></FakturaRR></Faktura>`,
			"VatRr", "FA_RR (1)", "100.00", "7.00", "107.00", "PLN", "5265877635"},
		{"foreign currency", `<Faktura xmlns="x"><Podmiot1><DaneIdentyfikacyjne><NIP>5265877635</NIP></DaneIdentyfikacyjne></Podmiot1><Fa><KodWaluty>EUR</KodWaluty><P_2>1</P_2>
<P_13_1>100</P_13_1><P_14_1>23</P_14_1><P_14_1W>98.90</P_14_1W><P_13_6_1>1</P_13_6_1><P_13_10>0.5</P_13_10><P_15>124.5</P_15><RodzajFaktury>KOR_ROZ</RodzajFaktury></Fa></Faktura>`,
			"KorRoz", "FA (3)", "101.50", "98.90", "124.50", "EUR", "5265877635"},
		{"PEF credit note", `<c:CreditNote xmlns:c="urn:c" xmlns:b="urn:b" xmlns:a="urn:a"><b:ID>1</b:ID><b:IssueDate>2026-01-01</b:IssueDate><b:DocumentCurrencyCode>EUR</b:DocumentCurrencyCode>
<a:AccountingSupplierParty><a:Party><a:PartyTaxScheme><b:CompanyID>PL5265877635</b:CompanyID></a:PartyTaxScheme></a:Party></a:AccountingSupplierParty>
<a:TaxTotal><b:TaxAmount currencyID="EUR">23</b:TaxAmount></a:TaxTotal><a:TaxTotal><b:TaxAmount currencyID="PLN">99</b:TaxAmount></a:TaxTotal>
<a:LegalMonetaryTotal><b:TaxExclusiveAmount>100</b:TaxExclusiveAmount><b:TaxInclusiveAmount>123</b:TaxInclusiveAmount></a:LegalMonetaryTotal></c:CreditNote>`,
			"KorPef", "PEF_KOR (3)", "100.00", "99.00", "123.00", "EUR", "5265877635"},
		{"later form", `<Faktura xmlns="later"><Naglowek><KodFormularza kodSystemowy="FA (4)" wersjaSchemy="2-0E">FA</KodFormularza></Naglowek><Fa><P_15>5</P_15></Fa></Faktura>`,
			"Vat", "FA (4)", "0.00", "0.00", "5.00", "PLN", "9999999999"},
		{"no XML", "%PDF-1.7", "Vat", "FA (3)", "0.00", "0.00", "0.00", "PLN", "9999999999"},
		{"empty", "", "Vat", "FA (3)", "0.00", "0.00", "0.00", "PLN", "9999999999"},
	} {
		t.Run(each.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{Everyone: company}, contract.Wrap)
			if _, err := s.Add(ksefsim.Invoice{XML: []byte(each.xml)}); err != nil {
				t.Fatal(err)
			}
			s.login(company, token)
			rows := append(s.rows(ksef.Seller, start, start, 0, 10).Invoices, s.rows(ksef.Buyer, start, start, 0, 10).Invoices...)
			if len(rows) != 1 {
				t.Fatalf("%d rows, want 1", len(rows))
			}
			row := rows[0]
			got := strings.Join([]string{row.InvoiceType, row.FormCode.SystemCode, string(row.NetAmount), string(row.VATAmount), string(row.GrossAmount), row.Currency, row.Seller.NIP}, " ")
			if want := strings.Join([]string{each.kind, each.form, each.net, each.vat, each.gross, each.currency, each.seller}, " "); got != want {
				t.Errorf("row says %s, want %s", got, want)
			}
		})
	}
}

// Whatever is added is listed once, in a row that is JSON.
func FuzzAdd(f *testing.F) {
	f.Add(sale(1))
	f.Add([]byte("<Invoice><ID>1</ID></Invoice>"))
	f.Add([]byte(`<?xml version="1.0" encoding="cp1250"?><Faktura><Fa><P_13_1>1e9</P_13_1><P_2>` + strings.Repeat("ż", 300) + `</P_2></Fa></Faktura>`))
	f.Add([]byte("<Faktura><Podmiot1><DaneIdentyfikacyjne><NIP>\x00"))
	now := start
	s := ksefsim.New(ksefsim.Options{Now: func() time.Time { return now }, Everyone: company})
	f.Fuzz(func(t *testing.T, xml []byte) {
		numbers, err := s.Add(ksefsim.Invoice{XML: xml})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ksef.ParseNumber(string(numbers[0])); err != nil {
			t.Error(err)
		}
		found := 0
		for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
			listed := s.Listed(company, subject)
			for _, one := range listed[max(0, len(listed)-1):] {
				if one.Number == numbers[0] {
					found++
					if text, err := json.Marshal(one.Metadata); err != nil {
						t.Errorf("metadata of %q: %v %s", xml, err, text)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%q is not listed", xml)
		}
		now = now.Add(time.Second)
	})
}

func TestLoadFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"b.xml": "2", "a/c.XML": "1", "a/d.txt": "no"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	invoices, err := ksefsim.LoadFolder(dir)
	if err != nil || len(invoices) != 2 || string(invoices[0].XML) != "1" || string(invoices[1].XML) != "2" {
		t.Errorf("loaded %d invoices, %v, want 1 and then 2", len(invoices), err)
	}
	if _, err := ksefsim.LoadFolder(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing folder is no error")
	}
}
