package cli

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	"ksefmirror/internal/event"
	"ksefmirror/internal/health"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	"ksefmirror/service"
	ksefsync "ksefmirror/sync"
)

func (c *command) run() *cobra.Command {
	var windowsService bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep all mirrors up to date until stopped",
		Long: `Keeps every configured mirror up to date in the foreground, each at its interval,
until it receives SIGTERM or Ctrl-C. It then ends within seconds; nothing is lost
however it ends. One mirror's failure does not touch another's. Started by systemd
with Type=notify it says when it is ready and how it is, and feeds the watchdog
while every mirror moves.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if windowsService {
				return service.RunAsWindowsService(cmd.Context(), c.keepLogged)
			}
			return service.Run(cmd.Context(), func(ctx context.Context, ready func(*slog.Logger, service.Health)) error {
				return c.keep(ctx, ready, c.logger)
			})
		},
	}
	flag := service.RunArgument[len("--"):]
	cmd.Flags().BoolVar(&windowsService, flag, false, "Windows's service control manager has started this process")
	_ = cmd.Flags().MarkHidden(flag) // fails only for a flag that is not there
	return cmd
}

// keepLogged is keep for a Windows service, whose standard error nobody sees: the
// log, and why it ended, go to the event log.
func (c *command) keepLogged(ctx context.Context, ready func(*slog.Logger, service.Health)) error {
	level := new(slog.LevelVar)
	handler, err := service.NewEventLog(level)
	if err != nil {
		return err
	}
	log := slog.New(handler)
	err = c.keep(ctx, ready, func(l config.Log) *slog.Logger {
		level.Set(l.Level)
		return log
	})
	if err != nil {
		event.Log(log, event.Ended, "err", err)
	}
	return err
}

// keep keeps all mirrors until ctx ends.
func (c *command) keep(ctx context.Context, ready func(*slog.Logger, service.Health), logger func(config.Log) *slog.Logger) error {
	loaded, err := c.load()
	if err != nil {
		return err
	}
	log := logger(loaded.Log)
	event.Log(log, event.Started, "version", buildVersion(), "mirrors", len(loaded.Mirrors))
	for _, warning := range loaded.Warnings {
		event.Log(log, event.Unwise, "key", warning.Key, "value", warning.Value, "reason", warning.Want)
	}
	metrics := health.NewMetrics(buildVersion())
	if loaded.Metrics != "" {
		var serving sync.WaitGroup
		defer serving.Wait()
		ctx, stop := context.WithCancel(ctx) // ended with this function, whatever ends it
		defer stop()
		serving.Go(func() { metrics.Serve(ctx, loaded.Metrics, log) })
	}
	turns := health.NewTurns()
	folders, err := tree.NewWatcher(watchQuiet, log)
	if err != nil {
		log.Warn("folders cannot be watched; what is changed in them is found within a day", "err", err)
	} else {
		defer func() { _ = folders.Close() }() // nothing is lost with it
	}
	var pulse service.Pulse
	var jobs []daemon.Job
	for _, m := range loaded.Mirrors {
		beat := func(due time.Time, failures int) { pulse.Beat(m.Name, due, failures) }
		beat(time.Now().Add(daemon.MaxSilence), 0) // so that the first line of status counts it
		jobs = append(jobs, job(loaded.Backup, m, log, folders, metrics, turns, &pulse, beat))
	}
	ready(log, pulse.Health)
	daemon.Run(ctx, log, jobs)
	event.Log(log, event.Stopped)
	return nil
}

// watchQuiet is how long after a change in a folder it is looked at: whoever saves a
// file has finished by then.
const watchQuiet = 5 * time.Second

// job is one mirror for the daemon, with a watcher beside it that tells how it is.
func job(backup config.Backup, m config.Mirror, log *slog.Logger, folders *tree.Watcher, metrics *health.Metrics, turns health.Turns, pulse *service.Pulse, beat func(time.Time, int)) daemon.Job {
	var pingURL func() (string, error)
	if m.PingURL != (config.Reference{}) {
		pingURL = m.PingURL.ReadURL
	}
	looked := healthOf(m, backup.Dir)
	login := looked.Login
	looked.Login = func(now time.Time) health.LoginState {
		state := login(now)
		if errors.Is(state.Err, config.ErrNotHere) {
			state.Err = errors.New(state.Err.Error()) // if it is not here, it is nowhere
		}
		return state
	}
	watcher := health.NewWatcher(looked, metrics, turns, pingURL, log.With("mirror", m.Name))
	moved := func(ksefsync.Progress) { pulse.Moved(m.Name, time.Now().Add(daemon.MaxSilence)) }
	count := func(client *ksef.Client) {
		client.Requested = func(operation string, status int) { metrics.Requested(m.Name, operation, status) }
	}
	existing := false
	open := func(ctx context.Context) (*ksefsync.Mirror, error) {
		if err := refuseForeignFolder(m.Dir); err != nil {
			return nil, err
		}
		o, err := options(m, log.With("mirror", m.Name), count)
		if err != nil {
			return nil, err
		}
		o.Progress = moved
		o.Watcher, o.BackUpTo, o.BackUpKeep, o.Existing = folders, backup.Dir, backup.Keep, existing
		return ksefsync.Open(ctx, o)
	}
	return daemon.Job{
		Name: m.Name, Interval: m.Interval, Beat: beat, Beside: watcher.Run,
		Open: func(ctx context.Context) (daemon.Mirror, error) {
			mirror, err := open(ctx)
			if err != nil {
				if ctx.Err() == nil {
					watcher.End(err)
				}
				return nil, err // not mirror: a nil *Mirror in the interface would not be nil
			}
			existing = true
			sender, err := newSender(m, mirror, log.With("mirror", m.Name))
			if err != nil {
				return nil, errors.Join(err, mirror.Close())
			}
			return tell(ctx, watched{mirror, watcher}, sender), nil
		},
	}
}

// watched is a mirror whose watcher is told of every cycle.
type watched struct {
	daemon.Mirror
	watcher *health.Watcher
}

// Cycle runs the cycle.
func (w watched) Cycle(ctx context.Context) (ksefsync.Report, error) {
	w.watcher.Begin()
	report, err := w.Mirror.Cycle(ctx)
	if ctx.Err() == nil { // stopped, it is neither a success nor a failure
		w.watcher.End(err)
	}
	return report, err
}
