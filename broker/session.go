package broker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// Session is the state of one client, connected or not (§4.1). The broker has one per ClientID; a Clean Start makes a new one.
type Session struct {
	broker *Broker
	id     string
	owner  string // the user that the session belongs to: nobody else may have it
	local  *local // the function that receives, for subscribers in process; nil for clients
	conn   atomic.Pointer[conn]
	info   atomic.Pointer[ClientInfo] // of the connection that is or was last
	busy   atomic.Bool                // messages wait: a shared subscription prefers others
	holds  atomic.Bool                // messages wait, or much is unacknowledged
	full   atomic.Bool                // the session has reached its quota
	spills atomic.Bool                // so much waits that further messages stay in the store

	account *account // of the owner; nil for clients without a user name

	mu        sync.Mutex
	in        session.Inbound
	out       session.Outbound
	opening   []uint16 // of in: QoS 2 messages that the store has not been told of yet
	subs      filters
	replays   []*replay // retained messages that the client is still to get
	replaying *conn     // to which somebody sends them now; nil for none
	repump    bool      // somebody else found room meanwhile
	expiry    time.Duration
	timer     *time.Timer // ends the session
	will      *will       // of the connection that is, or was last and may come back
	willTimer *time.Timer
	since     time.Time // when the last connection ended
	ended     bool      // nobody finds this session any more

	stored  atomic.Uint64        // the session's number in the store; see persist.go
	alias   atomic.Uint64        // number of messages in the store for a session that it does not know; 0 before the first
	noted   atomic.Uint64        // position of what the store was told last of the session
	loading bool                 // somebody loads messages from the store
	leaving atomic.Pointer[conn] // the connection that has just left; nil when all that follows from that is done

	settledMessages, settledBytes int // of the queue, as the broker's totals have them
	settledInFlight               int // bytes, the same
	settledHeld                   int // bytes in memory, as Broker.memory has them

	heavy atomic.Bool // it keeps more messages in memory than any session may, see memory
}

// openSession gives the connection its session: the one that exists, or a new one [MQTT-3.1.2-4], [MQTT-3.1.2-5]. The
// CONNACK is the first thing in the outbox; from then on messages may follow it.
func (b *Broker) openSession(c *conn, w *will, t *turn) error {
	defer b.limbo.leave(b.limbo.enter())
	for {
		b.seeOff(c, t)
		s, old, err := b.findSession(c)
		if err != nil {
			return err
		}
		if old != nil {
			b.endSession(old, mqtt.SessionTakenOver, t)
		}
		if err := s.fillMissing(); err != nil {
			return err // the client is to come again, when it can be read
		}
		if done, err := s.attach(c, w, t); done || err != nil {
			return err
		}
	}
}

// seeOff ends the connection that c is to take over from [MQTT-3.1.4-3], and lets it finish with what its client had sent.
func (b *Broker) seeOff(c *conn, t *turn) {
	s := b.session(c.info.ClientID)
	if s == nil || s.owner != c.info.User {
		return
	}
	before := s.conn.Load()
	if before == nil {
		before = s.leaving.Load() // it ends by itself
	}
	if before != nil {
		t.flush()
		before.stop(mqtt.SessionTakenOver)
		before.awaitEnd()
	}
}

// findSession returns the session for the connection. old is the one that it replaces, if any.
func (b *Broker) findSession(c *conn) (s, old *Session, err error) {
	id := c.info.ClientID
	b.mu.Lock()
	defer b.mu.Unlock()
	s = b.sessions[id]
	if s != nil && s.isOver() {
		s = nil
	}
	switch {
	case b.closing, b.failure.Load() != nil:
		return nil, nil, mqtt.ServerUnavailable
	case s != nil && s.owner != c.info.User:
		return nil, nil, mqtt.NotAuthorized // another user's session, whatever Clean Start says
	case s != nil && !c.info.CleanStart && !s.endsWithConn():
		return s, nil, nil
	case s == nil && len(b.sessions) >= b.limits.Sessions:
		return nil, nil, mqtt.QuotaExceeded
	}
	old = s
	a, err := b.openAccount(c.info.User, s != nil)
	if err != nil {
		return nil, nil, err
	}
	s = &Session{broker: b, id: id, owner: c.info.User, account: a}
	b.sessions[id] = s
	return s, old, nil
}

// endsWithConn reports whether the session lasts no longer than the connection that it has: then who takes over that
// gets another session, and the Will is due, whatever its delay (§3.1.4) [v3.1.1 MQTT-3.1.2-6].
func (s *Session) endsWithConn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Load() != nil && s.expiry == 0
}

func (s *Session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// attach makes c the session's connection and takes over from another one. It returns false when c cannot have this session
// any more, and an error when the store cannot take it.
func (s *Session) attach(c *conn, w *will, t *turn) (done bool, err error) {
	s.mu.Lock()
	before := s.conn.Load()
	present := before != nil || !s.since.IsZero()
	if s.ended || present && (c.info.CleanStart || s.expiry == 0) || s.lacks() {
		s.mu.Unlock()
		return false, nil // somebody else was faster: a new session is due
	}
	late, expiry := s.missedWill(before), s.expiry
	s.expiry = c.info.Expiry
	if err := s.remember(c.info, w); err != nil {
		s.expiry = expiry
		s.mu.Unlock()
		if !present {
			s.broker.endSession(s, err, t)
		}
		return false, err
	}
	c.session = s
	s.info.Store(c.info)
	s.will = w
	s.stopTimers()
	s.in.Connected(c.receiveMaximum())
	s.out.Connected(c.window(&c.login.connect))
	c.greet(present, t)
	for id := range s.out.Released() {
		c.answer(t, s.lastNote(), mqtt.Ack{Type: mqtt.PUBREL, PacketID: id}) // [MQTT-4.4.0-1]
	}
	s.replays = nil
	s.conn.Store(c)
	s.mu.Unlock()
	if before != nil {
		before.stop(mqtt.SessionTakenOver) // [MQTT-3.1.4-3]
	}
	if late != nil {
		s.broker.publishWill(late, t)
	}
	return true, nil
}

// lacks reports whether messages in flight have to be filled in. The caller holds s.mu.
func (s *Session) lacks() bool {
	for range s.out.Missing() {
		return true
	}
	return false
}

// missedWill returns the Will of a connection that is taken over, to be published now. A delayed Will is not sent when
// the client comes back in time [MQTT-3.1.3-9], which it just did. The caller holds s.mu.
func (s *Session) missedWill(before *conn) *will {
	if before == nil || s.will == nil || s.will.delay > 0 {
		return nil
	}
	return s.will
}

func (s *Session) stopTimers() {
	for _, t := range []*time.Timer{s.timer, s.willTimer} {
		if t != nil {
			t.Stop()
		}
	}
	s.timer, s.willTimer = nil, nil
}

// setExpiry changes the expiry on behalf of c (§3.14.2.2.2).
func (s *Session) setExpiry(c *conn, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() == c {
		s.expiry = d
	}
}

// detach ends the time of c: the session waits for the client to come back, or ends too. Until all is done that follows from the
// end of c, who comes back waits: the record of the next connection must come later in the store, since it replaces the Will.
func (s *Session) detach(c *conn, cause error) {
	b := s.broker
	s.mu.Lock()
	if s.conn.Load() != c {
		s.mu.Unlock()
		return // taken over
	}
	s.leaving.Store(c)
	defer s.leaving.Store(nil)
	defer b.limbo.leave(b.limbo.enter())
	s.conn.Store(nil)
	s.since = time.Now()
	s.replays = nil
	if d, ok := cause.(*disconnected); ok && d.code == mqtt.Success && s.will != nil {
		s.will = nil // [MQTT-3.1.2-10], [MQTT-3.14.4-3]
		s.noteSession(store.Record{Kind: store.WillGone})
	}
	t := b.beginTurn()
	defer t.end()
	if s.expiry == 0 { // [MQTT-3.1.2-23]
		r := s.end()
		s.mu.Unlock()
		b.bury(s, r, nil, t)
		return
	}
	s.noteSession(store.Record{Kind: store.Left, Time: s.since, Expiry: storedExpiry(s.expiry), Promise: store.Written})
	now := s.leaveWill(0)
	s.startExpiry(s.expiry)
	s.mu.Unlock()
	if now != nil {
		b.publishWill(now, t)
	}
	b.passOn(s, t, false)
	s.unload()
}

// unload lets the store alone have the messages of a client that has gone, when they are many or memory is short.
func (s *Session) unload() {
	if s.broker.store == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() == nil && (s.broker.memory.tight() || s.out.Held() > smallSession) {
		s.out.Unload()
		s.settleMemory()
	}
}

// startExpiry sets the time at which the session ends, unless its client comes back. The caller holds s.mu.
func (s *Session) startExpiry(left time.Duration) {
	if s.expiry != NeverExpires {
		info := s.info.Load()
		s.timer = time.AfterFunc(left, func() { s.expire(info) })
	}
}

// leaveWill returns the Will when it is to be published now, or sets the time for it; ago is how long the connection has been
// gone. The caller holds s.mu.
func (s *Session) leaveWill(ago time.Duration) (now *will) {
	w := s.will
	if w == nil {
		return nil
	}
	due := w.due(s.expiry) - ago
	if due <= 0 {
		s.will = nil
		return w
	}
	s.willTimer = time.AfterFunc(due, func() { s.willDue(w) })
	return nil
}

// willDue publishes a delayed Will, unless the client came back.
func (s *Session) willDue(w *will) {
	defer s.broker.limbo.leave(s.broker.limbo.enter())
	s.mu.Lock()
	due := s.will == w && s.conn.Load() == nil && !s.ended
	if due {
		s.will = nil
	}
	s.mu.Unlock()
	if due {
		t := s.broker.beginTurn()
		defer t.end()
		s.broker.publishWill(w, t)
	}
}

// expire ends the session when the client has been away for too long since the connection of info [MQTT-4.1.0-2].
func (s *Session) expire(info *ClientInfo) {
	s.mu.Lock()
	expired := s.conn.Load() == nil && s.info.Load() == info && !s.ended
	s.mu.Unlock()
	if !expired {
		return
	}
	s.broker.stats.expired.Add(1)
	t := s.broker.beginTurn()
	defer t.end()
	s.broker.endSession(s, nil, t)
}

// endSession removes the session, and its connection if there is one, which hears the cause. Without a cause it only ends
// while nobody is connected.
func (b *Broker) endSession(s *Session, cause error, t *turn) {
	defer b.limbo.leave(b.limbo.enter())
	s.mu.Lock()
	if s.ended || cause == nil && s.conn.Load() != nil {
		s.mu.Unlock()
		return
	}
	r := s.end()
	s.mu.Unlock()
	b.bury(s, r, cause, t)
}

// remains is what is left of a session that has ended.
type remains struct {
	conn *conn
	will *will
	subs filters
}

// end makes the session one that nobody finds any more. The caller holds s.mu, and buries what is returned.
func (s *Session) end() remains {
	r := remains{s.conn.Swap(nil), s.will, s.subs}
	s.ended, s.will, s.subs, s.replays = true, nil, filters{}, nil
	s.stopTimers()
	return r
}

// bury cleans up after a session: its subscriptions, what waits in it, and its Will, published now if it was not
// before [MQTT-3.1.3-9].
func (b *Broker) bury(s *Session, r remains, cause error, t *turn) {
	b.mu.Lock()
	if b.sessions[s.id] == s {
		delete(b.sessions, s.id)
	}
	b.closeAccount(s)
	b.mu.Unlock()
	for sub := range r.subs.all() {
		b.removeSubscription(sub)
	}
	b.passOn(s, t, true)
	if r.conn != nil {
		r.conn.stop(cause)
	}
	if r.will != nil {
		b.publishWill(r.will, t)
	}
	at := s.noteSession(store.Record{Kind: store.Ended}) // last, so that nothing is lost that was passed on
	for last := b.lastEnd.Load(); uint64(at) > last && !b.lastEnd.CompareAndSwap(last, uint64(at)); last = b.lastEnd.Load() {
	}
}

// publishWill publishes a Will, if its client still may [MQTT-3.1.2-8].
func (b *Broker) publishWill(w *will, t *turn) {
	if err := b.mayWrite(w.info, w.message.Topic); err != nil {
		b.log.Info("will not published", "client", w.info.ClientID, "topic", w.message.Topic, "reason", err)
		return
	}
	m := w.message
	if w.expiry > 0 {
		copied := *m
		copied.Expires = t.now.Add(w.expiry)
		m = &copied
	}
	t.pub.beginMessage(m, t.now)
	if _, err := b.publish(t, w.info, w.session.withoutWill(), 0); err != nil && !errors.Is(err, errReceiversFull) {
		b.log.Error("will not published", "client", w.info.ClientID, "topic", w.message.Topic, "reason", err)
		return
	}
	if t.pub.position == 0 {
		w.session.noteWillGone()
	}
}

// withoutWill returns the session when it has no Will, so that its end can be told with the message; nil when it has that of the
// next connection by now, whose record has replaced the one that is published.
func (s *Session) withoutWill() *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.will != nil {
		return nil
	}
	return s
}

// noteWillGone tells the store that the Will was published, unless there is another by now: that of the next connection, whose
// record has replaced it.
func (s *Session) noteWillGone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.will == nil {
		s.noteSession(store.Record{Kind: store.WillGone})
	}
}
