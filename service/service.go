// Package service puts the program into the care of the operating system's
// service manager: systemd, Windows's service control manager, or launchd. It
// says what an installation does before it does it, tells the manager that the
// program is ready and alive, and ends a program that ends by itself with an
// error, so that the manager acts.
//
// It does not know what the program does. kardianos/service registers with the
// managers and gives them their orders; what it does not do stands here: our own
// systemd unit, recovery on Windows, bounded stops, readiness and watchdog.
package service

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	kardianos "github.com/kardianos/service"
)

// Name is the name of the service, of its user, and of its group.
const Name = "ksefmirror"

const (
	displayName = "ksefmirror"
	description = "Keeps a copy of invoices from KSeF"
)

// RunArgument tells the program that Windows's service control manager has
// started it. It cannot find out reliably by itself.
const RunArgument = "--windows-service"

// ErrNotInstalled is returned by what needs an installed service.
var ErrNotInstalled = errors.New("the service is not installed")

// Setup says what to install. All paths are absolute.
type Setup struct {
	Program string // the program that runs now
	Config  string // its configuration file
	// DataDir holds the folders of the mirrors, and what else the program writes to,
	// Mirrors, each named in full. Only these are handed over to the service's account,
	// whatever else is in DataDir.
	DataDir string
	Mirrors []string
	// BackupDir is the folder for backups; "" when there is none. The service's
	// account must be able to write there.
	BackupDir string
	// Credentials are the names in cred: references. Each is a file of that name,
	// or with .cred after it if systemd-creds has encrypted it, in the folder
	// secrets beside Config.
	Credentials []string
	// SecretFiles are the files that file: and dpapi: references name.
	SecretFiles []string
}

func (s Setup) validate() error {
	paths := slices.Concat([]string{s.Program, s.Config, s.DataDir}, s.Mirrors, s.SecretFiles)
	if s.BackupDir != "" {
		paths = append(paths, s.BackupDir)
	}
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("install the service: %q is not an absolute path", path)
		}
	}
	return nil
}

// Plan is an installation that has not been done yet.
type Plan struct {
	// Definition is what the service manager is told: on Linux the systemd unit.
	Definition string
	Steps      []Step // in order
}

// Step is one thing that an installation does. Each may be repeated: installing
// what is installed renews it.
type Step struct {
	Text string // such as "create the system user ksefmirror"
	do   func(context.Context) error
}

// Install does what the plan says, and calls done after each step. After an error
// the steps before it stay done; the plan can be tried again from its beginning.
func (p Plan) Install(ctx context.Context, done func(Step)) error {
	for _, step := range p.Steps {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.Text, err)
		}
		done(step)
	}
	return nil
}

// Status is what the service manager says of the service.
type Status int

// The answers of a service manager. After a failure, systemd that is about to
// start the service again calls it running.
const (
	NotInstalled Status = iota
	Stopped
	Running
	Failed
)

func (s Status) String() string {
	return [...]string{"not installed", "stopped", "running", "failed"}[s]
}

// manager is what is asked of a service manager: of kardianos/service in truth,
// of a fake in tests.
type manager interface {
	Install() error
	Uninstall() error
	Start() error
	Stop() error
	Restart() error
	Status() (kardianos.Status, error)
}

// systemManager is the manager of this system. config holds what only Install
// needs to know.
func systemManager(config kardianos.Config) (manager, error) {
	if runtime.GOOS == "linux" && kardianos.Platform() != "linux-systemd" {
		return nil, errors.New("this system was not started by systemd: let its own service manager keep \"ksefmirror run\" running")
	}
	config.Name = Name
	config.DisplayName = displayName
	config.Description = description
	return kardianos.New(nil, &config)
}

// Control gives an installed service its orders.
type Control struct {
	manager manager
}

// NewControl gives the control of the service on this system. Its error says that
// there is no service manager that is known here.
func NewControl() (*Control, error) {
	m, err := systemManager(kardianos.Config{})
	if err != nil {
		return nil, err
	}
	return &Control{withBoundedStop(m)}, nil
}

// Start starts the service, and returns when the manager says that it has
// started.
func (c *Control) Start(context.Context) error { return c.order("start", c.manager.Start) }

// Stop stops the service, and returns when it has stopped, or with an error when
// the time that a stop may take is over.
func (c *Control) Stop(context.Context) error { return c.order("stop", c.manager.Stop) }

// Restart stops the service if it runs, and starts it.
func (c *Control) Restart(context.Context) error { return c.order("restart", c.manager.Restart) }

// Uninstall stops the service and removes it from the manager. It leaves the
// program, the configuration, the invoices and the service's account alone.
func (c *Control) Uninstall(ctx context.Context) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == Running {
		if err := c.Stop(ctx); err != nil {
			return err
		}
	}
	return c.order("uninstall", c.manager.Uninstall)
}

func (c *Control) order(what string, do func() error) error {
	status, err := c.Status()
	switch {
	case err != nil:
		return err
	case status == NotInstalled:
		return fmt.Errorf("%s the service: %w", what, ErrNotInstalled)
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s the service: %w", what, err)
	}
	return nil
}

// Status asks the manager how the service is.
func (c *Control) Status() (Status, error) {
	status, err := c.manager.Status()
	switch {
	case errors.Is(err, kardianos.ErrNotInstalled):
		return NotInstalled, nil
	case err != nil && strings.Contains(err.Error(), "failed state"): // kardianos has no other word for it
		return Failed, nil
	case err != nil:
		return NotInstalled, fmt.Errorf("ask the service manager: %w", err)
	case status == kardianos.StatusRunning:
		return Running, nil
	}
	return Stopped, nil
}
