package db

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func readDocument(t *testing.T, path string) []byte {
	t.Helper()
	xml, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return xml
}

// The documents are none of those that the dictionary was made from.
func TestCompression(t *testing.T) {
	if len(invoiceDictionary) > 64<<10 {
		t.Errorf("the dictionary has %d bytes", len(invoiceDictionary))
	}
	packer, err := newCompressor(invoiceDictionary)
	if err != nil {
		t.Fatal(err)
	}
	wide := readDocument(t, filepath.Join("testdata", "fa3_five_lines.xml")) // indented by four spaces
	for _, test := range []struct {
		name string
		xml  []byte
		most int
	}{
		{"four spaces", wide, 1300},
		{"two spaces", bytes.ReplaceAll(wide, []byte("    "), []byte("  ")), 1450},
		{"tabs", bytes.ReplaceAll(wide, []byte("    "), []byte("\t")), 1350},
		{"no layout", bytes.ReplaceAll(bytes.ReplaceAll(wide, []byte("    "), nil), []byte("\n"), nil), 1300},
		{"FA(2)", readDocument(t, filepath.Join("testdata", "fa2_minified.xml")), 550},
	} {
		packed := packer.EncodeAll(test.xml, nil)
		t.Logf("%s: %d bytes to %d", test.name, len(test.xml), len(packed))
		if len(packed) > test.most {
			t.Errorf("%s: %d bytes are compressed to %d, at most %d are wanted", test.name, len(test.xml), len(packed), test.most)
		}
	}
}

func TestCompressionOfOfficialSamples(t *testing.T) {
	var files []string
	for _, folder := range []string{"fa2", "fa3"} {
		found, err := filepath.Glob(filepath.Join("..", "..", "shared", "ksef", "samples", folder, "*.xml"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Skip("the official samples are not beside the project")
	}
	packer, err := newCompressor(invoiceDictionary)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	total, packed, without := 0, 0, 0
	for _, file := range files {
		xml := readDocument(t, file)
		size := len(packer.EncodeAll(xml, nil))
		if size*3 > len(xml) {
			t.Errorf("%s: %d bytes are compressed to %d", filepath.Base(file), len(xml), size)
		}
		total, packed, without = total+len(xml), packed+size, without+len(alone.EncodeAll(xml, nil))
	}
	t.Logf("%d samples: %d bytes to %d (%.1f to 1), without the dictionary %d", len(files), total, packed, float64(total)/float64(packed), without)
	if packed*9 > total*2 {
		t.Errorf("%d bytes are compressed to %d, less than 4.5 to 1", total, packed)
	}
}

// A database written with an older dictionary stays readable, and new documents
// get the new one.
func TestChangeOfDictionary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	old := testSettings(t)
	var err error
	old.dictionary, err = zstd.BuildDict(zstd.BuildDictOptions{
		ID: 1, History: bytes.Repeat(testXML(77, 40), 3), Contents: [][]byte{testXML(1, 9), testXML(2, 7), testXML(3, 5), testXML(40, 8)}, Offsets: [3]int{1, 4, 8},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := open(t.Context(), path, testMirror, discard(), old)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(0, 10)})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openTest(t, path)
	commit(t, d, Batch{Role: "seller", Invoices: testInvoices(10, 20)})
	for n := range 20 {
		xml, err := d.Document(t.Context(), testNumber(n))
		if err != nil || !bytes.Equal(xml, testInvoice(n).XML) {
			t.Errorf("document %d: %v", n, err)
		}
	}
	if n := value[int](t, d, "SELECT count(DISTINCT dictionary) FROM documents"); n != 2 {
		t.Errorf("%d dictionaries in use, want 2", n)
	}
}

// Other documents than FA compress worse, but unharmed.
func TestDocumentsOfAnySize(t *testing.T) {
	d := newTest(t)
	for n, xml := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("żółw "), 700_000), testXML(1, 10_000)} {
		in := testInvoice(n)
		in.XML, in.Hash = xml, hashOf(xml)
		commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{in}})
		if got, err := d.Document(t.Context(), in.KSeFNumber); err != nil || !bytes.Equal(got, xml) {
			t.Errorf("document of %d bytes: %v", len(xml), err)
		}
	}
	in := testInvoice(9)
	in.XML = make([]byte, maxDocument+1)
	in.Hash = hashOf(in.XML)
	if err := d.Commit(t.Context(), Batch{Role: "buyer", Invoices: []Invoice{in}}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("error %v: what cannot be read back must not be stored", err)
	}
}

func TestDamagedDocuments(t *testing.T) {
	slow(t)
	for name, damage := range map[string]string{
		"blob":       "UPDATE documents SET xml_zstd = x'28b52ffd0000'",
		"empty blob": "UPDATE documents SET xml_zstd = x''",
		"size":       "UPDATE documents SET size = size + 1",
		"sum":        "UPDATE documents SET sha256 = zeroblob(32)",
		"dictionary": "UPDATE dictionaries SET content = x'00'",
	} {
		t.Run(name, func(t *testing.T) {
			d := newTest(t)
			commit(t, d, Batch{Role: "buyer", Invoices: testInvoices(0, 1)})
			if _, err := d.write.Exec(damage); err != nil {
				t.Fatal(err)
			}
			if xml, err := d.Document(t.Context(), testNumber(0)); err == nil || xml != nil || !strings.Contains(err.Error(), testNumber(0)) {
				t.Errorf("%d bytes, error %v: it must name the invoice", len(xml), err)
			}
		})
	}
}

// FuzzDocument damages the compressed bytes: the answer is the right document or
// an error that names the invoice.
func FuzzDocument(f *testing.F) {
	d := newTest(f)
	commit(f, d, Batch{Role: "buyer", Invoices: testInvoices(0, 1)})
	packed := value[[]byte](f, d, "SELECT xml_zstd FROM documents")
	f.Add(packed)
	f.Add(packed[:len(packed)/2])
	f.Add([]byte{})
	f.Add([]byte("\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		if _, err := d.write.Exec("UPDATE documents SET xml_zstd = ?", append([]byte{}, packed...)); err != nil {
			t.Fatal(err)
		}
		xml, err := d.Document(t.Context(), testNumber(0))
		if err == nil && !bytes.Equal(xml, testInvoice(0).XML) || err != nil && !strings.Contains(err.Error(), testNumber(0)) {
			t.Errorf("%d bytes, error %v", len(xml), err)
		}
	})
}
