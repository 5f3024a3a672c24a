package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// invoices gives the files of the mirror's folder tree.
func (p *place) invoices() (paths []string) {
	p.t.Helper()
	err := filepath.WalkDir(filepath.Join(p.dir, "data", "acme", "invoices"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".xml") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return paths
}

// auditIsDue has the daemon's next audit of the files due with its next cycle, as if
// the last had been a day earlier.
func (p *place) auditIsDue() {
	p.t.Helper()
	pool, err := sql.Open("sqlite", ksefsync.DatabasePath(filepath.Join(p.dir, "data", "acme"))+"?_busy_timeout=10000")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = pool.Close() }() // it is committed
	before := time.Now().UTC().AddDate(0, 0, -1).Format("2006-01-02T15:04:05.0000000Z")
	p.eventually("the end of the last audit", func() bool {
		result, err := pool.ExecContext(p.t.Context(), "UPDATE audit SET started_at = ? WHERE finished_at IS NOT NULL", before)
		if err != nil {
			p.t.Fatal(err)
		}
		n, err := result.RowsAffected()
		if err != nil {
			p.t.Fatal(err)
		}
		return n == 1
	})
}

// What people do to the files while the daemon runs is undone within seconds, and
// what they wrote is kept; with the watcher off, by the next audit.
func TestDaemonHealsTheFolder(t *testing.T) {
	if testing.Short() {
		t.Skip("left out of the short run: it waits for people to finish")
	}
	p := newRestless(t, ksefsim.Options{})
	p.generate(10)
	p.want(0, nil, "sync")
	d := p.daemon()
	d.until("cycle done", "authorized")
	d.until("cycle done", "authorized") // the first audit is over
	paths := p.invoices()
	for _, err := range []error{
		os.WriteFile(paths[0], []byte("<changed/>"), 0o600),
		os.Remove(paths[1]),
		os.Rename(paths[2], paths[2]+".bak"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv(unwatched) != "" {
		p.auditIsDue()
	}
	for found := 0; found < 3; {
		d.until("they are restored from the database")
		found = 0
		for _, path := range paths[:3] {
			if content, err := os.ReadFile(path); err == nil && string(content) != "<changed/>" {
				found++
			}
		}
	}
	d.stop()
	p.want(3, []string{"10 invoices checked, 0 missing, 0 changed", "left alone"}, "verify") // what was renamed is not ours
	kept := strings.TrimSuffix(paths[0], ".xml") + ".kept-1.xml"
	if content, err := os.ReadFile(kept); err != nil || string(content) != "<changed/>" {
		t.Errorf("%q, %v", content, err)
	}
}

// The drill of every administrator: back up beside the daemon, lose the database,
// restore; lose the folder, rebuild it; with no backup, rebuild the database.
func TestBackupRestoreRebuild(t *testing.T) {
	p := newPlace(t)
	p.generate(10)
	p.want(1, []string{"nothing to back up"}, "backup")
	p.want(0, nil, "sync")
	elsewhere := filepath.Join(p.dir, "other disk")
	p.want(1, []string{"in case its volume is not mounted"}, "backup", "--to", elsewhere)
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	p.want(0, []string{"acme: 10 invoices", "checked: " + elsewhere}, "backup", "--to", elsewhere)
	made, err := filepath.Glob(filepath.Join(elsewhere, "acme-*.db"))
	if err != nil || len(made) != 1 {
		t.Fatalf("%v, %v", made, err)
	}
	p.want(0, []string{filepath.Join("acme", "backups")}, "backup", "acme")

	p.want(2, []string{"the name of a mirror and the file"}, "restore", "acme")
	p.want(2, []string{"no mirror"}, "restore", "other", made[0])
	p.want(1, []string{"not an SQLite database"}, "restore", "acme", filepath.Join(p.dir, "config.toml"))
	p.want(0, []string{"restored 10 invoices", "database.kept-1", "KSeF is asked from"}, "restore", "acme", made[0])
	p.want(0, []string{"10 invoices checked, 0 missing, 0 changed"}, "verify")
	p.want(5, []string{"it can go on from"}, "sync")

	if err := os.RemoveAll(filepath.Join(p.dir, "data", "acme", "invoices")); err != nil {
		t.Fatal(err)
	}
	p.want(1, []string{"marker file"}, "verify")
	p.want(0, []string{"rebuild acme --tree"}, "restore", "acme", made[0])
	p.want(2, []string{"either --database or --tree"}, "rebuild", "acme")
	p.want(0, []string{"10 restored"}, "rebuild", "acme", "--tree")
	p.want(0, []string{"10 invoices checked, 0 missing, 0 changed"}, "verify")

	p.want(0, []string{"10 invoices that it takes over", "database.kept-3"}, "rebuild", "acme", "--database")
	p.want(5, []string{"it can go on from"}, "sync")
	entries, err := os.ReadDir(filepath.Join(p.dir, "data", "acme"))
	if err != nil || !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "database.kept-1" }) {
		t.Errorf("%v, %v", entries, err)
	}
}
