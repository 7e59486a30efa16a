package broker

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// The tests in this file are what killing the broker at random moments has found: each shows the moment.

// written is what a manualStore was told, by kind.
func (m *manualStore) written(k store.Kind) (records []store.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.Kind == k {
			records = append(records, r)
		}
	}
	return records
}

// all commits what was appended until now.
func (m *manualStore) all() {
	m.mu.Lock()
	last := store.Position(len(m.records))
	m.mu.Unlock()
	m.commit(last)
	synctest.Wait()
}

// manually runs a test in a bubble, with a store that commits when the test says so.
func manually(t *testing.T, cfg Config, test func(r *rig, s *manualStore)) {
	t.Helper()
	bubbles(t, func(t *testing.T, start starter) {
		s := &manualStore{}
		cfg := cfg
		cfg.Store = s
		test(start(t, cfg), s)
	})
}

// TestAnswerOfEarlierConnection: an answer that is given again on another connection waits for the record of the first time. The
// client forgets on the answer, so a restart must not remember.
func TestAnswerOfEarlierConnection(t *testing.T) {
	t.Run("PUBREC and PUBCOMP", func(t *testing.T) {
		manually(t, Config{}, func(r *rig, s *manualStore) {
			again := func() *client { return r.connect(mqtt.V5, "p", resume, lasting(1000)) }
			p := again()
			one := mqtt.Publish{Topic: []byte("a"), QoS: 2, PacketID: 9, Payload: []byte("x")}
			p.send(one.Append(nil, mqtt.V5))
			p.silent()
			p.drop()
			p = again()
			one.Dup = true
			p.send(one.Append(nil, mqtt.V5))
			p.silent() // the message is not on disk
			s.all()
			p.wantAck(mqtt.PUBREC, 9)
			p.ack(mqtt.PUBREL, 9, 0)
			p.silent()
			p.drop()
			p = again()
			p.ack(mqtt.PUBREL, 9, 0)
			p.silent() // that it was released is not on disk
			s.all()
			p.wantAck(mqtt.PUBCOMP, 9)
		})
	})
	t.Run("PUBLISH and PUBREL", func(t *testing.T) {
		manually(t, Config{}, func(r *rig, s *manualStore) {
			again := func() *client { return r.connect(mqtt.V5, "s", resume, lasting(1000)) }
			c := again()
			c.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("a", 2)}}).Append(nil, mqtt.V5))
			synctest.Wait()
			s.all()
			expect[mqtt.Suback](c)
			p := r.connect(mqtt.V5, "p")
			p.send((&mqtt.Publish{Topic: []byte("a"), QoS: 2, PacketID: 9, Payload: []byte("x")}).Append(nil, mqtt.V5))
			synctest.Wait()
			c.silent() // the message is not on disk
			s.all()
			c.silent() // that it is sent, under which identifier, is not
			c.drop()
			c = again()
			c.silent()
			s.all()
			first := expect[mqtt.Publish](c)
			c.ack(mqtt.PUBREC, first.PacketID, 0)
			c.silent()
			c.drop()
			c = again()
			c.silent() // that it was received is not on disk
			s.all()
			c.wantAck(mqtt.PUBREL, first.PacketID)
		})
	})
}

// TestRefusedIsNoDuplicate: a QoS 2 message that was refused, and whose client did not hear that, is new when it is sent again.
func TestRefusedIsNoDuplicate(t *testing.T) {
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			manually(t, Config{}, func(r *rig, s *manualStore) {
				p := r.connect(v, "p", resume, lasting(1000))
				s.all()
				one := mqtt.Publish{Topic: []byte("a"), QoS: 2, PacketID: 9, Payload: []byte("x")}
				other := mqtt.Publish{Topic: []byte("a"), QoS: 1, PacketID: 8, Payload: []byte("y"), Retain: true}
				p.send(other.Append(nil, v)) // its answer waits for the disk, and the refusal behind it
				synctest.Wait()
				s.full = true
				p.send(one.Append(nil, v))
				synctest.Wait()
				s.full = false
				_ = p.nc.Close()
				p.gone()
				before := len(s.written(store.Accepted))
				p = r.connect(v, "p", resume, lasting(1000))
				one.Dup = true
				p.send(one.Append(nil, v))
				synctest.Wait()
				s.all()
				p.wantAck(mqtt.PUBREC, 9)
				if n := len(s.written(store.Accepted)) - before; n != 1 {
					t.Errorf("the message was accepted %d times", n)
				}
			})
		})
	}
}

// atPublish is an Authorizer that calls a function when a message is about to be accepted.
type atPublish struct{ f func(name string) }

func (a *atPublish) Authorize(_ *ClientInfo, act Action, topic string) error {
	if act == Write {
		a.f(topic)
	}
	return nil
}

// snapshotOf returns the records of a checkpoint.
func snapshotOf(b *Broker) (records []store.Record) {
	_ = b.checkpoint(func(r *store.Record) error {
		records = append(records, *r)
		return nil
	})
	return records
}

// TestCheckpointWhileAccepting: a checkpoint does not say that a QoS 2 message was received before the message itself is in the store.
// Else a crash in between would make a duplicate of what is sent again.
func TestCheckpointWhileAccepting(t *testing.T) {
	at := &atPublish{}
	manually(t, Config{Authorizer: at}, func(r *rig, s *manualStore) {
		ids := func() (ids []uint16) {
			for _, rec := range snapshotOf(r.b) {
				ids = append(ids, rec.PacketIDs...)
			}
			return ids
		}
		var during []uint16
		at.f = func(string) { during = ids() }
		p := r.connect(mqtt.V5, "p", lasting(1000))
		p.send((&mqtt.Publish{Topic: []byte("a"), QoS: 2, PacketID: 9}).Append(nil, mqtt.V5))
		synctest.Wait()
		if len(during) != 0 {
			t.Errorf("while message 9 is being accepted a checkpoint says that %v were received", during)
		}
		if after := ids(); !slices.Equal(after, []uint16{9}) {
			t.Errorf("after that it says %v", after)
		}
	})
}

// TestCheckpointWhileDelivering: a checkpoint waits for messages that the store knows and the queues do not yet. The hook runs in
// between.
func TestCheckpointWhileDelivering(t *testing.T) {
	var r *rig
	done := make(chan []store.Record, 1)
	r = newTCPRig(t, Config{Store: &store.Memory{}, Events: Events{Published: func(*ClientInfo, *mqtt.Message) {
		go func() { done <- snapshotOf(r.b) }()
		for len(done) == 0 && r.b.owning.TryRLock() { // until the checkpoint is at the door, or through it
			r.b.owning.RUnlock()
			runtime.Gosched()
		}
	}}})
	s := r.connect(mqtt.V5, "s", lasting(1000))
	s.subscribe(sub("a", 1))
	s.drop()
	r.connect(mqtt.V5, "p").publish("a", "x", 1)
	queued := 0
	for _, rec := range <-done {
		queued += len(rec.Refs)
	}
	if queued != 1 {
		t.Errorf("the checkpoint names %d messages that wait, want 1", queued)
	}
}

// TestWillAndItsEnd: that a Will was published is told in the record of the message, so that no crash comes between; and the client
// that comes back waits until it is told, since its CONNECT brings the next Will.
func TestWillAndItsEnd(t *testing.T) {
	at := &atPublish{f: func(string) {}}
	manually(t, Config{Authorizer: at}, func(r *rig, s *manualStore) {
		gate, waits := make(chan struct{}), false
		at.f = func(string) {
			if waits {
				<-gate
			}
		}
		w := mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1}
		c := r.connect(mqtt.V5, "c", resume, lasting(1000), leaving(w))
		waits = true
		_ = c.nc.Close()
		synctest.Wait() // the Will waits for the decision about it
		waits = false
		back := make(chan *client)
		go func() { back <- r.connect(mqtt.V5, "c", resume, lasting(1000), leaving(w)) }()
		synctest.Wait()
		if n := len(s.written(store.Session)); n != 1 {
			t.Errorf("%d records of a CONNECT before the Will of the connection before is told", n)
		}
		close(gate)
		<-back
		wills, kinds := 0, ""
		for _, rec := range s.records {
			kinds += fmt.Sprint(rec.Kind, " ")
			if rec.Kind == store.Accepted && rec.Session == s.records[0].Session && rec.PacketID == 0 {
				wills++
			}
		}
		if wills != 1 || len(s.written(store.WillGone)) != 0 {
			t.Errorf("%d Wills are told to have been published, kinds of records: %s", wills, kinds)
		}
		if last := s.records[len(s.records)-1]; last.Kind != store.Session || last.Will == nil {
			t.Errorf("the CONNECT with the next Will is not the last record: %s", kinds)
		}
	})
}

// TestDisconnectTakesWillBack: after DISCONNECT the record that the Will is gone stands before that of the next CONNECT.
func TestDisconnectTakesWillBack(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		w := mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1, Retain: true}
		c := r.connect(mqtt.V5, "c", lasting(1000), leaving(w))
		c.leave()
		c = r.connect(mqtt.V5, "c", resume, lasting(1000))
		c.barrier()
		r = restart()
		watcher := r.connect(mqtt.V5, "watcher")
		watcher.subscribe(sub("will", 1))
		watcher.silent()
		c = r.connect(mqtt.V5, "c", resume, lasting(1000), leaving(w))
		c.subscribe(sub("other", 1))
		r = restart()
		watcher = r.connect(mqtt.V5, "watcher")
		watcher.subscribe(sub("will", 1))
		watcher.want("gone")
	})
}

// TestRestartsDoNotPostpone: the end of the process ends connections, and the time of their sessions and Wills begins then, not again
// with every start.
func TestRestartsDoNotPostpone(t *testing.T) {
	restarting(t, func(r *rig, restart func() *rig) {
		late := mqtt.Will{Topic: "late", Payload: []byte("gone"), QoS: 1, Retain: true, Props: mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 40)}
		r.connect(mqtt.V5, "c", lasting(1000), leaving(late)).barrier()
		r.connect(mqtt.V5, "short", lasting(40)).barrier()
		for range 4 {
			r = restart()
			time.Sleep(15 * time.Second)
		}
		watcher := r.connect(mqtt.V5, "watcher")
		watcher.subscribe(sub("late", 1))
		watcher.want("gone")
		if _, there := r.b.Client("short"); there {
			t.Error("the session is still there, 60 s after its client and with an expiry of 40 s")
		}
	})
}

// replayFrom is a store whose replay begins at some record, as behind a checkpoint. What stands before can be loaded.
type replayFrom struct {
	*store.Memory
	from store.Position
}

func (s *replayFrom) Restore(f func(store.Position, *store.Record) error) error {
	return s.Memory.Restore(func(at store.Position, r *store.Record) error {
		if at < s.from {
			return nil
		}
		return f(at, r)
	})
}

// took is a message of QoS 2 on the topic a for session 1.
func took(payload string) store.Record {
	return store.Record{
		Kind: store.Accepted, Recipients: []store.Recipient{{Session: 1, QoS: 2}},
		Message: &mqtt.Message{Topic: "a", Payload: []byte(payload), QoS: 2},
	}
}

// TestReplayOrder: what records tell before a checkpoint comes to the session, and what the checkpoint tells then, make one order.
// Each case is a log whose replay begins at "from".
func TestReplayOrder(t *testing.T) {
	connected := store.Record{Kind: store.Session, Session: 1, ClientID: "s", Version: mqtt.V5, Expiry: -1, Time: time.Now()}
	sent := func(about store.Position, id uint16) store.Record {
		return store.Record{Kind: store.Sent, Session: 1, About: about, PacketID: id}
	}
	queue := func(refs ...store.Ref) store.Record {
		return store.Record{Kind: store.Queue, Session: 1, Refs: refs}
	}
	ref := func(about store.Position, id uint16) store.Ref { return store.Ref{About: about, QoS: 2, PacketID: id} }
	for _, c := range []struct {
		name string
		from store.Position
		log  []store.Record
		want string
	}{
		{"all from records", 1, []store.Record{connected, took("a"), took("b"), sent(2, 1), sent(3, 2), took("c")}, "a b c"},
		{"accepted before the checkpoint comes to the session", 2, []store.Record{
			took("a"), took("b"), connected, queue(ref(1, 0), ref(2, 0)),
		}, "a b"},
		{"accepted before, delivered after", 2, []store.Record{
			took("a"), took("b"), connected, queue(ref(1, 0)), took("c"),
		}, "a b c"},
		{"sent before the checkpoint comes to the session", 5, []store.Record{
			took("a"), took("b"), took("c"), connected, sent(3, 7), connected, queue(ref(1, 5), ref(2, 6), ref(3, 7)),
		}, "a b c"},
		{"sent after the checkpoint", 4, []store.Record{
			took("a"), took("b"), took("c"), connected, queue(ref(1, 5), ref(2, 0), ref(3, 0)), sent(2, 6),
		}, "a b c"},
		{"done after the checkpoint", 4, []store.Record{
			took("a"), took("b"), took("c"), connected, queue(ref(1, 5), ref(2, 0), ref(3, 0)),
			{Kind: store.Completed, Session: 1, About: 1, PacketID: 5}, {Kind: store.Done, Session: 1, About: 2},
		}, "c"},
		{"never told of", 1, []store.Record{took("a")}, "no session"},
		{"ended while a checkpoint was taken", 2, []store.Record{
			took("a"), connected, queue(ref(1, 0)), {Kind: store.Ended, Session: 1}, took("b"),
		}, "no session"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &store.Memory{}
			for i := range c.log {
				if _, err := m.Append(&c.log[i]); err != nil {
					t.Fatal(err)
				}
			}
			bubble(t, Config{Store: &replayFrom{m, c.from}}, func(r *rig) {
				if got := r.resent("s"); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// resent returns the payloads that a client gets when it comes back.
func (r *rig) resent(id string) string {
	if _, there := r.b.Client(id); !there {
		return "no session"
	}
	c := r.connect(mqtt.V5, id, resume, lasting(1000))
	c.send(mqtt.AppendPingreq(nil))
	var got []string
	for synctest.Wait(); ; {
		p, err := c.next()
		if err != nil {
			return err.Error()
		}
		switch p := p.(type) {
		case mqtt.Publish:
			got = append(got, string(p.Payload))
		case pong:
			return strings.Join(got, " ")
		}
	}
}

// TestShortLivesReachCheckpoint: what a replay reads counts, so that a process that never lives long takes a checkpoint all the same and
// the log does not grow for ever.
func TestShortLivesReachCheckpoint(t *testing.T) {
	const lives, after = 64, 16 << 10
	disk := vfs.NewMem()
	for life := range lives {
		s, err := journal.OpenStore(disk, "j", journal.StoreOptions{Log: journal.Options{SegmentSize: 8 << 10}, CheckpointAfter: after})
		if err != nil {
			t.Fatal(err)
		}
		w := &watchedStore{Store: s, taken: make(chan struct{}, 1)}
		b, err := New(Config{Store: w, SysInterval: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(&mqtt.Message{Topic: fmt.Sprint("t/", life%4), Payload: make([]byte, 1<<10), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
		if w.replayed > 2*after {
			t.Fatalf("life %d: the replay has read %d bytes", life, w.replayed)
		}
		if w.replayed > after { // else there may have been one, or not
			select {
			case <-w.taken:
			case <-time.After(patience):
				t.Fatalf("life %d: the replay has read %d bytes, and no checkpoint is taken", life, w.replayed)
			}
		}
		if err := b.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// watchedStore counts the bytes of messages that are replayed, of which each has 1 KiB, and tells when a checkpoint was taken.
type watchedStore struct {
	store.Store
	replayed int
	taken    chan struct{}
}

func (s *watchedStore) Restore(f func(store.Position, *store.Record) error) error {
	return s.Store.Restore(func(at store.Position, r *store.Record) error {
		if r.Kind == store.Accepted {
			s.replayed += 1 << 10
		}
		return f(at, r)
	})
}

func (s *watchedStore) Maintain(u store.Upkeep) {
	checkpoint := u.Checkpoint
	u.Checkpoint = func(emit func(*store.Record) error) error {
		err := checkpoint(emit)
		select {
		case s.taken <- struct{}{}:
		default:
		}
		return err
	}
	s.Store.Maintain(u)
}
