package credential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"
)

// minRSABits is the smallest RSA key that KSeF accepts (auth/podpis-xades.md).
const minRSABits = 2048

// check says what keeps a certificate from logging in at the time now.
func check(certificate *x509.Certificate, now time.Time) []string {
	var wrong []string
	if key := publicKeyOf(certificate); !usable(key) {
		wrong = append(wrong, fmt.Sprintf("its key is %s, which KSeF does not accept; want RSA with at least %d bits, or EC on the curve P-256 or P-384",
			DescribeKey(key), minRSABits))
	}
	switch {
	case now.Before(certificate.NotBefore):
		wrong = append(wrong, fmt.Sprintf("it is not valid before %s, and by the clock of this machine it is %s; wait, or set the clock if it is wrong",
			instant(certificate.NotBefore), instant(now)))
	case now.After(certificate.NotAfter):
		wrong = append(wrong, fmt.Sprintf("it ended on %s, and by the clock of this machine it is %s; get a new certificate in KSeF's taxpayer application, or set the clock if it is wrong",
			instant(certificate.NotAfter), instant(now)))
	}
	if text := checkUsage(certificate); text != "" {
		wrong = append(wrong, text)
	}
	return wrong
}

// checkUsage says why KSeF would not let a certificate log in that was made for
// something else. KSeF's own certificates are of the type Authentication, with
// the key usage digitalSignature, or Offline, with nonRepudiation
// (certyfikaty-KSeF.md). A qualified certificate of a person logs in too, and has
// often nonRepudiation alone. One without any key usage is not restricted.
func checkUsage(certificate *x509.Certificate) string {
	usage := certificate.KeyUsage
	switch {
	case usage == 0, usage&x509.KeyUsageDigitalSignature != 0:
		return ""
	case usage&x509.KeyUsageContentCommitment == 0:
		return "its key usage does not allow signatures (digitalSignature is missing); get a KSeF certificate of the type Authentication"
	case isQualified(certificate):
		return ""
	}
	return "it is a certificate of the type Offline: its key usage is nonRepudiation without digitalSignature, " +
		"which signs invoices that are issued offline but logs nobody in; get a KSeF certificate of the type Authentication (in the taxpayer application: for logging in)"
}

// isQualified reports whether the certificate says of itself that it is a
// qualified one: the statement id-etsi-qcs-QcCompliance (ETSI EN 319 412-5) in
// the extension qcStatements (RFC 3739).
func isQualified(certificate *x509.Certificate) bool {
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 3}) {
			continue
		}
		var statements []struct {
			ID   asn1.ObjectIdentifier
			Info asn1.RawValue `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(extension.Value, &statements); err != nil {
			return false
		}
		for _, statement := range statements {
			if statement.ID.Equal(asn1.ObjectIdentifier{0, 4, 0, 1862, 1, 1}) {
				return true
			}
		}
	}
	return false
}

// matches reports whether key is the private key of the certificate.
func matches(key crypto.Signer, certificate *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(publicKeyOf(certificate))
}

// usable reports whether KSeF accepts signatures by a key of this kind and size.
func usable(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384()
	}
	return false
}

// DescribeKey names the kind and size of a key, such as "an RSA key of 2048 bits".
func DescribeKey(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		return fmt.Sprintf("an EC key on the curve %s", key.Params().Name)
	case ed25519.PublicKey:
		return "an Ed25519 key"
	}
	return "a key of an unknown kind"
}

// instant is how messages write a time: certificates are dated in UTC.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
