package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	ksefsync "ksefmirror/sync"
)

func (c *command) sync() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "sync [NAME…]",
		Short: "Bring mirrors up to date once",
		Long: `Fetches everything new for the named mirrors, or for all, and stops when they are
current, or when KSeF's limits allow no more: then it says from when it can go on
and exits 5. What was fetched is kept either way. While the daemon runs, it does the
work, between its own cycles.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			if done, err := c.throughDaemon(cmd, loaded, names); done {
				return err
			}
			var codes []int
			for _, m := range mirrors {
				code, err := c.syncOne(cmd.Context(), loaded, m, wait)
				if cmd.Context().Err() != nil {
					return errors.New("stopped; everything fetched so far is kept")
				}
				if err != nil {
					_, _ = fmt.Fprintf(c.stderr, "%s: %v\n", m.Name, err)
					if hint := hintFor(err); hint != "" {
						_, _ = fmt.Fprintln(c.stderr, "  "+hint)
					}
				}
				codes = append(codes, code)
			}
			if code := worst(codes...); code != 0 {
				return &coded{code: code}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "stay when the limits allow no more, and go on as soon as they do")
	return cmd
}

// syncOne brings one mirror up to date and gives its exit code.
func (c *command) syncOne(ctx context.Context, loaded *config.Config, m config.Mirror, wait bool) (int, error) {
	bar := newProgress(c.stderr, m.Name)
	log := c.logger(loaded.Log).With("mirror", m.Name)
	b, err := c.borrow(ctx, loaded, m, true, bar.show)
	if err != nil {
		return exitOfError(err), err
	}
	code, err := c.cycles(ctx, m.Name, b, bar, wait)
	var deliverErr error
	if c.keeper == nil { // the daemon tells them by itself
		if ctx.Err() == nil {
			// It is for people and no part of the mirror: without it the work is as good.
			if fileErr := healthOf(m, loaded.Backup.Dir).Look(ctx, err, time.Now()).WriteFile(); fileErr != nil {
				_, _ = fmt.Fprintf(c.stderr, "%s: the STATUS file could not be written: %v\n", m.Name, fileErr)
			}
		}
		deliverErr = b.lend(ctx, func(ctx context.Context, mirror *ksefsync.Mirror) error { return c.deliver(ctx, m, mirror, log) })
	}
	if closeErr := errors.Join(deliverErr, b.giveBack()); closeErr != nil {
		return exitFailure, errors.Join(err, closeErr)
	}
	return code, err
}

// cycles runs cycles until the mirror is current or may ask no more.
func (c *command) cycles(ctx context.Context, name string, b borrowed, bar *progress, wait bool) (int, error) {
	for {
		var report ksefsync.Report
		err := b.lend(ctx, func(ctx context.Context, mirror *ksefsync.Mirror) (err error) {
			mirror.EveryRole = true // who asks by hand wants to know about all
			defer func() { mirror.EveryRole = false }()
			report, err = mirror.Cycle(ctx)
			return err
		})
		bar.end()
		c.printReport(name, report)
		limit := ksefsync.Limited(err)
		if limit == nil {
			return exitOf(report, err), err
		}
		_, _ = fmt.Fprintf(c.stdout, "%s: KSeF's limits allow no more %s requests for now; it can go on from %s\n",
			name, limit.Group, limit.Until.Local().Format("2006-01-02 15:04:05"))
		if !wait {
			return exitBudget, nil
		}
		timer := time.NewTimer(time.Until(limit.Until) + time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return exitFailure, ctx.Err()
		case <-timer.C:
		}
	}
}

func exitOf(report ksefsync.Report, err error) int {
	if err != nil {
		return exitOfError(err)
	}
	for _, s := range report.Streams {
		if s.Waiting > 0 {
			return exitIncomplete
		}
	}
	return 0
}

func exitOfError(err error) int {
	if errors.Is(err, ksefsync.ErrLocked) {
		return exitLocked
	}
	return exitFailure
}

func (c *command) printReport(name string, report ksefsync.Report) {
	for _, s := range report.Streams {
		watermark := string(s.Watermark)
		if watermark == "" {
			watermark = "not known yet"
		}
		_, _ = fmt.Fprintf(c.stdout, "%s: %-11s %5d new, %5d known, complete up to %s", name, s.Role, s.Added, s.Known, watermark)
		if s.Waiting > 0 {
			_, _ = fmt.Fprintf(c.stdout, ", %d could not be mirrored yet (see status)", s.Waiting)
		}
		_, _ = fmt.Fprintln(c.stdout)
	}
}
