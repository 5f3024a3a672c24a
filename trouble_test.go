package main

import (
	"bytes"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
)

// agrees holds the mirror against KSeF: every invoice that KSeF lists is a row with
// KSeF's bytes and a file with them, and there is no other.
func (p *place) agrees() {
	p.t.Helper()
	oracle := map[string][]byte{}
	for _, role := range []ksef.SubjectType{ksef.Seller, ksef.Buyer, ksef.ThirdParty, ksef.Authorized} {
		for _, s := range p.sim.Listed(company, role) {
			oracle[string(s.Number)] = s.XML
		}
	}
	d, err := db.OpenReadOnly(p.t.Context(), p.database())
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = d.Close() }() // it was only read
	rows := 0
	for row, err := range d.Files(p.t.Context()) {
		if err != nil {
			p.t.Fatal(err)
		}
		rows++
		file, err := os.ReadFile(filepath.Join(p.dir, "data", "acme", "invoices", filepath.FromSlash(row.Path)))
		if err != nil || !bytes.Equal(file, oracle[row.KSeFNumber]) {
			p.t.Errorf("the file of %s is not what KSeF serves: %v", row.KSeFNumber, err)
		}
		document, err := d.Document(p.t.Context(), row.KSeFNumber)
		if err != nil || !bytes.Equal(document, oracle[row.KSeFNumber]) {
			p.t.Errorf("the database's copy of %s is not what KSeF serves: %v", row.KSeFNumber, err)
		}
	}
	files := 0
	for _, path := range p.invoices() {
		if !tree.IsKept(filepath.ToSlash(path)) {
			files++
		}
	}
	if rows != len(oracle) || files != len(oracle) {
		p.t.Errorf("%d rows and %d files of %d invoices in KSeF", rows, files, len(oracle))
	}
}

// untilMirrored reads the log until so many invoices are mirrored.
func (d *daemon) untilMirrored(count int) {
	d.t.Helper()
	for mirrored := 0; mirrored < count; _, mirrored = d.watermarks() {
		d.until("cycle done")
	}
}

// The mirror's folder, or that of its invoices alone, goes while the daemon works, and
// comes back: the next cycle says so, nothing is begun in its place, and the daemon goes
// on by itself.
func TestFolderRenamedUnderTheDaemon(t *testing.T) {
	long(t) // a failure is followed by a pause of half a minute
	t.Parallel()
	// status cannot know that there was a mirror.
	for folder, status := range map[string]int{"acme": 1, filepath.Join("acme", "invoices"): 2} {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			p := newRestless(t, ksefsim.Options{})
			p.generate(5)
			d := p.daemon()
			d.until("cycle done", `"authorized"`)
			d.until("cycle done")
			path := filepath.Join(p.dir, "data", folder)
			if err := os.Rename(path, path+"-2025"); err != nil {
				t.Fatal(err)
			}
			p.add(ksefsim.GenerateOptions{Count: 3, Context: company, Seed: 3})
			if line := d.until("mirror is in trouble"); !strings.Contains(line, "mount") {
				t.Errorf("it does not say what to do: %s", line)
			}
			p.want(status, []string{"mount"}, "status")
			p.want(1, []string{"mount"}, "reconcile") // through the daemon, which opens the mirror for it
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is begun in its place: %v", err)
			}
			if err := os.Rename(path+"-2025", path); err != nil {
				t.Fatal(err)
			}
			d.until("mirror recovered")
			d.untilMirrored(8)
			if log := d.stop(); strings.Count(log, "mirror is in trouble") != 1 {
				t.Errorf("one trouble, and the log says\n%s", log)
			}
			p.agrees()
		})
	}
}

// A program that reads holds its transaction for as long as it likes. It sees what it saw
// at the beginning, holds up nothing, and what was written meanwhile is written back
// once it has ended.
func TestReaderHoldsATransactionBesideTheDaemon(t *testing.T) {
	long(t)
	t.Parallel()
	p := newRestless(t, ksefsim.Options{})
	p.generate(5)
	d := p.daemon()
	d.untilMirrored(5)
	pool, err := sql.Open("sqlite", p.database()+"?mode=ro&_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close() }() // it was only read
	reader, err := pool.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	sees := func() (count int) {
		if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM v_invoices").Scan(&count); err != nil {
			t.Fatal(err)
		}
		return count
	}
	if got := sees(); got != 5 {
		t.Fatalf("it sees %d invoices", got)
	}
	for i := range 3 {
		p.add(ksefsim.GenerateOptions{Count: 2, Context: company, Seed: uint64(10 + i)})
		d.untilMirrored(7 + 2*i)
		if got := sees(); got != 5 {
			t.Errorf("within one transaction it sees %d invoices", got)
		}
	}
	if err := reader.Rollback(); err != nil {
		t.Fatal(err)
	}
	if log := d.stop(); strings.Contains(log, "in trouble") || strings.Contains(log, "locked") {
		t.Errorf("the reader was in the way:\n%s", log)
	}
	if info, err := os.Stat(p.database() + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the write-ahead log: %v, %v", info, err)
	}
	p.agrees()
}
