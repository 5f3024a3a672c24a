package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if id, err := ID(dir); id != "" || err != nil {
		t.Errorf("ID of no folder is %q, %v", id, err)
	}
	if _, err := Open(dir, "id-1"); !errors.Is(err, ErrNotMounted) {
		t.Errorf("Open of no folder: %v", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if id, err := ID(dir); id != "" || err != nil {
		t.Errorf("ID of an empty folder is %q, %v", id, err)
	}
	if _, err := Open(dir, "id-1"); !errors.Is(err, ErrNotMounted) {
		t.Errorf("Open of an empty folder: %v", err)
	}
	for range 2 { // the second time it is there already
		if err := Create(dir, "id-1"); err != nil {
			t.Fatal(err)
		}
		if id, err := ID(dir); id != "id-1" || err != nil {
			t.Errorf("ID is %q, %v", id, err)
		}
	}
	if err := Create(dir, "id-2"); err == nil || !strings.Contains(err.Error(), "id-1") {
		t.Errorf("Create with another id: %v", err)
	}
	if _, err := Open(dir, "id-2"); err == nil || errors.Is(err, ErrNotMounted) || !strings.Contains(err.Error(), "id-1") {
		t.Errorf("Open with another id: %v", err)
	}
	checkNoTemporaries(t, openTree(t, dir))
	for _, id := range []string{"", "two\nlines", " space", strings.Repeat("x", 201)} {
		if err := Create(filepath.Join(dir, "c"), id); err == nil {
			t.Errorf("the id %q was taken", id)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(file, "id-1"); err == nil {
		t.Error("Create in place of a file succeeded")
	}
}

func FuzzReadMarker(f *testing.F) {
	f.Add([]byte(markerIntroduction + markerLine + "6f9619ff\n"))
	f.Add([]byte("id: 1\r\nid: 2"))
	f.Add([]byte("id: \nid:1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := readMarker(bytes.NewReader(text))
		if err != nil {
			return
		}
		// What is read can be written, and is then read again.
		if !validID(id) {
			t.Fatalf("the id %q cannot be written", id)
		}
		again, err := readMarker(strings.NewReader(markerIntroduction + markerLine + id + "\n"))
		if again != id || err != nil {
			t.Errorf("the id %q is read again as %q, %v", id, again, err)
		}
	})
}
