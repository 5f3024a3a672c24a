package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

// reconcileFlags are what the command line says about the comparison.
type reconcileFlags struct {
	since, by       string
	all, wait, json bool
}

// reconciled is one mirror in the output of reconcile --json.
type reconciled struct {
	Name  string                        `json:"name"`
	Until string                        `json:"until"` // from when the limits allow it to go on, RFC 3339 UTC; "" when they did not end it
	Roles []ksefsync.RoleReconciliation `json:"roles"`
	Error string                        `json:"error"` // "" when everything was compared, or the limits ended it
}

func (c *command) reconcile() *cobra.Command {
	var flags reconcileFlags
	cmd := &cobra.Command{
		Use:   "reconcile [NAME…]",
		Short: "Compare what is mirrored with what KSeF lists now",
		Long: `Asks KSeF again for the list of all invoices below the watermark of each role, back
to the first of the month before last, and compares it with what is here. What was
missing is stored. What KSeF no longer lists is kept, and marked. It prints KSeF's
number of invoices and sums for each month and currency, and beneath them what is
here where that differs. The daemon does the same by itself at night, and does this
while it runs.

Months are those in which KSeF stored the invoices for good, in Polish time, which
is when a buyer has received them; with --by issued those of the date of issue.

Exits 3 when anything was missing, is no longer listed or has changed, and 5 when
KSeF's limits allow no more for now: then it says how far it came and from when it
can go on.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			since, err := flags.check()
			if err != nil {
				return usageError(err)
			}
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			if done, err := c.throughDaemon(cmd, loaded, names); done {
				return err
			}
			var codes []int
			all := []reconciled{}
			for _, m := range mirrors {
				found, code, err := c.reconcileOne(cmd.Context(), loaded, m, since, flags)
				if cmd.Context().Err() != nil {
					return errors.New("stopped; everything stored so far is kept")
				}
				if err != nil {
					found.Error = err.Error()
					_, _ = fmt.Fprintf(c.stderr, "%s: %v\n", m.Name, err)
					if hint := hintFor(err); hint != "" {
						_, _ = fmt.Fprintln(c.stderr, "  "+hint)
					}
				}
				codes = append(codes, code)
				all = append(all, found)
			}
			if flags.json {
				encoder := json.NewEncoder(c.stdout)
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(all); err != nil {
					return err
				}
			}
			if code := worst(codes...); code != 0 {
				return &coded{code: code}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&flags.since, "since", "", "begin at the `day` in Poland (2026-02-01), or an instant, by permanent storage in KSeF")
	cmd.Flags().BoolVar(&flags.all, "all", false, "begin where the mirror begins")
	cmd.Flags().StringVar(&flags.by, "by", "stored", "months of what: `stored` or issued")
	cmd.Flags().BoolVar(&flags.wait, "wait", false, "stay when the limits allow no more, and go on as soon as they do")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON, with the months by both dates")
	return cmd
}

// check gives the date that --since names; zero without.
func (f reconcileFlags) check() (time.Time, error) {
	if f.by != "stored" && f.by != "issued" {
		return time.Time{}, fmt.Errorf("--by %q: want stored or issued", f.by)
	}
	if f.since == "" {
		return time.Time{}, nil
	}
	if f.all {
		return time.Time{}, errors.New("--since and --all exclude each other")
	}
	since, err := parseDate("since", f.since, false)
	return since.Time(), err
}

func poland() (*time.Location, error) {
	warsaw, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		return nil, fmt.Errorf("time zone of Poland: %w", err)
	}
	return warsaw, nil
}

// reconcileOne compares one mirror, prints what was found unless as JSON, and
// gives its exit code.
func (c *command) reconcileOne(ctx context.Context, loaded *config.Config, m config.Mirror, since time.Time, flags reconcileFlags) (reconciled, int, error) {
	shown := reconciled{Name: m.Name, Roles: []ksefsync.RoleReconciliation{}}
	b, err := c.borrow(ctx, loaded, m, false, func(ksefsync.Progress) {})
	if err != nil {
		return shown, exitOfError(err), err
	}
	r := ksefsync.Reconciliation{Since: since}
	if flags.all {
		r.Since = m.Since
	}
	err = c.compare(ctx, m.Name, b, &r, flags.wait)
	shown.Roles = append(shown.Roles, r.Roles...)
	code := exitOfError(err)
	limit := ksefsync.Limited(err)
	switch {
	case limit != nil:
		shown.Until, code, err = limit.Until.UTC().Format(time.RFC3339), exitBudget, nil
	case err == nil:
		code = exitOfReconciliation(r)
	}
	if !flags.json && ctx.Err() == nil {
		err = errors.Join(err, c.printReconciliation(m.Name, r, flags.by))
		if limit != nil {
			_, _ = fmt.Fprintf(c.stdout, "%s: KSeF's limits allow no more for now; it can go on from %s: by --wait, or later by --since\n",
				m.Name, limit.Until.Local().Format(time.DateTime))
		}
	}
	return shown, code, errors.Join(err, b.giveBack())
}

// compare compares until all is compared, or the limits allow no more and nobody
// waits.
func (c *command) compare(ctx context.Context, name string, b borrowed, r *ksefsync.Reconciliation, wait bool) error {
	var last *ksefsync.Mirror
	for {
		err := b.lend(ctx, func(ctx context.Context, mirror *ksefsync.Mirror) error {
			if last != nil && last != mirror {
				// The daemon has opened it anew meanwhile: what was begun with the other
				// begins again.
				*r = ksefsync.Reconciliation{Since: r.Since}
			}
			last = mirror
			return mirror.Reconcile(ctx, r)
		})
		limit := ksefsync.Limited(err)
		if !wait || limit == nil {
			return err
		}
		_, _ = fmt.Fprintf(c.stderr, "%s: KSeF's limits allow no more for now; going on at %s\n", name, limit.Until.Local().Format(time.DateTime))
		timer := time.NewTimer(time.Until(limit.Until) + time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func exitOfReconciliation(r ksefsync.Reconciliation) int {
	for _, role := range r.Roles {
		if !role.Agrees() {
			return exitIncomplete
		}
	}
	return 0
}

func (c *command) printReconciliation(name string, r ksefsync.Reconciliation, by string) error {
	warsaw, err := poland()
	if err != nil {
		return err
	}
	at := func(t ksef.Timestamp) string { return t.Time().In(warsaw).Format(time.DateTime) }
	for _, role := range r.Roles {
		if role.Reached.Compare(role.From) <= 0 {
			_, _ = fmt.Fprintf(c.stdout, "%s: %s: nothing was compared\n", name, role.Role)
			continue
		}
		_, _ = fmt.Fprintf(c.stdout, "%s: %s, stored in KSeF from %s to %s (Polish time), by month of %s\n",
			name, role.Role, at(role.From), at(role.Reached), map[string]string{"stored": "storage", "issued": "issue"}[by])
		months := role.ByStored
		if by == "issued" {
			months = role.ByIssued
		}
		if err := printMonths(c.stdout, months); err != nil {
			return err
		}
		list := func(what string, numbers []string) {
			for _, number := range numbers {
				_, _ = fmt.Fprintf(c.stdout, "  %s: %s\n", what, number)
			}
		}
		list("was missing here", role.Late)
		list("could not be stored yet (see status)", role.Waiting)
		list("KSeF no longer lists it, it is kept", role.NotListed)
		list("KSeF lists it with another hash (see status)", role.Changed)
		for _, instant := range role.Crowded {
			_, _ = fmt.Fprintf(c.stdout, "  not compared, for KSeF has more than it lists at once: the invoices stored at %s\n", instant)
		}
		_, _ = fmt.Fprintf(c.stdout, "  %d listed by KSeF, %d of them were missing here, %d no longer listed, %d changed\n",
			role.Listed, len(role.Late), len(role.NotListed), len(role.Changed))
	}
	return nil
}

// printMonths prints KSeF's figures, and under them those from here where they
// differ.
func printMonths(w io.Writer, months []ksefsync.Month) error {
	if len(months) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "  month\t\tinvoices\tnet\tVAT in PLN\tgross\t\t")
	line := func(month, currency string, s ksefsync.Sums, note string) {
		_, _ = fmt.Fprintf(table, "  %s\t%s\t%d\t%s\t%s\t%s\t%s\t\n", month, currency, s.Invoices, s.Net, s.VATPLN, s.Gross, note)
	}
	partial := false
	for _, m := range months {
		month := orDash(m.Month)
		if m.Partial {
			month, partial = month+"*", true
		}
		if m.KSeF == m.Here {
			line(month, m.Currency, m.KSeF, "")
			continue
		}
		line(month, m.Currency, m.KSeF, "in KSeF")
		line("", "", m.Here, "here")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if partial {
		_, _ = fmt.Fprintln(w, "  * the part of the month that lies in the range")
	}
	return nil
}
