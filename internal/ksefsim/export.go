package ksefsim

import (
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"ksefmirror/internal/ksef"
)

// What open-api says of exports.
const (
	maxExports = 10                 // in progress at the same time in one context
	exportLife = 7 * 24 * time.Hour // of a status, and of the package
)

// ExportOutcome says how exports go that begin from now on. The zero value is
// the normal course: done at the first poll, with what was found at the POST.
//
// The functions change a package on its way to the client; nil changes nothing.
// They are called without locks, once for each package, and again should it be
// asked for after 256 MB of other packages.
type ExportOutcome struct {
	Times     int           // how many exports go so before the normal course; 0: all
	Takes     time.Duration // how long after the POST polls answer 100, in progress
	Pending   int           // how many polls after that still answer 100
	Status    int           // 0: by the request. Else KSeF's status: 100 for ever, 210, 410, 415, 420, 500 or 550
	EmptyPart bool          // a package without invoices has one part, with _metadata.json alone; else none

	Package func(*Package)       // before the package is archived
	Archive func([]byte) []byte  // the archive, before it is split and hashed
	Part    func([]byte) []byte  // an encrypted part, before it is hashed
	Answer  func(map[string]any) // the whole answer that tells status 200, each time
}

// export is an export, from the POST until it is forgotten.
type export struct {
	reference    string
	context      ksef.Context
	outcome      ExportOutcome
	posted       time.Time
	completed    time.Time  // when it ended, or will at the earliest
	status       int        // 0: not known to have ended
	key          *publicKey // that the client used
	secret, iv   []byte     // secret is nil where it could not be decrypted
	compression  string     // Zip or TarGz
	onlyMetadata bool
	dateType     string
	beyond       bool      // the range begins past the high water mark
	rows         []*stored // at most as many as a package may have
	capped       bool      // rows reaches that number
	hwm          *string

	packing sync.Mutex // held while the package is made
	packed  *packed    // nil: not made, or dropped. Guarded by Server.mutex
}

// SetExportOutcome says how exports go from now on; the zero value is normal.
// Those already begun are not changed.
func (s *Server) SetExportOutcome(outcome ExportOutcome) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.exportOutcome = outcome
}

// exportable reports whether invoices of a role can be exported in a context of
// a type. Which pairs KSeF refuses is not published; refused here are those that
// no invoice can have: only Podmiot3 can be a unit within a company, and only
// the seller and the buyer a company with its European number
// (schemat_FA(3)_v1-0E.xsd), and a Peppol provider is no party.
func exportable(context ksef.Context, subject ksef.SubjectType) bool {
	switch context.Type {
	case ksef.ContextNIP:
		return true
	case ksef.ContextInternalID:
		return subject == ksef.ThirdParty
	case ksef.ContextNIPVATEU:
		return subject == ksef.Seller || subject == ksef.Buyer
	default:
		return false
	}
}

// beginExport answers POST /invoices/exports. What the package will hold is
// decided here, as if the invoices were collected at once.
func (s *Server) beginExport(r *http.Request, l *login) (any, *refusal) {
	var request struct {
		Encryption *struct {
			Key   []byte  `json:"encryptedSymmetricKey"`
			IV    []byte  `json:"initializationVector"`
			KeyID *string `json:"publicKeyId"`
		} `json:"encryption"`
		OnlyMetadata    bool     `json:"onlyMetadata"`
		Filters         *filters `json:"filters"`
		CompressionType *string  `json:"compressionType"`
	}
	if refused := s.readJSON(r, &request); refused != nil {
		return nil, refused
	}
	sent := request.Encryption
	switch {
	case sent == nil:
		return nil, invalid("Pole encryption jest wymagane.")
	case len(sent.Key) == 0:
		return nil, invalid("Pole encryptedSymmetricKey jest wymagane.")
	case len(sent.IV) != aes.BlockSize:
		return nil, invalid("Pole initializationVector musi mieć długość 16 bajtów.")
	case sent.KeyID != nil && len(*sent.KeyID) != 44:
		return nil, invalid("Pole publicKeyId musi mieć 44 znaki.")
	case request.Filters == nil:
		return nil, invalid("Pole filters jest wymagane.")
	}
	compression := "Zip"
	if request.CompressionType != nil {
		compression = *request.CompressionType
	}
	if compression != "Zip" && compression != "TarGz" {
		return nil, invalid("Nieprawidłowa wartość compressionType: %q.", compression)
	}
	from, to, refused := request.Filters.check()
	if refused != nil {
		return nil, refused
	}
	if subject := request.Filters.SubjectType; !exportable(l.context, subject) {
		return nil, badRequest(21181, "Nieprawidłowe żądanie eksportu faktur.",
			fmt.Sprintf("Nie można wyeksportować paczki faktur dla wybranego podmiotu (%s) i zalogowanego identyfikatora kontekstu (%s).", subject, l.context.Type))
	}
	s.mutex.Lock()
	key, refused := s.keyFor(usageSymmetric, sent.KeyID)
	s.mutex.Unlock()
	if refused != nil {
		return nil, refused
	}
	// A key that cannot be decrypted is told by the status only, as 415.
	secret, err := rsa.DecryptOAEP(sha256.New(), nil, key.private, sent.Key, nil)
	if err != nil || len(secret) != 32 || key.usage != usageSymmetric {
		s.violation(r, "encryptedSymmetricKey is not 32 bytes under a key for SymmetricKeyEncryption")
		secret = nil
	}
	now := s.now().UTC()
	e := &export{
		reference:    reference(now, "EH"),
		context:      l.context,
		posted:       now,
		key:          key,
		secret:       secret,
		iv:           sent.IV,
		compression:  compression,
		onlyMetadata: request.OnlyMetadata,
		dateType:     request.Filters.DateRange.DateType,
	}
	if refused := s.register(e, request.Filters, from, to); refused != nil {
		return nil, refused
	}
	return map[string]any{"referenceNumber": e.reference}, nil
}

// register searches what e is to hold and makes e known.
func (s *Server) register(e *export, f *filters, from, to time.Time) *refusal {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	running := 0
	for _, other := range s.exports {
		if other.context == e.context && other.running(e.posted) {
			running++
		}
	}
	if running >= maxExports {
		return badRequest(21182, "Osiągnięto limit trwających eksportów.",
			fmt.Sprintf("Dla uwierzytelnionego podmiotu w bieżącym kontekście osiągnięto maksymalny limit %d równoczesnych eksportów faktur. Spróbuj ponownie później.", maxExports))
	}
	seen := querySeen{at: e.posted, hwm: s.hwm(e.posted)}
	result, refused := s.search(e.context, f, from, to, seen, e.posted, e.reference)
	switch {
	case refused != nil && refused.code == 21183:
		e.beyond = true // accepted all the same: the status says so
	case refused != nil:
		return refused
	}
	e.rows, e.hwm = result.rows[:min(len(result.rows), s.packageCap)], result.hwm
	e.capped = len(e.rows) == s.packageCap
	e.outcome = s.exportOutcome
	if s.exportOutcome.Times > 0 {
		if s.exportOutcome.Times--; s.exportOutcome.Times == 0 {
			s.exportOutcome = ExportOutcome{}
		}
	}
	e.completed = e.posted.Add(e.outcome.Takes)
	s.exports[e.reference] = e
	return nil
}

// running reports whether e counts against the limit of exports in progress.
// One that nobody polls does, until as many polls as said were made or its
// status is gone. The mutex is held.
func (e *export) running(now time.Time) bool {
	return e.status == 0 && !now.After(e.completed.Add(exportLife)) &&
		(now.Before(e.completed) || e.outcome.Pending > 0 || e.outcome.Status == 100)
}

// poll is the status to tell now. The mutex is held.
func (e *export) poll(now time.Time, keys []*publicKey) int {
	switch {
	case e.status != 0:
	case now.Before(e.completed) || e.outcome.Status == 100:
		return 100
	case e.outcome.Pending > 0:
		e.outcome.Pending--
		e.completed = now
		return 100
	case e.outcome.Status != 0:
		e.status = e.outcome.Status
	case e.beyond:
		e.status = 420
	case e.secret == nil || !slices.Contains(keys, e.key):
		e.status = 415
	default:
		e.status = 200
	}
	return e.status
}

// exportStatus answers GET /invoices/exports/{referenceNumber}.
func (s *Server) exportStatus(w http.ResponseWriter, r *http.Request, l *login) *refusal {
	s.noBody(r)
	asked := r.PathValue("referenceNumber")
	if len(asked) != 36 {
		return invalid("Numer referencyjny musi mieć 36 znaków.")
	}
	now := s.now().UTC()
	s.mutex.Lock()
	e := s.exports[asked]
	if e == nil || e.context != l.context {
		s.mutex.Unlock()
		return badRequest(21175, "Wynik zapytania o podanym identyfikatorze nie istnieje.", "")
	}
	expires := e.completed.Add(exportLife)
	if now.After(expires) {
		s.mutex.Unlock()
		return &refusal{status: http.StatusGone, detail: "Operacja wygasła i nie jest już dostępna."}
	}
	status, completed := e.poll(now, s.keys), e.completed
	s.mutex.Unlock()

	info := map[string]any{"code": status, "description": exportDescription(status)}
	switch status {
	case 420:
		info["details"] = []string{beyondMarkDetail}
	case 550:
		info["details"] = []string{"Przetwarzanie zostało przerwane z przyczyn wewnętrznych systemu. Spróbuj ponownie"}
	}
	answer := map[string]any{"status": info}
	if status != 100 {
		answer["completedDate"] = completed.Format(ticks)
	}
	if status == 200 {
		answer["packageExpirationDate"] = expires.Format(ticks)
		answer["package"] = s.describe(r, e)
		if e.outcome.Answer != nil {
			w.Header().Set(FaultHeader, "export outcome")
			e.outcome.Answer(answer)
		}
	}
	writeJSON(w, http.StatusOK, "application/json; charset=utf-8", answer)
	return nil
}

// exportDescription is the text of open-api, InvoiceExportStatusResponse.
func exportDescription(status int) string {
	switch status {
	case 100:
		return "Eksport faktur w toku"
	case 200:
		return "Eksport faktur zakończony sukcesem"
	case 210, 410: // 410 is not in the specification, and has been seen
		return "Eksport faktur wygasł i nie jest już dostępny do pobrania"
	case 415:
		return "Błąd odszyfrowania dostarczonego klucza"
	case 420:
		return "Zakres filtrowania wykracza poza dostępny zakres danych"
	case 550:
		return "Operacja została anulowana przez system"
	default:
		return fmt.Sprintf("Nieznany błąd (%d)", status)
	}
}

// describe is the package of e as a status shows it, with links made now.
func (s *Server) describe(r *http.Request, e *export) map[string]any {
	p := s.pack(e)
	parts, size := []any{}, 0
	for i, each := range p.parts {
		link, expires := s.link(r, e.reference, each.name)
		size += each.size
		parts = append(parts, map[string]any{
			"ordinalNumber":     i + 1,
			"partName":          each.name,
			"method":            http.MethodGet,
			"url":               link,
			"partSize":          each.size,
			"partHash":          each.hash,
			"encryptedPartSize": len(each.sealed),
			"encryptedPartHash": each.sealedHash,
			"expirationDate":    expires.Format(ticks),
		})
	}
	shown := map[string]any{
		"invoiceCount":            p.count,
		"size":                    size,
		"parts":                   parts,
		"compressionType":         e.compression,
		"isTruncated":             p.last != nil,
		"permanentStorageHwmDate": e.hwm,
	}
	if p.last != nil { // each date only with filters by it
		switch e.dateType {
		case "Issue":
			shown["lastIssueDate"] = p.last.row.IssueDate
		case "Invoicing":
			shown["lastInvoicingDate"] = p.last.row.InvoicingDate
		default:
			shown["lastPermanentStorageDate"] = p.last.row.Stored
		}
	}
	return shown
}
