package broker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// endsAfter reads until the connection ends and expects that to happen after exactly d, with the code.
func (c *client) endsAfter(d time.Duration, code mqtt.ReasonCode) {
	c.Helper()
	start := time.Now()
	c.wantEnd(code)
	if took := time.Since(start); took != d {
		c.Errorf("%s: ended after %v, want %v", c.id, took, d)
	}
}

// A client that is silent for one and a half times the Keep Alive is gone; any packet starts the time again
// [MQTT-3.1.2-22].
func TestKeepAlive(t *testing.T) {
	for _, v := range versions {
		bubble(t, Config{}, func(r *rig) {
			c := r.connect(v, "c", keepAlive(10))
			c.endsAfter(15*time.Second, mqtt.KeepAliveTimeout)
			c = r.connect(v, "c", keepAlive(10))
			for range 10 {
				time.Sleep(14 * time.Second)
				c.barrier()
			}
			time.Sleep(14 * time.Second)
			c.publish("a", "x", 1)
			c.endsAfter(15*time.Second, mqtt.KeepAliveTimeout)
			patient := r.connect(v, "p", keepAlive(0))
			time.Sleep(1000 * time.Hour)
			patient.barrier()
		})
	}
}

// What the server sends is no sign of life of the client.
func TestKeepAliveOfListener(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", keepAlive(10))
		c.subscribe(sub("a", 0))
		p := r.connect(mqtt.V5, "p")
		for range 14 {
			time.Sleep(time.Second)
			p.publish("a", "x", 0)
			c.want("x")
		}
		c.endsAfter(time.Second, mqtt.KeepAliveTimeout)
	})
}

func TestConnectTimeout(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		silent := r.open(mqtt.V311)
		silent.endsAfter(10*time.Second, 0)
		slow := r.open(mqtt.V311)
		packet := (&mqtt.Connect{Version: mqtt.V311, ClientID: "c", CleanStart: true}).Append(nil)
		for i := range 9 {
			time.Sleep(time.Second)
			slow.send(packet[i : i+1])
		}
		slow.endsAfter(time.Second, 0)
		quick := r.open(mqtt.V311)
		time.Sleep(9 * time.Second)
		quick.login("c")
		time.Sleep(time.Hour)
		quick.barrier()
	})
}

// hanging is an authenticator that waits for its context.
type hanging struct{}

func (hanging) Authenticate(ctx context.Context, _ *ConnectRequest) (Grant, error) {
	<-ctx.Done()
	return Grant{}, ctx.Err()
}

func TestHangingAuthenticator(t *testing.T) {
	bubble(t, Config{Authenticator: hanging{}, Limits: Limits{ConnectTimeout: 3 * time.Second}}, func(r *rig) {
		start := time.Now()
		_, code := r.try(mqtt.V5, "c")
		if took := time.Since(start); code != mqtt.NotAuthorized || took != 2700*time.Millisecond { // so that the answer comes in time
			t.Errorf("%v after %v", code, took)
		}
		c := r.open(mqtt.V5)
		c.send((&mqtt.Connect{Version: mqtt.V5, ClientID: "c"}).Append(nil))
		start = time.Now()
		if err := r.b.Shutdown(context.Background()); err != nil || time.Since(start) > lastWords {
			t.Errorf("shutdown: %v after %v", err, time.Since(start))
		}
	})
}

// The session lives as long as CONNECT says, or DISCONNECT, or the server's limit.
func TestSessionExpiry(t *testing.T) {
	const second = time.Second
	for _, tc := range []struct {
		name    string
		v       mqtt.Version
		connect option
		limit   time.Duration
		change  int // of DISCONNECT; negative for none
		lives   time.Duration
	}{
		{"as asked", mqtt.V5, lasting(30), 0, -1, 30 * second},
		{"for ever", mqtt.V5, lasting(0xFFFFFFFF), 0, -1, NeverExpires},
		{"within the limit", mqtt.V5, lasting(30), 10 * second, -1, 10 * second},
		{"for ever within the limit", mqtt.V5, lasting(0xFFFFFFFF), 10 * second, -1, 10 * second},
		{"made longer", mqtt.V5, lasting(30), 0, 90, 90 * second},
		{"made longer within the limit", mqtt.V5, lasting(30), 60 * second, 90, 60 * second},
		{"made shorter", mqtt.V5, lasting(30), 0, 5, 5 * second},
		{"ended", mqtt.V5, lasting(30), 0, 0, 0},
		{"3.1.1", mqtt.V311, resume, 0, -1, NeverExpires},
		{"3.1.1 within the limit", mqtt.V311, resume, 7 * second, -1, 7 * second},
		{"3.1", mqtt.V31, resume, 0, -1, NeverExpires},
	} {
		bubble(t, Config{Limits: Limits{SessionExpiry: tc.limit}}, func(r *rig) {
			c := r.connect(tc.v, "c", tc.connect)
			time.Sleep(time.Hour) // connected time does not count
			var props mqtt.Properties
			if tc.change >= 0 {
				props = props.WithInt(mqtt.SessionExpiryInterval, uint32(tc.change))
			}
			c.disconnect(mqtt.Success, props)
			alive := func() bool {
				synctest.Wait()
				_, ok := r.b.Client("c")
				return ok
			}
			if tc.lives == NeverExpires {
				time.Sleep(1e6 * time.Hour)
				if !alive() {
					t.Errorf("%s: gone", tc.name)
				}
				return
			}
			if tc.lives > 0 {
				time.Sleep(tc.lives - time.Nanosecond)
				if !alive() {
					t.Errorf("%s: gone too early", tc.name)
				}
				time.Sleep(time.Nanosecond)
			}
			if alive() {
				t.Errorf("%s: alive after %v", tc.name, tc.lives)
			}
			if n := r.b.Stats().ExpiredSessions; (n == 1) != (tc.lives > 0) {
				t.Errorf("%s: %d expired", tc.name, n)
			}
		})
	}
}

// A session that is kept cannot be wished for when it was not before [MQTT-3.14.2-2].
func TestExpiryFromZero(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		d := mqtt.Disconnect{Props: mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 10)}
		c.send(d.Append(nil, mqtt.V5))
		c.wantEnd(mqtt.ProtocolError)
	})
}

// Coming back stops the clock, and each end starts it anew.
func TestExpiryStartsAnew(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		r.connect(mqtt.V5, "c", lasting(10)).drop()
		for range 5 {
			time.Sleep(9 * time.Second)
			c := r.connect(mqtt.V5, "c", resume, lasting(10))
			if !c.connack.SessionPresent {
				t.Fatal("the session is gone")
			}
			time.Sleep(30 * time.Second)
			c.drop()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if r.connect(mqtt.V5, "c", resume).connack.SessionPresent {
			t.Error("the session is still there")
		}
	})
}

func expiring(name, payload string, qos mqtt.QoS, seconds uint32) mqtt.Publish {
	p := post(name, payload, qos)
	p.HasExpiry, p.Expiry = true, seconds
	return p
}

// Time in the queue counts [MQTT-3.3.2-5], [MQTT-3.3.2-6]; what was sent before it expired is sent again.
func TestMessageExpiryInQueue(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", lasting(1000), with(mqtt.ReceiveMaximum, 1))
		c.subscribe(sub("a", 1))
		p := r.connect(mqtt.V5, "p")
		p.publishPacket(expiring("a", "sent", 1, 5))
		p.publishPacket(expiring("a", "short", 1, 5))
		p.publishPacket(expiring("a", "long", 1, 60))
		if m := c.message(); string(m.Payload) != "sent" || m.Expiry != 5 {
			t.Errorf("got %+v", m)
		}
		c.drop()
		time.Sleep(20 * time.Second)
		c = r.connect(mqtt.V5, "c", resume)
		if m := c.take(); string(m.Payload) != "sent" || !m.Dup || m.Expiry != 0 || !m.HasExpiry {
			t.Errorf("again: %+v", m)
		}
		if m := c.take(); string(m.Payload) != "long" || m.Expiry != 40 {
			t.Errorf("got %+v", m)
		}
		c.silent()
		if n := r.b.Stats().Dropped[DropExpired]; n != 1 {
			t.Errorf("%d expired", n)
		}
	})
}

func TestMessageExpiryRetained(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		m := expiring("a", "x", 1, 10)
		m.Retain = true
		r.connect(mqtt.V5, "p").publishPacket(m)
		c := r.connect(mqtt.V5, "c")
		for left := uint32(10); left > 0; left -= 2 {
			c.subscribe(sub("a", 0))
			if m := c.take(); m.Expiry != left {
				t.Errorf("%d s left, want %d s", m.Expiry, left)
			}
			time.Sleep(2 * time.Second)
		}
		if r.b.RetainedMessage("a") != nil {
			t.Error("still to be seen")
		}
		c.subscribe(sub("a", 0))
		c.silent()
		if st := r.b.Stats(); st.Retained != 0 || st.RetainedBytes != 0 {
			t.Errorf("%d retained messages of %d bytes", st.Retained, st.RetainedBytes)
		}
	})
}

// granting lets everybody in for some time.
type granting time.Duration

func (g granting) Authenticate(context.Context, *ConnectRequest) (Grant, error) {
	return Grant{Expires: time.Now().Add(time.Duration(g))}, nil
}

func TestGrantExpires(t *testing.T) {
	bubble(t, Config{Authenticator: granting(time.Minute)}, func(r *rig) {
		r.connect(mqtt.V5, "c").endsAfter(time.Minute, mqtt.MaximumConnectTime)
		r.connect(mqtt.V311, "c").endsAfter(time.Minute, 0)
		c := r.connect(mqtt.V5, "c", keepAlive(30))
		time.Sleep(40 * time.Second)
		c.barrier()
		c.endsAfter(20*time.Second, mqtt.MaximumConnectTime)
		c = r.connect(mqtt.V5, "c", keepAlive(30))
		c.endsAfter(45*time.Second, mqtt.KeepAliveTimeout)
	})
}

// The publish rate pauses reading: nothing is lost, nobody is thrown out, others are not slowed down.
func TestPublishRate(t *testing.T) {
	bubble(t, Config{Limits: Limits{PublishRate: 10, PublishBurst: 5}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("#", 0))
		p := r.connect(mqtt.V5, "p", keepAlive(1))
		start := time.Now()
		go func() {
			for i := range 200 {
				m := post("a", fmt.Sprint(i)+strings.Repeat(" ", 400), 0)
				if _, err := p.nc.Write(m.Append(nil, mqtt.V5)); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		}()
		for i := range 200 {
			if m := c.take(); strings.TrimSpace(string(m.Payload)) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, m.Payload)
			}
		}
		if took := time.Since(start); took < 18*time.Second || took > 20*time.Second {
			t.Errorf("took %v, want about 19.5 s", took)
		}
		other := r.connect(mqtt.V5, "other")
		start = time.Now()
		other.publish("a", "quick", 1)
		if time.Since(start) > 0 {
			t.Errorf("another client waited for %v", time.Since(start))
		}
	})
}

// A client that is paused can be ended.
func TestPublishRateEnds(t *testing.T) {
	bubble(t, Config{Limits: Limits{PublishRate: 0.01}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		var many []byte
		for range 10 {
			many = append(many, publishBytes(post("a", "x", 0), mqtt.V5)...)
		}
		c.send(many)
		synctest.Wait()
		start := time.Now()
		r.b.Kick("c", mqtt.AdministrativeAction, false)
		c.wantEnd(mqtt.AdministrativeAction)
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// $SYS has the names that the users of Mosquitto know, retained, and keeps them up to date.
func TestSys(t *testing.T) {
	bubble(t, Config{SysInterval: 10 * time.Second, Version: "1.2.3"}, func(r *rig) {
		values := make(map[string]string)
		if _, err := r.b.Subscribe("$SYS/#", 0, func(m *mqtt.Message, _ bool) {
			values[m.Topic] = string(m.Payload)
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, name := range []string{
			"version", "uptime", "clients/connected", "clients/disconnected", "clients/total", "clients/maximum", "clients/expired",
			"bytes/received", "bytes/sent", "messages/received", "messages/stored", "publish/messages/received",
			"publish/messages/sent", "publish/messages/dropped", "publish/messages/dropped/slow", "publish/bytes/received",
			"retained messages/count", "store/messages/count", "store/messages/bytes", "subscriptions/count",
			"shared_subscriptions/count", "heap/current", "load/messages/received/1min", "load/connections/15min",
		} {
			if _, ok := values["$SYS/broker/"+name]; !ok {
				t.Errorf("no %s", name)
			}
		}
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("#", 0), sub("+/broker/uptime", 0), sub("$share/g/a", 0))
		r.connect(mqtt.V5, "d", lasting(60)).drop()
		for range 30 {
			c.send(publishBytes(post("x", "12345", 0), mqtt.V5))
			c.want("12345")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for name, want := range map[string]string{
			"version": "1.2.3", "uptime": "10 seconds", "clients/connected": "1", "clients/disconnected": "1", "clients/total": "2",
			"clients/maximum": "2", "publish/messages/received": "30", "publish/bytes/received": "150",
			"publish/messages/sent": "30", "shared_subscriptions/count": "1", "subscriptions/count": "4",
			"load/publish/received/1min": "30.00",
		} {
			if got := values["$SYS/broker/"+name]; got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if n, err := strconv.Atoi(values["$SYS/broker/heap/current"]); err != nil || n <= 0 {
			t.Errorf("heap: %q", values["$SYS/broker/heap/current"])
		}
		c.silent() // wildcards at the start do not match $SYS [MQTT-4.7.2-1]
		if code := c.publishPacket(post("$SYS/broker/uptime", "0", 1)); code != mqtt.NotAuthorized {
			t.Errorf("publish to $SYS: %v", code)
		}
	})
}

// Shutdown tells clients why, waits for those who read, and not for long for those who do not.
func TestShutdown(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		pub := r.connect(mqtt.V5, "pub")
		var stuck []*client
		for i := range 20 {
			c := r.connect(versions[i%3], fmt.Sprint("stuck", i))
			c.subscribe(sub("a", mqtt.QoS(i%3)))
			stuck = append(stuck, c)
		}
		unborn := r.open(mqtt.V5)
		for range 100 {
			pub.publish("a", strings.Repeat("x", 1000), 2)
		}
		told := make(chan mqtt.ReasonCode, 1)
		go func() {
			code, _ := pub.ended()
			told <- code
		}()
		start := time.Now()
		if err := r.b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > lastWords+100*time.Millisecond { // and a moment for what they had sent
			t.Errorf("took %v", took)
		}
		if code := <-told; code != mqtt.ServerShuttingDown {
			t.Errorf("the client is told %v", code)
		}
		for _, c := range append(stuck, unborn) {
			c.ended()
		}
		if err := r.b.Shutdown(context.Background()); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := r.b.Subscribe("a", 0, nil); err == nil {
			t.Error("subscribed after Shutdown")
		}
		if _, err := r.open(mqtt.V5).next(); err == nil {
			t.Error("connected after Shutdown")
		}
	})
}

// When its context is done, Shutdown cuts.
func TestShutdownCut(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		stuck := r.connect(mqtt.V5, "stuck")
		stuck.subscribe(sub("a", 0))
		r.connect(mqtt.V5, "pub").publish("a", "x", 0)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
		defer cancel()
		start := time.Now()
		if err := r.b.Shutdown(ctx); err != context.DeadlineExceeded || time.Since(start) != time.Second/2 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		synctest.Wait() // the cleanup of the rig finds nothing to wait for
	})
}

// Nothing happens after Shutdown: no Will, no expiry.
func TestShutdownStopsTimers(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		events := 0
		r.b.Observe(Events{Published: func(*ClientInfo, *mqtt.Message) { events++ }})
		will := mqtt.Will{Topic: "w", Props: mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 10)}
		r.connect(mqtt.V5, "c", lasting(20), leaving(will)).drop()
		if err := r.b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if events != 0 || r.b.Stats().ExpiredSessions != 0 {
			t.Errorf("%d events, %d expired", events, r.b.Stats().ExpiredSessions)
		}
	})
}
