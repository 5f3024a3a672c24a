package db

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/parse"
)

// newest is the schema version of this program.
func newest(t *testing.T) int {
	t.Helper()
	return len(testSettings(t).migrations)
}

// migrated opens the database at path with further migrations and a fixed date.
func migrated(t *testing.T, path string, further ...string) (*DB, error) {
	t.Helper()
	set := testSettings(t)
	set.migrations = append(set.migrations, further...)
	set.now = func() time.Time { return time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC) }
	return open(t.Context(), path, testMirror, discard(), set)
}

func TestMigrate(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "invoices.db")
	old, err := migrated(t, path)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, old, Batch{Role: "seller", Invoices: testInvoices(0, 20), Watermark: "w"})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	version := newest(t)
	backup := func(version int) string { return fmt.Sprintf("invoices-version-%d-2026-11-22.db", version) }
	if err := os.WriteFile(filepath.Join(folder, backup(version)+".partial"), []byte("of a crash"), 0o600); err != nil {
		t.Fatal(err)
	}

	second, third := "ALTER TABLE invoices ADD COLUMN note TEXT; UPDATE invoices SET note = 'n'", "CREATE TABLE notes(x TEXT) STRICT"
	d, err := migrated(t, path, second, third)
	if err != nil {
		t.Fatal(err)
	}
	if d.Created() {
		t.Error("a migrated database is not a created one")
	}
	if got := value[int](t, d, "PRAGMA user_version"); got != version+2 {
		t.Errorf("version %d", got)
	}
	if n := value[int](t, d, "SELECT count(*) FROM invoices WHERE note = 'n'"); n != 20 {
		t.Errorf("%d rows migrated", n)
	}
	pool, err := connect(filepath.Join(folder, backup(version)), readOnly, time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var got, application, rows int
	var check string
	err = pool.QueryRow(`SELECT (SELECT user_version FROM pragma_user_version), (SELECT application_id FROM pragma_application_id),
		(SELECT count(*) FROM documents), (SELECT quick_check FROM pragma_quick_check)`).Scan(&got, &application, &rows, &check)
	if err != nil || got != version || application != applicationID || rows != 20 || check != "ok" {
		t.Errorf("backup: version %d, application %#x, %d rows, check %s, %v", got, application, rows, check, err)
	}
	if _, err := os.Stat(filepath.Join(folder, backup(version+1))); err == nil {
		t.Error("each step was backed up")
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".partial") {
			t.Errorf("%s is left", entry.Name())
		}
	}

	// The older program keeps its hands off, and so does an older reader.
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*DB, error){
		"Open":         func() (*DB, error) { return Open(t.Context(), path, testMirror, discard()) },
		"OpenReadOnly": func() (*DB, error) { return OpenReadOnly(t.Context(), path) },
	} {
		older, err := open()
		if err == nil {
			t.Fatal(name, "opened a newer database", older.Close())
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("version %d", version+2)) || !strings.Contains(err.Error(), fmt.Sprintf("up to %d", version)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMigrationFailsAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	old, err := migrated(t, path)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, old, Batch{Role: "seller", Invoices: testInvoices(0, 3)})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := migrated(t, path, "CREATE TABLE half(x) STRICT; SELECT nothing FROM nowhere")
	if err == nil {
		t.Fatal("migrated", d.Close())
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("migrate to version %d", newest(t)+1)) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	d = openTest(t, path) // at its version as before
	if n := value[int](t, d, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"); n != 0 {
		t.Error("half of a migration is left")
	}
	if n := value[int](t, d, "SELECT count(*) FROM documents"); n != 3 {
		t.Errorf("%d documents", n)
	}
}

func TestOldDatabaseIsNotReadBeforeItIsMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	openTest(t, path)
	pool, err := sql.Open("sqlite", fileURI(filepath.ToSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.ExecContext(context.Background(), "PRAGMA user_version = 0"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(t.Context(), path); err == nil || !strings.Contains(err.Error(), "start the daemon") {
		t.Errorf("error %v", err)
	}
}

// Two processes that start at once must not both migrate.
func TestMigrationByAnotherProcess(t *testing.T) {
	d := newTest(t)
	err := d.migrate(t.Context(), 0, []string{"CREATE TABLE again(x) STRICT"}, testMirror)
	if err == nil || !strings.Contains(err.Error(), "only one instance") {
		t.Errorf("error %v", err)
	}
	if n := value[int](t, d, "SELECT count(*) FROM sqlite_schema WHERE name = 'again'"); n != 0 {
		t.Error("it migrated all the same")
	}
}

// databaseOf makes a database of an older version: its statements are not those that
// the program prepares now.
func databaseOf(t *testing.T, path string, version int) *sql.DB {
	t.Helper()
	pool, err := connect(path, readWrite, time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range testSettings(t).migrations[:version] {
		if _, err := tx.ExecContext(t.Context(), script); err != nil {
			t.Fatal(err)
		}
	}
	if err := initialise(t.Context(), tx, testMirror); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return pool
}

// What version 3 stored is there after the place of the metadata, and the tables of
// lines and VAT, have changed, and what is stored now beside it.
func TestMigrateFromVersion3(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	old := databaseOf(t, path, 3)
	in := testInvoice(0)
	sum := sha256.Sum256(in.XML)
	compressor, err := newCompressor(invoiceDictionary)
	if err != nil {
		t.Fatal(err)
	}
	for _, insert := range []struct {
		text   string
		values []any
	}{
		{`INSERT INTO dictionaries(id, sha256, content) VALUES(1, ?, ?)`, []any{[]byte("of the dictionary"), invoiceDictionary}},
		{`INSERT INTO invoices(id, ksef_number, stored_at, invoice_hash, form, xml_path, parse_status, metadata_json, first_seen_at, updated_at)
			VALUES(7, ?, ?, ?, 'FA', 'x.xml', 'ok', ?, '', '')`, []any{in.KSeFNumber, moment(in.StoredAt), in.Hash, string(in.MetadataJSON)}},
		{`INSERT INTO invoice_roles(invoice_id, role) VALUES(7, 'seller')`, nil},
		{`INSERT INTO documents(invoice_id, dictionary, size, sha256, xml_zstd) VALUES(7, 1, ?, ?, ?)`,
			[]any{len(in.XML), sum[:], compressor.EncodeAll(in.XML, nil)}},
		{`INSERT INTO parties(invoice_id, party, position, name) VALUES(7, 'seller', 1, 'S')`, nil},
		{`INSERT INTO invoice_lines(invoice_id, kind, position, before_correction, annex15, name, exchange_rate) VALUES(7, 'order', 1, 0, 1, 'O', '4.2'), (7, 'line', 2, 1, 0, 'B', NULL), (7, 'line', 1, 0, 0, 'A', NULL)`, nil},
		{`INSERT INTO vat_summary(invoice_id, bucket, source_field, net_minor) VALUES(7, 'standard', 'P_13_1', 5)`, nil},
	} {
		if _, err := old.Exec(insert.text, insert.values...); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := migrated(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(1, 3)})
	n := 0
	for listed, err := range d.Listed(t.Context(), "seller", testInvoice(0).StoredAt, testInvoice(2).StoredAt) {
		want := testInvoice(n)
		if err != nil || listed.KSeFNumber != want.KSeFNumber || string(listed.MetadataJSON) != string(want.MetadataJSON) {
			t.Errorf("%d is %s with metadata %q, %v", n, listed.KSeFNumber, listed.MetadataJSON, err)
		}
		if xml, err := d.Document(t.Context(), want.KSeFNumber); err != nil || !bytes.Equal(xml, want.XML) {
			t.Errorf("document %d: %v", n, err)
		}
		n++
	}
	if n != 3 || value[int](t, d, "SELECT count(*) FROM v_invoices") != 3 {
		t.Errorf("%d invoices", n)
	}
	checkSearch(t, d)
	if found := search(t, d, "a b o"); len(found) != 1 || found[0] != in.KSeFNumber {
		t.Errorf("by its lines it finds %q", found)
	}
	for query, want := range map[string]string{
		"SELECT group_concat(kind || position || name || before_correction || annex15 || coalesce(exchange_rate, ''), ' ' ORDER BY kind, position) FROM v_lines WHERE invoice_id = 7": "line1A00 line2B10 order1O014.2",
		"SELECT bucket || net_minor FROM vat_summary WHERE invoice_id = 7":                   "standard5",
		"SELECT party || name || (trade_name IS NULL) FROM parties WHERE invoice_id = 7":     "sellerS1",
		"SELECT group_concat(DISTINCT parser_version ORDER BY parser_version) FROM invoices": fmt.Sprintf("1,%d", parse.Version),
	} {
		if got := value[string](t, d, query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if n := value[int](t, d, "SELECT count(*) FROM pragma_foreign_key_check"); n != 0 {
		t.Errorf("%d broken references", n)
	}
}

// The references that version 5 stored are resolved, and go on being so.
func TestMigrateFromVersion5(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	old := databaseOf(t, path, 5)
	for _, insert := range []string{
		`INSERT INTO invoices(id, ksef_number, form, invoice_type, is_correction, seller_nip, invoice_number, issue_date, currency, gross_minor,
			stored_at, invoice_hash, xml_path, parse_status, metadata_json, first_seen_at, updated_at) VALUES
			(1, 'F', 'FA', 'VAT', 0, '5265877635', 'FV/1', '2026-01-05', 'PLN', 10000, '', '', '', 'ok', '', '', ''),
			(2, 'Z', 'FA', 'ZAL', 0, '5265877635', 'Z/1', '2026-01-05', 'PLN', 300, '', '', '', 'ok', '', '', ''),
			(3, 'K', 'FA', 'KOR', 1, '5265877635', 'K/1', '2026-01-06', 'PLN', -100, '', '', '', 'ok', '', '', ''),
			(4, 'R', 'FA', 'ROZ', 0, '5265877635', 'R/1', '2026-01-07', 'PLN', 700, '', '', '', 'ok', '', '', '')`,
		`INSERT INTO invoice_references(invoice_id, relation, position, ksef_number, number, issue_date, outside_ksef) VALUES
			(3, 'corrects', 1, 'F', 'FV/1', '2026-01-05', 0), (3, 'corrects', 2, NULL, 'FV/1', '2026-01-05', 1),
			(3, 'corrects', 3, NULL, 'FV/1/2026', '2026-11-05', 1), (4, 'settles_advance', 1, NULL, 'Z/1', NULL, 1)`,
	} {
		if _, err := old.Exec(insert); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := migrated(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(1, 2)}) // the one that was missing
	for query, want := range map[string]string{
		"SELECT group_concat(ksef_number || position || coalesce(corrected_ksef_number, candidates), ' ' ORDER BY position) FROM v_corrections": "K1F K2F K3" + testNumber(1),
		"SELECT ksef_number || position || advance_ksef_number FROM v_advances":                                                                 "R1Z",
		"SELECT group_concat(ksef_number, ' ' ORDER BY step) FROM v_chain WHERE original_ksef_number = 'F'":                                     "F K",
	} {
		if got := value[string](t, d, query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if n := value[int](t, d, "SELECT count(*) FROM pragma_foreign_key_check"); n != 0 {
		t.Errorf("%d broken references", n)
	}
}

// Of what version 11 stored, invoices with an amount that is not read any more are read
// again, wherever it stands.
func TestMigrateRereadsAbsurdAmounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	old := databaseOf(t, path, 11)
	for _, insert := range []string{
		`INSERT INTO invoices(id, ksef_number, form, gross_minor, net_pln_minor, parser_version, stored_at, invoice_hash, xml_path, parse_status, metadata_json, first_seen_at, updated_at) VALUES
			(1, 'usual', 'FA', 10000, NULL, 2, '', '', '', 'ok', '', '', ''), (2, 'gross', 'FA', -9000000000000000000, NULL, 2, '', '', '', 'ok', '', '', ''),
			(3, 'largest', 'FA', 900000000000000, -900000000000000, 2, '', '', '', 'ok', '', '', ''), (4, 'PLN', 'FA', 1, 900000000000001, 2, '', '', '', 'ok', '', '', ''),
			(5, 'VAT', 'FA', 1, NULL, 2, '', '', '', 'ok', '', '', ''), (6, 'payment', 'FA', 1, NULL, 2, '', '', '', 'ok', '', '', '')`,
		`INSERT INTO vat_summary(invoice_id, bucket, net_minor, vat_minor) VALUES (1, 'standard', 5, 1), (5, 'standard', 5, 900000000000001)`,
		`INSERT INTO payments(invoice_id, kind, position, amount_minor) VALUES (1, 'paid', 1, 5), (6, 'paid', 1, 5), (6, 'paid', 2, -900000000000001)`,
	} {
		if _, err := old.Exec(insert); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := migrated(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := value[string](t, d, "SELECT group_concat(ksef_number, ' ' ORDER BY id) FROM invoices WHERE parser_version = 0"); got != "gross PLN VAT payment" {
		t.Errorf("%q are read again", got)
	}
}
