package sync_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

const query, download = "/invoices/query/metadata", "/invoices/ksef/*"

// added sums what all streams stored.
func added(r ksefsync.Report) int {
	n := 0
	for _, s := range r.Streams {
		n += s.Added
	}
	return n
}

// singly makes KSeF refuse every export, so that invoices are fetched one by one.
func (w *world) singly() {
	w.sim.Fault(ksefsim.Answer("/invoices/exports", 0, 400, http.Header{"Content-Type": {"application/json"}},
		`{"exception":{"exceptionDetailList":[{"exceptionCode":21182,"exceptionDescription":"Osiągnięto limit trwających eksportów."}]}}`))
}

func TestMirrorsEverythingOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.singly()
	w.add(w.generate(300, 30*24*time.Hour, 1)...)
	w.mustCycle()
	w.complete()

	downloads := w.sim.Stats().ByGroup[ksef.GroupDownload]
	if downloads != 300 {
		t.Errorf("%d downloads for 300 invoices", downloads)
	}
	w.add(w.fresh(7, 2)...)
	w.clock.advance(15 * time.Minute)
	report := w.mustCycle()
	if added(report) != 7 {
		t.Errorf("the second cycle added %d of 7", added(report))
	}
	w.complete()
	if now := w.sim.Stats().ByGroup[ksef.GroupDownload]; now-downloads != added(report) {
		t.Errorf("the second cycle downloaded %d invoices and added %d", now-downloads, added(report))
	}
}

// The hour's budget ends a cycle half-way; the next ones go on from there and
// never ask for an invoice twice (Show 3).
func TestProductionLimits(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	w.singly()
	w.add(w.generate(300, 30*24*time.Hour, 3)...)
	total, first := 0, true
	for cycles := 0; ; cycles++ {
		report, err := w.cycle()
		total += added(report)
		budget := asBudget(err)
		if err != nil && budget == nil {
			t.Fatal(err)
		}
		if first && (budget == nil || total != 64) {
			t.Fatalf("the first hour mirrored %d invoices and ended with %v; the limit is 64", total, err)
		}
		first = false
		if budget == nil && total == 300 {
			break
		}
		if cycles > 20 {
			t.Fatalf("%d of 300 after %d cycles", total, cycles)
		}
		if wait := budget.Until.Sub(w.clock.Now()); wait > 65*time.Minute {
			t.Fatalf("it would wait %s for an hourly limit", wait)
		} else {
			w.clock.advance(wait)
		}
	}
	w.complete()
	stats := w.sim.Stats()
	if stats.TooMany != 0 {
		t.Errorf("%d answers 429", stats.TooMany)
	}
	for number, times := range stats.Downloads {
		if times != 1 {
			t.Errorf("%s was downloaded %d times", number, times)
		}
	}
	if hours := w.clock.Now().Sub(start).Hours(); hours > 5 {
		t.Errorf("300 invoices at 64 an hour took %.1f h", hours)
	}
}

// A restart loop must not use up more than the hour allows (scenario 43), and a
// wrong local clock must not either (13).
func TestScenario43RestartLoop(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	w.add(w.generate(50, time.Hour, 4)...)
	for i := range 40 {
		// Each start believes another wall clock.
		wrong := time.Duration(i%5-2) * time.Hour
		w.options.Now = func() time.Time { return w.clock.Now().Add(wrong) }
		_, _ = w.cycle() // most of them may ask nothing
		w.clock.advance(30 * time.Second)
	}
	if stats := w.sim.Stats(); stats.TooMany != 0 || stats.ByGroup[ksef.GroupMetadata] > 20 {
		t.Errorf("%d metadata queries, %d answers 429", stats.ByGroup[ksef.GroupMetadata], stats.TooMany)
	}
}

// Scenario 1: an invoice becomes visible late, below newer ones but above the
// high water mark.
func TestScenario01LateArrival(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	invoices := w.generate(10, time.Hour, 5)
	for i := range invoices {
		invoices[i].Stored = start.Add(time.Duration(i) * time.Second)
	}
	invoices[4].Visible = start.Add(30 * time.Minute)
	w.add(invoices...)
	w.clock.advance(10 * time.Minute)
	w.mustCycle()
	w.clock.advance(time.Hour)
	w.mustCycle()
	w.complete()
}

// Scenarios 3 and 60: at the seam of two windows, and in several roles, an
// invoice is stored once.
func TestScenario03And60Seam(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(40, time.Hour, 6)...)
	w.mustCycle()
	// The watermark is the mark now; an invoice exactly there belongs to both.
	mark := w.sim.HWM()
	next := w.generate(1, time.Minute, 7)
	next[0].Stored = mark
	w.clock.advance(time.Minute)
	w.add(next...)
	for range 3 {
		w.clock.advance(15 * time.Minute)
		w.mustCycle()
	}
	w.complete()
	for number, times := range w.sim.Stats().Downloads {
		if times != 1 {
			t.Errorf("%s was downloaded %d times", number, times)
		}
	}
}

// Scenarios 4, 6 and 7: a mark that is behind the watermark, goes back, or is
// missing moves nothing.
func TestScenario04And06And07Mark(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(20, time.Hour, 8)...)
	w.mustCycle()
	before := w.stream("buyer")
	w.sim.SetHWM(w.sim.HWM().Add(-10 * time.Minute))
	report := w.mustCycle() // 21183: nothing new, no error
	if after := w.stream("buyer"); after.Watermark != before.Watermark || after.LastError != "" {
		t.Errorf("watermark %s became %s, error %q", before.Watermark, after.Watermark, after.LastError)
	}
	if report.Err() != nil {
		t.Error(report.Err())
	}
	w.sim.SetHWM(time.Time{})

	w.clock.advance(time.Hour)
	w.sim.Fault(ksefsim.NullHWM(0))
	if _, err := w.cycle(); err == nil {
		t.Error("a missing high water mark was accepted")
	}
	if after := w.stream("buyer"); after.Watermark != before.Watermark {
		t.Errorf("watermark %s became %s without a mark", before.Watermark, after.Watermark)
	}
	w.sim.ClearFaults()
	w.mustCycle()
	w.complete()
}

// Scenario 8: rows beyond the high water mark are stored, but the watermark does
// not follow them.
func TestScenario08RestrictIgnored(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{HWMLag: time.Hour})
	invoices := w.generate(300, time.Hour, 9)
	for i := range invoices {
		invoices[i].Stored = start.Add(time.Duration(i-300) * 20 * time.Second)
	}
	w.add(invoices...)
	w.sim.Fault(ksefsim.IgnoreRestrict(0))
	w.mustCycle()
	for _, role := range roles {
		if at := ksef.Timestamp(w.stream(role).Watermark).Time(); at.After(w.sim.HWM()) {
			t.Errorf("%s: watermark %s is beyond the mark %s", role, at, w.sim.HWM())
		}
	}
}

// Scenarios 9 and 10: dates of any precision and offset; the watermark is sent
// back byte for byte.
func TestScenario09And10Timestamps(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	forms := []string{"2026-11-20T09:00:00Z", "2026-11-20T10:00:01.123+01:00", "2026-11-20T09:00:02.123456+00:00",
		"2026-11-20T11:00:03.1234567+02:00", "2026-11-20T09:00:04.123456789Z"}
	invoices := w.generate(len(forms), time.Hour, 10)
	for i := range invoices {
		invoices[i].Metadata = func(m *ksef.Metadata) { m.Stored = ksef.Timestamp(forms[i]) }
	}
	w.add(invoices...)
	w.mustCycle()
	w.complete()

	const mark = "2026-11-20T11:59:30.1234567+00:00"
	w.sim.Fault(ksefsim.RewriteJSON(query, 4, func(answer map[string]any) { answer["permanentStorageHwmDate"] = mark }))
	w.mustCycle()
	if got := w.stream("buyer").Watermark; got != mark {
		t.Fatalf("watermark %s, KSeF said %s", got, mark)
	}
	var sent []string
	w.fault(query, 4, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		body := readAll(t, r)
		sent = append(sent, string(body))
		next.ServeHTTP(rw, withBody(r, body))
	})
	w.clock.advance(time.Hour)
	w.mustCycle()
	if len(sent) == 0 || !strings.Contains(sent[0], `"from":"`+mark+`"`) {
		t.Errorf("sent %q, want the watermark byte for byte", sent)
	}
}

// Scenario 11: the first sync walks windows of at most 99 days without a gap,
// which the simulator (100 days at most) and the check would show.
func TestScenario11And12Windows(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(60, 290*24*time.Hour, 11)...)
	w.mustCycle()
	w.complete()
	for i := range 12 { // off for 120 days, the refresh token dead
		w.clock.advance(10 * 24 * time.Hour)
		w.add(w.fresh(3, uint64(50+i))...)
	}
	w.clock.advance(time.Hour)
	w.mustCycle()
	w.complete()
}

func TestTruncation(t *testing.T) {
	w := newWorld(t, ksefsim.Options{PageCap: 100})
	w.add(w.generate(700, 24*time.Hour, 15)...)
	w.mustCycle()
	w.complete()
}

// Scenario 65 and 67: what fails its checks goes to quarantine with a note, holds
// the watermark, stops nothing behind it, and is mirrored once it is right.
func TestScenario65And67Quarantine(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	invoices := w.generate(12, time.Hour, 16)
	for i := range invoices {
		invoices[i].Stored = start.Add(time.Duration(i-60) * time.Minute)
	}
	w.add(invoices...)
	seller := w.sim.Listed(company, ksef.Seller)
	victim := seller[len(seller)/2]
	w.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/"+string(victim.Number), 1, func(xml []byte) []byte { return append(xml, ' ') }))
	w.sim.Fault(ksefsim.RewriteJSON(query, 0, func(answer map[string]any) {
		for _, row := range answer["invoices"].([]any) {
			row := row.(map[string]any)
			if row["ksefNumber"] == string(seller[0].Number) {
				row["ksefNumber"] = "../../../etc/passwd"
			}
		}
	}))
	report := w.mustCycle()
	w.sim.ClearFaults()
	status := w.status()
	if len(status.Waiting) != 2 {
		t.Fatalf("waiting %+v, want the damaged number and the wrong hash", status.Waiting)
	}
	watermark := ksef.Timestamp(w.stream("seller").Watermark).Time()
	if watermark.After(seller[0].StoredAt) {
		t.Errorf("watermark %s is beyond the invoice that is missing (%s)", watermark, seller[0].StoredAt)
	}
	if added(report) != 10 {
		t.Errorf("%d invoices stored, want all but two", added(report))
	}
	kept := files(t, filepath.Join(w.dir, "quarantine"))
	if !slices.ContainsFunc(kept, func(name string) bool {
		return strings.HasPrefix(name, string(victim.Number)) && strings.HasSuffix(name, ".xml")
	}) || len(kept) != 2 {
		t.Errorf("quarantine holds %q, want the damaged invoice and a note", kept)
	}

	w.clock.advance(2 * time.Hour)
	w.mustCycle()
	w.clock.advance(2 * time.Hour)
	w.mustCycle()
	w.complete()
	if left := w.status().Waiting; len(left) != 0 {
		t.Errorf("still waiting: %+v", left)
	}
	if at := ksef.Timestamp(w.stream("seller").Watermark).Time(); at.Before(start) {
		t.Errorf("the watermark stayed at %s", at)
	}
	if kept := files(t, filepath.Join(w.dir, "quarantine")); len(kept) != 2 {
		t.Errorf("quarantine holds %q", kept)
	}
}

// Scenario 66: the same number with another hash is kept beside, once.
func TestScenario66Conflict(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(5, time.Hour, 17)...)
	w.mustCycle()
	victim := w.sim.Listed(company, ksef.Buyer)[0]
	changed := append(bytes.Clone(victim.XML), '\n')
	for range 2 {
		w.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/"+string(victim.Number), 1, func([]byte) []byte { return changed }))
		w.sim.Fault(ksefsim.RewriteJSON(query, 0, func(answer map[string]any) {
			for _, row := range answer["invoices"].([]any) {
				if row := row.(map[string]any); row["ksefNumber"] == string(victim.Number) {
					row["invoiceHash"] = hash(changed)
				}
			}
		}))
		resetPositions(t, w)
		w.mustCycle() // check: the stored bytes are still the first
		w.sim.ClearFaults()
	}
	if kept := files(t, filepath.Join(w.dir, "quarantine")); len(kept) != 2 {
		t.Errorf("quarantine holds %q, want the other version and a note", kept)
	}
	if waiting := w.status().Waiting; len(waiting) != 1 {
		t.Errorf("status shows %+v", waiting)
	}
}

// Scenario 70: listed but not served yet.
func TestScenario70NotYetServed(t *testing.T) {
	slow(t)
	for _, code := range []string{"21165", "21164"} {
		w := newWorld(t, ksefsim.Options{})
		w.add(w.generate(30, time.Hour, 18)...)
		victim := w.sim.Listed(company, ksef.Buyer)[0]
		w.sim.Fault(ksefsim.Answer("/invoices/ksef/"+string(victim.Number), 1, 400, http.Header{"Content-Type": {"application/json"}},
			`{"exception":{"exceptionDetailList":[{"exceptionCode":`+code+`,"exceptionDescription":"Faktura"}]}}`))
		w.mustCycle()
		if waiting := w.status().Waiting; len(waiting) != 1 {
			t.Errorf("%s: waiting %+v", code, waiting)
		}
		w.clock.advance(2 * time.Hour)
		w.mustCycle()
		w.complete()
	}
}

// Everything that can be wrong on the way: the cycle ends with an error, nothing
// is lost or moved, and the next cycle completes it (scenarios 41, 47, 48, 49).
func TestTroubleOnTheWay(t *testing.T) {
	html := http.Header{"Content-Type": {"text/html"}}
	for name, f := range map[string]ksefsim.Fault{
		"48 query 502 html":          ksefsim.HTMLError(query, 1, 502),
		"48 query captive portal":    ksefsim.HTMLError(query, 1, 200),
		"48 query 500 json":          ksefsim.ServerError(query, 1),
		"48 query reset":             ksefsim.Reset(query, 1),
		"48 query answer lost":       ksefsim.LoseAnswer(query, 1),
		"48 query cut":               ksefsim.CutBody(query, 1, 50),
		"48 query not json":          ksefsim.Answer(query, 1, 200, http.Header{"Content-Type": {"application/json"}}, `{"hasMore":`),
		"48 download 503 html":       ksefsim.HTMLError(download, 2, 503),
		"48 download captive portal": ksefsim.Answer(download, 2, 200, html, "<html>log in</html>"),
		"48 download reset":          ksefsim.Reset(download, 2),
		"48 download cut":            ksefsim.CutBody(download, 2, 100),
		"48 challenge 503":           ksefsim.HTMLError("/auth/challenge", 1, 503),
		"41 query 429":               ksefsim.TooMany(query, 1, "2680"),
		"41 download 429 garbage":    ksefsim.TooMany(download, 1, "soon"),
		"41 download 429 no header":  ksefsim.TooMany(download, 1, ""),
		"47 query firewall":          ksefsim.Firewall(query, 1),
		"47 download no permission":  ksefsim.Forbidden(download, 4, "missing-permissions"),
		"limits 500":                 ksefsim.ServerError("/rate-limits", 1),
		"unknown fields":             ksefsim.ExtraFields(0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ksefsim.Options{})
			w.add(w.generate(30, time.Hour, 19)...)
			w.sim.Fault(f)
			_, err := w.cycle() // checks that no watermark is ahead
			if fine := name == "48 challenge 503" || name == "limits 500" || name == "unknown fields"; fine != (err == nil) {
				t.Errorf("first cycle: %v", err)
			}
			w.sim.ClearFaults()
			for range 3 {
				w.clock.advance(2 * time.Hour)
				w.mustCycle()
			}
			w.complete()
		})
	}
}

// One invoice that KSeF cannot serve must not keep those behind it away; an
// outage must not send them to quarantine.
func TestOneBrokenInvoice(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.singly()
	w.add(w.generate(40, time.Hour, 20)...)
	buyer := w.sim.Listed(company, ksef.Buyer)
	victim := buyer[len(buyer)/2]
	w.sim.Fault(ksefsim.ServerError("/invoices/ksef/"+string(victim.Number), 0))
	w.mustCycle()
	if waiting := w.status().Waiting; len(waiting) != 1 || waiting[0].KSeFNumber != string(victim.Number) {
		t.Errorf("waiting %+v", waiting)
	}
	w.sim.ClearFaults()
	w.clock.advance(2 * time.Hour)
	w.mustCycle()
	w.complete()
}

func TestWrongCredentialsStopWithAMessage(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(3, time.Hour, 21)...)
	w.sim.RevokeToken(token)
	_, err := w.cycle()
	var login *ksef.LoginError
	if !errors.As(err, &login) || !login.Terminal {
		t.Fatalf("got %v, want a login error that needs a person", err)
	}
	w.sim.AddToken(company, token)
	w.mustCycle()
	w.complete()
}

// A login that is refused for good is not tried again, whatever is asked for and
// however often, and KSeF sees nothing of it. Scenario 52.
func TestScenario52RefusedLoginIsNotRepeated(t *testing.T) {
	slow(t)
	for _, status := range []int{415, 425, 450, 460, 470, 480} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			w := newWorld(t, ksefsim.Options{})
			w.add(w.generate(3, time.Hour, 21)...)
			m, err := ksefsync.Open(t.Context(), w.options)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}()
			if _, err := m.Cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := w.stream("seller")
			w.sim.RevokeRefreshTokens()
			w.sim.SetLoginOutcome(ksefsim.LoginOutcome{Status: status})
			sent := 0
			for n := range 5 {
				w.clock.advance(time.Hour)
				_, err := m.Cycle(t.Context())
				if login, ok := errors.AsType[*ksef.LoginError](err); !ok || !login.Terminal || login.Status != status {
					t.Errorf("got %v, want a login refused with %d", err, status)
				}
				if _, err := m.ReconcileDue(t.Context(), w.clock.Now().Add(time.Hour)); err != nil {
					t.Errorf("reconciling: %v", err)
				}
				if stats := w.sim.Stats(); stats.Logins != 2 || n > 0 && stats.Requests != sent {
					t.Errorf("after %d cycles: %d logins, %d requests more", n+1, stats.Logins, stats.Requests-sent)
				}
				sent = w.sim.Stats().Requests
			}
			if after := w.stream("seller"); after.Position != before.Position {
				t.Errorf("the watermark went from %s to %s", before.Position, after.Position)
			}
		})
	}
}

// Scenario 44: the second process is told so.
func TestScenario44Locked(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	first, err := ksefsync.Open(t.Context(), w.options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ksefsync.Open(t.Context(), w.options); !errors.Is(err, ksefsync.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	w.mustCycle()
}

// Two companies in one folder, or the folder of an unmounted volume, are refused
// before anything is written.
func TestWrongFolder(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(5, time.Hour, 22)...)
	w.mustCycle()

	other := w.options
	other.Environment = "prod"
	if _, err := ksefsync.Open(t.Context(), other); err == nil {
		t.Error("another environment was accepted")
	}

	invoices := filepath.Join(w.dir, "invoices")
	if err := os.Rename(invoices, invoices+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(invoices, 0o750); err != nil { // the empty mount point
		t.Fatal(err)
	}
	before := w.sim.Stats().Requests
	if _, err := ksefsync.Open(t.Context(), w.options); !errors.Is(err, tree.ErrNotMounted) {
		t.Errorf("an unmounted volume: %v", err)
	}
	if got := files(t, invoices); len(got) != 0 || w.sim.Stats().Requests != before {
		t.Errorf("wrote %q into the mount point", got)
	}
	if err := os.Remove(invoices); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(invoices+".away", invoices); err != nil {
		t.Fatal(err)
	}
	w.mustCycle()
	w.complete()
}

// The volume vanishes while a cycle runs: no watermark moves.
func TestUnmountedWhileRunning(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.singly()
	w.add(w.generate(60, time.Hour, 23)...)
	invoices := filepath.Join(w.dir, "invoices")
	n := 0
	w.fault(download, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if n++; n == 30 {
			if err := os.Rename(invoices, invoices+".away"); err != nil {
				t.Error(err)
			}
		}
		next.ServeHTTP(rw, r)
	})
	m, err := ksefsync.Open(t.Context(), w.options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cycle(t.Context()); !errors.Is(err, tree.ErrNotMounted) {
		t.Errorf("got %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(invoices+".away", invoices); err != nil {
		t.Fatal(err)
	}
	w.sim.ClearFaults()
	w.check()
	w.mustCycle()
	w.complete()
}

// The database is lost: the files are taken over instead of downloaded again.
func TestDatabaseLost(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(50, time.Hour, 24)...)
	w.mustCycle()
	if err := os.RemoveAll(filepath.Join(w.dir, "database")); err != nil {
		t.Fatal(err)
	}
	before := w.sim.Stats()
	if _, err := w.cycle(); asBudget(err) == nil {
		t.Errorf("requests went out although those of the last hour are forgotten: %v", err)
	}
	if after := w.sim.Stats(); !maps.Equal(after.ByGroup, before.ByGroup) {
		t.Errorf("requests went out: %v, then %v", before.ByGroup, after.ByGroup)
	}
	w.clock.advance(time.Hour)
	w.mustCycle()
	w.complete()
	if again := w.sim.Stats().ByGroup[ksef.GroupDownload] - before.ByGroup[ksef.GroupDownload]; again != 0 {
		t.Errorf("%d invoices were downloaded again", again)
	}
}

// Scenario 71: verify finds what a person did to the folder, repairs it without
// KSeF, and deletes nothing.
func TestScenario71Verify(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(30, time.Hour, 25)...)
	w.mustCycle()
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	deleted, edited, moved := names[1], names[5], names[9]
	for _, err := range []error{
		os.Remove(filepath.Join(invoices, deleted)),
		os.WriteFile(filepath.Join(invoices, edited), []byte("<changed/>"), 0o600),
		os.Rename(filepath.Join(invoices, moved), filepath.Join(invoices, "moved.xml")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o := w.options
	o.Remote = nil
	m, err := ksefsync.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	found, err := m.Verify(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found.Missing)
	if found.Invoices != 30 || !slices.Equal(found.Missing, []string{filepath.ToSlash(deleted), filepath.ToSlash(moved)}) ||
		!slices.Equal(found.Changed, []string{filepath.ToSlash(edited)}) || !slices.Equal(found.NoRow, []string{"moved.xml"}) || found.Whole() {
		t.Errorf("found %+v", found)
	}
	repaired, err := m.Verify(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(repaired.Repaired) != 3 || len(repaired.Kept) != 1 {
		t.Errorf("repaired %+v", repaired)
	}
	if content, err := os.ReadFile(filepath.Join(invoices, filepath.FromSlash(repaired.Kept[0]))); err != nil || string(content) != "<changed/>" {
		t.Errorf("the changed file was not kept: %v", err)
	}
	if err := os.Remove(filepath.Join(invoices, "moved.xml")); err != nil { // its owner tidies up
		t.Fatal(err)
	}
	if after, err := m.Verify(t.Context(), false); err != nil || !after.Whole() {
		t.Errorf("after the repair %+v, %v", after, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.check()
}

// Scenario 64: hostile texts make safe names.
func TestScenario64Names(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	invoices := w.generate(8, time.Hour, 26)
	for i, name := range []string{"a/b\\c:*?\"<>|\x00d", "../../../etc", "CON", strings.Repeat("ż", 256), "\u202egnp.exe", "...", "", "😀 Sp. z o.o. "} {
		invoices[i].Metadata = func(m *ksef.Metadata) { m.InvoiceNumber, m.Seller.Name, m.Buyer.Name = name, name, name }
	}
	w.add(invoices...)
	w.mustCycle()
	w.complete()
}

// Documents that cannot be read, hostile ones too, are mirrored all the same.
func TestUnreadableDocuments(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{Everyone: company})
	hostile := map[string]string{
		"not xml":      "this is no invoice",
		"entity bomb":  `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>`,
		"430,000 deep": strings.Repeat("<a>", 430_000),
		"3 MB flat":    "<x>" + strings.Repeat("<a/>", 750_000) + "</x>",
		"unknown form": `<Faktura xmlns="http://example.org/"><Fa/></Faktura>`,
	}
	for _, xml := range hostile {
		w.add(ksefsim.Invoice{XML: []byte(xml), Stored: start.Add(-time.Hour)})
	}
	w.add(w.generate(5, time.Hour, 27)...)
	w.mustCycle()
	w.complete()
	if status := w.status(); status.Invoices != len(hostile)+5 || status.Unread != len(hostile) {
		t.Errorf("%d invoices, %d unread", status.Invoices, status.Unread)
	}
}

// files lists the files below dir, without markers, as relative paths.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == ".ksefmirror" {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		names = append(names, relative)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// resetPositions makes every stream ask again from the beginning.
func resetPositions(t *testing.T, w *world) {
	t.Helper()
	d, err := db.Open(t.Context(), ksefsync.DatabasePath(w.dir), db.Mirror{Environment: "test", ContextType: company.Type, ContextValue: company.Value}, w.options.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		if err := d.Commit(t.Context(), db.Batch{Role: role, Position: "2026-02-01T00:00:00Z"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLimited(t *testing.T) {
	failed := errors.New("KSeF ended it with status 500")
	export := &ksef.BudgetError{Group: ksef.GroupExport}
	download := fmt.Errorf("seller: %w", &ksef.Error{HTTPStatus: 429, Err: &ksef.BudgetError{Group: ksef.GroupDownload}})
	for name, test := range map[string]struct {
		err  error
		want ksef.Group // "": it is not
	}{
		"nothing":                       {nil, ""},
		"a failure":                     {errors.New("disk full"), ""},
		"a limit":                       {export, ksef.GroupExport},
		"a limit, told by KSeF":         {download, ksef.GroupDownload},
		"a limit, and all tidied up":    {fmt.Errorf("buyer: %w", errors.Join(export, nil)), ksef.GroupExport},
		"limits":                        {errors.Join(download, export), ksef.GroupDownload},
		"a failure beside a limit":      {errors.Join(export, fmt.Errorf("buyer: %w", failed)), ""},
		"a failure because of a limit":  {fmt.Errorf("%w: %w", failed, export), ""},
		"limits, one with a failure":    {errors.Join(download, fmt.Errorf("buyer: %w", errors.Join(export, failed))), ""},
		"limits, and something of here": {errors.Join(errors.Join(download, export), errors.New("disk full")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			limit := ksefsync.Limited(test.err)
			if limit == nil && test.want != "" || limit != nil && limit.Group != test.want {
				t.Errorf("got %v, want %q", limit, test.want)
			}
		})
	}
}
