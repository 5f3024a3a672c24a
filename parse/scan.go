package parse

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a document. KSeF accepts 1 MB, 3 MB with an attachment, and may raise
// both (open-api, /limits/context: maxInvoiceSizeInMB and
// maxInvoiceWithAttachmentSizeInMB). An invoice of 3 MB stays below each of these
// limits. Without them a hostile document could cost gigabytes: an XML tree takes
// up to fifty times its text.
const (
	maxSize         = 16 << 20
	maxDepth        = 64
	maxElements     = 500_000
	maxAttributes   = 64        // of one element
	maxNodes        = 1_000_000 // elements, attributes, texts, comments, instructions and CDATA sections together
	maxInstructions = 4096      // bytes of all processing instructions: xmlquery's work grows with the square of their length
)

// scanner checks in one pass over the bytes, and without allocating, what makes a
// document safe to build a tree of. It splits markup exactly as encoding/xml
// does, so that what it counts is what the tree will hold, and it leaves names,
// entities and characters for encoding/xml to refuse.
type scanner struct {
	xml []byte
	pos int

	depth, maxDepth int
	elements, nodes int
	instructions    int
	rootSeen        bool
	open            [maxDepth]span      // names of the open elements
	attributes      [maxAttributes]span // names of the attributes of one element
}

// span is xml[from:to].
type span struct{ from, to int }

// scan returns an error when xml is not one balanced UTF-8 document within the
// limits, or has a document type declaration. Messages hold nothing of the
// document but element names. xml must not begin with a byte order mark.
func (s *scanner) scan() error {
	switch {
	case len(s.xml) > maxSize:
		return fmt.Errorf("invoice XML has %d bytes; the limit is %d", len(s.xml), maxSize)
	case bytes.IndexByte(s.xml, 0) >= 0:
		return errors.New("invoice XML holds a NUL byte; it may be UTF-16, only UTF-8 is read")
	case !utf8.Valid(s.xml):
		return errors.New("invoice XML is not valid UTF-8")
	}
	for s.pos < len(s.xml) {
		if err := s.step(); err != nil {
			return fmt.Errorf("invoice XML line %d: %w", 1+bytes.Count(s.xml[:s.pos], []byte("\n")), err)
		}
	}
	if s.depth > 0 {
		return fmt.Errorf("invoice XML ends inside element %s", s.name(s.open[s.depth-1]))
	}
	if !s.rootSeen {
		return errors.New("invoice XML has no element")
	}
	return nil
}

// step passes one piece of markup and the text before it.
func (s *scanner) step() error {
	if err := s.text(); err != nil || s.pos == len(s.xml) {
		return err
	}
	rest := s.xml[s.pos:]
	switch {
	case bytes.HasPrefix(rest, []byte("<?")):
		return s.instruction()
	case bytes.HasPrefix(rest, []byte("<!--")):
		return s.comment()
	case bytes.HasPrefix(rest, []byte("<![CDATA[")):
		return s.cdata()
	case bytes.HasPrefix(rest, []byte("<!")):
		// Entities are declared here: the door of expansion and file-reading attacks.
		return errors.New("document type declarations are refused")
	case bytes.HasPrefix(rest, []byte("</")):
		return s.endTag()
	default:
		return s.startTag()
	}
}

func (s *scanner) text() error {
	rest := s.xml[s.pos:]
	end := bytes.IndexByte(rest, '<')
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return nil
	}
	if s.depth == 0 && len(bytes.Trim(rest[:end], " \t\r\n")) > 0 {
		return errors.New("text outside the root element")
	}
	s.pos += end
	return s.count()
}

// count adds a node.
func (s *scanner) count() error {
	s.nodes++
	if s.nodes > maxNodes {
		return fmt.Errorf("more than %d nodes", maxNodes)
	}
	return nil
}

func (s *scanner) instruction() error {
	body, ok := s.until("<?", "?>")
	if !ok {
		return errors.New("unterminated processing instruction")
	}
	s.instructions += len(body)
	if s.instructions > maxInstructions {
		return fmt.Errorf("more than %d bytes of processing instructions", maxInstructions)
	}
	target, content := body, []byte(nil)
	if i := bytes.IndexAny(body, " \t\r\n"); i >= 0 {
		target, content = body[:i], body[i:]
	}
	if !bytes.EqualFold(target, []byte("xml")) {
		return s.count()
	}
	if s.nodes > 0 {
		return errors.New("XML declaration after the start of the document")
	}
	if err := checkDeclaration(content); err != nil {
		return err
	}
	return s.count()
}

// checkDeclaration refuses an XML declaration that names another encoding than
// UTF-8. The bytes are valid UTF-8, so reading them by another table would yield
// other letters than the issuer's.
func checkDeclaration(content []byte) error {
	rest := string(content) // short: all instructions together are limited
	for {
		rest = strings.TrimLeft(rest, " \t\r\n")
		if rest == "" {
			return nil
		}
		name, after, ok := strings.Cut(rest, "=")
		after = strings.TrimLeft(after, " \t\r\n")
		if !ok || after == "" || after[0] != '"' && after[0] != '\'' {
			return errors.New("malformed XML declaration")
		}
		value, tail, ok := strings.Cut(after[1:], after[:1])
		if !ok {
			return errors.New("malformed XML declaration")
		}
		if strings.TrimRight(name, " \t\r\n") == "encoding" && !strings.EqualFold(value, "utf-8") {
			return errors.New("declared encoding is not UTF-8")
		}
		rest = tail
	}
}

func (s *scanner) comment() error {
	_, ok := s.until("<!--", "--")
	if !ok || s.pos == len(s.xml) || s.xml[s.pos] != '>' {
		return errors.New("unterminated comment, or -- inside one")
	}
	s.pos++
	return s.count()
}

func (s *scanner) cdata() error {
	if s.depth == 0 {
		return errors.New("text outside the root element")
	}
	if _, ok := s.until("<![CDATA[", "]]>"); !ok {
		return errors.New("unterminated CDATA section")
	}
	return s.count()
}

// until passes opening, what follows up to closing, and closing; it returns what
// is between.
func (s *scanner) until(opening, closing string) ([]byte, bool) {
	rest := s.xml[s.pos+len(opening):]
	end := bytes.Index(rest, []byte(closing))
	if end < 0 {
		return nil, false
	}
	s.pos += len(opening) + end + len(closing)
	return rest[:end], true
}

func (s *scanner) endTag() error {
	s.pos += len("</")
	name := s.readName()
	s.space()
	switch {
	case !s.accept('>'):
		return errors.New("malformed end tag")
	case s.depth == 0:
		return fmt.Errorf("end tag %s without a start tag", s.name(name))
	}
	s.depth--
	if open := s.open[s.depth]; !bytes.Equal(s.bytes(open), s.bytes(name)) {
		return fmt.Errorf("element %s is closed by %s", s.name(open), s.name(name))
	}
	return nil
}

func (s *scanner) startTag() error {
	s.pos += len("<")
	name := s.readName()
	if name.from == name.to {
		return errors.New("malformed start tag")
	}
	if s.depth == 0 && s.rootSeen {
		return fmt.Errorf("second root element %s", s.name(name))
	}
	s.rootSeen = true
	if s.depth == maxDepth {
		return fmt.Errorf("elements nested deeper than %d", maxDepth)
	}
	s.elements++
	if s.elements > maxElements {
		return fmt.Errorf("more than %d elements", maxElements)
	}
	if err := s.count(); err != nil {
		return err
	}
	s.open[s.depth] = name
	s.depth++
	s.maxDepth = max(s.maxDepth, s.depth)

	for count := 0; ; count++ {
		s.space()
		if s.accept('>') {
			return nil
		}
		if s.accept('/') {
			if !s.accept('>') {
				return fmt.Errorf("malformed start tag of element %s", s.name(name))
			}
			s.depth--
			return nil
		}
		if count == maxAttributes {
			return fmt.Errorf("element %s has more than %d attributes", s.name(name), maxAttributes)
		}
		attribute, ok := s.attribute()
		if !ok {
			return fmt.Errorf("malformed attribute of element %s", s.name(name))
		}
		for _, other := range s.attributes[:count] {
			if bytes.Equal(s.bytes(other), s.bytes(attribute)) {
				return fmt.Errorf("element %s repeats an attribute", s.name(name))
			}
		}
		s.attributes[count] = attribute
		if err := s.count(); err != nil {
			return err
		}
	}
}

// attribute passes one attribute and returns its name.
func (s *scanner) attribute() (span, bool) {
	name := s.readName()
	s.space()
	if name.from == name.to || !s.accept('=') {
		return span{}, false
	}
	s.space()
	if s.pos == len(s.xml) {
		return span{}, false
	}
	quote := s.xml[s.pos]
	if quote != '"' && quote != '\'' {
		return span{}, false
	}
	s.pos++
	length := bytes.IndexByte(s.xml[s.pos:], quote)
	if length < 0 || bytes.IndexByte(s.xml[s.pos:s.pos+length], '<') >= 0 {
		return span{}, false
	}
	s.pos += length + 1
	return name, true
}

func (s *scanner) readName() span {
	from := s.pos
	for s.pos < len(s.xml) && isNameByte(s.xml[s.pos]) {
		s.pos++
	}
	return span{from, s.pos}
}

// isNameByte reports what encoding/xml takes for a part of a name at this stage.
func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == ':' || c == '.' || c == '-' || c >= utf8.RuneSelf
}

func (s *scanner) space() {
	for s.pos < len(s.xml) && isSpace(s.xml[s.pos]) {
		s.pos++
	}
}

// isSpace reports XML's white space; a no-break space is a letter to XML.
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func (s *scanner) accept(c byte) bool {
	if s.pos < len(s.xml) && s.xml[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) bytes(x span) []byte { return s.xml[x.from:x.to] }

// name is an element name for a message: quoted, since it has not been checked,
// and cut, since it may be as long as the document.
func (s *scanner) name(x span) string { return shown(string(s.xml[x.from:min(x.to, x.from+64)])) }

// shown quotes a name from the document for a message, and cuts it to 64 bytes.
func shown(name string) string { return fmt.Sprintf("%q", name[:min(len(name), 64)]) }
