package loadgen

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/magpiemq/magpie/mqtt"
)

// publisher is what a connection publishes.
type publisher struct {
	conn   *conn
	lane   *lane
	header []byte // of every packet: fixed header, topic, room for the Packet Identifier, properties
	idAt   int    // where the Packet Identifier is

	seq  uint64        // of the last message
	sent atomic.Uint64 // the same after each burst, for the loops of subscribers

	inflight int      // messages without an answer
	free     []uint16 // a ring of Packet Identifiers; those after next, without the last inflight, are free
	next     int
	steps    []step // by Packet Identifier
}

// step is how far a message of QoS 1 or 2 is.
type step struct {
	at    int64 // when it was sent
	stage byte  // 0: not in use, 1: PUBLISH is sent, 2: PUBREL is sent
}

// newHeader makes all of a PUBLISH but its payload.
func newHeader(name string, p *Plan) (header []byte, idAt int) {
	m := mqtt.Publish{Topic: []byte(name), QoS: p.QoS, Retain: p.Retain, PacketID: 1, Payload: make([]byte, p.Size)}
	header = m.Append(nil, p.Version)
	header = header[: len(header)-p.Size : len(header)-p.Size]
	idAt = len(header) - 2
	if p.Version == mqtt.V5 {
		idAt-- // the length of no properties
	}
	return header, idAt
}

// allow sets how many messages may be in flight, before the first one is.
func (p *publisher) allow(inflight int) {
	p.free = make([]uint16, inflight)
	for i := range p.free {
		p.free[i] = uint16(i) + 1
	}
	p.steps = make([]step, inflight+1)
}

// canSend reports whether the publisher may send one more message.
func (l *loop) canSend(p *publisher) bool {
	c := p.conn
	return c.state == ready && !c.blocked && c.backlog() < backlogMax && (l.qos == mqtt.AtMostOnce || p.inflight < len(p.free))
}

// burst sends messages as long as the publisher may, and returns how many. All are stamped with one time.
func (l *loop) burst(p *publisher, most, at int64) (n int64) {
	for ; n < most && l.canSend(p); n++ {
		l.encode(p, at)
	}
	if n == 0 {
		return 0
	}
	p.sent.Store(p.seq)
	l.sent += uint64(n)
	l.left -= n
	l.expected += uint64(n * p.lane.group.fan.Load())
	p.lane.group.taken.Add(n)
	p.conn.wrote = at
	l.mark(p.conn)
	return n
}

// encode appends one PUBLISH to what the connection writes.
func (l *loop) encode(p *publisher, at int64) {
	b := p.conn.grow(len(p.header) + len(l.payload))
	copy(b, p.header)
	p.seq++
	if l.qos > mqtt.AtMostOnce {
		id := p.free[p.next]
		if p.next++; p.next == len(p.free) {
			p.next = 0
		}
		p.inflight++
		p.steps[id] = step{at, 1}
		binary.BigEndian.PutUint16(b[p.idAt:], id)
	}
	b = b[len(p.header):]
	copy(b, l.payload)
	stamp{l.id, uint32(p.conn.number), p.seq, at}.put(b)
}

// acknowledged takes a PUBACK, PUBREC or PUBCOMP.
func (l *loop) acknowledged(p *publisher, t mqtt.PacketType, id uint16, refused bool) error {
	if int(id) >= len(p.steps) || p.steps[id].stage == 0 || (t == mqtt.PUBACK) != (l.qos == mqtt.AtLeastOnce) {
		return fmt.Errorf("%w: %v for a message that is not in flight", mqtt.ProtocolError, t)
	}
	s := &p.steps[id]
	if t == mqtt.PUBREC && !refused {
		s.stage = 2
		l.answer(p.conn, 0x62, id) // PUBREL [MQTT-4.3.3-4]
		return nil
	}
	if s.at >= l.from && s.at < l.until {
		l.acks.add(l.now - s.at)
	}
	s.stage = 0
	p.free[(p.next+len(p.free)-p.inflight)%len(p.free)] = id
	p.inflight--
	if refused {
		l.refused++
	} else {
		l.acked++
	}
	l.lastSeen = l.now
	l.queue(p.lane)
	return nil
}

// answer sends a packet that is only a Packet Identifier.
func (l *loop) answer(c *conn, first byte, id uint16) {
	b := c.grow(4)
	b[0], b[1], b[2], b[3] = first, 2, byte(id>>8), byte(id)
	c.wrote = l.now
	l.mark(c)
}
