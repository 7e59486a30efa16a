package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// writeAll is the writer: it writes what others append to out, all that there is at once.
func (c *Conn) writeAll() {
	var spare []byte
	for {
		b, after, ok := c.takeOut(spare)
		if !ok {
			break
		}
		if after > 0 && !c.cfg.Session.keeper.safe(after) {
			c.end(errors.New("what was sent cannot be written down"), false, nil)
			break
		}
		if err := c.writeStream(b); err != nil {
			c.end(fmt.Errorf("writing: %w", err), false, nil)
			break
		}
		if spare = b[:0]; cap(spare) > 2*outLimit {
			spare = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := time.Now().Add(lingerWait)
	if c.cut {
		limit = past
	}
	_ = c.nc.SetReadDeadline(limit) // the reader ends
}

// takeOut waits for something to write, and for what must be safe before it is. ok is false when there will be nothing any more.
func (c *Conn) takeOut(spare []byte) (b []byte, after uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) == 0 && c.err == nil {
		c.wake.Wait()
	}
	if c.cut || len(c.out) == 0 {
		return nil, 0, false
	}
	b, c.out, c.ackBytes = c.out, spare, 0
	after, c.after = c.after, 0
	c.pump()
	c.cfg.Session.room.Broadcast()
	return b, after, true
}

// writeStream writes b. A server that takes no chunk of it in time has gone.
func (c *Conn) writeStream(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		c.limitWrite()
		if _, err := c.nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastWrite = time.Now()
	return nil
}

// limitWrite sets the deadline of the next chunk, unless end has set the last one.
func (c *Conn) limitWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
}

// awaitDisk keeps back what is written next until the disk has a note, holding mu.
func (c *Conn) awaitDisk(after uint64) { c.after = max(c.after, after) }

// appendAck appends an answer, holding mu.
func (c *Conn) appendAck(a mqtt.Ack) {
	before := len(c.out)
	c.out = a.Append(c.out, c.version)
	c.ackBytes += len(c.out) - before
	c.wake.Signal()
}

// pingEvery is a little less than the Keep Alive, within which something must be sent [MQTT-3.1.2-20].
func (c *Conn) pingEvery() time.Duration { return c.keepAlive - c.keepAlive/10 }

// checkAlive sends PINGREQ when one of the two directions has been silent, and ends the connection when nothing has been heard for
// one and a half times the Keep Alive.
func (c *Conn) checkAlive() {
	if !c.ping(time.Now()) {
		c.end(fmt.Errorf("%w: nothing heard from the server for %v", mqtt.KeepAliveTimeout, c.keepAlive*3/2), false, nil)
	}
}

// ping sends a PINGREQ if one is due and reports whether the server may be alive.
func (c *Conn) ping(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return true // the timer is not set again
	}
	if c.paused {
		c.lastRead = now // we do not listen
	}
	dead := c.lastRead.Add(c.keepAlive * 3 / 2)
	if !now.Before(dead) {
		return false
	}
	if !now.Before(c.nextPing()) {
		c.append(mqtt.AppendPingreq(nil))
		c.lastPing, c.lastWrite = now, now
	}
	next := c.nextPing()
	if dead.Before(next) {
		next = dead
	}
	c.timer.Reset(next.Sub(now))
	return true
}

// nextPing is when a PINGREQ is due, unless something is sent and heard before. One that was sent counts as heard: a second one
// would not help.
func (c *Conn) nextPing() time.Time {
	since := c.lastRead
	if c.lastPing.After(since) {
		since = c.lastPing
	}
	if c.lastWrite.Before(since) {
		since = c.lastWrite
	}
	return since.Add(c.pingEvery())
}
