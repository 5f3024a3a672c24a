package ksefsim

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// Layouts of dates on the wire: KSeF writes permanentStorageDate and the high
// water mark with six digits, all other instants with seven.
const (
	microseconds = "2006-01-02T15:04:05.000000-07:00"
	ticks        = "2006-01-02T15:04:05.0000000-07:00"
)

// refusal is an answer other than success.
type refusal struct {
	status      int
	code        int    // of KSeF, with status 400
	description string // that belongs to code
	detail      string
	reason      string         // reasonCode, with status 403
	security    map[string]any // with status 403
	retryAfter  int            // seconds, with status 429
}

// invalid is KSeF's answer to input that its validator refuses.
func invalid(format string, arguments ...any) *refusal {
	return badRequest(21405, "Błąd walidacji danych wejściowych.", fmt.Sprintf(format, arguments...))
}

func badRequest(code int, description, detail string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: code, description: description, detail: detail}
}

func unauthorized(detail string) *refusal {
	return &refusal{status: http.StatusUnauthorized, detail: detail}
}

// refuse writes a refusal in the format that the request asks for. 401, 403 and
// what is not in the specification are problem details always (open-api).
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, f *refusal) {
	if f.code == 21405 {
		s.violation(r, f.detail)
	}
	s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", f.status, "code", f.code, "detail", f.detail)
	asProblem := r.Header.Get("X-Error-Format") == "problem-details"
	now := s.now().UTC()
	details := []string{}
	if f.detail != "" {
		details = append(details, f.detail)
	}

	var body map[string]any
	switch {
	case f.status == http.StatusBadRequest && !asProblem:
		body = map[string]any{"exception": map[string]any{
			"exceptionDetailList": []any{map[string]any{
				"exceptionCode": f.code, "exceptionDescription": f.description, "details": details,
			}},
			"serviceCode": "00-" + traceID() + "-" + traceID()[:16] + "-00",
			"serviceCtx":  "srvSIM",
			"serviceName": "Undefined",
			"timestamp":   now.Format(ticks), // with an offset, as the schema wants and the example beside it lacks
		}}
	case f.status == http.StatusTooManyRequests && !asProblem:
		body = map[string]any{"status": map[string]any{
			"code": f.status, "description": http.StatusText(f.status), "details": details,
		}}
	default:
		asProblem = true
		body = map[string]any{
			"title": http.StatusText(f.status), "status": f.status, "instance": r.URL.Path,
			"detail": f.detail, "traceId": traceID(), "timestamp": now.Format(ticks),
		}
		switch f.status {
		case http.StatusBadRequest:
			body["detail"] = "Żądanie jest nieprawidłowe."
			body["errors"] = []any{map[string]any{"code": f.code, "description": f.description, "details": details}}
		case http.StatusForbidden:
			body["reasonCode"] = f.reason
			body["security"] = f.security
		}
	}
	if f.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.retryAfter))
	}
	kind := "application/json; charset=utf-8"
	if asProblem {
		kind = "application/problem+json"
	}
	writeJSON(w, f.status, kind, body)
}

// reply makes a handler of one that returns what to answer in JSON.
func reply(status int, handle func(*http.Request, *login) (any, *refusal)) handler {
	return func(w http.ResponseWriter, r *http.Request, l *login) *refusal {
		body, refused := handle(r, l)
		if refused == nil {
			writeJSON(w, status, "application/json; charset=utf-8", body)
		}
		return refused
	}
}

// writeJSON ignores that the client may be gone: there is nobody left to tell.
func writeJSON(w http.ResponseWriter, status int, kind string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("an answer of the simulator is not JSON: %v", err)) // only a Metadata function can cause it
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// readJSON decodes the body of a request, which must be one JSON object with no
// field that the specification does not name.
func (s *Server) readJSON(r *http.Request, into any) *refusal {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return invalid("Nieobsługiwany typ zawartości: Content-Type musi mieć wartość application/json.")
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		_, err = decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more than one JSON value")
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		s.violation(r, "body is not JSON")
		return badRequest(21001, "Nieczytelna treść.", "")
	}
	return invalid("%v", err)
}

func traceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

// reference makes a reference number of KSeF's shape, 36 characters:
// date, kind, ten and ten hex digits and two more.
func reference(now time.Time, kind string) string {
	var id [11]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%s-%s-%X-%X-%X", now.UTC().Format("20060102"), kind, id[:5], id[5:10], id[10:])
}

// readAll reads the body of a request that is not JSON.
func readAll(r *http.Request) ([]byte, *refusal) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return body, nil
}
