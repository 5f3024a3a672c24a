package ksefsim

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
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
	sessionToken   tokenKind = "ContextToken or RefreshToken"
)

// login is one authentication operation and what came of it.
type login struct {
	reference string
	context   ksef.Context
	method    loginMethod
	token     string      // the KSeF token; "": none
	signed    *signedWith // nil: by a KSeF token
	started   time.Time
	pending   int // polls that still answer 100
	status    int // after that
	detail    string
	redeemed  bool
	revoked   bool // its refresh token
}

// loginMethod is how a login was done, in the words of open-api,
// AuthenticationMethod and AuthenticationMethodInfo.
type loginMethod struct{ name, category, code, displayName string }

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

// takeChallenge uses up a challenge and tells when it was given. The mutex is held.
func (s *Server) takeChallenge(id string, now time.Time) (given time.Time, refused *refusal) {
	given, known := s.challenges[id]
	delete(s.challenges, id)
	if !known || now.Sub(given) > challengeLife {
		return time.Time{}, badRequest(21111, "Nieprawidłowe wyzwanie autoryzacyjne.", "")
	}
	return given, nil
}

// begin keeps a login whose verdict has been reached, which the client will ask
// for, and answers with the token to ask by. The mutex is held.
func (s *Server) begin(l *login, now time.Time) map[string]any {
	l.reference, l.started, l.pending = reference(now, "AU"), now, s.outcome.Pending
	if s.outcome.Status != 0 {
		l.status, l.detail = s.outcome.Status, ""
	}
	s.logins[l.reference] = l
	s.stats.Logins++
	return map[string]any{
		"referenceNumber":     l.reference,
		"authenticationToken": s.issue(operationToken, l, now.Add(operationTokenLife)),
	}
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
		"authenticationMethod":     l.method.name,
		"authenticationMethodInfo": map[string]any{"category": l.method.category, "code": l.method.code, "displayName": l.method.displayName},
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

// logout answers DELETE /auth/sessions/current: access tokens live on (sesje.md).
func (s *Server) logout(w http.ResponseWriter, r *http.Request, l *login) *refusal {
	s.noBody(r)
	s.mutex.Lock()
	l.revoked = true
	s.mutex.Unlock()
	w.WriteHeader(http.StatusNoContent)
	return nil
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
	if held.kind != kind && (kind != sessionToken || held.kind == operationToken) {
		s.violation(r, fmt.Sprintf("a %s where a %s is needed", held.kind, kind))
		return nil, unauthorized("Token jest nieprawidłowy lub wygasł.")
	}
	return held.login, nil
}
