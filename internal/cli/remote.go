package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

func (c *command) remote() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remote",
		Short: "Ask KSeF directly: list, download and export invoices",
		Long: `Asks KSeF for a person at the keyboard, also while the daemon runs: all draw on one
budget, and each command says what is left of it. What is mirrored is answered from
the mirror, without a request. Nothing in the mirror is changed.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.remoteQuery(), c.remoteDownload(), c.remoteExport())
	return cmd
}

func (c *command) remoteQuery() *cobra.Command {
	var f queryFlags
	var fresh, asJSON bool
	cmd := &cobra.Command{
		Use:   "query [NAME]",
		Short: "List the invoices that KSeF has, by any of its filters",
		Long: `Lists invoices by KSeF's filters, as a table, or with --json as KSeF's own metadata.
A range of any length and any number of invoices is listed whole, by as many
requests as it takes: one for 250 invoices. What was stored in KSeF before the
mirror's watermark is listed by the mirror, if the query goes by that date (--by
storage) from a date since which the role is mirrored; --fresh asks KSeF for all of
it. When KSeF's limits allow no more, it says from when and from which date it can
go on, and exits 5. NAME may be left out where there is one mirror.`,
		Example: `  ksefmirror remote query --role buyer --from 2026-11-01 --to 2026-11-22
  ksefmirror remote query acme --role seller --by issue --from 2026-10-01 --to 2026-10-31 --amount gross --amount-from 10000 --currency EUR
  ksefmirror remote query acme --filters filters.json --json`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			q, err := f.query(cmd, c.stdin)
			if err != nil {
				return err
			}
			return c.direct(cmd.Context(), names, func(ctx context.Context, m config.Mirror, d *ksefsync.Direct) error {
				return c.list(ctx, m.Name, d, q, fresh, asJSON)
			})
		},
	}
	f.define(cmd)
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask KSeF also for what the mirror could answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an array of InvoiceMetadata")
	return cmd
}

func (c *command) remoteDownload() *cobra.Command {
	var output string
	var fresh bool
	cmd := &cobra.Command{
		Use:   "download [NAME] KSEF-NUMBER",
		Short: "Fetch one invoice by its KSeF number",
		Long: `Writes the XML of one invoice, byte for byte as KSeF served it: the mirror's copy,
without a request, or with --fresh, or where it is not mirrored, KSeF's. An existing
file is never overwritten.`,
		Example: `  ksefmirror remote download 5265877635-20261105-0100001AF629-AF -o invoice.xml`,
		Args:    oneInvoice,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := ksef.ParseNumber(args[len(args)-1])
			if err != nil {
				return usageError(err)
			}
			if output == "" {
				output = string(number) + ".xml"
			}
			return c.direct(cmd.Context(), args[:len(args)-1], func(ctx context.Context, m config.Mirror, d *ksefsync.Direct) error {
				return c.download(ctx, m.Name, d, number, output, fresh)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write; - for standard output (default KSEF-NUMBER.xml)")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask KSeF also if the invoice is mirrored")
	return cmd
}

func (c *command) remoteExport() *cobra.Command {
	var f queryFlags
	var output string
	var fresh bool
	cmd := &cobra.Command{
		Use:   "export [NAME] -o DIR",
		Short: "Write the invoices that match KSeF's filters into a folder",
		Long: `Writes invoices into a folder, named as in the mirror's, each with KSeF's metadata as
JSON beside it. It spends as little of the budget as it can: invoices that were
stored in KSeF before the watermark cost nothing (as with query), the others a
listing and a few single downloads, or one package for up to 10,000 of them. When
KSeF's limits allow no more, or it was stopped, the same command goes on from where
it was: what is in the folder is not fetched again. No file is ever overwritten.`,
		Example: `  ksefmirror remote export acme --role buyer --by issue --from 2026-10-01 --to 2026-10-31 -o october`,
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			q, err := f.query(cmd, c.stdin)
			if err != nil {
				return err
			}
			if output == "" {
				return usageError(errors.New("--output is missing: the folder to write to"))
			}
			return c.direct(cmd.Context(), names, func(ctx context.Context, m config.Mirror, d *ksefsync.Direct) error {
				return c.export(ctx, m.Name, d, q, output, fresh)
			})
		},
	}
	f.define(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "`folder` to write to; made if it does not exist")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "fetch all from KSeF, also what is mirrored")
	return cmd
}

// oneInvoice refuses as a usage error anything but one argument, a KSeF number, or two,
// with the name of a mirror before it. That the number is one is not its business.
func oneInvoice(_ *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usageError(errors.New("want the KSeF number of one invoice, and before it perhaps the name of a mirror"))
	}
	return nil
}

// atMostOne refuses more than one name as a usage error.
func atMostOne(cmd *cobra.Command, args []string) error {
	if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
		return usageError(err)
	}
	return nil
}

// direct runs work with direct access to KSeF for the one mirror that is meant,
// and says what is left of the budget if some of it was used.
func (c *command) direct(ctx context.Context, names []string, work func(context.Context, config.Mirror, *ksefsync.Direct) error) error {
	loaded, m, err := c.one(names, config.Load)
	if err != nil {
		return err
	}
	o, err := options(m, c.logger(loaded.Log).With("mirror", m.Name))
	if err != nil {
		return err
	}
	d, err := ksefsync.OpenDirect(ctx, o)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	err = work(ctx, m, d)
	if ctx.Err() != nil {
		err = errors.New("stopped; what was written so far is kept")
	} else if d.Asked() {
		err = errors.Join(err, c.printBudget(ctx, m.Name, d))
	}
	return errors.Join(err, d.Close())
}

// note tells the person something that is not part of the output.
func (c *command) note(format string, args ...any) {
	_, _ = fmt.Fprintf(c.stderr, format+"\n", args...)
}

func (c *command) printBudget(ctx context.Context, name string, d *ksefsync.Direct) error {
	groups, err := d.Budget(ctx)
	if err != nil {
		return err
	}
	words := map[ksef.Group]string{ksef.GroupMetadata: "listings", ksef.GroupExport: "packages", ksef.GroupDownload: "single downloads"}
	var left []string
	for _, g := range groups {
		if g.PerHour == 0 {
			left = append(left, "any number of "+words[g.Group])
		} else {
			left = append(left, fmt.Sprintf("%d of %d %s", g.Left, g.PerHour, words[g.Group]))
		}
	}
	c.note("%s: KSeF's limits leave this hour, to all commands and the daemon: %s", name, strings.Join(left, ", "))
	return nil
}

// spent turns the end of the budget into its exit code, with what to do.
func (c *command) spent(name string, err error, advice string) error {
	limit := ksefsync.Limited(err)
	if limit == nil {
		return err
	}
	c.note("%s: KSeF's limits allow no more %s requests for now; it can go on from %s: %s",
		name, limit.Group, limit.Until.Local().Format("2006-01-02 15:04:05"), advice)
	return &coded{code: exitBudget}
}

func (c *command) list(ctx context.Context, name string, d *ksefsync.Direct, q ksef.Query, fresh, asJSON bool) error {
	begin, row, end := c.table(q)
	if asJSON {
		begin, row, end = c.jsonArray()
	}
	begin()
	listing, err := d.Query(ctx, q, fresh, row)
	end()
	if listing.MirrorUpTo == "" {
		c.note("%s: %d invoices from KSeF", name, listing.FromKSeF)
	} else {
		c.note("%s: %d invoices from KSeF, and %d from the mirror: those stored up to %s (--fresh asks KSeF for them)", name, listing.FromKSeF, listing.FromMirror, listing.MirrorUpTo)
	}
	if listing.Repeated {
		c.note("%s: KSeF listed an invoice twice, so its pages shifted while they were read and another may be missing: ask again, or for a shorter time", name)
	}
	if err != nil {
		return c.spent(name, err, "repeat the command with --from "+string(listing.Reached))
	}
	if listing.Repeated {
		return &coded{code: exitIncomplete}
	}
	return nil
}

// table gives what prints the beginning, a row and the end of a table. An error of
// row ends the listing: nobody reads it any more.
func (c *command) table(q ksef.Query) (begin func(), row func(ksef.Metadata) error, end func()) {
	line := func(cells ...any) error {
		_, err := fmt.Fprintf(c.stdout, "%-35s  %-10s  %-8s  %15s %-3s  %-10s  %-24s  %s\n", cells...)
		return err
	}
	begin = func() { _ = line("KSeF number", "issued", "type", "gross", "", "stored", "number", "other party") }
	row = func(m ksef.Metadata) error {
		party := m.Seller.Name
		if q.SubjectType == ksef.Seller {
			party = m.Buyer.Name
		}
		return line(plain(m.KSeFNumber), plain(m.IssueDate), plain(m.InvoiceType), plain(m.GrossAmount.String()), plain(m.Currency),
			m.Stored.Time().Format(time.DateOnly), plain(m.InvoiceNumber), plain(party))
	}
	return begin, row, func() {}
}

// plain takes out of what strangers wrote into an invoice whatever could command
// a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// jsonArray is table for an array of KSeF's own rows. It is whole also after an
// error.
func (c *command) jsonArray() (begin func(), row func(ksef.Metadata) error, end func()) {
	separator := "\n"
	begin = func() { _, _ = fmt.Fprint(c.stdout, "[") }
	row = func(m ksef.Metadata) error {
		_, err := fmt.Fprintf(c.stdout, "%s%s", separator, m.Raw)
		separator = ",\n"
		return err
	}
	return begin, row, func() { _, _ = fmt.Fprintln(c.stdout, "]") }
}

func (c *command) download(ctx context.Context, name string, d *ksefsync.Direct, number ksef.Number, output string, fresh bool) error {
	if output != "-" {
		if _, err := os.Lstat(output); err == nil { // asked before the request is spent; create tells for good
			return usageError(fmt.Errorf("%s exists: it is left as it is", output))
		}
	}
	invoice, err := d.Download(ctx, number, fresh)
	if err != nil {
		return c.spent(name, fmt.Errorf("invoice %s: %w", number, err), "repeat the command then")
	}
	if output == "-" {
		_, err = c.stdout.Write(invoice.XML)
	} else {
		err = create(output, invoice.XML)
	}
	if err != nil {
		return err
	}
	from := "KSeF"
	if invoice.FromMirror {
		from = "the mirror (--fresh asks KSeF)"
	}
	c.note("%s: %s, %d bytes, from %s", name, number, len(invoice.XML), from)
	if invoice.Differs {
		c.note("%s: this is not what is mirrored under that number; the mirror keeps its copy. KSeF's invoices never change: report it", name)
		return &coded{code: exitIncomplete}
	}
	return nil
}

// create writes a new file, or none.
func create(name string, content []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640) //nolint:gosec // the user names the file, and may let a group read it
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func (c *command) export(ctx context.Context, name string, d *ksefsync.Direct, q ksef.Query, dir string, fresh bool) error {
	done, err := d.Export(ctx, q, dir, fresh)
	c.note("%s: %d invoices are in %s: %d were there, %d came from the mirror, %d from KSeF, by %d packages",
		name, done.Present+done.FromMirror+done.FromKSeF, dir, done.Present, done.FromMirror, done.FromKSeF, done.Packages)
	for _, kept := range done.Kept {
		c.note("%s: another file stood in the way, it is now %s", name, kept)
	}
	for _, failed := range done.Failed {
		c.note("%s: %s is not to be had: %s", name, plain(failed.KSeFNumber), failed.Reason)
	}
	if err != nil {
		return c.spent(name, err, "repeat the command then; it goes on from "+done.Reached)
	}
	if len(done.Failed) > 0 {
		return &coded{code: exitIncomplete}
	}
	return nil
}

// queryFlags are KSeF's filters as flags.
type queryFlags struct {
	file                           string
	role, by, from, to             string
	beyondHWM                      bool
	number, invoice, seller, buyer string
	amount, amountFrom, amountTo   string
	currencies, types              []string
	mode, form                     string
	selfInvoicing, attachment      bool
}

func (f *queryFlags) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "filters", "", "take all filters from this `file` instead: KSeF's InvoiceQueryFilters as JSON; - for standard input")
	flags.StringVar(&f.role, "role", "", "the company's role: seller, buyer, third_party or authorized")
	flags.StringVar(&f.from, "from", "", "first `day` in Poland, such as 2026-11-01, or an instant such as 2026-11-01T08:00:00Z")
	flags.StringVar(&f.to, "to", "", "last `day` or instant, itself included (default now)")
	flags.StringVar(&f.by, "by", "storage", "the date that counts: storage (for good, in KSeF), invoicing (taken in by KSeF) or issue")
	flags.BoolVar(&f.beyondHWM, "beyond-hwm", false, "list also the newest invoices, among which some may still be missing; --by storage only")
	flags.StringVar(&f.number, "ksef-number", "", "KSeF `number`")
	flags.StringVar(&f.invoice, "invoice-number", "", "the seller's `number` of the invoice, exactly")
	flags.StringVar(&f.seller, "seller-nip", "", "`NIP` of the seller")
	flags.StringVar(&f.buyer, "buyer", "", "the buyer's `identifier`: nip:5265877635, vat-ue:DE123456789, other:… or none; nip, vat-ue or other alone for any of that kind")
	flags.StringVar(&f.amount, "amount", "", "which amount --amount-from and --amount-to mean: gross, net or vat (in PLN)")
	flags.StringVar(&f.amountFrom, "amount-from", "", "smallest `amount`, such as 1234.56")
	flags.StringVar(&f.amountTo, "amount-to", "", "largest `amount`")
	flags.StringSliceVar(&f.currencies, "currency", nil, "`currencies`, such as PLN,EUR")
	flags.StringVar(&f.mode, "mode", "", "Online or Offline")
	flags.StringVar(&f.form, "form", "", "FA, PEF or FA_RR")
	flags.StringSliceVar(&f.types, "type", nil, "`types`, such as Vat,Kor; KSeF's are Vat Zal Kor Roz Upr KorZal KorRoz VatPef VatPefSp KorPef VatRr KorVatRr")
	flags.BoolVar(&f.selfInvoicing, "self-invoicing", false, "only those that the buyer issued; =false: only the others")
	flags.BoolVar(&f.attachment, "attachment", false, "only those with an attachment; =false: only those without")
}

// maxFilters bounds the JSON of --filters, which is a few hundred bytes.
const maxFilters = 1 << 20

// query gives what the flags ask for. Its errors are usage errors.
func (f *queryFlags) query(cmd *cobra.Command, stdin io.Reader) (ksef.Query, error) {
	var q ksef.Query
	var err error
	if f.file != "" {
		for _, flag := range []string{
			"role", "from", "to", "by", "beyond-hwm", "ksef-number", "invoice-number", "seller-nip", "buyer", "amount", "amount-from",
			"amount-to", "currency", "mode", "form", "type", "self-invoicing", "attachment",
		} {
			if cmd.Flags().Changed(flag) {
				return q, usageError(fmt.Errorf("--%s and --filters exclude each other: the file holds all filters", flag))
			}
		}
		q, err = readFilters(f.file, stdin)
	} else {
		q, err = f.parse(cmd.Flags().Changed)
	}
	if err == nil {
		err = q.Check()
	}
	if err != nil {
		return q, usageError(err)
	}
	return q, nil
}

func readFilters(name string, stdin io.Reader) (q ksef.Query, err error) {
	source := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return q, err
		}
		defer func() { _ = file.Close() }() // it was only read
		source = file
	}
	text, err := io.ReadAll(io.LimitReader(source, maxFilters+1))
	if err != nil {
		return q, err
	}
	if len(text) > maxFilters {
		return q, fmt.Errorf("%s: filters of more than %d bytes cannot be right", name, maxFilters)
	}
	if err := json.Unmarshal(text, &q); err != nil {
		return q, fmt.Errorf("%s: %w", name, err)
	}
	return q, nil
}

// parse turns the flags into a query; given tells which were set.
func (f *queryFlags) parse(given func(flag string) bool) (q ksef.Query, err error) {
	word := func(flag, value string, words map[string]string) string {
		meant, ok := words[value]
		if !ok && err == nil {
			err = fmt.Errorf("--%s %q: want %s", flag, value, strings.Join(slices.Sorted(maps.Keys(words)), ", "))
		}
		return meant
	}
	q.SubjectType = ksef.SubjectType(word("role", f.role, map[string]string{
		"seller": string(ksef.Seller), "buyer": string(ksef.Buyer), "third_party": string(ksef.ThirdParty), "authorized": string(ksef.Authorized),
	}))
	q.DateType = ksef.DateType(word("by", f.by, map[string]string{
		"storage": string(ksef.ByPermanentStorage), "invoicing": string(ksef.ByInvoicing), "issue": string(ksef.ByIssue),
	}))
	q.BeyondHWM = f.beyondHWM
	q.Filter = ksef.Filter{
		KSeFNumber: f.number, InvoiceNumber: f.invoice, SellerNIP: f.seller,
		Currencies: f.currencies, InvoicingMode: f.mode, FormType: f.form, InvoiceTypes: f.types,
	}
	if given("amount") || given("amount-from") || given("amount-to") {
		q.Filter.Amount = &ksef.AmountRange{
			Type: word("amount", f.amount, map[string]string{"gross": "Brutto", "net": "Netto", "vat": "Vat"}),
			From: json.Number(f.amountFrom), To: json.Number(f.amountTo),
		}
	}
	if given("buyer") {
		kind, value, _ := strings.Cut(f.buyer, ":")
		q.Filter.Buyer = &ksef.BuyerID{
			Type:  word("buyer", kind, map[string]string{"nip": "Nip", "vat-ue": "VatUe", "other": "Other", "none": "None"}),
			Value: value,
		}
	}
	if given("self-invoicing") {
		q.Filter.IsSelfInvoicing = &f.selfInvoicing
	}
	if given("attachment") {
		q.Filter.HasAttachment = &f.attachment
	}
	if err != nil {
		return q, err
	}
	if f.from == "" {
		return q, errors.New("--from is missing: the first day, such as 2026-11-01")
	}
	if q.From, err = parseDate("from", f.from, false); err != nil {
		return q, err
	}
	if f.to != "" {
		q.To, err = parseDate("to", f.to, true)
	}
	return q, err
}

// parseDate reads a day in Poland, of which the first instant is meant or the
// last, or an instant.
func parseDate(flag, text string, last bool) (ksef.Timestamp, error) {
	warsaw, err := poland()
	if err != nil {
		return "", err
	}
	day, err := time.ParseInLocation(time.DateOnly, text, warsaw)
	if err != nil {
		instant, err := ksef.ParseTimestamp(text)
		if err != nil {
			return "", fmt.Errorf("--%s %q: want a day such as 2026-11-01 or an instant such as 2026-11-01T08:00:00Z", flag, text)
		}
		return instant, nil
	}
	if last { // the smallest step that KSeF writes is 100 ns
		day = day.AddDate(0, 0, 1).Add(-100 * time.Nanosecond)
	}
	return ksef.Timestamp(day.UTC().Format("2006-01-02T15:04:05.0000000Z")), nil
}
