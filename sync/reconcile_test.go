package sync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// reconcile opens the mirror as a new process would, compares it from since on,
// closes it, and checks every promise, also that no role has moved.
func (w *world) reconcile(since time.Time) (map[string]ksefsync.RoleReconciliation, error) {
	w.tb.Helper()
	before := w.positions()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	r := ksefsync.Reconciliation{Since: since}
	err = m.Reconcile(w.tb.Context(), &r)
	if closeErr := m.Close(); closeErr != nil {
		w.tb.Errorf("close: %v", closeErr)
	}
	w.check()
	if after := w.positions(); after != before {
		w.tb.Errorf("reconciling moved\n%s to\n%s", before, after)
	}
	return byRole(r), err
}

func (w *world) mustReconcile(since time.Time) map[string]ksefsync.RoleReconciliation {
	w.tb.Helper()
	found, err := w.reconcile(since)
	if err != nil {
		w.tb.Fatalf("reconcile: %v", err)
	}
	return found
}

func byRole(r ksefsync.Reconciliation) map[string]ksefsync.RoleReconciliation {
	found := map[string]ksefsync.RoleReconciliation{}
	for _, role := range r.Roles {
		found[role.Role] = role
	}
	return found
}

// positions is where every role stands.
func (w *world) positions() string {
	w.tb.Helper()
	var text strings.Builder
	for _, role := range roles {
		s := w.stream(role)
		fmt.Fprintf(&text, "%s %s %s\n", role, s.Watermark, s.Position)
	}
	return text.String()
}

// late puts an invoice of the company as buyer into KSeF, long below what was
// promised, which breaks the promise as has been seen (scenario 2).
func (w *world) late(n int, ago time.Duration, seed uint64) []string {
	w.tb.Helper()
	at := w.clock.Now().Add(-ago)
	var invoices []ksefsim.Invoice
	for i, invoice := range ksefsim.Generate(ksefsim.GenerateOptions{Count: 10*n + 40, Context: company, From: at, To: at.Add(time.Minute), Seed: seed}) {
		if !isBuyer(invoice) {
			continue
		}
		invoice.Stored = at.Add(time.Duration(i) * time.Second)
		invoice.Visible = w.clock.Now()
		if invoices = append(invoices, invoice); len(invoices) == n {
			break
		}
	}
	if len(invoices) != n {
		w.tb.Fatalf("only %d of %d generated invoices are purchases", len(invoices), n)
	}
	var numbers []string
	for _, number := range w.add(invoices...) {
		numbers = append(numbers, string(number))
	}
	return numbers
}

// isBuyer tells whether the company is the buyer on a generated invoice, and
// nothing else.
func isBuyer(invoice ksefsim.Invoice) bool {
	if strings.Count(string(invoice.XML), company.Value) != 1 {
		return false
	}
	_, buyer, _ := strings.Cut(string(invoice.XML), "<Podmiot2")
	buyer, _, _ = strings.Cut(buyer, "</DaneIdentyfikacyjne>")
	return strings.Contains(buyer, "<NIP>"+company.Value+"</NIP>")
}

func (w *world) logged(text string) int { return strings.Count(w.log.String(), text) }

const (
	lateLogged   = "below the watermark that were not there"
	hiddenLogged = "no longer lists invoices that are mirrored"
)

// When nothing is wrong, KSeF's figures are ours, month by month and to the
// grosz, and nothing is stored, marked or announced.
func TestReconcileNothingWrong(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(400, 250*24*time.Hour, 80)...)
	w.mustCycle()
	found := w.mustReconcile(w.options.Since)
	for _, role := range roles {
		r := found[role]
		if !r.Agrees() || r.Reached != r.To || r.From.Time() != w.options.Since || r.To != ksef.Timestamp(w.stream(role).Watermark) {
			t.Errorf("%s: %+v", role, r)
		}
		var listed int
		for _, table := range [][]ksefsync.Month{r.ByStored, r.ByIssued} {
			listed = 0
			for _, month := range table {
				if month.KSeF != month.Here {
					t.Errorf("%s, %s %s: KSeF %+v, here %+v", role, month.Month, month.Currency, month.KSeF, month.Here)
				}
				listed += month.KSeF.Invoices
			}
			if want := len(w.sim.Listed(company, subjects[role])); listed != want || r.Listed != want {
				t.Errorf("%s: %d in the months, %d listed, KSeF has %d", role, listed, r.Listed, want)
			}
		}
		w.sameSums(role, r)
	}
	if n := w.logged(lateLogged) + w.logged(hiddenLogged); n != 0 {
		t.Errorf("%d alarms about nothing", n)
	}
	for _, s := range w.status().Streams {
		if s.Reconciled == nil || s.Reconciled.Error != "" || s.Reconciled.Late+s.Reconciled.NotListed+s.NotListed != 0 {
			t.Errorf("status of %s: %+v", s.Role, s.Reconciled)
		}
	}
}

// sameSums holds the months against sums that are made another way: rationals,
// from the simulator's own metadata.
func (w *world) sameSums(role string, r ksefsync.RoleReconciliation) {
	w.tb.Helper()
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		w.tb.Fatal(err)
	}
	want := map[string]*big.Rat{}
	for _, s := range w.sim.Listed(company, subjects[role]) {
		for kind, amount := range map[string]json.Number{"net": s.Metadata.NetAmount, "vat": s.Metadata.VATAmount, "gross": s.Metadata.GrossAmount} {
			key := s.StoredAt.In(warsaw).Format("2006-01") + s.Metadata.Currency + kind
			value, ok := new(big.Rat).SetString(amount.String())
			if !ok {
				w.tb.Fatalf("amount %q", amount)
			}
			if want[key] == nil {
				want[key] = new(big.Rat)
			}
			want[key].Add(want[key], value)
		}
	}
	for _, month := range r.ByStored {
		for kind, got := range map[string]string{"net": month.KSeF.Net, "vat": month.KSeF.VATPLN, "gross": month.KSeF.Gross} {
			key := month.Month + month.Currency + kind
			if want[key] == nil || want[key].FloatString(2) != got {
				w.tb.Errorf("%s: %s is %s, want %v", role, key, got, want[key])
			}
			delete(want, key)
		}
	}
	if len(want) != 0 {
		w.tb.Errorf("%s: not in the table: %v", role, want)
	}
}

// Scenario 2: an invoice appears below a mark that KSeF had promised. It is
// stored, announced once, counted, and the role does not move.
func TestScenario02LateBelowTheMark(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, n := range map[string]int{"few, one by one": 3, "many, by a package": 40} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ksefsim.Options{})
			w.add(w.generate(100, 20*24*time.Hour, 81)...)
			w.mustCycle()
			numbers := w.late(n, 10*24*time.Hour, 82)
			downloads := w.sim.Stats().ByGroup[ksef.GroupDownload]

			found := w.mustReconcile(time.Time{})["buyer"]
			slices.Sort(numbers)
			slices.Sort(found.Late)
			if !slices.Equal(found.Late, numbers) || len(found.Waiting) != 0 {
				t.Errorf("late %q, want %q; waiting %q", found.Late, numbers, found.Waiting)
			}
			w.complete()
			if w.logged(lateLogged) == 0 {
				t.Error("no alarm")
			}
			alarms := w.logged(lateLogged)
			if asked := w.sim.Stats().ByGroup[ksef.GroupDownload] - downloads; n > 16 && asked > 20 {
				t.Errorf("%d downloads for %d invoices", asked, n)
			}
			if again := w.mustReconcile(time.Time{})["buyer"]; !again.Agrees() {
				t.Errorf("again: %+v", again)
			}
			if w.logged(lateLogged) != alarms {
				t.Error("announced twice")
			}
			status := w.status().Streams[1]
			if len(status.LateLately) != n || status.Reconciled.Late != 0 {
				t.Errorf("status: %q, %+v", status.LateLately, status.Reconciled)
			}
			w.clock.advance(8 * 24 * time.Hour)
			if status := w.status().Streams[1]; len(status.LateLately) != 0 {
				t.Errorf("a week later: %q", status.LateLately)
			}
			w.mustCycle()
		})
	}
}

// An invoice that is here in one role and appears late in another is late in that
// one; one that KSeF does not serve waits in quarantine and holds the watermark,
// since it is not complete.
func TestReconcileRoleAndUnserved(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(300, 20*24*time.Hour, 83)...)
	both := w.inTwoRoles()
	w.sim.SetListed(both, ksef.ThirdParty, false)
	w.mustCycle()
	w.sim.SetListed(both, ksef.ThirdParty, true)
	found := w.mustReconcile(time.Time{})
	if got := found["third_party"].Late; !slices.Equal(got, []string{string(both)}) {
		t.Errorf("late %q, want %s", got, both)
	}
	w.complete()

	number := w.late(1, 5*24*time.Hour, 84)[0]
	w.sim.Fault(ksefsim.Answer("/invoices/ksef/*", 1, 400, http.Header{"Content-Type": {"application/json"}},
		`{"exception":{"exceptionDetailList":[{"exceptionCode":21165,"exceptionDescription":"Faktura nie jest jeszcze dostępna."}]}}`))
	before := w.stream("buyer")
	m := w.open()
	r := ksefsync.Reconciliation{}
	if err := m.Reconcile(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := byRole(r)["buyer"]; !slices.Equal(got.Late, []string{number}) || !slices.Equal(got.Waiting, got.Late) {
		t.Errorf("%+v", got)
	}
	after := w.stream("buyer")
	if after.Position != before.Position || ksef.Timestamp(after.Watermark).Compare(ksef.Timestamp(before.Watermark)) >= 0 {
		t.Errorf("%+v became %+v", before, after)
	}
	w.check()
	w.clock.advance(2 * time.Hour)
	w.mustCycle()
	w.complete()
	if after := w.stream("buyer"); ksef.Timestamp(after.Watermark).Compare(ksef.Timestamp(before.Watermark)) <= 0 {
		t.Errorf("stored, and the watermark is %s", after.Watermark)
	}
}

// inTwoRoles is an invoice that the company sees as third party and in another
// role.
func (w *world) inTwoRoles() ksef.Number {
	w.tb.Helper()
	for _, role := range []string{"seller", "buyer", "authorized"} {
		for _, s := range w.sim.Listed(company, subjects[role]) {
			for _, third := range w.sim.Listed(company, ksef.ThirdParty) {
				if third.Number == s.Number {
					return s.Number
				}
			}
		}
	}
	w.tb.Fatal("no generated invoice has two roles")
	return ""
}

func (w *world) open() *ksefsync.Mirror {
	w.tb.Helper()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	return m
}

// Scenario 68: KSeF no longer lists an invoice. It stays, marked and announced
// once, until it is listed again, be it in a reconciliation or in a cycle.
func TestScenario68Hidden(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(100, 20*24*time.Hour, 85)...)
	w.mustCycle()
	purchases := w.sim.Listed(company, ksef.Buyer)
	number := purchases[len(purchases)/2].Number
	w.sim.SetListed(number, ksef.Buyer, false)
	invoices := w.status().Invoices
	for range 2 {
		found := w.mustReconcile(time.Time{})["buyer"]
		if !slices.Equal(found.NotListed, []string{string(number)}) || len(found.Late) != 0 {
			t.Errorf("%+v", found)
		}
		w.clock.advance(time.Hour)
	}
	if w.logged(hiddenLogged) != 1 {
		t.Errorf("announced %d times", w.logged(hiddenLogged))
	}
	w.complete() // it is still there, in its role
	status := w.status()
	if s := status.Streams[1]; status.Invoices != invoices || s.NotListed != 1 || !slices.Equal(s.NotListedLately, []string{string(number)}) || s.Reconciled.NotListed != 1 {
		t.Errorf("status: %d of %d invoices, %+v", status.Invoices, invoices, s)
	}
	w.clock.advance(8 * 24 * time.Hour)
	if s := w.status().Streams[1]; s.NotListed != 1 || len(s.NotListedLately) != 0 {
		t.Errorf("a week later: %+v", s)
	}

	w.sim.SetListed(number, ksef.Buyer, true)
	if found := w.mustReconcile(time.Time{})["buyer"]; !found.Agrees() {
		t.Errorf("listed again: %+v", found)
	}
	if s := w.status().Streams[1]; s.NotListed != 0 {
		t.Error("listed again, and still marked")
	}
}

// A changed hash is an alarm, once, and both are kept.
func TestReconcileChanged(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(20, 5*24*time.Hour, 86)...)
	w.mustCycle()
	victim := w.sim.Listed(company, ksef.Buyer)[0]
	for range 2 {
		w.sim.Fault(ksefsim.RewriteJSON(query, 0, func(answer map[string]any) {
			for _, each := range answer["invoices"].([]any) {
				if row := each.(map[string]any); row["ksefNumber"] == string(victim.Number) {
					row["invoiceHash"] = hash([]byte("another"))
				}
			}
		}))
		found := w.mustReconcile(time.Time{})["buyer"]
		if !slices.Equal(found.Changed, []string{string(victim.Number)}) || len(found.Late)+len(found.NotListed) != 0 {
			t.Errorf("%+v", found)
		}
		w.sim.ClearFaults()
	}
	if waiting := w.status().Waiting; len(waiting) != 1 || !strings.Contains(waiting[0].Reason, "another hash") {
		t.Errorf("%+v", waiting)
	}
}

// However KSeF's list comes, in several windows, in truncated packages or in
// pages, at instants with more rows than those, the same is found.
func TestReconcileLarge(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, test := range map[string]struct {
		options ksefsim.Options
		singly  bool
	}{
		"windows":            {},
		"truncated packages": {options: ksefsim.Options{PackageCap: 120}},
		"in parts":           {options: ksefsim.Options{PartSize: 20_000}},
		"pages":              {singly: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, test.options)
			invoices := w.generate(1500, 280*24*time.Hour, 87)
			for i := range 600 { // of one instant in the middle
				if test.singly {
					invoices[500+i].Stored = invoices[500].Stored
				}
			}
			w.add(invoices...)
			w.mustCycle()
			if test.singly {
				w.singly()
			}
			numbers := w.late(5, 200*24*time.Hour, 88)
			hidden := w.sim.Listed(company, ksef.Buyer)[7].Number
			w.sim.SetListed(hidden, ksef.Buyer, false)

			found := w.mustReconcile(w.options.Since)
			buyer := found["buyer"]
			slices.Sort(buyer.Late)
			slices.Sort(numbers)
			if !slices.Equal(buyer.Late, numbers) || !slices.Equal(buyer.NotListed, []string{string(hidden)}) {
				t.Errorf("late %q, want %q; not listed %q, want %s", buyer.Late, numbers, buyer.NotListed, hidden)
			}
			if want := len(w.sim.Listed(company, ksef.Buyer)) - 1; buyer.Listed != want {
				t.Errorf("%d listed, KSeF has %d", buyer.Listed, want)
			}
			if !found["seller"].Agrees() || !found["third_party"].Agrees() || !found["authorized"].Agrees() {
				t.Errorf("the other roles: %+v", found)
			}
			w.complete()
			if left := files(t, w.dir+"/packages"); len(left) != 0 {
				t.Errorf("left over: %q", left)
			}
		})
	}
}

// Only where KSeF guarantees its list may an invoice be missing from it: not
// beyond a mark that has gone back, and not behind where a list ends early.
func TestReconcileJudgesOnlyWhatIsGuaranteed(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(100, 20*24*time.Hour, 89)...)
	w.mustCycle()
	w.sim.SetHWM(start.Add(-10 * 24 * time.Hour))
	found, err := w.reconcile(time.Time{})
	if err == nil || !strings.Contains(err.Error(), "guarantees its list only up to") {
		t.Errorf("error %v", err)
	}
	buyer := found["buyer"]
	if !buyer.Agrees() || buyer.Reached.Time() != start.Add(-10*24*time.Hour) || buyer.Listed == 0 {
		t.Errorf("%+v", buyer)
	}
	if s := w.status().Streams[1]; s.NotListed != 0 || s.Reconciled.Error == "" {
		t.Errorf("status: %+v", s)
	}
	// And not before the mark at all.
	if found, err := w.reconcile(start.Add(-5 * 24 * time.Hour)); err == nil || !found["buyer"].Agrees() || found["buyer"].Listed != 0 {
		t.Errorf("%+v, %v", found["buyer"], err)
	}
	w.sim.SetHWM(time.Time{})
	w.sim.Fault(ksefsim.NullHWM(0))
	if _, err := w.reconcile(time.Time{}); err == nil {
		t.Error("a missing high water mark was accepted")
	}
	w.sim.ClearFaults()
	for _, r := range w.mustReconcile(time.Time{}) {
		if !r.Agrees() {
			t.Errorf("%+v", r)
		}
	}
}

// An instant with more invoices than KSeF lists at once is mirrored by parts, which
// one list cannot be held against: it is passed over, and said to be.
func TestReconcileCrowdedInstant(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{PageCap: 500, PackageCap: 500})
	w.options.Since = start.Add(-60 * 24 * time.Hour)
	invoices := w.generate(2200, 40*24*time.Hour, 107)
	for i := range 1500 {
		invoices[300+i].Stored = start.Add(-20 * 24 * time.Hour)
	}
	w.add(invoices...)
	w.mustCycle()
	w.complete()
	numbers := w.late(2, 10*24*time.Hour, 108)
	hidden := w.sim.Listed(company, ksef.Buyer)[3].Number
	w.sim.SetListed(hidden, ksef.Buyer, false)
	found := w.mustReconcile(time.Time{})
	buyer := found["buyer"]
	slices.Sort(buyer.Late)
	slices.Sort(numbers)
	if !slices.Equal(buyer.Late, numbers) || !slices.Equal(buyer.NotListed, []string{string(hidden)}) || buyer.Reached != buyer.To {
		t.Errorf("late %q, not listed %q", buyer.Late, buyer.NotListed)
	}
	if len(buyer.Crowded) != 1 || buyer.Crowded[0].Time() != start.Add(-20*24*time.Hour) || len(found["authorized"].Crowded) != 0 {
		t.Errorf("crowded: %q", buyer.Crowded)
	}
	for _, month := range buyer.ByStored {
		if month.Here.Invoices-month.KSeF.Invoices > 1 {
			t.Errorf("%+v", month)
		}
	}
	w.complete()
}

// Where rows shift between numbered pages one may be left out; nothing is concluded
// from such a list, and a later one serves.
func TestReconcileShiftingPages(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	invoices := w.generate(900, 24*time.Hour, 106)
	for i := range invoices {
		invoices[i].Stored = start.Add(-24 * time.Hour)
	}
	w.add(invoices...)
	w.mustCycle()
	w.singly()
	w.sim.Fault(ksefsim.PageShift(0))
	buyer := w.mustReconcile(time.Time{})["buyer"]
	if !buyer.Agrees() || len(buyer.Crowded) != 1 || buyer.Crowded[0].Time() != start.Add(-24*time.Hour) || buyer.Listed != 0 || buyer.Reached != buyer.To {
		t.Errorf("%+v", buyer)
	}
	w.sim.ClearFaults()
	for _, r := range w.mustReconcile(time.Time{}) {
		if !r.Agrees() || len(r.Crowded) != 0 {
			t.Errorf("%+v", r)
		}
	}
}

// Whatever is wrong with a package, nothing is concluded from it; pages do.
func TestReconcileBadPackages(t *testing.T) {
	drop := func(data []byte) []byte {
		var listed struct {
			Invoices []json.RawMessage `json:"invoices"`
		}
		if json.Unmarshal(data, &listed) != nil {
			return data
		}
		listed.Invoices = listed.Invoices[1:]
		data, _ = json.Marshal(listed)
		return data
	}
	for name, outcome := range map[string]ksefsim.ExportOutcome{
		"a row is missing": {Package: func(p *ksefsim.Package) { p.Metadata().Data = drop(p.Metadata().Data) }},
		"no mark":          {Answer: func(a map[string]any) { a["package"].(map[string]any)["permanentStorageHwmDate"] = nil }},
		"failed":           {Status: 500},
		"no package":       {Answer: func(a map[string]any) { a["package"] = nil }},
		"wrong hash":       {Answer: wrongHash},
		"hangs":            {Status: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ksefsim.Options{})
			w.add(w.generate(900, 20*24*time.Hour, 90)...)
			w.mustCycle()
			number := w.late(1, 10*24*time.Hour, 91)
			w.sim.SetExportOutcome(outcome)
			before := w.sim.Stats().ByGroup[ksef.GroupExport]
			found := w.mustReconcile(time.Time{})
			if w.sim.Stats().ByGroup[ksef.GroupExport] == before {
				t.Fatal("no package was asked for")
			}
			if buyer := found["buyer"]; !slices.Equal(buyer.Late, number) || len(buyer.NotListed) != 0 || !found["seller"].Agrees() {
				t.Errorf("%+v", found)
			}
			w.complete()
		})
	}
}

// A reconciliation that is stopped at any request, and a new one in its place,
// lose nothing and find the same; what was late is announced and counted once.
func TestReconcileStoppedAnywhere(t *testing.T) {
	slow(t)
	t.Parallel()
	t.Run("single downloads", func(t *testing.T) { stopAnywhere(t, 12) })
	t.Run("a package", func(t *testing.T) { stopAnywhere(t, 30) })
}

func stopAnywhere(t *testing.T, n int) {
	w := newWorld(t, ksefsim.Options{PackageCap: 150})
	w.options.Since = start.Add(-60 * 24 * time.Hour)
	w.add(w.generate(700, 40*24*time.Hour, 92)...)
	w.mustCycle()
	hidden := w.sim.Listed(company, ksef.Buyer)[7].Number
	w.sim.SetListed(hidden, ksef.Buyer, false)
	late := w.late(n, 20*24*time.Hour, 93)
	positions := w.positions()
	stops := 0
	for skip := 0; ; skip++ {
		ctx, cancel := context.WithCancel(t.Context())
		w.sim.Fault(ksefsim.Fault{Skip: skip, Times: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			cancel()
			next.ServeHTTP(rw, r)
		}})
		m := w.open()
		err := m.Reconcile(ctx, &ksefsync.Reconciliation{})
		if closeErr := m.Close(); closeErr != nil {
			t.Fatal(closeErr)
		}
		cancel()
		w.sim.ClearFaults()
		if got := w.positions(); got != positions {
			t.Fatalf("stopped at request %d it moved\n%s to\n%s", skip, positions, got)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped at request %d: %v", skip, err)
		}
		if stops++; stops > 200 {
			t.Fatal("it never ends")
		}
	}
	if stops < 15 {
		t.Errorf("it was stopped only %d times", stops)
	}
	if n := w.logged(fmt.Sprintf("invoices=%d\n", len(late))); n != 1 {
		t.Errorf("the late invoices were announced %d times", n)
	}
	w.check()
	w.complete()
	d, err := db.OpenReadOnly(t.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	counted := 0
	past, err := d.Reconciliations(t.Context(), "buyer")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range past {
		counted += r.Late
		if r.Finished.IsZero() {
			t.Errorf("still to go on: %+v", r)
		}
	}
	if counted != len(late) {
		t.Errorf("%d of %d late invoices are counted", counted, len(late))
	}
	differences, err := d.Differences(t.Context(), start)
	if err != nil || len(differences) != len(late)+1 {
		t.Errorf("%d differences, want %d, %v", len(differences), len(late)+1, err)
	}
	w.mustCycle() // takes up what was left of a package
	w.check()
}

// What a person's comparison found missing and could not fetch is not forgotten
// with it, however long ago it is: the daemon goes on where it ended.
func TestReconcileOwesWhatItFound(t *testing.T) {
	slow(t)
	for name, trouble := range map[string]ksefsim.Fault{
		"outage": ksefsim.HTMLError(download, 0, 503),
		"limits": ksefsim.TooMany(download, 0, "2680"),
		"reset":  ksefsim.Reset(download, 0),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ksefsim.Options{})
			w.add(w.generate(200, 250*24*time.Hour, 97)...)
			w.mustCycle()
			late := w.late(3, 200*24*time.Hour, 98)
			w.sim.Fault(trouble)
			m := w.open()
			if err := m.Reconcile(t.Context(), &ksefsync.Reconciliation{Since: w.options.Since}); err == nil {
				t.Fatal("it did not fail")
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			w.sim.ClearFaults()
			w.clock.advance(time.Hour)
			m = w.open()
			w.run(m, time.Minute, 15*time.Minute)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			w.check()
			w.complete()
			if past := w.past("buyer"); len(past) != 1 || past[0].Late != len(late) || past[0].Finished.IsZero() || past[0].Reached != past[0].To {
				t.Errorf("%+v", past)
			}
		})
	}
}

// When the limits end a person's comparison, it goes on from there with the same
// report when they allow, and never beyond them.
func TestReconcileBudget(t *testing.T) {
	slow(t)
	limits := ksef.DefaultLimits()
	limits[ksef.GroupExport] = ksef.Limit{PerSecond: 8, PerMinute: 16, PerHour: 2}
	limits[ksef.GroupMetadata] = ksef.Limit{PerSecond: 8, PerMinute: 16, PerHour: 3}
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(1200, 40*24*time.Hour, 94)...)
	w.mustCycle()
	w.late(1, 20*24*time.Hour, 95)
	w.clock.advance(2 * time.Hour)

	w.sim.SetLimits(limits)
	m := w.open()
	r := ksefsync.Reconciliation{Since: w.options.Since} // three windows for each of four roles
	var err error
	stops := 0
	for ; stops < 50; stops++ {
		err = m.Reconcile(t.Context(), &r)
		budget := asBudget(err)
		if budget == nil {
			break
		}
		w.clock.advance(budget.Until.Sub(w.clock.Now()))
	}
	if closeErr := m.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	if stops == 0 || w.sim.Stats().TooMany != 0 {
		t.Errorf("stopped %d times, %d answers 429", stops, w.sim.Stats().TooMany)
	}
	for role, found := range byRole(r) {
		if want := len(w.sim.Listed(company, subjects[role])); found.Listed != want || len(found.NotListed) != 0 || (len(found.Late) == 1) != (role == "buyer") {
			t.Errorf("%s: %d listed of %d, late %q, not listed %q", role, found.Listed, want, found.Late, found.NotListed)
		}
		for _, month := range found.ByStored {
			if month.KSeF != month.Here {
				t.Errorf("%s: %+v", role, month)
			}
		}
	}
	w.complete()
}

// Sums are exact at any size, of each currency by itself; what cannot be summed
// is counted.
func TestReconcileSums(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	amounts := []struct{ currency, net, vat, gross string }{
		{"PLN", "0.1", "0.02", "0.12"}, {"PLN", "0.2", "0.05", "0.25"}, {"PLN", "-0.30", "-0.07", "-0.37"}, {"PLN", "0.01", "0", "0.01"},
		{"EUR", "1000.005", "1", "1000.01"}, {"EUR", "9.99", "42.42", "12.29"},
	}
	for range 15 { // the largest that is read
		amounts = append(amounts, struct{ currency, net, vat, gross string }{"USD", "9000000000000.00", "0.01", "9000000000000.00"})
	}
	amounts = append(amounts, struct{ currency, net, vat, gross string }{"USD", "9000000000000.01", "0.01", "9999999999999999.99"}) // which is not
	var invoices []ksefsim.Invoice
	for _, invoice := range w.generate(200, 24*time.Hour, 96) {
		if i := len(invoices); i < len(amounts) && isBuyer(invoice) {
			invoice.Metadata = func(m *ksef.Metadata) {
				m.Currency, m.IssueDate = amounts[i].currency, "2026-10-31"
				m.NetAmount, m.VATAmount, m.GrossAmount = json.Number(amounts[i].net), json.Number(amounts[i].vat), json.Number(amounts[i].gross)
			}
			invoices = append(invoices, invoice)
		}
	}
	if len(invoices) != len(amounts) {
		t.Fatalf("%d purchases", len(invoices))
	}
	w.add(invoices...)
	w.mustCycle()
	buyer := w.mustReconcile(start.Add(-5 * 24 * time.Hour))["buyer"]
	want := []ksefsync.Month{
		{Month: "2026-11", Currency: "EUR", Partial: true, KSeF: ksefsync.Sums{Invoices: 2, Net: "9.99", VATPLN: "43.42", Gross: "1012.30", Unstated: 1}},
		{Month: "2026-11", Currency: "PLN", Partial: true, KSeF: ksefsync.Sums{Invoices: 4, Net: "0.01", VATPLN: "0.00", Gross: "0.01"}},
		{Month: "2026-11", Currency: "USD", Partial: true, KSeF: ksefsync.Sums{Invoices: 16, Net: "135000000000000.00", VATPLN: "0.16", Gross: "135000000000000.00", Unstated: 2}},
	}
	for i := range want {
		want[i].Here = want[i].KSeF
	}
	if !slices.Equal(buyer.ByStored, want) {
		t.Errorf("by storage %+v", buyer.ByStored)
	}
	for i := range want {
		want[i].Month, want[i].Partial = "2026-10", false
	}
	if !slices.Equal(buyer.ByIssued, want) {
		t.Errorf("by issue %+v", buyer.ByIssued)
	}

	// A hidden one is in our figures alone, under its own month.
	w.sim.SetListed(w.sim.Listed(company, ksef.Buyer)[0].Number, ksef.Buyer, false)
	differing := 0
	for _, month := range w.mustReconcile(start.Add(-5 * 24 * time.Hour))["buyer"].ByStored {
		if month.KSeF != month.Here {
			differing += month.Here.Invoices - month.KSeF.Invoices
		}
	}
	if differing != 1 {
		t.Errorf("the months differ by %d invoices", differing)
	}
}

// A role that is always empty costs one query, and no package.
func TestReconcileEmptyRole(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.options.Since = start.Add(-48 * time.Hour)
	w.mustCycle()
	before := w.sim.Stats()
	w.mustReconcile(time.Time{})
	after := w.sim.Stats()
	if n := after.ByGroup[ksef.GroupMetadata] - before.ByGroup[ksef.GroupMetadata]; n != len(roles) || after.ByGroup[ksef.GroupExport] != before.ByGroup[ksef.GroupExport] {
		t.Errorf("%d queries for four empty roles, and packages", n)
	}
}

// A role of which nothing is complete yet is not compared.
func TestReconcileBeforeSync(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.open().Close()
	if _, err := w.reconcile(time.Time{}); err == nil || !strings.Contains(err.Error(), "sync first") {
		t.Errorf("error %v", err)
	}
}

// run is what the daemon does for a while: a cycle at each interval, and what is
// due in the time that is left. It gives how long the longest cycle took.
func (w *world) run(m *ksefsync.Mirror, d, interval time.Duration) (longest time.Duration) {
	w.tb.Helper()
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); {
		began := w.clock.Now()
		if _, err := m.Cycle(w.tb.Context()); err != nil {
			w.tb.Fatalf("cycle: %v", err)
		}
		longest = max(longest, w.clock.Now().Sub(began))
		until := began.Add(interval)
		r, err := m.ReconcileDue(w.tb.Context(), until)
		if err != nil {
			w.tb.Fatalf("reconcile: %v", err)
		}
		for _, role := range r.Roles {
			if role.Err != nil {
				w.tb.Errorf("%s: %v", role.Role, role.Err)
			}
		}
		if over := w.clock.Now().Sub(until); over > time.Minute {
			w.tb.Errorf("it took %s longer than it may", over)
		}
		w.clock.advance(until.Sub(w.clock.Now()))
	}
	return longest
}

// past gives the comparisons of a role in the database, oldest first.
func (w *world) past(role string) []db.Reconciliation {
	w.tb.Helper()
	d, err := db.OpenReadOnly(w.tb.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	past, err := d.Reconciliations(w.tb.Context(), role)
	if err != nil {
		w.tb.Fatal(err)
	}
	slices.Reverse(past)
	return past
}

// For 40 days, with a restart each: each night the last 72 hours are compared, each
// seventh 35 days and each thirtieth 99.
func TestReconcileRhythm(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	w.options.Since = start.Add(-48 * time.Hour)
	w.add(w.generate(30, 24*time.Hour, 100)...)
	for range 40 {
		m := w.open()
		w.run(m, 24*time.Hour, 6*time.Hour)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		var spans []string
		for i, r := range w.past(role) {
			spans = append(spans, fmt.Sprint(r.Span.Hours()/24))
			if hour := r.Started.In(warsaw).Hour(); hour < 1 || hour > 11 || r.Err != "" || r.Reached != r.To {
				t.Errorf("%s: %d: %+v", role, i, r)
			}
			// The mirror is younger than the span, or the range is all of it.
			if from, want := ksef.Timestamp(r.From).Time(), ksef.Timestamp(r.To).Time().Add(-r.Span); from.Before(w.options.Since) || from.After(w.options.Since) && from.Sub(want).Abs() > time.Millisecond {
				t.Errorf("%s: %d begins at %s, want %s", role, i, from, want)
			}
		}
		want := "99" + strings.Repeat(" 3", 6) + " 35" + strings.Repeat(" 3", 6) + " 35" + strings.Repeat(" 3", 6) + " 35" + strings.Repeat(" 3", 6) + " 35 3 99"
		if got := strings.Join(spans, " "); !strings.HasPrefix(got, want) || len(spans) != 40 {
			t.Errorf("%s: %d nights: %s, want %s", role, len(spans), got, want)
		}
	}
	if n := w.sim.Stats().TooMany; n != 0 {
		t.Errorf("%d answers 429", n)
	}
}

// A comparison in pages that takes more than the limits spare is spread over the
// hours of the night, across restarts, and no cycle waits for it.
func TestReconcileYieldsToTheMirror(t *testing.T) {
	slow(t)
	limits := ksef.DefaultLimits()
	limits[ksef.GroupMetadata] = ksef.Limit{PerSecond: 8, PerMinute: 16, PerHour: 12} // the cycles take 8, two are kept
	w := newWorld(t, ksefsim.Options{Limits: limits})
	w.options.Since = start.Add(-48 * time.Hour)
	w.options.Roles = []string{"seller", "buyer"}
	w.add(w.generate(2500, 40*time.Hour, 101)...)
	m := w.open()
	usual := w.run(m, 12*time.Hour, 15*time.Minute) // the backlog, up to the night
	w.singly()
	late := w.late(2, 20*time.Hour, 102)
	w.add(w.fresh(10, 103)...)
	for range 12 { // restarts
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m = w.open()
		if took := w.run(m, time.Hour, 15*time.Minute); took > max(usual, 90*time.Second) {
			t.Errorf("a cycle took %s", took)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	past := w.past("buyer")
	if len(past) != 1 || past[0].Finished.Sub(past[0].Started) < time.Hour || past[0].Late != len(late) || past[0].Reached != past[0].To {
		t.Errorf("%+v", past)
	}
	if want := len(w.sim.Listed(company, ksef.Buyer)) - 1; len(past) == 1 && past[0].Listed < want-20 {
		t.Errorf("%d listed of %d", past[0].Listed, want)
	}
	w.check()
	if n := w.sim.Stats().TooMany; n != 0 {
		t.Errorf("%d answers 429", n)
	}
}

// A package that takes longer than the time between two cycles is waited for
// across them, and asked for once.
func TestReconcileWaitsAcrossCycles(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.options.Since = start.Add(-48 * time.Hour)
	w.options.Roles = []string{"seller", "buyer"}
	w.add(w.generate(1500, 40*time.Hour, 104)...)
	m := w.open()
	w.run(m, 12*time.Hour, 15*time.Minute)
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Takes: 20 * time.Minute})
	before := w.sim.Stats().ByGroup[ksef.GroupExport]
	w.run(m, 10*time.Hour, 15*time.Minute)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if asked := w.sim.Stats().ByGroup[ksef.GroupExport] - before; asked != 2 {
		t.Errorf("%d packages for two roles", asked)
	}
	for _, role := range w.options.Roles {
		if past := w.past(role); len(past) != 1 || past[0].Reached != past[0].To || past[0].Finished.IsZero() {
			t.Errorf("%s: %+v", role, past)
		}
	}
	if strings.Contains(w.log.String(), "reconciling by pages") {
		t.Error("the package was not waited for")
	}
}

// A package of metadata that hangs is given up after an hour and counts among those
// given up of the day, which are few; pages do instead.
func TestReconcileListHangs(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.options.Since = start.Add(-48 * time.Hour)
	w.options.Roles = []string{"seller", "buyer"}
	w.add(w.generate(1500, 40*time.Hour, 109)...)
	m := w.open()
	w.run(m, 12*time.Hour, 15*time.Minute)
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Status: 100})
	before := w.sim.Stats().ByGroup[ksef.GroupExport]
	w.run(m, 10*time.Hour, 15*time.Minute)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := db.OpenReadOnly(t.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	asked := w.sim.Stats().ByGroup[ksef.GroupExport] - before
	if given, err := d.Abandoned(t.Context(), start); err != nil || given != asked || asked != 2 {
		t.Errorf("%d packages asked for, %d given up, %v", asked, given, err)
	}
	for _, role := range w.options.Roles {
		if past := w.past(role); len(past) != 1 || past[0].Reached != past[0].To || past[0].Err != "" {
			t.Errorf("%s: %+v", role, past)
		}
	}
}

// Packages that KSeF takes long to make may take hours, one after another: the daemon
// hears of each answer, and does not take the mirror for stuck.
func TestReconcileGivesSignsOfLife(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{PackageCap: 200})
	w.options.Since = start.Add(-60 * 24 * time.Hour)
	w.options.Roles = []string{"seller"}
	w.add(w.generate(900, 40*24*time.Hour, 110)...)
	w.mustCycle()
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Takes: 9 * time.Minute})
	began := w.clock.Now()
	last, longest := began, time.Duration(0)
	w.options.Progress = func(ksefsync.Progress) {
		longest, last = max(longest, w.clock.Now().Sub(last)), w.clock.Now()
	}
	if found := w.mustReconcile(w.options.Since); !found["seller"].Agrees() {
		t.Errorf("%+v", found)
	}
	longest = max(longest, w.clock.Now().Sub(last))
	if took := w.clock.Now().Sub(began); longest > 2*time.Minute || took < 9*time.Minute {
		t.Errorf("it took %s, and gave no sign of life for %s", took, longest)
	}
}

// Where the cycle took all the time there is, nothing is asked.
func TestReconcileWithoutTime(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.options.Since = start.Add(-48 * time.Hour)
	w.mustCycle()
	w.clock.advance(24 * time.Hour)
	m := w.open()
	if _, err := m.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		time  time.Duration
		asked int
	}{{0, 0}, {time.Minute, len(roles)}, {time.Minute, 0}} {
		before := w.sim.Stats().Requests
		if _, err := m.ReconcileDue(t.Context(), w.clock.Now().Add(test.time)); err != nil {
			t.Fatal(err)
		}
		if asked := w.sim.Stats().Requests - before; asked != test.asked {
			t.Errorf("in %s %d requests, want %d", test.time, asked, test.asked)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// KSeF's trouble with a comparison is recorded, tried again after some hours and
// not before, and is not the mirror's.
func TestReconcileFailureIsRetriedLater(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.options.Since = start.Add(-48 * time.Hour)
	w.add(w.generate(1500, 40*time.Hour, 105)...)
	m := w.open()
	w.run(m, 12*time.Hour, 15*time.Minute)
	w.sim.Fault(ksefsim.HTMLError(exports, 0, 503))
	failures := func() (n int) {
		for _, r := range w.past("buyer") {
			if strings.Contains(r.Err, "503") {
				n++
			}
		}
		return n
	}
	for w.past("buyer") == nil {
		if _, err := m.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReconcileDue(t.Context(), w.clock.Now().Add(15*time.Minute)); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(15 * time.Minute)
	}
	for range 15 { // nearly four hours
		if _, err := m.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReconcileDue(t.Context(), w.clock.Now().Add(15*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n := failures(); n != 1 {
			t.Fatalf("%d attempts", n)
		}
		w.clock.advance(15 * time.Minute)
	}
	if s := w.status().Streams[1]; s.Reconciled == nil || s.Reconciled.Error == "" || s.LastError != "" {
		t.Errorf("status: %+v", s)
	}
	w.sim.ClearFaults()
	w.run(m, time.Hour, 15*time.Minute)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if s := w.status().Streams[1]; s.Reconciled.Error != "" {
		t.Errorf("status: %+v", s.Reconciled)
	}
}
