package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/audit"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

// Restored tells what [Restore] or [RebuildDatabase] did.
type Restored struct {
	Invoices int64  // in the database now
	Adopting int    // invoices that the folder holds and the database takes over once KSeF has listed them
	Kept     string // where the database before it is now; "": there was none
	From     time.Time
	NoTree   bool // the invoices folder is not there, or its marker: it can be made from the database
}

// Restore puts a backup into the place of the mirror's database, which is kept
// beside. It returns [ErrLocked] while a process works on the mirror. The backup is
// checked first, all of it; it must be of the same environment and context, and of
// the same folder of invoices if that is there.
//
// The next cycle goes on from the backup's watermarks, or from the earliest invoice
// that the folder holds and the backup does not: those are listed again and taken
// over from the folder. It may begin an hour later, as until then KSeF counts
// requests that the backup does not know of.
//
// A crash leaves the database that was there or the restored one, and in one instant
// neither: then the next start makes a new one, and Restore can be called again.
func Restore(ctx context.Context, o Options, backup string) (done Restored, err error) {
	m, err := lock(o)
	if err != nil {
		return Restored{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	id, err := tree.ID(m.InvoicesDir())
	if err != nil {
		return Restored{}, err
	}
	found, invoices, err := db.CheckBackup(ctx, backup, m.mirrored(id))
	if err != nil {
		return Restored{}, err
	}
	info, err := os.Stat(backup)
	if err != nil {
		return Restored{}, err
	}
	if err := enoughSpace(m.Dir, info.Size()); err != nil {
		return Restored{}, fmt.Errorf("restore into %s: %w", m.Dir, err)
	}
	folder := filepath.Dir(DatabasePath(m.Dir))
	restoring := folder + ".restoring"
	if err := os.RemoveAll(restoring); err != nil { // of a crash
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	want := m.mirrored(found.ID)
	want.TakesOver = m.Now().Add(holdOff)
	done = Restored{Invoices: invoices, From: want.TakesOver, NoTree: id == ""}
	d, err := db.Restore(ctx, backup, filepath.Join(restoring, filepath.Base(DatabasePath(m.Dir))), want, m.blocks(ctx), m.Log)
	if err != nil {
		return Restored{}, err
	}
	if id != "" {
		done.Adopting, err = m.stepBack(ctx, d, id)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return Restored{}, err
	}
	if err := tree.SyncFolder(restoring); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	if done.Kept, err = m.setDatabaseAside(); err != nil {
		return done, err
	}
	if err := os.Rename(restoring, folder); err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	return done, tree.SyncFolder(m.Dir)
}

// stepBack takes the streams of a restored database back to before the earliest
// invoice that the folder holds and the database does not, and gives how many those
// are. KSeF may have listed one late, below the watermarks of the backup, and they
// say that everything below is there.
func (m *Mirror) stepBack(ctx context.Context, d *db.DB, id string) (int, error) {
	invoices, err := tree.Open(m.InvoicesDir(), id)
	if err != nil {
		return 0, err
	}
	defer func() { _ = invoices.Close() }()
	absent, err := audit.Unnamed(ctx, d, invoices)
	if err != nil {
		return 0, err
	}
	var earliest time.Time
	for number := range absent {
		// The day on which it was given, in Poland; it is stored then or later.
		day, err := time.ParseInLocation("20060102", number[len("5265877635-"):][:8], m.warsaw)
		if err == nil && (earliest.IsZero() || day.Before(earliest)) {
			earliest = day
		}
	}
	if earliest.IsZero() {
		return len(absent), nil
	}
	streams, err := d.Streams(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range streams {
		back := db.Batch{Role: s.Role}
		if ksef.Timestamp(s.Position).Time().After(earliest) {
			back.Position = string(ksef.NewTimestamp(earliest))
		}
		if ksef.Timestamp(s.Watermark).Time().After(earliest) {
			back.Watermark = string(ksef.NewTimestamp(earliest))
		}
		if err := d.Commit(ctx, back); err != nil {
			return 0, err
		}
	}
	return len(absent), nil
}

// RebuildDatabase makes the mirror's database anew, from the folder of invoices and
// what KSeF lists; the one that was there is kept beside. The next cycles, an hour
// later, list everything again, and take over every file that is as KSeF says
// instead of having it served again. It returns [ErrLocked] while a process works on
// the mirror, and [tree.ErrNotMounted] when the folder is not there.
func RebuildDatabase(ctx context.Context, o Options) (done Restored, err error) {
	m, err := lock(o)
	if err != nil {
		return Restored{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	id, err := tree.ID(m.InvoicesDir())
	if err != nil {
		return Restored{}, err
	}
	if id == "" {
		return Restored{}, fmt.Errorf("rebuild the database from %s: %w", m.InvoicesDir(), tree.ErrNotMounted)
	}
	blocks := m.blocks(ctx)
	if done.Kept, err = m.setDatabaseAside(); err != nil {
		return done, err
	}
	done.From = m.Now().Add(holdOff)
	// A crash from here on leaves no database or a new one, which the next start makes
	// or finds.
	if err := m.open(ctx); err != nil {
		return done, err
	}
	for group, until := range blocks {
		if err := m.db.BlockGroup(ctx, group, until); err != nil {
			return done, err
		}
	}
	done.Adopting = len(m.adoptable)
	return done, nil
}

// blocks gives how long KSeF asked to be left alone, as far as the present database
// can tell: it may be damaged or not there.
func (m *Mirror) blocks(ctx context.Context) map[string]time.Time {
	d, err := db.OpenReadOnly(ctx, DatabasePath(m.Dir))
	if err != nil {
		return nil
	}
	blocks, err := d.Blocks(ctx)
	if err := errors.Join(err, d.Close()); err != nil {
		m.Log.Warn("the database that is replaced cannot tell whether KSeF has blocked requests", "err", err)
	}
	return blocks
}

// setDatabaseAside renames the folder of the database to the first free of
// database.kept-1, database.kept-2 and so on, and gives that, or "" when there is
// none. Its files move together: one alone is worth nothing.
func (m *Mirror) setDatabaseAside() (kept string, err error) {
	folder := filepath.Dir(DatabasePath(m.Dir))
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for n := 1; ; n++ {
		kept = fmt.Sprintf("%s.kept-%d", folder, n)
		if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", fmt.Errorf("keep the database: %w", err)
		}
	}
	if err := os.Rename(folder, kept); err != nil {
		return "", fmt.Errorf("keep the database; end every program that reads it: %w", err)
	}
	return kept, nil
}

// RebuildTree writes every file that is missing or changed anew from the database,
// as [Mirror.Verify] does, and makes the folder itself when it is not there or its
// marker is gone.
func RebuildTree(ctx context.Context, o Options) (_ Verification, err error) {
	o.NewTree, o.Remote = true, nil
	m, err := Open(ctx, o)
	if err != nil {
		return Verification{}, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Verify(ctx, true)
}
