package service

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	kardianos "github.com/kardianos/service"
)

// How the work ends is how the process ends: only a stop that was asked for is
// not an error.
func TestEndOfTheWork(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		stopped bool
		err     error
		want    error
	}{
		"by itself":             {false, nil, ErrEnded},
		"by itself, with error": {false, broken, broken},
		"stopped":               {true, nil, nil},
		"stopped, with error":   {true, broken, broken},
	} {
		ctx, stop := context.WithCancel(t.Context())
		err := Run(ctx, func(context.Context, func(*slog.Logger, Health)) error {
			if test.stopped {
				stop()
			}
			return test.err
		})
		stop()
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func TestPulse(t *testing.T) {
	var p Pulse
	now := time.Now()
	after := func(d time.Duration) time.Time { return now.Add(d) }
	expect := func(at time.Time, want string, stuck int) {
		t.Helper()
		text, names := p.Health(at)
		if text != want || len(names) != stuck {
			t.Errorf("%q, stuck %q; want %q and %d", text, names, want, stuck)
		}
	}
	p.Moved("nobody", after(time.Hour)) // it has not said that it exists
	expect(now, "0 mirrors, all in order", 0)
	p.Beat("acme", after(time.Hour), 0)
	expect(now, "1 mirror, all in order", 0)
	p.Beat("branch", after(2*time.Hour), 3)
	expect(now, "2 mirrors, in trouble: branch", 0)
	expect(after(90*time.Minute), "2 mirrors, in trouble: branch, stuck: acme", 1)
	p.Moved("acme", after(3*time.Hour))
	p.Moved("branch", after(time.Hour)) // sooner than it has said itself
	expect(after(90*time.Minute), "2 mirrors, in trouble: branch", 0)
	expect(after(4*time.Hour), "2 mirrors, in trouble: branch, stuck: acme, branch", 2)
	p.Beat("branch", after(2*time.Hour), 0)
	expect(now, "2 mirrors, all in order", 0)
	for _, name := range []string{"c", "d", "e", "f", "g"} {
		p.Beat(name, after(time.Hour), 1)
	}
	p.Beat("acme", after(time.Hour), 1)
	expect(now, "7 mirrors, in trouble: acme, c, d, e, f and 1 more", 0)
}

// fakeManager remembers what it was told.
type fakeManager struct {
	status kardianos.Status
	err    error // of Status
	told   []string
	refuse error
}

func (f *fakeManager) tell(what string) error {
	f.told = append(f.told, what)
	return f.refuse
}

func (f *fakeManager) Install() error                    { return f.tell("install") }
func (f *fakeManager) Uninstall() error                  { return f.tell("uninstall") }
func (f *fakeManager) Start() error                      { return f.tell("start") }
func (f *fakeManager) Stop() error                       { return f.tell("stop") }
func (f *fakeManager) Restart() error                    { return f.tell("restart") }
func (f *fakeManager) Status() (kardianos.Status, error) { return f.status, f.err }

func TestControl(t *testing.T) {
	none := &fakeManager{err: kardianos.ErrNotInstalled}
	c := Control{none}
	for name, order := range map[string]func(context.Context) error{"start": c.Start, "stop": c.Stop, "restart": c.Restart, "uninstall": c.Uninstall} {
		if err := order(t.Context()); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%s without a service: %v", name, err)
		}
	}
	if len(none.told) != 0 {
		t.Errorf("the manager was told %q", none.told)
	}

	for name, test := range map[string]struct {
		fake fakeManager
		want Status
		told []string // by uninstall
	}{
		"running": {fakeManager{status: kardianos.StatusRunning}, Running, []string{"stop", "uninstall"}},
		"stopped": {fakeManager{status: kardianos.StatusStopped}, Stopped, []string{"uninstall"}},
		"failed":  {fakeManager{err: errors.New("service in failed state")}, Failed, []string{"uninstall"}},
	} {
		c := Control{&test.fake}
		if status, err := c.Status(); status != test.want || err != nil || status.String() != name {
			t.Errorf("%s: %s, %v", name, status, err)
		}
		if err := c.Uninstall(t.Context()); err != nil || len(test.fake.told) != len(test.told) || test.fake.told[0] != test.told[0] {
			t.Errorf("%s: uninstall told the manager %q, %v", name, test.fake.told, err)
		}
	}

	// A service that does not stop is not removed under its feet.
	hung := &fakeManager{status: kardianos.StatusRunning, refuse: errors.New("timed out")}
	if err := (&Control{hung}).Uninstall(t.Context()); err == nil || len(hung.told) != 1 {
		t.Errorf("%v, told %q", err, hung.told)
	}
	lost := Control{&fakeManager{err: errors.New("no bus")}}
	if err := lost.Start(t.Context()); err == nil {
		t.Error("an unreachable manager took an order")
	}
}
