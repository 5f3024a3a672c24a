package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// folder is a data folder whose path is short enough for a socket, whatever the
// test's name.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serving is a daemon that does what handle does, until the test or stop ends it.
func serving(t *testing.T, dataDir string, handle Handler) (stop func()) {
	t.Helper()
	server, err := Listen(t.Context(), dataDir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(ctx, slog.New(slog.DiscardHandler), handle)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// What is printed comes through byte for byte, by either stream, and the exit code
// with it, for several at a time.
func TestAsk(t *testing.T) {
	dir := folder(t)
	long := strings.Repeat("zażółć \x00\u2028 gęślą\n", 5000)
	serving(t, dir, func(_ context.Context, args []string, stdout, stderr io.Writer) int {
		_, _ = fmt.Fprint(stdout, strings.Join(args, "|"))
		_, _ = io.WriteString(stderr, long)
		_, _ = fmt.Fprint(stdout, "end")
		return 3
	})
	answers := make(chan error)
	for range 8 {
		go func() {
			var stdout, stderr bytes.Buffer
			code, found, err := Ask(t.Context(), dir, []string{"sync", "ACME", "--wait=true", "ż"}, &stdout, &stderr)
			if code != 3 || !found || err != nil || stdout.String() != "sync|ACME|--wait=true|żend" || stderr.String() != long {
				err = fmt.Errorf("code %d, found %t, %w; printed %q and %d bytes", code, found, err, stdout.String(), stderr.Len())
			}
			answers <- err
		}()
	}
	for range 8 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// One daemon for a data folder; a socket that was left behind is no daemon.
func TestListen(t *testing.T) {
	dir := folder(t)
	none := func() {
		t.Helper()
		if _, found, err := Ask(t.Context(), dir, []string{"sync"}, io.Discard, io.Discard); found || err != nil {
			t.Errorf("found %t, %v", found, err)
		}
	}
	none()
	// What a daemon leaves behind that is killed: a socket that nobody listens at.
	if err := os.Mkdir(Folder(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	none()
	stop := serving(t, dir, func(context.Context, []string, io.Writer, io.Writer) int { return 0 })
	if _, err := Listen(t.Context(), dir); !errors.Is(err, ErrRunning) {
		t.Errorf("a second daemon: %v", err)
	}
	if _, found, err := Ask(t.Context(), dir, []string{"sync"}, io.Discard, io.Discard); !found || err != nil {
		t.Errorf("after the second: found %t, %v", found, err)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]fs.FileMode{Folder(dir): 0o700, socketPath(dir): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
	stop()
	none()
	serving(t, dir, func(context.Context, []string, io.Writer, io.Writer) int { return 0 })

	if _, err := Listen(t.Context(), filepath.Join(dir, strings.Repeat("long", 25))); err == nil || !strings.Contains(err.Error(), "shorter data_dir") {
		t.Errorf("a path that no system takes: %v", err)
	}
}

// Who asks and goes away ends what was asked for; a daemon that ends says so.
func TestEnds(t *testing.T) {
	dir := folder(t)
	at, ended := make(chan struct{}), make(chan struct{}, 1)
	stop := serving(t, dir, func(ctx context.Context, _ []string, _, _ io.Writer) int {
		at <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return 1
	})
	ctx, leave := context.WithCancel(t.Context())
	told := make(chan error, 1)
	ask := func(ctx context.Context) {
		_, _, err := Ask(ctx, dir, []string{"sync"}, io.Discard, io.Discard)
		told <- err
	}
	go ask(ctx)
	<-at
	leave()
	if err := <-told; !errors.Is(err, context.Canceled) {
		t.Errorf("told %v", err)
	}
	<-ended
	go ask(t.Context())
	<-at
	stop()
	<-ended
	if err := <-told; err != nil { // the handler's answer came through
		t.Errorf("told %v", err)
	}
}

// A daemon that is killed at work, or that is no daemon of ours.
func TestAskWhatBreaks(t *testing.T) {
	for name, answer := range map[string]string{
		"killed":         "{\"out\":\"x\"}\n",
		"killed at once": "",
		"in mid-line":    `{"out":"x`,
		"nonsense":       "HTTP/1.1 400 Bad Request\n",
		"exit code 300":  "{\"code\":300}\n",
		"too long":       strings.Repeat("x", maxFrame+1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			if err := os.Mkdir(Folder(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = connection.Read(make([]byte, 1000))
				_, _ = io.WriteString(connection, answer)
				_ = connection.Close()
			}()
			if code, found, err := Ask(t.Context(), dir, []string{"sync"}, io.Discard, io.Discard); !found || err == nil {
				t.Errorf("code %d, found %t, %v", code, found, err)
			}
		})
	}
}

// Who asks and takes nothing holds up the work once, not with every line.
func TestWhoTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		defer theirs.Close()
		out := stream{&frames{connection: ours}, false}
		started := time.Now()
		for range 100 {
			if _, err := io.WriteString(out, "a line\n"); err == nil {
				t.Fatal("it was taken")
			}
		}
		if took := time.Since(started); took != patience {
			t.Errorf("it took %s", took)
		}
	})
}

// Whatever is sent, a daemon serves on.
func TestServeWhatIsNoRequest(t *testing.T) {
	dir := folder(t)
	serving(t, dir, func(_ context.Context, args []string, _, _ io.Writer) int {
		if !slices.Equal(args, []string{"sync"}) {
			t.Errorf("did %q", args)
		}
		return 0
	})
	for _, sent := range []string{"", "\n", "{}\n", `{"args":[]}` + "\n", `{"args":["sync"],"token":"x"}` + "\n", `{"args":["sync"]} {}` + "\n", `{"args":"sync"}` + "\n", strings.Repeat("x", 2*maxRequest), "null\n"} {
		connection, err := net.Dial("unix", socketPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(connection, sent) // it may have been closed by then
		if sent == "" {
			_ = connection.Close()
			continue
		}
		if got, _ := io.ReadAll(connection); len(got) != 0 {
			t.Errorf("%.40q was answered %q", sent, got)
		}
		_ = connection.Close()
	}
	if _, found, err := Ask(t.Context(), dir, []string{"sync"}, io.Discard, io.Discard); !found || err != nil {
		t.Errorf("found %t, %v", found, err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"args":["sync","--wait=true","--","acme"]}` + "\n"))
	f.Add([]byte(`{"args":["reload"]}x`))
	f.Add([]byte(`{"Args":[null]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		args, err := parseRequest(line)
		if err != nil {
			return
		}
		written, err := json.Marshal(request{args})
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseRequest(written)
		if err != nil || !slices.Equal(args, again) || len(args) == 0 {
			t.Errorf("%q became %q, then %q, %v", line, args, again, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"out":"acme: seller 3 new\n"}`))
	f.Add([]byte(`{"code":3}`))
	f.Add([]byte(`{"err":"\u0000","code":-1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if got, err := parseFrame(line); err == nil && got.Code != nil && (*got.Code < 0 || *got.Code > 255) {
			t.Errorf("%q gives the exit code %d", line, *got.Code)
		}
	})
}
