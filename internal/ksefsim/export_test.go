package ksefsim_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

var (
	secret = []byte("0123456789abcdef0123456789abcdef")
	vector = []byte("fedcba9876543210")
)

// exportRequest is the body of POST /invoices/exports.
type exportRequest struct {
	Encryption struct {
		Key   []byte `json:"encryptedSymmetricKey"`
		IV    []byte `json:"initializationVector"`
		KeyID string `json:"publicKeyId,omitempty"`
	} `json:"encryption"`
	OnlyMetadata bool           `json:"onlyMetadata"`
	Filters      map[string]any `json:"filters"`
	Compression  string         `json:"compressionType,omitempty"`
}

// exportStatus is what GET /invoices/exports/{referenceNumber} answers, read
// strictly: what the specification does not name is an error.
type exportStatus struct {
	Status struct {
		Code        int      `json:"code"`
		Description string   `json:"description"`
		Details     []string `json:"details"`
	} `json:"status"`
	Completed *time.Time `json:"completedDate"`
	Expires   *time.Time `json:"packageExpirationDate"`
	Package   *struct {
		Count         int     `json:"invoiceCount"`
		Size          int     `json:"size"`
		Parts         []part  `json:"parts"`
		Compression   string  `json:"compressionType"`
		Truncated     bool    `json:"isTruncated"`
		LastIssue     *string `json:"lastIssueDate"`
		LastInvoicing *string `json:"lastInvoicingDate"`
		LastStored    *string `json:"lastPermanentStorageDate"`
		HWM           *string `json:"permanentStorageHwmDate"`
	} `json:"package"`
}

type part struct {
	Ordinal    int       `json:"ordinalNumber"`
	Name       string    `json:"partName"`
	Method     string    `json:"method"`
	URL        string    `json:"url"`
	Size       int       `json:"partSize"`
	Hash       string    `json:"partHash"`
	SealedSize int       `json:"encryptedPartSize"`
	SealedHash string    `json:"encryptedPartHash"`
	Expires    time.Time `json:"expirationDate"`
}

// request asks for everything that the company sold since 1 November.
func (s *sim) request() exportRequest {
	s.t.Helper()
	var r exportRequest
	key := s.symmetricKey()
	sealed, err := base64.StdEncoding.DecodeString(s.encrypt(key, string(secret)))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Encryption.Key, r.Encryption.IV, r.Encryption.KeyID = sealed, vector, key.KeyID
	r.Filters = map[string]any{"subjectType": "Subject1", "dateRange": map[string]any{
		"dateType": "PermanentStorage", "from": "2026-11-01T00:00:00Z", "restrictToPermanentStorageHwmDate": true,
	}}
	return r
}

func (r *exportRequest) dates() map[string]any { return r.Filters["dateRange"].(map[string]any) }

func (s *sim) symmetricKey() certificate {
	s.t.Helper()
	all := slices.DeleteFunc(s.certificates(), func(c certificate) bool { return !slices.Contains(c.Usage, "SymmetricKeyEncryption") })
	return all[len(all)-1]
}

func (s *sim) post(r exportRequest) reply {
	s.t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do("POST", "/v2/invoices/exports", string(body))
}

func (s *sim) export(r exportRequest) (reference string) {
	s.t.Helper()
	var began struct {
		Reference string `json:"referenceNumber"`
	}
	s.into(s.post(r), 201, &began)
	return began.Reference
}

func (s *sim) status(reference string) exportStatus {
	s.t.Helper()
	r := s.do("GET", "/v2/invoices/exports/"+reference, "")
	if r.status != 200 {
		s.t.Fatalf("status answered %d %s (%v)", r.status, r.body, r.err)
	}
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.DisallowUnknownFields()
	var got exportStatus
	if err := decoder.Decode(&got); err != nil {
		s.t.Fatalf("status %s: %v", r.body, err)
	}
	return got
}

// fetch gets a part from the storage, without a token.
func (s *sim) fetch(url string) reply {
	s.t.Helper()
	held := s.bearer
	s.bearer = ""
	defer func() { s.bearer = held }()
	return s.do("GET", strings.TrimPrefix(url, s.url), "")
}

// content is what an export held.
type content struct {
	names []string // in the order of the archive
	files map[string][]byte
	rows  []json.RawMessage
}

func (c content) numbers() []ksef.Number {
	var all []ksef.Number
	for _, row := range c.rows {
		var m ksef.Metadata
		if json.Unmarshal(row, &m) != nil {
			return nil
		}
		all = append(all, ksef.Number(m.KSeFNumber))
	}
	return all
}

// open fetches, decrypts and unpacks a package, and finds every way in which it
// is not what the specification says.
func (s *sim) open(got exportStatus, onlyMetadata bool) (content, error) {
	s.t.Helper()
	if got.Status.Code != 200 || got.Package == nil {
		return content{}, fmt.Errorf("status %d, package %v", got.Status.Code, got.Package)
	}
	var archive []byte
	for i, p := range got.Package.Parts {
		plain, err := s.part(p)
		if err != nil {
			return content{}, fmt.Errorf("part %d: %w", i+1, err)
		}
		if p.Ordinal != i+1 || p.Method != "GET" {
			return content{}, fmt.Errorf("part %d: ordinal %d, method %s", i+1, p.Ordinal, p.Method)
		}
		archive = append(archive, plain...)
	}
	if len(archive) != got.Package.Size {
		return content{}, fmt.Errorf("%d bytes, the package says %d", len(archive), got.Package.Size)
	}
	c := content{files: make(map[string][]byte)}
	if len(archive) == 0 && got.Package.Count == 0 {
		return c, nil
	}
	unpack := map[string]func([]byte, func(string, io.Reader) error) error{"Zip": unzip, "TarGz": untar}[got.Package.Compression]
	if unpack == nil {
		return c, fmt.Errorf("compression %q", got.Package.Compression)
	}
	err := unpack(archive, func(name string, from io.Reader) error {
		text, err := io.ReadAll(from)
		if _, twice := c.files[name]; twice {
			err = errors.Join(err, fmt.Errorf("%s is there twice", name))
		}
		c.names = append(c.names, name)
		c.files[name] = text
		return err
	})
	if err != nil {
		return c, err
	}
	var listed map[string][]json.RawMessage
	if err := json.Unmarshal(c.files["_metadata.json"], &listed); err != nil || len(listed) != 1 || listed["invoices"] == nil {
		return c, fmt.Errorf("_metadata.json is %.60q: %w", c.files["_metadata.json"], err)
	}
	c.rows = listed["invoices"]
	wanted := 1
	if !onlyMetadata {
		wanted += len(c.rows)
	}
	if len(c.rows) != got.Package.Count || len(c.files) != wanted {
		return c, fmt.Errorf("%d rows and %d files, the package says %d invoices", len(c.rows), len(c.files), got.Package.Count)
	}
	var before time.Time
	for _, text := range c.rows {
		var row ksef.Metadata
		if err := json.Unmarshal(text, &row); err != nil {
			return c, err
		}
		if row.Stored.Time().Before(before) {
			return c, fmt.Errorf("%s is not in the order of storage", row.KSeFNumber)
		}
		before = row.Stored.Time()
		if got := digest(c.files[row.KSeFNumber+".xml"]); !onlyMetadata && got != row.InvoiceHash {
			return c, fmt.Errorf("%s has hash %s, its row says %s", row.KSeFNumber, got, row.InvoiceHash)
		}
	}
	return c, nil
}

// part fetches and decrypts one.
func (s *sim) part(p part) ([]byte, error) {
	s.t.Helper()
	r := s.fetch(p.URL)
	switch {
	case r.err != nil || r.status != 200:
		return nil, fmt.Errorf("answered %d %.80q: %w", r.status, r.body, r.err)
	case r.header.Get("Content-Type") != "application/octet-stream":
		return nil, fmt.Errorf("content type %s", r.header.Get("Content-Type"))
	case len(r.body) != p.SealedSize || digest(r.body) != p.SealedHash:
		return nil, errors.New("size or hash differ before decryption")
	case r.header.Get("X-Ms-Meta-Hash") != p.SealedHash:
		return nil, fmt.Errorf("x-ms-meta-hash %q, encryptedPartHash %q", r.header.Get("X-Ms-Meta-Hash"), p.SealedHash)
	case len(r.body) == 0 || len(r.body)%aes.BlockSize != 0:
		return nil, fmt.Errorf("%d bytes are not whole blocks", len(r.body))
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	cipher.NewCBCDecrypter(block, vector).CryptBlocks(r.body, r.body)
	padding := int(r.body[len(r.body)-1])
	if padding < 1 || padding > aes.BlockSize || !bytes.HasSuffix(r.body, bytes.Repeat([]byte{byte(padding)}, padding)) {
		return nil, errors.New("wrong padding")
	}
	plain := r.body[:len(r.body)-padding]
	if len(plain) != p.Size || digest(plain) != p.Hash {
		return nil, errors.New("size or hash differ after decryption")
	}
	return plain, nil
}

func unzip(archive []byte, take func(string, io.Reader) error) error {
	in, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return err
	}
	for _, file := range in.File {
		from, err := file.Open()
		if err == nil {
			err = take(file.Name, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func untar(archive []byte, take func(string, io.Reader) error) error {
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	in := tar.NewReader(plain)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, plain) // to the checksum
			return err
		}
		if err == nil && header.Typeflag != tar.TypeReg {
			err = fmt.Errorf("%s is not a file", header.Name)
		}
		if err == nil {
			err = take(header.Name, in)
		}
		if err != nil {
			return err
		}
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ready is a simulator with n invoices of November and a client logged in.
func ready(t testing.TB, options ksefsim.Options, n int, wrap func(testing.TB, http.Handler) http.Handler) (*sim, []ksef.Number) {
	t.Helper()
	s := newSim(t, options, wrap)
	numbers := s.add(time.Date(2026, 11, 2, 0, 0, 0, 123456000, time.UTC), n)
	s.login(company, token)
	return s, numbers
}

func TestExportHoldsWhatWasAskedFor(t *testing.T) {
	for _, compression := range []string{"", "Zip", "TarGz"} {
		for _, onlyMetadata := range []bool{false, true} {
			for _, partSize := range []int{0, 1, 1000} {
				if partSize == 1 && (compression != "TarGz" || !onlyMetadata) {
					continue // one request for each byte: the shortest is enough
				}
				t.Run(fmt.Sprintf("%s only metadata %v parts of %d", compression, onlyMetadata, partSize), func(t *testing.T) {
					s, numbers := ready(t, ksefsim.Options{PartSize: partSize, Limits: ksef.DefaultLimits()}, 20, contract.Wrap)
					request := s.request()
					request.Compression, request.OnlyMetadata = compression, onlyMetadata
					reference := s.export(request)
					if !regexp.MustCompile(`^20261105-EH-[0-9A-F]{10}-[0-9A-F]{10}-[0-9A-F]{2}$`).MatchString(reference) {
						t.Errorf("reference %q", reference)
					}
					got := s.status(reference)
					c, err := s.open(got, onlyMetadata)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(numbers, c.numbers()); diff != "" {
						t.Errorf("the rows are not what was stored:\n%s", diff)
					}
					if c.names[len(c.names)-1] != "_metadata.json" || !onlyMetadata && c.names[0] != string(numbers[0])+".xml" {
						t.Errorf("the archive holds %q", c.names)
					}
					// The rows are those of POST /invoices/query/metadata, which the contract checks.
					var page struct {
						Invoices []json.RawMessage `json:"invoices"`
						HWM      string            `json:"permanentStorageHwmDate"`
					}
					s.into(s.query(ksef.Seller, start.AddDate(0, 0, -4), time.Time{}, 0, 250), 200, &page)
					if diff := cmp.Diff(page.Invoices, c.rows); diff != "" {
						t.Errorf("the rows are not those of a query:\n%s", diff)
					}
					p := got.Package
					if p.Truncated || p.LastStored != nil || p.HWM == nil || *p.HWM != page.HWM {
						t.Errorf("truncated %v at %v, mark %v; want the mark %s alone", p.Truncated, p.LastStored, p.HWM, page.HWM)
					}
					wanted := map[string]string{"": "Zip", "Zip": "Zip", "TarGz": "TarGz"}[compression]
					ending := map[string]string{"Zip": "zip", "TarGz": "tar.gz"}[wanted]
					if p.Compression != wanted || p.Parts[0].Name != reference+"-001."+ending+".aes" {
						t.Errorf("%s named %s, want %s", p.Compression, p.Parts[0].Name, wanted)
					}
					for i, each := range p.Parts {
						if partSize > 0 && i < len(p.Parts)-1 && each.Size != partSize {
							t.Errorf("part %d has %d bytes, want %d", i+1, each.Size, partSize)
						}
						if each.SealedSize != each.Size/16*16+16 {
							t.Errorf("part %d has %d bytes for %d: it is not encrypted by itself", i+1, each.SealedSize, each.Size)
						}
					}
					if partSize > 0 == (len(p.Parts) == 1) {
						t.Errorf("%d parts", len(p.Parts))
					}
					if !got.Completed.Equal(start) || !got.Expires.Equal(start.AddDate(0, 0, 7)) {
						t.Errorf("completed %v, expires %v", got.Completed, got.Expires)
					}
					if stats := s.Stats(); len(stats.Violations) > 0 || len(stats.Parts) != len(p.Parts) || stats.ByGroup[ksef.GroupExport] != 1 || stats.ByGroup[ksef.GroupExportStatus] != 1 {
						t.Errorf("counted %+v", stats)
					}
				})
			}
		}
	}
}

// Truncated packages, each continued at the last date of the one before, bring
// everything, though several invoices share an instant.
func TestTruncatedExportsContinue(t *testing.T) {
	for _, each := range []struct {
		name    string
		options ksefsim.Options
		tar     bool
		atLeast int // exports needed
	}{
		{"by count", ksefsim.Options{PackageCap: 7}, false, 5},
		{"zip by size", ksefsim.Options{PackageSize: 20_000}, false, 4},
		{"tar by size", ksefsim.Options{PackageSize: 60_000}, true, 2},
	} {
		t.Run(each.name, func(t *testing.T) {
			s := newSim(t, each.options, contract.Wrap)
			all := generate(300, 1)
			if !each.tar {
				all = all[:100]
			}
			for i := range all {
				all[i].Stored = start.AddDate(0, 0, -3).Add(time.Duration(i/3) * time.Second)
			}
			if _, err := s.Add(all...); err != nil {
				t.Fatal(err)
			}
			s.login(company, token)
			request := s.request()
			if each.tar {
				request.Compression = "TarGz"
			}
			wanted := s.Listed(company, ksef.Seller)
			found := make(map[ksef.Number]bool)
			exports := 0
			for done := false; !done; exports++ {
				got := s.status(s.export(request))
				c, err := s.open(got, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, number := range c.numbers() {
					found[number] = true
				}
				p := got.Package
				if each.options.PackageCap > 0 && p.Truncated != (p.Count == each.options.PackageCap) {
					t.Errorf("truncated %v with %d invoices", p.Truncated, p.Count)
				}
				if p.Truncated != (p.LastStored != nil) || p.LastIssue != nil || p.LastInvoicing != nil {
					t.Fatalf("truncated %v, last dates %v %v %v", p.Truncated, p.LastStored, p.LastIssue, p.LastInvoicing)
				}
				if done = !p.Truncated; !done {
					var last ksef.Metadata
					if err := json.Unmarshal(c.rows[len(c.rows)-1], &last); err != nil || string(last.Stored) != *p.LastStored {
						t.Errorf("last date %s, the last row has %s", *p.LastStored, last.Stored)
					}
					if request.dates()["from"] == *p.LastStored {
						t.Fatal("no progress")
					}
					request.dates()["from"] = *p.LastStored
				}
			}
			if len(found) != len(wanted) || len(wanted) < 40 {
				t.Errorf("%d of %d invoices", len(found), len(wanted))
			}
			if exports < each.atLeast {
				t.Errorf("%d exports, want at least %d", exports, each.atLeast)
			}
		})
	}
}

// A package that reaches the number is truncated even where nothing follows.
func TestExportOfExactlyTheCapIsTruncated(t *testing.T) {
	s, numbers := ready(t, ksefsim.Options{PackageCap: 5}, 5, contract.Wrap)
	request := s.request()
	request.OnlyMetadata = true
	got := s.status(s.export(request))
	if p := got.Package; !p.Truncated || p.Count != 5 || len(numbers) != 5 {
		t.Errorf("%d invoices, truncated %v, want 5 and truncated", p.Count, p.Truncated)
	}
}

func TestExportByOtherDates(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{PackageCap: 5}, 8, contract.Wrap)
	for _, dateType := range []string{"Issue", "Invoicing"} {
		request := s.request()
		request.Filters["dateRange"] = map[string]any{"dateType": dateType, "from": "2026-11-01T00:00:00Z", "to": "2026-11-05T00:00:00Z"}
		p := s.status(s.export(request)).Package
		if !p.Truncated || p.HWM != nil || p.LastStored != nil || (p.LastIssue != nil) != (dateType == "Issue") || (p.LastInvoicing != nil) != (dateType == "Invoicing") {
			t.Errorf("by %s: %+v", dateType, p)
		}
		if dateType == "Issue" && *p.LastIssue != "2026-11-04" {
			t.Errorf("last issue date %s, want 2026-11-04", *p.LastIssue)
		}
	}
}

func TestExportWithoutInvoices(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 0, contract.Wrap)
	for _, emptyPart := range []bool{false, true} {
		s.SetExportOutcome(ksefsim.ExportOutcome{EmptyPart: emptyPart})
		got := s.status(s.export(s.request()))
		c, err := s.open(got, false)
		if err != nil {
			t.Fatal(err)
		}
		if p := got.Package; p.Count != 0 || p.Truncated || p.HWM == nil || (len(p.Parts) == 1) != emptyPart || (len(c.names) == 1) != emptyPart {
			t.Errorf("empty part %v: %+v holds %q", emptyPart, p, c.names)
		}
	}
}

func TestExportRefusals(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 1, contract.WrapAnswers)
	for _, each := range []struct {
		name   string
		change func(*exportRequest)
		code   int
	}{
		{"vector of 15 bytes", func(r *exportRequest) { r.Encryption.IV = vector[:15] }, 21405},
		{"no vector", func(r *exportRequest) { r.Encryption.IV = nil }, 21405},
		{"no key", func(r *exportRequest) { r.Encryption.Key = nil }, 21405},
		{"short key id", func(r *exportRequest) { r.Encryption.KeyID = "AAAA" }, 21405},
		{"unknown key id", func(r *exportRequest) { r.Encryption.KeyID = digest(nil) }, 21470},
		{"no filters", func(r *exportRequest) { r.Filters = nil }, 21405},
		{"no subject", func(r *exportRequest) { delete(r.Filters, "subjectType") }, 21405},
		{"unknown filter", func(r *exportRequest) { r.Filters["pageSize"] = 10 }, 21405},
		{"unknown compression", func(r *exportRequest) { r.Compression = "Zstd" }, 21405},
		{"101 days", func(r *exportRequest) {
			r.dates()["from"], r.dates()["to"] = "2026-07-24T00:00:00Z", "2026-11-02T00:00:00Z"
		}, 21405},
		{"101 days until now", func(r *exportRequest) { r.dates()["from"] = "2026-07-28T00:00:00Z" }, 21405},
		{"100 days", func(r *exportRequest) {
			r.dates()["from"], r.dates()["to"] = "2026-07-25T00:00:00Z", "2026-11-02T00:00:00Z"
		}, 0},
		{"no key id", func(r *exportRequest) { r.Encryption.KeyID = "" }, 0},
	} {
		t.Run(each.name, func(t *testing.T) {
			request := s.request()
			each.change(&request)
			before := len(s.Stats().Violations)
			r := s.post(request)
			if r.code() != each.code || r.status != map[bool]int{true: 201, false: 400}[each.code == 0] {
				t.Errorf("answered %d %s, want code %d", r.status, r.body, each.code)
			}
			if counted := len(s.Stats().Violations) > before; counted != (each.code == 21405) {
				t.Errorf("counted as a violation: %v", counted)
			}
		})
	}
	if r := s.do("GET", "/v2/invoices/exports/short", ""); r.code() != 21405 {
		t.Errorf("a short reference answered %d %s, want 21405", r.status, r.body)
	}
	if r := s.do("POST", "/v2/invoices/exports", `{"filters":{}}`); r.code() != 21405 {
		t.Errorf("without encryption answered %d %s, want 21405", r.status, r.body)
	}
}

func TestExportOfARoleThatTheContextCannotHave(t *testing.T) {
	for _, each := range []struct {
		context ksef.Context
		allowed []string
	}{
		{company, []string{"Subject1", "Subject2", "Subject3", "SubjectAuthorized"}},
		{ksef.Context{Type: ksef.ContextInternalID, Value: "5265877635-12345"}, []string{"Subject3"}},
		{ksef.Context{Type: ksef.ContextNIPVATEU, Value: "5265877635-DE123456789"}, []string{"Subject1", "Subject2"}},
		{ksef.Context{Type: ksef.ContextPeppolID, Value: "PPL000001"}, nil},
	} {
		s := newSim(t, ksefsim.Options{}, contract.Wrap)
		s.AddToken(each.context, "its token")
		s.login(each.context, "its token")
		for _, subject := range []string{"Subject1", "Subject2", "Subject3", "SubjectAuthorized"} {
			request := s.request()
			request.Filters["subjectType"] = subject
			if r := s.post(request); (r.status == 201) != slices.Contains(each.allowed, subject) || r.status != 201 && r.code() != 21181 {
				t.Errorf("%s in a context %s answered %d %s", subject, each.context.Type, r.status, r.body)
			}
		}
	}
}

func TestTenExportsRun(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 1, contract.Wrap)
	other := ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}
	s.AddToken(other, "other")
	for range 3 {
		s.export(s.request()) // done at once
	}
	s.SetExportOutcome(ksefsim.ExportOutcome{Takes: time.Minute, Times: 9})
	for range 9 {
		s.export(s.request())
	}
	s.SetExportOutcome(ksefsim.ExportOutcome{Status: 100, Times: 1})
	stuck := s.export(s.request())
	if r := s.post(s.request()); r.status != 400 || r.code() != 21182 {
		t.Errorf("the eleventh answered %d %s, want 21182", r.status, r.body)
	}
	ours := s.bearer
	s.login(other, "other")
	s.export(s.request()) // another context has its own ten
	s.bearer = ours
	s.clock.add(time.Minute)
	s.SetExportOutcome(ksefsim.ExportOutcome{Pending: 1, Times: 9})
	var pending string
	for range 9 { // the nine have ended without a poll, the stuck one has not
		pending = s.export(s.request())
	}
	if r := s.post(s.request()); r.code() != 21182 {
		t.Errorf("the eleventh answered %d %s, want 21182", r.status, r.body)
	}
	if got := s.status(pending); got.Status.Code != 100 {
		t.Errorf("status %d, want 100 for one poll", got.Status.Code)
	}
	s.export(s.request())
	s.clock.add(exportWeek + time.Second)
	s.login(company, token)
	if r := s.do("GET", "/v2/invoices/exports/"+stuck, ""); r.status != 410 {
		t.Errorf("a stuck export after a week answered %d %s, want 410", r.status, r.body)
	}
	for range 10 {
		s.export(s.request())
	}
}

const exportWeek = 7 * 24 * time.Hour

func TestExportLife(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 1, contract.Wrap)
	s.SetExportOutcome(ksefsim.ExportOutcome{Takes: time.Minute, Pending: 2, Times: 1})
	reference := s.export(s.request())
	var codes []int
	for i := range 5 {
		got := s.status(reference)
		codes = append(codes, got.Status.Code)
		if (got.Status.Code == 100) != (got.Completed == nil) || (got.Status.Code == 100) != (got.Package == nil) {
			t.Errorf("status %d with %v and %v", got.Status.Code, got.Completed, got.Package)
		}
		if i == 0 {
			s.clock.add(time.Minute)
		}
	}
	if want := []int{100, 100, 100, 200, 200}; !slices.Equal(codes, want) {
		t.Errorf("polls answered %v, want %v", codes, want)
	}
	second := s.export(s.request())
	if got := s.status(second); got.Status.Code != 200 {
		t.Errorf("the next export has status %d, want 200: the outcome was for one", got.Status.Code)
	}

	other := ksef.Context{Type: ksef.ContextNIP, Value: "1111111111"}
	s.AddToken(other, "other")
	ours := s.bearer
	s.login(other, "other")
	for _, asked := range []string{reference, "20261105-EH-0123456789-ABCDEF0123-45"} {
		if r := s.do("GET", "/v2/invoices/exports/"+asked, ""); r.status != 400 || r.code() != 21175 {
			t.Errorf("%s answered %d %s, want 400 21175", asked, r.status, r.body)
		}
	}
	s.bearer = ours
	s.clock.add(exportWeek - 30*time.Second)
	s.login(company, token)
	last := s.status(reference)
	s.clock.add(31 * time.Second)
	if r := s.do("GET", "/v2/invoices/exports/"+reference, ""); r.status != 410 || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("after a week answered %d %s, want 410", r.status, r.body)
	}
	if r := s.fetch(last.Package.Parts[0].URL); r.status != 404 {
		t.Errorf("a part after a week answered %d %s, want 404", r.status, r.body)
	}
}

func TestExportStatuses(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 1, contract.WrapAnswers)
	for _, code := range []int{210, 410, 415, 420, 500, 550} {
		s.SetExportOutcome(ksefsim.ExportOutcome{Status: code, Times: 1})
		if got := s.status(s.export(s.request())); got.Status.Code != code || got.Package != nil || got.Completed == nil || got.Status.Description == "" {
			t.Errorf("set to %d: %+v", code, got)
		}
	}
	t.Run("beyond the mark", func(t *testing.T) {
		request := s.request()
		request.dates()["from"] = ksef.NewTimestamp(s.HWM().Add(time.Microsecond))
		request.dates()["to"] = ksef.NewTimestamp(s.HWM().Add(time.Hour))
		if got := s.status(s.export(request)); got.Status.Code != 420 || len(got.Status.Details) != 1 {
			t.Errorf("restricted: %+v, want 420", got.Status)
		}
		delete(request.dates(), "restrictToPermanentStorageHwmDate")
		if got := s.status(s.export(request)); got.Status.Code != 200 || got.Package.Count != 0 {
			t.Errorf("not restricted: %+v, want 200", got)
		}
	})
	t.Run("keys", func(t *testing.T) {
		short := s.request()
		sealed := s.encrypt(s.symmetricKey(), "too short")
		short.Encryption.Key, _ = base64.StdEncoding.DecodeString(sealed)
		usage := s.request()
		sealed = s.encrypt(s.key(), string(secret))
		usage.Encryption.Key, _ = base64.StdEncoding.DecodeString(sealed)
		usage.Encryption.KeyID = s.key().KeyID
		noise := s.request()
		noise.Encryption.Key = bytes.Repeat([]byte{7}, 256)
		for i, each := range []exportRequest{short, usage, noise} {
			if got := s.status(s.export(each)); got.Status.Code != 415 {
				t.Errorf("wrong key %d: %+v, want 415", i, got.Status)
			}
			if got := len(s.Stats().Violations); got != i+1 {
				t.Errorf("%d violations, want %d", got, i+1)
			}
		}
		old := s.request()
		s.AddKey()
		if got := s.status(s.export(old)); got.Status.Code != 200 {
			t.Errorf("old key during a planned rotation: %+v", got.Status)
		}
		before, done := s.export(s.request()), s.export(s.request())
		s.status(done)
		s.RotateKeys()
		if got := s.status(before); got.Status.Code != 415 {
			t.Errorf("key withdrawn after the POST: %+v, want 415", got.Status)
		}
		if got := s.status(done); got.Status.Code != 200 {
			t.Errorf("key withdrawn after the end: %+v, want 200", got.Status)
		}
		if r := s.post(old); r.code() != 21470 {
			t.Errorf("withdrawn key: %d %s, want 21470", r.status, r.body)
		}
		if got := s.status(s.export(s.request())); got.Status.Code != 200 {
			t.Errorf("new key: %+v", got.Status)
		}
	})
}

// What is stored or becomes visible after the POST is not in the package, and
// its mark does not pass it.
func TestExportIsOfTheInstantOfThePost(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 3, contract.Wrap)
	s.SetExportOutcome(ksefsim.ExportOutcome{Takes: time.Hour})
	late := ksefsim.Invoice{XML: sale(100), Stored: start.Add(-time.Hour), Visible: start.Add(time.Minute)}
	if _, err := s.Add(late); err != nil {
		t.Fatal(err)
	}
	reference := s.export(s.request())
	s.clock.add(time.Hour)
	s.login(company, token)
	got := s.status(reference)
	c, err := s.open(got, false)
	if err != nil || len(c.rows) != 3 {
		t.Fatalf("%d invoices, want 3 (%v)", len(c.rows), err)
	}
	if mark := ksef.Timestamp(*got.Package.HWM).Time(); mark.After(late.Stored) {
		t.Errorf("mark %v passes the invoice of %v", mark, late.Stored)
	}
}

func TestLinksToParts(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{Limits: ksef.DefaultLimits()}, 3, contract.Wrap)
	reference := s.export(s.request())
	first, second := s.status(reference).Package.Parts[0], s.status(reference).Package.Parts[0]
	if first.URL == second.URL || first.Hash != second.Hash {
		t.Error("two statuses must give two links to one part")
	}
	if strings.Contains(strings.TrimPrefix(first.URL, s.url), "/v2") || !first.Expires.Equal(start.Add(time.Hour)) {
		t.Errorf("link %s until %v", first.URL, first.Expires)
	}
	for range 100 { // no limits
		if r := s.fetch(first.URL); r.status != 200 {
			t.Fatalf("a part answered %d %s", r.status, r.body)
		}
	}
	refused := func(name string, r reply, status int, code string) {
		t.Helper()
		if r.status != status || r.header.Get("Content-Type") != "application/xml" || !bytes.Contains(r.body, []byte("<Code>"+code+"</Code>")) {
			t.Errorf("%s answered %d %s, want %d %s", name, r.status, r.body, status, code)
		}
	}
	refused("no signature", s.fetch(first.URL[:strings.Index(first.URL, "?")]), 403, "AuthenticationFailed")
	refused("another part", s.fetch(strings.Replace(first.URL, "-001.", "-002.", 1)), 403, "AuthenticationFailed")
	refused("a later end", s.fetch(strings.Replace(first.URL, "se=2026", "se=2027", 1)), 403, "AuthenticationFailed")
	if violations := s.Stats().Violations; len(violations) > 0 {
		t.Errorf("violations %q, want none yet", violations)
	}
	refused("with a token", s.do("GET", strings.TrimPrefix(first.URL, s.url), ""), 403, "AuthenticationFailed")
	held := s.bearer
	s.bearer = ""
	refused("POST", s.do("POST", strings.TrimPrefix(first.URL, s.url), ""), 405, "UnsupportedHttpVerb")
	s.bearer = held
	if violations := s.Stats().Violations; len(violations) != 2 || strings.Contains(strings.Join(violations, ""), "sig=") {
		t.Errorf("violations %q, want two, without signatures", violations)
	}
	s.clock.add(59 * time.Minute)
	if r := s.fetch(first.URL); r.status != 200 {
		t.Errorf("after 59 minutes: %d %s", r.status, r.body)
	}
	s.clock.add(time.Minute)
	refused("after an hour", s.fetch(first.URL), 403, "AuthenticationFailed")
	s.login(company, token)
	third := s.status(reference).Package.Parts[0]
	if r := s.fetch(third.URL); r.status != 200 {
		t.Errorf("a fresh link: %d %s", r.status, r.body)
	}
	s.ExpireLinks()
	refused("ended by hand", s.fetch(third.URL), 403, "AuthenticationFailed")
	if r := s.fetch(s.status(reference).Package.Parts[0].URL); r.status != 200 {
		t.Errorf("a link given after that: %d %s", r.status, r.body)
	}
}

func TestExportsCountAgainstTheirLimits(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{Limits: ksef.Limits{ksef.GroupExport: {PerHour: 2}, ksef.GroupExportStatus: {PerHour: 3}}}, 1, contract.Wrap)
	s.export(s.request())
	reference := s.export(s.request())
	if r := s.post(s.request()); r.status != 429 || r.header.Get("Retry-After") != "3600" {
		t.Errorf("the third export answered %d %s", r.status, r.body)
	}
	for range 3 {
		s.status(reference)
	}
	if r := s.do("GET", "/v2/invoices/exports/"+reference, ""); r.status != 429 {
		t.Errorf("the fourth status answered %d %s", r.status, r.body)
	}
}

// Whatever is spoiled on purpose is found by a strict reader, and only as often
// as it was asked for.
func TestSpoiledExports(t *testing.T) {
	spoilMetadata := func(change func([]byte) []byte) func(*ksefsim.Package) {
		return func(p *ksefsim.Package) { p.Metadata().Data = change(p.Metadata().Data) }
	}
	packageOf := func(answer map[string]any) map[string]any { return answer["package"].(map[string]any) }
	for _, each := range []struct {
		name    string
		fault   ksefsim.Fault // used where it does something
		outcome ksefsim.ExportOutcome
		want    string
	}{
		{name: "wrong hashes once", fault: ksefsim.WrongPartHashes(1), want: "part 1: size or hash differ before decryption"},
		{name: "HTML", fault: ksefsim.HTMLError(ksefsim.PartPath, 1, 200), want: "part 1: content type text/html"},
		{name: "cut", fault: ksefsim.CutBody(ksefsim.PartPath, 1, 100), want: "unexpected EOF"},
		{name: "bytes changed on the way", fault: ksefsim.RewriteBody(ksefsim.PartPath, 1, func(b []byte) []byte { b[20] ^= 1; return b }), want: "before decryption"},
		{name: "package null", fault: ksefsim.RewriteJSON("/invoices/exports/*", 1, func(a map[string]any) { a["package"] = nil }), want: "package <nil>"},
		{name: "answer", outcome: ksefsim.ExportOutcome{Answer: func(a map[string]any) { a["package"] = nil }}, want: "package <nil>"},
		{name: "unknown compression", outcome: ksefsim.ExportOutcome{Answer: func(a map[string]any) { packageOf(a)["compressionType"] = "Zstd" }}, want: `compression "Zstd"`},
		{name: "count", outcome: ksefsim.ExportOutcome{Answer: func(a map[string]any) { packageOf(a)["invoiceCount"] = 6 }}, want: "5 rows and 6 files, the package says 6 invoices"},
		{name: "wrong padding", outcome: ksefsim.ExportOutcome{Part: func(b []byte) []byte { return b[:len(b)-16] }}, want: "part 1: "},
		{name: "wrong vector", outcome: ksefsim.ExportOutcome{Part: func(b []byte) []byte { b[0] ^= 1; return b }}, want: "after decryption"},
		{name: "archive", outcome: ksefsim.ExportOutcome{Archive: func(b []byte) []byte { b[100] ^= 0xff; return b }}, want: "flate"},
		{name: "archive cut", outcome: ksefsim.ExportOutcome{Archive: func(b []byte) []byte { return b[:len(b)/2] }}, want: "not a valid zip file"},
		{name: "XML missing", outcome: ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) { p.Entries = p.Entries[1:] }}, want: "5 rows and 5 files"},
		{name: "XML too many", outcome: ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) {
			p.Entries = append(p.Entries, ksefsim.Entry{Name: "extra.xml", Data: []byte("<a/>")})
		}}, want: "5 rows and 7 files"},
		{name: "XML twice", outcome: ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) { p.Entries = append(p.Entries, p.Entries[0]) }}, want: "twice"},
		{name: "other XML", outcome: ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) { p.Entries[2].Data = []byte("<a/>") }}, want: "its row says"},
		{name: "metadata missing", outcome: ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) { p.Entries = p.Entries[:5] }}, want: "_metadata.json is"},
		{name: "metadata cut", outcome: ksefsim.ExportOutcome{Package: spoilMetadata(func(b []byte) []byte { return b[:len(b)/2] })}, want: "unexpected end of JSON"},
	} {
		t.Run(each.name, func(t *testing.T) {
			s, _ := ready(t, ksefsim.Options{}, 5, contract.Wrap)
			each.outcome.Times = 1
			s.SetExportOutcome(each.outcome)
			if each.fault.Do != nil {
				s.Fault(each.fault)
			}
			reference := s.export(s.request())
			_, err := s.open(s.status(reference), false)
			if err == nil || !strings.Contains(err.Error(), each.want) {
				t.Errorf("read with %v, want %s", err, each.want)
			}
			if _, err = s.open(s.status(reference), false); (err == nil) != (each.fault.Do != nil) {
				t.Errorf("the same export again: %v; a fault is for once, an outcome for every time", err)
			}
			if _, err = s.open(s.status(s.export(s.request())), false); err != nil {
				t.Errorf("the next export: %v", err)
			}
		})
	}
}

// The stored invoices survive what a test does to a package.
func TestSpoiledExportsLeaveTheInvoices(t *testing.T) {
	s, numbers := ready(t, ksefsim.Options{}, 2, contract.Wrap)
	s.SetExportOutcome(ksefsim.ExportOutcome{Package: func(p *ksefsim.Package) { p.Entries[0].Data = append(p.Entries[0].Data, '!') }})
	s.status(s.export(s.request()))
	if r := s.do("GET", "/v2/invoices/ksef/"+string(numbers[0]), ""); !bytes.Equal(r.body, sale(0)) {
		t.Errorf("the invoice is now %q", r.body)
	}
}

// As KSeF did before 2.6.1 (api-changelog): 10,001 rows that are not truncated.
func TestTenThousandAndOneRows(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{PackageCap: 10_001}, 10_002, contract.Wrap)
	s.clock.add(10 * 24 * time.Hour)
	s.login(company, token)
	s.SetExportOutcome(ksefsim.ExportOutcome{Answer: func(answer map[string]any) {
		shown := answer["package"].(map[string]any)
		shown["isTruncated"] = false
		delete(shown, "lastPermanentStorageDate")
	}})
	request := s.request()
	request.OnlyMetadata = true
	got := s.status(s.export(request))
	if c, err := s.open(got, true); err != nil || len(c.rows) != 10_001 || got.Package.Truncated {
		t.Errorf("%d rows, truncated %v, %v; want 10,001 and not truncated", len(c.rows), got.Package.Truncated, err)
	}
}

func TestLostAnswerOfAnExportHoldsASlot(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{}, 1, contract.Wrap)
	s.SetExportOutcome(ksefsim.ExportOutcome{Takes: time.Minute})
	for range 9 {
		s.export(s.request())
	}
	s.Fault(ksefsim.LoseAnswer("/invoices/exports", 1))
	if r := s.post(s.request()); r.err == nil {
		t.Fatalf("answered %d %s, want a cut connection", r.status, r.body)
	}
	if r := s.post(s.request()); r.code() != 21182 {
		t.Errorf("answered %d %s, want 21182", r.status, r.body)
	}
}

func TestExportsByAdmin(t *testing.T) {
	s, _ := ready(t, ksefsim.Options{AdminFaults: true}, 1, contract.Wrap)
	if r := s.do("POST", "/admin/faults", `{"fault":"export","status":550,"pending":1,"times":1,"waitMs":60000}`); r.status != 204 {
		t.Fatalf("answered %d %s", r.status, r.body)
	}
	reference := s.export(s.request())
	var codes []int
	for range 3 {
		codes = append(codes, s.status(reference).Status.Code)
		s.clock.add(time.Minute)
	}
	codes = append(codes, s.status(s.export(s.request())).Status.Code)
	if want := []int{100, 100, 550, 200}; !slices.Equal(codes, want) {
		t.Errorf("polls answered %v, want %v", codes, want)
	}
}

// Whatever the body of an export, the answer is one that the specification
// knows, and an export that was accepted has a status.
func FuzzExport(f *testing.F) {
	s, _ := ready(f, ksefsim.Options{}, 3, contract.WrapAnswers)
	request := s.request()
	add := func(change func(*exportRequest)) {
		change(&request)
		body, err := json.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(body))
	}
	add(func(*exportRequest) {})
	add(func(r *exportRequest) { r.Compression = "TarGz" })
	add(func(r *exportRequest) { r.Encryption.Key = []byte{1} })
	add(func(r *exportRequest) { r.dates()["from"] = "2026-11-05T12:00:01Z" })
	f.Add(`{"encryption":{"encryptedSymmetricKey":"AA==","initializationVector":"AAAAAAAAAAAAAAAAAAAAAA==","publicKeyId":null},"filters":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		handler := contract.WrapAnswers(t, s)
		send := func(method, path, body string) *httptest.ResponseRecorder {
			request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Authorization", "Bearer "+s.bearer)
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			return answer
		}
		answer := send("POST", "/v2/invoices/exports", body)
		var began struct {
			Reference string `json:"referenceNumber"`
		}
		switch {
		case answer.Code == 400:
		case answer.Code != 201 || json.Unmarshal(answer.Body.Bytes(), &began) != nil:
			t.Errorf("answered %d %s", answer.Code, answer.Body)
		default:
			if status := send("GET", "/v2/invoices/exports/"+began.Reference, ""); status.Code != 200 {
				t.Errorf("status answered %d %s", status.Code, status.Body)
			}
		}
	})
}

// The query of a link comes from outside: whatever it is, only a link that the
// simulator gave brings a part.
func FuzzLink(f *testing.F) {
	s, _ := ready(f, ksefsim.Options{}, 3, contract.WrapAnswers)
	path, query, _ := strings.Cut(strings.TrimPrefix(s.status(s.export(s.request())).Package.Parts[0].URL, s.url), "?")
	f.Add(path, query)
	f.Add(path, "se=2030-01-01T00:00:00Z&sig=AAAA")
	f.Add("/storage//", "%zz;")
	f.Fuzz(func(t *testing.T, asked, parameters string) {
		request := httptest.NewRequestWithContext(t.Context(), "GET", "/storage/x", nil)
		request.URL.Path, request.URL.RawQuery = "/storage/"+strings.TrimPrefix(asked, "/storage/"), parameters
		answer := httptest.NewRecorder()
		s.ServeHTTP(answer, request)
		given, _ := url.ParseQuery(query)
		same := cmp.Equal(request.URL.Query(), given) && asked == path
		if (answer.Code == 200) != same && answer.Code != 301 && answer.Code != 307 {
			t.Errorf("%q ? %q answered %d", asked, parameters, answer.Code)
		}
	})
}

// One export of as much as KSeF allows, from the POST to the first status.
func BenchmarkExport(b *testing.B) {
	invoices := generate(10_000, 1)
	for _, compression := range []string{"Zip", "TarGz"} {
		b.Run(compression, func(b *testing.B) {
			s := newSim(b, ksefsim.Options{Everyone: company}, func(_ testing.TB, h http.Handler) http.Handler { return h })
			for i := range invoices {
				invoices[i].XML = bytes.ReplaceAll(invoices[i].XML, []byte(company.Value), []byte("1111111111"))
			}
			if _, err := s.Add(invoices...); err != nil {
				b.Fatal(err)
			}
			s.login(company, token)
			request := s.request()
			request.Compression = compression
			request.Filters["subjectType"] = "Subject2"
			request.dates()["from"] = "2026-08-01T00:00:00Z"
			for b.Loop() {
				p := s.status(s.export(request)).Package
				if p.Count != 10_000 || !p.Truncated {
					b.Fatalf("%d invoices", p.Count)
				}
				b.ReportMetric(float64(p.Size), "bytes")
			}
		})
	}
}
