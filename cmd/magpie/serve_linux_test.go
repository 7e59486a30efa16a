package main

import (
	"syscall"
	"testing"
)

// The limit of open files is as high as the system lets us: a connection is a file.
func TestOpenFiles(t *testing.T) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur != l.Max {
		t.Errorf("%d files may be open, could be %d", l.Cur, l.Max)
	}
}
