// Package credential reads the keys and certificates that log in to KSeF, in the
// forms in which users have them, and says in plain words what is wrong with
// them, whom KSeF takes their holder for, and when they end. [Rotation] exchanges
// them while the program runs.
//
// It opens no files, asks KSeF nothing, signs nothing and imports no other
// package of the project.
package credential

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Credential is a private key and its certificate, checked. It prints as its
// certificate's serial number: the key is in no output, whatever prints it. It
// never changes.
type Credential struct {
	// Unexported, so that nothing that encodes or prints fields reaches the key.
	key         crypto.Signer
	certificate *x509.Certificate
}

// Key gives the private key: an *rsa.PrivateKey of at least 2048 bits, or an
// *ecdsa.PrivateKey on P-256 or P-384.
func (c *Credential) Key() crypto.Signer { return c.key }

// Certificate gives the certificate of the key.
func (c *Credential) Certificate() *x509.Certificate { return c.certificate }

// String gives the serial number of the certificate.
func (c *Credential) String() string {
	return fmt.Sprintf("certificate %X", c.certificate.SerialNumber)
}

// Part names what a [Problem] is about as the configuration's table auth does.
type Part string

// The parts of a credential.
const (
	PartCertificate Part = "certificate"
	PartPrivateKey  Part = "private_key"
	PartPKCS12      Part = "pkcs12"
	PartPassphrase  Part = "passphrase"
)

// Problem is one thing that is wrong with a credential.
type Problem struct {
	Part Part
	Text string // what is wrong and what to do about it; never a secret
}

// String gives the problem in one line.
func (p Problem) String() string { return fmt.Sprintf("auth.%s: %s", p.Part, p.Text) }

// Problems is everything that is wrong with a credential. As an error it is found
// with errors.As and a variable of type Problems.
type Problems []Problem

// Error gives all problems in one line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "; ")
}

// LoadPair reads a certificate and its private key, each the content of a file:
// PEM, DER, or DER in base64. After the certificate may come those of its
// issuers. The key is PKCS#8, encrypted or not, PKCS#1 or SEC 1. passphrase is
// "" when there is none; a key that is not encrypted does not need it. The error
// is a [Problems] with everything that keeps the two from logging in at the time
// now.
func LoadPair(certificateFile, keyFile []byte, passphrase string, now time.Time) (*Credential, error) {
	certificate, certificateErr := parseCertificate(certificateFile)
	key, keyErr := parseKey(keyFile, passphrase)
	var problems Problems
	if certificateErr != nil {
		problems = append(problems, Problem{PartCertificate, certificateErr.Error()})
	}
	if keyErr != nil {
		problems = append(problems, Problem{partOf(keyErr, PartPrivateKey), keyErr.Error()})
	}
	if certificate != nil && key != nil && !matches(key, certificate) {
		problems = append(problems, Problem{PartPrivateKey, fmt.Sprintf(
			"it is not the key of the certificate: this is %s, the certificate is for %s; name the two files that were made together",
			DescribeKey(key.Public()), DescribeKey(publicKeyOf(certificate)))})
	}
	return finish(key, certificate, PartCertificate, problems, now)
}

// LoadPKCS12 reads a PKCS#12 file (.p12, .pfx) that holds one private key and its
// certificate, and maybe those of its issuers, in today's or the old encryption.
// passphrase and the error are as for [LoadPair].
func LoadPKCS12(file []byte, passphrase string, now time.Time) (*Credential, error) {
	key, certificate, err := parsePKCS12(file, passphrase)
	var problems Problems
	if err != nil {
		problems = Problems{{partOf(err, PartPKCS12), err.Error()}}
	}
	return finish(key, certificate, PartPKCS12, problems, now)
}

// finish adds what is wrong with the certificate itself, and gives the credential
// if nothing is.
func finish(key crypto.Signer, certificate *x509.Certificate, part Part, problems Problems, now time.Time) (*Credential, error) {
	if certificate != nil {
		for _, text := range check(certificate, now) {
			problems = append(problems, Problem{part, text})
		}
	}
	if len(problems) > 0 {
		return nil, slices.Clip(problems)
	}
	return &Credential{key, certificate}, nil
}
