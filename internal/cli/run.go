package cli

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
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
		log.Error("ksefmirror ended", "err", err)
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
	log.Info("ksefmirror started", "version", buildVersion(), "mirrors", len(loaded.Mirrors))
	for _, warning := range loaded.Warnings {
		log.Warn("the configuration is unwise", "key", warning.Key, "value", warning.Value, "reason", warning.Want)
	}
	watcher, err := tree.NewWatcher(watchQuiet, log)
	if err != nil {
		log.Warn("folders cannot be watched; what is changed in them is found within a day", "err", err)
	} else {
		defer func() { _ = watcher.Close() }() // nothing is lost with it
	}
	var pulse service.Pulse
	var jobs []daemon.Job
	for _, m := range loaded.Mirrors {
		beat := func(due time.Time, failures int) { pulse.Beat(m.Name, due, failures) }
		beat(time.Now().Add(daemon.MaxSilence), 0) // so that the first line of status counts it
		jobs = append(jobs, daemon.Job{Name: m.Name, Interval: m.Interval, Open: opener(loaded.Backup, m, log, watcher, &pulse), Beat: beat})
	}
	ready(log, pulse.Health)
	daemon.Run(ctx, log, jobs)
	log.Info("ksefmirror stopped")
	return nil
}

// watchQuiet is how long after a change in a folder it is looked at: whoever saves a
// file has finished by then.
const watchQuiet = 5 * time.Second

func opener(backup config.Backup, m config.Mirror, log *slog.Logger, watcher *tree.Watcher, pulse *service.Pulse) func(context.Context) (daemon.Mirror, error) {
	existing := false
	remind := reminder(m, log.With("mirror", m.Name)) // also when the mirror is opened anew, each notice once
	return func(ctx context.Context) (daemon.Mirror, error) {
		if err := refuseForeignFolder(m.Dir); err != nil {
			return nil, err
		}
		o, err := options(m, log.With("mirror", m.Name))
		if err != nil {
			return nil, err
		}
		o.Progress = func(ksefsync.Progress) { pulse.Moved(m.Name, time.Now().Add(daemon.MaxSilence)) }
		o.Watcher, o.BackUpTo, o.BackUpKeep, o.Existing = watcher, backup.Dir, backup.Keep, existing
		mirror, err := ksefsync.Open(ctx, o)
		if err != nil {
			return nil, err // not mirror: a nil *Mirror in the interface would not be nil
		}
		existing = true
		sender, err := newSender(m, mirror, log.With("mirror", m.Name))
		if err != nil {
			return nil, errors.Join(err, mirror.Close())
		}
		return tell(ctx, reminded{mirror, remind}, sender), nil
	}
}
