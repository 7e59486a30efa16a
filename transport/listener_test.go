package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestTCP(t *testing.T) {
	l := open(t, Config{Network: TCP})
	client, server := pair(t, l, DialConfig{})
	send(t, client, server, "to the server")
	send(t, server, client, "to the client")
	for _, c := range []*Conn{client, server} {
		if _, ok := c.NetConn().(*net.TCPConn); !ok {
			t.Errorf("NetConn is a %T", c.NetConn())
		}
		if _, err := c.SyscallConn(); err != nil {
			t.Error(err)
		}
	}
	want := Info{Listener: "tcp://127.0.0.1:0", Network: TCP, Remote: client.LocalAddr(), Peer: client.LocalAddr()}
	if got := server.Info(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("info %v, want %v", got, want)
	}
}

// TestIPv6 also shows that the empty host means every address.
func TestIPv6(t *testing.T) {
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("this machine has no ::1 (%v): only the message is tested", err)
		_, err = Listen(Config{Network: TCP, Address: "[::1]:0"})
		wantError(t, err, "::1")
		return
	}
	probe.Close()
	for _, address := range []string{"[::1]:0", "[::]:0", ":0"} {
		l := open(t, Config{Network: TCP, Address: address})
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := Dial(testContext(t), parseURL(t, "mqtt://[::1]:"+port), DialConfig{})
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		defer c.Close()
		server := accept(t, l)
		send(t, c, server, "x")
		if !strings.HasPrefix(server.RemoteAddr().String(), "[::1]:") {
			t.Errorf("%s: remote %s", address, server.RemoteAddr())
		}
	}
}

func TestAddressInUse(t *testing.T) {
	l := open(t, Config{Network: TCP})
	_, err := Listen(Config{Name: "second", Network: TCP, Address: l.Addr().String()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listener second") {
		t.Fatal(err)
	}
}

// TestSilentPeersBlockNobody is SlowITe (A8): half-open handshakes of every
// kind while a client that talks gets in.
func TestSilentPeersBlockNobody(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	dial := DialConfig{TLS: clientTLS(ca)}
	for _, tt := range []struct {
		network string
		tls     *TLSConfig
		begin   string // what the silent peer says before it falls silent
	}{
		{TLS, tlsCfg, ""},
		{TLS, tlsCfg, "\x16\x03\x01\x02\x00\x01"},
		{WS, nil, ""},
		{WS, nil, "GET /mqtt HTTP/1.1\r\nHost: x\r\n"},
		{WSS, tlsCfg, "\x16"},
	} {
		t.Run(tt.network, func(t *testing.T) {
			l := open(t, Config{Network: tt.network, TLS: tt.tls})
			for range 20 {
				io.WriteString(connect(t, l), tt.begin)
			}
			client, server := pair(t, l, dial)
			send(t, client, server, "hello")
		})
	}
}

func TestSilentProxyPeersBlockNobody(t *testing.T) {
	l := proxied(t, Config{Network: TCP}, "127.0.0.0/8")
	for range 20 {
		io.WriteString(connect(t, l), "PROXY TCP4 ")
	}
	client := connect(t, l)
	io.WriteString(client, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello")
	expect(t, accept(t, l), "hello")
}

// TestHandshakeTimeout: the listener ends what does not go on.
func TestHandshakeTimeout(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	for _, tt := range []struct {
		network string
		tls     *TLSConfig
		begin   string
	}{{TLS, tlsCfg, ""}, {TLS, tlsCfg, "\x16\x03\x01"}, {WS, nil, ""}, {WSS, tlsCfg, "\x16"}} {
		t.Run(tt.network, func(t *testing.T) {
			failed := make(chan error, 1)
			l := open(t, Config{
				Network: tt.network, TLS: tt.tls, HandshakeTimeout: 20 * time.Millisecond,
				HandshakeFailed: func(_ net.Addr, err error) { failed <- err },
			})
			client := connect(t, l)
			io.WriteString(client, tt.begin)
			expectEnd(t, client)
			if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("reported %v", err)
			}
		})
	}
}

// TestDeadlineEndsWithHandshake: the finished connection has none.
func TestDeadlineEndsWithHandshake(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	base := &deadlines{Conn: a}
	l := &Listener{cfg: Config{HandshakeTimeout: time.Hour}}
	if err := l.handshake(newConn(base, Info{}), false); err != nil {
		t.Fatal(err)
	}
	if len(base.set) != 2 || base.set[0].IsZero() || !base.set[1].IsZero() {
		t.Errorf("deadlines set: %v", base.set)
	}
}

type deadlines struct {
	net.Conn
	set []time.Time
}

func (d *deadlines) SetDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

func TestOldestHandshakeGivesWay(t *testing.T) {
	failed := make(chan net.Addr, 3)
	l := open(t, Config{
		Network: WS, MaxPending: 2,
		HandshakeFailed: func(remote net.Addr, err error) {
			if errors.Is(err, ErrCrowded) {
				failed <- remote
			}
		},
	})
	var clients []net.Conn
	for range 3 {
		clients = append(clients, connect(t, l))
	}
	expectEnd(t, clients[0])
	if got := <-failed; got.String() != clients[0].LocalAddr().String() {
		t.Errorf("dropped %v, want the first, %v", got, clients[0].LocalAddr())
	}
	// The others are alive: a request is answered.
	io.WriteString(clients[1], "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	expect(t, clients[1], "HTTP/1.1 404")
}

// TestFloodDoesNotKeepClientsOut: a client gets in while silent connections
// come in far beyond the limit.
func TestFloodDoesNotKeepClientsOut(t *testing.T) {
	l := open(t, Config{Network: WS, MaxPending: 8})
	for range 50 {
		connect(t, l)
	}
	client, server := pair(t, l, DialConfig{})
	send(t, client, server, "hello")
}

// TestUnacceptedConnectionsAreBounded: finished handshakes that nobody accepts
// occupy their place among the pending.
func TestUnacceptedConnectionsAreBounded(t *testing.T) {
	l := open(t, Config{Network: WS, MaxPending: 1})
	first, err := dialTo(t, l, DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := dialTo(t, l, DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	expectEnd(t, first)
	send(t, second, accept(t, l), "hello")
}

// TestRestrain: a listener that is restrained leaves connections with the
// kernel while a few handshakes are under way, and takes them afterwards. It
// closes meanwhile, too.
func TestRestrain(t *testing.T) {
	l := open(t, Config{Network: WS})
	l.Restrain(true)
	reach := func(want int) {
		t.Helper()
		for end := time.Now().Add(patience); l.pending.size() != want; time.Sleep(time.Millisecond) {
			if n := l.pending.size(); n > want || time.Now().After(end) {
				t.Fatalf("%d handshakes under way, want %d", n, want)
			}
		}
	}
	const many = 20
	for i := range many {
		connect(t, l)
		reach(min(i+1, fewHandshakes))
	}
	l.Restrain(false)
	reach(many)
	l.Restrain(true)
	connect(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestAcceptedIsNobodyElses: once Accept has returned a connection, neither a
// flood nor Close can take it for a handshake; and what was dropped on the way
// to Accept is not returned.
func TestAcceptedIsNobodyElses(t *testing.T) {
	l := open(t, Config{Network: WS})
	for range 5 {
		pair(t, l, DialConfig{})
		l.pending.mu.Lock()
		n := l.pending.order.Len()
		l.pending.mu.Unlock()
		if n != 0 {
			t.Fatalf("%d pending after Accept", n)
		}
	}
	a, b := net.Pipe()
	defer b.Close()
	s := l.pending.add(a)
	l.pending.mu.Lock()
	l.pending.dropOldest()
	l.pending.mu.Unlock()
	accepted := make(chan net.Conn)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	l.ready <- arrival{newConn(a, Info{}), s}
	client, err := dialTo(t, l, DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	defer server.Close()
	send(t, client, server, "not the dropped one")
}

func TestCloseEndsHandshakes(t *testing.T) {
	ca := newAuthority(t, "ca")
	var told atomic.Int32
	l, err := Listen(Config{
		Network: TLS, Address: "127.0.0.1:0", Log: quiet,
		TLS:             &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}},
		HandshakeFailed: func(net.Addr, error) { told.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	silent := connect(t, l)
	_, server := pair(t, l, DialConfig{TLS: clientTLS(ca)}) // the silent one is under way by now
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	expectEnd(t, silent)
	if n := told.Load(); n != 0 {
		t.Errorf("%d peers blamed for our own end", n)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := server.Write([]byte("still alive")); err != nil {
		t.Error(err)
	}
}

func TestCloseDropsUnacceptedConnection(t *testing.T) {
	l := open(t, Config{Network: TCP})
	client := connect(t, l)
	l.Close()
	expectEnd(t, client)
}

// flaky fails a few times before it accepts.
type flaky struct {
	net.Listener
	failures int
	err      error
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures > 0 {
		f.failures--
		return nil, f.err
	}
	return f.Listener.Accept()
}

func TestAcceptErrorsDoNotEndTheListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Network: TCP, Address: "127.0.0.1:0", Log: quiet}.withDefaults()
	l := start(cfg, &flaky{ln, 3, &net.OpError{Op: "accept", Err: syscall.EMFILE}}, nil)
	defer l.Close()
	send(t, connect(t, l), accept(t, l), "hello")
}

// TestCloseDuringAcceptPause: Close does not wait for the pause to end.
func TestCloseDuringAcceptPause(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Network: TCP, Address: "127.0.0.1:0", Log: quiet}.withDefaults()
	l := start(cfg, &flaky{ln, 1 << 30, syscall.EMFILE}, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	l := open(t, Config{Network: WS})
	const clients = 12
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := dialTo(t, l, DialConfig{})
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			fmt.Fprintf(c, "%03d", i)
		})
	}
	seen := map[string]bool{}
	for range clients {
		c := accept(t, l)
		var b [3]byte
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatal(err)
		}
		seen[string(b[:])] = true
	}
	wg.Wait()
	if len(seen) != clients {
		t.Errorf("%d different clients, want %d", len(seen), clients)
	}
}
