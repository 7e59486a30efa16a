package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// packet is what the two peers of a walk exchange.
type packet struct {
	kind mqtt.PacketType
	id   uint16
	dup  bool
	code mqtt.ReasonCode
	Delivery
}

// peers are a sender and a receiver with a link between them that keeps order while it is up, and loses what is on its
// way when it breaks: TCP, as seen from above.
type peers struct {
	t   *testing.T
	rng *rand.Rand

	out *compared
	in  *comparedIn

	up         bool
	calm       bool     // no more mischief: everything is answered
	toReceiver []packet // on the way
	toSender   []packet
	stalled    []packet // answers that the receiver holds back

	sent    []mqtt.QoS   // the messages handed to the sender, by number
	arrived map[int]int  // how often each was delivered
	excused map[int]bool // may not arrive: expired, removed or refused
	seen    map[int]bool // came at least once, delivered or refused
	latest  int          // the highest number seen

	fresh  bool // a PUBLISH without DUP was sent on this connection
	resent int  // number of the last one sent again on it
}

func newPeers(t *testing.T, seed uint64) *peers {
	p := &peers{t: t, rng: rand.New(rand.NewPCG(seed, 1)), arrived: map[int]int{}, excused: map[int]bool{}, seen: map[int]bool{}, latest: -1}
	p.out, p.in = &compared{t: t}, &comparedIn{t: t}
	p.out.out.last = uint16(p.rng.Uint32()) // anywhere, so that identifiers wrap round in some walks
	return p
}

func (p *peers) chance(oneIn int) bool { return !p.calm && p.rng.IntN(oneIn) == 0 }

// connect opens the link with another window; what was on its way is lost, and PUBRELs go first.
func (p *peers) connect() {
	p.t.Helper()
	p.disconnect()
	window := 1 + p.rng.IntN(8)
	p.out.connected(window)
	p.in.connected(window)
	p.up, p.fresh, p.resent = true, false, -1
	for id := range p.out.out.Released() {
		p.toReceiver = append(p.toReceiver, packet{kind: mqtt.PUBREL, id: id}) // [MQTT-4.4.0-1]
	}
}

func (p *peers) disconnect() {
	p.up = false
	p.toReceiver, p.toSender, p.stalled = nil, nil, nil
}

// offer hands the sender a new message, which it sends at once when it can.
func (p *peers) offer() {
	p.t.Helper()
	d := message(len(p.sent), mqtt.AtLeastOnce+mqtt.QoS(p.rng.IntN(2)))
	p.sent = append(p.sent, d.QoS)
	if p.up && p.rng.IntN(2) == 0 {
		if id, ok := p.out.send(d); ok {
			p.transmit(packet{kind: mqtt.PUBLISH, id: id, Delivery: d})
			return
		}
	}
	p.out.push(d)
}

// send sends what is next, or skips it, because it has expired or does not fit.
func (p *peers) send() {
	p.t.Helper()
	if !p.up {
		return
	}
	if d, _, ok := p.out.out.Peek(); ok && p.chance(8) {
		p.excused[number(d)] = true
		p.out.skip()
		return
	}
	if id, d, dup, ok := p.out.next(); ok {
		p.transmit(packet{kind: mqtt.PUBLISH, id: id, dup: dup, Delivery: d})
	}
}

// transmit puts a PUBLISH on the link. Those sent again come first and in their order [MQTT-4.6.0-1].
func (p *peers) transmit(m packet) {
	p.t.Helper()
	if n := number(m.Delivery); m.dup && (p.fresh || n <= p.resent) {
		p.t.Fatalf("message %d was sent again after %d, or after a new one (%v)", n, p.resent, p.fresh)
	} else if m.dup {
		p.resent = n
	}
	p.fresh = p.fresh || !m.dup
	p.toReceiver = append(p.toReceiver, m)
}

// arrive lets the receiver take the next packet.
func (p *peers) arrive() {
	p.t.Helper()
	if len(p.toReceiver) == 0 {
		return
	}
	m := p.toReceiver[0]
	p.toReceiver = p.toReceiver[1:]
	if m.kind == mqtt.PUBREL {
		p.answer(packet{kind: mqtt.PUBCOMP, id: m.id, code: p.in.release(m.id)}) // [MQTT-4.3.3-11]
		return
	}
	fresh, err := p.in.receive(m.id, m.QoS, m.dup)
	if err != nil { // an honest sender is never over the window, nor mistaken about identifiers
		p.t.Fatalf("receiver refuses message %d: %v", number(m.Delivery), err)
	}
	n, code := number(m.Delivery), mqtt.Success
	p.inOrder(n)
	if fresh && p.chance(8) {
		code, p.excused[n] = mqtt.QuotaExceeded, true
	} else if fresh {
		p.arrived[n]++
	}
	p.acknowledge(m, code)
}

// inOrder checks that what comes for the first time comes in the order of the sender [MQTT-4.6.0-5].
func (p *peers) inOrder(n int) {
	p.t.Helper()
	if n < p.latest && !p.seen[n] {
		p.t.Fatalf("message %d came after %d", n, p.latest)
	}
	p.seen[n], p.latest = true, max(n, p.latest)
}

func (p *peers) acknowledge(m packet, code mqtt.ReasonCode) {
	p.t.Helper()
	if m.QoS == mqtt.AtLeastOnce {
		p.answer(packet{kind: mqtt.PUBACK, id: m.id, code: code})
		return
	}
	if code.Failed() {
		p.in.refused(m.id) // [MQTT-4.3.3-9]
	}
	p.answer(packet{kind: mqtt.PUBREC, id: m.id, code: code})
}

// answer puts an acknowledgement on the link, or stalls the handshake.
func (p *peers) answer(m packet) {
	p.t.Helper()
	if p.chance(5) {
		p.stalled = append(p.stalled, m)
		return
	}
	if m.kind == mqtt.PUBACK {
		p.in.acknowledged(m.id)
	}
	p.toSender = append(p.toSender, m)
}

// resume lets a stalled handshake go on.
func (p *peers) resume() {
	p.t.Helper()
	if len(p.stalled) > 0 {
		i := p.rng.IntN(len(p.stalled))
		m := p.stalled[i]
		p.stalled = slices.Delete(p.stalled, i, i+1)
		p.answer(m)
	}
}

// returned lets the sender take the next acknowledgement; none of an honest receiver is an error.
func (p *peers) returned() {
	p.t.Helper()
	if len(p.toSender) == 0 {
		return
	}
	m := p.toSender[0]
	p.toSender = p.toSender[1:]
	if err := p.take(m); err != nil {
		p.t.Fatalf("sender takes %v %d: %v", m.kind, m.id, err)
	}
	if p.chance(10) {
		p.again(m)
	}
}

// take gives an acknowledgement to the sender and sends the PUBREL that it asks for.
func (p *peers) take(m packet) error {
	p.t.Helper()
	switch m.kind {
	case mqtt.PUBACK:
		_, err := p.out.acknowledge(m.id)
		return err
	case mqtt.PUBREC:
		reply, done, err := p.out.received(m.id, m.code)
		if err == nil && !done {
			p.toReceiver = append(p.toReceiver, packet{kind: mqtt.PUBREL, id: m.id, code: reply})
		}
		return err
	}
	_, err := p.out.complete(m.id)
	return err
}

// again is the network or a hostile receiver saying the same thing twice, at once: nothing changes.
func (p *peers) again(m packet) {
	p.t.Helper()
	before, _ := p.out.out.InFlight()
	if err := p.take(m); err != nil {
		p.t.Fatalf("%v %d a second time: %v", m.kind, m.id, err)
	}
	if after, _ := p.out.out.InFlight(); after != before {
		p.t.Fatalf("%v %d a second time: %d in flight, then %d", m.kind, m.id, before, after)
	}
}

// attack is a receiver that answers what nobody asked, or with the wrong packet; an error ends the connection.
func (p *peers) attack() {
	p.t.Helper()
	if !p.up {
		return
	}
	m := packet{kind: mqtt.PUBACK + mqtt.PacketType(p.rng.IntN(2)), id: uint16(p.rng.Uint32())}
	if flying := p.out.ref.publish; len(flying) > 0 && p.rng.IntN(2) == 0 {
		f := flying[p.rng.IntN(len(flying))]
		m.id, m.kind = f.id, mqtt.PUBCOMP
		if f.QoS == mqtt.ExactlyOnce && p.rng.IntN(2) == 0 {
			m.kind = mqtt.PUBACK
		}
	} else if p.out.ref.inUse(m.id) {
		return
	}
	if err := p.take(m); err != nil {
		p.disconnect()
	}
}

// remove takes some messages back, such as a shared subscription that moves them to another member.
func (p *peers) remove() {
	p.t.Helper()
	mod, rest := 2+p.rng.IntN(6), p.rng.IntN(2)
	p.out.remove(func(d Delivery, _ bool) bool {
		gone := number(d)%mod == rest
		p.excused[number(d)] = p.excused[number(d)] || gone
		return gone
	})
}

// step does something at random.
func (p *peers) step() {
	p.t.Helper()
	switch n := p.rng.IntN(100); {
	case n < 22:
		p.offer()
	case n < 46:
		p.send()
	case n < 68:
		p.arrive()
	case n < 90:
		p.returned()
	case n < 93:
		p.resume()
	case n < 95:
		p.attack()
	case n < 96:
		p.remove()
	case n < 97:
		p.disconnect()
	case n < 98 || !p.up:
		p.connect()
	}
}

// settle ends the mischief, and lets the peers finish.
func (p *peers) settle() {
	p.t.Helper()
	p.calm = true
	p.connect()
	for rounds := 0; p.out.out.count > 0 || p.out.out.queue.n > 0; rounds++ {
		if rounds > 8*len(p.sent)+8 {
			p.t.Fatalf("it does not end: %v", p.out.ref)
		}
		p.send()
		p.arrive()
		p.returned()
	}
}

// judge looks at what came of every message, and at what is left.
func (p *peers) judge() {
	p.t.Helper()
	for n, qos := range p.sent {
		switch times := p.arrived[n]; {
		case times == 0 && !p.excused[n]:
			p.t.Errorf("message %d of QoS %d is lost", n, qos)
		case times > 1 && qos == mqtt.ExactlyOnce:
			p.t.Errorf("message %d of QoS 2 came %d times", n, times)
		}
	}
	if n := p.in.in.Open(); n != 0 {
		p.t.Errorf("receiver: %d handshakes are open at the end", n)
	}
	if o := &p.out.out; o.inFlight != 0 || o.queue.bytes != 0 || o.unacked != 0 {
		p.t.Errorf("sender: %d unacknowledged, %d and %d bytes at the end", o.unacked, o.inFlight, o.queue.bytes)
	}
}

// Two peers walk at random: messages of QoS 1 arrive at least once [MQTT-4.3.2-3], of QoS 2 exactly once [MQTT-4.3.3-10].
// Every answer on the way is compared with the reference.
func TestWalk(t *testing.T) {
	for seed := range uint64(250) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newPeers(t, seed)
			for range 20 + 3*seed {
				p.step()
			}
			p.settle()
			p.judge()
		})
	}
}
