package sync

import (
	"context"
	"slices"

	"ksefmirror/internal/ksef"
)

// A database that takes the place of another, because that one was lost or a backup
// was restored, takes invoices over from the tree instead of having KSeF serve them
// again. What they are, KSeF lists: for the list alone there are packages of 10,000.

// bulk mirrors a window by packages.
func (s *stream) bulk(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	if len(s.adoptable) > 0 {
		next, more, taken, err := s.adoptWindow(ctx, from, to)
		if taken || err != nil {
			return next, more, err
		}
	}
	return s.export(ctx, from, to)
}

// adoptWindow takes a window over from the tree, by a package that holds metadata
// alone, unless so much of it is absent that a package of invoices is better.
func (s *stream) adoptWindow(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more, taken bool, err error) {
	e, err := s.askList(ctx, from, to)
	if err != nil {
		return "", false, false, err
	}
	listed, hwm, err := s.fetchList(ctx, e, s.Now().Add(patience))
	if err != nil {
		return "", false, false, err
	}
	known, err := s.known(ctx, listed.rows)
	if err != nil || s.absent(listed.rows, known) > singles {
		return "", false, false, err
	}
	s.hwm = hwm
	s.report.Listed += len(listed.rows)
	slices.SortStableFunc(listed.rows, func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) })
	s.Log.Info("taking invoices over from the folder", "role", s.role, "invoices", len(listed.rows)-len(known))
	return listed.next, listed.more, true, s.store(ctx, listed.rows, listed.next)
}
