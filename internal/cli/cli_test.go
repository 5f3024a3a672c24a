package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// Two packages that may not import each other state the same default.
func TestDefaultLayoutIsTheTrees(t *testing.T) {
	if got := config.DefaultMirror().Layout; got != tree.DefaultLayout {
		t.Errorf("config says %q, tree %q", got, tree.DefaultLayout)
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "12h": 12 * time.Hour, "0d": 0} {
		if got, err := parseSpan(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-3h", "30", "1w"} {
		if _, err := parseSpan(text); err == nil || !strings.Contains(err.Error(), "want a time") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWorst(t *testing.T) {
	for _, test := range []struct {
		codes []int
		want  int
	}{
		{nil, 0}, {[]int{0, 0}, 0}, {[]int{0, exitIncomplete}, exitIncomplete},
		{[]int{exitIncomplete, exitBudget}, exitBudget}, {[]int{exitBudget, exitLocked, 0}, exitLocked},
		{[]int{exitLocked, exitFailure}, exitFailure},
	} {
		if got := worst(test.codes...); got != test.want {
			t.Errorf("%v: %d, want %d", test.codes, got, test.want)
		}
	}
}

// What status says of a mirror, and how loudly.
func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) string { return now.Add(-d).Format(time.RFC3339) }
	stream := func(success string, lag time.Duration, lastError string) ksefsync.Status {
		return ksefsync.Status{Streams: []ksefsync.StreamStatus{{
			Role: "buyer", LastSuccess: success, LastError: lastError,
			Watermark: ksef.NewTimestamp(now.Add(-lag)), LagSeconds: int64(lag.Seconds()),
		}}}
	}
	waiting := stream(ago(time.Minute), time.Minute, "")
	waiting.Waiting = []ksefsync.Waiting{{KSeFNumber: "N", Role: "buyer", Reason: "its hash is wrong"}}
	blocked := stream(ago(time.Minute), time.Minute, "")
	blocked.Budget = []ksefsync.GroupBudget{{Group: ksef.GroupMetadata, BlockedUntil: "2026-11-22T13:00:00Z"}}
	late := stream(ago(time.Minute), time.Minute, "")
	late.Streams[0].LateLately = []string{"N1", "N2", "N3", "N4", "N5", "N6", "N7"}
	hidden := stream(ago(time.Minute), time.Minute, "")
	hidden.Streams[0].NotListed, hidden.Streams[0].NotListedLately = 9, []string{"N"}
	hiddenLong := stream(ago(time.Minute), time.Minute, "")
	hiddenLong.Streams[0].NotListed = 9
	unreconciled := stream(ago(time.Minute), time.Minute, "")
	unreconciled.Streams[0].Reconciled = &ksefsync.ReconciliationStatus{Error: "HTTP 503"}
	for name, test := range map[string]struct {
		status ksefsync.Status
		err    error
		level  int
		says   string
	}{
		"in order":        {stream(ago(time.Minute), time.Minute, ""), nil, statusOK, ""},
		"quiet for 100m":  {stream(ago(100*time.Minute), 100*time.Minute, ""), nil, statusOK, ""},
		"one error":       {stream(ago(20*time.Minute), 20*time.Minute, "HTTP 502"), nil, statusWarning, "HTTP 502"},
		"behind":          {stream(ago(time.Minute), 5*time.Hour, ""), nil, statusWarning, "complete only up to"},
		"no success":      {stream(ago(3*time.Hour), 3*time.Hour, "HTTP 502"), nil, statusCritical, "no success since"},
		"never succeeded": {stream("", time.Hour, "HTTP 502"), nil, statusCritical, "never succeeded"},
		"waiting":         {waiting, nil, statusWarning, "its hash is wrong"},
		"blocked":         {blocked, nil, statusWarning, "before 2026-11-22T13:00:00Z"},
		"late invoices":   {late, nil, statusWarning, "N1, N2, N3, N4, N5 and 2 more (see the view v_differences)"},
		"hidden lately":   {hidden, nil, statusWarning, "no longer listed by KSeF"},
		"hidden long ago": {hiddenLong, nil, statusOK, ""},
		"not reconciled":  {unreconciled, nil, statusWarning, "could not be reconciled: HTTP 503"},
		"never run":       {ksefsync.Status{}, fmt.Errorf("open: %w", fs.ErrNotExist), statusWarning, "never run"},
		"unreadable":      {ksefsync.Status{}, errors.New("not a database"), statusCritical, "not a database"},
	} {
		got := judge(config.Mirror{Name: "m", Interval: 15 * time.Minute}, now, func(time.Time) (ksefsync.Status, error) { return test.status, test.err })
		if got.Level != test.level || !strings.Contains(strings.Join(got.Problems, "\n"), test.says) {
			t.Errorf("%s: level %d, %q", name, got.Level, got.Problems)
		}
	}
}

// Backups that have stopped are said: nobody looks at them until one is needed.
func TestJudgeBackup(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	m := config.Mirror{Name: "acme", Dir: filepath.Join(t.TempDir(), "acme")}
	if err := tree.Create(filepath.Join(m.Dir, "invoices"), "0123abcd-0000"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		made, missing string
		want          string
	}{
		"none":             {want: "there is no backup"},
		"of this night":    {made: "acme-0123abcd-2026-11-22T020304Z.db"},
		"too old":          {made: "acme-0123abcd-2026-11-20T085959Z.db", want: "the last backup is of 2026-11-20T08:59:59Z"},
		"of another":       {made: "acme-99999999-2026-11-22T020304Z.db", want: "there is no backup"},
		"folder not there": {missing: "x", want: "not mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			if test.made != "" {
				if err := os.WriteFile(filepath.Join(folder, test.made), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var s mirrorStatus
			s.judgeBackup(m, filepath.Join(folder, test.missing), now)
			if got := strings.Join(s.Problems, "; "); (test.want == "") != (got == "") || !strings.Contains(got, test.want) || (s.Level == statusWarning) != (test.want != "") {
				t.Errorf("level %d: %s", s.Level, got)
			}
			s = mirrorStatus{}
			s.judgeBackup(m, "", now)
			if s.Level != statusOK {
				t.Errorf("without a folder for backups: %v", s.Problems)
			}
		})
	}
}
