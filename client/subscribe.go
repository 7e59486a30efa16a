package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// request is a packet of ours that one packet of the server answers.
type request struct {
	answer  mqtt.PacketType
	filters []string
	sent    bool // used by re-authentication alone, whose first step takes time
	done    chan struct{}
	codes   []mqtt.ReasonCode // final when done is closed
	err     error
	then    func(*request) // called holding Session.mu when done is closed; nil for nothing
}

func newRequest(answer mqtt.PacketType, filters []string) *request {
	return &request{answer: answer, filters: filters, done: make(chan struct{})}
}

func (r *request) fail(err error) {
	r.err = err
	r.finish()
}

func (r *request) finish() {
	close(r.done)
	if r.then != nil {
		r.then(r)
	}
}

// Subscribe asks for messages and returns the server's Reason Code for each subscription: the QoS that it granted, or why it
// refused. The error wraps the first refusal, a [ServerError] that names the filter, or says why there are no codes: the server does not
// support what is asked for (nothing was sent), or the connection or ctx has ended. Messages may be given to the handler
// before Subscribe returns.
func (c *Conn) Subscribe(ctx context.Context, subs ...mqtt.Subscription) ([]mqtt.ReasonCode, error) {
	return c.SubscribeWith(ctx, nil, subs...)
}

// SubscribeWith is Subscribe with properties (MQTT 5.0): a Subscription Identifier, User Properties.
func (c *Conn) SubscribeWith(ctx context.Context, props mqtt.Properties, subs ...mqtt.Subscription) ([]mqtt.ReasonCode, error) {
	p := mqtt.Subscribe{Subscriptions: subs, Props: props}
	if err := c.checkFilters(&p); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	filters := make([]string, len(subs))
	for i := range subs {
		filters[i] = subs[i].Filter
	}
	codes, err := c.ask(ctx, newRequest(mqtt.SUBACK, filters), func(id uint16) []byte {
		p.PacketID = id
		return p.Append(nil, c.version)
	})
	if err != nil {
		return codes, fmt.Errorf("subscribe: %w", err)
	}
	return codes, nil
}

// Unsubscribe ends subscriptions and returns the server's Reason Code for each filter; a server of MQTT 3 gives none, and they
// are Success. Errors are as with Subscribe.
func (c *Conn) Unsubscribe(ctx context.Context, filters ...string) ([]mqtt.ReasonCode, error) {
	return c.UnsubscribeWith(ctx, nil, filters...)
}

// UnsubscribeWith is Unsubscribe with properties (MQTT 5.0): User Properties.
func (c *Conn) UnsubscribeWith(ctx context.Context, props mqtt.Properties, filters ...string) ([]mqtt.ReasonCode, error) {
	p := mqtt.Unsubscribe{Filters: filters, Props: props}
	if err := c.checkUnsubscribe(&p); err != nil {
		return nil, fmt.Errorf("unsubscribe: %w", err)
	}
	codes, err := c.ask(ctx, newRequest(mqtt.UNSUBACK, filters), func(id uint16) []byte {
		p.PacketID = id
		return p.Append(nil, c.version)
	})
	if err != nil {
		return codes, fmt.Errorf("unsubscribe: %w", err)
	}
	return codes, nil
}

// ask sends a request and waits for its answer. When ctx ends, the identifier stays taken until the answer comes.
func (c *Conn) ask(ctx context.Context, r *request, packet func(id uint16) []byte) ([]mqtt.ReasonCode, error) {
	if err := c.sendRequest(ctx, r, packet); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return r.codes, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Conn) sendRequest(ctx context.Context, r *request, packet func(id uint16) []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	room := func() bool { return len(c.requests) < requestLimit && len(c.out) < outLimit }
	if err := c.await(ctx, room); err != nil {
		return err
	}
	return c.sendNow(r, packet)
}

// sendNow sends a request without waiting for room, holding mu.
func (c *Conn) sendNow(r *request, packet func(id uint16) []byte) error {
	id := c.freeID()
	b := packet(id)
	if len(b) > c.sending.maxPacket {
		return fmt.Errorf("%w: the server takes at most %d bytes", mqtt.PacketTooLarge, c.sending.maxPacket) // [MQTT-3.2.2-15]
	}
	c.requests[id] = r
	c.append(b)
	c.cfg.Session.room.Broadcast() // an answer is expected: the reader may have to read on
	return nil
}

// freeID returns a Packet Identifier that nothing uses [MQTT-2.2.1-3]: one that the session would give to its next message.
func (c *Conn) freeID() uint16 {
	o := &c.cfg.Session.out
	for {
		id := o.Send(session.Delivery{Message: &mqtt.Message{}, QoS: mqtt.AtLeastOnce})
		if _, _, err := o.Acknowledge(id); err != nil {
			panic("client: an identifier given for QoS 1 is not of QoS 1")
		}
		if c.requests[id] == nil {
			return id
		}
	}
}

func (c *Conn) onSuback(f mqtt.Frame) error {
	var a mqtt.Suback
	if err := a.Parse(f, c.version); err != nil {
		return fmt.Errorf("SUBACK: %w", err)
	}
	return c.answered(mqtt.SUBACK, a.PacketID, a.Codes, a.Props)
}

func (c *Conn) onUnsuback(f mqtt.Frame) error {
	var a mqtt.Unsuback
	if err := a.Parse(f, c.version); err != nil {
		return fmt.Errorf("UNSUBACK: %w", err)
	}
	if r := c.requests[a.PacketID]; r != nil && c.version != mqtt.V5 {
		a.Codes = make([]mqtt.ReasonCode, len(r.filters))
	}
	return c.answered(mqtt.UNSUBACK, a.PacketID, a.Codes, a.Props)
}

// answered gives the answer to whoever asked.
func (c *Conn) answered(t mqtt.PacketType, id uint16, codes []mqtt.ReasonCode, props mqtt.Properties) error {
	r := c.requests[id]
	if r == nil || r.answer != t {
		return violation(mqtt.ProtocolError, "%v for nothing that was asked", t)
	}
	if len(codes) != len(r.filters) {
		return violation(mqtt.ProtocolError, "%v with %d codes for %d filters", t, len(codes), len(r.filters)) // [MQTT-3.8.4-6], [MQTT-3.11.3-1]
	}
	delete(c.requests, id)
	r.codes = codes
	for i, code := range codes {
		if code.Failed() && r.err == nil {
			r.err = fmt.Errorf("%q: %w", r.filters[i], serverError(t, code, props))
		}
	}
	c.release(id)
	r.finish()
	c.cfg.Session.room.Broadcast()
	return nil
}

func hasWildcard(filter string) bool { return strings.ContainsAny(filter, "+#") }
