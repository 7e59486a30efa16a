package broker

import (
	"fmt"
	"slices"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// keep tells the store about t.pub.
func (b *Broker) keep(t *turn, id uint16) (store.Position, error) {
	r := store.Record{Message: t.pub.message(t.now), ClientID: t.pub.publisher}
	if t.pub.QoS == mqtt.ExactlyOnce {
		r.PacketID = id
	}
	position, err := b.config.Store.Append(&r)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", mqtt.QuotaExceeded, err)
	}
	return position, nil
}

// heldAnswer is an answer to a PUBLISH whose record is not committed yet.
type heldAnswer struct {
	position store.Position
	ack      mqtt.Ack
}

// holding is which connections have answers that wait. The answers of one connection keep their order [MQTT-4.6.0-2],
// [MQTT-4.6.0-3]: one that needs no commit waits behind those that do.
type holding struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
}

// answer sends the answer to a PUBLISH, now or when the store has committed what stands at the position. Reading goes on
// meanwhile, as far as the Receive Maximum allows.
func (c *conn) answer(t *turn, position store.Position, ack mqtt.Ack) {
	b := c.broker
	if b.config.Store == nil {
		c.sendAnswer(t, ack)
		return
	}
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	if len(c.held) == 0 && position <= b.config.Store.Committed() {
		c.sendAnswer(t, ack)
		return
	}
	c.held = append(c.held, heldAnswer{position, ack})
	b.holding.conns[c] = struct{}{}
}

// sendAnswer sends a PUBACK or PUBREC and notes in the session that it did.
func (c *conn) sendAnswer(t *turn, ack mqtt.Ack) {
	s := c.session
	s.mu.Lock()
	if s.conn.Load() == c {
		switch {
		case ack.Type == mqtt.PUBREC && ack.Code.Failed():
			s.in.Refused(ack.PacketID)
		case ack.Type == mqtt.PUBACK && ack.Code != mqtt.PacketIdentifierInUse:
			s.in.Acknowledged()
		}
	}
	s.mu.Unlock()
	c.sendAck(t, &ack)
}

// committed sends the answers that waited for the position. The store calls it.
func (b *Broker) committed(position store.Position) {
	t := b.beginTurn()
	defer t.end()
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	for c := range b.holding.conns {
		n := 0
		for n < len(c.held) && c.held[n].position <= position {
			c.sendAnswer(t, c.held[n].ack)
			n++
		}
		if c.held = slices.Delete(c.held, 0, n); len(c.held) == 0 {
			c.held = nil
			delete(b.holding.conns, c)
		}
	}
}

// unhold forgets the answers of a connection that has ended: the client will send those messages again.
func (b *Broker) unhold(c *conn) {
	if b.config.Store == nil {
		return
	}
	b.holding.mu.Lock()
	defer b.holding.mu.Unlock()
	delete(b.holding.conns, c)
	c.held = nil
}
