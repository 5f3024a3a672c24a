package doctor

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"
)

// has checks that there is a finding about what, with the verdict, that says so.
func has(t *testing.T, findings []Finding, verdict Verdict, what, says string) {
	t.Helper()
	for _, f := range findings {
		if f.What == what && f.Verdict == verdict && strings.Contains(f.Found, says) {
			if (f.Do == "") != (verdict == OK) {
				t.Errorf("%s: what to do is %q", what, f.Do)
			}
			return
		}
	}
	t.Errorf("no %s %s: %q in %+v", verdict, what, says, findings)
}

func TestWay(t *testing.T) {
	code, date := http.StatusOK, func() string { return time.Now().UTC().Format(http.TimeFormat) }
	asked := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Method != http.MethodGet || r.URL.Path != "/v2/security/public-key-certificates" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
		w.Header().Set("Date", date())
		w.WriteHeader(code)
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	way := func() []Finding { t.Helper(); return Way(t.Context(), server.URL+"/v2") }

	found := way()
	has(t, found, OK, "name", "127.0.0.1 needs no name server")
	has(t, found, OK, "connection", "not encrypted")
	has(t, found, OK, "answer", "KSeF answers")
	has(t, found, OK, "clock", "as KSeF's")
	if asked != 1 {
		t.Errorf("it sent %d requests", asked)
	}
	for _, test := range []struct {
		code    int
		verdict Verdict
		says    string
	}{
		{403, Warn, "firewall"}, {429, Warn, "no more requests"}, {503, Warn, "in trouble"}, {404, Fail, "HTTP 404"}, {302, Fail, "HTTP 302"},
	} {
		code = test.code
		has(t, way(), test.verdict, "answer", test.says)
	}
	code = http.StatusOK
	date = func() string { return time.Now().Add(-2 * time.Hour).UTC().Format(http.TimeFormat) }
	has(t, way(), Fail, "clock", "ahead of KSeF's")
	date = func() string { return "yesterday" }
	has(t, way(), Warn, "clock", "no date")

	untrusted := httptest.NewUnstartedServer(handler)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	has(t, Way(t.Context(), untrusted.URL+"/v2"), Fail, "connection", "not trusted")
	server.Close()
	has(t, way(), Fail, "connection", "refused")
	has(t, Way(t.Context(), "https://ksef.invalid/v2"), Fail, "name", "ksef.invalid")
}

func TestClock(t *testing.T) {
	server := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	date := server.Format(http.TimeFormat)
	for _, test := range []struct {
		sent, took time.Duration // of this clock, against KSeF's
		verdict    Verdict
		says       string
	}{
		{0, time.Second, OK, "as KSeF's"},
		{900 * time.Millisecond, 0, OK, "as KSeF's"}, // within the second that the date is cut to
		{-20 * time.Second, 30 * time.Second, OK, "as KSeF's"},
		{10 * time.Second, 0, OK, "as KSeF's"},
		{30 * time.Second, 0, Warn, "29s ahead of"},
		{-30 * time.Second, 10 * time.Second, Warn, "20s behind"},
		{2 * time.Hour, 0, Fail, "1h59m59s ahead of"},
		{-2 * time.Hour, 0, Fail, "2h0m0s behind"},
	} {
		sent := server.Add(test.sent)
		if f := clock(date, sent, sent.Add(test.took)); f.Verdict != test.verdict || !strings.Contains(f.Found, test.says) {
			t.Errorf("%+v: %+v", test, f)
		}
	}
}

// Scenario 72: whatever the beacon says or does not say, it is no failure.
func TestBeacon(t *testing.T) {
	code, body := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	for _, test := range []struct {
		code    int
		body    string
		verdict Verdict
		says    string
	}{
		{200, `{"status":"AVAILABLE","messages":[]}`, OK, "no outage"},
		{200, `{"status":"TOTAL_FAILURE","messages":[{"title":"Awaria KSeF\nod rana","start":"2026-01-31T10:00:00Z"}]}`, Warn, "TOTAL_FAILURE; Awaria KSeF od rana (2026-01-31T10:00:00Z to ?)"},
		{200, `{"status":"AVAILABLE","messages":[{"title":"Prace","start":"a","end":"b"}]}`, OK, "Prace (a to b)"},
		{200, `{"status":"FAILURE","messages":[` + strings.Repeat(`{"title":"x"},`, 9) + `{"title":"x"}]}`, Warn, "and 7 more"},
		{200, `{"status":"` + strings.Repeat("x", 1000) + `"}`, Warn, "xxx…"},
		{200, `{}`, OK, "nothing that is understood"},
		{502, `<html>502</html>`, OK, "HTTP 502"},
		{403, `<html>Request blocked</html>`, OK, "HTTP 403"},
		{200, `<html>Hello</html>`, OK, "nothing that is understood"},
	} {
		code, body = test.code, test.body
		if f := Beacon(t.Context(), server.URL); f.Verdict != test.verdict || !strings.Contains(f.Found, test.says) || len(f.Found) > 1000 {
			t.Errorf("%s: %+v", test.body, f)
		}
	}
	server.Close()
	if f := Beacon(t.Context(), server.URL); f.Verdict != OK || !strings.Contains(f.Found, "does not answer") {
		t.Errorf("%+v", f)
	}
	if BeaconAddress("test") != "" || BeaconAddress("demo") != "" || BeaconAddress("prod") == "" {
		t.Error("whom it asks")
	}
}

// Whatever the beacon sends becomes one line of bounded length, and no failure.
func FuzzHeard(f *testing.F) {
	f.Add(200, `{"status":"FAILURE","messages":[{"title":"a\u0000\nb","start":"\u202e","end":"c"}]}`)
	f.Add(200, `{"status":"AVAILABLE","messages":[]}`)
	f.Add(502, `<html>`)
	f.Fuzz(func(t *testing.T, code int, body string) {
		found := heard(code, strings.NewReader(body))
		if found.Verdict == Fail || len(found.Found) > 5000 || strings.ContainsFunc(found.Found, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%+v", found)
		}
	})
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "acme")
	has(t, Folder(dir), OK, "folder", "can be made")
	if err := os.MkdirAll(filepath.Join(dir, "invoices"), 0o750); err != nil {
		t.Fatal(err)
	}
	found := Folder(dir)
	has(t, found, OK, "folder", "can be written to")
	has(t, found, OK, "disk", "are free")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || len(found) != 2 {
		t.Errorf("%v, %v, %+v", left, err, found)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(dir, 0o755); err != nil { // #nosec G302 -- that is what is tested
			t.Fatal(err)
		}
		has(t, Folder(dir), Warn, "permissions", "mode 0755")
	}
	// Where no file can be made: something else has the folder's name.
	if err := os.WriteFile(filepath.Join(dir, "database"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, Folder(dir), Fail, "folder", "cannot write to "+filepath.Join(dir, "database"))
	if runtime.GOOS == "linux" {
		has(t, Folder("/proc/acme"), Fail, "folder", "cannot write to /proc")
	}
}

func TestSystem(t *testing.T) {
	limit, known := openFiles()
	if !known {
		t.Skip("this system has no such limits")
	}
	has(t, System(1), OK, "open files", fmt.Sprint(limit))
	if limit < 1<<40 { // else there is no limit here
		has(t, System(int(limit)), Warn, "open files", "only") // #nosec G115 -- it was compared
	}
	if _, linux := inotify("max_user_watches"); linux {
		has(t, System(1<<40), Warn, "inotify", "fs.inotify.max_user_watches is only")
	}
}
