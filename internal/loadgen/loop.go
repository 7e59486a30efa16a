package loadgen

import (
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// loop is an event loop and all that belongs to it. Only its own goroutine touches it; others ask that goroutine with do.
type loop struct {
	*run
	poller poller
	conns  []*conn
	pubs   []*publisher // those of this loop
	lanes  []*lane
	todo   []*lane // those that may have something to send
	spare  []*lane // the list before that
	dirty  []*conn // those that have something to be flushed
	now    int64

	commands chan func()
	over     bool
	sleeping atomic.Bool // or about to, for loops that would wake it

	connecting connecting
	sending    bool
	leaving    bool
	pace       pace
	left       int64 // messages that may still be sent
	turn       int   // whose turn it is, with a rate
	read       int64 // when the sockets were read last
	tended     int64 // when tend was called last
	keepAlive  int64 // nanoseconds; zero is never
	pinged     int64 // when idle connections were looked for last

	counters
	latency, acks, connacks histogram
	from, until             int64 // messages of this time count for the latencies
	waited                  int64 // nanoseconds in all
	failures, drops         map[string]int
	firstFailure            error
}

// counters are what a loop has seen.
type counters struct {
	connected, closed, failed, disconnects int // connections; disconnects are those that had been ready
	publishers, subscribers                int // those that are ready

	sent, acked, refused, expected, throttled       uint64
	unique, duplicated, outOfOrder, foreign, stalls uint64
	bytesIn, bytesOut                               uint64
	lastSeen                                        int64 // when a message or an acknowledgement came last
	lastMoved                                       int64 // when bytes went or came last: large messages take their time
}

// serve is the goroutine of the loop.
func (l *loop) serve() {
	for !l.over {
		l.obey()
		l.now = now()
		more := l.work()
		l.flushAll()
		d := l.rest(more)
		l.poller.wait(d)
		l.sleeping.Store(false)
	}
	for _, c := range l.conns {
		l.end(c, nil)
	}
	l.poller.close()
}

// do has f run on the loop's goroutine, and waits for it.
func (l *loop) do(f func()) {
	done := make(chan struct{})
	l.commands <- func() {
		f()
		close(done)
	}
	l.poller.wake()
	<-done
}

func (l *loop) obey() {
	for {
		select {
		case f := <-l.commands:
			f()
		default:
			return
		}
	}
}

// work does what no event asks for. It reports whether there is more to be done at once.
func (l *loop) work() (more bool) {
	more = l.connectMore()
	if l.sending {
		more = l.pump() || more
	}
	if l.now-l.tended > int64(100*time.Millisecond) {
		l.tended = l.now
		l.tend()
	}
	return more
}

// rest prepares to wait, and returns for how long.
func (l *loop) rest(more bool) time.Duration {
	if more || l.over {
		return 0
	}
	if l.sending && l.pace.rate == 0 && l.gap > 0 {
		if d := l.read + l.gap - now(); d > 0 {
			l.poller.sleep(time.Duration(d))
		}
		l.read = now()
	}
	l.sleeping.Store(true)
	if l.crossing && l.sending && l.pace.rate == 0 && l.canPump() {
		return 0 // the window opened before others could see that we sleep
	}
	return l.patience()
}

// patience is how long nothing need be done.
func (l *loop) patience() time.Duration {
	d := int64(50 * time.Millisecond)
	at := now()
	if l.sending && l.pace.rate > 0 && l.left > 0 {
		d = min(d, l.pace.next()-at)
	}
	if next, ok := l.connecting.next(); ok {
		d = min(d, next-at)
	}
	return time.Duration(max(d, 0))
}

// mark puts a connection on the list of those to be flushed.
func (l *loop) mark(c *conn) {
	if !c.dirty {
		c.dirty = true
		l.dirty = append(l.dirty, c)
	}
}

// flushAll writes what was appended, once for each connection.
func (l *loop) flushAll() {
	for _, c := range l.dirty {
		c.dirty = false
		if !c.blocked {
			l.flush(c)
		}
	}
	l.dirty = l.dirty[:0]
}

func (l *loop) flush(c *conn) {
	if c.state == closed || c.backlog() == 0 {
		return
	}
	before := c.backlog()
	err := l.poller.flush(c)
	if n := before - c.backlog(); n > 0 {
		l.bytesOut += uint64(n)
		l.lastMoved = l.now
	}
	if err != nil {
		l.end(c, err)
	}
}

// writable is told when a socket that was full has room again.
func (l *loop) writable(c *conn) {
	c.blocked = false
	l.lastMoved = l.now
	l.flush(c)
	if c.pub != nil && !c.blocked {
		l.queue(c.pub.lane)
	}
}

// took is told when all of a read was taken: those who wait for the window may go on.
func (l *loop) took(c *conn) {
	if c.sub == nil || c.sub.lane == nil {
		return
	}
	ln := c.sub.lane
	ln.settle(c.sub)
	l.queue(ln)
	if !l.crossing {
		return
	}
	for _, other := range ln.group.lanes {
		if other != ln && other.loop.sleeping.Load() {
			other.loop.poller.wake()
		}
	}
}

// end ends a connection. The error says why, and is nil for those that are of no use any more.
func (l *loop) end(c *conn, err error) {
	if c.state == closed {
		return
	}
	before := c.state
	c.state = closed
	if before != waiting {
		l.poller.drop(c)
	}
	c.out, c.head = nil, 0
	l.closed++
	switch {
	case before == ready:
		l.lose(c, err)
	case err != nil:
		l.failed++
		l.failures[err.Error()]++
		if l.firstFailure == nil {
			l.firstFailure = err
		}
	}
	if before != waiting && before != ready {
		l.connecting.underWay--
	}
}

// lose notes that a connection is no more which had been ready.
func (l *loop) lose(c *conn, err error) {
	if c.pub != nil {
		l.publishers--
	}
	if c.sub != nil {
		l.subscribers--
		if c.sub.lane != nil {
			c.sub.lane.forget(c.sub)
		}
	}
	if err != nil && !l.leaving {
		l.disconnects++
		l.drops[err.Error()]++
	}
}

// tend does what has to be done now and then.
func (l *loop) tend() {
	for _, ln := range l.lanes {
		if l.sending && ln.stalled(l.now) {
			l.stalls++
			ln.giveUp()
			ln.last = l.now
			l.queue(ln)
		}
	}
	if l.keepAlive > 0 && l.now-l.pinged > int64(time.Second) {
		l.pinged = l.now
		l.ping()
	}
}

// ping keeps idle connections alive.
func (l *loop) ping() {
	for _, c := range l.conns {
		if c.state == ready && l.now-c.wrote > l.keepAlive/2 {
			c.out = mqtt.AppendPingreq(c.out)
			c.wrote = l.now
			l.mark(c)
		}
	}
}

// leave says goodbye on every connection, and removes what was retained.
func (l *loop) leave() {
	l.leaving, l.sending = true, false
	l.connecting.stop()
	for _, c := range l.conns {
		if c.state != ready {
			l.end(c, nil)
			continue
		}
		if c.pub != nil && l.plan.Retain {
			m := mqtt.Publish{Topic: []byte(numbered(l.plan.Topic, c.number)), Retain: true}
			c.out = m.Append(c.out, l.version)
		}
		var d mqtt.Disconnect
		c.out = d.Append(c.out, l.version)
		l.mark(c)
	}
}
