package tree

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

func volumeOf(dir string) (Volume, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Volume{}, err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return Volume{}, err
	}
	var free, size uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, &size, nil); err != nil {
		return Volume{}, err
	}
	v := Volume{Free: int64(free), Size: int64(size)} // #nosec G115 -- no disk has 2^63 bytes
	var path [windows.MAX_PATH + 1]uint16
	if err := windows.GetVolumePathName(name, &path[0], uint32(len(path))); err != nil {
		return v, nil // where it is mounted is not known; how much is free is
	}
	v.Network = windows.GetDriveType(&path[0]) == windows.DRIVE_REMOTE
	var kind [windows.MAX_PATH + 1]uint16
	if windows.GetVolumeInformation(&path[0], nil, 0, nil, nil, nil, &kind[0], uint32(len(kind))) == nil {
		v.Kind = windows.UTF16ToString(kind[:])
	}
	return v, nil
}
