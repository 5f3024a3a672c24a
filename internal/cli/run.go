package cli

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"ksefmirror/internal/event"
	"ksefmirror/service"
)

func (c *command) run() *cobra.Command {
	var windowsService bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep all mirrors up to date until stopped",
		Long: `Keeps every configured mirror up to date in the foreground, each at its interval,
until it receives SIGTERM or Ctrl-C. It then ends within seconds; nothing is lost
however it ends. One mirror's failure does not touch another's. It notices by itself
when the configuration changes, and on SIGHUP: see reload. Started by systemd with
Type=notify it says when it is ready and how it is, and feeds the watchdog while
every mirror moves.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if windowsService {
				return service.RunAsWindowsService(cmd.Context(), c.keepLogged)
			}
			err := service.Run(cmd.Context(), func(ctx context.Context, ready func(*slog.Logger, service.Health)) error {
				level := new(slog.LevelVar)
				return c.keep(ctx, ready, level, func(format string) *slog.Logger { return c.loggerAt(level, format) })
			})
			if err != nil && !isTerminal(c.stderr) {
				return discreetError{err} // its last words are in the journal too
			}
			return err
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
	log := slog.New(discreet{handler})
	err = c.keep(ctx, ready, level, func(string) *slog.Logger { return log })
	if err != nil {
		event.Log(log, event.Ended, "err", err)
	}
	return err
}
