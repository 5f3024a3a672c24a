package sync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

const (
	// pageSize is the most rows that KSeF lists at once (open-api, pageSize).
	pageSize = 250
	// windowLength keeps a day off KSeF's limit of 100 days counted in UTC
	// (api-changelog 2.7.1), so that a local clock that is hours wrong, which
	// decides whether the window has an end at all, cannot exceed it.
	windowLength = 99 * 24 * time.Hour
	// smallestStep is the finest difference that KSeF writes between two instants.
	smallestStep = 100 * time.Nanosecond
)

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

// stream is one role of a mirror during one cycle.
type stream struct {
	*Mirror
	*memory
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
		s := &stream{Mirror: m, memory: m.memories[role], role: role, subject: subject, waiting: map[string]db.Quarantined{}}
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

// roleOf is the role of a subject type; "" for one that is none.
func roleOf(subject ksef.SubjectType) string {
	for _, role := range []string{"seller", "buyer", "third_party", "authorized"} {
		if of, err := subjectType(role); err == nil && of == subject {
			return role
		}
	}
	return ""
}

// path is where an invoice belongs in the folder.
func (s *stream) path(row *ksef.Metadata, number ksef.Number) string {
	return s.Layout.Path(tree.Name{
		Number: string(number), Role: s.role, IssueDate: row.IssueDate,
		Counterparty: counterparty(row, s.role), InvoiceNumber: row.InvoiceNumber,
	})
}

// known gives those of the rows that are stored, by KSeF number.
func (s *stream) known(ctx context.Context, rows []ksef.Metadata) (map[string]db.Known, error) {
	numbers := make([]string, len(rows))
	for i, row := range rows {
		numbers[i] = row.KSeFNumber
	}
	return s.db.Known(ctx, numbers)
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

// behind is the first instant after at.
func behind(at ksef.Timestamp) ksef.Timestamp {
	return ksef.Timestamp(at.Time().Add(smallestStep).Format("2006-01-02T15:04:05.0000000Z"))
}
