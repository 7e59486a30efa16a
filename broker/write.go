package broker

import (
	"time"

	"github.com/magpiemq/magpie/internal/poll"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// appended notes that n bytes were added to the outbox. The first to append puts the connection on its turn's list and so
// owns the flush. The caller holds c.mu.
func (c *conn) appended(t *turn, n int) {
	c.pending.Add(int64(n))
	c.settleOutbox()
	t.unflushed += n
	t.bytesOut += n
	if !c.dirty && !c.writing {
		c.dirty = true
		t.dirty = append(t.dirty, c)
	}
	if (len(c.out) > heavyAfter || len(c.pieces) > 0) && !c.writing && !c.blocked {
		t.heavy = append(t.heavy, c)
	}
}

// flush writes the outbox as far as the socket takes it at once. What remains is written when the loop hears that there is room, or by a
// goroutine that may wait; so is everything on connections that cannot be written without waiting. It is called by the turn that owns
// the flush.
func (c *conn) flush(*turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = false
	if c.failed {
		c.dropOutbox()
		return
	}
	if c.corked {
		return
	}
	for !c.writing && !c.blocked && !c.nothingToWrite() {
		if c.raw == nil && !c.looped {
			c.startDrain()
			return
		}
		p := c.take()
		n, err := c.writeNow(p.bytes)
		switch {
		case err != nil:
			c.fail(err)
			return
		case n == len(p.bytes):
			p.recycle()
			continue
		}
		c.putBack(p.bytes[n:])
		if !c.looped {
			c.startDrain()
			return
		}
		c.blocked = !c.edge
	}
	if !c.writing && c.starved.Load() { // the backlog of this client is not the work of whoever writes to it
		if !c.looped {
			c.startDrain()
		} else if !c.blocked {
			c.startRefill()
		}
	}
}

// writeNow writes what the socket takes at once. The caller holds c.mu, which is not held meanwhile, and nobody is writing.
func (c *conn) writeNow(b []byte) (n int, err error) {
	c.writing, c.edge = true, false
	looped := c.looped
	c.mu.Unlock()
	if !looped {
		n, err = c.raw.tryWrite(b)
	} else if n, err = c.broker.loops.poll.Write(int(c.socket.fd), b); err == poll.ErrAgain {
		err = nil
	}
	c.wrote(n)
	c.mu.Lock()
	c.stopWriting()
	return n, err
}

// writable notes that the socket takes more, and has it written at the end of the turn.
func (c *conn) writable(t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.edge, c.blocked = true, false
	c.appended(t, 0)
}

// startRefill starts a goroutine that fills the outbox with what waits in the session. The caller holds c.mu.
func (c *conn) startRefill() {
	if c.refilling || c.failed {
		return
	}
	c.refilling = true
	c.broker.connTasks.Add(1)
	go c.refill()
}

// refill gets what waits in the session until the socket takes no more.
func (c *conn) refill() {
	defer c.broker.connTasks.Done()
	for {
		if c.starved.Swap(false) {
			t := c.broker.beginTurn()
			c.session.pump(t)
			t.end()
		}
		c.mu.Lock()
		if c.failed || c.blocked || !c.starved.Load() {
			c.refilling = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
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
func (c *conn) startDrain() {
	if c.failed {
		return
	}
	c.writing = true
	c.broker.connTasks.Add(1)
	go c.drain()
}

// drain writes until the outbox is empty and nothing waits for room in it.
func (c *conn) drain() {
	defer c.broker.connTasks.Done()
	for {
		c.mu.Lock()
		if c.nothingToWrite() && !c.starved.Load() {
			c.stopWriting()
			c.mu.Unlock()
			return
		}
		p := c.take()
		c.mu.Unlock()
		if len(p.bytes) > 0 {
			n, err := c.nc.Write(p.bytes)
			c.wrote(n)
			if err != nil {
				c.mu.Lock()
				c.fail(err)
				c.stopWriting()
				c.mu.Unlock()
				return
			}
			p.recycle()
		}
		if c.starved.Swap(false) {
			t := c.broker.beginTurn()
			c.session.pump(t)
			t.end()
		}
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
	c.dropOutbox()
	c.stop(err)
}

// lastWords is how long a client has to take the last bytes before its connection is closed.
const lastWords = 2 * time.Second

// close writes what is left in the outbox, the packet p behind it, and closes the connection. It waits for a client that
// reads slowly, but not long.
func (c *conn) close(p []byte) {
	if !c.socket.onLoop() { // wakes who writes
		c.limitWrites()
	}
	c.stopOthers()
	c.mu.Lock()
	var b []byte
	for !c.nothingToWrite() {
		b = append(b, c.take().bytes...)
	}
	b = append(b, p...)
	failed := c.failed || c.corked
	c.mu.Unlock()
	if failed || len(b) == 0 {
		c.shut()
		return
	}
	if c.socket.onLoop() {
		if c.reclaim() != nil {
			return
		}
		c.limitWrites()
	}
	n, err := c.nc.Write(b)
	c.wrote(n)
	if err == nil && len(p) > 0 {
		c.linger()
	}
	_ = c.nc.Close()
}

// limitWrites sets when the client must have taken the last bytes.
func (c *conn) limitWrites() {
	patience := lastWords
	if c.short.Load() {
		patience /= 8 // what it has not read yet takes the memory for which it has to go
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
}

// stopOthers waits until nobody writes to the connection; nobody else does any more.
func (c *conn) stopOthers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		drained := make(chan struct{})
		c.drained = drained
		c.mu.Unlock()
		<-drained
		c.mu.Lock()
	}
	c.writing = true // for good
}

// shut closes the connection without a word. On a loop nobody else may be writing.
func (c *conn) shut() {
	if c.socket.onLoop() {
		c.broker.loops.poll.Shut(c.forgetSocket())
	} else {
		_ = c.nc.Close()
	}
}

// cut closes a connection whose client does not listen any more.
func (c *conn) cut() {
	if c.socket.onLoop() {
		c.stopOthers()
	}
	c.shut()
}

// hurry closes the connection while somebody may still serve it.
func (c *conn) hurry() {
	c.short.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nc != nil {
		_ = c.nc.Close()
	}
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
