package ksefsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/xades"
)

// onlyRequest is what the only document says that is ever signed here.
var onlyRequest = authRequest{
	challenge: "20261105-CR-0123456789-ABCDEF0123-45",
	context:   ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"},
}

// signOnce signs that document with a new key.
func signOnce(tb testing.TB) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Firma"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	signed, err := xades.Sign([]byte(`<AuthTokenRequest xmlns="http://ksef.mf.gov.pl/auth/token/2.1"><Challenge>`+onlyRequest.challenge+
		`</Challenge><ContextIdentifier><Nip>`+onlyRequest.context.Value+`</Nip></ContextIdentifier>`+
		`<SubjectIdentifierType>certificateSubject</SubjectIdentifierType></AuthTokenRequest>`), key, certificate, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return signed
}

// saysSomethingElse reports whether body is taken for signed but was not.
func saysSomethingElse(body []byte) bool {
	document, refused := verifySignature(body)
	if refused != nil {
		return false
	}
	request, refused := readAuthTokenRequest(document)
	return refused != nil || request != onlyRequest
}

func TestNoByteCanBeChangedOrLeftOut(t *testing.T) {
	signed := signOnce(t)
	if _, refused := verifySignature(signed); refused != nil {
		t.Fatalf("refused: %+v", refused)
	}
	for i := range signed {
		for name, body := range map[string][]byte{
			"bit 0 flipped": slices.Concat(signed[:i], []byte{signed[i] ^ 1}, signed[i+1:]),
			"bit 5 flipped": slices.Concat(signed[:i], []byte{signed[i] ^ 32}, signed[i+1:]),
			"left out":      slices.Concat(signed[:i], signed[i+1:]),
			"twice":         slices.Concat(signed[:i], signed[i:i+1], signed[i:]),
		} {
			if saysSomethingElse(body) {
				t.Errorf("byte %d %s: taken for signed:\n%s", i, name, body)
			}
		}
	}
}

// Only one document was ever signed, so whatever is taken for signed says what that
// one says.
func FuzzVerifySignature(f *testing.F) {
	f.Add(signOnce(f))
	f.Add([]byte(`<?xml version="1.0" encoding="utf-8"?><a xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:Signature Id="x"/></a>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if saysSomethingElse(body) {
			t.Errorf("taken for signed:\n%s", body)
		}
	})
}
