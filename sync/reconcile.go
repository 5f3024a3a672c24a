package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// Reconciliation compares a mirror with what KSeF lists below its watermarks:
// KSeF's lists have been seen to lack invoices that they had been promised to
// hold. What was missing is stored; nothing is ever deleted.
type Reconciliation struct {
	// Since is the permanent storage date to begin at, or the mirror's own beginning
	// if that is later. Zero is the first of the month before last, in Poland: three
	// months fit into one window, and the first two are whole.
	Since time.Time
	// Roles are the roles that were compared, in the mirror's order.
	Roles []RoleReconciliation

	passes []*pass
}

// RoleReconciliation is what was found for one role. Numbers are KSeF numbers.
type RoleReconciliation struct {
	Role      string         `json:"role"`
	From      ksef.Timestamp `json:"from"`    // by permanent storage
	To        ksef.Timestamp `json:"to"`      // not included: the watermark
	Reached   ksef.Timestamp `json:"reached"` // compared up to here; To when all of it was
	Listed    int            `json:"listed"`
	Late      []string       `json:"late"`       // KSeF lists them, and they were not here
	Waiting   []string       `json:"waiting"`    // of Late, those that could not be stored yet
	NotListed []string       `json:"not_listed"` // here, and KSeF no longer lists them
	Changed   []string       `json:"changed"`    // KSeF lists them with another hash
	// Crowded are dates of permanent storage with more invoices than KSeF lists at
	// once: they were not compared, and are in no sum.
	Crowded  []ksef.Timestamp `json:"crowded"`
	ByStored []Month          `json:"by_stored"` // months of permanent storage in Poland
	ByIssued []Month          `json:"by_issued"` // months of the date of issue
	Requests int              `json:"requests"`
	Err      error            `json:"-"` // why Reached is not To; nil: it is, or is still on its way there
}

// Agrees tells that KSeF listed just what was here.
func (r RoleReconciliation) Agrees() bool {
	return len(r.Late)+len(r.NotListed)+len(r.Changed) == 0
}

// Reconcile compares, for a person who waits for it, and fills r. It returns
// [ksef.BudgetError] in its error when the limits cut it short; called again with
// the same r it goes on from there. One role's trouble does not keep the others
// from being compared, unless it concerns them all.
func (m *Mirror) Reconcile(ctx context.Context, r *Reconciliation) error {
	if err := m.refreshLimits(ctx); err != nil {
		return err
	}
	if r.passes == nil {
		since := r.Since
		if since.IsZero() {
			now := m.Now().In(m.warsaw)
			since = time.Date(now.Year(), now.Month()-2, 1, 0, 0, 0, 0, m.warsaw)
		}
		var err error
		if r.passes, err = m.passes(ctx, func(s *stream) (db.Reconciliation, bool, error) {
			return s.reconciliation(since), true, nil
		}); err != nil {
			return err
		}
	}
	return m.reconcile(ctx, r)
}

// reconcile takes every pass of r as far as it gets.
func (m *Mirror) reconcile(ctx context.Context, r *Reconciliation) error {
	defer func() {
		r.Roles = nil
		for _, p := range r.passes {
			r.Roles = append(r.Roles, p.result())
		}
	}()
	var errs []error
	for _, p := range r.passes {
		if p.over {
			continue
		}
		p.err = p.run(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(p.err, errLater):
			p.err = nil // the next call goes on
			continue
		case p.err != nil && !fromKSeF(p.err):
			return p.err // as well: what is wrong here concerns all
		case Limited(p.err) == nil && !p.owes:
			if err := p.finish(ctx); err != nil {
				return err
			}
		}
		if p.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.role, p.err))
			if !onlyThisStream(p.err) {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// errLater ends a scheduled pass for now: there is no time or budget left for it.
var errLater = errors.New("it goes on later")

// errNothingYet is for a role without a watermark.
var errNothingYet = fmt.Errorf("nothing is complete yet that could be compared, sync first: %w", ErrStuck)

// pass is the comparison of one role. Its stream stores what was missing, as a
// cycle would, but never moves.
type pass struct {
	lister
	row   db.Reconciliation
	found RoleReconciliation
	late  map[string]bool // those of found
	table table
	err   error
	over  bool // to its end, or to an error that is recorded
	// owes says that invoices were found missing and are not stored yet: such a pass
	// is never over, whatever keeps it, or nobody would ask for them again.
	owes bool
}

// passes makes a pass for every role for which begin gives a row.
func (m *Mirror) passes(ctx context.Context, begin func(*stream) (db.Reconciliation, bool, error)) ([]*pass, error) {
	streams, err := m.everyStream(ctx)
	if err != nil {
		return nil, err
	}
	var passes []*pass
	for _, s := range streams {
		row, ok, err := begin(s)
		if err != nil {
			return nil, err
		}
		if ok {
			passes = append(passes, &pass{lister: lister{stream: s}, row: row, late: map[string]bool{}, table: newTable(m.warsaw)})
		}
	}
	return passes, nil
}

// reconciliation is a comparison from since, or the mirror's beginning, to the
// watermark.
func (s *stream) reconciliation(since time.Time) db.Reconciliation {
	span := s.Now().Sub(since)
	if !since.After(s.Since) {
		since, span = s.Since, max(span, windowLength) // there is nothing before
	}
	from := string(ksef.NewTimestamp(since))
	return db.Reconciliation{
		Role: s.role, Span: span, Started: s.Now(),
		From: from, To: string(s.report.Watermark), Reached: from,
	}
}

// run compares from where the pass is to the end of its range, part by part. What
// a part came to is durable before the next begins.
func (p *pass) run(ctx context.Context) error {
	to := ksef.Timestamp(p.row.To)
	if to == "" {
		return errNothingYet
	}
	if p.row.ID == 0 {
		id, err := p.db.StartReconciliation(ctx, p.row)
		if err != nil {
			return err
		}
		p.row.ID = id
	}
	for p.reached().Compare(to) < 0 {
		if !p.until.IsZero() && !p.Now().Before(p.until) {
			return errLater
		}
		if err := p.part(ctx, p.reached(), to); err != nil {
			return p.unlessLater(err)
		}
	}
	return nil
}

func (p *pass) reached() ksef.Timestamp { return ksef.Timestamp(p.row.Reached) }

// unlessLater makes errLater of what a scheduled pass need not count as trouble.
func (p *pass) unlessLater(err error) error {
	if !p.until.IsZero() && (Limited(err) != nil || errors.Is(err, errPending)) {
		return errLater
	}
	return err
}

// finish records the end of the pass. A whole one does for every earlier one that
// was interrupted and of which it compared the rest.
func (p *pass) finish(ctx context.Context) error {
	p.over = true
	if p.row.ID == 0 {
		return nil
	}
	if p.err != nil {
		return p.db.FinishReconciliation(ctx, p.row.ID, p.Now(), p.err.Error())
	}
	past, err := p.db.Reconciliations(ctx, p.role)
	if err != nil {
		return err
	}
	for _, r := range past {
		covered := ksef.Timestamp(r.Reached).Compare(ksef.Timestamp(p.row.From)) >= 0 && ksef.Timestamp(r.To).Compare(ksef.Timestamp(p.row.To)) <= 0
		if r.Finished.IsZero() && covered {
			if err := p.db.FinishReconciliation(ctx, r.ID, p.Now(), ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// result is what the pass found so far.
func (p *pass) result() RoleReconciliation {
	r := p.found
	for _, numbers := range []*[]string{&r.Late, &r.Waiting, &r.NotListed, &r.Changed} {
		*numbers = append([]string{}, *numbers...) // JSON has no null for none
	}
	r.Crowded = append([]ksef.Timestamp{}, r.Crowded...)
	r.Role, r.Err, r.Requests = p.role, p.err, p.report.Requests
	r.From, r.To, r.Reached = ksef.Timestamp(p.row.From), ksef.Timestamp(p.row.To), p.reached()
	for _, number := range r.Late {
		if _, waits := p.waiting[number]; waits {
			r.Waiting = append(r.Waiting, number)
		}
	}
	r.ByStored, r.ByIssued = p.table.months(r.From.Time(), r.Reached.Time())
	return r
}

// part compares one window, or as much of its beginning as KSeF lists at once.
func (p *pass) part(ctx context.Context, from, to ksef.Timestamp) error {
	if end := from.Time().Add(windowLength); end.Before(to.Time()) {
		to = ksef.NewTimestamp(end)
	}
	l, err := p.list(ctx, from, to)
	if errors.Is(err, ksef.ErrNothingNew) {
		l, err = listing{end: from}, nil
	}
	switch {
	case err != nil:
		return err
	case l.more && l.end.Compare(from) < 0:
		return fmt.Errorf("KSeF lists invoices from before %s, where it was asked to begin: %w", from, ErrStuck)
	case l.more && l.end.Compare(from) == 0 && len(l.rows) >= packageFull:
		l = listing{end: behind(from), more: true, crowded: true}
	case l.more && l.end.Compare(from) == 0:
		if l, err = p.listInstant(ctx, from); err != nil {
			return err
		}
	}
	if l.crowded {
		p.Log.Warn("instant cannot be compared: KSeF has more invoices of it than it lists at once", "role", p.role, "instant", from)
		p.found.Crowded = append(p.found.Crowded, from)
		if _, err := p.db.RecordCompared(ctx, db.Compared{Reconciliation: p.row.ID, Role: p.role, Reached: string(l.end)}); err != nil {
			return err
		}
		p.row.Reached = string(l.end)
	} else if l.end.Compare(from) > 0 {
		if err := p.compare(ctx, from, l); err != nil {
			return err
		}
	}
	if !l.more && l.end.Compare(to) < 0 {
		// The mark lies before the watermark, which it had reached once.
		return fmt.Errorf("KSeF now guarantees its list only up to %s: %w", l.end, ErrStuck)
	}
	return nil
}

// compare holds what KSeF lists from somewhere to l.end against what is here.
//
// A crash anywhere in it leaves the pass where it was, so that KSeF is asked for
// this part again; what was stored or noted by then is found so.
func (p *pass) compare(ctx context.Context, from ksef.Timestamp, l listing) error {
	known, err := p.known(ctx, l.rows)
	if err != nil {
		return err
	}
	listed := make(map[string]*ksef.Metadata, len(l.rows))
	var fetch []ksef.Metadata
	var late, changed []string
	inside := 0
	for i := range l.rows {
		row := &l.rows[i]
		if listed[row.KSeFNumber] != nil {
			continue
		}
		listed[row.KSeFNumber] = row
		if row.Stored.Compare(l.end) >= 0 {
			continue
		}
		inside++
		here, isKnown := known[row.KSeFNumber]
		_, waits := p.waiting[row.KSeFNumber]
		switch {
		case isKnown && here.Hash != row.InvoiceHash:
			changed = append(changed, row.KSeFNumber)
		case isKnown && slices.Contains(here.Roles, p.role), waits:
			continue
		default:
			late = append(late, row.KSeFNumber)
		}
		fetch = append(fetch, *row)
	}
	if len(late) > 0 {
		if err := p.noteLate(ctx, late); err != nil {
			return err
		}
	}
	p.owes = true
	if err := p.fetch(ctx, fetch, known); err != nil {
		return err
	}
	p.owes = false

	held, err := p.db.Held(ctx, p.role, from.Time(), l.end.Time())
	if err != nil {
		return err
	}
	c := db.Compared{Reconciliation: p.row.ID, Role: p.role, Reached: string(l.end), Listed: inside, At: p.Now()}
	for _, h := range held {
		switch {
		case listed[h.KSeFNumber] == nil:
			c.NotListed = append(c.NotListed, h.KSeFNumber)
		case h.NotSeen:
			c.SeenAgain = append(c.SeenAgain, h.KSeFNumber)
		}
	}
	marked, err := p.db.RecordCompared(ctx, c)
	if err != nil {
		return err
	}
	if marked > 0 {
		p.Log.Warn("KSeF no longer lists invoices that are mirrored; they are kept", "role", p.role, "invoices", marked)
	}
	if len(c.SeenAgain) > 0 {
		p.Log.Info("KSeF lists invoices again", "role", p.role, "invoices", len(c.SeenAgain))
	}
	p.table.add(l.end, listed, held)
	p.row.Reached = string(l.end)
	p.found.Listed += inside
	p.found.Changed = append(p.found.Changed, changed...)
	p.found.NotListed = append(p.found.NotListed, c.NotListed...)
	return nil
}

// noteLate records, and announces once, what KSeF lists below the watermark and
// was not there.
func (p *pass) noteLate(ctx context.Context, numbers []string) error {
	found, err := p.db.NoteLate(ctx, p.row.ID, p.role, numbers, p.Now())
	if err != nil {
		return err
	}
	if found > 0 {
		p.Log.Warn("KSeF lists invoices below the watermark that were not there before; storing them", "role", p.role, "invoices", found)
	}
	for _, number := range numbers {
		if !p.late[number] { // a part that was interrupted finds them again
			p.late[number] = true
			p.found.Late = append(p.found.Late, number)
		}
	}
	p.Log.Debug("late invoices", "role", p.role, "ksef_numbers", numbers)
	return nil
}

// fetch stores rows as a cycle would: few by single downloads, many by a package
// of their window. The stream does not move, as all of it lies behind.
func (p *pass) fetch(ctx context.Context, rows []ksef.Metadata, known map[string]db.Known) error {
	absent := slices.DeleteFunc(slices.Clone(rows), func(row ksef.Metadata) bool {
		_, isKnown := known[row.KSeFNumber]
		return isKnown
	})
	if len(rows) == 0 {
		return nil
	}
	is, err := p.situation(ctx)
	if err != nil {
		return err
	}
	if len(absent) > singles && !is.refused {
		byDate := func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) }
		first, last := slices.MinFunc(absent, byDate).Stored, slices.MaxFunc(absent, byDate).Stored
		_, _, err := p.export(ctx, first, last)
		if err != nil && !overLimit(err) && !errors.Is(p.orNoList(ctx, err), errNoList) {
			return err
		}
	}
	return p.store(ctx, rows, "")
}
