package ksef

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Timings of a login.
const (
	refreshAhead = 2 * time.Minute // a token with less left is replaced before use
	firstPoll    = 500 * time.Millisecond
	longestPoll  = 10 * time.Second
	// A qualified certificate is checked at its issuer, and KSeF asks to poll until
	// that has answered (uwierzytelnianie.md).
	pollFor = 10 * time.Minute
	// What a person mends in KSeF alone, such as a permission, nobody tells us.
	refusedFor = 24 * time.Hour
)

// session is what a login gives. It is kept in memory only: a crash costs a
// login. The zero session has no valid token.
type session struct {
	access, refresh token
}

// token is a TokenInfo of KSeF (open-api).
type token struct {
	Secret     Secret    `json:"-"`
	ValidUntil Timestamp `json:"validUntil"`
}

// UnmarshalJSON refuses a token without text or end.
func (t *token) UnmarshalJSON(data []byte) error {
	var info struct {
		Token      string    `json:"token"`
		ValidUntil Timestamp `json:"validUntil"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return err
	}
	if info.Token == "" || info.ValidUntil == "" {
		return errors.New("a token lacks its text or its end")
	}
	*t = token{NewSecret(info.Token), info.ValidUntil}
	return nil
}

// validAt reports whether the token can still be used for a while.
func (t token) validAt(now time.Time) bool {
	return !t.Secret.IsZero() && now.Add(refreshAhead).Before(t.ValidUntil.Time())
}

// refusal is a login that only a person can mend, and what it was tried with.
type refusal struct {
	err      *LoginError
	identity [sha256.Size]byte
	at       time.Time
}

// accessToken gives a token for the next request, by refreshing or logging in if
// need be. rejected is a token that KSeF has just answered with 401, zero if none.
func (c *Client) accessToken(ctx context.Context, rejected Secret) (Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	if !rejected.IsZero() && c.session.access.Secret.Reveal() == rejected.Reveal() {
		c.session.access = token{}
	}
	if c.session.refresh.validAt(c.Limiter.serverTime()) && !c.Limiter.fresh() {
		// After an hour, or a night with the laptop closed, ask anew what time it is.
		if _, err := c.challenge(ctx); err != nil {
			return Secret{}, err
		}
	}
	now := c.Limiter.serverTime()
	if c.session.access.validAt(now) {
		return c.session.access.Secret, nil
	}
	if c.session.refresh.validAt(now) {
		err := c.refresh(ctx)
		if err == nil {
			return c.session.access.Secret, nil
		}
		// KSeF reports a revoked or unknown session by 400 (21301, 21304) as well as
		// by 401. Both are answered by one login, and so is a refusal that login
		// would have to remember.
		failed, _ := errors.AsType[*Error](err)
		_, refused := errors.AsType[*LoginError](err)
		if !refused && (failed == nil || failed.HTTPStatus != http.StatusBadRequest && failed.HTTPStatus != http.StatusUnauthorized) {
			return Secret{}, err
		}
		c.session = session{}
	}
	if err := c.login(ctx); err != nil {
		return Secret{}, err
	}
	return c.session.access.Secret, nil
}

func (c *Client) refresh(ctx context.Context) error {
	var answer struct {
		AccessToken token `json:"accessToken"`
	}
	const op = "refresh the session"
	_, err := c.sendLogin(ctx, request{
		op: op, method: http.MethodPost, path: "/auth/token/refresh", bearer: c.session.refresh.Secret,
	}, nil, &answer)
	if err != nil {
		return err
	}
	if answer.AccessToken.Secret.IsZero() {
		return &Error{Op: op, Err: errors.New("the answer lacks the token")}
	}
	c.session.access = answer.AccessToken
	return nil
}

// credential is what a full login is done with: a tokenCredential or a signer.
type credential interface {
	// identity tells one credential from another without being one.
	identity() [sha256.Size]byte
	// begin sends what proves the identity, for a challenge that was just given.
	begin(ctx context.Context, c *Client, given challenge) (startedLogin, error)
}

// credential reads what is configured now.
func (c *Client) credential() (credential, error) {
	if c.Certificate != nil {
		key, certificate, err := c.Certificate()
		if err != nil {
			return nil, &LoginError{Terminal: true, Message: "the KSeF certificate could not be read", Err: err}
		}
		return signer{key, certificate}, nil
	}
	secret, err := c.Token()
	switch {
	case err != nil:
		return nil, &LoginError{Terminal: true, Message: "the KSeF token could not be read", Err: err}
	case secret.IsZero():
		return nil, &LoginError{Terminal: true, Message: "the KSeF token is empty; configure one"}
	}
	return tokenCredential{secret}, nil
}

// login does a full login. After a refusal that only a person can mend it sends
// nothing for a day, unless the credential is another one: KSeF takes repeated
// attempts for an attack.
func (c *Client) login(ctx context.Context) error {
	for {
		with, err := c.credential()
		switch {
		case err != nil:
			return err
		case c.refused.err != nil && c.refused.identity == with.identity() && c.now().Sub(c.refused.at) < refusedFor:
			return c.refused.err
		}
		c.refused = refusal{}
		err = c.loginWith(ctx, with)
		failed, _ := errors.AsType[*LoginError](err)
		refused := failed != nil && failed.Terminal
		if signed, ok := with.(signer); ok && c.CertificateTried != nil && (err == nil || refused) {
			if another := c.CertificateTried(signed.certificate, err == nil); another && refused {
				continue
			}
		}
		switch {
		case err == nil:
			c.log().Debug("logged in", "context", c.Context.Value)
		case refused:
			c.refused = refusal{failed, with.identity(), c.now()}
		}
		return err
	}
}

func (c *Client) loginWith(ctx context.Context, with credential) error {
	repeated := map[int]bool{} // each of the two, once
	for {
		started, err := c.startLogin(ctx, with)
		if err == nil {
			return c.finishLogin(ctx, started)
		}
		refused, ok := errors.AsType[*Error](err)
		if !ok || repeated[refused.Code] {
			return err
		}
		switch refused.Code {
		case codeUnknownPublicKey: // the key was rotated; fetch the list anew
			c.keys = nil
		case codeInvalidChallenge: // it expired meanwhile; ask for another
		default:
			return err
		}
		repeated[refused.Code] = true
	}
}

// challenge is the answer to POST /auth/challenge (open-api). It lives 10 minutes.
type challenge struct {
	Challenge   string `json:"challenge"`
	TimestampMs int64  `json:"timestampMs"` // KSeF's time, Unix milliseconds
}

// challenge asks for a challenge, and tells the limiter what time it is at KSeF.
func (c *Client) challenge(ctx context.Context) (challenge, error) {
	const op = "ask for a login challenge"
	var given challenge
	answer, err := c.sendLogin(ctx, request{op: op, method: http.MethodPost, path: "/auth/challenge"}, nil, &given)
	if err != nil {
		return challenge{}, err
	}
	if given.Challenge == "" || given.TimestampMs <= 0 {
		return challenge{}, &Error{Op: op, HTTPStatus: answer.status, Err: errors.New("the answer lacks challenge or timestampMs")}
	}
	return given, c.Limiter.anchorTo(ctx, time.UnixMilli(given.TimestampMs), answer.took)
}

// startedLogin is the answer to POST /auth/ksef-token and to POST
// /auth/xades-signature (open-api).
type startedLogin struct {
	Reference string `json:"referenceNumber"`
	Token     token  `json:"authenticationToken"`
}

func (c *Client) startLogin(ctx context.Context, with credential) (startedLogin, error) {
	given, err := c.challenge(ctx)
	if err != nil {
		return startedLogin{}, err
	}
	started, err := with.begin(ctx, c, given)
	if refused, ok := errors.AsType[*Error](err); ok && refused.HTTPStatus == http.StatusBadRequest &&
		refused.Code != codeInvalidChallenge && refused.Code != codeUnknownPublicKey {
		err = newStartError(refused)
	}
	return started, err
}

// tokenCredential is a KSeF token.
type tokenCredential struct{ secret Secret }

func (t tokenCredential) identity() [sha256.Size]byte {
	return sha256.Sum256([]byte(t.secret.Reveal()))
}

// begin sends the token, encrypted (open-api, POST /auth/ksef-token).
func (t tokenCredential) begin(ctx context.Context, c *Client, given challenge) (startedLogin, error) {
	keyID, key, err := c.publicKey(ctx, loginUsage)
	if err != nil {
		return startedLogin{}, err
	}
	encrypted, err := encryptToken(key, t.secret, given.TimestampMs)
	if err != nil {
		return startedLogin{}, &LoginError{Terminal: true, Message: "the KSeF token is not one that KSeF could have issued", Err: err}
	}
	var started startedLogin
	_, err = c.sendLogin(ctx, request{op: "start the login", method: http.MethodPost, path: "/auth/ksef-token"}, map[string]any{
		"challenge":         given.Challenge,
		"contextIdentifier": c.Context,
		"encryptedToken":    encrypted,
		"publicKeyId":       keyID,
	}, &started)
	return started, err
}

// finishLogin waits until KSeF has checked the login, and fetches the tokens.
// They can be fetched only once (open-api, POST /auth/token/redeem): a crash
// before they are in memory costs a new login, nothing else.
func (c *Client) finishLogin(ctx context.Context, started startedLogin) error {
	var waited time.Duration
	for pause := firstPoll; ; pause = min(2*pause, longestPoll) {
		// Other fields are not read: authenticationMethod was to be withdrawn on
		// 2026-11-16 (api-changelog 2.1.0).
		var answer struct {
			Status struct {
				Code    int      `json:"code"`
				Details []string `json:"details"`
			} `json:"status"`
		}
		_, err := c.sendLogin(ctx, request{
			op: "check the login", method: http.MethodGet,
			path: "/auth/" + url.PathEscape(started.Reference), bearer: started.Token.Secret,
		}, nil, &answer)
		if err != nil {
			return err
		}
		status := answer.Status
		if status.Code == 200 {
			break
		}
		if status.Code != 100 || waited >= pollFor {
			return newLoginError(status.Code, status.Details, started.Reference, c.Limiter.serverTime())
		}
		if err := sleep(ctx, c.Sleep, pause); err != nil {
			return err
		}
		waited += pause
	}
	var answer struct {
		AccessToken  token `json:"accessToken"`
		RefreshToken token `json:"refreshToken"`
	}
	redeem := request{op: "fetch the tokens", method: http.MethodPost, path: "/auth/token/redeem", bearer: started.Token.Secret}
	if _, err := c.sendLogin(ctx, redeem, nil, &answer); err != nil {
		return err
	}
	if answer.AccessToken.Secret.IsZero() || answer.RefreshToken.Secret.IsZero() {
		return &Error{Op: redeem.op, Err: errors.New("the answer lacks a token")}
	}
	c.session = session{answer.AccessToken, answer.RefreshToken}
	return nil
}

// Logout ends the session at KSeF, so that its refresh token is worth nothing any
// more; an access token lives on until its end, at most 15 minutes (sesje.md). It
// costs one request of [GroupOther]. Without a session it sends nothing. The next
// request that needs a session logs in anew.
func (c *Client) Logout(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Limiter.serverTime()
	bearer := c.session.refresh
	if !bearer.validAt(now) {
		bearer = c.session.access
	}
	if !bearer.validAt(now) {
		c.session = session{}
		return nil
	}
	answer, err := c.send(ctx, request{
		op: "end the session", method: http.MethodDelete, path: "/auth/sessions/current",
		group: GroupOther, bearer: bearer.Secret, accept: jsonTypes, maxBody: maxSmall,
	})
	if err != nil && answer.status != http.StatusUnauthorized { // by which KSeF says that it is over already
		return err
	}
	c.session = session{}
	return nil
}

// sendLogin sends a request that is part of a login: body, if not nil, as JSON;
// the JSON of the answer goes into result.
func (c *Client) sendLogin(ctx context.Context, r request, body, result any) (response, error) {
	r.group, r.accept, r.maxBody = groupLogin, jsonTypes, maxSmall
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return response{}, fmt.Errorf("%s: %w", r.op, err)
		}
		r.body = encoded
	}
	answer, err := c.send(ctx, r)
	if err != nil {
		return answer, asLoginError(err)
	}
	if err := json.Unmarshal(answer.body, result); err != nil {
		return answer, &Error{Op: r.op, HTTPStatus: answer.status, Err: fmt.Errorf("decode the answer: %w", err)}
	}
	return answer, nil
}
