package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

func message(qos mqtt.QoS) *mqtt.Message {
	return &mqtt.Message{Topic: "bins/7/level", Payload: []byte("93"), QoS: qos}
}

// answerPublish plays the receiver's part of a handshake and returns the packet.
func answerPublish(p *peer) mqtt.Publish {
	p.t.Helper()
	m := p.publish()
	p.finishPublish(m)
	return m
}

// finishPublish plays the rest of the receiver's part.
func (p *peer) finishPublish(m mqtt.Publish) {
	p.t.Helper()
	switch m.QoS {
	case mqtt.AtLeastOnce:
		p.sendAck(mqtt.PUBACK, m.PacketID, mqtt.Success)
	case mqtt.ExactlyOnce:
		p.sendAck(mqtt.PUBREC, m.PacketID, mqtt.Success)
		if a := p.ack(mqtt.PUBREL); a.PacketID != m.PacketID {
			p.fail("PUBREL of %d, not %d", a.PacketID, m.PacketID)
		}
		p.sendAck(mqtt.PUBCOMP, m.PacketID, mqtt.Success)
	}
}

func TestPublish(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		c, p := open(t, Config{Version: v}, nil)
		for qos := range mqtt.QoS(3) {
			sent := publishing(c, message(qos))
			got := answerPublish(p)
			if string(got.Topic) != "bins/7/level" || string(got.Payload) != "93" || got.QoS != qos || got.Dup || got.Retain {
				t.Errorf("QoS %d: the server received %+v", qos, got)
			}
			if a := <-sent; a.err != nil || a.code != mqtt.Success {
				t.Errorf("QoS %d: %v, %v", qos, a.code, a.err)
			}
		}
		closeBoth(t, c, p)
	})
}

func TestPublishAllFields(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		props := mqtt.Properties(nil).WithString(mqtt.ContentType, "text/plain").WithUser("b", "2").WithUser("a", "1")
		sent := publishing(c, &mqtt.Message{Topic: "a", QoS: 1, Retain: true, Expires: time.Now().Add(9500 * time.Millisecond), Props: props})
		got := answerPublish(p)
		if !got.Retain || !got.HasExpiry || got.Expiry != 10 || !bytes.Equal(got.Props, props) {
			t.Errorf("the server received %+v", got)
		}
		<-sent
		closeBoth(t, c, p)
	})
}

// TestPublishWaits: Publish returns when the handshake is complete, not before.
func TestPublishWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		pub, err := c.Start(t.Context(), message(mqtt.ExactlyOnce))
		if err != nil {
			t.Fatal(err)
		}
		open := func(after string) {
			t.Helper()
			synctest.Wait()
			select {
			case <-pub.Done():
				t.Fatalf("done after %s", after)
			default:
			}
		}
		id := p.publish().PacketID
		open("PUBLISH")
		p.sendAck(mqtt.PUBREC, id, mqtt.NoMatchingSubscribers)
		p.ack(mqtt.PUBREL)
		open("PUBREC")
		p.sendAck(mqtt.PUBCOMP, id, mqtt.Success)
		<-pub.Done()
		if code, err := pub.Result(); err != nil || code != mqtt.NoMatchingSubscribers {
			t.Errorf("%v, %v", code, err)
		}
		closeBoth(t, c, p)
	})
}

func TestPublishRefused(t *testing.T) {
	for qos, packet := range map[mqtt.QoS]mqtt.PacketType{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
		bubble(t, func(t *testing.T) {
			c, p := open(t, Config{MaxInflight: 1}, nil)
			sent := publishing(c, message(qos))
			p.sendAck(packet, p.publish().PacketID, mqtt.QuotaExceeded)
			isServerError(t, (<-sent).err, packet, mqtt.QuotaExceeded)
			sent = publishing(c, message(qos)) // the refused one does not count against the window any more
			answerPublish(p)
			if a := <-sent; a.err != nil {
				t.Error(a.err)
			}
			closeBoth(t, c, p)
		})
	}
}

// TestReceiveMaximum: the server's Receive Maximum is never exceeded, and every answer makes room [MQTT-3.3.4-7].
func TestReceiveMaximum(t *testing.T) {
	for _, qos := range []mqtt.QoS{1, 2} {
		bubble(t, func(t *testing.T) {
			c, p := open(t, Config{}, mqtt.Properties(nil).WithInt(mqtt.ReceiveMaximum, 2))
			var pubs []*Publication
			for i := range 6 {
				pub, err := c.Start(t.Context(), &mqtt.Message{Topic: "n", Payload: fmt.Append(nil, i), QoS: qos})
				if err != nil {
					t.Fatal(err)
				}
				pubs = append(pubs, pub)
			}
			flying := []mqtt.Publish{keep(p.publish()), keep(p.publish())}
			for i := range 6 {
				m := flying[0]
				flying = flying[1:]
				if string(m.Payload) != fmt.Sprint(i) {
					t.Errorf("message %d is %q [MQTT-4.6.0-1]", i, m.Payload)
				}
				p.quiet()
				if qos == mqtt.AtLeastOnce {
					p.sendAck(mqtt.PUBACK, m.PacketID, mqtt.Success)
				} else {
					p.sendAck(mqtt.PUBREC, m.PacketID, mqtt.Success)
					p.ack(mqtt.PUBREL)
					p.quiet()
					p.sendAck(mqtt.PUBCOMP, m.PacketID, mqtt.Success)
				}
				if i < 4 {
					flying = append(flying, keep(p.publish()))
				}
				<-pubs[i].Done()
			}
			closeBoth(t, c, p)
		})
	}
}

func keep(m mqtt.Publish) mqtt.Publish {
	m.Topic, m.Payload = bytes.Clone(m.Topic), bytes.Clone(m.Payload)
	return m
}

// quiet fails when the client has something to say.
func (p *peer) quiet() {
	p.t.Helper()
	synctest.Wait()
	_ = p.nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer p.nc.SetReadDeadline(time.Time{})
	if f, err := p.in.next(p.v, mqtt.MaxPacket); err == nil {
		p.fail("got %v % x, want nothing", f.Type, f.Body)
	}
}

// TestNotSent: what the server cannot take is not sent, and the connection goes on.
func TestNotSent(t *testing.T) {
	only := mqtt.Properties(nil).WithInt(mqtt.MaximumQoS, 1).WithInt(mqtt.RetainAvailable, 0).WithInt(mqtt.MaximumPacketSize, 40)
	big := strings.Repeat("x", 40)
	for name, tc := range map[string]struct {
		m    mqtt.Message
		code mqtt.ReasonCode
	}{
		"QoS [MQTT-3.2.2-11]":            {mqtt.Message{Topic: "a", QoS: 2}, mqtt.QoSNotSupported},
		"no such QoS":                    {mqtt.Message{Topic: "a", QoS: 3}, mqtt.QoSNotSupported},
		"retain [MQTT-3.2.2-14]":         {mqtt.Message{Topic: "a", Retain: true}, mqtt.RetainNotSupported},
		"payload [MQTT-3.2.2-15]":        {mqtt.Message{Topic: "a", Payload: []byte(big)}, mqtt.PacketTooLarge},
		"properties [MQTT-3.2.2-15]":     {mqtt.Message{Topic: "a", Props: mqtt.Properties(nil).WithUser(big, "")}, mqtt.PacketTooLarge},
		"wildcard [MQTT-3.3.2-2]":        {mqtt.Message{Topic: "a/+"}, mqtt.TopicNameInvalid},
		"no topic [MQTT-4.7.3-1]":        {mqtt.Message{}, mqtt.TopicNameInvalid},
		"NUL [MQTT-4.7.3-2]":             {mqtt.Message{Topic: "a\x00"}, mqtt.TopicNameInvalid},
		"alias":                          {mqtt.Message{Topic: "a", Props: mqtt.Properties(nil).WithInt(mqtt.TopicAlias, 1)}, mqtt.ProtocolError},
		"response topic [MQTT-3.3.2-14]": {mqtt.Message{Topic: "a", Props: mqtt.Properties(nil).WithString(mqtt.ResponseTopic, "#")}, mqtt.TopicNameInvalid},
		"broken properties":              {mqtt.Message{Topic: "a", Props: mqtt.Properties{0x01}}, mqtt.MalformedPacket},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, p := open(t, Config{}, only)
				_, err := c.Publish(t.Context(), &tc.m)
				isCode(t, err, tc.code)
				var s *ServerError
				if errors.As(err, &s) {
					t.Errorf("%v pretends to come from the server", err)
				}
				closeBoth(t, c, p) // the next packet is DISCONNECT
			})
		})
	}
}

func TestPublishContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{MaxInflight: 1}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		first := result(func() error { _, err := c.Publish(ctx, &mqtt.Message{Topic: "first", QoS: 1}); return err })
		m := keep(p.publish())
		second := result(func() error { _, err := c.Publish(ctx, &mqtt.Message{Topic: "second", QoS: 1}); return err })
		synctest.Wait()
		cancel()
		for _, ch := range []<-chan error{first, second} {
			if err := <-ch; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		third := publishing(c, &mqtt.Message{Topic: "third", QoS: 1})
		p.quiet()
		p.sendAck(mqtt.PUBACK, m.PacketID, mqtt.Success)
		if m := answerPublish(p); string(m.Topic) != "third" {
			t.Errorf("%q was sent after it was withdrawn", m.Topic)
		}
		<-third
		closeBoth(t, c, p)
	})
}

// TestPublishBackpressure: a server that does not read makes the publisher wait, not the memory grow.
func TestPublishBackpressure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{KeepAlive: -1}, nil)
		payload := make([]byte, 100<<10)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sent := 0
		for {
			if _, err := c.Publish(ctx, &mqtt.Message{Topic: "a", Payload: payload}); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				break
			}
			sent++
		}
		if sent < 10 || sent > 25 {
			t.Errorf("%d messages of 100 KiB were taken", sent)
		}
		for range sent {
			p.publish()
		}
		closeBoth(t, c, p)
	})
}

// TestWriteTimeout: a server that takes no byte is given up.
func TestWriteTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _ := open(t, Config{KeepAlive: -1}, nil)
		start := time.Now()
		if _, err := c.Publish(t.Context(), message(0)); err != nil {
			t.Fatal(err)
		}
		if err := ended(c); err == nil || time.Since(start) != writeTimeout {
			t.Errorf("ended after %v: %v", time.Since(start), err)
		}
	})
}

func TestPublishAfterEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		flying := publishing(c, message(1))
		p.publish()
		_ = p.nc.Close()
		if a := <-flying; !errors.Is(a.err, io.ErrUnexpectedEOF) {
			t.Errorf("in flight: %v", a.err)
		}
		<-c.Done()
		for qos := range mqtt.QoS(3) {
			if _, err := c.Publish(t.Context(), message(qos)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("QoS %d: %v", qos, err)
			}
		}
		if _, err := c.Subscribe(t.Context(), mqtt.Subscription{Filter: "a"}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("subscribe: %v", err)
		}
		if err := c.Close(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Close: %v", err)
		}
	})
}

// TestAliasesOut: the first names get aliases, as many as the server allows [MQTT-3.2.2-17].
func TestAliasesOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, mqtt.Properties(nil).WithInt(mqtt.TopicAliasMaximum, 1))
		for i, want := range []mqtt.Publish{
			{Topic: []byte("long/name"), HasAlias: true, Alias: 1},
			{HasAlias: true, Alias: 1},
			{Topic: []byte("another/name")},
			{Topic: []byte("a")},
			{HasAlias: true, Alias: 1},
		} {
			name := []string{"long/name", "long/name", "another/name", "a", "long/name"}[i]
			sent := publishing(c, &mqtt.Message{Topic: name})
			if m := p.publish(); string(m.Topic) != string(want.Topic) || m.HasAlias != want.HasAlias || m.Alias != want.Alias {
				t.Errorf("message %d: topic %q, alias %v %d", i, m.Topic, m.HasAlias, m.Alias)
			}
			<-sent
		}
		closeBoth(t, c, p)
	})
}
