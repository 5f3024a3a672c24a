package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/audit"
	"ksefmirror/internal/tree"
)

// someone does to the files of the folder what people do, and gives what must be
// there afterwards beside the invoices, by path: what was in the place of an
// invoice under any name that is kept.
func someone(t *testing.T, w *world) (own map[string]string, changed []string) {
	t.Helper()
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	if len(names) < 20 {
		t.Fatalf("%d files", len(names))
	}
	at := func(i int) string { return filepath.Join(invoices, names[i]) }
	same, err := os.ReadFile(at(3))
	if err != nil {
		t.Fatal(err)
	}
	same = bytes.Replace(same, []byte("<"), []byte(" "), 1)
	for _, err := range []error{
		os.Remove(at(0)),
		os.WriteFile(at(1), []byte("<changed/>"), 0o600),
		os.WriteFile(filepath.Join(filepath.Dir(at(2)), "~save"), []byte("<saved/>"), 0o600),
		os.Rename(filepath.Join(filepath.Dir(at(2)), "~save"), at(2)),
		os.WriteFile(at(3), same, 0o600),
		os.Rename(at(4), filepath.Join(filepath.Dir(at(4)), "renamed.xml")),
		os.Mkdir(filepath.Join(invoices, "mine"), 0o750),
		os.Rename(at(5), filepath.Join(invoices, "mine", filepath.Base(at(5)))),
		os.Remove(at(6)),
		os.Mkdir(at(6), 0o750),
		os.WriteFile(filepath.Join(invoices, "mine", "sums.xlsx"), []byte("my own"), 0o600),
		os.WriteFile(at(7), []byte("<old/>"), 0o600),
		os.Chtimes(at(7), start.AddDate(-1, 0, 0), start.AddDate(-1, 0, 0)), // as a copy from elsewhere has it
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{filepath.Join("mine", "sums.xlsx"): "my own"}, []string{"<changed/>", "<saved/>", "<old/>", string(same)}
}

// mended checks that every invoice is in its place again, and that nothing that
// people made or changed is gone.
func mended(t *testing.T, w *world, own map[string]string, changed []string) {
	t.Helper()
	w.checkAfter(true) // what people put there has no row
	invoices := filepath.Join(w.dir, "invoices")
	for name, want := range own {
		if got, err := os.ReadFile(filepath.Join(invoices, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	kept := map[string]bool{}
	for _, name := range files(t, invoices) {
		if tree.IsKept(filepath.ToSlash(name)) {
			content, err := os.ReadFile(filepath.Join(invoices, name))
			if err != nil {
				t.Fatal(err)
			}
			kept[string(content)] = true
		}
	}
	for _, want := range changed {
		if !kept[want] {
			t.Errorf("what someone wrote is gone: %.40q", want)
		}
	}
	if len(kept) != len(changed) {
		t.Errorf("%d files were kept, want %d", len(kept), len(changed))
	}
}

// What people do to the files is found within a day and undone, and nothing that
// they wrote is lost, with nobody watching.
func TestAuditHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store(30)
	w.audit()
	own, changed := someone(t, w)
	before := files(t, filepath.Join(w.dir, "invoices"))
	w.now = w.now.Add(time.Hour)
	w.audit()
	if !slices.Equal(files(t, filepath.Join(w.dir, "invoices")), before) {
		t.Error("files were restored although no audit was due")
	}
	w.nextDay()
	w.audit()
	mended(t, w, own, changed)
	if !strings.Contains(w.log.String(), "they are restored") {
		t.Error("the log does not say so")
	}
	// It is quiet, and stays so.
	w.log.Reset()
	w.nextDay()
	w.audit()
	w.nextDay()
	w.audit()
	mended(t, w, own, changed)
	if strings.Contains(w.log.String(), "level=WARN") || strings.Contains(w.log.String(), "level=ERROR") {
		t.Errorf("log: %s", w.log)
	}
}

// The same, as soon as the watcher tells. The audit of the day is over by then.
func TestWatcherHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.watch()
	m := w.open()
	w.storeIn(m.db, m.invoices, 30)
	later := w.now.Add(time.Hour)
	if err := m.Due(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	heals := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			select {
			case <-m.Changed():
			case <-ctx.Done():
				t.Fatal("the watcher did not tell")
			}
			if err := m.Heal(t.Context(), later); err != nil {
				t.Fatal(err)
			}
			v, err := m.Verify(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Missing)+len(v.Changed) == 0 {
				return
			}
		}
	}
	own, changed := someone(t, w)
	heals()
	mended(t, w, own, changed)
	// A folder goes, and when it is back another of its files: it is watched again.
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	name := names[slices.IndexFunc(names, func(name string) bool { return tree.NumberOf(name) != "" && !strings.HasPrefix(name, "mine") })]
	if err := os.Rename(filepath.Join(invoices, filepath.Dir(name)), filepath.Join(invoices, "mine", "folder")); err != nil {
		t.Fatal(err)
	}
	heals()
	mended(t, w, own, changed)
	if err := os.Remove(filepath.Join(invoices, name)); err != nil {
		t.Fatal(err)
	}
	heals()
	mended(t, w, own, changed)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// A file that cannot be restored keeps none of the others from it, and is restored
// at the next look after the obstacle has gone.
func TestAuditTriesAgain(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t)
	w.store(20)
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	blocked, other := filepath.Dir(names[0]), names[len(names)-1]
	if filepath.Dir(other) == blocked {
		t.Fatal("all files are in one folder")
	}
	m := w.open()
	for _, err := range []error{
		os.Rename(filepath.Join(invoices, blocked), filepath.Join(w.dir, "aside")),
		os.WriteFile(filepath.Join(invoices, blocked), []byte("a file in the place of the folder"), 0o600),
		os.Remove(filepath.Join(invoices, other)),
		m.Due(t.Context(), w.now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(invoices, other)); err != nil || !strings.Contains(w.log.String(), "cannot be restored now") {
		t.Errorf("%v\n%s", err, w.log)
	}
	for _, err := range []error{os.Remove(filepath.Join(invoices, blocked)), m.Due(t.Context(), w.now)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.check()

	// The same trouble on another day is said again.
	w.nextDay()
	w.log.Reset()
	for _, err := range []error{
		os.RemoveAll(filepath.Join(invoices, blocked)),
		os.WriteFile(filepath.Join(invoices, blocked), []byte("a file in the place of the folder"), 0o600),
		m.Due(t.Context(), w.now.Add(time.Hour)),
		m.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(w.log.String(), "cannot be restored now") {
		t.Errorf("said once and never again:\n%s", w.log)
	}
}

// A folder that goes while an audit is past it is restored at once, not by the next
// audit.
func TestWatcherHealsBehindAnAudit(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t)
	w.store(1300)
	w.watch()
	m := w.open()
	if err := m.Due(t.Context(), w.now); err != nil { // the first thousand
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(w.dir, "invoices", "purchases", "2026", "10"), filepath.Join(w.dir, "aside")); err != nil {
		t.Fatal(err)
	}
	for len(files(t, filepath.Join(w.dir, "invoices"))) != 1300 {
		select {
		case <-m.Changed():
		case <-time.After(20 * time.Second):
			t.Fatal("it is left so until the next audit")
		}
		if err := m.Heal(t.Context(), w.now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	w.check()
}

// A program that changes a file again and again does not fill the disk.
func TestWatcherGivesUp(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t)
	w.store(3)
	w.watch()
	m := w.open()
	later := w.now.Add(time.Hour)
	invoices := filepath.Join(w.dir, "invoices")
	name := files(t, invoices)[0]
	there := func() (kept int) { return len(files(t, invoices)) - 3 }
	for i := range 4 {
		if err := os.WriteFile(filepath.Join(invoices, name), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
		// What it restored itself is told as well, sooner or later.
		for there() != i+1 && !strings.Contains(w.log.String(), "again and again") {
			<-m.Changed()
			if err := m.Heal(t.Context(), later); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := there(); got != 3 {
		t.Errorf("%d files were kept:\n%s", got, w.log)
	}
	w.nextDay()
	if err := m.Due(t.Context(), w.now); err != nil {
		t.Error(err)
	}
	if got := there(); got != 4 {
		t.Errorf("%d files are kept after the audit", got)
	}
	// A new day, a new try.
	if err := os.WriteFile(filepath.Join(invoices, name), []byte("4"), 0o600); err != nil {
		t.Fatal(err)
	}
	for there() != 5 {
		select {
		case <-m.Changed():
		case <-time.After(20 * time.Second):
			t.Fatal("left so the day after as well")
		}
		if err := m.Heal(t.Context(), w.now); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	w.check()
}

// Where the copy in the database is damaged too, there is nothing to restore the file
// from: that is said once, keeps no other file from it, and is tried again.
func TestAuditWithADamagedCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store(3)
	behind := func(statement string) {
		t.Helper()
		writer, err := sql.Open("sqlite", filepath.Join(w.dir, "database", "invoices.db")+"?_busy_timeout=10000")
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if _, err := writer.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	behind("UPDATE documents SET size = size - 1 WHERE invoice_id = 1")
	invoices := filepath.Join(w.dir, "invoices")
	for _, name := range files(t, invoices) {
		if err := os.Remove(filepath.Join(invoices, name)); err != nil {
			t.Fatal(err)
		}
	}
	m := w.open()
	for range 2 {
		if err := m.Due(t.Context(), w.now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if got, said := len(files(t, invoices)), strings.Count(w.log.String(), "cannot be restored now"); got != 2 || said != 1 {
			t.Errorf("%d files are restored, said %d times", got, said)
		}
	}
	behind("UPDATE documents SET size = size + 1 WHERE invoice_id = 1")
	if err := errors.Join(m.Due(t.Context(), w.now.Add(time.Hour)), m.Close()); err != nil {
		t.Fatal(err)
	}
	w.check()
}

// What keeps its size and says that nobody wrote it, is found within a month.
func TestAuditReadsEveryFileOnceAMonth(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t)
	w.store(30)
	invoices := filepath.Join(w.dir, "invoices")
	for _, name := range files(t, invoices) {
		path := filepath.Join(invoices, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)/2]++
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, start.AddDate(-1, 0, 0), start.AddDate(-1, 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() (n int) {
		for _, name := range files(t, invoices) {
			if tree.IsKept(filepath.ToSlash(name)) {
				n++
			}
		}
		return n
	}
	for day := 1; day <= 30; day++ {
		w.audit()
		w.nextDay()
		if got := kept(); got != day {
			t.Fatalf("after %d days %d files were read", day, got)
		}
	}
	w.check()
}

// A folder whose marker is gone is a volume that is not mounted: nothing is
// written, by audits, by what the watcher tells, by anything. When it is back, so
// is all.
func TestAuditLeavesAnUnmountedFolderAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store(10)
	invoices := filepath.Join(w.dir, "invoices")
	m := w.open()
	w.nextDay()
	if err := os.Rename(invoices, invoices+".away"); err != nil {
		t.Fatal(err)
	}
	for _, empty := range []bool{false, true} { // the mount point is not there, or an empty folder
		if empty {
			if err := os.Mkdir(invoices, 0o750); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Due(t.Context(), w.now.Add(time.Hour)); !errors.Is(err, tree.ErrNotMounted) {
			t.Errorf("empty %v: %v", empty, err)
		}
	}
	if left, err := os.ReadDir(invoices); err != nil || len(left) > 0 {
		t.Errorf("written to the mount point: %v, %v", left, err)
	}
	if err := os.Remove(invoices); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(invoices+".away", invoices); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Due(t.Context(), w.now.Add(time.Hour)), m.Close()); err != nil {
		t.Error(err)
	}
	w.check()
}

// An audit goes on where the last process was, and looks at no more than is due.
// When much is gone, it restores a part of it a day and asks for someone to look.
func TestAuditInPieces(t *testing.T) {
	slow(t)
	t.Parallel()
	const all, atOnce, most = 1300, 1000, 1000
	w := newWorld(t)
	w.store(all)
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	for _, name := range names {
		if err := os.Remove(filepath.Join(invoices, name)); err != nil {
			t.Fatal(err)
		}
	}
	there := func() int { return len(files(t, invoices)) }
	w.audit()
	if got := there(); got != atOnce {
		t.Errorf("the first piece restored %d files", got)
	}
	w.now = w.now.Add(13 * time.Hour)
	w.audit()
	if got := there(); got != most || !strings.Contains(w.log.String(), "for someone to look at") {
		t.Errorf("the first audit restored %d files:\n%s", got, w.log)
	}
	w.nextDay()
	w.audit()
	if err := os.Remove(filepath.Join(invoices, files(t, invoices)[0])); err != nil { // behind the audit
		t.Fatal(err)
	}
	w.now = w.now.Add(13 * time.Hour)
	w.audit()
	if got := there(); got != all-1 {
		t.Errorf("the second audit left %d files, and looked again at those behind it", got)
	}
	w.nextDay()
	w.audit()
	w.check()
}

// What has no row is found by the number that ends its name, wherever it is.
func TestUnnamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store(3)
	m := w.open()
	const number = "7123306158-20261105-FFFFFFFFFFFF-AF"
	for _, path := range []string{number + ".xml", "mine/copy_" + number + ".xml", "mine/notes.txt"} {
		if _, err := m.invoices.Put(t.Context(), tree.File{Path: path, Content: []byte("<Faktura/>")}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := audit.Unnamed(t.Context(), m.db, m.invoices)
	slices.Sort(got[number])
	if err != nil || len(got) != 1 || !slices.Equal(got[number], []string{number + ".xml", "mine/copy_" + number + ".xml"}) {
		t.Errorf("%v, %v", got, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
