package config

import (
	"errors"
	"regexp"
	"strings"
)

// Context says whose invoices a mirror holds: KSeF's ContextIdentifier.
type Context struct {
	Type  string // "nip", "internalId", "nipVatUe" or "peppolId"
	Value string
}

// String gives the context as the configuration file writes it, such as
// nip:5265877635.
func (c Context) String() string { return c.Type + ":" + c.Value }

// The patterns of open-api (schemas Nip, InternalId, NipVatUe and PeppolId).
var (
	nipPattern        = regexp.MustCompile(`^[1-9](\d[1-9]|[1-9]\d)\d{7}$`)
	internalIDPattern = regexp.MustCompile(`^[1-9](\d[1-9]|[1-9]\d)\d{7}-\d{5}$`)
	vatUEPattern      = regexp.MustCompile(`^(ATU\d{8}|BE[01]\d{9}|BG\d{9,10}|CY\d{8}[A-Z]|CZ\d{8,10}|DE\d{9}|DK\d{8}|EE\d{9}|EL\d{9}|` +
		`ES([A-Z]\d{8}|\d{8}[A-Z]|[A-Z]\d{7}[A-Z])|FI\d{8}|FR[A-Z0-9]{2}\d{9}|HR\d{11}|HU\d{8}|` +
		`IE(\d{7}[A-Z]{2}|\d[A-Z0-9+*]\d{5}[A-Z])|IT\d{11}|LT(\d{9}|\d{12})|LU\d{8}|LV\d{11}|MT\d{8}|NL[A-Z0-9+*]{12}|` +
		`PT\d{9}|RO\d{2,10}|SE\d{12}|SI\d{8}|SK\d{10}|XI(\d{9}|\d{12}|(GD|HA)\d{3}))$`)
	peppolIDPattern = regexp.MustCompile(`^P[A-Z]{2}\d{6}$`)
)

const wantContext = `want nip:NIP, internalId:NIP-12345, nipVatUe:NIP-VATNUMBER or peppolId:PXX123456`

// ParseContext reads a context as [Context.String] writes it, and checks the
// form and the check digits of its numbers. The error says what is expected and
// leaves out the text, so it may be put behind whatever names the text.
func ParseContext(text string) (Context, error) {
	kind, value, _ := strings.Cut(text, ":")
	context := Context{Type: kind, Value: value}
	switch kind {
	case "nip":
		return context, checkNIP(value)
	case "internalId":
		if !internalIDPattern.MatchString(value) {
			return context, errors.New("want internalId: and a NIP, a dash and five digits")
		}
		nip, unit, _ := strings.Cut(value, "-")
		if err := checkNIP(nip); err != nil {
			return context, err
		}
		if !validUnit(nip + unit) {
			return context, errors.New("want an internal identifier whose last digit, the check digit, fits the others: a digit is mistyped")
		}
		return context, nil
	case "nipVatUe":
		nip, vat, _ := strings.Cut(value, "-")
		if err := checkNIP(nip); err != nil {
			return context, err
		}
		if !vatUEPattern.MatchString(vat) {
			return context, errors.New("want nipVatUe: and a NIP, a dash and an EU VAT number that begins with its country, such as DE123456789")
		}
		return context, nil
	case "peppolId":
		if !peppolIDPattern.MatchString(value) {
			return context, errors.New("want peppolId: and P, two capital letters and six digits")
		}
		return context, nil
	}
	return context, errors.New(wantContext)
}

// IsNIP tells whether a text is a NIP and nothing else, by its check digit too.
func IsNIP(text string) bool { return checkNIP(text) == nil }

// checkNIP checks the form of a NIP, the Polish tax number, and its check digit.
func checkNIP(nip string) error {
	if !nipPattern.MatchString(nip) {
		return errors.New("want a NIP of ten digits, without dashes, spaces or PL")
	}
	sum := 0
	for i, weight := range []int{6, 5, 7, 2, 3, 4, 5, 6, 7} {
		sum += weight * int(nip[i]-'0')
	}
	// A remainder of 10 fits no digit: such numbers are not issued.
	if sum%11 != int(nip[9]-'0') {
		return errors.New("want a NIP whose last digit, the check digit, fits the others: a digit is mistyped")
	}
	return nil
}

// validUnit checks the last of the fifteen digits of an internal identifier:
// the sum of the others, weighted 1 and 3 in turn, modulo 10 (open-api, POST
// /permissions/subunits/grants).
func validUnit(digits string) bool {
	sum := 0
	for i := range 14 {
		sum += int(digits[i]-'0') * (1 + i%2*2)
	}
	return sum%10 == int(digits[14]-'0')
}
