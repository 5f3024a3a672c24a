package db

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ksefmirror/parse"
)

// Locks belong to processes, so what other programs do is done by this test's
// binary, started again with these variables.
const (
	childRole = "KSEFMIRROR_DB_TEST_ROLE"
	childPath = "KSEFMIRROR_DB_TEST_PATH"
)

// runChild is the child's main.
func runChild(role, path string) int {
	roles := map[string]func(context.Context, string, *bufio.Reader) error{
		"writer": childWriter, "watcher": childWatcher, "patient watcher": childPatientWatcher, "visitor": childVisitor, "visitor read-only": childReadOnlyVisitor,
		"careless with Open": childCarelessWithOpen, "careless with POSIX locks": childCarelessWithPOSIXLocks,
		"transaction": childTransaction, "transaction and shm": childTransactionAndSHM,
	}
	if err := roles[role](context.Background(), path, bufio.NewReader(os.Stdin)); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		return 1
	}
	return 0
}

// process is a child that speaks in lines.
type process struct {
	*exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *strings.Builder
}

func childCommand(t *testing.T, program, role, path string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), program)
	command.Env = append(os.Environ(), childRole+"="+role, childPath+"="+path)
	return command
}

func start(t *testing.T, role, path string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: childCommand(t, program, role, path), errs: &strings.Builder{}}
	p.Stderr = p.errs
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// line waits for the child's next line.
func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		_ = p.Wait()
		t.Fatalf("the child ended: %v: %s", err, p.errs)
	}
	return strings.TrimSpace(line)
}

func (p *process) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// kill is the crash: the child gets no chance to close anything.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // it was killed
}

// end lets the child finish and requires that it was content.
func (p *process) end(t *testing.T) {
	t.Helper()
	if err := p.in.Close(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, p.out)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v: %s", err, p.errs)
	}
}

// say tells the parent, and waits for it; io.EOF when it ended the talk.
func say(in *bufio.Reader, line string) error {
	fmt.Println(line)
	_, err := in.ReadString('\n')
	return err
}

const invoicesPerBatch = 3

// batchAt makes a batch that leaves as many invoices as its watermark says.
func batchAt(n int) Batch {
	return Batch{Role: "seller", Invoices: testInvoices(n, n+invoicesPerBatch), Watermark: strconv.Itoa(n + invoicesPerBatch)}
}

// childWriter commits until it is killed.
func childWriter(ctx context.Context, path string, _ *bufio.Reader) error {
	d, err := Open(ctx, path, testMirror, discard())
	if err != nil {
		return err
	}
	counts, err := d.Counts(ctx)
	if err != nil {
		return err
	}
	for n := counts.Invoices; ; n += invoicesPerBatch {
		if err := d.Commit(ctx, batchAt(n)); err != nil {
			return err
		}
		fmt.Println(n + invoicesPerBatch)
	}
}

// What was acknowledged survives a kill at any instant, and the watermark never
// says more than is there.
func TestKill(t *testing.T) {
	slow(t)
	path := filepath.Join(t.TempDir(), "invoices.db")
	for round := range 12 {
		p := start(t, "writer", path)
		acknowledged := 0
		for range 1 + round%4 {
			n, err := strconv.Atoi(p.line(t))
			if err != nil {
				t.Fatal(err)
			}
			acknowledged = n
		}
		p.kill(t) // it is in the middle of the next batch
		d, err := Open(t.Context(), path, testMirror, discard())
		if err != nil {
			t.Fatal(err)
		}
		watermark, err := strconv.Atoi(value[string](t, d, "SELECT watermark FROM streams"))
		if err != nil {
			t.Fatal(err)
		}
		documents := 0
		for file, err := range d.Files(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Document(t.Context(), file.KSeFNumber); err != nil {
				t.Error(err)
			}
			documents++
		}
		if documents != watermark || documents < acknowledged {
			t.Errorf("round %d: %d documents, the watermark says %d, acknowledged were %d", round, documents, watermark, acknowledged)
		}
		if lines := value[int](t, d, "SELECT count(*) FROM invoice_lines"); lines != 5*documents {
			t.Errorf("round %d: %d lines of %d invoices", round, lines, documents)
		}
		if check := value[string](t, d, "PRAGMA integrity_check"); check != "ok" {
			t.Errorf("round %d: %s", round, check)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

const consistency = `SELECT (SELECT count(*) FROM v_invoices), (SELECT count(*) FROM documents), (SELECT count(*) FROM v_lines),
	(SELECT coalesce(max(watermark), '0') FROM streams)`

func checkConsistency(pool *sql.DB) (invoices int, err error) {
	var documents, lines int
	var watermark string
	if err := pool.QueryRow(consistency).Scan(&invoices, &documents, &lines, &watermark); err != nil {
		return 0, err
	}
	if documents != invoices || lines != 5*invoices || watermark != strconv.Itoa(invoices) {
		return 0, fmt.Errorf("torn: %d invoices, %d documents, %d lines, watermark %s", invoices, documents, lines, watermark)
	}
	return invoices, nil
}

// childWatcher is accounting software that has no patience at all.
func childWatcher(_ context.Context, path string, in *bufio.Reader) error {
	return watch(path, 0, in)
}

// childPatientWatcher has the patience that most SQLite libraries have unasked.
func childPatientWatcher(_ context.Context, path string, in *bufio.Reader) error {
	return watch(path, 5*time.Second, in)
}

// watch reads as readers are told to, mode=ro, until the parent ends the talk.
func watch(path string, patience time.Duration, in *bufio.Reader) error {
	ended := make(chan struct{})
	go func() {
		_, _ = in.ReadString('\n')
		close(ended)
	}()
	for reads := 1; ; reads++ {
		// A new connection now and then: opening and closing are what disturbs.
		pool, err := sql.Open("sqlite", fmt.Sprintf("%s?mode=ro&_busy_timeout=%d", fileURI(filepath.ToSlash(path)), patience.Milliseconds()))
		if err != nil {
			return err
		}
		for range 5 {
			if _, err := checkConsistency(pool); err != nil {
				return fmt.Errorf("read %d: %w", reads, err)
			}
		}
		if err := pool.Close(); err != nil {
			return err
		}
		if reads == 1 {
			fmt.Println("watching")
		}
		select {
		case <-ended:
			if reads < 5 {
				return errors.New("the writer was too fast for this test")
			}
			return nil
		default:
		}
	}
}

// Foreign readers see whole batches and are never turned away while the daemon
// runs. Its start and stop need a moment alone with the log, which a reader must
// wait for.
func TestForeignReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d, err := Open(t.Context(), path, testMirror, discard())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	write := func() {
		t.Helper()
		for range 40 {
			commit(t, d, batchAt(n))
			n += invoicesPerBatch
		}
	}
	watcher := start(t, "watcher", path)
	watcher.line(t)
	write()
	watcher.end(t)

	watcher = start(t, "patient watcher", path)
	watcher.line(t)
	for range 4 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = Open(t.Context(), path, testMirror, discard()); err != nil {
			t.Fatal(err)
		}
		write()
	}
	watcher.end(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// childVisitor is a program with an SQLite before 3.51 that looks in and leaves.
// When such a one closes its connection, it takes the lock that shows it to be
// alone; if it gets it, it removes the write-ahead log. Newer ones, as that of
// this test, look at the locks of the -shm file as well.
func childVisitor(_ context.Context, path string, _ *bufio.Reader) error {
	pool, err := sql.Open("sqlite", fileURI(filepath.ToSlash(path)))
	if err != nil {
		return err
	}
	if _, err := pool.Exec("PRAGMA wal_checkpoint"); err != nil {
		return err
	}
	if err := pool.Close(); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	exclusive := syscall.Flock_t{Type: syscall.F_WRLCK, Start: 0x40000000 + 2, Len: 510} // SQLite's shared range
	switch err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &exclusive); {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES):
		return nil // not alone
	case err != nil:
		return err
	}
	return errors.Join(os.Remove(path+"-wal"), os.Remove(path+"-shm"))
}

// childReadOnlyVisitor reads as readers are told to, and cannot write.
func childReadOnlyVisitor(ctx context.Context, path string, _ *bufio.Reader) error {
	d, err := OpenReadOnly(ctx, path)
	if err != nil {
		return err
	}
	invoices, err := checkConsistency(d.read.DB)
	if err == nil && invoices != invoicesPerBatch {
		err = fmt.Errorf("%d invoices", invoices)
	}
	if file, err := os.Create(filepath.Join(filepath.Dir(path), "proof")); err == nil {
		return errors.Join(errors.New("this test needs a folder that cannot be written to"), file.Close())
	}
	return errors.Join(err, d.Close())
}

// openAndClose is what code of the daemon must never do to the database's files.
func openAndClose(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

func childCarelessWithOpen(ctx context.Context, path string, in *bufio.Reader) error {
	d, err := Open(ctx, path, testMirror, discard())
	if err != nil {
		return err
	}
	return careless(path, in, func(n int) error { return d.Commit(ctx, batchAt(n*invoicesPerBatch)) })
}

func childCarelessWithPOSIXLocks(_ context.Context, path string, in *bufio.Reader) error {
	pool, err := connect(path, readWrite, time.Second, 1)
	if err != nil {
		return err
	}
	if _, err := pool.Exec("CREATE TABLE invoices(n)"); err != nil {
		return err
	}
	return careless(path, in, func(n int) error {
		_, err := pool.Exec("INSERT INTO invoices VALUES(?), (?), (?)", n, n, n)
		return err
	})
}

// careless commits ten batches, opens and closes the file, lets the parent send
// a visitor, and commits ten more.
func careless(path string, in *bufio.Reader, commit func(int) error) error {
	for n := range 20 {
		if n == 10 {
			if err := openAndClose(path); err != nil {
				return err
			}
			if err := say(in, "opened and closed"); err != nil {
				return err
			}
		}
		if err := commit(n); err != nil {
			return err
		}
	}
	return say(in, "committed")
}

func childTransaction(_ context.Context, path string, in *bufio.Reader) error {
	return holdTransaction(path, in, func() error { return nil })
}

func childTransactionAndSHM(_ context.Context, path string, in *bufio.Reader) error {
	return holdTransaction(path, in, func() error { return openAndClose(path + "-shm") })
}

func holdTransaction(path string, in *bufio.Reader, meanwhile func() error) error {
	d, err := Open(context.Background(), path, testMirror, discard())
	if err != nil {
		return err
	}
	if _, err := d.write.Begin(); err != nil {
		return err
	}
	if err := meanwhile(); err != nil {
		return err
	}
	return say(in, "in a transaction")
}

// Readers have the SQLite that their system has. One that does not know a word
// of the schema cannot read anything at all.
func TestAnotherSQLiteReadsTheViews(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3, the nearest program with an SQLite of its own")
	}
	d := newTest(t)
	commit(t, d, batchAt(0))
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(0)}})
	correction, settlement := testInvoice(100), testInvoice(101)
	correction.Document.References = []parse.Reference{{Relation: "corrects", Position: 1, KSeFNumber: testNumber(0)}}
	correction.CorrectedHash = "of what was sent before"
	settlement.Document.References = []parse.Reference{{Relation: "settles_advance", Position: 1, Number: "elsewhere"}}
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{correction, settlement}})
	const program = `
import sqlite3, sys
c = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
print(sqlite3.sqlite_version, file=sys.stderr)
print(c.execute("select count(*), max(roles), max(gross), max(xml_size) > 0 from v_invoices").fetchone())
print(c.execute("select count(*), max(net) from v_lines").fetchone())
for (view,) in c.execute("select name from sqlite_schema where type = 'view'").fetchall():
    c.execute("select * from " + view).fetchall()
print(c.execute("select count(*) from invoice_search where invoice_search match 'żaba lodz* OR zaba towar'").fetchone())`
	command := exec.CommandContext(t.Context(), python, "-c", program, d.path)
	var version strings.Builder
	command.Stderr = &version
	out, err := command.Output()
	if want := "(5, 'seller', '1231.01', 1)\n(25, '200.00')\n(5,)\n"; err != nil || string(out) != want {
		t.Errorf("%q, want %q, %v: %s", out, want, err, version.String())
	}
	t.Logf("read by SQLite %s", strings.TrimSpace(version.String()))
}
