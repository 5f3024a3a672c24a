package ksefsim_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// enroll gets a KSeF certificate for key by this program's own client.
func enroll(t testing.TB, c *ksef.Client, name string, key crypto.Signer) (credential, string) {
	t.Helper()
	data, err := c.EnrollmentData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ksef.NewCertificateRequest(data, key)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := c.Enroll(t.Context(), name, csr)
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Enrollment(t.Context(), reference)
	if err != nil || first.Status != 100 || first.SerialNumber != "" {
		t.Fatalf("at first %+v, %v; want status 100", first, err)
	}
	second, err := c.Enrollment(t.Context(), reference)
	if err != nil || second.Status != 200 {
		t.Fatalf("then %+v, %v; want status 200", second, err)
	}
	certificate, err := c.RetrieveCertificate(t.Context(), second.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%016X", certificate.SerialNumber); got != second.SerialNumber {
		t.Errorf("the certificate has serial number %s, not %s", got, second.SerialNumber)
	}
	return credential{key, certificate}, second.SerialNumber
}

func refusedByKSeF(err error, code int) bool {
	refused, ok := errors.AsType[*ksef.Error](err)
	return ok && refused.Code == code
}

func TestCertificateFromApplicationToRevocation(t *testing.T) {
	for name, owner := range map[string]pkix.Name{
		"company":                     seal,
		"person":                      personWithPESEL,
		"person known by fingerprint": person("PAS-AB123456"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			with := certify(t, ecKey(t, elliptic.P256()), owner)
			s.Permit(company, ksefsim.Subject{Type: "Pesel", Value: "88102341294"})
			s.Permit(company, fingerprintOf(with.certificate))
			c := s.client(company, with)

			before, err := c.CertificateLimits(t.Context())
			if err != nil || !before.CanRequest {
				t.Fatalf("limits %+v, %v; want that it can be applied for one", before, err)
			}
			issued, serial := enroll(t, c, "Lustro faktur", ecKey(t, elliptic.P256()))
			after, err := c.CertificateLimits(t.Context())
			if err != nil || after.Enrollments.Remaining != before.Enrollments.Remaining-1 || after.Certificates.Remaining != before.Certificates.Remaining-1 {
				t.Errorf("limits %+v, %v; want one less each than %+v", after, err, before)
			}

			// The new certificate logs in, as the same owner, and can apply for its successor.
			s.clock.add(time.Hour)
			renewing := s.client(company, issued)
			renewed, _ := enroll(t, renewing, "Lustro faktur 2", rsaKey())
			if err := s.client(company, renewed).Login(t.Context()); err != nil {
				t.Errorf("with the renewed certificate: %v", err)
			}
			list, err := renewing.Certificates(t.Context())
			if err != nil || len(list) != 2 || list[0].Name != "Lustro faktur 2" || list[1].Name != "Lustro faktur" {
				t.Fatalf("list %+v, %v; want both, the newer first", list, err)
			}
			if list[1].SerialNumber != serial || list[1].Status != "Active" || list[1].Type != "Authentication" ||
				list[1].LastUsed.Time().Before(start.Add(time.Hour)) || list[1].ValidTo.Time() != issued.certificate.NotAfter {
				t.Errorf("listed as %+v", list[1])
			}

			if err := c.RevokeCertificate(t.Context(), serial, ksef.RevokedSuperseded); err != nil {
				t.Fatal(err)
			}
			if err := c.RevokeCertificate(t.Context(), serial, ksef.RevokedSuperseded); !refusedByKSeF(err, 25009) {
				t.Errorf("once more: %v, want 25009", err)
			}
			if err := s.client(company, issued).Login(t.Context()); !refusedWith(err, 460) || !strings.Contains(err.Error(), "Certyfikat odwołany") {
				t.Errorf("with the revoked certificate: %v, want 460", err)
			}
			list, err = c.Certificates(t.Context())
			if err != nil || list[1].Status != "Revoked" || list[0].Status != "Active" {
				t.Errorf("list %+v, %v; want the first revoked", list, err)
			}
			if violations := s.Stats().Violations; len(violations) > 0 {
				t.Errorf("violations %q, want none", violations)
			}
		})
	}
}

func TestSelfSignedCertificateLogsIn(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey(), "EC": ecKey(t, elliptic.P256())} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, ksefsim.Options{}, contract.Wrap)
			certificate, err := ksef.SelfSignedCertificate(company.Value, "", key, s.clock.now())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.client(company, credential{key, certificate}).Login(t.Context()); err != nil {
				t.Error(err)
			}
			if days := certificate.NotAfter.Sub(start).Hours() / 24; days < 700 || certificate.NotBefore.After(start.Add(-30*time.Minute)) {
				t.Errorf("valid from %s to %s, want two years and from before now", certificate.NotBefore, certificate.NotAfter)
			}
		})
	}
}

func TestTokenCannotApply(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	c := s.tokenClient()
	if limits, err := c.CertificateLimits(t.Context()); err != nil || limits.CanRequest {
		t.Errorf("limits %+v, %v; want that it cannot be applied for one", limits, err)
	}
	if data, err := c.EnrollmentData(t.Context()); !refusedByKSeF(err, 25001) {
		t.Errorf("data %+v, %v; want 25001", data, err)
	}
	if _, err := c.Enroll(t.Context(), "Lustro", []byte("x")); !refusedByKSeF(err, 25002) {
		t.Errorf("got %v, want 25002", err)
	}
	if err := c.RevokeCertificate(t.Context(), "0123456789ABCDEF", ksef.RevokedUnspecified); !errors.Is(err, ksef.ErrForbidden) {
		t.Errorf("got %v, want ErrForbidden", err)
	}
	if list, err := c.Certificates(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("list %+v, %v; want none", list, err)
	}
}

func TestApplicationIsRefused(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.WrapAnswers)
	s.Permit(company, ksefsim.Subject{Type: "Pesel", Value: "88102341294"})
	c := s.client(company, certify(t, ecKey(t, elliptic.P256()), seal))
	data, err := c.EnrollmentData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (ksef.EnrollmentData{CommonName: "Firma", CountryName: "PL", OrganizationName: "Firma Sp. z o.o.", OrganizationIdentifier: "VATPL-5265877635"}); data != want {
		t.Errorf("data %+v, want %+v", data, want)
	}
	request := func(key crypto.Signer, change func(*ksef.EnrollmentData)) []byte {
		changed := data
		if change != nil {
			change(&changed)
		}
		csr, err := ksef.NewCertificateRequest(changed, key)
		if err != nil {
			t.Fatal(err)
		}
		return csr
	}
	good := request(ecKey(t, elliptic.P256()), nil)
	long, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := append([]byte(nil), good...)
	spoilt[len(spoilt)-1] ^= 1
	tests := []struct {
		name, called string
		csr          []byte
		code         int
	}{
		{"name too short", "Abcd", good, 21405},
		{"name with a slash", "Lustro/faktur", good, 21405},
		{"name too long", strings.Repeat("a", 101), good, 21405},
		{"another organisation", "Lustro", request(ecKey(t, elliptic.P256()), func(d *ksef.EnrollmentData) { d.OrganizationName = "X" }), 25003},
		{"a part left out", "Lustro", request(ecKey(t, elliptic.P256()), func(d *ksef.EnrollmentData) { d.OrganizationIdentifier = "" }), 25003},
		{"a part too many", "Lustro", request(ecKey(t, elliptic.P256()), func(d *ksef.EnrollmentData) { d.Surname = "Kowalski" }), 25003},
		{"not a CSR", "Lustro", []byte("x"), 25004},
		{"a wrong signature", "Lustro", spoilt, 25004},
		{"RSA of 3072 bits", "Lustro", request(long, nil), 25010},
		{"P-384", "Lustro", request(ecKey(t, elliptic.P384()), nil), 25010},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if reference, err := c.Enroll(t.Context(), tt.called, tt.csr); !refusedByKSeF(err, tt.code) {
				t.Errorf("got %q, %v; want %d", reference, err, tt.code)
			}
		})
	}
	if limits, err := c.CertificateLimits(t.Context()); err != nil || limits.Enrollments != (ksef.CertificateLimit{Limit: 300, Remaining: 300}) {
		t.Errorf("limits %+v, %v; refused applications must not count", limits, err)
	}
	if _, err := c.Enrollment(t.Context(), "20261105-EH-0123456789-ABCDEF0123-45"); !refusedByKSeF(err, 25005) {
		t.Errorf("an unknown application: %v, want 25005", err)
	}
	if err := c.RevokeCertificate(t.Context(), "0123456789ABCDEF", ksef.RevokedUnspecified); !refusedByKSeF(err, 25008) {
		t.Errorf("an unknown certificate: %v, want 25008", err)
	}
	if err := c.RevokeCertificate(t.Context(), "0123456789ABCDEF", "Boredom"); !refusedByKSeF(err, 21405) {
		t.Errorf("an unknown reason: %v, want 21405", err)
	}
	if certificate, err := c.RetrieveCertificate(t.Context(), "0123456789ABCDEF"); err == nil {
		t.Errorf("an unknown certificate was fetched: %v", certificate.Subject)
	}

	// A key that another owner has a certificate for.
	key := ecKey(t, elliptic.P256())
	enroll(t, c, "Lustro", key)
	other := s.client(company, certify(t, ecKey(t, elliptic.P256()), personWithPESEL))
	if data, err = other.EnrollmentData(t.Context()); err != nil {
		t.Fatal(err)
	}
	reference, err := other.Enroll(t.Context(), "Cudzy klucz", request(key, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = other.Enrollment(t.Context(), reference)
	if got, err := other.Enrollment(t.Context(), reference); err != nil || got.Status != 400 || !strings.Contains(strings.Join(got.Details, ""), "inny podmiot") {
		t.Errorf("got %+v, %v; want status 400", got, err)
	}
	if got, err := c.Enrollment(t.Context(), reference); !refusedByKSeF(err, 25005) {
		t.Errorf("another's application: %+v, %v; want 25005", got, err)
	}
}

func TestLimitsOfCertificates(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	s.Permit(company, ksefsim.Subject{Type: "Pesel", Value: "88102341294"})
	c := s.client(company, certify(t, ecKey(t, elliptic.P256()), personWithPESEL))
	apply := func() error {
		data, err := c.EnrollmentData(t.Context())
		if err != nil {
			return err
		}
		csr, err := ksef.NewCertificateRequest(data, ecKey(t, elliptic.P256()))
		if err != nil {
			return err
		}
		_, err = c.Enroll(t.Context(), "Lustro", csr)
		return err
	}
	for range 6 {
		if err := apply(); err != nil {
			t.Fatal(err)
		}
	}
	if err := apply(); !refusedByKSeF(err, 25007) {
		t.Errorf("a seventh active certificate: %v, want 25007", err)
	}
	list, err := c.Certificates(t.Context())
	if err != nil || len(list) != 6 {
		t.Fatalf("list %+v, %v; want six", list, err)
	}
	for _, each := range list {
		if err := c.RevokeCertificate(t.Context(), each.SerialNumber, ksef.RevokedUnspecified); err != nil {
			t.Fatal(err)
		}
	}
	for range 6 {
		if err := apply(); err != nil {
			t.Fatal(err)
		}
	}
	if err := apply(); !refusedByKSeF(err, 25006) {
		t.Errorf("a thirteenth application: %v, want 25006", err)
	}
}

func TestListOfCertificatesHasPages(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	c := s.client(company, certify(t, ecKey(t, elliptic.P256()), seal))
	c.Limiter.SetLimits(ksef.Limits{})
	data, err := c.EnrollmentData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ksef.NewCertificateRequest(data, ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if _, err := c.Enroll(t.Context(), fmt.Sprintf("Lustro %d", i), csr); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.Certificates(t.Context())
	seen := make(map[string]bool)
	for _, each := range list {
		seen[each.SerialNumber] = true
	}
	if err != nil || len(list) != 60 || len(seen) != 60 || list[0].Name != "Lustro 59" {
		t.Errorf("%d certificates, %d different, %v; want 60", len(list), len(seen), err)
	}
}

// 56. A KSeF certificate of type Offline does not log in.
func TestScenario56OfflineCertificate(t *testing.T) {
	s := newSim(t, ksefsim.Options{}, contract.Wrap)
	with := certify(t, ecKey(t, elliptic.P256()), seal)
	key := ecKey(t, elliptic.P256())
	c := s.client(company, with)
	data, err := c.EnrollmentData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ksef.NewCertificateRequest(data, key)
	if err != nil {
		t.Fatal(err)
	}
	var started struct {
		Reference string `json:"referenceNumber"`
		Token     info   `json:"authenticationToken"`
	}
	s.into(s.send(s.sign(s.document(), with, s.clock.now())), 202, &started)
	s.bearer = started.Token.Token
	s.poll(started.Reference)
	var tokens struct {
		Access info `json:"accessToken"`
	}
	s.into(s.do("POST", "/v2/auth/token/redeem", ""), 200, &tokens)
	s.bearer = tokens.Access.Token
	s.into(s.do("POST", "/v2/certificates/enrollments", fmt.Sprintf(`{"certificateName":"Offline","certificateType":"Offline","csr":%q,"validFrom":"2026-11-05T13:00:00Z"}`, base64.StdEncoding.EncodeToString(csr))), 202, &started)
	list, err := c.Certificates(t.Context())
	if err != nil || len(list) != 1 || list[0].Type != "Offline" || list[0].ValidFrom.Time() != start.Add(time.Hour) {
		t.Fatalf("list %+v, %v; want the Offline certificate", list, err)
	}
	certificate, err := c.RetrieveCertificate(t.Context(), list[0].SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	if certificate.KeyUsage != x509.KeyUsageContentCommitment {
		t.Errorf("key usage %d, want non-repudiation", certificate.KeyUsage)
	}
	s.clock.add(2 * time.Hour)
	if err := s.client(company, credential{key, certificate}).Login(t.Context()); !refusedWith(err, 460) || !strings.Contains(err.Error(), "type Authentication") {
		t.Errorf("got %v, want 460", err)
	}
}
