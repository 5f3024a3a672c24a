package sync_test

import (
	"database/sql"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// backUp makes a backup into a folder of its own, unless the options name one.
func (w *world) backUp() ksefsync.Backup {
	w.tb.Helper()
	o := w.options
	if o.BackUpTo == "" {
		o.BackUpTo = w.tb.TempDir()
	}
	made, err := ksefsync.BackUp(w.tb.Context(), o)
	if err != nil {
		w.tb.Fatal(err)
	}
	return made
}

// care does what the daemon does each time: a cycle, an audit and what is due of
// reconciling.
func (w *world) care() {
	w.tb.Helper()
	m := w.open()
	until := w.clock.Now().Add(time.Hour)
	_, err := m.Cycle(w.tb.Context())
	if err == nil {
		err = m.AuditDue(w.tb.Context(), until)
	}
	if err == nil {
		_, err = m.ReconcileDue(w.tb.Context(), until)
	}
	if err := errors.Join(err, m.Close()); err != nil {
		w.tb.Fatal(err)
	}
}

// downloads is how many invoices were downloaded, in whichever way.
func (w *world) downloads() (n int) {
	for _, times := range w.sim.Stats().Downloads {
		n += times
	}
	return n
}

// A backup, more invoices, the disaster, the restore: after the next cycle the
// mirror is as one that was never interrupted, nothing came twice, and KSeF was left
// alone until it had forgotten what the backup does not know of.
func TestRestoreGoesOn(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(60, 24*time.Hour, 91)...)
	w.mustCycle()
	made := w.backUp()
	if made.Invoices != 60 || made.Bytes == 0 {
		t.Errorf("%+v", made)
	}
	if info, err := os.Stat(made.Path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// What comes after it, one of them with a date from before it.
	late := w.generate(1, time.Hour, 90)
	w.clock.advance(24 * time.Hour)
	w.add(append(late, w.fresh(14, 92)...)...)
	w.clock.advance(10 * time.Minute)
	w.care()
	w.check()
	w.complete()
	names := files(t, filepath.Join(w.dir, "invoices"))
	downloaded := w.downloads()

	// KSeF asks to be left alone for longer than an hour, which the backup does not
	// know of either.
	w.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 1, "7200"))
	m := w.open()
	if _, err := m.Cycle(t.Context()); asBudget(err) == nil {
		t.Errorf("KSeF's block: %v", err)
	}
	if _, err := ksefsync.Restore(t.Context(), w.options, made.Path); !errors.Is(err, ksefsync.ErrLocked) {
		t.Errorf("restored while the mirror was in use: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	done, err := ksefsync.Restore(t.Context(), w.options, made.Path)
	if err != nil {
		t.Fatal(err)
	}
	if done.Invoices != 60 || done.NoTree || filepath.Base(done.Kept) != "database.kept-1" {
		t.Errorf("%+v", done)
	}
	if _, n, err := db.CheckBackup(t.Context(), filepath.Join(done.Kept, "invoices.db"), db.Mirror{Environment: "test", ContextType: company.Type, ContextValue: company.Value}); err != nil || n != 75 {
		t.Errorf("the database that was kept: %d invoices, %v", n, err)
	}
	asked := w.sim.Stats()
	if _, err := w.cycle(); asBudget(err) == nil {
		t.Errorf("requests went out although those of the last hour are forgotten: %v", err)
	}
	if after := w.sim.Stats(); !maps.Equal(after.ByGroup, asked.ByGroup) {
		t.Errorf("requests went out: %v, then %v", asked.ByGroup, after.ByGroup)
	}
	w.clock.advance(time.Hour)
	asked = w.sim.Stats()
	if _, err := w.cycle(); asBudget(err) == nil {
		t.Errorf("KSeF's block is forgotten: %v", err)
	}
	if after := w.sim.Stats(); after.ByGroup[ksef.GroupMetadata] != asked.ByGroup[ksef.GroupMetadata] {
		t.Error("KSeF was asked although it wants to be left alone")
	}
	w.clock.advance(time.Hour)
	w.mustCycle()
	w.complete()
	if got := files(t, filepath.Join(w.dir, "invoices")); !slices.Equal(got, names) {
		t.Errorf("%d files, before it %d", len(got), len(names))
	}
	if again := w.downloads() - downloaded; again != 0 {
		t.Errorf("%d invoices were downloaded again", again)
	}
}

// Whatever is wrong with a backup, the database that is there stays.
func TestRestoreRefuses(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(10, time.Hour, 93)...)
	w.mustCycle()
	backup := w.backUp().Path
	other := w.options
	other.Environment = "demo"
	company := w.options
	company.Context.Value = "7123306158"
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	content, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, content[:len(content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := newWorld(t, ksefsim.Options{})
	elsewhere.add(elsewhere.generate(5, time.Hour, 94)...)
	elsewhere.mustCycle()
	for name, c := range map[string]struct {
		options ksefsync.Options
		backup  string
	}{
		"environment": {other, backup}, "context": {company, backup}, "damaged": {w.options, damaged},
		"folder": {w.options, elsewhere.backUp().Path}, "missing": {w.options, damaged + "x"},
	} {
		if done, err := ksefsync.Restore(t.Context(), c.options, c.backup); err == nil || done.Kept != "" {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
	}
	w.check()
	if kept, err := filepath.Glob(filepath.Join(w.dir, "database?*")); err != nil || len(kept) > 0 {
		t.Errorf("left: %v, %v", kept, err)
	}
}

// The nights: one backup each, as many are kept as told, nobody else's file is
// touched, a crash's remainder goes, and what is wrong is said and tried again.
func TestNightlyBackups(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(5, time.Hour, 95)...)
	w.mustCycle()
	folder := filepath.Join(t.TempDir(), "backups")
	w.options.BackUpTo, w.options.BackUpKeep = folder, 3
	m := w.open()
	if err := m.BackUpDue(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if err := os.Mkdir(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := m.BackUpDue(t.Context()); err != nil {
		t.Error(err)
	}
	if made := files(t, folder); len(made) != 0 {
		t.Errorf("tried again at once: %v", made)
	}
	w.clock.advance(time.Hour)
	foreign := []string{"mirror-12345678-2020-01-01T010203Z.db", "invoices.db", "notes.txt"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("not ours"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for night := 1; night <= 5; night++ {
		for range 3 { // a cycle comes and goes
			if err := m.BackUpDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.clock.advance(2 * time.Hour)
		}
		w.clock.advance(18 * time.Hour)
		if made := files(t, folder); len(made) != min(night, 3)+len(foreign) {
			t.Fatalf("after night %d: %v", night, made)
		}
		if night == 1 {
			made := files(t, folder)
			ours := made[slices.IndexFunc(made, func(name string) bool { return !slices.Contains(foreign, name) })]
			for name, age := range map[string]time.Duration{"2026-01-01T010203Z": 48 * time.Hour, "2026-01-02T010203Z": time.Hour} {
				partial := filepath.Join(folder, ours[:len(ours)-len("2026-01-01T010203Z.db")]+name+".db.partial")
				if err := os.WriteFile(partial, []byte("of a crash"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(partial, time.Now(), time.Now().Add(-age)); err != nil {
					t.Fatal(err)
				}
			}
			foreign = append(foreign, ours[:len(ours)-len("2026-01-01T010203Z.db")]+"2026-01-02T010203Z.db.partial") // perhaps not of a crash
		}
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	w.options.BackUpTo = filepath.Join(w.dir, "database")
	if _, err := ksefsync.BackUp(t.Context(), w.options); err == nil || !strings.Contains(err.Error(), "another folder") {
		t.Errorf("into the folder of the database: %v", err)
	}
}

// A backup that was named by a clock that was far ahead puts off none of the next, and
// makes room for itself at the cost of none.
func TestNightlyBackupsAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(5, time.Hour, 95)...)
	w.mustCycle()
	folder := t.TempDir()
	w.options.BackUpTo, w.options.BackUpKeep = folder, 1
	backUp := func() (id string) {
		t.Helper()
		m := w.open()
		id = m.Database().Mirror().ID
		if err := errors.Join(m.BackUpDue(t.Context()), m.Close()); err != nil {
			t.Fatal(err)
		}
		return id
	}
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	w.clock.advance(year)
	backUp()
	w.clock.advance(-year)
	for range 3 {
		last, err := ksefsync.LastBackup(folder, w.dir, backUp(), w.clock.Now())
		if age := w.clock.Now().Sub(last); err != nil || age < 0 || age > time.Minute {
			t.Errorf("the last backup is of %s, %v; there are %v", last, err, files(t, folder))
		}
		w.clock.advance(day)
	}
	if made := files(t, folder); len(made) != 2 {
		t.Errorf("there are %v, want the one of next year and the last", made)
	}
}

// The database is damaged beyond opening. It is rebuilt: the old one is kept, and
// every file that is right is taken over wherever people have put it, also when the
// layout has changed since.
func TestRebuildDatabase(t *testing.T) {
	slow(t)
	t.Parallel()
	const invoices = 40
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(invoices, 250*24*time.Hour, 96)...)
	w.mustCycle()
	folder := filepath.Join(w.dir, "invoices")
	names := files(t, folder)
	for _, err := range []error{
		os.Mkdir(filepath.Join(folder, "mine"), 0o750),
		os.Rename(filepath.Join(folder, names[0]), filepath.Join(folder, "mine", filepath.Base(names[0]))),
		os.Remove(filepath.Join(folder, names[1])),
		os.WriteFile(filepath.Join(folder, names[2]), []byte("<changed/>"), 0o600),
		os.WriteFile(ksefsync.DatabasePath(w.dir), []byte(strings.Repeat("damaged ", 10_000)), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	layout, err := tree.ParseLayout("{year}/{invoice}")
	if err != nil {
		t.Fatal(err)
	}
	w.options.Layout = layout
	if _, err := ksefsync.Open(t.Context(), w.options); err == nil {
		t.Fatal("a damaged database was opened")
	}
	downloaded := w.downloads()
	done, err := ksefsync.RebuildDatabase(t.Context(), w.options)
	if err != nil {
		t.Fatal(err)
	}
	if done.Adopting != invoices-1 || filepath.Base(done.Kept) != "database.kept-1" {
		t.Errorf("%+v", done)
	}
	if content, err := os.ReadFile(filepath.Join(done.Kept, "invoices.db")); err != nil || !strings.HasPrefix(string(content), "damaged ") {
		t.Errorf("the damaged database was not kept: %v", err)
	}
	w.clock.advance(time.Hour)
	w.care()
	w.checkAfter(true) // the changed file is left alone, and has no row
	w.complete()
	if again := w.downloads() - downloaded; again != 2 {
		t.Errorf("%d invoices were downloaded again, 2 were missing", again)
	}
	if got := files(t, folder); !slices.Contains(got, names[2]) || len(got) != invoices+1 {
		t.Errorf("%d files", len(got))
	}
	d, err := db.OpenReadOnly(t.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if adopts, err := d.Adopts(t.Context()); err != nil || adopts {
		t.Errorf("it still takes over: %v, %v", adopts, err)
	}
}

// The folder of invoices is lost with its marker. Only a person can say so.
func TestRebuildTree(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(30, time.Hour, 97)...)
	w.mustCycle()
	if err := os.RemoveAll(filepath.Join(w.dir, "invoices")); err != nil {
		t.Fatal(err)
	}
	if _, err := ksefsync.Open(t.Context(), w.options); !errors.Is(err, tree.ErrNotMounted) {
		t.Errorf("opened without its folder: %v", err)
	}
	if _, err := ksefsync.RebuildDatabase(t.Context(), w.options); !errors.Is(err, tree.ErrNotMounted) {
		t.Errorf("rebuilt from nothing: %v", err)
	}
	asked := w.sim.Stats().ByGroup
	v, err := ksefsync.RebuildTree(t.Context(), w.options)
	if err != nil || len(v.Repaired) != 30 || !v.Whole() {
		t.Errorf("%+v, %v", v, err)
	}
	if after := w.sim.Stats().ByGroup; !maps.Equal(asked, after) {
		t.Errorf("KSeF was asked: %v, then %v", asked, after)
	}
	w.check()
	w.mustCycle()
}

// The folder of the mirror goes while the daemon has it open, and comes back: no
// second mirror is begun in its place.
func TestFolderRenamedUnderTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(10, time.Hour, 98)...)
	w.mustCycle()
	m := w.open()
	w.options.Existing = true // as the daemon sets it once it has had the mirror open
	if err := os.Rename(w.dir, w.dir+"-2025"); err != nil {
		t.Skipf("this system does not rename a folder in use: %v", err)
	}
	if err := m.AuditDue(t.Context(), w.clock.Now()); !errors.Is(err, tree.ErrNotMounted) {
		t.Errorf("a cycle later: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.cycle(); err == nil || !strings.Contains(err.Error(), "mount its volume or move it back") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(w.dir); err == nil {
		t.Error("another mirror was begun in its place")
	}
	if err := os.Rename(w.dir+"-2025", w.dir); err != nil {
		t.Fatal(err)
	}
	w.add(w.fresh(5, 99)...)
	w.clock.advance(10 * time.Minute)
	w.mustCycle()
	w.complete()
}

// Another program holds a transaction open for half an hour of cycles: they go on
// beside it, it sees what it saw at its beginning, and the log shrinks once it ends.
func TestReaderHoldsATransaction(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(20, time.Hour, 100)...)
	w.mustCycle()
	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	tx, err := reader.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := tx.QueryRowContext(t.Context(), "SELECT count(*) FROM v_invoices").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 20 {
		t.Fatalf("%d rows", n)
	}
	m := w.open()
	for i := range 3 {
		w.clock.advance(15 * time.Minute)
		w.add(w.fresh(10, uint64(101+i))...)
		w.clock.advance(3 * time.Minute)
		if _, err := m.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.AuditDue(t.Context(), w.clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 20 {
			t.Errorf("the reader sees %d rows in one transaction", n)
		}
	}
	if made := w.backUp(); made.Invoices != 50 {
		t.Errorf("the backup beside it holds %d invoices", made.Invoices)
	}
	if err := errors.Join(tx.Rollback(), m.Close()); err != nil {
		t.Error(err)
	}
	w.check()
	w.complete()
	info, err := os.Stat(ksefsync.DatabasePath(w.dir) + "-wal")
	if err != nil || info.Size() != 0 {
		t.Errorf("the log: %v, %v", info, err)
	}
}
