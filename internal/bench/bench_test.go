//go:build linux

package main

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/parse"
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
	if strings.Contains(table.String(), "NaN") || len(rows) != 32 {
		t.Errorf("%d rows:\n%s", len(rows), &table)
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
