// Package tree keeps the folder tree of invoices that people browse: durable files which are never overwritten, and
// the rules by which they are named. It knows nothing of what is in the files.
//
// A file appears under its final name whole or not at all, and is on the disk when [Tree.Put] returns. People may edit,
// move or delete files at any time; what they changed is never lost through this package.
package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// temporaryFolder lies inside the tree because a rename works only within one file system.
	temporaryFolder = ".ksefmirror-tmp"

	// Users read the tree through the group of the service's account; nobody else may see invoices.
	fileMode   fs.FileMode = 0o640
	folderMode fs.FileMode = 0o750

	// maxReadSize protects memory from whatever a person put in place of an invoice. KSeF takes invoices of at most 3 MB
	// (limity-api.md), so it is far above every real one.
	maxReadSize = 64 << 20

	// flushTogetherFrom is the number of files from which one flush of the whole file system, which writes other programs'
	// data too, is used instead of one per file.
	flushTogetherFrom = 8
)

// Tree is an open folder tree. Its methods may be called concurrently; concurrent calls of Put take turns. At most one
// process at a time may call Put or Create on a folder, any number may read it.
type Tree struct {
	dir  string // absolute
	id   string
	root *os.Root

	put sync.Mutex // held by Put: the temporary folder belongs to one call at a time

	// fault is called before each step that changes the disk; an error is returned in place of the step. Tests stop Put
	// everywhere with it; it is nil otherwise.
	fault func(step, name string) error
}

// File is a file to store. Path is slash-separated and relative to the tree.
type File struct {
	Path    string
	Content []byte
}

// Kept tells that another file, or something that is no file, was in the way at Path and is now at Beside.
type Kept struct{ Path, Beside string }

// Entry is a file of the tree. Path is slash-separated and relative to the tree, Size is in bytes.
type Entry struct {
	Path    string
	Size    int64
	ModTime time.Time
}

// Open opens the tree in the folder dir. The error is [ErrNotMounted] when its marker is missing; there is also an
// error when the marker carries another id. Open changes nothing, so that a tree on a read-only volume can be read.
func Open(dir, id string) (*Tree, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open tree %s: %w", dir, ErrNotMounted)
	}
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir, err)
	}
	t := &Tree{dir: dir, id: id, root: root}
	if err := t.Usable(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close releases the folder. The tree cannot be used afterwards.
func (t *Tree) Close() error { return t.root.Close() }

// Usable says whether the tree is still there: the path leads to the folder that was opened, and its marker carries the
// id. The error is [ErrNotMounted] when that is no longer so. It reads one small file.
func (t *Tree) Usable() error {
	// An unmounted volume, or a folder moved away, stays reachable through the handle that we hold.
	atPath, err := os.Stat(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("use tree %s: %w", t.dir, ErrNotMounted)
	}
	if err != nil {
		return fmt.Errorf("use tree %s: %w", t.dir, err)
	}
	held, err := t.root.Stat(".")
	if err != nil {
		return fmt.Errorf("use tree %s: %w", t.dir, err)
	}
	if !os.SameFile(atPath, held) {
		return fmt.Errorf("use tree %s: the path leads to another folder since it was opened: %w", t.dir, ErrNotMounted)
	}
	found, err := ID(t.dir)
	switch {
	case err != nil:
		return fmt.Errorf("use tree: %w", err)
	case found == "":
		return fmt.Errorf("use tree %s: %w", t.dir, ErrNotMounted)
	case found != t.id:
		return fmt.Errorf("use tree %s: it belongs to the mirror %q, not to %q; check the folder in the configuration", t.dir, found, t.id)
	}
	return nil
}

// Put stores files. When it returns without an error, all of them are on the disk: content, names and new folders. A file
// that is there already with the same bytes is a success. Anything else under the name is renamed, never changed, and
// reported; that list is valid beside an error too. After an error some of the files may be stored, each of them whole;
// calling Put again completes the work. When the disk is full or read-only, the error tells so and matches the system's
// (on Unix syscall.ENOSPC and syscall.EROFS).
//
// On Linux the system calls for one or a few files are, in this order (mkdirat, unlinkat of old temporaries as needed):
//
//	openat(O_CREAT|O_EXCL) write… fsync close    each temporary file
//	linkat unlinkat                              each file gets its final name; linkat never replaces
//	fsync…                                       each folder from the file up to the top
//
// and for many files on a file system that can be flushed as a whole:
//
//	openat(O_CREAT|O_EXCL) write… close          all temporary files
//	syncfs
//	linkat unlinkat                              all files get their final names
//	syncfs
//
// A crash before a final name is given leaves temporary files, which the next Put removes. A crash later leaves whole files
// under their final names, some of which may vanish with a power cut. The caller has not been told of any of them: it asks
// for the same files again, and those found here are made durable then.
func (t *Tree) Put(ctx context.Context, files ...File) ([]Kept, error) {
	t.put.Lock()
	defer t.put.Unlock()
	if err := t.Usable(); err != nil {
		return nil, err
	}
	// All names are checked before anything is written.
	for _, file := range files {
		if err := checkPath(file.Path); err != nil {
			return nil, fmt.Errorf("store files: %w", err)
		}
	}
	kept, err := t.putAll(ctx, files)
	if err != nil {
		return kept, fmt.Errorf("store files: %w", explain(err))
	}
	return kept, nil
}

func (t *Tree) putAll(ctx context.Context, files []File) (kept []Kept, err error) {
	if err := t.prepareTemporaries(); err != nil {
		return nil, err
	}
	var flush func() error // nil: every file and folder is flushed by itself
	if len(files) >= flushTogetherFrom {
		// Opened before the first write, because it reports the failed writes since then.
		volume, release := openVolume(t.root)
		defer release()
		flush = volume
	}

	temporaries := make(map[int]string, len(files)) // by index in files; a file that is stored already has none
	defer func() {
		// What cannot be removed now is removed by the next Put. After a success there is nothing left.
		for _, temporary := range temporaries {
			_ = t.root.Remove(temporary)
		}
	}()
	for i, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		stored, err := t.holds(file)
		if err != nil {
			return nil, err
		}
		if !stored {
			temporaries[i], err = t.writeTemporary(file.Content, flush == nil)
		} else if flush == nil {
			err = t.sync(file.Path)
		}
		if err != nil {
			return nil, err
		}
	}
	if flush != nil {
		if err := t.flush(flush); err != nil {
			return nil, err
		}
	}

	// From here on final names are given, to content that is on the disk.
	made := map[string]bool{} // folders that are there
	for i, file := range files {
		temporary, ok := temporaries[i]
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return kept, err
		}
		if folder := path.Dir(file.Path); !made[folder] {
			if err := t.makeFolder(folder); err != nil {
				return kept, err
			}
			made[folder] = true
		}
		moved, err := t.place(ctx, temporary, file)
		kept = append(kept, moved...)
		if err != nil {
			return kept, err
		}
		delete(temporaries, i)
	}

	if flush != nil {
		return kept, t.flush(flush)
	}
	// Every folder up to the top, not only those made by this call: an earlier call may have made some and crashed before it
	// got here.
	folders := map[string]bool{}
	for _, file := range files {
		for folder := path.Dir(file.Path); !folders[folder]; folder = path.Dir(folder) {
			folders[folder] = true
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		if err := t.sync(folder); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// checkPath refuses what could leave the tree, what Windows cannot store and what belongs to this package.
func checkPath(name string) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%q is not a path inside the tree", name)
	}
	if _, err := filepath.Localize(name); err != nil {
		return fmt.Errorf("%q cannot be stored on this system: %w", name, err)
	}
	if top, _, _ := strings.Cut(name, "/"); isOwn(top) {
		return fmt.Errorf("%q is a name that ksefmirror keeps for itself", name)
	}
	return nil
}

// isOwn says whether a name at the top of the tree is the marker or the folder of temporaries, on a file system that
// ignores case too.
func isOwn(top string) bool {
	return strings.EqualFold(top, markerName) || strings.EqualFold(top, temporaryFolder)
}

// holds says whether the tree has the file with these very bytes. A symbolic link is never the file, whatever it leads to.
func (t *Tree) holds(file File) (bool, error) {
	info, err := t.root.Lstat(file.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(len(file.Content)) {
		return false, nil
	}
	content, err := t.root.ReadFile(file.Path)
	return err == nil && bytes.Equal(content, file.Content), err
}

// prepareTemporaries makes the folder of temporaries and removes what an earlier call left there.
func (t *Tree) prepareTemporaries() error {
	err := t.step("mkdir", temporaryFolder)
	if err == nil {
		err = t.root.Mkdir(temporaryFolder, folderMode)
	}
	if err == nil {
		hide(filepath.Join(t.dir, temporaryFolder))
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := fs.ReadDir(t.root.FS(), temporaryFolder)
	for _, entry := range entries {
		// One that cannot be removed, as a virus scanner has it open, waits for the next call. It is in nobody's way: names
		// of temporaries are random.
		_ = t.root.RemoveAll(path.Join(temporaryFolder, entry.Name()))
	}
	return err
}

// writeTemporary writes content into a new temporary file, on the disk if durable is set, and gives its name. After an
// error there is no such file.
func (t *Tree) writeTemporary(content []byte, durable bool) (name string, err error) {
	name = path.Join(temporaryFolder, rand.Text())
	if err := t.step("create", name); err != nil {
		return "", err
	}
	file, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return "", err
	}
	err = t.step("write", name)
	if err == nil {
		_, err = file.Write(content)
	}
	if err == nil && durable {
		if err = t.step("sync", name); err == nil {
			err = file.Sync()
		}
	}
	// Closed before it is renamed: Windows refuses to rename an open file.
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, t.root.Remove(name))
	}
	return name, nil
}

func (t *Tree) makeFolder(name string) error {
	if err := t.step("mkdir", name); err != nil {
		return err
	}
	return t.root.MkdirAll(name, folderMode)
}

// place gives the temporary file its final name, in a folder that is there. If the same bytes came up there in the
// meantime, it removes the temporary. A crash between the two renames leaves the name free and the other file beside it;
// then no call reports that file, but Walk finds it.
func (t *Tree) place(ctx context.Context, temporary string, file File) (kept []Kept, err error) {
	for {
		err := t.rename(ctx, temporary, file.Path)
		if !errors.Is(err, fs.ErrExist) {
			return kept, err
		}
		stored, err := t.holds(file)
		if stored {
			_ = t.root.Remove(temporary) // or the next Put does
		}
		if stored || err != nil {
			return kept, err
		}
		beside, err := t.keepBeside(ctx, file.Path)
		if err != nil {
			return kept, err
		}
		kept = append(kept, Kept{Path: file.Path, Beside: beside})
	}
}

// keepBeside renames whatever is at name.xml to the first free of name.kept-1.xml, name.kept-2.xml and so on.
func (t *Tree) keepBeside(ctx context.Context, name string) (beside string, err error) {
	extension := path.Ext(name)
	stem := strings.TrimSuffix(name, extension)
	for n := 1; ; n++ {
		beside := stem + ".kept-" + strconv.Itoa(n) + extension
		err := t.rename(ctx, name, beside)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		return beside, err
	}
}

// IsKept says whether name is one that Put gives to a file that was in the way. No [Layout] gives such a name.
func IsKept(name string) bool { return keptName.MatchString(name) }

var keptName = regexp.MustCompile(`\.kept-[1-9][0-9]*(\.[^./]*)?$`)

// rename renames without replacing: the error is fs.ErrExist when anything is at to.
func (t *Tree) rename(ctx context.Context, from, to string) error {
	if err := t.step("rename", to); err != nil {
		return err
	}
	return t.renameNoReplace(ctx, from, to)
}

// sync makes a file or a folder's list of names durable.
func (t *Tree) sync(name string) error {
	if err := t.step("sync", name); err != nil {
		return err
	}
	return syncPath(t.root, name)
}

func (t *Tree) flush(flush func() error) error {
	if err := t.step("sync", "volume"); err != nil {
		return err
	}
	return flush()
}

func (t *Tree) step(step, name string) error {
	if t.fault == nil {
		return nil
	}
	return t.fault(step, name)
}

// Read gives the content of a file of at most 64 MiB. The error is [fs.ErrNotExist] when there is none.
func (t *Tree) Read(name string) ([]byte, error) {
	if err := checkPath(name); err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	// Opening a named pipe would wait for ever, so the kind of file is asked for first.
	info, err := t.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read file %s: it is no regular file but %s", name, info.Mode().Type())
	}
	file, err := t.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxReadSize+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if len(content) > maxReadSize {
		return nil, fmt.Errorf("read file %s: it is larger than %d MiB, so it is no invoice", name, maxReadSize>>20)
	}
	return content, nil
}

// Stat gives a file's size and when it was last changed, without reading it. The error is [fs.ErrNotExist] when there is
// none; there is also one for what is no regular file.
func (t *Tree) Stat(name string) (Entry, error) {
	if err := checkPath(name); err != nil {
		return Entry{}, fmt.Errorf("look at file: %w", err)
	}
	info, err := t.root.Lstat(name)
	if err != nil {
		return Entry{}, fmt.Errorf("look at file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Entry{}, fmt.Errorf("look at file %s: it is no regular file but %s", name, info.Mode().Type())
	}
	return Entry{Path: name, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// Walk gives every regular file of the tree in lexical order, but not the marker and the temporaries. A folder or file that
// cannot be read is given as an error together with its path, and the walk goes on. When the tree is not usable, the
// only thing given is [Tree.Usable]'s error: an unmounted volume must not look like a tree from which everything was
// deleted.
func (t *Tree) Walk() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := t.Usable(); err != nil {
			yield(Entry{}, err)
			return
		}
		give := func(entry Entry, err error) error {
			if !yield(entry, err) {
				return fs.SkipAll
			}
			return nil
		}
		// The function given to WalkDir returns nothing but SkipDir and SkipAll, so neither does WalkDir return an error.
		_ = fs.WalkDir(t.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return give(Entry{Path: name}, fmt.Errorf("walk tree: %w", err))
			case isOwn(name) && entry.IsDir():
				return fs.SkipDir
			case isOwn(name) || !entry.Type().IsRegular():
				return nil
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted since its folder was read
			}
			if err != nil {
				return give(Entry{Path: name}, fmt.Errorf("walk tree: %w", err))
			}
			return give(Entry{Path: name, Size: info.Size(), ModTime: info.ModTime()}, nil)
		})
	}
}
