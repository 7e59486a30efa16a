package broker

import (
	"strings"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// This file says what the store is told, and restore.go reads it back. A session has a number in the store when it outlives its
// connection, or leaves a Will behind; others have 0 and cost the store nothing.

func (s *Session) number() store.SessionID { return store.SessionID(s.stored.Load()) }

// remember tells the store what the session is like from the CONNECT of info on. The caller holds s.mu.
func (s *Session) remember(info *ClientInfo, w *will) error {
	b := s.broker
	if w != nil {
		w.session = s
	}
	known := s.number() != 0
	if b.store == nil || !known && s.expiry == 0 && w == nil {
		return nil
	}
	id := s.number()
	if !known {
		id = store.SessionID(b.lastSession.Add(1))
	}
	position, err := b.note(&store.Record{
		Kind: store.Session, Session: id, ClientID: s.id, Owner: s.owner, Version: info.Version,
		Time: info.ConnectedAt, Expiry: storedExpiry(s.expiry), Will: w.record(),
	})
	if err != nil {
		return err
	}
	s.stored.Store(uint64(id))
	s.noted.Store(uint64(position))
	if !known {
		for _, sub := range s.subs { // made while the session was not to be kept
			b.noteLater(sub.record(id))
		}
	}
	return nil
}

// storedExpiry is an expiry as records have it.
func storedExpiry(d time.Duration) time.Duration {
	if d == NeverExpires {
		return -1
	}
	return d
}

func expiryOf(stored time.Duration) time.Duration {
	if stored < 0 {
		return NeverExpires
	}
	return stored
}

func (w *will) record() *store.Will {
	if w == nil {
		return nil
	}
	return &store.Will{Message: w.message, Expiry: w.expiry, Delay: w.delay}
}

func (s *subscription) record(id store.SessionID) *store.Record {
	return &store.Record{Kind: store.Subscribed, Session: id, Subscription: s.Subscription, IDs: s.ids}
}

// noteSession tells the store something of the session that needs no fields but the kind's number, if the store knows it.
func (s *Session) noteSession(r store.Record) store.Position {
	if r.Session = s.number(); r.Session == 0 || s.broker.store == nil {
		return 0
	}
	position := s.broker.noteLater(&r)
	if position != 0 {
		s.noted.Store(uint64(position))
	}
	return position
}

// lastNote returns a position up to which the store has all that it was told of the session before this connection, and most of
// what it was told since: of the handshakes of QoS 2 with this client all but the messages that it publishes, whose answers wait
// on their connection anyway.
func (s *Session) lastNote() store.Position { return store.Position(s.noted.Load()) }

// settled tells the store that the session needs a message no more.
func (s *Session) settled(d *session.Delivery) {
	if d.Position != 0 {
		s.noteSession(store.Record{Kind: store.Done, About: store.Position(d.Position)})
		s.broker.store.Use(store.Position(d.Position), -1)
	}
}

// keep tells the store about t.pub, if there is anything about it that has to be kept. t.recipients says who gets it.
func (b *Broker) keep(t *turn, from *Session, id uint16) error {
	p := &t.pub
	r := &t.record
	*r = store.Record{Kind: store.Accepted}
	if from != nil {
		r.Session, r.PacketID = from.number(), id // message and handshake are one record, or message and end of the Will
	}
	if r.Session == 0 && len(t.recipients) == 0 && (!p.Retain || strings.HasPrefix(p.name, "$SYS/")) {
		return nil // only live sessions that end with their connections want it: their queues own it
	}
	r.Message, r.Recipients = p.message(t.now), t.recipients
	var err error
	p.position, err = b.note(r)
	return err
}

// collectRecipients lists the sessions that the store has to know to be waiting for t.pub.
func (t *turn) collectRecipients() {
	t.recipients = t.recipients[:0]
	for _, sub := range t.targets {
		qos := min(t.pub.QoS, sub.QoS)
		if id := sub.session.number(); id != 0 && qos > mqtt.AtMostOnce {
			t.recipients = append(t.recipients, store.Recipient{
				Session: id, QoS: qos, Retain: t.pub.Retain && sub.RetainAsPublished, IDs: sub.ids, Share: sub.share,
			})
		}
	}
}

// positionFor returns where the store has t.pub for the session, 0 when it does not.
func (t *turn) positionFor(s *Session, qos mqtt.QoS) uint64 {
	if t.pub.position == 0 || qos == mqtt.AtMostOnce || s.number() == 0 {
		return 0
	}
	return uint64(t.pub.position)
}

// load reads deliveries that wait in the store. One whose message is gone has none.
func (s *Session) load(places []session.Place) []session.Delivery {
	ds := make([]session.Delivery, len(places))
	for i, p := range places {
		ds[i] = s.loadOne(p.Position, mqtt.QoS(p.QoS), p.Retain)
	}
	return ds
}

func (s *Session) loadOne(position uint64, qos mqtt.QoS, retain bool) session.Delivery {
	b := s.broker
	d := session.Delivery{Position: position, QoS: qos, Retain: retain}
	var r store.Record
	if err := b.store.Load(store.Position(position), &r); err != nil {
		b.log.Error("a message that waits cannot be read", "client", s.id, "reason", err)
		return d
	}
	d.Message = r.Message
	for i := range r.Recipients {
		if to := &r.Recipients[i]; to.Session == s.number() {
			d.QoS, d.Retain, d.IDs, d.Share = to.QoS, to.Retain, to.IDs, to.Share
		}
	}
	return d
}

// fillMissing loads what was in flight before a restart.
func (s *Session) fillMissing() {
	if s.broker.store == nil {
		return
	}
	type one struct {
		id       uint16
		position uint64
	}
	var missing []one
	s.mu.Lock()
	for id, position := range s.out.Missing() {
		missing = append(missing, one{id, position})
	}
	s.mu.Unlock()
	for _, m := range missing {
		d := s.loadOne(m.position, mqtt.ExactlyOnce, false)
		s.mu.Lock()
		s.out.Fill(m.id, d)
		s.mu.Unlock()
	}
}

// loadShared brings deliveries of Shared Subscriptions that wait in the store into memory, those that wanted asks for.
func (s *Session) loadShared(wanted func(session.Delivery) bool) {
	if s.broker.store == nil {
		return
	}
	var places []session.Place
	s.mu.Lock()
	s.out.RemovePlaces(func(p session.Place) bool {
		if p.Shared {
			places = append(places, p)
		}
		return false
	})
	s.mu.Unlock()
	loaded := make(map[uint64]session.Delivery)
	for _, d := range s.load(places) {
		if d.Message != nil && wanted(d) {
			loaded[d.Position] = d
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Keep(loaded)
}
