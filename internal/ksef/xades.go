package ksef

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/xml"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"ksefmirror/internal/xades"
)

// signer is a certificate and its key, as what a login begins with.
type signer struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// identity tells a certificate from another, and from the same with another key:
// whoever has put the wrong key file right must not need a restart.
func (s signer) identity() [sha256.Size]byte {
	public, _ := x509.MarshalPKIXPublicKey(s.key.Public()) // fails for unknown keys only, and those cannot sign
	return sha256.Sum256(append(public, s.certificate.Raw...))
}

// begin starts a login with a signed document (open-api, POST /auth/xades-signature).
func (s signer) begin(ctx context.Context, c *Client, given challenge) (startedLogin, error) {
	document, err := authTokenRequest(given.Challenge, c.Context, s.certificate)
	if err != nil {
		return startedLogin{}, err
	}
	// KSeF's own time: by this machine's clock a signature could come from the future.
	signed, err := xades.Sign(document, s.key, s.certificate, time.UnixMilli(given.TimestampMs))
	if err != nil {
		return startedLogin{}, &LoginError{Terminal: true, Message: "the login could not be signed with the configured certificate and key", Err: err}
	}
	var started startedLogin
	_, err = c.sendLogin(ctx, request{
		op: "start the login", method: http.MethodPost,
		// Only TEST reads the parameter, and there false lets self-signed certificates
		// in. DEMO and PROD check the issuer always (open-api).
		path: "/auth/xades-signature?verifyCertificateChain=false",
		body: signed, contentType: "application/xml",
	}, nil, &started)
	return started, err
}

// authTokenRequest is the document that is to be signed (schemat_auth_v2-1.xsd).
// Version 2.0 differs in the patterns of IP addresses alone, and those are not
// sent: KSeF takes 2.1 everywhere (api-changelog 2.5.0).
func authTokenRequest(challenge string, context Context, certificate *x509.Certificate) ([]byte, error) {
	type identifier struct {
		XMLName xml.Name // the types of a Context are named as its elements are
		Value   string   `xml:",chardata"`
	}
	document, err := xml.Marshal(struct {
		XMLName               xml.Name `xml:"http://ksef.mf.gov.pl/auth/token/2.1 AuthTokenRequest"`
		Challenge             string
		ContextIdentifier     struct{ Identifier identifier }
		SubjectIdentifierType string
	}{
		Challenge:             challenge,
		ContextIdentifier:     struct{ Identifier identifier }{identifier{xml.Name{Local: context.Type}, context.Value}},
		SubjectIdentifierType: subjectIdentifierType(context, certificate),
	})
	if err != nil {
		return nil, fmt.Errorf("write the login document: %w", err)
	}
	return append([]byte(xml.Header), document...), nil
}

// What KSeF reads from the subject of a certificate (podpis-xades.md).
var (
	oidSerialNumber           = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidOrganizationIdentifier = asn1.ObjectIdentifier{2, 5, 4, 97}

	personIdentifier  = regexp.MustCompile(`(PNOPL|PESEL).*?\d{11}|(TINPL|NIP).*?\d{10}`)
	companyIdentifier = regexp.MustCompile(`VATPL.*?\d{10}`)
)

// subjectIdentifierType says by what KSeF is to know the owner of a certificate:
// by the identifier in its subject if it has one, else by its fingerprint, for
// which someone must have been granted permissions (podpis-xades.md). In the
// context of a company with a European VAT number permissions are granted for
// fingerprints only (open-api, EuEntityPermissionsSubjectIdentifierType); in that
// of a Peppol provider its identifier is the certificate's common name.
func subjectIdentifierType(context Context, certificate *x509.Certificate) string {
	const bySubject, byFingerprint = "certificateSubject", "certificateFingerprint"
	switch context.Type {
	case ContextNIPVATEU:
		return byFingerprint
	case ContextPeppolID:
		return bySubject
	}
	for _, part := range certificate.Subject.Names {
		text, _ := part.Value.(string)
		if part.Type.Equal(oidSerialNumber) && personIdentifier.MatchString(text) ||
			part.Type.Equal(oidOrganizationIdentifier) && companyIdentifier.MatchString(text) {
			return bySubject
		}
	}
	return byFingerprint
}
