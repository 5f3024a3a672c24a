package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	ksefsync "ksefmirror/sync"
)

func (c *command) backup() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "backup [NAME…]",
		Short: "Copy the database of each mirror, and check the copy",
		Long: `Writes a copy of the database of the named mirrors, or of all, and checks every
invoice in it. The daemon may run. A backup holds every invoice, so that restore and
rebuild can make the mirror from it, and no secret; only the user who runs the
command can read it. Of each mirror as many are kept as the configuration says; other
files are left alone.

They go into the folder of the configuration (backup.dir), into another with --to,
or, when there is neither, into the folder backups of the mirror itself. With
backup.dir set, the daemon does the same every night.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, mirrors, err := c.pick(names)
			if err != nil {
				return err
			}
			failed := false
			for _, m := range mirrors {
				made, err := c.backUpOne(cmd, loaded, m, to)
				if err != nil {
					_, _ = fmt.Fprintf(c.stderr, "%s: %v\n", m.Name, err)
					if hint := hintFor(err); hint != "" {
						_, _ = fmt.Fprintln(c.stderr, "  "+hint)
					}
					failed = true
					continue
				}
				_, _ = fmt.Fprintf(c.stdout, "%s: %d invoices, %.1f MiB, checked: %s\n", m.Name, made.Invoices, float64(made.Bytes)/(1<<20), made.Path)
				for _, old := range made.Removed {
					_, _ = fmt.Fprintf(c.stdout, "%s: removed the older %s\n", m.Name, old)
				}
			}
			if failed {
				return &coded{code: exitFailure}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the `folder` for the backups; it must be there")
	return cmd
}

func (c *command) backUpOne(cmd *cobra.Command, loaded *config.Config, m config.Mirror, to string) (ksefsync.Backup, error) {
	if err := refuseForeignFolder(m.Dir); err != nil {
		return ksefsync.Backup{}, err
	}
	o, err := options(m, c.logger(loaded.Log))
	if err != nil {
		return ksefsync.Backup{}, err
	}
	o.BackUpTo, o.BackUpKeep = loaded.Backup.Dir, loaded.Backup.Keep
	if to != "" {
		o.BackUpTo = to
	}
	if o.BackUpTo == "" {
		if _, err := os.Stat(ksefsync.DatabasePath(m.Dir)); err != nil {
			return ksefsync.Backup{}, fmt.Errorf("there is nothing to back up: %w", err)
		}
		o.BackUpTo = filepath.Join(m.Dir, "backups")
		if err := os.Mkdir(o.BackUpTo, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return ksefsync.Backup{}, err
		}
	}
	return ksefsync.BackUp(cmd.Context(), o)
}

func (c *command) restore() *cobra.Command {
	return &cobra.Command{
		Use:   "restore NAME FILE",
		Short: "Put a backup into the place of a mirror's database",
		Long: `Checks the backup, keeps the present database beside as database.kept-1, and puts
the backup into its place. It refuses while the daemon or another command works on
the mirror, and a backup of another environment or company. Nothing is deleted.

The next cycle goes on from where the backup was. Invoices that came since are listed
by KSeF again, and taken over from the invoices folder where they are. For an hour
KSeF is not asked, because it may count requests that the backup does not know of.`,
		Args: exactly(2, "the name of a mirror and the file of a backup"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, o, err := c.pickOffline(args[0])
			if err != nil {
				return err
			}
			done, err := ksefsync.Restore(cmd.Context(), o, args[1])
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			_, _ = fmt.Fprintf(c.stdout, "%s: restored %d invoices; the folder holds %d that came later\n", m.Name, done.Invoices, done.Adopting)
			c.printReplaced(m.Name, done)
			if done.NoTree {
				_, _ = fmt.Fprintf(c.stdout, "%s: the invoices folder is not there; if its disk is lost: ksefmirror rebuild %s --tree\n", m.Name, m.Name)
			}
			return nil
		},
	}
}

func (c *command) rebuild() *cobra.Command {
	var database, tree bool
	cmd := &cobra.Command{
		Use:   "rebuild NAME --database | --tree",
		Short: "Make the database from the invoices folder, or the folder from the database",
		Long: `With --tree it writes every file that is missing or changed anew from the database,
and makes the folder itself if its disk is lost; a changed file is kept beside. Mount
the disk first if it is not lost.

With --database it keeps the present database, which may be damaged, beside as
database.kept-1, and makes a new one. The next sync, or the daemon, asks KSeF for the
list of everything from the configured day on, and takes over each file of the folder
that is as KSeF says, wherever it is, instead of downloading it again. For an hour
KSeF is not asked, because it may count requests that the old database knew of.
If there is a backup, restore is quicker.`,
		Args: exactly(1, "the name of a mirror"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if database == tree {
				return usageError(errors.New("say what to rebuild: either --database or --tree"))
			}
			m, o, err := c.pickOffline(args[0])
			if err != nil {
				return err
			}
			if tree {
				found, err := ksefsync.RebuildTree(cmd.Context(), o)
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				c.printVerification(m.Name, found)
				if !found.Whole() {
					return &coded{code: exitIncomplete}
				}
				return nil
			}
			done, err := ksefsync.RebuildDatabase(cmd.Context(), o)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			_, _ = fmt.Fprintf(c.stdout, "%s: a new database is there; the folder holds %d invoices that it takes over as KSeF lists them\n", m.Name, done.Adopting)
			c.printReplaced(m.Name, done)
			return nil
		},
	}
	cmd.Flags().BoolVar(&database, "database", false, "make the database from the folder and KSeF's list")
	cmd.Flags().BoolVar(&tree, "tree", false, "make the folder from the database")
	return cmd
}

// pickOffline gives one mirror, with options that ask nothing of KSeF.
func (c *command) pickOffline(name string) (config.Mirror, ksefsync.Options, error) {
	loaded, mirrors, err := c.pick([]string{name})
	if err != nil {
		return config.Mirror{}, ksefsync.Options{}, err
	}
	m := mirrors[0]
	if err := refuseForeignFolder(m.Dir); err != nil {
		return m, ksefsync.Options{}, err
	}
	o, err := options(m, c.logger(loaded.Log))
	o.Remote = nil
	return m, o, err
}

// printReplaced says where the database before it is, and how it goes on.
func (c *command) printReplaced(name string, done ksefsync.Restored) {
	if done.Kept != "" {
		_, _ = fmt.Fprintf(c.stdout, "%s: the database before it is kept in %s\n", name, done.Kept)
	}
	_, _ = fmt.Fprintf(c.stdout, "%s: next: ksefmirror sync %s --wait, or the daemon; KSeF is asked from %s on\n", name, name, done.From.Local().Format(time.DateTime))
}

// exactly refuses another number of arguments as a usage error.
func exactly(count int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != count {
			return usageError(fmt.Errorf("want %s\n  See: %s --help", what, cmd.CommandPath()))
		}
		return nil
	}
}
