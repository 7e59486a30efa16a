package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// servers accepts streams of one client and plays each by a script.
type servers struct {
	t         *testing.T
	v         mqtt.Version
	peers     chan *peer
	refuse    error // of the next attempts; nil accepts
	mu        sync.Mutex
	tries     int
	addresses []string
}

func newServers(t *testing.T, v mqtt.Version) *servers {
	return &servers{t: t, v: v, peers: make(chan *peer, 100)}
}

// dial is the dialer of a client.
func (s *servers) dial(_ context.Context, _, address string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	s.addresses = append(s.addresses, address)
	if s.refuse != nil {
		return nil, s.refuse
	}
	p, nc := newPeer(s.t, s.v)
	s.peers <- p
	return nc, nil
}

func (s *servers) setRefuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *servers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

// accept plays the server's part of a connection's beginning.
func (s *servers) accept(ack mqtt.Connack) (*peer, mqtt.Connect) {
	s.t.Helper()
	p := <-s.peers
	c := p.connect()
	p.send(ack.Append(nil, p.v))
	return p, c
}

// dialed makes a client and its first connection.
func dialed(t *testing.T, v mqtt.Version, ack mqtt.Connack, opts ...Option) (*Client, *servers, *peer) {
	t.Helper()
	s := newServers(t, v)
	first := make(chan *peer, 1)
	go func() {
		p, _ := s.accept(ack)
		first <- p
	}()
	c, err := Dial(t.Context(), "mqtt://server", append([]Option{WithDialer(s.dial), WithVersion(v)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c, s, <-first
}

// closeClient ends a client politely.
func closeClient(t *testing.T, c *Client, p *peer) {
	t.Helper()
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	closed := result(func() error { return c.Close(context.Background()) })
	p.disconnect()
	_ = p.nc.Close()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("Err after Close: %v", err)
	}
}

// startBroker returns the dialer of a broker in this process.
func startBroker(t testing.TB, cfg broker.Config) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	t.Cleanup(func() {
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		served.Wait()
	})
	return func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		served.Go(func() { b.ServeConn(there) })
		return here, nil
	}
}

func TestClientWithBroker(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		dial := startBroker(t, broker.Config{})
		c, err := Dial(t.Context(), "mqtt://broker", WithDialer(dial), WithVersion(v))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 10)
		sub, err := c.Subscribe(t.Context(), "bins/+/level", func(d *Delivery) { got <- d.Topic + " " + string(d.Payload) }, ExactlyOnce)
		if err != nil {
			t.Fatal(err)
		}
		for qos := range QoS(3) {
			if err := c.Publish(t.Context(), "bins/7/level", fmt.Append(nil, qos), qos); err != nil {
				t.Error(err)
			}
		}
		for qos := range 3 {
			if m, want := <-got, fmt.Sprint("bins/7/level ", qos); m != want {
				t.Errorf("got %q, want %q", m, want)
			}
		}
		if err := sub.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-c.Done()
	})
}

// TestReconnect: the client connects again, later each time, and makes its subscriptions again because the session is gone.
func TestReconnect(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		var reasons []error
		c, s, p := dialed(t, v, mqtt.Connack{}, WithBackoff(time.Second, 8*time.Second), OnDisconnect(func(err error) { reasons = append(reasons, err) }))
		subscribed := result(func() error {
			_, err := c.Subscribe(t.Context(), "a/#", func(*Delivery) {}, AtMostOnce)
			return err
		})
		p.suback(p.subscribe().PacketID, mqtt.Success)
		if err := <-subscribed; err != nil {
			t.Fatal(err)
		}
		s.setRefuse(io.ErrClosedPipe)
		_ = p.nc.Close()
		lost := time.Now()
		time.Sleep(time.Minute) // in the bubble
		if n := s.count() - 1; n < 60/8 || n > 2*60/8+3 {
			t.Errorf("%d attempts in a minute", n)
		}
		s.setRefuse(nil)
		p, connect := s.accept(mqtt.Connack{})
		if connect.CleanStart != (v != mqtt.V5) {
			t.Errorf("Clean Start %v", connect.CleanStart)
		}
		sub := p.subscribe()
		if len(sub.Subscriptions) != 1 || sub.Subscriptions[0].Filter != "a/#" {
			t.Errorf("subscribed again to %+v", sub.Subscriptions)
		}
		p.suback(sub.PacketID, mqtt.Success)
		if d := time.Since(lost); d > 70*time.Second {
			t.Errorf("back after %v", d)
		}
		synctest.Wait()
		if len(reasons) != 1 || !errors.Is(reasons[0], io.ErrUnexpectedEOF) {
			t.Errorf("reasons %v", reasons)
		}
		closeClient(t, c, p)
	})
}

// TestReconnectKeepsSession: subscriptions are not made again, messages without an answer are sent again in order, with DUP, and those
// published meanwhile behind them.
func TestReconnectKeepsSession(t *testing.T) {
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("kept %v", kept), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
				subscribed := result(func() error {
					_, err := c.Subscribe(t.Context(), "a", func(*Delivery) {})
					return err
				})
				p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
				<-subscribed
				var sent []<-chan error
				publish := func(name string, qos QoS) {
					sent = append(sent, result(func() error { return c.Publish(t.Context(), name, nil, qos) }))
					synctest.Wait()
				}
				publish("one", AtLeastOnce)
				publish("two", ExactlyOnce)
				publish("three", ExactlyOnce)
				one, two, three := p.publish(), p.publish(), p.publish()
				p.sendAck(mqtt.PUBREC, two.PacketID, mqtt.Success)
				p.ack(mqtt.PUBREL)
				_ = p.nc.Close()
				synctest.Wait()
				publish("four", AtLeastOnce) // while there is no connection
				p, _ = s.accept(mqtt.Connack{SessionPresent: kept})
				if !kept {
					p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
				} else if a := p.ack(mqtt.PUBREL); a.PacketID != two.PacketID {
					t.Errorf("PUBREL of %d", a.PacketID)
				} else {
					p.sendAck(mqtt.PUBCOMP, two.PacketID, mqtt.Success)
				}
				var again []mqtt.Publish
				for i, want := range []mqtt.Publish{one, three, {}} {
					m := p.publish()
					again = append(again, m)
					if m.Dup != (kept && i < 2) || i < 2 && m.PacketID != want.PacketID || string(m.Topic) != []string{"one", "three", "four"}[i] {
						t.Errorf("PUBLISH %d: %+v", i, m)
					}
				}
				for _, m := range again {
					p.finishPublish(m)
				}
				for i, ch := range sent {
					if err := <-ch; err != nil {
						t.Errorf("publish %d: %v", i, err)
					}
				}
				closeClient(t, c, p)
			})
		})
	}
}

// TestWaitsForConnection: QoS 0 and subscriptions wait for a connection as long as their contexts allow, and say why there is none.
func TestWaitsForConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServers(t, mqtt.V5)
		s.setRefuse(errors.New("cable is out"))
		c, err := Dial(t.Context(), "mqtt://server", WithDialer(s.dial), WithLazyConnect())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for what, f := range map[string]func() error{
			"publish 0": func() error { return c.Publish(ctx, "a", nil, AtMostOnce) },
			"publish 1": func() error { return c.Publish(ctx, "a", nil) },
			"subscribe": func() error { _, err := c.Subscribe(ctx, "a", nil); return err },
			"request":   func() error { _, err := c.Request(ctx, "a", nil); return err },
			"wait":      func() error { return c.Wait(ctx) },
		} {
			if err := f(); !errors.Is(err, ErrOffline) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cable is out") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if st := c.Stats(); st.Pending != 0 {
			t.Errorf("%d messages are pending", st.Pending)
		}
		waits := result(func() error { return c.Publish(t.Context(), "b", nil, AtMostOnce) })
		s.setRefuse(nil)
		p, _ := s.accept(mqtt.Connack{})
		if m := p.publish(); string(m.Topic) != "b" {
			t.Errorf("PUBLISH of %q", m.Topic)
		}
		if err := <-waits; err != nil {
			t.Error(err)
		}
		closeClient(t, c, p)
	})
}
