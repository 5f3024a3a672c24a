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

// rowsOf gives the rows of a query, each as a list in JSON.
func rowsOf(t *testing.T, d *DB, query string) []string {
	t.Helper()
	rows, err := d.read.Query("SELECT json_array(" + query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestViews(t *testing.T) {
	d := newTest(t)
	amount := func(value int64) parse.Minor { return parse.Minor{Value: value, Stated: true} }
	var invoices []Invoice
	add := func(role string, change func(in *Invoice, doc *parse.Document)) {
		in := testInvoice(len(invoices))
		in.Role = role
		in.Document.VATRows = []parse.VATRow{{Bucket: "standard", Net: amount(100), VAT: amount(23)}}
		in.Document.Net, in.Document.VAT, in.Document.Gross = amount(100), amount(23), amount(123)
		change(&in, in.Document)
		invoices = append(invoices, in)
	}
	add("seller", func(in *Invoice, doc *parse.Document) { // 0: partly paid, to a factor
		doc.PaymentStatus, doc.Payments = "partial", []parse.Payment{{Kind: "paid", Position: 1, Amount: amount(20)}, {Kind: "document", Position: 1, Amount: amount(9)}}
		doc.Accounts = []parse.Account{{Owner: "seller", Position: 1, Number: "1"}, {Owner: "factor", Position: 1, Number: "11 2222"}}
		doc.Lines[0].GTU, doc.Lines[1].GTU, doc.Lines[2].GTU, doc.Lines[3].Procedure = "GTU_12", "GTU_02", "GTU_12", "WSTO_EE"
	})
	add("seller", func(in *Invoice, doc *parse.Document) { // 1: a correction, to a consumer, in EUR
		doc.InvoiceType, doc.IsCorrection, doc.Currency, doc.PaymentStatus = "KOR", true, "EUR", ""
		doc.Parties[1] = parse.Party{Kind: "buyer", Position: 1, IDType: "None", Name: "Jan Nowak"}
		doc.VATRows = []parse.VATRow{{Bucket: "standard", Net: amount(-50), VAT: amount(-11), VATPLN: amount(-47)}, {Bucket: "exempt", Net: amount(5)}, {Bucket: "taxi", Net: amount(7), VAT: amount(1)}}
		doc.Net, doc.VAT, doc.VATPLN, doc.Gross, doc.ToSettle = amount(-38), amount(-10), amount(-47), amount(-48), amount(40)
		doc.FirstDueDate, doc.LastDueDate = "", ""
	})
	add("buyer", func(in *Invoice, doc *parse.Document) { // 2: which the company issued itself, paid
		doc.SelfBilling, doc.PaymentStatus, doc.TaxDate = true, "paid", "2026-10-31"
	})
	add("buyer", func(in *Invoice, doc *parse.Document) { // 3: of a farmer
		doc.Form, doc.InvoiceType, doc.Currency = "FA_RR", "VAT_RR", "EUR"
		doc.VATRows = []parse.VATRow{{Bucket: "rr", Net: amount(100), VAT: amount(7), VATPLN: amount(30)}}
		doc.NetPLN, doc.VATPLN = amount(425), amount(30)
	})
	add("buyer", func(in *Invoice, doc *parse.Document) { // 4: simplified, without amounts by rate
		doc.VATRows, doc.Net, doc.VAT, doc.PaymentStatus, doc.ToPay = nil, parse.Minor{}, parse.Minor{}, "unpaid", amount(200)
	})
	add("buyer", func(in *Invoice, _ *parse.Document) { in.Document, in.ParseStatus = nil, "error" }) // 5
	add("third_party", func(*Invoice, *parse.Document) {})                                            // 6
	commit(t, d, Batch{Role: "buyer", Invoices: invoices, Watermark: "2026-11-22T02:54:00.003161+00:00"})
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(6)}, Quarantined: []Quarantined{{KSeFNumber: "x", Hash: "h", Reason: "r", Holds: true}, {KSeFNumber: "y", Hash: "h", Reason: "r"}}})

	for query, want := range map[string][]string{
		"invoice_id - 1, net_minor, vat_minor, net_pln_minor, vat_pln_minor, gtu, procedures) FROM v_sales WHERE invoice_id = 1": {`[0,100,23,100,23,"GTU_02,GTU_12","WSTO_EE"]`},
		"bucket, net_minor, vat_minor, net_pln_minor, vat_pln_minor, invoice_vat_pln_minor, invoice_gross_minor, counterparty_id_type, counterparty_id, counterparty_name) FROM v_sales WHERE invoice_id = 2 ORDER BY bucket": {
			`["exempt",5,null,null,null,-47,-48,"None",null,"Jan Nowak"]`, `["standard",-50,-11,null,-47,-47,-48,"None",null,"Jan Nowak"]`, `["taxi",7,1,null,null,-47,-48,"None",null,"Jan Nowak"]`,
		},
		"direction, invoice_id - 1, tax_month, self_billing, counterparty_id) FROM v_register WHERE invoice_id = 3":                     {`["purchase",2,"2026-10",1,"5265877635"]`},
		"form, net_minor, vat_minor, net_pln_minor, vat_pln_minor) FROM v_purchases WHERE bucket = 'rr'":                                {`["FA_RR",100,7,425,30]`},
		"invoice_id - 1, net_minor, invoice_gross_minor, parse_status) FROM v_purchases WHERE tax_month = '2026-11' AND bucket IS NULL": {`[4,null,123,"ok"]`, `[5,null,null,"error"]`},
		"direction, counterparty_id) FROM v_register WHERE invoice_id = 7 ORDER BY direction":                                           {`["purchase","5265877635"]`, `["third_party",null]`},
		"currency, bucket, invoices, net_minor, vat_minor, net_pln_minor, vat_pln_minor, vat_pln_unstated) FROM v_month_totals WHERE tax_month = '2026-11' AND direction = 'sale' ORDER BY 1": {
			`["EUR","exempt",1,5,null,null,null,0]`, `["EUR","standard",1,-50,-11,null,-47,0]`, `["EUR","taxi",1,7,1,null,null,1]`, `["PLN","standard",1,100,23,100,23,0]`,
		},
		"counterparty_id, counterparty_name, currency, invoices, corrections, gross_minor, last_issue_date) FROM v_counterparties WHERE tax_month = '2026-11' AND direction = 'sale' ORDER BY 1": {
			`["7123306158","Pralnia Ekologiczna","PLN",1,0,123,"2026-11-05"]`, `[null,"Jan Nowak","EUR",1,1,-48,"2026-11-05"]`,
		},
		"invoice_id - 1, side, due_date, open_minor, payment_status, pay_to_account) FROM v_due ORDER BY invoice_id": {
			`[0,"receivable","2026-11-19",103,"partial","112222"]`, `[1,"receivable",null,-40,"unknown",null]`, `[3,"payable","2026-11-19",123,"unpaid",null]`,
			`[4,"payable","2026-11-19",200,"unpaid",null]`, `[5,"payable",null,null,"unknown",null]`, `[6,"payable","2026-11-19",123,"unpaid",null]`,
		},
		"path, size, sha256 = (SELECT xml_sha256 FROM v_invoices i WHERE i.ksef_number = f.ksef_number)) FROM v_files f WHERE ksef_number = '" + testNumber(5) + "'": {
			fmt.Sprintf(`["%s",%d,1]`, invoices[5].Path, len(invoices[5].XML)),
		},
		"roles, tax_date, tax_month, issue_month, received_month) FROM v_invoices WHERE id = 7": {`["buyer,third_party","2026-11-04","2026-11","2026-11","2026-11"]`},
		"tax_date, tax_month) FROM v_invoices WHERE id = 6":                                     {`["2026-11-05","2026-11"]`},
		"role, watermark, lag_seconds = strftime('%s', 'now') - strftime('%s', '2026-11-22 02:54:00'), waiting, alarms, last_run_at) FROM v_sync": {
			`["buyer","2026-11-22T02:54:00.003161+00:00",1,1,1,null]`,
		},
	} {
		if diff := cmp.Diff(want, rowsOf(t, d, query)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", query, diff)
		}
	}
}

// The register has the codes GTU of the lines, in whatever form they are written, and
// does not look at the lines for those of ordinary invoices.
func TestRegisterCodes(t *testing.T) {
	d := newTest(t)
	cases := []struct {
		name   string
		stated []string // by line
		want   string
		stored bool
	}{
		{"none", nil, "none", true},
		{"each once and in order", []string{"GTU_12", "GTU_02", "", "GTU_12"}, "GTU_02,GTU_12", true},
		{"of another form", []string{"GTU_02", "12"}, "12,GTU_02", false},
		{"of two in one", []string{"GTU_02", "GTU_01,GTU_13"}, "GTU_01,GTU_13,GTU_02", false},
		{"of which only the beginning is there", []string{"GTU_"}, "GTU_", false},
	}
	var invoices []Invoice
	for n, c := range cases {
		in := testInvoice(n)
		for i := range in.Document.Lines {
			if in.Document.Lines[i].GTU = ""; i < len(c.stated) {
				in.Document.Lines[i].GTU = c.stated[i]
			}
		}
		invoices = append(invoices, in)
	}
	commit(t, d, Batch{Role: "buyer", Invoices: invoices})
	compare := func(when string, lines bool) {
		t.Helper()
		for n, c := range cases {
			want := c.want
			if !lines && !c.stored {
				want = "none"
			}
			if got := value[string](t, d, "SELECT min(coalesce(gtu, 'none')) FROM v_register WHERE ksef_number = ?", testNumber(n)); got != want {
				t.Errorf("%s, %s: %s, want %s", c.name, when, got, want)
			}
		}
	}
	compare("as stored", true)
	write(t, d, "UPDATE invoice_lines SET gtu = NULL")
	compare("without those of the lines", false)
	write(t, d, "UPDATE invoices SET gtu_codes = ''")
	if _, err := d.Reread(t.Context(), invoices); err != nil {
		t.Fatal(err)
	}
	compare("as read again", true)
	write(t, d, "UPDATE invoices SET gtu_codes = NULL")
	compare("as stored before there was a column for them", true)
}

// Lines have the roles of their invoice, whenever it gained them.
func TestRolesOfLines(t *testing.T) {
	d := newTest(t)
	compare := func(when string, want ...string) {
		t.Helper()
		for n := range want {
			for _, view := range []string{"v_lines", "v_invoices"} {
				if got := value[string](t, d, "SELECT group_concat(DISTINCT roles) FROM "+view+" WHERE ksef_number = ?", testNumber(n)); got != want[n] {
					t.Errorf("%s, %s of invoice %d: %s, want %s", when, view, n, got, want[n])
				}
			}
		}
	}
	invoices := testInvoices(0, 3)
	invoices[2].Role = "third_party"
	commit(t, d, Batch{Role: "seller", Invoices: invoices})
	compare("stored", "seller", "seller", "third_party")
	for _, role := range []string{"buyer", "authorized", "buyer"} {
		commit(t, d, Batch{Role: role, Seen: []string{testNumber(1)}})
	}
	compare("seen in others", "seller", "authorized,buyer,seller", "third_party")
	write(t, d, "UPDATE invoices SET roles = NULL")
	compare("stored before there was a column for them", "seller", "authorized,buyer,seller", "third_party")
	invoices[0].Role = "buyer"
	commit(t, d, Batch{Role: "buyer", Invoices: invoices[:1], Seen: []string{testNumber(2)}})
	compare("seen in others only then", "buyer,seller", "authorized,buyer,seller", "buyer,third_party")

	// To store an invoice costs no second writing of its row.
	write(t, d, "DROP TRIGGER invoice_roles_insert")
	one := testInvoice(3)
	one.Role = ""
	commit(t, d, Batch{Role: "authorized", Invoices: []Invoice{one}})
	compare("stored without the trigger", "buyer,seller", "authorized,buyer,seller", "buyer,third_party", "authorized")
	if role := value[string](t, d, "SELECT coalesce(roles, 'none') FROM invoices WHERE ksef_number = ?", testNumber(3)); role != "authorized" {
		t.Errorf("an invoice is stored with %s for its roles", role)
	}
}
