package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	// commandLimit is how many invoices the command is told of at once.
	commandLimit = maxListed
	// lastWords is how much of what the command prints is kept, from its end.
	lastWords = 4 << 10
	// leaveTaking is how long what the command has started may hold its output open.
	leaveTaking = 2 * time.Second
)

// CommandName is the name of the command among the receivers.
const CommandName = "command"

// Command is a receiver that is a program of this machine: it is run with one line
// of JSON for each invoice on its standard input, and has taken them when it ends
// with exit code 0. It is run by no shell, and never twice at a time.
type Command struct {
	immediate
	Args    []string // the program, by its absolute path, and its arguments
	Dir     string   // the folder that it is run in
	Folder  string   // the one that the paths of invoices begin in
	Timeout time.Duration
	Log     *slog.Logger
}

// Name gives [CommandName].
func (c *Command) Name() string { return CommandName }

// Limit is 500 invoices.
func (c *Command) Limit() int { return commandLimit }

// Take runs the command. When it takes too long, or ctx ends, it is killed with
// all that it has started.
func (c *Command) Take(ctx context.Context, b Batch) error {
	var input bytes.Buffer
	lines := json.NewEncoder(&input)
	for _, invoice := range b.Invoices {
		if err := lines.Encode(messageOf(b.Mirror, invoice)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...) // #nosec G204 -- the command that the operator configured
	cmd.Dir = c.Dir
	cmd.Env = append(environment(os.Environ()),
		"KSEFMIRROR_MIRROR="+b.Mirror, "KSEFMIRROR_ENVIRONMENT="+b.Environment, "KSEFMIRROR_CONTEXT="+b.Context,
		"KSEFMIRROR_INVOICES="+c.Folder, "KSEFMIRROR_BATCH="+b.ID)
	cmd.Stdin = &input
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output // one writer: exec then writes to it from one goroutine
	cmd.WaitDelay = leaveTaking
	err := run(cmd)
	said := output.lastLine()
	if said != "" {
		c.Log.Debug("the command that is told of new invoices has printed", "last_line", said)
	}
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // something that it has started goes on
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it was killed as it had not ended within %s", c.Timeout)
	case said != "":
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// inherited are the variables that the command gets of the service's own
// environment, which may hold secrets.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR",
}

// inheritedOnWindows are, beside those, what programs cannot do without there.
var inheritedOnWindows = []string{
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERNAME", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
	"PROGRAMDATA", "PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432", "COMMONPROGRAMFILES", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
}

// environment gives those of the variables that the command gets.
func environment(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name) // as Windows compares them
			return !slices.Contains(inherited, name) && !slices.Contains(inheritedOnWindows, name)
		}
		return !slices.Contains(inherited, name) && !strings.HasPrefix(name, "LC_")
	})
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

// Write takes everything and never fails, so that the command is not held up.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-lastWords):]...)
	t.kept = t.kept[max(0, len(t.kept)-lastWords):]
	return len(p), nil
}

// lastLine gives the last line that is not empty, shortened.
func (t *tail) lastLine() string {
	text := strings.TrimSpace(string(t.kept))
	return shorten(strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:]))
}
