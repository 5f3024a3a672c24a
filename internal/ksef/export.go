package ksef

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
)

// The codes of an [ExportStatus] (open-api, InvoiceExportStatusResponse). 410 is
// not documented, but has been seen.
const (
	ExportRunning        = 100
	ExportDone           = 200
	ExportExpired        = 210 // start a new export of the same range; so for 410, 500 and 550
	ExportGone           = 410
	ExportKeyRefused     = 415 // KSeF could not decrypt the key; a new export takes KSeF's public keys anew
	ExportRangeBeyondHWM = 420 // what ErrNothingNew is for metadata
	ExportFailed         = 500
	ExportCancelled      = 550 // by KSeF
)

// The values of [Package.Compression] (open-api, CompressionType).
const (
	CompressionZip   = "Zip"
	CompressionTarGz = "TarGz"
)

// Bounds of a package. KSeF makes parts of at most 50 MB and packages of at most
// 1 GB (open-api); beyond these bounds the answer cannot be right, and within
// them no sum of sizes overflows.
const (
	maxPartSize = 1 << 30
	maxParts    = 1000
)

// ExportKey is what KSeF encrypts the parts of one package with: AES-256-CBC. Use
// a new one for each export, and keep it until the package is read: without it
// the package is lost, though not the invoices, which another export brings.
// Every way of printing or encoding it gives "[redacted]", except as an
// unexported field of something printed with fmt.
type ExportKey struct {
	Key [32]byte
	IV  [16]byte
}

// NewExportKey gives a random key.
func NewExportKey() ExportKey {
	var k ExportKey
	_, _ = rand.Read(k.Key[:]) // crypto/rand never fails; it ends the program instead
	_, _ = rand.Read(k.IV[:])
	return k
}

// String gives "[redacted]".
func (ExportKey) String() string { return redacted }

// GoString gives "[redacted]".
func (ExportKey) GoString() string { return redacted }

// Format writes "[redacted]", whatever the verb.
func (ExportKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue gives "[redacted]".
func (ExportKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives "[redacted]", as JSON too.
func (ExportKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ExportStatus is what KSeF tells of an export (open-api, InvoiceExportStatusResponse).
type ExportStatus struct {
	Code        int // ExportRunning and its siblings; there may be others
	Description string
	Details     []string
	// Package is nil unless Code is ExportDone. It may be nil even then: that
	// export has failed, it is not one without invoices.
	Package *Package
}

// Package is the result of an export (open-api, InvoicePackage).
type Package struct {
	InvoiceCount int
	Size         int64 // bytes
	// IsTruncated says that 10,000 invoices or 1 GB were reached: go on from
	// LastStored, the permanent storage date of the last invoice. It is "" otherwise.
	IsTruncated bool
	LastStored  Timestamp
	HWM         Timestamp // "": KSeF did not say; nothing may be concluded then
	Expires     Timestamp // 7 days after the export was done; may be ""
	Compression string    // CompressionZip or CompressionTarGz, unchecked; "": KSeF did not say
	Parts       []Part    // by Ordinal, which counts from 1 without gaps; none if there is no invoice
}

// Part is one of the files that a package is cut into. Each is encrypted by
// itself; the archive is all of them, decrypted and joined.
type Part struct {
	Ordinal       int
	Method        string // of HTTP
	URL           Secret // whoever has it can download the part; made anew for each ExportStatus
	Size          int64  // bytes, decrypted
	EncryptedSize int64  // bytes, as downloaded
	Hash          string // base64 of the SHA-256, decrypted
	EncryptedHash string // base64 of the SHA-256, as downloaded
	Expires       Timestamp
}

// StartExport asks KSeF to make a package of the invoices that q selects, or of
// their metadata alone, encrypted with key, and gives the reference to ask for
// its status with. It costs one request of [GroupExport], two when KSeF has just
// changed its public key. Keep key durably before the call.
//
// KSeF has no list of exports. If this fails without an answer, or the program
// dies before the reference is kept, an export may be running that cannot be
// found again: it holds one of ten places until it ends, and nothing else is
// lost. So such a request is not repeated here. ErrRoleNotExportable and
// ErrTooManyExports are as they say.
func (c *Client) StartExport(ctx context.Context, q Query, metadataOnly bool, key ExportKey) (reference string, err error) {
	answer, err := c.startExport(ctx, q, metadataOnly, key)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Code == codeUnknownPublicKey {
		c.forgetKeys() // it was rotated (klucze-publiczne-do-szyfrowania.md)
		answer, err = c.startExport(ctx, q, metadataOnly, key)
	}
	if err != nil {
		return "", err
	}
	if reference, err = decodeReference(answer.body); err != nil {
		return "", &Error{Op: opStartExport, HTTPStatus: answer.status, Err: err}
	}
	return reference, nil
}

const opStartExport = "start an export"

func (c *Client) startExport(ctx context.Context, q Query, metadataOnly bool, key ExportKey) (response, error) {
	// Within a session, KSeF's time is known: by it a public key is chosen.
	if err := c.Login(ctx); err != nil {
		return response{}, err
	}
	c.mu.Lock()
	keyID, public, err := c.publicKey(ctx, exportUsage)
	c.mu.Unlock()
	if err != nil {
		return response{}, err
	}
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, key.Key[:], nil)
	if err != nil {
		return response{}, fmt.Errorf("%s: encrypt its key: %w", opStartExport, err)
	}
	body, err := json.Marshal(map[string]any{ // open-api, InvoiceExportRequest
		"encryption": map[string]any{
			"encryptedSymmetricKey": encrypted,
			"initializationVector":  key.IV[:],
			"publicKeyId":           keyID,
		},
		"onlyMetadata":    metadataOnly,
		"filters":         q,
		"compressionType": CompressionTarGz, // cheaper to read than Zip, and smaller
	})
	if err != nil {
		return response{}, fmt.Errorf("%s: %w", opStartExport, err)
	}
	return c.sendInSession(ctx, request{
		op: opStartExport, method: http.MethodPost, path: "/invoices/exports",
		group: GroupExport, body: body, accept: jsonTypes, maxBody: maxSmall,
	})
}

// KSeF's have 36 characters, such as 20251010-EH-1B6C9EB000-4B15D3AEB9-89
// (open-api, ReferenceNumber). They go into a path, so not anything will do.
var referencePattern = regexp.MustCompile(`^[0-9A-Za-z-]{1,100}$`)

func decodeReference(body []byte) (string, error) {
	var answer struct {
		Reference string `json:"referenceNumber"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("decode the answer: %w", err)
	}
	if !referencePattern.MatchString(answer.Reference) {
		return "", errors.New("the answer lacks a reference number")
	}
	return answer.Reference, nil
}

// ExportStatus tells how far an export is and, once it is done, where its parts
// are. Each call makes fresh URLs. It costs one request of [GroupExportStatus].
// ErrExportExpired is as it says.
func (c *Client) ExportStatus(ctx context.Context, reference string) (ExportStatus, error) {
	const op = "read the status of an export"
	if !referencePattern.MatchString(reference) {
		return ExportStatus{}, fmt.Errorf("%s: %q is not a reference number", op, reference)
	}
	answer, err := c.sendInSession(ctx, request{
		op: op, method: http.MethodGet, path: "/invoices/exports/" + url.PathEscape(reference),
		group: GroupExportStatus, accept: jsonTypes, maxBody: maxSmall,
	})
	if refused, ok := errors.AsType[*Error](err); ok && (refused.HTTPStatus == http.StatusGone || refused.Code == codeUnknownExport) {
		refused.Err = ErrExportExpired
	}
	if err != nil {
		return ExportStatus{}, err
	}
	status, err := decodeExportStatus(answer.body)
	if err != nil {
		return ExportStatus{}, &Error{Op: op, HTTPStatus: answer.status, Reference: reference, Err: err}
	}
	if status.Code == ExportKeyRefused {
		c.forgetKeys() // or the next export would be encrypted for the same key
	}
	return status, nil
}

// exportStatus is an ExportStatus on the wire. What must be there is a pointer:
// decoded leniently, {} would pass for a package without invoices.
type exportStatus struct {
	Status *struct {
		Code        int      `json:"code"`
		Description string   `json:"description"`
		Details     []string `json:"details"`
	} `json:"status"`
	Expires Timestamp `json:"packageExpirationDate"`
	Package *struct {
		InvoiceCount *int        `json:"invoiceCount"`
		Size         int64       `json:"size"`
		IsTruncated  *bool       `json:"isTruncated"`
		LastStored   Timestamp   `json:"lastPermanentStorageDate"`
		HWM          Timestamp   `json:"permanentStorageHwmDate"`
		Compression  string      `json:"compressionType"`
		Parts        *[]wirePart `json:"parts"`
	} `json:"package"`
}

// wirePart is a Part on the wire (open-api, InvoicePackagePart).
type wirePart struct {
	Ordinal       int       `json:"ordinalNumber"`
	Method        string    `json:"method"`
	URL           string    `json:"url"`
	Size          int64     `json:"partSize"`
	EncryptedSize int64     `json:"encryptedPartSize"`
	Hash          string    `json:"partHash"`
	EncryptedHash string    `json:"encryptedPartHash"`
	Expires       Timestamp `json:"expirationDate"`
}

func decodeExportStatus(body []byte) (ExportStatus, error) {
	var answer exportStatus
	if err := json.Unmarshal(body, &answer); err != nil {
		return ExportStatus{}, fmt.Errorf("decode the status: %w", err)
	}
	if answer.Status == nil || answer.Status.Code == 0 {
		return ExportStatus{}, errors.New("the answer lacks a status code")
	}
	var texts Error
	texts.addDetails(answer.Status.Details...)
	status := ExportStatus{Code: answer.Status.Code, Description: clean(answer.Status.Description, 300), Details: texts.Details}
	given := answer.Package
	if status.Code != ExportDone || given == nil {
		return status, nil
	}
	switch {
	case given.InvoiceCount == nil || given.IsTruncated == nil || given.Parts == nil:
		return ExportStatus{}, errors.New("the package lacks invoiceCount, isTruncated or parts")
	case *given.InvoiceCount < 0 || given.Size < 0:
		return ExportStatus{}, errors.New("the package has a count or size below zero")
	case *given.InvoiceCount > 0 && len(*given.Parts) == 0:
		return ExportStatus{}, fmt.Errorf("the package has %d invoices but no parts", *given.InvoiceCount)
	case len(*given.Parts) > maxParts:
		return ExportStatus{}, fmt.Errorf("the package has %d parts; at most %d can be right", len(*given.Parts), maxParts)
	}
	status.Package = &Package{
		InvoiceCount: *given.InvoiceCount, Size: given.Size,
		IsTruncated: *given.IsTruncated, LastStored: given.LastStored, HWM: given.HWM,
		Expires: answer.Expires, Compression: given.Compression,
	}
	for _, p := range *given.Parts {
		status.Package.Parts = append(status.Package.Parts, Part{
			Ordinal: p.Ordinal, Method: p.Method, URL: NewSecret(p.URL),
			Size: p.Size, EncryptedSize: p.EncryptedSize, Hash: p.Hash, EncryptedHash: p.EncryptedHash, Expires: p.Expires,
		})
	}
	slices.SortFunc(status.Package.Parts, func(a, b Part) int { return a.Ordinal - b.Ordinal })
	for i, p := range status.Package.Parts {
		if p.Ordinal != i+1 {
			return ExportStatus{}, fmt.Errorf("the package lacks part %d, or has it twice", i+1)
		}
		if err := p.check(); err != nil {
			return ExportStatus{}, fmt.Errorf("part %d: %w", p.Ordinal, err)
		}
	}
	return status, nil
}

// check refuses a part that could not be verified.
func (p Part) check() error {
	switch {
	case p.URL.IsZero():
		return errors.New("the address is missing")
	case p.Size < 1 || p.Size > maxPartSize || p.EncryptedSize < 1 || p.EncryptedSize > maxPartSize:
		return fmt.Errorf("sizes %d and, encrypted, %d are not between 1 and %d bytes", p.Size, p.EncryptedSize, maxPartSize)
	case !isHash(p.Hash) || !isHash(p.EncryptedHash):
		return errors.New("a hash is not the base64 of a SHA-256")
	}
	return nil
}

func isHash(s string) bool {
	sum, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(sum) == sha256.Size
}
