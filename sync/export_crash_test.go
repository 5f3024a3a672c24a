package sync_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modernc.org/sqlite"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// childStage names the stage at which a child of task export kills itself; ""
// lets it end.
const childStage = "KSEFMIRROR_TEST_STAGE"

// killed is what a child says last.
const killed = "killed at "

// stage is an instant in the life of an export at which the process is killed.
type stage struct {
	name string
	// at kills the child in the simulator: it is called with what to do when the
	// instant has come, which does not return before the child is dead.
	at func(kill func(*http.Request)) ksefsim.Fault
	// Without it the child knows the stage by its name, and kills itself.

	noted     bool // the export is in the database
	reference bool // with its reference
	files     bool // some invoices are in the folder
	rows      bool // some invoices are in the database
	wasted    int  // the exports that are asked for in vain
}

var stages = []stage{
	{name: "before the POST", noted: true},
	{name: "the POST on its way", noted: true, wasted: 1, at: func(kill func(*http.Request)) ksefsim.Fault {
		return ksefsim.Fault{Path: exports, Times: 1, Do: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body) // the server notices only then that the client has gone
			kill(r)
		}}
	}},
	{name: "the POST accepted, its answer on the way", noted: true, wasted: 1, at: func(kill func(*http.Request)) ksefsim.Fault {
		return ksefsim.Fault{Path: exports, Times: 1, Do: func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			kill(r)
		}}
	}},
	{name: "the answer there, the reference not saved", noted: true, wasted: 1},
	{name: "the reference saved", noted: true, reference: true, at: func(kill func(*http.Request)) ksefsim.Fault {
		return ksefsim.Hold(exports+"/*", 1, kill)
	}},
	{name: "polling", noted: true, reference: true, at: func(kill func(*http.Request)) ksefsim.Fault {
		fault := ksefsim.Hold(exports+"/*", 1, kill)
		fault.Skip = 1
		return fault
	}},
	{name: "during part 2", noted: true, reference: true, at: func(kill func(*http.Request)) ksefsim.Fault {
		return ksefsim.HoldBody("/storage/*/*-002.*", 1, exportPart/2, kill)
	}},
	{name: "all parts decrypted", noted: true, reference: true},
	{name: "300 invoices read", noted: true, reference: true},
	{name: "the files of the first commit there, no row", noted: true, reference: true, files: true},
	{name: "in the transaction of the second commit", noted: true, reference: true, files: true, rows: true},
	{name: "in the last transaction, all rows written", noted: true, reference: true, files: true, rows: true},
	{name: "after the commit", files: true, rows: true},
}

// In the world of these tests a package has several parts, and its invoices are
// stored by several commits.
const (
	exportInvoices = 2400
	exportPart     = 203_000 // bytes of a part: five of the first package
)

// newExportWorld is a KSeF with one backlog. Its clock stands still and the
// children read the same, so that each run of it ends with the same mirror.
func newExportWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, ksefsim.Options{PartSize: exportPart})
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Pending: 2})
	w.add(w.generate(exportInvoices, 24*time.Hour, 26)...)
	return w
}

// exportOnce is one run of the program that kills itself at a stage.
func exportOnce(dir, url, stage string) error {
	layout, err := tree.ParseLayout(tree.DefaultLayout)
	if err != nil {
		return err
	}
	die := func(at string) {
		if at != stage {
			return
		}
		fmt.Println(killed + stage)
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		select {} // not one instruction more of the program
	}
	// SQLite itself kills the process in the midst of a transaction.
	err = sqlite.RegisterScalarFunction("die", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		die(fmt.Sprint(args[0]))
		return nil, nil
	})
	if err != nil {
		return err
	}
	at := &clock{now: start}
	options := ksefsync.Options{
		Dir: dir, Environment: "test", Context: company, Roles: roles, Layout: layout,
		Since: start.AddDate(0, 0, -2), Now: at.Now, Sleep: at.Sleep,
		Remote: func(log ksef.RequestLog) ksefsync.Remote {
			limiter := ksef.NewLimiter(log, nil)
			limiter.Now, limiter.Sleep = at.Now, at.Sleep
			return mortal{&ksef.Client{
				BaseURL: url, Context: company, Limiter: limiter, Now: at.Now, Sleep: at.Sleep,
				Token: func() (ksef.Secret, error) { return ksef.NewSecret(token), nil },
			}, die}
		},
		Progress: func(p ksefsync.Progress) {
			if p.Stored == 0 && p.Pending > 0 {
				die("all parts decrypted")
			}
			if p.Stored == 300 {
				die("300 invoices read")
			}
		},
	}
	m, err := ksefsync.Open(context.Background(), options)
	if err != nil {
		return err
	}
	if stage != "" {
		if err := triggers(dir, true); err != nil {
			return err
		}
	}
	if _, err := m.Cycle(context.Background()); err != nil {
		return err
	}
	return m.Close()
}

// mortal is a Remote that the process may not survive asking for an export.
type mortal struct {
	ksefsync.Remote
	die func(string)
}

func (r mortal) StartExport(ctx context.Context, q ksef.Query, metadataOnly bool, key ksef.ExportKey) (string, error) {
	r.die("before the POST")
	reference, err := r.Remote.StartExport(ctx, q, metadataOnly, key)
	r.die("the answer there, the reference not saved")
	return reference, err
}

// triggers puts triggers into a database that let a child die in a transaction,
// or takes them out again: no process without the function die can write then.
func triggers(dir string, create bool) error {
	writer, err := sql.Open("sqlite", ksefsync.DatabasePath(dir)+"?_busy_timeout=10000")
	if err != nil {
		return err
	}
	script := `DROP TRIGGER IF EXISTS die1; DROP TRIGGER IF EXISTS die2; DROP TRIGGER IF EXISTS die3; DROP TRIGGER IF EXISTS die4;`
	if create {
		script += `
		CREATE TRIGGER die1 BEFORE INSERT ON invoices WHEN NOT EXISTS(SELECT 1 FROM invoices) BEGIN SELECT die('the files of the first commit there, no row'); END;
		CREATE TRIGGER die2 AFTER INSERT ON invoices WHEN NEW.id = 1050 BEGIN SELECT die('in the transaction of the second commit'); END;
		CREATE TRIGGER die3 AFTER DELETE ON exports WHEN OLD.reference IS NOT NULL BEGIN SELECT die('in the last transaction, all rows written'); END;
		CREATE TRIGGER die4 BEFORE INSERT ON runs BEGIN SELECT die('after the commit'); END;`
	}
	_, err = writer.Exec(script)
	return errors.Join(err, writer.Close())
}

// killAt starts a run, has it killed at the stage, and checks every promise.
func (w *world) killAt(s stage) {
	w.tb.Helper()
	cmd := child(w, "export")
	cmd.Env = append(cmd.Env, childStage+"="+s.name)
	var said bytes.Buffer
	cmd.Stdout = &said
	reached := make(chan struct{}, 1)
	if s.at != nil {
		w.sim.Fault(s.at(func(r *http.Request) {
			reached <- struct{}{}
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}))
	}
	if err := cmd.Start(); err != nil {
		w.tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case <-reached:
		if err := cmd.Process.Kill(); err != nil {
			w.tb.Fatalf("it ended before it could be killed: %v", err)
		}
		err = <-ended
	case err = <-ended:
		if !strings.Contains(said.String(), killed+s.name) {
			w.tb.Fatalf("the stage was never reached: %v", err)
		}
	}
	if err == nil {
		w.tb.Fatal("a process that was killed ended well")
	}
	w.sim.ClearFaults()
	if err := triggers(w.dir, false); err != nil {
		w.tb.Fatal(err)
	}
	w.checkAfter(true)

	d, err := db.OpenReadOnly(w.tb.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	left, err := d.Exports(w.tb.Context(), roles[0])
	if err != nil {
		w.tb.Fatal(err)
	}
	rows := w.status().Invoices
	inFolder := len(slices.DeleteFunc(files(w.tb, filepath.Join(w.dir, "invoices")), func(path string) bool {
		return !strings.HasSuffix(path, ".xml") // a temporary one
	}))
	noted := len(left) == 1
	reference := noted && left[0].Reference != ""
	if noted != s.noted || reference != s.reference || inFolder > 0 != s.files || rows > 0 != s.rows {
		w.tb.Errorf("the kill came at another instant than %q: noted %t, with its reference %t", s.name, noted, reference)
	}
	w.tb.Logf("killed at %q: %d files, %d rows", s.name, inFolder, rows)
}

// mirrored is all that a mirror of an export world has in the end.
type mirrored struct {
	tree    string   // SHA-256 over every path and the bytes there
	rows    []string // of the database
	exports int      // that KSeF was asked for
}

// finish runs the mirror to its end, checks every promise and gives what it has.
func (w *world) finish() mirrored {
	w.tb.Helper()
	if err := child(w, "export").Run(); err != nil {
		w.tb.Fatal(err)
	}
	w.check()
	w.complete()
	hash := sha256.New()
	invoices := filepath.Join(w.dir, "invoices")
	for _, path := range files(w.tb, invoices) {
		content, err := os.ReadFile(filepath.Join(invoices, path))
		if err != nil {
			w.tb.Fatal(err)
		}
		_, _ = fmt.Fprintf(hash, "%s\n%x\n", path, sha256.Sum256(content))
	}
	return mirrored{fmt.Sprintf("%x", hash.Sum(nil)), w.dump(), w.sim.Stats().ByPath["POST /invoices/exports"]}
}

// dump gives the rows of the database without what depends on the moment or the
// order in which they were written.
func (w *world) dump() []string {
	w.tb.Helper()
	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	const ofInvoice = ` t JOIN invoices i ON i.id = t.invoice_id`
	var dumped []string
	for table, query := range map[string]string{
		"invoices":      `SELECT * FROM invoices`,
		"invoice_roles": `SELECT i.ksef_number, t.* FROM invoice_roles` + ofInvoice,
		"documents":     `SELECT i.ksef_number, t.* FROM documents` + ofInvoice,
		"parties":       `SELECT i.ksef_number, t.* FROM parties` + ofInvoice,
		"invoice_lines": `SELECT i.ksef_number, t.* FROM invoice_lines` + ofInvoice,
		"vat_summary":   `SELECT i.ksef_number, t.* FROM vat_summary` + ofInvoice,
		"streams":       `SELECT role, watermark, position, hwm, last_error FROM streams`,
		"exports":       `SELECT * FROM exports`,
		"quarantine":    `SELECT * FROM quarantine`,
	} {
		rows, err := reader.QueryContext(w.tb.Context(), query)
		if err != nil {
			w.tb.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			w.tb.Fatal(err)
		}
		values, pointers := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			pointers[i] = &values[i]
		}
		for rows.Next() {
			if err := rows.Scan(pointers...); err != nil {
				w.tb.Fatal(err)
			}
			row := table
			for i, column := range columns {
				if !slices.Contains([]string{"id", "invoice_id", "first_seen_at", "updated_at"}, column) {
					row += fmt.Sprintf(" %s=%v", column, values[i])
				}
			}
			dumped = append(dumped, row)
		}
		if err := rows.Err(); err != nil {
			w.tb.Fatal(err)
		}
	}
	slices.Sort(dumped)
	return dumped
}

// same expects what a run without interruption ends with, at the cost of the
// given number of exports.
func (w *world) same(got, want mirrored, wasted int) {
	w.tb.Helper()
	if got.tree != want.tree {
		w.tb.Errorf("the folder is not that of a run without interruption")
	}
	if len(got.rows) != len(want.rows) {
		w.tb.Errorf("the database has %d rows, without interruption %d", len(got.rows), len(want.rows))
	}
	for i := range min(len(got.rows), len(want.rows)) {
		if got.rows[i] != want.rows[i] {
			w.tb.Errorf("the first row that differs:\n%s\nwithout interruption:\n%s", got.rows[i], want.rows[i])
			break
		}
	}
	if got.exports != want.exports+wasted {
		w.tb.Errorf("%d exports were asked for, without interruption %d: want %d more", got.exports, want.exports, wasted)
	}
}

// Scenario 26: a process is killed at every stage of an export and started
// again. Folder, rows and watermarks are in the end those of a run that nobody
// disturbed, and an export is asked for in vain only where it cannot be known
// whether KSeF has it.
func TestScenario26KilledInExport(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector sees nothing of processes that are killed, and makes them ten times slower")
	}
	t.Parallel()
	undisturbed := newExportWorld(t)
	want := undisturbed.finish()
	if n := len(undisturbed.sim.Listed(company, subjects[roles[0]])); n < 1060 || undisturbed.status().Invoices != exportInvoices {
		t.Fatalf("%d invoices as %s, %d in all: too few for two commits", n, roles[0], undisturbed.status().Invoices)
	}
	parts := slices.Sorted(maps.Keys(undisturbed.sim.Stats().Parts))
	if !slices.ContainsFunc(parts, func(name string) bool { return strings.Contains(name, "-005.") }) {
		t.Fatalf("no package has five parts: %q", parts)
	}
	t.Logf("undisturbed: %d exports of %d parts", want.exports, len(parts))
	t.Run("one after another", func(t *testing.T) { // in one mirror, each by a process that resumes
		t.Parallel()
		w := newExportWorld(t)
		wasted := 0
		for _, s := range stages {
			w.killAt(s)
			wasted += s.wasted
		}
		w.same(w.finish(), want, wasted)
	})
	for _, s := range stages {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := newExportWorld(t)
			w.killAt(s)
			w.same(w.finish(), want, s.wasted)
		})
	}
}
