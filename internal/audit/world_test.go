package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/audit"
	"ksefmirror/internal/tree"
)

var start = time.Date(2026, time.November, 20, 12, 0, 0, 0, time.UTC)

// world is a mirror's database and folder, and the time in it.
type world struct {
	tb      testing.TB
	dir     string
	now     time.Time
	log     *bytes.Buffer
	logger  *slog.Logger // to log
	watcher *tree.Watcher
	stored  map[string][]byte // by path
}

const folderID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{tb: t, dir: t.TempDir(), now: start, log: &bytes.Buffer{}, stored: map[string][]byte{}}
	w.logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := tree.Create(filepath.Join(w.dir, "invoices"), folderID); err != nil {
		t.Fatal(err)
	}
	return w
}

// night is when the last night began: at two o'clock.
func (w *world) night() time.Time {
	return w.now.Add(-2 * time.Hour).Truncate(24 * time.Hour).Add(2 * time.Hour)
}

// opened is what a process has open of a mirror.
type opened struct {
	*audit.Auditor
	db       *db.DB
	invoices *tree.Tree
}

// open opens the mirror as a new process would.
func (w *world) open() opened {
	w.tb.Helper()
	mirror := db.Mirror{Environment: "test", ContextType: "nip", ContextValue: "5265877635", ID: folderID}
	d, err := db.Open(w.tb.Context(), filepath.Join(w.dir, "database", "invoices.db"), mirror, w.logger)
	if err != nil {
		w.tb.Fatal(err)
	}
	invoices, err := tree.Open(filepath.Join(w.dir, "invoices"), folderID)
	if err != nil {
		w.tb.Fatal(err)
	}
	o := opened{audit.New(d, invoices, w.logger, func() time.Time { return w.now }, w.night), d, invoices}
	if w.watcher != nil {
		if err := o.Watch(w.tb.Context(), w.watcher); err != nil {
			w.tb.Fatal(err)
		}
	}
	return o
}

func (o opened) Close() error {
	o.Auditor.Close()
	return errors.Join(o.invoices.Close(), o.db.Close())
}

// store stores so many invoices, as cycles do.
func (w *world) store(count int) {
	w.tb.Helper()
	o := w.open()
	w.storeIn(o.db, o.invoices, count)
	if err := o.Close(); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) storeIn(d *db.DB, invoices *tree.Tree, count int) {
	w.tb.Helper()
	batch := db.Batch{Role: "buyer"}
	var files []tree.File
	for n := range count {
		number := fmt.Sprintf("7123306158-20261105-%012X-AF", n)
		path := fmt.Sprintf("purchases/2026/%02d/2026-11-05_Żaba_FV-%d_%s.xml", 10+n%2, n, number)
		xml := fmt.Appendf(nil, "<Faktura>%d</Faktura>", n)
		sum := sha256.Sum256(xml)
		w.stored[path] = xml
		files = append(files, tree.File{Path: path, Content: xml})
		batch.Invoices = append(batch.Invoices, db.Invoice{
			KSeFNumber: number, APIType: "Vat", StoredAt: start, ReceivedDate: "2026-11-05", Hash: base64.StdEncoding.EncodeToString(sum[:]),
			MetadataJSON: []byte("{}"), SellerNIP: "7123306158", IssueDate: "2026-11-05", Currency: "PLN", ParseStatus: "unsupported",
			Path: path, XML: xml, Role: "buyer",
		})
	}
	if _, err := invoices.Put(w.tb.Context(), files...); err != nil {
		w.tb.Fatal(err)
	}
	if err := d.Commit(w.tb.Context(), batch); err != nil {
		w.tb.Fatal(err)
	}
}

// audit opens the mirror as a new process would and lets it look at its files,
// without end.
func (w *world) audit() {
	w.tb.Helper()
	m := w.open()
	if err := errors.Join(m.Due(w.tb.Context(), w.now.Add(time.Hour)), m.Close()); err != nil {
		w.tb.Fatal(err)
	}
}

// nextDay is a day later, when the audits begin anew.
func (w *world) nextDay() { w.now = w.now.Add(24 * time.Hour) }

// watch has a watcher tell of changes, soon after them.
func (w *world) watch() {
	w.tb.Helper()
	watcher, err := tree.NewWatcher(50*time.Millisecond, w.logger)
	if err != nil {
		w.tb.Skipf("this system watches no folders: %v", err)
	}
	w.tb.Cleanup(func() {
		if err := watcher.Close(); err != nil {
			w.tb.Error(err)
		}
	})
	w.watcher = watcher
}

// check holds the folder and the database against what was stored: every invoice has
// its file and its row with the same bytes, and nothing else is there but what was
// kept.
func (w *world) check() { w.tb.Helper(); w.checkAfter(false) }

// checkAfter is check; with others there may be files of people's own.
func (w *world) checkAfter(others bool) {
	w.tb.Helper()
	invoices := filepath.Join(w.dir, "invoices")
	for path, want := range w.stored {
		if got, err := os.ReadFile(filepath.Join(invoices, filepath.FromSlash(path))); err != nil || !bytes.Equal(got, want) {
			w.tb.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, name := range files(w.tb, invoices) {
		path := filepath.ToSlash(name)
		if w.stored[path] == nil && !others && !tree.IsKept(path) {
			w.tb.Errorf("file without a row: %s", path)
		}
	}
	d, err := db.OpenReadOnly(w.tb.Context(), filepath.Join(w.dir, "database", "invoices.db"))
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	rows := 0
	for row, err := range d.Files(w.tb.Context()) {
		if err != nil {
			w.tb.Fatal(err)
		}
		rows++
		if copied, err := d.Document(w.tb.Context(), row.KSeFNumber); err != nil || !bytes.Equal(copied, w.stored[row.Path]) {
			w.tb.Errorf("copy of %s: %q, %v", row.Path, copied, err)
		}
	}
	if rows != len(w.stored) {
		w.tb.Errorf("%d rows, want %d", rows, len(w.stored))
	}
}

// files gives the paths of the files below a folder, but for its marker, sorted.
func files(tb testing.TB, dir string) []string {
	tb.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == ".ksefmirror" {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		names = append(names, relative)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// slow leaves a test out of the short run, which is the race detector's: what SQLite
// does is slow under it, and nothing that it could find.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out of the short run")
	}
}
