// Package daemon decides when a mirror's cycle runs: one loop per mirror, each
// at its own interval, with backoff after trouble. What a cycle does is package
// sync's business.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ksefmirror/internal/event"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

const (
	firstBackoff = 30 * time.Second
	maxBackoff   = 15 * time.Minute
	// quiet is how long the same trouble is not logged again.
	quiet = 15 * time.Minute
	// settle is added to the instant at which the limits allow the next request.
	settle = time.Second
	// MaxSilence is how long a cycle may go on without a sign of life before its
	// loop counts as stuck. Storing an invoice is one; downloading a package over a
	// slow line gives none for long.
	MaxSilence = 2 * time.Hour
	// auditMost is how long the files are looked at at a stretch, whatever the
	// interval: that gives no sign of life.
	auditMost = 15 * time.Minute
	// grace is by how much a loop may oversleep.
	grace = 5 * time.Minute
)

// Mirror is what the daemon needs of an opened mirror: [ksefsync.Mirror].
type Mirror interface {
	Cycle(ctx context.Context) (ksefsync.Report, error)
	ReconcileDue(ctx context.Context, until time.Time) (ksefsync.Reconciliation, error)
	AuditDue(ctx context.Context, until time.Time) error
	BackUpDue(ctx context.Context) error
	// Changed is signalled when Heal has something to do; nil: never.
	Changed() <-chan struct{}
	Heal(ctx context.Context, until time.Time) error
	Close() error
}

// Job is one mirror to keep.
type Job struct {
	Name     string
	Interval time.Duration // between the starts of two cycles
	// Open opens the mirror. It is called again after every failure, so that a
	// mounted volume, a released lock or a mended database is picked up.
	Open func(ctx context.Context) (Mirror, error)
	// Beat, if not nil, is called whenever the mirror's loop has moved: unless it is
	// stuck, it will call again before due. failures counts the failed cycles in a
	// row.
	Beat func(due time.Time, failures int)
	// Beside, if not nil, runs beside the mirror's loop, and ends when ctx does.
	Beside func(ctx context.Context)
}

// Run keeps all mirrors until ctx is cancelled, then returns when every cycle
// has stopped at a safe point. One mirror's failure does not touch another's.
func Run(ctx context.Context, log *slog.Logger, jobs []Job) {
	var running sync.WaitGroup
	for _, job := range jobs {
		running.Go(func() {
			l := loop{Job: job, log: log.With("mirror", job.Name)}
			l.run(ctx)
		})
	}
	running.Wait()
}

// loop runs one mirror's cycles.
type loop struct {
	Job
	log      *slog.Logger
	mirror   Mirror // nil when not open
	failures int    // in a row
	loggedAt time.Time
}

func (l *loop) run(ctx context.Context) {
	var beside sync.WaitGroup
	defer beside.Wait()
	if l.Beside != nil {
		beside.Go(func() { l.Beside(ctx) })
	}
	defer l.close()
	for {
		started := time.Now()
		l.beat(started.Add(MaxSilence))
		err := l.cycle(ctx, started)
		if ctx.Err() != nil {
			return
		}
		next := l.next(started, err)
		l.beat(next.Add(grace))
		if l.wait(ctx, next) != nil {
			return
		}
	}
}

// wait waits until then or until ctx ends, whose error it returns then. It has the
// mirror mend meanwhile what is changed in its folder.
func (l *loop) wait(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		var changed <-chan struct{}
		if l.mirror != nil {
			changed = l.mirror.Changed()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-changed:
		}
		if err := l.mirror.Heal(ctx, until); err != nil && ctx.Err() == nil {
			l.log.Warn("what was changed in the folder could not be looked at", "err", err)
			l.close() // the next cycle looks at it afresh, and tells what it finds
		}
	}
}

// cycle opens the mirror if it is not open and runs one cycle. In the time that is
// left of the interval it looks after what is here, and reconciles what is due. A
// mirror whose local state is in doubt is closed, so that the next attempt looks at
// it afresh.
func (l *loop) cycle(ctx context.Context, started time.Time) error {
	if l.mirror == nil {
		mirror, err := l.Open(ctx)
		if err != nil {
			return err
		}
		l.mirror = mirror
	}
	until := started.Add(l.Interval)
	report, err := l.mirror.Cycle(ctx)
	l.logReport(report)
	if err == nil || !local(err) { // KSeF's trouble is no reason to neglect what is here
		if careErr := l.care(ctx, until); careErr != nil {
			err = careErr
		}
	}
	if err == nil {
		err = l.reconcile(ctx, until)
	}
	if err != nil && local(err) {
		l.close()
	}
	return err
}

// care audits the files of the mirror, until then, and backs it up when that is due.
// A backup that fails is not the mirror's trouble: it is logged, and tried again.
func (l *loop) care(ctx context.Context, until time.Time) error {
	if most := time.Now().Add(auditMost); until.After(most) {
		until = most
	}
	if err := l.mirror.AuditDue(ctx, until); err != nil {
		return err
	}
	if err := l.mirror.BackUpDue(ctx); err != nil && ctx.Err() == nil {
		l.log.Error("the backup failed, it will be tried again in an hour", "err", err)
	}
	return nil
}

// reconcile compares what is due, until then. KSeF's trouble with it is not the
// mirror's: it is logged, and tried again in some hours.
func (l *loop) reconcile(ctx context.Context, until time.Time) error {
	found, err := l.mirror.ReconcileDue(ctx, until)
	for _, r := range found.Roles {
		switch {
		case ctx.Err() != nil:
		case r.Err != nil:
			l.log.Warn("reconciling failed, it will be tried again", "role", r.Role, "err", r.Err)
		case r.Reached == r.To:
			l.log.Info("reconciled", "role", r.Role, "from", r.From, "to", r.To, "listed", r.Listed, "late", len(r.Late),
				"not_listed", len(r.NotListed), "changed", len(r.Changed), "requests", r.Requests)
		}
	}
	return err
}

// local tells whether err came from this machine rather than from KSeF.
func local(err error) bool {
	var refused *ksef.Error
	var login *ksef.LoginError
	var budget *ksef.BudgetError
	return !errors.As(err, &refused) && !errors.As(err, &login) && !errors.As(err, &budget) &&
		!errors.Is(err, ksefsync.ErrStuck)
}

// next is when to run again after a cycle that began at started and ended with
// err, and says so in the log.
func (l *loop) next(started time.Time, err error) time.Time {
	now := time.Now()
	var budget *ksef.BudgetError
	switch {
	case err == nil:
		if l.failures > 0 {
			event.Log(l.log, event.Recovered, "failures", l.failures)
			l.failures = 0
		}
		return latest(now, started.Add(l.Interval))
	case errors.As(err, &budget):
		l.failures = 0
		l.log.Info("the limits allow no more for now", "group", budget.Group, "until", budget.Until)
		return latest(now, budget.Until).Add(settle)
	}
	l.failures++
	if l.failures == 1 || now.Sub(l.loggedAt) >= quiet {
		event.Log(l.log, event.Trouble, "err", err, "failures", l.failures)
		l.loggedAt = now
	}
	backoff := maxBackoff
	if l.failures <= 5 {
		backoff = firstBackoff << (l.failures - 1)
	}
	return now.Add(backoff)
}

func (l *loop) logReport(report ksefsync.Report) {
	for _, s := range report.Streams {
		l.log.Info("cycle done", "role", s.Role, "watermark", s.Watermark, "listed", s.Listed, "added", s.Added,
			"known", s.Known, "waiting", s.Waiting, "requests", s.Requests, "route", s.Route, "reason", s.Reason, "ok", s.Err == nil)
	}
}

func (l *loop) beat(due time.Time) {
	if l.Beat != nil {
		l.Beat(due, l.failures)
	}
}

func (l *loop) close() {
	if l.mirror == nil {
		return
	}
	if err := l.mirror.Close(); err != nil {
		l.log.Error("closing the mirror", "err", err)
	}
	l.mirror = nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
