package client

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// Delivery is a message that the server has delivered. It is good until the handler that was given it returns, or the next step of
// the loop over [Subscription.Messages]; [Delivery.Keep] makes one that stays. Nothing in it may be changed.
type Delivery struct {
	*mqtt.Message          // QoS and Retain are those of this delivery; Expires counts from its arrival; the Topic may be kept
	Dup           bool     // the server may have sent it before
	PacketID      uint16   // zero with QoS 0
	IDs           []uint32 // Subscription Identifiers (MQTT 5.0)

	conn    *Conn
	receipt *receipt // nil with QoS 0
	bytes   int      // counted in inboxBytes
	acked   bool     // guarded by Session.mu
	manual  bool     // the handler's return acknowledges nothing
	pooled  bool     // used again when the handler has returned

	// What the fields above point to, to be used again.
	message mqtt.Message
	content []byte
	own     receipt
}

// receipt is the answer that a message of QoS 1 or 2 is due. Session.mu guards it.
type receipt struct {
	message *mqtt.Message
	via     *Conn // on which the answer is sent
	slot    uint64
	id      uint16
	qos     mqtt.QoS
	holders int // mailboxes that are not done with it
}

// Conn returns the connection that the message came on.
func (d *Delivery) Conn() *Conn { return d.conn }

// Keep returns a copy that stays good. Acknowledge does nothing for it.
func (d *Delivery) Keep() *Delivery {
	m := *d.Message
	kept := slices.Concat(m.Payload, m.Props)
	m.Payload, m.Props = kept[:len(m.Payload):len(m.Payload)], kept[len(m.Payload):]
	return &Delivery{Message: &m, Dup: d.Dup, PacketID: d.PacketID, IDs: slices.Clone(d.IDs), conn: d.conn, acked: true}
}

// Acknowledge acknowledges the message now: for a handler that will close the connection before it returns, and for a subscription
// with [ManualAck], where it may be called later and by any goroutine. Otherwise the handler's return does the same. Answers
// are sent in the order of the messages, so an earlier one that is not acknowledged keeps this one back. After the end of the client
// it does nothing: the server sends the message again.
func (d *Delivery) Acknowledge() {
	mu := &d.conn.cfg.Session.mu
	mu.Lock()
	defer mu.Unlock()
	d.acknowledge()
}

// acknowledge does so once, holding mu.
func (d *Delivery) acknowledge() {
	if d.acked || d.receipt == nil {
		return
	}
	d.acked = true
	r := d.receipt
	if r.holders--; r.holders > 0 {
		return
	}
	s := d.conn.cfg.Session
	if s.settle(r) && r.qos == mqtt.ExactlyOnce && s.keeper != nil {
		s.keeper.handled(r.id)
	}
	r.via.acknowledge(r.slot)
}

// settle forgets a message that has an owner now, and reports whether its handshake is open still.
func (s *Session) settle(r *receipt) bool {
	if s.unhandled[r.id] != r {
		return false
	}
	delete(s.unhandled, r.id)
	return true
}

// released takes the end of a handshake of QoS 2, and returns what has to be on the disk before PUBCOMP is written.
func (s *Session) released(id uint16) (after uint64) {
	if r := s.unhandled[id]; r != nil && r.qos == mqtt.ExactlyOnce {
		delete(s.unhandled, id) // the server did not wait for PUBREC: the identifier is not this message's any more
	}
	if s.keeper == nil {
		return 0
	}
	return s.keeper.released(id)
}

// deliveryBytes is what an entry of a mailbox counts besides its content.
const deliveryBytes = 256

// hardInbox is how many times InboxBytes may be exceeded by what cannot be dropped.
const hardInbox = 4

// How many deliveries, and how many bytes of their contents, wait for other messages.
const (
	keepDeliveries = 1024
	keepContent    = 256 << 10
)

// blank returns a delivery to be filled, holding mu.
func (s *Session) blank() *Delivery {
	n := len(s.free)
	if n == 0 {
		return new(Delivery)
	}
	d := s.free[n-1]
	s.free = s.free[:n-1]
	s.freeBytes -= cap(d.content)
	return d
}

// recycle takes back a delivery that nobody looks at any more, holding mu.
func (s *Session) recycle(d *Delivery) {
	size := cap(d.content)
	if !d.pooled || len(s.free) == keepDeliveries || s.freeBytes+size > keepContent {
		return
	}
	*d = Delivery{content: d.content[:0], IDs: d.IDs[:0]}
	s.free = append(s.free, d)
	s.freeBytes += size
}

// fill copies what a packet says.
func (d *Delivery) fill(p *mqtt.Publish, name string) {
	d.content = append(append(d.content[:0], p.Payload...), p.Props...)
	n := len(p.Payload)
	d.message = mqtt.Message{Topic: name, Payload: d.content[:n:n], Props: mqtt.Properties(d.content[n:]), QoS: p.QoS, Retain: p.Retain}
	if p.HasExpiry {
		d.message.Expires = time.Now().Add(time.Duration(p.Expiry) * time.Second)
	}
	d.Message, d.Dup, d.PacketID, d.IDs = &d.message, p.Dup, p.PacketID, append(d.IDs[:0], p.IDs...)
	d.bytes = deliveryBytes + len(name) + len(d.content)
}

// onPublish puts a message into the mailboxes that want it, holding mu.
func (c *Conn) onPublish(f mqtt.Frame) error {
	p := &c.publish
	if err := p.Parse(f, c.version); err != nil {
		return fmt.Errorf("PUBLISH: %w", err)
	}
	name, err := c.nameOf(p)
	if err != nil {
		return err
	}
	if drop, err := c.overfull(p); drop || err != nil {
		return err
	}
	c.received.Add(1)
	fresh, err := c.cfg.Session.in.Receive(p)
	switch {
	case err == mqtt.PacketIdentifierInUse && c.version == mqtt.V5:
		c.appendAck(mqtt.Ack{Type: mqtt.PUBACK, PacketID: p.PacketID, Code: mqtt.PacketIdentifierInUse})
		return nil
	case err == mqtt.PacketIdentifierInUse:
		return violation(mqtt.ProtocolError, "a packet identifier of QoS 2 used again for QoS 1")
	case err != nil:
		return violation(mqtt.ReceiveMaximumExceeded, "more than %d messages without an answer", c.receive.maximum) // [MQTT-3.3.4-9]
	}
	if !c.again(p, name, fresh) {
		c.deliver(p, name)
	}
	return nil
}

// again reports whether a message is one that we have, and sees to it that it is acknowledged when it is handled: a handler
// may still be busy with what came on an earlier connection.
func (c *Conn) again(p *mqtt.Publish, name string, fresh bool) bool {
	if p.QoS == mqtt.AtMostOnce {
		return false
	}
	r := c.cfg.Session.unhandled[p.PacketID]
	switch {
	case !fresh && r == nil:
		c.acknowledge(c.acks.push(p.PacketID, p.QoS))
		return true
	case !fresh && r.via == c:
		return true // [MQTT-4.4.0-1] forbids it, but the answer to the first will do
	case !fresh, r != nil && r.repeatedBy(p, name) && r.via != c:
		r.via, r.slot = c, c.acks.push(p.PacketID, p.QoS)
		return true
	}
	return false
}

// repeatedBy reports whether a packet of a later connection is the same message of QoS 1.
func (r *receipt) repeatedBy(p *mqtt.Publish, name string) bool {
	return p.Dup && r.qos == p.QoS && r.message.Topic == name && bytes.Equal(r.message.Payload, p.Payload)
}

// deliver gives a message to everybody who wants it.
func (c *Conn) deliver(p *mqtt.Publish, name string) {
	boxes := c.boxesFor(name, p.IDs)
	if len(boxes) == 0 {
		c.unhandled.Add(1)
		if p.QoS > mqtt.AtMostOnce {
			c.acknowledge(c.acks.push(p.PacketID, p.QoS))
		}
		return
	}
	d := c.cfg.Session.blank()
	d.fill(p, name)
	d.conn, d.pooled = c, len(boxes) == 1 && !boxes[0].manual
	if p.QoS > mqtt.AtMostOnce {
		r := &d.own
		*r = receipt{message: d.Message, via: c, slot: c.acks.push(p.PacketID, p.QoS), id: p.PacketID, qos: p.QoS, holders: len(boxes)}
		d.receipt, c.cfg.Session.unhandled[p.PacketID] = r, r
	}
	for i, b := range boxes {
		one := d
		if i > 0 {
			one = &Delivery{Message: d.Message, Dup: d.Dup, PacketID: d.PacketID, IDs: d.IDs, conn: c, receipt: d.receipt, bytes: d.bytes}
		}
		one.manual = b.manual
		b.put(one)
	}
}

// boxesFor returns the mailboxes that a message goes to.
func (c *Conn) boxesFor(name string, ids []uint32) []*mailbox {
	c.boxes = c.boxes[:0]
	switch k := c.cfg.Session.keeper; {
	case k != nil:
		c.boxes = k.route(name, ids, c.boxes)
	case c.box != nil:
		c.boxes = append(c.boxes, c.box)
	}
	return c.boxes
}

// overfull reports whether a message is dropped because the handlers are too far behind.
func (c *Conn) overfull(p *mqtt.Publish) (drop bool, err error) {
	inbox := c.cfg.Session.inboxBytes
	switch {
	case inbox <= c.cfg.InboxBytes:
	case p.QoS == mqtt.AtMostOnce:
		c.dropped.Add(1)
		return true, nil
	case inbox > hardInbox*c.cfg.InboxBytes:
		return false, fmt.Errorf("%w: %d bytes of messages wait for the handler", mqtt.QuotaExceeded, inbox)
	}
	return false, nil
}

// nameOf returns the Topic Name, which an alias may stand for.
func (c *Conn) nameOf(p *mqtt.Publish) (name string, err error) {
	if len(p.Topic) > 0 {
		if name, err = c.names.get(p.Topic); err != nil {
			return "", violation(mqtt.TopicNameInvalid, "%v", err) // [MQTT-3.3.2-2]
		}
	}
	if !p.HasAlias {
		return name, nil
	}
	if name != "" {
		err = c.aliasesIn.Set(p.Alias, name)
	} else {
		name, err = c.aliasesIn.Get(p.Alias)
	}
	if err != nil {
		return "", fmt.Errorf("server broke the protocol: %w: alias %d", err, p.Alias)
	}
	return name, nil
}

// The Topic Names that are remembered, so that a message on one of them costs no string.
const (
	manyNames = 512
	longName  = 256 // bytes
)

// names makes strings of Topic Names.
type names map[string]string

// get returns a valid name as a string.
func (n *names) get(b []byte) (string, error) {
	if s, ok := (*n)[string(b)]; ok { // without an allocation
		return s, nil
	}
	s := string(b)
	if err := topic.ValidateName(s, topic.Limits{}); err != nil {
		return "", err
	}
	if len(s) > longName {
		return s, nil
	}
	if *n == nil {
		*n = make(names)
	}
	if len(*n) == manyNames {
		clear(*n)
	}
	(*n)[s] = s
	return s, nil
}
