package torture

import (
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// publisher sends numbered messages and, as the protocol wants, each one until it is acknowledged, on the next connection if it
// must be, under the same packet identifier and in the same order [MQTT-4.4.0-1], [MQTT-4.6.0-1]. Every connection has a Will.
type publisher struct {
	client
	streams  []stream
	window   int
	restless int       // in one of so many steps it changes its connection
	delay    uint32    // of its Wills, in seconds: so long that none must ever be published
	flights  []*flight // in the order in which they were sent
	will     int       // number of the Will of this connection
	left     int       // number of the Will that the last DISCONNECT took back, 0 for none
	leftIn   int64     // life of the broker in which that was
}

// flight is a message on its way.
type flight struct {
	stream
	n        int
	packet   mqtt.Publish
	received bool // PUBREC has come: only PUBREL may follow
}

func (p *publisher) willName() string { return "w/" + p.id }

// run publishes until the world is quiet and nothing is on its way.
func (p *publisher) run() {
	p.connect()
	for p.ctx.Err() == nil {
		if p.quiet.Load() && len(p.flights) == 0 {
			p.bow()
			return
		}
		p.work()
	}
}

// work fills the window and handles one packet.
func (p *publisher) work() {
	switch p.mood(p.restless) {
	case drop:
		_ = p.link.nc.Close()
		p.pause(20 * time.Millisecond)
		p.connect()
	case bow:
		p.bow()
		p.pause(20 * time.Millisecond)
		p.connect()
	case oust:
		p.takeOver(p.connect)
	}
	if p.link == nil {
		return
	}
	for len(p.flights) < p.window && !p.quiet.Load() {
		p.launch()
	}
	p.link.flush()
	if len(p.flights) == 0 {
		return
	}
	packet, err := p.link.next()
	if err == nil {
		p.handle(packet)
		return
	}
	p.ended(p.link, err)
	p.connect()
}

// bow leaves with DISCONNECT, which takes the Will back.
func (p *publisher) bow() {
	if p.delay == 0 {
		p.setWill(p.willName(), p.will, open)
		p.left, p.leftIn = p.will, p.link.life // the broker may be dead by now: then it has not read the DISCONNECT
	}
	p.leave(mqtt.Success)
}

// connect connects and sends again what is on its way.
func (p *publisher) connect() {
	p.link, _ = p.dial(func(int64) mqtt.Connect {
		r := p.request()
		p.will = p.newWill(p.willName())
		r.Will = &mqtt.Will{Topic: p.willName(), Payload: body(mqtt.ExactlyOnce, p.will, 10), QoS: mqtt.ExactlyOnce}
		if p.delay > 0 {
			r.Will.Props = r.Will.Props.WithInt(mqtt.WillDelayInterval, p.delay)
			p.setWill(p.willName(), p.will, forbidden) // the client comes back in time, whatever happens
		}
		return r
	})
	if p.link == nil {
		return
	}
	for _, f := range p.flights {
		if f.received {
			p.link.ack(mqtt.PUBREL, f.packet.PacketID)
			continue
		}
		f.packet.Dup = true // [MQTT-3.3.1-1]
		p.link.out = f.packet.Append(p.link.out, p.v)
	}
	p.link.flush()
}

// launch sends a new message.
func (p *publisher) launch() {
	s := p.streams[p.rng.IntN(len(p.streams))]
	f := &flight{stream: s, n: p.send(s)}
	f.packet = mqtt.Publish{QoS: s.qos, Retain: s.retained(), Topic: []byte(s.name), PacketID: p.freeID()}
	if !s.clears(f.n) {
		f.packet.Payload = body(s.qos, f.n, p.size())
	}
	p.flights = append(p.flights, f)
	p.link.out = f.packet.Append(p.link.out, p.v)
}

// size draws the size of a payload: mostly small, sometimes large enough that the journal changes segments and checkpoints.
func (p *publisher) size() int {
	if p.rng.IntN(6) > 0 {
		return p.rng.IntN(200)
	}
	return p.rng.IntN(128 << 10)
}

// freeID returns the lowest packet identifier that is free, so that they are used again as soon as they can be.
func (p *publisher) freeID() uint16 {
	for id := uint16(1); ; id++ {
		if !slices.ContainsFunc(p.flights, func(f *flight) bool { return f.packet.PacketID == id }) {
			return id
		}
	}
}

// handle takes one packet.
func (p *publisher) handle(packet any) {
	a, ok := packet.(mqtt.Ack)
	if !ok {
		p.fail("%s: got %+v", p.id, packet)
		return
	}
	i := slices.IndexFunc(p.flights, func(f *flight) bool { return f.packet.PacketID == a.PacketID })
	if i < 0 {
		p.fail("%s: %s for packet %d, which is not in use", p.id, a.Type, a.PacketID)
		return
	}
	f := p.flights[i]
	if a.Code.Failed() && a.Type != mqtt.PUBCOMP { // one after a crash may say that there is nothing left to release
		p.fail("%s: message %d of %v: %s says %v", p.id, f.n, f.stream, a.Type, a.Code)
	}
	switch {
	case a.Type == mqtt.PUBACK && f.qos == mqtt.AtLeastOnce, a.Type == mqtt.PUBCOMP && f.received:
		p.flights = slices.Delete(p.flights, i, i+1)
	case a.Type == mqtt.PUBREC && f.qos == mqtt.ExactlyOnce:
		f.received = true
		p.link.ack(mqtt.PUBREL, a.PacketID)
	default:
		p.fail("%s: %s for message %d of %v", p.id, a.Type, f.n, f.stream)
	}
	p.settle(f)
}

// settle notes that a message was acknowledged. The broker's journal has an order, so what came before on this connection and the
// ones before is on disk too: that the client is there, its Will, and whether it had left.
func (p *publisher) settle(f *flight) {
	p.acknowledge(f.stream, f.n)
	p.known = true
	if p.delay > 0 {
		return
	}
	p.setWill(p.willName(), p.will, promised)
	if p.left > 0 && p.leftIn == p.lives.Load() {
		p.setWill(p.willName(), p.left, forbidden)
	}
	p.left = 0
}
