package broker

import (
	"fmt"
	"sync/atomic"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// QueuePolicy says what happens to a message of QoS 1 or 2 for a session that has reached a quota: its own, its user's, or that of
// all sessions. A message that the session has taken before is only ever dropped by DropOldest.
type QueuePolicy uint8

// The policies.
const (
	RejectNew  QueuePolicy = iota // the session does not get the new one; when nobody gets it, its publisher hears Quota exceeded (0x97)
	DropOldest                    // the session loses what has waited longest in it
	Disconnect                    // as RejectNew, and the session's connection ends with Quota exceeded; the session stays
)

var policyNames = [...]string{"reject-new", "drop-oldest", "disconnect"}

// String returns the policy as configuration files name it.
func (p QueuePolicy) String() string { return policyNames[p] }

// ParseQueuePolicy returns the policy of that name.
func ParseQueuePolicy(name string) (QueuePolicy, error) {
	for i, n := range policyNames {
		if n == name {
			return QueuePolicy(i), nil
		}
	}
	return 0, fmt.Errorf("%q is no policy: choose reject-new, drop-oldest or disconnect", name)
}

// account is what the sessions of one user hold together. Clients without a user name have none: they are not one user.
type account struct {
	sessions int // guarded by Broker.mu
	messages atomic.Int64
	bytes    atomic.Int64
}

// openAccount counts a session of the user in, if the limit allows it; one that takes the place of another always counts. The caller holds b.mu.
func (b *Broker) openAccount(user string, replaces bool) (*account, error) {
	if user == "" {
		return nil, nil
	}
	a := b.accounts[user]
	if a == nil {
		a = &account{}
		b.accounts[user] = a
	} else if !replaces && a.sessions >= b.limits.SessionsPerUser {
		return nil, fmt.Errorf("%w: the user has %d sessions", mqtt.QuotaExceeded, a.sessions)
	}
	a.sessions++
	return a, nil
}

// closeAccount counts a session that has ended out. The caller holds b.mu.
func (b *Broker) closeAccount(s *Session) {
	if s.account == nil {
		return
	}
	if s.account.sessions--; s.account.sessions == 0 {
		delete(b.accounts, s.owner)
	}
}

// quota tells which quota the session has reached and what is to happen, nothingDropped when none. A client that is there and keeps
// up is not held to what others have filled. It looks at counters without a lock: what is taken at the same time may go beyond by
// as much.
func (s *Session) quota() (DropReason, QueuePolicy) {
	l := &s.broker.limits
	if s.full.Load() {
		return DropQueue, l.QueuePolicy
	}
	if !s.holds.Load() && s.conn.Load() != nil {
		return nothingDropped, RejectNew
	}
	if a := s.account; a != nil && (a.messages.Load() >= int64(l.UserQueuedMessages) || a.bytes.Load() >= int64(l.UserQueueBytes)) {
		return DropUser, l.UserQueuePolicy
	}
	st := &s.broker.stats
	if st.queuedMessages.Load() >= int64(l.TotalQueuedMessages) ||
		st.queuedBytes.Load()+st.inFlightBytes.Load() >= int64(l.TotalQueueBytes) {
		return DropTotal, l.TotalQueuePolicy
	}
	if s.broker.memory.refuses(s) {
		return DropMemory, RejectNew
	}
	return nothingDropped, RejectNew
}

// refusal is a session that does not get a message.
type refusal struct {
	session *Session
	reason  DropReason
	policy  QueuePolicy
}

// errReceiversFull refuses a message because everybody who would get it has reached a quota. That is no fault of its publisher.
var errReceiversFull = fmt.Errorf("%w: the queues of all receivers are full", mqtt.QuotaExceeded)

// admit takes the sessions out of t.targets that have reached a quota, before anything is promised to anybody. It is an error when
// nobody is left.
func (t *turn) admit() error {
	p := &t.pub
	t.refused = t.refused[:0]
	if p.QoS == mqtt.AtMostOnce {
		return nil
	}
	kept := t.targets[:0]
	for _, sub := range t.targets {
		if s := sub.session; s.local == nil && sub.QoS > mqtt.AtMostOnce {
			if reason, policy := s.quota(); reason != nothingDropped && policy != DropOldest {
				t.refused = append(t.refused, refusal{s, reason, policy})
				continue
			}
		}
		kept = append(kept, sub)
	}
	t.targets = kept
	switch {
	case len(t.refused) == 0 || len(kept) > 0 || p.Retain:
		return nil
	case t.refused[0].reason == DropTotal:
		return fmt.Errorf("%w: the queues of all sessions together are full", mqtt.QuotaExceeded)
	}
	return errReceiversFull
}

// tellRefused tells who did not get t.pub, and ends their connections if that is the policy. No lock is held.
func (t *turn) tellRefused() {
	for _, r := range t.refused {
		t.broker.dropped(r.session, t, r.reason)
		if c := r.session.conn.Load(); c != nil && r.policy == Disconnect {
			c.stop(fmt.Errorf("%w: its queue is full", mqtt.QuotaExceeded))
		}
	}
	clear(t.refused)
	t.refused = t.refused[:0]
}

// makeRoom drops what has waited longest while the session has reached a quota whose policy says so, but no more than the new
// message needs when it is the quota of others too. The caller holds s.mu.
func (s *Session) makeRoom(d *session.Delivery) (losses []loss) {
	freed := 0
	for {
		reason, policy := s.quota()
		if reason == nothingDropped || policy != DropOldest {
			return losses
		}
		if reason != DropQueue && len(losses) > 0 && freed >= d.Size() {
			return losses
		}
		_, before := s.out.Queued()
		old, ok := s.out.DropFirst()
		if !ok {
			return losses // all of it is in flight
		}
		_, after := s.out.Queued()
		freed += before - after
		losses = append(losses, loss{old, reason})
		s.settleQueue()
	}
}

// lose tells the store and observers what was dropped from the queue. No lock is held.
func (s *Session) lose(losses []loss) {
	b := s.broker
	for i := range losses {
		d := &losses[i].delivery
		if d.Message == nil && len(b.hooks.Load().dropped) > 0 {
			read, _ := s.loadOne(d.Position, d.QoS, d.Retain)
			d.Message = read.Message
		}
		s.settled(d)
		if d.Message == nil {
			b.stats.drops[losses[i].reason].Add(1)
			continue
		}
		b.droppedMessage(s, d.Message, losses[i].reason)
	}
}

// spillAfter is how many messages, and spillBytes how many bytes, wait in memory for a session that the store does not know before it
// is told of further ones, so that a slow client takes disk and not memory.
const (
	spillAfter = 64
	spillBytes = 256 << 10
)

// recipient returns the number under which the store is told of a message for the session, 0 for none: that of the session, or, while
// much waits for one that the store does not know, one that means nothing after a restart.
func (s *Session) recipient() store.SessionID {
	if id := s.number(); id != 0 || !s.spills.Load() {
		return id
	}
	if id := s.alias.Load(); id != 0 {
		return store.SessionID(id)
	}
	s.alias.CompareAndSwap(0, s.broker.lastSession.Add(1))
	return store.SessionID(s.alias.Load())
}

// settleStep is how many bytes in flight the broker's total may be wrong by for each session, so that a counter shared by all
// is not touched for every message.
const settleStep = 64 << 10

// settleQueue brings the counters of the session, its user and the broker up to date after the queue has changed. The caller holds
// s.mu.
func (s *Session) settleQueue() {
	messages, bytes := s.out.Queued()
	_, inFlight := s.out.InFlight()
	b := s.broker
	s.settleMemory()
	set(&s.full, messages >= b.limits.QueuedMessages || bytes+inFlight >= b.limits.QueuedBytes)
	set(&s.holds, messages > 0 || inFlight >= settleStep)
	if d := inFlight - s.settledInFlight; inFlight == 0 && d != 0 || d >= settleStep || -d >= settleStep {
		b.stats.inFlightBytes.Add(int64(d))
		if s.account != nil {
			s.account.bytes.Add(int64(d))
		}
		s.settledInFlight = inFlight
	}
	if messages == s.settledMessages && bytes == s.settledBytes {
		return
	}
	b.stats.queuedMessages.Add(int64(messages - s.settledMessages))
	b.stats.queuedBytes.Add(int64(bytes - s.settledBytes))
	if s.account != nil {
		s.account.messages.Add(int64(messages - s.settledMessages))
		s.account.bytes.Add(int64(bytes - s.settledBytes))
	}
	s.settledMessages, s.settledBytes = messages, bytes
	s.busy.Store(messages > 0)
	set(&s.spills, b.store != nil && (messages >= spillAfter || bytes >= spillBytes))
}

// set writes a flag that others read often when it changes.
func set(flag *atomic.Bool, v bool) {
	if flag.Load() != v {
		flag.Store(v)
	}
}
