package loadgen

import "time"

// queue puts a lane on the list of those that may have something to send.
func (l *loop) queue(ln *lane) {
	if !ln.queued {
		ln.queued = true
		l.todo = append(l.todo, ln)
	}
}

// pump lets publishers send what is due, or what windows allow. It reports whether they could send more at once.
func (l *loop) pump() (more bool) {
	if l.pace.rate > 0 {
		l.pumpPaced()
		return false
	}
	if l.crossing {
		for _, ln := range l.lanes {
			l.queue(ln)
		}
	}
	todo := l.todo
	l.todo = l.spare[:0]
	for _, ln := range todo {
		ln.queued = false
		if l.pumpLane(ln) {
			l.queue(ln)
			more = true
		}
	}
	l.spare = todo
	return more
}

// pumpLane gives each publisher of a lane one burst, and reports whether another round would do.
func (l *loop) pumpLane(ln *lane) (more bool) {
	for range ln.pubs {
		if !l.open(ln) {
			return false
		}
		p := ln.pubs[ln.turn]
		if ln.turn++; ln.turn == len(ln.pubs) {
			ln.turn = 0
		}
		if l.burst(p, min(l.batch, ln.group.room(), l.left), now()) == l.batch {
			more = true
		}
	}
	return more && l.open(ln)
}

// open reports whether a lane may send. It waits for room for a whole burst, as bursts are what makes writes cheap.
func (l *loop) open(ln *lane) bool {
	if l.relation != nobody && ln.group.fan.Load() == 0 {
		return false
	}
	return l.left > 0 && ln.group.room() >= min(ln.least, l.left)
}

// canPump reports whether a publisher could send now.
func (l *loop) canPump() bool {
	for _, ln := range l.lanes {
		if !l.open(ln) {
			continue
		}
		for _, p := range ln.pubs {
			if l.canSend(p) {
				return true
			}
		}
	}
	return false
}

// tick is the grain of time with a rate: messages are due in small bursts, so that the generator need not wake for each.
const tick = int64(250 * time.Microsecond)

// pace says when messages are due: evenly, at multiples of a tick after the start, whatever becomes of them.
type pace struct {
	rate  float64 // messages per second; zero is no pace
	start int64
	sent  int64 // messages sent, or left out
}

// due is how many messages are due until a time, and the tick at which the last of them were.
func (p *pace) due(at int64) (n, tickAt int64) {
	ticks := max(0, at-p.start) / tick
	return int64(float64(ticks*tick) * p.rate / 1e9), p.start + ticks*tick
}

// at is when a message is due, the first being 0.
func (p *pace) at(n int64) int64 {
	ticks := int64(float64(n+1) * 1e9 / p.rate / float64(tick))
	if float64(ticks*tick)*p.rate/1e9 < float64(n+1) {
		ticks++
	}
	return p.start + ticks*tick
}

// next is when the next message is due.
func (p *pace) next() int64 { return p.at(p.sent) }

// pumpPaced sends what is due. A publisher that cannot send leaves its turn to the next one.
func (l *loop) pumpPaced() {
	due, tickAt := l.pace.due(l.now)
	misses := 0
	for l.pace.sent < due && l.left > 0 {
		p := l.pubs[l.turn]
		if l.turn++; l.turn == len(l.pubs) {
			l.turn = 0
		}
		alone := l.relation != nobody && p.lane.group.fan.Load() == 0
		if alone || p.lane.group.room() == 0 || l.burst(p, 1, min(l.pace.at(l.pace.sent), tickAt)) == 0 {
			if misses++; misses >= len(l.pubs) {
				l.throttled++
				return
			}
			continue
		}
		misses = 0
		l.pace.sent++
	}
}
