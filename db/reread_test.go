package db

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// readings gives all that the database holds of its invoices, by table, but for
// the keys that SQLite gives and the moments at which something was written.
func readings(t testing.TB, d *DB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range []string{
		"invoices", "invoice_roles", "documents", "parties", "invoice_lines", "vat_summary", "invoice_references", "correction_states", "payments",
		"due_dates", "bank_accounts", "adjustments", "related_documents", "transports", "invoice_notes", "attachments", "streams",
	} {
		rows, err := d.read.Query("SELECT * FROM " + table + " ORDER BY 1, 2, 3")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				t.Fatal(err)
			}
			var line strings.Builder
			for i, name := range columns {
				if name == "updated_at" || name == "id" && table != "invoices" {
					continue
				}
				fmt.Fprintf(&line, "%s=%v ", name, values[i])
			}
			all[table] = append(all[table], line.String())
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(all[table])
	}
	return all
}

// write changes the database behind the program's back.
func write(t testing.TB, d *DB, statement string, args ...any) {
	t.Helper()
	err := d.transaction(t.Context(), "test", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// forget leaves of invoices what an older reader would have left: less, and other.
func forget(t testing.TB, d *DB, where string) {
	t.Helper()
	write(t, d, "UPDATE invoices SET parser_version = 1, gross_minor = NULL, seller_name = 'nobody', payment_status = NULL WHERE "+where)
	write(t, d, "UPDATE invoice_lines SET name = 'as it was read before' WHERE invoice_id IN (SELECT id FROM invoices WHERE "+where+")")
	for _, statement := range clearLists {
		if strings.Contains(statement, "invoice_lines") {
			continue
		}
		write(t, d, strings.Replace(statement, "invoice_id = ?", "invoice_id IN (SELECT id FROM invoices WHERE "+where+")", 1))
	}
}

// What is read again equals what is read at first, and nothing else changes.
func TestReread(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 9), Watermark: "w", Position: "p", HWM: "h"})
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(3)}})
	want := readings(t, d)
	forget(t, d, "id <= 7")
	if cmp.Equal(want, readings(t, d)) {
		t.Fatal("nothing was forgotten")
	}
	if n, err := d.CountOutdated(t.Context()); n != 7 || err != nil {
		t.Fatalf("%d outdated, %v", n, err)
	}
	var place OutdatedPlace
	for seen := 0; ; seen++ {
		page, err := d.Outdated(t.Context(), place, 2, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			if seen != 4 {
				t.Errorf("%d pages", seen)
			}
			break
		}
		var again []Invoice
		for _, one := range page {
			var n int
			if _, err := fmt.Sscanf(one.KSeFNumber, "5265877635-20261105-%X-AF", &n); err != nil {
				t.Fatal(err)
			}
			in := testInvoice(n)
			if one.Err != nil || string(one.XML) != string(in.XML) || string(one.MetadataJSON) != string(in.MetadataJSON) || one.Path != in.Path {
				t.Errorf("%+v", one)
			}
			in.Path, in.Hash, in.MetadataJSON, in.Role = "elsewhere.xml", "other", nil, "authorized" // not what is read
			again = append(again, in)
			place = one.Place
		}
		if kept, err := d.Reread(t.Context(), again); err != nil || kept != nil {
			t.Fatalf("kept %v, %v", kept, err)
		}
	}
	if diff := cmp.Diff(want, readings(t, d)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}

// What an earlier reader could read is not lost because a later one cannot, or
// gives what does not fit the database.
func TestRereadKeepsWhatWasRead(t *testing.T) {
	d := newTest(t)
	unreadable := testInvoice(2)
	unreadable.ParseStatus, unreadable.ParseError = "error", "broken"
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{testInvoice(0), testInvoice(1), unreadable, testInvoice(3)}})
	if err := d.Outdate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := readings(t, d)

	worse, misfit := testInvoice(0), testInvoice(1)
	worse.ParseStatus, worse.ParseError = "error", "too deep"
	misfit.Document.VATRows = append(misfit.Document.VATRows, misfit.Document.VATRows[0]) // the key is there twice
	misfit.Document.InvoiceNumber = "half of a reading"
	better, misfitting := testInvoice(2), testInvoice(3)
	misfitting.ParseStatus = "unsupported"
	kept, err := d.Reread(t.Context(), []Invoice{worse, misfit, better, misfitting})
	if err != nil || !cmp.Equal(kept, []string{testNumber(0), testNumber(1), testNumber(3)}) {
		t.Fatalf("kept %v, %v", kept, err)
	}
	for n, reason := range map[int]string{0: "is kept: too deep", 1: "is kept: the fields that were read do not fit", 3: "is kept: unsupported"} {
		if got := value[string](t, d, "SELECT parse_error FROM invoices WHERE ksef_number = ?", testNumber(n)); !strings.Contains(got, reason) {
			t.Errorf("%d: %s", n, got)
		}
	}
	if got := value[string](t, d, "SELECT parse_status FROM invoices WHERE ksef_number = ?", testNumber(2)); got != "ok" {
		t.Errorf("the one that can be read now is %s", got)
	}
	write(t, d, "UPDATE invoices SET parser_version = 0, parse_error = NULL")
	write(t, d, "DELETE FROM invoices WHERE ksef_number = ?", testNumber(2))
	after := readings(t, d)
	for table, rows := range after {
		for _, row := range rows {
			if !strings.Contains(strings.Join(before[table], "\n"), row) {
				t.Errorf("%s changed: %s", table, row)
			}
		}
	}
	if n, err := d.CountOutdated(t.Context()); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := d.Reread(t.Context(), []Invoice{testInvoice(77)}); err == nil {
		t.Error("an unknown invoice was read again")
	}
}

// A copy that was damaged on disk is named, and does not keep the others from being
// read; a large document does not share a page.
func TestOutdatedPages(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 4)})
	write(t, d, "UPDATE documents SET sha256 = zeroblob(32) WHERE invoice_id = 2")
	if err := d.Outdate(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := len(testInvoice(0).XML)
	page, err := d.Outdated(t.Context(), OutdatedPlace{}, 10, 2*size+size/2)
	if err != nil || len(page) != 2 || page[0].Err != nil || page[1].Err == nil || page[1].XML != nil {
		t.Fatalf("%d, %v", len(page), err)
	}
	page, err = d.Outdated(t.Context(), page[1].Place, 10, 1)
	if err != nil || len(page) != 1 || page[0].KSeFNumber != testNumber(2) {
		t.Errorf("%d, %v", len(page), err)
	}
	// A page costs what is on it, however many invoices there are.
	var parts [3]int
	var step string
	err = d.read.QueryRow("EXPLAIN QUERY PLAN "+selectOutdated, 0, 0, parse.Version, 10).Scan(&parts[0], &parts[1], &parts[2], &step)
	if err != nil || !strings.Contains(step, "SEARCH i USING INDEX invoices_reader") {
		t.Errorf("%s, %v", step, err)
	}
}
