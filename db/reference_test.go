package db

import (
	"cmp"
	"errors"
	goflag "flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = goflag.Bool("update", false, "write the reference of the views anew")

// view is a view of the database with what its definition says of it.
type view struct {
	name        string
	description string
	month       string            // the condition for a month; "" where there is none
	columns     []string          // in order
	texts       map[string]string // of the columns, by their names
	from        string            // the view that it is taken from; "" for none
}

// readViews gives the views for readers, by name. The texts are the comments in their
// definitions, which the database keeps.
func readViews(t *testing.T, d *DB) map[string]*view {
	t.Helper()
	rows, err := d.read.Query(`SELECT m.name, m.sql, group_concat(c.name) FROM sqlite_schema m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'view' AND m.name GLOB 'v_*' GROUP BY m.name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	views := make(map[string]*view)
	for rows.Next() {
		var v view
		var definition, columns string
		if err := rows.Scan(&v.name, &definition, &columns); err != nil {
			t.Fatal(err)
		}
		v.columns = strings.Split(columns, ",")
		v.readDefinition(definition)
		views[v.name] = &v
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return views
}

var (
	// commented is a line of a definition: code, and behind it a comment.
	commented = regexp.MustCompile(`^\s*(.*?)\s*(?:--\s*(.*?))?\s*$`)
	// lastName is the name of a column at the end of its expression.
	lastName = regexp.MustCompile(`(\w+),?$`)
	fromView = regexp.MustCompile(`\bFROM (v_\w+)`)
)

// readDefinition takes the comments before SELECT for the description of the view, and
// each further one, with the lines of comment that follow it, for the text of the
// column that is named before it.
func (v *view) readDefinition(definition string) {
	v.texts = make(map[string]string)
	if match := fromView.FindStringSubmatch(definition); match != nil {
		v.from = match[1]
	}
	column, began := "", false
	for line := range strings.Lines(definition) {
		match := commented.FindStringSubmatch(line)
		code, comment := match[1], match[2]
		began = began || strings.HasPrefix(code, "SELECT") || strings.HasPrefix(code, "WITH")
		if code != "" {
			column = ""
			if name := lastName.FindStringSubmatch(code); name != nil {
				column = name[1]
			}
		}
		switch {
		case comment == "":
		case !began && strings.HasPrefix(comment, "A month: "):
			v.month = strings.TrimPrefix(comment, "A month: ")
		case !began:
			v.description = strings.TrimSpace(v.description + " " + comment)
		default:
			v.texts[column] = strings.TrimSpace(v.texts[column] + " " + comment)
		}
	}
}

// text gives that of a column: its own, or else that of the view that it is taken from,
// or of v_invoices.
func (v *view) text(views map[string]*view, column string) string {
	inherited := ""
	if from := views[v.from]; from != nil && from != v {
		inherited = from.text(views, column)
	}
	return cmp.Or(v.texts[column], inherited, views["v_invoices"].texts[column])
}

var (
	// columnText is what a text says: meaning; unit; source; NULL: …. The meaning may have
	// semicolons too.
	columnText = regexp.MustCompile(`^(.+); ([^;]+); ([^;]+); (?:NULL: (.+)|(never) NULL)$`)
	// unit is how a unit begins. Without it the end of a meaning that has semicolons would
	// pass for one that is not there.
	unit = regexp.MustCompile(`^(?:-$|0 or 1$|(?:as|base64|bytes|code|count|date|decimal|hexadecimal|hundredths of|ISO|path|RFC 3339|seconds|text|URL|xsd:dateTime|YYYY-MM)\b)`)
)

// cells gives the meaning of a column, its unit, its source and what NULL means, or nil
// where its text does not say them.
func cells(text string) []string {
	match := columnText.FindStringSubmatch(text)
	if match == nil || !unit.MatchString(match[2]) || match[3] == "-" {
		return nil
	}
	cells := []string{match[1], match[2], match[3], match[4] + match[5]}
	for i := range cells {
		cells[i] = strings.NewReplacer("|", `\|`, "*", `\*`).Replace(cells[i])
	}
	return cells
}

// TestReference compares the reference of the views with the schema. With -update it
// writes it anew.
func TestReference(t *testing.T) {
	const file = "VIEWS.md"
	views := readViews(t, newTest(t))
	var b strings.Builder
	b.WriteString(`# The views of the database

This is made from the schema by ` + "`go test ./db -run TestReference -update`" + `.

Paths are below the root of the document: *FA* is below ` + "`/Faktura`" + `, of FA(3) where the
versions differ; *RR* is FA_RR; *PEF* is UBL below ` + "`/Invoice` or `/CreditNote`" + `, where *diff*
stands for the ` + "`InvoiceCorrection`" + ` of PEF_KOR; a PEF_KOR without one states what it credits,
and its amounts and quantities have the other sign here. *metadata* are what KSeF lists
(` + "`InvoiceMetadata`" + ` of its API), *ksefmirror* is what the program itself finds; another
source is a column, of the same view or of v_invoices where none is named. Amounts stand
as stated: those of a correction are differences, and none is computed but for sums and
what is called computed. An amount beyond 9 000 000 000 000.00, of any currency, is
read as not stated, and parse_error says so: two that are absurd would overflow SQLite's
` + "`sum()`" + `, which fails then, and a view with it. Dates are ` + "`YYYY-MM-DD`" + `, moments ` + "`2026-11-22T02:54:00.0031610Z`" + `, so
that the order of the text is the order in time. The unit ` + "`-`" + ` is that of what has none.
`)
	for _, name := range slices.Sorted(maps.Keys(views)) {
		v := views[name]
		if v.description == "" {
			t.Errorf("view %s says nothing of itself: put a comment before its SELECT", name)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, v.description)
		if v.month != "" {
			fmt.Fprintf(&b, "\nA month: `SELECT … FROM %s WHERE %s`\n", name, v.month)
		}
		b.WriteString("\n| column | meaning | unit | source | NULL |\n| --- | --- | --- | --- | --- |\n")
		for _, column := range v.columns {
			text := v.text(views, column)
			parts := cells(text)
			if parts == nil {
				t.Errorf("%s.%s: write beside it what it means; its unit, or -; its source; NULL: what that means, or never NULL. It has %q", name, column, text)
				continue
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", column, strings.Join(parts, " | "))
		}
		for column := range v.texts {
			if !slices.Contains(v.columns, column) {
				t.Errorf("view %s has a text for %q, which is not among its columns", name, column)
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(file)
	if err != nil || string(written) != b.String() {
		t.Errorf("%s does not say what the schema does: go test ./db -run TestReference -update (%v)", file, err)
	}
}

// The documented condition for a month finds it by an index in each view, and so do
// those of other questions: nothing grows with what is held beside.
func TestViewPlans(t *testing.T) {
	d := newTest(t)
	views := readViews(t, d)
	var queries []string
	for name, v := range views {
		if v.month != "" {
			queries = append(queries, "SELECT * FROM "+name+" WHERE "+v.month)
		}
	}
	for _, view := range []string{"v_invoices", "v_register", "v_sales", "v_purchases"} {
		for _, condition := range []string{"issue_month = '2026-11'", "received_month = '2026-11'", "ksef_number = 'x'"} {
			queries = append(queries, "SELECT * FROM "+view+" WHERE "+condition)
		}
	}
	queries = append(queries,
		"SELECT * FROM v_lines WHERE ksef_number = 'x'",
		"SELECT * FROM v_files WHERE ksef_number = 'x'",
		"SELECT * FROM v_month_totals WHERE tax_month = '2026-11' AND direction = 'sale'",
		"SELECT * FROM v_counterparties WHERE tax_month = '2026-11' AND direction = 'sale'",
		"SELECT * FROM v_invoices WHERE seller_nip = 'x'",
		"SELECT * FROM v_invoices WHERE buyer_id = 'x'",
		"SELECT * FROM v_technical_corrections",
	)
	for _, query := range queries {
		rows, err := d.read.Query("EXPLAIN QUERY PLAN " + query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		byIndex, byProcedure, computed := false, false, map[string]bool{"CONSTANT": true, "v_month_totals": true, "v_counterparties": true} // of the rows that an index found
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			words := strings.Fields(step)
			switch {
			case words[0] == "CO-ROUTINE":
				computed[words[1]] = true
			case words[0] == "SEARCH" && (words[1] == "i" || words[1] == "l"):
				byIndex = byIndex || words[1] == "i" && words[4] != "PRIMARY" || strings.Contains(step, "late_invoices_found")
				byProcedure = byProcedure || strings.Contains(step, "COVERING INDEX invoice_lines_procedure")
			case words[0] == "SEARCH":
				// By the invoice, but for what some views find otherwise.
				if !slices.ContainsFunc([]string{"(invoice_id=?", "(rowid=?)", "invoice_roles_not_seen", "invoices_issue_month", "(ksef_number=?)", "(seller_nip=? AND invoice_number=?)"}, func(by string) bool { return strings.Contains(step, by) }) {
					t.Errorf("%s: %s", query, step)
				}
			case words[0] == "SCAN" && !computed[words[1]]:
				t.Errorf("%s: %s", query, step)
			case strings.HasPrefix(step, "USE TEMP B-TREE FOR GROUP BY") && !byIndex:
				t.Errorf("%s: %s over everything", query, step)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		if !byIndex {
			t.Errorf("%s uses no index of invoices", query)
		}
		if !byProcedure && slices.Contains(views[strings.Fields(query)[3]].columns, "procedures") {
			t.Errorf("%s looks at all lines for procedures", query)
		}
	}
}
