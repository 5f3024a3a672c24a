package ksefsim

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// How long things live: the challenge by uwierzytelnianie.md, the tokens as
// measured from tokens that KSeF issued (exp less iat).
const (
	challengeLife      = 10 * time.Minute
	operationTokenLife = 45 * time.Minute
	accessTokenLife    = 15 * time.Minute
	refreshTokenLife   = 7 * 24 * time.Hour
)

// tokenKind says what a bearer token is good for.
type tokenKind string

const (
	anyone         tokenKind = "" // no token is asked for
	operationToken tokenKind = "OperationToken"
	accessToken    tokenKind = "ContextToken"
	refreshToken   tokenKind = "RefreshToken"
)

// ksefToken is a KSeF token: a credential that a company makes for a program.
type ksefToken struct {
	context ksef.Context
	revoked bool
}

// login is one authentication operation and what came of it.
type login struct {
	reference string
	context   ksef.Context
	token     string // the KSeF token
	started   time.Time
	pending   int // polls that still answer 100
	status    int // after that
	detail    string
	redeemed  bool
	revoked   bool // its refresh token
}

// bearer is an issued token.
type bearer struct {
	kind    tokenKind
	login   *login
	expires time.Time
}

// LoginOutcome says how logins end that begin from now on.
type LoginOutcome struct {
	Pending int // polls answered 100, in progress, before the end
	Status  int // 0: by the credentials. Else KSeF's status, such as 415, 450, 460, 470, 480, 500 or 550
}

// AddToken makes a KSeF token known that logs in to context and may read its
// invoices.
func (s *Server) AddToken(context ksef.Context, token string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.tokens[token] = &ksefToken{context: context}
}

// RevokeToken ends a KSeF token: it logs in no more and its refresh tokens are
// refused. Access tokens live on until they expire, as KSeF's do.
func (s *Server) RevokeToken(token string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if known := s.tokens[token]; known != nil {
		known.revoked = true
	}
	for _, l := range s.logins {
		l.revoked = l.revoked || l.token == token
	}
}

// RevokeRefreshTokens ends every refresh token issued so far. New logins work.
func (s *Server) RevokeRefreshTokens() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, l := range s.logins {
		l.revoked = true
	}
}

// SetLoginOutcome says how logins end from now on; the zero value is normal.
func (s *Server) SetLoginOutcome(outcome LoginOutcome) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.outcome = outcome
}

// challenge answers POST /auth/challenge.
func (s *Server) challenge(r *http.Request, _ *login) (any, *refusal) {
	s.noBody(r)
	now := s.now().UTC()
	id := reference(now, "CR")
	s.mutex.Lock()
	for old, given := range s.challenges {
		if now.Sub(given) > challengeLife {
			delete(s.challenges, old)
		}
	}
	s.challenges[id] = now
	s.mutex.Unlock()
	return map[string]any{
		"challenge": id, "timestamp": now.Format(ticks), "timestampMs": now.UnixMilli(), "clientIp": clientIP(r),
	}, nil
}

// nipPattern begins every identifier of a company (open-api, Nip).
const nipPattern = `[1-9]((\d[1-9])|([1-9]\d))\d{7}`

var (
	nipOnly    = regexp.MustCompile(`^` + nipPattern + `$`)
	internalID = regexp.MustCompile(`^` + nipPattern + `-\d{5}$`)
	nipVATEU   = regexp.MustCompile(`^` + nipPattern + `-[A-Z]{2}[A-Z0-9+*]{2,12}$`)
	peppolID   = regexp.MustCompile(`^P[A-Z]{2}\d{6}$`)
)

// wellFormed reports whether a context has a type that KSeF knows and a value
// of that type's form.
func wellFormed(context ksef.Context) bool {
	switch context.Type {
	case ksef.ContextNIP:
		return nipOnly.MatchString(context.Value)
	case ksef.ContextInternalID:
		return internalID.MatchString(context.Value)
	case ksef.ContextNIPVATEU:
		return nipVATEU.MatchString(context.Value)
	case ksef.ContextPeppolID:
		return peppolID.MatchString(context.Value)
	default:
		return false
	}
}

// tokenLogin answers POST /auth/ksef-token. The credentials are judged now, but
// the verdict is told by GET /auth/{referenceNumber}.
func (s *Server) tokenLogin(r *http.Request, _ *login) (any, *refusal) {
	var request struct {
		Challenge           string        `json:"challenge"`
		ContextIdentifier   *ksef.Context `json:"contextIdentifier"`
		EncryptedToken      []byte        `json:"encryptedToken"`
		PublicKeyID         *string       `json:"publicKeyId"`
		AuthorizationPolicy *struct {
			AllowedIPs *struct {
				Addresses []string `json:"ip4Addresses"`
				Ranges    []string `json:"ip4Ranges"`
				Masks     []string `json:"ip4Masks"`
			} `json:"allowedIps"`
		} `json:"authorizationPolicy"`
	}
	if refused := s.readJSON(r, &request); refused != nil {
		return nil, refused
	}
	switch {
	case len(request.Challenge) != 36:
		return nil, invalid("Pole challenge musi mieć 36 znaków.")
	case request.ContextIdentifier == nil:
		return nil, invalid("Pole contextIdentifier jest wymagane.")
	case !wellFormed(*request.ContextIdentifier):
		return nil, invalid("Nieprawidłowy identyfikator kontekstu.")
	case len(request.EncryptedToken) == 0:
		return nil, invalid("Pole encryptedToken jest wymagane.")
	}
	now := s.now().UTC()

	s.mutex.Lock()
	defer s.mutex.Unlock()
	given, known := s.challenges[request.Challenge]
	delete(s.challenges, request.Challenge)
	if !known || now.Sub(given) > challengeLife {
		return nil, badRequest(21111, "Nieprawidłowe wyzwanie autoryzacyjne.", "")
	}
	key, refused := s.keyFor(usageToken, request.PublicKeyID)
	if refused != nil {
		return nil, refused
	}

	l := &login{reference: reference(now, "AU"), context: *request.ContextIdentifier, started: now, pending: s.outcome.Pending}
	l.status, l.token, l.detail = s.judge(key, request.EncryptedToken, given, l.context)
	if s.outcome.Status != 0 {
		l.status, l.detail = s.outcome.Status, ""
	}
	s.logins[l.reference] = l
	s.stats.Logins++
	return map[string]any{
		"referenceNumber":     l.reference,
		"authenticationToken": s.issue(operationToken, l, now.Add(operationTokenLife)),
	}, nil
}

// keyFor finds the key that a client says it used, which may be one of another
// usage, or the current one of a usage where it does not say. The mutex is held.
func (s *Server) keyFor(usage string, id *string) (*publicKey, *refusal) {
	for _, each := range slices.Backward(s.keys) { // the last one that fits is the current one
		if id == nil && each.usage == usage || id != nil && each.id == *id {
			return each, nil
		}
	}
	return nil, badRequest(21470, "Przesłany identyfikator klucza jest nieznany lub wskazuje na wycofany klucz.",
		fmt.Sprintf("Klucz o identyfikatorze %s nie jest wspierany.", *id))
}

// judge decides on an encrypted "token|timestamp" for a challenge given at
// given (uwierzytelnianie.md). The mutex is held.
func (s *Server) judge(key *publicKey, encrypted []byte, given time.Time, context ksef.Context) (status int, token, detail string) {
	plain, err := rsa.DecryptOAEP(sha256.New(), nil, key.private, encrypted, nil)
	if err != nil || key.usage != usageToken {
		return 450, "", "Nieprawidłowe szyfrowanie tokena"
	}
	cut := strings.LastIndexByte(string(plain), '|')
	if cut < 0 {
		return 450, "", "Nieprawidłowe kodowanie tokena"
	}
	token = string(plain[:cut])
	known := s.tokens[token]
	switch {
	case string(plain[cut+1:]) != strconv.FormatInt(given.UnixMilli(), 10):
		return 450, token, "Nieprawidłowy czas tokena"
	case known == nil:
		return 450, token, "Nieprawidłowy token"
	case known.revoked:
		return 450, token, "Token unieważniony"
	case known.context != context:
		return 450, token, fmt.Sprintf("Token nie może być użyty w kontekście %s", context.Value)
	}
	return 200, token, ""
}

// loginStatus answers GET /auth/{referenceNumber}.
func (s *Server) loginStatus(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	asked := r.PathValue("referenceNumber")
	if len(asked) != 36 {
		return nil, invalid("Numer referencyjny musi mieć 36 znaków.")
	}
	if asked != l.reference {
		return nil, operationNotFound(asked)
	}
	s.mutex.Lock()
	status, detail := l.progress(), l.detail
	l.pending = max(0, l.pending-1)
	redeemed := l.redeemed
	s.mutex.Unlock()
	info := map[string]any{"code": status, "description": loginDescription(status)}
	if detail == "" {
		detail = loginDetail(status)
	}
	if detail != "" && status != 100 {
		info["details"] = []string{detail}
	}
	return map[string]any{
		"startDate":                l.started.Format(ticks),
		"authenticationMethod":     "Token",
		"authenticationMethodInfo": map[string]any{"category": "Token", "code": "token.ksef", "displayName": "Token KSeF"},
		"status":                   info,
		"isTokenRedeemed":          redeemed,
	}, nil
}

// progress is the status to tell now. The mutex is held.
func (l *login) progress() int {
	if l.pending > 0 {
		return 100
	}
	return l.status
}

// loginDescription and loginDetail are the texts of open-api,
// AuthenticationOperationStatusResponse.
func loginDescription(status int) string {
	switch status {
	case 100:
		return "Uwierzytelnianie w toku"
	case 200:
		return "Uwierzytelnianie zakończone sukcesem"
	case 425:
		return "Uwierzytelnienie unieważnione"
	case 450:
		return "Uwierzytelnianie zakończone niepowodzeniem z powodu błędnego tokenu"
	case 460:
		return "Uwierzytelnianie zakończone niepowodzeniem z powodu błędu certyfikatu"
	case 480:
		return "Uwierzytelnienie zablokowane"
	case 500:
		return "Nieznany błąd"
	case 550:
		return "Operacja została anulowana przez system"
	default:
		return "Uwierzytelnianie zakończone niepowodzeniem"
	}
}

func loginDetail(status int) string {
	switch status {
	case 415:
		return "Brak przypisanych uprawnień"
	case 425:
		return "Uwierzytelnienie i powiązane refresh tokeny zostały unieważnione przez użytkownika"
	case 450:
		return "Nieprawidłowy token"
	case 460:
		return "Nieważny certyfikat"
	case 470:
		return "Próba wykorzystania metod autoryzacyjnych osoby zmarłej"
	case 480:
		return "Podejrzenie incydentu bezpieczeństwa. Skontaktuj się z Ministerstwem Finansów przez formularz zgłoszeniowy."
	case 550:
		return "Przetwarzanie zostało przerwane z przyczyn wewnętrznych systemu. Spróbuj ponownie"
	default:
		return ""
	}
}

func operationNotFound(asked string) *refusal {
	return badRequest(21304, "Brak uwierzytelnienia.",
		fmt.Sprintf("Operacja uwierzytelniania o numerze referencyjnym %s nie została znaleziona.", asked))
}

func notAuthorized(detail string) *refusal { return badRequest(21301, "Brak autoryzacji.", detail) }

// redeem answers POST /auth/token/redeem, once per login.
func (s *Server) redeem(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	now := s.now().UTC()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case l.redeemed:
		return nil, notAuthorized(fmt.Sprintf("Tokeny dla operacji uwierzytelniania %s zostały już pobrane.", l.reference))
	case l.progress() != 200:
		return nil, notAuthorized(fmt.Sprintf("Status uwierzytelniania (%d) nie pozwala na pobranie tokenów.", l.progress()))
	case l.revoked:
		return nil, notAuthorized("Token KSeF został unieważniony.")
	}
	l.redeemed = true
	s.stats.Redeems++
	return map[string]any{
		"accessToken":  s.issue(accessToken, l, now.Add(accessTokenLife)),
		"refreshToken": s.issue(refreshToken, l, now.Add(refreshTokenLife)),
	}, nil
}

// refresh answers POST /auth/token/refresh.
func (s *Server) refresh(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	now := s.now().UTC()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if l.revoked {
		return nil, notAuthorized("Token KSeF został unieważniony.")
	}
	s.stats.Refreshes++
	return map[string]any{"accessToken": s.issue(accessToken, l, now.Add(accessTokenLife))}, nil
}

// issue makes a bearer token, a JWT, and returns its TokenInfo. The mutex is
// held.
func (s *Server) issue(kind tokenKind, l *login, expires time.Time) map[string]any {
	now := s.now()
	for text, old := range s.bearers {
		if now.After(old.expires) {
			delete(s.bearers, text)
		}
	}
	claims, err := json.Marshal(map[string]any{
		"token-type": kind, "operation-reference-number": l.reference,
		"context-identifier-type": l.context.Type, "context-identifier-value": l.context.Value,
		"iat": now.Unix(), "exp": expires.Unix(), "jti": rand.Text(), "iss": "ksef-api-sim", "aud": "ksef-api-sim",
	})
	if err != nil {
		panic(err) // strings and numbers only
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(text))
	text += "." + encode(mac.Sum(nil))
	s.bearers[text] = &bearer{kind: kind, login: l, expires: expires}
	return map[string]any{"token": text, "validUntil": expires.Format(ticks)}
}

// bearer finds the valid token that came with a request, or nil.
func (s *Server) bearer(r *http.Request) *bearer {
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	held := s.bearers[text]
	if held == nil || !s.now().Before(held.expires) {
		return nil
	}
	return held
}

// authorize finds the login behind a request that must bear a token of kind.
func (s *Server) authorize(r *http.Request, kind tokenKind) (*login, *refusal) {
	sent := r.Header.Get("Authorization")
	if kind == anyone {
		if sent != "" {
			s.violation(r, "Authorization where none is specified")
		}
		return nil, nil
	}
	if sent == "" {
		s.violation(r, "no Authorization")
		return nil, unauthorized("Wymagane jest uwierzytelnienie.")
	}
	held := s.bearer(r)
	if held == nil {
		return nil, unauthorized("Token jest nieprawidłowy lub wygasł.")
	}
	if held.kind != kind {
		s.violation(r, fmt.Sprintf("a %s where a %s is needed", held.kind, kind))
		return nil, unauthorized("Token jest nieprawidłowy lub wygasł.")
	}
	return held.login, nil
}

// Usages of a public key (open-api, PublicKeyCertificateUsage).
const (
	usageToken     = "KsefTokenEncryption" //nolint:gosec // the name of a usage, no credential
	usageSymmetric = "SymmetricKeyEncryption"
)

// publicKey is a key pair and its certificate.
type publicKey struct {
	usage       string
	id          string // base64 of the SHA-256 of the SubjectPublicKeyInfo
	private     *rsa.PrivateKey
	certificate *x509.Certificate
}

// newKeys makes a key for each usage.
func newKeys(now time.Time) []*publicKey {
	return []*publicKey{newKey(usageToken, now), newKey(usageSymmetric, now)}
}

// newKey makes a key pair with a certificate valid for two years.
func newKey(usage string, now time.Time) *publicKey {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // 2048 bits are allowed and crypto/rand never fails
	}
	key := &publicKey{usage: usage, private: private}
	key.certify(now)
	return key
}

// certify gives the key a new certificate.
func (k *publicKey) certify(now time.Time) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "KSeF simulator", Country: []string{"PL"}},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.AddDate(2, 0, 0),
		KeyUsage:     x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.private.Public(), crypto.Signer(k.private))
	if err == nil {
		k.certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		panic(err) // the template above is valid
	}
	k.id = hash(k.certificate.RawSubjectPublicKeyInfo)
}

// hash is the base64 of the SHA-256, as KSeF writes every hash.
func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// RotateKeys replaces every key in an emergency: the old ones are gone at once.
// Whoever uses the id of one is told 21470, and an export that was begun with one
// and has not ended yet ends 415.
func (s *Server) RotateKeys() {
	keys := newKeys(s.now())
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.keys = keys
}

// AddKey begins a planned rotation: a newer key for each usage, while the old
// ones still work.
func (s *Server) AddKey() {
	keys := newKeys(s.now())
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.keys = append(s.keys, keys...)
}

// Recertify gives every key a new certificate. The keys and their ids stay.
func (s *Server) Recertify() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, key := range s.keys {
		key.certify(s.now())
	}
}

// certificates answers GET /security/public-key-certificates.
func (s *Server) certificates(r *http.Request, _ *login) (any, *refusal) {
	s.noBody(r)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	list := []any{}
	for _, key := range s.keys {
		list = append(list, map[string]any{
			"certificate":   key.certificate.Raw,
			"certificateId": hash(key.certificate.Raw),
			"publicKeyId":   key.id,
			"validFrom":     key.certificate.NotBefore.UTC().Format(ticks),
			"validTo":       key.certificate.NotAfter.UTC().Format(ticks),
			"usage":         []string{key.usage},
		})
	}
	return list, nil
}
