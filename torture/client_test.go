//go:build torture

package torture

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// world is what all clients share.
type world struct {
	*ledger
	ctx   context.Context // ends when a promise is broken, and with the test
	addr  string
	lives atomic.Int64 // of the broker; counted before each kill and after each start
	quiet atomic.Bool  // publishers finish what they have begun, and leave
	last  atomic.Bool  // everything is published: subscribers finish when they have it
}

// client is what publishers and subscribers have in common. One goroutine uses it.
type client struct {
	*world
	id    string
	v     mqtt.Version
	rng   *rand.Rand
	link  *wire
	known bool // the broker has acknowledged something, so it must know the session
}

// dial connects until it succeeds or the run ends. make is called for each CONNECT that is sent, with the broker's
// life before: when that is still the same later, the broker has not been killed since.
func (c *client) dial(make func(life int64) mqtt.Connect) (*wire, bool) {
	for c.ctx.Err() == nil {
		w, present, err := c.try(make)
		if err == nil && c.known && !present {
			c.fail("%s: the session is gone", c.id)
		}
		if err == nil {
			return w, present
		}
		c.judge(err)
		c.pause(5 * time.Millisecond)
	}
	return nil, false
}

// try sends one CONNECT and reads its CONNACK.
func (c *client) try(make func(life int64) mqtt.Connect) (w *wire, present bool, err error) {
	life := c.lives.Load()
	nc, err := net.DialTimeout("tcp", c.addr, patience)
	if err != nil {
		return nil, false, err
	}
	connect := make(life)
	w = &wire{nc: nc, v: connect.Version, out: connect.Append(nil)}
	w.flush()
	p, err := w.next()
	if ack, ok := p.(mqtt.Connack); err == nil && ok && ack.Code == mqtt.Success {
		return w, ack.SessionPresent, nil
	}
	_ = nc.Close()
	if err == nil {
		c.fail("%s: CONNECT answered with %+v", c.id, p)
	}
	return nil, false, err
}

// judge says whether the end of a connection is a failure: a kill is none.
func (c *client) judge(err error) {
	if errors.Is(err, errStuck) || errors.Is(err, errNonsense) {
		c.fail("%s: %v", c.id, err)
	}
}

// pause stays away for up to most, as clients do.
func (c *client) pause(most time.Duration) {
	t := time.NewTimer(time.Duration(c.rng.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-c.ctx.Done():
	case <-t.C:
	}
}

// request is a CONNECT for a session that stays.
func (c *client) request() mqtt.Connect {
	r := mqtt.Connect{Version: c.v, ClientID: c.id, KeepAlive: 600}
	if c.v == mqtt.V5 {
		r.Props = r.Props.WithInt(mqtt.SessionExpiryInterval, 0xFFFFFFFF)
	}
	return r
}

// mood is what a client does to its connection.
type mood int

const (
	stay mood = iota
	drop      // close without a word
	bow       // leave with DISCONNECT
	oust      // connect again beside it: the broker must end the old connection
)

// mood draws one; in one of so many cases it is not stay.
func (c *client) mood(oneIn int) mood {
	if c.rng.IntN(oneIn) > 0 {
		return stay
	}
	return mood(1 + c.rng.IntN(3))
}
