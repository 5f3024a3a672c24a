package ksef

import (
	"encoding/json"
	"fmt"
	"time"
)

// Context says whose invoices are meant: KSeF's ContextIdentifier
// (open-api, AuthenticationContextIdentifier).
type Context struct {
	Type  string `json:"type"` // ContextNIP and its siblings
	Value string `json:"value"`
}

// The types of a [Context].
const (
	ContextNIP        = "Nip"        // a company
	ContextInternalID = "InternalId" // a unit within a company: NIP, hyphen, five digits
	ContextNIPVATEU   = "NipVatUe"   // a company with its European VAT number
	ContextPeppolID   = "PeppolId"   // a Peppol service provider
)

// SubjectType is the role in which the context appears on an invoice
// (open-api, InvoiceQuerySubjectType).
type SubjectType string

// Every [SubjectType].
const (
	Seller     SubjectType = "Subject1"
	Buyer      SubjectType = "Subject2"
	ThirdParty SubjectType = "Subject3"
	Authorized SubjectType = "SubjectAuthorized"
)

// Timestamp is an instant exactly as KSeF wrote it. KSeF sends 3, 6 or 7
// fractional digits and expects a watermark back unchanged, so the text is the
// value; compare with [Timestamp.Compare], never as strings. "" is no instant.
type Timestamp string

// ParseTimestamp accepts RFC 3339. Fractional digits after the ninth are kept in
// the text but do not count in comparisons.
func ParseTimestamp(s string) (Timestamp, error) {
	if _, err := time.Parse(time.RFC3339Nano, s); err != nil {
		return "", fmt.Errorf("timestamp %q: want RFC 3339, such as 2026-02-01T00:00:00Z", clean(s, 40))
	}
	return Timestamp(s), nil
}

// NewTimestamp writes t in UTC with Z, the only form that KSeF has never read
// in another time zone (api-changelog 2.1.2), cut down to microseconds.
func NewTimestamp(t time.Time) Timestamp {
	return Timestamp(t.UTC().Truncate(time.Microsecond).Format("2006-01-02T15:04:05.000000Z"))
}

// Time is the instant in UTC; the zero time for "" and for text that
// [ParseTimestamp] would refuse.
func (t Timestamp) Time() time.Time {
	parsed, err := time.Parse(time.RFC3339Nano, string(t))
	if err != nil {
		return time.Time{}
	}
	return parsed.UTC()
}

// Compare orders by instant, not by text: -1, 0 or +1.
func (t Timestamp) Compare(other Timestamp) int { return t.Time().Compare(other.Time()) }

// UnmarshalJSON keeps the text of a JSON string and refuses what is not a
// timestamp; null leaves "".
func (t *Timestamp) UnmarshalJSON(data []byte) error {
	var text *string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	if text == nil {
		*t = ""
		return nil
	}
	parsed, err := ParseTimestamp(*text)
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

// DateType says which date of an invoice a [Query] goes by (open-api,
// InvoiceQueryDateType).
type DateType string

// Every [DateType].
const (
	ByPermanentStorage DateType = "PermanentStorage" // when KSeF had stored it for good
	ByInvoicing        DateType = "Invoicing"        // when KSeF took it in
	ByIssue            DateType = "Issue"            // the date of issue that its issuer states, by day
)

// Query selects invoices. Left as it is but for SubjectType, From and To it goes
// by permanent storage date up to the high water mark, the only way that is safe
// to continue from (przyrostowe-pobieranie-faktur.md). Both ends are inclusive.
type Query struct {
	SubjectType SubjectType
	From        Timestamp
	To          Timestamp // "" means until now; at most 99 days after From
	DateType    DateType  // "": ByPermanentStorage
	// BeyondHWM lists also what KSeF stored after the high water mark, where
	// earlier ones may still appear (hwm.md). It concerns ByPermanentStorage only.
	BeyondHWM bool
	Filter    Filter
}

// Filter narrows a [Query]; its zero value narrows nothing. What is given must
// all hold, of lists one element (open-api, InvoiceQueryFilters).
type Filter struct {
	KSeFNumber      string       `json:"ksefNumber,omitempty"`
	InvoiceNumber   string       `json:"invoiceNumber,omitempty"` // exactly as issued
	Amount          *AmountRange `json:"amount,omitempty"`
	SellerNIP       string       `json:"sellerNip,omitempty"`
	Buyer           *BuyerID     `json:"buyerIdentifier,omitempty"`
	Currencies      []string     `json:"currencyCodes,omitempty"`
	InvoicingMode   string       `json:"invoicingMode,omitempty"` // Online or Offline
	IsSelfInvoicing *bool        `json:"isSelfInvoicing,omitempty"`
	FormType        string       `json:"formType,omitempty"` // FA, PEF or FA_RR
	InvoiceTypes    []string     `json:"invoiceTypes,omitempty"`
	HasAttachment   *bool        `json:"hasAttachment,omitempty"`
}

// AmountRange selects by an amount, both ends inclusive; "" leaves one open.
// Amounts are JSON numbers in the invoice's currency, VAT in PLN.
type AmountRange struct {
	Type string      `json:"type"` // Brutto, Netto or Vat (open-api, AmountType)
	From json.Number `json:"from,omitempty"`
	To   json.Number `json:"to,omitempty"`
}

// BuyerID selects by the buyer's identifier; without a Value by its type alone.
type BuyerID struct {
	Type  string `json:"type"` // Nip, VatUe, Other or None (open-api, BuyerIdentifierType)
	Value string `json:"value,omitempty"`
}

// queryFilters is a Query on the wire (open-api, InvoiceQueryFilters).
type queryFilters struct {
	SubjectType SubjectType    `json:"subjectType"`
	DateRange   queryDateRange `json:"dateRange"`
	Filter
}

type queryDateRange struct {
	DateType DateType  `json:"dateType"`
	From     Timestamp `json:"from"`
	To       Timestamp `json:"to,omitempty"`
	Restrict *bool     `json:"restrictToPermanentStorageHwmDate,omitempty"`
}

// MarshalJSON writes the query as KSeF's InvoiceQueryFilters.
func (q Query) MarshalJSON() ([]byte, error) {
	dates := queryDateRange{DateType: q.DateType, From: q.From, To: q.To}
	if q.DateType == "" || q.DateType == ByPermanentStorage {
		restrict := !q.BeyondHWM
		dates.DateType, dates.Restrict = ByPermanentStorage, &restrict
	}
	return json.Marshal(queryFilters{q.SubjectType, dates, q.Filter})
}

// MetadataPage is one page of an answer (open-api, QueryInvoicesMetadataResponse).
type MetadataPage struct {
	HasMore     bool       `json:"hasMore"`
	IsTruncated bool       `json:"isTruncated"` // 10,000 rows were reached: go on from the last date
	HWM         Timestamp  `json:"permanentStorageHwmDate"`
	Invoices    []Metadata `json:"invoices"`
}

// Metadata is what KSeF tells of one invoice (open-api, InvoiceMetadata).
// Fields that this program does not read are only in Raw.
type Metadata struct {
	KSeFNumber    string    `json:"ksefNumber"` // unchecked: pass it to ParseNumber
	InvoiceNumber string    `json:"invoiceNumber"`
	IssueDate     string    `json:"issueDate"` // YYYY-MM-DD
	InvoicingDate Timestamp `json:"invoicingDate"`
	Acquired      Timestamp `json:"acquisitionDate"`
	Stored        Timestamp `json:"permanentStorageDate"`
	Seller        struct {
		NIP  string `json:"nip"`
		Name string `json:"name"`
	} `json:"seller"`
	Buyer struct {
		Identifier struct {
			Type  string `json:"type"` // Nip, VatUe, Other or None
			Value string `json:"value"`
		} `json:"identifier"`
		Name string `json:"name"`
	} `json:"buyer"`
	// Amounts stay the digits that KSeF sent; a float64 could lose a grosz.
	NetAmount     json.Number `json:"netAmount"`
	VATAmount     json.Number `json:"vatAmount"` // in PLN, whatever the currency
	GrossAmount   json.Number `json:"grossAmount"`
	Currency      string      `json:"currency"`
	InvoicingMode string      `json:"invoicingMode"`
	InvoiceType   string      `json:"invoiceType"`
	FormCode      struct {
		SystemCode    string `json:"systemCode"`    // such as "FA (3)"
		SchemaVersion string `json:"schemaVersion"` // such as "1-0E"
		Value         string `json:"value"`
	} `json:"formCode"`
	IsSelfInvoicing bool   `json:"isSelfInvoicing"`
	HasAttachment   bool   `json:"hasAttachment"`
	InvoiceHash     string `json:"invoiceHash"`            // base64 of the SHA-256 of the XML
	CorrectedHash   string `json:"hashOfCorrectedInvoice"` // technical correction of an offline invoice
	// Raw is the whole row as received, for what this program does not read yet.
	Raw json.RawMessage `json:"-"`
}

// UnmarshalJSON fills the fields that are known, ignores the rest as KSeF asks
// of its clients (api-changelog 2.1.2), and keeps all of it in Raw.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	type plain Metadata
	if err := json.Unmarshal(data, (*plain)(m)); err != nil {
		return err
	}
	m.Raw = append(json.RawMessage(nil), data...)
	return nil
}

// Limit is how many requests of one group KSeF allows in each sliding window,
// counted for a context and an IP address together (limity-api.md). Zero means
// that the window is not limited.
type Limit struct {
	PerSecond int `json:"perSecond"`
	PerMinute int `json:"perMinute"`
	PerHour   int `json:"perHour"`
}

// Limits maps a [Group] to its limit. It is an open map: KSeF adds groups
// without notice (api-changelog 2.7.2).
type Limits map[Group]Limit

// Group names the requests that share one limit, as GET /rate-limits does.
type Group string

// The groups that this program draws on.
const (
	GroupMetadata     Group = "invoiceMetadata"
	GroupExport       Group = "invoiceExport"
	GroupExportStatus Group = "invoiceExportStatus"
	GroupDownload     Group = "invoiceDownload"
	GroupOther        Group = "other"
)

// DefaultLimits are production's published limits (limity-api.md, 14.09.2026),
// in force until GET /rate-limits has answered.
func DefaultLimits() Limits {
	return Limits{
		GroupMetadata:     {8, 16, 20},
		GroupExport:       {8, 16, 20},
		GroupExportStatus: {10, 60, 600},
		GroupDownload:     {8, 16, 64},
		GroupOther:        {10, 30, 120},
	}
}
