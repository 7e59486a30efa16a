package client

import (
	"errors"
	"io"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// ErrPoison is the error of a message that was given up: again and again the server ended the connection after it was sent,
// which is all that MQTT 3 has for a refusal.
var ErrPoison = errors.New("the server ends the connection whenever it is sent this message")

const (
	suspicious  = 3               // fruitless connections in a row before messages are sent one at a time
	mostStrikes = 12              // fruitless connections in a row before a message is given up
	leastDoubt  = 5 * time.Minute // and at least so much time
)

// strikes finds the message that makes a server close, which would be sent again for ever. It belongs to the supervisor.
//
// A connection is fruitless when the server ended it with something in flight and nothing acknowledged. A bad link
// does that, too; so first the window becomes one message, and then that message has many more attempts and some minutes.
type strikes struct {
	n     int
	since time.Time // the first of them
}

// suspects reports whether messages are sent one at a time.
func (k *strikes) suspects() bool { return k.n >= suspicious }

// judge looks at how a connection has ended.
func (k *strikes) judge(s *Session, c *Conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.acknowledged.Load() > 0 || len(s.flying) == 0 {
		k.n = 0
		return
	}
	var answer *ServerError
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &answer) || codeOf(err) == mqtt.SessionTakenOver {
		return // the link, or nothing to do with messages
	}
	now := time.Now()
	if k.n++; k.n == 1 {
		k.since = now
	}
	if k.n < mostStrikes || now.Sub(k.since) < leastDoubt {
		return
	}
	k.n = 0
	s.out.Connected(1)
	if d, resent, ok := s.out.Peek(); ok && resent {
		s.skip(d, true, ErrPoison)
	}
}
