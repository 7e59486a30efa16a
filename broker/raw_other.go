//go:build !unix

package broker

import "net"

// newRawIO returns nil, but on Unix: every connection is read and written through net.Conn.
func newRawIO(nc net.Conn) rawIO {
	r, _ := nc.(rawIO)
	return r
}
