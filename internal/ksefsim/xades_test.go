package ksefsim_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"github.com/russellhaering/goxmldsig/etreeutils"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
	"ksefmirror/internal/xades"
)

// Subjects of certificates.
var (
	seal = pkix.Name{CommonName: "Firma", Country: []string{"PL"}, Organization: []string{"Firma Sp. z o.o."},
		ExtraNames: []pkix.AttributeTypeAndValue{attribute(97, "VATPL-5265877635")}}
	personWithPESEL = person("PNOPL-88102341294")
	peppol          = pkix.Name{CommonName: "PPL123456", Country: []string{"PL"}, Organization: []string{"Dostawca"}}
)

func attribute(last int, value string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, last}, Value: value}
}

func person(serial string) pkix.Name {
	return pkix.Name{CommonName: "Jan Kowalski", Country: []string{"PL"}, SerialNumber: serial,
		ExtraNames: []pkix.AttributeTypeAndValue{attribute(42, "Jan"), attribute(4, "Kowalski")}}
}

// credential is a certificate with its key.
type credential struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// Making an RSA key takes a while, so all tests share one.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certify makes a self-signed certificate that is valid around start.
func certify(t testing.TB, key crypto.Signer, subject pkix.Name, changes ...func(*x509.Certificate)) credential {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: start.Add(-time.Hour), NotAfter: start.AddDate(1, 0, 0),
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, key, der)
}

func parsed(t testing.TB, key crypto.Signer, der []byte) credential {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return credential{key, certificate}
}

// onlyPSS turns the certificate of an RSA key into that of an RSASSA-PSS key, which
// package x509 does not make.
func onlyPSS(t testing.TB, of credential) credential {
	t.Helper()
	must := func(der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	var whole struct {
		TBS struct {
			Version    int `asn1:"explicit,tag:0"`
			Serial     *big.Int
			Algorithm  pkix.AlgorithmIdentifier
			Issuer     asn1.RawValue
			Validity   asn1.RawValue
			Subject    asn1.RawValue
			Key        asn1.RawValue
			Extensions asn1.RawValue `asn1:"optional,explicit,tag:3"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(of.certificate.Raw, &whole); err != nil {
		t.Fatal(err)
	}
	public := x509.MarshalPKCS1PublicKey(of.key.Public().(*rsa.PublicKey))
	whole.TBS.Key = asn1.RawValue{FullBytes: must(asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}}, asn1.BitString{Bytes: public, BitLength: 8 * len(public)}}))}
	whole.TBS.Extensions = asn1.RawValue{}
	tbs := sha256.Sum256(must(asn1.Marshal(whole.TBS)))
	signature := must(of.key.Sign(rand.Reader, tbs[:], crypto.SHA256))
	whole.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return parsed(t, of.key, must(asn1.Marshal(whole)))
}

func fingerprintOf(c *x509.Certificate) ksefsim.Subject {
	sum := sha256.Sum256(c.Raw)
	return ksefsim.Subject{Type: "Fingerprint", Value: strings.ToUpper(hex.EncodeToString(sum[:]))}
}

// client is this program's own, with a certificate.
func (s *sim) client(context ksef.Context, with credential) *ksef.Client {
	limiter := ksef.NewLimiter(forgetful{}, nil)
	limiter.Now, limiter.Sleep = s.clock.now, s.clock.sleep
	return &ksef.Client{
		BaseURL: s.url + "/v2", Context: context, Limiter: limiter, Now: s.clock.now, Sleep: s.clock.sleep,
		Certificate: func() (crypto.Signer, *x509.Certificate, error) { return with.key, with.certificate, nil },
	}
}

// forgetful is a log of requests that nobody will read.
type forgetful struct{}

func (forgetful) StartRequest(_ context.Context, _ string, _ int64, _ []int64, admit ksef.Admit) (int64, error) {
	if admit(nil, nil).IsZero() {
		return 0, nil
	}
	return 1, nil
}

func (forgetful) EndRequest(context.Context, int64, time.Time) error                { return nil }
func (forgetful) BlockGroup(context.Context, string, time.Time) error               { return nil }
func (forgetful) Requests(context.Context, time.Time) ([]ksef.LoggedRequest, error) { return nil, nil }
func (forgetful) Blocks(context.Context) (map[string]time.Time, error)              { return nil, nil }

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.add(d)
	return ctx.Err()
}

func TestClientLogsInWithEveryKindOfKey(t *testing.T) {
	rsa2048 := certify(t, rsaKey(), seal)
	for name, with := range map[string]credential{
		"RSA":     rsa2048,
		"PSS":     onlyPSS(t, rsa2048),
		"EC P256": certify(t, ecKey(t, elliptic.P256()), seal),
		"EC P384": certify(t, ecKey(t, elliptic.P384()), seal),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{Limits: ksef.DefaultLimits()}, contract.Wrap)
			c := s.client(company, with)
			if _, err := c.QueryMetadata(t.Context(), ksef.Query{SubjectType: ksef.Buyer, From: ksef.NewTimestamp(start.Add(-time.Hour))}, 0, 10); err != nil {
				t.Error(err)
			}
			if got := s.Stats(); got.Logins != 1 || len(got.Violations) > 0 {
				t.Errorf("%d logins, violations %q; want 1, none", got.Logins, got.Violations)
			}
		})
	}
}

func TestClientLogsInToEveryContext(t *testing.T) {
	unit := ksef.Context{Type: ksef.ContextInternalID, Value: "5265877635-12345"}
	union := ksef.Context{Type: ksef.ContextNIPVATEU, Value: "5265877635-DE123456789"}
	provider := ksef.Context{Type: ksef.ContextPeppolID, Value: "PPL123456"}
	nobody := person("PAS-AB123456") // a foreigner's passport
	tests := []struct {
		name     string
		context  ksef.Context
		owner    pkix.Name
		subject  ksefsim.Subject // to permit; zero: none needed. Fingerprint: the certificate's
		refusals []int           // without the permission: status, or KSeF's code
	}{
		{"own company", company, seal, ksefsim.Subject{}, nil},
		{"company by a person's NIP", company, person("TINPL-5265877635"), ksefsim.Subject{}, nil},
		{"person with a PESEL", company, personWithPESEL, ksefsim.Subject{Type: "Pesel", Value: "88102341294"}, []int{415}},
		{"person without one", company, nobody, ksefsim.Subject{Type: "Fingerprint"}, []int{415}},
		{"unit", unit, seal, ksefsim.Subject{Type: "Nip", Value: "5265877635"}, []int{415}},
		{"European company", union, seal, ksefsim.Subject{Type: "Fingerprint"}, []int{415}},
		{"Peppol provider", provider, peppol, ksefsim.Subject{}, nil},
		{"another Peppol provider", ksef.Context{Type: ksef.ContextPeppolID, Value: "PPL654321"}, peppol, ksefsim.Subject{Type: "PeppolId", Value: "PPL123456"}, []int{415}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			with := certify(t, ecKey(t, elliptic.P256()), tt.owner)
			for _, status := range tt.refusals {
				if err := s.client(tt.context, with).Login(t.Context()); !refusedWith(err, status) {
					t.Errorf("without the permission: %v, want status %d", err, status)
				}
			}
			if tt.subject.Type == "Fingerprint" {
				tt.subject = fingerprintOf(with.certificate)
			}
			if tt.subject != (ksefsim.Subject{}) {
				s.Permit(tt.context, tt.subject)
			}
			if err := s.client(tt.context, with).Login(t.Context()); err != nil {
				t.Error(err)
			}
			if violations := s.Stats().Violations; len(violations) > 0 {
				t.Errorf("violations %q, want none", violations)
			}
		})
	}
}

// refusedWith reports whether a login failed, for good, with a status or a code.
func refusedWith(err error, code int) bool {
	failed, ok := errors.AsType[*ksef.LoginError](err)
	if !ok || !failed.Terminal {
		return false
	}
	behind, _ := errors.AsType[*ksef.Error](err)
	return failed.Status == code || behind != nil && behind.Code == code
}

// 56. Certificate: expired, revoked, suspended, Offline type, PESEL person without
// grant.
func TestScenario56CertificateIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		owner   pkix.Name
		change  func(*x509.Certificate)
		prepare func(*sim, *x509.Certificate)
		code    int
		detail  string
	}{
		{"expired", seal, func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) }, nil, 460, "Nieważny certyfikat"},
		{"not valid yet", seal, func(c *x509.Certificate) { c.NotBefore = start.Add(time.Second) }, nil, 460, "Nieważny certyfikat"},
		{"ended early", seal, nil, func(s *sim, c *x509.Certificate) { s.ExpireCertificate(c) }, 460, "Nieważny certyfikat"},
		{"revoked", seal, nil, func(s *sim, c *x509.Certificate) { s.RevokeCertificate(c) }, 460, "Certyfikat odwołany"},
		{"suspended", seal, nil, func(s *sim, c *x509.Certificate) { s.SuspendCertificate(c, true) }, 460, "Certyfikat zawieszony"},
		{"Offline", seal, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment }, nil, 460, "Niepoprawny certyfikat"},
		{"no permission", personWithPESEL, nil, nil, 415, "Brak przypisanych uprawnień"},
		{"permission taken back", personWithPESEL, nil, func(s *sim, _ *x509.Certificate) {
			s.Permit(company, ksefsim.Subject{Type: "Pesel", Value: "88102341294"})
			s.Forbid(company, ksefsim.Subject{Type: "Pesel", Value: "88102341294"})
		}, 415, "Brak przypisanych uprawnień"},
		{"another company", pkix.Name{CommonName: "X", Country: []string{"PL"}, Organization: []string{"X"}, ExtraNames: []pkix.AttributeTypeAndValue{attribute(97, "VATPL-1111111111")}}, nil, nil, 415, ""},
		{"no country", pkix.Name{CommonName: "X", Organization: []string{"X"}, ExtraNames: seal.ExtraNames}, nil, nil, 21115, ""},
		{"blocked", seal, nil, func(s *sim, _ *x509.Certificate) { s.SetLoginOutcome(ksefsim.LoginOutcome{Status: 480}) }, 480, "Podejrzenie incydentu bezpieczeństwa"},
		{"deceased", seal, nil, func(s *sim, _ *x509.Certificate) { s.SetLoginOutcome(ksefsim.LoginOutcome{Status: 470}) }, 470, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			change := func(*x509.Certificate) {}
			if tt.change != nil {
				change = tt.change
			}
			with := certify(t, ecKey(t, elliptic.P256()), tt.owner, change)
			if tt.prepare != nil {
				tt.prepare(s, with.certificate)
			}
			c := s.client(company, with)
			err := c.Login(t.Context())
			if !refusedWith(err, tt.code) || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("got %v; want %d %s", err, tt.code, tt.detail)
			}
			// Whatever is asked for next, nothing is sent with those credentials.
			sent := s.Stats().Requests
			if again := c.Login(t.Context()); !errors.Is(again, err) || s.Stats().Requests != sent {
				t.Errorf("the next login gave %v and sent %d requests", again, s.Stats().Requests-sent)
			}
			// Another certificate is tried at once.
			s.SetLoginOutcome(ksefsim.LoginOutcome{})
			renewed := certify(t, ecKey(t, elliptic.P256()), seal)
			c.Certificate = func() (crypto.Signer, *x509.Certificate, error) { return renewed.key, renewed.certificate, nil }
			if err := c.Login(t.Context()); err != nil {
				t.Errorf("with a new certificate: %v", err)
			}
		})
	}
}

func TestSuspendedCertificateLogsInAgainLater(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	s.SuspendCertificate(with.certificate, true)
	s.SuspendCertificate(with.certificate, false)
	if err := s.client(company, with).Login(t.Context()); err != nil {
		t.Error(err)
	}
}

// KSeF lets the sessions of a revoked certificate go on.
func TestRevokedCertificateKeepsItsSession(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	c := s.client(company, with)
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.RevokeCertificate(with.certificate)
	s.clock.add(20 * time.Minute)
	if err := c.Login(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.Stats(); got.Refreshes != 1 || got.Logins != 1 {
		t.Errorf("%d refreshes, %d logins; want 1, 1", got.Refreshes, got.Logins)
	}
}

// 13. Local clock wrong by +2 h or -2 h: login works.
func TestScenario13LoginDoesNotNeedTheLocalClock(t *testing.T) {
	for _, off := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			c := s.client(company, certify(t, ecKey(t, elliptic.P256()), seal))
			wrong := func() time.Time { return s.clock.now().Add(off) }
			c.Now, c.Limiter.Now = wrong, wrong
			if err := c.Login(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// 57. From 2027 tokens are refused; a certificate goes on.
func TestScenario57TokensEnd(t *testing.T) {
	tests := []struct {
		name   string
		refuse func(*sim)
		says   string
	}{
		{"450", func(s *sim) { s.RefuseTokens(true) }, "by the law in force tokens ended on 31.12.2026"},
		{"403", func(s *sim) { s.Fault(ksefsim.Forbidden("/auth/ksef-token", 0, "auth-method-not-allowed")) }, "by law tokens end on 31.12.2026"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			c := s.client(company, credential{})
			c.Certificate, c.Token = nil, func() (ksef.Secret, error) { return ksef.NewSecret(token), nil }
			if err := c.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.clock.add(60 * 24 * time.Hour) // January 2027; the refresh token has ended too
			tt.refuse(s)
			for range 3 {
				failed, ok := errors.AsType[*ksef.LoginError](c.Login(t.Context()))
				if !ok || !failed.Terminal || !strings.Contains(failed.Error(), tt.says) {
					t.Errorf("got %v, want it to say %q", failed, tt.says)
				}
			}
			if n := s.Stats().ByPath["POST /auth/ksef-token"]; n != 2 {
				t.Errorf("tried the token %d times, want once before and once after", n)
			}
			with := certify(t, ecKey(t, elliptic.P256()), seal)
			c.Certificate = func() (crypto.Signer, *x509.Certificate, error) { return with.key, with.certificate, nil }
			if err := c.Login(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTokensAreRefusedUntilTheyAreNot(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.RefuseTokens(true)
	if got := s.poll(s.begin(company, token)).Status.Code; got != 450 {
		t.Errorf("the login ended %d, want 450", got)
	}
	s.RefuseTokens(false)
	s.login(company, token)
}

func TestLogoutEndsTheSession(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	c := s.client(company, certify(t, ecKey(t, elliptic.P256()), seal))
	if err := c.Logout(t.Context()); err != nil || s.Stats().Requests != 0 {
		t.Errorf("without a session: %v, %d requests", err, s.Stats().Requests)
	}
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.Logins != 2 || got.Refreshes != 0 {
		t.Errorf("%d logins, %d refreshes; want 2, 0", got.Logins, got.Refreshes)
	}
	s.clock.add(20 * time.Minute) // the access token is over, the refresh token logs out
	if err := c.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().ByPath["DELETE /auth/sessions/current"]; n != 2 {
		t.Errorf("logged out %d times, want 2", n)
	}
	s.Fault(ksefsim.ServerError("/auth/sessions/current", 1))
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Logout(t.Context()); err == nil {
		t.Error("KSeF did not end the session, and Logout says it did")
	}
	if err := c.Logout(t.Context()); err != nil {
		t.Errorf("at the second try: %v", err)
	}
}

func TestRefreshTokenIsWorthNothingAfterLogout(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	refresh := s.login(company, token)
	access := s.bearer
	if r := s.do("DELETE", "/v2/auth/sessions/current", ""); r.status != 204 || len(r.body) > 0 {
		t.Fatalf("answered %d %s, want 204 and nothing", r.status, r.body)
	}
	if r := s.query(ksef.Buyer, start.Add(-time.Hour), time.Time{}, 0, 10); r.status != 200 {
		t.Errorf("the access token lives on, but answered %d", r.status)
	}
	s.bearer = refresh
	if r := s.do("POST", "/v2/auth/token/refresh", ""); r.code() != 21301 {
		t.Errorf("the refresh token answered %d %s, want 21301", r.status, r.body)
	}
	s.bearer = access
	if r := s.do("DELETE", "/v2/auth/sessions/current", ""); r.status != 204 {
		t.Errorf("once more: %d %s", r.status, r.body)
	}
}

// request is an AuthTokenRequest for the company, for a fresh challenge.
func (s *sim) document() string {
	return fmt.Sprintf(`<AuthTokenRequest xmlns="http://ksef.mf.gov.pl/auth/token/2.1"><Challenge>%s</Challenge><ContextIdentifier><Nip>%s</Nip></ContextIdentifier><SubjectIdentifierType>certificateSubject</SubjectIdentifierType></AuthTokenRequest>`,
		s.challenge().Challenge, company.Value)
}

func (s *sim) sign(document string, with credential, at time.Time) string {
	s.t.Helper()
	signed, err := xades.Sign([]byte(document), with.key, with.certificate, at)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(signed)
}

func (s *sim) send(signed string) reply {
	s.t.Helper()
	s.bearer, s.header = "", http.Header{"Content-Type": {"application/xml"}}
	defer func() { s.header = http.Header{} }()
	return s.do("POST", "/v2/auth/xades-signature", signed)
}

// reseal makes a changed document's digests and its signature right again, as its
// author could have: what is refused then is refused for what it says.
func reseal(t testing.TB, signed string, with credential, change func(root *etree.Element)) string {
	t.Helper()
	tree := etree.NewDocument()
	if err := tree.ReadFromString(signed); err != nil {
		t.Fatal(err)
	}
	root := tree.Root()
	change(root)
	canonical := func(element *etree.Element) []byte {
		around, err := etreeutils.NSBuildParentContext(element)
		if err != nil {
			t.Fatal(err)
		}
		alone, err := etreeutils.NSDetatch(around, element)
		if err != nil {
			t.Fatal(err)
		}
		octets, err := dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("").Canonicalize(alone)
		if err != nil {
			t.Fatal(err)
		}
		return octets
	}
	signature := root.FindElement(".//ds:Signature")
	for _, reference := range signature.FindElements("ds:SignedInfo/ds:Reference") {
		digested := root.FindElement(".//xades:SignedProperties")
		if reference.SelectAttrValue("URI", "") == "" {
			digested = root.Copy()
			nested := digested.FindElement(".//ds:Signature")
			nested.Parent().RemoveChild(nested)
		}
		var sum []byte
		switch uri := reference.FindElement("ds:DigestMethod").SelectAttrValue("Algorithm", ""); {
		case strings.HasSuffix(uri, "sha1"):
			short := sha1.Sum(canonical(digested))
			sum = short[:]
		default:
			long := sha256.Sum256(canonical(digested))
			sum = long[:]
		}
		reference.FindElement("ds:DigestValue").SetText(base64.StdEncoding.EncodeToString(sum))
	}
	sum := sha256.Sum256(canonical(signature.FindElement("ds:SignedInfo")))
	value, err := with.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := with.key.(*ecdsa.PrivateKey); ok {
		var pair struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(value, &pair); err != nil {
			t.Fatal(err)
		}
		value = append(pair.R.FillBytes(make([]byte, 32)), pair.S.FillBytes(make([]byte, 32))...)
	}
	signature.FindElement("ds:SignatureValue").SetText(base64.StdEncoding.EncodeToString(value))
	text, err := tree.WriteToString()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func find(path string, change func(*etree.Element)) func(*etree.Element) {
	return func(root *etree.Element) { change(root.FindElement(path)) }
}

func remove(path string) func(*etree.Element) {
	return find(path, func(e *etree.Element) { e.Parent().RemoveChild(e) })
}

func setText(path, text string) func(*etree.Element) {
	return find(path, func(e *etree.Element) { e.SetText(text) })
}

func setAttribute(path, key, value string) func(*etree.Element) {
	return find(path, func(e *etree.Element) { e.CreateAttr(key, value) })
}

// What a forger, or a faulty signer, could send. The words are KSeF's.
func TestSignatureIsVerified(t *testing.T) {
	const (
		format    = "Format podpisu niezgodny z akceptowanymi profilami XAdES."
		algorithm = "Podpis złożony z użyciem niewspieranego algorytmu kryptograficznego."
		negative  = "Podpis zweryfikowany negatywnie."
		digest    = "Nieprawidłowa wartość skrótu dla referencji wskazującej na element ''."
	)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	other := certify(t, ecKey(t, elliptic.P256()), seal)
	// The same key in another certificate: whose signature it was is then open.
	twin := certify(t, with.key, seal)
	replace := func(old, replacement string) func(string) string {
		return func(signed string) string {
			if !strings.Contains(signed, old) {
				t.Fatalf("no %q in %s", old, signed)
			}
			return strings.Replace(signed, old, replacement, 1)
		}
	}
	resealed := func(change func(*etree.Element)) func(string) string {
		return func(signed string) string { return reseal(t, signed, with, change) }
	}
	base := func(c credential) string { return base64.StdEncoding.EncodeToString(c.certificate.Raw) }
	tests := []struct {
		name   string
		change func(signed string) string
		code   int
		detail string
	}{
		// Changed after it was signed.
		{"another company", replace("<Nip>5265877635", "<Nip>1111111111"), 9105, digest},
		{"blanks between elements", replace("</Challenge>", "</Challenge>\n"), 9105, digest},
		{"another time of signing", replace("2026-11-05T12:00:00Z", "2026-11-05T12:00:01Z"), 9105, "Nieprawidłowa wartość skrótu dla referencji wskazującej na element 'SignedProperties'."},
		{"another certificate brought along", replace(base(with), base(other)), 9105, negative},
		{"another certificate of the key", replace(base(with), base(twin)), 9105, format},
		{"the signature cut", func(signed string) string {
			return setTextOf(t, signed, "ds:SignatureValue", func(old []byte) []byte { return old[:63] })
		}, 9105, negative},
		{"the signature of one byte", func(signed string) string {
			return setTextOf(t, signed, "ds:SignatureValue", func(old []byte) []byte { return old[:1] })
		}, 9105, negative},
		{"the signature in DER", func(signed string) string {
			return setTextOf(t, signed, "ds:SignatureValue", func(old []byte) []byte {
				der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(old[:32]), new(big.Int).SetBytes(old[32:])})
				if err != nil {
					t.Fatal(err)
				}
				return der
			})
		}, 9105, negative},
		{"the signature not base64", replace("<ds:SignatureValue>", "<ds:SignatureValue>!"), 9105, "Nieprawidłowa treść podpisu."},
		{"the certificate not one", replace("<ds:X509Certificate>MII", "<ds:X509Certificate>AAA"), 21115, ""},
		{"the certificate not base64", replace("<ds:X509Certificate>", "<ds:X509Certificate>!"), 21115, ""},

		// Signed like that.
		{"nothing changed", resealed(func(*etree.Element) {}), 0, ""},
		{"no reference to the signed properties", resealed(remove(".//ds:Reference[2]")), 9105, format},
		{"no reference to the document", resealed(remove(".//ds:Reference[1]")), 9105, format},
		{"a third reference", resealed(func(root *etree.Element) {
			second := root.FindElement(".//ds:Reference[2]")
			second.Parent().AddChild(second.Copy())
		}), 9105, format},
		{"the reference of no type", resealed(func(root *etree.Element) { root.FindElement(".//ds:Reference[2]").RemoveAttr("Type") }), 9105, format},
		{"no signed properties", resealed(func(root *etree.Element) {
			remove(".//ds:Reference[2]")(root)
			remove(".//ds:Object")(root)
		}), 9105, format},
		{"no signing certificate", resealed(remove(".//xades:SigningCertificate")), 9105, format},
		{"the digest of another certificate", resealed(func(root *etree.Element) {
			sum := sha256.Sum256(other.certificate.Raw)
			setText(".//xades:CertDigest/ds:DigestValue", base64.StdEncoding.EncodeToString(sum[:]))(root)
		}), 9105, format},
		{"the serial number of another certificate", resealed(setText(".//ds:X509SerialNumber", "1")), 9105, format},
		{"another issuer", resealed(setText(".//ds:X509IssuerName", "CN=X")), 9105, format},
		{"no signing time", resealed(remove(".//xades:SigningTime")), 9105, format},
		{"signed tomorrow", resealed(setText(".//xades:SigningTime", "2026-11-06T12:00:00Z")), 9105, "Nieprawidłowy czas podpisu."},
		{"signed before the challenge was given", resealed(setText(".//xades:SigningTime", "2026-11-05T11:58:00Z")), 9105, "Nieprawidłowy czas podpisu."},
		{"properties of another signature", resealed(setAttribute(".//xades:QualifyingProperties", "Target", "#Other")), 9105, format},
		{"two elements of one Id", resealed(setAttribute(".//ds:KeyInfo", "Id", "SignedProperties")), 9105, format},
		{"inclusive canonicalisation", resealed(setAttribute(".//ds:CanonicalizationMethod", "Algorithm", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315")), 9105, algorithm},
		{"no enveloped-signature transform", resealed(remove(".//ds:Reference[1]/ds:Transforms/ds:Transform[1]")), 9105, format},
		{"a transform with parameters", resealed(find(".//ds:Reference[2]/ds:Transforms/ds:Transform", func(e *etree.Element) { e.CreateElement("ds:XPath").SetText("1") })), 9105, format},
		{"SHA-1 of the document", resealed(setAttribute(".//ds:Reference[1]/ds:DigestMethod", "Algorithm", "http://www.w3.org/2000/09/xmldsig#sha1")), 9105, algorithm},
		{"ECDSA with SHA-1", resealed(setAttribute(".//ds:SignatureMethod", "Algorithm", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha1")), 9105, algorithm},
		{"RSA by an EC key", resealed(setAttribute(".//ds:SignatureMethod", "Algorithm", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256")), 9105, algorithm},
		{"two certificates", resealed(find(".//ds:X509Certificate", func(e *etree.Element) { e.Parent().AddChild(e.Copy()) })), 21115, ""},
		{"the signature deeper down", resealed(func(root *etree.Element) {
			signature := root.FindElement("ds:Signature")
			root.RemoveChild(signature)
			root.FindElement("ContextIdentifier").AddChild(signature)
		}), 9105, format},

		// Documents that are not right.
		{"no signature", func(string) string { return "<a/>" }, 9102, ""},
		{"two signatures", func(signed string) string {
			i, j := strings.Index(signed, "<ds:Signature "), strings.Index(signed, "</AuthTokenRequest>")
			return signed[:j] + signed[i:j] + signed[j:]
		}, 9103, ""},
		{"a comment in the NIP", replace("<Nip>526", "<Nip>526<!-- -->"), 9101, ""},
		{"a processing instruction", replace("<Nip>526", "<Nip>526<?x y?>"), 9101, ""},
		{"a document type", func(signed string) string { return `<!DOCTYPE x [<!ENTITY a "b">]>` + signed }, 21001, ""},
		{"a second root", func(signed string) string { return signed + "<x/>" }, 21001, ""},
		{"an attribute twice", replace(`Target="#Signature"`, `Target="#Signature" Target="#Signature"`), 21001, ""},
		{"half of it", func(signed string) string { return signed[:len(signed)/2] }, 21001, ""},
		{"nothing", func(string) string { return " " }, 21001, ""},
		{"too deep", func(string) string { return strings.Repeat("<a>", 100_000) }, 21001, ""},
		{"too many elements", func(string) string { return "<a>" + strings.Repeat("<a/>", 100_000) + "</a>" }, 21001, ""},
		{"bytes that are not UTF-8", replace("<Nip>", "<Nip>\xff"), 21217, ""},
		{"another encoding", func(signed string) string { return `<?xml version="1.0" encoding="windows-1250"?>` + signed }, 21217, ""},
		{"schema 2.0", resealed(setAttribute(".", "xmlns", "http://ksef.mf.gov.pl/auth/token/2.0")), 0, ""},
		{"schema 3.0", resealed(setAttribute(".", "xmlns", "http://ksef.mf.gov.pl/auth/token/3.0")), 21401, ""},
		{"no subject identifier type", resealed(remove("SubjectIdentifierType")), 21401, ""},
		{"an unknown one", resealed(setText("SubjectIdentifierType", "certificateColour")), 21401, ""},
		{"by fingerprint without permission", resealed(setText("SubjectIdentifierType", "certificateFingerprint")), 415, ""},
		{"an unknown context", resealed(find("ContextIdentifier/Nip", func(e *etree.Element) { e.Tag = "Pesel" })), 21401, ""},
		{"two contexts", resealed(find("ContextIdentifier/Nip", func(e *etree.Element) { e.Parent().AddChild(e.Copy()) })), 21401, ""},
		{"a wrong NIP", resealed(setText("ContextIdentifier/Nip", "0000000000")), 21401, ""},
		{"a wrong challenge", resealed(setText("Challenge", "20261105-XX-0123456789-0123456789-01")), 21401, ""},
		{"an unknown challenge", resealed(setText("Challenge", "20261105-CR-0123456789-0123456789-01")), 21111, ""},
	}
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := s.Stats().Logins
			changed := tt.change(s.sign(s.document(), with, start))
			r := s.send(changed)
			switch tt.code {
			case 0, 415:
				var started struct {
					Reference string `json:"referenceNumber"`
					Token     info   `json:"authenticationToken"`
				}
				s.into(r, 202, &started)
				s.bearer = started.Token.Token
				if got, want := s.poll(started.Reference).Status.Code, max(tt.code, 200); got != want {
					t.Errorf("the login ended %d, want %d", got, want)
				}
			default:
				if r.status != 400 || r.code() != tt.code || !strings.Contains(string(r.body), tt.detail) {
					t.Errorf("answered %d %s; want 400 %d %s\n%s", r.status, r.body, tt.code, tt.detail, changed)
				}
				if s.Stats().Logins != before {
					t.Error("a login was begun")
				}
			}
		})
	}
}

// setTextOf changes the bytes that an element holds in base64.
func setTextOf(t testing.TB, signed, tag string, change func([]byte) []byte) string {
	t.Helper()
	tree := etree.NewDocument()
	if err := tree.ReadFromString(signed); err != nil {
		t.Fatal(err)
	}
	element := tree.FindElement("//" + tag)
	old, err := base64.StdEncoding.DecodeString(element.Text())
	if err != nil {
		t.Fatal(err)
	}
	element.SetText(base64.StdEncoding.EncodeToString(change(old)))
	text, err := tree.WriteToString()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWeakKeysAndWrongPaddingAreRefused(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	const rsaSHA256, pssSHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1"
	strong := certify(t, rsaKey(), seal)
	tests := []struct {
		name, method string
		with         credential
		detail       string
	}{
		{"RSA of 1024 bits", rsaSHA256, certify(t, short, seal), "niewspieranego algorytmu"},
		{"PKCS#1 by a key for PSS alone", rsaSHA256, onlyPSS(t, strong), "niewspieranego algorytmu"},
		{"PKCS#1 that says it is PSS", pssSHA256, strong, "zweryfikowany negatywnie"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
			// Signed properly by a key that is good, then made over to the one in question.
			signed := s.sign(s.document(), strong, start)
			sum := sha256.Sum256(tt.with.certificate.Raw)
			r := s.send(reseal(t, signed, tt.with, func(root *etree.Element) {
				setAttribute(".//ds:SignatureMethod", "Algorithm", tt.method)(root)
				setText(".//ds:X509Certificate", base64.StdEncoding.EncodeToString(tt.with.certificate.Raw))(root)
				setText(".//xades:CertDigest/ds:DigestValue", base64.StdEncoding.EncodeToString(sum[:]))(root)
				setText(".//ds:X509SerialNumber", tt.with.certificate.SerialNumber.String())(root)
			}))
			if r.code() != 9105 || !strings.Contains(string(r.body), tt.detail) {
				t.Errorf("answered %d %s; want 9105 %s", r.status, r.body, tt.detail)
			}
		})
	}
}

func TestChallengeOfSignedLogin(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	in := func(d time.Duration) string {
		document := s.document()
		given := s.clock.now()
		s.clock.add(d)
		return s.sign(document, with, given)
	}
	signed := in(10 * time.Minute)
	if r := s.send(signed); r.status != 202 {
		t.Errorf("after ten minutes: %d %s, want 202", r.status, r.body)
	}
	if r := s.send(signed); r.code() != 21111 {
		t.Errorf("the same again: %d %s, want 21111", r.status, r.body)
	}
	if r := s.send(in(10*time.Minute + time.Second)); r.code() != 21111 {
		t.Errorf("after more than ten minutes: %d %s, want 21111", r.status, r.body)
	}
}

func TestSignedLoginRequestMustBeXML(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	signed := s.sign(s.document(), with, start)
	s.bearer = ""
	if r := s.do("POST", "/v2/auth/xades-signature", signed); r.code() != 21405 {
		t.Errorf("as JSON: %d %s, want 21405", r.status, r.body)
	}
	s.header = http.Header{"Content-Type": {"application/xml"}}
	if r := s.do("POST", "/v2/auth/xades-signature?verifyCertificateChain=maybe", signed); r.code() != 21405 {
		t.Errorf("verifyCertificateChain=maybe: %d %s, want 21405", r.status, r.body)
	}
	var started struct {
		Reference string `json:"referenceNumber"`
		Token     info   `json:"authenticationToken"`
	}
	s.into(s.do("POST", "/v2/auth/xades-signature?verifyCertificateChain=true", signed), 202, &started)
	s.bearer, s.header = started.Token.Token, http.Header{}
	if got := s.poll(started.Reference).Status; got.Code != 460 || !slices.Equal(got.Details, []string{"Niezaufany łańcuch certyfikatów"}) {
		t.Errorf("with the issuer checked the login ended %+v, want 460", got)
	}
}
