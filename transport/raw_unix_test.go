//go:build unix

package transport

import (
	"errors"
	"syscall"
	"testing"
)

// expectRaw reads s with system calls of its own, as a reactor would.
func expectRaw(t *testing.T, c *Conn, s string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(s)+1)
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), b)
		return n > 0 || !errors.Is(err, syscall.EAGAIN)
	})
	if string(b[:max(n, 0)]) != s {
		t.Fatalf("raw read %q, %v; want %q", b[:max(n, 0)], err, s)
	}
}
