package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// Refused is a message that will not arrive and for which no caller waits.
type Refused struct {
	Message *mqtt.Message
	Reason  error  // a ServerError, ErrExpired, ErrPoison, or what the server has said it does not take
	File    string // where it was set aside; empty without WithQueue
}

// Publish sends a message, at QoS 1 unless an option says otherwise, and returns when it has arrived at the server: for QoS 1 and 2 when the
// handshake is complete, for QoS 0 when it is on its way to the socket. It waits through the end of a connection: the next one continues,
// in the same order. With [Queued] it returns as soon as the message is safely queued.
//
// While there is no connection a message of QoS 1 or 2 waits in the queue, and one of QoS 0 until there is one; Publish blocks while
// the queue is full. The payload may be used again when it returns, whatever it returns.
//
// The error wraps the server's Reason Code if it refused the message, the same code if it has said that it would (nothing was sent), a
// [topic] error for a name that cannot be, [ErrExpired] or [ErrPoison]. When it is that of ctx and the message was not sent yet,
// it is taken back; otherwise it may still arrive. [ErrClosed] means that the client ended before the answer came; with
// [WithQueue] the message is still in the queue then.
func (c *Client) Publish(ctx context.Context, name string, payload []byte, opts ...PublishOption) error {
	o := outgoingOf(name, payload, opts)
	if o.QoS == mqtt.AtMostOnce {
		return c.publishAtMostOnce(ctx, &o.Message)
	}
	p, err := c.enqueue(ctx, &o)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
	}
	return c.withdraw(ctx, p)
}

// PublishAsync is Publish without waiting for the answer, so that many messages can be on their way at a time: they are sent in the order of
// the calls. It blocks only while the queue is full, or for QoS 0 while there is no connection. What becomes of the message, the
// Publication tells. With [Queued] that is done when the message is safely queued.
func (c *Client) PublishAsync(ctx context.Context, name string, payload []byte, opts ...PublishOption) (*Publication, error) {
	o := outgoingOf(name, payload, opts)
	if o.QoS > mqtt.AtMostOnce {
		return c.enqueue(ctx, &o)
	}
	if err := c.publishAtMostOnce(ctx, &o.Message); err != nil {
		return nil, err
	}
	p := newPublication(&mqtt.Message{Topic: name})
	p.finish(mqtt.Success, nil)
	return p, nil
}

func outgoingOf(name string, payload []byte, opts []PublishOption) outgoing {
	o := outgoing{Message: mqtt.Message{Topic: name, Payload: payload, QoS: mqtt.AtLeastOnce}}
	for _, opt := range opts {
		o = opt.ofPublish(o)
	}
	if o.expiry > 0 {
		o.Expires = time.Now().Add(o.expiry)
	}
	return o
}

// publishAtMostOnce appends a message of QoS 0 to what the connection writes.
func (c *Client) publishAtMostOnce(ctx context.Context, m *mqtt.Message) error {
	err := validateMessage(m, mqtt.V5)
	if err == nil {
		err = c.appendAtMostOnce(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	return nil
}

func (c *Client) appendAtMostOnce(ctx context.Context, m *mqtt.Message) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || !writable(s.conn) || c.closing {
		if err := c.awaitConn(ctx, writable); err != nil {
			return err
		}
	}
	if err := s.conn.sending.check(m, s.conn.version); err != nil {
		return err
	}
	s.conn.appendMessage(m)
	return nil
}

func writable(c *Conn) bool { return len(c.out) < outLimit }

// appendMessage appends a PUBLISH of QoS 0. Unlike appendPublish it keeps nothing of m.
func (c *Conn) appendMessage(m *mqtt.Message) {
	p := packetOf(m)
	p.Expiry, _ = m.Remaining(time.Now())
	c.appendPacket(&p, m.Topic)
}

// enqueue puts a message of QoS 1 or 2 behind all others.
func (c *Client) enqueue(ctx context.Context, o *outgoing) (*Publication, error) {
	if err := validateMessage(&o.Message, mqtt.V5); err != nil {
		return nil, fmt.Errorf("publish to %q: %w", o.Topic, err)
	}
	p := newPublication(&o.Message)
	p.own.Payload = slices.Clone(o.Payload) // it may be sent again long after this call
	p.own.Props = slices.Clone(o.Props)
	p.unheard = o.queued
	after, err := c.push(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("publish to %q: %w", o.Topic, err)
	}
	if !o.queued {
		return p, nil
	}
	safe := newPublication(&mqtt.Message{Topic: o.Topic})
	if c.queue == nil {
		safe.finish(mqtt.Success, nil)
		return safe, nil
	}
	c.queue.whenSafe(after, func(err error) { safe.finish(mqtt.Success, err) })
	return safe, nil
}

// push queues a message when there is room. After is what has to be on the disk for it to be safe.
func (c *Client) push(ctx context.Context, p *Publication) (after uint64, err error) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := c.awaitRoom(ctx, p.message); err != nil {
			return 0, err
		}
		if c.queue == nil {
			s.push(p)
			return 0, nil
		}
		after, err = c.queue.accept(p)
		if err == nil {
			s.push(p)
			return after, nil
		}
		if !busy(err) {
			return 0, err
		}
		if err := c.queue.waitUnlocked(ctx, len(p.message.Payload)); err != nil {
			return 0, err
		}
	}
}

// awaitRoom waits until the queue has room, holding mu, and checks the message against what the server of now, or of last, takes.
func (c *Client) awaitRoom(ctx context.Context, m *mqtt.Message) error {
	err := c.session.await(ctx, func() (bool, error) {
		if err := c.over(); err != nil {
			return false, err
		}
		if c.queue != nil {
			return c.queue.hasRoom(), nil
		}
		return c.session.hasRoom(), nil
	})
	if err != nil {
		return c.explain(err)
	}
	if c.last.known {
		return c.last.limits.check(m, c.last.version)
	}
	return nil
}

// withdraw takes a message back whose caller has gone, and returns the error of that.
func (c *Client) withdraw(ctx context.Context, p *Publication) error {
	c.session.withdraw(p)
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return fmt.Errorf("publish to %q: %w", p.message.Topic, c.explain(ctx.Err()))
}

// settled implements keeper.
func (c *Client) settled(position uint64, p *Publication, err error) {
	if err == nil || p == nil || !p.unheard {
		if position > 0 {
			c.queue.done(position)
		}
		if err != nil {
			c.refused.Add(1)
		}
		return
	}
	c.refused.Add(1)
	if position > 0 {
		c.queue.setAside(position, p.message, err)
		return
	}
	c.report(Refused{Message: p.message, Reason: err})
}

// report tells of a message that will not arrive.
func (c *Client) report(r Refused) {
	c.set.log.Error("message is refused", "topic", r.Message.Topic, "reason", r.Reason, "file", r.File)
	if f := c.set.onRefused; f != nil {
		c.events.add(c, func() { f(r) })
	}
}

// sent implements keeper.
func (c *Client) sent(position uint64, id uint16) uint64 {
	return c.queue.note(recordSent, position, id)
}

// received implements keeper.
func (c *Client) received(position uint64, id uint16) uint64 {
	return c.queue.note(recordReceived, position, id)
}

// handled implements keeper.
func (c *Client) handled(id uint16) {
	if c.queue != nil {
		c.queue.handled(id)
	}
}

// handledAfter implements keeper.
func (c *Client) handledAfter(id uint16) uint64 {
	if c.queue == nil {
		return 0
	}
	return c.queue.handledAfter(id)
}

// released implements keeper.
func (c *Client) released(id uint16) uint64 {
	if c.queue == nil {
		return 0
	}
	return c.queue.released(id)
}

// forgotten implements keeper.
func (c *Client) forgotten() {
	if c.queue != nil {
		c.queue.forgotten()
	}
}

// safe implements keeper.
func (c *Client) safe(after uint64) bool { return c.queue.wait(after) == nil }

// load implements keeper.
func (c *Client) load() {
	var one [1]session.Place
	if c.queue != nil && len(c.session.out.Places(1, one[:0])) > 0 {
		c.queue.wakeLoader()
	}
}
