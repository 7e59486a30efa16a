package torture

import (
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// soaker is one client of a soak. It lives many short lives in different roles, and leaves nothing behind when it is stopped.
type soaker struct {
	client
	stop   chan struct{}
	lastID uint16
}

func (w *soaker) run() {
	roles := []func(){w.visit, w.publish, w.publish, w.wait, w.takeTurns, w.die}
	for w.ctx.Err() == nil && !w.stopped() {
		roles[w.rng.IntN(len(roles))]()
	}
	if w.connect(true, nil) { // an old session ends
		w.leave(mqtt.Success)
	}
}

func (w *soaker) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// connect connects for a new session that ends with the connection, or for one that stays.
func (w *soaker) connect(clean bool, will *mqtt.Will) bool {
	w.link, _ = w.dial(func(int64) mqtt.Connect {
		p := w.request()
		p.CleanStart, p.Will = clean, will
		if clean {
			p.Props = nil
		}
		return p
	})
	return w.link != nil
}

func (w *soaker) topic() string { return topicName(w.rng.IntN(soakTopics)) }

func (w *soaker) nextID() uint16 {
	w.lastID = w.lastID%60000 + 1
	return w.lastID
}

// visit comes, subscribes, looks at what is retained, and goes.
func (w *soaker) visit() {
	if !w.connect(true, nil) {
		return
	}
	for range 1 + w.rng.IntN(5) {
		w.subscribe(w.topic())
	}
	w.pause(20 * time.Millisecond)
	w.catchUp()
	w.goAway()
}

// goAway ends the connection in one of two ways.
func (w *soaker) goAway() {
	if w.rng.IntN(2) == 0 {
		w.leave(mqtt.Success)
		return
	}
	_ = w.link.nc.Close()
}

// publish sends some messages, retained ones among them, which it may clear again.
func (w *soaker) publish() {
	if !w.connect(true, nil) {
		return
	}
	for range 1 + w.rng.IntN(20) {
		p := mqtt.Publish{Topic: []byte(w.topic()), QoS: mqtt.QoS(w.rng.IntN(3)), Retain: w.rng.IntN(5) == 0, Payload: make([]byte, w.size())}
		if p.Retain && w.rng.IntN(2) == 0 {
			p.Payload = nil
		}
		if p.QoS > mqtt.AtMostOnce {
			p.PacketID = w.nextID()
		}
		w.link.out = p.Append(w.link.out, w.v)
	}
	w.catchUp()
	w.goAway()
}

func (w *soaker) size() int {
	if w.rng.IntN(20) > 0 {
		return w.rng.IntN(500)
	}
	return w.rng.IntN(80 << 10)
}

// wait has a session that stays, goes away while messages gather in it, and comes back for them. Half of the time it takes turns with
// others.
func (w *soaker) wait() {
	if !w.connect(false, nil) {
		return
	}
	filter := w.topic()
	if w.rng.IntN(2) == 0 {
		filter = "$share/g/" + filter
	}
	w.subscribe(filter)
	for range 1 + w.rng.IntN(3) {
		w.goAway()
		w.pause(200 * time.Millisecond)
		if !w.connect(false, nil) {
			return
		}
		w.catchUp()
	}
	if w.rng.IntN(2) == 0 {
		u := mqtt.Unsubscribe{PacketID: w.nextID(), Filters: []string{filter}}
		w.link.out = u.Append(w.link.out, w.v)
	}
	w.catchUp()
	w.goAway()
	if w.connect(true, nil) {
		w.goAway()
	}
}

// takeTurns takes its own connection over.
func (w *soaker) takeTurns() {
	if !w.connect(false, nil) {
		return
	}
	w.subscribe(w.topic())
	for range 1 + w.rng.IntN(3) {
		w.takeOver(func() { w.connect(false, nil) })
		if w.link == nil {
			return
		}
		w.catchUp()
	}
	w.goAway()
	if w.connect(true, nil) {
		w.goAway()
	}
}

// die leaves a Will behind.
func (w *soaker) die() {
	if w.connect(true, &mqtt.Will{Topic: w.topic(), Payload: []byte("gone"), QoS: mqtt.QoS(w.rng.IntN(3))}) {
		w.pause(10 * time.Millisecond)
		_ = w.link.nc.Close()
	}
}

func (w *soaker) subscribe(filter string) {
	p := mqtt.Subscribe{PacketID: w.nextID(), Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: mqtt.QoS(w.rng.IntN(3))}}}
	w.link.out = p.Append(w.link.out, w.v)
	w.catchUp()
}

// catchUp handles everything up to the answer to a PINGREQ.
func (w *soaker) catchUp() {
	w.link.out = mqtt.AppendPingreq(w.link.out)
	for {
		w.link.flush()
		packet, err := w.link.next()
		if err != nil {
			w.ended(w.link, err)
			return
		}
		switch p := packet.(type) {
		case pong:
			return
		case mqtt.Publish:
			if p.QoS == mqtt.AtLeastOnce {
				w.link.ack(mqtt.PUBACK, p.PacketID)
			} else if p.QoS == mqtt.ExactlyOnce {
				w.link.ack(mqtt.PUBREC, p.PacketID)
			}
		case mqtt.Ack:
			if p.Type == mqtt.PUBREC {
				w.link.ack(mqtt.PUBREL, p.PacketID)
			} else if p.Type == mqtt.PUBREL {
				w.link.ack(mqtt.PUBCOMP, p.PacketID)
			}
		}
	}
}
