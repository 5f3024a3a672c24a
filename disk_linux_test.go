package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ksefmirror/internal/ksefsim"
)

// mountSmallDisk puts a file system of 16 MB at the mirror's folder.
func (p *place) mountSmallDisk() {
	p.t.Helper()
	if os.Getuid() != 0 {
		p.t.Skip("only root may mount a small disk to fill")
	}
	dir := filepath.Join(p.dir, "data", "acme")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		p.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		p.t.Skipf("no small disk to fill can be mounted here: %s", out)
	}
	p.t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			p.t.Errorf("umount: %s", out)
		}
	})
}

// The disk is full while the daemon works, and later has room again: the log and status
// say so, nothing is lost or half there, and it goes on by itself.
func TestDiskFullAndFreed(t *testing.T) {
	long(t) // a failure is followed by a pause of half a minute
	t.Parallel()
	p := newRestless(t, ksefsim.Options{})
	p.mountSmallDisk()
	p.generate(5)
	d := p.daemon()
	d.untilMirrored(5)
	filler := filepath.Join(p.dir, "data", "acme", "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); err == nil; {
		_, err = file.Write(chunk)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	p.add(ksefsim.GenerateOptions{Count: 30, Context: company, Seed: 3})
	if line := d.until("mirror is in trouble"); !strings.Contains(line, "space") && !strings.Contains(line, "full") {
		t.Errorf("it does not say what is wrong: %s", line)
	}
	p.want(2, []string{"has only 0 MB left; free some space"}, "status")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	d.until("mirror recovered")
	d.untilMirrored(35)
	if log := d.stop(); strings.Count(log, "mirror is in trouble") != 1 {
		t.Errorf("one trouble, and the log says\n%s", log)
	}
	p.agrees()
	p.want(0, []string{"35 invoices checked, 0 missing, 0 changed"}, "verify")
}
