package sync

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/tree"
)

const (
	// auditSpan is over how much of a day an audit is spread, so that it is hardly
	// noticed.
	auditSpan = 12 * time.Hour
	// auditAtOnce is how many files are looked at each time at least: a hundredth of
	// a second or so.
	auditAtOnce = 1000
	// auditRecorded is after how many files it is recorded how far an audit is.
	auditRecorded = 10_000
	// hashEvery is of how many audits one reads a file: with one a day, each is read
	// once a month.
	hashEvery = 30
	// clockSlack is by how much the clock of the disk, such as a server's, may be
	// behind this machine's.
	clockSlack = time.Hour
	// Of the files that are gone or changed, an audit restores so many, or this part
	// of all if that is more. A person who loses a folder gets it back; when much of
	// the tree is gone, someone should look before the disk is filled.
	restoreMost  = 1000
	restoreShare = 10
	// healMost is how often a file is restored between two audits when the watcher
	// tells of it: a program that changes it each time would fill the disk with what
	// is kept beside.
	healMost = 3
	// So many files, or so much of them, are written together: their documents are in
	// memory.
	restoreCount = 100
	restoreBytes = 8 << 20
)

// AuditDue looks at the next of the mirror's files, and restores those that are
// gone or changed from the database, where a changed one is kept beside. Every
// file is looked at once a day and read once a month, spread over the day, until
// the given time at most each call. How far that is, is kept in the database.
//
// What cannot be restored now is tried again by the next call, and is no error. The
// error is [tree.ErrNotMounted] when the folder's marker is missing: nothing is
// taken for gone then.
func (m *Mirror) AuditDue(ctx context.Context, until time.Time) error {
	// Also when nothing is due: a folder that was unmounted or renamed in a quiet hour
	// should be noticed within one cycle.
	if err := m.invoices.Usable(); err != nil {
		return err
	}
	if err := m.restoreAgain(ctx); err != nil {
		return err
	}
	if err := m.auditNext(ctx, until); err != nil {
		return err
	}
	return m.watchFolders(ctx)
}

// auditNext goes on with the audit that is due, if one is.
func (m *Mirror) auditNext(ctx context.Context, until time.Time) error {
	a, err := m.db.Audit(ctx)
	if err != nil {
		return err
	}
	over := a.Pass == 0 || !a.Finished.IsZero()
	another := db.Audit{Pass: a.Pass + 1, Previous: a.Started, Started: m.Now()}
	switch {
	case over && a.Started.Before(m.night()):
		a = another
		clear(m.healed)
	case over && m.vanished:
		another.Restored = a.Restored // the bound is of a day
		a = another
	case over:
		return nil
	case m.vanished:
		a.Reached = 0
	}
	m.hurry = m.hurry || m.vanished
	m.vanished = false
	if err := m.audit(ctx, &a, until); err != nil {
		return err
	}
	m.hurry = m.hurry && a.Finished.IsZero()
	return nil
}

// audit goes on with a, as far as is due, and records how far it came.
func (m *Mirror) audit(ctx context.Context, a *db.Audit, until time.Time) error {
	newest, err := m.db.NewestID(ctx)
	if err != nil {
		return err
	}
	// IDs are given in order and hardly ever skipped, so that they do for a count.
	due := newest
	if part := float64(m.Now().Sub(a.Started)) / float64(auditSpan); part < 1 && !m.hurry {
		due = max(a.Reached+auditAtOnce, int64(part*float64(newest)))
	}
	most := max(restoreMost, newest/restoreShare)
	var wanting []db.StoredFile
	size, looked, left := int64(0), 0, false
	for row, err := range m.db.FilesAfter(ctx, a.Reached) {
		if err != nil {
			return err
		}
		if row.ID > due || looked >= auditAtOnce && !m.Now().Before(until) {
			left = true
			break
		}
		if looked++; looked%auditRecorded == 0 {
			if err := m.restoreAudited(ctx, a, wanting); err != nil {
				return err
			}
			wanting, size = nil, 0
		}
		intact, err := m.intact(ctx, row, a)
		if err != nil {
			return err
		}
		if !intact && a.Restored+int64(len(wanting)) >= most {
			m.tooMany(a)
		} else if !intact {
			wanting, size = append(wanting, row), size+row.Size
		}
		if len(wanting) >= restoreCount || size >= restoreBytes {
			if err := m.restoreAudited(ctx, a, wanting); err != nil {
				return err
			}
			wanting, size = nil, 0
		}
		a.Reached = row.ID
	}
	if !left {
		a.Finished = m.Now()
		m.Log.Debug("audit of the files done", "pass", a.Pass, "restored", a.Restored)
	}
	return m.restoreAudited(ctx, a, wanting)
}

// tooMany says, once an audit, that it restores no more.
func (m *Mirror) tooMany(a *db.Audit) {
	if m.saidTooMany != a.Pass {
		m.saidTooMany = a.Pass
		m.Log.Error("so many files are gone or changed that the rest is left for someone to look at; "+
			"if nothing is wrong with the disk, ksefmirror verify --repair restores them at once, and else a part each day", "restored", a.Restored)
	}
}

// restoreAudited restores what an audit found, then records how far it is: a crash
// in between has the same files looked at again, and found in order.
func (m *Mirror) restoreAudited(ctx context.Context, a *db.Audit, rows []db.StoredFile) error {
	restored, err := m.restore(ctx, rows)
	if err != nil {
		return err
	}
	a.Restored += int64(restored)
	return m.db.RecordAudit(ctx, *a)
}

// intact tells whether the file of a row is as it should be, as far as the audit
// looks: it is read when its turn has come, or when someone has written it since
// the audit before; else it is there with its size.
func (m *Mirror) intact(ctx context.Context, row db.StoredFile, a *db.Audit) (bool, error) {
	entry, err := m.invoices.Stat(row.Path)
	if err != nil || entry.Size != row.Size {
		return false, nil //nolint:nilerr // whatever is wrong with it, restoring it tells
	}
	turn := (row.ID+a.Pass)%hashEvery == 0
	if !turn && (a.Previous.IsZero() || entry.ModTime.Before(a.Previous.Add(-clockSlack))) {
		return true, nil
	}
	if turn {
		// The other copy is looked at as seldom. Without it a lost file would have to
		// be fetched again.
		if _, err := m.db.Document(ctx, row.KSeFNumber); ctx.Err() != nil {
			return false, ctx.Err()
		} else if err != nil {
			m.Log.Error("the copy of an invoice in the database is damaged; restore a backup, or rebuild the database", "ksef_number", row.KSeFNumber, "err", err)
		}
	}
	return m.holds(row), nil
}

// holds tells whether the file of a row has the bytes that KSeF served.
func (m *Mirror) holds(row db.StoredFile) bool {
	content, err := m.invoices.Read(row.Path)
	return err == nil && sha256.Sum256(content) == row.SHA256
}

// restore writes files anew from the database and gives how many it wrote. What is
// in their place is kept beside. One that cannot be written is remembered, and does
// not keep the others from it.
func (m *Mirror) restore(ctx context.Context, rows []db.StoredFile) (restored int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	var files []tree.File
	var readable []db.StoredFile
	for _, row := range rows {
		document, err := m.db.Document(ctx, row.KSeFNumber)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			m.remember(row, err)
		default:
			files, readable = append(files, tree.File{Path: row.Path, Content: document}), append(readable, row)
		}
	}
	kept, err := m.invoices.Put(ctx, files...)
	if err == nil {
		for _, row := range readable {
			delete(m.unrestored, row.KSeFNumber)
		}
		restored = len(files)
	} else {
		// One by one, to know which: another program may have one of them open.
		for i, file := range files {
			beside, err := m.invoices.Put(ctx, file)
			kept = append(kept, beside...)
			switch {
			case ctx.Err() != nil, errors.Is(err, tree.ErrNotMounted):
				return restored, err
			case err != nil:
				m.remember(readable[i], err)
			default:
				restored++
				delete(m.unrestored, readable[i].KSeFNumber)
			}
		}
	}
	if restored > 0 {
		m.watchedTo = 0 // a folder that was made anew is not watched yet
		m.Log.Warn("files of the invoices folder were gone or changed; they are restored from the database, and changed ones are kept beside as ….kept-1.xml",
			"files", restored, "kept", len(kept), "first", rows[0].KSeFNumber)
		m.Log.Debug("restored files", "rows", len(rows), "kept", kept)
	}
	return restored, nil
}

// remember keeps a file that could not be restored for the next try, and says so
// once.
func (m *Mirror) remember(row db.StoredFile, err error) {
	if _, said := m.unrestored[row.KSeFNumber]; said || len(m.unrestored) >= restoreMost {
		return // the next audit finds those that are not remembered
	}
	m.unrestored[row.KSeFNumber] = row
	m.Log.Error("a file is gone or changed and cannot be restored now; it will be tried again", "ksef_number", row.KSeFNumber, "err", err)
}

// restoreAgain tries what could not be restored: the disk may have been full, or
// the file open in another program.
func (m *Mirror) restoreAgain(ctx context.Context) error {
	var rows []db.StoredFile
	for number, row := range m.unrestored {
		if m.holds(row) {
			delete(m.unrestored, number)
			continue
		}
		rows = append(rows, row)
	}
	return m.restoreAll(ctx, rows)
}

// restoreAll restores any number of files, few at a time.
func (m *Mirror) restoreAll(ctx context.Context, rows []db.StoredFile) error {
	for some := range slices.Chunk(rows, restoreCount) {
		if _, err := m.restore(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// Changed is signalled when files of the mirror may have been changed: call
// [Mirror.Heal] then. It is nil without a watcher.
func (m *Mirror) Changed() <-chan struct{} {
	if m.watch == nil {
		return nil
	}
	return m.watch.Changed()
}

// Heal looks at what the watcher has told of, and restores it as [Mirror.AuditDue]
// does. When a folder has gone, it is everything, as far as there is time.
func (m *Mirror) Heal(ctx context.Context, until time.Time) error {
	if m.watch == nil {
		return nil
	}
	if err := m.invoices.Usable(); err != nil {
		return err
	}
	names, vanished := m.watch.Take()
	var numbers []string
	for _, name := range names {
		if number := tree.NumberOf(name); number != "" {
			numbers = append(numbers, number)
		}
	}
	known, err := m.db.Known(ctx, numbers)
	if err != nil {
		return err
	}
	var wanting []db.StoredFile
	for number, k := range known {
		row := db.StoredFile{KSeFNumber: number, Path: k.Path}
		sum, err := base64.StdEncoding.DecodeString(k.Hash)
		if err != nil {
			return err
		}
		copy(row.SHA256[:], sum)
		if m.holds(row) {
			continue
		}
		switch m.healed[number]++; {
		case m.healed[number] <= healMost:
			wanting = append(wanting, row)
		case m.healed[number] == healMost+1:
			m.Log.Error("a file is changed again and again, by a program perhaps; it is left so until tomorrow", "ksef_number", number)
		}
	}
	if err := m.restoreAll(ctx, wanting); err != nil || !vanished {
		return err
	}
	m.vanished = true
	return m.AuditDue(ctx, until)
}

// watchedInvoices is of how many of the newest invoices the folders are watched:
// those in which people work. The others are left to the audits, as systems watch
// only so many folders, of all programs together.
const watchedInvoices = 2000

// watchFolders has the watcher watch the folders of the newest invoices.
func (m *Mirror) watchFolders(ctx context.Context) error {
	if m.watch == nil {
		return nil
	}
	newest, err := m.db.NewestID(ctx)
	if err != nil || newest == m.watchedTo {
		return err
	}
	paths, err := m.db.NewestPaths(ctx, watchedInvoices)
	if err != nil {
		return err
	}
	m.watch.Folders(paths)
	m.watchedTo = newest
	return nil
}
