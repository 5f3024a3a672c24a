package ksef

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func randomBytes(seed uint64, n int) []byte {
	random := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// padded is text with PKCS#7 padding.
func padded(text []byte) []byte {
	n := aes.BlockSize - len(text)%aes.BlockSize
	return slices.Concat(text, bytes.Repeat([]byte{byte(n)}, n))
}

func encryptBlocks(text []byte, key ExportKey) []byte {
	block, err := aes.NewCipher(key.Key[:])
	if err != nil {
		panic(err)
	}
	encrypted := make([]byte, len(text))
	cipher.NewCBCEncrypter(block, key.IV[:]).CryptBlocks(encrypted, text)
	return encrypted
}

// newPart encrypts text as KSeF does.
func newPart(text []byte, key ExportKey) (Part, []byte) {
	encrypted := encryptBlocks(padded(text), key)
	return Part{
		Ordinal: 1, Method: "GET", URL: NewSecret("https://storage/?sig=CANARY"),
		Size: int64(len(text)), EncryptedSize: int64(len(encrypted)), Hash: hashOf(text), EncryptedHash: hashOf(encrypted),
	}, encrypted
}

// storage is a server other than the API, and the URL of a part on it.
func (s *stub) storage(t *testing.T, handler http.HandlerFunc) (url Secret) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || r.URL.RawQuery != "se=2026&sig=CANARY%2F1%3D" || r.Header.Get("User-Agent") != "ksefmirror/test" {
			t.Errorf("%s %s came with %v", r.Method, r.URL, r.Header)
		}
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return NewSecret(server.URL + "/part-001.tar.gz.aes?se=2026&sig=CANARY%2F1%3D")
}

func serveBytes(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b)
	}
}

func TestDownloadPart(t *testing.T) {
	s := newStub(t)
	for _, size := range []int{1, 15, 16, 17, partChunk - 17, partChunk - 16, partChunk - 1, partChunk, partChunk + 1, 5 * partChunk, 1_000_003} {
		key, text := NewExportKey(), randomBytes(1, size)
		part, encrypted := newPart(text, key)
		part.URL = s.storage(t, serveBytes(encrypted))
		var got bytes.Buffer
		if err := s.client.DownloadPart(t.Context(), part, key, &got); err != nil || !bytes.Equal(got.Bytes(), text) {
			t.Errorf("%d bytes: got %d bytes, %v", size, got.Len(), err)
		}
	}
	// Without a length, and in pieces.
	key, text := NewExportKey(), randomBytes(1, 3*partChunk)
	part, encrypted := newPart(text, key)
	part.URL = s.storage(t, func(w http.ResponseWriter, _ *http.Request) {
		for piece := range slices.Chunk(encrypted, 1001) {
			_, _ = w.Write(piece)
			_ = http.NewResponseController(w).Flush()
		}
	})
	var got bytes.Buffer
	if err := s.client.DownloadPart(t.Context(), part, key, &got); err != nil || !bytes.Equal(got.Bytes(), text) {
		t.Errorf("in pieces: got %d bytes, %v", got.Len(), err)
	}
	if s.total() != 0 || len(s.log.rows) != 0 {
		t.Error("a download counted as a request to the API")
	}
}

func TestDownloadPartRefuses(t *testing.T) {
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 5000), key)
	status := func(code int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			answer(code, contentType, body+r.URL.String())(w, r)
		}
	}
	withType := func(contentType string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write(encrypted)
		}
	}
	elsewhere := newStub(t).storage(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	tests := []struct {
		name   string
		serve  http.HandlerFunc
		status int
		is     error // nil: none in particular
		says   string
	}{
		{"403", status(403, "application/xml", "<Error><AuthenticationErrorDetail>"), 403, ErrPartExpired, ""},
		{"404", status(404, "application/xml", "<Error>"), 404, ErrPartExpired, ""},
		{"410", status(410, "", ""), 410, ErrPartExpired, ""},
		{"web page", withType("text/html; charset=utf-8"), 200, nil, "web page"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.Reveal(), http.StatusFound)
		}, 302, nil, "redirect"},
		{"busy", status(503, "text/html", "<title>503"), 503, nil, "did not serve"},
		{"piece", status(206, "application/octet-stream", ""), 206, nil, "did not serve"},
		{"no content", status(204, "", ""), 204, nil, "did not serve"},
		{"shorter", serveBytes(encrypted[:len(encrypted)-16]), 200, nil, "not the 5008"},
		{"longer", serveBytes(append(slices.Clone(encrypted), encrypted[:16]...)), 200, nil, "not the 5008"},
		{"longer than announced", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush() // so that there is no Content-Length
			_, _ = w.Write(append(slices.Clone(encrypted), 0))
		}, 200, nil, "does not end"},
		{"ends in time", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(encrypted[:len(encrypted)-16])
		}, 200, io.ErrUnexpectedEOF, "broke off after 4992 of 5008"},
		{"other bytes", serveBytes(randomBytes(2, len(encrypted))), 200, ErrHashMismatch, "as downloaded"},
		{"connection lost", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStub(t)
			if tt.status == http.StatusFound {
				s.client.HTTPClient = &http.Client{} // which would follow
			}
			p := part
			p.URL = s.storage(t, tt.serve)
			err := s.client.DownloadPart(t.Context(), p, key, io.Discard)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.HTTPStatus != tt.status || tt.is != nil && !errors.Is(err, tt.is) || tt.is == nil && errors.Is(err, ErrPartExpired) ||
				!strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), "download part 1: ") {
				t.Fatalf("got %v; want %v, %q", err, tt.is, tt.says)
			}
			if tt.status == 503 && e.RetryAfter != 7*time.Second {
				t.Errorf("Retry-After was read as %s", e.RetryAfter)
			}
			if strings.Contains(err.Error(), "CANARY") || strings.Contains(fmt.Sprintf("%+v", e), "CANARY") {
				t.Errorf("the error holds the signature: %v", err)
			}
		})
	}
}

// Errors of net/url and net/http repeat the URL.
func TestDownloadPartRefusesAddress(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	part, _ := newPart([]byte("text"), key)
	for name, change := range map[string]func(*Part){
		"not a URL": func(p *Part) { p.URL = NewSecret("https://storage:CANARY/%CANARY") },
		"control":   func(p *Part) { p.URL = NewSecret("https://CANARY\x00/") },
		"no host":   func(p *Part) { p.URL = NewSecret("https:///?sig=CANARY") },
		"relative":  func(p *Part) { p.URL = NewSecret("/part?sig=CANARY") },
		"file":      func(p *Part) { p.URL = NewSecret("file:///etc/passwd?sig=CANARY") },
		"user": func(p *Part) {
			url := s.storage(t, func(http.ResponseWriter, *http.Request) { t.Error("a user name was sent") })
			p.URL = NewSecret(strings.Replace(url.Reveal(), "://", "://user:CANARY@", 1))
		},
		"nothing":        func(p *Part) { p.URL = Secret{} },
		"unknown host":   func(p *Part) { p.URL = NewSecret("http://[::1]:1/?sig=CANARY") },
		"POST":           func(p *Part) { p.Method = "POST" },
		"no method":      func(p *Part) { p.Method = "" },
		"no size":        func(p *Part) { p.EncryptedSize = 0 },
		"no hash":        func(p *Part) { p.Hash = "" },
		"ciphertext odd": func(p *Part) { p.EncryptedSize = 17; p.URL = s.storage(t, serveBytes(make([]byte, 17))) },
	} {
		p := part
		change(&p)
		err := s.client.DownloadPart(t.Context(), p, key, io.Discard)
		if _, ok := errors.AsType[*Error](err); !ok || strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), "passwd") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.client.BaseURL = "https://api.ksef.mf.gov.pl/v2"
	part.URL = s.storage(t, func(http.ResponseWriter, *http.Request) { t.Error("an address without TLS was used") })
	if err := s.client.DownloadPart(t.Context(), part, key, io.Discard); err == nil {
		t.Error("an address without TLS was accepted")
	}
}

// Cut at byte k, a part is never taken for a whole one, however it is cut.
func TestDownloadPartCutOff(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 4000), key)
	cut := 0
	part.URL = s.storage(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(encrypted)))
		_, _ = w.Write(encrypted[:cut])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	for cut = 0; cut < len(encrypted); cut += 97 {
		err := s.client.DownloadPart(t.Context(), part, key, io.Discard)
		if e, ok := errors.AsType[*Error](err); !ok || !e.Retryable() {
			t.Errorf("cut at %d: got %v", cut, err)
		}
	}
	for cut = range encrypted { // every byte, the connection closed in good order
		if err := decryptPart(bytes.NewReader(encrypted[:cut]), part, key, io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: got %v", cut, err)
		}
	}
}

func TestDecryptPartFindsFlippedBits(t *testing.T) {
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 2*partChunk+100), key)
	random := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		bit := random.IntN(8 * len(encrypted))
		encrypted[bit/8] ^= 1 << (bit % 8)
		if err := decryptPart(bytes.NewReader(encrypted), part, key, io.Discard); !errors.Is(err, ErrHashMismatch) {
			t.Errorf("bit %d flipped: got %v", bit, err)
		}
		encrypted[bit/8] ^= 1 << (bit % 8)
	}
	if err := decryptPart(bytes.NewReader(encrypted), part, key, io.Discard); err != nil {
		t.Errorf("mended again: %v", err)
	}
}

// What is wrong although the ciphertext is the one that KSeF made.
func TestDecryptPartRefuses(t *testing.T) {
	key := NewExportKey()
	text := randomBytes(1, 1000)
	otherKey, otherIV := key, key
	otherKey.Key[31] ^= 1
	otherIV.IV[0] ^= 1
	part, encrypted := newPart(text, key)
	with := func(change func(*Part)) Part {
		p := part
		change(&p)
		return p
	}
	// unpadded is encrypted as it is, and its hashes are right for it.
	unpadded := func(text []byte) (Part, []byte) {
		b := encryptBlocks(text, key)
		p := part
		p.EncryptedSize, p.EncryptedHash = int64(len(b)), hashOf(b)
		return p, b
	}
	tests := []struct {
		name string
		key  ExportKey
		make func() (Part, []byte)
	}{
		{"wrong key", otherKey, func() (Part, []byte) { return part, encrypted }},
		{"wrong IV", otherIV, func() (Part, []byte) { return part, encrypted }},
		{"wrong hash of the ciphertext", key, func() (Part, []byte) { return with(func(p *Part) { p.EncryptedHash = anyHash }), encrypted }},
		{"wrong hash of the text", key, func() (Part, []byte) { return with(func(p *Part) { p.Hash = anyHash }), encrypted }},
		{"wrong size of the text", key, func() (Part, []byte) { return with(func(p *Part) { p.Size++ }), encrypted }},
		{"padding of 0", key, func() (Part, []byte) { return unpadded(append(slices.Clone(text), make([]byte, 8)...)) }},
		{"padding of 17", key, func() (Part, []byte) { return unpadded(append(slices.Clone(text), bytes.Repeat([]byte{17}, 24)...)) }},
		{"padding unequal", key, func() (Part, []byte) { return unpadded(append(slices.Clone(text), 1, 8, 8, 8, 8, 8, 8, 8)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, b := tt.make()
			if err := decryptPart(bytes.NewReader(b), p, tt.key, io.Discard); !errors.Is(err, ErrHashMismatch) {
				t.Errorf("got %v; want ErrHashMismatch", err)
			}
		})
	}
}

// A part has no deadline as a whole, but each 64 KB of it have.
func TestDownloadPartDeadline(t *testing.T) {
	s := newStub(t)
	s.client.timeout = 300 * time.Millisecond
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 12*partChunk), key)
	slowly := func(size int, every time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			tick := time.NewTicker(every)
			defer tick.Stop()
			for piece := range slices.Chunk(encrypted, size) {
				if _, err := w.Write(piece); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
				}
			}
		}
	}
	began := time.Now()
	part.URL = s.storage(t, slowly(partChunk, 50*time.Millisecond))
	if err := s.client.DownloadPart(t.Context(), part, key, io.Discard); err != nil || time.Since(began) < 2*s.client.timeout {
		t.Errorf("a download that goes on: %v after %s", err, time.Since(began))
	}
	for name, handler := range map[string]http.HandlerFunc{
		"a byte now and then": slowly(1, 10*time.Millisecond),
		"then nothing": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(encrypted[:4*partChunk+1])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second): // the test fails then
			}
		},
		"nothing": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		part.URL = s.storage(t, handler)
		err := s.client.DownloadPart(t.Context(), part, key, io.Discard)
		if e, ok := errors.AsType[*Error](err); !ok || !e.Retryable() || !strings.Contains(err.Error(), "no progress") || errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestDownloadPartWriteFails(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 3*partChunk), key)
	part.URL = s.storage(t, serveBytes(encrypted))
	full := errors.New("no space left")
	err := s.client.DownloadPart(t.Context(), part, key, writerFunc(func([]byte) (int, error) { return 0, full }))
	if _, remote := errors.AsType[*Error](err); remote || !errors.Is(err, full) {
		t.Errorf("got %v; want the writer's error, not an *Error", err)
	}
	err = s.client.DownloadPart(t.Context(), part, key, writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil }))
	if _, remote := errors.AsType[*Error](err); remote || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v; want io.ErrShortWrite", err)
	}
}

func TestDownloadPartCancelled(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	part, encrypted := newPart(randomBytes(1, 3*partChunk), key)
	part.URL = s.storage(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(encrypted[:partChunk])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := s.client.DownloadPart(ctx, part, key, writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
	if _, remote := errors.AsType[*Error](err); remote || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want the context's error", err)
	}
}

func TestDecryptPartInBoundedMemory(t *testing.T) {
	part := Part{Size: 1, EncryptedSize: 256 << 20, Hash: anyHash, EncryptedHash: anyHash}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := decryptPart(io.LimitReader(endless{}, part.EncryptedSize), part, ExportKey{}, io.Discard)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrHashMismatch) {
		t.Errorf("got %v", err)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("%d KB were allocated for a part of 256 MB", allocated>>10)
	}
}

func FuzzDecryptPart(f *testing.F) {
	f.Add([]byte("text"), []byte{}, uint8(0))
	f.Add(make([]byte, 33), []byte{1}, uint8(3))
	f.Fuzz(func(t *testing.T, text, more []byte, flip uint8) {
		if len(text) == 0 {
			return
		}
		key := NewExportKey()
		part, encrypted := newPart(text, key)
		damaged := append(slices.Clone(encrypted), more...)
		damaged[int(flip)%len(encrypted)] ^= flip
		var got bytes.Buffer
		err := decryptPart(bytes.NewReader(damaged), part, key, &got)
		if good := bytes.Equal(damaged, encrypted); good != (err == nil) || good && !bytes.Equal(got.Bytes(), text) {
			t.Errorf("%d bytes, %d added, flipped %d: %v", len(text), len(more), flip, err)
		}
		// Padding as chance has it.
		part.EncryptedHash, part.EncryptedSize = hashOf(text), int64(len(text))
		part.Hash = anyHash // of no bytes
		if err := decryptPart(bytes.NewReader(text), part, key, io.Discard); err == nil {
			t.Errorf("%x was accepted", text)
		}
	})
}
