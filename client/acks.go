package client

import "github.com/magpiemq/magpie/mqtt"

// acks are the answers that messages of QoS 1 and 2 are due on one connection, in the order of the messages [MQTT-4.6.0-2],
// [MQTT-4.6.0-3]: handlers may end in another.
type acks struct {
	ring  []ackSlot // len is a power of two
	first uint64    // number of the first that was not sent; a slot is at its number modulo len(ring)
	n     int
}

type ackSlot struct {
	id   uint16
	qos  mqtt.QoS
	done bool // the message has an owner
}

// push adds the answer that is due last and returns its number.
func (a *acks) push(id uint16, qos mqtt.QoS) uint64 {
	if a.n == len(a.ring) {
		a.grow()
	}
	number := a.first + uint64(a.n)
	*a.at(number) = ackSlot{id: id, qos: qos}
	a.n++
	return number
}

func (a *acks) at(number uint64) *ackSlot { return &a.ring[number&uint64(len(a.ring)-1)] }

func (a *acks) grow() {
	old := *a
	a.ring = make([]ackSlot, max(8, 2*len(old.ring)))
	for i := range uint64(old.n) {
		*a.at(old.first + i) = *old.at(old.first + i)
	}
}

// pop takes the first answer, if it may be sent.
func (a *acks) pop() (s ackSlot, ok bool) {
	if a.n == 0 || !a.at(a.first).done {
		return ackSlot{}, false
	}
	s = *a.at(a.first)
	a.first++
	a.n--
	return s, true
}

// acknowledge answers a message that has an owner now, and those behind it that had to wait, holding mu.
func (c *Conn) acknowledge(slot uint64) {
	if c.err != nil {
		return // the server sends it again
	}
	c.acks.at(slot).done = true
	for s, ok := c.acks.pop(); ok; s, ok = c.acks.pop() {
		a := mqtt.Ack{Type: mqtt.PUBREC, PacketID: s.id} // [MQTT-4.3.3-8]
		if s.qos == mqtt.AtLeastOnce {
			a.Type = mqtt.PUBACK // [MQTT-4.3.2-4]
			c.cfg.Session.in.Acknowledged()
		} else if k := c.cfg.Session.keeper; k != nil {
			c.awaitDisk(k.handledAfter(s.id))
		}
		c.appendAck(a)
	}
}
