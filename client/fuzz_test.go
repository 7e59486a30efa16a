package client

import (
	"bytes"
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// FuzzServer is a server that sends whatever it likes, before or after it has accepted, to a client that publishes and subscribes at
// every QoS. The client must neither panic nor hang, and everybody who waits for an answer must hear that there is none.
func FuzzServer(f *testing.F) {
	ack := func(t mqtt.PacketType, id uint16) []byte {
		return (&mqtt.Ack{Type: t, PacketID: id}).Append(nil, mqtt.V5)
	}
	for _, seed := range [][]byte{
		{},
		ack(mqtt.PUBACK, 2),
		append(ack(mqtt.PUBREC, 3), ack(mqtt.PUBCOMP, 3)...),
		append(publishBytes(mqtt.V5, 2, 7, 10), ack(mqtt.PUBREL, 7)...),
		append(publishBytes(mqtt.V5, 2, 7, 10), publishBytes(mqtt.V5, 1, 7, 10)...),
		(&mqtt.Suback{PacketID: 1, Codes: []mqtt.ReasonCode{1}}).Append(nil, mqtt.V5),
		(&mqtt.Unsuback{PacketID: 1, Codes: []mqtt.ReasonCode{1}}).Append(nil, mqtt.V5),
		(&mqtt.Publish{Topic: []byte("a"), HasAlias: true, Alias: 1}).Append(nil, mqtt.V5),
		(&mqtt.Connack{}).Append(nil, mqtt.V5),
		(&mqtt.Auth{Code: mqtt.ContinueAuthentication, Props: method("ECHO", "x")}).Append(nil),
		(&mqtt.Disconnect{Code: mqtt.ServerBusy}).Append(nil, mqtt.V5),
		mqtt.AppendPingresp(nil),
		append(limitedConnack(), ack(mqtt.PUBACK, 1)...),
		(&mqtt.Connack{Props: method("ECHO", "bye").WithInt(mqtt.ReceiveMaximum, 1)}).Append(nil, mqtt.V5),
		(&mqtt.Suback{PacketID: 1, Codes: []mqtt.ReasonCode{1, 1}}).Append(nil, mqtt.V5), // too many
		(&mqtt.Suback{PacketID: 1}).Append(nil, mqtt.V5),                                 // too few
		(&mqtt.Suback{PacketID: 2, Codes: []mqtt.ReasonCode{mqtt.NotAuthorized}}).Append(nil, mqtt.V5),
		append(ack(mqtt.PUBCOMP, 3), ack(mqtt.PUBREC, 3)...), // the wrong way round
		append(ack(mqtt.PUBREL, 7), publishBytes(mqtt.V5, 2, 7, 10)...),
		append(publishBytes(mqtt.V5, 2, 7, 10), append(ack(mqtt.PUBREL, 7), publishBytes(mqtt.V5, 2, 7, 10)...)...),
		append((&mqtt.Publish{Topic: []byte("a"), HasAlias: true, Alias: 3}).Append(nil, mqtt.V5), (&mqtt.Publish{HasAlias: true, Alias: 3}).Append(nil, mqtt.V5)...),
		(&mqtt.Publish{Topic: []byte("a"), HasAlias: true, Alias: 4}).Append(nil, mqtt.V5), // beyond what was allowed
		(&mqtt.Publish{Topic: []byte("a/+")}).Append(nil, mqtt.V5),
		bytes.Repeat(publishBytes(mqtt.V5, 1, 9, 900), 6), // more than the Receive Maximum, and than the inbox
		publishBytes(mqtt.V5, 0, 0, 5000),                 // oversized
		{0x30, 0xFF, 0xFF, 0xFF, 0x7F},
		{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01},
		append((&mqtt.Auth{Code: mqtt.ContinueAuthentication, Props: method("ECHO", "x")}).Append(nil), (&mqtt.Auth{Props: method("ECHO", "bye")}).Append(nil)...),
		(&mqtt.Auth{Code: mqtt.ReAuthenticate, Props: method("ECHO", "x")}).Append(nil),
		(&mqtt.Auth{Props: method("OTHER", "bye")}).Append(nil),
		{0xC0, 0}, {0xE0, 0}, {0x10, 0}, {0x82, 0}, {0xA2, 0}, {0x00, 0}, // packets of clients
	} {
		for v := mqtt.V31; v <= mqtt.V5; v++ {
			f.Add(byte(v), seed)
			f.Add(64|128|byte(v), seed)
			f.Add(64|byte(v), seed)
		}
	}
	f.Fuzz(func(t *testing.T, how byte, sent []byte) {
		cfg := Config{Version: mqtt.V31 + mqtt.Version(how%3), MaxPacketSize: 4096, InboxBytes: 2000, TopicAliasMaximum: 3, ReceiveMaximum: 5}
		if how&64 != 0 && cfg.Version == mqtt.V5 {
			cfg.Exchange = new(echo)
		}
		synctest.Test(t, func(t *testing.T) { hostile(t, cfg, how&128 == 0, sent) })
	})
}

// limitedConnack accepts, and takes little.
func limitedConnack() []byte {
	return (&mqtt.Connack{Props: mqtt.Properties(nil).WithInt(mqtt.ReceiveMaximum, 1).WithInt(mqtt.MaximumPacketSize, 20).WithInt(mqtt.MaximumQoS, 1).
		WithInt(mqtt.TopicAliasMaximum, 1).WithInt(mqtt.ServerKeepAlive, 1).WithInt(mqtt.RetainAvailable, 0).WithInt(mqtt.WildcardSubscriptionAvailable, 0).
		WithInt(mqtt.SubscriptionIdentifierAvailable, 0).WithString(mqtt.AssignedClientIdentifier, "other").WithString(mqtt.ResponseInformation, "a/#")}).Append(nil, mqtt.V5)
}

// hostile runs a client against a server that sends those bytes and then nothing.
func hostile(t *testing.T, cfg Config, accept bool, sent []byte) {
	here, there := net.Pipe()
	defer here.Close()
	go swallow(here)
	go func() {
		if accept {
			ack := mqtt.Connack{}
			if cfg.Exchange != nil {
				ack.Props = method("ECHO", "bye")
			}
			_, _ = here.Write(ack.Append(nil, cfg.Version))
		}
		_, _ = here.Write(sent)
	}()
	cfg.Handler = func(*Delivery) { time.Sleep(time.Millisecond) } // in the bubble
	c, err := Connect(t.Context(), there, cfg)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	asked := []<-chan codes{subscribing(c, mqtt.Subscription{Filter: "a"}), unsubscribing(c, "a")}
	again := result(func() error { return c.Reauthenticate(ctx) })
	for qos := range mqtt.QoS(3) {
		_, _ = c.Publish(ctx, message(qos)) // ends at the latest with the Keep Alive
	}
	for _, ch := range asked {
		<-ch
	}
	<-again
	_ = c.Close()
	<-c.Done()
	nothingLeft(t, c.cfg.Session)
}

// nothingLeft fails the test if somebody waits, or something is counted, after the end.
func nothingLeft(t *testing.T, s *Session) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != 0 || s.awaited != 0 || s.inboxBytes != 0 || len(s.queued)+len(s.stored)+len(s.flying) != 0 {
		t.Errorf("left: %d callers, %d answers, %d bytes of messages, %d+%d+%d publications", s.waiting, s.awaited, s.inboxBytes, len(s.queued), len(s.stored), len(s.flying))
	}
}

// swallow reads until the end.
func swallow(nc net.Conn) {
	var waste [512]byte
	for {
		if _, err := nc.Read(waste[:]); err != nil {
			return
		}
	}
}
