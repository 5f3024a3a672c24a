package ksefsim

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// metadataName is the file in a package that says what the others are
// (open-api, POST /invoices/exports).
const metadataName = "_metadata.json"

// packageMemory bounds what is kept of packages, but for the one used last: more
// are dropped, and made again from the invoices when they are asked for.
const packageMemory = 256 << 20

// Package is the content of an export before it is archived.
type Package struct {
	Entries []Entry // the invoices, ascending by the date asked for, then _metadata.json
}

// Entry is a file in a [Package]. Its data are replaced, never changed in place:
// those of an invoice are the invoice itself.
type Entry struct {
	Name string
	Data []byte
}

// Metadata is the entry _metadata.json, or nil where it has been removed.
func (p *Package) Metadata() *Entry {
	i := slices.IndexFunc(p.Entries, func(e Entry) bool { return e.Name == metadataName })
	if i < 0 {
		return nil
	}
	return &p.Entries[i]
}

// packed is a package ready to be served. It never changes.
type packed struct {
	count int
	last  *stored // the last invoice in it, where it is truncated; else nil
	parts []part
}

// part is a part of a package.
type part struct {
	name       string
	size       int    // before encryption
	hash       string // before encryption
	sealed     []byte
	sealedHash string
}

// pack makes the package of e, or finds it made.
func (s *Server) pack(e *export) *packed {
	e.packing.Lock() // several polls of one export make one package
	defer e.packing.Unlock()
	s.mutex.Lock()
	p := e.packed
	s.mutex.Unlock()
	if p == nil {
		p = e.make(s.packageSize, s.partSize)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	e.packed = p
	s.packages = append(slices.DeleteFunc(s.packages, func(other *export) bool { return other == e }), e)
	total := 0
	for i, each := range slices.Backward(s.packages) {
		for _, one := range each.packed.parts {
			total += len(one.sealed)
		}
		if total > packageMemory && each != e {
			for _, old := range s.packages[:i+1] {
				old.packed = nil
			}
			s.packages = slices.Delete(s.packages, 0, i+1)
			break
		}
	}
	return p
}

// make archives, splits and encrypts what e holds. Made again, it is the same to
// the byte: its hashes have been told.
func (e *export) make(packageSize, partSize int) *packed {
	p := new(packed)
	content := Package{}
	a := newArchive(e.compression, e.posted)
	full := e.capped
	for _, one := range e.rows {
		p.count++
		if !e.onlyMetadata {
			entry := Entry{Name: string(one.Number) + ".xml", Data: one.XML}
			content.Entries = append(content.Entries, entry)
			a.add(entry)
		}
		if a.size() >= packageSize {
			full = true
			break
		}
	}
	if full {
		p.last = e.rows[p.count-1]
	}
	if p.count == 0 && !e.outcome.EmptyPart && e.outcome.Package == nil {
		return p
	}
	entry := metadata(e.rows[:p.count])
	content.Entries = append(content.Entries, entry)
	a.add(entry) // does not count against the size
	if e.outcome.Package != nil {
		e.outcome.Package(&content)
		a = newArchive(e.compression, e.posted)
		for _, each := range content.Entries {
			a.add(each)
		}
	}
	text := a.close()
	if e.outcome.Archive != nil {
		text = e.outcome.Archive(text)
	}
	ending := map[string]string{"Zip": "zip", "TarGz": "tar.gz"}[e.compression]
	for plain := range slices.Chunk(text, partSize) {
		sealed := seal(e.secret, e.iv, plain)
		if e.outcome.Part != nil {
			sealed = e.outcome.Part(sealed)
		}
		p.parts = append(p.parts, part{
			name:       fmt.Sprintf("%s-%03d.%s.aes", e.reference, len(p.parts)+1, ending),
			size:       len(plain),
			hash:       hash(plain),
			sealed:     sealed,
			sealedHash: hash(sealed),
		})
	}
	return p
}

// metadata is the file that lists the invoices of a package.
func metadata(rows []*stored) Entry {
	shown := make([]row, len(rows))
	for i, one := range rows {
		shown[i] = one.row
	}
	text, err := json.Marshal(map[string]any{"invoices": shown})
	if err != nil {
		panic(fmt.Sprintf("the metadata of a package are not JSON: %v", err)) // only a Metadata function can cause it
	}
	return Entry{metadataName, text}
}

// seal encrypts by AES-256-CBC with PKCS#7 (open-api, GET
// /invoices/exports/{referenceNumber}).
func seal(secret, iv, plain []byte) []byte {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // the length was checked with the request
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	sealed := append(slices.Clip(plain), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)
	return sealed
}

// archive writes an archive in memory, where nothing fails: its methods panic on
// errors that only a programmer can cause.
type archive struct {
	out  bytes.Buffer
	zip  *zip.Writer // nil in a TarGz
	tar  *tar.Writer // in a TarGz,
	gzip *gzip.Writer
	made time.Time
}

func newArchive(compression string, made time.Time) *archive {
	a := &archive{made: made}
	if compression == "TarGz" {
		a.gzip = must(gzip.NewWriterLevel(&a.out, flate.BestSpeed))
		a.tar = tar.NewWriter(a.gzip)
		return a
	}
	a.zip = zip.NewWriter(&a.out)
	compressor := must(flate.NewWriter(io.Discard, flate.BestSpeed)) // one for all: a new one costs as much as an entry
	a.zip.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		compressor.Reset(out)
		return compressor, nil
	})
	return a
}

func (a *archive) add(e Entry) {
	if a.zip != nil {
		into := must(a.zip.CreateHeader(&zip.FileHeader{Name: e.Name, Method: zip.Deflate, Modified: a.made}))
		must(into.Write(e.Data))
		return
	}
	err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.Name, Size: int64(len(e.Data)), Mode: 0o644, ModTime: a.made})
	if err != nil {
		panic(err)
	}
	must(a.tar.Write(e.Data))
}

// size is what has been written but for what the compressor still holds: the
// last entry of a Zip, some 64 KB of text in a TarGz.
func (a *archive) size() int {
	if a.zip != nil {
		if err := a.zip.Flush(); err != nil {
			panic(err)
		}
	}
	return a.out.Len()
}

func (a *archive) close() []byte {
	var err error
	if a.zip != nil {
		err = a.zip.Close()
	} else if err = a.tar.Close(); err == nil {
		err = a.gzip.Close()
	}
	if err != nil {
		panic(err)
	}
	return a.out.Bytes()
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
