package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// userList lets in users with their passwords, and the bystander.
type userList map[string]string

func (u userList) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	want, ok := u[r.Username]
	if r.Username == bystanderUser {
		want, ok = bystanderPassword, true
	}
	if !ok || string(r.Password) != want {
		return broker.Grant{}, mqtt.BadUserNameOrPassword
	}
	return broker.Grant{User: r.Username}, nil
}

// helloAs is a CONNECT of a user of userList whose password is the name backwards.
func helloAs(v mqtt.Version, id, user string) mqtt.Connect {
	c := hello(v, id)
	c.Username, c.Password = user, backwards(user)
	return c
}

func backwards(s string) []byte {
	b := []byte(s)
	slices.Reverse(b)
	return b
}

func users(names ...string) userList {
	u := userList{}
	for _, name := range names {
		u[name] = string(backwards(name))
	}
	return u
}

// TestA09SessionHijack: another user, with good credentials of his own, brings the victim's Client Identifier, with and
// without Clean Start, while the victim is connected and while he is away, once and fifty times at once. He is refused;
// the victim keeps connection, subscriptions and messages, and nobody else ever sees those.
func TestA09SessionHijack(t *testing.T) {
	a := newArena(t, broker.Config{Authenticator: users("victim", "thief")})
	mine := helloAs(mqtt.V5, "a9", "victim")
	mine.CleanStart, mine.Props = false, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 1000)
	victim := a.loginAs(mine)
	victim.subscribe("a9/secret", mqtt.AtLeastOnce, 1)
	pub := a.login(mqtt.V5, "writer")

	a.hijack("a9")
	victim.silent("while others tried to take over")
	pub.publish("a9/secret", "one", mqtt.AtLeastOnce, false)
	victim.message(true)

	victim.shut()
	a.away("a9")
	pub.publish("a9/secret", "two", mqtt.AtLeastOnce, false)
	a.hijack("a9")
	if subs := a.broker.Subscriptions("a9"); len(subs) != 1 {
		t.Errorf("the victim's subscriptions are now %v", subs)
	}
	victim, ack := a.try(mine)
	if ack.Code != mqtt.Success || !ack.SessionPresent {
		t.Fatalf("the victim comes back: %v, session present %t", ack.Code, ack.SessionPresent)
	}
	if m := victim.message(true); string(m.Payload) != "two" {
		t.Errorf("the victim got %q", m.Payload)
	}
}

// hijack tries to get a session in every way; the thief must never get in.
func (a *arena) hijack(id string) {
	a.Helper()
	for _, v := range attackVersions {
		for _, clean := range []bool{false, true} {
			c := helloAs(v, id, "thief")
			c.CleanStart = clean
			if v == mqtt.V5 {
				c.Props = c.Props.WithInt(mqtt.SessionExpiryInterval, 0xFFFFFFFF)
			}
			if _, ack := a.try(c); ack.Code != mqtt.NotAuthorized {
				a.Errorf("MQTT %s, clean %t: CONNACK 0x%02X", v, clean, byte(ack.Code))
			}
		}
	}
	var many sync.WaitGroup
	for i := range 50 {
		c := helloAs(attackVersions[i%3], id, "thief")
		c.CleanStart = i%2 == 0
		f := a.open(c.Version)
		many.Go(func() {
			f.throw(c.Append(nil))
			if p, err := f.read(); err != nil || p.Type != mqtt.CONNACK || p.Body[1] == 0 {
				a.Errorf("one of fifty: %s %v", p.Type, err)
			}
		})
	}
	many.Wait()
}

// permissions is an Authorizer whose mind can be changed. It says that it covers what it does not deny a part of.
type permissions struct {
	mu   sync.Mutex
	deny map[broker.Action][]string // filters
}

func (p *permissions) forbid(b *broker.Broker, act broker.Action, filter string) {
	p.mu.Lock()
	if p.deny == nil {
		p.deny = make(map[broker.Action][]string)
	}
	p.deny[act] = append(p.deny[act], filter)
	p.mu.Unlock()
	b.Reauthorize()
}

func (p *permissions) Authorize(_ *broker.ClientInfo, act broker.Action, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, filter := range p.deny[act] {
		if filter == name || act != broker.Subscribe && topic.Match(filter, name) {
			return mqtt.NotAuthorized
		}
	}
	return nil
}

func (p *permissions) CoversRead(_ *broker.ClientInfo, filter string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.deny[broker.Read], func(denied string) bool {
		return denied == filter || topic.Covers(filter, denied)
	})
}

// TestA10PermissionRemoved: a permission is taken away from a client that uses it: subscribed, with messages in flight,
// queued or retained ones on the way, with a Will, with a Topic Alias and a decision remembered. From then on nothing more
// goes either way.
func TestA10PermissionRemoved(t *testing.T) {
	keep := func(id string) mqtt.Connect {
		c := hello(mqtt.V5, id)
		c.CleanStart, c.Props = false, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 1000).WithInt(mqtt.ReceiveMaximum, 1)
		return c
	}
	for name, attack := range map[string]func(a *arena, p *permissions, pub *foe){
		"subscribed, a part": func(a *arena, p *permissions, pub *foe) {
			f := a.login(mqtt.V5, "a10")
			f.subscribe("a10/#", mqtt.AtLeastOnce, 1)
			pub.publish("a10/secret", "before", mqtt.AtLeastOnce, false)
			f.message(true)
			p.forbid(a.broker, broker.Read, "a10/secret")
			pub.publish("a10/secret", "after", mqtt.AtLeastOnce, false)
			pub.publish("a10/secret", "after", mqtt.AtMostOnce, false)
			pub.publish("a10/open", "after", mqtt.AtLeastOnce, false)
			if m := f.message(true); string(m.Topic) != "a10/open" {
				a.Errorf("received %s", m.Topic)
			}
			f.silent("anything else")
		},
		"subscribed, all": func(a *arena, p *permissions, pub *foe) {
			f := a.login(mqtt.V311, "a10")
			f.subscribe("a10/#", mqtt.AtLeastOnce, 1)
			f.subscribe("$share/g/a10/#", mqtt.AtLeastOnce, 1)
			p.forbid(a.broker, broker.Subscribe, "a10/#")
			pub.publish("a10/secret", "after", mqtt.AtLeastOnce, false)
			f.silent("a message for a subscription that ended")
			if subs := a.broker.Subscriptions("a10"); len(subs) != 0 {
				a.Errorf("subscriptions left: %v", subs)
			}
			f.subscribe("a10/#", mqtt.AtLeastOnce, mqtt.UnspecifiedError)
		},
		"in flight and queued": func(a *arena, p *permissions, pub *foe) {
			f := a.loginAs(keep("a10"))
			f.subscribe("a10/#", mqtt.AtLeastOnce, 1)
			for range 5 {
				pub.publish("a10/secret", "before", mqtt.AtLeastOnce, false)
			}
			f.message(false)
			p.forbid(a.broker, broker.Read, "a10/secret")
			f.throw((&mqtt.Ack{Type: mqtt.PUBACK, PacketID: 1}).Append(nil, mqtt.V5))
			f.silent("a message that had waited")
		},
		"in flight, then away": func(a *arena, p *permissions, pub *foe) {
			f := a.loginAs(keep("a10"))
			f.subscribe("a10/#", mqtt.ExactlyOnce, 2)
			pub.publish("a10/secret", "before", mqtt.AtLeastOnce, false)
			pub.publish("a10/secret", "before", mqtt.ExactlyOnce, false)
			f.message(false)
			f.shut()
			a.away("a10")
			pub.publish("a10/secret", "away", mqtt.AtLeastOnce, false)
			p.forbid(a.broker, broker.Read, "a10/secret")
			f, ack := a.try(keep("a10"))
			if !ack.SessionPresent {
				a.Error("the session is gone")
			}
			f.silent("a message from before")
		},
		"retained": func(a *arena, p *permissions, pub *foe) {
			for i := range 10 {
				pub.publish(fmt.Sprint("a10/secret/", i), "kept", mqtt.AtLeastOnce, true)
			}
			c := keep("a10")
			f := a.loginAs(c)
			f.subscribe("a10/#", mqtt.AtLeastOnce, 1)
			m := f.message(false) // the walk stands after the first
			p.forbid(a.broker, broker.Read, "a10/secret/#")
			f.throw((&mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}).Append(nil, mqtt.V5))
			f.silent("a retained message of the walk")
			f.subscribe("a10/#", mqtt.AtMostOnce, 0)
			f.silent("a retained message for a new subscription")
		},
		"will": func(a *arena, p *permissions, _ *foe) {
			reader := a.login(mqtt.V5, "reader")
			reader.subscribe("a10/will", mqtt.AtMostOnce, 0)
			now, later := hello(mqtt.V311, "a10-now"), keep("a10-later")
			now.Will = &mqtt.Will{Topic: "a10/will", Payload: []byte("gone"), Retain: true}
			later.Will = &mqtt.Will{Topic: "a10/will", Payload: []byte("gone"), Props: mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 900)}
			first, second := a.loginAs(now), a.loginAs(later)
			second.shut()
			a.away("a10-later")
			p.forbid(a.broker, broker.Write, "a10/will")
			first.shut()
			a.away("a10-now")
			a.broker.Kick("a10-later", mqtt.AdministrativeAction, true) // its session ends, and with that the delay
			reader.silent("a Will")
			if a.broker.RetainedMessage("a10/will") != nil {
				a.Error("a Will is retained")
			}
		},
		"publishing": func(a *arena, p *permissions, pub *foe) {
			reader := a.login(mqtt.V5, "reader")
			reader.subscribe("a10/#", mqtt.AtMostOnce, 0)
			pub.publishPacket(mqtt.Publish{Topic: []byte("a10/x"), HasAlias: true, Alias: 1, QoS: 1})
			reader.message(false)
			p.forbid(a.broker, broker.Write, "a10/#")
			for _, packet := range []mqtt.Publish{{QoS: 1, Topic: []byte("a10/x")}, {QoS: 2, HasAlias: true, Alias: 1, Retain: true}} {
				packet.Payload = []byte("after")
				if code := pub.publishPacket(packet); code != mqtt.NotAuthorized {
					a.Errorf("PUBLISH after the permission was removed: 0x%02X", byte(code))
				}
			}
			pub.publishPacket(mqtt.Publish{HasAlias: true, Alias: 1, Payload: []byte("after")})
			pub.alive("after a refused QoS 0 message")
			reader.silent("a message that was refused")
			if a.broker.RetainedMessage("a10/x") != nil {
				a.Error("a refused message is retained")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &permissions{}
			a := newArena(t, broker.Config{Authorizer: p})
			attack(a, p, a.login(mqtt.V5, "writer"))
		})
	}
}

// badgeMethod grants what the client's data says: "all", or nothing.
type badgeMethod struct{ *badge }

type badge struct{ all bool }

func (badgeMethod) Method() string { return "badge" }
func (badgeMethod) Start(*broker.ConnectRequest) (broker.Exchange, error) {
	return badgeMethod{new(badge)}, nil
}
func (m badgeMethod) Next(_ context.Context, data []byte) (reply []byte, done bool, err error) {
	m.all = string(data) == "all"
	return nil, true, nil
}
func (m badgeMethod) Grant() broker.Grant { return broker.Grant{User: "wearer", Access: m.badge} }

func (b *badge) Authorize(*broker.ClientInfo, broker.Action, string) error {
	if b.all {
		return nil
	}
	return mqtt.NotAuthorized
}

func (b *badge) CoversRead(*broker.ClientInfo, string) bool { return b.all }

// TestA10Reauthentication: a client authenticates again and is granted less. What it was allowed before, remembered or
// promised to its Will, does not live on.
func TestA10Reauthentication(t *testing.T) {
	a := newArena(t, broker.Config{Enhanced: []broker.EnhancedAuthenticator{badgeMethod{}}})
	reader, pub := a.login(mqtt.V5, "reader"), a.login(mqtt.V5, "writer")
	reader.subscribe("a10/up", mqtt.AtMostOnce, 0)
	c := mqtt.Connect{Version: mqtt.V5, ClientID: "a10", CleanStart: true}
	props := mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, "badge")
	c.Props = slices.Concat(props, mqtt.Properties(nil).WithString(mqtt.AuthenticationData, "all"))
	c.Will = &mqtt.Will{Topic: "a10/up", Payload: []byte("gone")}
	f := a.loginAs(c)
	f.subscribe("a10/down", mqtt.AtLeastOnce, 1)
	f.publish("a10/up", "before", mqtt.AtLeastOnce, false)
	reader.message(false)

	again := mqtt.Auth{Code: mqtt.ReAuthenticate, Props: slices.Concat(props, mqtt.Properties(nil).WithString(mqtt.AuthenticationData, "less"))}
	f.throw(again.Append(nil))
	f.expect(mqtt.AUTH)
	if code := f.publish("a10/up", "after", mqtt.AtLeastOnce, false); code != mqtt.NotAuthorized {
		t.Errorf("PUBLISH after less was granted: 0x%02X", byte(code))
	}
	pub.publish("a10/down", "after", mqtt.AtLeastOnce, false)
	f.silent("a message that it may not read any more")
	f.shut()
	a.away("a10")
	reader.silent("a Will that it may not publish any more")
}

// guarded asks the inner authorizer about the clients of one listener, and lets all others do what they want.
type guarded struct {
	listener string
	inner    broker.Authorizer
}

func (g guarded) Authorize(c *broker.ClientInfo, act broker.Action, name string) error {
	if c.Listener != g.listener {
		return nil
	}
	return g.inner.Authorize(c, act, name)
}

// TestA11NamesInPatterns: clients whose Client Identifier or user name is made of wildcards, slashes and dollars, in
// front of an access list with %c and %u. Their names are names and never a part of a filter: they get nothing of the
// victim's, whatever they subscribe to, and publish nothing for him.
func TestA11NamesInPatterns(t *testing.T) {
	acl, err := auth.ParseACL("test.acl", []byte("pattern readwrite dev/%c/#\npattern readwrite user/%u/#\npattern read %u/+/x\n"))
	if err != nil {
		t.Fatal(err)
	}
	hostile := []string{"+", "#", "+/#", "victim/#", "victim/", "/victim", "victim/x", "vic+im", "$SYS", "$share/g/victim", "%c", "%u", "/", "../victim"}
	ln := attackListen(t, plainNamed("guarded"))
	a := newArena(t, broker.Config{
		Authenticator: users(append(hostile, "victim", "plain", "")...), Authorizer: guarded{"guarded", acl},
	}, ln)
	a.addr = ln.Addr().String()
	victim := a.loginAs(helloAs(mqtt.V5, "victim", "victim"))
	for _, name := range hostile {
		for _, c := range []mqtt.Connect{helloAs(mqtt.V5, name, "plain"), helloAs(mqtt.V5, "plain", name), helloAs(mqtt.V5, name, name)} {
			f, ack := a.try(c)
			if ack.Code != mqtt.Success {
				t.Fatalf("%q: %v", name, ack.Code)
			}
			a.spy(f, victim, name)
			f.shut()
			a.away(c.ClientID)
		}
	}
}

// spy lets f subscribe to everything that could be the victim's, and publish there.
func (a *arena) spy(f, victim *foe, name string) {
	a.Helper()
	for _, filter := range []string{
		"#", "+/+/+", "+/+/#", "dev/#", "dev/+/#", "dev/victim/#", "user/#", "user/+/x", "user/victim/x", "$share/g/dev/#", "$SYS/#",
		"dev/" + name + "/#", "dev/" + name, "user/" + name + "/#", "user/" + name, name, name + "/+/x",
	} {
		s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: mqtt.AtLeastOnce}}}
		f.throw(s.Append(nil, f.version)) // granted or not: what counts is what comes
		f.expect(mqtt.SUBACK)
	}
	for _, topic := range []string{"dev/victim/x", "user/victim/x"} {
		if code := victim.publish(topic, "secret", mqtt.AtLeastOnce, true); code.Failed() {
			a.Fatalf("the victim's own message to %s: %v", topic, code)
		}
		if code := f.publish(topic, "forged", mqtt.AtLeastOnce, true); code != mqtt.NotAuthorized {
			a.Errorf("%q publishes to %s: 0x%02X", name, topic, byte(code))
		}
		victim.publish(topic, "", mqtt.AtLeastOnce, true)
	}
	f.silent(fmt.Sprintf("%q listens", name))
}

// brokenFiles writes files that mean nothing, and returns their names, with one that is missing and one that is a folder.
func brokenFiles(t *testing.T, more map[string]string) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	contents := map[string]string{
		"empty": "", "blank": "\n\n  \n", "comments": "# nobody\n#user:hash\n", "binary": "\x00\x01\x02\xFF\xFE", "nul": strings.Repeat("\x00", 4096),
		"html": "<html><body>404</body></html>\n", "bom": "\uFEFF", "utf16": "u\x00s\x00e\x00r\x00",
	}
	for name, text := range more {
		contents[name] = text
	}
	for name, text := range contents {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return append(paths, filepath.Join(dir, "missing"), dir)
}

// TestA12BrokenPasswords: the password file is empty, broken, missing or a folder. It says so when it is read, and lets
// nobody in, with and without user and password.
func TestA12BrokenPasswords(t *testing.T) {
	files := brokenFiles(t, map[string]string{
		"no hash": "alice:\n", "no colon": "alice\n", "plain text": "alice:secret\n", "cut": "alice:$argon2id$v=19$m=194", "no user": ":$6$x$y\n",
		"weightless": "alice:$argon2id$v=19$m=0,t=0,p=0$$\n",
	})
	for _, path := range files {
		ln := attackListen(t, plainNamed("guarded"))
		passwords, err := auth.OpenPasswords(path, auth.PasswordConfig{})
		if err == nil {
			t.Errorf("%s: no error", filepath.Base(path))
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			a := newArena(t, broker.Config{Listeners: map[string]broker.ListenerConfig{"guarded": {Authenticator: passwords}}}, ln)
			a.addr = ln.Addr().String()
			for _, c := range []mqtt.Connect{
				{Version: mqtt.V5}, {Version: mqtt.V311, CleanStart: true},
				{Version: mqtt.V5, HasUsername: true, Username: "alice"},
				{Version: mqtt.V5, HasUsername: true, Username: "alice", HasPassword: true},
				{Version: mqtt.V311, CleanStart: true, HasUsername: true, Username: "alice", HasPassword: true, Password: []byte("secret")},
				{Version: mqtt.V5, HasUsername: true, HasPassword: true},
				{Version: mqtt.V5, HasPassword: true, Password: []byte("secret")},
			} {
				if _, ack := a.try(c); ack.Code != mqtt.BadUserNameOrPassword && ack.Code != mqtt.NotAuthorized {
					t.Errorf("%+v: CONNACK 0x%02X", c, byte(ack.Code))
				}
			}
		})
	}
}

// TestA12BrokenACL: the same with the access list: whoever is connected may do nothing.
func TestA12BrokenACL(t *testing.T) {
	files := brokenFiles(t, map[string]string{
		"unknown word": "allow all\n", "no filter": "topic read\ntopic\n", "bad filter": "topic readwrite a/#/b\n", "good, then bad": "topic readwrite #\nnonsense\n",
		"only users": "user alice\nuser bob\n",
	})
	for _, path := range files {
		ln := attackListen(t, plainNamed("guarded"))
		acl, err := auth.OpenACL(path)
		if err == nil {
			t.Errorf("%s: no error", filepath.Base(path))
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			a := newArena(t, broker.Config{Authorizer: guarded{"guarded", acl}}, ln)
			reader := a.login(mqtt.V5, "reader")
			reader.subscribe("a12/#", mqtt.AtMostOnce, 0)
			a.addr = ln.Addr().String()
			f := a.login(mqtt.V5, "a12")
			for _, filter := range []string{"#", "a12/x", "$SYS/#", "$share/g/#"} {
				f.subscribe(filter, mqtt.AtMostOnce, mqtt.NotAuthorized)
			}
			if code := f.publish("a12/x", "x", mqtt.AtLeastOnce, true); code != mqtt.NotAuthorized {
				t.Errorf("PUBLISH: 0x%02X", byte(code))
			}
			reader.silent("a message that nobody allowed")
			c := hello(mqtt.V5, "a12-will")
			c.Will = &mqtt.Will{Topic: "a12/will"}
			if _, ack := a.try(c); ack.Code != mqtt.NotAuthorized {
				t.Errorf("a Will: CONNACK 0x%02X", byte(ack.Code))
			}
		})
	}
}

// TestA12BrokenLater: files that were good are broken while in use. What they said stays in force, and nothing more.
func TestA12BrokenLater(t *testing.T) {
	dir := t.TempDir()
	passwords, list := filepath.Join(dir, "passwords"), filepath.Join(dir, "acl")
	if err := auth.SetPassword(passwords, "alice", "secret", auth.PasswordOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, []byte("user alice\ntopic readwrite a12/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := auth.OpenPasswords(passwords, auth.PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	acl, err := auth.OpenACL(list)
	if err != nil {
		t.Fatal(err)
	}
	ln := attackListen(t, plainNamed("guarded"))
	a := newArena(t, broker.Config{
		Listeners: map[string]broker.ListenerConfig{"guarded": {Authenticator: file}}, Authorizer: guarded{"guarded", acl},
	}, ln)
	a.addr = ln.Addr().String()
	for _, bad := range []string{"", "topic readwrite #\nallow everybody\n", "bob:\n"} {
		for path, r := range map[string]auth.Reloader{passwords: file, list: acl} {
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.Reload(); err == nil {
				t.Errorf("%q as %s: no error", bad, filepath.Base(path))
			}
		}
		a.broker.Reauthorize()
		c := mqtt.Connect{Version: mqtt.V5, ClientID: "a12", HasUsername: true, Username: "alice", HasPassword: true, Password: []byte("secret")}
		f := a.loginAs(c)
		f.subscribe("a12/x", mqtt.AtMostOnce, 0)
		f.subscribe("other/#", mqtt.AtMostOnce, mqtt.NotAuthorized)
		for _, user := range []string{"bob", "", "allow everybody"} {
			c.Username = user
			if _, ack := a.try(c); !ack.Code.Failed() {
				t.Errorf("user %q is let in", user)
			}
		}
	}
}

// counting counts the attempts that come through.
type counting struct {
	broker.Authenticator
	attempts atomic.Int64
}

func (c *counting) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	c.attempts.Add(1)
	return c.Authenticator.Authenticate(ctx, r)
}

// TestA14BruteForce: the attacker guesses over many connections at once. A handful of guesses is looked at; the others
// wait until their time is over and hear what a wrong guess hears, even when it was right.
func TestA14BruteForce(t *testing.T) {
	const burst = 4
	checked := &counting{Authenticator: users("alice")}
	throttle := &auth.Throttle{Next: checked, Base: time.Hour, Max: time.Hour, Decay: time.Hour, Burst: burst}
	ln := attackListen(t, plainNamed("guarded"))
	a := newArena(t, broker.Config{
		Listeners: map[string]broker.ListenerConfig{"guarded": {Authenticator: throttle}}, Limits: broker.Limits{ConnectTimeout: time.Second},
	}, ln)
	a.addr = ln.Addr().String()
	var guesses sync.WaitGroup
	for i := range 100 {
		c := hello(attackVersions[i%3], fmt.Sprint("a14-", i))
		c.Username, c.Password = "alice", fmt.Appendf(nil, "guess %d", i)
		f := a.open(c.Version)
		guesses.Go(func() {
			f.throw(c.Append(nil))
			var ack mqtt.Connack
			p, err := f.read()
			if err == nil {
				err = ack.Parse(p, c.Version)
			}
			if err != nil || ack.Code != mqtt.BadUserNameOrPassword {
				t.Errorf("guess %d: CONNACK 0x%02X, %v", i, byte(ack.Code), err)
			}
		})
	}
	guesses.Wait()
	if n := checked.attempts.Load(); n > burst {
		t.Errorf("%d of 100 guesses were looked at, want at most %d", n, burst)
	}
	if _, ack := a.try(helloAs(mqtt.V5, "a14", "alice")); ack.Code != mqtt.BadUserNameOrPassword {
		t.Errorf("the right password among the guesses: CONNACK 0x%02X", byte(ack.Code))
	}
}

// TestA14UserEnumeration: from the bytes of the answer nobody learns whether the user exists, has a password, or was refused
// for another reason, in no version, and also when reasons in words are asked for.
func TestA14UserEnumeration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwords")
	if err := auth.SetPassword(path, "alice", "secret", auth.PasswordOptions{}); err != nil {
		t.Fatal(err)
	}
	file, err := auth.OpenPasswords(path, auth.PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ln := attackListen(t, plainNamed("guarded"))
	a := newArena(t, broker.Config{Listeners: map[string]broker.ListenerConfig{"guarded": {Authenticator: auth.Chain{file}}}}, ln)
	a.addr = ln.Addr().String()
	for _, v := range attackVersions {
		var first []byte
		for _, c := range []mqtt.Connect{
			{HasUsername: true, Username: "alice", HasPassword: true, Password: []byte("wrong")},
			{HasUsername: true, Username: "alice", HasPassword: true},
			{HasUsername: true, Username: "alice"},
			{HasUsername: true, Username: "bob", HasPassword: true, Password: []byte("wrong")},
			{HasUsername: true, Username: "bob"},
			{HasUsername: true, HasPassword: true},
			{HasUsername: true, Username: strings.Repeat("x", 1000), HasPassword: true, Password: make([]byte, 1000)},
			{},
		} {
			c.Version, c.ClientID, c.CleanStart = v, "a14", true
			if v == mqtt.V5 {
				c.Props = c.Props.WithFlag(mqtt.RequestProblemInformation, true)
			}
			f := a.open(v)
			f.throw(c.Append(nil))
			p := f.expect(mqtt.CONNACK)
			if first == nil {
				first = bytes.Clone(p.Body)
			}
			if !bytes.Equal(p.Body, first) {
				t.Errorf("MQTT %s, user %.20q: answer % x, for others % x", v, c.Username, p.Body, first)
			}
			f.end()
		}
	}
}
