package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		t.Skipf("the system keeps a watched folder in its place: %v", err)
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

// That the system watches no more is said once, whatever the number of folders, and
// of a folder that is not there nothing is said.
func TestWatchSaysOnceThatItIsRefused(t *testing.T) {
	var log strings.Builder
	w := &Watcher{log: slog.New(slog.NewTextHandler(&log, nil))}
	w.explain("gone", &os.PathError{Op: "inotify_add_watch", Path: "gone", Err: fs.ErrNotExist})
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
	for range 3 {
		w.explain("folder", errors.New("no space left on device"))
	}
	if strings.Count(log.String(), "max_user_watches") != 1 {
		t.Errorf("log: %s", &log)
	}
}

// Of many folders the first are watched, and those that are wanted no more are let
// go, so that the system's number is not used up.
func TestWatchIsBounded(t *testing.T) {
	dir, watch := newWatched(t)
	var files []string
	for i := range 2 * watchedFolders {
		folder := fmt.Sprintf("f%03d", i)
		if err := os.Mkdir(filepath.Join(dir, folder), 0o750); err != nil {
			t.Fatal(err)
		}
		files = append(files, folder+"/a.xml")
	}
	watch.Folders(files)
	if got := len(watch.watcher.notify.WatchList()); got != watchedFolders {
		t.Errorf("%d folders are watched", got)
	}
	watch.Folders(files[:2])
	if got := watch.watcher.notify.WatchList(); len(got) != 3 || len(watch.watcher.folders) != 3 {
		t.Errorf("watched: %v", got)
	}
}

// Folders come under watch while so much happens in them that the system's queue of
// events is full: neither waits for the other for good.
func TestWatchFoldersWhileMuchHappens(t *testing.T) {
	dir, watch := newWatched(t)
	file := "sales/2026/11/2026-11-05_FV-1_" + watchedNumber + ".xml"
	folder := filepath.Dir(filepath.Join(dir, filepath.FromSlash(file)))
	done := make(chan error)
	go func() {
		for i := range 300 {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i, ".txt")), nil, 0o600); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	go func() {
		for range 50 {
			watch.Folders([]string{file})
		}
		done <- nil
	}()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			panic("watching stands still") // and so would all that ends the test
		}
	}
}
