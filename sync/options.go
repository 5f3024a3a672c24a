package sync

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"time"

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
	Remote func(ksef.RequestLog) Remote
	// Progress, if not nil, is called as invoices are listed and stored, and again and
	// again while a package is waited for.
	Progress func(Progress)
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

// setDefaults puts what they stand for in the place of zero values.
func (o *Options) setDefaults() {
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
}

// DatabasePath is where the database of the mirror in dir is.
func DatabasePath(dir string) string { return filepath.Join(dir, "database", "invoices.db") }

// InvoicesDir is where the folder tree of the mirror in dir is.
func InvoicesDir(dir string) string { return filepath.Join(dir, "invoices") }

// InvoicesDir is the folder tree that people browse.
func (o *Options) InvoicesDir() string { return InvoicesDir(o.Dir) }

// QuarantineDir holds what arrived but failed its checks.
func (o *Options) QuarantineDir() string { return filepath.Join(o.Dir, "quarantine") }

// packagesDir holds the parts of packages while they are read.
func (o *Options) packagesDir() string { return filepath.Join(o.Dir, "packages") }

// mirrored is what the database has to mirror.
func (o *Options) mirrored(id string) db.Mirror {
	return db.Mirror{Environment: o.Environment, ContextType: o.Context.Type, ContextValue: o.Context.Value, ID: id}
}

// sleep waits for d or until ctx ends, whose error it returns then.
func sleep(ctx context.Context, d time.Duration) error {
	waiting, end := context.WithTimeout(ctx, d)
	defer end()
	<-waiting.Done()
	return ctx.Err()
}
