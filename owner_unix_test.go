//go:build !windows

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Root is refused by every command that would make files in a mirror of another user,
// such as the service's, who could not use them; and not by those that make none.
func TestRootIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder to another user")
	}
	long(t)
	p := newPlace(t)
	p.generate(2)
	p.want(0, nil, "sync")
	p.want(0, nil, "backup")
	dir := filepath.Join(p.dir, "data", "acme")
	backups, err := filepath.Glob(filepath.Join(dir, "backups", "*.db"))
	if err != nil || len(backups) != 1 {
		t.Fatalf("backups %q, %v", backups, err)
	}
	const other = 12345
	each := func(do func(path string)) {
		t.Helper()
		if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				do(path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	each(func(path string) {
		if err := os.Lchown(path, other, other); err != nil {
			t.Fatal(err)
		}
	})
	for _, args := range [][]string{
		{"sync"}, {"verify"}, {"verify", "--repair"}, {"backup"}, {"restore", "acme", backups[0]}, {"rebuild", "acme", "--tree"},
		{"rebuild", "acme", "--database"}, {"reparse"}, {"reconcile"},
	} {
		p.want(1, []string{"belongs to the user #12345", "sudo -u '#12345' ksefmirror"}, args...)
	}
	for _, args := range [][]string{
		{"status"}, {"invoices"}, {"export", "--month", time.Now().Format("2006-01"), "-o", filepath.Join(p.dir, "month.xlsx")}, {"remote", "query", "--role", "buyer", "--from", time.Now().Format(time.DateOnly)},
	} {
		p.want(0, nil, args...)
	}
	each(func(path string) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != other {
			t.Errorf("%s was made by root", path)
		}
	})
}
