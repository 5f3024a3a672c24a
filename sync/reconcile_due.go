package sync

import (
	"context"
	"time"

	"ksefmirror/db"
)

const (
	oneDay = 24 * time.Hour
	// reconcileRetry is how long after a failure a comparison is tried again.
	reconcileRetry = 4 * time.Hour
)

// rhythm is how much before the watermark is compared again, and every how many
// nights.
type rhythm struct {
	span   time.Duration
	nights int
}

// rhythms are those in use, the longest span first: it does for the shorter ones
// too. KSeF's lists were found wanting within minutes; the longer spans are for
// what nobody has seen yet.
func rhythms() []rhythm { return []rhythm{{windowLength, 30}, {35 * oneDay, 7}, {72 * time.Hour, 1}} }

// ReconcileDue compares what is due, as far as there is time until then and the
// limits leave the mirror enough for itself; the next call goes on, also with what
// a person began and did not see the end of. What is due
// depends on what the database says was compared when, so a restart repeats
// nothing. KSeF's errors are recorded, and in the report; an error is returned
// for what is wrong on this machine. Call it after a successful [Mirror.Cycle].
func (m *Mirror) ReconcileDue(ctx context.Context, until time.Time) (Reconciliation, error) {
	var r Reconciliation
	firstRun, err := m.db.FirstRun(ctx)
	if err != nil {
		return r, err
	}
	night := m.night()
	r.passes, err = m.passes(ctx, func(s *stream) (db.Reconciliation, bool, error) {
		if s.report.Watermark == "" {
			return db.Reconciliation{}, false, nil
		}
		past, err := m.db.Reconciliations(ctx, s.role)
		if err != nil {
			return db.Reconciliation{}, false, err
		}
		for _, row := range past {
			if row.Finished.IsZero() {
				return row, true, nil // interrupted, by the end of its time or of its process
			}
		}
		span := dueSpan(m.Now(), night, firstRun, past)
		row := s.reconciliation(s.report.Watermark.Time().Add(-span))
		row.Span = span
		return row, span > 0, nil
	})
	if err != nil {
		return r, err
	}
	for _, p := range r.passes {
		p.until = until
	}
	if err = m.reconcile(ctx, &r); err != nil && ctx.Err() == nil && fromKSeF(err) {
		err = nil
	}
	return r, err
}

// dueSpan is how much before the watermark is due to be compared; 0 when nothing
// is. The past comparisons of the role are given newest first, and when the mirror
// first ran: before its first night there is nothing that a cycle has not just
// listed.
func dueSpan(now, night, firstRun time.Time, past []db.Reconciliation) time.Duration {
	if firstRun.IsZero() || !firstRun.Before(night) {
		return 0
	}
	for _, each := range past {
		if each.Finished.IsZero() {
			continue
		}
		// One that is yet to end was noted before the clock was set back.
		if ago := now.Sub(each.Finished); each.Err != "" && ago >= 0 && ago < reconcileRetry {
			return 0
		}
		break
	}
	for _, each := range rhythms() {
		since := night.AddDate(0, 0, 1-each.nights)
		done := false
		for _, r := range past {
			lately := !r.Started.Before(since) && !r.Started.After(now) // and not yet to come, as above
			done = done || r.Span >= each.span && !r.Finished.IsZero() && r.Err == "" && lately
		}
		if !done {
			return each.span
		}
	}
	return 0
}
