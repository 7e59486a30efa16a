package transport

import (
	"container/list"
	"net"
	"sync"
)

// pending is the set of handshakes under way, in order of arrival. When it is
// full the oldest gives way: a real client needs a few round trips, so whoever
// wants to keep it out has to open max connections within that time, again and
// again; refusing the newest would need only max connections per time-out.
type pending struct {
	max int

	mu     sync.Mutex // guards all below; nothing blocks under it
	order  list.List  // of *shake, oldest first
	closed bool
}

// shake is one handshake under way.
type shake struct {
	raw     net.Conn
	dropped chan struct{} // closed when the handshake must end; raw is closed then
	elem    *list.Element // nil when not in the set; guarded by pending.mu
}

// add returns the place of a new handshake, or nil when the set is closed; the
// caller keeps raw then.
func (p *pending) add(raw net.Conn) *shake {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if p.order.Len() >= p.max {
		p.dropOldest()
	}
	s := &shake{raw: raw, dropped: make(chan struct{})}
	s.elem = p.order.PushBack(s)
	return s
}

// remove takes s out and reports whether it was still in: if not, it has been
// dropped.
func (p *pending) remove(s *shake) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.elem == nil {
		return false
	}
	p.order.Remove(s.elem)
	s.elem = nil
	return true
}

// size returns how many handshakes are in the set.
func (p *pending) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.order.Len()
}

// close drops all handshakes and admits no more.
func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for p.order.Len() > 0 {
		p.dropOldest()
	}
}

func (p *pending) dropOldest() {
	s := p.order.Remove(p.order.Front()).(*shake)
	s.elem = nil
	close(s.dropped)
	_ = s.raw.Close()
}
