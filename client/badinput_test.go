package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// strict is a broker that refuses much, and counts what it is asked and who comes.
type strict struct {
	dial  func(context.Context, string, string) (net.Conn, error)
	asked atomic.Int32 // publications and subscriptions of what is secret
	came  atomic.Int32 // connections
}

func newStrict(t *testing.T) *strict {
	s := &strict{}
	s.dial = startBroker(t, broker.Config{Authenticator: auth.Static{"u001": "p001"}, Authorizer: s, Limits: broker.Limits{PacketSize: 1000}})
	return s
}

// Authorize keeps everybody out of "secret".
func (s *strict) Authorize(_ *broker.ClientInfo, _ broker.Action, topic string) error {
	if strings.HasPrefix(topic, "secret") {
		s.asked.Add(1)
		return mqtt.NotAuthorized
	}
	return nil
}

func (s *strict) connect(ctx context.Context, network, address string) (net.Conn, error) {
	s.came.Add(1)
	return s.dial(ctx, network, address)
}

// TestBadInput: whatever is wrong with what a program asks for is one error that says which rule was broken, and the server hears of it once at
// most.
func TestBadInput(t *testing.T) {
	is := func(all ...error) func(error) bool {
		return func(err error) bool {
			for _, want := range all {
				if !errors.Is(err, want) {
					return false
				}
			}
			return true
		}
	}
	setting := func(what string) func(error) bool {
		return func(err error) bool {
			var bad *ConfigError
			return errors.As(err, &bad) && bad.What == what
		}
	}
	ours := func(want ...error) func(error) bool { // nothing was sent
		return func(err error) bool {
			var answer *ServerError
			return is(want...)(err) && !errors.As(err, &answer)
		}
	}
	theirs := func(packet mqtt.PacketType, code mqtt.ReasonCode) func(error) bool {
		return func(err error) bool {
			var answer *ServerError
			return errors.As(err, &answer) && answer.Packet == packet && answer.Code == code && errors.Is(err, code)
		}
	}
	open := func(url string, opts ...Option) func(*testing.T, *Client, *strict) error {
		return func(t *testing.T, _ *Client, s *strict) error {
			c, err := Dial(t.Context(), url, append([]Option{WithDialer(s.connect)}, opts...)...)
			if err == nil {
				closeNow(t, c)
			}
			return err
		}
	}
	publish := func(name string, size int, opts ...PublishOption) func(*testing.T, *Client, *strict) error {
		return func(t *testing.T, c *Client, _ *strict) error {
			return c.Publish(t.Context(), name, make([]byte, size), opts...)
		}
	}
	subscribe := func(filter string, opts ...SubscribeOption) func(*testing.T, *Client, *strict) error {
		return func(t *testing.T, c *Client, _ *strict) error {
			_, err := c.Subscribe(t.Context(), filter, nil, opts...)
			return err
		}
	}
	s := newStrict(t)
	c, err := Dial(t.Context(), "mqtt://u001:p001@server", WithDialer(s.connect))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what   string
		do     func(*testing.T, *Client, *strict) error
		want   func(error) bool
		visits int32 // connections that it may make
		asks   int32 // refusals that the server may have to say
	}{
		{what: "not a URL", do: open("mqtt://%zz"), want: setting("server")},
		{what: "a URL without a scheme", do: open("server:1883"), want: setting("server")},
		{what: "unknown scheme", do: open("http://server"), want: setting("server")},
		{what: "no host", do: open("mqtt://"), want: setting("server")},
		{what: "no path", do: open("unix://"), want: setting("server")},
		{what: "unknown proxy", do: open("mqtt://server", WithProxy("gopher://proxy")), want: setting("options")},
		{what: "no such version", do: open("mqtt://server", WithVersion(6)), want: setting("options")},
		{what: "will with a wildcard", do: open("mqtt://server", WithWill(mqtt.Will{Topic: "a/+"})), want: func(err error) bool {
			return setting("options")(err) && is(topic.ErrWildcard)(err)
		}},

		{what: "wrong password", do: open("mqtt://u001:x@server"), want: theirs(mqtt.CONNACK, mqtt.BadUserNameOrPassword), visits: 1},
		{what: "wrong password, 3.1.1", do: open("mqtt://u001:x@server", WithVersion(mqtt.V311)), want: theirs(mqtt.CONNACK, mqtt.BadUserNameOrPassword), visits: 1},
		{what: "no user", do: open("mqtt://server"), want: theirs(mqtt.CONNACK, mqtt.NotAuthorized), visits: 1},

		{what: "wildcard inside of a filter", do: subscribe("a/#/b"), want: ours(mqtt.TopicFilterInvalid, topic.ErrWildcard)},
		{what: "wildcard inside of a level", do: subscribe("a/b+"), want: ours(mqtt.TopicFilterInvalid, topic.ErrWildcard)},
		{what: "empty filter", do: subscribe(""), want: ours(mqtt.TopicFilterInvalid, topic.ErrEmpty)},
		{what: "share without a filter", do: subscribe("$share/group"), want: ours(mqtt.TopicFilterInvalid, topic.ErrShare)},
		{what: "no local on a share", do: subscribe("$share/group/a", NoLocal), want: ours(mqtt.ProtocolError)},
		{what: "forbidden filter", do: subscribe("secret/1"), want: theirs(mqtt.SUBACK, mqtt.NotAuthorized), asks: 1},

		{what: "wildcard in a name", do: publish("a/+", 1), want: ours(mqtt.TopicNameInvalid, topic.ErrWildcard)},
		{what: "empty name", do: publish("", 1), want: ours(mqtt.TopicNameInvalid, topic.ErrEmpty)},
		{what: "payload over the limit", do: publish("a", 1000), want: ours(mqtt.PacketTooLarge)},
		{what: "the same with QoS 0", do: publish("a", 1000, AtMostOnce), want: ours(mqtt.PacketTooLarge)},
		{what: "QoS 3", do: publish("a", 1, QoS(3)), want: ours(mqtt.QoSNotSupported)},
		{what: "a hop's property", do: publish("a", 1, Props(mqtt.Properties(nil).WithInt(mqtt.TopicAlias, 1))), want: ours(mqtt.ProtocolError)},
		{what: "malformed properties", do: publish("a", 1, Props(mqtt.Properties{0xFF})), want: ours(mqtt.MalformedPacket)},
		{what: "response topic with a wildcard", do: publish("a", 1, Props(mqtt.Properties(nil).WithString(mqtt.ResponseTopic, "a/#"))), want: ours(mqtt.TopicNameInvalid)},
		{what: "forbidden name", do: publish("secret/2", 1), want: theirs(mqtt.PUBACK, mqtt.NotAuthorized), asks: 1},
		{what: "forbidden name, QoS 2", do: publish("secret/3", 1, ExactlyOnce), want: theirs(mqtt.PUBREC, mqtt.NotAuthorized), asks: 1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			came, asked := s.came.Load(), s.asked.Load()
			if err := tc.do(t, c, s); err == nil || !tc.want(err) {
				t.Errorf("error %v", err)
			}
			if err := c.Publish(t.Context(), "a", nil); err != nil { // what was kept would go out before it
				t.Error(err)
			}
			visits, asks := s.came.Load()-came, s.asked.Load()-asked
			if visits != tc.visits || asks != tc.asks {
				t.Errorf("%d connections and %d refusals, want %d and %d", visits, asks, tc.visits, tc.asks)
			}
		})
	}
	closeNow(t, c)
}
