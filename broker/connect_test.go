package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// A session is there again exactly when it was to be kept and is asked for [MQTT-3.1.2-4], [MQTT-3.1.2-5],
// [MQTT-3.2.2-2], [MQTT-3.2.2-3].
func TestSessionPresent(t *testing.T) {
	short, long := []option{fresh}, []option{fresh, lasting(60)}
	for _, tc := range []struct {
		name    string
		v       mqtt.Version
		before  []option
		again   option
		present bool
	}{
		{"5.0 short, resumed", mqtt.V5, short, resume, false},
		{"5.0 short, fresh", mqtt.V5, short, fresh, false},
		{"5.0 lasting, resumed", mqtt.V5, long, resume, true},
		{"5.0 lasting, fresh", mqtt.V5, long, fresh, false},
		{"3.1.1 clean, resumed", mqtt.V311, short, resume, false},
		{"3.1.1 kept, resumed", mqtt.V311, []option{resume}, resume, true},
		{"3.1.1 kept, fresh", mqtt.V311, []option{resume}, fresh, false},
	} {
		for _, takeover := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, takeover=%v", tc.name, takeover), func(t *testing.T) {
				both(t, Config{}, func(r *rig) {
					one := r.connect(tc.v, "c", tc.before...)
					one.subscribe(sub("a", 1))
					if !takeover {
						one.drop()
					}
					two := r.connect(tc.v, "c", tc.again)
					if two.connack.SessionPresent != tc.present {
						t.Errorf("session present = %v, want %v", two.connack.SessionPresent, tc.present)
					}
					if takeover {
						one.wantEnd(mqtt.SessionTakenOver)
					}
					if n := len(r.b.Subscriptions("c")); (n == 1) != tc.present {
						t.Errorf("%d subscriptions, present = %v", n, tc.present)
					}
					r.connect(mqtt.V5, "p").publish("a", "x", 0)
					if tc.present {
						two.want("x")
					}
					two.silent()
				})
			})
		}
	}
}

// MQTT 3.1 has no session present flag; the session is there all the same.
func TestSessionResumedV31(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V31, "c", resume)
		c.subscribe(sub("a", 1))
		c.leave()
		r.connect(mqtt.V5, "p").publish("a", "x", 1)
		r.connect(mqtt.V31, "c", resume).want("x")
	})
}

func TestClientIDs(t *testing.T) {
	bubble(t, Config{Limits: Limits{ClientIDBytes: 40}}, func(r *rig) {
		long := strings.Repeat("x", 41)
		for _, tc := range []struct {
			v    mqtt.Version
			id   string
			opt  option
			want mqtt.ReasonCode
		}{
			{mqtt.V5, "", fresh, mqtt.Success},
			{mqtt.V5, "", resume, mqtt.Success},
			{mqtt.V311, "", fresh, mqtt.Success},
			{mqtt.V311, "", resume, mqtt.ClientIdentifierNotValid}, // [v3.1.1 MQTT-3.1.3-8]
			{mqtt.V31, "", fresh, mqtt.ClientIdentifierNotValid},
			{mqtt.V31, long[:24], fresh, mqtt.Success},
			{mqtt.V5, long, fresh, mqtt.ClientIdentifierNotValid},
			{mqtt.V5, long[:40], fresh, mqtt.Success},
		} {
			c, code := r.try(tc.v, tc.id, tc.opt)
			if code != tc.want {
				t.Errorf("%v %q: %v, want %v", tc.v, tc.id, code, tc.want)
			}
			assigned := c.connack.Props.String(mqtt.AssignedClientIdentifier)
			if (tc.id == "" && tc.v == mqtt.V5) != (assigned != "") {
				t.Errorf("%v %q: assigned %q", tc.v, tc.id, assigned) // [MQTT-3.2.2-16]
			}
		}
	})
	bubble(t, Config{StrictClientIDs: true}, func(r *rig) {
		if _, code := r.try(mqtt.V31, strings.Repeat("x", 24)); code != mqtt.ClientIdentifierNotValid {
			t.Errorf("24 characters: %v", code)
		}
	})
}

// What the server decides about a connection stands in the CONNACK.
func TestConnackProperties(t *testing.T) {
	bubble(t, Config{
		ResponsePrefix: "answers/",
		Limits:         Limits{MaxKeepAlive: 90 * time.Second, SessionExpiry: time.Hour, ReceiveMaximum: 7, TopicAliases: 5, PacketSize: 4096},
	}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", keepAlive(100), lasting(0xFFFFFFFF), with(mqtt.RequestResponseInformation, 1))
		for id, want := range map[mqtt.Property]uint32{
			mqtt.ServerKeepAlive: 90, mqtt.SessionExpiryInterval: 3600, mqtt.ReceiveMaximum: 7,
			mqtt.TopicAliasMaximum: 5, mqtt.MaximumPacketSize: 4096,
		} {
			if got, _ := c.connack.Props.Int(id); got != want {
				t.Errorf("property 0x%02X is %d, want %d", byte(id), got, want)
			}
		}
		if got := c.connack.Props.String(mqtt.ResponseInformation); got != "answers/c" {
			t.Errorf("response information %q", got)
		}
		c = r.connect(mqtt.V5, "d", keepAlive(90), lasting(60))
		for _, id := range []mqtt.Property{mqtt.ServerKeepAlive, mqtt.SessionExpiryInterval} {
			if got, there := c.connack.Props.Int(id); there {
				t.Errorf("property 0x%02X is %d, though the client got what it asked for", byte(id), got)
			}
		}
		if c.connack.Props.String(mqtt.ResponseInformation) != "" {
			t.Error("response information that nobody asked for") // [MQTT-3.1.2-28]
		}
	})
}

// A granted Keep Alive fits its two bytes and is never none.
func TestMaxKeepAlive(t *testing.T) {
	for most, want := range map[time.Duration]uint32{24 * time.Hour: 65_535, 100 * time.Millisecond: 1, 90500 * time.Millisecond: 90} {
		bubble(t, Config{Limits: Limits{MaxKeepAlive: most}}, func(r *rig) {
			c := r.connect(mqtt.V5, "c", keepAlive(0))
			if got, _ := c.connack.Props.Int(mqtt.ServerKeepAlive); got != want {
				t.Errorf("most %v: %d s, want %d s", most, got, want)
			}
			if st, _ := r.b.Client("c"); st.KeepAlive != time.Duration(want)*time.Second {
				t.Errorf("enforced: %v", st.KeepAlive)
			}
		})
	}
}

// users lets everybody in as who he says he is.
type users struct{}

func (users) Authenticate(_ context.Context, r *ConnectRequest) (Grant, error) {
	return Grant{User: r.Username}, nil
}

// A session belongs to its user, away or connected, whatever Clean Start says.
func TestSessionOwner(t *testing.T) {
	both(t, Config{Authenticator: users{}}, func(r *rig) {
		mine := r.connect(mqtt.V5, "c", user("ann"), lasting(60))
		for range 2 {
			for _, start := range []option{fresh, resume} {
				if _, code := r.try(mqtt.V5, "c", user("bob"), start); code != mqtt.NotAuthorized {
					t.Errorf("another user: %v", code)
				}
			}
			if st, _ := r.b.Client("c"); st.User != "ann" {
				t.Errorf("the session is %q's", st.User)
			}
			if mine != nil {
				mine.barrier()
				mine.drop()
				mine = nil
			}
		}
		if c := r.connect(mqtt.V5, "c", user("ann"), resume); !c.connack.SessionPresent {
			t.Error("the session is lost")
		} else {
			c.leave()
		}
		if _, code := r.try(mqtt.V5, "c", user("bob")); code != mqtt.Success {
			t.Errorf("after the session has ended: %v", code)
		}
	})
}

// denying refuses everybody with one error.
type denying struct{ err error }

func (d denying) Authenticate(context.Context, *ConnectRequest) (Grant, error) { return Grant{}, d.err }

func TestRefusedConnect(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want mqtt.ReasonCode
	}{
		{mqtt.BadUserNameOrPassword, mqtt.BadUserNameOrPassword},
		{fmt.Errorf("%w: wrong password", mqtt.BadUserNameOrPassword), mqtt.BadUserNameOrPassword},
		{ErrNoOpinion, mqtt.NotAuthorized},
		{errors.New("database is down"), mqtt.NotAuthorized},
	} {
		bubble(t, Config{Authenticator: denying{tc.err}}, func(r *rig) {
			for _, v := range versions {
				c, code := r.try(v, "c", with(mqtt.RequestProblemInformation, 1))
				if code != tc.want {
					t.Errorf("%v: %v: %v, want %v", v, tc.err, code, tc.want)
				}
				if s := c.connack.Props.String(mqtt.ReasonString); s != "" {
					t.Errorf("the client is told %q", s)
				}
				if _, told := c.ended(); told {
					t.Error("DISCONNECT after a refusing CONNACK")
				}
			}
			if n := len(r.b.Clients()); n != 0 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// A listener may have an authenticator and limits of its own.
func TestListenerConfig(t *testing.T) {
	cfg := Config{
		Authenticator: denying{mqtt.Banned},
		Listeners:     map[string]ListenerConfig{"inside": {Authenticator: users{}, MaxConnections: 2, MaxPacketSize: 100}},
	}
	bubble(t, cfg, func(r *rig) {
		inside := func() *client {
			nc, server := net.Pipe()
			r.b.ServeConn(named{server, "inside"})
			r.Cleanup(func() { _ = nc.Close() })
			return &client{rig: r, nc: nc, v: mqtt.V5}
		}
		if _, code := r.try(mqtt.V5, "a"); code != mqtt.Banned {
			t.Errorf("the default listener: %v", code)
		}
		a, b := inside(), inside()
		a.login("a")
		b.login("b")
		if n, _ := a.connack.Props.Int(mqtt.MaximumPacketSize); n != 100 {
			t.Errorf("maximum packet size %d", n)
		}
		if _, err := inside().next(); err == nil {
			t.Error("a third connection")
		}
		if st, _ := r.b.Client("a"); st.Listener != "inside" {
			t.Errorf("listener %q", st.Listener)
		}
		b.leave()
		third := inside()
		third.login("c")
		p := post("t", strings.Repeat("x", 100), 0)
		third.send(p.Append(nil, mqtt.V5)[:10])
		third.wantEnd(mqtt.PacketTooLarge)
	})
}

// named is a connection that brings its listener's name.
type named struct {
	net.Conn
	listener string
}

func (n named) Info() transport.Info {
	return transport.Info{Listener: n.listener, Remote: n.RemoteAddr()}
}

func TestConnectionLimits(t *testing.T) {
	refused := func(r *rig) bool {
		_, err := r.open(mqtt.V5).next()
		return err != nil
	}
	for name, tc := range map[string]struct {
		limits Limits
		most   int  // connections that are let in
		login  bool // whether they have logged in
	}{
		"total":           {Limits{Connections: 3}, 3, true},
		"address":         {Limits{ConnectionsPerAddress: 2}, 2, true},
		"unauthenticated": {Limits{Unauthenticated: 4}, 4, false},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, Config{Limits: tc.limits}, func(r *rig) {
				var in []*client
				for i := range tc.most {
					c := r.open(mqtt.V5)
					if tc.login {
						c.login(fmt.Sprint("c", i))
					}
					in = append(in, c)
				}
				r.until("everybody to be counted", func() bool { return r.b.Stats().Connections == tc.most })
				if !refused(r) {
					t.Fatal("one too many")
				}
				if !tc.login { // who logs in makes room
					in[0].login("c")
				} else {
					in[0].leave()
				}
				r.until("room", func() bool { return r.b.Stats().Connections < tc.most || !tc.login })
				r.connect(mqtt.V5, "new")
			})
		})
	}
}

func TestAddressKey(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7:1883":           "192.0.2.7",
		"[::ffff:192.0.2.7]:1883":  "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::]:9":  "2001:db8:1:2::/64",
		"[fe80::1%eth0]:9":         "fe80::/64",
		"[::1]:9":                  "::1",
		"/run/magpie.sock":         "/run/magpie.sock",
	} {
		if got := addressKey(textAddr(addr)); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := addressKey(nowhere{}); got != "" {
		t.Errorf("no address: %q", got)
	}
}

// homeless is a connection without an address.
type homeless struct{ net.Conn }

func (homeless) RemoteAddr() net.Addr { return nil }

func TestNoAddress(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		nc, server := net.Pipe()
		defer nc.Close()
		r.b.ServeConn(homeless{server})
		c := &client{rig: r, nc: nc, v: mqtt.V5}
		c.login("c")
		if st, _ := r.b.Client("c"); st.Remote == nil || st.Remote.String() != "" {
			t.Errorf("remote %v", st.Remote)
		}
		c.leave()
	})
}

type textAddr string

func (textAddr) Network() string  { return "test" }
func (a textAddr) String() string { return string(a) }

func TestSessionLimit(t *testing.T) {
	bubble(t, Config{Limits: Limits{Sessions: 2}}, func(r *rig) {
		a := r.connect(mqtt.V5, "a", lasting(60))
		r.connect(mqtt.V311, "b", resume).leave()
		if _, code := r.try(mqtt.V5, "c"); code != mqtt.QuotaExceeded {
			t.Errorf("a third session: %v", code)
		}
		r.connect(mqtt.V5, "b", lasting(60)) // one that replaces another is no more
		a.disconnect(mqtt.Success, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0))
		r.connect(mqtt.V5, "c")
	})
}

func TestSubscriptionLimit(t *testing.T) {
	bubble(t, Config{Limits: Limits{Subscriptions: 2}}, func(r *rig) {
		for _, v := range versions {
			c := r.connect(v, "c")
			codes := c.trySubscribe(nil, sub("a", 0), sub("b", 1), sub("c", 2), sub("a", 2))
			third := mqtt.QuotaExceeded
			if v != mqtt.V5 {
				third = mqtt.UnspecifiedError
			}
			want := []mqtt.ReasonCode{0, 1, third, 2} // a replaced one is no more
			if fmt.Sprint(codes) != fmt.Sprint(want) {
				t.Errorf("%v: %v, want %v", v, codes, want)
			}
			c.unsubscribe("b")
			c.subscribe(sub("c", 2))
		}
	})
}

func TestBadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"small packets":  {Limits: Limits{PacketSize: 63}},
		"small CONNECTs": {Limits: Limits{ConnectSize: 2}},
		"small on one":   {Listeners: map[string]ListenerConfig{"a": {MaxPacketSize: -1}}},
		"two methods":    {Enhanced: []EnhancedAuthenticator{toy{}, toy{}}},
	} {
		if b, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
			_ = b.Shutdown(context.Background())
		}
	}
}

// Unlimited means none, wherever it may stand.
func TestUnlimited(t *testing.T) {
	var l Limits
	for _, field := range reflect.ValueOf(&l).Elem().Fields() {
		if field.CanInt() {
			field.SetInt(Unlimited)
		}
	}
	both(t, Config{Limits: l}, func(r *rig) {
		c := r.connect(mqtt.V5, strings.Repeat("x", 3000), keepAlive(0), lasting(0xFFFFFFFF))
		c.subscribe(sub("#", 2))
		for i := range 3 {
			c.send(publishBytes(post("a/b", fmt.Sprint(i), 0), mqtt.V5))
		}
		c.want("0", "1", "2")
		if n, _ := c.connack.Props.Int(mqtt.TopicAliasMaximum); n != 65_535 {
			t.Errorf("topic aliases: %d", n)
		}
		if _, there := c.connack.Props.Int(mqtt.MaximumPacketSize); there {
			t.Error("a maximum packet size")
		}
	})
}

func publishBytes(p mqtt.Publish, v mqtt.Version) []byte { return p.Append(nil, v) }

// Many connections race for one ClientID. One is left, nobody hangs, and everybody else hears why.
func TestTakeoverRace(t *testing.T) {
	for name, options := range map[string][]option{
		"resume": {resume, lasting(60)}, "fresh": {fresh, lasting(60)}, "short": {resume},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTCPRig(t, Config{})
			for round := range 20 {
				clients := make([]*client, 8)
				var wg sync.WaitGroup
				for i := range clients {
					clients[i] = r.open(mqtt.V5)
					wg.Go(func() { clients[i].login("c", append(options, keepAlive(uint16(round+1)))...) })
				}
				wg.Wait()
				r.until("one to be left", func() bool { return r.b.Stats().Connected == 1 })
				r.connect(mqtt.V5, "c", fresh)
				for _, c := range clients {
					c.wantEnd(mqtt.SessionTakenOver)
				}
			}
			if n := r.b.Stats().Sessions; n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// With Clean Start there is never a session, even when somebody else is faster by a hair [MQTT-3.2.2-2].
func TestCleanStartRace(t *testing.T) {
	r := newTCPRig(t, Config{})
	for range 100 {
		clean, other := r.open(mqtt.V5), r.open(mqtt.V5)
		var wg sync.WaitGroup
		wg.Go(func() { clean.login("c", fresh, lasting(60)) })
		wg.Go(func() { other.login("c", resume, lasting(60)) })
		wg.Wait()
		if clean.connack.SessionPresent {
			t.Fatal("session present after Clean Start")
		}
		r.b.Kick("c", mqtt.AdministrativeAction, true)
	}
}

// A takeover does not wait for a connection that cannot be written.
func TestTakeoverOfStuck(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		stuck := r.connect(mqtt.V5, "c", lasting(60))
		stuck.subscribe(sub("a", 1), sub("b", 0))
		pub := r.connect(mqtt.V5, "p")
		payload := strings.Repeat("x", 100_000)
		for range 50 { // more than any buffer between the two
			pub.publish("b", payload, 0)
		}
		pub.publish("a", "kept", 1)
		start := time.Now()
		c := r.connect(mqtt.V5, "c", resume)
		if r.addr == "" && time.Since(start) > 100*time.Millisecond { // in the bubble: a moment for what it had sent
			t.Errorf("took %v", time.Since(start))
		}
		if !c.connack.SessionPresent {
			t.Error("no session")
		}
		c.want("kept")
		c.silent()
	})
}

// A connection that is refused because of its session hears that and leaves nothing behind.
func TestKick(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		for _, v := range versions {
			c := r.connect(v, "c", resume)
			c.subscribe(sub("a", 0))
			if !r.b.Kick("c", mqtt.AdministrativeAction, v == mqtt.V5) {
				t.Error("not kicked")
			}
			c.wantEnd(mqtt.AdministrativeAction)
			c.gone()
			if _, kept := r.b.Client("c"); kept == (v == mqtt.V5) {
				t.Errorf("%v: session kept: %v", v, kept)
			}
		}
		if r.b.Kick("nobody", mqtt.AdministrativeAction, false) {
			t.Error("kicked nobody")
		}
	})
}

// A takeover, or the end of the server, may find a packet that has not come completely.
func TestEndInTheMiddleOfAPacket(t *testing.T) {
	packet := publishBytes(post("a", strings.Repeat("x", 300), 0), mqtt.V5)
	both(t, Config{}, func(r *rig) {
		for cut := 1; cut < len(packet); cut += 50 {
			c := r.connect(mqtt.V5, "c", lasting(60))
			c.barrier()
			c.send(packet[:cut])
			again := r.connect(mqtt.V5, "c", resume, lasting(60))
			c.wantEnd(mqtt.SessionTakenOver)
			again.send(packet[:cut])
			again.send(packet[cut:])
			again.barrier()
		}
		c := r.connect(mqtt.V5, "c", resume)
		c.send(packet[:100])
	})
}
