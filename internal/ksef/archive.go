package ksef

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
	"strings"
)

// Bounds of an archive, all by the bytes that come out of it and never by the
// sizes that it states.
const (
	// KSeF puts 10,000 invoices into a package, and once put 10,001
	// (api-changelog 2.6.1).
	maxPackageInvoices = 10_001
	maxMetadata        = 256 << 20
	maxMetadataRow     = 1 << 20 // of about 2 KB; with what the decoder reads ahead
	// Everything together: XML compresses by 3 to 1, by 50 to 1 where invoices
	// are alike, and what an attacker would send by 1,000 to 1.
	maxExpansion = 200
	freeContent  = 256 << 20
	// What opening a Zip may read: 10,002 entries of about 100 bytes, and the end.
	maxZipDirectory = 4 << 20
)

const (
	metadataName  = "_metadata.json"
	invoiceSuffix = ".xml"
)

// PackageEntry is an invoice of a package, byte for byte. Content is valid until
// the next one.
type PackageEntry struct {
	Number  Number
	Content []byte
}

// ReadPackage reads the archive that the parts of a package, decrypted and in
// order, make up. compression is [Package.Compression]; the archive itself must
// agree with it. It gives the rows of _metadata.json in their order, and an
// iterator over the invoices, which may be used again but not at the same time.
// No parts are an empty package.
//
// The whole archive is read before this returns, so that nothing is ever handed
// out of one that is cut off, damaged or not what KSeF makes: only regular
// files, one of them _metadata.json, the others each named by a KSeF number and
// .xml, none twice, and nothing after the end. Whether metadata, invoices and
// [Package.InvoiceCount] agree, and whether each invoice has the hash of its
// row, is for the caller to see. The memory used is that of the metadata and of
// the largest invoice, which is bounded at 16 MB.
//
// The iterator's last value is an error if reading fails after all, because the
// disk does or ctx has ended. Errors do not name invoices, whose numbers hold a
// NIP.
func ReadPackage(ctx context.Context, compression string, parts ...*io.SectionReader) (metadata []Metadata, invoices iter.Seq2[PackageEntry, error], err error) {
	if len(parts) == 0 {
		return nil, func(func(PackageEntry, error) bool) {}, nil
	}
	a := newArchive(parts)
	if err := a.detect(compression); err != nil {
		return nil, nil, fmt.Errorf("read the package: %w", err)
	}
	names := map[string]bool{}
	err = a.walk(ctx, func(name string, content io.Reader) error {
		if names[name] {
			return errors.New("another entry has the same name")
		}
		names[name] = true
		if name != metadataName {
			return nil
		}
		rows, err := decodeMetadata(content)
		metadata = rows
		return err
	})
	if err == nil && !names[metadataName] {
		err = errors.New("it has no " + metadataName)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the package: %w", err)
	}
	return metadata, a.invoices(ctx), nil
}

// archive is the joined parts.
type archive struct {
	io.ReaderAt
	size  int64
	isZip bool
}

func newArchive(parts []*io.SectionReader) *archive {
	j := joined{parts: parts}
	var size int64
	for _, part := range parts {
		size += part.Size()
		j.ends = append(j.ends, size)
	}
	return &archive{ReaderAt: j, size: size}
}

// joined are several files as one.
type joined struct {
	parts []*io.SectionReader
	ends  []int64 // where each ends in the whole
}

// ReadAt reads from as many parts as it takes.
func (j joined) ReadAt(p []byte, at int64) (n int, err error) {
	first := sort.Search(len(j.ends), func(i int) bool { return j.ends[i] > at })
	for i := first; i < len(j.parts) && n < len(p); i++ {
		begin := j.ends[i] - j.parts[i].Size()
		want := min(int64(len(p)-n), j.ends[i]-at)
		m, err := j.parts[i].ReadAt(p[n:n+int(want)], at-begin)
		n, at = n+m, at+int64(m)
		if int64(m) < want {
			return n, noEOF(err) // the file is shorter than it was
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// detect tells Zip from TarGz by the first bytes. KSeF has stated the kind only
// since 2.7.1 (api-changelog).
func (a *archive) detect(stated string) error {
	if stated != "" && stated != CompressionZip && stated != CompressionTarGz {
		return fmt.Errorf("its compression %q is none that this program knows; update it", clean(stated, 20))
	}
	var magic [4]byte
	if _, err := a.ReadAt(magic[:], 0); err != nil {
		return fmt.Errorf("its first bytes: %w", noEOF(err))
	}
	var found string
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		found = CompressionTarGz
	case string(magic[:]) == "PK\x03\x04":
		found = CompressionZip
	default:
		return errors.New("it begins neither as Zip nor as TarGz does")
	}
	if stated != "" && stated != found {
		return fmt.Errorf("it is stated to be %s but begins as %s does", stated, found)
	}
	a.isZip = found == CompressionZip
	return nil
}

// errStop ends a walk that has served its purpose.
var errStop = errors.New("stop")

func (a *archive) invoices(ctx context.Context) iter.Seq2[PackageEntry, error] {
	return func(yield func(PackageEntry, error) bool) {
		var content bytes.Buffer
		err := a.walk(ctx, func(name string, r io.Reader) error {
			if name == metadataName {
				return nil
			}
			content.Reset()
			if _, err := content.ReadFrom(r); err != nil {
				return err
			}
			entry := PackageEntry{Number(strings.TrimSuffix(name, invoiceSuffix)), content.Bytes()}
			if !yield(entry, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(PackageEntry{}, fmt.Errorf("read the package: %w", err))
		}
	}
}

// walk calls visit for each entry, whose name is either _metadata.json or a KSeF
// number and .xml. What visit leaves unread is read, and so verified, here.
func (a *archive) walk(ctx context.Context, visit func(name string, content io.Reader) error) error {
	total := &capped{left: freeContent + maxExpansion*a.size, what: "the content"}
	count := 0
	each := func(name string, regular bool, content io.Reader) error {
		count++
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := checkEntry(name, regular); err != nil {
			return fmt.Errorf("entry %d: %w", count, err)
		}
		if count > maxPackageInvoices+1 {
			return fmt.Errorf("it has more than %d entries", maxPackageInvoices+1)
		}
		limit := int64(maxInvoice)
		if name == metadataName {
			limit = maxMetadata
		}
		total.r = content
		entry := &capped{r: total, left: limit, what: "it"}
		err := visit(name, entry)
		if err == nil {
			_, err = io.Copy(io.Discard, entry)
		}
		if err != nil && !errors.Is(err, errStop) {
			return fmt.Errorf("entry %d: %w", count, err)
		}
		return err
	}
	if a.isZip {
		return a.walkZip(each)
	}
	return a.walkTar(each)
}

func checkEntry(name string, regular bool) error {
	if !regular {
		return errors.New("it is not a regular file")
	}
	if name == metadataName {
		return nil
	}
	number, isXML := strings.CutSuffix(name, invoiceSuffix)
	// A number is in upper case and has no dots, slashes or drive letters. So two
	// names that differ never meet on a disk that ignores case, and none leads
	// out of a folder.
	if _, err := ParseNumber(number); err != nil || !isXML {
		return errors.New("its name is not a KSeF number and .xml")
	}
	return nil
}

func (a *archive) walkTar(each func(name string, regular bool, content io.Reader) error) error {
	source := bufio.NewReaderSize(io.NewSectionReader(a, 0, a.size), 64<<10)
	compressed, err := gzip.NewReader(source)
	if err != nil {
		return err
	}
	// The headers and fillings of tar count too: they can be the bomb.
	raw := &zeroCounter{r: &capped{r: compressed, left: freeContent + maxExpansion*a.size, what: "the tar"}}
	files := tar.NewReader(raw)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader { // says nothing of any file
			continue
		}
		if err := each(header.Name, header.Typeflag == tar.TypeReg, files); err != nil {
			return err
		}
	}
	// A tar ends with two blocks of zeros, which may be followed by more. Its reader
	// also takes an end without them, which can be that of half an archive.
	after, err := io.Copy(io.Discard, raw)
	switch {
	case err != nil: // also when the gzip is cut off, wrong by its CRC, or followed by anything
		return err
	case raw.zeros < 1024+after:
		return errors.New("the tar lacks its end, or something follows it")
	}
	return nil
}

func (a *archive) walkZip(each func(name string, regular bool, content io.Reader) error) error {
	// The directory is read into memory as long as it goes on, whatever it says of
	// its length.
	opening := &cappedAt{ReaderAt: a, left: maxZipDirectory}
	files, err := zip.NewReader(opening, a.size)
	if err != nil {
		return err
	}
	opening.done = true
	// Its reader does not mind bytes after the end.
	end := make([]byte, 22+len(files.Comment))
	if _, err := a.ReadAt(end, a.size-int64(len(end))); err != nil {
		return fmt.Errorf("its end: %w", noEOF(err))
	}
	if !bytes.HasPrefix(end, []byte("PK\x05\x06")) {
		return errors.New("something follows the end of the Zip")
	}
	for _, file := range files.File {
		content, err := file.Open()
		if err != nil {
			return err
		}
		err = each(file.Name, file.Mode().IsRegular(), content)
		_ = content.Close() // only returns a decompressor to its pool
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeMetadata reads _metadata.json: an object with an array "invoices" of rows
// like those of QueryMetadata (open-api, POST /invoices/exports). KSeF has cut it
// off before (api-changelog 2.2.0), so nothing short of the whole will do.
func decodeMetadata(content io.Reader) ([]Metadata, error) {
	lookahead := &capped{r: content, left: maxMetadataRow, what: "a row"}
	text := bufio.NewReader(lookahead)
	if mark, _ := text.Peek(3); string(mark) == "\ufeff" {
		_, _ = text.Discard(3) // just peeked at
	}
	d := rowDecoder{json.NewDecoder(text), lookahead}
	rows, err := d.file()
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", metadataName, noEOF(err))
	}
	return rows, nil
}

// rowDecoder holds one value of the file in memory at a time, of bounded length.
type rowDecoder struct {
	json      *json.Decoder
	lookahead *capped
}

func (d rowDecoder) file() (rows []Metadata, err error) {
	if err := d.expect(json.Delim('{')); err != nil {
		return nil, err
	}
	found := false
	for d.json.More() {
		key, err := d.token()
		if err != nil {
			return nil, err
		}
		switch {
		case key != "invoices": // KSeF adds fields without notice
			var ignored json.RawMessage
			err = d.decode(&ignored)
		case found:
			err = errors.New("it has invoices twice")
		default:
			found = true
			rows, err = d.rows()
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.expect(json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := d.token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its end")
	}
	if !found {
		return nil, errors.New("it has no invoices")
	}
	return rows, nil
}

func (d rowDecoder) rows() (rows []Metadata, err error) {
	if err := d.expect(json.Delim('[')); err != nil {
		return nil, err
	}
	for d.json.More() {
		var m Metadata
		if err := d.decode(&m); err != nil {
			return nil, err
		}
		if m.KSeFNumber == "" {
			return nil, fmt.Errorf("row %d lacks its KSeF number", len(rows)+1)
		}
		if rows = append(rows, m); len(rows) > maxPackageInvoices {
			return nil, fmt.Errorf("it has more than %d rows", maxPackageInvoices)
		}
	}
	return rows, d.expect(json.Delim(']'))
}

func (d rowDecoder) decode(into any) error {
	d.lookahead.left = maxMetadataRow
	return d.json.Decode(into)
}

func (d rowDecoder) token() (json.Token, error) {
	d.lookahead.left = maxMetadataRow
	return d.json.Token()
}

func (d rowDecoder) expect(want json.Delim) error {
	token, err := d.token()
	if err == nil && token != want {
		err = fmt.Errorf("%q is missing", want.String())
	}
	return err
}

// capped fails once more than left bytes have come.
type capped struct {
	r    io.Reader
	left int64
	what string // is too large then
}

func (c *capped) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, fmt.Errorf("%s is larger than can be right", c.what)
	}
	return n, err
}

// cappedAt is capped for random access, until done.
type cappedAt struct {
	io.ReaderAt
	left int64
	done bool
}

// ReadAt fails once more than left bytes have come.
func (c *cappedAt) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, at)
	if c.left -= int64(n); c.left < 0 && !c.done {
		return 0, errors.New("the directory of the Zip is larger than can be right")
	}
	return n, err
}

// zeroCounter counts the zero bytes that the stream has ended with so far.
type zeroCounter struct {
	r     io.Reader
	zeros int64
}

func (z *zeroCounter) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if kept := len(bytes.TrimRight(p[:n], "\x00")); kept > 0 {
		z.zeros = int64(n - kept)
	} else {
		z.zeros += int64(n)
	}
	return n, err
}
