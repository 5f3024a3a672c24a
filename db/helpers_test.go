package db

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/parse"
)

var testMirror = Mirror{Environment: "test", ContextType: "nip", ContextValue: "5265877635", ID: "tree-1"}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testSettings(t testing.TB) settings {
	t.Helper()
	set, err := defaults()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// openTest opens the database at path and closes it when the test ends.
func openTest(t testing.TB, path string) *DB {
	t.Helper()
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func newTest(t testing.TB) *DB {
	t.Helper()
	return openTest(t, filepath.Join(t.TempDir(), "database", "invoices.db"))
}

func commit(t testing.TB, d *DB, b Batch) {
	t.Helper()
	if err := d.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func hashOf(xml []byte) string {
	sum := sha256.Sum256(xml)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// testNumber looks like a KSeF number; this package does not check them.
func testNumber(n int) string { return fmt.Sprintf("5265877635-20261105-%012X-AF", n) }

// testXML has the given number of lines, about 400 bytes each.
func testXML(n, lines int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?><Faktura xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/"><Fa><P_2>FV/%d/2026</P_2>`, n)
	for i := range lines {
		fmt.Fprintf(&b, `<FaWiersz><NrWierszaFa>%d</NrWierszaFa><P_7>Towar %d-%d</P_7><P_8A>szt.</P_8A><P_8B>%d</P_8B></FaWiersz>`, i+1, n, i, n%17)
	}
	b.WriteString(`</Fa></Faktura>`)
	return []byte(b.String())
}

// testInvoice is a readable invoice with five lines and two VAT rows.
func testInvoice(n int) Invoice {
	xml := testXML(n, 5)
	minor := func(v int64) parse.Minor { return parse.Minor{Value: v, Stated: true} }
	doc := &parse.Document{
		Form: "FA", FormCode: "FA (3)", FormVersion: "1-0E", Namespace: "http://crd.gov.pl/wzor/2025/06/25/13775/",
		InvoiceType: "VAT", InvoiceNumber: fmt.Sprintf("FV/%d/2026", n), IssueDate: "2026-11-05", IssuePlace: "Łódź",
		CreatedAt: "2026-11-05T10:11:12Z", SystemInfo: "Subiekt nexo PRO", SaleDate: "2026-11-04", TaxDate: "2026-11-04", Currency: "PLN",
		Gross: minor(123000 + int64(n)), Net: minor(100000 + int64(n)), VAT: minor(23000),
		PaymentStatus: "unpaid", PaymentMethod: "transfer", FirstDueDate: "2026-11-19", LastDueDate: "2026-11-19",
		Parties: []parse.Party{
			{Kind: "seller", Position: 1, IDType: "Nip", ID: "5265877635", NIP: "5265877635", Name: "Hurtownia Żaba sp. z o.o.", Country: "PL", Address1: "ul. Polna 1", Address2: "00-001 Warszawa"},
			{Kind: "buyer", Position: 1, IDType: "Nip", ID: "7123306158", NIP: "7123306158", Name: "Pralnia Ekologiczna", Country: "PL", Address1: "ul. Leśna 2", Address2: "20-209 Lublin"},
		},
		VATRows: []parse.VATRow{{Bucket: "standard", Net: minor(90000), VAT: minor(20700)}, {Bucket: "reduced1", Net: minor(10000), VAT: minor(800)}},
	}
	for i := range 5 {
		doc.Lines = append(doc.Lines, parse.Line{
			Kind: "line", Position: i + 1, Number: i + 1, Name: fmt.Sprintf("Towar %d-%d", n, i), Unit: "szt.", Quantity: "2", UnitPriceNet: "100",
			Net: minor(20000), VATRate: "23",
		})
	}
	return Invoice{
		KSeFNumber: testNumber(n), APIType: "Vat", InvoicingMode: "Online",
		InvoicingAt:  time.Date(2026, 11, 5, 12, 0, 0, 123456789, time.UTC),
		AcquiredAt:   time.Date(2026, 11, 5, 12, 0, 1, 0, time.UTC),
		StoredAt:     time.Date(2026, 11, 5, 12, 0, n%60, 0, time.UTC),
		ReceivedDate: "2026-11-05", Net: minor(100000), VATPLN: minor(23000), Gross: minor(123000),
		Hash: hashOf(xml), MetadataJSON: fmt.Appendf(nil, `{"ksefNumber":"%s"}`, testNumber(n)),
		SellerNIP: "5265877635", SellerName: "HURTOWNIA ŻABA", BuyerIDType: "Nip", BuyerID: "7123306158", BuyerName: "PRALNIA",
		InvoiceNumber: fmt.Sprintf("FV/%d/2026", n), IssueDate: "2026-11-05", Currency: "PLN", FormCode: "FA (3)",
		Document: doc, ParseStatus: "ok", Path: fmt.Sprintf("sales/2026/11/%s.xml", testNumber(n)), XML: xml, Role: "seller",
	}
}

func testInvoices(from, to int) []Invoice {
	var invoices []Invoice
	for n := from; n < to; n++ {
		invoices = append(invoices, testInvoice(n))
	}
	return invoices
}

// slow leaves a test out of the short run, which is the race detector's: what SQLite
// does is slow under it, and nothing that it could find.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out of the short run")
	}
}

// value gives the single value of a query.
func value[T any](t testing.TB, d *DB, query string, args ...any) T {
	t.Helper()
	var v T
	if err := d.read.QueryRowContext(context.Background(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}
