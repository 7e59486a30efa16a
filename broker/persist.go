package broker

import (
	"errors"
	"fmt"
	"math"
	"slices"
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
		for sub := range s.subs.all() { // made while the session was not to be kept
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
	if position != 0 && r.Promise == store.Default {
		s.noted.Store(uint64(position))
	}
	return position
}

// lastNote returns a position up to which the store has all that matters of what it was told of the session before this connection,
// and most of what it was told since: of the handshakes of QoS 2 with this client all but the messages that it publishes, whose answers wait
// on their connection anyway.
func (s *Session) lastNote() store.Position { return store.Position(s.noted.Load()) }

// settled tells the store that the session needs a message no more. Nobody waits for that: if a loss of power takes it, the message is
// sent again.
func (s *Session) settled(d *session.Delivery) {
	if d.Position != 0 {
		s.noteSession(store.Record{Kind: store.Done, About: store.Position(d.Position), Promise: store.Written})
		s.broker.store.Use(store.Position(d.Position), -1)
	}
}

// own takes responsibility for t.pub: whoever gets it has a place for it, and the store is told.
func (b *Broker) own(t *turn, from *Session, id uint16) error {
	if err := t.admit(); err != nil {
		return err
	}
	p := &t.pub
	if b.store == nil || p.QoS == mqtt.AtMostOnce && !p.Retain {
		return nil
	}
	if len(b.config.Durabilities) > 0 {
		d := b.durability(p.name)
		if d.Memory && p.QoS < mqtt.ExactlyOnce { // an identifier of QoS 2 must not be given again while the other side has it
			return nil
		}
		if p.promise = d.Promise; p.QoS == mqtt.ExactlyOnce && p.promise == store.Written {
			p.promise = store.Default // the steps of its handshake stand on it
		}
	}
	t.collectRecipients()
	err := b.keep(t, from, id)
	if err != nil {
		t.refused = t.refused[:0] // nobody gets it
	}
	return err
}

// keep tells the store about t.pub, if there is anything about it that has to be kept. t.recipients says who gets it.
func (b *Broker) keep(t *turn, from *Session, id uint16) error {
	p := &t.pub
	r := &t.record
	*r = store.Record{Kind: store.Accepted, Promise: p.promise}
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

// collectRecipients lists the sessions that the store has to know to be waiting for t.pub, and which of t.targets they are.
func (t *turn) collectRecipients() {
	t.recipients, t.stored = t.recipients[:0], t.stored[:0]
	for _, sub := range t.targets {
		qos := min(t.pub.QoS, sub.QoS)
		id := store.SessionID(0)
		if qos > mqtt.AtMostOnce {
			id = sub.session.recipient()
		}
		t.stored = append(t.stored, id != 0)
		if id != 0 {
			t.recipients = append(t.recipients, store.Recipient{
				Session: id, QoS: qos, Retain: t.pub.Retain && sub.RetainAsPublished, IDs: sub.ids, Share: sub.share,
			})
		}
	}
}

// deliver gives t.pub to all of t.targets.
func (t *turn) deliver() {
	for i, sub := range t.targets {
		position := uint64(0)
		if t.pub.position != 0 && t.stored[i] {
			position = uint64(t.pub.position)
		}
		sub.deliver(t, position)
		if len(t.heavy) > 0 || t.unflushed > flushAfter {
			t.relieve()
		}
	}
}

// load reads deliveries that wait in the store, until they have so many bytes. One whose message is gone has none.
// An error is one that may pass: then they are those before the first that could not be read.
func (s *Session) load(places []session.Place, bytes int) (ds []session.Delivery, err error) {
	ds = make([]session.Delivery, 0, len(places))
	at := make([]store.Position, len(places))
	for i, p := range places {
		at[i] = store.Position(p.Position)
	}
	s.broker.store.LoadAll(at, func(i int, r *store.Record, loading error) bool {
		d := session.Delivery{Position: places[i].Position, QoS: mqtt.QoS(places[i].QoS), Retain: places[i].Retain}
		if err = s.fill(&d, r, loading); err != nil {
			return false
		}
		ds = append(ds, d)
		if d.Message != nil {
			bytes -= d.Size()
		}
		return bytes > 0
	})
	return ds, err
}

// loadOne reads one delivery. It has no message, and there is no error, when that is lost for good.
func (s *Session) loadOne(position uint64, qos mqtt.QoS, retain bool) (d session.Delivery, err error) {
	d = session.Delivery{Position: position, QoS: qos, Retain: retain}
	var r store.Record
	err = s.broker.store.Load(store.Position(position), &r)
	return d, s.fill(&d, &r, err)
}

// fill puts into a delivery what the store has of it.
func (s *Session) fill(d *session.Delivery, r *store.Record, err error) error {
	if err != nil {
		s.broker.log.Error("a message that waits cannot be read", "client", s.id, "reason", err)
		if errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrDamaged) {
			return nil
		}
		return fmt.Errorf("%w: %w", mqtt.ServerUnavailable, err)
	}
	d.Message = r.Message
	for i := range r.Recipients {
		if to := &r.Recipients[i]; to.Session == s.number() || to.Session == store.SessionID(s.alias.Load()) {
			d.QoS, d.Retain, d.IDs, d.Share = to.QoS, to.Retain, slices.Clone(to.IDs), strings.Clone(to.Share)
		}
	}
	return nil
}

// fillMissing loads what was in flight before a restart.
func (s *Session) fillMissing() error {
	if s.broker.store == nil {
		return nil
	}
	type one struct {
		id       uint16
		position uint64
	}
	var missing []one
	s.broker.moving.RLock()
	defer s.broker.moving.RUnlock()
	s.mu.Lock()
	for id, position := range s.out.Missing() {
		missing = append(missing, one{id, position})
	}
	s.mu.Unlock()
	for _, m := range missing {
		d, err := s.loadOne(m.position, mqtt.ExactlyOnce, false)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.out.Fill(m.id, d)
		s.mu.Unlock()
	}
	return nil
}

// loadShared brings deliveries of Shared Subscriptions that wait in the store into memory, those that wanted asks for.
func (s *Session) loadShared(wanted func(session.Delivery) bool) {
	if s.broker.store == nil {
		return
	}
	var places []session.Place
	s.broker.moving.RLock()
	defer s.broker.moving.RUnlock()
	s.mu.Lock()
	s.out.RemovePlaces(func(p session.Place) bool {
		if p.Shared {
			places = append(places, p)
		}
		return false
	})
	s.mu.Unlock()
	loaded := make(map[uint64]session.Delivery)
	ds, _ := s.load(places, math.MaxInt) // the others stay where they are
	for _, d := range ds {
		if d.Message != nil && wanted(d) {
			loaded[d.Position] = d
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Keep(loaded)
}
