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
)

// revival is the state that a store's records describe. Records are applied in their order; one whose effect is there already
// changes nothing, since a checkpoint may show what later records tell again.
type revival struct {
	broker   *Broker
	sessions map[store.SessionID]*revived
	retained map[string]kept
	moved    map[store.Position]store.Position
	last     store.SessionID
}

// revived is one session.
type revived struct {
	record store.Record // of the last CONNECT
	subs   map[string]store.Record
	queue  []waiting
	known  map[store.Position]bool // in queue, among those that records may tell again
	done   map[store.Position]bool
	sent   map[store.Position]store.Ref
	order  []store.Position // of sent
	in     map[uint16]bool
	left   time.Time // when the last connection ended; zero when it had not
	expiry time.Duration
}

// waiting is one place in a session's queue.
type waiting struct {
	place session.Place
	bytes int
}

// restore builds the sessions, their queues and subscriptions, and the retained messages that the store has. Nobody else sees the
// broker yet.
func (b *Broker) restore() error {
	b.store.OnCommit(b.committed)
	b.store.OnFail(b.storeFailed)
	b.store.OnCheckpoint(b.checkpoint)
	r := &revival{
		broker: b, sessions: make(map[store.SessionID]*revived), retained: make(map[string]kept),
		moved: make(map[store.Position]store.Position),
	}
	if err := b.store.Restore(r.apply); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.raise()
	b.resume()
	return nil
}

// apply applies one record.
func (r *revival) apply(at store.Position, rec *store.Record) error {
	if rec.Kind == store.Session {
		r.last = max(r.last, rec.Session)
		s := r.session(rec.Session)
		s.record, s.expiry, s.left = *rec, rec.Expiry, time.Time{}
		return nil
	}
	if rec.Kind == store.Accepted {
		r.accept(at, rec)
		return nil
	}
	if rec.Kind == store.Moved {
		r.move(rec.About, at, rec)
		return nil
	}
	if rec.Kind == store.Retained {
		return r.retain(rec)
	}
	if rec.Kind == store.Ended {
		delete(r.sessions, rec.Session)
		return nil
	}
	r.session(rec.Session).apply(rec, r.where)
	return nil
}

// session returns a session by its number. One of which a checkpoint has told nothing yet may be told of by other records
// before: a message can be accepted before, and reach the session's queue after the checkpoint looked there. One that is
// never told of has ended.
func (r *revival) session(id store.SessionID) *revived {
	s := r.sessions[id]
	if s == nil {
		s = &revived{}
		r.sessions[id] = s
	}
	return s
}

// where returns the position at which a message is now.
func (r *revival) where(at store.Position) store.Position {
	for {
		next, ok := r.moved[at]
		if !ok {
			return at
		}
		at = next
	}
}

func (r *revival) accept(at store.Position, rec *store.Record) {
	switch {
	case rec.PacketID != 0:
		put(&r.session(rec.Session).in, rec.PacketID, true)
	case rec.Session != 0:
		r.session(rec.Session).record.Will = nil // this was it
	}
	m := rec.Message
	for i := range rec.Recipients {
		to := &rec.Recipients[i]
		p := session.Place{Position: uint64(at), QoS: uint8(to.QoS), Retain: to.Retain, Shared: to.Share != ""}
		r.session(to.Session).push(at, p, len(m.Topic)+len(m.Payload)+len(m.Props))
	}
	switch {
	case !m.Retain:
	case len(m.Payload) == 0:
		delete(r.retained, m.Topic)
	default:
		r.retained[m.Topic] = kept{m, at}
	}
}

// move notes that a message was copied.
func (r *revival) move(from, to store.Position, rec *store.Record) {
	r.moved[from] = to
	if k, ok := r.retained[rec.Message.Topic]; ok && r.where(k.position) == to {
		r.retained[rec.Message.Topic] = kept{rec.Message, to}
	}
}

// retain loads retained messages that a checkpoint names.
func (r *revival) retain(rec *store.Record) error {
	for _, ref := range rec.Refs {
		var m store.Record
		if err := r.broker.store.Load(ref.About, &m); err != nil {
			return fmt.Errorf("retained message: %w", err)
		}
		r.retained[m.Message.Topic] = kept{m.Message, ref.About}
	}
	return nil
}

// put sets a key of a map that may not be there yet.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// push adds to the queue what is not there.
func (s *revived) push(at store.Position, p session.Place, bytes int) {
	if s.known[at] {
		return
	}
	put(&s.known, at, true)
	s.queue = append(s.queue, waiting{p, bytes})
}

// apply applies a record about this session.
func (s *revived) apply(rec *store.Record, where func(store.Position) store.Position) {
	about := where(rec.About)
	switch rec.Kind {
	case store.Left:
		s.left, s.expiry = rec.Time, rec.Expiry
	case store.Subscribed:
		put(&s.subs, rec.Subscription.Filter, *rec)
	case store.Unsubscribed:
		delete(s.subs, rec.Subscription.Filter)
	case store.Done:
		put(&s.done, about, true)
		delete(s.sent, about)
	case store.Sent:
		if !s.done[about] {
			s.send(store.Ref{About: about, PacketID: rec.PacketID})
		}
	case store.Received:
		if ref, ok := s.sent[about]; ok && ref.PacketID == rec.PacketID {
			ref.Received = true
			s.sent[about] = ref
		}
	case store.Completed:
		put(&s.done, about, true)
		delete(s.sent, about)
	case store.Released:
		delete(s.in, rec.PacketID)
	case store.WillGone:
		s.record.Will = nil
	case store.Queue:
		s.checkpointed(rec.Refs)
	case store.Inbound:
		for _, id := range rec.PacketIDs {
			put(&s.in, id, true)
		}
	}
}

func (s *revived) send(ref store.Ref) {
	if _, ok := s.sent[ref.About]; !ok {
		s.order = append(s.order, ref.About)
	}
	put(&s.sent, ref.About, ref)
}

// checkpointed takes the queue of a checkpoint.
func (s *revived) checkpointed(refs []store.Ref) {
	for _, ref := range refs {
		if ref.PacketID != 0 {
			put(&s.known, ref.About, true)
			s.send(ref)
			continue
		}
		s.push(ref.About, session.Place{Position: uint64(ref.About), QoS: uint8(ref.QoS), Retain: ref.Retain, Shared: ref.Shared}, 0)
	}
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
		b.store.Use(k.position, 1)
	}
	for _, id := range slices.Sorted(maps.Keys(r.sessions)) {
		if s := r.sessions[id]; s.record.Kind != 0 {
			r.raiseSession(id, s)
		}
	}
}

func (r *revival) raiseSession(id store.SessionID, old *revived) {
	b, rec := r.broker, &old.record
	s := &Session{broker: b, id: rec.ClientID, owner: rec.Owner, expiry: expiryOf(old.expiry), since: old.left}
	s.stored.Store(uint64(id))
	s.info.Store(&ClientInfo{
		ClientID: rec.ClientID, User: rec.Owner, Version: rec.Version, Remote: notSince{}, ConnectedAt: rec.Time, Expiry: s.expiry,
	})
	if s.since.IsZero() {
		s.since = time.Now() // the end of the process ended its connection
	}
	if rec.Will != nil {
		s.will = &will{message: rec.Will.Message, expiry: rec.Will.Expiry, delay: rec.Will.Delay, info: s.info.Load(), session: s}
	}
	b.sessions[s.id] = s
	r.raiseQueue(s, old)
	s.in.Restore(slices.Collect(maps.Keys(old.in)))
	for _, sub := range old.subs {
		r.raiseSubscription(s, sub)
	}
	s.settleQueue()
}

// raiseQueue puts in flight what was, and behind it what waits.
func (r *revival) raiseQueue(s *Session, old *revived) {
	for _, at := range old.order {
		if ref, ok := old.sent[at]; ok {
			s.out.RestoreSent(ref.PacketID, uint64(at), ref.Received)
			if !ref.Received {
				r.broker.store.Use(at, 1)
			}
		}
	}
	slices.SortStableFunc(old.queue, func(x, y waiting) int { // a checkpoint may name older ones behind newer ones
		return cmp.Compare(x.place.Position, y.place.Position)
	})
	for _, w := range old.queue {
		at := r.where(store.Position(w.place.Position))
		if _, sent := old.sent[at]; sent || old.done[at] {
			continue
		}
		w.place.Position = uint64(at)
		s.out.PushPlace(w.place, w.bytes)
		r.broker.store.Use(at, 1)
	}
}

// raiseSubscription makes a subscription again. It was allowed when it was made; who the client is now, and what that one may
// read, is asked when it comes back.
func (r *revival) raiseSubscription(s *Session, rec store.Record) {
	made, err := r.broker.checkSubscription(nil, rec.Subscription)
	if err != nil {
		r.broker.log.Error("a subscription is not restored", "client", s.id, "filter", rec.Subscription.Filter, "reason", err)
		return
	}
	made.session, made.ids = s, rec.IDs
	put(&s.subs, made.Filter, made)
	r.broker.addSubscription(made, nil)
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
	s.mu.Lock()
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
	return b.checkpointRetained(emit)
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
	for _, sub := range s.subs {
		records = append(records, *sub.record(id))
	}
	if ids := s.in.IDs(); len(ids) > 0 {
		records = append(records, store.Record{Kind: store.Inbound, Session: id, PacketIDs: ids})
	}
	for refs := range slices.Chunk(s.refs(), 1<<16) {
		records = append(records, store.Record{Kind: store.Queue, Session: id, Refs: refs})
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
	const page = 1024
	r := &b.retained
	refs := make([]store.Ref, 0, page)
	flush := func() error {
		if len(refs) == 0 {
			return nil
		}
		err := emit(&store.Record{Kind: store.Retained, Refs: refs})
		refs = refs[:0]
		return err
	}
	add := func(k kept) {
		if k.position != 0 {
			refs = append(refs, store.Ref{About: k.position})
		}
	}
	for from, more := "", true; more; more = from != "" {
		r.mu.RLock()
		items, next := r.tree.Next("#", from, page, nil)
		for _, item := range items {
			add(item.Value)
		}
		err := flush()
		r.mu.RUnlock()
		if err != nil {
			return err
		}
		from = next
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for name, k := range r.tree.All() {
		if name[0] == '$' { // # does not match these
			add(k)
		}
	}
	return flush()
}
