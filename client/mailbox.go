package client

import (
	"context"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// mailbox holds the messages for one handler, in the order of their arrival. Session.mu guards it.
type mailbox struct {
	session *Session
	manual  bool // the handler's return acknowledges nothing
	handle  func(*Delivery)

	queue []*Delivery
	head  int  // of queue: what was taken
	over  bool // nothing comes any more
	mail  sync.Cond
}

func newMailbox(s *Session, handle func(*Delivery), manual bool) *mailbox {
	b := &mailbox{session: s, handle: handle, manual: manual}
	b.mail.L = &s.mu
	return b
}

// put adds a message, holding mu.
func (b *mailbox) put(d *Delivery) {
	if b.over {
		d.acknowledge()
		return
	}
	if len(b.queue) == cap(b.queue) && b.head > len(b.queue)/2 {
		n := copy(b.queue, b.queue[b.head:])
		clear(b.queue[n:])
		b.queue, b.head = b.queue[:n], 0
	}
	b.queue = append(b.queue, d)
	b.session.inboxBytes += d.bytes
	b.mail.Broadcast() // one of several loops may be about to end
}

// keepQueue is the longest array of an empty mailbox that is kept.
const keepQueue = 1024

// pop takes the first message, holding mu; nil if there is none.
func (b *mailbox) pop() *Delivery {
	if b.head == len(b.queue) {
		return nil
	}
	d := b.queue[b.head]
	b.queue[b.head] = nil
	if b.head++; b.head == len(b.queue) {
		b.queue, b.head = b.queue[:0], 0
		if cap(b.queue) > keepQueue {
			b.queue = nil
		}
	}
	return d
}

// run gives the messages to the handler, one after the other, until the mailbox is over and empty.
func (b *mailbox) run() {
	var d *Delivery
	for {
		if d = b.next(d); d == nil {
			return
		}
		b.handle(d)
	}
}

// next ends the delivery before, if there was one, and waits for another; nil if there will be none.
func (b *mailbox) next(before *Delivery) *Delivery { return b.nextUntil(context.Background(), before) }

// handled ends a delivery that has an owner now, holding mu.
func (b *mailbox) handled(d *Delivery) {
	s := b.session
	s.inboxBytes -= d.bytes
	s.room.Broadcast()
	if !d.manual {
		d.acknowledge()
		s.recycle(d)
	}
}

// close ends the mailbox, holding mu: nothing comes any more.
func (b *mailbox) close() {
	b.over = true
	b.mail.Broadcast()
}

// discard forgets what is in the mailbox as if it had not arrived: the server has no acknowledgement, and sends it again if it keeps the
// session.
func (b *mailbox) discard() {
	for d := b.pop(); d != nil; d = b.pop() {
		b.session.inboxBytes -= d.bytes
		if r := d.receipt; r != nil {
			if b.session.unhandled[r.id] == r && r.qos == mqtt.ExactlyOnce {
				b.session.in.Refused(r.id)
			}
			b.session.settle(r)
		}
	}
	b.session.room.Broadcast()
}

// takeAll takes all messages out.
func (b *mailbox) takeAll() (all []*Delivery) {
	for d := b.pop(); d != nil; d = b.pop() {
		b.session.inboxBytes -= d.bytes
		all = append(all, d)
	}
	return all
}

// drain acknowledges what is in the mailbox without handling it, as nobody wants it any more, and returns how many those were.
func (b *mailbox) drain() int {
	all := b.takeAll()
	for _, d := range all {
		d.acknowledge()
	}
	b.session.room.Broadcast()
	return len(all)
}

// nextUntil is next for a loop that ends with ctx.
func (b *mailbox) nextUntil(ctx context.Context, before *Delivery) *Delivery {
	b.session.mu.Lock()
	defer b.session.mu.Unlock()
	if before != nil {
		b.handled(before)
	}
	for b.head == len(b.queue) && !b.over && ctx.Err() == nil {
		b.mail.Wait()
	}
	if ctx.Err() != nil {
		return nil
	}
	return b.pop()
}

// last ends the delivery at which a loop was left.
func (b *mailbox) last(d *Delivery) {
	b.session.mu.Lock()
	defer b.session.mu.Unlock()
	b.handled(d)
}

// wake lets loops look at their contexts.
func (b *mailbox) wake() {
	b.session.mu.Lock()
	defer b.session.mu.Unlock()
	b.mail.Broadcast()
}
