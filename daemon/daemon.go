// Package daemon decides when a mirror's cycle runs: one loop per mirror, each
// at its own interval and moment, with backoff after trouble. The set of mirrors
// may change while it runs, and work by hand takes its turn between cycles. What a
// cycle does is package sync's business.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	ksefsync "ksefmirror/sync"
)

// step is how far apart mirrors begin on average that are begun together, so that
// many do not march in step, and few need not wait.
const step = time.Second

// ErrNotKept is returned by [Daemon.Do] for a mirror that the daemon does not keep,
// or no longer.
var ErrNotKept = errors.New("the daemon does not keep this mirror")

// Mirror is what the daemon needs of an opened mirror: [ksefsync.Mirror].
type Mirror interface {
	Cycle(ctx context.Context) (ksefsync.Report, error)
	ReconcileDue(ctx context.Context, until time.Time) (ksefsync.Reconciliation, error)
	AuditDue(ctx context.Context, until time.Time) error
	BackUpDue(ctx context.Context) error
	// Changed is signalled when Heal has something to do; nil: never.
	Changed() <-chan struct{}
	Heal(ctx context.Context, until time.Time) error
	// Rest gives back what the mirror need not hold until one of the others is called.
	// It is called whenever they have done their work.
	Rest()
	Close() error
}

// Job is one mirror to keep.
type Job struct {
	Name     string
	Interval time.Duration // between the starts of two cycles, at least
	// Quiet, if not nil, tells whether KSeF may not be asked at an instant, except by
	// hand. It is asked for instants of at most two days ahead.
	Quiet func(time.Time) bool
	// Settings is all that the mirror depends on: a job with other settings, as
	// reflect.DeepEqual sees it, takes the place of one that runs.
	Settings any
	// Open opens the mirror. It is called again after every failure of this machine's,
	// so that a mounted volume, a released lock or a mended database is picked up. Its
	// ctx is that of what the mirror is opened for, which ends before the mirror is
	// closed.
	Open func(ctx context.Context) (Mirror, error)
	// Beat, if not nil, is called whenever the mirror's loop has moved: unless it is
	// stuck, it will call again before due. failures counts the failed cycles in a
	// row.
	Beat func(due time.Time, failures int)
	// Beside, if not nil, runs beside the mirror's loop, and ends when ctx does.
	Beside func(ctx context.Context)
	// Ended, if not nil, is called when the mirror is closed and will not be opened
	// again by this job.
	Ended func()
}

// Daemon keeps a set of mirrors. Its methods are safe for concurrent use.
type Daemon struct {
	Log *slog.Logger
	Now func() time.Time // the wall clock; nil: time.Now

	running sync.WaitGroup
	mu      sync.Mutex
	loops   map[string]*loop
	latest  map[string]<-chan struct{} // by name, also of those removed: closed when its latest loop has ended
}

// Changes says how a set of mirrors differs from the one before, by their names, in
// order.
type Changes struct{ Added, Changed, Removed []string }

// String says it in a line, such as "added: acme; removed: old".
func (c Changes) String() string {
	var parts []string
	for _, part := range []struct {
		what  string
		names []string
	}{{"added", c.Added}, {"changed", c.Changed}, {"removed", c.Removed}} {
		if len(part.names) > 0 {
			parts = append(parts, part.what+": "+strings.Join(part.names, ", "))
		}
	}
	if len(parts) == 0 {
		return "no mirror has changed"
	}
	return strings.Join(parts, "; ")
}

// Keep keeps just these mirrors from now on, until ctx ends, which has to be the
// same at every call. It starts and stops what differs from before and returns at
// once: a mirror that is removed or changed stops at a safe point, and its successor
// waits for that. Those that have not changed go on undisturbed. One mirror's
// failure does not touch another's.
func (d *Daemon) Keep(ctx context.Context, jobs []Job) Changes {
	d.mu.Lock()
	defer d.mu.Unlock()
	var changes Changes
	var starting []*loop
	loops := map[string]*loop{}
	if d.latest == nil {
		d.latest = map[string]<-chan struct{}{}
	}
	for _, job := range jobs {
		before := d.loops[job.Name]
		if before != nil && reflect.DeepEqual(before.Settings, job.Settings) {
			loops[job.Name] = before
			continue
		}
		l := newLoop(job, d.Log.With("mirror", job.Name), d.Now)
		l.after = d.latest[job.Name] // also of one removed a moment ago, which may not have stopped yet
		d.latest[job.Name] = l.ended
		loops[job.Name] = l
		starting = append(starting, l)
		if before == nil {
			changes.Added = append(changes.Added, job.Name)
		} else {
			changes.Changed = append(changes.Changed, job.Name)
		}
	}
	for name, l := range d.loops {
		if loops[name] == nil {
			changes.Removed = append(changes.Removed, name)
		}
		if loops[name] != l {
			l.stop()
		}
	}
	d.loops = loops
	for _, l := range starting {
		l.spread = share(min(l.Interval, time.Duration(len(starting)-1)*step), l.Name)
		if l.after == nil {
			l.beat(l.spread + grace) // so that it is known of when this returns
		}
		own, stop := context.WithCancel(ctx)
		l.stop = stop
		d.running.Go(func() { l.run(own) })
	}
	for _, names := range [][]string{changes.Added, changes.Changed, changes.Removed} {
		slices.Sort(names)
	}
	return changes
}

// Wait returns when every mirror has stopped at a safe point, after the ctx of
// [Daemon.Keep] has ended.
func (d *Daemon) Wait() { d.running.Wait() }

// WatchClock says in the log that the wall clock was set or that the machine has
// slept, within a minute after that, until ctx ends. Nothing but the log depends on
// it.
func (d *Daemon) WatchClock(ctx context.Context) {
	now := d.Now
	if now == nil {
		now = time.Now
	}
	ticker := time.NewTicker(recheck)
	defer ticker.Stop()
	before := moment{time.Now(), now().Round(0)}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		at := moment{time.Now(), now().Round(0)}
		if by := at.wall.Sub(before.wall) - at.steady.Sub(before.steady); by.Abs() >= recheck {
			d.Log.Warn("the clock of this machine was set, or it slept; the mirrors go on, and the limits are kept", "by", by.Round(time.Second).String())
		}
		before = at
	}
}

// Do does work by hand with a mirror, between two of its cycles and whatever the
// hour, and returns its error when it is done. The work must be over soon after its
// ctx ends, which it does with ctx and when the mirror is stopped. Work that is a
// cycle counts as one: the next follows an interval later. Work that has not begun
// when the mirror is changed waits for its successor.
func (d *Daemon) Do(ctx context.Context, name string, cycle bool, work func(context.Context, Mirror) error) error {
	o := order{ctx: ctx, cycle: cycle, work: work, done: make(chan error, 1)}
	var ended *loop
	for {
		d.mu.Lock()
		l := d.loops[name]
		d.mu.Unlock()
		if l == nil || l == ended {
			return fmt.Errorf("%s: %w", name, ErrNotKept)
		}
		select {
		case l.orders <- o:
			return <-o.done
		case <-l.ended:
			ended = l
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// share is a part of d that depends on nothing but the words: the same every time,
// and for different words spread evenly.
func share(d time.Duration, words ...string) time.Duration {
	sum := fnv.New32a()
	for _, word := range words {
		_, _ = sum.Write([]byte(word)) // it never fails
		_, _ = sum.Write([]byte{0})
	}
	return time.Duration(float64(d) * float64(sum.Sum32()) / (1 << 32))
}
