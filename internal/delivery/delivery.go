// Package delivery tells others of new invoices: a command, a webhook, a daily
// mail. Each receiver is told of every invoice at least once and in the order in
// which they were stored, however often it fails and whenever the program dies:
// the database holds up to where it has acknowledged them.
//
// It runs beside the mirror's cycles and is never waited for by one. What it tells
// it reads from the database; it knows neither KSeF nor the folder tree.
package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"ksefmirror/db"
)

const (
	// A receiver that failed is tried again after these, doubling, for ever.
	firstBackoff = 30 * time.Second
	maxBackoff   = 4 * time.Hour
	// quiet is how long the same trouble is not logged again.
	quiet = 15 * time.Minute
	// maxListed is how many invoices of a batch are read into memory.
	maxListed = 500
	// maxReason is how much of an error is kept and logged, in bytes.
	maxReason = 500
)

// ErrGone is in the error of a receiver that wants to be told no more. It is not
// tried again before the next start.
var ErrGone = errors.New("it wants no more; it is tried again after the next start")

// Receiver is someone who is told of new invoices.
type Receiver interface {
	// Name tells it from the other receivers of the mirror. How far it was told is
	// kept under this name.
	Name() string
	// Limit is how many invoices it takes at once.
	Limit() int
	// Due gives the instant before which an invoice must have been stored for the
	// receiver to be told of it now, and when that instant changes. Zero times: it is
	// told at once.
	Due(now time.Time) (before, changes time.Time)
	// Take tells the receiver of a batch. nil means that it has taken it for good;
	// after any error, or a crash, it is given the same batch again. Take ends soon
	// after ctx. Its error holds no secret.
	Take(ctx context.Context, b Batch) error
}

// Source is the mirror whose invoices are told of.
type Source struct {
	Mirror      string // its name
	Environment string // test, demo or prod
	Context     string // whose invoices, such as nip:5265877635
}

// Batch is what a receiver is told at once.
type Batch struct {
	Source
	// ID is the same whenever the same batch is told again, and no other batch has
	// it: 32 hexadecimal digits.
	ID string
	// Invoices are in the order in which they were stored, one at least. Of more than
	// 500 they are the first.
	Invoices []db.NewInvoice
	Count    int            // of all
	ByRole   map[string]int // of all; an invoice may have several roles
}

// Sender tells the receivers of one mirror.
type Sender struct {
	store     *db.DB
	source    Source
	receivers []Receiver
	wake      []chan struct{} // by receiver
	log       *slog.Logger
	now       func() time.Time
}

// New gives a sender for receivers that the database was told of
// ([db.DB.SetReceivers]). now is the clock; nil: time.Now.
func New(store *db.DB, source Source, receivers []Receiver, log *slog.Logger, now func() time.Time) *Sender {
	if now == nil {
		now = time.Now
	}
	s := &Sender{store: store, source: source, receivers: receivers, log: log, now: now}
	for range receivers {
		s.wake = append(s.wake, make(chan struct{}, 1))
	}
	return s
}

// Wake says that invoices were stored. It never waits.
func (s *Sender) Wake() {
	for _, wake := range s.wake {
		select {
		case wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Run tells the receivers of what is new, now and whenever Wake is called, until
// ctx ends. Each receiver has a goroutine of its own: one that hangs delays no
// other.
func (s *Sender) Run(ctx context.Context) {
	var running sync.WaitGroup
	for i, receiver := range s.receivers {
		running.Go(func() { s.keep(ctx, receiver, s.wake[i]) })
	}
	running.Wait()
}

// keep tells one receiver until ctx ends.
func (s *Sender) keep(ctx context.Context, r Receiver, wake <-chan struct{}) {
	log := s.log.With("receiver", r.Name())
	var loggedAt time.Time
	// The first time it is tried whatever happened before: whoever has mended
	// something restarts the program.
	for force := true; ; force = false {
		result := s.tell(ctx, r, force, time.Time{})
		if ctx.Err() != nil {
			return
		}
		if result.Recovered > 0 {
			log.Info("receiver of new invoices recovered", "failures", result.Recovered)
			loggedAt = time.Time{}
		}
		if result.Delivered > 0 {
			log.Info("told of new invoices", "invoices", result.Delivered)
		}
		if result.Err != nil && (loggedAt.IsZero() || s.now().Sub(loggedAt) >= quiet) {
			log.Warn("a receiver could not be told of new invoices; nothing is lost", "err", result.Err, "next_attempt", result.next)
			loggedAt = s.now()
		}
		if !s.wait(ctx, wake, result.next) {
			return
		}
	}
}

// wait waits for a wake-up or an instant; the zero time never comes. It returns
// false when ctx has ended.
func (s *Sender) wait(ctx context.Context, wake <-chan struct{}, until time.Time) bool {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(until.Sub(s.now()))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-due:
	}
	return true
}

// Result is what one receiver was told.
type Result struct {
	Receiver  string
	Delivered int   // invoices that it has taken
	Recovered int   // failed attempts in a row before the first that succeeded
	Left      bool  // there was no time for all
	Err       error // why it was not told of more; nil: it was, or has been told of all

	next time.Time // when to look again if nothing wakes; zero: never
}

// Deliver tells every receiver once of what is new, also those that failed not
// long ago, and begins no batch after an instant. The results are in the order of
// the receivers.
func (s *Sender) Deliver(ctx context.Context, until time.Time) []Result {
	results := make([]Result, len(s.receivers))
	var running sync.WaitGroup
	for i, receiver := range s.receivers {
		running.Go(func() { results[i] = s.tell(ctx, receiver, true, until) })
	}
	running.Wait()
	return results
}

// tell tells a receiver of what is due until nothing is left or it fails. force
// tells it also before its next attempt is due. No batch begins after until; zero:
// never mind.
func (s *Sender) tell(ctx context.Context, r Receiver, force bool, until time.Time) Result {
	result := Result{Receiver: r.Name()}
	for ctx.Err() == nil {
		more, err := s.tellBatch(ctx, r, force, until, &result)
		if err != nil {
			// Not the receiver's failure but the database's: nothing could be recorded.
			result.Err, result.next = err, s.now().Add(firstBackoff)
		}
		if err != nil || !more {
			break
		}
	}
	return result
}

// tellBatch tells a receiver of one batch, and says whether there may be more.
func (s *Sender) tellBatch(ctx context.Context, r Receiver, force bool, until time.Time, result *Result) (more bool, err error) {
	state, err := s.store.Delivery(ctx, r.Name())
	if err != nil {
		return false, err
	}
	now := s.now()
	// An attempt that is further away than any pause was noted before the clock was set
	// back: it is due.
	if pause := state.NextAttempt.Sub(now); state.Failures > 0 && !force && (state.NextAttempt.IsZero() || pause > 0 && pause <= backoff(state.Failures)) {
		result.next = state.NextAttempt
		return false, nil
	}
	if state.OfferedID <= state.LastID {
		before, changes := r.Due(now)
		result.next = changes
		if state.OfferedID, err = s.newest(ctx, state.LastID, before); err != nil {
			return false, err
		}
		if state.OfferedID == state.LastID {
			return false, nil
		}
		if limit := r.Limit(); state.OfferedID-state.LastID > int64(limit) {
			state.OfferedID = state.LastID + int64(limit)
		}
		if result.Left = !until.IsZero() && now.After(until); result.Left {
			return false, nil
		}
		// What is offered is fixed before the receiver hears of it, so that it gets the
		// same batch under the same ID after a failure and a crash.
		if err := s.store.Offer(ctx, r.Name(), state.OfferedID); err != nil {
			return false, err
		}
	}
	batch, err := s.batch(ctx, state)
	if err != nil {
		return false, err
	}
	if len(batch.Invoices) > 0 { // or someone has deleted them
		err = s.take(ctx, r, batch)
	}
	// A crash here, or anywhere before the commit of what follows, tells the receiver
	// once more of what it has taken.
	switch {
	case err == nil:
		// Also when ctx has ended: what was taken need not be told again.
		if err := s.store.Acknowledge(context.WithoutCancel(ctx), r.Name(), state.OfferedID, s.now()); err != nil {
			return false, err
		}
		result.Delivered += batch.Count
		result.Recovered = max(result.Recovered, state.Failures)
		return true, nil
	case ctx.Err() != nil:
		return false, nil // stopped, which is no failure of the receiver
	}
	result.Err, result.next = err, time.Time{}
	if !errors.Is(err, ErrGone) {
		result.next = s.now().Add(backoff(state.Failures + 1))
	}
	return false, s.store.DeliveryFailed(ctx, r.Name(), shorten(err.Error()), result.next)
}

// newest is the last invoice to tell of now.
func (s *Sender) newest(ctx context.Context, after int64, before time.Time) (int64, error) {
	if before.IsZero() {
		newest, err := s.store.NewestInvoice(ctx)
		return max(newest, after), err
	}
	return s.store.NewestInvoiceBefore(ctx, after, before)
}

// batch reads what a receiver is offered.
func (s *Sender) batch(ctx context.Context, state db.Delivery) (Batch, error) {
	invoices, err := s.store.NewInvoices(ctx, state.LastID, state.OfferedID, maxListed)
	if err != nil {
		return Batch{}, err
	}
	byRole, err := s.store.CountNewInvoices(ctx, state.LastID, state.OfferedID)
	if err != nil {
		return Batch{}, err
	}
	// Not of the rows' ids alone: a database that was lost and made anew gives them
	// to other invoices.
	content := fmt.Appendln(nil, s.store.Mirror().ID, state.LastID, state.OfferedID)
	for _, invoice := range invoices {
		content = fmt.Appendln(content, invoice.KSeFNumber)
	}
	sum := sha256.Sum256(content)
	return Batch{
		Source: s.source, ID: hex.EncodeToString(sum[:16]),
		Invoices: invoices, Count: int(state.OfferedID - state.LastID), ByRole: byRole,
	}, nil
}

// take calls the receiver. A panic in it is its failure, and not the mirror's end.
func (s *Sender) take(ctx context.Context, r Receiver, b Batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("telling a receiver of new invoices panicked", "receiver", r.Name(), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("a mistake in ksefmirror: %v", p)
		}
	}()
	return r.Take(ctx, b)
}

// backoff is how long to wait after that many failures in a row.
func backoff(failures int) time.Duration {
	wait := firstBackoff
	for range failures - 1 {
		if wait *= 2; wait >= maxBackoff {
			return maxBackoff
		}
	}
	return wait
}

// shorten cuts what a receiver said to what is kept of it.
func shorten(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return printable(text)
}

// immediate is for receivers that are told at once.
type immediate struct{}

// Due gives zero times: at once.
func (immediate) Due(time.Time) (before, changes time.Time) { return }

// unlimited is the limit of a receiver that takes any number at once.
const unlimited = math.MaxInt
