package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	ksefsync "ksefmirror/sync"
)

// On a terminal every package and every page has a bar of its own, from nothing
// to all of it, and nothing is left of them in the end.
func TestProgressBars(t *testing.T) {
	var shown bytes.Buffer
	p := newProgress(&shown, "acme")
	p.terminal = true
	stored := 0
	comes := func(role string, n, kept int, inPackage bool) {
		for i := range n - kept + 1 {
			p.show(ksefsync.Progress{Role: role, Stored: stored + i, Pending: n - i, Package: inPackage})
		}
		stored += n - kept
	}
	comes("seller", 463, 3, true) // three wait in quarantine
	comes("seller", 2, 0, true)
	comes("buyer", 0, 0, false)
	comes("buyer", 5, 0, false)
	p.end()
	stored = 0
	comes("buyer", 7, 0, false)
	p.end()
	frames := strings.Split(shown.String(), "\r")
	at := 0
	for _, want := range []string{"acme: seller, a package   0%", "(0/463,", "acme: seller, a package 100%", "(2/2,", "acme: buyer   0%", "(0/5,", "(5/5,", "(0/7,", "(7/7,"} {
		for at < len(frames) && !strings.Contains(frames[at], want) {
			at++
		}
		if at == len(frames) {
			t.Fatalf("no %q, or not in this order, in:\n%s", want, strings.Join(frames, "\n"))
		}
	}
	if last := frames[len(frames)-1]; strings.TrimSpace(last) != "" || strings.Contains(shown.String(), "/0,") {
		t.Errorf("left over: %q", frames)
	}
}

// Elsewhere there is a line now and then.
func TestProgressLines(t *testing.T) {
	var written bytes.Buffer
	p := newProgress(&written, "acme")
	for i := range 5 {
		if i == 3 {
			p.told = p.told.Add(-2 * lineEvery)
		}
		p.show(ksefsync.Progress{Role: "buyer", Stored: i, Pending: 9 - i})
	}
	p.end()
	if got, want := written.String(), "acme: buyer: 3 invoices stored, 6 listed and still to fetch\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if time.Since(p.told) > lineEvery {
		t.Error("it does not remember when it wrote")
	}
}
