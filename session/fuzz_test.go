package session

import (
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// FuzzOutbound reads bytes as a script of calls, two a call, and compares every answer with the reference.
func FuzzOutbound(f *testing.F) {
	f.Add([]byte{0, 8, 3, 0, 3, 1, 5, 1, 8, 4, 4, 0, 4, 0, 7, 1})
	f.Add([]byte{255, 8, 1, 3, 1, 3, 0, 5, 2, 6, 3, 8, 2, 9, 0, 4, 0, 10, 1, 7, 2})
	f.Add([]byte{250, 8, 255, 1, 1, 2, 1, 1, 2, 2, 2, 4, 0, 4, 0, 4, 0, 4, 0, 10, 0, 8, 3, 9, 0, 9, 0, 4, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		c := &compared{t: t}
		c.out.last = -uint16(script[0]) // near the end of the identifiers, or at their start
		script = script[1:min(len(script), 2000)]
		for n := 0; n+1 < len(script); n += 2 {
			outboundCall(c, n, script[n], script[n+1])
		}
		c.connected(65535)
		for _, _, _, ok := c.next(); ok; _, _, _, ok = c.next() {
		}
		finish(c)
	})
}

func outboundCall(c *compared, n int, call, arg byte) {
	switch call % 11 {
	case 0:
		c.push(message(n, q1))
	case 1:
		c.push(message(n, q2))
	case 2, 3:
		c.send(message(n, mqtt.QoS(call%11)-1))
	case 4:
		c.next()
	case 5:
		c.acknowledge(pick(c, arg))
	case 6:
		c.received(pick(c, arg), mqtt.ReasonCode(arg&0x80))
	case 7:
		c.complete(pick(c, arg))
	case 8:
		c.connected(1 + int(arg)%9)
	case 9:
		if _, _, ok := c.out.Peek(); ok {
			c.skip()
		}
	case 10:
		c.remove(func(d Delivery, started bool) bool { return number(d)>>1&3 == int(arg&3) || started && arg&4 != 0 })
	}
}

// pick chooses an identifier, most times one in flight.
func pick(c *compared, arg byte) uint16 {
	n := int(arg & 0x1f)
	switch p, r := c.ref.publish, c.ref.release; {
	case arg&0x60 == 0:
		return c.out.last - uint16(n)
	case n < len(p):
		return p[n].id
	case n-len(p) < len(r):
		return r[n-len(p)].id
	}
	return uint16(arg)
}

// finish answers everything; nothing may be left.
func finish(c *compared) {
	c.t.Helper()
	for len(c.ref.publish) > 0 {
		if f := c.ref.publish[0]; f.QoS == q1 {
			c.acknowledge(f.id)
		} else {
			c.received(f.id, mqtt.Success)
		}
	}
	for len(c.ref.release) > 0 {
		c.complete(c.ref.release[0].id)
	}
	if o := &c.out; o.count+o.queue.n+o.unacked+o.inFlight+o.queue.bytes != 0 {
		c.t.Fatalf("left at the end: %v", c.ref)
	}
}

// FuzzInbound does the same for the receiver.
func FuzzInbound(f *testing.F) {
	f.Add([]byte{0, 3, 1, 1, 2, 1, 2, 1, 5, 1, 0, 2, 2, 1})
	f.Add([]byte{0, 1, 2, 1, 0, 1, 2, 2, 2, 1, 4, 2, 6, 1, 1, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := &comparedIn{t: t}
		for n := 0; n+1 < min(len(script), 2000); n += 2 {
			inboundCall(c, script[n], script[n+1])
		}
		for len(c.open) > 0 {
			if a := c.open[0]; a.qos == q1 {
				c.acknowledged(a.id)
			} else {
				c.release(a.id)
			}
		}
	})
}

func inboundCall(c *comparedIn, call, arg byte) {
	id := uint16(arg % 16)
	switch call % 7 {
	case 0:
		c.connected(1 + int(arg)%9)
	case 1, 2:
		c.receive(id, mqtt.QoS(call%7), arg&0x80 != 0)
	case 3:
		c.receive(0, mqtt.AtMostOnce, false)
	case 4:
		if c.find(id, q1) >= 0 {
			c.acknowledged(id)
		}
	case 5:
		c.release(id)
	case 6:
		c.refused(id)
	}
}
