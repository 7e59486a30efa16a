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
	ctx    context.Context // ends when a promise is broken, and with the test
	server *server
	lives  atomic.Int64 // of the broker: counted before each kill and after each start, so it is even while one may live
	quiet  atomic.Bool  // who publishes finishes what it has begun, and leaves
	last   atomic.Bool  // everything is published: who receives finishes when it has it
}

// client is what all clients have in common. One goroutine uses it.
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
	began := time.Now()
	for c.ctx.Err() == nil {
		w, present, err := c.try(make)
		if err == nil && c.known && !present {
			c.fail("%s: the session is gone", c.id)
		}
		if err == nil {
			return w, present
		}
		if time.Since(began) > patience {
			c.stuck("%s: could not connect for %v: %v", c.id, patience, err)
		}
		c.pause(5 * time.Millisecond)
	}
	return nil, false
}

var errNobody = errors.New("the broker has not told its address yet")

// try sends one CONNECT and reads its CONNACK.
func (c *client) try(make func(life int64) mqtt.Connect) (w *wire, present bool, err error) {
	life, addr := c.lives.Load(), c.server.address()
	if addr == "" {
		return nil, false, errNobody
	}
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, false, err
	}
	connect := make(life)
	w = &wire{nc: nc, v: connect.Version, life: life, out: connect.Append(nil)}
	w.flush()
	p, err := w.next()
	if ack, ok := p.(mqtt.Connack); err == nil && ok && ack.Code == mqtt.Success {
		return w, ack.SessionPresent, nil
	}
	if err == nil {
		c.fail("%s: CONNECT answered with %+v", c.id, p)
	}
	c.ended(w, err)
	return nil, false, err
}

// ended judges the end of a connection that the client did not want: only a kill may end one.
func (c *client) ended(w *wire, err error) {
	_ = w.nc.Close()
	switch {
	case errors.Is(err, errStuck):
		c.stuck("%s: %v", c.id, err)
	case errors.Is(err, errNonsense):
		c.fail("%s: %v", c.id, err)
	case c.lives.Load() == w.life && w.life%2 == 0:
		c.fail("%s: the broker lives and has ended the connection: %v", c.id, err)
	}
}

// stuck is fail for a broker that does not go on: it has to tell what its goroutines do.
func (c *client) stuck(format string, args ...any) {
	if c.ctx.Err() == nil {
		c.server.dump()
	}
	c.fail(format, args...)
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

// leave ends the connection with DISCONNECT.
func (c *client) leave(code mqtt.ReasonCode) {
	if err := c.link.leave(code); err != nil {
		c.stuck("%s: after DISCONNECT: %v", c.id, err)
	}
}

// takeOver connects while the connection before is still there, which the broker has to end [MQTT-3.1.4-3].
func (c *client) takeOver(connect func()) {
	old := c.link
	connect()
	if err := old.awaitEnd(); err != nil {
		c.stuck("%s: a connection that was taken over: %v", c.id, err)
	}
}
