package sync

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/parse"
)

// Month compares what KSeF lists of one month and currency with what is here.
type Month struct {
	Month    string `json:"month"` // YYYY-MM; "" for what states no date
	Currency string `json:"currency"`
	Partial  bool   `json:"partial"` // of months of permanent storage: only a part of it was compared
	KSeF     Sums   `json:"ksef"`
	Here     Sums   `json:"here"`
}

// Sums are exact, of the amounts that KSeF states in its list: decimal numbers
// with two places.
type Sums struct {
	Invoices int    `json:"invoices"`
	Net      string `json:"net"`
	VATPLN   string `json:"vat_pln"` // in PLN, whatever the currency
	Gross    string `json:"gross"`
	Unstated int    `json:"unstated"` // amounts that are in no sum: none was stated, none in hundredths, or one too large
}

// table gathers sums. They are of any size: an issuer may state what it likes.
type table struct {
	warsaw             *time.Location
	byStored, byIssued map[monthOf]*monthSums
}

type monthOf struct{ month, currency string }

type monthSums struct{ ksef, here sums }

type sums struct {
	invoices, unstated int
	net, vat, gross    big.Int
}

func newTable(warsaw *time.Location) table {
	return table{warsaw, map[monthOf]*monthSums{}, map[monthOf]*monthSums{}}
}

// add adds one part of a range: what is listed in it before end, and what is held
// in it. An invoice on both sides is counted under KSeF's date and currency, for
// those that are stored come from the document and need not be the same.
func (t table) add(end ksef.Timestamp, listed map[string]*ksef.Metadata, held []db.Held) {
	for _, row := range listed {
		if row.Stored.Compare(end) >= 0 {
			continue
		}
		stored, issued := t.rowsOf(row.Stored.Time(), row.IssueDate, row.Currency)
		for _, m := range []*monthSums{stored, issued} {
			m.ksef.add(minor(row.NetAmount.String()), minor(row.VATAmount.String()), minor(row.GrossAmount.String()))
		}
	}
	for _, h := range held {
		at, issueDate, currency := h.StoredAt, h.IssueDate, h.Currency
		if row := listed[h.KSeFNumber]; row != nil {
			at, issueDate, currency = row.Stored.Time(), row.IssueDate, row.Currency
		}
		stored, issued := t.rowsOf(at, issueDate, currency)
		for _, m := range []*monthSums{stored, issued} {
			m.here.add(h.Net, h.VATPLN, h.Gross)
		}
	}
}

// rowsOf gives the two rows in which an invoice counts.
func (t table) rowsOf(stored time.Time, issueDate, currency string) (byStored, byIssued *monthSums) {
	row := func(of map[monthOf]*monthSums, month string) *monthSums {
		key := monthOf{month, currency}
		if of[key] == nil {
			of[key] = &monthSums{}
		}
		return of[key]
	}
	issueMonth := issueDate
	if len(issueMonth) > len("2006-01") {
		issueMonth = issueMonth[:len("2006-01")]
	}
	return row(t.byStored, stored.In(t.warsaw).Format("2006-01")), row(t.byIssued, issueMonth)
}

func (s *sums) add(net, vat, gross parse.Minor) {
	s.invoices++
	for _, each := range []struct {
		sum    *big.Int
		amount parse.Minor
	}{{&s.net, net}, {&s.vat, vat}, {&s.gross, gross}} {
		if !each.amount.Stated {
			s.unstated++
			continue
		}
		each.sum.Add(each.sum, big.NewInt(each.amount.Value))
	}
}

func (s *sums) shown() Sums {
	return Sums{s.invoices, decimal(&s.net), decimal(&s.vat), decimal(&s.gross), s.unstated}
}

// decimal writes hundredths.
func decimal(n *big.Int) string {
	whole, rest := new(big.Int).QuoRem(new(big.Int).Abs(n), big.NewInt(100), new(big.Int))
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	return fmt.Sprintf("%s%s.%02d", sign, whole, rest.Int64())
}

// months gives both tables, by month and currency, of a range.
func (t table) months(from, to time.Time) (byStored, byIssued []Month) {
	shown := func(of map[monthOf]*monthSums) []Month {
		months := []Month{}
		for _, key := range slices.SortedFunc(maps.Keys(of), func(a, b monthOf) int {
			return cmp.Or(cmp.Compare(a.month, b.month), cmp.Compare(a.currency, b.currency))
		}) {
			months = append(months, Month{Month: key.month, Currency: key.currency, KSeF: of[key].ksef.shown(), Here: of[key].here.shown()})
		}
		return months
	}
	byStored, byIssued = shown(t.byStored), shown(t.byIssued)
	for i := range byStored {
		begin, err := time.ParseInLocation("2006-01", byStored[i].Month, t.warsaw)
		byStored[i].Partial = err != nil || begin.Before(from) || begin.AddDate(0, 1, 0).After(to)
	}
	return byStored, byIssued
}
