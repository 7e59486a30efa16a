package broker

import (
	"slices"
	"sync/atomic"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// shareGroup is one Shared Subscription: "$share/{group}/{filter}" with its members (§4.8.2). subscriptions.mu guards the
// members; the slice is replaced and never changed, so that a reader may keep it.
type shareGroup struct {
	members []*subscription
	turn    atomic.Uint32
}

// replace puts made where old was; nil stands for nobody.
func (g *shareGroup) replace(old, made *subscription) {
	if i := slices.Index(g.members, old); old != nil && i >= 0 {
		if made != nil {
			g.members = slices.Clone(g.members)
			g.members[i] = made
			return
		}
		g.members = slices.Delete(slices.Clone(g.members), i, i+1)
		return
	}
	if made != nil {
		g.members = append(slices.Clip(g.members), made)
	}
}

func (g *shareGroup) empty() bool { return len(g.members) == 0 }

// pick chooses the member that gets the next message: in turn among those that are connected and keep up, else among those
// that are connected, else among those with room, else among all. It returns nil when there is nobody.
func (g *shareGroup) pick() *subscription {
	members := g.members
	n := uint32(len(members))
	if n == 0 {
		return nil
	}
	first := g.turn.Add(1)
	best, bestRank := members[first%n], -1
	for i := range n {
		m := members[(first+i)%n]
		if r := m.session.rank(); r > bestRank {
			best, bestRank = m, r
			if r == keepsUp {
				break
			}
		}
	}
	return best
}

// The ranks of a member, worst first.
const (
	full = iota
	away
	behind
	keepsUp
)

func (s *Session) rank() int {
	switch {
	case s.local != nil:
		return keepsUp
	case s.full.Load():
		return full
	case s.conn.Load() == nil:
		return away
	case s.busy.Load():
		return behind
	}
	return keepsUp
}

// passOn gives messages of Shared Subscriptions that the session has not acknowledged to other members: when it went away,
// if somebody else is there; when it ended, in any case. A QoS 2 message that was sent stays: it must not go to
// anybody else [MQTT-4.8.2-4], [MQTT-4.8.2-5]. Everything else in an ended session is dropped.
func (b *Broker) passOn(s *Session, t *turn, ended bool) {
	b.takeOut(s, t, func(d session.Delivery, started bool) (move, drop bool) {
		bound := started && d.QoS == mqtt.ExactlyOnce
		move = d.Share != "" && !bound && (ended || b.othersOf(d.Share, s))
		return move, ended && !move
	})
}

// passOnShare gives what waits in the session for one Shared Subscription, which it has left, to the other members. Without
// any, the session keeps it.
func (b *Broker) passOnShare(s *Session, share string, t *turn) {
	if len(b.group(share)) == 0 {
		return
	}
	b.takeOut(s, t, func(d session.Delivery, started bool) (move, drop bool) {
		return !started && d.Share == share, false
	})
}

// takeOut takes deliveries out of a session: those to move go to another member, those to drop are dropped.
func (b *Broker) takeOut(s *Session, t *turn, judge func(d session.Delivery, started bool) (move, drop bool)) {
	var moved, lost []session.Delivery
	_ = s.fillMissing() // what cannot be read now stays
	s.loadShared(func(d session.Delivery) bool {
		move, drop := judge(d, false)
		return move || drop
	})
	s.mu.Lock()
	s.out.Remove(func(d session.Delivery, started bool) bool {
		move, drop := judge(d, started)
		switch {
		case move:
			moved = append(moved, d)
		case drop:
			lost = append(lost, d)
		}
		return move || drop
	})
	if s.ended {
		s.out.RemovePlaces(func(p session.Place) bool {
			b.stats.drops[DropSessionEnd].Add(1)
			b.store.Use(store.Position(p.Position), -1)
			return true
		})
	}
	s.settleQueue()
	s.mu.Unlock()
	for i := range moved {
		if !b.routeAgain(moved[i], s, t) {
			s.takeBack(moved[i], t)
			continue
		}
		s.settled(&moved[i])
	}
	for i := range lost {
		s.settled(&lost[i])
		b.droppedMessage(s, lost[i].Message, DropSessionEnd)
	}
}

// takeBack queues a delivery again that nobody else could have.
func (s *Session) takeBack(d session.Delivery, t *turn) {
	s.broker.limbo.giveBack()
	s.mu.Lock()
	if !s.ended {
		s.out.Push(d)
		s.settleQueue()
	}
	s.mu.Unlock()
	s.pump(t)
}

// group returns the members of a Shared Subscription.
func (b *Broker) group(share string) []*subscription {
	_, filter, _ := topic.ParseShare(share)
	b.subs.mu.RLock()
	defer b.subs.mu.RUnlock()
	if g, ok := b.subs.shared.Get(filter, share); ok {
		return g.members
	}
	return nil
}

// othersOf reports whether a member other than s is connected.
func (b *Broker) othersOf(share string, s *Session) bool {
	return slices.ContainsFunc(b.group(share), func(m *subscription) bool {
		return m.session != s && m.session.rank() > away
	})
}

// routeAgain gives one message of a Shared Subscription to a member other than s, if there is one. It reports whether s is rid of
// it: not when the store cannot be told, since a restart would find it where it was.
func (b *Broker) routeAgain(d session.Delivery, s *Session, t *turn) (moved bool) {
	others := shareGroup{}
	for _, m := range b.group(d.Share) {
		if m.session != s {
			others.members = append(others.members, m)
		}
	}
	others.turn.Store(uint32(t.now.UnixNano()))
	sub := others.pick()
	switch {
	case sub == nil:
		b.droppedMessage(s, d.Message, DropSessionEnd)
		return true
	case d.Message.Expired(t.now):
		b.droppedMessage(s, d.Message, DropExpired)
		return true
	}
	if reason, policy := sub.session.quota(); reason != nothingDropped && policy != DropOldest && s.isOver() {
		b.droppedMessage(s, d.Message, reason)
		return true
	}
	t.pub.beginMessage(d.Message, t.now)
	t.targets = append(t.targets[:0], sub)
	if b.store != nil {
		b.owning.RLock()
		defer b.owning.RUnlock()
		if err := b.pass(t, s, &d); err != nil {
			if b.failure.Load() != nil || !s.isOver() {
				return false
			}
			b.log.Error("a message of a shared subscription is not kept", "topic", d.Message.Topic, "reason", err)
		}
	}
	t.deliver()
	return true
}

// pass tells the store that t.pub, which s was to get as d, is for t.targets: in one record, so that a restart finds it with one of
// them. It does not retain it once more.
func (b *Broker) pass(t *turn, s *Session, d *session.Delivery) error {
	t.collectRecipients()
	if len(t.recipients) == 0 {
		return nil
	}
	m := *t.pub.message(t.now)
	m.Retain = false
	t.record = store.Record{Kind: store.Accepted, Message: &m, Recipients: t.recipients}
	known := s.number() != 0 && d.Position != 0
	if known {
		t.record.Kind, t.record.Session, t.record.About = store.Moved, s.number(), store.Position(d.Position)
	}
	var err error
	if t.pub.position, err = b.note(&t.record); err == nil && known {
		b.store.Use(t.pub.position, 1)
	}
	return err
}
