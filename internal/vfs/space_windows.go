package vfs

import (
	"os"

	"golang.org/x/sys/windows"
)

func space(dir string) (free, total int64, err error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	var available, all, unused uint64
	if err := windows.GetDiskFreeSpaceEx(name, &available, &all, &unused); err != nil {
		return 0, 0, &os.PathError{Op: "disk space", Path: dir, Err: err}
	}
	return int64(available), int64(all), nil
}
