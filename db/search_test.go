package db

import (
	"database/sql"
	"slices"
	"strings"
	"testing"

	"ksefmirror/parse"
)

// searchable is an invoice with a number, a buyer's name and one line.
func searchable(n int, number, buyer, line string) Invoice {
	in := testInvoice(n)
	in.Document.InvoiceNumber = number
	in.Document.Parties[1].Name = buyer
	in.Document.Lines = []parse.Line{{Kind: "line", Position: 1, Name: line}}
	return in
}

// checkSearch compares the full-text index with the rows.
func checkSearch(t *testing.T, d *DB) {
	t.Helper()
	if _, err := d.write.Exec("INSERT INTO invoice_search(invoice_search, rank) VALUES('integrity-check', 1)"); err != nil {
		t.Errorf("the full-text index does not agree with the rows: %v", err)
	}
}

func search(t *testing.T, d *DB, text string) []string {
	t.Helper()
	numbers, err := d.Search(t.Context(), text, 10)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return numbers
}

func TestSearch(t *testing.T) {
	d := newTest(t)
	unread := testInvoice(3)
	unread.ParseStatus, unread.Document, unread.InvoiceNumber, unread.BuyerName = "error", nil, "X/9", "Gęśla Jaźń"
	third := searchable(2, "FV/2/11/2026", "Zażółć sp. j.", "Transport")
	third.Document.Parties = append(third.Document.Parties,
		parse.Party{Kind: "third", Position: 1, Name: "Faktoring Wisła S.A.", TradeName: "Gotówka Od Ręki"})
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{
		searchable(0, "FV/1234/11/2026", "Piekarnia „Łódzka”", "Młynek do kawy, 250 g"),
		searchable(1, "FV/12/11/2026", "Café Zoé", "Kawa mielona"),
		third, unread,
	}})
	checkSearch(t, d)
	for _, test := range []struct {
		text string
		want []int
	}{
		{"fv/1234/11/2026", []int{0}},
		{"1234", []int{0}},
		{"123", nil},
		{"123*", []int{0}},
		{"Łódzka", []int{0}},
		{"łódzka", []int{0}},
		{"lodzka", []int{0}},
		{"LODZKA", []int{0}},
		{"łodzka", []int{0}},
		{"młynek", []int{0}},
		{"mlyn*", []int{0}},
		{"kaw*", []int{0, 1}},
		{"kaw* 250", []int{0}},
		{"250 kawa", nil},
		{"cafe", []int{1}},
		{"cafe\u0301 zoe", []int{1}},
		{"zazolc", []int{2}},
		{"wisla", []int{2}},
		{"gotowka", []int{2}},
		{"gesla jazn", []int{3}},
		{"hurtownia żaba", []int{0, 1, 2, 3}},
		{"x-9", []int{3}},
		{" „-*” ", nil},
		{"", nil},
		{`"kawa" OR NOT (mielona)`, nil},
		{`"kawa" (mielona)`, []int{1}},
	} {
		var want []string
		for _, n := range slices.Backward(test.want) {
			want = append(want, testNumber(n))
		}
		if got := search(t, d, test.text); !slices.Equal(got, want) {
			t.Errorf("%q finds %q, want %q", test.text, got, want)
		}
	}
	if words := strings.Fields(searchQuery(strings.Repeat("fv ", 100_000))); len(words) != maxSearchWords {
		t.Errorf("%d words are looked for, which would take minutes", len(words))
	}
	if numbers, err := d.Search(t.Context(), "fv", 1); err != nil || !slices.Equal(numbers, []string{testNumber(2)}) {
		t.Errorf("the last one is %q, %v", numbers, err)
	}
}

// An invoice that is read again is found by what it has now, and by nothing else.
func TestSearchForgets(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{searchable(0, "1", "Łąka", "młotek"), searchable(1, "2", "Łąka", "piła")}})
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{searchable(0, "1", "Łąka", "młotek")}}) // seen again
	if _, err := d.Reread(t.Context(), []Invoice{searchable(0, "1", "Łąka", "dłuto")}); err != nil {
		t.Fatal(err)
	}
	checkSearch(t, d)
	for text, want := range map[string][]string{"młotek": nil, "mlotek": nil, "dłuto": {testNumber(0)}, "dluto łąka": {testNumber(0)}, "laka": {testNumber(1), testNumber(0)}} {
		if got := search(t, d, text); !slices.Equal(got, want) {
			t.Errorf("%q finds %q, want %q", text, got, want)
		}
	}
}

// A document whose fields do not fit the database is found by what KSeF says of it.
func TestSearchOfWhatDoesNotFit(t *testing.T) {
	d := newTest(t)
	in := searchable(0, "FV/1", "Kupiec", "młotek")
	in.Document.Parties = append(in.Document.Parties, in.Document.Parties[1]) // of the same position
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{in}})
	checkSearch(t, d)
	if found, lost := search(t, d, "pralnia"), search(t, d, "młotek"); len(found) != 1 || lost != nil {
		t.Errorf("found %q by its name, %q by its line", found, lost)
	}
}

func TestListByText(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{searchable(0, "1", "Łąka", "młotek"), searchable(1, "2", "Łąka", "piła")}})
	for text, want := range map[string]int{"laka": 2, "laka mlot*": 1, "siekiera": 0, "-": 0, "": 2} {
		n := 0
		for _, err := range d.List(t.Context(), InvoiceFilter{Text: text, Role: "seller"}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("%q lists %d invoices, want %d", text, n, want)
		}
	}
}

// A reader's own queries, as README has them.
func TestSearchByReaders(t *testing.T) {
	d := newTest(t)
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{searchable(0, "FV/7/2026", "Huta Łabędy", "Młot"), searchable(1, "FV/8/2026", "Zakład", "Kowadło")}})
	dsn, err := ReaderDSN(d.path)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for query, want := range map[string]string{"łabędy młot": "FV/7/2026", "LABEDY mlot*": "FV/7/2026", "kowadlo OR siekiera": "FV/8/2026", "fv 8": "FV/8/2026", "2026 NOT mlot": "FV/8/2026"} {
		var got string
		err := reader.QueryRow("SELECT group_concat(invoice_number) FROM v_invoices WHERE id IN (SELECT rowid FROM invoice_search WHERE invoice_search MATCH ?)", query).Scan(&got)
		if err != nil || got != want {
			t.Errorf("%s finds %s, %v", query, got, err)
		}
	}
}

// What is one word for a search must be one for the index, in any script: it refuses
// two as a phrase.
func TestSearchOfEveryLetter(t *testing.T) {
	slow(t)
	d := newTest(t)
	var words []string
	for r := rune(1); r <= 0x10ffff; r++ {
		if beginsWord(r) || isDropped(r) {
			words = append(words, "a"+string(r)+"b")
		}
		if len(words) == maxSearchWords || r == 0x10ffff {
			search(t, d, strings.Join(words, " "))
			words = words[:0]
		}
	}
}

func FuzzSearch(f *testing.F) {
	for _, text := range []string{"kawa mielona", `"kawa`, "FV/12*", "a AND", "{x}:y", "NEAR(a b)", "^a + b", "\x00\xff", "-a", "e\u0301\u0301", strings.Repeat("ł ", 300), "*"} {
		f.Add(text)
	}
	d := newTest(f)
	commit(f, d, Batch{Role: "seller", Invoices: testInvoices(0, 3)})
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := d.Search(t.Context(), text, 1); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
