package parse

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"

	"github.com/antchfx/xmlquery"
)

// Version numbers what [Parse] reads. It is raised when Parse reads more, or
// reads better, so that rows written by an older parser can be read again.
const Version = 2

// ErrUnsupported marks an invoice in a form that this program does not know, and
// keeps without reading it.
var ErrUnsupported = errors.New("this form of invoice is stored but not read yet")

// byteOrderMark is stripped: KSeF refuses it, but files that passed through other
// tools have one.
const byteOrderMark = "\ufeff"

// Parse reads the XML of one invoice. It never returns nil: on an error the
// Document holds Form, FormCode and Namespace as far as they are known, Form
// being UNKNOWN otherwise.
//
// An error for which errors.Is(err, [ErrUnsupported]) holds means a sound document
// in a form that is not read. Any other error means XML that is broken or beyond
// the limits; its message is short and holds nothing of the document but element
// names. A field that cannot be read is not an error: it is left empty and named
// in Warnings.
//
// Parse is safe for concurrent use. It needs memory for the tree of the document,
// usually thirty times the size of the XML and at most 250 MB, for the worst
// document within the limits: bound how many calls run at once.
func Parse(document []byte) (*Document, error) {
	doc := &Document{Form: "UNKNOWN"}
	document = bytes.TrimPrefix(document, []byte(byteOrderMark))
	if err := (&scanner{xml: document}).scan(); err != nil {
		return doc, err
	}
	// The zero CharsetReader keeps x/net's character tables out: UTF-8 or an error.
	tree, err := xmlquery.ParseWithOptions(bytes.NewReader(document), xmlquery.ParserOptions{
		Decoder: &xmlquery.DecoderOptions{Strict: true},
	})
	if err != nil {
		return doc, wellFormedness(err)
	}
	root := rootElement(tree)
	form := formOf(root)
	doc.Form, doc.FormCode, doc.Namespace = form.name, form.code, root.NamespaceURI
	r := reader{doc: doc, namespaces: []string{root.NamespaceURI}}
	r.formCode(root)
	if form.read == nil {
		return doc, fmt.Errorf("form %s, root element %s: %w", form.name, shown(root.Data), ErrUnsupported)
	}
	form.read(&r, root)
	r.finish()
	return doc, nil
}

// form is a kind of document that KSeF keeps.
type form struct {
	name string // Document.Form
	code string // systemCode of the API's FormCode; "" when the document must say it
	read func(*reader, *xmlquery.Node)
}

// formOf tells the form by the namespace and the name of the root element. The
// prefix is the issuer's choice, and FA_RR has the root name of FA.
func formOf(root *xmlquery.Node) form {
	switch root.NamespaceURI + " " + root.Data {
	case namespaceFA3 + " Faktura":
		return form{"FA", "FA (3)", (*reader).faktura}
	case namespaceFA2 + " Faktura":
		return form{"FA", "FA (2)", (*reader).faktura}
	case namespaceFA1 + " Faktura":
		return form{"FA", "FA (1)", (*reader).faktura}
	case namespaceRR + " Faktura", "http://crd.gov.pl/wzor/2026/02/17/14164/ Faktura":
		return form{"FA_RR", "FA_RR (1)", (*reader).faktura}
	case namespacePEF + " Invoice":
		return form{"PEF", "PEF (3)", (*reader).ubl}
	case namespacePEFKOR + " CreditNote":
		return form{"PEF_KOR", "PEF_KOR (3)", (*reader).ubl}
	default:
		return form{name: "UNKNOWN"}
	}
}

const (
	namespaceFA1    = "http://crd.gov.pl/wzor/2021/11/29/11089/"
	namespaceFA2    = "http://crd.gov.pl/wzor/2023/06/29/12648/"
	namespaceFA3    = "http://crd.gov.pl/wzor/2025/06/25/13775/"
	namespaceRR     = "http://crd.gov.pl/wzor/2026/03/06/14189/"
	namespacePEF    = "urn:oasis:names:specification:ubl:schema:xsd:Invoice-2"
	namespacePEFKOR = "urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2"
)

// NamespaceOf gives the XML namespace of a form by its code, such as "FA (3)", or ""
// for another code. Drafts of a form had others.
func NamespaceOf(formCode string) string {
	switch formCode {
	case "FA (1)":
		return namespaceFA1
	case "FA (2)":
		return namespaceFA2
	case "FA (3)":
		return namespaceFA3
	case "FA_RR (1)":
		return namespaceRR
	case "PEF (3)":
		return namespacePEF
	case "PEF_KOR (3)":
		return namespacePEFKOR
	default:
		return ""
	}
}

// wellFormedness drops the message of encoding/xml, which quotes the document.
func wellFormedness(err error) error {
	if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok {
		return fmt.Errorf("invoice XML line %d: not well-formed: an undeclared entity, a forbidden character or a malformed name", syntax.Line)
	}
	return errors.New("invoice XML is not well-formed: an undeclared namespace prefix or an unknown version of XML")
}

// rootElement finds the root. It is not the XPath /*, which in xpath 1.3 also
// matches processing instructions.
func rootElement(tree *xmlquery.Node) *xmlquery.Node {
	n := tree.FirstChild
	for n.Type != xmlquery.ElementNode { // xmlquery gives no tree without an element
		n = n.NextSibling
	}
	return n
}
