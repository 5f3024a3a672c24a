package sync

import "testing"

func TestPlan(t *testing.T) {
	for name, test := range map[string]struct {
		situation
		want route
	}{
		"newest window, nothing asked yet":     {situation{}, list},
		"nothing new":                          {situation{listed: true}, singly},
		"a few new":                            {situation{listed: true, unknown: singles}, singly},
		"a few too many":                       {situation{listed: true, unknown: singles + 1}, package_},
		"more than a page":                     {situation{listed: true, unknown: 3, more: true}, package_},
		"past window":                          {situation{closed: true}, package_},
		"past window, no exports":              {situation{closed: true, noExports: true}, list},
		"past window, no exports, listed":      {situation{closed: true, noExports: true, listed: true, unknown: 250, more: true}, singly},
		"newest window, no exports":            {situation{noExports: true}, list},
		"newest window, no exports, much new":  {situation{noExports: true, listed: true, unknown: 250}, singly},
		"past window, listed after a fallback": {situation{closed: true, listed: true, unknown: 2}, singly},
	} {
		got, why := plan(test.situation)
		if got != test.want || why == "" {
			t.Errorf("%s: %d because %q, want %d", name, got, why, test.want)
		}
	}
}
