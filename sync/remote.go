package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// Direct asks KSeF for a person, beside whoever works on the mirror: it holds no
// lock and touches nothing of the mirror but its log of requests, so that all draw
// on one budget. What is mirrored it answers from the mirror. Its methods are not
// safe for concurrent use.
type Direct struct {
	m     *Mirror // without its lock and its folders
	asked bool    // KSeF, for its limits
}

// OpenDirect opens the database of the mirror in o.Dir. The error wraps
// [fs.ErrNotExist] when the mirror has never run: then there is no log yet in
// which requests could be counted.
func OpenDirect(ctx context.Context, o Options) (*Direct, error) {
	m, err := newMirror(o)
	if err != nil {
		return nil, err
	}
	m.db, err = db.OpenBeside(ctx, DatabasePath(m.Dir), m.mirrored(""), m.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the mirror has never run, and KSeF's limits are counted in its database: run sync for it once, which may be stopped at any time: %w", err)
	}
	if err != nil {
		return nil, err
	}
	m.remote = o.Remote(requestLog{m.db})
	return &Direct{m: m}, nil
}

// Close closes the database.
func (d *Direct) Close() error { return d.m.Close() }

// Budget tells what the limits leave of this hour, after the requests of all
// processes.
func (d *Direct) Budget(ctx context.Context) ([]GroupBudget, error) {
	return readBudget(ctx, d.m.db, d.m.Now())
}

// Asked tells whether anything was asked of KSeF.
func (d *Direct) Asked() bool { return d.asked }

// remote is KSeF, once the limits in force are known: they may be lower than the
// published ones, and the first request must obey them already.
func (d *Direct) remote(ctx context.Context) (Remote, error) {
	if d.asked {
		return d.m.remote, nil
	}
	d.asked = true
	_, err := d.m.askLimits(ctx)
	return d.m.remote, err
}

// Listing says where the answer to a query came from, and how far it goes.
type Listing struct {
	FromMirror int // invoices
	FromKSeF   int
	// MirrorUpTo: what KSeF stored before it was listed by the mirror; "": nothing.
	MirrorUpTo ksef.Timestamp
	// Reached is the date up to which everything was listed: where to go on after
	// an error.
	Reached ksef.Timestamp
	// Repeated: KSeF listed an invoice on two pages. They shifted while they were
	// read, so that another may have been on none.
	Repeated bool
}

// Query gives each the invoices that q selects, by date: those below the watermark
// from the mirror, the others from KSeF; all from KSeF with fresh. The length of
// the range and the number of invoices do not matter. What was given before an
// error stays valid.
func (d *Direct) Query(ctx context.Context, q ksef.Query, fresh bool, each func(ksef.Metadata) error) (Listing, error) {
	listing := Listing{Reached: q.From}
	if err := q.Check(); err != nil {
		return listing, err
	}
	upTo, all, err := d.mirrored(ctx, q, fresh)
	if err != nil {
		return listing, err
	}
	given := map[string]bool{} // an invoice at the border of two requests comes with both
	give := func(row ksef.Metadata, count *int) error {
		if given[row.KSeFNumber] {
			return nil
		}
		given[row.KSeFNumber] = true
		*count++
		return each(row)
	}
	if upTo != "" {
		for row, err := range d.listed(ctx, q, upTo, all) {
			if err != nil {
				return listing, err
			}
			if err := give(row, &listing.FromMirror); err != nil {
				return listing, err
			}
		}
		listing.MirrorUpTo, listing.Reached, q.From = upTo, upTo, upTo
	}
	if all {
		return listing, nil
	}
	for {
		part, more := d.window(q)
		if err := d.pages(ctx, part, &listing, func(row ksef.Metadata) error { return give(row, &listing.FromKSeF) }); err != nil {
			return listing, err
		}
		if !more {
			return listing, nil
		}
		q.From = behind(part.To)
		listing.Reached = q.From
	}
}

// pages gives every row of one window.
func (d *Direct) pages(ctx context.Context, q ksef.Query, listing *Listing, give func(ksef.Metadata) error) error {
	remote, err := d.remote(ctx)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for page := 0; ; page++ {
		answer, err := remote.QueryMetadata(ctx, q, page, pageSize)
		if errors.Is(err, ksef.ErrNothingNew) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, row := range answer.Invoices {
			listing.Repeated = listing.Repeated || seen[row.KSeFNumber]
			seen[row.KSeFNumber] = true
			if err := give(row); err != nil {
				return err
			}
		}
		if !answer.HasMore && !answer.IsTruncated {
			return nil
		}
		last, err := d.lastDate(q, answer.Invoices)
		if err != nil {
			return err
		}
		listing.Reached = last
		if answer.IsTruncated { // KSeF numbers no pages beyond: go on from the date of the last row
			if last.Compare(q.From) <= 0 {
				return tooMany(q, last)
			}
			q.From, page = last, -1
			clear(seen)
		}
	}
}

// tooMany says that dates cannot take a query any further.
func tooMany(q ksef.Query, at ksef.Timestamp) error {
	return fmt.Errorf("KSeF has more invoices with the date %s than it lists at once: narrow the query by another filter, such as invoiceTypes or amount", day(q, at))
}

// day is a date as people know it: of a query by issue, a day.
func day(q ksef.Query, at ksef.Timestamp) string {
	if q.DateType != ksef.ByIssue {
		return string(at)
	}
	return at.Time().Add(12 * time.Hour).Format(time.DateOnly) // from midnight in Poland to the same day in UTC
}

// lastDate is the latest date of the rows, of the kind that q goes by; a day is
// its beginning in Poland. There must be rows.
func (d *Direct) lastDate(q ksef.Query, rows []ksef.Metadata) (last ksef.Timestamp, err error) {
	for _, row := range rows {
		at := row.Stored
		switch q.DateType {
		case ksef.ByInvoicing:
			at = row.InvoicingDate
		case ksef.ByIssue:
			issued, err := time.ParseInLocation(time.DateOnly, row.IssueDate, d.m.warsaw)
			if err != nil {
				return "", fmt.Errorf("KSeF listed invoice %s with the date of issue %q, so it cannot be told where to go on", row.KSeFNumber, row.IssueDate)
			}
			at = ksef.NewTimestamp(issued)
		}
		if at.Compare(last) > 0 {
			last = at
		}
	}
	if last == "" {
		return "", errors.New("KSeF announced more invoices but listed none, or none with a date")
	}
	return last, nil
}

// window cuts from a query what KSeF takes at once, and says whether something is
// left of it.
func (d *Direct) window(q ksef.Query) (part ksef.Query, more bool) {
	end := q.From.Time().Add(windowLength)
	if q.To != "" && !end.Before(q.To.Time()) || q.To == "" && end.After(d.m.Now()) {
		return q, false
	}
	part = q
	part.To = ksef.NewTimestamp(end)
	return part, true
}

// mirrored says up to where the mirror itself can answer a query: what was stored
// before upTo, or all of it. That is so where the query goes by the date of
// permanent storage, from a date since which its role is mirrored, below the
// watermark: there the mirror has what KSeF has. "" says that it cannot.
func (d *Direct) mirrored(ctx context.Context, q ksef.Query, fresh bool) (upTo ksef.Timestamp, all bool, err error) {
	if fresh || q.DateType != ksef.ByPermanentStorage && q.DateType != "" || q.From.Time().Before(d.m.Since) {
		return "", false, nil
	}
	streams, err := d.m.db.Streams(ctx)
	if err != nil {
		return "", false, err
	}
	for _, s := range streams {
		watermark := ksef.Timestamp(s.Watermark)
		switch {
		case s.Role != roleOf(q.SubjectType) || watermark.Compare(q.From) <= 0:
		case q.To != "" && q.To.Compare(watermark) < 0:
			return q.To, true, nil
		default:
			return watermark, false, nil
		}
	}
	return "", false, nil
}

// listed gives the rows of the mirror that a query selects, up to a date that
// mirrored gave.
func (d *Direct) listed(ctx context.Context, q ksef.Query, upTo ksef.Timestamp, all bool) func(func(ksef.Metadata, error) bool) {
	to := upTo.Time()
	if !all {
		to = to.Add(-smallestStep) // at the watermark itself, KSeF may have more
	}
	return func(yield func(ksef.Metadata, error) bool) {
		for stored, err := range d.m.db.Listed(ctx, roleOf(q.SubjectType), q.From.Time(), to) {
			var row ksef.Metadata
			if err == nil {
				err = json.Unmarshal(stored.MetadataJSON, &row)
			}
			if err == nil && !q.Filter.Match(row) {
				continue
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// Downloaded is one invoice.
type Downloaded struct {
	XML        []byte // as KSeF served it
	FromMirror bool
	// Differs: it came from KSeF now and is not what is mirrored under its number.
	Differs bool
}

// Download gives one invoice: the mirror's copy, whose SHA-256 is checked, or with
// fresh, or where there is none, KSeF's.
func (d *Direct) Download(ctx context.Context, number ksef.Number, fresh bool) (Downloaded, error) {
	stored, err := d.m.db.Document(ctx, string(number))
	switch {
	case err == nil && !fresh:
		return Downloaded{XML: stored, FromMirror: true}, nil
	case ctx.Err() != nil:
		return Downloaded{}, ctx.Err()
	case err != nil && !errors.Is(err, db.ErrNotStored):
		d.m.Log.Warn("the mirror's copy cannot be read, asking KSeF", "err", err)
	}
	remote, err := d.remote(ctx)
	if err != nil {
		return Downloaded{}, err
	}
	xml, err := remote.Invoice(ctx, number)
	if err != nil {
		return Downloaded{}, err
	}
	return Downloaded{XML: xml, Differs: stored != nil && hashOf(stored) != hashOf(xml)}, nil
}
