package ksefsim

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"sync"
	"time"
)

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

// firstKeys are the private keys that the servers of a process begin with: to make
// them takes longer than most tests do.
var firstKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	keys := newKeys(time.Time{})
	return [2]*rsa.PrivateKey{keys[0].private, keys[1].private}
})

// initialKeys gives a server its keys, with certificates by its own clock.
func initialKeys(now time.Time) []*publicKey {
	private := firstKeys()
	keys := []*publicKey{{usage: usageToken, private: private[0]}, {usage: usageSymmetric, private: private[1]}}
	for _, key := range keys {
		key.certify(now)
	}
	return keys
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
