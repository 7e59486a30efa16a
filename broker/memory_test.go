package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

const mib = 1 << 20

// gauge is what a test says is used: a base, and with counts what the broker has counted itself.
type gauge struct {
	base   atomic.Int64
	counts atomic.Pointer[memory]
}

func (g *gauge) used() int64 {
	n := g.base.Load()
	if m := g.counts.Load(); m != nil {
		n += m.held.Load()
	}
	return n
}

// memoryRig starts a broker with a limit of 100 MiB and a gauge that says what is used.
func memoryRig(t *testing.T, cfg Config, start starter) (*rig, *gauge) {
	g := &gauge{}
	if cfg.Limits.Memory == 0 {
		cfg.Limits.Memory = 100 * mib
	}
	cfg.MemoryUsed = g.used
	if cfg.collect == nil {
		cfg.collect = func() {}
	}
	return start(t, cfg), g
}

// memoryBubble runs a test with such a broker and a clock of its own. In the end, when all clients have gone, nothing is held.
func memoryBubble(t *testing.T, cfg Config, test func(*rig, *gauge)) {
	t.Helper()
	bubbles(t, func(t *testing.T, start starter) {
		r, g := memoryRig(t, cfg, start)
		test(r, g)
	})
}

// use sets the gauge, and waits for the next look.
func (r *rig) use(g *gauge, bytes int64) {
	g.base.Store(bytes)
	r.look1()
}

// look1 waits until the broker has looked once more.
func (r *rig) look1() {
	time.Sleep(memoryInterval)
	synctest.Wait()
}

// nothingHeld waits for what follows from connections that have ended. Then nothing is counted but what is retained.
func (r *rig) nothingHeld() {
	r.Helper()
	time.Sleep(2 * lastWords)
	synctest.Wait()
	if got, retained := r.b.memory.held.Load(), r.b.retained.held; got != retained {
		r.Errorf("%d bytes are counted in the end, want the %d of retained messages", got, retained)
	}
	if u := &r.b.unfinished; u.total != 0 || u.order.Len() != 0 {
		r.Errorf("unfinished packets of %d bytes, of %d connections, are counted in the end", u.total, u.order.Len())
	}
}

// drain reads what comes for a client, on a goroutine, and answers nothing.
func (c *client) drain() {
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.nc.Read(buf); err != nil {
				return
			}
		}
	}()
}

func TestMemoryLevels(t *testing.T) {
	memoryBubble(t, Config{SysInterval: time.Hour}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub(memoryTopic, mqtt.AtLeastOnce))
		for _, step := range []struct {
			used int64
			want MemoryLevel
		}{
			{10 * mib, MemoryNormal}, {84 * mib, MemoryNormal}, {85 * mib, MemorySoft}, {80 * mib, MemorySoft}, {80*mib - 1, MemoryNormal},
			{95*mib - 1, MemorySoft}, {95 * mib, MemoryHard}, {90 * mib, MemoryHard}, {90*mib - 1, MemorySoft}, {0, MemoryNormal},
			{200 * mib, MemoryHard}, {1, MemoryNormal},
		} {
			before := r.b.Stats().MemoryLevel
			r.use(g, step.used)
			st := r.b.Stats()
			if st.MemoryLevel != step.want || st.MemoryUsed != step.used || st.MemoryLimit != 100*mib {
				r.Fatalf("at %d: %v, %d used of %d, want %v", step.used, st.MemoryLevel, st.MemoryUsed, st.MemoryLimit, step.want)
			}
			if before == step.want {
				c.silent()
				continue
			}
			var e memoryEvent
			if err := json.Unmarshal(c.take().Payload, &e); err != nil {
				r.Fatal(err)
			}
			want := memoryEvent{Event: "level", Level: step.want.String(), Before: before.String(), Used: step.used, Limit: 100 * mib, Time: e.Time}
			if e != want || time.Since(e.Time) > time.Second {
				r.Errorf("event %+v, want %+v", e, want)
			}
		}
	})
}

// Garbage is collected before anybody notices that memory is short, at most every ten seconds; and once more before somebody is
// disconnected.
func TestMemoryCollects(t *testing.T) {
	var collected, garbage atomic.Int64
	var meter atomic.Pointer[gauge]
	collect := func() {
		collected.Add(1)
		meter.Load().base.Add(-garbage.Swap(0))
	}
	memoryBubble(t, Config{collect: collect}, func(r *rig, g *gauge) {
		meter.Store(g)
		collected.Store(0)
		garbage.Store(20 * mib)
		c := r.hoarder("c", 2*mib)
		r.use(g, 96*mib)
		if l := r.b.Stats().MemoryLevel; l != MemoryNormal || collected.Load() != 1 {
			r.Fatalf("with garbage: %v after %d collections", l, collected.Load())
		}
		r.use(g, 86*mib)
		time.Sleep(collectEvery - 3*memoryInterval)
		synctest.Wait()
		if l := r.b.Stats().MemoryLevel; l != MemorySoft || collected.Load() != 1 {
			r.Fatalf("soft: %v after %d collections", l, collected.Load())
		}
		r.look1()
		r.look1()
		if collected.Load() != 2 {
			r.Errorf("%d collections after ten seconds", collected.Load())
		}
		garbage.Store(10 * mib)
		r.use(g, 96*mib)
		if collected.Load() != 3 || r.b.Stats().MemoryLevel != MemorySoft {
			r.Errorf("%d collections before a client is disconnected", collected.Load())
		}
		c.wantGone(false)
	})
}

// hoarder connects a client that takes nothing of what is sent to it, while about that many bytes wait in its outbox.
func (r *rig) hoarder(id string, bytes int, options ...option) *client {
	r.Helper()
	c := r.connect(mqtt.V5, id, options...)
	c.subscribe(sub(id, mqtt.AtMostOnce))
	m := &mqtt.Message{Topic: id, Payload: make([]byte, bytes)}
	if err := r.b.Publish(m); err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
	return c
}

// gone1 compares whether the broker has ended the connection.
func (c *client) wantGone(want bool) {
	c.Helper()
	if st, there := c.b.Client(c.id); (there && st.Connected) == want {
		c.Errorf("%s has gone: %v, want %v", c.id, !want, want)
	}
}

// A listener whose connections are pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Addr() net.Addr { return nowhere{} }

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

// At the soft level a connection comes in with each look, or in place of one that came in so; at the hard level none, and all when it is
// over.
func TestMemoryAccept(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		ln := &pipeListener{make(chan net.Conn, 100), make(chan struct{})}
		ctx, cancel := context.WithCancel(r.Context())
		served := make(chan error)
		go func() { served <- r.b.Serve(ctx, ln) }()
		const most = 20
		r.use(g, 86*mib)
		var ends []net.Conn
		for range most {
			near, far := r.pair()
			defer near.Close()
			ends = append(ends, near)
			ln.conns <- far
		}
		came := func() int {
			synctest.Wait()
			return r.b.Stats().Connections
		}
		first := came()
		if first > doorStep {
			r.Errorf("%d connections came in at once", first)
		}
		for i := range 3 {
			r.look1()
			if n := came(); n != first+i+1 {
				r.Errorf("%d connections after %d looks, %d before", n, i+1, first)
			}
		}
		for range 2 {
			_ = ends[0].Close()
			ends = ends[1:]
			if n := came(); n != first+3 {
				r.Errorf("%d connections after one has gone, want %d", n, first+3)
			}
		}
		r.use(g, 96*mib)
		r.look1()
		r.look1()
		if n := came(); n != first+3 {
			r.Errorf("%d connections at the hard level, want %d", n, first+3)
		}
		if want := most - first - 6; len(ln.conns) != want { // two have gone, and one is in the hand of who accepts
			r.Errorf("%d connections wait in the listener, want %d", len(ln.conns), want)
		}
		r.use(g, 86*mib)
		r.look1()
		if n := came(); n < first+4 {
			r.Errorf("%d connections at the soft level again", n)
		}
		r.use(g, 0)
		if n := came(); n != most-2 {
			r.Errorf("%d connections when it is over, want %d", n, most-2)
		}
		r.use(g, 96*mib)
		near, far := r.pair()
		defer near.Close()
		ln.conns <- far
		synctest.Wait()
		cancel()
		if err := <-served; err != nil {
			r.Error(err)
		}
		if _, err := near.Read(make([]byte, 1)); err == nil {
			r.Error("who waited for the end is not told")
		}
	})
}

// Who has accepted a connection itself learns at once that there is no room.
func TestMemoryServeConn(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		r.use(g, 86*mib)
		nc := r.dial()
		if _, err := nc.Read(make([]byte, 1)); err == nil || r.b.Stats().Connections != 0 {
			r.Errorf("the connection is there (%v)", err)
		}
	})
}

func TestMemoryDropsQoS0(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("#", 1), sub("$SYS/#", 0))
		p := r.connect(mqtt.V311, "p")
		r.use(g, 86*mib)
		p.publish("a", "soft", 0)
		c.want("soft")
		r.use(g, 96*mib)
		p.publish("a", "dropped", 0)
		p.publish("a", "kept", 1)
		p.publish("a", "dropped", 0)
		if err := r.b.Publish(&mqtt.Message{Topic: "$SYS/x", Payload: []byte("news")}); err != nil {
			r.Fatal(err)
		}
		c.want("kept", "news")
		r.use(g, 89*mib)
		p.publish("a", "again", 0)
		c.want("again")
		if n := r.b.Stats().Dropped[DropMemory]; n != 2 {
			r.Errorf("%d messages were counted, want 2", n)
		}
		for _, c := range []*client{c, p} {
			c.leave()
		}
		r.nothingHeld()
	})
}

// The outbox of a client that does not read is a quarter at the soft level.
func TestMemoryOutbox(t *testing.T) {
	for used, want := range map[int64]int{0: 100, 86 * mib: 25} {
		memoryBubble(t, Config{Limits: Limits{OutboxBytes: 100 << 10}}, func(r *rig, g *gauge) {
			c := r.connect(mqtt.V311, "c")
			c.subscribe(sub("a", 0))
			r.use(g, used)
			m := &mqtt.Message{Topic: "a", Payload: make([]byte, 1<<10-6)}
			for range 200 {
				_ = r.b.Publish(m)
				synctest.Wait()
			}
			inSocket := 0
			if r.k != nil {
				inSocket = r.k.room >> 10
			}
			if got := 200 - int(r.b.Stats().Dropped[DropSlow]) - inSocket; got < want || got > want+1 {
				r.Errorf("with %d bytes in use, %d messages of 1 KiB went to a client that does not read, want %d", used, got, want)
			}
		})
	}
}

// One after the other goes, those first that nobody vouches for, then who holds most; nobody who holds little.
func TestMemoryDisconnects(t *testing.T) {
	vouch := authenticatorFunc(func(r *ConnectRequest) (Grant, error) { return Grant{User: r.Username}, nil })
	memoryBubble(t, Config{Authenticator: vouch, Limits: Limits{OutboxBytes: 10 * mib}, SysInterval: time.Hour}, func(r *rig, g *gauge) {
		watcher := r.connect(mqtt.V5, "watcher", user("w"))
		watcher.subscribe(sub(memoryTopic, 1))
		sizes := map[string]int{"few": mib / 2, "some": 3 * mib / 2, "more": 2 * mib, "most": 3 * mib, "stranger": 5 * mib / 4}
		clients := make(map[string]*client)
		for id, size := range sizes {
			who := user(id)
			if id == "stranger" {
				who = user("")
			}
			clients[id] = r.hoarder(id, size, who)
		}
		r.use(g, 96*mib)
		order := []string{"stranger", "most", "more", "some", "few"}
		for i, id := range order[:4] {
			r.wantVictim(watcher, id)
			for _, later := range order[i+1:] {
				if clients[later].wantGone(false); r.Failed() {
					r.Fatalf("%s has gone with %s", later, id)
				}
			}
		}
		time.Sleep(5 * time.Second)
		watcher.silent()
		for _, id := range order {
			clients[id].wantGone(id != "few")
		}
		if n := r.b.Stats().MemoryDisconnects; n != 4 {
			r.Errorf("%d were counted, want 4", n)
		}
		r.use(g, 0)
		for _, c := range clients {
			c.drain()
			_ = c.nc.Close()
		}
		watcher.drain()
		_ = watcher.nc.Close()
		r.nothingHeld()
	})
}

type authenticatorFunc func(*ConnectRequest) (Grant, error)

func (f authenticatorFunc) Authenticate(_ context.Context, r *ConnectRequest) (Grant, error) {
	return f(r)
}

// wantVictim reads events until one tells of a disconnect, of that client.
func (r *rig) wantVictim(watcher *client, id string) {
	r.Helper()
	for {
		var e memoryEvent
		if err := json.Unmarshal(watcher.take().Payload, &e); err != nil {
			r.Fatal(err)
		}
		if e.Event == "disconnect" {
			if e.Client != id || e.Held <= smallHolder || e.Level != "hard" {
				r.Fatalf("%+v, want %s", e, id)
			}
			return
		}
	}
}

// When what is used falls, nobody else goes.
func TestMemoryDisconnectsUntilItFalls(t *testing.T) {
	memoryBubble(t, Config{Limits: Limits{OutboxBytes: 10 * mib}}, func(r *rig, g *gauge) {
		for i := range 8 {
			r.hoarder(fmt.Sprint(i), 2*mib)
		}
		g.base.Store(90 * mib)
		g.counts.Store(&r.b.memory)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := r.b.Stats().MemoryDisconnects; n != 6 { // 90 + 8×2 is 106: it takes six to be below 95
			r.Errorf("%d were disconnected, want 6", n)
		}
	})
}

// A session in a store outlives its connection, and nothing of it is lost; what it held in memory is free.
func TestMemoryDisconnectsStored(t *testing.T) {
	s := &countingStore{}
	memoryBubble(t, Config{Store: s, SysInterval: time.Hour}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c", lasting(1000), fresh)
		c.subscribe(sub("a", 2))
		p := r.connect(mqtt.V5, "p")
		var want []string
		first := strings.Repeat("x", 100<<10)
		for i := range 60 {
			want = append(want, fmt.Sprint(first, i))
			q := post("a", want[i], mqtt.QoS(1+i%2))
			q.PacketID = c.newID()
			p.publishPacket(q)
			if m := c.message(); m.QoS == 2 && i%4 == 1 {
				c.ack(mqtt.PUBREC, m.PacketID, mqtt.Success)
				c.wantAck(mqtt.PUBREL, m.PacketID) // which stays without an answer
				want[i] = ""
			}
			synctest.Wait()
		}
		want = slices.DeleteFunc(want, func(s string) bool { return s == "" })
		c.drain()
		r.use(g, 96*mib)
		c.wantGone(true)
		st, there := r.b.Client("c")
		if !there || st.InFlight != 60 {
			r.Fatalf("the session: %v, %+v", there, st)
		}
		se := r.b.session("c")
		se.mu.Lock()
		if held := se.out.Held(); held != 0 {
			r.Errorf("the session holds %d bytes", held)
		}
		se.mu.Unlock()
		q := post("a", "while away", 1)
		p.publishPacket(q)
		se.mu.Lock()
		if held := se.out.Held(); held != 0 {
			r.Errorf("the session holds %d bytes of what came meanwhile", held)
		}
		se.mu.Unlock()
		r.use(g, 0)
		c = r.connect(mqtt.V5, "c", lasting(1000), resume)
		c.wantAll(append(want, "while away"))
		c.disconnect(mqtt.Success, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0))
		p.leave()
		r.nothingHeld()
		if len(s.uses) > 0 {
			r.Errorf("%d messages are still in use", len(s.uses))
		}
	})
}

// wantAll reads messages and PUBRELs until all of these have come, in their order.
func (c *client) wantAll(payloads []string) {
	c.Helper()
	for i, want := range payloads {
		if m := c.take(); string(m.Payload) != want {
			c.Fatalf("message %d is %.20q of %d bytes, want %.20q of %d", i, m.Payload, len(m.Payload), want, len(want))
		}
	}
	c.silent()
}

// A session that ends while its messages are in the store alone leaves nothing behind, and a Shared Subscription's go to others.
func TestMemoryUnloadedEnds(t *testing.T) {
	s := &countingStore{}
	memoryBubble(t, Config{Store: s}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c", lasting(10), fresh)
		c.subscribe(sub("a", 1), sub("$share/g/b", 1))
		p := r.connect(mqtt.V5, "p")
		for i := range 3 {
			p.publish("a", fmt.Sprint("a", i), 1)
			p.publish("b", fmt.Sprint("b", i), 1)
			c.message()
			c.message()
		}
		r.use(g, 86*mib)
		c.drop()
		r.use(g, 0)
		d := r.connect(mqtt.V5, "d", fresh)
		d.subscribe(sub("$share/g/b", 1))
		time.Sleep(11 * time.Second)
		d.want("b0", "b1", "b2")
		d.silent()
		d.leave()
		p.leave()
		r.nothingHeld()
		if len(s.uses) > 0 {
			r.Errorf("%d messages are still in use", len(s.uses))
		}
	})
}

// Without a store, a session that keeps some already keeps no more, and its publisher hears that; others go on.
func TestMemoryRefusesQueue(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		slow := r.connect(mqtt.V5, "slow", with(mqtt.ReceiveMaximum, 1))
		slow.subscribe(sub("slow", 1))
		fast := r.connect(mqtt.V5, "fast")
		fast.subscribe(sub("fast", 1))
		p := r.connect(mqtt.V5, "p")
		if r.b.store != nil {
			return // then it is the store that has them
		}
		r.use(g, 86*mib)
		half := strings.Repeat("x", 40<<10)
		for i, want := range []mqtt.ReasonCode{mqtt.Success, mqtt.Success, mqtt.QuotaExceeded, mqtt.QuotaExceeded} {
			if code := p.publishPacket(post("slow", half, 1)); code != want {
				r.Errorf("message %d: %v, want %v", i, code, want)
			}
			p.publish("fast", half, 1)
			fast.want(half)
		}
		if n := r.b.Stats().Dropped[DropMemory]; n != 2 {
			r.Errorf("%d messages were counted, want 2", n)
		}
		slow.want(half, half)
		if code := p.publishPacket(post("slow", half, 1)); code != mqtt.Success {
			r.Errorf("with room again: %v", code)
		}
	})
}

// What is kept is counted as it comes, and closes the door before the next look.
func TestMemoryBetweenLooks(t *testing.T) {
	memoryBubble(t, Config{Limits: Limits{TotalQueueBytes: Unlimited}}, func(r *rig, g *gauge) {
		g.base.Store(60 * mib)
		r.look1()
		g.counts.Store(&r.b.memory)
		p := r.connect(mqtt.V5, "p")
		payload := strings.Repeat("x", 900<<10)
		refused := 0
		for i := range 100 { // no time passes
			q := retain(fmt.Sprint("r/", i), payload, 1)
			q.PacketID = uint16(i + 1)
			if code := p.publishPacket(q); code == mqtt.QuotaExceeded {
				refused++
			}
		}
		if used := g.used(); used < 84*mib || used > 87*mib {
			r.Errorf("%d bytes are used in the end", used)
		}
		if refused < 60 {
			r.Errorf("%d were refused", refused)
		}
		again := retain("r/1", payload[1:], 1) // takes the place of another
		if code := p.publishPacket(again); code.Failed() {
			r.Errorf("a retained message in place of another: %v", code)
		}
		gone := retain("r/1", "", 1)
		if code := p.publishPacket(gone); code.Failed() {
			r.Errorf("removing a retained message: %v", code)
		}
		small := retain("small", "x", 1)
		if code := p.publishPacket(small); code.Failed() {
			r.Errorf("a small retained message: %v", code)
		}
		for i := range 100 {
			p.publishPacket(retain(fmt.Sprint("r/", i), "", 1))
		}
		p.publishPacket(retain("small", "", 1))
		p.leave()
		r.nothingHeld()
		if n := r.b.retained.held; n != 0 {
			r.Errorf("%d bytes of retained messages in the end", n)
		}
	})
}

// Retained messages take at most a third of the limit, whatever else there is.
func TestMemoryRetainedPart(t *testing.T) {
	memoryBubble(t, Config{Limits: Limits{Memory: 8 * mib}}, func(r *rig, _ *gauge) {
		p := r.connect(mqtt.V5, "p")
		payload := strings.Repeat("x", 1000)
		n := 0
		for ; n < 10_000; n++ {
			if p.publishPacket(retain(fmt.Sprint("r/", n), payload, 1)) == mqtt.QuotaExceeded {
				break
			}
		}
		if n < 2000 || n > 8*mib*retainedPart/100_000 {
			r.Errorf("%d messages of 1,000 bytes, in a third of 8 MiB", n)
		}
		if err := r.b.Publish(&mqtt.Message{Topic: "$SYS/x", Payload: []byte(payload), Retain: true}); err != nil {
			r.Errorf("what the server retains: %v", err)
		}
		three := r.connect(mqtt.V311, "three")
		q := retain("more", payload, 1)
		q.PacketID = 1
		three.send(q.Append(nil, mqtt.V311))
		three.wantEnd(0) // MQTT 3 has no code for it
	})
}

func TestMemorySubscriptions(t *testing.T) {
	memoryBubble(t, Config{Limits: Limits{TopicLevels: Unlimited}}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c")
		long := strings.Repeat("x", 40_000)
		c.subscribe(sub(long+"1", 0), sub(long+"2", 0))
		r.use(g, 86*mib)
		if codes := c.trySubscribe(nil, sub(long+"3", 0), sub(long+"1", 1)); codes[0] != mqtt.QuotaExceeded || codes[1] != 1 {
			r.Errorf("a new one and one again: %v", codes)
		}
		c.unsubscribe(long + "2")
		c.subscribe(sub("short", 0))
		d := r.b.session("c")
		d.mu.Lock()
		if n := d.subscriptionBytes(); n < 40_000 || n > 42_000 {
			r.Errorf("%d bytes of subscriptions", n)
		}
		d.mu.Unlock()
		c.leave()
		r.nothingHeld()
	})
}

func TestMemoryAliases(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c")
		alias := func(n uint16, name string) {
			q := post(name, "", 0)
			q.HasAlias, q.Alias = true, n
			c.send(q.Append(nil, mqtt.V5))
			c.barrier()
		}
		empty := r.b.memory.held.Load()
		alias(1, strings.Repeat("x", 60_000))
		alias(1, strings.Repeat("y", 50_000))
		alias(2, strings.Repeat("z", 40_000))
		alias(2, "short")
		alias(2, strings.Repeat("z", 10_000))
		if n := r.b.memory.held.Load() - empty; n < 60_000 || n > 100_000 {
			r.Errorf("%d bytes of aliases are counted", n)
		}
		r.use(g, 86*mib)
		alias(3, "short")
		q := post(strings.Repeat("x", 600), "", 0)
		q.HasAlias, q.Alias = true, 4
		c.send(q.Append(nil, mqtt.V5))
		c.wantEnd(mqtt.QuotaExceeded)
		r.nothingHeld()
	})
}

// MQTT 3 clients may open handshakes under all identifiers, but not when memory is short.
func TestMemoryHandshakes(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V311, "c")
		open := func(id int) {
			q := post("a", "", 2)
			q.PacketID = uint16(id)
			c.send(q.Append(nil, mqtt.V311))
		}
		for id := range 3000 {
			open(id + 1)
			c.wantAck(mqtt.PUBREC, uint16(id+1))
		}
		r.use(g, 86*mib)
		open(4000)
		c.wantEnd(0)
	})
}

// Whoever has been silent for longest makes room when too many large packets are unfinished. Who is sending, stays.
func TestMemoryUnfinished(t *testing.T) {
	var why error
	events := Events{Disconnected: func(_ *ClientInfo, err error) { why = err }}
	memoryBubble(t, Config{Limits: Limits{Memory: 32 * mib}, Events: events}, func(r *rig, _ *gauge) {
		begin := append([]byte{0x30}, claimed(mib-5)...)
		begin = append(begin, 0, 1, 'a')
		var all []*client
		for i := range 6 {
			c := r.connect(mqtt.V5, fmt.Sprint("c", i))
			all = append(all, c)
		}
		for i, c := range all {
			c.send(append(begin, make([]byte, 600<<10)...)) // takes a buffer of 1 MiB
			synctest.Wait()
			time.Sleep(time.Second)
			if i > 0 {
				all[1].send(make([]byte, 1<<10)) // is on its way
			}
			synctest.Wait()
		}
		for i, want := range []bool{true, false, true, false, false, false} {
			all[i].wantGone(want)
		}
		if !errors.Is(why, mqtt.QuotaExceeded) {
			r.Errorf("they went because of: %v", why)
		}
		if total := r.b.unfinished.total; total > 4*mib {
			r.Errorf("%d bytes are unfinished", total)
		}
		if n := r.b.Stats().MemoryDisconnects; n != 2 {
			r.Errorf("%d were counted, want 2", n)
		}
		for _, c := range all {
			_ = c.nc.Close()
		}
		r.nothingHeld()
	})
}

// claimed is a Remaining Length.
func claimed(n int) (b []byte) {
	for ; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// Large messages of QoS 1 wait while memory is very short, and come when it is not; small ones go on.
func TestMemoryDefers(t *testing.T) {
	for _, stored := range []bool{false, true} {
		cfg := Config{}
		if stored {
			cfg.Store = &store.Memory{}
		}
		memoryBubble(t, cfg, func(r *rig, g *gauge) {
			large, small := r.connect(mqtt.V5, "large"), r.connect(mqtt.V5, "small")
			large.subscribe(sub("large", 1))
			small.subscribe(sub("small", 1))
			p := r.connect(mqtt.V5, "p")
			r.use(g, 96*mib)
			payload := strings.Repeat("x", 100<<10)
			p.publish("large", payload, 1)
			p.publish("small", "x", 1)
			small.want("x")
			large.barrier()
			r.use(g, 86*mib)
			large.want(payload)
			r.use(g, 96*mib)
			p.publish("large", payload, 1)
			large.barrier()
			r.use(g, 0)
			large.want(payload)
		})
	}
}

// Retained messages for a new subscription wait as well.
func TestMemoryDefersRetained(t *testing.T) {
	memoryBubble(t, Config{}, func(r *rig, g *gauge) {
		p := r.connect(mqtt.V5, "p")
		p.publishPacket(retain("r/0", "zero", 0))
		p.publishPacket(retain("r/1", "one", 1))
		c := r.connect(mqtt.V5, "c")
		r.use(g, 96*mib)
		c.subscribe(sub("r/#", 1))
		c.barrier()
		r.use(g, 86*mib)
		c.want("zero", "one")
		c.silent()
	})
}

// A client that takes all and acknowledges nothing gets little more while memory is short, and the rest afterwards.
func TestMemoryInFlight(t *testing.T) {
	memoryBubble(t, Config{Store: &store.Memory{}}, func(r *rig, g *gauge) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 1))
		p := r.connect(mqtt.V5, "p")
		r.use(g, 86*mib)
		payload := strings.Repeat("x", 30<<10)
		for range 10 {
			p.publish("a", payload, 1)
		}
		synctest.Wait()
		if st, _ := r.b.Client("c"); st.InFlight != 2 || st.QueuedMessages != 8 {
			r.Errorf("in flight %d, waiting %d", st.InFlight, st.QueuedMessages)
		}
		c.message()
		c.message()
		c.barrier()
		r.use(g, 0)
		for range 8 {
			c.message()
		}
	})
}

// A subscriber in process has room for so many bytes.
func TestMemoryLocal(t *testing.T) {
	memoryBubble(t, Config{Limits: Limits{Memory: 8 * mib}}, func(r *rig, _ *gauge) {
		block := make(chan struct{})
		var got atomic.Int64
		if _, err := r.b.Subscribe("a", 0, func(*mqtt.Message, bool) { got.Add(1); <-block }); err != nil {
			r.Fatal(err)
		}
		m := &mqtt.Message{Topic: "a", Payload: make([]byte, 100<<10)}
		publish := func() {
			for range 50 {
				_ = r.b.Publish(m)
			}
			synctest.Wait()
		}
		publish()
		dropped := r.b.Stats().Dropped[DropQueue]
		if kept := 50 - dropped; kept < 10 || kept > 11 { // 1 MiB
			r.Errorf("%d messages of 100 KiB wait in 1 MiB", kept)
		}
		close(block)
		synctest.Wait()
		if n := got.Load(); n != 50-dropped {
			r.Errorf("%d were handled, want %d", n, 50-dropped)
		}
		for range 50 {
			_ = r.b.Publish(m)
			synctest.Wait()
		}
		if n := r.b.Stats().Dropped[DropQueue]; n != dropped {
			r.Errorf("%d were dropped with room again", n-dropped)
		}
	})
}

func TestMemoryPacketSize(t *testing.T) {
	for _, cfg := range []Config{
		{Limits: Limits{Memory: 8*mib - 1}},
		{Limits: Limits{Memory: 8 * mib}, Listeners: map[string]ListenerConfig{"x": {MaxPacketSize: mib + 1}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "an eighth") {
			t.Errorf("%+v: %v", cfg.Limits, err)
		}
	}
}

// Whatever clients do, in the end nothing is counted, and nothing is counted below zero.
func TestMemoryCountsRandom(t *testing.T) {
	for seed := range uint64(20) {
		for _, stored := range []bool{false, true} {
			cfg := Config{Limits: Limits{MaxInflight: 5, QueuedMessages: 50, OutboxBytes: 64 << 10}}
			if stored {
				cfg.Store = &store.Memory{}
			}
			memoryBubble(t, cfg, func(r *rig, g *gauge) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				for round := range 60 {
					g.base.Store([]int64{0, 0, 86, 96}[rnd.IntN(4)] * mib)
					r.randomStep(rnd, round)
					synctest.Wait()
					if held := r.b.memory.held.Load(); held < 0 {
						r.Fatalf("seed %d: %d bytes are counted", seed, held)
					}
				}
				g.base.Store(0)
				r.look1()
				for i := range 10 {
					_ = r.b.Publish(&mqtt.Message{Topic: fmt.Sprint("t/", i), Retain: true})
				}
				for _, c := range r.b.Clients() {
					r.b.Kick(c.ClientID, mqtt.AdministrativeAction, true)
				}
				r.nothingHeld()
				if r.Failed() {
					r.Fatalf("seed %d", seed)
				}
			})
		}
	}
}

// randomStep does something that takes memory.
func (r *rig) randomStep(rnd *rand.Rand, round int) {
	size := rnd.IntN(40 << 10)
	name := fmt.Sprint("t/", rnd.IntN(10))
	switch rnd.IntN(6) {
	case 0, 1:
		near, far := r.pair()
		r.b.ServeConn(far)
		p := mqtt.Connect{Version: mqtt.V5, ClientID: fmt.Sprint("c", rnd.IntN(5)), CleanStart: rnd.IntN(2) == 0}
		if rnd.IntN(2) == 0 {
			p.Props = p.Props.WithInt(mqtt.SessionExpiryInterval, 1000)
		}
		s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("t/#", mqtt.QoS(rnd.IntN(3)))}}
		q := post(strings.Repeat("n", 1+rnd.IntN(2000)), "", 0)
		q.HasAlias, q.Alias = true, 1
		b := q.Append(s.Append(p.Append(nil), mqtt.V5), mqtt.V5)
		b = append(append(b, 0x30), claimed(100_000)...)
		b = append(b, make([]byte, rnd.IntN(90_000))...)
		go func() { _, _ = near.Write(b) }()
		if rnd.IntN(3) > 0 {
			(&client{rig: r, nc: near}).drain()
		}
		r.Cleanup(func() { _ = near.Close() })
	case 2, 3, 4:
		m := &mqtt.Message{Topic: name, Payload: make([]byte, size), QoS: mqtt.QoS(rnd.IntN(3)), Retain: rnd.IntN(4) == 0}
		if err := r.b.Publish(m); err != nil && !errors.Is(err, mqtt.QuotaExceeded) {
			r.Errorf("round %d: %v", round, err)
		}
	case 5:
		time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
	}
}

// Without a limit nothing is counted.
func TestMemoryUnlimited(t *testing.T) {
	bubble(t, Config{Limits: Limits{Memory: Unlimited}}, func(r *rig) {
		r.hoarder("c", 2*mib)
		r.b.memory.add(1)
		if st := r.b.Stats(); r.b.memory.held.Load() != 0 || st.MemoryLimit != 0 || st.MemoryUsed <= 0 || st.MemoryLevel != MemoryNormal {
			t.Errorf("%d bytes are counted, %d used of %d", r.b.memory.held.Load(), st.MemoryUsed, st.MemoryLimit)
		}
	})
}

// One large message to many receivers is not copied for all of them before the first has it.
func TestFlushWithinTurn(t *testing.T) {
	r := newTCPRig(t, Config{})
	const many = 20
	var all []*client
	for i := range many {
		c := r.connect(mqtt.V5, fmt.Sprint("c", i))
		c.subscribe(sub("a", 0))
		all = append(all, c)
	}
	most := atomic.Int64{}
	stop := r.b.Observe(Events{Delivered: func(*ClientInfo, *mqtt.Message) {
		waiting := int64(0)
		r.b.mu.RLock()
		for c := range r.b.conns {
			waiting += c.pending.Load()
		}
		r.b.mu.RUnlock()
		most.Store(max(most.Load(), waiting))
	}})
	defer stop()
	m := &mqtt.Message{Topic: "a", Payload: make([]byte, 100<<10)}
	if err := r.b.Publish(m); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if m := c.take(); len(m.Payload) != 100<<10 {
			t.Fatalf("%d bytes came", len(m.Payload))
		}
	}
	if n := most.Load(); n > 5*100<<10 {
		t.Errorf("%d bytes waited at a time", n)
	}
}
