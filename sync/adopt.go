package sync

import (
	"context"
	"os"
	"slices"

	"ksefmirror/db"
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
//
// Unlike a package of invoices it is not kept in the database: a crash costs at most
// this one, which is asked for again.
func (s *stream) adoptWindow(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more, taken bool, err error) {
	key := ksef.NewExportKey()
	s.report.Requests++
	reference, err := s.remote.StartExport(ctx, ksef.Query{SubjectType: s.subject, From: from, To: to}, true, key)
	if err != nil {
		return "", false, false, err
	}
	e := db.Export{Role: s.role, From: string(from), To: string(to), Reference: reference, Key: key.Key[:], IV: key.IV[:], CreatedAt: s.Now()}
	listed, hwm, err := s.fetchList(ctx, e)
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

// fetchList waits for a package that holds metadata alone and gives what it lists.
func (s *stream) fetchList(ctx context.Context, e db.Export) (listed taken, hwm ksef.Timestamp, err error) {
	err = s.withPackage(ctx, e, s.Now().Add(patience), func(p *ksef.Package, files []*os.File) (err error) {
		if listed, _, err = readPackage(ctx, p, files); err != nil {
			return err
		}
		hwm = p.HWM
		listed.next, listed.more, err = packageContinuation(p, listed, ksef.Timestamp(e.To))
		return err
	})
	return listed, hwm, err
}
