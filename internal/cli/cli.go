// Package cli is the command line: it builds everything from the configuration
// and shows people what happens. It decides nothing about invoices.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ksefmirror/internal/config"
	"ksefmirror/internal/control"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// The exit codes of every command but status, which answers as monitoring
// plug-ins do: 0 in order, 1 look at it, 2 act.
const (
	exitFailure    = 1
	exitUsage      = 2 // the command line or the configuration is wrong
	exitIncomplete = 3 // finished, but some invoices could not be mirrored or are not as they should be
	exitLocked     = 4 // another process works on the mirror
	exitBudget     = 5 // KSeF's limits allow no more for now
)

// coded is an error with the exit code it ends the program with. err nil means
// that everything has been said.
type coded struct {
	code int
	err  error
}

func (c *coded) Error() string {
	if c.err == nil {
		return fmt.Sprintf("exit code %d", c.code)
	}
	return c.err.Error()
}

func (c *coded) Unwrap() error { return c.err }

// usageError is a coded error for a wrong command line or configuration.
func usageError(err error) error { return &coded{exitUsage, err} }

// command holds what every command needs.
type command struct {
	configFlag     string
	stdin          io.Reader
	stdout, stderr io.Writer
	keeper         *keeper // the daemon that does the command, for another process; nil: this one does
}

// Main runs the program with the arguments after its name and returns its exit
// code. It stops at a safe point when ctx is cancelled.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{stdin: stdin, stdout: stdout, stderr: stderr}
	root := c.root()
	root.AddCommand(c.demo(), c.simulate(), c.sync(), c.run(), c.reload(), c.status(), c.doctor(), c.invoices(), c.show(), c.register(), c.verify(), c.reparse(), c.reconcile(), c.backup(), c.restore(), c.rebuild(), c.remote(), c.auth(), c.config(), c.service(), c.version())
	return c.execute(ctx, root, args)
}

// execute runs a command of root and gives its exit code.
func (c *command) execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitFailure
	var own *coded
	var problems config.Problems
	switch {
	case errors.As(err, &own):
		code = own.code
		if own.err == nil {
			return code
		}
	case errors.As(err, &problems):
		code = exitUsage
	case errors.Is(err, ksefsync.ErrLocked), errors.Is(err, control.ErrRunning):
		code = exitLocked
	}
	_, _ = fmt.Fprintln(c.stderr, "ksefmirror:", err)
	if hint := hintFor(err); hint != "" {
		_, _ = fmt.Fprintln(c.stderr, "  "+hint)
	}
	return code
}

// hintFor says what to try, for errors whose text cannot know.
func hintFor(err error) string {
	var refused *ksef.Error
	switch {
	case errors.As(err, &refused) && refused.HTTPStatus == 0:
		return "KSeF could not be reached: check the network, the proxy and api_url. Nothing is lost; try again."
	case errors.Is(err, ksefsync.ErrLocked):
		return "The daemon may be running: it does the same work by itself. Stop it first, or wait until the other command has ended."
	case errors.Is(err, config.ErrNotHere):
		return "A credential of the service (cred:) is taken by the auth commands, run as root, from the folder secrets beside the configuration, unless systemd-creds has encrypted it: then decrypt it there for as long as they run."
	case errors.Is(err, tree.ErrNotMounted):
		return "Mount the volume that holds the invoices folder, then try again. Nothing was written."
	}
	return ""
}

// root is the command without any below it.
func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ksefmirror",
		Short: "Keeps a local, complete copy of a company's invoices from KSeF",
		Long: `ksefmirror keeps a local, complete, byte-exact copy of a company's invoices from
KSeF, Poland's national e-invoicing system: a folder tree that people browse and
a SQLite database that accounting software reads.

Exit codes: 0 in order, 1 failure, 2 wrong command line or configuration,
3 finished but some invoices failed, 4 another process works on the mirror,
5 KSeF's limits allow no more for now.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w\n  See: %s --help", err, cmd.CommandPath()))
	})
	root.PersistentFlags().StringVar(&c.configFlag, "config", "", "configuration `file` (default: config.toml here, then the system's place)")
	return root
}

// load reads the configuration that the flag or the default places name, or in the
// daemon gives the one that is in force.
func (c *command) load() (*config.Config, error) {
	if c.keeper != nil {
		return c.keeper.inForce(), nil
	}
	loaded, _, err := c.loadBy(config.Load)
	return loaded, err
}

// loadBy is load by one of config's ways, and says where the configuration is.
func (c *command) loadBy(load func(string, func(string) error) (*config.Config, error)) (*config.Config, string, error) {
	path, err := config.Path(c.configFlag)
	if err != nil {
		return nil, "", usageError(err)
	}
	loaded, err := load(path, checkLayout)
	if err != nil {
		return nil, "", usageError(err)
	}
	return loaded, path, nil
}

func checkLayout(pattern string) error {
	_, err := tree.ParseLayout(pattern)
	return err
}

// pick loads the configuration and gives its mirrors with the given names, all
// when there are none.
func (c *command) pick(names []string) (*config.Config, []config.Mirror, error) {
	return c.pickBy(config.Load, names)
}

// pickBy is pick by one of config's ways.
func (c *command) pickBy(load func(string, func(string) error) (*config.Config, error), names []string) (*config.Config, []config.Mirror, error) {
	loaded, _, err := c.loadBy(load)
	if err != nil {
		return nil, nil, err
	}
	mirrors, err := choose(loaded.Mirrors, names)
	return loaded, mirrors, err
}

// choose gives the mirrors with the given names, all when there are none.
func choose(mirrors []config.Mirror, names []string) ([]config.Mirror, error) {
	if len(names) == 0 {
		return mirrors, nil
	}
	var picked []config.Mirror
	for _, name := range names {
		i := slices.IndexFunc(mirrors, func(m config.Mirror) bool { return m.Name == name })
		if i < 0 {
			return nil, usageError(fmt.Errorf("no mirror %q in the configuration", name))
		}
		picked = append(picked, mirrors[i])
	}
	return picked, nil
}

// logger writes to standard error as the configuration says: text to a
// terminal, JSON otherwise, unless the format is fixed; and no NIPs above debug.
func (c *command) logger(l config.Log) *slog.Logger { return c.loggerAt(l.Level, l.Format) }

// loggerAt is logger with a level that may change.
func (c *command) loggerAt(level slog.Leveler, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" || format == "auto" && !isTerminal(c.stderr) {
		return slog.New(discreet{slog.NewJSONHandler(c.stderr, options)})
	}
	return slog.New(discreet{slog.NewTextHandler(c.stderr, options)})
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// options turns a configured mirror into what package sync mirrors. adjust is done
// to its client.
func options(m config.Mirror, log *slog.Logger, adjust ...func(*ksef.Client)) (ksefsync.Options, error) {
	layout, err := tree.ParseLayout(m.Layout)
	if err != nil {
		return ksefsync.Options{}, err
	}
	told, err := receivers(m, log)
	if err != nil {
		return ksefsync.Options{}, err
	}
	names := make([]string, len(told)) // not nil, which would leave those of before
	for i, receiver := range told {
		names[i] = receiver.Name()
	}
	return ksefsync.Options{
		Dir: m.Dir, Environment: m.Environment, Context: ksefContext(m.Context),
		Roles: m.Roles, NightRoles: m.NightRoles, Since: m.Since, Layout: layout, Receivers: names, Log: log,
		Remote: func(requests ksef.RequestLog) ksefsync.Remote {
			client := newClient(m, requests, log)
			logInWith(client, m, log)
			for _, each := range adjust {
				each(client)
			}
			return client
		},
	}, nil
}

// newClient gives a client for a mirror that has nothing to log in with yet.
func newClient(m config.Mirror, requests ksef.RequestLog, log *slog.Logger) *ksef.Client {
	return &ksef.Client{
		BaseURL: apiAddress(m), Context: ksefContext(m.Context),
		Limiter:   ksef.NewLimiter(requests, ksef.DefaultLimits()),
		UserAgent: userAgent(),
		Log:       log,
	}
}

// apiAddress is where the KSeF of a mirror is.
func apiAddress(m config.Mirror) string {
	own, _ := ksef.BaseURL(m.Environment) // the configuration has no others
	return cmp.Or(m.APIURL, own)
}

// userAgent names the program to others.
func userAgent() string { return "ksefmirror/" + buildVersion() }

// open opens one mirror for work.
func open(ctx context.Context, m config.Mirror, log *slog.Logger, progress func(ksefsync.Progress)) (*ksefsync.Mirror, error) {
	if err := refuseForeignFolder(m.Dir); err != nil {
		return nil, err
	}
	o, err := options(m, log.With("mirror", m.Name))
	if err != nil {
		return nil, err
	}
	o.Progress = progress
	return ksefsync.Open(ctx, o)
}

// worst keeps the exit code that says most when several mirrors end differently.
func worst(codes ...int) int {
	for _, code := range []int{exitFailure, exitLocked, exitBudget, exitIncomplete} {
		for _, c := range codes {
			if c == code {
				return code
			}
		}
	}
	return 0
}

// noArguments refuses arguments as a usage error.
func noArguments(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError(err)
	}
	return nil
}
