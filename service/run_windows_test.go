package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"

	"ksefmirror/internal/event"
)

// life runs a handler in the hands of a manager that gives the orders one after
// another, and tells what the manager saw.
func life(t *testing.T, work Work, orders ...svc.Cmd) (states []svc.State, code uint32, err error) {
	t.Helper()
	requests := make(chan svc.ChangeRequest)
	statuses := make(chan svc.Status, 100)
	h := &handler{ctx: t.Context(), work: work}
	ended := make(chan uint32)
	go func() {
		_, code := h.Execute(nil, requests, statuses)
		ended <- code
	}()
	synctest.Wait()
	for _, order := range orders {
		requests <- svc.ChangeRequest{Cmd: order}
		synctest.Wait()
	}
	code = <-ended
	close(statuses)
	for status := range statuses {
		if len(states) == 0 || states[len(states)-1] != status.State {
			states = append(states, status.State)
		}
		if status.State == svc.Running && status.Accepts&(svc.AcceptStop|svc.AcceptShutdown|svc.AcceptPreShutdown) == 0 {
			t.Error("it cannot be stopped")
		}
	}
	return states, code, h.err
}

func good() (string, []string) { return "", nil }

func TestHandler(t *testing.T) {
	broken := errors.New("broken")
	start := func(ready func(*slog.Logger, Health)) {
		ready(slog.New(slog.DiscardHandler), func(time.Time) (string, []string) { return good() })
	}
	for name, test := range map[string]struct {
		work   Work
		orders []svc.Cmd
		states []svc.State
		code   uint32
		err    error
		took   time.Duration
	}{
		"stopped at a safe point": {
			func(ctx context.Context, ready func(*slog.Logger, Health)) error {
				start(ready)
				<-ctx.Done()
				<-time.After(20 * time.Second) // the safe point
				return nil
			},
			[]svc.Cmd{svc.Interrogate, svc.Stop, svc.Stop}, []svc.State{svc.StartPending, svc.Running, svc.StopPending}, 0, nil, 20 * time.Second,
		},
		"shut down": {
			func(ctx context.Context, ready func(*slog.Logger, Health)) error {
				start(ready)
				<-ctx.Done()
				return nil
			},
			[]svc.Cmd{svc.PreShutdown}, []svc.State{svc.StartPending, svc.Running, svc.StopPending}, 0, nil, 0,
		},
		"hung": {
			func(ctx context.Context, ready func(*slog.Logger, Health)) error {
				start(ready)
				<-ctx.Done()
				<-time.After(time.Hour)
				return nil
			},
			[]svc.Cmd{svc.Stop}, []svc.State{svc.StartPending, svc.Running, svc.StopPending}, 1, nil, stopLimit,
		},
		"ended by itself": {
			func(_ context.Context, ready func(*slog.Logger, Health)) error {
				start(ready)
				<-time.After(time.Minute)
				return nil
			},
			nil, []svc.State{svc.StartPending, svc.Running}, 1, ErrEnded, time.Minute,
		},
		"did not start": {
			func(context.Context, func(*slog.Logger, Health)) error { return broken },
			nil, []svc.State{svc.StartPending}, 1, broken, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				states, code, err := life(t, test.work, test.orders...)
				if !slices.Equal(states, test.states) {
					t.Errorf("the manager saw %v, want %v", states, test.states)
				}
				if code != test.code || test.err != nil && !errors.Is(err, test.err) || (err == nil) != (code == 0) {
					t.Errorf("code %d, %v", code, err)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				<-time.After(2 * time.Hour) // let what hung end
			})
		})
	}
}

// eventNotes is an event log that takes notes.
type eventNotes []string

func (e *eventNotes) Info(id uint32, text string) error {
	*e = append(*e, fmt.Sprintf("info %d %s", id, text))
	return nil
}

func (e *eventNotes) Warning(id uint32, text string) error {
	*e = append(*e, fmt.Sprintf("warning %d %s", id, text))
	return nil
}

func (e *eventNotes) Error(id uint32, text string) error {
	*e = append(*e, fmt.Sprintf("error %d %s", id, text))
	return nil
}

func TestEventLog(t *testing.T) {
	var notes eventNotes
	level := new(slog.LevelVar)
	log := slog.New(newEventHandler(&notes, level)).With("mirror", "acme")
	log.Debug("request")
	log.Info("cycle done", "added", 3)
	log.WithGroup("disk").Warn("nearly full", "left", 5)
	log.Error("mirror is in trouble", "err", errors.New("no network"))
	event.Log(log, event.Trouble, "err", errors.New("no network"))
	log.Warn("not an event", event.Key, 1001)
	level.Set(slog.LevelWarn)
	log.Info("cycle done")
	want := []string{
		`info 1 msg="cycle done" mirror=acme added=3`,
		`warning 2 msg="nearly full" mirror=acme disk.left=5`,
		`error 3 msg="mirror is in trouble" mirror=acme err="no network"`,
		`error 110 msg="mirror is in trouble, it will be tried again" mirror=acme event=110 err="no network"`,
		`warning 2 msg="not an event" mirror=acme event=1001`,
	}
	if !slices.Equal(notes, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(notes, "\n"), strings.Join(want, "\n"))
	}
}

// asService makes this test binary the service that TestServiceManager installs.
// It takes the name of the program's flag for its configuration.
func TestMain(m *testing.M) {
	if !slices.Contains(os.Args, RunArgument) {
		os.Exit(m.Run())
	}
	folder := filepath.Dir(os.Args[slices.Index(os.Args, "--config")+1])
	err := RunAsWindowsService(context.Background(), func(ctx context.Context, ready func(*slog.Logger, Health)) error {
		if _, err := os.Stat(filepath.Join(folder, "broken")); err == nil {
			return errors.New("broken")
		}
		ready(slog.New(slog.DiscardHandler), func(time.Time) (string, []string) { return good() })
		<-ctx.Done()
		return os.WriteFile(filepath.Join(folder, "stopped"), []byte("at a safe point"), 0o600)
	})
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// The service manager of this machine, in truth. It installs, and so needs an
// administrator and a machine without ksefmirror: .ci/wine-test makes one.
func TestServiceManager(t *testing.T) {
	if os.Getenv("KSEFMIRROR_TEST_SERVICE_MANAGER") == "" {
		t.Skip("KSEFMIRROR_TEST_SERVICE_MANAGER is not set: it would install a service on this machine")
	}
	folder := t.TempDir()
	config := filepath.Join(folder, "config.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	control, err := NewControl()
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want Status) {
		t.Helper()
		if status, err := control.Status(); status != want || err != nil {
			t.Fatalf("%s, %v; want %s", status, err, want)
		}
	}
	expect(NotInstalled)
	install := func() {
		t.Helper()
		h := systemHost()
		h.configure = func() error {
			err := configure()
			if errors.Is(err, windows.ERROR_INVALID_LEVEL) {
				t.Logf("not tried: this service manager, Wine's, knows no delayed start and no recovery: %v", err)
				return nil
			}
			return err
		}
		plan, err := h.plan(Setup{Program: program, Config: config, DataDir: filepath.Join(folder, "data")})
		if err != nil {
			t.Fatal(err)
		}
		if err := plan.Install(t.Context(), func(s Step) { t.Log(s.Text) }); err != nil {
			t.Fatal(err)
		}
	}
	install()
	expect(Stopped)
	if err := control.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(Running)
	if err := control.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(Running)
	if _, err := os.Stat(filepath.Join(folder, "stopped")); err != nil {
		t.Errorf("it was not stopped at its safe point: %v", err)
	}
	if err := control.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(Stopped)
	install() // again
	if err := os.WriteFile(filepath.Join(folder, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := control.Start(t.Context()); err == nil {
		t.Error("a service that fails has started")
	}
	if err := control.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(NotInstalled)
}
