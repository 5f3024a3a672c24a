package db

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// fill gives every field of v a value of its own.
func fill(v reflect.Value, n *int64) {
	*n++
	switch {
	case v.Type() == reflect.TypeFor[parse.Minor]():
		v.Set(reflect.ValueOf(parse.Minor{Value: -*n, Stated: true}))
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case v.Kind() == reflect.Int:
		v.SetInt(*n)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	}
}

// wantColumns gives the columns that the fields of a struct must be in: named
// after the field, or as renamed says; "" for a field kept elsewhere.
func wantColumns(v reflect.Value, renamed map[string]string) map[string]any {
	want := map[string]any{}
	for i := range v.NumField() {
		name, listed := renamed[v.Type().Field(i).Name]
		if !listed {
			name = strings.ToLower(regexp.MustCompile(`([a-z0-9])([A-Z])`).ReplaceAllString(v.Type().Field(i).Name, "${1}_$2"))
		}
		if name == "" {
			continue
		}
		switch field := v.Field(i).Interface().(type) {
		case parse.Minor:
			want[name+"_minor"] = field.Value
		case string:
			want[name] = field
		case int:
			want[name] = int64(field)
		case bool:
			want[name] = int64(1)
		case *parse.Block:
			block, err := json.Marshal(field)
			if err != nil {
				panic(err)
			}
			want[name] = string(block)
		}
	}
	return want
}

// readRow gives the only row of a query by column.
func readRow(t *testing.T, d *DB, query string, args ...any) map[string]any {
	t.Helper()
	rows, err := d.read.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, targets := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		targets[i] = &values[i]
	}
	if !rows.Next() {
		t.Fatalf("%s: no row", query)
	}
	if err := rows.Scan(targets...); err != nil {
		t.Fatal(err)
	}
	row := map[string]any{}
	for i, name := range names {
		row[name] = values[i]
	}
	return row
}

// Every field of a document must reach its own column.
func TestCommitKeepsEveryField(t *testing.T) {
	d := newTest(t)
	in := testInvoice(1)
	var n int64 = 1000
	doc := &parse.Document{}
	fill(reflect.ValueOf(doc).Elem(), &n)
	doc.Notes[1].Value = strings.Repeat("ż", sharedText)
	doc.Parties[0].Kind, doc.Parties[1].Kind = "seller", "buyer"
	for i := range doc.Parties {
		doc.Parties[i].IDType, doc.Parties[i].NIP = "Nip", doc.Parties[i].ID
	}
	doc.Lines[0].Kind = "line"
	in.Document = doc
	in.CorrectedHash = hashOf([]byte("the offline invoice"))
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})

	compare := func(query string, want map[string]any) {
		t.Helper()
		got := readRow(t, d, query)
		for name, value := range got {
			if value == nil {
				t.Errorf("%s: column %s is NULL", query, name)
			}
		}
		for name, value := range want {
			if !reflect.DeepEqual(got[name], value) {
				t.Errorf("%s: column %s is %v, want %v", query, name, got[name], value)
			}
		}
	}
	seller, buyer := doc.Parties[0], doc.Parties[1]
	want := wantColumns(reflect.ValueOf(*doc), map[string]string{
		"Namespace": "xml_namespace", "VATPLN": "vat_pln", "VAT": "vat", "Parties": "", "Lines": "", "VATRows": "", "Warnings": "",
		"BuyerVATGroup": "buyer_vat_group", "PaymentKSeFID": "payment_ksef_id", "NetPLN": "net_pln", "GrossPLN": "gross_pln", "TaxCurrencyVAT": "tax_currency_vat",
	})
	for name, value := range map[string]any{
		"ksef_number": in.KSeFNumber, "api_invoice_type": "Vat", "invoicing_mode": "Online",
		"invoicing_at": "2026-11-05T12:00:00.1234567Z", "acquired_at": "2026-11-05T12:00:01.0000000Z", "stored_at": "2026-11-05T12:00:01.0000000Z",
		"received_date": "2026-11-05", "api_net_minor": int64(100000), "api_vat_pln_minor": int64(23000), "api_gross_minor": int64(123000),
		"invoice_hash": in.Hash, "corrected_offline_hash": in.CorrectedHash,
		"seller_nip": seller.NIP, "seller_name": seller.Name, "seller_country": seller.Country,
		"buyer_id_type": "Nip", "buyer_id": buyer.ID, "buyer_id_country": buyer.IDCountry, "buyer_nip": buyer.ID, "buyer_name": buyer.Name, "buyer_country": buyer.Country,
		"line_count": int64(1), "xml_path": in.Path, "parse_status": "ok", "parse_error": strings.Join(doc.Warnings, "\n"),
		"roles": "seller", "xml_size": int64(len(in.XML)),
	} {
		want[name] = value
	}
	compare("SELECT * FROM v_invoices", want)
	for listed, err := range d.Listed(t.Context(), "seller", in.StoredAt, in.StoredAt) {
		if err != nil || string(listed.MetadataJSON) != string(in.MetadataJSON) {
			t.Errorf("metadata %q, %v", listed.MetadataJSON, err)
		}
	}
	for i, party := range doc.Parties {
		want := wantColumns(reflect.ValueOf(party), map[string]string{"Kind": "party", "IDType": "id_type", "ID": "id_value", "IDCountry": "id_country", "GLN": "gln", "Contacts": ""})
		want["email"], want["phone"] = party.Contacts[0].Email, party.Contacts[0].Phone
		want["contacts_json"] = fmt.Sprintf(`[{"email":%q,"phone":%q},{"email":%q,"phone":%q}]`, party.Contacts[0].Email, party.Contacts[0].Phone, party.Contacts[1].Email, party.Contacts[1].Phone)
		compare(fmt.Sprintf("SELECT * FROM parties ORDER BY party DESC LIMIT 1 OFFSET %d", i), want)
	}
	for i, line := range doc.Lines {
		renamed := map[string]string{"Number": "line_number", "UID": "line_uid", "PKWiU": "pkwiu", "VATRate": "vat_rate", "OSSRate": "oss_rate"}
		want := wantColumns(reflect.ValueOf(line), renamed)
		compare(fmt.Sprintf("SELECT * FROM invoice_lines ORDER BY position LIMIT 1 OFFSET %d", i), want)
		compare(fmt.Sprintf("SELECT * FROM v_lines ORDER BY position LIMIT 1 OFFSET %d", i), want)
	}
	for i, row := range doc.VATRows {
		want := wantColumns(reflect.ValueOf(row), map[string]string{"VAT": "vat", "VATPLN": "vat_pln"})
		compare(fmt.Sprintf("SELECT * FROM vat_summary ORDER BY bucket LIMIT 1 OFFSET %d", i), want)
	}
	for table, list := range map[string]any{
		"invoice_references": doc.References, "correction_states": doc.CorrectionStates, "payments": doc.Payments, "due_dates": doc.DueDates,
		"bank_accounts": doc.Accounts, "adjustments": doc.Adjustments, "related_documents": doc.RelatedDocuments, "transports": doc.Transports,
		"invoice_notes": doc.Notes, "attachments": doc.Attachments,
	} {
		renamed := map[string]string{
			"KSeFNumber": "ksef_number", "OutsideKSeF": "outside_ksef", "TaxCurrencyVAT": "tax_currency_vat", "SWIFT": "swift", "MIME": "mime", "SHA256": "sha256", "URI": "uri", "Block": "content_json",
		}
		switch table {
		case "bank_accounts":
			renamed["Number"] = "account"
		case "adjustments":
			renamed["Line"] = "line_position"
		case "invoice_notes":
			renamed["Line"] = "line_number"
		case "transports":
			renamed["From"], renamed["Via"], renamed["To"] = "from_address", "via_address", "to_address"
		}
		key := "position"
		if table == "correction_states" {
			key = "bucket"
		}
		query := "SELECT * FROM " + table
		if table == "invoice_references" {
			query = "SELECT invoice_id, relation, position, ksef_number, number, issue_date, outside_ksef FROM invoice_references" // target_id is not read, but found
		}
		if table == "invoice_notes" {
			query = "SELECT kind, position, line_number, key, coalesce(n.value, t.value) AS value FROM invoice_notes n LEFT JOIN texts t ON t.id = n.text_id"
		}
		rows := reflect.ValueOf(list)
		for i := range rows.Len() {
			compare(fmt.Sprintf("%s ORDER BY %s LIMIT 1 OFFSET %d", query, key, i), wantColumns(rows.Index(i), renamed))
		}
	}
}

// The NIP of a party follows from its identifier.
func TestNIPOfParties(t *testing.T) {
	d := newTest(t)
	in := testInvoice(0)
	for i, p := range []parse.Party{{IDType: "InternalId", ID: "5265877635-12345"}, {IDType: "InternalId", ID: "12345"}, {IDType: "VatUe", ID: "5265877635", IDCountry: "DE"}} {
		p.Kind, p.Position = "third", i+1
		in.Document.Parties = append(in.Document.Parties, p)
	}
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
	if got := value[string](t, d, "SELECT group_concat(party || coalesce(nip, '-'), ' ') FROM (SELECT * FROM parties ORDER BY party, position)"); got != "buyer7123306158 seller5265877635 third5265877635 third- third-" {
		t.Error(got)
	}
}

// The namespace of a form is in the view without being in the row; another is in both.
func TestNamespaces(t *testing.T) {
	d := newTest(t)
	for i, code := range []string{"FA (3)", "FA (2)", "FA (1)", "FA_RR (1)", "PEF (3)", "PEF_KOR (3)", "FA (4)"} {
		for j, namespace := range []string{parse.NamespaceOf(code), "urn:of-a-draft"} {
			in := testInvoice(2*i + j)
			in.Document.FormCode, in.Document.Namespace = code, namespace
			commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
			var want any = namespace
			if namespace == "" {
				want = nil
			}
			if got := value[any](t, d, "SELECT xml_namespace FROM v_invoices WHERE ksef_number = ?", in.KSeFNumber); got != want {
				t.Errorf("%s: %v, want %v", code, got, want)
			}
		}
	}
	if n := value[int](t, d, "SELECT count(xml_namespace) FROM invoices"); n != 7 {
		t.Errorf("%d rows have a namespace of their own", n)
	}
}

func TestDueDates(t *testing.T) {
	slow(t)
	for _, test := range []struct {
		name, first, last string
		terms             []parse.DueDate
		rows              int
	}{
		{"one date", "2026-11-19", "2026-11-19", []parse.DueDate{{Position: 1, Date: "2026-11-19"}}, 0},
		{"one date twice", "2026-11-19", "2026-11-19", []parse.DueDate{{Position: 1, Date: "2026-11-19"}, {Position: 2, Date: "2026-11-19"}}, 0},
		{"two dates", "2026-11-19", "2026-12-19", []parse.DueDate{{Position: 1, Date: "2026-11-19"}, {Position: 2, Date: "2026-12-19"}}, 2},
		{"a date described", "2026-11-19", "2026-11-19", []parse.DueDate{{Position: 1, Date: "2026-11-19", Description: "half"}}, 1},
		{"a description", "", "", []parse.DueDate{{Position: 1, Description: "14 days from delivery"}}, 1},
		{"nothing", "", "", nil, 0},
	} {
		d := newTest(t)
		in := testInvoice(0)
		in.Document.FirstDueDate, in.Document.LastDueDate, in.Document.DueDates = test.first, test.last, test.terms
		commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
		if rows := value[int](t, d, "SELECT count(*) FROM due_dates"); rows != test.rows {
			t.Errorf("%s: %d rows, want %d", test.name, rows, test.rows)
		}
	}
}

// Long texts are kept once, and two of them never under one key.
func TestTexts(t *testing.T) {
	d := newTest(t)
	footer, other := strings.Repeat("a", sharedText), strings.Repeat("b", sharedText)
	invoices := testInvoices(0, 3)
	for i := range invoices {
		invoices[i].Document.Notes = []parse.Note{{Kind: "footer", Position: 1, Value: footer}, {Kind: "note", Position: 1, Value: footer[1:]}}
	}
	commit(t, d, Batch{Role: "seller", Invoices: invoices})
	if n := value[int](t, d, "SELECT count(*) FROM texts"); n != 1 {
		t.Errorf("%d texts", n)
	}
	if _, err := d.write.Exec("INSERT INTO texts(id, value) VALUES(?, ?)", textID(other), "of another text, with the same key"); err != nil {
		t.Fatal(err)
	}
	in := testInvoice(3)
	in.Document.Notes = []parse.Note{{Kind: "footer", Position: 1, Value: other}}
	again := testInvoice(4)
	again.Document.Notes = in.Document.Notes
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in, again}})
	if n := value[int](t, d, "SELECT count(*) FROM invoices WHERE parse_status = 'error'"); n != 2 {
		t.Errorf("%d invoices got the text of another", 2-n)
	}
	if n := value[int](t, d, "SELECT count(*) FROM texts WHERE value = 'of another text, with the same key'"); n != 1 {
		t.Error("the earlier text was replaced")
	}
}

// Accounts are written in many ways; they are compared in one.
func TestAccountNorm(t *testing.T) {
	d := newTest(t)
	in := testInvoice(1)
	var want []string
	for account, norm := range map[string]string{
		"61109010140000071219812874":        "PL61109010140000071219812874",
		"61 1090 1014 0000 0712 1981 2874":  "PL61109010140000071219812874",
		"pl61 10901014 0000071219812874":    "PL61109010140000071219812874",
		"DE02 1203 0000 0000 2020 51":       "DE02120300000000202051",
		"6110901014000007121981287":         "6110901014000007121981287",
		"AB109010140000071219812874":        "AB109010140000071219812874",
		"6110901014-0000-07121981287":       "6110901014-0000-07121981287",
		"611090101400000712198128741234567": "611090101400000712198128741234567",
	} {
		want = append(want, norm)
		in.Document.Accounts = append(in.Document.Accounts, parse.Account{Owner: "seller", Position: len(want), Number: account})
	}
	in.Document.Accounts = append(in.Document.Accounts, parse.Account{Owner: "factor", Position: 1})
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
	for i, norm := range want {
		if got := value[string](t, d, "SELECT account_norm FROM bank_accounts WHERE owner = 'seller' AND position = ?", i+1); got != norm {
			t.Errorf("%s, want %s", got, norm)
		}
	}
	if got := value[any](t, d, "SELECT account_norm FROM bank_accounts WHERE owner = 'factor'"); got != nil {
		t.Errorf("an account that is not stated is %v", got)
	}
}

func TestCommitIsRepeatable(t *testing.T) {
	d := newTest(t)
	first := Batch{Role: "seller", Invoices: testInvoices(0, 3), Watermark: "2026-11-05T12:00:02.5+01:00", Position: "p", HWM: "h"}
	commit(t, d, first)
	commit(t, d, first)
	other := testInvoice(1)
	other.Role, other.Path = "buyer", "purchases/elsewhere.xml"
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{other}, Seen: []string{testNumber(2)}})

	known, err := d.Known(t.Context(), []string{testNumber(0), testNumber(1), testNumber(2), testNumber(3), "'; DROP TABLE invoices"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Known{}
	for n, roles := range [][]string{{"seller"}, {"buyer", "seller"}, {"buyer", "seller"}} {
		in := testInvoice(n)
		want[in.KSeFNumber] = Known{Hash: in.Hash, Path: in.Path, Roles: roles}
	}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Error(diff)
	}
	counts, err := d.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Counts{Invoices: 3, ByRole: map[string]int{"seller": 3, "buyer": 2}}, counts); diff != "" {
		t.Error(diff)
	}
	if lines := value[int](t, d, "SELECT count(*) FROM invoice_lines"); lines != 15 {
		t.Errorf("%d lines, want 15", lines)
	}
	streams, err := d.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A batch without a watermark leaves what is there, and makes no stream.
	if diff := cmp.Diff([]Stream{{Role: "seller", Watermark: first.Watermark, Position: "p", HWM: "h"}}, streams); diff != "" {
		t.Error(diff)
	}
}

func TestCommitRefusesAndStoresNothing(t *testing.T) {
	slow(t)
	changed := testInvoice(0)
	changed.XML = []byte("<Faktura>changed</Faktura>")
	changed.Hash = hashOf(changed.XML)
	damaged := testInvoice(5)
	damaged.XML = append([]byte(" "), damaged.XML...)
	for _, test := range []struct {
		name, want string
		batch      Batch
	}{
		{"another hash", "is stored with hash", Batch{Invoices: []Invoice{testInvoice(4), changed}}},
		{"XML without the stated hash", "the SHA-256 of its XML is", Batch{Invoices: []Invoice{testInvoice(4), damaged}}},
		{"seen and not stored", "not in the database", Batch{Invoices: testInvoices(4, 5), Seen: []string{testNumber(9)}}},
		{"released and not stored", "not in the database", Batch{Invoices: testInvoices(4, 5), Released: []Release{{testNumber(9), testNumber(9)}}}},
		{"unknown role", "CHECK constraint", Batch{Role: "bystander", Invoices: testInvoices(4, 5), Seen: []string{testNumber(0)}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newTest(t)
			commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 1), Watermark: "before"})
			if test.batch.Role == "" {
				test.batch.Role = "seller"
			}
			test.batch.Watermark = "after"
			test.batch.Quarantined = []Quarantined{{KSeFNumber: testNumber(8), Reason: "r"}}
			err := d.Commit(t.Context(), test.batch)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			counts, err := d.Counts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if counts.Invoices != 1 || counts.Quarantined != 0 {
				t.Errorf("something was committed: %+v", counts)
			}
			if w := value[string](t, d, "SELECT watermark FROM streams"); w != "before" {
				t.Errorf("watermark %q moved", w)
			}
			// The database goes on working.
			commit(t, d, Batch{Role: "seller", Invoices: testInvoices(4, 5)})
		})
	}
}

// A statement that fails after the rows, at the watermark itself, must take the
// rows back; one that fails at a row must leave the watermark.
func TestCommitIsAtomic(t *testing.T) {
	slow(t)
	for _, table := range []string{"invoices", "documents", "invoice_roles", "quarantine", "streams"} {
		t.Run(table, func(t *testing.T) {
			d := newTest(t)
			if _, err := d.write.Exec("CREATE TRIGGER fail BEFORE INSERT ON " + table + " BEGIN SELECT RAISE(ABORT, 'power cut'); END"); err != nil {
				t.Fatal(err)
			}
			err := d.Commit(t.Context(), Batch{Role: "seller", Invoices: testInvoices(0, 3), Watermark: "w", Quarantined: []Quarantined{{KSeFNumber: "x", Reason: "r"}}})
			if err == nil {
				t.Fatal("no error")
			}
			for _, table := range []string{"invoices", "documents", "invoice_roles", "invoice_lines", "quarantine", "streams"} {
				if n := value[int](t, d, "SELECT count(*) FROM "+table); n != 0 {
					t.Errorf("%d rows in %s", n, table)
				}
			}
		})
	}
}

func TestUnreadDocuments(t *testing.T) {
	duplicate := testInvoice(3)
	duplicate.Document.DueDates = []parse.DueDate{{Position: 1, Description: "14 days"}}
	duplicate.Document.VATRows[1] = duplicate.Document.VATRows[0] // as a faulty reader might give
	unsupported := testInvoice(1)
	unsupported.ParseStatus = "unsupported"
	unsupported.Document = &parse.Document{Form: "PEF", Namespace: "urn:x", Gross: parse.Minor{Value: 5, Stated: true}}
	broken := testInvoice(2)
	broken.ParseStatus, broken.ParseError, broken.Document = "error", "no root element", nil
	broken.BuyerIDType, broken.BuyerID = "VatUe", "DE123"

	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{unsupported, broken, duplicate}})
	for _, test := range []struct {
		in                            Invoice
		form, status, reason, buyerID string
		buyerNIP                      any
	}{
		{unsupported, "PEF", "unsupported", "", "7123306158", "7123306158"},
		{broken, "UNKNOWN", "error", "no root element", "DE123", nil},
		{duplicate, "FA", "error", "do not fit the database", "7123306158", "7123306158"},
	} {
		row := readRow(t, d, "SELECT * FROM v_invoices WHERE ksef_number = ?", test.in.KSeFNumber)
		for name, want := range map[string]any{
			"form": test.form, "parse_status": test.status, "buyer_id": test.buyerID, "buyer_nip": test.buyerNIP, "roles": "seller",
			"gross_minor": nil, "gross": nil, "net": nil, "vat": nil, "split_payment": nil, "invoice_type": nil, "line_count": int64(0),
			"api_gross_minor": int64(123000), "seller_nip": test.in.SellerNIP, "seller_name": test.in.SellerName, "buyer_name": test.in.BuyerName,
			"invoice_number": test.in.InvoiceNumber, "issue_date": test.in.IssueDate, "currency": "PLN", "form_code": "FA (3)",
		} {
			if !reflect.DeepEqual(row[name], want) {
				t.Errorf("%s: column %s is %v, want %v", test.in.KSeFNumber, name, row[name], want)
			}
		}
		if reason, _ := row["parse_error"].(string); !strings.Contains(reason, test.reason) {
			t.Errorf("parse_error %q lacks %q", reason, test.reason)
		}
		if xml, err := d.Document(t.Context(), test.in.KSeFNumber); err != nil || string(xml) != string(test.in.XML) {
			t.Errorf("document: %v", err)
		}
	}
	for _, table := range []string{"parties", "invoice_lines", "vat_summary", "due_dates", "bank_accounts", "invoice_notes"} {
		if n := value[int](t, d, "SELECT count(*) FROM "+table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
	counts, err := d.Counts(t.Context())
	if err != nil || counts.Unparsed != 3 || counts.Invoices != 3 {
		t.Errorf("counts %+v, %v", counts, err)
	}
}

func TestViewsWriteDecimals(t *testing.T) {
	d := newTest(t)
	for i, test := range []struct {
		amount parse.Minor
		want   any
	}{
		{parse.Minor{}, nil},
		{parse.Minor{Stated: true}, "0.00"},
		{parse.Minor{Value: 7, Stated: true}, "0.07"},
		{parse.Minor{Value: -7, Stated: true}, "-0.07"},
		{parse.Minor{Value: 205100, Stated: true}, "2051.00"},
		{parse.Minor{Value: -16260, Stated: true}, "-162.60"},
		{parse.Minor{Value: 999999999999999999, Stated: true}, "9999999999999999.99"},
	} {
		in := testInvoice(i)
		in.Document.Gross, in.Document.Net, in.Document.VAT = test.amount, test.amount, test.amount
		in.Document.Lines[0].Gross, in.Document.Lines[0].Net, in.Document.Lines[0].VAT = test.amount, test.amount, test.amount
		commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
		for _, view := range []string{"v_invoices", "v_lines"} {
			row := readRow(t, d, "SELECT gross, net, vat FROM "+view+" WHERE ksef_number = ? LIMIT 1", in.KSeFNumber)
			for name, got := range row {
				if got != test.want {
					t.Errorf("%s.%s of %+v is %v, want %v", view, name, test.amount, got, test.want)
				}
			}
		}
	}
}

func TestQuarantine(t *testing.T) {
	d := newTest(t)
	held := Quarantined{KSeFNumber: testNumber(0), Hash: testInvoice(0).Hash, Role: "seller", Reason: "not served", StoredAt: "2026-11-05T12:00:00+00:00",
		LastTriedAt: time.Date(2026, 11, 5, 13, 0, 0, 100, time.UTC), Holds: true}
	alarm := held
	alarm.Hash, alarm.Holds, alarm.Reason = "another", false, "changed"
	other := held
	other.Role = "buyer"
	commit(t, d, Batch{Role: "seller", Quarantined: []Quarantined{held, alarm}})
	commit(t, d, Batch{Role: "buyer", Quarantined: []Quarantined{other}})
	held.Reason, held.Path, held.LastTriedAt = "wrong hash", "x.xml", held.LastTriedAt.Add(time.Hour)
	commit(t, d, Batch{Role: "seller", Quarantined: []Quarantined{held}}) // tried again

	check := func(want ...Quarantined) {
		t.Helper()
		open, err := d.OpenQuarantine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, open); diff != "" {
			t.Error(diff)
		}
	}
	check(held, alarm, other)
	// Only this role's wait is over; an alarm is for people to end.
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 1), Released: []Release{{testNumber(0), testNumber(0)}}})
	check(alarm, other)
	for _, hash := range []string{held.Hash, "another", "never"} {
		is, err := d.IsQuarantined(t.Context(), testNumber(0), hash)
		if err != nil || is != (hash != "never") {
			t.Errorf("IsQuarantined(%s) = %v, %v", hash, is, err)
		}
	}
	// What waited need not be one invoice.
	whole := Quarantined{KSeFNumber: "all of an instant", Role: "seller", Holds: true, LastTriedAt: held.LastTriedAt}
	commit(t, d, Batch{Role: "seller", Quarantined: []Quarantined{whole}})
	check(alarm, other, whole)
	commit(t, d, Batch{Role: "seller", Released: []Release{{Quarantined: whole.KSeFNumber}}})
	check(alarm, other)
	// Something else is wrong later: it is open again.
	commit(t, d, Batch{Role: "seller", Quarantined: []Quarantined{held}})
	check(held, alarm, other)
}

func TestFiles(t *testing.T) {
	slow(t)
	d := newTest(t)
	const total = 2*filesPage + 3
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, total)})
	n := 0
	for file, err := range d.Files(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		in := testInvoice(n)
		if file.KSeFNumber != in.KSeFNumber || file.Path != in.Path || file.Size != int64(len(in.XML)) {
			t.Fatalf("file %d is %+v", n, file)
		}
		if xml, err := d.Document(t.Context(), file.KSeFNumber); err != nil || hashOf(xml) != in.Hash {
			t.Fatalf("document %d: %v", n, err)
		}
		n++
	}
	if n != total {
		t.Errorf("%d files, want %d", n, total)
	}
	for range d.Files(t.Context()) {
		break // no more is asked for
	}
	if _, err := d.write.Exec("UPDATE documents SET sha256 = x'00' WHERE invoice_id = 5"); err != nil {
		t.Fatal(err)
	}
	var failure error
	for _, err := range d.Files(t.Context()) {
		failure = err
	}
	if failure == nil || !strings.Contains(failure.Error(), testNumber(4)) {
		t.Errorf("error %v does not name the invoice", failure)
	}
}

func TestStreamsAndRuns(t *testing.T) {
	d := newTest(t)
	start := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	run := func(at time.Time, problem string) {
		t.Helper()
		err := d.RecordRun(t.Context(), Run{Role: "buyer", Route: "metadata", Started: at.Add(-time.Minute), Finished: at, From: "a", To: "b", Listed: 1, Added: 2, Known: 3, Waiting: 4, Requests: 5, Err: problem})
		if err != nil {
			t.Fatal(err)
		}
	}
	run(start, "")
	commit(t, d, Batch{Role: "buyer", HWM: "h"})
	run(start.Add(89*24*time.Hour), "")
	run(start.Add(91*24*time.Hour), "KSeF did not answer")
	streams, err := d.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Stream{{Role: "buyer", HWM: "h", LastRunAt: start.Add(91 * 24 * time.Hour), LastSuccessAt: start.Add(89 * 24 * time.Hour), LastError: "KSeF did not answer"}}
	if diff := cmp.Diff(want, streams); diff != "" {
		t.Error(diff)
	}
	if n := value[int](t, d, "SELECT count(*) FROM runs"); n != 2 {
		t.Errorf("%d runs are kept, want 2", n)
	}
	run(start.Add(92*24*time.Hour), "")
	if streams, err = d.Streams(t.Context()); err != nil || streams[0].LastError != "" {
		t.Errorf("a success leaves %+v, %v", streams, err)
	}
}

func TestRequests(t *testing.T) {
	d := newTest(t)
	now := time.UnixMilli(1_793_000_000_123)
	start := func(at time.Time) int64 {
		t.Helper()
		id, err := d.StartRequest(t.Context(), "query", 0, nil, func([]Request, map[string]time.Time) time.Time { return at })
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	end := func(id int64, at time.Time) {
		t.Helper()
		if err := d.EndRequest(t.Context(), id, at); err != nil {
			t.Fatal(err)
		}
	}
	ancient, old, recent := start(now.Add(-8*24*time.Hour)), start(now.Add(-2*time.Hour)), start(now.Add(-61*time.Minute))
	open := start(now)
	end(ancient, now.Add(-8*24*time.Hour))
	end(old, now.Add(-2*time.Hour))
	end(recent, now.Add(-59*time.Minute))
	requests, err := d.Requests(t.Context(), now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := []Request{
		{ID: recent, Group: "query", Start: now.Add(-61 * time.Minute), End: now.Add(-59 * time.Minute)},
		{ID: open, Group: "query", Start: now},
	}
	if diff := cmp.Diff(want, requests); diff != "" {
		t.Error(diff)
	}
	if err := d.RecordRun(t.Context(), Run{Role: "seller", Started: now, Finished: now}); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, d, "SELECT count(*) FROM requests"); n != 3 {
		t.Errorf("%d requests are kept, want 3", n)
	}
	for _, until := range []time.Time{now, now.Add(time.Hour), now.Add(time.Minute)} {
		if err := d.BlockGroup(t.Context(), "export", until); err != nil {
			t.Fatal(err)
		}
	}
	blocks, err := d.Blocks(t.Context())
	if diff := cmp.Diff(map[string]time.Time{"export": now.Add(time.Hour)}, blocks); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// What admit is told, and that nothing is recorded unless it agrees.
func TestStartRequestTellsAdmit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database", "invoices.db")
	one, other := openTest(t, path), openTest(t, path)
	now := time.UnixMilli(1_793_000_000_123)
	start := func(d *DB, after int64, open []int64, at time.Time) (id int64, told []int64) {
		t.Helper()
		id, err := d.StartRequest(t.Context(), "query", after, open, func(recorded []Request, blocks map[string]time.Time) time.Time {
			told = nil
			for _, r := range recorded {
				told = append(told, r.ID)
			}
			if !blocks["export"].Equal(now) {
				t.Errorf("told of blocks %v", blocks)
			}
			return at
		})
		if err != nil {
			t.Fatal(err)
		}
		return id, told
	}
	if err := other.BlockGroup(t.Context(), "export", now); err != nil {
		t.Fatal(err)
	}
	first, _ := start(one, 0, nil, now)
	second, told := start(other, 0, nil, now)
	if diff := cmp.Diff([]int64{first}, told); diff != "" {
		t.Error(diff)
	}
	third, told := start(other, second, []int64{first}, now)
	if diff := cmp.Diff([]int64{first}, told); diff != "" {
		t.Error(diff)
	}
	if id, told := start(one, first, nil, time.Time{}); id != 0 || !slices.Equal(told, []int64{second, third}) {
		t.Errorf("id %d of a request that was not admitted, told of %v", id, told)
	}
	if n := value[int](t, one, "SELECT count(*) FROM requests"); n != 3 {
		t.Errorf("%d requests are recorded, want 3", n)
	}
	// Old requests go, but no id is ever given twice.
	if err := one.RecordRun(t.Context(), Run{Role: "seller", Started: now, Finished: now.Add(30 * 24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if id, told := start(one, third, nil, now); id <= third || len(told) != 0 {
		t.Errorf("id %d after %d, told of %v", id, third, told)
	}
	if n := value[int](t, one, "SELECT count(*) FROM requests"); n != 2 {
		t.Errorf("%d requests are kept, want 2", n)
	}
}

func TestListed(t *testing.T) {
	slow(t)
	d := newTest(t)
	at := func(n int) time.Time { return time.Date(2026, 11, 5, 12, 0, n, 0, time.UTC) }
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 30)})
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(3), testNumber(20)}})
	list := func(role string, from, to time.Time) (numbers []string) {
		t.Helper()
		for one, err := range d.Listed(t.Context(), role, from, to) {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(one.MetadataJSON), one.KSeFNumber) {
				t.Errorf("metadata of %s: %s", one.KSeFNumber, one.MetadataJSON)
			}
			numbers = append(numbers, one.KSeFNumber)
		}
		return numbers
	}
	if got := list("seller", at(10), at(12)); !slices.Equal(got, []string{testNumber(10), testNumber(11), testNumber(12)}) {
		t.Errorf("both ends belong to it: %v", got)
	}
	if got := list("buyer", at(0), at(59)); !slices.Equal(got, []string{testNumber(3), testNumber(20)}) {
		t.Errorf("one role: %v", got)
	}
	if got := list("seller", at(10).Add(100), at(10).Add(200)); len(got) != 0 {
		t.Errorf("between two: %v", got)
	}
	// More than a page of one instant.
	var same []Invoice
	for n := 100; n < 100+2*filesPage+5; n++ {
		invoice := testInvoice(n)
		invoice.StoredAt, invoice.Role = at(40), "third_party"
		same = append(same, invoice)
	}
	commit(t, d, Batch{Role: "third_party", Invoices: same})
	if got := list("third_party", at(40), at(40)); len(slices.Compact(got)) != len(same) {
		t.Errorf("%d of %d at one instant", len(got), len(same))
	}
}

func TestDocumentOfUnknownInvoice(t *testing.T) {
	if _, err := newTest(t).Document(t.Context(), testNumber(1)); !errors.Is(err, ErrNotStored) {
		t.Errorf("error %v, want ErrNotStored", err)
	}
}

func TestLimits(t *testing.T) {
	d := newTest(t)
	for _, want := range []string{"", `{"a":1}`, `{"b":2}`} {
		if want != "" {
			if err := d.SaveLimits(t.Context(), want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := d.Limits(t.Context()); err != nil || got != want {
			t.Errorf("limits %q, want %q, %v", got, want, err)
		}
	}
}

// A role is idle from its first run for as long as KSeF has listed nothing for it.
func TestIdleSince(t *testing.T) {
	slow(t)
	at := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	for name, test := range map[string]struct {
		listed []int // by run
		stored bool  // an invoice, by a first run that was cut short
		want   time.Time
	}{
		"once empty":             {listed: []int{0}, want: at},
		"always empty":           {listed: []int{0, 0, 0}, want: at},
		"not empty":              {listed: []int{1}},
		"empty at first":         {listed: []int{0, 1}},
		"empty again":            {listed: []int{0, 1, 0}},
		"stored before it ended": {listed: []int{0}, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTest(t)
			b := Batch{Role: "seller", Position: "p", Watermark: "p"}
			if test.stored {
				b.Invoices = testInvoices(0, 1)
			}
			commit(t, d, b)
			for i, listed := range test.listed {
				now := at.Add(time.Duration(i) * time.Hour)
				if err := d.RecordRun(t.Context(), Run{Role: "seller", Started: now, Finished: now, Listed: listed, Reason: "why"}); err != nil {
					t.Fatal(err)
				}
			}
			streams, err := d.Streams(t.Context())
			if err != nil || len(streams) != 1 || !streams[0].IdleSince.Equal(test.want) || streams[0].Reason != "why" {
				t.Errorf("%+v, %v, want idle since %s", streams, err, test.want)
			}
		})
	}
}
