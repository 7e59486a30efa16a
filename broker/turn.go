package broker

import (
	"sync"
	"time"

	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// turn is one batch of work on one goroutine: as a rule, everything that one read brought. It collects the connections
// that have something to write, so that each is written once, and the counts, so that shared counters are touched once. It
// lends its scratch space to the router. Nobody keeps one.
type turn struct {
	broker *Broker
	now    time.Time
	dirty  []*conn
	heavy  []*conn // of dirty, with so much to write that it should not wait for the end

	looped    bool // on a loop, which must not wait
	unflushed int  // bytes appended to outboxes since the last flush

	pub      publication
	matches  []topic.Entry[*Session, *subscription]
	groups   []topic.Entry[string, *shareGroup]
	targets  []*subscription // who gets it
	stored   []bool          // which of targets the store knows to be waiting
	refused  []refusal       // who would get it, but for a quota
	merged   []subscription
	mergedAt map[*Session]int
	items    []topic.Item[kept]

	record     store.Record
	recipients []store.Recipient
	places     []session.Place

	bytesIn  int
	bytesOut int     // appended to outboxes
	in       [16]int // packets received by type
	pubIn    [3]int  // PUBLISH received by QoS
	pubOut   [3]int  // PUBLISH sent by QoS
	pubInB   int     // payload bytes
	pubOutB  int
}

var turns = sync.Pool{New: func() any { return new(turn) }}

func (b *Broker) beginTurn() *turn {
	t := turns.Get().(*turn)
	t.broker, t.now = b, time.Now()
	return t
}

// flush writes every outbox that was appended to. Call it before anything that may block.
func (t *turn) flush() {
	for i := 0; i < len(t.dirty); i++ { // flushing one may make another dirty
		t.dirty[i].flush(t)
	}
	clear(t.dirty)
	t.dirty = t.dirty[:0]
	clear(t.heavy)
	t.heavy = t.heavy[:0]
	t.unflushed = 0
}

// flushAfter is how many bytes may wait for the end of a turn, in all outboxes together, and heavyAfter in one: a large message to many
// receivers would else be copied for each of them before the first copy is written.
const (
	flushAfter = 4 << 20
	heavyAfter = readSize * 3 / 4
)

// relieve writes what is too much to wait for the end. Call it where flush may be called.
func (t *turn) relieve() {
	if t.unflushed > flushAfter {
		t.flush()
	}
	for i, c := range t.heavy {
		t.heavy[i] = nil
		c.flush(t)
	}
	t.heavy = t.heavy[:0]
}

// end flushes, counts and gives the turn back.
func (t *turn) end() {
	t.flush()
	t.broker.stats.add(t)
	t.forget()
	turns.Put(t)
}

// forget drops the message and the counts. References in the scratch space stay until the next turn overwrites them, or the
// pool lets the turn go; clearing them would cost every turn something.
func (t *turn) forget() {
	t.pub.reset()
	*t = turn{
		dirty: t.dirty[:0], heavy: t.heavy[:0], pub: t.pub, mergedAt: t.mergedAt,
		matches: small(t.matches), groups: small(t.groups), targets: small(t.targets), stored: small(t.stored), refused: small(t.refused),
		recipients: small(t.recipients), places: t.places[:0], merged: small(t.merged), items: small(t.items),
	}
}

// small lets go of scratch space that one large fan-out made.
func small[S ~[]E, E any](s S) S {
	if cap(s) > 16<<10 {
		return nil
	}
	return s[:0]
}
