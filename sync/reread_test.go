package sync_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// behind runs a statement on the database behind the program's back.
func (w *world) behind(statement string) {
	w.tb.Helper()
	writer, err := sql.Open("sqlite", ksefsync.DatabasePath(w.dir)+"?_busy_timeout=10000&_foreign_keys=1")
	if err != nil {
		w.tb.Fatal(err)
	}
	defer writer.Close()
	if _, err := writer.Exec(statement); err != nil {
		w.tb.Fatalf("%s: %v", statement, err)
	}
}

// forgotten is what a reader that knew little would have left.
const forgotten = `UPDATE invoices SET parser_version = 1, gross_minor = 1, seller_name = 'nobody', tax_date = NULL;
	DELETE FROM parties; DELETE FROM invoice_lines; DELETE FROM vat_summary; DELETE FROM bank_accounts; DELETE FROM invoice_notes;
	DELETE FROM invoice_references; DELETE FROM due_dates; DELETE FROM payments; DELETE FROM related_documents; DELETE FROM texts`

// contents gives what readers see of the mirror, and when each file was written.
func (w *world) contents() []string {
	w.tb.Helper()
	reader, err := sql.Open("sqlite", ksefsync.DatabasePath(w.dir)+"?mode=ro&_busy_timeout=10000")
	if err != nil {
		w.tb.Fatal(err)
	}
	defer reader.Close()
	var all []string
	for _, query := range []string{
		"SELECT * FROM v_invoices ORDER BY id", "SELECT * FROM v_lines ORDER BY invoice_id, kind, position", "SELECT * FROM vat_summary",
		"SELECT * FROM invoice_references", "SELECT invoice_id, party, position, name, nip, address1 FROM parties ORDER BY 1, 2, 3", "SELECT * FROM bank_accounts",
		"SELECT n.invoice_id, n.kind, n.position, n.key, coalesce(n.value, t.value) FROM invoice_notes n LEFT JOIN texts t ON t.id = n.text_id", "SELECT * FROM invoice_roles",
	} {
		rows, err := reader.Query(query)
		if err != nil {
			w.tb.Fatalf("%s: %v", query, err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			w.tb.Fatal(err)
		}
		for rows.Next() {
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				w.tb.Fatal(err)
			}
			var line strings.Builder
			for i, column := range columns {
				if column != "updated_at" {
					fmt.Fprintf(&line, "%s=%v ", column, values[i])
				}
			}
			all = append(all, line.String())
		}
		if err := rows.Err(); err != nil {
			w.tb.Fatal(err)
		}
	}
	err = filepath.Walk(filepath.Join(w.dir, "invoices"), func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			all = append(all, fmt.Sprint(path, info.ModTime(), info.Size()))
		}
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return all
}

// After an improvement of the reader a cycle reads again what is there, when it has
// fetched what is new; the result is that of a first reading, and nothing else has
// changed. KSeF is asked for nothing more.
func TestReread(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(60, 24*time.Hour, 5)...)
	w.mustCycle()
	want := w.contents()

	w.behind(forgotten)
	status := w.status()
	if status.Outdated != status.Invoices || status.Invoices != 60 {
		t.Errorf("%d of %d outdated", status.Outdated, status.Invoices)
	}
	before := w.sim.Stats().Requests
	w.mustCycle()
	requests := w.sim.Stats().Requests - before
	if diff := cmp.Diff(want, w.contents()); diff != "" {
		t.Errorf("-first reading +second:\n%s", diff)
	}
	if !strings.Contains(w.log.String(), `msg="read stored invoices again, as this version reads more of them" read=60 kept=0 left=0`) {
		t.Error("the log does not say so")
	}
	if status := w.status(); status.Outdated != 0 {
		t.Errorf("%d outdated", status.Outdated)
	}
	before = w.sim.Stats().Requests
	w.mustCycle()
	if idle := w.sim.Stats().Requests - before; requests != idle {
		t.Errorf("%d requests, %d without anything to read again", requests, idle)
	}

	// KSeF's trouble is no reason to wait.
	w.behind(forgotten)
	w.sim.Fault(ksefsim.HTMLError("", 0, 503))
	if _, err := w.cycle(); err == nil {
		t.Error("KSeF was not down")
	}
	if diff := cmp.Diff(want, w.contents()); diff != "" {
		t.Errorf("-first reading +second, with KSeF down:\n%s", diff)
	}
}

// Reading again is bounded in time and goes on where it was stopped; a damaged copy is
// left as it is and keeps none of the others from it.
func TestRereadInPieces(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(1100, 24*time.Hour, 6)...)
	w.mustCycle()
	want := w.contents()
	w.behind(forgotten)
	w.behind("UPDATE documents SET size = size - 1 WHERE invoice_id = 1")

	stood := w.positions()
	m := w.open()
	done, err := m.Reread(t.Context(), false, w.clock.Now(), nil)
	if err != nil || done.Read != 0 || done.Left != 1100 {
		t.Errorf("no time at all: %+v, %v", done, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, err = m.Reread(ctx, false, time.Time{}, func(int, int) { cancel() })
	if err == nil || done.Read != 499 || done.Left != 601 || len(done.Damaged) != 1 {
		t.Errorf("stopped after a piece: %+v, %v", done, err)
	}
	done, err = m.Reread(t.Context(), false, time.Time{}, nil)
	if err != nil || done.Read != 600 || done.Left != 1 || len(done.Kept)+len(done.Damaged) != 0 {
		t.Errorf("the rest: %+v, %v", done, err)
	}
	done, err = m.Reread(t.Context(), true, time.Time{}, nil)
	if err != nil || done.Read != 1099 || len(done.Damaged) != 1 {
		t.Errorf("all: %+v, %v", done, err)
	}
	w.behind("UPDATE documents SET size = size + 1 WHERE invoice_id = 1")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = w.open()
	done, err = m.Reread(t.Context(), false, time.Time{}, nil)
	if err != nil || done.Read != 1 || done.Left != 0 {
		t.Errorf("the one that was mended: %+v, %v", done, err)
	}
	if positions := w.positions(); positions != stood {
		t.Errorf("the streams moved from %s to %s", stood, positions)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	w.check()
	if diff := cmp.Diff(want, w.contents()); diff != "" {
		t.Errorf("-first reading +second:\n%s", diff)
	}
}
