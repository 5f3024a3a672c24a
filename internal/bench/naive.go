package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/antchfx/xmlquery"
	_ "modernc.org/sqlite"

	"ksefmirror/internal/ksef"
)

// The naive way to do the same: the whole package in memory, then one invoice
// after the other: an XPath for each field, a file written as it comes, rows
// inserted by SQL that is prepared each time, in a transaction of their own and
// with SQLite's defaults.
//
// It stores as many rows as the pipeline, and of each the fields that the measured
// invoices have, but not those that they lack and the pipeline looks for. It does
// less besides: it checks no hash, keeps no copy of the XML and of KSeF's metadata
// in the database, and its files are not made durable. Its XPaths are no more than
// the 50 that their package keeps compiled: with more, it would compile each one
// again each time.

// naiveFields are the columns of an invoice and where their values are.
var naiveFields = [][2]string{
	{"form_code", "//KodFormularza/@kodSystemowy"}, {"created_at", "//DataWytworzeniaFa"}, {"system_info", "//SystemInfo"},
	{"currency", "//KodWaluty"}, {"issue_date", "//P_1"}, {"issue_place", "//P_1M"}, {"invoice_number", "//P_2"}, {"sale_date", "//P_6"},
	{"gross", "//P_15"}, {"cash_method", "//P_16"}, {"self_billing", "//P_17"}, {"reverse_charge", "//P_18"}, {"split_payment", "//P_18A"},
	{"not_exempt", "//P_19N"}, {"no_transport", "//P_22N"}, {"triangular", "//P_23"}, {"invoice_type", "//RodzajFaktury"},
	{"due_date", "//Termin"}, {"payment_method", "//FormaPlatnosci"}, {"local_government", "//JST"}, {"vat_group", "//GV"},
}

// naiveParties are the elements of parties.
var naiveParties = []string{"//Podmiot1", "//Podmiot2"}

// naiveParty are the columns of a party, below its element.
var naiveParty = [][2]string{
	{"nip", "DaneIdentyfikacyjne/NIP"}, {"name", "DaneIdentyfikacyjne/Nazwa"}, {"country", "Adres/KodKraju"},
	{"address1", "Adres/AdresL1"}, {"address2", "Adres/AdresL2"}, {"email", "DaneKontaktowe/Email"}, {"phone", "DaneKontaktowe/Telefon"},
}

// naiveLine are those of a line.
var naiveLine = [][2]string{
	{"number", "NrWierszaFa"}, {"uid", "UU_ID"}, {"name", "P_7"}, {"item_code", "Indeks"}, {"pkwiu", "PKWiU"}, {"unit", "P_8A"},
	{"quantity", "P_8B"}, {"price", "P_9A"}, {"net", "P_11"}, {"rate", "P_12"}, {"gtu", "GTU"},
}

// naiveRates are the fields of the VAT summary.
var naiveRates = [][2]string{{"//P_13_1", "//P_14_1"}, {"//P_13_2", "//P_14_2"}, {"//P_13_3", "//P_14_3"}}

func naive(ctx context.Context, j mirrorJob) (measured, error) {
	began := time.Now()
	before, err := used()
	if err != nil {
		return measured{}, err
	}
	if err := os.MkdirAll(j.Dir, 0o750); err != nil {
		return measured{}, err
	}
	database := filepath.Join(j.Dir, "naive.db")
	pool, err := sql.Open("sqlite", database)
	if err != nil {
		return measured{}, err
	}
	defer pool.Close()
	if err := createNaiveTables(ctx, pool); err != nil {
		return measured{}, err
	}
	remote := &timedRemote{}
	archive, err := naiveDownload(ctx, j, remote)
	if err != nil {
		return measured{}, err
	}
	stored, err := naiveStore(ctx, archive, j.Dir, pool)
	if err != nil {
		return measured{}, err
	}
	if stored != j.Count {
		return measured{}, fmt.Errorf("%d invoices were stored, not %d", stored, j.Count)
	}
	return since(began, before, remote.waited, stored, database)
}

func createNaiveTables(ctx context.Context, pool *sql.DB) error {
	columns := func(fields [][2]string) string {
		names := make([]string, len(fields))
		for i, f := range fields {
			names[i] = f[0] + " TEXT"
		}
		return strings.Join(names, ", ")
	}
	_, err := pool.ExecContext(ctx, `CREATE TABLE invoices(id INTEGER PRIMARY KEY, ksef_number TEXT UNIQUE, path TEXT, `+columns(naiveFields)+`);
		CREATE INDEX invoices_issued ON invoices(issue_date);
		CREATE INDEX invoices_number ON invoices(invoice_number);
		CREATE INDEX invoices_due ON invoices(due_date);
		CREATE TABLE parties(id INTEGER PRIMARY KEY, invoice_id INTEGER, `+columns(naiveParty)+`);
		CREATE INDEX parties_invoice ON parties(invoice_id);
		CREATE INDEX parties_nip ON parties(nip);
		CREATE TABLE lines(id INTEGER PRIMARY KEY, invoice_id INTEGER, `+columns(naiveLine)+`);
		CREATE INDEX lines_invoice ON lines(invoice_id);
		CREATE TABLE vat(invoice_id INTEGER, net TEXT, vat TEXT);
		CREATE INDEX vat_invoice ON vat(invoice_id)`)
	return err
}

// naiveDownload gives the archive of the one package.
func naiveDownload(ctx context.Context, j mirrorJob, remote *timedRemote) ([]byte, error) {
	c := &clock{}
	remote.Client = client(j.URL, c, forgetful{})
	key := ksef.NewExportKey()
	reference, err := remote.StartExport(ctx, everything(c), false, key)
	if err != nil {
		return nil, err
	}
	status, err := remote.ExportStatus(ctx, reference)
	if err != nil {
		return nil, err
	}
	if status.Package == nil {
		return nil, errors.New("there is no package")
	}
	var archive bytes.Buffer
	for _, part := range status.Package.Parts {
		if err := remote.DownloadPart(ctx, part, key, &archive); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), nil
}

// everything selects all invoices of a simulator.
func everything(c *clock) ksef.Query {
	return ksef.Query{SubjectType: ksef.Buyer, From: ksef.NewTimestamp(c.Now().Add(-span - 24*time.Hour))}
}

// forgetful is a request log for one run without limits.
type forgetful struct{}

func (forgetful) StartRequest(context.Context, string, time.Time) (int64, error) { return 0, nil }
func (forgetful) EndRequest(context.Context, int64, time.Time) error             { return nil }
func (forgetful) BlockGroup(context.Context, string, time.Time) error            { return nil }
func (forgetful) Blocks(context.Context) (map[string]time.Time, error)           { return nil, nil }
func (forgetful) Requests(context.Context, time.Time) ([]ksef.LoggedRequest, error) {
	return nil, nil
}

func naiveStore(ctx context.Context, archive []byte, dir string, pool *sql.DB) (stored int, err error) {
	raw, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return 0, err
	}
	for files := tar.NewReader(raw); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return stored, nil
		}
		if err != nil {
			return stored, err
		}
		number, isInvoice := strings.CutSuffix(header.Name, ".xml")
		if !isInvoice {
			continue
		}
		xml, err := io.ReadAll(files)
		if err != nil {
			return stored, err
		}
		if err := naiveOne(ctx, number, xml, dir, pool); err != nil {
			return stored, err
		}
		stored++
	}
}

func naiveOne(ctx context.Context, number string, xml []byte, dir string, pool *sql.DB) error {
	root, err := xmlquery.Parse(bytes.NewReader(xml))
	if err != nil {
		return err
	}
	text := func(from *xmlquery.Node, path string) string {
		if found := xmlquery.FindOne(from, path); found != nil {
			return found.InnerText()
		}
		return ""
	}
	folder := filepath.Join(dir, text(root, "//P_1"))
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	path := filepath.Join(folder, number+".xml")
	if err := os.WriteFile(path, xml, 0o600); err != nil {
		return err
	}

	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	values := []any{number, path}
	for _, field := range naiveFields {
		values = append(values, text(root, field[1]))
	}
	result, err := tx.ExecContext(ctx, naiveInsert("invoices(ksef_number, path", naiveFields), values...)
	if err != nil {
		return err
	}
	id, err := result.LastInsertId()
	if err != nil {
		return err
	}
	insert := func(table string, of *xmlquery.Node, fields [][2]string) error {
		values := []any{id}
		for _, field := range fields {
			values = append(values, text(of, field[1]))
		}
		_, err := tx.ExecContext(ctx, naiveInsert(table+"(invoice_id", fields), values...)
		return err
	}
	for _, element := range naiveParties {
		if party := xmlquery.FindOne(root, element); party != nil {
			if err := insert("parties", party, naiveParty); err != nil {
				return err
			}
		}
	}
	for _, line := range xmlquery.Find(root, "//FaWiersz") {
		if err := insert("lines", line, naiveLine); err != nil {
			return err
		}
	}
	for _, rate := range naiveRates {
		if net := text(root, rate[0]); net != "" {
			if _, err := tx.ExecContext(ctx, "INSERT INTO vat(invoice_id, net, vat) VALUES(?, ?, ?)", id, net, text(root, rate[1])); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// naiveInsert completes the beginning of a list of columns to a statement.
func naiveInsert(begun string, fields [][2]string) string {
	columns := begun
	for _, f := range fields {
		columns += ", " + f[0]
	}
	return "INSERT INTO " + columns + ") VALUES(?" + strings.Repeat(", ?", strings.Count(columns, ",")) + ")"
}
