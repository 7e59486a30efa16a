package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// MemoryLevel says how near the process is to Limits.Memory.
type MemoryLevel uint8

// The levels.
const (
	MemoryNormal MemoryLevel = iota
	MemorySoft               // from 85 % of the limit until it is below 80 %: nobody new comes in, and what is kept does not grow
	MemoryHard               // from 95 % until it is below 90 %: QoS 0 is dropped, and who holds most is disconnected
)

var levelNames = [...]string{"normal", "soft", "hard"}

// String returns "normal", "soft" or "hard".
func (l MemoryLevel) String() string { return levelNames[l] }

// The levels begin and end at these parts of the limit, in percent.
var levelBegins, levelEnds = [...]int64{0, 85, 95}, [...]int64{0, 80, 90}

const (
	memoryInterval = 250 * time.Millisecond // between two looks
	collectEvery   = 10 * time.Second       // between two forced collections, but for those that save a client
	victimTime     = time.Second            // that a client to be disconnected has before the next one follows
	memoryStep     = 16 << 10               // bytes by which a connection or a session may differ from what is counted
	smallHolder    = 1 << 20                // bytes for which nobody is disconnected
	smallGrowth    = 4 << 10                // bytes of what is kept for which nothing is refused at the soft level
	smallSession   = 64 << 10               // bytes that each session may keep at every level, in messages as in subscriptions
	connCost       = 8 << 10                // bytes of an idle connection, about
	itemCost       = 256                    // bytes of a retained message or a subscription beside its content, about
)

// memory watches the budget of the whole process, Limits.Memory.
//
// A look at the runtime's own figure four times a second is exact but late: between two looks a peer on a fast network sends
// more than a small limit has left. So everything that lasts longer than a turn is counted as it comes and goes, in held: what
// waits in outboxes, messages in sessions, unfinished packets, retained messages, subscriptions. That sum is neither complete (no
// garbage, no maps, no stacks) nor exact (a message that a hundred sessions share counts a hundred times). But its change since the last
// look, added to what that look found, is a good guess of what the next one will find. The guess raises the level at once, wherever
// the count passes alarm; only a look lowers it, and corrects what was guessed.
//
// The levels close the places where clients make the process grow:
//
//	                            soft                          hard
//	new connections             wait, four a second may stay  wait
//	an outbox takes             a quarter                     a sixteenth, nothing of QoS 0, one large message at a time
//	QoS 1, 2 for a session      beyond 64 KiB: in the store, or refused without one
//	retained, subscriptions     are refused when they grow much
//	unfinished packets          have a budget of their own at every level, see unfinished
//	the largest holder                                        is disconnected, one at a time
//
// Nothing of that asks who the client is: who holds little is not touched.
type memory struct {
	limit    int64 // bytes; zero: none, and nothing happens here
	used     func() int64
	collect  func()
	outboxes [3]int64 // how much an outbox takes, by level

	level        atomic.Int32
	outbox       atomic.Int64 // the one of outboxes that holds
	held         atomic.Int64
	alarm        atomic.Int64 // what held may reach before the next look
	disconnected atomic.Int64 // connections that ended for their memory

	urgent chan struct{} // has room for one: look at once
	door   chan struct{} // each element lets one connection in at the soft level

	mu       sync.Mutex            // guards all below; no other lock is taken under it
	seen     int64                 // what the last look found
	base     int64                 // held at that time
	calm     chan struct{}         // closed when the level falls
	deferred map[*Session]struct{} // have something to send when memory is less short

	// The goroutine that looks owns these.
	told      MemoryLevel
	collected time.Time
	victim    *conn // disconnected last
	victimAt  time.Time
	clients   int64 // connected at the last look
	tidied    int64 // when garbage was collected for their number
}

func (m *memory) init(l *Limits, cfg *Config) {
	m.limit, m.used, m.collect = l.Memory, cfg.MemoryUsed, cfg.collect
	if m.used == nil {
		m.used = memoryUsed
	}
	if m.collect == nil {
		m.collect = debug.FreeOSMemory
	}
	out := int64(l.OutboxBytes)
	m.outboxes = [3]int64{out, max(out/4, min(out, memoryStep)), max(out/16, min(out, memoryStep))}
	m.urgent, m.door, m.calm = make(chan struct{}, 1), make(chan struct{}, doorStep), make(chan struct{})
	m.deferred = make(map[*Session]struct{})
	m.set(MemoryNormal)
}

// packetShare is the part of the limit that unfinished packets may take.
const packetShare = 8

// checkMemory refuses limits that do not go together.
func (b *Broker) checkMemory() error {
	l := &b.limits
	if l.Memory == 0 {
		return nil
	}
	sizes := []int{l.PacketSize}
	for _, c := range b.config.Listeners {
		sizes = append(sizes, c.MaxPacketSize)
	}
	for _, n := range sizes {
		if int64(n) > l.Memory/packetShare {
			return fmt.Errorf("packet size limit of %d bytes: must be at most an eighth of the memory limit of %d bytes", n, l.Memory)
		}
	}
	return nil
}

// memoryUsed returns the bytes that the process has from the system for its heap, stacks and the runtime itself.
func memoryUsed() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}

// now returns the level.
func (m *memory) now() MemoryLevel { return MemoryLevel(m.level.Load()) }

// tight reports whether nothing is to grow.
func (m *memory) tight() bool { return m.now() >= MemorySoft }

// part returns a percentage of the limit.
func (m *memory) part(percent int64) int64 { return part(m.limit, percent) }

func part(n, percent int64) int64 { return n/100*percent + n%100*percent/100 }

// reached returns the level of so many bytes, when it was the given one before.
func (m *memory) reached(bytes int64, before MemoryLevel) MemoryLevel {
	for l := MemoryHard; l > MemoryNormal; l-- {
		if bytes >= m.part(levelBegins[l]) || l <= before && bytes >= m.part(levelEnds[l]) {
			return l
		}
	}
	return MemoryNormal
}

// set makes l the level. The caller holds m.mu, and afterwards nobody waits who need not.
func (m *memory) set(l MemoryLevel) {
	before := m.now()
	m.level.Store(int32(l))
	m.outbox.Store(m.outboxes[l])
	if l == MemoryHard || m.limit == 0 {
		m.alarm.Store(1<<63 - 1)
	} else {
		m.alarm.Store(m.base + m.part(levelBegins[l+1]) - m.seen)
	}
	if l < before || l == MemoryNormal {
		close(m.calm)
		m.calm = make(chan struct{})
	}
}

// add counts n bytes that are kept, or are not any more when n is negative.
func (m *memory) add(n int64) {
	if m.limit == 0 || n == 0 {
		return
	}
	if held := m.held.Add(n); n > 0 && held > m.alarm.Load() {
		m.raise(held)
	}
}

// raise raises the level because of what is held now.
func (m *memory) raise(held int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.reached(m.seen+held-m.base, MemoryNormal); l > m.now() {
		m.set(l)
	}
	select {
	case m.urgent <- struct{}{}:
	default:
	}
}

// measure looks at what is used and sets the level.
func (m *memory) measure() (used int64, l MemoryLevel) {
	used = m.used()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen, m.base = used, m.held.Load()
	l = m.reached(used, m.told) // what was raised since is a guess, and counts no more
	m.set(l)
	return used, l
}

// doorStep is how many connections may come in at once at the soft level, if nobody came for a while.
const doorStep = 4

// admit waits until a new connection may come in; ok is false when that is over. It waits in the kernel's queue meanwhile, where
// it costs us nothing: its client sees a server that is slow, and not one that is gone, which it would ask again and again. squeezed is
// true for one that came in at the soft level: when it ends, another may take its place, so that those who have given up meanwhile keep
// nobody waiting.
func (m *memory) admit(ends ...context.Context) (squeezed, ok bool) {
	for {
		m.mu.Lock()
		calm := m.calm
		m.mu.Unlock()
		var door <-chan struct{}
		switch m.now() {
		case MemoryNormal:
			return false, true
		case MemorySoft:
			door = m.door
		}
		select {
		case <-calm:
		case <-door:
			return true, true
		case <-ends[0].Done():
			return false, false
		case <-ends[1].Done():
			return false, false
		}
	}
}

// openDoor lets one more connection in at the soft level.
func (m *memory) openDoor() {
	select {
	case m.door <- struct{}{}:
	default:
	}
}

// defers reports whether a message of so many bytes has to wait for a better time, at which the session is pumped. inFlight is what
// the session has under way.
func (m *memory) defers(s *Session, size, inFlight int) bool {
	l := m.now()
	if l == MemoryNormal {
		return false
	}
	much := inFlight > 0 && inFlight+size > smallSession || l == MemoryHard && size > smallSession
	return much && m.later(s)
}

// later asks for a pump of the session when memory is less short, and reports whether there will be one.
func (m *memory) later(s *Session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now() == MemoryNormal {
		return false
	}
	m.deferred[s] = struct{}{}
	return true
}

// resume lets those go on that wait for a better time: their connections are written by goroutines of their own.
func (m *memory) resume() {
	m.mu.Lock()
	sessions := m.deferred
	if len(sessions) > 0 {
		m.deferred = make(map[*Session]struct{})
	}
	m.mu.Unlock()
	for s := range sessions {
		if c := s.conn.Load(); c != nil {
			c.starved.Store(true)
			c.flush(nil)
		}
	}
}

// watchMemory looks after the memory until ctx is done.
func (b *Broker) watchMemory(ctx context.Context) {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		b.look()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.memory.urgent:
		}
	}
}

// look finds out how much is used, and does what that asks for.
func (b *Broker) look() {
	m := &b.memory
	now, before := time.Now(), m.told
	used, l := m.measure()
	if l > MemoryNormal && now.Sub(m.collected) >= collectEvery {
		b.unloadAway()
		used, l = m.collectNow(now)
	}
	b.tidy(now)
	if l != before {
		b.tellMemory(memoryEvent{Event: "level", Level: l.String(), Before: before.String(), Used: used})
	}
	if m.told = l; l != before {
		b.restrainListeners(l > MemoryNormal)
	}
	switch {
	case l == MemoryHard && used >= m.part(levelBegins[MemoryHard]):
		b.disconnectLargest(now)
	case l == MemorySoft:
		m.openDoor()
	}
	if l < MemoryHard {
		m.resume()
	}
}

// manyCame is how many clients have to come or go for their traces to be worth a collection.
const manyCame = 1000

// tidy gives back what many logins, or goodbyes, have left, once they are over.
func (b *Broker) tidy(now time.Time) {
	m := &b.memory
	clients := b.stats.connected.Load()
	calm := clients == m.clients
	m.clients = clients
	if d := clients - m.tidied; calm && (d >= manyCame || -d >= manyCame) {
		m.tidied = clients
		m.collectNow(now)
	}
}

// restrainListeners tells listeners that shake hands before their connections come here.
func (b *Broker) restrainListeners(on bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for ln := range b.listeners {
		if r, ok := ln.(interface{ Restrain(on bool) }); ok {
			r.Restrain(on)
		}
	}
}

// collectNow frees what is garbage, and gives it back to the system.
func (m *memory) collectNow(now time.Time) (used int64, l MemoryLevel) {
	m.collect()
	m.collected = now
	return m.measure()
}

// unloadAway lets the store alone have what waits for clients that are away.
func (b *Broker) unloadAway() {
	if b.store == nil {
		return
	}
	for _, s := range b.allSessions() {
		s.mu.Lock()
		if s.conn.Load() == nil && s.out.Held() > 0 {
			s.out.Unload()
			s.settleMemory()
		}
		s.mu.Unlock()
	}
}

func (b *Broker) allSessions() []*Session {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*Session, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	return all
}

// errMemory ends connections for the memory that they hold.
var errMemory = fmt.Errorf("%w: the server is short of memory", mqtt.QuotaExceeded)

// disconnectLargest disconnects who holds most, when somebody holds much, and not before garbage was collected: nobody is to pay for what
// nobody holds. One goes at a time, and the next not before that is gone.
func (b *Broker) disconnectLargest(now time.Time) {
	m := &b.memory
	if v := m.victim; v != nil && !v.freed.Load() && now.Sub(m.victimAt) < victimTime {
		return
	}
	c, bytes := b.largestHolder()
	if c == nil {
		return
	}
	used, _ := m.collectNow(now)
	if used < m.part(levelBegins[MemoryHard]) {
		return
	}
	m.victim, m.victimAt = c, now
	event := memoryEvent{Event: "disconnect", Level: MemoryHard.String(), Used: used, Held: bytes}
	if c.accepted.Load() {
		event.Client = c.session.id
	}
	c.evict(fmt.Errorf("%w, and this connection held %d bytes", errMemory, bytes))
	b.tellMemory(event)
}

// evict ends the connection for its memory, and lets go of what it has not begun to write.
func (c *conn) evict(cause error) {
	c.broker.memory.disconnected.Add(1)
	c.short.Store(true)
	c.stop(cause)
	c.mu.Lock()
	n := c.dropOutbox()
	c.mu.Unlock()
	c.pending.Add(int64(-n))
	c.settleOutbox()
}

// largestHolder returns the connection whose end frees most: of those that nobody vouches for, if one of them holds much, else of all.
func (b *Broker) largestHolder() (largest *conn, most int64) {
	b.mu.RLock()
	all := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		all = append(all, c)
	}
	b.mu.RUnlock()
	anonymous := false
	for _, c := range all {
		n := c.holds()
		if n <= smallHolder || c.ending() != nil {
			continue
		}
		nobody := c.nobody()
		if largest == nil || nobody && !anonymous || nobody == anonymous && n > most {
			largest, most, anonymous = c, n, nobody
		}
	}
	return largest, most
}

// nobody reports whether no authentication stands behind the connection.
func (c *conn) nobody() bool {
	if !c.accepted.Load() {
		return true
	}
	info := c.session.info.Load()
	return info == nil || info.User == ""
}

// holds returns how many bytes the end of the connection would free.
func (c *conn) holds() int64 {
	n := c.pending.Load() + c.unfinished.Load() + c.aliasBytes.Load()
	if !c.accepted.Load() {
		return n
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.Load() != c:
	case s.expiry == 0:
		n += int64(s.out.Held()) + s.subscriptionBytes() + int64(s.in.Open())*32
	default:
		n += int64(s.out.Stored())
	}
	return n
}

// subscriptionBytes returns about how many bytes the subscriptions take. The caller holds s.mu.
func (s *Session) subscriptionBytes() (n int64) {
	for sub := range s.subs.all() {
		n += sub.cost()
	}
	return n
}

// cost returns about how many bytes the subscription takes: a filter of many levels needs a node for each.
func (s *subscription) cost() int64 {
	return int64(len(s.Filter)) + itemCost + int64(strings.Count(s.filter, "/"))*itemCost/2
}

// settleMemory counts the messages that the session keeps in memory. The caller holds s.mu.
func (s *Session) settleMemory() {
	m := &s.broker.memory
	if m.limit == 0 {
		return
	}
	held := s.out.Held()
	if d := held - s.settledHeld; held == 0 && d != 0 || d >= memoryStep || -d >= memoryStep {
		m.add(int64(d))
		s.settledHeld = held
	}
	set(&s.heavy, held >= smallSession)
}

// settleOutbox counts what waits in the outbox.
func (c *conn) settleOutbox() {
	m := &c.broker.memory
	if m.limit == 0 {
		return
	}
	for {
		now, before := c.pending.Load(), c.settled.Load()
		if d := now - before; before == settledForGood || -memoryStep < d && d < memoryStep {
			return
		}
		if c.settled.CompareAndSwap(before, now) {
			m.add(now - before)
			return
		}
	}
}

// settledForGood is the count of a connection that has ended.
const settledForGood = -1 << 63

// release counts everything out that the connection kept.
func (m *memory) release(c *conn) {
	if m.limit == 0 {
		return
	}
	if before := c.settled.Swap(settledForGood); before != settledForGood {
		m.add(-before)
	}
	m.add(-c.aliasBytes.Swap(0) - connCost)
	if c.squeezed {
		m.openDoor()
	}
}

// refuses reports whether the session may not keep one more message: memory is short, the session keeps some already, and there
// is no store to keep them.
func (m *memory) refuses(s *Session) bool {
	return m.tight() && s.broker.store == nil && s.heavy.Load()
}

// dropsQoS0 reports whether a message of QoS 0 is dropped. What the server says about itself is not.
func (m *memory) dropsQoS0(name string) bool {
	return m.now() == MemoryHard && !strings.HasPrefix(name, "$SYS/")
}

// What clients leave behind may take these parts of the limit, in percent: together less than what the soft level begins with, so that it
// alone does not keep others out.
const (
	retainedPart = 33
	queuesPart   = 25 // without a store
)

var errRetainedFull = fmt.Errorf("retained messages take %d %% of the memory limit", retainedPart)

// admitRetained decides whether retained messages may grow by that many bytes.
func (m *memory) admitRetained(retained, growth int64) error {
	switch {
	case m.limit == 0 || growth <= 0:
	case growth > smallGrowth && m.tight():
		return errMemory
	case retained+growth > m.part(retainedPart):
		return fmt.Errorf("%w: %w", mqtt.QuotaExceeded, errRetainedFull)
	}
	return nil
}

// admitSubscription decides whether the session may have one more subscription. The caller holds s.mu.
func (m *memory) admitSubscription(s *Session) error {
	if m.tight() && s.subscriptionBytes() > smallSession {
		return errMemory
	}
	return nil
}

// admitAlias decides whether the client may give an alias to the name, in place of another, and counts it. Long ones only
// are worth that.
func (c *conn) admitAlias(alias uint16, name string) error {
	m := &c.broker.memory
	if m.limit == 0 || len(name) <= topicCacheBytes {
		return nil
	}
	if m.tight() {
		return errMemory
	}
	n := int64(len(name))
	if old, err := c.aliases.Get(alias); err == nil && len(old) > topicCacheBytes {
		n -= int64(len(old))
	}
	c.aliasBytes.Add(n)
	m.add(n)
	return nil
}

// memoryEvent is the payload of $SYS/broker/event/memory.
type memoryEvent struct {
	Time   time.Time `json:"time"`
	Event  string    `json:"event"` // level or disconnect
	Level  string    `json:"level"`
	Before string    `json:"before,omitempty"` // of a change: the level
	Used   int64     `json:"used"`             // bytes
	Limit  int64     `json:"limit"`
	Client string    `json:"client,omitempty"` // of a disconnect
	Held   int64     `json:"held,omitempty"`   // bytes that the client held
}

// tellMemory logs and publishes what happened.
func (b *Broker) tellMemory(e memoryEvent) {
	e.Time, e.Limit = time.Now().UTC().Truncate(time.Millisecond), b.memory.limit
	if e.Event == "level" {
		b.log.Warn("memory level", "level", e.Level, "before", e.Before, "used", e.Used, "limit", e.Limit)
	} else {
		b.log.Warn("disconnecting the client that holds most memory", "client", e.Client, "held", e.Held, "used", e.Used, "limit", e.Limit)
	}
	if b.config.SysInterval < 0 {
		return
	}
	payload, err := json.Marshal(e)
	if err != nil {
		panic(err) // a struct of texts and numbers
	}
	_ = b.Publish(&mqtt.Message{Topic: memoryTopic, Payload: payload, QoS: mqtt.AtLeastOnce})
}

const memoryTopic = "$SYS/broker/event/memory"
