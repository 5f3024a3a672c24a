package sheet

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/xuri/excelize/v2"
)

// MaxRows is how many rows fit on a sheet of XLSX, its heading not counted.
const MaxRows = excelize.TotalRows - 1

// exactDigits is how many digits of a number spreadsheet programs keep.
const exactDigits = 15

// XLSX writes a workbook. Rows that are many are kept in a temporary file, not in
// memory. Amounts are numbers, dates are dates, and all else is text; an amount of
// more digits than spreadsheet programs keep is text too.
type XLSX struct {
	file                 *excelize.File
	heading, amount, day int // styles
	sheets               int
	open                 *Sheet // the last one
}

// NewXLSX makes a workbook without sheets. It must be closed.
func NewXLSX() (*XLSX, error) {
	x := &XLSX{file: excelize.NewFile()}
	iso := "yyyy-mm-dd"
	var err [3]error
	x.heading, err[0] = x.file.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}})
	x.amount, err[1] = x.file.NewStyle(&excelize.Style{NumFmt: 4}) // #,##0.00
	x.day, err[2] = x.file.NewStyle(&excelize.Style{CustomNumFmt: &iso})
	return x, errors.Join(err[:]...)
}

// Sheet is one sheet of a workbook.
type Sheet struct {
	x       *XLSX
	stream  *excelize.StreamWriter
	columns []Column
	rows    int
}

// Sheet adds a sheet with its headings, which stay in sight. The one before takes no
// more rows.
func (x *XLSX) Sheet(name string, columns []Column) (*Sheet, error) {
	if err := x.end(); err != nil {
		return nil, err
	}
	var err error
	if x.sheets == 0 {
		err = x.file.SetSheetName(x.file.GetSheetName(0), name) // a new workbook has one
	} else {
		_, err = x.file.NewSheet(name)
	}
	if err != nil {
		return nil, fmt.Errorf("sheet %s: %w", name, err)
	}
	stream, err := x.file.NewStreamWriter(name)
	if err != nil {
		return nil, fmt.Errorf("sheet %s: %w", name, err)
	}
	x.sheets++
	x.open = &Sheet{x: x, stream: stream, columns: columns}
	headings := make([]any, len(columns))
	for i, column := range columns {
		headings[i] = excelize.Cell{StyleID: x.heading, Value: column.Heading}
		if err := stream.SetColWidth(i+1, i+1, float64(column.Width)); err != nil {
			return nil, fmt.Errorf("sheet %s: %w", name, err)
		}
	}
	err = stream.SetPanes(&excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"})
	if err == nil {
		err = x.open.set(headings)
	}
	return x.open, err
}

// Row writes a row. More than MaxRows are refused.
func (s *Sheet) Row(cells []string) error {
	if s.rows > MaxRows {
		return fmt.Errorf("more than %d rows do not fit on a sheet: choose a shorter time, or CSV", MaxRows)
	}
	values := make([]any, len(cells))
	for i, cell := range cells {
		values[i] = s.x.value(s.columns[i].Kind, cell)
	}
	return s.set(values)
}

func (s *Sheet) set(values []any) error {
	s.rows++
	return s.stream.SetRow("A"+strconv.Itoa(s.rows), values)
}

// value gives a cell as excelize takes it. A string there is never a formula.
func (x *XLSX) value(kind Kind, cell string) any {
	switch {
	case cell == "":
		return nil
	case kind == Amount && isDecimal(cell) && len(strings.Trim(cell, "-.")) <= exactDigits:
		if number, err := strconv.ParseFloat(cell, 64); err == nil {
			return excelize.Cell{StyleID: x.amount, Value: number}
		}
	case kind == Date:
		// Days are counted from 1899-12-30; those before March 1900 are counted otherwise.
		if day, err := time.Parse(time.DateOnly, cell); err == nil && day.Year() > 1900 {
			return excelize.Cell{StyleID: x.day, Value: int(day.Sub(time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC)).Hours() / 24)}
		}
	}
	return cell
}

func (x *XLSX) end() error {
	if x.open == nil {
		return nil
	}
	err := x.open.stream.Flush()
	x.open = nil
	return err
}

// Write writes the workbook, which takes no more rows then.
func (x *XLSX) Write(w io.Writer) error {
	if err := x.end(); err != nil {
		return err
	}
	return x.file.Write(w)
}

// Close removes the temporary files.
func (x *XLSX) Close() error { return x.file.Close() }
