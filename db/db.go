// Package db keeps the mirror's SQLite database: the invoices, where each stream
// stands, the request log. It holds all SQL of the program, the schema and its
// migrations. It sends no requests and knows no folder tree.
//
// One process mirrors into a database at a time; others may note their requests
// beside it ([OpenBeside]), and any number may read it. Nothing but SQLite may
// open a file in the database's folder while the program runs, not even to read
// it: see [Open].
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// applicationID marks the file as ours: "KSEF" in ASCII.
const applicationID = 0x4B534546

// readers is the size of the pool that answers queries while a commit runs.
const readers = 3

// A write that finds the database locked by another program waits for the busy
// timeout, then between these two, doubling, for as long as it takes.
const (
	busyTimeout    = 10 * time.Second
	firstRetryWait = time.Second
	lastRetryWait  = 30 * time.Second
)

// ErrNotStored is returned, wrapped, for an invoice that is not in the database.
var ErrNotStored = errors.New("not in the database")

// ErrReadOnly is returned, wrapped, by the write methods of a database from
// [OpenReadOnly].
var ErrReadOnly = errors.New("the database is open for reading only")

// Mirror is what a database mirrors. All of it is fixed when the database is
// created.
type Mirror struct {
	Environment  string
	ContextType  string // KSeF's ContextIdentifier type, such as nip
	ContextValue string
	ID           string // of the folder tree that belongs to the database
	// TakesOver, when not zero, says that a database which Open creates takes the
	// place of one that was lost: it takes over the invoices of the tree, and lets no
	// request to KSeF go out before this moment.
	TakesOver time.Time
}

// DB is an open database. Its methods may be called from several goroutines.
type DB struct {
	path    string
	log     *slog.Logger
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	mirror  Mirror
	created bool

	busyTimeout time.Duration

	read  readPool
	write writePool // of one connection; empty when open for reading only

	dictionary   int64 // the row of dictionaries that new documents are compressed with
	compressorMu sync.Mutex
	compressor   *compressor // nil until it is needed; see [DB.Rest]
	shipped      []byte      // the dictionary it is made with

	decompressorsMu sync.Mutex
	decompressors   map[int64]*decompressor // by row of dictionaries
}

// readPool is a set of connections with what can be asked of them, by its text.
type readPool struct {
	*sql.DB
	statements map[string]*lazyStatement
}

// writePool is one connection with the commands prepared on it, by their text. They
// live as long as it does: preparing costs more than running them.
type writePool struct {
	*sql.DB
	statements map[string]*sql.Stmt
}

// lazyStatement is one that reads. It is prepared when it is first needed, and then
// stays: who looks only at the status of a mirror needs few of them.
type lazyStatement struct {
	pool     *sql.DB
	text     string
	prepared atomic.Pointer[sql.Stmt]
}

func (s *lazyStatement) prepare(ctx context.Context) (*sql.Stmt, error) {
	if known := s.prepared.Load(); known != nil {
		return known, nil
	}
	// No lock is held: whoever has every connection would wait for it, and it for them.
	statement, err := s.pool.PrepareContext(ctx, s.text)
	if err != nil {
		return nil, err
	}
	if s.prepared.CompareAndSwap(nil, statement) {
		return statement, nil
	}
	return s.prepared.Load(), statement.Close() // another goroutine was faster
}

// QueryContext is that of [sql.Stmt].
func (s *lazyStatement) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	statement, err := s.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return statement.QueryContext(ctx, args...)
}

// QueryRowContext is that of [sql.Stmt].
func (s *lazyStatement) QueryRowContext(ctx context.Context, args ...any) *sql.Row {
	statement, err := s.prepare(ctx)
	if err != nil {
		return s.pool.QueryRowContext(ctx, s.text, args...) // a row that tells why
	}
	return statement.QueryRowContext(ctx, args...)
}

// settings are what tests change.
type settings struct {
	migrations  []string
	dictionary  []byte
	busyTimeout time.Duration
	now         func() time.Time
	sleep       func(context.Context, time.Duration) error
}

func defaults() (settings, error) {
	migrations, err := embeddedMigrations()
	return settings{
		migrations:  migrations,
		dictionary:  invoiceDictionary,
		busyTimeout: busyTimeout,
		now:         time.Now,
		sleep:       sleep,
	}, err
}

func sleep(ctx context.Context, d time.Duration) error {
	waiting, end := context.WithTimeout(ctx, d)
	defer end()
	<-waiting.Done()
	return ctx.Err()
}

// Open opens the database at path for writing. Where there is none, it creates
// one that mirrors want, with its folder. An existing one must be ours, mirror
// the same environment and context, and not come from a newer version of the
// program; want.ID is not compared. An older one is migrated, after a backup
// beside it.
//
// Open switches SQLite to open file description locks, for the whole process
// and before its first connection. With the POSIX locks that are SQLite's
// default, any code of this process that opens and closes the database file
// drops all locks on it; a reader that then comes and goes takes itself for the
// last one and deletes the write-ahead log, and with it what is committed later.
// Those locks exist on Linux only, and do not cover the -shm file. Therefore
// nothing but SQLite may open a file in the folder of the database.
func Open(ctx context.Context, path string, want Mirror, log *slog.Logger) (*DB, error) {
	set, err := defaults()
	if err != nil {
		return nil, err
	}
	return open(ctx, path, want, log, set)
}

func open(ctx context.Context, path string, want Mirror, log *slog.Logger, set settings) (_ *DB, err error) {
	d, err := newDB(path, log, set)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := os.MkdirAll(filepath.Dir(d.path), 0o750); err != nil {
		return nil, fmt.Errorf("create the folder of database %s: %w", d.path, err)
	}
	// The first look changes nothing: opening for writing would convert even a
	// database that is not ours to write-ahead logging.
	version, err := d.versionBefore(ctx, len(set.migrations))
	if err != nil {
		return nil, err
	}
	if d.write.DB, err = connect(d.path, readWrite, set.busyTimeout, 1); err != nil {
		return nil, err
	}
	if err := d.migrate(ctx, version, set.migrations, want); err != nil {
		return nil, err
	}
	if err := d.write.prepare(ctx); err != nil {
		return nil, d.explain("prepare commands of", err)
	}
	if err := d.connectReaders(set.busyTimeout); err != nil {
		return nil, err
	}
	if d.mirror, err = d.readMirror(ctx); err != nil {
		return nil, err
	}
	if err := d.mirror.check(want, d.path); err != nil {
		return nil, err
	}
	if err := d.useDictionary(ctx, set.dictionary); err != nil {
		return nil, err
	}
	return d, nil
}

// OpenReadOnly opens an existing database for reading, while another process may
// write it. Every write method fails with [ErrReadOnly]. Without a database at
// path the error wraps [os.ErrNotExist].
func OpenReadOnly(ctx context.Context, path string) (_ *DB, err error) {
	set, err := defaults()
	if err != nil {
		return nil, err
	}
	d, err := newDB(path, slog.New(slog.DiscardHandler), set)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if _, err := os.Stat(d.path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := d.connectReaders(set.busyTimeout); err != nil {
		return nil, err
	}
	newest := len(set.migrations)
	version, err := d.version(ctx, d.read.DB, newest)
	if err != nil {
		return nil, err
	}
	if version < newest {
		return nil, fmt.Errorf("open database %s: it has schema version %d and this program needs %d: start the daemon of this version, which migrates it", d.path, version, newest)
	}
	if d.mirror, err = d.readMirror(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// OpenBeside opens an existing database of want for reading and for the log of
// requests, beside the process that mirrors into it, if there is one. It creates
// and migrates nothing: without a database at path the error wraps
// [os.ErrNotExist].
func OpenBeside(ctx context.Context, path string, want Mirror, log *slog.Logger) (*DB, error) {
	present, err := OpenReadOnly(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := present.Close(); err != nil {
		return nil, err
	}
	return Open(ctx, path, want, log)
}

func newDB(path string, log *slog.Logger, set settings) (*DB, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database path %s: %w", path, err)
	}
	if _, err := sqlite.OFDLocking(true); errors.Is(err, sqlite.ErrOFDLockingTooLate) {
		return nil, fmt.Errorf("open database %s: this process already used SQLite with locks that another open of the file would drop: %w", absolute, err)
	}
	sqlite.StrictPragmas(true)
	return &DB{path: absolute, log: log, now: set.now, sleep: set.sleep, busyTimeout: set.busyTimeout}, nil
}

// connectReaders makes the pool that answers queries, but for those that the writer
// answers, if there is one.
func (d *DB) connectReaders(busyTimeout time.Duration) (err error) {
	if d.read.DB, err = connect(d.path, readOnly, busyTimeout, readers); err != nil {
		return err
	}
	d.read.statements = map[string]*lazyStatement{}
	for _, text := range queries() {
		d.read.statements[text] = &lazyStatement{pool: d.read.DB, text: text}
	}
	if d.write.DB != nil {
		for _, text := range writersQueries() {
			d.read.statements[text].pool = d.write.DB
		}
	}
	return nil
}

func (p *writePool) prepare(ctx context.Context) error {
	p.statements = map[string]*sql.Stmt{}
	for _, text := range commands() {
		statement, err := p.PrepareContext(ctx, text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		p.statements[text] = statement
	}
	return nil
}

// Mirror tells what the database mirrors. TakesOver is zero.
func (d *DB) Mirror() Mirror { return d.mirror }

// Created tells whether this Open created the database.
func (d *DB) Created() bool { return d.created }

// Rest lets go of what takes memory until it is needed again, some 5 MB after
// something was stored and 2 MB in any case: the daemon keeps hundreds of databases
// open in which hardly ever anything happens. It costs some milliseconds at the next
// use, and the log is written back as by [DB.Close], unless a reader is in use.
func (d *DB) Rest() {
	d.compressorMu.Lock()
	d.compressor = nil
	d.compressorMu.Unlock()
	// Connections with their caches, schemas and statements. Those that are in use are
	// not touched; statements are prepared again on the next ones. The writer comes last:
	// the last connection writes the log back, and a reader may not.
	d.read.SetMaxIdleConns(0)
	d.read.SetMaxIdleConns(readers)
	d.write.SetMaxIdleConns(0)
	d.write.SetMaxIdleConns(1)
}

// Close writes the write-ahead log back into the database, unless a reader is in
// the way, and closes it. The emptied log stays: without it, a reader that may
// not write to the folder could not open the database.
func (d *DB) Close() error {
	var errs []error
	if d.read.DB != nil {
		errs = append(errs, d.read.Close())
	}
	if d.write.DB != nil {
		d.emptyLog()
		errs = append(errs, d.write.Close())
	}
	for _, decompressor := range d.decompressors {
		decompressor.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return d.explain("close", err)
	}
	return nil
}

// emptyLog writes the write-ahead log back into the database and empties it,
// unless a reader is in the way for more than a second. Whether it gets through
// does not matter: what is committed is in the log, and read there.
func (d *DB) emptyLog() {
	ctx := context.Background() // it takes no longer than a commit
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool
	_, _ = conn.ExecContext(ctx, "PRAGMA busy_timeout = 1000")
	_, _ = conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	_, _ = conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", d.busyTimeout.Milliseconds()))
}

const selectMirror = `SELECT environment, context_type, context_value, tree_id FROM mirror WHERE id = 1`

func (d *DB) readMirror(ctx context.Context) (Mirror, error) {
	var m Mirror
	err := d.read.statements[selectMirror].QueryRowContext(ctx).
		Scan(&m.Environment, &m.ContextType, &m.ContextValue, &m.ID)
	if err != nil {
		return Mirror{}, d.explain("read what is mirrored from", err)
	}
	return m, nil
}

// check refuses a database of another company or environment. The context's
// value stays out of the error: it may be a person's tax number.
func (m Mirror) check(want Mirror, path string) error {
	const remedy = "give every mirror its own data folder, or correct the configuration"
	if m.Environment != want.Environment {
		return fmt.Errorf("open database %s: it mirrors environment %s, the configuration says %s: %s", path, m.Environment, want.Environment, remedy)
	}
	if m.ContextType != want.ContextType || m.ContextValue != want.ContextValue {
		return fmt.Errorf("open database %s: it mirrors another context (%s) than the configuration says (%s): %s", path, m.ContextType, want.ContextType, remedy)
	}
	return nil
}

// transaction runs work in one transaction and commits it. While another
// program holds the write lock it waits until ctx ends, and it may then run work
// again. An end of ctx interrupts only the waiting, never the work: after an
// error from the commit itself it is unknown whether it took effect, and work
// must bear being repeated.
func (d *DB) transaction(ctx context.Context, operation string, work func(context.Context, *sql.Tx) error) error {
	if d.write.DB == nil {
		return fmt.Errorf("%s database %s: %w", operation, d.path, ErrReadOnly)
	}
	waiting := false
	for wait := firstRetryWait; ; wait = min(2*wait, lastRetryWait) {
		err := d.tryTransaction(ctx, work)
		if !isCode(err, sqlite3.SQLITE_BUSY) {
			if waiting && err == nil {
				d.log.Info("the database is free again", "database", d.path)
			}
			return d.explain(operation, err)
		}
		if !waiting {
			d.log.Warn("another program holds the database locked for writing; waiting until it is free", "database", d.path)
			waiting = true
		}
		if err := d.sleep(ctx, wait); err != nil {
			return d.explain(operation, err)
		}
	}
}

func (d *DB) tryTransaction(ctx context.Context, work func(context.Context, *sql.Tx) error) error {
	// database/sql rolls a transaction back when its context ends, even between
	// the last row and the commit. So its context follows ctx only up to BEGIN.
	txCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	detach := context.AfterFunc(ctx, cancel)
	tx, err := d.write.BeginTx(txCtx, nil) // BEGIN IMMEDIATE: see dsn
	if !detach() {
		if err == nil {
			err = tx.Rollback()
		}
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it has nothing to do, after an error that error counts
	if err := work(txCtx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// exec runs a prepared command in a transaction.
func (d *DB) exec(ctx context.Context, tx *sql.Tx, command string, args ...any) (sql.Result, error) {
	return tx.StmtContext(ctx, d.write.statements[command]).ExecContext(ctx, args...)
}

// explain adds to an error of SQLite the file and what to do about it. It
// returns nil for nil.
func (d *DB) explain(operation string, err error) error {
	if err == nil {
		return nil
	}
	remedy := ""
	switch {
	case isCode(err, sqlite3.SQLITE_FULL):
		remedy = ": free some space on its disk; what was not stored is fetched again"
	case isCode(err, sqlite3.SQLITE_READONLY):
		remedy = ": give the service's user write permission for the file and its folder"
	case isCode(err, sqlite3.SQLITE_CANTOPEN):
		remedy = ": give the service's user permission for the file and its folder, and check that the disk is mounted"
	case isCode(err, sqlite3.SQLITE_NOTADB):
		remedy = ": this is not an SQLite database, or its beginning is damaged; correct the path, or stop the service and run ksefmirror restore or ksefmirror rebuild"
	case isCode(err, sqlite3.SQLITE_CORRUPT):
		remedy = ": the file is damaged; stop the service and run ksefmirror restore with a backup, or ksefmirror rebuild"
	case isCode(err, sqlite3.SQLITE_IOERR):
		remedy = ": check the disk it is on"
	case isCode(err, sqlite3.SQLITE_BUSY):
		remedy = ": another program holds it locked; end that program's transaction"
	}
	return fmt.Errorf("%s database %s: %w%s", operation, d.path, err, remedy)
}

// isCode tells whether err comes from SQLite with the given primary result code.
func isCode(err error, code int) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) && failure.Code()&0xff == code
}

// timeLayout has a fixed width, so that the order of the text is the order in
// time. Formatting with it truncates.
const timeLayout = "2006-01-02T15:04:05.0000000Z07:00"

// moment gives the text of t for a column, or NULL for the zero time. A
// time.Time itself is never bound: the driver would write Go's own format.
func moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(timeLayout)
}

// parseMoment reads what moment wrote; NULL gives the zero time.
func parseMoment(text sql.NullString) (time.Time, error) {
	if !text.Valid {
		return time.Time{}, nil
	}
	return time.Parse(timeLayout, text.String)
}

// text gives NULL for "".
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}
