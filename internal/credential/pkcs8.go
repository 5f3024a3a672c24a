package credential

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1" // #nosec G505 -- PBKDF2 with HMAC-SHA1 is the default of RFC 8018, and what older programs write
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"slices"

	"golang.org/x/crypto/scrypt"
)

// The most work that a passphrase may cost: some seconds, and a gibibyte for
// scrypt. More is a damaged file, which would otherwise keep the program busy
// for days.
const (
	maxIterations = 10_000_000
	maxScryptCost = 1 << 23 // N·r·p; scrypt needs 128·N·r bytes
)

const convertIt = "convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW"

// encryptedPrivateKey is EncryptedPrivateKeyInfo of PKCS#8 (RFC 5958).
type encryptedPrivateKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

func parseEncrypted(der []byte) (encryptedPrivateKey, error) {
	var encrypted encryptedPrivateKey
	rest, err := asn1.Unmarshal(der, &encrypted)
	if err != nil || len(rest) > 0 {
		return encrypted, errDamaged
	}
	return encrypted, nil
}

var errDamaged = errors.New("the encrypted private key in it is damaged; copy it anew")

// decryptKey opens an encrypted PKCS#8 key: PBES2 (RFC 8018) with PBKDF2 or
// scrypt, and AES in CBC mode. That is what KSeF's taxpayer application, OpenSSL,
// Java and .NET write today. The standard library cannot, and the package that
// others take for it (youmark/pkcs8) is not looked after and panics on damaged
// files.
func decryptKey(der []byte, passphrase string) (crypto.Signer, error) {
	encrypted, err := parseEncrypted(der)
	if err != nil {
		return nil, err
	}
	if !encrypted.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}) {
		return nil, errors.New("it is encrypted in an old and weak way (not PBES2); " + convertIt)
	}
	var scheme struct{ Derivation, Encryption pkix.AlgorithmIdentifier }
	if err := unmarshal(encrypted.Algorithm.Parameters, &scheme); err != nil {
		return nil, err
	}
	keySize := 0
	switch scheme.Encryption.Algorithm.String() {
	case "2.16.840.1.101.3.4.1.2":
		keySize = 16
	case "2.16.840.1.101.3.4.1.22":
		keySize = 24
	case "2.16.840.1.101.3.4.1.42":
		keySize = 32
	default:
		return nil, errors.New("it is encrypted by another algorithm than AES-CBC; " + convertIt)
	}
	var vector []byte
	if err := unmarshal(scheme.Encryption.Parameters, &vector); err != nil {
		return nil, err
	}
	// The library panics on other sizes.
	if len(vector) != aes.BlockSize || len(encrypted.Data) == 0 || len(encrypted.Data)%aes.BlockSize != 0 {
		return nil, errDamaged
	}
	secret, err := deriveKey(scheme.Derivation, passphrase, keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("decrypt it: %w", err)
	}
	plain := make([]byte, len(encrypted.Data))
	cipher.NewCBCDecrypter(block, vector).CryptBlocks(plain, encrypted.Data)

	// Nothing in PKCS#8 tells a wrong passphrase from a damaged file but that no key
	// with its padding comes out.
	var info asn1.RawValue
	padding, err := asn1.Unmarshal(plain, &info)
	if err != nil || info.Tag != asn1.TagSequence || len(padding) == 0 || len(padding) > aes.BlockSize ||
		slices.ContainsFunc(padding, func(b byte) bool { return int(b) != len(padding) }) {
		return nil, wrongPassphrase
	}
	return parsePlainKey(info.FullBytes)
}

// deriveKey makes the AES key out of the passphrase.
func deriveKey(derivation pkix.AlgorithmIdentifier, passphrase string, size int) ([]byte, error) {
	switch derivation.Algorithm.String() {
	case "1.2.840.113549.1.5.12": // PBKDF2 (RFC 8018)
		var p struct {
			Salt       []byte
			Iterations int
			KeyLength  int                      `asn1:"optional"`
			PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
		}
		if err := unmarshal(derivation.Parameters, &p); err != nil {
			return nil, err
		}
		if p.Iterations < 1 || p.Iterations > maxIterations || p.KeyLength != 0 && p.KeyLength != size {
			return nil, errDamaged
		}
		var prf func() hash.Hash
		switch p.PRF.Algorithm.String() {
		case "", "1.2.840.113549.2.7":
			prf = sha1.New
		case "1.2.840.113549.2.9":
			prf = sha256.New
		case "1.2.840.113549.2.10":
			prf = sha512.New384
		case "1.2.840.113549.2.11":
			prf = sha512.New
		default:
			return nil, errors.New("its passphrase is hashed by an algorithm that is not known here; " + convertIt)
		}
		return pbkdf2.Key(prf, passphrase, p.Salt, p.Iterations, size)
	case "1.3.6.1.4.1.11591.4.11": // scrypt (RFC 7914)
		var p struct {
			Salt               []byte
			N, BlockSize, Runs int
			KeyLength          int `asn1:"optional"`
		}
		if err := unmarshal(derivation.Parameters, &p); err != nil {
			return nil, err
		}
		if p.N < 2 || p.BlockSize < 1 || p.Runs < 1 || p.KeyLength != 0 && p.KeyLength != size ||
			p.N > maxScryptCost || p.BlockSize > maxScryptCost/p.N || p.Runs > maxScryptCost/p.N/p.BlockSize {
			return nil, errDamaged
		}
		key, err := scrypt.Key([]byte(passphrase), p.Salt, p.N, p.BlockSize, p.Runs, size)
		if err != nil {
			return nil, errDamaged
		}
		return key, nil
	}
	return nil, errors.New("its passphrase is hashed by another algorithm than PBKDF2 or scrypt; " + convertIt)
}

// unmarshal reads the parameters of an algorithm.
func unmarshal(parameters asn1.RawValue, into any) error {
	if rest, err := asn1.Unmarshal(parameters.FullBytes, into); err != nil || len(rest) > 0 {
		return errDamaged
	}
	return nil
}
