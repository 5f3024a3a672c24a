package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	// startWithin is how long a start may take; the program is ready in a second.
	startWithin = time.Minute
	// stopWithin is how long a stop may take: more than the program gives itself.
	stopWithin = stopLimit + 15*time.Second
)

// bounded starts and stops a Windows service and waits for it, not for ever as
// kardianos would. The rest it leaves to the manager it wraps.
type bounded struct {
	manager
	with func(func(controlled) error) error
}

// controlled is a Windows service that is given orders: [mgr.Service].
type controlled interface {
	Start(args ...string) error
	Control(svc.Cmd) (svc.Status, error)
	Query() (svc.Status, error)
}

func withBoundedStop(m manager) manager {
	return bounded{m, func(do func(controlled) error) error {
		return withService(func(s *mgr.Service) error { return do(s) })
	}}
}

func (b bounded) Start() error { return b.with(startService) }
func (b bounded) Stop() error  { return b.with(stopService) }

func (b bounded) Restart() error {
	return b.with(func(s controlled) error {
		if err := stopService(s); err != nil {
			return err
		}
		return startService(s)
	})
}

// withService opens the service for do.
func withService(do func(*mgr.Service) error) (err error) {
	services, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, services.Disconnect()) }()
	s, err := services.OpenService(Name)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(s)
}

func startService(s controlled) error {
	if err := s.Start(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
		return err
	}
	return poll(context.Background(), startWithin, func() (bool, error) {
		status, err := s.Query()
		if err == nil && status.State == svc.Stopped {
			err = fmt.Errorf("it ended at once, with exit code %d (%d of its own); the Application event log says why", status.Win32ExitCode, status.ServiceSpecificExitCode)
		}
		return status.State == svc.Running, err
	})
}

func stopService(s controlled) error {
	if _, err := s.Control(svc.Stop); err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return err
	}
	var process uint32
	err := poll(context.Background(), stopWithin, func() (bool, error) {
		status, err := s.Query()
		process = status.ProcessId
		return status.State == svc.Stopped, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it has not stopped within %s; end it with: taskkill /F /PID %d; no invoice is lost", stopWithin, process)
	}
	return err
}

// poll asks until the answer is true or an error. After the time that it may take
// the error is [context.DeadlineExceeded].
func poll(ctx context.Context, within time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if done, err := ask(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
