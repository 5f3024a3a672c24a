package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/daemon"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// machine is a computer in a bubble, whose time is its monotonic clock. KSeF is
// elsewhere and has the right time.
type machine struct {
	slept atomic.Int64 // for how long it has slept: its monotonic clock stood still
	set   atomic.Int64 // by how much its wall clock was set
}

// right is what time it is.
func (m *machine) right() time.Time { return time.Now().Round(0).Add(time.Duration(m.slept.Load())) }

// wall is what time it is by the machine's wall clock.
func (m *machine) wall() time.Time { return m.right().Add(time.Duration(m.set.Load())) }

// handler is a connection to an HTTP server that needs no network.
type handler struct{ http.Handler }

func (h handler) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody // as a server has it
	}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// kept is a mirror of a simulated KSeF that a daemon keeps, with the real client,
// limiter, database and folder.
type kept struct {
	*machine
	t   *testing.T
	sim *ksefsim.Server
	dir string

	logger *slog.Logger
	log    bytes.Buffer // to be read when the bubble stands still
}

var clockCompany = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}

func newKept(t *testing.T) *kept {
	k := &kept{machine: new(machine), t: t, dir: filepath.Join(t.TempDir(), "mirror")}
	k.sim = ksefsim.New(ksefsim.Options{Now: k.right, Limits: ksef.DefaultLimits(), HWMLag: time.Millisecond})
	k.sim.AddToken(clockCompany, "a-token")
	k.logger = slog.New(slog.NewTextHandler(&k.log, nil))
	return k
}

// open opens the mirror, as often as the daemon wants it.
func (k *kept) open(ctx context.Context) (daemon.Mirror, error) {
	layout, err := tree.ParseLayout(tree.DefaultLayout)
	if err != nil {
		return nil, err
	}
	return ksefsync.Open(ctx, ksefsync.Options{
		Dir: k.dir, Environment: "test", Context: clockCompany, Roles: []string{"seller", "buyer", "third_party"}, Layout: layout,
		Since: k.right().AddDate(0, 0, -10), Log: k.logger, Now: k.wall,
		Remote: func(log ksef.RequestLog) ksefsync.Remote {
			limiter := ksef.NewLimiter(log, ksef.DefaultLimits())
			limiter.Wall = k.wall
			return &ksef.Client{
				BaseURL: "http://ksef.invalid/v2", Context: clockCompany, HTTPClient: &http.Client{Transport: handler{k.sim}}, Limiter: limiter,
				Token: func() (ksef.Secret, error) { return ksef.NewSecret("a-token"), nil },
			}
		},
	})
}

// arrive has n invoices stored in KSeF now.
func (k *kept) arrive(n int, seed uint64) {
	k.t.Helper()
	now := k.right()
	invoices := ksefsim.Generate(ksefsim.GenerateOptions{Count: n, Context: clockCompany, From: now.Add(-time.Millisecond), To: now, Seed: seed})
	for i := range invoices {
		invoices[i].Stored = time.Time{}
	}
	if _, err := k.sim.Add(invoices...); err != nil {
		k.t.Fatal(err)
	}
}

// missing gives how many invoices of KSeF's are not in the folder, byte for byte.
func (k *kept) missing() int {
	k.t.Helper()
	there := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(k.dir, "invoices"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".xml") {
			return err
		}
		content, err := os.ReadFile(path)
		there[string(content)] = true
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	count := 0
	for _, role := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty} {
		for _, s := range k.sim.Listed(clockCompany, role) {
			if !there[string(s.XML)] {
				count++
			}
		}
	}
	return count
}

// within passes time until no more than so many are missing, and fails after d.
func (k *kept) within(d time.Duration, most int, when string) {
	k.t.Helper()
	for began := time.Now(); k.missing() > most; pass(time.Minute) {
		if time.Since(began) > d {
			k.t.Errorf("%s: %d invoices are missing %s later; the log says\n%s", when, k.missing(), time.Since(began), &k.log)
			return
		}
	}
}

// The clock on the wall is set, or the machine sleeps, and later the clock is right
// again. A mirror of a real KSeF's limits loses nothing, asks KSeF for no more than it
// allows, goes on by itself, and the log says why it looks odd: with requests to
// spare, and when they are used up all the time.
func TestClockOfAMirror(t *testing.T) {
	for name, test := range map[string]struct{ set, slept time.Duration }{
		"an hour ahead":   {set: time.Hour},
		"a day ahead":     {set: 24 * time.Hour},
		"an hour back":    {set: -time.Hour},
		"a day back":      {set: -24 * time.Hour},
		"slept an hour":   {slept: time.Hour},
		"slept for a day": {slept: 24 * time.Hour},
	} {
		for _, interval := range []time.Duration{15 * time.Minute, 4 * time.Minute} {
			t.Run(fmt.Sprintf("%s, every %s", name, interval), func(t *testing.T) {
				t.Parallel()
				if testing.Short() && (name != "a day back" || interval < 15*time.Minute) {
					t.Skip("left out of the short run, in which a database is slow")
				}
				synctest.Test(t, func(t *testing.T) {
					pass(time.Until(time.Date(2026, time.November, 20, 12, 0, 0, 0, time.UTC)))
					k := newKept(t)
					most := interval + interval/10 + 2*time.Minute
					if interval < 9*time.Minute { // for three roles, of 20 listings an hour
						most += time.Hour
					}
					k.arrive(40, 1)
					d := &daemon.Daemon{Log: k.logger, Now: k.wall}
					ctx, cancel := context.WithCancel(t.Context())
					ended := make(chan struct{})
					go func() { defer close(ended); d.WatchClock(ctx) }()
					d.Keep(ctx, []daemon.Job{{Name: "acme", Interval: interval, Open: k.open}})
					pass(time.Hour + 3*time.Minute)
					k.within(0, 0, "before")
					// One that arrives damaged waits for an hour.
					k.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/*", 1, func(xml []byte) []byte { return xml[1:] }))
					k.arrive(3, 2)
					k.within(most, 1, "damaged")

					k.set.Add(int64(test.set))
					k.slept.Add(int64(test.slept))
					k.arrive(5, 3)
					k.within(most, 1, "after")
					pass(2 * time.Hour)
					k.arrive(5, 4)
					k.within(most, 0, "hours later")

					k.set.Store(0)
					k.arrive(5, 5)
					k.within(most, 0, "the clock is right again")
					pass(time.Hour)
					cancel()
					d.Wait()
					<-ended

					stats := k.sim.Stats()
					if stats.TooMany > 0 || len(stats.Violations) > 0 {
						t.Errorf("%d answers 429, and against the specification: %q", stats.TooMany, stats.Violations)
					}
					for number, times := range stats.Downloads {
						if times > 2 { // one was damaged
							t.Errorf("%s was downloaded %d times", number, times)
						}
					}
					lines := strings.Count(k.log.String(), "the clock of this machine was set")
					if want := map[bool]int{true: 2, false: 1}[test.set != 0]; lines != want || strings.Contains(k.log.String(), "in trouble") {
						t.Errorf("%d lines about the clock, want %d:\n%s", lines, want, &k.log)
					}
				})
			})
		}
	}
}
