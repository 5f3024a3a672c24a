package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listen is systemd's end of a notification socket: a real one.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

// next is the next datagram.
func next(t *testing.T, socket *net.UnixConn) string {
	t.Helper()
	if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := socket.Read(buffer)
	if err != nil {
		t.Fatalf("nothing came: %v", err)
	}
	return string(buffer[:n])
}

func environment(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestNewNotifier(t *testing.T) {
	for name, test := range map[string]struct {
		environment map[string]string
		every       time.Duration
		dog         bool
	}{
		"not started by systemd":    {nil, feedEvery, false},
		"no watchdog":               {map[string]string{"NOTIFY_SOCKET": "/x"}, feedEvery, false},
		"watchdog":                  {map[string]string{"WATCHDOG_USEC": "30000000"}, 15 * time.Second, true},
		"slow watchdog":             {map[string]string{"WATCHDOG_USEC": "3600000000"}, feedEvery, true},
		"watchdog of this process":  {map[string]string{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15 * time.Second, true},
		"watchdog of another":       {map[string]string{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, feedEvery, false},
		"watchdog that is nonsense": {map[string]string{"WATCHDOG_USEC": "-1"}, feedEvery, false},
	} {
		n := newNotifier(environment(test.environment), 42, nil)
		if n.every != test.every || n.dog != test.dog || n.socket != test.environment["NOTIFY_SOCKET"] {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// What systemd hears of a life, in order, over both kinds of socket names.
func TestNotifications(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@ksefmirror-test-" + filepath.Base(t.TempDir())} {
		socket := listen(t, name)
		n := newNotifier(environment(map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"}), os.Getpid(), slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- n.run(ctx, func(ctx context.Context, ready func(*slog.Logger, Health)) error {
				ready(slog.New(slog.DiscardHandler), func(time.Time) (string, []string) { return "two mirrors", nil })
				<-ctx.Done()
				return nil
			})
		}()
		if got := next(t, socket); got != "READY=1" {
			t.Errorf("first came %q", got)
		}
		for range 3 {
			if got := next(t, socket); got != "STATUS=two mirrors\nWATCHDOG=1" {
				t.Errorf("then came %q", got)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for got := ""; !strings.HasPrefix(got, "STOPPING=1"); {
			got = next(t, socket)
		}
	}
}

// The watchdog goes hungry when a mirror does not move, and only then.
func TestWatchdogIsNotFedWhenStuck(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	socket := listen(t, name)
	var log bytes.Buffer
	n := newNotifier(environment(map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"}), os.Getpid(), slog.New(slog.NewTextHandler(&log, nil)))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	asked := 0
	go func() {
		defer close(ended)
		n.feed(ctx, func(time.Time) (string, []string) {
			asked++
			if asked%2 == 0 {
				return "one of two moves", []string{"acme"}
			}
			return "fine", nil
		})
	}()
	for range 3 {
		if got := next(t, socket); got != "STATUS=fine\nWATCHDOG=1" {
			t.Errorf("it moved, and %q came", got)
		}
		if got := next(t, socket); got != "STATUS=one of two moves" {
			t.Errorf("it did not move, and %q came", got)
		}
	}
	stop()
	<-ended
	if !strings.Contains(log.String(), "mirrors=[acme]") {
		t.Errorf("the log does not say what is stuck:\n%s", log.String())
	}
}

// A manager that does not listen does not stop the work.
func TestManagerThatDoesNotListen(t *testing.T) {
	n := newNotifier(environment(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "gone")}), os.Getpid(), slog.New(slog.DiscardHandler))
	broken := errors.New("broken")
	err := n.run(t.Context(), func(_ context.Context, ready func(*slog.Logger, Health)) error {
		ready(slog.New(slog.DiscardHandler), func(time.Time) (string, []string) { return "", nil })
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// What the program starts, such as a hook, must not speak for it.
func TestChildrenDoNotInheritTheSocket(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(name, "1")
	}
	if err := Run(t.Context(), func(context.Context, func(*slog.Logger, Health)) error {
		for _, variable := range os.Environ() {
			if strings.HasPrefix(variable, "NOTIFY_") || strings.HasPrefix(variable, "WATCHDOG_") {
				t.Errorf("%s is still there", variable)
			}
		}
		return errors.New("enough")
	}); err == nil {
		t.Error("no error")
	}
}
