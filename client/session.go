package client

import (
	"sync"
	"sync/atomic"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// Session is what a client remembers from one connection to the next: messages of QoS 1 and 2 whose handshakes are open, in
// both directions (§4.1). The zero value is a session without any, ready for [Config.Session]. It belongs to one
// connection at a time, until that one's [Conn.Done].
type Session struct {
	inUse atomic.Bool

	mu   sync.Mutex // guards all below, and what the connection says it guards
	out  session.Outbound
	in   session.Inbound
	conn *Conn // the one that lives; nil while there is none

	queued  map[*mqtt.Message]*Publication // wait for the window
	stored  map[uint64]*Publication        // wait on the disk, by position
	flying  map[uint16]*Publication        // were sent
	awaited int                            // of these, how many somebody waits for
	waiting int                            // callers that wait for room
	room    sync.Cond                      // theirs and the reader's: something has left out, queued, requests or a mailbox

	unhandled  map[uint16]*receipt // messages of QoS 1 and 2 that no handler has finished, by Packet Identifier
	inboxBytes int                 // messages that wait for handlers
	free       []*Delivery         // to be used again
	freeBytes  int                 // of their contents

	keeper keeper // the Client whose session it is; nil for a connection by itself
}

// keeper is what goes on from one connection to the next. Its methods are called holding Session.mu.
type keeper interface {
	// started is called when a connection begins, before anything is sent. kept says that the server has its half of the session.
	started(c *Conn, kept bool)
	// ended is called when a connection has ended.
	ended(c *Conn)
	// route appends the mailboxes that a message goes to.
	route(name string, ids []uint32, dst []*mailbox) []*mailbox
	// settled is told that a message is done with. Position is zero when it is not on the disk, p nil when only the position is known.
	settled(position uint64, p *Publication, err error)
	// sent and received write down a step of QoS 2, and return what has to be on the disk before the packet that follows is written.
	sent(position uint64, id uint16) (after uint64)
	received(position uint64, id uint16) (after uint64)
	// handled writes down that a message of QoS 2 from the server was handled, and handledAfter returns what has to be on the disk before PUBREC
	// is written. released writes down that the server has released it.
	handled(id uint16)
	handledAfter(id uint16) uint64
	released(id uint16) (after uint64)
	// forgotten writes down that nothing was: the server has lost the session.
	forgotten()
	// safe waits until that is on the disk, without Session.mu; false says that it never will be.
	safe(after uint64) bool
	// load fetches messages that wait on the disk.
	load()
}

// prepare makes the zero value ready.
func (s *Session) prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room.L == nil {
		s.room.L = &s.mu
		s.queued, s.flying = make(map[*mqtt.Message]*Publication), make(map[uint16]*Publication)
		s.stored = make(map[uint64]*Publication)
		s.unhandled = make(map[uint16]*receipt)
	}
}

// Pending returns how many messages this client has still to deliver to the server and how many bytes those have.
func (s *Session) Pending() (messages, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending()
}

func (s *Session) pending() (messages, bytes int) {
	queued, queuedBytes := s.out.Queued()
	flying, flyingBytes := s.out.InFlight()
	return queued + flying, queuedBytes + flyingBytes
}

// forget starts anew, holding mu. With a keeper the messages of this side stay, and go to the server as if they were new.
func (s *Session) forget() {
	s.in = session.Inbound{}
	clear(s.unhandled)
	if s.keeper == nil {
		s.out = session.Outbound{}
		return
	}
	s.keeper.forgotten()
	var released []uint16
	for id := range s.out.Released() {
		released = append(released, id)
	}
	for _, id := range released { // PUBREC said that the server has the message: nothing is open any more
		s.completed(id, mqtt.Success)
	}
}

// failPublications tells everybody who waits for the end of a handshake that it does not come, holding mu.
func (s *Session) failPublications(err error) {
	for _, p := range s.queued {
		s.finish(p, mqtt.UnspecifiedError, err)
	}
	for _, p := range s.stored {
		s.finish(p, mqtt.UnspecifiedError, err)
	}
	for _, p := range s.flying {
		s.finish(p, mqtt.UnspecifiedError, err)
	}
	clear(s.queued)
	clear(s.stored)
	clear(s.flying)
}
