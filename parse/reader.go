package parse

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antchfx/xmlquery"
)

const (
	// maxRows of one kind (lines, order lines, buyers before a correction, …) are
	// read. The schemas allow 10,000 lines (FaWiersz maxOccurs) and 101 parties; a
	// row costs forty times the smallest element that makes one.
	maxRows = 10_000
	// maxReferences to other invoices are read: FA(3) allows 50,000 corrected ones.
	maxReferences = 50_000
	// maxWarnings of one document are kept.
	maxWarnings = 32
)

// reader fills a Document from the tree of an invoice of any form. It walks the
// children of each element once; elements of other namespaces than its own are
// ignored, and so are those that it has no field for.
type reader struct {
	doc        *Document
	namespaces []string
	xsdDecimal bool   // numbers may be written in all ways of xsd:decimal
	row        string // the repeated element being read, "" outside of one
	position   int    // its position, for warnings
	rows       map[string]int
	dropped    int // warnings beyond maxWarnings
}

// finish adds what follows from the whole document.
func (r *reader) finish() {
	r.doc.TaxDate = taxDate(r.doc)
	if r.dropped > 0 {
		r.doc.Warnings = append(r.doc.Warnings, fmt.Sprintf("%d more warnings", r.dropped))
	}
}

// taxDate is a convenience for listing by month, not a ruling on the tax point. The
// date of a line before its correction is the one that the correction takes back.
func taxDate(d *Document) string {
	if d.TaxDate != "" { // PEF's tax point
		return d.TaxDate
	}
	if d.SaleDate != "" {
		return d.SaleDate
	}
	if d.PeriodTo != "" {
		return d.PeriodTo
	}
	latest := ""
	for _, line := range d.Lines {
		if !line.BeforeCorrection {
			latest = max(latest, line.SaleDate)
		}
	}
	if latest != "" {
		return latest
	}
	return d.IssueDate
}

// children yields the elements directly inside n.
func (r *reader) children(n *xmlquery.Node) iter.Seq[*xmlquery.Node] {
	return func(yield func(*xmlquery.Node) bool) {
		for child := n.FirstChild; child != nil; child = child.NextSibling {
			if child.Type == xmlquery.ElementNode && slices.Contains(r.namespaces, child.NamespaceURI) && !yield(child) {
				return
			}
		}
	}
}

// child gives the first element inside n at a path of names, or nil.
func (r *reader) child(n *xmlquery.Node, path ...string) *xmlquery.Node {
	for _, name := range path {
		var found *xmlquery.Node
		for child := range r.children(n) {
			if child.Data == name {
				found = child
				break
			}
		}
		if found == nil {
			return nil
		}
		n = found
	}
	return n
}

// childText is the text of the element that child gives, "" without one.
func (r *reader) childText(n *xmlquery.Node, path ...string) string {
	if found := r.child(n, path...); found != nil {
		return text(found)
	}
	return ""
}

// enterRow begins a repeated element: it sets the position that the row and its
// warnings have, and reports false for rows beyond maxRows.
func (r *reader) enterRow(n *xmlquery.Node) bool {
	return r.enter(n, n.Data, maxRows)
}

func (r *reader) enter(n *xmlquery.Node, kind string, most int) bool {
	position, ok := r.next(n, kind, most)
	if ok {
		r.row, r.position = n.Data, position
	}
	return ok
}

func (r *reader) leaveRow() { r.row = "" }

// next counts the rows of a kind, of which n makes one more. It reports false
// beyond the most that are read, and warns once.
func (r *reader) next(n *xmlquery.Node, kind string, most int) (position int, ok bool) {
	if r.rows == nil {
		r.rows = make(map[string]int)
	}
	r.rows[kind]++
	position = r.rows[kind]
	if position == most+1 {
		r.warn(n, fmt.Sprintf("only the first %d are read", most))
	}
	return position, position <= most
}

// note keeps a text that n holds, unless it is empty.
func (r *reader) note(n *xmlquery.Node, note Note) {
	if note.Key == "" && note.Value == "" {
		return
	}
	position, ok := r.next(n, note.Kind, maxRows)
	if !ok {
		return
	}
	note.Position = position
	r.doc.Notes = append(r.doc.Notes, note)
}

// related keeps the document that n names, unless all of it is empty.
func (r *reader) related(n *xmlquery.Node, document RelatedDocument) {
	if document.Number == "" && document.Date == "" && document.Description == "" {
		return
	}
	position, ok := r.next(n, document.Kind, maxRows)
	if !ok {
		return
	}
	document.Position = position
	r.doc.RelatedDocuments = append(r.doc.RelatedDocuments, document)
}

// warn notes that n could not be read as it stands.
func (r *reader) warn(n *xmlquery.Node, why string) {
	if len(r.doc.Warnings) == maxWarnings {
		r.dropped++
		return
	}
	where := n.Data
	if r.row != "" && r.row != n.Data {
		where = fmt.Sprintf("%s %d/%s", r.row, r.position, n.Data)
	}
	r.doc.Warnings = append(r.doc.Warnings, where+": "+why)
}

// amount reads n as hundredths. ok is false when n holds something else.
func (r *reader) amount(n *xmlquery.Node) (amount Minor, ok bool) {
	value, err := hundredths(r.number(n))
	if err != nil {
		r.warn(n, err.Error())
		return Minor{}, false
	}
	return Minor{value, true}, true
}

// decimal reads n as canonical text, "" when n holds something else.
func (r *reader) decimal(n *xmlquery.Node) string {
	value, err := canonicalDecimal(r.number(n))
	if err != nil {
		r.warn(n, err.Error())
	}
	return value
}

func (r *reader) number(n *xmlquery.Node) string {
	if r.xsdDecimal {
		return plainDecimal(text(n))
	}
	return text(n)
}

// maxLineNumber fits an int on every platform.
const maxLineNumber = 1<<31 - 1

// integer reads a whole number between low and high; it is 0 when n holds
// something else.
func (r *reader) integer(n *xmlquery.Node, low, high int) int {
	s := text(n)
	value, err := strconv.Atoi(s)
	if err != nil || !isDigits(s) || value < low || value > high {
		r.warn(n, fmt.Sprintf("not a whole number from %d to %d", low, high))
		return 0
	}
	return value
}

// date reads YYYY-MM-DD; a time zone behind it, which xsd:date allows and the
// schemas of FA do not, is dropped.
func (r *reader) date(n *xmlquery.Node) string {
	s := text(n)
	day, zone := s[:min(len(s), len(time.DateOnly))], s[min(len(s), len(time.DateOnly)):]
	if _, err := time.Parse(time.DateOnly, day); err != nil || !isZone(zone) {
		r.warn(n, "not a date")
		return ""
	}
	return day
}

func isZone(s string) bool {
	if s == "" {
		return true
	}
	_, err := time.Parse("Z07:00", s)
	return err == nil
}

// dateTime reads an xsd:dateTime, with or without fraction and zone, as written.
func (r *reader) dateTime(n *xmlquery.Node) string {
	s := text(n)
	const local = "2006-01-02T15:04:05"
	zone := s[min(len(s), len(local)):]
	zone = strings.TrimLeft(zone, ".0123456789")
	if _, err := time.Parse(local, strings.TrimSuffix(s, zone)); err != nil || !isZone(zone) {
		r.warn(n, "not a date and time")
		return ""
	}
	return s
}

// isOne reads the markers of the schemas: 1 is yes; 2, where it is allowed, is no.
func isOne(n *xmlquery.Node) bool { return text(n) == "1" }

// attribute is the value of an attribute without namespace, "" without one.
func attribute(n *xmlquery.Node, name string) string {
	for _, a := range n.Attr {
		if a.Name.Local == name && a.NamespaceURI == "" {
			return collapse(a.Value)
		}
	}
	return ""
}

// text is the text directly inside n with white space collapsed as for xsd:token.
func text(n *xmlquery.Node) string { return collapse(rawText(n)) }

// lines is the text directly inside n, each line with its white space collapsed,
// without the empty lines around them: for texts that issuers lay out in lines.
func lines(n *xmlquery.Node) string {
	raw := rawText(n)
	if isCollapsed(raw) {
		return raw
	}
	list := strings.Split(strings.ReplaceAll(raw, "\r\n", "\n"), "\n")
	for i := range list {
		list[i] = collapse(list[i])
	}
	return strings.Trim(strings.Join(list, "\n"), "\n")
}

// rawText is the text directly inside n, joined across comments, entities and
// CDATA sections.
func rawText(n *xmlquery.Node) string {
	first := n.FirstChild
	if first == nil {
		return ""
	}
	if first.NextSibling == nil && first.Type == xmlquery.TextNode {
		return first.Data
	}
	var joined strings.Builder
	for child := first; child != nil; child = child.NextSibling {
		if child.Type == xmlquery.TextNode || child.Type == xmlquery.CharDataNode {
			joined.WriteString(child.Data)
		}
	}
	return joined.String()
}

// collapse trims white space and makes one space of each run of it.
func collapse(s string) string {
	if isCollapsed(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		if !isSpace(s[i]) {
			if i > 0 && isSpace(s[i-1]) && b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func isCollapsed(s string) bool {
	for i := range len(s) {
		if isSpace(s[i]) && (s[i] != ' ' || i == 0 || i == len(s)-1 || isSpace(s[i+1])) {
			return false
		}
	}
	return true
}
