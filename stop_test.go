package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ksefmirror/internal/ksefsim"
)

// stopWithin is how long the program may take to stop.
const stopWithin = 5 * time.Second

// interrupted runs a command and tells it to stop as soon as is says that it is in the
// middle of its work. It must stop in time, with exit code 1, and say what is the case.
// again is what makes room for another attempt with a command that was too quick.
func (p *place) interrupted(is func() bool, again func(), says string, args ...string) {
	p.t.Helper()
	for range 5 {
		cmd := p.command(args...)
		var printed bytes.Buffer
		cmd.Stdout, cmd.Stderr = &printed, &printed
		if err := cmd.Start(); err != nil {
			p.t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // the exit code tells
			close(ended)
		}()
		p.untilOr(ended, is)
		began := time.Now()
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
		if took := time.Since(began); took > stopWithin {
			p.t.Errorf("%q took %s to stop", args, took)
		}
		switch code := cmd.ProcessState.ExitCode(); code {
		case 1:
			if !strings.Contains(printed.String(), says) {
				p.t.Errorf("%q, told to stop, says\n%s", args, &printed)
			}
			return
		case 0:
			again()
		default:
			p.t.Fatalf("%q ended with exit code %d:\n%s", args, code, &printed)
		}
	}
	p.t.Fatalf("%q is too quick to be stopped in its middle", args)
}

// untilOr waits until is says so, or the channel is closed.
func (p *place) untilOr(ended <-chan struct{}, is func() bool) {
	p.t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); !is(); {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		if time.Now().After(deadline) {
			p.t.Fatal("it never begins")
		}
	}
}

// matches gives the paths below the mirror's folder that match a pattern.
func (p *place) matches(pattern string) []string {
	p.t.Helper()
	found, err := filepath.Glob(filepath.Join(p.dir, "data", "acme", pattern))
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

// Told to stop in the middle of what it does on this machine, the program ends within
// seconds, leaves nothing half done, and the next attempt completes it.
func TestSIGTERMInLocalWork(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	long(t)
	t.Parallel()
	const count = 1100 // more than an audit restores at once, and than share a commit
	p := newRestless(t, ksefsim.Options{})
	p.generate(count)
	p.want(0, nil, "sync")
	whole := []string{fmt.Sprintf("%d invoices checked, 0 missing, 0 changed", count)}
	none := func() {}

	// A comparison with KSeF, held at a request.
	var asked atomic.Bool
	hold := func(path string) {
		asked.Store(false)
		p.sim.Fault(ksefsim.Fault{Path: path, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			asked.Store(true)
			<-r.Context().Done()
			next.ServeHTTP(w, r)
		}})
	}
	hold("/invoices/query/metadata")
	p.interrupted(asked.Load, none, "stopped; everything stored so far is kept", "reconcile")
	p.want(0, []string{"0 of them were missing here"}, "reconcile")
	hold("/storage/*/*")
	export := []string{"remote", "export", "--fresh", "--role", "seller", "--from", time.Now().AddDate(0, 0, -1).Format(time.DateOnly), "-o", "exported"}
	if err := os.Mkdir(filepath.Join(p.dir, "exported"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.interrupted(asked.Load, none, "stopped; what was written so far is kept", export...)
	p.want(0, nil, export...)

	// A backup.
	const again = "It was told to stop. Nothing is lost; run it again."
	p.interrupted(func() bool { return len(p.matches("backups/*.partial")) > 0 }, none, again, "backup")
	if left := p.matches("backups/*.partial"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	p.want(0, []string{fmt.Sprintf("acme: %d invoices", count)}, "backup")

	// Reading again.
	pool, err := sql.Open("sqlite", p.database()+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	left := func() (left int) {
		if err := pool.QueryRowContext(t.Context(), "SELECT count(*) FROM invoices WHERE parser_version = 1").Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left
	}
	outdate := func() {
		if _, err := pool.ExecContext(t.Context(), "UPDATE invoices SET parser_version = 1"); err != nil {
			t.Fatal(err)
		}
	}
	outdate()
	p.interrupted(func() bool { return left() < count }, outdate, "stopped; what was read is kept", "reparse")
	p.want(0, []string{fmt.Sprintf("acme: %d invoices read again", left())}, "reparse")
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	p.want(0, whole, "verify")

	// The daemon's audit, which restores what it finds gone.
	invoices := filepath.Join(p.dir, "data", "acme", "invoices")
	remove := func() {
		for _, path := range p.invoices() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	back := func() bool { return len(p.matches("invoices/*/*/*/*.xml")) > 0 }
	stop := func(d *daemon, is func() bool) {
		t.Helper()
		p.untilOr(nil, is)
		began := time.Now()
		if log := d.stop(); time.Since(began) > stopWithin || strings.Contains(log, "in trouble") || !strings.Contains(log, "ksefmirror stopped") {
			t.Errorf("it took %s to stop:\n%s", time.Since(began), log)
		}
	}
	remove()
	stop(p.daemon(), back)
	if got := len(p.invoices()); got >= 1000 { // what an audit restores
		t.Error("the audit did not stop in its middle")
	}
	p.want(0, nil, "verify", "--repair")
	p.agrees()

	// Its backup of the night, which is due with the first cycle.
	nightly := filepath.Join(p.dir, "nightly")
	if err := os.Mkdir(nightly, 0o700); err != nil {
		t.Fatal(err)
	}
	p.put("config.toml", []byte(p.read("config.toml")+"[backup]\ndir = \"nightly\"\n"))
	made := func() (names []string) {
		entries, err := os.ReadDir(nightly)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return names
	}
	stop(p.daemon(), func() bool { return len(made()) > 0 })
	if left := made(); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	d := p.daemon()
	d.until("backed up the database", fmt.Sprintf(`"invoices":%d`, count))
	d.stop()

	// The folder made anew.
	lose := func() {
		if err := os.RemoveAll(invoices); err != nil {
			t.Fatal(err)
		}
	}
	lose()
	p.interrupted(back, lose, again, "rebuild", "acme", "--tree")
	p.want(0, nil, "rebuild", "acme", "--tree")
	p.agrees()

	// The database, restored and made anew.
	backups := p.matches("backups/*.db")
	restoring := func() bool { return len(p.matches("database.restoring")) > 0 }
	p.interrupted(restoring, none, again, "restore", "acme", backups[0])
	if restoring() {
		t.Error("it left the database that it was making")
	}
	p.want(0, whole, "verify")
	before := len(p.matches("database.kept-*"))
	aside := func() bool { return len(p.matches("database.kept-*")) > before }
	restore := func() {
		p.want(0, []string{fmt.Sprintf("restored %d invoices", count)}, "restore", "acme", backups[0])
		before = len(p.matches("database.kept-*"))
	}
	p.interrupted(aside, restore, again, "rebuild", "acme", "--database")
	p.want(5, []string{"it can go on from"}, "sync") // as after a rebuild that was not stopped
	restore()
	p.agrees()
	p.want(0, whole, "verify")
}
