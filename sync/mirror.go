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
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

// Remote is what a mirror asks of KSeF. Every method may return
// [ksef.BudgetError] when the limits forbid the request until later; nothing was
// sent then. No method is repeated within a cycle except as this package says.
type Remote interface {
	// QueryMetadata lists one page, ascending by permanent storage date.
	QueryMetadata(ctx context.Context, q ksef.Query, page, pageSize int) (ksef.MetadataPage, error)
	// Invoice gives the bytes of an invoice exactly as served.
	Invoice(ctx context.Context, number ksef.Number) ([]byte, error)
	// RateLimits asks for the limits in force and applies them.
	RateLimits(ctx context.Context) (ksef.Limits, error)
	// StartExport asks for a package of what q selects and gives its reference.
	// After an error without an answer it is unknown whether KSeF prepares it.
	StartExport(ctx context.Context, q ksef.Query, metadataOnly bool, key ksef.ExportKey) (reference string, err error)
	ExportStatus(ctx context.Context, reference string) (ksef.ExportStatus, error)
	// DownloadPart writes a part, decrypted; what was written counts only if it
	// returns nil. It may be called from several goroutines.
	DownloadPart(ctx context.Context, p ksef.Part, key ksef.ExportKey, w io.Writer) error
	// Budget tells how many requests of a group the limits allow now and, if none,
	// when the next may be.
	Budget(group ksef.Group) (left int, next time.Time)
}

// Options say what a mirror mirrors and where.
type Options struct {
	Dir         string // the mirror's own folder
	Environment string // test, demo or prod: recorded, so that one folder never mixes two
	Context     ksef.Context
	Roles       []string  // seller, buyer, third_party, authorized
	NightRoles  []string  // those of Roles that are asked for once a night
	Since       time.Time // where a stream without a watermark starts
	// EveryRole asks in each cycle for every role, also for those that have always
	// been empty and were asked not long ago, and for NightRoles by day.
	EveryRole bool
	Layout    tree.Layout
	// Turn, with room for one, is shared by mirrors of a process that store packages
	// one after another. nil: this one does not wait for others.
	Turn chan struct{}
	// Receivers are told of new invoices, by others: see [db.DB.SetReceivers]. nil
	// leaves those that the database knows.
	Receivers []string
	// Remote makes the client whose requests are counted in the given log. nil
	// serves commands that ask nothing of KSeF, such as verify.
	Remote   func(ksef.RequestLog) Remote
	Progress func(Progress) // nil, or called as invoices are listed and stored
	// Existing refuses to make a new mirror where there is none: one that was open
	// before has not vanished for good.
	Existing bool
	// NewTree makes the invoices folder anew when its marker is gone. Only a person can
	// know that it is lost rather than not mounted.
	NewTree bool
	// BackUpTo is the folder for the nightly backups, and BackUpKeep how many of this
	// mirror are kept there; "": there are none.
	BackUpTo   string
	BackUpKeep int
	// Watcher tells of changes in the invoices folder before an audit finds them; nil:
	// nothing does.
	Watcher *tree.Watcher
	Log     *slog.Logger                               // nil discards
	Now     func() time.Time                           // nil: time.Now
	Sleep   func(context.Context, time.Duration) error // nil: real
}

// Progress says how far a cycle is. Pending counts invoices that were listed by
// KSeF and are not stored yet; it falls to 0 and may rise again with each page.
type Progress struct {
	Role    string
	Stored  int // stored so far in this cycle, all roles
	Pending int
	Package bool // they come in one package, else one by one
}

// ErrLocked is returned by [Open] when another process works on the mirror.
var ErrLocked = errors.New("another process is working on this mirror")

// Mirror is one opened mirror. It holds the mirror's lock until Close. Its
// methods are not safe for concurrent use: one cycle or verification at a time.
type Mirror struct {
	Options
	lock       *flock.Flock
	db         *db.DB
	invoices   *tree.Tree
	quarantine *tree.Tree
	remote     Remote
	warsaw     *time.Location

	limitsRead time.Time
	progress   Progress
	noExports  map[string]time.Time  // by role: until when packages are not asked for
	partitions map[string]*partition // by role: the crowded instant that is being mirrored, if any
	awaited    map[string]db.Export  // by role: the export that a scheduled reconciliation waits for
	rereadFrom db.OutdatedPlace      // up to where invoices that an older version read were read again
	reread     bool                  // there are no more of them

	adoptable map[string][]string // by KSeF number: files of the tree that no row names, while the database takes over the tree
	backedUp  time.Time           // when a backup was last tried

	watch       *tree.Watch              // nil without a watcher
	watchedTo   int64                    // the newest invoice whose folder is watched; 0: to be looked at again
	vanished    bool                     // a folder has gone: an audit is due now,
	hurry       bool                     // and is not spread over the day
	unrestored  map[string]db.StoredFile // by KSeF number: files that could not be restored yet
	healed      map[string]int           // by KSeF number: how often since the audit began, as the watcher told
	saidTooMany int64                    // the audit that said that it restores no more
}

// Open locks and opens the mirror in o.Dir, and creates it where there is none.
// It returns [ErrLocked] when another process has it, and [tree.ErrNotMounted]
// when the database knows of invoices but their folder's marker is missing: then
// nothing is written, for an empty mount point must not be filled.
func Open(ctx context.Context, o Options) (*Mirror, error) {
	m, err := newMirror(o)
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
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		return nil, fmt.Errorf("time zone of Poland: %w", err)
	}
	return &Mirror{
		Options: o, warsaw: warsaw,
		noExports: map[string]time.Time{}, partitions: map[string]*partition{}, awaited: map[string]db.Export{},
		unrestored: map[string]db.StoredFile{}, healed: map[string]int{},
	}, nil
}

func (m *Mirror) open(ctx context.Context) error {
	if err := m.lockFolder(); err != nil {
		return err
	}
	return m.openLocked(ctx)
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

// openLocked opens the mirror, whose lock is held.
func (m *Mirror) openLocked(ctx context.Context) error {
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
	if m.Watcher != nil {
		m.watch = m.Watcher.Tree(m.invoices)
		if err := m.watchFolders(ctx); err != nil {
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

// holdOff is for how long no request goes out after a database took the place of
// another: the longest window in which KSeF counts them (limity-api.md). The
// requests of the last hour are recorded in the other one.
const holdOff = time.Hour

// mirrored is what the database has to mirror.
func (m *Mirror) mirrored(id string) db.Mirror {
	return db.Mirror{Environment: m.Environment, ContextType: m.Context.Type, ContextValue: m.Context.Value, ID: id}
}

// DatabasePath is where the database of the mirror in dir is.
func DatabasePath(dir string) string { return filepath.Join(dir, "database", "invoices.db") }

// Database is the mirror's database. It is closed with the mirror.
func (m *Mirror) Database() *db.DB { return m.db }

// Rest gives back memory and descriptors until the mirror has something to do again:
// see [db.DB.Rest]. It is for a process that keeps many mirrors open.
func (m *Mirror) Rest() { m.db.Rest() }

// InvoicesDir is where the folder tree of the mirror in dir is.
func InvoicesDir(dir string) string { return filepath.Join(dir, "invoices") }

// InvoicesDir is the folder tree that people browse.
func (m *Mirror) InvoicesDir() string { return InvoicesDir(m.Dir) }

// QuarantineDir holds what arrived but failed its checks.
func (m *Mirror) QuarantineDir() string { return filepath.Join(m.Dir, "quarantine") }

// packagesDir holds the parts of packages while they are read.
func (m *Mirror) packagesDir() string { return filepath.Join(m.Dir, "packages") }

// Close closes the mirror and releases its lock. Nothing is lost if it is never
// called: a process that dies leaves what the last commit left.
func (m *Mirror) Close() error {
	var errs []error
	if m.watch != nil {
		m.watch.Close()
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

// requestLog lets the limiter keep its memory in the mirror's database, so that
// restarts, the daemon and commands beside it draw on one budget.
type requestLog struct{ db *db.DB }

func (l requestLog) StartRequest(ctx context.Context, group string, after int64, open []int64, admit ksef.Admit) (int64, error) {
	return l.db.StartRequest(ctx, group, after, open, func(recorded []db.Request, blocks map[string]time.Time) time.Time {
		return admit(logged(recorded), blocks)
	})
}

func (l requestLog) EndRequest(ctx context.Context, id int64, at time.Time) error {
	return l.db.EndRequest(ctx, id, at)
}

func (l requestLog) BlockGroup(ctx context.Context, group string, until time.Time) error {
	return l.db.BlockGroup(ctx, group, until)
}

func (l requestLog) Blocks(ctx context.Context) (map[string]time.Time, error) {
	return l.db.Blocks(ctx)
}

func (l requestLog) Requests(ctx context.Context, since time.Time) ([]ksef.LoggedRequest, error) {
	rows, err := l.db.Requests(ctx, since)
	return logged(rows), err
}

func logged(rows []db.Request) []ksef.LoggedRequest {
	logged := make([]ksef.LoggedRequest, len(rows))
	for i, r := range rows {
		logged[i] = ksef.LoggedRequest(r)
	}
	return logged
}

// sleep waits for d or until ctx ends, whose error it returns then.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
