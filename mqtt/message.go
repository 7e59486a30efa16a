package mqtt

import (
	"math"
	"time"
)

// Message is an application message: what travels from a publisher to every subscriber. It is immutable once made and
// shared by all receivers.
type Message struct {
	Topic     string
	Payload   []byte
	QoS       QoS        // at which it was published
	Retain    bool       // whether it was published to be retained
	Expires   time.Time  // zero means never
	Props     Properties // those that travel unaltered: Payload Format Indicator, Content Type, Response Topic, Correlation Data, User Properties
	Publisher string     // ClientID of the publisher; empty when the server itself published
}

// Message makes a message of the packet: the one copy. The topic is given because an alias may stand for it, and
// because the caller may already own the string.
func (p *Publish) Message(topic, publisher string, now time.Time) *Message {
	kept := make([]byte, 0, len(p.Payload)+len(p.Props)) // payload and properties share one array
	kept = append(append(kept, p.Payload...), p.Props...)
	n := len(p.Payload)
	m := &Message{
		Topic: topic, Payload: kept[:n:n], Props: Properties(kept[n:]),
		QoS: p.QoS, Retain: p.Retain, Publisher: publisher,
	}
	if p.HasExpiry {
		m.Expires = now.Add(time.Duration(p.Expiry) * time.Second)
	}
	return m
}

// Expired reports whether the message's Message Expiry Interval has passed [MQTT-3.3.2-5].
func (m *Message) Expired(now time.Time) bool { return !m.Expires.IsZero() && !now.Before(m.Expires) }

// Remaining returns the Message Expiry Interval in seconds that is left at now [MQTT-3.3.2-6], rounded up so that a
// message that has not expired never shows zero, and whether there is one.
func (m *Message) Remaining(now time.Time) (seconds uint32, ok bool) {
	if m.Expires.IsZero() {
		return 0, false
	}
	left := m.Expires.Sub(now)
	if left <= 0 {
		return 0, true
	}
	return uint32(min((left-1)/time.Second+1, math.MaxUint32)), true // more than it was: the clock was set back
}
