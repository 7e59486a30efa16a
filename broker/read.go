package broker

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// readSize is the size of the buffer that a connection borrows while it has something to read. Idle connections hold none.
const readSize = 64 << 10

var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// input is the front of a connection: bytes that arrived and are not processed yet. It holds a pooled buffer only while
// there are any, or while the read that fills it is under way.
type input struct {
	buf    []byte           // len is what a read may fill; buf[:n] arrived
	n      int              // bytes that arrived and wait
	need   int              // size of the packet that they begin, when known
	pooled *[readSize]byte  // where buf comes from; nil when it was made for one large packet
	little *[outBuffer]byte // the same for a connection that is not accepted yet
	kept   []byte           // the bytes of an unfinished packet while no buffer is held
	small  bool             // not accepted yet: a stranger gets a small buffer
	own    []byte           // the small buffer of a connection that cannot wait without one
}

// ownSize is the size of the buffer of a connection that can only be read by waiting with a buffer: TLS, WebSocket.
const ownSize = 4 << 10

// acquire makes room to read into.
func (in *input) acquire() {
	switch {
	case in.buf == nil && in.own != nil:
		in.buf = in.own
	case in.buf == nil:
		in.borrow()
		in.n = copy(in.buf, in.kept)
		in.kept = nil
	}
	if in.n == len(in.buf) { // a packet larger than the buffer: grow as its bytes come, never ahead of them
		grown := make([]byte, max(min(2*len(in.buf), in.need), in.n+1))
		copy(grown, in.buf[:in.n])
		in.free()
		in.buf = grown
	}
}

// borrow takes a buffer from a pool.
func (in *input) borrow() {
	if in.small {
		in.little = outBuffers.Get().(*[outBuffer]byte)
		in.buf = in.little[:]
		return
	}
	in.pooled = readBuffers.Get().(*[readSize]byte)
	in.buf = in.pooled[:]
}

// borrowed reports whether the buffer belongs to a pool.
func (in *input) borrowed() bool { return in.pooled != nil || in.little != nil }

// holds returns how many bytes the connection keeps while it waits for the rest of a packet.
func (in *input) holds() int {
	if in.buf == nil || in.borrowed() {
		return in.n
	}
	return len(in.buf)
}

// release gives the buffer back and keeps the bytes of an unfinished packet.
func (in *input) release() {
	if !in.borrowed() {
		return // one large packet is on its way: its buffer stays
	}
	if in.n > 0 {
		in.kept = append([]byte(nil), in.buf[:in.n]...)
	}
	in.free()
}

func (in *input) free() {
	if in.pooled != nil {
		readBuffers.Put(in.pooled)
	}
	if in.little != nil {
		outBuffers.Put(in.little)
	}
	in.pooled, in.little, in.buf = nil, nil, nil
}

// consume drops the first used bytes.
func (in *input) consume(used int) {
	if used == 0 {
		return
	}
	in.n = copy(in.buf, in.buf[used:in.n])
	if !in.borrowed() && in.n == 0 {
		in.buf = nil
	}
}

// serve reads the connection until it ends and returns why: nil after a DISCONNECT.
func (c *conn) serve() error {
	for {
		n, err := c.fill()
		if cause := c.ending(); cause != nil {
			return c.finishReading(cause)
		}
		if err != nil {
			return lost(err)
		}
		t := c.broker.beginTurn()
		c.lastRead.Store(int64(t.now.Sub(c.broker.started)))
		t.bytesIn += n
		err = c.digest(t)
		t.end()
		if err != nil {
			return err
		}
		if c.wait(n); c.park() {
			return errParked
		}
	}
}

// errParked ends the goroutine of a connection that a loop serves from now on.
var errParked = errors.New("served by a loop")

// digest processes what was read.
func (c *conn) digest(t *turn) error {
	used, err := c.process(c.in.buf[:c.in.n], t)
	c.in.consume(used)
	if err == nil || err == errMustWait {
		c.noteUnfinished(c.in.holds())
	}
	return err
}

// wait waits for whatever is behind its client, who has just been read n bytes of.
func (c *conn) wait(n int) {
	c.bucket.pause(c)
	c.awaitReader()
	c.awaitStore()
	c.awaitMemory(n)
}

// mustWait reports whether wait would.
func (c *conn) mustWait(n int) bool {
	return c.bucket.isEmpty() || c.outruns() || c.storeIsBusy() || c.tooGreedy(n)
}

// finishInput lets go of what was read and not processed.
func (c *conn) finishInput() {
	c.in.free()
	c.in.kept, c.in.own, c.in.n = nil, nil, 0
	c.noteUnfinished(0)
}

// lastReads bounds how much a connection that is to end still has processed.
const lastReads = 64

// finishReading processes what the client had sent before its connection was to end for a reason that is not its fault: it may
// have said goodbye and come back at once, so that its next connection overtook its DISCONNECT.
func (c *conn) finishReading(cause error) error {
	if cause != mqtt.SessionTakenOver && cause != mqtt.ServerShuttingDown {
		return cause
	}
	for range lastReads {
		if c.in.buf != nil { // else the beginning of a packet waits for the rest, or nothing
			t := c.broker.beginTurn()
			used, err := c.process(c.in.buf[:c.in.n], t)
			t.end()
			if err != nil {
				return err
			}
			c.in.consume(used)
		}
		if n, err := c.fillNow(); n == 0 || err != nil {
			break
		}
	}
	return cause
}

// awaitReader waits while the client does not read what it is sent: answers to its packets go to the outbox whatever is in
// there, so a client that asks and never listens is not asked for more.
func (c *conn) awaitReader() {
	for c.outruns() && c.ending() == nil {
		c.in.release()
		time.Sleep(10 * time.Millisecond)
	}
}

// outruns reports whether the client is sent more than it reads.
func (c *conn) outruns() bool { return (c.pending.Load()-readSize)/4 > c.broker.memory.outbox.Load() }

// greedyRead is how many bytes a read has to bring for its connection to be slowed down when memory is short.
const greedyRead = 16 << 10

// awaitMemory waits for a moment after a read of n bytes when memory is very short, so that who sends much leaves time for what was
// sent to be written, or collected.
func (c *conn) awaitMemory(n int) {
	for range 10 {
		if !c.tooGreedy(n) || c.ending() != nil {
			return
		}
		c.in.release()
		time.Sleep(10 * time.Millisecond)
	}
}

// tooGreedy reports whether a read of n bytes was a large one when memory is very short.
func (c *conn) tooGreedy(n int) bool { return n >= greedyRead && c.broker.memory.now() >= MemoryHard }

// awaitStore waits while the store has more to write than it can, so that publishers take the pace of the disk.
func (c *conn) awaitStore() {
	for c.storeIsBusy() && c.ending() == nil {
		c.in.release()
		time.Sleep(time.Millisecond)
	}
}

// storeIsBusy reports whether the store has more to write than it can.
func (c *conn) storeIsBusy() bool { return c.broker.store != nil && c.broker.store.Busy() }

// lost turns the end of the byte stream into an error for people.
func lost(err error) error {
	if errors.Is(err, io.EOF) {
		return errClosedByPeer
	}
	return err
}

var errClosedByPeer = errors.New("closed by the client without DISCONNECT")

// rawIO is a connection that can be waited for without a buffer, and written without waiting: a plain socket. Those of tests are rawIO
// themselves.
type rawIO interface {
	fill(in *input) (n int, err error)        // waits for bytes and reads them into in; one goroutine at a time
	fillNow(in *input) (n int, err error)     // reads into in what has arrived
	tryWrite(b []byte) (wrote int, err error) // writes what is taken at once; one goroutine at a time
}

// fill waits until bytes have arrived and reads them behind those that wait.
func (c *conn) fill() (n int, err error) {
	if c.raw != nil {
		return c.raw.fill(&c.in)
	}
	c.in.acquire()
	n, err = c.nc.Read(c.in.buf[c.in.n:])
	c.in.n += n
	if n > 0 {
		err = nil // it will come again
	}
	return n, err
}

// fillNow reads bytes that have arrived, and does not wait for more than a moment.
func (c *conn) fillNow() (n int, err error) {
	if c.looped {
		c.in.acquire()
		n, err = c.broker.loops.poll.Read(int(c.socket.fd), c.in.buf[c.in.n:])
		c.in.n += n
		return n, err
	}
	if c.raw != nil {
		return c.raw.fillNow(&c.in)
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	return c.fill()
}

// process handles every whole packet in b and returns how many bytes they took. It knows no transport. The error ends
// the connection; a [mqtt.ReasonCode] in it is told to the client.
func (c *conn) process(b []byte, t *turn) (used int, err error) {
	for used < len(b) {
		f, size, err := mqtt.ParseFrame(b[used:], c.version, c.limit)
		if err != nil {
			return used, err
		}
		if size == 0 || size > len(b)-used {
			c.in.need = size
			break
		}
		if t.looped && mayWait(f.Type) {
			return used, errMustWait
		}
		if err := c.handle(f, t); err == errMustWait {
			return used, err
		} else if t.in[f.Type]++; err != nil {
			return used, err
		}
		used += size
	}
	return used, nil
}

// mayWait reports whether a packet of this type may ask somebody who does not answer at once.
func mayWait(t mqtt.PacketType) bool {
	return t == mqtt.SUBSCRIBE || t == mqtt.UNSUBSCRIBE || t == mqtt.AUTH
}

// bucket is the token bucket of a client's publish rate: it pauses reading, it drops nothing.
type bucket struct {
	rate, burst float64 // messages per second; zero rate means no limit
	tokens      float64
	last        time.Time
}

// take pays for a message.
func (k *bucket) take() {
	if k != nil {
		k.tokens--
	}
}

// refill adds what time has brought.
func (k *bucket) refill() {
	now := time.Now()
	k.tokens = min(k.burst, k.tokens+now.Sub(k.last).Seconds()*k.rate)
	k.last = now
}

// isEmpty reports whether the client's messages have not been paid for.
func (k *bucket) isEmpty() bool {
	if k == nil {
		return false
	}
	k.refill()
	return k.tokens < 0
}

// pause waits until the client's messages have been paid for, or the connection is to end.
func (k *bucket) pause(c *conn) {
	for k.isEmpty() && c.ending() == nil {
		c.in.release()
		time.Sleep(min(time.Duration(-k.tokens/k.rate*float64(time.Second))+time.Millisecond, 100*time.Millisecond))
		c.lastRead.Store(int64(time.Since(c.broker.started))) // we are the ones who do not read
	}
}
