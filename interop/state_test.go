package interop

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
)

func TestRetained(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		name := s.clientID + "/state"
		// stored expects a new subscriber to get just these before what is published after its subscription, all with one QoS: those
		// of others may overtake.
		stored := func(qos byte, want ...message) {
			t.Helper()
			c := connect(t, k, s.by(fresh()).subscribing(2), s.clientID+"/#")
			end := message{name: s.clientID + "/end", payload: "end", qos: qos}
			publish(t, k, s, end)
			c.expect(t, append(want, end)...)
			c.leave()
		}
		live := connect(t, k, s.by(fresh()).subscribing(2), name)
		for qos := range byte(3) { // the first sets, the others replace
			m := message{name: name, payload: fmt.Sprint("state ", qos), qos: qos, retain: true}
			publish(t, k, s, m)
			live.expect(t, m.as(2))
			stored(qos, m)
		}
		empty := message{name: name, retain: true, qos: 1}
		publish(t, k, s, empty)
		live.expect(t, empty.as(2))
		stored(0)
	})
}

func TestWill(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		name := s.clientID + "/state"
		watcher := connect(t, k, s.by(fresh()).subscribing(2), s.clientID+"/#")
		for qos := range byte(3) {
			will := message{name: name, payload: fmt.Sprint("gone at QoS ", qos), qos: qos, retain: qos == 1}
			s.will = &will
			connect(t, k, s).cut()
			watcher.expect(t, will.as(2))
			if will.retain {
				connect(t, k, s.by(fresh()).subscribing(2), name).expect(t, will)
			}
		}
		connect(t, k, s).leave()
		if k.name == "mosquitto" && s.version == v5 {
			watcher.expect(t, s.will.as(2)) // ended by a signal it sends DISCONNECT with 0x04, which asks for the Will
		}
		s.will = nil
		// The end is sent by the same client: its first connection is over for the broker too, so that a Will would have come before.
		end := message{name: s.clientID + "/end", qos: 1}
		publish(t, k, s, end)
		watcher.expect(t, end)
	})
}

// A session collects what its client misses, and ends when the client wants a clean one.
func TestSession(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		topic, publisher := s.clientID, s.by(fresh())
		s.qos, s.keep = 2, true
		clean := s
		clean.keep = false

		join(t, k, s, false, topic).leave()
		var missed []message
		for i := range 6 {
			missed = append(missed, message{name: topic, payload: fmt.Sprint("missed ", i), qos: byte(1 + i/3)})
		}
		publish(t, k, publisher, missed...)
		c := join(t, k, s, true)
		got := c.take(t, len(missed))
		slices.SortStableFunc(got, func(a, b message) int { return int(a.qos) - int(b.qos) }) // order holds within a QoS
		if !reflect.DeepEqual(got, missed) {
			t.Errorf("after the absence came\n%v, want\n%v", got, missed)
		}
		c.leave()

		join(t, k, clean, false).leave()
		publish(t, k, publisher, message{name: topic, payload: "for nobody", qos: 1})
		c = join(t, k, s, false, topic)
		end := message{name: topic, payload: "end", qos: 1}
		publish(t, k, publisher, end)
		c.expect(t, end)
	})
}

// join connects and demands Session Present as given, of peers that tell it and versions that have it.
func join(t *testing.T, k kind, s settings, present bool, filters ...string) *client {
	t.Helper()
	c := connect(t, k, s, filters...)
	if k.embedded && s.version != v31 && c.present != present {
		t.Errorf("Session Present is %t, want %t", c.present, present)
	}
	return c
}

// What a client has not acknowledged comes again in its next connection.
func TestRedelivery(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		if !k.embedded {
			return
		}
		s.qos, s.keep, s.withhold = 1, true, true
		c := connect(t, k, s, s.clientID)
		sent := message{name: s.clientID, payload: "93", qos: 1}
		publish(t, k, s.by(fresh()), sent)
		c.expect(t, sent)
		c.cut()
		s.withhold = false
		connect(t, k, s).expect(t, sent)
	})
}

// A client that reconnects by itself misses nothing and gets nothing twice.
func TestReconnect(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		if !k.reconnects {
			return
		}
		publisher := s.by(fresh())
		s.qos, s.keep, s.returns = 2, true, true
		c := connect(t, k, s, s.clientID)
		c.cut() // once: some peers show a message again when they were cut before the broker had their PUBREC
		var sent []message
		for i := range 3 {
			sent = append(sent, message{name: s.clientID, payload: fmt.Sprint(i), qos: 2})
		}
		publish(t, k, publisher, sent...)
		c.expect(t, sent...)
	})
}
