package broker

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/topic"
)

// login is what a connection remembers from CONNECT to CONNACK, and while it authenticates again.
type login struct {
	connect   mqtt.Connect
	assigned  bool // the ClientID is ours
	enhanced  EnhancedAuthenticator
	exchange  Exchange
	lastReply []byte // Authentication Data for the last packet of the exchange
}

// handshake processes what comes before the client is accepted: one CONNECT, and AUTH if both agreed on that.
func (c *conn) handshake(f mqtt.Frame, t *turn) error {
	switch {
	case c.state == expectConnect && f.Type == mqtt.CONNECT:
		err := c.onConnect(f, t)
		if err != nil {
			c.refuseConnect(t, err)
		}
		return err
	case c.state == authenticating && f.Type == mqtt.AUTH:
		err := c.onAuth(f, t)
		if err != nil {
			c.refuseConnect(t, err)
		}
		return err
	case c.state == authenticating && f.Type == mqtt.DISCONNECT:
		return errClosedByPeer
	case c.state == authenticating && f.Type == mqtt.CONNECT:
		return fmt.Errorf("%w: a second CONNECT", mqtt.ProtocolError)
	}
	return fmt.Errorf("%w: %s before CONNECT", mqtt.ProtocolError, f.Type) // [MQTT-3.1.0-1]
}

// refuseConnect answers a CONNECT with the reason why not, where the version has one; then the connection is closed.
func (c *conn) refuseConnect(t *turn, err error) {
	code, ok := reasonOf(err)
	if !ok {
		code = mqtt.ServerUnavailable
	}
	v := c.version
	switch {
	case v == 0:
		return // not even a protocol version [MQTT-3.1.4-1]
	case v != mqtt.V31 && v != mqtt.V311 && v != mqtt.V5:
		if v < mqtt.V5 {
			v = mqtt.V311 // so old that it knows return code 1
		} else {
			v = mqtt.V5
		}
	case v != mqtt.V5 && !code.HasConnackV3():
		return // [v3.1.1 MQTT-4.8.0-1]
	}
	ack := mqtt.Connack{Code: code, Props: c.explain(err)}
	c.sendBytes(t, ack.Append(nil, v)) // [MQTT-3.2.2-7]
}

// onConnect takes the CONNECT (§3.1.4).
func (c *conn) onConnect(f mqtt.Frame, t *turn) error {
	l := &login{}
	p := &l.connect
	err := p.Parse(f)
	c.version = p.Version
	if err != nil {
		return err
	}
	c.login = l
	if v, ok := p.Props.Int(mqtt.RequestProblemInformation); ok {
		c.explains = v == 1
	}
	c.maxPacket = maxPacket
	if n, ok := p.Props.Int(mqtt.MaximumPacketSize); ok {
		c.maxPacket = int(min(int64(n), maxPacket))
	}
	if err := c.checkConnect(l); err != nil {
		return err
	}
	l.keep()
	if method, ok := p.Props.Bytes(mqtt.AuthenticationMethod); ok {
		return c.startExchange(string(method), t)
	}
	grant, err := c.authenticate(t)
	if err != nil {
		return err
	}
	return c.accept(grant, t)
}

// keep copies what the packet borrows from the read buffer.
func (l *login) keep() {
	p := &l.connect
	p.Props = append(mqtt.Properties(nil), p.Props...)
	p.Password = append([]byte(nil), p.Password...)
	if w := p.Will; w != nil {
		w.Payload = append([]byte(nil), w.Payload...)
		w.Props = append(mqtt.Properties(nil), w.Props...)
	}
}

// checkConnect holds the rules about a CONNECT that need no decision by others.
func (c *conn) checkConnect(l *login) error {
	p := &l.connect
	b := c.broker
	if err := c.checkClientID(l); err != nil {
		return err
	}
	w := p.Will
	if w == nil {
		return nil
	}
	if err := topic.ValidateName(w.Topic, b.topicLimits); err != nil {
		return nameError(err) // [MQTT-3.1.3-11]
	}
	return b.checkContent(w.Props, w.Payload)
}

// checkClientID holds the rules about the ClientID (§3.1.3.1) and makes one up when the client leaves that to us.
func (c *conn) checkClientID(l *login) error {
	p := &l.connect
	switch n := len(p.ClientID); {
	case n > c.broker.limits.ClientIDBytes:
		return fmt.Errorf("%w: longer than %d bytes", mqtt.ClientIdentifierNotValid, c.broker.limits.ClientIDBytes)
	case n > 23 && p.Version == mqtt.V31 && c.broker.config.StrictClientIDs:
		return fmt.Errorf("%w: longer than the 23 characters of MQTT 3.1", mqtt.ClientIdentifierNotValid)
	case n > 0:
		return nil
	case p.Version == mqtt.V31, p.Version == mqtt.V311 && !p.CleanStart:
		return fmt.Errorf("%w: empty", mqtt.ClientIdentifierNotValid) // [v3.1.1 MQTT-3.1.3-8]
	}
	p.ClientID, l.assigned = "auto-"+randomID(), true // [MQTT-3.1.3-6]
	return nil
}

// randomID returns 26 characters that nobody can guess.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// connectRequest returns what authenticators see of the client.
func (c *conn) connectRequest() *ConnectRequest {
	r := &ConnectRequest{Version: c.version, Listener: c.listener, Remote: c.remote, TLS: c.tls}
	if l := c.login; l != nil {
		p := &l.connect
		r.HasUsername, r.Username, r.HasPassword, r.Password = p.HasUsername, p.Username, p.HasPassword, p.Password
		if r.ClientID = p.ClientID; l.assigned {
			r.ClientID = ""
		}
	}
	return r
}

// authContext bounds what an authenticator may take: a little less than the connection has, so that the client still hears
// the answer.
func (c *conn) authContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.broker.ctx, c.broker.limits.ConnectTimeout/10*9)
}

// authenticate asks the authenticator of the listener, or of the broker.
func (c *conn) authenticate(t *turn) (Grant, error) {
	a := c.config.Authenticator
	if a == nil {
		a = c.broker.config.Authenticator
	}
	if a == nil {
		return Grant{}, nil // nobody has checked the user name, so it means nothing
	}
	t.flush()
	ctx, cancel := c.authContext()
	defer cancel()
	grant, err := a.Authenticate(ctx, c.connectRequest())
	if err == nil {
		return grant, nil
	}
	return Grant{}, loginError(err)
}

// loginError gives an error of an authenticator the code that the client hears.
func loginError(err error) error {
	if _, ok := reasonOf(err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", mqtt.NotAuthorized, err) // nobody said yes, for whatever reason
}

// accept makes the client one of ours: opens its session, answers, and sends what waits for it.
func (c *conn) accept(g Grant, t *turn) error {
	if c.ending() != nil {
		return fmt.Errorf("%w: the login took too long", mqtt.ServerUnavailable) // and must not take a session over any more
	}
	l := c.login
	p := &l.connect
	b := c.broker
	info := &ClientInfo{
		ClientID: p.ClientID, User: g.User, Version: p.Version, Listener: c.listener, Remote: c.remote, ConnectedAt: t.now,
		KeepAlive: b.keepAlive(p), CleanStart: p.CleanStart, Expiry: b.sessionExpiry(p), Certificate: c.tls, Access: g.Access,
	}
	w, err := b.checkWill(info, p.Will)
	if err != nil {
		return err
	}
	c.info, c.keepAlive = info, info.KeepAlive
	c.applyLimits(p)
	if !g.Expires.IsZero() {
		c.expires.Store(g.Expires.UnixNano())
	}
	if err := b.openSession(c, w, t); err != nil {
		return err
	}
	c.state = connected
	c.in.small = false
	c.accepted.Store(true)
	c.deadline.Stop()
	c.checkDeadline()
	c.login.connect = mqtt.Connect{}
	if l.enhanced == nil {
		c.login = nil
	}
	b.connectedEvent(c)
	t.flush()                // an Authorizer may block
	b.reauthorize(c.session) // what waits was accepted for whoever the client was then
	c.session.pump(t)
	return nil
}

// applyLimits sets what this client and we allow each other.
func (c *conn) applyLimits(p *mqtt.Connect) {
	b := c.broker
	c.limit = b.limits.PacketSize
	if n := c.config.MaxPacketSize; n > 0 {
		c.limit = n
	}
	if p.Version == mqtt.V5 {
		c.aliases.Reset(uint16(b.limits.TopicAliases))
		most, _ := p.Props.Int(mqtt.TopicAliasMaximum)
		c.aliasesOut.Reset(uint16(min(int(most), b.limits.TopicAliases)))
	}
	if r := b.limits.PublishRate; r > 0 {
		burst := float64(b.limits.PublishBurst)
		c.bucket = &bucket{rate: r, burst: burst, tokens: burst, last: time.Now()}
	}
}

// window returns how many messages may be in flight to the client [MQTT-3.3.4-9].
func (c *conn) window(p *mqtt.Connect) int {
	n := c.broker.limits.MaxInflight
	if most, ok := p.Props.Int(mqtt.ReceiveMaximum); ok {
		n = min(n, int(most))
	}
	return n
}

// receiveMaximum returns how many messages may be in flight from the client. MQTT 3 clients cannot be told.
func (c *conn) receiveMaximum() int {
	if c.version == mqtt.V5 {
		return c.broker.limits.ReceiveMaximum
	}
	return 65_535
}

// keepAlive returns the Keep Alive that is enforced.
func (b *Broker) keepAlive(p *mqtt.Connect) time.Duration {
	k := time.Duration(p.KeepAlive) * time.Second
	if most := b.limits.MaxKeepAlive; most > 0 && p.Version == mqtt.V5 && (k == 0 || k > most) {
		return min(max(most.Truncate(time.Second), time.Second), 65_535*time.Second)
	}
	return k
}

// expiry returns a Session Expiry Interval as a duration, within our limit.
func (b *Broker) expiry(seconds uint32) time.Duration {
	d := time.Duration(seconds) * time.Second
	if seconds == 0xFFFFFFFF {
		d = NeverExpires // §3.1.2.11.2
	}
	return min(d, b.limits.SessionExpiry)
}

// sessionExpiry returns how long the session of a CONNECT outlives its connection. Clean Session of MQTT 3 is Clean Start
// with an expiry of 0, no Clean Session is one that never expires (§3.1.2.11.2).
func (b *Broker) sessionExpiry(p *mqtt.Connect) time.Duration {
	if p.Version != mqtt.V5 {
		if p.CleanStart {
			return 0
		}
		return b.expiry(0xFFFFFFFF)
	}
	seconds, _ := p.Props.Int(mqtt.SessionExpiryInterval)
	return b.expiry(seconds)
}

// connack returns the CONNACK of an accepted client: everything in which we differ from the specification's defaults.
func (c *conn) connack(present bool) []byte {
	ack := mqtt.Connack{SessionPresent: present} // [MQTT-3.2.2-2], [MQTT-3.2.2-3]
	if c.version == mqtt.V5 {
		ack.Props = c.connackProperties()
	}
	return ack.Append(nil, c.version)
}

func (c *conn) connackProperties() (p mqtt.Properties) {
	l, b := c.login, c.broker
	asked := &l.connect
	if wanted, _ := asked.Props.Int(mqtt.SessionExpiryInterval); seconds(c.info.Expiry) != wanted {
		p = p.WithInt(mqtt.SessionExpiryInterval, seconds(c.info.Expiry))
	}
	if n := b.limits.ReceiveMaximum; n < 65_535 {
		p = p.WithInt(mqtt.ReceiveMaximum, uint32(n))
	}
	if c.limit < maxPacket {
		p = p.WithInt(mqtt.MaximumPacketSize, uint32(c.limit))
	}
	if l.assigned {
		p = p.WithString(mqtt.AssignedClientIdentifier, c.info.ClientID) // [MQTT-3.2.2-16]
	}
	if n := b.limits.TopicAliases; n > 0 {
		p = p.WithInt(mqtt.TopicAliasMaximum, uint32(n))
	}
	if k := c.info.KeepAlive / time.Second; k != time.Duration(asked.KeepAlive) {
		p = p.WithInt(mqtt.ServerKeepAlive, uint32(k)) // [MQTT-3.2.2-21]
	}
	if asked.Props.Flag(mqtt.RequestResponseInformation, false) && b.config.ResponsePrefix != "" {
		p = p.WithString(mqtt.ResponseInformation, b.config.ResponsePrefix+c.info.ClientID) // [MQTT-3.1.2-28]
	}
	if l.enhanced != nil {
		p = p.WithString(mqtt.AuthenticationMethod, l.enhanced.Method()) // [MQTT-4.12.0-5]
		if len(l.lastReply) > 0 {
			p = p.WithString(mqtt.AuthenticationData, string(l.lastReply))
		}
	}
	return p
}

// will is the Will of one connection.
type will struct {
	message *mqtt.Message
	expiry  time.Duration // its Message Expiry Interval, which begins when it is published; zero for none
	delay   time.Duration
	info    *ClientInfo
	session *Session // whose it is
}

// checkWill makes a will of what the CONNECT brought, nil when it brought none.
func (b *Broker) checkWill(info *ClientInfo, w *mqtt.Will) (*will, error) {
	if w == nil {
		return nil, nil
	}
	if err := b.mayWrite(info, w.Topic); err != nil {
		return nil, err
	}
	delay, _ := w.Props.Int(mqtt.WillDelayInterval)
	expiry, _ := w.Props.Int(mqtt.MessageExpiryInterval)
	return &will{
		message: &mqtt.Message{
			Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Publisher: info.ClientID,
			Props: w.Props.Without(mqtt.WillDelayInterval, mqtt.MessageExpiryInterval),
		},
		expiry: time.Duration(expiry) * time.Second,
		delay:  time.Duration(delay) * time.Second,
		info:   info,
	}, nil
}

// due returns how long after the end of the connection the Will is published.
func (w *will) due(expiry time.Duration) time.Duration { return session.WillDue(w.delay, expiry) }
