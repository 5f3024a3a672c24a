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
	"syscall"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// A command does its work through the daemon as it does without: what it prints, how
// it ends, and what is mirrored afterwards.
func TestCommandsThroughTheDaemon(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(20)
	without := p.want(0, []string{"new,"}, "sync")
	d := p.daemon()
	d.until("cycle done", `"authorized"`)
	now := time.Now()
	if _, err := p.sim.Add(ksefsim.Generate(ksefsim.GenerateOptions{Count: 7, Context: company, From: now.Add(-2 * time.Millisecond), To: now, Seed: 7})...); err != nil {
		t.Fatal(err)
	}
	with := p.want(0, []string{"new,"}, "sync")
	shape := func(out string) string { // without what differs by time
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, line[:len("acme: third_party")])
		}
		return strings.Join(lines, "\n")
	}
	if shape(with) != shape(without) {
		t.Errorf("without the daemon:\n%s\nthrough it:\n%s", without, with)
	}
	p.want(0, []string{"27 invoices"}, "status")
	p.want(0, []string{"listed by KSeF, 0 of them were missing here"}, "reconcile", "acme")
	p.want(0, []string{`"by_stored"`}, "reconcile", "--json", "--since=2026-01-01")
	p.want(2, []string{"exclude each other"}, "reconcile", "--all", "--since", "2026-01-01")
	p.want(2, []string{`no mirror "nobody"`}, "sync", "nobody")
	p.want(4, []string{"another daemon"}, "run")
	p.want(4, []string{"another process"}, "verify") // which reads every file, and has no place between two cycles

	// Trouble and limits end it as they do without the daemon.
	p.sim.Fault(ksefsim.Answer("/invoices/query/metadata", 4, http.StatusInternalServerError, nil, ""))
	p.want(1, []string{"acme: "}, "sync")
	p.sim.ClearFaults()
	p.want(0, nil, "sync")
	p.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 1, "1800"))
	p.want(5, []string{"it can go on from"}, "sync")
	p.sim.ClearFaults()
	d.stop()
	p.want(5, []string{"it can go on from"}, "sync") // no daemon, the same limits
}

// Who waits for a cycle waits for the one under way too; who leaves stops what was
// begun for him and nothing else.
func TestWaitForTheDaemon(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(10)
	working, release := make(chan struct{}), make(chan struct{})
	p.sim.Fault(ksefsim.Fault{Path: "/invoices/ksef/*", Skip: 3, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(working)
		<-release
		next.ServeHTTP(w, r)
	}})
	d := p.daemon()
	<-working
	waiting := p.command("sync")
	var out bytes.Buffer
	waiting.Stdout, waiting.Stderr = &out, &out
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	leaving := p.command("sync")
	if err := leaving.Start(); err != nil {
		t.Fatal(err)
	}
	if err := leaving.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := leaving.Wait(); err == nil {
		t.Error("interrupted it ended as if it had done its work")
	}
	close(release)
	if err := waiting.Wait(); err != nil || !strings.Contains(out.String(), "acme: seller") {
		t.Errorf("%v\n%s", err, out.String())
	}
	p.want(0, []string{"10 invoices"}, "status")
	d.stop()
}

// A daemon that was killed leaves nothing that keeps the next from its place, or a
// command from working without one.
func TestKilledDaemonLeavesNothingInTheWay(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(3)
	d := p.daemon()
	d.until("cycle done", `"authorized"`)
	if err := d.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.process.Wait()
	if _, err := os.Stat(filepath.Join(p.dir, "data", ".control", "socket")); err != nil {
		t.Fatalf("it left no socket: %v", err)
	}
	p.want(1, []string{"no daemon"}, "reload")
	p.want(0, []string{"complete up to"}, "sync")
	d = p.daemon()
	d.until("ksefmirror started")
	p.want(0, []string{"complete up to"}, "sync")
	d.stop()
}

// Mirrors come, change and go while the daemon runs; the others notice nothing. A
// mistake changes nothing, and is said once.
func TestReloadWithoutRestart(t *testing.T) {
	t.Parallel()
	long(t)
	p := newPlace(t)
	file := filepath.Join(p.dir, "config.toml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	second := ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}
	p.sim.AddToken(second, secretToken+"-2")
	p.put("secrets/second.token", []byte(secretToken+"-2"))
	table := func(interval string) string {
		return fmt.Sprintf("\n[mirror.second]\nenvironment = \"test\"\napi_url = %q\ncontext = \"nip:1111111111\"\ninterval = %q\n[mirror.second.auth]\ntoken = \"file:secrets/second.token\"\n", p.url, interval)
	}
	write := func(text string) { // as editors do
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	d := p.daemon()
	d.until("cycle done", "acme", `"authorized"`)
	logins := p.sim.Stats().Logins

	write(string(good) + table("1h")) // noticed by itself
	d.until("read anew", "added: second")
	d.until("cycle done", "second", `"authorized"`)
	write(string(good) + table("2h"))
	p.want(0, nil, "reload") // or it has been noticed by then
	d.until("read anew", "changed: second")
	d.until("cycle done", "second", `"authorized"`)
	p.want(0, []string{"no mirror has changed"}, "reload")

	write(string(good) + "colour = 3\n")
	d.until("the configuration file has a mistake", "no such key")
	if err := d.process.Process.Signal(syscall.SIGHUP); err != nil { // it is not logged again
		t.Fatal(err)
	}
	p.want(2, []string{"no such key"}, "reload")
	p.want(2, []string{"no such key"}, "status")
	write(strings.Replace(string(good), "#level = \"info\"", "level = \"debug\"", 1) + table("2h"))
	d.until("read anew", "no mirror has changed")
	p.want(0, []string{"second: seller"}, "sync", "second")

	write(string(good))
	if err := d.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.until("read anew", "removed: second")
	write("data_dir = \"elsewhere\"\n" + string(good))
	d.until("the configuration file has a mistake", "restart it to change that")
	p.want(1, []string{"no daemon", "restarted"}, "reload")
	write(string(good))
	d.until("read anew", "no mirror has changed")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	d.until("the configuration file has a mistake", "no such file")
	write(string(good))
	d.until("read anew", "no mirror has changed")
	log := d.stop()
	if n := strings.Count(log, "no such key"); n != 1 {
		t.Errorf("one mistake was logged %d times:\n%s", n, log)
	}
	if n := p.sim.Stats().Logins - logins; n != 2 {
		t.Errorf("%d logins, of which the second mirror needed two: the first was disturbed", n)
	}
	if strings.Contains(log, secretToken) {
		t.Error("the log shows a token")
	}
}

// Another program holds the database locked for writing, for longer than SQLite itself
// waits: the log says so, who reads is answered, and when it is free the daemon goes on
// with the same cycle. From there on a longer lock makes no difference.
func TestDatabaseLockedByAnotherProgram(t *testing.T) {
	t.Parallel()
	long(t)
	p := newRestless(t, ksefsim.Options{})
	p.generate(5)
	d := p.daemon()
	d.until("cycle done", `"authorized"`)

	pool, err := sql.Open("sqlite", ksefsync.DatabasePath(filepath.Join(p.dir, "data", "acme"))+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close() }() // nothing is written
	foreign, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	p.add(ksefsim.GenerateOptions{Count: 3, Context: company, Seed: 3})
	d.until("another program holds the database locked")
	p.want(0, []string{"acme: in order (5 invoices"}, "status")
	if _, err := foreign.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Close(); err != nil {
		t.Error(err)
	}
	d.until("the database is free again")
	d.untilMirrored(8)
	if log := d.stop(); strings.Count(log, "ksefmirror started") != 1 || strings.Contains(log, "in trouble") {
		t.Errorf("waiting was taken for trouble:\n%s", log)
	}
	p.want(0, []string{"8 invoices checked, 0 missing"}, "verify")
}

// Told to stop, in whatever it does, the daemon ends within seconds, and the next
// one completes what was begun.
func TestSIGTERMInEveryPhase(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	long(t)
	for name, test := range map[string]struct {
		invoices int
		path     string
	}{
		"challenge":       {5, "/auth/challenge"},
		"login":           {5, "/auth/ksef-token"},
		"limits":          {5, "/rate-limits"},
		"listing":         {5, "/invoices/query/metadata"},
		"download":        {5, "/invoices/ksef/*"},
		"export":          {60, "/invoices/exports"},
		"state of export": {60, "/invoices/exports/*"},
		"part":            {60, "/storage/*/*"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.generate(test.invoices)
			at, release := make(chan struct{}), make(chan struct{})
			p.sim.Fault(ksefsim.Fault{Path: test.path, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				close(at)
				select {
				case <-release:
				case <-r.Context().Done():
				}
				next.ServeHTTP(w, r)
			}})
			d := p.daemon()
			select {
			case <-at:
			case <-time.After(time.Minute):
				t.Fatalf("it never asked for %s:\n%s", test.path, d.stop())
			}
			began := time.Now()
			log := d.stop()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s to stop", took)
			}
			if strings.Contains(log, "in trouble") || !strings.Contains(log, "ksefmirror stopped") {
				t.Errorf("a stop was taken for trouble:\n%s", log)
			}
			close(release)
			p.want(0, nil, "sync")
			p.want(0, []string{fmt.Sprintf("%d invoices checked, 0 missing", test.invoices)}, "verify")
		})
	}
}
