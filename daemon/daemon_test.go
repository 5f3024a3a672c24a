package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/daemon"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

// mirror answers each cycle by a function of how many there were before, and
// notes when they began.
type mirror struct {
	answer    func(n int) error
	reconcile func(n int) (ksefsync.Reconciliation, error) // nil: nothing is due

	audit   func(n int) error // nil: nothing is wrong
	changed chan struct{}     // nil: nobody changes anything
	gone    time.Duration     // how long it takes to mend what has gone, from the first Heal on

	mu     sync.Mutex
	audits []time.Time // until, of each call of AuditDue
	healed []time.Time // when
	backUp int
	began  []time.Time
	until  []time.Time // of each call of ReconcileDue
	opened int
	closed int
	awake  bool // it was called and has not been told to rest
}

func (m *mirror) Rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = false
}

func (m *mirror) Cycle(ctx context.Context) (ksefsync.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = true
	m.began = append(m.began, time.Now())
	return ksefsync.Report{}, m.answer(len(m.began) - 1)
}

func (m *mirror) ReconcileDue(_ context.Context, until time.Time) (ksefsync.Reconciliation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = true
	m.until = append(m.until, until)
	if m.reconcile == nil {
		return ksefsync.Reconciliation{}, nil
	}
	return m.reconcile(len(m.until) - 1)
}

func (m *mirror) AuditDue(ctx context.Context, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = true
	m.audits = append(m.audits, until)
	if len(m.healed) > 0 {
		m.mend(ctx, until)
	}
	if m.audit == nil {
		return nil
	}
	return m.audit(len(m.audits) - 1)
}

func (m *mirror) BackUpDue(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = true
	m.backUp++
	return errors.New("the disk for backups is full")
}

func (m *mirror) Changed() <-chan struct{} { return m.changed }

func (m *mirror) Heal(ctx context.Context, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = true
	m.healed = append(m.healed, time.Now())
	m.mend(ctx, until)
	return nil
}

// mend takes its time, until then at most.
func (m *mirror) mend(ctx context.Context, until time.Time) {
	d := min(m.gone, time.Until(until))
	m.gone -= d
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (m *mirror) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed++
	return nil
}

func (m *mirror) open(context.Context) (daemon.Mirror, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	return m, nil
}

// run keeps the mirrors of jobs until ctx ends.
func run(ctx context.Context, log *slog.Logger, jobs []daemon.Job) {
	d := &daemon.Daemon{Log: log}
	d.Keep(ctx, jobs)
	<-ctx.Done()
	d.Wait()
}

// keep runs the daemon over the mirrors for a while of bubble time and returns
// its log.
func keep(t *testing.T, d time.Duration, mirrors map[string]*mirror) string {
	t.Helper()
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var jobs []daemon.Job
	for name, m := range mirrors {
		jobs = append(jobs, daemon.Job{Name: name, Interval: 15 * time.Minute, Open: m.open})
	}
	run(ctx, slog.New(slog.NewTextHandler(&log, nil)), jobs)
	for name, m := range mirrors {
		if m.opened != m.closed {
			t.Errorf("%s was opened %d times and closed %d times", name, m.opened, m.closed)
		}
	}
	return log.String()
}

// Whatever a mirror was asked to do, it rests afterwards.
func TestMirrorsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(n int) error {
			if n%2 == 1 {
				return &ksef.Error{HTTPStatus: 500}
			}
			return nil
		}, changed: make(chan struct{})}
		d := &daemon.Daemon{Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		d.Keep(ctx, []daemon.Job{{Name: "a", Interval: 15 * time.Minute, Open: m.open}})
		rests := func(after string) {
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.awake {
				t.Errorf("it does not rest after %s", after)
			}
		}
		rests("its first cycle")
		m.changed <- struct{}{}
		rests("a change in its folder")
		if err := d.Do(ctx, "a", false, func(ctx context.Context, mirror daemon.Mirror) error { return mirror.AuditDue(ctx, time.Now()) }); err != nil {
			t.Fatal(err)
		}
		rests("work by hand")
		<-time.After(20 * time.Minute)
		rests("a cycle that failed, and the one after it")
		if len(m.began) != 3 || len(m.healed) != 1 || m.opened != 1 {
			t.Errorf("%d cycles, healed %d times, opened %d times", len(m.began), len(m.healed), m.opened)
		}
		cancel()
		d.Wait()
	})
}

func TestRunsAtItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(int) error { return nil }}
		keep(t, 12*time.Hour, map[string]*mirror{"a": m})
		if !m.began[0].Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) || m.opened != 1 {
			t.Errorf("it began at %s and was opened %d times; alone it has nobody to wait for", m.began[0], m.opened)
		}
		pauses := map[time.Duration]bool{}
		for i := range m.began[1:] {
			pause := m.began[i+1].Sub(m.began[i])
			pauses[pause] = true
			if pause < 15*time.Minute || pause > 16*time.Minute+30*time.Second {
				t.Errorf("pause %d was %s", i, pause)
			}
		}
		if len(pauses) < 40 {
			t.Errorf("%d pauses, of %d lengths: mirrors in step would stay in it", len(m.began)-1, len(pauses))
		}
	})
}

// One mirror's failure neither delays another nor is repeated in a hot loop or
// in a flood of log lines.
func TestFailureIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fine := &mirror{answer: func(int) error { return nil }}
		broken := &mirror{answer: func(n int) error {
			switch {
			case n < 10:
				return &ksef.Error{Op: "query metadata", HTTPStatus: 502}
			case n < 20:
				return fmt.Errorf("buyer: %w", ksefsync.ErrStuck)
			case n < 22:
				return &ksef.LoginError{Status: 415, Terminal: true} // which only this mirror's client remembers
			}
			return nil
		}}
		log := keep(t, 6*time.Hour-time.Minute, map[string]*mirror{"fine": fine, "broken": broken})
		if len(fine.began) < 22 || len(fine.began) > 24 {
			t.Errorf("the other mirror ran %d cycles in six hours", len(fine.began))
		}
		for i := range broken.began[1:] {
			if pause := broken.began[i+1].Sub(broken.began[i]); pause < 30*time.Second || pause > 17*time.Minute {
				t.Errorf("pause %d was %s", i, pause)
			}
		}
		if broken.opened != 1 {
			t.Errorf("KSeF's failure opened the mirror %d times", broken.opened)
		}
		if n := strings.Count(log, "mirror is in trouble"); n < 2 || n > 20 {
			t.Errorf("%d lines about one trouble in hours", n)
		}
		if strings.Count(log, "mirror recovered") != 1 {
			t.Errorf("no line at recovery:\n%s", log)
		}
	})
}

// When the budget is used up it waits until the instant that was told, however
// far, and not an interval.
func TestBudgetIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(n int) error {
			if n == 0 {
				return errors.Join(&ksef.BudgetError{Group: ksef.GroupDownload, Until: time.Now().Add(100 * time.Minute)})
			}
			return nil
		}}
		keep(t, 2*time.Hour, map[string]*mirror{"a": m})
		if pause := m.began[1].Sub(m.began[0]); pause < 100*time.Minute || pause > 101*time.Minute {
			t.Errorf("it waited %s of 100 minutes", pause)
		}
	})
}

// That the limits keep one role from more does not hide that another has failed: it is
// tried again soon, it counts, and this machine's part in it is looked at afresh.
func TestFailureBesideLimits(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		opened int
	}{
		"KSeF's": {&ksef.Error{Op: "query metadata", HTTPStatus: 403}, 1},
		"ours":   {errors.New("disk full"), 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mirror{answer: func(n int) error {
					limit := fmt.Errorf("seller: %w", &ksef.BudgetError{Group: ksef.GroupExport, Until: time.Now().Add(2 * time.Hour)})
					switch n {
					case 0:
						return errors.Join(limit, fmt.Errorf("buyer: %w", test.err))
					case 1:
						return errors.Join(limit, fmt.Errorf("buyer: %w", &ksef.BudgetError{Group: ksef.GroupMetadata, Until: time.Now().Add(time.Hour)}))
					}
					return nil
				}}
				log := keep(t, time.Hour, map[string]*mirror{"a": m})
				if len(m.began) != 2 || m.began[1].Sub(m.began[0]) > time.Minute {
					t.Errorf("cycles at %v: want one soon after the failure, and then none while all roles wait for the limits", m.began)
				}
				if m.opened != test.opened || strings.Count(log, "mirror is in trouble") != 1 || strings.Count(log, "mirror recovered") != 1 {
					t.Errorf("opened %d times:\n%s", m.opened, log)
				}
			})
		})
	}
}

// Trouble of this machine closes the mirror, so that what was mended is noticed.
func TestLocalTroubleOpensAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(n int) error {
			if n < 3 {
				return errors.New("disk full")
			}
			return nil
		}}
		keep(t, time.Hour, map[string]*mirror{"a": m})
		if m.opened != 4 {
			t.Errorf("opened %d times, want anew after each of three failures", m.opened)
		}
	})
}

// A loop says by when it will be heard of again, and keeps its word; in a cycle
// that hangs it does not.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		m := &mirror{answer: func(n int) error {
			switch n {
			case 1:
				return &ksef.Error{Op: "query metadata", HTTPStatus: 502}
			case 2:
				return &ksef.BudgetError{Group: ksef.GroupDownload, Until: time.Now().Add(5 * time.Hour)}
			case 3:
				<-hang
			}
			return nil
		}}
		var due time.Time
		failed := false
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			run(ctx, slog.New(slog.DiscardHandler), []daemon.Job{{Name: "a", Interval: 15 * time.Minute, Open: m.open, Beat: func(by time.Time, failures int) {
				if !due.IsZero() && time.Now().After(due) {
					t.Errorf("heard of at %s, due by %s", time.Since(began), due.Sub(began))
				}
				due = by
				failed = failed || failures > 0
			}}})
		}()
		<-time.After(7 * time.Hour) // the fourth cycle hangs since 5 h 15 min
		synctest.Wait()
		if !failed {
			t.Error("the failure was not told")
		}
		if now := time.Now(); len(m.began) != 4 || now.After(due) {
			t.Errorf("%d cycles; due by %s", len(m.began), due.Sub(began))
		}
		<-time.After(time.Hour)
		if !time.Now().After(due) {
			t.Errorf("hung for hours, it is due only by %s", due.Sub(began))
		}
		close(hang)
		cancel()
		<-ended
	})
}

// Reconciling has the time between two cycles. KSeF's trouble with it is not the
// mirror's, which goes on at its interval; trouble of this machine is.
func TestReconcilesBetweenCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{
			answer: func(n int) error {
				if n == 1 {
					return &ksef.Error{Op: "query metadata", HTTPStatus: 502}
				}
				return nil
			},
			reconcile: func(n int) (ksefsync.Reconciliation, error) {
				switch n {
				case 0:
					failed := ksefsync.RoleReconciliation{Role: "buyer", Err: &ksef.Error{Op: "start an export", HTTPStatus: 503}}
					return ksefsync.Reconciliation{Roles: []ksefsync.RoleReconciliation{failed}}, nil
				case 1:
					return ksefsync.Reconciliation{}, errors.New("disk full")
				}
				return ksefsync.Reconciliation{}, nil
			},
		}
		log := keep(t, time.Hour, map[string]*mirror{"a": m})
		// The second cycle failed, so nothing was reconciled after it.
		if len(m.until) != len(m.began)-1 || !m.until[0].Equal(m.began[0].Add(15*time.Minute)) || !m.until[1].Equal(m.began[2].Add(15*time.Minute)) {
			t.Errorf("cycles at %v, reconciled until %v", m.began, m.until)
		}
		if pause := m.began[1].Sub(m.began[0]); pause < 15*time.Minute || pause > 17*time.Minute {
			t.Errorf("KSeF's trouble with reconciling made the pause %s", pause)
		}
		if m.opened != 2 || strings.Count(log, "reconciling failed") != 1 || !strings.Contains(log, "failures=2") {
			t.Errorf("opened %d times\n%s", m.opened, log)
		}
	})
}

func TestStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := &mirror{answer: func(int) error { return nil }}
		ended := make(chan struct{})
		go func() {
			run(ctx, slog.New(slog.DiscardHandler), []daemon.Job{{Name: "a", Interval: time.Hour, Open: m.open}})
			close(ended)
		}()
		synctest.Wait()
		began := time.Now()
		cancel()
		<-ended
		if time.Since(began) != 0 || m.closed != 1 {
			t.Errorf("it took %s, closed %d times", time.Since(began), m.closed)
		}
	})
}

// The files are looked after when KSeF is in trouble too, and a backup that fails
// is nobody's trouble but its own.
func TestCareWithoutKSeF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(int) error { return &ksef.Error{Op: "query metadata", HTTPStatus: 502} }}
		began := time.Now()
		log := keep(t, time.Hour, map[string]*mirror{"a": m})
		if len(m.audits) < 5 || len(m.audits) != len(m.began) || m.backUp != len(m.began) {
			t.Fatalf("%d cycles, %d audits, %d backups", len(m.began), len(m.audits), m.backUp)
		}
		if want := began.Add(15 * time.Minute); !m.audits[0].Equal(want) {
			t.Errorf("the first audit had time until %s, want %s", m.audits[0], want)
		}
		if m.opened != 1 || !strings.Contains(log, "the backup failed") {
			t.Errorf("opened %d times:\n%s", m.opened, log)
		}
	})
}

// A folder that is no longer there is the mirror's trouble also while KSeF has
// nothing new, and over as soon as it is back.
func TestAuditFindsTheFolderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(int) error { return nil }, audit: func(n int) error {
			if n == 1 || n == 2 {
				return errors.New("the folder is gone")
			}
			return nil
		}}
		log := keep(t, time.Hour, map[string]*mirror{"a": m})
		if m.opened != 3 || strings.Count(log, "mirror is in trouble") != 1 || strings.Count(log, "mirror recovered") != 1 {
			t.Errorf("opened %d times:\n%s", m.opened, log)
		}
	})
}

// What is changed in the folder is mended between two cycles, and delays none.
func TestHealsBetweenCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{answer: func(int) error { return nil }, changed: make(chan struct{}, 1)}
		began := time.Now()
		time.AfterFunc(4*time.Minute, func() { m.changed <- struct{}{} })
		time.AfterFunc(20*time.Minute, func() { m.changed <- struct{}{} })
		keep(t, time.Hour-time.Minute, map[string]*mirror{"a": m})
		if len(m.healed) != 2 || m.healed[0].Sub(began) != 4*time.Minute || m.healed[1].Sub(began) != 20*time.Minute {
			t.Errorf("mended at %v", m.healed)
		}
		if pause := m.began[1].Sub(began); len(m.began) != 4 || pause < 15*time.Minute || pause > 17*time.Minute {
			t.Errorf("cycles at %v", m.began)
		}
	})
}

// While a folder that has gone is mended, work by hand waits seconds only. What is left
// is mended with the next cycle, and without such work all is at once.
func TestWorkByHandWhileHealing(t *testing.T) {
	for name, test := range map[string]struct {
		order bool
		left  time.Duration
	}{"order": {true, 4*time.Minute + 30*time.Second}, "none": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mirror{answer: func(int) error { return nil }, changed: make(chan struct{}, 1), gone: 5 * time.Minute}
				d := &daemon.Daemon{Log: slog.New(slog.DiscardHandler)}
				ctx, cancel := context.WithCancel(t.Context())
				d.Keep(ctx, []daemon.Job{{Name: "a", Interval: 15 * time.Minute, Open: m.open}})
				synctest.Wait()
				m.changed <- struct{}{}
				<-time.After(25 * time.Second)
				began := time.Now()
				if test.order {
					if err := d.Do(ctx, "a", false, func(context.Context, daemon.Mirror) error { return nil }); err != nil || time.Since(began) > 10*time.Second {
						t.Errorf("it waited %s: %v", time.Since(began), err)
					}
				}
				<-time.After(8 * time.Minute)
				m.mu.Lock()
				if m.gone != test.left {
					t.Errorf("%s were left before the next cycle, want %s", m.gone, test.left)
				}
				m.mu.Unlock()
				<-time.After(20 * time.Minute)
				cancel()
				d.Wait()
				if m.gone != 0 || len(m.healed) != 1 {
					t.Errorf("%s are left after it; told %d times", m.gone, len(m.healed))
				}
			})
		})
	}
}
