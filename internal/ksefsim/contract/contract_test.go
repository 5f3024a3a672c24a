package contract_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// recorder takes what would have failed a test.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, arguments ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, arguments...))
}

func TestWrap(t *testing.T) {
	if _, err := os.Stat("../../../../shared/ksef/open-api.json"); err != nil {
		t.Skip("the specification of KSeF is not beside the project: ", err)
	}
	const (
		query    = `{"subjectType":"Subject1","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00Z"}}`
		metadata = "/v2/invoices/query/metadata"
		empty    = `{"hasMore":false,"isTruncated":false,"invoices":[]}`
	)
	for _, each := range []struct {
		name, method, path, send, answer string
		status                           int
		exempt                           bool
		wrap                             func(testing.TB, http.Handler) http.Handler
		want                             string // part of the error, "" for none
	}{
		{name: "right", send: query, answer: empty},
		{name: "field missing in the request", send: `{"subjectType":"Subject1"}`, answer: empty, want: "request against"},
		{name: "the same with only answers checked", send: `{"subjectType":"Subject1"}`, answer: empty, wrap: contract.WrapAnswers},
		{name: "unknown value in the request", send: strings.Replace(query, "Subject1", "Subject9", 1), answer: empty, want: "request against"},
		{name: "parameter out of range", path: metadata + "?pageSize=251", send: query, answer: empty, want: "request against"},
		{name: "field missing in the answer", send: query, answer: `{"hasMore":false,"invoices":[]}`, want: "answer 200 against"},
		{name: "the same from a fault", send: query, answer: `<html>`, exempt: true},
		{name: "wrong type in the answer", send: query, answer: `{"hasMore":"no","isTruncated":false,"invoices":[]}`, want: "answer 200 against"},
		{name: "status not in the specification", send: query, answer: `{}`, status: 418, want: "answer 418 against"},
		{name: "unknown path", path: "/v2/nothing", send: query, answer: empty, want: "no such operation"},
		{name: "unknown method", method: "DELETE", send: query, answer: empty, want: "no such operation"},
		{name: "a literal path before a template", method: "GET", path: "/v2/auth/sessions", answer: `{"items":[]}`},
		{name: "outside of KSeF", path: "/admin/faults", send: "?", answer: "?"},
	} {
		t.Run(each.name, func(t *testing.T) {
			if each.wrap == nil {
				each.wrap = contract.Wrap
			}
			if each.method == "" {
				each.method = "POST"
			}
			if each.path == "" {
				each.path = metadata
			}
			if each.status == 0 {
				each.status = 200
			}
			var received string
			watched := &recorder{TB: t}
			handler := each.wrap(watched, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				received = string(body)
				w.Header().Set("Content-Type", "application/json")
				if each.exempt {
					w.Header().Set(ksefsim.FaultHeader, "fault")
				}
				w.WriteHeader(each.status)
				_, _ = w.Write([]byte(each.answer))
			}))
			request := httptest.NewRequestWithContext(t.Context(), each.method, each.path, strings.NewReader(each.send))
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Authorization", "Bearer a.b.c")
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			if received != each.send || answer.Body.String() != each.answer || answer.Code != each.status {
				t.Errorf("passed on %q and %d %q, want %q and %d %q", received, answer.Code, answer.Body, each.send, each.status, each.answer)
			}
			if answer.Header().Get(ksefsim.FaultHeader) != "" {
				t.Error("the mark of a fault was not removed")
			}
			got := strings.Join(watched.errors, "\n")
			if each.want == "" && got != "" || !strings.Contains(got, each.want) {
				t.Errorf("reported %q, want %q", got, each.want)
			}
		})
	}
	bare := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/rate-limits", nil)
	watched := &recorder{TB: t}
	contract.Wrap(watched, http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), bare)
	if len(watched.errors) == 0 || !strings.Contains(watched.errors[0], "request against") {
		t.Errorf("a request without a token reported %q", watched.errors)
	}
}
