package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// errSilent is the end of a stream without an answer to CONNECT.
var errSilent = errors.New("server closed the connection instead of answering CONNECT")

// DialConn makes one connection to the server that a URL names: mqtt, mqtts, ws, wss or unix, as in [transport.Dial]; user and
// password in it count when cfg has none. It returns when the server has accepted. ctx governs the connecting only.
//
// A refusal is a [ServerError]: errors.As finds its [mqtt.ReasonCode], UnsupportedProtocolVersion for example.
func DialConn(ctx context.Context, rawURL string, cfg Config) (*Conn, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("server's address is not a URL") // without its text: it may hold a password
	}
	return dial(ctx, u, cfg)
}

func dial(ctx context.Context, u *url.URL, cfg Config) (*Conn, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if user := u.User; user != nil && cfg.Username == "" && cfg.Password == nil {
		cfg.Username = user.Username()
		if password, ok := user.Password(); ok {
			cfg.Password = []byte(password)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	nc, err := transport.Dial(ctx, u, cfg.Transport)
	if err != nil {
		return nil, err
	}
	c, err := Connect(ctx, nc, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", u.Redacted(), err)
	}
	return c, nil
}

// Connect is DialConn over a stream that exists. It owns nc from now on and closes it, also when it returns an error.
func Connect(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	if cfg.Session.inUse.Swap(true) {
		_ = nc.Close()
		return nil, errors.New("session is in use by another connection")
	}
	cfg.Session.prepare()
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	c := newConn(nc, cfg)
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(past) })
	err = c.login()
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		cfg.Session.inUse.Store(false)
		_ = nc.Close()
		return nil, err
	}
	c.start()
	return c, nil
}

// past is a deadline that wakes whoever reads or writes.
var past = time.Unix(1, 0)

// login sends CONNECT and follows the exchange up to CONNACK.
func (c *Conn) login() error {
	connect, err := c.cfg.connect()
	if err != nil {
		return err
	}
	c.clientID, c.keepAlive = connect.ClientID, time.Duration(connect.KeepAlive)*time.Second
	if err := c.say(connect.Append(nil)); err != nil {
		return fmt.Errorf("sending CONNECT: %w", err)
	}
	for {
		f, err := c.in.next(c.version, c.receive.maxPacket)
		if errors.Is(err, io.EOF) {
			return errSilent
		} else if err != nil {
			return fmt.Errorf("waiting for CONNACK: %w", err)
		}
		switch {
		case f.Type == mqtt.CONNACK:
			return c.onConnack(f, &connect)
		case f.Type == mqtt.AUTH && c.cfg.Exchange != nil:
			err = c.answerAuth(f)
		default:
			err = violation(mqtt.ProtocolError, "%v before CONNACK", f.Type) // [MQTT-3.2.0-1]
		}
		if err != nil {
			return err
		}
	}
}

// say writes at once, before there is a writer.
func (c *Conn) say(b []byte) error {
	_, err := c.nc.Write(b)
	return err
}

// onConnack takes the server's decision, its half of the session, and its limits.
func (c *Conn) onConnack(f mqtt.Frame, connect *mqtt.Connect) error {
	ack := &c.connack
	v := c.version
	if len(f.Body) == 2 && v == mqtt.V5 {
		v = mqtt.V311 // a server that knows no 5.0 refuses in its own words
	}
	if err := ack.Parse(f, v); err != nil {
		return fmt.Errorf("CONNACK: %w", err)
	}
	ack.Props = ack.Props.Without() // a copy
	if v != c.version && ack.Code == mqtt.Success {
		return violation(mqtt.ProtocolError, "CONNACK of another version")
	}
	if ack.Code != mqtt.Success {
		return serverError(mqtt.CONNACK, ack.Code, ack.Props)
	}
	if err := c.finishExchange(ack.Props); err != nil {
		return err
	}
	if ack.SessionPresent && connect.CleanStart {
		return violation(mqtt.ProtocolError, "it continues a session that was to start anew") // [MQTT-3.2.2-2], [MQTT-3.2.2-4]
	}
	c.sending.learn(ack.Props)
	if id := ack.Props.String(mqtt.AssignedClientIdentifier); id != "" {
		c.clientID = id
	}
	if s, ok := ack.Props.Int(mqtt.ServerKeepAlive); ok {
		c.keepAlive = time.Duration(s) * time.Second // [MQTT-3.1.2-21]
	}
	c.kept = ack.SessionPresent || c.version == mqtt.V31 && !connect.CleanStart // MQTT 3.1 does not say
	return nil
}
