package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// publication is a message on its way through the router: a view of bytes that somebody else owns, until a receiver
// has to keep it. Then one copy is made and shared by all.
type publication struct {
	mqtt.Publish
	name      string
	publisher string
	msg       *mqtt.Message
	position  store.Position  // in the store; 0 when it was not told
	promise   store.Promise   // how safe that has to be before it is acknowledged
	topic     *publishedTopic // what the publisher's connection knows of the name; nil for other publishers
	made      uint16          // which of encoded are, by layout
	encoded   [12]encoding
}

// encoding is the PUBLISH as it goes on the wire for one layout: version, QoS and RETAIN. Receivers of one layout differ
// in the Packet Identifier only, so each layout is encoded once.
type encoding struct {
	bytes  []byte
	idAt   int  // where the Packet Identifier is
	shared bool // outboxes have it
}

// begin starts the way of the message that was parsed into p.Publish.
func (p *publication) begin(name, publisher string) {
	p.name, p.publisher, p.msg, p.position, p.promise = name, publisher, nil, 0, store.Default
	p.Topic, p.HasAlias, p.PacketID, p.Dup = bytesOf(name), false, 0, false
	p.topic, p.made = nil, 0
}

// beginMessage starts the way of a message that is owned already.
func (p *publication) beginMessage(m *mqtt.Message, now time.Time) {
	ids := p.IDs[:0]
	p.Publish = view(m, now)
	p.IDs = ids
	p.begin(m.Topic, m.Publisher)
	p.msg = m
}

// reset drops all references and keeps the small arrays.
func (p *publication) reset() {
	encoded, ids := p.encoded, p.IDs[:0]
	for i := range encoded {
		if encoded[i].shared || cap(encoded[i].bytes) > 16<<10 {
			encoded[i] = encoding{}
		}
	}
	*p = publication{encoded: encoded}
	p.IDs = ids
}

// view returns the message as a packet. The packet shares the message's memory.
func view(m *mqtt.Message, now time.Time) mqtt.Publish {
	p := mqtt.Publish{QoS: m.QoS, Retain: m.Retain, Topic: bytesOf(m.Topic), Payload: m.Payload, Props: m.Props}
	p.Expiry, p.HasExpiry = m.Remaining(now) // [MQTT-3.3.2-6]
	return p
}

// message returns the one copy.
func (p *publication) message(now time.Time) *mqtt.Message {
	if p.msg == nil {
		p.msg = p.Message(p.name, p.publisher, now)
	}
	return p.msg
}

// layout encodes the message for a version, QoS and RETAIN, once.
func (p *publication) layout(v mqtt.Version, qos mqtt.QoS, retain bool) *encoding {
	i := int(qos)
	if retain {
		i += 3
	}
	if v == mqtt.V5 {
		i += 6
	}
	e := &p.encoded[i]
	if p.made&(1<<i) == 0 {
		p.made |= 1 << i
		if e.shared {
			e.bytes, e.shared = nil, false
		}
		q := p.Publish
		q.QoS, q.Retain, q.IDs = qos, retain, nil
		e.bytes = q.Append(e.bytes[:0], v)
		e.idAt = 1 + lengthSize(e.bytes) + 2 + len(q.Topic)
	}
	return e
}

// lengthSize is the number of bytes of the Remaining Length of an encoded packet.
func lengthSize(packet []byte) int {
	n := 1
	for packet[n] >= 128 {
		n++
	}
	return n
}

// subscription is one filter of one session. It is immutable; a change replaces it.
type subscription struct {
	session *Session
	mqtt.Subscription
	filter  string   // without the prefix of a Shared Subscription
	share   string   // the whole filter when it is shared, otherwise empty
	ids     []uint32 // its Subscription Identifier, if any; shared by deliveries
	covered bool     // the client may read whatever the filter matches: deliveries need no check
}

// subscriptions is who wants what.
type subscriptions struct {
	mu     sync.RWMutex
	epoch  atomic.Uint64 // changes with every subscription
	tree   topic.Tree[*Session, *subscription]
	shared topic.Tree[string, *shareGroup] // by the share name
}

// publish takes responsibility for t.pub: finds who wants it, tells the store, retains it if it is to be, delivers it, and
// returns how many sessions want it. info is nil when the server publishes. from and id are the session and the Packet Identifier
// of a QoS 2 message; from alone is the session whose Will this is.
func (b *Broker) publish(t *turn, info *ClientInfo, from *Session, id uint16) (receivers int, err error) {
	p := &t.pub
	if b.store != nil {
		b.owning.RLock()
		defer b.owning.RUnlock()
	}
	if p.Retain {
		err = b.retain(t, from, id)
	} else {
		b.match(t)
		err = b.own(t, from, id)
	}
	if from != nil && id != 0 {
		from.opened(id, err) // before a checkpoint can begin that the record does not stand behind
	}
	t.tellRefused()
	if err != nil {
		return 0, err
	}
	for _, f := range b.hooks.Load().published {
		f(info, p.message(t.now))
	}
	t.deliver()
	return len(t.targets), nil
}

// match lists in t.targets the subscriptions that get t.pub: one of each session, and one member of each shared
// subscription (§4.8.2).
func (b *Broker) match(t *turn) {
	if e := t.pub.topic; e != nil && e.routed == b.subs.epoch.Load()+1 {
		t.targets = append(t.targets[:0], e.targets...)
		return
	}
	t.targets, t.groups = t.targets[:0], t.groups[:0]
	b.subs.mu.RLock()
	defer b.subs.mu.RUnlock()
	filters := 0
	t.matches, filters = b.subs.tree.Match(t.pub.name, t.matches[:0])
	if filters > 1 {
		t.merge()
	} else {
		for i := range t.matches {
			if sub := t.matches[i].Value; !sub.echoes(&t.pub) {
				t.targets = append(t.targets, sub)
			}
		}
	}
	if b.subs.shared.Len() > 0 {
		t.groups, _ = b.subs.shared.Match(t.pub.name, t.groups)
		for i := range t.groups {
			if sub := t.groups[i].Value.pick(); sub != nil {
				t.targets = append(t.targets, sub)
			}
		}
	} else if filters <= 1 {
		t.pub.topic.remember(t.targets, b.subs.epoch.Load())
	}
}

// routeMost bounds how many receivers of a topic a connection remembers: with more of them, finding them is the smaller part.
const routeMost = 16

// remember notes who gets what is published to the topic, until somebody subscribes or unsubscribes.
func (e *publishedTopic) remember(targets []*subscription, epoch uint64) {
	if e == nil || len(targets) > routeMost {
		return
	}
	clear(e.targets)
	e.targets, e.routed = append(e.targets[:0], targets...), epoch+1
}

// echoes reports whether the message would go back to its publisher against the option No Local [MQTT-3.8.3-3].
func (s *subscription) echoes(p *publication) bool {
	return s.NoLocal && s.session.id == p.publisher
}

// merge lists targets where several filters matched: a session gets one copy, at the highest QoS, with the identifiers of all
// its subscriptions that match [MQTT-3.3.4-2], [MQTT-3.3.4-3], [v3.1.1 MQTT-3.3.5-1].
func (t *turn) merge() {
	if t.mergedAt == nil {
		t.mergedAt = make(map[*Session]int)
	}
	clear(t.mergedAt)
	t.merged = t.merged[:0]
	for i := range t.matches {
		sub := t.matches[i].Value
		if sub.echoes(&t.pub) {
			continue
		}
		at, seen := t.mergedAt[sub.session]
		if !seen {
			t.mergedAt[sub.session] = len(t.merged)
			t.merged = append(t.merged, *sub)
			continue
		}
		t.merged[at].merge(sub)
	}
	for i := range t.merged {
		t.targets = append(t.targets, &t.merged[i])
	}
}

func (s *subscription) merge(other *subscription) {
	s.QoS = max(s.QoS, other.QoS)
	s.RetainAsPublished = s.RetainAsPublished || other.RetainAsPublished
	s.covered = s.covered || other.covered
	s.ids = append(s.ids, other.ids...) // a copy, the first time: the slice of one subscription has no spare room
}
