package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/internal/config"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
)

// office is a simulated KSeF, and a mirror of it that has run once.
type office struct {
	t     *testing.T
	sim   *ksefsim.Server
	dir   string
	mu    sync.Mutex
	asked []string // the bodies of queries
}

var company = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}

func newOffice(t *testing.T, o ksefsim.Options, invoices int) *office {
	t.Helper()
	o.HWMLag = time.Millisecond
	f := &office{t: t, sim: ksefsim.New(o), dir: t.TempDir()}
	f.sim.AddToken(company, "a-token")
	checked := contract.Wrap(t, f.sim)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/invoices/query/metadata") {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			f.mu.Lock()
			f.asked = append(f.asked, string(body))
			f.mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		checked.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	if _, err := config.Write(f.config(), config.InitOptions{
		Name: "acme", Environment: "test", APIURL: server.URL + "/v2", Context: "nip:5265877635", Token: "a-token",
	}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if _, err := f.sim.Add(ksefsim.Generate(ksefsim.GenerateOptions{
		Count: invoices, Context: company, From: now.Add(-20 * 24 * time.Hour), To: now.Add(-time.Minute), Seed: 7,
	})...); err != nil {
		t.Fatal(err)
	}
	f.run(0, "sync")
	f.asked = nil
	return f
}

func (f *office) config() string { return filepath.Join(f.dir, "config.toml") }

// run runs a command and gives its standard output and error.
func (f *office) run(code int, args ...string) (stdout, stderr string) {
	f.t.Helper()
	return f.runWith("", code, args...)
}

func (f *office) runWith(stdin string, code int, args ...string) (stdout, stderr string) {
	f.t.Helper()
	var out, err bytes.Buffer
	if got := Main(f.t.Context(), append([]string{"--config", f.config()}, args...), strings.NewReader(stdin), &out, &err); got != code {
		f.t.Errorf("%q: exit %d, want %d\n%s%s", args, got, code, out.String(), err.String())
	}
	return out.String(), err.String()
}

// Every flag says to KSeF what it says to people.
func TestRemoteQueryFlags(t *testing.T) {
	f := newOffice(t, ksefsim.Options{}, 20)
	number := string(f.sim.Listed(company, ksef.Seller)[0].Number)
	for _, test := range []struct {
		flags string
		want  string // beside subjectType and dateRange
		dates string // "": by storage from 1 to 3 November
	}{
		{"", `{}`, ""},
		{"--by storage", `{}`, ""},
		{"--by issue", `{}`, `{"dateType":"Issue","from":"2026-10-31T23:00:00.0000000Z","to":"2026-11-03T22:59:59.9999999Z"}`},
		{"--by invoicing", `{}`, `{"dateType":"Invoicing","from":"2026-10-31T23:00:00.0000000Z","to":"2026-11-03T22:59:59.9999999Z"}`},
		{"--from 2026-11-02T08:00:00+01:00 --to 2026-11-02T09:00:00Z", `{}`, `{"dateType":"PermanentStorage","from":"2026-11-02T08:00:00+01:00","to":"2026-11-02T09:00:00Z","restrictToPermanentStorageHwmDate":true}`},
		{"--beyond-hwm", `{}`, `{"dateType":"PermanentStorage","from":"2026-10-31T23:00:00.0000000Z","to":"2026-11-03T22:59:59.9999999Z","restrictToPermanentStorageHwmDate":false}`},
		{"--from 2026-07-01 --to 2026-07-01", `{}`, `{"dateType":"PermanentStorage","from":"2026-06-30T22:00:00.0000000Z","to":"2026-07-01T21:59:59.9999999Z","restrictToPermanentStorageHwmDate":true}`},
		{"--ksef-number " + number, `{"ksefNumber":"` + number + `"}`, ""},
		{"--invoice-number FV/1/2026", `{"invoiceNumber":"FV/1/2026"}`, ""},
		{"--amount gross --amount-from 100 --amount-to 200.50", `{"amount":{"type":"Brutto","from":100,"to":200.50}}`, ""},
		{"--amount net --amount-to 5", `{"amount":{"type":"Netto","to":5}}`, ""},
		{"--amount vat --amount-from=-1", `{"amount":{"type":"Vat","from":-1}}`, ""},
		{"--seller-nip 5265877635", `{"sellerNip":"5265877635"}`, ""},
		{"--buyer nip:7123306158", `{"buyerIdentifier":{"type":"Nip","value":"7123306158"}}`, ""},
		{"--buyer vat-ue:DE123", `{"buyerIdentifier":{"type":"VatUe","value":"DE123"}}`, ""},
		{"--buyer other:a:b", `{"buyerIdentifier":{"type":"Other","value":"a:b"}}`, ""},
		{"--buyer none", `{"buyerIdentifier":{"type":"None"}}`, ""},
		{"--currency PLN,EUR --currency USD", `{"currencyCodes":["PLN","EUR","USD"]}`, ""},
		{"--mode Offline", `{"invoicingMode":"Offline"}`, ""},
		{"--self-invoicing", `{"isSelfInvoicing":true}`, ""},
		{"--self-invoicing=false", `{"isSelfInvoicing":false}`, ""},
		{"--form FA_RR", `{"formType":"FA_RR"}`, ""},
		{"--type Vat,KorZal", `{"invoiceTypes":["Vat","KorZal"]}`, ""},
		{"--attachment=false", `{"hasAttachment":false}`, ""},
	} {
		args := []string{"remote", "query", "--fresh", "--role", "seller", "--from", "2026-11-01", "--to", "2026-11-03"}
		f.run(0, append(args, strings.Fields(test.flags)...)...)
		if test.dates == "" {
			test.dates = `{"dateType":"PermanentStorage","from":"2026-10-31T23:00:00.0000000Z","to":"2026-11-03T22:59:59.9999999Z","restrictToPermanentStorageHwmDate":true}`
		}
		want := `{"subjectType":"Subject1","dateRange":` + test.dates
		if test.want != "{}" {
			want += "," + test.want[1:]
		} else {
			want += "}"
		}
		if len(f.asked) != 1 {
			t.Fatalf("%s: %d queries", test.flags, len(f.asked))
		}
		if diff := cmp.Diff(decoded(t, want), decoded(t, f.asked[0])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.flags, diff)
		}
		f.asked = nil
	}
	// All of them as KSeF's JSON, from a file and from standard input.
	all := `{"subjectType":"SubjectAuthorized","dateRange":{"dateType":"PermanentStorage","from":"2026-11-01T00:00:00+01:00","to":"2026-11-22T00:00:00Z",
		"restrictToPermanentStorageHwmDate":false},"ksefNumber":"` + number + `","invoiceNumber":"FV/1","amount":{"type":"Brutto","from":1.5,"to":100},
		"sellerNip":"5265877635","buyerIdentifier":{"type":"Nip","value":"7123306158"},"currencyCodes":["PLN","EUR"],"invoicingMode":"Online",
		"isSelfInvoicing":false,"formType":"FA","invoiceTypes":["Vat","Kor"],"hasAttachment":true}`
	f.run(0, "remote", "query", "acme", "--fresh", "--filters", f.write(all))
	f.runWith(all, 0, "remote", "query", "--fresh", "--filters", "-")
	for _, asked := range f.asked {
		if diff := cmp.Diff(decoded(t, all), decoded(t, asked)); diff != "" {
			t.Errorf("as JSON (-want +got):\n%s", diff)
		}
	}
	if len(f.asked) != 2 {
		t.Errorf("%d queries by JSON", len(f.asked))
	}
	f.asked = nil
	for role, subject := range map[string]string{"buyer": "Subject2", "third_party": "Subject3", "authorized": "SubjectAuthorized"} {
		f.run(0, "remote", "query", "--fresh", "--role", role, "--from", "2026-11-01")
		if len(f.asked) != 1 || !strings.Contains(f.asked[0], `"`+subject+`"`) || strings.Contains(f.asked[0], `"to"`) {
			t.Errorf("%s asked %q", role, f.asked)
		}
		f.asked = nil
	}
	if v := f.sim.Stats().Violations; len(v) > 0 {
		t.Errorf("requests against the specification: %q", v)
	}
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

// Mistakes are refused before anything is asked.
func TestRemoteUsage(t *testing.T) {
	f := newOffice(t, ksefsim.Options{}, 1)
	before := f.sim.Stats().Requests
	query := func(says string, args ...string) {
		t.Helper()
		if _, stderr := f.run(exitUsage, append([]string{"remote"}, args...)...); !strings.Contains(stderr, says) {
			t.Errorf("%q: no %q in %s", args, says, stderr)
		}
	}
	valid := []string{"query", "--role", "buyer", "--from", "2026-11-01"}
	query("--role", "query", "--from", "2026-11-01")
	query("--from is missing", "query", "--role", "buyer")
	query(`--from "1.11.2026"`, "query", "--role", "buyer", "--from", "1.11.2026")
	query("is before", append(valid, "--to", "2026-10-01")...)
	query("authorized, buyer, seller, third_party", "query", "--role", "Subject1", "--from", "2026-11-01")
	query("--by", append(valid, "--by", "sale")...)
	query("--amount", append(valid, "--amount-from", "5")...)
	query("amount.to", append(valid, "--amount", "net", "--amount-to", "1,5")...)
	query("--buyer", append(valid, "--buyer", "7123306158")...)
	query("invoiceTypes", append(valid, "--type", "VAT")...)
	query("currencyCodes", append(valid, "--currency", "zloty")...)
	query("ten digits", append(valid, "--seller-nip", "12")...)
	query("exclude each other", append(valid, "--filters", "-")...)
	query("no such file", "query", "--filters", filepath.Join(f.dir, "nowhere.json"))
	query("unknown field", "query", "--filters", f.write(`{"subjectType":"Subject1","dateRange":{"dateType":"Issue","from":"2026-11-01T00:00:00Z"},"sellerNIPs":[]}`))
	query("cannot be right", "query", "--filters", f.write(strings.Repeat(" ", maxFilters+1)))
	query("no mirror", "query", "nobody", "--role", "buyer", "--from", "2026-11-01")
	query("check digits", "download", "5265877635-20261105-0100001AF629-00")
	query("want NIP", "download", "../../etc/passwd")
	query("want the KSeF number", "download")
	query("--output is missing", "export", "--role", "buyer", "--from", "2026-11-01")
	if asked := f.sim.Stats().Requests - before; asked != 0 {
		t.Errorf("%d requests", asked)
	}
}

func (f *office) write(text string) string {
	f.t.Helper()
	name := filepath.Join(f.dir, "some.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return name
}

func TestRemoteOutput(t *testing.T) {
	f := newOffice(t, ksefsim.Options{Limits: ksef.Limits{ksef.GroupMetadata: {PerHour: 30}, ksef.GroupDownload: {PerHour: 40}, ksef.GroupExport: {PerHour: 5}}}, 30)
	listed := f.sim.Listed(company, ksef.Seller)
	since := time.Now().Add(-25 * 24 * time.Hour).Format(time.DateOnly)

	// The mirror's own, without a request, which is said.
	before := f.sim.Stats().Requests
	to := time.Now().Add(-30 * time.Second).UTC().Format(time.RFC3339)
	out, notes := f.run(0, "remote", "query", "acme", "--role", "seller", "--from", since, "--to", to, "--json")
	var rows []ksef.Metadata
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != len(listed) {
		t.Errorf("%d rows of %d: %v", len(rows), len(listed), err)
	}
	if !strings.Contains(notes, fmt.Sprintf("0 invoices from KSeF, and %d from the mirror", len(listed))) || strings.Contains(notes, "limits leave") || f.sim.Stats().Requests != before {
		t.Errorf("%d requests: %s", f.sim.Stats().Requests-before, notes)
	}
	out, notes = f.run(0, "remote", "query", "--role", "seller", "--from", since, "--fresh")
	if strings.Count(out, "\n") != len(listed)+1 || !strings.Contains(out, string(listed[0].Number)) ||
		!strings.Contains(notes, "of 30 listings, ") || !strings.Contains(notes, " of 5 packages") {
		t.Errorf("%s%s", out, notes)
	}
	if out, _ = f.run(0, "remote", "query", "--role", "seller", "--from", since, "--invoice-number", "none such", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("no rows: %q", out)
	}

	// One invoice, to a file that is never overwritten, or to standard output.
	file := filepath.Join(f.dir, "one.xml")
	before = f.sim.Stats().Requests
	_, notes = f.run(0, "remote", "download", string(listed[0].Number), "-o", file)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, listed[0].XML) || !strings.Contains(notes, "from the mirror") {
		t.Errorf("%v %s", err, notes)
	}
	if _, notes = f.run(exitUsage, "remote", "download", "acme", string(listed[1].Number), "--fresh", "-o", file); !strings.Contains(notes, "exists") {
		t.Error(notes)
	}
	if f.sim.Stats().Requests != before {
		t.Errorf("%d requests", f.sim.Stats().Requests-before)
	}
	out, notes = f.run(0, "remote", "download", string(listed[1].Number), "--fresh", "-o", "-")
	if out != string(listed[1].XML) || !strings.Contains(notes, "of 40 single downloads") {
		t.Errorf("%q %s", out, notes)
	}

	dir := filepath.Join(f.dir, "export")
	_, notes = f.run(0, "remote", "export", "--role", "seller", "--from", since, "-o", dir)
	if !strings.Contains(notes, fmt.Sprintf("%d invoices are in", len(listed))) {
		t.Error(notes)
	}

	// A spent budget keeps what is there, closes the JSON, and says how to go on.
	f.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 1, "1200"))
	out, notes = f.run(exitBudget, "remote", "query", "--role", "seller", "--from", since, "--fresh", "--json")
	if json.Unmarshal([]byte(out), &rows) != nil || !strings.Contains(notes, "it can go on from") || !strings.Contains(notes, "--from ") {
		t.Errorf("%s%s", out, notes)
	}
	if _, notes = f.run(exitBudget, "sync"); strings.Contains(notes, "429") {
		t.Errorf("the mirror asked in spite of the block: %s", notes)
	}
}

// What strangers write into invoices must not command the terminal.
func TestPlain(t *testing.T) {
	if got := plain("Żaba\x1b[31m\r\nsp. z o.o.\u202e"); got != "Żaba?[31m??sp. z o.o.?" {
		t.Errorf("%q", got)
	}
}

func FuzzParseDate(f *testing.F) {
	f.Add("2026-11-01")
	f.Add("2026-03-29T02:30:00+02:00")
	f.Add("0000-00-00")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := parseDate("from", text, false)
		last, lastErr := parseDate("to", text, true)
		if (err == nil) != (lastErr == nil) || err != nil {
			return
		}
		if span := last.Time().Sub(first.Time()); span != 0 && (span < 22*time.Hour || span > 26*time.Hour) {
			t.Errorf("%q is %s to %s", text, first, last)
		}
		if _, err := ksef.ParseTimestamp(string(first)); err != nil {
			t.Error(err)
		}
	})
}
