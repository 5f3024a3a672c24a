package health

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"ksefmirror/internal/event"
	ksefsync "ksefmirror/sync"
)

// lookEvery is how often a mirror is looked at when no cycle ends: one may take
// hours, or wait for KSeF for a day. It is more than the usual interval: each look opens
// the database, and with hundreds of mirrors that adds up.
const lookEvery = 20 * time.Minute

// firstLook is how long after the start a mirror is looked at whose first cycle has
// not ended by then. At the start itself all of them are busy enough.
const firstLook = time.Minute

// Turns keeps mirrors from being looked at all at once: each look opens a database.
type Turns chan struct{}

// NewTurns lets four mirrors be looked at at a time.
func NewTurns() Turns { return make(Turns, 4) }

// turnAfter is when a mirror is looked at without a turn: those before it may be on
// a disk that hangs.
const turnAfter = 30 * time.Second

// take waits for a turn. done gives it back.
func (t Turns) take(ctx context.Context) (done func()) {
	timer := time.NewTimer(turnAfter)
	defer timer.Stop()
	select {
	case t <- struct{}{}:
		return func() { <-t }
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {}
}

// Watcher looks at one mirror whenever a cycle has ended, and tells what it sees:
// new notices to the log, the STATUS file, the metrics, and a ping to whoever waits
// for one. It does so in [Watcher.Run], beside the mirror, which waits for none of
// it.
type Watcher struct {
	mirror  Mirror
	metrics *Metrics // nil: none are kept
	turns   Turns
	ping    *pinger // nil: nobody waits for one
	log     *slog.Logger
	moments chan moment

	last     error // of the latest cycle
	noticed  map[string]Notice
	written  time.Time // when the STATUS file was; zero if the last attempt failed
	meaning  string    // of what is in it
	complain bool      // that the STATUS file cannot be written has been logged
}

// moment is the beginning or the end of a cycle.
type moment struct {
	begins  bool
	stopped bool // it ends before it was done
	err     error
}

// NewWatcher gives a watcher of m, which shares turns with the others. metrics may be
// nil. pingURL, if not nil, reads
// the address to ping, which is a secret: whoever knows it can speak for the mirror.
func NewWatcher(m Mirror, metrics *Metrics, turns Turns, pingURL func() (string, error), log *slog.Logger) *Watcher {
	w := &Watcher{mirror: m, metrics: metrics, turns: turns, log: log, moments: make(chan moment, 8), noticed: map[string]Notice{}}
	if pingURL != nil {
		w.ping = &pinger{url: pingURL, log: log}
	}
	return w
}

// Begin tells that a cycle begins. It never waits.
func (w *Watcher) Begin() { w.tell(moment{begins: true}) }

// End tells that a cycle has ended, or an attempt to open the mirror failed with
// err. It never waits.
func (w *Watcher) End(err error) { w.tell(moment{err: err}) }

// Stopped tells that a cycle has ended before it was done, because quiet hours have
// begun, and what had failed in it by then; nil if nothing had. It never waits.
func (w *Watcher) Stopped(err error) { w.tell(moment{stopped: true, err: err}) }

func (w *Watcher) tell(m moment) {
	select {
	case w.moments <- m:
	default: // it is stuck, on a dead disk perhaps; the mirror has other things to do
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case m := <-w.moments:
			if m.begins {
				w.ping.send(ctx, "/start")
				continue
			}
			w.ended(ctx, m)
		}
		w.look(ctx)
		timer.Reset(lookEvery)
	}
}

// ended takes note of the end of a cycle. One that was stopped counts only if it had
// failed by then, but whoever was told that it began is told that it has ended.
func (w *Watcher) ended(ctx context.Context, m moment) {
	failed := m.err
	if ksefsync.Limited(m.err) != nil {
		failed = nil // it goes on by itself
	}
	if !m.stopped || failed != nil {
		w.last = failed
		if w.metrics != nil {
			w.metrics.ended(w.mirror.Name, m.err)
		}
	}
	if failed != nil {
		w.ping.send(ctx, "/fail")
		return
	}
	w.ping.send(ctx, "")
}

// look looks at the mirror and tells what it sees.
func (w *Watcher) look(ctx context.Context) {
	done := w.turns.take(ctx)
	defer done()
	r := w.mirror.Look(ctx, w.last, time.Now())
	if ctx.Err() != nil {
		return // what was read is not whole
	}
	if w.metrics != nil {
		w.metrics.set(r)
	}
	w.logNotices(r)
	w.keepFile(r)
}

// keepFile writes the STATUS file if that is due. That it cannot be written is no
// reason for anything but a line in the log.
func (w *Watcher) keepFile(r Report) {
	if r.at.Sub(w.written) < rewriteAfter && r.meaning() == w.meaning {
		return
	}
	if slices.ContainsFunc(r.Notices, func(n Notice) bool { return n.Kind == NeverRun && n.Role == "" }) {
		return // it may have no folder yet
	}
	err := r.WriteFile()
	switch {
	case err == nil:
		w.written, w.meaning, w.complain = r.at, r.meaning(), false
	case !w.complain:
		event.Log(w.log, event.FileNotWritten, "err", err)
		w.complain = true
	}
}

// logNotices logs each notice when it comes up and again when it has changed in
// more than its words, and says when it is settled. The daemon itself logs that a
// run failed, and how often.
func (w *Watcher) logNotices(r Report) {
	now := map[string]Notice{}
	kinds := Kinds()
	for _, n := range r.Notices {
		id := kinds[n.Kind]
		if id == 0 {
			continue
		}
		key := fmt.Sprint(n.Kind, "\n", n.Role, "\n", n.about)
		_, told := w.noticed[key]
		_, twice := now[key]
		now[key] = n
		if told || twice {
			continue
		}
		level := slog.LevelWarn
		if n.Level == Act {
			level = slog.LevelError
		}
		text := n.Text
		switch n.Kind {
		case Quarantine, Late, NotListed:
			text = "invoices need a look: see status" // their KSeF numbers hold NIPs, which are for the debug log
		}
		w.log.Log(context.Background(), level, text, event.Key, int(id), "kind", n.Kind, "role", n.Role)
	}
	for key, n := range w.noticed {
		if _, still := now[key]; !still && !sameMatter(now, n) {
			event.Log(w.log, event.Settled, "kind", n.Kind, "role", n.Role)
		}
	}
	w.noticed = now
}

// sameMatter reports whether there is still a notice of the kind and role of n.
func sameMatter(notices map[string]Notice, n Notice) bool {
	for _, each := range notices {
		if each.Kind == n.Kind && each.Role == n.Role {
			return true
		}
	}
	return false
}
