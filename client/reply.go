package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// replies gives the replies to requests to those who wait. Session.mu guards it; the channels have room for one.
type replies struct {
	name    string // Response Topic
	ready   chan struct{}
	err     error // of the subscription, when ready is closed
	waiting map[string]chan *Delivery
}

// ErrNoReplyTopic is the error of a message that cannot be replied to, and of a request with MQTT 3 that does not say where the reply
// comes.
var ErrNoReplyTopic = errors.New("no reply topic")

// Request publishes a message that asks for a reply, and returns the reply, which is the caller's to keep. With MQTT 5.0 the
// message carries a Response Topic of this client's and Correlation Data of its own.
//
// MQTT 3 cannot say where the reply is to go; there, and where both sides have agreed on a topic anyway, use [Client.RequestOn].
func (c *Client) Request(ctx context.Context, name string, payload []byte, opts ...PublishOption) (*Delivery, error) {
	conn, err := c.conn(ctx)
	if err == nil && conn.Version() != mqtt.V5 {
		err = fmt.Errorf("%w: MQTT %v needs one that both sides know", ErrNoReplyTopic, conn.Version())
	}
	if err != nil {
		return nil, fmt.Errorf("request to %q: %w", name, err)
	}
	r, err := c.replyTopic(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("request to %q: %w", name, err)
	}
	key, reply := c.expectReply(r)
	defer c.forgetReply(r, key)
	props := mqtt.Properties(nil).WithString(mqtt.ResponseTopic, r.name).WithString(mqtt.CorrelationData, key)
	if err := c.Publish(ctx, name, payload, append(opts[:len(opts):len(opts)], Props(props))...); err != nil {
		return nil, err
	}
	select {
	case d := <-reply:
		return d, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("reply to %q: %w", name, ctx.Err())
	case <-c.stopped:
		return nil, fmt.Errorf("reply to %q: %w", name, c.Err())
	}
}

// RequestOn is Request for a reply on a topic that both sides know, with any version. With MQTT 5.0 the message carries it as Response
// Topic, with Correlation Data, and a message that comes with other Correlation Data is not the reply; any other message there is.
func (c *Client) RequestOn(ctx context.Context, replyTo, name string, payload []byte, opts ...PublishOption) (*Delivery, error) {
	sub, err := c.Subscribe(ctx, replyTo, nil)
	if err != nil {
		return nil, fmt.Errorf("request to %q: %w", name, err)
	}
	defer func() {
		done, cancel := context.WithCancel(ctx)
		cancel() // the server is told; its answer does not matter
		_ = sub.Close(done)
	}()
	key := rand.Text()
	props := mqtt.Properties(nil).WithString(mqtt.ResponseTopic, replyTo).WithString(mqtt.CorrelationData, key)
	if err := c.Publish(ctx, name, payload, append(opts[:len(opts):len(opts)], Props(props))...); err != nil {
		return nil, err
	}
	for d := range sub.Messages(ctx) {
		if got, marked := d.Props.Bytes(mqtt.CorrelationData); !d.Retain && (!marked || string(got) == key) {
			return d.Keep(), nil
		}
	}
	if err := sub.Err(); err != nil {
		return nil, fmt.Errorf("reply to %q: %w", name, err)
	}
	return nil, fmt.Errorf("reply to %q: %w", name, ctx.Err())
}

// Reply answers a request that a handler was given, at the QoS of the request unless an option says otherwise. The error is
// [ErrNoReplyTopic] when the message does not say where to, or those of Publish.
func (c *Client) Reply(ctx context.Context, request *Delivery, payload []byte, opts ...PublishOption) error {
	to := request.Props.String(mqtt.ResponseTopic)
	if to == "" {
		return ErrNoReplyTopic
	}
	all := []PublishOption{QoS(request.QoS)}
	if key, ok := request.Props.Bytes(mqtt.CorrelationData); ok {
		all = append(all, Props(mqtt.Properties(nil).WithString(mqtt.CorrelationData, string(key))))
	}
	return c.Publish(ctx, to, payload, append(all, opts...)...)
}

// replyTopic subscribes to the topic of the replies, once.
func (c *Client) replyTopic(ctx context.Context, conn *Conn) (*replies, error) {
	c.session.mu.Lock()
	r := c.replies
	first := r == nil
	if first {
		r = &replies{name: c.chooseReplyTopic(conn), ready: make(chan struct{}), waiting: make(map[string]chan *Delivery)}
		c.replies = r
	}
	c.session.mu.Unlock()
	if first {
		c.subscribeReplies(ctx, r)
	}
	select {
	case <-r.ready:
		return r, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// subscribeReplies makes the subscription. If that fails, the next request tries again.
func (c *Client) subscribeReplies(ctx context.Context, r *replies) {
	_, err := c.Subscribe(ctx, r.name, func(d *Delivery) { c.onReply(r, d) }, NoRetained)
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if r.err = err; err != nil {
		c.replies = nil
	}
	close(r.ready)
}

func (c *Client) chooseReplyTopic(conn *Conn) string {
	if c.set.replyTopic != "" {
		return c.set.replyTopic
	}
	base := conn.connack.Props.String(mqtt.ResponseInformation)
	if base == "" || topic.ValidateName(base+"/", topic.Limits{}) != nil {
		base = "reply"
	}
	return base + "/" + rand.Text()
}

// expectReply makes the Correlation Data of a request.
func (c *Client) expectReply(r *replies) (key string, reply chan *Delivery) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	key, reply = rand.Text(), make(chan *Delivery, 1)
	r.waiting[key] = reply
	return key, reply
}

func (c *Client) forgetReply(r *replies, key string) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	delete(r.waiting, key)
}

// onReply is the handler of the replies. What nobody waits for any more is dropped.
func (c *Client) onReply(r *replies, d *Delivery) {
	key, _ := d.Props.Bytes(mqtt.CorrelationData)
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if reply := r.waiting[string(key)]; reply != nil {
		delete(r.waiting, string(key))
		reply <- d.Keep()
	}
}
