package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// autoPaho is the upper half of eclipse/paho.golang, which opens connections itself, again and again.
type autoPaho struct{}

func (autoPaho) missing() error { return nil }

func (autoPaho) connect(t *testing.T, s settings, filters ...string) (*client, error) {
	lib, c, err := dialAutoPaho(t, s)
	if err != nil {
		return nil, err
	}
	return c, subscribePaho(t, lib, s, filters)
}

func (autoPaho) publish(t *testing.T, s settings, messages ...message) error {
	lib, c, err := dialAutoPaho(t, s)
	if err != nil {
		return err
	}
	defer c.leave()
	return publishPaho(t, lib, messages)
}

// outcome is how a connection attempt ended.
type outcome struct {
	connack *paho.Connack
	err     error
}

func dialAutoPaho(t *testing.T, s settings) (*autopaho.ConnectionManager, *client, error) {
	c := newClient()
	outcomes := make(chan outcome, 1)
	config, conn := autoPahoConfig(t, s, c, outcomes)
	lib, err := autopaho.NewConnection(context.Background(), config)
	if err != nil {
		return nil, nil, err
	}
	c.leave = func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := lib.Disconnect(ctx); err != nil {
			t.Errorf("autopaho: disconnect: %v", err)
		}
	}
	c.cut = func() { shut(*conn.Load()) }
	t.Cleanup(c.leave)

	var first outcome
	select {
	case first = <-outcomes:
	case <-time.After(patience):
		first.err = errSilent
	}
	if first.err != nil {
		c.leave()
		return nil, nil, fmt.Errorf("autopaho: %w", first.err)
	}
	c.present = first.connack.SessionPresent
	return lib, c, nil
}

// autoPahoConfig reports the first outcome and keeps the latest TCP connection, to be cut.
func autoPahoConfig(t *testing.T, s settings, c *client, outcomes chan outcome) (autopaho.ClientConfig, *atomic.Pointer[net.Conn]) {
	address, err := url.Parse(s.at.url("mqtt", "mqtts", "unix"))
	if err != nil {
		t.Fatal(err)
	}
	report := func(o outcome) {
		select {
		case outcomes <- o:
		default: // only the first counts
		}
	}
	config := autopaho.ClientConfig{
		ServerUrls:                    []*url.URL{address},
		KeepAlive:                     30,
		CleanStartOnInitialConnection: !s.keep,
		ConnectUsername:               s.user,
		ConnectPassword:               []byte(s.password),
		ConnectTimeout:                patience,
		ReconnectBackoff:              autopaho.NewConstantBackoff(10 * time.Millisecond),
		WillMessage:                   pahoWill(s.will),
		OnConnectionUp:                func(_ *autopaho.ConnectionManager, connack *paho.Connack) { report(outcome{connack: connack}) },
		OnConnectionDown:              func() bool { return s.returns },
		OnConnectError:                func(err error) { report(outcome{err: autoPahoError(err)}) },
	}
	config.ClientID = s.clientID
	config.EnableManualAcknowledgment = s.withhold
	config.OnPublishReceived = []func(paho.PublishReceived) (bool, error){c.keepPaho}
	if s.keep {
		config.SessionExpiryInterval = 3600
	}
	if s.at.secure() {
		config.TlsCfg = s.at.certs.config(t, s.certificate)
	}
	var conn atomic.Pointer[net.Conn]
	if s.at.network == "tcp" {
		config.AttemptConnection = func(ctx context.Context, _ autopaho.ClientConfig, u *url.URL) (net.Conn, error) {
			dialed, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
			conn.Store(&dialed)
			return dialed, err
		}
	}
	return config, &conn
}

func autoPahoError(err error) error {
	var denied *autopaho.ConnackError
	if errors.As(err, &denied) {
		return refusal(denied.ReasonCode)
	}
	return err
}
