package broker

import (
	"sync"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// outBuffer is the size of the pooled buffers that outboxes begin with.
const outBuffer = 4 << 10

var outBuffers = sync.Pool{New: func() any { return new([outBuffer]byte) }}

// room returns the outbox with space for n more bytes, as a rule. The caller holds c.mu.
func (c *conn) room(n int) []byte {
	if c.out == nil {
		if n <= outBuffer {
			return outBuffers.Get().(*[outBuffer]byte)[:0]
		}
		return make([]byte, 0, n)
	}
	return c.out
}

// recycle gives a written buffer back.
func recycle(b []byte) {
	if cap(b) == outBuffer {
		outBuffers.Put((*[outBuffer]byte)(b[:outBuffer]))
	}
}

// appended notes that n bytes were added to the outbox. The first to append puts the connection on its turn's list and so
// owns the flush. The caller holds c.mu.
func (c *conn) appended(t *turn, n int) {
	c.pending.Add(int64(n))
	c.settleOutbox()
	t.unflushed += n
	if !c.dirty && !c.writing {
		c.dirty = true
		t.dirty = append(t.dirty, c)
	}
}

// take takes what the outbox holds. The caller holds c.mu.
func (c *conn) take() []byte {
	b := c.out
	c.out = nil
	return b
}

// flush writes the outbox as far as the socket takes it at once. What remains goes to a goroutine that may wait; so does
// everything on connections that cannot be written without waiting. It is called by the turn that owns the flush.
func (c *conn) flush(*turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = false
	if c.failed {
		c.out = nil
		return
	}
	if c.corked {
		return
	}
	for !c.writing && len(c.out) > 0 {
		if c.raw == nil {
			c.startDrain(nil)
			return
		}
		b := c.take()
		c.writing = true
		c.mu.Unlock()
		n, err := c.raw.tryWrite(b)
		c.wrote(n)
		c.mu.Lock()
		c.stopWriting()
		switch {
		case err != nil:
			c.fail(err)
			return
		case n < len(b):
			c.startDrain(b[n:])
			return
		}
		recycle(b)
	}
	if !c.writing && c.starved.Load() {
		c.startDrain(nil) // the backlog of this client is not the work of whoever writes to it
	}
}

// uncork lets the outbox be written.
func (c *conn) uncork(t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	c.appended(t, 0)
}

// wrote counts bytes that are the kernel's now.
func (c *conn) wrote(n int) {
	c.pending.Add(int64(-n))
	c.settleOutbox()
	c.broker.stats.bytesOut.Add(int64(n))
}

// startDrain starts the goroutine that empties the outbox. The caller holds c.mu, and nobody is writing.
func (c *conn) startDrain(rest []byte) {
	if c.failed {
		return
	}
	c.writing = true
	c.broker.connTasks.Add(1)
	go c.drain(rest)
}

// drain writes until the outbox is empty and nothing waits for room in it.
func (c *conn) drain(rest []byte) {
	defer c.broker.connTasks.Done()
	for {
		if len(rest) > 0 {
			n, err := c.nc.Write(rest)
			c.wrote(n)
			if err != nil {
				c.mu.Lock()
				c.fail(err)
				c.stopWriting()
				c.mu.Unlock()
				return
			}
			recycle(rest)
		}
		if c.starved.Swap(false) {
			t := c.broker.beginTurn()
			c.session.pump(t)
			t.end()
		}
		c.mu.Lock()
		if rest = c.take(); len(rest) == 0 {
			if c.starved.Load() {
				c.mu.Unlock()
				continue
			}
			c.stopWriting()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// stopWriting ends the time of whoever wrote, and tells close. The caller holds c.mu.
func (c *conn) stopWriting() {
	c.writing = false
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// fail notes that the socket cannot be written any more. The caller holds c.mu.
func (c *conn) fail(err error) {
	c.failed = true
	c.out = nil
	c.stop(err)
}

// lastWords is how long a client has to take the last bytes before its connection is closed.
const lastWords = 2 * time.Second

// close writes what is left in the outbox, the packet p behind it, and closes the connection. It waits for a client that
// reads slowly, but not long.
func (c *conn) close(p []byte) {
	c.mu.Lock()
	patience := lastWords
	if c.short.Load() {
		patience /= 8 // what it has not read yet takes the memory for which it has to go
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	for c.writing {
		drained := make(chan struct{})
		c.drained = drained
		c.mu.Unlock()
		<-drained
		c.mu.Lock()
	}
	c.writing = true // for good: nobody writes after this
	b := append(c.take(), p...)
	failed := c.failed || c.corked
	c.mu.Unlock()
	if !failed && len(b) > 0 {
		n, err := c.nc.Write(b)
		c.wrote(n)
		if err == nil && len(p) > 0 {
			c.linger()
		}
	}
	_ = c.nc.Close()
}

// maxLingering is how many connections may linger at a time. They do not count as connections any more.
const maxLingering = 1000

// linger lets the client read the last packet. A socket closed while bytes from the peer are unread would be reset, and the
// packet lost with it; so the writing side is closed first and what comes is thrown away for a moment.
func (c *conn) linger() {
	nc := c.nc
	if wrapped, ok := nc.(*transport.Conn); ok {
		nc = wrapped.NetConn()
	}
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	defer c.broker.lingering.Add(-1)
	if c.broker.lingering.Add(1) > maxLingering {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lastWords / 4))
	var waste [512]byte
	for range 1024 {
		if _, err := c.nc.Read(waste[:]); err != nil {
			return
		}
	}
}

// disconnectPacket returns the DISCONNECT that tells the client why, or nil when there is nothing to say: MQTT 3 has no
// such packet from the server.
func (c *conn) disconnectPacket(err error) []byte {
	code, ok := reasonOf(err)
	if !ok || c.version != mqtt.V5 || c.state != connected {
		return nil
	}
	d := mqtt.Disconnect{Code: disconnectCode(code), Props: c.explain(err)}
	packet := d.Append(nil, c.version)
	if len(packet) > c.maxPacket {
		return nil // [MQTT-3.1.2-24]
	}
	return packet
}

// disconnectCode returns the code that a DISCONNECT has for what an authenticator says: some of its codes belong into
// CONNACK only [MQTT-3.14.2-1].
func disconnectCode(code mqtt.ReasonCode) mqtt.ReasonCode {
	switch code {
	case mqtt.BadUserNameOrPassword, mqtt.Banned, mqtt.ClientIdentifierNotValid, mqtt.BadAuthenticationMethod:
		return mqtt.NotAuthorized
	case mqtt.ServerUnavailable:
		return mqtt.ServerBusy
	}
	return code
}
