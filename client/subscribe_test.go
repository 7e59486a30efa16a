package client

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/magpiemq/magpie/mqtt"
)

type codes struct {
	codes []mqtt.ReasonCode
	err   error
}

func subscribing(c *Conn, subs ...mqtt.Subscription) <-chan codes {
	return result(func() (r codes) {
		r.codes, r.err = c.Subscribe(context.Background(), subs...)
		return r
	})
}

func unsubscribing(c *Conn, filters ...string) <-chan codes {
	return result(func() (r codes) {
		r.codes, r.err = c.Unsubscribe(context.Background(), filters...)
		return r
	})
}

func (p *peer) subscribe() (s mqtt.Subscribe) {
	p.t.Helper()
	p.parsed(s.Parse(p.expect(mqtt.SUBSCRIBE), p.v))
	return s
}

func (p *peer) unsubscribe() (u mqtt.Unsubscribe) {
	p.t.Helper()
	p.parsed(u.Parse(p.expect(mqtt.UNSUBSCRIBE), p.v))
	return u
}

func (p *peer) suback(id uint16, codes ...mqtt.ReasonCode) {
	p.t.Helper()
	p.send((&mqtt.Suback{PacketID: id, Codes: codes}).Append(nil, p.v))
}

func (p *peer) unsuback(id uint16, codes ...mqtt.ReasonCode) {
	p.t.Helper()
	p.send((&mqtt.Unsuback{PacketID: id, Codes: codes}).Append(nil, p.v))
}

func TestSubscribe(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		c, p := open(t, Config{Version: v}, nil)
		subs := []mqtt.Subscription{{Filter: "a/#", QoS: 1}, {Filter: "b/+", QoS: 2}}
		asked := subscribing(c, subs...)
		s := p.subscribe()
		if !slices.Equal(s.Subscriptions, subs) {
			t.Errorf("the server received %+v", s.Subscriptions)
		}
		p.suback(s.PacketID, mqtt.GrantedQoS1, mqtt.Success)
		if r := <-asked; r.err != nil || !slices.Equal(r.codes, []mqtt.ReasonCode{mqtt.GrantedQoS1, mqtt.Success}) {
			t.Errorf("%v, %v", r.codes, r.err)
		}
		gone := unsubscribing(c, "a/#", "b/+")
		u := p.unsubscribe()
		p.unsuback(u.PacketID, mqtt.Success, mqtt.NoSubscriptionExisted)
		want := []mqtt.ReasonCode{mqtt.Success, mqtt.NoSubscriptionExisted}
		if v != mqtt.V5 {
			want[1] = mqtt.Success // MQTT 3 does not say
		}
		if r := <-gone; r.err != nil || !slices.Equal(r.codes, want) {
			t.Errorf("%v, %v", r.codes, r.err)
		}
		closeBoth(t, c, p)
	})
}

func TestSubscribeRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		refusal := mqtt.UnspecifiedError // all that 3.1.1 has
		if v == mqtt.V5 {
			refusal = mqtt.NotAuthorized
		}
		c, p := open(t, Config{Version: v}, nil)
		asked := subscribing(c, mqtt.Subscription{Filter: "a"}, mqtt.Subscription{Filter: "b"})
		p.suback(p.subscribe().PacketID, mqtt.Success, refusal)
		r := <-asked
		isServerError(t, r.err, mqtt.SUBACK, refusal)
		if !slices.Equal(r.codes, []mqtt.ReasonCode{mqtt.Success, refusal}) {
			t.Errorf("codes %v", r.codes)
		}
		closeBoth(t, c, p)
	})
}

func TestSubscribeOptionsAndProperties(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		want := mqtt.Subscription{Filter: "a", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: mqtt.DoNotSendRetained}
		asked := result(func() error {
			_, err := c.SubscribeWith(t.Context(), mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 7), want)
			return err
		})
		s := p.subscribe()
		if id, _ := s.Props.Int(mqtt.SubscriptionIdentifier); id != 7 || s.Subscriptions[0] != want {
			t.Errorf("the server received %+v", s)
		}
		p.suback(s.PacketID, mqtt.GrantedQoS1)
		if err := <-asked; err != nil {
			t.Error(err)
		}
		closeBoth(t, c, p)
	})
}

// TestSubscribeNotSent: what the server has said it does not do is not asked for.
func TestSubscribeNotSent(t *testing.T) {
	nothing := mqtt.Properties(nil).WithInt(mqtt.WildcardSubscriptionAvailable, 0).WithInt(mqtt.SubscriptionIdentifierAvailable, 0).
		WithInt(mqtt.SharedSubscriptionAvailable, 0).WithInt(mqtt.MaximumPacketSize, 30)
	identifier := mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 1)
	for name, tc := range map[string]struct {
		server mqtt.Properties
		props  mqtt.Properties
		sub    mqtt.Subscription
		code   mqtt.ReasonCode
	}{
		"wildcard":                          {nothing, nil, mqtt.Subscription{Filter: "a/+"}, mqtt.WildcardSubscriptionsNotSupported},
		"shared":                            {nothing, nil, mqtt.Subscription{Filter: "$share/g/a"}, mqtt.SharedSubscriptionsNotSupported},
		"identifier":                        {nothing, identifier, mqtt.Subscription{Filter: "a"}, mqtt.SubscriptionIdentifiersNotSupported},
		"size [MQTT-3.2.2-15]":              {nothing, nil, mqtt.Subscription{Filter: "a/long/filter/that/does/not/fit"}, mqtt.PacketTooLarge},
		"no local, shared [MQTT-3.8.3-4]":   {nil, nil, mqtt.Subscription{Filter: "$share/g/a", NoLocal: true}, mqtt.ProtocolError},
		"bad filter [MQTT-4.7.1-1]":         {nil, nil, mqtt.Subscription{Filter: "a/#/b"}, mqtt.TopicFilterInvalid},
		"no such QoS [MQTT-3.8.3-5]":        {nil, nil, mqtt.Subscription{Filter: "a", QoS: 3}, mqtt.ProtocolError},
		"identifier of zero §3.8.2.1.2":     {nil, mqtt.Properties{0x0B, 0}, mqtt.Subscription{Filter: "a"}, mqtt.ProtocolError},
		"property of another packet §3.8.2": {nil, mqtt.Properties(nil).WithInt(mqtt.TopicAlias, 1), mqtt.Subscription{Filter: "a"}, mqtt.MalformedPacket},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, p := open(t, Config{}, tc.server)
				_, err := c.SubscribeWith(t.Context(), tc.props, tc.sub)
				isCode(t, err, tc.code)
				closeBoth(t, c, p)
			})
		})
	}
}

func TestSubscribeV3HasNoOptions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{Version: mqtt.V311}, nil)
		for name, err := range map[string]error{
			"no local":               second(c.Subscribe(t.Context(), mqtt.Subscription{Filter: "a", NoLocal: true})),
			"properties":             second(c.SubscribeWith(t.Context(), mqtt.Properties(nil).WithUser("a", "b"), mqtt.Subscription{Filter: "a"})),
			"unsubscribe properties": second(c.UnsubscribeWith(t.Context(), mqtt.Properties(nil).WithUser("a", "b"), "a")),
			"no filter":              second(c.Subscribe(t.Context())),
			"no filter to end":       second(c.Unsubscribe(t.Context())),
			"bad filter to end":      second(c.Unsubscribe(t.Context(), "a/#/b")),
		} {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		closeBoth(t, c, p)
	})
}

func second(_ []mqtt.ReasonCode, err error) error { return err }

// TestSubscribeContext: who does not wait any more does not free the identifier [MQTT-2.2.1-3].
func TestSubscribeContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		asked := result(func() error { return second(c.Subscribe(ctx, mqtt.Subscription{Filter: "a"})) })
		first := p.subscribe().PacketID
		cancel()
		if err := <-asked; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		again := subscribing(c, mqtt.Subscription{Filter: "a"})
		id := p.subscribe().PacketID
		if id == first {
			t.Errorf("identifier %d is used twice at a time", id)
		}
		p.suback(first, mqtt.Success)
		p.suback(id, mqtt.GrantedQoS1)
		if r := <-again; r.err != nil || r.codes[0] != mqtt.GrantedQoS1 {
			t.Errorf("%v, %v", r.codes, r.err)
		}
		closeBoth(t, c, p)
	})
}

// TestPacketIDsWrap: a message whose turn it is to have the identifier of a SUBSCRIBE without an answer waits for that answer, and
// identifiers are never 0 [MQTT-2.2.1-3].
func TestPacketIDsWrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{KeepAlive: -1}, nil)
		asked := subscribing(c, mqtt.Subscription{Filter: "a"})
		taken := p.subscribe().PacketID
		const all = 65_534 // identifiers that are left
		go func() {
			for range all + 1 {
				if _, err := c.Start(context.Background(), message(1)); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for range all {
			m := p.publish()
			if m.PacketID == 0 || m.PacketID == taken {
				t.Fatalf("PUBLISH with the identifier %d", m.PacketID)
			}
			p.sendAck(mqtt.PUBACK, m.PacketID, mqtt.Success)
		}
		p.quiet()
		p.suback(taken, mqtt.Success)
		if m := answerPublish(p); m.PacketID != taken {
			t.Errorf("PUBLISH with the identifier %d, want %d", m.PacketID, taken)
		}
		if r := <-asked; r.err != nil {
			t.Error(r.err)
		}
		synctest.Wait()
		closeBoth(t, c, p)
	})
}
