package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// rereadPerCycle is for how long at most a cycle reads stored invoices again, once
// it has fetched what is new: some thousands of them.
const rereadPerCycle = 20 * time.Second

// How many invoices share a commit of [Mirror.Reread], and how many bytes their XML
// may have together: so many are in memory at once.
const (
	rereadCommitCount = 500
	rereadCommitBytes = 8 << 20
)

// Rereading is what [Mirror.Reread] did.
type Rereading struct {
	Read int // invoices
	// Kept are the KSeF numbers of those that this version cannot read although an
	// earlier one could: they stay as that one has read them.
	Kept []string
	// Damaged are the KSeF numbers of those whose copy in the database cannot be
	// read. They stay as they are.
	Damaged []string
	Left    int // invoices that are still as an older version has read them, the damaged included
	ended   bool
}

// Reread reads the documents of stored invoices again, from the copies in the
// database, where an older version of the program has read them; with all, of every
// invoice. It changes nothing but what is read from documents: no file, path, role
// or watermark. It ends before its work is done when ctx is cancelled or until is
// reached; a zero until is never.
//
// What it has read is committed in pieces, so a crash or an error costs at most the
// last few hundred, and the next call goes on; also after all, without it.
func (m *Mirror) Reread(ctx context.Context, all bool, until time.Time, progress func(read, left int)) (Rereading, error) {
	var done Rereading
	if all {
		if err := m.db.Outdate(ctx); err != nil {
			return done, err
		}
		m.rereadFrom = db.OutdatedPlace{}
	}
	left, err := m.db.CountOutdated(ctx)
	done.Left = left
	for err == nil && (until.IsZero() || m.Now().Before(until)) {
		var page []db.OutdatedInvoice
		page, err = m.db.Outdated(ctx, m.rereadFrom, rereadCommitCount, rereadCommitBytes)
		if err != nil || len(page) == 0 {
			done.ended = err == nil
			break
		}
		if err = m.rereadPage(ctx, page, &done); err == nil {
			m.rereadFrom = page[len(page)-1].Place
			done.Left = left - done.Read
			if progress != nil {
				progress(done.Read, done.Left)
			}
		}
	}
	return done, err
}

// rereadPage reads the documents of a page, side by side, and stores what they say.
func (m *Mirror) rereadPage(ctx context.Context, page []db.OutdatedInvoice, done *Rereading) error {
	read := make([]db.Invoice, len(page))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0)) // a document takes many times its size while it is read
	for i := range page {
		group.Go(func() error {
			one := &page[i]
			if one.Err != nil {
				return nil
			}
			var row ksef.Metadata
			if one.Err = json.Unmarshal(one.MetadataJSON, &row); one.Err == nil {
				row.KSeFNumber = one.KSeFNumber
				read[i] = m.invoice(&row, "", one.XML, one.Path)
			}
			return nil
		})
	}
	_ = group.Wait() // its goroutines never fail
	invoices := read[:0]
	for i, one := range page {
		if one.Err != nil {
			m.Log.Warn("copy in the database cannot be read", "ksef_number", one.KSeFNumber, "err", one.Err)
			done.Damaged = append(done.Damaged, one.KSeFNumber)
			continue
		}
		invoices = append(invoices, read[i])
	}
	kept, err := m.db.Reread(ctx, invoices)
	if err != nil {
		return err
	}
	done.Read += len(invoices)
	done.Kept = append(done.Kept, kept...)
	return nil
}

// rereadSome reads again, for a while, what an older version of the program has
// read. New invoices are never delayed by more than that while.
func (m *Mirror) rereadSome(ctx context.Context) error {
	if m.reread {
		return nil
	}
	done, err := m.Reread(ctx, false, m.Now().Add(rereadPerCycle), nil)
	if done.Read > 0 {
		m.Log.Info("read stored invoices again, as this version reads more of them", "read", done.Read, "kept", len(done.Kept), "left", done.Left)
	}
	if ctx.Err() != nil {
		return nil // stopped: what was read is kept
	}
	if err != nil {
		return fmt.Errorf("read stored invoices again: %w", err)
	}
	m.reread = done.ended // of the damaged ones nothing is to be had until the next start
	return nil
}
