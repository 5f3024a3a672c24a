package credential

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
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// passphrase is that of the files in testdata.
const passphrase = "zażółć gęślą 1"

// ecFingerprint is that of testdata/ec.certificate.pem.
const ecFingerprint = "3AAAFC84244B944A671CA3F5A6AD6FC2509A68850698DB53EEE58424DD672259"

// today is when the tests happen: the certificates in testdata are valid from
// 2026-11-22 on.
var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newEC(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSA(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for key, valid for 100 days around today unless
// change says otherwise.
func issue(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "Jan Kowalski", SerialNumber: "PNOPL-90010112345"},
		NotBefore:    today.AddDate(0, 0, -50),
		NotAfter:     today.AddDate(0, 0, 50),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
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

func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.Subject.CommonName = "TEST CCK KSeF"
}

// toPEM writes certificates, keys and anything else that has a PEM form.
func toPEM(t testing.TB, things ...any) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, thing := range things {
		block := &pem.Block{}
		switch thing := thing.(type) {
		case *x509.Certificate:
			block.Type, block.Bytes = "CERTIFICATE", thing.Raw
		case crypto.Signer:
			der, err := x509.MarshalPKCS8PrivateKey(thing)
			if err != nil {
				t.Fatal(err)
			}
			block.Type, block.Bytes = "PRIVATE KEY", der
		case *pem.Block:
			block = thing
		default:
			t.Fatalf("no PEM form of %T", thing)
		}
		if err := pem.Encode(&text, block); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

func publicPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return toPEM(t, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func requestPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Jan Kowalski"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return toPEM(t, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// der is the first block of a PEM file.
func der(t testing.TB, file []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(file)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func encodePKCS12(t testing.TB, encoder *pkcs12.Encoder, key crypto.Signer, certificate *x509.Certificate, issuers []*x509.Certificate, passphrase string) []byte {
	t.Helper()
	data, err := encoder.Encode(key, certificate, issuers, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wantSigner checks that what was loaded signs what its certificate verifies.
func wantSigner(t *testing.T, got *Credential, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	signature, err := got.Key().Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	switch public := publicKeyOf(got.Certificate()).(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, digest, signature) {
			t.Error("the certificate does not verify the signature of its key")
		}
	default:
		t.Errorf("a key of type %T", public)
	}
}

// wantProblems checks that an error is the problems with these parts and texts,
// in turn.
func wantProblems(t *testing.T, got *Credential, err error, want ...string) {
	t.Helper()
	var problems Problems
	if got != nil || !errors.As(err, &problems) {
		t.Fatalf("got %v, %v; want problems", got, err)
	}
	if len(problems)*2 != len(want) {
		t.Fatalf("got %d problems, want %d:\n%s", len(problems), len(want)/2, strings.ReplaceAll(err.Error(), "; auth.", "\nauth."))
	}
	for i, problem := range problems {
		if problem.Part != Part(want[2*i]) || !strings.Contains(problem.Text, want[2*i+1]) {
			t.Errorf("got  %s\nwant auth.%s: …%s…", problem, want[2*i], want[2*i+1])
		}
	}
}

// TestForms loads the same keys in all the forms in which OpenSSL writes them.
func TestForms(t *testing.T) {
	for _, test := range []struct{ certificate, key, passphrase string }{
		{"ec.certificate.pem", "ec.pkcs8.pem", ""},
		{"ec.certificate.pem", "ec.sec1.pem", ""},
		{"ec.certificate.pem", "ec.sha256-aes256.pem", passphrase},
		{"ec.certificate.pem", "ec.sha1-aes128.pem", passphrase},
		{"ec.certificate.pem", "ec.sha384-aes192.pem", passphrase},
		{"ec.certificate.pem", "ec.sha512-aes256.pem", passphrase},
		{"ec.certificate.pem", "ec.scrypt.pem", passphrase},
		{"ec.certificate.pem", "ec.sha256-aes256.der", passphrase},
		{"ec.certificate.pem", "ec.pkcs8.pem", "a passphrase that is not needed"},
		{"rsa.certificate.der", "rsa.pkcs8.pem", ""},
		{"rsa.certificate.der", "rsa.pkcs1.pem", ""},
		{"rsa.certificate.der", "rsa.pkcs1.der", ""},
		{"pss.certificate.pem", "pss.pkcs8.pem", ""},
		{"pss.certificate.pem", "pss.sha256-aes256.pem", passphrase},
	} {
		t.Run(test.key, func(t *testing.T) {
			got, err := LoadPair(file(t, test.certificate), file(t, test.key), test.passphrase, today)
			wantSigner(t, got, err)
		})
	}
	for _, name := range []string{"ec.modern.p12", "ec.legacy.p12"} {
		t.Run(name, func(t *testing.T) {
			got, err := LoadPKCS12(file(t, name), passphrase, today)
			wantSigner(t, got, err)
		})
	}
}

// TestHowFilesAreKept loads files that hold more than they need to, or differ in
// how they were saved.
func TestHowFilesAreKept(t *testing.T) {
	key := newEC(t, elliptic.P384())
	certificate := issue(t, key, nil)
	caKey := newEC(t, elliptic.P256())
	ca := issue(t, caKey, asCA)
	certificatePEM, keyPEM := toPEM(t, certificate), toPEM(t, key)
	both := append(bytes.Clone(certificatePEM), keyPEM...)
	base64DER := []byte(base64.StdEncoding.EncodeToString(certificate.Raw))

	for _, test := range []struct {
		name             string
		certificate, key []byte
	}{
		{"PEM", certificatePEM, keyPEM},
		{"certificate and its issuer", toPEM(t, certificate, ca), keyPEM},
		{"both in one file", both, both},
		{"text around", append([]byte("Bag Attributes\n    localKeyID: 01\n"), certificatePEM...), append([]byte("Key:\n"), keyPEM...)},
		{"windows line ends", bytes.ReplaceAll(certificatePEM, []byte("\n"), []byte("\r\n")), bytes.ReplaceAll(keyPEM, []byte("\n"), []byte("\r\n"))},
		{"byte order mark", append([]byte("\ufeff"), certificatePEM...), append([]byte("\ufeff"), keyPEM...)},
		{"base64 as KSeF's API gives it", base64DER, keyPEM},
		{"base64 in lines", append(append(bytes.Clone(base64DER[:64]), "\r\n"...), base64DER[64:]...), keyPEM},
		{"DER", certificate.Raw, der(t, keyPEM)},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := LoadPair(test.certificate, test.key, "", today)
			wantSigner(t, got, err)
		})
	}

	for name, encoder := range map[string]*pkcs12.Encoder{
		"RC2": pkcs12.LegacyRC2, "3DES": pkcs12.LegacyDES, "AES": pkcs12.Modern2023, "AES and PBMAC1": pkcs12.Modern2026,
	} {
		t.Run("PKCS#12 with "+name, func(t *testing.T) {
			got, err := LoadPKCS12(encodePKCS12(t, encoder, key, certificate, []*x509.Certificate{ca}, passphrase), passphrase, today)
			wantSigner(t, got, err)
		})
	}
	t.Run("PKCS#12 that begins with the issuer", func(t *testing.T) {
		got, err := LoadPKCS12(encodePKCS12(t, pkcs12.Modern, key, ca, []*x509.Certificate{certificate}, passphrase), passphrase, today)
		wantSigner(t, got, err)
	})
	t.Run("PKCS#12 without a passphrase", func(t *testing.T) {
		got, err := LoadPKCS12(encodePKCS12(t, pkcs12.Passwordless, key, certificate, nil, ""), "", today)
		wantSigner(t, got, err)
	})
}

// TestPairProblems has one message for each mistake.
func TestPairProblems(t *testing.T) {
	key, other := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	certificate, ca := issue(t, key, nil), issue(t, other, asCA)
	certificatePEM, keyPEM := toPEM(t, certificate), toPEM(t, key)
	p12 := encodePKCS12(t, pkcs12.Modern, key, certificate, nil, passphrase)
	damagedBlock := toPEM(t, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw[:200]})
	utf16 := append([]byte{0xff, 0xfe}, bytes.ReplaceAll(certificatePEM, []byte("-"), []byte("-\x00"))...)
	ecCertificate := file(t, "ec.certificate.pem")

	for _, test := range []struct {
		name             string
		certificate, key []byte
		passphrase       string
		want             []string // part, a part of the text
	}{
		{"wrong passphrase", ecCertificate, file(t, "ec.sha256-aes256.pem"), "zazolc", []string{"passphrase", "does not open the private key"}},
		{"wrong passphrase, scrypt", ecCertificate, file(t, "ec.scrypt.pem"), "zazolc", []string{"passphrase", "does not open the private key"}},
		{"missing passphrase", ecCertificate, file(t, "ec.sha256-aes256.pem"), "", []string{"passphrase", "it is missing, and the private key is encrypted"}},
		{"old encryption of keys", ecCertificate, file(t, "ec.refused-traditional.pem"), passphrase, []string{"private_key", "old and weak way; convert it: openssl pkcs8"}},
		{"old encryption of PKCS#8", ecCertificate, file(t, "ec.refused-pbes1.pem"), passphrase, []string{"private_key", "not PBES2); convert it: openssl pkcs8"}},
		{"3DES", ecCertificate, file(t, "ec.refused-des3.pem"), passphrase, []string{"private_key", "another algorithm than AES-CBC; convert it"}},
		{"key of another certificate", certificatePEM, toPEM(t, other), "", []string{"private_key", "not the key of the certificate: this is an EC key on the curve P-256"}},
		{"key of another kind", certificatePEM, file(t, "rsa.pkcs8.pem"), "", []string{"private_key", "this is an RSA key of 2048 bits, the certificate is for an EC key"}},

		{"several certificates", toPEM(t, certificate, issue(t, other, nil)), keyPEM, "", []string{"certificate", "holds 2 certificates that are nobody's issuer"}},
		{"issuer first", toPEM(t, ca, certificate), keyPEM, "", []string{"certificate", "the first of its 2 certificates is that of a certificate authority (TEST CCK KSeF); put your own first"}},
		{"two keys", certificatePEM, toPEM(t, key, other), "", []string{"private_key", "holds 2 private keys"}},
		{"request for certificate", requestPEM(t, key), keyPEM, "", []string{"certificate", "signing request (CSR), not a certificate"}},
		{"request in DER", der(t, requestPEM(t, key)), keyPEM, "", []string{"certificate", "signing request (CSR), not a certificate"}},
		{"public key for certificate", publicPEM(t, key), keyPEM, "", []string{"certificate", "a public key, not a certificate"}},
		{"public key in DER for key", certificatePEM, der(t, publicPEM(t, key)), "", []string{"private_key", "a public key, not a private key"}},
		{"swapped", keyPEM, certificatePEM, "", []string{"certificate", "belongs under auth.private_key", "private_key", "belongs under auth.certificate"}},
		{"encrypted key in DER for certificate", file(t, "ec.sha256-aes256.der"), keyPEM, "", []string{"certificate", "belongs under auth.private_key"}},
		{"PKCS#12 for both", p12, p12, passphrase, []string{"certificate", "name it under auth.pkcs12", "private_key", "name it under auth.pkcs12"}},
		{"PKCS#7", append([]byte{0x30, 11, asn1.TagOID}, "\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"...), keyPEM, "", []string{"certificate", "PKCS#7 bundle"}},

		{"empty", nil, []byte(" \n"), "", []string{"certificate", "the file is empty", "private_key", "the file is empty"}},
		{"other files", []byte("<?xml version='1.0'?>"), []byte("token"), "", []string{"certificate", "not a certificate, or it is damaged", "private_key", "not a private key, or it is damaged"}},
		{"PEM cut short", certificatePEM[:len(certificatePEM)/2], keyPEM[:len(keyPEM)/2], "", []string{"certificate", "looks like a PEM file but is damaged", "private_key", "looks like a PEM file but is damaged"}},
		{"damaged certificate", damagedBlock, keyPEM, "", []string{"certificate", "the certificate in it is damaged"}},
		{"damaged key", certificatePEM, toPEM(t, &pem.Block{Type: "PRIVATE KEY", Bytes: []byte("damaged")}), "", []string{"private_key", "damaged, or of a kind"}},
		{"UTF-16", utf16, keyPEM, "", []string{"certificate", "saved as UTF-16"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := LoadPair(test.certificate, test.key, test.passphrase, today)
			wantProblems(t, got, err, test.want...)
		})
	}
}

func TestPKCS12Problems(t *testing.T) {
	key, other := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	certificate := issue(t, key, nil)
	good := encodePKCS12(t, pkcs12.Modern, key, certificate, nil, passphrase)
	old := issue(t, key, func(c *x509.Certificate) { c.NotAfter = today.Add(-time.Minute) })

	for _, test := range []struct {
		name       string
		file       []byte
		passphrase string
		want       []string
	}{
		{"wrong passphrase", good, "zazolc", []string{"passphrase", "does not open the private key"}},
		{"missing passphrase", good, "", []string{"passphrase", "it is missing, and the private key is encrypted"}},
		{"wrong passphrase, old encryption", file(t, "ec.legacy.p12"), "zazolc", []string{"passphrase", "does not open the private key"}},
		{"passphrase that PKCS#12 cannot have", good, "🔑", []string{"passphrase", "does not open the private key"}},
		{"key of another certificate", encodePKCS12(t, pkcs12.Modern, key, issue(t, other, nil), nil, passphrase), passphrase, []string{"pkcs12", "none of its 1 certificates is that of its private key"}},
		{"only certificates", func() []byte {
			data, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{certificate}, passphrase)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}(), passphrase, []string{"pkcs12", "private key missing"}},
		{"ended", encodePKCS12(t, pkcs12.Modern, key, old, nil, passphrase), passphrase, []string{"pkcs12", "it ended on 2027-03-01 11:59 UTC"}},
		{"certificate", toPEM(t, certificate), passphrase, []string{"pkcs12", "it is a certificate, not a PKCS#12 file"}},
		{"key after its parameters", file(t, "ec.sec1.pem"), passphrase, []string{"pkcs12", "it is a private key, not a PKCS#12 file"}},
		{"key", toPEM(t, key), passphrase, []string{"pkcs12", "it is a private key, not a PKCS#12 file"}},
		{"cut short", good[:len(good)/2], passphrase, []string{"pkcs12", "not a PKCS#12 file, or it is damaged"}},
		{"empty", nil, passphrase, []string{"pkcs12", "the file is empty"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := LoadPKCS12(test.file, test.passphrase, today)
			wantProblems(t, got, err, test.want...)
		})
	}
}

func TestCheck(t *testing.T) {
	p256 := newEC(t, elliptic.P256())
	qualified, err := asn1.Marshal([]struct{ ID asn1.ObjectIdentifier }{{asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 1}}})
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	usage := func(usage x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = usage }
	}
	for _, test := range []struct {
		name   string
		key    crypto.Signer
		change func(*x509.Certificate)
		now    time.Time
		want   string // "" when it is in order
	}{
		{"in order", p256, nil, today, ""},
		{"first second", p256, nil, today.AddDate(0, 0, -50), ""},
		{"last second", p256, nil, today.AddDate(0, 0, 50), ""},
		{"not valid yet", p256, nil, today.AddDate(0, 0, -50).Add(-2 * time.Hour),
			"not valid before 2027-01-10 12:00 UTC, and by the clock of this machine it is 2027-01-10 10:00 UTC; wait, or set the clock"},
		{"ended", p256, nil, today.AddDate(0, 0, 50).Add(time.Second), "it ended on 2027-04-20 12:00 UTC, and by the clock"},

		{"KSeF's Offline", p256, usage(x509.KeyUsageContentCommitment), today, "of the type Offline: its key usage is nonRepudiation without digitalSignature"},
		{"encryption only", p256, usage(x509.KeyUsageKeyEncipherment), today, "digitalSignature is missing"},
		{"both usages", p256, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment), today, ""},
		{"no usage", p256, usage(0), today, ""},
		{"qualified", p256, func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageContentCommitment
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}, Value: qualified}}
		}, today, ""},
		{"damaged statements", p256, func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageContentCommitment
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}, Value: []byte{1}}}
		}, today, "of the type Offline"},

		{"P-384", newEC(t, elliptic.P384()), nil, today, ""},
		{"P-521", newEC(t, elliptic.P521()), nil, today, "its key is an EC key on the curve P-521, which KSeF does not accept"},
		{"P-224", newEC(t, elliptic.P224()), nil, today, "an EC key on the curve P-224"},
		{"RSA 1024", newRSA(t, 1024), nil, today, "its key is an RSA key of 1024 bits, which KSeF does not accept; want RSA with at least 2048 bits"},
		{"Ed25519", ed, nil, today, "its key is an Ed25519 key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			certificate := issue(t, test.key, test.change)
			got, err := LoadPair(toPEM(t, certificate), toPEM(t, test.key), "", test.now)
			if test.want != "" {
				wantProblems(t, got, err, "certificate", test.want)
				return
			}
			wantSigner(t, got, err)
		})
	}
}

// TestReportsEverything has a certificate with every fault, and a key that is not
// its own.
func TestReportsEverything(t *testing.T) {
	key := newEC(t, elliptic.P521())
	certificate := issue(t, key, func(c *x509.Certificate) {
		c.KeyUsage = x509.KeyUsageContentCommitment
		c.NotAfter = today.Add(-time.Hour)
	})
	got, err := LoadPair(toPEM(t, certificate), toPEM(t, newEC(t, elliptic.P256())), "", today)
	wantProblems(t, got, err, "private_key", "not the key of the certificate", "certificate", "P-521", "certificate", "it ended on", "certificate", "type Offline")
}

// The parameters of PKCS#8, as the tests of damaged keys write them.
type (
	testPBKDF2 struct {
		Salt       []byte
		Iterations int
	}
	testScrypt struct {
		Salt               []byte
		N, BlockSize, Runs int
	}
)

var (
	pbes2ID  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	pbkdf2ID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	scryptID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	aes256ID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	data, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func algorithm(t *testing.T, id asn1.ObjectIdentifier, parameters any) pkix.AlgorithmIdentifier {
	t.Helper()
	return pkix.AlgorithmIdentifier{Algorithm: id, Parameters: asn1.RawValue{FullBytes: marshal(t, parameters)}}
}

// encryptedPEM is a file with an encrypted key of these parts.
func encryptedPEM(t *testing.T, derivation pkix.AlgorithmIdentifier, vector, data []byte) []byte {
	t.Helper()
	scheme := struct{ Derivation, Encryption pkix.AlgorithmIdentifier }{derivation, algorithm(t, aes256ID, vector)}
	return toPEM(t, &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: marshal(t, encryptedPrivateKey{algorithm(t, pbes2ID, scheme), data})})
}

// TestDamagedKeysCostNothing has files that ask for absurd work. Each would take
// hours, or all memory.
func TestDamagedKeysCostNothing(t *testing.T) {
	salt, vector, data := make([]byte, 16), make([]byte, 16), make([]byte, 64)
	for _, test := range []struct {
		name         string
		id           asn1.ObjectIdentifier
		parameters   any
		vector, data []byte
	}{
		{"iterations", pbkdf2ID, testPBKDF2{salt, 2_000_000_000}, vector, data},
		{"no iterations", pbkdf2ID, testPBKDF2{salt, 0}, vector, data},
		{"negative iterations", pbkdf2ID, testPBKDF2{salt, -1}, vector, data},
		{"scrypt N", scryptID, testScrypt{salt, 1 << 30, 8, 1}, vector, data},
		{"scrypt r", scryptID, testScrypt{salt, 16384, 1 << 30, 1}, vector, data},
		{"scrypt p", scryptID, testScrypt{salt, 16384, 8, 1 << 20}, vector, data},
		{"scrypt overflow", scryptID, testScrypt{salt, 1 << 22, 1 << 60, 1}, vector, data},
		{"scrypt N no power of two", scryptID, testScrypt{salt, 1000, 8, 1}, vector, data},
		{"scrypt N negative", scryptID, testScrypt{salt, -16384, 8, 1}, vector, data},
		{"short vector", pbkdf2ID, testPBKDF2{salt, 1}, vector[:8], data},
		{"half a block", pbkdf2ID, testPBKDF2{salt, 1}, vector, data[:40]},
		{"no data", pbkdf2ID, testPBKDF2{salt, 1}, vector, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			key := encryptedPEM(t, algorithm(t, test.id, test.parameters), test.vector, test.data)
			got, err := LoadPair(file(t, "ec.certificate.pem"), key, passphrase, today)
			wantProblems(t, got, err, "private_key", "the encrypted private key in it is damaged")
		})
	}
}

// TestWrongPassphrasesAreTold tries so many that some come out as the beginning
// of a key by chance.
func TestWrongPassphrasesAreTold(t *testing.T) {
	key := encryptedPEM(t, algorithm(t, pbkdf2ID, testPBKDF2{make([]byte, 16), 1}), make([]byte, 16), make([]byte, 64))
	for i := range 5000 {
		if _, err := parseKey(key, fmt.Sprint(i)); !errors.Is(err, wrongPassphrase) {
			t.Errorf("passphrase %d: %v", i, err)
		}
	}
}

// TestKeyIsNeverShown prints and encodes a credential in every way.
func TestKeyIsNeverShown(t *testing.T) {
	c, err := LoadPair(file(t, "rsa.certificate.der"), file(t, "rsa.pkcs8.pem"), "", today)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := c.Key().(*rsa.PrivateKey)
	if !ok {
		t.Fatalf("%T", c.Key())
	}
	var text bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		fmt.Fprintf(&text, verb+"\n", c)
		fmt.Fprintf(&text, verb+"\n", struct{ Inner any }{c})
		fmt.Fprintf(&text, verb+"\n", *c)
		fmt.Fprintf(&text, verb+"\n", []*Credential{c})
	}
	slog.New(slog.NewJSONHandler(&text, nil)).Info("", "c", c, "value", *c)
	slog.New(slog.NewTextHandler(&text, nil)).Info("", "c", c, "value", *c)
	if err := json.NewEncoder(&text).Encode([]any{c, *c}); err != nil {
		t.Fatal(err)
	}
	for _, number := range append([]*big.Int{key.D}, key.Primes...) {
		for _, form := range []string{number.String(), number.Text(16), base64.StdEncoding.EncodeToString(number.Bytes()), fmt.Sprintf("%d", number.Bytes())} {
			if strings.Contains(strings.ToLower(text.String()), strings.ToLower(form)) {
				t.Errorf("shows a secret number of the key:\n%s", text.String())
			}
		}
	}
	if !strings.Contains(text.String(), "certificate ") {
		t.Error("nothing was printed")
	}
}

func TestIdentities(t *testing.T) {
	key := newEC(t, elliptic.P256())
	organization := func(value string) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 97}, Value: value}
	}
	serial := func(value string) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: value}
	}
	for _, test := range []struct {
		name    string
		subject []pkix.AttributeTypeAndValue
		want    []string // kind, value, …; nil for the fingerprint
	}{
		{"seal", []pkix.AttributeTypeAndValue{organization("VATPL-5265877635")}, []string{"Nip", "5265877635"}},
		{"person with PESEL", []pkix.AttributeTypeAndValue{serial("PNOPL-90010112345")}, []string{"Pesel", "90010112345"}},
		{"person with PESEL, older form", []pkix.AttributeTypeAndValue{serial("PESEL: 90010112345")}, []string{"Pesel", "90010112345"}},
		{"person with NIP", []pkix.AttributeTypeAndValue{serial("TINPL-5265877635")}, []string{"Nip", "5265877635"}},
		{"both", []pkix.AttributeTypeAndValue{serial("PNOPL-90010112345"), organization("VATPL-5265877635")}, []string{"Nip", "5265877635", "Pesel", "90010112345"}},
		{"person of another country", []pkix.AttributeTypeAndValue{serial("PNODE-1234567890")}, nil},
		{"company of another country", []pkix.AttributeTypeAndValue{organization("VATDE-1234567890")}, nil},
		{"number cut short", []pkix.AttributeTypeAndValue{organization("VATPL-526587763")}, nil},
		{"NIP in the wrong attribute", []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "VATPL-5265877635"}}, nil},
		{"nothing", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			certificate := issue(t, key, func(c *x509.Certificate) {
				c.Subject = pkix.Name{CommonName: "Firma", ExtraNames: test.subject}
			})
			want := test.want
			if want == nil {
				want = []string{"Fingerprint", Fingerprint(certificate)}
			}
			var got []string
			for _, identity := range Identities(certificate) {
				got = append(got, identity.Kind, identity.Value)
				if !strings.Contains(identity.String(), identity.Value) {
					t.Errorf("%q does not name %s", identity, identity.Value)
				}
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestFingerprint compares with what OpenSSL prints (openssl x509 -fingerprint -sha256).
func TestFingerprint(t *testing.T) {
	certificate, err := parseCertificate(file(t, "ec.certificate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if got := Fingerprint(certificate); got != ecFingerprint {
		t.Errorf("got %s, want %s", got, ecFingerprint)
	}
}

func FuzzLoadPair(f *testing.F) {
	key := newEC(f, elliptic.P256())
	for _, name := range []string{"ec.certificate.pem", "rsa.certificate.der", "ec.modern.p12"} {
		for _, keyName := range []string{"ec.pkcs8.pem", "ec.sec1.pem", "ec.sha1-aes128.pem", "ec.scrypt.pem", "ec.sha256-aes256.der", "rsa.pkcs1.der", "ec.refused-des3.pem", "ec.refused-pbes1.pem", "ec.refused-traditional.pem"} {
			f.Add(file(f, name), file(f, keyName), passphrase)
		}
	}
	f.Add(requestPEM(f, key), publicPEM(f, key), "")
	f.Add(toPEM(f, issue(f, key, nil), issue(f, key, asCA)), toPEM(f, key, key), "")
	f.Fuzz(func(t *testing.T, certificateFile, keyFile []byte, passphrase string) {
		got, err := LoadPair(certificateFile, keyFile, passphrase, today)
		checkFuzzed(t, got, err)
	})
}

func FuzzLoadPKCS12(f *testing.F) {
	f.Add(file(f, "ec.modern.p12"), passphrase)
	f.Add(file(f, "ec.legacy.p12"), passphrase)
	key := newEC(f, elliptic.P256())
	certificate := issue(f, key, nil)
	// Without a MAC to fail first, what is inside gets fuzzed too.
	f.Add(encodePKCS12(f, pkcs12.Passwordless, key, certificate, nil, ""), "")
	f.Fuzz(func(t *testing.T, data []byte, passphrase string) {
		got, err := LoadPKCS12(data, passphrase, today)
		checkFuzzed(t, got, err)
	})
}

// checkFuzzed checks that whatever comes out is either whole or explained.
func checkFuzzed(t *testing.T, got *Credential, err error) {
	t.Helper()
	if err == nil {
		if !matches(got.Key(), got.Certificate()) || !usable(got.Key().Public()) {
			t.Errorf("let through %v", got)
		}
		return
	}
	var problems Problems
	if got != nil || !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, problem := range problems {
		if problem.Part == "" || problem.Text == "" {
			t.Errorf("incomplete problem %+v", problem)
		}
	}
}
