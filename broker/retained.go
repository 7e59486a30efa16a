package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// retained are the retained messages (§3.3.1.3).
type retained struct {
	mu    sync.RWMutex
	tree  topic.Retained[kept]
	bytes int
	held  int64 // bytes of memory, about: names and properties too
}

// kept is one retained message and where the store has it, 0 when it does not.
type kept struct {
	*mqtt.Message
	position store.Position
}

// cost returns about how many bytes of memory it takes.
func (k kept) cost() int64 {
	if k.Message == nil {
		return 0
	}
	return int64(len(k.Topic)+len(k.Payload)+len(k.Props)) + itemCost
}

// retain keeps t.pub as the retained message of its topic, finds its receivers and tells the store; an empty payload removes what is kept
// [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]. The lock makes both happen in one order.
func (b *Broker) retain(t *turn, from *Session, id uint16) error {
	p := &t.pub
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := b.admitRetained(p); err != nil {
		return err
	}
	b.match(t) // under the lock: who subscribes after this finds the message here
	if err := b.own(t, from, id); err != nil {
		return err
	}
	var old kept
	if len(p.Payload) == 0 {
		old, _ = r.tree.Delete(p.name)
	} else {
		m := p.message(t.now)
		old, _ = r.tree.Set(m.Topic, kept{m, p.position})
		r.bytes += len(m.Payload)
		b.countRetained(kept{Message: m}.cost())
	}
	if p.position == 0 {
		b.forgetRetained(old)
	}
	b.unkeep(old)
	return nil
}

// admitRetained decides whether there is room to retain p, unless the server publishes it itself below $SYS. What takes no more than
// what it replaces is always taken. The caller holds retained.mu.
func (b *Broker) admitRetained(p *publication) error {
	if len(p.Payload) == 0 || strings.HasPrefix(p.name, "$SYS/") {
		return nil
	}
	r, l := &b.retained, &b.limits
	old, exists := r.tree.Get(p.name)
	grows := int64(len(p.name)+len(p.Payload)+len(p.Props)) + itemCost - old.cost()
	switch {
	case !exists && r.tree.Len() >= l.Retained:
		return fmt.Errorf("%w: there are %d retained messages", mqtt.QuotaExceeded, r.tree.Len())
	case grows > 0 && r.held+grows > int64(l.RetainedBytes):
		return fmt.Errorf("%w: the retained messages have %d bytes", mqtt.QuotaExceeded, r.held)
	case b.memory.limit == 0:
		return nil
	}
	return b.memory.admitRetained(r.held, grows)
}

// countRetained counts bytes of retained messages. The caller holds retained.mu.
func (b *Broker) countRetained(n int64) {
	b.retained.held += n
	b.memory.add(n)
}

// unkeep counts a retained message out. The caller holds retained.mu.
func (b *Broker) unkeep(old kept) {
	if old.Message == nil {
		return
	}
	b.retained.bytes -= len(old.Payload)
	b.countRetained(-old.cost())
	if old.position != 0 {
		b.store.Use(old.position, -1)
	}
}

// forget removes a retained message that has expired, unless it was replaced meanwhile.
func (b *Broker) forget(m kept) {
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.tree.Get(m.Topic); ok && now == m {
		r.tree.Delete(m.Topic)
		b.unkeep(m)
	}
}

// replay is a walk through the retained messages that match a new subscription. It is a place in the order of names and
// not a list, so that a subscription to a million of them costs nothing but time, and what it sends is what is retained
// at that moment.
type replay struct {
	sub  *subscription // guarded by Session.mu; a review of permissions may replace it
	from string        // the name to continue with; empty at the start
}

// replayPage is how many names one look at the retained messages may take.
const replayPage = 64

// replay starts walks for subscriptions just made, in place of those for the same filters, the last of which counts. It looks at
// each walk once, as there may be as many as fit into two packets.
func (s *Session) replay(walks []*replay, t *turn) {
	last := make(map[string]*replay, len(walks))
	for _, w := range walks {
		last[w.sub.Filter] = w
	}
	s.mu.Lock()
	s.replays = slices.DeleteFunc(s.replays, func(r *replay) bool { return last[r.sub.Filter] != nil })
	for _, w := range walks {
		if last[w.sub.Filter] == w {
			s.replays = append(s.replays, w)
		}
	}
	s.mu.Unlock()
	s.pump(t)
}

// cancelReplay ends the walk for a subscription with the same filter. The caller holds s.mu.
func (s *Session) cancelReplay(sub *subscription) {
	s.replays = slices.DeleteFunc(s.replays, func(r *replay) bool { return r.sub.Filter == sub.Filter })
}

// pumpRetained sends one page of retained messages and reports whether to go on. Only one goroutine does so at a time; who
// comes meanwhile, because there is room again, leaves it to that one to go on.
func (s *Session) pumpRetained(t *turn) bool {
	s.mu.Lock()
	c := s.conn.Load()
	busy := s.replaying != nil && s.replaying == c
	s.repump = busy
	if busy || c == nil || len(s.replays) == 0 || !c.hasRoom() && c.starve() {
		s.mu.Unlock()
		return false
	}
	s.replaying = c
	r := s.replays[0]
	sub := r.sub
	s.mu.Unlock()

	next, more := s.sendRetained(c, r, sub, t)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replaying == c {
		s.replaying = nil
		more = more || s.repump
	}
	if len(s.replays) > 0 && s.replays[0] == r {
		if r.from = next; next == "" {
			s.replays = s.replays[1:]
		}
	} else {
		more = true // r was cancelled, another may wait
	}
	return more
}

// sendRetained sends the messages of one page until the session has no room, and returns where to continue.
func (s *Session) sendRetained(c *conn, r *replay, sub *subscription, t *turn) (next string, more bool) {
	b := t.broker
	b.retained.mu.RLock()
	t.items, next = b.retained.tree.Next(sub.filter, r.from, replayPage, t.items[:0])
	b.retained.mu.RUnlock()
	for i := range t.items {
		name, m := t.items[i].Name, t.items[i].Value
		switch {
		case m.Expired(t.now):
			b.forget(m) // [MQTT-3.3.2-5]
		case !sub.covered && b.mayRead(s.info.Load(), name) != nil:
			b.droppedMessage(s, m.Message, DropDenied)
		case !s.sendCurrent(c, r, sub, name, t):
			return name, false
		}
	}
	return next, true
}

// sendCurrent sends what is retained under the name now, and reports whether the session took it. The lock is held until it
// is on its way: who replaces the message comes after that, so that a subscriber never gets the old one behind the new one.
func (s *Session) sendCurrent(c *conn, r *replay, sub *subscription, name string, t *turn) (taken bool) {
	b := t.broker
	if b.store != nil {
		b.owning.RLock()
		defer b.owning.RUnlock()
	}
	b.retained.mu.RLock()
	m, ok := b.retained.tree.Get(name)
	if !ok || sub.NoLocal && m.Publisher == s.id {
		b.retained.mu.RUnlock()
		return true
	}
	qos := min(m.QoS, sub.QoS)
	if !s.takesNow(c, r, qos) {
		b.retained.mu.RUnlock()
		return false
	}
	t.pub.beginMessage(m.Message, t.now)
	drop, sent := s.sendAsked(c, sub, qos, t)
	b.retained.mu.RUnlock()
	s.tell(t, drop, sent)
	return true
}

// sendAsked sends t.pub with RETAIN set, as it is sent because of a subscription [MQTT-3.3.1-8].
func (s *Session) sendAsked(c *conn, sub *subscription, qos mqtt.QoS, t *turn) (drop DropReason, sent bool) {
	if qos > mqtt.AtMostOnce {
		return s.offerKept(t, sub, qos, true, s.keepCopy(t, sub, qos))
	}
	drop = c.sendPublish(t, &t.pub, 0, sub.ids, qos, true)
	return drop, drop == nothingDropped
}

// keepCopy tells the store that the session is sent t.pub because of a subscription, and returns where it stands, 0 when it is not kept.
// It is a record of its own: the session may have got the message before, and it may be replaced before this is acknowledged. Without
// one, a restart would give the Packet Identifier to another message, which the client takes for this one.
func (s *Session) keepCopy(t *turn, sub *subscription, qos mqtt.QoS) (position uint64) {
	id := s.number()
	if id == 0 || t.broker.store == nil {
		return 0
	}
	m := *t.pub.message(t.now)
	m.Retain = false // it does not retain anything once more
	t.recipients = append(t.recipients[:0], store.Recipient{Session: id, QoS: qos, Retain: true, IDs: sub.ids})
	t.record = store.Record{Kind: store.Accepted, Message: &m, Recipients: t.recipients}
	return uint64(t.broker.noteLater(&t.record))
}

// walkAhead is how many messages of QoS 2 of a walk may wait for the store.
const walkAhead = 32

// takesNow reports whether a message of the walk r can be sent to c at once. When it cannot, pump is called again once it
// can, or the walk has ended.
func (s *Session) takesNow(c *conn, r *replay, qos mqtt.QoS) bool {
	if !c.hasRoom() && c.starve() {
		return false
	}
	if m := &s.broker.memory; m.now() == MemoryHard && m.later(s) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replays) == 0 || s.replays[0] != r {
		return false
	}
	waiting, _ := s.out.Queued()
	return qos == mqtt.AtMostOnce || s.out.Open() || qos == mqtt.ExactlyOnce && s.number() != 0 && waiting < walkAhead
}
