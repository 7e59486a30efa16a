package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// ErrExpired is the error of a message whose expiry has passed before it could be sent.
var ErrExpired = errors.New("message has expired before it was sent")

// Publication is a message on its way to the server.
type Publication struct {
	message  *mqtt.Message
	position uint64 // in the queue on disk; zero for none
	unheard  bool   // nobody waits for the end
	done     chan struct{}
	code     mqtt.ReasonCode // final when done is closed
	err      error
	own      mqtt.Message // what message points to, mostly
}

// heldPublish is a message whose Packet Identifier belongs to a SUBSCRIBE that has no answer yet.
type heldPublish struct {
	id  uint16
	d   session.Delivery
	dup bool
}

func newPublication(m *mqtt.Message) *Publication {
	p := &Publication{own: *m, done: make(chan struct{})}
	p.message = &p.own
	return p
}

// Done is closed when the handshake of the message's QoS is complete, or when it never will be: for a [Conn] when it has ended, for a
// [Client] when it is closed.
func (p *Publication) Done() <-chan struct{} { return p.done }

// Result returns, once Done is closed, what Publish would have returned.
func (p *Publication) Result() (mqtt.ReasonCode, error) { return p.code, p.err }

// finish tells whoever waits.
func (p *Publication) finish(code mqtt.ReasonCode, err error) {
	if p.unheard {
		return
	}
	if err != nil {
		err = fmt.Errorf("publish to %q: %w", p.message.Topic, err)
	}
	p.code, p.err = code, err
	close(p.done)
}

// settled ends the way of a message, holding mu. p is nil when nothing is known of it but what d says.
func (s *Session) settled(d session.Delivery, p *Publication, code mqtt.ReasonCode, err error) {
	if p != nil {
		s.finish(p, code, err)
	}
	if s.keeper != nil && (p != nil || d.Position > 0) {
		s.keeper.settled(d.Position, p, err)
	}
}

// finish ends a publication, holding mu.
func (s *Session) finish(p *Publication, code mqtt.ReasonCode, err error) {
	if !p.unheard {
		s.awaited--
		p.finish(code, err)
	}
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
		c.cfg.Session.withdraw(p)
		return mqtt.UnspecifiedError, fmt.Errorf("publish to %q: %w", m.Topic, ctx.Err())
	}
	return p.Result()
}

// Start is Publish without waiting for the answer, so that many messages can be on their way at a time. It blocks while much waits
// to be sent already. Messages are sent in the order of the calls, and what m points to must not change until the Publication
// is done.
func (c *Conn) Start(ctx context.Context, m *mqtt.Message) (*Publication, error) {
	if err := validateMessage(m, c.version); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	if err := c.sending.check(m, c.version); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	p := newPublication(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.await(ctx, c.canPublish); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	if m.QoS == mqtt.AtMostOnce {
		c.appendPublish(0, session.Delivery{Message: p.message, QoS: m.QoS, Retain: m.Retain}, false)
		p.finish(mqtt.Success, nil)
		return p, nil
	}
	c.cfg.Session.push(p)
	return p, nil
}

func (c *Conn) canPublish() bool { return len(c.out) < outLimit && c.cfg.Session.hasRoom() }

// hasRoom reports whether another message may wait for the window.
func (s *Session) hasRoom() bool {
	messages, bytes := s.out.Queued()
	return messages < queueLimit && bytes < outLimit
}

// push puts a message of QoS 1 or 2 behind all others, and sends it when the window allows.
func (s *Session) push(p *Publication) {
	m := p.message
	switch {
	case p.unheard && p.position > 0: // made again when the message is sent
	case p.position > 0:
		s.stored[p.position] = p
	default:
		s.queued[m] = p
	}
	if !p.unheard {
		s.awaited++
	}
	s.out.Push(session.Delivery{Message: m, QoS: m.QoS, Retain: m.Retain, Position: p.position})
	if s.conn != nil {
		s.conn.pump()
	}
	s.room.Broadcast() // an answer is expected: the reader may have to read on
}

// unqueue takes the publication of a message that is about to be sent for the first time.
func (s *Session) unqueue(d session.Delivery) *Publication {
	if p := s.queued[d.Message]; p != nil {
		delete(s.queued, d.Message)
		return p
	}
	if p := s.stored[d.Position]; p != nil {
		delete(s.stored, d.Position)
		return p
	}
	if s.keeper == nil {
		return nil
	}
	return &Publication{message: d.Message, position: d.Position, unheard: true}
}

// withdraw takes back what was not sent yet.
func (s *Session) withdraw(p *Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.queued[p.message] == p:
		delete(s.queued, p.message)
		s.out.Remove(func(d session.Delivery, started bool) bool { return d.Message == p.message && !started })
	case p.position > 0 && s.stored[p.position] == p:
		delete(s.stored, p.position)
		if s.out.Remove(func(d session.Delivery, started bool) bool { return d.Position == p.position && !started }) == 0 {
			s.out.RemovePlaces(func(w session.Place) bool { return w.Position == p.position })
		}
		s.keeper.settled(p.position, nil, nil)
	default:
		return
	}
	s.awaited--
	s.room.Broadcast()
}

// pump sends what the window allows, holding mu. It stops when much waits to be written, and the writer calls it again.
func (c *Conn) pump() {
	s := c.cfg.Session
	for c.err == nil && c.held == nil && len(c.out) < outLimit && s.out.Ready() {
		d, resent, _ := s.out.Peek()
		if err := c.unsendable(d.Message, resent); err != nil {
			s.skip(d, resent, err)
			continue
		}
		c.sendNext(resent)
	}
	if s.keeper != nil {
		s.keeper.load()
	}
	s.room.Broadcast()
}

// unsendable says why a message that was taken is not sent: the server of an earlier connection may have allowed more.
func (c *Conn) unsendable(m *mqtt.Message, resent bool) error {
	if !resent && m.Expired(time.Now()) {
		return ErrExpired
	}
	return c.sending.check(m, c.version)
}

// skip gives up the message that would be sent next.
func (s *Session) skip(d session.Delivery, resent bool, err error) {
	var p *Publication
	if !resent {
		p = s.unqueue(d)
	}
	for id, sent := range s.flying {
		if resent && sent.message == d.Message {
			p = sent
			delete(s.flying, id)
		}
	}
	s.out.Skip()
	s.settled(d, p, codeOf(err), err)
}

// codeOf returns the Reason Code that an error wraps.
func codeOf(err error) mqtt.ReasonCode {
	code := mqtt.UnspecifiedError
	_ = errors.As(err, &code)
	return code
}

// sendNext sends one message that was sent before, or that has waited.
func (c *Conn) sendNext(resent bool) {
	s := c.cfg.Session
	id, d, dup, _ := s.out.Next()
	if !resent {
		if p := s.unqueue(d); p != nil {
			s.flying[id] = p
		}
		if d.QoS == mqtt.ExactlyOnce && d.Position > 0 && s.keeper != nil {
			c.awaitDisk(s.keeper.sent(d.Position, id))
		}
	}
	dup = dup && c.kept // a server that has lost the session has not seen it before [MQTT-3.3.1-1]
	if c.requests[id] != nil {
		c.held = &heldPublish{id, d, dup} // [MQTT-2.2.1-3]: wait for the answer to the other
		return
	}
	c.appendPublish(id, d, dup)
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
	c.appendPacket(&p, d.Message.Topic)
}

func (c *Conn) appendPacket(p *mqtt.Publish, name string) {
	c.useAlias(p, name)
	c.out = p.Append(c.out, c.version)
	c.published.Add(1)
	c.wake.Signal()
}

// aliasBytes is what a Topic Alias adds to a packet.
const aliasBytes = 3

// useAlias replaces the Topic Name by an alias, where the server takes them and one is shorter.
func (c *Conn) useAlias(p *mqtt.Publish, name string) {
	if !c.aliasesOut.Enabled() || len(p.Topic) <= aliasBytes || p.Size(c.version)+aliasBytes+1 > c.sending.maxPacket {
		return
	}
	alias, known := c.aliasesOut.Use(name)
	p.HasAlias, p.Alias = alias != 0, alias
	if known {
		p.Topic = nil
	}
}
