package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ksefmirror/daemon"
	"ksefmirror/internal/config"
	"ksefmirror/internal/control"
	ksefsync "ksefmirror/sync"
)

// borrowed is a mirror for work by hand: one that this process has opened, or one
// that the daemon lends.
type borrowed struct {
	// lend lets work be done with the mirror. Between two calls the daemon may open it
	// anew.
	lend     func(ctx context.Context, work func(context.Context, *ksefsync.Mirror) error) error
	giveBack func() error
}

// borrow opens a mirror, or in the daemon has it lent. cycle says that what will be
// done is a cycle, which the daemon then need not do so soon.
func (c *command) borrow(ctx context.Context, loaded *config.Config, m config.Mirror, cycle bool, progress func(ksefsync.Progress)) (borrowed, error) {
	if c.keeper != nil {
		return borrowed{
			lend: func(ctx context.Context, work func(context.Context, *ksefsync.Mirror) error) error {
				return c.keeper.daemon.Do(ctx, m.Name, cycle, func(ctx context.Context, kept daemon.Mirror) error {
					telling := kept.(telling)
					defer telling.sender.Wake() // something may have been stored
					watched := telling.Mirror.(watched)
					mirror := watched.Mirror
					moved := mirror.Progress
					mirror.Progress = func(p ksefsync.Progress) { moved(p); progress(p) }
					defer func() { mirror.Progress = moved }()
					err := work(ctx, mirror)
					if cycle && ctx.Err() == nil {
						watched.watcher.End(err)
					}
					return err
				})
			},
			giveBack: func() error { return nil },
		}, nil
	}
	mirror, err := open(ctx, m, c.logger(loaded.Log), progress)
	if err != nil {
		return borrowed{}, err
	}
	return borrowed{
		lend: func(ctx context.Context, work func(context.Context, *ksefsync.Mirror) error) error {
			return work(ctx, mirror)
		},
		giveBack: mirror.Close,
	}, nil
}

// throughDaemon has the daemon do the command with its flags for the mirrors with
// the names. done is false if there is no daemon, and in the daemon itself.
func (c *command) throughDaemon(cmd *cobra.Command, loaded *config.Config, names []string) (done bool, err error) {
	if c.keeper != nil {
		return false, nil
	}
	args := []string{cmd.Name()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "config" {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	args = append(append(args, "--"), names...)
	code, found, err := control.Ask(cmd.Context(), loaded.DataDir, args, c.stdout, c.stderr)
	switch {
	case !found:
		return false, nil
	case cmd.Context().Err() != nil:
		return true, errors.New("stopped; everything fetched so far is kept")
	case err != nil:
		return true, err
	case code != 0:
		return true, &coded{code: code}
	}
	return true, nil
}

func (c *command) reload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running daemon read its configuration anew",
		Long: `Has the daemon read its configuration anew, and says what has changed. Mirrors that
are not changed go on undisturbed. A configuration with a mistake changes nothing:
it is said what is wrong, and the exit code is 2. The daemon also looks by itself
whenever the file changes; this waits for it.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.keeper != nil {
				changes, err := c.keeper.reload()
				if err != nil {
					return usageError(err)
				}
				_, err = fmt.Fprintln(c.stdout, changes)
				return err
			}
			loaded, err := c.load()
			if err != nil {
				return err
			}
			done, err := c.throughDaemon(cmd, loaded, nil)
			if !done {
				return fmt.Errorf("no daemon that you may speak to keeps the mirrors in %s: one whose data_dir was changed has to be restarted; one of another user is told by that user or root", loaded.DataDir)
			}
			return err
		},
	}
}
