package ksefsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// certificateLife is how long a KSeF certificate is valid.
const certificateLife = 2 * 365 * 24 * time.Hour

// Types of KSeF certificates (open-api, KsefCertificateType).
const (
	typeAuthentication = "Authentication"
	typeOffline        = "Offline"
)

// issuer is KSeF's own certificate authority.
type issuer struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// issued is a certificate that KSeF has issued.
type issued struct {
	*x509.Certificate
	owner      Subject
	name, kind string
	serial     string // 16 hexadecimal digits
	requested  time.Time
	lastUsed   time.Time // zero: never
}

// enrollment is an application for a certificate.
type enrollment struct {
	reference string
	owner     Subject
	requested time.Time
	pending   int     // polls that still answer 100
	result    *issued // nil: refused
	detail    string  // why
}

func newIssuer(now time.Time) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject: pkix.Name{
			Country: []string{"PL"}, Organization: []string{"Ministerstwo Finansów"},
			OrganizationalUnit: []string{"Krajowa Administracja Skarbowa"}, CommonName: "Symulator CCK KSeF",
		},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err) // the template above is valid
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err) // it was made a line above
	}
	return &issuer{key, certificate}
}

// issue makes a certificate of what a request asks for.
func (i *issuer) issue(request *x509.CertificateRequest, kind string, from time.Time) (*x509.Certificate, string) {
	var serial [8]byte
	_, _ = rand.Read(serial[:]) // never fails (crypto/rand)
	serial[0] = serial[0]&0x7f | 1
	usage := x509.KeyUsageDigitalSignature
	if kind == typeOffline {
		usage = x509.KeyUsageContentCommitment
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]), RawSubject: request.RawSubject,
		NotBefore: from, NotAfter: from.Add(certificateLife), KeyUsage: usage,
	}, i.certificate, request.PublicKey, i.key)
	if err != nil {
		panic(err) // the key was checked, and the rest is ours
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err) // it was made a line above
	}
	return certificate, fmt.Sprintf("%016X", binary.BigEndian.Uint64(serial[:]))
}

// find gives a certificate of KSeF's own; nil if it is another's. The mutex is held.
func (s *Server) find(c *x509.Certificate) *issued {
	i := slices.IndexFunc(s.issued, func(each *issued) bool { return each.Equal(c) })
	if i < 0 {
		return nil
	}
	return s.issued[i]
}

// mine gives what a login's owner holds, the last applied for first. The mutex is held.
func (s *Server) mine(l *login) (all []*issued) {
	for _, each := range slices.Backward(s.issued) {
		if l.signed != nil && each.owner == l.signed.subject {
			all = append(all, each)
		}
	}
	return all
}

// status is that of open-api, CertificateListItemStatus. The mutex is held.
func (s *Server) status(c *issued, now time.Time) string {
	state := s.certified[sha256.Sum256(c.Raw)]
	switch {
	case state != nil && state.revoked:
		return "Revoked"
	case !now.Before(s.endOf(c.Certificate)):
		return "Expired"
	case state != nil && state.suspended:
		return "Blocked"
	}
	return "Active"
}

// endOf is when a certificate ends. The mutex is held.
func (s *Server) endOf(c *x509.Certificate) time.Time {
	if state := s.certified[sha256.Sum256(c.Raw)]; state != nil && !state.ends.IsZero() {
		return state.ends
	}
	return c.NotAfter
}

// limitsOf says how many applications and active certificates an owner may have
// (limity.md).
func limitsOf(owner Subject) (applications, active int) {
	if owner.Type == subjectNIP {
		return 300, 100
	}
	return 12, 6
}

// remaining says how many more an owner may have. The mutex is held.
func (s *Server) remaining(l *login, now time.Time) (applications, active int) {
	applications, active = limitsOf(l.signed.subject)
	for _, each := range s.enrollments {
		if each.owner == l.signed.subject {
			applications--
		}
	}
	for _, each := range s.mine(l) {
		if s.status(each, now) == "Active" {
			active--
		}
	}
	return max(0, applications), max(0, active)
}

// certificateLimits answers GET /certificates/limits.
func (s *Server) certificateLimits(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	limit := func(limit, remaining int) any { return map[string]any{"limit": limit, "remaining": remaining} }
	if l.signed == nil { // a token cannot apply
		return map[string]any{"canRequest": false, "enrollment": limit(0, 0), "certificate": limit(0, 0)}, nil
	}
	mostApplications, mostActive := limitsOf(l.signed.subject)
	applications, active := s.remaining(l, s.now())
	return map[string]any{
		"canRequest":  applications > 0 && active > 0,
		"enrollment":  limit(mostApplications, applications),
		"certificate": limit(mostActive, active),
	}, nil
}

// enrollmentParts are the parts of a subject that an application may have, by the
// fields of open-api, CertificateEnrollmentDataResponse.
var enrollmentParts = map[string]string{
	commonName: "commonName", countryName: "countryName", givenName: "givenName", surname: "surname",
	serialNumber: "serialNumber", "2.5.4.45": "uniqueIdentifier",
	organizationName: "organizationName", organizationIdentifier: "organizationIdentifier",
}

// enrollmentData answers GET /certificates/enrollments/data.
func (s *Server) enrollmentData(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	if l.signed == nil {
		return nil, badRequest(25001, "Brak możliwości pobrania danych do CSR dla wykorzystanego sposobu uwierzytelnienia.", "")
	}
	data := make(map[string]any)
	for part, value := range subjectParts(l.signed.certificate) {
		if field, known := enrollmentParts[part]; known {
			data[field] = value
		}
	}
	return data, nil
}

var certificateName = regexp.MustCompile(`^[a-zA-Z0-9_\- ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]{5,100}$`)

// enroll answers POST /certificates/enrollments.
func (s *Server) enroll(r *http.Request, l *login) (any, *refusal) {
	var request struct {
		Name      string     `json:"certificateName"`
		Type      string     `json:"certificateType"`
		CSR       []byte     `json:"csr"`
		ValidFrom *time.Time `json:"validFrom"`
	}
	if refused := s.readJSON(r, &request); refused != nil {
		return nil, refused
	}
	switch {
	case !certificateName.MatchString(request.Name):
		return nil, invalid("Nieprawidłowa nazwa certyfikatu.")
	case request.Type != typeAuthentication && request.Type != typeOffline:
		return nil, invalid("Nieprawidłowy typ certyfikatu.")
	case l.signed == nil:
		return nil, badRequest(25002, "Brak możliwości złożenia wniosku certyfikacyjnego dla wykorzystanego sposobu uwierzytelnienia.", "")
	}
	csr, refused := readCSR(request.CSR, l)
	if refused != nil {
		return nil, refused
	}
	now := s.now().UTC()
	from := now.Truncate(time.Second)
	if request.ValidFrom != nil && request.ValidFrom.After(now) {
		from = request.ValidFrom.UTC()
	}

	s.mutex.Lock()
	defer s.mutex.Unlock()
	applications, active := s.remaining(l, now)
	switch {
	case applications == 0:
		return nil, badRequest(25006, "Osiągnięto limit możliwych do złożenia wniosków certyfikacyjnych.", "")
	case active == 0:
		return nil, badRequest(25007, "Osiągnięto limit dopuszczalnej liczby posiadanych certyfikatów.", "")
	}
	made := &enrollment{reference: reference(now, "EH"), owner: l.signed.subject, requested: now, pending: 1}
	s.enrollments[made.reference] = made
	if slices.ContainsFunc(s.issued, func(each *issued) bool {
		return each.owner != made.owner && slices.Equal(each.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo)
	}) {
		made.detail = "Klucz publiczny został już certyfikowany przez inny podmiot."
	} else {
		certificate, serial := s.issuer.issue(csr, request.Type, from)
		made.result = &issued{Certificate: certificate, owner: made.owner, name: request.Name, kind: request.Type, serial: serial, requested: now}
		s.issued = append(s.issued, made.result)
	}
	return map[string]any{"referenceNumber": made.reference, "timestamp": now.Format(ticks)}, nil
}

// readCSR reads an application, which must name whom the login was signed by and
// no one else (certyfikaty-KSeF.md).
func readCSR(der []byte, l *login) (*x509.CertificateRequest, *refusal) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, badRequest(25004, "Niepoprawny format CSR lub niepoprawny podpis CSR.", "")
	}
	switch key := csr.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() != 2048 {
			return nil, badRequest(25010, "Nieprawidłowy typ lub długość klucza.", "")
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, badRequest(25010, "Nieprawidłowy typ lub długość klucza.", "")
		}
	default:
		return nil, badRequest(25010, "Nieprawidłowy typ lub długość klucza.", "")
	}
	if err := csr.CheckSignature(); err != nil { // SHA-1, which KSeF allows, too
		return nil, badRequest(25004, "Niepoprawny format CSR lub niepoprawny podpis CSR.", "")
	}
	asked := make(map[string]string)
	for _, each := range csr.Subject.Names {
		text, _ := each.Value.(string)
		asked[each.Type.String()] += text
	}
	owner := subjectParts(l.signed.certificate)
	maps.DeleteFunc(owner, func(part, _ string) bool { _, known := enrollmentParts[part]; return !known })
	if !maps.Equal(asked, owner) {
		return nil, badRequest(25003, "Dane w CSR nie zgadzają się z danymi w użytym wektorze uwierzytelniającym.", "")
	}
	return csr, nil
}

// enrollmentStatus answers GET /certificates/enrollments/{referenceNumber}.
func (s *Server) enrollmentStatus(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	asked := r.PathValue("referenceNumber")
	if len(asked) != 36 {
		return nil, invalid("Numer referencyjny musi mieć 36 znaków.")
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	made := s.enrollments[asked]
	if made == nil || l.signed == nil || made.owner != l.signed.subject {
		return nil, badRequest(25005, "Wniosek certyfikacyjny o podanym numerze referencyjnym nie istnieje.", "")
	}
	answer := map[string]any{"requestDate": made.requested.Format(ticks)}
	switch {
	case made.pending > 0:
		made.pending--
		answer["status"] = map[string]any{"code": 100, "description": "Wniosek przyjęty do realizacji"}
	case made.result == nil:
		answer["status"] = map[string]any{"code": 400, "description": "Wniosek odrzucony", "details": []string{made.detail}}
	default:
		answer["status"] = map[string]any{"code": 200, "description": "Wniosek obsłużony (certyfikat wygenerowany)"}
		answer["certificateSerialNumber"] = made.result.serial
	}
	return answer, nil
}

var hexSerial = regexp.MustCompile(`^[0-9A-F]{16}$`)

// retrieveCertificates answers POST /certificates/retrieve.
func (s *Server) retrieveCertificates(r *http.Request, l *login) (any, *refusal) {
	var request struct {
		Serials []string `json:"certificateSerialNumbers"`
	}
	if refused := s.readJSON(r, &request); refused != nil {
		return nil, refused
	}
	if n := len(request.Serials); n < 1 || n > 10 {
		return nil, invalid("Należy podać od 1 do 10 numerów seryjnych.")
	}
	for _, serial := range request.Serials {
		if !hexSerial.MatchString(serial) {
			return nil, invalid("Nieprawidłowy numer seryjny %s.", serial)
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	rows := []any{}
	for _, each := range s.mine(l) {
		if slices.Contains(request.Serials, each.serial) {
			rows = append(rows, map[string]any{
				"certificate": each.Raw, "certificateName": each.name,
				"certificateSerialNumber": each.serial, "certificateType": each.kind,
			})
		}
	}
	return map[string]any{"certificates": rows}, nil
}

// queryCertificates answers POST /certificates/query.
func (s *Server) queryCertificates(r *http.Request, l *login) (any, *refusal) {
	var filter struct {
		Serial       *string    `json:"certificateSerialNumber"`
		Name         *string    `json:"name"`
		Type         *string    `json:"type"`
		Status       *string    `json:"status"`
		ExpiresAfter *time.Time `json:"expiresAfter"`
	}
	if refused := s.readJSON(r, &filter); refused != nil {
		return nil, refused
	}
	size, refused := number(r, "pageSize", 10, 10, 50)
	if refused != nil {
		return nil, refused
	}
	offset, refused := number(r, "pageOffset", 0, 0, 1_000_000)
	if refused != nil {
		return nil, refused
	}
	now := s.now()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	rows := []any{}
	for _, each := range s.mine(l) {
		status := s.status(each, now)
		if filter.Serial != nil && *filter.Serial != each.serial || filter.Name != nil && !strings.Contains(each.name, *filter.Name) ||
			filter.Type != nil && *filter.Type != each.kind || filter.Status != nil && *filter.Status != status ||
			filter.ExpiresAfter != nil && !s.endOf(each.Certificate).After(*filter.ExpiresAfter) {
			continue
		}
		row := map[string]any{
			"certificateSerialNumber": each.serial, "name": each.name, "type": each.kind, "status": status,
			"commonName":        each.Subject.CommonName,
			"subjectIdentifier": map[string]any{"type": each.owner.Type, "value": each.owner.Value},
			"validFrom":         each.NotBefore.UTC().Format(ticks),
			"validTo":           s.endOf(each.Certificate).UTC().Format(ticks),
			"requestDate":       each.requested.Format(ticks),
		}
		if !each.lastUsed.IsZero() {
			row["lastUseDate"] = each.lastUsed.UTC().Format(ticks)
		}
		rows = append(rows, row)
	}
	from := min(offset*size, len(rows))
	to := min(from+size, len(rows))
	return map[string]any{"certificates": rows[from:to], "hasMore": to < len(rows)}, nil
}

// number reads a parameter of the query.
func number(r *http.Request, name string, otherwise, least, most int) (int, *refusal) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, invalid("Parametr %s musi być liczbą od %d do %d.", name, least, most)
	}
	return n, nil
}

// revokeCertificate answers POST /certificates/{certificateSerialNumber}/revoke.
func (s *Server) revokeCertificate(w http.ResponseWriter, r *http.Request, l *login) *refusal {
	var request struct {
		Reason *string `json:"revocationReason"`
	}
	if r.ContentLength != 0 {
		if refused := s.readJSON(r, &request); refused != nil {
			return refused
		}
	}
	serial := r.PathValue("certificateSerialNumber")
	switch {
	case !hexSerial.MatchString(serial):
		return invalid("Nieprawidłowy numer seryjny %s.", serial)
	case request.Reason != nil && !slices.Contains([]string{"Unspecified", "Superseded", "KeyCompromise"}, *request.Reason):
		return invalid("Nieprawidłowy powód unieważnienia.")
	case l.signed == nil:
		return &refusal{
			status: http.StatusForbidden, reason: "auth-method-not-allowed",
			detail:   "Ta operacja nie jest dostępna dla użytej metody uwierzytelnienia.",
			security: map[string]any{"authenticationMethodCategory": l.method.category},
		}
	}
	s.mutex.Lock()
	mine := s.mine(l)
	i := slices.IndexFunc(mine, func(each *issued) bool { return each.serial == serial })
	var status string
	if i >= 0 {
		status = s.status(mine[i], s.now())
	}
	s.mutex.Unlock()
	switch {
	case i < 0:
		return badRequest(25008, "Certyfikat o podanym numerze seryjnym nie istnieje.", "")
	case status != "Active":
		return badRequest(25009, "Nie można odwołać wskazanego certyfikatu, ponieważ jest już odwołany, zablokowany lub nieważny.", "")
	}
	s.RevokeCertificate(mine[i].Certificate)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
