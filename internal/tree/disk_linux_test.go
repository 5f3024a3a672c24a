package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mount mounts for the time of the test, which is skipped where that is not allowed.
func mount(t *testing.T, arguments ...string) (unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	if output, err := exec.Command("mount", arguments...).CombinedOutput(); err != nil {
		t.Skipf("this machine does not mount %v: %v: %s", arguments, err, output)
	}
	folder := arguments[len(arguments)-1]
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if output, err := exec.Command("umount", folder).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", folder, err, output)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

func TestPutOnFullDisk(t *testing.T) {
	volume := t.TempDir()
	mount(t, "-t", "tmpfs", "-o", "size=16m", "tmpfs", volume)
	if err := Create(filepath.Join(volume, "invoices"), "id-1"); err != nil {
		t.Fatal(err)
	}
	tree := openTree(t, filepath.Join(volume, "invoices"))
	stored := manyFiles(flushTogetherFrom)
	for i := range stored {
		stored[i].Content = bytes.Repeat([]byte("x"), 1<<20-1)
	}
	if _, err := tree.Put(t.Context(), stored...); err != nil {
		t.Fatal(err)
	}
	late := File{"late.xml", bytes.Repeat([]byte("y"), 10<<20)}
	if _, err := tree.Put(t.Context(), late); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("error is %v", err)
	}
	checkNoTemporaries(t, tree)
	checkContents(t, tree, wanted(stored))

	// With space again, the same call succeeds.
	for _, file := range stored[:4] {
		if err := os.Remove(filepath.Join(tree.dir, file.Path)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.Put(t.Context(), late); err != nil {
		t.Error(err)
	}
	checkContents(t, tree, wanted(stored[4:], late))
}

func TestPutOnReadOnlyVolume(t *testing.T) {
	volume := t.TempDir()
	mount(t, "-t", "tmpfs", "-o", "size=1m", "tmpfs", volume)
	dir := filepath.Join(volume, "invoices")
	if err := Create(dir, "id-1"); err != nil {
		t.Fatal(err)
	}
	files := manyFiles(2)
	tree := openTree(t, dir)
	if _, err := tree.Put(t.Context(), files...); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", volume, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Put(t.Context(), File{"late.xml", []byte("x")}); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "mount the volume for writing") {
		t.Errorf("error is %v", err)
	}
	checkContents(t, openTree(t, dir), wanted(files)) // it can still be opened and read
}

// TestPutSurvivesPowerCut copies the bytes of a disk at the moment when Put returns, and looks what is on the copy. What
// the kernel has only in memory is not.
func TestPutSurvivesPowerCut(t *testing.T) {
	bothWays(t, func(t *testing.T, files []File) {
		scratch := t.TempDir()
		disk, copied, volume := filepath.Join(scratch, "disk"), filepath.Join(scratch, "copy"), filepath.Join(scratch, "volume")
		if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 32<<20), os.Mkdir(volume, 0o750)); err != nil {
			t.Fatal(err)
		}
		if output, err := exec.Command("mkfs.ext4", "-q", disk).CombinedOutput(); err != nil {
			t.Skipf("no ext4 file system can be made: %v: %s", err, output)
		}
		unmount := mount(t, "-o", "loop,commit=300", disk, volume)
		dir := filepath.Join(volume, "mirror", "invoices")
		if err := Create(dir, "id-1"); err != nil {
			t.Fatal(err)
		}
		tree, err := Open(dir, "id-1")
		if err != nil {
			t.Fatal(err)
		}
		write(t, tree, files[1].Path, "changed by a person")
		// This one is stored already, but not on the disk, as if an earlier call had crashed.
		write(t, tree, files[0].Path, string(files[0].Content))
		if _, err := tree.Put(t.Context(), files...); err != nil {
			t.Fatal(err)
		}
		snapshot, err := os.ReadFile(disk)
		if err := errors.Join(err, tree.Close()); err != nil {
			t.Fatal(err)
		}
		unmount()
		if err := os.WriteFile(copied, snapshot, 0o600); err != nil {
			t.Fatal(err)
		}
		unmount = mount(t, "-o", "loop", copied, volume)
		defer unmount()
		if tree, err = Open(dir, "id-1"); err != nil {
			t.Fatal(err)
		}
		found := contents(t, tree)
		for _, file := range files {
			if found[file.Path] != string(file.Content) {
				t.Errorf("after the power cut %s has %q", file.Path, found[file.Path])
			}
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSystemCalls runs Create and Put under strace and checks that they flush in the order that Put's comment promises.
func TestSystemCalls(t *testing.T) {
	if dir := os.Getenv("KSEFMIRROR_TEST_TREE"); dir != "" {
		var n int
		if _, err := fmt.Sscan(os.Getenv("KSEFMIRROR_TEST_FILES"), &n); err != nil {
			t.Fatal(err)
		}
		// An earlier call made the folder, and may have crashed before it was on the disk.
		if err := Create(dir, "id-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := openTree(t, dir).Put(t.Context(), manyFiles(n)...); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	bothWays(t, func(t *testing.T, files []File) {
		tree, together := newTree(t), len(files) >= flushTogetherFrom
		if together {
			flush, release := openVolume(tree.root)
			release()
			if flush == nil {
				t.Skip("this file system cannot be flushed as a whole")
			}
		}
		log := filepath.Join(t.TempDir(), "strace")
		command := exec.Command("strace", "-f", "-y", "-o", log, "-e", "trace=write,fsync,fdatasync,syncfs,linkat,unlinkat,renameat,renameat2",
			os.Args[0], "-test.run=^TestSystemCalls$")
		command.Env = append(os.Environ(), "KSEFMIRROR_TEST_TREE="+tree.dir, fmt.Sprint("KSEFMIRROR_TEST_FILES=", len(files)))
		if output, err := command.CombinedOutput(); err != nil {
			t.Skipf("strace does not run here: %v: %s", err, output)
		}
		trace, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		got := summarise(string(trace), tree.dir)
		if parent := filepath.Dir(tree.dir); !slices.Equal(summarise(string(trace), parent)[:2], []string{"fsync " + filepath.Base(tree.dir), "fsync ."}) {
			t.Errorf("Create did not flush %s:\n%s", parent, trace)
		}
		want := []string{"fsync ."} // of Create
		if together {
			want = append(want, slices.Repeat([]string{"write temporary"}, len(files))...)
			want = append(want, "syncfs")
		} else {
			want = append(want, slices.Repeat([]string{"write temporary", "fsync temporary"}, len(files))...)
		}
		for range files {
			want = append(want, "linkat", "unlinkat temporary")
		}
		if together {
			want = append(want, "syncfs")
		} else {
			want = append(want, "fsync .", "fsync purchases", "fsync purchases/2026", "fsync purchases/2026/01", "fsync purchases/2026/02")
		}
		if !slices.Equal(got, want) {
			t.Errorf("system calls:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

var traced = regexp.MustCompile(`^\d+ +(\w+)\(\d+<([^>]*)>(?:, "([^"]*)")?`)

// summarise gives the system calls on the tree in dir, each with what it is about.
func summarise(trace, dir string) (calls []string) {
	for line := range strings.Lines(trace) {
		match := traced.FindStringSubmatch(line)
		if match == nil || strings.Contains(line, "= -1") {
			continue
		}
		call, about := match[1], match[2]
		if call == "unlinkat" {
			about = path.Join(about, match[3])
		}
		about, inside := strings.CutPrefix(about, dir)
		about = strings.TrimPrefix(about, "/")
		switch {
		case !inside:
			continue
		case call == "syncfs" || call == "linkat":
			about = ""
		case about == "":
			about = "."
		case strings.HasPrefix(about, temporaryFolder):
			about = "temporary"
		}
		calls = append(calls, strings.TrimSpace(call+" "+about))
	}
	return calls
}

func TestReadDoesNotWaitForPipe(t *testing.T) {
	tree := newTree(t)
	if err := unix.Mkfifo(filepath.Join(tree.dir, "pipe.xml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Read("pipe.xml"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if kept, err := tree.Put(t.Context(), File{"pipe.xml", []byte("x")}); err != nil || len(kept) != 1 {
		t.Errorf("Put: %v, %v", kept, err)
	}
}
