package broker

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// The store wants a segment back of which little is in use. In three steps the broker lets the rest be copied, and no message, client
// or subscriber waits for that:
//
//  1. Under the lock of each session, and of the retained messages, it writes down what is in use there.
//  2. Without a lock, the store copies these messages, as slowly as it likes.
//  3. Under each lock again, whoever still uses a message uses the copy from then on, and counts it so.
//
// What is acknowledged or dropped between 1 and 3 is not there any more in 3, and its copy stays unused. What somebody has taken out
// of a session, to give it to another one, is not there in 1 or 3: its use still counts at the old place, which the store
// keeps until it is over. A message never begins to be used again, so nothing is missed that 1 did not see.
//
// Who reads messages whose places stay in the session meanwhile holds Broker.moving, so that step 3 cannot take the
// messages away in between.

// occupant is one use of a message between the positions that the store wants back.
type occupant struct {
	at      store.Position
	session *Session // nil: it is retained
	name    string   // under this name
}

// clean implements what [store.Store.OnClean] asks for.
func (b *Broker) clean(from, to store.Position, move store.Mover) error {
	all := b.occupants(from, to)
	slices.SortFunc(all, func(x, y occupant) int { return cmp.Compare(x.at, y.at) })
	moved := make(map[store.Position]store.Position)
	var err error
	for rest := all; len(rest) > 0 && err == nil; {
		n := 1
		for n < len(rest) && rest[n].at == rest[0].at {
			n++
		}
		var at store.Position
		if at, err = move(rest[0].at, needs(rest[:n])); err == nil {
			moved[rest[0].at] = at
		} else if errors.Is(err, store.ErrGone) {
			err = nil // nobody uses it any more
		}
		rest = rest[n:]
	}
	b.relocate(all, moved)
	return err
}

// needs returns a function that tells whether a number in the store is that of one of the sessions.
func needs(same []occupant) func(store.SessionID) bool {
	ids := make(map[store.SessionID]bool)
	for _, o := range same {
		if o.session != nil {
			ids[o.session.number()] = true
			ids[store.SessionID(o.session.alias.Load())] = true
		}
	}
	delete(ids, 0)
	return func(id store.SessionID) bool { return ids[id] }
}

// occupants lists the uses of messages at from and behind it but not at to.
func (b *Broker) occupants(from, to store.Position) (all []occupant) {
	b.mu.RLock()
	sessions := slices.Collect(maps.Values(b.sessions))
	b.mu.RUnlock()
	for _, s := range sessions {
		s.mu.Lock()
		for p := range s.out.Needed() {
			if at := store.Position(p); from <= at && at < to {
				all = append(all, occupant{at: at, session: s})
			}
		}
		s.mu.Unlock()
	}
	_ = b.retained.pages(func(items []topic.Item[kept]) error {
		for _, item := range items {
			if at := item.Value.position; from <= at && at < to {
				all = append(all, occupant{at: at, name: item.Name})
			}
		}
		return nil
	})
	return all
}

// pages calls visit for all retained messages, some at a time, under the lock.
func (r *retained) pages(visit func([]topic.Item[kept]) error) error {
	const page = 1024
	var items []topic.Item[kept]
	for from, more := "", true; more; more = from != "" {
		r.mu.RLock()
		items, from = r.tree.Next("#", from, page, items[:0])
		err := visit(items)
		r.mu.RUnlock()
		if err != nil {
			return err
		}
	}
	items = items[:0]
	r.mu.RLock()
	defer r.mu.RUnlock()
	for name, k := range r.tree.All() {
		if name[0] == '$' { // # does not match these
			items = append(items, topic.Item[kept]{Name: name, Value: k})
		}
	}
	return visit(items)
}

// relocate lets those who still use what was moved use the copies.
func (b *Broker) relocate(all []occupant, moved map[store.Position]store.Position) {
	sessions := make(map[*Session]bool)
	for _, o := range all {
		if o.session != nil {
			sessions[o.session] = true
		} else if to := moved[o.at]; to != 0 {
			b.relocateRetained(o.name, o.at, to)
		}
	}
	b.moving.Lock()
	for s := range sessions {
		s.relocate(moved)
	}
	b.moving.Unlock()
	t := b.beginTurn()
	defer t.end()
	for s := range sessions {
		s.pump(t) // one of QoS 2 that was safe waits for its copy now
	}
}

func (b *Broker) relocateRetained(name string, from, to store.Position) {
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.tree.Get(name); ok && now.position == from {
		r.tree.Set(name, kept{now.Message, to})
		b.store.Use(to, 1)
		b.store.Use(from, -1)
	}
}

func (s *Session) relocate(moved map[store.Position]store.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.out.Needed() {
		if to := moved[store.Position(p)]; to != 0 {
			s.broker.store.Use(to, 1)
			s.broker.store.Use(store.Position(p), -1)
		}
	}
	s.out.Move(func(p uint64) (uint64, bool) {
		to := moved[store.Position(p)]
		return uint64(to), to != 0
	})
}
