package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync: it leaves out times, which nobody needs, and so saves a write of the inode.
func datasync(f *os.File) error {
	return control(f, "fdatasync", unix.Fdatasync)
}

// preallocate reserves space without writing it, where the file system can; it keeps what is there.
func preallocate(f *os.File, size int64) error {
	err := control(f, "fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fill(f, size)
	}
	return err
}

// control calls with the descriptor of a file, again when a signal came in between.
func control(f *os.File, op string, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = call(int(fd)); failed == unix.EINTR; failed = call(int(fd)) {
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}
