package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// paho5 is the lower half of eclipse/paho.golang, which knows 5.0 and one connection that the caller opens.
type paho5 struct{}

func (paho5) missing() error { return nil }

func (paho5) connect(t *testing.T, s settings, filters ...string) (*client, error) {
	lib, c, err := dialPaho5(t, s)
	if err != nil {
		return nil, err
	}
	return c, subscribePaho(t, lib, s, filters)
}

func (paho5) publish(t *testing.T, s settings, messages ...message) error {
	lib, c, err := dialPaho5(t, s)
	if err != nil {
		return err
	}
	defer c.leave()
	return publishPaho(t, lib, messages)
}

func dialPaho5(t *testing.T, s settings) (*paho.Client, *client, error) {
	ctx, cancel := soon(t)
	defer cancel()
	conn, err := dialNetwork(ctx, t, s)
	if err != nil {
		return nil, nil, err
	}
	c := newClient()
	lib := paho.NewClient(paho.ClientConfig{
		Conn:                       conn,
		PacketTimeout:              patience,
		EnableManualAcknowledgment: s.withhold,
		OnPublishReceived:          []func(paho.PublishReceived) (bool, error){c.keepPaho},
	})
	connack, err := lib.Connect(ctx, paho5Connect(s))
	if err != nil {
		if connack != nil && connack.ReasonCode != 0 {
			err = refusal(connack.ReasonCode)
		}
		return nil, nil, fmt.Errorf("paho.golang: %w", err)
	}
	c.present = connack.SessionPresent
	c.leave = func() {
		_ = lib.Disconnect(&paho.Disconnect{}) // an error means that the connection was cut before
		<-lib.Done()
	}
	c.cut = func() { shut(conn) }
	t.Cleanup(c.leave)
	return lib, c, nil
}

func dialNetwork(ctx context.Context, t *testing.T, s settings) (net.Conn, error) {
	if !s.at.secure() {
		return (&net.Dialer{}).DialContext(ctx, s.at.network, s.at.address)
	}
	conn, err := (&tls.Dialer{Config: s.at.certs.config(t, s.certificate)}).DialContext(ctx, "tcp", s.at.address)
	return packets.NewThreadSafeConn(conn), err
}

func paho5Connect(s settings) *paho.Connect {
	p := &paho.Connect{
		ClientID:     s.clientID,
		KeepAlive:    30,
		CleanStart:   !s.keep,
		Username:     s.user,
		UsernameFlag: s.user != "",
		Password:     []byte(s.password),
		PasswordFlag: s.password != "",
		WillMessage:  pahoWill(s.will),
	}
	if s.keep {
		hour := uint32(3600)
		p.Properties = &paho.ConnectProperties{SessionExpiryInterval: &hour}
	}
	return p
}

func pahoWill(m *message) *paho.WillMessage {
	if m == nil {
		return nil
	}
	return &paho.WillMessage{Topic: m.name, Payload: []byte(m.payload), QoS: m.qos, Retain: m.retain}
}

// pahoCaller is what paho.Client and autopaho.ConnectionManager have in common.
type pahoCaller interface {
	Subscribe(context.Context, *paho.Subscribe) (*paho.Suback, error)
	Publish(context.Context, *paho.Publish) (*paho.PublishResponse, error)
}

func subscribePaho(t *testing.T, lib pahoCaller, s settings, filters []string) error {
	if len(filters) == 0 {
		return nil
	}
	var p paho.Subscribe
	for _, filter := range filters {
		p.Subscriptions = append(p.Subscriptions, paho.SubscribeOptions{Topic: filter, QoS: s.qos})
	}
	ctx, cancel := soon(t)
	defer cancel()
	_, err := lib.Subscribe(ctx, &p)
	return err
}

func publishPaho(t *testing.T, lib pahoCaller, messages []message) error {
	ctx, cancel := soon(t)
	defer cancel()
	for _, m := range messages {
		if _, err := lib.Publish(ctx, pahoPublish(m)); err != nil {
			return err
		}
	}
	return nil
}

func pahoPublish(m message) *paho.Publish {
	props := &paho.PublishProperties{ContentType: m.props.contentType, ResponseTopic: m.props.responseTopic}
	if m.props.correlation != "" {
		props.CorrelationData = []byte(m.props.correlation)
	}
	for _, u := range m.props.user {
		props.User.Add(u.key, u.value)
	}
	return &paho.Publish{Topic: m.name, Payload: []byte(m.payload), QoS: m.qos, Retain: m.retain, Properties: props}
}

// keepPaho is the callback for received messages.
func (c *client) keepPaho(r paho.PublishReceived) (bool, error) {
	p := r.Packet
	m := message{name: p.Topic, payload: string(p.Payload), qos: p.QoS, retain: p.Retain}
	if p.Properties != nil {
		m.props.contentType = p.Properties.ContentType
		m.props.responseTopic = p.Properties.ResponseTopic
		m.props.correlation = string(p.Properties.CorrelationData)
		for _, u := range p.Properties.User {
			m.props.user = append(m.props.user, property{u.Key, u.Value})
		}
	}
	c.arrived <- m
	return true, nil
}
