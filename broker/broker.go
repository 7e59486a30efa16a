package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
	"github.com/magpiemq/magpie/transport"
)

// Broker is an MQTT server. Its methods may be called by many goroutines at once.
type Broker struct {
	config          Config
	limits          Limits // with defaults
	topicLimits     topic.Limits
	listenerConfigs map[string]*ListenerConfig
	log             *slog.Logger
	logLimit        logLimit
	started         time.Time
	ctx             context.Context // done when the broker shuts down
	cancel          context.CancelFunc
	connTasks       sync.WaitGroup // goroutines of connections
	lingering       atomic.Int64   // see linger
	tasks           sync.WaitGroup // all others

	hooks       atomic.Pointer[hooks]
	accessEpoch atomic.Uint64 // changes when permissions do; starts at 1
	stats       stats
	memory      memory
	unfinished  unfinished
	loops       loops
	subs        subscriptions
	retained    retained
	holding     holding
	store       store.Store           // nil when nothing outlives the process
	lastSession atomic.Uint64         // number in the store given last
	lastEnd     atomic.Uint64         // position in the store of the last end of a session
	failure     atomic.Pointer[error] // of the store; nil while it works
	limbo       limbo                 // what is on its way between sessions, where a checkpoint cannot see it
	owning      sync.RWMutex          // held for reading from when the store is told of a message until every session has it
	moving      sync.RWMutex          // held for reading while messages are read whose places stay in a session; see clean.go

	mu        sync.RWMutex // guards all below
	sessions  map[string]*Session
	accounts  map[string]*account // by user
	locals    map[*LocalSubscription]struct{}
	conns     map[*conn]struct{}
	waiting   int            // conns that are not accepted yet
	byAddress map[string]int // conns, while that is limited
	byName    map[string]int // conns by listener
	listeners map[net.Listener]struct{}
	observers []*Events
	closing   bool
}

// New makes a broker. It has no listener yet but works for subscribers and publishers in process. Shutdown ends it.
func New(cfg Config) (*Broker, error) {
	b := &Broker{
		config: cfg, store: cfg.Store, limits: cfg.Limits.withDefaults(cfg.Store != nil), log: cfg.Logger, started: time.Now(),
		sessions: make(map[string]*Session), accounts: make(map[string]*account), locals: make(map[*LocalSubscription]struct{}), conns: make(map[*conn]struct{}),
		byAddress: make(map[string]int), byName: make(map[string]int), listeners: make(map[net.Listener]struct{}),
		observers: []*Events{&cfg.Events},
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.topicLimits = topic.Limits{MaxBytes: min(b.limits.TopicBytes, 65_535), MaxLevels: b.limits.TopicLevels}
	for _, l := range []int{b.limits.PacketSize, b.limits.ConnectSize} {
		if l < 64 {
			return nil, fmt.Errorf("packet size limit of %d bytes: must be at least 64", l)
		}
	}
	b.listenerConfigs = make(map[string]*ListenerConfig, len(cfg.Listeners))
	for name, l := range cfg.Listeners {
		b.listenerConfigs[name] = &l
		if l.MaxPacketSize != 0 && l.MaxPacketSize < 64 {
			return nil, fmt.Errorf("packet size limit of listener %s of %d bytes: must be at least 64", name, l.MaxPacketSize)
		}
	}
	if err := checkDurabilities(cfg.Durabilities); err != nil {
		return nil, err
	}
	if err := b.checkMemory(); err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, e := range cfg.Enhanced {
		if seen[e.Method()] {
			return nil, fmt.Errorf("two authenticators for the method %s", e.Method())
		}
		seen[e.Method()] = true
	}
	b.memory.init(&b.limits, &cfg)
	b.unfinished.most = b.limits.Memory / packetShare
	b.holding.conns = make(map[*conn]struct{})
	b.holding.sessions = make(map[*Session]struct{})
	b.holding.wake, b.holding.over = make(chan struct{}, 1), make(chan struct{})
	b.holding.end = sync.OnceFunc(func() { close(b.holding.over) })
	if err := b.loops.init(b); err != nil {
		return nil, err
	}
	b.accessEpoch.Store(1)
	b.hooks.Store(hooksOf(b.observers))
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if b.store != nil {
		if err := b.restore(); err != nil {
			b.cancel()
			return nil, err
		}
		b.tasks.Go(b.answerHeld)
	}
	if b.limits.Memory > 0 {
		b.tasks.Go(func() { b.watchMemory(b.ctx) })
	}
	if every := cfg.SysInterval; every >= 0 {
		if every == 0 {
			every = 10 * time.Second
		}
		b.tasks.Go(func() { b.publishSys(b.ctx, every) })
	}
	return b, nil
}

// Serve accepts connections from the listeners until ctx is done or Shutdown is called, or until accepting fails. It closes
// the listeners, not the connections: call Shutdown for those. It returns nil unless accepting or the store has failed. Connections that
// have the method Info of [transport.Conn] bring their listener's name, their client's address and certificate with
// them.
func (b *Broker) Serve(ctx context.Context, listeners ...net.Listener) error {
	if err := b.addListeners(listeners); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { b.closeListeners(listeners) })
	defer stop()
	failures := make(chan error, len(listeners))
	for _, ln := range listeners {
		go func() { failures <- b.accept(ctx, ln) }()
	}
	var failed error
	for range listeners {
		if err := <-failures; err != nil && failed == nil {
			failed = err
			cancel()
		}
	}
	if cause := b.failure.Load(); cause != nil {
		return fmt.Errorf("store: %w", *cause)
	}
	return failed
}

func (b *Broker) addListeners(listeners []net.Listener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return errShutDown
	}
	for _, ln := range listeners {
		b.listeners[ln] = struct{}{}
	}
	return nil
}

var errShutDown = errors.New("the broker is shut down")

func (b *Broker) closeListeners(listeners []net.Listener) {
	for _, ln := range listeners {
		_ = ln.Close()
		b.mu.Lock()
		delete(b.listeners, ln)
		b.mu.Unlock()
	}
}

// accept takes connections from one listener until it is closed.
func (b *Broker) accept(ctx context.Context, ln net.Listener) error {
	wait := time.Duration(0)
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			wait = 0
			squeezed, ok := b.memory.admit(ctx, b.ctx)
			if !ok {
				_ = nc.Close()
				return nil
			}
			b.serveConn(nc, squeezed)
		case errors.Is(err, net.ErrClosed), ctx.Err() != nil, b.ctx.Err() != nil:
			return nil
		default: // out of file descriptors, most likely: some may come free
			b.log.Warn("cannot accept connections", "listener", ln.Addr().String(), "reason", err)
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(wait):
			case <-b.ctx.Done():
				return nil
			}
		}
	}
}

// ServeConn serves a connection that the caller has accepted, and closes it when it ends. It does not wait for that. When memory is
// short it closes the connection at once.
func (b *Broker) ServeConn(nc net.Conn) {
	if b.memory.tight() {
		_ = nc.Close()
		return
	}
	b.serveConn(nc, false)
}

// serveConn is ServeConn whatever the memory. squeezed is for the budget.
func (b *Broker) serveConn(nc net.Conn, squeezed bool) {
	c := &conn{broker: b, nc: nc, squeezed: squeezed, raw: newRawIO(nc), remote: nc.RemoteAddr(), limit: b.limits.ConnectSize}
	if withInfo, ok := nc.(interface{ Info() transport.Info }); ok {
		info := withInfo.Info()
		c.listener, c.remote, c.tls = info.Listener, info.Remote, info.TLS
	} else if withState, ok := nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := withState.ConnectionState()
		c.tls = &state
	}
	if c.in.small = true; c.raw == nil {
		c.in.own = make([]byte, ownSize)
	}
	if c.remote == nil {
		c.remote = nowhere{}
	}
	c.config = b.listenerConfig(c.listener)
	c.address = addressKey(c.remote)
	if err := b.admit(c); err != nil {
		if b.logLimit.allow(c.address) {
			b.log.Info("connection refused", "remote", c.remote.String(), "listener", c.listener, "reason", err)
		}
		_ = nc.Close()
		return
	}
	c.began = time.Now()
	c.lastRead.Store(int64(c.began.Sub(b.started)))
	c.deadline = time.AfterFunc(b.limits.ConnectTimeout, c.checkDeadline)
	go c.run()
}

// listenerConfig returns the settings of a listener.
func (b *Broker) listenerConfig(name string) *ListenerConfig {
	if c, ok := b.listenerConfigs[name]; ok {
		return c
	}
	return &ListenerConfig{}
}

// nowhere is the address of a connection that has none.
type nowhere struct{}

func (nowhere) Network() string { return "" }
func (nowhere) String() string  { return "" }

// addressKey returns what connections are counted by: the IPv4 address, or the first 64 bits of the IPv6 address, which
// is what one customer has.
func addressKey(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is4() || ip.IsLoopback() {
		return ip.String()
	}
	p, _ := ip.Prefix(64)
	return p.String()
}

// admit counts a new connection, unless a limit is reached.
func (b *Broker) admit(c *conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &b.limits
	switch {
	case b.closing:
		return errShutDown
	case len(b.conns) >= l.Connections:
		return errors.New("too many connections")
	case b.waiting >= l.Unauthenticated:
		return errors.New("too many connections that have not logged in")
	case b.byAddress[c.address] >= l.ConnectionsPerAddress:
		return errors.New("too many connections from this address")
	case c.config.MaxConnections > 0 && b.byName[c.listener] >= c.config.MaxConnections:
		return errors.New("too many connections to this listener")
	}
	b.conns[c] = struct{}{}
	b.waiting++
	b.byAddress[c.address]++
	b.byName[c.listener]++
	b.memory.add(connCost)
	b.connTasks.Add(1)
	return nil
}

// accepted counts a client that is in.
func (b *Broker) accepted() {
	now := b.stats.connected.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	if now > b.stats.most.Load() {
		b.stats.most.Store(now)
	}
}

// ended forgets a connection and tells about it.
func (b *Broker) ended(c *conn, err error) {
	b.unhold(c)
	b.mu.Lock()
	delete(b.conns, c)
	if c.state != connected {
		b.waiting--
	}
	if b.byAddress[c.address]--; b.byAddress[c.address] == 0 {
		delete(b.byAddress, c.address)
	}
	b.byName[c.listener]--
	b.mu.Unlock()
	if c.state == connected {
		b.disconnectedEvent(c, err)
	} else {
		b.refusedEvent(c, err)
	}
}

// Shutdown ends the broker: it closes the listeners, tells clients of MQTT 5.0 that the server shuts down (0x8B), closes
// their connections when they have taken that, then the subscriptions in process, and waits for everything to end. When
// ctx is done first, connections are cut and its error is returned. A Handler must not call it.
func (b *Broker) Shutdown(ctx context.Context) error {
	conns := b.close()
	b.cancel()
	cut := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.hurry()
		}
	})
	defer cut()
	done := make(chan struct{})
	go func() {
		b.connTasks.Wait()
		b.loops.end()
		b.holding.end()
		b.closeLocals()
		b.tasks.Wait()
		b.stopSessionTimers()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close lets nobody in any more and tells the connections to end, which it returns.
func (b *Broker) close() (conns []*conn) {
	var listeners []net.Listener
	b.mu.Lock()
	b.closing = true
	for c := range b.conns {
		conns = append(conns, c)
	}
	for ln := range b.listeners {
		listeners = append(listeners, ln)
	}
	b.mu.Unlock()
	b.closeListeners(listeners)
	for _, c := range conns {
		c.stop(mqtt.ServerShuttingDown)
	}
	return conns
}

// closeLocals ends the subscriptions in process.
func (b *Broker) closeLocals() {
	b.mu.RLock()
	all := slices.Collect(maps.Keys(b.locals))
	b.mu.RUnlock()
	for _, l := range all {
		l.Close()
	}
}

// stopSessionTimers makes sure that nothing happens after Shutdown.
func (b *Broker) stopSessionTimers() {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, s := range b.sessions {
		s.mu.Lock()
		s.stopTimers()
		s.mu.Unlock()
	}
}
