package service

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/windows/svc"
)

// stopLimit is how long the work may take to stop at a safe point. It takes
// seconds; what takes longer is hung, and is safe to be ended too.
const stopLimit = 30 * time.Second

// patience is how long Windows is told to wait for the next sign of life.
const (
	patience = 10 * time.Second
	waitHint = uint32(patience / time.Millisecond)
)

// RunAsWindowsService is [Run] for a process that Windows's service control
// manager has started. A stop or shutdown ends ctx of the work.
func RunAsWindowsService(ctx context.Context, work Work) error {
	h := &handler{ctx: ctx, work: work}
	if err := svc.Run(Name, h); err != nil {
		return fmt.Errorf("speak to the service control manager: %w", err)
	}
	return h.err
}

// handler answers the service control manager.
type handler struct {
	ctx  context.Context // svc.Handler has no place for one
	work Work
	err  error // how the work ended
}

// Execute does the work. What it returns is the exit code that the manager sees:
// other than 0 makes it take the recovery actions.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, statuses chan<- svc.Status) (ownCode bool, code uint32) {
	const accepts = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown
	status := svc.Status{State: svc.StartPending, WaitHint: waitHint}
	statuses <- status

	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	ready := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { // it is waited for below, but not for ever
		ended <- endOf(ctx, h.work(ctx, func(*slog.Logger, Health) { ready <- struct{}{} }))
	}()

	var hung <-chan time.Time // nil: it has not been told to stop
	alive := time.NewTicker(patience / 4)
	defer alive.Stop()
	for {
		select {
		case <-ready:
			if hung == nil {
				status = svc.Status{State: svc.Running, Accepts: accepts}
				statuses <- status
			}
		case h.err = <-ended:
			if h.err != nil {
				return true, 1
			}
			return false, 0
		case <-hung:
			h.err = fmt.Errorf("the work has not stopped within %s; the process ends all the same, which is safe", stopLimit)
			return true, 1
		case <-alive.C:
			// Windows takes a service that is starting or stopping for hung when it
			// does not count on.
			if status.State != svc.Running {
				status.CheckPoint++
				statuses <- status
			}
		case request := <-requests:
			switch request.Cmd {
			case svc.Interrogate:
				statuses <- status
			case svc.Stop, svc.Shutdown, svc.PreShutdown:
				if hung != nil {
					continue
				}
				status = svc.Status{State: svc.StopPending, WaitHint: waitHint}
				statuses <- status
				hung = time.After(stopLimit)
				stop()
			}
		}
	}
}
