package sync_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// The environment of a child process: this test binary, started again to do one
// thing and to be killed at it.
const (
	childTask = "KSEFMIRROR_TEST_CHILD" // sync, sync-wrong, export or read
	childDir  = "KSEFMIRROR_TEST_DIR"
	childURL  = "KSEFMIRROR_TEST_URL"
)

func TestMain(m *testing.M) {
	var err error
	switch task := os.Getenv(childTask); task {
	case "":
		os.Exit(m.Run())
	case "read":
		err = readUntilTold(os.Getenv(childDir))
	case "export":
		err = exportOnce(os.Getenv(childDir), os.Getenv(childURL), os.Getenv(childStage))
	default:
		err = syncOnce(os.Getenv(childDir), os.Getenv(childURL), task == "sync-wrong")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// syncOnce is one run of the program: open, one cycle, close.
func syncOnce(dir, url string, wrong bool) error {
	layout, err := tree.ParseLayout(tree.DefaultLayout)
	if err != nil {
		return err
	}
	m, err := ksefsync.Open(context.Background(), ksefsync.Options{
		Dir: dir, Environment: "test", Context: company, Roles: roles, Layout: layout,
		Since: time.Date(2026, time.February, 1, 0, 0, 0, 0, time.UTC),
		Remote: func(log ksef.RequestLog) ksefsync.Remote {
			return &ksef.Client{
				BaseURL: url, Context: company, Limiter: ksef.NewLimiter(log, nil),
				Token: func() (ksef.Secret, error) { return ksef.NewSecret(token), nil },
			}
		},
	})
	if err != nil {
		return err
	}
	if wrong {
		m.CommitPositionFirst()
	}
	if _, err := m.Cycle(context.Background()); err != nil {
		return err
	}
	return m.Close()
}

func child(w *world, task string) *exec.Cmd {
	cmd := exec.CommandContext(w.tb.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childTask+"="+task, childDir+"="+w.dir, childURL+"="+w.url)
	cmd.Stderr = os.Stderr
	return cmd
}

// newCrashWorld is a world on the real clock, for a child reads no other.
func newCrashWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, ksefsim.Options{HWMLag: time.Millisecond}, &clock{now: time.Now(), real: true})
}

// killRuns adds invoices, starts a run and kills it at a random moment, as often
// as told, and checks every promise after each. It stops early once failed says so.
func killRuns(w *world, task string, kills int, seed uint64, failed func() bool) {
	random := rand.New(rand.NewPCG(seed, 1))
	usual := 300 * time.Millisecond
	for i := range kills {
		w.add(w.fresh(10+random.IntN(20), seed*1000+uint64(i))...)
		cmd := child(w, task)
		kill := make(chan struct{}, 1)
		if i%2 == 0 { // at a request, before or after KSeF has seen it
			unanswered := random.IntN(2) == 0
			w.sim.Fault(ksefsim.Fault{Skip: random.IntN(40), Times: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				kill <- struct{}{}
				if unanswered {
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(rw, r)
			}})
		} else { // at any moment
			timer := time.AfterFunc(time.Duration(random.Int64N(int64(usual))), func() { kill <- struct{}{} })
			w.tb.Cleanup(func() { timer.Stop() })
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			w.tb.Fatal(err)
		}
		var failure error
		ended := make(chan struct{})
		go func() {
			failure = cmd.Wait()
			close(ended)
		}()
		select {
		case <-kill:
			_ = cmd.Process.Kill() // it may have ended by itself
			<-ended
		case <-ended:
			if failure != nil {
				w.tb.Fatalf("a run that was not killed: %v", failure)
			}
			usual = (usual + time.Since(began)) / 2
		}
		w.sim.ClearFaults()
		w.checkAfter(true)
		if failed() {
			return
		}
	}
}

// A run is killed at 100 random moments and started again each time: nothing is
// lost, nothing is there twice, nothing is left over (Show 4).
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	const mirrors = 4 // side by side, for a run mostly waits
	kills := 100 / mirrors
	if testing.Short() {
		kills = 5
	}
	for i := range uint64(mirrors) {
		t.Run(strconv.FormatUint(i, 10), func(t *testing.T) {
			t.Parallel()
			w := newCrashWorld(t)
			killRuns(w, "sync", kills, rand.Uint64N(1000)*mirrors+i, t.Failed)
			if err := child(w, "sync").Run(); err != nil {
				t.Fatal(err)
			}
			w.check()
			w.complete()
			downloads := 0
			for _, times := range w.sim.Stats().Downloads {
				downloads += times
			}
			t.Logf("%d invoices, %d downloads, %d packages", w.status().Invoices, downloads, w.sim.Stats().ByGroup[ksef.GroupExport])
		})
	}
}

// The same harness must catch a commit in the wrong order, or it proves nothing.
func TestKilledCatchesWrongOrder(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newCrashWorld(t)
	seen := &recorder{TB: t}
	w.tb = seen
	killRuns(w, "sync-wrong", 150, 7, func() bool { return strings.Contains(seen.text.String(), "LOST") })
	if !strings.Contains(seen.text.String(), "LOST") {
		t.Error("a position that is committed before its rows went unnoticed")
	}
}

// recorder keeps errors instead of failing.
type recorder struct {
	testing.TB
	text strings.Builder
}

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(&r.text, format+"\n", args...) }

// readUntilTold queries the database as accounting software would, through a
// sync and after it, until its standard input ends, and reports how often.
func readUntilTold(dir string) error {
	told := make(chan struct{})
	go func() {
		bufio.NewScanner(os.Stdin).Scan()
		close(told)
	}()
	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(dir))
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		select {
		case <-told:
			fmt.Println(n)
			return nil
		default:
		}
		if err := readOnce(dsn); err != nil {
			return fmt.Errorf("query %d: %w", n, err)
		}
	}
}

// readOnce connects anew, as a spreadsheet does, and looks for a torn row in one
// snapshot.
func readOnce(dsn string) error {
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	tx, err := reader.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var invoices, lines, stated, torn int
	if err := tx.QueryRow(`SELECT count(*), coalesce(sum(line_count), 0) FROM v_invoices`).Scan(&invoices, &stated); err != nil {
		return err
	}
	if err := tx.QueryRow(`SELECT count(*) FROM v_lines WHERE kind = 'line'`).Scan(&lines); err != nil {
		return err
	}
	err = tx.QueryRow(`SELECT count(*) FROM invoices i WHERE NOT EXISTS(SELECT 1 FROM documents d WHERE d.invoice_id = i.id)
		OR NOT EXISTS(SELECT 1 FROM invoice_roles r WHERE r.invoice_id = i.id)`).Scan(&torn)
	if err != nil {
		return err
	}
	if lines != stated || torn != 0 {
		return fmt.Errorf("torn: %d invoices, %d lines of %d, %d without their document or role", invoices, lines, stated, torn)
	}
	return nil
}

// A foreign reader queries all through syncs, restarts and after the shutdown
// (Show 6). It has a busy timeout, as README.md asks of readers: for a moment at
// each start SQLite goes through the log alone.
func TestForeignReader(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(20, time.Hour, 31)...)
	w.mustCycle()
	cmd := child(w, "read")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		w.add(w.fresh(40, uint64(40+i))...)
		w.clock.advance(2 * time.Hour)
		w.mustCycle()
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the reader failed: %v", err)
	}
	queries, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil || queries < 10 {
		t.Fatalf("the reader ran %q queries", out.String())
	}
	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := readOnce(dsn); err != nil { // nobody has it open now
		t.Errorf("after the shutdown: %v", err)
	}
	t.Logf("%d connections and snapshots", queries)
}
