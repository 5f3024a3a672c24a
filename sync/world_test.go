package sync_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/ksefsim/contract"
	"ksefmirror/internal/tree"
	ksefsync "ksefmirror/sync"
)

// The company whose invoices the tests mirror, and the token that logs in to it.
var company = ksef.Context{Type: ksef.ContextNIP, Value: "5265877635"}

const token = "a-token-that-must-not-show"

var roles = []string{"seller", "buyer", "third_party", "authorized"}

var subjects = map[string]ksef.SubjectType{"seller": ksef.Seller, "buyer": ksef.Buyer, "third_party": ksef.ThirdParty, "authorized": ksef.Authorized}

// clock is the one time of a test: the simulator, the client and the mirror all
// read it, and waiting moves it. No test sleeps.
type clock struct {
	mu   sync.Mutex
	now  time.Time
	real bool // the machine's own, for tests with child processes
}

func (c *clock) Now() time.Time {
	if c.real {
		return time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.advance(max(d, 0))
	return ctx.Err()
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a simulated KSeF and one mirror of it, on real files and over HTTP.
type world struct {
	tb      testing.TB
	sim     *ksefsim.Server
	clock   *clock
	url     string
	dir     string
	log     *bytes.Buffer
	options ksefsync.Options
}

var start = time.Date(2026, time.November, 20, 12, 0, 0, 0, time.UTC)

// newWorld makes a KSeF whose high water mark lags two minutes.
func newWorld(tb testing.TB, o ksefsim.Options) *world {
	tb.Helper()
	return newWorldAt(tb, o, &clock{now: start})
}

func newWorldAt(tb testing.TB, o ksefsim.Options, at *clock) *world {
	tb.Helper()
	w := &world{tb: tb, clock: at, dir: filepath.Join(tb.TempDir(), "mirror"), log: &bytes.Buffer{}}
	o.Now = w.clock.Now
	if o.HWMLag == 0 {
		o.HWMLag = 2 * time.Minute
	}
	w.sim = ksefsim.New(o)
	w.sim.AddToken(company, token)
	var handler http.Handler = w.sim
	if !testing.Short() { // the race detector makes it slow, and has nothing to find in it
		handler = contract.Wrap(tb, w.sim)
	}
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	w.url = server.URL + "/v2"
	layout, err := tree.ParseLayout(tree.DefaultLayout)
	if err != nil {
		tb.Fatal(err)
	}
	w.options = ksefsync.Options{
		Dir: w.dir, Environment: "test", Context: company, Roles: roles, EveryRole: true,
		Since: time.Date(2026, time.February, 1, 0, 0, 0, 0, time.UTC), Layout: layout,
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: w.clock.Now, Sleep: w.clock.Sleep,
		Remote: func(log ksef.RequestLog) ksefsync.Remote { return w.client(log) },
	}
	tb.Cleanup(func() {
		if strings.Contains(w.log.String(), token) {
			tb.Error("the log shows the token")
		}
		if v := w.sim.Stats().Violations; len(v) > 0 {
			tb.Errorf("requests against the specification: %q", v)
		}
	})
	return w
}

func (w *world) client(log ksef.RequestLog) *ksef.Client {
	limiter := ksef.NewLimiter(log, ksef.DefaultLimits())
	limiter.Now, limiter.Sleep = w.clock.Now, w.clock.Sleep
	return &ksef.Client{
		BaseURL: w.url, Context: company,
		Token:   func() (ksef.Secret, error) { return ksef.NewSecret(token), nil },
		Limiter: limiter, UserAgent: "ksefmirror/test", Log: w.options.Log,
		Now: w.clock.Now, Sleep: w.clock.Sleep,
	}
}

// add puts invoices into KSeF.
func (w *world) add(invoices ...ksefsim.Invoice) []ksef.Number {
	w.tb.Helper()
	numbers, err := w.sim.Add(invoices...)
	if err != nil {
		w.tb.Fatal(err)
	}
	return numbers
}

// generate makes n invoices whose dates end an hour ago.
func (w *world) generate(n int, span time.Duration, seed uint64) []ksefsim.Invoice {
	to := w.clock.Now().Add(-time.Hour)
	return ksefsim.Generate(ksefsim.GenerateOptions{Count: n, Context: company, From: to.Add(-span), To: to, Seed: seed})
}

// fresh makes n invoices that KSeF stores now, as it would: never below a high
// water mark that it has told already.
func (w *world) fresh(n int, seed uint64) []ksefsim.Invoice {
	invoices := w.generate(n, time.Hour, seed)
	for i := range invoices {
		invoices[i].Stored = w.clock.Now().Add(time.Duration(i/3) * 10 * time.Microsecond)
	}
	return invoices
}

// cycle opens the mirror as a new process would, runs one cycle, closes it, and
// checks every promise.
func (w *world) cycle() (ksefsync.Report, error) {
	w.tb.Helper()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		return ksefsync.Report{}, err
	}
	report, err := m.Cycle(w.tb.Context())
	if closeErr := m.Close(); closeErr != nil {
		w.tb.Errorf("close: %v", closeErr)
	}
	w.checkAfter(err != nil)
	return report, err
}

// mustCycle is a cycle that has to succeed.
func (w *world) mustCycle() ksefsync.Report {
	w.tb.Helper()
	report, err := w.cycle()
	if err != nil {
		w.tb.Fatalf("cycle: %v", err)
	}
	return report
}

// check holds the database, the folder and the simulator against each other:
// every row has its file with KSeF's bytes and every file its row, nothing is
// there that KSeF never had, every watermark has everything before it, and no
// temporary file is left.
func (w *world) check() { w.tb.Helper(); w.checkAfter(false) }

// checkAfter is check; after a kill or a failure there may be files without a row
// yet, and temporary ones, until the next run.
func (w *world) checkAfter(trouble bool) {
	w.tb.Helper()
	d, err := db.OpenReadOnly(w.tb.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatalf("check: %v", err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			w.tb.Errorf("check: %v", err)
		}
	}()
	oracle := map[string]ksefsim.Stored{}
	for _, role := range roles {
		for _, s := range w.sim.Listed(company, subjects[role]) {
			oracle[string(s.Number)] = s
		}
	}
	invoices := filepath.Join(w.dir, "invoices")
	rows := map[string]bool{}
	paths := map[string]bool{}
	for row, err := range d.Files(w.tb.Context()) {
		if err != nil {
			w.tb.Fatalf("check: %v", err)
		}
		want, exists := oracle[row.KSeFNumber]
		switch {
		case !exists:
			w.tb.Errorf("check: row %s was never in KSeF", row.KSeFNumber)
			continue
		case rows[row.KSeFNumber] || paths[row.Path]:
			w.tb.Errorf("check: %s is there twice", row.KSeFNumber)
		}
		rows[row.KSeFNumber], paths[row.Path] = true, true
		file, err := os.ReadFile(filepath.Join(invoices, filepath.FromSlash(row.Path)))
		if err != nil {
			w.tb.Errorf("check: row without its file: %v", err)
		} else if !bytes.Equal(file, want.XML) {
			w.tb.Errorf("check: file of %s is not what KSeF served", row.KSeFNumber)
		}
		copied, err := d.Document(w.tb.Context(), row.KSeFNumber)
		if err != nil || !bytes.Equal(copied, want.XML) {
			w.tb.Errorf("check: database copy of %s is not what KSeF served: %v", row.KSeFNumber, err)
		}
		if row.SHA256 != sha256.Sum256(want.XML) {
			w.tb.Errorf("check: hash of %s", row.KSeFNumber)
		}
	}
	err = filepath.WalkDir(invoices, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == ".ksefmirror" {
			return err
		}
		relative, err := filepath.Rel(invoices, path)
		if err == nil && !trouble && !paths[filepath.ToSlash(relative)] && !tree.IsKept(filepath.ToSlash(relative)) {
			w.tb.Errorf("check: file without a row: %s", relative)
		}
		return err
	})
	if err != nil {
		w.tb.Fatalf("check: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "packages")); err != nil || len(left) > 0 && !trouble {
		w.tb.Errorf("check: packages/ holds %v: %v", left, err)
	}
	streams, err := d.Streams(w.tb.Context())
	if err != nil {
		w.tb.Fatalf("check: %v", err)
	}
	for _, s := range streams {
		watermark := ksef.Timestamp(s.Watermark).Time()
		for _, want := range w.sim.Listed(company, subjects[s.Role]) {
			if want.StoredAt.Before(watermark) && !rows[string(want.Number)] {
				w.tb.Errorf("check: LOST: %s has watermark %s but not %s of %s", s.Role, s.Watermark, want.Number, want.StoredAt)
			}
		}
	}
}

// complete checks that everything KSeF shows in the roles of the mirror is
// mirrored, with its roles.
func (w *world) complete() {
	w.tb.Helper()
	d, err := db.OpenReadOnly(w.tb.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for _, role := range w.options.Roles {
		var numbers []string
		for _, s := range w.sim.Listed(company, subjects[role]) {
			if !s.VisibleAt.After(w.clock.Now()) {
				numbers = append(numbers, string(s.Number))
			}
		}
		known, err := d.Known(w.tb.Context(), numbers)
		if err != nil {
			w.tb.Fatal(err)
		}
		for _, number := range numbers {
			if !slices.Contains(known[number].Roles, role) {
				w.tb.Errorf("%s is not mirrored as %s", number, role)
			}
		}
	}
}

// stream gives where a role stands.
func (w *world) stream(role string) db.Stream {
	w.tb.Helper()
	d, err := db.OpenReadOnly(w.tb.Context(), ksefsync.DatabasePath(w.dir))
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	streams, err := d.Streams(w.tb.Context())
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, s := range streams {
		if s.Role == role {
			return s
		}
	}
	return db.Stream{Role: role}
}

// status is what the status command would read.
func (w *world) status() ksefsync.Status {
	w.tb.Helper()
	s, err := ksefsync.ReadStatus(w.tb.Context(), w.dir, roles, w.clock.Now())
	if err != nil {
		w.tb.Fatal(err)
	}
	return s
}

// fault makes the simulator misbehave for the next times requests to a path.
func (w *world) fault(path string, times int, do func(http.ResponseWriter, *http.Request, http.Handler)) {
	w.sim.Fault(ksefsim.Fault{Path: path, Times: times, Do: do})
}

func asBudget(err error) *ksef.BudgetError {
	var budget *ksef.BudgetError
	if errors.As(err, &budget) {
		return budget
	}
	return nil
}

func hash(xml []byte) string {
	sum := sha256.Sum256(xml)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func readAll(tb testing.TB, r *http.Request) []byte {
	tb.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Error(err)
	}
	return body
}

// withBody is r once more, for a handler that reads its body again.
func withBody(r *http.Request, body []byte) *http.Request {
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	return again
}

// slow leaves a test out of the short run, which is the race detector's: it makes
// them several times slower, and others run the same goroutines.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out of the short run")
	}
}
