package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// reconnectFlag is shared by pub and sub.
type reconnectFlag struct {
	Reconnect *bool `negatable:"" group:"Connection" help:"Connect again when the connection is lost, and wait for a broker that is not there yet; --no-reconnect ends the command instead."`
}

// connectsAgain reports whether a lost connection is made again; byDefault is what counts when the flag is not given.
func (f *reconnectFlag) connectsAgain(byDefault bool) bool {
	if f.Reconnect != nil {
		return *f.Reconnect
	}
	return byDefault
}

// patient reports whether the command also waits for its first connection. Without having been told so it does not: a script should hear
// at once that the address is wrong.
func (f *reconnectFlag) patient() bool { return f.Reconnect != nil && *f.Reconnect }

// The time between attempts to connect.
const (
	leastPause = 500 * time.Millisecond
	mostPause  = 30 * time.Second
	stableTime = 10 * time.Second // that a connection must last to count as one that works
)

// sessionGap is how long the broker keeps the session of a command that connects again (MQTT 5.0), unless -c or -x say something else.
const sessionGap = 10 * time.Minute

// errTimeUp is the cause of the end of a context whose time is over.
var errTimeUp = errors.New("timed out")

// withLimit is a context that ends after so many seconds; zero for never.
func withLimit(ctx context.Context, seconds float64) (context.Context, context.CancelFunc) {
	if seconds == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, time.Duration(seconds*float64(time.Second)), errTimeUp)
}

// notices say on stderr what becomes of the connection.
type notices struct{ quiet bool }

func (n notices) say(format string, args ...any) {
	if !n.quiet {
		fmt.Fprintf(os.Stderr, "magpie: "+format+"\n", args...)
	}
}

func (n notices) lost(err error) { n.say("connection lost: %v; connecting again", plainEnd(err)) }

func (n notices) failed(err error, wait time.Duration) {
	n.say("%v; trying again within %v", err, wait.Round(100*time.Millisecond))
}

func (n notices) again(kept bool) {
	if kept {
		n.say("connected again; the broker has kept the session")
		return
	}
	n.say("connected again; the broker has not kept the session")
}

// plainEnd says in the user's words why a connection ended.
func plainEnd(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE):
		return errors.New("the broker closed the connection")
	case errors.Is(err, syscall.ECONNRESET):
		return errors.New("the connection was reset")
	}
	return err
}

// takenOver reports whether somebody else has connected with our client id (MQTT 5.0): to connect again would only start a quarrel.
func takenOver(err error) bool {
	var answer *client.ServerError
	return errors.As(err, &answer) && answer.Packet == mqtt.DISCONNECT && answer.Code == mqtt.SessionTakenOver
}

// link makes the connections of sub, one after the other, which share a session. It stands on client.Conn, not on client.Client, because
// sub promises what the latter hides: messages in the order of their arrival whatever filter they came by, the broker's Subscription
// Identifiers as they are, and properties of every packet.
type link struct {
	flags   *connFlags
	cfg     client.Config
	again   bool // connect again
	patient bool // also for the first time
	ends    bool // the session is to end with the command, though the broker keeps it while the link is down
	notices notices

	pause time.Duration // the longest that the next one may be
	began time.Time     // of the last connection
}

func newLink(f *connFlags, cfg client.Config, r *reconnectFlag, byDefault bool) *link {
	l := &link{flags: f, cfg: cfg, again: r.connectsAgain(byDefault), patient: r.patient(), notices: notices{f.Quiet}, pause: leastPause}
	if l.again && !f.Keep {
		l.cfg.Session, l.cfg.CleanStart = new(client.Session), true
		_, given := cfg.Props.Int(mqtt.SessionExpiryInterval)
		if l.ends = cfg.Version == mqtt.V5 && f.Expiry == "" && !given; l.ends {
			l.cfg.SessionExpiry = sessionGap
		}
	}
	return l
}

// first makes the first connection.
func (l *link) first(ctx context.Context) (*client.Conn, error) {
	c, err := l.flags.dial(ctx, l.cfg)
	if err != nil && l.patient && !hopeless(err) && ctx.Err() == nil {
		l.notices.failed(err, l.pause)
		if c, err = l.retry(ctx); ctx.Err() != nil && err != nil {
			err = fmt.Errorf("%w: no connection to %s", err, l.flags.dialURL)
		}
	}
	if err == nil {
		l.connected(c)
	}
	return c, err
}

// connected notes how to go on from a connection.
func (l *link) connected(c *client.Conn) {
	l.began = time.Now()
	l.cfg.ClientID = c.ClientID() // the broker may have chosen it
	if l.cfg.Version == mqtt.V5 {
		l.cfg.CleanStart = false
	}
}

// next makes another connection after one that is done, if that is wanted and makes sense; otherwise it returns why the last one ended.
func (l *link) next(ctx context.Context, last *client.Conn) (*client.Conn, error) {
	err := last.Err()
	if !l.again || takenOver(err) || ctx.Err() != nil {
		return nil, plainEnd(err)
	}
	if time.Since(l.began) >= stableTime {
		l.pause = leastPause
	}
	l.notices.lost(err)
	c, err := l.retry(ctx)
	if err != nil {
		return nil, err
	}
	l.connected(c)
	l.notices.again(c.Connack().SessionPresent)
	return c, nil
}

// retry tries, after a pause each time, until a broker accepts, refuses what cannot change, or ctx is done.
func (l *link) retry(ctx context.Context) (*client.Conn, error) {
	for {
		select {
		case <-time.After(l.pause - rand.N(l.pause/2)): // not all clients at once
		case <-ctx.Done():
			return nil, ended(ctx)
		}
		l.pause = min(2*l.pause, mostPause)
		c, err := l.flags.dial(ctx, l.cfg)
		if err == nil || ctx.Err() != nil || hopeless(err) {
			return c, err
		}
		l.notices.failed(err, l.pause)
	}
}

// hopeless reports whether the broker refuses what stays the same at every attempt. A refused login may be allowed later.
func hopeless(err error) bool {
	var answer *client.ServerError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case mqtt.MalformedPacket, mqtt.ProtocolError, mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid, mqtt.BadAuthenticationMethod,
		mqtt.TopicNameInvalid, mqtt.PacketTooLarge, mqtt.PayloadFormatInvalid, mqtt.RetainNotSupported, mqtt.QoSNotSupported:
		return true
	}
	return false
}

// goodbye ends the last connection, and the session with it if nobody is to find it again.
func (l *link) goodbye(c *client.Conn) error {
	d := mqtt.Disconnect{}
	d.Props, _ = l.flags.Props.properties("disconnect") // was checked
	if _, given := d.Props.Int(mqtt.SessionExpiryInterval); l.ends && !given {
		d.Props = d.Props.WithInt(mqtt.SessionExpiryInterval, 0)
	}
	return l.flags.disconnect(c, d)
}
