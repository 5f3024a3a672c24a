package tree

import "fmt"

// Volume is the file system that a folder lies on.
type Volume struct {
	Free int64 // bytes that this user may still write
	Size int64 // bytes in all
	// Kind is its name for people, such as ext4; "" where the system does not tell.
	Kind string
	// Network tells that other machines may write to it: SQLite cannot rely on its
	// locks, and nobody is told of changes.
	Network bool
}

// VolumeOf tells of the file system that the folder dir, which must exist, lies on.
func VolumeOf(dir string) (Volume, error) {
	v, err := volumeOf(dir)
	if err != nil {
		return Volume{}, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return v, nil
}
