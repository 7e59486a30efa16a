package client

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/mqtt"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		if os.Getenv(childRole) == "receive" {
			receiveForEver(url)
		}
		publishForEver(url)
	}
	goleak.VerifyTestMain(m)
}

// peer is a server that does what the test says.
type peer struct {
	t  *testing.T
	v  mqtt.Version
	nc net.Conn
	in input
}

// newPeer returns a peer and the other end of its stream.
func newPeer(t *testing.T, v mqtt.Version) (*peer, net.Conn) {
	here, there := net.Pipe()
	p := &peer{t: t, v: v, nc: here}
	p.in.r = here
	t.Cleanup(func() { _ = here.Close() })
	return p, there
}

// bubble runs f where time passes only when everybody waits.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// open connects a client; the peer accepts with these properties.
func open(t *testing.T, cfg Config, props mqtt.Properties) (*Conn, *peer) {
	t.Helper()
	c, p, _ := openWith(t, cfg, mqtt.Connack{Props: props})
	return c, p
}

func openWith(t *testing.T, cfg Config, ack mqtt.Connack) (*Conn, *peer, mqtt.Connect) {
	t.Helper()
	if cfg.Version == 0 {
		cfg.Version = mqtt.V5
	}
	p, nc := newPeer(t, cfg.Version)
	seen := make(chan mqtt.Connect, 1)
	go func() {
		seen <- p.connect()
		p.send(ack.Append(nil, p.v))
	}()
	c, err := Connect(t.Context(), nc, cfg)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return c, p, <-seen
}

// fail reports an error and closes the stream, so that nobody waits for this peer. It may run on any goroutine.
func (p *peer) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf(format, args...)
	_ = p.nc.Close()
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.fail("peer cannot send % x: %v", b, err)
	}
}

// expect returns the next packet, which must be of that type.
func (p *peer) expect(t mqtt.PacketType) mqtt.Frame {
	p.t.Helper()
	f, err := p.in.next(p.v, mqtt.MaxPacket)
	if err != nil {
		p.fail("peer waits for %v: %v", t, err)
	} else if f.Type != t {
		p.fail("peer waits for %v, got %v % x", t, f.Type, f.Body)
	}
	return f
}

func (p *peer) parsed(err error) {
	p.t.Helper()
	if err != nil {
		p.fail("peer cannot parse: %v", err)
	}
}

func (p *peer) connect() (c mqtt.Connect) {
	p.t.Helper()
	p.parsed(c.Parse(p.expect(mqtt.CONNECT)))
	return c
}

func (p *peer) publish() (m mqtt.Publish) {
	p.t.Helper()
	p.parsed(m.Parse(p.expect(mqtt.PUBLISH), p.v))
	return m
}

func (p *peer) ack(t mqtt.PacketType) (a mqtt.Ack) {
	p.t.Helper()
	p.parsed(a.Parse(p.expect(t), p.v))
	return a
}

func (p *peer) sendAck(t mqtt.PacketType, id uint16, code mqtt.ReasonCode) {
	p.t.Helper()
	p.send((&mqtt.Ack{Type: t, PacketID: id, Code: code}).Append(nil, p.v))
}

func (p *peer) sendPublish(m mqtt.Publish) {
	p.t.Helper()
	p.send(m.Append(nil, p.v))
}

func (p *peer) disconnect() (d mqtt.Disconnect) {
	p.t.Helper()
	p.parsed(d.Parse(p.expect(mqtt.DISCONNECT), p.v))
	return d
}

// eof expects that the client closes without another packet.
func (p *peer) eof() {
	p.t.Helper()
	if f, err := p.in.next(p.v, mqtt.MaxPacket); err == nil {
		p.fail("peer waits for the end, got %v % x", f.Type, f.Body)
	}
}

// closeBoth ends a connection politely.
func closeBoth(t *testing.T, c *Conn, p *peer) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	if d := p.disconnect(); d.Code != mqtt.Success {
		t.Errorf("DISCONNECT with %v", d.Code)
	}
	_ = p.nc.Close()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("Err after Close: %v", err)
	}
}

// ended waits for the end and returns its reason.
func ended(c *Conn) error {
	<-c.Done()
	return c.Err()
}

// result runs f on another goroutine.
func result[T any](f func() T) <-chan T {
	ch := make(chan T, 1)
	go func() { ch <- f() }()
	return ch
}

type answer struct {
	code mqtt.ReasonCode
	err  error
}

func publishing(c *Conn, m *mqtt.Message) <-chan answer {
	return result(func() (a answer) {
		a.code, a.err = c.Publish(context.Background(), m)
		return a
	})
}

// isCode fails the test unless err wraps that code.
func isCode(t *testing.T, err error, want mqtt.ReasonCode) {
	t.Helper()
	var code mqtt.ReasonCode
	if !errors.As(err, &code) || code != want {
		t.Errorf("error %v: want one of %v", err, want)
	}
}

// isServerError fails the test unless err is the server's refusal.
func isServerError(t *testing.T, err error, packet mqtt.PacketType, code mqtt.ReasonCode) {
	t.Helper()
	var s *ServerError
	if !errors.As(err, &s) || s.Packet != packet || s.Code != code {
		t.Errorf("error %v: want a ServerError of %v with %v", err, packet, code)
	}
}

var versions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// eachVersion runs f in a bubble for each protocol version.
func eachVersion(t *testing.T, f func(t *testing.T, v mqtt.Version)) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, v) }) })
	}
}
