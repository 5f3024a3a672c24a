package sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

const exports, parts = "/invoices/exports", "/storage/*/*"

// backlog is a world with enough new invoices for packages.
func backlog(t *testing.T, n int, o ksefsim.Options) *world {
	t.Helper()
	w := newWorld(t, o)
	w.options.Since = start.Add(-48 * time.Hour) // no past windows, which would be empty packages
	w.add(w.generate(n, time.Hour, uint64(n))...)
	return w
}

// routes gives the roles whose last cycle asked for a package.
func routes(r ksefsync.Report) string {
	var by []string
	for _, s := range r.Streams {
		if s.Route == "export" {
			by = append(by, s.Role)
		}
	}
	return strings.Join(by, " ")
}

// A backlog comes in packages, under production limits within the hour; what is
// new afterwards comes singly.
func TestBacklogByPackages(t *testing.T) {
	t.Parallel()
	n := 3000
	if testing.Short() {
		n = 500
	}
	w := backlog(t, n, ksefsim.Options{Limits: ksef.DefaultLimits()})
	report := w.mustCycle()
	w.complete()
	stats := w.sim.Stats()
	if !strings.Contains(routes(report), "buyer") || stats.ByGroup[ksef.GroupDownload] > 32 || stats.TooMany != 0 {
		t.Errorf("by package %q, %d downloads, %d answers 429", routes(report), stats.ByGroup[ksef.GroupDownload], stats.TooMany)
	}
	w.add(w.fresh(5, 71)...)
	w.clock.advance(time.Hour)
	if report := w.mustCycle(); routes(report) != "" || added(report) != 5 {
		t.Errorf("five new invoices: by package %q, %d added", routes(report), added(report))
	}
	w.complete()
}

// Scenarios 15, 16, 17 and 19: packages that end early, by count or by size, at
// an instant with more rows, exactly full, or full and not said to be.
func TestScenario15To19Truncation(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, o := range map[string]ksefsim.Options{
		"15 by count":      {PackageCap: 50},
		"16 exactly full":  {PackageCap: 400},
		"19 by size":       {PackageSize: 60_000},
		"3 in many parts":  {PartSize: 5_000},
		"39 in twenty and": {PartSize: 20_000, PackageCap: 130},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, o)
			invoices := w.generate(400, time.Hour, 72)
			for i := range invoices[100:140] { // more than one at the cut
				invoices[100+i].Stored = invoices[100].Stored
			}
			w.add(invoices...)
			w.mustCycle()
			w.complete()
		})
	}
}

// Scenarios 23 to 37: whatever is wrong with an export, nothing wrong is taken,
// nothing moves, and the same cycle or a later one completes the mirror.
func TestScenario23To37Exports(t *testing.T) {
	shorten := func(data []byte) []byte { return data[:len(data)-40] }
	flip := func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 0x10
		return data
	}
	status := func(code int) ksefsim.ExportOutcome { return ksefsim.ExportOutcome{Times: 2, Status: code} }
	for name, outcome := range map[string]ksefsim.ExportOutcome{
		"23 metadata cut":  {Times: 2, Package: func(p *ksefsim.Package) { p.Metadata().Data = shorten(p.Metadata().Data) }},
		"23 metadata gone": {Times: 2, Package: func(p *ksefsim.Package) { p.Entries = p.Entries[:len(p.Entries)-1] }},
		"23 with BOM": {Times: 2, Package: func(p *ksefsim.Package) {
			p.Metadata().Data = append([]byte("\xef\xbb\xbf"), p.Metadata().Data...)
		}},
		"07 no mark":     {Times: 2, Answer: func(a map[string]any) { a["package"].(map[string]any)["permanentStorageHwmDate"] = nil }},
		"24 XML missing": {Times: 2, Package: func(p *ksefsim.Package) { p.Entries = p.Entries[1:] }},
		"24 XML extra": {Times: 2, Package: func(p *ksefsim.Package) {
			extra, err := ksef.NewNumber("5265877635-20261101-0100001AF629")
			if err == nil {
				p.Entries = append([]ksefsim.Entry{{Name: string(extra) + ".xml", Data: []byte("<x/>")}}, p.Entries...)
			}
		}},
		"24 count wrong": {Times: 2, Answer: func(a map[string]any) { a["package"].(map[string]any)["invoiceCount"] = 7 }},
		"25 twice":       {Times: 2, Package: func(p *ksefsim.Package) { p.Entries = append(p.Entries[:1:1], p.Entries...) }},
		"27 slow":        {Times: 4, Takes: 5 * time.Minute},
		"28 expired 210": status(210), "28 gone 410": status(410),
		"29 failed 500": status(500), "29 cancelled 550": status(550),
		"30 key 415":         status(415),
		"31 no package":      {Times: 2, Answer: func(a map[string]any) { a["package"] = nil }},
		"35 wrong hash":      {Times: 2, Answer: wrongHash},
		"36 corrupt archive": {Times: 2, Archive: flip},
		"36 cut archive":     {Times: 2, Archive: shorten},
		"37 Zstd":            {Times: 2, Answer: func(a map[string]any) { a["package"].(map[string]any)["compressionType"] = "Zstd" }},
		"37 absent":          {Answer: func(a map[string]any) { delete(a["package"].(map[string]any), "compressionType") }},
		"38 zip slip": {Times: 2, Package: func(p *ksefsim.Package) {
			p.Entries = append([]ksefsim.Entry{{Name: "../../x.xml", Data: []byte("<x/>")}}, p.Entries...)
		}},
		"65 hash of an invoice": {Times: 2, Package: func(p *ksefsim.Package) { p.Entries[0].Data = append(bytes.Clone(p.Entries[0].Data), ' ') }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := backlog(t, 200, ksefsim.Options{})
			w.sim.SetExportOutcome(outcome)
			for range 4 {
				if _, err := w.cycle(); err != nil && !strings.Contains(err.Error(), "still preparing") {
					t.Fatal(err)
				}
				w.clock.advance(2 * time.Hour)
			}
			w.complete()
			sound := map[string]bool{"23 with BOM": true, "27 slow": true, "37 absent": true, "65 hash of an invoice": true}[name]
			if refused := strings.Contains(w.log.String(), "export came to nothing"); refused == sound {
				t.Errorf("a package was refused: %v", refused)
			}
			if left := w.status().Waiting; len(left) != 0 {
				t.Errorf("waiting: %+v", left)
			}
			if left := files(t, w.dir+"/packages"); len(left) != 0 {
				t.Errorf("left over: %q", left)
			}
		})
	}
}

func wrongHash(a map[string]any) {
	for _, each := range a["package"].(map[string]any)["parts"].([]any) {
		each.(map[string]any)["encryptedPartHash"] = hash([]byte("another"))
	}
}

// Scenarios 27 and 21182: an export that hangs for ever is left for the other
// roles, given up after an hour, and its invoices come singly.
func TestScenario27Stuck(t *testing.T) {
	slow(t)
	t.Parallel()
	w := backlog(t, 120, ksefsim.Options{})
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Status: 100})
	for range 12 {
		_, _ = w.cycle()
		w.clock.advance(15 * time.Minute)
	}
	w.complete()
	// Two roles ask, so a fourth may be under way when the third is given up.
	if asked := w.sim.Stats().ByPath["POST /invoices/exports"]; asked < 3 || asked > 4 {
		t.Errorf("%d exports were asked for, want no more once three have been given up", asked)
	}

	// A day later packages are asked for again, and work.
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{})
	w.clock.advance(25 * time.Hour)
	w.add(w.fresh(100, 27)...)
	w.clock.advance(10 * time.Minute)
	if report := w.mustCycle(); routes(report) != "seller buyer" {
		t.Errorf("by packages: %q", routes(report))
	}
	w.complete()
}

// The roles take turns: one with a backlog cannot use up the hour's packages
// before another, which needs one, had its turn.
func TestRolesShareTheBudget(t *testing.T) {
	slow(t)
	t.Parallel()
	limits := ksef.DefaultLimits()
	limits[ksef.GroupExport] = ksef.Limit{PerSecond: 4, PerMinute: 4, PerHour: 4}
	w := newWorld(t, ksefsim.Options{Limits: limits, PackageCap: 40})
	w.options.Roles, w.options.Since = []string{"buyer", "seller"}, w.clock.Now().Add(-48*time.Hour)
	w.add(w.generate(700, 24*time.Hour, 5)...)
	report, err := w.cycle()
	budget := asBudget(err)
	if budget == nil || budget.Group != ksef.GroupExport || budget.Until.Sub(w.clock.Now()) > 62*time.Minute {
		t.Fatalf("the cycle ended with %v, want it to wait for the next package", err)
	}
	added := map[string]int{}
	for _, s := range report.Streams {
		added[s.Role] = s.Added
		if !strings.HasPrefix(s.Reason, "waiting: ") {
			t.Errorf("%s: %s", s.Role, s.Reason)
		}
	}
	// At the seam an invoice of each package comes again.
	if added["buyer"] < 70 || added["seller"] < 70 {
		t.Errorf("added %v, want two packages for each", added)
	}
	for _, s := range w.status().Streams {
		if (s.Role == "buyer" || s.Role == "seller") && !strings.HasPrefix(s.Reason, "waiting: ") {
			t.Errorf("status of %s: %q", s.Role, s.Reason)
		}
	}
	w.options.Roles = roles
	for range 12 {
		w.clock.advance(62 * time.Minute)
		if _, err := w.cycle(); err != nil && asBudget(err) == nil {
			t.Fatal(err)
		}
	}
	w.complete()
	if n := w.sim.Stats().TooMany; n != 0 {
		t.Errorf("%d answers 429", n)
	}
}

// A role that is always empty is asked less and less, but twice a day; what it
// gets at last is noticed, and from then on it is asked like the others.
func TestEmptyRolesRest(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	w.options.Roles, w.options.EveryRole = []string{"seller", "buyer"}, false
	w.add(ksefsim.Generate(ksefsim.GenerateOptions{Count: 1, Context: company, Seed: 1, From: start.Add(-2 * time.Hour), To: start.Add(-time.Hour)})...)
	first := w.mustCycle()
	busy := first.Streams[slices.IndexFunc(first.Streams, func(s ksefsync.StreamReport) bool { return s.Added > 0 })].Role
	asked := map[string]int{}
	last, longest := w.clock.Now(), time.Duration(0)
	const cycles = 4 * 24 * 2 // two days
	for range cycles {
		w.clock.advance(15 * time.Minute)
		for _, s := range w.mustCycle().Streams {
			asked[s.Role]++
			if s.Role != busy {
				longest = max(longest, w.clock.Now().Sub(last))
				last = w.clock.Now()
			}
		}
	}
	idle := map[string]string{"seller": "buyer", "buyer": "seller"}[busy]
	if asked[busy] != cycles || asked[idle] < 4 || asked[idle] > 40 || longest > 24*time.Hour {
		t.Errorf("of %d cycles %d asked for %s and %d for %s, with a pause of %s", cycles, asked[busy], busy, asked[idle], idle, longest)
	}
	if n := w.sim.Stats().TooMany; n != 0 {
		t.Errorf("%d answers 429", n)
	}
}

// A role that is asked for at night is asked for once a night, until it is complete
// up to then; by hand at any time.
func TestNightRoles(t *testing.T) {
	slow(t)
	t.Parallel()
	// Right after the night has begun a mark that lags would still be before it.
	w := newWorld(t, ksefsim.Options{HWMLag: time.Millisecond})
	w.options.Roles, w.options.NightRoles, w.options.EveryRole = []string{"seller", "buyer"}, []string{"buyer"}, false
	w.add(ksefsim.Generate(ksefsim.GenerateOptions{Count: 40, Context: company, Seed: 1, From: start.Add(-2 * time.Hour), To: start.Add(-time.Hour)})...)
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	asked := func() bool {
		return slices.ContainsFunc(w.mustCycle().Streams, func(s ksefsync.StreamReport) bool { return s.Role == "buyer" })
	}
	if !asked() || asked() {
		t.Error("a new mirror asks for it at once, and then no more")
	}
	nights := map[string]int{}
	for range 3 * 24 * 2 {
		w.clock.advance(30 * time.Minute)
		if at := w.clock.Now().In(warsaw); asked() {
			nights[at.Format(time.DateOnly)]++
			if at.Hour() < 1 || at.Hour() > 5 {
				t.Errorf("asked for at %s", at)
			}
		}
	}
	for night, times := range nights {
		if times > 1 {
			t.Errorf("asked for %d times in the night of %s", times, night)
		}
	}
	if len(nights) != 3 {
		t.Errorf("asked for in %d of three nights", len(nights))
	}
	// A night that failed or was missed is made up for by day.
	w.clock.advance(time.Duration(36-w.clock.Now().In(warsaw).Hour()) * time.Hour) // about noon tomorrow
	w.sim.Fault(ksefsim.Answer("/invoices/query/metadata", 2, http.StatusServiceUnavailable, nil, ""))
	if _, err := w.cycle(); err == nil {
		t.Fatal("KSeF was to be in trouble")
	}
	w.sim.ClearFaults()
	w.clock.advance(15 * time.Minute)
	if !asked() || asked() {
		t.Error("after a night that was missed and a failure it is asked for until that is made up for, and then no more")
	}
	w.options.EveryRole = true
	if !asked() {
		t.Error("by hand it is not asked for")
	}
	w.complete()
}

// Scenarios 31 (no invoices, with and without a part), 32, 33, 34 and 48: parts
// and answers that go wrong on the way.
func TestScenario31To34Parts(t *testing.T) {
	for name, f := range map[string]ksefsim.Fault{
		"33 html":            ksefsim.HTMLError(parts, 1, 200),
		"34 cut":             ksefsim.CutBody(parts, 1, 3000),
		"32 forbidden":       ksefsim.Answer(parts, 1, 403, http.Header{"Content-Type": {"application/xml"}}, "<Error/>"),
		"48 part reset":      ksefsim.Reset(parts, 1),
		"48 part 503":        ksefsim.HTMLError(parts, 1, 503),
		"48 start lost":      ksefsim.LoseAnswer(exports, 1),
		"48 start 502":       ksefsim.HTMLError(exports, 1, 502),
		"48 status 502":      ksefsim.HTMLError("/invoices/exports/*", 1, 502),
		"41 start 429":       ksefsim.TooMany(exports, 1, "2680"),
		"28 status 410 gone": ksefsim.Answer("/invoices/exports/*", 1, 410, http.Header{"Content-Type": {"application/problem+json"}}, `{"title":"Gone","status":410}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := backlog(t, 200, ksefsim.Options{PartSize: 20_000})
			w.sim.Fault(f)
			_, _ = w.cycle() // may end with an error; nothing may be lost or moved
			w.sim.ClearFaults()
			for range 2 {
				w.clock.advance(2 * time.Hour)
				w.mustCycle()
			}
			w.complete()
		})
	}
	for _, part := range []bool{false, true} {
		t.Run(fmt.Sprintf("31 empty, part=%v", part), func(t *testing.T) {
			w := newWorld(t, ksefsim.Options{})
			w.sim.SetExportOutcome(ksefsim.ExportOutcome{EmptyPart: part})
			w.mustCycle() // the past windows are empty
			if w.stream("buyer").Watermark == "" {
				t.Error("an empty package moved nothing")
			}
		})
	}
}

// Scenario 32: all links expire between the parts.
func TestScenario32LinksExpire(t *testing.T) {
	w := backlog(t, 200, ksefsim.Options{PartSize: 20_000})
	w.fault(parts, 1, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(rw, r)
		w.sim.ExpireLinks()
	})
	w.mustCycle()
	w.complete()
	if strings.Contains(w.log.String(), "export came to nothing") {
		t.Error("the export was given up instead of asking for fresh links")
	}
}

// Scenario 44 and the budget: exports are refused when the hour's are used up,
// and single downloads go on.
func TestExportBudget(t *testing.T) {
	slow(t)
	t.Parallel()
	limits := ksef.DefaultLimits()
	limits[ksef.GroupExport] = ksef.Limit{PerSecond: 1, PerMinute: 1, PerHour: 1}
	w := backlog(t, 200, ksefsim.Options{Limits: limits})
	for range 40 {
		_, err := w.cycle()
		budget := asBudget(err)
		if err != nil && budget == nil {
			t.Fatal(err)
		}
		if w.sim.Stats().ByGroup[ksef.GroupDownload] == 0 {
			t.Fatal("without a package to be had nothing came singly")
		}
		w.clock.advance(30 * time.Minute)
	}
	w.complete()
	if n := w.sim.Stats().TooMany; n != 0 {
		t.Errorf("%d answers 429", n)
	}
}

// Scenario 26 in part: an export that was asked for is taken up again by the next
// process, with the key and the reference that were kept; no other is asked for.
func TestScenario26ResumeWhilePolling(t *testing.T) {
	w := backlog(t, 200, ksefsim.Options{PartSize: 20_000})
	w.options.Roles = []string{"buyer"}
	w.sim.Fault(ksefsim.HTMLError("/invoices/exports/*", 2, 502))
	for range 2 {
		if _, err := w.cycle(); err == nil {
			t.Error("a status that could not be read went unnoticed")
		}
	}
	w.resumed()
}

func TestScenario26ResumeWhileDownloading(t *testing.T) {
	w := backlog(t, 200, ksefsim.Options{PartSize: 20_000})
	w.options.Roles = []string{"buyer"}
	ctx, cancel := context.WithCancel(t.Context())
	w.sim.Fault(ksefsim.Hold(parts, 1, func(*http.Request) { cancel() }))
	m, err := ksefsync.Open(ctx, w.options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cycle(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled cycle ended with %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.checkAfter(true)
	w.resumed()
}

// resumed runs one more cycle and expects all of the buyer's invoices, by the one
// export that was asked for before.
func (w *world) resumed() {
	w.tb.Helper()
	w.mustCycle()
	if asked := w.sim.Stats().ByGroup[ksef.GroupExport]; asked != 1 {
		w.tb.Errorf("%d exports were asked for", asked)
	}
	if stored, want := w.status().Invoices, len(w.sim.Listed(company, ksef.Buyer)); stored != want {
		w.tb.Errorf("%d invoices of %d", stored, want)
	}
}
