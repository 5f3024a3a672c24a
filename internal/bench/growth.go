//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ksefsync "ksefmirror/sync"
)

// multiplication is a mirror to be made from another: its database with Times as
// many invoices, and none of its files, which neither opening nor a cycle looks
// at.
type multiplication struct {
	From, To string // folders of mirrors; To is new
	Times    int
}

// multiply copies the rows of every table again and again, with other ids and numbers,
// so that the database is as large as if it had been mirrored. Each copy is of a month
// earlier and names the invoices of that month, and every other invoice of it is a sale.
func multiply(ctx context.Context, j multiplication) error {
	if err := os.CopyFS(filepath.Join(j.To, "database"), os.DirFS(filepath.Join(j.From, "database"))); err != nil {
		return err
	}
	for _, folder := range []string{"invoices", "quarantine"} {
		if err := copyFile(filepath.Join(j.From, folder, ".ksefmirror"), filepath.Join(j.To, folder, ".ksefmirror")); err != nil {
			return err
		}
	}
	pool, err := sql.Open("sqlite", ksefsync.DatabasePath(j.To)+"?_pragma=synchronous(OFF)&_pragma=cache_size(-200000)")
	if err != nil {
		return err
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	var invoices int
	if err := pool.QueryRowContext(ctx, "SELECT max(id) FROM invoices").Scan(&invoices); err != nil {
		return err
	}
	tables := []string{"invoices"}
	rows, err := pool.QueryContext(ctx, "SELECT m.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'invoice_id'")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return err
		}
		tables = append(tables, table)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, table := range tables {
		statement, err := copyStatement(ctx, pool, table)
		if err != nil {
			return err
		}
		for times := 1; times < j.Times; times++ {
			if _, err := pool.ExecContext(ctx, statement, sql.Named("offset", times*invoices), sql.Named("last", invoices), sql.Named("times", times)); err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
	}
	// The search has to find the copies too.
	_, err = pool.ExecContext(ctx, "INSERT INTO invoice_search(invoice_search) VALUES('rebuild'); PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// copyStatement copies the rows of the first :last invoices.
func copyStatement(ctx context.Context, pool *sql.DB, table string) (string, error) {
	rows, err := pool.QueryContext(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	invoiceID := "invoice_id"
	if table == "invoices" {
		invoiceID = "id"
	}
	var columns, values []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return "", err
		}
		value := name
		switch name {
		case invoiceID:
			value = name + " + :offset"
		case "id":
			continue // SQLite gives the next one
		case "target_id":
			continue // a trigger finds it
		case "ksef_number", "invoice_number", "number":
			if table == "invoices" || table == "invoice_references" {
				value = name + " || '-' || :times"
			}
		case "issue_date", "tax_date", "sale_date", "received_date", "first_due_date", "last_due_date":
			value = "date(" + name + ", '-' || :times || ' months')"
		case "stored_at":
			value = "date(substr(stored_at, 1, 10), '-' || :times || ' months') || substr(stored_at, 11)"
		case "role", "roles":
			value = "iif(" + invoiceID + " % 2, " + name + ", 'seller')"
		}
		columns, values = append(columns, name), append(values, value)
	}
	return "INSERT INTO " + table + "(" + strings.Join(columns, ", ") + ") SELECT " + strings.Join(values, ", ") +
		" FROM " + table + " WHERE " + invoiceID + " <= :last", rows.Err()
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// idleness is what a mirror costs that has nothing to do.
type idleness struct {
	Open  time.Duration // wall time to open the mirror
	Cycle time.Duration // CPU of a cycle in which nothing is new; the median of several
}

func idle(ctx context.Context, j mirrorJob) (i idleness, err error) {
	began := time.Now()
	m, _, err := openMirror(ctx, j, &timedRemote{})
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	i.Open = time.Since(began)
	var each []time.Duration
	for cycle := range 12 {
		before, err := used()
		if err != nil {
			return i, err
		}
		report, err := m.Cycle(ctx)
		if err != nil {
			return i, err
		}
		m.Rest() // as in the daemon
		after, err := used()
		if err != nil {
			return i, err
		}
		if report.Streams[0].Added != 0 {
			return i, fmt.Errorf("%d invoices were new", report.Streams[0].Added)
		}
		if cycle > 0 { // the first one logs in
			each = append(each, after.cpu-before.cpu)
		}
	}
	slices.Sort(each)
	i.Cycle = each[len(each)/2]
	return i, nil
}
