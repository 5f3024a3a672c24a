package delivery

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G"

// verify is a receiver's side of Standard Webhooks, from its specification.
func verify(header http.Header, body []byte, secret string, now time.Time) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return err
	}
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return err
	}
	if age := now.Sub(time.Unix(seconds, 0)); age < -5*time.Minute || age > 5*time.Minute {
		return fmt.Errorf("it is %s old", age)
	}
	signed := hmac.New(sha256.New, key)
	signed.Write([]byte(id + "." + timestamp + "."))
	signed.Write(body)
	for _, signature := range strings.Fields(header.Get("webhook-signature")) {
		version, code, _ := strings.Cut(signature, ",")
		got, err := base64.StdEncoding.DecodeString(code)
		if version == "v1" && err == nil && hmac.Equal(got, signed.Sum(nil)) {
			return nil
		}
	}
	return errors.New("no signature fits")
}

// The specification's own example keeps both sides of this test from being wrong
// in the same way.
func TestSignature(t *testing.T) {
	key, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseSecret(t *testing.T) {
	for text, ok := range map[string]bool{
		testSecret: true, strings.TrimPrefix(testSecret, "whsec_"): true,
		"": false, "whsec_": false, "whsec_c2hvcnQ=": false, "not base64 at all, and long enough": false,
		"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 64)): true,
		"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)): false,
	} {
		_, err := ParseSecret(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && text != "" && text != "whsec_" && strings.Contains(err.Error(), strings.TrimPrefix(text, "whsec_")) {
			t.Errorf("the error shows %q", text)
		}
	}
}

const wantBody = `{"type":"invoices.stored","timestamp":"TIME","data":{"mirror":"acme","environment":"test","context":"nip:5265877635","invoices":[` +
	`{"mirror":"acme","ksef_number":"5265877635-20261105-000000000001-AF","roles":["buyer","third_party"],"path":"purchases/2026/11/1.xml",` +
	`"invoice_hash":"HASH","type":"Vat","form":"UNKNOWN","invoice_number":"FV/1","issue_date":"2026-11-05","received_date":"2026-11-05",` +
	`"stored_at":"2026-11-05T10:00:00.0000001Z","seller":{"nip":"7123306158","name":"Żaba \"Hop\" sp. z o.o."},` +
	`"buyer":{"id_type":"Nip","id":"5265877635","name":"Firma"},"currency":"PLN","net":null,"vat_pln":null,"gross":null}]}}`

// A request is what the contract says, and its signature holds for an independent
// receiver, at every attempt.
func TestWebhook(t *testing.T) {
	s := newStore(t, WebhookName)
	store(t, s, 1, 1)
	addRole(t, s, 1, "third_party")
	at := newClock()
	var bodies, ids []string
	answers := []int{500, 302, 429, 204}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verify(r.Header, body, testSecret, at.Now()); err != nil {
			t.Errorf("attempt %d: %v", len(bodies), err)
		}
		if err := verify(r.Header, append(body, ' '), testSecret, at.Now()); err == nil {
			t.Error("a changed body passes")
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.UserAgent() != "ksefmirror/test" || r.URL.Path != "/in" {
			t.Errorf("got %s %s, %v", r.Method, r.URL, r.Header)
		}
		bodies, ids = append(bodies, string(body)), append(ids, r.Header.Get("Webhook-Id"))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(answers[len(bodies)-1])
	}))
	defer server.Close()
	hook := NewWebhook(server.URL+"/in?key=1", "ksefmirror/test", func() (string, error) { return testSecret, nil })
	hook.Now = at.Now
	sender := New(s, testSource, []Receiver{hook}, discard(), at.Now)
	for _, want := range []string{
		"it answered 500 Internal Server Error", "it answered 302 Found: redirects are not followed; configure the address that it leads to", "it answered 429 Too Many Requests", "",
	} {
		sender.tell(t.Context(), hook, false, time.Time{})
		if got := state(t, s, WebhookName); got.LastError != want {
			t.Errorf("got %q, want %q", got.LastError, want)
		}
		at.advance(time.Hour)
	}
	invoices, err := s.NewInvoices(t.Context(), 0, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("TIME", invoices[0].FirstSeenAt.Format(time.RFC3339Nano), "HASH", invoices[0].Hash).Replace(wantBody)
	for i, body := range bodies {
		if body != want || ids[i] != ids[0] || len(ids[0]) != 32 {
			t.Errorf("attempt %d: %s under %s\nwant %s", i, body, ids[i], want)
		}
	}
	if len(bodies) != 4 || state(t, s, WebhookName).Behind != 0 {
		t.Errorf("%d attempts", len(bodies))
	}
}

// Whatever a receiver does, the request ends in time, what it answers is not read
// without end, and no error shows the address or the secret.
func TestWebhookInTrouble(t *testing.T) {
	const hidden = "canary-in-the-address"
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hangs":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case "/trickles", "/endless":
			w.WriteHeader(http.StatusInternalServerError)
			chunk := []byte(strings.Repeat("x", 32<<10))
			if r.URL.Path == "/trickles" {
				chunk = chunk[:1]
			}
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/echo":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, r.URL, r.Header)
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, test := range map[string]struct{ address, want string }{
		"hangs":      {server.URL + "/hangs", "no answer within 1s"},
		"trickles":   {server.URL + "/trickles", "it answered 500"},
		"endless":    {server.URL + "/endless", "it answered 500"},
		"gone":       {server.URL + "/gone", "it wants no more"},
		"echo":       {server.URL + "/echo", "it answered 400 Bad Request"},
		"not there":  {closed.URL, "connect"},
		"not TLS":    {strings.Replace(server.URL, "http:", "https:", 1), "HTTPS client"},
		"no address": {"http://[", "its address cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hook := NewWebhook(test.address+"?key="+hidden, "ksefmirror/test", func() (string, error) { return testSecret, nil })
			hook.Timeout = time.Minute // but it must not be needed
			if name == "hangs" {
				hook.Timeout = time.Second
			}
			began := time.Now()
			err := hook.Take(t.Context(), oneInvoice())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			if text := err.Error(); strings.Contains(text, hidden) || strings.Contains(text, testSecret[6:]) {
				t.Errorf("it shows a secret: %s", text)
			}
			if errors.Is(err, ErrGone) != (name == "gone") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// When the mirror is closed, a request ends at once.
func TestWebhookIsStopped(t *testing.T) {
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then the server notices the end
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	s := newStore(t, WebhookName)
	store(t, s, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	hook := NewWebhook(server.URL, "", func() (string, error) { return testSecret, nil })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		New(s, testSource, []Receiver{hook}, discard(), nil).Run(ctx)
	}()
	<-asked
	cancel()
	<-ended
	if got := state(t, s, WebhookName); got.Failures != 0 || got.OfferedID != 1 {
		t.Errorf("got %+v", got)
	}
}

// A backlog goes out a hundred at a time, in order.
func TestWebhookBacklog(t *testing.T) {
	s := newStore(t, WebhookName)
	store(t, s, 1, 250)
	var sizes []int
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sizes = append(sizes, strings.Count(string(body), `"ksef_number"`))
	}))
	defer server.Close()
	hook := NewWebhook(server.URL, "", func() (string, error) { return testSecret, nil })
	New(s, testSource, []Receiver{hook}, discard(), nil).Deliver(t.Context(), time.Time{})
	if !slices.Equal(sizes, []int{100, 100, 50}) {
		t.Errorf("the requests held %d", sizes)
	}
}
