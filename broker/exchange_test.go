package broker

import (
	"context"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// toy is an Authentication Method: the client has to answer "marco" with "polo", then with the name of its user.
type toy struct {
	grant Grant
	users map[string]Grant
}

func (toy) Method() string { return "toy" }

func (y toy) Start(*ConnectRequest) (Exchange, error) { return &toyRun{toy: y}, nil }

type toyRun struct {
	toy
	step int
}

func (x *toyRun) Next(_ context.Context, data []byte) (reply []byte, done bool, err error) {
	x.step++
	switch {
	case x.step == 1 && len(data) == 0:
		return []byte("marco"), false, nil
	case x.step == 2 && string(data) == "polo":
		return []byte("who?"), false, nil
	case x.step == 3:
		g, known := x.users[string(data)]
		if !known {
			return nil, false, mqtt.BadUserNameOrPassword
		}
		x.grant = g
		return []byte("hello " + g.User), true, nil
	}
	return nil, false, mqtt.NotAuthorized
}

func (x *toyRun) Grant() Grant { return x.grant }

// toyUsers are the users of the toy.
func toyUsers() toy {
	return toy{users: map[string]Grant{
		"ann":      {User: "ann"},
		"ann-less": {User: "ann", Access: rules{"write x": mqtt.NotAuthorized}},
		"ann-soon": {User: "ann", Expires: time.Now().Add(time.Minute)},
		"bob":      {User: "bob"},
	}}
}

// auth sends an AUTH of the toy.
func (c *client) auth(code mqtt.ReasonCode, method, data string) {
	c.Helper()
	a := mqtt.Auth{Code: code}
	if method != "" {
		a.Props = a.Props.WithString(mqtt.AuthenticationMethod, method)
	}
	if data != "" {
		a.Props = a.Props.WithString(mqtt.AuthenticationData, data)
	}
	c.send(a.Append(nil))
}

// wantAuth reads an AUTH of the toy.
func (c *client) wantAuth(code mqtt.ReasonCode, data string) {
	c.Helper()
	a := expect[mqtt.Auth](c)
	if got := a.Props.String(mqtt.AuthenticationData); a.Code != code || got != data || a.Props.String(mqtt.AuthenticationMethod) != "toy" {
		c.Fatalf("AUTH %v %q %q", a.Code, a.Props.String(mqtt.AuthenticationMethod), got)
	}
}

// begin sends a CONNECT that names a method.
func (c *client) begin(method string) {
	c.Helper()
	p := mqtt.Connect{Version: mqtt.V5, ClientID: "c", Props: mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, method)}
	c.id = "c"
	c.send(p.Append(nil))
}

// loginToy goes through the whole exchange.
func (r *rig) loginToy(name string) *client {
	r.Helper()
	c := r.open(mqtt.V5)
	c.begin("toy")
	c.wantAuth(mqtt.ContinueAuthentication, "marco")
	c.auth(mqtt.ContinueAuthentication, "toy", "polo")
	c.wantAuth(mqtt.ContinueAuthentication, "who?")
	c.auth(mqtt.ContinueAuthentication, "toy", name)
	c.connack = expect[mqtt.Connack](c)
	return c
}

// toyRig is a rig with the toy, and an authenticator that lets nobody in without it.
func toyRig(t *testing.T, test func(*rig)) {
	t.Helper()
	bubble(t, Config{Enhanced: []EnhancedAuthenticator{toyUsers()}, Authenticator: denying{mqtt.NotAuthorized}}, test)
}

func TestExchange(t *testing.T) {
	toyRig(t, func(r *rig) {
		c := r.loginToy("ann")
		if c.connack.Code != mqtt.Success || c.connack.Props.String(mqtt.AuthenticationMethod) != "toy" ||
			c.connack.Props.String(mqtt.AuthenticationData) != "hello ann" {
			t.Errorf("CONNACK %+v", c.connack)
		}
		if st, _ := r.b.Client("c"); st.User != "ann" {
			t.Errorf("user %q", st.User)
		}
		if bob := r.loginToy("bob"); bob.connack.Code != mqtt.NotAuthorized {
			t.Errorf("the session of another user: %v", bob.connack.Code)
		}
		if x := r.loginToy("mallory"); x.connack.Code != mqtt.BadUserNameOrPassword {
			t.Errorf("unknown user: %v", x.connack.Code)
		}
		c.barrier()
	})
}

func TestExchangeRefused(t *testing.T) {
	type step func(*client)
	sends := func(code mqtt.ReasonCode, method, data string) step {
		return func(c *client) { c.auth(code, method, data) }
	}
	for name, tc := range map[string]struct {
		method string
		step   step // after "marco"; nil when there is none
		want   mqtt.ReasonCode
	}{
		"unknown method": {"other", nil, mqtt.BadAuthenticationMethod},
		"wrong answer":   {"toy", sends(mqtt.ContinueAuthentication, "toy", "prolo"), mqtt.NotAuthorized},
		"another method": {"toy", sends(mqtt.ContinueAuthentication, "tox", "polo"), mqtt.ProtocolError},
		"no method":      {"toy", sends(mqtt.ContinueAuthentication, "", ""), mqtt.ProtocolError},
		"wrong code":     {"toy", sends(mqtt.ReAuthenticate, "toy", "polo"), mqtt.ProtocolError},
	} {
		toyRig(t, func(r *rig) {
			c := r.open(mqtt.V5)
			c.begin(tc.method)
			if tc.step != nil {
				c.wantAuth(mqtt.ContinueAuthentication, "marco")
				tc.step(c)
			}
			if ack := expect[mqtt.Connack](c); ack.Code != tc.want {
				t.Errorf("%s: %v, want %v", name, ack.Code, tc.want)
			}
			c.ended()
			if n := len(r.b.Clients()); n != 0 {
				t.Errorf("%s: %d sessions", name, n)
			}
		})
	}
}

// Nothing but AUTH and DISCONNECT may come in the middle of an exchange, and it has to end in time.
func TestExchangeInterrupted(t *testing.T) {
	toyRig(t, func(r *rig) {
		for _, packet := range [][]byte{
			mqtt.AppendPingreq(nil), publishBytes(post("a", "x", 0), mqtt.V5), (&mqtt.Disconnect{}).Append(nil, mqtt.V5),
			(&mqtt.Connect{Version: mqtt.V5, ClientID: "c"}).Append(nil),
		} {
			c := r.open(mqtt.V5)
			c.begin("toy")
			c.wantAuth(mqtt.ContinueAuthentication, "marco")
			c.send(packet)
			if p, err := c.next(); err == nil {
				t.Errorf("%x is answered with %T", packet, p)
			}
		}
		c := r.open(mqtt.V5)
		c.begin("toy")
		c.wantAuth(mqtt.ContinueAuthentication, "marco")
		start := time.Now()
		if _, err := c.next(); err == nil || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestReauthenticate(t *testing.T) {
	again := func(c *client, name string) {
		c.Helper()
		c.auth(mqtt.ReAuthenticate, "toy", "")
		c.wantAuth(mqtt.ContinueAuthentication, "marco")
		c.publish("free", "meanwhile", 1) // the connection works on
		c.auth(mqtt.ContinueAuthentication, "toy", "polo")
		c.wantAuth(mqtt.ContinueAuthentication, "who?")
		c.auth(mqtt.ContinueAuthentication, "toy", name)
	}
	toyRig(t, func(r *rig) {
		c := r.loginToy("ann")
		if code := c.publishPacket(post("x", "", 1)); code.Failed() {
			t.Errorf("before: %v", code)
		}
		again(c, "ann-soon")
		c.wantAuth(mqtt.Success, "hello ann")
		time.Sleep(30 * time.Second)
		again(c, "ann")
		c.wantAuth(mqtt.Success, "hello ann")
		time.Sleep(time.Hour) // the new grant does not end
		c.barrier()
		again(c, "ann-soon")
		c.wantAuth(mqtt.Success, "hello ann")
		c.ended()
	})
	toyRig(t, func(r *rig) {
		for name, want := range map[string]mqtt.ReasonCode{"bob": mqtt.NotAuthorized, "mallory": mqtt.NotAuthorized} {
			c := r.loginToy("ann")
			again(c, name)
			c.wantEnd(want) // [MQTT-4.12.1-2]
		}
		c := r.loginToy("ann")
		c.auth(mqtt.ContinueAuthentication, "toy", "polo")
		c.wantEnd(mqtt.ProtocolError)
		c = r.loginToy("ann")
		c.auth(mqtt.ReAuthenticate, "tox", "")
		c.wantEnd(mqtt.ProtocolError)
	})
}

// A new grant holds for names that the client has published to before.
func TestReauthenticateRules(t *testing.T) {
	toyRig(t, func(r *rig) {
		c := r.loginToy("ann")
		c.publish("free", "", 1)
		if code := c.publishPacket(post("x", "", 1)); code.Failed() {
			t.Errorf("before: %v", code)
		}
		c.auth(mqtt.ReAuthenticate, "toy", "")
		c.wantAuth(mqtt.ContinueAuthentication, "marco")
		c.auth(mqtt.ContinueAuthentication, "toy", "polo")
		c.wantAuth(mqtt.ContinueAuthentication, "who?")
		c.auth(mqtt.ContinueAuthentication, "toy", "ann-less")
		c.wantAuth(mqtt.Success, "hello ann")
		for range 2 {
			if code := c.publishPacket(post("x", "", 1)); code != mqtt.NotAuthorized {
				t.Errorf("after: %v", code)
			}
		}
	})
}

// AUTH has no place where no method was named [MQTT-4.12.0-6], nor before MQTT 5.0.
func TestAuthWithoutMethod(t *testing.T) {
	bubble(t, Config{Enhanced: []EnhancedAuthenticator{toyUsers()}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.auth(mqtt.ReAuthenticate, "toy", "")
		c.wantEnd(mqtt.ProtocolError)
		c = r.connect(mqtt.V311, "c")
		c.auth(mqtt.ReAuthenticate, "toy", "")
		c.wantEnd(0)
		c = r.open(mqtt.V5)
		c.auth(mqtt.ContinueAuthentication, "toy", "")
		if p, err := c.next(); err == nil {
			t.Errorf("AUTH before CONNECT is answered with %T", p)
		}
	})
}
