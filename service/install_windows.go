package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	kardianos "github.com/kardianos/service"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc/mgr"
)

// account is the service's own virtual account. It has no password, no rights but
// those of a user, and exists as long as the service is installed; what its SID
// was granted is granted again when it is installed anew.
const account = `NT SERVICE\` + Name

// host is the machine that is installed on. Tests have one of their own.
type host struct {
	programs  string // the folder for programs: %ProgramFiles%
	manager   func(kardianos.Config) (manager, error)
	configure func() error
	run       func(ctx context.Context, name string, args ...string) error
}

// NewPlan says what installing the service takes. It touches nothing.
func NewPlan(s Setup) (Plan, error) {
	return systemHost().plan(s)
}

func systemHost() host {
	return host{os.Getenv("ProgramFiles"), systemManager, configure, runProgram}
}

func (h host) plan(s Setup) (Plan, error) {
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	if len(s.Credentials) > 0 {
		return Plan{}, fmt.Errorf("cred:%s: only systemd hands over credentials; name the secret by file:PATH", s.Credentials[0])
	}
	steps := []Step{{"check that the service does not run", func(context.Context) error {
		m, err := h.manager(kardianos.Config{})
		if err != nil {
			return err
		}
		if status, err := (&Control{m}).Status(); err != nil || status == Running {
			return errors.Join(err, errors.New("stop it first: ksefmirror service stop"))
		}
		return nil
	}}}
	program := s.Program
	if !strings.HasPrefix(strings.ToLower(program), strings.ToLower(h.programs)+`\`) {
		program = filepath.Join(h.programs, Name, Name+".exe")
		steps = append(steps, placeProgram(s.Program, program))
	}
	config := kardianos.Config{
		Executable: program,
		Arguments:  []string{"--config", s.Config, "run", RunArgument},
		UserName:   account,
	}
	steps = append(steps,
		Step{"register the service " + Name + " and its source in the event log", func(ctx context.Context) error { return h.register(ctx, config) }},
		Step{"have it started some time after the machine, and restarted after a crash and after a failure that it reports", func(context.Context) error { return h.configure() }},
		Step{"make the folder " + s.DataDir + " and let " + account + " write there", func(ctx context.Context) error { return h.letWrite(ctx, s.DataDir) }},
		Step{"let " + account + " read " + strings.Join(append([]string{s.Config}, s.SecretFiles...), ", "), func(ctx context.Context) error { return h.letRead(ctx, s) }},
	)
	definition := fmt.Sprintf("Service:  %s\nProgram:  \"%s\" --config \"%s\" run %s\nAccount:  %s\nStart:    automatic, delayed\nRecovery: restart after 10 s, 30 s, then every minute; also on a reported failure\n",
		Name, program, s.Config, RunArgument, account)
	return Plan{Definition: definition, Steps: steps}, nil
}

// register makes the service, in place of one that is there.
func (h host) register(ctx context.Context, config kardianos.Config) error {
	m, err := h.manager(config)
	if err != nil {
		return err
	}
	control := Control{m}
	if status, err := control.Status(); err != nil || status != NotInstalled {
		if err == nil {
			err = m.Uninstall()
		}
		if err != nil {
			return fmt.Errorf("remove the service that is there: %w", err)
		}
		// Windows removes it when the last program that looks at it lets go.
		gone := func() (bool, error) {
			status, err := control.Status()
			return status == NotInstalled, err
		}
		if err := poll(ctx, goneWithin, gone); err != nil {
			return fmt.Errorf("the service that is there is still being removed; close the Services window and try again: %w", err)
		}
	}
	return m.Install()
}

// goneWithin is how long the removal of a service may take.
const goneWithin = 30 * time.Second

// configure sets what kardianos does not, or not well. Without the flag for
// failures that are not crashes Windows would leave the service stopped whenever
// it had said why it ended.
func configure() error {
	return withService(func(s *mgr.Service) error {
		change := func(level uint32, info *byte) error { return windows.ChangeServiceConfig2(s.Handle, level, info) }
		return errors.Join(setDelayedStart(change), setRecovery(s))
	})
}

func setDelayedStart(change func(level uint32, info *byte) error) error {
	delayed := windows.SERVICE_DELAYED_AUTO_START_INFO{IsDelayedAutoStartUp: 1}
	return change(windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, (*byte)(unsafe.Pointer(&delayed))) // #nosec G103 -- Windows takes any structure here
}

// recovered is a Windows service that is told what follows its failures:
// [mgr.Service].
type recovered interface {
	SetRecoveryActions(actions []mgr.RecoveryAction, resetAfterSeconds uint32) error
	SetRecoveryActionsOnNonCrashFailures(also bool) error
}

func setRecovery(s recovered) error {
	const day = 24 * 60 * 60
	return errors.Join(
		s.SetRecoveryActions([]mgr.RecoveryAction{
			{Type: mgr.ServiceRestart, Delay: 10 * time.Second},
			{Type: mgr.ServiceRestart, Delay: 30 * time.Second},
			{Type: mgr.ServiceRestart, Delay: time.Minute}, // and all later ones
		}, day),
		s.SetRecoveryActionsOnNonCrashFailures(true),
	)
}

// letWrite makes the data folder and lets the service's account write there. A
// new folder is open to administrators only, for in %ProgramData% all users could
// read the invoices; one that is there keeps what is granted.
func (h host) letWrite(ctx context.Context, folder string) error {
	_, err := os.Stat(folder)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	args := []string{folder}
	if isNew {
		// Administrators and the system, by their SIDs, whose names are translated.
		args = append(args, "/inheritance:r", "/grant:r", "*S-1-5-32-544:(OI)(CI)F", "/grant:r", "*S-1-5-18:(OI)(CI)F")
	}
	return h.run(ctx, "icacls", append(args, "/grant", account+":(OI)(CI)M")...)
}

func (h host) letRead(ctx context.Context, s Setup) error {
	// The folder of the configuration is listed, not what is in it.
	if err := h.run(ctx, "icacls", filepath.Dir(s.Config), "/grant", account+":(RX)"); err != nil {
		return err
	}
	for _, path := range append([]string{s.Config}, s.SecretFiles...) {
		if err := h.run(ctx, "icacls", path, "/grant", account+":(R)"); err != nil {
			return err
		}
	}
	return nil
}

func runProgram(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() // #nosec G204 -- the program is constant, the arguments are paths of the operator's
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
