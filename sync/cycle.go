package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

const (
	// pageSize is the most rows that KSeF lists at once (open-api, pageSize).
	pageSize = 250
	// windowLength keeps a day off KSeF's limit of 100 days counted in UTC
	// (api-changelog 2.7.1), so that a local clock that is hours wrong, which
	// decides whether the window has an end at all, cannot exceed it.
	windowLength = 99 * 24 * time.Hour
	// limitsMaxAge is how long the limits that KSeF last told are believed.
	limitsMaxAge = 24 * time.Hour
	// retryAfter is how long an invoice that could not be mirrored waits for its
	// next attempt, which costs a query and a download.
	retryAfter = time.Hour
)

// Report is what one cycle did, stream by stream, in the order they ran.
type Report struct {
	Streams []StreamReport
}

// StreamReport is what one cycle did for one role.
type StreamReport struct {
	Role      string
	Watermark ksef.Timestamp // complete up to here; "" when nothing is known yet
	Listed    int            // rows that KSeF listed
	Added     int            // invoices stored now
	Known     int            // rows that were stored already
	Waiting   int            // invoices that KSeF listed but that could not be mirrored yet; they hold the watermark
	Requests  int            // requests sent for this stream
	Route     string         // export when a package was asked for, else metadata
	Err       error
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

// Cycle asks KSeF once for everything new, stream by stream. It returns
// [ksef.BudgetError] in its error when the limits cut it short: what was fetched
// is kept, and the next cycle goes on from there. One stream's trouble does not
// keep the others from running, unless it concerns them all.
func (m *Mirror) Cycle(ctx context.Context) (Report, error) {
	var report Report
	if err := m.refreshLimits(ctx); err != nil {
		return report, err
	}
	streams, err := m.streams(ctx)
	if err != nil {
		return report, err
	}
	m.progress = Progress{}
	for _, s := range streams {
		s.started = m.Now()
		s.report.Err = s.run(ctx)
		s.report.Waiting = len(s.waiting)
		report.Streams = append(report.Streams, s.report)
		if ctx.Err() != nil {
			return report, ctx.Err() // stopped: neither a success nor an error worth a record
		}
		if err := s.record(ctx); err != nil {
			return report, err
		}
		if s.report.Err != nil && !onlyThisStream(s.report.Err) {
			break
		}
	}
	return report, report.Err()
}

// refreshLimits learns the limits in force at the first cycle and daily: they
// differ by environment and are raised and lowered for single companies
// (limity-api.md). Without an answer the published ones hold.
func (m *Mirror) refreshLimits(ctx context.Context) error {
	if m.Now().Sub(m.limitsRead) < limitsMaxAge {
		return nil
	}
	limits, err := m.remote.RateLimits(ctx)
	var refused *ksef.Error
	var budget *ksef.BudgetError
	switch {
	case err == nil:
		m.limitsRead = m.Now()
		text, err := json.Marshal(limits)
		if err != nil {
			return err
		}
		return m.db.SaveLimits(ctx, string(text))
	case errors.As(err, &refused) && refused.HTTPStatus != 0, errors.As(err, &budget):
		m.Log.Warn("limits in force are unknown, using the published ones", "err", err)
	default:
		return err
	}
	return nil
}

// onlyThisStream tells whether the other streams may still succeed: KSeF refused
// this role or this request, a limit was reached, or this stream is stuck.
// Anything else (no login, no network, a full disk) would meet them all.
func onlyThisStream(err error) bool {
	var refused *ksef.Error
	var budget *ksef.BudgetError
	if errors.As(err, &budget) || errors.Is(err, errStuck) {
		return true
	}
	return errors.As(err, &refused) && (refused.HTTPStatus == http.StatusBadRequest || refused.HTTPStatus == http.StatusForbidden)
}

// limited tells whether err is nothing but KSeF's limits.
func limited(err error) bool {
	var budget *ksef.BudgetError
	var several interface{ Unwrap() []error }
	return errors.As(err, &budget) && !errors.As(err, &several)
}

// errStuck marks an answer from which a stream cannot go on without risking an
// invoice.
var errStuck = errors.New("this role stops here; the others go on")

// stream is one role of a mirror during one cycle.
type stream struct {
	*Mirror
	role    string
	subject ksef.SubjectType
	// position is where the next window starts: everything KSeF listed before it
	// is stored or waits in quarantine. It is KSeF's own string.
	position ksef.Timestamp
	// waiting holds what KSeF listed but the mirror could not take, by KSeF number
	// as listed. The watermark that readers see is never beyond its earliest.
	waiting map[string]db.Quarantined
	hwm     ksef.Timestamp
	started time.Time
	from    ksef.Timestamp
	report  StreamReport
}

// streams gives the streams of the mirror, the one that ran longest ago first,
// so that one role with a backlog cannot use up every hour's budget alone.
func (m *Mirror) streams(ctx context.Context) ([]*stream, error) {
	rows, err := m.db.Streams(ctx)
	if err != nil {
		return nil, err
	}
	quarantined, err := m.db.OpenQuarantine(ctx)
	if err != nil {
		return nil, err
	}
	lastRun := map[string]time.Time{}
	var streams []*stream
	for _, role := range m.Roles {
		i := slices.IndexFunc(rows, func(row db.Stream) bool { return row.Role == role })
		row := db.Stream{Role: role}
		if i >= 0 {
			row = rows[i]
		}
		s, err := m.newStream(row, quarantined)
		if err != nil {
			return nil, err
		}
		lastRun[role] = row.LastRunAt
		streams = append(streams, s)
	}
	slices.SortStableFunc(streams, func(a, b *stream) int { return lastRun[a.role].Compare(lastRun[b.role]) })
	return streams, nil
}

// newStream makes a stream that goes on where its row says.
func (m *Mirror) newStream(row db.Stream, quarantined []db.Quarantined) (*stream, error) {
	subject, err := subjectType(row.Role)
	if err != nil {
		return nil, err
	}
	s := &stream{Mirror: m, role: row.Role, subject: subject, waiting: map[string]db.Quarantined{}}
	s.position = cmp.Or(ksef.Timestamp(row.Position), ksef.Timestamp(m.Since.UTC().Format(time.RFC3339)))
	s.report.Watermark = ksef.Timestamp(row.Watermark)
	for _, q := range quarantined {
		if q.Role == row.Role && q.Holds {
			s.waiting[q.KSeFNumber] = q
		}
	}
	s.report.Role, s.report.Route, s.from = row.Role, "metadata", s.position
	return s, nil
}

// subjectType is KSeF's word for a role.
func subjectType(role string) (ksef.SubjectType, error) {
	switch role {
	case "seller":
		return ksef.Seller, nil
	case "buyer":
		return ksef.Buyer, nil
	case "third_party":
		return ksef.ThirdParty, nil
	case "authorized":
		return ksef.Authorized, nil
	}
	return "", fmt.Errorf("role %q: want seller, buyer, third_party or authorized", role)
}

// run brings the stream as far as KSeF guarantees completeness, window by window.
func (s *stream) run(ctx context.Context) error {
	if err := s.resume(ctx); err != nil {
		return err
	}
	if err := s.retryWaiting(ctx); err != nil {
		return err
	}
	from := s.position
	for {
		to := s.windowEnd(from)
		next, more, err := s.window(ctx, from, to)
		if errors.Is(err, ksef.ErrNothingNew) {
			return nil // from is beyond the high water mark: nothing to move, nothing wrong
		}
		if err != nil {
			return err
		}
		switch {
		case more && next.Compare(from) <= 0:
			// All that came is of one instant. The watermark stays at the instant, but
			// the query goes on behind it, by the smallest step that KSeF writes.
			if err := s.storeInstant(ctx, next); err != nil {
				return err
			}
			from = ksef.Timestamp(next.Time().Add(100 * time.Nanosecond).Format("2006-01-02T15:04:05.0000000Z"))
		case more:
			from = next
		case to != "" && next.Compare(to) >= 0:
			from = to
		default:
			return nil
		}
	}
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
	is := situation{closed: to != "", noExports: s.Now().Before(s.noExports[s.role])}
	way, why := plan(is)
	var page ksef.MetadataPage
	if way == list {
		if page, err = s.query(ctx, from, to, 0); err != nil {
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
		is.unknown = len(page.Invoices) - len(known)
		way, why = plan(is)
	}
	s.Log.Debug("planned", "role", s.role, "by_package", way == package_, "why", why)
	if way == singly {
		return next, more, s.store(ctx, page.Invoices, next)
	}
	s.report.Route = "export"
	next, more, err = s.export(ctx, from, to)
	if pause, ok := s.withoutExports(err); ok {
		s.Log.Warn("no package is to be had, going on with single downloads", "role", s.role, "err", err)
		s.noExports[s.role] = s.Now().Add(pause)
		return s.window(ctx, from, to)
	}
	return next, more, err
}

// withoutExports tells whether err leaves single downloads as the way to go on,
// and for how long.
func (s *stream) withoutExports(err error) (time.Duration, bool) {
	var budget *ksef.BudgetError
	var refused *ksef.Error
	switch {
	case errors.Is(err, ksef.ErrNothingNew), err == nil:
		return 0, false
	case errors.As(err, &budget):
		return max(budget.Until.Sub(s.Now()), time.Minute), budget.Group == ksef.GroupExport
	case errors.Is(err, errExport):
		return exportPause, true
	}
	return exportPause, errors.As(err, &refused) && refused.HTTPStatus == http.StatusBadRequest
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

// query asks for one page and refuses an answer from which one cannot go on.
func (s *stream) query(ctx context.Context, from, to ksef.Timestamp, page int) (ksef.MetadataPage, error) {
	s.report.Requests++
	answer, err := s.remote.QueryMetadata(ctx, ksef.Query{SubjectType: s.subject, From: from, To: to}, page, pageSize)
	if err != nil {
		return answer, err
	}
	s.report.Listed += len(answer.Invoices)
	s.hwm = answer.HWM
	if answer.HWM == "" {
		return answer, fmt.Errorf("KSeF named no high water mark, so nothing is known to be complete: %w", errStuck)
	}
	ascending := slices.IsSortedFunc(answer.Invoices, func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) })
	if !ascending {
		return answer, fmt.Errorf("KSeF listed invoices out of order: %w", errStuck)
	}
	return answer, nil
}

// continuation says how far the stream is complete once the page is stored, and
// whether KSeF has more behind that point. It is never beyond the high water
// mark: above it invoices may still appear with earlier dates (hwm.md).
func continuation(page ksef.MetadataPage, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	if !page.HasMore && !page.IsTruncated {
		if to != "" && to.Compare(page.HWM) < 0 {
			return to, false, nil
		}
		return page.HWM, false, nil
	}
	if len(page.Invoices) == 0 {
		return "", false, fmt.Errorf("KSeF announced more invoices but listed none: %w", errStuck)
	}
	last := page.Invoices[len(page.Invoices)-1].Stored
	if last.Compare(page.HWM) >= 0 {
		return page.HWM, false, nil
	}
	return last, true, nil
}

// storeInstant stores every invoice of one permanent storage date that has more
// rows than a page. Only here are pages numbered. Rows may shift between them,
// which shows as a row that comes twice; then the whole instant is read again.
func (s *stream) storeInstant(ctx context.Context, at ksef.Timestamp) error {
	const attempts = 3
	for range attempts {
		seen := map[string]bool{}
		shifted := false
		for page := 0; ; page++ {
			answer, err := s.query(ctx, at, at, page)
			if err != nil {
				return err
			}
			if answer.IsTruncated {
				return fmt.Errorf("more than 10,000 invoices at %s: %w", at, errStuck)
			}
			for _, row := range answer.Invoices {
				shifted = shifted || seen[row.KSeFNumber]
				seen[row.KSeFNumber] = true
			}
			if err := s.store(ctx, answer.Invoices, ""); err != nil {
				return err
			}
			if !answer.HasMore {
				break
			}
		}
		if !shifted {
			return nil
		}
	}
	return fmt.Errorf("KSeF lists the invoices of %s in a different order each time: %w", at, errStuck)
}

// retryWaiting lists the instant of one invoice in quarantine again, the one
// tried longest ago, so that what was wrong for a while mends itself.
func (s *stream) retryWaiting(ctx context.Context) error {
	var due *db.Quarantined
	for _, q := range s.waiting {
		if due == nil || q.LastTriedAt.Before(due.LastTriedAt) {
			due = &q
		}
	}
	if due == nil || s.Now().Sub(due.LastTriedAt) < retryAfter {
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
	err := s.storeInstant(ctx, ksef.Timestamp(due.StoredAt))
	if errors.Is(err, errStuck) || errors.Is(err, ksef.ErrNothingNew) {
		s.Log.Warn("invoice in quarantine could not be listed again", "role", s.role, "ksef_number", due.KSeFNumber, "err", err)
		return nil
	}
	return err
}

// record keeps what the cycle did for this stream.
func (s *stream) record(ctx context.Context) error {
	run := db.Run{
		Role: s.role, Route: s.report.Route, Started: s.started, Finished: s.Now(),
		From: string(s.from), To: string(s.position),
		Listed: s.report.Listed, Added: s.report.Added, Known: s.report.Known,
		Waiting: s.report.Waiting, Requests: s.report.Requests,
	}
	// That the limits allow no more is how a backlog goes, not an error; the
	// watermark tells how far the stream is behind.
	if s.report.Err != nil && !limited(s.report.Err) {
		run.Err = s.report.Err.Error()
	}
	return s.db.RecordRun(ctx, run)
}
