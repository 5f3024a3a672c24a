package audit

import (
	"context"
	"encoding/base64"
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
	// healMost is how often a file is restored between two audits when the watcher
	// tells of it: a program that changes it each time would fill the disk with what
	// is kept beside.
	healMost = 3
)

// Due looks at the next of the mirror's files, and restores those that are
// gone or changed from the database, where a changed one is kept beside. Every
// file is looked at once a day and read once a month, spread over the day, until
// the given time at most each call. How far that is, is kept in the database.
//
// What cannot be restored now is tried again by the next call, and is no error. The
// error is [tree.ErrNotMounted] when the folder's marker is missing: nothing is
// taken for gone then.
func (au *Auditor) Due(ctx context.Context, until time.Time) error {
	// Also when nothing is due: a folder that was unmounted or renamed in a quiet hour
	// should be noticed within one cycle.
	if err := au.invoices.Usable(); err != nil {
		return err
	}
	if err := au.restoreAgain(ctx); err != nil {
		return err
	}
	if err := au.auditNext(ctx, until); err != nil {
		return err
	}
	return au.watchFolders(ctx)
}

// auditNext goes on with the audit that is due, if one is.
func (au *Auditor) auditNext(ctx context.Context, until time.Time) error {
	a, err := au.db.Audit(ctx)
	if err != nil {
		return err
	}
	over := a.Pass == 0 || !a.Finished.IsZero()
	another := db.Audit{Pass: a.Pass + 1, Previous: a.Started, Started: au.now()}
	switch {
	case over && a.Started.Before(au.night()):
		a = another
		clear(au.healed)
	case over && au.vanished:
		another.Restored = a.Restored // the bound is of a day
		a = another
	case over:
		return nil
	case au.vanished:
		a.Reached = 0
	}
	au.hurry = au.hurry || au.vanished
	au.vanished = false
	if err := au.audit(ctx, &a, until); err != nil {
		return err
	}
	au.hurry = au.hurry && a.Finished.IsZero()
	return nil
}

// audit goes on with a, as far as is due, and records how far it came.
func (au *Auditor) audit(ctx context.Context, a *db.Audit, until time.Time) error {
	newest, err := au.db.NewestID(ctx)
	if err != nil {
		return err
	}
	// IDs are given in order and hardly ever skipped, so that they do for a count.
	due := newest
	if part := float64(au.now().Sub(a.Started)) / float64(auditSpan); part < 1 && !au.hurry {
		due = max(a.Reached+auditAtOnce, int64(part*float64(newest)))
	}
	most := max(restoreMost, newest/restoreShare)
	var wanting []db.StoredFile
	size, looked, left := int64(0), 0, false
	for row, err := range au.db.FilesAfter(ctx, a.Reached) {
		if err != nil {
			return err
		}
		if row.ID > due || looked >= auditAtOnce && !au.now().Before(until) {
			left = true
			break
		}
		if looked++; looked%auditRecorded == 0 {
			if err := au.restoreAudited(ctx, a, wanting); err != nil {
				return err
			}
			wanting, size = nil, 0
		}
		intact, err := au.intact(ctx, row, a)
		if err != nil {
			return err
		}
		if !intact && a.Restored+int64(len(wanting)) >= most {
			au.tooMany(a)
		} else if !intact {
			wanting, size = append(wanting, row), size+row.Size
		}
		if len(wanting) >= restoreCount || size >= restoreBytes {
			if err := au.restoreAudited(ctx, a, wanting); err != nil {
				return err
			}
			wanting, size = nil, 0
		}
		a.Reached = row.ID
	}
	if !left {
		a.Finished = au.now()
		au.log.Debug("audit of the files done", "pass", a.Pass, "restored", a.Restored)
	}
	return au.restoreAudited(ctx, a, wanting)
}

// tooMany says, once an audit, that it restores no more.
func (au *Auditor) tooMany(a *db.Audit) {
	if au.saidTooMany != a.Pass {
		au.saidTooMany = a.Pass
		au.log.Error("so many files are gone or changed that the rest is left for someone to look at; "+
			"if nothing is wrong with the disk, ksefmirror verify --repair restores them at once, and else a part each day", "restored", a.Restored)
	}
}

// restoreAudited restores what an audit found, then records how far it is: a crash
// in between has the same files looked at again, and found in order.
func (au *Auditor) restoreAudited(ctx context.Context, a *db.Audit, rows []db.StoredFile) error {
	restored, err := au.restore(ctx, rows)
	if err != nil {
		return err
	}
	a.Restored += int64(restored)
	return au.db.RecordAudit(ctx, *a)
}

// intact tells whether the file of a row is as it should be, as far as the audit
// looks: it is read when its turn has come, or when someone has written it since
// the audit before; else it is there with its size.
func (au *Auditor) intact(ctx context.Context, row db.StoredFile, a *db.Audit) (bool, error) {
	entry, err := au.invoices.Stat(row.Path)
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
		if _, err := au.db.Document(ctx, row.KSeFNumber); ctx.Err() != nil {
			return false, ctx.Err()
		} else if err != nil {
			au.log.Error("the copy of an invoice in the database is damaged; restore a backup, or rebuild the database", "ksef_number", row.KSeFNumber, "err", err)
		}
	}
	return au.holds(row), nil
}

// Heal looks at what the watcher has told of, and restores it as [Auditor.Due]
// does. When a folder has gone, it is everything, as far as there is time.
func (au *Auditor) Heal(ctx context.Context, until time.Time) error {
	if au.watch == nil {
		return nil
	}
	if err := au.invoices.Usable(); err != nil {
		return err
	}
	names, vanished := au.watch.Take()
	var numbers []string
	for _, name := range names {
		if number := tree.NumberOf(name); number != "" {
			numbers = append(numbers, number)
		}
	}
	known, err := au.db.Known(ctx, numbers)
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
		if au.holds(row) {
			continue
		}
		switch au.healed[number]++; {
		case au.healed[number] <= healMost:
			wanting = append(wanting, row)
		case au.healed[number] == healMost+1:
			au.log.Error("a file is changed again and again, by a program perhaps; it is left so until tomorrow", "ksef_number", number)
		}
	}
	if err := au.restoreAll(ctx, wanting); err != nil || !vanished {
		return err
	}
	au.vanished = true
	return au.Due(ctx, until)
}
