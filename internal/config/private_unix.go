//go:build !windows

package config

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// privateToOwner says why others could read or replace the contents of file: nil
// when it belongs to this process's user or to root, and its mode grants nothing
// to anyone else.
func privateToOwner(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("its mode %#o lets others at it; run: chmod 600 %q, and replace the secret if others could have read it", mode, file.Name())
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner cannot be determined")
	}
	if owner := int64(status.Uid); owner != 0 && owner != int64(os.Geteuid()) {
		return fmt.Errorf("it belongs to user %d, who is neither root nor the user running ksefmirror (%d); run: chown %d %q",
			owner, os.Geteuid(), os.Geteuid(), file.Name())
	}
	return nil
}

// createPrivate creates the file at path for its owner only; it must not exist.
func createPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- the operator names the file
}

// CopyAccess lets those at the file to who may be at the file from: it copies the
// mode, and for root, who alone can give a file away, the owner.
func CopyAccess(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Chown(to, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(to, info.Mode().Perm())
}

// unprotect decrypts what DPAPI has encrypted, which exists only on Windows.
func unprotect([]byte) ([]byte, error) { return nil, errors.New("DPAPI exists only on Windows") }

// SyncFolder makes the names of the files in a folder durable: a file that was made
// or renamed is there after a power cut too.
func SyncFolder(path string) error {
	folder, err := os.Open(path) // #nosec G304 -- the operator names the folder
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
