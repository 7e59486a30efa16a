package broker

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// stats are the broker's counters. Turns add to them once each.
type stats struct {
	connected      atomic.Int64 // clients
	most           atomic.Int64 // connected at a time
	refused        atomic.Int64 // messages not accepted from clients
	unkept         atomic.Int64 // records that the store had no room for
	expired        atomic.Int64 // sessions
	queuedMessages atomic.Int64
	queuedBytes    atomic.Int64
	inFlightBytes  atomic.Int64 // in steps, see settleQueue
	bytesIn        atomic.Int64
	bytesOut       atomic.Int64
	packetsIn      [16]atomic.Int64 // by type
	publishIn      [3]atomic.Int64  // by QoS
	publishOut     [3]atomic.Int64
	payloadIn      atomic.Int64
	payloadOut     atomic.Int64
	drops          [dropReasons]atomic.Int64
	turnTimes      Histogram
	loginTimes     Histogram
}

// add adds what happened in a turn.
func (s *stats) add(t *turn) {
	addTo(&s.bytesIn, t.bytesIn)
	for i, n := range t.in {
		addTo(&s.packetsIn[i], n)
	}
	for q := range t.pubIn {
		addTo(&s.publishIn[q], t.pubIn[q])
		addTo(&s.publishOut[q], t.pubOut[q])
	}
	addTo(&s.payloadIn, t.pubInB)
	addTo(&s.payloadOut, t.pubOutB)
	if t.bytesIn > 0 {
		s.turnTimes.observe(time.Since(t.now))
	}
}

func addTo(counter *atomic.Int64, n int) {
	if n != 0 {
		counter.Add(int64(n))
	}
}

// Histogram counts durations in buckets that double, the first up to 16 µs, the last without end.
type Histogram struct {
	buckets [20]atomic.Int64
	sum     atomic.Int64
}

func (h *Histogram) observe(d time.Duration) {
	i := 0
	for limit := 16 * time.Microsecond; d > limit && i < len(h.buckets)-1; limit *= 2 {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Buckets returns, for each upper bound, how many durations were at most that long; and how many there were, and their sum.
func (h *Histogram) Buckets() (upTo map[time.Duration]int64, count int64, sum time.Duration) {
	upTo = make(map[time.Duration]int64)
	limit := 16 * time.Microsecond
	for i := range h.buckets {
		count += h.buckets[i].Load()
		if i < len(h.buckets)-1 {
			upTo[limit] = count
		}
		limit *= 2
	}
	return upTo, count, time.Duration(h.sum.Load())
}

// Stats are numbers about the broker, read while it runs, so not all at the same instant.
type Stats struct {
	Durability                   string // Config.Durability
	Started                      time.Time
	Connections                  int // network connections, accepted or not yet
	Connected, MaxConnected      int // clients
	Sessions                     int // connected or not
	ExpiredSessions              int64
	Subscriptions                int // shared ones included
	SharedGroups                 int
	Retained, RetainedBytes      int
	QueuedMessages, QueuedBytes  int64 // waiting in sessions
	BytesReceived, BytesSent     int64
	PacketsReceived              map[mqtt.PacketType]int64
	MessagesReceived             [3]int64 // PUBLISH by QoS
	MessagesSent                 [3]int64
	PayloadReceived, PayloadSent int64 // bytes
	Refused                      int64 // messages not accepted: not authorized, or invalid
	Dropped                      map[DropReason]int64
	Logins                       *Histogram // of clients let in: from their connection to the CONNACK
	MemoryLimit, MemoryUsed      int64      // bytes; a limit of zero is none
	MemoryLevel                  MemoryLevel
	MemoryDisconnects            int64      // connections that ended because memory was short
	Turns                        *Histogram // from reading a batch of packets to having written what follows from it
}

// Stats returns the numbers of now.
func (b *Broker) Stats() Stats {
	s := &b.stats
	st := Stats{
		Durability: cmp.Or(b.config.Durability, "memory"),
		Started:    b.started, Connected: int(s.connected.Load()), MaxConnected: int(s.most.Load()), ExpiredSessions: s.expired.Load(),
		QueuedMessages: s.queuedMessages.Load(), QueuedBytes: s.queuedBytes.Load(),
		BytesReceived: s.bytesIn.Load(), BytesSent: s.bytesOut.Load(),
		PayloadReceived: s.payloadIn.Load(), PayloadSent: s.payloadOut.Load(), Refused: s.refused.Load(),
		PacketsReceived: make(map[mqtt.PacketType]int64), Dropped: make(map[DropReason]int64), Turns: &s.turnTimes, Logins: &s.loginTimes,
	}
	m := &b.memory
	st.MemoryLimit, st.MemoryUsed, st.MemoryLevel, st.MemoryDisconnects = m.limit, m.used(), m.now(), m.disconnected.Load()
	for i := range s.packetsIn {
		if i > 0 {
			st.PacketsReceived[mqtt.PacketType(i)] = s.packetsIn[i].Load()
		}
	}
	for q := range s.publishIn {
		st.MessagesReceived[q], st.MessagesSent[q] = s.publishIn[q].Load(), s.publishOut[q].Load()
	}
	for r := range s.drops {
		st.Dropped[DropReason(r)] = s.drops[r].Load()
	}
	b.mu.RLock()
	st.Sessions, st.Connections = len(b.sessions), len(b.conns)
	b.mu.RUnlock()
	b.subs.mu.RLock()
	st.Subscriptions, st.SharedGroups = b.subs.tree.Len(), b.subs.shared.Len()
	for _, g := range b.subs.shared.All() {
		st.Subscriptions += len(g.Value.members)
	}
	b.subs.mu.RUnlock()
	b.retained.mu.RLock()
	st.Retained, st.RetainedBytes = b.retained.tree.Len(), b.retained.bytes
	b.retained.mu.RUnlock()
	return st
}
