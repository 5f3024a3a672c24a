//go:build linux

package main

import (
	"bytes"
	"database/sql"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/parse"
	ksefsync "ksefmirror/sync"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Everything is measured, on sizes that tell nothing: the programme must not rot.
func TestMeasureAll(t *testing.T) {
	if testing.Short() {
		t.Skip("processes of their own, which the race detector would not look into")
	}
	var progress, table bytes.Buffer
	b := &bench{sizes: sizes{Rounds: 1, Package: 100, Naive: 20, Backlog: 200, Held: 3, Mirrors: 3, Rest: time.Second, Cycles: 7}, dir: t.TempDir(), progress: &progress}
	rows, err := b.measureAll(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	printTable(&table, rows)
	t.Logf("\n%s\n%s", &progress, &table)
	if strings.Contains(table.String(), "NaN") || len(rows) != 43 {
		t.Errorf("%d rows:\n%s", len(rows), &table)
	}
	for _, r := range rows {
		if strings.Contains(r.what, "v_corrections") && strings.Contains(r.found, " 0 rows") {
			t.Errorf("%s: %s", r.what, r.found)
		}
	}

	// The naive way must have done what it is measured for.
	naive, err := sql.Open("sqlite", filepath.Join(b.dir, "2", "naive.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer naive.Close()
	var invoices, parties, lines, rates int
	err = naive.QueryRow(`SELECT (SELECT count(*) FROM invoices WHERE gross <> '' AND length(xml) > 5000), (SELECT count(*) FROM parties WHERE nip <> ''),
		(SELECT count(*) FROM lines WHERE net <> ''), (SELECT count(*) FROM vat WHERE vat <> '')`).Scan(&invoices, &parties, &lines, &rates)
	if err != nil || invoices != b.Naive || parties != 2*b.Naive || lines != 5*b.Naive || rates != 3*b.Naive {
		t.Errorf("the naive way stored %d invoices, %d parties, %d lines and %d rates, %v", invoices, parties, lines, rates, err)
	}
}

// Each copy of a mirror's invoices must name those of its own.
func TestMultiply(t *testing.T) {
	if testing.Short() {
		t.Skip("processes of their own, which the race detector would not look into")
	}
	b := &bench{dir: t.TempDir()}
	small, large := b.folder(), b.folder()
	err := b.with(t.Context(), scenario{Invoices: 100, Shape: shapeRelated}, func(sim *simulator) error {
		if _, err := measure[measured](t.Context(), "mirror", mirrorJob{URL: sim.url, Dir: small, Count: 100}); err != nil {
			return err
		}
		multiplying, err := command(t.Context(), "multiply", multiplication{From: small, To: large, Times: 3})
		if err != nil {
			return err
		}
		return multiplying.Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	named := func(folder string) (invoices, references int) {
		pool, err := sql.Open("sqlite", "file://"+ksefsync.DatabasePath(folder)+"?mode=ro")
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		err = pool.QueryRow(`SELECT (SELECT count(*) FROM invoices), (SELECT count(*) FROM invoice_references r JOIN invoices i ON i.id = r.invoice_id
			JOIN invoices t ON t.id = r.target_id AND t.seller_nip = i.seller_nip AND (t.id - 1) / 100 = (i.id - 1) / 100)`).Scan(&invoices, &references)
		if err != nil {
			t.Fatal(err)
		}
		return invoices, references
	}
	_, few := named(small)
	if invoices, many := named(large); invoices != 300 || few < 5 || many != 3*few {
		t.Errorf("%d references of 100 invoices, %d of %d", few, many, invoices)
	}
}

// What is measured must be invoices as the bounds speak of them, and read whole.
func TestInvoices(t *testing.T) {
	for name, test := range map[string]struct {
		shape
		size int
	}{"6 KB": {shape6K, 6_000}, "60 KB": {shape60K, 60_000}, "130 KB": {shape130K, 130_000}} {
		xml := invoice(identify(7, time.Now()), test.shape)
		if len(xml) < test.size*9/10 || len(xml) > test.size*11/10 {
			t.Errorf("%s: %d bytes", name, len(xml))
		}
		document, err := parse.Parse(xml)
		if err != nil || len(document.Lines) != test.Lines || len(document.VATRows) != 3 || len(document.Parties) != 2 || len(document.Warnings) != 0 {
			t.Errorf("%s: %d lines, warnings %q, %v", name, len(document.Lines), document.Warnings, err)
		}
	}
}

// Those that name others must name them as they are, in all the ways that there are.
func TestRelatedInvoices(t *testing.T) {
	all := invoices(200, shapeRelated, time.Now())
	byKSeFNumber, byNumber := make(map[string]*parse.Document), make(map[string]*parse.Document)
	key := func(nip, number, date string) string { return nip + " " + number + " " + date }
	counts := make(map[string]int)
	for _, in := range all {
		document, err := parse.Parse(in.XML)
		if err != nil || len(document.Warnings) != 0 {
			t.Fatalf("%s: warnings %q, %v", in.Number, document.Warnings, err)
		}
		counts[document.InvoiceType]++
		for _, r := range document.References {
			found, way := byNumber[key(document.Parties[0].NIP, r.Number, r.IssueDate)], "by its number"
			if r.KSeFNumber != "" {
				found, way = byKSeFNumber[r.KSeFNumber], "by its KSeF number"
			}
			if found == nil {
				way += ", not there"
			} else if want := map[string]string{"corrects": "VAT", "settles_advance": "ZAL"}[r.Relation]; found.InvoiceType != want {
				t.Errorf("%s %s a %s", in.Number, r.Relation, found.InvoiceType)
			}
			counts[r.Relation+" "+way]++
		}
		byKSeFNumber[string(in.Number)] = document
		byNumber[key(document.Parties[0].NIP, document.InvoiceNumber, document.IssueDate)] = document
	}
	want := map[string]int{
		"VAT": 187, "KOR": 9, "ZAL": 2, "ROZ": 2,
		"settles_advance by its KSeF number": 2, "corrects by its KSeF number": 9, "corrects by its number": 2, "corrects by its number, not there": 2,
	}
	if !maps.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
}
