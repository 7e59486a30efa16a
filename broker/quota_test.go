package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// away makes a session that waits for the messages of a topic while its client is gone.
func (r *rig) away(id, filter string, qos mqtt.QoS, options ...option) {
	r.Helper()
	c := r.connect(mqtt.V5, id, append(options, lasting(1000))...)
	c.subscribe(sub(filter, qos))
	c.leave()
}

// A publisher whom nobody can hear is told so; one that somebody hears is not.
func TestQuotaRejectNew(t *testing.T) {
	both(t, Config{Limits: Limits{QueuedMessages: 2}}, func(r *rig) {
		r.away("c", "a/#", 2)
		pub, old := r.connect(mqtt.V5, "p"), r.connect(mqtt.V311, "o")
		for i, tc := range []struct {
			qos  mqtt.QoS
			want mqtt.ReasonCode
		}{{1, mqtt.Success}, {2, mqtt.Success}, {1, mqtt.QuotaExceeded}, {2, mqtt.QuotaExceeded}, {0, mqtt.Success}} {
			if code := pub.publishPacket(post("a/b", fmt.Sprint(i), tc.qos)); code != tc.want {
				t.Errorf("message %d of QoS %d: %s, want %s", i, tc.qos, code, tc.want)
			}
		}
		old.publish("a/b", "old", 1) // acknowledged: the code is not in its version, and it is not to send it for ever
		if code := pub.publishPacket(retain("a/kept", "kept", 1)); code.Failed() {
			t.Errorf("a message that is retained at least: %s", code)
		}
		other := r.connect(mqtt.V5, "other")
		other.subscribe(sub("a/b", 0))
		if code := pub.publishPacket(post("a/b", "heard", 1)); code != mqtt.Success {
			t.Errorf("a message that somebody hears: %s", code)
		}
		other.want("heard")
		if n := r.b.Stats().Dropped[DropQueue]; n != 5 {
			t.Errorf("%d drops were counted, want 5", n)
		}
		c := r.connect(mqtt.V5, "c", resume, lasting(1000))
		c.want("0", "1")
		c.silent()
		if code := pub.publishPacket(post("a/b", "room", 2)); code != mqtt.Success {
			t.Errorf("when there is room again: %s", code)
		}
		c.want("room")
	})
}

// Sessions lose what has waited longest, wherever it waits: in memory or in a store.
func TestQuotaDropOldest(t *testing.T) {
	for name, s := range map[string]func() store.Store{
		"none": func() store.Store { return nil }, "memory": func() store.Store { return &store.Memory{} },
	} {
		t.Run(name, func(t *testing.T) {
			limits := Limits{QueuedMessages: 200, QueuePolicy: DropOldest}
			bubble(t, Config{Limits: limits, Store: s()}, func(r *rig) {
				var dropped []string
				r.b.Observe(Events{Dropped: func(_ *ClientInfo, m *mqtt.Message, reason DropReason) {
					if reason == DropQueue {
						dropped = append(dropped, string(m.Payload))
					}
				}})
				r.away("c", "a", 1)
				pub := r.connect(mqtt.V5, "p")
				all := numbers("m", 500)
				for i, m := range all {
					if code := pub.publishPacket(post("a", m, mqtt.QoS(1+i%2))); code != mqtt.Success {
						t.Fatalf("message %d: %s", i, code)
					}
				}
				if !slices.Equal(dropped, all[:300]) {
					t.Errorf("dropped %d messages, from %q on", len(dropped), dropped[:min(3, len(dropped))])
				}
				r.connect(mqtt.V5, "c", resume, lasting(1000)).want(all[300:]...)
				if st := r.b.Stats(); st.QueuedBytes != 0 || st.QueuedMessages != 0 {
					t.Errorf("%d messages of %d bytes are still counted", st.QueuedMessages, st.QueuedBytes)
				}
			})
		})
	}
}

// A client that takes too little is sent away, and loses nothing of what was taken for it.
func TestQuotaDisconnect(t *testing.T) {
	both(t, Config{Limits: Limits{QueuedMessages: 3, QueuePolicy: Disconnect}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", lasting(1000), with(mqtt.ReceiveMaximum, 1))
		c.subscribe(sub("a", 1))
		pub := r.connect(mqtt.V5, "p")
		for _, m := range numbers("m", 4) {
			pub.publish("a", m, 1)
		}
		if code := pub.publishPacket(post("a", "too much", 1)); code != mqtt.QuotaExceeded {
			t.Errorf("one too many: %s", code)
		}
		c.message()
		c.wantEnd(mqtt.QuotaExceeded)
		r.connect(mqtt.V5, "c", resume, lasting(1000)).want(numbers("m", 4)...)
	})
}

// byName believes everybody.
type byName struct{}

func (byName) Authenticate(_ context.Context, r *ConnectRequest) (Grant, error) {
	return Grant{User: r.Username}, nil
}

// What the sessions of one user hold counts together, and nobody else's. Clients without a name are not one user.
func TestQuotaOfUser(t *testing.T) {
	limits := Limits{UserQueuedMessages: 4, UserQueueBytes: 30}
	both(t, Config{Limits: limits, Authenticator: byName{}}, func(r *rig) {
		for _, id := range []string{"ann-1", "ann-2"} {
			r.away(id, "ann", 1, user("ann"))
		}
		r.away("bob", "bob", 1, user("bob"))
		r.away("nobody-1", "nobody", 1)
		r.away("nobody-2", "nobody", 1)
		pub := r.connect(mqtt.V5, "p")
		for i, want := range []mqtt.ReasonCode{mqtt.Success, mqtt.Success, mqtt.QuotaExceeded} {
			if code := pub.publishPacket(post("ann", "x", 1)); code != want {
				t.Errorf("message %d for two sessions of ann: %s, want %s", i, code, want)
			}
		}
		if code := pub.publishPacket(post("bob", "30 bytes are the quota of a user", 1)); code != mqtt.Success {
			t.Errorf("the first for bob: %s", code)
		}
		if code := pub.publishPacket(post("bob", "x", 1)); code != mqtt.QuotaExceeded {
			t.Errorf("the second for bob: %s", code)
		}
		for range 5 {
			if code := pub.publishPacket(post("nobody", "x", 1)); code != mqtt.Success {
				t.Errorf("for clients without a name: %s", code)
			}
		}
		if n := r.b.Stats().Dropped[DropUser]; n != 3 {
			t.Errorf("%d drops were counted, want 3", n)
		}
		r.connect(mqtt.V5, "ann-1", resume, user("ann"), lasting(0)).want("x", "x")
		if code := pub.publishPacket(post("ann", "again", 1)); code != mqtt.Success {
			t.Errorf("when one session of ann has taken hers: %s", code)
		}
	})
}

// A user has so many sessions; one that takes the place of another is none more.
func TestSessionsPerUser(t *testing.T) {
	both(t, Config{Limits: Limits{SessionsPerUser: 2}, Authenticator: byName{}}, func(r *rig) {
		r.away("1", "a", 1, user("ann"))
		two := r.connect(mqtt.V5, "2", user("ann"))
		if _, code := r.try(mqtt.V5, "3", user("ann")); code != mqtt.QuotaExceeded {
			t.Errorf("a third session: %s", code)
		}
		r.connect(mqtt.V5, "b", user("bob"))
		r.connect(mqtt.V5, "x")
		r.connect(mqtt.V5, "y")
		r.connect(mqtt.V5, "z")
		one := r.connect(mqtt.V5, "1", fresh, user("ann"))
		two.leave()
		r.connect(mqtt.V5, "3", user("ann"))
		one.leave()
		r.connect(mqtt.V5, "4", user("ann"))
	})
}

// A member of a shared subscription that can take no more is passed over.
func TestQuotaOfShareMember(t *testing.T) {
	both(t, Config{Limits: Limits{QueuedMessages: 3}}, func(r *rig) {
		for _, id := range []string{"1", "2"} {
			r.away(id, "$share/g/a", 1)
		}
		pub := r.connect(mqtt.V5, "p")
		for i := range 6 {
			if code := pub.publishPacket(post("a", "x", 1)); code != mqtt.Success {
				t.Errorf("message %d of 6: %s", i, code)
			}
		}
		if code := pub.publishPacket(post("a", "x", 1)); code != mqtt.QuotaExceeded {
			t.Errorf("when all members are full: %s", code)
		}
	})
}

// When all queues together are full, clients that keep up go on.
func TestTotalQuotaSparesTheFast(t *testing.T) {
	both(t, Config{Limits: Limits{TotalQueuedMessages: 5}}, func(r *rig) {
		r.away("slow", "slow", 1)
		fast := r.connect(mqtt.V5, "fast")
		fast.subscribe(sub("fast", 1))
		pub := r.connect(mqtt.V5, "p")
		for range 5 {
			pub.publish("slow", "x", 1)
		}
		if code := pub.publishPacket(post("slow", "x", 1)); code != mqtt.QuotaExceeded {
			t.Errorf("one too many: %s", code)
		}
		for range 10 {
			if code := pub.publishPacket(post("fast", "x", 1)); code != mqtt.Success {
				t.Errorf("for a client that keeps up: %s", code)
			}
			fast.want("x")
		}
	})
}

// countingStore counts what is in use of each message, and how many are loaded.
type countingStore struct {
	store.Memory
	mu    sync.Mutex
	uses  map[store.Position]int
	loads int
}

func (s *countingStore) Append(r *store.Record) (store.Position, error) {
	at, err := s.Memory.Append(r)
	if r.Kind == store.Accepted {
		s.Use(at, len(r.Recipients))
		if r.Message.Retain && len(r.Message.Payload) > 0 {
			s.Use(at, 1)
		}
	}
	return at, err
}

func (s *countingStore) Use(at store.Position, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses == nil {
		s.uses = make(map[store.Position]int)
	}
	if s.uses[at] += n; s.uses[at] == 0 {
		delete(s.uses, at)
	}
}

func (s *countingStore) LoadAll(at []store.Position, f func(int, *store.Record, error) bool) {
	s.Memory.LoadAll(at, func(i int, r *store.Record, err error) bool {
		s.loads++ // one client takes at a time
		return f(i, r, err)
	})
}

// What waits for a slow client is in the store, even when its session ends with its connection. It comes in order and with what
// belongs to each client's own subscription, and in the end nothing is in use.
func TestSlowClientsSpill(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		s := &countingStore{}
		r := start(t, Config{Store: s})
		slow := make([]*client, 3)
		for i := range slow {
			slow[i] = r.connect(mqtt.V5, fmt.Sprint("slow-", i), fresh, with(mqtt.ReceiveMaximum, 1))
			slow[i].trySubscribe(mqtt.Properties{}.WithInt(mqtt.SubscriptionIdentifier, uint32(i+1)), sub("a/#", mqtt.QoS(1+i%2)))
		}
		pub := r.connect(mqtt.V5, "p")
		all := numbers("m", 1000)
		for i, m := range all {
			pub.publish("a/b", m, mqtt.QoS(1+i%2))
		}
		for i, c := range slow[:2] {
			for _, want := range all {
				m := c.take()
				if id := m.IDs; string(m.Payload) != want || len(id) != 1 || id[0] != uint32(i+1) {
					t.Fatalf("client %d got %s with identifiers %v, want %s", i, m.Payload, id, want)
				}
			}
			c.silent()
		}
		slow[2].drop() // with all that waits
		if spilled := 2 * (len(all) - spillAfter - 2); s.loads < spilled {
			t.Errorf("%d messages were loaded from the store, want at least %d", s.loads, spilled)
		}
		if len(s.uses) > 0 {
			t.Errorf("%d messages are still in use", len(s.uses))
		}
	})
}

// A topic is as safe as the first filter says that matches it.
func TestDurabilityByTopic(t *testing.T) {
	byTopic := []Durability{{Filter: "live/#", Memory: true}, {Filter: "#", Promise: store.Written}}
	bubbles(t, func(t *testing.T, start starter) {
		s := &countingStore{}
		r := start(t, Config{Store: s, Durabilities: byTopic})
		r.away("c", "#", 1)
		pub := r.connect(mqtt.V5, "p")
		pub.publish("live/1", "forgotten", 1)
		pub.publish("live/2", "kept as QoS 2", 2)
		pub.publish("kept/1", "kept", 1)
		pub.publish("kept/2", "kept too", 2)
		pub.publishPacket(retain("live/last", "forgotten", 1))
		pub.publishPacket(retain("kept/last", "kept", 1))
		next := r.another(Config{Store: s.Clone(), Durabilities: byTopic})
		next.connect(mqtt.V5, "c", resume, lasting(1000)).want("kept as QoS 2", "kept", "kept too", "kept")
		n := next.connect(mqtt.V5, "n")
		n.subscribe(sub("#", 0))
		n.want("kept")
		n.silent()
		r.connect(mqtt.V5, "c", resume, lasting(1000)).want("forgotten", "kept as QoS 2", "kept", "kept too", "forgotten", "kept")
	})
}

// A retained message that is only in memory replaces one in the store, after a restart too.
func TestDurabilityOfRetained(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		s := &store.Memory{}
		r := start(t, Config{Store: s})
		r.connect(mqtt.V5, "p").publishPacket(retain("a", "old", 1))
		next := r.another(Config{Store: s.Clone(), Durabilities: []Durability{{Filter: "a", Memory: true}}})
		next.connect(mqtt.V5, "p").publishPacket(retain("a", "new", 1))
		c := next.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 1))
		c.want("new")
		last := r.another(Config{Store: next.b.store.(*store.Memory).Clone()})
		c = last.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 1))
		c.silent()
	})
}

func TestDurabilityOfNoFilter(t *testing.T) {
	if b, err := New(Config{Durabilities: []Durability{{Filter: "a/#/b"}}}); err == nil {
		t.Error("accepted")
		_ = b.Shutdown(t.Context())
	}
}

// What waits counts as many bytes after a restart as before, with checkpoints in between or not.
func TestQuotaAfterRestart(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		r.away("c", "a", 1)
		pub := r.connect(mqtt.V5, "p")
		for range 200 {
			pub.publish("a", strings.Repeat("x", 99), 1)
		}
		before := r.b.Stats()
		for range 3 {
			r = restart()
			if st := r.b.Stats(); st.QueuedBytes != before.QueuedBytes || st.QueuedMessages != 200 {
				t.Errorf("%d messages of %d bytes wait, before the restart %d of %d", st.QueuedMessages, st.QueuedBytes, before.QueuedMessages, before.QueuedBytes)
			}
		}
	})
}

// A Will that no receiver has room for was published all the same, and is not published again after a restart.
func TestQuotaOfWill(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		s := &store.Memory{}
		limits := Limits{QueuedMessages: 1}
		r := start(t, Config{Store: s, Limits: limits})
		r.away("c", "#", 1)
		r.connect(mqtt.V5, "p").publish("a", "fills the queue", 1)
		dying := r.connect(mqtt.V5, "dying", lasting(1000), leaving(mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1}))
		dying.drop()
		next := r.another(Config{Store: s.Clone(), Limits: Limits{QueuedMessages: 10}})
		c := next.connect(mqtt.V5, "c", resume, lasting(1000))
		c.want("fills the queue")
		c.silent()
	})
}
