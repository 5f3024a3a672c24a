package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	ksefsync "ksefmirror/sync"
)

// lineEvery is how often progress is told where there is no terminal.
const lineEvery = 10 * time.Second

// progress shows how far a cycle is: on a terminal a bar with rate and time left
// for each package or page of invoices, a line now and then otherwise.
type progress struct {
	w        io.Writer
	terminal bool
	name     string
	bar      *progressbar.ProgressBar // nil without a terminal, or before there is anything to show
	from     int                      // stored before the bar's first
	stored   int                      // as last shown
	told     time.Time                // when the last line was written
}

func newProgress(w io.Writer, name string) *progress {
	return &progress{w: w, terminal: isTerminal(w), name: name, told: time.Now()}
}

func (p *progress) show(at ksefsync.Progress) {
	// It is shown without anything stored since only when KSeF has listed more.
	begins := at.Stored == p.stored || p.bar == nil
	p.stored = at.Stored
	if at.Stored+at.Pending == 0 {
		return
	}
	if !p.terminal {
		if now := time.Now(); now.Sub(p.told) >= lineEvery {
			p.told = now
			_, _ = fmt.Fprintf(p.w, "%s: %s: %d invoices stored, %d listed and still to fetch\n", p.name, at.Role, at.Stored, at.Pending)
		}
		return
	}
	if begins {
		p.clear()
		if at.Pending == 0 {
			return
		}
		description := p.name + ": " + at.Role
		if at.Package {
			description += ", a package"
		}
		p.from = at.Stored
		p.bar = progressbar.NewOptions(at.Pending,
			progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(description),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("invoices"),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond))
	}
	_ = p.bar.Set(at.Stored - p.from) // a bar that cannot be drawn is no reason to stop
}

// end clears the bar; the next cycle starts a new one.
func (p *progress) end() {
	p.clear()
	p.stored = 0
}

func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
