package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"unicode"
)

// The statements take a list of invoices in JSON: each statement makes the index write
// what it has, which costs more than an invoice does.
const (
	insertSearch = `INSERT INTO invoice_search(rowid, text) SELECT id, text FROM search_texts WHERE id IN (SELECT value FROM json_each(?))`
	deleteSearch = `DELETE FROM invoice_search WHERE rowid IN (SELECT value FROM json_each(?))`
)

// addToSearch lets the full-text search find invoices, by their rows as they are now.
//
// The index keeps no texts. When rows of an invoice are to change, they must be as they
// were for removeFromSearch before, and be added again afterwards, all in one
// transaction: otherwise words that the invoice has no more would find it for good.
func (d *DB) addToSearch(ctx context.Context, tx *sql.Tx, invoices []int64) error {
	return d.changeSearch(ctx, tx, insertSearch, invoices)
}

// removeFromSearch makes the full-text search forget invoices that it finds.
func (d *DB) removeFromSearch(ctx context.Context, tx *sql.Tx, invoices []int64) error {
	return d.changeSearch(ctx, tx, deleteSearch, invoices)
}

func (d *DB) changeSearch(ctx context.Context, tx *sql.Tx, statement string, invoices []int64) error {
	if len(invoices) == 0 {
		return nil
	}
	list, err := json.Marshal(invoices)
	if err != nil {
		return err
	}
	_, err = d.exec(ctx, tx, statement, string(list))
	return err
}

// searchCondition holds for the invoices, as i, that a query of searchQuery finds.
const searchCondition = `i.id IN (SELECT rowid FROM invoice_search WHERE invoice_search MATCH ?)`

const selectSearch = `SELECT i.ksef_number FROM invoices i WHERE ` + searchCondition + ` ORDER BY i.id DESC LIMIT ?`

// Search gives the KSeF numbers of the invoices that have every word of text in their
// number, the names of their parties or the descriptions of their lines, the one that
// was stored last first, and at most limit. Case and diacritics do not matter; a word
// that ends with * stands for all that begin so. Text without a letter or digit finds
// nothing. Any text is allowed.
func (d *DB) Search(ctx context.Context, text string, limit int) ([]string, error) {
	query := searchQuery(text)
	if query == "" {
		return nil, nil
	}
	rows, err := d.read.statements[selectSearch].QueryContext(ctx, query, limit)
	if err != nil {
		return nil, d.explain("search", err)
	}
	defer rows.Close()
	var numbers []string
	for rows.Next() {
		var number string
		if err := rows.Scan(&number); err != nil {
			return nil, d.explain("search", err)
		}
		numbers = append(numbers, number)
	}
	return numbers, d.explain("search", rows.Err())
}

// searchQuery makes of what a person writes a query of FTS5 for all of its words, or
// "" where it has none. The index knows no phrases, so that a number such as FV/12 is
// cut into words as the index cuts it.
func searchQuery(text string) string {
	var words []string
	for {
		begin := strings.IndexFunc(text, beginsWord)
		if begin < 0 || len(words) == maxSearchWords {
			return strings.Join(words, " ")
		}
		text = text[begin:]
		end := strings.IndexFunc(text, func(r rune) bool { return !beginsWord(r) && !isDropped(r) })
		if end < 0 {
			end = len(text)
		}
		word := `"` + text[:end] + `"`
		if text = text[end:]; strings.HasPrefix(text, "*") {
			word += "*"
		}
		words = append(words, word)
	}
}

// maxSearchWords of a text are looked for: more than anyone writes. The time that FTS5
// takes for a query grows with the square of its words.
const maxSearchWords = 100

// beginsWord tells what is a letter or digit for the tokenizer unicode61, which goes
// by Unicode 6.1: two ranges have become letters since. What it takes for a letter
// beside these is not in any text.
func beginsWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.Co) && (r < 0x19b0 || r > 0x19c9) && r != 0x1cf2 && r != 0x1cf3
}

// isDropped tells the combining accents of European languages, which the tokenizer
// drops within a word: some systems write é as two characters.
func isDropped(r rune) bool {
	return r >= 0x300 && r <= 0x304 || r >= 0x306 && r <= 0x30c || r >= 0x323 && r <= 0x328
}
