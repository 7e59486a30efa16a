//go:build !linux

package transport

import "syscall"

// closedMode does nothing: elsewhere the mode of a socket cannot be set before
// it has a file.
func closedMode(_, _ string, _ syscall.RawConn) error { return nil }
