package tree

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// fuseMagic is that of FUSE (linux/magic.h): often a network file system, such as
// sshfs or the shared folders of virtual machines.
const fuseMagic = 0x65735546

func volumeOf(dir string) (Volume, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Volume{}, err
	}
	v := Volume{Free: bytesOf(s.Bavail, s.Bsize), Size: bytesOf(s.Blocks, s.Bsize)}
	switch magic := uint32(s.Type); magic { // #nosec G115 -- magic numbers have 32 bits
	case unix.EXT4_SUPER_MAGIC:
		v.Kind = "ext4"
	case unix.XFS_SUPER_MAGIC:
		v.Kind = "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		v.Kind = "btrfs"
	case unix.TMPFS_MAGIC:
		v.Kind = "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		v.Kind = "overlayfs"
	case unix.MSDOS_SUPER_MAGIC:
		v.Kind = "FAT"
	case unix.NFS_SUPER_MAGIC:
		v.Kind, v.Network = "NFS", true
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		v.Kind, v.Network = "SMB", true
	case unix.V9FS_MAGIC:
		v.Kind, v.Network = "9p", true
	case fuseMagic:
		v.Kind, v.Network = "FUSE", true
	default:
		v.Kind = fmt.Sprintf("of type %#x", magic)
	}
	return v, nil
}

func bytesOf(blocks uint64, size int64) int64 {
	return int64(blocks) * size // #nosec G115 -- no disk has 2^63 blocks
}
