package sync_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ksefmirror/internal/ksefsim"
	"ksefmirror/internal/tree"
)

// nextDay is a day later, when the audits begin anew.
func (w *world) nextDay() { w.clock.advance(24 * time.Hour) }

// A mirror's own files are looked after as package audit says: as soon as the
// watcher tells, and by the audit of the next day.
func TestMirrorHealsItsFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(10, time.Hour, 81)...)
	watcher, err := tree.NewWatcher(50*time.Millisecond, w.options.Log)
	if err != nil {
		t.Skipf("this system watches no folders: %v", err)
	}
	t.Cleanup(func() {
		if err := watcher.Close(); err != nil {
			t.Error(err)
		}
	})
	w.options.Watcher = watcher
	m := w.open()
	if _, err := m.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.AuditDue(t.Context(), w.clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	invoices := filepath.Join(w.dir, "invoices")
	remove := func() string {
		t.Helper()
		path := filepath.Join(invoices, files(t, invoices)[0])
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path := remove(); ; { // what was written by the cycle is told of as well
		select {
		case <-m.Changed():
		case <-time.After(20 * time.Second):
			t.Fatal("the watcher did not tell")
		}
		if err := m.Heal(t.Context(), w.clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.check()
	w.options.Watcher = nil
	remove()
	w.nextDay()
	m = w.open()
	if err := errors.Join(m.AuditDue(t.Context(), w.clock.Now().Add(time.Hour)), m.Close()); err != nil {
		t.Fatal(err)
	}
	w.check()
}
