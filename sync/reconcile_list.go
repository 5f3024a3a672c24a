package sync

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// lookAgain is after what time a scheduled pass looks whether the limits spare it a
// request by now.
const lookAgain = time.Minute

// errNoList says that no list is to be had by a package.
var errNoList = errors.New("no package of metadata is to be had")

// lister lists what KSeF has of a role, for a pass that compares it: by a page or by a
// package, as the limits allow.
type lister struct {
	*stream
	// until is when a scheduled pass ends for now, to leave the time and the budget
	// to the mirror. Zero for a person's.
	until time.Time
}

// listing is all that KSeF lists from somewhere up to end, which is not included.
type listing struct {
	rows []ksef.Metadata // some may lie at end or after it
	end  ksef.Timestamp
	more bool // end is not yet the end of what was asked for
	// crowded says that from here to end there is more than KSeF lists at once, or
	// lists reliably: rows says nothing then.
	crowded bool
}

// list asks KSeF what it has in a window: by one page of metadata where a page
// will hold it, as for a role that is always empty, else by a package of metadata
// alone; each in place of the other where the limits or KSeF refuse it.
func (ls *lister) list(ctx context.Context, from, to ksef.Timestamp) (listing, error) {
	held, err := ls.db.CountHeld(ctx, ls.role, from.Time(), to.Time(), pageSize)
	if err != nil {
		return listing{}, err
	}
	ways := []func(context.Context, ksef.Timestamp, ksef.Timestamp) (listing, error){ls.listByPackage, ls.listByPage}
	if held < pageSize {
		slices.Reverse(ways)
	}
	for {
		var limit *ksef.BudgetError
		for _, way := range ways {
			l, err := way(ctx, from, to)
			var budget *ksef.BudgetError
			switch {
			case errors.As(err, &budget):
				if limit == nil || budget.Until.Before(limit.Until) {
					limit = budget
				}
			case !errors.Is(err, errNoList):
				return l, err
			}
		}
		// A page is refused by nothing else. What the last cycle of an hour ago took
		// may be free in a moment.
		if !ls.Now().Add(lookAgain).Before(ls.until) {
			return listing{}, limit
		}
		if err := ls.Sleep(ctx, lookAgain); err != nil {
			return listing{}, err
		}
	}
}

// afford refuses what a scheduled pass would take from the mirror: of packages it
// leaves half an hour's, of queries one for each role.
func (ls *lister) afford(ctx context.Context, group ksef.Group) error {
	if ls.until.IsZero() {
		return nil
	}
	keep := len(ls.Roles)
	if group == ksef.GroupExport {
		limits, err := readLimits(ctx, ls.db)
		if err != nil {
			return err
		}
		keep = limits[group].PerHour / 2
	}
	if left, next := ls.remote.Budget(group); left <= keep {
		return &ksef.BudgetError{Group: group, Until: next}
	}
	return nil
}

// listByPage lists by one page of metadata.
func (ls *lister) listByPage(ctx context.Context, from, to ksef.Timestamp) (listing, error) {
	page, err := ls.page(ctx, from, to, 0)
	if err != nil {
		return listing{}, err
	}
	end, more, err := continuation(page, to)
	return listing{rows: page.Invoices, end: end, more: more}, err
}

func (ls *lister) page(ctx context.Context, from, to ksef.Timestamp, number int) (ksef.MetadataPage, error) {
	if err := ls.afford(ctx, ksef.GroupMetadata); err != nil {
		return ksef.MetadataPage{}, err
	}
	page, err := ls.query(ctx, ksef.Query{From: from, To: to}, number)
	ls.hwm = "" // that of a past window is its end: it says nothing about the stream
	return page, err
}

// listInstant lists one permanent storage date that has more rows than a page, or
// than a package, by numbered pages, as a cycle does. Where a row comes twice
// another may be left out, and would pass for one that KSeF no longer lists.
func (ls *lister) listInstant(ctx context.Context, at ksef.Timestamp) (listing, error) {
	l := listing{end: behind(at), more: true}
	seen := map[string]bool{}
	for number := 0; ; number++ {
		page, err := ls.page(ctx, at, at, number)
		// A scheduled pass does not begin an instant again and again that has more
		// pages than an hour spares.
		tooFar := number > 0 && !ls.until.IsZero() && Limited(err) != nil
		if err != nil && !badRequest(err) && !tooFar {
			return listing{}, err
		}
		l.crowded = err != nil || page.IsTruncated || page.HasMore && (number == lastPage || len(page.Invoices) < pageSize)
		for _, row := range page.Invoices {
			l.crowded = l.crowded || seen[row.KSeFNumber]
			seen[row.KSeFNumber] = true
		}
		l.rows = append(l.rows, page.Invoices...)
		if l.crowded || !page.HasMore {
			return l, nil
		}
	}
}

// listByPackage lists by a package that holds metadata alone. A scheduled pass that
// cannot wait for it remembers it until its next turn.
func (ls *lister) listByPackage(ctx context.Context, from, to ksef.Timestamp) (listing, error) {
	if is, err := ls.situation(ctx); err != nil || is.refused {
		return listing{}, cmp.Or(err, errNoList)
	}
	e := ls.awaited
	ls.awaited = db.Export{}
	if e.Reference == "" || e.From != string(from) || e.To != string(to) {
		err := ls.afford(ctx, ksef.GroupExport)
		if err == nil {
			e, err = ls.askList(ctx, from, to)
		}
		if err != nil {
			return listing{}, ls.orNoList(ctx, err)
		}
	}
	until := ls.until
	if until.IsZero() {
		until = ls.Now().Add(patience)
	}
	listed, _, err := ls.fetchList(ctx, e, until)
	if errors.Is(err, errPending) && !ls.until.IsZero() || overLimit(err) {
		ls.awaited = e
		return listing{}, err
	}
	if errors.Is(err, errTooLong) {
		err = errors.Join(err, ls.abandon(ctx, e))
	}
	return listing{rows: listed.rows, end: listed.next, more: listed.more}, ls.orNoList(ctx, err)
}

// abandon lets an export that was given up count among those of the mirror: KSeF
// makes only so many at a time, and one that hangs may count.
func (ls *lister) abandon(ctx context.Context, e db.Export) error {
	id, err := ls.db.StartExport(ctx, e)
	if err != nil {
		return err
	}
	return ls.db.AbandonExport(ctx, id, ls.Now())
}

// orNoList makes errNoList of an error after which pages may still do.
func (ls *lister) orNoList(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, errExport), errors.Is(err, errPending), answered(err, http.StatusBadRequest):
		ls.noExports = ls.Now().Add(exportPause)
		ls.Log.Warn("no package is to be had, reconciling by pages", "role", ls.role, "err", err)
		return errNoList
	}
	return err
}
