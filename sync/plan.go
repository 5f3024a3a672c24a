package sync

import "time"

// singles is how many invoices are fetched one by one at most. It is what KSeF
// allows in a minute (limity-api.md); for more, one of the hour's 20 packages is
// quicker and leaves more of the budget.
const singles = 16

// route is how a window is mirrored.
type route int

const (
	list     route = iota // ask for the first page of metadata, then plan again
	singly                // metadata pages and single downloads
	package_              // an export package
)

// situation is what a plan depends on.
type situation struct {
	closed  bool // the window ends in the past: nobody knows what it holds
	listed  bool // its first page of metadata is known:
	unknown int  // how many of its rows are not stored yet
	more    bool // and whether KSeF has more than that page
	// noExports says that KSeF would not make a package now.
	noExports bool
}

// plan chooses the way to mirror a window, and says why.
func plan(s situation) (route, string) {
	switch {
	case s.noExports && s.listed:
		return singly, "no package is to be had now"
	case s.noExports:
		return list, "no package is to be had now"
	case s.closed && !s.listed:
		return package_, "a past window of unknown content"
	case !s.listed:
		return list, "what is new is not known yet"
	case s.more:
		return package_, "more than a page is new"
	case s.unknown > singles:
		return package_, "more invoices are new than single downloads are good for"
	}
	return singly, "few invoices are new"
}

// exportPause is how long a role does without exports after KSeF refused one or
// one came to nothing.
const exportPause = 30 * time.Minute
