package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// sink is a connection whose socket is /dev/null: it takes every byte at once. Nobody reads from it; tests call process with
// what the client is to have sent.
type sink struct {
	net.Conn
	file *os.File
}

func (s sink) SyscallConn() (syscall.RawConn, error) { return s.file.SyscallConn() }
func (s sink) RemoteAddr() net.Addr                  { return textAddr("sink") }
func (s sink) Write(b []byte) (int, error)           { return s.file.Write(b) }
func (s sink) SetReadDeadline(time.Time) error       { return nil }
func (s sink) SetWriteDeadline(time.Time) error      { return nil }
func (s sink) Close() error                          { return nil }

// hotRig is a broker whose connections are driven by calls of process, on the goroutine of the test.
type hotRig struct {
	testing.TB
	b    *Broker
	null *os.File
}

func newHotRig(tb testing.TB) *hotRig {
	b, err := New(Config{SysInterval: -1})
	if err != nil {
		tb.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		b.cancel()
		b.stopSessionTimers()
		_ = null.Close()
	})
	return &hotRig{tb, b, null}
}

// client makes a connection that has logged in and subscribed. It ends with the test.
func (h *hotRig) client(v mqtt.Version, id string, subs ...mqtt.Subscription) *conn {
	h.Helper()
	nc := sink{file: h.null}
	c := &conn{broker: h.b, config: &ListenerConfig{}, nc: nc, raw: newRawIO(nc), remote: nc.RemoteAddr(), limit: h.b.limits.ConnectSize}
	c.deadline = time.AfterFunc(time.Hour, func() {})
	if err := h.b.admit(c); err != nil {
		h.Fatal(err)
	}
	h.feed(c, (&mqtt.Connect{Version: v, ClientID: id, CleanStart: true}).Append(nil))
	for i, s := range subs {
		p := mqtt.Subscribe{PacketID: uint16(i + 1), Subscriptions: []mqtt.Subscription{s}}
		h.feed(c, p.Append(nil, v))
	}
	h.Cleanup(func() {
		c.deadline.Stop()
		err := errors.New("the test is over")
		c.session.detach(c, err)
		h.b.ended(c, err)
		h.b.connTasks.Done()
	})
	return c
}

// feed processes one batch of packets from the client, as serve does.
func (h *hotRig) feed(c *conn, packets []byte) {
	t := h.b.beginTurn()
	t.bytesIn += len(packets)
	used, err := c.process(packets, t)
	t.end()
	if err != nil || used != len(packets) {
		h.Fatalf("processed %d of %d bytes: %v", used, len(packets), err)
	}
}

// setID writes a Packet Identifier into an encoded acknowledgement.
func setID(packet []byte, id uint16) { packet[2], packet[3] = byte(id>>8), byte(id) }

// handshake plays the receiver: it acknowledges the message that was sent to c as id.
func (h *hotRig) handshake(c *conn, qos mqtt.QoS, id uint16, acks [][]byte) {
	switch qos {
	case mqtt.AtLeastOnce:
		setID(acks[0], id)
		h.feed(c, acks[0])
	case mqtt.ExactlyOnce:
		setID(acks[1], id)
		setID(acks[2], id)
		h.feed(c, acks[1])
		h.feed(c, acks[2])
	}
}

// encodedAcks are a PUBACK, a PUBREC, a PUBCOMP and a PUBREL.
func encodedAcks(v mqtt.Version) (all [][]byte) {
	for _, t := range []mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP, mqtt.PUBREL} {
		a := mqtt.Ack{Type: t, PacketID: 1}
		all = append(all, a.Append(nil, v))
	}
	return all
}

// run sends n messages from pub to the subscribers, with all handshakes.
func (h *hotRig) run(n int, pub *conn, subs []*conn, m mqtt.Publish) {
	m.PacketID = 1
	packet, acks := m.Append(nil, mqtt.V311), encodedAcks(mqtt.V311)
	for i := range n {
		h.feed(pub, packet)
		if m.QoS == mqtt.AtMostOnce {
			continue
		}
		for _, c := range subs {
			h.handshake(c, m.QoS, uint16(i%65_535)+1, acks)
		}
		if m.QoS == mqtt.ExactlyOnce {
			h.feed(pub, acks[3])
		}
	}
}

func (h *hotRig) subscribers(n int, qos mqtt.QoS) (all []*conn) {
	for i := range n {
		all = append(all, h.client(mqtt.V311, fmt.Sprint("s", i), sub("bench/+", qos)))
	}
	return all
}

// BenchmarkPair is one publisher and one subscriber, by QoS.
func BenchmarkPair(b *testing.B) {
	for qos := range mqtt.QoS(3) {
		b.Run(fmt.Sprint("QoS", qos), func(b *testing.B) {
			h := newHotRig(b)
			pub, subs := h.client(mqtt.V311, "p"), h.subscribers(1, 2)
			b.ReportAllocs()
			b.ResetTimer()
			h.run(b.N, pub, subs, post("bench/a", "0123456789abcdef", qos))
		})
	}
}

// BenchmarkFanOut is one publisher and 500 subscribers; one operation is one message published.
func BenchmarkFanOut(b *testing.B) {
	for qos := range mqtt.QoS(2) {
		b.Run(fmt.Sprint("QoS", qos), func(b *testing.B) {
			h := newHotRig(b)
			pub, subs := h.client(mqtt.V311, "p"), h.subscribers(500, 2)
			b.ReportAllocs()
			b.ResetTimer()
			h.run(b.N, pub, subs, post("bench/a", "0123456789abcdef", qos))
		})
	}
}

// BenchmarkFanIn is 500 publishers with a topic each and one subscriber; one operation is one message.
func BenchmarkFanIn(b *testing.B) {
	h := newHotRig(b)
	h.subscribers(1, 0)
	pubs, packets := make([]*conn, 500), make([][]byte, 500)
	for i := range pubs {
		pubs[i] = h.client(mqtt.V311, fmt.Sprint("p", i))
		packets[i] = publishBytes(post(fmt.Sprint("bench/", i), "0123456789abcdef", 0), mqtt.V311)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		h.feed(pubs[i%500], packets[i%500])
	}
}
