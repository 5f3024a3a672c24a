package cli

import (
	"archive/zip"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/db"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// database opens the database of the mirror for comparing.
func (f *office) database() *sql.DB {
	f.t.Helper()
	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(filepath.Join(f.dir, "data", "acme")))
	if err != nil {
		f.t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { reader.Close() })
	return reader
}

// strings gives the first column of a query.
func (f *office) strings(query string) []string {
	f.t.Helper()
	rows, err := f.database().Query(query)
	if err != nil {
		f.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	all := []string{}
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			f.t.Fatal(err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	return all
}

// spoil makes an invoice one that could not be read.
func (f *office) spoil(number string) {
	f.t.Helper()
	writer, err := sql.Open("sqlite", ksefsync.DatabasePath(filepath.Join(f.dir, "data", "acme"))+"?_busy_timeout=10000")
	if err != nil {
		f.t.Fatal(err)
	}
	defer writer.Close()
	_, err = writer.Exec(`UPDATE invoices SET parse_status = 'error', parse_error = 'broken', tax_date = NULL, gross_minor = NULL, net_minor = NULL, vat_minor = NULL,
		invoice_type = NULL, payment_status = NULL, first_due_date = NULL WHERE ksef_number = ?; DELETE FROM vat_summary
		WHERE invoice_id = (SELECT id FROM invoices WHERE ksef_number = ?)`, number, number)
	if err != nil {
		f.t.Fatal(err)
	}
}

// The commands that read a mirror.
func TestReading(t *testing.T) {
	f := newOffice(t, ksefsim.Options{}, 80)
	// In this order: from forms on some invoices are ones that could not be read.
	t.Run("filters", func(t *testing.T) { testFilters(t, f) })
	t.Run("forms", func(t *testing.T) { testForms(t, f) })
	t.Run("export", func(t *testing.T) { testExport(t, f) })
	t.Run("show", func(t *testing.T) { testShow(t, f) })
}

// What each filter lists is what the database has.
func testFilters(t *testing.T, f *office) {
	month := f.strings("SELECT max(substr(tax_date, 1, 7)) FROM v_invoices WHERE roles LIKE '%buyer%'")[0]
	buyer := f.strings("SELECT buyer_name FROM v_invoices WHERE buyer_name GLOB '*[ąęłóżś]*' AND buyer_nip IS NOT NULL LIMIT 1")[0]
	part := strings.ToUpper(folded(buyer))[1:] // without marks, in other letters, and not from the beginning
	nip := f.strings("SELECT max(buyer_nip) FROM v_invoices")[0]
	line := f.strings("SELECT max(name) FROM v_lines WHERE name GLOB '*[ąęłóżś]*'")[0]
	const newest = " ORDER BY stored_at DESC, id DESC"
	for _, c := range []struct {
		name, where string
		args        []string
	}{
		{"all", "1", nil},
		{"role", "roles LIKE '%buyer%'", []string{"--role", "buyer"}},
		{"tax month", "tax_date LIKE '" + month + "%'", []string{"--month", month}},
		{"issued", "issue_date BETWEEN '2000-01-01' AND date('now', '-5 days')", []string{"--from", "2000-01-01", "--to", time.Now().UTC().AddDate(0, 0, -5).Format(time.DateOnly)}},
		{"NIP", "'" + nip + "' IN (buyer_nip, seller_nip)", []string{"--counterparty", "PL " + nip[:3] + "-" + nip[3:]}},
		{"name", "'" + buyer + "' IN (buyer_name, seller_name)", []string{"--counterparty", part}},
		{"number", "invoice_number LIKE '%KOR%'", []string{"--number", "kor"}},
		{"text", "ksef_number IN (SELECT ksef_number FROM v_lines WHERE name = '" + line + "')", []string{"--text", strings.ToUpper(folded(line))}},
		{"amount", "gross_minor BETWEEN 10000 AND 500050", []string{"--amount-from", "100", "--amount-to", "5000,50"}},
		{"negative", "gross_minor <= -1", []string{"--amount-to", "-0.01"}},
		{"type", "invoice_type IN ('KOR', 'ZAL')", []string{"--type", "kor,Zal"}},
		{"KSeF's type", "api_invoice_type = 'KorZal'", []string{"--type", "KorZal"}},
		{"form", "form = 'PEF'", []string{"--form", "PEF"}},
		{"unpaid", "coalesce(payment_status, '') <> 'paid'", []string{"--unpaid"}},
		{"due", "payment_status <> 'paid' AND first_due_date <= date('now')", []string{"--due", time.Now().UTC().Format(time.DateOnly)}},
		{"both", "roles LIKE '%seller%' AND gross_minor >= 100000", []string{"--role", "seller", "--amount-from", "1000"}},
	} {
		want := f.strings("SELECT ksef_number FROM v_invoices WHERE " + c.where + newest)
		if len(want) == 0 && c.name != "form" && c.name != "KSeF's type" || len(want) == 80 && c.name != "all" {
			t.Fatalf("%s: %d invoices to find", c.name, len(want))
		}
		out, errs := f.run(0, append([]string{"invoices"}, c.args...)...)
		got := []string{}
		for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
			got = append(got, line[:35])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -database +listed:\n%s", c.name, diff)
		}
		if !strings.Contains(errs, fmt.Sprintf("acme: %d invoices", len(want))) {
			t.Errorf("%s: %s", c.name, errs)
		}
	}
	out, _ := f.run(0, "invoices", "--limit", "7")
	if strings.Count(out, "\n") != 8 {
		t.Errorf("a limit of 7:\n%s", out)
	}

	for _, c := range []struct {
		message string
		args    []string
	}{
		{"want seller", []string{"--role", "vendor"}},
		{"want FA", []string{"--form", "fax"}},
		{"want a month", []string{"--month", "10.2026"}},
		{"want a day", []string{"--to", "2026-02-30"}},
		{"want an amount", []string{"--amount-from", "1.234"}},
		{"want an amount", []string{"--amount-to", "1e5"}},
		{"want an amount", []string{"--amount-to", "-"}},
		{"want an amount", []string{"--amount-to", "99999999999999999999"}},
		{"want a number", []string{"--limit", "-1"}},
	} {
		if _, errs := f.run(2, append([]string{"invoices"}, c.args...)...); !strings.Contains(errs, c.message) {
			t.Errorf("%q: %s", c.args, errs)
		}
	}
}

// JSON, CSV and XLSX hold what the database does, to the last digit.
func testForms(t *testing.T, f *office) {
	spoiled := f.strings("SELECT ksef_number FROM v_invoices WHERE tax_date = issue_date AND currency = 'PLN' AND roles = 'seller' LIMIT 1")[0]
	f.spoil(spoiled)
	const decimal = `CASE WHEN %[1]s IS NULL THEN '' ELSE printf('%%s%%d.%%02d', iif(%[1]s < 0, '-', ''), abs(%[1]s) / 100, abs(%[1]s) %% 100) END`
	want := f.strings(`SELECT ksef_number || ' ' || coalesce(tax_date, issue_date) || ' ' || seller_name || ' ' ||
		` + fmt.Sprintf(decimal, "iif(parse_status = 'ok', gross_minor, api_gross_minor)") + ` || ' ' || ` + fmt.Sprintf(decimal, "vat_minor") + ` || ' ' || currency
		FROM v_invoices ORDER BY stored_at DESC, id DESC`)

	out, _ := f.run(0, "invoices", "--json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, row := range rows {
		vat, _ := row["vat"].(string)
		got = append(got, fmt.Sprint(row["ksef_number"], " ", row["tax_date"], " ", row["seller_name"], " ", row["gross"], " ", vat, " ", row["currency"]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JSON: -database +listed:\n%s", diff)
	}

	out, _ = f.run(0, "invoices", "--csv")
	reader := csv.NewReader(strings.NewReader(strings.TrimPrefix(out, "\ufeff")))
	reader.Comma = ';'
	table, err := reader.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	place := map[string]int{}
	for i, heading := range table[0] {
		place[heading] = i
	}
	pick := func(row []string) string {
		cell := func(name string) string { return row[place[name]] }
		return strings.Join([]string{cell("ksef_number"), cell("tax_date"), cell("seller_name"), cell("gross"), cell("vat"), cell("currency")}, " ")
	}
	got = nil
	for _, row := range table[1:] {
		row[place["gross"]], row[place["vat"]] = strings.ReplaceAll(row[place["gross"]], ",", "."), strings.ReplaceAll(row[place["vat"]], ",", ".")
		got = append(got, pick(row))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CSV: -database +listed:\n%s", diff)
	}

	book := filepath.Join(f.dir, "all.xlsx")
	f.run(0, "invoices", "--xlsx", book)
	got = nil
	for _, row := range sheetOf(t, book, 1)[1:] {
		got = append(got, pick(row))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("XLSX: -database +listed:\n%s", diff)
	}
	if _, errs := f.run(2, "invoices", "--xlsx", book); !strings.Contains(errs, "left as it is") {
		t.Error(errs)
	}
	if _, errs := f.run(2, "invoices", "--json", "--csv"); !strings.Contains(errs, "exclude each other") {
		t.Error(errs)
	}
}

// sheetOf reads a sheet of a workbook without the library that wrote it: texts as
// they are, dates as dates, amounts with two decimals.
func sheetOf(t *testing.T, path string, number int) [][]string {
	t.Helper()
	archive, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	file, err := archive.Open(fmt.Sprintf("xl/worksheets/sheet%d.xml", number))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var page struct {
		Rows []struct {
			Cells []struct {
				Place  string `xml:"r,attr"`
				Kind   string `xml:"t,attr"`
				Value  string `xml:"v"`
				Inline string `xml:"is>t"`
			} `xml:"c"`
		} `xml:"sheetData>row"`
	}
	if err := xml.NewDecoder(file).Decode(&page); err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for _, row := range page.Rows {
		cells := make([]string, 60)
		for _, c := range row.Cells {
			column := 0
			for _, letter := range strings.TrimRight(c.Place, "0123456789") {
				column = 26*column + int(letter-'A') + 1
			}
			text := c.Inline + c.Value
			switch days, err := strconv.Atoi(text); {
			case c.Kind == "inlineStr":
			case err == nil && len(text) == 5 && days > 40000 && strings.Contains("F G H D E", strings.TrimRight(c.Place, "0123456789")):
				text = time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC).AddDate(0, 0, days).Format(time.DateOnly)
			default:
				value, ok := new(big.Rat).SetString(text)
				if !ok {
					t.Fatalf("%s: %q is no number", c.Place, text)
				}
				text = value.FloatString(2)
			}
			cells[column-1] = text
		}
		rows = append(rows, cells)
	}
	return rows
}

// A register holds the invoices of its month and nothing else, and its sums are those
// of the documents.
func testExport(t *testing.T, f *office) {
	month := f.strings("SELECT max(substr(tax_date, 1, 7)) FROM v_invoices")[0]
	spoiled := f.strings("SELECT ksef_number FROM v_invoices WHERE roles = 'buyer' AND tax_date = issue_date AND substr(tax_date, 1, 7) = '" + month + "' LIMIT 1")[0]
	f.spoil(spoiled)
	book := filepath.Join(f.dir, "register.xlsx")
	_, errs := f.run(3, "export", "--month", month, "-o", book)
	if !strings.Contains(errs, " of them could not be read") || !strings.Contains(errs, spoiled) || !strings.Contains(errs, "invoices of the month may be missing") {
		t.Error(errs)
	}
	for i, role := range []string{"seller", "buyer"} {
		rows := sheetOf(t, book, i+1)
		place := map[string]int{}
		for column, heading := range rows[0] {
			place[heading] = column
		}
		where := " FROM v_invoices WHERE roles LIKE '%" + role + "%' AND coalesce(tax_date, issue_date) LIKE '" + month + "%'"
		got, sums := []string{}, map[string]*big.Rat{}
		for _, row := range rows[1:] {
			got = append(got, row[0])
			for heading, column := range place {
				if value, ok := new(big.Rat).SetString(row[column]); ok && strings.HasPrefix(heading+" ", "net ") || ok && strings.HasPrefix(heading+" ", "VAT ") || ok && heading == "gross" {
					if sums[heading] == nil {
						sums[heading] = new(big.Rat)
					}
					sums[heading].Add(sums[heading], value)
				}
			}
		}
		if diff := cmp.Diff(f.strings("SELECT ksef_number"+where+" ORDER BY coalesce(tax_date, issue_date), stored_at, id"), got); diff != "" {
			t.Errorf("%s: -database +register:\n%s", role, diff)
		}
		total := func(heading string) string {
			if sums[heading] == nil {
				return "0.00"
			}
			return sums[heading].FloatString(2)
		}
		bucket := func(bucket, column string) string {
			return "SELECT printf('%.2f', coalesce(sum(" + column + "), 0) / 100.0) FROM v_invoices i JOIN vat_summary s ON s.invoice_id = i.id WHERE s.bucket = '" + bucket +
				"' AND i.ksef_number IN (SELECT ksef_number" + where + ")"
		}
		for heading, query := range map[string]string{
			"gross":             "SELECT printf('%.2f', sum(iif(parse_status = 'ok', gross_minor, api_gross_minor)) / 100.0)" + where,
			"net":               "SELECT printf('%.2f', sum(iif(parse_status = 'ok', net_minor, api_net_minor)) / 100.0)" + where,
			"VAT in PLN":        "SELECT printf('%.2f', sum(CASE WHEN parse_status <> 'ok' THEN api_vat_pln_minor WHEN currency = 'PLN' THEN vat_minor ELSE vat_pln_minor END) / 100.0)" + where,
			"net 23/22 %":       bucket("standard", "s.net_minor"),
			"VAT 23/22 %":       bucket("standard", "s.vat_minor"),
			"net 8/7 %":         bucket("reduced1", "s.net_minor"),
			"VAT 5 %":           bucket("reduced2", "s.vat_minor"),
			"net 0 % EU supply": bucket("zero_eu", "s.net_minor"),
		} {
			if want := f.strings(query)[0]; total(heading) != want {
				t.Errorf("%s: %s %s, the database says %s", role, heading, total(heading), want)
			}
		}
	}

	list := filepath.Join(f.dir, "sales.csv")
	f.run(3, "export", "acme", "--month", month, "--role", "seller", "--by", "issued", "-o", list)
	content, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	want := f.strings("SELECT count(*) FROM v_invoices WHERE roles LIKE '%seller%' AND issue_date LIKE '" + month + "%'")[0]
	if got := strconv.Itoa(strings.Count(string(content), "\r\n") - 1); got != want {
		t.Errorf("%s rows of %s", got, want)
	}
	for _, c := range []struct {
		message string
		args    []string
	}{
		{"--month is missing", []string{"-o", "x.csv"}},
		{"want a month", []string{"--month", "2026-13", "-o", "x.csv"}},
		{"room for one register", []string{"--month", month, "-o", "x.csv"}},
		{"want a file whose name", []string{"--month", month, "-o", "x.xls"}},
		{"want a file whose name", []string{"--month", month}},
		{"want seller or buyer", []string{"--month", month, "--role", "authorized", "-o", "x.csv"}},
		{"want tax", []string{"--month", month, "--by", "paid", "-o", "x.xlsx"}},
		{"left as it is", []string{"--month", month, "--role", "seller", "-o", list}},
	} {
		if _, errs := f.run(2, append([]string{"export"}, c.args...)...); !strings.Contains(errs, c.message) {
			t.Errorf("%q: %s", c.args, errs)
		}
	}

	// Another program sees the same.
	soffice, err := exec.LookPath("soffice")
	if err != nil || testing.Short() {
		t.Skip("the rest needs LibreOffice (libreoffice-calc-nogui), and seconds")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if output, err := exec.CommandContext(ctx, soffice, "--headless", "-env:UserInstallation=file://"+f.dir+"/profile",
		"--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1", book, "--outdir", f.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for i, name := range []string{"Sales", "Purchases"} {
		file, err := os.Open(filepath.Join(f.dir, "register-"+name+".csv"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		table, err := csv.NewReader(file).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		ours := sheetOf(t, book, i+1)
		for row := range table {
			for column, seen := range table[row] {
				written := ours[row][column]
				if a, ok := new(big.Rat).SetString(seen); ok {
					if b, ok := new(big.Rat).SetString(written); ok && a.Cmp(b) == 0 {
						continue
					}
				}
				if seen != written {
					t.Errorf("%s row %d column %d: LibreOffice sees %q, written was %q", name, row+1, column+1, seen, written)
				}
			}
		}
		if len(table) != len(ours) {
			t.Errorf("%s: LibreOffice sees %d rows of %d", name, len(table), len(ours))
		}
	}
}

// What is shown of an invoice: the words, everything, and the bytes.
func testShow(t *testing.T, f *office) {
	number := f.strings("SELECT ksef_number FROM v_invoices i WHERE EXISTS(SELECT 1 FROM invoice_references r WHERE r.invoice_id = i.id AND r.relation = 'corrects') AND line_count > 0 AND parse_status = 'ok' LIMIT 1")[0]
	out, _ := f.run(0, "show", number)
	for _, column := range []string{"invoice_number", "seller_name", "buyer_name", "issue_date", "tax_date", "gross", "currency", "xml_path", "correction_reason"} {
		if want := f.strings("SELECT coalesce(" + column + ", '') FROM v_invoices WHERE ksef_number = '" + number + "'")[0]; !strings.Contains(out, want) {
			t.Errorf("no %s %q in\n%s", column, want, out)
		}
	}
	for _, query := range []string{
		"SELECT r.ksef_number FROM invoice_references r JOIN v_invoices i ON i.id = r.invoice_id WHERE r.ksef_number IS NOT NULL AND i.ksef_number = '" + number + "'",
		"SELECT name FROM v_lines WHERE ksef_number = '" + number + "'",
		"SELECT account FROM bank_accounts a JOIN v_invoices i ON i.id = a.invoice_id WHERE i.ksef_number = '" + number + "'",
	} {
		for _, want := range f.strings(query) {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
	original := f.strings("SELECT coalesce((SELECT t.ksef_number FROM invoice_references r JOIN v_invoices i ON i.id = r.invoice_id JOIN invoices t ON t.id = r.target_id WHERE i.ksef_number = '" + number + "'), '')")[0]
	if original == "" {
		t.Fatal("the correction finds nothing")
	}
	shown, _ := f.run(0, "show", original)
	after := f.strings("SELECT printf('%.2f', max(iif(is_last, gross_after_minor, NULL)) / 100.0) FROM v_chain WHERE original_ksef_number = '" + original + "'")
	if len(after) != 1 || !strings.Contains(shown, "Corrected by") || !strings.Contains(shown, number) || !strings.Contains(shown, "gross "+after[0]) {
		t.Errorf("%v after all, in\n%s", after, shown)
	}
	pair := strings.Fields(f.strings(`SELECT s.ksef_number || ' ' || a.advance_ksef_number || ' ' || printf('%.2f', s.left_minor / 100.0) FROM v_settlements s
		JOIN v_advances a ON a.invoice_id = s.invoice_id WHERE s.advances = 1 AND s.advances_found = 1 LIMIT 1`)[0])
	settlement, advance, left := pair[0], pair[1], pair[2]
	if out, _ := f.run(0, "show", settlement); !strings.Contains(out, "Settles") || !strings.Contains(out, advance) || !strings.Contains(out, "left to pay "+left) {
		t.Errorf("the settlement of %s, which leaves %s:\n%s", advance, left, out)
	}
	if out, _ := f.run(0, "show", advance); !strings.Contains(out, "Settled by") || !strings.Contains(out, settlement) {
		t.Errorf("the advance that %s settles:\n%s", settlement, out)
	}
	xml, _ := f.run(0, "show", "acme", number, "--xml")
	file, err := os.ReadFile(filepath.Join(f.dir, "data", "acme", "invoices", f.strings("SELECT xml_path FROM v_invoices WHERE ksef_number = '" + number + "'")[0]))
	if err != nil || xml != string(file) {
		t.Errorf("--xml gives %d bytes, the file has %d, %v", len(xml), len(file), err)
	}
	text, _ := f.run(0, "show", number, "--json")
	var all struct {
		Invoice map[string]any   `json:"invoice"`
		Lines   []map[string]any `json:"lines"`
		Notes   []map[string]any `json:"notes"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	if want := f.strings("SELECT gross FROM v_invoices WHERE ksef_number = '" + number + "'")[0]; all.Invoice["gross"] != want || all.Invoice["ksef_number"] != number || all.Notes == nil {
		t.Errorf("%v", all.Invoice)
	}
	if want := f.strings("SELECT count(*) FROM v_lines WHERE ksef_number = '" + number + "'")[0]; strconv.Itoa(len(all.Lines)) != want {
		t.Errorf("%d lines of %s", len(all.Lines), want)
	}

	f.spoil(number)
	out, _ = f.run(0, "show", number)
	if !strings.Contains(out, "NOT READ") || !strings.Contains(out, "KSeF's list states") {
		t.Error(out)
	}
	if _, errs := f.run(1, "show", "5265877635-20261105-0100001AF629-88"); !strings.Contains(errs, "not in the database") {
		t.Error(errs)
	}
	f.run(2, "show", number[:34])
	f.run(2, "show")
	f.run(2, "show", number, "--json", "--xml")
	f.run(2, "show", "nobody", number)
}

func FuzzParseAmount(f *testing.F) {
	for _, text := range []string{"", "0", "-0.01", "1234,56", "1.2.3", "999999999999999999.99", "--1", "-", ".5", "+1", "1e5"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		minor, err := parseAmount("amount-from", text)
		if err != nil || minor == nil {
			return
		}
		want, ok := new(big.Rat).SetString(strings.Replace(text, ",", ".", 1))
		if !ok || want.Cmp(big.NewRat(*minor, 100)) != 0 || strings.ContainsAny(text, "eE/_") {
			t.Errorf("%q is %d", text, *minor)
		}
	})
}
