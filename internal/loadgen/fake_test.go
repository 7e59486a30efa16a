package loadgen

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// fake is a broker with faults. It acknowledges at once and delivers with QoS 0 or 1, in the order of arrival but for its faults.
type fake struct {
	t       testing.TB
	ln      net.Listener
	version mqtt.Version
	group   sync.WaitGroup

	// fault turns the n-th message, from 1, into what is delivered of it and of earlier ones; nil delivers each once.
	fault   func(n int, m mqtt.Publish) []mqtt.Publish
	connack mqtt.Connack
	grant   func(asked mqtt.QoS) mqtt.ReasonCode                // nil grants what was asked for
	before  func(f *fake, c *fakeConn, t mqtt.PacketType) error // runs before each packet; its error ends the connection

	mu    sync.Mutex // guards all below
	conns map[*fakeConn]bool
	count int
}

type fakeConn struct {
	net.Conn
	filter string
	qos    mqtt.QoS
	nextID uint16
}

// newFake starts one. faults sets what is wrong with it.
func newFake(t testing.TB, v mqtt.Version, faults func(*fake)) *fake {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ln: ln, version: v, conns: make(map[*fakeConn]bool)}
	faults(f)
	f.group.Go(f.accept)
	t.Cleanup(f.stop)
	return f
}

func (f *fake) url() string { return "mqtt://" + f.ln.Addr().String() }

func (f *fake) stop() {
	_ = f.ln.Close()
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.group.Wait()
}

func (f *fake) accept() {
	for {
		nc, err := f.ln.Accept()
		if err != nil {
			return
		}
		c := &fakeConn{Conn: nc}
		f.mu.Lock()
		f.conns[c] = true
		f.mu.Unlock()
		f.group.Go(func() {
			if err := f.serve(c); err != nil && !errors.Is(err, errEnough) {
				f.t.Errorf("fake broker: %v", err)
			}
			f.mu.Lock()
			delete(f.conns, c)
			f.mu.Unlock()
			_ = nc.Close()
		})
	}
}

// errEnough ends a connection as a fault, not as a mistake.
var errEnough = errors.New("enough")

func (f *fake) serve(c *fakeConn) error {
	var buf []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := c.Read(chunk)
		buf = append(buf, chunk[:n]...)
		for {
			p, size, perr := mqtt.ParseFrame(buf, f.version, mqtt.MaxPacket)
			if perr != nil {
				return perr
			}
			if p.Body == nil && (size == 0 || size > len(buf)) {
				break
			}
			if err := f.packet(c, p); err != nil {
				return err
			}
			buf = buf[size:]
		}
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || n == 0 && err != nil {
			return nil
		}
	}
}

func (f *fake) packet(c *fakeConn, p mqtt.Frame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != nil {
		if err := f.before(f, c, p.Type); err != nil {
			return err
		}
	}
	switch p.Type {
	case mqtt.CONNECT:
		f.write(c, f.connack.Append(nil, f.version))
	case mqtt.SUBSCRIBE:
		return f.subscribe(c, p)
	case mqtt.PUBLISH:
		var m mqtt.Publish
		if err := m.Parse(p, f.version); err != nil {
			return err
		}
		f.publish(c, m)
	case mqtt.PINGREQ:
		f.write(c, mqtt.AppendPingresp(nil))
	case mqtt.DISCONNECT:
		return errEnough
	}
	return nil
}

func (f *fake) subscribe(c *fakeConn, p mqtt.Frame) error {
	var s mqtt.Subscribe
	if err := s.Parse(p, f.version); err != nil {
		return err
	}
	c.filter, c.qos = s.Subscriptions[0].Filter, s.Subscriptions[0].QoS
	code := mqtt.ReasonCode(c.qos)
	if f.grant != nil {
		code = f.grant(c.qos)
	}
	a := mqtt.Suback{PacketID: s.PacketID, Codes: []mqtt.ReasonCode{code}}
	f.write(c, a.Append(nil, f.version))
	return nil
}

func (f *fake) publish(c *fakeConn, m mqtt.Publish) {
	f.count++
	all := []mqtt.Publish{m}
	if f.fault != nil {
		m.Topic, m.Payload = append([]byte(nil), m.Topic...), append([]byte(nil), m.Payload...)
		all = f.fault(f.count, m)
	}
	for _, m := range all {
		f.deliver(m)
	}
	if m.QoS == mqtt.AtLeastOnce {
		a := mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}
		f.write(c, a.Append(nil, f.version))
	}
}

func (f *fake) deliver(m mqtt.Publish) {
	for c := range f.conns {
		if c.filter == "" || !topic.Match(c.filter, string(m.Topic)) {
			continue
		}
		m.QoS = min(m.QoS, c.qos)
		c.nextID = c.nextID%60_000 + 1
		m.PacketID = c.nextID
		f.write(c, m.Append(nil, f.version))
	}
}

// write ignores errors: those who are gone are noticed by their readers.
func (f *fake) write(c *fakeConn, b []byte) { _, _ = c.Write(b) }
