package parse

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestHostile holds the documents that must be refused before a tree is built of
// them, each with a part of the reason.
func TestHostile(t *testing.T) {
	const start = `<Faktura xmlns="` + namespaceFA3 + `">`
	attributes := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ` a%d=""`, i)
		}
		return b.String()
	}
	tests := []struct{ name, xml, reason string }{
		{"billion laughs", `<!DOCTYPE lolz [<!ENTITY lol "SECRET"><!ENTITY lol2 "&lol;&lol;">]><Faktura>&lol2;</Faktura>`, "document type declarations are refused"},
		{"external entity", `<?xml version="1.0"?><!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + start + `<Fa><P_2>&x;</P_2></Fa></Faktura>`, "document type declarations are refused"},
		{"document type without use", `<!DOCTYPE Faktura>` + start + `</Faktura>`, "document type declarations are refused"},
		{"document type in lower case", `<!doctype Faktura>` + start + `</Faktura>`, "document type declarations are refused"},
		{"document type inside", start + `<!DOCTYPE Faktura></Faktura>`, "document type declarations are refused"},
		{"document type behind", start + `</Faktura><!DOCTYPE Faktura>`, "document type declarations are refused"},
		{"entity declaration alone", start + `<!ENTITY x "SECRET"></Faktura>`, "document type declarations are refused"},
		{"undeclared entity", start + `<Fa><P_2>&SECRET;</P_2></Fa></Faktura>`, "line 1: not well-formed"},
		{"conditional section", start + `<![INCLUDE[ x ]]></Faktura>`, "document type declarations are refused"},
		{"CDATA in lower case", start + `<![cdata[ x ]]></Faktura>`, "document type declarations are refused"},
		{"430,000 levels", strings.Repeat("<a>", 430_000) + strings.Repeat("</a>", 430_000), "nested deeper than 64"},
		{"65 levels", strings.Repeat("<a>", 65) + strings.Repeat("</a>", 65), "nested deeper than 64"},
		{"3 MB flat", start + strings.Repeat("<a/>", 750_000) + "</Faktura>", "more than 500000 elements"},
		{"3 MB of texts and comments", start + strings.Repeat("a<!---->", 550_000) + "</Faktura>", "more than 1000000 nodes"},
		{"CDATA sections", start + strings.Repeat("<![CDATA[]]>", 1_000_000) + "</Faktura>", "more than 1000000 nodes"},
		{"attributes of many elements", start + strings.Repeat("<a"+attributes(60)+"/>", 17_000) + "</Faktura>", "more than 1000000 nodes"},
		{"65 attributes", "<a" + attributes(65) + "/>", "more than 64 attributes"},
		{"1,000 attributes", "<a" + attributes(1000) + "/>", "more than 64 attributes"},
		{"repeated attribute", `<a b="1" c="2" b="3"/>`, `element "a" repeats an attribute`},
		{"processing instructions", start + strings.Repeat("<?a?>", 5_000) + "</Faktura>", "bytes of processing instructions"},
		{"long processing instruction", `<?a ` + strings.Repeat("b=c ", 2_000) + `?>` + start + "</Faktura>", "bytes of processing instructions"},
		{"too large", start + strings.Repeat(" ", maxSize) + "</Faktura>", "the limit is 16777216"},
		{"another encoding", `<?xml version="1.0" encoding="windows-1250"?>` + start + `</Faktura>`, "declared encoding is not UTF-8"},
		{"another encoding, spaced", `<?xml version = '1.0' encoding = 'ISO-8859-2' ?>` + start + `</Faktura>`, "declared encoding is not UTF-8"},
		{"UTF-16 declared", `<?xml version="1.0" encoding="UTF-16"?>` + start + `</Faktura>`, "declared encoding is not UTF-8"},
		{"UTF-16", "\xff\xfe<\x00a\x00/\x00>\x00", "NUL byte"},
		{"windows-1250 bytes", start + "<Fa><P_1M>\xa3\xf3d\x9f</P_1M></Fa></Faktura>", "not valid UTF-8"},
		{"NUL byte", start + "<Fa><P_2>A\x00</P_2></Fa></Faktura>", "NUL byte"},
		{"control character", start + "<Fa><P_2>A\x01</P_2></Fa></Faktura>", "line 1: not well-formed"},
		{"XML 1.1", `<?xml version="1.1"?>` + start + `</Faktura>`, "unknown version"},
		{"declaration inside", start + `<?xml version="1.0"?></Faktura>`, "XML declaration after the start"},
		{"declaration behind a space", ` <?xml version="1.0"?>` + start + `</Faktura>`, "XML declaration after the start"},
		{"malformed declaration", `<?xml version=1.0?>` + start + `</Faktura>`, "malformed XML declaration"},
		{"two roots", start + `</Faktura>` + start + `</Faktura>`, `second root element "Faktura"`},
		{"text behind the root", start + `</Faktura>SECRET`, "text outside the root"},
		{"text before the root", `SECRET` + start + `</Faktura>`, "text outside the root"},
		{"CDATA behind the root", start + `</Faktura><![CDATA[SECRET]]>`, "text outside the root"},
		{"two byte order marks", "\ufeff\ufeff" + start + `</Faktura>`, "text outside the root"},
		{"end tag behind the root", start + `</Faktura></Faktura>`, `end tag "Faktura" without a start tag`},
		{"wrong end tag", start + `<Fa></Faktura></Fa>`, `element "Fa" is closed by "Faktura"`},
		{"wrong prefix of the end tag", `<q:a xmlns:q="x"></r:a>`, `element "q:a" is closed by "r:a"`},
		{"open element", start + `<Fa>`, `ends inside element "Fa"`},
		{"undeclared prefix", `<q:Faktura/>`, "undeclared namespace prefix"},
		{"two colons in a name", start + `<a:b:c/></Faktura>`, "not well-formed"},
		{"unquoted attribute", `<a b=SECRET/>`, `malformed attribute of element "a"`},
		{"attribute without value", `<a b/>`, `malformed attribute of element "a"`},
		{"< in an attribute", `<a b="<"/>`, `malformed attribute of element "a"`},
		{"dashes in a comment", start + `<!-- -- --></Faktura>`, "-- inside one"},
		{"]]> in a text", start + `a]]>b</Faktura>`, "not well-formed"},
		{"unterminated comment", start + `<!--`, "unterminated comment"},
		{"comment without a body", start + `<!--></Faktura>`, "unterminated comment"},
		{"unterminated CDATA", start + `<![CDATA[`, "unterminated CDATA"},
		{"unterminated instruction", start + `<?a`, "unterminated processing instruction"},
		{"nothing", "", "has no element"},
		{"white space", " \n", "has no element"},
		{"comment alone", "<!--SECRET-->", "has no element"},
		{"not XML", "PK\x03\x04", "text outside the root"},
		{"JSON", `{"exception":{"SECRET":1}}`, "text outside the root"},
		{"lone <", "<", "malformed start tag"},
		{"a name as long as the document", "<" + strings.Repeat("a", 1_000_000) + "></b>", "is closed by"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			doc, err := Parse([]byte(test.xml))
			switch {
			case err == nil:
				t.Fatalf("accepted: %.200v", doc)
			case errors.Is(err, ErrUnsupported):
				t.Errorf("taken for a sound document: %v", err)
			case !strings.Contains(err.Error(), test.reason):
				t.Errorf("error %q; want %q", err, test.reason)
			case len(err.Error()) > 250 || strings.Contains(err.Error(), "SECRET"):
				t.Errorf("error quotes the document: %.400q", err)
			}
			if doc == nil || doc.Form != "UNKNOWN" {
				t.Errorf("document %v", doc)
			}
		})
	}
}

// TestAcceptedAtTheLimits keeps the limits from refusing what KSeF can hold.
func TestAcceptedAtTheLimits(t *testing.T) {
	nested := strings.Repeat("<a>", 62) + strings.Repeat("</a>", 62)
	tests := []struct{ name, xml string }{
		{"64 levels", fa3("", "<Inne>"+strings.Replace(nested, "<a></a>", "", 1)+"</Inne>")},
		{"64 attributes", strings.Replace(fa3("", ""), "<Faktura ", func() string {
			var b strings.Builder
			b.WriteString("<Faktura ")
			for i := range 63 {
				fmt.Fprintf(&b, "a%d=''\n", i)
			}
			return b.String()
		}(), 1)},
		{"3 MB of cells", strings.Replace(fa3("", ""), "</Faktura>", "<Zalacznik>"+strings.Repeat("<WKom/>", 428_000)+"</Zalacznik></Faktura>", 1)},
		{"document type in a comment, an instruction and CDATA", "<!--<!DOCTYPE x>--><?a <!DOCTYPE x>?>" + fa3("", "<P_2><![CDATA[<!DOCTYPE x>]]></P_2>")},
		{"> in an attribute", strings.Replace(fa3("", ""), "<Faktura ", `<Faktura a=">/Faktura>" b='"' `, 1)},
		{"space in tags", "<Faktura\n\txmlns = '" + namespaceFA3 + "'\r\n></Faktura \n>\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if doc, err := Parse([]byte(test.xml)); err != nil || doc.Form != "FA" {
				t.Errorf("%v, form %s", err, doc.Form)
			}
		})
	}
}

// TestTruncated cuts an invoice at every byte: an error, never a panic and never
// half an invoice.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"several_rates.xml", "unusual_writing.xml"} {
		whole := fixtureXML(t, name)
		end := strings.LastIndex(string(whole), "Faktura>") + len("Faktura>")
		for cut := range end {
			if _, err := Parse(whole[:cut]); err == nil {
				t.Fatalf("%s cut at byte %d is accepted", name, cut)
			}
		}
		if _, err := Parse(whole[:end]); err != nil {
			t.Errorf("%s cut behind the root: %v", name, err)
		}
	}
}

// TestMemory keeps the worst document that is accepted within what Parse promises.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("reads documents of many megabytes")
	}
	fill := func(piece string, count int) string {
		return fa3("", strings.Repeat(piece, count))
	}
	var attributes strings.Builder
	for i := range 60 {
		fmt.Fprintf(&attributes, " a%d=''", i)
	}
	for name, xml := range map[string]string{
		"many attributes":     fill("<a"+attributes.String()+"/>", 16_000),
		"CDATA sections":      fill("<![CDATA[x]]>", 999_000),
		"instructions":        fill("<?a?>", 4_000),
		"elements and texts":  fill("<a>x</a>x", 330_000),
		"empty lines":         fill("<FaWiersz/>", 499_000),
		"attributes":          fill(`<a a="1" b="2"/>`, 330_000),
		"texts and comments":  fill("x<!---->", 499_000),
		"long texts":          fill("<a>"+strings.Repeat("x ", 8_000)+"</a>", 1_000),
		"one long text":       fa3("", "<P_2>"+strings.Repeat("x \t", 5<<20)+"</P_2>"),
		"declared namespaces": fill(`<a xmlns:b="urn:b" xmlns="`+namespaceFA3+`"/>`, 200_000),
		"warnings":            fill("<P_15/>", 499_000),
		"parties before":      fill("<Podmiot2K/>", 499_000),
		"corrected invoices":  fill("<DaneFaKorygowanej/>", 499_000),
		"notes":               fill("<DodatkowyOpis/>", 499_000),
		"cells":               strings.Replace(fa3("", ""), "</Faktura>", "<Zalacznik><BlokDanych><Tabela>"+strings.Repeat("<Wiersz><WKom/></Wiersz>", 249_000)+"</Tabela></BlokDanych></Zalacznik></Faktura>", 1),
		"rows without cells":  strings.Replace(fa3("", ""), "</Faktura>", "<Zalacznik><BlokDanych><Tabela>"+strings.Repeat("<Wiersz/>", 499_000)+"</Tabela></BlokDanych></Zalacznik></Faktura>", 1),
		"embedded file":       pefInvoice("<cac:AdditionalDocumentReference><cac:Attachment><cbc:EmbeddedDocumentBinaryObject>" + strings.Repeat("YWJj", 3<<20) + "</cbc:EmbeddedDocumentBinaryObject></cac:Attachment></cac:AdditionalDocumentReference>"),
		"subtotals":           pefInvoice("<cac:TaxTotal>" + strings.Repeat("<cac:TaxSubtotal/>", 499_000) + "</cac:TaxTotal>"),
		"tax totals":          pefInvoice(strings.Repeat("<cac:TaxTotal/>", 499_000)),
	} {
		t.Run(name, func(t *testing.T) {
			document := []byte(xml)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := Parse(document); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			// All that was allocated, garbage too, bounds what was in use at once.
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("%d MB of XML: %d MB allocated", len(document)>>20, allocated)
			if allocated > 300 {
				t.Error("more than Parse promises")
			}
		})
	}
}
