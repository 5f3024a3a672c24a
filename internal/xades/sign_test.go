package xades_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/xades"
)

const document = `<?xml version="1.0" encoding="UTF-8"?>
<Letter xmlns="http://example.com/letter" xmlns:unused="http://example.com/unused"><From>Łukasz &amp; Żółw</From><Text kind="plain"> two
lines </Text></Letter>`

var at = time.Date(2026, 11, 22, 12, 0, 0, 999_999_999, time.FixedZone("", 3600))

// certify makes a certificate whose issuer is not what pkix.Name would make of it:
// the country last, and one part in two attributes.
func certify(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	subject, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 97}, Value: "VATPL-5265877635"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: `Łódź, "Zażółć" <i> Spółka & Co; #1+`}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "Firma"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: "PL"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(0x7123), 120), RawSubject: subject,
		NotBefore: at.AddDate(-1, 0, 0), NotAfter: at.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// need skips a test where a program is not installed.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: what is signed is not verified by it", program)
	}
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// xmlsec verifies signed by certificate.
func xmlsec(t *testing.T, signed []byte, certificate *x509.Certificate) error {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "xmlsec1", "--verify",
		"--pubkey-cert-pem", write(t, "certificate.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})),
		"--id-attr:Id", "http://uri.etsi.org/01903/v1.3.2#:SignedProperties",
		write(t, "signed.xml", signed)).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("xmlsec1: %w: %s", err, output)
	}
	return err
}

func TestXMLSecVerifiesWhatIsSigned(t *testing.T) {
	need(t, "xmlsec1")
	tests := []struct {
		name, uri string
		key       crypto.Signer
	}{
		{"RSA 2048", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", newRSA(t, 2048)},
		{"EC P-256", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", newEC(t, elliptic.P256())},
		{"EC P-384", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", newEC(t, elliptic.P384())},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			certificate := certify(t, tt.key)
			signed, err := xades.Sign([]byte(document), tt.key, certificate, at)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(signed, []byte(tt.uri)) {
				t.Errorf("not signed by %s:\n%s", tt.uri, signed)
			}
			if err := xmlsec(t, signed, certificate); err != nil {
				t.Errorf("%v:\n%s", err, signed)
			}
			for _, change := range [][2]string{
				{"Żółw", "Zolw"},
				{"2026-11-22T11:00:00Z", "2026-11-22T11:00:01Z"},
				{"#SignedProperties\" Type=\"http://uri.etsi.org/01903#SignedProperties", "#SignedProperties\" Type=\"http://uri.etsi.org/01903#Other"},
			} {
				altered := bytes.Replace(signed, []byte(change[0]), []byte(change[1]), 1)
				if bytes.Equal(altered, signed) {
					t.Fatalf("nothing to change in\n%s", signed)
				}
				if err := xmlsec(t, altered, certificate); err == nil {
					t.Errorf("with %q it is still valid", change[1])
				}
			}
		})
	}
}

// xmlsec1 knows no PSS before 1.3, so what was signed is cut out, made canonical by
// xmllint and verified by openssl, which also makes the certificate.
func TestPSSKeySignsWithPSS(t *testing.T) {
	need(t, "openssl")
	need(t, "xmllint")
	folder := t.TempDir()
	run := func(program string, arguments ...string) []byte {
		t.Helper()
		command := exec.CommandContext(t.Context(), program, arguments...)
		command.Dir = folder
		output, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return output
	}
	run("openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes",
		"-subj", "/C=PL/O=Firma/CN=Firma", "-keyout", "key.pem", "-out", "certificate.pem")
	// Package x509 reads neither key nor certificate of that kind.
	read := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(content)
		return block.Bytes
	}
	var pkcs8 struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(read("key.pem"), &pkcs8); err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS1PrivateKey(pkcs8.Key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(read("certificate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := xades.Sign([]byte(document), key, certificate, at)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(signed), "http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1") {
		t.Errorf("not signed by PSS:\n%s", signed)
	}
	signedInfo := regexp.MustCompile(`(?s)<ds:SignedInfo>.*</ds:SignedInfo>`).Find(signed)
	alone := bytes.Replace(signedInfo, []byte("<ds:SignedInfo>"), []byte(`<ds:SignedInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#">`), 1)
	value, err := base64.StdEncoding.DecodeString(string(regexp.MustCompile(`<ds:SignatureValue>(.*)</ds:SignatureValue>`).FindSubmatch(signed)[1]))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"signature":     value,
		"canonical.xml": run("xmllint", "--exc-c14n", write(t, "alone.xml", alone)),
		"public.pem":    run("openssl", "x509", "-in", "certificate.pem", "-noout", "-pubkey"),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("openssl", "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32",
		"-verify", "public.pem", "-signature", "signature", "canonical.xml")
}

func TestSignRefuses(t *testing.T) {
	good, other := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	weak := newRSA(t, 1024) // package x509 still makes such certificates
	long := newEC(t, elliptic.P521())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, document string
		key            crypto.Signer
		certificate    *x509.Certificate
		says           string
	}{
		{"another key", document, other, certify(t, good), "does not belong"},
		{"a key of another kind", document, weak, certify(t, good), "does not belong"},
		{"RSA of 1024 bits", document, weak, certify(t, weak), "at least 2048"},
		{"P-521", document, long, certify(t, long), "use P-256"},
		{"Ed25519", document, edwards, certify(t, edwards), "use EC P-256 or RSA"},
		{"no document", "", good, certify(t, good), "root element"},
		{"half a document", "<a><b></a>", good, certify(t, good), "read the document"},
		{"an undeclared prefix", "<x:a/>", good, certify(t, good), "canonicalise"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signed, err := xades.Sign([]byte(tt.document), tt.key, tt.certificate, at)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %s, %v; want an error about %q", signed, err, tt.says)
			}
		})
	}
}

// fixedSigner gives the same ECDSA signature always.
type fixedSigner struct {
	crypto.Signer
	r, s *big.Int
}

func (f fixedSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return asn1.Marshal(struct{ R, S *big.Int }{f.r, f.s})
}

func TestHalvesOfECDSASignatureHaveFullLength(t *testing.T) {
	key := newEC(t, elliptic.P256())
	certificate := certify(t, key)
	sign := func(r, s *big.Int) (string, error) {
		signed, err := xades.Sign([]byte(document), fixedSigner{key, r, s}, certificate, at)
		if err != nil {
			return "", err
		}
		return string(regexp.MustCompile(`<ds:SignatureValue>(.*)</ds:SignatureValue>`).FindSubmatch(signed)[1]), nil
	}
	want := make([]byte, 64)
	want[30], want[31], want[63] = 1, 2, 3
	if got, err := sign(big.NewInt(258), big.NewInt(3)); err != nil || got != base64.StdEncoding.EncodeToString(want) {
		t.Errorf("got %s, %v; want %x", got, err, want)
	}
	// A device that answers for another curve must not make the program panic.
	if got, err := sign(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(3)); err == nil {
		t.Errorf("R of 257 bits gave %s", got)
	}
	if got, err := sign(big.NewInt(-1), big.NewInt(3)); err == nil {
		t.Errorf("a negative R gave %s", got)
	}
}
