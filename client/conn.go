package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

const (
	outLimit     = 1 << 20          // bytes that wait to be written; beyond it, publishers wait
	queueLimit   = 4096             // publications that wait for the window; beyond it, publishers wait
	requestLimit = 1024             // SUBSCRIBE and UNSUBSCRIBE without an answer; beyond it, their callers wait
	writeTimeout = 60 * time.Second // for writeChunk
	writeChunk   = 64 << 10         // bytes written under one deadline
	closeWait    = 5 * time.Second  // for the last bytes to be written
	lingerWait   = time.Second      // for the server to close after that
)

// Conn is one connection to a server that has accepted it. It must be closed.
type Conn struct {
	nc        net.Conn
	cfg       Config // with defaults
	version   mqtt.Version
	clientID  string
	keepAlive time.Duration // zero: off
	connack   mqtt.Connack
	kept      bool // the server has its half of the session
	receive   receiveLimits
	sending   sendLimits
	box       *mailbox // of Config.Handler; nil when there is none

	received, dropped, unhandled, published, acknowledged atomic.Uint64 // messages

	// The reader's own.
	in        input
	publish   mqtt.Publish // the last one
	names     names
	boxes     []*mailbox
	aliasesIn session.AliasesIn

	ended  chan struct{} // closed when the connection is over: the server is told, nothing else is sent
	closed chan struct{} // closed when the stream is
	done   chan struct{} // closed when the handler has returned, too

	starting sync.WaitGroup // the Exchange is being asked to begin again: it cannot serve the next connection yet

	mu         *sync.Mutex // Session.mu: guards all below
	err        error       // why the connection is over
	cut        bool        // at the end, write nothing more
	out        []byte      // waits to be written
	after      uint64      // what has to be on the disk before out is written, see keeper
	ackBytes   int         // of out: bytes that the server has caused
	wake       sync.Cond   // the writer's: out, err
	aliasesOut session.AliasesOut
	acks       acks

	requests map[uint16]*request // SUBSCRIBE, UNSUBSCRIBE
	held     *heldPublish        // nil almost always
	reauth   *request            // re-authentication under way

	lastRead, lastWrite, lastPing time.Time
	paused                        bool // the reader waits for the handler
	timer                         *time.Timer
}

func newConn(nc net.Conn, cfg Config) *Conn {
	c := &Conn{
		nc: nc, cfg: cfg, version: cfg.Version, receive: limitsOf(&cfg), mu: &cfg.Session.mu,
		ended: make(chan struct{}), closed: make(chan struct{}), done: make(chan struct{}),
		requests: make(map[uint16]*request),
	}
	c.in.r = nc
	c.wake.L = c.mu
	if cfg.Handler != nil && cfg.Session.keeper == nil {
		c.box = newMailbox(cfg.Session, cfg.Handler, false)
	}
	return c
}

// start begins the life of an accepted connection.
func (c *Conn) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.r = readerFunc(c.readStream)
	now := time.Now()
	c.lastRead, c.lastWrite, c.lastPing = now, now, now
	if c.keepAlive > 0 {
		c.timer = time.AfterFunc(c.pingEvery(), c.checkAlive)
	}
	c.startSession()
	go c.run()
}

// startSession begins a connection of the session: what is on its way is sent again.
func (c *Conn) startSession() {
	s := c.cfg.Session
	if !c.kept {
		s.forget() // [MQTT-3.2.2-5]
	}
	s.conn = c
	s.in.Connected(c.receive.maximum)
	s.out.Connected(min(c.cfg.MaxInflight, c.sending.receiveMaximum))
	c.aliasesIn.Reset(c.receive.aliases)
	c.aliasesOut.Reset(c.sending.aliases)
	if s.keeper != nil {
		s.keeper.started(c, c.kept)
	}
	for id := range s.out.Released() {
		c.appendAck(mqtt.Ack{Type: mqtt.PUBREL, PacketID: id}) // [MQTT-4.4.0-1]
	}
	c.pump()
}

// run owns the goroutines of the connection.
func (c *Conn) run() {
	var stream, handler sync.WaitGroup
	stream.Go(c.writeAll)
	if c.box != nil {
		handler.Go(c.box.run)
	}
	c.readAll()
	stream.Wait()
	_ = c.nc.Close()
	close(c.closed)
	handler.Wait()
	c.starting.Wait()
	c.cfg.Session.inUse.Store(false)
	close(c.done)
}

// end makes the connection end because of err, once. With flush, what waits to be written still is, and last behind it, which may
// be nil.
func (c *Conn) end(err error, flush bool, last *mqtt.Disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err, c.cut = err, !flush
	if s := c.cfg.Session; s.conn == c {
		s.conn = nil
		if s.keeper != nil {
			s.keeper.ended(c)
		}
	}
	if last != nil {
		c.out = last.Append(c.out, c.version)
	}
	limit := past
	if flush {
		limit = time.Now().Add(closeWait)
	}
	_ = c.nc.SetWriteDeadline(limit)
	if c.timer != nil {
		c.timer.Stop()
	}
	c.failAll(err)
	c.closeBox()
	close(c.ended)
	c.wake.Broadcast()
	c.cfg.Session.room.Broadcast()
}

// closeBox lets the handler have what has arrived, unless this side has ended the connection.
func (c *Conn) closeBox() {
	if c.box == nil {
		return
	}
	if c.err == ErrClosed {
		c.box.discard()
	}
	c.box.close()
}

// failAll tells everybody who waits for an answer that there will be none. The messages of a Client go on without the connection.
func (c *Conn) failAll(err error) {
	if s := c.cfg.Session; s.keeper == nil {
		s.failPublications(err)
	}
	for _, r := range c.requests {
		r.fail(err)
	}
	if c.reauth != nil {
		c.reauth.fail(err)
	}
	c.requests, c.reauth = nil, nil
}

// Done is closed when the connection has ended, whatever the reason, the handler has returned, and the [Session] may be used
// again. The handler must not wait for it.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection lives and then why it ended: [ErrClosed] after Close and Disconnect, a [ServerError]
// after a DISCONNECT of the server.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// ClientID returns the Client Identifier, that which the server assigned if it did. It is empty when a server of MQTT 3.1.1
// chose one: it does not tell.
func (c *Conn) ClientID() string { return c.clientID }

// Version returns the protocol version.
func (c *Conn) Version() mqtt.Version { return c.version }

// Connack returns what the server answered. The properties are shared and must not be changed.
func (c *Conn) Connack() mqtt.Connack { return c.connack }

// KeepAlive returns the Keep Alive in force, which the server may have chosen; zero when there is none.
func (c *Conn) KeepAlive() time.Duration { return c.keepAlive }

// Dropped returns how many messages of QoS 0 were dropped because the handler was too slow.
func (c *Conn) Dropped() uint64 { return c.dropped.Load() }

// Close ends the connection with a normal DISCONNECT, after what was given to it before, and waits until that is written or 5
// seconds have passed, and up to one more for the server to close. Messages that wait for the handler are not given to it any more;
// those of QoS 1 and 2 the server has not seen acknowledged. The handler may call it. It returns nil, or why the connection had ended
// before.
func (c *Conn) Close() error { return c.Disconnect(context.Background(), mqtt.Disconnect{}) }

// Disconnect is Close with another Reason Code or with properties (MQTT 5.0), and with a context: when it is done, the stream is
// closed at once and its error returned. A code that MQTT 3 does not have closes such a connection without DISCONNECT, so that the
// server publishes the Will.
func (c *Conn) Disconnect(ctx context.Context, d mqtt.Disconnect) error {
	last := &d
	if c.version != mqtt.V5 && d.Code != mqtt.Success {
		last = nil
	}
	c.end(ErrClosed, true, last)
	select {
	case <-c.closed:
	case <-ctx.Done():
		c.cutShort()
		<-c.closed
		return ctx.Err()
	}
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// cutShort stops the polite end.
func (c *Conn) cutShort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	_ = c.nc.SetDeadline(past)
}

// append adds a packet to what the writer writes, holding mu.
func (c *Conn) append(packet []byte) {
	c.out = append(c.out, packet...)
	c.wake.Signal()
}

// await waits, holding mu, until ready reports true. The error is ctx's, or why the connection ended.
func (c *Conn) await(ctx context.Context, ready func() bool) error {
	return c.cfg.Session.await(ctx, func() (bool, error) { return c.err == nil && ready(), c.err })
}

// await waits, holding mu, until ready reports true or an error, or ctx is done.
func (s *Session) await(ctx context.Context, ready func() (bool, error)) error {
	if ok, err := ready(); ok || err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.room.Broadcast()
	})
	defer stop()
	s.waiting++
	defer func() { s.waiting-- }()
	s.room.Broadcast() // the reader may have to read on
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		s.room.Wait()
	}
}
