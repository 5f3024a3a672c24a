package ksefsim

import (
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// ksefToken is a KSeF token: a credential that a company makes for a program.
type ksefToken struct {
	context ksef.Context
	revoked bool
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

// RefuseTokens makes every login with a KSeF token end 450, as from 2027, or
// accepts them again. How KSeF will refuse them is not known: [Forbidden] with
// auth-method-not-allowed is the other way. Sessions that exist go on.
func (s *Server) RefuseTokens(refuse bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.tokensRefused = refuse
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
	given, refused := s.takeChallenge(request.Challenge, now)
	if refused != nil {
		return nil, refused
	}
	key, refused := s.keyFor(usageToken, request.PublicKeyID)
	if refused != nil {
		return nil, refused
	}
	l := &login{
		context: *request.ContextIdentifier,
		method:  loginMethod{"Token", "Token", "token.ksef", "Token KSeF"},
	}
	l.status, l.token, l.detail = s.judge(key, request.EncryptedToken, given, l.context)
	if s.tokensRefused {
		l.status, l.detail = 450, "Nieprawidłowy token"
	}
	return s.begin(l, now), nil
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
