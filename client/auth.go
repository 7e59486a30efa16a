package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
)

// Exchange is the client's side of an Authentication Method (§4.12), for one client. Its methods are called one at a time: while it
// connects, later by the connection's reader, which they must not block; Start also by Reauthenticate. What they are given
// borrows from the read buffer.
type Exchange interface {
	// Method returns the Authentication Method, such as "SCRAM-SHA-256".
	Method() string
	// Start begins an exchange and returns the first data; nil sends none.
	Start() (data []byte, err error)
	// Next takes the server's data and returns the answer. An error ends the connection.
	Next(data []byte) (reply []byte, err error)
	// Finish takes the data that came with the server's success, nil if none did. An error ends the connection: the server
	// has not proved who it is.
	Finish(data []byte) error
}

// Reauthenticate runs the Exchange of Config again on the accepted connection (§4.12.1) and returns when the server has accepted.
// If it refuses, the connection ends. One run at a time.
func (c *Conn) Reauthenticate(ctx context.Context) error {
	r := newRequest(mqtt.AUTH, nil)
	if err := c.startReauth(r); err != nil {
		return fmt.Errorf("re-authentication: %w", err)
	}
	select {
	case <-r.done:
		if r.err != nil {
			return fmt.Errorf("re-authentication: %w", r.err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Conn) startReauth(r *request) error {
	if c.cfg.Exchange == nil {
		return errors.New("connection was made without enhanced authentication") // [MQTT-4.12.1-1]
	}
	if err := c.setReauth(r); err != nil {
		return err
	}
	data, err := c.cfg.Exchange.Start()
	c.starting.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reauth != r { // the connection has ended
		return r.err
	}
	if err != nil {
		c.reauth = nil
		return err
	}
	r.sent = true
	c.append(c.authPacket(mqtt.ReAuthenticate, data))
	c.cfg.Session.room.Broadcast() // an answer is expected: the reader may have to read on
	return nil
}

// setReauth notes that r is under way.
func (c *Conn) setReauth(r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.reauth != nil:
		return errors.New("another one is under way")
	}
	c.reauth = r
	c.starting.Add(1)
	return nil
}

func (c *Conn) authPacket(code mqtt.ReasonCode, data []byte) []byte {
	a := mqtt.Auth{Code: code, Props: mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, c.cfg.Exchange.Method())}
	if len(data) > 0 {
		a.Props = a.Props.WithString(mqtt.AuthenticationData, string(data))
	}
	return a.Append(nil)
}

// parseAuth reads an AUTH of the method that CONNECT named.
func (c *Conn) parseAuth(f mqtt.Frame) (code mqtt.ReasonCode, data []byte, err error) {
	var a mqtt.Auth
	if err := a.Parse(f, c.version); err != nil {
		return 0, nil, fmt.Errorf("AUTH: %w", err)
	}
	if c.cfg.Exchange == nil {
		return 0, nil, violation(mqtt.ProtocolError, "AUTH that was not asked for") // [MQTT-4.12.0-6]
	}
	if method := a.Props.String(mqtt.AuthenticationMethod); method != c.cfg.Exchange.Method() {
		return 0, nil, violation(mqtt.ProtocolError, "AUTH of the method %q", method) // [MQTT-4.12.0-5]
	}
	data, _ = a.Props.Bytes(mqtt.AuthenticationData)
	return a.Code, data, nil
}

// nextAuth answers an AUTH that continues an exchange.
func (c *Conn) nextAuth(f mqtt.Frame) (reply []byte, code mqtt.ReasonCode, err error) {
	code, data, err := c.parseAuth(f)
	switch {
	case err != nil:
		return nil, code, err
	case code == mqtt.Success:
		return data, code, nil
	case code != mqtt.ContinueAuthentication:
		return nil, code, violation(mqtt.ProtocolError, "AUTH with the code %v", code) // [MQTT-3.15.2-1]
	}
	if data, err = c.cfg.Exchange.Next(data); err != nil {
		return nil, code, fmt.Errorf("%w: enhanced authentication: %w", mqtt.NotAuthorized, err)
	}
	return c.authPacket(mqtt.ContinueAuthentication, data), code, nil // [MQTT-4.12.0-3]
}

// answerAuth takes an AUTH before CONNACK.
func (c *Conn) answerAuth(f mqtt.Frame) error {
	reply, code, err := c.nextAuth(f)
	if err != nil {
		return err
	}
	if code == mqtt.Success {
		return violation(mqtt.ProtocolError, "AUTH with success before CONNACK")
	}
	return c.say(reply)
}

// finishExchange takes the data that came with CONNACK.
func (c *Conn) finishExchange(p mqtt.Properties) error {
	x := c.cfg.Exchange
	if x == nil {
		return nil
	}
	if method := p.String(mqtt.AuthenticationMethod); method != x.Method() {
		return violation(mqtt.ProtocolError, "CONNACK with the authentication method %q", method) // [MQTT-4.12.0-5]
	}
	data, _ := p.Bytes(mqtt.AuthenticationData)
	if err := x.Finish(data); err != nil {
		return fmt.Errorf("%w: enhanced authentication: %w", mqtt.NotAuthorized, err)
	}
	return nil
}

// onAuth takes an AUTH of a re-authentication. It does not hold mu while it asks the Exchange.
func (c *Conn) onAuth(f mqtt.Frame) error {
	if !c.inReauth() {
		return violation(mqtt.ProtocolError, "AUTH out of turn")
	}
	reply, code, err := c.nextAuth(f)
	if err == nil && code == mqtt.Success {
		if err = c.cfg.Exchange.Finish(reply); err != nil {
			err = fmt.Errorf("%w: enhanced authentication: %w", mqtt.NotAuthorized, err)
		}
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case code == mqtt.ContinueAuthentication:
		c.append(reply)
		return nil
	}
	close(c.reauth.done)
	c.reauth = nil
	return nil
}

func (c *Conn) inReauth() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reauth != nil && c.reauth.sent
}
