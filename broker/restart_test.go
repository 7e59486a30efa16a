package broker

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// world is a store that outlives brokers.
type world interface {
	open(t *testing.T) store.Store
	crash() // what was not safe is gone
}

type memoryWorld struct{ m *store.Memory }

func (w *memoryWorld) open(*testing.T) store.Store { return w.m }
func (w *memoryWorld) crash()                      { w.m = w.m.Clone() }

// journalWorld is a journal on a disk that forgets what was not synced. Checkpoints come often.
type journalWorld struct {
	disk *vfs.Mem
	now  *journal.Store
	seed uint64
}

func (w *journalWorld) open(t *testing.T) store.Store {
	s, err := journal.OpenStore(w.disk, "j", journal.StoreOptions{Log: journal.Options{SegmentSize: 16 << 10}, CheckpointAfter: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	w.now = s
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (w *journalWorld) crash() {
	w.seed++
	w.disk = w.disk.Crash(w.seed)
}

// restarting runs a test in a bubble, with each kind of store. restart ends the broker as a loss of power would, and returns one
// on the same store.
func restarting(t *testing.T, test func(r *rig, restart func() *rig)) {
	t.Helper()
	worlds := map[string]func() world{
		"memory":  func() world { return &memoryWorld{&store.Memory{}} },
		"journal": func() world { return &journalWorld{disk: vfs.NewMem()} },
	}
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			bubbles(t, func(t *testing.T, start starter) {
				w := make()
				now := start(t, Config{Store: w.open(t)})
				test(now, func() *rig {
					synctest.Wait()
					w.crash()
					old := now.b
					now = start(t, Config{Store: w.open(t)})
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					if err := old.Shutdown(ctx); err != nil {
						t.Fatal(err)
					}
					return now
				})
			})
		})
	}
}

// TestRestartQueue: what waits for a client that is away is there after a restart, in order, with its options; a
// subscription made before the restart goes on.
func TestRestartQueue(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		s := r.connect(mqtt.V5, "s", lasting(1000))
		s.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 7), mqtt.Subscription{Filter: "a/#", QoS: 2, RetainAsPublished: true})
		s.drop()
		p := r.connect(mqtt.V311, "p")
		p.publish("a/1", "one", 1)
		p.publish("a/2", "two", 2)
		p.publishPacket(retain("a/3", "three", 1))

		r = restart()
		p = r.connect(mqtt.V311, "p")
		p.publish("a/4", "four", 1)
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		if !s.connack.SessionPresent {
			t.Fatal("the session is not there")
		}
		got := make(map[mqtt.QoS][]string) // order holds within a QoS
		for range 4 {
			m := s.take()
			if len(m.IDs) != 1 || m.IDs[0] != 7 || m.Retain != (string(m.Payload) == "three") {
				t.Fatalf("%q: identifiers %v, retain %v", m.Payload, m.IDs, m.Retain)
			}
			got[m.QoS] = append(got[m.QoS], string(m.Payload))
		}
		if want := map[mqtt.QoS][]string{1: {"one", "three", "four"}, 2: {"two"}}; !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		s.silent()

		r = restart()
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		s.silent() // what was acknowledged does not come again
		fresh := r.connect(mqtt.V5, "new")
		fresh.subscribe(sub("a/3", 1))
		fresh.want("three")
	})
}

// TestRestartLongQueue: a queue longer than what waits in memory comes back whole and in order.
func TestRestartLongQueue(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		s := r.connect(mqtt.V5, "s", lasting(1000))
		s.subscribe(sub("#", 2))
		s.drop()
		p := r.connect(mqtt.V5, "p")
		want := numbers("m", 500)
		for i, payload := range want[:400] {
			p.publish("a", payload, mqtt.QoS(1+i%2))
		}
		r = restart()
		p = r.connect(mqtt.V5, "p")
		for i, payload := range want[400:] {
			p.publish("a", payload, mqtt.QoS(1+i%2))
		}
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		var got [2][]string // order holds within a QoS
		for range want {
			m := s.take()
			got[m.QoS-1] = append(got[m.QoS-1], string(m.Payload))
		}
		for i, payload := range want {
			if got[i%2][i/2] != payload {
				t.Fatalf("message %d of QoS %d is %q, want %q", i/2, 1+i%2, got[i%2][i/2], payload)
			}
		}
		for range 3 { // PUBREL and PUBCOMP
			synctest.Wait()
			s.silent()
		}
		synctest.Wait()
		if st, _ := r.b.Client("s"); st.QueuedMessages != 0 || st.QueuedBytes != 0 || st.InFlight != 0 {
			t.Errorf("something is left: %+v", st)
		}
	})
}

// TestRestartHandshakes: every step of a QoS 2 handshake, in both directions, goes on after a restart where it was
// [MQTT-4.3.3-1] to [MQTT-4.3.3-13].
func TestRestartHandshakes(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		s := r.connect(mqtt.V5, "s", lasting(1000))
		s.subscribe(sub("#", 2))
		p := r.connect(mqtt.V5, "p", lasting(1000))
		one := mqtt.Publish{Topic: []byte("a"), QoS: 2, PacketID: 9, Payload: []byte("x")}
		p.send(one.Append(nil, mqtt.V5))
		p.wantAck(mqtt.PUBREC, 9)
		first := expect[mqtt.Publish](s)

		r = restart() // the publisher has PUBREC, the subscriber has PUBLISH
		p = r.connect(mqtt.V5, "p", resume, lasting(1000))
		one.Dup = true
		p.send(one.Append(nil, mqtt.V5))
		p.wantAck(mqtt.PUBREC, 9)
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		again := expect[mqtt.Publish](s)
		if again.PacketID != first.PacketID || !again.Dup {
			t.Fatalf("sent again under %d, DUP %v; was %d", again.PacketID, again.Dup, first.PacketID)
		}
		s.silent()
		s.ack(mqtt.PUBREC, again.PacketID, 0)
		s.wantAck(mqtt.PUBREL, again.PacketID)

		r = restart() // the subscriber has PUBREL
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		s.wantAck(mqtt.PUBREL, again.PacketID)
		s.silent()
		s.ack(mqtt.PUBCOMP, again.PacketID, 0)
		p = r.connect(mqtt.V5, "p", resume, lasting(1000))
		p.ack(mqtt.PUBREL, 9, 0)
		p.wantAck(mqtt.PUBCOMP, 9)
		s.barrier()

		r = restart() // both are done
		s = r.connect(mqtt.V5, "s", resume, lasting(1000))
		s.silent()
		p = r.connect(mqtt.V5, "p", resume, lasting(1000))
		p.ack(mqtt.PUBREL, 9, 0)
		if code := p.wantAck(mqtt.PUBCOMP, 9); code != mqtt.PacketIdentifierNotFound {
			t.Errorf("PUBREL after the end was answered with %v", code)
		}
		one.Dup = false
		p.send(one.Append(nil, mqtt.V5)) // a new message under an identifier that is free
		p.wantAck(mqtt.PUBREC, 9)
		s.want("x")
	})
}

// TestRestartEnds: sessions that have ended stay ended, those that expired meanwhile end at the start, and Wills of clients
// that were connected are published, each once.
func TestRestartEnds(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		w := mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1, Retain: true}
		late := w
		late.Topic, late.Props = "late", mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 60)
		r.connect(mqtt.V5, "clean", leaving(w))
		r.connect(mqtt.V5, "delayed", lasting(1000), leaving(late))
		short := r.connect(mqtt.V5, "short", lasting(10))
		short.drop()
		over := r.connect(mqtt.V5, "over", lasting(1000))
		over.disconnect(0, mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0))
		over.gone()
		watcher := r.connect(mqtt.V5, "watcher", lasting(1000))
		watcher.subscribe(sub("#", 1))
		synctest.Wait()
		time.Sleep(20 * time.Second)

		r = restart()
		watcher = r.connect(mqtt.V5, "watcher", resume, lasting(1000))
		watcher.want("gone")
		watcher.silent()
		for _, id := range []string{"clean", "short", "over"} {
			if _, there := r.b.Client(id); there {
				t.Errorf("the session of %s is still there", id)
			}
		}
		time.Sleep(70 * time.Second)
		watcher.want("gone")
		time.Sleep(2 * time.Second) // nobody waits for the end of a delivery to be synced

		r = restart()
		watcher = r.connect(mqtt.V5, "watcher", resume, lasting(1000))
		watcher.silent()
		time.Sleep(70 * time.Second)
		watcher.silent()
	})
}

// TestRestartShared: a message that waits for a member of a shared subscription goes to another one after the restart.
func TestRestartShared(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		for _, id := range []string{"m1", "m2"} {
			m := r.connect(mqtt.V5, id, lasting(1000))
			m.subscribe(sub("$share/g/a", 2))
			m.drop()
		}
		p := r.connect(mqtt.V5, "p")
		for _, payload := range numbers("x", 200) {
			p.publish("a", payload, 1)
		}
		r = restart()
		m := r.connect(mqtt.V5, "m1", resume, lasting(1000))
		got := make(map[string]bool)
		for range 100 {
			got[string(m.take().Payload)] = true
		}
		m.silent()
		if !r.b.Kick("m2", mqtt.AdministrativeAction, true) {
			t.Fatal("m2 is not there")
		}
		for range 100 {
			got[string(m.take().Payload)] = true
		}
		m.silent()
		if len(got) != 200 {
			t.Errorf("%d of 200 messages came", len(got))
		}
	})
}

// TestRestartReusedIdentifier: a Packet Identifier that a checkpoint names, and that was free and used again since, does not bring its
// next message the place of the one before: what is in flight is sent again in the order in which it was sent [MQTT-4.6.0-1].
func TestRestartReusedIdentifier(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		s := &store.Memory{}
		keep := func(r store.Record) store.Position {
			t.Helper()
			pos, err := s.Append(&r)
			if err != nil {
				t.Fatal(err)
			}
			return pos
		}
		accept := func(payload string, qos mqtt.QoS) store.Position {
			return keep(store.Record{
				Kind: store.Accepted, Message: &mqtt.Message{Topic: "a", Payload: []byte(payload), QoS: qos},
				Recipients: []store.Recipient{{Session: 1, QoS: qos}},
			})
		}
		keep(store.Record{Kind: store.Session, Session: 1, ClientID: "s", Version: mqtt.V5, Expiry: 1000})
		before := accept("before", mqtt.AtLeastOnce)
		keep(store.Record{Kind: store.Queue, Session: 1, Refs: []store.Ref{{About: before, QoS: mqtt.AtLeastOnce, PacketID: 6}}})
		keep(store.Record{Kind: store.Done, Session: 1, About: before})
		for i, payload := range []string{"one", "two"} {
			at := accept(payload, mqtt.ExactlyOnce)
			keep(store.Record{Kind: store.Sent, Session: 1, About: at, PacketID: uint16(5 + i)})
		}
		start(t, Config{Store: s}).connect(mqtt.V5, "s", resume, lasting(1000)).want("one", "two")
	})
}
