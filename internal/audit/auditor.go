// Package audit holds a mirror's folder of invoices against its database. What is
// gone from the folder, or changed there, is restored from the database, and what
// someone put in its place is kept beside: audits look at every file once a day, a
// watcher may tell sooner, and a person may have all of it verified at once. Nothing
// is ever deleted.
//
// It knows nothing of KSeF: the invoices in the database are what a cycle of package
// sync has stored there.
package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/tree"
)

const (
	// Of the files that are gone or changed, an audit restores so many, or this part
	// of all if that is more. A person who loses a folder gets it back; when much of
	// the tree is gone, someone should look before the disk is filled.
	restoreMost  = 1000
	restoreShare = 10
	// So many files, or so much of them, are written together: their documents are in
	// memory.
	restoreCount = 100
	restoreBytes = 8 << 20
	// watchedInvoices is of how many of the newest invoices the folders are watched:
	// those in which people work. The others are left to the audits, as systems watch
	// only so many folders, of all programs together.
	watchedInvoices = 2000
)

// Auditor is what looks after the folder of one mirror. Its methods are not safe for
// concurrent use, nor beside a cycle of the mirror.
type Auditor struct {
	db       *db.DB
	invoices *tree.Tree
	log      *slog.Logger
	now      func() time.Time
	night    func() time.Time

	watch       *tree.Watch              // nil without a watcher
	watchedTo   int64                    // the newest invoice whose folder is watched; 0: to be looked at again
	vanished    bool                     // a folder has gone: an audit is due now,
	hurry       bool                     // and is not spread over the day
	unrestored  map[string]db.StoredFile // by KSeF number: files that could not be restored yet
	healed      map[string]int           // by KSeF number: how often since the audit began, as the watcher told
	saidTooMany int64                    // the audit that said that it restores no more
}

// New makes the auditor of a mirror from its database and folder, which stay open as
// long as it is used. An audit begins each time that night gives a later instant.
func New(d *db.DB, invoices *tree.Tree, log *slog.Logger, now, night func() time.Time) *Auditor {
	return &Auditor{
		db: d, invoices: invoices, log: log, now: now, night: night,
		unrestored: map[string]db.StoredFile{}, healed: map[string]int{},
	}
}

// Watch has a watcher tell, until Close, of changes in the folders of the newest
// invoices.
func (au *Auditor) Watch(ctx context.Context, watcher *tree.Watcher) error {
	au.watch = watcher.Tree(au.invoices)
	return au.watchFolders(ctx)
}

// Close ends the watching.
func (au *Auditor) Close() {
	if au.watch != nil {
		au.watch.Close()
	}
}

// Changed is signalled when files of the mirror may have been changed: call
// [Auditor.Heal] then. It is nil without a watcher.
func (au *Auditor) Changed() <-chan struct{} {
	if au.watch == nil {
		return nil
	}
	return au.watch.Changed()
}

// watchFolders has the watcher watch the folders of the newest invoices.
func (au *Auditor) watchFolders(ctx context.Context) error {
	if au.watch == nil {
		return nil
	}
	newest, err := au.db.NewestID(ctx)
	if err != nil || newest == au.watchedTo {
		return err
	}
	paths, err := au.db.NewestPaths(ctx, watchedInvoices)
	if err != nil {
		return err
	}
	au.watch.Folders(paths)
	au.watchedTo = newest
	return nil
}

// holds tells whether the file of a row has the bytes that KSeF served.
func (au *Auditor) holds(row db.StoredFile) bool {
	content, err := au.invoices.Read(row.Path)
	return err == nil && sha256.Sum256(content) == row.SHA256
}

// restore writes files anew from the database and gives how many it wrote. What is
// in their place is kept beside. One that cannot be written is remembered, and does
// not keep the others from it.
func (au *Auditor) restore(ctx context.Context, rows []db.StoredFile) (restored int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	var files []tree.File
	var readable []db.StoredFile
	for _, row := range rows {
		document, err := au.db.Document(ctx, row.KSeFNumber)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			au.remember(row, err)
		default:
			files, readable = append(files, tree.File{Path: row.Path, Content: document}), append(readable, row)
		}
	}
	kept, err := au.invoices.Put(ctx, files...)
	if err == nil {
		for _, row := range readable {
			delete(au.unrestored, row.KSeFNumber)
		}
		restored = len(files)
	} else {
		// One by one, to know which: another program may have one of them open.
		for i, file := range files {
			beside, err := au.invoices.Put(ctx, file)
			kept = append(kept, beside...)
			switch {
			case ctx.Err() != nil, errors.Is(err, tree.ErrNotMounted):
				return restored, err
			case err != nil:
				au.remember(readable[i], err)
			default:
				restored++
				delete(au.unrestored, readable[i].KSeFNumber)
			}
		}
	}
	if restored > 0 {
		au.watchedTo = 0 // a folder that was made anew is not watched yet
		au.log.Warn("files of the invoices folder were gone or changed; they are restored from the database, and changed ones are kept beside as ….kept-1.xml",
			"files", restored, "kept", len(kept), "first", rows[0].KSeFNumber)
		au.log.Debug("restored files", "rows", len(rows), "kept", kept)
	}
	return restored, nil
}

// remember keeps a file that could not be restored for the next try, and says so
// once.
func (au *Auditor) remember(row db.StoredFile, err error) {
	if _, said := au.unrestored[row.KSeFNumber]; said || len(au.unrestored) >= restoreMost {
		return // the next audit finds those that are not remembered
	}
	au.unrestored[row.KSeFNumber] = row
	au.log.Error("a file is gone or changed and cannot be restored now; it will be tried again", "ksef_number", row.KSeFNumber, "err", err)
}

// restoreAgain tries what could not be restored: the disk may have been full, or
// the file open in another program.
func (au *Auditor) restoreAgain(ctx context.Context) error {
	var rows []db.StoredFile
	for number, row := range au.unrestored {
		if au.holds(row) {
			delete(au.unrestored, number)
			continue
		}
		rows = append(rows, row)
	}
	return au.restoreAll(ctx, rows)
}

// restoreAll restores any number of files, few at a time.
func (au *Auditor) restoreAll(ctx context.Context, rows []db.StoredFile) error {
	for some := range slices.Chunk(rows, restoreCount) {
		if _, err := au.restore(ctx, some); err != nil {
			return err
		}
	}
	return nil
}
