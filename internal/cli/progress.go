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

// progress shows how far a cycle is: a bar with rate and time left on a
// terminal, a line now and then otherwise.
type progress struct {
	w    io.Writer
	name string
	bar  *progressbar.ProgressBar // nil without a terminal, or before there is anything to show
	last time.Time
}

func newProgress(w io.Writer, name string) *progress {
	return &progress{w: w, name: name, last: time.Now()}
}

func (p *progress) show(at ksefsync.Progress) {
	total := at.Stored + at.Pending
	if total == 0 {
		return
	}
	if isTerminal(p.w) {
		if p.bar == nil {
			p.bar = progressbar.NewOptions(total,
				progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(p.name),
				progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("invoices"),
				progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
		}
		p.bar.ChangeMax(total)
		_ = p.bar.Set(at.Stored) // a bar that cannot be drawn is no reason to stop
		return
	}
	if now := time.Now(); now.Sub(p.last) >= lineEvery {
		p.last = now
		_, _ = fmt.Fprintf(p.w, "%s: %s: %d invoices stored, %d listed and still to fetch\n", p.name, at.Role, at.Stored, at.Pending)
	}
}

// end clears the bar; the next cycle starts a new one.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
