package broker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// revival is the state that a store's records describe. Records are applied in their order; one whose effect is there already
// changes nothing, since a checkpoint may show what later records tell again.
type revival struct {
	broker   *Broker
	sessions map[store.SessionID]*revived
	retained map[string]kept
	moved    map[store.Position]store.Position
	gone     map[store.Position]store.Position // named as retained by a checkpoint, at the second position, and not kept any more
	replaced map[string]store.Position         // what told last of a retained message, while something is gone
	last     store.SessionID
}

// revived is one session. There may be very many, with long queues: what few of them have is not there until they do.
type revived struct {
	id, owner string
	version   mqtt.Version
	connected time.Time // the last CONNECT
	will      *store.Will
	told      bool // of by a record of its own; the others have ended

	subs   map[string]*subscription
	queue  []waiting
	listed int                   // of queue, told by the checkpoint that is being read: they come before the rest
	done   []store.Position      // to be taken out of queue and sent
	sent   map[uint16]sentBefore // by Packet Identifier
	sends  int
	in     map[uint16]bool
	left   time.Time // when the last connection ended; zero when it had not
	expiry time.Duration
}

// waiting is one place in a session's queue.
type waiting struct {
	at             store.Position
	bytes          uint32 // of the message; 0 when that is not known
	qos            mqtt.QoS
	retain, shared bool
}

// sentBefore is a message in flight: of QoS 2, or of QoS 1 if the checkpoint tells of it.
type sentBefore struct {
	store.Ref
	order int
}

// apply applies one record.
func (r *revival) apply(at store.Position, rec *store.Record) error {
	switch rec.Kind {
	case store.Session:
		r.last = max(r.last, rec.Session)
		r.session(rec.Session).connect(rec)
	case store.Accepted:
		r.accept(at, rec)
	case store.Moved:
		if rec.Session != 0 {
			r.pass(at, rec)
		} else {
			r.move(rec.About, at, rec)
		}
	case store.Retained:
		return r.retain(at, rec)
	case store.Ended:
		delete(r.sessions, rec.Session)
	default:
		r.session(rec.Session).apply(rec, r.where)
	}
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
	if len(r.moved) == 0 {
		return at
	}
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
		r.session(rec.Session).will = nil // this was it
	}
	r.queue(at, rec)
	m := rec.Message
	if m.Retain && len(r.gone) > 0 {
		put(&r.replaced, m.Topic, at)
	}
	switch {
	case !m.Retain:
	case len(m.Payload) == 0:
		delete(r.retained, m.Topic)
	default:
		r.retained[m.Topic] = kept{m, at}
	}
}

// queue lets a message wait for its recipients.
func (r *revival) queue(at store.Position, rec *store.Record) {
	m := rec.Message
	bytes := uint32(len(m.Topic) + len(m.Payload) + len(m.Props))
	for i := range rec.Recipients {
		to := &rec.Recipients[i]
		r.session(to.Session).push(waiting{at, bytes, to.QoS, to.Retain, to.Share != ""})
	}
}

// pass gives a message to others in place of the session that was to get it.
func (r *revival) pass(at store.Position, rec *store.Record) {
	r.session(rec.Session).apply(&store.Record{Kind: store.Done, About: rec.About}, r.where)
	r.queue(at, rec)
}

// move notes that a message was copied.
func (r *revival) move(from, to store.Position, rec *store.Record) {
	r.moved[from] = to
	if !rec.Message.Retain {
		return
	}
	name := rec.Message.Topic
	k, ok := r.retained[name]
	named, gone := r.gone[from]
	if ok && r.where(k.position) == to || gone && r.replaced[name] < named {
		r.retained[name] = kept{rec.Message, to}
	}
}

// retain loads retained messages that a checkpoint names. One whose space was given back after the checkpoint was replaced,
// removed or moved by then: a later record says so.
func (r *revival) retain(at store.Position, rec *store.Record) error {
	for _, ref := range rec.Refs {
		var m store.Record
		err := r.broker.store.Load(ref.About, &m)
		if errors.Is(err, store.ErrGone) {
			put(&r.gone, ref.About, at)
			continue
		}
		if err != nil {
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

// connect takes the record of a CONNECT, or the one with which a checkpoint begins to tell of the session.
func (s *revived) connect(rec *store.Record) {
	s.told, s.id, s.owner, s.version, s.connected = true, rec.ClientID, rec.Owner, rec.Version, rec.Time
	s.will, s.expiry, s.left, s.listed = rec.Will, rec.Expiry, time.Time{}, 0
}

// push adds a message that was accepted. Records come in order, so it is a new one, unless two subscriptions of the session got it.
func (s *revived) push(w waiting) {
	if n := len(s.queue); n > 0 && s.queue[n-1].at == w.at {
		return
	}
	s.queue = append(s.queue, w)
}

// apply applies a record about this session.
func (s *revived) apply(rec *store.Record, where func(store.Position) store.Position) {
	switch rec.Kind {
	case store.Left:
		s.left, s.expiry = rec.Time, rec.Expiry
	case store.Subscribed:
		put(&s.subs, rec.Subscription.Filter, &subscription{Subscription: rec.Subscription, ids: rec.IDs})
	case store.Unsubscribed:
		delete(s.subs, rec.Subscription.Filter)
	case store.Done:
		s.finish(rec.About, where)
	case store.Sent:
		s.send(store.Ref{About: rec.About, PacketID: rec.PacketID}, where)
	case store.Received:
		if f, ok := s.sent[rec.PacketID]; ok && where(f.About) == where(rec.About) {
			f.Received = true
			s.sent[rec.PacketID] = f
		}
	case store.Completed:
		if f, ok := s.sent[rec.PacketID]; ok && where(f.About) == where(rec.About) {
			delete(s.sent, rec.PacketID)
		}
		s.finish(rec.About, where)
	case store.Released:
		delete(s.in, rec.PacketID)
	case store.WillGone:
		s.will = nil
	case store.Queue:
		s.checkpointed(rec, where)
	case store.Inbound:
		for _, id := range rec.PacketIDs {
			put(&s.in, id, true)
		}
	}
}

// send notes that a message is in flight, behind those that are. The identifier may still be that of one of QoS 1 that is done and
// not taken out yet.
func (s *revived) send(ref store.Ref, where func(store.Position) store.Position) {
	f, known := s.sent[ref.PacketID]
	if !known || where(f.About) != where(ref.About) {
		s.sends++
		f.order = s.sends
	}
	f.Ref = ref
	put(&s.sent, ref.PacketID, f)
}

// finish takes a message out of the session. What is to be taken out is collected, so that a session through which much has
// passed costs a look at its queue now and then, and no memory for what has passed.
func (s *revived) finish(at store.Position, where func(store.Position) store.Position) {
	s.done = append(s.done, at)
	if n := len(s.done); n >= 64 && 2*n >= len(s.queue) {
		s.settle(where)
	}
}

// settle takes out what is done. Nothing later tells of it again: a checkpoint looks at the session under the lock under which
// the end of a message is told.
func (s *revived) settle(where func(store.Position) store.Position) {
	if len(s.done) == 0 {
		return
	}
	for i, at := range s.done {
		s.done[i] = where(at)
	}
	slices.Sort(s.done)
	done := func(at store.Position) bool {
		_, found := slices.BinarySearch(s.done, where(at))
		return found
	}
	s.queue = slices.DeleteFunc(s.queue, func(w waiting) bool { return done(w.at) })
	for id, f := range s.sent {
		switch {
		case !done(f.About):
		case f.QoS == mqtt.AtLeastOnce:
			delete(s.sent, id)
		default:
			f.Received = true // it was taken out of a handshake, which has to end all the same: the client may know it
			s.sent[id] = f
		}
	}
	s.done = s.done[:0]
}

// checkpointed takes a part of the queue from a checkpoint. What it does not name was accepted while the checkpoint was being
// taken and comes behind, unless it is done. Of the sizes of those that it names only the sum is known.
func (s *revived) checkpointed(rec *store.Record, where func(store.Position) store.Position) {
	refs, mean := rec.Refs, rec.MeanBytes()
	rest := s.queue[s.listed:]
	sizes := make(map[store.Position]uint32, len(rest)) // of what is not named
	for _, w := range rest {
		sizes[where(w.at)] = w.bytes
	}
	queue := slices.Grow(s.queue[:s.listed:s.listed], len(refs)+len(rest))
	for _, ref := range refs {
		at := where(ref.About)
		bytes, known := sizes[at]
		if !known {
			bytes = mean
		}
		delete(sizes, at)
		if ref.PacketID != 0 {
			delete(s.sent, ref.PacketID) // records before may have told of later ones: here is the order
			s.send(ref, where)
			continue
		}
		queue = append(queue, waiting{ref.About, bytes, ref.QoS, ref.Retain, ref.Shared})
	}
	s.listed = len(queue)
	for _, w := range rest {
		if _, unnamed := sizes[where(w.at)]; unnamed {
			queue = append(queue, w)
		}
	}
	s.queue = queue
}
