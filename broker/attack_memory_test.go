package broker_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// claim is the fixed header of a packet whose Remaining Length is n.
func claim(first byte, n int) []byte {
	b := []byte{first}
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(b, byte(n))
}

const largest = 268_435_455 // Remaining Length

// TestA04ClaimedLength: the attacker says that 256 MB follow, of every packet, and sends little or nothing of it. Before
// CONNECT is accepted the connection is closed at once, without a word; after it with 0x95; and no memory is set aside.
func TestA04ClaimedLength(t *testing.T) {
	a := newArena(t, broker.Config{})
	before := memory()
	for kind := byte(1); kind < 16; kind++ {
		first := kind << 4
		if kind == 6 || kind == 8 || kind == 10 {
			first |= 2
		}
		f := a.open(mqtt.V5)
		f.throw(append(claim(first, largest), make([]byte, 100)...))
		if code, silent := f.end(); !silent {
			t.Errorf("type %d before CONNECT: answered with 0x%02X", kind, byte(code))
		}
		for _, v := range attackVersions {
			f = a.login(v, "a4")
			f.throw(append(claim(first, largest), make([]byte, 64<<10)...))
			f.mustEnd(fmt.Sprintf("type %d claims 256 MB", kind), mqtt.PacketTooLarge)
		}
	}
	a.grownLess("after claims of 256 MB", before, 8<<20)
}

// TestA04ManyWithheld: 2,000 connections announce the largest CONNECT that is allowed and withhold it, after a few
// bytes. What is kept of them is those bytes, not what they announced. Beyond the limit of connections that are not
// logged in nobody else is let in; when they leave, everything is as before.
func TestA04ManyWithheld(t *testing.T) {
	const many = 2000
	a := newArena(t, broker.Config{Limits: broker.Limits{Unauthenticated: many, ConnectTimeout: 10 * attackPatience}})
	before := memory()
	body := []byte("\x00\x04MQTT\x05\x02\x00\x00\x00\xFF\xFF")
	foes := make([]*foe, many)
	for i := range foes {
		foes[i] = a.open(mqtt.V5)
		foes[i].throw(append(claim(0x10, 64<<10-4), body...))
	}
	a.eventually("all are taken", func() bool { return a.broker.Stats().Connections == many+2 })
	over := a.open(mqtt.V5)
	over.throw([]byte{0x10})
	if code, silent := over.end(); !silent {
		t.Errorf("one more connection: answered with 0x%02X", byte(code))
	}
	a.grownLess("2,000 connections that withhold", before, many*24<<10) // both ends, with the stacks of goroutines
	for _, f := range foes {
		_ = f.nc.Close()
	}
	a.eventually("all are gone", func() bool { return a.broker.Stats().Connections == 2 })
	a.login(mqtt.V5, "a4")
}

// TestA04WithheldAfterLogin: clients that are logged in announce the largest packet allowed, send the half of nothing,
// and stay. Memory grows with what arrived.
func TestA04WithheldAfterLogin(t *testing.T) {
	a := newArena(t, broker.Config{})
	before := memory()
	const many = 200
	for i := range many {
		f := a.login(mqtt.V5, fmt.Sprint("a4-", i))
		f.throw(append(claim(0x30, 1<<20-6), "\x00\x01t\x00payload"...))
	}
	a.eventually("all have sent", func() bool { return a.broker.Stats().Connected == many+2 })
	a.grownLess("200 clients that withhold 1 MiB", before, many*24<<10)
}

// TestA04Refused: the attacker breaks a rule on each of many connections, and keeps its end open when it is told why. For so
// many as are waited for until they have read that, the broker's goroutines are bounded; they do not count as connections
// any more, and there is room for others.
func TestA04Refused(t *testing.T) {
	const many, most = 1500, 1000
	a := newArena(t, broker.Config{Limits: broker.Limits{Connections: 50}})
	before := runtime.NumGoroutine()
	for range many {
		f := a.login(mqtt.V5, "a4")
		f.throw([]byte{0xFF, 0xFF})
		f.mustEnd("a malformed packet", mqtt.MalformedPacket)
	}
	if n := runtime.NumGoroutine() - before; n > most+50 {
		t.Errorf("%d goroutines for connections that are refused", n)
	}
}

// TestA04LongNames: each client publishes to as many long Topic Names as a connection may remember. Long ones are not
// remembered.
func TestA04LongNames(t *testing.T) {
	const clients, names = 20, 64
	a := newArena(t, broker.Config{Limits: broker.Limits{TopicLevels: broker.Unlimited}})
	before := memory()
	for i := range clients {
		f := a.login(mqtt.V311, fmt.Sprint("a4-", i))
		for j := range names {
			f.publish(fmt.Sprintf("%d/%d/%s", i, j, strings.Repeat("x", 60_000)), "", mqtt.AtMostOnce, false)
		}
		f.alive("after long names")
	}
	a.grownLess("1,280 names of 60 KB", before, clients*256<<10)
}

// TestA06SamePacketID: the attacker sends one QoS 2 message 50,000 times under one Packet Identifier, with and without
// DUP, and never releases it. It is one message: delivered once, one handshake open, each copy answered.
func TestA06SamePacketID(t *testing.T) {
	for _, v := range attackVersions {
		t.Run("v"+v.String(), func(t *testing.T) {
			a := newArena(t, broker.Config{})
			sub := a.login(mqtt.V5, "reader")
			sub.subscribe("a6/#", mqtt.AtMostOnce, 0)
			f := a.login(v, "a6")
			before := memory()
			const copies, batch = 50_000, 1000
			p := mqtt.Publish{QoS: mqtt.ExactlyOnce, PacketID: 7, Topic: []byte("a6/x"), Payload: []byte("again")}
			var flood []byte
			for i := range batch {
				p.Dup = i > 0
				flood = p.Append(flood, v)
			}
			for range copies / batch {
				f.throw(flood)
				for range batch {
					if ack := f.ack(mqtt.PUBREC); ack.PacketID != 7 || ack.Code.Failed() {
						t.Fatalf("answer to a copy: %+v", ack)
					}
				}
			}
			if c, _ := a.broker.Client("a6"); c.Inbound != 1 {
				t.Errorf("%d handshakes are open, want 1", c.Inbound)
			}
			sub.message(false)
			sub.silent("a second copy")
			a.grownLess("50,000 copies", before, 4<<20)
		})
	}
}

// TestA06NeverReleased: the attacker opens QoS 2 handshakes under all identifiers and completes none. MQTT 5.0 knows a
// limit, and one more ends the connection with 0x93; the table of MQTT 3 ends by itself. Reconnecting does not add to it.
func TestA06NeverReleased(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{ReceiveMaximum: 100}})
	before := memory()
	for range 3 {
		c := hello(mqtt.V5, "a6-5")
		c.CleanStart, c.Props = false, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 1000)
		f := a.loginAs(c)
		var flood []byte
		for id := range uint16(101) {
			p := mqtt.Publish{QoS: mqtt.ExactlyOnce, PacketID: id + 1, Topic: []byte("a6/y")}
			flood = p.Append(flood, mqtt.V5)
		}
		f.throw(flood)
		f.mustEnd("one more than the Receive Maximum", mqtt.ReceiveMaximumExceeded)
		a.away("a6-5")
		if c, _ := a.broker.Client("a6-5"); c.Inbound > 100 {
			t.Fatalf("%d handshakes are open", c.Inbound)
		}
	}
	f := a.login(mqtt.V311, "a6-3")
	go func() { // reads nothing until everything is sent
		var flood []byte
		for id := range 70_000 {
			p := mqtt.Publish{QoS: mqtt.ExactlyOnce, PacketID: uint16(id%65_535 + 1), Topic: []byte("a6/y")}
			flood = p.Append(flood[:0], mqtt.V311)
			f.throw(flood)
		}
		f.throw(mqtt.AppendPingreq(nil))
	}()
	f.until(mqtt.PINGRESP)
	if c, _ := a.broker.Client("a6-3"); c.Inbound != 65_535 {
		t.Errorf("%d handshakes are open, want 65,535", c.Inbound)
	}
	a.grownLess("all identifiers open", before, 8<<20)
}

// TestA06NeverAcknowledged: the attacker takes one message and never acknowledges it; what follows for him waits within
// his quota, and is dropped beyond it, in messages and in bytes.
func TestA06NeverAcknowledged(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{QueuedMessages: 500, QueuedBytes: 256 << 10}})
	pub := a.login(mqtt.V5, "writer")
	for i, payload := range []string{"short", strings.Repeat("long", 4096)} {
		before := memory()
		c := hello(mqtt.V5, fmt.Sprint("a6-", i))
		c.Props = mqtt.Properties(nil).WithInt(mqtt.ReceiveMaximum, 1)
		f := a.loginAs(c)
		f.subscribe("a6/never", mqtt.AtLeastOnce, 1)
		for range 1000 {
			pub.publish("a6/never", payload, mqtt.AtLeastOnce, false)
		}
		st, _ := a.broker.Client(c.ClientID)
		if st.InFlight != 1 || st.QueuedMessages > 500 || st.QueuedBytes > 256<<10 || st.QueuedMessages == 0 {
			t.Errorf("in flight %d, queued %d messages, %d bytes", st.InFlight, st.QueuedMessages, st.QueuedBytes)
		}
		if drops := a.broker.Stats().Dropped[broker.DropQueue]; drops == 0 {
			t.Error("no drop was counted")
		}
		a.grownLess("1,000 messages for nobody", before, 2<<20)
		f.message(false)
		f.silent("a second message beyond the Receive Maximum")
		_ = f.nc.Close()
		a.away(c.ClientID)
	}
}

// TestA06LargeInFlight: the attacker reads everything and acknowledges nothing, with the largest window and the largest
// messages. What he holds that way counts against the same quota as what waits.
func TestA06LargeInFlight(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{QueuedBytes: 4 << 20, TotalQueueBytes: 10 << 20}})
	pub := a.login(mqtt.V5, "writer")
	payload := strings.Repeat("x", 512<<10)
	before := memory()
	for i := range 8 {
		id := fmt.Sprint("a6-", i)
		f := a.login(mqtt.V5, id)
		f.subscribe(id, mqtt.AtLeastOnce, 1)
		got := make(chan int)
		go func() {
			n := 0
			for {
				p, err := f.read()
				if err != nil || p.Type == mqtt.PINGRESP {
					got <- n
					return
				}
				n++
			}
		}()
		for range 30 {
			pub.publish(id, payload, mqtt.AtLeastOnce, false)
		}
		f.throw(mqtt.AppendPingreq(nil))
		if n := <-got; n*len(payload) > 4<<20 {
			t.Errorf("client %d holds %d messages of 512 KiB unacknowledged, with a quota of 4 MiB", i, n)
		}
		f.buf, f.used = nil, 0
	}
	if st := a.broker.Stats(); st.QueuedBytes > 10<<20 {
		t.Errorf("sessions hold %d bytes, the limit is 10 MiB", st.QueuedBytes)
	}
	a.grownLess("8 clients that acknowledge nothing", before, 24<<20)
}

// TestA06NeverReads: the attackers send requests without end and read no answer. They are not read any further when too
// much waits for them, so that the answers do not fill the memory; nobody else waits.
func TestA06NeverReads(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{OutboxBytes: 64 << 10}})
	before := memory()
	var floods sync.WaitGroup
	for what, request := range map[string][]byte{
		"PINGREQ":     mqtt.AppendPingreq(nil),
		"PUBREL":      {0x62, 2, 0, 9},
		"PUBREC":      {0x50, 2, 0, 9},
		"UNSUBSCRIBE": attackPacket(0xA2, "\x00\x07", []byte{0}, "\x00\x01t\x00\x01u\x00\x01v"),
		"SUBSCRIBE":   attackPacket(0x82, "\x00\x07", []byte{0}, "\x00\x01t\x00"),
	} {
		f := a.login(mqtt.V5, "a6-"+what)
		flood := bytes.Repeat(request, 64<<10/len(request))
		floods.Go(func() {
			_ = f.nc.SetWriteDeadline(time.Now().Add(time.Second)) // the broker stops reading, or it never does
			for sent := 0; sent < 128<<20; {
				n, err := f.nc.Write(flood)
				if sent += n; err != nil {
					return
				}
			}
			t.Errorf("the broker took 128 MiB of %s whose answers nobody reads", what)
		})
	}
	floods.Wait()
	a.grownLess("answers that nobody reads", before, 8<<20)
}
