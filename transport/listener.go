package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrCrowded is why a handshake was dropped that was the oldest of too many.
	ErrCrowded = errors.New("too many handshakes under way")
)

// Listener accepts connections of one [Config]. Its methods may be called from
// any goroutine.
type Listener struct {
	cfg     Config
	ln      net.Listener
	certs   *certs        // nil without TLS
	ws      *upgrader     // nil without WebSocket
	ready   chan arrival  // unbuffered: the kernel's backlog is the queue
	done    chan struct{} // closed by Close
	pending pending
	scarce  atomic.Bool    // see Restrain
	wg      sync.WaitGroup // the accept loop and the handshakes
	once    sync.Once
}

// arrival is a connection on its way to Accept. It keeps its place among the
// pending until Accept takes it out: from then on nobody else closes it.
type arrival struct {
	conn  *Conn
	shake *shake // nil when there was no handshake
}

// Listen opens the socket and starts accepting. The caller must Close the
// Listener.
func Listen(cfg Config) (*Listener, error) {
	l, err := listen(cfg)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", cfg.withDefaults().Name, err)
	}
	return l, nil
}

func listen(cfg Config) (*Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var store *certs
	if cfg.TLS != nil {
		var err error
		if store, err = newCerts(*cfg.TLS, cfg.Log.With("listener", cfg.Name)); err != nil {
			return nil, err
		}
	}
	ln, err := openSocket(cfg)
	if err != nil {
		return nil, err
	}
	return start(cfg, ln, store), nil
}

func openSocket(cfg Config) (net.Listener, error) {
	if cfg.Network == Unix {
		return listenUnix(cfg.Address, cfg.UnixMode)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // the reactor above counts on plain TCP sockets
	return lc.Listen(context.Background(), "tcp", cfg.Address)
}

// start runs the accept loop on ln, which the Listener owns from here on.
func start(cfg Config, ln net.Listener, store *certs) *Listener {
	l := &Listener{
		cfg:     cfg,
		ln:      ln,
		certs:   store,
		ready:   make(chan arrival),
		done:    make(chan struct{}),
		pending: pending{max: cfg.MaxPending},
	}
	if cfg.Network == WS || cfg.Network == WSS {
		l.ws = &upgrader{*cfg.WS}
	}
	l.wg.Go(l.acceptLoop)
	return l
}

// Accept waits for the next connection whose handshakes are done; it is a
// *[Conn], and the caller must Close it. After Close the error is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case a := <-l.ready:
			if a.shake == nil || l.pending.remove(a.shake) {
				return a.conn, nil
			}
			_ = a.conn.Close()
		case <-l.done:
			return nil, fmt.Errorf("accept on %s: %w", l.cfg.Name, net.ErrClosed)
		}
	}
}

// Addr returns the address listened on, with the port that the kernel chose.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Name returns Config.Name.
func (l *Listener) Name() string { return l.cfg.Name }

// Network returns Config.Network.
func (l *Listener) Network() string { return l.cfg.Network }

// Reload reads the certificate files again, whether or not they look changed.
// On an error the old certificates stay in use. Without TLS there is nothing to
// do. Connections that are already open keep what they negotiated.
func (l *Listener) Reload() error {
	if l.certs == nil {
		return nil
	}
	return l.certs.reload()
}

// Close stops accepting, drops the handshakes under way and waits until all
// goroutines of the listener have ended. Connections that Accept returned live
// on. A second Close does nothing.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		err = l.ln.Close()
		l.pending.close()
	})
	l.wg.Wait()
	return err
}

// acceptLoop takes connections from the kernel until Close. It never reads
// from one: that is what the goroutines of shake are for.
func (l *Listener) acceptLoop() {
	var pause time.Duration
	for {
		if !l.awaitHandshakes() {
			return
		}
		raw, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.cfg.Log.Warn("accepting is paused", "listener", l.cfg.Name, "for", pause, "err", err)
			if !l.rest(pause) {
				return
			}
			continue
		}
		pause = 0
		l.admit(raw)
	}
}

// Restrain is for times when memory is short: while it is on, a connection is
// taken from the kernel's queue only when few handshakes are under way or wait
// for Accept.
func (l *Listener) Restrain(on bool) { l.scarce.Store(on) }

// fewHandshakes is how many those are.
const fewHandshakes = 8

// awaitHandshakes waits while the listener is restrained and has enough to do.
// It reports whether the listener is still open.
func (l *Listener) awaitHandshakes() bool {
	for l.scarce.Load() && l.pending.size() >= fewHandshakes {
		if !l.rest(50 * time.Millisecond) {
			return false
		}
	}
	return true
}

// rest waits for d and reports whether the listener is still open. Out of
// descriptors, trying again at once would only burn the processor.
func (l *Listener) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}

func (l *Listener) admit(raw net.Conn) {
	proxied := within(ipOf(raw.RemoteAddr()), l.cfg.ProxyProtocol)
	if !proxied && l.certs == nil && l.ws == nil {
		l.deliver(arrival{conn: l.newConn(raw)}, l.done)
		return
	}
	if s := l.pending.add(raw); s != nil {
		l.wg.Go(func() { l.run(s, proxied) })
	} else {
		_ = raw.Close()
	}
}

// deliver hands a to Accept unless it is given up before.
func (l *Listener) deliver(a arrival, giveUp <-chan struct{}) {
	select {
	case l.ready <- a:
	case <-giveUp:
		_ = a.conn.Close()
	}
}

// run takes one connection through its handshakes.
func (l *Listener) run(s *shake, proxied bool) {
	c := l.newConn(s.raw)
	if err := l.handshake(c, proxied); err != nil {
		_ = c.Close()
		l.pending.remove(s)
		l.report(c, s, err)
		return
	}
	l.deliver(arrival{c, s}, s.dropped)
}

func (l *Listener) report(c *Conn, s *shake, err error) {
	select {
	case <-s.dropped:
		err = ErrCrowded
	default:
	}
	select {
	case <-l.done: // our doing, not the peer's
	default:
		if l.cfg.HandshakeFailed != nil {
			l.cfg.HandshakeFailed(c.info.Remote, err)
		}
	}
}

func (l *Listener) newConn(raw net.Conn) *Conn {
	return newConn(raw, Info{Listener: l.cfg.Name, Network: l.cfg.Network})
}

// handshake puts the layers of the network on c, one over the other, under one
// deadline. After an error c is as far as it got and must be closed.
func (l *Listener) handshake(c *Conn, proxied bool) error {
	_ = c.base.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	if proxied {
		src, err := readProxyHeader(c.base)
		if err != nil {
			return fmt.Errorf("PROXY header: %w", err)
		}
		if src != nil {
			c.info.Remote = src
		}
	}
	if l.certs != nil {
		if err := startTLS(c, tls.Server(c.base, l.certs.server)); err != nil {
			return err
		}
	}
	if l.ws != nil {
		if err := l.ws.accept(c); err != nil {
			return fmt.Errorf("WebSocket upgrade: %w", err)
		}
	}
	return c.base.SetDeadline(time.Time{})
}

// startTLS shakes hands on t and makes it the stream of c.
func startTLS(c *Conn, t *tls.Conn) error {
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	state := t.ConnectionState()
	c.push(t)
	c.info.TLS = &state
	return nil
}
