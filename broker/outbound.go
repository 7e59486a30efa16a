package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// deliver gives t.pub to the session of s, as this subscription wants it. position is where the store has it for this session, 0 when it
// does not.
func (s *subscription) deliver(t *turn, position uint64) {
	p := &t.pub
	qos := min(p.QoS, s.QoS)                  // [MQTT-3.8.4-8]
	retain := p.Retain && s.RetainAsPublished // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
	drop, sent := s.session.offer(t, s, qos, retain, position)
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
func (s *Session) offer(t *turn, sub *subscription, qos mqtt.QoS, retain bool, position uint64) (drop DropReason, sent bool) {
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
		if t.broker.memory.dropsQoS0(t.pub.name) {
			return DropMemory, false
		}
		if !c.hasRoom() {
			return DropSlow, false
		}
		drop = c.sendPublish(t, &t.pub, 0, sub.ids, qos, retain)
		return drop, drop == nothingDropped
	}
	return s.offerKept(t, sub, qos, retain, position)
}

// offerKept is offer for QoS 1 and 2: the message is the session's until it is acknowledged.
func (s *Session) offerKept(t *turn, sub *subscription, qos mqtt.QoS, retain bool, position uint64) (drop DropReason, sent bool) {
	d := session.Delivery{
		Message: t.pub.message(t.now), IDs: sub.ids, Share: sub.share, QoS: qos, Retain: retain, Position: position,
	}
	drop, sent, unsafe, losses := s.take(t, sub, d)
	if drop != nothingDropped {
		s.settled(&d)
	}
	s.lose(losses)
	if unsafe {
		s.pumpQueue(t) // not what is retained: the caller holds owning
	}
	return drop, sent
}

// take makes d the session's. unsafe is true when it waits for the store and nobody waits for that yet. Losses had to make room.
func (s *Session) take(t *turn, sub *subscription, d session.Delivery) (drop DropReason, sent, unsafe bool, losses []loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return DropSessionEnd, false, false, nil
	}
	losses = s.makeRoom(&d)
	c := s.conn.Load()
	unsafe = d.QoS == mqtt.ExactlyOnce && d.Position != 0
	if c != nil && s.out.Open() && !unsafe && (c.hasRoom() || !c.starve()) && !s.defers(&d) {
		q := t.pub.Publish
		q.QoS, q.IDs = d.QoS, sub.ids
		if drop := c.fits(&q); drop != nothingDropped {
			return drop, false, false, losses
		}
		c.sendPublish(t, &t.pub, s.out.Send(d), sub.ids, d.QoS, d.Retain)
		s.settleQueue()
		return nothingDropped, true, false, losses
	}
	if c == nil && t.broker.memory.tight() {
		s.out.PushAside(d)
	} else {
		s.out.Push(d)
	}
	s.settleQueue()
	return nothingDropped, false, unsafe && c != nil, losses
}

// defers reports whether d waits because memory is short. The session is pumped later then. The caller holds s.mu.
func (s *Session) defers(d *session.Delivery) bool {
	m := &s.broker.memory
	if !m.tight() {
		return false
	}
	_, inFlight := s.out.InFlight()
	return m.defers(s, d.Size(), inFlight)
}

// pump sends what waits, as far as the window and the outbox have room: first the queue, then retained messages that a
// SUBSCRIBE asked for. It is called when there may be room: after an acknowledgement, after the outbox was written, when
// a client comes back.
func (s *Session) pump(t *turn) {
	for s.pumpQueue(t) && s.pumpRetained(t) {
	}
}

// loss is a message that was dropped from the queue.
type loss struct {
	delivery session.Delivery
	reason   DropReason
}

// pumpQueue sends what waits in the queue, and reports whether the outbox has room for more.
func (s *Session) pumpQueue(t *turn) bool {
	for {
		room, unsafe, losses, sent := s.sendQueued(t)
		for i := range losses {
			t.broker.droppedMessage(s, losses[i].delivery.Message, losses[i].reason)
		}
		for _, m := range sent {
			for _, f := range t.broker.hooks.Load().delivered {
				f(s.info.Load(), m)
			}
		}
		loaded := s.loadMore(t)
		if !loaded && (unsafe == 0 || s.waitsFor(store.Position(unsafe))) {
			return room
		}
	}
}

// sendQueued sends what waits in memory. unsafe is the position for which the first that waits has to wait, 0 when it does not.
func (s *Session) sendQueued(t *turn) (room bool, unsafe uint64, losses []loss, sent []*mqtt.Message) {
	b := t.broker
	notes := len(b.hooks.Load().delivered) > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn.Load()
	if c == nil {
		return false, 0, nil, nil
	}
	if b.store != nil {
		s.out.Committed(uint64(b.store.Committed()))
	}
	for s.out.Ready() {
		if !c.hasRoom() && c.starve() {
			break
		}
		d, dup, _ := s.out.Peek()
		if drop := c.refuses(&d, dup, t.now); drop != nothingDropped {
			s.out.Skip()
			s.settled(&d)
			losses = append(losses, loss{d, drop})
			continue
		}
		if !dup && s.defers(&d) {
			break
		}
		s.sendNext(c, t)
		if notes {
			sent = append(sent, d.Message)
		}
	}
	s.settleQueue()
	return !s.out.Ready(), s.out.Unsafe(), losses, sent
}

// refuses tells why a delivery that waited is not sent to c.
func (c *conn) refuses(d *session.Delivery, dup bool, now time.Time) DropReason {
	if d.Message.Expired(now) && !dup {
		return DropExpired // delivery has not started [MQTT-3.3.2-5]
	}
	p := view(d.Message, now)
	p.QoS, p.IDs = d.QoS, d.IDs
	return c.fits(&p)
}

// sendNext sends what is next in the session's queue. Before a QoS 2 message is sent the store must know it, or a restart would
// send it again under another identifier; the connection for which that was noted may have ended too early to send it. The caller
// holds s.mu.
func (s *Session) sendNext(c *conn, t *turn) {
	id, d, dup, _ := s.out.Next()
	if d.QoS == mqtt.ExactlyOnce && d.Position != 0 {
		if !dup {
			s.noteSession(store.Record{Kind: store.Sent, About: store.Position(d.Position), PacketID: id})
		}
		c.sendKept(t, held{position: s.lastNote(), delivery: d, id: id, dup: dup})
		return
	}
	p := view(d.Message, t.now)
	p.QoS, p.Retain, p.IDs, p.PacketID, p.Dup = d.QoS, d.Retain, d.IDs, id, dup
	c.sendPacket(t, &p, d.Message.Topic)
}

// loadMore loads messages that wait in the store when few wait in memory, and reports whether it did. One goroutine at a
// time does.
func (s *Session) loadMore(t *turn) bool {
	if t.broker.store == nil {
		return false
	}
	t.broker.moving.RLock()
	defer t.broker.moving.RUnlock()
	s.mu.Lock()
	c := s.conn.Load()
	if s.loading || c == nil || t.broker.memory.tight() && !c.hasRoom() && c.starve() {
		s.mu.Unlock()
		return false
	}
	t.places = s.out.Places(loadBatch, t.places[:0])
	s.loading = len(t.places) > 0
	s.mu.Unlock()
	if len(t.places) == 0 {
		return false
	}
	ds, err := s.load(t.places, loadBytes)
	if err != nil {
		c.stop(err) // when it comes again, the message may be read
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loading = false
	s.out.Loaded(ds)
	s.settleQueue()
	return err == nil
}

// loadBatch is how many messages, and loadBytes about how many bytes of them, are loaded at a time.
const (
	loadBatch = 64
	loadBytes = 256 << 10
)

// hasRoom reports whether the outbox takes more that does not have to be sent now.
func (c *conn) hasRoom() bool { return c.pending.Load() < c.broker.memory.outbox.Load() }

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
	if len(e.bytes) >= shareFrom {
		c.addShared(e, id)
	} else {
		at := len(c.out)
		c.out = append(c.room(len(e.bytes)), e.bytes...)
		if qos > mqtt.AtMostOnce {
			binary.BigEndian.PutUint16(c.out[at+e.idAt:], id)
		}
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
	if c.version == mqtt.V5 && c.aliasesOut.Enabled() && len(name) <= topicCacheBytes {
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
	if n := len(c.out) - before; c.mayHear(n) {
		c.appended(t, n)
	} else {
		c.out = c.out[:before]
	}
}

// mayHear reports whether the client's Maximum Packet Size allows an answer of n bytes [MQTT-3.1.2-24]. A client that cannot hear
// the answer to what it has asked for is not told anything more: its connection ends.
func (c *conn) mayHear(n int) bool {
	if c.maxPacket == 0 || n <= c.maxPacket {
		return true
	}
	c.stop(fmt.Errorf("%w: an answer of %d bytes for a client that takes %d", mqtt.PacketTooLarge, n, c.maxPacket))
	return false
}

// sendBytes appends an encoded packet to the outbox.
func (c *conn) sendBytes(t *turn, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mayHear(len(packet)) {
		return
	}
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
