package tree

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

func TestVolumeOf(t *testing.T) {
	v, err := VolumeOf(t.TempDir())
	if err != nil || v.Free <= 0 || v.Size < v.Free || v.Kind == "" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := VolumeOf(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a missing folder: %v", err)
	}
}
