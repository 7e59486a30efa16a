package client

import (
	"sync/atomic"

	"github.com/magpiemq/magpie/session"
)

// Session is what a client remembers from one connection to the next: messages of QoS 1 and 2 whose handshakes are open, in
// both directions (§4.1). The zero value is a session without any, ready for [Config.Session]. It belongs to one
// connection at a time, until that one's [Conn.Done].
type Session struct {
	inUse atomic.Bool

	// The connection's mutex guards all below.
	out session.Outbound
	in  session.Inbound
}

// Pending returns how many messages this client has still to deliver to the server and how many bytes those have. It
// must not be called while a connection uses the session.
func (s *Session) Pending() (messages, bytes int) {
	queued, queuedBytes := s.out.Queued()
	flying, flyingBytes := s.out.InFlight()
	return queued + flying, queuedBytes + flyingBytes
}

// forget starts anew.
func (s *Session) forget() { s.out, s.in = session.Outbound{}, session.Inbound{} }
