package client

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// receiver makes a connection of a client by hand, without a server, that has a subscription.
func receiver(t testing.TB) *Conn {
	c, err := newClient(settingsOf("mqtt://nobody", nil))
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	cfg, err := c.configFor(mqtt.V5, true).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Session = c.session
	conn := newConn(here, cfg)
	conn.sending.learn(nil)
	t.Cleanup(func() {
		_ = there.Close()
		_ = here.Close()
		c.finish(ErrClosed)
	})
	if _, err := c.addSubscription(interest{Subscription: mqtt.Subscription{Filter: "bins/+/level"}}, nil); err != nil {
		t.Fatal(err)
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	conn.startSession()
	return conn
}

// TestReceiveAllocations: a message of QoS 0 or 1 costs nothing from the read buffer to the handler and back.
func TestReceiveAllocations(t *testing.T) {
	conn := receiver(t)
	box := conn.cfg.Session.keeper.(*Client).subs.order[0].subs[0].box
	for qos := range mqtt.QoS(2) {
		packet := (&mqtt.Publish{Topic: []byte("bins/7/level"), QoS: qos, PacketID: uint16(qos), Payload: make([]byte, 64), IDs: []uint32{1},
			Props: mqtt.Properties(nil).WithUser("k", "v")}).Append(nil, mqtt.V5)
		buf := make([]byte, len(packet))
		n := testing.AllocsPerRun(1000, func() {
			copy(buf, packet)
			f, _, err := mqtt.ParseFrame(buf, mqtt.V5, 1000)
			if err != nil {
				t.Fatal(err)
			}
			conn.mu.Lock()
			err = conn.process(f)
			conn.out = conn.out[:0]
			conn.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			conn.mu.Lock()
			d := box.pop()
			if string(d.Payload) != string(make([]byte, 64)) {
				t.Error("not the message")
			}
			box.handled(d)
			conn.mu.Unlock()
		})
		if n != 0 {
			t.Errorf("QoS %d: %v allocations", qos, n)
		}
	}
}

// TestPublishAllocations: a message of QoS 0 costs nothing until it is written.
func TestPublishAllocations(t *testing.T) {
	conn := receiver(t)
	c := conn.cfg.Session.keeper.(*Client)
	payload := make([]byte, 64)
	ctx := context.Background()
	n := testing.AllocsPerRun(1000, func() {
		if err := c.Publish(ctx, "bins/7/level", payload, AtMostOnce); err != nil {
			t.Fatal(err)
		}
		conn.mu.Lock()
		conn.out = conn.out[:0]
		conn.mu.Unlock()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkReceive is messages from the broker in this process to a handler.
func BenchmarkReceive(b *testing.B) {
	for qos, name := range []string{"QoS0", "QoS1", "QoS2"} {
		b.Run(name, func(b *testing.B) {
			c := connectTo(b, startBroker(b, broker.Config{}), mqtt.V5)
			n, done := 0, make(chan struct{})
			if _, err := c.Subscribe(b.Context(), "a", func(*Delivery) {
				if n++; n == b.N {
					close(done)
				}
			}, QoS(qos)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			payload := make([]byte, 64)
			var last *Publication
			for range b.N {
				p, err := c.PublishAsync(b.Context(), "a", payload, QoS(qos))
				if err != nil {
					b.Fatal(err)
				}
				last = p
			}
			<-last.Done()
			select {
			case <-done:
			case <-time.After(10 * time.Second): // QoS 0 may be dropped
			}
		})
	}
}
