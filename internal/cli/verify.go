package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	ksefsync "ksefmirror/sync"
)

func (c *command) verify() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify [NAME…]",
		Short: "Check every invoice's file and database copy against KSeF's hash",
		Long: `Reads every mirrored invoice, in the folder and in the database, and compares it
with the SHA-256 that KSeF stated. It asks nothing of KSeF and deletes nothing.
With --repair it restores missing and changed files from the database; a changed
file is kept beside. Exits 3 when something is not as it should be.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			whole := true
			for _, m := range mirrors {
				if err := refuseForeignFolder(m.Dir); err != nil {
					return err
				}
				o, err := options(m, c.logger(loaded.Log))
				if err != nil {
					return err
				}
				o.Remote = nil
				mirror, err := ksefsync.Open(cmd.Context(), o)
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				found, err := mirror.Verify(cmd.Context(), repair)
				if err := errors.Join(err, mirror.Close()); err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				c.printVerification(m.Name, found)
				whole = whole && found.Whole()
			}
			if !whole {
				return &coded{code: exitIncomplete}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "restore missing and changed files from the database")
	return cmd
}

func (c *command) printVerification(name string, v ksefsync.Verification) {
	list := func(what string, paths []string) {
		for _, path := range paths {
			_, _ = fmt.Fprintf(c.stdout, "%s: %s: %s\n", name, what, path)
		}
	}
	list("missing file", v.Missing)
	list("changed file", v.Changed)
	list("damaged copy in the database", v.Damaged)
	list("restored", v.Repaired)
	list("changed file kept as", v.Kept)
	list("file that no invoice names, left alone", v.NoRow)
	_, _ = fmt.Fprintf(c.stdout, "%s: %d invoices checked, %d missing, %d changed, %d restored, %d damaged in the database, %d files without an invoice\n",
		name, v.Invoices, len(v.Missing), len(v.Changed), len(v.Repaired), len(v.Damaged), len(v.NoRow))
}
