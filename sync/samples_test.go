package sync_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// columns are the columns of v_invoices that expected.json states, by its key.
// What expected.json says in other shapes (lists, lines) the parser's own test
// compares; here it is that the values reach the reader.
var columns = map[string]string{
	"form_code": "form_code", "schema_version": "form_version", "namespace": "xml_namespace",
	"created_at": "created_at", "system_info": "system_info", "invoice_type": "invoice_type",
	"invoice_number": "invoice_number", "issue_date": "issue_date", "issue_place": "issue_place",
	"sale_date": "sale_date", "period_from": "period_from", "period_to": "period_to", "currency": "currency",
	"gross": "gross", "net_total": "net", "vat_total": "vat", "exchange_rate_header": "exchange_rate",
	"seller_nip": "seller_nip", "seller_name": "seller_name", "seller_country": "seller_country",
	"buyer_id_kind": "buyer_id_type", "buyer_name": "buyer_name", "buyer_country": "buyer_country",
	"correction_reason": "correction_reason", "correction_type": "correction_effect", "correction_period": "correction_period",
	"corrected_number_fixed": "corrected_number_fixed", "line_count": "line_count",
}

// Every official sample, whatever its form, arrives byte for byte in folder and
// database, and what FA(2) and FA(3) state reaches the view (Show 2).
func TestOfficialSamples(t *testing.T) {
	slow(t)
	dir := filepath.Join("..", "..", "shared", "ksef", "samples")
	text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Skipf("the official samples are not at %s, so nothing is compared with them", dir)
	}
	var expected map[string]map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&expected); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, ksefsim.Options{Everyone: company})
	samples, err := ksefsim.LoadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != len(expected) {
		t.Errorf("%d samples, %d expected", len(samples), len(expected))
	}
	for i := range samples {
		samples[i].Stored = start.Add(time.Duration(i-100) * time.Minute)
	}
	numbers := w.add(samples...)
	w.mustCycle()
	w.complete()

	dsn, err := db.ReaderDSN(ksefsync.DatabasePath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	compared := 0
	for i, number := range numbers {
		name, values := sampleOf(t, dir, samples[i].XML, expected)
		if !strings.HasPrefix(name, "fa2/") && !strings.HasPrefix(name, "fa3/") {
			continue
		}
		for key, column := range columns {
			var got sql.NullString
			if err := reader.QueryRow("SELECT "+column+" FROM v_invoices WHERE ksef_number = ?", string(number)).Scan(&got); err != nil {
				t.Fatalf("%s: %s: %v", name, column, err)
			}
			want := stated(values, key)
			if got.String != want {
				t.Errorf("%s: %s = %q, want %q", name, column, got.String, want)
			}
			compared++
		}
	}
	t.Logf("%d samples mirrored, %d values compared", len(samples), compared)
}

// stated gives an expected value as the view shows it.
func stated(values map[string]any, key string) string {
	if fields, ok := values["net_by_field"].(map[string]any); key == "net_total" && ok && len(fields) == 0 {
		return "" // no net amount at all is NULL, not 0
	}
	if fields, ok := values["vat_by_field"].(map[string]any); key == "vat_total" && ok && len(fields) == 0 {
		return ""
	}
	switch value := values[key].(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	}
	return ""
}

// sampleOf finds which sample file some XML is.
func sampleOf(t *testing.T, dir string, xml []byte, expected map[string]map[string]any) (string, map[string]any) {
	t.Helper()
	for name, values := range expected {
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(content, xml) {
			return name, values
		}
	}
	t.Fatal("a sample that expected.json does not name")
	return "", nil
}
