// Package sync keeps one mirror complete: one cycle asks KSeF for what is new,
// and stores it in the folder tree and the database so that a crash at any
// instant costs at most repeated requests, never an invoice. When to run a cycle
// is package daemon's business; how to talk to KSeF is package ksef's.
//
// It bears its user's name for the job and is not the standard library's sync;
// import it as ksefsync.
package sync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"ksefmirror/db"
	"ksefmirror/internal/audit"
	"ksefmirror/internal/tree"
)

// ErrLocked is returned by [Open] when another process works on the mirror.
var ErrLocked = errors.New("another process is working on this mirror")

// Mirror is one opened mirror. It holds the mirror's lock until Close. Its
// methods are not safe for concurrent use: one cycle or verification at a time.
type Mirror struct {
	Options
	lock       *flock.Flock
	db         *db.DB
	invoices   *tree.Tree
	files      *audit.Auditor // of invoices, against db
	quarantine *tree.Tree
	remote     Remote
	warsaw     *time.Location

	progress Progress // of this cycle

	// From one cycle to the next, until the process ends:
	limitsRead time.Time           // when KSeF last told the limits in force
	memories   map[string]*memory  // by role
	adoptable  map[string][]string // by KSeF number: files of the tree that no row names, while the database takes over the tree
	rereadFrom db.OutdatedPlace    // up to where invoices that an older version read were read again
	reread     bool                // there are no more of them
	backedUp   time.Time           // when a backup was last tried
}

// memory is what a mirror remembers of a role from one cycle to the next. A process
// that starts has none, and needs none.
type memory struct {
	noExports time.Time  // until when packages are not asked for
	partition *partition // the crowded instant that is being mirrored, if any
	awaited   db.Export  // that a scheduled reconciliation waits for; else without a reference
}

// Open locks and opens the mirror in o.Dir, and creates it where there is none.
// It returns [ErrLocked] when another process has it, and [tree.ErrNotMounted]
// when the database knows of invoices but their folder's marker is missing: then
// nothing is written, for an empty mount point must not be filled.
func Open(ctx context.Context, o Options) (*Mirror, error) {
	m, err := lock(o)
	if err != nil {
		return nil, err
	}
	if err := m.open(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if o.Remote != nil {
		m.remote = o.Remote(requestLog{m.db})
	}
	return m, nil
}

// newMirror makes a mirror that is not open yet.
func newMirror(o Options) (*Mirror, error) {
	o.setDefaults()
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		return nil, fmt.Errorf("time zone of Poland: %w", err)
	}
	m := &Mirror{Options: o, warsaw: warsaw, memories: map[string]*memory{}}
	for _, role := range o.Roles {
		m.memories[role] = &memory{}
	}
	return m, nil
}

// lock makes a mirror that is not open yet, but this process's own.
func lock(o Options) (*Mirror, error) {
	m, err := newMirror(o)
	if err != nil {
		return nil, err
	}
	if err := m.lockFolder(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// lockFolder makes the mirror this process's own.
func (m *Mirror) lockFolder() error {
	if m.Existing {
		if err := m.exists(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(m.Dir, 0o750); err != nil {
		return fmt.Errorf("folder of the mirror: %w", err)
	}
	// The lock is not inside database/: nothing but SQLite opens files there.
	m.lock = flock.New(filepath.Join(m.Dir, "mirror.lock"), flock.SetPermissions(0o640))
	locked, err := m.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock %s: %w", m.lock.Path(), err)
	}
	if !locked {
		return fmt.Errorf("%s: %w", m.Dir, ErrLocked)
	}
	return nil
}

// exists reports an error when neither the database nor the marker of the invoices
// folder is there.
func (m *Mirror) exists() error {
	id, err := tree.ID(m.InvoicesDir())
	if err != nil || id != "" {
		return err
	}
	if _, err := os.Stat(DatabasePath(m.Dir)); err != nil {
		return fmt.Errorf("the mirror that was in %s has gone; mount its volume or move it back: %w", m.Dir, err)
	}
	return nil
}

// open opens the mirror, whose lock is held.
func (m *Mirror) open(ctx context.Context) error {
	// The folder and the database carry one identifier, so that a folder on a
	// volume that is not mounted, or the folder of another mirror, is noticed. A
	// new database adopts the identifier of a folder that is there already: after
	// its loss the folder's files are taken over instead of downloaded again.
	id, err := tree.ID(m.InvoicesDir())
	if err != nil {
		return err
	}
	want := m.mirrored(id)
	if id == "" {
		want.ID = uuid.NewString()
	} else {
		want.TakesOver = m.Now().Add(holdOff)
	}
	m.db, err = db.Open(ctx, DatabasePath(m.Dir), want, m.Log)
	if err != nil {
		return err
	}
	id = m.db.Mirror().ID
	if m.db.Created() && !want.TakesOver.IsZero() {
		m.Log.Warn("the database was lost; a new one takes over the files in the folder. KSeF is asked from then on, as the lost one knew how many requests it counts", "from", want.TakesOver)
	}
	// Before anything is stored, so that a receiver that is new misses nothing from
	// here on.
	if m.Receivers != nil {
		if err := m.db.SetReceivers(ctx, m.Receivers); err != nil {
			return err
		}
	}

	// A crash between creating the database and the folder leaves a database that
	// holds nothing, so a missing marker means "not mounted" only once something
	// has been stored.
	empty, err := m.db.Empty(ctx)
	if err != nil {
		return err
	}
	if empty || m.NewTree {
		if err := tree.Create(m.InvoicesDir(), id); err != nil {
			return err
		}
	}
	if m.invoices, err = tree.Open(m.InvoicesDir(), id); err != nil {
		return err
	}
	if err := m.findAdoptable(ctx); err != nil {
		return err
	}
	m.files = audit.New(m.db, m.invoices, m.Log, m.Now, m.night)
	if m.Watcher != nil {
		if err := m.files.Watch(ctx, m.Watcher); err != nil {
			return err
		}
	}
	if err := tree.Create(m.QuarantineDir(), id); err != nil {
		return err
	}
	if m.quarantine, err = tree.Open(m.QuarantineDir(), id); err != nil {
		return err
	}
	// What a process that died had downloaded of a package is fetched again: the
	// addresses of parts do not outlive an hour anyway. The folder itself stays, so
	// that it is there whenever this process dies.
	if err := os.MkdirAll(m.packagesDir(), 0o700); err != nil {
		return fmt.Errorf("folder for packages: %w", err)
	}
	left, err := os.ReadDir(m.packagesDir())
	if err != nil {
		return fmt.Errorf("folder for packages: %w", err)
	}
	for _, entry := range left {
		if err := os.RemoveAll(filepath.Join(m.packagesDir(), entry.Name())); err != nil {
			return fmt.Errorf("left-over packages: %w", err)
		}
	}
	return nil
}

// findAdoptable finds the files of the tree that no row names, by the KSeF numbers
// that end their names, when the database takes over the tree. People may have moved
// them, and the layout may have changed.
func (m *Mirror) findAdoptable(ctx context.Context) error {
	adopts, err := m.db.Adopts(ctx)
	if err != nil || !adopts {
		return err
	}
	m.adoptable, err = audit.Unnamed(ctx, m.db, m.invoices)
	return err
}

// holdOff is for how long no request goes out after a database took the place of
// another: the longest window in which KSeF counts them (limity-api.md). The
// requests of the last hour are recorded in the other one.
const holdOff = time.Hour

// night is when the last night of the mirror began.
func (m *Mirror) night() time.Time { return lastNight(m.Now(), m.db.Mirror().ID, m.warsaw) }

// Database is the mirror's database. It is closed with the mirror.
func (m *Mirror) Database() *db.DB { return m.db }

// Rest gives back memory and descriptors until the mirror has something to do again:
// see [db.DB.Rest]. It is for a process that keeps many mirrors open.
func (m *Mirror) Rest() { m.db.Rest() }

// Close closes the mirror and releases its lock. Nothing is lost if it is never
// called: a process that dies leaves what the last commit left.
func (m *Mirror) Close() error {
	var errs []error
	if m.files != nil {
		m.files.Close()
	}
	if m.quarantine != nil {
		errs = append(errs, m.quarantine.Close())
	}
	if m.invoices != nil {
		errs = append(errs, m.invoices.Close())
	}
	if m.db != nil {
		errs = append(errs, m.db.Close())
	}
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
	}
	return errors.Join(errs...)
}
