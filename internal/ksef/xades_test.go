package ksef

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const signedEndpoint = "POST /auth/xades-signature"

// signerOf makes a key and a certificate for it, with one part of the subject that
// could identify its owner.
func signerOf(t *testing.T, part asn1.ObjectIdentifier, value string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{
		CommonName: "Firma", ExtraNames: []pkix.AttributeTypeAndValue{{Type: part, Value: value}},
	}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, certificate}
}

// use makes the stub's client log in with a certificate.
func (s *stub) use(with signer) {
	s.client.Token = nil
	s.client.Certificate = func() (crypto.Signer, *x509.Certificate, error) { return with.key, with.certificate, nil }
}

func TestSubjectIdentifierType(t *testing.T) {
	const bySubject, byFingerprint = "certificateSubject", "certificateFingerprint"
	company := Context{ContextNIP, "5265877635"}
	tests := []struct {
		name    string
		context Context
		part    asn1.ObjectIdentifier
		value   string
		want    string
	}{
		{"company", company, oidOrganizationIdentifier, "VATPL-5265877635", bySubject},
		{"company in a unit", Context{ContextInternalID, "5265877635-12345"}, oidOrganizationIdentifier, "VATPL-5265877635", bySubject},
		{"foreign company", company, oidOrganizationIdentifier, "VATDE-123456789", byFingerprint},
		{"PESEL", company, oidSerialNumber, "PNOPL-88102341294", bySubject},
		{"PESEL, old form", company, oidSerialNumber, "PESEL: 88102341294", bySubject},
		{"NIP of a person", company, oidSerialNumber, "TINPL-5265877635", bySubject},
		{"NIP of a person, old form", company, oidSerialNumber, "NIP-5265877635", bySubject},
		{"too short for a PESEL", company, oidSerialNumber, "PESEL-9876543210", byFingerprint},
		{"passport", company, oidSerialNumber, "PASDE-123456789012", byFingerprint},
		{"VATPL where a person's identifier stands", company, oidSerialNumber, "VATPL-5265877635", byFingerprint},
		{"European company", Context{ContextNIPVATEU, "5265877635-DE123456789"}, oidOrganizationIdentifier, "VATPL-5265877635", byFingerprint},
		{"Peppol provider", Context{ContextPeppolID, "PPL123456"}, asn1.ObjectIdentifier{2, 5, 4, 10}, "Dostawca", bySubject},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := subjectIdentifierType(tt.context, signerOf(t, tt.part, tt.value).certificate); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The document is one of schema 2.1, and but for its namespace one of 2.0 too.
func TestAuthTokenRequestMatchesItsSchemas(t *testing.T) {
	for version, file := range map[string]string{"2.1": "schemat_auth_v2-1.xsd", "2.0": "schemat_auth_v2-0.xsd"} {
		t.Run(version, func(t *testing.T) { matchAuthTokenRequest(t, version, file) })
	}
}

func matchAuthTokenRequest(t *testing.T, version, file string) {
	if _, err := exec.LookPath("xmllint"); err != nil {
		t.Skip("xmllint is not installed: the document is not held against its schema")
	}
	schemas := filepath.Join("..", "..", "..", "shared", "ksef", "schemas", "auth")
	official, err := os.ReadFile(filepath.Join(schemas, file))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("KSeF's schemas are not here: the document is not held against its schema")
	}
	if err != nil {
		t.Fatal(err)
	}
	// Some patterns have ^, $, \b and \/ of other regular expressions. In a schema the
	// first two stand for themselves, and nothing would match; the others are mistakes.
	folder := t.TempDir()
	mended := regexp.MustCompile(`value="\^?([^"]*?)\$?"/>`).ReplaceAll(official, []byte(`value="$1"/>`))
	mended = []byte(strings.NewReplacer(`\b`, "", `\/`, "/").Replace(string(mended)))
	schema := filepath.Join(folder, "schema.xsd")
	if err := os.WriteFile(schema, mended, 0o600); err != nil {
		t.Fatal(err)
	}
	validate := func(document []byte) error {
		path := filepath.Join(folder, "document.xml")
		document = bytes.Replace(document, []byte("/auth/token/2.1"), []byte("/auth/token/"+version), 1)
		if err := os.WriteFile(path, document, 0o600); err != nil {
			t.Fatal(err)
		}
		output, err := exec.CommandContext(t.Context(), "xmllint", "--noout", "--schema", schema, path).CombinedOutput()
		if err != nil {
			return errors.New(string(output))
		}
		return nil
	}
	const challenge = "20261122-CR-0123456789-ABCDEF0123-45"
	bySubject, byFingerprint := signerOf(t, oidOrganizationIdentifier, "VATPL-5265877635"), signerOf(t, oidSerialNumber, "PASDE-1")
	for _, context := range []Context{
		{ContextNIP, "5265877635"}, {ContextInternalID, "5265877635-12345"},
		{ContextNIPVATEU, "5265877635-DE123456789"}, {ContextPeppolID, "PPL123456"},
	} {
		for _, with := range []signer{bySubject, byFingerprint} {
			document, err := authTokenRequest(challenge, context, with.certificate)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(document); err != nil {
				t.Errorf("%v:\n%s", err, document)
			}
		}
	}
	wrong, err := authTokenRequest(challenge, Context{"Pesel", "5265877635"}, bySubject.certificate)
	if err != nil {
		t.Fatal(err)
	}
	if validate(wrong) == nil {
		t.Errorf("the schema lets this pass:\n%s", wrong)
	}
}

func TestLoginWithCertificate(t *testing.T) {
	s := newStub(t)
	with := signerOf(t, oidOrganizationIdentifier, "VATPL-5265877635")
	s.use(with)
	var sent []byte
	s.on(signedEndpoint, func(w http.ResponseWriter, r *http.Request) {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil || r.Header.Get("Content-Type") != "application/xml" || r.URL.RawQuery != "verifyCertificateChain=false" {
			t.Errorf("got type %q and query %q, %v", r.Header.Get("Content-Type"), r.URL.RawQuery, err)
		}
		s.startedAnswer()(w, r)
	})
	for range 2 {
		if err := s.client.Login(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.wantCounts(t, map[string]int{challengeEndpoint: 1, keysEndpoint: 0, startEndpoint: 0, signedEndpoint: 1, redeemEndpoint: 1})
	for _, want := range []string{
		`<AuthTokenRequest xmlns="http://ksef.mf.gov.pl/auth/token/2.1"><Challenge>20261122-CR-1</Challenge><ContextIdentifier><Nip>5265877635</Nip></ContextIdentifier><SubjectIdentifierType>certificateSubject</SubjectIdentifierType><ds:Signature `,
		// By KSeF's clock, not this machine's, which is two years behind it.
		"<xades:SigningTime>" + s.now().UTC().Format("2006-01-02T15:04"),
	} {
		if !strings.Contains(string(sent), want) {
			t.Errorf("no %s in\n%s", want, sent)
		}
	}
	if _, err := exec.LookPath("xmlsec1"); err != nil {
		t.Skip("xmlsec1 is not installed: what was sent is not verified by it")
	}
	folder := t.TempDir()
	for name, content := range map[string][]byte{
		"sent.xml": sent, "certificate.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: with.certificate.Raw}),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := exec.CommandContext(t.Context(), "xmlsec1", "--verify", "--pubkey-cert-pem", "certificate.pem",
		"--id-attr:Id", "http://uri.etsi.org/01903/v1.3.2#:SignedProperties", "sent.xml")
	verify.Dir = folder
	if output, err := verify.CombinedOutput(); err != nil {
		t.Errorf("xmlsec1: %v: %s", err, output)
	}
}

func TestSignedLoginRefused(t *testing.T) {
	tests := []struct {
		name               string
		answer             http.HandlerFunc
		always             bool
		terminal, wantErr  bool
		starts, challenges int
		says               string
	}{
		{"challenge expired once", problem(400, 21111), false, false, false, 2, 2, ""}, // 54
		{"challenge expired always", problem(400, 21111), true, false, true, 2, 2, "21111"},
		{"certificate not accepted", problem(400, 21115), true, true, true, 1, 1, "only TEST takes others"},
		{"owner not recognised", problem(400, 21406), true, true, true, 1, 1, "NIP or PESEL"},
		{"wrong signature", problem(400, 9105), true, true, true, 1, 1, "faulty"},
		{"something else", problem(400, 21405), true, true, true, 1, 1, "check the configured"},
		{"server error", problem(500, 0), true, false, true, 1, 1, "500"},
		{"method not allowed", forbidden("auth-method-not-allowed"), true, true, true, 1, 1, "way to log in"},
		{"other address", forbidden("ip-not-allowed"), true, false, true, 1, 1, "ip-not-allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			s.use(signerOf(t, oidOrganizationIdentifier, "VATPL-5265877635"))
			s.on(signedEndpoint, func(w http.ResponseWriter, r *http.Request) {
				if !tt.always {
					s.on(signedEndpoint, s.startedAnswer())
				}
				tt.answer(w, r)
			})
			err := s.client.Login(t.Context())
			if isTerminal(err) != tt.terminal || (err != nil) != tt.wantErr || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v; want error %t, terminal %t, %q", err, tt.wantErr, tt.terminal, tt.says)
			}
			s.wantCounts(t, map[string]int{signedEndpoint: tt.starts, challengeEndpoint: tt.challenges})
			if again := s.client.Login(t.Context()); tt.terminal && !errors.Is(again, err) {
				t.Errorf("the next login gave %v, want the same error", again)
			} else if tt.terminal {
				s.wantCounts(t, map[string]int{signedEndpoint: tt.starts, challengeEndpoint: tt.challenges})
			}
		})
	}
}

func TestCertificateUnusable(t *testing.T) {
	s := newStub(t)
	with, other := signerOf(t, oidOrganizationIdentifier, "VATPL-5265877635"), signerOf(t, oidOrganizationIdentifier, "VATPL-5265877635")
	unreadable := errors.New("permission denied")
	s.client.Certificate = func() (crypto.Signer, *x509.Certificate, error) { return nil, nil, unreadable }
	if err := s.client.Login(t.Context()); !isTerminal(err) || !errors.Is(err, unreadable) || s.total() != 0 {
		t.Errorf("got %v after %d requests, want a terminal LoginError after none", err, s.total())
	}
	s.use(signer{other.key, with.certificate})
	if err := s.client.Login(t.Context()); !isTerminal(err) || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("got %v, want a terminal LoginError", err)
	}
	s.wantCounts(t, map[string]int{signedEndpoint: 0})
	s.on(signedEndpoint, s.startedAnswer())
	s.use(with) // only the key file was put right
	if err := s.client.Login(t.Context()); err != nil {
		t.Errorf("with the right key: %v", err)
	}
}

func TestCredentialsAreToldApart(t *testing.T) {
	one, other := signerOf(t, oidSerialNumber, "PNOPL-88102341294"), signerOf(t, oidSerialNumber, "PNOPL-88102341294")
	seen := map[[sha256.Size]byte]bool{}
	for _, each := range []credential{one, other, tokenCredential{NewSecret("one")}, tokenCredential{NewSecret("other")}, one, tokenCredential{NewSecret("one")}} {
		seen[each.identity()] = true
	}
	if len(seen) != 4 {
		t.Errorf("six credentials, of which four differ, have %d identities", len(seen))
	}
}

func TestLogout(t *testing.T) {
	const endpoint = "DELETE /auth/sessions/current"
	tests := []struct {
		name   string
		answer http.HandlerFunc
		ended  bool
	}{
		{"ended", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, true},
		{"over already", answer(401, "application/problem+json", `{"status":401}`), true},
		{"server error", problem(500, 0), false},
		{"captive portal", answer(200, "text/html", "<title>Log in to the hotel</title>"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			if err := s.client.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.on(endpoint, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Bearer refresh.CANARY" {
					t.Errorf("Authorization is %q", got)
				}
				tt.answer(w, r)
			})
			if err := s.client.Logout(t.Context()); (err == nil) != tt.ended {
				t.Errorf("got %v", err)
			}
			if err := s.ask(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := 1
			if tt.ended {
				want = 2
			}
			s.wantCounts(t, map[string]int{endpoint: 1, startEndpoint: want})
		})
	}
}
