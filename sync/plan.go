package sync

import (
	"time"

	"ksefmirror/db"
)

const (
	// singles is how many invoices are fetched one by one at most, while packages
	// are to be had. It is what KSeF allows in a minute (limity-api.md); for more,
	// one of the hour's 20 packages is quicker and leaves more of the budget.
	singles = 16
	// reserve is how many of the hour's packages are kept for what cannot do
	// without: a backlog, what a truncated package left behind, and reconciling.
	reserve = 2
	// soon is how long a backlog waits for the next package rather than go on by
	// single downloads, of which an hour has fewer than one package brings. The
	// hour's limit makes it wait an hour; only a block by KSeF takes longer.
	soon = 2 * time.Hour
	// exportPause is how long a role does without exports after KSeF refused one or
	// one came to nothing.
	exportPause = 30 * time.Minute
	// longestPause is how long a role that is always empty is left alone at most.
	longestPause = 12 * time.Hour
)

// route is how a window is mirrored.
type route int

const (
	list     route = iota // ask for the first page of metadata, then plan again
	singly                // metadata pages and single downloads
	package_              // an export package
	wait                  // not now: the budget has no package left, and will have
)

// String names the route for people.
func (r route) String() string {
	return [...]string{"asking first", "single downloads", "a package", "waiting"}[r]
}

// situation is what a plan depends on.
type situation struct {
	closed    bool // the window ends in the past: nobody knows what it holds
	continued bool // it goes on where a package was full or truncated
	listed    bool // its first page of metadata is known:
	unknown   int  // how many of its rows are not stored yet
	more      bool // and whether KSeF has more than that page
	// refused says that KSeF would make no package now, whatever the budget.
	refused bool
	// exports and downloads are how many the budget leaves now; nextExport is, when
	// it leaves none, how long until the next.
	exports, downloads int
	nextExport         time.Duration
}

// plan chooses the way to mirror a window, and says why.
func plan(s situation) (route, string) {
	noPackage := s.refused || s.exports == 0
	switch {
	case !s.listed && noPackage:
		return list, "no package is to be had now"
	case s.continued && !s.listed:
		return package_, "more follows what the last package brought"
	case s.closed && !s.listed:
		return package_, "a past window of unknown content"
	case !s.listed:
		return list, "what is new is not known yet"

	case !s.more && s.unknown == 0:
		return singly, "nothing is new"
	case s.refused:
		return singly, "no package is to be had now"
	case !s.more && s.unknown <= min(singles, s.downloads):
		return singly, "few invoices are new"
	case !s.more && s.unknown <= s.downloads && s.exports <= reserve:
		return singly, "the last packages of the hour are kept for a backlog"
	case s.exports > 0 && s.more:
		return package_, "more than a page is new"
	case s.exports > 0:
		return package_, "more invoices are new than single downloads are good for"
	case s.nextExport <= soon:
		return wait, "the packages of the hour are used up"
	}
	return singly, "KSeF allows no package for a long time"
}

// pause is how long a role is left alone after it was asked at asked, when KSeF
// has never listed an invoice for it since the first time, idleSince. It grows
// slowly, so that the first invoices of a new company do not wait, and stays
// within a day.
func pause(idleSince, asked time.Time) time.Duration {
	return min(asked.Sub(idleSince)/4, longestPause)
}

// rest is how long a role is left alone after its last run: only one that has
// always been empty rests, and only while nothing is wrong with it.
func rest(row db.Stream) time.Duration {
	if row.IdleSince.IsZero() || row.LastError != "" {
		return 0
	}
	return pause(row.IdleSince, row.LastRunAt)
}
