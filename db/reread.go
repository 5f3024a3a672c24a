package db

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"ksefmirror/parse"
)

// OutdatedInvoice is a stored invoice that an older version of the reader has read.
type OutdatedInvoice struct {
	Place        OutdatedPlace // in the list of them
	KSeFNumber   string
	Path         string // in the folder tree
	XML          []byte // as received
	MetadataJSON []byte // as KSeF sent it
	// Err says that the copy in the database is damaged: then there are no XML and
	// metadata.
	Err error
}

// OutdatedPlace is a place in the list of outdated invoices; zero: before the first.
type OutdatedPlace struct {
	reader int
	id     int64
}

const (
	selectOutdated = `SELECT i.parser_version, i.id, i.ksef_number, i.xml_path, i.metadata_json, d.dictionary, d.size, d.sha256, d.xml_zstd
	FROM invoices i JOIN documents d ON d.invoice_id = i.id
	WHERE (i.parser_version, i.id) > (?, ?) AND i.parser_version < ? ORDER BY i.parser_version, i.id LIMIT ?`
	countOutdated = `SELECT count(*) FROM invoices WHERE parser_version < ?`
)

// CountOutdated gives the number of invoices that an older version of the reader
// has read.
func (d *DB) CountOutdated(ctx context.Context) (int, error) {
	var count int
	err := d.read.statements[countOutdated].QueryRowContext(ctx, parse.Version).Scan(&count)
	return count, d.explain("count the invoices to read again of", err)
}

// Outdated gives the invoices that an older version of the reader has read and that
// come after a place: at most most of them, and fewer where their XML together would
// have more than size bytes, but at least one. None means that there are no more.
func (d *DB) Outdated(ctx context.Context, after OutdatedPlace, most, size int) ([]OutdatedInvoice, error) {
	page, err := d.outdated(ctx, after, most, size)
	return page, d.explain("list the invoices to read again of", err)
}

func (d *DB) outdated(ctx context.Context, after OutdatedPlace, most, size int) ([]OutdatedInvoice, error) {
	type frame struct {
		dictionary, size int64
		sum, packed      []byte
	}
	rows, err := d.read.statements[selectOutdated].QueryContext(ctx, after.reader, after.id, parse.Version, most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var page []OutdatedInvoice
	var frames []frame
	for rows.Next() {
		var one OutdatedInvoice
		var f frame
		if err := rows.Scan(&one.Place.reader, &one.Place.id, &one.KSeFNumber, &one.Path, &one.MetadataJSON, &f.dictionary, &f.size, &f.sum, &f.packed); err != nil {
			return nil, err
		}
		if size -= int(f.size); size < 0 && len(page) > 0 {
			break
		}
		page, frames = append(page, one), append(frames, f)
	}
	// Their connection is given back first: to unpack may take another.
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for i, f := range frames {
		xml, metadata, err := d.unpack(ctx, f.dictionary, f.size, f.packed)
		if sum := sha256.Sum256(xml); err == nil && string(sum[:]) != string(f.sum) {
			err = fmt.Errorf("its %d bytes are not those that were stored", len(xml))
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if page[i].XML = xml; len(page[i].MetadataJSON) == 0 {
			page[i].MetadataJSON = metadata
		}
		if err != nil {
			page[i].XML, page[i].MetadataJSON, page[i].Err = nil, nil, err
		}
	}
	return page, nil
}

// notRead are the columns of an invoice that do not come from its document.
var notRead = [...]string{
	"ksef_number", "api_invoice_type", "invoicing_mode", "invoicing_at", "acquired_at", "stored_at", "received_date",
	"api_net_minor", "api_vat_pln_minor", "api_gross_minor", "invoice_hash", "corrected_offline_hash",
	"xml_path", "roles", "metadata_json", "first_seen_at",
}

// readColumns gives the columns of an invoice that come from its document, and
// those that say when and by which reader.
func readColumns(columns []column) []column {
	return slices.DeleteFunc(columns, func(c column) bool { return slices.Contains(notRead[:], c.name) })
}

// clearLists are the statements that delete all that an invoice has several of.
var clearLists = [...]string{
	"DELETE FROM parties WHERE invoice_id = ?",
	"DELETE FROM invoice_lines WHERE invoice_id = ?",
	"DELETE FROM vat_summary WHERE invoice_id = ?",
	"DELETE FROM invoice_references WHERE invoice_id = ?",
	"DELETE FROM correction_states WHERE invoice_id = ?",
	"DELETE FROM payments WHERE invoice_id = ?",
	"DELETE FROM due_dates WHERE invoice_id = ?",
	"DELETE FROM bank_accounts WHERE invoice_id = ?",
	"DELETE FROM adjustments WHERE invoice_id = ?",
	"DELETE FROM related_documents WHERE invoice_id = ?",
	"DELETE FROM transports WHERE invoice_id = ?",
	"DELETE FROM invoice_notes WHERE invoice_id = ?",
	"DELETE FROM attachments WHERE invoice_id = ?",
}

var updateReading = func() string {
	var set []string
	for _, c := range readColumns(invoiceColumns(&Invoice{}, &parse.Document{}, "", "", time.Time{})) {
		set = append(set, c.name+" = ?")
	}
	return "UPDATE invoices SET " + strings.Join(set, ", ") + " WHERE id = ?"
}()

const (
	selectReading = `SELECT id, parse_status = 'ok' FROM invoices WHERE ksef_number = ?`
	beginReading  = `SAVEPOINT reading`
	undoReading   = `ROLLBACK TO reading`
	endReading    = `RELEASE reading`
	keepReading   = `UPDATE invoices SET parse_error = ?, parser_version = ?, updated_at = ? WHERE id = ?`
)

// Reread replaces in one transaction what was read of stored invoices. What KSeF
// states of them, their roles, paths and documents stay as they are. What names them
// finds them anew: see migration 6. Of an invoice
// that an earlier version has read and this one cannot, what was read is kept: an
// invoice must not vanish from the books because the program was updated. Their
// numbers are given; parse_error has the reason. After any error the caller may
// repeat it.
//
// A crash before the transaction's end leaves all of them outdated.
func (d *DB) Reread(ctx context.Context, invoices []Invoice) (kept []string, err error) {
	err = d.transaction(ctx, "store what was read again in", func(ctx context.Context, tx *sql.Tx) error {
		kept = nil
		ids := make([]int64, len(invoices))
		for i := range invoices {
			id, _, err := d.stored(ctx, tx, invoices[i].KSeFNumber)
			if err != nil {
				return fmt.Errorf("invoice %s: %w", invoices[i].KSeFNumber, err)
			}
			ids[i] = id
		}
		if err := d.removeFromSearch(ctx, tx, ids); err != nil {
			return err
		}
		for i := range invoices {
			in := &invoices[i]
			was, err := d.reread(ctx, tx, in)
			if err != nil {
				return fmt.Errorf("invoice %s: %w", in.KSeFNumber, err)
			}
			if was {
				kept = append(kept, in.KSeFNumber)
			}
		}
		return d.addToSearch(ctx, tx, ids)
	})
	return kept, err
}

// reread replaces what was read of one invoice, and tells whether it kept that
// instead.
func (d *DB) reread(ctx context.Context, tx *sql.Tx, in *Invoice) (kept bool, err error) {
	var id int64
	var wasRead bool
	err = tx.StmtContext(ctx, d.write.statements[selectReading]).QueryRowContext(ctx, in.KSeFNumber).Scan(&id, &wasRead)
	if errors.Is(err, sql.ErrNoRows) {
		return false, ErrNotStored
	}
	if err != nil {
		return false, err
	}
	r := readingOf(in, d.now())
	r.stored = make(map[string]struct{})
	status, reason := in.ParseStatus, in.ParseError
	if status == "ok" || !wasRead {
		err := d.replaceReading(ctx, tx, id, r)
		if !isCode(err, sqlite3.SQLITE_CONSTRAINT) && !isCode(err, sqlite3.SQLITE_MISMATCH) {
			return false, err
		}
		// That is the reader's fault, as in insert.
		d.log.Warn("what was read of an invoice again does not fit the database", "ksef_number", in.KSeFNumber, "err", err)
		status, reason = "error", "the fields that were read do not fit the database: "+err.Error()
	}
	if !wasRead {
		return false, d.replaceReading(ctx, tx, id, invoiceRows{invoice: r.withoutDocument(status, reason)})
	}
	reason = fmt.Sprintf("version %d of the reader could not read it, what an earlier one had read is kept: %s", parse.Version, cmp.Or(reason, status))
	_, err = d.exec(ctx, tx, keepReading, reason, parse.Version, moment(d.now()), id)
	return true, err
}

// replaceReading replaces what was read of one invoice: all of it, or with an error
// nothing.
func (d *DB) replaceReading(ctx context.Context, tx *sql.Tx, id int64, r invoiceRows) error {
	if _, err := d.exec(ctx, tx, beginReading); err != nil {
		return err
	}
	failed := d.replaceRows(ctx, tx, id, r)
	if failed != nil {
		if _, err := d.exec(ctx, tx, undoReading); err != nil {
			return errors.Join(failed, err)
		}
	}
	_, err := d.exec(ctx, tx, endReading)
	return cmp.Or(failed, err)
}

func (d *DB) replaceRows(ctx context.Context, tx *sql.Tx, id int64, r invoiceRows) error {
	values := append(valuesOf(nil, readColumns(r.invoice)), id)
	if _, err := d.exec(ctx, tx, updateReading, values...); err != nil {
		return err
	}
	for _, statement := range clearLists {
		if _, err := d.exec(ctx, tx, statement, id); err != nil {
			return err
		}
	}
	return d.insertLists(ctx, tx, id, r)
}

const outdate = `UPDATE invoices SET parser_version = 0 WHERE id > ? AND id <= ? AND parser_version > 0`

// outdateAtOnce is how many rows share a transaction of Outdate.
const outdateAtOnce = 10_000

// Outdate makes all invoices outdated. After an error or a crash some of them are.
func (d *DB) Outdate(ctx context.Context) error {
	var last int64
	err := d.read.statements[selectLastID].QueryRowContext(ctx).Scan(&last)
	if err != nil {
		return d.explain("count the invoices of", err)
	}
	for after := int64(0); after < last; after += outdateAtOnce {
		err := d.transaction(ctx, "mark the invoices to read again in", func(ctx context.Context, tx *sql.Tx) error {
			_, err := d.exec(ctx, tx, outdate, after, after+outdateAtOnce)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
