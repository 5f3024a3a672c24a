package db

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Record is a row as the database has it, for those who show or pass on what is
// there without deciding by it.
type Record struct {
	columns []string
	values  []any // nil, int64 or string
}

// Columns gives the names of its columns, in order. The caller must not change them.
func (r Record) Columns() []string { return r.columns }

// Value gives a column: nil for NULL, an int64 or a string. A column that the row
// does not have is the caller's mistake, and nil.
func (r Record) Value(column string) any {
	if i := slices.Index(r.columns, column); i >= 0 {
		return r.values[i]
	}
	return nil
}

// Text gives a column as text: of an amount in hundredths its exact decimal, "" for
// NULL.
func (r Record) Text(column string) string {
	switch value := r.Value(column).(type) {
	case string:
		return value
	case int64:
		if strings.HasSuffix(column, amountSuffix) {
			return Decimal(value)
		}
		return strconv.FormatInt(value, 10)
	}
	return ""
}

// Is tells whether a flag is set.
func (r Record) Is(column string) bool { return r.Value(column) == int64(1) }

// amountSuffix ends the name of every column that holds hundredths.
const amountSuffix = "_minor"

// Decimal writes hundredths as a decimal with a point, such as -0.05.
func Decimal(minor int64) string {
	sign, rest := "", uint64(minor) //nolint:gosec // of a negative one the next line takes the absolute value, which fits
	if minor < 0 {
		sign, rest = "-", -rest
	}
	return fmt.Sprintf("%s%d.%02d", sign, rest/100, rest%100)
}

// MarshalJSON gives an object with the columns in their order. An amount is an exact
// decimal in a string, under the name without _minor; NULL is null.
func (r Record) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, column := range r.columns {
		name, value := column, r.values[i]
		if base, isAmount := strings.CutSuffix(column, amountSuffix); isAmount {
			if slices.Contains(r.columns, base) {
				continue // a view has both
			}
			name = base
			if minor, ok := value.(int64); ok {
				value = Decimal(minor)
			}
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// scanRecord reads the row that rows is at.
func scanRecord(rows *sql.Rows, columns []string) (Record, error) {
	r := Record{columns, make([]any, len(columns))}
	places := make([]any, len(columns))
	for i := range places {
		places[i] = &r.values[i]
	}
	return r, rows.Scan(places...)
}

// without takes columns away.
func (r Record) without(columns ...string) Record {
	var rest Record
	for i, column := range r.columns {
		if !slices.Contains(columns, column) {
			rest.columns, rest.values = append(rest.columns, column), append(rest.values, r.values[i])
		}
	}
	return rest
}
