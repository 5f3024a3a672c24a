package ksef

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// loginUsage marks the keys that encrypt KSeF tokens
// (open-api, PublicKeyCertificateUsage).
const loginUsage = "KsefTokenEncryption"

// keysMaxAge is how long the list of public keys is used. An emergency rotation
// withdraws a key at once; that shows as 21470 and reloads the list.
const keysMaxAge = 24 * time.Hour

// publicKey is one entry of GET /security/public-key-certificates.
type publicKey struct {
	Certificate string    `json:"certificate"` // base64 of DER
	ID          string    `json:"publicKeyId"`
	ValidFrom   Timestamp `json:"validFrom"`
	ValidTo     Timestamp `json:"validTo"`
	Usage       []string  `json:"usage"`
}

// tokenKey gives the key to encrypt a token with. It fetches the list when it is
// old or holds no usable key any more. The caller holds c.mu.
func (c *Client) tokenKey(ctx context.Context) (id string, key *rsa.PublicKey, err error) {
	if c.now().Sub(c.keysAt) < keysMaxAge {
		if id, key, err = chooseKey(c.keys, c.Limiter.serverTime()); err == nil {
			return id, key, nil
		}
	}
	var keys []publicKey
	r := request{op: "read public keys", method: http.MethodGet, path: "/security/public-key-certificates"}
	answer, err := c.sendLogin(ctx, r, nil, &keys)
	if err != nil {
		return "", nil, err
	}
	c.keys, c.keysAt = keys, c.now()
	if id, key, err = chooseKey(c.keys, c.Limiter.serverTime()); err != nil {
		err = &Error{Op: r.op, HTTPStatus: answer.status, Err: err}
	}
	return id, key, err
}

// chooseKey picks, among the keys for tokens that are valid now, the one whose
// validity began last (klucze-publiczne-do-szyfrowania.md).
func chooseKey(keys []publicKey, now time.Time) (id string, key *rsa.PublicKey, err error) {
	usable := slices.DeleteFunc(slices.Clone(keys), func(k publicKey) bool {
		return !slices.Contains(k.Usage, loginUsage) || now.Before(k.ValidFrom.Time()) || !now.Before(k.ValidTo.Time())
	})
	if len(usable) == 0 {
		return "", nil, fmt.Errorf("KSeF lists no key for %s that is valid now", loginUsage)
	}
	chosen := slices.MaxFunc(usable, func(a, b publicKey) int { return a.ValidFrom.Compare(b.ValidFrom) })
	der, err := base64.StdEncoding.DecodeString(chosen.Certificate)
	if err != nil {
		return "", nil, fmt.Errorf("decode the certificate of key %q: %w", chosen.ID, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return "", nil, fmt.Errorf("parse the certificate of key %q: %w", chosen.ID, err)
	}
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return "", nil, fmt.Errorf("key %q is not an RSA key", chosen.ID)
	}
	return chosen.ID, key, nil
}

// encryptToken is "token|timestamp" by RSA-OAEP with SHA-256, in base64 (open-api,
// POST /auth/ksef-token). timestampMs is the challenge's, in milliseconds.
func encryptToken(key *rsa.PublicKey, token Secret, timestampMs int64) (string, error) {
	text := fmt.Appendf(nil, "%s|%d", token.Reveal(), timestampMs)
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, text, nil)
	if err != nil {
		return "", fmt.Errorf("encrypt the token: %w", err)
	}
	return base64.StdEncoding.EncodeToString(encrypted), nil
}
