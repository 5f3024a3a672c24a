package ksefsim_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

var (
	start   = time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	company = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}
)

const token = "20261105-EC-0123456789-ABCDEF0123-45|nip-5265877635|0123456789abcdef"

// clock is the time that the simulator follows.
type clock struct {
	mutex sync.Mutex
	at    time.Time
}

func (c *clock) now() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.at = c.at.Add(d)
}

// sim is a simulator behind a real HTTP server and what talks to it. Its answers
// are held against the specification always, its requests in lenient mode not.
type sim struct {
	*ksefsim.Server
	t      testing.TB
	clock  *clock
	url    string
	bearer string
	header http.Header // sent with every request
}

func newSim(t testing.TB, options ksefsim.Options, wrap func(testing.TB, http.Handler) http.Handler) *sim {
	t.Helper()
	c := &clock{at: start}
	options.Now = c.now
	server := ksefsim.New(options)
	server.AddToken(company, token)
	web := httptest.NewServer(wrap(t, server))
	t.Cleanup(web.Close)
	return &sim{Server: server, t: t, clock: c, url: web.URL, header: http.Header{}}
}

// reply is an answer with its body read.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // of the transport
}

func (s *sim) do(method, path, body string) reply {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header = s.header.Clone()
	if body != "" && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if s.bearer != "" {
		request.Header.Set("Authorization", "Bearer "+s.bearer)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return reply{status: response.StatusCode, header: response.Header, body: text, err: err}
}

// into decodes an answer that must have the given status.
func (s *sim) into(r reply, status int, value any) {
	s.t.Helper()
	if r.err != nil || r.status != status {
		s.t.Fatalf("answer %d %s (%v), want %d", r.status, r.body, r.err, status)
	}
	if err := json.Unmarshal(r.body, value); err != nil {
		s.t.Fatalf("answer %s: %v", r.body, err)
	}
}

// code is KSeF's code of a refusal, in either format.
func (r reply) code() int {
	var body struct {
		Exception struct {
			List []struct {
				Code int `json:"exceptionCode"`
			} `json:"exceptionDetailList"`
		} `json:"exception"`
		Errors []struct {
			Code int `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(r.body, &body) != nil {
		return 0
	}
	for _, each := range body.Exception.List {
		return each.Code
	}
	for _, each := range body.Errors {
		return each.Code
	}
	return 0
}

type info struct {
	Token      string    `json:"token"`
	ValidUntil time.Time `json:"validUntil"`
}

type certificate struct {
	Certificate []byte   `json:"certificate"`
	KeyID       string   `json:"publicKeyId"`
	Usage       []string `json:"usage"`
}

func (s *sim) certificates() []certificate {
	s.t.Helper()
	held := s.bearer
	s.bearer = ""
	defer func() { s.bearer = held }()
	var all []certificate
	s.into(s.do("GET", "/v2/security/public-key-certificates", ""), 200, &all)
	return all
}

// key returns the newest certificate for tokens.
func (s *sim) key() certificate {
	s.t.Helper()
	all := slices.DeleteFunc(s.certificates(), func(c certificate) bool { return !slices.Contains(c.Usage, "KsefTokenEncryption") })
	return all[len(all)-1]
}

func (s *sim) encrypt(c certificate, text string) string {
	s.t.Helper()
	parsed, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		s.t.Fatal(err)
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, parsed.PublicKey.(*rsa.PublicKey), []byte(text), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sealed)
}

type challenge struct {
	Challenge   string    `json:"challenge"`
	Timestamp   time.Time `json:"timestamp"`
	TimestampMS int64     `json:"timestampMs"`
	ClientIP    string    `json:"clientIp"`
}

func (s *sim) challenge() challenge {
	s.t.Helper()
	s.bearer = ""
	var c challenge
	s.into(s.do("POST", "/v2/auth/challenge", ""), 200, &c)
	return c
}

// begin starts a login with a KSeF token and bears the operation's token.
func (s *sim) begin(context ksef.Context, token string) (referenceNumber string) {
	s.t.Helper()
	c, key := s.challenge(), s.key()
	var started struct {
		Reference string `json:"referenceNumber"`
		Token     info   `json:"authenticationToken"`
	}
	s.into(s.do("POST", "/v2/auth/ksef-token", loginBody(c.Challenge, context, s.encrypt(key, fmt.Sprintf("%s|%d", token, c.TimestampMS)), key.KeyID)), 202, &started)
	s.bearer = started.Token.Token
	return started.Reference
}

func loginBody(challenge string, context ksef.Context, encrypted, keyID string) string {
	return fmt.Sprintf(`{"challenge":%q,"contextIdentifier":{"type":%q,"value":%q},"encryptedToken":%q,"publicKeyId":%q}`,
		challenge, context.Type, context.Value, encrypted, keyID)
}

type status struct {
	Status struct {
		Code    int      `json:"code"`
		Details []string `json:"details"`
	} `json:"status"`
}

func (s *sim) poll(reference string) status {
	s.t.Helper()
	var got status
	s.into(s.do("GET", "/v2/auth/"+reference, ""), 200, &got)
	return got
}

// login does all of it and bears the access token. It returns the refresh token.
func (s *sim) login(context ksef.Context, token string) (refresh string) {
	s.t.Helper()
	reference := s.begin(context, token)
	if got := s.poll(reference); got.Status.Code != 200 {
		s.t.Fatalf("login ended %+v, want 200", got.Status)
	}
	var tokens struct {
		Access  info `json:"accessToken"`
		Refresh info `json:"refreshToken"`
	}
	s.into(s.do("POST", "/v2/auth/token/redeem", ""), 200, &tokens)
	s.bearer = tokens.Access.Token
	return tokens.Refresh.Token
}

// query sends a restricted query by permanent storage date.
func (s *sim) query(subject ksef.SubjectType, from, to time.Time, offset, size int) reply {
	s.t.Helper()
	query := ksef.Query{SubjectType: subject, From: ksef.NewTimestamp(from)}
	if !to.IsZero() {
		query.To = ksef.NewTimestamp(to)
	}
	body, err := json.Marshal(query)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do("POST", fmt.Sprintf("/v2/invoices/query/metadata?pageOffset=%d&pageSize=%d", offset, size), string(body))
}

func (s *sim) rows(subject ksef.SubjectType, from, to time.Time, offset, size int) ksef.MetadataPage {
	s.t.Helper()
	var page ksef.MetadataPage
	s.into(s.query(subject, from, to, offset, size), 200, &page)
	return page
}

// add stores n small invoices that the company sells, one minute apart from at.
func (s *sim) add(at time.Time, n int) []ksef.Number {
	s.t.Helper()
	var invoices []ksefsim.Invoice
	for i := range n {
		invoices = append(invoices, ksefsim.Invoice{XML: sale(i), Stored: at.Add(time.Duration(i) * time.Minute)})
	}
	numbers, err := s.Add(invoices...)
	if err != nil {
		s.t.Fatal(err)
	}
	return numbers
}

func sale(i int) []byte {
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<Faktura xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/">
  <Naglowek><KodFormularza kodSystemowy="FA (3)" wersjaSchemy="1-0E">FA</KodFormularza></Naglowek>
  <Podmiot1><DaneIdentyfikacyjne><NIP>5265877635</NIP><Nazwa>Sprzedawca</Nazwa></DaneIdentyfikacyjne></Podmiot1>
  <Podmiot2><DaneIdentyfikacyjne><NIP>1111111111</NIP><Nazwa>Nabywca</Nazwa></DaneIdentyfikacyjne></Podmiot2>
  <Fa><KodWaluty>PLN</KodWaluty><P_1>2026-11-04</P_1><P_2>FV/%d</P_2>
    <P_13_1>100.00</P_13_1><P_14_1>23.00</P_14_1><P_13_3>10.5</P_13_3><P_14_3>0.53</P_14_3><P_15>134.03</P_15>
    <Adnotacje><P_17>2</P_17></Adnotacje><RodzajFaktury>VAT</RodzajFaktury></Fa>
</Faktura>
`, i)
}

func numbersOf(page ksef.MetadataPage) []ksef.Number {
	var all []ksef.Number
	for _, row := range page.Invoices {
		all = append(all, ksef.Number(row.KSeFNumber))
	}
	return all
}

func TestChallengeAndReferenceHaveTheShapeOfKSeF(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	c := s.challenge()
	if len(c.Challenge) != 36 || !strings.HasPrefix(c.Challenge, "20261105-CR-") {
		t.Errorf("challenge %q, want 36 characters beginning 20261105-CR-", c.Challenge)
	}
	if c.TimestampMS != start.UnixMilli() || !c.Timestamp.Equal(start) || c.ClientIP == "" {
		t.Errorf("challenge %+v, want the time of the clock and an address", c)
	}
	if reference := s.begin(company, token); len(reference) != 36 || !strings.HasPrefix(reference, "20261105-AU-") {
		t.Errorf("reference number %q, want 36 characters beginning 20261105-AU-", reference)
	}
	if parts := strings.Split(s.bearer, "."); len(parts) != 3 {
		t.Errorf("operation token has %d parts, want the three of a JWT", len(parts))
	}
}

func TestLoginStatus(t *testing.T) {
	other := ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}
	cases := []struct {
		name    string
		prepare func(s *sim)
		context ksef.Context
		plain   func(c challenge) string
		usage   string
		code    int
		detail  string
	}{
		{name: "right", code: 200},
		{name: "unknown token", plain: func(c challenge) string { return fmt.Sprintf("nobody's|%d", c.TimestampMS) }, code: 450, detail: "Nieprawidłowy token"},
		{name: "wrong time", plain: func(c challenge) string { return fmt.Sprintf("%s|%d", token, c.TimestampMS+1) }, code: 450, detail: "Nieprawidłowy czas tokena"},
		{name: "seconds instead of milliseconds", plain: func(c challenge) string { return fmt.Sprintf("%s|%d", token, c.TimestampMS/1000) }, code: 450, detail: "Nieprawidłowy czas tokena"},
		{name: "no separator", plain: func(challenge) string { return "token" }, code: 450, detail: "Nieprawidłowe kodowanie tokena"},
		{name: "other context", context: other, code: 450, detail: "Token nie może być użyty w kontekście 1111111111"},
		{name: "revoked", prepare: func(s *sim) { s.RevokeToken(token) }, code: 450, detail: "Token unieważniony"},
		{name: "key of the other usage", usage: "SymmetricKeyEncryption", code: 450, detail: "Nieprawidłowe szyfrowanie tokena"},
		{name: "set to 415", prepare: func(s *sim) { s.SetLoginOutcome(ksefsim.LoginOutcome{Status: 415}) }, code: 415, detail: "Brak przypisanych uprawnień"},
		{name: "set to 480", prepare: func(s *sim) { s.SetLoginOutcome(ksefsim.LoginOutcome{Status: 480}) }, code: 480},
		{name: "set to 500", prepare: func(s *sim) { s.SetLoginOutcome(ksefsim.LoginOutcome{Status: 500}) }, code: 500},
	}
	for _, each := range cases {
		t.Run(each.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			if each.prepare != nil {
				each.prepare(s)
			}
			context := company
			if each.context.Value != "" {
				context = each.context
			}
			c, key := s.challenge(), s.key()
			for _, other := range s.certificates() {
				if each.usage != "" && slices.Contains(other.Usage, each.usage) {
					key = other
				}
			}
			plain := fmt.Sprintf("%s|%d", token, c.TimestampMS)
			if each.plain != nil {
				plain = each.plain(c)
			}
			var started struct {
				Reference string `json:"referenceNumber"`
				Token     info   `json:"authenticationToken"`
			}
			s.into(s.do("POST", "/v2/auth/ksef-token", loginBody(c.Challenge, context, s.encrypt(key, plain), key.KeyID)), 202, &started)
			s.bearer = started.Token.Token
			got := s.poll(started.Reference)
			if got.Status.Code != each.code || each.detail != "" && !slices.Equal(got.Status.Details, []string{each.detail}) {
				t.Errorf("login ended %+v, want %d %s", got.Status, each.code, each.detail)
			}
			redeemed := s.do("POST", "/v2/auth/token/redeem", "")
			if (redeemed.status == 200) != (each.code == 200) || each.code != 200 && redeemed.code() != 21301 {
				t.Errorf("redeem after %d answered %d %s", each.code, redeemed.status, redeemed.body)
			}
			if violations := s.Stats().Violations; len(violations) > 0 {
				t.Errorf("violations %q, want none", violations)
			}
		})
	}
}

func TestLoginIsPendingAsOftenAsSaid(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.SetLoginOutcome(ksefsim.LoginOutcome{Pending: 2})
	reference := s.begin(company, token)
	if r := s.do("POST", "/v2/auth/token/redeem", ""); r.code() != 21301 {
		t.Errorf("redeem while in progress answered %d %s, want 21301", r.status, r.body)
	}
	var codes []int
	for range 4 {
		codes = append(codes, s.poll(reference).Status.Code)
	}
	if want := []int{100, 100, 200, 200}; !slices.Equal(codes, want) {
		t.Errorf("polls answered %v, want %v", codes, want)
	}
}

func TestRedeemWorksOnce(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.begin(company, token)
	if r := s.do("POST", "/v2/auth/token/redeem", ""); r.status != 200 {
		t.Fatalf("first redeem answered %d %s", r.status, r.body)
	}
	if r := s.do("POST", "/v2/auth/token/redeem", ""); r.status != 400 || r.code() != 21301 {
		t.Errorf("second redeem answered %d %s, want 400 21301", r.status, r.body)
	}
	if got := s.Stats(); got.Logins != 1 || got.Redeems != 1 {
		t.Errorf("counted %d logins and %d redeems, want 1 and 1", got.Logins, got.Redeems)
	}
}

func TestChallengeIsGoodOnceForTenMinutes(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	key := s.key()
	login := func(c challenge) reply {
		s.bearer = ""
		return s.do("POST", "/v2/auth/ksef-token", loginBody(c.Challenge, company, s.encrypt(key, fmt.Sprintf("%s|%d", token, c.TimestampMS)), key.KeyID))
	}
	used := s.challenge()
	s.clock.add(10 * time.Minute)
	if r := login(used); r.status != 202 {
		t.Errorf("after ten minutes: %d %s, want 202", r.status, r.body)
	}
	if r := login(used); r.code() != 21111 {
		t.Errorf("used again: %d %s, want 21111", r.status, r.body)
	}
	old := s.challenge()
	s.clock.add(10*time.Minute + time.Second)
	if r := login(old); r.code() != 21111 {
		t.Errorf("after more than ten minutes: %d %s, want 21111", r.status, r.body)
	}
	if r := login(challenge{Challenge: strings.Repeat("0", 36)}); r.code() != 21111 {
		t.Errorf("never given: %d %s, want 21111", r.status, r.body)
	}
}

func TestTokensExpire(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	refresh := s.login(company, token)
	ask := func() int { return s.do("GET", "/v2/rate-limits", "").status }
	renew := func() reply {
		s.bearer = refresh
		r := s.do("POST", "/v2/auth/token/refresh", "")
		var got struct {
			Access info `json:"accessToken"`
		}
		if json.Unmarshal(r.body, &got) == nil && got.Access.Token != "" {
			s.bearer = got.Access.Token
		}
		return r
	}
	s.clock.add(15*time.Minute - time.Second)
	if got := ask(); got != 200 {
		t.Errorf("access token before 15 minutes answered %d", got)
	}
	s.clock.add(time.Second)
	if got := ask(); got != 401 {
		t.Errorf("access token after 15 minutes answered %d, want 401", got)
	}
	for range 2 { // a refresh token is good many times
		if r := renew(); r.status != 200 {
			t.Fatalf("refresh answered %d %s", r.status, r.body)
		}
		if got := ask(); got != 200 {
			t.Errorf("renewed access token answered %d", got)
		}
	}
	s.clock.add(7*24*time.Hour - 15*time.Minute)
	if r := renew(); r.status != 401 {
		t.Errorf("refresh after seven days answered %d %s, want 401", r.status, r.body)
	}
}

func TestRefreshAfterRevocationIs400(t *testing.T) {
	for name, revoke := range map[string]func(*sim){
		"KSeF token":     func(s *sim) { s.RevokeToken(token) },
		"refresh tokens": func(s *sim) { s.RevokeRefreshTokens() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			refresh := s.login(company, token)
			revoke(s)
			if got := s.do("GET", "/v2/rate-limits", "").status; got != 200 {
				t.Errorf("access token answered %d, want 200 until it expires", got)
			}
			s.bearer = refresh
			if r := s.do("POST", "/v2/auth/token/refresh", ""); r.status != 400 || r.code() != 21301 {
				t.Errorf("refresh answered %d %s, want 400 21301", r.status, r.body)
			}
		})
	}
}

func TestKeyRotation(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	old := s.key()
	try := func(key certificate) reply {
		c := s.challenge()
		return s.do("POST", "/v2/auth/ksef-token", loginBody(c.Challenge, company, s.encrypt(key, fmt.Sprintf("%s|%d", token, c.TimestampMS)), key.KeyID))
	}
	s.AddKey()
	if s.key().KeyID == old.KeyID {
		t.Error("a planned rotation shows no newer key")
	}
	if r := try(old); r.status != 202 {
		t.Errorf("old key during a planned rotation: %d %s", r.status, r.body)
	}
	before := s.key()
	s.Recertify()
	if after := s.key(); after.KeyID != before.KeyID || bytes.Equal(after.Certificate, before.Certificate) {
		t.Error("a new certificate must keep the key's id and differ")
	}
	s.RotateKeys()
	for _, each := range []certificate{old, before} {
		if r := try(each); r.status != 400 || r.code() != 21470 {
			t.Errorf("withdrawn key: %d %s, want 400 21470", r.status, r.body)
		}
	}
	if r := try(s.key()); r.status != 202 {
		t.Errorf("new key: %d %s", r.status, r.body)
	}
}

func TestRefusesWhatTheSpecificationDoesNotAllow(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	s.login(company, token)
	access := s.bearer
	const body = `{"subjectType":"Subject1","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00Z","to":"2026-11-02T00:00:00Z"}}`
	const path = "/v2/invoices/query/metadata"
	replace := func(old, new string) string { return strings.Replace(body, old, new, 1) }
	cases := []struct {
		name, method, path, body string
		bearer                   string
		kind                     string
		status, code             int
	}{
		{name: "unknown field", body: replace(`{"subjectType"`, `{"subject":1,"subjectType"`), status: 400, code: 21405},
		{name: "unknown field within", body: replace(`"from"`, `"zone":"UTC","from"`), status: 400, code: 21405},
		{name: "not JSON", body: `{"subjectType":`, status: 400, code: 21001},
		{name: "two values", body: body + "{}", status: 400, code: 21405},
		{name: "no body", body: " ", status: 400, code: 21001},
		{name: "content type", body: body, kind: "text/plain", status: 400, code: 21405},
		{name: "no subject", body: replace(`"subjectType":"Subject1",`, ``), status: 400, code: 21405},
		{name: "unknown subject", body: replace("Subject1", "Subject4"), status: 400, code: 21405},
		{name: "no dates", body: `{"subjectType":"Subject1"}`, status: 400, code: 21405},
		{name: "unknown date", body: replace("PermanentStorage", "Sold"), status: 400, code: 21405},
		{name: "no offset", body: replace("-01T00:00:00Z", "-01T00:00:00"), status: 400, code: 21405},
		{name: "from after to", body: replace("11-01", "11-03"), status: 400, code: 21405},
		{name: "101 days", body: replace("2026-11-01", "2026-07-24"), status: 400, code: 21405},
		{name: "page too small", path: path + "?pageSize=9", body: body, status: 400, code: 21405},
		{name: "page too large", path: path + "?pageSize=251", body: body, status: 400, code: 21405},
		{name: "negative page", path: path + "?pageOffset=-1", body: body, status: 400, code: 21405},
		{name: "beyond 10,000 rows", path: path + "?pageOffset=40&pageSize=250", body: body, status: 400, code: 21405},
		{name: "unknown order", path: path + "?sortOrder=Up", body: body, status: 400, code: 21405},
		{name: "unknown invoice type", body: replace(`"subjectType"`, `"invoiceTypes":["Fee"],"subjectType"`), status: 400, code: 21405},
		{name: "no authorization", bearer: "none", body: body, status: 401},
		{name: "unknown token", bearer: "a.b.c", body: body, status: 401},
		{name: "malformed number", method: "GET", path: "/v2/invoices/ksef/5265877635", status: 400, code: 21405},
		{name: "check digits", method: "GET", path: "/v2/invoices/ksef/5265877635-20261105-0100001AF629-00", status: 400, code: 21405},
		{name: "short reference", method: "GET", path: "/v2/auth/short", bearer: "none", status: 401},
	}
	for _, format := range []string{"", "problem-details"} {
		for _, each := range cases {
			t.Run(each.name+" "+format, func(t *testing.T) {
				s.bearer = access
				if each.bearer != "" {
					s.bearer = strings.TrimPrefix(each.bearer, "none")
				}
				s.header = http.Header{}
				if each.kind != "" {
					s.header.Set("Content-Type", each.kind)
				}
				if format != "" {
					s.header.Set("X-Error-Format", format)
				}
				method, target := each.method, each.path
				if method == "" {
					method = "POST"
				}
				if target == "" {
					target = path
				}
				before := len(s.Stats().Violations)
				r := s.do(method, target, each.body)
				if r.status != each.status || r.code() != each.code {
					t.Errorf("answered %d %s, want %d %d", r.status, r.body, each.status, each.code)
				}
				if problem := r.header.Get("Content-Type") == "application/problem+json"; problem != (format != "" || each.status == 401) {
					t.Errorf("answered as %s", r.header.Get("Content-Type"))
				}
				if len(s.Stats().Violations) == before && each.bearer != "a.b.c" {
					t.Error("the violation was not counted")
				}
			})
		}
	}
	s.bearer, s.header = access, http.Header{}
	if r := s.do("POST", path, body); r.status != 200 {
		t.Errorf("the request that the others spoil answered %d %s", r.status, r.body)
	}
	if r := s.do("POST", path, replace("2026-11-01", "2026-07-25")); r.status != 200 {
		t.Errorf("exactly 100 days answered %d %s", r.status, r.body)
	}
}

func TestWhatIsNotSimulatedIs501(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	for _, each := range []string{"GET /sessions", "POST /sessions/online"} {
		method, path, _ := strings.Cut(each, " ")
		if r := s.do(method, "/v2"+path, ""); r.status != 501 {
			t.Errorf("%s answered %d, want 501", each, r.status)
		}
	}
	if r := s.do("GET", "/v2/nothing", ""); r.status != 404 {
		t.Errorf("an unknown path answered %d, want 404", r.status)
	}
}

func TestRowSaysWhatKSeFSays(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	number := s.add(start.Add(-time.Hour).Add(123456789), 1)[0]
	r := s.query(ksef.Seller, start.Add(-2*time.Hour), time.Time{}, 0, 10)
	for _, want := range []string{
		`"permanentStorageDate":"2026-11-05T11:00:00.123456+00:00"`,
		`"permanentStorageHwmDate":"2026-11-05T12:00:00.000000+00:00"`,
		`"netAmount":110.50`, `"vatAmount":23.53`, `"grossAmount":134.03`,
		`"issueDate":"2026-11-04"`, `"invoiceNumber":"FV/0"`, `"systemCode":"FA (3)"`, `"invoiceType":"Vat"`,
		`"identifier":{"type":"Nip","value":"1111111111"}`,
		`"ksefNumber":"` + string(number) + `"`,
	} {
		if !strings.Contains(string(r.body), want) {
			t.Errorf("answer %s\nlacks %s", r.body, want)
		}
	}
	var page ksef.MetadataPage
	s.into(r, 200, &page)
	if len(page.Invoices) != 1 {
		t.Fatalf("%d rows, want 1", len(page.Invoices))
	}
	for _, date := range []ksef.Timestamp{page.Invoices[0].InvoicingDate, page.Invoices[0].Acquired} {
		if _, fraction, _ := strings.Cut(string(date), "."); len(fraction) != len("1234567+00:00") {
			t.Errorf("date %s, want seven digits", date)
		}
	}
	sum := sha256.Sum256(sale(0))
	if page.Invoices[0].InvoiceHash != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("hash %s is not that of the XML", page.Invoices[0].InvoiceHash)
	}
}

func TestBothEndsOfARangeAreInclusive(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	at := start.Add(-time.Hour)
	numbers := s.add(at, 3)
	if got := numbersOf(s.rows(ksef.Seller, at, at.Add(time.Minute), 0, 10)); !slices.Equal(got, numbers[:2]) {
		t.Errorf("got %v, want %v", got, numbers[:2])
	}
	if got := numbersOf(s.rows(ksef.Seller, at.Add(time.Minute), at.Add(time.Minute), 0, 10)); !slices.Equal(got, numbers[1:2]) {
		t.Errorf("one instant: got %v, want %v", got, numbers[1:2])
	}
	if got := numbersOf(s.rows(ksef.Seller, at.Add(time.Minute+time.Microsecond), at.Add(2*time.Minute-time.Microsecond), 0, 10)); len(got) > 0 {
		t.Errorf("between two: got %v, want none", got)
	}
	if got := s.rows(ksef.Buyer, at, at.Add(time.Hour), 0, 10).Invoices; len(got) > 0 {
		t.Errorf("as buyer: got %v, want none", got)
	}
}

func TestPages(t *testing.T) {
	s := newSim(t, ksefsim.Options{PageCap: 35}, contract.Wrap)
	s.login(company, token)
	from := start.Add(-100 * time.Minute)
	type flags struct {
		rows            int
		more, truncated bool
	}
	walk := func(to time.Time, pages int) []flags {
		var all []flags
		for offset := range pages {
			page := s.rows(ksef.Seller, from, to, offset, 10)
			all = append(all, flags{len(page.Invoices), page.HasMore, page.IsTruncated})
		}
		return all
	}
	s.add(from, 40)
	if got, want := walk(start, 4), []flags{{10, true, false}, {10, true, false}, {10, true, false}, {5, true, true}}; !slices.Equal(got, want) {
		t.Errorf("40 rows: %v, want %v", got, want)
	}
	if got, want := walk(from.Add(34*time.Minute), 4), []flags{{10, true, false}, {10, true, false}, {10, true, false}, {5, false, true}}; !slices.Equal(got, want) {
		t.Errorf("35 rows, just the cap: %v, want %v", got, want)
	}
	if got, want := walk(from.Add(19*time.Minute), 3), []flags{{10, true, false}, {10, false, false}, {0, false, false}}; !slices.Equal(got, want) {
		t.Errorf("20 rows: %v, want %v", got, want)
	}
	if r := s.query(ksef.Seller, from, start, 4, 10); r.code() != 21405 {
		t.Errorf("beyond the cap: %d %s, want 21405", r.status, r.body)
	}
}

func TestTiesKeepTheirOrderWithinAQuery(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	at := start.Add(-time.Hour)
	var invoices []ksefsim.Invoice
	for i := range 60 {
		invoices = append(invoices, ksefsim.Invoice{XML: sale(i), Stored: at})
	}
	numbers, err := s.Add(invoices...)
	if err != nil {
		t.Fatal(err)
	}
	walk := func(to time.Time) []ksef.Number {
		var all []ksef.Number
		for offset := range 6 {
			all = append(all, numbersOf(s.rows(ksef.Seller, at, to, offset, 10))...)
		}
		return all
	}
	first := walk(start)
	if !slices.Equal(first, walk(start)) {
		t.Error("the same query gave another order")
	}
	if slices.Equal(first, walk(start.Add(-time.Second))) {
		t.Error("another query gave the same order of ties: a client could come to rely on it")
	}
	slices.Sort(first)
	slices.Sort(numbers)
	if !slices.Equal(first, numbers) {
		t.Error("the pages do not hold every invoice once")
	}
}

func TestHighWaterMark(t *testing.T) {
	s := newSim(t, ksefsim.Options{HWMLag: 3 * time.Minute}, contract.Wrap)
	s.login(company, token)
	hwm := func(to time.Time) time.Time {
		t.Helper()
		return s.rows(ksef.Seller, start.Add(-time.Hour), to, 0, 10).HWM.Time()
	}
	if got, want := hwm(time.Time{}), start.Add(-3*time.Minute); !got.Equal(want) {
		t.Errorf("mark %v, want %v behind the clock", got, want)
	}
	if got, want := hwm(start.Add(-30*time.Minute)), start.Add(-30*time.Minute); !got.Equal(want) {
		t.Errorf("mark of an old range %v, want its end %v", got, want)
	}
	if r := s.query(ksef.Seller, start.Add(-3*time.Minute), time.Time{}, 0, 10); r.status != 200 {
		t.Errorf("from at the mark: %d %s, want 200", r.status, r.body)
	}
	if r := s.query(ksef.Seller, start.Add(-3*time.Minute+time.Microsecond), time.Time{}, 0, 10); r.code() != 21183 {
		t.Errorf("from past the mark: %d %s, want 21183", r.status, r.body)
	}

	// A row past the mark is listed only without the restriction.
	fresh := s.add(start.Add(-time.Minute), 1)
	if got := s.rows(ksef.Seller, start.Add(-time.Hour), time.Time{}, 0, 10).Invoices; len(got) > 0 {
		t.Errorf("restricted query lists %d rows past the mark", len(got))
	}
	var page ksef.MetadataPage
	s.into(s.do("POST", "/v2/invoices/query/metadata", `{"subjectType":"Subject1","dateRange":{"dateType":"PermanentStorage","from":"2026-11-05T11:00:00Z"}}`), 200, &page)
	if !slices.Equal(numbersOf(page), fresh) || !page.HWM.Time().Equal(start.Add(-3*time.Minute)) {
		t.Errorf("unrestricted query lists %v with mark %s", numbersOf(page), page.HWM)
	}

	// The mark is the same on every page, although the clock moves on.
	first := s.rows(ksef.Seller, start.Add(-50*time.Minute), time.Time{}, 0, 10).HWM
	s.clock.add(time.Minute)
	if second := s.rows(ksef.Seller, start.Add(-50*time.Minute), time.Time{}, 1, 10).HWM; second != first {
		t.Errorf("mark of the second page %s, of the first %s", second, first)
	}
	if again := s.rows(ksef.Seller, start.Add(-50*time.Minute), time.Time{}, 0, 10).HWM; again == first {
		t.Error("a new query has the mark of an old one")
	}
}

func TestMarkWaitsForWhatIsNotVisible(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	late := start.Add(-10 * time.Minute)
	numbers, err := s.Add(
		ksefsim.Invoice{XML: sale(1), Stored: late, Visible: start.Add(5 * time.Minute)},
		ksefsim.Invoice{XML: sale(2), Stored: start.Add(-time.Minute)},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.HWM(); !got.Equal(late) {
		t.Errorf("mark %v, want %v, where an invoice is still to appear", got, late)
	}
	if got := s.rows(ksef.Seller, start.Add(-time.Hour), time.Time{}, 0, 10); len(got.Invoices) > 0 {
		t.Errorf("restricted query lists %v", numbersOf(got))
	}
	if r := s.do("GET", "/v2/invoices/ksef/"+string(numbers[0]), ""); r.code() != 21165 {
		t.Errorf("invoice not visible yet: %d %s, want 21165", r.status, r.body)
	}
	s.clock.add(5 * time.Minute)
	if got := numbersOf(s.rows(ksef.Seller, start.Add(-time.Hour), time.Time{}, 0, 10)); !slices.Equal(got, numbers) {
		t.Errorf("after it appeared: %v, want %v", got, numbers)
	}
	if got := s.HWM(); !got.Equal(start.Add(5 * time.Minute)) {
		t.Errorf("mark %v after it appeared, want the clock", got)
	}

	// Below a mark that was told, a late arrival breaks the promise and does not
	// move the mark back.
	if _, err := s.Add(ksefsim.Invoice{XML: sale(3), Stored: late, Visible: start.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if got := s.HWM(); !got.Equal(start.Add(5 * time.Minute)) {
		t.Errorf("mark %v went back", got)
	}
	if got := len(s.Listed(company, ksef.Seller)); got != 3 {
		t.Errorf("the oracle lists %d, want all 3", got)
	}
}

func TestMarkCanBeSet(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	s.SetHWM(start.Add(-time.Hour))
	s.clock.add(time.Minute)
	if got := s.rows(ksef.Seller, start.Add(-2*time.Hour), time.Time{}, 0, 10).HWM.Time(); !got.Equal(start.Add(-time.Hour)) {
		t.Errorf("mark %v, want it to stand still", got)
	}
	s.SetHWM(time.Time{})
	if got := s.HWM(); !got.Equal(start.Add(time.Minute)) {
		t.Errorf("mark %v, want it to move again", got)
	}
}

func TestFilters(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	if _, err := s.Add(ksefsim.Invoice{XML: sale(0)}); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{
		`"invoiceNumber":"FV/0"`:                                1,
		`"invoiceNumber":"FV/1"`:                                0,
		`"sellerNip":"5265877635"`:                              1,
		`"sellerNip":"1111111111"`:                              0,
		`"currencyCodes":["EUR","PLN"]`:                         1,
		`"currencyCodes":["EUR"]`:                               0,
		`"amount":{"type":"Brutto","from":134.03,"to":134.03}`:  1,
		`"amount":{"type":"Netto","from":110.51}`:               0,
		`"amount":{"type":"Vat","to":23.52}`:                    0,
		`"formType":"FA"`:                                       1,
		`"formType":"PEF"`:                                      0,
		`"invoiceTypes":["Kor","Vat"]`:                          1,
		`"invoiceTypes":["Kor"]`:                                0,
		`"hasAttachment":true`:                                  0,
		`"isSelfInvoicing":false`:                               1,
		`"invoicingMode":"Offline"`:                             0,
		`"buyerIdentifier":{"type":"Nip","value":"1111111111"}`: 1,
		`"buyerIdentifier":{"type":"None"}`:                     0,
	} {
		for _, dates := range []string{`"dateType":"PermanentStorage","from":"2026-11-05T00:00:00Z"`, `"dateType":"Issue","from":"2026-11-04T10:00:00Z"`, `"dateType":"Invoicing","from":"2026-11-05T00:00:00Z"`} {
			var page ksef.MetadataPage
			s.into(s.do("POST", "/v2/invoices/query/metadata?sortOrder=Desc", `{"subjectType":"Subject1",`+filter+`,"dateRange":{`+dates+`}}`), 200, &page)
			if len(page.Invoices) != want {
				t.Errorf("%s %s: %d rows, want %d", filter, dates, len(page.Invoices), want)
			}
			if (page.HWM == "") == strings.Contains(dates, "PermanentStorage") {
				t.Errorf("%s: mark %q", dates, page.HWM)
			}
		}
	}
}

func TestInvoiceIsServedAsItCame(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	odd := append([]byte("\xef\xbb\xbf"), sale(7)...)
	odd = append(odd, "\r\n \x00"...)
	numbers, err := s.Add(ksefsim.Invoice{XML: odd})
	if err != nil {
		t.Fatal(err)
	}
	s.login(company, token)
	r := s.do("GET", "/v2/invoices/ksef/"+string(numbers[0]), "")
	sum := sha256.Sum256(odd)
	if r.status != 200 || !bytes.Equal(r.body, odd) {
		t.Errorf("answered %d %q, want the bytes that were added", r.status, r.body)
	}
	if got, want := r.header.Get("X-Ms-Meta-Hash"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		t.Errorf("x-ms-meta-hash %s, want %s", got, want)
	}
	if got := r.header.Get("Content-Type"); got != "application/xml" {
		t.Errorf("content type %s", got)
	}
	if got := s.Stats().Downloads[numbers[0]]; got != 1 {
		t.Errorf("%d downloads counted, want 1", got)
	}
	unknown, err := ksef.NewNumber("5265877635-20261105-FFFFFFFFFFFF")
	if err != nil {
		t.Fatal(err)
	}
	if r := s.do("GET", "/v2/invoices/ksef/"+string(unknown), ""); r.code() != 21164 {
		t.Errorf("unknown number: %d %s, want 21164", r.status, r.body)
	}
	stranger := ksef.Context{Type: ksef.ContextNIP, Value: "7352765225"}
	s.AddToken(stranger, "strangers-token")
	s.login(stranger, "strangers-token")
	if r := s.do("GET", "/v2/invoices/ksef/"+string(numbers[0]), ""); r.code() != 21164 {
		t.Errorf("stranger: %d %s, want 21164", r.status, r.body)
	}
}

func TestMetadataCanBeChanged(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	s.login(company, token)
	_, err := s.Add(
		ksefsim.Invoice{XML: sale(1), Metadata: func(m *ksef.Metadata) {
			m.InvoiceHash = strings.Repeat("A", 43) + "="
			m.Stored = "2026-11-05T13:00:00.5+02:00"
		}},
		ksefsim.Invoice{XML: sale(2), Stored: start.Add(-time.Minute)},
	)
	if err != nil {
		t.Fatal(err)
	}
	page := s.rows(ksef.Seller, start.Add(-2*time.Hour), time.Time{}, 0, 10)
	if len(page.Invoices) != 2 || page.Invoices[0].Stored != "2026-11-05T13:00:00.5+02:00" || page.Invoices[0].InvoiceHash[0] != 'A' {
		t.Errorf("rows %+v, want the changed one first, by its own date", page.Invoices)
	}
}

func TestNumbersAreUnique(t *testing.T) {
	s := ksefsim.New(ksefsim.Options{Now: func() time.Time { return start }})
	fixed, err := ksef.NewNumber("5265877635-20261105-010000000002")
	if err != nil {
		t.Fatal(err)
	}
	numbers, err := s.Add(ksefsim.Invoice{XML: sale(1)}, ksefsim.Invoice{XML: sale(2)}, ksefsim.Invoice{XML: sale(3), Number: fixed})
	if err != nil {
		t.Fatal(err)
	}
	if numbers[2] != fixed || numbers[0] == numbers[1] || numbers[1] == fixed {
		t.Errorf("numbers %v, want three, the last as given", numbers)
	}
	for _, number := range numbers {
		if _, err := ksef.ParseNumber(string(number)); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Add(ksefsim.Invoice{XML: sale(4), Number: fixed}); err == nil {
		t.Error("a number that is taken was accepted")
	}
}

func TestRoles(t *testing.T) {
	unit := ksef.Context{Type: ksef.ContextInternalID, Value: "7352765225-12345"}
	everyone := ksef.Context{Type: ksef.ContextNIP, Value: "8888888888"}
	const xml = `<Faktura xmlns="x"><Podmiot1><DaneIdentyfikacyjne><NIP>1111111111</NIP></DaneIdentyfikacyjne></Podmiot1>
<Podmiot2><DaneIdentyfikacyjne><NIP>5265877635</NIP></DaneIdentyfikacyjne></Podmiot2>
<Podmiot3><DaneIdentyfikacyjne><NIP>5265877635</NIP></DaneIdentyfikacyjne><Rola>2</Rola></Podmiot3>
<Podmiot3><DaneIdentyfikacyjne><NIP>5265877635</NIP></DaneIdentyfikacyjne><Rola>6</Rola></Podmiot3>
<Podmiot3><DaneIdentyfikacyjne><IDWew>7352765225-12345</IDWew></DaneIdentyfikacyjne><Rola>8</Rola></Podmiot3>
<PodmiotUpowazniony><DaneIdentyfikacyjne><NIP>3333333333</NIP></DaneIdentyfikacyjne><RolaPU>1</RolaPU></PodmiotUpowazniony>
<Fa><P_2>1</P_2></Fa></Faktura>`
	s := newSim(t, ksefsim.Options{Everyone: everyone}, contract.Wrap)
	if _, err := s.Add(ksefsim.Invoice{XML: []byte(xml)}); err != nil {
		t.Fatal(err)
	}
	for _, each := range []struct {
		context ksef.Context
		roles   string
	}{
		{ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}, "Subject1"},
		{company, "Subject2 Subject3"},
		{unit, "Subject3"},
		{ksef.Context{Type: ksef.ContextNIP, Value: "7352765225"}, ""}, // a unit's invoices are not its company's
		{ksef.Context{Type: ksef.ContextNIP, Value: "3333333333"}, "SubjectAuthorized"},
		{everyone, "Subject2"},
	} {
		secret := "token of " + each.context.Value
		s.AddToken(each.context, secret)
		s.login(each.context, secret)
		var roles []string
		for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
			rows := s.rows(subject, start.Add(-time.Hour), time.Time{}, 0, 10).Invoices
			if len(rows) != len(s.Listed(each.context, subject)) || len(rows) > 1 {
				t.Errorf("%v as %s: %d rows, the oracle %d, want one at most", each.context, subject, len(rows), len(s.Listed(each.context, subject)))
			}
			if len(rows) > 0 {
				roles = append(roles, string(subject))
			}
		}
		if got := strings.Join(roles, " "); got != each.roles {
			t.Errorf("%v sees it as %q, want %q", each.context, got, each.roles)
		}
	}
}

func TestRateLimitsSayWhatIsInForce(t *testing.T) {
	s := newSim(t, ksefsim.Options{Limits: ksef.DefaultLimits()}, contract.Wrap)
	s.login(company, token)
	var limits ksef.Limits
	s.into(s.do("GET", "/v2/rate-limits", ""), 200, &limits)
	for group, want := range ksef.DefaultLimits() {
		if limits[group] != want {
			t.Errorf("%s: %v, want %v", group, limits[group], want)
		}
	}
	if _, ok := limits["onlineSessionClose"]; !ok {
		t.Error("no group that the client does not know")
	}
	s.SetLimits(nil)
	s.into(s.do("GET", "/v2/rate-limits", ""), 200, &limits)
	if limits[ksef.GroupMetadata].PerHour < 100_000 {
		t.Errorf("switched off, but the answer says %v", limits[ksef.GroupMetadata])
	}
}

// The next excess of each window is refused at the last instant of its block
// and admitted when the block ends.
func TestLimitsAreSlidingWindows(t *testing.T) {
	for _, each := range []struct {
		name  string
		limit ksef.Limit
		step  time.Duration // between requests until the limit is reached
		wait  int           // Retry-After
		text  string
	}{
		{"second", ksef.Limit{PerSecond: 3, PerMinute: 100, PerHour: 100}, 100 * time.Millisecond, 1, "Przekroczono limit 3 żądań na sekundę. Spróbuj ponownie po 1 sekundach."},
		{"minute", ksef.Limit{PerSecond: 8, PerMinute: 3, PerHour: 100}, 10 * time.Second, 30, "Przekroczono limit 3 żądań na minutę. Spróbuj ponownie po 30 sekundach."},
		{"hour", ksef.Limit{PerSecond: 8, PerMinute: 16, PerHour: 3}, 10 * time.Minute, 1800, "Przekroczono limit 3 żądań na godzinę. Spróbuj ponownie po 1800 sekundach."},
	} {
		t.Run(each.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			refresh := s.login(company, token)
			s.SetLimits(ksef.Limits{ksef.GroupDownload: each.limit})
			number := s.add(start, 1)[0]
			ask := func() reply { return s.do("GET", "/v2/invoices/ksef/"+string(number), "") }
			renew := func() {
				var got struct {
					Access info `json:"accessToken"`
				}
				s.bearer = refresh
				s.into(s.do("POST", "/v2/auth/token/refresh", ""), 200, &got)
				s.bearer = got.Access.Token
			}
			for range 3 {
				if r := ask(); r.status != 200 {
					t.Fatalf("within the limit: %d %s", r.status, r.body)
				}
				s.clock.add(each.step)
				renew()
			}
			r := ask()
			if r.status != 429 || r.header.Get("Retry-After") != fmt.Sprint(each.wait) || !strings.Contains(string(r.body), each.text) {
				t.Fatalf("over the limit: %d Retry-After %q %s, want 429 after %d", r.status, r.header.Get("Retry-After"), r.body, each.wait)
			}
			s.clock.add(time.Duration(each.wait) * time.Second)
			renew()
			if r := ask(); r.status != 200 {
				t.Errorf("after the wait: %d %s", r.status, r.body)
			}
			if got := s.Stats(); got.TooMany != 1 || got.ByGroup[ksef.GroupDownload] != 5 {
				t.Errorf("counted %d refusals of %d requests, want 1 of 5", got.TooMany, got.ByGroup[ksef.GroupDownload])
			}
		})
	}
}

func TestExcessLengthensTheBlock(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	s.SetLimits(ksef.Limits{ksef.GroupDownload: {PerMinute: 1}})
	number := s.add(start, 1)[0]
	ask := func() string {
		return s.do("GET", "/v2/invoices/ksef/"+string(number), "").header.Get("Retry-After")
	}
	var waits []string
	for range 4 {
		waits = append(waits, ask())
	}
	if want := []string{"", "60", "120", "240"}; !slices.Equal(waits, want) {
		t.Errorf("waits %q, want %q", waits, want)
	}
	s.clock.add(239 * time.Second)
	if got := ask(); got != "480" {
		t.Errorf("before the end of the block: Retry-After %q, want 480", got)
	}
	s.clock.add(480 * time.Second)
	if got := ask(); got != "" {
		t.Errorf("after the block: Retry-After %q, want none", got)
	}
}

func TestLimitsCountPerContextAndOperation(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	other := ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}
	s.AddToken(other, "another")
	s.login(company, token)
	first := s.bearer
	s.login(other, "another")
	second := s.bearer
	s.SetLimits(ksef.Limits{ksef.GroupMetadata: {PerHour: 1}, ksef.GroupDownload: {PerHour: 1}})
	number := s.add(start, 1)[0]
	query := func() int { return s.query(ksef.Seller, start, start, 0, 10).status }
	for _, bearer := range []string{first, second} {
		s.bearer = bearer
		if got := query(); got != 200 {
			t.Errorf("first query of a context answered %d", got)
		}
		if got := query(); got != 429 {
			t.Errorf("second query of a context answered %d, want 429", got)
		}
		if got := s.do("GET", "/v2/invoices/ksef/"+string(number), "").status; got != 200 {
			t.Errorf("a download answered %d, although only queries are exhausted", got)
		}
	}
	s.SetLimits(ksef.DefaultLimits())
	s.bearer = ""
	for range 60 {
		s.challenge()
	}
	if got := s.do("POST", "/v2/auth/challenge", "").status; got != 429 {
		t.Errorf("61st challenge in a second answered %d, want 429", got)
	}
}

func TestFaults(t *testing.T) {
	const path = "/invoices/query/metadata"
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	number := s.add(start.Add(-time.Hour), 25)[0]
	query := func(offset int) reply { return s.query(ksef.Seller, start.Add(-2*time.Hour), start, offset, 10) }
	download := func() reply { return s.do("GET", "/v2/invoices/ksef/"+string(number), "") }
	page := func(r reply) ksef.MetadataPage {
		var p ksef.MetadataPage
		s.into(r, 200, &p)
		return p
	}
	whole := numbersOf(page(query(1)))

	for _, each := range []struct {
		name  string
		fault ksefsim.Fault
		check func() error
	}{
		{"HTML 502", ksefsim.HTMLError(path, 1, 502), func() error { r := query(0); return want(r.status == 502 && r.body[0] == '<', r) }},
		{"captive portal", ksefsim.HTMLError(path, 1, 200), func() error { r := query(0); return want(r.status == 200 && r.body[0] == '<', r) }},
		{"JSON 500", ksefsim.ServerError(path, 1), func() error { r := query(0); return want(r.status == 500, r) }},
		{"firewall", ksefsim.Firewall(path, 1), func() error {
			r := query(0)
			return want(r.status == 403 && strings.Contains(string(r.body), "incidentId") && !strings.Contains(string(r.body), "timestamp"), r)
		}},
		{"forbidden", ksefsim.Forbidden(path, 1, "missing-permissions"), func() error {
			r := query(0)
			return want(r.status == 403 && strings.Contains(string(r.body), `"missing-permissions"`), r)
		}},
		{"429 with a date", ksefsim.TooMany(path, 1, "Fri, 06 Nov 2026 00:00:00 GMT"), func() error {
			r := query(0)
			return want(r.status == 429 && strings.HasSuffix(r.header.Get("Retry-After"), "GMT"), r)
		}},
		{"reset", ksefsim.Reset(path, 1), func() error { r := query(0); return want(r.err != nil, r) }},
		{"cut body", ksefsim.CutBody("/invoices/ksef/*", 1, 7), func() error {
			r := download()
			return want(errors.Is(r.err, io.ErrUnexpectedEOF) && len(r.body) == 7, r)
		}},
		{"wrong hash", ksefsim.WrongHash("/invoices/ksef/*", 1), func() error {
			r := download()
			sum := sha256.Sum256(r.body)
			return want(r.status == 200 && r.header.Get("X-Ms-Meta-Hash") != base64.StdEncoding.EncodeToString(sum[:]), r)
		}},
		{"wrong bytes", ksefsim.RewriteBody("/invoices/ksef/*", 1, bytes.ToUpper), func() error {
			r := download()
			sum := sha256.Sum256(sale(0))
			return want(bytes.Equal(r.body, bytes.ToUpper(sale(0))) && r.header.Get("X-Ms-Meta-Hash") == base64.StdEncoding.EncodeToString(sum[:]), r)
		}},
		{"no mark", ksefsim.NullHWM(1), func() error { r := query(0); return want(page(r).HWM == "", r) }},
		{"extra fields", ksefsim.ExtraFields(1), func() error {
			r := query(0)
			return want(len(page(r).Invoices) == 10 && strings.Count(string(r.body), "futureField") == 11, r)
		}},
		{"page shift", ksefsim.PageShift(1), func() error {
			r := query(1)
			got := numbersOf(page(r))
			return want(len(got) == 10 && got[0] != whole[0] && slices.Equal(got[1:], whole[1:]), r)
		}},
	} {
		t.Run(each.name, func(t *testing.T) {
			s.Fault(each.fault)
			if err := each.check(); err != nil {
				t.Error(err)
			}
			if r := query(1); r.status != 200 || !slices.Equal(numbersOf(page(r)), whole) {
				t.Errorf("after its one time the fault still acts: %d %s", r.status, r.body)
			}
			if r := download(); r.status != 200 || !bytes.Equal(r.body, sale(0)) {
				t.Errorf("a download after it answered %d", r.status)
			}
		})
	}
}

func want(ok bool, r reply) error {
	if ok {
		return nil
	}
	return fmt.Errorf("answered %d %v %s (%w)", r.status, r.header, r.body, r.err)
}

func TestFaultSkipsAndIsCleared(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	fault := ksefsim.ServerError("/rate-limits", 0)
	fault.Skip = 1
	s.Fault(fault)
	var got []int
	for i := range 4 {
		if i == 3 {
			s.ClearFaults()
		}
		got = append(got, s.do("GET", "/v2/rate-limits", "").status)
	}
	if want := []int{200, 500, 500, 200}; !slices.Equal(got, want) {
		t.Errorf("answered %v, want %v", got, want)
	}
}

func TestLostAnswerHasBeenWorkedOn(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.begin(company, token)
	s.Fault(ksefsim.LoseAnswer("/auth/token/redeem", 1))
	if r := s.do("POST", "/v2/auth/token/redeem", ""); r.err == nil {
		t.Fatalf("answered %d %s, want a broken connection", r.status, r.body)
	}
	if r := s.do("POST", "/v2/auth/token/redeem", ""); r.code() != 21301 {
		t.Errorf("the tokens were not spent: %d %s", r.status, r.body)
	}
}

func TestSwallowedRequestsCountAgainstTheLimits(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	s.SetLimits(ksef.Limits{ksef.GroupMetadata: {PerHour: 1}})
	s.Fault(ksefsim.Reset("/invoices/query/metadata", 1))
	query := func() reply { return s.query(ksef.Seller, start, start, 0, 10) }
	if r := query(); r.err == nil {
		t.Fatalf("answered %d, want a broken connection", r.status)
	}
	if r := query(); r.status != 429 {
		t.Errorf("answered %d, want 429: the swallowed request used up the hour", r.status)
	}
}

func TestRestrictionCanBeIgnored(t *testing.T) {
	s := newSim(t, ksefsim.Options{HWMLag: time.Hour}, contract.Wrap)
	s.login(company, token)
	s.add(start.Add(-time.Minute), 1)
	if got := s.rows(ksef.Seller, start.Add(-2*time.Hour), start, 0, 10); len(got.Invoices) != 0 {
		t.Fatalf("%d rows past the mark", len(got.Invoices))
	}
	s.Fault(ksefsim.IgnoreRestrict(1))
	got := s.rows(ksef.Seller, start.Add(-2*time.Hour), start, 0, 10)
	if len(got.Invoices) != 1 || !got.HWM.Time().Equal(start.Add(-time.Hour)) {
		t.Errorf("%d rows with mark %s, want the row past the mark and the true mark", len(got.Invoices), got.HWM)
	}
}

func TestHeldAnswersWait(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.login(company, token)
	for name, fault := range map[string]func(func(*http.Request)) ksefsim.Fault{
		"before headers": func(wait func(*http.Request)) ksefsim.Fault { return ksefsim.Hold("/rate-limits", 1, wait) },
		"within the body": func(wait func(*http.Request)) ksefsim.Fault {
			return ksefsim.HoldBody("/rate-limits", 1, 5, wait)
		},
	} {
		t.Run(name, func(t *testing.T) {
			held, release := make(chan struct{}), make(chan struct{})
			s.Fault(fault(func(*http.Request) { close(held); <-release }))
			answered := make(chan reply)
			go func() { answered <- s.do("GET", "/v2/rate-limits", "") }()
			<-held
			select {
			case r := <-answered:
				t.Errorf("answered %d %s before it was released", r.status, r.body)
				return
			default:
			}
			close(release)
			if r := <-answered; r.status != 200 || !json.Valid(r.body) {
				t.Errorf("answered %d %s (%v)", r.status, r.body, r.err)
			}
		})
	}
}

func TestAdminFaults(t *testing.T) {
	s := newSim(t, ksefsim.Options{AdminFaults: true, Limits: ksef.DefaultLimits()}, contract.Wrap)
	s.login(company, token)
	post := func(body string) int { return s.do("POST", "/admin/faults", body).status }
	names := []string{"html", "server-error", "forbidden", "firewall", "too-many", "reset", "lose-answer", "cut-body", "hold", "hold-body",
		"wrong-hash", "wrong-bytes", "null-hwm", "extra-fields", "ignore-restrict", "page-shift", "hwm", "revoke-refresh-tokens", "login", "rotate-keys",
		"wrong-part-hashes", "expire-links", "export"}
	for _, name := range names {
		if got := post(fmt.Sprintf(`{"fault":%q,"path":"/none"}`, name)); got != 204 {
			t.Errorf("%s answered %d, want 204", name, got)
		}
	}
	for _, bad := range []string{`{"fault":"nothing"}`, `{"fault":"answer"}`, `{"unknown":1}`, `{`, `{"fault":"hwm","value":"noon"}`} {
		if got := post(bad); got != 400 {
			t.Errorf("%s answered %d, want 400", bad, got)
		}
	}
	s.ClearFaults()
	if got := post(`{"fault":"answer","path":"/rate-limits","times":1,"skip":1,"status":418,"body":"tea"}`); got != 204 {
		t.Fatalf("answered %d", got)
	}
	var got []int
	for range 3 {
		got = append(got, s.do("GET", "/v2/rate-limits", "").status)
	}
	if want := []int{200, 418, 200}; !slices.Equal(got, want) {
		t.Errorf("answered %v, want %v", got, want)
	}
	if got := post(`{"fault":"limits","limits":{"other":{"perHour":3}}}`); got != 204 {
		t.Fatalf("answered %d", got)
	}
	if got := s.do("GET", "/v2/rate-limits", "").status; got != 429 {
		t.Errorf("answered %d under the lowered limit, want 429", got)
	}
	if got := s.do("DELETE", "/admin/faults", "").status; got != 200 {
		t.Errorf("clearing answered %d", got)
	}

	closed := newSim(t, ksefsim.Options{}, contract.Wrap)
	if got := closed.do("POST", "/admin/faults", `{"fault":"reset"}`).status; got != 404 {
		t.Errorf("without AdminFaults it answered %d, want 404", got)
	}
}

// Whatever the body of a query, the answer is a page or a refusal that the
// specification knows.
func FuzzQuery(f *testing.F) {
	s := newSim(f, ksefsim.Options{}, contract.WrapAnswers)
	s.login(company, token)
	s.add(start.Add(-time.Hour), 12)
	handler := func(t *testing.T) http.Handler { return contract.WrapAnswers(t, s) }
	f.Add(`{"subjectType":"Subject1","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00Z","restrictToPermanentStorageHwmDate":true}}`, "pageSize=10")
	f.Add(`{"subjectType":"Subject2","dateRange":{"dateType":"Issue","from":"0001-01-01T00:00:00Z","to":"9999-12-31T23:59:59.999999999+14:00"}}`, "pageOffset=3")
	f.Add(`{"subjectType":"Subject1","amount":{"type":"Vat","from":1e400},"currencyCodes":[null],"dateRange":{"dateType":"Invoicing","from":"2026-11-05T11:00:00+02:00"}}`, "sortOrder=Desc")
	f.Add(`[]`, "%zz")
	f.Fuzz(func(t *testing.T, body, parameters string) {
		request := httptest.NewRequestWithContext(t.Context(), "POST", "/v2/invoices/query/metadata", strings.NewReader(body))
		request.URL.RawQuery = parameters
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Bearer "+s.bearer)
		answer := httptest.NewRecorder()
		handler(t).ServeHTTP(answer, request)
		if answer.Code != 200 && answer.Code != 400 {
			t.Errorf("answered %d %s", answer.Code, answer.Body)
		}
	})
}
