package ksefsim

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PartPath is the [Fault].Path of every part of a package. Parts lie in a
// storage of their own, outside of /v2, that knows neither tokens nor limits.
const PartPath = "/storage/*/*"

// linkLife is how long the link to a part is good, as measured from links that
// KSeF gave.
const linkLife = time.Hour

// link makes a link to a part in the manner of a shared access signature of
// Azure. No two are the same.
func (s *Server) link(r *http.Request, reference, name string) (link string, expires time.Time) {
	now := s.now().UTC().Truncate(time.Second)
	expires = now.Add(linkLife)
	values := url.Values{
		"sv": {"2025-01-05"}, "sr": {"b"}, "sp": {"r"}, "skoid": {rand.Text()},
		"st": {now.Format(time.RFC3339)}, "se": {expires.Format(time.RFC3339)},
	}
	path := "/storage/" + reference + "/" + name
	values.Set("sig", s.sign(path, values))
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + path + "?" + values.Encode(), expires
}

// sign is the signature of a path and every value but sig.
func (s *Server) sign(path string, values url.Values) string {
	s.mutex.Lock()
	generation := s.links
	s.mutex.Unlock()
	mac := hmac.New(sha256.New, s.secret)
	signed := url.Values{}
	for name, each := range values {
		if name != "sig" {
			signed[name] = each
		}
	}
	mac.Write([]byte(strconv.Itoa(generation) + " " + path + "?" + signed.Encode()))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// ExpireLinks ends every link to a part that was given so far, as an hour does.
func (s *Server) ExpireLinks() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.links++
}

// storage serves GET /storage/{reference}/{part}.
func (s *Server) storage(w http.ResponseWriter, r *http.Request) {
	s.withFaults(w, r, func(w http.ResponseWriter, r *http.Request) {
		values := r.URL.Query()
		expires, err := time.Parse(time.RFC3339, values.Get("se"))
		switch {
		case r.Header.Get("Authorization") != "":
			s.violation(r, "Authorization sent to the storage")
			s.refusePart(w, http.StatusForbidden, "AuthenticationFailed", "A link bears its own signature and is sent without Authorization.")
			return
		case r.Method != http.MethodGet:
			s.violation(r, "a part is fetched by GET")
			s.refusePart(w, http.StatusMethodNotAllowed, "UnsupportedHttpVerb", "The resource doesn't support specified Http Verb.")
			return
		case err != nil || !hmac.Equal([]byte(values.Get("sig")), []byte(s.sign(r.URL.Path, values))):
			s.refusePart(w, http.StatusForbidden, "AuthenticationFailed", "Signature did not match or the key that signed it is gone.")
			return
		case !s.now().Before(expires):
			s.refusePart(w, http.StatusForbidden, "AuthenticationFailed", "Signature not valid in the specified time frame.")
			return
		}
		reference, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/storage/"), "/")
		s.mutex.Lock()
		e := s.exports[reference] // exists, or there were no signature
		gone := s.now().After(e.completed.Add(exportLife))
		s.mutex.Unlock()
		parts := s.pack(e).parts
		found := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if gone || found < 0 {
			s.refusePart(w, http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
			return
		}
		s.mutex.Lock()
		s.stats.Parts[name]++
		s.mutex.Unlock()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(parts[found].sealed)))
		w.Header().Set("X-Ms-Meta-Hash", parts[found].sealedHash)
		_, _ = w.Write(parts[found].sealed) // the client may be gone: there is nobody left to tell
	})
}

// refusePart says no in the manner of Azure.
func (s *Server) refusePart(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>%s\nRequestId:%s\nTime:%s</Message></Error>",
		code, message, traceID(), s.now().UTC().Format(time.RFC3339Nano))
}
