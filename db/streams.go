package db

import (
	"context"
	"database/sql"
	"time"
)

// keepRuns is how long the history of runs is kept.
const keepRuns = 90 * 24 * time.Hour

// Stream is where the mirror of one role stands.
type Stream struct {
	Role          string
	Watermark     string    // everything before it is stored; KSeF's string, verbatim; "": nothing is complete yet
	Position      string    // up to where KSeF was asked, likewise: ahead of the watermark while an invoice is in quarantine
	HWM           string    // KSeF's string, verbatim; "" when none was seen
	LastRunAt     time.Time // zero when it never ran
	LastSuccessAt time.Time // zero when it never succeeded
	LastError     string    // of the last run; "": it succeeded
	Trouble       string    // the kind of LastError: see [Run]
	Reason        string    // why the last run went the way it did
	// IdleSince is when the role first ran, as long as KSeF has never listed an
	// invoice for it; zero otherwise.
	IdleSince time.Time
}

const selectStreams = `SELECT role, coalesce(watermark, ''), coalesce(position, ''), coalesce(hwm, ''), last_run_at, last_success_at, coalesce(last_error, ''), coalesce(trouble, ''), coalesce(reason, ''), idle_since
	FROM streams ORDER BY role`

// Streams gives every role that ever ran or committed, by name.
func (d *DB) Streams(ctx context.Context) (_ []Stream, err error) {
	rows, err := d.read.statements[selectStreams].QueryContext(ctx)
	if err != nil {
		return nil, d.explain("read the streams from", err)
	}
	defer rows.Close()
	var streams []Stream
	for rows.Next() {
		var s Stream
		var run, success, idle sql.NullString
		if err := rows.Scan(&s.Role, &s.Watermark, &s.Position, &s.HWM, &run, &success, &s.LastError, &s.Trouble, &s.Reason, &idle); err != nil {
			return nil, d.explain("read the streams from", err)
		}
		if s.LastRunAt, err = parseMoment(run); err != nil {
			return nil, d.explain("read the streams from", err)
		}
		if s.LastSuccessAt, err = parseMoment(success); err != nil {
			return nil, d.explain("read the streams from", err)
		}
		if s.IdleSince, err = parseMoment(idle); err != nil {
			return nil, d.explain("read the streams from", err)
		}
		streams = append(streams, s)
	}
	return streams, d.explain("read the streams from", rows.Err())
}

// Run is one pass of one stream.
type Run struct {
	Role     string
	Route    string // how the invoices were fetched
	Reason   string // why so
	Started  time.Time
	Finished time.Time
	From, To string // the window asked for, verbatim; "" when none was

	Listed, Added, Known int    // invoices
	Waiting              int    // invoices in quarantine that hold the watermark
	Requests             int    // to KSeF
	Err                  string // "" for success
	Trouble              string // which kind of Err a person has to mend: login or permission; "": another
}

const (
	insertRun = `INSERT INTO runs(role, route, started_at, finished_at, window_from, window_to, listed, added, known, waiting, requests, error)
	VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	upsertStreamRun = `INSERT INTO streams(role, last_run_at, last_success_at, last_error, reason, idle_since, trouble) VALUES(?1, ?2, ?3, ?4, ?5, iif(?6, NULL, ?2), ?7)
	ON CONFLICT(role) DO UPDATE SET last_run_at = excluded.last_run_at,
		last_success_at = coalesce(excluded.last_success_at, last_success_at), last_error = excluded.last_error,
		trouble = excluded.trouble, reason = excluded.reason,
		idle_since = CASE WHEN ?6 OR EXISTS(SELECT 1 FROM invoice_roles r WHERE r.role = ?1) THEN NULL
			WHEN last_run_at IS NULL THEN ?2 ELSE idle_since END`
	deleteOldRuns = `DELETE FROM runs WHERE finished_at < ?`
	// The last one stays, so that no id is ever given twice: by ids, processes know
	// which requests they have seen.
	deleteOldRequests = `DELETE FROM requests WHERE (ended_at < ? OR (ended_at IS NULL AND started_at < ?)) AND id < (SELECT max(id) FROM requests)`
)

// RecordRun adds a run to the history and to its stream. It removes runs older
// than 90 days, and requests older than any limit can remember.
func (d *DB) RecordRun(ctx context.Context, r Run) error {
	var success any
	if r.Err == "" {
		success = moment(r.Finished)
	}
	return d.transaction(ctx, "record a run in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, insertRun, r.Role, text(r.Route), moment(r.Started), moment(r.Finished), text(r.From), text(r.To),
			r.Listed, r.Added, r.Known, r.Waiting, r.Requests, text(r.Err))
		if err != nil {
			return err
		}
		if _, err := d.exec(ctx, tx, upsertStreamRun, r.Role, moment(r.Finished), success, text(r.Err), text(r.Reason), r.Listed > 0, text(r.Trouble)); err != nil {
			return err
		}
		if _, err := d.exec(ctx, tx, deleteOldRuns, moment(r.Finished.Add(-keepRuns))); err != nil {
			return err
		}
		old := r.Finished.Add(-keepRequests).UnixMilli()
		_, err = d.exec(ctx, tx, deleteOldRequests, old, old)
		return err
	})
}
