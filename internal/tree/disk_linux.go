package tree

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openVolume gives a function that makes everything written to the tree's file system durable, and reports the writes that
// failed since openVolume. It is nil where syncfs(2) does not promise both: on network file systems and FUSE, and before
// Linux 5.8. The second function releases the first.
func openVolume(root *os.Root) (flush func() error, release func()) {
	nothing := func() {}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return nil, nothing
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(kernel.Release[:]), "%d.%d", &major, &minor); err != nil {
		return nil, nothing
	}
	if major < 5 || major == 5 && minor < 8 {
		return nil, nothing
	}
	folder, err := root.Open(".")
	if err != nil {
		return nil, nothing
	}
	release = func() { _ = folder.Close() } // opened for reading: closing it cannot lose anything
	descriptor := int(folder.Fd())          // #nosec G115 -- the kernel's descriptors are ints
	var volume unix.Statfs_t
	if err := unix.Fstatfs(descriptor, &volume); err != nil {
		release()
		return nil, nothing
	}
	switch volume.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return func() error { return os.NewSyscallError("syncfs", unix.Syncfs(descriptor)) }, release
	}
	release()
	return nil, nothing
}
