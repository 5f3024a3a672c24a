package ksef

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// UnmarshalJSON reads KSeF's InvoiceQueryFilters (open-api). A field that this
// program does not know is refused: left out, it would widen the query. What the
// fields say is for [Query.Check].
func (q *Query) UnmarshalJSON(data []byte) error {
	var wire queryFilters
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wire); err != nil {
		return fmt.Errorf("filters: %w", err)
	}
	dates := wire.DateRange
	*q = Query{SubjectType: wire.SubjectType, From: dates.From, To: dates.To, DateType: dates.DateType, Filter: wire.Filter}
	q.BeyondHWM = dates.DateType == ByPermanentStorage && (dates.Restrict == nil || !*dates.Restrict)
	return nil
}

var (
	nipPattern      = regexp.MustCompile(`^[0-9]{10}$`)
	currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)
	// An exponent could make a number of a gigabyte.
	amountPattern = regexp.MustCompile(`^-?[0-9]{1,18}(\.[0-9]{1,9})?$`)
)

// Check reports every mistake for which KSeF would refuse the query, but for the
// length of its range. It names fields and values as KSeF does (open-api,
// InvoiceQueryFilters). Currencies are held to their form alone: KSeF adds some
// without notice (api-changelog 2.8.0).
func (q Query) Check() error {
	var problems []error
	oneOf := func(field, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			problems = append(problems, fmt.Errorf("%s %q: want %s", field, value, strings.Join(allowed, ", ")))
		}
	}
	wrong := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	oneOf("subjectType", string(q.SubjectType), string(Seller), string(Buyer), string(ThirdParty), string(Authorized))
	oneOf("dateType", string(q.DateType), "", string(ByPermanentStorage), string(ByInvoicing), string(ByIssue))
	wrong(q.From == "", "dateRange.from is missing")
	wrong(q.To != "" && q.To.Compare(q.From) < 0, "dateRange.to %s is before dateRange.from %s", q.To, q.From)

	f := q.Filter
	if f.KSeFNumber != "" {
		if _, err := ParseNumber(f.KSeFNumber); err != nil {
			problems = append(problems, err)
		}
	}
	wrong(utf8.RuneCountInString(f.InvoiceNumber) > 256, "invoiceNumber: want at most 256 characters")
	wrong(f.SellerNIP != "" && !nipPattern.MatchString(f.SellerNIP), "sellerNip: want ten digits")
	if f.Amount != nil {
		oneOf("amount.type", f.Amount.Type, "Brutto", "Netto", "Vat")
		for field, value := range map[string]json.Number{"from": f.Amount.From, "to": f.Amount.To} {
			wrong(value != "" && !amountPattern.MatchString(value.String()), "amount.%s %q: want a number such as 1234.56", field, value)
		}
	}
	if f.Buyer != nil {
		oneOf("buyerIdentifier.type", f.Buyer.Type, "Nip", "VatUe", "Other", "None")
		wrong(utf8.RuneCountInString(f.Buyer.Value) > 50, "buyerIdentifier.value: want at most 50 characters")
	}
	for _, currency := range f.Currencies {
		wrong(!currencyPattern.MatchString(currency), "currencyCodes %q: want three capital letters, such as PLN", currency)
	}
	if f.InvoicingMode != "" {
		oneOf("invoicingMode", f.InvoicingMode, "Online", "Offline")
	}
	if f.FormType != "" {
		oneOf("formType", f.FormType, "FA", "PEF", "FA_RR")
	}
	for _, kind := range f.InvoiceTypes {
		oneOf("invoiceTypes", kind, "Vat", "Zal", "Kor", "Roz", "Upr", "KorZal", "KorRoz", "VatPef", "VatPefSp", "KorPef", "VatRr", "KorVatRr")
	}
	return errors.Join(problems...)
}

// Match tells whether KSeF would list an invoice with this metadata, as far as the
// filter goes: the role and the dates of a [Query] are not part of it.
func (f Filter) Match(m Metadata) bool {
	equal := func(wanted, got string) bool { return wanted == "" || wanted == got }
	same := func(wanted *bool, got bool) bool { return wanted == nil || *wanted == got }
	among := func(wanted []string, got string) bool { return len(wanted) == 0 || slices.Contains(wanted, got) }
	return equal(f.KSeFNumber, m.KSeFNumber) &&
		equal(f.InvoiceNumber, m.InvoiceNumber) &&
		equal(f.SellerNIP, m.Seller.NIP) &&
		equal(f.InvoicingMode, m.InvoicingMode) &&
		equal(f.FormType, m.FormCode.Value) &&
		same(f.IsSelfInvoicing, m.IsSelfInvoicing) &&
		same(f.HasAttachment, m.HasAttachment) &&
		among(f.Currencies, m.Currency) &&
		among(f.InvoiceTypes, m.InvoiceType) &&
		(f.Buyer == nil || f.Buyer.Type == m.Buyer.Identifier.Type && equal(f.Buyer.Value, m.Buyer.Identifier.Value)) &&
		(f.Amount == nil || f.Amount.contains(m))
}

func (a AmountRange) contains(m Metadata) bool {
	amount, ok := decimal(map[string]json.Number{"Brutto": m.GrossAmount, "Netto": m.NetAmount, "Vat": m.VATAmount}[a.Type])
	if !ok {
		return false
	}
	from, bounded := decimal(a.From)
	if bounded && amount.Cmp(from) < 0 {
		return false
	}
	to, bounded := decimal(a.To)
	return !bounded || amount.Cmp(to) <= 0
}

func decimal(number json.Number) (*big.Rat, bool) {
	if !amountPattern.MatchString(number.String()) {
		return nil, false
	}
	return new(big.Rat).SetString(number.String())
}
