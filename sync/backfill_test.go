package sync_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// hour runs cycles as the daemon would, for an hour of the world's clock: again
// when the limits allow, or after a quarter of an hour. It gives how many invoices
// were stored.
func (w *world) hour() (stored int) {
	w.tb.Helper()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			w.tb.Error(err)
		}
	}()
	end := w.clock.Now().Add(time.Hour)
	for w.clock.Now().Before(end) {
		report, err := m.Cycle(w.tb.Context())
		stored += added(report)
		next := w.clock.Now().Add(15 * time.Minute)
		if budget := asBudget(err); budget != nil {
			next = budget.Until
		} else if err != nil {
			w.tb.Fatal(err)
		}
		if next.After(end) {
			next = end
		}
		w.clock.advance(next.Sub(w.clock.Now()))
	}
	return stored
}

// A backlog comes as fast as KSeF's limits allow and no faster: in its first hour
// by 95 % of the packages that KSeF makes in an hour, full ones, and without one
// answer 429. At KSeF's own size of a package that is 200,000 invoices an hour.
func TestBackfillUsesTheHour(t *testing.T) {
	slow(t)
	t.Parallel()
	const perHour, perPackage = 20, 50
	for name, roles := range map[string][]string{"one role": {"buyer"}, "all roles": roles} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := backlog(t, 5*perHour*perPackage/2, ksefsim.Options{Limits: ksef.DefaultLimits(), PackageCap: perPackage})
			w.options.Roles = roles
			stored := w.hour()
			stats := w.sim.Stats()
			t.Logf("in the first hour %d invoices by %d packages, %d queries and %d downloads", stored,
				stats.ByGroup[ksef.GroupExport], stats.ByGroup[ksef.GroupMetadata], stats.ByGroup[ksef.GroupDownload])
			if used := stats.ByGroup[ksef.GroupExport]; used < perHour*95/100 || stored < used*perPackage*95/100 {
				t.Errorf("%d of %d packages, %d invoices", used, perHour, stored)
			}
			for range 3 {
				w.hour()
			}
			if left := w.sim.Stats().TooMany; left != 0 {
				t.Errorf("%d answers 429", left)
			}
			if name == "all roles" {
				w.complete()
			}
		})
	}
}

// The limits are those of each company: 300 mirrors side by side take nothing from
// each other. In less than an hour each has its own invoices, by an export of its
// own, which is many times what KSeF allows one company.
func TestMirrorsSideBySide(t *testing.T) {
	t.Parallel()
	companies, invoices := 300, 40
	if testing.Short() {
		companies = 40
	}
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	mirrors := make([]ksef.Context, companies)
	for i := range mirrors {
		mirrors[i] = ksef.Context{Type: ksef.ContextNIP, Value: fmt.Sprintf("52%08d", 10_000_000+i)}
		w.sim.AddToken(mirrors[i], token+mirrors[i].Value)
		to := w.clock.Now().Add(-time.Hour)
		w.add(ksefsim.Generate(ksefsim.GenerateOptions{Count: invoices, Context: mirrors[i], From: to.Add(-time.Hour), To: to, Seed: uint64(i)})...)
	}
	dir := t.TempDir()
	var group errgroup.Group
	group.SetLimit(8)
	for i, owner := range mirrors {
		group.Go(func() error { return w.mirrorOf(t.Context(), owner, filepath.Join(dir, fmt.Sprint(i))) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	stats := w.sim.Stats()
	took := w.clock.Now().Sub(start)
	t.Logf("%s for %d queries and %d packages", took, stats.ByGroup[ksef.GroupMetadata], stats.ByGroup[ksef.GroupExport])
	if took >= time.Hour {
		t.Errorf("it took %s, in which one company's budget may have served several", took)
	}
	if stats.TooMany != 0 || stats.ByGroup[ksef.GroupExport] < companies {
		t.Errorf("%d answers 429, %d packages", stats.TooMany, stats.ByGroup[ksef.GroupExport])
	}
}

// mirrorOf mirrors what a company sees as buyer and as seller, by one cycle, and
// checks that it is all there and nothing of another company.
func (w *world) mirrorOf(ctx context.Context, owner ksef.Context, dir string) error {
	options := w.options
	options.Dir, options.Context, options.Roles, options.Log = dir, owner, []string{"seller", "buyer"}, slog.New(slog.DiscardHandler)
	options.Since = start.Add(-48 * time.Hour)
	options.Remote = func(log ksef.RequestLog) ksefsync.Remote {
		client := w.client(log)
		client.Context = owner
		client.Token = func() (ksef.Secret, error) { return ksef.NewSecret(token + owner.Value), nil }
		return client
	}
	m, err := ksefsync.Open(ctx, options)
	if err != nil {
		return err
	}
	report, err := m.Cycle(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w: %+v", dir, err, report)
	}
	if err := m.Close(); err != nil {
		return err
	}
	d, err := db.OpenReadOnly(ctx, ksefsync.DatabasePath(dir))
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	want := map[string]bool{}
	for _, subject := range []ksef.SubjectType{ksef.Seller, ksef.Buyer} {
		for _, s := range w.sim.Listed(owner, subject) {
			want[string(s.Number)] = true
		}
	}
	for file, err := range d.Files(ctx) {
		if err != nil {
			return err
		}
		if !want[file.KSeFNumber] {
			return fmt.Errorf("%s: %s is not its own", dir, file.KSeFNumber)
		}
		delete(want, file.KSeFNumber)
	}
	if len(want) > 0 {
		return fmt.Errorf("%s: %d invoices are missing", dir, len(want))
	}
	return nil
}
