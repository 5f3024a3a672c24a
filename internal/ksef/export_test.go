package ksef

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	exportEndpoint       = "POST /invoices/exports"
	exportStatusEndpoint = "GET /invoices/exports/{referenceNumber}"
	anyReference         = "20251010-EH-1B6C9EB000-4B15D3AEB9-89"
	anyHash              = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
)

// acceptExport answers as KSeF does, if the key can be decrypted to want.
func (s *stub) acceptExport(want ExportKey) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var sent struct {
			Encryption struct {
				Key         []byte `json:"encryptedSymmetricKey"`
				IV          []byte `json:"initializationVector"`
				PublicKeyID string `json:"publicKeyId"`
			} `json:"encryption"`
			OnlyMetadata    bool            `json:"onlyMetadata"`
			Filters         json.RawMessage `json:"filters"`
			CompressionType string          `json:"compressionType"`
		}
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&sent); err != nil {
			s.t.Error(err)
		}
		if sent.Encryption.PublicKeyID != "export "+s.keyID {
			problem(400, codeUnknownPublicKey)(w, r)
			return
		}
		key, err := rsa.DecryptOAEP(sha256.New(), nil, s.key, sent.Encryption.Key, nil)
		if err != nil || !bytes.Equal(key, want.Key[:]) || !bytes.Equal(sent.Encryption.IV, want.IV[:]) {
			s.t.Errorf("the key arrived as %x, IV %x, %v", key, sent.Encryption.IV, err)
		}
		filters, _ := json.Marshal(anyQuery)
		if sent.CompressionType != "TarGz" || !sent.OnlyMetadata || !bytes.Equal(sent.Filters, filters) {
			s.t.Errorf("got request %+v", sent)
		}
		answerJSON(201, map[string]any{"referenceNumber": anyReference})(w, r)
	}
}

func (s *stub) startExport(t *testing.T) (string, error) {
	return s.client.StartExport(t.Context(), anyQuery, true, NewExportKey())
}

func TestStartExport(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	s.on(exportEndpoint, s.acceptExport(key))
	got, err := s.client.StartExport(t.Context(), anyQuery, true, key)
	if err != nil || got != anyReference {
		t.Errorf("got %q, %v", got, err)
	}
	s.wantCounts(t, map[string]int{exportEndpoint: 1, keysEndpoint: 1})
	if left, _ := s.client.Limiter.Budget(GroupExport); left != 19 {
		t.Errorf("%d exports are left in this hour, want 19 of 20", left)
	}
}

// The key list is cached; a rotation shows as 21470.
func TestStartExportAfterKeyRotation(t *testing.T) {
	s := newStub(t)
	if err := s.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, other := testKeys()
	s.key, s.keyID = other, "second"
	key := NewExportKey()
	s.on(exportEndpoint, s.acceptExport(key))
	if got, err := s.client.StartExport(t.Context(), anyQuery, true, key); err != nil || got != anyReference {
		t.Errorf("got %q, %v", got, err)
	}
	s.wantCounts(t, map[string]int{exportEndpoint: 2, keysEndpoint: 2})
	if n := len(s.log.rows); n != 2 {
		t.Errorf("%d requests went through the limiter, want both", n)
	}

	s.on(exportEndpoint, problem(400, codeUnknownPublicKey))
	if _, err := s.startExport(t); err == nil {
		t.Error("a key that stays unknown was no error")
	}
	s.wantCounts(t, map[string]int{exportEndpoint: 4, keysEndpoint: 3})
}

// The export may be running: asking again would take another of ten places.
func TestStartExportIsNotRepeated(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no answer":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"bad gateway":      answer(502, "text/html", "<title>502</title>"),
		"cut off":          answer(201, "application/json", `{"referenceNumber":"2025`),
		"captive portal":   answer(200, "text/html", "<html>"),
		"without number":   answer(201, "application/json", `{}`),
		"number is a path": answer(201, "application/json", `{"referenceNumber":".."}`),
		"limit reached":    problem(400, 21182),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStub(t)
			s.on(exportEndpoint, handler)
			got, err := s.startExport(t)
			if _, ok := errors.AsType[*Error](err); !ok || got != "" {
				t.Errorf("got %q, %v", got, err)
			}
			s.wantCounts(t, map[string]int{exportEndpoint: 1})
		})
	}
}

func TestExportErrors(t *testing.T) {
	tests := []struct {
		endpoint     string
		status, code int
		want         error
		retryable    bool
	}{
		{exportEndpoint, 400, 21181, ErrRoleNotExportable, false},
		{exportEndpoint, 400, 21182, ErrTooManyExports, true},
		{exportEndpoint, 400, 21183, ErrNothingNew, true},
		{exportStatusEndpoint, 400, 21175, ErrExportExpired, false},
		{exportStatusEndpoint, 410, 0, ErrExportExpired, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.code), func(t *testing.T) {
			s := newStub(t)
			s.on(tt.endpoint, problem(tt.status, tt.code))
			var err error
			if tt.endpoint == exportEndpoint {
				_, err = s.startExport(t)
			} else {
				_, err = s.client.ExportStatus(t.Context(), anyReference)
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, tt.want) || e.Retryable() != tt.retryable || e.Reference == "" {
				t.Errorf("got %v; want %v", err, tt.want)
			}
			s.wantCounts(t, map[string]int{tt.endpoint: 1})
		})
	}
}

func partJSON(ordinal int, more string) string {
	return fmt.Sprintf(`{"ordinalNumber":%d,"partName":"x","method":"GET","url":"https://storage/%[1]d?sig=CANARY","partSize":10,"encryptedPartSize":16,`+
		`"partHash":%q,"encryptedPartHash":%[2]q,"expirationDate":"2026-11-22T11:00:00.1234567+00:00"%s}`, ordinal, anyHash, more)
}

func statusJSON(code int, pack string) string {
	return fmt.Sprintf(`{"status":{"code":%d,"description":"Opis 5265877635\n","details":["szczegół"]},"completedDate":"2026-11-22T10:00:00Z","packageExpirationDate":"2026-11-29T10:00:00.1234567+00:00","package":%s,"later":1}`, code, pack)
}

func TestExportStatus(t *testing.T) {
	s := newStub(t)
	s.on(exportStatusEndpoint, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/invoices/exports/"+anyReference) {
			t.Errorf("asked for %s", r.URL.Path)
		}
		answer(200, "application/json", statusJSON(200, `{"invoiceCount":10000,"size":20,"isTruncated":true,"lastPermanentStorageDate":"2026-11-05T10:00:00.123456+00:00",`+
			`"permanentStorageHwmDate":"2026-11-22T09:58:00.1+00:00","compressionType":"Zstd","parts":[`+partJSON(2, "")+`,`+partJSON(1, `,"new":1`)+`]}`))(w, r)
	})
	got, err := s.client.ExportStatus(t.Context(), anyReference)
	if err != nil {
		t.Fatal(err)
	}
	part := func(n int) Part {
		return Part{Ordinal: n, Method: "GET", Size: 10, EncryptedSize: 16, Hash: anyHash, EncryptedHash: anyHash, Expires: "2026-11-22T11:00:00.1234567+00:00"}
	}
	want := ExportStatus{Code: 200, Description: "Opis [NIP]", Details: []string{"szczegół"}, Package: &Package{
		InvoiceCount: 10000, Size: 20, IsTruncated: true, LastStored: "2026-11-05T10:00:00.123456+00:00",
		HWM: "2026-11-22T09:58:00.1+00:00", Expires: "2026-11-29T10:00:00.1234567+00:00", Compression: "Zstd", Parts: []Part{part(1), part(2)},
	}}
	for i, p := range got.Package.Parts {
		if url := fmt.Sprintf("https://storage/%d?sig=CANARY", i+1); p.URL.Reveal() != url {
			t.Errorf("part %d has the URL %s", i+1, p.URL.Reveal())
		}
		got.Package.Parts[i].URL = Secret{}
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	s.wantCounts(t, map[string]int{exportStatusEndpoint: 1})
	if left, _ := s.client.Limiter.Budget(GroupExportStatus); left != 599 {
		t.Errorf("%d requests for a status are left in this hour, want 599 of 600", left)
	}
}

func TestExportStatusWithoutPackage(t *testing.T) {
	for _, code := range []int{ExportRunning, ExportDone, ExportExpired, ExportGone, ExportKeyRefused, ExportRangeBeyondHWM, ExportFailed, ExportCancelled, 999} {
		got, err := decodeExportStatus([]byte(statusJSON(code, "null")))
		if err != nil || got.Code != code || got.Package != nil {
			t.Errorf("%d: got %+v, %v", code, got, err)
		}
	}
	empty, err := decodeExportStatus([]byte(statusJSON(200, `{"invoiceCount":0,"size":0,"isTruncated":false,"parts":[]}`)))
	if err != nil || empty.Package == nil || len(empty.Package.Parts) != 0 || empty.Package.HWM != "" {
		t.Errorf("a package without invoices: got %+v, %v", empty, err)
	}
}

func TestDecodeExportStatusRefuses(t *testing.T) {
	pack := func(fields string, parts ...string) string {
		return statusJSON(200, `{`+fields+`,"parts":[`+strings.Join(parts, ",")+`]}`)
	}
	const fields = `"invoiceCount":1,"size":1,"isTruncated":false`
	for name, body := range map[string]string{
		"nothing": ``, "empty": `{}`, "null": `null`, "no code": `{"status":{}}`, "cut off": `{"status":{"code":100}`,
		"empty package":   statusJSON(200, `{}`),
		"no count":        pack(`"isTruncated":false`, partJSON(1, "")),
		"no isTruncated":  pack(`"invoiceCount":1`, partJSON(1, "")),
		"no parts":        statusJSON(200, `{`+fields+`}`),
		"null parts":      statusJSON(200, `{`+fields+`,"parts":null}`),
		"parts missing":   pack(fields),
		"negative count":  pack(`"invoiceCount":-1,"isTruncated":false`, partJSON(1, "")),
		"part 1 missing":  pack(fields, partJSON(2, "")),
		"part 2 missing":  pack(fields, partJSON(1, ""), partJSON(3, "")),
		"part 1 twice":    pack(fields, partJSON(1, ""), partJSON(1, "")),
		"too many parts":  pack(fields, strings.TrimSuffix(strings.Repeat(partJSON(1, "")+",", maxParts+1), ",")),
		"no URL":          pack(fields, partJSON(1, `,"url":""`)),
		"no hash":         pack(fields, partJSON(1, `,"partHash":""`)),
		"short hash":      pack(fields, partJSON(1, `,"encryptedPartHash":"AAAA"`)),
		"no size":         pack(fields, partJSON(1, `,"partSize":0`)),
		"negative size":   pack(fields, partJSON(1, `,"encryptedPartSize":-16`)),
		"impossible size": pack(fields, partJSON(1, `,"encryptedPartSize":9000000000000000000`)),
		"wrong time":      pack(fields+`,"permanentStorageHwmDate":"yesterday"`, partJSON(1, "")),
	} {
		if got, err := decodeExportStatus([]byte(body)); err == nil || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestExportStatusRefusesOddReference(t *testing.T) {
	s := newStub(t)
	for _, reference := range []string{"", "..", "a/b", "a?b", strings.Repeat("A", 101)} {
		if _, err := s.client.ExportStatus(t.Context(), reference); err == nil {
			t.Errorf("%q was not refused", reference)
		}
	}
	if s.total() != 0 {
		t.Errorf("%d requests were sent", s.total())
	}
}

// After 415 the next export must be encrypted for the key that KSeF has now.
func TestExportKeyRefusedReloadsKeys(t *testing.T) {
	s := newStub(t)
	key := NewExportKey()
	s.on(exportEndpoint, s.acceptExport(key))
	s.on(exportStatusEndpoint, answer(200, "application/json", statusJSON(415, "null")))
	for range 2 {
		if _, err := s.client.StartExport(t.Context(), anyQuery, true, key); err != nil {
			t.Fatal(err)
		}
		if got, err := s.client.ExportStatus(t.Context(), anyReference); err != nil || got.Code != ExportKeyRefused {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	s.wantCounts(t, map[string]int{keysEndpoint: 2})
}

func TestExportKey(t *testing.T) {
	key, other := NewExportKey(), NewExportKey()
	if key.Key == other.Key || key.IV == other.IV || key.Key == [32]byte{} || key.IV == [16]byte{} {
		t.Error("keys are not random")
	}
	key = ExportKey{Key: [32]byte([]byte("CANARY-CANARY-CANARY-CANARY-CANA"))}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "key", key, "in", struct{ K ExportKey }{key})
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "key", key, "in", struct{ K ExportKey }{key})
	encoded, err := json.Marshal(struct{ K ExportKey }{key})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{
		fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", key, key, key, key, key, key, key, key),
		fmt.Sprintf("%+v", struct{ K ExportKey }{key}), fmt.Sprintf("%x", &key), key.String(), key.GoString(), string(encoded), logged.String(),
	} {
		if !strings.Contains(printed, redacted) || strings.Contains(printed, "CANARY") || strings.Contains(printed, "67 65 78") || strings.Contains(strings.ToLower(printed), "43414e415259") {
			t.Errorf("printed as %s", printed)
		}
	}
}

func TestOfficialExportExamples(t *testing.T) {
	spec := openAPI(t)
	example := func(path, method, status string) []byte {
		return spec.Paths[path][method].Responses[status].Content["application/json"].Example
	}
	if got, err := decodeReference(example("/invoices/exports", "post", "201")); err != nil || got != anyReference {
		t.Errorf("reference: got %q, %v", got, err)
	}
	status, err := decodeExportStatus(example("/invoices/exports/{referenceNumber}", "get", "200"))
	if err != nil || status.Package == nil || status.Package.LastStored != "2025-09-11T11:40:40.266578+00:00" || len(status.Package.Parts) != 1 {
		t.Fatalf("status: got %+v, %v", status, err)
	}
	// What the example says of padding is what is expected of a part.
	if p := status.Package.Parts[0]; p.EncryptedSize != p.Size/16*16+16 {
		t.Errorf("got sizes %d and %d", p.Size, p.EncryptedSize)
	}
}

func FuzzExportStatus(f *testing.F) {
	f.Add([]byte(statusJSON(200, `{"invoiceCount":1,"size":1,"isTruncated":false,"parts":[`+partJSON(1, "")+`]}`)))
	f.Add([]byte(statusJSON(100, "null")))
	f.Fuzz(func(t *testing.T, body []byte) {
		status, err := decodeExportStatus(body)
		if err != nil || status.Package == nil {
			return
		}
		if status.Code != ExportDone || status.Package.InvoiceCount < 0 || status.Package.InvoiceCount > 0 && len(status.Package.Parts) == 0 {
			t.Errorf("%q was read as %+v", body, status)
		}
		for i, p := range status.Package.Parts {
			if p.Ordinal != i+1 || p.check() != nil {
				t.Errorf("%q was read as %+v", body, status)
			}
		}
	})
}
