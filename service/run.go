package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"
)

// ErrEnded is returned by [Run] when the work ended though nobody had told it to.
var ErrEnded = errors.New("the daemon ended by itself")

// Health says in a line how the program is, and names what is stuck: nothing, if
// all moves. [Pulse.Health] is one.
type Health func(now time.Time) (text string, stuck []string)

// Work is what the service does, until ctx ends. It calls ready once it is at
// work; from then on the manager is told what health says.
type Work func(ctx context.Context, ready func(log *slog.Logger, health Health)) error

// Run does the work under the eyes of systemd, if systemd has started this
// process, else by itself. It returns the work's error; work that ends without
// having been told to is [ErrEnded], so that the process can exit with an error
// and be started again.
func Run(ctx context.Context, work Work) error {
	n := newNotifier(os.Getenv, os.Getpid(), slog.New(slog.DiscardHandler))
	n.clear()
	return n.run(ctx, work)
}

func (n notifier) run(ctx context.Context, work Work) error {
	feeding, stop := context.WithCancel(ctx)
	var feeder sync.WaitGroup
	defer feeder.Wait()
	defer stop()
	ended := context.AfterFunc(ctx, func() { n.send("STOPPING=1", "STATUS=stopping at a safe point") })
	defer ended()
	err := work(ctx, func(log *slog.Logger, health Health) {
		ready := n // not n itself, which the stop above may be using
		ready.log = log
		ready.send("READY=1")
		feeder.Go(func() { ready.feed(feeding, health) })
	})
	return endOf(ctx, err)
}

// endOf is what the end of the work means.
func endOf(ctx context.Context, err error) error {
	if err == nil && ctx.Err() == nil {
		return ErrEnded
	}
	return err
}
