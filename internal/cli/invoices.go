package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"ksefmirror/db"
	"ksefmirror/internal/config"
	"ksefmirror/internal/sheet"
	ksefsync "ksefmirror/sync"
)

// listFlags are the filters of invoices as flags.
type listFlags struct {
	role, month, from, to        string
	counterparty, number         string
	amountFrom, amountTo, form   string
	types                        []string
	unpaid                       bool
	due                          string
	limit                        int
	json, csv                    bool
	xlsx                         string
	counterpartyPart, numberPart string // folded; "": any
}

func (c *command) invoices() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "invoices [NAME]",
		Short: "List the mirrored invoices, by many filters",
		Long: `Lists invoices of the mirror, the newest in KSeF first, also while the daemon runs. It
asks nothing of KSeF. All filters that are given must hold. NAME may be left out where
there is one mirror.

Of an invoice that could not be read, what KSeF's list states is shown.`,
		Example: `  ksefmirror invoices --role buyer --month 2026-10
  ksefmirror invoices acme --counterparty 7123306158 --unpaid
  ksefmirror invoices acme --from 2026-01-01 --to 2026-06-30 --amount-from 10000 --xlsx first-half.xlsx`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			filter, err := f.filter()
			if err != nil {
				return usageError(err)
			}
			return c.reading(cmd.Context(), names, func(ctx context.Context, m config.Mirror, d *db.DB) error {
				return c.printInvoices(m.Name, f.chosen(d.List(ctx, filter)), f)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.role, "role", "", "the company's role: seller, buyer, third_party or authorized")
	flags.StringVar(&f.month, "month", "", "`month` of the tax date, such as 2026-10")
	flags.StringVar(&f.from, "from", "", "first `day` of issue, such as 2026-10-01")
	flags.StringVar(&f.to, "to", "", "last `day` of issue")
	flags.StringVar(&f.counterparty, "counterparty", "", "`NIP` of the seller or buyer, or a part of a name, whatever its case and Polish letters")
	flags.StringVar(&f.number, "number", "", "a part of the seller's `number` of the invoice, likewise")
	flags.StringVar(&f.amountFrom, "amount-from", "", "smallest gross `amount`, such as 1234.56, in the invoice's currency")
	flags.StringVar(&f.amountTo, "amount-to", "", "largest gross `amount`")
	flags.StringSliceVar(&f.types, "type", nil, "`types`, such as KOR,KOR_ZAL, as invoices name them, or KSeF does")
	flags.StringVar(&f.form, "form", "", "FA, FA_RR, PEF, PEF_KOR or UNKNOWN")
	flags.BoolVar(&f.unpaid, "unpaid", false, "only those that do not say that they are paid")
	flags.StringVar(&f.due, "due", "", "only those, and with a due date not after this `day`")
	flags.IntVar(&f.limit, "limit", 0, "at most this many; 0: all")
	flags.BoolVar(&f.json, "json", false, "print JSON: an array, with amounts as exact decimals in strings")
	flags.BoolVar(&f.csv, "csv", false, "print CSV for a Polish Excel: semicolons, decimal commas")
	flags.StringVar(&f.xlsx, "xlsx", "", "write an Excel workbook to this new `file` instead")
	return cmd
}

// reading runs work with the database of the one mirror that is meant, open for
// reading only: it needs no lock, and may run beside the daemon.
func (c *command) reading(ctx context.Context, names []string, work func(context.Context, config.Mirror, *db.DB) error) error {
	_, m, err := c.one(names, config.LoadWithoutSecrets)
	if err != nil {
		return err
	}
	d, err := db.OpenReadOnly(ctx, ksefsync.DatabasePath(m.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: it has never run: start it with ksefmirror sync %s", m.Name, m.Name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	err = work(ctx, m, d)
	if errors.Is(err, fs.ErrExist) { // the file to write
		err = usageError(err)
	}
	return errors.Join(err, d.Close())
}

// filter checks the flags. A text search would be another field of the filter.
func (f *listFlags) filter() (db.InvoiceFilter, error) {
	filter := db.InvoiceFilter{Role: f.role, IssuedFrom: f.from, IssuedTo: f.to, Form: f.form, Unpaid: f.unpaid, DueBy: f.due}
	if f.role != "" && !slices.Contains([]string{"seller", "buyer", "third_party", "authorized"}, f.role) {
		return filter, fmt.Errorf("--role %q: want seller, buyer, third_party or authorized", f.role)
	}
	if f.form != "" && !slices.Contains([]string{"FA", "FA_RR", "PEF", "PEF_KOR", "UNKNOWN"}, f.form) {
		return filter, fmt.Errorf("--form %q: want FA, FA_RR, PEF, PEF_KOR or UNKNOWN", f.form)
	}
	for _, day := range [...]struct{ flag, value string }{{"from", f.from}, {"to", f.to}, {"due", f.due}} {
		if _, err := time.Parse(time.DateOnly, day.value); day.value != "" && err != nil {
			return filter, fmt.Errorf("--%s %q: want a day such as 2026-10-31", day.flag, day.value)
		}
	}
	var err error
	if f.month != "" {
		if filter.TaxFrom, filter.TaxTo, err = monthDays(f.month); err != nil {
			return filter, err
		}
	}
	if filter.GrossFrom, err = parseAmount("amount-from", f.amountFrom); err != nil {
		return filter, err
	}
	if filter.GrossTo, err = parseAmount("amount-to", f.amountTo); err != nil {
		return filter, err
	}
	if f.json && f.csv || (f.json || f.csv) && f.xlsx != "" {
		return filter, errors.New("--json, --csv and --xlsx exclude each other")
	}
	if f.limit < 0 {
		return filter, fmt.Errorf("--limit %d: want a number of invoices, or 0 for all", f.limit)
	}
	for _, one := range f.types {
		filter.Types = append(filter.Types, strings.ToUpper(strings.TrimSpace(one)))
	}
	if filter.NIP = nipOf(f.counterparty); filter.NIP == "" {
		f.counterpartyPart = folded(f.counterparty)
	}
	f.numberPart = folded(f.number)
	return filter, nil
}

// monthDays gives the first and the last day of a month such as 2026-10.
func monthDays(month string) (first, last string, err error) {
	begin, err := time.Parse("2006-01", month)
	if err != nil {
		return "", "", fmt.Errorf("--month %q: want a month such as 2026-10", month)
	}
	return begin.Format(time.DateOnly), begin.AddDate(0, 1, -1).Format(time.DateOnly), nil
}

// parseAmount reads a decimal with a point or a comma; nil for "".
func parseAmount(flag, text string) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	whole, fraction, _ := strings.Cut(strings.Replace(text, ",", ".", 1), ".")
	sign := int64(1)
	if rest, negative := strings.CutPrefix(whole, "-"); negative {
		whole, sign = rest, -1
	}
	hundredths, err := strconv.ParseUint(whole+(fraction + "00")[:2], 10, 63)
	if err != nil || len(fraction) > 2 || whole == "" || hundredths > math.MaxInt64 {
		return nil, fmt.Errorf("--%s %q: want an amount such as 1234.56", flag, text)
	}
	minor := sign * int64(hundredths)
	return &minor, nil
}

// nipOf gives the NIP that a text is, however written; "" when it is none.
func nipOf(text string) string {
	nip := strings.NewReplacer("-", "", " ", "").Replace(strings.TrimPrefix(strings.ToUpper(text), "PL"))
	if len(nip) != 10 || strings.Trim(nip, "0123456789") != "" {
		return ""
	}
	return nip
}

// folded gives a text without its case and the marks of Polish letters.
func folded(text string) string {
	return strings.NewReplacer("ą", "a", "ć", "c", "ę", "e", "ł", "l", "ń", "n", "ó", "o", "ś", "s", "ź", "z", "ż", "z").
		Replace(strings.ToLower(text))
}

// chosen gives those of the rows that fit what the database was not asked for, up to
// the limit.
func (f *listFlags) chosen(rows iter.Seq2[db.Record, error]) iter.Seq2[db.Record, error] {
	return func(yield func(db.Record, error) bool) {
		given := 0
		for row, err := range rows {
			if err == nil && !f.fits(row) {
				continue
			}
			if !yield(row, err) || err != nil {
				return
			}
			if given++; given == f.limit {
				return
			}
		}
	}
}

func (f *listFlags) fits(row db.Record) bool {
	if f.counterpartyPart != "" && !strings.Contains(folded(row.Text("seller_name")), f.counterpartyPart) &&
		!strings.Contains(folded(row.Text("buyer_name")), f.counterpartyPart) {
		return false
	}
	return f.numberPart == "" || strings.Contains(folded(row.Text("invoice_number")), f.numberPart)
}

// sheetColumn is a column of a spreadsheet and the one of the database that it shows.
type sheetColumn struct {
	column string
	sheet.Column
	flag bool // it says yes or nothing
}

// listColumns are those of invoices in spreadsheets, headed by their names in JSON and
// in v_invoices.
func listColumns() []sheetColumn {
	text := func(name string, width int) sheetColumn {
		return sheetColumn{column: name, Column: sheet.Column{Heading: name, Width: width}}
	}
	date := func(name string) sheetColumn {
		return sheetColumn{column: name, Column: sheet.Column{Heading: name, Kind: sheet.Date, Width: 12}}
	}
	amount := func(name string) sheetColumn {
		return sheetColumn{column: name + "_minor", Column: sheet.Column{Heading: name, Kind: sheet.Amount, Width: 15}}
	}
	return []sheetColumn{
		text("ksef_number", 38), text("roles", 10), text("invoice_number", 24), text("invoice_type", 10), text("form_code", 10),
		date("issue_date"), date("tax_date"), date("received_date"),
		text("seller_nip", 12), text("seller_name", 36), text("buyer_id", 14), text("buyer_name", 36),
		amount("net"), amount("vat"), amount("gross"), text("currency", 8), amount("vat_pln"),
		text("payment_status", 12), date("first_due_date"), text("parse_status", 12), text("xml_path", 60),
	}
}

// sheetColumns gives the columns as package sheet wants them.
func sheetColumns(columns []sheetColumn) []sheet.Column {
	var all []sheet.Column
	for _, c := range columns {
		all = append(all, c.Column)
	}
	return all
}

// fill writes rows into a table, and gives their number.
func fill(table sheet.Table, columns []sheetColumn, rows iter.Seq2[db.Record, error]) (count int, err error) {
	cells := make([]string, len(columns))
	for row, err := range rows {
		if err != nil {
			return count, err
		}
		for i, c := range columns {
			if cells[i] = row.Text(c.column); c.flag {
				cells[i] = when(row.Is(c.column), "yes")
			}
		}
		if err := table.Row(cells); err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}

func (c *command) printInvoices(name string, rows iter.Seq2[db.Record, error], f listFlags) error {
	columns := listColumns()
	count := 0
	var err error
	switch {
	case f.json:
		return c.printJSON(rows)
	case f.csv:
		var csv *sheet.CSV
		if csv, err = sheet.NewCSV(c.stdout, sheetColumns(columns)); err != nil {
			return err
		}
		_, err = fill(csv, columns, rows)
		return errors.Join(err, csv.Close())
	case f.xlsx != "":
		err = writeXLSX(f.xlsx, func(x *sheet.XLSX) error {
			page, err := x.Sheet("Invoices", sheetColumns(columns))
			if err == nil {
				count, err = fill(page, columns, rows)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.note("%s: %d invoices in %s", name, count, f.xlsx)
		return nil
	}
	if count, err = c.printList(rows); err != nil {
		return err
	}
	c.note("%s: %d invoices", name, count)
	return nil
}

// writeXLSX makes a new workbook, or none.
func writeXLSX(path string, write func(*sheet.XLSX) error) error {
	return sheet.Create(path, func(file *os.File) error {
		x, err := sheet.NewXLSX()
		if err != nil {
			return err
		}
		if err = write(x); err == nil {
			err = x.Write(file)
		}
		return errors.Join(err, x.Close())
	})
}

// printJSON prints an array, which is whole also after an error.
func (c *command) printJSON(rows iter.Seq2[db.Record, error]) error {
	_, err := fmt.Fprint(c.stdout, "[")
	separator := "\n"
	for row, failed := range rows {
		text, broken := json.Marshal(row)
		if err = errors.Join(err, failed, broken); err != nil {
			break
		}
		if _, err = fmt.Fprintf(c.stdout, "%s%s", separator, text); err != nil {
			break // nobody reads it any more
		}
		separator = ",\n"
	}
	_, _ = fmt.Fprintln(c.stdout, "\n]")
	return err
}

func (c *command) printList(rows iter.Seq2[db.Record, error]) (count int, err error) {
	line := func(cells ...any) error {
		_, err := fmt.Fprintf(c.stdout, "%-35s  %-10s  %-8s  %15s %-3s  %-7s  %-10s  %-24s  %s\n", cells...)
		return err
	}
	if err := line("KSeF number", "issued", "type", "gross", "", "payment", "due", "number", "other party"); err != nil {
		return 0, err
	}
	for row, err := range rows {
		if err != nil {
			return count, err
		}
		party := row.Text("seller_name")
		if strings.Contains(row.Text("roles"), "seller") {
			party = row.Text("buyer_name")
		}
		err = line(plain(row.Text("ksef_number")), plain(row.Text("issue_date")), plain(row.Text("invoice_type")),
			row.Text("gross_minor"), plain(row.Text("currency")), plain(row.Text("payment_status")), plain(row.Text("first_due_date")),
			short(plain(row.Text("invoice_number")), 24), plain(party))
		if err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}

// short cuts a text so that a column stays a column.
func short(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}
