package loadgen

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// run is what all loops of a run share. While they run nothing here changes that has no lock of its own.
type run struct {
	plan     Plan
	id       uint32
	version  mqtt.Version
	qos      mqtt.QoS
	relation relation
	filler   []byte // what follows the stamp in every payload
	batch    int64
	gap      int64 // shortest time between two reads, nanoseconds
	crossing bool  // groups are in several loops

	all       []*publisher
	order     *order // of pairs of publisher and subscriber
	members   *members
	strangers *strangers
}

// Run puts the load of a plan on a broker, and returns when the plan or ctx is at its end: what was measured until then is the
// report. What the broker does wrong is in the report; the error is of a plan that cannot work, or of a system that does not allow it.
func Run(ctx context.Context, p Plan) (*Report, error) {
	id := newID()
	p = p.withDefaults(id)
	if err := p.check(); err != nil {
		return nil, &PlanError{err}
	}
	if err := checkDescriptors(p.connections()); err != nil {
		return nil, err
	}
	d := &director{run: newRun(p, id), ctx: ctx}
	if err := d.makeLoops(); err != nil {
		return nil, err
	}
	defer d.stop()
	return d.direct()
}

func newID() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

func newRun(p Plan, id uint32) *run {
	r := &run{
		plan: p, id: id, version: p.Version, qos: p.QoS, relation: p.relation(), filler: make([]byte, p.Size-MinSize), batch: int64(p.Batch),
	}
	for i := range r.filler {
		r.filler[i] = 'a' + byte(i%26)
	}
	if p.raw() {
		r.gap = int64(p.Coalesce)
	}
	depth := max(256, 2*p.Inflight)
	switch r.relation {
	case own:
		r.order = newOrder(p.Publishers, depth)
	case every:
		r.order = newOrder(p.Publishers*p.Subscribers, depth)
	case shared:
		r.members = newMembers(&p)
	case nobody:
		r.strangers = &strangers{shared: unshared(p.Filter) != p.Filter, streams: make(map[streamKey]*track)}
	}
	r.crossing = p.Loops > 1 && (r.relation == every || r.relation == shared)
	return r
}

// director leads the loops through the run, and reports.
type director struct {
	*run
	ctx    context.Context
	loops  []*loop
	target *target
	group  sync.WaitGroup
	marks
}

// errTooFew is of a plan with more loops than connections.
var errTooFew = errors.New("there are more loops than connections")

// makeLoops makes the loops and all connections, and starts the goroutines.
func (d *director) makeLoops() error {
	p := &d.plan
	if p.Loops > p.connections() {
		return &PlanError{errTooFew}
	}
	if p.raw() {
		var err error
		if d.target, err = resolve(d.ctx, p); err != nil {
			return err
		}
	}
	for range p.Loops {
		l := &loop{
			run: d.run, commands: make(chan func(), 1), failures: make(map[string]int), drops: make(map[string]int),
			left: math.MaxInt64, from: math.MaxInt64, until: math.MaxInt64, keepAlive: int64(p.KeepAlive),
		}
		if p.Publishers == 0 {
			l.from = 0
		}
		l.connecting.rate = p.ConnectRate / float64(p.Loops)
		l.connecting.parallel = max(1, p.Parallel/p.Loops)
		d.loops = append(d.loops, l)
	}
	d.makeConns()
	for i, l := range d.loops {
		var err error
		if p.raw() {
			l.poller, err = newRawPoller(l, d.target)
		} else {
			l.poller, err = newThreads(l, p)
		}
		if err != nil {
			for _, l := range d.loops[:i] {
				l.poller.close()
			}
			return err
		}
	}
	for _, l := range d.loops {
		d.group.Go(func() {
			settle()
			l.serve()
		})
	}
	return nil
}

// makeConns makes connections, subscribers first, and deals them out to the loops.
func (d *director) makeConns() {
	p := &d.plan
	for i := range p.Subscribers {
		c := d.newConn(i)
		c.sub = &subscriber{conn: c}
	}
	for i := range p.Publishers {
		c := d.newConn(i)
		c.pub = &publisher{conn: c, template: newTemplate(numbered(p.Topic, i), i, d.id, p)}
		d.all = append(d.all, c.pub)
		l := d.loops[i%len(d.loops)]
		l.pubs = append(l.pubs, c.pub)
	}
	for i := range p.Idle {
		d.newConn(i)
	}
	for _, l := range d.loops {
		l.connecting.todo = make([]*conn, len(l.conns))
		copy(l.connecting.todo, l.conns)
	}
	d.makeGroups()
}

func (d *director) newConn(number int) *conn {
	l := d.loops[number%len(d.loops)]
	c := &conn{slot: len(l.conns), number: number, fd: -1}
	l.conns = append(l.conns, c)
	return c
}

// makeGroups binds those together whose messages share a window: all, or each publisher and its subscriber.
func (d *director) makeGroups() {
	p := &d.plan
	if d.relation == every || d.relation == shared {
		g := &group{window: int64(p.Window) * int64(p.Publishers), shared: d.relation == shared}
		for _, l := range d.loops {
			l.addLane(g, min(d.batch, max(g.window, 1)), l.pubs)
		}
		for i, l := range d.loops {
			for n := i; n < p.Subscribers; n += len(d.loops) {
				l.conns[n/len(d.loops)].sub.lane = l.lanes[0]
			}
		}
		return
	}
	for _, l := range d.loops {
		for i, pub := range l.pubs {
			g := &group{}
			if d.relation == own {
				g.window = int64(p.Window)
			}
			ln := l.addLane(g, 1, []*publisher{pub})
			if d.relation == own {
				l.conns[i].sub.lane = ln
			}
		}
	}
}

func (l *loop) addLane(g *group, least int64, pubs []*publisher) *lane {
	ln := &lane{group: g, loop: l, pubs: pubs, least: least}
	g.lanes = append(g.lanes, ln)
	l.lanes = append(l.lanes, ln)
	for _, p := range pubs {
		p.lane = ln
	}
	return ln
}

// each runs f on every loop's goroutine, one after the other.
func (d *director) each(f func(*loop)) {
	for _, l := range d.loops {
		l.do(func() { f(l) })
	}
}

// stop ends the loops.
func (d *director) stop() {
	d.each(func(l *loop) { l.over = true })
	d.group.Wait()
}

// checkDescriptors finds out beforehand that there are not enough file descriptors.
func checkDescriptors(conns int) error {
	limit, known := descriptorLimit()
	if need := uint64(conns) + spareDescriptors; known && need > limit {
		return &DescriptorError{Connections: conns, Need: need, Limit: limit}
	}
	return nil
}

// PlanError is of a plan that cannot work with any broker.
type PlanError struct{ Err error }

// Error tells what is wrong.
func (e *PlanError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *PlanError) Unwrap() error { return e.Err }

// spareDescriptors are for what is not a connection.
const spareDescriptors = 32

// DescriptorError is of a plan with more connections than the process may have.
type DescriptorError struct {
	Connections int
	Need, Limit uint64 // file descriptors
}

// Error tells the numbers.
func (e *DescriptorError) Error() string {
	return fmt.Sprintf("%d connections need %d file descriptors, and this process may have %d", e.Connections, e.Need, e.Limit)
}
