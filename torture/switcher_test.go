package torture

import (
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// switcher subscribes and unsubscribes, and publishes to itself: what it publishes after a SUBACK comes, what it publishes after
// an UNSUBACK does not. It does one thing at a time.
type switcher struct {
	client
	qos      mqtt.QoS
	lastID   uint16
	sent     int
	wanted   map[int]bool // numbers of messages that are to come
	got      map[int]bool
	received map[uint16]bool // QoS 2: not released
}

func (w *switcher) name() string { return "u/" + w.id }

func (w *switcher) run() {
	w.connect()
	for w.ctx.Err() == nil && !w.quiet.Load() {
		w.subscribe()
		for range 1 + w.rng.IntN(3) {
			w.publish(true)
		}
		for w.ctx.Err() == nil && len(w.wanted) > 0 {
			w.await(func(any) bool { return true })
		}
		w.unsubscribe()
		for range 1 + w.rng.IntN(3) {
			w.publish(false)
		}
		w.ask(mqtt.AppendPingreq, func(packet any) bool { return packet == pong{} })
		w.pause(10 * time.Millisecond)
	}
	if w.link != nil {
		w.leave(mqtt.Success)
	}
}

func (w *switcher) connect() {
	w.link, _ = w.dial(func(int64) mqtt.Connect { return w.request() })
}

func (w *switcher) nextID() uint16 {
	w.lastID = w.lastID%100 + 1
	return w.lastID
}

func (w *switcher) subscribe() {
	p := mqtt.Subscribe{PacketID: w.nextID(), Subscriptions: []mqtt.Subscription{{Filter: w.name(), QoS: w.qos}}}
	w.ask(func(b []byte) []byte { return p.Append(b, w.v) }, func(packet any) bool {
		ack, ok := packet.(mqtt.Suback)
		if ok && ack.Codes[0] != mqtt.ReasonCode(w.qos) {
			w.fail("%s: SUBSCRIBE answered with %+v", w.id, ack)
		}
		return ok
	})
}

func (w *switcher) unsubscribe() {
	p := mqtt.Unsubscribe{PacketID: w.nextID(), Filters: []string{w.name()}}
	w.ask(func(b []byte) []byte { return p.Append(b, w.v) }, func(packet any) bool {
		_, ok := packet.(mqtt.Unsuback)
		return ok
	})
}

// publish publishes one message; it is to come or not.
func (w *switcher) publish(comes bool) {
	w.sent++
	n, id := w.sent, w.nextID()
	if comes {
		w.wanted[n] = true
	}
	p := mqtt.Publish{QoS: w.qos, Topic: []byte(w.name()), PacketID: id, Payload: body(w.qos, n, w.rng.IntN(100))}
	answer := mqtt.PUBACK
	if w.qos == mqtt.ExactlyOnce {
		answer = mqtt.PUBREC
	}
	w.ask(func(b []byte) []byte {
		b = p.Append(b, w.v)
		p.Dup = true // the next time
		return b
	}, w.answered(answer, id))
	if w.qos == mqtt.ExactlyOnce {
		release := mqtt.Ack{Type: mqtt.PUBREL, PacketID: id}
		w.ask(func(b []byte) []byte { return release.Append(b, w.v) }, w.answered(mqtt.PUBCOMP, id))
	}
	w.arrived()
}

func (w *switcher) answered(t mqtt.PacketType, id uint16) func(any) bool {
	return func(packet any) bool {
		a, ok := packet.(mqtt.Ack)
		if !ok || a.Type != t {
			return false
		}
		if a.PacketID != id || a.Code.Failed() && t != mqtt.PUBCOMP {
			w.fail("%s: %s %d: %v; want one for packet %d", w.id, t, a.PacketID, a.Code, id)
		}
		w.known = true
		return true
	}
}

// ask sends a request, on each connection anew, until the answer is there.
func (w *switcher) ask(request func(b []byte) []byte, answer func(packet any) bool) {
	if w.link == nil {
		return
	}
	w.link.out = request(w.link.out)
	for w.ctx.Err() == nil && !w.await(answer) {
		if w.link != nil {
			w.link.out = request(w.link.out)
		}
	}
}

// await handles packets until the answer came; when the connection ends before, it makes another one and returns false.
func (w *switcher) await(answer func(packet any) bool) bool {
	for w.link != nil {
		w.link.flush()
		packet, err := w.link.next()
		if err != nil {
			w.ended(w.link, err)
			w.connect()
			return false
		}
		w.handle(packet)
		if answer(packet) {
			w.link.flush()
			return true
		}
	}
	return false
}

// handle takes what is not an answer.
func (w *switcher) handle(packet any) {
	switch p := packet.(type) {
	case mqtt.Publish:
		w.take(&p)
	case mqtt.Ack:
		if p.Type == mqtt.PUBREL {
			delete(w.received, p.PacketID)
			w.link.ack(mqtt.PUBCOMP, p.PacketID)
		}
	case mqtt.Disconnect:
		w.fail("%s: got %+v", w.id, p)
	}
}

func (w *switcher) take(p *mqtt.Publish) {
	if p.QoS == mqtt.ExactlyOnce {
		w.link.ack(mqtt.PUBREC, p.PacketID)
		if w.received[p.PacketID] {
			return
		}
		w.received[p.PacketID] = true
	} else {
		w.link.ack(mqtt.PUBACK, p.PacketID)
	}
	_, n, err := readBody(p.Payload)
	switch {
	case err != nil:
		w.fail("%s: %v", w.id, err)
	case w.wanted[n]:
		delete(w.wanted, n)
		w.got[n] = true
	case !w.got[n]:
		w.fail("%s: message %d came, which was published after UNSUBACK", w.id, n)
	case w.qos == mqtt.ExactlyOnce:
		w.fail("%s: message %d came twice", w.id, n)
	}
}
