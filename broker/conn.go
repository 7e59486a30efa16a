package broker

import (
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// conn is one network connection.
type conn struct {
	broker   *Broker
	nc       net.Conn
	raw      rawIO  // nil when nc can only be read and written by waiting
	socket   socket // in place of both on a loop
	listener string
	config   *ListenerConfig
	remote   net.Addr
	address  string // the key of limits by address
	tls      *tls.ConnectionState
	began    time.Time

	// The goroutine that reads owns these. Those that others read are set before they can see the connection.
	in        input
	state     connState
	version   mqtt.Version
	limit     int // bytes of the largest packet
	maxPacket int // the client's Maximum Packet Size
	login     *login
	info      *ClientInfo
	session   *Session
	keepAlive time.Duration
	explains  bool // the client asked for reasons in words
	aliases   session.AliasesIn
	topics    map[string]*publishedTopic
	lastTopic *publishedTopic
	bucket    *bucket // nil when publishing has no limit

	lastRead atomic.Int64 // when bytes came last, as a time since Broker.started
	deadline *time.Timer  // see checkDeadline
	homely   bool         // no loop can have it
	expires  atomic.Int64 // when the client's credentials end, Unix nanoseconds; zero means never
	accepted atomic.Bool  // state is connected: info may be read by others
	cause    atomic.Pointer[error]

	pending atomic.Int64 // bytes appended to the outbox and not written yet
	starved atomic.Bool  // the session has more for the outbox when it is written

	settled    atomic.Int64  // pending as Broker.memory has it, in steps
	unfinished atomic.Int64  // bytes kept of a packet, as Broker.unfinished has them
	place      *list.Element // in Broker.unfinished, whose lock guards it
	aliasBytes atomic.Int64  // of long Topic Names that the client has given aliases
	squeezed   bool          // it came in at the soft level
	short      atomic.Bool   // it ends because memory is short
	freed      atomic.Bool   // it has ended and keeps nothing any more

	held      []held // what waits for the store, in order; guarded by Broker.holding.mu, like releasing
	releasing bool   // something that was held is being sent

	mu         sync.Mutex    // guards the outbox, which is all below; see outbox.go
	out        []byte        // to which packets are added
	dirty      bool          // on the list of a turn, which will flush
	corked     bool          // nothing is written yet: the store has to be safe first, see greet
	writing    bool          // somebody writes what was taken from the outbox
	looped     bool          // served by a loop: what the socket does not take is written when it takes more
	pieces     []piece       // in front of out
	blocked    bool          // it takes nothing now
	edge       bool          // it takes more since the last write began
	refilling  bool          // a goroutine gets what the session has for the outbox
	failed     bool          // the socket does not take bytes any more
	drained    chan struct{} // closed when writing becomes false; made by who waits for that
	aliasesOut session.AliasesOut
	over       bool          // the connection has left its session
	overNews   chan struct{} // closed then; made by who waits for that
}

type connState byte

const (
	expectConnect  connState = iota
	authenticating           // an exchange of AUTH packets is under way
	connected
)

// run serves the connection from its first byte to its end.
func (c *conn) run() {
	if err := c.serve(); err != errParked {
		c.finish(err)
	}
}

// finish ends the connection because of err. The caller served it.
func (c *conn) finish(err error) {
	defer c.broker.connTasks.Done()
	c.finishInput()
	c.stop(err)
	c.deadline.Stop()
	if c.session != nil {
		c.session.detach(c, err)
	}
	c.tellEnd()
	c.broker.ended(c, err)
	switch {
	case errors.As(err, new(*disconnected)), errors.Is(err, errClosedByPeer):
		c.cut()
	default:
		c.close(c.disconnectPacket(err))
	}
	c.mu.Lock()
	c.failed, c.out, c.pieces = true, nil, nil // nobody writes any more, nor starts a goroutine for it
	c.mu.Unlock()
	c.broker.memory.release(c)
	c.freed.Store(true)
}

// tellEnd wakes who waits for the end of the connection.
func (c *conn) tellEnd() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over = true; c.overNews != nil {
		close(c.overNews)
	}
}

// awaitEnd waits until the connection has left its session, but not long: its goroutine may be waiting for somebody else.
func (c *conn) awaitEnd() {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	if c.overNews == nil {
		c.overNews = make(chan struct{})
	}
	news := c.overNews
	c.mu.Unlock()
	most := time.NewTimer(time.Second)
	defer most.Stop()
	select {
	case <-news:
	case <-most.C:
	}
}

// stop ends the connection from outside of its goroutine: with the reason that the client will hear, if it is a code and
// the client knows codes. The first reason counts.
func (c *conn) stop(cause error) {
	if !c.cause.CompareAndSwap(nil, &cause) {
		return
	}
	switch onLoop, mine := c.socket.end(); {
	case mine:
		go c.leaveLoop(nil)
	case !onLoop:
		_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the goroutine that reads
	}
}

// ending returns why the connection is to end, nil while it is not.
func (c *conn) ending() error {
	if e := c.cause.Load(); e != nil {
		return *e
	}
	return nil
}

// checkDeadline runs when the client may have been silent for too long: it has to be accepted in time, and to send
// something in one and a half times the Keep Alive [MQTT-3.1.2-22]. It is set once and not moved by every packet.
func (c *conn) checkDeadline() {
	now := time.Now()
	if !c.accepted.Load() {
		c.stop(fmt.Errorf("no CONNECT was accepted in %v", c.broker.limits.ConnectTimeout))
		return
	}
	next := time.Duration(1<<63 - 1)
	if at := c.expires.Load(); at != 0 {
		if next = time.Unix(0, at).Sub(now); next <= 0 {
			c.stop(mqtt.MaximumConnectTime)
			return
		}
	}
	if k := c.keepAlive; k > 0 {
		idle := now.Sub(c.broker.started) - time.Duration(c.lastRead.Load())
		if idle >= k+k/2 {
			c.stop(mqtt.KeepAliveTimeout)
			return
		}
		next = min(next, k+k/2-idle)
	}
	if next < 1<<62 {
		c.deadline.Reset(next)
		if c.ending() != nil {
			c.deadline.Stop() // it may have been stopped for good just before
		}
	}
}

// explain returns the properties that tell a client in words which rule it broke, when it asked for that: Request Problem
// Information is 1 [MQTT-3.1.2-29]. Why a login failed is never told.
func (c *conn) explain(err error) mqtt.Properties {
	if !c.explains || err == nil {
		return nil
	}
	code, _ := reasonOf(err)
	text := err.Error()
	if code == mqtt.BadUserNameOrPassword || code == mqtt.NotAuthorized || text == code.Error() || len(text) > 512 {
		return nil
	}
	if len(text)+16 > c.maxPacket {
		return nil // [MQTT-3.2.2-19], [MQTT-3.14.2-3]
	}
	return mqtt.Properties(nil).WithString(mqtt.ReasonString, text)
}
