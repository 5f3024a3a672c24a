package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/tree"
)

const (
	// backupTime is how a backup's name tells when it was made, in UTC. The order of
	// the names is that of the times; there is no colon, which Windows forbids.
	backupTime = "2006-01-02T150405Z"
	partial    = ".partial"
	// partialAge is after what time an unfinished backup is that of a crash.
	partialAge = 24 * time.Hour
	// backupRetry is how long after an attempt a nightly backup is tried again.
	backupRetry = time.Hour
	// spare is the space that a backup leaves free at least: the invoices that come
	// meanwhile need it more.
	spare = 64 << 20
)

// Backup is a copy of a mirror's database.
type Backup struct {
	Path     string
	Invoices int64
	Bytes    int64
	Removed  []string // paths of older backups of the mirror that made room for it
}

// BackUp writes a copy of the mirror's database into the folder o.BackUpTo, which
// must be there, checks all of it, and removes the oldest backups of this mirror
// there beyond o.BackUpKeep; 0 keeps all. It works beside whoever works on the
// mirror. Only the user of this process may read the backup. It holds every invoice,
// and no secret.
//
// A crash leaves an unfinished file that never has the name of a backup; the next
// day's backup removes it.
func BackUp(ctx context.Context, o Options) (_ Backup, err error) {
	o.setDefaults()
	d, err := db.OpenReadOnly(ctx, DatabasePath(o.Dir))
	if err != nil {
		return Backup{}, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return o.backUp(ctx, d)
}

// BackUpDue makes the backup of the night, if it is due and there is a folder for
// them. Each mirror has its own moment of the night. Until it succeeds it is tried
// again every hour.
func (m *Mirror) BackUpDue(ctx context.Context) error {
	if m.BackUpTo == "" || m.Now().Sub(m.backedUp) < backupRetry {
		return nil
	}
	last, err := LastBackup(m.BackUpTo, m.Dir, m.db.Mirror().ID, m.Now())
	if err == nil && !last.Before(m.night()) {
		return nil
	}
	m.backedUp = m.Now()
	if err != nil {
		return err
	}
	made, err := m.backUp(ctx, m.db)
	if err != nil {
		return err
	}
	m.Log.Info("backed up the database", "backup", made.Path, "invoices", made.Invoices, "bytes", made.Bytes, "removed", len(made.Removed))
	return nil
}

// LastBackup gives when the newest backup in a folder was made of the mirror that is
// in dir and has the given ID; zero: there is none.
func LastBackup(folder, dir, id string, now time.Time) (time.Time, error) {
	names, err := backups(folder, dir, id, "", now)
	if err != nil || len(names) == 0 {
		return time.Time{}, err
	}
	return time.Parse(backupTime, backupName(dir, id).FindStringSubmatch(names[len(names)-1])[1])
}

// backupPrefix is what the names of the backups of a mirror begin with. The first
// part of its ID is in it: mirrors of one name, of several machines, may share a
// folder.
func backupPrefix(dir, id string) string {
	short, _, _ := strings.Cut(id, "-")
	return filepath.Base(dir) + "-" + short + "-"
}

// backupName matches the names of the backups of a mirror, and their times.
func backupName(dir, id string) *regexp.Regexp {
	return regexp.MustCompile(`^` + regexp.QuoteMeta(backupPrefix(dir, id)) + `(\d{4}-\d\d-\d\dT\d{6}Z)\.db$`)
}

// backups gives the names of the backups of a mirror in a folder, oldest first; with
// the suffix of unfinished ones, those. One that is yet to be made was named before the
// clock was set back: until then it neither stands for another nor has one removed.
func backups(folder, dir, id, suffix string, now time.Time) ([]string, error) {
	entries, err := os.ReadDir(folder) // by name
	if err != nil {
		return nil, fmt.Errorf("folder for backups, which is never made, in case its volume is not mounted: %w", err)
	}
	ours, latest := backupName(dir, id), now.UTC().Format(backupTime)
	var names []string
	for _, entry := range entries {
		name, has := strings.CutSuffix(entry.Name(), suffix)
		if parts := ours.FindStringSubmatch(name); has && entry.Type().IsRegular() && parts != nil && parts[1] <= latest {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// backUp makes a backup of d.
func (o *Options) backUp(ctx context.Context, d *db.DB) (Backup, error) {
	made, err := o.writeBackup(ctx, d)
	if err != nil {
		return Backup{}, fmt.Errorf("back up into %s: %w", o.BackUpTo, err)
	}
	names, err := backups(o.BackUpTo, o.Dir, d.Mirror().ID, "", o.Now())
	if err != nil || o.BackUpKeep == 0 {
		return made, err
	}
	for _, name := range names[:max(0, len(names)-o.BackUpKeep)] {
		old := filepath.Join(o.BackUpTo, name)
		if err := os.Remove(old); err != nil {
			return made, fmt.Errorf("remove an old backup: %w", err)
		}
		made.Removed = append(made.Removed, old)
	}
	return made, nil
}

func (o *Options) writeBackup(ctx context.Context, d *db.DB) (_ Backup, err error) {
	if err := o.readyForBackup(ctx, d); err != nil {
		return Backup{}, err
	}
	before, err := d.Counts(ctx)
	if err != nil {
		return Backup{}, err
	}
	made := Backup{Path: filepath.Join(o.BackUpTo, backupPrefix(o.Dir, d.Mirror().ID)+o.Now().UTC().Format(backupTime)+".db")}
	unfinished := made.Path + partial
	// SQLite would make it for others to read too.
	file, err := os.OpenFile(unfinished, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // #nosec G304 -- the operator names the folder
	if err != nil {
		return Backup{}, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(unfinished) // or a later backup does
		}
	}()
	err = d.BackUp(ctx, unfinished)
	if err == nil {
		err = file.Sync()
	}
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr, file.Close()); err != nil {
		return Backup{}, err
	}
	made.Bytes = info.Size()
	want := o.mirrored(d.Mirror().ID)
	if _, made.Invoices, err = db.CheckBackup(ctx, unfinished, want); err != nil {
		return Backup{}, err
	}
	if made.Invoices < int64(before.Invoices) {
		return Backup{}, fmt.Errorf("the copy holds %d invoices, and the database held %d", made.Invoices, before.Invoices)
	}
	if err := os.Rename(unfinished, made.Path); err != nil {
		return Backup{}, err
	}
	return made, tree.SyncFolder(o.BackUpTo)
}

// readyForBackup checks the folder and its space, and removes what a crash left.
func (o *Options) readyForBackup(ctx context.Context, d *db.DB) error {
	to, err := filepath.Abs(o.BackUpTo)
	if err != nil {
		return err
	}
	database := filepath.Dir(DatabasePath(o.Dir))
	if inside, err := filepath.Rel(database, to); err == nil && filepath.IsLocal(inside) {
		return errors.New("choose another folder than the database's")
	}
	left, err := backups(to, o.Dir, d.Mirror().ID, partial, o.Now())
	if err != nil {
		return err
	}
	for _, name := range left {
		info, err := os.Lstat(filepath.Join(to, name))
		if err == nil && time.Since(info.ModTime()) > partialAge {
			err = os.Remove(filepath.Join(to, name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	size, err := d.Size(ctx)
	if err != nil {
		return err
	}
	return enoughSpace(to, size)
}

// enoughSpace reports an error when a folder's disk has no room for so many bytes.
func enoughSpace(folder string, bytes int64) error {
	free, err := tree.FreeSpace(folder)
	if err != nil {
		return err
	}
	if need := uint64(max(0, bytes)) + spare; free < need {
		return fmt.Errorf("its disk has %d MiB free and it needs %d: free some space", free>>20, need>>20)
	}
	return nil
}
