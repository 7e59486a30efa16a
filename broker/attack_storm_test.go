package broker_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// TestA18HotGroup: all members but one of a shared subscription take messages and never acknowledge. What they take is
// bounded by their windows, the member that works gets the rest, and gets theirs too as they leave: nothing is lost, and
// whoever publishes does not wait.
func TestA18HotGroup(t *testing.T) {
	const members, window, messages = 40, 5, 2000
	a := newArena(t, broker.Config{})
	var stuck []*foe
	for i := range members {
		c := hello(mqtt.V5, fmt.Sprint("a18-", i))
		c.Props = c.Props.WithInt(mqtt.ReceiveMaximum, window).WithInt(mqtt.SessionExpiryInterval, uint32(i%2)*1000)
		f := a.loginAs(c)
		f.subscribe("$share/hot/a18/#", mqtt.AtLeastOnce, 1)
		stuck = append(stuck, f)
	}
	worker := a.login(mqtt.V5, "worker")
	worker.subscribe("$share/hot/a18/#", mqtt.AtLeastOnce, 1)
	arrived := make(chan string, messages+members*(window+1))
	var work sync.WaitGroup
	work.Go(func() { workOff(worker, arrived) })

	pub := a.login(mqtt.V311, "writer")
	for i := range messages {
		if code := pub.publish("a18/job", fmt.Sprint(i), mqtt.AtLeastOnce, false); code.Failed() {
			t.Fatalf("message %d: 0x%02X", i, byte(code))
		}
	}
	for _, f := range stuck {
		c, _ := a.broker.Client("a18-0")
		if c.InFlight > window || c.QueuedMessages > messages/members {
			t.Errorf("a stuck member holds %d in flight and %d queued", c.InFlight, c.QueuedMessages)
		}
		f.shut()
	}
	seen := make(map[string]bool)
	for len(seen) < messages {
		select {
		case text := <-arrived:
			seen[text] = true
		case <-time.After(attackPatience):
			t.Fatalf("%d of %d messages arrived", len(seen), messages)
		}
	}
	worker.throw((&mqtt.Disconnect{}).Append(nil, mqtt.V5))
	work.Wait()
}

// workOff acknowledges messages until the connection ends.
func workOff(f *foe, arrived chan<- string) {
	for {
		p, err := f.read()
		if err != nil {
			return
		}
		var m mqtt.Publish
		if p.Type != mqtt.PUBLISH || m.Parse(p, f.version) != nil {
			f.t.Errorf("received %s % x", p.Type, p.Body)
			return
		}
		arrived <- string(m.Payload)
		f.throw((&mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}).Append(nil, f.version))
	}
}

// TestA18StuckGroup: nobody in the group acknowledges, and members come and go. Messages go round among quotas and never
// multiply.
func TestA18StuckGroup(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{QueuedMessages: 100}})
	join := func(id string) *foe {
		c := hello(mqtt.V5, id)
		c.Props = c.Props.WithInt(mqtt.ReceiveMaximum, 1)
		f := a.loginAs(c)
		f.subscribe("$share/hot/a18/#", mqtt.AtLeastOnce, 1)
		return f
	}
	pub := a.login(mqtt.V5, "writer")
	before := memory()
	members := []*foe{join("a18-0"), join("a18-1"), join("a18-2")}
	for i := range 100 {
		for range 20 {
			pub.publish("a18/job", "job", mqtt.AtLeastOnce, false)
		}
		members[i%3].shut()
		members[i%3] = join(fmt.Sprint("a18-", i%3))
	}
	if st := a.broker.Stats(); st.QueuedMessages > 3*100 || st.Sessions != 2+1+3 {
		t.Errorf("%d messages wait in %d sessions", st.QueuedMessages, st.Sessions)
	}
	a.grownLess("2,000 messages for a stuck group", before, 8<<20)
}

// TestA19ConnectStorm: connections come and go as fast as they can, under few Client Identifiers, so that they take over
// each other at every moment, in every version, with and without Clean Start and Will, and leave in every way. Afterwards
// there is exactly one session for each identifier that asked for one to stay, and no connection, goroutine or timer more.
func TestA19ConnectStorm(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{MaxKeepAlive: time.Hour}})
	const seed, storms, rounds = 19, 8, 250
	var all sync.WaitGroup
	for i := range storms {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range rounds {
				if err := a.gust(r); err != nil {
					t.Errorf("seed %d, storm %d: %v", seed, i, err)
					return
				}
			}
		})
	}
	all.Wait()
	a.eventually("all connections are gone", func() bool {
		st := a.broker.Stats()
		return st.Connections == 2 && st.Connected == 2
	})
	for i := range 4 { // who comes clean, leaves nothing
		f := a.login(mqtt.V311, fmt.Sprint("a19-", i))
		f.throw((&mqtt.Disconnect{}).Append(nil, mqtt.V311))
		f.end()
	}
	a.eventually("all sessions are gone", func() bool { return a.broker.Stats().Sessions == 2 })
	if st := a.broker.Stats(); st.Subscriptions != 1 || st.QueuedMessages != 0 {
		t.Errorf("%d subscriptions and %d queued messages are left", st.Subscriptions, st.QueuedMessages)
	}
}

// gust is one connection of the storm.
func (a *arena) gust(r *rand.Rand) error {
	nc, err := net.DialTimeout("tcp", a.addr, attackPatience)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(attackPatience))
	c := hello(attackVersions[r.IntN(3)], fmt.Sprint("a19-", r.IntN(4)))
	c.CleanStart, c.KeepAlive = r.IntN(2) == 0, uint16(r.IntN(3)*1000)
	if c.Version == mqtt.V5 {
		c.Props = c.Props.WithInt(mqtt.SessionExpiryInterval, uint32(r.IntN(2)*1000))
	}
	if r.IntN(2) == 0 {
		c.Will = &mqtt.Will{Topic: "a19/will", Payload: []byte("gone"), QoS: mqtt.QoS(r.IntN(3))}
	}
	f := &foe{t: a, nc: nc, version: c.Version}
	f.throw(c.Append(nil))
	if r.IntN(4) == 0 {
		return nil // does not even wait for the answer
	}
	if p, err := f.read(); err == nil && (p.Type != mqtt.CONNACK || p.Body[1] != 0) {
		return fmt.Errorf("answer to CONNECT: %s % x", p.Type, p.Body)
	}
	f.throw((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "a19/#", QoS: 1}}}).Append(nil, c.Version))
	f.throw((&mqtt.Publish{Topic: []byte("a19/x"), Payload: []byte("x"), QoS: 1, PacketID: 9}).Append(nil, c.Version))
	switch r.IntN(4) {
	case 0:
		f.throw((&mqtt.Disconnect{}).Append(nil, c.Version))
	case 1:
		_ = nc.(*net.TCPConn).SetLinger(0) // a reset
	case 2:
		f.throw([]byte{0xFF, 0xFF})
	case 3:
		for range 3 { // waits for its successor, or for messages
			if _, err := f.read(); err != nil {
				break
			}
		}
	}
	return nil
}

// TestA19PingPong: two clients fight for one Client Identifier; each connects again as soon as it was thrown out. Each
// loser hears 0x8E; the session goes through all hands with its subscription, and what is published to it meanwhile
// reaches the last owner if nobody acknowledged it.
func TestA19PingPong(t *testing.T) {
	a := newArena(t, broker.Config{})
	c := hello(mqtt.V5, "a19")
	c.CleanStart, c.Props = false, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 1000)
	owner := a.loginAs(c)
	owner.subscribe("a19/#", mqtt.AtLeastOnce, 1)
	pub := a.login(mqtt.V5, "writer")
	const rounds = 300
	for i := range rounds {
		pub.publish("a19/x", fmt.Sprint(i), mqtt.AtLeastOnce, false)
		next, ack := a.try(c)
		if ack.Code != mqtt.Success || !ack.SessionPresent {
			t.Fatalf("round %d: %v, session present %t", i, ack.Code, ack.SessionPresent)
		}
		owner.mustEnd(fmt.Sprintf("the loser of round %d", i), mqtt.SessionTakenOver)
		_ = owner.nc.Close()
		owner = next
	}
	for i := range rounds {
		if m := owner.message(true); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %s, want %d", m.Payload, i)
		}
	}
	owner.silent("a message twice")
	if st := a.broker.Stats(); st.Sessions != 4 || st.Connected != 4 {
		t.Errorf("%d sessions, %d connected", st.Sessions, st.Connected)
	}
}
