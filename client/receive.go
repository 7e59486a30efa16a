package client

import (
	"fmt"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// Delivery is a message that the server has delivered.
type Delivery struct {
	Message  *mqtt.Message // QoS and Retain are those of this delivery; Expires counts from its arrival
	Dup      bool          // the server may have sent it before
	PacketID uint16        // zero with QoS 0
	IDs      []uint32      // Subscription Identifiers (MQTT 5.0)

	conn  *Conn
	qos   mqtt.QoS
	bytes int // counted in inboxBytes
	acked bool
}

// Conn returns the connection that the message came on.
func (d *Delivery) Conn() *Conn { return d.conn }

// Acknowledge acknowledges the message at once, for a handler that will close the connection before it returns. Only the
// handler may call it, and need not: returning does the same.
func (d *Delivery) Acknowledge() {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	d.conn.acknowledge(d)
}

// deliveryBytes is what an entry of the inbox counts besides its content.
const deliveryBytes = 256

// hardInbox is how many times InboxBytes may be exceeded by what cannot be dropped.
const hardInbox = 4

// onPublish puts a message into the inbox, holding mu. A repeated one goes there without its Message: it is only acknowledged again.
func (c *Conn) onPublish(f mqtt.Frame) error {
	var p mqtt.Publish
	if err := p.Parse(f, c.version); err != nil {
		return fmt.Errorf("PUBLISH: %w", err)
	}
	name, err := c.nameOf(&p)
	if err != nil {
		return err
	}
	if drop, err := c.overfull(&p); drop || err != nil {
		return err
	}
	fresh, err := c.cfg.Session.in.Receive(&p)
	switch {
	case err == mqtt.PacketIdentifierInUse && c.version == mqtt.V5:
		c.appendAck(mqtt.Ack{Type: mqtt.PUBACK, PacketID: p.PacketID, Code: mqtt.PacketIdentifierInUse})
		return nil
	case err == mqtt.PacketIdentifierInUse:
		return violation(mqtt.ProtocolError, "a packet identifier of QoS 2 used again for QoS 1")
	case err != nil:
		return violation(mqtt.ReceiveMaximumExceeded, "more than %d messages without an answer", c.receive.maximum) // [MQTT-3.3.4-9]
	}
	d := &Delivery{Dup: p.Dup, PacketID: p.PacketID, conn: c, qos: p.QoS, bytes: deliveryBytes}
	if fresh {
		d.bytes += len(name) + len(p.Payload) + len(p.Props)
		d.Message, d.IDs = p.Message(name, "", time.Now()), slices.Clone(p.IDs)
	}
	c.inbox = append(c.inbox, d)
	c.inboxBytes += d.bytes
	c.mail.Signal()
	return nil
}

// overfull reports whether a message is dropped because the handler is too far behind.
func (c *Conn) overfull(p *mqtt.Publish) (drop bool, err error) {
	switch {
	case c.inboxBytes <= c.cfg.InboxBytes:
	case p.QoS == mqtt.AtMostOnce:
		c.dropped.Add(1)
		return true, nil
	case c.inboxBytes > hardInbox*c.cfg.InboxBytes:
		return false, fmt.Errorf("%w: %d bytes of messages wait for the handler", mqtt.QuotaExceeded, c.inboxBytes)
	}
	return false, nil
}

// nameOf returns the Topic Name, which an alias may stand for.
func (c *Conn) nameOf(p *mqtt.Publish) (string, error) {
	name := string(p.Topic)
	if name != "" {
		if err := topic.ValidateName(name, topic.Limits{}); err != nil {
			return "", violation(mqtt.TopicNameInvalid, "%v", err) // [MQTT-3.3.2-2]
		}
	}
	if !p.HasAlias {
		return name, nil
	}
	var err error
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

// handleAll gives the messages of the inbox to the handler, one after the other.
func (c *Conn) handleAll() {
	for {
		d, ok := c.takeMail()
		if !ok {
			return
		}
		if d.Message != nil && c.cfg.Handler != nil {
			c.cfg.Handler(d)
		}
		c.handled(d)
	}
}

// takeMail waits for a message. After the connection has ended it returns those that had arrived, unless this side has ended it.
func (c *Conn) takeMail() (d *Delivery, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.inbox) == 0 && c.err == nil {
		c.mail.Wait()
	}
	if c.err == ErrClosed {
		c.discardInbox()
	}
	if len(c.inbox) == 0 {
		return nil, false
	}
	d = c.inbox[0]
	c.inbox[0] = nil
	if c.inbox = c.inbox[1:]; len(c.inbox) == 0 {
		c.inbox = nil
	}
	return d, true
}

// discardInbox forgets messages as if they had not arrived: the server has no acknowledgement, and sends them again if it keeps
// the session.
func (c *Conn) discardInbox() {
	for _, d := range c.inbox {
		if d.qos == mqtt.ExactlyOnce && d.Message != nil {
			c.cfg.Session.in.Refused(d.PacketID)
		}
	}
	c.inbox, c.inboxBytes = nil, 0
}

// handled acknowledges a message that has an owner now.
func (c *Conn) handled(d *Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inboxBytes -= d.bytes
	c.room.Broadcast()
	c.acknowledge(d)
}

// acknowledge does so once, holding mu.
func (c *Conn) acknowledge(d *Delivery) {
	if c.err != nil || d.acked {
		return
	}
	d.acked = true
	switch d.qos {
	case mqtt.AtLeastOnce:
		c.cfg.Session.in.Acknowledged()
		c.appendAck(mqtt.Ack{Type: mqtt.PUBACK, PacketID: d.PacketID}) // [MQTT-4.3.2-4]
	case mqtt.ExactlyOnce:
		c.appendAck(mqtt.Ack{Type: mqtt.PUBREC, PacketID: d.PacketID}) // [MQTT-4.3.3-8]
	}
}
