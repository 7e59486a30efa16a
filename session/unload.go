package session

// Held returns how many bytes the messages have that are in memory because of this session.
func (o *Outbound) Held() int { return o.queue.bytes + o.kept + o.inFlight - o.unloaded }

// Stored returns how many of those bytes [Outbound.Unload] would free.
func (o *Outbound) Stored() (bytes int) {
	for d := range o.All() {
		if d.Position != 0 {
			bytes += d.Size()
		}
	}
	return bytes
}

// Unload lets go of every message that the owner's store has. It is for the time without a connection: what waits comes back by
// [Outbound.Places], and what was in flight has to be filled in, see [Outbound.Missing], before the next connection.
func (o *Outbound) Unload() {
	o.unloadQueue()
	for id := o.publish.head; id != 0; {
		s := o.at(id)
		id = s.next
		if s.Message == nil || s.Position == 0 {
			continue
		}
		s.size = s.Size()
		o.unloaded += s.size
		s.Message, s.missing = nil, true
	}
}

// unloadQueue moves the queue to the front of the spill, unless all of it would be kept there too.
func (o *Outbound) unloadQueue() {
	stored := false
	for i := range o.queue.n {
		stored = stored || o.queue.buf[o.queue.index(i)].Position != 0
	}
	if !stored {
		return
	}
	front := make([]spilled, 0, o.queue.n)
	for i := range o.queue.n {
		d := o.queue.buf[o.queue.index(i)]
		if d.Position != 0 {
			front = append(front, spilled{place: pack(d.place())})
			continue
		}
		front = append(front, spilled{kept: &d})
		o.kept += d.Size()
	}
	o.spilled += o.queue.bytes
	o.queue = queue{}
	o.spill.prepend(front)
}

// PushAside is Push for a time when memory is short: the message of a delivery that the store has is let go of at once.
func (o *Outbound) PushAside(d Delivery) {
	if d.Position == 0 {
		o.Push(d)
		return
	}
	o.spill.push(spilled{place: pack(d.place())})
	o.spilled += d.Size()
}
