package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ksefmirror/db"
)

var testSource = Source{Mirror: "acme", Environment: "test", Context: "nip:5265877635"}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asHook {
		hook(os.Args[2:])
	}
	if path := os.Getenv(asCrash); path != "" {
		crash(path)
	}
	os.Exit(m.Run())
}

// clock is the time of a test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

// openStore opens a database with the given receivers.
func openStore(t testing.TB, path string, receivers ...string) *db.DB {
	t.Helper()
	store, err := db.Open(t.Context(), path, db.Mirror{Environment: "test", ContextType: "nip", ContextValue: "5265877635", ID: "tree-1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if err := store.SetReceivers(t.Context(), receivers); err != nil {
		t.Fatal(err)
	}
	return store
}

func newStore(t testing.TB, receivers ...string) *db.DB {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "invoices.db"), receivers...)
}

func number(n int) string { return fmt.Sprintf("5265877635-20261105-%012X-AF", n) }

// store stores the invoices with the numbers from and up to, as a cycle does.
func store(t testing.TB, to *db.DB, from, upTo int) {
	t.Helper()
	batch := db.Batch{Role: "buyer"}
	for n := from; n <= upTo; n++ {
		xml := fmt.Appendf(nil, "<Faktura>%d</Faktura>", n)
		sum := sha256.Sum256(xml)
		batch.Invoices = append(batch.Invoices, db.Invoice{
			KSeFNumber: number(n), APIType: "Vat", StoredAt: time.Date(2026, 11, 5, 10, 0, 0, n*100, time.UTC), ReceivedDate: "2026-11-05",
			Hash: base64.StdEncoding.EncodeToString(sum[:]), MetadataJSON: []byte("{}"), SellerNIP: "7123306158", SellerName: "Żaba \"Hop\" sp. z o.o.",
			BuyerIDType: "Nip", BuyerID: "5265877635", BuyerName: "Firma", InvoiceNumber: fmt.Sprintf("FV/%d", n), IssueDate: "2026-11-05",
			Currency: "PLN", FormCode: "FA (3)", ParseStatus: "unsupported", Path: fmt.Sprintf("purchases/2026/11/%d.xml", n), XML: xml, Role: "buyer",
		})
	}
	if err := to.Commit(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// told is a receiver that notes what it is told, and answers by a function of how
// many attempts there were before.
type told struct {
	immediate
	name   string
	limit  int
	answer func(ctx context.Context, n int) error

	mu      sync.Mutex
	at      []time.Time
	ids     []string
	batches [][]string // of KSeF numbers
}

func (r *told) Name() string { return r.name }
func (r *told) Limit() int   { return r.limit }

func (r *told) Take(ctx context.Context, b Batch) error {
	r.mu.Lock()
	n := len(r.ids)
	r.at, r.ids = append(r.at, time.Now()), append(r.ids, b.ID)
	var numbers []string
	for _, invoice := range b.Invoices {
		numbers = append(numbers, invoice.KSeFNumber)
	}
	r.batches = append(r.batches, numbers)
	r.mu.Unlock()
	if r.answer == nil {
		return nil
	}
	return r.answer(ctx, n)
}

// numbers gives the KSeF numbers from and up to.
func numbers(from, upTo int) (all []string) {
	for n := from; n <= upTo; n++ {
		all = append(all, number(n))
	}
	return all
}

func (r *told) all() []string { return slices.Concat(r.batches...) }

func state(t testing.TB, store *db.DB, receiver string) db.Delivery {
	t.Helper()
	found, err := store.Delivery(t.Context(), receiver)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A new receiver is told of what comes from then on, in order, in batches, and
// each invoice once when nothing fails.
func TestToldInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	store(t, openStore(t, path), 1, 3)
	s := openStore(t, path, "a")
	store(t, s, 4, 10)
	store(t, s, 4, 12) // some are known
	a := &told{name: "a", limit: 4}
	sender := New(s, testSource, []Receiver{a}, discard(), nil)
	if results := sender.Deliver(t.Context(), time.Time{}); results[0].Delivered != 9 || results[0].Err != nil || results[0].Left {
		t.Errorf("got %+v", results)
	}
	if got := a.all(); !slices.Equal(got, numbers(4, 12)) || len(a.batches) != 3 || len(slices.Compact(slices.Clone(a.ids))) != 3 {
		t.Errorf("told of %q under %q", a.batches, a.ids)
	}
	if got := state(t, s, "a"); got.Behind != 0 || got.OfferedID != 0 || got.LastSuccess.IsZero() {
		t.Errorf("got %+v", got)
	}
	sender.Deliver(t.Context(), time.Time{})
	if len(a.ids) != 3 {
		t.Error("told once more of what it has taken")
	}
}

// A receiver that fails is tried again later and later, is never passed over, and
// gets the same batch under the same ID, whatever comes meanwhile.
func TestFailureIsRetried(t *testing.T) {
	s := newStore(t, "a")
	store(t, s, 1, 2)
	at := newClock()
	const failures = 12
	a := &told{name: "a", limit: 10, answer: func(_ context.Context, n int) error {
		if n < failures {
			return fmt.Errorf("not now %d", n)
		}
		return nil
	}}
	sender := New(s, testSource, []Receiver{a}, discard(), at.Now)
	var pauses []time.Duration
	for n := range failures {
		result := sender.tell(t.Context(), a, false, time.Time{})
		if result.Err == nil || result.Delivered != 0 || len(a.ids) != n+1 {
			t.Fatalf("attempt %d: %+v", n, result)
		}
		got := state(t, s, "a")
		if got.Failures != n+1 || got.LastError != fmt.Sprintf("not now %d", n) || !got.NextAttempt.Equal(result.next) || got.Behind != int64(2+n) {
			t.Fatalf("attempt %d: %+v", n, got)
		}
		pauses = append(pauses, result.next.Sub(at.Now()))
		store(t, s, 3+n, 3+n)
		at.advance(result.next.Sub(at.Now()) - time.Second)
		if early := sender.tell(t.Context(), a, false, time.Time{}); early.Err != nil || !early.next.Equal(result.next) {
			t.Fatalf("too early: %+v", early)
		}
		at.advance(time.Second)
	}
	for i, pause := range pauses {
		if want := min(30*time.Second<<i, 4*time.Hour); pause != want {
			t.Errorf("pause %d is %s, want %s", i, pause, want)
		}
	}
	if result := sender.tell(t.Context(), a, false, time.Time{}); result.Err != nil || result.Delivered != 2+failures || result.Recovered != failures {
		t.Errorf("got %+v", result)
	}
	for i, id := range a.ids[:failures+1] {
		if id != a.ids[0] || !slices.Equal(a.batches[i], numbers(1, 2)) {
			t.Errorf("attempt %d was of %q under %s", i, a.batches[i], id)
		}
	}
	if rest := slices.Concat(a.batches[failures+1:]...); !slices.Equal(rest, numbers(3, 2+failures)) {
		t.Errorf("then it was told of %q", rest)
	}
	if got := state(t, s, "a"); got.Failures != 0 || got.LastError != "" || !got.NextAttempt.IsZero() || got.Behind != 0 {
		t.Errorf("got %+v", got)
	}
}

// The clock is set back after a failure: the receiver does not wait for the time to
// come again.
func TestRetriedAfterTheClockWasSetBack(t *testing.T) {
	for _, back := range []time.Duration{time.Hour, 24 * time.Hour} {
		s := newStore(t, "a")
		store(t, s, 1, 2)
		at := newClock()
		a := &told{name: "a", limit: 10, answer: func(_ context.Context, n int) error {
			if n == 0 {
				return errors.New("not now")
			}
			return nil
		}}
		sender := New(s, testSource, []Receiver{a}, discard(), at.Now)
		if result := sender.tell(t.Context(), a, false, time.Time{}); result.Err == nil {
			t.Fatal("it did not fail")
		}
		at.advance(firstBackoff - back)
		if result := sender.tell(t.Context(), a, false, time.Time{}); result.Err != nil || result.Delivered != 2 {
			t.Errorf("set back by %s: %+v", back, result)
		}
	}
}

// A receiver that wants no more is left alone until the next start, and has lost
// nothing then.
func TestGone(t *testing.T) {
	s := newStore(t, "a")
	store(t, s, 1, 1)
	at := newClock()
	a := &told{name: "a", limit: 10, answer: func(_ context.Context, n int) error {
		if n == 0 {
			return fmt.Errorf("no: %w", ErrGone)
		}
		return nil
	}}
	sender := New(s, testSource, []Receiver{a}, discard(), at.Now)
	if result := sender.tell(t.Context(), a, false, time.Time{}); !errors.Is(result.Err, ErrGone) || !result.next.IsZero() {
		t.Errorf("got %+v", result)
	}
	at.advance(1000 * time.Hour)
	store(t, s, 2, 2)
	if sender.tell(t.Context(), a, false, time.Time{}); len(a.ids) != 1 {
		t.Error("it was tried again")
	}
	if sender.Deliver(t.Context(), time.Time{}); !slices.Equal(a.all(), append(numbers(1, 1), numbers(1, 2)...)) {
		t.Errorf("after a start it was told of %q", a.batches)
	}
}

// What a receiver does wrong is its own affair: one that panics, hangs or fails
// keeps no other waiting, and is told again.
func TestReceiversAreApart(t *testing.T) {
	s := newStore(t, "fine", "hangs", "panics")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fine := &told{name: "fine", limit: 10}
	hangs := &told{name: "hangs", limit: 10, answer: func(ctx context.Context, _ int) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	panics := &told{name: "panics", limit: 10, answer: func(context.Context, int) error { panic("on purpose") }}
	var log bytes.Buffer
	sender := New(s, testSource, []Receiver{hangs, panics, fine}, slog.New(slog.NewTextHandler(&log, nil)), nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sender.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if <-ended; t.Failed() {
			t.Log(&log)
		}
	})
	for n := 1; n <= 3; n++ {
		store(t, s, n, n)
		sender.Wake()
		until(t, func() bool { return state(t, s, "fine").LastID == int64(n) && state(t, s, "panics").Failures > 0 })
	}
	until(t, func() bool { return state(t, s, "hangs").OfferedID == 1 })
	cancel()
	<-ended
	if !slices.Equal(fine.all(), numbers(1, 3)) {
		t.Errorf("the one that is fine was told of %q", fine.batches)
	}
	if got := state(t, s, "panics"); got.LastID != 0 || got.LastError != "a mistake in ksefmirror: on purpose" {
		t.Errorf("got %+v", got)
	}
	// To be stopped is no failure.
	if got := state(t, s, "hangs"); got.LastID != 0 || got.Failures != 0 {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(log.String(), "delivery_test.go") {
		t.Errorf("the log does not say where it panicked:\n%s", &log)
	}
}

// until waits for a condition that another goroutine brings about, for longer than the
// first pause after a failure.
func until(t testing.TB, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(firstBackoff + 30*time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about")
		}
		timer := time.NewTimer(5 * time.Millisecond)
		<-timer.C
	}
}

// The loop tries again by itself when it is time, says the first failure, one in
// 15 minutes and the recovery, and looks when it is woken.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, "a")
		defer s.Close() // within the bubble
		store(t, s, 1, 1)
		a := &told{name: "a", limit: 10, answer: func(_ context.Context, n int) error {
			if n < 7 {
				return errors.New("not now")
			}
			return nil
		}}
		var log bytes.Buffer
		sender := New(s, testSource, []Receiver{a}, slog.New(slog.NewTextHandler(&log, nil)), nil)
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		go sender.Run(ctx)
		<-time.After(2 * time.Hour) // of the bubble
		store(t, s, 2, 2)
		sender.Wake()
		synctest.Wait()
		cancel()
		synctest.Wait()
		var after []time.Duration
		for _, at := range a.at {
			after = append(after, at.Sub(began).Round(time.Second))
		}
		want := []time.Duration{0, 30 * time.Second, 90 * time.Second, 210 * time.Second, 450 * time.Second, 930 * time.Second, 1890 * time.Second, 3810 * time.Second, 2 * time.Hour}
		if !slices.Equal(after, want) {
			t.Errorf("told after %s, want %s", after, want)
		}
		if failures, recovered := strings.Count(log.String(), "could not be told"), strings.Count(log.String(), "recovered"); failures != 3 || recovered != 1 {
			t.Errorf("%d lines about failures and %d about recovery:\n%s", failures, recovered, &log)
		}
	})
}

// Deliver begins nothing when its time is over, and says that something is left.
func TestDeliverEnds(t *testing.T) {
	s := newStore(t, "a")
	store(t, s, 1, 5)
	at := newClock()
	a := &told{name: "a", limit: 2, answer: func(context.Context, int) error {
		at.advance(time.Minute)
		return nil
	}}
	results := New(s, testSource, []Receiver{a}, discard(), at.Now).Deliver(t.Context(), at.Now().Add(90*time.Second))
	if !results[0].Left || results[0].Delivered != 4 || state(t, s, "a").LastID != 4 || state(t, s, "a").OfferedID != 0 {
		t.Errorf("got %+v", results)
	}
}

// A database that was lost and made anew gives the ids of its rows to other
// invoices: they are not taken for those that were told under the same ones.
func TestBatchesAreToldApart(t *testing.T) {
	seen := map[string]bool{}
	for n := 1; n <= 2; n++ {
		s := newStore(t, "a")
		store(t, s, n, n)
		a := &told{name: "a", limit: 10}
		New(s, testSource, []Receiver{a}, discard(), nil).Deliver(t.Context(), time.Time{})
		seen[a.ids[0]] = true
	}
	if len(seen) != 2 {
		t.Errorf("told under %v", seen)
	}
}

// What was taken while the mirror was being closed is not told again.
func TestTakenAtTheEnd(t *testing.T) {
	s := newStore(t, "a")
	store(t, s, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	a := &told{name: "a", limit: 10, answer: func(context.Context, int) error {
		cancel()
		return nil
	}}
	New(s, testSource, []Receiver{a}, discard(), nil).Run(ctx)
	if got := state(t, s, "a"); got.LastID != 1 || got.Failures != 0 {
		t.Errorf("got %+v", got)
	}
}

// asCrash names, in the environment, the database with which this test binary is a
// process that dies while it tells a receiver.
const asCrash = "KSEFMIRROR_DELIVERY_TEST_CRASH"

// crash tells the receiver "a" and dies in the middle: where, the name of the file
// beside the database says.
func crash(path string) {
	store, err := db.Open(context.Background(), path, db.Mirror{Environment: "test", ContextType: "nip", ContextValue: "5265877635"}, discard())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	a := &told{name: "a", limit: 3}
	a.answer = func(_ context.Context, n int) error {
		fmt.Println(a.ids[n], strings.Join(a.batches[n], " "))
		if n == 1 {
			os.Exit(9) // between its acknowledgement and the cursor
		}
		return nil
	}
	New(store, testSource, []Receiver{a}, discard(), nil).Deliver(context.Background(), time.Time{})
	os.Exit(0)
}

// A process that dies after the receiver has taken a batch, and before that is
// recorded, tells it once more, as the same batch; nothing is left out.
func TestKilledBeforeTheCursorMoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	s := openStore(t, path, "a")
	store(t, s, 1, 10)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asCrash+"="+path)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Fatalf("the process ended with %v:\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 {
		t.Fatalf("it had told:\n%s", out)
	}
	store(t, s, 11, 11)
	a := &told{name: "a", limit: 3}
	New(s, testSource, []Receiver{a}, discard(), nil).Deliver(t.Context(), time.Time{})
	if again := a.ids[0] + " " + strings.Join(a.batches[0], " "); again != lines[1] {
		t.Errorf("told again: %s, want %s", again, lines[1])
	}
	if !slices.Equal(a.all(), numbers(4, 11)) {
		t.Errorf("told of %q after the crash", a.batches)
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain żółw":          "plain żółw",
		"a\r\nSubject: b\x00": "a  Subject: b ",
		"bad \xff":            "bad  ",
		"\u202egnp\u2028":     " gnp ",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) is %q, want %q", text, got, want)
		}
	}
}
