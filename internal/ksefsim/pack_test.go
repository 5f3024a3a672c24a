package ksefsim

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"testing"
	"time"
)

// A package that was dropped to save memory comes back the same to the byte: its
// hashes have been told.
func TestDroppedPackageIsMadeAgainTheSame(t *testing.T) {
	for _, compression := range []string{"Zip", "TarGz"} {
		t.Run(compression, func(t *testing.T) {
			s := New(Options{PartSize: 500})
			e := &export{reference: "first", compression: compression, secret: make([]byte, 32), iv: make([]byte, 16), posted: time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)}
			for i := range 20 {
				e.rows = append(e.rows, &stored{Stored: Stored{XML: fmt.Appendf(nil, "<Faktura>%d</Faktura>", i)}})
			}
			before := s.pack(e)
			if s.pack(e) != before {
				t.Error("a package that is kept was made again")
			}
			large := func() *export {
				return &export{packed: &packed{parts: []part{{sealed: make([]byte, packageMemory/2+1)}}}}
			}
			second, third := large(), large()
			s.pack(second)
			if e.packed == nil {
				t.Error("the package was dropped while there was room")
			}
			s.pack(third)
			if e.packed != nil || second.packed != nil || third.packed == nil {
				t.Error("not exactly those used before the last were dropped")
			}
			after := s.pack(e)
			if len(before.parts) < 2 || len(before.parts) != len(after.parts) {
				t.Fatalf("%d parts, then %d", len(before.parts), len(after.parts))
			}
			for i := range before.parts {
				if before.parts[i].sealedHash != after.parts[i].sealedHash || !bytes.Equal(before.parts[i].sealed, after.parts[i].sealed) {
					t.Errorf("part %d is another", i+1)
				}
			}
		})
	}
}

// Nothing of the time at which an archive is written gets into it.
func TestArchiveHasTheDateOfTheExport(t *testing.T) {
	made := time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	written := func(compression string) *bytes.Reader {
		a := newArchive(compression, made)
		a.add(Entry{"a.xml", []byte("<Faktura/>")})
		return bytes.NewReader(a.close())
	}
	text := written("Zip")
	files, err := zip.NewReader(text, text.Size())
	if err != nil || !files.File[0].Modified.Equal(made) {
		t.Errorf("Zip: dated %v, %v; want %v", files.File[0].Modified, err, made)
	}
	plain, err := gzip.NewReader(written("TarGz"))
	if err != nil {
		t.Fatal(err)
	}
	header, err := tar.NewReader(plain).Next()
	if err != nil || !header.ModTime.Equal(made) || !plain.ModTime.IsZero() {
		t.Errorf("TarGz: dated %v and %v, %v; want %v and none", header, plain.ModTime, err, made)
	}
}
