package loadgen

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/magpiemq/magpie/mqtt"
)

// publisher is what a connection publishes.
type publisher struct {
	conn *conn
	lane *lane
	*template

	seq  uint64        // of the last message
	sent atomic.Uint64 // the same after each burst, for the loops of subscribers

	inflight int      // messages without an answer
	free     []uint16 // a ring of Packet Identifiers; those after next, without the last inflight, are free
	next     int
	steps    []step // by Packet Identifier
}

// template is a PUBLISH without the rest of its payload.
type template struct {
	bytes   []byte
	size    int // of the whole packet
	idAt    int // where the Packet Identifier is
	stampAt int
}

// step is how far a message of QoS 1 or 2 is.
type step struct {
	at    int64 // when it was sent
	stage byte  // 0: not in use, 1: PUBLISH is sent, 2: PUBREL is sent
}

// newTemplate makes what every packet of a publisher begins with, up to and with the stamp.
func newTemplate(name string, number int, id uint32, p *Plan) *template {
	m := mqtt.Publish{Topic: []byte(name), QoS: p.QoS, Retain: p.Retain, PacketID: 1, Payload: make([]byte, p.Size)}
	b := m.Append(nil, p.Version)
	t := &template{size: len(b), stampAt: len(b) - p.Size}
	t.bytes = b[: t.stampAt+MinSize : t.stampAt+MinSize]
	stamp{run: id, pub: uint32(number)}.put(t.bytes[t.stampAt:])
	t.idAt = t.stampAt - 2
	if p.Version == mqtt.V5 {
		t.idAt-- // the length of no properties
	}
	return t
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
func (l *loop) burst(p *publisher, most, at int64) int64 {
	if !l.canSend(p) {
		return 0
	}
	if l.qos > mqtt.AtMostOnce {
		most = min(most, int64(len(p.free)-p.inflight))
	}
	c := p.conn
	for range most {
		c.out = l.encode(p, c.room(p.size), at)
	}
	p.sent.Store(p.seq)
	l.sent += uint64(most)
	l.left -= most
	l.expected += uint64(most * p.lane.group.fan.Load())
	p.lane.group.taken.Add(most)
	c.wrote = at
	l.mark(c)
	return most
}

// encode appends a PUBLISH to b, where there is room for it.
func (l *loop) encode(p *publisher, b []byte, at int64) []byte {
	start := len(b)
	b = b[:start+p.size]
	packet := b[start:]
	n := copy(packet, p.bytes)
	copy(packet[n:], l.filler)
	p.seq++
	restamp(packet[p.stampAt:], p.seq, at)
	if l.qos > mqtt.AtMostOnce {
		binary.BigEndian.PutUint16(packet[p.idAt:], p.take(at))
	}
	return b
}

// take takes a Packet Identifier for a message that is sent now. It comes from the end of those that were used last.
func (p *publisher) take(at int64) uint16 {
	id := p.free[p.next]
	if p.next++; p.next == len(p.free) {
		p.next = 0
	}
	p.inflight++
	p.steps[id] = step{at, 1}
	return id
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
	c.out = append(c.room(4), first, 2, byte(id>>8), byte(id))
	c.wrote = l.now
	l.mark(c)
}
