package sync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// crowd is when the invoices of these tests are stored that share an instant.
var crowd = start.Add(-30 * time.Minute)

// crowded is a world with n invoices of all roles at one instant and some before
// and after it.
func crowded(t *testing.T, n int, o ksefsim.Options) *world {
	t.Helper()
	w := newWorld(t, o)
	w.options.Since = start.Add(-48 * time.Hour) // no past windows, which would be empty packages
	invoices := w.generate(n+80, time.Hour, uint64(n))
	for i := range invoices[:n] {
		invoices[i].Stored = crowd
	}
	for i := range invoices[n:] {
		invoices[n+i].Stored = crowd.Add(time.Duration(i-40) * time.Second)
	}
	w.add(invoices...)
	return w
}

// refusal is KSeF's answer to a request that it does not take.
const refusal = `{"exception":{"exceptionDetailList":[{"exceptionCode":21405,"exceptionDescription":"Błąd walidacji danych wejściowych."}]}}`

// small makes n invoices of one instant that the company sees as buyer, with the
// gross amounts that are given, of documents that take no time to read.
func small(n int, gross func(int) json.Number) []ksefsim.Invoice {
	invoices := make([]ksefsim.Invoice, n)
	for i := range invoices {
		invoices[i] = ksefsim.Invoice{
			XML: fmt.Appendf(nil, `<Faktura xmlns="http://example.org/"><P_2>%d</P_2></Faktura>`, i), Stored: crowd,
			Metadata: func(m *ksef.Metadata) { m.GrossAmount = gross(i) },
		}
	}
	return invoices
}

// alike gives each invoice the same amount, as a seller's subscriptions have.
func alike(int) json.Number { return "49.99" }

// keep opens the mirror and runs cycles in it, as the daemon does, until one is
// neither cut short by the limits nor stuck, and gives how many it took.
func (w *world) keep(most int) int {
	w.tb.Helper()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			w.tb.Error(err)
		}
	}()
	for cycles := 1; ; cycles++ {
		_, err := m.Cycle(w.tb.Context())
		w.checkAfter(err != nil)
		if err == nil {
			return cycles
		}
		budget := asBudget(err)
		if budget == nil && !errors.Is(err, ksefsync.ErrStuck) || cycles == most {
			w.tb.Fatalf("cycle %d: %v", cycles, err)
		}
		if budget != nil {
			w.clock.advance(max(0, budget.Until.Sub(w.clock.Now())))
		}
		w.clock.advance(time.Second)
	}
}

// Scenario 18: 25,000 invoices at one instant come within the limits of an hour,
// by packages alone, as do those of the other roles and those behind the instant.
func TestScenario18FullSize(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 25,000 invoices")
	}
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits(), Everyone: company})
	w.options.Since = start.Add(-48 * time.Hour)
	w.add(small(25_000, func(i int) json.Number { return json.Number(fmt.Sprintf("%d.%02d", i%7000, i%100)) })...)
	w.add(w.generate(60, time.Hour, 75)...)
	began := time.Now()
	w.mustCycle()
	w.complete()
	stats := w.sim.Stats()
	if stats.TooMany != 0 || stats.ByGroup[ksef.GroupExport] > 12 {
		t.Errorf("%d packages, %d answers 429", stats.ByGroup[ksef.GroupExport], stats.TooMany)
	}
	t.Logf("%d packages, %d downloads, %s", stats.ByGroup[ksef.GroupExport], stats.ByGroup[ksef.GroupDownload], time.Since(began).Round(time.Second))
}

// Scenario 17 at one instant: KSeF puts 10,001 invoices into a package and says
// that it is not truncated.
func TestScenario17FullSize(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 10,001 invoices")
	}
	w := newWorld(t, ksefsim.Options{PackageCap: 10_001, Everyone: company})
	w.options.Since = start.Add(-48 * time.Hour)
	w.options.Roles = []string{"buyer"}
	w.add(small(10_001, func(i int) json.Number { return json.Number(strconv.Itoa(i % 500)) })...)
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Answer: func(answer map[string]any) {
		shown := answer["package"].(map[string]any)
		shown["isTruncated"] = false
		delete(shown, "lastPermanentStorageDate")
	}})
	w.mustCycle()
	w.complete()
	if n := w.sim.Stats().ByGroup[ksef.GroupExport]; n < 3 {
		t.Errorf("%d packages: what KSeF said was believed", n)
	}
}

// Scenario 18 in small: however the packages end, all of an instant comes by them.
func TestScenario18Crowded(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, o := range map[string]ksefsim.Options{
		"by count":         {PageCap: 300, PackageCap: 80},
		"by size":          {PackageSize: 60_000},
		"one more":         {PackageCap: 299},
		"full to the last": {PackageCap: 300},
	} {
		t.Run(name, func(t *testing.T) {
			w := crowded(t, 600, o) // about half of them are sales, half purchases
			w.mustCycle()
			w.complete()
			for _, role := range roles {
				if at := ksef.Timestamp(w.stream(role).Watermark).Time(); at.Before(start.Add(-5 * time.Minute)) {
					t.Errorf("%s: watermark %s", role, at)
				}
			}
			if n := w.sim.Stats().ByGroup[ksef.GroupDownload]; n > 64 {
				t.Errorf("%d single downloads", n)
			}
		})
	}
}

// Scenario 18 where no filter helps: invoices that are alike. The instant waits and
// holds the watermark, loudly; what comes behind it and the other roles are
// mirrored, and the packages for it are not asked for again before the next day.
func TestScenario18Alike(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{PackageCap: 100, Everyone: company})
	w.options.Since = start.Add(-48 * time.Hour)
	w.add(small(350, alike)...)
	w.add(w.generate(60, 20*time.Minute, 76)...)
	later := w.generate(20, 0, 77)
	for i := range later {
		later[i].Stored = crowd.Add(time.Duration(i+1) * time.Second)
	}
	w.add(later...)
	report := w.mustCycle()

	if stored := w.status().Invoices; stored < 100+60+20 { // a package, what came before, and what came later
		t.Errorf("%d invoices are mirrored", stored)
	}
	if at := ksef.Timestamp(w.stream("buyer").Watermark).Time(); !at.Equal(crowd) {
		t.Errorf("watermark %s, want the instant %s", at, crowd)
	}
	if at := ksef.Timestamp(w.stream("seller").Watermark).Time(); at.Before(start.Add(-5 * time.Minute)) {
		t.Errorf("the seller's watermark is %s", at)
	}
	waiting := w.status().Waiting
	if len(waiting) != 1 || waiting[0].Role != "buyer" || !strings.Contains(waiting[0].KSeFNumber, "2026-11-20T11:30:00") ||
		!regexp.MustCompile("KSeF gave [123][0-9]{2} invoices").MatchString(waiting[0].Reason) || !strings.Contains(waiting[0].Reason, "more are alike") || !strings.Contains(waiting[0].Reason, "Ministry of Finance") {
		t.Errorf("waiting %+v", waiting)
	}
	if !strings.Contains(w.log.String(), "level=ERROR") {
		t.Error("nothing loud in the log")
	}
	for _, s := range report.Streams {
		if (s.Role == "buyer") != (s.Waiting == 1) {
			t.Errorf("%s: %d waiting", s.Role, s.Waiting)
		}
	}

	packages := w.sim.Stats().ByGroup[ksef.GroupExport]
	for range 20 {
		w.clock.advance(time.Hour)
		w.mustCycle()
	}
	if again := w.sim.Stats().ByGroup[ksef.GroupExport] - packages; again != 0 {
		t.Errorf("%d more packages within the day", again)
	}
	w.clock.advance(5 * time.Hour)
	w.mustCycle()
	if again := w.sim.Stats().ByGroup[ksef.GroupExport] - packages; again == 0 {
		t.Error("a day later the instant was not tried again")
	}
}

// Filters that KSeF refuses, or that lose invoices, must not pass for complete.
// Once they work, the instant is mirrored and the watermark goes on.
func TestInstantWithUnusableFilters(t *testing.T) {
	slow(t)
	t.Parallel()
	why := map[string]string{"refused": "refuses the filter", "losing": "in none of the parts"}
	for name, amount := range map[string]func(rw http.ResponseWriter, filter map[string]any) bool{
		"refused": func(rw http.ResponseWriter, _ map[string]any) bool {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusBadRequest)
			_, err := rw.Write([]byte(refusal))
			return err == nil
		},
		"losing": func(_ http.ResponseWriter, filter map[string]any) bool {
			if filter["from"] != nil { // as if the amounts of some were not known
				filter["from"] = 1e12
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := crowded(t, 500, ksefsim.Options{PackageCap: 100})
			w.fault(exports, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				body := readAll(t, r)
				var request map[string]any
				if err := json.Unmarshal(body, &request); err != nil {
					t.Error(err)
				}
				if filter, ok := request["filters"].(map[string]any)["amount"].(map[string]any); ok {
					if amount(rw, filter) {
						return
					}
					var err error
					if body, err = json.Marshal(request); err != nil {
						t.Error(err)
					}
				}
				next.ServeHTTP(rw, withBody(r, body))
			})
			w.mustCycle()
			for _, role := range []string{"buyer", "seller"} {
				if at := ksef.Timestamp(w.stream(role).Watermark).Time(); !at.Equal(crowd) {
					t.Errorf("%s: watermark %s, want the instant %s", role, at, crowd)
				}
			}
			if waiting := w.status().Waiting; len(waiting) != 2 || !strings.Contains(waiting[0].Reason, why[name]) {
				t.Errorf("waiting %+v", waiting)
			}
			w.sim.ClearFaults()
			w.clock.advance(25 * time.Hour)
			w.mustCycle()
			w.complete()
			if waiting := w.status().Waiting; len(waiting) != 0 {
				t.Errorf("still waiting: %+v", waiting)
			}
			if at := ksef.Timestamp(w.stream("buyer").Watermark).Time(); at.Before(start) {
				t.Errorf("the watermark stayed at %s", at)
			}
		})
	}
}

// The hour's packages do not suffice for an instant: the next cycles go on where
// the limits ended it. One that began anew each time would never come to an end.
func TestScenario18OverHours(t *testing.T) {
	slow(t)
	t.Parallel()
	limits := ksef.DefaultLimits()
	limits[ksef.GroupExport] = ksef.Limit{PerSecond: 4, PerMinute: 4, PerHour: 4}
	parts := func(limits ksef.Limits) (packages, cycles int) {
		w := crowded(t, 600, ksefsim.Options{PackageCap: 40, Limits: limits})
		w.options.Roles = []string{"buyer"}
		cycles = w.keep(40)
		w.complete()
		if n := w.sim.Stats().TooMany; n != 0 {
			t.Errorf("%d answers 429", n)
		}
		return w.sim.Stats().ByGroup[ksef.GroupExport], cycles
	}
	want, _ := parts(nil)
	got, cycles := parts(limits)
	if cycles < 4 || got > 2*want { // rows that tie come in another order each time, and the cuts differ with it
		t.Errorf("%d packages in %d cycles, %d without limits", got, cycles, want)
	}
}

// Scenario 27 at an instant: every export takes longer than a cycle waits for it.
func TestScenario27SlowInstant(t *testing.T) {
	slow(t)
	w := crowded(t, 500, ksefsim.Options{PackageCap: 100})
	w.options.Roles = []string{"buyer"}
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Takes: 12 * time.Minute})
	w.keep(40)
	w.complete()
}

// Scenario 26 at an instant: wherever the process ends between its parts, nothing
// is passed over, and the next one completes it.
func TestScenario26CrashAtInstant(t *testing.T) {
	slow(t)
	t.Parallel()
	for n := 0; ; n += 5 {
		w := newWorld(t, ksefsim.Options{PackageCap: 50, Everyone: company})
		w.options.Since = start.Add(-48 * time.Hour)
		w.add(small(120, func(i int) json.Number { return json.Number(strconv.Itoa(i)) })...)
		w.options.Roles = []string{"buyer"}
		ctx, cancel := context.WithCancel(t.Context())
		reached := false
		hold := ksefsim.Hold("", 1, func(*http.Request) { reached = true; cancel() })
		hold.Skip = n
		w.sim.Fault(hold)
		m, err := ksefsync.Open(ctx, w.options)
		if err == nil {
			_, err = m.Cycle(ctx)
		}
		if reached != (err != nil) {
			t.Errorf("ended at request %d: %v", n, err)
		}
		if m != nil {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		w.checkAfter(true)
		w.mustCycle()
		w.complete()
		if t.Failed() {
			t.Fatalf("ended at request %d", n)
		}
		if !reached {
			break
		}
	}
}

// An export of part of an instant that a dead process left is no reason to move:
// what it does not hold is still to come.
func TestResumedPartMovesNothing(t *testing.T) {
	slow(t)
	t.Parallel()
	w := crowded(t, 500, ksefsim.Options{PackageCap: 100})
	w.options.Roles = []string{"buyer"}
	// The window's package, that of the instant, and the first part of it.
	broken := ksefsim.HTMLError("/invoices/exports/*", 0, 502)
	broken.Skip = 2
	w.sim.Fault(broken)
	if _, err := w.cycle(); err == nil {
		t.Fatal("a status that could not be read went unnoticed")
	}
	if n := w.sim.Stats().ByGroup[ksef.GroupExport]; n != 3 {
		t.Fatalf("%d exports", n)
	}
	w.sim.ClearFaults()
	// The next process gets no further than to the part that was left.
	w.sim.Fault(ksefsim.HTMLError(query, 0, 502))
	before := w.stream("buyer").Position
	if _, err := w.cycle(); err == nil {
		t.Fatal("a query that could not be read went unnoticed")
	}
	if after := w.stream("buyer").Position; after != before {
		t.Errorf("position %s became %s", before, after)
	}
	w.sim.ClearFaults()
	w.mustCycle()
	w.complete()
}

// Scenario 20: without packages an instant comes page by page; a row comes on two
// of them and another on none.
func TestScenario20PageShift(t *testing.T) {
	slow(t)
	t.Parallel()
	pages := func(t *testing.T) *world {
		w := newWorld(t, ksefsim.Options{Everyone: company})
		w.options.Since = start.Add(-48 * time.Hour)
		w.options.Roles = []string{"buyer"}
		w.add(small(700, alike)...)
		w.add(w.generate(20, 10*time.Minute, 78)...)
		w.singly()
		return w
	}
	for name, times := range map[string]int{"once": 1, "twice": 2} {
		t.Run(name, func(t *testing.T) {
			w := pages(t)
			shift := ksefsim.PageShift(0)
			n := 0
			w.fault(query, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Query().Get("pageOffset") == "2" {
					if n++; n <= times {
						shift.Do(rw, r, next)
						return
					}
				}
				next.ServeHTTP(rw, r)
			})
			w.mustCycle()
			w.complete()
			if n <= times {
				t.Errorf("the last page was asked for %d times", n)
			}
		})
	}
	t.Run("always", func(t *testing.T) {
		w := pages(t)
		w.sim.Fault(ksefsim.PageShift(0))
		if _, err := w.cycle(); !errors.Is(err, ksefsync.ErrStuck) {
			t.Errorf("got %v", err)
		}
		if at := ksef.Timestamp(w.stream("buyer").Position).Time(); at.After(crowd) {
			t.Errorf("it moved on to %s", at)
		}
		w.sim.ClearFaults()
		w.clock.advance(time.Hour)
		w.mustCycle()
		w.complete()
	})
}

// Scenario 21: the high water mark changes between two pages, and with it the
// rows: all is read again.
func TestScenario21MarkChanges(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{Everyone: company})
	w.options.Roles = []string{"buyer"}
	w.options.Since = start.Add(-48 * time.Hour)
	w.add(small(700, alike)...)
	w.singly()
	changed := 0
	w.fault(query, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Get("pageOffset") != "2" || changed > 0 {
			next.ServeHTTP(rw, r)
			return
		}
		changed++
		ksefsim.RewriteJSON(query, 1, func(answer map[string]any) {
			answer["permanentStorageHwmDate"] = "2026-11-20T11:30:00.000001+00:00"
			answer["invoices"] = []any{}
		}).Do(rw, r, next)
	})
	w.mustCycle()
	w.complete()
	if changed == 0 {
		t.Error("no third page was asked for")
	}
}

// Scenario 22: KSeF never says that it truncates, and refuses the page that begins
// at its limit. By packages the instant is narrowed until it fits.
func TestScenario22BeyondLastPage(t *testing.T) {
	slow(t)
	t.Parallel()
	w := crowded(t, 1300, ksefsim.Options{PackageCap: 500})
	w.options.Roles = []string{"buyer", "third_party"}
	w.fault(query, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Get("pageOffset") < "2" {
			next.ServeHTTP(rw, r)
			return
		}
		ksefsim.Answer(query, 1, http.StatusBadRequest, http.Header{"Content-Type": {"application/json"}}, refusal).Do(rw, r, next)
	})
	w.singly()
	report, err := w.cycle()
	if !errors.Is(err, ksefsync.ErrStuck) || !strings.Contains(err.Error(), "more invoices of 2026-11-20T11:30:00") {
		t.Errorf("got %v", err)
	}
	for _, s := range report.Streams {
		if (s.Role == "buyer") != (s.Err != nil) {
			t.Errorf("%s: %v", s.Role, s.Err)
		}
	}
	if at := ksef.Timestamp(w.stream("buyer").Position).Time(); at.After(crowd) {
		t.Errorf("it moved on to %s", at)
	}
	w.sim.ClearFaults()
	w.clock.advance(time.Hour)
	w.mustCycle()
	w.complete()
}

// One invoice in quarantine at a crowded instant is tried again by itself, not
// with all of the instant.
func TestRetryAtCrowdedInstant(t *testing.T) {
	slow(t)
	t.Parallel()
	w := crowded(t, 600, ksefsim.Options{PackageCap: 80})
	w.options.Roles = []string{"buyer"}
	victim := w.sim.Listed(company, ksef.Buyer)[60]
	if !victim.StoredAt.Equal(crowd) {
		t.Fatalf("stored at %s", victim.StoredAt)
	}
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) {
		for i := range p.Entries {
			if p.Entries[i].Name == string(victim.Number)+".xml" {
				p.Entries[i].Data = []byte("<damaged/>")
			}
		}
	}})
	w.mustCycle()
	if waiting := w.status().Waiting; len(waiting) != 1 || waiting[0].KSeFNumber != string(victim.Number) {
		t.Fatalf("waiting %+v", waiting)
	}
	packages := w.sim.Stats().ByGroup[ksef.GroupExport]
	w.clock.advance(2 * time.Hour)
	w.mustCycle()
	w.complete()
	if again := w.sim.Stats().ByGroup[ksef.GroupExport] - packages; again != 0 {
		t.Errorf("%d packages for one invoice", again)
	}
}
