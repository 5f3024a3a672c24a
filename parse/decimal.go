package parse

import (
	"errors"
	"strings"
)

var (
	errNotDecimal = errors.New("not a decimal number")
	errNotCents   = errors.New("more than two decimals")
	errTooLarge   = errors.New("too large")
)

// splitDecimal takes a decimal number apart: an optional minus, digits and, after
// a point, digits. It is the form of every number of the FA schemas; a plus, a
// comma, an exponent, ".5" and "5." are errors.
func splitDecimal(s string) (negative bool, whole, fraction string, err error) {
	s, negative = strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(s, ".")
	if !isDigits(whole) || point && !isDigits(fraction) {
		return false, "", "", errNotDecimal
	}
	return negative, whole, fraction, nil
}

// plainDecimal writes a number of xsd:decimal as splitDecimal reads it: "+5" is
// "5", ".5" is "0.5", "5." and "5.000" are "5". Other texts it gives back.
func plainDecimal(s string) string {
	digits, negative := strings.CutPrefix(s, "-")
	if !negative {
		digits = strings.TrimPrefix(s, "+")
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	if !isDigits(whole + fraction) {
		return s
	}
	if whole == "" {
		whole = "0"
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		whole += "." + fraction
	}
	if negative {
		whole = "-" + whole
	}
	return whole
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// MaxAmount is the largest amount that is read, in hundredths of any currency, and
// -MaxAmount the smallest. The schemas allow a thousand times as much (TKwotowy has
// eighteen digits), but some of that overflow an integer, and SQLite's sum() fails
// then: an absurd invoice would break every view in which it is summed up. Within this
// bound it takes more rows than are read of one invoice, maxRows of each kind, or ten
// thousand invoices.
const MaxAmount int64 = 900_000_000_000_000

// hundredths reads an amount as hundredths of the unit, digit by digit: no amount
// passes through a float. The largest is [MaxAmount].
func hundredths(s string) (int64, error) {
	negative, whole, fraction, err := splitDecimal(s)
	if err != nil {
		return 0, err
	}
	if len(fraction) > 2 {
		return 0, errNotCents
	}
	var value int64
	for _, digits := range [...]string{whole, fraction, "00"[len(fraction):]} {
		for i := range len(digits) {
			digit := int64(digits[i] - '0')
			if value > (MaxAmount-digit)/10 {
				return 0, errTooLarge
			}
			value = value*10 + digit
		}
	}
	if negative {
		value = -value
	}
	return value, nil
}

// canonicalDecimal is s with no needless zeros: "2.000" is "2", "-0.0" is "0".
func canonicalDecimal(s string) (string, error) {
	negative, whole, fraction, err := splitDecimal(s)
	if err != nil {
		return "", err
	}
	whole = strings.TrimLeft(whole, "0")
	if whole == "" {
		whole = "0"
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		whole += "." + fraction
	}
	if negative && whole != "0" {
		whole = "-" + whole
	}
	return whole, nil
}

// total is a sum of amounts, stated when at least one of them is. It is voided by
// an amount that could not be read, as part of a sum would pass for the whole, and
// where it is beyond [MaxAmount].
type total struct {
	sum  Minor
	void bool
}

func (t *total) add(m Minor) {
	if !m.Stated {
		return
	}
	t.sum = Minor{t.sum.Value + m.Value, true}
	t.void = t.void || t.sum.Value > MaxAmount || t.sum.Value < -MaxAmount
}

func (t *total) minor() Minor {
	if t.void {
		return Minor{}
	}
	return t.sum
}
