package cli

import (
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/config"
	"ksefmirror/internal/tree"
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
