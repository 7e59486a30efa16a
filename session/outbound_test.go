package session

import (
	"fmt"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

const q1, q2 = mqtt.AtLeastOnce, mqtt.ExactlyOnce

// sender is an Outbound with that window and n messages in flight, numbered from zero, of Packet Identifiers from 1.
func sender(t testing.TB, window int, qos ...mqtt.QoS) *compared {
	t.Helper()
	c := &compared{t: t}
	c.connected(window)
	for n, q := range qos {
		if id, ok := c.send(message(n, q)); !ok || int(id) != n+1 {
			t.Fatalf("message %d: identifier %d, sent %v", n, id, ok)
		}
	}
	return c
}

// drain takes everything that may be sent now and shows it, such as "3 dup".
func drain(c *compared) (got []string) {
	c.t.Helper()
	for {
		id, _, dup, ok := c.next()
		if !ok {
			return got
		}
		got = append(got, fmt.Sprint(id)+mark(dup, " dup"))
	}
}

func expect[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// What every acknowledgement does in every state of a handshake; the identifier is 1.
func TestAnswers(t *testing.T) {
	const ok, no = mqtt.Success, mqtt.NotAuthorized
	states := map[string]func(t *testing.T) *compared{
		"unknown":         func(t *testing.T) *compared { return sender(t, 2) },
		"unknown, others": func(t *testing.T) *compared { c := sender(t, 2, q1, q1); c.acknowledge(1); return c },
		"QoS 1":           func(t *testing.T) *compared { return sender(t, 2, q1) },
		"QoS 1 again":     func(t *testing.T) *compared { c := sender(t, 2, q1); c.connected(2); return c },
		"QoS 1 removed":   func(t *testing.T) *compared { c := sender(t, 2, q1); c.remove(all); return c },
		"QoS 2":           func(t *testing.T) *compared { return sender(t, 2, q2) },
		"QoS 2 again":     func(t *testing.T) *compared { c := sender(t, 2, q2); c.connected(2); return c },
		"QoS 2 removed":   func(t *testing.T) *compared { c := sender(t, 2, q2); c.remove(all); return c },
		"released":        func(t *testing.T) *compared { c := sender(t, 2, q2); c.received(1, ok); return c },
	}
	tests := []struct {
		state  string
		packet mqtt.PacketType
		code   mqtt.ReasonCode
		want   string
		open   int // handshakes open afterwards
	}{
		{"unknown", mqtt.PUBACK, ok, "false <nil>", 0},
		{"unknown", mqtt.PUBREC, ok, "packet identifier not found (0x92) false <nil>", 0},
		{"unknown", mqtt.PUBREC, no, "packet identifier not found (0x92) true <nil>", 0},
		{"unknown", mqtt.PUBCOMP, ok, "false <nil>", 0},
		{"unknown, others", mqtt.PUBACK, ok, "false <nil>", 1}, // a late answer
		{"unknown, others", mqtt.PUBREC, ok, "packet identifier not found (0x92) false <nil>", 1},
		{"unknown, others", mqtt.PUBCOMP, ok, "false <nil>", 1},
		{"QoS 1", mqtt.PUBACK, ok, "true <nil>", 0}, // [MQTT-4.3.2-3]
		{"QoS 1", mqtt.PUBREC, ok, "success (0x00) false protocol error (0x82)", 1},
		{"QoS 1", mqtt.PUBREC, no, "success (0x00) false protocol error (0x82)", 1},
		{"QoS 1", mqtt.PUBCOMP, ok, "true protocol error (0x82)", 1},
		{"QoS 1 again", mqtt.PUBACK, ok, "true <nil>", 0},
		{"QoS 1 removed", mqtt.PUBACK, ok, "false <nil>", 0},
		{"QoS 2", mqtt.PUBACK, ok, "true protocol error (0x82)", 1},
		{"QoS 2", mqtt.PUBREC, ok, "success (0x00) false <nil>", 1}, // [MQTT-4.3.3-4], [MQTT-4.3.3-5]
		{"QoS 2", mqtt.PUBREC, mqtt.NoMatchingSubscribers, "success (0x00) false <nil>", 1},
		{"QoS 2", mqtt.PUBREC, no, "success (0x00) true <nil>", 0}, // [MQTT-4.4.0-2]
		{"QoS 2", mqtt.PUBCOMP, ok, "true protocol error (0x82)", 1},
		{"QoS 2 again", mqtt.PUBREC, ok, "success (0x00) false <nil>", 1},
		{"QoS 2 again", mqtt.PUBREC, no, "success (0x00) true <nil>", 0},
		{"QoS 2 removed", mqtt.PUBREC, ok, "success (0x00) false <nil>", 1},
		{"QoS 2 removed", mqtt.PUBREC, no, "success (0x00) true <nil>", 0},
		{"released", mqtt.PUBACK, ok, "true protocol error (0x82)", 1},
		{"released", mqtt.PUBREC, ok, "success (0x00) false <nil>", 1}, // PUBREL again
		{"released", mqtt.PUBREC, no, "success (0x00) false <nil>", 1},
		{"released", mqtt.PUBCOMP, ok, "true <nil>", 0},
		{"released", mqtt.PUBCOMP, mqtt.PacketIdentifierNotFound, "true <nil>", 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.state, " ", tt.packet, " ", tt.code), func(t *testing.T) {
			c := states[tt.state](t)
			if got := answer(c, tt.packet, 1, tt.code); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if open, _ := c.out.InFlight(); open != tt.open {
				t.Errorf("%d handshakes are open, want %d", open, tt.open)
			}
		})
	}
}

func all(Delivery, bool) bool { return true }

func answer(c *compared, packet mqtt.PacketType, id uint16, code mqtt.ReasonCode) string {
	switch packet {
	case mqtt.PUBACK:
		return fmt.Sprint(c.acknowledge(id))
	case mqtt.PUBREC:
		reply, done, err := c.received(id, code)
		return fmt.Sprint(reply.Error(), " ", done, " ", err)
	}
	return fmt.Sprint(c.complete(id))
}

// Identifier zero is nobody's, though free places have it.
func TestAnswersZero(t *testing.T) {
	c := sender(t, 9, q1, q2)
	for _, packet := range []mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP} {
		answer(c, packet, 0, mqtt.Success)
	}
	if open, _ := c.out.InFlight(); open != 2 {
		t.Errorf("%d handshakes are open, want 2", open)
	}
}

// What makes room in a window of 1 [MQTT-4.9.0-1], [MQTT-4.9.0-2], [MQTT-3.3.4-7], [MQTT-3.3.4-9].
func TestWindow(t *testing.T) {
	tests := []struct {
		name    string
		qos     mqtt.QoS
		packets []mqtt.PacketType
		code    mqtt.ReasonCode
		open    bool
	}{
		{"nothing came", q1, nil, 0, false},
		{"PUBACK", q1, []mqtt.PacketType{mqtt.PUBACK}, mqtt.Success, true},
		{"PUBREC", q2, []mqtt.PacketType{mqtt.PUBREC}, mqtt.Success, false},
		{"PUBREC twice", q2, []mqtt.PacketType{mqtt.PUBREC, mqtt.PUBREC}, mqtt.Success, false},
		{"PUBREC refuses", q2, []mqtt.PacketType{mqtt.PUBREC}, mqtt.QuotaExceeded, true},
		{"PUBCOMP", q2, []mqtt.PacketType{mqtt.PUBREC, mqtt.PUBCOMP}, mqtt.Success, true},
		{"PUBCOMP too early", q2, []mqtt.PacketType{mqtt.PUBCOMP}, mqtt.Success, false},
		{"PUBACK for QoS 2", q2, []mqtt.PacketType{mqtt.PUBACK}, mqtt.Success, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := sender(t, 1, tt.qos)
			for _, packet := range tt.packets {
				answer(c, packet, 1, tt.code)
			}
			if got := c.out.Open(); got != tt.open {
				t.Errorf("open %v, want %v", got, tt.open)
			}
			c.push(message(1, q1))
			if got := c.out.Ready(); got != tt.open {
				t.Errorf("ready %v, want %v", got, tt.open)
			}
		})
	}
}

// An answer twice makes room once.
func TestWindowAnsweredTwice(t *testing.T) {
	c := sender(t, 2, q1, q1)
	c.acknowledge(1)
	c.acknowledge(1)
	c.push(message(2, q1))
	c.push(message(3, q1))
	expect(t, "sent", drain(c), []string{"3"})
}

// Before the first connection nothing may be sent.
func TestZeroValue(t *testing.T) {
	c := &compared{t: t}
	c.push(message(0, q1))
	expect(t, "sent", drain(c), nil)
	c.connected(1)
	expect(t, "sent when connected", drain(c), []string{"1"})
}

// A new connection sends again what was not acknowledged: PUBLISH with DUP, in order, under the same identifiers, before
// anything new [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-4.6.0-1]; PUBREL in the order of the PUBRECs [MQTT-4.6.0-4] and
// PUBLISH not any more [MQTT-4.3.3-6].
func TestResend(t *testing.T) {
	c := sender(t, 8, q1, q2, q1, q2, q2, q1)
	c.push(message(6, q1))
	c.received(5, mqtt.Success)
	c.acknowledge(3)
	c.received(2, mqtt.Success)
	for range 2 { // as often as it takes
		c.connected(8)
		expect(t, "PUBREL", slices.Collect(c.out.Released()), []uint16{5, 2})
		id, d, dup, ok := c.next()
		if id != 1 || number(d) != 0 || !dup || !ok {
			t.Fatalf("first: %d %v %v %v", id, d, dup, ok)
		}
	}
	expect(t, "PUBLISH", drain(c), []string{"4 dup", "6 dup", "7"})
}

// Each connection has its own window, and what is sent again waits for it too; PUBRELs do not, but take room.
func TestResendWindow(t *testing.T) {
	c := sender(t, 5, q1, q2, q1, q1, q1)
	c.received(2, mqtt.Success)
	c.connected(2)
	expect(t, "at first", drain(c), []string{"1 dup"})
	c.acknowledge(1)
	expect(t, "after PUBACK", drain(c), []string{"3 dup"})
	c.complete(2)
	expect(t, "after PUBCOMP", drain(c), []string{"4 dup"})
	c.connected(9)
	expect(t, "with a large window", drain(c), []string{"3 dup", "4 dup", "5 dup"})
	if !c.out.Open() {
		t.Error("there is no room after all was sent again")
	}
}

// An answer to the PUBLISH of an earlier connection is good too, and that message is not sent again.
func TestAnswerBeforeResend(t *testing.T) {
	c := sender(t, 5, q1, q2, q2, q1, q1)
	c.connected(3)
	c.acknowledge(1)
	c.received(2, mqtt.Success)
	c.received(3, mqtt.NotAuthorized)
	c.acknowledge(5)
	expect(t, "sent again", drain(c), []string{"4 dup"})
}

// Skip and Peek: what is skipped is not sent, now and later.
func TestSkip(t *testing.T) {
	c := sender(t, 3, q1, q2, q1)
	c.push(message(3, q1))
	c.push(message(4, q2))
	c.connected(5)
	for _, want := range []string{"0 true", "1 true", "2 true", "3 false"} {
		d, dup, ok := c.out.Peek()
		if got := fmt.Sprint(number(d), " ", dup); got != want || !ok {
			t.Errorf("peek: got %s %v, want %s", got, ok, want)
		}
		c.skip()
	}
	expect(t, "sent", drain(c), []string{"4"})
	c.connected(5)
	expect(t, "PUBREL", slices.Collect(c.out.Released()), []uint16{2})
	expect(t, "sent again", drain(c), []string{"4 dup"})
}

// Remove tells what was sent from what waits, counts both, and gives their bytes back at once.
func TestRemove(t *testing.T) {
	c := sender(t, 3, q1, q2, q2)
	c.received(3, mqtt.Success)
	for n := 3; n < 8; n++ {
		c.push(message(n, q1))
	}
	for _, tt := range []struct {
		name string
		gone func(d Delivery, started bool) bool
		want int
	}{
		{"none", func(Delivery, bool) bool { return false }, 0},
		{"even, waiting", func(d Delivery, started bool) bool { return !started && number(d)%2 == 0 }, 2},
		{"started", func(_ Delivery, started bool) bool { return started }, 2},
		{"started again", func(_ Delivery, started bool) bool { return started }, 0},
		{"all", all, 3},
		{"all again", all, 0},
	} {
		if got := c.remove(tt.gone); got != tt.want {
			t.Errorf("%s: removed %d, want %d", tt.name, got, tt.want)
		}
	}
	if _, bytes := c.out.InFlight(); bytes != 0 {
		t.Errorf("%d bytes are left in flight", bytes)
	}
}

// A message that was sent and removed keeps its identifier and its place in the window until the peer has answered, or,
// with QoS 1, the connection has ended [MQTT-2.2.1-4], [MQTT-3.3.4-9].
func TestRemoveStarted(t *testing.T) {
	c := sender(t, 2, q1, q2)
	c.remove(all)
	c.push(message(2, q1))
	expect(t, "sent into a full window", drain(c), nil)
	c.acknowledge(1)
	expect(t, "sent after PUBACK", drain(c), []string{"3"})
	c.connected(2)
	expect(t, "PUBREL", slices.Collect(c.out.Released()), []uint16{2}) // so that the receiver forgets it
	expect(t, "sent again", drain(c), []string{"3 dup"})
	c.complete(2)
	c.remove(all)
	c.connected(2)
	if open, bytes := c.out.InFlight(); open != 0 || bytes != 0 {
		t.Errorf("%d handshakes, %d bytes are open at the end", open, bytes)
	}
}

// All and Released stop when they are told to.
func TestIteratorsStop(t *testing.T) {
	c := sender(t, 4, q1, q1, q2, q2)
	c.received(3, mqtt.Success)
	c.received(4, mqtt.Success)
	c.push(message(4, q1))
	c.push(message(5, q1))
	for limit := 1; limit <= 4; limit++ {
		seen := 0
		for range c.out.All() {
			if seen++; seen == limit {
				break
			}
		}
		if seen != limit {
			t.Errorf("All stopped after %d, want %d", seen, limit)
		}
	}
	for id := range c.out.Released() {
		if id != 3 {
			t.Errorf("Released went on to %d", id)
		}
		break
	}
}

// The table follows the number of messages in flight and is given back when a burst is over.
func TestTable(t *testing.T) {
	var o Outbound
	o.Connected(65535)
	for n := range 10000 {
		o.Send(message(n, q1))
		if size := len(o.table); size > max(4, 4*(n+1)) {
			t.Fatalf("%d messages have a table of %d", n+1, size)
		}
	}
	for id := range uint16(10000) {
		if _, known, err := o.Acknowledge(id + 1); !known || err != nil {
			t.Fatalf("%d: %v %v", id+1, known, err)
		}
	}
	if broken := broken(&o); broken != "" || len(o.table) > keepTable {
		t.Errorf("table of %d: %s", len(o.table), broken)
	}
}

// Identifiers go round and round: never zero, never one in use, although some handshakes stall for ever and others are
// answered out of order [MQTT-2.2.1-3], [MQTT-2.2.1-4].
func TestIdentifiersWrap(t *testing.T) {
	for _, tt := range []struct{ window, stalled int }{
		{1, 0}, {2, 1}, {3, 1}, {20, 7}, {1000, 500}, {20000, 1}, {65535, 0}, {65535, 30000},
	} {
		t.Run(fmt.Sprintf("window %d, %d stalled", tt.window, tt.stalled), func(t *testing.T) {
			ids := newIdentifiers(t, tt.window)
			for range tt.stalled {
				ids.send()
			}
			ids.flying = nil
			for range 210_000 {
				if !ids.out.Open() {
					ids.answer()
				}
				ids.send()
			}
			ids.finish(tt.stalled)
		})
	}
}

// However large the window, half of the identifiers stay free, so that a peer that stalls everything else does not make
// the search for the next one slow.
func TestMostInFlight(t *testing.T) {
	var o Outbound
	o.Connected(65535)
	sent := 0
	for ; o.Open(); sent++ {
		o.Send(one)
	}
	o.Push(one)
	if broken := broken(&o); broken != "" || sent != maxTaken || o.Ready() {
		t.Fatalf("sent %d, ready %v, %s", sent, o.Ready(), broken)
	}
	o.Acknowledge(9)
	if id, _, _, ok := o.Next(); !ok || id != maxTaken+1 {
		t.Errorf("after one PUBACK: identifier %d, %v", id, ok)
	}
}

// Also messages that were skipped, whose handshakes take no room in the window, leave identifiers for others.
func TestMostSkipped(t *testing.T) {
	var o Outbound
	o.Connected(65535)
	for o.Open() {
		o.Send(message(1, q2))
	}
	o.Connected(65535)
	for range maxTaken {
		o.Skip()
	}
	o.Push(one)
	if _, _, _, ok := o.Next(); ok || o.Open() {
		t.Fatal("sent although all identifiers are taken")
	}
	o.Connected(65535)
	o.Complete(1)
	if _, _, _, ok := o.Next(); !ok {
		t.Error("nothing is sent after a PUBCOMP")
	}
}

// identifiers watches which Packet Identifiers are in use, by a table of all.
type identifiers struct {
	t      *testing.T
	out    Outbound
	used   [1 << 16]bool
	flying []uint16 // those that will be answered
	turn   int
}

func newIdentifiers(t *testing.T, window int) *identifiers {
	ids := &identifiers{t: t}
	ids.out.Connected(window)
	return ids
}

var one = message(1, q1)

func (ids *identifiers) send() {
	id := ids.out.Send(one)
	if id == 0 || ids.used[id] {
		ids.t.Fatalf("identifier %d is zero or in use", id)
	}
	ids.used[id] = true
	ids.flying = append(ids.flying, id)
}

// answer acknowledges one from a place that moves through the list.
func (ids *identifiers) answer() {
	ids.turn += 7
	i, last := ids.turn%len(ids.flying), len(ids.flying)-1
	id := ids.flying[i]
	ids.flying[i] = ids.flying[last]
	ids.flying = ids.flying[:last]
	if _, known, err := ids.out.Acknowledge(id); !known || err != nil {
		ids.t.Fatalf("identifier %d: %v %v", id, known, err)
	}
	ids.used[id] = false
}

func (ids *identifiers) finish(stalled int) {
	for len(ids.flying) > 0 {
		ids.answer()
	}
	if broken := broken(&ids.out); broken != "" {
		ids.t.Error(broken)
	}
	if n, bytes := ids.out.InFlight(); n != stalled || bytes != stalled*one.Size() {
		ids.t.Errorf("%d messages, %d bytes in flight at the end, want %d", n, bytes, stalled)
	}
}
