package credential

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"software.sslmate.com/src/go-pkcs12"
)

// passphraseError is a problem of the passphrase, not of the file it opens.
type passphraseError string

func (e passphraseError) Error() string { return string(e) }

const (
	missingPassphrase passphraseError = "it is missing, and the private key is encrypted; name where its passphrase is kept"
	wrongPassphrase   passphraseError = "it does not open the private key; it must be the one that was chosen when the key was made, with every capital and space as it was"
)

// partOf is the part of a credential that err is about: the passphrase, or else
// the file that was read.
func partOf(err error, file Part) Part {
	if _, ok := errors.AsType[passphraseError](err); ok {
		return PartPassphrase
	}
	return file
}

// kind is what an object in a file is.
type kind int

// The kinds of objects that people keep, or mistake for one another.
const (
	unknown kind = iota
	certificateKind
	plainKey
	encryptedKey
	oldEncryptedKey // encrypted in OpenSSL's own way from before PKCS#8
	publicKey
	request
	pkcs12Kind
	pkcs7Kind
)

// object is one certificate, key or other thing in a file.
type object struct {
	kind kind
	der  []byte
}

// objects gives what is in a file: all blocks of a PEM file, in their order, or
// the one object of a file in DER or in base64, never none. The error says why
// the file cannot be taken apart.
func objects(file []byte) ([]object, error) {
	file = bytes.TrimPrefix(file, []byte("\ufeff"))
	switch {
	case len(bytes.TrimSpace(file)) == 0:
		return nil, errors.New("the file is empty")
	case bytes.Contains(file, []byte("-----BEGIN")):
		var found []object
		for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
			found = append(found, object{kindOfBlock(block), block.Bytes})
		}
		if len(found) == 0 {
			return nil, errors.New("it looks like a PEM file but is damaged; copy it anew, with the lines BEGIN and END whole")
		}
		return found, nil
	case bytes.HasPrefix(file, []byte{0xff, 0xfe}) || bytes.HasPrefix(file, []byte{0xfe, 0xff}):
		return nil, errors.New("it is saved as UTF-16; save it as UTF-8, or copy the original file")
	}
	// KSeF's API gives certificates as the bare base64 of their DER.
	if der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(file)), "")); err == nil {
		file = der
	}
	return []object{{kindOf(file), file}}, nil
}

// kindOfBlock is the kind that a block of a PEM file says it is.
func kindOfBlock(block *pem.Block) kind {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		return certificateKind
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return oldEncryptedKey
		}
		return plainKey
	case "ENCRYPTED PRIVATE KEY":
		return encryptedKey
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return publicKey
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return request
	case "PKCS12":
		return pkcs12Kind
	case "PKCS7", "CMS":
		return pkcs7Kind
	}
	return unknown
}

// kindOf finds out what DER is.
func kindOf(der []byte) kind {
	if _, err := x509.ParseCertificate(der); err == nil {
		return certificateKind
	}
	if _, err := parsePlainKey(der); err == nil {
		return plainKey
	}
	if _, err := parseEncrypted(der); err == nil {
		return encryptedKey
	}
	if _, err := x509.ParseCertificateRequest(der); err == nil {
		return request
	}
	if _, err := x509.ParsePKIXPublicKey(der); err == nil {
		return publicKey
	}
	// PFX is a SEQUENCE that begins with version 3 (RFC 7292), a PKCS#7 message
	// one that begins with an identifier of its content (RFC 2315).
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err == nil && outer.Tag == asn1.TagSequence {
		if bytes.HasPrefix(outer.Bytes, []byte{asn1.TagInteger, 1, 3}) {
			return pkcs12Kind
		}
		if bytes.HasPrefix(outer.Bytes, []byte{asn1.TagOID, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07}) {
			return pkcs7Kind
		}
	}
	return unknown
}

// instead says what a file holds that holds none of what is wanted.
func instead(found []object, wanted string) error {
	first := unknown
	for _, o := range found {
		first = cmp.Or(first, o.kind)
	}
	switch first {
	case certificateKind:
		return fmt.Errorf("it is a certificate, not %s; a certificate belongs under auth.certificate", wanted)
	case plainKey, encryptedKey, oldEncryptedKey:
		return fmt.Errorf("it is a private key, not %s; a private key belongs under auth.private_key", wanted)
	case publicKey:
		return fmt.Errorf("it is a public key, not %s; want the file that KSeF or the issuer gave for it", wanted)
	case request:
		return fmt.Errorf("it is a certificate signing request (CSR), not %s; want what was issued in answer to it, and the key it was made with", wanted)
	case pkcs12Kind:
		return fmt.Errorf("it is a PKCS#12 file, not %s; name it under auth.pkcs12, without auth.certificate and auth.private_key", wanted)
	case pkcs7Kind:
		return fmt.Errorf("it is a PKCS#7 bundle, not %s; convert it: openssl pkcs7 -print_certs", wanted)
	}
	return fmt.Errorf("it is not %s, or it is damaged; want the file as it was given or exported", wanted)
}

// parseCertificate gives the certificate that logs in from a file that may also
// hold those of its issuers after it, and keys, which are passed over.
func parseCertificate(file []byte) (*x509.Certificate, error) {
	found, err := objects(file)
	if err != nil {
		return nil, err
	}
	var certificates []*x509.Certificate
	own := 0 // certificates of nobody who issues some
	for _, o := range found {
		if o.kind != certificateKind {
			continue
		}
		certificate, err := x509.ParseCertificate(o.der)
		if err != nil {
			return nil, fmt.Errorf("the certificate in it is damaged (%w); copy it anew", err)
		}
		certificates = append(certificates, certificate)
		if !certificate.IsCA {
			own++
		}
	}
	switch {
	case len(certificates) == 0:
		return nil, instead(found, "a certificate")
	case len(certificates) > 1 && certificates[0].IsCA:
		return nil, fmt.Errorf("the first of its %d certificates is that of a certificate authority (%s); put your own first",
			len(certificates), certificates[0].Subject.CommonName)
	case own > 1:
		return nil, fmt.Errorf("it holds %d certificates that are nobody's issuer, and it is not clear which one is meant; keep one", own)
	}
	return certificates[0], nil
}

// parseKey gives the one private key of a file that may also hold certificates,
// which are passed over.
func parseKey(file []byte, passphrase string) (crypto.Signer, error) {
	found, err := objects(file)
	if err != nil {
		return nil, err
	}
	var keys []object
	for _, o := range found {
		if o.kind == plainKey || o.kind == encryptedKey || o.kind == oldEncryptedKey {
			keys = append(keys, o)
		}
	}
	switch {
	case len(keys) == 0:
		return nil, instead(found, "a private key")
	case len(keys) > 1:
		return nil, fmt.Errorf("it holds %d private keys, and it is not clear which one is meant; keep one", len(keys))
	case keys[0].kind == oldEncryptedKey:
		return nil, errors.New("it is encrypted in an old and weak way; " + convertIt)
	case keys[0].kind == encryptedKey && passphrase == "":
		return nil, missingPassphrase
	case keys[0].kind == encryptedKey:
		return decryptKey(keys[0].der, passphrase)
	}
	return parsePlainKey(keys[0].der)
}

// parsePlainKey reads PKCS#8, also of an RSASSA-PSS key, PKCS#1 or SEC 1. The error
// quotes nothing.
func parsePlainKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if rsaKey, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			return rsaKey, nil
		}
		if ecKey, err := x509.ParseECPrivateKey(der); err == nil {
			return ecKey, nil
		}
		if pssKey := parsePSSKey(der); pssKey != nil {
			return pssKey, nil
		}
		return nil, errors.New("the private key in it is damaged, or of a kind that is not known here; want RSA, or EC on the curve P-256 or P-384")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key in it cannot sign; want RSA, or EC on the curve P-256 or P-384")
	}
	return signer, nil
}

// oidPSS is the kind of an RSA key that may sign with RSASSA-PSS only (RFC 4055,
// 1.2). Package x509 reads neither such a key nor that of such a certificate.
var oidPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}

// parsePSSKey reads PKCS#8 of an RSASSA-PSS key; nil if it is anything else.
func parsePSSKey(der []byte) *rsa.PrivateKey {
	var info struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil || !info.Algorithm.Algorithm.Equal(oidPSS) {
		return nil
	}
	key, err := x509.ParsePKCS1PrivateKey(info.Key)
	if err != nil {
		return nil
	}
	return key
}

// publicKeyOf gives the key of a certificate, that of RSASSA-PSS too; nil if it is of
// a kind that is not known here.
func publicKeyOf(certificate *x509.Certificate) crypto.PublicKey {
	if certificate.PublicKey != nil {
		return certificate.PublicKey
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(certificate.RawSubjectPublicKeyInfo, &info); err != nil || !info.Algorithm.Algorithm.Equal(oidPSS) {
		return nil
	}
	key, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return nil
	}
	return key
}

// parsePKCS12 gives the key of a PKCS#12 file and the certificate in it that is
// the key's.
func parsePKCS12(file []byte, passphrase string) (crypto.Signer, *x509.Certificate, error) {
	found, err := objects(file)
	if err != nil {
		return nil, nil, err
	}
	if k := found[0].kind; k != pkcs12Kind {
		return nil, nil, instead(found, "a PKCS#12 file")
	}
	privateKey, first, others, err := pkcs12.DecodeChain(found[0].der, passphrase)
	notImplemented, unusual := errors.AsType[pkcs12.NotImplementedError](err)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && passphrase == "":
		return nil, nil, missingPassphrase
	case errors.Is(err, pkcs12.ErrIncorrectPassword), err != nil && !isBMP(passphrase):
		return nil, nil, wrongPassphrase
	case unusual:
		return nil, nil, fmt.Errorf("it is of an unusual form (%w); export it anew, as PKCS#12 with AES-256", notImplemented)
	case err != nil:
		return nil, nil, fmt.Errorf("it cannot be read (%w); want one private key and its certificate, exported together", err)
	}
	key, ok := privateKey.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("the private key in it cannot sign; want RSA, or EC on the curve P-256 or P-384")
	}
	for _, certificate := range append([]*x509.Certificate{first}, others...) {
		if matches(key, certificate) {
			return key, certificate, nil
		}
	}
	return nil, nil, fmt.Errorf("none of its %d certificates is that of its private key, which is %s; export the two together",
		1+len(others), DescribeKey(key.Public()))
}

// isBMP reports whether PKCS#12 can have been made with the passphrase: it knows
// the first 65,536 characters of Unicode only.
func isBMP(passphrase string) bool {
	return !strings.ContainsFunc(passphrase, func(r rune) bool { return r > 0xffff || r == utf8.RuneError })
}
