package credential

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestCertificateNotice(t *testing.T) {
	end := time.Date(2027, 6, 1, 10, 30, 0, 0, time.UTC)
	before := func(days int, more time.Duration) time.Time { return end.AddDate(0, 0, -days).Add(-more) }
	for _, test := range []struct {
		name string
		now  time.Time
		due  time.Time // zero when none is
		says string
	}{
		{"a year before", before(365, 0), time.Time{}, ""},
		{"just over 60 days", before(60, time.Second), time.Time{}, ""},
		{"60 days", before(60, 0), before(60, 0), "ends on 2027-06-01 10:30 UTC, in 60 days"},
		{"31 days", before(31, 0), before(60, 0), "in 31 days"},
		{"30 days", before(30, 0), before(30, 0), "in 30 days"},
		{"15 days", before(15, 0), before(30, 0), "in 15 days"},
		{"14 days", before(14, 0), before(14, 0), "in 14 days"},
		{"8 days", before(8, 0), before(14, 0), "in 8 days"},
		{"7 days", before(7, 0), before(7, 0), "in 7 days"},
		{"just over a day", before(1, time.Second), before(7, 0), "in 1 day;"},
		{"1 day", before(1, 0), before(1, 0), "in 1 day;"},
		{"an hour", before(0, time.Hour), before(1, 0), "in less than a day"},
		{"the end", end, end, "ended on 2027-06-01 10:30 UTC"},
		{"a year after", end.AddDate(1, 0, 0), end, "ended on 2027-06-01 10:30 UTC"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := CertificateNotice(&x509.Certificate{NotAfter: end}, test.now)
			if ok != !test.due.IsZero() || !got.Due.Equal(test.due) || !strings.Contains(got.Text, test.says) {
				t.Errorf("got %v, %v; want due %s, saying %q", got, ok, test.due, test.says)
			}
		})
	}
}

func TestTokenNotice(t *testing.T) {
	// The last second of 2026 in Poland is 22:59:59 UTC.
	end := time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name string
		now  time.Time
		due  time.Time
		says string
	}{
		{"long before", time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), time.Time{}, "end on 31 December 2026, in 213 days; log in with a KSeF certificate"},
		{"within 60 days", end.AddDate(0, 0, -39), end.AddDate(0, 0, -60), "in 39 days"},
		{"within 30 days", end.AddDate(0, 0, -30), end.AddDate(0, 0, -30), "in 30 days"},
		{"last second", end.Add(-time.Second), end.AddDate(0, 0, -1), "in less than a day"},
		{"over", end, end, `tokens ended on 31 December 2026; log in with a KSeF certificate instead (auth.method = "certificate")`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := TokenNotice(test.now)
			if !got.Due.Equal(test.due) || !strings.Contains(got.Text, test.says) {
				t.Errorf("got %v; want due %s, saying %q", got, test.due, test.says)
			}
		})
	}
}
