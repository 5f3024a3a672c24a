package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/windows"
)

// patience is how long Put waits for a virus scanner or indexer to let go of a file. They open what is new for some
// milliseconds, rarely for seconds.
const patience = 5 * time.Second

// renameNoReplace renames with MoveFileEx, which never replaces unless asked to and, with WRITE_THROUGH, returns when the
// new name is on the disk. It goes by path, as the system has no such call relative to a folder; that the path does not
// leave the tree was seen by the os.Root calls before it.
func (t *Tree) renameNoReplace(ctx context.Context, from, to string) error {
	oldPath, newPath := filepath.Join(t.dir, filepath.FromSlash(from)), filepath.Join(t.dir, filepath.FromSlash(to))
	oldName, err := windows.UTF16PtrFromString(oldPath)
	if err != nil {
		return err
	}
	newName, err := windows.UTF16PtrFromString(newPath)
	if err != nil {
		return err
	}
	err = retryWhileInUse(ctx, func() error { return windows.MoveFileEx(oldName, newName, windows.MOVEFILE_WRITE_THROUGH) })
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// retryWhileInUse calls try until its error is no longer that the file is in use, for as long as patience.
func retryWhileInUse(ctx context.Context, try func() error) error {
	deadline := time.Now().Add(patience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := try()
		if !inUse(err) || time.Now().Add(wait).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// inUse says whether another program has the file open. Windows says "access denied" for that too, for example while a
// deleted file is still open.
func inUse(err error) bool {
	return errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION) ||
		errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}

// syncPath does nothing: Windows has no flush of a folder, and a file that has its final name was flushed before it was
// renamed with WRITE_THROUGH.
func syncPath(*os.Root, string) error { return nil }

// hide makes the Explorer hide a folder, as a leading dot does not.
func hide(path string) {
	// It is of no consequence when that fails: the folder is a little in the way of people, and of nothing else.
	if name, err := windows.UTF16PtrFromString(path); err == nil {
		_ = windows.SetFileAttributes(name, windows.FILE_ATTRIBUTE_DIRECTORY|windows.FILE_ATTRIBUTE_HIDDEN)
	}
}

// FreeSpace gives the bytes that this process may still write to the disk of the folder dir.
func FreeSpace(dir string) (uint64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, nil, nil); err != nil {
		return 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: dir, Err: err}
	}
	return free, nil
}

// explain adds to an error of the disk what a person can do about it.
func explain(err error) error {
	switch {
	case errors.Is(err, windows.ERROR_DISK_FULL), errors.Is(err, windows.ERROR_HANDLE_DISK_FULL):
		return fmt.Errorf("%w (free some space; nothing is lost, and what was not stored is stored at the next try)", err)
	case errors.Is(err, windows.ERROR_WRITE_PROTECT):
		return fmt.Errorf("%w (make the volume writable)", err)
	case inUse(err):
		return fmt.Errorf("%w (close the program that has the file open, or let the account that runs ksefmirror write to the folder)", err)
	}
	return err
}
