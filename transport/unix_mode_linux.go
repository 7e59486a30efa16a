package transport

import "syscall"

// closedMode makes the socket file appear without any permission, so that
// nobody can connect between bind and chmod.
func closedMode(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0) }); e != nil {
		return e
	}
	return err
}
