package sheet

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// hostile are texts that would do something in a spreadsheet, and what is written
// instead.
var hostile = map[string]string{
	"=1+1":                           "'=1+1",
	"=cmd|' /C calc'!A0":             "'=cmd|' /C calc'!A0",
	"+48 22 000 00 00":               "'+48 22 000 00 00",
	"-2+3":                           "'-2+3",
	"@SUM(1)":                        "'@SUM(1)",
	"\t=1":                           " '=1",
	"\r\n=1":                         "  '=1",
	"  =1":                           "  '=1",
	"\u00a0=1":                       "\u00a0'=1",
	"\ufeff=1":                       "\ufeff'=1",
	"\u200b=1":                       "\u200b'=1",
	`"=1`:                            `"'=1`,
	"'=1":                            "''=1",
	"„=1”":                           "„'=1”",
	"==1":                            "'==1",
	"＝1+1":                           "'＝1+1",
	"－1":                             "'－1",
	"＋1":                             "'＋1",
	"＠SUM(1)":                        "'＠SUM(1)",
	"−1":                             "'−1",
	"a,=1":                           "a,'=1",
	"a;=1":                           "a;'=1",
	"a; \"=1":                        "a; \"'=1",
	"a\t=1":                          "a '=1",
	"a\n=1":                          "a '=1",
	"a\u2028=1":                      "a '=1",
	"a|=1":                           "a|'=1",
	`=HYPERLINK("http://x";"click")`: `'=HYPERLINK("http://x";"click")`,
	// What is ordinary stays as it is.
	"":                                    "",
	"Żabka Sp. z o.o.":                    "Żabka Sp. z o.o.",
	"A=B":                                 "A=B",
	"Jan Kowalski-Nowak":                  "Jan Kowalski-Nowak",
	"FV/1-2/2026":                         "FV/1-2/2026",
	"5265877635-20261105-0100001AF629-AF": "5265877635-20261105-0100001AF629-AF",
	"jan@example.pl":                      "jan@example.pl",
	"O'Neill; Sons, Ltd.":                 "O'Neill; Sons, Ltd.",
}

func TestHarmless(t *testing.T) {
	for text, want := range hostile {
		if got := harmless(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// However a text is cut into cells, none of them begins with a formula, and nothing
// but apostrophes is added.
func FuzzHarmless(f *testing.F) {
	for text := range hostile {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := harmless(text)
		for _, separator := range []string{",", ";", "|", "\t", "\n", "\r", "\u2028"} {
			for _, cell := range strings.Split(got, separator) {
				cell = strings.TrimLeftFunc(cell, func(r rune) bool {
					return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune("\"„”“»«`", r)
				})
				if cell != "" && strings.ContainsAny(cell[:1], "=+-@") || strings.HasPrefix(cell, "＝") || strings.HasPrefix(cell, "−") {
					t.Fatalf("%q became %q: the cell %q is a formula", text, got, cell)
				}
			}
		}
		if strings.ContainsFunc(got, unicode.IsControl) {
			t.Fatalf("%q keeps a control character", got)
		}
		if strings.ToValidUTF8(text, "\ufffd") == text && strings.Count(got, "")-strings.Count(got, "'") != strings.Count(text, "")-strings.Count(text, "'") {
			t.Fatalf("%q became %q", text, got)
		}

		// What is written is read again by a reader of CSV as one cell.
		var file bytes.Buffer
		c, err := NewCSV(&file, []Column{{Heading: "a"}, {Heading: "b", Kind: Amount}})
		if err = errors.Join(err, c.Row([]string{text, "-1.50"}), c.Close()); err != nil {
			t.Fatal(err)
		}
		reader := csv.NewReader(strings.NewReader(strings.TrimPrefix(file.String(), "\ufeff")))
		reader.Comma = ';'
		rows, err := reader.ReadAll()
		if err != nil || len(rows) != 2 || rows[1][0] != got || rows[1][1] != "-1,50" {
			t.Fatalf("%q: %q, %v", text, rows, err)
		}
	})
}

var tableColumns = []Column{{"KSeF number", Text, 10}, {"gross", Amount, 12}, {"issued", Date, 12}, {"account", Text, 30}}

func TestCSV(t *testing.T) {
	var file bytes.Buffer
	c, err := NewCSV(&file, tableColumns)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range [][]string{
		{"5265877635-20261105-0100001AF629-AF", "-1234.50", "2026-10-05", "12345678901234567890123456"},
		{`He said "no"; and left`, "", "", ""},
		{"x", "1e5", "tomorrow", "=1"}, // no amount is ever so: then it is a text
	} {
		if err := c.Row(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	want := "\ufeff\"KSeF number\";\"gross\";\"issued\";\"account\"\r\n" +
		"\"5265877635-20261105-0100001AF629-AF\";-1234,50;\"2026-10-05\";\"12345678901234567890123456\"\r\n" +
		"\"He said \"\"no\"\"; and left\";;;\r\n" +
		"\"x\";\"1e5\";\"tomorrow\";\"'=1\"\r\n"
	if diff := cmp.Diff(want, file.String()); diff != "" {
		t.Error(diff)
	}
}

// cell is a cell as the file has it.
type cell struct{ Kind, Value, Formula string }

// cellsOf reads the sheets of a workbook without the library that wrote it.
func cellsOf(t *testing.T, content []byte) map[string][][]cell {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string, into any) {
		t.Helper()
		file, err := archive.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := xml.NewDecoder(file).Decode(into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var book struct {
		Sheets []struct {
			Name string `xml:"name,attr"`
		} `xml:"sheets>sheet"`
	}
	read("xl/workbook.xml", &book)
	all := map[string][][]cell{}
	for i, one := range book.Sheets {
		var page struct {
			Rows []struct {
				Cells []struct {
					Kind    string `xml:"t,attr"`
					Value   string `xml:"v"`
					Inline  string `xml:"is>t"`
					Formula string `xml:"f"`
				} `xml:"c"`
			} `xml:"sheetData>row"`
		}
		read(fmt.Sprintf("xl/worksheets/sheet%d.xml", i+1), &page)
		for _, row := range page.Rows {
			var cells []cell
			for _, c := range row.Cells {
				cells = append(cells, cell{c.Kind, c.Value + c.Inline, c.Formula})
			}
			all[one.Name] = append(all[one.Name], cells)
		}
	}
	return all
}

func workbook(t *testing.T, rows map[string][][]string) []byte {
	t.Helper()
	x, err := NewXLSX()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Sales", "Purchases"} {
		page, err := x.Sheet(name, tableColumns)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows[name] {
			if err := page.Row(row); err != nil {
				t.Fatal(err)
			}
		}
	}
	var file bytes.Buffer
	if err := errors.Join(x.Write(&file), x.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// Amounts are numbers and dates dates; NIPs, accounts and everything else are texts
// to the letter; nothing is a formula.
func TestXLSX(t *testing.T) {
	content := workbook(t, map[string][][]string{
		"Sales": {
			{"5265877635", "-1234.50", "2026-10-05", "00345678901234567890123456"},
			{"=1+1", "9999999999999999.99", "05.10.2026", "_x0041_"},
			{"", "0.00", "", "<&\"'>  two\nlines"},
		},
		"Purchases": {{"x", "0.07", "1900-01-01", "@SUM(1)"}},
	})
	got := cellsOf(t, content)
	for name, rows := range got {
		for _, row := range rows {
			for i, c := range row {
				if c.Formula != "" {
					t.Errorf("%s: a formula %q", name, c.Formula)
				}
				row[i].Kind = map[string]string{"inlineStr": "text", "str": "text", "n": "number", "": "number"}[c.Kind]
				if c.Value == "" {
					row[i].Kind = ""
				}
			}
		}
	}
	text := func(s string) cell { return cell{Kind: "text", Value: s} }
	number := func(s string) cell { return cell{Kind: "number", Value: s} }
	heading := []cell{text("KSeF number"), text("gross"), text("issued"), text("account")}
	day := strconv.Itoa(int(time.Date(2026, 10, 5, 0, 0, 0, 0, time.UTC).Sub(time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC)).Hours()) / 24)
	want := map[string][][]cell{
		"Sales": {
			heading,
			{text("5265877635"), number("-1234.5"), number(day), text("00345678901234567890123456")},
			{text("=1+1"), text("9999999999999999.99"), text("05.10.2026"), text("_x005F_x0041_")}, // as the format writes _x0041_
			{number("0"), text("<&\"'>  two\nlines")},
		},
		"Purchases": {heading, {text("x"), number("0.07"), text("1900-01-01"), text("@SUM(1)")}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestXLSXRefusesMoreRowsThanFit(t *testing.T) {
	x, err := NewXLSX()
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	page, err := x.Sheet("Invoices", tableColumns)
	if err != nil {
		t.Fatal(err)
	}
	page.rows = MaxRows // the heading counts as one
	if err := page.Row([]string{"last", "", "", ""}); err != nil {
		t.Errorf("the last row: %v", err)
	}
	if err := page.Row([]string{"too many", "", "", ""}); err == nil || !strings.Contains(err.Error(), "shorter time") {
		t.Errorf("one too many: %v", err)
	}
}

// LibreOffice reads what is written as it was meant, and executes none of it.
func TestLibreOffice(t *testing.T) {
	if testing.Short() {
		t.Skip("LibreOffice takes seconds to start, three times")
	}
	office, err := exec.LookPath("soffice")
	if err != nil {
		t.Skip("LibreOffice is not here: install libreoffice-calc-nogui to have it open what is written")
	}
	folder := t.TempDir()
	var texts [][]string
	for text := range hostile {
		if text != "" {
			texts = append(texts, []string{text, "-12.05", "2026-10-05", "00345678901234567890123456"})
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "book.xlsx"), workbook(t, map[string][][]string{"Sales": texts}), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(folder, "table.csv"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCSV(file, tableColumns)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range texts {
		if err := c.Row(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	convert := func(arguments ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, office, append([]string{"--headless", "-env:UserInstallation=file://" + folder + "/profile"}, append(arguments, "--outdir", folder)...)...)
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	// To CSV with commas: 44, quotes: 34, UTF-8: 76, as shown rather than as stored.
	convert("--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,1", filepath.Join(folder, "book.xlsx"))
	rows := readCSV(t, filepath.Join(folder, "book-Sales.csv"))
	for i, want := range texts {
		got := rows[i+1]
		if got[0] != want[0] && got[0] != strings.ReplaceAll(want[0], "\r\n", "\n") || got[1] != "-12.05" || got[2] != want[2] || got[3] != want[3] {
			t.Errorf("XLSX: %q became %q", want, got)
		}
	}
	// A CSV with semicolons and with commas for separators, as a Polish and an English
	// spreadsheet program take it: 59 and 44; Polish is 1045, English 1033. Any formula
	// would be an element of its own in the result.
	for _, separator := range []string{"59,34,76,1,,1045", "44,34,76,1,,1033"} {
		convert("--infilter=Text - txt - csv (StarCalc):"+separator+",false,true", "--convert-to", "fods", filepath.Join(folder, "table.csv"))
		content, err := os.ReadFile(filepath.Join(folder, "table.fods"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte("table:formula")) {
			t.Errorf("with separator %s a cell is a formula", separator)
		}
		if amount := []byte(`office:value="-12.05"`); strings.HasPrefix(separator, "59") && bytes.Count(content, amount) != len(texts) {
			t.Errorf("%d amounts of %d", bytes.Count(content, amount), len(texts))
		}
		if !bytes.Contains(content, []byte("/C calc")) {
			t.Error("the texts are not there")
		}
	}
}

func readCSV(t *testing.T, path string) [][]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestCreate(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "october.csv")
	write := func(text string, err error) func(*os.File) error {
		return func(file *os.File) error {
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it has its name before it is complete: %v", err)
			}
			_, failed := io.WriteString(file, text)
			return errors.Join(failed, err)
		}
	}
	broken := errors.New("disk full")
	if err := Create(path, write("half", broken)); !errors.Is(err, broken) {
		t.Errorf("a failure: %v", err)
	}
	if err := Create(path, write("first", nil)); err != nil {
		t.Fatal(err)
	}
	called := false
	if err := Create(path, func(*os.File) error { called = true; return nil }); !errors.Is(err, fs.ErrExist) || called {
		t.Errorf("a second one: %v", err)
	}
	// Something that got the name meanwhile stays too.
	other := filepath.Join(folder, "november.csv")
	err := Create(other, func(*os.File) error { return os.WriteFile(other, []byte("someone's"), 0o600) })
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("a race: %v", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	for path, want := range map[string]string{path: "first", other: "someone's"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
