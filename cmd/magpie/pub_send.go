package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// outlet is where messages go: one connection, or a client that makes one after the other.
type outlet interface {
	// start publishes without waiting for the answer. It may block while much waits already.
	start(ctx context.Context, m *mqtt.Message) (*client.Publication, error)
	// over is closed when nothing can be published any more, and why says why that is, nil before.
	over() <-chan struct{}
	why() error
	// close ends it politely and returns the error of the whole command, for which err is that of publishing. When ctx is done it
	// waits for no answer any more.
	close(ctx context.Context, err error) error
}

// source gives one payload after the other. more is false at the end; an error is one of this payload, or of the end.
type source func() (payload []byte, more bool, err error)

// sender publishes messages that differ in their payload.
type sender struct {
	ctx     context.Context
	out     outlet
	message mqtt.Message
	expiry  *uint32 // seconds; nil for none
	pace    *pace   // nil for as fast as it goes
	one     bool    // one at a time: the next when the one before has been acknowledged, and none after a refusal

	waiting []*client.Publication
	failed  error // the first one
}

// waitsAtMost is how many publications are remembered before the first of them is waited for.
const waitsAtMost = 4096

// send publishes everything and waits for the answers. It goes on after a refusal, unless one message is to go after the other, and
// returns the first error.
func (s *sender) send(next source) error {
	for {
		payload, more, err := next()
		s.note(err)
		if !more {
			s.settle(0)
			return s.failed
		}
		if err == nil {
			s.publish(payload)
		}
		if s.ended() || s.one && s.failed != nil {
			return s.failed
		}
	}
}

// publish sends one message, and waits as far as it must.
func (s *sender) publish(payload []byte) {
	p, err := s.start(payload)
	if err != nil {
		s.note(err) // a line that is too large does not keep the others back
		return
	}
	s.waiting = append(s.waiting, p)
	if s.one {
		s.settle(0)
	} else {
		s.settle(waitsAtMost)
	}
}

func (s *sender) note(err error) {
	if s.failed == nil {
		s.failed = err
	}
}

// ended reports whether there is nobody to send to any more, or no time.
func (s *sender) ended() bool { return s.ctx.Err() != nil || s.out.why() != nil }

// start publishes without waiting for the answer.
func (s *sender) start(payload []byte) (*client.Publication, error) {
	m := s.message
	m.Payload = payload
	if s.expiry != nil {
		m.Expires = time.Now().Add(time.Duration(*s.expiry) * time.Second)
	}
	return s.out.start(s.ctx, &m)
}

// settle waits until at most that many answers are missing.
func (s *sender) settle(most int) {
	for len(s.waiting) > most {
		select {
		case <-s.waiting[0].Done():
			_, err := s.waiting[0].Result()
			s.note(err)
		case <-s.ctx.Done():
			s.note(s.ctx.Err())
			return
		}
		s.waiting = s.waiting[1:]
	}
}

// pause waits. It reports false when there is no sense in going on.
func (s *sender) pause(d time.Duration) bool {
	if d <= 0 {
		return !s.ended()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.out.over():
		s.note(plainEnd(s.out.why()))
	case <-s.ctx.Done():
	}
	return false
}

// repeated is the source of the same payload several times.
func (s *sender) repeated(times int, delay time.Duration) source {
	sent := 0
	return func() ([]byte, bool, error) {
		if sent == times || sent > 0 && !s.pause(delay) || !s.pause(s.pace.wait()) {
			return nil, false, nil
		}
		sent++
		return s.message.Payload, true, nil
	}
}

// lines is the source of the lines of in, up to a number.
func (s *sender) lines(in io.Reader, most int, decode func([]byte) ([]byte, error)) source {
	lines := readLinesFrom(s.ctx, in)
	n := 0
	return func() ([]byte, bool, error) {
		if n == most || n > 0 && !s.pause(s.pace.wait()) {
			return nil, false, nil
		}
		select {
		case l := <-lines:
			if l.end {
				return nil, false, l.err
			}
			n++
			payload, err := decode(l.text)
			if err != nil {
				err = fmt.Errorf("line %d: %w", n, err)
			}
			return payload, true, err
		case <-s.out.over():
			return nil, false, plainEnd(s.out.why())
		case <-s.ctx.Done():
			return nil, false, nil
		}
	}
}

// oneConn is an outlet that ends with its connection.
type oneConn struct {
	*client.Conn
	flags *connFlags
}

func (o oneConn) start(ctx context.Context, m *mqtt.Message) (*client.Publication, error) {
	return o.Start(ctx, m)
}

func (o oneConn) over() <-chan struct{} { return o.Done() }
func (o oneConn) why() error            { return o.Err() }

func (o oneConn) close(ctx context.Context, err error) error {
	bye := o.flags.goodbye(o.Conn)
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case err == nil && bye != nil:
		return plainEnd(o.Err())
	}
	return plainEnd(err)
}

// pace spreads messages over time. Its zero value and nil do not.
type pace struct {
	every time.Duration
	next  time.Time
}

// mostArrears is by how much a pace may have fallen behind and still make up for it.
const mostArrears = 100 * time.Millisecond

func newPace(perSecond float64) *pace {
	if perSecond == 0 {
		return nil
	}
	return &pace{every: time.Duration(float64(time.Second) / perSecond)}
}

// wait returns how long to wait before the next message, and counts on its being sent then. What came late is made up for, but for
// more than mostArrears: a rate is a limit.
func (p *pace) wait() time.Duration {
	if p == nil {
		return 0
	}
	now := time.Now()
	if oldest := now.Add(-mostArrears); p.next.Before(oldest) {
		p.next = now
	}
	d := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	return max(d, 0)
}
