package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// collect returns a handler and what it was given.
func collect() (func(*Delivery), chan *Delivery) {
	ch := make(chan *Delivery, 1000)
	return func(d *Delivery) { ch <- d.Keep() }, ch
}

func publish(qos mqtt.QoS, id uint16, payload string) mqtt.Publish {
	return mqtt.Publish{Topic: []byte("a"), QoS: qos, PacketID: id, Payload: []byte(payload)}
}

func TestReceive(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		handler, got := collect()
		c, p := open(t, Config{Version: v, Handler: handler}, nil)
		p.sendPublish(publish(0, 0, "zero"))
		p.sendPublish(publish(1, 5, "one"))
		if a := p.ack(mqtt.PUBACK); a.PacketID != 5 || a.Code != 0 {
			t.Errorf("PUBACK %+v", a)
		}
		p.sendPublish(publish(2, 6, "two"))
		if a := p.ack(mqtt.PUBREC); a.PacketID != 6 || a.Code != 0 {
			t.Errorf("PUBREC %+v", a)
		}
		p.sendAck(mqtt.PUBREL, 6, mqtt.Success)
		if a := p.ack(mqtt.PUBCOMP); a.PacketID != 6 || a.Code != 0 {
			t.Errorf("PUBCOMP %+v", a)
		}
		for qos, want := range []string{"zero", "one", "two"} {
			if d := <-got; string(d.Message.Payload) != want || d.Message.QoS != mqtt.QoS(qos) || d.Message.Topic != "a" {
				t.Errorf("message %d is %+v", qos, d.Message)
			}
		}
		closeBoth(t, c, p)
	})
}

func TestReceiveAllFields(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handler, got := collect()
		c, p := open(t, Config{Handler: handler}, nil)
		props := mqtt.Properties(nil).WithString(mqtt.ResponseTopic, "r").WithUser("b", "2").WithUser("a", "1")
		p.sendPublish(mqtt.Publish{Topic: []byte("a/b"), Dup: true, QoS: 1, Retain: true, PacketID: 3, HasExpiry: true, Expiry: 7, IDs: []uint32{4, 2}, Props: props})
		p.ack(mqtt.PUBACK)
		d := <-got
		if !d.Dup || d.PacketID != 3 || !slices.Equal(d.IDs, []uint32{4, 2}) || !d.Message.Retain || string(d.Message.Props) != string(props) ||
			!d.Message.Expires.Equal(time.Now().Add(7*time.Second)) {
			t.Errorf("delivered %+v of %+v", d, d.Message)
		}
		closeBoth(t, c, p)
	})
}

// TestAcknowledgedWhenHandled: PUBACK and PUBREC say that the handler has the message.
func TestAcknowledgedWhenHandled(t *testing.T) {
	for qos, packet := range map[mqtt.QoS]mqtt.PacketType{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
		bubble(t, func(t *testing.T) {
			release := make(chan struct{})
			c, p := open(t, Config{Handler: func(*Delivery) { <-release }}, nil)
			p.sendPublish(publish(qos, 1, ""))
			p.quiet()
			close(release)
			p.ack(packet)
			closeBoth(t, c, p)
		})
	}
}

// TestQoS2Once: what the server repeats is acknowledged again and handled never [MQTT-4.3.3-10].
func TestQoS2Once(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handler, got := collect()
		c, p := open(t, Config{Handler: handler}, nil)
		first, again := publish(2, 9, "x"), publish(2, 9, "x")
		again.Dup = true
		p.sendPublish(first)
		p.ack(mqtt.PUBREC)
		p.sendPublish(again)
		p.ack(mqtt.PUBREC)
		p.sendAck(mqtt.PUBREL, 9, mqtt.Success)
		p.ack(mqtt.PUBCOMP)
		p.sendAck(mqtt.PUBREL, 9, mqtt.Success)
		if a := p.ack(mqtt.PUBCOMP); a.Code != mqtt.PacketIdentifierNotFound {
			t.Errorf("PUBCOMP of a released message: %v", a.Code)
		}
		p.sendPublish(first) // the identifier is free again
		p.ack(mqtt.PUBREC)
		if len(got) != 2 {
			t.Errorf("%d messages were handled, want 2", len(got))
		}
		closeBoth(t, c, p)
	})
}

// TestHandlerPublishes: a handler may wait for what it publishes and subscribes, while messages keep coming.
func TestHandlerPublishes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handled := make(chan error, 3)
		handler := func(d *Delivery) {
			_, err := d.Conn().Publish(context.Background(), &mqtt.Message{Topic: "reply", Payload: d.Message.Payload, QoS: 2})
			if err == nil {
				_, err = d.Conn().Subscribe(context.Background(), mqtt.Subscription{Filter: "more"})
			}
			handled <- err
		}
		c, p := open(t, Config{Handler: handler}, nil)
		for i := range 3 {
			p.sendPublish(publish(1, uint16(i+1), fmt.Sprint(i)))
		}
		for i := range 3 {
			if m := answerPublish(p); string(m.Topic) != "reply" {
				t.Errorf("reply %d: %q", i, m.Topic)
			}
			p.suback(p.subscribe().PacketID, mqtt.Success)
			if err := <-handled; err != nil {
				t.Error(err)
			}
			if a := p.ack(mqtt.PUBACK); int(a.PacketID) != i+1 {
				t.Errorf("PUBACK of %d, want %d [MQTT-4.6.0-2]", a.PacketID, i+1)
			}
		}
		closeBoth(t, c, p)
	})
}

// TestAcknowledge: a handler that closes can acknowledge first.
func TestAcknowledge(t *testing.T) {
	for qos, packet := range map[mqtt.QoS]mqtt.PacketType{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
		bubble(t, func(t *testing.T) {
			handler := func(d *Delivery) {
				d.Acknowledge()
				d.Acknowledge()
				_ = d.Conn().Close()
			}
			c, p := open(t, Config{Handler: handler}, nil)
			p.sendPublish(publish(qos, 1, ""))
			p.ack(packet)
			p.disconnect()
			_ = p.nc.Close()
			<-c.Done()
		})
	}
}

func TestHandlerCloses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ready := make(chan struct{})
		calls := 0
		handler := func(d *Delivery) {
			calls++
			<-ready
			_ = d.Conn().Close()
		}
		c, p := open(t, Config{Handler: handler}, nil)
		p.sendPublish(publish(1, 1, ""))
		p.sendPublish(publish(1, 2, "")) // never handled: it stays with the server
		close(ready)
		p.disconnect()
		_ = p.nc.Close()
		<-c.Done()
		if calls != 1 {
			t.Errorf("the handler was called %d times", calls)
		}
	})
}

// TestSlowHandler: the connection is not read while too much waits for the handler, and nothing is lost.
func TestSlowHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		step := make(chan struct{})
		handled := 0
		c, p := open(t, Config{InboxBytes: 3000, KeepAlive: 10 * time.Second, Handler: func(*Delivery) { <-step; handled++ }}, nil)
		sent := 0
		go func() {
			for range 100 {
				if _, err := p.nc.Write((&mqtt.Publish{Topic: []byte("a"), Payload: make([]byte, 1000)}).Append(nil, p.v)); err != nil {
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		if sent < 3 || sent > 12 {
			t.Errorf("%d messages were taken while the handler stood still", sent)
		}
		for range 3 { // a client that does not listen does not call the server dead
			p.expect(mqtt.PINGREQ)
		}
		for range 100 {
			step <- struct{}{}
		}
		synctest.Wait()
		if handled != 100 || c.Dropped() != 0 {
			t.Errorf("%d handled, %d dropped", handled, c.Dropped())
		}
		closeBoth(t, c, p)
	})
}

// TestSlowHandlerWaits: while the handler waits for an answer the connection is read, and QoS 0 beyond the limit is dropped.
func TestSlowHandlerWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handled := 0
		handler := func(d *Delivery) {
			if handled++; handled == 1 {
				if _, err := d.Conn().Publish(context.Background(), message(1)); err != nil {
					t.Error(err)
				}
			}
		}
		c, p := open(t, Config{InboxBytes: 3000, Handler: handler}, nil)
		p.sendPublish(publish(0, 0, ""))
		id := p.publish().PacketID
		for range 100 {
			p.sendPublish(publish(0, 0, strings.Repeat("x", 1000)))
		}
		p.sendAck(mqtt.PUBACK, id, mqtt.Success)
		synctest.Wait()
		if dropped := int(c.Dropped()); dropped == 0 || handled+dropped != 101 {
			t.Errorf("%d handled, %d dropped, of 101", handled, dropped)
		}
		closeBoth(t, c, p)
	})
}

// TestInboxOverflow: QoS 1 is not dropped; beyond four times the limit the connection ends and the server keeps the messages.
func TestInboxOverflow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handler := func(d *Delivery) {
			_, _ = d.Conn().Publish(context.Background(), message(1))
		}
		c, p := open(t, Config{InboxBytes: 3000, Handler: handler}, nil)
		p.sendPublish(publish(1, 1, ""))
		p.publish()
		go func() {
			for id := range uint16(100) {
				if _, err := p.nc.Write(publishBytes(p.v, 1, id+2, 1000)); err != nil {
					return
				}
			}
		}()
		if d := p.disconnect(); d.Code != mqtt.QuotaExceeded {
			t.Errorf("DISCONNECT with %v", d.Code)
		}
		_ = p.nc.Close()
		isCode(t, ended(c), mqtt.QuotaExceeded)
	})
}

func publishBytes(v mqtt.Version, qos mqtt.QoS, id uint16, size int) []byte {
	return (&mqtt.Publish{Topic: []byte("a"), QoS: qos, PacketID: id, Payload: make([]byte, size)}).Append(nil, v)
}

// TestDrained: what has arrived is handled although the server has gone.
func TestDrained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		handled := 0
		c, p := open(t, Config{Handler: func(*Delivery) { <-release; handled++ }}, nil)
		for range 5 {
			p.sendPublish(publish(0, 0, ""))
		}
		_ = p.nc.Close()
		synctest.Wait()
		close(release)
		if <-c.Done(); handled != 5 {
			t.Errorf("%d handled, want 5", handled)
		}
	})
}

func TestAliasesIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handler, got := collect()
		c, p := open(t, Config{Handler: handler, TopicAliasMaximum: 2}, nil)
		for _, m := range []mqtt.Publish{
			{Topic: []byte("a"), HasAlias: true, Alias: 2},
			{HasAlias: true, Alias: 2},
			{Topic: []byte("b"), HasAlias: true, Alias: 2},
			{HasAlias: true, Alias: 2},
		} {
			p.sendPublish(m)
		}
		for i, want := range []string{"a", "a", "b", "b"} {
			if d := <-got; d.Message.Topic != want {
				t.Errorf("message %d: topic %q, want %q", i, d.Message.Topic, want)
			}
		}
		closeBoth(t, c, p)
	})
}

// TestServerViolations: each is answered with DISCONNECT and its code, and ends the connection.
func TestServerViolations(t *testing.T) {
	alias := func(topic string, alias uint16) []byte {
		return (&mqtt.Publish{Topic: []byte(topic), HasAlias: true, Alias: alias}).Append(nil, mqtt.V5)
	}
	for name, tc := range map[string]struct {
		send []byte
		code mqtt.ReasonCode
	}{
		"CONNECT":                                {(&mqtt.Connect{Version: mqtt.V5}).Append(nil), mqtt.ProtocolError},
		"a second CONNACK [MQTT-3.2.0-2]":        {(&mqtt.Connack{}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"SUBSCRIBE":                              {[]byte{0x82, 7, 0, 1, 0, 0, 1, 'a', 0}, mqtt.ProtocolError},
		"PINGREQ":                                {[]byte{0xC0, 0}, mqtt.ProtocolError},
		"PINGRESP with a body":                   {[]byte{0xD0, 1, 0}, mqtt.MalformedPacket},
		"packet type 0":                          {[]byte{0, 0}, mqtt.MalformedPacket},
		"AUTH out of turn [MQTT-4.12.0-6]":       {[]byte{0xF0, 0}, mqtt.ProtocolError},
		"QoS 3 [MQTT-3.3.1-4]":                   {[]byte{0x36, 6, 0, 1, 'a', 0, 1, 0}, mqtt.MalformedPacket},
		"wildcard [MQTT-3.3.2-2]":                {[]byte{0x30, 4, 0, 1, '#', 0}, mqtt.TopicNameInvalid},
		"alias zero [MQTT-3.3.2-8]":              {alias("a", 0), mqtt.TopicAliasInvalid},
		"alias too large [MQTT-3.1.2-26]":        {alias("a", 3), mqtt.TopicAliasInvalid},
		"alias of nothing §3.3.4":                {alias("", 1), mqtt.ProtocolError},
		"SUBACK for nothing":                     {(&mqtt.Suback{PacketID: 1, Codes: []mqtt.ReasonCode{0}}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"UNSUBACK for nothing":                   {(&mqtt.Unsuback{PacketID: 1, Codes: []mqtt.ReasonCode{0}}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"too many messages [MQTT-3.3.4-9]":       {append(publishBytes(mqtt.V5, 2, 1, 0), publishBytes(mqtt.V5, 2, 2, 0)...), mqtt.ReceiveMaximumExceeded},
		"a packet too large [MQTT-3.1.2-24]":     {publishBytes(mqtt.V5, 0, 0, 1000)[:3], mqtt.PacketTooLarge},
		"PUBACK of a message of QoS 2 §4.3.3":    {(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: 1}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"PUBCOMP before PUBREC §4.3.3":           {(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: 1}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"PUBREC of a message of QoS 1 §4.3.2":    {(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: 2}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"SUBACK with two codes [MQTT-3.8.4-6]":   {(&mqtt.Suback{PacketID: 3, Codes: []mqtt.ReasonCode{0, 0}}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"UNSUBACK for a SUBSCRIBE":               {(&mqtt.Unsuback{PacketID: 3, Codes: []mqtt.ReasonCode{0}}).Append(nil, mqtt.V5), mqtt.ProtocolError},
		"DISCONNECT with a code of the client's": {[]byte{0xE0, 1, 0x42}, mqtt.MalformedPacket},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				release := make(chan struct{})
				cfg := Config{TopicAliasMaximum: 2, ReceiveMaximum: 1, MaxPacketSize: 500, Handler: func(*Delivery) { <-release }}
				c, p := open(t, cfg, nil)
				two := publishing(c, message(2))
				p.publish()
				one := publishing(c, message(1))
				p.publish()
				asked := subscribing(c, mqtt.Subscription{Filter: "a"})
				p.subscribe()
				go func() { _, _ = p.nc.Write(tc.send) }()
				if d := p.disconnect(); d.Code != tc.code {
					t.Errorf("DISCONNECT with %v, want %v", d.Code, tc.code)
				}
				p.nc.Close()
				close(release)
				isCode(t, ended(c), tc.code)
				for _, err := range []error{(<-two).err, (<-one).err, (<-asked).err} {
					isCode(t, err, tc.code)
				}
			})
		})
	}
}

// TestServerViolationsV3: MQTT 3 has no words for them; the stream is closed.
func TestServerViolationsV3(t *testing.T) {
	for name, send := range map[string][]byte{
		"DISCONNECT":                        {0xE0, 0},
		"AUTH":                              {0xF0, 0},
		"malformed":                         {0x36, 5, 0, 1, 'a', 0, 1},
		"empty topic [v3.1.1 MQTT-4.7.3-1]": {0x30, 2, 0, 0},
		"QoS 1 in the place of QoS 2":       append(publishBytes(mqtt.V311, 2, 1, 0), publishBytes(mqtt.V311, 1, 1, 0)...),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				release := make(chan struct{})
				c, p := open(t, Config{Version: mqtt.V311, Handler: func(*Delivery) { <-release }}, nil)
				go func() { _, _ = p.nc.Write(send) }()
				p.eof()
				close(release)
				if err := ended(c); err == nil {
					t.Error("no error")
				}
			})
		})
	}
}

// TestPacketIdentifierInUse: MQTT 5.0 can refuse the message and go on.
func TestPacketIdentifierInUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		p.sendPublish(publish(2, 1, ""))
		p.ack(mqtt.PUBREC)
		p.sendPublish(publish(1, 1, ""))
		if a := p.ack(mqtt.PUBACK); a.Code != mqtt.PacketIdentifierInUse {
			t.Errorf("PUBACK with %v", a.Code)
		}
		closeBoth(t, c, p)
	})
}
