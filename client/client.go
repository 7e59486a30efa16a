package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// Client is a client that connects again by itself. Make one with [Dial]; it must be closed. Its methods may be called by many
// goroutines at once, handlers included.
type Client struct {
	set     *settings
	session *Session
	queue   *queue // nil without WithQueue
	events  events

	ctx    context.Context // of the attempts to connect
	cancel context.CancelFunc

	handlers sync.WaitGroup // goroutines that run handlers
	stopped  chan struct{}  // closed when nothing connects any more
	done     chan struct{}  // closed when the handlers have returned, too

	// The supervisor's own.
	servers []*server
	next    int     // of servers, to try first
	current *server // of the last connection
	detour  *server // where the last server sends us; nil mostly
	wait    backoff
	begun   bool // there was a connection
	strikes strikes

	// Session.mu guards all below.
	err     error // why the client is over
	fatal   error // why it has to be, if it was not closed
	closing bool
	last    lastServer
	subs    subscriptions
	rest    *mailbox // of Config.Handler; nil when there is none
	parked  *mailbox // see park; nil mostly
	parking *time.Timer
	past    Stats    // of connections that have ended
	failed  error    // why there is no connection; nil while there is one, or before the first attempt
	replies *replies // nil before the first Request

	refused atomic.Uint64
}

// lastServer is what is known of the server that accepted last.
type lastServer struct {
	known   bool
	version mqtt.Version
	limits  sendLimits
	info    Connected
}

// Connected describes a connection.
type Connected struct {
	Server         string // its URL, without user and password
	Version        mqtt.Version
	ClientID       string
	SessionPresent bool          // the server has kept the session
	KeepAlive      time.Duration // zero when there is none
	Connack        mqtt.Connack  // the properties are shared and must not be changed
}

// Dial connects to the server that a URL names, or to one of those that [WithServers] adds: mqtt (or tcp), mqtts, ws, wss or unix, as in
// [transport.Dial]. It tries each once, within ctx, and returns when one has accepted; from then on the client connects again whenever
// a connection ends. With [WithLazyConnect] it returns at once.
//
// What can never work is a [ConfigError], a refusal a [ServerError].
func Dial(ctx context.Context, url string, opts ...Option) (*Client, error) {
	c, err := newClient(settingsOf(url, opts))
	if err != nil {
		return nil, err
	}
	var conn *Conn
	if !c.set.lazy {
		if conn, err = c.pass(ctx); err != nil {
			c.finish(ErrClosed)
			return nil, err
		}
	}
	go c.run(conn)
	return c, nil
}

func newClient(set *settings) (*Client, error) {
	c := &Client{
		set: set, session: new(Session), wait: backoff{least: set.backoffMin, most: set.backoffMax},
		stopped: make(chan struct{}), done: make(chan struct{}),
	}
	if err := c.configure(); err != nil {
		return nil, &ConfigError{"options", err}
	}
	for _, raw := range set.servers {
		s, err := parseServer(raw)
		if err != nil {
			return nil, &ConfigError{"server", err}
		}
		c.servers = append(c.servers, s)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.session.prepare()
	c.session.keeper = c
	c.subs.init()
	if set.queueDir != "" {
		q, err := openQueue(set.queueDir, set.queueBytes, c)
		if err != nil {
			return nil, &ConfigError{"queue", err}
		}
		c.queue = q
	}
	if set.cfg.Handler != nil {
		c.rest = newMailbox(c.session, set.cfg.Handler, false)
		c.handlers.Go(c.rest.run)
	}
	return c, nil
}

// configure completes and checks the settings.
func (c *Client) configure() error {
	cfg := &c.set.cfg
	switch {
	case cfg.Session != nil:
		return errors.New("the session of a Client is its own: Config.Session must be nil")
	case c.set.keep && cfg.ClientID == "":
		return errors.New("a session that outlives the program needs a client id")
	case c.set.backoffMin > c.set.backoffMax:
		return fmt.Errorf("backoff from %v to %v", c.set.backoffMin, c.set.backoffMax)
	case c.set.queueBytes < 0:
		return errors.New("queue limit is negative")
	}
	if err := c.set.applyProxy(); err != nil {
		return err
	}
	if name := c.set.replyTopic; name != "" {
		if err := topic.ValidateName(name, topic.Limits{}); err != nil {
			return fmt.Errorf("reply topic: %w", err)
		}
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "magpie-" + rand.Text()[:16] // 1 to 23 characters, says MQTT 3.1
	}
	if cfg.TopicAliasMaximum == 0 {
		cfg.TopicAliasMaximum = defaultAliases
	}
	if cfg.SessionExpiry == 0 && !c.set.keep {
		cfg.SessionExpiry = defaultSessionExpiry
	}
	_, err := c.configFor(cfg.Version, true).withDefaults()
	return err
}

// Done is closed when the client is over, because it was closed or because it can never connect, its handlers have returned, and the folder
// of [WithQueue] is free for another. A handler must not wait for it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the client lives and then why it is over: [ErrClosed], or why it can never connect.
func (c *Client) Err() error {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.err
}

// ClientID returns the Client Identifier.
func (c *Client) ClientID() string { return c.set.cfg.ClientID }

// Server describes the connection. ok is false while there is none.
func (c *Client) Server() (info Connected, ok bool) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.last.info, c.session.conn != nil
}

// Wait waits until there is a connection. The error says why there is none: ctx's and [ErrOffline], or as Err.
func (c *Client) Wait(ctx context.Context) error {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.awaitConn(ctx, func(*Conn) bool { return true })
}

// awaitConn waits, holding mu, for a connection that is ready.
func (c *Client) awaitConn(ctx context.Context, ready func(*Conn) bool) error {
	err := c.session.await(ctx, func() (bool, error) {
		if err := c.over(); err != nil {
			return false, err
		}
		return c.session.conn != nil && ready(c.session.conn), nil
	})
	return c.explain(err)
}

// over returns why nothing new is begun, holding mu.
func (c *Client) over() error {
	if c.err == nil && c.closing {
		return ErrClosed
	}
	return c.err
}

// explain adds to the end of a context that there was no connection, holding mu.
func (c *Client) explain(err error) error {
	if err == nil || c.session.conn != nil || c.over() != nil {
		return err
	}
	if c.failed != nil {
		return fmt.Errorf("%w (%w): %w", ErrOffline, c.failed, err)
	}
	return fmt.Errorf("%w: %w", ErrOffline, err)
}

// Reauthenticate runs the exchange of [WithExchange] again on the connection there is (§4.12.1), see [Conn.Reauthenticate].
func (c *Client) Reauthenticate(ctx context.Context) error {
	conn, err := c.conn(ctx)
	if err != nil {
		return fmt.Errorf("re-authentication: %w", err)
	}
	return conn.Reauthenticate(ctx)
}

func (c *Client) conn(ctx context.Context) (*Conn, error) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if err := c.awaitConn(ctx, func(*Conn) bool { return true }); err != nil {
		return nil, err
	}
	return c.session.conn, nil
}

// Close ends the client. First it waits until what was published has arrived: every message of QoS 1 and 2, or, with [WithQueue], those
// somebody waits for while there is a connection; the others stay in the queue. Then it disconnects. When ctx is done it stops waiting,
// and its error says how much is lost. Nothing new may be published or subscribed to meanwhile; messages that arrive are still handled.
// It does not wait for handlers, which may call it: see Done.
func (c *Client) Close(ctx context.Context) error {
	lost := c.drain(ctx)
	c.cancel()
	c.disconnect(ctx)
	<-c.stopped
	return lost
}

// drain waits until nothing is on its way to the server.
func (c *Client) drain(ctx context.Context) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	c.closing = true
	s.room.Broadcast()
	err := s.await(ctx, func() (bool, error) { return c.err != nil || c.drained(), nil })
	if err == nil {
		return nil
	}
	n := len(s.queued) + len(s.flying)
	if c.queue != nil {
		n = s.awaited
	}
	return fmt.Errorf("%d messages were not delivered: %w", n, c.explain(err))
}

func (c *Client) drained() bool {
	s := c.session
	if c.queue != nil {
		return s.awaited == 0 || s.conn == nil
	}
	return len(s.queued)+len(s.flying) == 0 // not what the session has: an old handshake may be open without its message
}

// disconnect ends the connection, and the session unless it is to outlive the program.
func (c *Client) disconnect(ctx context.Context) {
	c.session.mu.Lock()
	conn := c.session.conn
	c.session.mu.Unlock()
	if conn == nil {
		return
	}
	var d mqtt.Disconnect
	if !c.set.keep && conn.Version() == mqtt.V5 {
		d.Props = d.Props.WithInt(mqtt.SessionExpiryInterval, 0)
	}
	_ = conn.Disconnect(ctx, d) // whatever comes of it, the connection has ended
}

// finish ends everything, once nothing connects any more.
func (c *Client) finish(err error) {
	c.cancel()
	c.end(err)
	c.queue.settle()
	c.events.close()
	close(c.stopped)
	c.handlers.Wait()
	c.queue.close() // what handlers have finished is written down
	close(c.done)
}

// fail ends the client because of something that does not pass.
func (c *Client) fail(err error) {
	c.session.mu.Lock()
	if c.fatal == nil {
		c.fatal = err
	}
	conn := c.session.conn
	c.session.mu.Unlock()
	c.cancel()
	if conn != nil {
		conn.end(err, false, nil)
	}
}

// end tells everybody that the client is over.
func (c *Client) end(err error) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.fatal != nil {
		err = c.fatal
	}
	c.err, c.closing = err, true
	s.failPublications(err)
	c.subs.closeAll(err)
	if c.rest != nil {
		c.rest.discard()
		c.rest.close()
	}
	if c.parked != nil {
		c.parked.discard()
		c.unpark()
	}
	s.room.Broadcast()
}

// Stats are counters since Dial, and what waits now.
type Stats struct {
	Connections  uint64 // that a server has accepted
	Received     uint64 // messages
	Unhandled    uint64 // of these, for no subscription
	Dropped      uint64 // of QoS 0, because handlers were too slow
	Published    uint64 // messages that were sent; again counts again
	Acknowledged uint64 // of QoS 1 and 2, by the server
	Refused      uint64 // that will not arrive

	Pending      int // messages of QoS 1 and 2 that are not acknowledged yet
	PendingBytes int
	InboxBytes   int // messages that wait for handlers
}

// Stats returns the counters.
func (c *Client) Stats() Stats {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	st := c.past
	if s.conn != nil {
		st.add(s.conn)
	}
	st.Refused = c.refused.Load()
	st.Pending, st.PendingBytes = s.pending()
	st.InboxBytes = s.inboxBytes
	return st
}

// add counts what a connection has counted.
func (s *Stats) add(c *Conn) {
	s.Connections++
	s.Received += c.received.Load()
	s.Unhandled += c.unhandled.Load()
	s.Dropped += c.dropped.Load()
	s.Published += c.published.Load()
	s.Acknowledged += c.acknowledged.Load()
}
