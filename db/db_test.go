package db

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"modernc.org/sqlite"

	"ksefmirror/parse"
)

// forbidden are the characters that this system's file names cannot have.
func forbidden() string {
	if runtime.GOOS != "windows" {
		return "/\x00"
	}
	characters := `/\<>:"|?*`
	for control := range rune(' ') {
		characters += string(control)
	}
	return characters
}

func TestOpen(t *testing.T) {
	folder := strings.Map(func(r rune) rune {
		if strings.ContainsRune(forbidden(), r) {
			return -1
		}
		return r
	}, "zażółć gęślą #1 100%25 ?x=y &")
	path := filepath.Join(t.TempDir(), folder, "database", "invoices.db")
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	if !d.Created() || d.Mirror() != testMirror {
		t.Errorf("created %v, mirrors %+v", d.Created(), d.Mirror())
	}
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 2)})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	// The log stays for readers without write permission, and it is empty.
	if diff := cmp.Diff([]string{"invoices.db", "invoices.db-shm", "invoices.db-wal"}, names); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the log has %d bytes after Close, %v", info.Size(), err)
	}

	again := testMirror
	again.ID = "another tree"
	d, err = Open(t.Context(), path, again, discard())
	if err != nil {
		t.Fatal(err)
	}
	if d.Created() || d.Mirror() != testMirror {
		t.Errorf("created %v, mirrors %+v", d.Created(), d.Mirror())
	}
	if n := value[int](t, d, "SELECT count(*) FROM dictionaries"); n != 1 {
		t.Errorf("%d dictionaries", n)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// A reader that stays connected keeps SQLite from emptying the log by itself.
func TestCloseEmptiesTheLogBesideAReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := connect(path, readOnly, time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := reader.Ping(); err != nil {
		t.Fatal(err)
	}
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 20)})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the log has %d bytes after Close, %v", info.Size(), err)
	}
}

// A database at rest has no connection and no compressor, but for what is in use, and
// works on as before. Its log stays, for readers that could not make one.
func TestRest(t *testing.T) {
	d := newTest(t)
	for n := range 3 {
		commit(t, d, Batch{Role: "seller", Invoices: testInvoices(n, n+1)})
		inUse, err := d.read.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.Rest()
		if err := inUse.PingContext(t.Context()); err != nil {
			t.Errorf("a connection in use was closed: %v", err)
		}
		if err := inUse.Close(); err != nil {
			t.Fatal(err)
		}
		d.Rest()
		if r, w := d.read.Stats().OpenConnections, d.write.Stats().OpenConnections; r != 0 || w != 0 || d.compressor != nil {
			t.Errorf("%d readers, %d writers, compressor %v", r, w, d.compressor)
		}
		if info, err := os.Stat(d.path + "-wal"); err != nil {
			t.Errorf("the log: %v, %v", info, err)
		}
		for stored := range n + 1 {
			if xml, err := d.Document(t.Context(), testNumber(stored)); err != nil || string(xml) != string(testXML(stored, 5)) {
				t.Errorf("invoice %d after %d rests: %v", stored, n+1, err)
			}
		}
	}
}

// Where readers have answered and none is in use, the log is written back at rest.
func TestRestWritesTheLogBack(t *testing.T) {
	d := newTest(t)
	for n := range 8 {
		commit(t, d, Batch{Role: "seller", Invoices: testInvoices(n, n+1)})
		if _, err := d.Document(t.Context(), testNumber(n)); err != nil {
			t.Fatal(err)
		}
		d.Rest()
		if info, err := os.Stat(d.path + "-wal"); err != nil || info.Size() != 0 {
			t.Fatalf("the log has %d bytes at rest %d, %v", info.Size(), n, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	slow(t)
	query := func(statements string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			pool, err := sql.Open("sqlite", fileURI(filepath.ToSlash(path)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pool.Exec(statements); err != nil {
				t.Fatal(err)
			}
			if err := pool.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := func(t *testing.T, path string) {
		t.Helper()
		d, err := Open(t.Context(), path, testMirror, discard())
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		prepare func(*testing.T, string)
		mirror  Mirror
		want    []string
	}{
		{"another program's", query("CREATE TABLE t(x)"), testMirror, []string{"another program", "move it away"}},
		{"another application id", query("PRAGMA application_id = 7; CREATE TABLE t(x)"), testMirror, []string{"another program", "0x7"}},
		{"a newer version", func(t *testing.T, path string) { t.Helper(); ours(t, path); query("PRAGMA user_version = 99")(t, path) }, testMirror, []string{"version 99", fmt.Sprintf("up to %d", newest(t)), "newer version of the program"}},
		{"another environment", ours, Mirror{Environment: "production", ContextType: "nip", ContextValue: "5265877635"}, []string{"environment test", "production", "own data folder"}},
		{"another context", ours, Mirror{Environment: "test", ContextType: "nip", ContextValue: "7123306158"}, []string{"another context", "own data folder"}},
		{"no database", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database. "), 300), 0o600); err != nil {
				t.Fatal(err)
			}
		}, testMirror, []string{"not an SQLite database", "correct the path"}},
		{"a folder", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, testMirror, []string{"check", "the disk"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "invoices.db")
			test.prepare(t, path)
			before, _ := os.ReadFile(path) // closed: no lock to lose
			d, err := Open(t.Context(), path, test.mirror, discard())
			if err == nil {
				t.Fatal("opened", d.Close())
			}
			for _, want := range append(test.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			for _, number := range []string{"5265877635", "7123306158"} {
				if strings.Contains(err.Error(), number) {
					t.Errorf("error %q tells a tax number", err)
				}
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// A crash between creating the file and its first transaction leaves an empty
// file or an empty database.
func TestOpenAfterCrashWhileCreating(t *testing.T) {
	for _, pragma := range []string{"", "PRAGMA journal_mode = WAL"} {
		path := filepath.Join(t.TempDir(), "invoices.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if pragma != "" {
			pool, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pool.Exec(pragma); err != nil {
				t.Fatal(err)
			}
			if err := pool.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if d := openTest(t, path); !d.Created() {
			t.Errorf("%q: not created", pragma)
		}
	}
}

func TestOpenReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database", "invoices.db")
	if _, err := OpenReadOnly(t.Context(), path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("OpenReadOnly made the folder")
	}
	writer := openTest(t, path)
	commit(t, writer, Batch{Role: "seller", Invoices: testInvoices(0, 1)})
	reader, err := OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if reader.Mirror() != testMirror {
		t.Errorf("mirrors %+v", reader.Mirror())
	}
	if xml, err := reader.Document(t.Context(), testNumber(0)); err != nil || hashOf(xml) != testInvoice(0).Hash {
		t.Errorf("document: %v", err)
	}
	if n := reader.read.Stats().OpenConnections; n != 1 {
		t.Errorf("%d connections, to ask one thing after another", n)
	}
	_, startErr := reader.StartRequest(t.Context(), "query", 0, nil, nil)
	for name, err := range map[string]error{
		"Commit":       reader.Commit(t.Context(), Batch{Role: "seller", Watermark: "w"}),
		"RecordRun":    reader.RecordRun(t.Context(), Run{Role: "seller"}),
		"StartRequest": startErr,
		"EndRequest":   reader.EndRequest(t.Context(), 1, time.Now()),
		"BlockGroup":   reader.BlockGroup(t.Context(), "query", time.Now()),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: error %v, want ErrReadOnly", name, err)
		}
	}
	if _, err := reader.read.Exec("DELETE FROM invoices"); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("SQLite itself lets a reader write: %v", err)
	}
}

// Queries are prepared by whoever asks them first, which several may do at once, also
// while something is stored. One who gives up leaves everything as it was.
func TestQueriesAskedAtOnce(t *testing.T) {
	d := newTest(t)
	for n := range 5 {
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		reader, err := OpenReadOnly(t.Context(), d.path)
		if err != nil {
			t.Fatal(err)
		}
		var working sync.WaitGroup
		for _, asked := range []*DB{d, reader} {
			if _, err := asked.Streams(gone); !errors.Is(err, context.Canceled) {
				t.Errorf("asked by one who has gone: %v", err)
			}
			for range 4 {
				working.Go(func() {
					if _, err := asked.Streams(t.Context()); err != nil {
						t.Error(err)
					}
					if newest, err := asked.NewestID(t.Context()); err != nil || newest < int64(n) {
						t.Errorf("newest %d of %d, %v", newest, n, err)
					}
				})
			}
		}
		working.Go(func() {
			if err := d.Commit(t.Context(), Batch{Role: "seller", Watermark: "2026-11-05T10:00:00+00:00", Invoices: testInvoices(n, n+1)}); err != nil {
				t.Error(err)
			}
		})
		working.Wait()
		d.Rest()
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenBeside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database", "invoices.db")
	if _, err := OpenBeside(t.Context(), path, testMirror, discard()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no database: error %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("OpenBeside made the folder")
	}
	set := testSettings(t)
	set.migrations = set.migrations[:len(set.migrations)-1]
	if older, err := open(t.Context(), path, testMirror, discard(), set); err == nil { // its statements may need the newer schema
		if err := older.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenBeside(t.Context(), path, testMirror, discard()); err == nil || !strings.Contains(err.Error(), "which migrates it") {
		t.Errorf("an older one: error %v", err)
	}
	openTest(t, path)
	if _, err := OpenBeside(t.Context(), path, Mirror{Environment: "prod", ContextType: "nip", ContextValue: "5265877635"}, discard()); err == nil || !strings.Contains(err.Error(), "environment") {
		t.Errorf("another mirror's: error %v", err)
	}
	beside, err := OpenBeside(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := beside.BlockGroup(t.Context(), "query", time.Now()); err != nil {
		t.Error(err)
	}
	if err := beside.Close(); err != nil {
		t.Error(err)
	}
}

// The settings must hold on every connection, not only on the first of a pool.
func TestPragmasOnEveryConnection(t *testing.T) {
	d := newTest(t)
	if id := value[int](t, d, "PRAGMA application_id"); id != 0x4B534546 {
		t.Errorf("application id %#x", id)
	}
	for name, pool := range map[string]*sql.DB{"write": d.write.DB, "read": d.read.DB} {
		want := map[string]string{"busy_timeout": "10000", "journal_mode": "wal", "foreign_keys": "1"}
		connections := readers
		if name == "write" {
			want["synchronous"], want["journal_size_limit"], want["page_size"] = "2", "67108864", "8192"
			connections = 1
		}
		if open := pool.Stats().MaxOpenConnections; open != connections {
			t.Errorf("%s: at most %d connections, want %d", name, open, connections)
		}
		for i := range connections {
			conn, err := pool.Conn(t.Context()) // kept, so that the next one is another
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for pragma, want := range want {
				var got string
				if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s connection %d: %s is %q, want %q, %v", name, i, pragma, got, want, err)
				}
			}
			if _, err := conn.ExecContext(t.Context(), `SELECT "no such column"`); err == nil {
				t.Errorf("%s connection %d takes a quoted name for a text", name, i)
			}
			if _, err := conn.ExecContext(t.Context(), `PRAGMA writable_schema = ON`); err != nil {
				t.Fatal(err)
			}
			var writable int
			if err := conn.QueryRowContext(t.Context(), `PRAGMA writable_schema`).Scan(&writable); err != nil || writable != 0 {
				t.Errorf("%s connection %d is not defensive: %d, %v", name, i, writable, err)
			}
			err = conn.Raw(func(conn any) error {
				persist, err := conn.(sqlite.FileControl).FileControlPersistWAL("main", -1)
				if persist != 1 {
					t.Errorf("%s connection %d removes the log when it closes", name, i)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	if !sqlite.StrictPragmasEnabled() {
		t.Error("pragmas are not strict")
	}
}

func TestDSN(t *testing.T) {
	for path, want := range map[string]string{
		"/var/lib/x.db":             "file:///var/lib/x.db",
		"/a b/#1?x=y&z/100%.db":     "file:///a%20b/%231%3Fx=y&z/100%25.db",
		"/zażółć.db":                "file:///za%C5%BC%C3%B3%C5%82%C4%87.db",
		"C:/Users/Żaba/x.db":        "file:///C:/Users/%C5%BBaba/x.db",
		"//server/share/x.db":       "file:////server/share/x.db",
		"/already%20escaped/x.db":   "file:///already%2520escaped/x.db",
		"/semicolon;colon:plus+.db": "file:///semicolon;colon:plus+.db",
	} {
		if got := fileURI(path); got != want {
			t.Errorf("fileURI(%q) = %q, want %q", path, got, want)
		}
	}
	uri, parameters, _ := strings.Cut(dsn("/x y.db", readOnly, busyTimeout), "?")
	values, err := url.ParseQuery(parameters)
	if err != nil || uri != "file:///x%20y.db" || values.Get("mode") != "ro" || values.Has("immutable") || values.Has("_journal_mode") {
		t.Errorf("a reader's DSN is %s?%s, %v", uri, parameters, err)
	}
}

// FuzzDSN checks that the driver opens exactly the file that was named.
func FuzzDSN(f *testing.F) {
	for _, name := range []string{"x.db", "a b", "a?mode=memory", "a#b", "100%", "%00", "zażółć", "a&_pragma=x", "ab\n", "a;b", "a'b\"", "…", "\xff\xfe"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `\`+forbidden()) || len(name) > 200 {
			t.Skip("no file name")
		}
		folder := t.TempDir()
		path := filepath.Join(folder, name)
		pool, err := connect(path, readWrite, time.Second, 1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pool.Exec("PRAGMA user_version = 7")
		if err := errors.Join(err, pool.Close()); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			entries, _ := os.ReadDir(folder)
			t.Fatalf("%q made %v, not the file: %v", name, entries, err)
		}
	})
}

// No query may read a whole table that grows with the invoices, where an index
// can serve.
func TestQueryPlans(t *testing.T) {
	d := newTest(t)
	allowed := map[string]string{
		selectRoleCounts:     "counts every role",
		selectCounts:         "counts every invoice",
		selectEmpty:          "stops at the first",
		selectOpenQuarantine: "reads all that is open, by its index",
	}
	grow := []string{"invoices", "i", "documents", "d", "invoice_roles", "r", "requests", "runs", "quarantine", "invoice_references", "parties", "invoice_lines", "vat_summary"}
	for name, texts := range map[string][]string{"query": queries(), "command": commands()} {
		for _, text := range texts {
			pool := d.read.DB
			if name == "command" {
				pool = d.write.DB
			}
			arguments := make([]any, strings.Count(text, "?"))
			rows, err := pool.Query("EXPLAIN QUERY PLAN "+text, arguments...)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			for rows.Next() {
				var id, parent, unused int
				var step string
				if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
					t.Fatal(err)
				}
				words := strings.Fields(step)
				if len(words) < 2 || words[0] != "SCAN" || allowed[text] != "" {
					continue
				}
				for _, table := range grow {
					if words[1] == table {
						t.Errorf("%s: %s", text, step)
					}
				}
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A write that meets a lock of another program waits as long as it takes, says
// so once, and loses nothing.
func TestCommitWaitsForTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	set := testSettings(t)
	set.busyTimeout = 10 * time.Millisecond
	var logged bytes.Buffer
	var foreign *sql.Tx
	var waits []time.Duration
	set.sleep = func(ctx context.Context, wait time.Duration) error {
		if waits = append(waits, wait); len(waits) == 14 { // five minutes, but for what SQLite itself waits
			return foreign.Rollback()
		}
		return ctx.Err()
	}
	d, err := open(t.Context(), path, testMirror, slog.New(slog.NewTextHandler(&logged, nil)), set)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	other, err := connect(path, readWrite, time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if foreign, err = other.Begin(); err != nil {
		t.Fatal(err)
	}
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 2), Watermark: "w"})
	seconds := func(n ...int) (durations []time.Duration) {
		for _, n := range n {
			durations = append(durations, time.Duration(n)*time.Second)
		}
		return durations
	}
	if diff := cmp.Diff(seconds(1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30, 30, 30), waits); diff != "" {
		t.Fatal(diff)
	}
	if text := logged.String(); strings.Count(text, "level=WARN") != 1 || strings.Count(text, "free again") != 1 {
		t.Errorf("log:\n%s", text)
	}
	if n := value[int](t, d, "SELECT count(*) FROM invoices"); n != 2 {
		t.Errorf("%d invoices", n)
	}

	// While it waits, an end of the context ends it.
	if foreign, err = other.Begin(); err != nil {
		t.Fatal(err)
	}
	defer foreign.Rollback()
	ctx, cancel := context.WithCancel(t.Context())
	waits = nil
	d.sleep = func(context.Context, time.Duration) error { cancel(); return ctx.Err() }
	if err := d.Commit(ctx, Batch{Role: "seller", Watermark: "later"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// Once begun, a commit is not torn by the end of its context; before, it does
// not begin.
func TestCommitAndTheEndOfItsContext(t *testing.T) {
	d := newTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := d.transaction(ctx, "test", func(ctx context.Context, tx *sql.Tx) error {
		cancel()
		_, err := d.exec(ctx, tx, upsertStream, "seller", "w", nil, nil)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if w := value[string](t, d, "SELECT watermark FROM streams"); w != "w" {
		t.Errorf("watermark %q", w)
	}
	if err := d.Commit(ctx, Batch{Role: "seller", Watermark: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if w := value[string](t, d, "SELECT watermark FROM streams"); w != "w" {
		t.Errorf("watermark %q", w)
	}
}

func TestErrorsNameFileAndRemedy(t *testing.T) {
	slow(t)
	t.Run("disk full", func(t *testing.T) {
		d := newTest(t)
		if _, err := d.write.Exec("PRAGMA max_page_count = 60"); err != nil {
			t.Fatal(err)
		}
		err := d.Commit(t.Context(), Batch{Role: "seller", Invoices: testInvoices(0, 200), Watermark: "w"})
		if err == nil || !strings.Contains(err.Error(), d.path) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("error %v", err)
		}
		if n := value[int](t, d, "SELECT (SELECT count(*) FROM invoices) + (SELECT count(*) FROM streams)"); n != 0 {
			t.Error("part of the batch was committed")
		}
		if _, err := d.write.Exec("PRAGMA max_page_count = 1000000"); err != nil {
			t.Fatal(err)
		}
		commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 200), Watermark: "w"})
	})
	t.Run("read-only", func(t *testing.T) {
		d := newTest(t)
		if _, err := d.write.Exec("PRAGMA query_only = 1"); err != nil {
			t.Fatal(err)
		}
		err := d.Commit(t.Context(), Batch{Role: "seller", Watermark: "w"})
		if err == nil || !strings.Contains(err.Error(), d.path) || !strings.Contains(err.Error(), "write permission") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "invoices.db")
		d, err := Open(t.Context(), path, testMirror, discard())
		if err != nil {
			t.Fatal(err)
		}
		commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 200)})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 4096; i < len(content); i++ { // all but the first page
			content[i] = 0xAA
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err = Open(t.Context(), path, testMirror, discard())
		if err == nil {
			t.Fatal("opened", d.Close())
		}
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ksefmirror restore") {
			t.Errorf("error %v", err)
		}
	})
}

// The order of the text must be the order in time: ORDER BY depends on it.
func TestMoment(t *testing.T) {
	warsaw := time.FixedZone("", 3600)
	for _, test := range []struct {
		at   time.Time
		want any
	}{
		{time.Time{}, nil},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05.0000000Z"},
		{time.Date(2026, 1, 2, 3, 4, 5, 999_999_999, warsaw), "2026-01-02T02:04:05.9999999Z"},
	} {
		if got := moment(test.at); got != test.want {
			t.Errorf("moment(%v) = %v, want %v", test.at, got, test.want)
		}
	}
}

// The driver is generated for one version of libc and breaks with others.
func TestLibcIsTheDriversOwn(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the go command")
	}
	list := func(arguments ...string) []byte {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-m"}, arguments...)...).Output()
		if err != nil {
			t.Skipf("the go command cannot list modules here: %v", err)
		}
		return bytes.TrimSpace(out)
	}
	modFile, err := os.ReadFile(string(list("-f", "{{.GoMod}}", "modernc.org/sqlite")))
	if err != nil {
		t.Fatal(err)
	}
	want := "modernc.org/libc " + string(list("-f", "{{.Version}}", "modernc.org/libc"))
	if !strings.Contains(string(modFile), want+"\n") {
		t.Errorf("go.mod has %s; modernc.org/sqlite names another version", want)
	}
}

// A measure of the rows and the compressed XML together.
func TestBytesPerInvoice(t *testing.T) {
	slow(t)
	xml, err := os.ReadFile("testdata/fa3_five_lines.xml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "invoices.db")
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	size := func() int {
		return value[int](t, d, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
	}
	empty := size()
	const total = 2000
	metadata, err := json.Marshal(map[string]any{"ksefNumber": testNumber(0), "invoiceNumber": "1187/10/26/PIEK", "invoicingDate": "2026-11-05T12:00:00.1234567+01:00", "permanentStorageDate": "2026-11-05T12:00:00.1234567+01:00", "seller": map[string]string{"nip": "5213870274", "name": "Młyn i Piekarnia"}, "grossAmount": 2116.54})
	if err != nil {
		t.Fatal(err)
	}
	packed := 0
	started := time.Now()
	for n := 0; n < total; n += 500 {
		batch := Batch{Role: "seller", Invoices: testInvoices(n, n+500)}
		for i := range batch.Invoices {
			in := &batch.Invoices[i]
			in.XML = bytes.Replace(xml, []byte("1187/10/26/PIEK"), []byte(in.KSeFNumber), 1)
			in.Hash, in.MetadataJSON = hashOf(in.XML), metadata
			if in.Document, err = parse.Parse(in.XML); err != nil {
				t.Fatal(err)
			}
		}
		commit(t, d, batch)
	}
	elapsed := time.Since(started)
	packed = value[int](t, d, "SELECT sum(length(xml_zstd)) FROM documents") / total
	each := (size() - empty) / total
	t.Logf("%d bytes for each invoice, %d of them its XML of %d; %.0f invoices/s", each, packed, len(xml), total/elapsed.Seconds())
	if each-packed > 3584 { // three parties, five lines, and much that goes with them
		t.Errorf("the rows of an invoice take %d bytes", each-packed)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
