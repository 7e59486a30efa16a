//go:build !(linux || darwin || freebsd || windows)

package vfs

import (
	"errors"
	"os"
)

func space(dir string) (free, total int64, err error) {
	return 0, 0, &os.PathError{Op: "disk space", Path: dir, Err: errors.ErrUnsupported}
}
