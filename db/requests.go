package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
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
	selectRequests    = `SELECT id, endpoint_group, started_at, ended_at FROM requests WHERE ended_at >= ? OR ended_at IS NULL ORDER BY +id`
	selectNewRequests = `SELECT id, endpoint_group, started_at, ended_at FROM requests WHERE id > ?1
	UNION ALL SELECT id, endpoint_group, started_at, ended_at FROM requests WHERE id <= ?1 AND id IN (SELECT value FROM json_each(?2))`
	upsertBlock = `INSERT INTO blocks(endpoint_group, blocked_until) VALUES(?, ?)
	ON CONFLICT(endpoint_group) DO UPDATE SET blocked_until = max(blocked_until, excluded.blocked_until)`
	selectBlocks = `SELECT endpoint_group, blocked_until FROM blocks`
)

// StartRequest records that a request is about to be sent, if admit agrees, and
// gives its id. admit is told of the requests with an id above after, of those
// with an id in open, and of the blocks; it gives the instant to record, or the
// zero time to record nothing, and the id is 0 then. All of it is one transaction,
// which no other process's can come between, and which runs again, admit included,
// if it did not succeed.
//
// The request is on the disk when StartRequest returns: a crash after it counts a
// request that may never have been sent, a crash before it has sent none.
func (d *DB) StartRequest(ctx context.Context, group string, after int64, open []int64,
	admit func(recorded []Request, blocks map[string]time.Time) time.Time,
) (id int64, err error) {
	list, err := json.Marshal(append([]int64{}, open...)) // nil would be null
	if err != nil {
		return 0, fmt.Errorf("look up requests: %w", err)
	}
	err = d.transaction(ctx, "record a request in", func(ctx context.Context, tx *sql.Tx) error {
		id = 0
		requests, err := readRequests(tx.StmtContext(ctx, d.write.statements[selectNewRequests]).QueryContext(ctx, after, string(list)))
		if err != nil {
			return err
		}
		blocks, err := readBlocks(tx.StmtContext(ctx, d.write.statements[selectBlocks]).QueryContext(ctx))
		if err != nil {
			return err
		}
		at := admit(requests, blocks)
		if at.IsZero() {
			return nil
		}
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
	requests, err := readRequests(d.read.statements[selectRequests].QueryContext(ctx, since.UnixMilli()))
	return requests, d.explain("read the requests from", err)
}

func readRequests(rows *sql.Rows, err error) ([]Request, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var requests []Request
	for rows.Next() {
		var r Request
		var start int64
		var end sql.NullInt64
		if err := rows.Scan(&r.ID, &r.Group, &start, &end); err != nil {
			return nil, err
		}
		r.Start = time.UnixMilli(start)
		if end.Valid {
			r.End = time.UnixMilli(end.Int64)
		}
		requests = append(requests, r)
	}
	return requests, rows.Err()
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
	blocks, err := readBlocks(d.read.statements[selectBlocks].QueryContext(ctx))
	return blocks, d.explain("read the blocks from", err)
}

func readBlocks(rows *sql.Rows, err error) (map[string]time.Time, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	blocks := make(map[string]time.Time)
	for rows.Next() {
		var group string
		var until int64
		if err := rows.Scan(&group, &until); err != nil {
			return nil, err
		}
		blocks[group] = time.UnixMilli(until)
	}
	return blocks, rows.Err()
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
