package ksef

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseError(t *testing.T) {
	tests := []struct {
		name        string
		status      int
		contentType string
		body        string
		want        Error
		says        string
	}{
		{
			"problem details", 400, "application/problem+json; charset=utf-8",
			`{"title":"Bad Request","detail":"Żądanie jest nieprawidłowe.","errors":[{"code":21164,"description":"Faktura nie istnieje.","details":["Faktura 5265877635-20250826-0100001AF629-AF"]},{"code":21405,"description":"Inny."}],"traceId":"t1"}`,
			Error{Code: 21164, Description: "Faktura nie istnieje.", Details: []string{"Faktura [NIP]-20250826-0100001AF629-AF", "Inny."}, Reference: "t1", Err: ErrNotFound},
			"op: HTTP 400, KSeF code 21164: KSeF has no such invoice for this context (KSeF says: Faktura nie istnieje.; Faktura [NIP]-20250826-0100001AF629-AF; Inny.) [reference t1]",
		},
		{
			"exception", 400, "application/json",
			`{"exception":{"exceptionDetailList":[{"exceptionCode":21183,"exceptionDescription":"Zakres.","details":null}],"referenceNumber":"r1"}}`,
			Error{Code: 21183, Description: "Zakres.", Reference: "r1", Err: ErrNothingNew}, "21183",
		},
		{
			"code in quotes", 400, "application/json", `{"errors":[{"code":"21165"}]}`,
			Error{Code: 21165, Err: ErrNotAvailableYet}, "21165",
		},
		{
			"misshapen parts", 400, "application/json", `{"title":17,"errors":[{"code":[],"description":"Opis."}],"traceId":"t1","security":"x"}`,
			Error{Details: []string{"Opis."}, Reference: "t1"}, "Opis.",
		},
		{
			"too many requests", 429, "application/json", `{"status":{"code":429,"description":"Too Many Requests","details":["po 30 sekundach"]}}`,
			Error{Description: "Too Many Requests", Details: []string{"po 30 sekundach"}}, "po 30 sekundach",
		},
		{
			"forbidden", 403, "application/problem+json", `{"title":"Forbidden","status":403,"reasonCode":"missing-permissions","security":{"requiredAnyOfPermissions":["InvoiceRead","InvoiceWrite"]}}`,
			Error{Description: "Forbidden", Reason: "missing-permissions", Details: []string{"needs one of InvoiceRead, InvoiceWrite"}, Err: ErrForbidden}, "have the permission granted",
		},
		{"forbidden from here", 403, "application/problem+json", `{"reasonCode":"ip-not-allowed"}`, Error{Reason: "ip-not-allowed", Err: ErrForbidden}, "network addresses"},
		{"forbidden to such a context", 403, "application/problem+json", `{"reasonCode":"context-type-not-allowed"}`, Error{Reason: "context-type-not-allowed", Err: ErrForbidden}, "contexts of this type"},
		{"forbidden to such a login", 403, "application/problem+json", `{"reasonCode":"auth-method-not-allowed"}`, Error{Reason: "auth-method-not-allowed", Err: ErrForbidden}, "auth.method"},
		{"forbidden for another reason", 403, "application/problem+json", `{"reasonCode":"insufficient-resource-access"}`, Error{Reason: "insufficient-resource-access", Err: ErrForbidden}, "check the permissions"},
		{
			"blocked", 403, "application/problem+json", `{"reasonCode":"security-service-blocked","security":{"incidentId":"i1"},"traceId":"t1"}`,
			Error{Reason: "security-service-blocked", Reference: "i1"}, "i1",
		},
		{"page", 502, "text/html", "<HTML><title class=x>502 &amp; Bad\n\x1b[31mGateway</title>", Error{Description: "502 & Bad [31mGateway"}, "502 & Bad"},
		{"cut off", 500, "application/json", `{"title":"x`, Error{}, "op: HTTP 500"},
		{"nothing", 503, "", "", Error{}, "op: HTTP 503"},
		{"other type", 500, "text/plain", `secret`, Error{}, "op: HTTP 500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Op, tt.want.HTTPStatus = "op", tt.status
			got := parseError("op", tt.status, tt.contentType, []byte(tt.body))
			if diff := cmp.Diff(tt.want, *got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.Contains(got.Error(), tt.says) {
				t.Errorf("got %q, want %q in it", got.Error(), tt.says)
			}
		})
	}
}

func TestErrorRetryable(t *testing.T) {
	tests := []struct {
		name string
		err  Error
		want bool
	}{
		{"no answer", Error{Err: errors.New("connection refused")}, true},
		{"odd answer", Error{HTTPStatus: 200, Err: errors.New("type")}, true},
		{"bad request", Error{HTTPStatus: 400, Code: 21405}, false},
		{"nothing new", Error{HTTPStatus: 400, Code: 21183}, true},
		{"not yet", Error{HTTPStatus: 400, Code: 21165}, true},
		{"unauthorized", Error{HTTPStatus: 401}, true},
		{"forbidden", Error{HTTPStatus: 403, Err: ErrForbidden}, false},
		{"firewall", Error{HTTPStatus: 403, Err: &BudgetError{}}, true},
		{"not found", Error{HTTPStatus: 404}, false},
		{"timeout", Error{HTTPStatus: 408}, true},
		{"gone", Error{HTTPStatus: 410}, false},
		{"too many", Error{HTTPStatus: 429}, true},
		{"server", Error{HTTPStatus: 500}, true},
		{"gateway", Error{HTTPStatus: 504}, true},
	}
	for _, tt := range tests {
		if got := tt.err.Retryable(); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"0", 0, true},
		{" 30 ", 30 * time.Second, true},
		{"86400", 24 * time.Hour, true},
		{"9223372036854775807", 365 * 24 * time.Hour, true},
		{"Sun, 22 Nov 2026 10:30:00 GMT", 30 * time.Minute, true},
		{"Sunday, 22-Nov-26 10:30:00 GMT", 30 * time.Minute, true},
		{"Sun, 22 Nov 2026 10:00:00 GMT", 0, false},
		{"Fri, 01 Jan 9999 00:00:00 GMT", 365 * 24 * time.Hour, true},
		{"", 0, false},
		{"-1", 0, false},
		{"1.5", 0, false},
		{"soon", 0, false},
	}
	for _, tt := range tests {
		if got, ok := parseRetryAfter(tt.value, now); got != tt.want || ok != tt.ok {
			t.Errorf("%q: got %s, %t; want %s, %t", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func TestClean(t *testing.T) {
	for s, want := range map[string]string{
		"a\r\nb\x00c\x1b[0m\u202ed\ufeff":  "a  bc[0md",
		"NIP 5265877635, not 123456789012": "NIP [NIP], not 123456789012",
		"PNOPL-90010112345 has no grants":  "PNOPL-[PESEL] has no grants",
		"zażółć gęślą jaźń":                "zażółć gęślą jaźń",
		"\xff\xfe ok":                      "ok",
	} {
		if got := clean(s, 100); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
	if got := clean("żżż", 3); got != "ż" {
		t.Errorf("got %q: a character was cut in two", got)
	}
}

func FuzzParseError(f *testing.F) {
	f.Add(400, "application/problem+json", []byte(`{"errors":[{"code":21164,"description":"x","details":["y"]}],"traceId":"t"}`))
	f.Add(400, "application/json", []byte(`{"exception":{"exceptionDetailList":[{"exceptionCode":21183}]}}`))
	f.Add(429, "application/json", []byte(`{"status":{"details":["5265877635"]}}`))
	f.Add(502, "text/html", []byte(`<title>Bad &#27; gateway`))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		e := parseError("op", status, contentType, body)
		text := e.Error()
		if len(text) > 5000 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("not fit for a log line: %q", text)
		}
		_ = e.Retryable()
	})
}

func FuzzParseRetryAfter(f *testing.F) {
	f.Add("30")
	f.Add("99999999999999999999")
	f.Add("Sun, 22 Nov 2026 10:30:00 GMT")
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := parseRetryAfter(value, now)
		if got < 0 || got > 366*24*time.Hour || !ok && got != 0 {
			t.Errorf("%q: got %s, %t", value, got, ok)
		}
	})
}
