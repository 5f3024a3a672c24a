package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"ksefmirror/internal/event"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

const (
	firstBackoff = 30 * time.Second
	maxBackoff   = 15 * time.Minute
	// logEvery is how long a mirror's trouble is not logged again.
	logEvery = 15 * time.Minute
	// jitter is the part of a pause, one in so many, by which it may be longer, so
	// that mirrors which have got into step get out of it.
	jitter = 10
	// settle is added to the instant at which the limits allow the next request.
	settle = time.Second
	// recheck is how often a loop that waits looks at the wall clock: at the beginning
	// of each minute, so that hundreds of them wake the process once.
	recheck = time.Minute
	// horizon is how far ahead the quiet hours are looked for.
	horizon = 48 * time.Hour
	// MaxSilence is how long a cycle may go on without a sign of life before its
	// loop counts as stuck. Storing an invoice is one; downloading a package over a
	// slow line gives none for long.
	MaxSilence = 2 * time.Hour
	// auditMost is how long the files are looked at at a stretch, whatever the
	// interval: that gives no sign of life.
	auditMost = 15 * time.Minute
	// healStretch is how long the folder is mended at a stretch, while orders wait.
	healStretch = 10 * time.Second
	// grace is by how much a loop may oversleep.
	grace = 5 * time.Minute
)

// loop runs one mirror's cycles.
type loop struct {
	Job
	log *slog.Logger
	now func() time.Time

	stop   context.CancelFunc
	spread time.Duration   // how long to wait before the first cycle
	after  <-chan struct{} // closed when the loop that had the mirror before has ended; nil: there was none
	orders chan order
	ended  chan struct{} // closed when the mirror is

	mirror   Mirror    // nil when not open
	failures int       // in a row
	loggedAt time.Time // when trouble was last logged
	troubled bool      // it was, and its end was not
}

// order is work by hand.
type order struct {
	ctx   context.Context // of whoever waits for it: it crosses to the loop with the work
	cycle bool
	work  func(context.Context, Mirror) error
	done  chan error // with room for the answer
}

func newLoop(job Job, log *slog.Logger, now func() time.Time) *loop {
	if now == nil {
		now = time.Now
	}
	return &loop{Job: job, log: log, now: now, orders: make(chan order), ended: make(chan struct{})}
}

// run runs cycles until ctx ends.
func (l *loop) run(ctx context.Context) {
	defer close(l.ended)
	var beside sync.WaitGroup
	defer func() {
		l.close()
		beside.Wait()
		if l.Ended != nil {
			l.Ended()
		}
	}()
	if l.after != nil {
		<-l.after
	}
	if l.Beside != nil {
		beside.Go(func() { l.Beside(ctx) })
	}
	due := l.in(l.spread)
	for ctx.Err() == nil {
		if end, quiet := l.quietUntil(); quiet {
			if wait := end + l.spread; l.left(due) < wait {
				due = l.in(wait)
			}
		}
		l.beat(l.left(due) + grace)
		o, err := l.wait(ctx, due)
		if err != nil {
			return
		}
		if _, quiet := l.quietUntil(); o == nil && quiet {
			continue // they began while it waited
		}
		l.beat(MaxSilence)
		started := time.Now()
		if o == nil {
			due = l.in(l.scheduled(ctx, started))
			l.rest()
			continue
		}
		err = l.byHand(ctx, *o)
		l.rest()
		if o.cycle && ctx.Err() == nil && o.ctx.Err() == nil {
			due = l.in(l.next(started, err))
		}
		o.done <- err
	}
}

// moment is an instant by both clocks: the one that no change of the time touches
// and that stands still while the machine sleeps, and the one on the wall.
type moment struct{ steady, wall time.Time }

func (l *loop) in(d time.Duration) moment {
	return moment{time.Now().Add(d), l.now().Round(0).Add(d)}
}

// left is how long it is until m, by the clock that is there first: a machine that
// slept, or whose time was set forward, does not wait longer for that, and one whose
// time was set back does not wait for the time to come again. A cycle too early
// costs nothing: the limits are kept by what counts requests.
func (l *loop) left(m moment) time.Duration {
	return min(time.Until(m.steady), m.wall.Sub(l.now().Round(0)))
}

// wait waits until due, or for an order, or until ctx ends, whose error it returns
// then. It has the mirror mend meanwhile what is changed in its folder.
func (l *loop) wait(ctx context.Context, due moment) (*order, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := l.left(due)
		if left <= 0 && ctx.Err() == nil {
			return nil, nil
		}
		now := time.Now()
		timer.Reset(min(left, now.Truncate(recheck).Add(recheck).Sub(now)))
		var changed <-chan struct{}
		if l.mirror != nil {
			changed = l.mirror.Changed()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case o := <-l.orders:
			return &o, nil
		case <-timer.C:
		case <-changed:
			if o := l.heal(ctx, due); o != nil {
				return o, nil
			}
			l.rest()
		}
	}
}

// heal has the mirror mend what is changed in its folder, a stretch at a time, until
// due, and gives the order that has come meanwhile: when a whole folder has gone, who
// waits for a sync should not wait for that. What is left then is the next cycle's.
func (l *loop) heal(ctx context.Context, due moment) *order {
	for mend := l.mirror.Heal; ; mend = l.mirror.AuditDue { // which goes on where the other has stopped
		until := time.Now().Add(min(l.left(due), healStretch))
		err := mend(ctx, until)
		if err != nil && ctx.Err() == nil {
			l.log.Warn("what was changed in the folder could not be looked at", "err", err)
			l.close() // the next cycle looks at it afresh, and tells what it finds
		}
		if err != nil || time.Now().Before(until) || l.left(due) <= 0 {
			return nil
		}
		select {
		case o := <-l.orders:
			return &o
		default:
		}
	}
}

// scheduled runs a cycle when its time has come, and says how long to wait for the
// next. It ends when quiet hours begin.
func (l *loop) scheduled(ctx context.Context, started time.Time) time.Duration {
	awake := ctx
	if d, known := l.quietIn(); known {
		var cancel context.CancelFunc
		awake, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	err := l.cycle(awake, started)
	switch {
	case ctx.Err() != nil:
		return 0
	case awake.Err() != nil:
		l.log.Info("stopped at a safe point, for the quiet hours have begun")
		return settle
	}
	return l.next(started, err)
}

// cycle opens the mirror if it is not open and runs one cycle. In the time that is
// left of the interval it looks after what is here, and reconciles what is due. A
// mirror whose local state is in doubt is closed, so that the next attempt looks at
// it afresh.
func (l *loop) cycle(ctx context.Context, started time.Time) error {
	if err := l.open(ctx); err != nil {
		return err
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
	l.doubt(ctx, err)
	return err
}

// byHand does what somebody waits for.
func (l *loop) byHand(ctx context.Context, o order) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()
	if err := l.open(ctx); err != nil {
		return err
	}
	err := o.work(ctx, l.mirror)
	l.doubt(ctx, err)
	l.log.Info("worked by hand", "ok", err == nil)
	if err != nil && ctx.Err() != nil && o.ctx.Err() == nil {
		err = fmt.Errorf("the daemon has stopped this mirror, at a safe point, to change it: %w", err)
	}
	return err
}

func (l *loop) open(ctx context.Context) error {
	if l.mirror != nil {
		return nil
	}
	mirror, err := l.Open(ctx)
	if err != nil {
		return err
	}
	l.mirror = mirror
	return nil
}

// doubt closes the mirror if its local state is in doubt after err.
func (l *loop) doubt(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && local(err) {
		l.close()
	}
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

// local tells whether err, or one of those that it joins, came from this machine
// rather than from KSeF.
func local(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(several.Unwrap(), local)
	}
	var refused *ksef.Error
	var login *ksef.LoginError
	var budget *ksef.BudgetError
	return !errors.As(err, &refused) && !errors.As(err, &login) && !errors.As(err, &budget) &&
		!errors.Is(err, ksefsync.ErrStuck)
}

// next is how long to wait after a cycle that began at started and ended with err,
// and says so in the log. It is never less than the interval from start to start,
// for KSeF asks for that.
func (l *loop) next(started time.Time, err error) time.Duration {
	now := time.Now()
	longer := func(d time.Duration) time.Duration {
		return d + share(d/jitter, l.Name, strconv.FormatInt(started.UnixNano(), 10))
	}
	limit := ksefsync.Limited(err)
	switch {
	case err == nil:
		l.recovered()
		return max(0, started.Add(longer(l.Interval)).Sub(now))
	case limit != nil:
		l.recovered()
		l.log.Info("the limits allow no more for now", "group", limit.Group, "until", limit.Until)
		return max(0, limit.Until.Sub(now)) + settle
	}
	l.failures++
	if l.loggedAt.IsZero() || now.Sub(l.loggedAt) >= logEvery {
		event.Log(l.log, event.Trouble, "err", err, "failures", l.failures)
		l.loggedAt, l.troubled = now, true
	}
	backoff := maxBackoff
	if l.failures <= 5 {
		backoff = firstBackoff << (l.failures - 1)
	}
	return longer(backoff)
}

// recovered notes that KSeF answers and the mirror is in order. One that fails and
// recovers all the time is logged no more often than one that only fails.
func (l *loop) recovered() {
	if l.troubled {
		event.Log(l.log, event.Recovered, "failures", l.failures)
	}
	l.failures, l.troubled = 0, false
}

// quietUntil tells whether it is quiet now, and how long it will be. It goes minute
// by minute by what the clock shows, so that nothing has to be known of the nights
// in which the clock is changed.
func (l *loop) quietUntil() (d time.Duration, quiet bool) {
	if l.Quiet == nil || !l.Quiet(l.now()) {
		return 0, false
	}
	return l.change(false), true
}

// quietIn is how long it is until quiet hours begin; known is false if that is too
// far ahead to know.
func (l *loop) quietIn() (d time.Duration, known bool) {
	if l.Quiet == nil {
		return 0, false
	}
	d = l.change(true)
	return d, d < horizon
}

// change is how long it is until the quiet hours begin or end.
func (l *loop) change(quiet bool) time.Duration {
	now := l.now()
	at := now.Truncate(time.Minute)
	for at.Sub(now) < horizon && (!at.After(now) || l.Quiet(at) != quiet) {
		at = at.Add(time.Minute)
	}
	return min(at.Sub(now), horizon)
}

func (l *loop) logReport(report ksefsync.Report) {
	for _, s := range report.Streams {
		l.log.Info("cycle done", "role", s.Role, "watermark", s.Watermark, "listed", s.Listed, "added", s.Added,
			"known", s.Known, "waiting", s.Waiting, "requests", s.Requests, "route", s.Route, "reason", s.Reason, "ok", s.Err == nil)
	}
}

// beat says that the loop will be heard of again within d.
func (l *loop) beat(d time.Duration) {
	if l.Beat != nil {
		l.Beat(time.Now().Add(d), l.failures)
	}
}

// rest has the mirror give back what it need not hold until its next turn.
func (l *loop) rest() {
	if l.mirror != nil {
		l.mirror.Rest()
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
