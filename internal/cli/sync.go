package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

func (c *command) sync() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "sync [NAME…]",
		Short: "Bring mirrors up to date once",
		Long: `Fetches everything new for the named mirrors, or for all, and stops when they are
current, or when KSeF's limits allow no more: then it says from when it can go on
and exits 5. What was fetched is kept either way.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
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
	log := c.logger(loaded.Log)
	mirror, err := open(ctx, m, log, bar.show)
	if errors.Is(err, ksefsync.ErrLocked) {
		return exitLocked, err
	}
	if err != nil {
		return exitFailure, err
	}
	mirror.EveryRole = true // who asks by hand wants to know about all
	code, err := c.cycles(ctx, m.Name, mirror, bar, wait)
	if ctx.Err() == nil {
		// It is for people and no part of the mirror: without it the work is as good.
		if fileErr := healthOf(m, loaded.Backup.Dir).Look(ctx, err, time.Now()).WriteFile(); fileErr != nil {
			_, _ = fmt.Fprintf(c.stderr, "%s: the STATUS file could not be written: %v\n", m.Name, fileErr)
		}
	}
	deliverErr := c.deliver(ctx, m, mirror, log.With("mirror", m.Name))
	if closeErr := errors.Join(deliverErr, mirror.Close()); closeErr != nil {
		return exitFailure, errors.Join(err, closeErr)
	}
	return code, err
}

// cycles runs cycles until the mirror is current or may ask no more.
func (c *command) cycles(ctx context.Context, name string, mirror *ksefsync.Mirror, bar *progress, wait bool) (int, error) {
	for {
		report, err := mirror.Cycle(ctx)
		bar.end()
		c.printReport(name, report)
		var budget *ksef.BudgetError
		if !errors.As(err, &budget) {
			return exitOf(report, err), err
		}
		_, _ = fmt.Fprintf(c.stdout, "%s: KSeF's limits allow no more %s requests for now; it can go on from %s\n",
			name, budget.Group, budget.Until.Local().Format("2006-01-02 15:04:05"))
		if !wait {
			return exitBudget, nil
		}
		timer := time.NewTimer(time.Until(budget.Until) + time.Second)
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
		return exitFailure
	}
	for _, s := range report.Streams {
		if s.Waiting > 0 {
			return exitIncomplete
		}
	}
	return 0
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
