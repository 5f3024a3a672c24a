package credential

import (
	"crypto/x509"
	"fmt"
	"time"
)

const day = 24 * time.Hour

// Notice is what someone must do about a login before it stops working.
type Notice struct {
	// Due is when the notice became due: a number of days before the end, or the
	// end itself; zero if it always was. Whoever logs each notice once tells them
	// apart by it, for Text changes from day to day.
	Due  time.Time
	Text string
}

// CertificateNotice gives the notice that is due about the end of a certificate:
// from 60, 30, 14, 7 and 1 days before, and once it has ended. ok is false when
// none is.
func CertificateNotice(certificate *x509.Certificate, now time.Time) (notice Notice, ok bool) {
	due := dueBefore(certificate.NotAfter, now)
	switch {
	case due.IsZero():
		return Notice{}, false
	case due.Equal(certificate.NotAfter):
		return Notice{due, fmt.Sprintf("the certificate ended on %s; put a new one in its place", instant(due))}, true
	}
	return Notice{due, fmt.Sprintf("the certificate ends on %s, %s; get a new one (ksefmirror auth renew, or KSeF's taxpayer application) and put it in its place",
		instant(certificate.NotAfter), in(certificate.NotAfter.Sub(now)))}, true
}

// TokenNotice gives the notice about the end of KSeF tokens, which is always due:
// by § 13 of the regulation of 12 December 2025 (Dz.U. 2025 poz. 1815) they log in
// until 31 December 2026. Its Due changes 60, 30, 14, 7 and 1 days before, and at
// the end.
func TokenNotice(now time.Time) Notice {
	end := time.Date(2026, time.December, 31, 23, 0, 0, 0, time.UTC) // midnight in Poland
	due := dueBefore(end, now)
	const instead = `log in with a KSeF certificate instead (auth.method = "certificate")`
	if due.Equal(end) {
		return Notice{due, "by the law in force KSeF tokens ended on 31 December 2026; " + instead}
	}
	return Notice{due, fmt.Sprintf("by the law in force KSeF tokens end on 31 December 2026, %s; %s", in(end.Sub(now)), instead)}
}

// dueBefore gives the latest of the instants 60, 30, 14, 7 and 1 days before end,
// and end itself, that is not after now; the zero time when all are.
func dueBefore(end, now time.Time) time.Time {
	for _, days := range []time.Duration{0, 1, 7, 14, 30, 60} {
		if due := end.Add(-days * day); !now.Before(due) {
			return due
		}
	}
	return time.Time{}
}

// in says how long is left, in whole days.
func in(left time.Duration) string {
	switch days := int(left / day); days {
	case 0:
		return "in less than a day"
	case 1:
		return "in 1 day"
	default:
		return fmt.Sprintf("in %d days", days)
	}
}
