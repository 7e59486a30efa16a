package session

import (
	"iter"

	"github.com/magpiemq/magpie/mqtt"
)

// Delivery is one message on its way to one peer.
type Delivery struct {
	Message *mqtt.Message
	IDs     []uint32 // Subscription Identifiers; shared, not to be changed
	Share   string   // the Shared Subscription it came through, "$share/{group}/{filter}"; empty for others
	QoS     mqtt.QoS // of this delivery, 1 or 2 when it passes through Outbound
	Retain  bool     // the RETAIN flag of this delivery
}

// size is what a delivery counts against the limits of bytes.
func (d *Delivery) size() int {
	return len(d.Message.Topic) + len(d.Message.Payload) + len(d.Message.Props)
}

// Outbound is what a sender of QoS 1 and 2 messages remembers: a queue of those that wait, and those in flight, in
// order. The zero value is ready. It belongs to the session and outlives connections.
//
// Messages in flight live in a table indexed by the low bits of their Packet Identifier. Identifiers are given in
// sequence; one whose place is taken by a stalled handshake is skipped, so a place holds one message and a look-up
// is one step. The table doubles when it is half full, and never holds more than half of all identifiers, so that the next
// free one is always near, whatever a peer stalls. A list through the places keeps the order of sending, which is
// the order of sending again [MQTT-4.6.0-1].
//
// A message can be taken out of a handshake, by [Outbound.Remove] and [Outbound.Skip]. The peer may know it, so the
// identifier stays taken, and the place in the window too: for QoS 1 until PUBACK or the end of the connection; for QoS 2
// until PUBCOMP, as PUBREL is sent without waiting for PUBREC from the next connection on. Else the peer would take the
// next message of that identifier for the old one.
type Outbound struct {
	window   int    // most messages in flight on this connection
	unacked  int    // sent on this connection, handshake not complete: what counts against the window [MQTT-4.9.0-2]
	last     uint16 // Packet Identifier given last
	table    []slot // len is a power of two
	count    int    // places taken
	publish  list   // handshakes that wait for PUBACK or PUBREC, in order of sending
	release  list   // handshakes that wait for PUBCOMP, in order of their PUBRECs [MQTT-4.6.0-4]
	resend   uint16 // first place of publish that this connection has not sent yet; zero when all were
	queue    queue  // waits for the window
	inFlight int    // bytes in flight
}

// slot is one place of the table. Places are named by Packet Identifier; zero is nobody.
type slot struct {
	Delivery
	id         uint16 // zero: free
	prev, next uint16
	released   bool // PUBREC was received, or the message was taken out: waits for PUBCOMP
	waiting    bool // nothing of it was sent on this connection yet
}

// list is a doubly linked list of places.
type list struct{ head, tail uint16 }

// maxTaken is how many identifiers may be in use at a time, whatever the window.
const maxTaken = 1 << 15

// Connected starts a connection on which at most window messages, 1 to 65,535, may be in flight: the peer's Receive
// Maximum or less; more than 32,768 are never. What was in flight before is sent again by [Outbound.Next], the PUBRELs by the caller, who asks
// [Outbound.Released].
func (o *Outbound) Connected(window int) {
	o.window = window
	o.endAbandoned()
	o.unacked = 0
	for id := range o.Released() {
		o.at(id).waiting = false
		o.unacked++
	}
	for id := o.publish.head; id != 0; id = o.at(id).next {
		o.at(id).waiting = true
	}
	o.resend = o.publish.head
}

// endAbandoned ends the handshakes that have lost their messages on the connection before.
func (o *Outbound) endAbandoned() {
	for id := o.publish.head; id != 0; {
		s := o.at(id)
		id = s.next
		switch {
		case s.Message != nil:
		case s.QoS == mqtt.AtLeastOnce:
			o.drop(s, &o.publish)
		default:
			o.toRelease(s)
		}
	}
}

// Push adds a delivery of QoS 1 or 2 behind all others.
func (o *Outbound) Push(d Delivery) { o.queue.push(d) }

// Ready reports whether Next would return something.
func (o *Outbound) Ready() bool {
	return o.unacked < o.window && (o.resend != 0 || o.queue.n > 0 && o.count < maxTaken)
}

// Open reports whether a delivery may be sent at once: nothing waits before it and the window has room.
func (o *Outbound) Open() bool {
	return o.unacked < o.window && o.count < maxTaken && o.resend == 0 && o.queue.n == 0
}

// Next takes the message to send next: one to send again, with dup set, or the first that waits. ok is false when
// there is none or the window is full.
func (o *Outbound) Next() (id uint16, d Delivery, dup, ok bool) {
	if !o.Ready() {
		return 0, Delivery{}, false, false
	}
	if id := o.resend; id != 0 {
		s := o.at(id)
		o.resend, s.waiting = s.next, false
		o.unacked++
		return id, s.Delivery, true, true // [MQTT-4.4.0-1], [MQTT-3.3.1-1]
	}
	d = o.queue.pop()
	return o.Send(d), d, false, true
}

// Peek returns the delivery that Next would take, so that the caller can drop it first. dup is true for one that was sent
// before.
func (o *Outbound) Peek() (d Delivery, dup, ok bool) {
	if o.resend != 0 {
		return o.at(o.resend).Delivery, true, true
	}
	if o.queue.n > 0 {
		return o.queue.buf[o.queue.head], false, true
	}
	return Delivery{}, false, false
}

// Skip forgets the delivery that Peek returned.
func (o *Outbound) Skip() {
	if o.resend != 0 {
		o.abandon(o.at(o.resend))
		return
	}
	o.queue.pop()
}

// Send puts a delivery in flight and returns its Packet Identifier, which is not in use [MQTT-2.2.1-3],
// [MQTT-2.2.1-4]. The caller has seen that Open.
func (o *Outbound) Send(d Delivery) uint16 {
	if 2*(o.count+1) > len(o.table) {
		o.grow()
	}
	for {
		o.last++
		if o.last != 0 && o.at(o.last).id == 0 {
			break
		}
	}
	s := o.at(o.last)
	*s = slot{Delivery: d, id: o.last}
	o.link(s, &o.publish)
	o.count++
	o.unacked++
	o.inFlight += d.size()
	return o.last
}

// Acknowledge takes a PUBACK: the QoS 1 message has arrived, or was refused, and is forgotten. The error is ProtocolError
// when the identifier belongs to a QoS 2 message; an unknown one is ignored, since it may be a late answer, as is that of a
// message that was removed.
func (o *Outbound) Acknowledge(id uint16) (d Delivery, known bool, err error) {
	s := o.find(id)
	if s == nil {
		return Delivery{}, false, nil
	}
	if s.QoS != mqtt.AtLeastOnce {
		return Delivery{}, true, mqtt.ProtocolError
	}
	d = o.finish(s, &o.publish)
	return d, d.Message != nil, nil
}

// Received takes a PUBREC with its code. The reply is the code of the PUBREL that is due [MQTT-4.3.3-4]: Success, and the
// message itself is forgotten [MQTT-4.3.3-6], or PacketIdentifierNotFound. When done is true the receiver has refused
// the message: the handshake has ended, and nothing is due.
func (o *Outbound) Received(id uint16, code mqtt.ReasonCode) (reply mqtt.ReasonCode, done bool, err error) {
	s := o.find(id)
	switch {
	case s == nil:
		return mqtt.PacketIdentifierNotFound, code.Failed(), nil
	case s.QoS != mqtt.ExactlyOnce:
		return 0, false, mqtt.ProtocolError
	case s.released:
		return mqtt.Success, false, nil // the answer to one sent twice
	case code.Failed():
		o.finish(s, &o.publish)
		return mqtt.Success, true, nil // §4.3.3: the handshake ends here
	}
	o.toRelease(s)
	if s.waiting {
		s.waiting = false
		o.unacked++
	}
	return mqtt.Success, false, nil
}

// Complete takes a PUBCOMP and reports whether the identifier was known.
func (o *Outbound) Complete(id uint16) (known bool, err error) {
	s := o.find(id)
	if s == nil {
		return false, nil
	}
	if !s.released {
		return true, mqtt.ProtocolError
	}
	o.finish(s, &o.release)
	return true, nil
}

// Released yields the Packet Identifiers of the PUBRELs that wait for a PUBCOMP, in the order of their PUBRECs. The caller
// sends them when a connection starts [MQTT-4.4.0-1].
func (o *Outbound) Released() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for id := o.release.head; id != 0; id = o.at(id).next {
			if !yield(id) {
				return
			}
		}
	}
}

// All yields every delivery, those in flight first, then those that wait.
func (o *Outbound) All() iter.Seq[Delivery] {
	return func(yield func(Delivery) bool) {
		for id := o.publish.head; id != 0; id = o.at(id).next {
			if s := o.at(id); s.Message != nil && !yield(s.Delivery) {
				return
			}
		}
		for i := range o.queue.n {
			if !yield(o.queue.buf[o.queue.index(i)]) {
				return
			}
		}
	}
}

// Remove forgets every delivery for which gone reports true, in flight or waiting, and returns how many those were.
// started tells gone whether it was sent at least once; such a one frees its memory at once, its handshake ends later.
func (o *Outbound) Remove(gone func(d Delivery, started bool) bool) (removed int) {
	for id := o.publish.head; id != 0; {
		s := o.at(id)
		id = s.next
		if s.Message != nil && gone(s.Delivery, true) {
			o.abandon(s)
			removed++
		}
	}
	return removed + o.queue.remove(func(d Delivery) bool { return gone(d, false) })
}

// Queued returns how many deliveries wait and how many bytes they have.
func (o *Outbound) Queued() (messages, bytes int) { return o.queue.n, o.queue.bytes }

// InFlight returns how many handshakes are open, those of removed messages included, and how many bytes the messages
// have.
func (o *Outbound) InFlight() (messages, bytes int) { return o.count, o.inFlight }

// finish ends a handshake.
func (o *Outbound) finish(s *slot, from *list) Delivery {
	if o.resend == s.id {
		o.resend = s.next
	}
	if !s.waiting { // else acknowledged before it was sent again: a late answer, still good
		o.unacked-- // §4.9: the quota grows again
	}
	return o.drop(s, from)
}

// abandon takes the message out of a handshake that waits for PUBACK or PUBREC.
func (o *Outbound) abandon(s *slot) {
	switch {
	case !s.waiting:
		o.forget(s) // the answer may be on its way, and the quota grows with it, not before (§4.9)
	case s.QoS == mqtt.AtLeastOnce:
		o.finish(s, &o.publish)
	default:
		o.toRelease(s)
	}
}

// toRelease lets a handshake of QoS 2 wait for PUBCOMP.
func (o *Outbound) toRelease(s *slot) {
	if o.resend == s.id {
		o.resend = s.next
	}
	o.forget(s)
	o.unlink(s, &o.publish)
	s.released = true
	o.link(s, &o.release)
}

// forget lets go of the message and keeps the place.
func (o *Outbound) forget(s *slot) Delivery {
	d := s.Delivery
	if d.Message != nil {
		o.inFlight -= d.size()
	}
	s.Delivery = Delivery{QoS: d.QoS}
	return d
}

// drop frees the place.
func (o *Outbound) drop(s *slot, from *list) Delivery {
	d := o.forget(s)
	o.unlink(s, from)
	*s = slot{}
	if o.count--; o.count == 0 && len(o.table) > keepTable {
		o.table = nil
	}
	return d
}

// keepTable is the largest table that an idle session keeps.
const keepTable = 16

func (o *Outbound) at(id uint16) *slot { return &o.table[int(id)&(len(o.table)-1)] }

func (o *Outbound) find(id uint16) *slot {
	if len(o.table) == 0 {
		return nil
	}
	if s := o.at(id); s.id == id && id != 0 {
		return s
	}
	return nil
}

// grow doubles the table. Two identifiers that have different places keep different places in a larger table.
func (o *Outbound) grow() {
	old := o.table
	o.table = make([]slot, max(4, 2*len(old)))
	for i := range old {
		if old[i].id != 0 {
			*o.at(old[i].id) = old[i]
		}
	}
}

func (o *Outbound) link(s *slot, l *list) {
	s.prev, s.next = l.tail, 0
	if l.tail != 0 {
		o.at(l.tail).next = s.id
	} else {
		l.head = s.id
	}
	l.tail = s.id
}

func (o *Outbound) unlink(s *slot, l *list) {
	if s.prev != 0 {
		o.at(s.prev).next = s.next
	} else {
		l.head = s.next
	}
	if s.next != 0 {
		o.at(s.next).prev = s.prev
	} else {
		l.tail = s.prev
	}
}
