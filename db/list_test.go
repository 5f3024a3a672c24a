package db

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

func TestDecimal(t *testing.T) {
	for minor, want := range map[int64]string{
		0: "0.00", 5: "0.05", -5: "-0.05", 123456: "1234.56", -100: "-1.00",
		math.MaxInt64: "92233720368547758.07", math.MinInt64: "-92233720368547758.08",
	} {
		if got := Decimal(minor); got != want {
			t.Errorf("%d: %s, want %s", minor, got, want)
		}
	}
}

// An amount in JSON is an exact decimal in a string, once; NULL is null.
func TestRecordJSON(t *testing.T) {
	r := Record{
		columns: []string{"name", "gross_minor", "gross", "net_minor", "vat_minor", "flag"},
		values:  []any{`"Ż" <1>`, int64(1050), "10.50", int64(-5), nil, int64(1)},
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"name": `"Ż" <1>`, "gross": "10.50", "net": "-0.05", "vat": nil, "flag": 1.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(string(text), `{"name":`) || strings.Count(string(text), "gross") != 1 {
		t.Errorf("%s", text)
	}
}

// A list comes whole and in order, over the borders of pages and although several
// invoices are of one instant; and one that changes meanwhile gives nothing twice.
func TestListPages(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs more invoices than a page has")
	}
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, filesPage+250)})
	var got []string
	for row, err := range d.List(t.Context(), InvoiceFilter{Role: "seller"}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, row.Text("ksef_number")); len(got) == 10 {
			newer := testInvoice(5000)
			newer.StoredAt = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
			commit(t, d, Batch{Role: "seller", Invoices: []Invoice{newer}})
		}
	}
	if len(got) != filesPage+250 {
		t.Errorf("%d invoices", len(got))
	}
	first := value[string](t, d, "SELECT ksef_number FROM invoices WHERE stored_at < '2027' ORDER BY stored_at DESC, id DESC LIMIT 1")
	slices.Sort(got)
	if len(slices.Compact(slices.Clone(got))) != len(got) || !slices.Contains(got, first) {
		t.Error("an invoice came twice, or the newest not")
	}
	for _, err := range d.List(t.Context(), InvoiceFilter{}) {
		if err != nil {
			t.Error(err)
		}
		break // whoever has seen enough may stop
	}
}

// registered is an invoice with amounts by rate.
func registered(n int, change func(*Invoice)) Invoice {
	in := testInvoice(n)
	change(&in)
	return in
}

// A register has each invoice of its range once, in the company's role, with the
// amounts that it states under the rate that it states.
func TestRegister(t *testing.T) {
	d := newTest(t)
	minor := func(v int64) parse.Minor { return parse.Minor{Value: v, Stated: true} }
	rates := func(rows ...parse.VATRow) func(*Invoice) {
		return func(in *Invoice) { in.Document.TaxDate = "2026-10-15"; in.Document.VATRows = rows }
	}
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{
		registered(1, func(in *Invoice) { in.Document.TaxDate = "2026-10-01" }),
		registered(2, func(in *Invoice) { in.Document.TaxDate = "2026-10-31"; in.IssueDate = "2026-11-05" }),
		registered(3, func(in *Invoice) { in.Document.TaxDate = "2026-09-30" }),
		registered(4, func(in *Invoice) { in.Document.TaxDate = "2026-11-01" }),
		registered(5, rates(
			parse.VATRow{Bucket: "ubl:S:23", Net: minor(100), VAT: minor(23)}, parse.VATRow{Bucket: "ubl:S:22", Net: minor(1000), VAT: minor(220)},
			parse.VATRow{Bucket: "ubl:E:0", Net: minor(7)}, parse.VATRow{Bucket: "ubl:S:19", Net: minor(5), VAT: minor(1)}, parse.VATRow{Bucket: "zero", Net: minor(3)})),
		registered(6, func(in *Invoice) {
			rates(parse.VATRow{Bucket: "oss", Net: minor(1000), VAT: minor(190)}, parse.VATRow{Bucket: "standard", Net: minor(-100), VAT: minor(-23)})(in)
		}),
		registered(7, func(in *Invoice) {
			rates(parse.VATRow{Bucket: "standard", Net: minor(100), VAT: minor(23), VATPLN: minor(99)})(in)
			in.Document.Currency, in.Document.VATPLN = "EUR", minor(99)
			in.Document.Lines[1].GTU, in.Document.Lines[2].GTU, in.Document.Lines[3].GTU = "GTU_12", "GTU_06", "GTU_12"
		}),
		registered(8, func(in *Invoice) {
			in.ParseStatus, in.Document, in.IssueDate, in.ReceivedDate = "error", nil, "2026-10-20", "2026-10-21"
		}),
	}})
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(1)}})

	table := func(role, by, from, to string) (rows []map[string]string) {
		t.Helper()
		for row, err := range d.Register(t.Context(), role, by, from, to) {
			if err != nil {
				t.Fatal(err)
			}
			said := map[string]string{}
			for _, column := range row.Columns() {
				if text := row.Text(column); text != "" {
					said[column] = text
				}
			}
			rows = append(rows, said)
		}
		return rows
	}
	october := table("seller", "tax", "2026-10-01", "2026-10-31")
	var order []string
	for _, row := range october {
		order = append(order, row["ksef_number"])
	}
	if diff := cmp.Diff([]string{testNumber(1), testNumber(5), testNumber(6), testNumber(7), testNumber(8), testNumber(2)}, order); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	for i, want := range []map[string]string{
		{"standard_net_minor": "900.00", "standard_vat_minor": "207.00", "reduced1_net_minor": "100.00", "reduced1_vat_minor": "8.00", "vat_pln_minor": "215.00", "counterparty_id": "7123306158", "counterparty_name": "Pralnia Ekologiczna"},
		{"standard_net_minor": "11.00", "standard_vat_minor": "2.43", "exempt_net_minor": "0.07", "other_net_minor": "0.08", "other_vat_minor": "0.01", "vat_pln_minor": "2.44"},
		{"oss_net_minor": "10.00", "oss_vat_minor": "1.90", "standard_net_minor": "-1.00", "standard_vat_minor": "-0.23", "vat_pln_minor": "-0.23"},
		{"standard_net_minor": "1.00", "standard_vat_minor": "0.23", "vat_pln_minor": "0.99", "currency": "EUR", "gtu": "GTU_06,GTU_12"},
		{"net_minor": "1000.00", "gross_minor": "1230.00", "vat_pln_minor": "230.00", "parse_status": "error", "tax_date": "2026-10-20", "invoice_type": "Vat"},
	} {
		for column, value := range want {
			if october[i][column] != value {
				t.Errorf("%d: %s %q, want %q", i, column, october[i][column], value)
			}
		}
		for column, value := range october[i] {
			if base, ok := strings.CutSuffix(column, "_net_minor"); ok && want[column] == "" {
				t.Errorf("%d: %s %s is no rate of it", i, base, value)
			}
		}
	}
	if purchases := table("buyer", "tax", "2026-10-01", "2026-10-31"); len(purchases) != 1 || purchases[0]["counterparty_name"] != "Hurtownia Żaba sp. z o.o." || purchases[0]["counterparty_id"] != "5265877635" {
		t.Errorf("%v", purchases)
	}
	for _, c := range []struct {
		by, from, to string
		count        int
	}{{"issued", "2026-11-05", "2026-11-05", 7}, {"issued", "2026-10-20", "2026-10-20", 1}, {"received", "2026-10-21", "2026-10-21", 1}, {"received", "2026-11-01", "2026-11-30", 7}, {"tax", "2027-01-01", "2027-01-31", 0}} {
		if rows := table("seller", c.by, c.from, c.to); len(rows) != c.count {
			t.Errorf("%s from %s to %s: %d invoices, want %d", c.by, c.from, c.to, len(rows), c.count)
		}
	}
}

// All that is read of an invoice is among its details.
func TestDetails(t *testing.T) {
	d := newTest(t)
	in := testInvoice(1)
	long := strings.Repeat("Prosimy o terminową zapłatę. ", 5)
	in.Document.Notes = []parse.Note{{Kind: "footer", Position: 1, Value: long}, {Kind: "note", Position: 1, Key: "k", Value: "v"}}
	in.Document.References = []parse.Reference{{Relation: "corrects", Position: 1, Number: "FV/0"}}
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
	details, err := d.Details(t.Context(), testNumber(1))
	if err != nil {
		t.Fatal(err)
	}
	if details.Invoice.Text("gross") != "1230.01" || details.Invoice.Text("roles") != "seller" {
		t.Errorf("%v", details.Invoice)
	}
	// Every list that the documents can have is shown: a table added to the schema
	// must be too.
	named := map[string]string{"invoice_lines": "lines", "invoice_references": "references", "invoice_notes": "notes"}
	rows, err := d.read.Query(`SELECT s.name FROM sqlite_schema s JOIN pragma_table_info(s.name) c ON c.name = 'invoice_id' WHERE s.type = 'table' AND s.name NOT IN ('invoice_roles', 'documents')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		name := table
		if other := named[table]; other != "" {
			name = other
		}
		shown := value[int](t, d, "SELECT count(*) FROM "+table)
		if details.List(name) == nil || len(details.List(name)) != shown {
			t.Errorf("%s: %d rows of %d", table, len(details.List(name)), shown)
		}
		if !slices.ContainsFunc(clearLists[:], func(s string) bool { return s == fmt.Sprintf("DELETE FROM %s WHERE invoice_id = ?", table) }) {
			t.Errorf("%s is not cleared before it is read again", table)
		}
	}
	if note := details.List("notes")[0]; note.Text("value") != long {
		t.Errorf("%v", note)
	}
	if _, err := d.Details(t.Context(), "nobody's"); !errors.Is(err, ErrNotStored) {
		t.Error(err)
	}
}

// A month of a large mirror is found by its index, not by reading everything.
func TestMonthsAreFoundByIndex(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 3)})
	conditions, args := InvoiceFilter{Role: "seller", TaxFrom: "2026-11-01", TaxTo: "2026-11-30"}.where()
	conditions, args = append(conditions, beforeThis), append(args, "2026-11-22", 1, filesPage)
	queries := map[string][]any{selectList + " WHERE " + strings.Join(conditions, " AND ") + orderDated: args}
	for _, day := range registerDays {
		queries[strings.ReplaceAll(selectRegister, "DAY", day)] = []any{"seller", "2026-11-01", "2026-11-30"}
	}
	for query, args := range queries {
		rows, err := d.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(plan, func(step string) bool {
			return strings.HasPrefix(step, "SEARCH i USING INDEX invoices_") && strings.Contains(step, "_month")
		}) {
			t.Errorf("%s\n%s", query, strings.Join(plan, "\n"))
		}
	}
}

func TestNumberEnding(t *testing.T) {
	d := newTest(t)
	var invoices []Invoice
	for i, number := range []string{"5265877635-20261105-0100001AF629-88", "7123306158-20261105-0100001AF629-88", "7123306158-20261106-0100001AF629-88"} {
		in := testInvoice(i)
		in.KSeFNumber = number
		invoices = append(invoices, in)
	}
	commit(t, d, Batch{Role: "seller", Invoices: invoices})
	if number, err := d.NumberEnding(t.Context(), "20261106-0100001AF629-88"); err != nil || number != invoices[2].KSeFNumber {
		t.Errorf("%q, %v", number, err)
	}
	if _, err := d.NumberEnding(t.Context(), "20261107-0100001AF629-88"); !errors.Is(err, ErrNotStored) {
		t.Errorf("one that is not here: %v", err)
	}
	if number, err := d.NumberEnding(t.Context(), "20261105-0100001AF629-88"); err == nil || !strings.Contains(err.Error(), "2 invoices") {
		t.Errorf("%q of two, %v", number, err)
	}
}
