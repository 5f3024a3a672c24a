package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/db"
	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/sheet"
)

func (c *command) register() *cobra.Command {
	var r registerExport
	cmd := &cobra.Command{
		Use:   "export [NAME] --month MONTH -o FILE",
		Short: "Write a month's register of sales and purchases for accountants",
		Long: `Writes the register of a month, an invoice a row with its amounts by rate of VAT, into
a new file: .xlsx has a sheet for sales and one for purchases, .csv has one of the two,
as --role says. An existing file is left as it is, and the new one is there whole or
not at all. It asks nothing of KSeF and runs beside the daemon.

Months are those of the tax date: the date of sale or of the end of the period, or else
of issue. --by received takes the day on which KSeF gave an invoice its number, which is
when the buyer received it.

All amounts stand as the documents state them, in their currency; of corrections they
are differences. Exits 3 when invoices among them could not be read: they are in the
register with the totals of KSeF's list, and without rates.`,
		Example: `  ksefmirror export acme --month 2026-10 -o october.xlsx
  ksefmirror export acme --month 2026-10 --role buyer --by received -o purchases.csv`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := r.check(); err != nil {
				return usageError(err)
			}
			return c.reading(cmd.Context(), names, func(ctx context.Context, m config.Mirror, d *db.DB) error {
				return c.exportRegister(ctx, m, d, r)
			})
		},
	}
	cmd.Flags().StringVar(&r.month, "month", "", "`month`, such as 2026-10")
	cmd.Flags().StringVar(&r.role, "role", "", "seller for the sales alone, buyer for the purchases alone")
	cmd.Flags().StringVar(&r.by, "by", "tax", "which date is in the month: tax, issued or received")
	cmd.Flags().StringVarP(&r.output, "output", "o", "", "`file` to write, .xlsx or .csv")
	return cmd
}

// registerExport is what the command line asks of export.
type registerExport struct {
	month, role, by, output string
	first, last             string // days
}

func (r *registerExport) check() (err error) {
	if r.month == "" {
		return errors.New("--month is missing, such as 2026-10")
	}
	if r.first, r.last, err = monthDays(r.month); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "seller", "buyer"}, r.role) {
		return fmt.Errorf("--role %q: want seller or buyer", r.role)
	}
	if !slices.Contains([]string{"tax", "issued", "received"}, r.by) {
		return fmt.Errorf("--by %q: want tax, issued or received", r.by)
	}
	switch strings.ToLower(filepath.Ext(r.output)) {
	case ".xlsx":
	case ".csv":
		if r.role == "" {
			return errors.New("a .csv file has room for one register: say --role seller or --role buyer, or write .xlsx, which has both")
		}
	default:
		return fmt.Errorf("--output %q: want a file whose name ends with .xlsx or .csv", r.output)
	}
	return nil
}

// registerColumns are those of a register. The rates are the present ones and those
// before them, as the fields of FA hold both.
func registerColumns() []sheetColumn {
	var columns []sheetColumn
	add := func(column, heading string, kind sheet.Kind, width int) {
		columns = append(columns, sheetColumn{column: column, Column: sheet.Column{Heading: heading, Kind: kind, Width: width}})
	}
	add("ksef_number", "KSeF number", sheet.Text, 38)
	add("invoice_number", "invoice number", sheet.Text, 24)
	add("invoice_type", "type", sheet.Text, 9)
	add("issue_date", "issued", sheet.Date, 12)
	add("sale_date", "sold", sheet.Date, 12)
	add("tax_date", "tax date", sheet.Date, 12)
	add("received_date", "received", sheet.Date, 12)
	add("counterparty_id", "NIP", sheet.Text, 14)
	add("counterparty_name", "name", sheet.Text, 36)
	add("currency", "currency", sheet.Text, 8)
	amount := func(column, heading string) {
		add(column+"_minor", heading, sheet.Amount, 14)
	}
	for _, rate := range []struct {
		bucket, heading string
		vat             bool
	}{
		{"standard", "23/22 %", true},
		{"reduced1", "8/7 %", true},
		{"reduced2", "5 %", true},
		{"taxi", "taxi 4/3 %", true},
		{"zero_domestic", "0 % domestic", false},
		{"zero_eu", "0 % EU supply", false},
		{"zero_export", "0 % export", false},
		{"exempt", "exempt", false},
		{"outside", "outside Poland", false},
		{"outside_services_eu", "EU services", false},
		{"reverse_charge", "reverse charge", false},
		{"margin", "margin scheme", false},
		{"oss", "OSS", true},
		{"rr", "flat-rate farmer", true},
		{"other", "other", true},
	} {
		amount(rate.bucket+"_net", "net "+rate.heading)
		if rate.vat {
			amount(rate.bucket+"_vat", "VAT "+rate.heading)
		}
	}
	amount("net", "net")
	amount("vat", "VAT")
	amount("gross", "gross")
	amount("vat_pln", "VAT in PLN")
	flag := func(column, heading string) {
		add(column, heading, sheet.Text, 8)
		columns[len(columns)-1].flag = true
	}
	flag("split_payment", "split payment")
	flag("cash_method", "cash method")
	flag("self_billing", "self-billing")
	add("margin_scheme", "kind of margin", sheet.Text, 12)
	add("gtu", "GTU", sheet.Text, 12)
	add("parse_status", "read", sheet.Text, 8)
	return columns
}

func (c *command) exportRegister(ctx context.Context, m config.Mirror, d *db.DB, r registerExport) error {
	roles := []string{"seller", "buyer"}
	if r.role != "" {
		roles = []string{r.role}
	}
	roles = slices.DeleteFunc(roles, func(role string) bool { return !slices.Contains(m.Roles, role) })
	if len(roles) == 0 {
		return usageError(fmt.Errorf("%s: it does not mirror these invoices: its roles are %s", m.Name, strings.Join(m.Roles, ", ")))
	}
	columns := registerColumns()
	var unread []string
	counts := make([]int, len(roles))
	rows := func(role string) iter.Seq2[db.Record, error] {
		return func(yield func(db.Record, error) bool) {
			for row, err := range d.Register(ctx, role, r.by, r.first, r.last) {
				if err == nil && row.Text("parse_status") != "ok" {
					unread = append(unread, row.Text("ksef_number"))
				}
				if !yield(row, err) {
					return
				}
			}
		}
	}
	var err error
	if strings.EqualFold(filepath.Ext(r.output), ".csv") {
		err = sheet.Create(r.output, func(file *os.File) error {
			csv, err := sheet.NewCSV(file, sheetColumns(columns))
			if err == nil {
				counts[0], err = fill(csv, columns, rows(roles[0]))
			}
			return errors.Join(err, csv.Close())
		})
	} else {
		err = writeXLSX(r.output, func(x *sheet.XLSX) error {
			for i, role := range roles {
				page, err := x.Sheet(registerName(role), sheetColumns(columns))
				if err == nil {
					counts[i], err = fill(page, columns, rows(role))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if ctx.Err() != nil {
		return errors.New("stopped; nothing was written")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	for i, role := range roles {
		c.note("%s: %s of %s: %d invoices in %s", m.Name, strings.ToLower(registerName(role)), r.month, counts[i], r.output)
	}
	if err := c.noteIncomplete(ctx, m.Name, d, roles, r.last); err != nil {
		return err
	}
	if len(unread) > 0 {
		c.note("%s: %d of them could not be read and stand with KSeF's totals: %s", m.Name, len(unread), several(unread))
		return &coded{code: exitIncomplete}
	}
	return nil
}

func registerName(role string) string {
	if role == "seller" {
		return "Sales"
	}
	return "Purchases"
}

// noteIncomplete says which roles are not mirrored up to the end of a day in Poland
// yet: invoices may be missing from a register.
func (c *command) noteIncomplete(ctx context.Context, name string, d *db.DB, roles []string, last string) error {
	warsaw, err := poland()
	if err != nil {
		return err
	}
	day, err := time.ParseInLocation(time.DateOnly, last, warsaw)
	if err != nil {
		return err
	}
	streams, err := d.Streams(ctx)
	if err != nil {
		return err
	}
	for _, role := range roles {
		watermark := ksef.Timestamp("")
		for _, s := range streams {
			if s.Role == role {
				watermark = ksef.Timestamp(s.Watermark)
			}
		}
		if watermark.Time().Before(day.AddDate(0, 0, 1)) {
			c.note("%s: %s: the mirror is complete only up to %s: invoices of the month may be missing", name, role, orDash(string(watermark)))
		}
	}
	return nil
}
