package broker

import (
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// hooks are the functions of all observers, by event. The set is replaced, never changed.
type hooks struct {
	connected    []func(*ClientInfo)
	disconnected []func(*ClientInfo, error)
	refused      []func(*ConnectRequest, error)
	subscribed   []func(*ClientInfo, mqtt.Subscription)
	unsubscribed []func(*ClientInfo, string)
	published    []func(*ClientInfo, *mqtt.Message)
	delivered    []func(*ClientInfo, *mqtt.Message)
	dropped      []func(*ClientInfo, *mqtt.Message, DropReason)
}

// add appends f unless it is nil.
func add[F any](fs []F, f F, isNil bool) []F {
	if isNil {
		return fs
	}
	return append(fs, f)
}

func hooksOf(observers []*Events) *hooks {
	h := &hooks{}
	for _, e := range observers {
		h.connected = add(h.connected, e.Connected, e.Connected == nil)
		h.disconnected = add(h.disconnected, e.Disconnected, e.Disconnected == nil)
		h.refused = add(h.refused, e.Refused, e.Refused == nil)
		h.subscribed = add(h.subscribed, e.Subscribed, e.Subscribed == nil)
		h.unsubscribed = add(h.unsubscribed, e.Unsubscribed, e.Unsubscribed == nil)
		h.published = add(h.published, e.Published, e.Published == nil)
		h.delivered = add(h.delivered, e.Delivered, e.Delivered == nil)
		h.dropped = add(h.dropped, e.Dropped, e.Dropped == nil)
	}
	return h
}

// Observe adds a set of events to the one of Config, until stop is called. An event that happens at the same time as stop may
// still be told afterwards.
func (b *Broker) Observe(e Events) (stop func()) {
	one := &e
	b.mu.Lock()
	defer b.mu.Unlock()
	b.observers = append(slices.Clip(b.observers), one)
	b.hooks.Store(hooksOf(b.observers))
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.observers = slices.DeleteFunc(slices.Clone(b.observers), func(o *Events) bool { return o == one })
		b.hooks.Store(hooksOf(b.observers))
	}
}

func (b *Broker) connectedEvent(c *conn) {
	b.accepted()
	b.stats.loginTimes.observe(time.Since(c.began))
	b.log.Info("client connected", "client", c.info.ClientID, "user", c.info.User, "version", c.version.String(),
		"remote", c.remote.String(), "listener", c.listener)
	for _, f := range b.hooks.Load().connected {
		f(c.info)
	}
}

// disconnectedEvent tells that an accepted client has left.
func (b *Broker) disconnectedEvent(c *conn, err error) {
	b.stats.connected.Add(-1)
	b.logEnd(c, "client disconnected", err)
	if d, ok := err.(*disconnected); ok && d.code == mqtt.Success {
		err = nil
	}
	for _, f := range b.hooks.Load().disconnected {
		f(c.info, err)
	}
}

// refusedEvent tells that a connection ended before its client was accepted.
func (b *Broker) refusedEvent(c *conn, err error) {
	b.logEnd(c, "connection refused", err)
	var r *ConnectRequest
	if c.login != nil {
		r = c.connectRequest()
		r.Password = nil
	}
	for _, f := range b.hooks.Load().refused {
		f(r, err)
	}
}

// logEnd logs the end of a connection. Ends that a hostile client can cause at will are rate-limited by address.
func (b *Broker) logEnd(c *conn, what string, err error) {
	_, normal := err.(*disconnected)
	if !normal && !b.logLimit.allow(c.address) {
		return
	}
	client := ""
	if c.info != nil {
		client = c.info.ClientID
	} else if c.login != nil {
		client = c.login.connect.ClientID
	}
	b.log.Info(what, "client", client, "remote", c.remote.String(), "listener", c.listener, "reason", err)
}

// dropped tells that t.pub was not delivered to a session.
func (b *Broker) dropped(s *Session, t *turn, r DropReason) {
	b.stats.drops[r].Add(1)
	if h := b.hooks.Load(); len(h.dropped) > 0 {
		m := t.pub.message(t.now)
		for _, f := range h.dropped {
			f(s.info.Load(), m, r)
		}
	}
}

// droppedMessage is dropped for a message that had been queued.
func (b *Broker) droppedMessage(s *Session, m *mqtt.Message, r DropReason) {
	b.stats.drops[r].Add(1)
	for _, f := range b.hooks.Load().dropped {
		f(s.info.Load(), m, r)
	}
}
