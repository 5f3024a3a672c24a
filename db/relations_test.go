package db

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// relative is an invoice of a story.
type relative struct {
	name, kind, number, date string
	gross                    int64  // its net is twice, its VAT three times that, so that they are told apart; notStated
	form                     string // "": FA
	seller                   string // "": that of the story
	currency                 string // "": PLN
	orderValue, toPay        int64  // 0: not stated
	after                    int64  // of PEF_KOR: the gross after it
	references               []parse.Reference
	replaces                 string // the name of the invoice that it technically corrects
}

const notStated = math.MinInt64

// corrects and settles name an invoice by what stands for its KSeF number in a story,
// the others by the issuer's.
func corrects(name string) parse.Reference {
	return parse.Reference{Relation: "corrects", KSeFNumber: name}
}
func settles(name string) parse.Reference {
	return parse.Reference{Relation: "settles_advance", KSeFNumber: name}
}
func correctsNumber(number, date string) parse.Reference {
	return parse.Reference{Relation: "corrects", Number: number, IssueDate: date, OutsideKSeF: true}
}
func settlesNumber(number, date string) parse.Reference {
	return parse.Reference{Relation: "settles_advance", Number: number, IssueDate: date, OutsideKSeF: true}
}

// related are the rows of the views about a story, one a line.
type related struct {
	Corrections string // invoice, position: the one it corrects, or how many fit
	Advances    string // likewise
	Chain       string // original, step, invoice: gross, and gross after it
	Settlements string // invoice: found/named advances, order value, paid, left, left by the sum
	Technical   string // invoice: the one it corrects
}

var stories = map[string]struct {
	invoices []relative
	want     related
}{
	"by both numbers, of a correction, with another seller": {
		[]relative{
			{name: "F", kind: "VAT", number: "FV/1", date: "2026-01-05", gross: 10000},
			{name: "K1", kind: "KOR", number: "K/1", date: "2026-01-10", gross: -1000, references: []parse.Reference{corrects("F")}},
			{name: "K2", kind: "KOR", number: "K/2", date: "2026-02-10", gross: -500, references: []parse.Reference{correctsNumber("K/1", "2026-01-10")}},
			// It has the number and the date of the original itself.
			{name: "K3", kind: "KOR", number: "FV/1", date: "2026-01-05", references: []parse.Reference{correctsNumber("FV/1", "2026-01-05")}},
			{name: "X", kind: "VAT", number: "FV/1", date: "2026-01-05", gross: 7, seller: "other"},
		},
		related{
			Corrections: "K1 1: F; K2 1: K1; K3 1: F",
			Chain:       "F 0 F: 10000 10000; F 1 K3: 0 10000; F 2 K1: -1000 9000; F 3 K2: -500 8500 last",
		},
	},
	"collective": {
		[]relative{
			{name: "F1", kind: "VAT", number: "FV/1", date: "2026-01-05", gross: 10000},
			{name: "F2", kind: "VAT", number: "FV/2", date: "2026-01-05", gross: 20000},
			{name: "KA", kind: "KOR", number: "K/1", date: "2026-02-01", gross: -100, references: []parse.Reference{corrects("F1")}},
			// All that it names is of one chain.
			{name: "KB", kind: "KOR", number: "K/2", date: "2026-02-15", gross: -50, references: []parse.Reference{corrects("F1"), correctsNumber("K/1", "2026-02-01")}},
			{name: "KC", kind: "KOR", number: "K/3", date: "2026-03-01", gross: -3000, references: []parse.Reference{corrects("F1"), correctsNumber("FV/2", "2026-01-05"), corrects("missing")}},
		},
		related{
			Corrections: "KA 1: F1; KB 1: F1 (of 2); KB 2: KA (of 2); KC 1: F1 (of 2); KC 2: F2 (of 2); KC 3: 0 fit (of 2)",
			Chain:       "F1 0 F1: 10000 10000; F1 1 KA: -100 9900; F1 2 KB: -50 9850; F1 3 KC: -3000 unknown last; F2 0 F2: 20000 20000; F2 1 KC: -3000 unknown last",
		},
	},
	"one number for two that fit, and for one by its type": {
		[]relative{
			{name: "A", kind: "VAT", number: "1", date: "2026-01-05", gross: 100},
			{name: "B", kind: "UPR", number: "1", date: "2026-01-05", gross: 200},
			{name: "Z", kind: "ZAL", number: "1", date: "2026-01-05", gross: 300},
			{name: "K", kind: "KOR", number: "K", date: "2026-01-06", gross: -1, references: []parse.Reference{correctsNumber("1", "2026-01-05"), correctsNumber("1", "2026-01-06"), correctsNumber("1", "")}},
			{name: "KZ", kind: "KOR_ZAL", number: "KZ", date: "2026-01-06", gross: -2, references: []parse.Reference{correctsNumber("1", "2026-01-05"), correctsNumber("1", "")}},
		},
		related{
			Corrections: "K 1: 2 fit (of 2); K 2: 0 fit (of 2); K 3: 0 fit (of 2); KZ 1: Z (of 2); KZ 2: 0 fit (of 2)",
			Chain:       "Z 0 Z: 300 300; Z 1 KZ: -2 unknown last",
		},
	},
	"advances and their corrections before and after the settlement": {
		[]relative{
			{name: "Z1", kind: "ZAL", number: "Z/1", date: "2026-01-05", gross: 30000, orderValue: 100000},
			{name: "Z2", kind: "ZAL", number: "Z/2", date: "2026-01-15", gross: 20000, orderValue: 100000},
			{name: "K1", kind: "KOR_ZAL", number: "K/1", date: "2026-02-01", gross: -5000, references: []parse.Reference{corrects("Z1")}},
			{name: "R", kind: "ROZ", number: "R/1", date: "2026-02-02", gross: 55000, references: []parse.Reference{settles("Z1"), settlesNumber("Z/2", "")}},
			{name: "K2", kind: "KOR_ZAL", number: "K/2", date: "2026-02-03", gross: -1, references: []parse.Reference{corrects("Z2")}},
		},
		related{
			Corrections: "K1 1: Z1; K2 1: Z2",
			Advances:    "R 1: Z1; R 2: Z2",
			Chain:       "Z1 0 Z1: 30000 30000; Z1 1 K1: -5000 25000 last; Z2 0 Z2: 20000 20000; Z2 1 K2: -1 19999 last",
			Settlements: "R: 2/2 100000 45000 55000 55000",
		},
	},
	"a settlement that is corrected, and an advance after it": {
		[]relative{
			{name: "Z1", kind: "ZAL", number: "Z/1", date: "2026-01-05", gross: 30000, orderValue: 100000},
			{name: "Z9", kind: "ZAL", number: "Z/9", date: "2026-03-01", gross: 1, orderValue: 100000},
			{name: "V9", kind: "VAT", number: "Z/9", date: "2026-01-01", gross: 1},
			{name: "R", kind: "ROZ", number: "R/1", date: "2026-02-02", gross: 55000, references: []parse.Reference{settles("Z1"), settlesNumber("Z/9", "")}},
			{name: "KR", kind: "KOR_ROZ", number: "KR/1", date: "2026-03-03", gross: -100, references: []parse.Reference{correctsNumber("R/1", "2026-02-02"), settles("Z1")}},
		},
		related{
			Corrections: "KR 1: R",
			Advances:    "KR 1: Z1; R 1: Z1; R 2: 0 fit",
			Chain:       "R 0 R: 55000 55000; R 1 KR: -100 54900 last",
			Settlements: "R: 1/2 unknown unknown 55000 unknown",
		},
	},
	"PEF, and FA with the same number": {
		[]relative{
			{name: "P", form: "PEF", kind: "380", number: "1", date: "2026-01-05", gross: 1000, toPay: 1000},
			{name: "F", kind: "VAT", number: "1", date: "2026-01-05", gross: 1},
			{name: "N", form: "PEF_KOR", kind: "381", number: "2", date: "2026-02-05", gross: -100, after: 900, references: []parse.Reference{correctsNumber("1", "2026-01-05")}},
			{name: "E", form: "PEF", kind: "380", number: "3", date: "2026-03-05", gross: 5000, toPay: 4000, references: []parse.Reference{settlesNumber("1", "2026-01-05"), settlesNumber("1", "")}},
		},
		related{
			Corrections: "N 1: P",
			Advances:    "E 1: P; E 2: 0 fit",
			Chain:       "P 0 P: 1000 1000; P 1 N: -100 900 states 900 last",
			Settlements: "E: 1/2 unknown unknown 4000 unknown",
		},
	},
	"another currency, an original that is not here, a technical correction": {
		[]relative{
			{name: "F", kind: "VAT", number: "1", date: "2026-01-05", gross: 1000, currency: "EUR"},
			{name: "K", kind: "KOR", number: "2", date: "2026-01-04", gross: -10, references: []parse.Reference{corrects("F")}}, // dated before it
			// Its KSeF number is of another invoice than the rest, and decides.
			{name: "M1", kind: "KOR", number: "3", date: "2026-01-06", gross: -10, references: []parse.Reference{{Relation: "corrects", KSeFNumber: "never", Number: "1", IssueDate: "2026-01-05"}}},
			{name: "M2", kind: "KOR", number: "4", date: "2026-01-07", gross: -10, references: []parse.Reference{corrects("M1"), corrects("M2")}}, // and itself
			{name: "T", kind: "KOR", number: "1", date: "2026-01-05", gross: -1, replaces: "never"},
		},
		related{
			Corrections: "K 1: F; M1 1: 0 fit; M2 1: M1 (of 2); M2 2: 0 fit (of 2)",
			Chain:       "F 0 F: 1000 1000; F 1 K: -10 unknown last",
			Technical:   "T: none",
		},
	},
	"a technical correction of one that is here, an amount that is not stated, and what cannot be read": {
		[]relative{
			{name: "F", kind: "VAT", number: "1", date: "2026-01-05", gross: 1000},
			{name: "T", kind: "VAT", number: "1a", date: "2026-01-05", gross: 1000, replaces: "F"},
			{name: "T2", kind: "VAT", number: "1b", date: "2026-01-06", gross: 1000, replaces: "F"},
			{name: "K", kind: "KOR", number: "2", date: "2026-01-06", gross: notStated, references: []parse.Reference{corrects("F")}},
			{name: "U", number: "3", date: "2026-01-05", gross: notStated},
			{name: "KU", kind: "KOR_ZAL", number: "4", date: "2026-01-07", gross: -1, references: []parse.Reference{correctsNumber("3", "2026-01-05")}},
		},
		related{
			Corrections: "K 1: F; KU 1: U",
			Chain:       "F 0 F: 1000 1000; F 1 K: none unknown last; U 0 U: none unknown; U 1 KU: -1 unknown last",
			Technical:   "T: F; T2: none",
		},
	},
	"settlements that do not add up": {
		[]relative{
			{name: "Z", kind: "ZAL", number: "1", date: "2026-01-05", gross: 10, orderValue: 50},
			{name: "KZ", kind: "KOR_ZAL", number: "1", date: "2026-01-05", gross: -3, references: []parse.Reference{corrects("Z")}},
			{name: "other", kind: "ZAL", number: "2", date: "2026-01-05", gross: 10, orderValue: 60},
			{name: "nothing", kind: "ZAL", number: "3", date: "2026-01-05", gross: 10},
			{name: "unpaid", kind: "ZAL", number: "4", date: "2026-01-05", gross: notStated, orderValue: 50},
			{name: "euro", kind: "ZAL", number: "5", date: "2026-01-05", gross: 10, orderValue: 50, currency: "EUR"},
			{name: "R1", kind: "ROZ", number: "1", date: "2026-01-06", gross: 1, references: []parse.Reference{settles("Z"), settles("other")}},
			{name: "R2", kind: "ROZ", number: "2", date: "2026-01-06", gross: 2, references: []parse.Reference{settles("Z"), settles("nothing")}},
			{name: "R3", kind: "ROZ", number: "3", date: "2026-01-06", gross: 3, references: []parse.Reference{settles("Z"), settles("unpaid")}},
			{name: "R4", kind: "ROZ", number: "4", date: "2026-01-06", gross: 4, references: []parse.Reference{settles("Z"), settles("euro")}},
			{name: "R5", kind: "ROZ", number: "5", date: "2026-01-06", gross: 5, references: []parse.Reference{settles("Z"), settles("KZ")}},
		},
		related{
			Corrections: "KZ 1: Z",
			Advances:    "R1 1: Z; R1 2: other; R2 1: Z; R2 2: nothing; R3 1: Z; R3 2: unpaid; R4 1: Z; R4 2: euro; R5 1: Z; R5 2: KZ",
			Chain:       "Z 0 Z: 10 10; Z 1 KZ: -3 7 last",
			Settlements: "R1: 2/2 unknown 17 1 unknown; R2: 2/2 unknown 17 2 unknown; R3: 2/2 50 unknown 3 unknown; R4: 2/2 50 unknown 4 unknown; R5: 2/2 50 7 5 43",
		},
	},
}

// member makes an invoice of the n-th telling of a story.
func (r *relative) member(n int) Invoice {
	ksef := func(name string) string { return fmt.Sprintf("%010d-%s", n, name) }
	content := func(name string) []byte { return []byte("<Faktura>" + ksef(name) + "</Faktura>") }
	minor := func(v int64) parse.Minor { return parse.Minor{Value: v, Stated: v != 0} }
	xml := content(r.name)
	in := Invoice{
		KSeFNumber: ksef(r.name), StoredAt: time.Unix(1_790_000_000, 0), AcquiredAt: time.Unix(1_790_000_000, 0), XML: xml, Hash: hashOf(xml),
		MetadataJSON: []byte("{}"), Path: ksef(r.name) + ".xml", ParseStatus: "ok",
		SellerNIP: fmt.Sprintf("%010d", n), InvoiceNumber: r.number, IssueDate: r.date,
	}
	if r.seller != "" {
		in.SellerNIP = "9" + in.SellerNIP[1:]
	}
	if r.replaces != "" {
		in.CorrectedHash = hashOf(content(r.replaces))
	}
	doc := &parse.Document{
		Form: "FA", InvoiceType: r.kind, InvoiceNumber: r.number, IssueDate: r.date, Currency: "PLN",
		IsCorrection: strings.HasPrefix(r.kind, "KOR") || r.form == "PEF_KOR",
		OrderValue:   minor(r.orderValue), ToPay: minor(r.toPay),
	}
	if r.gross != notStated {
		doc.Gross, doc.Net, doc.VAT = parse.Minor{Value: r.gross, Stated: true}, parse.Minor{Value: 2 * r.gross, Stated: true}, parse.Minor{Value: 3 * r.gross, Stated: true}
	}
	if r.form != "" {
		doc.Form = r.form
	}
	if r.currency != "" {
		doc.Currency = r.currency
	}
	if r.after != 0 {
		doc.CorrectionStates = []parse.CorrectionState{
			{State: "before", Gross: minor(1)}, {State: "after", Bucket: "ubl:S:23", Net: minor(1)},
			{State: "after", Gross: minor(r.after), Net: minor(2 * r.after), VAT: minor(3 * r.after)},
		}
	}
	positions := map[string]int{}
	for _, reference := range r.references {
		positions[reference.Relation]++
		reference.Position = positions[reference.Relation]
		if reference.KSeFNumber != "" {
			reference.KSeFNumber = ksef(reference.KSeFNumber)
		}
		doc.References = append(doc.References, reference)
	}
	in.Document = doc
	return in
}

// orders gives every order of a few things, and some orders of more.
func orders(n int, random *rand.Rand) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		const few, some = 5, 100
		if n > few {
			for range some {
				if !yield(random.Perm(n)) {
					return
				}
			}
			return
		}
		var extend func(order []int) bool
		extend = func(order []int) bool {
			if len(order) == n {
				return yield(order)
			}
			for i := range n {
				if !slices.Contains(order, i) && !extend(append(slices.Clone(order), i)) {
					return false
				}
			}
			return true
		}
		extend(nil)
	}
}

// readRelated gives what the views say, by telling.
func readRelated(t *testing.T, d *DB) map[string]related {
	t.Helper()
	all := map[string]related{}
	read := func(put func(r *related, row string), query string) {
		t.Helper()
		rows, err := d.read.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		defer rows.Close()
		for rows.Next() {
			var telling, row string
			if err := rows.Scan(&telling, &row); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			r := all[telling]
			put(&r, row)
			all[telling] = r
		}
		if err := rows.Err(); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	add := func(to *string, row string) {
		if *to != "" {
			*to += "; "
		}
		*to += row
	}
	const telling, name = "substr(ksef_number, 1, 10)", "substr(ksef_number, 12)"
	read(func(r *related, row string) { add(&r.Corrections, row) }, `SELECT `+telling+`, `+name+` || ' ' || position || ': ' ||
		coalesce(substr(corrected_ksef_number, 12), candidates || ' fit') || iif(collective, ' (of 2)', '')
		|| iif((corrected_id IS NULL) <> (candidates <> 1), ' and it is not', '')
		FROM v_corrections ORDER BY ksef_number, position`)
	read(func(r *related, row string) { add(&r.Advances, row) }, `SELECT `+telling+`, `+name+` || ' ' || position || ': ' ||
		coalesce(substr(advance_ksef_number, 12), candidates || ' fit') FROM v_advances ORDER BY ksef_number, position`)
	read(func(r *related, row string) { add(&r.Chain, row) }, `SELECT `+telling+`, substr(original_ksef_number, 12) || ' ' || step || ' ' || `+name+` || ': ' || coalesce(gross_minor, 'none') || ' ' ||
		coalesce(gross_after_minor, 'unknown') || coalesce(' states ' || stated_gross_after_minor, '') || iif(is_last, ' last', '')
		|| iif(net_after_minor IS NOT 2 * gross_after_minor OR vat_after_minor IS NOT 3 * gross_after_minor, ' and not so the net or the VAT', '')
		|| iif(stated_net_after_minor IS NOT 2 * stated_gross_after_minor OR stated_vat_after_minor IS NOT 3 * stated_gross_after_minor, ' and not so the stated net or VAT', '')
		FROM v_chain ORDER BY original_ksef_number, step`)
	read(func(r *related, row string) { add(&r.Settlements, row) }, `SELECT `+telling+`, `+name+` || ': ' || advances_found || '/' || advances || ' ' ||
		coalesce(order_value_minor, 'unknown') || ' ' || coalesce(advances_gross_minor, 'unknown') || ' ' || left_minor || ' ' || coalesce(computed_left_minor, 'unknown')
		FROM v_settlements ORDER BY ksef_number`)
	read(func(r *related, row string) { add(&r.Technical, row) }, `SELECT `+telling+`, `+name+` || ': ' || coalesce(substr(corrected_ksef_number, 12), 'none')
		FROM v_technical_corrections ORDER BY ksef_number`)
	return all
}

// The rule and what is stored by it.
const countUnresolved = `SELECT count(*) FROM invoice_references r WHERE r.target_id IS NOT (
	SELECT iif(count(*) = 1, max(c.candidate_id), NULL) FROM reference_candidates c WHERE c.invoice_id = r.invoice_id AND c.relation = r.relation AND c.position = r.position)`

// In whatever order and batches the invoices of a story arrive, the relations are the
// same.
func TestRelationsInAnyOrder(t *testing.T) {
	slow(t)
	random := rand.New(rand.NewPCG(6, 2026))
	batches := make([]Batch, 4)
	for i := range batches {
		batches[i].Role = "seller"
	}
	want := map[string]related{}
	n := 0
	for _, name := range slices.Sorted(maps.Keys(stories)) {
		story := stories[name]
		for order := range orders(len(story.invoices), random) {
			n++
			want[fmt.Sprintf("%010d", n)] = story.want
			in := make([]int, len(order)) // the batch of each
			for i := range in {
				in[i] = random.IntN(len(batches))
			}
			slices.Sort(in)
			for i, which := range order {
				b := &batches[in[i]]
				b.Invoices = append(b.Invoices, story.invoices[which].member(n))
			}
		}
	}
	d := newTest(t)
	for _, b := range batches {
		commit(t, d, b)
	}
	if diff := cmp.Diff(want, readRelated(t, d)); diff != "" {
		t.Error(diff[:min(len(diff), 5000)])
	}
	if n := value[int](t, d, countUnresolved); n != 0 {
		t.Errorf("%d references are not what the rule says", n)
	}
}

// read stores what is read of an invoice anew, as if a newer version of the reader had
// read its document again: without a document nothing can be read of it.
func read(t *testing.T, d *DB, in Invoice, document *parse.Document) {
	t.Helper()
	in.Document, in.ParseStatus = document, "ok"
	if document == nil {
		in.ParseStatus = "error"
		write(t, d, "UPDATE invoices SET parse_status = 'error' WHERE ksef_number = ?", in.KSeFNumber) // or what was read before is kept
	}
	if _, err := d.Reread(t.Context(), []Invoice{in}); err != nil {
		t.Fatal(err)
	}
}

// oneColumn changes one column of an invoice at a time, without its references being
// touched.
func oneColumn(t *testing.T, d *DB, number string) {
	t.Helper()
	tx, err := d.write.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for column, others := range map[string][]any{
		"form": {"PEF"}, "invoice_type": {"ZAL", nil}, "seller_nip": {"1", nil}, "invoice_number": {"1", nil}, "issue_date": {"2026-01-05", nil},
	} {
		var stored any
		if err := tx.QueryRow("SELECT "+column+" FROM invoices WHERE ksef_number = ?", number).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		for _, other := range append(others, stored) {
			if _, err := tx.Exec("UPDATE invoices SET "+column+" = ? WHERE ksef_number = ?", other, number); err != nil {
				t.Fatal(err)
			}
			var wrong int
			if err := tx.QueryRow(countUnresolved).Scan(&wrong); err != nil {
				t.Fatal(err)
			}
			if wrong != 0 {
				t.Errorf("%s with %s %v: %d references are not what the rule says", number, column, other, wrong)
			}
		}
	}
}

// An invoice that is read again loses no relation and gets none too many, on either
// side, also when it was read wrongly before.
func TestRelationsOfWhatIsReadAgain(t *testing.T) {
	slow(t)
	d := newTest(t)
	want := map[string]related{}
	var invoices []Invoice
	for i, name := range slices.Sorted(maps.Keys(stories)) {
		for _, r := range stories[name].invoices {
			invoices = append(invoices, r.member(i))
		}
		want[fmt.Sprintf("%010d", i)] = stories[name].want
	}
	commit(t, d, Batch{Role: "seller", Invoices: invoices})
	check := func(what string) {
		t.Helper()
		if n := value[int](t, d, countUnresolved); n != 0 {
			t.Errorf("%s: %d references are not what the rule says", what, n)
		}
	}
	for _, in := range invoices {
		oneColumn(t, d, in.KSeFNumber)
		wrong := *in.Document
		wrong.InvoiceType, wrong.InvoiceNumber, wrong.IssueDate, wrong.References = "ZAL", "1", "2026-01-05", nil
		for i, document := range []*parse.Document{&wrong, nil, in.Document} {
			read(t, d, in, document)
			check(fmt.Sprintf("%s, reading %d", in.KSeFNumber, i))
		}
		if diff := cmp.Diff(want, readRelated(t, d)); diff != "" {
			t.Fatalf("%s was read again: %s", in.KSeFNumber, diff)
		}
	}
}

// A correction may name 50,000 invoices, which come before and after it.
func TestCollectiveCorrection(t *testing.T) {
	slow(t)
	const references, stored = 50_000, 600 // of the originals
	date := "2026-01-05"
	correction := (&relative{name: "K", kind: "KOR", number: "K", date: "2026-02-01", gross: -1}).member(0)
	var originals []Invoice
	for i := range references {
		name := fmt.Sprintf("F%d", i)
		reference := correctsNumber(name, date)
		if i%2 == 0 {
			reference = parse.Reference{Relation: "corrects", KSeFNumber: fmt.Sprintf("%010d-%s", 0, name), Number: name, IssueDate: date}
		}
		reference.Position = i + 1
		correction.Document.References = append(correction.Document.References, reference)
		if i%(references/stored) == 0 {
			originals = append(originals, (&relative{name: name, kind: "VAT", number: name, date: date, gross: 100}).member(0))
		}
	}
	d := newTest(t)
	before, after := originals[:len(originals)/3], originals[len(originals)/3:]
	commit(t, d, Batch{Role: "seller", Invoices: before})
	start := time.Now()
	commit(t, d, Batch{Role: "seller", Invoices: []Invoice{correction}})
	t.Logf("stored in %s", time.Since(start))
	if n := value[int](t, d, "SELECT count(target_id) FROM invoice_references"); n != len(before) {
		t.Errorf("%d found, %d are there", n, len(before))
	}
	start = time.Now()
	commit(t, d, Batch{Role: "seller", Invoices: after})
	t.Logf("%d more in %s", len(after), time.Since(start))
	for query, want := range map[string]int{
		"SELECT count(target_id) FROM invoice_references":                                  len(originals),
		"SELECT count(*) FROM v_corrections WHERE collective":                              references,
		"SELECT count(corrected_id) FROM v_corrections":                                    len(originals),
		"SELECT count(*) FROM v_chain":                                                     2 * len(originals),
		"SELECT count(*) FROM v_chain WHERE step = 1 AND gross_after_minor IS NULL":        len(originals),
		"SELECT count(*) FROM v_corrections WHERE corrected_ksef_number = '0000000000-F0'": 1,
		countUnresolved: 0,
	} {
		start := time.Now()
		if n := value[int](t, d, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
		t.Logf("%s: %s", query, time.Since(start))
	}
}

// A question about one invoice must not read all of them, nor all references; one about
// a month may read the references. Settlements are so few that it may go through them.
func TestRelationPlans(t *testing.T) {
	d := newTest(t)
	for query, scans := range map[string]string{
		"v_corrections WHERE ksef_number = ''":                "",
		"v_corrections WHERE corrected_ksef_number = ''":      "",
		"v_corrections WHERE issue_date BETWEEN '' AND ''":    "r",
		"v_advances WHERE ksef_number = ''":                   "",
		"v_advances WHERE advance_ksef_number = ''":           "",
		"v_chain WHERE original_ksef_number = ''":             "",
		"v_chain WHERE original_issue_date BETWEEN '' AND ''": "",
		"v_settlements WHERE ksef_number = ''":                "invoice_references USING COVERING INDEX invoice_references_settlements",
		"v_settlements WHERE issue_date BETWEEN '' AND ''":    "invoice_references USING COVERING INDEX invoice_references_settlements",
		"v_technical_corrections WHERE corrected_hash = ''":   "",
	} {
		rows, err := d.read.Query("EXPLAIN QUERY PLAN SELECT * FROM " + query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			words := strings.Fields(step)
			scan := len(words) > 1 && words[0] == "SCAN" && slices.Contains([]string{"i", "o", "a", "c", "n", "r", "t", "invoices", "invoice_references"}, words[1])
			if strings.Contains(step, "AUTOMATIC") || scan && (scans == "" || step != "SCAN "+scans) {
				t.Errorf("%s: %s", query, step)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
}
