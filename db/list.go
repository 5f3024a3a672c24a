package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// InvoiceFilter selects stored invoices; its zero value selects all. What is given
// must all hold. Dates are YYYY-MM-DD.
type InvoiceFilter struct {
	Role                 string   // in which the company sees it
	TaxFrom, TaxTo       string   // tax date, or date of issue where there is none; both included
	IssuedFrom, IssuedTo string   // date of issue, both included
	NIP                  string   // of the seller or the buyer
	GrossFrom, GrossTo   *int64   // hundredths, both included
	Types                []string // in capitals: of the document, such as KOR, or KSeF's
	Form                 string   // FA, FA_RR, PEF, PEF_KOR or UNKNOWN
	Unpaid               bool     // it does not say that it is paid
	DueBy                string   // not paid, and the first due date is not later
	Text                 string   // as [DB.Search] finds it
}

// Of an invoice that could not be read, KSeF's metadata stand in.
const (
	selectList = `SELECT i.stored_at, i.id, i.ksef_number,
	(SELECT group_concat(o.role) FROM (SELECT r.role FROM invoice_roles r WHERE r.invoice_id = i.id ORDER BY r.role) o) AS roles,
	i.invoice_number, coalesce(i.invoice_type, i.api_invoice_type) AS invoice_type, coalesce(i.form_code, i.form) AS form_code,
	i.issue_date, coalesce(i.tax_date, i.issue_date) AS tax_date, i.received_date,
	i.seller_nip, i.seller_name, coalesce(i.buyer_id_country, '') || i.buyer_id AS buyer_id, i.buyer_name,
	iif(i.parse_status = 'ok', i.net_minor, i.api_net_minor) AS net_minor,
	i.vat_minor, iif(i.parse_status = 'ok', i.gross_minor, i.api_gross_minor) AS gross_minor, i.currency,
	CASE WHEN i.parse_status <> 'ok' THEN i.api_vat_pln_minor WHEN i.currency = 'PLN' THEN i.vat_minor ELSE i.vat_pln_minor END AS vat_pln_minor,
	i.payment_status, i.first_due_date, i.parse_status, i.xml_path
	FROM invoices i`
	orderList = ` ORDER BY i.stored_at DESC, i.id DESC LIMIT ?`
	// Where there are dates, the index of their months has less to look at than that of
	// the order; the plus signs hide the latter.
	orderDated = ` ORDER BY +i.stored_at DESC, +i.id DESC LIMIT ?`

	inRole     = `EXISTS(SELECT 1 FROM invoice_roles r WHERE r.invoice_id = i.id AND r.role = ?)`
	fromTax    = `coalesce(i.tax_date, i.issue_date) >= ?`
	toTax      = `coalesce(i.tax_date, i.issue_date) <= ?`
	fromIssued = `i.issue_date >= ?`
	toIssued   = `i.issue_date <= ?`

	// As in invoices_tax_month and invoices_issue_month.
	fromTaxMonth   = `substr(coalesce(i.tax_date, i.issue_date), 1, 7) >= substr(?, 1, 7)`
	toTaxMonth     = `substr(coalesce(i.tax_date, i.issue_date), 1, 7) <= substr(?, 1, 7)`
	fromIssueMonth = `substr(i.issue_date, 1, 7) >= substr(?, 1, 7)`
	toIssueMonth   = `substr(i.issue_date, 1, 7) <= substr(?, 1, 7)`

	withNIP    = `? IN (i.seller_nip, i.buyer_nip)`
	fromGross  = `iif(i.parse_status = 'ok', i.gross_minor, i.api_gross_minor) >= ?`
	toGross    = `iif(i.parse_status = 'ok', i.gross_minor, i.api_gross_minor) <= ?`
	ofType     = `EXISTS(SELECT 1 FROM json_each(?) t WHERE t.value IN (upper(i.invoice_type), upper(i.api_invoice_type)))`
	ofForm     = `i.form = ?`
	unpaid     = `i.payment_status IS NOT 'paid'` // as in invoices_due
	dueBy      = `i.first_due_date <= ?`
	beforeThis = `(i.stored_at, i.id) < (?, ?)`
)

// where gives the conditions of a filter and what they compare with.
func (f InvoiceFilter) where() (conditions []string, args []any) {
	add := func(condition string, with ...any) {
		conditions, args = append(conditions, condition), append(args, with...)
	}
	for _, c := range []struct{ condition, value string }{
		{inRole, f.Role}, {fromTax, f.TaxFrom}, {toTax, f.TaxTo}, {fromIssued, f.IssuedFrom}, {toIssued, f.IssuedTo},
		{fromTaxMonth, f.TaxFrom}, {toTaxMonth, f.TaxTo}, {fromIssueMonth, f.IssuedFrom}, {toIssueMonth, f.IssuedTo},
		{withNIP, f.NIP}, {ofForm, f.Form}, {dueBy, f.DueBy},
	} {
		if c.value != "" {
			add(c.condition, c.value)
		}
	}
	if f.GrossFrom != nil {
		add(fromGross, *f.GrossFrom)
	}
	if f.GrossTo != nil {
		add(toGross, *f.GrossTo)
	}
	if query := searchQuery(f.Text); query != "" {
		add(searchCondition, query)
	} else if f.Text != "" {
		add("FALSE") // nothing in it that could be found
	}
	if len(f.Types) > 0 {
		list, _ := json.Marshal(f.Types) // strings only: this cannot fail
		add(ofType, string(list))
	}
	if f.Unpaid || f.DueBy != "" {
		add(unpaid)
	}
	return conditions, args
}

// List gives invoices, the newest in KSeF first. After an error it gives nothing
// more. The columns are ksef_number, roles, invoice_number, invoice_type, form_code,
// issue_date, tax_date, received_date, seller_nip, seller_name, buyer_id, buyer_name,
// net_minor, vat_minor, gross_minor, currency, vat_pln_minor, payment_status,
// first_due_date, parse_status and xml_path, as in v_invoices; KSeF's metadata stand
// in for what the document of an invoice does not say.
//
// Like Files it reads in pages: whoever looks at them may take hours.
func (d *DB) List(ctx context.Context, f InvoiceFilter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		conditions, args := f.where()
		for first := true; ; first = false {
			query := selectList
			if len(conditions) > 0 {
				query += " WHERE " + strings.Join(conditions, " AND ")
			}
			order := orderList
			if f.TaxFrom+f.TaxTo+f.IssuedFrom+f.IssuedTo != "" {
				order = orderDated
			}
			page, last, err := d.listPage(ctx, query+order, append(args, filesPage))
			if err != nil {
				yield(Record{}, d.explain("list the invoices of", err))
				return
			}
			for _, row := range page {
				if !yield(row, nil) {
					return
				}
			}
			if len(page) < filesPage {
				return
			}
			if first {
				conditions, args = append(conditions, beforeThis), append(args, nil, nil)
			}
			copy(args[len(args)-2:], last[:])
		}
	}
}

// listPage gives a page, and the place of its last row.
func (d *DB) listPage(ctx context.Context, query string, args []any) (page []Record, last [2]any, err error) {
	rows, err := d.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, last, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, last, err
	}
	for rows.Next() {
		row, err := scanRecord(rows, columns)
		if err != nil {
			return nil, last, err
		}
		last = [2]any{row.values[0], row.values[1]}
		page = append(page, Record{columns[2:], row.values[2:]})
	}
	return page, last, rows.Err()
}

// InvoiceDetails is all that is known of one invoice.
type InvoiceDetails struct {
	Invoice Record       // its row of v_invoices
	Lists   []DetailList // what it may have several of
}

// DetailList is one kind of what an invoice has several of.
type DetailList struct {
	Name string // such as lines
	Rows []Record
}

// List gives the rows of a list by its name.
func (d InvoiceDetails) List(name string) []Record {
	for _, list := range d.Lists {
		if list.Name == name {
			return list.Rows
		}
	}
	return nil
}

// MarshalJSON gives an object of the invoice and the lists, by name.
func (d InvoiceDetails) MarshalJSON() ([]byte, error) {
	all := map[string]any{"invoice": d.Invoice}
	for _, list := range d.Lists {
		all[list.Name] = list.Rows
	}
	return json.Marshal(all)
}

const selectDetails = `SELECT * FROM v_invoices WHERE ksef_number = ?`

// detailLists are the queries for what an invoice has several of, by its id.
var detailLists = [...]struct{ name, query string }{
	{"parties", `SELECT * FROM parties WHERE invoice_id = ? ORDER BY party <> 'seller', party <> 'buyer', party, position`},
	{"lines", `SELECT * FROM invoice_lines WHERE invoice_id = ? ORDER BY kind, position`},
	{"vat_summary", `SELECT * FROM vat_summary WHERE invoice_id = ?`},
	{"references", `SELECT r.relation, r.position, r.ksef_number, r.number, r.issue_date, r.outside_ksef, t.ksef_number AS found_ksef_number
		FROM invoice_references r LEFT JOIN invoices t ON t.id = r.target_id WHERE r.invoice_id = ? ORDER BY r.relation, r.position`},
	{"referred_by", `SELECT r.relation, i.ksef_number, i.invoice_number, i.issue_date, i.gross_minor, i.currency
		FROM invoice_references r JOIN invoices i ON i.id = r.invoice_id WHERE r.target_id = ? ORDER BY r.relation, i.issue_date, i.id`},
	{"chain", `SELECT step, ksef_number, invoice_number, issue_date, currency, net_minor, vat_minor, gross_minor, counts, net_after_minor, vat_after_minor, gross_after_minor
		FROM v_chain WHERE original_id = ? ORDER BY step`},
	{"settlement", `SELECT advances, advances_found, order_value_minor, advances_gross_minor, left_minor, computed_left_minor FROM v_settlements WHERE invoice_id = ?`},
	{"correction_states", `SELECT * FROM correction_states WHERE invoice_id = ? ORDER BY state DESC, bucket`},
	{"payments", `SELECT * FROM payments WHERE invoice_id = ? ORDER BY kind, position`},
	{"due_dates", `SELECT * FROM due_dates WHERE invoice_id = ? ORDER BY position`},
	{"bank_accounts", `SELECT * FROM bank_accounts WHERE invoice_id = ? ORDER BY owner <> 'factor', owner, position`},
	{"adjustments", `SELECT * FROM adjustments WHERE invoice_id = ? ORDER BY kind, position`},
	{"related_documents", `SELECT * FROM related_documents WHERE invoice_id = ? ORDER BY kind, position`},
	{"transports", `SELECT * FROM transports WHERE invoice_id = ? ORDER BY position`},
	{"notes", `SELECT n.kind, n.position, n.line_number, n.key, coalesce(n.value, t.value) AS value
		FROM invoice_notes n LEFT JOIN texts t ON t.id = n.text_id WHERE n.invoice_id = ? ORDER BY n.kind, n.position`},
	{"attachments", `SELECT * FROM attachments WHERE invoice_id = ? ORDER BY position`},
}

// NumberEnding gives the KSeF number whose part after the NIP is given: the date and
// the technical part. The error wraps [ErrNotStored] if there is none. It goes through
// all numbers: it is for a person at the keyboard.
func (d *DB) NumberEnding(ctx context.Context, ending string) (string, error) {
	var number string
	var found int
	err := d.read.QueryRowContext(ctx, selectNumberEnding, ending).Scan(&found, &number)
	switch {
	case err != nil:
		return "", d.explain("look for an invoice in", err)
	case found == 0:
		return "", fmt.Errorf("invoice …-%s: %w", ending, ErrNotStored)
	case found > 1:
		return "", fmt.Errorf("%d invoices have a KSeF number that ends with %s: name one by its whole number, such as %s", found, ending, number)
	}
	return number, nil
}

// A NIP has ten digits, and a hyphen follows.
const selectNumberEnding = `SELECT count(*), coalesce(min(ksef_number), '') FROM invoices WHERE substr(ksef_number, 12) = ?`

// Details gives all that is known of one invoice, all of one instant. The error
// wraps [ErrNotStored] for an unknown number.
func (d *DB) Details(ctx context.Context, number string) (InvoiceDetails, error) {
	details, err := d.details(ctx, number)
	if errors.Is(err, ErrNotStored) {
		return details, fmt.Errorf("invoice %s: %w", number, err)
	}
	return details, d.explain("read invoice "+number+" from", err)
}

func (d *DB) details(ctx context.Context, number string) (details InvoiceDetails, err error) {
	tx, err := d.read.BeginTx(ctx, nil)
	if err != nil {
		return details, err
	}
	defer tx.Rollback()
	found, err := records(ctx, tx, selectDetails, number)
	if err != nil {
		return details, err
	}
	if len(found) == 0 {
		return details, ErrNotStored
	}
	details.Invoice = found[0].without("id")
	for _, list := range detailLists {
		rows, err := records(ctx, tx, list.query, found[0].Value("id"))
		if err != nil {
			return details, err
		}
		for i := range rows {
			rows[i] = rows[i].without("id", "invoice_id")
		}
		details.Lists = append(details.Lists, DetailList{list.name, rows})
	}
	return details, nil
}

// records gives all rows of a query.
func records(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]Record, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	all := []Record{}
	for rows.Next() {
		row, err := scanRecord(rows, columns)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}
