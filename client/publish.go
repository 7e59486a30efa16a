package client

import (
	"context"
	"fmt"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// Publication is a message on its way to the server.
type Publication struct {
	message mqtt.Message
	done    chan struct{}
	code    mqtt.ReasonCode // final when done is closed
	err     error
}

// heldPublish is a message whose Packet Identifier belongs to a SUBSCRIBE that has no answer yet.
type heldPublish struct {
	id  uint16
	d   session.Delivery
	dup bool
}

// Done is closed when the handshake of the message's QoS is complete, or when the connection has ended before.
func (p *Publication) Done() <-chan struct{} { return p.done }

// Result returns, once Done is closed, what Publish would have returned.
func (p *Publication) Result() (mqtt.ReasonCode, error) { return p.code, p.err }

func (p *Publication) finish(code mqtt.ReasonCode, err error) {
	if err != nil {
		err = fmt.Errorf("publish to %q: %w", p.message.Topic, err)
	}
	p.code, p.err = code, err
	close(p.done)
}

// Publish sends a message and waits until the handshake of its QoS is complete; with QoS 0 until it is on its way to the socket. The
// fields of m that count are Topic, Payload, QoS, Retain, Expires and Props, the last two with MQTT 5.0; they must not change until
// Publish returns, nor, when the Session is kept, until the handshake ends.
//
// The code is Success or NoMatchingSubscribers. The error wraps the server's [mqtt.ReasonCode] if it refused the message, the same code
// if it has said that it would, else why the connection or ctx ended. When ctx ends before the message was sent, it is withdrawn;
// after that it is out of our hands, and may arrive. When the connection ends, the message stays in the Session and is
// sent on its next connection.
func (c *Conn) Publish(ctx context.Context, m *mqtt.Message) (mqtt.ReasonCode, error) {
	p, err := c.Start(ctx, m)
	if err != nil {
		return mqtt.UnspecifiedError, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		c.withdraw(p)
		return mqtt.UnspecifiedError, fmt.Errorf("publish to %q: %w", m.Topic, ctx.Err())
	}
	return p.Result()
}

// Start is Publish without waiting for the answer, so that many messages can be on their way at a time. It blocks while much waits
// to be sent already. Messages are sent in the order of the calls, and what m points to must not change until the Publication
// is done.
func (c *Conn) Start(ctx context.Context, m *mqtt.Message) (*Publication, error) {
	p := &Publication{message: *m, done: make(chan struct{})}
	if err := c.validateMessage(m); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	if err := c.checkMessage(m); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.await(ctx, c.canPublish); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	d := session.Delivery{Message: &p.message, QoS: m.QoS, Retain: m.Retain}
	if m.QoS == mqtt.AtMostOnce {
		c.appendPublish(0, d, false)
		p.finish(mqtt.Success, nil)
		return p, nil
	}
	c.queued[&p.message] = p
	c.cfg.Session.out.Push(d)
	c.pump()
	c.room.Broadcast() // an answer is expected: the reader may have to read on
	return p, nil
}

func (c *Conn) canPublish() bool {
	messages, bytes := c.cfg.Session.out.Queued()
	return len(c.out) < outLimit && messages < queueLimit && bytes < outLimit
}

// withdraw takes back what was not sent yet.
func (c *Conn) withdraw(p *Publication) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued[&p.message] == nil {
		return
	}
	delete(c.queued, &p.message)
	c.cfg.Session.out.Remove(func(d session.Delivery, started bool) bool { return d.Message == &p.message && !started })
	c.room.Broadcast()
}

// pump sends what the window allows, holding mu. It stops when much waits to be written, and the writer calls it again.
func (c *Conn) pump() {
	o := &c.cfg.Session.out
	for c.err == nil && c.held == nil && len(c.out) < outLimit && o.Ready() {
		d, _, _ := o.Peek()
		p := c.queued[d.Message]
		delete(c.queued, d.Message)
		if err := c.checkMessage(d.Message); err != nil { // of an earlier connection, which allowed more
			o.Skip()
			continue
		}
		id, d, dup, _ := o.Next()
		if p != nil {
			c.flying[id] = p
		}
		if c.requests[id] != nil {
			c.held = &heldPublish{id, d, dup} // [MQTT-2.2.1-3]: wait for the answer to the other
			break
		}
		c.appendPublish(id, d, dup)
	}
	c.room.Broadcast()
}

// release sends what had to wait for the answer to a request.
func (c *Conn) release(id uint16) {
	if h := c.held; h != nil && h.id == id {
		c.held = nil
		c.appendPublish(h.id, h.d, h.dup)
		c.pump()
	}
}

// packetOf makes a PUBLISH of what a message itself says.
func packetOf(m *mqtt.Message) mqtt.Publish {
	p := mqtt.Publish{QoS: m.QoS, Retain: m.Retain, Topic: []byte(m.Topic), Props: m.Props, Payload: m.Payload}
	p.HasExpiry = !m.Expires.IsZero()
	return p
}

// appendPublish appends a PUBLISH, holding mu.
func (c *Conn) appendPublish(id uint16, d session.Delivery, dup bool) {
	p := packetOf(d.Message)
	p.PacketID, p.Dup = id, dup
	p.Expiry, _ = d.Message.Remaining(time.Now())
	c.useAlias(&p)
	c.out = p.Append(c.out, c.version)
	c.wake.Signal()
}

// aliasBytes is what a Topic Alias adds to a packet.
const aliasBytes = 3

// useAlias replaces the Topic Name by an alias, where the server takes them and one is shorter.
func (c *Conn) useAlias(p *mqtt.Publish) {
	if !c.aliasesOut.Enabled() || len(p.Topic) <= aliasBytes || p.Size(c.version)+aliasBytes+1 > c.sending.maxPacket {
		return
	}
	alias, known := c.aliasesOut.Use(string(p.Topic))
	p.HasAlias, p.Alias = alias != 0, alias
	if known {
		p.Topic = nil
	}
}
