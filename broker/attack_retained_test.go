package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// TestA16RetainedMessages: the attacker retains a message under ever new names. Beyond the limit each is refused with 0x97, and MQTT 3
// is closed; nobody gets what was refused. Replacing and removing goes on, and makes room.
func TestA16RetainedMessages(t *testing.T) {
	const most = 2000
	a := newArena(t, broker.Config{Limits: broker.Limits{Retained: most}})
	watcher := a.login(mqtt.V5, "watcher")
	watcher.subscribe("a16/over", mqtt.AtLeastOnce, 1)
	f := a.login(mqtt.V5, "a16")
	before := memory()
	for i := range 2 * most {
		code := f.publish(fmt.Sprint("a16/", i), "bomb", mqtt.QoS(1+i%2), true)
		if code.Failed() != (i >= most) || code.Failed() && code != mqtt.QuotaExceeded {
			t.Fatalf("message %d: %v", i, code)
		}
	}
	a.grownLess("4,000 retained messages", before, 4<<20)
	if code := f.publish("a16/over", "bomb", mqtt.AtLeastOnce, true); code != mqtt.QuotaExceeded {
		t.Errorf("with a subscriber: %v", code)
	}
	watcher.silent("a message that was refused")
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311} {
		old := a.login(v, "a16-old")
		old.throw((&mqtt.Publish{QoS: mqtt.AtLeastOnce, PacketID: 1, Retain: true, Topic: []byte("a16/old"), Payload: []byte("x")}).Append(nil, v))
		old.mustEnd("a retained message too many")
	}
	zero := a.login(mqtt.V5, "a16-zero")
	zero.publish("a16/zero", "x", mqtt.AtMostOnce, true)
	zero.mustEnd("one of QoS 0, which has no answer", mqtt.QuotaExceeded)
	for what, p := range map[string]string{"replace": "other", "remove": ""} {
		if code := f.publish("a16/7", p, mqtt.AtLeastOnce, true); code.Failed() {
			t.Errorf("%s: %v", what, code)
		}
	}
	f.publish("a16/8", "", mqtt.AtLeastOnce, true)
	f.publish("a16/7", "", mqtt.AtLeastOnce, true)
	if code := f.publish("a16/new", "x", mqtt.AtLeastOnce, true); code.Failed() {
		t.Errorf("after others were removed: %v", code)
	}
}

// TestA16RetainedBytes: a limit of bytes counts names and properties too, which can be longer than what is in a message. What makes a
// message smaller is always taken.
func TestA16RetainedBytes(t *testing.T) {
	const most = 1 << 20
	a := newArena(t, broker.Config{Limits: broker.Limits{RetainedBytes: most}})
	f := a.login(mqtt.V5, "a16")
	for what, p := range map[string]mqtt.Publish{
		"payloads":   {Payload: []byte(strings.Repeat("x", 50_000)), Topic: []byte("p")},
		"names":      {Payload: []byte("x"), Topic: []byte(strings.Repeat("n", 50_000))},
		"properties": {Payload: []byte("x"), Topic: []byte("u"), Props: mqtt.Properties(nil).WithUser("k", strings.Repeat("v", 50_000))},
	} {
		before := memory()
		taken, name := 0, string(p.Topic)
		p.QoS, p.Retain = mqtt.AtLeastOnce, true
		for i := range 60 {
			p.Topic = fmt.Appendf(nil, "%s/%d", name, i)
			if code := f.publishPacket(p); !code.Failed() {
				taken++
			} else if code != mqtt.QuotaExceeded {
				t.Fatalf("%s, message %d: %v", what, i, code)
			}
		}
		if taken != most/50_300 {
			t.Errorf("%s: %d were taken, want %d", what, taken, most/50_300)
		}
		a.grownLess("60 messages of 50 KB: "+what, before, 2*most)
		for i := range taken {
			for _, payload := range []string{"y", ""} {
				if code := f.publish(fmt.Sprintf("%s/%d", name, i), payload, mqtt.AtLeastOnce, true); code.Failed() {
					t.Errorf("%s: to %q: %v", what, payload, code)
				}
			}
		}
	}
	if st := a.broker.Stats(); st.Retained != 0 || st.RetainedBytes != 0 {
		t.Errorf("left: %d messages, %d bytes", st.Retained, st.RetainedBytes)
	}
}

// TestA16Hash: after many names the attackers subscribe to all of them, in every way, and read nothing. It takes no memory; one who
// reads gets everything meanwhile.
func TestA16Hash(t *testing.T) {
	const many = 100_000
	a := newArena(t, broker.Config{})
	for i := range many {
		m := &mqtt.Message{Topic: fmt.Sprintf("a16/%d/%d", i%100, i), Payload: []byte("small"), QoS: mqtt.QoS(i % 3), Retain: true}
		if err := a.broker.Publish(m); err != nil {
			t.Fatal(err)
		}
	}
	before := memory()
	for i, filter := range []string{"#", "+/+/+", "a16/#", "a16/+/+", "+/#"} {
		for qos := range mqtt.QoS(3) {
			f := a.login(attackVersions[i%3], fmt.Sprint("a16-", i, qos))
			s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: qos}}}
			f.throw(s.Append(nil, f.version))
		}
	}
	reader := a.login(mqtt.V5, "reader")
	reader.subscribe("a16/#", mqtt.AtMostOnce, 0)
	for i := range many {
		if m := reader.message(false); !m.Retain || string(m.Payload) != "small" {
			t.Fatalf("message %d: %q, retained %v", i, m.Payload, m.Retain)
		}
	}
	a.grownLess("15 subscribers who read nothing of 100,000 messages", before, 40<<20)
}
