package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	"ksefmirror/internal/control"
	"ksefmirror/internal/event"
	"ksefmirror/internal/filewatch"
	"ksefmirror/internal/health"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	"ksefmirror/service"
	ksefsync "ksefmirror/sync"
)

// watchQuiet is how long after a change in a folder it is looked at: whoever saves a
// file has finished by then.
const watchQuiet = 5 * time.Second

// keeper is the program as a daemon: the configuration in force, and the mirrors
// that it says to keep.
type keeper struct {
	path    string // of the configuration
	log     *slog.Logger
	level   *slog.LevelVar // of log
	daemon  daemon.Daemon
	pulse   service.Pulse
	folders *tree.Watcher // of the mirrors; nil: they are not watched
	metrics *health.Metrics
	looks   health.Turns    // of the mirrors, to be looked at
	turn    chan struct{}   // of the mirrors, to store a package
	ctx     context.Context // of the daemon, for the mirrors: one that a command brings in outlives the command

	opened sync.Map // folders of mirrors that were open and are configured: one that is gone is not made anew

	reading sync.Mutex // of the file, which may be on a disk that hangs: what tells systemd that all is well does not wait for it
	seen    string     // what the file held when it was last read

	mu      sync.Mutex     // changed with reading held too
	loaded  *config.Config // in force
	refused string         // what is wrong with the file; "": it is in force
}

// keep keeps all mirrors until ctx ends.
func (c *command) keep(ctx context.Context, ready func(*slog.Logger, service.Health), level *slog.LevelVar, logger func(format string) *slog.Logger) error {
	path, err := config.Path(c.configFlag)
	if err != nil {
		return usageError(err)
	}
	seen := contents(path) // before it is loaded: what changes in between is seen to have changed
	loaded, err := config.Load(path, checkLayout)
	if err != nil {
		return usageError(err)
	}
	level.Set(loaded.Log.Level)
	log := logger(loaded.Log.Format)
	server, err := control.Listen(ctx, loaded.DataDir)
	switch {
	case errors.Is(err, control.ErrRunning):
		return err
	case err != nil:
		log.Warn("commands cannot speak to this daemon: sync and reconcile will find the mirrors locked", "err", err)
	}
	event.Log(log, event.Started, "version", buildVersion(), "mirrors", len(loaded.Mirrors))
	folders, err := tree.NewWatcher(watchQuiet, log)
	if err != nil {
		log.Warn("folders cannot be watched; what is changed in them is found within a day", "err", err)
	} else {
		defer func() { _ = folders.Close() }() // nothing is lost with it
	}
	k := &keeper{path: path, log: log, level: level, daemon: daemon.Daemon{Log: log},
		folders: folders, metrics: health.NewMetrics(buildVersion()), looks: health.NewTurns(), turn: make(chan struct{}, 1),
		ctx: ctx, loaded: loaded, seen: seen}
	k.warn(nil)
	k.daemon.Keep(ctx, k.jobs())

	var beside sync.WaitGroup
	if server != nil {
		beside.Go(func() { server.Serve(ctx, log, k.answer) })
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // before anybody is told that it is ready for one
	defer signal.Stop(hup)
	beside.Go(func() { k.watch(ctx, hup) })
	if loaded.Metrics != "" {
		beside.Go(func() { k.metrics.Serve(ctx, loaded.Metrics, log) })
	}
	ready(log, k.health)
	<-ctx.Done()
	beside.Wait() // so that nothing is started any more
	k.daemon.Wait()
	event.Log(log, event.Stopped)
	return nil
}

func (k *keeper) inForce() *config.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loaded
}

// health says in a line how the daemon is.
func (k *keeper) health(now time.Time) (text string, stuck []string) {
	text, stuck = k.pulse.Health(now)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refused != "" {
		text += "; the configuration file has a mistake, the one before is in force"
	}
	return text, stuck
}

// answer does what another process asks for.
func (k *keeper) answer(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if args[0] != "reload" {
		k.look() // whoever has just changed the configuration means the new one
	}
	c := &command{stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, keeper: k}
	root := c.root()
	root.AddCommand(c.sync(), c.reconcile(), c.reload())
	return c.execute(ctx, root, args)
}

// watch reads the configuration anew when it may have changed, and on SIGHUP, until
// ctx ends.
func (k *keeper) watch(ctx context.Context, hup <-chan os.Signal) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		path := k.path
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute // else it is watched as it was named
		}
		filewatch.Watch(ctx, k.log, path, k.look)
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			_, _ = k.reload() // its error is in the log
		}
	}
}

// look reloads if the file is not the one that is in force. One that has a mistake
// is read again each time: what is wrong may be a secret that is not there yet.
func (k *keeper) look() {
	k.reading.Lock()
	defer k.reading.Unlock()
	seen := contents(k.path)
	if seen == k.seen && k.refused == "" {
		return
	}
	_, _ = k.read(seen) // its error is in the log
}

// reload reads the configuration anew and keeps the mirrors that it names from now
// on. After an error nothing has changed.
func (k *keeper) reload() (daemon.Changes, error) {
	k.reading.Lock()
	defer k.reading.Unlock()
	return k.read(contents(k.path))
}

// read does what reload does, with reading held, for a file that holds what was seen.
func (k *keeper) read(seen string) (daemon.Changes, error) {
	k.seen = seen
	loaded, err := config.Load(k.path, checkLayout)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && loaded.DataDir != k.loaded.DataDir {
		err = config.Problems{{File: k.path, Key: "data_dir", Value: loaded.DataDir, Want: "a daemon that runs keeps its folder, " + k.loaded.DataDir + ": restart it to change that"}}
	}
	if err != nil {
		if err.Error() != k.refused {
			k.log.Error("the configuration file has a mistake; the one before stays in force", "err", err)
		}
		k.refused = err.Error()
		return daemon.Changes{}, err
	}
	before := k.loaded
	k.loaded, k.refused = loaded, ""
	for _, m := range before.Mirrors {
		if !slices.ContainsFunc(loaded.Mirrors, func(each config.Mirror) bool { return each.Dir == m.Dir }) {
			k.opened.Delete(m.Dir) // put in again, it may begin anew
		}
	}
	k.level.Set(loaded.Log.Level)
	if loaded.Log.Format != before.Log.Format {
		k.log.Warn("log.format takes effect at the next start")
	}
	if loaded.Metrics != before.Metrics {
		k.log.Warn("metrics takes effect at the next start")
	}
	k.warn(before.Warnings)
	changes := k.daemon.Keep(k.ctx, k.jobs())
	k.log.Info("the configuration was read anew", "changes", changes.String())
	return changes, nil
}

// warn logs what is unwise and was not before.
func (k *keeper) warn(before config.Problems) {
	for _, warning := range k.loaded.Warnings {
		if !slices.Contains(before, warning) {
			event.Log(k.log, event.Unwise, "key", warning.Key, "value", warning.Value, "reason", warning.Want)
		}
	}
}

func (k *keeper) jobs() []daemon.Job {
	var jobs []daemon.Job
	for _, m := range k.loaded.Mirrors {
		var quiet func(time.Time) bool
		if m.QuietHours != (config.Hours{}) {
			quiet = func(t time.Time) bool { return m.QuietHours.Contain(t.Local()) }
		}
		watcher := k.watcher(m)
		jobs = append(jobs, daemon.Job{
			Name: m.Name, Interval: m.Interval, Quiet: quiet, Open: k.opener(k.loaded.Backup, m, watcher), Beside: watcher.Run,
			Settings: struct {
				config.Mirror
				config.Backup
			}{m, k.loaded.Backup},
			Beat: func(due time.Time, failures int) { k.pulse.Beat(m.Name, due, failures) },
			Ended: func() {
				k.pulse.Forget(m.Name)
				k.metrics.Forget(m.Name)
			},
		})
	}
	return jobs
}

// watcher gives what tells how a mirror is.
func (k *keeper) watcher(m config.Mirror) *health.Watcher {
	var pingURL func() (string, error)
	if m.PingURL != (config.Reference{}) {
		pingURL = m.PingURL.ReadURL
	}
	looked := healthOf(m, k.loaded.Backup.Dir)
	login := looked.Login
	looked.Login = func(now time.Time) health.LoginState {
		state := login(now)
		if errors.Is(state.Err, config.ErrNotHere) {
			state.Err = errors.New(state.Err.Error()) // if it is not here, it is nowhere
		}
		return state
	}
	return health.NewWatcher(looked, k.metrics, k.looks, pingURL, k.log.With("mirror", m.Name))
}

func (k *keeper) opener(backup config.Backup, m config.Mirror, watcher *health.Watcher) func(context.Context) (daemon.Mirror, error) {
	log := k.log.With("mirror", m.Name)
	count := func(client *ksef.Client) {
		client.Requested = func(operation string, status int) { k.metrics.Requested(m.Name, operation, status) }
	}
	open := func(ctx context.Context) (*ksefsync.Mirror, error) {
		if err := refuseForeignFolder(m.Dir); err != nil {
			return nil, err
		}
		o, err := options(m, log, count)
		if err != nil {
			return nil, err
		}
		o.Progress = func(ksefsync.Progress) { k.pulse.Moved(m.Name, time.Now().Add(daemon.MaxSilence)) }
		o.Turn, o.Watcher, o.BackUpTo, o.BackUpKeep = k.turn, k.folders, backup.Dir, backup.Keep
		_, o.Existing = k.opened.Load(m.Dir)
		return ksefsync.Open(ctx, o)
	}
	return func(ctx context.Context) (daemon.Mirror, error) {
		mirror, err := open(ctx)
		if err != nil {
			if ctx.Err() == nil {
				watcher.End(err)
			}
			return nil, err // not mirror: a nil *Mirror in the interface would not be nil
		}
		k.opened.Store(m.Dir, nil)
		sender, err := newSender(m, mirror, log)
		if err != nil {
			return nil, errors.Join(err, mirror.Close())
		}
		// Not for ctx, which is that of the first cycle, or of a command.
		return tell(k.ctx, watched{mirror, watcher}, sender), nil
	}
}

// watched is a mirror whose watcher is told of every cycle, and of audits that fail.
type watched struct {
	*ksefsync.Mirror
	watcher *health.Watcher
}

// Cycle runs the cycle.
func (w watched) Cycle(ctx context.Context) (ksefsync.Report, error) {
	w.watcher.Begin()
	report, err := w.Mirror.Cycle(ctx)
	switch {
	case ctx.Err() == nil:
		w.watcher.End(err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded): // quiet hours have begun: the mirror is kept on
		w.watcher.Stopped(report.Err())
	}
	return report, err
}

// AuditDue audits the files. That it fails is the mirror's failure, also after a cycle
// that was in order.
func (w watched) AuditDue(ctx context.Context, until time.Time) error {
	err := w.Mirror.AuditDue(ctx, until)
	if err != nil && ctx.Err() == nil {
		w.watcher.End(err)
	}
	return err
}

// contents is what the file holds, or why it cannot be read.
func contents(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("cannot be read: %v", err)
	}
	return string(data)
}
