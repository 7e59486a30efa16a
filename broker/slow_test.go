package broker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// A subscriber that does not read gets what it can: QoS 0 is dropped and counted, QoS 1 and 2 wait and are delivered
// completely and in order when it reads again. Nobody else notices.
func TestStuckSubscriber(t *testing.T) {
	both(t, Config{Limits: Limits{OutboxBytes: 20_000}}, func(r *rig) {
		stuck, quick := r.connect(mqtt.V5, "stuck"), r.connect(mqtt.V5, "quick")
		for _, c := range []*client{stuck, quick} {
			c.subscribe(sub("0", 0), sub("1", 1), sub("2", 2))
		}
		pub := r.connect(mqtt.V5, "p")
		filler := strings.Repeat("x", 10_000)
		const n = 2000
		for i := range n {
			payload := fmt.Sprint(i)
			if i%3 == 0 {
				payload += filler
			}
			pub.publish(fmt.Sprint(i%3), payload, mqtt.QoS(i%3))
			quick.want(payload)
		}
		quick.silent()
		drops := r.b.Stats().Dropped[DropSlow]
		if drops == 0 {
			r.Error("nothing was dropped")
		}
		if st, _ := r.b.Client("stuck"); st.QueuedMessages == 0 {
			r.Error("nothing waits")
		}
		last := [3]int{-3, -2, -1}
		var got [3]int64
		for got[1]+got[2] < 2*n/3 || got[0]+drops < (n+2)/3 {
			m, number := stuck.take(), 0
			if _, err := fmt.Sscan(strings.TrimRight(string(m.Payload), "x"), &number); err != nil {
				r.Fatal(err)
			}
			q := int(m.Topic[0] - '0')
			if number <= last[q] || q > 0 && number != last[q]+3 {
				r.Fatalf("QoS %d: %d after %d", q, number, last[q])
			}
			last[q] = number
			got[q]++
		}
		stuck.silent()
		if got[0]+drops != (n+2)/3 {
			r.Errorf("%d arrived and %d were dropped of %d", got[0], drops, (n+2)/3)
		}
		if st := r.b.Stats(); st.QueuedMessages != 0 || st.QueuedBytes != 0 {
			r.Errorf("%d messages of %d bytes are said to wait", st.QueuedMessages, st.QueuedBytes)
		}
	})
}

// What waits to be written to one client is bounded, whatever it asks for and however many publish.
func TestOutboxBound(t *testing.T) {
	const limit = 50_000
	bubble(t, Config{Limits: Limits{OutboxBytes: limit}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("#", 2))
		pub := r.connect(mqtt.V5, "p")
		for i := range 500 {
			pub.publish("a", strings.Repeat("x", 1000), mqtt.QoS(i%3))
		}
		out := r.outbox("c")
		if n := out.pending.Load(); n > limit+2000 {
			t.Errorf("%d bytes wait", n)
		}
		c.want(strings.Repeat("x", 1000))
	})
}

// outbox returns the connection of a client.
func (r *rig) outbox(id string) *conn { return r.b.session(id).conn.Load() }

// A client that asks all the time and never reads the answers is not read any more; when it reads again, all answers are
// there.
func TestUnreadAnswers(t *testing.T) {
	const limit = 1000
	for name, packet := range map[string][]byte{
		"PINGREQ": mqtt.AppendPingreq(nil),
		"PUBLISH": publishBytes(mqtt.Publish{Topic: []byte("a"), QoS: 1, PacketID: 1}, mqtt.V5),
	} {
		bubble(t, Config{Limits: Limits{OutboxBytes: limit}}, func(r *rig) {
			c := r.connect(mqtt.V5, "c")
			const n = 50_000
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for range n {
					if _, err := c.nc.Write(packet); err != nil {
						t.Errorf("%s: write: %v", name, err)
						return
					}
				}
			}()
			time.Sleep(time.Minute)
			if waiting := r.outbox("c").pending.Load(); waiting < 4*limit+readSize || waiting > 5*limit+readSize+ownSize {
				t.Errorf("%s: %d bytes wait", name, waiting)
			}
			for range n {
				if _, err := c.next(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			<-sent
		})
	}
}

// Such a client can be ended, and the Keep Alive ends it.
func TestUnreadAnswersEnd(t *testing.T) {
	bubble(t, Config{Limits: Limits{OutboxBytes: 1000}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", keepAlive(20))
		go func() {
			for {
				if _, err := c.nc.Write(mqtt.AppendPingreq(nil)); err != nil {
					return
				}
			}
		}()
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if _, there := r.b.Client("c"); there {
			t.Error("still there")
		}
	})
}

func TestQueueLimits(t *testing.T) {
	message := strings.Repeat("x", 99) // and a topic of one byte
	for name, tc := range map[string]struct {
		limits Limits
		fits   int
		reason DropReason
	}{
		"messages": {Limits{QueuedMessages: 10}, 10, DropQueue},
		"bytes":    {Limits{QueuedBytes: 1000}, 10, DropQueue},
		"total":    {Limits{TotalQueueBytes: 1000}, 10, DropTotal},
	} {
		both(t, Config{Limits: tc.limits}, func(r *rig) {
			c := r.connect(mqtt.V5, "c", lasting(60))
			c.subscribe(sub("a", 1))
			c.drop()
			var lost atomic.Int32
			r.b.Observe(Events{Dropped: func(_ *ClientInfo, _ *mqtt.Message, reason DropReason) {
				if reason == tc.reason {
					lost.Add(1)
				}
			}})
			pub := r.connect(mqtt.V5, "p")
			for range 15 {
				pub.publish("a", message, 1)
			}
			if n := r.b.Stats().Dropped[tc.reason]; n != 5 || lost.Load() != 5 {
				r.Errorf("%s: %d dropped, %d told", name, n, lost.Load())
			}
			c = r.connect(mqtt.V5, "c", resume)
			for range tc.fits {
				c.want(message)
			}
			c.silent()
			pub.publish("a", "room", 1)
			c.want("room")
		})
	}
}

// The total is shared, and comes free when a session ends.
func TestTotalQueue(t *testing.T) {
	bubble(t, Config{Limits: Limits{TotalQueueBytes: 890}}, func(r *rig) {
		pub := r.connect(mqtt.V5, "p")
		for i := range 2 {
			id := fmt.Sprint("c", i)
			c := r.connect(mqtt.V5, id, lasting(60))
			c.subscribe(sub(id, 2))
			c.drop()
		}
		message := strings.Repeat("x", 298)
		for range 3 {
			pub.publish("c0", message, 2)
		}
		pub.publish("c1", message, 2)
		if n := r.b.Stats().Dropped[DropTotal]; n != 1 {
			t.Errorf("%d dropped", n)
		}
		r.b.Kick("c0", mqtt.AdministrativeAction, true)
		if st := r.b.Stats(); st.QueuedBytes != 0 || st.Dropped[DropSessionEnd] != 3 {
			t.Errorf("%d bytes, %d ended", st.QueuedBytes, st.Dropped[DropSessionEnd])
		}
		pub.publish("c1", message, 2)
		r.connect(mqtt.V5, "c1", resume).want(message)
	})
}

// Closing a connection while others write to it neither hangs nor loses the reason.
func TestCloseWhileWritten(t *testing.T) {
	r := newTCPRig(t, Config{Limits: Limits{OutboxBytes: 2000}})
	for range 100 {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(sub("a", 0))
		var publishers sync.WaitGroup
		for range 3 {
			publishers.Go(func() {
				for range 100 {
					_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte("x")})
				}
			})
		}
		c.message()
		r.b.Kick("c", mqtt.AdministrativeAction, true)
		c.wantEnd(mqtt.AdministrativeAction)
		publishers.Wait()
	}
}

// Clients that come, vanish and are written to all the time leave nothing behind.
func TestVanishingSubscribers(t *testing.T) {
	r := newTCPRig(t, Config{})
	var stop atomic.Bool
	var publishers sync.WaitGroup
	publishers.Go(func() {
		for i := 0; !stop.Load(); i++ {
			_ = r.b.Publish(&mqtt.Message{Topic: "a", Payload: []byte(strings.Repeat("x", 5000)), QoS: mqtt.QoS(i % 3)})
		}
	})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for range 50 {
				c := r.connect(mqtt.V5, fmt.Sprint("c", i))
				p := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("a", mqtt.QoS(i%3))}}
				c.send(p.Append(nil, mqtt.V5))
				for messages := 0; messages < 3; {
					m, err := c.next()
					if err != nil {
						t.Errorf("the connection ended: %v", err)
						return
					}
					if _, ok := m.(mqtt.Publish); ok {
						messages++
					}
				}
				_ = c.nc.Close()
			}
		})
	}
	clients.Wait()
	stop.Store(true)
	publishers.Wait()
	r.until("all to be gone", func() bool { return r.b.Stats().Sessions == 0 && r.b.Stats().Connections == 0 })
	if st := r.b.Stats(); st.QueuedBytes != 0 || st.QueuedMessages != 0 || st.Subscriptions != 0 {
		t.Errorf("left: %d bytes, %d messages, %d subscriptions", st.QueuedBytes, st.QueuedMessages, st.Subscriptions)
	}
}
