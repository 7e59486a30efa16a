package client

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
)

// FuzzClient is a server that, on one connection after the other, accepts or not, with or without the session, and sends whatever it likes, to a
// client that publishes, subscribes and asks. The client must neither panic nor hang, and everybody who waits must hear of the end.
func FuzzClient(f *testing.F) {
	ack := func(t mqtt.PacketType, id uint16) []byte {
		return (&mqtt.Ack{Type: t, PacketID: id}).Append(nil, mqtt.V5)
	}
	suback := (&mqtt.Suback{PacketID: 1, Codes: []mqtt.ReasonCode{1}}).Append(nil, mqtt.V5)
	repeated := publish(1, 3, "x")
	repeated.Dup = true
	moved := mqtt.Properties(nil).WithString(mqtt.ServerReference, "b:1 c")
	f.Add(byte(0), suback, []byte{}, []byte{})
	f.Add(byte(1), publishBytes(mqtt.V5, 1, 3, 1), repeated.Append(nil, mqtt.V5), ack(mqtt.PUBACK, 4))
	f.Add(byte(5), publishBytes(mqtt.V5, 2, 3, 1), publishBytes(mqtt.V5, 2, 3, 1), ack(mqtt.PUBREL, 3))
	f.Add(byte(7), ack(mqtt.PUBREC, 5), ack(mqtt.PUBCOMP, 5), ack(mqtt.PUBREC, 5))
	f.Add(byte(2), (&mqtt.Connack{Code: mqtt.UseAnotherServer, Props: moved}).Append(nil, mqtt.V5), []byte{0x20, 2, 0, 1}, []byte{})
	f.Add(byte(8), (&mqtt.Disconnect{Code: mqtt.ServerMoved, Props: moved}).Append(nil, mqtt.V5), suback, suback)
	f.Add(byte(7), limitedConnack(), limitedConnack(), []byte{0x20, 2, 0, 0})
	f.Add(byte(0x38|withQueue), append(suback, publishBytes(mqtt.V5, 2, 3, 1)...), append(publishBytes(mqtt.V5, 2, 3, 1), ack(mqtt.PUBREL, 3)...), publishBytes(mqtt.V5, 2, 3, 1))
	f.Add(byte(0x38|withQueue), ack(mqtt.PUBREC, 2), append(ack(mqtt.PUBREL, 2), ack(mqtt.PUBCOMP, 2)...), ack(mqtt.PUBREC, 1))
	f.Add(byte(withV311), []byte{0x90, 3, 0, 1, 0x80}, publishBytes(mqtt.V311, 2, 3, 1), publishBytes(mqtt.V311, 1, 3, 1))
	f.Add(byte(withV311|withQueue), []byte{0x40, 2, 0, 2}, []byte{0x50, 2, 0, 3}, []byte{0x70, 2, 0, 3})
	f.Fuzz(func(t *testing.T, how byte, one, two, three []byte) {
		synctest.Test(t, func(t *testing.T) { hostileServers(t, how, one, two, three) })
	})
}

// What the client of hostileServers does besides.
const (
	withV311  = 1 << 6
	withQueue = 1 << 7
)

// hostileServers plays a server for each of the first connections; after them nobody listens.
func hostileServers(t *testing.T, how byte, sent ...[]byte) {
	var mu sync.Mutex
	n, v := 0, mqtt.V5
	if how&withV311 != 0 {
		v = mqtt.V311
	}
	dial := func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if n >= len(sent) {
			return nil, context.DeadlineExceeded
		}
		here, there := net.Pipe()
		bytes, accept, present := sent[n], how>>n&1 == 0, how>>(n+3)&1 == 1
		n++
		go swallow(here)
		go func() {
			defer here.Close()
			if accept {
				_, _ = here.Write((&mqtt.Connack{SessionPresent: present}).Append(nil, v))
			}
			_, _ = here.Write(bytes)
		}()
		return there, nil
	}
	opts := []Option{WithConfig(Config{ClientID: "c", MaxPacketSize: 4096, InboxBytes: 2000, ReceiveMaximum: 5}), WithDialer(dial), WithLazyConnect(),
		WithSession(time.Hour)}
	if v == mqtt.V311 {
		opts = append(opts, WithVersion(v))
	}
	if how&withQueue != 0 {
		opts = append(opts, WithQueue("q"), on(vfs.NewMem()))
	}
	c, err := Dial(t.Context(), "mqtt://a", opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var all sync.WaitGroup
	for qos := range QoS(3) {
		all.Go(func() { _ = c.Publish(ctx, "a", []byte("x"), qos) })
	}
	all.Go(func() {
		if sub, err := c.Subscribe(ctx, "a", func(*Delivery) { time.Sleep(time.Millisecond) }); err == nil { // in the bubble
			_ = sub.Close(ctx)
		}
	})
	all.Go(func() {
		if sub, err := c.Subscribe(ctx, "a", nil, ManualAck); err == nil {
			for d := range sub.Messages(ctx) {
				d.Acknowledge()
			}
		}
	})
	all.Go(func() { _, _ = c.Request(ctx, "a", nil) })
	all.Wait()
	_ = c.Close(ctx)
	<-c.Done()
	nothingLeft(t, c.session)
}
