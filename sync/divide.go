package sync

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
)

// partition is an instant on its way into the mirror by packages: at first one
// of all its invoices, and in place of each that KSeF cuts short two of fewer,
// told apart by a filter. It outlives a cycle that the limits end, but not the
// process: the next one begins anew and finds most of the invoices stored.
type partition struct {
	at      ksef.Timestamp
	hwm     ksef.Timestamp // when it was begun; "" when the stream is beyond it
	pending []ksef.Filter  // the parts that are not stored; the last is next
	divided bool
	asked   db.Export // of the next part, while KSeF prepares it; else without an ID
	// listed has the number of every invoice that came, and whether it came in a
	// part that was not divided further. In the end all did, unless KSeF's filters
	// leave some out.
	listed map[string]bool
	// indivisible says that a part was cut short and that no filter divides it.
	indivisible bool
	refused     error // errFilter, with KSeF's reason; nil: it took every one
}

// problem says what is wrong when the parts do not cover the instant, else "".
func (p *partition) problem() string {
	missed := 0
	for _, covered := range p.listed {
		if !covered {
			missed++
		}
	}
	switch {
	case p.indivisible:
		return "more are alike in gross amount, attachment and self-invoicing than KSeF gives at once"
	case p.refused != nil:
		return p.refused.Error()
	case missed > 0:
		// The parts cover every amount. If they lack what a package without a filter
		// brought, they lack who knows what else.
		return fmt.Sprintf("%d were in none of the parts", missed)
	}
	return ""
}

// divide gives two filters that together select all that f selects, whatever it
// is: each amount is on one side of a limit or on both, and each flag is set or
// not (all are required of InvoiceMetadata, open-api). rows are some of what f
// selects; they tell where to cut. nil: nothing is left to divide by.
func divide(f ksef.Filter, rows []ksef.Metadata) []ksef.Filter {
	one, other := f, f
	if limit, ok := cut(f.Amount, rows); ok {
		below, above := ksef.AmountRange{Type: "Brutto", To: limit}, ksef.AmountRange{Type: "Brutto", From: limit}
		if f.Amount != nil {
			below.From, above.To = f.Amount.From, f.Amount.To
		}
		one.Amount, other.Amount = &below, &above
		return []ksef.Filter{one, other}
	}
	switch {
	case f.HasAttachment == nil:
		one.HasAttachment, other.HasAttachment = new(bool), new(true)
	case f.IsSelfInvoicing == nil:
		one.IsSelfInvoicing, other.IsSelfInvoicing = new(bool), new(true)
	default:
		return nil
	}
	return []ksef.Filter{one, other}
}

// cut finds the gross amount, strictly within a range, that has about half of the
// rows on either side and none on it. So every cut makes the range smaller, and
// where all rows have the same amount two cuts set it apart from any other: then
// there is none left.
func cut(within *ksef.AmountRange, rows []ksef.Metadata) (limit json.Number, ok bool) {
	var low, high *big.Rat // nil: open
	if within != nil {
		low, high = amount(within.From), amount(within.To)
	}
	inside := func(x *big.Rat) bool { return (low == nil || x.Cmp(low) > 0) && (high == nil || x.Cmp(high) < 0) }
	var amounts []*big.Rat
	for _, row := range rows {
		if x := amount(row.GrossAmount); x != nil && (inside(x) || low != nil && x.Cmp(low) == 0 || high != nil && x.Cmp(high) == 0) {
			amounts = append(amounts, x)
		}
	}
	if len(amounts) == 0 {
		return "", false
	}
	slices.SortFunc(amounts, (*big.Rat).Cmp)
	nearest := 0 // to the middle, of the places where the amount changes
	for i := 1; i < len(amounts); i++ {
		if amounts[i-1].Cmp(amounts[i]) < 0 && distance(2*i, len(amounts)) < distance(2*nearest, len(amounts)) {
			nearest = i
		}
	}
	var candidates []*big.Rat
	if nearest > 0 {
		middle := new(big.Rat).Add(amounts[nearest-1], amounts[nearest])
		candidates = append(candidates, middle.Mul(middle, big.NewRat(1, 2)))
	} else { // half a grosz above and below the one amount
		half := big.NewRat(1, 200)
		candidates = append(candidates, new(big.Rat).Add(amounts[0], half), new(big.Rat).Sub(amounts[0], half))
	}
	for _, x := range candidates {
		if inside(x) {
			digits, _ := x.FloatPrec() // exact, as every sum of decimals and half of it
			return json.Number(x.FloatString(digits)), true
		}
	}
	return "", false
}

func distance(a, b int) int { return max(a-b, b-a) }

// amount reads a JSON number exactly; nil for "" and what is none.
func amount(number json.Number) *big.Rat {
	x, ok := new(big.Rat).SetString(number.String())
	if !ok {
		return nil
	}
	return x
}
