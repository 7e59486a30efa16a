package session

import (
	"fmt"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// receiver is an Inbound with a Receive Maximum of 2 after some calls.
func receiver(t testing.TB, calls ...func(*comparedIn)) *comparedIn {
	t.Helper()
	c := &comparedIn{t: t}
	c.connected(2)
	for _, call := range calls {
		call(c)
	}
	return c
}

func publish(id uint16, qos mqtt.QoS) func(*comparedIn) {
	return func(c *comparedIn) { c.receive(id, qos, false) }
}

func connect(max int) func(*comparedIn) { return func(c *comparedIn) { c.connected(max) } }

// A PUBLISH of Packet Identifier 1 in every state.
func TestReceive(t *testing.T) {
	ack := func(c *comparedIn) { c.acknowledged(1) }
	release := func(c *comparedIn) { c.release(1) }
	refuse := func(c *comparedIn) { c.refused(1) }
	type calls = []func(*comparedIn)
	tests := []struct {
		name   string
		before calls
		qos    mqtt.QoS
		fresh  bool
		err    error
	}{
		{"first, QoS 0", nil, 0, true, nil},
		{"first, QoS 1", nil, q1, true, nil},
		{"first, QoS 2", nil, q2, true, nil},
		{"QoS 1 after PUBACK", calls{publish(1, q1), ack}, q1, true, nil},                              // [MQTT-4.3.2-5]
		{"QoS 1 before PUBACK", calls{publish(1, q1)}, q1, true, nil},                                  // sent twice: at least once
		{"QoS 1 again", calls{publish(1, q1), connect(2)}, q1, true, nil},                              //
		{"QoS 2 before PUBREL", calls{publish(1, q2)}, q2, false, nil},                                 // [MQTT-4.3.3-10]
		{"QoS 2 again", calls{publish(1, q2), connect(2)}, q2, false, nil},                             // [MQTT-4.3.3-10]
		{"QoS 2 after PUBREL", calls{publish(1, q2), release}, q2, true, nil},                          // [MQTT-4.3.3-12]
		{"QoS 2 after refusal", calls{publish(1, q2), refuse}, q2, true, nil},                          // [MQTT-4.3.3-9]
		{"QoS 1 for QoS 2", calls{publish(1, q2)}, q1, false, mqtt.PacketIdentifierInUse},              // [MQTT-2.2.1-3]
		{"QoS 1 after QoS 2", calls{publish(1, q2), release}, q1, true, nil},                           //
		{"QoS 0, full", calls{publish(2, q1), publish(3, q2)}, 0, true, nil},                           // not limited
		{"QoS 1, full", calls{publish(2, q1), publish(3, q1)}, q1, false, mqtt.ReceiveMaximumExceeded}, // [MQTT-3.3.4-7]
		{"QoS 2, full", calls{publish(2, q2), publish(3, q2)}, q2, false, mqtt.ReceiveMaximumExceeded},
		{"QoS 2, full, known", calls{publish(1, q2), publish(2, q1)}, q2, false, nil},
		{"full before, QoS 1", calls{publish(2, q1), publish(3, q1), connect(2)}, q1, true, nil},
		{"full before, QoS 2", calls{publish(2, q2), publish(3, q2), connect(2)}, q2, true, nil},
		{"full of those again", calls{publish(2, q2), publish(3, q2), connect(2), publish(2, q2), publish(3, q2)}, q2, false, mqtt.ReceiveMaximumExceeded},
		{"again above a smaller maximum", calls{publish(1, q2), publish(2, q2), connect(1), publish(2, q2)}, q2, false, mqtt.ReceiveMaximumExceeded},
		{"smaller maximum", calls{publish(2, q2), publish(3, q2), connect(1)}, q2, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := receiver(t, tt.before...)
			fresh, err := c.receive(1, tt.qos, false)
			if fresh != tt.fresh || err != tt.err {
				t.Errorf("got %v %v, want %v %v", fresh, err, tt.fresh, tt.err)
			}
		})
	}
}

// DUP changes nothing: identifiers decide [MQTT-4.3.2-5].
func TestReceiveDup(t *testing.T) {
	c := receiver(t)
	for _, qos := range []mqtt.QoS{q1, q2} {
		if fresh, err := c.receive(uint16(qos), qos, true); !fresh || err != nil {
			t.Errorf("QoS %d: got %v %v", qos, fresh, err)
		}
	}
	if fresh, err := c.receive(2, q2, false); fresh || err != nil {
		t.Errorf("QoS 2 a second time without DUP: got %v %v", fresh, err)
	}
}

// PUBREL gets a PUBCOMP always, whose code says whether it was expected [MQTT-4.3.3-11].
func TestRelease(t *testing.T) {
	c := receiver(t, publish(1, q2), publish(2, q1))
	for i, want := range []mqtt.ReasonCode{mqtt.Success, mqtt.PacketIdentifierNotFound} {
		if got := c.release(1); got != want {
			t.Errorf("PUBREL %d: got %v, want %v", i, got, want)
		}
	}
	for _, id := range []uint16{0, 2, 65535} {
		if got := c.release(id); got != mqtt.PacketIdentifierNotFound {
			t.Errorf("PUBREL of %d: got %v", id, got)
		}
	}
}

// A refusal of what is not open changes nothing.
func TestRefusedUnknown(t *testing.T) {
	c := receiver(t, publish(1, q2))
	c.refused(7)
	if c.in.Open() != 1 {
		t.Errorf("open: %d, want 1", c.in.Open())
	}
}

// A client that forgets its QoS 2 handshakes whenever it starts can go on to send, although the server remembers them.
func TestForgetfulClient(t *testing.T) {
	c := receiver(t)
	for id := uint16(1); id < 100; id += 2 {
		c.connected(2)
		for i := range uint16(2) {
			if fresh, err := c.receive(id+i, q2, false); !fresh || err != nil {
				t.Fatalf("message %d: %v %v", id+i, fresh, err)
			}
		}
	}
	if c.in.Open() != 100 {
		t.Errorf("open: %d, want 100", c.in.Open())
	}
}

// A flood of QoS 2 without PUBREL is stopped at the maximum; the same identifier over and over costs one place.
func TestFloodWithoutRelease(t *testing.T) {
	for _, maximum := range []int{1, 10, 1000, 65535} {
		t.Run(fmt.Sprint(maximum), func(t *testing.T) {
			var in Inbound
			in.Connected(maximum)
			for range 3 {
				for id := 1; id <= maximum; id++ {
					if _, err := in.Receive(&mqtt.Publish{QoS: q2, PacketID: uint16(id)}); err != nil {
						t.Fatalf("%d: %v", id, err)
					}
				}
			}
			if maximum < 65535 {
				_, err := in.Receive(&mqtt.Publish{QoS: q2, PacketID: uint16(maximum + 1)})
				if err != mqtt.ReceiveMaximumExceeded {
					t.Errorf("one more: %v", err)
				}
			}
			if in.Open() != maximum {
				t.Errorf("open: %d", in.Open())
			}
			for id := 1; id <= maximum; id++ {
				in.Release(uint16(id))
			}
			if in.Open() != 0 || maximum > keepTable && in.received != nil {
				t.Errorf("open: %d at the end, map kept: %v", in.Open(), in.received != nil)
			}
		})
	}
}
