package ksef

import (
	"fmt"
	"regexp"
	"strings"
)

// Number is a KSeF number, the identity of an invoice: 35 characters,
// NIP-YYYYMMDD-12 hex digits-CRC (numer-ksef.md). Numbers of KSeF 1.0 have 36,
// a hyphen in the middle of the 12. A Number from [ParseNumber] holds only
// upper-case letters, digits and hyphens, so it is safe in a file name or URL.
type Number string

var numberPattern = regexp.MustCompile(`^([0-9]{10}|M[0-9]{9}|[A-Z]{3}[0-9]{7})-20[2-9][0-9](0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])-[0-9A-F]{6}-?[0-9A-F]{6}-[0-9A-F]{2}$`)

// ParseNumber checks the form of a KSeF number and, in the 35-character form,
// its CRC-8. How KSeF 1.0 computed the check digits of the 36-character form is
// not published, so those are held to their form alone.
func ParseNumber(s string) (Number, error) {
	if !numberPattern.MatchString(s) {
		return "", fmt.Errorf("KSeF number %q: want NIP-YYYYMMDD-12 hex digits-2 hex digits", s)
	}
	if cut := strings.LastIndexByte(s, '-'); len(s) == 35 && s[cut+1:] != checkDigits(s[:cut]) {
		return "", fmt.Errorf("KSeF number %q: its check digits should be %s; it was mistyped or damaged", s, checkDigits(s[:cut]))
	}
	return Number(s), nil
}

// NewNumber completes a KSeF number from its first 32 characters, as a server
// does. It reports an error when the result has not the form of a KSeF number.
func NewNumber(first32 string) (Number, error) {
	return ParseNumber(first32 + "-" + checkDigits(first32))
}

// checkDigits is the CRC-8 of s, polynomial 0x07, initial value 0 (numer-ksef.md).
func checkDigits(s string) string {
	var crc byte
	for _, b := range []byte(s) {
		crc ^= b
		for range 8 {
			if crc&0x80 != 0 {
				crc = crc<<1 ^ 0x07
			} else {
				crc <<= 1
			}
		}
	}
	return fmt.Sprintf("%02X", crc)
}
