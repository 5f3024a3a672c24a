//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// monthJob is a database whose views are asked for a month.
type monthJob struct {
	Path  string // of the database
	Month time.Time
}

// monthly is what the month took of one view, in CPU: less depends on what else the
// machine does than in wall time.
type monthly struct {
	View          string
	Rows, Columns int
	Sums, Whole   time.Duration // to find the sums of all amounts, and every column of every row
	Read          time.Duration // the latter, handed over
	Shell         time.Duration // likewise by SQLite's own shell, which is in C; 0: it is not installed
}

// askViews asks each view that has months for one, by the condition that its definition gives, as
// another program would.
func askViews(ctx context.Context, j monthJob) (all []monthly, err error) {
	pool, err := sql.Open("sqlite", "file://"+j.Path+"?mode=ro")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	pool.SetMaxOpenConns(1)
	// A text that is in no column is looked for in all of them.
	rows, err := pool.QueryContext(ctx, `SELECT m.name, m.sql, count(*),
			'count(*)' || group_concat(iif(c.name GLOB '*_minor' OR c.name = 'size', ', sum(' || c.name || ')', ''), ''),
			group_concat(c.name)
		FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'view' AND m.name GLOB 'v_*' GROUP BY m.name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type questions struct{ sums, whole, read string }
	var asked []questions
	for rows.Next() {
		m := monthly{}
		var definition, sums, columns string
		if err := rows.Scan(&m.View, &definition, &m.Columns, &sums, &columns); err != nil {
			return nil, err
		}
		_, after, found := strings.Cut(definition, "-- A month: ")
		if !found {
			continue
		}
		condition, _, _ := strings.Cut(after, "\n")
		from := " FROM " + m.View + " WHERE " + strings.NewReplacer("2026-11", j.Month.Format("2006-01"), "2026-12", j.Month.AddDate(0, 1, 0).Format("2006-01")).Replace(condition)
		all, asked = append(all, m), append(asked, questions{"SELECT " + sums + from, "SELECT count(*)" + from + " AND '?' IN (" + columns + ")", "SELECT *" + from})
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for i, q := range asked {
		m := &all[i]
		if _, m.Sums, err = ask(ctx, pool, q.sums); err != nil {
			return nil, err
		}
		if _, m.Whole, err = ask(ctx, pool, q.whole); err != nil {
			return nil, err
		}
		if m.Rows, m.Read, err = ask(ctx, pool, q.read); err != nil {
			return nil, err
		}
		if m.Shell, err = askShell(ctx, j.Path, q.read); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ask reads all that a query gives, three times, and gives the number of its rows and
// the median of the CPU.
func ask(ctx context.Context, pool *sql.DB, query string) (count int, cpu time.Duration, err error) {
	var each []time.Duration
	for range 3 {
		before, err := used()
		if err != nil {
			return 0, 0, err
		}
		if count, err = readAll(ctx, pool, query); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", query, err)
		}
		after, err := used()
		if err != nil {
			return 0, 0, err
		}
		each = append(each, after.cpu-before.cpu)
	}
	slices.Sort(each)
	return count, each[1], nil
}

// askShell has SQLite's shell write all that a query gives, three times, and gives the
// median of its CPU, start and output included.
func askShell(ctx context.Context, path, query string) (time.Duration, error) {
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		return 0, nil
	}
	var each []time.Duration
	for range 3 {
		process := exec.CommandContext(ctx, shell, "-batch", "-readonly", path, query) //nolint:gosec // a query of our own
		process.Stderr = os.Stderr
		if err := process.Run(); err != nil {
			return 0, fmt.Errorf("sqlite3: %s: %w", query, err)
		}
		each = append(each, process.ProcessState.UserTime()+process.ProcessState.SystemTime())
	}
	slices.Sort(each)
	return each[1], nil
}

func readAll(ctx context.Context, pool *sql.DB, query string) (count int, err error) {
	rows, err := pool.QueryContext(ctx, query)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	values := make([]any, len(columns))
	for i := range values {
		values[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(values...); err != nil {
			return 0, err
		}
		count++
	}
	return count, rows.Err()
}
