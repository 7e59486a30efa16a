package broker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// Subscribers in process get what matches, at their QoS, retained messages with a note, until they close.
func TestLocalSubscribe(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		r.keepAll(200, 1)
		var got []string
		handle := func(m *mqtt.Message, retained bool) {
			got = append(got, fmt.Sprint(m.Topic, " ", string(m.Payload), " ", retained))
		}
		s, err := r.b.Subscribe("r/+", 2, handle)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(got) != 200 || got[0] != "r/0 0 true" {
			t.Fatalf("%d retained, the first is %q", len(got), got[0])
		}
		got = nil
		c := r.connect(mqtt.V5, "c")
		c.publish("r/x", "live", 0)
		c.publishPacket(retain("r/y", "kept", 2))
		c.publish("other", "", 1)
		if err := r.b.Publish(&mqtt.Message{Topic: "r/z", Payload: []byte("own")}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if want := []string{"r/x live false", "r/y kept false", "r/z own false"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		s.Close()
		s.Close()
		got = nil
		c.publish("r/x", "late", 1)
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("after Close: %q", got)
		}
		if st := r.b.Stats(); st.Subscriptions != 0 {
			t.Errorf("%d subscriptions", st.Subscriptions)
		}
	})
}

// A handler may block and call the broker, its own subscription included; nobody waits for it.
func TestLocalHandlerCallsBroker(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		var s *LocalSubscription
		made := make(chan struct{})
		var calls []string
		s, err := r.b.Subscribe("in", 1, func(m *mqtt.Message, _ bool) {
			<-made
			calls = append(calls, string(m.Payload))
			time.Sleep(time.Minute)
			_ = r.b.Publish(&mqtt.Message{Topic: "out", Payload: m.Payload, QoS: 1})
			if len(calls) == 2 {
				s.Close()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		close(made)
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("out", 1))
		start := time.Now()
		for i := range 5 { // the first is being handled when the others come together
			c.publish("in", fmt.Sprint(i), 1)
			synctest.Wait()
		}
		if time.Since(start) > 0 {
			t.Error("the publisher waited")
		}
		c.want("0", "1")
		time.Sleep(time.Hour)
		c.silent()
		if !slices.Equal(calls, []string{"0", "1"}) {
			t.Errorf("called with %q", calls)
		}
	})
}

func TestLocalQueueLimit(t *testing.T) {
	bubble(t, Config{Limits: Limits{QueuedMessages: 10}}, func(r *rig) {
		gate := make(chan struct{})
		got := 0
		if _, err := r.b.Subscribe("a/#", 0, func(*mqtt.Message, bool) { <-gate; got++ }); err != nil {
			t.Fatal(err)
		}
		_ = r.b.Publish(&mqtt.Message{Topic: "a"})
		synctest.Wait() // one is being handled
		for range 15 {
			_ = r.b.Publish(&mqtt.Message{Topic: "a/b", QoS: 1})
		}
		close(gate)
		synctest.Wait()
		if n := r.b.Stats().Dropped[DropQueue]; got != 11 || n != 5 {
			t.Errorf("%d handled, %d dropped", got, n)
		}
		r.keepAll(30, 0)
		hold := make(chan struct{})
		if _, err := r.b.Subscribe("r/#", 0, func(*mqtt.Message, bool) { <-hold }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := r.b.Stats().Dropped[DropQueue]; n < 5+19 {
			t.Errorf("%d dropped", n)
		}
		close(hold)
	})
}

func TestLocalErrors(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		for _, filter := range []string{"", "a#", "$share/g", "a\x00"} {
			if _, err := r.b.Subscribe(filter, 0, nil); !errors.Is(err, mqtt.TopicFilterInvalid) {
				t.Errorf("subscribe %q: %v", filter, err)
			}
		}
		for _, m := range []mqtt.Message{{}, {Topic: "a/#"}, {Topic: "a", QoS: 3}, {Topic: "\xff"}} {
			if err := r.b.Publish(&m); err == nil {
				t.Errorf("published %q at QoS %d", m.Topic, m.QoS)
			}
		}
		if err := r.b.Publish(&mqtt.Message{Topic: "$SYS/own"}); err != nil {
			t.Errorf("the program may publish to $SYS: %v", err)
		}
	})
}

// Subscribers in process can share with clients.
func TestLocalShared(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		got := 0
		if _, err := r.b.Subscribe("$share/g/a", 1, func(*mqtt.Message, bool) { got++ }); err != nil {
			t.Fatal(err)
		}
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("$share/g/a", 1))
		for range 10 {
			_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte("x"), QoS: 1})
		}
		c.want("x", "x", "x", "x", "x")
		c.silent()
		synctest.Wait()
		if got != 5 {
			t.Errorf("%d in process", got)
		}
	})
}

// diary writes down every event. Events come from many goroutines.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// read returns what was written since the last time.
func (d *diary) read() []string {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

func (d *diary) events() Events {
	who := func(c *ClientInfo) string {
		if c == nil {
			return "nobody"
		}
		return c.ClientID
	}
	return Events{
		Connected:    func(c *ClientInfo) { d.note("connected %s %s %s", c.ClientID, c.Version, c.User) },
		Disconnected: func(c *ClientInfo, err error) { d.note("disconnected %s: %v", c.ClientID, err) },
		Refused: func(q *ConnectRequest, err error) {
			if q == nil {
				d.note("refused: %v", err)
				return
			}
			d.note("refused %s %q: %v", q.ClientID, q.Password, err)
		},
		Subscribed:   func(c *ClientInfo, s mqtt.Subscription) { d.note("subscribed %s %s %d", c.ClientID, s.Filter, s.QoS) },
		Unsubscribed: func(c *ClientInfo, f string) { d.note("unsubscribed %s %s", c.ClientID, f) },
		Published:    func(c *ClientInfo, m *mqtt.Message) { d.note("published %s %s %s", who(c), m.Topic, m.Payload) },
		Delivered:    func(c *ClientInfo, m *mqtt.Message) { d.note("delivered %s %s", c.ClientID, m.Payload) },
		Dropped:      func(c *ClientInfo, m *mqtt.Message, r DropReason) { d.note("dropped %s %s %s", who(c), m.Payload, r) },
	}
}

// Every kind of event is told, once, with what belongs to it; observers come and go.
func TestEvents(t *testing.T) {
	var first, second diary
	cfg := Config{Events: first.events(), Authenticator: secret{}, Authorizer: rules{"write no": deny}, Limits: Limits{QueuedMessages: 1}}
	bubble(t, cfg, func(r *rig) {
		stop := r.b.Observe(second.events())
		want := func(lines ...string) {
			t.Helper()
			if got := first.read(); !slices.Equal(got, lines) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
			}
		}
		r.try(mqtt.V5, "x", password("wrong"))
		want(`refused x "": bad user name or password (0x86): it is "sesame"`)
		_ = r.dial().Close()
		want("refused: closed by the client without DISCONNECT")
		c := r.connect(mqtt.V5, "c", password("sesame"), lasting(60))
		want("connected c 5.0 ann")
		c.subscribe(sub("a", 1), sub("b/#", 2))
		want("subscribed c a 1", "subscribed c b/# 2")
		c.unsubscribe("b/#", "nothing")
		want("unsubscribed c b/#")
		p := r.connect(mqtt.V311, "p", password("sesame"))
		p.publish("a", "1", 1)
		want("connected p 3.1.1 ann", "published p a 1", "delivered c 1")
		p.publish("no", "2", 1)
		want()
		_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte("3")})
		want("published nobody a 3", "delivered c 3")
		c.want("1", "3")
		c.leave()
		want("disconnected c: <nil>")
		p.publish("a", "4", 1)
		p.publish("a", "5", 1)
		want("published p a 4", "dropped c 5 queue_full")
		c = r.connect(mqtt.V5, "c", resume, password("sesame"))
		c.want("4")
		want("connected c 5.0 ann", "delivered c 4")
		p.send([]byte{0xC1, 0})
		p.ended()
		if got := first.read(); len(got) != 1 || !strings.HasPrefix(got[0], "disconnected p: ") || strings.HasSuffix(got[0], "<nil>") {
			t.Errorf("got %q", got)
		}
		if a, b := len(second.read()), 16; a < b {
			t.Errorf("the second observer has %d lines", a)
		}
		stop()
		r.b.Kick("c", mqtt.AdministrativeAction, true)
		c.wantEnd(mqtt.AdministrativeAction)
		want("disconnected c: administrative action (0x98)")
		if got := second.read(); len(got) > 0 {
			t.Errorf("after stop: %q", got)
		}
	})
}

// secret lets ann in with a password.
type secret struct{}

func (secret) Authenticate(_ context.Context, r *ConnectRequest) (Grant, error) {
	if string(r.Password) != "sesame" {
		return Grant{}, fmt.Errorf("%w: it is %q", mqtt.BadUserNameOrPassword, "sesame")
	}
	return Grant{User: "ann"}, nil
}

func password(p string) option {
	return func(c *mqtt.Connect) { c.HasPassword, c.Password, c.HasUsername = true, []byte(p), true }
}

// Messages for subscribers in process are not deliveries to a client.
func TestEventsOfLocals(t *testing.T) {
	var d diary
	bubble(t, Config{Events: d.events(), Limits: Limits{QueuedMessages: 1}}, func(r *rig) {
		gate := make(chan struct{})
		if _, err := r.b.Subscribe("a", 0, func(*mqtt.Message, bool) { <-gate }); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte{byte('0' + i)}})
			synctest.Wait()
		}
		want := []string{"published nobody a 0", "published nobody a 1", "published nobody a 2", "dropped nobody 2 queue_full"}
		if got := d.read(); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		close(gate)
	})
}

// An event may look at the broker: no lock is held.
func TestEventsMayLook(t *testing.T) {
	var b *Broker
	look := func() {
		b.Clients()
		b.Stats()
		b.Subscriptions("c")
		b.RetainedMessage("a")
	}
	bubble(t, Config{}, func(r *rig) {
		b = r.b
		b.Observe(Events{
			Connected: func(*ClientInfo) { look() }, Disconnected: func(*ClientInfo, error) { look() },
			Refused: func(*ConnectRequest, error) { look() }, Subscribed: func(*ClientInfo, mqtt.Subscription) { look() },
			Unsubscribed: func(*ClientInfo, string) { look() }, Published: func(*ClientInfo, *mqtt.Message) { look() },
			Delivered: func(*ClientInfo, *mqtt.Message) { look() },
			Dropped:   func(*ClientInfo, *mqtt.Message, DropReason) { look() },
		})
		r.keepAll(3, 1)
		c := r.connect(mqtt.V5, "c", lasting(60), with(mqtt.ReceiveMaximum, 1), with(mqtt.MaximumPacketSize, 30))
		c.subscribe(sub("#", 1))
		c.want("0", "1", "2")
		c.send(publishBytes(post("a", "mine", 0), mqtt.V5))
		c.want("mine")
		c.publish("a", strings.Repeat("x", 40), 1)
		c.unsubscribe("#")
		c.leave()
		r.b.Kick("c", mqtt.AdministrativeAction, true)
		_ = r.dial().Close()
	})
}

// What an operator sees.
func TestInspect(t *testing.T) {
	bubble(t, Config{Authenticator: users{}, Limits: Limits{MaxInflight: 2}}, func(r *rig) {
		start := time.Now()
		b := r.connect(mqtt.V311, "b", resume, user("bob"), keepAlive(30))
		b.subscribe(sub("z", 0), sub("a", 1))
		r.connect(mqtt.V5, "a", lasting(60)).drop()
		for range 5 {
			_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte("12345"), QoS: 1})
		}
		m := post("q", "", 2)
		m.PacketID = 3
		for range 2 {
			b.message()
		}
		b.send(publishBytes(m, mqtt.V311))
		b.wantAck(mqtt.PUBREC, 3)
		time.Sleep(10 * time.Second)
		all := r.b.Clients()
		if len(all) != 2 || all[0].ClientID != "a" || all[1].ClientID != "b" {
			t.Fatalf("clients: %+v", all)
		}
		st, ok := r.b.Client("b")
		if !ok || !reflect.DeepEqual(st, all[1]) {
			t.Errorf("%+v is not %+v", st, all[1])
		}
		got := fmt.Sprintln(st.Connected, st.Since.Equal(start), st.Subscriptions, st.InFlight, st.QueuedMessages, st.QueuedBytes, st.Inbound,
			st.User, st.Version, st.KeepAlive, st.CleanStart, st.Expiry == NeverExpires)
		if want := "true true 2 2 3 18 1 bob 3.1.1 30s false true\n"; got != want {
			t.Errorf("b is %s, want %s", got, want)
		}
		if a := all[0]; a.Connected || !a.Since.Equal(start) || a.Expiry != time.Minute {
			t.Errorf("a is %+v", a)
		}
		if subs := r.b.Subscriptions("b"); len(subs) != 2 || subs[0].Filter != "a" || subs[0].QoS != 1 || subs[1].Filter != "z" {
			t.Errorf("subscriptions %v", subs)
		}
		if _, ok := r.b.Client("x"); ok || r.b.Subscriptions("x") != nil {
			t.Error("there is no x")
		}
	})
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range DropReasons() {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("reason %d is %q", r, name)
		}
		seen[r.String()] = true
	}
	for a, want := range map[Action]string{Write: "write", Read: "read", Subscribe: "subscribe", 0: "unknown"} {
		if a.String() != want {
			t.Errorf("action %d is %q", a, a)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 16 * time.Microsecond, 17 * time.Microsecond, time.Second, time.Hour} {
		h.observe(d)
	}
	upTo, count, sum := h.Buckets()
	if count != 5 || sum != time.Hour+time.Second+33*time.Microsecond || len(upTo) != 19 {
		t.Errorf("%d of %v in %d buckets", count, sum, len(upTo))
	}
	if upTo[16*time.Microsecond] != 2 || upTo[32*time.Microsecond] != 3 || upTo[16*time.Microsecond<<18] != 4 {
		t.Errorf("%v", upTo)
	}
}

// The log has few lines about one address, and begins anew after a while.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l logLimit
		count := func(address string) (lines int) {
			for range 5000 {
				if l.allow(address) {
					lines++
				}
			}
			return lines
		}
		if n := count("192.0.2.1"); n != logLines {
			t.Errorf("%d lines", n)
		}
		if n := count("127.0.0.1"); n != logLines*loopbackBursts {
			t.Errorf("%d lines for ourselves", n)
		}
		time.Sleep(logWindow + 1)
		if n := count("192.0.2.1"); n != logLines {
			t.Errorf("%d lines later", n)
		}
		for i := range 3 * logAddresses {
			l.allow(fmt.Sprint(i))
		}
		if len(l.lines) > logAddresses {
			t.Errorf("%d addresses are remembered", len(l.lines))
		}
	})
}
