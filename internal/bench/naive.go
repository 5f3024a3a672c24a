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
// after the other: an XPath from the root for each field, a file written as it
// comes, rows inserted by SQL that is prepared each time, in a transaction of
// their own and with SQLite's defaults.
//
// It does less than the pipeline: it checks no hash and keeps no copy of the XML in
// the database, its files are not made durable, and it reads about half of the
// fields. The XPaths are few enough for the package's cache of 50 expressions;
// with more of them it would take about twice as long for each.

// naiveFields are the columns of an invoice and where their values are.
var naiveFields = [][2]string{
	{"form_code", "//KodFormularza/@kodSystemowy"}, {"created_at", "//DataWytworzeniaFa"}, {"system_info", "//SystemInfo"},
	{"seller_nip", "//Podmiot1/DaneIdentyfikacyjne/NIP"}, {"seller_name", "//Podmiot1/DaneIdentyfikacyjne/Nazwa"},
	{"seller_address", "//Podmiot1/Adres/AdresL1"}, {"seller_town", "//Podmiot1/Adres/AdresL2"}, {"seller_email", "//Podmiot1/DaneKontaktowe/Email"},
	{"buyer_nip", "//Podmiot2/DaneIdentyfikacyjne/NIP"}, {"buyer_name", "//Podmiot2/DaneIdentyfikacyjne/Nazwa"},
	{"buyer_address", "//Podmiot2/Adres/AdresL1"}, {"buyer_town", "//Podmiot2/Adres/AdresL2"},
	{"third_nip", "//Podmiot3/DaneIdentyfikacyjne/NIP"}, {"third_name", "//Podmiot3/DaneIdentyfikacyjne/Nazwa"},
	{"currency", "//KodWaluty"}, {"issue_date", "//P_1"}, {"issue_place", "//P_1M"}, {"invoice_number", "//P_2"}, {"sale_date", "//P_6"},
	{"gross", "//P_15"}, {"cash_method", "//P_16"}, {"self_billing", "//P_17"}, {"reverse_charge", "//P_18"}, {"split_payment", "//P_18A"},
	{"exempt", "//P_19"}, {"invoice_type", "//RodzajFaktury"}, {"due_date", "//Termin"}, {"payment_method", "//FormaPlatnosci"},
	{"account", "//NrRB"}, {"order_number", "//NrZamowienia"},
}

// naiveLine are those of a line, below its element.
var naiveLine = [][2]string{
	{"number", "NrWierszaFa"}, {"name", "P_7"}, {"item_code", "Indeks"}, {"pkwiu", "PKWiU"}, {"unit", "P_8A"}, {"quantity", "P_8B"},
	{"price", "P_9A"}, {"net", "P_11"}, {"rate", "P_12"},
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
		CREATE INDEX invoices_seller ON invoices(seller_nip, issue_date);
		CREATE INDEX invoices_buyer ON invoices(buyer_nip, issue_date);
		CREATE INDEX invoices_number ON invoices(seller_nip, invoice_number);
		CREATE INDEX invoices_due ON invoices(due_date);
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
	for _, line := range xmlquery.Find(root, "//FaWiersz") {
		values := []any{id}
		for _, field := range naiveLine {
			values = append(values, text(line, field[1]))
		}
		if _, err := tx.ExecContext(ctx, naiveInsert("lines(invoice_id", naiveLine), values...); err != nil {
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
