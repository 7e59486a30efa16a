package session

// Place is a delivery that waits without its message, which the owner's store has.
type Place struct {
	Position uint64 // what the owner's store calls the message; at most 60 bits
	QoS      uint8  // 1 or 2
	Retain   bool
	Shared   bool // it came through a Shared Subscription
}

// A place is kept in one word, and a delivery that is in no store beside it: 16 bytes for each.
const (
	placeQoS2   = 1 << 0
	placeRetain = 1 << 1
	placeShared = 1 << 2
	placeBits   = 4
)

func pack(p Place) uint64 {
	w := p.Position << placeBits
	if p.QoS == 2 {
		w |= placeQoS2
	}
	if p.Retain {
		w |= placeRetain
	}
	if p.Shared {
		w |= placeShared
	}
	return w
}

func unpack(w uint64) Place {
	return Place{
		Position: w >> placeBits, QoS: 1 + uint8(w&placeQoS2), Retain: w&placeRetain != 0, Shared: w&placeShared != 0,
	}
}

// spilled is one entry of a spill: a place, or a delivery that only memory has.
type spilled struct {
	place uint64
	kept  *Delivery
}

// chunkSize is how many entries one array of a spill has.
const chunkSize = 512

// spill is a long queue: a list of arrays, so that it grows and shrinks without copying.
type spill struct {
	chunks [][]spilled
	head   int // in the first chunk
	n      int
}

func (q *spill) push(e spilled) {
	if k := len(q.chunks); k == 0 {
		q.expect(16) // most queues stay short
	} else if last := cap(q.chunks[k-1]); len(q.chunks[k-1]) == last {
		q.chunks = append(q.chunks, make([]spilled, 0, max(16, min(2*last, chunkSize))))
	}
	last := &q.chunks[len(q.chunks)-1]
	*last = append(*last, e)
	q.n++
}

// prepend puts entries before all others.
func (q *spill) prepend(front []spilled) {
	if len(q.chunks) > 0 {
		q.chunks[0] = q.chunks[0][q.head:]
	}
	q.chunks = append([][]spilled{front}, q.chunks...)
	q.head = 0
	q.n += len(front)
}

// expect makes room for the first n entries of an empty spill.
func (q *spill) expect(n int) { q.chunks = [][]spilled{make([]spilled, 0, min(n, chunkSize))} }

func (q *spill) front() *spilled { return &q.chunks[0][q.head] }

func (q *spill) pop() spilled {
	e := *q.front()
	*q.front() = spilled{}
	q.head++
	q.n--
	switch {
	case q.n == 0:
		*q = spill{}
	case q.head == len(q.chunks[0]):
		q.chunks[0] = nil
		q.chunks, q.head = q.chunks[1:], 0
	}
	return e
}

// all yields every entry, which may be changed.
func (q *spill) all(yield func(*spilled) bool) {
	head := q.head
	for _, chunk := range q.chunks {
		for i := head; i < len(chunk); i++ {
			if !yield(&chunk[i]) {
				return
			}
		}
		head = 0
	}
}

// remove drops the entries that gone reports.
func (q *spill) remove(gone func(*spilled) bool) (removed int) {
	kept := spill{}
	q.all(func(e *spilled) bool {
		if gone(e) {
			removed++
		} else {
			kept.push(*e)
		}
		return true
	})
	if removed > 0 {
		*q = kept
	}
	return removed
}
