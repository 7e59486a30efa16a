package client

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// play serves a client's streams one after the other, each by the next of the scripts.
func play(t *testing.T, scripts ...func(p *peer)) (dial func(context.Context, string, string) (net.Conn, error), addresses *[]string) {
	addresses = new([]string)
	return func(_ context.Context, _, address string) (net.Conn, error) {
		n := len(*addresses)
		*addresses = append(*addresses, address)
		if n >= len(scripts) {
			return nil, errors.New("nobody listens")
		}
		p, nc := newPeer(t, mqtt.V5)
		go scripts[n](p)
		return nc, nil
	}, addresses
}

// refuse answers CONNECT with a code.
func refuse(code mqtt.ReasonCode, props mqtt.Properties) func(*peer) {
	return func(p *peer) {
		p.connect()
		p.send((&mqtt.Connack{Code: code, Props: props}).Append(nil, p.v))
		_ = p.nc.Close()
	}
}

// admit answers CONNECT and reads until the end.
func admit(p *peer) {
	p.v = p.connect().Version
	p.send((&mqtt.Connack{}).Append(nil, p.v))
	swallow(p.nc)
	_ = p.nc.Close()
}

func redirect(code mqtt.ReasonCode, to string) func(*peer) {
	return refuse(code, mqtt.Properties(nil).WithString(mqtt.ServerReference, to))
}

func TestServers(t *testing.T) {
	gone := func(p *peer) { p.connect(); _ = p.nc.Close() }
	oldRefusal := func(p *peer) { p.connect(); p.send([]byte{0x20, 2, 0, 1}); _ = p.nc.Close() } // as a server of 3.1.1 says it
	for name, tc := range map[string]struct {
		url     string
		opts    []Option
		scripts []func(*peer)
		want    []string // addresses
		version mqtt.Version
		err     error
	}{
		"second server":                  {"mqtt://a", []Option{WithServers("mqtt://b")}, []func(*peer){refuse(mqtt.ServerBusy, nil), admit}, []string{"a:1883", "b:1883"}, mqtt.V5, nil},
		"3.1.1 after a refusal":          {"mqtt://a", nil, []func(*peer){refuse(mqtt.UnsupportedProtocolVersion, nil), admit}, []string{"a:1883", "a:1883"}, mqtt.V311, nil},
		"3.1.1 after an old refusal":     {"mqtt://a", nil, []func(*peer){oldRefusal, admit}, []string{"a:1883", "a:1883"}, mqtt.V311, nil},
		"3.1.1 after silence":            {"mqtt://a", nil, []func(*peer){gone, admit}, []string{"a:1883", "a:1883"}, mqtt.V311, nil},
		"5.0 and nothing else":           {"mqtt://a", []Option{WithVersion(mqtt.V5)}, []func(*peer){refuse(mqtt.UnsupportedProtocolVersion, nil)}, []string{"a:1883"}, 0, mqtt.UnsupportedProtocolVersion},
		"silence twice":                  {"mqtt://a", nil, []func(*peer){gone, gone}, []string{"a:1883", "a:1883"}, 0, errSilent},
		"another server":                 {"mqtt://a", nil, []func(*peer){redirect(mqtt.UseAnotherServer, "b:99"), admit}, []string{"a:1883", "b:99"}, mqtt.V5, nil},
		"moved, the second that is real": {"mqtt://a", nil, []func(*peer){redirect(mqtt.ServerMoved, "x/y mqtt://[::1]:7/"), admit}, []string{"a:1883", "[::1]:7"}, mqtt.V5, nil},
		"in a circle":                    {"mqtt://a", nil, []func(*peer){redirect(mqtt.UseAnotherServer, "b"), redirect(mqtt.UseAnotherServer, "a"), redirect(mqtt.UseAnotherServer, "b"), admit}, []string{"a:1883", "b:1883", "a:1883"}, 0, errReferences},
		"no reference is followed":       {"mqtt://a", []Option{WithoutServerReference()}, []func(*peer){redirect(mqtt.ServerMoved, "b")}, []string{"a:1883"}, 0, mqtt.ServerMoved},
		"reference to nowhere":           {"mqtt://a", nil, []func(*peer){redirect(mqtt.ServerMoved, "u@b ://")}, []string{"a:1883"}, 0, mqtt.ServerMoved},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dial, addresses := play(t, tc.scripts...)
				c, err := Dial(t.Context(), tc.url, append(tc.opts, WithDialer(dial))...)
				if !errors.Is(err, tc.err) {
					t.Errorf("error %v, want %v", err, tc.err)
				}
				if !slices.Equal(*addresses, tc.want) {
					t.Errorf("dialled %q, want %q", *addresses, tc.want)
				}
				if err != nil {
					return
				}
				if info, ok := c.Server(); !ok || info.Version != tc.version {
					t.Errorf("connected %v: %+v", ok, info)
				}
				_ = c.Close(t.Context())
				<-c.Done()
			})
		})
	}
}

// TestServerMovedLater: a DISCONNECT may send the client elsewhere, too: at once, and there it stays.
func TestServerMovedLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		move := func(p *peer) {
			p.connect()
			p.send((&mqtt.Connack{}).Append(nil, p.v))
			p.send((&mqtt.Disconnect{Code: mqtt.ServerMoved, Props: mqtt.Properties(nil).WithString(mqtt.ServerReference, "b")}).Append(nil, p.v))
			_ = p.nc.Close()
		}
		leave := func(p *peer) {
			p.connect()
			p.send((&mqtt.Connack{}).Append(nil, p.v))
			_ = p.nc.Close()
		}
		dial, addresses := play(t, move, leave, admit)
		c, err := Dial(t.Context(), "mqtt://u:p@a", WithDialer(dial))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(*addresses, []string{"a:1883", "b:1883", "b:1883"}) {
			t.Errorf("dialled %q", *addresses)
		}
		_ = c.Close(t.Context())
		<-c.Done()
	})
}

// TestRefusals: what somebody has to change is tried rarely, what can never succeed never again.
func TestRefusals(t *testing.T) {
	for code, want := range map[mqtt.ReasonCode]struct {
		tries int
		over  bool
	}{
		mqtt.ServerBusy:               {tries: 13},
		mqtt.BadUserNameOrPassword:    {tries: 6},
		mqtt.NotAuthorized:            {tries: 6},
		mqtt.ClientIdentifierNotValid: {tries: 1, over: true},
		mqtt.MalformedPacket:          {tries: 1, over: true},
	} {
		t.Run(code.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				scripts := make([]func(*peer), 100)
				for i := range scripts {
					scripts[i] = refuse(code, nil)
				}
				dial, addresses := play(t, scripts...)
				var retries atomic.Int32
				c, err := Dial(t.Context(), "mqtt://a", WithDialer(dial), WithLazyConnect(), OnRetry(func(err error, _ time.Duration) {
					isServerError(t, err, mqtt.CONNACK, code)
					retries.Add(1)
				}))
				if err != nil {
					t.Fatal(err)
				}
				waits := result(func() error { return c.Publish(t.Context(), "a", nil) })
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if n := len(*addresses); n > 2*want.tries || n < want.tries/2 || want.over && n != 1 {
					t.Errorf("%d attempts, want about %d", n, want.tries)
				}
				if got := c.Err() != nil; got != want.over {
					t.Errorf("over: %v", c.Err())
				}
				if !want.over && int(retries.Load()) != len(*addresses) {
					t.Errorf("%d attempts, %d reports", len(*addresses), retries.Load())
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_ = c.Close(ctx)
				<-c.Done()
				if err := <-waits; want.over {
					isServerError(t, err, mqtt.CONNACK, code)
				} else if !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// TestDialConfigErrors: what can never work is one typed error, at once.
func TestDialConfigErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		url  string
		opts []Option
	}{
		"not a URL":                {"mqtt://%zz", nil},
		"unknown scheme":           {"mqttt://a", nil},
		"no host":                  {"mqtt://", nil},
		"second server":            {"mqtt://a", []Option{WithServers("http://b")}},
		"unix with a host":         {"unix://a/b", nil},
		"version":                  {"mqtt://a", []Option{WithVersion(9)}},
		"client id with NUL":       {"mqtt://a", []Option{WithClientID("\x00")}},
		"session without an id":    {"mqtt://a", []Option{WithSession(time.Hour)}},
		"keep alive":               {"mqtt://a", []Option{WithKeepAlive(24 * time.Hour)}},
		"will with a wildcard":     {"mqtt://a", []Option{WithWill(mqtt.Will{Topic: "a/#"})}},
		"reply topic":              {"mqtt://a", []Option{WithReplyTopic("a/+")}},
		"SCRAM with 3.1.1":         {"mqtt://a", []Option{WithExchange(Scram("u", "p")), WithVersion(mqtt.V311)}},
		"backoff":                  {"mqtt://a", []Option{WithBackoff(time.Hour, time.Second)}},
		"a session of one's own":   {"mqtt://a", []Option{WithConfig(Config{Session: new(Session)})}},
		"a queue that is no place": {"mqtt://a", []Option{WithQueue("/dev/null/q")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(t.Context(), tc.url, append(tc.opts, WithLazyConnect())...)
			var bad *ConfigError
			if !errors.As(err, &bad) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestBeforeSending: what a server, or any server, does not take is refused before anything is sent.
func TestBeforeSending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limits := mqtt.Properties(nil).WithInt(mqtt.MaximumQoS, 1).WithInt(mqtt.MaximumPacketSize, 100).WithFlag(mqtt.RetainAvailable, false).
			WithFlag(mqtt.WildcardSubscriptionAvailable, false).WithFlag(mqtt.SharedSubscriptionAvailable, false)
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{Props: limits})
		check := func() {
			t.Helper()
			publish := func(name string, payload []byte, opts ...PublishOption) error {
				return c.Publish(t.Context(), name, payload, opts...)
			}
			subscribe := func(filter string, opts ...SubscribeOption) error {
				_, err := c.Subscribe(t.Context(), filter, nil, opts...)
				return err
			}
			for want, err := range map[error]error{
				mqtt.QoSNotSupported:                   publish("a", nil, ExactlyOnce),
				mqtt.PacketTooLarge:                    publish("a", make([]byte, 100)),
				mqtt.RetainNotSupported:                publish("a", nil, Retain),
				mqtt.TopicNameInvalid:                  publish("a/+", nil),
				topic.ErrEmpty:                         publish("", nil),
				mqtt.WildcardSubscriptionsNotSupported: subscribe("a/#"),
				mqtt.SharedSubscriptionsNotSupported:   subscribe("$share/a/b"),
				topic.ErrWildcard:                      subscribe("a#"),
				mqtt.ProtocolError:                     publish("a", nil, Props(mqtt.Properties{0xFF})),
			} {
				if err == nil || !errors.Is(err, want) && !errors.Is(err, mqtt.MalformedPacket) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
		}
		check()
		s.setRefuse(io.EOF)
		_ = p.nc.Close()
		synctest.Wait()
		check() // the last server's limits count until there is another
		s.setRefuse(nil)
		p, _ = s.accept(mqtt.Connack{})
		closeClient(t, c, p)
	})
}

// TestNarrowerServer: a message that the next server does not take fails, those behind it go on.
func TestNarrowerServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		var sent []<-chan error
		for _, qos := range []QoS{ExactlyOnce, AtLeastOnce} {
			sent = append(sent, result(func() error { return c.Publish(t.Context(), "a", nil, qos) }))
			synctest.Wait()
			p.publish()
		}
		_ = p.nc.Close()
		p, _ = s.accept(mqtt.Connack{SessionPresent: true, Props: mqtt.Properties(nil).WithInt(mqtt.MaximumQoS, 1)})
		isCode(t, <-sent[0], mqtt.QoSNotSupported)
		if m := answerPublish(p); m.QoS != 1 {
			t.Errorf("sent %+v", m)
		}
		if err := <-sent[1]; err != nil {
			t.Error(err)
		}
		closeClient(t, c, p)
	})
}

// TestNarrowerServerSubscriptions: subscriptions that the next server does not take end, the others are made again.
func TestNarrowerServerSubscriptions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		subs := make(map[string]*Subscription)
		for _, filter := range []string{"a/#", "b", "$share/g/c", "d/+", "e"} {
			made := result(func() *Subscription {
				sub, err := c.Subscribe(t.Context(), filter, func(*Delivery) {})
				if err != nil {
					t.Error(err)
				}
				return sub
			})
			p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
			subs[filter] = <-made
		}
		_ = p.nc.Close()
		p, _ = s.accept(mqtt.Connack{Props: mqtt.Properties(nil).WithInt(mqtt.WildcardSubscriptionAvailable, 0).WithInt(mqtt.SharedSubscriptionAvailable, 0)})
		for _, want := range []string{"b", "e"} {
			sub := p.subscribe()
			if got := sub.Subscriptions[0].Filter; got != want {
				t.Errorf("subscribed again to %q, want %q", got, want)
			}
			p.suback(sub.PacketID, mqtt.GrantedQoS1)
		}
		for filter, want := range map[string]error{
			"a/#": mqtt.WildcardSubscriptionsNotSupported, "d/+": mqtt.WildcardSubscriptionsNotSupported,
			"$share/g/c": mqtt.SharedSubscriptionsNotSupported, "b": nil, "e": nil,
		} {
			if err := subs[filter].Err(); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", filter, err, want)
			}
		}
		closeClient(t, c, p)
	})
}

// TestPoison: a message at which the server closes again and again is given up in the end, and those behind it go on.
func TestPoison(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServers(t, mqtt.V311)
		var served atomic.Int32
		go func() {
			for p := range s.peers {
				served.Add(1)
				if closesAt(p, "poison") {
					return
				}
			}
		}()
		c, err := Dial(t.Context(), "mqtt://server", WithDialer(s.dial), WithVersion(mqtt.V311))
		if err != nil {
			t.Fatal(err)
		}
		var sent []*Publication
		for _, name := range []string{"a", "poison", "b"} {
			p, err := c.PublishAsync(t.Context(), name, nil)
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, p)
		}
		for i, want := range []error{nil, ErrPoison, nil} {
			<-sent[i].Done()
			if _, err := sent[i].Result(); !errors.Is(err, want) {
				t.Errorf("message %d: %v, want %v", i, err, want)
			}
		}
		if n := served.Load(); n < mostStrikes || n > 20 {
			t.Errorf("%d connections", n)
		}
		_ = c.Close(t.Context())
		close(s.peers)
		<-c.Done()
	})
}

// closesAt serves a client until it publishes to a topic, or is gone.
func closesAt(p *peer, name string) (over bool) {
	defer p.nc.Close()
	p.connect()
	p.send((&mqtt.Connack{}).Append(nil, p.v))
	for {
		f, err := p.in.next(p.v, mqtt.MaxPacket)
		if err != nil {
			return false
		}
		switch f.Type {
		case mqtt.PUBLISH:
			var m mqtt.Publish
			p.parsed(m.Parse(f, p.v))
			if string(m.Topic) == name {
				return false
			}
			p.sendAck(mqtt.PUBACK, m.PacketID, mqtt.Success)
		case mqtt.DISCONNECT:
			return true
		}
	}
}
