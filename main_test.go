package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"modernc.org/sqlite"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
	ksefsync "ksefmirror/sync"
)

// asProgram makes this test binary the program itself, so that the tests run
// what users run, in processes of its own.
const asProgram = "KSEFMIRROR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asHook {
		hook(os.Args[2:])
	}
	if os.Getenv(asProgram) != "" {
		main()
	}
	// The tests wait for their processes, and those for limits, not for processors. It
	// is a default: the command line overrides it.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	// Some tests use SQLite as others do, and db wants to be the first.
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		panic(err)
	}
	os.Exit(m.Run())
}

// unwatched, in the environment, has the daemons of the tests run with the folder
// watcher switched off, so that the audits do alone what it only speeds up.
const unwatched = "KSEFMIRROR_TEST_UNWATCHED"

const secretToken = "20260101-EC-canary-in-the-token"

var company = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}

// place is a folder with a configuration for a simulated KSeF.
type place struct {
	t   *testing.T
	dir string
	sim *ksefsim.Server
	url string
	env []string // what the program finds in its environment besides
}

func newPlace(t *testing.T) *place {
	t.Helper()
	return newPlaceWith(t, nil)
}

func newPlaceWith(t *testing.T, limits ksef.Limits) *place {
	t.Helper()
	p := &place{t: t, dir: folder(t), sim: ksefsim.New(ksefsim.Options{HWMLag: time.Millisecond, Limits: limits})}
	p.sim.AddToken(company, secretToken)
	server := httptest.NewServer(contract.Wrap(t, p.sim))
	t.Cleanup(server.Close)
	p.url = server.URL + "/v2"
	out, code := p.run(secretToken+"\n", "config", "init", "--name", "acme", "--environment", "test", "--context", "nip:5265877635", "--api-url", p.url, "--token-file", "-")
	if code != 0 {
		t.Fatalf("config init: exit %d\n%s", code, out)
	}
	p.put("config.toml", []byte(p.read("config.toml"))) // with the watcher off, if it is to be
	return p
}

// folder makes a folder for a place. It does not have the test's name in its own, as
// that of [testing.T.TempDir] has: the name of the daemon's socket in it may have 103
// bytes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "place")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// long leaves a test out of the short run, with the race detector, under which every
// process starts slowly: one of many processes or invoices, or one that spends most of
// half a minute waiting for KSeF's limits.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes long")
	}
}

func (p *place) generate(n int) {
	p.t.Helper()
	now := time.Now()
	invoices := ksefsim.Generate(ksefsim.GenerateOptions{Count: n, Context: company, From: now.Add(-time.Hour), To: now.Add(-time.Second), Seed: uint64(n)})
	if _, err := p.sim.Add(invoices...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), os.Args[0], args...)
	cmd.Dir = p.dir
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), p.env...)
	return cmd
}

// run runs the program in the folder and gives all it printed and its exit code.
func (p *place) run(stdin string, args ...string) (string, int) {
	p.t.Helper()
	cmd := p.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), secretToken) {
		p.t.Errorf("%q shows the token", args)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return string(out), 0
}

// want runs the program and expects an exit code and texts in its output.
func (p *place) want(code int, texts []string, args ...string) string {
	p.t.Helper()
	out, got := p.run("", args...)
	if got != code {
		p.t.Errorf("%q: exit %d, want %d\n%s", args, got, code, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			p.t.Errorf("%q: no %q in\n%s", args, text, out)
		}
	}
	return out
}

func TestFirstHour(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(40)
	p.want(0, []string{"in order"}, "config", "check")
	p.want(1, []string{"never run"}, "status")
	p.want(0, []string{"complete up to"}, "sync")
	p.want(0, []string{"acme: in order (40 invoices"}, "status")
	p.want(0, []string{"40 invoices checked, 0 missing"}, "verify")
	var all []struct {
		Name     string `json:"name"`
		Invoices int    `json:"invoices"`
		Streams  []struct {
			Watermark string `json:"watermark"`
		} `json:"streams"`
	}
	out, _ := p.run("", "status", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Invoices != 40 || len(all[0].Streams) != 4 {
		t.Errorf("status --json: %v\n%s", err, out)
	}

	// The folder suffers, and is repaired from the database.
	files, err := filepath.Glob(filepath.Join(p.dir, "data", "acme", "invoices", "*", "*", "*", "*.xml"))
	if err != nil || len(files) != 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if err := os.Remove(files[3]); err != nil {
		t.Fatal(err)
	}
	p.want(3, []string{"missing file", "1 missing"}, "verify")
	p.want(0, []string{"restored"}, "verify", "--repair")
	p.want(0, nil, "verify")
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(10)
	p.want(2, []string{"unknown flag", "--help"}, "sync", "--bogus")
	p.want(2, []string{"no mirror"}, "sync", "nobody")
	p.want(2, []string{"unknown command"}, "snyc")
	p.want(2, nil, "--config", "nowhere.toml", "sync")
	p.want(2, []string{"exists", "left as it is"}, "config", "init", "--name", "b", "--environment", "test", "--context", "nip:5265877635")

	p.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 0, "2680"))
	p.want(5, []string{"it can go on from"}, "sync")
	p.sim.ClearFaults()
	// The block is remembered: nothing is asked before it ends.
	before := p.sim.Stats().ByGroup[ksef.GroupMetadata]
	p.want(5, []string{"it can go on from"}, "sync")
	if asked := p.sim.Stats().ByGroup[ksef.GroupMetadata] - before; asked != 0 {
		t.Errorf("%d queries in spite of Retry-After", asked)
	}
	p.want(1, []string{"allows no invoiceMetadata requests before"}, "status")

	// That some roles are limited does not hide that another has failed.
	p = newPlace(t)
	p.generate(10)
	p.sim.Fault(ksefsim.Forbidden("/invoices/query/metadata", 1, "missing-permissions"))
	p.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 0, "2680"))
	p.want(1, []string{"missing-permissions"}, "sync")

	p = newPlace(t)
	p.generate(10)
	victim := p.sim.Listed(company, ksef.Seller)[0]
	p.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/"+string(victim.Number), 0, func(xml []byte) []byte { return xml[1:] }))
	p.want(3, []string{"could not be mirrored yet"}, "sync")
	p.want(1, []string{string(victim.Number)}, "status")

	p = newPlace(t)
	p.sim.RevokeToken(secretToken)
	p.want(1, []string{"create a new token"}, "sync")

	p = newPlace(t)
	p.sim.Fault(ksefsim.HTMLError("", 0, 503))
	p.want(1, []string{"HTTP 503"}, "sync")
	p.sim.ClearFaults()
	p.sim.Fault(ksefsim.Reset("", 0))
	p.want(1, []string{"KSeF could not be reached"}, "sync")
}

// The person at the keyboard compares with KSeF: the months, what was missing, what
// KSeF hides, and the exit codes.
func TestReconcile(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.generate(40)
	p.want(1, []string{"sync first"}, "reconcile")
	p.want(0, nil, "sync")
	p.want(0, []string{"acme: buyer, stored in KSeF from ", "VAT in PLN", "listed by KSeF, 0 of them were missing here, 0 no longer listed"}, "reconcile")
	p.want(0, []string{"by month of issue"}, "reconcile", "--all", "--by", "issued")

	past := time.Now().Add(-20 * time.Hour)
	late, err := p.sim.Add(ksefsim.Generate(ksefsim.GenerateOptions{Count: 1, Context: company, From: past, To: past.Add(time.Second), Seed: 5})...)
	if err != nil {
		t.Fatal(err)
	}
	p.want(3, []string{"was missing here: " + string(late[0])}, "reconcile")
	p.want(1, []string{"appeared in KSeF below the watermark", string(late[0]), "reconciled "}, "status")

	hidden := p.sim.Listed(company, ksef.Seller)[3].Number
	p.sim.SetListed(hidden, ksef.Seller, false)
	out := p.want(3, nil, "reconcile", "--json")
	var all []struct {
		Name  string `json:"name"`
		Roles []struct {
			Role      string   `json:"role"`
			Late      []string `json:"late"`
			NotListed []string `json:"not_listed"`
			ByStored  []struct {
				KSeF, Here struct {
					Invoices int    `json:"invoices"`
					Gross    string `json:"gross"`
				}
			} `json:"by_stored"`
		} `json:"roles"`
	}
	_, out, _ = strings.Cut(out, "\n[") // after the log, which goes to standard error
	if err := json.Unmarshal([]byte("["+out), &all); err != nil || len(all) != 1 || len(all[0].Roles) != 4 {
		t.Fatalf("%v\n%s", err, out)
	}
	seller := all[0].Roles[0]
	if seller.Role != "seller" || len(seller.NotListed) != 1 || seller.NotListed[0] != string(hidden) || seller.Late == nil {
		t.Errorf("%+v", seller)
	}
	ksefs, here := 0, 0
	for _, month := range seller.ByStored {
		ksefs, here = ksefs+month.KSeF.Invoices, here+month.Here.Invoices
	}
	if here != len(p.sim.Listed(company, ksef.Seller)) || ksefs != here-1 {
		t.Errorf("%d in KSeF, %d here", ksefs, here)
	}
	p.want(3, []string{"in KSeF", "here", "no longer lists it, it is kept: " + string(hidden)}, "reconcile", "--since", past.Format(time.DateOnly))
	p.want(1, []string{"no longer listed by KSeF", string(hidden)}, "status")
	p.want(0, []string{"41 invoices checked, 0 missing"}, "verify")

	p.want(2, []string{"want a day"}, "reconcile", "--since", "01.02.2026")
	p.want(2, []string{"exclude"}, "reconcile", "--since", "2026-02-01", "--all")
	p.want(2, []string{"want stored or issued"}, "reconcile", "--by", "tax")
	for _, path := range []string{"/invoices/query/metadata", "/invoices/exports"} {
		p.sim.Fault(ksefsim.TooMany(path, 0, "2680"))
	}
	p.want(5, []string{"nothing was compared", "it can go on from"}, "reconcile")
}

// A second process is told that the mirror is taken (exit 4); SIGTERM ends the
// daemon in the middle of its work within five seconds, and nothing is lost.
func TestRunAndStop(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	p := newPlace(t)
	p.generate(30)
	working := make(chan struct{})
	release := make(chan struct{})
	p.sim.Fault(ksefsim.Fault{Path: "/invoices/ksef/*", Skip: 7, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(working)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		next.ServeHTTP(w, r)
	}})
	daemon := p.command("run")
	var log bytes.Buffer
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	<-working
	p.want(4, []string{"another process"}, "verify")
	p.run("", "status") // reads beside it

	began := time.Now()
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := daemon.Wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if err != nil || !strings.Contains(log.String(), "ksefmirror stopped") {
		t.Errorf("the daemon ended with %v\n%s", err, log.String())
	}
	if strings.Contains(log.String(), secretToken) || strings.Contains(log.String(), company.Value+"\"") {
		t.Errorf("the log shows a secret or a NIP:\n%s", log.String())
	}
	close(release)
	if out, _ := p.run("", "status"); strings.Contains(out, "canceled") {
		t.Errorf("status takes a stop for an error:\n%s", out)
	}
	p.want(0, nil, "sync")
	p.want(0, []string{"30 invoices checked, 0 missing"}, "verify")
}

// Reading again is killed in its middle and goes on from there; it needs neither KSeF
// nor what logs in, and leaves the mirror to the daemon. Reading commands run beside it.
func TestReparse(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs more invoices than share a commit")
	}
	p := newPlace(t)
	p.generate(1100)
	p.want(0, nil, "sync")
	working := make(chan struct{})
	p.sim.Fault(ksefsim.Fault{Path: "/invoices/query/metadata", Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(working)
		<-r.Context().Done()
		next.ServeHTTP(w, r)
	}})
	daemon := p.command("run")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	<-working // so it has the lock
	p.want(4, []string{"another process"}, "reparse")
	if out := p.want(0, []string{"acme: 3 invoices"}, "invoices", "--limit", "3"); strings.Count(out, "\n") != 5 {
		t.Errorf("beside the daemon: %s", out)
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait() // it was killed
	asked := p.sim.Stats().Requests

	path := ksefsync.DatabasePath(filepath.Join(p.dir, "data", "acme"))
	writer, err := sql.Open("sqlite", path+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	sums := func() (sums string) {
		err := writer.QueryRow(`SELECT printf('%d %d %d', sum(gross_minor), count(seller_name), (SELECT count(*) FROM invoice_lines)) FROM invoices`).Scan(&sums)
		if err != nil {
			t.Fatal(err)
		}
		return sums
	}
	want, left := sums(), 0
	for try := 0; left == 0; try++ {
		if _, err := writer.Exec("UPDATE invoices SET parser_version = 1, gross_minor = 7, seller_name = NULL; DELETE FROM invoice_lines"); err != nil {
			t.Fatal(err)
		}
		reparse := p.command("reparse")
		if err := reparse.Start(); err != nil {
			t.Fatal(err)
		}
		for left = 1100; left == 1100; {
			if err := writer.QueryRow("SELECT count(*) FROM invoices WHERE parser_version = 1").Scan(&left); err != nil {
				t.Fatal(err)
			}
		}
		if err := reparse.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = reparse.Wait() // it was killed
		if err := writer.QueryRow("SELECT count(*) FROM invoices WHERE parser_version = 1").Scan(&left); err != nil {
			t.Fatal(err)
		}
		if try == 5 {
			t.Fatal("it is too fast to be killed in its middle")
		}
	}
	if out, _ := p.run("", "status"); !strings.Contains(out, fmt.Sprintf("%d invoices are still as an older version", left)) {
		t.Errorf("status:\n%s", out)
	}
	if err := os.RemoveAll(filepath.Join(p.dir, "secrets")); err != nil {
		t.Fatal(err)
	}
	p.want(0, []string{fmt.Sprintf("acme: %d invoices read again, 0 of them kept as they were, 0 damaged", left)}, "reparse")
	if got := sums(); got != want {
		t.Errorf("%s after it was killed, %s before", got, want)
	}
	p.want(0, []string{"acme: 0 invoices read again"}, "reparse")
	p.want(0, []string{"acme: 1100 invoices read again"}, "reparse", "--all")
	if got := sums(); got != want {
		t.Errorf("%s after all were read again, %s before", got, want)
	}
	if got := p.sim.Stats().Requests; got != asked {
		t.Errorf("%d requests", got-asked)
	}
}

// The plan of an installation, and that showing it changes nothing.
func TestServicePrint(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the unit is systemd's")
	}
	p := &place{t: t, dir: t.TempDir()}
	p.want(0, []string{"service install, then"}, "config", "init", "--service", "--name", "acme", "--environment", "test", "--context", "nip:5265877635", "--config", "config.toml")
	cmd := p.command("service", "install", "--print")
	var unit, plan bytes.Buffer
	cmd.Stdout, cmd.Stderr = &unit, &plan
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, plan.String())
	}
	for _, line := range []string{"Type=notify", "StateDirectory=ksefmirror", "LoadCredential=acme.token:" + p.dir + "/secrets/acme.token", "MemoryDenyWriteExecute=yes"} {
		if !strings.HasPrefix(unit.String(), "[Unit]\n") || !strings.Contains(unit.String(), "\n"+line+"\n") {
			t.Errorf("no %q in the unit:\n%s", line, unit.String())
		}
	}
	for _, text := range []string{"would:", "system user", "/etc/systemd/system/ksefmirror.service"} {
		if !strings.Contains(plan.String(), text) {
			t.Errorf("no %q in the plan:\n%s", text, plan.String())
		}
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, the folder holds %v", err, entries)
	}
	p.want(2, nil, "--config", "nowhere.toml", "service", "install", "--print")
	p.want(2, []string{"unknown command"}, "service", "instal")
	p.want(1, []string{"for Windows"}, "run", "--windows-service")
}

// What a service manager sees of the program, from its start to its end: the
// notifications of systemd's protocol, and exit codes on which it acts.
func TestRunUnderAServiceManager(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has another protocol, which package service tests")
	}
	p := newPlace(t)
	p.generate(5)
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := socket.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	hear := func(want string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for {
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("%q never came: %v", want, err)
			}
			if strings.Contains(string(buffer[:n]), want) {
				return
			}
		}
	}
	daemon := p.command("run")
	daemon.Env = append(daemon.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	var log bytes.Buffer
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	hear("READY=1")
	hear("STATUS=1 mirror, all in order\nWATCHDOG=1")
	hear("WATCHDOG=1")
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if err := daemon.Wait(); err != nil {
		t.Errorf("told to stop it ended with %v\n%s", err, log.String())
	}

	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.want(2, nil, "run")
}

// Processes that ask at the same time, beside the daemon, share one budget to the
// last request: KSeF sees all that it allows and nothing more, though one of them
// is killed with its request under way.
func TestRemoteBesideDaemon(t *testing.T) {
	t.Parallel()
	const allowed, together = 7, 12
	p := newPlaceWith(t, ksef.Limits{ksef.GroupDownload: {PerHour: allowed}})
	p.generate(1)
	p.want(0, nil, "sync") // one download; the daemon has nothing more to fetch
	daemon := p.command("run")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	}()
	var number string
	for _, role := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		for _, s := range p.sim.Listed(company, role) {
			number = string(s.Number)
		}
	}

	asked := make(chan struct{})
	p.sim.Fault(ksefsim.Fault{Path: "/invoices/ksef/*", Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(asked)
		<-r.Context().Done()
		next.ServeHTTP(w, r)
	}})
	killed := p.command("remote", "download", number, "--fresh", "-o", "killed.xml")
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // it was killed

	var commands []*exec.Cmd
	for i := range together {
		cmd := p.command("remote", "download", number, "--fresh", "-o", fmt.Sprintf("%d.xml", i))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, cmd)
	}
	codes := map[int]int{}
	for _, cmd := range commands {
		_ = cmd.Wait() // the exit code tells
		codes[cmd.ProcessState.ExitCode()]++
	}
	stats := p.sim.Stats()
	const left = allowed - 2 // one for sync, one for the killed
	if codes[0] != left || codes[5] != together-codes[0] || stats.ByGroup[ksef.GroupDownload] != allowed || stats.TooMany != 0 {
		t.Errorf("exit codes %v, %d downloads reached KSeF of %d, %d answers 429", codes, stats.ByGroup[ksef.GroupDownload], allowed, stats.TooMany)
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "*.xml"))
	if err != nil || len(files) != left {
		t.Errorf("%d files, %v", len(files), err)
	}
}

func TestDemo(t *testing.T) {
	long(t)
	t.Parallel()
	p := &place{t: t, dir: t.TempDir()}
	p.want(0, []string{"Mirrored 1000 invoices", "1000 in 4 packages", "Mirrored those too: 20 one by one", "1020 files in all", "v_invoices"}, "demo", "--dir", "demo")
	p.want(0, []string{"demo: in order (1020 invoices"}, "--config", "demo/config.toml", "status")
	p.want(0, []string{"1020 invoices checked, 0 missing"}, "--config", "demo/config.toml", "verify")
}

// simulate prints a configuration that works as it stands.
func TestSimulate(t *testing.T) {
	p := &place{t: t, dir: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	simulator := p.command("simulate", "--listen", "127.0.0.1:0", "--generate", "25", "--limits", "off")
	simulator.Cancel = nil
	out, err := simulator.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := simulator.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = simulator.Process.Kill() })
	defer stop()
	var text []byte
	for !bytes.Contains(text, []byte("Ctrl-C")) {
		chunk := make([]byte, 4096)
		n, err := out.Read(chunk)
		if err != nil {
			t.Fatalf("simulate ended: %v\n%s", err, text)
		}
		text = append(text, chunk[:n]...)
	}
	printed := regexp.MustCompile(`(?s)\[mirror\.simulated\].*env:KSEF_TOKEN"\n`).Find(text)
	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), printed, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KSEF_TOKEN", "simulated-token")
	p.want(0, nil, "sync")
	p.want(0, []string{"25 invoices checked"}, "verify")
	if runtime.GOOS != "windows" {
		if err := simulator.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		rest := new(bytes.Buffer)
		if _, err := rest.ReadFrom(out); err != nil {
			t.Fatal(err)
		}
		if err := simulator.Wait(); err != nil || !strings.Contains(rest.String(), "refused 0 for limits, 0 broke the specification") {
			t.Errorf("simulate ended with %v: %s", err, rest)
		}
	}
}

// The README has every command that the program has, and no other.
func TestReadmeHasEveryCommand(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, dir: t.TempDir()}
	var has []string
	groups := []string{"config", "remote", "auth", "service"}
	for _, parent := range append([]string{""}, groups...) {
		args := append(strings.Fields(parent), "--help")
		help, _ := p.run("", args...)
		_, list, _ := strings.Cut(help, "Available Commands:\n")
		list, _, _ = strings.Cut(list, "\n\n")
		for line := range strings.Lines(list) {
			name, _, ok := strings.Cut(strings.TrimSpace(line), " ")
			if ok && name != "completion" && name != "help" && (parent != "" || !slices.Contains(groups, name)) {
				has = append(has, strings.TrimSpace(parent+" "+name))
			}
		}
	}
	if len(has) < 15 {
		t.Fatalf("found only the commands %q", has)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+( [a-z-]+)?)[` ]").FindAllStringSubmatch(string(readme), -1)
	documented := map[string]bool{}
	for _, row := range rows {
		documented[row[1]] = true
	}
	for _, name := range has {
		if !documented[name] {
			t.Errorf("README.md does not describe %q", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("README.md describes %q, which the program does not have", name)
	}
}
