package broker

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// auditUses wants the store to count exactly those uses of messages that sessions and retained messages have.
func auditUses(b *Broker, s *journal.Store) error {
	want := make(map[uint32]int64)
	for _, o := range b.occupants(1, 1<<63) {
		want[journal.SegmentOf(o.at)]++
	}
	if got := s.Uses(); !maps.Equal(got, want) {
		return fmt.Errorf("the store counts uses %v by segment, there are %v", got, want)
	}
	return nil
}

// TestUsesAreExact lets clients do all that they can, with restarts in between, and wants every use of every message to be counted once
// and no longer than it lasts: else a segment is freed too early, or never.
func TestUsesAreExact(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t, seed)
			for range 3 {
				if err := s.open(); err != nil {
					s.fatalf("open: %v", err)
				}
				s.wantExactUses("after the restart")
				for range 150 {
					s.step()
				}
				s.reconcile()
				synctest.Wait()
				s.wantExactUses("after all was acknowledged")
				next := s.crashed()
				s.close()
				s = next
			}
		})
	}
}

func (s *stage) wantExactUses(when string) {
	s.Helper()
	if err := auditUses(s.b, s.store); err != nil {
		s.fatalf("%s: %v", when, err)
	}
}

// cleaning is a broker on a small journal.
type cleaning struct {
	*rig
	disk  *vfs.Mem
	store *journal.Store
	opts  journal.StoreOptions
	begin starter // nil for pipes
}

const cleanSegment = 16 << 10

func (c *cleaning) start(t *testing.T) {
	t.Helper()
	c.opts.Log.SegmentSize, c.opts.CheckpointAfter = cleanSegment, max(c.opts.CheckpointAfter, cleanSegment)
	s, err := journal.OpenStore(c.disk, "j", c.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c.store = s
	if c.begin == nil {
		c.begin = newRig
	}
	c.rig = c.begin(t, Config{Store: c.store})
}

// segments returns how many files of segments there are.
func (c *cleaning) segments() (n int) {
	c.Helper()
	all, err := c.disk.ReadDir("j")
	if err != nil {
		c.Fatal(err)
	}
	for _, f := range all {
		if strings.HasSuffix(f.Name, ".seg") {
			n++
		}
	}
	return n
}

func (c *cleaning) wantExactUses() {
	c.Helper()
	synctest.Wait()
	if err := auditUses(c.b, c.store); err != nil {
		c.Fatal(err)
	}
}

// traffic is messages that somebody gets at once.
func (c *cleaning) traffic(n int) {
	c.Helper()
	s, p := c.connect(mqtt.V5, "busy", lasting(1000)), c.connect(mqtt.V5, "p")
	s.subscribe(sub("busy", 1))
	for range n {
		p.publish("busy", strings.Repeat("x", 500), 1)
		s.take()
	}
	s.barrier()
	p.leave()
	s.leave()
}

// TestCleanMovesWhatStays: messages that wait for a client that is away, and retained ones that nobody touches, do not keep the
// segments in which they came. They are copied, and are where they were for clients, in order, after restarts too.
func TestCleanMovesWhatStays(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		c := &cleaning{disk: vfs.NewMem(), begin: start}
		c.start(t)
		old := c.connect(mqtt.V5, "old", lasting(100_000))
		old.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 7), mqtt.Subscription{Filter: "old/#", QoS: 2, RetainAsPublished: true})
		old.subscribe(sub("$share/g/s", 2))
		old.drop()
		p := c.connect(mqtt.V5, "p")
		var want [2][]string // by QoS
		for i := range 20 {
			qos := mqtt.QoS(1 + i%2)
			want[i%2] = append(want[i%2], fmt.Sprint("m", i))
			p.publish("old/a", fmt.Sprint("m", i), qos)
			p.publish("s", fmt.Sprint("s", i), qos)
			p.publishPacket(retain(fmt.Sprint("kept/", i), fmt.Sprint("r", i), 1))
			c.traffic(40)
			p = c.connect(mqtt.V5, "p")
		}
		time.Sleep(2 * time.Minute)
		c.wantExactUses()
		if n := c.segments(); n > 12 {
			t.Errorf("%d segments for a hundred small messages", n)
		}
		for range 3 {
			c.disk = c.disk.Crash(uint64(c.segments()))
			c.start(t)
			c.wantExactUses()
			c.traffic(100)
			time.Sleep(10 * time.Second)
			c.wantExactUses()
		}

		old = c.connect(mqtt.V5, "old", resume, lasting(100_000))
		var got [2][]string
		shared := 0
		for range 40 {
			m := old.take()
			switch {
			case string(m.Topic) == "s":
				shared++
			case len(m.IDs) != 1 || m.IDs[0] != 7:
				t.Fatalf("%q has identifiers %v", m.Payload, m.IDs)
			default:
				got[m.QoS-1] = append(got[m.QoS-1], string(m.Payload))
			}
		}
		old.silent()
		if fmt.Sprint(got) != fmt.Sprint(want) || shared != 20 {
			t.Errorf("got %v and %d shared, want %v", got, shared, want)
		}
		fresh := c.connect(mqtt.V5, "fresh")
		fresh.subscribe(sub("kept/#", 1))
		for range 20 {
			fresh.take()
		}
		fresh.silent()
		p = c.connect(mqtt.V5, "p")
		for i := range 20 {
			p.publishPacket(retain(fmt.Sprint("kept/", i), "", 1))
		}
		c.wantExactUses()
		if uses := c.store.Uses(); len(uses) > 0 {
			t.Errorf("uses %v are counted when nothing waits", uses)
		}
	})
}

// TestCleanWhileLoading moves messages while a client comes and its queue is read back: nothing is lost or doubled.
func TestCleanWhileLoading(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		c := &cleaning{disk: vfs.NewMem(), begin: start}
		c.opts.CheckpointAfter = 1 << 40
		c.start(t)
		s := c.connect(mqtt.V5, "s", lasting(1000))
		s.subscribe(sub("a", 2))
		s.drop()
		p := c.connect(mqtt.V5, "p")
		for _, payload := range numbers("m", 500) {
			p.publish("a", payload, 1)
		}
		s = c.connect(mqtt.V5, "s", resume, lasting(1000))
		for i := range 500 {
			if m := s.take(); string(m.Payload) != fmt.Sprint("m", i) {
				t.Fatalf("got %q, want m%d", m.Payload, i)
			}
			if i%50 == 0 { // everything that waits moves
				if err := c.b.clean(1, 1<<62, c.copied); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.silent()
		c.wantExactUses()
		if uses := c.store.Uses(); len(uses) > 0 {
			t.Errorf("uses %v are counted when nothing waits", uses)
		}
	})
}

// copied is a store.Mover.
func (c *cleaning) copied(at store.Position, needs func(store.SessionID) bool) (store.Position, error) {
	var r store.Record
	if err := c.store.Load(at, &r); err != nil {
		return 0, err
	}
	r.Kind, r.About, r.Session, r.PacketID = store.Moved, at, 0, 0
	return c.store.Append(&r)
}

// TestFullDisk fills the disk beyond the limit. Messages are refused with Quota exceeded, clients come, take what waits for them and
// acknowledge it, and what they free lets messages in again, without a restart; with and without space beyond the limit.
func TestFullDisk(t *testing.T) {
	for _, limit := range []float64{0.8, 1} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fillDisk(t, limit) })
		})
	}
}

func fillDisk(t *testing.T, limit float64) {
	c := &cleaning{disk: vfs.NewMem()}
	c.disk.SetCapacity(20 * cleanSegment)
	var news []bool
	c.opts.FullAt, c.opts.OnFull = limit, func(full bool, used float64) { news = append(news, full) }
	c.start(t)
	s := c.connect(mqtt.V5, "s", lasting(1000))
	s.subscribe(sub("a", 1))
	s.drop()
	p := c.connect(mqtt.V5, "p")
	stays := c.connect(mqtt.V5, "stays", lasting(1000))
	stays.subscribe(sub("b", 1))
	p.publishPacket(retain("kept", "x", 1))
	sent := c.fill(p)
	if _, code := c.try(mqtt.V5, "new", lasting(1000)); code.Failed() {
		t.Errorf("a client cannot come: %v", code)
	}
	if code := p.publishPacket(retain("kept", "", 1)); code.Failed() {
		t.Errorf("a retained message cannot be removed: %v", code)
	}
	s = c.connect(mqtt.V5, "s", resume, lasting(1000))
	for i := range sent {
		if m := s.take(); string(m.Payload[:6]) != fmt.Sprintf("%06d", i) {
			t.Fatalf("got %.6s, want %d", m.Payload, i)
		}
	}
	s.silent()
	c.wantExactUses()
	time.Sleep(5 * time.Second)
	if code := p.publishPacket(post("a", "again", 1)); code.Failed() {
		t.Fatalf("nothing is accepted after everything was taken: %v", code)
	}
	s.want("again")
	again := c.fill(p)
	for range again {
		s.take()
	}
	if again < sent/2 {
		t.Errorf("%d messages had room the second time, %d the first", again, sent)
	}
	time.Sleep(5 * time.Second)
	if code := p.publishPacket(post("b", "last", 1)); code.Failed() {
		t.Errorf("nothing is accepted the third time: %v", code)
	}
	stays.want("last")
	c.wantExactUses()
	if want := "[true false true false]"; limit < 1 && fmt.Sprint(news) != want || limit == 1 && len(news) > 0 {
		t.Errorf("news of the disk: %v", news)
	}
}

// fill publishes until nothing is accepted any more.
func (c *cleaning) fill(p *client) (accepted int) {
	c.Helper()
	for ; ; accepted++ {
		code := p.publishPacket(post("a", fmt.Sprintf("%06d", accepted)+strings.Repeat("x", 800), 1))
		if code == mqtt.QuotaExceeded {
			return accepted
		} else if code.Failed() {
			c.Fatalf("message %d is refused: %v", accepted, code)
		}
		if accepted > 10_000 {
			c.Fatal("the disk is never full")
		}
		if accepted%10 == 0 {
			time.Sleep(time.Second) // let the store look at the disk
		}
	}
}
