package loadgen

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// connecting is how the connections of a loop come about.
type connecting struct {
	todo     []*conn // those that have not begun
	underWay int
	parallel int
	rate     float64 // per second; zero is as fast as they come about
	start    int64
	begun    int // so many
	later    int64
}

// begin sets the time from which on connections are due.
func (g *connecting) begin(at int64) { g.start = at }

// stop begins no more connections.
func (g *connecting) stop() { g.todo = nil }

// dueAt is when the next connection is due.
func (g *connecting) dueAt() int64 {
	if g.rate == 0 {
		return g.start
	}
	return g.start + int64(float64(g.begun)*1e9/g.rate)
}

// next is when the next connection can begin; ok is false if that depends on others.
func (g *connecting) next() (at int64, ok bool) {
	if g.start == 0 || len(g.todo) == 0 || g.underWay >= g.parallel {
		return 0, false
	}
	return max(g.dueAt(), g.later), true
}

// connectMore begins the connections that are due, some at a time. It reports whether there are more.
func (l *loop) connectMore() (more bool) {
	g := &l.connecting
	for range 64 {
		at, ok := g.next()
		if !ok || at > l.now {
			return false
		}
		c := g.todo[0]
		c.begun = l.now
		if g.rate > 0 {
			c.begun = at
		}
		err := l.poller.open(c)
		if errors.Is(err, errLater) {
			g.later = l.now + int64(time.Millisecond)
			return false
		}
		g.todo = g.todo[1:]
		g.begun++
		g.underWay++
		c.state = dialling
		if err != nil {
			l.end(c, err)
		}
	}
	return true
}

// opened is told when a stream is there.
func (l *loop) opened(c *conn) {
	c.state = greeting
	m := mqtt.Connect{
		Version: l.version, CleanStart: true, KeepAlive: uint16(l.plan.KeepAlive / time.Second), ClientID: l.plan.ClientID + c.name(),
		HasUsername: l.plan.Username != "", Username: l.plan.Username, HasPassword: l.plan.Password != nil, Password: l.plan.Password,
		Props: l.plan.Props,
	}
	c.out = m.Append(c.out)
	l.mark(c)
}

// name is what a connection is called after the prefix: its role and its number.
func (c *conn) name() string {
	role := "i"
	switch {
	case c.pub != nil:
		role = "p"
	case c.sub != nil:
		role = "s"
	}
	return role + strconv.Itoa(c.number)
}

// connack takes the CONNACK.
func (l *loop) connack(c *conn, f mqtt.Frame) error {
	var a mqtt.Connack
	if c.state != greeting {
		return errUnexpected
	}
	if err := a.Parse(f, l.version); err != nil {
		return err
	}
	if a.Code != mqtt.Success {
		return fmt.Errorf("CONNACK: %w", a.Code)
	}
	if err := l.accept(c, &a); err != nil {
		return err
	}
	l.connacks.add(l.now - c.begun)
	if c.sub == nil && (c.pub != nil || l.plan.Filter == "") {
		l.isReady(c)
		return nil
	}
	l.subscribe(c)
	return nil
}

// accept holds the plan against what the broker says it allows (§3.2.2.3).
func (l *loop) accept(c *conn, a *mqtt.Connack) error {
	if seconds, ok := a.Props.Int(mqtt.ServerKeepAlive); ok && seconds > 0 {
		if d := int64(seconds) * int64(time.Second); l.keepAlive == 0 || d < l.keepAlive {
			l.keepAlive = d
		}
	}
	if c.pub == nil {
		return nil
	}
	inflight := l.plan.Inflight
	if n, ok := a.Props.Int(mqtt.ReceiveMaximum); ok {
		inflight = min(inflight, int(n))
	}
	if l.qos > mqtt.AtMostOnce {
		c.pub.allow(inflight)
	}
	highest, hasHighest := a.Props.Int(mqtt.MaximumQoS)
	largest, hasLargest := a.Props.Int(mqtt.MaximumPacketSize)
	switch {
	case hasHighest && uint32(l.qos) > highest:
		return fmt.Errorf("the broker takes QoS %d at most", highest)
	case hasLargest && uint32(c.pub.size) > largest:
		return fmt.Errorf("the broker takes packets of %d bytes, these have %d", largest, c.pub.size)
	case l.plan.Retain && !a.Props.Flag(mqtt.RetainAvailable, true):
		return errors.New("the broker takes no retained messages")
	}
	return nil
}

// subscribe sends the SUBSCRIBE. Connections that only are there take QoS 0, which nobody need answer.
func (l *loop) subscribe(c *conn) {
	c.state = subscribing
	s := mqtt.Subscription{Filter: numbered(l.plan.Filter, c.number)}
	if c.sub != nil {
		s.QoS = l.plan.SubQoS
	}
	m := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{s}}
	c.out = m.Append(c.out, l.version)
	l.mark(c)
}

// suback takes the SUBACK.
func (l *loop) suback(c *conn, f mqtt.Frame) error {
	var a mqtt.Suback
	if c.state != subscribing {
		return errUnexpected
	}
	if err := a.Parse(f, l.version); err != nil {
		return err
	}
	switch code := a.Codes[0]; {
	case code.Failed():
		return fmt.Errorf("SUBACK: %w", code)
	case c.sub != nil && mqtt.QoS(code) < l.plan.SubQoS:
		return fmt.Errorf("SUBACK: the broker grants QoS %d only", code)
	}
	l.isReady(c)
	return nil
}

// isReady notes that a connection has all it needs.
func (l *loop) isReady(c *conn) {
	c.state = ready
	c.wrote = l.now
	l.connecting.underWay--
	l.connected++
	if c.pub != nil {
		l.publishers++
	}
	if c.sub != nil {
		l.subscribers++
		if ln := c.sub.lane; ln != nil {
			ln.subs = append(ln.subs, c.sub)
			ln.group.count(1)
		}
	}
}
