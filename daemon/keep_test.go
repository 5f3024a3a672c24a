package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

// busy is a mirror whose every part does what a test says, and that notes what was
// done with it.
type busy struct {
	opening, cycle, comparing func(context.Context) error // nil: at once and in order

	mu    sync.Mutex
	notes []string
	began []time.Time
}

func (b *busy) note(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, what)
	if what == "cycle" {
		b.began = append(b.began, time.Now())
	}
}

// done gives what was done with it so far.
func (b *busy) done() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.notes)
}

// Rest is not among what is noted: it follows all.
func (b *busy) Rest() {}

func (b *busy) do(ctx context.Context, what string, part func(context.Context) error) error {
	b.note(what)
	if part == nil {
		return nil
	}
	return part(ctx)
}

func (b *busy) open(ctx context.Context) (daemon.Mirror, error) {
	if err := b.do(ctx, "open", b.opening); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *busy) Cycle(ctx context.Context) (ksefsync.Report, error) {
	return ksefsync.Report{}, b.do(ctx, "cycle", b.cycle)
}

func (b *busy) ReconcileDue(ctx context.Context, _ time.Time) (ksefsync.Reconciliation, error) {
	if b.comparing == nil {
		return ksefsync.Reconciliation{}, nil
	}
	return ksefsync.Reconciliation{}, b.do(ctx, "compare", b.comparing)
}

func (b *busy) Close() error { b.note("close"); return nil }

// Care of the files is daemon_test.go's business.
func (*busy) AuditDue(context.Context, time.Time) error { return nil }
func (*busy) BackUpDue(context.Context) error           { return nil }
func (*busy) Changed() <-chan struct{}                  { return nil }
func (*busy) Heal(context.Context, time.Time) error     { return nil }

// untilTold is work that goes on until it is told to stop.
func untilTold(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// quietly is a daemon for jobs that says nothing, and what ends it.
func quietly(t *testing.T, now func() time.Time, jobs ...daemon.Job) (d *daemon.Daemon, ctx context.Context, end func()) {
	t.Helper()
	d = &daemon.Daemon{Log: slog.New(slog.DiscardHandler), Now: now}
	ctx, cancel := context.WithCancel(t.Context())
	d.Keep(ctx, jobs)
	return d, ctx, func() { cancel(); d.Wait() }
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Many mirrors begin apart from one another, each at the same moment every time, and
// stay apart.
func TestManyDoNotMarchInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 300
		var first []time.Duration
		for _, while := range []time.Duration{6 * time.Hour, 10 * time.Minute} {
			var jobs []daemon.Job
			var all []*busy
			for i := range count {
				b := &busy{}
				all = append(all, b)
				jobs = append(jobs, daemon.Job{Name: fmt.Sprintf("m%03d", i), Interval: 15 * time.Minute, Open: b.open})
			}
			started := time.Now()
			_, _, end := quietly(t, nil, jobs...)
			pass(while)
			end()
			var begins []time.Duration
			most := map[time.Duration]int{}
			late := map[time.Duration]int{}
			for _, b := range all {
				begins = append(begins, b.began[0].Sub(started))
				most[begins[len(begins)-1]/(10*time.Second)]++
				if while > time.Hour {
					late[b.began[len(b.began)-1].Sub(started)/(10*time.Second)]++
				}
			}
			for _, at := range begins {
				if at >= count*time.Second {
					t.Errorf("one began only after %s", at)
				}
			}
			for what, in := range map[string]map[time.Duration]int{"the first": most, "the last": late} {
				for at, n := range in {
					if n > 25 { // of 10 on average, and of 3 later
						t.Errorf("%d of %s cycles began within 10 s, at %s", n, what, at*10*time.Second)
					}
				}
			}
			if first != nil && !slices.Equal(first, begins) {
				t.Error("they begin at other moments than the time before")
			}
			first = begins
		}
	})
}

// Trouble is logged at once, then every 15 minutes at most, and its end once; also of
// a mirror that fails and recovers all the time.
func TestTroubleIsNotAFlood(t *testing.T) {
	for name, fails := range map[string]func(n int) bool{
		"for hours":  func(n int) bool { return n < 60 },
		"every time": func(int) bool { return true },
		"now and then": func(n int) bool {
			return n%2 == 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := -1
				b := &busy{cycle: func(context.Context) error {
					if n++; fails(n) {
						return &ksef.Error{Op: "query metadata", HTTPStatus: 502}
					}
					return nil
				}}
				var log bytes.Buffer
				var troubles, recoveries []time.Time
				d := &daemon.Daemon{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					switch {
					case a.Key != slog.MessageKey:
					case strings.Contains(a.Value.String(), "in trouble"):
						troubles = append(troubles, time.Now())
					case strings.Contains(a.Value.String(), "recovered"):
						recoveries = append(recoveries, time.Now())
					}
					return a
				}}))}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				d.Keep(ctx, []daemon.Job{{Name: "a", Interval: time.Minute, Open: b.open}})
				d.Wait()
				if len(troubles) == 0 || !troubles[0].Equal(began) {
					t.Fatalf("the first failure was not logged at once: %v", troubles)
				}
				for i := range troubles[1:] {
					if pause := troubles[i+1].Sub(troubles[i]); pause < 15*time.Minute {
						t.Errorf("two lines within %s", pause)
					}
				}
				want := map[string]int{"for hours": 1, "every time": 0, "now and then": len(troubles)}[name]
				if len(recoveries) != want {
					t.Errorf("%d lines of recovery after %d of trouble, want %d", len(recoveries), len(troubles), want)
				}
			})
		})
	}
}

// In quiet hours nothing is asked, and what is under way stops, also in the nights in
// which the clock is changed; by hand something is.
func TestQuietHours(t *testing.T) {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		from, to int       // minutes of the day
		begin    time.Time // of three days
	}{
		"winter":                               {22 * 60, 6 * 60, time.Date(2026, 1, 10, 12, 0, 0, 0, warsaw)},
		"spring, over the night":               {22 * 60, 6 * 60, time.Date(2026, 3, 28, 12, 0, 0, 0, warsaw)},
		"autumn, over the night":               {22 * 60, 6 * 60, time.Date(2026, 10, 24, 12, 0, 0, 0, warsaw)},
		"spring, in the lost hour":             {2*60 + 15, 2*60 + 45, time.Date(2026, 3, 28, 12, 0, 0, 0, warsaw)},
		"spring, ending in it":                 {60, 2*60 + 30, time.Date(2026, 3, 28, 12, 0, 0, 0, warsaw)},
		"autumn, in the hour that comes twice": {2*60 + 15, 2*60 + 45, time.Date(2026, 10, 24, 12, 0, 0, 0, warsaw)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				now := func() time.Time { return test.begin.Add(time.Since(started)) }
				quiet := func(at time.Time) bool {
					return config.Hours{From: test.from, To: test.to}.Contain(at.In(warsaw))
				}
				var hangs atomic.Bool
				b := &busy{cycle: func(ctx context.Context) error {
					if quiet(now()) {
						t.Errorf("a cycle began at %s", now())
					}
					if !hangs.Load() {
						return nil
					}
					<-ctx.Done()
					if at := now(); !quiet(at) || quiet(at.Add(-time.Minute)) {
						t.Errorf("a cycle was stopped at %s", at)
					}
					return ctx.Err()
				}}
				d, ctx, end := quietly(t, now, daemon.Job{Name: "a", Interval: 15 * time.Minute, Quiet: quiet, Open: b.open})
				defer end()
				byHand, awake := 0, 0
				for range 3 * 24 * 12 {
					pass(5 * time.Minute)
					if quiet(now()) {
						hangs.Store(false)
						if !quiet(now().Add(-20*time.Minute)) && test.to-test.from != 30 {
							continue // what was due by then must not begin either
						}
						if err := d.Do(ctx, "a", true, func(context.Context, daemon.Mirror) error { byHand++; return nil }); err != nil {
							t.Errorf("by hand at %s: %v", now(), err)
						}
					} else {
						awake += 5
						// Every other day the last cycle before the quiet is under way when that begins.
						hangs.Store(now().Day()%2 == 0 && !quiet(now().Add(-time.Hour)) && quiet(now().Add(time.Hour)))
					}
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				least := awake/17 - 24 // some hang
				if byHand == 0 && name != "spring, in the lost hour" || len(b.began) < least {
					t.Errorf("%d times by hand, %d cycles in %d minutes that were not quiet", byHand, len(b.began), awake)
				}
			})
		})
	}
}

// Whatever the clock on the wall does, a cycle comes within an interval; after a
// sleep or a jump ahead at once.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, 24 * time.Hour, -time.Hour, -24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ahead atomic.Int64
				now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				b := &busy{}
				_, _, end := quietly(t, now, daemon.Job{Name: "a", Interval: 15 * time.Minute, Open: b.open})
				defer end()
				pass(5 * time.Minute)
				ahead.Store(int64(jump))
				jumped := time.Now()
				pass(2 * time.Hour)
				b.mu.Lock()
				defer b.mu.Unlock()
				pause := b.began[1].Sub(jumped)
				if jump > 0 && pause > time.Minute || pause > 12*time.Minute {
					t.Errorf("the next cycle began %s after the jump", pause)
				}
				if n := len(b.began); n < 7 || n > 10 {
					t.Errorf("%d cycles in two hours", n)
				}
			})
		})
	}
}

// Work by hand takes its turn between cycles, has the mirror open, and if it is a
// cycle counts as one.
func TestByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		first := true
		b := &busy{cycle: func(context.Context) error {
			if first {
				first = false
				<-release
			}
			return nil
		}}
		d, ctx, end := quietly(t, nil, daemon.Job{Name: "a", Interval: 15 * time.Minute, Open: b.open})
		hand := func(ctx context.Context, name string, cycle bool, err error) error {
			return d.Do(ctx, name, cycle, func(context.Context, daemon.Mirror) error { b.note("by hand"); return err })
		}
		gone, leave := context.WithTimeout(ctx, time.Minute)
		defer leave()
		synctest.Wait()
		if err := hand(gone, "a", true, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while a cycle goes on: %v", err)
		}
		go func() { <-time.After(time.Minute); close(release) }()
		if err := hand(ctx, "a", false, errors.New("disk full")); err == nil || err.Error() != "disk full" {
			t.Errorf("its error is %v", err)
		}
		pass(7 * time.Minute)
		if err := hand(ctx, "a", true, nil); err != nil { // opens it again, after the disk was full
			t.Error(err)
		}
		at := time.Now()
		if err := hand(ctx, "b", true, nil); !errors.Is(err, daemon.ErrNotKept) {
			t.Errorf("an unknown mirror: %v", err)
		}
		pass(18 * time.Minute)
		if pause := b.began[1].Sub(at); pause < 15*time.Minute {
			t.Errorf("the next cycle began %s after that by hand", pause)
		}
		want := []string{"open", "cycle", "by hand", "close", "open", "by hand", "cycle"}
		if diff := cmp.Diff(want, b.done()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}

		// Who leaves ends what was begun for him.
		leaving, goAway := context.WithTimeout(ctx, time.Minute)
		defer goAway()
		if err := d.Do(leaving, "a", true, func(ctx context.Context, _ daemon.Mirror) error { return untilTold(ctx) }); !errors.Is(err, context.Canceled) {
			t.Errorf("told %v", err)
		}

		// Who waits is told when the mirror stops.
		stopped := make(chan error)
		go func() {
			stopped <- d.Do(ctx, "a", true, func(ctx context.Context, _ daemon.Mirror) error { return untilTold(ctx) })
		}()
		synctest.Wait()
		go func() { stopped <- hand(ctx, "a", true, nil) }()
		synctest.Wait()
		d.Keep(ctx, nil)
		one, other := <-stopped, <-stopped
		if !errors.Is(one, context.Canceled) && !errors.Is(other, context.Canceled) || !errors.Is(one, daemon.ErrNotKept) && !errors.Is(other, daemon.ErrNotKept) {
			t.Errorf("told %v and %v", one, other)
		}
		end()
	})
}

// A set of mirrors that changes: what has not changed is not touched, what has
// changed begins anew when its predecessor has closed, the rest ends.
func TestKeepAnotherSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		same, gone, added := &busy{}, &busy{}, &busy{}
		changed := &busy{cycle: func(ctx context.Context) error {
			<-ctx.Done()
			<-slow // the safe point is a while away
			return ctx.Err()
		}}
		successor := &busy{}
		var mu sync.Mutex
		var ended []string
		job := func(name string, settings any, b *busy) daemon.Job {
			return daemon.Job{Name: name, Interval: 15 * time.Minute, Settings: settings, Open: b.open, Ended: func() { mu.Lock(); defer mu.Unlock(); ended = append(ended, name) }}
		}
		d, ctx, end := quietly(t, nil, job("same", []string{"x"}, same), job("gone", 1, gone), job("changed", 1, changed))
		pass(5 * time.Minute)
		// The same settings, made anew, and another way to open it that is not used.
		got := d.Keep(ctx, []daemon.Job{job("same", []string{"x"}, &busy{opening: func(context.Context) error { t.Error("opened again"); return nil }}), job("added", 1, added), job("changed", 2, successor)})
		want := daemon.Changes{Added: []string{"added"}, Changed: []string{"changed"}, Removed: []string{"gone"}}
		if diff := cmp.Diff(want, got); diff != "" || got.String() != "added: added; changed: changed; removed: gone" {
			t.Errorf("%s (-want +got)\n%s", got, diff)
		}
		pass(time.Minute)
		if len(successor.done()) != 0 || !slices.Equal(gone.done(), []string{"open", "cycle", "close"}) || !slices.Equal(added.done(), []string{"open", "cycle"}) {
			t.Errorf("before the changed one has stopped: its successor %v, the one that is gone %v, the added one %v", successor.done(), gone.done(), added.done())
		}
		close(slow)
		pass(time.Minute)
		if !slices.Equal(changed.done(), []string{"open", "cycle", "close"}) || !slices.Equal(successor.done(), []string{"open", "cycle"}) {
			t.Errorf("changed %v, its successor %v", changed.done(), successor.done())
		}
		if !slices.Equal(ended, []string{"gone", "changed"}) {
			t.Errorf("ended: %v", ended)
		}
		pass(15 * time.Minute)
		if !slices.Equal(same.done(), []string{"open", "cycle", "cycle"}) {
			t.Errorf("the one that has not changed: %v", same.done())
		}
		if got := d.Keep(ctx, []daemon.Job{job("same", []string{"x"}, same), job("added", 1, added), job("changed", 2, successor)}); got.String() != "no mirror has changed" {
			t.Error(got)
		}
		end()
		if !slices.Equal(same.done(), []string{"open", "cycle", "cycle", "close"}) {
			t.Errorf("at the end: %v", same.done())
		}
	})
}

// A mirror that is removed and comes back, or changes, while it has not stopped yet:
// one at a time has it, and who waits for it by hand is served by the next.
func TestComesBackBeforeItHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &busy{}
		slow := make(chan struct{})
		all.cycle = func(ctx context.Context) error {
			if len(all.began) > 1 {
				return nil
			}
			<-slow // the safe point is a while away
			return ctx.Err()
		}
		job := func(settings int) []daemon.Job {
			return []daemon.Job{{Name: "a", Interval: 15 * time.Minute, Settings: settings, Open: all.open, Ended: func() { all.note("ended") }}}
		}
		d, ctx, end := quietly(t, nil, job(1)...)
		pass(time.Minute)
		d.Keep(ctx, nil)
		d.Keep(ctx, job(1))
		waiting := make(chan error)
		go func() {
			waiting <- d.Do(ctx, "a", false, func(context.Context, daemon.Mirror) error { all.note("by hand"); return nil })
		}()
		synctest.Wait()
		d.Keep(ctx, job(2))
		pass(time.Minute)
		if want := []string{"open", "cycle"}; !slices.Equal(all.notes, want) {
			t.Errorf("before it has stopped: %v", all.notes)
		}
		close(slow)
		if err := <-waiting; err != nil {
			t.Errorf("who waited is told %v", err)
		}
		end()
		want := []string{"open", "cycle", "close", "ended", "ended", "open"}
		if len(all.notes) < len(want) || !slices.Equal(all.notes[:len(want)], want) {
			t.Errorf("got %v", all.notes)
		}
	})
}

// Told to stop, a mirror stops in whatever it does, and is closed.
func TestStopsInEveryPhase(t *testing.T) {
	for name, test := range map[string]struct {
		mirror *busy
		before time.Duration
		byHand bool
		opened bool
	}{
		"opening":     {&busy{opening: untilTold}, time.Minute, false, false},
		"cycle":       {&busy{cycle: untilTold}, time.Minute, false, true},
		"reconciling": {&busy{comparing: untilTold}, time.Minute, false, true},
		"waiting":     {&busy{}, 7 * time.Minute, false, true},
		"backing off": {&busy{cycle: func(context.Context) error { return &ksef.Error{HTTPStatus: 502} }}, time.Minute, false, true},
		"by hand":     {&busy{}, time.Minute, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, ctx, end := quietly(t, nil, daemon.Job{Name: "a", Interval: 15 * time.Minute, Open: test.mirror.open})
				pass(test.before)
				told := make(chan error, 1)
				if test.byHand {
					go func() {
						told <- d.Do(ctx, "a", true, func(ctx context.Context, _ daemon.Mirror) error { return untilTold(ctx) })
					}()
					synctest.Wait()
				}
				began := time.Now()
				end()
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %s", took)
				}
				notes := test.mirror.done()
				if closed := notes[len(notes)-1] == "close"; closed != test.opened {
					t.Errorf("closed %t: %v", closed, notes)
				}
				if test.byHand {
					if err := <-told; !errors.Is(err, context.Canceled) {
						t.Errorf("told %v", err)
					}
				}
			})
		})
	}
}

// A week of many mirrors leaves nothing behind.
func TestNothingGrowsInAWeek(t *testing.T) {
	week := 7 * 24 * time.Hour
	if testing.Short() {
		week = 24 * time.Hour
	}
	synctest.Test(t, func(t *testing.T) {
		var jobs []daemon.Job
		var cycles atomic.Int64
		const count = 300
		for i := range count {
			fails := i%10 == 0
			b := &counted{cycles: &cycles, fails: fails}
			jobs = append(jobs, daemon.Job{Name: fmt.Sprintf("m%03d", i), Interval: 15 * time.Minute, Open: func(context.Context) (daemon.Mirror, error) { return b, nil }})
		}
		_, _, end := quietly(t, nil, jobs...)
		pass(time.Hour)
		before := runtime.NumGoroutine()
		pass(week)
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines after an hour, %d after a week", before, after)
		}
		end()
		perMirror := int(week / (15 * time.Minute))
		if n := int(cycles.Load()) / count; n < perMirror*9/10 || n > perMirror+10 {
			t.Errorf("%d cycles of each, of %d", n, perMirror)
		}
	})
}

// counted is a mirror that notes no more than how often it ran.
type counted struct {
	cycles *atomic.Int64
	fails  bool
}

func (c *counted) Cycle(context.Context) (ksefsync.Report, error) {
	c.cycles.Add(1)
	if c.fails {
		return ksefsync.Report{}, &ksef.Error{HTTPStatus: 502}
	}
	return ksefsync.Report{}, nil
}

func (*counted) ReconcileDue(context.Context, time.Time) (ksefsync.Reconciliation, error) {
	return ksefsync.Reconciliation{}, nil
}

func (*counted) AuditDue(context.Context, time.Time) error { return nil }
func (*counted) BackUpDue(context.Context) error           { return nil }
func (*counted) Changed() <-chan struct{}                  { return nil }
func (*counted) Heal(context.Context, time.Time) error     { return nil }
func (*counted) Rest()                                     {}
func (*counted) Close() error                              { return nil }
