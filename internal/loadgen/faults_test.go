package loadgen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// onBoth runs a test with raw sockets and with goroutines.
func onBoth(t *testing.T, test func(t *testing.T, goroutines bool)) {
	for _, goroutines := range []bool{false, true} {
		t.Run(map[bool]string{false: "raw", true: "goroutines"}[goroutines], func(t *testing.T) { test(t, goroutines) })
	}
}

// fanIn is a small load with QoS 1.
func fanIn(url string, goroutines bool) Plan {
	return Plan{
		URL: url, Publishers: 3, Subscribers: 1, Topic: "{prefix}/{n}", Filter: "{prefix}/#", QoS: 1, SubQoS: 1, Window: 20, Count: 300,
		Drain: 200 * time.Millisecond, Goroutines: goroutines,
	}
}

// TestFaults holds what is found against what the broker has done.
func TestFaults(t *testing.T) {
	var kept mqtt.Publish
	tests := map[string]struct {
		fault                        func(n int, m mqtt.Publish) []mqtt.Publish
		lost, duplicated, outOfOrder uint64
		foreign                      uint64
	}{
		"none": {fault: func(_ int, m mqtt.Publish) []mqtt.Publish { return []mqtt.Publish{m} }},
		"lost": {fault: func(n int, m mqtt.Publish) []mqtt.Publish {
			if n%100 == 50 {
				return nil
			}
			return []mqtt.Publish{m}
		}, lost: 3},
		"duplicated": {fault: func(n int, m mqtt.Publish) []mqtt.Publish {
			if n%100 == 50 {
				return []mqtt.Publish{m, m}
			}
			return []mqtt.Publish{m}
		}, duplicated: 3},
		"reordered": {fault: func(n int, m mqtt.Publish) []mqtt.Publish {
			switch {
			case n == 10:
				kept = m
				return nil
			case kept.Topic != nil && string(kept.Topic) == string(m.Topic): // the next of the same publisher overtakes it
				first := kept
				kept = mqtt.Publish{}
				return []mqtt.Publish{m, first}
			}
			return []mqtt.Publish{m}
		}, outOfOrder: 1},
		"damaged": {fault: func(n int, m mqtt.Publish) []mqtt.Publish {
			if n == 150 {
				m.Payload[0] ^= 1
			}
			return []mqtt.Publish{m}
		}, foreign: 1, lost: 1},
		"cut short": {fault: func(n int, m mqtt.Publish) []mqtt.Publish {
			if n == 150 {
				m.Payload = m.Payload[:3]
			}
			return []mqtt.Publish{m}
		}, foreign: 1, lost: 1},
	}
	for name, test := range tests {
		for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			t.Run(fmt.Sprint(name, " ", v), func(t *testing.T) {
				onBoth(t, func(t *testing.T, goroutines bool) {
					kept = mqtt.Publish{}
					f := newFake(t, v, func(f *fake) { f.fault = test.fault })
					p := fanIn(f.url(), goroutines)
					p.Version = v
					r := mustRun(t, p)
					if r.Sent != 300 || r.Acked != 300 || r.Received != 300-test.lost {
						t.Errorf("sent %d, acknowledged %d, received %d", r.Sent, r.Acked, r.Received)
					}
					if r.Lost != test.lost || r.LostAcked != test.lost || r.Duplicated != test.duplicated || r.OutOfOrder != test.outOfOrder || r.Foreign != test.foreign {
						t.Errorf("lost %d (%d), duplicated %d, out of order %d, foreign %d; want %+v", r.Lost, r.LostAcked, r.Duplicated, r.OutOfOrder, r.Foreign, test)
					}
				})
			})
		}
	}
}

// TestLostUnacknowledged tells what a broker has promised from what it has not.
func TestLostUnacknowledged(t *testing.T) {
	f := newFake(t, mqtt.V5, func(f *fake) {
		f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
			if n%30 == 0 {
				return nil
			}
			return []mqtt.Publish{m}
		}
	})
	p := fanIn(f.url(), false)
	p.QoS = 0
	if r := mustRun(t, p); r.Lost != 10 || r.LostAcked != 0 {
		t.Errorf("lost %d, of those acknowledged %d; want 10 and none", r.Lost, r.LostAcked)
	}
}

// TestRefused finds the reasons of connections that do not come about.
func TestRefused(t *testing.T) {
	enough := func(when mqtt.PacketType) func(*fake, *fakeConn, mqtt.PacketType) error {
		return func(_ *fake, _ *fakeConn, got mqtt.PacketType) error {
			if got == when {
				return errEnough
			}
			return nil
		}
	}
	props := func(id mqtt.Property, v uint32) mqtt.Connack {
		return mqtt.Connack{Props: mqtt.Properties(nil).WithInt(id, v)}
	}
	tests := map[string]struct {
		set    func(*fake)
		failed int
		reason string
	}{
		"CONNACK":        {func(f *fake) { f.connack.Code = mqtt.NotAuthorized }, 4, "CONNACK: not authorized (0x87)"},
		"SUBACK":         {func(f *fake) { f.grant = func(mqtt.QoS) mqtt.ReasonCode { return mqtt.QuotaExceeded } }, 1, "SUBACK: quota exceeded (0x97)"},
		"lower QoS":      {func(f *fake) { f.grant = func(mqtt.QoS) mqtt.ReasonCode { return 0 } }, 1, "SUBACK: the broker grants QoS 0 only"},
		"maximum QoS":    {func(f *fake) { f.connack = props(mqtt.MaximumQoS, 0) }, 3, "the broker takes QoS 0 at most"},
		"maximum packet": {func(f *fake) { f.connack = props(mqtt.MaximumPacketSize, 50) }, 3, "the broker takes packets of 50 bytes"},
		"closed":         {func(f *fake) { f.before = enough(mqtt.CONNECT) }, 4, "closed by the broker"},
		"closed later":   {func(f *fake) { f.before = enough(mqtt.SUBSCRIBE) }, 1, "closed by the broker"},
		"unexpected":     {func(f *fake) { f.before = saying(mqtt.CONNECT, 0x40, 2, 0, 1) }, 4, "protocol error"},
		"not MQTT":       {func(f *fake) { f.before = saying(mqtt.CONNECT, []byte("HTTP/1.1 400 Bad Request\r\n")...) }, 4, "malformed packet"},
		"a large packet": {func(f *fake) {
			f.before = saying(mqtt.CONNECT, append([]byte{0x20, 0xff, 0xff, 0xff, 0x7f}, make([]byte, 300<<10)...)...)
		}, 4, "packet too large"},
		"PUBLISH of air":  {func(f *fake) { f.before = saying(mqtt.SUBSCRIBE, 0x30, 1, 0) }, 1, "malformed packet"},
		"PUBLISH, QoS 3":  {func(f *fake) { f.before = saying(mqtt.SUBSCRIBE, 0x36, 5, 0, 1, 'a', 0, 1) }, 1, "malformed packet"},
		"PUBLISH, id 0":   {func(f *fake) { f.before = saying(mqtt.SUBSCRIBE, 0x32, 5, 0, 1, 'a', 0, 0) }, 1, "malformed packet"},
		"DISCONNECT soon": {func(f *fake) { f.before = saying(mqtt.SUBSCRIBE, 0xe0, 1, 0x8b) }, 1, "DISCONNECT of the broker: server shutting down (0x8B)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, goroutines bool) {
				f := newFake(t, mqtt.V5, test.set)
				r := mustRun(t, fanIn(f.url(), goroutines))
				c := r.Connections
				if c.Failed != test.failed || c.Connected != 4-test.failed || r.Sent != 0 {
					t.Errorf("%d failed and %d connected, %d sent: %v", c.Failed, c.Connected, r.Sent, c.Failures)
				}
				for reason := range c.Failures {
					if !strings.Contains(reason, test.reason) {
						t.Errorf("the reason is %q, want %q", reason, test.reason)
					}
				}
				if c.Err == nil || !strings.Contains(c.Err.Error(), test.reason) {
					t.Errorf("the first error is %v, want %q", c.Err, test.reason)
				}
			})
		})
	}
}

// saying sends bytes instead of an answer.
func saying(when mqtt.PacketType, bytes ...byte) func(*fake, *fakeConn, mqtt.PacketType) error {
	return func(f *fake, c *fakeConn, got mqtt.PacketType) error {
		if got == when {
			f.write(c, bytes)
		}
		return nil
	}
}

// TestNobodyListens finds the system's reason.
func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "mqtt://" + ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	onBoth(t, func(t *testing.T, goroutines bool) {
		r := mustRun(t, fanIn(url, goroutines))
		if !errors.Is(r.Connections.Err, syscall.ECONNREFUSED) || r.Connections.Failed != 4 {
			t.Errorf("%d failed: %v", r.Connections.Failed, r.Connections.Err)
		}
	})
}

// TestSilence gives up on a broker that does not answer.
func TestSilence(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and that is all
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	onBoth(t, func(t *testing.T, goroutines bool) {
		p := fanIn("mqtt://"+ln.Addr().String(), goroutines)
		p.Timeout = 100 * time.Millisecond
		r := mustRun(t, p)
		if r.Connections.Failures[errTimeout.Error()] != 4 {
			t.Errorf("failures: %v", r.Connections.Failures)
		}
	})
}

// TestHalfClosed has the broker close its side of the subscriber's connection: nobody is left to receive.
func TestHalfClosed(t *testing.T) {
	onBoth(t, func(t *testing.T, goroutines bool) {
		f := newFake(t, mqtt.V5, func(f *fake) {
			f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
				if n == 100 {
					for c := range f.conns {
						if c.filter != "" {
							_ = c.Conn.(*net.TCPConn).CloseWrite()
						}
					}
				}
				return []mqtt.Publish{m}
			}
		})
		r := mustRun(t, fanIn(f.url(), goroutines))
		if r.Connections.Lost != 1 || r.Connections.Losses[errGone.Error()] != 1 || r.Received != 99 {
			t.Errorf("lost %d connections: %v; received %d", r.Connections.Lost, r.Connections.Losses, r.Received)
		}
	})
}

// TestBrokerDies has the whole broker go away.
func TestBrokerDies(t *testing.T) {
	onBoth(t, func(t *testing.T, goroutines bool) {
		f := newFake(t, mqtt.V5, func(f *fake) {
			f.before = func(f *fake, c *fakeConn, _ mqtt.PacketType) error {
				if f.count < 100 {
					return nil
				}
				for c := range f.conns {
					_ = c.Conn.(*net.TCPConn).SetLinger(0)
					_ = c.Close()
				}
				return errEnough
			}
		})
		r := mustRun(t, fanIn(f.url(), goroutines))
		if r.Connections.Lost != 4 || r.Sent == 300 {
			t.Errorf("lost %d connections: %v; sent %d", r.Connections.Lost, r.Connections.Losses, r.Sent)
		}
	})
}

// TestSlowBroker lets nobody read until the load's time is over: publishers wait for their sockets, and the run ends all the same.
func TestSlowBroker(t *testing.T) {
	onBoth(t, func(t *testing.T, goroutines bool) {
		over := make(chan struct{})
		f := newFake(t, mqtt.V5, func(f *fake) {
			f.before = func(_ *fake, _ *fakeConn, got mqtt.PacketType) error {
				if got == mqtt.PUBLISH {
					<-over
				}
				return nil
			}
		})
		p := Plan{URL: f.url(), Publishers: 2, Topic: "{prefix}", Size: 64 << 10, Duration: 300 * time.Millisecond, Goroutines: goroutines}
		r := mustRun(t, p)
		close(over)
		if r.Sent == 0 || r.Sent > 1000 {
			t.Errorf("sent %d of 64 KiB to a broker that does not read", r.Sent)
		}
	})
}

// TestInterrupted ends a run without an end of its own, with what was measured until then.
func TestInterrupted(t *testing.T) {
	onBoth(t, func(t *testing.T, goroutines bool) {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		f := newFake(t, mqtt.V5, func(f *fake) {
			f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
				if n == 1000 {
					cancel()
				}
				return []mqtt.Publish{m}
			}
		})
		p := fanIn(f.url(), goroutines)
		p.Count = 0
		r, err := Run(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent < 1000 || r.Received != r.Sent || r.Seconds == 0 {
			t.Errorf("sent %d, received %d in %v s", r.Sent, r.Received, r.Seconds)
		}
	})
}

// TestStall goes on when the window is closed by lost messages, after some time without any.
func TestStall(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	f := newFake(t, mqtt.V5, func(f *fake) {
		f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
			switch {
			case n <= 60:
				return nil // as many as the window holds
			case n == 200:
				cancel()
			}
			return []mqtt.Publish{m}
		}
	})
	p := fanIn(f.url(), false)
	p.QoS, p.Count = 0, 0
	r, err := Run(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Stalls == 0 || r.Received < 140 || r.Lost != 60 {
		t.Errorf("%d stalls, %d received, %d lost", r.Stalls, r.Received, r.Lost)
	}
}
