package journal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// mustOpenStore opens a store whose owner has nothing, and closes it with the test.
func mustOpenStore(t *testing.T, fsys vfs.FS, o StoreOptions, u store.Upkeep) *Store {
	t.Helper()
	s, err := OpenStore(fsys, testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Restore(func(Position, *store.Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if u.Checkpoint == nil {
		u.Checkpoint = func(func(*store.Record) error) error { return nil }
	}
	s.Maintain(u)
	return s
}

// message is an Accepted record for one session.
func message(size int) *store.Record {
	return &store.Record{
		Kind:       store.Accepted,
		Message:    &mqtt.Message{Topic: "t", QoS: 1, Payload: make([]byte, size)},
		Recipients: []store.Recipient{{Session: 1, QoS: 1}},
	}
}

func mustKeep(t *testing.T, s *Store, r *store.Record) Position {
	t.Helper()
	pos, err := s.Append(r)
	if err != nil {
		t.Fatalf("kind %d: %v", r.Kind, err)
	}
	return pos
}

// TestWatermark lets something else fill the disk: messages are refused above the limit, everything else is taken, and messages are
// again when one percent less is in use. Each change is told once.
func TestWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		var news []string
		s := mustOpenStore(t, mem, StoreOptions{
			Log: Options{SegmentSize: minSegment}, FullAt: 0.9,
			OnFull: func(full bool, used float64) { news = append(news, fmt.Sprintf("%v %.3f", full, used)) },
		}, store.Upkeep{})
		other, err := mem.OpenFile("/data/other", 0x42)
		if err != nil {
			t.Fatal(err)
		}
		ours := int64(0)
		all, err := mem.ReadDir(testDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			ours += f.Size
		}
		mem.SetCapacity(1_000_000)
		use := func(permille int64) { // and let the store look, though not more often than it says
			if err := other.Truncate(permille*1000 - ours); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * lookEvery)
		}
		for _, step := range []struct {
			permille int64
			full     bool
		}{{500, false}, {899, false}, {901, true}, {999, true}, {895, true}, {891, true}, {889, false}, {899, false}, {910, true}} {
			use(step.permille)
			_, err := s.Append(message(10))
			var full *FullError
			if errors.As(err, &full) != step.full || err != nil && !step.full {
				t.Errorf("at %d of 1000: %v", step.permille, err)
			}
			if want := fmt.Sprintf("the disk is %d %% full (limit 90 %%)", (step.permille+5)/10); step.full && !strings.Contains(err.Error(), want) {
				t.Errorf("error is %q, want %q", err, want)
			}
			for kind := store.Session; kind <= store.Retained; kind++ {
				if kind != store.Accepted && kind != store.Moved {
					mustKeep(t, s, &store.Record{Kind: kind, Session: 1})
				}
			}
			mustKeep(t, s, &store.Record{Kind: store.Accepted, Message: &mqtt.Message{Topic: "a", Retain: true}})
		}
		if want := []string{"true 0.901", "false 0.889", "true 0.910"}; !slices.Equal(news, want) {
			t.Errorf("news %q, want %q", news, want)
		}
	})
}

// TestCleanRate wants the copies to take the time that the rate says, and Close not to wait for the rest.
func TestCleanRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size, count = 1000, 400, 8
		var live []Position
		var cleaning time.Duration
		cleaned, stop := 0, false
		u := store.Upkeep{Clean: func(from, to Position, move store.Mover) error {
			cleaned++
			began := time.Now()
			for _, p := range live {
				if p < from || p >= to {
					continue
				}
				if _, err := move(p, nil); err != nil {
					if !stop {
						t.Errorf("move: %v", err)
					}
					return err
				}
			}
			cleaning = time.Since(began)
			return nil
		}}
		s := mustOpenStore(t, vfs.NewMem(), StoreOptions{Log: Options{SegmentSize: 64 << 10}, CheckpointAfter: 1 << 40, CleanRate: rate}, u)
		for i := range 140 {
			pos := mustKeep(t, s, message(size))
			if i%16 == 3 && len(live) < count {
				live = append(live, pos)
			} else {
				s.Use(pos, -1)
			}
		}
		if len(live) < count || SegmentOf(live[0]) != SegmentOf(live[count-1]) {
			t.Fatalf("the messages are at %x", live)
		}
		for range 140 {
			s.Use(mustKeep(t, s, message(size)), -1)
		}
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := count * size * time.Second / rate; cleaned != 1 || cleaning < want || cleaning > want*6/5 {
			t.Errorf("%d segments were cleaned, which took %v, want %v", cleaned, cleaning, want)
		}
		for _, p := range live { // the owner did not say that it uses the copies
			if err := s.Load(p, new(store.Record)); err != nil {
				t.Errorf("the original is gone: %v", err)
			}
		}
		s.Use(live[0], -6)
		s.forgetLooks()
		stop = true
		time.Sleep(2 * lookEvery) // it is being copied again
		synctest.Wait()
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 0 || cleaned != 2 {
			t.Errorf("close took %v, while %d segments had been cleaned", took, cleaned)
		}
	})
}

// TestQuietStore wants a store in which nothing happens any more to have the active segment, one that stands ready, and no
// other file: nothing is in use, whatever was before.
func TestQuietStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 16 << 20 // small ones stand ready two at a time
		mem := vfs.NewMem()
		s := mustOpenStore(t, mem, StoreOptions{Log: Options{SegmentSize: size}, CheckpointAfter: 1 << 40}, store.Upkeep{})
		for range 30 {
			s.Use(mustKeep(t, s, message(1<<20)), -1)
			synctest.Wait()
		}
		time.Sleep(10 * time.Minute)
		all, err := mem.ReadDir(testDir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range all {
			names = append(names, f.Name)
		}
		active := s.log.Segments()
		if ready := len(s.log.ready); len(active) != 1 || len(all) != 1+1+ready || ready > 2 {
			t.Errorf("%d segments and %d ready ones in the files %q", len(active), ready, names)
		}
	})
}

// TestStandBy wants one segment to stand ready while the active one is less than half full, and two from then on.
func TestStandBy(t *testing.T) {
	l := mustOpenLog(t, vfs.NewMem(), Options{SegmentSize: 32 << 20, MaxPending: 1 << 30, manual: true})
	defer abandon(l)
	for i := range 40 {
		want := 1
		if l.active.size-l.off < 16<<20 {
			want = 2
		}
		l.prepare()
		if len(l.ready) != want && !(want == 1 && len(l.ready) == 2) {
			t.Fatalf("after %d MiB: %d ready, want %d", i, len(l.ready), want)
		}
		mustAppend(t, l, 1, make([]byte, 1<<20))
		l.commit()
	}
}

func TestBadStoreOptions(t *testing.T) {
	for _, at := range []float64{-0.1, 1.1} {
		if _, err := OpenStore(vfs.NewMem(), testDir, StoreOptions{FullAt: at}); err == nil {
			t.Errorf("FullAt %v was taken", at)
		}
	}
}
