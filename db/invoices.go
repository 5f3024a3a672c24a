package db

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// Known is what the database has of an invoice.
type Known struct {
	Hash  string   // SHA-256 in base64, as KSeF states it
	Path  string   // in the folder tree
	Roles []string // sorted
}

// selectKnown walks the numbers and looks each up; CROSS JOIN keeps that order.
const selectKnown = `SELECT i.ksef_number, i.invoice_hash, i.xml_path,
	(SELECT coalesce(group_concat(r.role, ',' ORDER BY r.role), '') FROM invoice_roles r WHERE r.invoice_id = i.id)
	FROM json_each(?) n CROSS JOIN invoices i ON i.ksef_number = n.value`

// Known gives, by KSeF number, those of the numbers that are stored.
func (d *DB) Known(ctx context.Context, numbers []string) (map[string]Known, error) {
	list, err := json.Marshal(numbers)
	if err != nil {
		return nil, fmt.Errorf("look up invoices: %w", err)
	}
	rows, err := d.read.statements[selectKnown].QueryContext(ctx, string(list))
	if err != nil {
		return nil, d.explain("look up invoices in", err)
	}
	defer rows.Close()
	known := make(map[string]Known, len(numbers))
	for rows.Next() {
		var number, roles string
		var k Known
		if err := rows.Scan(&number, &k.Hash, &k.Path, &roles); err != nil {
			return nil, d.explain("look up invoices in", err)
		}
		k.Roles = strings.Split(roles, ",")
		known[number] = k
	}
	return known, d.explain("look up invoices in", rows.Err())
}

// Quarantined is an invoice that KSeF listed and that could not be mirrored.
// Number, role and hash together identify it.
type Quarantined struct {
	KSeFNumber  string
	Hash        string    // that KSeF stated, in base64
	Role        string    // "": that of its batch
	Reason      string    // of the last attempt
	Path        string    // where the bytes are kept; "" when none arrived: an earlier path stays
	StoredAt    string    // KSeF's date of permanent storage, verbatim
	LastTriedAt time.Time // kept to 100 ns
	Holds       bool      // the watermark waits for it; otherwise it is only an alarm
}

// Release ends the wait for a quarantined invoice.
type Release struct {
	Quarantined string // the number under which it was quarantined, which KSeF may have listed wrongly
	Stored      string // the number under which it is stored; "" where what waited was no single invoice
}

// Batch is what one commit stores.
type Batch struct {
	Role        string // of the stream
	Invoices    []Invoice
	Seen        []string // numbers of stored invoices that this role lists as well
	Quarantined []Quarantined
	// Released are the quarantined invoices that this role's watermark need not
	// wait for any more: they are stored, by this batch or before.
	Released []Release
	// Watermark, Position and HWM are the stream's new ones, verbatim; "" leaves
	// what is there.
	Watermark, Position, HWM string
	Export                   int64 // the export whose last invoices these are, which ends with them; 0: none
}

const (
	// selectLastID comes before the rows of a batch: those after it are the batch's.
	selectLastID = `SELECT coalesce(max(id), 0) FROM invoices`
	// resolveReferences finds anew what those references mean that name an invoice
	// after the given id. The references of those invoices themselves are
	// resolved as they are inserted: see migration 6.
	resolveReferences = `WITH added AS (SELECT ksef_number, invoice_number FROM invoices WHERE id > ?)
	UPDATE invoice_references SET target_id = (
		SELECT iif(count(*) = 1, max(c.candidate_id), NULL) FROM reference_candidates c
		WHERE c.invoice_id = invoice_references.invoice_id AND c.relation = invoice_references.relation AND c.position = invoice_references.position)
	WHERE ksef_number IN (SELECT ksef_number FROM added)
		OR (ksef_number IS NULL AND number IN (SELECT invoice_number FROM added))`
	selectInvoiceHash = `SELECT id, invoice_hash FROM invoices WHERE ksef_number = ?`
	// What is listed again is not missing from KSeF's list any more.
	insertRole = `INSERT INTO invoice_roles(invoice_id, role) VALUES(?, ?)
	ON CONFLICT DO UPDATE SET not_seen_since = NULL WHERE not_seen_since IS NOT NULL`
	insertDocument = `INSERT INTO documents(invoice_id, dictionary, size, sha256, xml_zstd) VALUES(?, ?, ?, ?, ?)`
	// Another text under the same key would break NOT NULL.
	insertText       = `INSERT INTO texts(id, value) VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET value = NULL WHERE value <> excluded.value`
	deleteInvoice    = `DELETE FROM invoices WHERE id = ?`
	upsertQuarantine = `INSERT INTO quarantine(ksef_number, invoice_hash, role, reason, path, stored_at, holds, first_seen_at, last_tried_at)
	VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT(ksef_number, role, invoice_hash) DO UPDATE SET reason = excluded.reason, path = coalesce(excluded.path, path),
		stored_at = excluded.stored_at, holds = excluded.holds, last_tried_at = excluded.last_tried_at, released_at = NULL`
	releaseQuarantine = `UPDATE quarantine SET released_at = ? WHERE ksef_number = ? AND role = ? AND holds AND released_at IS NULL`
	upsertStream      = `INSERT INTO streams(role, watermark, position, hwm) VALUES(?, ?, ?, ?)
	ON CONFLICT(role) DO UPDATE SET watermark = coalesce(excluded.watermark, watermark),
		position = coalesce(excluded.position, position), hwm = coalesce(excluded.hwm, hwm)`
)

// Commit stores a batch in one transaction: all of it or nothing. An invoice
// that is stored already, with the same hash, only gains the role; with another
// hash the whole batch is refused, as it is for an XML that does not have the
// stated hash, and for a number in Seen or Released that is not stored. After any
// error the caller may commit the same batch again.
//
// A crash before the transaction's end leaves the database as it was, the
// watermark included, so the invoices are listed again.
func (d *DB) Commit(ctx context.Context, b Batch) error {
	err := d.transaction(ctx, "store invoices in", func(ctx context.Context, tx *sql.Tx) error {
		now := moment(d.now())
		if err := d.storeAll(ctx, tx, &b); err != nil {
			return err
		}
		for _, number := range b.Seen {
			id, _, err := d.stored(ctx, tx, number)
			if err != nil {
				return fmt.Errorf("invoice %s: %w", number, err)
			}
			if _, err := d.exec(ctx, tx, insertRole, id, b.Role); err != nil {
				return fmt.Errorf("invoice %s: %w", number, err)
			}
		}
		for _, q := range b.Quarantined {
			role := q.Role
			if role == "" {
				role = b.Role
			}
			_, err := d.exec(ctx, tx, upsertQuarantine, q.KSeFNumber, q.Hash, role, q.Reason, text(q.Path), text(q.StoredAt),
				flag(q.Holds), now, moment(q.LastTriedAt))
			if err != nil {
				return fmt.Errorf("quarantine invoice %s: %w", q.KSeFNumber, err)
			}
		}
		for _, release := range b.Released {
			if release.Stored != "" {
				if _, _, err := d.stored(ctx, tx, release.Stored); err != nil {
					return fmt.Errorf("release invoice %s: %w", release.Stored, err)
				}
			}
			if _, err := d.exec(ctx, tx, releaseQuarantine, now, release.Quarantined, b.Role); err != nil {
				return fmt.Errorf("release invoice %s: %w", release.Quarantined, err)
			}
		}
		// The watermark comes last, and in the same transaction: there is no instant
		// at which it is ahead of the rows.
		if b.Export != 0 {
			if _, err := d.exec(ctx, tx, deleteExport, b.Export); err != nil {
				return err
			}
		}
		if b.Watermark == "" && b.Position == "" && b.HWM == "" {
			return nil
		}
		_, err := d.exec(ctx, tx, upsertStream, b.Role, text(b.Watermark), text(b.Position), text(b.HWM))
		return err
	})
	if b.Export != 0 {
		return d.forgetKey(err)
	}
	return err
}

// stored gives the row and the hash of an invoice, or ErrNotStored.
func (d *DB) stored(ctx context.Context, tx *sql.Tx, number string) (id int64, hash string, err error) {
	err = tx.StmtContext(ctx, d.write.statements[selectInvoiceHash]).QueryRowContext(ctx, number).Scan(&id, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotStored
	}
	return id, hash, err
}

// storeAll stores the invoices of a batch, lets those that named them before they were
// there find them, and the search too.
func (d *DB) storeAll(ctx context.Context, tx *sql.Tx, b *Batch) error {
	if len(b.Invoices) == 0 {
		return nil
	}
	var last int64
	if err := tx.StmtContext(ctx, d.write.statements[selectLastID]).QueryRowContext(ctx).Scan(&last); err != nil {
		return err
	}
	texts := make(map[string]struct{})
	var added []int64
	for i := range b.Invoices {
		// Its rows take as much memory as its document: those of one at a time.
		id, isNew, err := d.store(ctx, tx, &b.Invoices[i], b.Role, texts)
		if err != nil {
			return fmt.Errorf("invoice %s: %w", b.Invoices[i].KSeFNumber, err)
		}
		if isNew {
			added = append(added, id)
		}
	}
	if err := d.addToSearch(ctx, tx, added); err != nil {
		return err
	}
	_, err := d.exec(ctx, tx, resolveReferences, last)
	return err
}

// store gives the row of an invoice, and whether it was not stored before. It keeps in
// texts the long texts that this transaction has stored.
func (d *DB) store(ctx context.Context, tx *sql.Tx, in *Invoice, role string, texts map[string]struct{}) (id int64, isNew bool, err error) {
	r, err := d.rowsOf(in, role)
	if err != nil {
		return 0, false, err
	}
	r.stored = texts
	id, err = d.insert(ctx, tx, in.KSeFNumber, r)
	isNew = err == nil
	if errors.Is(err, errStored) {
		var hash string
		if id, hash, err = d.stored(ctx, tx, in.KSeFNumber); err == nil && hash != r.hash {
			err = fmt.Errorf("it is stored with hash %s and now has %s; the stored one was kept", hash, r.hash)
		}
	}
	if err != nil {
		return 0, false, err
	}
	_, err = d.exec(ctx, tx, insertRole, id, r.role)
	return id, isNew, err
}

// errStored says that an invoice with the same number is stored already.
var errStored = errors.New("stored already")

func (d *DB) insert(ctx context.Context, tx *sql.Tx, number string, r invoiceRows) (int64, error) {
	id, err := d.insertInvoice(ctx, tx, r)
	if isCode(err, sqlite3.SQLITE_CONSTRAINT) || isCode(err, sqlite3.SQLITE_MISMATCH) {
		// What was read from the document does not fit the schema. That is the
		// reader's fault, and no reason to miss the invoice.
		d.log.Warn("invoice is stored without the fields of its document", "ksef_number", number, "err", err)
		if _, err := d.exec(ctx, tx, deleteInvoice, id); err != nil {
			return 0, err
		}
		id, err = d.insertInvoice(ctx, tx, invoiceRows{invoice: r.withoutDocument("error", "the fields that were read do not fit the database: "+err.Error())})
	}
	if err != nil {
		return 0, err
	}
	_, err = d.exec(ctx, tx, insertDocument, id, d.dictionary, r.size, r.sum[:], r.packed)
	return id, err
}

// insertInvoice inserts the row of an invoice and those of its parties, lines and
// whatever else there are several of, or nothing, with errStored. The id is valid
// when only one of the latter failed.
func (d *DB) insertInvoice(ctx context.Context, tx *sql.Tx, r invoiceRows) (int64, error) {
	result, err := d.exec(ctx, tx, insertInvoiceRow, valuesOf(nil, r.invoice)...)
	if err != nil {
		return 0, err
	}
	if inserted, err := result.RowsAffected(); err != nil || inserted == 0 {
		return 0, cmp.Or(err, errStored)
	}
	id, err := result.LastInsertId()
	if err != nil {
		return 0, err
	}
	return id, d.insertLists(ctx, tx, id, r)
}

// insertLists inserts all that an invoice has several of.
func (d *DB) insertLists(ctx context.Context, tx *sql.Tx, id int64, r invoiceRows) error {
	for _, text := range r.texts {
		if _, is := r.stored[text]; is {
			continue
		}
		if _, err := d.exec(ctx, tx, insertText, textID(text), text); err != nil {
			return err
		}
		r.stored[text] = struct{}{}
	}
	for _, child := range r.children {
		if err := d.insertChildren(ctx, tx, id, child); err != nil {
			return err
		}
	}
	return nil
}

// insertChildren inserts the rows of an invoice into another table.
func (d *DB) insertChildren(ctx context.Context, tx *sql.Tx, id int64, r rows) error {
	if r.count == 0 {
		return nil
	}
	width := len(r.values) / r.count
	for i := 0; i < len(r.values); i += width {
		r.values[i] = id
	}
	values := r.values
	for i, count := range rowsAtOnce {
		for ; len(values) >= count*width; values = values[count*width:] {
			if _, err := d.exec(ctx, tx, r.insert[i], values[:count*width]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// StoredFile is an invoice as it must be in the folder tree.
type StoredFile struct {
	ID         int64 // ascending in the order in which they were stored
	KSeFNumber string
	Path       string
	SHA256     [sha256.Size]byte
	Size       int64 // bytes
}

// filesPage is how many rows Files reads at a time.
const filesPage = 1000

const selectFiles = `SELECT i.id, i.ksef_number, i.xml_path, d.sha256, d.size
	FROM invoices i JOIN documents d ON d.invoice_id = i.id WHERE i.id > ? ORDER BY i.id LIMIT ?`

// Files gives every invoice in the order in which they were stored. After an
// error it gives nothing more.
func (d *DB) Files(ctx context.Context) iter.Seq2[StoredFile, error] { return d.FilesAfter(ctx, 0) }

// FilesAfter is Files for the invoices with an ID above after.
//
// It reads in pages: the caller may take hours to look at the files, and a read
// transaction of hours would keep the write-ahead log growing. An invoice that is
// stored meanwhile is given as well.
func (d *DB) FilesAfter(ctx context.Context, after int64) iter.Seq2[StoredFile, error] {
	return func(yield func(StoredFile, error) bool) {
		for {
			page, err := d.files(ctx, after)
			if err != nil {
				yield(StoredFile{}, d.explain("list the invoices of", err))
				return
			}
			for _, file := range page {
				if !yield(file, nil) {
					return
				}
			}
			if len(page) < filesPage {
				return
			}
			after = page[len(page)-1].ID
		}
	}
}

func (d *DB) files(ctx context.Context, after int64) (page []StoredFile, err error) {
	rows, err := d.read.statements[selectFiles].QueryContext(ctx, after, filesPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var file StoredFile
		var sum []byte
		if err := rows.Scan(&file.ID, &file.KSeFNumber, &file.Path, &sum, &file.Size); err != nil {
			return nil, err
		}
		if copy(file.SHA256[:], sum) != sha256.Size {
			return nil, fmt.Errorf("invoice %s has a SHA-256 of %d bytes", file.KSeFNumber, len(sum))
		}
		page = append(page, file)
	}
	return page, rows.Err()
}

// Listed is a stored invoice as KSeF lists it.
type Listed struct {
	KSeFNumber   string
	MetadataJSON []byte // as KSeF sent it
}

const selectListed = `SELECT i.id, i.stored_at, i.ksef_number, i.metadata_json, d.dictionary, d.size, d.xml_zstd
	FROM invoices i JOIN documents d ON d.invoice_id = i.id
	WHERE (i.stored_at, i.id) > (?, ?) AND i.stored_at <= ?
		AND EXISTS(SELECT 1 FROM invoice_roles r WHERE r.invoice_id = i.id AND r.role = ?)
	ORDER BY i.stored_at, i.id LIMIT ?`

// Listed gives the invoices of a role whose permanent storage date is not before
// from and not after to, by that date. After an error it gives nothing more. Like
// Files it reads in pages.
func (d *DB) Listed(ctx context.Context, role string, from, to time.Time) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		for after, id := moment(from), int64(-1); ; {
			rows, err := d.read.statements[selectListed].QueryContext(ctx, after, id, moment(to), role, filesPage)
			var page []Listed
			if err == nil {
				page, after, id, err = d.readListed(ctx, rows)
			}
			if err != nil {
				yield(Listed{}, d.explain("list the invoices of", err))
				return
			}
			for _, one := range page {
				if !yield(one, nil) {
					return
				}
			}
			if len(page) < filesPage {
				return
			}
		}
	}
}

// readListed gives a page, and where the next one begins.
func (d *DB) readListed(ctx context.Context, rows *sql.Rows) (page []Listed, after any, id int64, err error) {
	type frame struct {
		dictionary, size int64
		packed           []byte
	}
	var frames []frame
	defer rows.Close()
	for rows.Next() {
		var one Listed
		var f frame
		if err := rows.Scan(&id, &after, &one.KSeFNumber, &one.MetadataJSON, &f.dictionary, &f.size, &f.packed); err != nil {
			return nil, nil, 0, err
		}
		page, frames = append(page, one), append(frames, f)
	}
	// Their connection is given back first: to unpack may take another.
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, nil, 0, err
	}
	for i, f := range frames {
		if len(page[i].MetadataJSON) > 0 {
			continue
		}
		if _, page[i].MetadataJSON, err = d.unpack(ctx, f.dictionary, f.size, f.packed); err != nil {
			return nil, nil, 0, fmt.Errorf("decompress invoice %s: %w", page[i].KSeFNumber, err)
		}
	}
	return page, after, id, nil
}

// Counts are the numbers of invoices.
type Counts struct {
	Invoices    int
	ByRole      map[string]int // an invoice may have several roles
	Quarantined int            // waiting in quarantine, by role, or an alarm there
	Unparsed    int            // stored, but not read into fields
}

const (
	selectCounts = `SELECT (SELECT count(*) FROM invoices), (SELECT count(*) FROM quarantine WHERE released_at IS NULL),
	(SELECT count(*) FROM invoices WHERE parse_status <> 'ok')`
	selectEmpty      = `SELECT NOT EXISTS(SELECT 1 FROM invoices)`
	selectRoleCounts = `SELECT role, count(*) FROM invoice_roles GROUP BY role`
)

// Empty tells whether no invoice is stored.
func (d *DB) Empty(ctx context.Context) (bool, error) {
	var empty bool
	err := d.read.statements[selectEmpty].QueryRowContext(ctx).Scan(&empty)
	return empty, d.explain("look for invoices in", err)
}

// Counts gives the numbers of invoices, all of one instant. It takes longer the
// more there are.
func (d *DB) Counts(ctx context.Context) (Counts, error) {
	c := Counts{ByRole: make(map[string]int)}
	err := d.counts(ctx, &c)
	return c, d.explain("count the invoices of", err)
}

func (d *DB) counts(ctx context.Context, c *Counts) error {
	tx, err := d.read.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	err = tx.QueryRowContext(ctx, selectCounts).Scan(&c.Invoices, &c.Quarantined, &c.Unparsed)
	if err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, selectRoleCounts)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var role string
		var count int
		if err := rows.Scan(&role, &count); err != nil {
			return err
		}
		c.ByRole[role] = count
	}
	return rows.Err()
}

const (
	selectOpenQuarantine = `SELECT ksef_number, invoice_hash, role, reason, coalesce(path, ''), coalesce(stored_at, ''), last_tried_at, holds
	FROM quarantine WHERE released_at IS NULL ORDER BY id`
	selectQuarantined = `SELECT EXISTS(SELECT 1 FROM quarantine WHERE ksef_number = ? AND invoice_hash = ?)`
)

// OpenQuarantine gives what is in quarantine and not released, oldest first.
func (d *DB) OpenQuarantine(ctx context.Context) (_ []Quarantined, err error) {
	rows, err := d.read.statements[selectOpenQuarantine].QueryContext(ctx)
	if err != nil {
		return nil, d.explain("read the quarantine from", err)
	}
	defer rows.Close()
	var open []Quarantined
	for rows.Next() {
		var q Quarantined
		var tried sql.NullString
		if err := rows.Scan(&q.KSeFNumber, &q.Hash, &q.Role, &q.Reason, &q.Path, &q.StoredAt, &tried, &q.Holds); err != nil {
			return nil, d.explain("read the quarantine from", err)
		}
		if q.LastTriedAt, err = parseMoment(tried); err != nil {
			return nil, d.explain("read the quarantine from", err)
		}
		open = append(open, q)
	}
	return open, d.explain("read the quarantine from", rows.Err())
}

// IsQuarantined tells whether an invoice with that number and hash was ever put
// in quarantine, in any role.
func (d *DB) IsQuarantined(ctx context.Context, number, hash string) (bool, error) {
	var is bool
	err := d.read.statements[selectQuarantined].QueryRowContext(ctx, number, hash).Scan(&is)
	return is, d.explain("read the quarantine from", err)
}

// queries are all statements that read.
func queries() []string {
	return []string{
		selectMirror, selectDictionaryID, selectDictionary, selectDocument, selectKnown, selectFiles, selectEmpty, selectListed, selectCounts,
		selectRoleCounts, selectOpenQuarantine, selectQuarantined, selectStreams, selectRequests, selectBlocks, selectLimits, selectExports, countAbandoned, countExports,
		selectReconciliation, selectHeld, countHeld, selectDifferences, countNotListed, selectFirstRun, selectOutdated, countOutdated, selectLastID,
		selectDeliveries, selectNewestID, selectFirstSince, selectNewInvoices, countNewInvoices,
		selectAudit, selectNewestPaths, selectAdopts, selectSearch,
	}
}

// writersQueries are the queries that opening a database asks, and a cycle in which
// nothing is new. All of them are short, and the writer answers them, so that such a
// cycle needs no other connection: to open one costs more than all that is asked on
// it, as SQLite reads the whole schema. Whoever asks them must hold no transaction,
// nor the rows of another.
func writersQueries() []string {
	return []string{
		selectMirror, selectDictionaryID, selectEmpty, selectAdopts, selectDeliveries, selectNewestPaths, countOutdated,
		selectStreams, selectOpenQuarantine, selectExports, countAbandoned, selectKnown, selectRequests, selectBlocks,
		selectAudit, selectLastID, selectFirstRun, selectReconciliation,
	}
}

// commands are all statements that the writer runs.
func commands() []string {
	children := slices.Concat(clearLists[:])
	for _, statements := range []insert{
		insertParties, insertLines, insertVATRows, insertReferences, insertCorrectionStates, insertPayments, insertDueDates, insertAccounts,
		insertAdjustments, insertRelatedDocuments, insertTransports, insertNotes, insertAttachments,
	} {
		children = append(children, statements[:]...)
	}
	return slices.Concat(children, []string{
		insertDictionary, selectLastID, resolveReferences, selectInvoiceHash, insertInvoiceRow, insertRole, insertDocument, insertText,
		deleteInvoice, upsertQuarantine, releaseQuarantine, upsertStream, insertRun, upsertStreamRun, deleteOldRuns,
		deleteOldRequests, selectNewRequests, selectBlocks, insertRequest, updateRequest, upsertBlock, updateLimits, insertExport, updateReference, deleteExport, abandonExport, deleteOldAbandoned,
		insertReconciliation, advanceReconciliation, countLate, finishReconciliation, deleteReconciliations, insertLate, setNotSeen, clearNotSeen,
		selectReading, beginReading, undoReading, endReading, updateReading, keepReading, outdate,
		insertSearch, deleteSearch,
		insertDelivery, deleteDelivery, offerDelivery, failDelivery, acknowledge,
		upsertAudit, updateAdopts, forgetReconciliations,
	})
}
