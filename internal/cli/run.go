package cli

import (
	"context"

	"github.com/spf13/cobra"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	ksefsync "ksefmirror/sync"
)

func (c *command) run() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Keep all mirrors up to date until stopped",
		Long: `Keeps every configured mirror up to date in the foreground, each at its interval,
until it receives SIGTERM or Ctrl-C. It then ends within seconds; nothing is lost
however it ends. One mirror's failure does not touch another's.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := c.load()
			if err != nil {
				return err
			}
			log := c.logger(loaded.Log)
			log.Info("ksefmirror started", "version", buildVersion(), "mirrors", len(loaded.Mirrors))
			for _, warning := range loaded.Warnings {
				log.Warn("the configuration is unwise", "key", warning.Key, "value", warning.Value, "reason", warning.Want)
			}
			var jobs []daemon.Job
			for _, m := range loaded.Mirrors {
				jobs = append(jobs, daemon.Job{Name: m.Name, Interval: m.Interval, Open: opener(m, c, loaded)})
			}
			daemon.Run(cmd.Context(), log, jobs)
			log.Info("ksefmirror stopped")
			return nil
		},
	}
}

func opener(m config.Mirror, c *command, loaded *config.Config) func(context.Context) (daemon.Mirror, error) {
	log := c.logger(loaded.Log)
	remind := reminder(m, log.With("mirror", m.Name)) // also when the mirror is opened anew, each notice once
	return func(ctx context.Context) (daemon.Mirror, error) {
		mirror, err := open(ctx, m, log, func(ksefsync.Progress) {})
		if err != nil {
			return nil, err // not mirror: a nil *Mirror in the interface would not be nil
		}
		return reminded{mirror, remind}, nil
	}
}
