package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
)

const pingSecret = "canary-in-the-ping-url"

func TestPing(t *testing.T) {
	var asked []string
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer server.Close()
	var log bytes.Buffer
	address := server.URL + "/" + pingSecret + "/"
	var unreadable error
	p := &pinger{url: func() (string, error) { return address, unreadable }, log: slog.New(slog.NewTextHandler(&log, nil))}

	p.send(t.Context(), "/start")
	p.send(t.Context(), "")
	p.send(t.Context(), "/fail")
	if want := []string{"GET /" + pingSecret + "/start", "GET /" + pingSecret, "GET /" + pingSecret + "/fail"}; !slices.Equal(asked, want) || log.Len() > 0 {
		t.Errorf("asked %q\n%s", asked, log.String())
	}

	// Each kind of failure is logged when it begins, tried once, and tells nothing of
	// the address.
	for name, breakIt := range map[string]func(){
		"HTTP 404":                 func() { status = http.StatusNotFound },
		"HTTP 302":                 func() { status = http.StatusFound },
		"no such file":             func() { unreadable = errors.New("no such file") },
		"could not be reached":     func() { address = "http://127.0.0.1:1/" + pingSecret },
		"want an address":          func() { address = "ftp://" + pingSecret },
		"ping_url: want":           func() { address = "http://[" + pingSecret },
		"reached; see that this":   func() { address = "http://" + pingSecret + ".invalid/" + pingSecret },
		"ping_url: want an addres": func() { address = "https://%zz" + pingSecret },
	} {
		status, unreadable, address = http.StatusOK, nil, server.URL+"/"+pingSecret
		p.send(t.Context(), "")
		log.Reset()
		breakIt()
		asked = nil
		p.send(t.Context(), "")
		p.send(t.Context(), "/fail")
		if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, name) || !strings.Contains(said, "event=123") || strings.Contains(said, pingSecret) {
			t.Errorf("%s: it says\n%s", name, said)
		}
		if len(asked) > 2 {
			t.Errorf("%s: asked %d times", name, len(asked))
		}
	}
	(*pinger)(nil).send(t.Context(), "")
}

// What a watcher is told never waits for it, and comes out in order: whoever waits
// for pings hears of the beginning and of how it ended. That the limits allow no
// more is no failure, and neither is that quiet hours have begun.
func TestWatcherPings(t *testing.T) {
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer server.Close()
	m := Mirror{Mirror: config.Mirror{Name: "acme", Dir: t.TempDir()}, Login: func(time.Time) LoginState { return LoginState{} }}
	metrics := NewMetrics("1")
	w := NewWatcher(m, metrics, NewTurns(), func() (string, error) { return server.URL, nil }, slog.New(slog.DiscardHandler))
	for range 1000 { // nobody listens yet
		w.Begin()
	}
	for range cap(w.moments) {
		<-w.moments
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.Run(ctx); close(ended) }()
	limit := fmt.Errorf("buyer: %w", &ksef.BudgetError{Group: ksef.GroupMetadata, Until: time.Now()})
	for i, each := range []struct {
		tell func()
		want string
	}{
		{w.Begin, "/start"}, {func() { w.End(nil) }, ""},
		{w.Begin, "/start"}, {func() { w.End(errors.New("HTTP 502")) }, "/fail"},
		{w.Begin, "/start"}, {func() { w.End(limit) }, ""},
		{func() { w.End(errors.Join(errors.New("seller: HTTP 403"), limit)) }, "/fail"}, // which the limits do not hide
		{func() { w.Stopped(limit) }, ""}, {func() { w.Stopped(errors.New("seller: HTTP 403")) }, "/fail"},
	} {
		each.tell()
		if got := <-asked; strings.TrimSuffix(got, "/") != each.want {
			t.Errorf("ping %d was %q, want %q", i, got, each.want)
		}
	}
	stop()
	<-ended
	text := gather(t, metrics)
	for _, want := range []string{`ksefmirror_cycles_total{mirror="acme",result="ok"} 1`, `result="failed"} 3`, `result="limited"} 1`, `ksefmirror_notices{kind="never_run",mirror="acme"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// An address that never answers is given up, and the mirror does not notice.
func TestPingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pinger{url: func() (string, error) { return "http://127.0.0.1/", nil }}
		p.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		if err := p.try(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no answer within 10s") || time.Since(began) != pingTimeout {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
