package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// userBomb is as many User Properties as make about n bytes.
func userBomb(n int) (p mqtt.Properties) {
	one := mqtt.Properties(nil).WithUser("", "")
	for len(p) < n {
		p = append(p, one...)
	}
	return p
}

// TestA24UserProperties: the attacker fills every packet that may have them with tens of thousands of User Properties, the smallest
// there are. Each packet costs its bytes; the Will and retained messages keep theirs and no more.
func TestA24UserProperties(t *testing.T) {
	a := newArena(t, broker.Config{})
	before := memory()
	c := hello(mqtt.V5, "a24")
	c.Props = append(c.Props, userBomb(20_000)...)
	c.Will = &mqtt.Will{Topic: "a24/will", QoS: mqtt.AtLeastOnce, Props: userBomb(20_000), Payload: []byte("x")}
	f := a.loginAs(c)
	bomb := userBomb(500_000)
	f.throw((&mqtt.Subscribe{PacketID: 1, Props: bomb, Subscriptions: []mqtt.Subscription{{Filter: "a24/#", QoS: 1}}}).Append(nil, mqtt.V5))
	f.expect(mqtt.SUBACK)
	f.throw((&mqtt.Unsubscribe{PacketID: 1, Props: bomb, Filters: []string{"a24/#"}}).Append(nil, mqtt.V5))
	f.expect(mqtt.UNSUBACK)
	for i := range 5 {
		p := mqtt.Publish{QoS: mqtt.AtLeastOnce, Topic: []byte("a24/x"), Payload: []byte("x"), Props: bomb, Retain: true}
		if code := f.publishPacket(p); code.Failed() {
			t.Fatalf("message %d: %v", i, code)
		}
	}
	f.throw((&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 9, Props: bomb}).Append(nil, mqtt.V5))
	f.expect(mqtt.PUBCOMP)
	a.grownLess("packets full of User Properties", before, 6<<20)
	f.throw((&mqtt.Disconnect{Props: bomb}).Append(nil, mqtt.V5))
	f.mustEnd("DISCONNECT", mqtt.Success)

	reader := a.login(mqtt.V5, "reader")
	reader.subscribe("a24/x", mqtt.AtLeastOnce, 1)
	if m := reader.message(true); len(m.Props) != len(bomb) {
		t.Errorf("%d bytes of properties arrived, want %d", len(m.Props), len(bomb))
	}
	old := a.login(mqtt.V311, "old")
	old.subscribe("a24/x", mqtt.AtMostOnce, 0)
	if m := old.message(false); len(m.Props) != 0 || string(m.Payload) != "x" {
		t.Errorf("MQTT 3.1.1 gets %d bytes of properties", len(m.Props))
	}
}

// small is a CONNECT of a client that takes packets of so many bytes.
func small(id string, most uint32) mqtt.Connect {
	c := hello(mqtt.V5, id)
	c.CleanStart = false
	c.Props = mqtt.Properties(nil).WithInt(mqtt.MaximumPacketSize, most).WithInt(mqtt.SessionExpiryInterval, 1000)
	return c
}

// TestA24MaximumPacketSizeOfMessages: a client that takes small packets gets none that is larger, in whatever way a message comes to it
// [MQTT-3.1.2-24]; what it is spared counts as delivered [MQTT-3.1.2-25], and what follows comes.
func TestA24MaximumPacketSizeOfMessages(t *testing.T) {
	const most = 64
	a := newArena(t, broker.Config{})
	pub := a.login(mqtt.V5, "writer")
	long := strings.Repeat("x", 100)
	pub.publish("kept/long", long, mqtt.AtLeastOnce, true)
	pub.publish("kept/short", "fits", mqtt.AtLeastOnce, true)
	f := a.loginAs(small("a24", most))
	for _, filter := range []string{"live/#", "$share/g/shared", "will"} {
		f.subscribe(filter, mqtt.ExactlyOnce, 2)
	}
	will := hello(mqtt.V5, "dying")
	will.Will = &mqtt.Will{Topic: "will", QoS: mqtt.AtLeastOnce, Payload: []byte(long)}
	a.loginAs(will).shut()
	for qos := range mqtt.QoS(3) {
		for _, name := range []string{"live/x", "shared"} {
			pub.publish(name, long, qos, false)
			pub.publishPacket(mqtt.Publish{QoS: qos, Topic: []byte(name), Props: userBomb(200)})
			pub.publish(name, "fits", qos, false)
			if m := f.message(true); string(m.Payload) != "fits" || m.QoS != qos {
				t.Errorf("%s: got %q at QoS %d, want what fits at %d", name, m.Payload, m.QoS, qos)
			}
			f.release(qos)
		}
	}
	f.silent("a packet that is too large")
	f.subscribe("kept/+", mqtt.AtLeastOnce, 1)
	if m := f.message(true); string(m.Topic) != "kept/short" {
		t.Errorf("got %s", m.Topic)
	}
	f.shut()
	a.away("a24")
	pub.publish("live/x", long, mqtt.AtLeastOnce, false)
	pub.publish("live/x", "after", mqtt.AtLeastOnce, false)
	f = a.loginAs(small("a24", most))
	if m := f.message(true); string(m.Payload) != "after" {
		t.Errorf("got %q of the queue", m.Payload)
	}
	f.silent("a packet of the queue that is too large")
}

// release completes the handshake of a QoS 2 message.
func (f *foe) release(qos mqtt.QoS) {
	f.t.Helper()
	if qos < mqtt.ExactlyOnce {
		return
	}
	f.throw((&mqtt.Ack{Type: mqtt.PUBREC, PacketID: f.lastID}).Append(nil, f.version))
	rel := f.ack(mqtt.PUBREL)
	f.throw((&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: rel.PacketID}).Append(nil, f.version))
}

// TestA24MaximumPacketSizeOfAnswers: a client asks for so much at once that the answer is larger than what it takes, or takes less than
// any answer has. It is told nothing that is too large: its connection ends, with 0x95 if that fits.
func TestA24MaximumPacketSizeOfAnswers(t *testing.T) {
	a := newArena(t, broker.Config{})
	many := mqtt.Subscribe{PacketID: 1}
	gone := mqtt.Unsubscribe{PacketID: 1}
	for i := range 100 {
		many.Subscriptions = append(many.Subscriptions, mqtt.Subscription{Filter: fmt.Sprint("a24/", i)})
		gone.Filters = append(gone.Filters, fmt.Sprint("a24/", i))
	}
	for what, request := range map[string][]byte{"SUBACK": many.Append(nil, mqtt.V5), "UNSUBACK": gone.Append(nil, mqtt.V5)} {
		f := a.loginAs(small("a24-"+what, 64))
		f.throw(request)
		f.mustEnd(what, mqtt.PacketTooLarge)
	}
	for most := uint32(1); most < 64; most++ {
		a.tinyClient(most)
	}
	f := a.loginAs(small("a24-enough", 256))
	f.throw(many.Append(nil, mqtt.V5))
	f.expect(mqtt.SUBACK)
}

// tinyClient does what clients do, and checks the size of everything that it hears.
func (a *arena) tinyClient(most uint32) {
	a.Helper()
	f := a.open(mqtt.V5)
	c := small("", most)
	c.CleanStart = true
	f.throw(c.Append(nil))
	f.throw((&mqtt.Publish{QoS: mqtt.AtLeastOnce, PacketID: 1, Topic: []byte("t")}).Append(nil, mqtt.V5))
	f.throw((&mqtt.Publish{QoS: mqtt.ExactlyOnce, PacketID: 2, Topic: []byte("t")}).Append(nil, mqtt.V5))
	f.throw((&mqtt.Subscribe{PacketID: 3, Subscriptions: []mqtt.Subscription{{Filter: "tiny/#", QoS: 1}}}).Append(nil, mqtt.V5))
	f.throw(mqtt.AppendPingreq(nil))
	f.throw([]byte{0xFF, 0xFF}) // the end, for a reason that it is told
	for {
		p, err := f.read()
		if attackEnded(err) {
			return
		}
		if err != nil {
			a.Fatalf("a client that takes %d bytes: %v", most, err)
		}
		if f.used > int(most) {
			a.Fatalf("a client that takes %d bytes is sent %s of %d", most, p.Type, f.used)
		}
	}
}
