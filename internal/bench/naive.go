//go:build linux

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
// It looks for the fields of FA(3) that the pipeline reads, and stores as many rows
// and the XML. Otherwise it does less: it knows no form but FA(3), checks no hash
// and no value, keeps none of KSeF's metadata, does not compress, and does not make
// its files durable. What could be called the library's trap is not counted
// against it: by default it keeps 50 XPaths compiled, and compiles any other each
// time; here it keeps them all.

// keptXPaths are more than the naive way has.
const keptXPaths = 500

// naiveFields are the columns of an invoice and where their values are.
var naiveFields = [][2]string{
	{"form_code", "//KodFormularza/@kodSystemowy"}, {"form_version", "//KodFormularza/@wersjaSchemy"}, {"created_at", "//DataWytworzeniaFa"},
	{"system_info", "//SystemInfo"}, {"invoice_type", "//RodzajFaktury"}, {"invoice_number", "//P_2"}, {"issue_date", "//P_1"},
	{"issue_place", "//P_1M"}, {"sale_date", "//P_6"}, {"period_from", "//P_6_Od"}, {"period_to", "//P_6_Do"}, {"currency", "//KodWaluty"},
	{"exchange_rate", "//KursWalutyZ"}, {"gross", "//P_15"}, {"to_pay", "//DoZaplaty"}, {"to_settle", "//DoRozliczenia"},
	{"charges", "//SumaObciazen"}, {"deductions", "//SumaOdliczen"}, {"cash_method", "//P_16"}, {"self_billing", "//P_17"},
	{"reverse_charge", "//P_18"}, {"split_payment", "//P_18A"}, {"exempt", "//P_19"}, {"exempt_a", "//P_19A"}, {"exempt_b", "//P_19B"},
	{"exempt_c", "//P_19C"}, {"new_transport", "//P_22"}, {"triangular", "//P_23"}, {"margin_travel", "//P_PMarzy_2"},
	{"margin_used", "//P_PMarzy_3_1"}, {"margin_art", "//P_PMarzy_3_2"}, {"margin_antiques", "//P_PMarzy_3_3"}, {"cash_register", "//FP"},
	{"related_parties", "//TP"}, {"excise_refund", "//ZwrotAkcyzy"}, {"buyer_local_gov", "//JST"}, {"buyer_vat_group", "//GV"},
	{"correction_reason", "//PrzyczynaKorekty"}, {"correction_effect", "//TypKorekty"}, {"correction_period", "//OkresFaKorygowanej"},
	{"corrected_number_fixed", "//NrFaKorygowany"}, {"amount_before", "//P_15ZK"}, {"exchange_rate_before", "//KursWalutyZK"},
	{"paid", "//Zaplacono"}, {"paid_date", "//DataZaplaty"}, {"paid_in_part", "//ZnacznikZaplatyCzesciowej"}, {"due_date", "//Termin"},
	{"payment_method", "//FormaPlatnosci"}, {"payment_method_text", "//OpisPlatnosci"}, {"payment_ksef_id", "//IPKSeF"},
	{"payment_link", "//LinkDoPlatnosci"}, {"discount_terms", "//WarunkiSkonta"}, {"discount_amount", "//WysokoscSkonta"},
}

// naiveParties are the elements of parties.
var naiveParties = []string{"//Podmiot1", "//Podmiot2", "//Podmiot3", "//PodmiotUpowazniony", "//Podmiot1K", "//Podmiot2K"}

// naiveParty are the columns of a party, below its element.
var naiveParty = [][2]string{
	{"nip", "DaneIdentyfikacyjne/NIP"}, {"internal_id", "DaneIdentyfikacyjne/IDWew"}, {"eu_country", "DaneIdentyfikacyjne/KodUE"},
	{"eu_number", "DaneIdentyfikacyjne/NrVatUE"}, {"id_country", "DaneIdentyfikacyjne/KodKraju"}, {"other_id", "DaneIdentyfikacyjne/NrID"},
	{"no_id", "DaneIdentyfikacyjne/BrakID"}, {"name", "DaneIdentyfikacyjne/Nazwa"}, {"country", "Adres/KodKraju"}, {"address1", "Adres/AdresL1"},
	{"address2", "Adres/AdresL2"}, {"gln", "Adres/GLN"}, {"mail_country", "AdresKoresp/KodKraju"}, {"mail_address1", "AdresKoresp/AdresL1"},
	{"mail_address2", "AdresKoresp/AdresL2"}, {"email", "DaneKontaktowe/Email"}, {"phone", "DaneKontaktowe/Telefon"}, {"eori", "NrEORI"},
	{"role_code", "Rola"}, {"role_text", "OpisRoli"}, {"share_percent", "Udzial"}, {"customer_number", "NrKlienta"}, {"link_key", "IDNabywcy"},
	{"taxpayer_status", "StatusInfoPodatnika"},
}

// naiveLine are those of a line.
var naiveLine = [][2]string{
	{"number", "NrWierszaFa"}, {"uid", "UU_ID"}, {"sale_date", "P_6A"}, {"name", "P_7"}, {"item_code", "Indeks"}, {"gtin", "GTIN"},
	{"pkwiu", "PKWiU"}, {"cn", "CN"}, {"pkob", "PKOB"}, {"unit", "P_8A"}, {"quantity", "P_8B"}, {"price_net", "P_9A"}, {"price_gross", "P_9B"},
	{"discount", "P_10"}, {"net", "P_11"}, {"gross", "P_11A"}, {"vat", "P_11Vat"}, {"rate", "P_12"}, {"oss_rate", "P_12_XII"},
	{"annex15", "P_12_Zal_15"}, {"excise", "KwotaAkcyzy"}, {"gtu", "GTU"}, {"procedure", "Procedura"}, {"exchange_rate", "KursWaluty"},
	{"before_correction", "StanPrzed"},
}

// naiveRates are the fields of the VAT summary; "" where there is no VAT.
var naiveRates = [][2]string{
	{"//P_13_1", "//P_14_1"}, {"//P_13_2", "//P_14_2"}, {"//P_13_3", "//P_14_3"}, {"//P_13_4", "//P_14_4"}, {"//P_13_5", "//P_14_5"},
	{"//P_13_6_1", ""}, {"//P_13_6_2", ""}, {"//P_13_6_3", ""}, {"//P_13_7", ""}, {"//P_13_8", ""}, {"//P_13_9", ""}, {"//P_13_10", ""}, {"//P_13_11", ""},
}

func naive(ctx context.Context, j mirrorJob) (measured, error) {
	began := time.Now()
	before, err := used()
	if err != nil {
		return measured{}, err
	}
	xmlquery.SelectorCacheMaxEntries = keptXPaths
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
	_, err := pool.ExecContext(ctx, `CREATE TABLE invoices(id INTEGER PRIMARY KEY, ksef_number TEXT UNIQUE, path TEXT, xml BLOB, `+columns(naiveFields)+`);
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

func (forgetful) StartRequest(_ context.Context, _ string, _ int64, _ []int64, admit ksef.Admit) (int64, error) {
	if admit(nil, nil).IsZero() {
		return 0, nil
	}
	return 1, nil
}
func (forgetful) EndRequest(context.Context, int64, time.Time) error   { return nil }
func (forgetful) BlockGroup(context.Context, string, time.Time) error  { return nil }
func (forgetful) Blocks(context.Context) (map[string]time.Time, error) { return nil, nil }
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
		if path == "" {
			return ""
		}
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
	values := []any{number, path, xml}
	for _, field := range naiveFields {
		values = append(values, text(root, field[1]))
	}
	result, err := tx.ExecContext(ctx, naiveInsert("invoices(ksef_number, path, xml", naiveFields), values...)
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
