// Package sheet writes tables for spreadsheet programs, as CSV and XLSX, row by row.
// Texts in them come from strangers: no cell is ever a formula. It knows nothing of
// invoices.
package sheet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// Kind is what the cells of a column hold.
type Kind int

// Every [Kind]. A cell is a string; "" is an empty one.
const (
	Text   Kind = iota // stays text: numbers of companies and accounts are no numbers
	Amount             // an exact decimal with a point, such as -12.05
	Date               // YYYY-MM-DD
)

// Column is one column of a table.
type Column struct {
	Heading string
	Kind    Kind
	Width   int // in characters, where the form has widths
}

// Table takes the rows of a table.
type Table interface {
	// Row writes a row of as many cells as there are columns.
	Row(cells []string) error
}

// marks begin what spreadsheet programs take for a formula: the four signs, the minus
// sign, and the full-width forms that they take for the same where Chinese, Japanese
// or Korean is spoken.
const marks = "=+-@" + "\u2212" + "\uff1d\uff0b\uff0d\uff20" + "\ufe66\ufe62\ufe63\ufe6b"

// separators are those between cells: a program that expects another one than is
// used begins a cell after it.
const separators = ",;|"

// harmless gives a text of which no spreadsheet program takes any part for a formula:
// an apostrophe stands before what one would, at the beginning and after anything that
// could be taken for the end of a cell, whatever spaces and quotes are between them.
// Line breaks, tabs and other control characters become spaces.
func harmless(text string) string {
	var b strings.Builder
	begins := true // nothing but spaces and quotes came since the beginning of what may be a cell
	for _, r := range text {
		switch {
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			begins = true // a tab or a line break may end a cell
			r = ' '
		case strings.ContainsRune(marks, r):
			if begins {
				b.WriteByte('\'')
			}
			begins = false
		case strings.ContainsRune(separators, r):
			begins = true
		case unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Quotation_Mark, r) || r == '`' || r == '\'':
		default:
			begins = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Create lets write fill a new file, and gives it its name when it is complete: the
// file is there whole or not at all. The error wraps [fs.ErrExist] where something has
// the name already, which is left as it is.
//
// A crash may leave a file beside it whose name begins with a dot and ends with
// .partial.
func Create(path string, write func(*os.File) error) (err error) {
	if _, err := os.Lstat(path); err == nil { // asked before the work; the link below tells for good
		return exists(path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.partial")
	if err != nil {
		return err
	}
	defer func() {
		if failed := os.Remove(file.Name()); failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}()
	err = write(file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	switch err := os.Link(file.Name(), path); {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return exists(path)
	}
	// Not every file system has links.
	if _, err := os.Lstat(path); err == nil {
		return exists(path)
	}
	return os.Rename(file.Name(), path)
}

func exists(path string) error {
	return fmt.Errorf("%s: %w: it is left as it is", path, fs.ErrExist)
}
