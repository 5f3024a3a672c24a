package db

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

var reconciledAt = time.Date(2026, 11, 22, 2, 3, 4, 0, time.UTC)

func startReconciliation(t *testing.T, d *DB, r Reconciliation) Reconciliation {
	t.Helper()
	var err error
	if r.ID, err = d.StartReconciliation(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// A comparison is remembered with how far it is, from its beginning to its end,
// across restarts; after 90 days it is forgotten.
func TestReconciliations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d := openTest(t, path)
	commit(t, d, Batch{Role: "buyer", Invoices: testInvoices(0, 10)})
	old := startReconciliation(t, d, Reconciliation{Role: "buyer", From: "a", To: "b", Reached: "a", Started: reconciledAt.Add(-keepRuns - time.Second)})
	want := startReconciliation(t, d, Reconciliation{Role: "buyer", Span: 72 * time.Hour,
		From: "2026-11-19T00:00:00Z", To: "2026-11-22T00:00:00.5+00:00", Reached: "2026-11-19T00:00:00Z", Started: reconciledAt})
	startReconciliation(t, d, Reconciliation{Role: "seller", From: "a", To: "b", Reached: "a", Started: reconciledAt})

	check := func(want ...Reconciliation) {
		t.Helper()
		past, err := d.Reconciliations(t.Context(), "buyer")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, past); diff != "" {
			t.Error(diff)
		}
	}
	check(want)
	if _, err := d.NoteLate(t.Context(), want.ID, "buyer", []string{testNumber(20), testNumber(21)}, reconciledAt); err != nil {
		t.Fatal(err)
	}
	_, err := d.RecordCompared(t.Context(), Compared{Reconciliation: want.ID, Role: "seller", Reached: "2026-11-20T00:00:00Z", Listed: 9, NotListed: []string{testNumber(3)}, At: reconciledAt})
	if err != nil {
		t.Fatal(err)
	}
	want.Reached, want.Listed, want.Late, want.NotListed = "2026-11-20T00:00:00Z", 9, 2, 1
	check(want)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openTest(t, path)
	check(want)
	if err := d.FinishReconciliation(t.Context(), want.ID, reconciledAt.Add(time.Minute), "HTTP 503"); err != nil {
		t.Fatal(err)
	}
	want.Finished, want.Err = reconciledAt.Add(time.Minute), "HTTP 503"
	check(want)
	next := startReconciliation(t, d, Reconciliation{Role: "buyer", From: "a", To: "b", Reached: "a", Started: reconciledAt.Add(time.Hour)})
	check(next, want)
	if n := value[int](t, d, "SELECT count(*) FROM reconciliations WHERE id = ? AND started_at < ?", old.ID, moment(reconciledAt)); n != 0 {
		t.Error("an old one stays")
	}
}

// Late invoices are counted once, however often they are found; what is no longer
// listed keeps the day on which it was found first, and loses the mark when any
// part of the program sees it listed. Nothing is ever removed.
func TestDifferences(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 10)})
	other := testInvoice(3)
	other.Role = "buyer"
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{other}})
	r := startReconciliation(t, d, Reconciliation{Role: "seller", From: "a", To: "b", Reached: "a", Started: reconciledAt})

	late := func(at time.Time, numbers ...string) int64 {
		t.Helper()
		n, err := d.NoteLate(t.Context(), r.ID, "seller", numbers, at)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := late(reconciledAt, testNumber(20), testNumber(21)); n != 2 {
		t.Errorf("%d of 2 are new", n)
	}
	if n := late(reconciledAt.Add(time.Hour), testNumber(21), testNumber(22)); n != 1 {
		t.Errorf("%d of 1 is new", n)
	}
	compared := func(c Compared) int64 {
		t.Helper()
		c.Reconciliation, c.Role, c.Reached = r.ID, "seller", "x"
		n, err := d.RecordCompared(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := compared(Compared{NotListed: []string{testNumber(3), testNumber(4), testNumber(99)}, At: reconciledAt}); n != 2 {
		t.Errorf("%d of 2 are marked", n)
	}
	if n := compared(Compared{NotListed: []string{testNumber(3), testNumber(4), testNumber(5)}, At: reconciledAt.Add(time.Hour)}); n != 1 {
		t.Errorf("%d of 1 is marked", n)
	}
	check := func(since time.Time, want ...Difference) {
		t.Helper()
		got, err := d.Differences(t.Context(), since)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	first, second := reconciledAt, reconciledAt.Add(time.Hour)
	hidden := func(n int, at time.Time) Difference {
		return Difference{KSeFNumber: testNumber(n), Role: "seller", NotListed: true, FoundAt: at}
	}
	found := func(n int, at time.Time) Difference {
		return Difference{KSeFNumber: testNumber(n), Role: "seller", FoundAt: at}
	}
	check(first, hidden(3, first), hidden(4, first), found(20, first), found(21, first), hidden(5, second), found(22, second))
	check(second, hidden(5, second), found(22, second))

	compared(Compared{SeenAgain: []string{testNumber(4)}, At: second})
	commit(t, d, Batch{Role: "seller", Seen: []string{testNumber(5)}})
	again := testInvoice(3)
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{other}}) // another role says nothing about this one
	check(first, hidden(3, first), found(20, first), found(21, first), found(22, second))
	byRole, err := d.NotListed(t.Context())
	if diff := cmp.Diff(map[string]int{"seller": 1}, byRole); err != nil || diff != "" {
		t.Error(diff, err)
	}
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{again}})
	if byRole, err := d.NotListed(t.Context()); err != nil || len(byRole) != 0 {
		t.Errorf("%v, %v", byRole, err)
	}
	if n := value[int](t, d, "SELECT count(*) FROM invoices"); n != 10 {
		t.Errorf("%d of 10 invoices", n)
	}
}

func TestHeld(t *testing.T) {
	d := newTest(t)
	var invoices []Invoice
	for n := range 6 {
		in := testInvoice(n)
		in.StoredAt = reconciledAt.Add(time.Duration(n) * time.Second)
		in.Net, in.Gross = parse.Minor{}, parse.Minor{Value: -5, Stated: true}
		invoices = append(invoices, in)
	}
	invoices[3].Role = "buyer"
	commit(t, d, Batch{Role: "seller", Invoices: invoices})
	from, to := reconciledAt.Add(time.Second), reconciledAt.Add(4*time.Second)
	held, err := d.Held(t.Context(), "seller", from, to)
	want := []Held{}
	for _, n := range []int{1, 2} { // 3 is not in the role, 4 is at the end
		want = append(want, Held{KSeFNumber: testNumber(n), StoredAt: invoices[n].StoredAt, IssueDate: "2026-11-05", Currency: "PLN",
			VATPLN: invoices[n].VATPLN, Gross: parse.Minor{Value: -5, Stated: true}})
	}
	if diff := cmp.Diff(want, held); err != nil || diff != "" {
		t.Error(diff, err)
	}
	for limit, want := range map[int]int{1: 1, 2: 2, 10: 2} {
		if n, err := d.CountHeld(t.Context(), "seller", from, to, limit); err != nil || n != want {
			t.Errorf("at most %d: %d, want %d, %v", limit, n, want, err)
		}
	}
	// The range leads, by its index; the role is looked up for each.
	for _, text := range []string{selectHeld, countHeld} {
		rows, err := d.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, "seller", moment(from), moment(to), 10)
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
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		steps := fmt.Sprint(plan)
		i, r := strings.Index(steps, "SEARCH i USING"), strings.Index(steps, "SEARCH r USING")
		if i < 0 || r < i || !strings.Contains(steps, "invoices_stored") || !strings.Contains(steps[max(r, 0):], "invoice_id=?") || strings.Contains(steps, "TEMP B-TREE") {
			t.Errorf("%s: %s", text, steps)
		}
	}
}

func TestFirstRun(t *testing.T) {
	d := newTest(t)
	if at, err := d.FirstRun(t.Context()); err != nil || !at.IsZero() {
		t.Errorf("%s, %v", at, err)
	}
	for i := range 3 {
		if err := d.RecordRun(t.Context(), Run{Role: "seller", Started: reconciledAt, Finished: reconciledAt.Add(time.Duration(i) * time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if at, err := d.FirstRun(t.Context()); err != nil || !at.Equal(reconciledAt) {
		t.Errorf("%s, %v", at, err)
	}
}
