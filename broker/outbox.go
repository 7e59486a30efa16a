package broker

import (
	"encoding/binary"
	"sync"
)

// # The outbox
//
// What is to be written to a connection: small packets one behind the other in a buffer from a pool, which is there only while
// something waits, and large ones as they were encoded, shared by all connections that they go to.

// outBuffer is the size of the pooled buffers that outboxes begin with.
const outBuffer = 4 << 10

var outBuffers = sync.Pool{New: func() any { return new([outBuffer]byte) }}

// room returns the outbox with space for n more bytes, as a rule. The caller holds c.mu.
func (c *conn) room(n int) []byte {
	size := len(c.out) + n
	switch {
	case c.out == nil && n <= outBuffer:
		return outBuffers.Get().(*[outBuffer]byte)[:0]
	case c.out == nil && n <= readSize:
		return readBuffers.Get().(*[readSize]byte)[:0]
	case c.out == nil:
		return make([]byte, 0, n)
	case cap(c.out) == outBuffer && size > outBuffer && size <= readSize:
		grown := append(readBuffers.Get().(*[readSize]byte)[:0], c.out...)
		recycle(c.out)
		return grown
	}
	return c.out
}

// piece is a part of the outbox that nothing is added to.
type piece struct {
	bytes  []byte
	pooled bool // a whole buffer; others share what is not
	begun  bool // the rest of what was written in part
}

// recycle gives the buffer of a written piece back.
func (p piece) recycle() {
	if p.pooled {
		recycle(p.bytes)
	}
}

// recycle gives a buffer back to the pool that it came from, if any.
func recycle(b []byte) {
	switch cap(b) {
	case outBuffer:
		outBuffers.Put((*[outBuffer]byte)(b[:outBuffer]))
	case readSize:
		readBuffers.Put((*[readSize]byte)(b[:readSize]))
	}
}

// shareFrom is the size from which a packet is not copied into the outbox of each connection: one more write costs less.
const shareFrom = 16 << 10

// addShared adds a large packet. Only the Packet Identifier is the connection's own. The caller holds c.mu.
func (c *conn) addShared(e *encoding, id uint16) {
	e.shared = true
	own := 0
	if id != 0 {
		own = e.idAt + 2
		c.out = append(c.room(own), e.bytes[:e.idAt]...)
		c.out = binary.BigEndian.AppendUint16(c.out, id)
	}
	if len(c.out) > 0 {
		c.pieces = append(c.pieces, piece{bytes: c.out, pooled: true})
		c.out = nil
	}
	c.pieces = append(c.pieces, piece{bytes: e.bytes[own:]})
}

// nothingToWrite reports whether the outbox is empty. The caller holds c.mu.
func (c *conn) nothingToWrite() bool { return len(c.pieces)+len(c.out) == 0 }

// take takes what is to be written next. The caller holds c.mu.
func (c *conn) take() (p piece) {
	if len(c.pieces) == 0 {
		p, c.out = piece{bytes: c.out, pooled: true}, nil
		return p
	}
	p = c.pieces[0]
	if c.pieces = c.pieces[1:]; len(c.pieces) == 0 {
		c.pieces = nil
	}
	return p
}

// putBack puts what was not written in front again. The caller holds c.mu.
func (c *conn) putBack(rest []byte) {
	c.pieces = append([]piece{{bytes: rest, begun: true}}, c.pieces...)
}

// dropOutbox drops what waits, but for the rest of a packet that the client has in part, and returns how many bytes it was. The caller
// holds c.mu.
func (c *conn) dropOutbox() (n int) {
	n = len(c.out)
	c.out = nil
	kept := c.pieces[:0]
	for _, p := range c.pieces {
		if p.begun {
			kept = append(kept, p)
		} else {
			n += len(p.bytes)
		}
	}
	clear(c.pieces[len(kept):])
	c.pieces = kept
	return n
}
