package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
)

// Whatever goes wrong, the log at its usual level names invoices without the NIPs of
// their sellers, files without the names of companies, and the company not at all; and
// what it calls an invoice is enough for show.
func TestLogHoldsNoNIP(t *testing.T) {
	long(t)
	t.Parallel()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.sim.AddToken(company, secretToken)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("config.toml", []byte(p.table("acme", company.Value, byToken)))
	p.generate(24)

	known := map[string]bool{company.Value: true}
	nips := regexp.MustCompile(`<(?:\w+:)?NIP>([0-9]{10})<`)
	var numbers []ksef.Number
	for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		for _, stored := range p.sim.Listed(company, subject) {
			numbers = append(numbers, stored.Number)
			known[string(stored.Number[:10])] = true
			for _, found := range nips.FindAllSubmatch(stored.XML, -1) {
				known[string(found[1])] = true
			}
		}
	}
	if len(known) < 8 {
		t.Fatalf("only %d NIPs are known", len(known))
	}
	damaged, refused := numbers[0], numbers[len(numbers)/2]
	change := func([]byte) []byte { return []byte("<Faktura/>") }
	p.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/"+string(damaged), 0, change))
	p.sim.Fault(ksefsim.Answer("/invoices/ksef/"+string(refused), 0, http.StatusBadRequest, http.Header{"Content-Type": {"application/problem+json"}},
		`{"title":"Bad Request","status":400,"detail":"Podmiot o NIP `+company.Value+` nie ma dostępu do `+string(refused)+`.","errors":[{"code":21405,"description":"Błąd","details":["nip:`+company.Value+`"]}]}`))

	// By hand, with standard error apart, as cron would have it.
	var said strings.Builder
	sync := p.command("sync")
	sync.Stderr = &said
	if out, err := sync.Output(); !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("nothing went wrong: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "data", "acme", "invoices", "*", "*", "*", "*.xml"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}

	// The daemon, which finds a file gone, one changed, and a folder in the place of one;
	// and a configuration that names the company twice.
	if runtime.GOOS != "windows" {
		for _, file := range files[:3] {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(files[1], []byte("changed"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(files[2], 0o700); err != nil {
			t.Fatal(err)
		}
		log, err := os.Create(filepath.Join(p.dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = log.Close() }() // it is the daemon's
		d := p.command("run")
		d.Stderr = log
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		logged := func() string {
			content, err := os.ReadFile(log.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
		p.eventually("files restored", func() bool { return strings.Contains(logged(), "restored from the database") })
		p.put("config.toml", []byte(p.table("acme", company.Value, byToken)+p.table("acme2", company.Value, byToken)))
		p.eventually("mistake", func() bool { return strings.Contains(logged(), "has a mistake") })
		if err := d.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := d.Wait(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		said.WriteString(logged())
		p.put("config.toml", []byte(p.table("acme", company.Value, byToken)))
	}
	// What it ends with stands where the log does.
	end := p.command("--config", "twice.toml", "run")
	p.put("twice.toml", []byte(p.table("acme", company.Value, byToken)+p.table("acme2", company.Value, byToken)))
	end.Stderr = &said
	if err := end.Run(); end.ProcessState.ExitCode() != 2 {
		t.Errorf("with a mistake it ends with %v", err)
	}
	log := said.String()
	if n := strings.Count(log, "want a context that"); n != 2 && runtime.GOOS != "windows" {
		t.Errorf("%d mistakes were told", n)
	}
	for nip := range known {
		if strings.Contains(log, nip) {
			t.Errorf("the NIP %s is in the log", nip)
		}
	}
	for _, number := range []ksef.Number{damaged, refused} {
		if !strings.Contains(log, `"…`+string(number[10:])+`"`) {
			t.Errorf("the log does not name %s", number)
		}
	}
	if t.Failed() {
		t.Log(log)
	}

	// A number as the log has it.
	stored := tree.NumberOf(filepath.ToSlash(files[0]))
	for _, short := range []string{"…" + stored[10:], stored[11:]} {
		p.want(0, []string{"KSeF number   " + stored}, "show", "acme", short)
	}
	p.want(0, []string{`"` + stored + `"`}, "show", "acme", stored[11:], "--json")
	p.want(1, []string{"…" + string(damaged[10:]), "not in the database"}, "show", "acme", string(damaged[11:]))
	p.want(2, []string{"want NIP-"}, "show", "acme", stored[12:])
}
