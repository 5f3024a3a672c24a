package ksef

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// NewCertificateRequest makes the application for a KSeF certificate, PKCS#10 in
// DER, for [Client.Enroll]. It names exactly what data does. KSeF takes keys of RSA
// with 2048 bits and of EC P-256, and recommends the latter (certyfikaty-KSeF.md);
// it certifies a key for one owner only.
func NewCertificateRequest(data EnrollmentData, key crypto.Signer) ([]byte, error) {
	var parts pkix.RDNSequence
	for _, each := range []struct {
		last  int // of the part's number, after 2.5.4
		value string
	}{
		{6, data.CountryName}, {10, data.OrganizationName}, {97, data.OrganizationIdentifier},
		{42, data.GivenName}, {4, data.Surname}, {5, data.SerialNumber}, {45, data.UniqueIdentifier}, {3, data.CommonName},
	} {
		if each.value != "" {
			parts = append(parts, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, each.last}, Value: each.value}})
		}
	}
	subject, err := asn1.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("write the subject of the application: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: subject}, key)
	if err != nil {
		return nil, fmt.Errorf("write the application for a certificate: %w", err)
	}
	return request, nil
}

// SelfSignedCertificate makes a certificate for a company that TEST takes for a
// qualified seal. DEMO and PROD refuse it (uwierzytelnianie.md). name may be "",
// for the NIP. It is valid for two years, and from an hour before now: KSeF's clock
// may be behind.
func SelfSignedCertificate(nip, name string, key crypto.Signer, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	name = cmp.Or(name, nip)
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), // it must not be zero
		Subject: pkix.Name{
			CommonName: name, Organization: []string{name}, Country: []string{"PL"},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidOrganizationIdentifier, Value: "VATPL-" + nip}},
		},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}
