package broker

import (
	"slices"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// retained are the retained messages (§3.3.1.3).
type retained struct {
	mu    sync.RWMutex
	tree  topic.Retained[*mqtt.Message]
	bytes int
}

// retain keeps t.pub as the retained message of its topic; an empty payload removes what is kept [MQTT-3.3.1-5],
// [MQTT-3.3.1-6], [MQTT-3.3.1-7].
func (b *Broker) retain(t *turn) {
	p := &t.pub
	r := &b.retained
	if len(p.Payload) == 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		if old, ok := r.tree.Delete(p.name); ok {
			r.bytes -= len(old.Payload)
		}
		return
	}
	m := p.message(t.now)
	r.mu.Lock()
	defer r.mu.Unlock()
	old, replaced := r.tree.Set(m.Topic, m)
	if replaced {
		r.bytes -= len(old.Payload)
	}
	r.bytes += len(m.Payload)
}

// forget removes a retained message that has expired, unless it was replaced meanwhile.
func (r *retained) forget(m *mqtt.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.tree.Get(m.Topic); ok && now == m {
		r.tree.Delete(m.Topic)
		r.bytes -= len(m.Payload)
	}
}

// replay is a walk through the retained messages that match a new subscription. It is a place in the order of names and
// not a list, so that a subscription to a million of them costs nothing but time, and what it sends is what is retained
// at that moment.
type replay struct {
	sub  *subscription
	from string // the name to continue with; empty at the start
}

// replayPage is how many names one look at the retained messages may take.
const replayPage = 64

// replay starts walks for subscriptions just made.
func (s *Session) replay(walks []replay, t *turn) {
	s.mu.Lock()
	for _, w := range walks {
		s.cancelReplay(w.sub)
	}
	s.replays = append(s.replays, walks...)
	s.mu.Unlock()
	s.pump(t)
}

// cancelReplay ends the walk for a subscription with the same filter. The caller holds s.mu.
func (s *Session) cancelReplay(sub *subscription) {
	s.replays = slices.DeleteFunc(s.replays, func(r replay) bool { return r.sub.Filter == sub.Filter })
}

// pumpRetained sends one page of retained messages and reports whether to go on. Only one goroutine does so at a time.
func (s *Session) pumpRetained(t *turn) bool {
	s.mu.Lock()
	c := s.conn.Load()
	if s.replaying || len(s.replays) == 0 || c == nil || !c.hasRoom() && c.starve() {
		s.mu.Unlock()
		return false
	}
	s.replaying = true
	r := s.replays[0]
	s.mu.Unlock()

	next, more := s.sendRetained(c, r, t)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.replaying = false
	if len(s.replays) > 0 && s.replays[0].sub == r.sub {
		if s.replays[0].from = next; next == "" {
			s.replays = s.replays[1:]
		}
	}
	return more || s.out.Open() && c.hasRoom() // room may have come while nobody else was let in here
}

// sendRetained sends the messages of one page until the session has no room, and returns where to continue.
func (s *Session) sendRetained(c *conn, r replay, t *turn) (next string, more bool) {
	b := t.broker
	b.retained.mu.RLock()
	t.items, next = b.retained.tree.Next(r.sub.filter, r.from, replayPage, t.items[:0])
	b.retained.mu.RUnlock()
	for i := range t.items {
		m := t.items[i].Value
		if m.Expired(t.now) {
			b.retained.forget(m) // [MQTT-3.3.2-5]
			continue
		}
		if r.sub.NoLocal && m.Publisher == s.id {
			continue
		}
		if !s.takesNow(c, min(m.QoS, r.sub.QoS)) {
			return t.items[i].Name, false
		}
		t.pub.beginMessage(m, t.now, nil)
		one := *r.sub
		one.RetainAsPublished = true // RETAIN is 1: sent because of a subscription [MQTT-3.3.1-8]
		one.deliver(t)
	}
	return next, true
}

// takesNow reports whether a message can be sent to c at once. When it cannot, pump is called again once it can.
func (s *Session) takesNow(c *conn, qos mqtt.QoS) bool {
	if !c.hasRoom() && c.starve() {
		return false
	}
	if qos == mqtt.AtMostOnce {
		return s.conn.Load() == c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Open() && s.conn.Load() == c
}
