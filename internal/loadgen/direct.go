package loadgen

import (
	"context"
	"time"
)

// marks are what the director notes at the borders of the phases.
type marks struct {
	connectFrom, connectUntil int64
	from, until               int64 // the measured time
	stopped                   int64 // when it was noticed that it is over
	before, after             counters
	waited                    int64 // of all loops, in the measured time
	ownBefore, ownAfter       time.Duration
	broker                    *process
	shown                     int64 // when progress was told last
	last                      counters
	interrupted               bool
}

// direct carries the plan out.
func (d *director) direct() (*Report, error) {
	var err error
	if d.broker, err = observe(d.plan.PID); err != nil {
		return nil, err
	}
	d.connect()
	if d.somebody() {
		d.load()
	}
	d.each((*loop).leave)
	d.uninterrupted(leaveTime, func(c counters) bool { return c.closed == d.plan.connections() })
	return d.report(), nil
}

// leaveTime is how long a broker may take to close what has said goodbye.
const leaveTime = time.Second

// How often the director looks whether a phase is over: often when something else than time ends it.
const (
	lookOften  = 5 * time.Millisecond
	lookSeldom = 100 * time.Millisecond
)

// count adds up what all loops have seen.
func (d *director) count() (c counters) {
	d.each(func(l *loop) { c.add(&l.counters) })
	return c
}

func (c *counters) add(o *counters) {
	c.connected += o.connected
	c.closed += o.closed
	c.failed += o.failed
	c.disconnects += o.disconnects
	c.publishers += o.publishers
	c.subscribers += o.subscribers
	c.sent += o.sent
	c.acked += o.acked
	c.refused += o.refused
	c.expected += o.expected
	c.throttled += o.throttled
	c.unique += o.unique
	c.duplicated += o.duplicated
	c.outOfOrder += o.outOfOrder
	c.foreign += o.foreign
	c.stalls += o.stalls
	c.bytesIn += o.bytesIn
	c.bytesOut += o.bytesOut
	c.lastSeen = max(c.lastSeen, o.lastSeen)
	c.lastMoved = max(c.lastMoved, o.lastMoved)
}

// await looks until done reports true, the time is over (if it is not negative), or the run is interrupted.
func (d *director) await(most, step time.Duration, done func(counters) bool) {
	end := now() + int64(most)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !d.interrupted {
		select {
		case <-timer.C:
		case <-d.ctx.Done():
			d.interrupted = true
		}
		c := d.count()
		rest := time.Duration(end - now())
		if done(c) || most >= 0 && rest <= 0 {
			return
		}
		d.show(c)
		if most >= 0 {
			step = min(step, rest)
		}
		timer.Reset(step)
	}
}

// uninterrupted is await for what still has to be done after an interruption.
func (d *director) uninterrupted(most time.Duration, done func(counters) bool) {
	ctx, interrupted := d.ctx, d.interrupted
	d.ctx, d.interrupted = context.WithoutCancel(ctx), false
	d.await(most, lookOften, done)
	d.ctx, d.interrupted = ctx, interrupted
}

// connect makes all connections.
func (d *director) connect() {
	at := now()
	d.connectFrom = at
	d.each(func(l *loop) { l.connecting.begin(at) })
	last, progress := -1, at
	d.await(forever, lookOften, func(c counters) bool {
		ended := c.connected + c.failed
		if t := now(); ended != last {
			last, progress = ended, t
		} else if t-progress > int64(d.plan.Timeout) && d.slowEnough() {
			return true
		}
		return ended == d.plan.connections()
	})
	d.connectUntil = now()
	d.each(func(l *loop) {
		l.connecting.stop()
		for _, c := range l.conns {
			if c.state > waiting && c.state < ready && !d.interrupted {
				l.end(c, errTimeout)
			}
		}
	})
}

// slowEnough reports whether connections begin so often that there should have been progress.
func (d *director) slowEnough() bool {
	return d.plan.ConnectRate == 0 || d.plan.ConnectRate*d.plan.Timeout.Seconds() > 1
}

// somebody reports whether there are enough connections for the load to make sense.
func (d *director) somebody() bool {
	c := d.count()
	switch {
	case d.interrupted:
		return false
	case d.plan.Publishers > 0 && c.publishers == 0, d.plan.Subscribers > 0 && c.subscribers == 0:
		return false
	}
	return c.connected > c.disconnects
}

// load warms up, measures, and waits for what is on its way.
func (d *director) load() {
	p := &d.plan
	warm := p.Publishers > 0 && p.WarmUp > 0
	if warm {
		d.begin()
		d.phase(p.WarmUp)
	}
	d.measure()
	if p.Publishers > 0 && !warm {
		d.begin()
	}
	switch {
	case p.Duration > 0:
		d.phase(p.Duration)
	case p.Publishers+p.Subscribers > 0:
		d.phase(forever)
	}
	d.endMeasure()
	if p.Publishers > 0 {
		d.drain()
	}
}

// forever is no limit to what a phase takes.
const forever = -1

// begin lets publishers send.
func (d *director) begin() {
	p := &d.plan
	at := now()
	d.each(func(l *loop) {
		for _, ln := range l.lanes {
			ln.begin(l.batch)
			l.queue(ln)
			ln.last = at
		}
	})
	rest := p.Count
	pubs := p.Publishers
	d.each(func(l *loop) {
		if p.Count > 0 {
			l.left = rest * int64(len(l.pubs)) / int64(max(pubs, 1))
			rest -= l.left
			pubs -= len(l.pubs)
		}
		l.pace = pace{rate: p.Rate * float64(len(l.pubs)) / float64(p.Publishers), start: at}
		l.sending = len(l.pubs) > 0
	})
}

// phase lasts so long, or until there is nothing more to do.
func (d *director) phase(most time.Duration) {
	step := lookSeldom
	if d.plan.Count > 0 {
		step = lookOften
	}
	d.await(most, step, func(c counters) bool { return d.complete(c) || !d.alive(c) })
}

// complete reports whether all that Count asks for is done, and nothing comes any more.
func (d *director) complete(c counters) bool {
	p := &d.plan
	switch {
	case p.Count == 0:
		return false
	case p.Publishers == 0:
		return c.unique+c.foreign >= uint64(p.Count)
	case c.sent < uint64(p.Count):
		return false
	}
	return d.settled(c, d.from)
}

// settled reports whether nothing is on its way any more, or nothing came for so long that the rest will not come.
func (d *director) settled(c counters, since int64) bool {
	all := c.unique >= c.expected && (d.qos == 0 || c.acked+c.refused >= c.sent)
	return all || now()-max(c.lastMoved, since) > int64(d.plan.Drain)
}

// alive reports whether there is somebody left whom the load is for.
func (d *director) alive(c counters) bool {
	p := &d.plan
	if p.Publishers > 0 && c.publishers == 0 || p.Subscribers > 0 && c.subscribers == 0 {
		return false
	}
	return c.connected > c.disconnects
}

// measure begins the measured time.
func (d *director) measure() {
	d.broker.begin()
	d.ownBefore = ownTime()
	d.from = now()
	d.each(func(l *loop) {
		if d.plan.Publishers > 0 { // else others have begun whenever they liked
			l.from = d.from
		}
		d.before.add(&l.counters)
		d.waited -= l.waited
	})
}

// endMeasure ends it. Of a number of messages the last one is the end.
func (d *director) endMeasure() {
	var at int64
	d.each(func(l *loop) {
		l.sending = false
		l.until = now()
		at = l.until
		d.after.add(&l.counters)
		d.waited += l.waited
	})
	d.until, d.stopped = at, at
	if d.plan.Count > 0 && d.after.lastSeen > d.from && d.complete(d.after) {
		d.until = d.after.lastSeen
	}
	d.ownAfter = ownTime()
	d.broker.end()
}

// drain waits for what is on its way.
func (d *director) drain() {
	begun := now()
	d.uninterrupted(drainTime, func(c counters) bool { return d.settled(c, begun) || !d.alive(c) })
}

// drainTime bounds the wait for a broker that delivers ever more slowly.
const drainTime = time.Minute

// Progress is how a run goes.
type Progress struct {
	Wanted, Connected, Failed int           // connections
	Measuring                 bool          // whether the measured time has begun
	Elapsed                   time.Duration // of it
	Sent, Received            float64       // messages per second since the last time
	Lost                      int64         // messages that have not come, of which some may be on their way
	P99                       float64       // microseconds, of the measured time so far
}

// show tells how it goes, now and then.
func (d *director) show(c counters) {
	at := now()
	if d.plan.Progress == nil || at-d.shown < int64(500*time.Millisecond) {
		return
	}
	p := Progress{Wanted: d.plan.connections(), Connected: c.connected - c.disconnects, Failed: c.failed, Lost: int64(c.expected) - int64(c.unique)}
	if seconds := float64(at-d.shown) / 1e9; d.shown > 0 {
		p.Sent, p.Received = float64(c.sent-d.last.sent)/seconds, float64(c.unique+c.foreign-d.last.unique-d.last.foreign)/seconds
	}
	if d.from > 0 {
		var h histogram
		d.each(func(l *loop) { h.merge(&l.latency) })
		p.Measuring, p.Elapsed, p.P99 = true, time.Duration(at-d.from), h.quantile(0.99)/1000
	}
	d.shown, d.last = at, c
	d.plan.Progress(p)
}

// reasons adds up the reasons of all loops.
func (d *director) reasons(of func(*loop) map[string]int) map[string]int {
	all := make(map[string]int)
	d.each(func(l *loop) {
		for reason, n := range of(l) {
			all[reason] += n
		}
	})
	return all
}
