package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"ksefmirror/db"
	"ksefmirror/internal/tree"
)

// Verification is what [Auditor.Verify] found. Paths are relative to the
// mirror's invoices folder.
type Verification struct {
	Invoices int      // rows checked
	Missing  []string // a row whose file is not there
	Changed  []string // a row whose file has other content
	Damaged  []string // a row whose copy in the database cannot be read
	Repaired []string // of Missing and Changed, those restored from the database
	Kept     []string // where a changed file was kept when it was repaired
	NoRow    []string // a file that no row names; it stays where it is
}

// Whole tells that every row has its file, every file its row, and both copies
// of every invoice are good.
func (v Verification) Whole() bool {
	return len(v.Missing)+len(v.Changed) == len(v.Repaired) && len(v.Damaged)+len(v.NoRow) == 0
}

// Verify reads every file and every copy in the database and compares their
// SHA-256 with what KSeF stated. With repair it writes missing and changed files
// anew from the database; a changed file is kept beside. It deletes nothing.
func (au *Auditor) Verify(ctx context.Context, repair bool) (Verification, error) {
	var v Verification
	paths := map[string]bool{}
	for row, err := range au.db.Files(ctx) {
		if err != nil {
			return v, err
		}
		v.Invoices++
		paths[row.Path] = true
		if err := au.verifyOne(ctx, row, repair, &v); err != nil {
			return v, err
		}
	}
	for entry, err := range au.invoices.Walk() {
		if err != nil {
			return v, err
		}
		if !paths[entry.Path] && !tree.IsKept(entry.Path) {
			v.NoRow = append(v.NoRow, entry.Path)
		}
	}
	return v, nil
}

func (au *Auditor) verifyOne(ctx context.Context, row db.StoredFile, repair bool, v *Verification) error {
	document, err := au.db.Document(ctx, row.KSeFNumber)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		au.log.Warn("copy in the database cannot be read", "ksef_number", row.KSeFNumber, "err", err)
		v.Damaged = append(v.Damaged, row.Path)
	}
	content, readErr := au.invoices.Read(row.Path)
	switch {
	case readErr == nil && sha256.Sum256(content) == row.SHA256:
		return nil
	case errors.Is(readErr, fs.ErrNotExist):
		v.Missing = append(v.Missing, row.Path)
	case errors.Is(readErr, tree.ErrNotMounted):
		return readErr
	default: // other content, or a folder or link in its place, or a file too large to be ours
		v.Changed = append(v.Changed, row.Path)
	}
	if !repair || err != nil {
		return nil
	}
	kept, err := au.invoices.Put(ctx, tree.File{Path: row.Path, Content: document})
	if err != nil {
		return err
	}
	v.Repaired = append(v.Repaired, row.Path)
	for _, k := range kept {
		v.Kept = append(v.Kept, k.Beside)
	}
	return nil
}

// lookedUpTogether are the numbers that Unnamed asks the database for at once: they
// and what it answers are in memory.
const lookedUpTogether = 10_000

// Unnamed gives, by the KSeF numbers that end their names, the files of a tree whose
// invoice has no row in the database: their slash-separated paths in the tree.
func Unnamed(ctx context.Context, d *db.DB, invoices *tree.Tree) (map[string][]string, error) {
	files := map[string][]string{}
	for entry, err := range invoices.Walk() {
		if err != nil {
			return nil, err
		}
		if number := tree.NumberOf(entry.Path); number != "" {
			files[number] = append(files[number], entry.Path)
		}
	}
	for numbers := range slices.Chunk(slices.Collect(maps.Keys(files)), lookedUpTogether) {
		known, err := d.Known(ctx, numbers)
		if err != nil {
			return nil, err
		}
		for number := range known {
			delete(files, number)
		}
	}
	return files, nil
}
