package ksefsim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha512" // SHA-384 and SHA-512
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"github.com/russellhaering/goxmldsig/etreeutils"
)

// Namespaces and algorithms of XMLDSig and XAdES.
const (
	dsigNamespace  = "http://www.w3.org/2000/09/xmldsig#"
	xadesNamespace = "http://uri.etsi.org/01903/v1.3.2#"

	exclusive      = "http://www.w3.org/2001/10/xml-exc-c14n#"
	enveloped      = dsigNamespace + "enveloped-signature"
	propertiesType = "http://uri.etsi.org/01903#SignedProperties"
)

// digestMethods and signatureMethods are the algorithms that are accepted. KSeF
// lists SHA-1 and SHA-3 too (podpis-xades.md), but PROD has been seen to refuse the
// former, and nobody to use the latter.
var (
	digestMethods = map[string]crypto.Hash{
		"http://www.w3.org/2001/04/xmlenc#sha256":       crypto.SHA256,
		"http://www.w3.org/2001/04/xmldsig-more#sha384": crypto.SHA384,
		"http://www.w3.org/2001/04/xmlenc#sha512":       crypto.SHA512,
	}
	signatureMethods = map[string]signatureMethod{
		"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256":      {crypto.SHA256, verifyPKCS1},
		"http://www.w3.org/2001/04/xmldsig-more#rsa-sha384":      {crypto.SHA384, verifyPKCS1},
		"http://www.w3.org/2001/04/xmldsig-more#rsa-sha512":      {crypto.SHA512, verifyPKCS1},
		"http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1": {crypto.SHA256, verifyPSS},
		"http://www.w3.org/2007/05/xmldsig-more#sha384-rsa-MGF1": {crypto.SHA384, verifyPSS},
		"http://www.w3.org/2007/05/xmldsig-more#sha512-rsa-MGF1": {crypto.SHA512, verifyPSS},
		"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256":    {crypto.SHA256, verifyECDSA},
		"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384":    {crypto.SHA384, verifyECDSA},
		"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512":    {crypto.SHA512, verifyECDSA},
	}
)

// signatureMethod is a hash and how a signature of it is verified: usable is
// false where the key is not of the kind, or too weak.
type signatureMethod struct {
	hash   crypto.Hash
	verify func(key certifiedKey, hash crypto.Hash, digest, signature []byte) (usable, valid bool)
}

// certifiedKey is the key of a certificate.
type certifiedKey struct {
	public  crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or of another type
	onlyPSS bool             // the certificate is for an RSASSA-PSS key (RFC 4055, 1.2)
}

// The answers to a signature that is not right, in the words in which KSeF has been
// seen to give them.
func badSignature(detail string) *refusal { return badRequest(9105, "Nieprawidłowy podpis.", detail) }

func notXAdES() *refusal {
	return badSignature("Format podpisu niezgodny z akceptowanymi profilami XAdES.")
}

func unsupportedAlgorithm() *refusal {
	return badSignature("Podpis złożony z użyciem niewspieranego algorytmu kryptograficznego.")
}

func unreadable() *refusal { return badRequest(21001, "Nieczytelna treść.", "") }

// signedDocument is what a signature that holds vouches for.
type signedDocument struct {
	root        *etree.Element // as it was digested; nothing else of what was sent may be believed
	certificate *x509.Certificate
	signingTime time.Time
}

// verifySignature verifies an enveloped XAdES-BES signature (podpis-xades.md,
// ETSI TS 101 903 v1.3.2): the digests of the document and of the signed
// properties, the signature by the certificate in it, and that the properties name
// that certificate. It does not judge the certificate.
//
// It is narrower than KSeF: enveloped only, exclusive canonicalisation only, no
// references but those two, one certificate, no comments. What is accepted cannot
// be misread, and it is what this program sends.
func verifySignature(text []byte) (signedDocument, *refusal) {
	root, refused := parse(text)
	if refused != nil {
		return signedDocument{}, refused
	}
	var all []*etree.Element
	for element := range elements(root) {
		if element.Tag == "Signature" && element.NamespaceURI() == dsigNamespace {
			all = append(all, element)
		}
	}
	switch {
	case len(all) == 0:
		return signedDocument{}, badRequest(9102, "Brak podpisu.", "")
	case len(all) > 1:
		return signedDocument{}, badRequest(9103, "Przekroczona liczba dozwolonych podpisów.", "")
	case all[0].Parent() != root:
		return signedDocument{}, notXAdES()
	}
	signature := all[0]
	signedInfo := only(signature, dsigNamespace, "SignedInfo")
	object := only(signature, dsigNamespace, "Object")
	qualifying := only(object, xadesNamespace, "QualifyingProperties")
	properties := only(qualifying, xadesNamespace, "SignedProperties")

	document := signedDocument{root: root.Copy()}
	document.root.RemoveChildAt(signature.Index()) // the enveloped-signature transform
	references := named(signedInfo, dsigNamespace, "Reference")
	switch {
	case len(references) != 2 || properties == nil,
		attribute(references[0], "URI") != "" || attribute(references[0], "Type") != "",
		!slices.Equal(transforms(references[0]), []string{enveloped, exclusive}),
		attribute(references[1], "Type") != propertiesType,
		attribute(references[1], "URI") != "#"+attribute(properties, "Id") || !identifies(root, properties),
		!slices.Equal(transforms(references[1]), []string{exclusive}),
		attribute(qualifying, "Target") != "#"+attribute(signature, "Id") || !identifies(root, signature):
		return signedDocument{}, notXAdES()
	case attribute(only(signedInfo, dsigNamespace, "CanonicalizationMethod"), "Algorithm") != exclusive:
		return signedDocument{}, unsupportedAlgorithm()
	}
	for i, referred := range []*etree.Element{document.root, properties} {
		if refused := checkDigest(references[i], referred); refused != nil {
			return signedDocument{}, refused
		}
	}
	if document.certificate, refused = signingCertificate(signature); refused != nil {
		return signedDocument{}, refused
	}
	if refused := checkValue(signature, signedInfo, document.certificate); refused != nil {
		return signedDocument{}, refused
	}
	document.signingTime, refused = checkProperties(properties, document.certificate)
	return document, refused
}

// parse reads XML of elements and text alone.
func parse(text []byte) (*etree.Element, *refusal) {
	if !utf8.Valid(text) {
		return nil, badRequest(21217, "Nieprawidłowe kodowanie znaków.", "")
	}
	tree := etree.NewDocument()
	tree.ReadSettings = etree.ReadSettings{MaxDepth: 32, PreserveDuplicateAttrs: true}
	if err := tree.ReadFromBytes(text); err != nil {
		return nil, unreadable()
	}
	root := tree.Root()
	for i, token := range tree.Child {
		declaration, isInstruction := token.(*etree.ProcInst)
		blank, isText := token.(*etree.CharData)
		switch {
		case token == etree.Token(root):
		case isInstruction && i == 0 && declaration.Target == "xml":
			if strings.Contains(declaration.Inst, "encoding") && !strings.Contains(strings.ToLower(declaration.Inst), `"utf-8"`) {
				return nil, badRequest(21217, "Nieprawidłowe kodowanie znaków.", "")
			}
		case isText && blank.IsWhitespace():
		default: // a document type, a comment, text, a second root
			return nil, unreadable()
		}
	}
	if root == nil {
		return nil, unreadable()
	}
	count := 0
	for element := range elements(root) {
		if count++; count > 500 {
			return nil, unreadable()
		}
		names := make(map[string]bool)
		for _, each := range element.Attr {
			if names[each.FullKey()] {
				return nil, unreadable()
			}
			names[each.FullKey()] = true
		}
		for _, token := range element.Child {
			switch token.(type) {
			case *etree.Element, *etree.CharData:
			default:
				return nil, badRequest(9101, "Nieprawidłowy dokument.", "")
			}
		}
	}
	return root, nil
}

// elements yields an element and everything below it.
func elements(root *etree.Element) func(yield func(*etree.Element) bool) {
	var walk func(*etree.Element, func(*etree.Element) bool) bool
	walk = func(element *etree.Element, yield func(*etree.Element) bool) bool {
		if !yield(element) {
			return false
		}
		for _, child := range element.ChildElements() {
			if !walk(child, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func(*etree.Element) bool) { walk(root, yield) }
}

// named gives the children of that name; nil has none.
func named(parent *etree.Element, namespace, tag string) (children []*etree.Element) {
	if parent == nil {
		return nil
	}
	for _, child := range parent.ChildElements() {
		if child.Tag == tag && child.NamespaceURI() == namespace {
			children = append(children, child)
		}
	}
	return children
}

// only gives the child of that name, nil if there is none or more than one.
func only(parent *etree.Element, namespace, tag string) *etree.Element {
	children := named(parent, namespace, tag)
	if len(children) != 1 {
		return nil
	}
	return children[0]
}

// content is the text of an element that has no others in it, else "".
func content(element *etree.Element) string {
	if element == nil || len(element.ChildElements()) > 0 {
		return ""
	}
	return strings.TrimSpace(element.Text())
}

// attribute is the value of an attribute without a namespace; "" if there is none.
func attribute(element *etree.Element, key string) string {
	if element == nil {
		return ""
	}
	for _, each := range element.Attr {
		if each.Space == "" && each.Key == key {
			return each.Value
		}
	}
	return ""
}

// identifies reports whether an element has an Id that no other has.
func identifies(root, element *etree.Element) bool {
	id := attribute(element, "Id")
	for each := range elements(root) {
		for _, name := range []string{"Id", "ID", "id"} {
			if attribute(each, name) == id && each != element {
				return false
			}
		}
	}
	return id != ""
}

// transforms lists the algorithms of a reference; nil if one has parameters.
func transforms(reference *etree.Element) (algorithms []string) {
	for _, each := range named(only(reference, dsigNamespace, "Transforms"), dsigNamespace, "Transform") {
		if len(each.ChildElements()) > 0 {
			return nil
		}
		algorithms = append(algorithms, attribute(each, "Algorithm"))
	}
	return algorithms
}

// canonical is the exclusive canonical form of an element where it stands.
func canonical(element *etree.Element) ([]byte, error) {
	around, err := etreeutils.NSBuildParentContext(element)
	if err != nil {
		return nil, err
	}
	alone, err := etreeutils.NSDetatch(around, element)
	if err != nil {
		return nil, err
	}
	return dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("").Canonicalize(alone)
}

// digestOf hashes by the DigestMethod in parent and gives the DigestValue beside it.
func digestOf(parent *etree.Element, octets []byte) (computed, stated []byte, refused *refusal) {
	method, known := digestMethods[attribute(only(parent, dsigNamespace, "DigestMethod"), "Algorithm")]
	if !known {
		return nil, nil, unsupportedAlgorithm()
	}
	stated, err := base64.StdEncoding.DecodeString(content(only(parent, dsigNamespace, "DigestValue")))
	if err != nil {
		return nil, nil, notXAdES()
	}
	hash := method.New()
	hash.Write(octets)
	return hash.Sum(nil), stated, nil
}

func checkDigest(reference, referred *etree.Element) *refusal {
	octets, err := canonical(referred)
	if err != nil {
		return unreadable()
	}
	computed, stated, refused := digestOf(reference, octets)
	if refused == nil && !bytes.Equal(computed, stated) {
		refused = badSignature(fmt.Sprintf("Nieprawidłowa wartość skrótu dla referencji wskazującej na element '%s'.",
			strings.TrimPrefix(attribute(reference, "URI"), "#")))
	}
	return refused
}

// signingCertificate reads the certificate that the signature brings along.
func signingCertificate(signature *etree.Element) (*x509.Certificate, *refusal) {
	data := only(only(signature, dsigNamespace, "KeyInfo"), dsigNamespace, "X509Data")
	der, err := base64.StdEncoding.DecodeString(content(only(data, dsigNamespace, "X509Certificate")))
	if err != nil {
		return nil, invalidCertificate("")
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, invalidCertificate("")
	}
	return certificate, nil
}

func invalidCertificate(detail string) *refusal {
	return badRequest(21115, "Nieprawidłowy certyfikat.", detail)
}

func checkValue(signature, signedInfo *etree.Element, certificate *x509.Certificate) *refusal {
	method, known := signatureMethods[attribute(only(signedInfo, dsigNamespace, "SignatureMethod"), "Algorithm")]
	if !known {
		return unsupportedAlgorithm()
	}
	octets, err := canonical(signedInfo)
	if err != nil {
		return unreadable()
	}
	value, err := base64.StdEncoding.DecodeString(content(only(signature, dsigNamespace, "SignatureValue")))
	if err != nil {
		return badSignature("Nieprawidłowa treść podpisu.")
	}
	hash := method.hash.New()
	hash.Write(octets)
	usable, valid := method.verify(keyOf(certificate), method.hash, hash.Sum(nil), value)
	switch {
	case !usable:
		return unsupportedAlgorithm()
	case !valid:
		return badSignature("Podpis zweryfikowany negatywnie.")
	}
	return nil
}

// keyOf is the key of a certificate, also of the kind that package x509 leaves out.
func keyOf(certificate *x509.Certificate) certifiedKey {
	if certificate.PublicKey != nil {
		return certifiedKey{public: certificate.PublicKey}
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(certificate.RawSubjectPublicKeyInfo, &info)
	if err != nil || len(rest) > 0 || info.Algorithm.Algorithm.String() != "1.2.840.113549.1.1.10" {
		return certifiedKey{}
	}
	public, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return certifiedKey{}
	}
	return certifiedKey{public: public, onlyPSS: true}
}

func verifyPKCS1(key certifiedKey, hash crypto.Hash, digest, signature []byte) (usable, valid bool) {
	public, ok := key.public.(*rsa.PublicKey)
	if !ok || key.onlyPSS || public.N.BitLen() < 2048 {
		return false, false
	}
	return true, rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
}

// verifyPSS takes a salt as long as the hash, and MGF1 with it (RFC 6931, 2.3.10).
func verifyPSS(key certifiedKey, hash crypto.Hash, digest, signature []byte) (usable, valid bool) {
	public, ok := key.public.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < 2048 {
		return false, false
	}
	options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	return true, rsa.VerifyPSS(public, hash, digest, signature, options) == nil
}

// verifyECDSA takes R and S, each as long as the curve's order (podpis-xades.md).
func verifyECDSA(key certifiedKey, _ crypto.Hash, digest, signature []byte) (usable, valid bool) {
	public, ok := key.public.(*ecdsa.PublicKey)
	if !ok || public.Params().BitSize < 256 {
		return false, false
	}
	half := (public.Params().N.BitLen() + 7) / 8
	if len(signature) != 2*half {
		return true, false
	}
	r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
	return true, ecdsa.Verify(public, digest, r, s)
}

// checkProperties checks that the signed properties name the certificate, without
// which another of the same key could take its place (ETSI TS 101 903, 7.2.2),
// and gives the time of signing that they state.
func checkProperties(properties *etree.Element, certificate *x509.Certificate) (time.Time, *refusal) {
	signature := only(properties, xadesNamespace, "SignedSignatureProperties")
	at, err := time.Parse(time.RFC3339, content(only(signature, xadesNamespace, "SigningTime")))
	if err != nil {
		return time.Time{}, notXAdES()
	}
	named := only(only(signature, xadesNamespace, "SigningCertificate"), xadesNamespace, "Cert")
	computed, stated, refused := digestOf(only(named, xadesNamespace, "CertDigest"), certificate.Raw)
	if refused != nil {
		return time.Time{}, notXAdES()
	}
	var issuer pkix.RDNSequence
	if _, err := asn1.Unmarshal(certificate.RawIssuer, &issuer); err != nil {
		return time.Time{}, invalidCertificate("")
	}
	serial := only(named, xadesNamespace, "IssuerSerial")
	if !bytes.Equal(computed, stated) ||
		content(only(serial, dsigNamespace, "X509IssuerName")) != issuer.String() ||
		content(only(serial, dsigNamespace, "X509SerialNumber")) != certificate.SerialNumber.String() {
		return time.Time{}, notXAdES()
	}
	return at, nil
}
