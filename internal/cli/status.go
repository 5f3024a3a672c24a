package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/health"
)

func (c *command) status() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [NAME…]",
		Short: "Show how complete every mirror is",
		Long: `Shows each mirror and role: how far it is complete, how many invoices it holds, its
last success and error, what KSeF's limits leave, and what a person must do. It only
reads the database, also while the daemon runs. Exits 0 when all is in order, 1 when
someone should look, 2 when someone must act: KSeF refuses the credentials or a
permission, a role has not succeeded for three intervals and two hours, or a folder
or database cannot be used. That KSeF's limits cut a run short is no failure; it then
says how far the role is complete.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			level := health.Say
			all := []health.Report{}
			for _, m := range mirrors {
				r := healthOf(m, loaded.Backup.Dir).Look(cmd.Context(), nil, time.Now())
				level = max(level, r.Level)
				all = append(all, r)
			}
			if asJSON {
				encoder := json.NewEncoder(c.stdout)
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(all); err != nil {
					return err
				}
			} else {
				for _, r := range all {
					c.printStatus(r)
				}
			}
			if level != health.Say {
				return &coded{code: int(level)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// healthOf lets a mirror be looked at. backups is the folder of its nightly backups;
// "" if there are none.
func healthOf(m config.Mirror, backups string) health.Mirror {
	return health.Mirror{Mirror: m, Backups: backups, Login: func(now time.Time) health.LoginState { return loginState(m, now) }}
}

func (c *command) printStatus(r health.Report) {
	words := [...]string{health.Say: "in order", health.Look: "look at it", health.Act: "act"}
	c.say("%s: %s (%d invoices, %d of them unread)", r.Name, words[r.Level], r.Invoices, r.Unread)
	if r.Outdated > 0 {
		c.say("  %d invoices are still as an older version of this program has read them; each cycle reads some of them again, reparse all at once", r.Outdated)
	}
	for _, stream := range r.Streams {
		lag := "-"
		if stream.LagSeconds >= 0 {
			lag = (time.Duration(stream.LagSeconds) * time.Second).String()
		}
		c.say("  %-11s %7d invoices, complete up to %s (%s ago), last success %s",
			stream.Role, stream.Invoices, orDash(string(stream.Watermark)), lag, orDash(stream.LastSuccess))
		if stream.Reason != "" {
			c.say("  %-11s last run by %s", "", stream.Reason)
		}
		if r := stream.Reconciled; r != nil {
			c.say("  %-11s reconciled %s from %s on: %d listed, %d late, %d no longer listed",
				"", r.At, r.From, r.Listed, r.Late, r.NotListed)
		}
	}
	for _, each := range r.Receivers {
		c.say("  %-11s has %d new invoices to be told of, last success %s", each.Receiver, each.Behind, orDash(each.LastSuccess))
	}
	for _, g := range r.Budget {
		if g.PerHour == 0 {
			c.say("  %-16s not limited", g.Group)
			continue
		}
		c.say("  %-16s %d of %d requests left this hour", g.Group, g.Left, g.PerHour)
	}
	for _, n := range r.Notices {
		about := ""
		if n.Role != "" {
			about = n.Role + ": "
		}
		_, _ = fmt.Fprintf(c.stdout, "  ! %s%s\n", about, n.Text)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
