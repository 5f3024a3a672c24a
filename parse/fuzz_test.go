package parse

import (
	"bytes"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzParse feeds anything: no panic, no quoting of content, and the scan counts
// what encoding/xml finds, so that its limits hold for the tree.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.xml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		document, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	for _, seed := range []string{
		"", "<a/>", "<a></a>", "\ufeff<a b='c'/>", "<?xml version='1.0' encoding='utf-8'?><!--c--><a><![CDATA[<b>]]>]]&gt;<b/></a><?p?>",
		"<!DOCTYPE a><a/>", "<a><!-- -- --></a>", "<a b=\"'\" b=''/>", "<a:b xmlns:a='x'><c xmlns='y'/></a:b>", "<a\n/ ><b></b >", "<a>]]></a>", "<?a?><?b?><c><?d?>e<?f?></c><?g?>",
		fa3("<Podmiot1/>", "<P_15>1e1</P_15><FaWiersz><P_11>-0.1</P_11></FaWiersz>"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		doc, err := Parse(document)
		if doc == nil || doc.Form == "" {
			t.Fatalf("no document, error %v", err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("long message: %v", err)
		}
		checkDocument(t, doc)

		document = bytes.TrimPrefix(document, []byte(byteOrderMark))
		s := scanner{xml: document}
		scanned := s.scan()
		if scanned != nil {
			if err == nil || errors.Is(err, ErrUnsupported) {
				t.Fatalf("read in spite of %v", scanned)
			}
			return
		}
		elements, depth, wellFormed := decode(t, document)
		if !wellFormed {
			if err == nil {
				t.Error("read what encoding/xml refuses")
			}
			return
		}
		if elements != s.elements || depth != s.maxDepth {
			t.Errorf("the scan counts %d elements, depth %d; encoding/xml %d, %d", s.elements, s.maxDepth, elements, depth)
		}
		if elements > maxElements || depth > maxDepth {
			t.Errorf("%d elements, depth %d are accepted", elements, depth)
		}
	})
}

// decode counts with encoding/xml; ok is false when it refuses the document.
func decode(t *testing.T, document []byte) (elements, deepest int, ok bool) {
	decoder := xml.NewDecoder(bytes.NewReader(document))
	depth := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return elements, deepest, true
		}
		if err != nil {
			return 0, 0, false
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements++
			depth++
			deepest = max(deepest, depth)
			if depth == 1 && elements > 1 {
				t.Error("two roots are accepted")
			}
			if len(token.Attr) > maxAttributes {
				t.Errorf("%d attributes are accepted", len(token.Attr))
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			t.Errorf("the directive %s is accepted", token)
		}
	}
}

// FuzzMinor compares amounts with exact arithmetic.
func FuzzMinor(f *testing.F) {
	for _, seed := range []string{"0", "-0.00", "1.5", "-200", "3118.80", "9000000000000.00", "9000000000000.01", "92233720368547758.07", "92233720368547758.08", "-92233720368547758.08", "1e3", "+1", ".5", "5.", "1,0", "0x1", "1/3", "1.000", "٣", "-", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := hundredths(s)
		exact, isNumber := new(big.Rat).SetString(s)
		if len(s) > 100 { // big.Rat would expand a large exponent
			return
		}
		plain := s != "" && strings.Trim(s, "-.0123456789") == ""
		canonical, canonicalErr := canonicalDecimal(s)
		switch {
		case canonicalErr != nil:
			if err == nil {
				t.Errorf("%q is %d, but not a decimal", s, got)
			}
			if plain && isNumber && !strings.HasPrefix(strings.TrimPrefix(s, "-"), ".") && !strings.HasSuffix(s, ".") {
				t.Errorf("%q is refused: %v", s, canonicalErr)
			}
			return
		case !plain || !isNumber:
			t.Fatalf("%q is taken for the number %s", s, canonical)
		}
		if again, ok := new(big.Rat).SetString(canonical); !ok || again.Cmp(exact) != 0 {
			t.Errorf("%q became %q", s, canonical)
		}
		if strings.Contains(canonical, ".") && strings.HasSuffix(canonical, "0") || canonical == "-0" {
			t.Errorf("%q became %q, which is not canonical", s, canonical)
		}

		_, fraction, _ := strings.Cut(s, ".")
		scaled := new(big.Rat).Mul(exact, big.NewRat(100, 1))
		limit := new(big.Rat).SetInt64(MaxAmount)
		readable := len(fraction) <= 2 && new(big.Rat).Abs(scaled).Cmp(limit) <= 0
		if (err == nil) != readable {
			t.Errorf("hundredths(%q) = %d, %v", s, got, err)
		}
		if err == nil && new(big.Rat).SetInt64(got).Cmp(scaled) != 0 {
			t.Errorf("hundredths(%q) = %d; want %s", s, got, scaled.RatString())
		}
	})
}

// The fuzz targets below take invoices of one form apart and put them together
// again wrongly: well-formed documents that break their schema.

func FuzzFA(f *testing.F) {
	fuzzForm(f, "several_rates", "terms", "attachment", "parties", "advance_correction", "correction_pairs", "settlement", "foreign_currency", "margin")
}

func FuzzFA2(f *testing.F)    { fuzzForm(f, "fa2_prefixed", "correction_collective") }
func FuzzFA1(f *testing.F)    { fuzzForm(f, "fa1_invoice", "fa1_correction") }
func FuzzRR(f *testing.F)     { fuzzForm(f, "rr_invoice", "rr_correction") }
func FuzzPEF(f *testing.F)    { fuzzForm(f, "pef_invoice") }
func FuzzPEFKOR(f *testing.F) { fuzzForm(f, "pef_correction", "pef_credit_note") }

// fuzzForm fuzzes with the invoices of testdata that have these names, from what ten
// minutes of it for each form found worth keeping.
func fuzzForm(f *testing.F, names ...string) {
	var invoices [][]byte
	for i, name := range names {
		invoices = append(invoices, fixtureXML(f, name+".xml"))
		f.Add(uint8(i), []byte(nil), "")
		for operation := range byte(operations) {
			f.Add(uint8(i), []byte{operation, 0, 40, 1, operation, 0, 90, 7}, "SECRET &<1>")
		}
	}
	if !testing.Short() {
		addCorpus(f)
	}
	f.Fuzz(func(t *testing.T, which uint8, edits []byte, text string) {
		if len(edits) > 200 {
			return
		}
		root := treeOf(t, invoices[int(which)%len(invoices)])
		for ; len(edits) >= 4; edits = edits[4:] {
			root.edit(edits, text)
		}
		var document bytes.Buffer
		root.write(&document)
		doc, err := Parse(document.Bytes())
		if doc == nil {
			t.Fatalf("no document, error %v", err)
		}
		for _, message := range append(doc.Warnings, fmt.Sprint(err)) {
			if strings.Contains(message, "SECRET") {
				t.Errorf("message quotes the document: %s", message)
			}
		}
		checkDocument(t, doc)
	})
}

// addCorpus adds the inputs that are kept in testdata, each on a line: which invoice,
// the edits in hexadecimal, the text in quotation marks.
func addCorpus(f *testing.F) {
	corpus, err := os.ReadFile(filepath.Join("testdata", "corpus", f.Name()+".txt"))
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(corpus)) {
		part := strings.SplitN(strings.TrimSpace(line), " ", 3)
		which, err := strconv.ParseUint(part[0], 10, 8)
		if err != nil {
			f.Fatal(err)
		}
		edits, err := hex.DecodeString(part[1])
		if err != nil {
			f.Fatal(err)
		}
		text, err := strconv.Unquote(part[2])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(which), edits, text)
	}
}

// element is an element of a test document, with its name as written.
type element struct {
	name     string
	attr     []xml.Attr
	text     string // before the children
	children []*element
}

func treeOf(t *testing.T, document []byte) *element {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(document))
	open := []*element{{}}
	for {
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			return open[0].children[0]
		}
		if err != nil {
			t.Fatal(err)
		}
		top := open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			child := &element{name: raw(token.Name), attr: token.Copy().Attr}
			top.children = append(top.children, child)
			open = append(open, child)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			top.text += strings.TrimSpace(string(token))
		}
	}
}

func raw(name xml.Name) string {
	if name.Space == "" {
		return name.Local
	}
	return name.Space + ":" + name.Local
}

func (e *element) write(to *bytes.Buffer) {
	to.WriteString("<" + e.name)
	for _, a := range e.attr {
		to.WriteString(" " + raw(a.Name) + `="`)
		_ = xml.EscapeText(to, []byte(a.Value))
		to.WriteString(`"`)
	}
	to.WriteString(">")
	_ = xml.EscapeText(to, []byte(e.text))
	for _, child := range e.children {
		child.write(to)
	}
	to.WriteString("</" + e.name + ">")
}

// all gives the elements below e.
func (e *element) all() []*element {
	var list []*element
	for _, child := range e.children {
		list = append(append(list, child), child.all()...)
	}
	return list
}

const operations = 7

// edit changes one element below the root as four bytes say.
func (e *element) edit(bytes []byte, text string) {
	list := e.all()
	if len(list) == 0 || len(list) > 5000 {
		return
	}
	at := list[(int(bytes[1])<<8|int(bytes[2]))%len(list)]
	other := list[int(bytes[3])*len(list)/256]
	values := []string{"", "-", "SECRET", "1", "2", "-0.00", "9999999999999999.99", "-92233720368547758.07", "1e9", "000010", "2026-02-30", "2026-12-31Z", "VAT", "384", "PLN", "\u00a0 \n"}
	switch bytes[0] % operations {
	case 0:
		at.children, at.text = nil, ""
	case 1: // repeat
		for range 1 + bytes[3]%16 {
			at.children = append(at.children, at.children...)
			if len(at.children) > 100 {
				break
			}
		}
	case 2: // move a copy elsewhere; deep copies would grow without end
		copied := *other
		if len(copied.all()) < 50 {
			at.children = append(at.children[:len(at.children):len(at.children)], &element{name: copied.name, attr: copied.attr, text: copied.text, children: flat(copied.children)})
		}
	case 3:
		at.text = values[int(bytes[3])%len(values)]
	case 4:
		at.name = other.name
	case 5:
		at.text = text
	case 6:
		slices.Reverse(at.children)
	}
}

// flat copies elements and their children, without what is deeper.
func flat(elements []*element) []*element {
	copies := make([]*element, len(elements))
	for i, e := range elements {
		copies[i] = &element{name: e.name, attr: e.attr, text: e.text}
		for _, child := range e.children {
			copies[i].children = append(copies[i].children, &element{name: child.name, attr: child.attr, text: child.text})
		}
	}
	return copies
}

// checkDocument checks what holds for every Document, whatever it was read from.
func checkDocument(t *testing.T, d *Document) {
	t.Helper()
	if len(d.Warnings) > maxWarnings+1 || len(d.Lines) > 2*maxRows || len(d.Parties) > 12*maxRows || len(d.References) > 2*maxReferences {
		t.Errorf("%d warnings, %d lines, %d parties, %d references", len(d.Warnings), len(d.Lines), len(d.Parties), len(d.References))
	}
	// Whoever stores the rows relies on their kinds and positions as a key.
	seen := map[string]bool{}
	key := func(list, kind string, position any) {
		k := fmt.Sprint(list, " ", kind, " ", position)
		if seen[k] || position == 0 {
			t.Errorf("%s is there twice, or has no position", k)
		}
		seen[k] = true
	}
	for _, x := range d.Parties {
		key("party", x.Kind, x.Position)
	}
	for _, x := range d.Lines {
		key("line", x.Kind, x.Position)
		for _, decimal := range []string{x.Quantity, x.UnitPriceNet, x.UnitPriceGross, x.PriceQuantity, x.Discount, x.OSSRate, x.ExchangeRate} {
			if canonical, err := canonicalDecimal(decimal); decimal != "" && (err != nil || canonical != decimal) {
				t.Errorf("decimal %q", decimal)
			}
		}
	}
	for _, x := range d.VATRows {
		key("VAT", x.Bucket, "")
	}
	for _, x := range d.References {
		key("reference", x.Relation, x.Position)
	}
	for _, x := range d.CorrectionStates {
		key("state", x.State, "in "+x.Bucket)
	}
	for _, x := range d.Payments {
		key("payment", x.Kind, x.Position)
	}
	for _, x := range d.DueDates {
		key("due", "", x.Position)
	}
	for _, x := range d.Accounts {
		key("account", x.Owner, x.Position)
	}
	for _, x := range d.Adjustments {
		key("adjustment", x.Kind, x.Position)
	}
	for _, x := range d.RelatedDocuments {
		key("related", x.Kind, x.Position)
	}
	for _, x := range d.Transports {
		key("transport", "", x.Position)
	}
	for _, x := range d.Notes {
		key("note", x.Kind, x.Position)
	}
	for _, x := range d.Attachments {
		key("attachment", "", x.Position)
	}
	for _, date := range []string{d.IssueDate, d.SaleDate, d.PeriodFrom, d.PeriodTo, d.TaxDate, d.PaidDate, d.FirstDueDate, d.LastDueDate} {
		if _, err := time.Parse(time.DateOnly, date); date != "" && err != nil {
			t.Errorf("date %q", date)
		}
	}
}
