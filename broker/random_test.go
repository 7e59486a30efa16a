package broker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// The random test: publishers and subscribers that lose their connections at any moment, take themselves over and come
// back, all at the same time, against an oracle that knows who must receive what. Subscriptions change between rounds, when
// all is quiet; within a round everything is random.

// sample is one message of a round.
type sample struct {
	publisher, number int
	name              string
	qos               mqtt.QoS
}

func (s sample) String() string { return fmt.Sprintf("%d.%d", s.publisher, s.number) }

// sender is a publisher that keeps to the rules: what was not acknowledged it sends again.
type sender struct {
	*client
	rnd   *rand.Rand
	index int
	wild  bool // loses connections
	count int
	sent  []sample
}

// reconnect loses the connection, as the case may be by taking itself over, and comes back.
func reconnect(c *client, rnd *rand.Rand) *client {
	c.Helper()
	if rnd.IntN(2) == 0 {
		_ = c.nc.Close()
	}
	return c.rig.connect(c.v, c.id, resume, lasting(600))
}

// batch publishes some messages at once and goes through their handshakes.
func (x *sender) batch() {
	x.Helper()
	var all []sample
	for range 1 + x.rnd.IntN(8) {
		x.count++
		all = append(all, sample{x.index, x.count, fmt.Sprint("t/", x.rnd.IntN(3)), mqtt.QoS(x.rnd.IntN(3))})
	}
	x.sent = append(x.sent, all...)
	x.send(x.packets(all, false))
	for x.wild && x.rnd.IntN(5) == 0 {
		x.client = reconnect(x.client, x.rnd)
		x.send(x.packets(all, true))
	}
	var release []byte
	for i, m := range all {
		switch m.qos {
		case mqtt.AtLeastOnce:
			x.wantAck(mqtt.PUBACK, uint16(i+1))
		case mqtt.ExactlyOnce:
			x.wantAck(mqtt.PUBREC, uint16(i+1))
			a := mqtt.Ack{Type: mqtt.PUBREL, PacketID: uint16(i + 1)}
			release = a.Append(release, x.v)
		}
	}
	x.send(release)
	for x.wild && x.rnd.IntN(5) == 0 {
		x.client = reconnect(x.client, x.rnd)
		x.send(release)
	}
	for i, m := range all {
		if m.qos == mqtt.ExactlyOnce {
			x.wantAck(mqtt.PUBCOMP, uint16(i+1))
		}
	}
}

// packets are the PUBLISH packets of a batch, QoS 0 the first time only.
func (x *sender) packets(all []sample, again bool) (b []byte) {
	for i, m := range all {
		p := post(m.name, m.String(), m.qos)
		p.PacketID, p.Dup = uint16(i+1), again
		if m.qos > 0 || !again {
			b = p.Append(b, x.v)
		}
	}
	return b
}

// receiver is a subscriber that keeps to the rules of QoS 2.
type receiver struct {
	*client
	rnd     *rand.Rand
	wild    bool
	filters map[string]mqtt.QoS
	open    map[uint16]bool // QoS 2 received and not released
	got     []mqtt.Publish  // of the round
}

// round receives until the message that ends the round.
func (x *receiver) round(end string) {
	x.Helper()
	for {
		p, err := x.next()
		if err != nil {
			x.Fatalf("%s: %v", x.id, err)
		}
		if m, ok := p.(mqtt.Publish); ok && x.message(m) && string(m.Payload) == end {
			return
		}
		if a, ok := p.(mqtt.Ack); ok {
			delete(x.open, a.PacketID)
			x.ack(mqtt.PUBCOMP, a.PacketID, 0)
		}
		if x.wild && x.rnd.IntN(25) == 0 {
			x.client = reconnect(x.client, x.rnd)
		}
	}
}

// message takes a PUBLISH and reports whether it was acknowledged; before that the connection may be lost.
func (x *receiver) message(m mqtt.Publish) bool {
	x.Helper()
	if !x.open[m.PacketID] || m.QoS != mqtt.ExactlyOnce {
		x.got = append(x.got, m)
	}
	if m.QoS == mqtt.ExactlyOnce {
		x.open[m.PacketID] = true
	}
	if x.wild && x.rnd.IntN(25) == 0 {
		x.client = reconnect(x.client, x.rnd)
		return false
	}
	x.answer(m)
	return true
}

// resubscribe changes some subscriptions.
func (x *receiver) resubscribe() {
	x.Helper()
	for _, filter := range []string{"t/0", "t/1", "t/+", "#", "+/2", "t/#"} {
		switch x.rnd.IntN(4) {
		case 0:
			x.filters[filter] = mqtt.QoS(x.rnd.IntN(3))
			x.quietSubscribe(sub(filter, x.filters[filter]))
		case 1:
			delete(x.filters, filter)
			x.send((&mqtt.Unsubscribe{PacketID: 1, Filters: []string{filter}}).Append(nil, x.v))
			x.skipTo(func(p any) bool { _, ok := p.(mqtt.Unsuback); return ok })
		}
	}
	x.quietSubscribe(sub("end", 1))
}

func (x *receiver) quietSubscribe(s mqtt.Subscription) {
	x.Helper()
	x.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{s}}).Append(nil, x.v))
	x.skipTo(func(p any) bool { _, ok := p.(mqtt.Suback); return ok })
}

// skipTo finishes open handshakes until a packet comes.
func (x *receiver) skipTo(wanted func(any) bool) {
	x.Helper()
	for {
		p, err := x.next()
		if err != nil {
			x.Fatalf("%s: %v", x.id, err)
		}
		if wanted(p) {
			return
		}
		switch p := p.(type) {
		case mqtt.Ack:
			delete(x.open, p.PacketID)
			x.ack(mqtt.PUBCOMP, p.PacketID, 0)
		case mqtt.Publish: // the end of the round once more, or one that is known
			if string(p.Topic) != "end" && !x.open[p.PacketID] && !p.Dup {
				x.Fatalf("%s: late message %q", x.id, p.Payload)
			}
			x.answer(p)
		}
	}
}

// check compares what came in a round with the oracle.
func (x *receiver) check(sent []sample, calm bool) error {
	type stream struct {
		publisher int
		name      string
		qos       mqtt.QoS
	}
	times, last, level := make(map[string]int), make(map[stream]int), make(map[string]mqtt.QoS)
	for _, m := range x.got {
		if string(m.Topic) == "end" {
			continue
		}
		payload := string(m.Payload)
		var s sample
		if _, err := fmt.Sscanf(payload, "%d.%d", &s.publisher, &s.number); err != nil {
			return fmt.Errorf("got %q: %w", payload, err)
		}
		if times[payload]++; times[payload] > 1 {
			continue
		}
		st := stream{s.publisher, string(m.Topic), m.QoS}
		if s.number < last[st] && m.QoS > 0 {
			return fmt.Errorf("%s on %s at QoS %d after %d", payload, m.Topic, m.QoS, last[st])
		}
		last[st], level[payload] = s.number, m.QoS
	}
	for _, s := range sent {
		qos, wanted := x.wants(s)
		n := times[s.String()]
		switch {
		case !wanted && n > 0:
			return fmt.Errorf("%v on %s came, nobody asked for it", s, s.name)
		case !wanted:
		case n > 0 && level[s.String()] != qos:
			return fmt.Errorf("%v came at QoS %d, not %d", s, level[s.String()], qos)
		case qos == mqtt.ExactlyOnce && n != 1, calm && n != 1:
			return fmt.Errorf("%v at QoS %d came %d times", s, qos, n)
		case qos == mqtt.AtLeastOnce && n == 0:
			return fmt.Errorf("%v at QoS 1 did not come", s)
		case qos == mqtt.AtMostOnce && s.qos != mqtt.AtLeastOnce && n > 1:
			return fmt.Errorf("%v at QoS 0 came %d times", s, n)
		}
		delete(times, s.String())
	}
	if len(times) > 0 {
		return fmt.Errorf("never sent: %v", times)
	}
	return nil
}

// wants returns the QoS at which the receiver is to get the message.
func (x *receiver) wants(s sample) (qos mqtt.QoS, wanted bool) {
	for filter, most := range x.filters {
		if topic.Match(filter, s.name) {
			qos, wanted = max(qos, min(most, s.qos)), true
		}
	}
	return qos, wanted
}

func TestRandom(t *testing.T) {
	for seed := range uint64(12) {
		playRandom(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func playRandom(t *testing.T, seed uint64) {
	rnd := func(of int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(of))) }
	chance := rnd(0)
	r := newTCPRig(t, Config{Limits: Limits{MaxInflight: 1 + chance.IntN(20)}})
	var senders []*sender
	var receivers []*receiver
	for i := range 4 {
		c := r.connect(versions[1+i%2], fmt.Sprint("s", i), resume, lasting(600))
		senders = append(senders, &sender{client: c, rnd: rnd(100 + i), index: i})
	}
	for i := range 5 {
		c := r.connect(versions[1+i%2], fmt.Sprint("r", i), resume, lasting(600))
		receivers = append(receivers, &receiver{
			client: c, rnd: rnd(200 + i), filters: make(map[string]mqtt.QoS), open: make(map[uint16]bool),
		})
	}
	for round := range 6 {
		calm := round%3 == 0
		for _, x := range receivers {
			x.resubscribe()
			x.got, x.wild = nil, !calm
		}
		sent := playRound(r, senders, receivers, fmt.Sprint("end ", round), !calm)
		if t.Failed() {
			return
		}
		for _, x := range receivers {
			if err := x.check(sent, calm); err != nil {
				t.Errorf("seed %d, round %d, %s: %v", seed, round, x.id, err)
			}
		}
	}
	for _, x := range receivers {
		for range 2 {
			x.send(mqtt.AppendPingreq(nil))
			x.skipTo(func(p any) bool { _, ok := p.(pong); return ok })
		}
		if len(x.open) > 0 {
			t.Errorf("seed %d, %s: handshakes that nobody ends: %v", seed, x.id, x.open)
		}
	}
	if st := r.b.Stats(); st.QueuedMessages != 0 || st.QueuedBytes != 0 {
		t.Errorf("seed %d: %d messages of %d bytes are said to wait", seed, st.QueuedMessages, st.QueuedBytes)
	}
}

// playRound lets all senders send and all receivers receive, and returns what was sent.
func playRound(r *rig, senders []*sender, receivers []*receiver, end string, wild bool) (sent []sample) {
	var receiving, sending sync.WaitGroup
	for _, x := range receivers {
		receiving.Go(func() { x.round(end) })
	}
	for _, x := range senders {
		x.wild, x.sent = wild, nil
		sending.Go(func() {
			for range 12 {
				x.batch()
			}
			x.barrier()
		})
	}
	sending.Wait()
	_ = r.b.Publish(&mqtt.Message{Topic: "end", Payload: []byte(end), QoS: 1})
	receiving.Wait()
	for _, x := range senders {
		sent = append(sent, x.sent...)
	}
	return sent
}
