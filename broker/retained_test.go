package broker

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// keepAll retains n messages on r/0 to r/(n-1), from within the program.
func (r *rig) keepAll(n int, qos mqtt.QoS) {
	r.Helper()
	for i := range n {
		m := &mqtt.Message{Topic: fmt.Sprint("r/", i), Payload: []byte(strconv.Itoa(i)), QoS: qos, Retain: true}
		if err := r.b.Publish(m); err != nil {
			r.Fatal(err)
		}
	}
}

func TestRetained(t *testing.T) {
	for _, v := range versions {
		both(t, Config{}, func(r *rig) {
			c, pub := r.connect(v, "c"), r.connect(v, "p")
			c.subscribe(sub("a", 2))
			pub.publishPacket(retain("a", "live", 1))
			if m := c.take(); m.Retain || m.QoS != 1 {
				r.Errorf("live: %+v", m) // [MQTT-3.3.1-12]
			}
			c.subscribe(sub("a", 2))
			if m := c.take(); !m.Retain || m.QoS != 1 || string(m.Payload) != "live" {
				r.Errorf("retained: %+v", m) // [MQTT-3.3.1-8]
			}
			pub.publishPacket(retain("a", "new", 0)) // replaces [MQTT-3.3.1-5]
			pub.publish("a", "passing", 1)           // does not
			c.want("new", "passing")
			c.subscribe(sub("+", 0))
			c.want("new")
			pub.publishPacket(retain("a", "", 2)) // removes [MQTT-3.3.1-6]
			if m := c.take(); m.Retain || len(m.Payload) != 0 {
				r.Errorf("removal: %+v", m)
			}
			c.silent()
			c.subscribe(sub("a", 2))
			c.silent()
			if st := r.b.Stats(); st.Retained != 0 || st.RetainedBytes != 0 {
				r.Errorf("%d messages of %d bytes are left", st.Retained, st.RetainedBytes)
			}
		})
	}
}

// Retain Handling decides about what is retained when a subscription is made, anew or again (§3.8.3.1).
func TestRetainHandling(t *testing.T) {
	for handling, want := range map[mqtt.RetainHandling][2]bool{
		mqtt.SendRetained: {true, true}, mqtt.SendRetainedIfNew: {true, false}, mqtt.DoNotSendRetained: {false, false},
	} {
		both(t, Config{}, func(r *rig) {
			r.keepAll(3, 1)
			c := r.connect(mqtt.V5, "c", lasting(60))
			again := func(sent bool) {
				r.Helper()
				c.subscribe(mqtt.Subscription{Filter: "r/+", QoS: 1, RetainHandling: handling})
				if sent {
					c.want("0", "1", "2")
				}
				c.silent()
			}
			again(want[0])
			again(want[1])
			c.drop()
			c = r.connect(mqtt.V5, "c", resume, lasting(60))
			again(want[1])
			c.unsubscribe("r/+")
			again(want[0])
		})
	}
}

func TestRetainAsPublished(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(mqtt.Subscription{Filter: "a", QoS: 2, RetainAsPublished: true}, sub("b", 2))
		pub := r.connect(mqtt.V5, "p")
		for i, tc := range []struct {
			name         string
			retain, want bool
		}{{"a", true, true}, {"a", false, false}, {"b", true, false}, {"b", false, false}} {
			for _, qos := range []mqtt.QoS{0, 1, 2} {
				p := post(tc.name, "x", qos)
				p.Retain = tc.retain
				pub.publishPacket(p)
				if m := c.take(); m.Retain != tc.want {
					r.Errorf("case %d at QoS %d: RETAIN %v", i, qos, m.Retain)
				}
			}
		}
	})
}

// No Local holds for what is retained too.
func TestRetainedNoLocal(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		c, other := r.connect(mqtt.V5, "c"), r.connect(mqtt.V5, "d")
		c.publishPacket(retain("a/mine", "mine", 1))
		other.publishPacket(retain("a/other", "other", 1))
		c.subscribe(mqtt.Subscription{Filter: "a/+", QoS: 1, NoLocal: true})
		c.want("other")
		c.silent()
	})
}

// Ten thousand retained messages reach a slow reader complete, once each, at every QoS, through a small outbox and window,
// while others publish to it all the time.
func TestReplayToSlowReader(t *testing.T) {
	const n = 10_000
	for _, qos := range []mqtt.QoS{0, 1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			r := newTCPRig(t, Config{Limits: Limits{OutboxBytes: 3000, MaxInflight: 10}})
			r.keepAll(n, qos)
			c := r.connect(mqtt.V5, "c")
			c.subscribe(sub("live/+", 1))
			progress := make(chan int, n)
			var publisher sync.WaitGroup
			publisher.Go(func() {
				for i := range progress {
					_ = r.b.Publish(&mqtt.Message{Topic: "live/x", Payload: []byte("live"), QoS: mqtt.QoS(i % 2)})
				}
			})
			c.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("r/#", 2)}}).Append(nil, mqtt.V5))
			seen := make(map[string]bool)
			for len(seen) < n {
				p, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := p.(mqtt.Suback); ok {
					continue
				}
				m, ok := c.answer(p)
				if !ok || m.Topic[0] != 'r' {
					continue
				}
				if !m.Retain || m.QoS != qos || seen[string(m.Topic)] {
					t.Fatalf("got %+v, seen: %v", m, seen[string(m.Topic)])
				}
				seen[string(m.Topic)] = true
				progress <- len(seen)
			}
			close(progress)
			publisher.Wait()
			if drops := r.b.Stats().Dropped[DropQueue]; drops != 0 {
				t.Errorf("%d dropped", drops)
			}
		})
	}
}

// Replay is never stuck: many rounds with random windows, outboxes, numbers and QoS, with other messages in between, all of
// which must come. In a bubble a lost wake-up is a deadlock and found at once.
func TestReplayNeverSticks(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		limits := Limits{OutboxBytes: 1 + rnd.IntN(500), MaxInflight: 1 + rnd.IntN(5)}
		test := func(r *rig) {
			kept := make(map[string]mqtt.QoS)
			for i := range rnd.IntN(200) {
				name := fmt.Sprint("r/", i)
				kept[name] = mqtt.QoS(rnd.IntN(3))
				_ = r.b.Publish(&mqtt.Message{Topic: name, Payload: []byte("x"), QoS: kept[name], Retain: true})
			}
			c := r.connect(mqtt.V5, "c")
			c.subscribe(sub("live", 1))
			sends := rnd.IntN(50)
			live := sends
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range sends {
					_ = r.b.Publish(&mqtt.Message{Topic: "live", Payload: []byte("live"), QoS: 1})
				}
			}()
			c.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("r/#", 2)}}).Append(nil, mqtt.V5))
			for len(kept) > 0 || live > 0 {
				p, err := c.next()
				if err != nil {
					r.Fatalf("seed %d: %v", seed, err)
				}
				if _, ok := p.(mqtt.Suback); ok {
					continue
				}
				m, ok := c.answer(p)
				switch {
				case !ok:
				case string(m.Topic) == "live":
					live--
				default:
					if qos, waits := kept[string(m.Topic)]; !waits || qos != m.QoS {
						r.Fatalf("seed %d: got %+v", seed, m)
					}
					delete(kept, string(m.Topic))
				}
			}
			<-done
			c.silent()
		}
		if seed%10 == 0 {
			test(newTCPRig(t, Config{Limits: limits}))
		} else {
			bubble(t, Config{Limits: limits}, test)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A window that others have filled does not hold up what is retained at QoS 0.
func TestReplayPastFullWindow(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		r.keepAll(200, 0)
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 1))
		c.subscribe(sub("a", 1))
		r.connect(mqtt.V5, "p").publish("a", "stalled", 1)
		c.message()
		c.subscribe(sub("r/#", 0))
		for range 200 {
			c.message()
		}
		c.barrier()
	})
}

// What is removed or replaced during a replay is not sent as it was: nobody gets an old value behind a new one.
func TestChangesDuringReplay(t *testing.T) {
	for round := range 30 {
		r := newTCPRig(t, Config{Limits: Limits{OutboxBytes: 500}})
		const n = 500
		r.keepAll(n, mqtt.QoS(round%2))
		c := r.connect(mqtt.V5, "c")
		var changes sync.WaitGroup
		changes.Go(func() {
			for i := range n {
				m := &mqtt.Message{Topic: fmt.Sprint("r/", (i*7)%n), QoS: 1, Retain: true}
				if i%2 == 0 {
					m.Payload = []byte("new")
				}
				_ = r.b.Publish(m)
			}
		})
		c.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("r/#", 1)}}).Append(nil, mqtt.V5))
		last := make(map[string]string)
		subscribed := make(chan struct{})
		read := func() {
			p, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := p.(mqtt.Suback); ok {
				close(subscribed)
				return
			}
			if m, ok := c.answer(p); ok {
				last[string(m.Topic)] = string(m.Payload)
			}
		}
		changed := make(chan struct{})
		go func() {
			defer close(changed)
			changes.Wait()
			<-subscribed // or the end is over before the subscription begins
			_ = r.b.Publish(&mqtt.Message{Topic: "r/end", Payload: []byte("end"), QoS: 1})
		}()
		for done := false; !done; {
			done = last["r/end"] != "" && replayed(r, "c")
			for c.send(mqtt.AppendPingreq(nil)); c.pongs == 0; {
				read()
			}
			c.pongs = 0
		}
		<-changed
		for i := range n {
			name := fmt.Sprint("r/", (i*7)%n)
			want := ""
			if i%2 == 0 {
				want = "new"
			}
			if got, there := last[name]; got != want && (there || want != "") {
				t.Fatalf("round %d: the last of %s is %q, want %q", round, name, got, want)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// replayed reports whether the client has nothing to come any more.
func replayed(r *rig, id string) bool {
	s := r.b.session(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	messages, _ := s.out.Queued()
	return len(s.replays) == 0 && messages == 0
}

// After UNSUBSCRIBE the replay stops [MQTT-3.10.4-1]; other replays go on.
func TestUnsubscribeDuringReplay(t *testing.T) {
	bubble(t, Config{Limits: Limits{OutboxBytes: 300}}, func(r *rig) {
		r.keepAll(1000, 1)
		for _, name := range []string{"other/1", "other/2"} {
			_ = r.b.Publish(&mqtt.Message{Topic: name, Payload: []byte(name), Retain: true})
		}
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 10))
		c.subscribe(sub("r/+", 1), sub("other/#", 0))
		first := make([]mqtt.Publish, 10)
		for i := range first {
			first[i] = c.message()
		}
		c.send((&mqtt.Unsubscribe{PacketID: 77, Filters: []string{"r/+"}}).Append(nil, mqtt.V5))
		others, acked := 0, false
		for others < 2 || !acked {
			switch p, _ := c.next(); p := p.(type) {
			case mqtt.Unsuback:
				acked = true
			case mqtt.Publish:
				if others++; string(p.Payload) != fmt.Sprint("other/", others) {
					t.Fatalf("got %+v", p)
				}
			default:
				t.Fatalf("got %T", p)
			}
		}
		for _, m := range first {
			c.ack(mqtt.PUBACK, m.PacketID, 0)
		}
		c.silent()
		c.subscribe(sub("r/1", 0)) // and it works anew
		c.want("1")
		c.silent()
	})
}

// A new connection starts without the replays of the one before.
func TestReconnectDuringReplay(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		r.keepAll(1000, 1)
		c := r.connect(mqtt.V5, "c", lasting(60), with(mqtt.ReceiveMaximum, 10))
		c.subscribe(sub("r/+", 1))
		var sent []string
		for range 10 {
			sent = append(sent, string(c.message().Payload))
		}
		c.barrier()
		again := r.connect(mqtt.V5, "c", resume, lasting(60))
		c.wantEnd(mqtt.SessionTakenOver)
		again.want(sent...)
		again.silent()
		again.subscribe(sub("r/+", 1))
		for range 1000 {
			again.take()
		}
		again.silent()
	})
}

// A client that may not read everything gets the rest.
func TestReplayDenied(t *testing.T) {
	z := rules{"read r/1": deny, "read r/3": deny}
	both(t, Config{Authorizer: z}, func(r *rig) {
		r.keepAll(5, 1)
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("r/+", 1))
		c.want("0", "2", "4")
		c.silent()
		if n := r.b.Stats().Dropped[DropDenied]; n != 2 {
			r.Errorf("%d denied", n)
		}
	})
}
