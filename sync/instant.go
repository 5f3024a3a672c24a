package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// Windows are continued at the date of the last invoice that came. That ends
// where more invoices share one date of permanent storage than one answer holds:
// 250 on a page, 10,000 on all pages of one query, 10,000 or 1 GB in a package
// (open-api). Such an instant is mirrored as a whole, here.

const (
	// lastPage is the number of the last page of a query; the one behind it would
	// begin with row 10,000, which KSeF refuses (open-api, 21405).
	lastPage = packageFull/pageSize - 1
	// retryAfter is how long an invoice that could not be mirrored waits for its
	// next attempt, which costs a query and a download.
	retryAfter = time.Hour
	// retryInstantAfter is how long an instant that could not be mirrored as a
	// whole waits for its next attempt, which costs several packages.
	retryInstantAfter = 24 * time.Hour
)

// storeInstant stores every invoice of one permanent storage date and moves the
// stream behind it. If they are best fetched by packages, it only begins with it:
// the next turns do the work.
func (s *stream) storeInstant(ctx context.Context, at ksef.Timestamp) error {
	first, err := s.query(ctx, ksef.Query{From: at, To: at}, 0)
	if err != nil {
		return err
	}
	known, err := s.known(ctx, first.Invoices)
	if err != nil {
		return err
	}
	is, err := s.situation(ctx)
	if err != nil {
		return err
	}
	is.listed, is.more = true, first.HasMore || first.IsTruncated
	is.unknown = len(first.Invoices) - len(known)
	way, why := plan(is)
	s.report.Reason = fmt.Sprintf("%s: %s", way, why)
	s.Log.Debug("planned an instant", "role", s.role, "instant", at, "reason", s.report.Reason)
	switch way {
	case wait:
		return &ksef.BudgetError{Group: ksef.GroupExport, Until: s.Now().Add(is.nextExport)}
	case package_:
		s.partition = &partition{at: at, hwm: s.hwm, pending: []ksef.Filter{{}}, listed: map[string]bool{}}
		return nil
	}
	if err := s.storePages(ctx, at, first); err != nil {
		return err
	}
	return s.leaveInstant(ctx, at)
}

// storePages stores the invoices of one instant page by page; the first page is
// there. Only here are pages numbered, and rows have been seen to shift between
// them, so that one comes twice and another never. The set of rows does not change
// below the high water mark (hwm.md), and full pages skip no position: if none
// comes twice, none is missing. Otherwise all is read again.
func (s *stream) storePages(ctx context.Context, at ksef.Timestamp, first ksef.MetadataPage) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		whole, err := s.readPages(ctx, at, first)
		switch {
		case whole || err != nil:
			return err
		case attempt == attempts:
			return fmt.Errorf("KSeF lists the invoices of %s in a different order each time: %w", at, ErrStuck)
		}
		if first, err = s.query(ctx, ksef.Query{From: at, To: at}, 0); err != nil {
			return err
		}
	}
}

// readPages stores every page once, and tells whether nothing shifted meanwhile.
func (s *stream) readPages(ctx context.Context, at ksef.Timestamp, first ksef.MetadataPage) (whole bool, err error) {
	tooMany := fmt.Errorf("KSeF has more invoices of %s than it lists, and makes no package of them now: %w", at, ErrStuck)
	seen := map[string]bool{}
	answer := first
	for page := 0; ; page++ {
		if answer.IsTruncated || answer.HasMore && page == lastPage {
			return false, tooMany
		}
		// The mark stays while the pages are those of one query (open-api).
		if answer.HWM != first.HWM || answer.HasMore && len(answer.Invoices) < pageSize {
			return false, nil
		}
		twice := false
		for _, row := range answer.Invoices {
			twice = twice || seen[row.KSeFNumber]
			seen[row.KSeFNumber] = true
		}
		if err := s.store(ctx, answer.Invoices, ""); err != nil {
			return false, err
		}
		if twice || !answer.HasMore {
			return !twice, nil
		}
		answer, err = s.query(ctx, ksef.Query{From: at, To: at}, page+1)
		if badRequest(err) { // such as 21405: there is no such page
			return false, tooMany
		}
		if err != nil {
			return false, err
		}
	}
}

var (
	// errNoPackage says that a package of an instant came to nothing.
	errNoPackage = fmt.Errorf("no package is to be had now: %w", ErrStuck)
	// errFilter says that KSeF does not take a filter.
	errFilter = errors.New("KSeF refuses the filter")
)

// nextPart stores one part of the stream's partition, and leaves the instant after
// the last.
func (s *stream) nextPart(ctx context.Context) error {
	p := s.partition
	last := len(p.pending) - 1
	pack, err := s.storePart(ctx, p, p.pending[last])
	triedAgain := p.at.Compare(s.position) < 0
	switch {
	case errors.Is(err, errFilter):
		p.refused = err
	case errors.Is(err, errNoPackage) && !p.divided, errors.Is(err, ErrStuck) && triedAgain, errors.Is(err, ksef.ErrNothingNew):
		// Without a package the next plan finds another way; an instant that was
		// tried again is due another day, and what is behind it goes on.
		s.Log.Warn("instant is not complete yet", "role", s.role, "instant", p.at, "err", err)
		s.partition = nil
		return nil
	case err != nil:
		return err
	}
	var parts []ksef.Filter
	if pack.full {
		parts = divide(p.pending[last], pack.rows)
		p.indivisible = p.indivisible || parts == nil
		p.divided = true
	}
	p.pending = append(p.pending[:last], parts...)
	for _, row := range pack.rows {
		p.listed[row.KSeFNumber] = p.listed[row.KSeFNumber] || parts == nil
	}
	s.Log.Debug("stored a part of an instant", "role", s.role, "instant", p.at, "invoices", len(pack.rows), "whole", !pack.full, "left", len(p.pending))
	if len(p.pending) > 0 {
		return nil
	}
	s.partition = nil
	if s.hwm == "" {
		s.hwm = p.hwm
	}
	if problem := p.problem(); problem != "" {
		return s.setInstantAside(ctx, p, problem)
	}
	return s.leaveInstant(ctx, p.at)
}

// storePart stores a part by a package. Used up limits are no reason to do
// without: nothing else would do, so the cycle ends and the next one goes on.
func (s *stream) storePart(ctx context.Context, p *partition, filter ksef.Filter) (taken, error) {
	is, err := s.situation(ctx)
	if err != nil {
		return taken{}, err
	}
	if is.refused {
		return taken{}, fmt.Errorf("invoices of %s: %w", p.at, errNoPackage)
	}
	s.report.Reason = fmt.Sprintf("%s: %s", package_, "many invoices were stored at one instant")
	pack, err := s.exportPart(ctx, p, filter)
	if !errors.Is(err, errFilter) && !overLimit(err) && s.doesWithoutExports(err) {
		return taken{}, fmt.Errorf("invoices of %s: %w: %w", p.at, errNoPackage, err)
	}
	return pack, err
}

// exportPart takes up the export that was asked for in an earlier cycle, or asks
// for one. If resume has stored it meanwhile, its package is read once more, which
// costs no budget.
func (s *stream) exportPart(ctx context.Context, p *partition, filter ksef.Filter) (taken, error) {
	if p.asked.ID == 0 {
		asked, err := s.ask(ctx, ksef.Query{From: p.at, To: p.at, Filter: filter})
		if p.divided && badRequest(err) { // KSeF took the request without a filter
			return taken{}, fmt.Errorf("%w: %w", errFilter, err)
		}
		if err != nil {
			return taken{}, err
		}
		p.asked = asked
	}
	pack, err := s.finish(ctx, p.asked)
	if err == nil || errors.Is(err, errExport) || errors.Is(err, ksef.ErrNothingNew) {
		p.asked = db.Export{}
	}
	return pack, err
}

// leaveInstant moves the stream behind an instant of which everything is stored,
// and ends its wait if it was set aside.
func (s *stream) leaveInstant(ctx context.Context, at ksef.Timestamp) error {
	batch := newBatch(s)
	if name := instantName(at); s.waiting[name].Holds {
		batch.rows.Released = append(batch.rows.Released, db.Release{Quarantined: name})
		delete(s.waiting, name)
	}
	return s.moveBehind(ctx, batch, at)
}

// moveBehind commits the last of an instant. One that was tried again lies before
// the stream's position already, and moves nothing.
func (s *stream) moveBehind(ctx context.Context, batch *batch, at ksef.Timestamp) error {
	batch.reached = behind(at)
	if err := batch.commit(ctx); err != nil {
		return err
	}
	if next := behind(at); next.Compare(s.from) > 0 {
		s.from = next
	}
	return nil
}

// setInstantAside moves the stream behind an instant of which not everything is
// stored. It waits like an invoice in quarantine: the watermark stays, and what
// comes behind is mirrored.
func (s *stream) setInstantAside(ctx context.Context, p *partition, problem string) error {
	q := db.Quarantined{
		KSeFNumber: instantName(p.at), Role: s.role, StoredAt: string(p.at), LastTriedAt: s.Now(), Holds: true,
		Reason: fmt.Sprintf("KSeF gave %d invoices of this instant and has more: %s; ask the Ministry of Finance how to fetch them, "+
			"naming the instant and the role %s; later invoices are mirrored all the same", len(p.listed), problem, s.role),
	}
	s.Log.Error("instant could not be mirrored as a whole", "role", s.role, "instant", p.at, "reason", q.Reason)
	batch := newBatch(s)
	batch.setAside(q)
	return s.moveBehind(ctx, batch, p.at)
}

// instantName stands for an instant where the number of an invoice in quarantine
// does.
func instantName(at ksef.Timestamp) string { return "invoices stored at " + string(at) }

// retryAt is when one in quarantine is due. What lies at an instant that waits
// itself is listed with it.
func (s *stream) retryAt(q db.Quarantined) time.Time {
	if _, waits := s.waiting[instantName(ksef.Timestamp(q.StoredAt))]; waits {
		return q.LastTriedAt.Add(retryInstantAfter)
	}
	return q.LastTriedAt.Add(retryAfter)
}

// storeWaiting lists one in quarantine again, by its number if it is one, for its
// instant may be crowded. If that finds nothing, KSeF may have corrected the
// number: then all of the instant is listed.
func (s *stream) storeWaiting(ctx context.Context, q db.Quarantined) error {
	at := ksef.Timestamp(q.StoredAt)
	if number, err := ksef.ParseNumber(q.KSeFNumber); err == nil {
		answer, err := s.query(ctx, ksef.Query{From: at, To: at, Filter: ksef.Filter{KSeFNumber: string(number)}}, 0)
		if err != nil {
			return err
		}
		if len(answer.Invoices) > 0 {
			return s.store(ctx, answer.Invoices, "")
		}
	}
	return s.storeInstant(ctx, at)
}
