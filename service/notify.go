package service

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"ksefmirror/internal/event"
)

// feedEvery is how often the manager is told how the program is, when it asks for
// no watchdog signal that is due more often.
const feedEvery = time.Minute

// notifier speaks systemd's protocol of readiness, sd_notify(3): datagrams to a
// socket that the environment names. It is these few lines, not a dependency.
type notifier struct {
	socket string        // "": nobody listens
	every  time.Duration // how often feed is due
	dog    bool          // whether systemd waits for a watchdog signal
	log    *slog.Logger
}

// newNotifier reads what systemd wants from the environment, by getenv, for the
// process with the given id.
func newNotifier(getenv func(string) string, pid int, log *slog.Logger) notifier {
	n := notifier{socket: getenv("NOTIFY_SOCKET"), every: feedEvery, log: log}
	// sd_watchdog_enabled(3): WATCHDOG_PID may name another process.
	µs, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	who := getenv("WATCHDOG_PID")
	if err == nil && µs > 0 && (who == "" || who == strconv.Itoa(pid)) {
		n.dog = true
		n.every = min(n.every, time.Duration(µs)*time.Microsecond/2)
	}
	return n
}

// send sends assignments, such as READY=1. That the manager cannot be told is no
// reason to stop working; a manager that was waiting will act by itself.
func (n notifier) send(assignments ...string) {
	if n.socket == "" {
		return
	}
	// A name that begins with @ is an abstract one, for package net as for systemd.
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = connection.Write([]byte(strings.Join(assignments, "\n")))
		_ = connection.Close() // a datagram has been sent or not
	}
	if err != nil {
		n.log.Warn("the service manager could not be told how it goes", "err", err)
	}
}

// feed tells the manager how the program is, over and over until ctx ends. The
// watchdog gets its signal only while nothing is stuck.
func (n notifier) feed(ctx context.Context, health func(time.Time) (string, []string)) {
	if n.socket == "" {
		return
	}
	ticker := time.NewTicker(n.every)
	defer ticker.Stop()
	for {
		text, stuck := health(time.Now())
		state := []string{"STATUS=" + text}
		switch {
		case len(stuck) > 0:
			event.Log(n.log, event.Stuck, "mirrors", stuck)
		case n.dog:
			state = append(state, "WATCHDOG=1")
		}
		n.send(state...)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// clear keeps the programs that this one starts, such as hooks, from speaking in
// its name.
func (notifier) clear() {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails only for names that are not names
	}
}
