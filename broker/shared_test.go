package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// members connects n clients that share a filter at a QoS.
func (r *rig) members(n int, qos mqtt.QoS, options ...option) []*client {
	r.Helper()
	all := make([]*client, n)
	for i := range all {
		all[i] = r.connect(mqtt.V5, fmt.Sprint("m", i), options...)
		all[i].subscribe(sub("$share/g/a/#", qos))
	}
	return all
}

// Members that keep up get the same number of messages, each message goes to one.
func TestSharedFairness(t *testing.T) {
	for _, v := range versions {
		for _, qos := range []mqtt.QoS{0, 1, 2} {
			both(t, Config{}, func(r *rig) {
				members := make([]*client, 4)
				for i := range members {
					members[i] = r.connect(v, fmt.Sprint("m", i))
					members[i].subscribe(sub("$share/g/a/#", qos))
				}
				pub := r.connect(mqtt.V5, "p")
				for i := range 40 {
					pub.publish("a/b", fmt.Sprint(i), qos)
				}
				seen := make(map[string]bool)
				for _, m := range members {
					for range 10 {
						p := m.take()
						if p.QoS != qos || seen[string(p.Payload)] {
							r.Fatalf("got %+v", p)
						}
						seen[string(p.Payload)] = true
					}
					m.silent()
				}
			})
		}
	}
}

// Groups, and a group and an ordinary subscription, each get their own copy, even when one client has them all.
func TestSharedOverlap(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 0), sub("$share/g/a", 1), sub("$share/h/+", 2), sub("#", 1))
		r.connect(mqtt.V5, "p").publish("a", "x", 2)
		qos := []int{int(c.take().QoS), int(c.take().QoS), int(c.take().QoS)}
		slices.Sort(qos)
		if !slices.Equal(qos, []int{1, 1, 2}) {
			r.Errorf("QoS %v", qos)
		}
		c.silent()
	})
}

// A member that is away or behind gets nothing while another keeps up.
func TestSharedPrefersLive(t *testing.T) {
	bubble(t, Config{Limits: Limits{MaxInflight: 2}}, func(r *rig) {
		m := r.members(3, 1, lasting(600))
		away, behind, keepsUp := m[0], m[1], m[2]
		pub := r.connect(mqtt.V5, "p")
		away.drop()
		got := 0
		for i := range 20 {
			pub.publish("a/b", fmt.Sprint(i), 1)
			if st, _ := r.b.Client(keepsUp.id); st.InFlight > 0 {
				keepsUp.take()
				keepsUp.silent()
				got++
			}
		}
		behind.message()
		behind.message()
		behind.barrier()
		if st, _ := r.b.Client(behind.id); got != 17 || st.QueuedMessages != 1 {
			t.Errorf("who keeps up got %d, who is behind has %d waiting", got, st.QueuedMessages)
		}
		if st, _ := r.b.Client(away.id); st.QueuedMessages != 0 {
			t.Errorf("%d messages for a member that is away", st.QueuedMessages)
		}
	})
}

// With everybody away the messages wait, at QoS 1 and 2.
func TestSharedAllAway(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		for _, m := range r.members(3, 1, lasting(600)) {
			m.drop()
		}
		pub := r.connect(mqtt.V5, "p")
		for i := range 9 {
			pub.publish("a/b", fmt.Sprint(i), 1)
		}
		n := 0
		for i := range 3 {
			st, _ := r.b.Client(fmt.Sprint("m", i))
			n += st.QueuedMessages
		}
		if n != 9 {
			r.Errorf("%d wait", n)
		}
	})
}

// What a member has not acknowledged goes to others when it leaves, in whatever way; a QoS 2 message that it was sent
// stays its own [MQTT-4.8.2-5].
func TestSharedMovesOn(t *testing.T) {
	type end func(*client)
	for name, tc := range map[string]struct {
		leave end
		kept  bool // the session of the member that left
	}{
		"drop":       {(*client).drop, true},
		"disconnect": {(*client).leave, true},
		"ended": {func(c *client) {
			c.disconnect(mqtt.Success, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0))
		}, false},
		"expired": {func(c *client) {
			c.disconnect(mqtt.Success, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 1))
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}, false},
		"forgotten": {func(c *client) { c.b.Kick(c.id, mqtt.AdministrativeAction, true); c.ended() }, false},
	} {
		for _, qos := range []mqtt.QoS{1, 2} {
			bubble(t, Config{Limits: Limits{MaxInflight: 5}}, func(r *rig) {
				leaver := r.members(1, qos, lasting(600))[0]
				pub := r.connect(mqtt.V5, "p")
				for i := range 10 {
					pub.publish("a/b", fmt.Sprint(i), qos)
				}
				for range 5 {
					leaver.message()
				}
				leaver.barrier()
				stays := r.connect(mqtt.V5, "stays")
				stays.subscribe(sub("$share/g/a/#", qos))
				tc.leave(leaver)
				if qos == 1 {
					stays.want(numbers("", 10)...)
				} else {
					stays.want("5", "6", "7", "8", "9")
				}
				stays.silent()
				again := r.connect(mqtt.V5, "m0", resume)
				if again.connack.SessionPresent != tc.kept {
					t.Errorf("%s: session present: %v", name, again.connack.SessionPresent)
				}
				if qos == 2 && tc.kept {
					again.want(numbers("", 5)...)
				}
				again.silent()
				if n := r.b.Stats().Dropped[DropSessionEnd]; (n == 5) != (qos == 2 && !tc.kept) {
					t.Errorf("%s at QoS %d: %d lost", name, qos, n)
				}
			})
		}
	}
}

// UNSUBSCRIBE gives what was not sent to the others; what was sent is still the member's [MQTT-3.10.4-3].
func TestSharedUnsubscribe(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		leaver := r.connect(mqtt.V5, "l", with(mqtt.ReceiveMaximum, 3))
		leaver.subscribe(sub("$share/g/a/#", 1), sub("own", 1))
		pub := r.connect(mqtt.V5, "p")
		for i := range 8 {
			pub.publish("a/b", fmt.Sprint(i), 1)
		}
		pub.publish("own", "own", 1)
		first := []mqtt.Publish{leaver.message(), leaver.message(), leaver.message()}
		stays := r.connect(mqtt.V5, "s")
		stays.subscribe(sub("$share/g/a/#", 1))
		leaver.unsubscribe("$share/g/a/#")
		stays.want("3", "4", "5", "6", "7")
		stays.silent()
		for _, m := range first {
			leaver.ack(mqtt.PUBACK, m.PacketID, 0)
		}
		leaver.want("own")
		leaver.silent()
	})
}

// The last member that leaves keeps what waits for it.
func TestSharedLastUnsubscribes(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 1))
		c.subscribe(sub("$share/g/a", 1))
		pub := r.connect(mqtt.V5, "p")
		for i := range 3 {
			pub.publish("a", fmt.Sprint(i), 1)
		}
		first := c.message()
		c.unsubscribe("$share/g/a")
		c.ack(mqtt.PUBACK, first.PacketID, 0)
		c.want("1", "2")
		c.silent()
		if st := r.b.Stats(); st.SharedGroups != 0 || st.Subscriptions != 0 {
			r.Errorf("%d groups, %d subscriptions", st.SharedGroups, st.Subscriptions)
		}
	})
}

// What has expired meanwhile is not moved on.
func TestSharedMovesOnExpired(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		leaver := r.connect(mqtt.V5, "l", with(mqtt.ReceiveMaximum, 1))
		leaver.subscribe(sub("$share/g/a", 1))
		pub := r.connect(mqtt.V5, "p")
		pub.publishPacket(expiring("a", "first", 1, 100))
		pub.publishPacket(expiring("a", "short", 1, 10))
		pub.publishPacket(expiring("a", "long", 1, 100))
		leaver.message()
		time.Sleep(20 * time.Second)
		stays := r.connect(mqtt.V5, "s")
		stays.subscribe(sub("$share/g/a", 1))
		leaver.drop()
		if m := stays.take(); string(m.Payload) != "first" || m.Expiry != 80 {
			t.Errorf("got %+v", m)
		}
		stays.want("long")
		stays.silent()
	})
}

// Nothing retained comes with a shared subscription, No Local is forbidden there, and malformed ones are refused.
func TestSharedSubscribe(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		r.keepAll(3, 1)
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("$share/g/r/#", 1))
		c.silent()
		for _, filter := range []string{"$share/g", "$share//a", "$share/g+/a", "$share/g/", "$share/#/a"} {
			if codes := c.trySubscribe(nil, sub(filter, 1)); codes[0] != mqtt.TopicFilterInvalid {
				t.Errorf("%s: %v", filter, codes[0])
			}
		}
		p := mqtt.Subscribe{PacketID: 9, Subscriptions: []mqtt.Subscription{{Filter: "$share/g/a", NoLocal: true}}}
		c.send(p.Append(nil, mqtt.V5))
		c.wantEnd(mqtt.ProtocolError) // [MQTT-3.8.3-4]
	})
}

// A member that takes over, subscribes again or changes its QoS is still one member.
func TestSharedMemberOnce(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		m := r.members(2, 1, lasting(60))
		m[0].subscribe(sub("$share/g/a/#", 0))
		m[0] = r.connect(mqtt.V5, "m0", resume, lasting(60))
		m[0].subscribe(sub("$share/g/a/#", 2))
		pub := r.connect(mqtt.V5, "p")
		for range 10 {
			pub.publish("a/b", "x", 2)
		}
		for i, qos := range []mqtt.QoS{2, 1} {
			for range 5 {
				if got := m[i].take(); got.QoS != qos {
					t.Errorf("m%d: QoS %d", i, got.QoS)
				}
			}
			m[i].silent()
		}
	})
}

// Every message of a busy group arrives, whoever comes and goes.
func TestSharedChurn(t *testing.T) {
	r := newTCPRig(t, Config{})
	anchor := r.connect(mqtt.V5, "anchor", lasting(600))
	anchor.subscribe(sub("$share/g/a", 1))
	const n = 3000
	seen := make(map[string]bool)
	pub := r.connect(mqtt.V5, "p")
	churn := r.connect(mqtt.V5, "churn", lasting(600))
	churn.subscribe(sub("$share/g/a", 1))
	for i := range n {
		pub.publish("a", strings.Repeat("0", i%3)+fmt.Sprint(i), 1)
		if i%50 == 49 { // leaves everything behind
			churn.drop()
			churn = r.connect(mqtt.V5, "churn", resume, lasting(600))
		}
	}
	churn.drop()
	for len(seen) < n {
		seen[string(anchor.take().Payload)] = true
	}
}
