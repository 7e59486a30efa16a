package broker_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// paper is what was written down, in logs and by observers.
type paper struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// has reports whether a text, plain or in a usual disguise, is on the paper.
func (p *paper) has(secret string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.text.String()
	for _, form := range []string{
		secret, hex.EncodeToString([]byte(secret)), strings.Trim(fmt.Sprint([]byte(secret)), "[]"), base64.StdEncoding.EncodeToString([]byte(secret))[:len(secret)],
	} {
		if strings.Contains(all, form) {
			return true
		}
	}
	return false
}

// note writes down all that an event tells, pointers followed.
func (p *paper) note(what string, r *broker.ConnectRequest, reason error) {
	if r != nil && r.Password != nil {
		fmt.Fprintf(p, "%s: the request has a password: %s\n", what, r.Password)
	}
	if r != nil {
		fmt.Fprintf(p, "%s: %+v\n", what, *r)
	}
	fmt.Fprintf(p, "%s: %v\n", what, reason)
}

func (p *paper) events() broker.Events {
	return broker.Events{
		Connected:    func(c *broker.ClientInfo) { fmt.Fprintf(p, "connected: %+v\n", *c) },
		Disconnected: func(c *broker.ClientInfo, err error) { fmt.Fprintf(p, "disconnected: %+v %v\n", *c, err) },
		Refused:      func(r *broker.ConnectRequest, err error) { p.note("refused", r, err) },
	}
}

// secretMethod wants a token and never gets the right one.
type secretMethod struct{}

func (secretMethod) Method() string                                          { return "token" }
func (m secretMethod) Start(*broker.ConnectRequest) (broker.Exchange, error) { return m, nil }
func (secretMethod) Grant() broker.Grant                                     { return broker.Grant{} }
func (secretMethod) Next(context.Context, []byte) (reply []byte, done bool, err error) {
	return nil, false, mqtt.NotAuthorized
}

// TestA21SecretsStayOut: clients bring passwords and tokens, right and wrong, in packets that are accepted, refused, cut or
// broken in every place. With everything logged that can be, to slog in both formats and to observers, no password and
// no Authentication Data appears anywhere.
func TestA21SecretsStayOut(t *testing.T) {
	const right, wrong, token = "the-right-s3cret-of-alice", "a-wr0ng-guess-at-night", "t0ken-of-the-exchange"
	path := filepath.Join(t.TempDir(), "passwords")
	for user, password := range map[string]string{"alice": right, bystanderUser: bystanderPassword} {
		if err := auth.SetPassword(path, user, password, auth.PasswordOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	file, err := auth.OpenPasswords(path, auth.PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p := &paper{}
	everything := &slog.HandlerOptions{Level: slog.LevelDebug - 100, AddSource: true}
	a := newArena(t, broker.Config{
		Authenticator: auth.Chain{file}, Enhanced: []broker.EnhancedAuthenticator{secretMethod{}},
		Logger: slog.New(slog.NewMultiHandler(slog.NewTextHandler(p, everything), slog.NewJSONHandler(p, everything))),
		Events: p.events(), Limits: broker.Limits{ClientIDBytes: 100},
	})
	for _, v := range attackVersions {
		for _, password := range []string{right, wrong} {
			a.showPassword(v, password)
		}
	}
	c := hello(mqtt.V5, "a21")
	c.Props = c.Props.WithString(mqtt.AuthenticationMethod, "token").WithString(mqtt.AuthenticationData, token)
	a.try(c)
	for _, secret := range []string{right, wrong, token, bystanderPassword} {
		if p.has(secret) {
			t.Errorf("%q is written down", secret)
		}
	}
	for _, needed := range []string{"alice", "a21", "msg=\"connection refused\"", `"msg":"client disconnected"`, "refused: ", "disconnected: "} {
		if !p.has(needed) {
			t.Errorf("%q is not written down: does this test see anything?", needed)
		}
	}
}

// showPassword connects with a password in packets that end in different ways.
func (a *arena) showPassword(v mqtt.Version, password string) {
	a.Helper()
	base := hello(v, "a21")
	base.Username, base.Password = "alice", []byte(password)
	will, long, swapped := base, base, base
	will.Will = &mqtt.Will{Topic: "$SYS/x", Payload: []byte("gone")}
	long.ClientID = strings.Repeat("x", 200)
	swapped.Username = "bob"
	for _, c := range []mqtt.Connect{base, will, long, swapped} {
		f := a.open(v)
		f.connect(c)
		f.throw(c.Append(nil)) // again, when it was let in
		f.end()
	}
	for _, spoil := range []func([]byte) []byte{
		func(b []byte) []byte { return append(b[:len(b)-1], 0xFF) },
		func(b []byte) []byte { b[1]--; return b[:len(b)-1] },
		func(b []byte) []byte { b[1]++; return append(b, 'x') },
		func(b []byte) []byte { b[9] |= 1; return b },
		func(b []byte) []byte { b[8] = 9; return b },
		func(b []byte) []byte { return append(b, b...) },
		func(b []byte) []byte { return b[:len(b)-5] },
	} {
		f := a.open(v)
		f.throw(spoil(base.Append(nil)))
		f.shut()
	}
}

// TestA21ClosedByDefault: with an authenticator that has no opinion, an authorizer that has none, or one that fails,
// nothing is open.
func TestA21ClosedByDefault(t *testing.T) {
	silent := attackListen(t, plainNamed("silent"))
	a := newArena(t, broker.Config{
		Listeners:  map[string]broker.ListenerConfig{"silent": {Authenticator: auth.Chain{}}},
		Authorizer: guarded{"nobody's", auth.DenyAll{}},
	}, silent)
	a.addr = silent.Addr().String()
	for _, v := range attackVersions {
		if _, ack := a.try(hello(v, "a21")); ack.Code != mqtt.BadUserNameOrPassword {
			t.Errorf("MQTT %s: a chain of nobody: CONNACK 0x%02X", v, byte(ack.Code))
		}
	}
	for what, z := range map[string]broker.Authorizer{
		"no opinion": noOpinion{}, "an empty list": auth.Authorizers{}, "a fault": broken{}, "deny": auth.DenyAll{},
	} {
		ln := attackListen(t, plainNamed("guarded"))
		t.Run(what, func(t *testing.T) {
			a := newArena(t, broker.Config{Authorizer: guarded{"guarded", z}}, ln)
			a.addr = ln.Addr().String()
			if code := a.login(mqtt.V5, "a21").publish("a21/x", "x", mqtt.AtLeastOnce, true); !code.Failed() {
				t.Errorf("PUBLISH: 0x%02X", byte(code))
			}
			f := a.login(mqtt.V5, "a21")
			f.throw((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "#"}}}).Append(nil, mqtt.V5))
			if p, err := f.read(); err == nil && p.Type == mqtt.SUBACK && p.Body[3] < 0x80 {
				t.Errorf("SUBSCRIBE: % x", p.Body)
			}
			if n := a.broker.Stats().Retained; n != 0 {
				t.Errorf("%d messages are retained", n)
			}
		})
	}
}

type noOpinion struct{}

func (noOpinion) Authorize(*broker.ClientInfo, broker.Action, string) error {
	return broker.ErrNoOpinion
}

type broken struct{}

func (broken) Authorize(*broker.ClientInfo, broker.Action, string) error {
	return fmt.Errorf("out of order")
}
