package broker

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// held is something that may be sent once the store has committed what stands at a position: an answer, or a message of
// QoS 2 of which the store has to know that it was sent.
type held struct {
	position store.Position
	promise  store.Promise // that has to be kept at the position
	ack      mqtt.Ack      // of type 0: none
	packet   []byte        // nil: none
	delivery session.Delivery
	id       uint16
	dup      bool
	uncork   bool // the outbox may be written
}

// holding is who waits for the store. What one connection waits for keeps its order [MQTT-4.6.0-2], [MQTT-4.6.0-3]: what needs
// no commit waits behind what does.
type holding struct {
	wake chan struct{} // the store has committed something
	over chan struct{} // closed when no connection is left
	end  func()        // closes it

	mu       sync.Mutex
	conns    map[*conn]struct{}
	sessions map[*Session]struct{} // with a message of QoS 2 that is not safe yet
}

// greet sends the CONNACK, behind which everything else stays [MQTT-3.2.0-1]. One that says that there is no session is
// believed: the client forgets what it had. So it waits for the end of the sessions before, or a crash would bring one back that
// takes new messages for old ones and sends old ones as new ones.
func (c *conn) greet(present bool, t *turn) {
	packet := c.connack(present)
	b := c.broker
	end := held{position: store.Position(b.lastEnd.Load()), uncork: true}
	if present || b.store == nil || b.isSafe(&end) {
		c.sendBytes(t, packet)
		return
	}
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
	c.sendBytes(t, packet)
	c.sendKept(t, end)
}

// answer sends an acknowledgement, now or when the store has committed what stands at the position. Reading goes on meanwhile,
// as far as the Receive Maximum allows.
func (c *conn) answer(t *turn, position store.Position, ack mqtt.Ack) {
	c.sendKept(t, held{position: position, ack: ack})
}

// sendKept sends what is in h, now or later.
func (c *conn) sendKept(t *turn, h held) {
	if c.broker.store == nil || !c.hold(h) {
		c.sendHeld(t, &h)
	}
}

// hold keeps h back if it has to wait, or to stay behind something that does.
func (c *conn) hold(h held) bool {
	b := c.broker
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	if len(c.held) == 0 && !c.releasing && b.isSafe(&h) {
		return false
	}
	c.held = append(c.held, h)
	b.holding.conns[c] = struct{}{}
	return true
}

// isSafe reports whether what is held may be sent.
func (b *Broker) isSafe(h *held) bool { return h.position <= b.store.Safe(h.promise) }

// sendHeld sends it.
func (c *conn) sendHeld(t *turn, h *held) {
	switch {
	case h.uncork:
		c.uncork(t)
	case h.packet != nil:
		c.sendBytes(t, h.packet)
	case h.ack.Type != 0:
		c.sendAnswer(t, h.ack)
	default:
		p := view(h.delivery.Message, t.now)
		p.QoS, p.Retain, p.IDs, p.PacketID, p.Dup = h.delivery.QoS, h.delivery.Retain, h.delivery.IDs, h.id, h.dup
		c.sendPacket(t, &p, h.delivery.Message.Topic)
	}
}

// sendAnswer sends a step of a handshake and notes in the session that it did.
func (c *conn) sendAnswer(t *turn, ack mqtt.Ack) {
	s := c.session
	if ack.Type == mqtt.PUBACK {
		s.mu.Lock()
		if s.conn.Load() == c && ack.Code != mqtt.PacketIdentifierInUse {
			s.in.Acknowledged()
		}
		s.mu.Unlock()
	}
	c.sendAck(t, &ack)
}

// committed wakes the goroutine that sends what waited for the store, which writes the next batch meanwhile.
func (b *Broker) committed(store.Position) {
	select {
	case b.holding.wake <- struct{}{}:
	default:
	}
}

// answerHeld sends what waited for the store until the broker ends.
func (b *Broker) answerHeld() {
	for {
		select {
		case <-b.holding.over:
			return
		case <-b.holding.wake:
			b.releaseAll()
		}
	}
}

// releaseAll sends what is safe by now.
func (b *Broker) releaseAll() {
	t := b.beginTurn()
	defer t.end()
	b.holding.mu.Lock()
	conns := slices.Collect(maps.Keys(b.holding.conns))
	sessions := slices.Collect(maps.Keys(b.holding.sessions))
	clear(b.holding.sessions)
	b.holding.mu.Unlock()
	for _, c := range conns {
		c.release(t)
	}
	for _, s := range sessions {
		s.pump(t)
	}
}

// release sends what the connection held back, up to the first that is not safe. What comes meanwhile stays behind.
func (c *conn) release(t *turn) {
	b := c.broker
	for {
		b.holding.mu.Lock()
		n := 0
		for n < len(c.held) && b.isSafe(&c.held[n]) {
			n++
		}
		due := slices.Clone(c.held[:n])
		if c.held = slices.Delete(c.held, 0, n); len(c.held) == 0 {
			c.held = nil
			delete(b.holding.conns, c)
		}
		c.releasing = n > 0
		b.holding.mu.Unlock()
		if n == 0 {
			return
		}
		for i := range due {
			c.sendHeld(t, &due[i])
		}
	}
}

// waitsFor asks for a pump of the session once the position is committed, and reports whether there will be one: not when it
// is committed by now.
func (s *Session) waitsFor(position store.Position) bool {
	b := s.broker
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	if position <= b.store.Committed() {
		return false
	}
	b.holding.sessions[s] = struct{}{}
	return true
}

// unhold forgets what a connection that has ended was still to be sent: the client will ask again.
func (b *Broker) unhold(c *conn) {
	if b.store == nil {
		return
	}
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	delete(b.holding.conns, c)
	c.held = nil
}

// note tells the store something. An error is told to whoever asked for what is noted: it did not happen.
func (b *Broker) note(r *store.Record) (store.Position, error) {
	position, err := b.store.Append(r)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", mqtt.QuotaExceeded, err)
	}
	return position, nil
}

// noteLater tells the store something that has happened whatever the store says. When it cannot be kept, a restart will not
// know of it: a message is then delivered again.
func (b *Broker) noteLater(r *store.Record) store.Position {
	position, err := b.store.Append(r)
	if err != nil {
		b.stats.unkept.Add(1)
		return 0
	}
	return position
}
