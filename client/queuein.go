package client

import (
	"encoding/binary"

	"github.com/magpiemq/magpie/store/journal"
)

// handledNote is of a message of QoS 2 that was handled here and not released by the server: if it comes again it is not given to anybody.
type handledNote struct {
	number   uint64           // of its note
	position journal.Position // of that in the log; zero while it is in the backlog
}

// handled writes down that the handlers of a message of QoS 2 are done with it, holding Session.mu.
func (q *queue) handled(id uint16) {
	if q.over {
		return
	}
	o := &handledNote{}
	q.open[id] = o
	q.remember(id, o)
}

// remember writes a note about an open message.
func (q *queue) remember(id uint16, o *handledNote) {
	o.position = 0
	o.number = q.append(recordHandled, 0, id)
	q.flush()
}

// handledAfter returns the number that has to be safe before PUBREC is written, holding Session.mu.
func (q *queue) handledAfter(id uint16) uint64 {
	if o := q.open[id]; o != nil {
		return o.number
	}
	return 0
}

// released writes down that the server has released an identifier, holding Session.mu, and returns the number of that note. PUBCOMP has to
// wait for it: then the server may use the identifier for another message, which must not be taken for the old one.
func (q *queue) released(id uint16) uint64 {
	if q.open[id] == nil {
		return 0
	}
	delete(q.open, id)
	return q.note(recordReleased, 0, id)
}

// forgotten writes down that the server has lost the session, holding Session.mu. Before that is safe nothing may be subscribed to in the new
// one, so that no message of it is taken for one of the old.
func (q *queue) forgotten() {
	if len(q.open) > 0 {
		clear(q.open)
		q.note(recordForgotten, 0, 0)
	}
}

// noted learns where the note about an open message is.
func (q *queue) noted(n *note, pos journal.Position) {
	if n.kind != recordHandled {
		return
	}
	if o := q.open[binary.LittleEndian.Uint16(n.data[8:])]; o != nil && o.number == n.number {
		o.position = pos
	}
}

// renew writes the notes of a segment that is to be given back once more, and reports whether the log has taken them. What gives the segment
// back comes behind them.
func (q *queue) renew(segment uint32) bool {
	for id, o := range q.open {
		if o.position > 0 && journal.SegmentOf(o.position) == segment {
			q.remember(id, o)
		}
	}
	return len(q.backlog) == 0
}

// restoreOpen takes a note about an open message at the start.
func (q *queue) restoreOpen(pos journal.Position, kind byte, id uint16) {
	switch kind {
	case recordHandled:
		q.open[id] = &handledNote{position: pos}
	case recordReleased:
		delete(q.open, id)
	case recordForgotten:
		clear(q.open)
	}
}
