// Package control lets a command speak to the daemon that keeps its mirrors, over a
// socket in the data folder. The command sends its arguments, the daemon does what
// they say, and what it prints comes back, with the exit code. No secret goes over
// it. The folder of the socket is open to its owner alone, so only that user and
// root can connect.
//
// It does not know what the arguments mean.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

const (
	// maxRequest is far more than a command line that names every mirror.
	maxRequest = 64 << 10
	// maxFrame is the longest line of an answer: [maxPrinted] bytes in JSON's longest
	// form, \u0000, and the rest.
	maxFrame   = 6*maxPrinted + 1024
	maxPrinted = 4 << 10
	// patience is how long either side waits for a line that the other sends at once,
	// or for a line to be taken.
	patience = 10 * time.Second
	// longestPath is the longest name that every system takes for a socket: 104 bytes
	// with the zero at the end on macOS, 108 elsewhere.
	longestPath = 103
)

// ErrRunning is returned by [Listen] when another daemon keeps the mirrors of the
// data folder.
var ErrRunning = errors.New("another daemon keeps the mirrors of this data folder")

// ErrBroken is returned by [Ask] when the daemon ended before the command had.
var ErrBroken = errors.New("the daemon ended while it was at work; what was fetched is kept")

// Folder is the folder of the socket. No mirror can have its name.
func Folder(dataDir string) string { return filepath.Join(dataDir, ".control") }

func socketPath(dataDir string) string { return filepath.Join(Folder(dataDir), "socket") }

// Server is a daemon's side.
type Server struct {
	listener net.Listener
	lock     *flock.Flock
}

// Listen makes the socket for the mirrors in dataDir. A socket that a daemon left
// behind that was killed is replaced. It returns [ErrRunning] if a daemon is there.
func Listen(ctx context.Context, dataDir string) (_ *Server, err error) {
	folder, path := Folder(dataDir), socketPath(dataDir)
	if len(path) > longestPath {
		return nil, fmt.Errorf("control socket %s: its name has %d bytes, of which systems take %d: choose a shorter data_dir", path, len(path), longestPath)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the control socket: %w", err)
	}
	if err := os.Chmod(folder, 0o700); err != nil { // #nosec G302 -- a folder, and closed to others
		return nil, fmt.Errorf("folder of the control socket: %w", err)
	}
	// The lock, unlike the socket, does not outlive its process, so whoever has it may
	// take the socket away.
	lock := flock.New(filepath.Join(folder, "lock"), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	if !locked {
		return nil, fmt.Errorf("%s: %w", dataDir, ErrRunning)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket of a daemon that was killed: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), listener.Close())
	}
	return &Server{listener, lock}, nil
}

// Handler does what the arguments of a command say, prints, and gives the exit
// code. Its ctx ends when whoever asked has gone, or the server is to stop.
type Handler func(ctx context.Context, args []string, stdout, stderr io.Writer) int

// Serve serves until ctx ends, and returns when every handler has. Then the socket
// is gone and another daemon may listen.
func (s *Server) Serve(ctx context.Context, log *slog.Logger, handle Handler) {
	closing := context.AfterFunc(ctx, func() { _ = s.listener.Close() }) // it removes the socket; the next daemon would too
	defer closing()
	var handlers sync.WaitGroup
	for ctx.Err() == nil {
		connection, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			// Such as no descriptor left: it may pass.
			log.Warn("a command could not connect", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		handlers.Go(func() {
			if err := serve(ctx, connection, handle); err != nil && ctx.Err() == nil {
				log.Debug("a command did not wait for its answer", "err", err)
			}
		})
	}
	handlers.Wait()
	if err := s.lock.Close(); err != nil {
		log.Warn("control socket", "err", err)
	}
}

// serve serves one command.
func serve(ctx context.Context, connection net.Conn, handle Handler) error {
	defer func() { _ = connection.Close() }() // what was written was looked at
	if err := connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(connection, maxRequest)
	line, err := lines.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	args, err := parseRequest(line)
	if err != nil {
		return err
	}
	if err := connection.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // it ends when the connection is closed, by either side
		_, _ = lines.ReadByte() // nothing more is sent, so it returns when whoever asked has gone
		cancel()
	}()
	w := &frames{connection: connection}
	code := handle(ctx, args, stream{w, false}, stream{w, true})
	return w.write(frame{Code: &code})
}

// request is a command, as a line of JSON.
type request struct {
	Args []string `json:"args"`
}

func parseRequest(line []byte) ([]string, error) {
	var r request
	if err := strictly(line, &r); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(r.Args) == 0 {
		return nil, errors.New("request: it names no command")
	}
	return r.Args, nil
}

// frame is a part of an answer, as a line of JSON: what was printed, or at the end
// the exit code.
type frame struct {
	Out  string `json:"out,omitempty"`
	Err  string `json:"err,omitempty"`
	Code *int   `json:"code,omitempty"`
}

func parseFrame(line []byte) (frame, error) {
	var f frame
	if err := strictly(line, &f); err != nil {
		return f, fmt.Errorf("answer of the daemon: %w", err)
	}
	if f.Code != nil && (*f.Code < 0 || *f.Code > 255) {
		return f, fmt.Errorf("answer of the daemon: %d is no exit code", *f.Code)
	}
	return f, nil
}

// strictly reads one JSON value that has just the fields of v.
func strictly(line []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value in a line")
	}
	return nil
}

// frames writes an answer. What cannot be written is not, nor what follows: whoever
// asked has gone, or is stopped, and the work does not wait for that line by line.
type frames struct {
	mu         sync.Mutex
	connection net.Conn
	failed     error // of the first line that could not be written
}

func (w *frames) write(f frame) error {
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = w.connection.SetWriteDeadline(time.Now().Add(patience))
	}
	if w.failed == nil {
		_, w.failed = w.connection.Write(append(line, '\n'))
	}
	return w.failed
}

// stream is what a command prints to.
type stream struct {
	*frames
	isErr bool
}

func (s stream) Write(p []byte) (int, error) {
	// In parts of whole characters, where it is text.
	for part := range slices.Chunk(bytes.Runes(p), maxPrinted/4) {
		f := frame{Out: string(part)}
		if s.isErr {
			f = frame{Err: string(part)}
		}
		if err := s.write(f); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Ask has the daemon that keeps the mirrors in dataDir do what args say, and prints
// what it prints. found is false, and nothing was done, when there is no daemon that
// this user may speak to. The daemon stops at a safe point when ctx ends.
func Ask(ctx context.Context, dataDir string, args []string, stdout, stderr io.Writer) (code int, found bool, err error) {
	connection, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", socketPath(dataDir))
	if err != nil {
		return 0, false, nil
	}
	defer func() { _ = connection.Close() }()                         // it has been read from
	defer context.AfterFunc(ctx, func() { _ = connection.Close() })() // which is how the daemon learns of it
	line, err := json.Marshal(request{args})
	if err == nil {
		_, err = connection.Write(append(line, '\n'))
	}
	if err != nil {
		return 0, true, fmt.Errorf("speak to the daemon: %w", err)
	}
	lines := bufio.NewScanner(connection)
	lines.Buffer(nil, maxFrame)
	for lines.Scan() {
		f, err := parseFrame(lines.Bytes())
		if err != nil {
			return 0, true, err
		}
		if f.Code != nil {
			return *f.Code, true, nil
		}
		if _, err := io.WriteString(stdout, f.Out); err != nil {
			return 0, true, err
		}
		if _, err := io.WriteString(stderr, f.Err); err != nil {
			return 0, true, err
		}
	}
	if ctx.Err() != nil {
		return 0, true, ctx.Err()
	}
	return 0, true, errors.Join(ErrBroken, lines.Err())
}
