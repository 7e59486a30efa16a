package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait on a real socket; none should come near it.
const patience = 60 * time.Second

// rig is a broker under test. Clients reach it through net.Pipe, through a kernel in memory if it has one, or through TCP when it has an
// address. It shuts down with the test, which fails when that does not end.
type rig struct {
	*testing.T
	b    *Broker
	addr string
	k    *kernel
}

// newRig starts a broker that clients reach through net.Pipe. In a bubble of synctest it has the bubble's clock.
func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	if cfg.SysInterval == 0 {
		cfg.SysInterval = -1
	}
	if cfg.Store == nil && os.Getenv("MAGPIE_TEST_STORE") != "" {
		cfg.Store = &store.Memory{} // the same behaviour is wanted of a broker that keeps everything
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return &rig{T: t, b: b}
}

// newLoopRig starts a broker that clients reach through sockets in memory, which are served by loops. They are unfriendly, by the name of
// the test and MAGPIE_TEST_SEED. In a bubble of synctest it has the bubble's clock.
func newLoopRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	return newRigOn(newKernel(t, seedOf(t), 8, 2048), cfg)
}

// newRigOn starts a broker that clients reach through the sockets of k, whose loops do not pause unless cfg says so: who waits until
// nothing moves would not wait for that.
func newRigOn(k *kernel, cfg Config) *rig {
	t := k.tb.(*testing.T)
	t.Helper()
	t.Cleanup(k.check)
	cfg.newPoller = k.poller
	if cfg.Pace == 0 {
		cfg.Pace = -1
	}
	r := newRig(t, cfg)
	r.k = k
	return r
}

// newTCPRig starts a broker that clients reach through TCP, so that it reads and writes sockets without waiting.
func newTCPRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.b.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		_ = ln.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

// both runs a test in bubbles, where nothing can hang unnoticed, and through TCP: each with a goroutine for every connection, and with
// loops.
func both(t *testing.T, cfg Config, test func(*rig)) {
	t.Helper()
	bubble(t, cfg, test)
	t.Run("tcp", func(t *testing.T) { test(newTCPRig(t, cfg)) })
	cfg.IO = IOGoroutine
	t.Run("tcp, goroutines", func(t *testing.T) { test(newTCPRig(t, cfg)) })
}

// bubble runs a test with a clock of its own: through pipes, whose connections have a goroutine each, and through sockets in memory, which
// loops serve.
func bubble(t *testing.T, cfg Config, test func(*rig)) {
	t.Helper()
	bubbles(t, func(t *testing.T, start starter) { test(start(t, cfg)) })
}

// starter starts a broker in a bubble.
type starter func(*testing.T, Config) *rig

// bubbles is bubble for a test that starts its brokers itself.
func bubbles(t *testing.T, test func(*testing.T, starter)) {
	t.Helper()
	for name, start := range cores {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, start) })
		})
	}
}

// another starts one more broker of the same kind.
func (r *rig) another(cfg Config) *rig {
	r.Helper()
	if r.k != nil {
		return newLoopRig(r.T, cfg)
	}
	return newRig(r.T, cfg)
}

// cores are the ways to serve connections that there are in a bubble.
var cores = map[string]starter{"pipe": newRig, "loop": newLoopRig}

// dial opens a connection to the broker, which is closed with the test.
func (r *rig) dial() net.Conn {
	r.Helper()
	var nc net.Conn
	if r.addr == "" {
		var server net.Conn
		nc, server = r.pair()
		r.b.ServeConn(server)
	} else {
		var err error
		if nc, err = net.Dial("tcp", r.addr); err != nil {
			r.Fatal(err)
		}
	}
	r.Cleanup(func() { _ = nc.Close() })
	return nc
}

// pair returns both ends of a connection, of which the broker is to get the second.
func (r *rig) pair() (client, server net.Conn) {
	if r.k != nil {
		return r.k.connect()
	}
	return net.Pipe()
}

// client is a scripted client. Its methods fail the test when the broker does something else than they say. One goroutine
// uses it.
type client struct {
	*rig
	nc      net.Conn
	v       mqtt.Version
	id      string
	buf     []byte
	connack mqtt.Connack
	lastID  uint16
	pongs   int // PINGRESPs that take skipped
}

// option changes a CONNECT.
type option func(*mqtt.Connect)

// fresh asks for a new session, which is what clients of the kit do unless told otherwise.
func fresh(p *mqtt.Connect) { p.CleanStart = true }

// resume asks for the session that there is.
func resume(p *mqtt.Connect) { p.CleanStart = false }

func keepAlive(seconds uint16) option { return func(p *mqtt.Connect) { p.KeepAlive = seconds } }

// lasting asks for a session that outlives the connection by seconds.
func lasting(seconds uint32) option { return with(mqtt.SessionExpiryInterval, seconds) }

func with(id mqtt.Property, value uint32) option {
	return func(p *mqtt.Connect) { p.Props = p.Props.WithInt(id, value) }
}

func user(name string) option {
	return func(p *mqtt.Connect) { p.HasUsername, p.Username = true, name }
}

func leaving(w mqtt.Will) option { return func(p *mqtt.Connect) { p.Will = &w } }

// open dials without a CONNECT.
func (r *rig) open(v mqtt.Version) *client { return &client{rig: r, nc: r.dial(), v: v} }

// connect logs a client in.
func (r *rig) connect(v mqtt.Version, id string, options ...option) *client {
	r.Helper()
	c := r.open(v)
	c.login(id, options...)
	if c.connack.Code != mqtt.Success {
		r.Fatalf("CONNECT of %q: %v", id, c.connack.Code)
	}
	return c
}

// try sends a CONNECT and returns the code of the CONNACK.
func (r *rig) try(v mqtt.Version, id string, options ...option) (*client, mqtt.ReasonCode) {
	r.Helper()
	c := r.open(v)
	c.login(id, options...)
	return c, c.connack.Code
}

func (c *client) login(id string, options ...option) {
	c.Helper()
	p := mqtt.Connect{Version: c.v, ClientID: id, CleanStart: true}
	for _, o := range options {
		o(&p)
	}
	c.id = id
	c.send(p.Append(nil))
	c.connack = expect[mqtt.Connack](c)
}

// send writes bytes to the broker.
func (c *client) send(b []byte) {
	c.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.Fatalf("%s: write: %v", c.id, err)
	}
}

// pong is what a PINGRESP is read as.
type pong struct{}

// next reads one packet. It returns an error at the end of the connection, and fails the test when nothing comes.
func (c *client) next() (any, error) {
	c.Helper()
	for {
		f, size, err := mqtt.ParseFrame(c.buf, c.v, mqtt.MaxPacket)
		if err != nil {
			c.Fatalf("%s: the broker sent %x: %v", c.id, c.buf, err)
		}
		if size > 0 && size <= len(c.buf) {
			p, err := decode(f, c.v)
			if err != nil {
				c.Fatalf("%s: the broker sent %x: %v", c.id, c.buf[:size], err)
			}
			c.buf = c.buf[size:]
			return p, nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

func (c *client) fill() error {
	c.Helper()
	if c.addr != "" {
		_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	}
	chunk := make([]byte, 16<<10)
	n, err := c.nc.Read(chunk)
	c.buf = append(c.buf, chunk[:n]...)
	if n > 0 {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.Fatalf("%s: nothing comes", c.id)
	}
	return err
}

// decode reads the packets that a server sends. What it returns owns its memory.
func decode(f mqtt.Frame, v mqtt.Version) (any, error) {
	f.Body = append([]byte(nil), f.Body...)
	switch f.Type {
	case mqtt.CONNACK:
		var p mqtt.Connack
		err := p.Parse(f, v)
		return p, err
	case mqtt.PUBLISH:
		var p mqtt.Publish
		err := p.Parse(f, v)
		return p, err
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		var p mqtt.Ack
		err := p.Parse(f, v)
		return p, err
	case mqtt.SUBACK:
		var p mqtt.Suback
		err := p.Parse(f, v)
		return p, err
	case mqtt.UNSUBACK:
		var p mqtt.Unsuback
		err := p.Parse(f, v)
		return p, err
	case mqtt.PINGRESP:
		return pong{}, mqtt.ParseEmpty(f)
	case mqtt.DISCONNECT:
		var p mqtt.Disconnect
		err := p.Parse(f, v)
		return p, err
	case mqtt.AUTH:
		var p mqtt.Auth
		err := p.Parse(f, v)
		return p, err
	}
	return nil, fmt.Errorf("%s from a server", f.Type)
}

// expect reads the next packet, which must be a P.
func expect[P any](c *client) P {
	c.Helper()
	p, err := c.next()
	if err != nil {
		c.Fatalf("%s: the connection ended (%v) instead of %T", c.id, err, *new(P))
	}
	got, ok := p.(P)
	if !ok {
		c.Fatalf("%s: got %T %+v, want %T", c.id, p, p, *new(P))
	}
	return got
}

// ack sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *client) ack(t mqtt.PacketType, id uint16, code mqtt.ReasonCode) {
	c.Helper()
	a := mqtt.Ack{Type: t, PacketID: id, Code: code}
	c.send(a.Append(nil, c.v))
}

// wantAck reads the next packet, which must be this one, and returns its code.
func (c *client) wantAck(t mqtt.PacketType, id uint16) mqtt.ReasonCode {
	c.Helper()
	a := expect[mqtt.Ack](c)
	if a.Type != t || a.PacketID != id {
		c.Fatalf("%s: got %s %d, want %s %d", c.id, a.Type, a.PacketID, t, id)
	}
	return a.Code
}

// barrier returns when the broker has processed everything that c sent. Nothing else may come before the PINGRESP: so it
// also proves that what was routed before was not for c.
func (c *client) barrier() {
	c.Helper()
	c.send(mqtt.AppendPingreq(nil))
	expect[pong](c)
}

// ended reads until the connection ends and returns the code of a DISCONNECT, if there was one.
func (c *client) ended() (code mqtt.ReasonCode, told bool) {
	c.Helper()
	for {
		p, err := c.next()
		if err != nil {
			return code, told
		}
		if d, ok := p.(mqtt.Disconnect); ok {
			code, told = d.Code, true
		}
	}
}

// wantEnd expects the connection to end with the code; without a word in MQTT 3.
func (c *client) wantEnd(want mqtt.ReasonCode) {
	c.Helper()
	code, told := c.ended()
	if told != (c.v == mqtt.V5) || told && code != want {
		c.Fatalf("%s: ended with %v (told: %v), want %v", c.id, code, told, want)
	}
}

// disconnect leaves with a DISCONNECT and waits for the end of the connection.
func (c *client) disconnect(code mqtt.ReasonCode, props mqtt.Properties) {
	c.Helper()
	d := mqtt.Disconnect{Code: code, Props: props}
	c.send(d.Append(nil, c.v))
	if _, told := c.ended(); told {
		c.Fatalf("%s: DISCONNECT answered with DISCONNECT", c.id)
	}
	c.gone()
}

// leave ends the connection in good order.
func (c *client) leave() {
	c.Helper()
	c.disconnect(mqtt.Success, nil)
}

// drop cuts the connection and waits until the broker has noticed.
func (c *client) drop() {
	c.Helper()
	_ = c.nc.Close()
	c.gone()
}

// gone waits until the broker knows that the client has gone.
func (c *client) gone() {
	c.Helper()
	c.until("the broker to notice the end", func() bool {
		st, ok := c.b.Client(c.id)
		return !ok || !st.Connected
	})
}

// until waits for something that the broker does on a goroutine of its own.
func (r *rig) until(what string, done func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !done(); {
		if r.addr == "" {
			synctest.Wait()
			if !done() {
				r.Fatalf("waiting for %s, but nothing moves any more", what)
			}
			return
		}
		if time.Now().After(end) {
			r.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// sub is a subscription of filter at a QoS, for subscribe.
func sub(filter string, qos mqtt.QoS) mqtt.Subscription {
	return mqtt.Subscription{Filter: filter, QoS: qos}
}

// subscribe subscribes and expects every subscription to be granted as asked for.
func (c *client) subscribe(subs ...mqtt.Subscription) {
	c.Helper()
	for i, code := range c.trySubscribe(nil, subs...) {
		if code != mqtt.ReasonCode(subs[i].QoS) {
			c.Fatalf("%s: SUBSCRIBE to %q: %v", c.id, subs[i].Filter, code)
		}
	}
}

// trySubscribe subscribes and returns the codes. The SUBACK must be the next packet.
func (c *client) trySubscribe(props mqtt.Properties, subs ...mqtt.Subscription) []mqtt.ReasonCode {
	c.Helper()
	p := mqtt.Subscribe{PacketID: c.newID(), Subscriptions: subs, Props: props}
	c.send(p.Append(nil, c.v))
	ack := expect[mqtt.Suback](c)
	if ack.PacketID != p.PacketID || len(ack.Codes) != len(subs) {
		c.Fatalf("%s: SUBSCRIBE answered with %+v", c.id, ack)
	}
	return ack.Codes
}

// unsubscribe expects the UNSUBACK to be the next packet.
func (c *client) unsubscribe(filters ...string) []mqtt.ReasonCode {
	c.Helper()
	p := mqtt.Unsubscribe{PacketID: c.newID(), Filters: filters}
	c.send(p.Append(nil, c.v))
	ack := expect[mqtt.Unsuback](c)
	if ack.PacketID != p.PacketID {
		c.Fatalf("%s: UNSUBSCRIBE answered with %+v", c.id, ack)
	}
	return ack.Codes
}

func (c *client) newID() uint16 {
	c.lastID++
	if c.lastID == 0 {
		c.lastID = 1
	}
	return c.lastID
}

// post is a PUBLISH of text.
func post(name, payload string, qos mqtt.QoS) mqtt.Publish {
	return mqtt.Publish{Topic: []byte(name), Payload: []byte(payload), QoS: qos}
}

// retain is a PUBLISH of text to be retained.
func retain(name, payload string, qos mqtt.QoS) mqtt.Publish {
	p := post(name, payload, qos)
	p.Retain = true
	return p
}

// publish sends a message and goes through its handshake. The answers must be the next packets.
func (c *client) publish(name, payload string, qos mqtt.QoS) {
	c.Helper()
	c.publishPacket(post(name, payload, qos))
}

// publishPacket is publish for a packet of one's own making; it returns the code of the first answer.
func (c *client) publishPacket(p mqtt.Publish) (code mqtt.ReasonCode) {
	c.Helper()
	if p.QoS > mqtt.AtMostOnce && p.PacketID == 0 {
		p.PacketID = c.newID()
	}
	c.send(p.Append(nil, c.v))
	switch p.QoS {
	case mqtt.AtLeastOnce:
		return c.wantAck(mqtt.PUBACK, p.PacketID)
	case mqtt.ExactlyOnce:
		if code = c.wantAck(mqtt.PUBREC, p.PacketID); code.Failed() {
			return code
		}
		c.ack(mqtt.PUBREL, p.PacketID, mqtt.Success)
		c.wantAck(mqtt.PUBCOMP, p.PacketID)
		return code
	}
	c.barrier()
	return mqtt.Success
}

// message reads the next packet, which must be a PUBLISH, and does not answer it.
func (c *client) message() mqtt.Publish {
	c.Helper()
	return expect[mqtt.Publish](c)
}

// take reads the next PUBLISH and acknowledges it. It answers PUBRELs that come before, and skips PINGRESPs.
func (c *client) take() mqtt.Publish {
	c.Helper()
	for {
		p, err := c.next()
		if err != nil {
			c.Fatalf("%s: the connection ended: %v", c.id, err)
		}
		if m, ok := c.answer(p); ok {
			return m
		}
	}
}

// answer answers what a receiver of messages has to answer and returns the message, if p is one.
func (c *client) answer(p any) (m mqtt.Publish, ok bool) {
	c.Helper()
	switch p := p.(type) {
	case mqtt.Publish:
		switch p.QoS {
		case mqtt.AtLeastOnce:
			c.ack(mqtt.PUBACK, p.PacketID, mqtt.Success)
		case mqtt.ExactlyOnce:
			c.ack(mqtt.PUBREC, p.PacketID, mqtt.Success)
		}
		return p, true
	case mqtt.Ack:
		if p.Type != mqtt.PUBREL {
			c.Fatalf("%s: got %s %d", c.id, p.Type, p.PacketID)
		}
		c.ack(mqtt.PUBCOMP, p.PacketID, mqtt.Success)
	case pong:
		c.pongs++
	default:
		c.Fatalf("%s: got %T %+v", c.id, p, p)
	}
	return m, false
}

// want reads and acknowledges messages, which must be these payloads in this order.
func (c *client) want(payloads ...string) {
	c.Helper()
	for i, want := range payloads {
		if m := c.take(); string(m.Payload) != want {
			c.Fatalf("%s: message %d is %q, want %q", c.id, i, m.Payload, want)
		}
	}
}

// silent finishes open handshakes and proves that there is nothing else for c.
func (c *client) silent() {
	c.Helper()
	for range 2 { // a PUBREC that went out before the first PINGREQ is answered before the second
		c.send(mqtt.AppendPingreq(nil))
		for c.pongs == 0 {
			p, err := c.next()
			if err != nil {
				c.Fatalf("%s: the connection ended: %v", c.id, err)
			}
			if m, ok := c.answer(p); ok {
				c.Fatalf("%s: unexpected message %q on %q", c.id, m.Payload, m.Topic)
			}
		}
		c.pongs--
	}
}

// numbers returns prefix0 to prefix(n-1).
func numbers(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(prefix, i)
	}
	return all
}

// versions are all protocol versions, for tables.
var versions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}
