package interop

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Every QoS of a publisher meets every QoS of a subscription, over every network.
func TestDelivery(t *testing.T) {
	b := start(t, options{})
	everyNetwork(t, b, func(t *testing.T, k kind, s settings) {
		topic := s.clientID
		var subscribers []*client
		for qos := range byte(3) {
			subscribers = append(subscribers, connect(t, k, s.by(fresh()).subscribing(qos), topic+"/#"))
		}
		var sent []message
		for qos := range byte(3) {
			sent = append(sent, message{name: fmt.Sprintf("%s/%d", topic, qos), payload: "23.5", qos: qos})
		}
		publish(t, k, s, sent...)
		for qos, c := range subscribers {
			expectByName(t, c, byte(qos), sent)
		}
	})
}

// expectByName expects the messages in any order: QoS 0, 1 and 2 may overtake each other.
func expectByName(t *testing.T, c *client, qos byte, sent []message) {
	t.Helper()
	got := make(map[string]message)
	for range sent {
		m := c.next(t)
		got[m.name] = m
	}
	for _, m := range sent {
		if g, w := got[m.name], m.as(qos); g.String() != w.String() {
			t.Errorf("subscribed with QoS %d:\n got %v\nwant %v", qos, g, w)
		}
	}
}

// Whatever a peer publishes in its version, every other peer gets in its own.
func TestEachToEach(t *testing.T) {
	b := start(t, options{})
	type member struct {
		kind
		settings
	}
	var members []member
	everyPeer(t, b, func(_ *testing.T, k kind, s settings) { members = append(members, member{k, s}) })
	topic := fresh()
	subscribers := make(map[string]*client)
	for _, m := range members {
		subscribers[m.name+"/"+m.version.String()] = connect(t, m, m.by(fresh()).subscribing(2), topic+"/+")
	}
	for _, m := range members {
		for qos := range byte(3) {
			sent := message{name: topic + "/" + m.clientID, payload: m.name + " " + m.version.String(), qos: qos}
			publish(t, m, m.settings, sent)
			for name, c := range subscribers {
				t.Run(fmt.Sprintf("%s/%s to %s/QoS %d", m.name, m.version, name, qos), func(t *testing.T) { c.expect(t, sent) })
			}
		}
	}
}

// QoS 1 and 2 come in order; QoS 2 comes once.
func TestOrder(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		for qos := range byte(3) {
			c := connect(t, k, s.by(fresh()).subscribing(qos), s.clientID)
			var sent []message
			for i := range 10 {
				sent = append(sent, message{name: s.clientID, payload: fmt.Sprintf("QoS %d no. %d", qos, i), qos: qos})
			}
			publish(t, k, s, sent...)
			c.expect(t, sent...)
			c.leave()
		}
	})
}

func TestLarge(t *testing.T) {
	b := start(t, options{})
	everyNetwork(t, b, func(t *testing.T, k kind, s settings) {
		c := connect(t, k, s.by(fresh()).subscribing(1), s.clientID)
		sent := message{name: s.clientID, payload: noise(200_000), qos: 1}
		publish(t, k, s, sent)
		c.expect(t, sent)
	})
}

// noise is the same random bytes every time.
func noise(n int) string {
	random := rand.NewChaCha8([32]byte{})
	b := make([]byte, n)
	_, _ = random.Read(b) // never fails
	return string(b)
}

func TestUnicode(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		for _, part := range []string{"春秋淹城/垃圾桶", "level 7/°C ℃", "é/e\u0301", "😀/𝄞", "\ufeffmark/\u200d"} {
			name := s.clientID + "/" + part
			filter := s.clientID + "/+/" + part[strings.Index(part, "/")+1:]
			c := connect(t, k, s.by(fresh()).subscribing(1), filter)
			sent := message{name: name, payload: "温度: 23℃ 湿度: 83 灯光: off", qos: 1}
			publish(t, k, s, sent)
			c.expect(t, sent)
			c.leave()
		}
	})
}

// Properties pass through unaltered, those of users in order.
func TestProperties(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		if s.version != v5 {
			return // they are new in 5.0
		}
		c := connect(t, k, s.by(fresh()).subscribing(2), s.clientID)
		for qos := range byte(3) {
			sent := message{name: s.clientID, payload: `{"level":93}`, qos: qos, props: properties{
				contentType:   "application/json",
				responseTopic: s.clientID + "/answer",
				correlation:   "no. 42",
				user:          []property{{"unit", "%"}, {"site", "淹城"}, {"tag", "b"}, {"tag", "a"}},
			}}
			publish(t, k, s, sent)
			c.expect(t, sent)
		}
	})
}

// A shared subscription spreads messages over its members, each message to one of them, and takes none from others.
func TestShared(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		jobs, end := s.clientID+"/jobs", s.clientID+"/end"
		s.qos = 1
		alone := connect(t, k, s.by(fresh()), jobs, end)
		first := connect(t, k, s.by(fresh()), "$share/group/"+jobs, end)
		second := connect(t, k, s.by(fresh()), "$share/group/"+jobs, end)
		var sent []string
		for i := range 10 {
			sent = append(sent, fmt.Sprint("job ", i))
			publish(t, k, s, message{name: jobs, payload: sent[i], qos: 1})
		}
		publish(t, k, s, message{name: end, qos: 1})

		one, other := payloads(first.until(t, end)), payloads(second.until(t, end))
		if len(one) == 0 || len(other) == 0 {
			t.Errorf("one member got all: %d and %d messages", len(one), len(other))
		}
		both := slices.Sorted(slices.Values(slices.Concat(one, other)))
		if !slices.Equal(both, sent) {
			t.Errorf("the members got %q and %q, together not %q", one, other, sent)
		}
		if got := payloads(alone.until(t, end)); !slices.Equal(got, sent) {
			t.Errorf("a subscriber of its own got %q, want %q", got, sent)
		}
	})
}

func payloads(messages []message) []string {
	var p []string
	for _, m := range messages {
		p = append(p, m.payload)
	}
	return p
}
