//go:build !unix

package transport

import "testing"

// expectRaw reads s; system calls differ here.
func expectRaw(t *testing.T, c *Conn, s string) {
	t.Helper()
	expect(t, c, s)
}
