package db

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An export is remembered from before it is asked for until its last invoices
// are stored, or it came to nothing, across restarts.
func TestExports(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d := openTest(t, path)
	want := Export{Role: "buyer", From: "2026-02-01T00:00:00Z", Key: []byte("key"), IV: []byte("iv"), CreatedAt: time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)}
	exports := func() []Export {
		t.Helper()
		found, err := d.Exports(t.Context(), "buyer")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var err error
	if want.ID, err = d.StartExport(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartExport(t.Context(), Export{Role: "seller", From: "x", Key: []byte{1}, IV: []byte{2}, CreatedAt: want.CreatedAt}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openTest(t, path)
	if diff := cmp.Diff([]Export{want}, exports()); diff != "" {
		t.Errorf("before its reference:\n%s", diff)
	}
	want.Reference = "20261122-EH-1"
	if err := d.SetReference(t.Context(), want.ID, want.Reference); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Export{want}, exports()); diff != "" {
		t.Errorf("with its reference:\n%s", diff)
	}
	// A batch that is refused keeps it, the one that is stored ends it.
	if err := d.Commit(t.Context(), Batch{Role: "buyer", Seen: []string{testNumber(5)}, Position: "p", Export: want.ID}); err == nil {
		t.Error("a number that is not stored was accepted")
	}
	if len(exports()) != 1 {
		t.Error("a refused batch ended the export")
	}
	commit(t, d, Batch{Role: "buyer", Invoices: testInvoices(0, 1), Position: "p", Export: want.ID})
	if left := exports(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	sellers, err := d.Exports(t.Context(), "seller")
	if err != nil || len(sellers) != 1 {
		t.Fatalf("of the other role: %v, %v", sellers, err)
	}
	if err := d.DropExport(t.Context(), sellers[0].ID); err != nil {
		t.Fatal(err)
	}
	if sellers, err = d.Exports(t.Context(), "seller"); err != nil || len(sellers) != 0 {
		t.Errorf("dropped: %v, %v", sellers, err)
	}
}

// Exports that were given up are not taken up again, and counted for a while.
func TestAbandonedExports(t *testing.T) {
	d := newTest(t)
	at := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	abandon := func(at time.Time) {
		t.Helper()
		id, err := d.StartExport(t.Context(), Export{Role: "buyer", From: "x", Key: []byte{1}, IV: []byte{2}, CreatedAt: at})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.AbandonExport(t.Context(), id, at); err != nil {
			t.Fatal(err)
		}
	}
	abandon(at)
	abandon(at.Add(time.Hour))
	if found, err := d.Exports(t.Context(), "buyer"); err != nil || len(found) != 0 {
		t.Errorf("to take up: %v, %v", found, err)
	}
	for since, want := range map[time.Time]int{at: 2, at.Add(time.Minute): 1, at.Add(2 * time.Hour): 0} {
		if n, err := d.Abandoned(t.Context(), since); err != nil || n != want {
			t.Errorf("since %s: %d, %v, want %d", since, n, err, want)
		}
	}
	abandon(at.Add(30 * 24 * time.Hour))
	if n := value[int](t, d, "SELECT count(*) FROM exports"); n != 1 {
		t.Errorf("%d are kept a month later", n)
	}
}
