package torture

import (
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// subscriber has a session that stays, and a book in which it enters what it is sent. It remembers which packet identifiers of
// QoS 2 it has received, as the protocol wants of it.
type subscriber struct {
	client
	book
	filters  []string
	qos      mqtt.QoS // of its subscriptions
	window   uint32   // Receive Maximum, 0 for none
	restless int      // in one of so many steps it changes its connection

	count    int               // of messages that came
	received map[uint16]string // QoS 2: what came under each identifier that is not released
	ready    chan struct{}     // closed when it has subscribed
}

// book checks messages as they arrive, and knows what is still to come.
type book interface {
	enter(p *mqtt.Publish) error // a duplicate of QoS 2 does not get here
	missing() []string           // of what was published, once everything is
	close() error                // what can be said only at the end
}

// run receives until everything that was published is there, and nothing more comes.
func (s *subscriber) run() {
	s.connect()
	s.subscribe()
	for s.ctx.Err() == nil && !s.last.Load() {
		s.work()
	}
	came := time.Now()
	for quiet := 0; s.ctx.Err() == nil && quiet < 3; {
		before := s.count
		switch answered := s.ping(); {
		case s.count > before:
			came = time.Now()
		case answered && len(s.missing()) == 0:
			quiet++
		case time.Since(came) > patience:
			missing := s.missing()
			s.stuck("%s: %d never came: %q", s.id, len(missing), missing[:min(len(missing), 10)])
		default:
			s.pause(20 * time.Millisecond)
		}
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
	s.ended(s.link, err)
	s.connect()
}

// subscribe subscribes. The broker is not killed before everybody has.
func (s *subscriber) subscribe() {
	if s.link == nil {
		return
	}
	p := mqtt.Subscribe{PacketID: 1}
	for _, f := range s.filters {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: f, QoS: s.qos})
	}
	s.link.out = p.Append(s.link.out, s.v)
	s.link.flush()
	packet, err := s.link.next()
	if ack, ok := packet.(mqtt.Suback); err != nil || !ok || len(ack.Codes) != len(s.filters) || ack.Codes[0] != mqtt.ReasonCode(s.qos) {
		s.fail("%s: SUBSCRIBE answered with %+v, %v", s.id, packet, err)
		return
	}
	s.known = true
	close(s.ready)
}

// work does one thing and does not wait after it has connected: nothing more may come, and nobody but the end of a connection wakes it.
func (s *subscriber) work() {
	switch s.mood(s.restless) {
	case drop:
		_ = s.link.nc.Close()
		s.pause(50 * time.Millisecond)
		s.connect()
	case bow:
		s.leave(mqtt.Success)
		s.pause(50 * time.Millisecond)
		s.connect()
	case oust:
		s.takeOver(s.connect)
	case stay:
		s.one()
	}
}

// one handles one packet. Acknowledgements are written when there is nothing else to read; a connection that ends before takes them
// with it.
func (s *subscriber) one() {
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

// ping writes what is to be written and handles what comes before the answer. It reports whether that came.
func (s *subscriber) ping() bool {
	if s.link == nil {
		return false
	}
	s.link.out = mqtt.AppendPingreq(s.link.out)
	s.link.flush()
	for s.ctx.Err() == nil {
		packet, err := s.link.next()
		if err != nil {
			s.reconnect(err)
			return false
		}
		if _, ok := packet.(pong); ok {
			return true
		}
		s.handle(packet)
		s.link.flush()
	}
	return false
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
	s.count++
	s.arrived()
	if err := s.enter(p); err != nil {
		s.fail("%s: on %q, packet %d, DUP %v: %v", s.id, p.Topic, p.PacketID, p.Dup, err)
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
