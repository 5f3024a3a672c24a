package sheet

import (
	"bufio"
	"io"
	"strings"
)

// CSV writes a table as Excel reads it on a double click in Poland: UTF-8 with a byte
// order mark, semicolons, decimal commas, a row a line with CR LF. A point would make
// dates of some amounts there.
type CSV struct {
	w       *bufio.Writer
	columns []Column
}

// NewCSV writes the headings.
func NewCSV(w io.Writer, columns []Column) (*CSV, error) {
	c := &CSV{w: bufio.NewWriterSize(w, 1<<16), columns: columns}
	headings := make([]string, len(columns))
	for i, column := range columns {
		headings[i] = quoted(column.Heading)
	}
	_, err := c.w.WriteString("\ufeff" + strings.Join(headings, ";") + "\r\n")
	return c, err
}

// Row writes a row. An error may be one of an earlier row.
func (c *CSV) Row(cells []string) error {
	for i, cell := range cells {
		if i > 0 {
			_ = c.w.WriteByte(';') // bufio keeps the first error and gives it at last
		}
		switch {
		case cell == "":
			continue
		case c.columns[i].Kind == Amount && isDecimal(cell):
			cell = strings.Replace(cell, ".", ",", 1)
		default:
			cell = quoted(harmless(cell))
		}
		_, _ = c.w.WriteString(cell)
	}
	_, err := c.w.WriteString("\r\n")
	return err
}

// Close writes what is still held back. It does not close the writer below.
func (c *CSV) Close() error { return c.w.Flush() }

// quoted puts every text in quotes: what is in them cannot begin another cell.
func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }

// isDecimal tells whether a cell is a number as Amount wants it.
func isDecimal(cell string) bool {
	whole, fraction, point := strings.Cut(strings.TrimPrefix(cell, "-"), ".")
	return digits(whole) && (!point || digits(fraction))
}

func digits(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
