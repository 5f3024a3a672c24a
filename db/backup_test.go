package db

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// backUp makes a backup of d and gives its name.
func backUp(t *testing.T, d *DB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "backup.db")
	if err := d.BackUp(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return name
}

// A backup has every invoice and no key, stands in one file, and is restored to a
// database that goes on where the backup was and lets no request out too early.
func TestBackupAndRestore(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 20), Position: "p", Watermark: "w"})
	key := bytes.Repeat([]byte{0xC5, 0x3A}, 16)
	if _, err := d.StartExport(t.Context(), Export{Role: "seller", From: "f", Key: key, IV: key[:16], CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartReconciliation(t.Context(), Reconciliation{Role: "seller", Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	name := backUp(t, d)
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the backup: %v, %v", entries, err)
	}
	content, err := os.ReadFile(name)
	if err != nil || bytes.Contains(content, key) {
		t.Errorf("the backup holds the key of an export, or %v", err)
	}
	found, invoices, err := CheckBackup(t.Context(), name, testMirror)
	if err != nil || found != testMirror || invoices != 20 {
		t.Errorf("found %+v, %d invoices, %v", found, invoices, err)
	}

	path := filepath.Join(t.TempDir(), "database", "invoices.db")
	want := testMirror
	want.TakesOver = time.UnixMilli(1_790_000_000_000)
	longer := want.TakesOver.Add(time.Hour)
	made, err := Restore(t.Context(), name, path, want, map[string]time.Time{"export": longer}, discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	restored := openTest(t, path)
	streams, err := restored.Streams(t.Context())
	if err != nil || len(streams) != 1 || streams[0].Watermark != "w" || streams[0].Position != "p" {
		t.Errorf("streams %+v, %v", streams, err)
	}
	if n := value[int](t, restored, "SELECT count(*) FROM documents"); n != 20 {
		t.Errorf("%d documents", n)
	}
	if n := value[int](t, restored, "SELECT (SELECT count(*) FROM exports) + (SELECT count(*) FROM reconciliations)"); n != 0 {
		t.Errorf("%d exports and reconciliations are left", n)
	}
	blocks, err := restored.Blocks(t.Context())
	if err != nil || !blocks["*"].Equal(want.TakesOver) || !blocks["export"].Equal(longer) {
		t.Errorf("blocks %v, %v", blocks, err)
	}
	if adopts, err := restored.Adopts(t.Context()); err != nil || !adopts {
		t.Errorf("adopts %v, %v", adopts, err)
	}
	if _, err := Restore(t.Context(), name, path, want, nil, discard()); err == nil {
		t.Error("a database was restored over another")
	}
}

// Every byte of a document that changes, and everything else that is not what was
// backed up, is noticed before it is restored.
func TestCheckBackupRefuses(t *testing.T) {
	slow(t)
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 20)})
	other := testMirror
	other.Environment = "prod"
	company := testMirror
	company.ContextValue = "7123306158"
	tree := testMirror
	tree.ID = "tree-2"
	for name, c := range map[string]struct {
		want  Mirror
		spoil string
		says  string
	}{
		"environment":      {want: other, says: "environment"},
		"context":          {want: company, says: "another context"},
		"folder":           {want: tree, says: "another folder"},
		"document":         {want: testMirror, spoil: "UPDATE documents SET sha256 = zeroblob(32) WHERE invoice_id = 7", says: "document 7"},
		"without document": {want: testMirror, spoil: "DELETE FROM documents WHERE invoice_id = 7", says: "1 invoices have no document"},
		"another program":  {want: testMirror, spoil: "PRAGMA application_id = 1", says: "another program"},
		"newer":            {want: testMirror, spoil: "PRAGMA user_version = 999", says: "version 999"},
	} {
		t.Run(name, func(t *testing.T) {
			backup := backUp(t, d)
			if c.spoil != "" {
				pool, err := connect(backup, readWrite, time.Second, 1)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := pool.Exec(c.spoil); err != nil {
					t.Fatal(err)
				}
				if err := pool.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := CheckBackup(t.Context(), backup, c.want); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a page", func(t *testing.T) {
		backup := backUp(t, d)
		content, err := os.ReadFile(backup)
		if err != nil {
			t.Fatal(err)
		}
		copy(content[len(content)/2:], bytes.Repeat([]byte{0x5A}, 8192))
		if err := os.WriteFile(backup, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := CheckBackup(t.Context(), backup, testMirror); err == nil {
			t.Error("a damaged page went unnoticed")
		}
	})
	t.Run("an index", func(t *testing.T) {
		backup := backUp(t, d)
		page := value[int](t, d, "SELECT page_size FROM pragma_page_size")
		pool, err := connect(backup, readOnly, time.Second, 1)
		if err != nil {
			t.Fatal(err)
		}
		var root int
		if err := pool.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'invoices_number'").Scan(&root); err != nil {
			t.Fatal(err)
		}
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(backup)
		if err != nil {
			t.Fatal(err)
		}
		content[root*page-8] ^= 1 // in the key of a row: no document is touched
		if err := os.WriteFile(backup, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := CheckBackup(t.Context(), backup, testMirror); err == nil || !strings.Contains(err.Error(), "it is damaged") {
			t.Errorf("a damaged index: %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		if _, _, err := CheckBackup(t.Context(), filepath.Join(t.TempDir(), "none.db"), testMirror); err == nil {
			t.Error("a backup that is not there was checked")
		}
	})
}

// A database that is created in the place of a lost one holds requests off from
// its first moment; one that is new does not.
func TestTakesOver(t *testing.T) {
	want := testMirror
	want.TakesOver = time.UnixMilli(1_790_000_000_000)
	for name, m := range map[string]Mirror{"new": testMirror, "in the place of another": want} {
		d, err := Open(t.Context(), filepath.Join(t.TempDir(), "database", "invoices.db"), m, discard())
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := d.Blocks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		adopts, err := d.Adopts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if over := !m.TakesOver.IsZero(); over != adopts || over != blocks["*"].Equal(want.TakesOver) {
			t.Errorf("%s: adopts %v, blocks %v", name, adopts, blocks)
		}
		if err := d.EndAdoption(t.Context()); err != nil {
			t.Error(err)
		}
		if adopts, err := d.Adopts(t.Context()); adopts || err != nil {
			t.Errorf("%s: still adopts, %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAuditIsKept(t *testing.T) {
	d := newTest(t)
	if a, err := d.Audit(t.Context()); err != nil || a != (Audit{}) {
		t.Errorf("before the first: %+v, %v", a, err)
	}
	at := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	for _, want := range []Audit{
		{Pass: 1, Reached: 7, Started: at},
		{Pass: 1, Reached: 9, Restored: 2, Started: at, Finished: at.Add(time.Hour)},
		{Pass: 2, Previous: at, Started: at.Add(24 * time.Hour)},
	} {
		if err := d.RecordAudit(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if a, err := d.Audit(t.Context()); err != nil || a != want {
			t.Errorf("%+v, %v; want %+v", a, err, want)
		}
	}
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 5)})
	if id, err := d.NewestID(t.Context()); err != nil || id != 5 {
		t.Errorf("newest %d, %v", id, err)
	}
	if paths, err := d.NewestPaths(t.Context(), 2); err != nil || len(paths) != 2 || paths[0] != testInvoice(4).Path {
		t.Errorf("newest %v, %v", paths, err)
	}
	var after []int64
	for file, err := range d.FilesAfter(t.Context(), 3) {
		if err != nil {
			t.Fatal(err)
		}
		after = append(after, file.ID)
	}
	if len(after) != 2 || after[0] != 4 || after[1] != 5 {
		t.Errorf("after 3: %v", after)
	}
}
