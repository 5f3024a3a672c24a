package sync

import (
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"ksefmirror/internal/ksef"
)

// servers are ways in which KSeF may compare amounts: exactly, or as the double
// that open-api calls them, or in whole grosze.
var servers = map[string]func(json.Number) *big.Rat{
	"exact": amount,
	"double": func(n json.Number) *big.Rat {
		x, err := n.Float64()
		if err != nil {
			return nil
		}
		return new(big.Rat).SetFloat64(x)
	},
	"grosze": func(n json.Number) *big.Rat {
		x := amount(n)
		if x == nil {
			return nil
		}
		rounded, _ := new(big.Rat).SetString(x.FloatString(2))
		return rounded
	},
}

// selected is what a server answers: the rows that f selects, as many as a
// package holds, in an order of its own.
func selected(f ksef.Filter, rows []ksef.Metadata, read func(json.Number) *big.Rat, holds int) (answer []ksef.Metadata, full bool) {
	for _, row := range rows {
		x := read(row.GrossAmount)
		if f.Amount != nil && (f.Amount.From != "" && x.Cmp(read(f.Amount.From)) < 0 || f.Amount.To != "" && x.Cmp(read(f.Amount.To)) > 0) ||
			f.HasAttachment != nil && *f.HasAttachment != row.HasAttachment || f.IsSelfInvoicing != nil && *f.IsSelfInvoicing != row.IsSelfInvoicing {
			continue
		}
		answer = append(answer, row)
	}
	return answer[:min(holds, len(answer))], len(answer) >= holds
}

// Whatever the rows, their order, and how the server compares: dividing ends, and
// every row is in a part that is whole, or in one that is reported as indivisible.
// If the server compares exactly, what is indivisible is of one amount.
func TestDivideIsComplete(t *testing.T) {
	const holds = 10
	pools := map[string][]json.Number{
		"ordinary":           {"1", "12.3", "99.99", "100", "100.01", "100.02", "1230.00", "4e2", "-17.5", "0", "0.00"},
		"neighbours":         {"0", "0.01", "0.02", "-0.01", "0.005", "0.0049", "0.015"},
		"beyond doubles":     {"1000000000000000.01", "1000000000000000.02", "1000000000000000.03", "1e15", "-1e15"},
		"one":                {"246.00"},
		"one and a few more": {"246.00", "246.00", "246.00", "246.00", "246.00", "246.00", "246.01", "12"},
	}
	for server, read := range servers {
		for name, pool := range pools {
			t.Run(server+" "+name, func(t *testing.T) {
				for seed := range uint64(15) {
					random := rand.New(rand.NewPCG(seed, 1))
					rows := make([]ksef.Metadata, random.IntN(20*holds))
					for i := range rows {
						rows[i] = ksef.Metadata{
							KSeFNumber: strconv.Itoa(i), GrossAmount: pool[random.IntN(len(pool))],
							HasAttachment: random.IntN(9) == 0, IsSelfInvoicing: random.IntN(9) == 0,
						}
					}
					switch by := func(a, b ksef.Metadata) int { return amount(a.GrossAmount).Cmp(amount(b.GrossAmount)) }; seed % 3 {
					case 0: // what comes first says least about the rest
						slices.SortFunc(rows, by)
					case 1:
						slices.SortFunc(rows, func(a, b ksef.Metadata) int { return by(b, a) })
					}
					divideAll(t, rows, read, holds, server == "exact")
				}
			})
		}
	}
}

func divideAll(t *testing.T, rows []ksef.Metadata, read func(json.Number) *big.Rat, holds int, exact bool) {
	t.Helper()
	covered := map[string]bool{}
	pending := []ksef.Filter{{}}
	for parts := 1; len(pending) > 0; parts++ {
		if parts > 10*(len(rows)+holds) {
			t.Fatalf("%d rows: no end after %d parts", len(rows), parts)
		}
		f := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		answer, full := selected(f, rows, read, holds)
		if full {
			if divided := divide(f, answer); divided != nil {
				pending = append(pending, divided...)
				continue
			}
			all, _ := selected(f, rows, read, len(rows)+1)
			for _, row := range all {
				covered[row.KSeFNumber] = true
				if apart := new(big.Rat).Sub(read(row.GrossAmount), read(all[0].GrossAmount)); exact && apart.Abs(apart).Cmp(big.NewRat(1, 100)) > 0 {
					t.Fatalf("%s and %s were called indivisible", row.GrossAmount, all[0].GrossAmount)
				}
			}
		}
		for _, row := range answer {
			covered[row.KSeFNumber] = true
		}
	}
	for _, row := range rows {
		if !covered[row.KSeFNumber] {
			t.Fatalf("%d rows: one of %s is in no part", len(rows), row.GrossAmount)
		}
	}
}

// Rows that cannot be what was asked for do not keep dividing from ending.
func TestDivideEnds(t *testing.T) {
	for name, gross := range map[string][]json.Number{
		"no amount":           {"", ""},
		"no number":           {"NaN", "1e9999999", "x"},
		"filter not followed": {"1", "2", "3", "4", "5"},
	} {
		rows := make([]ksef.Metadata, len(gross))
		for i := range rows {
			rows[i].GrossAmount = gross[i]
		}
		pending := []ksef.Filter{{}}
		for parts := 0; len(pending) > 0; parts++ {
			if parts > 200 {
				t.Fatalf("%s: no end after %d parts", name, parts)
			}
			last := len(pending) - 1
			pending = append(pending[:last], divide(pending[last], rows)...)
		}
	}
}
