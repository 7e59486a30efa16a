package broker

import (
	"encoding/binary"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// deliver gives t.pub to the session of s, as this subscription wants it.
func (s *subscription) deliver(t *turn) {
	p := &t.pub
	qos := min(p.QoS, s.QoS)                  // [MQTT-3.8.4-8]
	retain := p.Retain && s.RetainAsPublished // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
	drop, sent := s.session.offer(t, s, qos, retain)
	s.session.tell(t, drop, sent)
}

// tell tells observers what became of t.pub.
func (s *Session) tell(t *turn, drop DropReason, sent bool) {
	b := t.broker
	if drop != nothingDropped {
		b.dropped(s, t, drop)
	} else if h := b.hooks.Load(); sent && len(h.delivered) > 0 {
		info, m := s.info.Load(), t.pub.message(t.now)
		for _, f := range h.delivered {
			f(info, m)
		}
	}
}

// nothingDropped is the DropReason of a message that was not dropped.
const nothingDropped = dropReasons

// offer sends t.pub to the session's connection or queues it.
func (s *Session) offer(t *turn, sub *subscription, qos mqtt.QoS, retain bool) (drop DropReason, sent bool) {
	if !sub.covered && t.broker.mayRead(s.info.Load(), t.pub.name) != nil {
		return DropDenied, false
	}
	if s.local != nil {
		return s.local.push(session.Delivery{Message: t.pub.message(t.now), QoS: qos, Retain: retain}), false
	}
	if qos == mqtt.AtMostOnce {
		c := s.conn.Load()
		if c == nil {
			return nothingDropped, false // nobody keeps QoS 0 for a client that is away [MQTT-3.1.2-5 of 3.1.1 allows it]
		}
		if !c.hasRoom() {
			return DropSlow, false
		}
		drop = c.sendPublish(t, &t.pub, 0, sub.ids, qos, retain)
		return drop, drop == nothingDropped
	}
	return s.offerKept(t, sub, qos, retain)
}

// offerKept is offer for QoS 1 and 2: the message is the session's until it is acknowledged.
func (s *Session) offerKept(t *turn, sub *subscription, qos mqtt.QoS, retain bool) (drop DropReason, sent bool) {
	d := session.Delivery{Message: t.pub.message(t.now), IDs: sub.ids, Share: sub.share, QoS: qos, Retain: retain}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return DropSessionEnd, false
	}
	if drop := s.admits(&d); drop != nothingDropped {
		return drop, false
	}
	c := s.conn.Load()
	if c != nil && s.out.Open() && (c.hasRoom() || !c.starve()) {
		q := t.pub.Publish
		q.QoS, q.IDs = qos, sub.ids
		if drop := c.fits(&q); drop != nothingDropped {
			return drop, false
		}
		c.sendPublish(t, &t.pub, s.out.Send(d), sub.ids, qos, retain)
		s.settleQueue()
		return nothingDropped, true
	}
	s.out.Push(d)
	s.settleQueue()
	return nothingDropped, false
}

// admits decides whether the session may hold one more delivery. What a client does not acknowledge takes as much memory as
// what waits for it.
func (s *Session) admits(d *session.Delivery) DropReason {
	l, st := &s.broker.limits, &s.broker.stats
	messages, bytes := s.out.Queued()
	_, inFlight := s.out.InFlight()
	size := len(d.Message.Payload) + len(d.Message.Topic) + len(d.Message.Props)
	switch {
	case messages >= l.QueuedMessages, bytes+inFlight+size > l.QueuedBytes:
		return DropQueue
	case st.queuedBytes.Load()+st.inFlightBytes.Load()+int64(size) > int64(l.TotalQueueBytes):
		return DropTotal
	}
	return nothingDropped
}

// settleStep is how many bytes in flight the broker's total may be wrong by for each session, so that a counter shared by all
// is not touched for every message.
const settleStep = 64 << 10

// settleQueue brings the broker's totals up to date after the queue has changed. The caller holds s.mu.
func (s *Session) settleQueue() {
	messages, bytes := s.out.Queued()
	st := &s.broker.stats
	_, inFlight := s.out.InFlight()
	if d := inFlight - s.settledInFlight; inFlight == 0 && d != 0 || d >= settleStep || -d >= settleStep {
		st.inFlightBytes.Add(int64(d))
		s.settledInFlight = inFlight
	}
	if messages == s.settledMessages && bytes == s.settledBytes {
		return
	}
	st.queuedMessages.Add(int64(messages - s.settledMessages))
	st.queuedBytes.Add(int64(bytes - s.settledBytes))
	s.settledMessages, s.settledBytes = messages, bytes
	s.busy.Store(messages > 0)
}

// pump sends what waits, as far as the window and the outbox have room: first the queue, then retained messages that a
// SUBSCRIBE asked for. It is called when there may be room: after an acknowledgement, after the outbox was written, when
// a client comes back.
func (s *Session) pump(t *turn) {
	for s.pumpQueue(t) && s.pumpRetained(t) {
	}
}

// pumpQueue sends what waits in the queue, and reports whether the outbox has room for more.
func (s *Session) pumpQueue(t *turn) bool {
	type loss struct {
		m *mqtt.Message
		r DropReason
	}
	var losses []loss
	var sent []*mqtt.Message
	hooks := t.broker.hooks.Load()
	s.mu.Lock()
	c := s.conn.Load()
	for c != nil && s.out.Ready() {
		if !c.hasRoom() && c.starve() {
			break
		}
		d, dup, _ := s.out.Peek()
		p := view(d.Message, t.now)
		p.QoS, p.Retain, p.IDs = d.QoS, d.Retain, d.IDs
		drop := c.fits(&p)
		if d.Message.Expired(t.now) && !dup {
			drop = DropExpired // delivery has not started [MQTT-3.3.2-5]
		}
		if drop != nothingDropped {
			s.out.Skip()
			losses = append(losses, loss{d.Message, drop})
			continue
		}
		p.PacketID, _, p.Dup, _ = s.out.Next()
		c.sendPacket(t, &p, d.Message.Topic)
		if len(hooks.delivered) > 0 {
			sent = append(sent, d.Message)
		}
	}
	s.settleQueue()
	room := c != nil && !s.out.Ready()
	s.mu.Unlock()
	for _, l := range losses {
		t.broker.droppedMessage(s, l.m, l.r)
	}
	for _, m := range sent {
		for _, f := range hooks.delivered {
			f(s.info.Load(), m)
		}
	}
	return room
}

// hasRoom reports whether the outbox takes more that does not have to be sent now.
func (c *conn) hasRoom() bool { return int(c.pending.Load()) < c.broker.limits.OutboxBytes }

// starve asks for a pump when the outbox has been written, and reports whether there will be one: not when it has room
// by now.
func (c *conn) starve() bool {
	c.starved.Store(true)
	return !c.hasRoom()
}

// fits tells whether the client's Maximum Packet Size allows p; a longer one is dropped [MQTT-3.1.2-24], [MQTT-3.1.2-25].
func (c *conn) fits(p *mqtt.Publish) DropReason {
	if c.maxPacket >= maxPacket {
		return nothingDropped
	}
	size := p.Size(c.version)
	if c.aliasesOut.Enabled() {
		size += 4 // an alias, and what it may add to the property length
	}
	if size > c.maxPacket {
		return DropTooLarge
	}
	return nothingDropped
}

const maxPacket = mqtt.MaxPacket

// sendPublish appends t.pub to the outbox, unless it is too large for the client.
func (c *conn) sendPublish(t *turn, p *publication, id uint16, ids []uint32, qos mqtt.QoS, retain bool) DropReason {
	if c.version == mqtt.V5 && (len(ids) > 0 || c.aliasesOut.Enabled()) {
		q := p.Publish
		q.QoS, q.Retain, q.IDs, q.PacketID = qos, retain, ids, id
		if drop := c.fits(&q); drop != nothingDropped {
			return drop
		}
		c.sendPacket(t, &q, p.name)
		return nothingDropped
	}
	e := p.layout(c.version, qos, retain)
	if len(e.bytes) > c.maxPacket {
		return DropTooLarge // [MQTT-3.1.2-24]
	}
	c.mu.Lock()
	at := len(c.out)
	c.out = append(c.room(len(e.bytes)), e.bytes...)
	if qos > mqtt.AtMostOnce {
		binary.BigEndian.PutUint16(c.out[at+e.idAt:], id)
	}
	c.appended(t, len(e.bytes))
	c.mu.Unlock()
	t.pubOut[qos]++
	t.pubOutB += len(p.Payload)
	return nothingDropped
}

// sendPacket appends a PUBLISH of its own layout to the outbox: with Subscription Identifiers, DUP or a Topic Alias.
func (c *conn) sendPacket(t *turn, p *mqtt.Publish, name string) {
	t.pubOut[p.QoS]++
	t.pubOutB += len(p.Payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version == mqtt.V5 && c.aliasesOut.Enabled() {
		if alias, known := c.aliasesOut.Use(name); alias != 0 {
			p.HasAlias, p.Alias = true, alias
			if known {
				p.Topic = nil
			}
		}
	}
	before := len(c.out)
	c.out = p.Append(c.room(p.Size(c.version)), c.version)
	c.appended(t, len(c.out)-before)
}

// sendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP to the outbox.
func (c *conn) sendAck(t *turn, a *mqtt.Ack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(c.out)
	c.out = a.Append(c.room(5), c.version)
	c.appended(t, len(c.out)-before)
}

// sendBytes appends an encoded packet to the outbox.
func (c *conn) sendBytes(t *turn, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.room(len(packet)), packet...)
	c.appended(t, len(packet))
}

// seconds returns a Session Expiry Interval as the wire has it.
func seconds(d time.Duration) uint32 {
	if d == NeverExpires {
		return 0xFFFFFFFF
	}
	return uint32(min(d/time.Second, 0xFFFFFFFE))
}
