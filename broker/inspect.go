package broker

import (
	"cmp"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// ClientState is one session as an operator sees it.
type ClientState struct {
	*ClientInfo
	Connected      bool
	Since          time.Time // connected since, or gone since
	Subscriptions  int
	InFlight       int // messages sent and not acknowledged
	QueuedMessages int
	QueuedBytes    int
	Inbound        int // QoS 2 messages received and not released
}

// Clients returns every session that has one, connected or not, by ClientID.
func (b *Broker) Clients() []ClientState {
	b.mu.RLock()
	all := make([]*Session, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.RUnlock()
	states := make([]ClientState, 0, len(all))
	for _, s := range all {
		if st, ok := s.state(); ok {
			states = append(states, st)
		}
	}
	slices.SortFunc(states, func(x, y ClientState) int { return cmp.Compare(x.ClientID, y.ClientID) })
	return states
}

// Client returns the session of a ClientID.
func (b *Broker) Client(id string) (ClientState, bool) {
	if s := b.session(id); s != nil {
		return s.state()
	}
	return ClientState{}, false
}

func (b *Broker) session(id string) *Session {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.sessions[id]
}

// state returns what the session is like; ok is false for one that no client has reached yet.
func (s *Session) state() (st ClientState, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.ClientInfo = s.info.Load()
	if st.ClientInfo == nil || s.ended {
		return st, false
	}
	st.Connected = s.conn.Load() != nil
	if st.Since = s.since; st.Connected {
		st.Since = st.ConnectedAt
	}
	st.Subscriptions, st.Inbound = s.subs.len(), s.in.Open()
	st.InFlight, _ = s.out.InFlight()
	st.QueuedMessages, st.QueuedBytes = s.out.Queued()
	return st, true
}

// Subscriptions returns the subscriptions of a ClientID, by filter; nil when there is no such session.
func (b *Broker) Subscriptions(id string) []mqtt.Subscription {
	s := b.session(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := make([]mqtt.Subscription, 0, s.subs.len())
	for sub := range s.subs.all() {
		subs = append(subs, sub.Subscription)
	}
	slices.SortFunc(subs, func(x, y mqtt.Subscription) int { return cmp.Compare(x.Filter, y.Filter) })
	return subs
}

// Kick ends the connection of a ClientID with the reason, AdministrativeAction as a rule, and reports whether there was one. With
// forget the session ends too.
func (b *Broker) Kick(id string, reason mqtt.ReasonCode, forget bool) bool {
	s := b.session(id)
	if s == nil {
		return false
	}
	if forget {
		t := b.beginTurn()
		defer t.end()
		b.endSession(s, reason, t)
		return true
	}
	c := s.conn.Load()
	if c != nil {
		c.stop(reason)
	}
	return c != nil
}

// RetainedMessage returns the retained message of a topic, nil when there is none.
func (b *Broker) RetainedMessage(name string) *mqtt.Message {
	b.retained.mu.RLock()
	defer b.retained.mu.RUnlock()
	m, _ := b.retained.tree.Get(name)
	if m.Message == nil || m.Expired(time.Now()) {
		return nil
	}
	return m.Message
}
