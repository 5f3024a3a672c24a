package ksef

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// partChunk is how much of a part is held in memory. It must arrive within
// requestTimeout: a slower connection is as good as none.
const partChunk = 64 << 10

// DownloadPart writes the part of a package to w, decrypted with the key of its
// export. Only a nil error means that what was written is right: of the size and
// SHA-256 that KSeF stated, before and after decryption. So write to a temporary
// file, and begin anew after an error. Any p that came from [Client.ExportStatus]
// will do; the memory used does not depend on its size.
//
// The request goes to KSeF's storage, not to the API: no limit counts it and no
// token is sent. There is no deadline for the whole, but one of a minute for each
// 64 KB. Errors never hold the URL. They are an [*Error] (ErrPartExpired,
// ErrHashMismatch, or what the network did), the context's own error, or that of
// w with a few words before it.
func (c *Client) DownloadPart(ctx context.Context, p Part, key ExportKey, w io.Writer) error {
	op := fmt.Sprintf("download part %d", p.Ordinal)
	began := c.now()
	out := &recordingWriter{w: w}
	answer, err := c.downloadPart(ctx, p, key, out)
	c.log().Debug("part", "op", op, "status", answer.status, "size", p.EncryptedSize, "duration", c.now().Sub(began))
	c.requested("download part", answer.status) // without its ordinal, or it would be a phrase for each part
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", op, ctx.Err())
	case out.err != nil:
		return fmt.Errorf("%s: write it: %w", op, out.err)
	}
	failed := &Error{Op: op, HTTPStatus: answer.status, Err: err}
	failed.RetryAfter, _ = parseRetryAfter(answer.header.Get("Retry-After"), c.Limiter.serverTime())
	return failed
}

// downloadPart gives the status and header of the storage's answer, whose body is
// never kept: an error page can repeat the signature of the URL.
func (c *Client) downloadPart(ctx context.Context, p Part, key ExportKey, w io.Writer) (answer response, err error) {
	if err := p.check(); err != nil {
		return answer, err
	}
	idle := c.timeout
	if idle == 0 {
		idle = requestTimeout
	}
	// The end of the attempt must not look like the caller's context ending.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(idle, func() { cancel(fmt.Errorf("no progress within %s", idle)) })
	defer deadline.Stop()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()

	hr, err := c.partRequest(ctx, p)
	if err != nil {
		return answer, err
	}
	client := *c.http()
	// Followed, the signature in the URL would go elsewhere, as Referer.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(hr)
	if err != nil {
		return answer, withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }() // what matters of it was verified
	answer.status, answer.header = res.StatusCode, res.Header

	switch got := mediaType(res.Header.Get("Content-Type")); {
	case res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone:
		return answer, ErrPartExpired
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return answer, errors.New("the storage answered with a redirect, which is not followed")
	case res.StatusCode != http.StatusOK:
		return answer, errors.New("the storage did not serve the part")
	case got == "text/html":
		return answer, errors.New("the answer is a web page; something between here and KSeF may have sent it")
	case res.ContentLength >= 0 && res.ContentLength != p.EncryptedSize:
		return answer, fmt.Errorf("the answer has %d bytes, not the %d that KSeF stated", res.ContentLength, p.EncryptedSize)
	}
	return answer, decryptPart(&timedReader{res.Body, deadline, idle}, p, key, w)
}

func (c *Client) partRequest(ctx context.Context, p Part) (*http.Request, error) {
	// Errors of net/url repeat what they could not read.
	address, err := url.Parse(p.URL.Reveal())
	secure := err == nil && (address.Scheme == "https" || address.Scheme == "http" && strings.HasPrefix(c.BaseURL, "http:"))
	switch {
	case !secure || address.Host == "":
		return nil, errors.New("the address of the part is not an https URL")
	case address.User != nil: // net/http would send it as Authorization
		return nil, errors.New("the address of the part holds a user name, which KSeF's never do")
	case p.Method != http.MethodGet:
		return nil, fmt.Errorf("KSeF wants the part to be asked for by %q; only GET is supported", clean(p.Method, 20))
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	hr.Header.Set("User-Agent", c.userAgent())
	return hr, nil
}

// decryptPart copies a part from r to w. It writes before it can tell whether the
// bytes are right; its error tells.
func decryptPart(r io.Reader, p Part, key ExportKey, w io.Writer) error {
	if p.EncryptedSize%aes.BlockSize != 0 {
		return fmt.Errorf("the stated size, %d bytes, is not a multiple of %d", p.EncryptedSize, aes.BlockSize)
	}
	block, err := aes.NewCipher(key.Key[:])
	if err != nil {
		return err
	}
	// Unauthenticated by itself; the hash, which came from KSeF over TLS, is what
	// vouches for the bytes.
	decrypter := cipher.NewCBCDecrypter(block, key.IV[:])
	encrypted, decrypted := sha256.New(), sha256.New()
	out := io.MultiWriter(w, decrypted)
	buffer := make([]byte, partChunk)
	var written int64
	for left := p.EncryptedSize; left > 0; {
		chunk := buffer[:min(left, partChunk)]
		n, err := io.ReadFull(r, chunk)
		left -= int64(n)
		if err != nil {
			return fmt.Errorf("the part broke off after %d of %d bytes: %w", p.EncryptedSize-left, p.EncryptedSize, noEOF(err))
		}
		_, _ = encrypted.Write(chunk) // a hash never fails
		decrypter.CryptBlocks(chunk, chunk)
		if left == 0 {
			if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
				return fmt.Errorf("the part does not end after the stated %d bytes", p.EncryptedSize)
			}
			// The hash first: padding is looked at only in bytes that are KSeF's.
			if !hashIs(encrypted.Sum(nil), p.EncryptedHash) {
				return fmt.Errorf("as downloaded: %w", ErrHashMismatch)
			}
			if chunk, err = withoutPadding(chunk); err != nil {
				return err
			}
		}
		written += int64(len(chunk))
		if _, err := out.Write(chunk); err != nil {
			return err
		}
	}
	if written != p.Size || !hashIs(decrypted.Sum(nil), p.Hash) {
		return fmt.Errorf("decrypted: %w", ErrHashMismatch)
	}
	return nil
}

// withoutPadding takes PKCS#7 padding off the end of what was encrypted.
func withoutPadding(text []byte) ([]byte, error) {
	n := int(text[len(text)-1])
	if n < 1 || n > aes.BlockSize {
		return nil, fmt.Errorf("decrypted, its padding is wrong: %w", ErrHashMismatch)
	}
	for _, b := range text[len(text)-n:] {
		if int(b) != n {
			return nil, fmt.Errorf("decrypted, its padding is wrong: %w", ErrHashMismatch)
		}
	}
	return text[:len(text)-n], nil
}

func hashIs(sum []byte, want string) bool {
	return base64.StdEncoding.EncodeToString(sum) == want
}

// noEOF keeps an end that came too early from passing for a good one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// timedReader fills all of what it is asked for, and lets the deadline run only
// meanwhile: not while the disk is slow.
type timedReader struct {
	r        io.Reader
	deadline *time.Timer
	within   time.Duration
}

func (t *timedReader) Read(p []byte) (int, error) {
	t.deadline.Reset(t.within)
	defer t.deadline.Stop()
	return io.ReadFull(t.r, p)
}

// recordingWriter remembers why a write failed.
type recordingWriter struct {
	w   io.Writer
	err error
}

func (r *recordingWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		r.err = err
	}
	return n, err
}
