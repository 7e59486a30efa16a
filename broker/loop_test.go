package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/poll"
	"github.com/magpiemq/magpie/mqtt"
)

// looped waits until a loop serves the client.
func (c *client) looped() *client {
	c.Helper()
	c.until("a loop to serve "+c.id, func() bool { return c.outbox(c.id).socket.onLoop() })
	return c
}

// onLoops runs a test in a bubble with a broker that is served by loops, and whose kernel does not disturb it.
func onLoops(t *testing.T, cfg Config, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newRigOn(newKernel(t, 1, 0, 64<<10), cfg)) })
}

// holdUp is an authorizer, an authenticator and an Authentication Method that does not answer questions about the client slow while
// answer is there and not closed.
type holdUp struct {
	action Action // which it is; 0 for logins
	answer chan struct{}
}

func (h *holdUp) wait(id string, a Action) {
	if id == "slow" && a == h.action && h.answer != nil {
		<-h.answer
	}
}

func (h *holdUp) Authorize(c *ClientInfo, a Action, _ string) error {
	h.wait(c.ClientID, a)
	return nil
}

func (h *holdUp) Authenticate(_ context.Context, r *ConnectRequest) (Grant, error) {
	h.wait(r.ClientID, 0)
	return Grant{}, nil
}

func (h *holdUp) Method() string                          { return "slow" }
func (h *holdUp) Start(*ConnectRequest) (Exchange, error) { return h, nil }
func (h *holdUp) Grant() Grant                            { return Grant{} }
func (h *holdUp) Next(context.Context, []byte) (reply []byte, done bool, err error) {
	h.wait("slow", 0)
	return nil, true, nil
}

// byMethod is for a CONNECT or an AUTH that names the Authentication Method.
func byMethod(p mqtt.Properties) mqtt.Properties {
	return p.WithString(mqtt.AuthenticationMethod, "slow")
}

// TestWaitingHoldsUpOne: whatever one client of a loop has to wait for, all others are served. There is one loop, so that it would be
// seen to wait: nothing moves any more then.
func TestWaitingHoldsUpOne(t *testing.T) {
	for name, tc := range map[string]struct {
		action Action
		packet []byte // nil for the CONNECT
		gone   bool   // the client leaves with it
	}{
		"subscribe":    {Subscribe, (&mqtt.Subscribe{PacketID: 7, Subscriptions: []mqtt.Subscription{sub("a", 0)}}).Append(nil, mqtt.V5), false},
		"publish":      {Write, (&mqtt.Publish{Topic: []byte("a"), QoS: 1, PacketID: 7}).Append(nil, mqtt.V5), false},
		"will":         {Write, (&mqtt.Disconnect{Code: mqtt.DisconnectWithWill}).Append(nil, mqtt.V5), true},
		"login":        {0, nil, false},
		"log in again": {0, (&mqtt.Auth{Code: mqtt.ReAuthenticate, Props: byMethod(nil)}).Append(nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			h := &holdUp{action: tc.action}
			onLoops(t, Config{Loops: 1, Authorizer: h, Authenticator: h, Enhanced: []EnhancedAuthenticator{h}}, func(r *rig) {
				others := []*client{r.connect(mqtt.V5, "a").looped(), r.connect(mqtt.V311, "b").looped()}
				others[0].subscribe(sub("#", 1))
				slow := r.open(mqtt.V5)
				connect := mqtt.Connect{Version: mqtt.V5, ClientID: "slow", Will: &mqtt.Will{Topic: "w", Payload: []byte("will")}, Props: byMethod(nil)}
				if packet := connect.Append(nil); tc.packet == nil {
					h.answer = make(chan struct{})
					slow.send(packet)
				} else {
					slow.send(packet)
					expect[mqtt.Connack](slow)
					slow.id = "slow"
					slow.looped()
					h.answer = make(chan struct{})
					slow.send(tc.packet)
				}
				if !tc.gone {
					slow.send(mqtt.AppendPingreq(nil))
				}
				synctest.Wait()
				for i := range 20 {
					others[1].publish("x", fmt.Sprint(i), mqtt.QoS(i%2))
					others[0].want(fmt.Sprint(i))
				}
				if n := len(slow.nc.(*memConn).got); n != 0 {
					t.Fatalf("the client was sent %d bytes before it was decided about it", n)
				}
				close(h.answer)
				if tc.gone {
					others[0].want("will")
					return
				}
				if p, err := slow.next(); err != nil || p == (pong{}) {
					t.Fatalf("the answer is %v, %v", p, err)
				}
				expect[pong](slow)
			})
		})
	}
}

// busyStore is one whose disk does not keep up when it says so.
type busyStore struct {
	manualStore
	busy atomic.Bool
}

func (s *busyStore) Busy() bool { return s.busy.Load() }

// TestBusyStoreHoldsPublishers: while the disk does not keep up, a client on a loop is not read any more, as everywhere else.
func TestBusyStoreHoldsPublishers(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		s := &busyStore{}
		r := start(t, Config{Store: s})
		c := r.connect(mqtt.V5, "c")
		c.barrier()
		s.busy.Store(true)
		packet := (&mqtt.Publish{Topic: []byte("a"), QoS: 0}).Append(nil, mqtt.V5)
		c.send(packet)
		synctest.Wait()
		taken := r.b.Stats().MessagesReceived[0]
		if taken != 1 {
			t.Fatalf("%d messages were taken, want the one that came before anybody looked", taken)
		}
		go func() {
			for range 3 {
				c.send(packet)
			}
		}()
		time.Sleep(time.Minute)
		if n := r.b.Stats().MessagesReceived[0]; n != taken {
			t.Errorf("%d messages were taken while the store was busy, want %d", n, taken)
		}
		s.busy.Store(false)
		time.Sleep(time.Minute)
		if n := r.b.Stats().MessagesReceived[0]; n != taken+3 {
			t.Errorf("%d messages were taken, want %d", n, taken+3)
		}
	})
}

// TestGreedyClientEnds: a client whose bytes are never all read can be disconnected like any other.
func TestGreedyClientEnds(t *testing.T) {
	for name, cfg := range map[string]Config{
		"loop": {}, "goroutine": {Limits: Limits{PublishRate: 100_000, PublishBurst: 1}}, // it is made to wait
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, cfg, func(r *rig) {
				const rounds = 3000
				c := r.connect(mqtt.V5, "c").looped()
				server := c.nc.(*memConn).peer
				r.k.mu.Lock()
				server.flood, server.rounds = publishBytes(post("a", strings.Repeat("x", 1000), 0), mqtt.V5), rounds
				server.onFlood = sync.OnceFunc(func() { go r.b.Kick("c", mqtt.AdministrativeAction, true) })
				server.got = append(server.got, server.flood...)
				server.changed()
				r.k.mu.Unlock()
				c.wantEnd(mqtt.AdministrativeAction)
				r.k.mu.Lock()
				defer r.k.mu.Unlock()
				if server.rounds == 0 {
					t.Errorf("it was disconnected after all its %d reads", rounds)
				}
			})
		})
	}
}

// TestSocketFaults: what the kernel refuses costs one connection at most, and never a descriptor.
func TestSocketFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  func(*kernel)
		served bool // all the same
		told   bool // why it ends
	}{
		"take": {func(k *kernel) { k.failTake = syscall.EMFILE }, true, true},
		"add":  {func(k *kernel) { k.failAdd = syscall.ENOSPC }, false, false},
		"give": {func(k *kernel) { k.failGive = syscall.EMFILE }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, Config{}, func(r *rig) {
				good := r.connect(mqtt.V5, "good").looped()
				r.k.mu.Lock()
				tc.fault(r.k)
				r.k.mu.Unlock()
				c := r.connect(mqtt.V5, "c")
				if tc.served {
					for range 3 {
						c.subscribe(sub("a", 1))
						good.publish("a", "x", 1)
						c.want("x")
					}
					r.b.Kick("c", mqtt.AdministrativeAction, true)
				}
				if _, told := c.ended(); told != tc.told {
					t.Errorf("the client was told: %v", told)
				}
				c.gone()
				good.barrier()
				r.k.mu.Lock()
				r.k.failTake, r.k.failAdd, r.k.failGive = nil, nil, nil
				r.k.mu.Unlock()
				r.connect(mqtt.V5, "next").looped().barrier()
			})
		})
	}
}

// TestNoLoops: when there cannot be loops, every connection has a goroutine; a broker that has to have them is not made.
func TestNoLoops(t *testing.T) {
	none := func() (poller, error) { return nil, errors.New("no descriptors") }
	synctest.Test(t, func(t *testing.T) {
		k := newKernel(t, 1, 0, 100)
		r := newRig(t, Config{newPoller: none})
		r.k = k
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 1))
		c.publish("b", "x", 2)
		if c.outbox("c").socket.onLoop() {
			t.Error("on a loop all the same")
		}
		c.leave()
		k.check()
	})
	if b, err := New(Config{IO: IOReactor, newPoller: none}); err == nil {
		t.Errorf("made a broker: %v", b)
	}
}

// noisy makes the kernel tell events of sockets that are not there, two with each wait, as long as on is true. A wait takes as long as
// a loop needs that has much to do, in the bubble's time.
func noisy(k *kernel, on *atomic.Bool) {
	k.onWait = func(time.Duration) {
		if !on.Load() {
			return
		}
		time.Sleep(briefly / 2)
		k.mu.Lock()
		defer k.mu.Unlock()
		for range 2 {
			k.stale = append(k.stale, poll.Event{FD: firstFD, Tag: 1 << 30, Readable: true, Writable: true, HungUp: true})
		}
	}
}

// TestHelpersRest: loops that helped the first one sleep when there is nothing to do, even when nothing ever comes again.
func TestHelpersRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, on := newKernel(t, 1, 0, 1000), &atomic.Bool{}
		var waits, brief atomic.Int64
		noisy(k, on)
		noise := k.onWait
		k.onWait = func(most time.Duration) {
			waits.Add(1)
			if most > 0 {
				brief.Add(1)
			}
			noise(most)
		}
		r := newRigOn(k, Config{Loops: 3})
		c := r.connect(mqtt.V5, "c").looped()
		on.Store(true)
		c.send(mqtt.AppendPingreq(nil)) // wakes the first
		time.Sleep(4 * strainAfter)
		if brief.Load() == 0 {
			t.Fatal("nobody helped")
		}
		on.Store(false)
		time.Sleep(time.Second)
		before := waits.Load()
		time.Sleep(time.Minute)
		if n := waits.Load() - before; n != 0 {
			t.Errorf("%d waits in a minute in which nothing happened", n)
		}
		expect[pong](c)
		c.barrier()
	})
}

// TestShutdownOfBusyLoops: a broker ends whatever its loops are at: when one asks another for help, when the first has nothing to do
// and another still looks, and once more when it has ended.
func TestShutdownOfBusyLoops(t *testing.T) {
	for _, silent := range []bool{false, true} {
		for round := range 20 {
			synctest.Test(t, func(t *testing.T) {
				k, on := newKernel(t, uint64(round), 0, 1000), &atomic.Bool{}
				noisy(k, on)
				r := newRigOn(k, Config{Loops: 1 + round%4})
				c := r.connect(mqtt.V5, "c").looped()
				on.Store(true)
				c.send(mqtt.AppendPingreq(nil))
				expect[pong](c)
				_ = c.nc.Close()
				time.Sleep(4*strainAfter + time.Duration(round)*time.Microsecond)
				if silent {
					on.Store(false)
				}
				if err := r.b.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				on.Store(false)
			})
		}
	}
}

// manualLoop is a broker of which the test itself is the loop.
type manualLoop struct {
	*rig
	l *loop
}

func newManualLoop(t *testing.T, room int, cfg Config) *manualLoop {
	k := newKernel(t, 1, 0, room)
	k.manual = true
	cfg.Loops = 1
	m := &manualLoop{rig: newRigOn(k, cfg)}
	m.l = &loop{loops: &m.b.loops}
	return m
}

// join connects a client that is the loop's, and subscribes it. It hears nothing any more but what the test reads.
func (m *manualLoop) join(v mqtt.Version, id string, subs ...mqtt.Subscription) *client {
	m.Helper()
	c := m.connect(v, id).looped()
	for i, s := range subs {
		p := mqtt.Subscribe{PacketID: uint16(i + 1), Subscriptions: []mqtt.Subscription{s}}
		c.send(p.Append(nil, v))
		m.turns(1)
		synctest.Wait() // a SUBSCRIBE is for a goroutine
		expect[mqtt.Suback](c)
	}
	m.turns(2) // the first edge of the socket is behind it
	return c
}

func (m *manualLoop) turns(n int) {
	for range n {
		m.l.turn(0)
	}
}

// TestFairTurns: one client at full blast, with more than any turn takes, does not keep others waiting: what they ask before a turn is
// answered in it.
func TestFairTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManualLoop(t, 1<<20, Config{})
		greedy := m.join(mqtt.V5, "greedy")
		others := make([]*client, 50)
		for i := range others {
			others[i] = m.join(mqtt.V311, fmt.Sprint("c", i))
		}
		blast := bytes.Repeat((&mqtt.Publish{Topic: []byte("a"), Payload: []byte("x")}).Append(nil, mqtt.V5), 100_000)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = greedy.nc.Write(append(blast, (&mqtt.Disconnect{}).Append(nil, mqtt.V5)...))
		}()
		synctest.Wait()
		turns := 0
		for ; m.b.Stats().Connections > len(others); turns++ {
			for _, c := range others {
				c.send(mqtt.AppendPingreq(nil))
			}
			m.turns(1)
			for _, c := range others {
				if got := c.nc.(*memConn).got; !bytes.Equal(got, pingresp) {
					t.Fatalf("turn %d: %s was answered %x", turns, c.id, got)
				}
				expect[pong](c)
			}
			synctest.Wait()
		}
		<-done
		if least := len(blast) / readSize; turns < least {
			t.Errorf("%d bytes took %d turns, want at least %d", len(blast), turns, least)
		}
		if n := m.b.Stats().MessagesReceived[0]; n != 100_000 {
			t.Errorf("%d messages came", n)
		}
	})
}

// TestNoAllocationOnLoop: a QoS 0 message costs no allocation on its way from one socket of a loop to others.
func TestNoAllocationOnLoop(t *testing.T) {
	if underRace {
		return // pools forget then, on purpose
	}
	synctest.Test(t, func(t *testing.T) {
		m := newManualLoop(t, 64<<10, Config{})
		pub := m.join(mqtt.V5, "p")
		const receivers, runs = 100, 200
		subs := make([]*memConn, receivers)
		for i := range subs {
			subs[i] = m.join(versions[i%3], fmt.Sprint("s", i), sub("a/+", 0)).nc.(*memConn)
			subs[i].sink = true
		}
		packet := publishBytes(post("a/b", "0123456789abcdef", 0), mqtt.V5)
		if n := testing.AllocsPerRun(runs, func() { _, _ = pub.nc.Write(packet); m.l.turn(0) }); n != 0 {
			t.Errorf("%v allocations per message", n)
		}
		if n := m.b.Stats().MessagesSent[0]; n != receivers*(runs+1) {
			t.Errorf("%d messages sent, want %d", n, receivers*(runs+1))
		}
		for i, c := range subs {
			if want := (runs + 1) * len(publishBytes(post("a/b", "0123456789abcdef", 0), versions[i%3])); c.sunk != want {
				t.Fatalf("receiver %d has %d bytes, want %d", i, c.sunk, want)
			}
		}
	})
}

// TestOneWritePerTurn: what many publishers send at once is one write for who receives it.
func TestOneWritePerTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManualLoop(t, 64<<10, Config{})
		sink := m.join(mqtt.V5, "s", sub("a", 0))
		var pubs []*client
		for i := range 100 {
			pubs = append(pubs, m.join(mqtt.V311, fmt.Sprint("p", i)))
		}
		before := sink.nc.(*memConn).writes
		for i, p := range pubs {
			p.send(publishBytes(post("a", fmt.Sprint(i), 0), mqtt.V311))
		}
		m.turns(1)
		if n := sink.nc.(*memConn).writes - before; n != 1 {
			t.Errorf("%d writes for 100 messages", n)
		}
		got := make(map[string]bool)
		for range pubs {
			got[string(sink.message().Payload)] = true
		}
		if len(got) != len(pubs) {
			t.Errorf("%d messages came", len(got))
		}
	})
}

// TestHostileKernel has clients exchange messages of all sizes over sockets that do as little as a socket may, at the worst time, and
// sees that each gets everything, in order, once.
func TestHostileKernel(t *testing.T) {
	seeds := uint64(40)
	if underRace {
		seeds = 8
	}
	for seed := firstSeed(t); seed < firstSeed(t)+seeds; seed++ {
		synctest.Test(t, func(t *testing.T) { playHostile(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// hostile is one game: what is published by whom.
type hostile struct {
	*rig
	rng  *rand.Rand
	seed uint64
}

func playHostile(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 21))
	k := newKernel(t, seed, []int{0, 2, 4, 16}[rng.IntN(4)], []int{1, 7, 100, 4096, 100_000}[rng.IntN(5)])
	cfg := Config{Loops: 1 + rng.IntN(3), Pace: []time.Duration{-1, 0, time.Millisecond}[rng.IntN(3)], Limits: Limits{OutboxBytes: 1000 << rng.IntN(8)}}
	h := &hostile{newRigOn(k, cfg), rng, seed}
	const publishers, messages = 4, 15
	var wait sync.WaitGroup
	for i := range 5 {
		c := h.connect(versions[i%3], fmt.Sprint("s", i))
		c.subscribe(sub("a/1", 1), sub("a/2", 2))
		lazy := rng.IntN(3) == 0
		wait.Go(func() { h.receive(c, publishers*messages, lazy) })
	}
	for i := range publishers {
		c := h.connect(versions[i%3], fmt.Sprint("p", i))
		sizes := make([]int, messages)
		for j := range sizes {
			if sizes[j] = rng.IntN(50); rng.IntN(6) == 0 {
				sizes[j] = rng.IntN(min(40*k.room, 60_000))
			}
		}
		wait.Go(func() { h.publishAll(c, i, sizes) })
	}
	for range 20 { // who come and go in between, with their descriptors
		h.pass()
	}
	wait.Wait()
	if st := h.b.Stats(); st.QueuedMessages != 0 {
		t.Errorf("seed %d: %d messages wait", seed, st.QueuedMessages)
	}
}

// publishAll publishes messages of these sizes, one after the other.
func (h *hostile) publishAll(c *client, number int, sizes []int) {
	for i, size := range sizes {
		qos := mqtt.QoS(1 + (number+i)%2)
		c.publish(fmt.Sprintf("a/%d", qos), fmt.Sprintf("%d %d %s", number, i, strings.Repeat("x", size)), qos)
	}
}

// receive takes n messages. Of each publisher and QoS they come in order and once.
func (h *hostile) receive(c *client, n int, lazy bool) {
	last := make(map[[2]int]int)
	for range n {
		if lazy {
			time.Sleep(time.Millisecond)
		}
		m := c.take()
		var from, number int
		if _, err := fmt.Sscan(string(m.Payload[:min(20, len(m.Payload))]), &from, &number); err != nil {
			h.Errorf("seed %d: %s: a message %q", h.seed, c.id, m.Payload[:min(20, len(m.Payload))])
			return
		}
		key := [2]int{from, int(m.QoS)}
		if before, ok := last[key]; ok && number <= before {
			h.Errorf("seed %d: %s: message %d of publisher %d behind %d", h.seed, c.id, number, from, before)
			return
		}
		last[key] = number
	}
	c.silent()
}

// pass has a client connect and leave in some way.
func (h *hostile) pass() {
	c := h.open(mqtt.V5)
	p := mqtt.Connect{Version: mqtt.V5, ClientID: fmt.Sprint("x", h.rng.IntN(3)), CleanStart: true}
	b := p.Append(nil)
	switch h.rng.IntN(5) {
	case 0:
		b = b[:1+h.rng.IntN(len(b)-1)]
	case 1:
		b = (&mqtt.Disconnect{}).Append(b, mqtt.V5)
	case 2:
		b = append(b, publishBytes(post("x", strings.Repeat("y", 100), 0), mqtt.V5)[:50]...)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = c.nc.Write(b)
	}()
	for range h.rng.IntN(20) {
		time.Sleep(10 * time.Microsecond)
	}
	switch h.rng.IntN(3) {
	case 0:
		c.nc.(*memConn).abort()
	case 1:
		_ = c.nc.(*memConn).CloseWrite()
		time.Sleep(time.Millisecond)
		_ = c.nc.Close()
	default:
		_ = c.nc.Close()
	}
	<-sent
}

// TestStaleEvents: events of a socket that is gone do not reach the one that has its descriptor now: a client is not ended, nor read by
// two, because of them.
func TestStaleEvents(t *testing.T) {
	onLoops(t, Config{}, func(r *rig) {
		first := r.connect(mqtt.V5, "first").looped()
		old := &r.outbox("first").socket
		stale := poll.Event{FD: int(old.fd), Tag: old.tag, Readable: true, Writable: true, HungUp: true}
		first.drop()
		second := r.connect(mqtt.V5, "second").looped()
		now := &r.outbox("second").socket
		if int(now.fd) != stale.FD || now.tag == stale.Tag {
			t.Fatalf("descriptor %d and tag %d after %d and %d", now.fd, now.tag, stale.FD, stale.Tag)
		}
		for range 100 {
			r.k.mu.Lock()
			r.k.stale = append(r.k.stale, stale)
			r.k.woken.Signal()
			r.k.mu.Unlock()
			second.barrier()
		}
		if now.state.Load()&isHungUp != 0 {
			t.Error("it is said to have hung up")
		}
	})
}

// TestTagsNeverZero: the tag that marks the alarm of the real kernel is given to nobody, even after four billion sockets.
func TestTagsNeverZero(t *testing.T) {
	var ls loops
	ls.tag.Store(^uint32(0) - 1)
	got := []uint32{ls.nextTag(), ls.nextTag(), ls.nextTag()}
	if want := []uint32{^uint32(0), 1, 2}; !slices.Equal(got, want) {
		t.Errorf("tags %d, want %d", got, want)
	}
}
