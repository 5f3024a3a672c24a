package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// limitsMaxAge is how long the limits that KSeF last told are believed.
const limitsMaxAge = 24 * time.Hour

// Report is what one cycle did, stream by stream, in the order they ran.
type Report struct {
	Streams []StreamReport
}

// Err joins the errors of all streams.
func (r Report) Err() error {
	var errs []error
	for _, s := range r.Streams {
		if s.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Role, s.Err))
		}
	}
	return errors.Join(errs...)
}

// Cycle asks KSeF once for everything new, for every role that is due. The roles
// take turns, a window each, so that one with a backlog takes of the hour's budget
// what the others leave. Its error is one for which [Limited] gives a limit when the
// limits cut it short: what was fetched is kept, and the next cycle goes on from
// there. One stream's trouble does not keep the others from running, unless it
// concerns them all. Then it reads again, for a while, what an older version of the
// program has read, if there is any: that needs no KSeF.
func (m *Mirror) Cycle(ctx context.Context) (Report, error) {
	report, err := m.fetch(ctx)
	if failed := m.rereadSome(ctx); failed != nil {
		err = errors.Join(err, failed)
	}
	return report, err
}

// fetch is the part of a cycle that asks KSeF.
func (m *Mirror) fetch(ctx context.Context) (Report, error) {
	var report Report
	streams, err := m.streams(ctx)
	if err != nil {
		return report, err
	}
	if err := m.refreshLimits(ctx); err != nil {
		return report, m.recordAll(ctx, streams, err)
	}
	m.progress = Progress{}
	for waiting := streams; len(waiting) > 0; {
		s := waiting[0]
		waiting = waiting[1:]
		more, err := s.turn(ctx)
		if ctx.Err() != nil {
			return report, ctx.Err() // stopped: neither a success nor an error worth a record
		}
		if err == nil && more {
			waiting = append(waiting, s)
			continue
		}
		ended := []*stream{s}
		if err != nil && !onlyThisStream(err) {
			// It would meet the others too. Those that had a turn end with it.
			ended = append(ended, slices.DeleteFunc(waiting, func(s *stream) bool { return s.started.IsZero() })...)
			waiting = nil
		}
		for _, s := range ended {
			s.report.Err = err
			s.report.Waiting = len(s.waiting)
			report.Streams = append(report.Streams, s.report)
			if err := s.record(ctx); err != nil {
				return report, err
			}
		}
	}
	if err := report.Err(); err != nil {
		return report, err
	}
	return report, m.endAdoption(ctx, report)
}

// recordAll records what keeps all streams from running, so that status tells it
// too, and returns it. Being stopped is not worth a record.
func (m *Mirror) recordAll(ctx context.Context, streams []*stream, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, s := range streams {
		s.started, s.report.Err = m.Now(), err
		s.report.Waiting = len(s.waiting)
		if err := s.record(ctx); err != nil {
			return err
		}
	}
	return err
}

// refreshLimits learns the limits in force at the first cycle and daily: they
// differ by environment and are raised and lowered for single companies
// (limity-api.md). Without an answer the published ones hold.
func (m *Mirror) refreshLimits(ctx context.Context) error {
	if m.Now().Sub(m.limitsRead) < limitsMaxAge {
		return nil
	}
	limits, err := m.askLimits(ctx)
	if err != nil || limits == nil {
		return err
	}
	m.limitsRead = m.Now()
	text, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	return m.db.SaveLimits(ctx, string(text))
}

// askLimits has KSeF tell the limits in force; nil: it does not, and the published
// ones hold.
func (m *Mirror) askLimits(ctx context.Context) (ksef.Limits, error) {
	limits, err := m.remote.RateLimits(ctx)
	var refused *ksef.Error
	if errors.As(err, &refused) && refused.HTTPStatus != 0 || overLimit(err) {
		m.Log.Warn("limits in force are unknown, using the published ones", "err", err)
		return nil, nil
	}
	return limits, err
}

// streams gives the streams of the mirror that are due, the one that ran longest
// ago first.
func (m *Mirror) streams(ctx context.Context) ([]*stream, error) {
	streams, err := m.everyStream(ctx)
	if err != nil {
		return nil, err
	}
	streams = slices.DeleteFunc(streams, func(s *stream) bool {
		return !m.EveryRole && (m.within(s.was.LastRunAt, rest(s.was)) || s.restsByDay())
	})
	slices.SortStableFunc(streams, func(a, b *stream) int { return a.was.LastRunAt.Compare(b.was.LastRunAt) })
	return streams, nil
}

// within tells whether less than d has passed since an instant. One that is yet to come
// was noted before the clock was set back: nobody knows then, and nothing waits for the
// time to come again.
func (m *Mirror) within(since time.Time, d time.Duration) bool {
	passed := m.Now().Sub(since)
	return passed >= 0 && passed < d
}

// restsByDay tells whether the stream is asked for at night only, and has been this
// night: it is complete up to the moment at which the mirror's night began. So a
// night that was missed is made up for, what failed is tried again, and a backlog is
// worked off by day too.
func (s *stream) restsByDay() bool {
	return slices.Contains(s.NightRoles, s.role) && s.was.Watermark != "" &&
		!ksef.Timestamp(s.was.Watermark).Time().Before(s.night())
}

// turn mirrors one window, and tells whether KSeF has more. The first turn of a
// cycle takes up first what earlier ones left.
func (s *stream) turn(ctx context.Context) (more bool, err error) {
	if s.started.IsZero() {
		s.started = s.Now()
		if err := s.resume(ctx); err != nil {
			return false, err
		}
		if err := s.retryWaiting(ctx); err != nil {
			return false, err
		}
		s.from, s.first = s.position, s.position
	}
	if s.partition != nil {
		return true, s.nextPart(ctx)
	}
	to := s.windowEnd(s.from)
	next, more, err := s.window(ctx, s.from, to)
	switch {
	case errors.Is(err, ksef.ErrNothingNew):
		return false, nil // from is beyond the high water mark: nothing to move, nothing wrong
	case err != nil:
		return false, err
	case more && next.Compare(s.from) < 0:
		return false, fmt.Errorf("KSeF lists invoices from before %s, where it was asked to begin: %w", s.from, ErrStuck)
	case more && next.Compare(s.from) == 0: // all that came is of one instant
		err := s.storeInstant(ctx, next)
		if errors.Is(err, ksef.ErrNothingNew) {
			return false, nil // the high water mark has gone back before it
		}
		return err == nil, err
	case more:
		s.from = next
	case to != "" && next.Compare(to) >= 0:
		s.from = to
	default:
		return false, nil
	}
	return true, nil
}

// window mirrors what one window holds, or as much of its beginning as one answer
// brings, and says how far the stream is complete then and whether KSeF has more
// behind.
//
// Metadata is paged by date, not by page number: every query starts at the
// permanent storage date of the last row seen. Rows may shift between numbered
// pages when dates tie, so that one comes twice and another never; a query that
// starts at a date sees every row of that date again. It also makes a full page, a
// truncated package and a budget that ends half-way the same case.
func (s *stream) window(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	is, err := s.situation(ctx)
	if err != nil {
		return "", false, err
	}
	is.closed = to != ""
	way, why := plan(is)
	var page ksef.MetadataPage
	if way == list {
		if page, err = s.query(ctx, ksef.Query{From: from, To: to}, 0); err != nil {
			return "", false, err
		}
		if next, more, err = continuation(page, to); err != nil {
			return "", false, err
		}
		is.listed, is.more = true, more
		known, err := s.known(ctx, page.Invoices)
		if err != nil {
			return "", false, err
		}
		is.unknown = s.absent(page.Invoices, known)
		way, why = plan(is)
	}
	s.report.Reason = fmt.Sprintf("%s: %s", way, why)
	s.Log.Debug("planned", "role", s.role, "from", from, "to", to, "reason", s.report.Reason)
	switch way {
	case wait:
		return "", false, &ksef.BudgetError{Group: ksef.GroupExport, Until: s.Now().Add(is.nextExport)}
	case singly:
		return next, more, s.store(ctx, page.Invoices, next)
	}
	next, s.continued, err = s.bulk(ctx, from, to)
	if s.doesWithoutExports(err) {
		return s.window(ctx, from, to)
	}
	return next, s.continued, err
}

// windowEnd is the end of the window that starts at from: "" (until now) for the
// newest one.
func (s *stream) windowEnd(from ksef.Timestamp) ksef.Timestamp {
	end := from.Time().Add(windowLength)
	if end.After(s.Now()) {
		return ""
	}
	return ksef.NewTimestamp(end)
}

// retryWaiting lists one invoice in quarantine again, the one that is due for the
// longest time, so that what was wrong for a while mends itself.
func (s *stream) retryWaiting(ctx context.Context) error {
	var due *db.Quarantined
	for _, q := range s.waiting {
		if !s.within(q.LastTriedAt, s.retryPause(q)) && (due == nil || q.LastTriedAt.Before(due.LastTriedAt)) {
			due = &q
		}
	}
	if due == nil {
		return nil
	}
	// Noted first, so that one which KSeF no longer lists is not asked for again
	// and again.
	due.LastTriedAt = s.Now()
	batch := newBatch(s)
	batch.setAside(*due)
	if err := batch.commit(ctx); err != nil {
		return err
	}
	err := s.storeWaiting(ctx, *due)
	if errors.Is(err, ErrStuck) || errors.Is(err, ksef.ErrNothingNew) {
		s.Log.Warn("invoice in quarantine could not be listed again", "role", s.role, "ksef_number", due.KSeFNumber, "err", err)
		return nil
	}
	return err
}

// record keeps what the cycle did for this stream.
func (s *stream) record(ctx context.Context) error {
	run := db.Run{
		Role: s.role, Route: s.report.Route, Started: s.started, Finished: s.Now(),
		From: string(s.first), To: string(s.position), Reason: s.report.Reason,
		Listed: s.report.Listed, Added: s.report.Added, Known: s.report.Known,
		Waiting: s.report.Waiting, Requests: s.report.Requests,
	}
	// That the limits allow no more is how a backlog goes, not an error; the
	// watermark tells how far the stream is behind.
	if s.report.Err != nil && Limited(s.report.Err) == nil {
		run.Err, run.Trouble = s.report.Err.Error(), string(troubleOf(s.report.Err))
	}
	return s.db.RecordRun(ctx, run)
}

// resume takes up the exports that an earlier cycle, or a process that died,
// left behind, at whatever stage they are.
func (s *stream) resume(ctx context.Context) error {
	exports, err := s.db.Exports(ctx, s.role)
	if err != nil {
		return err
	}
	for _, e := range exports {
		// A crash came before the reference, or the window begins beyond what is
		// mirrored, which cannot be: moving the stream by it would leave a gap.
		gap := ksef.Timestamp(e.From).Time().Sub(s.position.Time()) > smallestStep
		if e.Reference == "" || gap {
			if err := s.db.DropExport(ctx, e.ID); err != nil {
				return err
			}
			continue
		}
		pack, err := s.finish(ctx, e)
		if err == nil && pack.more && pack.next.Compare(ksef.Timestamp(e.From)) == 0 {
			err = s.storeInstant(ctx, pack.next)
		}
		if err != nil && !errors.Is(err, errExport) && !errors.Is(err, ksef.ErrNothingNew) {
			return err
		}
	}
	return nil
}

// endAdoption ends the taking over once every role is complete.
func (m *Mirror) endAdoption(ctx context.Context, report Report) error {
	if m.adoptable == nil || len(report.Streams) < len(m.Roles) {
		return nil
	}
	m.adoptable = nil
	return m.db.EndAdoption(ctx)
}
