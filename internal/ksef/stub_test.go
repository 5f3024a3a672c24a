package ksef

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	canary       = "20260101-EC-CANARY-SECRET|nip-5265877635|0123456789abcdef"
	canaryAccess = "access.CANARY.jwt"
)

// stub is a KSeF that works, except where a test replaces an answer. Its clock is
// two years ahead of this machine's.
type stub struct {
	t       *testing.T
	clock   *clock
	server  *httptest.Server
	log     *memoryLog
	printed *lockedBuffer // what the client logged, at debug level
	client  *Client

	mu       sync.Mutex
	requests map[string]int // by "METHOD /path"
	answers  map[string]http.HandlerFunc
	key      *rsa.PrivateKey
	keyID    string
	token    string // the KSeF token that is valid
	access   string // the access token that is valid
	logins   int
	asked    int64 // when the last challenge was given, Unix milliseconds
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Making a key takes a while, so all tests share two.
var testKeys = sync.OnceValues(func() (*rsa.PrivateKey, *rsa.PrivateKey) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	other, _ := rsa.GenerateKey(rand.Reader, 2048)
	return one, other
})

func newStub(t *testing.T) *stub {
	key, _ := testKeys()
	s := &stub{
		t: t, clock: newClock(), log: newMemoryLog(), printed: &lockedBuffer{}, key: key, keyID: "first", token: canary,
		requests: map[string]int{}, answers: map[string]http.HandlerFunc{},
	}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.server.Close)
	s.client = s.newClient()
	// Whatever a test does, no secret gets into a log.
	t.Cleanup(func() {
		for _, secret := range []string{"CANARY", base64.StdEncoding.EncodeToString([]byte(canary))[:20]} {
			if strings.Contains(s.printed.String(), secret) {
				t.Errorf("a secret was logged:\n%s", s.printed)
			}
		}
	})
	return s
}

// newClient is a client as after a restart: only the log of requests remains.
func (s *stub) newClient() *Client {
	l := NewLimiter(s.log, nil)
	l.Now, l.Sleep = s.clock.Now, s.clock.Sleep
	return &Client{
		BaseURL: s.server.URL + "/v2", Context: Context{ContextNIP, "5265877635"},
		Token:   func() (Secret, error) { return NewSecret(canary), nil },
		Limiter: l, UserAgent: "ksefmirror/test",
		Log: slog.New(slog.NewTextHandler(s.printed, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: s.clock.Now, Sleep: s.clock.Sleep,
	}
}

func (s *stub) now() time.Time { return s.clock.Now().AddDate(2, 0, 0) }

// on replaces the answer to "METHOD /path"; nil restores it.
func (s *stub) on(endpoint string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[endpoint] = answer
}

// once answers by first, and from the second request on as usual.
func (s *stub) once(endpoint string, first http.HandlerFunc) {
	s.on(endpoint, func(w http.ResponseWriter, r *http.Request) {
		s.on(endpoint, nil)
		first(w, r)
	})
}

func (s *stub) count(endpoint string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[endpoint]
}

func (s *stub) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, requests := range s.requests {
		n += requests
	}
	return n
}

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func answerJSON(status int, v any) http.HandlerFunc {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return answer(status, "application/json; charset=utf-8", string(body))
}

// problem is an error with a code, as Problem Details.
func problem(status, code int) http.HandlerFunc {
	return answer(status, "application/problem+json", fmt.Sprintf(
		`{"title":"Bad Request","status":%d,"detail":"Żądanie jest nieprawidłowe.","errors":[{"code":%d,"description":"Opis błędu.","details":["szczegół"]}],"traceId":"trace-1"}`, status, code))
}

func forbidden(reason string) http.HandlerFunc {
	return answer(403, "application/problem+json", fmt.Sprintf(
		`{"title":"Forbidden","status":403,"detail":"Brak.","reasonCode":%q,"security":{"incidentId":"incident-1"}}`, reason))
}

func loginStatusAnswer(code int) http.HandlerFunc {
	return answerJSON(200, map[string]any{"status": map[string]any{"code": code, "description": "Opis", "details": []string{"Token unieważniony"}}})
}

// startedAnswer says that a login has begun.
func (s *stub) startedAnswer() http.HandlerFunc {
	return answerJSON(202, map[string]any{"referenceNumber": "AU-1", "authenticationToken": s.tokenInfo("operation.CANARY", time.Hour)})
}

// tokenInfo is a token on the wire.
func (s *stub) tokenInfo(token string, valid time.Duration) map[string]any {
	return map[string]any{"token": token, "validUntil": s.now().Add(valid).Format("2006-01-02T15:04:05.0000000+00:00")}
}

func (s *stub) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2")
	switch {
	case strings.HasPrefix(path, "/auth/AU-"):
		path = "/auth/{referenceNumber}"
	case strings.HasPrefix(path, "/invoices/ksef/"):
		path = "/invoices/ksef/{ksefNumber}"
	case strings.HasPrefix(path, "/invoices/exports/"):
		path = "/invoices/exports/{referenceNumber}"
	}
	endpoint := r.Method + " " + path
	s.mu.Lock()
	s.requests[endpoint]++
	override := s.answers[endpoint]
	access := s.access
	s.mu.Unlock()

	if r.Header.Get("User-Agent") != "ksefmirror/test" || r.Header.Get("X-Error-Format") != "problem-details" || r.Header.Get("Accept") == "" {
		s.t.Errorf("%s came with headers %v", endpoint, r.Header)
	}
	if override != nil {
		override(w, r)
		return
	}
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	wantBearer := func(want string) bool {
		if bearer != want {
			answer(401, "application/problem+json", `{"title":"Unauthorized","status":401,"detail":"Wymagane jest uwierzytelnienie."}`)(w, r)
		}
		return bearer == want
	}
	newAccess := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logins++
		s.access = fmt.Sprintf("%s.%d", canaryAccess, s.logins)
		return s.access
	}

	switch endpoint {
	case "POST /auth/challenge":
		s.mu.Lock()
		s.asked = s.now().UnixMilli()
		s.mu.Unlock()
		answerJSON(200, map[string]any{"challenge": "20261122-CR-1", "timestampMs": s.asked, "clientIp": "127.0.0.1"})(w, r)
	case "GET /security/public-key-certificates":
		answerJSON(200, []any{
			s.certificate(s.keyID, s.key, "KsefTokenEncryption", -time.Hour, time.Hour),
			s.certificate("export "+s.keyID, s.key, "SymmetricKeyEncryption", -time.Hour, time.Hour),
		})(w, r)
	case "POST /auth/ksef-token":
		var sent struct {
			Challenge      string  `json:"challenge"`
			Context        Context `json:"contextIdentifier"`
			EncryptedToken []byte  `json:"encryptedToken"`
			PublicKeyID    string  `json:"publicKeyId"`
		}
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			s.t.Error(err)
		}
		if sent.PublicKeyID != s.keyID {
			problem(400, codeUnknownPublicKey)(w, r)
			return
		}
		text, err := rsa.DecryptOAEP(sha256.New(), nil, s.key, sent.EncryptedToken, nil)
		if want := fmt.Sprintf("%s|%d", s.token, s.asked); err != nil || string(text) != want {
			s.t.Errorf("decrypted %q, %v; want %q", text, err, want)
		}
		if sent.Challenge != "20261122-CR-1" || sent.Context != (Context{"Nip", "5265877635"}) || r.Header.Get("Content-Type") != "application/json" {
			s.t.Errorf("got login request %+v of type %q", sent, r.Header.Get("Content-Type"))
		}
		s.startedAnswer()(w, r)
	case "GET /auth/{referenceNumber}":
		if wantBearer("operation.CANARY") {
			code := 200
			if s.count(endpoint)%2 == 1 { // "in progress" the first time
				code = 100
			}
			loginStatusAnswer(code)(w, r)
		}
	case "POST /auth/token/redeem":
		if wantBearer("operation.CANARY") {
			answerJSON(200, map[string]any{"accessToken": s.tokenInfo(newAccess(), 15*time.Minute), "refreshToken": s.tokenInfo("refresh.CANARY", 7*24*time.Hour)})(w, r)
		}
	case "POST /auth/token/refresh":
		if wantBearer("refresh.CANARY") {
			answerJSON(200, map[string]any{"accessToken": s.tokenInfo(newAccess(), 15*time.Minute)})(w, r)
		}
	case "POST /invoices/query/metadata":
		if wantBearer(access) {
			answerJSON(200, map[string]any{"hasMore": false, "isTruncated": false, "permanentStorageHwmDate": "2026-11-22T09:58:00+00:00", "invoices": []any{}})(w, r)
		}
	case "GET /invoices/ksef/{ksefNumber}":
		if wantBearer(access) {
			sum := sha256.Sum256([]byte(invoiceXML))
			w.Header().Set("x-ms-meta-hash", base64.StdEncoding.EncodeToString(sum[:]))
			answer(200, "application/xml", invoiceXML)(w, r)
		}
	case "GET /rate-limits":
		if wantBearer(access) {
			answer(200, "application/json", `{"invoiceDownload":{"perSecond":1,"perMinute":2,"perHour":3},"global":{"perSecond":9,"note":"new"},"anonymous":"none","odd":{"perHour":-1},"empty":{}}`)(w, r)
		}
	default:
		s.t.Errorf("unexpected request %s", endpoint)
	}
}

const invoiceXML = "\ufeff<Faktura>\r\n zażółć\n</Faktura>\n"

// certificate is an entry of the list of public keys, valid around the stub's now.
func (s *stub) certificate(id string, key *rsa.PrivateKey, usage string, from, to time.Duration) publicKey {
	return publicKey{
		Certificate: base64.StdEncoding.EncodeToString(selfSigned(s.t, key.Public(), key)), ID: id, Usage: []string{usage},
		ValidFrom: NewTimestamp(s.now().Add(from)), ValidTo: NewTimestamp(s.now().Add(to)),
	}
}

func selfSigned(t testing.TB, public, private any) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var anyQuery = Query{SubjectType: Buyer, From: "2026-02-01T00:00:00Z"}

const anyNumber Number = "5265877635-20261105-0100001AF629-AF"

// ask is any request within a session.
func (s *stub) ask(ctx context.Context) error {
	_, err := s.client.QueryMetadata(ctx, anyQuery, 0, 250)
	return err
}
