package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// migrationFiles are the steps from an empty database to the present schema.
// They are executed in the order of their names and never change once released.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// embeddedMigrations gives the scripts in order: the i-th leads to schema
// version i+1.
func embeddedMigrations() ([]string, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	scripts := make([]string, len(names))
	for i, name := range names {
		script, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		scripts[i] = string(script)
	}
	return scripts, nil
}

// versionBefore gives the schema version of the database as it is, 0 where there
// is none or an empty one, and refuses what this program must not touch. It
// changes nothing.
func (d *DB) versionBefore(ctx context.Context, newest int) (version int, err error) {
	if _, err := os.Stat(d.path); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	look, err := connect(d.path, readOnly, busyTimeout, 1)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, look.Close()) }()
	return d.version(ctx, look, newest)
}

// version gives the schema version of a database that is there, and refuses what
// this program must not touch.
func (d *DB) version(ctx context.Context, pool *sql.DB, newest int) (version int, err error) {
	var application, objects int
	err = pool.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).
		Scan(&application, &version, &objects)
	switch {
	case err != nil:
		return 0, d.explain("open", err)
	case application == 0 && objects == 0 && version == 0:
		return 0, nil // a crash came between creating the file and its first transaction
	case application != applicationID:
		return 0, fmt.Errorf("open database %s: it belongs to another program (application id %#x): move it away, or correct the path", d.path, application)
	case version > newest:
		return 0, fmt.Errorf("open database %s: it has schema version %d and this program knows up to %d: install the newer version of the program again, or restore the backup that it made before its migration", d.path, version, newest)
	}
	return version, nil
}

// migrate brings the database from a version to the newest one, after a backup
// where there is something to lose, each step in one transaction with the version's
// number: a crash leaves it at one version or the next, and the next Open goes on from
// there. One that is new gets all at once, so that it waits for the disk once; a crash
// leaves it as empty as it was.
func (d *DB) migrate(ctx context.Context, version int, migrations []string, want Mirror) error {
	if version > 0 && version < len(migrations) {
		if err := d.backup(ctx, version); err != nil {
			return err
		}
	}
	d.created = version == 0
	for version < len(migrations) {
		next := version + 1
		if d.created {
			next = len(migrations)
		}
		err := d.transaction(ctx, fmt.Sprintf("migrate to version %d", next), func(ctx context.Context, tx *sql.Tx) error {
			// Another process may have been faster between the first look and here.
			var present int
			if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&present); err != nil {
				return err
			}
			if present != version {
				return fmt.Errorf("another process is migrating it, to version %d by now: let only one instance run", present)
			}
			for i, migration := range migrations[version:next] {
				if _, err := tx.ExecContext(ctx, migration); err != nil {
					return fmt.Errorf("version %d: %w", version+i+1, err)
				}
				if version+i == 0 {
					if err := initialise(ctx, tx, want); err != nil {
						return err
					}
				}
			}
			if d.created && !want.TakesOver.IsZero() {
				if _, err := tx.ExecContext(ctx, updateAdopts, 1); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", next))
			return err
		})
		if err != nil {
			return err
		}
		version = next
	}
	return nil
}

// initialise makes a database that has just got its first schema ours.
func initialise(ctx context.Context, tx *sql.Tx, want Mirror) error {
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO mirror(id, environment, context_type, context_value, tree_id) VALUES(1, ?, ?, ?, ?)`,
		want.Environment, want.ContextType, want.ContextValue, want.ID)
	if err != nil || want.TakesOver.IsZero() {
		return err
	}
	_, err = tx.ExecContext(ctx, upsertBlock, everyGroup, want.TakesOver.UnixMilli())
	return err
}

// backup writes a copy of the database beside it, named after its version and
// the day: invoices-version-1-2026-11-22.db. It has its name only when it is
// complete; a second one of the same day and version replaces the first.
func (d *DB) backup(ctx context.Context, version int) error {
	extension := filepath.Ext(d.path)
	name := fmt.Sprintf("%s-version-%d-%s%s", strings.TrimSuffix(d.path, extension), version, d.now().UTC().Format("2006-01-02"), extension)
	partial := name + ".partial"
	if err := os.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash in the middle
		return fmt.Errorf("back up database %s before migrating: %w", d.path, err)
	}
	if err := copyInto(ctx, d.write.DB, partial); err != nil {
		return d.explain("back up before migrating", err)
	}
	if err := os.Rename(partial, name); err != nil {
		return fmt.Errorf("back up database %s before migrating: %w", d.path, err)
	}
	d.log.Info("backed up the database before migrating it", "backup", name)
	return nil
}
