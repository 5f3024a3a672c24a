package ksef

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	challengeEndpoint = "POST /auth/challenge"
	keysEndpoint      = "GET /security/public-key-certificates"
	startEndpoint     = "POST /auth/ksef-token"
	statusEndpoint    = "GET /auth/{referenceNumber}"
	redeemEndpoint    = "POST /auth/token/redeem"
	refreshEndpoint   = "POST /auth/token/refresh"
	queryEndpoint     = "POST /invoices/query/metadata"
)

func (s *stub) wantCounts(t *testing.T, want map[string]int) {
	t.Helper()
	for endpoint, n := range want {
		if got := s.count(endpoint); got != n {
			t.Errorf("%s was called %d times, want %d", endpoint, got, n)
		}
	}
}

func TestLogin(t *testing.T) {
	s := newStub(t) // which checks what is sent
	for range 2 {
		if err := s.client.Login(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.wantCounts(t, map[string]int{challengeEndpoint: 1, keysEndpoint: 1, startEndpoint: 1, statusEndpoint: 2, redeemEndpoint: 1, refreshEndpoint: 0})
}

func TestOneLoginAtATime(t *testing.T) {
	s := newStub(t)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			if err := s.ask(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	s.wantCounts(t, map[string]int{startEndpoint: 1, refreshEndpoint: 0, queryEndpoint: 8})
}

func TestRefresh(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(12*time.Minute + 50*time.Second) // it is valid for 15
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{refreshEndpoint: 0})
	s.clock.advance(15 * time.Second)
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{refreshEndpoint: 1, startEndpoint: 1, challengeEndpoint: 1})

	s.clock.advance(6 * 24 * time.Hour) // only the time is asked anew
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{refreshEndpoint: 2, startEndpoint: 1, challengeEndpoint: 2})

	s.clock.advance(24 * time.Hour) // the refresh token ends
	if err := s.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{refreshEndpoint: 2, startEndpoint: 2, challengeEndpoint: 3, keysEndpoint: 2})
}

func TestUnauthorized(t *testing.T) {
	t.Run("once", func(t *testing.T) {
		s := newStub(t)
		s.once(queryEndpoint, answer(401, "application/problem+json", `{}`))
		if err := s.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.wantCounts(t, map[string]int{queryEndpoint: 2, refreshEndpoint: 1, startEndpoint: 1})
		if n := len(s.log.all()); n != 2 {
			t.Errorf("logged %d requests, want 2", n)
		}
	})
	t.Run("again and again", func(t *testing.T) {
		s := newStub(t)
		s.on(queryEndpoint, answer(401, "application/problem+json", `{}`))
		err := s.ask(t.Context())
		if e, ok := errors.AsType[*Error](err); !ok || e.HTTPStatus != 401 || !e.Retryable() {
			t.Errorf("got %v, want a retryable Error of status 401", err)
		}
		s.wantCounts(t, map[string]int{queryEndpoint: 2, refreshEndpoint: 1, startEndpoint: 1})
	})
}

func TestRefreshRefused(t *testing.T) {
	tests := []struct {
		name    string
		refresh http.HandlerFunc
		logins  int
		wantErr bool
	}{
		{"400", problem(400, 21301), 2, false},
		{"401", problem(401, 0), 2, false},
		{"no tokens any more", forbidden("auth-method-not-allowed"), 2, false}, // the login will tell
		{"503", answer(503, "text/html", ""), 1, true},
		{"garbage", answer(200, "application/json", `{"accessToken":{"token":"CANARY"}}`), 1, true},
		{"no token", answer(200, "application/json", `{}`), 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			if err := s.client.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.clock.advance(20 * time.Minute)
			s.on(refreshEndpoint, tt.refresh)
			err := s.client.Login(t.Context())
			if (err != nil) != tt.wantErr {
				t.Errorf("got %v, want error %t", err, tt.wantErr)
			}
			s.wantCounts(t, map[string]int{refreshEndpoint: 1, startEndpoint: tt.logins})
		})
	}
}

func TestRefreshRefusedAndLoginToo(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(20 * time.Minute)
	s.on(refreshEndpoint, problem(400, 21301))
	s.on(statusEndpoint, loginStatusAnswer(450))
	for range 3 {
		if err := s.ask(t.Context()); !isTerminal(err) {
			t.Errorf("got %v, want a terminal LoginError", err)
		}
	}
	s.wantCounts(t, map[string]int{refreshEndpoint: 1, startEndpoint: 2, queryEndpoint: 0})
}

func isTerminal(err error) bool {
	e, ok := errors.AsType[*LoginError](err)
	return ok && e.Terminal
}

func TestLoginStatuses(t *testing.T) {
	tests := []struct {
		status   int
		terminal bool
		says     string
	}{
		{100, false, "in time"},
		{415, true, "InvoiceRead"},
		{425, true, "revoked"},
		{450, true, "configure a KSeF certificate"},
		{460, true, "certificate"},
		{470, true, "deceased"},
		{480, true, "Ministry of Finance"},
		{499, true, "does not know"},
		{500, false, "unknown error"},
		{550, false, "cancelled"},
		{777, false, "does not know"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			s := newStub(t)
			s.on(statusEndpoint, loginStatusAnswer(tt.status))
			began := s.clock.Now()
			err := s.client.Login(t.Context())
			e, ok := errors.AsType[*LoginError](err)
			if !ok {
				t.Fatalf("got %v, want a LoginError", err)
			}
			if e.Status != tt.status || e.Terminal != tt.terminal || !strings.Contains(e.Error(), tt.says) ||
				!strings.Contains(e.Error(), "Token unieważniony") || e.Reference != "AU-1" {
				t.Errorf("got status %d, terminal %t: %v", e.Status, e.Terminal, e)
			}
			if waited := s.clock.Now().Sub(began); tt.status == 100 && (waited < pollFor || waited > pollFor+longestPoll+time.Second) {
				t.Errorf("polled for %s, want %s", waited, pollFor)
			}
			sent := s.total()
			again := s.client.Login(t.Context())
			if terminal := s.total() == sent; terminal != tt.terminal {
				t.Errorf("the next login sent %d requests", s.total()-sent)
			}
			if tt.terminal && !errors.Is(again, err) {
				t.Errorf("the next login gave %v, want the same error", again)
			}
		})
	}
}

// A permission that was granted, or a certificate that is suspended no more, changes
// nothing of what is configured. So a refused login is tried again, but once a day.
func TestRefusalIsTriedDaily(t *testing.T) {
	s := newStub(t)
	s.on(statusEndpoint, loginStatusAnswer(415))
	for range 3 * 24 {
		if err := s.client.Login(t.Context()); !isTerminal(err) {
			t.Fatalf("got %v, want a terminal LoginError", err)
		}
		s.clock.advance(time.Hour)
	}
	s.wantCounts(t, map[string]int{startEndpoint: 3})
	s.on(statusEndpoint, nil)
	if err := s.client.Login(t.Context()); err != nil {
		t.Errorf("once it was granted: %v", err)
	}
}

func TestPollingBacksOff(t *testing.T) {
	s := newStub(t)
	s.on(statusEndpoint, loginStatusAnswer(100))
	_ = s.client.Login(t.Context())
	if n := s.count(statusEndpoint); n < 50 || n > 80 {
		t.Errorf("polled %d times in 10 minutes, want about 65", n)
	}
}

func TestNewTokenEndsRefusal(t *testing.T) {
	s := newStub(t)
	s.on(statusEndpoint, loginStatusAnswer(450))
	if err := s.client.Login(t.Context()); !isTerminal(err) {
		t.Fatalf("got %v, want a terminal LoginError", err)
	}
	s.on(statusEndpoint, nil)
	s.mu.Lock()
	s.token = "new-CANARY"
	s.mu.Unlock()
	s.client.Token = func() (Secret, error) { return NewSecret("new-CANARY"), nil }
	if err := s.client.Login(t.Context()); err != nil {
		t.Errorf("a new token was not tried: %v", err)
	}
}

func TestTokenUnreadable(t *testing.T) {
	s := newStub(t)
	unreadable := errors.New("permission denied")
	s.client.Token = func() (Secret, error) { return Secret{}, unreadable }
	if err := s.client.Login(t.Context()); !isTerminal(err) || !errors.Is(err, unreadable) {
		t.Errorf("got %v, want a terminal LoginError", err)
	}
	s.client.Token = func() (Secret, error) { return NewSecret(""), nil }
	if err := s.client.Login(t.Context()); !isTerminal(err) {
		t.Errorf("got %v, want a terminal LoginError", err)
	}
	if s.total() != 0 {
		t.Errorf("%d requests were sent without a token", s.total())
	}
	s.client.Token = func() (Secret, error) { return NewSecret(strings.Repeat("CANARY", 100)), nil }
	if err := s.client.Login(t.Context()); !isTerminal(err) || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("got %v, want a terminal LoginError for a token of 600 bytes", err)
	}
}

func TestLoginRequestRefused(t *testing.T) {
	tests := []struct {
		name               string
		endpoint           string
		answer             http.HandlerFunc
		always             bool
		terminal, wantErr  bool
		starts, keys, asks int // requests of each kind
	}{
		{"challenge expired once", startEndpoint, problem(400, 21111), false, false, false, 2, 1, 2},
		{"challenge expired always", startEndpoint, problem(400, 21111), true, false, true, 2, 1, 2},
		{"key unknown once", startEndpoint, problem(400, 21470), false, false, false, 2, 2, 2},
		{"key unknown always", startEndpoint, problem(400, 21470), true, false, true, 2, 2, 2},
		{"bad input", startEndpoint, problem(400, 21405), true, true, true, 1, 1, 1},
		{"bad request by a gateway", startEndpoint, answer(400, "text/html", ""), true, true, true, 1, 1, 1},
		{"no tokens any more", startEndpoint, forbidden("auth-method-not-allowed"), true, true, true, 1, 1, 1},
		{"context not allowed", startEndpoint, forbidden("context-type-not-allowed"), true, true, true, 1, 1, 1},
		{"other address", startEndpoint, forbidden("ip-not-allowed"), true, false, true, 1, 1, 1},
		{"server error", startEndpoint, problem(500, 0), true, false, true, 1, 1, 1},
		{"garbage", startEndpoint, answer(202, "application/json", `{"authenticationToken":{}}`), true, false, true, 1, 1, 1},
		{"no challenge", challengeEndpoint, answer(200, "application/json", `{}`), true, false, true, 0, 0, 1},
		{"challenge refused", challengeEndpoint, problem(400, 0), true, false, true, 0, 0, 1},
		{"no keys", keysEndpoint, answer(200, "application/json", `[]`), true, false, true, 0, 1, 1},
		{"keys unreadable", keysEndpoint, answer(200, "application/json", `{}`), true, false, true, 0, 1, 1},
		{"tokens fetched already", redeemEndpoint, problem(400, 21301), true, false, true, 1, 1, 1},
		{"half of the tokens", redeemEndpoint, answer(200, "application/json", `{"accessToken":{"token":"CANARY","validUntil":"2028-11-22T12:00:00Z"}}`), true, false, true, 1, 1, 1},
		{"login unknown", statusEndpoint, problem(400, 21304), true, false, true, 1, 1, 1},
		{"login gone", statusEndpoint, answer(410, "application/problem+json", `{"status":410}`), true, false, true, 1, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			if tt.always {
				s.on(tt.endpoint, tt.answer)
			} else {
				s.once(tt.endpoint, tt.answer)
			}
			err := s.client.Login(t.Context())
			if isTerminal(err) != tt.terminal || (err != nil) != tt.wantErr {
				t.Errorf("got %v; want error %t, terminal %t", err, tt.wantErr, tt.terminal)
			}
			if err != nil && strings.Contains(err.Error(), "CANARY") {
				t.Errorf("the error holds a secret: %v", err)
			}
			s.wantCounts(t, map[string]int{startEndpoint: tt.starts, keysEndpoint: tt.keys, challengeEndpoint: tt.asks})
		})
	}
}

func TestEndOfTokensIsSaidPlainly(t *testing.T) {
	s := newStub(t)
	s.on(startEndpoint, forbidden("auth-method-not-allowed"))
	if err := s.client.Login(t.Context()); err == nil || !strings.Contains(err.Error(), "a KSeF certificate is needed") {
		t.Errorf("got %v", err)
	}
}

func TestLoginTooManyRequests(t *testing.T) {
	s := newStub(t)
	s.on(challengeEndpoint, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		answer(429, "application/json", `{}`)(w, r)
	})
	until := s.clock.Now().Add(time.Hour + time.Second)
	for range 3 {
		wantBudgetError(t, s.client.Login(t.Context()), groupLogin, until)
	}
	s.wantCounts(t, map[string]int{challengeEndpoint: 1})
}

func TestKeyRotation(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, other := testKeys()
	s.mu.Lock()
	s.key, s.keyID = other, "second"
	s.mu.Unlock()
	s.on(refreshEndpoint, problem(400, 21301))
	s.clock.advance(30 * time.Minute) // the list is not old, but the key was withdrawn
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{startEndpoint: 3, keysEndpoint: 2})
	s.clock.advance(8 * time.Hour) // the key on the list has come to its end
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, map[string]int{startEndpoint: 4, keysEndpoint: 3})
}

func TestChooseKey(t *testing.T) {
	s := newStub(t)
	one, other := testKeys()
	public, private, _ := ed25519.GenerateKey(nil)
	token, symmetric := "KsefTokenEncryption", "SymmetricKeyEncryption"
	valid := s.certificate("valid", one, token, -2*time.Hour, time.Hour)
	tests := []struct {
		name string
		keys []publicKey
		want string // "": an error
	}{
		{"latest", []publicKey{valid, s.certificate("newer", other, token, -time.Hour, time.Hour), s.certificate("older", one, token, -3*time.Hour, time.Hour)}, "newer"},
		{"other usage", []publicKey{s.certificate("no", other, symmetric, -time.Hour, time.Hour), valid}, "valid"},
		{"not yet valid", []publicKey{s.certificate("no", other, token, time.Minute, time.Hour), valid}, "valid"},
		{"no longer valid", []publicKey{s.certificate("no", other, token, -time.Hour, -time.Minute), valid}, "valid"},
		{"none", nil, ""},
		{"not base64", []publicKey{{Certificate: "%", Usage: []string{token}, ValidFrom: valid.ValidFrom, ValidTo: valid.ValidTo}}, ""},
		{"not RSA", []publicKey{{Certificate: base64.StdEncoding.EncodeToString(selfSigned(t, public, private)), Usage: []string{token}, ValidFrom: valid.ValidFrom, ValidTo: valid.ValidTo}}, ""},
		{"not a certificate", []publicKey{{Certificate: "AAAA", Usage: []string{token}, ValidFrom: valid.ValidFrom, ValidTo: valid.ValidTo}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, key, err := chooseKey(tt.keys, token, s.now())
			if (err == nil) != (tt.want != "") || got != tt.want || (key == nil) != (tt.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
