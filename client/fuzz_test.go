package client

import (
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
	} {
		for v := mqtt.V31; v <= mqtt.V5; v++ {
			f.Add(byte(v), seed)
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
	for qos := range mqtt.QoS(3) {
		_, _ = c.Publish(ctx, message(qos)) // ends at the latest with the Keep Alive
	}
	for _, ch := range asked {
		<-ch
	}
	_ = c.Close()
	<-c.Done()
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
