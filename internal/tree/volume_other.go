//go:build !linux && !windows

package tree

import "golang.org/x/sys/unix"

func volumeOf(dir string) (Volume, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Volume{}, err
	}
	kind := unix.ByteSliceToString(s.Fstypename[:])
	return Volume{
		Free: int64(s.Bavail) * int64(s.Bsize), // #nosec G115 -- no disk has 2^63 bytes
		Size: int64(s.Blocks) * int64(s.Bsize), // #nosec G115 -- as above
		Kind: kind, Network: s.Flags&unix.MNT_LOCAL == 0,
	}, nil
}
