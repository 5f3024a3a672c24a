package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
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
	// longestTurn is how long a mirror waits for others to store their packages.
	longestTurn = 5 * time.Minute
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
)

// errPending says that an export is still running at KSeF.
var errPending = fmt.Errorf("KSeF is still preparing a package: %w", ErrStuck)

// errTooLong is why an export is given up.
var errTooLong = errors.New("KSeF has been preparing it for too long")

// errExport marks an export that came to nothing. Nothing of it was taken that
// was not verified; the window can be asked for again, in either way.
var errExport = errors.New("the export came to nothing")

// taken is what a package holds.
type taken struct {
	rows []ksef.Metadata // what it lists, in no particular order
	full bool            // KSeF may have more of what was asked for
	// Of a window: how far the stream is complete, and whether KSeF has more behind.
	next ksef.Timestamp
	more bool
}

// export mirrors a window by a package: one request for up to 10,000 invoices.
func (s *stream) export(ctx context.Context, from, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	e, err := s.ask(ctx, ksef.Query{From: from, To: to})
	if err != nil {
		return "", false, err
	}
	pack, err := s.finish(ctx, e)
	return pack.next, pack.more, err
}

// ask lets KSeF begin to prepare a package of what q selects in the stream's role.
func (s *stream) ask(ctx context.Context, q ksef.Query) (e db.Export, err error) {
	key := ksef.NewExportKey()
	e = db.Export{Role: s.role, From: string(q.From), To: string(q.To), Key: key.Key[:], IV: key.IV[:], CreatedAt: s.Now()}
	// Written first: a crash after the request would otherwise leave a package at
	// KSeF that nobody can open. A crash before it leaves a row without a
	// reference, which the next cycle drops.
	if e.ID, err = s.db.StartExport(ctx, e); err != nil {
		return e, err
	}
	s.report.Route = "export"
	s.report.Requests++
	q.SubjectType = s.subject
	e.Reference, err = s.remote.StartExport(ctx, q, false, key)
	if err != nil {
		// Should KSeF have accepted it all the same, it prepares a package that
		// nobody fetches; there is no list to find it in.
		return e, errors.Join(err, s.db.DropExport(context.WithoutCancel(ctx), e.ID))
	}
	return e, s.db.SetReference(context.WithoutCancel(ctx), e.ID, e.Reference)
}

// finish waits for an export, stores its package and says how far the stream is
// complete then. An export that came to nothing is forgotten, with errExport.
func (s *stream) finish(ctx context.Context, e db.Export) (taken, error) {
	pack, err := s.fetchPackage(ctx, e)
	if errors.Is(err, errTooLong) {
		s.Log.Warn("export is given up", "role", s.role, "reference", e.Reference, "err", err)
		return taken{}, errors.Join(err, s.db.AbandonExport(context.WithoutCancel(ctx), e.ID, s.Now()))
	}
	if errors.Is(err, errExport) || errors.Is(err, ksef.ErrNothingNew) {
		s.Log.Warn("export came to nothing", "role", s.role, "reference", e.Reference, "err", err)
		return taken{}, errors.Join(err, s.db.DropExport(context.WithoutCancel(ctx), e.ID))
	}
	return pack, err
}

func (s *stream) fetchPackage(ctx context.Context, e db.Export) (pack taken, err error) {
	err = s.withPackage(ctx, e, s.packagesDir(), s.Now().Add(patience), func(p *ksef.Package, files []*os.File) (err error) {
		pack, err = s.storePackage(ctx, e, p, files)
		return err
	})
	return pack, err
}

// withPackage waits until then at most for an export, downloads its package into a
// folder, and calls read with it. The files are gone afterwards.
func (s *stream) withPackage(ctx context.Context, e db.Export, folder string, until time.Time, read func(*ksef.Package, []*os.File) error) (err error) {
	var key ksef.ExportKey
	copy(key.Key[:], e.Key)
	copy(key.IV[:], e.IV)
	done, err := s.await(ctx, e, until)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(folder, "")
	if err != nil {
		return fmt.Errorf("folder for a package: %w", err)
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
		return err
	}
	return read(done, files)
}

// await polls until the package is ready, and leaves it, with errPending, when it
// is not by until.
func (s *stream) await(ctx context.Context, e db.Export, until time.Time) (*ksef.Package, error) {
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		status, err := s.askStatus(ctx, e)
		if err != nil {
			return nil, err
		}
		s.showProgress(0) // KSeF answers: whoever waits is not stuck
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
		if !s.Now().Before(until) {
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
func (s *stream) storePackage(ctx context.Context, e db.Export, p *ksef.Package, files []*os.File) (taken, error) {
	done, err := s.turnToStore(ctx)
	if err != nil {
		return taken{}, err
	}
	defer done()
	pack, invoices, err := readPackage(ctx, p, files)
	if err != nil {
		return taken{}, err
	}
	rows := make(map[string]*ksef.Metadata, len(pack.rows))
	numbers := make([]string, 0, len(pack.rows))
	for i := range pack.rows {
		row := &pack.rows[i]
		if _, twice := rows[row.KSeFNumber]; !twice {
			numbers = append(numbers, row.KSeFNumber)
		}
		rows[row.KSeFNumber] = row
	}
	known, err := s.db.Known(ctx, numbers)
	if err != nil {
		return taken{}, err
	}
	s.report.Listed += len(numbers)
	s.progress.Role, s.progress.Pending, s.progress.Package = s.role, len(numbers)-len(known), true
	s.showProgress(0)

	// Of one instant it may be a part, told apart by a filter, and says nothing of
	// how far the stream is complete: a process that finds it after a crash stores
	// what it holds and stays where it is.
	if e.From != e.To {
		s.hwm = p.HWM
		if pack.next, pack.more, err = packageContinuation(p, pack, ksef.Timestamp(e.To)); err != nil {
			return taken{}, err
		}
	} else if p.HWM.Compare(ksef.Timestamp(e.From)) < 0 {
		return taken{}, fmt.Errorf("KSeF does not call %s complete yet: %w", e.From, errExport)
	}
	batch := newBatch(s)
	if err := s.storeEntries(ctx, batch, rows, known, invoices); err != nil {
		return taken{}, err
	}
	batch.reached, batch.rows.Export = pack.next, e.ID
	return pack, batch.commit(ctx)
}

// turnToStore waits until no other mirror of this process stores a package, which
// takes up to 100 MB of memory each; done ends the turn. It does not wait for ever:
// the other may wait for its disk, or for whoever has locked its database.
func (m *Mirror) turnToStore(ctx context.Context) (done func(), err error) {
	if m.Turn == nil {
		return func() {}, nil
	}
	timer := time.NewTimer(longestTurn)
	defer timer.Stop()
	select {
	case m.Turn <- struct{}{}:
		return func() { <-m.Turn }, nil
	case <-timer.C:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readPackage reads the files of a package, which must list as many invoices as
// KSeF announced.
func readPackage(ctx context.Context, p *ksef.Package, files []*os.File) (taken, iter.Seq2[ksef.PackageEntry, error], error) {
	parts := make([]*io.SectionReader, len(files))
	for i, f := range files {
		parts[i] = io.NewSectionReader(f, 0, p.Parts[i].Size)
	}
	rows, invoices, err := ksef.ReadPackage(ctx, p.Compression, parts...)
	if err != nil {
		return taken{}, nil, errors.Join(err, errExport)
	}
	numbers := make(map[string]bool, len(rows))
	for _, row := range rows {
		numbers[row.KSeFNumber] = true
	}
	if len(rows) != p.InvoiceCount && len(numbers) != p.InvoiceCount {
		return taken{}, nil, fmt.Errorf("KSeF announced %d invoices, the package lists %d: %w", p.InvoiceCount, len(numbers), errExport)
	}
	return taken{rows: rows, full: p.IsTruncated || len(rows) >= packageFull}, invoices, nil
}

// storeEntries brings the invoices from the archive into the database: one
// goroutine unpacks, some read documents, this one writes. The queues between
// them are short, so that memory does not grow with the package.
func (s *stream) storeEntries(ctx context.Context, batch *batch, rows map[string]*ksef.Metadata, known map[string]db.Known,
	invoices iter.Seq2[ksef.PackageEntry, error],
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
	a.invoice = s.invoice(a.row, s.role, xml, s.path(a.row, number))
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

// askList lets KSeF begin to prepare a package that holds only metadata, of all of the
// stream's role in a window.
//
// Unlike a package of invoices it is not kept in the database: a crash costs at most
// this one, which is asked for again.
func (s *stream) askList(ctx context.Context, from, to ksef.Timestamp) (db.Export, error) {
	key := ksef.NewExportKey()
	s.report.Requests++
	reference, err := s.remote.StartExport(ctx, ksef.Query{SubjectType: s.subject, From: from, To: to}, true, key)
	return db.Export{
		Role: s.role, From: string(from), To: string(to), Reference: reference,
		Key: key.Key[:], IV: key.IV[:], CreatedAt: s.Now(),
	}, err
}

// fetchList waits until then at most for a package that holds metadata alone, and
// gives what it lists.
func (s *stream) fetchList(ctx context.Context, e db.Export, until time.Time) (listed taken, hwm ksef.Timestamp, err error) {
	err = s.withPackage(ctx, e, s.packagesDir(), until, func(p *ksef.Package, files []*os.File) (err error) {
		if listed, _, err = readPackage(ctx, p, files); err != nil {
			return err
		}
		hwm = p.HWM
		listed.next, listed.more, err = packageContinuation(p, listed, ksef.Timestamp(e.To))
		return err
	})
	return listed, hwm, err
}

// packageContinuation is continuation for a package.
func packageContinuation(p *ksef.Package, pack taken, to ksef.Timestamp) (next ksef.Timestamp, more bool, err error) {
	if p.HWM == "" {
		return "", false, fmt.Errorf("KSeF named no high water mark, so nothing is known to be complete: %w", errExport)
	}
	if !pack.full {
		if to != "" && to.Compare(p.HWM) < 0 {
			return to, false, nil
		}
		return p.HWM, false, nil
	}
	last := p.LastStored
	if last == "" && len(pack.rows) > 0 {
		last = slices.MaxFunc(pack.rows, func(a, b ksef.Metadata) int { return a.Stored.Compare(b.Stored) }).Stored
	}
	if last == "" {
		return "", false, fmt.Errorf("KSeF cut a package short without saying where: %w", errExport)
	}
	if last.Compare(p.HWM) >= 0 {
		return p.HWM, false, nil
	}
	return last, true, nil
}

// situation is what plan has to know before anything was asked.
func (s *stream) situation(ctx context.Context) (situation, error) {
	abandoned, err := s.db.Abandoned(ctx, s.Now().Add(-abandonedFor))
	if err != nil {
		return situation{}, err
	}
	is := situation{
		continued: s.continued,
		refused:   s.Now().Before(s.noExports) || abandoned >= maxAbandoned,
	}
	var next time.Time
	is.exports, next = s.remote.Budget(ksef.GroupExport)
	is.nextExport = next.Sub(s.Now())
	is.downloads, _ = s.remote.Budget(ksef.GroupDownload)
	return is, nil
}

// doesWithoutExports tells whether err leaves other ways to go on for now, and
// remembers for how long.
func (s *stream) doesWithoutExports(err error) bool {
	var budget *ksef.BudgetError
	switch {
	case err == nil, errors.Is(err, ksef.ErrNothingNew):
		return false
	case errors.As(err, &budget):
		// Spent since it was planned, or blocked by KSeF: the next plan sees it.
		return budget.Group == ksef.GroupExport
	case errors.Is(err, errExport), answered(err, http.StatusBadRequest):
	default:
		return false
	}
	s.Log.Warn("no package is to be had, doing without for a while", "role", s.role, "err", err)
	s.noExports = s.Now().Add(exportPause)
	return true
}
