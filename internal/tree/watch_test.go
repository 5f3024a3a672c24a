package tree

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const watchedNumber = "5265877635-20261105-0100001AF629-AF"

// newWatched gives a tree with one file, and what a Watcher that waits next to
// nothing sees of it.
func newWatched(t *testing.T) (dir string, watch *Watch) {
	t.Helper()
	tree := newTree(t)
	file := "sales/2026/11/2026-11-05_FV-1_" + watchedNumber + ".xml"
	if _, err := tree.Put(t.Context(), File{Path: file, Content: []byte("<a/>")}); err != nil {
		t.Fatal(err)
	}
	watcher, err := NewWatcher(20*time.Millisecond, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Skipf("this system watches no folders: %v", err)
	}
	t.Cleanup(func() {
		if err := watcher.Close(); err != nil {
			t.Error(err)
		}
	})
	watch = watcher.Tree(tree)
	t.Cleanup(watch.Close)
	watch.Folders([]string{file, "sales/2026/12/not-there.xml"})
	return tree.dir, watch
}

// told waits until the watch has something to tell.
func told(t *testing.T, watch *Watch) (names []string, vanished bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-watch.Changed():
	case <-ctx.Done():
		t.Fatal("nothing was told")
	}
	return watch.Take()
}

func TestWatchTells(t *testing.T) {
	name := "2026-11-05_FV-1_" + watchedNumber + ".xml"
	for what, change := range map[string]func(folder string) error{
		"edited": func(folder string) error { return os.WriteFile(filepath.Join(folder, name), []byte("<b/>"), 0o600) },
		"renamed": func(folder string) error {
			return os.Rename(filepath.Join(folder, name), filepath.Join(folder, "b.xml"))
		},
		"deleted":  func(folder string) error { return os.Remove(filepath.Join(folder, name)) },
		"replaced": func(folder string) error { return replace(folder, name) },
	} {
		t.Run(what, func(t *testing.T) {
			dir, watch := newWatched(t)
			if err := change(filepath.Join(dir, "sales", "2026", "11")); err != nil {
				t.Fatal(err)
			}
			if names, vanished := told(t, watch); !slices.Equal(names, []string{name}) || vanished {
				t.Errorf("told %q, %v", names, vanished)
			}
			if names, vanished := watch.Take(); len(names) > 0 || vanished {
				t.Errorf("told twice: %q, %v", names, vanished)
			}
		})
	}
}

// replace puts another file in the place of the one with that name, as most editors
// save.
func replace(folder, name string) error {
	other := filepath.Join(folder, "~saved")
	if err := os.WriteFile(other, []byte("<b/>"), 0o600); err != nil {
		return err
	}
	return os.Rename(other, filepath.Join(folder, name))
}

// A folder that goes takes its files with it, whatever is known of them.
func TestWatchTellsOfFolders(t *testing.T) {
	dir, watch := newWatched(t)
	if err := os.Rename(filepath.Join(dir, "sales", "2026"), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if _, vanished := told(t, watch); !vanished {
		t.Error("a renamed folder was not told")
	}
}

// What people keep in the folder themselves is nobody's business.
func TestWatchIgnoresOthers(t *testing.T) {
	dir, watch := newWatched(t)
	folder := filepath.Join(dir, "sales", "2026", "11")
	for _, name := range []string{"~$list.xlsx", "notes.txt", "sums.xml"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	mine := watchedNumber + ".xml" // comes last, so that all before it were seen
	if err := os.WriteFile(filepath.Join(folder, mine), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if names, vanished := told(t, watch); !slices.Equal(names, []string{mine}) || vanished {
		t.Errorf("told %q, %v", names, vanished)
	}
}

func TestNumberOf(t *testing.T) {
	for name, want := range map[string]string{
		"2026-11-05_ACME_FV-1_" + watchedNumber + ".xml": watchedNumber,
		watchedNumber + ".xml":                           watchedNumber,
		"sales/" + watchedNumber + ".xml":                watchedNumber,
		"a_" + watchedNumber + ".kept-1.xml":             "",
		"a_" + watchedNumber + ".xml.bak":                "",
		"a-" + watchedNumber + ".xml":                    "",
		"a_5265877635-20261105-0100001AF629-ZZ.xml":      "",
		"":      "",
		".xml":  "",
		"_.xml": "",
		"a_" + watchedNumber + "_5265877635-20261106-0100001AF629-AF.xml": "5265877635-20261106-0100001AF629-AF",
	} {
		if got := NumberOf(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	layout, err := ParseLayout(DefaultLayout)
	if err != nil {
		t.Fatal(err)
	}
	if got := NumberOf(layout.Path(Name{Number: watchedNumber, Role: "seller", IssueDate: "2026-11-05", Counterparty: "A_B", InvoiceNumber: "FV_1"})); got != watchedNumber {
		t.Errorf("of a path that the layout gives: %q", got)
	}
}
