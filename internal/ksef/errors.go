package ksef

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// What callers decide by; each is inside an [Error].
var (
	// ErrNothingNew (21183): the range begins after the high water mark. Nothing
	// is missing; ask again later. From QueryMetadata.
	ErrNothingNew = errors.New("the range begins after what KSeF guarantees to be complete; ask again later")
	// ErrNotAvailableYet (21165): the invoice exists but cannot be downloaded
	// yet. From Invoice.
	ErrNotAvailableYet = errors.New("the invoice cannot be downloaded yet; ask again later")
	// ErrNotFound (21164): KSeF knows no such invoice, or this context may not
	// see it. From Invoice.
	ErrNotFound = errors.New("KSeF has no such invoice for this context")
	// ErrHashMismatch: the bytes served do not have the hash that KSeF sent with
	// them. From Invoice, which returns the bytes too, as evidence; and from
	// DownloadPart. If a second download of the part is no better, the package is
	// to be given up for a new export of the same range.
	ErrHashMismatch = errors.New("the bytes do not match the hash that KSeF sent with them")
	// ErrRoleNotExportable (21181): KSeF makes no packages for this subject type in
	// this type of context. From StartExport.
	ErrRoleNotExportable = errors.New("KSeF does not export invoices in this role for this context")
	// ErrTooManyExports (21182): as many exports are running as KSeF allows, the
	// ones whose reference was lost included. From StartExport.
	ErrTooManyExports = errors.New("too many exports are running; ask again later")
	// ErrExportExpired (410, 21175): KSeF no longer has the export, which it keeps
	// for 7 days. Start a new one of the same range. From ExportStatus.
	ErrExportExpired = errors.New("KSeF no longer has this export; start a new one")
	// ErrPartExpired: the storage no longer serves this URL, which lives about an
	// hour. Ask the export's status for a fresh one. From DownloadPart.
	ErrPartExpired = errors.New("the address of the part is no longer valid; ask for the status again")
	// ErrForbidden (403): the session is valid but may not do this; Reason and
	// Details say why. From every method of Client.
	ErrForbidden = errors.New("KSeF does not allow this")
)

// KSeF's error codes that this package acts upon (open-api).
const (
	codeInvalidChallenge   = 21111 // POST /auth/ksef-token and /auth/xades-signature
	codeInvoiceNotFound    = 21164 // GET /invoices/ksef/{ksefNumber}
	codeInvoiceNotYet      = 21165 // the same
	codeUnknownExport      = 21175 // GET /invoices/exports/{referenceNumber}
	codeRoleNotExportable  = 21181 // POST /invoices/exports
	codeTooManyExports     = 21182 // the same
	codeRangeBeyondHWM     = 21183 // POST /invoices/query/metadata
	codeUnknownPublicKey   = 21470 // POST /auth/ksef-token and /invoices/exports
	reasonSecurityBlocked  = "security-service-blocked"
	reasonMethodNotAllowed = "auth-method-not-allowed"
)

// Error is a request that did not succeed. It names the operation but not the
// invoice, whose KSeF number contains a NIP; the caller knows which it was.
type Error struct {
	Op          string // such as "download invoice"
	HTTPStatus  int    // 0: no answer came
	Code        int    // KSeF's code, the first if there are several; 0: none
	Reason      string // reasonCode of a 403, such as "missing-permissions"
	Description string // KSeF's text, in Polish, cleaned and without NIPs
	Details     []string
	Reference   string        // traceId, referenceNumber or incidentId: what KSeF's support asks for
	RetryAfter  time.Duration // what KSeF asked to wait; 0: it did not ask
	Err         error         // a sentinel of this package, a *BudgetError, or what went wrong here; may be nil
}

// Error is one line in English, with KSeF's own words after it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.HTTPStatus != 0 {
		fmt.Fprintf(&b, ": HTTP %d", e.HTTPStatus)
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, ", KSeF code %d", e.Code)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, ", %s", e.Reason)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if errors.Is(e.Err, ErrForbidden) {
		b.WriteString("; " + adviceOn(e.Reason))
	}
	if said := append(slices.DeleteFunc([]string{e.Description}, isEmpty), e.Details...); len(said) > 0 {
		fmt.Fprintf(&b, " (KSeF says: %s)", strings.Join(said, "; "))
	}
	if e.Reference != "" {
		fmt.Fprintf(&b, " [reference %s]", e.Reference)
	}
	return b.String()
}

// adviceOn says what to do about the reason of a 403 (open-api,
// ForbiddenProblemDetails).
func adviceOn(reason string) string {
	switch reason {
	case "missing-permissions":
		return "have the permission granted to the owner of the credentials, in KSeF"
	case "ip-not-allowed":
		return "it allows it from other network addresses only; ask through one of these, or log in anew"
	case "context-type-not-allowed":
		return "it is not for contexts of this type"
	case reasonMethodNotAllowed:
		return "it is not for those who log in in this way; see auth.method"
	}
	return "check the permissions of the credentials"
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Retryable reports whether the same request may succeed later without anyone
// changing anything.
func (e *Error) Retryable() bool {
	switch {
	case e.Code == codeInvoiceNotYet, e.Code == codeRangeBeyondHWM, e.Code == codeTooManyExports:
		return true
	case errors.Is(e.Err, ErrPartExpired): // with a fresh URL
		return true
	case e.HTTPStatus < 400: // no answer, or one that was not what KSeF sends
		return true
	case e.HTTPStatus == http.StatusForbidden: // by KSeF, or by the firewall before it
		return !errors.Is(e.Err, ErrForbidden)
	}
	return e.HTTPStatus >= 500 || e.HTTPStatus == http.StatusTooManyRequests ||
		e.HTTPStatus == http.StatusRequestTimeout || e.HTTPStatus == http.StatusUnauthorized
}

// LoginError says why there is no session. A Terminal one needs a person: the
// client sends no further login for a day, or until its certificate or token has
// changed.
type LoginError struct {
	Status    int // of the login (open-api, AuthenticationOperationStatusResponse); 0: KSeF gave none
	Terminal  bool
	Message   string // what happened and what to do
	Details   []string
	Reference string // the login's reference number, for KSeF's support; may be ""
	Err       error  // what lies behind it; may be nil
}

// Error is one line in English, with KSeF's own words after it.
func (e *LoginError) Error() string {
	var b strings.Builder
	b.WriteString("log in to KSeF")
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	fmt.Fprintf(&b, ": %s", e.Message)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if len(e.Details) > 0 {
		fmt.Fprintf(&b, " (KSeF says: %s)", strings.Join(e.Details, "; "))
	}
	if e.Reference != "" {
		fmt.Fprintf(&b, " [reference %s]", e.Reference)
	}
	return b.String()
}

// Unwrap gives Err.
func (e *LoginError) Unwrap() error { return e.Err }

// newLoginError says in plain English what the status of a login means (open-api,
// AuthenticationOperationStatusResponse). KSeF's texts are Polish and change
// between versions, so only the code counts. now is KSeF's time.
func newLoginError(status int, details []string, reference string, now time.Time) *LoginError {
	var texts Error
	texts.addDetails(details...)
	e := &LoginError{Status: status, Details: texts.Details, Reference: clean(reference, 100)}
	switch status {
	case 100:
		e.Message = "KSeF has not finished checking the login in time; try again later"
	case 415:
		e.Message = "the owner of the credentials has no permissions in this context; check whose context is configured, and have InvoiceRead granted in KSeF"
	case 425:
		e.Message = "the login was revoked in KSeF; find out by whom and why, then configure new credentials"
	case 450:
		e.Message = "KSeF does not accept the token: it is wrong, inactive, revoked or for another context; create a new token in KSeF and configure it"
		if tokensEnded(now) {
			e.Message = "KSeF does not accept the token: by the law in force tokens ended on 31.12.2026; configure a KSeF certificate"
		}
	case 460:
		e.Message = "KSeF does not accept the certificate: it has expired or is not valid yet, was suspended or revoked, or is not one for logging in; get a new one of type Authentication"
	case 470:
		e.Message = "KSeF has the owner of these credentials on record as deceased; use the credentials of another person"
	case 480:
		e.Message = "KSeF blocked the login because it suspects a security incident; contact the Ministry of Finance through its form first"
	case 500:
		e.Message = "KSeF reports an unknown error of its own; try again later"
	case 550:
		e.Message = "KSeF cancelled the login for reasons of its own; try again later"
	default:
		e.Message = "KSeF answered with a status that this program does not know"
	}
	// An unknown refusal must not become a login loop; an unknown fault may pass.
	e.Terminal = status >= 400 && status < 500
	return e
}

// tokensEnded reports whether KSeF tokens have ended by the law in force: § 13(1)(1)
// of the regulation of 12.12.2025, Dz.U. 2025 poz. 1815.
func tokensEnded(now time.Time) bool {
	return !now.Before(time.Date(2027, 1, 1, 0, 0, 0, 0, time.FixedZone("CET", 60*60)))
}

// newStartError says what it means that KSeF did not even begin a login (open-api,
// POST /auth/xades-signature and /auth/ksef-token). Every such refusal needs a
// person.
func newStartError(refused *Error) *LoginError {
	e := &LoginError{Terminal: true, Err: refused}
	switch refused.Code {
	case 21115:
		e.Message = "KSeF does not accept the certificate: DEMO and PROD take qualified certificates and those that KSeF itself issued there, only TEST takes others; check it and the environment"
	case 21117, 21406:
		e.Message = "KSeF cannot tell from the certificate who logs in to this context; its subject must hold a NIP or PESEL, or permissions be granted for its fingerprint"
	case 9101, 9102, 9103, 9105, 21001, 21217, 21401:
		e.Message = "KSeF found the signed login faulty; check that certificate and key are those that KSeF knows, and look for a newer version of this program"
	default:
		e.Message = "KSeF refused the login request; check the configured context and credentials"
	}
	return e
}

// asLoginError turns the refusals of a login that only a person can mend into a
// LoginError (open-api, ForbiddenProblemDetails), and leaves other errors alone.
// A 403 for the IP address is left too: a laptop may change it.
func asLoginError(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, ErrForbidden) {
		return err
	}
	var message string
	switch e.Reason {
	case reasonMethodNotAllowed:
		message = "KSeF does not accept this way to log in; by law tokens end on 31.12.2026, and a KSeF certificate is needed instead"
	case "missing-permissions", "context-type-not-allowed":
		message = "the credentials may not log in to this context; check whose context is configured, and the permissions of their owner"
	default:
		return err
	}
	return &LoginError{Terminal: true, Message: message, Err: err}
}

// errorBody has the fields of all the forms in which KSeF reports errors: Problem
// Details and the older ExceptionResponse and TooManyRequestsResponse (open-api).
type errorBody struct {
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	TraceID    string `json:"traceId"`
	ReasonCode string `json:"reasonCode"`
	Errors     []struct {
		Code        json.Number `json:"code"`
		Description string      `json:"description"`
		Details     []string    `json:"details"`
	} `json:"errors"`
	Security struct {
		IncidentID  string   `json:"incidentId"`
		RequiredAny []string `json:"requiredAnyOfPermissions"`
	} `json:"security"`
	Exception struct {
		List []struct {
			Code        json.Number `json:"exceptionCode"`
			Description string      `json:"exceptionDescription"`
			Details     []string    `json:"details"`
		} `json:"exceptionDetailList"`
		Reference string `json:"referenceNumber"`
	} `json:"exception"`
	Status json.RawMessage `json:"status"` // a number, or the object of TooManyRequestsResponse
}

// parseError makes an Error of an answer other than 2xx. It takes what it
// recognises and never fails: gateways and firewalls answer with HTML, or with
// nothing at all.
func parseError(op string, status int, contentType string, body []byte) *Error {
	e := &Error{Op: op, HTTPStatus: status}
	switch mediaType(contentType) {
	case "application/json", "application/problem+json":
		e.fill(body)
	case "text/html":
		// The title says who answered ("502 Bad Gateway"); the page says no more.
		if title := htmlTitle.FindSubmatch(body); title != nil {
			e.Description = clean(html.UnescapeString(string(title[1])), 100)
		}
	}
	switch {
	case e.Code == codeRangeBeyondHWM:
		e.Err = ErrNothingNew
	case e.Code == codeRoleNotExportable:
		e.Err = ErrRoleNotExportable
	case e.Code == codeTooManyExports:
		e.Err = ErrTooManyExports
	case e.Code == codeInvoiceNotYet:
		e.Err = ErrNotAvailableYet
	case e.Code == codeInvoiceNotFound:
		e.Err = ErrNotFound
	case status == http.StatusForbidden && e.Reason != reasonSecurityBlocked && (e.Reason != "" || e.Code != 0):
		e.Err = ErrForbidden
	}
	return e
}

var htmlTitle = regexp.MustCompile(`(?is)<title[^>]*>([^<]*)`)

// fill reads a JSON error body, of which any part may be missing or misshapen.
func (e *Error) fill(body []byte) {
	var b errorBody
	// A field of the wrong type leaves the others filled; text that is not JSON
	// leaves all of them empty. Both are still an error of this status.
	_ = json.Unmarshal(body, &b)

	add := func(code json.Number, description string, details []string) {
		if n, err := strconv.Atoi(code.String()); err == nil && e.Code == 0 {
			e.Code, e.Description = n, clean(description, 300)
		} else {
			e.addDetails(description)
		}
		e.addDetails(details...)
	}
	for _, one := range b.Errors {
		add(one.Code, one.Description, one.Details)
	}
	for _, one := range b.Exception.List {
		add(one.Code, one.Description, one.Details)
	}
	var tooMany struct {
		Description string   `json:"description"`
		Details     []string `json:"details"`
	}
	if json.Unmarshal(b.Status, &tooMany) == nil {
		e.addDetails(tooMany.Details...)
	}
	if e.Description == "" {
		for _, text := range []string{b.Detail, tooMany.Description, b.Title} {
			if e.Description == "" {
				e.Description = clean(text, 300)
			}
		}
	}
	e.Reason = clean(b.ReasonCode, 50)
	if len(b.Security.RequiredAny) > 0 {
		e.addDetails("needs one of " + strings.Join(b.Security.RequiredAny, ", "))
	}
	for _, reference := range []string{b.Security.IncidentID, b.TraceID, b.Exception.Reference} {
		if e.Reference == "" {
			e.Reference = clean(reference, 100)
		}
	}
}

// addDetails keeps a few texts: an answer of 64 KB must not become a log line.
func (e *Error) addDetails(details ...string) {
	for _, detail := range details {
		if detail = clean(detail, 300); detail != "" && len(e.Details) < 10 {
			e.Details = append(e.Details, detail)
		}
	}
}

var (
	nipDigits   = regexp.MustCompile(`\b[0-9]{10}\b`)
	peselDigits = regexp.MustCompile(`\b[0-9]{11}\b`)
	// A session's token is a JWT: an object in base64, which begins with {", and more
	// of that after a dot.
	sessionToken = regexp.MustCompile(`eyJ[\w-]*\.[\w.-]*`)
)

// clean makes foreign text fit for a log line: no control or invisible
// characters, no NIPs and PESELs (which are for debug logs only), no tokens (a gateway may
// repeat the request in its error), at most limit bytes.
func clean(s string, limit int) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, s)
	s = sessionToken.ReplaceAllString(s, redacted)
	s = peselDigits.ReplaceAllString(s, "[PESEL]")
	s = strings.TrimSpace(nipDigits.ReplaceAllString(s, "[NIP]"))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") // a character cut in two goes as a whole
	}
	return s
}

func isEmpty(s string) bool { return s == "" }

// mediaType is the type of a Content-Type header without its parameters, in
// lower case; "" when there is none or it cannot be read.
func mediaType(contentType string) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return mediaType
}

// parseRetryAfter reads a Retry-After header: seconds or an HTTP date after now
// (RFC 9110, 10.2.3). It reports false for anything else, a date that has passed
// included. KSeF sends seconds (limity-api.md); a proxy might not.
func parseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	const longest = 365 * 24 * time.Hour // beyond it a Duration could overflow
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(longest/time.Second))) * time.Second, seconds >= 0
	}
	at, err := http.ParseTime(value)
	if err != nil || !at.After(now) {
		return 0, false
	}
	return min(at.Sub(now), longest), true
}
