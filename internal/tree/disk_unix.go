//go:build !windows

package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// renameNoReplace links the new name and then removes the old one: link(2) never replaces, in one step, on every Unix. A
// crash in between leaves both names of the whole file.
func (t *Tree) renameNoReplace(_ context.Context, from, to string) error {
	err := t.root.Link(from, to)
	switch {
	case err == nil:
		return t.root.Remove(from)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EMLINK):
		// A folder, or a file system without hard links such as FAT. What another program puts under this very name between
		// the next two calls would be replaced; there is no portable way to close that gap.
		if _, err := t.root.Lstat(to); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return t.root.Rename(from, to)
	}
	return err
}

// syncPath makes a file's content, or a folder's list of names, durable.
func syncPath(root *os.Root, name string) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	err = file.Sync()
	if info, statErr := file.Stat(); statErr == nil && info.IsDir() &&
		(errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP)) {
		return nil // this file system cannot flush a folder by itself; some network file systems cannot
	}
	return err
}

// hide does nothing: a leading dot hides a name.
func hide(string) {}

// FreeSpace gives the bytes that this process may still write to the disk of the folder dir.
func FreeSpace(dir string) (uint64, error) {
	var volume unix.Statfs_t
	if err := unix.Statfs(dir, &volume); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return volume.Bavail * uint64(volume.Bsize), nil // #nosec G115 -- no disk has blocks of a negative size
}

// explain adds to an error of the disk what a person can do about it.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w (free some space; nothing is lost, and what was not stored is stored at the next try)", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w (mount the volume for writing; the system may have made it read-only after a disk error)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w (let the account that runs ksefmirror write to the folder)", err)
	}
	return err
}
