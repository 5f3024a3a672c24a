// Package filewatch says when a file may have changed: at once where the system
// tells, and every minute in any case, so that nothing depends on it.
package filewatch

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing may happen before look is called: editors write,
	// rename and delete several times.
	quiet = 500 * time.Millisecond
	// every is how often it is called whatever happens, and a folder is watched that
	// was not there or could not be watched.
	every = time.Minute
)

// Watch calls look whenever the file at path may have changed, until ctx ends. It is
// the folder that is watched, for editors and Kubernetes replace files and links
// rather than write to them. That a folder cannot be watched, as when the system's
// limit of watches is reached, is logged once: then look is called every minute
// only, as it is on network drives.
func Watch(ctx context.Context, log *slog.Logger, path string, look func()) {
	w := watch{folder: filepath.Dir(path), log: log, start: fsnotify.NewWatcher}
	w.run(ctx, look)
}

func (w *watch) run(ctx context.Context, look func()) {
	defer w.close()
	w.renew()
	settled := time.NewTimer(quiet)
	settled.Stop()
	defer settled.Stop()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		events, errs := w.channels()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.renew()
			look()
		case _, open := <-events:
			if !open {
				w.close()
			}
			settled.Reset(quiet)
		case err := <-errs:
			w.log.Debug("events of the folder may have been lost", "err", err)
			settled.Reset(quiet)
		case <-settled.C:
			w.renew() // what happened may be that the folder was replaced
			look()
		}
	}
}

// watch is the watch of a folder, which may come and go.
type watch struct {
	folder  string
	log     *slog.Logger
	start   func() (*fsnotify.Watcher, error)
	watcher *fsnotify.Watcher // nil: it is not watched
	of      fs.FileInfo       // the folder that is
	failed  bool              // which has been logged
}

func (w *watch) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.watcher == nil {
		return nil, nil
	}
	return w.watcher.Events, w.watcher.Errors
}

// renew watches the folder that is at its place now.
func (w *watch) renew() {
	is, err := os.Stat(w.folder)
	if err == nil && w.watcher != nil && os.SameFile(is, w.of) {
		return
	}
	w.close()
	if err != nil {
		return // whoever reads the file will say so
	}
	w.watcher, err = w.start()
	if err == nil {
		err = w.watcher.Add(w.folder)
	}
	if err == nil {
		w.of, w.failed = is, false
		return
	}
	w.close()
	if !w.failed {
		w.log.Warn("the folder of the configuration cannot be watched; it is looked at every minute instead", "folder", w.folder, "err", err)
		w.failed = true
	}
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // it was only read from
	}
	w.watcher = nil
}
