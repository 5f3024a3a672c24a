package ksef

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBaseURL(t *testing.T) {
	for environment, want := range map[string]string{
		"test": "https://api-test.ksef.mf.gov.pl/v2", "demo": "https://api-demo.ksef.mf.gov.pl/v2", "prod": "https://api.ksef.mf.gov.pl/v2",
		"": "", "production": "",
	} {
		if got, ok := BaseURL(environment); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t; want %q", environment, got, ok, want)
		}
	}
}

func TestQueryMetadata(t *testing.T) {
	s := newStub(t)
	row := `{"ksefNumber":"5265877635-20261105-0100001AF629-AF","permanentStorageDate":"2026-11-05T10:00:00.1234567+00:00","grossAmount":100000000000000.01,"newField":{"a":1}}`
	s.on("POST /invoices/query/metadata", func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.RawQuery, "pageOffset=3&pageSize=250&sortOrder=Asc"; got != want {
			t.Errorf("got query %q, want %q", got, want)
		}
		body, _ := io.ReadAll(r.Body)
		if want := `{"subjectType":"Subject2","dateRange":{"dateType":"PermanentStorage","from":"2026-02-01T00:00:00Z","restrictToPermanentStorageHwmDate":true}}`; string(body) != want {
			t.Errorf("got body %s, want %s", body, want)
		}
		answer(200, "application/json", `{"hasMore":true,"isTruncated":true,"permanentStorageHwmDate":"2026-11-22T09:58:00+00:00","invoices":[`+row+`],"later":1}`)(w, r)
	})
	page, err := s.client.QueryMetadata(t.Context(), anyQuery, 3, 250)
	if err != nil {
		t.Fatal(err)
	}
	want := MetadataPage{HasMore: true, IsTruncated: true, HWM: "2026-11-22T09:58:00+00:00", Invoices: []Metadata{{
		KSeFNumber: "5265877635-20261105-0100001AF629-AF", Stored: "2026-11-05T10:00:00.1234567+00:00",
		GrossAmount: "100000000000000.01", Raw: json.RawMessage(row),
	}}}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestQueryMetadataRefusesPageOutOfRange(t *testing.T) {
	s := newStub(t)
	for _, p := range [][2]int{{-1, 250}, {0, 9}, {0, 251}} {
		if _, err := s.client.QueryMetadata(t.Context(), anyQuery, p[0], p[1]); err == nil {
			t.Errorf("page %d of size %d was not refused", p[0], p[1])
		}
	}
	if s.total() != 0 {
		t.Errorf("%d requests were sent", s.total())
	}
}

func TestDecodeMetadataPageRefuses(t *testing.T) {
	for _, body := range []string{
		``, `{}`, `null`, `[]`, `{"hasMore":false,"isTruncated":false}`, `{"hasMore":false,"isTruncated":false,"invoices":null}`,
		`{"hasMore":false,"invoices":[]}`, `{"isTruncated":false,"invoices":[]}`,
		`{"hasMore":false,"isTruncated":false,"invoices":[{"permanentStorageDate":"yesterday"}]}`,
		`{"hasMore":false,"isTruncated":false,"invoices":[]} <html>`, `{"hasMore":false,"isTruncated":false,"invoices":[{`,
	} {
		if page, err := decodeMetadataPage([]byte(body)); err == nil {
			t.Errorf("%s was read as %+v", body, page)
		}
	}
}

func TestInvoice(t *testing.T) {
	s := newStub(t)
	got, err := s.client.Invoice(t.Context(), anyNumber)
	if err != nil || string(got) != invoiceXML {
		t.Errorf("got %q, %v; want the bytes as served", got, err)
	}
}

func TestInvoiceHashMismatch(t *testing.T) {
	s := newStub(t)
	s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-ms-meta-hash", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
		answer(200, "application/xml", "<Faktura/>")(w, r)
	})
	got, err := s.client.Invoice(t.Context(), anyNumber)
	e, ok := errors.AsType[*Error](err)
	if string(got) != "<Faktura/>" || !ok || !e.Retryable() || !errors.Is(err, ErrHashMismatch) {
		t.Errorf("got %q, %v; want the bytes and ErrHashMismatch", got, err)
	}
}

func TestInvoiceRefuses(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		status int
		want   string
	}{
		{"page of a captive portal", answer(200, "text/html", "<html>log in"), 200, "type"},
		{"no type", answer(200, "", "<Faktura/>"), 200, "type"},
		{"empty", answer(200, "application/xml", ""), 200, "empty"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			answer(200, "application/xml", "<Faktura>")(w, r)
		}, 200, "EOF"},
		{"too long", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			_, _ = io.Copy(w, io.LimitReader(endless{}, maxInvoice+1))
		}, 200, "longer than"},
		{"never ending", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(200)
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "<")
				_ = http.NewResponseController(w).Flush()
				_ = sleep(r.Context(), nil, 5*time.Millisecond)
			}
		}, 200, "no whole answer within 300ms"},
		{"no answer", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 0, "EOF"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound) // following it would be an unexpected request
		}, 302, "redirect"},
		{"bad gateway", answer(502, "text/html", "<html><head><title>502 Bad\u202e Gateway</title></head>"), 502, "502 Bad Gateway"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			if err := s.client.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.client.timeout = 300 * time.Millisecond
			if tt.name == "too long" {
				s.client.timeout = 0
			}
			s.on("GET /invoices/ksef/{ksefNumber}", tt.answer)
			got, err := s.client.Invoice(t.Context(), anyNumber)
			e, ok := errors.AsType[*Error](err)
			if !ok || got != nil {
				t.Fatalf("got %d bytes and error %v, want an Error", len(got), err)
			}
			if e.HTTPStatus != tt.status || !strings.Contains(e.Error(), tt.want) || !e.Retryable() {
				t.Errorf("got status %d, retryable %t: %v; want status %d, retryable, %q", e.HTTPStatus, e.Retryable(), e, tt.status, tt.want)
			}
			if strings.Contains(e.Error(), "5265877635") {
				t.Errorf("the error holds a NIP: %v", e)
			}
			if n := s.count("GET /invoices/ksef/{ksefNumber}"); n != 1 {
				t.Errorf("sent %d requests, want 1", n)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestSentinels(t *testing.T) {
	tests := []struct {
		name      string
		answer    http.HandlerFunc
		want      error
		retryable bool
	}{
		{"nothing new", problem(400, 21183), ErrNothingNew, true},
		{"not available yet", problem(400, 21165), ErrNotAvailableYet, true},
		{"not found", problem(400, 21164), ErrNotFound, false},
		{"forbidden", forbidden("missing-permissions"), ErrForbidden, false},
		{"forbidden for a new reason", forbidden("full-moon"), ErrForbidden, false},
		{"unknown code", problem(400, 21001), nil, false},
		{"server error", problem(500, 1), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			s.on("POST /invoices/query/metadata", tt.answer)
			err := s.ask(t.Context())
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Retryable() != tt.retryable || tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && e.Err != nil {
				t.Errorf("got %v, want %v, retryable %t", err, tt.want, tt.retryable)
			}
			if n := s.count("POST /invoices/query/metadata"); n != 1 {
				t.Errorf("sent %d requests, want 1", n)
			}
		})
	}
}

func TestEveryAttemptIsLogged(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows := s.log.all(); len(rows) != 0 {
		t.Errorf("a login is not limited, but left %+v", rows)
	}
	answers := []http.HandlerFunc{
		nil, problem(400, 21164), problem(500, 1), answer(200, "text/html", ""),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
	for i, a := range answers {
		s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
			rows := s.log.all()
			if len(rows) != i+1 || rows[i].Group != "invoiceDownload" || rows[i].Start.IsZero() || !rows[i].End.IsZero() {
				t.Errorf("request %d came in while the log held %+v", i, rows)
			}
			if a == nil {
				a = answer(200, "application/xml", invoiceXML)
			}
			a(w, r)
		})
		_, _ = s.client.Invoice(t.Context(), anyNumber)
		if rows := s.log.all(); rows[i].End.IsZero() {
			t.Errorf("request %d has no end", i)
		}
	}
}

// A connection that dies makes net/http repeat a GET by itself when it had been
// used before. Such a repetition would not be counted.
func TestNoSilentRepetition(t *testing.T) {
	s := newStub(t)
	s.client.HTTPClient = NewHTTPClient() // one for all requests, so that it could keep connections
	if _, err := s.client.Invoice(t.Context(), anyNumber); err != nil {
		t.Fatal(err)
	}
	s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = connection.Close()
	})
	if _, err := s.client.Invoice(t.Context(), anyNumber); err == nil {
		t.Error("got no error")
	}
	if n, logged := s.count("GET /invoices/ksef/{ksefNumber}"), len(s.log.all()); n != 2 || logged != 2 {
		t.Errorf("KSeF received %d requests and %d were logged, want 2", n, logged)
	}
}

func TestHTTPClientSpeaksHTTP1(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Header.Get("Accept-Encoding"))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	client := NewHTTPClient()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	res, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if body, _ := io.ReadAll(res.Body); string(body) != "HTTP/1.1 " || !res.Close {
		t.Errorf("got %q, close %t; want HTTP/1.1 without compression, and a connection of its own", body, res.Close)
	}
}

func TestTooManyRequests(t *testing.T) {
	tests := []struct {
		name       string
		retryAfter string
		want       time.Duration
	}{
		{"seconds", "2680", 2681 * time.Second},
		{"missing", "", 5*time.Minute + time.Second},
		{"garbage", "soon", 5*time.Minute + time.Second},
		{"date", "Wed, 22 Nov 2028 11:00:00 GMT", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				// A block holds even if the body is cut off.
				w.Header().Set("Content-Length", "500")
				answer(429, "application/json", `{"status":{"code":429`)(w, r)
			})
			if err := s.client.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := s.client.Invoice(t.Context(), anyNumber)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.HTTPStatus != 429 || !e.Retryable() {
				t.Errorf("got %v, want a retryable Error of status 429", err)
			}
			until := s.clock.Now().Add(tt.want)
			if tt.name == "date" {
				until = time.Date(2026, 11, 22, 11, 0, 1, 0, time.UTC)
			}
			wantBudgetError(t, err, GroupDownload, until)
			_, err = s.client.Invoice(t.Context(), anyNumber)
			wantBudgetError(t, err, GroupDownload, until)
			if n := s.count("GET /invoices/ksef/{ksefNumber}"); n != 1 {
				t.Errorf("sent %d requests, want 1", n)
			}
			if got, want := s.log.blocks["invoiceDownload"], until.AddDate(2, 0, 0); !got.Equal(want) {
				t.Errorf("noted a block until %s, want %s", got, want)
			}
			if err := s.ask(t.Context()); err != nil {
				t.Errorf("another group is blocked too: %v", err)
			}
		})
	}
}

func TestBlockedByFirewall(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"problem details", forbidden("security-service-blocked")},
		{"page", answer(403, "text/html", "<title>Request blocked</title>")},
		{"nothing", answer(403, "", "")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			s.on("POST /invoices/query/metadata", tt.answer)
			err := s.ask(t.Context())
			e, ok := errors.AsType[*Error](err)
			if !ok || !e.Retryable() || errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want a retryable Error that is not ErrForbidden", err)
			}
			until := s.clock.Now().Add(30 * time.Minute)
			wantBudgetError(t, err, "*", until)
			sent := s.total()
			_, err = s.client.Invoice(t.Context(), anyNumber)
			wantBudgetError(t, err, "*", until)

			// After a restart only the challenge is asked for, which tells the time.
			s.client = s.newClient()
			err = s.ask(t.Context())
			wantBudgetError(t, err, "*", until.Add(otherProcess))
			if got := s.total() - sent; got != 1 || s.count("POST /auth/challenge") != 2 {
				t.Errorf("%d requests were sent while blocked, want the challenge alone", got)
			}
			s.on("POST /invoices/query/metadata", nil)
			s.clock.advance(31 * time.Minute)
			if err := s.ask(t.Context()); err != nil {
				t.Errorf("still blocked: %v", err)
			}
		})
	}
}

func TestRateLimits(t *testing.T) {
	s := newStub(t)
	got, err := s.client.RateLimits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Limits{GroupDownload: {1, 2, 3}, "global": {PerSecond: 9}}, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	if left, _ := s.client.Limiter.Budget(GroupDownload); left != 3 {
		t.Errorf("the limiter allows %d an hour, want 3", left)
	}
	for _, body := range []string{``, `[]`, `{}`, `null`, `{"other":{}}`} {
		if limits, err := decodeLimits([]byte(body)); err == nil {
			t.Errorf("%s was read as %v", body, limits)
		}
	}
}

func TestSystemWarningIsLoggedOnce(t *testing.T) {
	s := newStub(t)
	s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-System-Warning", "[17]: old\tAPI for 5265877635 "+strings.Repeat("x", 2000))
		answer(200, "application/xml", invoiceXML)(w, r)
	})
	for range 3 {
		if _, err := s.client.Invoice(t.Context(), anyNumber); err != nil {
			t.Fatal(err)
		}
	}
	log := s.printed.String()
	if n := strings.Count(log, "[17]: old API for [NIP] xxx"); n != 1 || strings.Count(log, "x") > 600 {
		t.Errorf("the warning was logged %d times, want once and cut:\n%s", n, log)
	}
}

func TestCancelledContext(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	_, err := s.client.Invoice(ctx, anyNumber)
	if _, isError := errors.AsType[*Error](err); isError || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if rows := s.log.all(); len(rows) != 1 || rows[0].End.IsZero() {
		t.Errorf("the log holds %+v, want one request with its end", rows)
	}
	sent := s.total()
	if _, err := s.client.Invoice(ctx, anyNumber); !errors.Is(err, context.Canceled) || s.total() != sent {
		t.Errorf("got %v and %d requests, want none", err, s.total()-sent)
	}
}

// The attempt's own timeout must not look like the caller's context ending.
func TestTimeoutIsNotCancellation(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.client.timeout = 50 * time.Millisecond
	s.on("GET /invoices/ksef/{ksefNumber}", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := s.client.Invoice(t.Context(), anyNumber)
	if _, ok := errors.AsType[*Error](err); !ok || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an Error that is not the context's", err)
	}
}

func TestNothingToConfigure(t *testing.T) {
	s := newStub(t)
	s.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("User-Agent"); got != "ksefmirror" {
			t.Errorf("got User-Agent %q, want ksefmirror", got)
		}
		r.Header.Set("User-Agent", "ksefmirror/test")
		s.serve(w, r)
	})
	c := s.newClient()
	c.UserAgent, c.Log = "", nil
	if err := c.Login(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLimitLogFailureIsOnlyLogged(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.on("GET /invoices/ksef/{ksefNumber}", func(w http.ResponseWriter, r *http.Request) {
		s.log.mu.Lock()
		s.log.err = errors.New("disk full")
		s.log.mu.Unlock()
		answer(200, "application/xml", invoiceXML)(w, r)
	})
	if got, err := s.client.Invoice(t.Context(), anyNumber); err != nil || !bytes.Equal(got, []byte(invoiceXML)) {
		t.Errorf("got %q, %v; an invoice that came must not be thrown away", got, err)
	}
	if !strings.Contains(s.printed.String(), "disk full") {
		t.Error("the failure was not logged")
	}
}
