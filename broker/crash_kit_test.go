package broker

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// The tests that take the power away need clients whose whole knowledge can be copied at any moment: a party is such a client. It
// has no goroutine that decides anything; a driver looks at what has arrived for it and answers. So the state of all parties and
// the state of the disk belong to one instant, and that instant can be continued many times: each time with other sectors lost.

// link is one connection of a party. What arrives waits in it until the driver looks.
type link struct {
	nc net.Conn

	mu    sync.Mutex // guards all below
	in    []byte
	ended bool
}

func (s *stage) dial() *link {
	nc, server := s.pair()
	s.b.ServeConn(server)
	l := &link{nc: nc}
	go l.read()
	return l
}

func (l *link) read() {
	chunk := make([]byte, 4<<10)
	for {
		n, err := l.nc.Read(chunk)
		l.mu.Lock()
		l.in, l.ended = append(l.in, chunk[:n]...), err != nil
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// send writes; the broker may have closed the connection.
func (l *link) send(b []byte) { _, _ = l.nc.Write(b) }

// next takes the first whole packet that has arrived, nil when there is none.
func (l *link) next(v mqtt.Version) (packet any, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, size, err := mqtt.ParseFrame(l.in, v, mqtt.MaxPacket)
	if err != nil || size == 0 || size > len(l.in) {
		return nil, err
	}
	packet, err = decode(f, v)
	l.in = l.in[size:]
	return packet, err
}

func (l *link) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended && len(l.in) == 0
}

// certainty is what a party knows about one of its subscriptions.
type certainty byte

const (
	absent certainty = iota // never made, or its end was acknowledged
	asked                   // SUBSCRIBE or UNSUBSCRIBE was sent and not answered
	sure                    // SUBACK has come
)

// handshake is one that a party has open as a sender.
type handshake struct {
	id       uint16
	n        int  // of the posting
	released bool // PUBREC has come
}

// stream is what order is kept within.
type stream struct {
	from           int
	name           string
	published, qos mqtt.QoS
}

// request is a SUBSCRIBE or UNSUBSCRIBE under way.
type request struct {
	filter string
	made   bool
}

// party is a client that keeps to the rules, and remembers.
type party struct {
	// What it is like; the same for ever.
	index   int
	id      string
	v       mqtt.Version
	lasting bool   // it has a session that outlives connections
	window  int    // its Receive Maximum; 0 for the default
	wills   bool   // it leaves one on every connection
	delay   uint32 // of its Wills, in seconds
	expiry  uint32 // of its session, in seconds; 0 for long
	slow    bool   // it may hold its answers back for longer
	filters map[string]mqtt.QoS

	// What it knows; it is copied with the state of the disk.
	clean   bool // it wants a new session, and has not been given one
	brief   bool // its session ends with its connection
	firm    bool // something was acknowledged that the broker can know of only if it has the session
	subs    map[string]certainty
	open    map[uint16]bool // QoS 2 received and not released
	sending []handshake     // in order
	lastID  uint16
	got     map[int]*[3]int // how often each posting came, by QoS
	last    map[stream]int

	// The connection.
	link     *link
	welcome  bool // CONNACK has come
	requests map[uint16]request
	owed     [][]byte // answers that it has not given yet
	will     int      // number of the posting; -1 for none
	willFirm bool     // the broker must know of it
	holds    bool     // its answers back
	history  []string // what it saw, for those who compare
	told     int      // how much of that is in order
}

func (p *party) clone() *party {
	q := *p
	q.subs, q.open, q.sending, q.last = maps.Clone(p.subs), maps.Clone(p.open), slices.Clone(p.sending), maps.Clone(p.last)
	q.got = make(map[int]*[3]int, len(p.got))
	for n, times := range p.got {
		copied := *times
		q.got[n] = &copied
	}
	q.link, q.owed, q.requests, q.history = nil, nil, nil, nil
	return &q
}

// fate is what has become of a posting.
type fate byte

const (
	unsettled fate = iota
	accepted       // acknowledged; or a Will that the broker must publish
	void           // its publisher has forgotten it, or the broker has refused it: it may come or not
)

// posting is one message, whose payload begins with its number.
type posting struct {
	n      int
	from   int // index of the party
	name   string
	qos    mqtt.QoS
	retain bool
	empty  bool // removes what is retained
	will   bool
	fate   fate
	must   []bool // who has to get it, by index of the party
	exact  []bool // and exactly once
	group  bool   // a member of the shared subscription has to get it
}

// ledger is what all parties know together.
type ledger struct {
	parties  []*party
	postings []*posting
	retained map[string][]int // numbers of what was sent to be retained, in order
}

const shared = "$share/g/s/#"

// add adds a party that knows nothing yet.
func (l *ledger) add(p party) *party {
	p.index, p.will = len(l.parties), -1
	p.subs, p.open, p.got, p.last = map[string]certainty{}, map[uint16]bool{}, map[int]*[3]int{}, map[stream]int{}
	l.parties = append(l.parties, &p)
	return &p
}

func newLedger() *ledger {
	l := &ledger{retained: make(map[string][]int)}
	l.add(party{id: "a", v: mqtt.V311, lasting: true, filters: map[string]mqtt.QoS{"t/#": 2, "w/+": 2}})
	l.add(party{id: "b", v: mqtt.V5, lasting: true, filters: map[string]mqtt.QoS{"t/0": 1, "t/+": 2, "r/#": 1, "w/#": 1}, wills: true})
	l.add(party{id: "m", v: mqtt.V5, lasting: true, filters: map[string]mqtt.QoS{shared: 2, "r/+/2": 2}})
	l.add(party{id: "n", v: mqtt.V311, lasting: true, filters: map[string]mqtt.QoS{shared: 2, "t/1": 1}, wills: true})
	l.add(party{id: "v", v: mqtt.V5, wills: true})
	l.add(party{id: "x", v: mqtt.V5, lasting: true, window: 2, filters: map[string]mqtt.QoS{"t/#": 1, "t/1": 2, "w/v": 2}})
	return l
}

// clone copies everything as the end of all connections leaves it.
func (l *ledger) clone() *ledger {
	c := &ledger{retained: make(map[string][]int, len(l.retained))}
	for _, p := range l.parties {
		c.parties = append(c.parties, p.clone())
	}
	for _, m := range l.postings {
		copied := *m
		copied.must, copied.exact = slices.Clone(m.must), slices.Clone(m.exact)
		c.postings = append(c.postings, &copied)
	}
	for name, versions := range l.retained {
		c.retained[name] = slices.Clip(versions)
	}
	for _, p := range c.parties {
		c.lose(p, true)
	}
	return c
}

// post notes a message that is about to be sent.
func (l *ledger) post(p *party, name string, qos mqtt.QoS) *posting {
	m := &posting{n: len(l.postings) + 1, from: p.index, name: name, qos: qos}
	m.must, m.exact = make([]bool, len(l.parties)), make([]bool, len(l.parties))
	l.postings = append(l.postings, m)
	for _, to := range l.parties {
		for filter, most := range to.filters {
			got := min(qos, most)
			switch {
			case to.subs[filter] != sure || got == 0:
			case filter == shared:
				m.group = m.group || strings.HasPrefix(name, "s/")
			case topic.Match(filter, name):
				m.must[to.index] = true
				m.exact[to.index] = m.exact[to.index] || got == mqtt.ExactlyOnce
			}
		}
	}
	return m
}

// excuse frees the broker from delivering to p what it may not have routed yet, or anything at all.
func (l *ledger) excuse(p *party, all bool) {
	for _, m := range l.postings {
		if all || m.fate != accepted || m.will {
			m.must[p.index], m.exact[p.index] = false, false
		}
	}
}

// lose ends the connection of p. byAccident is false when it has said goodbye.
func (l *ledger) lose(p *party, byAccident bool) {
	if p.will >= 0 {
		m := l.postings[p.will-1]
		if m.fate = void; byAccident && p.willFirm {
			m.fate = accepted
		}
	}
	p.link, p.welcome, p.owed, p.requests, p.will, p.willFirm = nil, false, nil, nil, -1, false
	if !p.brief {
		return
	}
	for _, m := range l.postings {
		if m.fate == unsettled { // such a session gets what the store does not have yet; if that is sent again, another session may get it
			delete(p.got, m.n)
		}
	}
	l.forget(p)
}

// forget drops what p had as a session.
func (l *ledger) forget(p *party) {
	for _, h := range p.sending {
		if m := l.postings[h.n-1]; m.fate == unsettled {
			m.fate = void
		}
	}
	l.excuse(p, true)
	p.sending, p.firm = nil, false
	clear(p.subs)
	clear(p.open)
}

// settle waits until nothing moves, and lets the parties see what has come. It reports whether anything had.
func (s *stage) settle() (moved bool) {
	synctest.Wait()
	for _, p := range s.l.parties {
		moved = s.look(p) || moved
	}
	return moved
}

// look lets one party answer what has arrived.
func (s *stage) look(p *party) (moved bool) {
	for p.link != nil {
		packet, err := p.link.next(p.v)
		if err != nil {
			s.fatalf("%s: the broker sent what cannot be read: %v", p.id, err)
		}
		if packet == nil {
			if p.link.over() {
				s.note("%s has lost its connection", p.id)
				s.l.lose(p, true)
				return true
			}
			return moved
		}
		s.react(p, packet)
		moved = true
	}
	return moved
}

// connect opens a connection for p, in place of one that it may have.
func (s *stage) connect(p *party) {
	s.note("%s connects, clean %v, over %v", p.id, p.clean || !p.lasting, p.link != nil)
	if p.link != nil {
		s.l.lose(p, true)
	}
	c := mqtt.Connect{Version: p.v, ClientID: p.id, CleanStart: p.clean || !p.lasting}
	if p.v == mqtt.V5 && p.lasting {
		c.Props = c.Props.WithInt(mqtt.SessionExpiryInterval, cmp.Or(p.expiry, 100_000))
	}
	if p.window > 0 {
		c.Props = c.Props.WithInt(mqtt.ReceiveMaximum, uint32(p.window))
	}
	if p.wills {
		qos := mqtt.QoS(1 + s.rng.IntN(2))
		m := s.l.post(p, "w/"+p.id, qos)
		m.will, p.will = true, m.n
		c.Will = &mqtt.Will{Topic: m.name, QoS: qos, Payload: m.payload(0)}
		if p.delay > 0 {
			c.Will.Props = c.Will.Props.WithInt(mqtt.WillDelayInterval, p.delay)
		}
	}
	if c.CleanStart {
		s.l.forget(p)
	}
	p.brief = !p.lasting || c.CleanStart && p.v != mqtt.V5 // MQTT 3 knows no new session that stays
	p.requests = make(map[uint16]request)
	p.link = s.dial()
	s.links = append(s.links, p.link)
	p.link.send(c.Append(nil))
}

func (m *posting) payload(padding int) []byte {
	return []byte(fmt.Sprintf("%d:%s", m.n, strings.Repeat("x", padding)))
}

// react is what p does about one packet.
func (s *stage) react(p *party, packet any) {
	switch a := packet.(type) {
	case mqtt.Connack:
		s.welcomed(p, a)
	case mqtt.Publish:
		s.received(p, a)
	case mqtt.Ack:
		s.acknowledged(p, a)
	case mqtt.Suback:
		s.answered(p, a.PacketID, a.Codes)
	case mqtt.Unsuback:
		s.answered(p, a.PacketID, a.Codes)
	case mqtt.Disconnect:
		s.note("%s is told %v", p.id, a.Code)
	default:
		s.fatalf("%s: got %T %+v", p.id, packet, packet)
	}
}

// welcomed takes the CONNACK and sends again what has to be [MQTT-4.4.0-1].
func (s *stage) welcomed(p *party, a mqtt.Connack) {
	s.note("%s is welcomed: %v, session present %v", p.id, a.Code, a.SessionPresent)
	if a.Code.Failed() && s.lenient {
		return
	}
	s.record(p, "CONNACK %v, present %v", a.Code, a.SessionPresent)
	if p.firm && !a.SessionPresent && !s.lapses {
		s.fatalf("%s: the session is lost", p.id)
	}
	if a.SessionPresent && (p.clean || !p.lasting) {
		s.fatalf("%s: a new session is said to be there already", p.id)
	}
	if p.welcome = true; !a.SessionPresent {
		s.l.forget(p)
	}
	p.clean = false
	for _, h := range p.sending {
		s.resend(p, h)
	}
	for _, filter := range sortedKeys(p.subs) {
		if p.subs[filter] == asked {
			s.subscribe(p, filter)
		}
	}
}

func (s *stage) resend(p *party, h handshake) {
	if h.released {
		s.note("%s sends PUBREL %d again", p.id, h.id)
		p.link.send((&mqtt.Ack{Type: mqtt.PUBREL, PacketID: h.id}).Append(nil, p.v))
		return
	}
	m := s.l.postings[h.n-1]
	s.note("%s sends %d again", p.id, m.n)
	out := mqtt.Publish{Topic: []byte(m.name), QoS: m.qos, Retain: m.retain, PacketID: h.id, Dup: true}
	if !m.empty {
		out.Payload = m.payload(0)
	}
	p.link.send(out.Append(nil, p.v))
}

// publish sends a new message.
func (s *stage) publish(p *party, name string, qos mqtt.QoS, retain, empty bool) {
	m := s.l.post(p, name, qos)
	m.retain, m.empty = retain, empty
	out := mqtt.Publish{Topic: []byte(name), QoS: qos, Retain: retain}
	if !empty {
		out.Payload = m.payload(s.rng.IntN(120))
	}
	if retain {
		s.l.retained[name] = append(s.l.retained[name], m.n)
	}
	if qos > 0 {
		out.PacketID = p.newID()
		p.sending = append(p.sending, handshake{id: out.PacketID, n: m.n})
	} else {
		m.fate = void
	}
	s.note("%s publishes %d on %s, QoS %d, identifier %d", p.id, m.n, name, qos, out.PacketID)
	p.link.send(out.Append(nil, p.v))
}

// newID returns a Packet Identifier that is free.
func (p *party) newID() uint16 {
	for {
		p.lastID = p.lastID%40 + 1 // few, so that they are used again soon
		_, taken := p.requests[p.lastID]
		if !taken && !slices.ContainsFunc(p.sending, func(h handshake) bool { return h.id == p.lastID }) {
			return p.lastID
		}
	}
}

func (s *stage) subscribe(p *party, filter string) {
	s.note("%s subscribes to %s", p.id, filter)
	if p.subs[filter] != sure {
		p.subs[filter] = asked
	}
	sub := mqtt.Subscription{Filter: filter, QoS: p.filters[filter]}
	r := mqtt.Subscribe{PacketID: p.newID(), Subscriptions: []mqtt.Subscription{sub}}
	p.requests[r.PacketID] = request{filter, true}
	p.link.send(r.Append(nil, p.v))
}

func (s *stage) unsubscribe(p *party, filter string) {
	s.note("%s unsubscribes from %s", p.id, filter)
	if p.subs[filter] != absent {
		p.subs[filter] = asked
	}
	s.l.excuse(p, false)
	r := mqtt.Unsubscribe{PacketID: p.newID(), Filters: []string{filter}}
	p.requests[r.PacketID] = request{filter, false}
	p.link.send(r.Append(nil, p.v))
}

// answered takes SUBACK and UNSUBACK.
func (s *stage) answered(p *party, id uint16, codes []mqtt.ReasonCode) {
	r, ok := p.requests[id]
	if !ok {
		s.fatalf("%s: an answer to nothing, %d", p.id, id)
	}
	delete(p.requests, id)
	s.note("%s is answered about %s: %v", p.id, r.filter, codes)
	s.record(p, "%s made %v: %v", r.filter, r.made, codes)
	if len(codes) > 0 && codes[0].Failed() {
		if !s.lenient {
			s.fatalf("%s: %s is refused: %v", p.id, r.filter, codes)
		}
		return
	}
	if p.subs[r.filter] = absent; r.made {
		p.subs[r.filter] = sure
		p.firm, p.willFirm = !p.brief, true
	}
	for _, other := range p.requests { // a later request for the same filter may have been carried out already
		if other.filter == r.filter && other.made != r.made {
			p.subs[r.filter] = asked
		}
	}
}

// received takes a message.
func (s *stage) received(p *party, in mqtt.Publish) {
	fresh := in.QoS != mqtt.ExactlyOnce || !p.open[in.PacketID]
	if fresh {
		s.count(p, in)
	}
	switch in.QoS {
	case mqtt.AtLeastOnce:
		s.owe(p, mqtt.Ack{Type: mqtt.PUBACK, PacketID: in.PacketID})
	case mqtt.ExactlyOnce:
		p.open[in.PacketID] = true
		s.owe(p, mqtt.Ack{Type: mqtt.PUBREC, PacketID: in.PacketID})
	}
}

// count notes that a message has come, and looks at the order.
func (s *stage) count(p *party, in mqtt.Publish) {
	var n int
	if _, err := fmt.Sscanf(string(in.Payload), "%d:", &n); err != nil || n > len(s.l.postings) {
		if len(in.Payload) > 0 {
			s.fatalf("%s: got %q, which nobody has sent", p.id, in.Payload)
		}
		return
	}
	m := s.l.postings[n-1]
	if !strings.HasPrefix(m.name, "s/") {
		s.record(p, "%s of %d, QoS %d of %d, retained %v: %d", in.Topic, m.from, in.QoS, m.qos, in.Retain, n)
	}
	if in.Retain {
		return // a copy because of a subscription
	}
	s.note("%s gets%d of %s on %s, QoS %d, identifier %d, dup %v", p.id, n, s.l.parties[m.from].id, in.Topic, in.QoS, in.PacketID, in.Dup)
	if string(in.Topic) != m.name {
		s.fatalf("%s: %d came on %s and was sent to %s", p.id, n, in.Topic, m.name)
	}
	if p.got[n] == nil {
		p.got[n] = new([3]int)
		st := stream{m.from, m.name, m.qos, in.QoS}
		if in.QoS > 0 && n < p.last[st] && m.must[p.index] { // one from before the subscription may come when it is sent again
			s.fatalf("%s: %d came after %d of the same publisher, topic and QoS", p.id, n, p.last[st])
		}
		p.last[st] = max(p.last[st], n)
	}
	if p.got[n][in.QoS]++; in.QoS == mqtt.ExactlyOnce && p.got[n][2] > 1 {
		s.fatalf("%s: %d came twice with QoS 2", p.id, n)
	}
}

// owe answers now or later, in order [MQTT-4.6.0-2].
func (s *stage) owe(p *party, a mqtt.Ack) {
	p.owed = append(p.owed, a.Append(nil, p.v))
	if !s.manual && (!s.late || len(p.owed) == 1 && s.rng.IntN(3) > 0) {
		s.pay(p)
	}
}

// pay sends the answers that p owes.
func (s *stage) pay(p *party) {
	for _, b := range p.owed {
		p.link.send(b)
	}
	p.owed = nil
}

// acknowledged takes one step of a handshake.
func (s *stage) acknowledged(p *party, a mqtt.Ack) {
	if a.Type == mqtt.PUBREL {
		delete(p.open, a.PacketID)
		s.owe(p, mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: a.PacketID})
		return
	}
	i := slices.IndexFunc(p.sending, func(h handshake) bool { return h.id == a.PacketID })
	if i < 0 {
		s.fatalf("%s: %s for %d, which is not in use", p.id, a.Type, a.PacketID)
	}
	h := &p.sending[i]
	m := s.l.postings[h.n-1]
	s.note("%s is sent %s for %d: %v", p.id, a.Type, h.n, a.Code)
	if a.Code.Failed() && a.Type != mqtt.PUBCOMP && s.lenient {
		m.fate = void
		p.sending = slices.Delete(p.sending, i, i+1)
		return
	}
	switch {
	case a.Code.Failed() && !(a.Type == mqtt.PUBCOMP && a.Code == mqtt.PacketIdentifierNotFound && h.released),
		(a.Type == mqtt.PUBACK) != (m.qos == mqtt.AtLeastOnce), a.Type == mqtt.PUBCOMP && !h.released:
		s.fatalf("%s: %s for %d of QoS %d: %v", p.id, a.Type, h.n, m.qos, a.Code)
	}
	m.fate = accepted
	if a.Type == mqtt.PUBREC {
		h.released = true
		p.firm, p.willFirm = !p.brief, true
		s.owe(p, mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID})
		return
	}
	p.sending = slices.Delete(p.sending, i, i+1)
}

// reconcile brings everybody back and lets all that is under way come to its end.
func (s *stage) reconcile() {
	s.late, s.manual = false, false
	for _, p := range s.l.parties {
		if p.lasting && p.link == nil {
			s.connect(p)
		}
	}
	rounds := 0
	for quiet := 0; quiet < 2; quiet++ {
		if rounds++; rounds > 1000 {
			s.fatalf("there is no end to what comes")
		}
		for s.settle() {
			quiet = 0
		}
		if s.lenient && s.b.failure.Load() != nil {
			return // nobody is let in any more
		}
		for _, p := range s.l.parties {
			if p.link != nil {
				s.pay(p)
			} else if p.lasting && s.lenient { // it was sent away for what the disk did before
				s.connect(p)
				quiet = 0
			}
		}
		time.Sleep(2 * time.Second) // some records are synced a little later
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// firstSeed returns the seed to begin with: 0, or what MAGPIE_TEST_SEED says, to go through others or to come back to one.
func firstSeed(t *testing.T) (seed uint64) {
	t.Helper()
	if text := os.Getenv("MAGPIE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return seed
}
