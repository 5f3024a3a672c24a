package sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

const (
	// commitEvery is how many downloads at most share one commit: what a crash costs
	// in repeated requests. They dominate here, so larger gains nothing.
	commitEvery = 20
	// A commit of a package's invoices is as large as this, whichever is first: each
	// costs a few waits for the disk, and its documents are in memory, twice as large
	// as their XML.
	packageCommitCount = 1000
	packageCommitBytes = 8 << 20
)

// store mirrors the rows of one page, ascending by date, and moves the stream's
// position to next when all are dealt with; "" moves it nowhere. When it returns
// an error, what came before is kept, and the position is at the first row that
// was not dealt with.
func (s *stream) store(ctx context.Context, rows []ksef.Metadata, next ksef.Timestamp) error {
	known, err := s.known(ctx, rows)
	if err != nil {
		return err
	}
	s.progress.Role, s.progress.Pending, s.progress.Package = s.role, len(rows)-len(known), false
	s.showProgress(0)

	batch := newBatch(s)
	downloads := 0             // since the last commit
	var suspect *ksef.Metadata // a row that KSeF failed to serve
	var suspectErr error
	for i := range rows {
		row := &rows[i]
		fetched, err := s.take(ctx, batch, row, known)
		switch {
		case err != nil && suspect == nil && servedBadly(err):
			// One broken invoice must not stop those behind it, and an outage must
			// not send them all to quarantine: the next one tells which it is.
			suspect, suspectErr = row, err
			continue
		case err != nil:
			if suspect != nil {
				row, err = suspect, suspectErr
			}
			return s.stop(ctx, batch, row, next, err)
		case suspect != nil && fetched:
			if err := s.setAside(ctx, batch, suspect, nil, suspectErr.Error()); err != nil {
				return err
			}
			suspect = nil
		}
		if fetched {
			downloads++
		}
		if suspect == nil && (downloads >= commitEvery || batch.size() >= packageCommitCount || batch.bytes >= packageCommitBytes) {
			downloads = 0
			if next != "" {
				batch.reached = row.Stored // rows of the same date may follow: the next query starts with them
			}
			if err := batch.commit(ctx); err != nil {
				return err
			}
		}
	}
	if suspect != nil {
		return s.stop(ctx, batch, suspect, next, suspectErr)
	}
	batch.reached = next
	return batch.commit(ctx)
}

// absent counts the rows that are neither stored nor, as it seems, in the folder.
func (s *stream) absent(rows []ksef.Metadata, known map[string]db.Known) int {
	absent := 0
	for i := range rows {
		_, isKnown := known[rows[i].KSeFNumber]
		if _, isThere := s.adoptable[rows[i].KSeFNumber]; !isKnown && !isThere {
			absent++
		}
	}
	return absent
}

// stop keeps what is complete, up to the row that could not be dealt with, and
// returns the reason. A cancelled cycle must not lose what it has downloaded.
func (s *stream) stop(ctx context.Context, batch *batch, row *ksef.Metadata, next ksef.Timestamp, reason error) error {
	if next != "" {
		batch.reached = row.Stored
	}
	if err := batch.commit(context.WithoutCancel(ctx)); err != nil {
		return errors.Join(reason, err)
	}
	return reason
}

// take adds one listed row to the batch: as a new invoice, as one that is known,
// or to quarantine; fetched tells that KSeF served it. An error means that the
// row could not be dealt with now.
func (s *stream) take(ctx context.Context, batch *batch, row *ksef.Metadata, known map[string]db.Known) (fetched bool, err error) {
	stored, isKnown := known[row.KSeFNumber]
	if isKnown && stored.Hash == row.InvoiceHash {
		batch.see(row.KSeFNumber, row.InvoiceHash)
		return false, nil
	}
	number, err := ksef.ParseNumber(row.KSeFNumber)
	if err != nil {
		return false, s.setAside(ctx, batch, row, nil, err.Error())
	}
	if isKnown {
		return true, s.conflict(ctx, batch, row, number, stored)
	}
	path, xml := s.inFolder(row, number)
	if xml == nil {
		var reason string
		xml, reason, err = s.download(ctx, number, row.InvoiceHash)
		if err != nil {
			return true, err
		}
		if reason != "" {
			return true, s.setAside(ctx, batch, row, xml, reason)
		}
		fetched = true
	}
	batch.add(s.invoice(row, s.role, xml, path))
	known[row.KSeFNumber] = db.Known{Hash: row.InvoiceHash, Path: path} // a row may come twice
	s.showProgress(1)
	return fetched, nil
}

// inFolder gives where the file of an invoice is or belongs, and its content; nil
// when it is not there. It is there without a row when a crash came between writing
// the file and committing the row, or when the database takes over the tree; then it
// may be anywhere.
func (s *stream) inFolder(row *ksef.Metadata, number ksef.Number) (path string, xml []byte) {
	belongs := s.path(row, number)
	for _, path := range append([]string{belongs}, s.adoptable[row.KSeFNumber]...) {
		if xml, err := s.invoices.Read(path); err == nil && hashOf(xml) == row.InvoiceHash {
			return path, xml
		}
	}
	return belongs, nil // whatever else is there, Put will tell
}

// download fetches one invoice. A reason tells why what KSeF served, if anything,
// cannot be taken for the invoice with that hash; an error, that KSeF or the way
// to it is in trouble, or the budget used up.
func (s *stream) download(ctx context.Context, number ksef.Number, hash string) (xml []byte, reason string, err error) {
	s.report.Requests++
	xml, err = s.remote.Invoice(ctx, number)
	var refused *ksef.Error
	switch {
	case errors.Is(err, ksef.ErrHashMismatch):
		return xml, err.Error(), nil
	case errors.As(err, &refused) && refusedForGood(refused):
		// Listed, but not served: KSeF has been seen to be behind itself.
		return nil, err.Error(), nil
	case err != nil:
		return nil, "", err
	}
	if got := hashOf(xml); got != hash {
		return xml, fmt.Sprintf("the SHA-256 of the invoice as served is %s, KSeF's metadata says %s", got, hash), nil
	}
	return xml, "", nil
}

// setAside records a row that cannot be mirrored now, keeps what arrived for it,
// and holds the watermark until a later attempt succeeds.
func (s *stream) setAside(ctx context.Context, batch *batch, row *ksef.Metadata, xml []byte, reason string) error {
	q := db.Quarantined{
		KSeFNumber: row.KSeFNumber, Hash: row.InvoiceHash, Role: s.role, Reason: reason,
		StoredAt: string(row.Stored), LastTriedAt: s.Now(), Holds: true,
	}
	return s.quarantineFile(ctx, batch, q, xml)
}

// conflict deals with an invoice that is stored and now listed with another
// hash. Invoices never change (a correction is an invoice of its own), so this
// is an alarm; both are kept, once, and the watermark does not wait.
func (s *stream) conflict(ctx context.Context, batch *batch, row *ksef.Metadata, number ksef.Number, stored db.Known) error {
	batch.see(row.KSeFNumber, stored.Hash)
	seen, err := s.db.IsQuarantined(ctx, row.KSeFNumber, row.InvoiceHash)
	if err != nil || seen {
		return err
	}
	xml, reason, err := s.download(ctx, number, row.InvoiceHash)
	if err != nil {
		return err
	}
	return s.quarantineFile(ctx, batch, db.Quarantined{
		KSeFNumber: row.KSeFNumber, Hash: row.InvoiceHash, Role: s.role,
		Reason:   strings.TrimSpace("KSeF now lists this invoice with another hash than the stored " + stored.Hash + "; the stored one is kept unchanged. " + reason),
		StoredAt: string(row.Stored), LastTriedAt: s.Now(),
	}, xml)
}

// quarantineFile writes what arrived, if anything, with a note beside it, before
// the row that names it.
func (s *stream) quarantineFile(ctx context.Context, batch *batch, q db.Quarantined, xml []byte) error {
	s.Log.Warn("invoice could not be mirrored, it will be tried again", "role", s.role, "ksef_number", q.KSeFNumber, "reason", q.Reason)
	if xml != nil {
		sum := sha256.Sum256(xml)
		q.Path = fmt.Sprintf("%s_%x.xml", tree.SafeName(q.KSeFNumber), sum[:4])
		// A later attempt that brings the same bytes adds nothing.
		if _, err := s.quarantine.Read(q.Path); errors.Is(err, fs.ErrNotExist) {
			note := fmt.Sprintf("KSeF number: %s\nRole: %s\nWhy it is here: %s\n", q.KSeFNumber, q.Role, q.Reason)
			files := []tree.File{{Path: q.Path + ".txt", Content: []byte(note)}, {Path: q.Path, Content: xml}}
			if _, err := s.quarantine.Put(ctx, files...); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	batch.setAside(q)
	return nil
}

func (m *Mirror) showProgress(stored int) {
	m.progress.Stored += stored
	m.progress.Pending -= stored
	m.Progress(m.progress)
}

// batch collects what one commit writes.
type batch struct {
	*stream
	files   []tree.File
	rows    db.Batch
	bytes   int            // of the files
	reached ksef.Timestamp // the position after this commit; "" leaves it
}

func newBatch(s *stream) *batch { return &batch{stream: s, rows: db.Batch{Role: s.role}} }

func (b *batch) size() int { return len(b.rows.Invoices) + len(b.rows.Quarantined) }

func (b *batch) add(invoice db.Invoice) {
	b.files = append(b.files, tree.File{Path: invoice.Path, Content: invoice.XML})
	b.bytes += len(invoice.XML)
	b.rows.Invoices = append(b.rows.Invoices, invoice)
	b.release(invoice.KSeFNumber, invoice.Hash)
}

func (b *batch) see(number, hash string) {
	b.rows.Seen = append(b.rows.Seen, number)
	b.release(number, hash)
}

// release ends the wait for an invoice that is stored now. It may have been
// listed under another number before: the hash of its bytes tells.
func (b *batch) release(number, hash string) {
	for waiting, q := range b.waiting {
		if waiting == number || q.Hash == hash {
			b.rows.Released = append(b.rows.Released, db.Release{Quarantined: waiting, Stored: number})
			delete(b.waiting, waiting)
		}
	}
}

func (b *batch) setAside(q db.Quarantined) {
	if q.Holds {
		b.waiting[q.KSeFNumber] = q
	}
	b.rows.Quarantined = append(b.rows.Quarantined, q)
}

// commit makes the batch durable: the files, then in one transaction their rows
// and how far the stream is.
//
// A crash before Put returns leaves at most temporary files, which the next start
// sweeps away. A crash between Put and the transaction leaves files without rows:
// the position is where it was, KSeF lists them again, and fetch takes them from
// the folder. A crash after the transaction leaves nothing to do.
func (b *batch) commit(ctx context.Context) error {
	kept, err := b.invoices.Put(ctx, b.files...)
	for _, k := range kept {
		b.Log.Warn("a changed file stood where an invoice belongs; both are kept", "path", k.Path, "kept_as", k.Beside)
	}
	if err != nil {
		return err
	}
	position := b.position
	if b.reached != "" && b.reached.Compare(b.hwm) > 0 {
		b.reached = b.hwm // above it, earlier dates may still appear (hwm.md)
	}
	if b.reached != "" && b.reached.Compare(position) > 0 {
		position = b.reached // never backwards
	}
	watermark := position
	for _, q := range b.waiting {
		if at := ksef.Timestamp(q.StoredAt); at.Compare(watermark) < 0 {
			watermark = at
		}
	}
	b.rows.Position, b.rows.Watermark, b.rows.HWM = string(position), string(watermark), string(b.hwm)
	if err := b.db.Commit(ctx, b.rows); err != nil {
		return err
	}
	b.position, b.report.Watermark = position, watermark
	b.report.Added += len(b.rows.Invoices)
	b.report.Known += len(b.rows.Seen)
	*b = *newBatch(b.stream)
	return nil
}
