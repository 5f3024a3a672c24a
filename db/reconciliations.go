package db

import (
	"context"
	"database/sql"
	"time"

	"ksefmirror/parse"
)

// Reconciliation is one comparison of a role with what KSeF lists below the
// watermark.
type Reconciliation struct {
	ID       int64 // given by StartReconciliation
	Role     string
	Span     time.Duration // before the watermark; the range is shorter where the mirror begins later; whole seconds
	From, To string        // by permanent storage, KSeF's strings, verbatim; To is not included
	Reached  string        // compared up to here, not included
	Started  time.Time
	Finished time.Time // zero: it is to go on, also after a restart

	Listed, Late, NotListed int    // invoices, so far
	Err                     string // why it ended early; "": it did not
}

const (
	insertReconciliation = `INSERT INTO reconciliations(role, span, range_from, range_to, reached, started_at) VALUES(?, ?, ?, ?, ?, ?)`
	selectReconciliation = `SELECT id, role, span, range_from, range_to, reached, started_at, finished_at, listed, late, not_listed, coalesce(error, '')
	FROM reconciliations WHERE role = ? ORDER BY id DESC`
	advanceReconciliation = `UPDATE reconciliations SET reached = ?, listed = listed + ?, not_listed = not_listed + ? WHERE id = ?`
	countLate             = `UPDATE reconciliations SET late = late + ? WHERE id = ?`
	finishReconciliation  = `UPDATE reconciliations SET finished_at = ?, error = ? WHERE id = ?`
	deleteReconciliations = `DELETE FROM reconciliations WHERE started_at < ?`
	forgetReconciliations = `DELETE FROM reconciliations`
	insertLate            = `INSERT INTO late_invoices(ksef_number, role, found_at) VALUES(?, ?, ?) ON CONFLICT DO NOTHING`
	setNotSeen            = `UPDATE invoice_roles SET not_seen_since = ? WHERE not_seen_since IS NULL AND role = ?
	AND invoice_id = (SELECT id FROM invoices WHERE ksef_number = ?)`
	clearNotSeen = `UPDATE invoice_roles SET not_seen_since = NULL WHERE role = ? AND invoice_id = (SELECT id FROM invoices WHERE ksef_number = ?)`
)

// StartReconciliation notes that a comparison begins, at its Reached, and gives
// the row's ID. It removes those that began more than 90 days before.
func (d *DB) StartReconciliation(ctx context.Context, r Reconciliation) (id int64, err error) {
	err = d.transaction(ctx, "record a reconciliation in", func(ctx context.Context, tx *sql.Tx) error {
		if _, err := d.exec(ctx, tx, deleteReconciliations, moment(r.Started.Add(-keepRuns))); err != nil {
			return err
		}
		result, err := d.exec(ctx, tx, insertReconciliation, r.Role, int64(r.Span/time.Second), r.From, r.To, r.Reached, moment(r.Started))
		if err != nil {
			return err
		}
		id, err = result.LastInsertId()
		return err
	})
	return id, err
}

// Reconciliations gives the comparisons of a role in the last 90 days, newest
// first.
func (d *DB) Reconciliations(ctx context.Context, role string) ([]Reconciliation, error) {
	rows, err := d.read.statements[selectReconciliation].QueryContext(ctx, role)
	if err != nil {
		return nil, d.explain("read the reconciliations from", err)
	}
	defer rows.Close()
	var all []Reconciliation
	for rows.Next() {
		var r Reconciliation
		var seconds int64
		var started, finished sql.NullString
		if err := rows.Scan(&r.ID, &r.Role, &seconds, &r.From, &r.To, &r.Reached, &started, &finished,
			&r.Listed, &r.Late, &r.NotListed, &r.Err); err != nil {
			return nil, d.explain("read the reconciliations from", err)
		}
		r.Span = time.Duration(seconds) * time.Second
		if r.Started, err = parseMoment(started); err != nil {
			return nil, d.explain("read the reconciliations from", err)
		}
		if r.Finished, err = parseMoment(finished); err != nil {
			return nil, d.explain("read the reconciliations from", err)
		}
		all = append(all, r)
	}
	return all, d.explain("read the reconciliations from", rows.Err())
}

// NoteLate notes, durably, the numbers that a comparison found to be listed and
// not there, and gives how many were never noted before in this role. Call it
// before they are stored: a crash in between leaves them to be found again, and
// counted once.
func (d *DB) NoteLate(ctx context.Context, reconciliation int64, role string, numbers []string, at time.Time) (found int64, err error) {
	err = d.transaction(ctx, "record late invoices in", func(ctx context.Context, tx *sql.Tx) error {
		found = 0
		for _, number := range numbers {
			added, err := d.changed(ctx, tx, insertLate, number, role, moment(at))
			if err != nil {
				return err
			}
			found += added
		}
		_, err := d.exec(ctx, tx, countLate, found, reconciliation)
		return err
	})
	return found, err
}

// Compared is what the comparison of one part of its range came to.
type Compared struct {
	Reconciliation int64
	Role           string
	Reached        string // the end of this part, verbatim
	Listed         int    // invoices in it
	NotListed      []string
	SeenAgain      []string // numbers that were not listed before and are now
	At             time.Time
}

// RecordCompared marks, in one transaction with how far the comparison is, the
// invoices that KSeF no longer lists, and gives how many were not marked before.
func (d *DB) RecordCompared(ctx context.Context, c Compared) (marked int64, err error) {
	err = d.transaction(ctx, "record a reconciliation in", func(ctx context.Context, tx *sql.Tx) error {
		marked = 0
		for _, number := range c.NotListed {
			added, err := d.changed(ctx, tx, setNotSeen, moment(c.At), c.Role, number)
			if err != nil {
				return err
			}
			marked += added
		}
		for _, number := range c.SeenAgain {
			if _, err := d.exec(ctx, tx, clearNotSeen, c.Role, number); err != nil {
				return err
			}
		}
		_, err := d.exec(ctx, tx, advanceReconciliation, c.Reached, c.Listed, len(c.NotListed), c.Reconciliation)
		return err
	})
	return marked, err
}

// FinishReconciliation notes the end of a comparison; reason "" that it came to
// the end of its range.
func (d *DB) FinishReconciliation(ctx context.Context, id int64, at time.Time, reason string) error {
	return d.transaction(ctx, "record a reconciliation in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, finishReconciliation, moment(at), text(reason), id)
		return err
	})
}

// changed is exec for a command of which only the number of changed rows matters.
func (d *DB) changed(ctx context.Context, tx *sql.Tx, command string, args ...any) (int64, error) {
	result, err := d.exec(ctx, tx, command, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Held is a stored invoice, as far as it is compared with KSeF's list.
type Held struct {
	KSeFNumber         string
	StoredAt           time.Time
	IssueDate          string // YYYY-MM-DD; may be ""
	Currency           string
	Net, VATPLN, Gross parse.Minor // as KSeF stated them
	NotSeen            bool        // KSeF did not list it the last time
}

// selectHeld walks the range and looks each invoice's role up; CROSS JOIN keeps
// that order.
const selectHeld = `SELECT i.ksef_number, i.stored_at, coalesce(i.issue_date, ''), coalesce(i.currency, ''),
	i.api_net_minor, i.api_vat_pln_minor, i.api_gross_minor, r.not_seen_since IS NOT NULL
	FROM invoices i CROSS JOIN invoice_roles r ON r.invoice_id = i.id AND r.role = ?1
	WHERE i.stored_at >= ?2 AND i.stored_at < ?3 ORDER BY i.stored_at`

// Held gives the invoices of a role that KSeF stored at or after from and before
// to, in that order.
func (d *DB) Held(ctx context.Context, role string, from, to time.Time) ([]Held, error) {
	rows, err := d.read.statements[selectHeld].QueryContext(ctx, role, moment(from), moment(to))
	if err != nil {
		return nil, d.explain("list the invoices of", err)
	}
	defer rows.Close()
	var held []Held
	for rows.Next() {
		var h Held
		var stored sql.NullString
		var net, vat, gross sql.NullInt64
		if err := rows.Scan(&h.KSeFNumber, &stored, &h.IssueDate, &h.Currency, &net, &vat, &gross, &h.NotSeen); err != nil {
			return nil, d.explain("list the invoices of", err)
		}
		if h.StoredAt, err = parseMoment(stored); err != nil {
			return nil, d.explain("list the invoices of", err)
		}
		h.Net, h.VATPLN, h.Gross = statedMinor(net), statedMinor(vat), statedMinor(gross)
		held = append(held, h)
	}
	return held, d.explain("list the invoices of", rows.Err())
}

// statedMinor reads what minor wrote.
func statedMinor(n sql.NullInt64) parse.Minor { return parse.Minor{Value: n.Int64, Stated: n.Valid} }

// countHeld stops counting where more would make no difference.
const countHeld = `SELECT count(*) FROM (SELECT 1 FROM invoices i CROSS JOIN invoice_roles r ON r.invoice_id = i.id AND r.role = ?1
	WHERE i.stored_at >= ?2 AND i.stored_at < ?3 LIMIT ?4)`

// CountHeld gives how many invoices [DB.Held] would give, at most limit.
func (d *DB) CountHeld(ctx context.Context, role string, from, to time.Time, limit int) (n int, err error) {
	err = d.read.statements[countHeld].QueryRowContext(ctx, role, moment(from), moment(to), limit).Scan(&n)
	return n, d.explain("count the invoices of", err)
}

// Difference is one between KSeF's list and what is stored.
type Difference struct {
	KSeFNumber string
	Role       string
	NotListed  bool // KSeF no longer lists it; otherwise it came late
	FoundAt    time.Time
}

const (
	selectDifferences = `SELECT ksef_number, role, difference = 'not_listed', found_at FROM v_differences WHERE found_at >= ? ORDER BY found_at, ksef_number`
	countNotListed    = `SELECT role, count(*) FROM invoice_roles WHERE not_seen_since > '' GROUP BY role`
	selectFirstRun    = `SELECT min(finished_at) FROM runs`
)

// Differences gives those that were found at or after since, in that order.
func (d *DB) Differences(ctx context.Context, since time.Time) ([]Difference, error) {
	rows, err := d.read.statements[selectDifferences].QueryContext(ctx, moment(since))
	if err != nil {
		return nil, d.explain("read the differences from", err)
	}
	defer rows.Close()
	var all []Difference
	for rows.Next() {
		var one Difference
		var found sql.NullString
		if err := rows.Scan(&one.KSeFNumber, &one.Role, &one.NotListed, &found); err != nil {
			return nil, d.explain("read the differences from", err)
		}
		if one.FoundAt, err = parseMoment(found); err != nil {
			return nil, d.explain("read the differences from", err)
		}
		all = append(all, one)
	}
	return all, d.explain("read the differences from", rows.Err())
}

// NotListed gives by role how many invoices are marked as no longer listed.
func (d *DB) NotListed(ctx context.Context) (map[string]int, error) {
	rows, err := d.read.statements[countNotListed].QueryContext(ctx)
	if err != nil {
		return nil, d.explain("count the invoices of", err)
	}
	defer rows.Close()
	byRole := make(map[string]int)
	for rows.Next() {
		var role string
		var count int
		if err := rows.Scan(&role, &count); err != nil {
			return nil, d.explain("count the invoices of", err)
		}
		byRole[role] = count
	}
	return byRole, d.explain("count the invoices of", rows.Err())
}

// FirstRun is when the oldest run in the history ended; zero when there is none.
func (d *DB) FirstRun(ctx context.Context) (time.Time, error) {
	var first sql.NullString
	if err := d.read.statements[selectFirstRun].QueryRowContext(ctx).Scan(&first); err != nil {
		return time.Time{}, d.explain("read the runs from", err)
	}
	at, err := parseMoment(first)
	return at, d.explain("read the runs from", err)
}
