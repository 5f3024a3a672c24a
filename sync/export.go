package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

const (
	// packageFull is how many invoices KSeF puts into a package at most. One that
	// holds as many is taken for truncated whatever KSeF says: it has said false
	// for 10,001 (api-changelog 2.6.1).
	packageFull = 10_000
	// An export is polled at growing intervals, and left to the next cycle when it
	// takes longer than a cycle should: usual is a second to some minutes.
	firstPoll, lastPoll = 2 * time.Second, 30 * time.Second
	patience            = 10 * time.Minute
	// abandonAfter is when an export is given up. Some have hung for days, and a
	// new one for the same invoices then usually works.
	abandonAfter = time.Hour
	// When as many were given up within a day, of all roles, exports are left alone
	// until that day is over: KSeF makes ten at a time (open-api), and those that
	// hang may count.
	maxAbandoned = 3
	abandonedFor = 24 * time.Hour
	// partsAtOnce are the parts of one package that are downloaded together.
	partsAtOnce = 3
	// A commit of a package's invoices is as large as this, whichever is first.
	packageCommitCount = 500
	packageCommitBytes = 16 << 20
)

// errPending says that an export is still running at KSeF.
var errPending = fmt.Errorf("KSeF is still preparing a package: %w", errStuck)

// errTooLong is why an export is given up.
var errTooLong = errors.New("KSeF has been preparing it for too long")

// errExport marks an export that came to nothing. Nothing of it was taken that
// was not verified; the window can be asked for again, in either way.
var errExport = errors.New("the export came to nothing")

// export mirrors a window by a package: one request for up to 10,000 invoices.
func (s *stream) export(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	key := ksef.NewExportKey()
	e := db.Export{Role: s.role, From: string(from), To: string(to), Key: key.Key[:], IV: key.IV[:], CreatedAt: s.Now()}
	// Written first: a crash after the request would otherwise leave a package at
	// KSeF that nobody can open. A crash before it leaves a row without a
	// reference, which the next cycle drops.
	if e.ID, err = s.db.StartExport(ctx, e); err != nil {
		return "", false, err
	}
	s.report.Requests++
	e.Reference, err = s.remote.StartExport(ctx, ksef.Query{SubjectType: s.subject, From: from, To: to}, false, key)
	if err != nil {
		// Should KSeF have accepted it all the same, it prepares a package that
		// nobody fetches; there is no list to find it in.
		return "", false, errors.Join(err, s.db.DropExport(context.WithoutCancel(ctx), e.ID))
	}
	if err := s.db.SetReference(context.WithoutCancel(ctx), e.ID, e.Reference); err != nil {
		return "", false, err
	}
	return s.finish(ctx, e)
}

// resume takes up the exports that an earlier cycle, or a process that died,
// left behind, at whatever stage they are.
func (s *stream) resume(ctx context.Context) error {
	exports, err := s.db.Exports(ctx, s.role)
	if err != nil {
		return err
	}
	for _, e := range exports {
		// A crash came before the reference, or the window begins beyond what is
		// mirrored, which cannot be: moving the stream by it would leave a gap.
		gap := ksef.Timestamp(e.From).Time().Sub(s.position.Time()) > smallestStep
		if e.Reference == "" || gap {
			if err := s.db.DropExport(ctx, e.ID); err != nil {
				return err
			}
			continue
		}
		if _, _, err := s.finish(ctx, e); err != nil && !errors.Is(err, errExport) && !errors.Is(err, ksef.ErrNothingNew) {
			return err
		}
	}
	return nil
}

// finish waits for an export, stores its package and says how far the stream is
// complete then. An export that came to nothing is forgotten, with errExport.
func (s *stream) finish(ctx context.Context, e db.Export) (next ksef.Timestamp, more bool, err error) {
	next, more, err = s.fetchPackage(ctx, e)
	if errors.Is(err, errTooLong) {
		s.Log.Warn("export is given up", "role", s.role, "reference", e.Reference, "err", err)
		return "", false, errors.Join(err, s.db.AbandonExport(context.WithoutCancel(ctx), e.ID, s.Now()))
	}
	if errors.Is(err, errExport) || errors.Is(err, ksef.ErrNothingNew) {
		s.Log.Warn("export came to nothing", "role", s.role, "reference", e.Reference, "err", err)
		return "", false, errors.Join(err, s.db.DropExport(context.WithoutCancel(ctx), e.ID))
	}
	return next, more, err
}

func (s *stream) fetchPackage(ctx context.Context, e db.Export) (next ksef.Timestamp, more bool, err error) {
	var key ksef.ExportKey
	copy(key.Key[:], e.Key)
	copy(key.IV[:], e.IV)
	done, err := s.await(ctx, e)
	if err != nil {
		return "", false, err
	}
	dir, err := os.MkdirTemp(s.packagesDir(), "")
	if err != nil {
		return "", false, fmt.Errorf("folder for a package: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := s.downloadParts(ctx, e, done, key, dir)
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	if err != nil {
		return "", false, err
	}
	return s.storePackage(ctx, e, done, files)
}

// await polls until the package is ready.
func (s *stream) await(ctx context.Context, e db.Export) (*ksef.Package, error) {
	began := s.Now()
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		status, err := s.askStatus(ctx, e)
		if err != nil {
			return nil, err
		}
		switch status.Code {
		case ksef.ExportDone:
			if status.Package == nil {
				return nil, fmt.Errorf("KSeF calls it done but gives no package: %w", errExport)
			}
			return status.Package, nil
		case ksef.ExportRangeBeyondHWM:
			return nil, ksef.ErrNothingNew
		case ksef.ExportRunning:
		default:
			return nil, fmt.Errorf("KSeF ended it with status %d %s: %w", status.Code, status.Description, errExport)
		}
		if s.Now().Sub(e.CreatedAt) >= abandonAfter {
			return nil, fmt.Errorf("%w, since %s: %w", errTooLong, e.CreatedAt.UTC().Format(time.RFC3339), errExport)
		}
		if s.Now().Sub(began) >= patience {
			return nil, errPending
		}
		jitter := time.Duration(rand.Int64N(int64(pause / 4))) //nolint:gosec // only so that mirrors do not march in step
		if err := s.Sleep(ctx, pause+jitter); err != nil {
			return nil, err
		}
	}
}

func (s *stream) askStatus(ctx context.Context, e db.Export) (ksef.ExportStatus, error) {
	s.report.Requests++
	status, err := s.remote.ExportStatus(ctx, e.Reference)
	var refused *ksef.Error
	if !errors.As(err, &refused) {
		return status, err
	}
	// KSeF no longer has it, tells of it what cannot be, or has been in trouble with
	// it for too long: without it the window is simply asked for again.
	tooLong := s.Now().Sub(e.CreatedAt) >= abandonAfter
	switch {
	case refusedForGood(refused), refused.HTTPStatus == http.StatusOK:
		err = errors.Join(err, errExport)
	case tooLong && servedBadly(err):
		err = errors.Join(err, errTooLong, errExport)
	}
	return status, err
}

// downloadParts fetches the parts into files of dir, in order. A part whose
// address has expired or whose bytes are wrong is fetched once more, from a fresh
// address; parts that are right stay.
func (s *stream) downloadParts(ctx context.Context, e db.Export, p *ksef.Package, key ksef.ExportKey, dir string) ([]*os.File, error) {
	files := make([]*os.File, len(p.Parts))
	for attempt := 0; ; attempt++ {
		failures := make([]error, len(p.Parts))
		var downloads errgroup.Group
		downloads.SetLimit(partsAtOnce)
		for i, part := range p.Parts {
			if files[i] != nil {
				continue
			}
			downloads.Go(func() error {
				files[i], failures[i] = s.downloadPart(ctx, part, key, filepath.Join(dir, fmt.Sprintf("%d-%d", part.Ordinal, attempt)))
				return nil
			})
		}
		_ = downloads.Wait() // the failures tell
		if ctx.Err() != nil {
			return files, ctx.Err()
		}
		err := errors.Join(failures...)
		var pathError *os.PathError
		switch {
		case err == nil:
			return files, nil
		case errors.As(err, &pathError): // the disk, not KSeF
			return files, err
		case attempt == 1:
			return files, errors.Join(err, errExport)
		}
		status, err := s.askStatus(ctx, e)
		if err != nil {
			return files, err
		}
		if status.Package == nil || len(status.Package.Parts) != len(p.Parts) {
			return files, fmt.Errorf("its parts have changed: %w", errExport)
		}
		p = status.Package
	}
}

func (s *stream) downloadPart(ctx context.Context, part ksef.Part, key ksef.ExportKey, name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := s.remote.DownloadPart(ctx, part, key, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// arrived is an invoice of a package on its way to the database.
type arrived struct {
	row     *ksef.Metadata
	invoice db.Invoice
	wrong   string // why it must be set aside; "" when it is right
}

// storePackage stores what a package holds, and moves the stream when all of it
// is stored and the package agrees with itself. Before that nothing moves, so a
// package that turns out wrong costs nothing but the repetition.
func (s *stream) storePackage(ctx context.Context, e db.Export, p *ksef.Package, files []*os.File) (next ksef.Timestamp, more bool, err error) {
	parts := make([]*io.SectionReader, len(files))
	for i, f := range files {
		parts[i] = io.NewSectionReader(f, 0, p.Parts[i].Size)
	}
	metadata, invoices, err := ksef.ReadPackage(ctx, p.Compression, parts...)
	if err != nil {
		return "", false, errors.Join(err, errExport)
	}
	rows := make(map[string]*ksef.Metadata, len(metadata))
	numbers := make([]string, 0, len(metadata))
	for i := range metadata {
		row := &metadata[i]
		if _, twice := rows[row.KSeFNumber]; !twice {
			numbers = append(numbers, row.KSeFNumber)
		}
		rows[row.KSeFNumber] = row
	}
	if len(metadata) != p.InvoiceCount && len(numbers) != p.InvoiceCount {
		return "", false, fmt.Errorf("KSeF announced %d invoices, the package lists %d: %w", p.InvoiceCount, len(numbers), errExport)
	}
	known, err := s.db.Known(ctx, numbers)
	if err != nil {
		return "", false, err
	}
	s.report.Listed += len(numbers)
	s.hwm = p.HWM
	s.progress.Role, s.progress.Pending, s.progress.Package = s.role, len(numbers)-len(known), true
	s.showProgress(0)

	next, more, err = packageContinuation(p, metadata, ksef.Timestamp(e.To))
	if err != nil {
		return "", false, err
	}
	batch := newBatch(s)
	if err := s.storeEntries(ctx, batch, rows, known, invoices); err != nil {
		return "", false, err
	}
	batch.reached, batch.rows.Export = next, e.ID
	return next, more, batch.commit(ctx)
}

// storeEntries brings the invoices from the archive into the database: one
// goroutine unpacks, some read documents, this one writes. The queues between
// them are short, so that memory does not grow with the package.
func (s *stream) storeEntries(ctx context.Context, batch *batch, rows map[string]*ksef.Metadata, known map[string]db.Known,
	invoices func(func(ksef.PackageEntry, error) bool),
) error {
	workers := runtime.GOMAXPROCS(0)
	unpacked := make(chan arrived, workers)
	parsed := make(chan arrived, workers)
	group, ctx := errgroup.WithContext(ctx)
	seen := make(map[string]bool, len(rows)) // the unpacking goroutine's, until group.Wait
	group.Go(func() error {
		defer close(unpacked)
		for entry, err := range invoices {
			if err != nil {
				return errors.Join(err, errExport)
			}
			number := string(entry.Number)
			row, listed := rows[number]
			if !listed {
				return fmt.Errorf("the package holds an invoice that it does not list: %w", errExport)
			}
			seen[number] = true
			if stored, isKnown := known[number]; isKnown && stored.Hash == row.InvoiceHash {
				continue
			}
			a := arrived{row: row, invoice: db.Invoice{KSeFNumber: number, XML: bytes.Clone(entry.Content)}}
			select {
			case unpacked <- a:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	var reading errgroup.Group
	for range workers {
		reading.Go(func() error {
			for a := range unpacked {
				s.read(&a)
				select {
				case parsed <- a:
				case <-ctx.Done():
					return nil
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		_ = reading.Wait() // its goroutines never fail
		close(parsed)
		return nil
	})
	group.Go(func() error { return s.write(ctx, batch, known, parsed) })
	if err := group.Wait(); err != nil {
		return err
	}
	for number, row := range rows {
		if !seen[number] {
			return fmt.Errorf("the package lists an invoice that it does not hold: %w", errExport)
		}
		if stored, isKnown := known[number]; isKnown && stored.Hash == row.InvoiceHash {
			batch.see(number, row.InvoiceHash)
		}
	}
	return nil
}

// read checks an invoice's hash and reads its document.
func (s *stream) read(a *arrived) {
	xml := a.invoice.XML
	if got := hashOf(xml); got != a.row.InvoiceHash {
		a.wrong = fmt.Sprintf("the SHA-256 of the invoice in the package is %s, KSeF's metadata says %s", got, a.row.InvoiceHash)
		return
	}
	number := ksef.Number(a.invoice.KSeFNumber)
	a.invoice = s.invoice(a.row, number, xml, s.path(a.row, number))
}

// write stores invoices as they come, in commits that do not move the stream.
func (s *stream) write(ctx context.Context, batch *batch, known map[string]db.Known, parsed <-chan arrived) error {
	size := 0
	for a := range parsed {
		stored, isKnown := known[a.row.KSeFNumber]
		var err error
		switch {
		case isKnown: // with another hash
			err = s.conflict(ctx, batch, a.row, ksef.Number(a.row.KSeFNumber), stored)
		case a.wrong != "":
			err = s.setAside(ctx, batch, a.row, a.invoice.XML, a.wrong)
		default:
			batch.add(a.invoice)
			s.showProgress(1)
		}
		if err != nil {
			return err
		}
		if size += len(a.invoice.XML); batch.size() >= packageCommitCount || size >= packageCommitBytes {
			if err := batch.commit(ctx); err != nil {
				return err
			}
			size = 0
		}
	}
	return ctx.Err()
}

// packageContinuation is continuation for a package.
func packageContinuation(p *ksef.Package, metadata []ksef.Metadata, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	if p.HWM == "" {
		return "", false, fmt.Errorf("KSeF named no high water mark, so nothing is known to be complete: %w", errExport)
	}
	full := p.IsTruncated || len(metadata) >= packageFull
	if !full {
		if to != "" && to.Compare(p.HWM) < 0 {
			return to, false, nil
		}
		return p.HWM, false, nil
	}
	last := p.LastStored
	if last == "" && len(metadata) > 0 {
		last = slices.MaxFunc(metadata, func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) }).Stored
	}
	if last == "" {
		return "", false, fmt.Errorf("KSeF cut a package short without saying where: %w", errExport)
	}
	if last.Compare(p.HWM) >= 0 {
		return p.HWM, false, nil
	}
	return last, true, nil
}
