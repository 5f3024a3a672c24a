// Package xades signs XML documents: enveloped signatures of the profile
// XAdES-BES (ETSI TS 101 903 v1.3.2), as KSeF takes them for a login
// (podpis-xades.md). It verifies nothing and reads no files.
package xades

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"github.com/russellhaering/goxmldsig/etreeutils"
)

// skeleton is the signature without what differs from one to another.
//
//go:embed signature.xml
var skeleton string

// Sign gives document, which must be XML without a signature, with one added as
// the last child of its root. key must be that of certificate: RSA of at least
// 2048 bits, or ECDSA on P-256 or P-384. at is put into the signature as the time
// of signing, in UTC and whole seconds, rounded down.
//
// An RSA key signs with PKCS#1 v1.5: KSeF lists RSASSA-PSS too, but users have seen
// it refused. PSS is used where the certificate allows nothing else, its key being
// an RSASSA-PSS key (RFC 4055, 1.2).
func Sign(document []byte, key crypto.Signer, certificate *x509.Certificate, at time.Time) ([]byte, error) {
	by, err := methodFor(key, certificate)
	if err != nil {
		return nil, err
	}
	issuer, err := issuerName(certificate)
	if err != nil {
		return nil, err
	}
	tree := etree.NewDocument()
	if err := tree.ReadFromBytes(document); err != nil {
		return nil, fmt.Errorf("read the document to sign: %w", err)
	}
	root := tree.Root()
	if root == nil {
		return nil, errors.New("the document to sign has no root element")
	}
	// The reference to the whole document leaves the signature itself out, so what
	// it refers to is the document as it is now.
	documentDigest, err := digest(root)
	if err != nil {
		return nil, err
	}

	frame := etree.NewDocument()
	if err := frame.ReadFromString(skeleton); err != nil {
		return nil, fmt.Errorf("read the signature's skeleton: %w", err)
	}
	frame.Unindent() // every blank of a signature is signed too
	signature := frame.Root()
	fill := func(path, text string) { signature.FindElement(path).SetText(text) }

	signature.FindElement(".//ds:SignatureMethod").CreateAttr("Algorithm", by.uri)
	fill(".//ds:X509Certificate", base64.StdEncoding.EncodeToString(certificate.Raw))
	certificateDigest := sha256.Sum256(certificate.Raw)
	fill(".//xades:SigningTime", at.UTC().Format("2006-01-02T15:04:05Z"))
	fill(".//xades:CertDigest/ds:DigestValue", base64.StdEncoding.EncodeToString(certificateDigest[:]))
	fill(".//ds:X509IssuerName", issuer)
	fill(".//ds:X509SerialNumber", certificate.SerialNumber.String())

	// From here on the signature stands where it will be verified, because the
	// canonical form of a part depends on the namespaces declared around it.
	root.AddChild(signature)
	propertiesDigest, err := digest(signature.FindElement(".//xades:SignedProperties"))
	if err != nil {
		return nil, err
	}
	fill("ds:SignedInfo/ds:Reference[1]/ds:DigestValue", documentDigest)
	fill("ds:SignedInfo/ds:Reference[2]/ds:DigestValue", propertiesDigest)

	signedInfo, err := canonical(signature.FindElement("ds:SignedInfo"))
	if err != nil {
		return nil, err
	}
	value, err := by.sign(key, signedInfo)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	fill("ds:SignatureValue", base64.StdEncoding.EncodeToString(value))
	return tree.WriteToBytes()
}

// digest is the base64 of the SHA-256 of an element's canonical form.
func digest(element *etree.Element) (string, error) {
	octets, err := canonical(element)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(octets)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// canonical gives the exclusive canonical form of an element where it stands.
func canonical(element *etree.Element) ([]byte, error) {
	// The canonicaliser changes what it is given, and does not look at what the
	// element's ancestors declare: it gets a copy with those declarations.
	context, err := etreeutils.NSBuildParentContext(element)
	if err != nil {
		return nil, fmt.Errorf("canonicalise %s: %w", element.Tag, err)
	}
	detached, err := etreeutils.NSDetatch(context, element)
	if err != nil {
		return nil, fmt.Errorf("canonicalise %s: %w", element.Tag, err)
	}
	octets, err := dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("").Canonicalize(detached)
	if err != nil {
		return nil, fmt.Errorf("canonicalise %s: %w", element.Tag, err)
	}
	return octets, nil
}

// issuerName is the issuer as XMLDSig wants it, by RFC 4514. certificate.Issuer
// would not do: pkix.Name does not keep the order of the parts.
func issuerName(certificate *x509.Certificate) (string, error) {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(certificate.RawIssuer, &name); err != nil {
		return "", fmt.Errorf("read the certificate's issuer: %w", err)
	}
	return name.String(), nil
}

// method is a signature algorithm of XMLDSig.
type method struct {
	uri     string
	options crypto.SignerOpts
	size    int // bytes of R and of S; 0: not ECDSA
}

// methodFor chooses the algorithm by the certificate's key, and refuses a key
// that is another one, or that KSeF does not take.
func methodFor(key crypto.Signer, certificate *x509.Certificate) (method, error) {
	public, pss, err := publicKey(certificate)
	if err != nil {
		return method{}, err
	}
	if own, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(public) {
		return method{}, errors.New("the private key does not belong to the certificate")
	}
	switch public := public.(type) {
	case *rsa.PublicKey:
		switch {
		case public.N.BitLen() < 2048:
			return method{}, fmt.Errorf("the RSA key has %d bits; KSeF wants at least 2048", public.N.BitLen())
		case pss:
			return method{"http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1",
				&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, 0}, nil // RFC 6931, 2.3.10
		}
		return method{"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", crypto.SHA256, 0}, nil
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return method{"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", crypto.SHA256, 32}, nil
		case elliptic.P384():
			return method{"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", crypto.SHA384, 48}, nil
		}
		return method{}, fmt.Errorf("a key on the curve %s cannot be used; use P-256", public.Curve.Params().Name)
	}
	return method{}, fmt.Errorf("a key of type %T cannot be used; use EC P-256 or RSA", public)
}

// publicKey gives the key of a certificate. pss says that it may sign with
// RSASSA-PSS only; package x509 does not read such a key.
func publicKey(certificate *x509.Certificate) (key crypto.PublicKey, pss bool, err error) {
	if certificate.PublicKey != nil {
		return certificate.PublicKey, false, nil
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(certificate.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, false, fmt.Errorf("read the certificate's key: %w", err)
	}
	if !info.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}) { // id-RSASSA-PSS
		return nil, false, fmt.Errorf("the certificate's key is of an unknown type, %s; use EC P-256 or RSA", info.Algorithm.Algorithm)
	}
	public, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return nil, false, fmt.Errorf("read the certificate's key: %w", err)
	}
	return public, true, nil
}

// sign gives the signature of octets. For ECDSA that is R and S, each in full
// length, not the ASN.1 that Go makes (podpis-xades.md; XMLDSig 1.1, 6.4.3).
func (m method) sign(key crypto.Signer, octets []byte) ([]byte, error) {
	hash := m.options.HashFunc().New()
	hash.Write(octets)
	value, err := key.Sign(rand.Reader, hash.Sum(nil), m.options)
	if err != nil || m.size == 0 {
		return value, err
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(value, &pair); err != nil {
		return nil, fmt.Errorf("read the ECDSA signature: %w", err)
	}
	if min(pair.R.Sign(), pair.S.Sign()) < 0 || max(pair.R.BitLen(), pair.S.BitLen()) > 8*m.size {
		return nil, errors.New("the ECDSA signature is not one of the key's curve")
	}
	fixed := make([]byte, 2*m.size)
	pair.R.FillBytes(fixed[:m.size])
	pair.S.FillBytes(fixed[m.size:])
	return fixed, nil
}
