package sync

import (
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	full := func(s situation) situation { s.exports, s.downloads = 20, 64; return s }
	left := func(exports, downloads int, s situation) situation {
		s.exports, s.downloads, s.nextExport = exports, downloads, 20*time.Minute
		return s
	}
	for name, test := range map[string]struct {
		situation
		want route
	}{
		"newest window, nothing asked yet": {full(situation{}), list},
		"nothing new":                      {full(situation{listed: true}), singly},
		"a few new":                        {full(situation{listed: true, unknown: singles}), singly},
		"a few too many":                   {full(situation{listed: true, unknown: singles + 1}), package_},
		"more than a page":                 {full(situation{listed: true, unknown: 3, more: true}), package_},
		"past window":                      {full(situation{closed: true}), package_},
		"behind a full package":            {full(situation{continued: true}), package_},
		"past window, listed":              {full(situation{closed: true, listed: true, unknown: 2}), singly},

		"refused, past window":         {full(situation{closed: true, refused: true}), list},
		"refused, behind a package":    {full(situation{continued: true, refused: true}), list},
		"refused, newest window":       {full(situation{refused: true}), list},
		"refused, much new":            {full(situation{refused: true, listed: true, unknown: 250, more: true}), singly},
		"refused, and nothing left":    {left(0, 0, situation{refused: true, listed: true, unknown: 5}), singly},
		"few, and no packages left":    {left(0, 64, situation{listed: true, unknown: 5}), singly},
		"some, and no packages left":   {left(0, 64, situation{listed: true, unknown: 64}), singly},
		"some, packages in reserve":    {left(reserve, 64, situation{listed: true, unknown: 64}), singly},
		"some, packages to spare":      {left(reserve+1, 64, situation{listed: true, unknown: 64}), package_},
		"many, packages in reserve":    {left(reserve, 64, situation{listed: true, unknown: 65}), package_},
		"backlog, packages in reserve": {left(1, 64, situation{listed: true, unknown: 250, more: true}), package_},
		"truncated, the last package":  {left(1, 64, situation{continued: true}), package_},
		"past window, the last one":    {left(1, 64, situation{closed: true}), package_},
		"few, no downloads left":       {left(5, 2, situation{listed: true, unknown: 3}), package_},
		"no packages, none downloads":  {left(0, 2, situation{listed: true, unknown: 3}), wait},
		"backlog, no packages left":    {left(0, 64, situation{listed: true, unknown: 250, more: true}), wait},
		"past window, none left":       {left(0, 64, situation{closed: true}), list},
		"truncated, none left":         {left(0, 64, situation{continued: true}), list},
		"blocked for a day":            {situation{listed: true, unknown: 250, more: true, downloads: 64, nextExport: 24 * time.Hour}, singly},
	} {
		got, why := plan(test.situation)
		if got != test.want || why == "" {
			t.Errorf("%s: %s because %q, want %s", name, got, why, test.want)
		}
	}
}

func TestPause(t *testing.T) {
	began := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for after, want := range map[time.Duration]time.Duration{
		0:                   0,
		time.Hour:           15 * time.Minute,
		24 * time.Hour:      6 * time.Hour,
		30 * 24 * time.Hour: 12 * time.Hour,
	} {
		if got := pause(began, began.Add(after)); got != want {
			t.Errorf("empty for %s: a pause of %s, want %s", after, got, want)
		}
	}
}
