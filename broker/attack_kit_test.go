package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// The attack tests see the broker as an attacker does: through sockets. Each has a bystander, a pair of clients that
// exchange messages all the time and must not miss one, and ends with a look for what the attack left behind.

// attackPatience bounds every wait; none should come near it.
const attackPatience = 30 * time.Second

var attackVersions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// arena is a broker under attack.
type arena struct {
	*testing.T
	broker *broker.Broker
	addr   string // of the plain TCP listener
}

// newArena starts a broker on TCP and the listeners given, and the bystander. Everything ends with the test, which
// fails when the broker does not end, leaves goroutines, or kept the bystander waiting.
func newArena(t *testing.T, cfg broker.Config, more ...net.Listener) *arena {
	t.Helper()
	before := goleak.IgnoreCurrent()
	if cfg.SysInterval == 0 {
		cfg.SysInterval = -1
	}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	plain := attackListen(t, plainNamed("plain"))
	a := &arena{T: t, broker: b, addr: plain.Addr().String()}
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), append([]net.Listener{plain}, more...)...) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), attackPatience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if cfg.Store != nil {
			if err := cfg.Store.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		}
		goleak.VerifyNone(t, before)
	})
	a.startBystander()
	return a
}

func attackListen(t *testing.T, cfg transport.Config) *transport.Listener {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	cfg.Log = slog.New(slog.DiscardHandler)
	ln, err := transport.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// The bystander's clients have this user and password, where those are asked for.
const (
	bystanderUser     = "bystander"
	bystanderPassword = "looks-away"
	bystanderTopic    = "bystander/talk"
)

// startBystander lets two clients talk until the test ends. Each message is acknowledged and received before the next
// goes out, so that one lost message is one failed test.
func (a *arena) startBystander() {
	a.Helper()
	sub := a.login(mqtt.V5, "bystander-sub")
	pub := a.login(mqtt.V311, "bystander-pub")
	sub.subscribe(bystanderTopic, mqtt.AtLeastOnce, mqtt.Success+1)
	stop, done := make(chan struct{}), make(chan error, 1)
	var rounds atomic.Int64
	go func() {
		tick := time.NewTicker(time.Millisecond) // a device's pace, to leave the processor to the attack
		defer tick.Stop()
		for {
			err := bystanderRound(pub, sub, rounds.Add(1))
			select {
			case <-stop: // one round was made after the attack
				done <- err
				return
			case <-tick.C:
			}
			if err != nil {
				<-stop
				done <- err
				return
			}
		}
	}()
	a.Cleanup(func() {
		close(stop)
		if err := <-done; err != nil {
			a.Errorf("the bystander suffers in round %d: %v", rounds.Load(), err)
		}
		if n := a.broker.Stats().Connected; n < 2 {
			a.Errorf("%d clients are connected at the end, not even the bystander's two", n)
		}
	})
}

// bystanderRound sends one message with QoS 1 and sees it arrive.
func bystanderRound(pub, sub *foe, round int64) error {
	text := fmt.Sprint(round)
	id := uint16(round%65_535 + 1)
	out := mqtt.Publish{QoS: mqtt.AtLeastOnce, PacketID: id, Topic: []byte(bystanderTopic), Payload: []byte(text)}
	if _, err := pub.nc.Write(out.Append(nil, pub.version)); err != nil {
		return err
	}
	f, err := sub.read()
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	var in mqtt.Publish
	if f.Type != mqtt.PUBLISH || in.Parse(f, sub.version) != nil || string(in.Payload) != text {
		return fmt.Errorf("received %s %q, want message %s", f.Type, f.Body, text)
	}
	ack := mqtt.Ack{Type: mqtt.PUBACK, PacketID: in.PacketID}
	if _, err := sub.nc.Write(ack.Append(nil, sub.version)); err != nil {
		return err
	}
	f, err = pub.read()
	if err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	if f.Type != mqtt.PUBACK || len(f.Body) != 2 || uint16(f.Body[0])<<8|uint16(f.Body[1]) != id {
		return fmt.Errorf("received %s % x, want PUBACK of %d", f.Type, f.Body, id)
	}
	return nil
}

// foe is one connection of an attacker, or of a client that an attack is about.
type foe struct {
	t       testing.TB
	nc      net.Conn
	version mqtt.Version
	buf     []byte
	used    int
	lastID  uint16 // of the last message
}

func newFoe(t testing.TB, nc net.Conn, v mqtt.Version) *foe {
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(2 * attackPatience))
	return &foe{t: t, nc: nc, version: v}
}

// open makes a connection and sends nothing.
func (a *arena) open(v mqtt.Version) *foe {
	a.Helper()
	nc, err := net.DialTimeout("tcp", a.addr, attackPatience)
	if err != nil {
		a.Fatal(err)
	}
	return newFoe(a, nc, v)
}

// hello is a CONNECT of the bystander's user that anybody may use as a base.
func hello(v mqtt.Version, id string) mqtt.Connect {
	return mqtt.Connect{
		Version: v, ClientID: id, CleanStart: true,
		HasUsername: true, Username: bystanderUser, HasPassword: true, Password: []byte(bystanderPassword),
	}
}

// login makes a connection that the broker accepts.
func (a *arena) login(v mqtt.Version, id string) *foe {
	a.Helper()
	return a.loginAs(hello(v, id))
}

func (a *arena) loginAs(c mqtt.Connect) *foe {
	a.Helper()
	f, ack := a.try(c)
	if ack.Code != mqtt.Success {
		a.Fatalf("CONNECT of %q: %v", c.ClientID, ack.Code)
	}
	return f
}

// try sends a CONNECT and returns the answer; a connection closed without one counts as code 0xFF.
func (a *arena) try(c mqtt.Connect) (*foe, mqtt.Connack) {
	a.Helper()
	f := a.open(c.Version)
	return f, f.connect(c)
}

func (f *foe) connect(c mqtt.Connect) (ack mqtt.Connack) {
	f.t.Helper()
	f.throw(c.Append(nil))
	p, err := f.read()
	if attackEnded(err) {
		return mqtt.Connack{Code: 0xFF}
	}
	if err == nil {
		err = ack.Parse(p, c.Version)
	}
	if err != nil {
		f.t.Fatalf("answer to CONNECT: %s: %v", p.Type, err)
	}
	return ack
}

// throw sends bytes. The broker may have closed the connection already.
func (f *foe) throw(b []byte) { _, _ = f.nc.Write(b) }

// read returns the next packet. Its body is good until the next read.
func (f *foe) read() (mqtt.Frame, error) {
	f.buf = f.buf[f.used:]
	f.used = 0
	for {
		p, size, err := mqtt.ParseFrame(f.buf, f.version, mqtt.MaxPacket)
		if err != nil {
			return p, fmt.Errorf("the broker sent % x: %w", f.buf, err)
		}
		if size > 0 && size <= len(f.buf) {
			f.used = size
			return p, nil
		}
		chunk := make([]byte, 4096)
		n, err := f.nc.Read(chunk)
		if f.buf = append(f.buf, chunk[:n]...); n == 0 && err != nil {
			if len(f.buf) > 0 && attackEnded(err) {
				return p, fmt.Errorf("the broker closed inside a packet: % x", f.buf)
			}
			return p, err
		}
	}
}

// attackEnded reports whether an error means that the broker has closed the connection, in whatever way.
func attackEnded(err error) bool {
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, new(mqtt.ReasonCode)) &&
		(errors.Is(err, io.EOF) || errors.As(err, new(*net.OpError)) || errors.Is(err, io.ErrClosedPipe))
}

// expect returns the next packet, which must be of that type.
func (f *foe) expect(want mqtt.PacketType) mqtt.Frame {
	f.t.Helper()
	p, err := f.read()
	if err != nil {
		f.t.Fatalf("want %s: %v", want, err)
	}
	if p.Type != want {
		f.t.Fatalf("received %s % x, want %s", p.Type, p.Body, want)
	}
	return p
}

// until skips packets of other types.
func (f *foe) until(want mqtt.PacketType) mqtt.Frame {
	f.t.Helper()
	for {
		p, err := f.read()
		if err != nil {
			f.t.Fatalf("want %s: %v", want, err)
		}
		if p.Type == want {
			return p
		}
	}
}

// end reads to the end of the connection and returns the code of the DISCONNECT before it, or of a CONNACK, if there was
// one of those; silent is true when the broker said nothing at all.
func (f *foe) end() (code mqtt.ReasonCode, silent bool) {
	f.t.Helper()
	silent = true
	for {
		p, err := f.read()
		if attackEnded(err) {
			return code, silent
		}
		if err != nil {
			f.t.Fatalf("want the end of the connection: %v", err)
		}
		silent = false
		switch p.Type {
		case mqtt.DISCONNECT:
			var d mqtt.Disconnect
			if err := d.Parse(p, f.version); err != nil {
				f.t.Fatalf("DISCONNECT % x: %v", p.Body, err)
			}
			code = d.Code
		case mqtt.CONNACK:
			code = mqtt.ReasonCode(p.Body[1])
		}
	}
}

// mustEnd checks that the broker closes the connection: with DISCONNECT and one of the codes in MQTT 5.0, without a word
// before.
func (f *foe) mustEnd(what string, codes ...mqtt.ReasonCode) {
	f.t.Helper()
	code, silent := f.end()
	if f.version != mqtt.V5 {
		if !silent && code != 0 {
			f.t.Errorf("%s: MQTT %s client hears %v", what, f.version, code)
		}
		return
	}
	for _, want := range codes {
		if code == want {
			return
		}
	}
	f.t.Errorf("%s: connection ended with 0x%02X, want %v", what, byte(code), codes)
}

// alive checks that the connection is open and that the broker has handled all that was sent.
func (f *foe) alive(what string) {
	f.t.Helper()
	f.throw(mqtt.AppendPingreq(nil))
	for {
		p, err := f.read()
		if err != nil {
			f.t.Fatalf("%s: %v", what, err)
		}
		if p.Type == mqtt.PINGRESP {
			return
		}
	}
}

// silent checks that nothing was sent to the client before everything that it sent was handled.
func (f *foe) silent(what string) {
	f.t.Helper()
	f.throw(mqtt.AppendPingreq(nil))
	if p, err := f.read(); err != nil || p.Type != mqtt.PINGRESP {
		f.t.Errorf("%s: received %s %q, %v", what, p.Type, p.Body, err)
	}
}

// subscribe makes one subscription and checks the code of its SUBACK.
func (f *foe) subscribe(filter string, qos mqtt.QoS, want mqtt.ReasonCode) {
	f.t.Helper()
	if got := f.trySubscribe(filter, qos); got != want {
		f.t.Errorf("SUBSCRIBE %.60q: 0x%02X, want 0x%02X", filter, byte(got), byte(want))
	}
}

func (f *foe) trySubscribe(filter string, qos mqtt.QoS) mqtt.ReasonCode {
	f.t.Helper()
	s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: qos}}}
	f.throw(s.Append(nil, f.version))
	p := f.until(mqtt.SUBACK)
	return mqtt.ReasonCode(p.Body[len(p.Body)-1])
}

// publish sends a message and, for QoS 1 and 2, returns the code of the first acknowledgement.
func (f *foe) publish(name, payload string, qos mqtt.QoS, retain bool) mqtt.ReasonCode {
	f.t.Helper()
	return f.publishPacket(mqtt.Publish{QoS: qos, Retain: retain, Topic: []byte(name), Payload: []byte(payload)})
}

func (f *foe) publishPacket(p mqtt.Publish) mqtt.ReasonCode {
	f.t.Helper()
	want := mqtt.PUBACK
	switch p.QoS {
	case mqtt.AtMostOnce:
		f.throw(p.Append(nil, f.version))
		return mqtt.Success
	case mqtt.ExactlyOnce:
		want = mqtt.PUBREC
	}
	p.PacketID = 7
	f.throw(p.Append(nil, f.version))
	ack := f.ack(want)
	if want == mqtt.PUBREC && !ack.Code.Failed() {
		rel := mqtt.Ack{Type: mqtt.PUBREL, PacketID: 7}
		f.throw(rel.Append(nil, f.version))
		f.ack(mqtt.PUBCOMP)
	}
	return ack.Code
}

func (f *foe) ack(want mqtt.PacketType) (a mqtt.Ack) {
	f.t.Helper()
	if err := a.Parse(f.expect(want), f.version); err != nil {
		f.t.Fatal(err)
	}
	return a
}

// message returns the next PUBLISH, which is acknowledged if acknowledge is set.
func (f *foe) message(acknowledge bool) (m mqtt.Publish) {
	f.t.Helper()
	if err := m.Parse(f.expect(mqtt.PUBLISH), f.version); err != nil {
		f.t.Fatal(err)
	}
	m.Topic, m.Payload, f.lastID = bytes.Clone(m.Topic), bytes.Clone(m.Payload), m.PacketID
	if acknowledge && m.QoS == mqtt.AtLeastOnce {
		ack := mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}
		f.throw(ack.Append(nil, f.version))
	}
	return m
}

// shut closes the client's side and waits until the broker has noticed.
func (f *foe) shut() {
	if half, ok := f.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		_, _ = io.Copy(io.Discard, f.nc)
	}
	_ = f.nc.Close()
}

// eventually waits until a condition holds that nothing tells about.
func (a *arena) eventually(what string, ok func() bool) {
	a.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(attackPatience); !ok(); <-tick.C {
		if time.Now().After(end) {
			a.Fatalf("never: %s", what)
		}
	}
}

// away waits until a client has no connection any more.
func (a *arena) away(id string) {
	a.Helper()
	a.eventually(id+" is away", func() bool {
		c, _ := a.broker.Client(id)
		return !c.Connected
	})
}

// memory returns what the process holds after a collection, heap and stacks, in bytes.
func memory() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools kept through the first
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// allocated returns how many bytes the process has allocated so far, a measure of work that no load of the machine
// changes.
func allocated() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.TotalAlloc)
}

// grownLess checks how much memory was taken since before.
func (a *arena) grownLess(what string, before, most int64) {
	a.Helper()
	grown := memory() - before
	a.Logf("%s: the process grew by %d KiB", what, grown>>10)
	if grown > most {
		a.Errorf("%s: the process grew by %d KiB, want at most %d KiB", what, grown>>10, most>>10)
	}
}

// plainNamed is a TCP listener of that name.
func plainNamed(name string) transport.Config {
	return transport.Config{Name: name, Network: transport.TCP}
}
