//go:build torture

package torture

import (
	"errors"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// subscriber has a session that stays, and checks what it is sent against the order of each stream: a number that was left out is a
// message that was lost or overtaken. It remembers which packet identifiers of QoS 2 it has received, as the protocol wants of it.
type subscriber struct {
	client
	qos    mqtt.QoS // of its subscriptions
	window uint32   // Receive Maximum, 0 for none

	got      map[stream]int         // the last number of each stream
	wills    map[string]map[int]int // by Topic Name: how often each came
	received map[uint16]string      // QoS 2: what came under each identifier that is not released
	ready    chan struct{}          // closed when it has subscribed
}

// filters is what it subscribes to.
var filters = []string{"t/#", "r/#", "w/+"}

// run receives until everything that was published is there.
func (s *subscriber) run() {
	s.connect()
	s.subscribe()
	quietRounds := 0
	for s.ctx.Err() == nil && quietRounds < 3 {
		if s.complete() {
			quietRounds++
			s.ping()
			continue
		}
		s.work()
	}
	if s.link != nil {
		_ = s.link.nc.Close()
	}
}

// connect connects; the broker then sends again what it has to.
func (s *subscriber) connect() {
	s.link, _ = s.dial(func(int64) mqtt.Connect {
		r := s.request()
		if s.v == mqtt.V5 && s.window > 0 {
			r.Props = r.Props.WithInt(mqtt.ReceiveMaximum, s.window)
		}
		return r
	})
}

// reconnect follows the end of a connection.
func (s *subscriber) reconnect(err error) {
	if errors.Is(err, errStuck) && s.last.Load() {
		s.fail("%s: never came: %q", s.id, s.missing())
	}
	s.judge(err)
	_ = s.link.nc.Close()
	s.connect()
}

// subscribe subscribes until that is acknowledged.
func (s *subscriber) subscribe() {
	p := mqtt.Subscribe{PacketID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: f, QoS: s.qos})
	}
	s.link.out = p.Append(s.link.out, s.v)
	s.link.flush()
	packet, err := s.link.next()
	if ack, ok := packet.(mqtt.Suback); err != nil || !ok || len(ack.Codes) != len(filters) || ack.Codes[0] != mqtt.ReasonCode(s.qos) {
		s.fail("%s: SUBSCRIBE answered with %+v, %v", s.id, packet, err)
		return
	}
	s.known = true
	close(s.ready)
}

// work handles one packet. Acknowledgements are written when there is nothing else to read; a connection that ends before takes
// them with it.
func (s *subscriber) work() {
	switch s.mood(600) {
	case drop:
		_ = s.link.nc.Close()
		s.pause(50 * time.Millisecond)
		s.connect()
	case bow:
		s.link.leave()
		s.pause(50 * time.Millisecond)
		s.connect()
	case oust:
		old := s.link
		s.connect()
		_ = old.nc.Close()
	}
	if s.link == nil {
		return
	}
	if !s.link.buffered() {
		s.link.flush()
	}
	packet, err := s.link.next()
	if err != nil {
		s.reconnect(err)
		return
	}
	s.handle(packet)
}

// ping writes what is to be written and handles what comes before the answer.
func (s *subscriber) ping() {
	s.link.out = mqtt.AppendPingreq(s.link.out)
	s.link.flush()
	for s.ctx.Err() == nil {
		packet, err := s.link.next()
		if err != nil {
			s.fail("%s: after everything had come: %v", s.id, err)
			return
		}
		if _, ok := packet.(pong); ok {
			return
		}
		s.handle(packet)
		s.link.flush()
	}
}

// handle takes one packet.
func (s *subscriber) handle(packet any) {
	switch p := packet.(type) {
	case mqtt.Publish:
		s.take(&p)
	case mqtt.Ack:
		if p.Type != mqtt.PUBREL {
			s.fail("%s: got %s", s.id, p.Type)
		}
		delete(s.received, p.PacketID) // a second PUBREL is answered as the first
		s.link.ack(mqtt.PUBCOMP, p.PacketID)
	default:
		s.fail("%s: got %+v", s.id, packet)
	}
}

// take takes one message.
func (s *subscriber) take(p *mqtt.Publish) {
	switch p.QoS {
	case mqtt.AtLeastOnce:
		s.link.ack(mqtt.PUBACK, p.PacketID)
	case mqtt.ExactlyOnce:
		s.link.ack(mqtt.PUBREC, p.PacketID)
		if s.again(p) {
			return
		}
	default:
		s.fail("%s: message on %q with QoS 0", s.id, p.Topic)
		return
	}
	s.arrived()
	if len(p.Payload) > 0 {
		s.check(p)
	}
}

// again reports whether a message of QoS 2 came before: under an identifier that is not released only the same one may come,
// and only as a duplicate [MQTT-4.3.3-2].
func (s *subscriber) again(p *mqtt.Publish) bool {
	what := string(p.Topic) + " " + string(p.Payload)
	before, ok := s.received[p.PacketID]
	if !ok {
		s.received[p.PacketID] = what
		return false
	}
	if !p.Dup || before != what {
		s.fail("%s: packet %d (DUP %v) is %.60q, but %.60q has not been released", s.id, p.PacketID, p.Dup, what, before)
	}
	return true
}

// check compares a message with what came before it.
func (s *subscriber) check(p *mqtt.Publish) {
	qos, n, err := readBody(p.Payload)
	if err != nil {
		s.fail("%s: on %q: %v", s.id, p.Topic, err)
		return
	}
	if p.Topic[0] == 'w' {
		s.takeWill(string(p.Topic), n, p.QoS)
		return
	}
	if p.QoS != min(qos, s.qos) {
		s.fail("%s: %q was published with QoS %d and came with QoS %d", s.id, p.Topic, qos, p.QoS)
	}
	st := stream{string(p.Topic), qos}
	last := s.got[st]
	switch want := st.after(last); {
	case n == want:
		s.got[st] = n
	case n > want:
		s.fail("%s: %v: message %d came after %d (DUP %v); %d was acknowledged to its publisher: %v",
			s.id, st, n, last, p.Dup, want, s.isAcknowledged(st, want))
	case p.QoS == mqtt.ExactlyOnce:
		s.fail("%s: %v: message %d came again after %d (packet %d, DUP %v)", s.id, st, n, last, p.PacketID, p.Dup)
	}
}

func (s *subscriber) takeWill(name string, n int, qos mqtt.QoS) {
	if s.wills[name] == nil {
		s.wills[name] = make(map[int]int)
	}
	if s.wills[name][n]++; s.wills[name][n] > 1 && qos == mqtt.ExactlyOnce {
		s.fail("%s: Will %d on %q came twice", s.id, n, name)
	}
}

// complete reports whether everything that was published is here, once everything is.
func (s *subscriber) complete() bool {
	if !s.last.Load() || s.link == nil {
		return false
	}
	return len(s.missing()) == 0
}
