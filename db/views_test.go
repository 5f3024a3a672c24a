package db

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// statedSample is what an independent reading says of an official example.
type statedSample struct {
	Form      string              `json:"form"`
	Currency  string              `json:"currency"`
	Gross     *string             `json:"gross"`
	Net       map[string]string   `json:"net_by_field"`
	VAT       map[string]string   `json:"vat_by_field"`
	VATPLN    map[string]string   `json:"vat_pln_by_field"`
	NetTotal  string              `json:"net_total"`
	VATTotal  string              `json:"vat_total"`
	Subtotals []map[string]string `json:"tax_subtotals"`
	TaxPoint  string              `json:"tax_point_date"`
	SaleDate  string              `json:"sale_date"`
	PeriodTo  string              `json:"period_to"`
	LineDates []string            `json:"line_sale_dates"`
	IssueDate string              `json:"issue_date"`
}

// registerRow is a row of the register, in hundredths; nil is not stated.
type registerRow struct{ Net, VAT, NetPLN, VATPLN *int64 }

func hundredths(t *testing.T, amount string) *int64 {
	t.Helper()
	if amount == "" {
		return nil
	}
	units, fraction, _ := strings.Cut(amount, ".")
	value, err := strconv.ParseInt(units+(fraction + "00")[:2], 10, 64)
	if err != nil {
		t.Fatalf("amount %q: %v", amount, err)
	}
	return &value
}

// register gives the rows that the register must have for the sample, by bucket.
func (s *statedSample) register(t *testing.T, xml string) map[string]registerRow {
	t.Helper()
	rows := make(map[string]registerRow)
	switch s.Form {
	case "RR":
		rows["rr"] = registerRow{Net: hundredths(t, s.NetTotal), VAT: hundredths(t, s.VATTotal)}
	case "PEF":
		for _, subtotal := range s.Subtotals {
			percent := strings.TrimSuffix(strings.TrimRight(subtotal["percent"], "0"), ".")
			row := rows["ubl:"+subtotal["category"]+":"+percent]
			net, vat := hundredths(t, subtotal["taxable"]), hundredths(t, subtotal["tax"])
			if row.Net != nil {
				*net, *vat = *net+*row.Net, *vat+*row.VAT
			}
			rows["ubl:"+subtotal["category"]+":"+percent] = registerRow{Net: net, VAT: vat}
		}
	case "PEF_KOR": // the independent reading gives what holds after the correction
		_, difference, _ := strings.Cut(xml, ":InvoiceCorrection>")
		_, difference, _ = strings.Cut(difference, ":TaxSubtotal>")
		amount := func(element string) *int64 {
			_, after, _ := strings.Cut(difference, element)
			_, after, _ = strings.Cut(after, ">")
			text, _, _ := strings.Cut(after, "<")
			return hundredths(t, text)
		}
		rows["ubl:S:23"] = registerRow{Net: amount(":TaxableAmount"), VAT: amount(":TaxAmount")}
	default:
		buckets := map[string]string{
			"1": "standard", "2": "reduced1", "3": "reduced2", "4": "taxi", "5": "oss", "6_1": "zero_domestic", "6_2": "zero_eu", "6_3": "zero_export",
			"7": "exempt", "8": "outside", "9": "outside_services_eu", "10": "reverse_charge", "11": "margin",
		}
		for field, bucket := range buckets {
			row := registerRow{
				Net: hundredths(t, s.Net["P_13_"+field]), VAT: hundredths(t, s.VAT["P_14_"+field]), VATPLN: hundredths(t, s.VATPLN["P_14_"+field+"W"]),
			}
			if row != (registerRow{}) {
				rows[bucket] = row
			}
		}
	}
	if s.Currency == "PLN" {
		for bucket, row := range rows {
			row.NetPLN, row.VATPLN = row.Net, row.VAT
			rows[bucket] = row
		}
	}
	if len(rows) == 0 {
		rows[""] = registerRow{} // no amounts by rate: one row all the same
	}
	return rows
}

// taxMonth is the month by the rule that the views document.
func (s *statedSample) taxMonth() string {
	for _, date := range []string{s.TaxPoint, s.SaleDate, s.PeriodTo, slices.Max(append(s.LineDates, "")), s.IssueDate} {
		if date != "" {
			return date[:7]
		}
	}
	return ""
}

// The register and its monthly sums say of the official examples, of every form, what
// the documents state: corrections with their signs, PLN only where it is stated.
func TestRegisterOfOfficialSamples(t *testing.T) {
	folder := "../../shared/ksef/samples"
	content, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	if err != nil {
		t.Skipf("the official samples are not here: %v", err)
	}
	samples := make(map[string]*statedSample)
	if err := json.Unmarshal(content, &samples); err != nil {
		t.Fatal(err)
	}
	d := newTest(t)
	type total struct {
		Rows             int
		Net, VAT, VATPLN int64
	}
	totals, counterparties := map[string]total{}, map[string]int64{}
	plus := func(sum *int64, amount *int64) {
		if amount != nil {
			*sum += *amount
		}
	}
	n := 0
	for file, s := range samples {
		in := testInvoice(n)
		n++
		if in.XML, err = os.ReadFile(filepath.Join(folder, filepath.FromSlash(file))); err != nil {
			t.Fatal(err)
		}
		in.KSeFNumber, in.Hash, in.Role = file, hashOf(in.XML), "buyer"
		direction, table := "purchase", "v_purchases"
		if n%2 == 0 {
			in.Role, direction, table = "seller", "sale", "v_sales"
		}
		if in.Document, err = parse.Parse(in.XML); err != nil {
			t.Fatal(err)
		}
		commit(t, d, Batch{Role: in.Role, Invoices: []Invoice{in}})

		want := s.register(t, string(in.XML))
		got := make(map[string]registerRow)
		rows, err := d.read.Query("SELECT coalesce(bucket, ''), net_minor, vat_minor, net_pln_minor, vat_pln_minor, tax_month, currency, invoice_gross_minor FROM "+table+" WHERE ksef_number = ?", file)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var bucket, month, currency string
			var row registerRow
			var gross *int64
			if err := rows.Scan(&bucket, &row.Net, &row.VAT, &row.NetPLN, &row.VATPLN, &month, &currency, &gross); err != nil {
				t.Fatal(err)
			}
			if got[bucket] = row; month != s.taxMonth() || currency != s.Currency {
				t.Errorf("%s is in month %s with %s, not in %s with %s", file, month, currency, s.taxMonth(), s.Currency)
			}
			if s.Form != "PEF_KOR" && (gross == nil || *gross != *hundredths(t, *s.Gross)) {
				t.Errorf("%s: gross %v, want %s", file, gross, *s.Gross)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -stated +register:\n%s", file, diff)
		}
		for bucket, row := range want {
			key := fmt.Sprint(direction, " ", s.taxMonth(), " ", s.Currency, " ", bucket)
			sum := totals[key]
			sum.Rows++
			plus(&sum.Net, row.Net)
			plus(&sum.VAT, row.VAT)
			plus(&sum.VATPLN, row.VATPLN)
			totals[key] = sum
		}
		gross := value[int64](t, d, "SELECT gross_minor FROM v_invoices WHERE ksef_number = ?", file)
		counterparties[direction+" "+s.Currency] += gross // compared above
	}
	got := make(map[string]total)
	rows, err := d.read.Query("SELECT direction || ' ' || tax_month || ' ' || currency || ' ' || coalesce(bucket, ''), invoices, coalesce(net_minor, 0), coalesce(vat_minor, 0), coalesce(vat_pln_minor, 0) FROM v_month_totals")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var sum total
		if err := rows.Scan(&key, &sum.Rows, &sum.Net, &sum.VAT, &sum.VATPLN); err != nil {
			t.Fatal(err)
		}
		got[key] = sum
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(totals, got); diff != "" {
		t.Errorf("v_month_totals: -stated +sums:\n%s", diff)
	}
	for key, want := range counterparties {
		if sum := value[int64](t, d, "SELECT sum(gross_minor) FROM v_counterparties WHERE direction || ' ' || currency = ?", key); sum != want {
			t.Errorf("v_counterparties of %s: %d, want %d", key, sum, want)
		}
	}
	if n < 35 {
		t.Errorf("only %d samples", n)
	}
}
