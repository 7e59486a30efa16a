package loadgen

import (
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// subscriber is what a connection has received.
type subscriber struct {
	conn *conn
	lane *lane

	got        int64    // messages of its group, for the window
	unreleased []uint64 // a bit for each Packet Identifier of QoS 2 whose PUBREL has not come
}

// ours reports whether a message may be of this run, or of any when there are no publishers here.
func (l *loop) ours(s *stamp, size int) bool {
	if l.relation == nobody {
		return s.seq > 0 && s.seq < 1<<32 && s.pub < 1<<24
	}
	return s.run == l.id && size == l.plan.Size && int(s.pub) < len(l.all) && s.seq > 0 && s.seq <= l.all[s.pub].sent.Load()
}

// arrive takes a message and answers it.
func (l *loop) arrive(c *conn, a *arrival) {
	s := c.sub
	if s == nil {
		return // somebody else's, on a connection that only is there: it has subscribed with QoS 0
	}
	if a.qos == mqtt.ExactlyOnce {
		if !s.hold(a.id) {
			l.duplicated++ // the answer was lost, or so the broker thinks
		} else {
			l.message(s, a)
		}
		l.answer(c, byte(mqtt.PUBREC)<<4, a.id)
		return
	}
	l.message(s, a)
	if a.qos == mqtt.AtLeastOnce {
		l.answer(c, byte(mqtt.PUBACK)<<4, a.id)
	}
}

// hold notes that a message of QoS 2 has come, and reports false if it had come before.
func (s *subscriber) hold(id uint16) bool {
	if s.unreleased == nil {
		s.unreleased = make([]uint64, 1<<16/64)
	}
	word, bit := &s.unreleased[id>>6], uint64(1)<<(id&63)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// release takes a PUBREL.
func (l *loop) release(s *subscriber, id uint16) {
	if s.unreleased != nil {
		s.unreleased[id>>6] &^= 1 << (id & 63)
	}
	l.answer(s.conn, byte(mqtt.PUBCOMP)<<4, id) // [MQTT-4.3.3-11]
}

// message judges a message.
func (l *loop) message(s *subscriber, a *arrival) {
	if l.leaving {
		return // what removes the retained ones
	}
	if !a.ours || l.relation == own && int(a.stamp.pub) != s.conn.number {
		l.foreign++
		l.lastSeen = l.now
		return
	}
	switch l.judge(s, &a.stamp) {
	case duplicate:
		l.duplicated++
		return
	case late:
		l.outOfOrder++
	}
	l.unique++
	l.lastSeen = l.now
	if s.lane != nil {
		s.lane.arrived(s)
	}
	if a.stamp.time >= l.from && a.stamp.time < l.until {
		l.latency.add(l.now - a.stamp.time)
	}
}

// judge compares a message with those before it.
func (l *loop) judge(s *subscriber, m *stamp) verdict {
	switch l.relation {
	case own:
		return l.order.arrive(int(m.pub), uint32(m.seq))
	case every:
		return l.order.arrive(s.conn.number*len(l.all)+int(m.pub), uint32(m.seq))
	case shared:
		return l.members.judge(s.conn.number, m)
	}
	return l.strangers.judge(s.conn.number, m)
}

// members are those who share a subscription. Each message comes to one of them; each of them gets its messages in order.
type members struct {
	mu      sync.Mutex // guards all below
	all     *order     // by publisher
	highest []uint32   // by member and publisher
	pubs    int
}

func newMembers(p *Plan) *members {
	return &members{all: newOrder(p.Publishers, 1<<12), highest: make([]uint32, p.Publishers*p.Subscribers), pubs: p.Publishers}
}

func (g *members) judge(member int, m *stamp) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all.arrive(int(m.pub), uint32(m.seq)) == duplicate {
		return duplicate
	}
	highest := &g.highest[member*g.pubs+int(m.pub)]
	if uint32(m.seq) < *highest {
		return late
	}
	*highest = uint32(m.seq)
	return fresh
}

// strangers are publishers of other processes.
type strangers struct {
	mu      sync.Mutex // guards all below
	shared  bool       // whether the subscribers share their subscription
	streams map[streamKey]*track
}

// streamKey names the messages of a publisher at a subscriber, which is 0 when they share a subscription.
type streamKey struct {
	run, pub   uint32
	subscriber int
}

// track is what has come of a publisher.
type track struct {
	*order
	first, count uint32
}

// mostStrangers bounds what payloads of anybody can make a subscriber remember.
const mostStrangers = 100_000

func (g *strangers) judge(subscriber int, m *stamp) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := streamKey{m.run, m.pub, subscriber}
	if g.shared {
		k.subscriber = 0
	}
	seq := uint32(m.seq)
	s := g.streams[k]
	if s == nil {
		if len(g.streams) == mostStrangers {
			return fresh
		}
		s = &track{newOrder(1, 1<<10), seq, 0}
		g.streams[k] = s
	}
	v := s.arrive(0, seq)
	if v != duplicate {
		s.first = min(s.first, seq)
		s.count++
	}
	if v == late && g.shared {
		return fresh // the order among members is nobody's promise
	}
	return v
}

// missing counts the gaps in what has come.
func (g *strangers) missing() (n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.streams {
		n += uint64(s.highest[0] - s.first + 1 - min(s.count, s.highest[0]-s.first+1))
	}
	return n
}
