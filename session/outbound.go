package session

import (
	"iter"
	"math/bits"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// Delivery is one message on its way to one peer.
type Delivery struct {
	Message *mqtt.Message
	IDs     []uint32 // Subscription Identifiers; shared, not to be changed
	Share   string   // the Shared Subscription it came through, "$share/{group}/{filter}"; empty for others
	QoS     mqtt.QoS // of this delivery, 1 or 2 when it passes through Outbound
	Retain  bool     // the RETAIN flag of this delivery

	Position uint64 // what the owner's store calls the message; 0 when only memory has it
}

// place returns where the delivery waits when its message stays in the store.
func (d *Delivery) place() Place {
	return Place{Position: d.Position, QoS: uint8(d.QoS), Retain: d.Retain, Shared: d.Share != ""}
}

// Size is what a delivery counts against the limits of bytes.
func (d *Delivery) Size() int {
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
	spill    spill  // waits behind the queue, most of it without messages
	spilled  int    // bytes of the messages in spill
	kept     int    // bytes of those of them that are in memory
	inFlight int    // bytes in flight
	unloaded int    // bytes of those of them that are not in memory

	committed uint64 // see Committed
}

// slot is one place of the table. Places are named by Packet Identifier; zero is nobody.
type slot struct {
	Delivery
	id         uint16 // zero: free
	prev, next uint16
	released   bool // PUBREC was received, or the message was taken out: waits for PUBCOMP
	waiting    bool // nothing of it was sent on this connection yet
	missing    bool // restored or unloaded, and the owner has not filled in the message yet
	size       int  // of the message that was unloaded
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

// keepQueue is how many messages, and keepBytes how many bytes of them, wait in memory before further ones that a store has stay
// there.
const (
	keepQueue = 64
	keepBytes = 256 << 10
)

// Push adds a delivery of QoS 1 or 2 behind all others. The message of one that the owner's store has may be let go of: then
// it comes back by [Outbound.Places] and [Outbound.Loaded].
func (o *Outbound) Push(d Delivery) {
	switch {
	case o.spill.n == 0 && (d.Position == 0 || o.queue.n < keepQueue && o.queue.bytes < keepBytes):
		o.queue.push(d)
		return
	case d.Position == 0:
		kept := d
		o.spill.push(spilled{kept: &kept})
		o.kept += d.Size()
	default:
		o.spill.push(spilled{place: pack(d.place())})
	}
	o.spilled += d.Size()
}

// Committed tells up to which position the owner's store is safe. A message of QoS 2 beyond it is not sent yet: after a crash
// the store would not know that it was, and send it again.
func (o *Outbound) Committed(position uint64) { o.committed = position }

// Places returns the first deliveries that wait without their messages, at most limit, when it is time to load them: when
// fewer than half of what may wait in memory does. Kept ones that stand between them are not there.
func (o *Outbound) Places(limit int, dst []Place) []Place {
	if o.spill.n == 0 || o.queue.n >= keepQueue/2 || o.queue.bytes >= keepBytes/2 {
		return dst
	}
	o.spill.all(func(e *spilled) bool {
		if e.kept != nil || len(dst) == limit {
			return false
		}
		dst = append(dst, unpack(e.place))
		return true
	})
	return dst
}

// Loaded gives back the messages of the first places, in their order. One whose Message is nil is gone. Places that are not
// the first any more are ignored: they were removed meanwhile.
func (o *Outbound) Loaded(ds []Delivery) {
	for i := range ds {
		if o.spill.n == 0 {
			break
		}
		if e := o.spill.front(); e.kept != nil || unpack(e.place).Position != ds[i].Position {
			break
		}
		o.spill.pop()
		if ds[i].Message != nil {
			o.spilled = max(0, o.spilled-ds[i].Size()) // the sizes of restored ones were not known
			o.queue.push(ds[i])
		}
	}
	o.unspill()
}

// unspill moves what has its message anyway from the front of the spill to the queue.
func (o *Outbound) unspill() {
	for o.spill.n > 0 && o.spill.front().kept != nil && o.queue.n < keepQueue {
		d := *o.spill.pop().kept
		o.spilled -= d.Size()
		o.kept -= d.Size()
		o.queue.push(d)
	}
	if o.spill.n == 0 {
		o.spilled = 0
	}
}

// Ready reports whether Next would return something.
func (o *Outbound) Ready() bool {
	return o.unacked < o.window && (o.resend != 0 || o.queue.n > 0 && o.count < maxTaken && o.safe(&o.queue.buf[o.queue.head]))
}

// safe reports whether a delivery may be sent for the first time.
func (o *Outbound) safe(d *Delivery) bool {
	return d.QoS == mqtt.AtLeastOnce || d.Position <= o.committed
}

// Unsafe returns the position that has to be committed before the first delivery that waits may be sent, 0 when it does not
// have to wait for that.
func (o *Outbound) Unsafe() uint64 {
	if o.resend != 0 || o.queue.n == 0 || o.safe(&o.queue.buf[o.queue.head]) {
		return 0
	}
	return o.queue.buf[o.queue.head].Position
}

// Position returns what the owner's store calls the message in flight under an identifier, 0 when it has none.
func (o *Outbound) Position(id uint16) uint64 {
	if s := o.find(id); s != nil {
		return s.Delivery.Position
	}
	return 0
}

// Waits reports whether the message in flight under an identifier waits for PUBACK or PUBREC.
func (o *Outbound) Waits(id uint16) bool {
	s := o.find(id)
	return s != nil && !s.released
}

// Open reports whether a delivery may be sent at once: nothing waits before it and the window has room.
func (o *Outbound) Open() bool {
	return o.unacked < o.window && o.count < maxTaken && o.resend == 0 && o.queue.n == 0 && o.spill.n == 0
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
	o.unspill()
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

// DropFirst forgets the delivery that has waited longest of those that were never sent. It has no Message when that stayed in the
// owner's store; its size is taken to be the average of what stayed there.
func (o *Outbound) DropFirst() (d Delivery, ok bool) {
	switch {
	case o.queue.n > 0:
		d = o.queue.pop()
		o.unspill()
		return d, true
	case o.spill.n == 0:
		return Delivery{}, false
	}
	average := o.spilled / o.spill.n
	if e := o.spill.pop(); e.kept != nil {
		d = *e.kept
		o.spilled -= d.Size()
		o.kept -= d.Size()
	} else {
		p := unpack(e.place)
		d = Delivery{Position: p.Position, QoS: mqtt.QoS(p.QoS), Retain: p.Retain}
		o.spilled -= average
	}
	o.unspill()
	return d, true
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
	o.inFlight += d.Size()
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
	removed += o.queue.remove(func(d Delivery) bool { return gone(d, false) })
	removed += o.spill.remove(func(e *spilled) bool {
		if e.kept == nil || !gone(*e.kept, false) {
			return false
		}
		o.spilled -= e.kept.Size()
		o.kept -= e.kept.Size()
		return true
	})
	o.unspill()
	return removed
}

// RemovePlaces forgets every delivery that waits without its message and for which gone reports true. How many bytes those
// had is not known until all are gone.
func (o *Outbound) RemovePlaces(gone func(Place) bool) (removed int) {
	removed = o.spill.remove(func(e *spilled) bool { return e.kept == nil && gone(unpack(e.place)) })
	o.unspill()
	return removed
}

// Keep gives deliveries that wait without their messages those messages, where they stand. ds are by position.
func (o *Outbound) Keep(ds map[uint64]Delivery) {
	o.spill.all(func(e *spilled) bool {
		if d, ok := ds[unpack(e.place).Position]; ok && e.kept == nil {
			e.place, e.kept = 0, &d
			o.kept += d.Size()
		}
		return true
	})
}

// Move gives deliveries new positions, where to returns one.
func (o *Outbound) Move(to func(position uint64) (uint64, bool)) {
	move := func(p *uint64) {
		if *p != 0 {
			if q, ok := to(*p); ok {
				*p = q
			}
		}
	}
	for i := range o.table {
		move(&o.table[i].Position)
	}
	for i := range o.queue.n {
		move(&o.queue.buf[o.queue.index(i)].Position)
	}
	o.spill.all(func(e *spilled) bool {
		if e.kept != nil {
			move(&e.kept.Position)
			return true
		}
		p := unpack(e.place)
		move(&p.Position)
		e.place = pack(p)
		return true
	})
}

// Needed yields the position of every delivery whose message is still needed, as often as it is. One that was taken out of a handshake,
// or of QoS 2 that the peer has, is not.
func (o *Outbound) Needed() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i := range o.table {
			if s := &o.table[i]; s.Position != 0 && s.needed() && !yield(s.Position) {
				return
			}
		}
		for i := range o.queue.n {
			if p := o.queue.buf[o.queue.index(i)].Position; p != 0 && !yield(p) {
				return
			}
		}
		o.spill.all(func(e *spilled) bool {
			if e.kept == nil {
				return yield(unpack(e.place).Position)
			}
			return e.kept.Position == 0 || yield(e.kept.Position)
		})
	}
}

func (s *slot) needed() bool { return s.Message != nil || s.missing }

// Needs reports whether the message in flight under an identifier is still needed.
func (o *Outbound) Needs(id uint16) bool {
	s := o.find(id)
	return s != nil && s.needed()
}

// Waiting is one delivery in flight or in the queue, as an owner writes it down.
type Waiting struct {
	Place
	PacketID uint16 // in flight; 0 for one that waits
	Received bool   // PUBREC has come
}

// Waiting yields every delivery that is in flight or waits, the released ones of QoS 2 included, with those whose message was taken
// out: only PUBREL is due to them. The Position is 0 for those that the owner's store does not have.
func (o *Outbound) Waiting() iter.Seq[Waiting] {
	return func(yield func(Waiting) bool) {
		for _, l := range [...]list{o.release, o.publish} {
			for id := l.head; id != 0; id = o.at(id).next {
				s := o.at(id)
				over := !s.needed()
				if over && s.QoS == mqtt.AtLeastOnce {
					continue // nobody but this connection has to know of it
				}
				if !yield(Waiting{s.place(), id, over}) {
					return
				}
			}
		}
		for i := range o.queue.n {
			if !yield(Waiting{Place: o.queue.buf[o.queue.index(i)].place()}) {
				return
			}
		}
		o.spill.all(func(e *spilled) bool {
			if e.kept != nil {
				return yield(Waiting{Place: e.kept.place()})
			}
			return yield(Waiting{Place: unpack(e.place)})
		})
	}
}

// ExpectPlaces makes room for n calls of [Outbound.PushPlace] while nothing waits.
func (o *Outbound) ExpectPlaces(n int) {
	if o.spill.n == 0 && n > 0 {
		o.spill.expect(n)
	}
}

// PushPlace adds a delivery without its message behind all others, when an owner restores a session. bytes is its size, as far as
// that is known.
func (o *Outbound) PushPlace(p Place, bytes int) {
	o.spill.push(spilled{place: pack(p)})
	o.spilled += bytes
}

// RestoreSent puts a message of QoS 2 in flight as it was under that identifier before a restart: sent, or received by the peer.
// The owner fills in the message of one that was only sent, see [Outbound.Missing], before the next connection.
func (o *Outbound) RestoreSent(id uint16, position uint64, received bool) {
	for len(o.table) == 0 || o.at(id).id != 0 && o.at(id).id != id {
		o.grow()
	}
	s := o.at(id)
	if s.id == id {
		return
	}
	*s = slot{Delivery: Delivery{QoS: mqtt.ExactlyOnce, Position: position}, id: id, released: received, waiting: true, missing: !received}
	o.count++
	o.last = id
	if received {
		o.link(s, &o.release)
	} else {
		o.link(s, &o.publish)
	}
}

// Missing yields the identifiers and positions of messages in flight that the owner has to fill in.
func (o *Outbound) Missing() iter.Seq2[uint16, uint64] {
	return func(yield func(uint16, uint64) bool) {
		for id := o.publish.head; id != 0; id = o.at(id).next {
			if s := o.at(id); s.missing && !yield(id, s.Position) {
				return
			}
		}
	}
}

// Fill gives a restored message in flight its content; a nil Message means that it is gone.
func (o *Outbound) Fill(id uint16, d Delivery) {
	s := o.find(id)
	if s == nil || !s.missing {
		return
	}
	unloaded := s.size > 0
	s.missing = false
	o.unloaded -= s.size
	o.inFlight -= s.size
	s.size = 0
	switch {
	case d.Message == nil:
		return
	case unloaded:
		s.Message = d.Message
	default:
		s.Delivery = d
	}
	o.inFlight += s.Size()
}

// Queued returns how many deliveries wait and how many bytes they have.
func (o *Outbound) Queued() (messages, bytes int) {
	return o.queue.n + o.spill.n, o.queue.bytes + o.spilled
}

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
		o.inFlight -= d.Size()
	}
	o.inFlight -= s.size
	o.unloaded -= s.size
	s.size = 0
	s.Delivery = Delivery{QoS: d.QoS, Position: d.Position}
	return d
}

// drop frees the place.
func (o *Outbound) drop(s *slot, from *list) Delivery {
	d := o.forget(s)
	o.unlink(s, from)
	*s = slot{}
	if o.count--; o.count == 0 && len(o.table) > keepTable {
		freeTable(o.table)
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
	o.table = newTable(max(4, 2*len(old)))
	for i := range old {
		if old[i].id != 0 {
			*o.at(old[i].id) = old[i]
		}
	}
	clear(old)
	freeTable(old)
}

// tables are empty ones that nobody needs now, by the binary logarithm of their size. A busy session fills one and empties it many times a
// second.
var tables [17]sync.Pool

func newTable(size int) []slot {
	if t, ok := tables[bits.Len(uint(size))-1].Get().(*[]slot); ok {
		return *t
	}
	return make([]slot, size)
}

// freeTable takes an empty table back.
func freeTable(t []slot) {
	if len(t) > keepTable {
		tables[bits.Len(uint(len(t)))-1].Put(&t)
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
