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

// What a public key may encrypt (open-api, PublicKeyCertificateUsage).
const (
	loginUsage  = "KsefTokenEncryption"
	exportUsage = "SymmetricKeyEncryption" // the key of an export's package
)

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

// publicKey gives the key to encrypt with for a usage. It fetches the list when it
// is old or holds no usable key any more. The caller holds c.mu.
func (c *Client) publicKey(ctx context.Context, usage string) (id string, key *rsa.PublicKey, err error) {
	if c.now().Sub(c.keysAt) < keysMaxAge {
		if id, key, err = chooseKey(c.keys, usage, c.Limiter.serverTime()); err == nil {
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
	if id, key, err = chooseKey(c.keys, usage, c.Limiter.serverTime()); err != nil {
		err = &Error{Op: r.op, HTTPStatus: answer.status, Err: err}
	}
	return id, key, err
}

// forgetKeys makes the next encryption fetch the list of public keys anew.
func (c *Client) forgetKeys() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = nil
}

// chooseKey picks, among the keys for a usage that are valid now, the one whose
// validity began last (klucze-publiczne-do-szyfrowania.md).
func chooseKey(keys []publicKey, usage string, now time.Time) (id string, key *rsa.PublicKey, err error) {
	usable := slices.DeleteFunc(slices.Clone(keys), func(k publicKey) bool {
		return !slices.Contains(k.Usage, usage) || now.Before(k.ValidFrom.Time()) || !now.Before(k.ValidTo.Time())
	})
	if len(usable) == 0 {
		return "", nil, fmt.Errorf("KSeF lists no key for %s that is valid now", usage)
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
