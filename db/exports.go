package db

import (
	"context"
	"database/sql"
	"time"
)

// Export is an export in flight: asked for, and not stored yet.
type Export struct {
	ID        int64 // given by StartExport
	Role      string
	From, To  string // of the window, verbatim; To "": until now
	Reference string // KSeF's; "" while the request is unanswered
	Key, IV   []byte // what the package is encrypted with
	CreatedAt time.Time
}

const (
	insertExport    = `INSERT INTO exports(role, window_from, window_to, key, iv, created_at) VALUES(?, ?, ?, ?, ?, ?)`
	updateReference = `UPDATE exports SET reference = ? WHERE id = ?`
	deleteExport    = `DELETE FROM exports WHERE id = ?`
	selectExports   = `SELECT id, role, window_from, coalesce(window_to, ''), coalesce(reference, ''), key, iv, created_at
	FROM exports WHERE role = ? AND abandoned_at IS NULL ORDER BY id`
	abandonExport      = `UPDATE exports SET abandoned_at = ?, key = zeroblob(32), iv = zeroblob(16) WHERE id = ?`
	deleteOldAbandoned = `DELETE FROM exports WHERE abandoned_at < ?`
	countExports       = `SELECT count(*) FILTER (WHERE abandoned_at IS NULL AND reference IS NULL),
	count(*) FILTER (WHERE abandoned_at IS NULL AND reference IS NOT NULL), count(*) FILTER (WHERE abandoned_at >= ?) FROM exports`
	countAbandoned = `SELECT count(*) FROM exports WHERE abandoned_at >= ?`
)

// keepAbandoned is how long an export that was given up is remembered.
const keepAbandoned = 7 * 24 * time.Hour

// StartExport notes, durably, that an export is about to be asked for, and gives
// the row's ID.
func (d *DB) StartExport(ctx context.Context, e Export) (id int64, err error) {
	err = d.transaction(ctx, "record an export in", func(ctx context.Context, tx *sql.Tx) error {
		result, err := d.exec(ctx, tx, insertExport, e.Role, e.From, text(e.To), e.Key, e.IV, moment(e.CreatedAt))
		if err != nil {
			return err
		}
		id, err = result.LastInsertId()
		return err
	})
	return id, err
}

// SetReference keeps the reference that KSeF gave an export.
func (d *DB) SetReference(ctx context.Context, id int64, reference string) error {
	return d.transaction(ctx, "record the reference of an export in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, updateReference, reference, id)
		return err
	})
}

// DropExport forgets an export that came to nothing. That of one whose invoices
// are stored is [Batch.Export]. Its key is gone from the file then, as
// [DB.forgetKey] says.
func (d *DB) DropExport(ctx context.Context, id int64) error {
	err := d.transaction(ctx, "forget an export in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, deleteExport, id)
		return err
	})
	return d.forgetKey(err)
}

// forgetKey makes the key of a deleted export disappear from the write-ahead log,
// which keeps what pages held before; in the database SQLite overwrites it. While
// another program reads in one long transaction it stays in the log until the next
// export ends or the database is closed. It passes on the error of the deletion.
func (d *DB) forgetKey(err error) error {
	if err == nil {
		d.emptyLog()
	}
	return err
}

// AbandonExport notes that an export was given up at the given time while KSeF was
// still preparing it, and forgets its key. Those of more than a week before are
// forgotten.
func (d *DB) AbandonExport(ctx context.Context, id int64, at time.Time) error {
	err := d.transaction(ctx, "give up an export in", func(ctx context.Context, tx *sql.Tx) error {
		if _, err := d.exec(ctx, tx, abandonExport, moment(at), id); err != nil {
			return err
		}
		_, err := d.exec(ctx, tx, deleteOldAbandoned, moment(at.Add(-keepAbandoned)))
		return err
	})
	return d.forgetKey(err)
}

// Abandoned tells how many exports, of all roles, were given up at or after since.
func (d *DB) Abandoned(ctx context.Context, since time.Time) (n int, err error) {
	err = d.read.statements[countAbandoned].QueryRowContext(ctx, moment(since)).Scan(&n)
	return n, d.explain("read the exports from", err)
}

// Exports gives the exports of a role in flight, oldest first, without those given
// up.
func (d *DB) Exports(ctx context.Context, role string) ([]Export, error) {
	rows, err := d.read.statements[selectExports].QueryContext(ctx, role)
	if err != nil {
		return nil, d.explain("read the exports from", err)
	}
	defer rows.Close()
	var exports []Export
	for rows.Next() {
		var e Export
		var created sql.NullString
		if err := rows.Scan(&e.ID, &e.Role, &e.From, &e.To, &e.Reference, &e.Key, &e.IV, &created); err != nil {
			return nil, d.explain("read the exports from", err)
		}
		if e.CreatedAt, err = parseMoment(created); err != nil {
			return nil, d.explain("read the exports from", err)
		}
		exports = append(exports, e)
	}
	return exports, d.explain("read the exports from", rows.Err())
}

// ExportCounts are the numbers of exports by how far they are.
type ExportCounts struct {
	Requested int // asked for, or about to be: no answer has been noted
	Preparing int // KSeF has given a reference; their package is not stored yet
	GivenUp   int // given up, as KSeF took too long
}

// ExportCounts counts the exports, all roles together; those that were given up
// from since on.
func (d *DB) ExportCounts(ctx context.Context, since time.Time) (c ExportCounts, err error) {
	err = d.read.statements[countExports].QueryRowContext(ctx, moment(since)).Scan(&c.Requested, &c.Preparing, &c.GivenUp)
	return c, d.explain("count the exports of", err)
}
