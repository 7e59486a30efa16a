package session

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// message makes a delivery that carries the number n, its size depending on it.
func message(n int, qos mqtt.QoS) Delivery {
	payload := binary.BigEndian.AppendUint32(nil, uint32(n))
	payload = append(payload, make([]byte, n%5)...)
	return Delivery{Message: &mqtt.Message{Topic: "a/b", Payload: payload, Props: make(mqtt.Properties, n%3)}, QoS: qos}
}

func number(d Delivery) int { return int(binary.BigEndian.Uint32(d.Message.Payload)) }

func same(a, b Delivery) bool { return a.Message == b.Message && a.QoS == b.QoS }

// flight is a message in flight as the reference remembers it.
type flight struct {
	Delivery // without a message when it was taken out
	id       uint16
	here     bool // its PUBLISH or PUBREL was sent on this connection
}

func (f flight) gone() bool { return f.Message == nil }

// reference is Outbound as one would explain it: three lists, searched from the front.
type reference struct {
	window  int
	waiting []Delivery // not sent yet
	publish []flight   // PUBACK or PUBREC is due, in order of sending
	release []flight   // PUBCOMP is due, in order of the PUBRECs
}

func (r *reference) connected(window int) {
	r.window = window
	r.end(flight.gone)
	for i := range r.publish {
		r.publish[i].here = false
	}
	for i := range r.release {
		r.release[i].here = true
	}
}

// end takes handshakes out of publish; those of QoS 2 still need PUBREL and PUBCOMP.
func (r *reference) end(which func(flight) bool) {
	for _, f := range r.publish {
		if which(f) && f.QoS == mqtt.ExactlyOnce {
			r.release = append(r.release, flight{id: f.id})
		}
	}
	r.publish = slices.DeleteFunc(r.publish, which)
}

func (r *reference) unacked() (n int) {
	for _, f := range slices.Concat(r.publish, r.release) {
		if f.here {
			n++
		}
	}
	return n
}

func (r *reference) full() bool { return r.unacked() >= r.window }

// again returns the index of the first message to send again, or -1.
func (r *reference) again() int {
	return slices.IndexFunc(r.publish, func(f flight) bool { return !f.here })
}

func (r *reference) peek() (d Delivery, ok bool) {
	if i := r.again(); i >= 0 {
		return r.publish[i].Delivery, true
	} else if len(r.waiting) > 0 {
		return r.waiting[0], true
	}
	return Delivery{}, false
}

func (r *reference) skip() {
	if i := r.again(); i >= 0 {
		r.end(byID(r.publish[i].id))
		return
	}
	r.waiting = r.waiting[1:]
}

func byID(id uint16) func(flight) bool { return func(f flight) bool { return f.id == id } }

func (r *reference) inUse(id uint16) bool {
	return slices.ContainsFunc(r.publish, byID(id)) || slices.ContainsFunc(r.release, byID(id))
}

func (r *reference) acknowledge(id uint16) (d Delivery, known bool, err error) {
	i := slices.IndexFunc(r.publish, byID(id))
	switch {
	case slices.ContainsFunc(r.release, byID(id)), i >= 0 && r.publish[i].QoS == mqtt.ExactlyOnce:
		return Delivery{}, true, mqtt.ProtocolError
	case i < 0:
		return Delivery{}, false, nil
	}
	d = r.publish[i].Delivery
	r.publish = slices.Delete(r.publish, i, i+1)
	if d.Message == nil {
		return Delivery{QoS: d.QoS}, false, nil
	}
	return d, true, nil
}

func (r *reference) received(id uint16, code mqtt.ReasonCode) (reply mqtt.ReasonCode, done bool, err error) {
	if slices.ContainsFunc(r.release, byID(id)) {
		return mqtt.Success, false, nil
	}
	i := slices.IndexFunc(r.publish, byID(id))
	switch {
	case i < 0:
		return mqtt.PacketIdentifierNotFound, code.Failed(), nil
	case r.publish[i].QoS == mqtt.AtLeastOnce:
		return 0, false, mqtt.ProtocolError
	}
	r.publish = slices.Delete(r.publish, i, i+1)
	if !code.Failed() {
		r.release = append(r.release, flight{id: id, here: true})
	}
	return mqtt.Success, code.Failed(), nil
}

func (r *reference) complete(id uint16) (known bool, err error) {
	if slices.ContainsFunc(r.publish, byID(id)) {
		return true, mqtt.ProtocolError
	}
	known = slices.ContainsFunc(r.release, byID(id))
	r.release = slices.DeleteFunc(r.release, byID(id))
	return known, nil
}

func (r *reference) remove(gone func(d Delivery, started bool) bool) (removed int) {
	again := map[uint16]bool{} // those that this connection has not sent again
	for i, f := range r.publish {
		if !f.gone() && gone(f.Delivery, true) {
			removed++
			r.publish[i].Message = nil
			again[f.id] = !f.here
		}
	}
	r.end(func(f flight) bool { return again[f.id] })
	waiting := len(r.waiting)
	r.waiting = slices.DeleteFunc(r.waiting, func(d Delivery) bool { return gone(d, false) })
	return removed + waiting - len(r.waiting)
}

// String shows the state in short: identifier, QoS, + when it was sent on this connection, - when its message is gone.
func (r reference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "window %d, %d wait, publish", r.window, len(r.waiting))
	for _, f := range r.publish {
		fmt.Fprintf(&b, " %d:%d%s%s", f.id, f.QoS, mark(f.here, "+"), mark(f.gone(), "-"))
	}
	b.WriteString(", release")
	for _, f := range r.release {
		fmt.Fprintf(&b, " %d%s", f.id, mark(f.here, "+"))
	}
	return b.String()
}

func mark(is bool, s string) string {
	if is {
		return s
	}
	return ""
}

// compared is an Outbound whose every answer is compared with that of the reference.
type compared struct {
	t   testing.TB
	out Outbound
	ref reference
}

func (c *compared) equal(what string, got, want any) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("%s: got %v, want %v; reference: %v", what, got, want, c.ref)
	}
}

func (c *compared) connected(window int) {
	c.t.Helper()
	c.out.Connected(window)
	c.ref.connected(window)
	c.check()
}

func (c *compared) push(d Delivery) {
	c.t.Helper()
	c.out.Push(d)
	c.ref.waiting = append(c.ref.waiting, d)
	c.check()
}

// sent notes a new message in flight, after the rules of its Packet Identifier.
func (c *compared) sent(id uint16, d Delivery) {
	c.t.Helper()
	if id == 0 || c.ref.inUse(id) { // [MQTT-2.2.1-3], [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1]
		c.t.Fatalf("packet identifier %d is zero or in use; reference: %v", id, c.ref)
	}
	c.ref.publish = append(c.ref.publish, flight{d, id, true})
}

// send sends at once when that is allowed.
func (c *compared) send(d Delivery) (id uint16, ok bool) {
	c.t.Helper()
	if !c.out.Open() {
		return 0, false
	}
	id = c.out.Send(d)
	c.sent(id, d)
	c.check()
	return id, true
}

func (c *compared) next() (id uint16, d Delivery, dup, ok bool) {
	c.t.Helper()
	id, d, dup, ok = c.out.Next()
	want, any := c.ref.peek()
	c.equal("Next: ok", ok, any && !c.ref.full()) // [MQTT-4.9.0-2]
	if !ok {
		return id, d, dup, ok
	}
	i := c.ref.again()
	c.equal("Next: message", same(d, want), true)
	c.equal("Next: dup", dup, i >= 0) // [MQTT-3.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2]
	if i >= 0 {
		c.equal("Next: packet identifier", id, c.ref.publish[i].id) // [MQTT-4.4.0-1]
		c.ref.publish[i].here = true
	} else {
		c.ref.waiting = c.ref.waiting[1:]
		c.sent(id, d)
	}
	c.check()
	return id, d, dup, ok
}

func (c *compared) skip() {
	c.t.Helper()
	c.out.Skip()
	c.ref.skip()
	c.check()
}

func (c *compared) acknowledge(id uint16) (known bool, err error) {
	c.t.Helper()
	d, known, err := c.out.Acknowledge(id)
	wantD, wantKnown, wantErr := c.ref.acknowledge(id)
	c.equal("Acknowledge", fmt.Sprint(same(d, wantD), known, err), fmt.Sprint(true, wantKnown, wantErr))
	c.check()
	return known, err
}

func (c *compared) received(id uint16, code mqtt.ReasonCode) (reply mqtt.ReasonCode, done bool, err error) {
	c.t.Helper()
	reply, done, err = c.out.Received(id, code)
	wantReply, wantDone, wantErr := c.ref.received(id, code)
	c.equal("Received", fmt.Sprint(reply, done, err), fmt.Sprint(wantReply, wantDone, wantErr))
	c.check()
	return reply, done, err
}

func (c *compared) complete(id uint16) (known bool, err error) {
	c.t.Helper()
	known, err = c.out.Complete(id)
	wantKnown, wantErr := c.ref.complete(id)
	c.equal("Complete", fmt.Sprint(known, err), fmt.Sprint(wantKnown, wantErr))
	c.check()
	return known, err
}

func (c *compared) remove(gone func(d Delivery, started bool) bool) (removed int) {
	c.t.Helper()
	removed = c.out.Remove(gone)
	c.equal("Remove", removed, c.ref.remove(gone))
	c.check()
	return removed
}

// check compares everything that can be asked, and looks at the tables inside.
func (c *compared) check() {
	c.t.Helper()
	d, dup, ok := c.out.Peek()
	want, wantOK := c.ref.peek()
	c.equal("Peek", ok == wantOK && same(d, want), true)
	c.equal("Peek: dup", dup, c.ref.again() >= 0)
	c.equal("Ready", c.out.Ready(), wantOK && !c.ref.full())
	c.equal("Open", c.out.Open(), !wantOK && !c.ref.full())
	c.checkLists()
	c.checkCounts()
	if broken := broken(&c.out); broken != "" {
		c.t.Fatalf("broken invariant: %s; reference: %v", broken, c.ref)
	}
}

func (c *compared) checkLists() {
	c.t.Helper()
	var all []Delivery
	for _, f := range c.ref.publish {
		if !f.gone() {
			all = append(all, f.Delivery)
		}
	}
	all = append(all, c.ref.waiting...)
	c.equal("All", slices.EqualFunc(slices.Collect(c.out.All()), all, same), true)
	var released []uint16
	for _, f := range c.ref.release {
		released = append(released, f.id)
	}
	c.equal("Released", slices.Equal(slices.Collect(c.out.Released()), released), true) // [MQTT-4.6.0-4]
}

func (c *compared) checkCounts() {
	c.t.Helper()
	size := 0
	for _, d := range c.ref.waiting {
		size += d.Size()
	}
	c.equal("unacknowledged", c.out.unacked, c.ref.unacked())
	n, bytes := c.out.Queued()
	c.equal("Queued", [2]int{n, bytes}, [2]int{len(c.ref.waiting), size})
	size = 0
	for _, f := range c.ref.publish {
		if !f.gone() {
			size += f.Size()
		}
	}
	n, bytes = c.out.InFlight()
	c.equal("InFlight", [2]int{n, bytes}, [2]int{len(c.ref.publish) + len(c.ref.release), size})
}

// broken looks for a broken invariant of the tables and says which.
func broken(o *Outbound) string {
	if broken := brokenTable(o); broken != "" {
		return broken
	}
	publish, release := walk(o, &o.publish), walk(o, &o.release)
	waiting := 0
	for _, id := range publish {
		s := o.at(id)
		if s.released || s.waiting != (waiting > 0 || id == o.resend) || s.waiting && s.Message == nil {
			return fmt.Sprintf("place %d of publish", id)
		} else if s.waiting {
			waiting++
		}
	}
	if waiting == 0 && o.resend != 0 {
		return "resend"
	}
	for _, id := range release {
		if s := o.at(id); !s.released || s.Message != nil {
			return fmt.Sprintf("place %d of release", id)
		} else if s.waiting {
			waiting++
		}
	}
	switch {
	case len(publish)+len(release) != o.count:
		return "a place belongs to no list, or a list is torn"
	case o.unacked != o.count-waiting:
		return "unacked"
	}
	return ""
}

func brokenTable(o *Outbound) string {
	taken := 0
	for i := range o.table {
		if id := o.table[i].id; id != 0 {
			taken++
			if o.at(id) != &o.table[i] {
				return fmt.Sprintf("%d is in another's place", id)
			}
		}
	}
	switch n := len(o.table); {
	case n&(n-1) != 0:
		return "length of the table"
	case taken != o.count:
		return "count"
	case 2*taken > n || n > 1<<16:
		return "the table is more than half full"
	case taken == 0 && n > keepTable:
		return "an idle session keeps a large table"
	}
	return ""
}

// walk collects a list from front to back; it stops at a link that does not point back.
func walk(o *Outbound, l *list) (ids []uint16) {
	last := uint16(0)
	for id := l.head; id != 0 && o.at(id).id == id && o.at(id).prev == last; id = o.at(id).next {
		ids, last = append(ids, id), id
	}
	if last != l.tail {
		return nil
	}
	return ids
}

// arrival is a PUBLISH whose handshake is open, as the reference of the receiver remembers it.
type arrival struct {
	id   uint16
	qos  mqtt.QoS
	here bool // came on this connection
}

// comparedIn is an Inbound whose every answer is compared with a plain list.
type comparedIn struct {
	t    testing.TB
	in   Inbound
	max  int
	open []arrival
}

func (c *comparedIn) equal(what string, got, want any) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("%s: got %v, want %v; reference: %v", what, got, want, c.open)
	}
	if c.in.Open() != len(c.open) {
		c.t.Fatalf("%s: Open: got %d, want %d; reference: %v", what, c.in.Open(), len(c.open), c.open)
	}
}

func (c *comparedIn) find(id uint16, qos mqtt.QoS) int {
	return slices.IndexFunc(c.open, func(a arrival) bool { return a.id == id && a.qos == qos })
}

func (c *comparedIn) connected(max int) {
	c.t.Helper()
	c.in.Connected(max)
	c.max = max
	c.open = slices.DeleteFunc(c.open, func(a arrival) bool { return a.qos == mqtt.AtLeastOnce })
	for i := range c.open {
		c.open[i].here = false
	}
	c.equal("Connected", true, true)
}

func (c *comparedIn) receive(id uint16, qos mqtt.QoS, dup bool) (fresh bool, err error) {
	c.t.Helper()
	wantFresh, wantErr := c.expect(id, qos)
	fresh, err = c.in.Receive(&mqtt.Publish{PacketID: id, QoS: qos, Dup: dup})
	c.equal("Receive", fmt.Sprint(fresh, err), fmt.Sprint(wantFresh, wantErr))
	return fresh, err
}

func (c *comparedIn) expect(id uint16, qos mqtt.QoS) (fresh bool, err error) {
	here := 0
	for _, a := range c.open {
		if a.here {
			here++
		}
	}
	i := c.find(id, mqtt.ExactlyOnce)
	switch {
	case qos == mqtt.AtMostOnce:
		return true, nil
	case i >= 0 && qos == mqtt.AtLeastOnce:
		return false, mqtt.PacketIdentifierInUse
	case i >= 0 && c.open[i].here:
		return false, nil
	case here >= c.max:
		return false, mqtt.ReceiveMaximumExceeded
	case i >= 0:
		c.open[i].here = true
		return false, nil
	}
	c.open = append(c.open, arrival{id, qos, true})
	return true, nil
}

func (c *comparedIn) end(id uint16, qos mqtt.QoS) (known bool) {
	i := c.find(id, qos)
	if i >= 0 {
		c.open = slices.Delete(c.open, i, i+1)
	}
	return i >= 0
}

func (c *comparedIn) acknowledged(id uint16) {
	c.t.Helper()
	if !c.end(id, mqtt.AtLeastOnce) {
		c.t.Fatalf("the test acknowledges %d, which is not open", id)
	}
	c.in.Acknowledged()
	c.equal("Acknowledged", true, true)
}

func (c *comparedIn) refused(id uint16) {
	c.t.Helper()
	c.end(id, mqtt.ExactlyOnce)
	c.in.Refused(id)
	c.equal("Refused", true, true)
}

func (c *comparedIn) release(id uint16) mqtt.ReasonCode {
	c.t.Helper()
	want := mqtt.PacketIdentifierNotFound
	if c.end(id, mqtt.ExactlyOnce) {
		want = mqtt.Success
	}
	got := c.in.Release(id)
	c.equal("Release", got, want)
	return got
}
