package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// watchedFolders is how many folders of one tree are watched at most.
	watchedFolders = 64
	// rememberedNames is how many changed names of one tree are remembered at most.
	rememberedNames = 1000
)

// Watcher tells at once when others change files in trees. It is a hint and no more: systems watch only so many folders, lose
// events when many come, and see nothing of what other machines do on a shared disk. One Watcher serves all trees of
// a process, as systems allow only so many of them. Its methods may be called concurrently.
type Watcher struct {
	notify *fsnotify.Watcher
	quiet  time.Duration
	log    *slog.Logger
	ended  chan struct{}

	// changing is held while the set of folders changes; mu, which the events need, is
	// not: on Windows a folder is only added when the events before have been taken.
	changing sync.Mutex
	refused  bool // that the system watches no more was said

	mu      sync.Mutex
	folders map[string]*Watch // by the absolute path of a watched folder
}

// NewWatcher makes a Watcher that waits for quiet after a first change, so that whoever writes a file has finished it and
// many changes are told together. Close it when the last [Watch] is closed.
func NewWatcher(quiet time.Duration, log *slog.Logger) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	w := &Watcher{notify: notify, quiet: quiet, log: log, ended: make(chan struct{}), folders: map[string]*Watch{}}
	go w.run()
	return w, nil
}

// Close ends the watching.
func (w *Watcher) Close() error {
	err := w.notify.Close()
	<-w.ended
	return err
}

// Watch is what a [Watcher] watches of one tree.
type Watch struct {
	watcher *Watcher
	dir     string
	changed chan struct{}

	folders []string // absolute; guarded by the watcher's changing

	// Guarded by the watcher's mu.
	names    map[string]bool
	vanished bool
	timer    *time.Timer // nil when nothing is to be told
}

// Tree begins to watch a tree: its top, until Folders says more.
func (w *Watcher) Tree(t *Tree) *Watch {
	watch := &Watch{watcher: w, dir: t.dir, changed: make(chan struct{}, 1), names: map[string]bool{}}
	watch.Folders(nil)
	return watch
}

// Folders makes the folders of the given files, slash-separated and relative to the tree, those that are watched, with the
// ones above them: the first 64. Folders that are not there are left out. That the system refuses to watch more is said
// in the log, once for all trees.
func (watch *Watch) Folders(files []string) {
	wanted := map[string]bool{watch.dir: true}
	for _, file := range files {
		for folder := path.Dir(file); folder != "." && len(wanted) < watchedFolders; folder = path.Dir(folder) {
			wanted[filepath.Join(watch.dir, filepath.FromSlash(folder))] = true
		}
	}
	w := watch.watcher
	w.changing.Lock()
	defer w.changing.Unlock()
	for _, folder := range watch.folders {
		if !wanted[folder] {
			w.forget(folder)
		}
	}
	watch.folders = watch.folders[:0]
	// Those on top first: they tell when one below is renamed.
	for _, folder := range slices.Sorted(maps.Keys(wanted)) {
		// Again each time: a folder that was deleted and made anew is another one.
		w.set(folder, watch)
		if err := w.notify.Add(folder); err != nil {
			w.explain(folder, err)
			w.set(folder, nil)
			continue
		}
		watch.folders = append(watch.folders, folder)
	}
}

// explain says once that folders cannot be watched, unless they are not there. changing is held.
func (w *Watcher) explain(folder string, err error) {
	if errors.Is(err, fs.ErrNotExist) || w.refused {
		return
	}
	w.refused = true
	w.log.Warn("not every folder can be watched; what is changed in the others is found within a day. On Linux, fs.inotify.max_user_watches says how many", "folder", folder, "err", err)
}

// set has the events of a folder noted for a watch; nil: for none.
func (w *Watcher) set(folder string, watch *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if watch == nil {
		delete(w.folders, folder)
		return
	}
	w.folders[folder] = watch
}

// forget ends the watching of a folder. changing is held.
func (w *Watcher) forget(folder string) {
	w.set(folder, nil)
	_ = w.notify.Remove(folder) // it may have ended by itself, with the folder
}

// Changed is signalled, after the quiet, when there is something to Take.
func (watch *Watch) Changed() <-chan struct{} { return watch.changed }

// Take gives the names of files that others, or this process, have changed, made, renamed or deleted since the last call,
// without their folders, and whether a watched folder has gone. Of more than 1,000 names it gives 1,000.
func (watch *Watch) Take() (names []string, vanished bool) {
	watch.watcher.mu.Lock()
	defer watch.watcher.mu.Unlock()
	names, vanished = slices.Sorted(maps.Keys(watch.names)), watch.vanished
	clear(watch.names)
	watch.vanished = false
	return names, vanished
}

// Close ends the watching of the tree.
func (watch *Watch) Close() {
	w := watch.watcher
	w.changing.Lock()
	defer w.changing.Unlock()
	for _, folder := range watch.folders {
		w.forget(folder)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if watch.timer != nil {
		watch.timer.Stop()
	}
}

// run takes the events until the Watcher is closed.
func (w *Watcher) run() {
	defer close(w.ended)
	for {
		select {
		case event, open := <-w.notify.Events:
			if !open {
				return
			}
			w.note(event)
		case err, open := <-w.notify.Errors:
			if !open {
				return
			}
			w.log.Debug("changes in the watched folders were missed", "err", err)
		}
	}
}

// note remembers what an event tells, and has it told after the quiet.
func (w *Watcher) note(event fsnotify.Event) {
	if event.Op == fsnotify.Chmod {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename)
	watch := w.folders[event.Name]
	if watch == nil || !gone {
		if watch = w.folders[filepath.Dir(event.Name)]; watch == nil {
			return
		}
		if name := filepath.Base(event.Name); len(watch.names) < rememberedNames && NumberOf(name) != "" {
			watch.names[name] = true
		}
	} else {
		watch.vanished = true
	}
	if watch.timer == nil && (watch.vanished || len(watch.names) > 0) {
		watch.timer = time.AfterFunc(w.quiet, watch.tell)
	}
}

// tell signals that there is something to take.
func (watch *Watch) tell() {
	watch.watcher.mu.Lock()
	watch.timer = nil
	watch.watcher.mu.Unlock()
	select {
	case watch.changed <- struct{}{}:
	default: // told already
	}
}
