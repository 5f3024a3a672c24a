package ksef

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// packed is an entry to put into an archive.
type packed struct {
	name    string
	content string
}

func numbered(i int) Number {
	n, err := NewNumber(fmt.Sprintf("5265877635-20261105-%012X", i))
	if err != nil {
		panic(err)
	}
	return n
}

func metadataOf(numbers ...Number) packed {
	rows := []string{}
	for _, n := range numbers {
		rows = append(rows, fmt.Sprintf(`{"ksefNumber":%q,"permanentStorageDate":"2026-11-05T10:00:00.1234567+00:00","grossAmount":1.10,"newField":{}}`, n))
	}
	return packed{"_metadata.json", `{"invoices":[` + strings.Join(rows, ",") + `]}`}
}

func invoiceOf(i int) packed {
	return packed{string(numbered(i)) + ".xml", fmt.Sprintf("\ufeff<Faktura>\r\n%d %x</Faktura>\n", i, randomBytes(uint64(i), 200))}
}

// fivePackage has its metadata in the middle.
func fivePackage() []packed {
	return []packed{invoiceOf(1), invoiceOf(2), metadataOf(numbered(1), numbered(2), numbered(3), numbered(4)), invoiceOf(3), invoiceOf(4)}
}

func makeZip(entries ...packed) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(f, e.content)
	}
	_ = w.Close()
	return b.Bytes()
}

func makeTar(entries ...packed) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.content)), Mode: 0o644}); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(w, e.content)
	}
	_ = w.Close()
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func makeTarGz(entries ...packed) []byte { return gzipped(makeTar(entries...)) }

// kinds are the two makers of archives, by their compression.
var kinds = map[string]func(...packed) []byte{CompressionZip: makeZip, CompressionTarGz: makeTarGz}

// split cuts an archive into n parts of about the same size.
func split(b []byte, n int) (parts []*io.SectionReader) {
	for i := range n {
		piece := b[len(b)*i/n : len(b)*(i+1)/n]
		parts = append(parts, io.NewSectionReader(bytes.NewReader(piece), 0, int64(len(piece))))
	}
	return parts
}

// readAll reads a package to the end.
func readAll(ctx context.Context, compression string, parts ...*io.SectionReader) (rows []Metadata, got []packed, err error) {
	rows, invoices, err := ReadPackage(ctx, compression, parts...)
	if err != nil {
		return nil, nil, err
	}
	for entry, err := range invoices {
		if err != nil {
			return rows, got, err
		}
		got = append(got, packed{string(entry.Number) + ".xml", string(entry.Content)})
	}
	return rows, got, nil
}

func TestReadPackage(t *testing.T) {
	entries := fivePackage()
	want := slices.Delete(slices.Clone(entries), 2, 3)
	for compression, archive := range kinds {
		for _, parts := range []int{1, 2, 20} {
			for _, stated := range []string{compression, ""} {
				t.Run(fmt.Sprintf("%s in %d stated %q", compression, parts, stated), func(t *testing.T) {
					rows, got, err := readAll(t.Context(), stated, split(archive(entries...), parts)...)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(want, got, cmp.AllowUnexported(packed{})); diff != "" {
						t.Errorf("invoices (-want +got):\n%s", diff)
					}
					if len(rows) != 4 || rows[3].KSeFNumber != string(numbered(4)) || rows[0].GrossAmount != "1.10" || !strings.Contains(string(rows[0].Raw), "newField") {
						t.Errorf("got metadata %+v", rows)
					}
				})
			}
		}
	}
}

func TestReadPackageWhereverMetadataIs(t *testing.T) {
	row := metadataOf(numbered(1))
	for name, entries := range map[string][]packed{
		"first": {row, invoiceOf(1)}, "last": {invoiceOf(1), row}, "alone": {row},
		"with a BOM":         {invoiceOf(1), {row.name, "\ufeff" + row.content}},
		"with other fields":  {{row.name, `{"a":[{"invoices":[]}],` + row.content[1:len(row.content)-1] + `,"b":null} ` + "\n"}},
		"with no rows":       {metadataOf()},
		"with one great row": {{row.name, strings.Replace(row.content, `{}`, `"`+strings.Repeat("x", 300<<10)+`"`, 1)}},
	} {
		for compression, archive := range kinds {
			rows, got, err := readAll(t.Context(), compression, split(archive(entries...), 1)...)
			if err != nil || len(got) != len(entries)-1 || len(rows) != 1 && name != "with no rows" {
				t.Errorf("%s in %s: got %d rows, %d invoices, %v", name, compression, len(rows), len(got), err)
			}
		}
	}
}

func TestReadPackageWithoutParts(t *testing.T) {
	if rows, got, err := readAll(t.Context(), "TarGz"); err != nil || len(rows)+len(got) != 0 {
		t.Errorf("got %v, %v, %v", rows, got, err)
	}
}

func TestReadPackageRefusesEntries(t *testing.T) {
	number := string(numbered(1))
	for name, add := range map[string]packed{
		"up":                 {"../../x.xml", "x"},
		"up with a number":   {"../" + number + ".xml", "x"},
		"absolute":           {"/" + number + ".xml", "x"},
		"drive":              {`C:\` + number + ".xml", "x"},
		"backslash":          {`..\` + number + ".xml", "x"},
		"folder":             {"a/" + number + ".xml", "x"},
		"directory":          {"a/", ""},
		"line end":           {number + ".xml\n", "x"},
		"dot":                {"./" + number + ".xml", "x"},
		"other file":         {"readme.txt", "x"},
		"wrong check digits": {number[:34] + "Z.xml", "x"},
		"mistyped":           {strings.Replace(number, "5265877635", "5265877636", 1) + ".xml", "x"},
		"other case":         {strings.ToLower(number) + ".xml", "x"},
		"upper extension":    {number + ".XML", "x"},
		"no extension":       {number, "x"},
		"stream":             {number + ".xml:x", "x"},
		"same again":         {string(numbered(2)) + ".xml", "x"},
		"metadata again":     metadataOf(),
		"metadata elsewhere": {"a/_metadata.json", `{"invoices":[]}`},
		"metadata in case":   {"_METADATA.json", `{"invoices":[]}`},
		"too large":          {number + ".xml", strings.Repeat("x", maxInvoice+1)},
	} {
		for compression, archive := range kinds {
			b := archive(metadataOf(numbered(2)), invoiceOf(2), add)
			rows, invoices, err := ReadPackage(t.Context(), compression, split(b, 1)...)
			if err == nil || rows != nil || invoices != nil {
				t.Errorf("%s in %s: got %v, %v", name, compression, rows, err)
			}
			if err != nil && strings.Contains(err.Error(), "526587763") {
				t.Errorf("%s in %s: the error names an invoice: %v", name, compression, err)
			}
		}
	}
}

// Nothing but regular files, whatever their name.
func TestReadPackageRefusesLinks(t *testing.T) {
	name := string(numbered(1)) + ".xml"
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeDir, tar.TypeChar, tar.TypeFifo, tar.TypeGNUSparse} {
		b := makeTar(metadataOf(), packed{name, ""})
		header := b[1024:1536] // of the second file
		if !strings.HasPrefix(string(header), name) {
			t.Fatal("the header is not where it is thought to be")
		}
		header[156] = kind
		copy(header[157:], "/etc/passwd")
		copy(header[148:156], "        ")
		sum := 0
		for _, c := range header {
			sum += int(c)
		}
		copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
		if _, _, err := ReadPackage(t.Context(), "", split(gzipped(b), 1)...); err == nil || kind != tar.TypeGNUSparse && !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("type %q: got %v", kind, err)
		}
	}
	// A name in tar cannot hold a NUL; one in Zip can.
	if _, _, err := ReadPackage(t.Context(), "", split(makeZip(metadataOf(), packed{name + "\x00.exe", ""}), 1)...); err == nil {
		t.Error("a name with a NUL was accepted")
	}
	for _, mode := range []os.FileMode{os.ModeSymlink, os.ModeDir, os.ModeNamedPipe} {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		header := &zip.FileHeader{Name: name}
		header.SetMode(mode | 0o777)
		_, _ = w.CreateHeader(header)
		_ = w.Close()
		if _, _, err := ReadPackage(t.Context(), "", split(b.Bytes(), 1)...); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("mode %s: got %v", mode, err)
		}
	}
}

func TestReadPackageRefusesCompression(t *testing.T) {
	z, g := makeZip(fivePackage()...), makeTarGz(fivePackage()...)
	for _, tt := range []struct {
		stated  string
		archive []byte
		says    string
	}{
		{"Zstd", g, `"Zstd" is none that this program knows`},
		{"zip", z, "none that this program knows"},
		{"Zip", g, "stated to be Zip but begins as TarGz"},
		{"TarGz", z, "stated to be TarGz but begins as Zip"},
		{"", []byte("<html><body>"), "begins neither"},
		{"", []byte{0x28, 0xb5, 0x2f, 0xfd, 0}, "begins neither"},
		{"", makeTar(fivePackage()...), "begins neither"},
		{"", []byte("PK"), "EOF"},
		{"", nil, "EOF"},
	} {
		if _, _, err := ReadPackage(t.Context(), tt.stated, split(tt.archive, 1)...); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: got %v; want %q", tt.stated, err, tt.says)
		}
	}
}

// Cut at byte k, with something after the end, or with a bit flipped, an archive is
// refused as a whole, before anything of it is handed out. (A flip in a field of no
// consequence, such as a time, may pass; then the content is the same.)
func TestReadPackageRefusesDamage(t *testing.T) {
	want := slices.Delete(fivePackage(), 2, 3)
	for compression, archive := range kinds {
		whole := archive(fivePackage()...)
		for k := range whole {
			if _, _, err := ReadPackage(t.Context(), compression, split(whole[:k], 1)...); err == nil {
				t.Errorf("%s cut at %d of %d was accepted", compression, k, len(whole))
			}
		}
		for _, more := range []string{"\x00", "x", strings.Repeat("\x00", 512), strings.Repeat("x", 70_000), string(whole)} {
			_, got, err := readAll(t.Context(), compression, split(slices.Concat(whole, []byte(more)), 1)...)
			// Two Zips in a row are the second one, and all of it.
			second := compression == CompressionZip && more == string(whole) && cmp.Equal(want, got, cmp.AllowUnexported(packed{}))
			if err == nil && !second {
				t.Errorf("%s with %d bytes after it was accepted", compression, len(more))
			}
		}
		random := rand.New(rand.NewPCG(7, 7))
		for range 1000 {
			bit := random.IntN(8 * len(whole))
			whole[bit/8] ^= 1 << (bit % 8)
			_, got, err := readAll(t.Context(), compression, split(whole, 1)...)
			if err == nil && !cmp.Equal(want, got, cmp.AllowUnexported(packed{})) {
				t.Errorf("%s with bit %d flipped was accepted, with other content", compression, bit)
			}
			whole[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// A server that dies while it writes the tar, but not the gzip around it.
func TestReadPackageRefusesTarWithoutEnd(t *testing.T) {
	b := makeTar(fivePackage()...)
	for k := 0; k < len(b); k += 512 {
		if _, _, err := ReadPackage(t.Context(), "", split(gzipped(b[:k]), 1)...); err == nil {
			t.Errorf("a tar cut at %d of %d was accepted", k, len(b))
		}
	}
	for name, after := range map[string][]byte{"text": []byte("x"), "another tar": b} {
		if _, _, err := ReadPackage(t.Context(), "", split(gzipped(slices.Concat(b, after)), 1)...); err == nil {
			t.Errorf("%s after the end of the tar was accepted", name)
		}
	}
	// tar fills up to 10 KB by habit, and may hold a header for all files.
	var global bytes.Buffer
	w := tar.NewWriter(&global)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}})
	_ = w.Flush()
	rows, got, err := readAll(t.Context(), "", split(gzipped(slices.Concat(global.Bytes(), b, make([]byte, 7*512))), 1)...)
	if err != nil || len(rows) != 4 || len(got) != 4 {
		t.Errorf("got %d rows, %d invoices, %v", len(rows), len(got), err)
	}
}

func TestReadPackageRefusesMetadata(t *testing.T) {
	good := metadataOf(numbered(1), numbered(2)).content
	refuse := func(name, content string) {
		t.Helper()
		if rows, _, err := readAll(t.Context(), "", split(makeTarGz(packed{"_metadata.json", content}), 1)...); err == nil {
			t.Errorf("%s: got %d rows", name, len(rows))
		}
	}
	for k := range good {
		refuse(fmt.Sprintf("cut at %d", k), good[:k])
	}
	refuse("more after it", good+"x")
	refuse("twice", good+good)
	refuse("no object", `[]`)
	refuse("null", `null`)
	refuse("without invoices", `{}`)
	refuse("invoices twice", `{"invoices":[],"invoices":[]}`)
	refuse("null invoices", `{"invoices":null}`)
	refuse("object of invoices", `{"invoices":{}}`)
	refuse("null row", `{"invoices":[null]}`)
	refuse("row without number", `{"invoices":[{}]}`)
	refuse("row of text", `{"invoices":["5265877635"]}`)
	refuse("number for a number", `{"invoices":[{"ksefNumber":1}]}`)
	refuse("wrong time", `{"invoices":[{"ksefNumber":"x","permanentStorageDate":"yesterday"}]}`)
	refuse("too many rows", `{"invoices":[`+strings.Repeat(`{"ksefNumber":"x"},`, maxPackageInvoices)+`{"ksefNumber":"x"}]}`)

	if _, _, err := readAll(t.Context(), "", split(makeTarGz(invoiceOf(1)), 1)...); err == nil || !strings.Contains(err.Error(), "_metadata.json") {
		t.Errorf("no metadata: got %v", err)
	}
}

func TestReadPackageCountsEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector makes minutes of it, and it has one goroutine")
	}
	var entries []packed
	for i := range maxPackageInvoices {
		entries = append(entries, packed{string(numbered(i)) + ".xml", ""})
	}
	entries = append(entries, metadataOf())
	for compression, archive := range kinds {
		if _, got, err := readAll(t.Context(), "", split(archive(entries...), 1)...); err != nil || len(got) != maxPackageInvoices {
			t.Errorf("%s: got %d invoices, %v", compression, len(got), err)
		}
		more := append(slices.Clone(entries), packed{string(numbered(maxPackageInvoices)) + ".xml", ""})
		if _, _, err := ReadPackage(t.Context(), "", split(archive(more...), 1)...); err == nil {
			t.Errorf("%s: one more was accepted", compression)
		}
	}
}

// zeros is the deflate stream of n times 64 MB of zeros, without its end.
func zeros(n int) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	for range 64 {
		_, _ = w.Write(make([]byte, 1<<20))
	}
	_ = w.Flush()
	// What refers back refers to zeros, wherever it stands.
	return bytes.Repeat(b.Bytes(), n)
}

// gzipOf wraps a deflate stream in gzip. Its check sum is wrong: nothing should
// get that far.
func gzipOf(pieces ...[]byte) []byte {
	b := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	b = append(b, slices.Concat(pieces...)...)
	return append(b, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

func stored(b []byte) []byte {
	out := []byte{0}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(b)))
	out = binary.LittleEndian.AppendUint16(out, ^uint16(len(b)))
	return append(out, b...)
}

// 1 GB of zeros in 1 MB is refused where it can be found, in little memory.
func TestReadPackageRefusesBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector makes minutes of it, and it has one goroutine")
	}
	gigabyte := zeros(16)
	header := func(name string, size int64) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644})
		return stored(b.Bytes())
	}
	inZip := func(name string, size uint64) []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		f, _ := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, UncompressedSize64: size, CompressedSize64: uint64(len(gigabyte) + 2), CRC32: crc32.ChecksumIEEE(nil)})
		_, _ = f.Write(append(slices.Clone(gigabyte), 3, 0))
		_ = w.Close()
		return b.Bytes()
	}
	var directory bytes.Buffer
	w := zip.NewWriter(&directory)
	for range 60_000 {
		_, _ = w.Create(metadataName + strings.Repeat("x", 50))
	}
	_ = w.Close()
	invoice := string(numbered(1)) + ".xml"
	text := []byte(`{"invoices":[],"more":"`)

	const tooLarge = "larger than can be right"
	for name, bomb := range map[string]struct {
		archive []byte
		says    string
	}{
		"invoice in tar":               {gzipOf(header(invoice, 1<<30), gigabyte), tooLarge},
		"metadata in tar":              {gzipOf(header(metadataName, 1<<30), gigabyte), "invalid character"},
		"one value of the metadata":    {gzipOf(header(metadataName, 1<<30), stored(text), bytes.Repeat(stored([]byte(strings.Repeat("x", 60_000))), 100)), tooLarge},
		"after the tar":                {gzipOf(stored(makeTar(metadataOf())), gigabyte), tooLarge},
		"invoice in Zip":               {inZip(invoice, 1<<30), tooLarge},
		"invoice in Zip, understated":  {inZip(invoice, 100), "not a valid zip"},
		"metadata in Zip, understated": {inZip(metadataName, 100), "not a valid zip"},
		"directory of Zip":             {directory.Bytes(), tooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			parts := split(bomb.archive, 1)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, _, err := ReadPackage(t.Context(), "", parts...)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			allocated := after.TotalAlloc - before.TotalAlloc
			if err == nil || !strings.Contains(err.Error(), bomb.says) || allocated > 32<<20 {
				t.Errorf("%d KB were allocated, %v", allocated>>10, err)
			}
			t.Logf("%d KB of archive: %d KB allocated in %s: %v", len(bomb.archive)>>10, allocated>>10, took, err)
		})
	}
}

// Many invoices that are small by themselves may be a bomb together.
func TestReadPackageBoundsExpansion(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector makes minutes of it, and it has one goroutine")
	}
	entries := []packed{metadataOf()}
	for i := range (freeContent >> 23) + 10 {
		entries = append(entries, packed{string(numbered(i)) + ".xml", strings.Repeat("x", 8<<20)})
	}
	for compression, archive := range kinds {
		b := archive(entries...)
		if _, _, err := ReadPackage(t.Context(), "", split(b, 1)...); err == nil || !strings.Contains(err.Error(), "larger than can be right") {
			t.Errorf("%s of %d KB: got %v", compression, len(b)>>10, err)
		}
	}
}

func TestReadPackageStops(t *testing.T) {
	for compression, archive := range kinds {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		parts := split(archive(fivePackage()...), 3)
		_, invoices, err := ReadPackage(ctx, compression, parts...)
		if err != nil {
			t.Fatal(err)
		}
		for entry, err := range invoices { // again below, from the start
			if err != nil || entry.Number != numbered(1) {
				t.Errorf("got %v, %v", entry.Number, err)
			}
			break
		}
		n := 0
		for _, err = range invoices {
			n++
			cancel()
		}
		if !errors.Is(err, context.Canceled) || n != 2 {
			t.Errorf("%s: after cancelling got %d values and %v", compression, n, err)
		}
		if _, _, err := ReadPackage(ctx, compression, parts...); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", compression, err)
		}
	}
}

// A file that has become shorter, or a disk that fails, is an error and no end.
func TestReadPackageFromFailingDisk(t *testing.T) {
	for compression, archive := range kinds {
		b := archive(fivePackage()...)
		path := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		part := io.NewSectionReader(f, 0, int64(len(b)))
		_, invoices, err := ReadPackage(t.Context(), compression, part)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(len(b)/2)); err != nil {
			t.Fatal(err)
		}
		for _, err = range invoices {
		}
		if err == nil {
			t.Errorf("%s: a file cut in half was read without an error", compression)
		}
		_ = f.Close()
		for _, err = range invoices {
		}
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: got %v from a closed file", compression, err)
		}
	}
}

func FuzzReadPackage(f *testing.F) {
	for compression, archive := range kinds {
		f.Add(archive(fivePackage()...), compression, uint16(100))
		f.Add(archive(metadataOf()), "", uint16(0))
	}
	f.Add([]byte("PK\x05\x06"), "Zip", uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, compression string, cut uint16) {
		rows, got, err := readAll(t.Context(), compression, split(b, 1)...)
		at := min(int(cut), len(b))
		rowsCut, gotCut, errCut := readAll(t.Context(), compression,
			io.NewSectionReader(bytes.NewReader(b[:at]), 0, int64(at)), io.NewSectionReader(bytes.NewReader(b[at:]), 0, int64(len(b)-at)))
		if (err == nil) != (errCut == nil) || !cmp.Equal(got, gotCut, cmp.AllowUnexported(packed{})) || len(rows) != len(rowsCut) {
			t.Errorf("in one part %v, in two %v", err, errCut)
		}
		seen := map[string]bool{}
		for _, e := range got {
			n, isXML := strings.CutSuffix(e.name, ".xml")
			if _, err := ParseNumber(n); err != nil || !isXML || seen[e.name] || len(e.content) > maxInvoice {
				t.Errorf("%q of %d bytes was handed out", e.name, len(e.content))
			}
			seen[e.name] = true
		}
		if err != nil && len(got) > 0 {
			t.Errorf("%d invoices were handed out before %v", len(got), err)
		}
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add([]byte(metadataOf(numbered(1), numbered(2)).content))
	f.Add([]byte("\ufeff" + `{"a":1,"invoices":[],"b":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := decodeMetadata(bytes.NewReader(b))
		if err != nil {
			return
		}
		var plain struct{ Invoices []json.RawMessage }
		if err := json.Unmarshal(bytes.TrimPrefix(b, []byte("\ufeff")), &plain); err != nil {
			t.Errorf("%q was read although %v", b, err)
		}
		for _, row := range rows {
			if row.KSeFNumber == "" || !json.Valid(row.Raw) {
				t.Errorf("%q has the row %+v", b, row)
			}
		}
	})
}

// Ten thousand invoices of about 6 KB, from the encrypted part to their bytes.
func BenchmarkPackage(b *testing.B) {
	const count = 10_000
	random := rand.New(rand.NewPCG(1, 1))
	var numbers []Number
	var entries []packed
	for i := range count {
		var xml strings.Builder
		for xml.Len() < 5_800 {
			fmt.Fprintf(&xml, "<FaWiersz><NrWierszaFa>%d</NrWierszaFa><P_7>%x</P_7><P_8A>szt.</P_8A><P_8B>%d</P_8B><P_9A>%d.%02d</P_9A><P_12>23</P_12></FaWiersz>\n",
				xml.Len(), random.Uint64(), random.IntN(100), random.IntN(10000), random.IntN(100))
		}
		numbers = append(numbers, numbered(i))
		entries = append(entries, packed{string(numbered(i)) + ".xml", xml.String()})
	}
	entries = append(entries, metadataOf(numbers...))
	for _, compression := range []string{CompressionTarGz, CompressionZip} {
		b.Run(compression, func(b *testing.B) {
			key := NewExportKey()
			part, encrypted := newPart(kinds[compression](entries...), key)
			f, err := os.Create(filepath.Join(b.TempDir(), "part"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				if err := decryptPart(bytes.NewReader(encrypted), part, key, f); err != nil {
					b.Fatal(err)
				}
				_, got, err := ReadPackage(b.Context(), compression, io.NewSectionReader(f, 0, part.Size))
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for _, err := range got {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
				if n != count {
					b.Fatalf("got %d invoices", n)
				}
			}
			runtime.ReadMemStats(&after)
			b.SetBytes(count * 5_850)
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/count, "us/invoice")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N)/count, "allocs/invoice")
		})
	}
}
