// Package poll reads and writes sockets without a goroutine for each: it tells which ones can be read or written, and never waits for
// one of them. It works on Linux; elsewhere New returns errors.ErrUnsupported.
package poll

import "errors"

// Event says that a socket may be read or written since it was last found not to be: an edge, told once.
type Event struct {
	FD       int
	Tag      uint32 // as given to Add: tells sockets apart that had the same descriptor one after the other
	Readable bool   // there are bytes, or the end of the stream, or an error
	Writable bool
	HungUp   bool // the end of the stream stands behind the bytes
}

// ErrAgain is returned when a socket has nothing to read, or no room to write to. An Event tells when that changes.
var ErrAgain = errors.New("the socket is not ready")

// MaxEvents is how many events a call of Wait returns at most.
const MaxEvents = 256
