package ksefsim

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Fault makes some requests go wrong. The functions below make the usual ones;
// anything else can be written as Do.
type Fault struct {
	Path  string // which requests, as [path.Match] without /v2, such as "/invoices/ksef/*" or PartPath; "": all
	Skip  int    // how many of them to leave alone first
	Times int    // how many then to spoil; 0: all, until ClearFaults

	// Do answers in place of next, which is KSeF's honest answer. It may call next
	// with another request or another writer, or not at all, and may panic with
	// [http.ErrAbortHandler] to cut the connection. It is called without locks and
	// may wait.
	Do func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// Fault adds a fault. Of several that fit a request, the one added first counts.
func (s *Server) Fault(f Fault) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	s.faults = append(s.faults, &f)
}

// ClearFaults removes every fault.
func (s *Server) ClearFaults() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.faults = nil
}

// withFaults answers by the first fault that fits, or honestly.
func (s *Server) withFaults(w http.ResponseWriter, r *http.Request, honest http.HandlerFunc) {
	fault := s.takeFault(strings.TrimPrefix(r.URL.Path, "/v2"))
	if fault == nil {
		honest(w, r)
		return
	}
	w.Header().Set(FaultHeader, "fault")
	fault.Do(w, r, honest)
}

func (s *Server) takeFault(requested string) *Fault {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, fault := range s.faults {
		if fits, _ := path.Match(fault.Path, requested); fault.Times == 0 || !fits && fault.Path != "" {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		fault.Times = max(-1, fault.Times-1)
		return fault
	}
	return nil
}

// Answer answers with the given status, headers (may be nil) and body.
func Answer(path string, times, status int, header http.Header, body string) Fault {
	return Fault{Path: path, Times: times, Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}}
}

// HTMLError answers with an HTML page, as the servers before KSeF do with 502
// and 503, and a captive portal with 200.
func HTMLError(path string, times, status int) Fault {
	return Answer(path, times, status, http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		"<!DOCTYPE html>\n<html><head><title>"+http.StatusText(status)+"</title></head><body><h1>"+http.StatusText(status)+"</h1></body></html>\n")
}

// ServerError answers 500 with JSON.
func ServerError(path string, times int) Fault {
	return Answer(path, times, http.StatusInternalServerError, http.Header{"Content-Type": {"application/json"}},
		`{"title":"Internal Server Error","status":500,"detail":"Nieoczekiwany błąd."}`)
}

// Forbidden answers 403 with a reasonCode of open-api, ForbiddenProblemDetails,
// such as missing-permissions or ip-not-allowed.
func Forbidden(path string, times int, reason string) Fault {
	return Answer(path, times, http.StatusForbidden, http.Header{"Content-Type": {"application/problem+json"}},
		`{"title":"Forbidden","status":403,"detail":"Odmowa dostępu.","reasonCode":`+strconv.Quote(reason)+`,"timestamp":"2026-01-01T00:00:00+00:00"}`)
}

// Firewall answers 403 as the firewall before KSeF does: without a timestamp,
// with the number of an incident.
func Firewall(path string, times int) Fault {
	return Answer(path, times, http.StatusForbidden, http.Header{"Content-Type": {"application/problem+json"}},
		`{"title":"Forbidden","status":403,"detail":"Request blocked","reasonCode":"security-service-blocked",`+
			`"security":{"incidentId":"1234000560007890123-45678901234567890","clientIp":"192.0.2.1"}}`)
}

// TooMany answers 429 with Retry-After as given, which need not be a number; ""
// leaves the header out.
func TooMany(path string, times int, retryAfter string) Fault {
	header := http.Header{"Content-Type": {"application/json"}}
	if retryAfter != "" {
		header.Set("Retry-After", retryAfter)
	}
	return Answer(path, times, http.StatusTooManyRequests, header,
		`{"status":{"code":429,"description":"Too Many Requests","details":["Przekroczono limit żądań."]}}`)
}

// Reset cuts the connection before KSeF has done anything.
func Reset(path string, times int) Fault {
	return Fault{Path: path, Times: times, Do: func(http.ResponseWriter, *http.Request, http.Handler) {
		panic(http.ErrAbortHandler)
	}}
}

// LoseAnswer lets KSeF do what was asked and cuts the connection instead of
// answering.
func LoseAnswer(path string, times int) Fault {
	return Fault{Path: path, Times: times, Do: func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
		record(next, r)
		panic(http.ErrAbortHandler)
	}}
}

// CutBody sends the first n bytes of the body, of the length announced, and
// cuts the connection.
func CutBody(path string, times, n int) Fault {
	return HoldBody(path, times, n, func(*http.Request) { panic(http.ErrAbortHandler) })
}

// HoldBody sends the headers and the first n bytes of the body, calls wait, and
// sends the rest.
func HoldBody(path string, times, n int, wait func(*http.Request)) Fault {
	return Fault{Path: path, Times: times, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := record(next, r)
		body := answer.body.Bytes()
		n := min(n, len(body))
		answer.header.Set("Content-Length", strconv.Itoa(len(body)))
		maps.Copy(w.Header(), answer.header)
		w.WriteHeader(answer.status)
		_, _ = w.Write(body[:n])
		_ = http.NewResponseController(w).Flush() // what cannot be flushed arrives later, which is no worse
		wait(r)
		_, _ = w.Write(body[n:])
	}}
}

// Hold calls wait before KSeF begins to work on the request.
func Hold(path string, times int, wait func(*http.Request)) Fault {
	return Fault{Path: path, Times: times, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		wait(r)
		next.ServeHTTP(w, r)
	}}
}

// WrongHash sends an invoice with the hash of something else.
func WrongHash(path string, times int) Fault {
	return rewrite(path, times, func(a *answered) { a.header.Set("X-Ms-Meta-Hash", hash([]byte("something else"))) })
}

// RewriteBody sends what change makes of the body; the other headers, and the
// hash of an invoice with them, stay as they are.
func RewriteBody(path string, times int, change func([]byte) []byte) Fault {
	return rewrite(path, times, func(a *answered) {
		body := change(bytes.Clone(a.body.Bytes()))
		a.body.Reset()
		a.body.Write(body)
	})
}

// RewriteJSON sends what change makes of the object in the body; numbers in it
// are json.Number. Answers other than 200 pass unchanged.
func RewriteJSON(path string, times int, change func(map[string]any)) Fault {
	return rewrite(path, times, func(a *answered) {
		if a.status == http.StatusOK {
			edit(&a.body, change)
		}
	})
}

// WrongPartHashes sends statuses of exports with hashes, before and after
// encryption, that fit no part, as has been seen of whole packages.
func WrongPartHashes(times int) Fault {
	return RewriteJSON("/invoices/exports/*", times, func(answer map[string]any) {
		shown, _ := answer["package"].(map[string]any)
		parts, _ := shown["parts"].([]any)
		for _, each := range parts {
			if part, ok := each.(map[string]any); ok {
				part["partHash"], part["encryptedPartHash"] = hash([]byte("something else")), hash([]byte("something else"))
			}
		}
	})
}

// NullHWM sends query answers without a high water mark.
func NullHWM(times int) Fault {
	return RewriteJSON("/invoices/query/metadata", times, func(answer map[string]any) {
		answer["permanentStorageHwmDate"] = nil
	})
}

// ExtraFields adds fields to query answers and their rows that no specification
// names yet, as new versions of KSeF do.
func ExtraFields(times int) Fault {
	return RewriteJSON("/invoices/query/metadata", times, func(answer map[string]any) {
		answer["futureField"] = map[string]any{"a": []any{1, "two", nil}}
		rows, _ := answer["invoices"].([]any)
		for _, each := range rows {
			if row, ok := each.(map[string]any); ok {
				row["futureField"] = "2030"
			}
		}
	})
}

// IgnoreRestrict answers queries as if they did not ask to be restricted to the
// high water mark.
func IgnoreRestrict(times int) Fault {
	return Fault{Path: "/invoices/query/metadata", Times: times, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)) // what is cut short is no JSON, and next says so
		edit(&body, func(query map[string]any) {
			if dates, ok := query["dateRange"].(map[string]any); ok {
				delete(dates, "restrictToPermanentStorageHwmDate")
			}
		})
		next.ServeHTTP(w, withBody(r, body.Bytes()))
	}}
}

// PageShift spoils every page of a query but the first: it begins with the last
// row of the page before, and its own first row is missing.
func PageShift(times int) Fault {
	return Fault{Path: "/invoices/query/metadata", Times: times, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var sent bytes.Buffer
		_, _ = sent.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
		answer := record(next, withBody(r, sent.Bytes()))
		if offset, err := strconv.Atoi(r.URL.Query().Get("pageOffset")); err == nil && offset > 0 && answer.status == http.StatusOK {
			before := withBody(r, sent.Bytes())
			values := before.URL.Query()
			values.Set("pageOffset", strconv.Itoa(offset-1))
			before.URL.RawQuery = values.Encode()
			var last any
			edit(&record(next, before).body, func(page map[string]any) {
				if rows, _ := page["invoices"].([]any); len(rows) > 0 {
					last = rows[len(rows)-1]
				}
			})
			edit(&answer.body, func(page map[string]any) {
				if rows, _ := page["invoices"].([]any); len(rows) > 0 && last != nil {
					rows[0] = last
				}
			})
		}
		answer.send(w)
	}}
}

// answered is an answer kept instead of sent.
type answered struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answered) Header() http.Header         { return a.header }
func (a *answered) WriteHeader(status int)      { a.status = status }
func (a *answered) Write(b []byte) (int, error) { return a.body.Write(b) }

func record(next http.Handler, r *http.Request) *answered {
	a := &answered{status: http.StatusOK, header: make(http.Header)}
	next.ServeHTTP(a, r)
	return a
}

func (a *answered) send(w http.ResponseWriter) {
	a.header.Set("Content-Length", strconv.Itoa(a.body.Len()))
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}

func rewrite(path string, times int, change func(*answered)) Fault {
	return Fault{Path: path, Times: times, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		change(a)
		a.send(w)
	}}
}

// edit changes the JSON object in body; what is none stays as it is.
func edit(body *bytes.Buffer, change func(map[string]any)) {
	decoder := json.NewDecoder(bytes.NewReader(body.Bytes()))
	decoder.UseNumber()
	var object map[string]any
	if decoder.Decode(&object) != nil {
		return
	}
	change(object)
	text, err := json.Marshal(object)
	if err != nil {
		panic(err) // only a change that puts in what JSON cannot say
	}
	body.Reset()
	body.Write(text)
}

// withBody is the request once more, with another body.
func withBody(r *http.Request, body []byte) *http.Request {
	again := r.Clone(r.Context())
	again.Body = http.NoBody
	if len(body) > 0 {
		again.Body = readCloser{bytes.NewReader(slices.Clone(body))}
	}
	again.ContentLength = int64(len(body))
	return again
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }
