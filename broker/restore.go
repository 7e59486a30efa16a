package broker

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// restore builds the sessions, their queues and subscriptions, and the retained messages that the store has. Nobody else sees the
// broker yet.
func (b *Broker) restore() error {
	b.store.OnCommit(b.committed)
	b.store.OnFail(b.storeFailed)
	r := &revival{
		broker: b, sessions: make(map[store.SessionID]*revived), retained: make(map[string]kept),
		moved: make(map[store.Position]store.Position),
	}
	if err := b.store.Restore(r.apply); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.raise()
	b.store.Maintain(store.Upkeep{Checkpoint: b.checkpoint, Clean: b.clean})
	b.resume()
	return nil
}

// raise makes sessions of what was restored, in the order in which they were made.
func (r *revival) raise() {
	b := r.broker
	b.lastSession.Store(uint64(r.last))
	for _, k := range r.retained {
		if k.Expired(time.Now()) {
			continue
		}
		b.retained.tree.Set(k.Topic, k)
		b.retained.bytes += len(k.Payload)
		b.countRetained(k.cost())
		b.store.Use(k.position, 1)
	}
	for _, id := range slices.Sorted(maps.Keys(r.sessions)) {
		if s := r.sessions[id]; s.told {
			r.raiseSession(id, s)
		}
		delete(r.sessions, id) // one by one, so that never all of them are there twice
	}
}

func (r *revival) raiseSession(id store.SessionID, old *revived) {
	b := r.broker
	s := &Session{broker: b, id: old.id, owner: old.owner, expiry: expiryOf(old.expiry), since: old.left}
	s.account, _ = b.openAccount(s.owner, true)
	s.stored.Store(uint64(id))
	s.info.Store(&ClientInfo{
		ClientID: old.id, User: old.owner, Version: old.version, Remote: notSince{}, ConnectedAt: old.connected, Expiry: s.expiry,
	})
	if w := old.will; w != nil {
		s.will = &will{message: w.Message, expiry: w.Expiry, delay: w.Delay, info: s.info.Load(), session: s}
	}
	b.sessions[s.id] = s
	r.raiseQueue(s, old)
	s.in.Restore(slices.Collect(maps.Keys(old.in)))
	r.raiseSubscriptions(s, old.subs)
	s.settleQueue()
}

// raiseQueue puts in flight what was, and behind it what waits.
func (r *revival) raiseQueue(s *Session, old *revived) {
	old.settle(r.where)
	var sent map[store.Position]bool
	for _, f := range slices.SortedFunc(maps.Values(old.sent), func(x, y sentBefore) int { return cmp.Compare(x.order, y.order) }) {
		at := r.where(f.About)
		put(&sent, at, true)
		s.out.RestoreSent(f.PacketID, uint64(at), f.Received)
		if !f.Received {
			r.broker.store.Use(at, 1)
		}
	}
	s.out.ExpectPlaces(len(old.queue))
	for _, w := range old.queue {
		at := r.where(w.at)
		if sent[at] {
			continue
		}
		s.out.PushPlace(session.Place{Position: uint64(at), QoS: uint8(w.qos), Retain: w.retain, Shared: w.shared}, int(w.bytes))
		r.broker.store.Use(at, 1)
	}
}

// raiseSubscriptions makes subscriptions again. They were allowed when they were made; who the client is now, and what that one
// may read, is asked when it comes back.
func (r *revival) raiseSubscriptions(s *Session, subs map[string]*subscription) {
	for filter, sub := range subs {
		if err := r.broker.decideSubscription(nil, sub); err != nil {
			r.broker.log.Error("a subscription is not restored", "client", s.id, "filter", filter, "reason", err)
			continue
		}
		sub.session = s
		r.broker.addSubscription(sub, nil)
		s.subs.set(sub)
	}
}

// resume starts the clocks of restored sessions: those whose connection the end of the process cut leave their Wills.
func (b *Broker) resume() {
	t := b.beginTurn()
	defer t.end()
	b.mu.RLock()
	all := slices.SortedFunc(maps.Values(b.sessions), func(x, y *Session) int {
		return cmp.Compare(x.stored.Load(), y.stored.Load())
	})
	b.mu.RUnlock()
	for _, s := range all {
		s.resume(t)
	}
}

func (s *Session) resume(t *turn) {
	defer s.broker.limbo.leave(s.broker.limbo.enter())
	s.mu.Lock()
	if s.since.IsZero() { // the end of the process ended its connection; after the next one that must be known, or its time never comes
		s.since = t.now
		s.noteSession(store.Record{Kind: store.Left, Time: s.since, Expiry: storedExpiry(s.expiry), Promise: store.Written})
	}
	ago := t.now.Sub(s.since)
	if s.expiry == 0 || s.expiry != NeverExpires && ago >= s.expiry {
		r := s.end()
		s.mu.Unlock()
		s.broker.bury(s, r, nil, t)
		return
	}
	now := s.leaveWill(ago)
	s.startExpiry(s.expiry - ago)
	s.mu.Unlock()
	if now != nil {
		s.broker.publishWill(now, t)
	}
}

// notSince is the address of a client that has not connected since the start.
type notSince struct{}

var _ net.Addr = notSince{}

func (notSince) Network() string { return "" }
func (notSince) String() string  { return "away" }

// storeFailed ends every connection, since nothing can be acknowledged any more: what was not is sent again elsewhere or later.
func (b *Broker) storeFailed(err error) {
	b.log.Error("the store has failed, nothing is accepted any more", "reason", err)
	b.failure.Store(&err)
	b.mu.RLock()
	conns := slices.Collect(maps.Keys(b.conns))
	b.mu.RUnlock()
	for _, c := range conns {
		c.stop(mqtt.ServerUnavailable)
	}
	b.mu.RLock()
	listeners := slices.Collect(maps.Keys(b.listeners))
	b.mu.RUnlock()
	b.closeListeners(listeners)
}

// checkpoint emits the whole state as records: each session under its lock, and each page of retained messages under theirs.
func (b *Broker) checkpoint(emit func(*store.Record) error) error {
	b.limbo.begin()
	b.owning.Lock() // a message that the store was told of before is in every queue from here on
	b.mu.RLock()
	all := slices.Collect(maps.Values(b.sessions))
	b.mu.RUnlock()
	b.owning.Unlock()
	for _, s := range all {
		if err := s.snapshot(emit); err != nil {
			return err
		}
	}
	if err := b.checkpointRetained(emit); err != nil {
		return err
	}
	return b.limbo.end()
}

// snapshot emits the records that describe the session now.
func (s *Session) snapshot(emit func(*store.Record) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.number()
	if id == 0 || s.ended {
		return nil
	}
	info := s.info.Load()
	records := []store.Record{{
		Kind: store.Session, Session: id, ClientID: s.id, Owner: s.owner, Version: info.Version, Time: info.ConnectedAt,
		Expiry: storedExpiry(s.expiry), Will: s.will.record(),
	}}
	if s.conn.Load() == nil {
		records = append(records, store.Record{Kind: store.Left, Session: id, Time: s.since, Expiry: storedExpiry(s.expiry)})
	}
	for sub := range s.subs.all() {
		records = append(records, *sub.record(id))
	}
	ids := slices.DeleteFunc(s.in.IDs(), func(id uint16) bool {
		return slices.Contains(s.opening, id) // the message itself comes later, or never
	})
	if len(ids) > 0 {
		records = append(records, store.Record{Kind: store.Inbound, Session: id, PacketIDs: ids})
	}
	messages, bytes := s.out.Queued()
	for refs := range slices.Chunk(s.refs(), 1<<16) {
		r := store.Record{Kind: store.Queue, Session: id, Refs: refs}
		if messages > 0 {
			r.Bytes = int64(bytes) / int64(messages) * int64(r.Waiting())
		}
		records = append(records, r)
	}
	for i := range records {
		if err := emit(&records[i]); err != nil {
			return err
		}
	}
	return nil
}

// refs lists what is in flight and waits. The caller holds s.mu.
func (s *Session) refs() (refs []store.Ref) {
	for w := range s.out.Waiting() {
		if w.Position != 0 {
			refs = append(refs, store.Ref{
				About: store.Position(w.Position), QoS: mqtt.QoS(w.QoS), Retain: w.Retain, Shared: w.Shared,
				PacketID: w.PacketID, Received: w.Received,
			})
		}
	}
	return refs
}

// checkpointRetained emits where the retained messages are.
func (b *Broker) checkpointRetained(emit func(*store.Record) error) error {
	var refs []store.Ref
	return b.retained.pages(func(items []topic.Item[kept]) error {
		refs = refs[:0]
		for _, item := range items {
			if p := item.Value.position; p != 0 {
				refs = append(refs, store.Ref{About: p})
			}
		}
		if len(refs) == 0 {
			return nil
		}
		return emit(&store.Record{Kind: store.Retained, Refs: refs})
	})
}
