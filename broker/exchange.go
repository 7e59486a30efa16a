package broker

import (
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
)

// startExchange begins enhanced authentication (§4.12).
func (c *conn) startExchange(method string, t *turn) error {
	l := c.login
	for _, e := range c.broker.config.Enhanced {
		if e.Method() == method {
			l.enhanced = e
		}
	}
	if l.enhanced == nil {
		return fmt.Errorf("%w: the server does not know it", mqtt.BadAuthenticationMethod) // [MQTT-4.12.0-1]
	}
	x, err := l.enhanced.Start(c.connectRequest())
	if err != nil {
		return loginError(err)
	}
	l.exchange = x
	data, _ := l.connect.Props.Bytes(mqtt.AuthenticationData)
	return c.stepExchange(data, t)
}

// stepExchange gives the client's data to the exchange, and the answer to the client.
func (c *conn) stepExchange(data []byte, t *turn) error {
	l := c.login
	t.flush()
	ctx, cancel := c.authContext()
	defer cancel()
	reply, done, err := l.exchange.Next(ctx, data)
	if err != nil {
		return loginError(err)
	}
	if !done {
		if c.state == expectConnect {
			c.state = authenticating
		}
		c.sendAuth(t, mqtt.ContinueAuthentication, reply) // [MQTT-4.12.0-2]
		return nil
	}
	l.lastReply = reply
	grant := l.exchange.Grant()
	l.exchange = nil
	if c.state == connected {
		return c.reauthenticated(grant, t)
	}
	return c.accept(grant, t)
}

func (c *conn) sendAuth(t *turn, code mqtt.ReasonCode, data []byte) {
	a := mqtt.Auth{Code: code, Props: mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, c.login.enhanced.Method())}
	if len(data) > 0 {
		a.Props = a.Props.WithString(mqtt.AuthenticationData, string(data))
	}
	c.sendBytes(t, a.Append(nil))
}

// onAuth takes the next step of an exchange from the client.
func (c *conn) onAuth(f mqtt.Frame, t *turn) error {
	a, data, err := c.parseAuth(f)
	if err != nil {
		return err
	}
	if a.Code != mqtt.ContinueAuthentication || c.login.exchange == nil {
		return fmt.Errorf("%w: AUTH out of turn", mqtt.ProtocolError) // [MQTT-4.12.0-3]
	}
	return c.stepExchange(data, t)
}

// parseAuth reads an AUTH and checks that it speaks of the method that the CONNECT named.
func (c *conn) parseAuth(f mqtt.Frame) (a mqtt.Auth, data []byte, err error) {
	if err := a.Parse(f, c.version); err != nil {
		return a, nil, err
	}
	method, ok := a.Props.Bytes(mqtt.AuthenticationMethod)
	switch {
	case !ok:
		return a, nil, fmt.Errorf("%w: AUTH without a method", mqtt.ProtocolError) // §3.15.2.2.2
	case c.login == nil || c.login.enhanced == nil:
		return a, nil, fmt.Errorf("%w: AUTH without an Authentication Method in CONNECT", mqtt.ProtocolError) // [MQTT-4.12.0-6], [MQTT-4.12.0-7]
	case string(method) != c.login.enhanced.Method():
		return a, nil, fmt.Errorf("%w: another method than in CONNECT", mqtt.ProtocolError) // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
	}
	data, _ = a.Props.Bytes(mqtt.AuthenticationData)
	return a, append([]byte(nil), data...), nil
}

// onReauthenticate takes an AUTH on an accepted connection (§4.12.1).
func (c *conn) onReauthenticate(f mqtt.Frame, t *turn) error {
	if c.version != mqtt.V5 {
		return fmt.Errorf("%w: AUTH before MQTT 5.0", mqtt.MalformedPacket)
	}
	a, data, err := c.parseAuth(f)
	if err != nil {
		return err
	}
	l := c.login
	switch {
	case a.Code == mqtt.ReAuthenticate && l.exchange == nil:
		l.connect.ClientID = c.info.ClientID
		x, err := l.enhanced.Start(c.connectRequest())
		if err != nil {
			return loginError(err)
		}
		l.exchange = x
	case a.Code == mqtt.ContinueAuthentication && l.exchange != nil:
	default:
		return fmt.Errorf("%w: AUTH out of turn", mqtt.ProtocolError)
	}
	return c.stepExchange(data, t)
}

// reauthenticated renews what the client was granted. It stays who it is.
func (c *conn) reauthenticated(g Grant, t *turn) error {
	if g.User != c.info.User {
		return fmt.Errorf("%w: authenticated again as another user", mqtt.NotAuthorized)
	}
	info := *c.info
	info.Access = g.Access
	c.info = &info
	c.topics, c.lastTopic = nil, nil // they know what was allowed before
	if err := c.session.renew(c); err != nil {
		return err
	}
	if g.Expires.IsZero() {
		c.expires.Store(0)
	} else {
		c.expires.Store(g.Expires.UnixNano())
	}
	c.deadline.Reset(0)
	c.sendAuth(t, mqtt.Success, c.login.lastReply)
	c.broker.reauthorize(c.session)
	return nil
}

// renew gives the session the new info of c, unless another connection owns it by now.
func (s *Session) renew(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() != c {
		return mqtt.SessionTakenOver
	}
	s.info.Store(c.info)
	if s.will != nil {
		renewed := *s.will
		renewed.info = c.info // it is published only if the client may at that time
		s.will = &renewed
	}
	return nil
}
