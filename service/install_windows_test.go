package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	kardianos "github.com/kardianos/service"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// scratch is a machine in a folder, with a service manager that takes notes.
type scratch struct {
	host
	fake   fakeManager
	config kardianos.Config
	ran    []string
	setup  Setup
}

func newScratch(t *testing.T) *scratch {
	folder := t.TempDir()
	s := &scratch{fake: fakeManager{err: kardianos.ErrNotInstalled}}
	s.host = host{
		programs: filepath.Join(folder, "Program Files"),
		manager: func(config kardianos.Config) (manager, error) {
			if config.Executable != "" {
				s.config = config
			}
			return &s.fake, nil
		},
		configure: func() error { return s.fake.tell("configure") },
		run: func(_ context.Context, name string, args ...string) error {
			s.ran = append(s.ran, name+" "+strings.ReplaceAll(strings.Join(args, " "), folder, "X:"))
			return nil
		},
	}
	s.setup = Setup{
		Program:     filepath.Join(folder, "Downloads", "ksefmirror.exe"),
		Config:      filepath.Join(folder, "config.toml"),
		DataDir:     filepath.Join(folder, "data"),
		SecretFiles: []string{filepath.Join(folder, "secrets", "acme.token")},
	}
	if err := os.MkdirAll(filepath.Dir(s.setup.Program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.setup.Program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scratch) install(t *testing.T) error {
	t.Helper()
	plan, err := s.plan(s.setup)
	if err != nil {
		return err
	}
	return plan.Install(t.Context(), func(Step) {})
}

func TestInstall(t *testing.T) {
	s := newScratch(t)
	if err := s.install(t); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(s.programs, "ksefmirror", "ksefmirror.exe")
	if text, err := os.ReadFile(program); err != nil || string(text) != "program" {
		t.Errorf("the program was not copied: %v", err)
	}
	if s.config.Executable != program || s.config.UserName != `NT SERVICE\ksefmirror` ||
		!slices.Equal(s.config.Arguments, []string{"--config", s.setup.Config, "run", "--windows-service"}) {
		t.Errorf("registered %+v", s.config)
	}
	if !slices.Equal(s.fake.told, []string{"install", "configure"}) {
		t.Errorf("the manager was told %q", s.fake.told)
	}
	want := []string{
		`icacls X:\data /inheritance:r /grant:r *S-1-5-32-544:(OI)(CI)F /grant:r *S-1-5-18:(OI)(CI)F /grant NT SERVICE\ksefmirror:(OI)(CI)M`,
		`icacls X: /grant NT SERVICE\ksefmirror:(RX)`,
		`icacls X:\config.toml /grant NT SERVICE\ksefmirror:(R)`,
		`icacls X:\secrets\acme.token /grant NT SERVICE\ksefmirror:(R)`,
	}
	if !slices.Equal(s.ran, want) {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(s.ran, "\n"), strings.Join(want, "\n"))
	}

	// What others were granted on a folder that is there stays.
	s.ran = nil
	if err := s.install(t); err != nil {
		t.Fatal(err)
	}
	if want := `icacls X:\data /grant NT SERVICE\ksefmirror:(OI)(CI)M`; s.ran[0] != want {
		t.Errorf("ran %q, want %q", s.ran[0], want)
	}
}

func TestInstallRefuses(t *testing.T) {
	s := newScratch(t)
	s.fake = fakeManager{status: kardianos.StatusRunning}
	if err := s.install(t); err == nil || !strings.Contains(err.Error(), "service stop") || len(s.ran)+len(s.fake.told) != 0 {
		t.Errorf("a running service: %v, ran %q, told %q", err, s.ran, s.fake.told)
	}
	s.setup.Credentials = []string{"acme.token"}
	if err := s.install(t); err == nil || !strings.Contains(err.Error(), "file:") {
		t.Errorf("a credential of systemd: %v", err)
	}
}

// fakeRecovery is a service manager's note of what follows failures.
type fakeRecovery struct {
	actions []mgr.RecoveryAction
	reset   uint32
	also    bool
	refuse  error
}

func (f *fakeRecovery) SetRecoveryActions(actions []mgr.RecoveryAction, reset uint32) error {
	f.actions, f.reset = actions, reset
	return f.refuse
}

func (f *fakeRecovery) SetRecoveryActionsOnNonCrashFailures(also bool) error {
	f.also = also
	return nil
}

// What the plan says of recovery is what Windows is told: it restarts after every
// failure, also one that the program reports, and never gives up.
func TestRecovery(t *testing.T) {
	var f fakeRecovery
	if err := setRecovery(&f); err != nil {
		t.Fatal(err)
	}
	s := newScratch(t)
	plan, err := s.plan(s.setup)
	if err != nil {
		t.Fatal(err)
	}
	var waits []string
	for _, action := range f.actions {
		if action.Type != mgr.ServiceRestart {
			t.Errorf("it does %+v", action)
		}
		waits = append(waits, action.Delay.String())
	}
	if got := strings.Join(waits, " "); got != "10s 30s 1m0s" || !f.also || f.reset != 24*60*60 ||
		!strings.Contains(plan.Definition, "restart after 10 s, 30 s, then every minute; also on a reported failure") {
		t.Errorf("it waits %s, also without a crash: %v, begins anew after %d s; the plan says\n%s", got, f.also, f.reset, plan.Definition)
	}
	f.refuse = windows.ERROR_ACCESS_DENIED
	if err := setRecovery(&f); !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		t.Errorf("refused, and got %v", err)
	}
}

// What the plan says of the start is what Windows is told.
func TestDelayedStart(t *testing.T) {
	var level, delayed uint32
	refused := windows.ERROR_ACCESS_DENIED
	err := setDelayedStart(func(l uint32, info *byte) error {
		level, delayed = l, (*windows.SERVICE_DELAYED_AUTO_START_INFO)(unsafe.Pointer(info)).IsDelayedAutoStartUp // #nosec G103 -- as Windows reads it
		return refused
	})
	if level != windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO || delayed != 1 || !errors.Is(err, refused) {
		t.Errorf("at level %d it says %d; refused, and got %v", level, delayed, err)
	}
	s := newScratch(t)
	if plan, err := s.plan(s.setup); err != nil || !strings.Contains(plan.Definition, "Start:    automatic, delayed\n") {
		t.Errorf("%v; the plan says\n%s", err, plan.Definition)
	}
}

// fakeService is a Windows service that takes its time.
type fakeService struct {
	states []svc.State // one for each query; the last stays
	code   uint32
	refuse error
	told   []string
}

func (f *fakeService) Start(...string) error {
	f.told = append(f.told, "start")
	return f.refuse
}

func (f *fakeService) Control(svc.Cmd) (svc.Status, error) {
	f.told = append(f.told, "stop")
	return svc.Status{}, f.refuse
}

func (f *fakeService) Query() (svc.Status, error) {
	state := f.states[0]
	if len(f.states) > 1 {
		f.states = f.states[1:]
	}
	return svc.Status{State: state, ServiceSpecificExitCode: f.code, ProcessId: 17}, nil
}

func TestOrdersAreWaitedFor(t *testing.T) {
	order := func(f *fakeService) bounded {
		return bounded{with: func(do func(controlled) error) error { return do(f) }}
	}
	slow := &fakeService{states: []svc.State{svc.StopPending, svc.StopPending, svc.Stopped, svc.StartPending, svc.Running}}
	if err := order(slow).Restart(); err != nil || !slices.Equal(slow.told, []string{"stop", "start"}) || len(slow.states) != 1 {
		t.Errorf("%v, told %q, %d states left", err, slow.told, len(slow.states))
	}
	broken := &fakeService{states: []svc.State{svc.StartPending, svc.Stopped}, code: 2}
	if err := order(broken).Start(); err == nil || !strings.Contains(err.Error(), "exit code") {
		t.Errorf("a service that ends at once: %v", err)
	}
	if err := order(&fakeService{states: []svc.State{svc.Stopped}, refuse: windows.ERROR_SERVICE_NOT_ACTIVE}).Stop(); err != nil {
		t.Errorf("stopping what is stopped: %v", err)
	}
	denied := &fakeService{states: []svc.State{svc.Running}, refuse: windows.ERROR_ACCESS_DENIED}
	if err := order(denied).Stop(); !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		t.Error(err)
	}
}
