package sync_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// A mirror in which nothing is new is asked with one connection to its database, and
// rests without any: the daemon keeps hundreds.
func TestIdleMirrorNeedsOneConnection(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(5, time.Hour, 1)...)
	w.options.Receivers = []string{"webhook"}
	m, err := ksefsync.Open(t.Context(), w.options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	for cycle := range 3 {
		if _, err := m.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.AuditDue(t.Context(), w.clock.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := m.BackUpDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReconcileDue(t.Context(), w.clock.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if open := openFiles(t, ksefsync.DatabasePath(w.dir)); cycle > 0 && open != 1 {
			t.Errorf("cycle %d: %d connections", cycle, open)
		}
		m.Rest()
		if open := openFiles(t, filepath.Dir(ksefsync.DatabasePath(w.dir))); open != 0 {
			t.Errorf("%d files of the database are open at rest", open)
		}
		w.clock.advance(15 * time.Minute)
	}
	w.check()
}

// openFiles counts how often this process has the file at a path open, or files below
// the folder there.
func openFiles(t *testing.T, path string) (open int) {
	t.Helper()
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		// One that is closed meanwhile, by another test, cannot be read any more.
		if file, _ := os.Readlink(filepath.Join(own, entry.Name())); file == path || strings.HasPrefix(file, path+"/") {
			open++
		}
	}
	return open
}
