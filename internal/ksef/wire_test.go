package ksef

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseTimestamp(t *testing.T) {
	for s, want := range map[string]time.Time{
		"2026-02-01T00:00:00Z":                time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC),
		"2025-08-28T09:23:55.388+00:00":       time.Date(2025, 8, 28, 9, 23, 55, 388e6, time.UTC),
		"2025-08-28T09:23:01.388123+00:00":    time.Date(2025, 8, 28, 9, 23, 1, 388123e3, time.UTC),
		"2025-08-28T11:22:56.3881234+02:00":   time.Date(2025, 8, 28, 9, 22, 56, 388123400, time.UTC),
		"2025-10-26T02:30:00.999999999-11:30": time.Date(2025, 10, 26, 14, 0, 0, 999999999, time.UTC),
	} {
		got, err := ParseTimestamp(s)
		if err != nil || string(got) != s || !got.Time().Equal(want) || got.Time().Location() != time.UTC {
			t.Errorf("%q: got %q at %v, %v; want %v", s, got, got.Time(), err, want)
		}
	}
	for _, s := range []string{
		"", "2026-02-01", "2026-02-01T00:00:00", "2026-02-01 00:00:00Z",
		"2026-02-30T00:00:00Z", "2026-02-01T00:00:00Z ", "1769904000",
	} {
		if got, err := ParseTimestamp(s); err == nil {
			t.Errorf("%q was read as %v", s, got.Time())
		}
	}
}

func TestNewTimestamp(t *testing.T) {
	warsaw := time.FixedZone("CET", 3600)
	if got := NewTimestamp(time.Date(2026, 2, 1, 0, 59, 59, 999999999, warsaw)); got != "2026-01-31T23:59:59.999999Z" {
		t.Errorf("got %s: it must be in UTC, and rounded down", got)
	}
}

// Strings of unequal numbers of digits do not compare as instants do.
func TestTimestampCompare(t *testing.T) {
	ascending := []Timestamp{
		"", "2025-08-28T09:23:01.388+00:00", "2025-08-28T09:23:01.3880001Z", "2025-08-28T09:23:01.388123+00:00",
		"2025-08-28T09:23:01.3881231+00:00", "2025-08-28T11:23:01.39+02:00",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			want := min(max(i-j, -1), 1)
			if got := a.Compare(b); got != want {
				t.Errorf("%q compared with %q: got %d, want %d", a, b, got, want)
			}
		}
	}
	if Timestamp("2025-08-28T11:00:00+02:00").Compare("2025-08-28T09:00:00.000Z") != 0 {
		t.Error("the same instant in two forms is not equal")
	}
}

func TestQueryJSON(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name  string
		query Query
		want  string
	}{
		{
			"the mirror's own", Query{SubjectType: Authorized, From: "2026-02-01T00:00:00Z", To: "2026-05-11T00:00:00.1234567Z"},
			`{"subjectType":"SubjectAuthorized","dateRange":{"dateType":"PermanentStorage","from":"2026-02-01T00:00:00Z","to":"2026-05-11T00:00:00.1234567Z","restrictToPermanentStorageHwmDate":true}}`,
		},
		{
			"beyond the mark", Query{SubjectType: Buyer, From: "2026-02-01T00:00:00Z", BeyondHWM: true},
			`{"subjectType":"Subject2","dateRange":{"dateType":"PermanentStorage","from":"2026-02-01T00:00:00Z","restrictToPermanentStorageHwmDate":false}}`,
		},
		{
			"every filter",
			Query{SubjectType: Seller, From: "2026-02-01T00:00:00Z", DateType: ByIssue, Filter: Filter{
				KSeFNumber: "n", InvoiceNumber: "FV/1", Amount: &AmountRange{"Brutto", "-1.50", "99999999999999.99"}, SellerNIP: "5265877635",
				Buyer: &BuyerID{"VatUe", "DE123"}, Currencies: []string{"PLN", "EUR"}, InvoicingMode: "Offline",
				IsSelfInvoicing: &no, FormType: "FA", InvoiceTypes: []string{"Vat", "Kor"}, HasAttachment: &yes,
			}},
			`{"subjectType":"Subject1","dateRange":{"dateType":"Issue","from":"2026-02-01T00:00:00Z"},"ksefNumber":"n","invoiceNumber":"FV/1",` +
				`"amount":{"type":"Brutto","from":-1.50,"to":99999999999999.99},"sellerNip":"5265877635","buyerIdentifier":{"type":"VatUe","value":"DE123"},` +
				`"currencyCodes":["PLN","EUR"],"invoicingMode":"Offline","isSelfInvoicing":false,"formType":"FA","invoiceTypes":["Vat","Kor"],"hasAttachment":true}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := json.Marshal(test.query)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func FuzzTimestamp(f *testing.F) {
	f.Add(`"2025-08-28T09:23:01.3881234+00:00"`)
	f.Add(`null`)
	f.Add(`"2026-02-01T00:00:00Z"`)
	f.Fuzz(func(t *testing.T, data string) {
		var stamp Timestamp
		if json.Unmarshal([]byte(data), &stamp) != nil || stamp == "" {
			return
		}
		if stamp.Time().IsZero() && stamp[:4] != "0001" && stamp[:4] != "0000" {
			t.Errorf("%q was accepted and is no instant", stamp)
		}
		encoded, err := json.Marshal(stamp)
		if err != nil {
			t.Fatal(err)
		}
		var again Timestamp
		if err := json.Unmarshal(encoded, &again); err != nil || again != stamp {
			t.Errorf("%q came back as %q, %v", stamp, again, err)
		}
	})
}

func FuzzDecodeMetadataPage(f *testing.F) {
	f.Add([]byte(`{"hasMore":true,"isTruncated":false,"permanentStorageHwmDate":"2026-11-22T09:58:00+00:00","invoices":[{"ksefNumber":"5265877635-20250826-0100001AF629-AF","permanentStorageDate":"2025-08-26T09:23:01.388123+00:00","seller":{"nip":"5265877635"},"grossAmount":1.10,"invoiceHash":"x"}]}`))
	f.Add([]byte(`{"hasMore":false,"isTruncated":false,"invoices":[null]}`))
	f.Add([]byte(`{"hasMore":false,"HASMORE":true,"isTruncated":false,"invoices":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		page, err := decodeMetadataPage(body)
		if err != nil {
			return
		}
		for _, invoice := range page.Invoices {
			if invoice.Raw == nil { // null in place of a row
				continue
			}
			var again Metadata
			if err := json.Unmarshal(invoice.Raw, &again); err != nil || !cmp.Equal(invoice, again) {
				t.Errorf("the raw row gives another invoice: %v\n%s", err, cmp.Diff(invoice, again))
			}
			if !bytes.Contains(body, invoice.Raw) {
				t.Errorf("raw row %q is not as received", invoice.Raw)
			}
		}
	})
}

// openAPI is the official specification, which is not part of this project.
func openAPI(t *testing.T) (spec struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]struct {
				Example  json.RawMessage
				Examples map[string]struct{ Value json.RawMessage }
			}
		}
	}
	Components struct {
		Schemas map[string]struct{ Example json.RawMessage }
	}
}) {
	t.Helper()
	path := filepath.Join("..", "..", "..", "shared", "ksef", "open-api.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("the official specification is not at %s", path)
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestOfficialExamples decodes the examples of the specification.
func TestOfficialExamples(t *testing.T) {
	spec := openAPI(t)
	example := func(path, method, status string) json.RawMessage {
		return spec.Paths[path][method].Responses[status].Content["application/json"].Example
	}
	page, err := decodeMetadataPage(example("/invoices/query/metadata", "post", "200"))
	if err != nil || len(page.Invoices) != 2 || page.HWM != "2025-08-28T09:23:55.388+00:00" {
		t.Fatalf("metadata: got %+v, %v", page, err)
	}
	for _, invoice := range page.Invoices {
		if _, err := ParseNumber(invoice.KSeFNumber); err != nil {
			t.Error(err)
		}
		if invoice.Seller.NIP == "" || invoice.Buyer.Identifier.Value == "" || invoice.GrossAmount == "" || invoice.Stored == "" ||
			invoice.Acquired == "" || invoice.InvoicingDate == "" || invoice.FormCode.SystemCode == "" || invoice.InvoiceHash == "" {
			t.Errorf("a field is empty: %+v", invoice)
		}
	}
	limits, err := decodeLimits(example("/rate-limits", "get", "200"))
	if err != nil {
		t.Fatal(err)
	}
	for group, want := range DefaultLimits() {
		if limits[group] != want {
			t.Errorf("limit of %s: got %v, want %v", group, limits[group], want)
		}
	}
	var given challenge
	if err := json.Unmarshal(example("/auth/challenge", "post", "200"), &given); err != nil || given.Challenge == "" || given.TimestampMs == 0 {
		t.Errorf("challenge: got %+v, %v", given, err)
	}
	var started startedLogin
	if err := json.Unmarshal(example("/auth/ksef-token", "post", "202"), &started); err != nil || started.Reference == "" || started.Token.Secret.IsZero() {
		t.Errorf("started login: got %+v, %v", started, err)
	}
	var keys []publicKey
	if err := json.Unmarshal(example("/security/public-key-certificates", "get", "200"), &keys); err != nil || len(keys) != 2 || keys[0].Usage[0] != loginUsage {
		t.Errorf("public keys: got %+v, %v", keys, err)
	}

	e := parseError("op", 400, "application/problem+json", spec.Components.Schemas["BadRequestProblemDetails"].Example)
	if e.Code != 21405 || e.Reference != "673843e023c432286660bc0501a3af44" || len(e.Details) != 3 {
		t.Errorf("bad request: got %+v", e)
	}
	e = parseError("op", 403, "application/problem+json", spec.Components.Schemas["ForbiddenProblemDetails"].Example)
	if e.Reason != "missing-permissions" || !errors.Is(e, ErrForbidden) || len(e.Details) != 1 {
		t.Errorf("forbidden: got %+v", e)
	}
	e = parseError("op", 400, "application/json", spec.Components.Schemas["ExceptionResponse"].Example)
	if e.Code != 12345 || e.Description != "Opis błędu." || e.Reference == "" {
		t.Errorf("exception: got %+v", e)
	}
	e = parseError("op", 429, "application/json", spec.Components.Schemas["TooManyRequestsResponse"].Example)
	if e.Description != "Too Many Requests" || len(e.Details) != 1 {
		t.Errorf("too many requests: got %+v", e)
	}
}
