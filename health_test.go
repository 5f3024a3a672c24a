package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ksefmirror/internal/health"
	"ksefmirror/internal/ksefsim"
)

// eventually waits for what another process does beside its work.
func (p *place) eventually(what string, is func() bool) {
	p.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-ticker.C {
		if time.Now().After(deadline) {
			p.t.Fatalf("it never comes: %s", what)
		}
	}
}

// get gives what is at an address; "" if nobody answers.
func (p *place) get(address string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // for the program
	return listener.Addr().String()
}

// waiter is a service that waits for pings.
type waiter struct {
	mu   sync.Mutex
	took []string
}

func (w *waiter) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, r.URL.Path)
}

func (w *waiter) pings() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.took, " ")
}

// How a mirror is shows alike wherever one looks: in the metrics, the STATUS file,
// status, the log and the pings; while it goes well and when a permission is taken
// away.
func TestSeeingItWork(t *testing.T) {
	t.Parallel()
	var pinged waiter
	pings := httptest.NewServer(&pinged)
	defer pings.Close()
	p := newSimulator(t, ksefsim.Options{}, nil)
	p.sim.AddToken(company, secretToken)
	p.generate(6)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("secrets/acme.ping", []byte(pings.URL+"/check\n"))
	address := freeAddress(t)
	table := strings.Replace(p.table("acme", company.Value, `token = "file:secrets/acme.token"`), "[mirror.acme.auth]", "ping_url = \"file:secrets/acme.ping\"\n[mirror.acme.auth]", 1)
	p.put("config.toml", []byte(fmt.Sprintf("metrics = %q\n", address)+table))
	file := filepath.Join(p.dir, "data", "acme", health.FileName)
	text := func() string {
		content, _ := os.ReadFile(file) // it may not be there yet
		return string(content)
	}
	metrics := func() string { return p.get("http://" + address + "/metrics") }

	p.want(1, []string{`"kind": "never_run"`, `"streams": []`, `"waiting": []`, `"budget": []`}, "status", "--json")
	d := p.daemon()
	d.until(`"event":100`)
	for range 4 {
		d.until("cycle done", `"ok":true`)
	}
	p.eventually("metrics", func() bool { return strings.Contains(metrics(), `ksefmirror_invoices{mirror="acme"} 6`) })
	p.eventually("STATUS file", func() bool { return strings.Contains(text(), "6 in all.") })
	p.eventually("pings", func() bool { return strings.HasPrefix(pinged.pings(), "/check/start /check") })
	parser := expfmt.NewTextParser(model.LegacyValidation)
	told := metrics()
	families, err := parser.TextToMetricFamilies(strings.NewReader(told))
	if err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	for _, name := range []string{
		"ksefmirror_watermark_timestamp_seconds", "ksefmirror_last_success_timestamp_seconds", "ksefmirror_requests_total", "ksefmirror_cycles_total",
		"ksefmirror_budget_used_requests", "ksefmirror_credential_end_timestamp_seconds", "ksefmirror_volume_free_bytes", "ksefmirror_build_info",
	} {
		if len(families[name].GetMetric()) == 0 {
			t.Errorf("no %s in\n%s", name, told)
		}
	}
	if !strings.Contains(told, `ksefmirror_level{mirror="acme"} 0`) || strings.Contains(told, company.Value) {
		t.Errorf("it tells\n%s", told)
	}
	if !strings.HasPrefix(text(), "acme: in order\n") || !strings.Contains(text(), "KSeF tokens end on 31 December 2026") {
		t.Errorf("it says\n%s", text())
	}

	p.sim.Fault(ksefsim.Forbidden("/invoices/query/metadata", 0, "missing-permissions"))
	p.eventually("metrics", func() bool {
		told := metrics()
		return strings.Contains(told, `ksefmirror_notices{kind="permission",mirror="acme"} 1`) && strings.Contains(told, `ksefmirror_level{mirror="acme"} 2`) &&
			strings.Contains(told, `status="403"`)
	})
	p.eventually("STATUS file", func() bool { return strings.HasPrefix(text(), "acme: someone must act\n") })
	p.eventually("ping", func() bool { return strings.HasSuffix(pinged.pings(), "/check/start /check/fail") })
	out := p.want(2, nil, "status", "--json")
	var all []struct {
		Name           string `json:"name"`
		Level          int    `json:"level"`
		CredentialEnds string `json:"credential_ends"`
		Notices        []struct {
			Kind  string `json:"kind"`
			Level int    `json:"level"`
			Role  string `json:"role"`
			Text  string `json:"text"`
		} `json:"notices"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Level != 2 || len(all[0].Notices) < 2 || all[0].CredentialEnds != "2026-12-31T23:00:00Z" {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := all[0].Notices[0]; n.Kind != "permission" || n.Level != 2 || !strings.Contains(text(), n.Text) {
		t.Errorf("status says %+v, the file\n%s", n, text())
	}
	if log := d.stop(); !strings.Contains(log, `"event":207,"kind":"permission"`) || !strings.Contains(log, `"event":101`) || strings.Contains(log, `"kind":"no_success"`) {
		t.Errorf("the log says\n%s", log)
	}
	p.sim.ClearFaults()
	p.want(0, nil, "sync")
	if !strings.HasPrefix(text(), "acme: in order\n") {
		t.Errorf("it says\n%s", text())
	}
}

// doctor finds what is broken, line by line, while the daemon holds the lock.
func TestDoctor(t *testing.T) {
	long(t)
	t.Parallel()
	var behind time.Duration
	p := newSimulator(t, ksefsim.Options{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-behind).UTC().Format(http.TimeFormat))
			next.ServeHTTP(w, r)
		})
	})
	p.sim.AddToken(company, secretToken)
	p.generate(3)
	p.put("secrets/acme.token", []byte(secretToken))
	p.put("config.toml", []byte(p.table("acme", company.Value, `token = "file:secrets/acme.token"`)))
	d := p.daemon()
	for range 4 {
		d.until("cycle done", `"ok":true`)
	}
	before := p.sim.Stats().Requests
	p.want(0, []string{
		"ok    configuration: ", "ok    open files: ", "/v2: name: 127.0.0.1", "/v2: answer: KSeF answers", "/v2: clock: as KSeF's",
		"ok    acme: credentials: a token, until 2026-12-31 23:00 UTC", "ok    acme: folder: ", "ok    acme: disk: ", "warn  acme: credential_ends: ",
	}, "doctor")
	p.want(0, []string{"ok    acme: login: KSeF lets it in"}, "doctor", "acme", "--login")
	d.stop()
	if before == p.sim.Stats().Requests {
		t.Error("nothing was asked")
	}

	// Everything is broken that can be.
	behind = 2 * time.Hour
	expired := certify(t, seal(t, company.Value).key, pkix.Name{Country: []string{"PL"}, CommonName: "Firma"}, func(c *x509.Certificate) {
		c.NotAfter = time.Now().AddDate(0, 0, -1)
	})
	p.putPair("expired", expired)
	beacon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"FAILURE","messages":[{"title":"Awaria"}]}`)
	}))
	defer beacon.Close()
	broken := strings.Replace(p.table("expired", company.Value, byCertificate("expired")), "interval", fmt.Sprintf("latarnia_url = %q\ninterval", beacon.URL), 1)
	nowhere := strings.NewReplacer(p.url, "https://ksef.invalid/v2", "1s", "1m").Replace(p.table("nowhere", "6824515772", `token = "file:secrets/missing.token"`))
	p.put("config.toml", []byte(broken+nowhere))
	p.put("data/expired", []byte("in the way"))
	out := p.want(1, []string{
		"fail  configuration: ", "missing.token", "ahead of KSeF's", "timedatectl set-ntp true", "warn  Latarnia: the ministry says FAILURE; Awaria",
		"fail  expired: folder: ", "fail  expired: credential_unusable: ", "it ended on",
		"fail  https://ksef.invalid/v2: name: ksef.invalid", "see that",
	}, "doctor")
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "warn ") && !strings.HasPrefix(line, "fail ") {
			t.Errorf("a line begins with neither ok, warn nor fail: %s", line)
		}
	}
	p.want(2, []string{`no mirror "other"`}, "doctor", "other")
}
