// Package contract holds HTTP traffic against KSeF's published specification,
// open-api.json. Only tests import it, so that the program does not carry the
// validator. It does not know what an answer should say, only what it may look
// like.
package contract

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"ksefmirror/internal/ksefsim"
)

// maxRequest bounds what is read of a request.
const maxRequest = 1 << 20

// specification reads the document once per process: it is 700 kB. A nil
// document without an error means that the official material is not here.
var specification = sync.OnceValues(func() (*openapi3.T, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return nil, errors.New("no go.mod above the working directory")
		}
		root = filepath.Dir(root)
	}
	path := filepath.Join(filepath.Dir(root), "shared", "ksef", "open-api.json")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	// An invoice is a string to the specification; the validator knows no XML.
	openapi3filter.RegisterBodyDecoder("application/xml", openapi3filter.FileBodyDecoder)
	return openapi3.NewLoader().LoadFromFile(path)
})

// Wrap passes every request below /v2 on to next and reports to tb each request
// and each answer that the specification does not allow. Answers marked by
// [ksefsim.FaultHeader] are exempt, and the mark is removed. Answers are passed
// on while they are written. Without the specification it logs so and checks
// nothing.
func Wrap(tb testing.TB, next http.Handler) http.Handler { return wrap(tb, next, true) }

// WrapAnswers is Wrap for tests that send wrong requests on purpose: only
// answers are checked.
func WrapAnswers(tb testing.TB, next http.Handler) http.Handler { return wrap(tb, next, false) }

func wrap(tb testing.TB, next http.Handler, checkRequests bool) http.Handler {
	tb.Helper()
	document, err := specification()
	if err != nil {
		tb.Fatalf("load the specification of KSeF: %v", err)
	}
	if document == nil {
		tb.Log("the specification of KSeF is not here: requests and answers are not checked")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, below := strings.CutPrefix(r.URL.Path, "/v2")
		watched := &tee{ResponseWriter: w}
		if document == nil || !below {
			next.ServeHTTP(watched, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			tb.Errorf("%s %s: read the request: %v", r.Method, r.URL.Path, err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		input, known := match(document, r, path)
		if !known {
			if checkRequests {
				tb.Errorf("%s %s: no such operation in the specification", r.Method, r.URL.Path)
			}
			next.ServeHTTP(watched, r)
			return
		}
		if checkRequests {
			if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
				tb.Errorf("%s %s: request against the specification: %v", r.Method, r.URL.Path, err)
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(watched, r)
		if watched.exempt {
			return
		}
		err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input,
			Status:                 watched.status,
			Header:                 watched.Header(),
			Body:                   io.NopCloser(&watched.body),
			Options:                input.Options,
		})
		if err != nil {
			tb.Errorf("%s %s: answer %d against the specification: %v", r.Method, r.URL.Path, watched.status, err)
		}
	})
}

// match finds the operation of a request. Where a path fits several templates,
// the one with fewer parameters is meant (OpenAPI 3.0, Paths Object).
func match(document *openapi3.T, r *http.Request, path string) (*openapi3filter.RequestValidationInput, bool) {
	segments := strings.Split(path, "/")
	var route *routers.Route
	var parameters map[string]string
	for template, item := range document.Paths.Map() {
		operation := item.GetOperation(r.Method)
		found, fits := fit(strings.Split(template, "/"), segments)
		if operation == nil || !fits || route != nil && len(found) >= len(parameters) {
			continue
		}
		parameters = found
		route = &routers.Route{Spec: document, Path: template, PathItem: item, Method: r.Method, Operation: operation}
	}
	return &openapi3filter.RequestValidationInput{
		Request:    r,
		PathParams: parameters,
		Route:      route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true,
			MultiError:            true,
			AuthenticationFunc: func(_ context.Context, input *openapi3filter.AuthenticationInput) error {
				if !strings.HasPrefix(input.RequestValidationInput.Request.Header.Get("Authorization"), "Bearer ") {
					return errors.New("no bearer token")
				}
				return nil
			},
		},
	}, route != nil
}

func fit(template, segments []string) (map[string]string, bool) {
	if len(template) != len(segments) {
		return nil, false
	}
	parameters := make(map[string]string)
	for i, each := range template {
		if name, ok := strings.CutPrefix(each, "{"); ok {
			parameters[strings.TrimSuffix(name, "}")] = segments[i]
		} else if each != segments[i] {
			return nil, false
		}
	}
	return parameters, true
}

// tee passes an answer on and keeps a copy. It hides [ksefsim.FaultHeader].
type tee struct {
	http.ResponseWriter
	status int // 0: nothing written yet
	exempt bool
	body   bytes.Buffer
}

func (t *tee) WriteHeader(status int) {
	if t.status == 0 {
		t.status = status
		t.exempt = t.Header().Get(ksefsim.FaultHeader) != ""
		t.Header().Del(ksefsim.FaultHeader)
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tee) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.WriteHeader(http.StatusOK)
	}
	t.body.Write(b)
	return t.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] flush.
func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }
