package db

import (
	"context"
	"database/sql"
	"time"
)

// keepRequests is how long the request log is kept. KSeF's longest window is an
// hour (limity-api.md); the rest allows for a clock that was set wrong.
const keepRequests = 7 * 24 * time.Hour

// Request is one request to KSeF, to the millisecond.
type Request struct {
	ID    int64
	Group string // of endpoints that share a limit
	Start time.Time
	End   time.Time // zero: under way, or the program ended before the answer
}

const (
	insertRequest = `INSERT INTO requests(endpoint_group, started_at) VALUES(?, ?)`
	updateRequest = `UPDATE requests SET ended_at = ? WHERE id = ?`
	// The + keeps SQLite from walking the whole table for the order.
	selectRequests = `SELECT id, endpoint_group, started_at, ended_at FROM requests WHERE ended_at >= ? OR ended_at IS NULL ORDER BY +id`
	upsertBlock    = `INSERT INTO blocks(endpoint_group, blocked_until) VALUES(?, ?)
	ON CONFLICT(endpoint_group) DO UPDATE SET blocked_until = max(blocked_until, excluded.blocked_until)`
	selectBlocks = `SELECT endpoint_group, blocked_until FROM blocks`
)

// StartRequest records that a request is about to be sent, and gives its id. It
// is on the disk when StartRequest returns: a crash after it counts a request
// that may never have been sent, a crash before it has sent none.
func (d *DB) StartRequest(ctx context.Context, group string, at time.Time) (int64, error) {
	var id int64
	err := d.transaction(ctx, "record a request in", func(ctx context.Context, tx *sql.Tx) error {
		result, err := d.exec(ctx, tx, insertRequest, group, at.UnixMilli())
		if err != nil {
			return err
		}
		id, err = result.LastInsertId()
		return err
	})
	return id, err
}

// EndRequest records when the answer to a request was complete, or when it was
// given up.
func (d *DB) EndRequest(ctx context.Context, id int64, at time.Time) error {
	return d.transaction(ctx, "record a request in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, updateRequest, at.UnixMilli(), id)
		return err
	})
}

// Requests gives, in the order they were recorded, the requests that ended at or
// after since, and all that have no recorded end.
func (d *DB) Requests(ctx context.Context, since time.Time) ([]Request, error) {
	rows, err := d.read.statements[selectRequests].QueryContext(ctx, since.UnixMilli())
	if err != nil {
		return nil, d.explain("read the requests from", err)
	}
	defer rows.Close()
	var requests []Request
	for rows.Next() {
		var r Request
		var start int64
		var end sql.NullInt64
		if err := rows.Scan(&r.ID, &r.Group, &start, &end); err != nil {
			return nil, d.explain("read the requests from", err)
		}
		r.Start = time.UnixMilli(start)
		if end.Valid {
			r.End = time.UnixMilli(end.Int64)
		}
		requests = append(requests, r)
	}
	return requests, d.explain("read the requests from", rows.Err())
}

// BlockGroup records that KSeF asked to leave a group of endpoints alone until
// then. It never shortens an earlier block.
func (d *DB) BlockGroup(ctx context.Context, group string, until time.Time) error {
	return d.transaction(ctx, "record a block in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, upsertBlock, group, until.UnixMilli())
		return err
	})
}

// Blocks gives the end of the latest block of every group that ever had one,
// also where it is over.
func (d *DB) Blocks(ctx context.Context) (map[string]time.Time, error) {
	rows, err := d.read.statements[selectBlocks].QueryContext(ctx)
	if err != nil {
		return nil, d.explain("read the blocks from", err)
	}
	defer rows.Close()
	blocks := make(map[string]time.Time)
	for rows.Next() {
		var group string
		var until int64
		if err := rows.Scan(&group, &until); err != nil {
			return nil, d.explain("read the blocks from", err)
		}
		blocks[group] = time.UnixMilli(until)
	}
	return blocks, d.explain("read the blocks from", rows.Err())
}

const (
	selectLimits = `SELECT coalesce(limits, '') FROM mirror WHERE id = 1`
	updateLimits = `UPDATE mirror SET limits = ? WHERE id = 1`
)

// SaveLimits keeps the limits that KSeF last told, as JSON, for those who only
// look at the database.
func (d *DB) SaveLimits(ctx context.Context, limits string) error {
	return d.transaction(ctx, "record the limits in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, updateLimits, limits)
		return err
	})
}

// Limits gives what SaveLimits kept last; "" when it never did.
func (d *DB) Limits(ctx context.Context) (limits string, err error) {
	err = d.read.statements[selectLimits].QueryRowContext(ctx).Scan(&limits)
	return limits, d.explain("read the limits from", err)
}
