package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	ksefsync "ksefmirror/sync"
)

func (c *command) reparse() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "reparse [NAME…]",
		Short: "Read stored invoices again, as this version reads more of them",
		Long: `Reads the XML of every invoice that an older version of this program has read, from
the copy in the database, and replaces what that version had read. It asks nothing of
KSeF, needs no login, and changes no file, role or watermark. The daemon and sync do
the same by themselves, for some seconds in each cycle; this does it at once. When it
is stopped, what was read is kept, and the next reparse or cycle goes on.

An invoice that this version cannot read although an older one could keeps what that
one had read; it is named here and in parse_error. Exits 3 when the copy of an invoice
in the database is damaged.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pickBy(config.LoadWithoutSecrets, names)
			if err != nil {
				return err
			}
			damaged := false
			for _, m := range mirrors {
				o, err := options(m, c.logger(loaded.Log).With("mirror", m.Name))
				if err != nil {
					return err
				}
				o.Remote = nil
				if err := refuseForeignFolder(m.Dir); err != nil {
					return err
				}
				mirror, err := ksefsync.Open(cmd.Context(), o)
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				told := time.Now()
				done, err := mirror.Reread(cmd.Context(), all, time.Time{}, func(read, left int) {
					if now := time.Now(); now.Sub(told) >= lineEvery {
						told = now
						c.note("%s: %d invoices read again, %d to go", m.Name, read, left)
					}
				})
				err = errors.Join(err, mirror.Close())
				if cmd.Context().Err() != nil {
					return errors.New("stopped; what was read is kept, and reparse without --all goes on from there")
				}
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				c.printRereading(m.Name, done)
				damaged = damaged || len(done.Damaged) > 0
			}
			if damaged {
				return &coded{code: exitIncomplete}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "read every invoice again, also those that this version has read")
	return cmd
}

func (c *command) printRereading(name string, r ksefsync.Rereading) {
	for _, number := range r.Kept {
		_, _ = fmt.Fprintf(c.stdout, "%s: %s: this version cannot read it, what an older one had read is kept\n", name, number)
	}
	for _, number := range r.Damaged {
		_, _ = fmt.Fprintf(c.stdout, "%s: %s: its copy in the database is damaged, it is left as it is: restore a backup of the database\n", name, number)
	}
	_, _ = fmt.Fprintf(c.stdout, "%s: %d invoices read again, %d of them kept as they were, %d damaged in the database\n", name, r.Read, len(r.Kept), len(r.Damaged))
}
