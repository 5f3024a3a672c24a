package parse

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		if len(doc.Warnings) > maxWarnings+1 || len(doc.Lines) > 2*maxRows || len(doc.Parties) > 6*maxRows {
			t.Errorf("%d warnings, %d lines, %d parties", len(doc.Warnings), len(doc.Lines), len(doc.Parties))
		}

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
	for _, seed := range []string{"0", "-0.00", "1.5", "-200", "3118.80", "92233720368547758.07", "92233720368547758.08", "-92233720368547758.08", "1e3", "+1", ".5", "5.", "1,0", "0x1", "1/3", "1.000", "٣", "-", ""} {
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
		limit := new(big.Rat).SetInt64(1<<63 - 1)
		readable := len(fraction) <= 2 && new(big.Rat).Abs(scaled).Cmp(limit) <= 0
		if (err == nil) != readable {
			t.Errorf("hundredths(%q) = %d, %v", s, got, err)
		}
		if err == nil && new(big.Rat).SetInt64(got).Cmp(scaled) != 0 {
			t.Errorf("hundredths(%q) = %d; want %s", s, got, scaled.RatString())
		}
	})
}
