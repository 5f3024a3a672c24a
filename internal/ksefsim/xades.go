package ksefsim

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// Subject is who logs in, in the words of open-api, SubjectIdentifierType: Nip,
// Pesel, Fingerprint (the SHA-256 of a certificate in upper-case hexadecimal), and
// PeppolId beside them.
type Subject struct{ Type, Value string }

// The types of a [Subject].
const (
	subjectNIP         = "Nip"
	subjectPESEL       = "Pesel"
	subjectFingerprint = "Fingerprint"
	subjectPeppol      = "PeppolId"
)

// permission says that a subject may read the invoices of a context.
type permission struct {
	context ksef.Context
	subject Subject
}

// fingerprint is the SHA-256 of a certificate.
type fingerprint = [sha256.Size]byte

// certificate is what KSeF knows of a certificate beyond what is written in it.
type certificate struct {
	revoked, suspended bool
	ends               time.Time // zero: as written
}

// signedWith is what a login was signed with.
type signedWith struct {
	certificate *x509.Certificate
	subject     Subject
}

// Permit lets a subject read the invoices of a context. A company (Nip) may read
// its own, and a Peppol provider its own, without that.
func (s *Server) Permit(context ksef.Context, subject Subject) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.permissions[permission{context, subject}] = true
}

// Forbid takes back what [Server.Permit] gave. Sessions that exist go on.
func (s *Server) Forbid(context ksef.Context, subject Subject) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.permissions, permission{context, subject})
}

// RevokeCertificate ends a certificate for good: it logs in no more. Its sessions
// go on, as KSeF's do.
func (s *Server) RevokeCertificate(c *x509.Certificate) {
	s.change(c, func(state *certificate) { state.revoked = true })
}

// SuspendCertificate blocks a certificate, or lets it log in again.
func (s *Server) SuspendCertificate(c *x509.Certificate, suspended bool) {
	s.change(c, func(state *certificate) { state.suspended = suspended })
}

// ExpireCertificate ends the validity of a certificate now, as PUT
// /testdata/certificates/{serialNumber} does on TEST (open-api).
func (s *Server) ExpireCertificate(c *x509.Certificate) {
	s.change(c, func(state *certificate) { state.ends = s.now() })
}

func (s *Server) change(c *x509.Certificate, how func(*certificate)) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	known := s.certified[sha256.Sum256(c.Raw)]
	if known == nil {
		known = new(certificate)
		s.certified[sha256.Sum256(c.Raw)] = known
	}
	how(known)
}

// xadesLogin answers POST /auth/xades-signature. As on TEST any certificate may
// sign, self-signed ones too, unless the client has the issuer checked.
func (s *Server) xadesLogin(r *http.Request, _ *login) (any, *refusal) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/xml" {
		return nil, invalid("Nieobsługiwany typ zawartości: Content-Type musi mieć wartość application/xml.")
	}
	var checkIssuer bool
	switch value := r.URL.Query().Get("verifyCertificateChain"); value {
	case "true":
		checkIssuer = true
	case "false", "":
	default:
		return nil, invalid("Nieprawidłowa wartość parametru verifyCertificateChain: %s.", value)
	}
	body, refused := readAll(r)
	if refused != nil {
		return nil, refused
	}
	document, refused := verifySignature(body)
	if refused != nil {
		return nil, s.faulty(r, refused)
	}
	request, refused := readAuthTokenRequest(document)
	if refused != nil {
		return nil, s.faulty(r, refused)
	}
	now := s.now().UTC()

	s.mutex.Lock()
	defer s.mutex.Unlock()
	given, refused := s.takeChallenge(request.challenge, now)
	if refused != nil {
		return nil, refused
	}
	// The detail is not KSeF's. It is a whole second that the time is stated in.
	if at := document.signingTime; at.After(now) || at.Before(given.Truncate(time.Second).Add(-time.Minute)) {
		return nil, badSignature("Nieprawidłowy czas podpisu.")
	}
	l := &login{context: request.context}
	own := s.find(document.certificate)
	if own != nil {
		l.signed = &signedWith{own.Certificate, own.owner}
		l.method = loginMethod{"InternalCertificate", "XadesSignature", "xades.ksef-certificate", "Certyfikat KSeF"}
	} else {
		subject, refused := identify(document.certificate, request)
		if refused != nil {
			return nil, refused
		}
		l.signed = &signedWith{document.certificate, subject}
		l.method = methodOf(document.certificate, subject)
	}
	l.status, l.detail = s.judgeCertificate(l, checkIssuer && own == nil, now)
	if own != nil && l.status == 200 {
		own.lastUsed = now
	}
	return s.begin(l, now), nil
}

// faulty records what no client of this simulator should ever send.
func (s *Server) faulty(r *http.Request, refused *refusal) *refusal {
	s.violation(r, refused.description+" "+refused.detail)
	return refused
}

// authRequest is an AuthTokenRequest.
type authRequest struct {
	challenge     string
	context       ksef.Context
	byFingerprint bool
}

var (
	challengePattern = regexp.MustCompile(`^\d{8}-CR-[A-F0-9]{10}-[A-F0-9]{10}-[A-F0-9]{2}$`)
	authNamespaces   = []string{"http://ksef.mf.gov.pl/auth/token/2.0", "http://ksef.mf.gov.pl/auth/token/2.1"}
)

// readAuthTokenRequest reads the document that was signed, by schemat_auth_v2-0.xsd
// and schemat_auth_v2-1.xsd, which differ only in AuthorizationPolicy. That one is
// not simulated and refused.
func readAuthTokenRequest(document signedDocument) (authRequest, *refusal) {
	against := func(what string) (authRequest, *refusal) {
		return authRequest{}, badRequest(21401, "Dokument nie jest zgodny ze schemą (xsd).", what)
	}
	root := document.root
	namespace := root.NamespaceURI()
	if root.Tag != "AuthTokenRequest" || !slices.Contains(authNamespaces, namespace) {
		return against("Nieoczekiwany element " + root.Tag + ".")
	}
	var names []string
	for element := range elements(root) {
		if element.NamespaceURI() != namespace {
			return against("Nieoczekiwany element " + element.Tag + ".")
		}
		for _, each := range element.Attr {
			if each.Space != "xmlns" && each.Key != "xmlns" {
				return against("Nieoczekiwany atrybut " + each.FullKey() + ".")
			}
		}
		if element.Parent() == root {
			names = append(names, element.Tag)
		}
	}
	if !slices.Equal(names, []string{"Challenge", "ContextIdentifier", "SubjectIdentifierType"}) {
		return against("Nieoczekiwane elementy " + strings.Join(names, ", ") + ".")
	}
	context := only(root, namespace, "ContextIdentifier").ChildElements()
	if len(context) != 1 {
		return against("ContextIdentifier musi zawierać jeden element.")
	}
	request := authRequest{
		challenge: content(only(root, namespace, "Challenge")),
		context:   ksef.Context{Type: context[0].Tag, Value: content(context[0])},
	}
	switch content(only(root, namespace, "SubjectIdentifierType")) {
	case "certificateSubject":
	case "certificateFingerprint":
		request.byFingerprint = true
	default:
		return against("Nieprawidłowa wartość SubjectIdentifierType.")
	}
	switch {
	case !challengePattern.MatchString(request.challenge):
		return against("Nieprawidłowa wartość Challenge.")
	case !wellFormed(request.context):
		return against("Nieprawidłowa wartość ContextIdentifier.")
	}
	return request, nil
}

// Parts of a certificate's subject (podpis-xades.md).
const (
	commonName             = "2.5.4.3"
	surname                = "2.5.4.4"
	serialNumber           = "2.5.4.5"
	countryName            = "2.5.4.6"
	organizationName       = "2.5.4.10"
	givenName              = "2.5.4.42"
	organizationIdentifier = "2.5.4.97"
)

// identifierPatterns find the owner in those two parts (podpis-xades.md).
var identifierPatterns = []struct {
	part, subject string
	pattern       *regexp.Regexp
}{
	{serialNumber, subjectPESEL, regexp.MustCompile(`(?:PNOPL|PESEL).*?(\d{11})`)},
	{serialNumber, subjectNIP, regexp.MustCompile(`(?:TINPL|NIP).*?(\d{10})`)},
	{organizationIdentifier, subjectNIP, regexp.MustCompile(`VATPL.*?(\d{10})`)},
}

// subjectParts gives the subject of a certificate by the numbers of its parts.
func subjectParts(c *x509.Certificate) map[string]string {
	parts := make(map[string]string)
	for _, each := range c.Subject.Names {
		if text, ok := each.Value.(string); ok && text != "" {
			parts[each.Type.String()] = text
		}
	}
	return parts
}

// identify tells who a certificate belongs to, in the way that the request asks
// for.
func identify(c *x509.Certificate, request authRequest) (Subject, *refusal) {
	parts := subjectParts(c)
	required := []string{commonName, countryName}
	switch {
	case request.byFingerprint:
	case request.context.Type == ksef.ContextPeppolID:
		required = append(required, organizationName)
	case parts[givenName] != "" || parts[surname] != "": // of a person
		required = append(required, givenName, surname, serialNumber)
	default:
		required = append(required, organizationName, organizationIdentifier)
	}
	for _, part := range required {
		if parts[part] == "" {
			return Subject{}, invalidCertificate("")
		}
	}
	switch {
	case request.byFingerprint:
		sum := sha256.Sum256(c.Raw)
		return Subject{subjectFingerprint, strings.ToUpper(hex.EncodeToString(sum[:]))}, nil
	case request.context.Type == ksef.ContextPeppolID:
		if !peppolID.MatchString(parts[commonName]) {
			return Subject{}, badRequest(21117, "Nieprawidłowy identyfikator podmiotu dla wskazanego typu kontekstu.", "")
		}
		return Subject{subjectPeppol, parts[commonName]}, nil
	}
	for _, each := range identifierPatterns {
		if found := each.pattern.FindStringSubmatch(parts[each.part]); found != nil {
			return Subject{each.subject, found[1]}, nil
		}
	}
	return Subject{}, badRequest(21406, "Konflikt podpisu i typu uwierzytelnienia.", "")
}

// methodOf names the way to log in. Of the codes open-api shows that of the seal
// alone; the others are like it.
func methodOf(c *x509.Certificate, subject Subject) loginMethod {
	parts := subjectParts(c)
	switch {
	case subject.Type == subjectPeppol:
		return loginMethod{"PeppolSignature", "XadesSignature", "xades.peppol-signature", "Podpis dostawcy usług Peppol"}
	case parts[organizationIdentifier] != "":
		return loginMethod{"QualifiedSeal", "XadesSignature", "xades.qualified-seal", "Pieczęć kwalifikowana"}
	default:
		return loginMethod{"QualifiedSignature", "XadesSignature", "xades.qualified-signature", "Podpis kwalifikowany"}
	}
}

// judgeCertificate decides on a login with a valid signature (open-api,
// AuthenticationOperationStatusResponse). untrusted says that nobody vouches for the
// certificate and that the client wants someone to. The mutex is held.
func (s *Server) judgeCertificate(l *login, untrusted bool, now time.Time) (status int, detail string) {
	signed := l.signed.certificate
	state := s.certified[sha256.Sum256(signed.Raw)]
	if state == nil {
		state = new(certificate)
	}
	switch {
	case now.Before(signed.NotBefore) || !now.Before(s.endOf(signed)):
		return 460, "Nieważny certyfikat"
	case untrusted:
		return 460, "Niezaufany łańcuch certyfikatów"
	case state.revoked:
		return 460, "Certyfikat odwołany"
	case state.suspended:
		return 460, "Certyfikat zawieszony"
	// KSeF's certificates of type Offline are for non-repudiation alone
	// (certyfikaty-KSeF.md). Qualified ones may be too, but none can be here.
	case signed.KeyUsage != 0 && signed.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return 460, "Niepoprawny certyfikat"
	case !s.permitted(l.context, l.signed.subject):
		return 415, "Brak przypisanych uprawnień"
	}
	return 200, ""
}

// permitted reports whether a subject may do anything in a context. The mutex is held.
func (s *Server) permitted(context ksef.Context, subject Subject) bool {
	own := subject.Value == context.Value &&
		(subject.Type == subjectNIP && context.Type == ksef.ContextNIP || subject.Type == subjectPeppol && context.Type == ksef.ContextPeppolID)
	return own || s.permissions[permission{context, subject}]
}
