package ksefsim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"ksefmirror/internal/ksef"
)

// maxRange is the longest dateRange (api-changelog 2.7.1).
const maxRange = 100 * 24 * time.Hour

// filters is the body of a query (open-api, InvoiceQueryFilters).
type filters struct {
	SubjectType ksef.SubjectType `json:"subjectType"`
	DateRange   *struct {
		DateType string  `json:"dateType"`
		From     string  `json:"from"`
		To       *string `json:"to"`
		Restrict *bool   `json:"restrictToPermanentStorageHwmDate"`
	} `json:"dateRange"`
	KSeFNumber    *string `json:"ksefNumber"`
	InvoiceNumber *string `json:"invoiceNumber"`
	Amount        *struct {
		Type string       `json:"type"`
		From *json.Number `json:"from"`
		To   *json.Number `json:"to"`
	} `json:"amount"`
	SellerNIP       *string `json:"sellerNip"`
	BuyerIdentifier *struct {
		Type  string  `json:"type"`
		Value *string `json:"value"`
	} `json:"buyerIdentifier"`
	CurrencyCodes   []string `json:"currencyCodes"`
	InvoicingMode   *string  `json:"invoicingMode"`
	IsSelfInvoicing *bool    `json:"isSelfInvoicing"`
	FormType        *string  `json:"formType"`
	InvoiceTypes    []string `json:"invoiceTypes"`
	HasAttachment   *bool    `json:"hasAttachment"`
}

// page says which rows of a result are asked for.
type page struct {
	offset, size int // in pages, in rows
	descending   bool
}

// querySeen is what stays the same over the pages of one query: open-api wants
// the high water mark constant over them, and "until now" must mean one instant.
type querySeen struct {
	at  time.Time
	hwm time.Time
}

// queryMetadata answers POST /invoices/query/metadata.
func (s *Server) queryMetadata(r *http.Request, l *login) (any, *refusal) {
	wanted, refused := s.page(r)
	if refused != nil {
		return nil, refused
	}
	var f filters
	if refused := s.readJSON(r, &f); refused != nil {
		return nil, refused
	}
	from, to, refused := f.check()
	if refused != nil {
		return nil, refused
	}

	s.mutex.Lock()
	defer s.mutex.Unlock()
	key, err := json.Marshal(struct {
		ksef.Context
		filters
	}{l.context, f})
	if err != nil {
		return nil, invalid("%v", err)
	}
	now := s.now().UTC()
	seen, ok := s.queries[string(key)]
	if !ok || wanted.offset == 0 {
		for old, each := range s.queries {
			if now.Sub(each.at) > time.Hour {
				delete(s.queries, old)
			}
		}
		seen = querySeen{at: now, hwm: s.hwm(now)}
		s.queries[string(key)] = seen
	}
	found, refused := s.search(l.context, &f, from, to, seen, now, string(key))
	if refused != nil {
		return nil, refused
	}
	rows := found.rows
	if wanted.descending {
		slices.Reverse(rows)
	}

	// A page that reaches the cap is truncated, even where nothing follows it,
	// as was seen with exactly 10,000 rows.
	start := min(wanted.offset*wanted.size, len(rows))
	end := min(start+wanted.size, len(rows), s.pageCap)
	shown := make([]row, 0, wanted.size)
	for _, one := range rows[min(start, end):end] {
		shown = append(shown, one.row)
	}
	return map[string]any{
		"hasMore":                 end < len(rows),
		"isTruncated":             end >= s.pageCap,
		"permanentStorageHwmDate": found.hwm,
		"invoices":                shown,
	}, nil
}

// beyondMark is what KSeF says, in the answer to a query and in the status of
// an export, where everything asked for lies past the high water mark.
const (
	beyondMark       = "Zakres filtrowania wykracza poza dostępny zakres danych."
	beyondMarkDetail = "Parametr dateRange.from jest późniejszy niż PermanentStorageHwmDate przy włączonym restrictToPermanentStorageHwmDate."
)

// found is what a search has found.
type found struct {
	rows []*stored // ascending by the date of the filters
	hwm  *string   // nil where the filters are not by permanent storage
}

// search applies filters that have been checked, as they were at seen, to what
// is visible at now. A zero to means seen.at. Rows of one instant have no order
// that a client could rely on, only one that stays while tie is the same. The
// mutex is held.
func (s *Server) search(context ksef.Context, f *filters, from, to time.Time, seen querySeen, now time.Time, tie string) (found, *refusal) {
	if to.IsZero() {
		to = seen.at
		if refused := checkRange(from, to); refused != nil {
			return found{}, refused
		}
	}
	var result found
	date := func(one *stored) time.Time { return one.StoredAt }
	switch f.DateRange.DateType {
	case "Invoicing":
		date = func(one *stored) time.Time { return one.row.InvoicingDate.Time() }
	case "Issue": // by day only, that of the instants in Poland
		from, to = polishDay(from), polishDay(to)
		date = func(one *stored) time.Time {
			day, _ := time.Parse(time.DateOnly, one.row.IssueDate)
			return day
		}
	default:
		if f.DateRange.Restrict != nil && *f.DateRange.Restrict {
			if from.After(seen.hwm) {
				return found{}, badRequest(21183, beyondMark, beyondMarkDetail)
			}
			to = earlier(to, seen.hwm)
		}
		mark := earlier(to, seen.hwm)
		if s.fixedHWM.IsZero() && mark.After(s.promised) {
			s.promised = mark
		}
		text := mark.UTC().Truncate(time.Microsecond).Format(microseconds)
		result.hwm = &text
	}

	type place struct {
		at  time.Time
		tie uint64
		one *stored
	}
	var places []place
	for _, one := range s.lists[list{context, f.SubjectType}] {
		at := date(one)
		if s.unlisted[unlisted{one.Number, f.SubjectType}] {
			continue
		}
		if !one.VisibleAt.After(now) && !at.Before(from) && !at.After(to) && f.match(&one.row.Metadata) {
			sum := fnv.New64a()
			_, _ = sum.Write([]byte(tie))
			_, _ = sum.Write([]byte(one.Number))
			places = append(places, place{at, sum.Sum64(), one})
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.tie, b.tie))
	})
	result.rows = make([]*stored, len(places))
	for i, each := range places {
		result.rows[i] = each.one
	}
	return result, nil
}

// polishDay is the day in Poland at an instant, as midnight in UTC.
func polishDay(at time.Time) time.Time {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil { // a machine without time zones: winter time is as near as it gets
		warsaw = time.FixedZone("CET", 3600)
	}
	year, month, day := at.In(warsaw).Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// page reads the query string.
func (s *Server) page(r *http.Request) (page, *refusal) {
	p := page{size: 10}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return p, invalid("Nieprawidłowe parametry zapytania.")
	}
	for name, given := range values {
		number, err := strconv.ParseInt(given[0], 10, 32)
		switch name {
		case "pageOffset":
			if err != nil || number < 0 {
				return p, invalid("Parametr pageOffset musi być liczbą nie mniejszą niż 0.")
			}
			p.offset = int(number)
		case "pageSize":
			if err != nil || number < 10 || number > 250 {
				return p, invalid("Parametr pageSize musi mieć wartość od 10 do 250.")
			}
			p.size = int(number)
		case "sortOrder":
			if given[0] != "Asc" && given[0] != "Desc" {
				return p, invalid("Parametr sortOrder musi mieć wartość Asc lub Desc.")
			}
			p.descending = given[0] == "Desc"
		default:
			s.violation(r, "no such parameter: "+name)
		}
	}
	if p.offset >= (s.pageCap+p.size-1)/p.size {
		return p, invalid("Nie można pobrać faktur począwszy od numeru %d lub wyższego.", s.pageCap)
	}
	return p, nil
}

// check validates the filters and returns the range; to is zero where it is not
// given.
func (f *filters) check() (from, to time.Time, refused *refusal) {
	if !slices.Contains([]ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized}, f.SubjectType) {
		return from, to, invalid("Nieprawidłowa wartość subjectType: %q.", f.SubjectType)
	}
	if f.DateRange == nil {
		return from, to, invalid("Pole dateRange jest wymagane.")
	}
	if !slices.Contains([]string{"Issue", "Invoicing", "PermanentStorage"}, f.DateRange.DateType) {
		return from, to, invalid("Nieprawidłowa wartość dateType: %q.", f.DateRange.DateType)
	}
	from, refused = instant("from", f.DateRange.From)
	if refused == nil && f.DateRange.To != nil {
		if to, refused = instant("to", *f.DateRange.To); refused == nil {
			refused = checkRange(from, to)
		}
	}
	if refused != nil {
		return from, to, refused
	}
	for _, each := range []struct {
		name    string
		value   *string
		allowed []string
	}{
		{"invoicingMode", f.InvoicingMode, []string{"Online", "Offline"}},
		{"formType", f.FormType, []string{"FA", "PEF", "FA_RR"}},
	} {
		if each.value != nil && !slices.Contains(each.allowed, *each.value) {
			return from, to, invalid("Nieprawidłowa wartość %s: %q.", each.name, *each.value)
		}
	}
	if f.SellerNIP != nil && !nipOnly.MatchString(*f.SellerNIP) {
		return from, to, invalid("Nieprawidłowa wartość sellerNip.")
	}
	if f.Amount != nil && !slices.Contains([]string{"Brutto", "Netto", "Vat"}, f.Amount.Type) {
		return from, to, invalid("Nieprawidłowa wartość amount.type: %q.", f.Amount.Type)
	}
	if f.BuyerIdentifier != nil && !slices.Contains([]string{"Nip", "VatUe", "Other", "None"}, f.BuyerIdentifier.Type) {
		return from, to, invalid("Nieprawidłowa wartość buyerIdentifier.type: %q.", f.BuyerIdentifier.Type)
	}
	for _, each := range f.InvoiceTypes {
		if !slices.Contains([]string{"Vat", "Zal", "Kor", "Roz", "Upr", "KorZal", "KorRoz", "VatPef", "VatPefSp", "KorPef", "VatRr", "KorVatRr"}, each) {
			return from, to, invalid("Nieprawidłowa wartość invoiceTypes: %q.", each)
		}
	}
	return from, to, nil
}

// instant reads a date. One without an offset is refused: KSeF has read it in
// one zone and in another (api-changelog 2.1.2), so no client should send it.
func instant(name, text string) (time.Time, *refusal) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, invalid("Pole dateRange.%s musi być datą ISO 8601 ze strefą czasową: %q.", name, text)
	}
	return t.UTC(), nil
}

func checkRange(from, to time.Time) *refusal {
	switch {
	case to.Before(from):
		return invalid("Pole dateRange.from nie może być późniejsze niż dateRange.to.")
	case to.Sub(from) > maxRange:
		return invalid("Zakres dat nie może przekraczać 100 dni.")
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// match applies every filter but the role and the dates.
func (f *filters) match(m *ksef.Metadata) bool {
	equal := func(wanted *string, got string) bool { return wanted == nil || *wanted == got }
	same := func(wanted *bool, got bool) bool { return wanted == nil || *wanted == got }
	return equal(f.KSeFNumber, m.KSeFNumber) &&
		equal(f.InvoiceNumber, m.InvoiceNumber) &&
		equal(f.SellerNIP, m.Seller.NIP) &&
		equal(f.InvoicingMode, m.InvoicingMode) &&
		equal(f.FormType, m.FormCode.Value) &&
		same(f.IsSelfInvoicing, m.IsSelfInvoicing) &&
		same(f.HasAttachment, m.HasAttachment) &&
		(len(f.CurrencyCodes) == 0 || slices.Contains(f.CurrencyCodes, m.Currency)) &&
		(len(f.InvoiceTypes) == 0 || slices.Contains(f.InvoiceTypes, m.InvoiceType)) &&
		(f.BuyerIdentifier == nil || f.BuyerIdentifier.Type == m.Buyer.Identifier.Type &&
			equal(f.BuyerIdentifier.Value, m.Buyer.Identifier.Value)) &&
		f.matchAmount(m)
}

func (f *filters) matchAmount(m *ksef.Metadata) bool {
	if f.Amount == nil {
		return true
	}
	amount := map[string]json.Number{"Brutto": m.GrossAmount, "Netto": m.NetAmount, "Vat": m.VATAmount}[f.Amount.Type]
	value, ok := new(big.Rat).SetString(string(amount))
	within := func(bound *json.Number, sign int) bool {
		if bound == nil {
			return true
		}
		limit, valid := new(big.Rat).SetString(string(*bound))
		return valid && value.Cmp(limit) != sign
	}
	return ok && within(f.Amount.From, -1) && within(f.Amount.To, +1)
}

// invoice answers GET /invoices/ksef/{ksefNumber} with the bytes that were added.
func (s *Server) invoice(w http.ResponseWriter, r *http.Request, l *login) *refusal {
	s.noBody(r)
	asked := r.PathValue("ksefNumber")
	number, err := ksef.ParseNumber(asked)
	if err != nil {
		return invalid("Nieprawidłowy numer KSeF: %s.", asked)
	}
	s.mutex.Lock()
	one := s.numbers[number]
	if one != nil && !slices.ContainsFunc(one.seen, func(by list) bool { return by.context == l.context }) {
		one = nil
	}
	hidden := one != nil && one.VisibleAt.After(s.now())
	if one != nil && !hidden {
		s.stats.Downloads[number]++
	}
	s.mutex.Unlock()
	switch {
	case one == nil:
		return badRequest(21164, "Faktura o podanym identyfikatorze nie istnieje.",
			fmt.Sprintf("Faktura o numerze KSeF %s nie została znaleziona.", number))
	case hidden:
		return badRequest(21165, "Faktura o podanym numerze KSeF nie jest jeszcze dostępna.",
			fmt.Sprintf("Faktura o numerze KSeF %s została przetworzona, ale nie jest jeszcze dostępna do pobrania. Spróbuj ponownie później.", number))
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(one.XML)))
	w.Header().Set("X-Ms-Meta-Hash", hash(one.XML))
	_, _ = w.Write(one.XML) // the client may be gone: there is nobody left to tell
	return nil
}
