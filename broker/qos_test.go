package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// What was sent and not acknowledged is sent again when the client is back: in order, with DUP and the old Packet
// Identifiers; what was not sent follows [MQTT-4.4.0-1], [MQTT-3.3.1-1], [MQTT-4.6.0-1].
func TestRedelivery(t *testing.T) {
	for _, v := range versions {
		for _, qos := range []mqtt.QoS{1, 2} {
			t.Run(fmt.Sprintf("%v QoS %d", v, qos), func(t *testing.T) {
				both(t, Config{Limits: Limits{MaxInflight: 3}}, func(r *rig) {
					c := r.connect(v, "c", resume, lasting(60))
					c.subscribe(sub("a", qos))
					pub := r.connect(mqtt.V5, "p")
					for _, s := range numbers("m", 6) {
						pub.publish("a", s, qos)
					}
					ids := make([]uint16, 3)
					for i := range ids {
						m := c.message()
						if ids[i] = m.PacketID; m.Dup || string(m.Payload) != fmt.Sprint("m", i) {
							r.Fatalf("first: %+v", m)
						}
					}
					c.barrier() // no more than three
					c.drop()
					for range 2 { // as often as it takes
						c = r.connect(v, "c", resume, lasting(60))
						for i, id := range ids {
							m := c.message()
							if !m.Dup || m.PacketID != id || m.QoS != qos || string(m.Payload) != fmt.Sprint("m", i) {
								r.Fatalf("again: %+v, want %d", m, id)
							}
						}
						c.barrier()
						c.drop()
					}
					c = r.connect(v, "c", resume, lasting(60))
					for i := range 6 {
						m := c.take()
						if m.Dup != (i < 3) || string(m.Payload) != fmt.Sprint("m", i) {
							r.Fatalf("message %d: %+v", i, m)
						}
					}
					c.silent()
					c.drop()
					c = r.connect(v, "c", resume)
					c.silent()
				})
			})
		}
	}
}

// From the PUBREC on, the PUBREL is what is sent again, before everything else [MQTT-4.4.0-1], [MQTT-4.3.3-8].
func TestRedeliveryOfPubrel(t *testing.T) {
	for _, v := range versions {
		both(t, Config{}, func(r *rig) {
			c := r.connect(v, "c", resume, lasting(60))
			c.subscribe(sub("a", 2))
			pub := r.connect(mqtt.V5, "p")
			for _, s := range numbers("m", 3) {
				pub.publish("a", s, 2)
			}
			ids := []uint16{c.message().PacketID, c.message().PacketID, c.message().PacketID}
			for _, i := range []int{1, 0} {
				c.ack(mqtt.PUBREC, ids[i], 0)
				c.wantAck(mqtt.PUBREL, ids[i])
			}
			c.drop()
			c = r.connect(v, "c", resume, lasting(60))
			c.wantAck(mqtt.PUBREL, ids[1])
			c.wantAck(mqtt.PUBREL, ids[0])
			if m := c.take(); !m.Dup || m.PacketID != ids[2] {
				r.Fatalf("got %+v", m)
			}
			c.ack(mqtt.PUBREC, ids[1], 0) // a late one is answered again
			c.wantAck(mqtt.PUBREL, ids[2])
			c.wantAck(mqtt.PUBREL, ids[1])
			for _, id := range ids {
				c.ack(mqtt.PUBCOMP, id, 0)
			}
			c.silent()
			if st, _ := r.b.Client("c"); st.InFlight != 0 {
				r.Errorf("%d in flight", st.InFlight)
			}
		})
	}
}

// A QoS 2 message is taken once, on whatever connections its packets come [MQTT-4.3.3-10].
func TestInboundExactlyOnce(t *testing.T) {
	for _, v := range versions {
		both(t, Config{}, func(r *rig) {
			watch := r.connect(mqtt.V5, "w")
			watch.subscribe(sub("a", 2))
			c := r.connect(v, "c", resume, lasting(60))
			m := post("a", "once", 2)
			m.PacketID = 7
			again := m
			again.Dup = true
			c.send(publishBytes(m, v))
			c.wantAck(mqtt.PUBREC, 7)
			c.send(publishBytes(again, v))
			c.wantAck(mqtt.PUBREC, 7)
			c.drop()
			for range 3 {
				c = r.connect(v, "c", resume, lasting(60))
				c.send(publishBytes(again, v))
				c.wantAck(mqtt.PUBREC, 7)
				c = r.connect(v, "c", resume, lasting(60)) // a takeover
			}
			c.ack(mqtt.PUBREL, 7, 0)
			if code := c.wantAck(mqtt.PUBCOMP, 7); code != 0 {
				r.Errorf("PUBCOMP %v", code)
			}
			c.ack(mqtt.PUBREL, 7, 0)
			code := c.wantAck(mqtt.PUBCOMP, 7)
			if want := mqtt.PacketIdentifierNotFound; v == mqtt.V5 && code != want {
				r.Errorf("PUBCOMP %v, want %v", code, want)
			}
			c.send(publishBytes(m, v))
			c.wantAck(mqtt.PUBREC, 7)
			watch.want("once", "once")
			watch.silent()
		})
	}
}

// With Clean Start nothing is remembered.
func TestCleanStartForgets(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		watch := r.connect(mqtt.V5, "w")
		watch.subscribe(sub("in", 2))
		c := r.connect(mqtt.V5, "c", lasting(60))
		c.subscribe(sub("out", 2))
		watch.publish("out", "lost", 2)
		c.message()
		m := post("in", "x", 2)
		m.PacketID = 7
		c.send(publishBytes(m, mqtt.V5))
		c.wantAck(mqtt.PUBREC, 7)
		c = r.connect(mqtt.V5, "c", fresh, lasting(60))
		c.silent()
		m.Dup = true
		c.send(publishBytes(m, mqtt.V5))
		c.wantAck(mqtt.PUBREC, 7) // a new message to a new session
		watch.want("x", "x")
		if n := r.b.Stats().QueuedMessages; n != 0 {
			r.Errorf("%d queued", n)
		}
	})
}

// The client's Receive Maximum is never passed, and each answer makes room for one [MQTT-3.3.4-9]; handshakes that stall do
// not hold up others.
func TestReceiveMaximumOut(t *testing.T) {
	both(t, Config{Limits: Limits{MaxInflight: 5}}, func(r *rig) {
		for _, tc := range []struct{ asks, gets int }{{2, 2}, {5, 5}, {60, 5}} {
			c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, uint32(tc.asks)))
			c.subscribe(sub("#", 2))
			pub := r.connect(mqtt.V5, "p")
			for i := range 30 {
				pub.publish("a", fmt.Sprint(i), mqtt.QoS(1+i%2))
			}
			stalled := c.message()
			var open []mqtt.Publish
			for range tc.gets - 1 {
				open = append(open, c.message())
			}
			c.barrier()
			got := []string{string(stalled.Payload)}
			for len(got) < 30 {
				m := open[0]
				open = open[1:]
				got = append(got, string(m.Payload))
				if m.QoS == 1 {
					c.ack(mqtt.PUBACK, m.PacketID, 0)
				} else {
					c.ack(mqtt.PUBREC, m.PacketID, 0)
					c.wantAck(mqtt.PUBREL, m.PacketID)
					c.barrier() // the quota grows with PUBCOMP only
					c.ack(mqtt.PUBCOMP, m.PacketID, 0)
				}
				if len(got)+len(open) < 30 {
					open = append(open, c.message())
				}
				c.barrier()
			}
			if !slices.Equal(got, numbers("", 30)) {
				r.Errorf("got %v", got)
			}
			c.leave()
		}
	})
}

// A refusing PUBREC ends the handshake and makes room.
func TestRefusedByReceiver(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 1))
		c.subscribe(sub("a", 2))
		pub := r.connect(mqtt.V5, "p")
		for _, s := range numbers("", 3) {
			pub.publish("a", s, 2)
		}
		for i := range 3 {
			m := c.message()
			if string(m.Payload) != fmt.Sprint(i) {
				r.Fatalf("got %q", m.Payload)
			}
			c.ack(mqtt.PUBREC, m.PacketID, mqtt.QuotaExceeded)
		}
		c.barrier()
	})
}

// Who passes our Receive Maximum is thrown out [MQTT-3.3.4-8]; who stays within it is not, however often it is used.
func TestReceiveMaximumIn(t *testing.T) {
	both(t, Config{Limits: Limits{ReceiveMaximum: 3}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", lasting(60))
		send := func(id uint16) {
			m := post("a", "x", 2)
			m.PacketID = id
			c.send(publishBytes(m, mqtt.V5))
		}
		for id := range uint16(3) {
			send(id + 1)
			c.wantAck(mqtt.PUBREC, id+1)
		}
		for id := range uint16(50) {
			c.publishPacket(mqtt.Publish{Topic: []byte("a"), QoS: 0})
			c.ack(mqtt.PUBREL, id+1, 0)
			c.wantAck(mqtt.PUBCOMP, id+1)
			send(id + 4)
			c.wantAck(mqtt.PUBREC, id+4)
		}
		send(100)
		c.wantEnd(mqtt.ReceiveMaximumExceeded)
		c = r.connect(mqtt.V5, "c", resume, lasting(60)) // what is open from before does not count
		for id := range uint16(3) {
			send(200 + id)
			c.wantAck(mqtt.PUBREC, 200+id)
		}
		if st, _ := r.b.Client("c"); st.Inbound != 6 {
			r.Errorf("%d handshakes open", st.Inbound)
		}
		old := r.connect(mqtt.V311, "old")
		for id := range uint16(50) { // MQTT 3 does not know of it
			m := post("a", "x", 2)
			m.PacketID = id + 1
			old.send(publishBytes(m, mqtt.V311))
			old.wantAck(mqtt.PUBREC, id+1)
		}
	})
}

// A Packet Identifier that is in use for QoS 2 cannot serve for QoS 1.
func TestPacketIdentifierInUse(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		watch := r.connect(mqtt.V5, "w")
		watch.subscribe(sub("a", 2))
		for _, v := range versions {
			c := r.connect(v, "c")
			m := post("a", "two", 2)
			m.PacketID = 7
			c.send(publishBytes(m, v))
			c.wantAck(mqtt.PUBREC, 7)
			m = post("a", "one", 1)
			m.PacketID = 7
			c.send(publishBytes(m, v))
			code := c.wantAck(mqtt.PUBACK, 7)
			watch.want("two")
			if v == mqtt.V5 {
				if code != mqtt.PacketIdentifierInUse {
					r.Errorf("PUBACK %v", code)
				}
			} else {
				watch.want("one") // the client has forgotten the other
			}
			c.ack(mqtt.PUBREL, 7, 0)
			c.wantAck(mqtt.PUBCOMP, 7)
		}
		watch.silent()
	})
}

// Acknowledgements of the wrong kind end the connection, those of unknown identifiers do not.
func TestWrongAcks(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		pub := r.connect(mqtt.V5, "p")
		for _, tc := range []struct {
			qos  mqtt.QoS
			ack  mqtt.PacketType
			ends bool
		}{{1, mqtt.PUBREC, true}, {1, mqtt.PUBCOMP, true}, {2, mqtt.PUBACK, true}, {2, mqtt.PUBCOMP, true}} {
			c := r.connect(mqtt.V5, "c")
			c.subscribe(sub("a", 2))
			pub.publish("a", "x", tc.qos)
			c.ack(tc.ack, c.message().PacketID, 0)
			c.wantEnd(mqtt.ProtocolError)
		}
		c := r.connect(mqtt.V5, "c")
		c.ack(mqtt.PUBACK, 99, 0)
		c.ack(mqtt.PUBCOMP, 99, 0)
		c.ack(mqtt.PUBREC, 99, 0)
		if code := c.wantAck(mqtt.PUBREL, 99); code != mqtt.PacketIdentifierNotFound {
			r.Errorf("PUBREL %v", code)
		}
		c.silent()
	})
}

// Messages of one publisher keep their order through windows, queues and reconnects, whatever the QoS.
func TestOrderAcrossReconnects(t *testing.T) {
	for seed := range uint64(20) {
		both(t, Config{Limits: Limits{MaxInflight: 4}}, func(r *rig) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			c := r.connect(mqtt.V311, "c", resume)
			c.subscribe(sub("a", 2))
			pub := r.connect(mqtt.V5, "p")
			sent, seen := 0, -1
			got := func(m mqtt.Publish) {
				n := 0
				if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
					r.Fatal(err)
				}
				if n > seen+1 || n <= seen && !m.Dup {
					r.Fatalf("seed %d: %d after %d, DUP %v", seed, n, seen, m.Dup)
				}
				seen = max(seen, n)
			}
			for range 60 {
				switch rnd.IntN(4) {
				case 0, 1:
					for range rnd.IntN(6) {
						pub.publish("a", fmt.Sprint(sent), 1)
						sent++
					}
				case 2:
					for seen+1 < sent && rnd.IntN(5) > 0 {
						got(c.take())
					}
				case 3:
					c.drop()
					c = r.connect(mqtt.V311, "c", resume)
				}
			}
			for seen+1 < sent {
				got(c.take())
			}
			c.silent()
		})
	}
}

// Twenty thousand messages pass a window of one, in order.
func TestNarrowWindow(t *testing.T) {
	r := newTCPRig(t, Config{})
	c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 1), with(mqtt.TopicAliasMaximum, 5))
	c.subscribe(sub("a/#", 1))
	pub := r.connect(mqtt.V5, "p")
	const n = 20_000
	go func() {
		var batch []byte
		for i := range n {
			m := post("a/"+strings.Repeat("x", i%9), fmt.Sprint(i), 1)
			m.PacketID = uint16(i%1000 + 1)
			if batch = m.Append(batch, mqtt.V5); i%500 == 499 {
				if _, err := pub.nc.Write(batch); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				batch = batch[:0]
				for range 500 {
					expect[mqtt.Ack](pub)
				}
			}
		}
	}()
	for i := range n {
		if m := c.take(); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m.Payload)
		}
	}
	c.silent()
}
