package loadgen

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// group is publishers whose messages go to the same subscribers, with a window over all of them. It may span loops.
type group struct {
	window int64 // messages under way; 0 is no limit
	shared bool
	live   atomic.Int64 // connected subscribers
	fan    atomic.Int64 // how many of them get each message
	taken  atomic.Int64 // messages sent
	lanes  []*lane
}

// lane is the part of a group that is in one loop.
type lane struct {
	group  *group
	loop   *loop
	pubs   []*publisher
	turn   int   // the publisher whose turn it is
	least  int64 // room in the window below which it does not send
	queued bool  // in the loop's list of lanes that may have something to send

	// Which messages of the group all subscribers of the lane have: lag counts, in a ring, how many subscribers have got how many.
	subs []*subscriber // connected ones
	lag  []int32       // nil with less than two subscribers
	base int64         // of the subscriber with least messages; in a shared group, messages that came to any
	done atomic.Int64  // base after each read, for all loops
	last int64         // when something came last
}

// begin prepares for the first message: no subscriber has got any.
func (ln *lane) begin(batch int64) {
	switch {
	case ln.group.shared:
	case len(ln.subs) == 0:
		ln.base = math.MaxInt64
	case len(ln.subs) > 1 && ln.group.window > 0:
		size := int64(1)
		for size < ln.group.window+int64(len(ln.group.lanes))*batch+2 {
			size *= 2
		}
		ln.lag = make([]int32, size)
		ln.lag[0] = int32(len(ln.subs))
	}
	ln.done.Store(ln.base)
}

// room is how many messages the window lets through.
func (g *group) room() int64 {
	if g.window == 0 {
		return math.MaxInt64
	}
	base := int64(math.MaxInt64)
	if g.shared {
		base = 0
	}
	for _, ln := range g.lanes {
		if g.shared {
			base += ln.done.Load()
		} else {
			base = min(base, ln.done.Load())
		}
	}
	return g.window - max(0, g.taken.Load()-base)
}

// arrived counts a message for the window.
func (ln *lane) arrived(s *subscriber) {
	switch {
	case ln.group.shared:
		ln.base++
	case ln.lag == nil:
		s.got++
	case s.got < ln.group.taken.Load(): // else it was given up
		mask := int64(len(ln.lag) - 1)
		ln.lag[s.got&mask]--
		s.got++
		ln.lag[s.got&mask]++
	}
}

// settle finds out which messages all subscribers have, after some have arrived at one of them.
func (ln *lane) settle(s *subscriber) {
	switch {
	case ln.group.shared:
	case ln.lag == nil:
		s.got = min(s.got, ln.group.taken.Load()) // more if some were given up
		ln.base = s.got
	default:
		ln.advance()
	}
	ln.last = ln.loop.now
	ln.done.Store(ln.base)
}

// stalled reports whether the window is closed by messages that do not come.
func (ln *lane) stalled(now int64) bool {
	waits := ln.group.window > 0 && len(ln.subs) > 0 && ln.base < ln.group.taken.Load()
	return waits && now-ln.last > int64(patience) && ln.group.room() < ln.least
}

// patience is how long a message may take before its window opens without it.
const patience = time.Second

// advance moves base up to the subscriber that has least.
func (ln *lane) advance() {
	mask := int64(len(ln.lag) - 1)
	for taken := ln.group.taken.Load(); ln.base < taken && ln.lag[ln.base&mask] == 0; {
		ln.base++
	}
}

// forget takes a subscriber out whose connection has ended.
func (ln *lane) forget(s *subscriber) {
	i := slices.Index(ln.subs, s)
	if i < 0 {
		return
	}
	ln.subs = slices.Delete(ln.subs, i, i+1)
	ln.group.count(-1)
	switch {
	case ln.group.shared:
		return
	case len(ln.subs) == 0:
		ln.base = math.MaxInt64
	case ln.lag != nil:
		ln.lag[s.got&int64(len(ln.lag)-1)]--
		ln.advance()
	}
	ln.done.Store(ln.base)
}

// count notes that subscribers have come or gone.
func (g *group) count(subs int64) {
	n := g.live.Add(subs)
	if g.shared {
		n = min(n, 1)
	}
	g.fan.Store(n)
}

// giveUp stops waiting for messages that do not come, so that lost ones do not close the window for good.
func (ln *lane) giveUp() {
	taken := ln.group.taken.Load()
	if ln.group.shared {
		ln.base += ln.group.window - ln.group.room()
		ln.done.Store(ln.base)
		return
	}
	for _, s := range ln.subs {
		s.got = taken
	}
	if ln.lag != nil {
		clear(ln.lag)
		ln.lag[taken&int64(len(ln.lag)-1)] = int32(len(ln.subs))
	}
	if len(ln.subs) > 0 {
		ln.base = taken
	}
	ln.done.Store(ln.base)
}
