package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// copyInto writes a copy of the database, all of one instant, to a file that is
// not there or empty. It is one read transaction: commits go on meanwhile.
func copyInto(ctx context.Context, from *sql.DB, name string) error {
	_, err := from.ExecContext(ctx, "VACUUM INTO ?", name)
	return err
}

// BackUp writes a copy of the database, all of one instant, into a file that is
// not there or empty; an empty one decides who may read it. The copy holds every
// invoice but no key of an export, and is on the disk once the caller has flushed
// it. Commits go on meanwhile. The folder must be another than the database's.
// After an error, and after a crash, what there is of the file is of no use.
func (d *DB) BackUp(ctx context.Context, name string) error {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return fmt.Errorf("back up to %s: %w", name, err)
	}
	if err := copyInto(ctx, d.read.DB, absolute); err != nil {
		return d.explain("back up to "+absolute, err)
	}
	if err := forgetExports(ctx, absolute); err != nil {
		return fmt.Errorf("back up to %s: %w", absolute, err)
	}
	return nil
}

// forgetExports removes the exports in flight, with their keys, from a copy of a
// database that nobody else has open. One that is restored asks for them anew.
func forgetExports(ctx context.Context, path string) (err error) {
	// No journal, whose files would stay beside: a copy that is not whole is of no
	// use anyway. What is deleted is overwritten.
	parameters := url.Values{"_pragma": {"journal_mode(OFF)", "secure_delete(1)"}}
	pool, err := sql.Open("sqlite", fileURI(filepath.ToSlash(path))+"?"+parameters.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	_, err = pool.ExecContext(ctx, "DELETE FROM exports")
	return err
}

// Size gives about how many bytes a copy of the database takes.
func (d *DB) Size(ctx context.Context) (int64, error) {
	var bytes int64
	err := d.read.QueryRowContext(ctx, `SELECT (page_count - freelist_count) * page_size
		FROM pragma_page_count, pragma_freelist_count, pragma_page_size`).Scan(&bytes)
	return bytes, d.explain("measure", err)
}

// CheckBackup reads all of the database at path, which nobody writes, and gives
// what it mirrors and how many invoices it holds. It must be ours, not come from a
// newer version of the program, and mirror the same environment and context as
// want; an ID of want, if any, must be the same too. Its structure is checked, and
// the hash of every document.
func CheckBackup(ctx context.Context, path string, want Mirror) (_ Mirror, invoices int64, err error) {
	set, err := defaults()
	if err != nil {
		return Mirror{}, 0, err
	}
	d, err := newDB(path, slog.New(slog.DiscardHandler), set)
	if err != nil {
		return Mirror{}, 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if _, err := os.Stat(d.path); err != nil {
		return Mirror{}, 0, fmt.Errorf("open backup: %w", err)
	}
	version, err := d.versionBefore(ctx, len(set.migrations))
	if err != nil {
		return Mirror{}, 0, err
	}
	if version == 0 {
		return Mirror{}, 0, fmt.Errorf("open backup %s: it is empty", d.path)
	}
	if err := d.connectReaders(set.busyTimeout); err != nil {
		return Mirror{}, 0, err
	}
	found, err := d.readMirror(ctx)
	if err != nil {
		return Mirror{}, 0, err
	}
	if err := found.check(want, d.path); err != nil {
		return Mirror{}, 0, err
	}
	if want.ID != "" && found.ID != want.ID {
		return Mirror{}, 0, fmt.Errorf("open backup %s: it belongs to another folder of invoices than the one that is there", d.path)
	}
	invoices, err = d.checkAll(ctx)
	return found, invoices, err
}

// checkAll reads the whole database, and gives the number of invoices.
func (d *DB) checkAll(ctx context.Context) (invoices int64, err error) {
	var structure string
	if err := d.read.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&structure); err != nil {
		return 0, d.explain("check", err)
	}
	if structure != "ok" {
		return 0, fmt.Errorf("check database %s: it is damaged: %s", d.path, structure)
	}
	var orphans, bare int64
	err = d.read.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM pragma_foreign_key_check), (SELECT count(*) FROM invoices),
		(SELECT count(*) FROM invoices i WHERE NOT EXISTS(SELECT 1 FROM documents d WHERE d.invoice_id = i.id))`).Scan(&orphans, &invoices, &bare)
	if err != nil {
		return 0, d.explain("check", err)
	}
	if orphans > 0 || bare > 0 {
		return 0, fmt.Errorf("check database %s: it is damaged: %d rows belong to nothing, %d invoices have no document", d.path, orphans, bare)
	}
	rows, err := d.read.QueryContext(ctx, `SELECT invoice_id, dictionary, size, sha256, xml_zstd FROM documents`)
	if err != nil {
		return 0, d.explain("check", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, dictionary, size int64
		var sum, packed []byte
		if err := rows.Scan(&id, &dictionary, &size, &sum, &packed); err != nil {
			return 0, d.explain("check", err)
		}
		xml, _, err := d.unpack(ctx, dictionary, size, packed)
		if err != nil {
			return 0, d.explain(fmt.Sprintf("decompress document %d of", id), err)
		}
		if found := sha256.Sum256(xml); string(found[:]) != string(sum) {
			return 0, fmt.Errorf("check database %s: document %d is damaged", d.path, id)
		}
	}
	return invoices, d.explain("check", rows.Err())
}

// Restore makes a new database at path, in a folder of its own, from a backup that
// [CheckBackup] found in order, brings it to this version and opens it. It takes the
// place of another: want.TakesOver says until when no request goes out, unless a
// block of the other one, by group, lasts longer. All that is due to be reconciled
// is due anew. A crash leaves a folder that is of no use.
func Restore(ctx context.Context, backup, path string, want Mirror, blocks map[string]time.Time, log *slog.Logger) (_ *DB, err error) {
	set, err := defaults()
	if err != nil {
		return nil, err
	}
	from, err := newDB(backup, log, set)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if from.read.DB, err = connect(from.path, readOnly, set.busyTimeout, 1); err != nil {
		return nil, err
	}
	to, err := newDB(path, log, set)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(to.path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("restore to %s: %w", to.path, errors.Join(err, fs.ErrExist))
	}
	if err := os.MkdirAll(filepath.Dir(to.path), 0o750); err != nil {
		return nil, fmt.Errorf("create the folder of database %s: %w", to.path, err)
	}
	if err := copyInto(ctx, from.read.DB, to.path); err != nil {
		return nil, from.explain("restore", err)
	}
	restored, err := open(ctx, to.path, want, log, set)
	if err != nil {
		return nil, err
	}
	if err := restored.takeOver(ctx, want.TakesOver, blocks); err != nil {
		return nil, errors.Join(err, restored.Close())
	}
	return restored, nil
}

func (d *DB) takeOver(ctx context.Context, notBefore time.Time, blocks map[string]time.Time) error {
	return d.transaction(ctx, "take over in", func(ctx context.Context, tx *sql.Tx) error {
		for group, until := range blocks {
			if _, err := d.exec(ctx, tx, upsertBlock, group, until.UnixMilli()); err != nil {
				return err
			}
		}
		if _, err := d.exec(ctx, tx, upsertBlock, everyGroup, notBefore.UnixMilli()); err != nil {
			return err
		}
		if _, err := d.exec(ctx, tx, forgetReconciliations); err != nil {
			return err
		}
		_, err := d.exec(ctx, tx, updateAdopts, 1)
		return err
	})
}
