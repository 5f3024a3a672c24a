package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite"
)

// mode is how a connection uses its database.
type mode int

const (
	readWrite mode = iota // creates the database where there is none
	readOnly              // mode=ro: writes fail, and so does a missing file
)

// connect gives a pool of connections to the database at an absolute path. It
// opens the first one when it is first used.
func connect(path string, mode mode, busyTimeout time.Duration, connections int) (*sql.DB, error) {
	base, err := sqlite.NewConnector(dsn(path, mode, busyTimeout))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	pool := sql.OpenDB(connector{base})
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections) // a connection that stays open keeps its statements
	return pool, nil
}

// connector makes every connection leave the write-ahead log in place when it
// closes. Without the log and its index, a reader that may not write to the
// folder could not open the database while the daemon is stopped.
type connector struct{ driver.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.(sqlite.FileControl).FileControlPersistWAL("main", 1); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ReaderDSN gives the data source name with which another part of this process
// may query the public views of the database at path, by the driver "sqlite",
// without ever writing to it.
func ReaderDSN(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	return dsn(absolute, readOnly, busyTimeout), err
}

// dsn names the database to the driver. Only a file: URI takes parameters such
// as mode, and only parameters reach every connection of a pool: a PRAGMA that
// is executed reaches one.
func dsn(path string, mode mode, busyTimeout time.Duration) string {
	parameters := url.Values{
		"_busy_timeout": {strconv.FormatInt(busyTimeout.Milliseconds(), 10)},
		"_foreign_keys": {"1"},
		"_defensive":    {"1"},
		"_dqs":          {"0"},
	}
	switch mode {
	case readOnly:
		parameters.Set("mode", "ro")
	case readWrite:
		// A transaction that began by reading cannot wait for the write lock, so
		// every one takes it at its beginning.
		parameters.Set("_txlock", "immediate")
		parameters.Set("_journal_mode", "WAL")
		// With NORMAL, a power cut could take back the last commits: the watermark
		// would hold, the requests already sent would be forgotten.
		parameters.Set("_synchronous", "FULL")
		// The page size counts when the database is created: two compressed invoices
		// fit in a page of the usual 4096 bytes, five in twice as much.
		// What a statement of several rows would have to undo is kept in memory: else it
		// goes to a file, page by page.
		parameters["_pragma"] = []string{"page_size(8192)", "journal_size_limit(67108864)", "temp_store(MEMORY)"}
	}
	return fileURI(filepath.ToSlash(path)) + "?" + parameters.Encode()
}

// fileURI gives the file: URI of an absolute path with slashes, on any system:
// /var/x, C:/x or //server/share/x.
func fileURI(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // file:///C:/x
	}
	// The authority stays empty: SQLite takes no other but localhost.
	return "file://" + (&url.URL{Path: path}).EscapedPath()
}
