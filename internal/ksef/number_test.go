package ksef

import (
	"strings"
	"testing"
)

func TestParseNumber(t *testing.T) {
	good := func(s string) {
		t.Helper()
		if n, err := ParseNumber(s); err != nil || string(n) != s {
			t.Errorf("%q: got %q, %v", s, n, err)
		}
	}
	bad := func(s, says string) {
		t.Helper()
		if n, err := ParseNumber(s); err == nil || n != "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %q, %v; want an error that says %q", s, n, err, says)
		}
	}
	good("5265877635-20250826-0100001AF629-AF") // the example of numer-ksef.md
	good("5555555555-20250828-010080615740-E4") // that of open-api
	good("M000000000-20990131-FFFFFFFFFFFF-3E")
	good("ABC1234567-20260228-000000000000-B8")
	good("5265877635-20230826-010000-1AF629-00") // KSeF 1.0: check digits unknown

	bad("5265877635-20250826-0100001AF629-AE", "mistyped")
	bad("5265877635-20250827-0100001AF629-AF", "mistyped")
	bad("5265877653-20250826-0100001AF629-AF", "mistyped") // two digits exchanged
	bad("", "want NIP")
	bad("5265877635-20250826-0100001AF629", "want NIP")
	bad("5265877635-20250826-0100001af629-AF", "want NIP")
	bad("5265877635-20251326-0100001AF629-AF", "want NIP")
	bad("5265877635-20250800-0100001AF629-AF", "want NIP")
	bad("5265877635-19990826-0100001AF629-AF", "want NIP")
	bad("5265877635-20250826-0100001AF629-AF\n", "want NIP")
	bad(" 5265877635-20250826-0100001AF629-AF", "want NIP")
	bad("../5877635-20250826-0100001AF629-AF", "want NIP")
	bad("5265877635-20250826-0100001AF629-AF-IZ", "want NIP") // a collective identifier
}

func TestNewNumber(t *testing.T) {
	if n, err := NewNumber("5265877635-20250826-0100001AF629"); err != nil || n != "5265877635-20250826-0100001AF629-AF" {
		t.Errorf("got %q, %v", n, err)
	}
	if n, err := NewNumber("5265877635"); err == nil {
		t.Errorf("got %q, want an error", n)
	}
}

// Every error of one character and every exchange of neighbours is found: that is
// what the check digits are for.
func TestCheckDigitsFindTypingErrors(t *testing.T) {
	const number = "5265877635-20250826-0100001AF629-AF"
	for i := range 32 {
		for _, c := range "0123456789ABCDEF" {
			damaged := []byte(number)
			damaged[i] = byte(c)
			if n, err := ParseNumber(string(damaged)); err == nil && string(n) != number {
				t.Errorf("%s was accepted", n)
			}
		}
		damaged := []byte(number)
		damaged[i], damaged[i+1] = damaged[i+1], damaged[i]
		if n, err := ParseNumber(string(damaged)); err == nil && string(n) != number {
			t.Errorf("%s was accepted", n)
		}
	}
}

func FuzzParseNumber(f *testing.F) {
	f.Add("5265877635-20250826-0100001AF629-AF")
	f.Add("M000000000-20230826-010000-1AF629-00")
	f.Add("5265877635-20250826-0100001AF629-AF\x00")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseNumber(s)
		if err != nil {
			return
		}
		if string(n) != s || len(s) != 35 && len(s) != 36 {
			t.Errorf("%q became %q", s, n)
		}
		if strings.Trim(s, "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			t.Errorf("%q is not safe in a file name", s)
		}
		if len(s) == 35 {
			if again, err := NewNumber(s[:32]); err != nil || again != n {
				t.Errorf("%q completed is %q, %v", s[:32], again, err)
			}
		}
	})
}
