package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ksefmirror/internal/ksefsim"
)

// watches tells whether the process has the kernel tell it of changes in a folder.
func watches(t *testing.T, pid int, folder string) bool {
	t.Helper()
	info, err := os.Stat(folder)
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(" ino:%x ", info.Sys().(*syscall.Stat_t).Ino)
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(descriptors) == 0 {
		t.Fatalf("no descriptors of process %d: %v", pid, err)
	}
	for _, name := range descriptors {
		file, err := os.Open(name)
		if err != nil {
			continue // closed meanwhile
		}
		found := false
		for lines := bufio.NewScanner(file); lines.Scan(); {
			found = found || strings.HasPrefix(lines.Text(), "inotify ") && strings.Contains(lines.Text(), inode)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		if found {
			return true
		}
	}
	return false
}

// The folder watcher is switched off and on again while the daemon runs. Off, it
// takes none of the system's watches, and the audits find what people do.
func TestWatcherIsSwitchedOff(t *testing.T) {
	long(t)
	t.Parallel()
	p := newRestless(t, ksefsim.Options{})
	p.generate(10)
	p.want(0, nil, "sync")
	p.put("config.toml", []byte("watch_folders = true\n"+strings.ReplaceAll(p.read("config.toml"), "watch_folders = false\n", "")))
	on := p.read("config.toml")
	d := p.daemon()
	d.until("cycle done", `"authorized"`)
	paths := p.invoices()
	watched := func() bool { return watches(t, d.process.Process.Pid, filepath.Dir(paths[0])) }
	if !watched() {
		t.Error("the folder is not watched")
	}

	p.put("config.toml", []byte(strings.Replace(on, "watch_folders = true", "watch_folders = false", 1)))
	d.until("read anew", "changed: acme")
	d.until("cycle done", `"authorized"`)
	if watched() {
		t.Error("switched off, the folder is watched")
	}
	changed := []byte("<changed/>")
	if err := os.WriteFile(paths[0], changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(paths[1])); err != nil {
		t.Fatal(err)
	}
	p.auditIsDue()
	d.until("they are restored from the database")

	p.put("config.toml", []byte(on))
	d.until("read anew", "changed: acme")
	d.until("cycle done", `"authorized"`)
	if !watched() {
		t.Error("switched on again, the folder is not watched")
	}
	d.stop()
	p.want(0, []string{"10 invoices checked, 0 missing, 0 changed"}, "verify")
}
