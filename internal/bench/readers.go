//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// reading is what a program that reads the database sees of one that writes it.
type reading struct {
	Queries int
	Busy    int // of them answered that the database is locked
}

// readMeanwhile queries the public view again and again, without a busy timeout,
// until its standard input ends. It counts from the first answer on: before, the
// database may not be there.
func readMeanwhile(ctx context.Context, path string) (r reading, err error) {
	pool, err := sql.Open("sqlite", "file://"+path+"?mode=ro&_pragma=busy_timeout(0)")
	if err != nil {
		return r, err
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return r, nil
		default:
		}
		var count int
		err := pool.QueryRowContext(ctx, "SELECT count(gross) FROM (SELECT gross FROM v_invoices ORDER BY stored_at DESC LIMIT 20)").Scan(&count)
		failure, known := errors.AsType[*sqlite.Error](err)
		switch {
		case err == nil:
			r.Queries++
		case r.Queries == 0:
			// Not there yet.
		case known && failure.Code()&0xff == sqlite3.SQLITE_BUSY:
			r.Queries++
			r.Busy++
		default:
			return r, fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// readersMeanwhile mirrors while another process reads.
func readersMeanwhile(ctx context.Context, j mirrorJob, database string) (r reading, err error) {
	child, err := command(ctx, "reader", database)
	if err != nil {
		return r, err
	}
	input, err := child.StdinPipe()
	if err != nil {
		return r, err
	}
	mirrored := make(chan error, 1)
	go func() {
		_, err := measure[measured](ctx, "mirror", j)
		mirrored <- errors.Join(err, input.Close())
	}()
	r, err = output[reading](child)
	return r, errors.Join(err, <-mirrored)
}
