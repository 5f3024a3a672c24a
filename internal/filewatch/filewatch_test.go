package filewatch

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watching is a watch of a file, and what it said.
func watching(t *testing.T, path string) (looks <-chan struct{}, end func()) {
	t.Helper()
	all := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	started := make(chan struct{})
	running.Go(func() {
		close(started)
		Watch(ctx, slog.New(slog.DiscardHandler), path, func() { all <- struct{}{} })
	})
	<-started
	return all, func() { cancel(); running.Wait() }
}

// Every way in which editors and systems replace a file is noticed within seconds,
// and as one change.
func TestNoticesAtOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("renames of open folders are not Windows's")
	}
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(time.Now().String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, dir, file string){
		"written": func(t *testing.T, _, file string) { write(t, file) },
		"replaced, in several steps": func(t *testing.T, _, file string) {
			rename(t, file, file+"~")
			write(t, file+".new")
			rename(t, file+".new", file)
			if err := os.Remove(file + "~"); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(t *testing.T, _, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"link swapped": func(t *testing.T, dir, _ string) {
			if err := os.Symlink("v2", filepath.Join(dir, "..tmp")); err != nil {
				t.Fatal(err)
			}
			rename(t, filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data"))
		},
		"folder replaced": func(t *testing.T, dir, file string) {
			rename(t, dir, dir+".old")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, file)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "conf")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "config.toml")
			write(t, file)
			looks, end := watching(t, file)
			defer end()
			// The watch begins at some moment; from the first answer on it is there.
			probe := filepath.Join(dir, "probe")
			for there := false; !there; {
				write(t, probe)
				select {
				case <-looks:
					there = true
				case <-time.After(2 * quiet):
				}
			}
			change(t, dir, file)
			select {
			case <-looks:
			case <-time.After(20 * time.Second):
				t.Fatal("it was not noticed")
			}
			// What comes after is noticed too, in the folder that is there now.
			write(t, file)
			select {
			case <-looks:
			case <-time.After(20 * time.Second):
				t.Error("what came after was not noticed")
			}
		})
	}
}

// Where a folder is not there or cannot be watched it is said once, and looked all the
// same.
func TestRenew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	var log bytes.Buffer
	w := watch{folder: dir, log: slog.New(slog.NewTextHandler(&log, nil)), start: fsnotify.NewWatcher}
	defer w.close()
	w.renew()
	if w.watcher != nil || log.Len() != 0 {
		t.Errorf("a folder that is not there is watched: %s", &log)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.renew()
	first := w.watcher
	w.renew()
	if first == nil || w.watcher != first {
		t.Error("the folder that came is not watched, or anew each time")
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	w.renew()
	if w.watcher != nil {
		t.Error("the folder that has gone is watched on")
	}
}

// At the system's limit of watches it is looked every minute, and that is said once.
func TestLooksEveryMinuteWithoutAWatch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := watch{folder: dir, log: slog.New(slog.NewTextHandler(&log, nil)), start: func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		looks := 0
		w.run(ctx, func() { looks++ })
		if said := bytes.Count(log.Bytes(), []byte("\n")); looks != 10 || said != 1 {
			t.Errorf("looked %d times in ten minutes, and said %d times why: %s", looks, said, &log)
		}
	})
}
