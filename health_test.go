package main

import (
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

	d := p.daemon()
	d.until(`"event":100`)
	for range 4 {
		d.until("cycle done", `"ok":true`)
	}
	p.eventually("metrics", func() bool { return strings.Contains(metrics(), `ksefmirror_invoices{mirror="acme"} 6`) })
	p.eventually("STATUS file", func() bool { return strings.Contains(text(), "6 in all.") })
	p.eventually("pings", func() bool { return strings.HasPrefix(pinged.pings(), "/check/start /check") })
	var parser expfmt.TextParser
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
	if n := all[0].Notices[0]; n.Kind != "permission" || n.Level != 2 || n.Role != "" || !strings.Contains(text(), n.Text) {
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
