package interop

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// paho3 is eclipse/paho.mqtt.golang, which knows 3.1 and 3.1.1.
type paho3 struct{}

func (paho3) missing() error { return nil }

func (paho3) connect(t *testing.T, s settings, filters ...string) (*client, error) {
	lib, c, err := dialPaho3(t, s)
	if err != nil || len(filters) == 0 {
		return c, err
	}
	wanted := make(map[string]byte)
	for _, filter := range filters {
		wanted[filter] = s.qos
	}
	// Without a callback of its own, a subscription's messages go to the default handler.
	return c, settled(lib.SubscribeMultiple(wanted, nil))
}

func (paho3) publish(t *testing.T, s settings, messages ...message) error {
	lib, c, err := dialPaho3(t, s)
	if err != nil {
		return err
	}
	defer c.leave()
	for _, m := range messages {
		if err := settled(lib.Publish(m.name, m.qos, m.retain, m.payload)); err != nil {
			return err
		}
	}
	return nil
}

func dialPaho3(t *testing.T, s settings) (mqtt.Client, *client, error) {
	c := newClient()
	o := paho3Options(t, s)
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		c.arrived <- message{name: m.Topic(), payload: string(m.Payload()), qos: m.Qos(), retain: m.Retained()}
	})
	var conn atomic.Pointer[net.Conn] // the latest; kept to be cut
	if s.at.network == "tcp" {
		o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			dialed, err := net.Dial("tcp", s.at.address)
			conn.Store(&dialed)
			return dialed, err
		})
	}
	lib := mqtt.NewClient(o)
	token := lib.Connect().(*mqtt.ConnectToken)
	if err := settled(token); err != nil {
		if code := token.ReturnCode(); 0 < code && code <= 5 { // beyond 5 are the library's own
			err = refusal(code)
		}
		return nil, nil, err
	}
	c.present = token.SessionPresent()
	c.leave = func() { lib.Disconnect(uint(patience.Milliseconds())) }
	c.cut = func() { shut(*conn.Load()) }
	t.Cleanup(c.leave)
	return lib, c, nil
}

func paho3Options(t *testing.T, s settings) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().
		AddBroker(s.at.url("tcp", "ssl", "unix")).
		SetProtocolVersion(uint(s.version)).
		SetClientID(s.clientID).
		SetUsername(s.user).SetPassword(s.password).
		SetCleanSession(!s.keep).
		SetAutoReconnect(s.returns).
		SetAutoAckDisabled(s.withhold).
		SetConnectTimeout(patience)
	if s.at.secure() {
		o.SetTLSConfig(s.at.certs.config(t, s.certificate))
	}
	if s.will != nil {
		o.SetBinaryWill(s.will.name, []byte(s.will.payload), s.will.qos, s.will.retain)
	}
	return o
}

var errSilent = errors.New("no answer")

func settled(token mqtt.Token) error {
	select {
	case <-token.Done():
	case <-time.After(patience):
		return errSilent
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("paho.mqtt.golang: %w", err)
	}
	return nil
}
