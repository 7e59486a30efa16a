package session

// queue is a ring of deliveries that grows. It gives a large array back when it is empty; a small one stays, so that a
// message that passes through costs no allocation.
type queue struct {
	buf   []Delivery // len is a power of two
	head  int
	n     int
	bytes int
}

func (q *queue) index(i int) int { return (q.head + i) & (len(q.buf) - 1) }

func (q *queue) push(d Delivery) {
	if q.n == len(q.buf) {
		q.grow()
	}
	q.buf[q.index(q.n)] = d
	q.n++
	q.bytes += d.Size()
}

func (q *queue) grow() {
	buf := make([]Delivery, max(4, 2*len(q.buf)))
	for i := range q.n {
		buf[i] = q.buf[q.index(i)]
	}
	q.buf, q.head = buf, 0
}

func (q *queue) pop() Delivery {
	d := q.buf[q.head]
	q.buf[q.head] = Delivery{}
	q.head = q.index(1)
	q.n--
	q.bytes -= d.Size()
	if q.n == 0 && len(q.buf) > keepTable {
		*q = queue{}
	}
	return d
}

// remove drops what gone reports, keeping the order of the rest.
func (q *queue) remove(gone func(Delivery) bool) (removed int) {
	kept := queue{}
	for i := range q.n {
		if d := q.buf[q.index(i)]; gone(d) {
			removed++
		} else {
			kept.push(d)
		}
	}
	if removed > 0 {
		*q = kept
	}
	return removed
}
