package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ksefmirror/db"
	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
)

func (c *command) show() *cobra.Command {
	var asJSON, asXML bool
	cmd := &cobra.Command{
		Use:   "show [NAME] KSEF-NUMBER",
		Short: "Show one mirrored invoice",
		Long: `Shows an invoice in words: parties, dates, amounts, VAT, lines, payment, the invoices
that it names, and where its file is. It reads the mirror, also while the daemon runs,
and asks nothing of KSeF. --json gives everything that was read of it, with amounts as
exact decimals in strings; --xml its bytes as KSeF served them. A KSeF number may be as
it stands in the log, without the seller's NIP.`,
		Example: `  ksefmirror show 5265877635-20261105-0100001AF629-88
  ksefmirror show acme 20261105-0100001AF629-88
  ksefmirror show acme 5265877635-20261105-0100001AF629-88 --xml > invoice.xml`,
		Args: oneInvoice,
		RunE: func(cmd *cobra.Command, args []string) error {
			number := args[len(args)-1]
			short := shortNumber.FindStringSubmatch(number)
			if short == nil {
				if _, err := ksef.ParseNumber(number); err != nil {
					return usageError(err)
				}
			}
			if asJSON && asXML {
				return usageError(errors.New("--json and --xml exclude each other"))
			}
			return c.reading(cmd.Context(), args[:len(args)-1], func(ctx context.Context, m config.Mirror, d *db.DB) error {
				if short != nil {
					var err error
					if number, err = d.NumberEnding(ctx, short[1]); err != nil {
						return fmt.Errorf("%s: %w", m.Name, err)
					}
				}
				if asXML {
					document, err := d.Document(ctx, number)
					if err != nil {
						return fmt.Errorf("%s: %w", m.Name, err)
					}
					_, err = c.stdout.Write(document)
					return err
				}
				details, err := d.Details(ctx, number)
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				if asJSON {
					encoder := json.NewEncoder(c.stdout)
					encoder.SetIndent("", "  ")
					return encoder.Encode(details)
				}
				page := invoicePage{w: c.stdout, InvoiceDetails: details, file: filepath.Join(m.Dir, "invoices", filepath.FromSlash(details.Invoice.Text("xml_path")))}
				return page.print()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asXML, "xml", false, "print the XML, byte for byte as KSeF served it")
	return cmd
}

// invoicePage writes an invoice for a person. What strangers wrote goes through plain.
type invoicePage struct {
	w io.Writer
	db.InvoiceDetails
	file string
	err  error // the first one
}

func (p *invoicePage) print() error {
	p.head()
	p.parties()
	p.lines()
	p.amounts()
	p.payment()
	p.relations()
	p.rest()
	return p.err
}

// line writes a line under a label: nothing where no part says anything.
func (p *invoicePage) line(label string, parts ...string) {
	if text := joined(", ", parts...); text != "" {
		p.printf("%-13s %s\n", label, text)
	}
}

func (p *invoicePage) printf(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format, args...)
	p.err = cmp.Or(p.err, err)
}

// joined joins what is not "", made harmless for a terminal.
func joined(separator string, parts ...string) string {
	var said []string
	for _, part := range parts {
		if part = strings.TrimSpace(plain(part)); part != "" {
			said = append(said, part)
		}
	}
	return strings.Join(said, separator)
}

// labelled gives "label text", or "" without a text.
func labelled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + " " + text
}

// when gives text where a flag is set.
func when(set bool, text string) string {
	if set {
		return text
	}
	return ""
}

func (p *invoicePage) head() {
	i := p.Invoice
	p.printf("%s\n", joined(" ", cmp.Or(i.Text("invoice_type"), i.Text("api_invoice_type")), cmp.Or(i.Text("invoice_number"), "without a number")))
	p.line("KSeF number", i.Text("ksef_number"))
	p.line("Form", cmp.Or(i.Text("form_code"), i.Text("form")), labelled("made with", i.Text("system_info")))
	if i.Text("parse_status") != "ok" {
		p.line("NOT READ", cmp.Or(i.Text("parse_error"), i.Text("parse_status")), "below is what KSeF's list states")
	} else {
		p.line("Not read", strings.ReplaceAll(i.Text("parse_error"), "\n", "; "))
	}
	p.line("Issued", i.Text("issue_date"), labelled("in", i.Text("issue_place")))
	p.line("Sold", i.Text("sale_date"), joined(" to ", i.Text("period_from"), i.Text("period_to")), labelled("tax date", i.Text("tax_date")))
	p.line("In KSeF", labelled("received", i.Text("received_date")), labelled("stored", i.Text("stored_at")), i.Text("invoicing_mode"))
	p.line("Roles", strings.Split(i.Text("roles"), ",")...)
	p.line("File", p.file)
}

func (p *invoicePage) parties() {
	names := map[string]string{"seller": "Seller", "buyer": "Buyer", "seller_before": "Seller before", "buyer_before": "Buyer before"}
	roles := [...]string{
		"", "factor", "recipient", "original entity", "additional buyer", "issuer", "payer", "local government issuer",
		"local government recipient", "VAT group issuer", "VAT group recipient", "employee",
	}
	said := map[string]bool{}
	for _, party := range p.List("parties") {
		kind := party.Text("party")
		said[kind] = true
		role := party.Text("role_text")
		if code, ok := party.Value("role_code").(int64); ok && kind == "third" && code > 0 && int(code) < len(roles) {
			role = roles[code]
		}
		p.printf("\n")
		p.line(cmp.Or(names[kind], kind), party.Text("name"), role, labelled("share", party.Text("share_percent")),
			labelled(cmp.Or(party.Text("id_type"), "NIP"), cmp.Or(joined("", party.Text("id_country"), party.Text("id_value")), party.Text("nip"))))
		p.line("", party.Text("address1"), party.Text("address2"), party.Text("country"))
		p.line("", party.Text("email"), party.Text("phone"), labelled("customer", party.Text("customer_number")))
	}
	for _, side := range []string{"seller", "buyer"} {
		if !said[side] {
			p.line(names[side], p.Invoice.Text(side+"_name"), labelled("NIP", p.Invoice.Text(side+"_nip")))
		}
	}
}

func (p *invoicePage) lines() {
	titles := map[string]string{"line": "Lines", "order": "Order"}
	rows := p.List("lines")
	for len(rows) > 0 {
		kind := rows[0].Text("kind")
		p.printf("\n%s\n", cmp.Or(titles[kind], kind))
		table := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
		p.row(table, "", "quantity", "unit", "price", "net", "gross", "VAT", "name")
		for ; len(rows) > 0 && rows[0].Text("kind") == kind; rows = rows[1:] {
			l := rows[0]
			p.row(table, l.Text("position"), l.Text("quantity"), l.Text("unit"), cmp.Or(l.Text("unit_price_net"), labelled("gross", l.Text("unit_price_gross"))),
				l.Text("net_minor"), l.Text("gross_minor"), l.Text("vat_rate"),
				joined(" ", when(l.Is("before_correction"), "(before the correction)"), l.Text("name"), l.Text("gtu")))
		}
		p.err = cmp.Or(p.err, table.Flush())
	}
}

// row writes a row of a table.
func (p *invoicePage) row(table io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	_, err := fmt.Fprintf(table, "  %s\n", strings.Join(cells, "\t"))
	p.err = cmp.Or(p.err, err)
}

func (p *invoicePage) amounts() {
	i := p.Invoice
	p.printf("\n")
	if rates := p.List("vat_summary"); len(rates) > 0 {
		table := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
		p.row(table, "rate", "net", "VAT", "VAT in PLN", "")
		for _, rate := range rates {
			p.row(table, rate.Text("bucket"), rate.Text("net_minor"), rate.Text("vat_minor"), rate.Text("vat_pln_minor"), "")
		}
		p.err = cmp.Or(p.err, table.Flush())
	}
	if i.Text("parse_status") != "ok" {
		p.line("Amounts", labelled("net", i.Text("api_net_minor")), labelled("gross", i.Text("api_gross_minor")), i.Text("currency"))
		return
	}
	p.line(when(i.Is("is_correction"), "Difference")+when(!i.Is("is_correction"), "Amounts"),
		labelled("net", i.Text("net_minor")), labelled("VAT", i.Text("vat_minor")), labelled("gross", i.Text("gross_minor")), i.Text("currency"))
	p.line("", labelled("VAT in PLN", i.Text("vat_pln_minor")), labelled("exchange rate", i.Text("exchange_rate")))
	p.line("Settlement", labelled("charges", i.Text("charges_minor")), labelled("deductions", i.Text("deductions_minor")),
		labelled("to pay", i.Text("to_pay_minor")), labelled("to settle", i.Text("to_settle_minor")))
	p.line("Marked", when(i.Is("split_payment"), "split payment"), when(i.Is("reverse_charge"), "reverse charge"), when(i.Is("self_billing"), "self-billing"),
		when(i.Is("cash_method"), "cash method"), when(i.Is("exempt"), joined(" ", "exempt", i.Text("exempt_basis"))), labelled("margin scheme", i.Text("margin_scheme")),
		when(i.Is("triangular"), "triangular"), when(i.Is("cash_register"), "cash register"), when(i.Is("related_parties"), "related parties"))
}

func (p *invoicePage) payment() {
	i := p.Invoice
	p.line("Payment", i.Text("payment_status"), labelled("on", i.Text("paid_date")), cmp.Or(i.Text("payment_method"), i.Text("payment_method_text")),
		labelled("due", i.Text("first_due_date")), labelled("quoting", i.Text("payment_reference")))
	for _, term := range p.List("due_dates") {
		p.line("", labelled("due", joined(", ", term.Text("date"), term.Text("description"))))
	}
	for _, part := range p.List("payments") {
		p.line("", part.Text("kind"), part.Text("date"), part.Text("amount_minor"), part.Text("document"))
	}
	for _, account := range p.List("bank_accounts") {
		p.line("Account", account.Text("account"), labelled("of the", account.Text("owner")), account.Text("bank_name"), account.Text("swift"))
	}
}

// relations shows the invoices that this one names, and those that name it.
func (p *invoicePage) relations() {
	i := p.Invoice
	labels := map[string]string{"corrects": "Corrects", "settles_advance": "Settles"}
	for _, r := range p.List("references") {
		p.line(cmp.Or(labels[r.Text("relation")], r.Text("relation")), r.Text("number"), labelled("of", r.Text("issue_date")),
			cmp.Or(r.Text("found_ksef_number"), r.Text("ksef_number")), when(r.Is("outside_ksef"), "not in KSeF"),
			when(r.Text("found_ksef_number") == "", "not here"))
	}
	labels = map[string]string{"corrects": "Corrected by", "settles_advance": "Settled by"}
	for _, r := range p.List("referred_by") {
		p.line(cmp.Or(labels[r.Text("relation")], r.Text("relation")), r.Text("invoice_number"), labelled("of", r.Text("issue_date")), r.Text("ksef_number"),
			labelled("gross", joined(" ", r.Text("gross_minor"), r.Text("currency"))))
	}
	if chain := p.List("chain"); len(chain) > 0 {
		last := chain[len(chain)-1]
		p.line("After all", labelled("net", last.Text("net_after_minor")), labelled("VAT", last.Text("vat_after_minor")), labelled("gross", last.Text("gross_after_minor")),
			when(last.Text("gross_after_minor") == "", "not known: see v_chain"))
	}
	for _, s := range p.List("settlement") {
		p.line("Advances", labelled("order", s.Text("order_value_minor")), labelled("paid", s.Text("advances_gross_minor")), labelled("left to pay", s.Text("left_minor")),
			when(s.Text("advances") != s.Text("advances_found"), "not all of them are here"))
	}
	p.line("Because", i.Text("correction_reason"), labelled("period", i.Text("correction_period")), labelled("right number", i.Text("corrected_number_fixed")))
	for _, document := range p.List("related_documents") {
		p.line(document.Text("kind"), document.Text("number"), document.Text("date"), document.Text("description"))
	}
}

func (p *invoicePage) rest() {
	for _, a := range p.List("adjustments") {
		p.line(a.Text("kind"), a.Text("amount_minor"), a.Text("reason"), labelled("line", a.Text("line_position")))
	}
	for _, t := range p.List("transports") {
		p.line("Transport", t.Text("order_number"), labelled("from", t.Text("from_address")), labelled("to", t.Text("to_address")), t.Text("departed_at"))
	}
	for _, n := range p.List("notes") {
		p.line(n.Text("kind"), labelled("line", n.Text("line_number")), joined(": ", n.Text("key"), n.Text("value")))
	}
	for _, a := range p.List("attachments") {
		p.line("Attachment", a.Text("title"), a.Text("filename"), a.Text("mime"), a.Text("uri"), labelled("bytes", a.Text("size")), when(a.Text("kind") == "fa_block", "text in the XML"))
	}
}
