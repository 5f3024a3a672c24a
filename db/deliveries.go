package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrNoReceiver is returned, wrapped, for a receiver that [DB.SetReceivers] was
// not told of.
var ErrNoReceiver = errors.New("it is not among the receivers of this mirror")

// Delivery is how far a receiver has been told of new invoices.
type Delivery struct {
	Receiver string    // as given to [DB.SetReceivers]
	Since    time.Time // when it was first there; it is told of what was stored later
	// LastID and OfferedID are ids of invoices, which grow in the order in which
	// these are stored: the receiver has acknowledged everything up to LastID, and
	// was offered what follows up to OfferedID; 0: nothing.
	LastID, OfferedID int64
	Behind            int64  // invoices that it has not acknowledged
	Failures          int    // attempts in a row
	LastError         string // of the last attempt; "": it succeeded, or there was none
	// NextAttempt is when to try again after a failure. Zero: there was none, or the
	// receiver wants no more for now.
	NextAttempt time.Time
	LastSuccess time.Time // zero: none yet
}

const (
	// Only the greatest id is looked up; to count would read every new row.
	selectDeliveries = `SELECT receiver, since, last_id, coalesce(offered_id, 0), max(0, (SELECT coalesce(max(id), 0) FROM invoices) - last_id),
	failures, coalesce(last_error, ''), next_attempt_at, last_success_at FROM deliveries ORDER BY receiver`
	insertDelivery = `INSERT INTO deliveries(receiver, since, last_id) VALUES(?, ?, (SELECT coalesce(max(id), 0) FROM invoices))
	ON CONFLICT(receiver) DO NOTHING`
	deleteDelivery    = `DELETE FROM deliveries WHERE receiver = ?`
	offerDelivery     = `UPDATE deliveries SET offered_id = ?2 WHERE receiver = ?1`
	failDelivery      = `UPDATE deliveries SET failures = failures + 1, last_error = ?2, next_attempt_at = ?3 WHERE receiver = ?1`
	acknowledge       = `UPDATE deliveries SET last_id = ?2, offered_id = NULL, failures = 0, last_error = NULL, next_attempt_at = NULL, last_success_at = ?3 WHERE receiver = ?1`
	selectNewestID    = `SELECT coalesce(max(id), 0) FROM invoices`
	selectFirstSince  = `SELECT id FROM invoices WHERE id > ? AND first_seen_at >= ? ORDER BY id LIMIT 1`
	selectNewInvoices = `SELECT ksef_number, coalesce(roles, ''), xml_path, invoice_hash, coalesce(api_invoice_type, ''), form,
		coalesce(invoice_number, ''), coalesce(issue_date, ''), coalesce(received_date, ''), stored_at, first_seen_at,
		coalesce(seller_nip, ''), coalesce(seller_name, ''), coalesce(buyer_id_type, ''), coalesce(buyer_id, ''), coalesce(buyer_name, ''),
		coalesce(currency, ''), api_net_minor, api_vat_pln_minor, api_gross_minor
	FROM v_invoices WHERE id > ? AND id <= ? ORDER BY id LIMIT ?`
	countNewInvoices = `SELECT role, count(*) FROM invoice_roles WHERE invoice_id > ? AND invoice_id <= ? GROUP BY role`
)

// SetReceivers says who is told of new invoices. One that is new begins with what
// is stored after this call; one that is not named any more is forgotten, with
// what it had not been told. The others go on where they were.
func (d *DB) SetReceivers(ctx context.Context, receivers []string) error {
	present, err := d.Deliveries(ctx)
	if err != nil {
		return err
	}
	had := make([]string, len(present))
	for i, delivery := range present {
		had[i] = delivery.Receiver
	}
	if slices.Equal(slices.Sorted(slices.Values(receivers)), had) {
		return nil // as always but once: no transaction
	}
	return d.transaction(ctx, "record the receivers of new invoices in", func(ctx context.Context, tx *sql.Tx) error {
		for _, receiver := range had {
			if slices.Contains(receivers, receiver) {
				continue
			}
			if _, err := d.exec(ctx, tx, deleteDelivery, receiver); err != nil {
				return err
			}
		}
		for _, receiver := range receivers {
			if _, err := d.exec(ctx, tx, insertDelivery, receiver, moment(d.now())); err != nil {
				return err
			}
		}
		return nil
	})
}

// Deliveries gives the receivers of new invoices, by name.
func (d *DB) Deliveries(ctx context.Context) ([]Delivery, error) {
	deliveries, err := readDeliveries(d.read.statements[selectDeliveries].QueryContext(ctx))
	return deliveries, d.explain("read the receivers of new invoices from", err)
}

func readDeliveries(rows *sql.Rows, err error) ([]Delivery, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var deliveries []Delivery
	for rows.Next() {
		var one Delivery
		var since, next, success sql.NullString
		if err := rows.Scan(&one.Receiver, &since, &one.LastID, &one.OfferedID, &one.Behind, &one.Failures, &one.LastError, &next, &success); err != nil {
			return nil, err
		}
		var errs [3]error
		one.Since, errs[0] = parseMoment(since)
		one.NextAttempt, errs[1] = parseMoment(next)
		one.LastSuccess, errs[2] = parseMoment(success)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		deliveries = append(deliveries, one)
	}
	return deliveries, rows.Err()
}

// Delivery gives how far one receiver has been told.
func (d *DB) Delivery(ctx context.Context, receiver string) (Delivery, error) {
	all, err := d.Deliveries(ctx)
	if err != nil {
		return Delivery{}, err
	}
	i := slices.IndexFunc(all, func(one Delivery) bool { return one.Receiver == receiver })
	if i < 0 {
		return Delivery{}, fmt.Errorf("receiver %s of new invoices: %w", receiver, ErrNoReceiver)
	}
	return all[i], nil
}

// NewestInvoice gives the id of the invoice that was stored last, 0 without any.
func (d *DB) NewestInvoice(ctx context.Context) (id int64, err error) {
	err = d.read.statements[selectNewestID].QueryRowContext(ctx).Scan(&id)
	return id, d.explain("look up the newest invoice in", err)
}

// NewestInvoiceBefore gives the greatest id up to which every invoice behind after
// was stored before an instant; after itself where there is none.
func (d *DB) NewestInvoiceBefore(ctx context.Context, after int64, before time.Time) (int64, error) {
	var first int64
	err := d.read.statements[selectFirstSince].QueryRowContext(ctx, after, moment(before)).Scan(&first)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		newest, err := d.NewestInvoice(ctx)
		return max(newest, after), err
	case err != nil:
		return 0, d.explain("look up the newest invoice in", err)
	}
	return first - 1, nil
}

// Offer records that a receiver is about to be told of the invoices up to an id.
// After a crash it is told of just these again.
func (d *DB) Offer(ctx context.Context, receiver string, upTo int64) error {
	return d.setDelivery(ctx, offerDelivery, receiver, upTo)
}

// Acknowledge records that a receiver has taken the invoices up to an id.
func (d *DB) Acknowledge(ctx context.Context, receiver string, upTo int64, at time.Time) error {
	return d.setDelivery(ctx, acknowledge, receiver, upTo, moment(at))
}

// DeliveryFailed records that a receiver did not take what it was offered, and
// when to try again; the zero time: not by itself.
func (d *DB) DeliveryFailed(ctx context.Context, receiver, reason string, next time.Time) error {
	return d.setDelivery(ctx, failDelivery, receiver, reason, moment(next))
}

func (d *DB) setDelivery(ctx context.Context, command, receiver string, args ...any) error {
	return d.transaction(ctx, "record a delivery in", func(ctx context.Context, tx *sql.Tx) error {
		result, err := d.exec(ctx, tx, command, append([]any{receiver}, args...)...)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed == 0 {
			return errors.Join(err, fmt.Errorf("receiver %s of new invoices: %w", receiver, ErrNoReceiver))
		}
		return nil
	})
}

// NewInvoice is what a receiver is told of an invoice: what the view v_invoices has
// of it whatever its form, and the amounts that KSeF states. "" stands for what is
// not stated.
type NewInvoice struct {
	KSeFNumber    string
	Roles         []string // sorted
	Path          string   // of the file, below the folder invoices, with slashes
	Hash          string   // SHA-256 of the file in base64, as KSeF states it
	Type          string   // KSeF's invoiceType, such as Vat or Kor
	Form          string   // FA, FA_RR, PEF, PEF_KOR or UNKNOWN
	InvoiceNumber string   // the issuer's
	IssueDate     string   // YYYY-MM-DD, as ReceivedDate
	ReceivedDate  string   // on which KSeF gave it its number, in Poland
	StoredAt      time.Time
	FirstSeenAt   time.Time // when it was stored here

	SellerNIP, SellerName           string
	BuyerIDType, BuyerID, BuyerName string // the type is Nip, VatUe, Other or None

	// Currency is that of Net and Gross. The amounts are KSeF's own, as decimal
	// text; of a correction they are differences.
	Currency, Net, VATPLN, Gross string
}

// NewInvoices gives the invoices behind an id and up to another, in the order in
// which they were stored, at most limit of them.
func (d *DB) NewInvoices(ctx context.Context, after, upTo int64, limit int) ([]NewInvoice, error) {
	invoices, err := readNewInvoices(d.read.statements[selectNewInvoices].QueryContext(ctx, after, upTo, limit))
	return invoices, d.explain("list the new invoices of", err)
}

func readNewInvoices(rows *sql.Rows, err error) ([]NewInvoice, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var invoices []NewInvoice
	for rows.Next() {
		var one NewInvoice
		var roles string
		var stored, seen sql.NullString
		var net, vat, gross sql.NullInt64
		err := rows.Scan(&one.KSeFNumber, &roles, &one.Path, &one.Hash, &one.Type, &one.Form, &one.InvoiceNumber, &one.IssueDate, &one.ReceivedDate,
			&stored, &seen, &one.SellerNIP, &one.SellerName, &one.BuyerIDType, &one.BuyerID, &one.BuyerName, &one.Currency, &net, &vat, &gross)
		if err != nil {
			return nil, err
		}
		one.Roles = strings.Split(roles, ",")
		one.Net, one.VATPLN, one.Gross = decimal(net), decimal(vat), decimal(gross)
		if one.StoredAt, err = parseMoment(stored); err != nil {
			return nil, err
		}
		if one.FirstSeenAt, err = parseMoment(seen); err != nil {
			return nil, err
		}
		invoices = append(invoices, one)
	}
	return invoices, rows.Err()
}

// decimal gives hundredths as decimal text, and "" for NULL.
func decimal(minor sql.NullInt64) string {
	if !minor.Valid {
		return ""
	}
	sign, amount := "", minor.Int64
	if amount < 0 {
		sign, amount = "-", -amount
	}
	return fmt.Sprintf("%s%d.%02d", sign, amount/100, amount%100)
}

// CountNewInvoices counts by role the invoices behind an id and up to another. An
// invoice may have several roles.
func (d *DB) CountNewInvoices(ctx context.Context, after, upTo int64) (map[string]int, error) {
	counts, err := readCounts(d.read.statements[countNewInvoices].QueryContext(ctx, after, upTo))
	return counts, d.explain("count the new invoices of", err)
}

func readCounts(rows *sql.Rows, err error) (map[string]int, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := make(map[string]int)
	for rows.Next() {
		var role string
		var count int
		if err := rows.Scan(&role, &count); err != nil {
			return nil, err
		}
		counts[role] = count
	}
	return counts, rows.Err()
}
