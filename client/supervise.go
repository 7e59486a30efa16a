package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// mostReferences is how many Server References are followed in a row.
const mostReferences = 3

var errReferences = errors.New("servers send us from one to the other")

// stable is how long a connection has to live to count as one that works.
const stable = 10 * time.Second

// run is the supervisor: it connects whenever there is no connection, until the client is closed or can never connect.
func (c *Client) run(conn *Conn) {
	for {
		if conn == nil {
			var err error
			if conn, err = c.reconnect(); err != nil {
				c.finish(err)
				return
			}
		}
		if c.ctx.Err() != nil { // Close did not see this connection
			c.leave()
		}
		began := time.Now()
		<-conn.Done()
		c.lost(conn, time.Since(began))
		conn = nil
	}
}

// leave ends a connection that came too late.
func (c *Client) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	c.disconnect(ctx)
}

// lost takes the end of a connection.
func (c *Client) lost(conn *Conn, lived time.Duration) {
	err := conn.Err()
	if lived >= stable {
		c.wait.reset()
	}
	if severity(err) != passing {
		c.wait.slow()
	}
	c.strikes.judge(c.session, conn, err)
	c.detour = nil
	if ref, forGood := reference(err); ref != "" && !c.set.fixed {
		c.follow(c.current, ref, forGood)
	}
	c.set.log.Info("disconnected", "reason", err)
	if f := c.set.onDisconnect; f != nil {
		c.events.add(c, func() { f(err) })
	}
}

// reconnect tries until a server accepts. The error is why the client is over.
func (c *Client) reconnect() (*Conn, error) {
	pause := c.begun && c.detour == nil
	for {
		if pause {
			if !c.pause() {
				return nil, ErrClosed
			}
		}
		conn, err := c.pass(c.ctx)
		if err == nil {
			return conn, nil
		}
		if c.ctx.Err() != nil {
			return nil, ErrClosed
		}
		if severity(err) == hopeless {
			c.set.log.Error("cannot connect, ever", "reason", err)
			return nil, err
		}
		if severity(err) == slow {
			c.wait.slow()
		}
		pause = true
		c.retrying(err)
	}
}

// retrying reports a pass without success.
func (c *Client) retrying(err error) {
	c.setFailed(err)
	wait := c.wait.now()
	c.set.log.Warn("cannot connect", "reason", err, "next", wait)
	if f := c.set.onRetry; f != nil {
		c.events.add(c, func() { f(err, wait) })
	}
}

func (c *Client) setFailed(err error) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.failed = err
}

// pause waits before the next attempt. It reports false when the client is being closed.
func (c *Client) pause() bool {
	t := time.NewTimer(c.wait.next())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// pass tries each server once. The error is the first one that leaves some hope, or the first.
func (c *Client) pass(ctx context.Context) (*Conn, error) {
	if s := c.detour; s != nil {
		c.detour = nil
		if conn, err := c.try(ctx, s); err == nil {
			return conn, nil
		}
	}
	var failed error
	for range c.servers {
		conn, err := c.try(ctx, c.servers[c.next])
		if err == nil {
			return conn, nil
		}
		if failed == nil || severity(failed) == hopeless && severity(err) != hopeless {
			failed = err
		}
		c.next = (c.next + 1) % len(c.servers)
	}
	return nil, failed
}

// try connects to a server, or to the one that it names instead.
func (c *Client) try(ctx context.Context, s *server) (*Conn, error) {
	for range mostReferences {
		conn, err := c.negotiate(ctx, s)
		ref, forGood := reference(err)
		if ref == "" || c.set.fixed {
			return conn, err
		}
		if s = c.follow(s, ref, forGood); s == nil {
			return nil, err
		}
	}
	return nil, errReferences
}

// follow notes where a server sends us and returns it; nil if that is nowhere.
func (c *Client) follow(from *server, ref string, forGood bool) *server {
	to, err := from.refer(ref)
	if err != nil {
		c.set.log.Warn("server reference not followed", "reason", err)
		return nil
	}
	c.set.log.Info("server sends us elsewhere", "from", from.name(), "to", to.name(), "for good", forGood)
	c.detour = to
	if i := slices.Index(c.servers, from); forGood && i >= 0 {
		c.servers[i], c.detour = to, nil
	}
	return to
}

// negotiate connects with the newest version that the server speaks.
func (c *Client) negotiate(ctx context.Context, s *server) (*Conn, error) {
	fixed := c.set.cfg.Version != 0 || c.set.cfg.Exchange != nil
	v := c.set.cfg.Version
	if v == 0 {
		v = s.version
	}
	if v == 0 {
		v = mqtt.V5
	}
	conn, err := c.connect(ctx, s, v)
	if err == nil || fixed || v != mqtt.V5 || !speaksOlder(err) {
		return conn, err
	}
	conn, second := c.connect(ctx, s, mqtt.V311)
	if errors.Is(second, errSilent) {
		return nil, err
	}
	return conn, second
}

// speaksOlder reports whether a refusal of MQTT 5.0 may be one of the version: some servers just close.
func speaksOlder(err error) bool {
	var answer *ServerError
	return errors.Is(err, errSilent) || errors.As(err, &answer) && answer.Code == mqtt.UnsupportedProtocolVersion
}

// connect makes one attempt.
func (c *Client) connect(ctx context.Context, s *server, v mqtt.Version) (*Conn, error) {
	cfg := c.configFor(v, !c.begun)
	if c.set.login != nil {
		username, password, err := c.set.login(ctx)
		if err != nil {
			return nil, fmt.Errorf("asking for user name and password: %w", err)
		}
		cfg.Username, cfg.Password = username, password
	}
	cfg.Session = c.session
	if c.strikes.suspects() {
		cfg.MaxInflight = 1
	}
	conn, err := dial(ctx, s.url, cfg)
	if err != nil {
		return nil, err
	}
	s.version, c.begun, c.current = v, true, s
	c.connected(conn, s)
	return conn, nil
}

// configFor returns the configuration of a connection. MQTT 3 has no properties: they are left out.
func (c *Client) configFor(v mqtt.Version, first bool) Config {
	cfg := c.set.cfg
	cfg.Version = v
	cfg.Session = new(Session) // until there is the right one
	cfg.CleanStart = first && (cfg.CleanStart || !c.set.keep)
	if v != 0 && v != mqtt.V5 {
		cfg.CleanStart = cfg.CleanStart || !c.set.keep // such a session would stay with the server for ever
		cfg.Props = nil
		if w := cfg.Will; w != nil {
			plain := *w
			plain.Props = nil
			cfg.Will = &plain
		}
		return cfg
	}
	if _, given := cfg.Props.Int(mqtt.RequestResponseInformation); !given && c.set.replyTopic == "" {
		cfg.Props = cfg.Props.Without().WithInt(mqtt.RequestResponseInformation, 1)
	}
	return cfg
}

// connected tells that there is a connection.
func (c *Client) connected(conn *Conn, s *server) {
	info := Connected{
		Server: s.name(), Version: conn.Version(), ClientID: conn.ClientID(), SessionPresent: conn.connack.SessionPresent,
		KeepAlive: conn.KeepAlive(), Connack: conn.Connack(),
	}
	c.noteServer(info)
	c.set.log.Info("connected", "server", info.Server, "version", info.Version.String(), "session", info.SessionPresent)
	if f := c.set.onConnect; f != nil {
		c.events.add(c, func() { f(info) })
	}
}

func (c *Client) noteServer(info Connected) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.last.info, c.failed = info, nil
}

// started implements keeper.
func (c *Client) started(conn *Conn, kept bool) {
	if c.set.keep && !c.last.known && kept && c.rest == nil {
		c.park()
	}
	c.last.known, c.last.version, c.last.limits = true, conn.version, conn.sending
	if c.queue != nil {
		conn.awaitDisk(c.queue.last())
	}
	c.subs.resume(conn, kept)
}

// ended implements keeper.
func (c *Client) ended(conn *Conn) { c.past.add(conn) }

// How bad the failure of an attempt is.
const (
	passing  = iota // try again soon
	slow            // try again, but it takes somebody to change something
	hopeless        // the same attempt can never succeed
)

// severity judges an error of an attempt to connect, or the end of a connection.
func severity(err error) int {
	var answer *ServerError
	var bad *ConfigError
	switch {
	case errors.As(err, &bad):
		return hopeless
	case errors.Is(err, transport.ErrProxyLogin):
		return slow
	case !errors.As(err, &answer):
		return passing
	}
	switch answer.Code {
	case mqtt.BadUserNameOrPassword, mqtt.NotAuthorized, mqtt.Banned, mqtt.QuotaExceeded, mqtt.AdministrativeAction:
		return slow
	case mqtt.MalformedPacket, mqtt.ProtocolError, mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid, mqtt.BadAuthenticationMethod,
		mqtt.TopicNameInvalid, mqtt.PacketTooLarge, mqtt.PayloadFormatInvalid, mqtt.RetainNotSupported, mqtt.QoSNotSupported:
		if answer.Packet == mqtt.CONNACK {
			return hopeless // it judges our CONNECT, which stays the same
		}
	}
	return passing
}

// backoff is the time between attempts.
type backoff struct {
	least, most time.Duration
	at          time.Duration // the longest that the next one may be; zero means least
}

// next returns the time to wait now, and doubles the one after it.
func (b *backoff) next() time.Duration {
	d := b.now()
	b.at = min(2*d, b.most)
	return d - time.Duration(rand.Int64N(int64(d)/2+1)) // so that not all clients of a server come at once
}

func (b *backoff) now() time.Duration { return max(b.at, b.least) }
func (b *backoff) slow()              { b.at = b.most }
func (b *backoff) reset()             { b.at = 0 }
