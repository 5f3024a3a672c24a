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
	// smallestStep is the finest difference that KSeF writes between two instants.
	smallestStep = 100 * time.Nanosecond
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
	Reason    string         // how the last window was mirrored and why so, such as "a package: more than a page is new"
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

// Cycle asks KSeF once for everything new, for every role that is due. The roles
// take turns, a window each, so that one with a backlog takes of the hour's budget
// what the others leave. It returns [ksef.BudgetError] in its error when the
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
	if errors.As(err, &budget) || errors.Is(err, ErrStuck) {
		return true
	}
	return errors.As(err, &refused) && (refused.HTTPStatus == http.StatusBadRequest || refused.HTTPStatus == http.StatusForbidden)
}

// Trouble is the kind of an error that only a person can mend; "" for any other.
type Trouble string

const (
	// TroubleLogin: KSeF does not accept what the mirror logs in with.
	TroubleLogin Trouble = "login"
	// TroublePermission: KSeF knows who logs in, who may not read these invoices.
	TroublePermission Trouble = "permission"
)

func troubleOf(err error) Trouble {
	const noPermissions = 415 // status of a login (open-api, AuthenticationOperationStatusResponse)
	var login *ksef.LoginError
	switch {
	case errors.Is(err, ksef.ErrForbidden), errors.As(err, &login) && login.Status == noPermissions:
		return TroublePermission
	case login != nil && login.Terminal:
		return TroubleLogin
	}
	return ""
}

// limited tells whether err is nothing but KSeF's limits.
func limited(err error) bool {
	var budget *ksef.BudgetError
	var several interface{ Unwrap() []error }
	return errors.As(err, &budget) && !errors.As(err, &several)
}

// ErrStuck is in the error of a cycle for each answer of KSeF's from which a
// stream cannot go on without risking an invoice. It goes on once KSeF answers
// otherwise; nothing is wrong with the mirror itself.
var ErrStuck = errors.New("this role stops here; the others go on")

// stream is one role of a mirror during one cycle.
type stream struct {
	*Mirror
	role    string
	subject ksef.SubjectType
	was     db.Stream // what the database had of it before; zero when it never ran
	// position is where the next window starts: everything KSeF listed before it
	// is stored or waits in quarantine. It is KSeF's own string.
	position ksef.Timestamp
	// waiting holds what KSeF listed but the mirror could not take, by KSeF number
	// as listed. The watermark that readers see is never beyond its earliest.
	waiting map[string]db.Quarantined
	hwm     ksef.Timestamp
	started time.Time      // of its first turn in this cycle; zero before
	first   ksef.Timestamp // where that began
	// from is where the next turn's window starts. It may be ahead of position,
	// which never passes the high water mark.
	from      ksef.Timestamp
	continued bool // the last package did not bring all of its window
	report    StreamReport
}

// streams gives the streams of the mirror that are due, the one that ran longest
// ago first.
func (m *Mirror) streams(ctx context.Context) ([]*stream, error) {
	streams, err := m.everyStream(ctx)
	if err != nil {
		return nil, err
	}
	streams = slices.DeleteFunc(streams, func(s *stream) bool {
		return !m.EveryRole && (m.Now().Before(s.was.LastRunAt.Add(rest(s.was))) || s.restsByDay())
	})
	slices.SortStableFunc(streams, func(a, b *stream) int { return a.was.LastRunAt.Compare(b.was.LastRunAt) })
	return streams, nil
}

// everyStream gives a stream for each of the mirror's roles, in their order.
func (m *Mirror) everyStream(ctx context.Context) ([]*stream, error) {
	rows, err := m.db.Streams(ctx)
	if err != nil {
		return nil, err
	}
	quarantined, err := m.db.OpenQuarantine(ctx)
	if err != nil {
		return nil, err
	}
	var streams []*stream
	for _, role := range m.Roles {
		subject, err := subjectType(role)
		if err != nil {
			return nil, err
		}
		s := &stream{Mirror: m, role: role, subject: subject, waiting: map[string]db.Quarantined{}}
		if i := slices.IndexFunc(rows, func(row db.Stream) bool { return row.Role == role }); i >= 0 {
			s.was = rows[i]
		}
		s.position = cmp.Or(ksef.Timestamp(s.was.Position), ksef.Timestamp(m.Since.UTC().Format(time.RFC3339)))
		for _, q := range quarantined {
			if q.Role == role && q.Holds {
				s.waiting[q.KSeFNumber] = q
			}
		}
		s.report.Role, s.report.Route, s.report.Watermark = role, "metadata", ksef.Timestamp(s.was.Watermark)
		streams = append(streams, s)
	}
	return streams, nil
}

// rest is how long a role is left alone after its last run: only one that has
// always been empty rests, and only while nothing is wrong with it.
func rest(row db.Stream) time.Duration {
	if row.IdleSince.IsZero() || row.LastError != "" {
		return 0
	}
	return pause(row.IdleSince, row.LastRunAt)
}

// restsByDay tells whether the stream is asked for at night only, and has been this
// night: it is complete up to the moment at which the mirror's night began. So a
// night that was missed is made up for, what failed is tried again, and a backlog is
// worked off by day too.
func (s *stream) restsByDay() bool {
	return slices.Contains(s.NightRoles, s.role) && s.was.Watermark != "" &&
		!ksef.Timestamp(s.was.Watermark).Time().Before(lastNight(s.Now(), s.db.Mirror().ID, s.warsaw))
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
	if p := s.partitions[s.role]; p != nil {
		return true, s.nextPart(ctx, p)
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

// situation is what plan has to know before anything was asked.
func (s *stream) situation(ctx context.Context) (situation, error) {
	abandoned, err := s.db.Abandoned(ctx, s.Now().Add(-abandonedFor))
	if err != nil {
		return situation{}, err
	}
	is := situation{
		continued: s.continued,
		refused:   s.Now().Before(s.noExports[s.role]) || abandoned >= maxAbandoned,
	}
	var next time.Time
	is.exports, next = s.remote.Budget(ksef.GroupExport)
	is.nextExport = next.Sub(s.Now())
	is.downloads, _ = s.remote.Budget(ksef.GroupDownload)
	return is, nil
}

// doesWithoutExports tells whether err leaves other ways to go on for now, and
// remembers for how long.
func (s *stream) doesWithoutExports(err error) bool {
	var budget *ksef.BudgetError
	var refused *ksef.Error
	switch {
	case err == nil, errors.Is(err, ksef.ErrNothingNew):
		return false
	case errors.As(err, &budget):
		// Spent since it was planned, or blocked by KSeF: the next plan sees it.
		return budget.Group == ksef.GroupExport
	case errors.Is(err, errExport):
	case errors.As(err, &refused) && refused.HTTPStatus == http.StatusBadRequest:
	default:
		return false
	}
	s.Log.Warn("no package is to be had, doing without for a while", "role", s.role, "err", err)
	s.noExports[s.role] = s.Now().Add(exportPause)
	return true
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

// query asks for one page of what q selects in the stream's role, and refuses an
// answer from which one cannot go on.
func (s *stream) query(ctx context.Context, q ksef.Query, page int) (ksef.MetadataPage, error) {
	s.report.Requests++
	q.SubjectType = s.subject
	answer, err := s.remote.QueryMetadata(ctx, q, page, pageSize)
	if err != nil {
		return answer, err
	}
	s.report.Listed += len(answer.Invoices)
	if q.From != q.To { // asked about one instant, KSeF names that as its mark
		s.hwm = answer.HWM
	}
	if answer.HWM == "" {
		return answer, fmt.Errorf("KSeF named no high water mark, so nothing is known to be complete: %w", ErrStuck)
	}
	ascending := slices.IsSortedFunc(answer.Invoices, func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) })
	if !ascending {
		return answer, fmt.Errorf("KSeF listed invoices out of order: %w", ErrStuck)
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
		return "", false, fmt.Errorf("KSeF announced more invoices but listed none: %w", ErrStuck)
	}
	last := page.Invoices[len(page.Invoices)-1].Stored
	if last.Compare(page.HWM) >= 0 {
		return page.HWM, false, nil
	}
	return last, true, nil
}

// retryWaiting lists one invoice in quarantine again, the one that is due for the
// longest time, so that what was wrong for a while mends itself.
func (s *stream) retryWaiting(ctx context.Context) error {
	var due *db.Quarantined
	for _, q := range s.waiting {
		if due == nil || s.retryAt(q).Before(s.retryAt(*due)) {
			due = &q
		}
	}
	if due == nil || s.Now().Before(s.retryAt(*due)) {
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
	if s.report.Err != nil && !limited(s.report.Err) {
		run.Err, run.Trouble = s.report.Err.Error(), string(troubleOf(s.report.Err))
	}
	return s.db.RecordRun(ctx, run)
}
