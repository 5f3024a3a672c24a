package sync_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// mount puts a small file system of its own under the mirror's folder.
func mount(t *testing.T, w *world) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small disk to fill")
	}
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", w.dir).CombinedOutput(); err != nil {
		t.Skipf("no small disk to fill can be mounted here: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", w.dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
}

func remount(t *testing.T, w *world, how string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "remount,"+how, w.dir).CombinedOutput(); err != nil {
		t.Fatalf("remount %s: %s", how, out)
	}
}

// Scenario 40: the disk is full at some point of a cycle, whichever it is: the
// error says so, nothing is lost or half written, and when there is space again
// the next cycle completes it.
func TestScenario40FullDisk(t *testing.T) {
	slow(t)
	for _, free := range []int{0, 20, 60, 150, 300, 600} { // KiB left
		w := newWorld(t, ksefsim.Options{})
		mount(t, w)
		w.add(w.generate(3, time.Hour, 51)...)
		w.mustCycle()
		w.add(w.fresh(150, 52)...)
		w.clock.advance(time.Hour)

		filler := filepath.Join(w.dir, "filler")
		fill(t, filler)
		info, err := os.Stat(filler)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filler, max(0, info.Size()-int64(free)<<10)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.cycle(); err == nil {
			t.Errorf("%d KiB: a full disk went unnoticed", free)
		} else if !strings.Contains(err.Error(), "space") && !strings.Contains(err.Error(), "full") {
			t.Errorf("%d KiB: the error does not say what is wrong: %v", free, err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		w.mustCycle()
		w.complete()
	}
}

// Files go while the disk is full: there is no room to restore them, which is said.
// The first look after there is space again restores them, in the same process.
func TestHealsOnceTheDiskHasSpace(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	mount(t, w)
	w.add(w.generate(20, time.Hour, 55)...)
	w.mustCycle()
	m := w.open()
	later := w.clock.Now().Add(time.Hour)
	if err := m.AuditDue(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	invoices := filepath.Join(w.dir, "invoices")
	names := files(t, invoices)
	for _, name := range names[:3] {
		if err := os.Remove(filepath.Join(invoices, name)); err != nil {
			t.Fatal(err)
		}
	}
	filler := filepath.Join(w.dir, "filler")
	fill(t, filler)
	w.nextDay()
	err := m.AuditDue(t.Context(), w.clock.Now().Add(time.Hour))
	if !strings.Contains(w.log.String(), "cannot be restored now") && err == nil {
		t.Errorf("nothing was said:\n%s", w.log)
	}
	if left := files(t, invoices); len(left) != 17 {
		t.Errorf("%d files on a full disk", len(left))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.AuditDue(t.Context(), w.clock.Now().Add(time.Hour)), m.Close()); err != nil {
		t.Error(err)
	}
	w.check()
}

// A backup does not fill the disk: it is refused before it begins.
func TestBackupLeavesSpace(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	mount(t, w) // 16 MiB, and a backup leaves 64
	w.add(w.generate(3, time.Hour, 56)...)
	w.mustCycle()
	w.options.BackUpTo = filepath.Join(w.dir, "backups")
	if err := os.Mkdir(w.options.BackUpTo, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ksefsync.BackUp(t.Context(), w.options); err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("%v", err)
	}
	if left := files(t, w.options.BackUpTo); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// fill writes until the disk is full.
func fill(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := make([]byte, 4096); err == nil; {
		_, err = file.Write(chunk)
	}
}

func TestScenario40ReadOnlyDisk(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	mount(t, w)
	w.add(w.generate(5, time.Hour, 53)...)
	w.mustCycle()
	w.add(w.fresh(5, 54)...)
	w.clock.advance(time.Hour)
	remount(t, w, "ro")
	before := w.sim.Stats().ByGroup[ksef.GroupDownload]
	if _, err := w.cycle(); err == nil {
		t.Error("a read-only disk went unnoticed")
	} else {
		t.Log(err)
	}
	if asked := w.sim.Stats().ByGroup[ksef.GroupDownload] - before; asked != 0 {
		t.Errorf("%d invoices were downloaded to nowhere", asked)
	}
	remount(t, w, "rw")
	w.mustCycle()
	w.complete()
}
