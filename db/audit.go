package db

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Audit is where the audits of the folder tree are. The zero value is before the
// first.
type Audit struct {
	Pass     int64     // counts them, from 1
	Reached  int64     // every invoice up to this [StoredFile.ID] was looked at
	Restored int64     // files that this one wrote anew
	Previous time.Time // when the one before began; zero: this is the first
	Started  time.Time
	Finished time.Time // zero: under way, also after a restart
}

const (
	selectAudit = `SELECT pass, reached, restored, previous_at, started_at, finished_at FROM audit WHERE id = 1`
	upsertAudit = `INSERT INTO audit(id, pass, reached, restored, previous_at, started_at, finished_at) VALUES(1, ?, ?, ?, ?, ?, ?)
	ON CONFLICT(id) DO UPDATE SET pass = excluded.pass, reached = excluded.reached, restored = excluded.restored,
		previous_at = excluded.previous_at, started_at = excluded.started_at, finished_at = excluded.finished_at`
	selectNewestPaths = `SELECT xml_path FROM invoices WHERE id > (SELECT max(id) FROM invoices) - ? ORDER BY id DESC`
	selectAdopts      = `SELECT adopts FROM mirror WHERE id = 1`
	updateAdopts      = `UPDATE mirror SET adopts = ? WHERE id = 1`
)

// Audit gives where the audits are.
func (d *DB) Audit(ctx context.Context) (Audit, error) {
	var a Audit
	var previous, started, finished sql.NullString
	err := d.read.statements[selectAudit].QueryRowContext(ctx).Scan(&a.Pass, &a.Reached, &a.Restored, &previous, &started, &finished)
	if errors.Is(err, sql.ErrNoRows) {
		return Audit{}, nil
	}
	for _, each := range []struct {
		text sql.NullString
		into *time.Time
	}{{previous, &a.Previous}, {started, &a.Started}, {finished, &a.Finished}} {
		if err == nil {
			*each.into, err = parseMoment(each.text)
		}
	}
	return a, d.explain("read the audit from", err)
}

// RecordAudit keeps where the audits are. A crash before it has the files since
// the last call looked at again.
func (d *DB) RecordAudit(ctx context.Context, a Audit) error {
	return d.transaction(ctx, "record an audit in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, upsertAudit, a.Pass, a.Reached, a.Restored, moment(a.Previous), moment(a.Started), moment(a.Finished))
		return err
	})
}

// NewestID gives the [StoredFile.ID] of the invoice that was stored last, 0 when
// there is none. It takes the same time however many there are.
func (d *DB) NewestID(ctx context.Context) (int64, error) {
	var id int64
	err := d.read.statements[selectLastID].QueryRowContext(ctx).Scan(&id)
	return id, d.explain("look for the newest invoice in", err)
}

// NewestPaths gives the paths of the invoices that were stored last, newest first,
// count of them at most.
func (d *DB) NewestPaths(ctx context.Context, count int) ([]string, error) {
	rows, err := d.read.statements[selectNewestPaths].QueryContext(ctx, count)
	if err != nil {
		return nil, d.explain("list the newest invoices of", err)
	}
	defer rows.Close()
	var paths []string
	for rows.Next() {
		var path string
		if err := rows.Scan(&path); err != nil {
			return nil, d.explain("list the newest invoices of", err)
		}
		paths = append(paths, path)
	}
	return paths, d.explain("list the newest invoices of", rows.Err())
}

// Adopts tells whether the tree may hold invoices that have no row yet, because
// this database took the place of another.
func (d *DB) Adopts(ctx context.Context) (bool, error) {
	var adopts bool
	err := d.read.statements[selectAdopts].QueryRowContext(ctx).Scan(&adopts)
	return adopts, d.explain("read what is mirrored from", err)
}

// EndAdoption notes that every invoice of the tree that KSeF lists has its row.
func (d *DB) EndAdoption(ctx context.Context) error {
	return d.transaction(ctx, "record what is mirrored in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, updateAdopts, 0)
		return err
	})
}

// everyGroup is the group of a block that concerns all.
const everyGroup = "*"
