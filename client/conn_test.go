package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

func TestServerDisconnects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		props := mqtt.Properties(nil).WithString(mqtt.ReasonString, "see there").WithString(mqtt.ServerReference, "other:1883")
		p.send((&mqtt.Disconnect{Code: mqtt.ServerMoved, Props: props}).Append(nil, p.v))
		p.eof() // nothing is answered [MQTT-3.14.4-1]
		err := ended(c)
		isServerError(t, err, mqtt.DISCONNECT, mqtt.ServerMoved)
		var s *ServerError
		if errors.As(err, &s) && (s.Reason != "see there" || s.Props.String(mqtt.ServerReference) != "other:1883") {
			t.Errorf("%+v", s)
		}
	})
}

func TestServerGoes(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		c, p := open(t, Config{Version: v}, nil)
		if err := c.Err(); err != nil {
			t.Errorf("Err of a living connection: %v", err)
		}
		_ = p.nc.Close()
		if err := ended(c); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

// TestCloseFlushes: what was published before Close is written before DISCONNECT.
func TestCloseFlushes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		for range 10 {
			if _, err := c.Publish(t.Context(), message(0)); err != nil {
				t.Fatal(err)
			}
		}
		closed := result(c.Close)
		for range 10 {
			p.publish()
		}
		p.disconnect()
		_ = p.nc.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestDisconnectWith(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		closed := result(func() error {
			return c.Disconnect(t.Context(), mqtt.Disconnect{Code: mqtt.DisconnectWithWill, Props: mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 9)})
		})
		d := p.disconnect()
		if expiry, _ := d.Props.Int(mqtt.SessionExpiryInterval); d.Code != mqtt.DisconnectWithWill || expiry != 9 {
			t.Errorf("DISCONNECT %+v", d)
		}
		_ = p.nc.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// TestDisconnectWithWillV3: MQTT 3 keeps the Will when there is no DISCONNECT.
func TestDisconnectWithWillV3(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{Version: mqtt.V311}, nil)
		closed := result(func() error { return c.Disconnect(t.Context(), mqtt.Disconnect{Code: mqtt.DisconnectWithWill}) })
		p.eof()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// TestCloseIsBounded: a server that does not read, and one that does not close, keep Close waiting for a limited time.
func TestCloseIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		reads bool
		ctx   time.Duration
		want  time.Duration
		err   error
	}{
		"server that does not close":          {true, time.Minute, lingerWait, nil},
		"server that does not read":           {false, time.Minute, closeWait + lingerWait, nil},
		"server that does not read, context":  {false, 3 * time.Second, 3 * time.Second, context.DeadlineExceeded},
		"server that does not close, context": {true, time.Millisecond, time.Millisecond, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, p := open(t, Config{}, nil)
				if tc.reads {
					go p.disconnect()
				}
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), tc.ctx)
				defer cancel()
				if err := c.Disconnect(ctx, mqtt.Disconnect{}); !errors.Is(err, tc.err) {
					t.Errorf("error %v, want %v", err, tc.err)
				}
				if got := time.Since(start); got != tc.want {
					t.Errorf("closed after %v, want %v", got, tc.want)
				}
				<-c.Done()
			})
		})
	}
}

// TestLinger: bytes of the server that come after our DISCONNECT are read, not reset.
func TestLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		handler, got := collect()
		c, p := open(t, Config{Handler: handler}, nil)
		closed := result(c.Close)
		p.disconnect()
		for range 10 {
			p.sendPublish(publish(0, 0, ""))
		}
		_ = p.nc.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if <-c.Done(); len(got) != 0 {
			t.Errorf("%d messages were handled after Close", len(got))
		}
	})
}

func TestKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		c, p := open(t, Config{KeepAlive: 10 * time.Second}, nil)
		p.expect(mqtt.PINGREQ) // within the Keep Alive [MQTT-3.1.2-20]
		if d := time.Since(start); d > 10*time.Second || d < 5*time.Second {
			t.Errorf("PINGREQ after %v", d)
		}
		p.send(mqtt.AppendPingresp(nil))
		heard := time.Now()
		p.expect(mqtt.PINGREQ)
		p.eof() // and no answer
		if d := time.Since(heard); d != 15*time.Second {
			t.Errorf("given up after %v, want 15 s", d)
		}
		isCode(t, ended(c), mqtt.KeepAliveTimeout)
	})
}

// TestKeepAliveBusy: a client that sends is not excused from listening, one that hears is not excused from sending.
func TestKeepAliveBusy(t *testing.T) {
	t.Run("sending", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c, p := open(t, Config{KeepAlive: 10 * time.Second}, nil)
			pings := 0
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				for {
					f, err := p.in.next(p.v, mqtt.MaxPacket)
					if err != nil {
						return
					}
					if f.Type == mqtt.PINGREQ {
						pings++
					}
				}
			}()
			start := time.Now()
			go func() {
				for c.Err() == nil {
					_, _ = c.Publish(context.Background(), message(0))
					select {
					case <-time.After(time.Second):
					case <-c.Done():
					}
				}
			}()
			isCode(t, ended(c), mqtt.KeepAliveTimeout)
			if d := time.Since(start); d != 15*time.Second {
				t.Errorf("given up after %v, want 15 s", d)
			}
			if <-drained; pings == 0 {
				t.Error("no PINGREQ")
			}
		})
	})
	t.Run("hearing", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c, p := open(t, Config{KeepAlive: 10 * time.Second}, nil)
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
						_, _ = p.nc.Write(publishBytes(p.v, 0, 0, 1))
					}
				}
			}()
			for range 5 {
				start := time.Now()
				p.expect(mqtt.PINGREQ)
				if d := time.Since(start); d > 10*time.Second {
					t.Errorf("PINGREQ after %v", d)
				}
			}
			close(stop)
			synctest.Wait()
			closeBoth(t, c, p)
		})
	})
}

func TestKeepAliveOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{KeepAlive: -1}, nil)
		time.Sleep(24 * time.Hour) // in the bubble
		p.quiet()
		closeBoth(t, c, p)
	})
}

// TestServerKeepAlive: the server's wish counts [MQTT-3.1.2-21].
func TestServerKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{KeepAlive: -1}, mqtt.Properties(nil).WithInt(mqtt.ServerKeepAlive, 2))
		start := time.Now()
		p.expect(mqtt.PINGREQ)
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("PINGREQ after %v", d)
		}
		closeBoth(t, c, p)
	})
}

// again connects once more with the session, which the server has kept or not.
func again(t *testing.T, v mqtt.Version, s *Session, handler func(*Delivery), present bool) (*Conn, *peer) {
	t.Helper()
	c, p, connect := openWith(t, Config{Version: v, ClientID: "c1", Session: s, SessionExpiry: NeverExpires, Handler: handler}, mqtt.Connack{SessionPresent: present})
	if connect.CleanStart {
		t.Error("a session that is to be continued starts anew")
	}
	return c, p
}

func drop(c *Conn, p *peer) {
	_ = p.nc.Close()
	<-c.Done()
}

// TestSessionOut: messages that the server has not acknowledged are sent again with DUP, PUBRELs too, in order, and new ones behind them
// [MQTT-4.4.0-1].
func TestSessionOut(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		s := new(Session)
		c, p := again(t, v, s, nil, false)
		for _, m := range []mqtt.Message{{Topic: "one", QoS: 1}, {Topic: "two", QoS: 2}, {Topic: "three", QoS: 2}} {
			if _, err := c.Start(t.Context(), &m); err != nil {
				t.Fatal(err)
			}
		}
		one, two, three := p.publish().PacketID, p.publish().PacketID, p.publish().PacketID
		p.sendAck(mqtt.PUBREC, two, mqtt.Success)
		p.ack(mqtt.PUBREL)
		drop(c, p)
		if n, _ := s.Pending(); n != 3 {
			t.Errorf("%d messages are pending, want 3", n)
		}

		c, p = again(t, v, s, nil, true)
		if a := p.ack(mqtt.PUBREL); a.PacketID != two {
			t.Errorf("PUBREL of %d, want %d", a.PacketID, two)
		}
		for _, want := range []uint16{one, three} {
			if m := p.publish(); m.PacketID != want || !m.Dup { // [MQTT-3.3.1-1]
				t.Errorf("PUBLISH %+v, want %d with DUP", m, want)
			}
		}
		p.sendAck(mqtt.PUBCOMP, two, mqtt.Success)
		p.sendAck(mqtt.PUBACK, one, mqtt.Success)
		p.sendAck(mqtt.PUBREC, three, mqtt.Success)
		p.ack(mqtt.PUBREL)
		p.sendAck(mqtt.PUBCOMP, three, mqtt.Success)
		closeBoth(t, c, p)
		if n, bytes := s.Pending(); n != 0 || bytes != 0 {
			t.Errorf("%d messages, %d bytes are pending", n, bytes)
		}
	})
}

// TestSessionIn: QoS 2 is handled once across connections [MQTT-4.3.3-10].
func TestSessionIn(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		s := new(Session)
		handler, got := collect()
		c, p := again(t, v, s, handler, false)
		p.sendPublish(publish(2, 1, ""))
		p.ack(mqtt.PUBREC)
		drop(c, p)
		c, p = again(t, v, s, handler, true)
		m := publish(2, 1, "")
		m.Dup = true
		p.sendPublish(m)
		p.ack(mqtt.PUBREC)
		p.sendAck(mqtt.PUBREL, 1, mqtt.Success)
		p.ack(mqtt.PUBCOMP)
		closeBoth(t, c, p)
		if len(got) != 1 {
			t.Errorf("handled %d times", len(got))
		}
	})
}

// TestSessionInNotHandled: a QoS 2 message that Close kept from the handler is handled when the server sends it again.
func TestSessionInNotHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(Session)
		release := make(chan struct{})
		c, p := again(t, mqtt.V5, s, func(*Delivery) { <-release }, false)
		p.sendPublish(publish(2, 1, "in the handler"))
		p.sendPublish(publish(2, 2, "waits"))
		synctest.Wait() // both have arrived
		closed := result(c.Close)
		p.disconnect()
		_ = p.nc.Close()
		<-closed
		close(release)
		<-c.Done()

		handler, got := collect()
		c, p = again(t, mqtt.V5, s, handler, true)
		for id := range uint16(2) {
			m := publish(2, id+1, "")
			m.Dup = true
			p.sendPublish(m)
			p.ack(mqtt.PUBREC)
		}
		closeBoth(t, c, p)
		if len(got) != 1 || (<-got).PacketID != 2 {
			t.Error("want the second message, once")
		}
	})
}

// TestSessionLost: when the server has nothing, neither have we [MQTT-3.2.2-5].
func TestSessionLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(Session)
		c, p := again(t, mqtt.V5, s, nil, false)
		if _, err := c.Start(t.Context(), message(1)); err != nil {
			t.Fatal(err)
		}
		p.publish()
		drop(c, p)
		c, p = again(t, mqtt.V5, s, nil, false)
		closeBoth(t, c, p) // the next packet is DISCONNECT
	})
}

// TestSessionNarrower: a message that the server takes no more is dropped, not sent.
func TestSessionNarrower(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(Session)
		c, p := again(t, mqtt.V5, s, nil, false)
		for _, qos := range []mqtt.QoS{1, 2} {
			if _, err := c.Start(t.Context(), &mqtt.Message{Topic: "big", Payload: make([]byte, 1000), QoS: qos}); err != nil {
				t.Fatal(err)
			}
			p.publish()
		}
		drop(c, p)
		c, p, _ = openWith(t, Config{ClientID: "c1", Session: s}, mqtt.Connack{SessionPresent: true, Props: mqtt.Properties(nil).WithInt(mqtt.MaximumPacketSize, 100)})
		sent := publishing(c, message(1))
		if m := answerPublish(p); string(m.Topic) != "bins/7/level" {
			t.Errorf("sent %q", m.Topic)
		}
		<-sent
		closeBoth(t, c, p)
	})
}

func TestSessionInUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(Session)
		c, p := again(t, mqtt.V5, s, nil, false)
		_, nc := newPeer(t, mqtt.V5)
		if _, err := Connect(t.Context(), nc, Config{Session: s}); err == nil {
			t.Error("two connections share a session")
		}
		closeBoth(t, c, p)
		c, p = again(t, mqtt.V5, s, nil, true)
		closeBoth(t, c, p)
	})
}
