package credential

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"regexp"
)

// The kinds of [Identity], as KSeF names them (open-api).
const (
	IdentityNIP         = "Nip"
	IdentityPESEL       = "Pesel"
	IdentityFingerprint = "Fingerprint"
)

// Identity is whom KSeF takes the holder of a certificate for. What the holder
// may do is decided by the permissions that were granted to it in KSeF, not by
// the certificate.
type Identity struct {
	Kind  string // IdentityNIP, IdentityPESEL or IdentityFingerprint
	Value string // ten or eleven digits, or [Fingerprint]
	// Source is the attribute of the subject that says so, such as
	// "organizationIdentifier VATPL-5265877635"; "" for a fingerprint.
	Source string
}

// String explains the identity in one line.
func (i Identity) String() string {
	switch i.Kind {
	case IdentityNIP:
		return fmt.Sprintf("the holder of NIP %s (%s)", i.Value, i.Source)
	case IdentityPESEL:
		return fmt.Sprintf("the person with PESEL %s (%s)", i.Value, i.Source)
	}
	return fmt.Sprintf("the holder of the certificate with the SHA-256 fingerprint %s, for its subject has no NIP or PESEL that KSeF reads; permissions must have been granted to the fingerprint", i.Value)
}

// The patterns by which KSeF reads subjects (auth/podpis-xades.md).
var (
	peselPattern = regexp.MustCompile(`(?:PNOPL|PESEL).*?(\d{11})`)
	tinPattern   = regexp.MustCompile(`(?:TINPL|NIP).*?(\d{10})`)
	vatPattern   = regexp.MustCompile(`VATPL.*?(\d{10})`)
)

// Identities gives what KSeF can read from the subject of a certificate, the
// company's (a seal's organizationIdentifier) before the person's (serialNumber);
// when there is nothing, the certificate's fingerprint alone. It is never empty.
func Identities(certificate *x509.Certificate) []Identity {
	var companies, persons []Identity
	for _, attribute := range certificate.Subject.Names {
		value, _ := attribute.Value.(string) // "" for a kind of text that KSeF would not read either
		switch {
		case attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 97}):
			if match := vatPattern.FindStringSubmatch(value); match != nil {
				companies = append(companies, Identity{IdentityNIP, match[1], "organizationIdentifier " + value})
			}
		case attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 5}):
			if match := peselPattern.FindStringSubmatch(value); match != nil {
				persons = append(persons, Identity{IdentityPESEL, match[1], "serialNumber " + value})
			} else if match := tinPattern.FindStringSubmatch(value); match != nil {
				persons = append(persons, Identity{IdentityNIP, match[1], "serialNumber " + value})
			}
		}
	}
	if found := append(companies, persons...); len(found) > 0 {
		return found
	}
	return []Identity{{Kind: IdentityFingerprint, Value: Fingerprint(certificate)}}
}

// Fingerprint gives the SHA-256 hash of a certificate as KSeF writes it: 64
// hexadecimal digits in capitals.
func Fingerprint(certificate *x509.Certificate) string {
	return fmt.Sprintf("%X", sha256.Sum256(certificate.Raw))
}
