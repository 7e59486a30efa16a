package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// news collects what a log says about commits.
type news struct {
	mu   sync.Mutex
	more *sync.Cond
	last Position
	all  []Position
}

func newNews() *news {
	n := &news{}
	n.more = sync.NewCond(&n.mu)
	return n
}

func (n *news) committed(p Position) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = p
	n.all = append(n.all, p)
	n.more.Broadcast()
}

// wait waits until p is committed.
func (n *news) wait(p Position) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.last < p {
		n.more.Wait()
	}
}

// TestManyAppend appends from many goroutines to the real file system, reads while records are on their way, and reopens.
func TestManyAppend(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	n := newNews()
	opts := Options{SegmentSize: 256 << 10, OnCommit: n.committed}
	l, err := Open(vfs.OS{}, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 16, 500
	var all [writers][]appended
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() { all[w] = appendMany(t, l, n, w, each) })
	}
	group.Wait()
	if t.Failed() {
		l.Close()
		return
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(all[:]...)
	slices.SortFunc(want, func(a, b appended) int { return int(int64(a.pos) - int64(b.pos)) })
	if l.Committed() != want[len(want)-1].pos {
		t.Errorf("committed %x after Close, want %x", l.Committed(), want[len(want)-1].pos)
	}
	if !slices.IsSorted(n.all) {
		t.Error("news of commits went back")
	}
	l, err = Open(vfs.OS{}, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := mustReplay(t, l); !slices.EqualFunc(got, want, same) {
		t.Errorf("%d records after reopening, want %d, or they differ", len(got), len(want))
	}
}

// appendMany appends records, reads each at once, and waits for some of them.
func appendMany(t *testing.T, l *Log, n *news, writer, count int) (all []appended) {
	rng := rand.New(rand.NewPCG(uint64(writer), 5))
	for i := range count {
		payload := fmt.Appendf(nil, "%d %d %s", writer, i, strings.Repeat("x", rng.IntN(300)))
		pos, err := l.AppendWait(t.Context(), 3, payload[:2], payload[2:])
		if err != nil {
			t.Errorf("append: %v", err)
			return nil
		}
		all = append(all, appended{pos, 3, payload})
		if rng.IntN(10) == 0 {
			n.wait(pos)
		}
		r := all[rng.IntN(len(all))]
		if kind, got, err := l.Read(r.pos, nil); err != nil || kind != 3 || !bytes.Equal(got, r.payload) {
			t.Errorf("read of %x: %d %q %v", r.pos, kind, got, err)
			return nil
		}
	}
	return all
}

// TestFreeWhileReading frees and recycles segments while others read them: what is read is right or not there.
func TestFreeWhileReading(t *testing.T) {
	mem := vfs.NewMem()
	l, err := Open(mem, testDir, Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	var newest atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for reader := range 4 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(reader), 6))
			for buf := make([]byte, 600); ctx.Err() == nil; runtime.Gosched() {
				all := l.Segments()
				pos := Position(newest.Load())
				err := l.ReplaySegment(all[rng.IntN(len(all))].Number, func(p Position, _ byte, _ []byte) error {
					pos = p
					return nil
				})
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("replay of a segment: %v", err)
				}
				if pos == 0 {
					continue
				}
				_, payload, err := l.Read(pos, buf)
				if err != nil && err != ErrNotFound {
					t.Errorf("read of %x: %v", pos, err)
				} else if err == nil && Position(binary.LittleEndian.Uint64(payload)) >= pos {
					t.Errorf("record %x holds what belongs elsewhere", pos)
				}
			}
		})
	}
	last := Position(1)
	for range 5000 {
		payload := binary.LittleEndian.AppendUint64(nil, uint64(last)) // the position of the one before
		pos, err := l.AppendWait(t.Context(), 1, payload, make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		last = pos
		newest.Store(uint64(pos))
		if all := l.Segments(); len(all) > 3 {
			if err := l.Free(all[0].Number); err != nil && err != ErrBusy {
				t.Fatal(err)
			}
		}
	}
	stop()
	group.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAppendErrors wants every refusal to have its name.
func TestAppendErrors(t *testing.T) {
	l := mustOpenLog(t, vfs.NewMem(), Options{SegmentSize: minSegment, MaxPending: 1000, manual: true})
	for _, kind := range []byte{0, MaxKind + 1, kindMark} {
		if _, err := l.Append(kind, nil); err != ErrKind {
			t.Errorf("kind %d: %v, want ErrKind", kind, err)
		}
	}
	half := make([]byte, MaxPayload/2+1)
	if _, err := l.Append(1, half, half); err != ErrTooLarge {
		t.Errorf("too large: %v", err)
	}
	mustAppend(t, l, 1, make([]byte, 900))
	if _, err := l.Append(1, make([]byte, 200)); err != ErrBusy {
		t.Errorf("beyond MaxPending: %v, want ErrBusy", err)
	}
	l.commit()
	mustAppend(t, l, 1, make([]byte, 1200)) // nothing waits: it is taken whatever its size
	if err := l.Free(99); err != ErrNotFound {
		t.Errorf("freeing what is not there: %v", err)
	}
	if err := l.Free(l.active.number); err != ErrActive {
		t.Errorf("freeing the active segment: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, appending := l.Append(1)
	_, rotating := l.Rotate()
	for what, err := range map[string]error{"append": appending, "rotate": rotating, "anchor": l.SetAnchor(1), "close": l.Close()} {
		if err != ErrClosed {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// TestRead reads records of all sizes before they are written, after that, and after reopening.
func TestRead(t *testing.T) {
	opts := Options{SegmentSize: 64 << 10, manual: true}
	mem := vfs.NewMem()
	l := mustOpenLog(t, mem, opts)
	var all []appended
	for size := 0; size < 100_000; size = size*2 + 1 {
		payload := bytes.Repeat([]byte{byte(size)}, size)
		all = append(all, appended{mustAppend(t, l, 7, payload), 7, payload})
	}
	read := func() {
		t.Helper()
		for _, r := range all {
			for _, size := range []int{0, 10, 200_000} {
				if kind, got, err := l.Read(r.pos, make([]byte, size)); err != nil || kind != 7 || !bytes.Equal(got, r.payload) {
					t.Errorf("record of %d bytes with a buffer of %d: %d bytes, %v", len(r.payload), size, len(got), err)
				}
			}
			for _, wrong := range []Position{r.pos + 1, r.pos - 1, 0, at(99, 5000), at(1, 10), at(1, 1<<31)} {
				if _, got, err := l.Read(wrong, nil); err == nil {
					t.Errorf("read at %x, where no record is: %.20q", wrong, got)
				}
			}
		}
	}
	read()
	l.commit()
	read()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenLog(t, mem, opts)
	defer abandon(l)
	read()
}

// TestReadBatch wants the same as from Read, with fewer calls.
func TestReadBatch(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem())
	l := mustOpenLog(t, faulty, Options{SegmentSize: 64 << 10, manual: true})
	defer abandon(l)
	var all []appended
	rng := rand.New(rand.NewPCG(1, 7))
	for range 2000 {
		payload := make([]byte, rng.IntN(100))
		if rng.IntN(100) == 0 {
			payload = make([]byte, rng.IntN(30_000))
		}
		all = append(all, appended{mustAppend(t, l, 7, payload), 7, payload})
		if rng.IntN(20) == 0 {
			l.commit()
			l.prepare()
		}
	}
	for _, every := range []int{1, 7, 100} {
		var positions []Position
		var want []appended
		for i := 0; i < len(all); i += every {
			positions, want = append(positions, all[i].pos), append(want, all[i])
		}
		reads, n := faulty.Calls(vfs.OpRead), 0
		err := l.ReadBatch(positions, func(i int, kind byte, payload []byte) error {
			if i != n || !same(want[i], appended{positions[i], kind, payload}) {
				t.Fatalf("every %d: record %d of %d is wrong", every, i, n)
			}
			n++
			return nil
		})
		if err != nil || n != len(want) {
			t.Errorf("every %d: %d of %d records, %v", every, n, len(want), err)
		}
		if reads = faulty.Calls(vfs.OpRead) - reads; every < 100 && reads > len(want)/4 {
			t.Errorf("every %d: %d reads for %d records", every, reads, len(want))
		}
	}
	stop := errors.New("stop")
	if err := l.ReadBatch([]Position{all[0].pos}, func(int, byte, []byte) error { return stop }); err != stop {
		t.Errorf("the function's error came back as %v", err)
	}
	if err := l.ReadBatch([]Position{at(99, 5000)}, func(int, byte, []byte) error { return nil }); err != ErrNotFound {
		t.Errorf("a segment that is not there: %v", err)
	}
}

// TestManySegments reads from more segments than may be open at once.
func TestManySegments(t *testing.T) {
	mem := vfs.NewMem()
	opts := Options{SegmentSize: minSegment, manual: true}
	l := mustOpenLog(t, mem, opts)
	var all []appended
	for i := range maxOpen + 50 {
		payload := fmt.Appendf(make([]byte, 3000), "%d", i) // one in a segment
		all = append(all, appended{mustAppend(t, l, 1, payload), 1, payload})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenLog(t, mem, opts)
	defer abandon(l)
	for range 2 {
		for _, r := range all {
			if _, payload, err := l.Read(r.pos, nil); err != nil || !bytes.Equal(payload, r.payload) {
				t.Fatalf("read of %x: %v", r.pos, err)
			}
		}
	}
	open := 0
	for _, s := range l.segs {
		if s.file != nil {
			open++
		}
	}
	if len(l.segs) < maxOpen+20 || open > maxOpen+1 {
		t.Errorf("%d of %d segments are open, at most %d should be", open, len(l.segs), maxOpen+1)
	}
}

// TestReplayFrom begins at every record.
func TestReplayFrom(t *testing.T) {
	b := build(t, 8, 200, true)
	l := mustOpenLog(t, b.mem, b.opts)
	defer abandon(l)
	for i, r := range b.history {
		n := i
		err := l.Replay(r.pos, func(pos Position, _ byte, _ []byte) error {
			if pos != b.history[n].pos {
				t.Fatalf("from %x: %x instead of %x", r.pos, pos, b.history[n].pos)
			}
			n++
			return nil
		})
		if err != nil || n != len(b.history) {
			t.Fatalf("from %x: %d records, %v", r.pos, n-i, err)
		}
	}
	first := b.history[0].pos
	count := 0
	if err := l.ReplaySegment(SegmentOf(first), func(p Position, _ byte, _ []byte) error {
		if SegmentOf(p) != SegmentOf(first) {
			t.Errorf("%x is in another segment", p)
		}
		count++
		return nil
	}); err != nil || count == 0 {
		t.Errorf("one segment: %d records, %v", count, err)
	}
	if err := l.ReplaySegment(99, nil); err != ErrNotFound {
		t.Errorf("replay of a segment that is not there: %v", err)
	}
}

// TestRecycling runs through files again and again: the contents they had before are never seen, and their number stays small.
func TestRecycling(t *testing.T) {
	mem := vfs.NewMem()
	opts := Options{SegmentSize: minSegment, Spares: 2, manual: true}
	l := mustOpenLog(t, mem, opts)
	var all []appended
	for i := range 2000 {
		// All records are alike: only epoch and place tell an old one from a new one.
		all = append(all, appended{mustAppend(t, l, 1, []byte("always the same")), 1, []byte("always the same")})
		if i%10 == 0 {
			l.commit()
		}
		for _, s := range l.Segments()[:max(0, len(l.Segments())-2)] {
			if err := l.Free(s.Number); err != nil {
				t.Fatal(err)
			}
			all = slices.DeleteFunc(all, func(r appended) bool { return SegmentOf(r.pos) == s.Number })
		}
		l.prepare()
		if i%97 == 0 {
			l.commit()
			got := reopened(t, mem.Clone(), opts)
			if len(got) > len(all) || !slices.EqualFunc(got, all[:len(got)], func(a, b appended) bool { return a.pos == b.pos }) {
				t.Fatalf("after %d records: %d after reopening, %d in the log", i, len(got), len(all))
			}
		}
	}
	if all, _ := mem.ReadDir(testDir); len(all) > 8 {
		t.Errorf("%d files for a log of two segments", len(all))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func reopened(t *testing.T, mem *vfs.Mem, opts Options) []appended {
	t.Helper()
	l := mustOpenLog(t, mem, opts)
	defer abandon(l)
	return mustReplay(t, l)
}

// TestFullDisk fills the disk: appending is refused before anything is taken, urgent records and freeing still work, and the
// log goes on when there is space.
func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(5 * minSegment)
	opts := Options{SegmentSize: minSegment, Spares: -1, manual: true}
	l := mustOpenLog(t, mem, opts)
	var last Position
	for {
		pos, err := l.Append(1, make([]byte, 100))
		if err == ErrBusy {
			l.commit()
			l.prepare()
			continue
		} else if err != nil {
			var full *FullError
			if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("full disk: %v", err)
			}
			break
		}
		last = pos
	}
	l.commit()
	if l.Committed() != last || l.Err() != nil {
		t.Fatalf("committed %x of %x, %v", l.Committed(), last, l.Err())
	}
	for range 20 {
		if _, err := l.AppendUrgent(2, []byte("acknowledged")); err != nil {
			t.Fatalf("urgent record: %v", err)
		}
	}
	if got := reopened(t, mem.Clone(), opts); len(got) == 0 || got[len(got)-1].pos < last {
		t.Errorf("a log on a full disk opens with %d records", len(got))
	}
	if err := l.Free(l.Segments()[0].Number); err != nil {
		t.Fatalf("free: %v", err)
	}
	l.commit()
	l.prepare()
	if _, err := l.Append(1, []byte("again")); err != nil {
		t.Errorf("append when there is space again: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFreeWhenNothingElseWorks fills the disk with urgent records too: freeing has its own space in each segment, and comes to
// an end before it fills that beyond the record that ends the segment.
func TestFreeWhenNothingElseWorks(t *testing.T) {
	for extra := range 40 { // the end is met at every distance
		freeWhenFull(t, extra)
	}
}

func freeWhenFull(t *testing.T, extra int) {
	t.Helper()
	mem := vfs.NewMem()
	mem.SetCapacity(5*minSegment + 100) // a little for the lock file
	opts := Options{SegmentSize: minSegment, Spares: -1, manual: true}
	l := mustOpenLog(t, mem, opts)
	for refused := 0; refused < 3; {
		_, err := l.AppendUrgent(1, make([]byte, 50+extra))
		if err != nil {
			refused++
		}
		l.commit()
		l.prepare()
	}
	if err := l.SetAnchor(at(3, firstRecord)); err != nil {
		t.Fatalf("anchor: %v", err)
	}
	anchors := 1
	for ; l.SetAnchor(at(3, firstRecord)) == nil; anchors++ {
		if anchors%2 == 0 {
			l.commit()
		}
	}
	if l.off > l.active.size-endSize || anchors < 5 {
		t.Errorf("extra %d: after %d anchors the log ends at %d of %d", extra, anchors, l.off, l.active.size)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenLog(t, mem, opts)
	defer abandon(l)
	if all := l.Segments(); all[len(all)-1].Size != minSegment {
		t.Errorf("segments are %+v", all)
	}
	mem.SetCapacity(20 * minSegment)
	l.prepare()
	mustAppend(t, l, 1, make([]byte, 1000))
}

// TestFullDiskRecovers is the same with goroutines: nobody has to call anything but Free.
func TestFullDiskRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		mem.SetCapacity(5 * minSegment)
		l := mustOpenLog(t, mem, Options{SegmentSize: minSegment})
		defer l.Close()
		var err error
		for err == nil {
			_, err = l.AppendWait(t.Context(), 1, make([]byte, 500))
		}
		if !errors.As(err, new(*FullError)) {
			t.Fatal(err)
		}
		mem.SetCapacity(20 * minSegment) // somebody has tidied up
		time.Sleep(2 * retryFull)
		if _, err := l.Append(1, nil); err != nil {
			t.Errorf("append when there is space again: %v", err)
		}
	})
}

// TestLargeRecord appends records larger than a segment.
func TestLargeRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, MaxPending: 1000})
		var all []appended
		for _, size := range []int{10, 3 * minSegment, 20, 300_000, 30} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			pos, err := l.AppendWait(t.Context(), 1, payload)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			all = append(all, appended{pos, 1, payload})
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got := reopened(t, mem, Options{SegmentSize: minSegment, manual: true}); !slices.EqualFunc(got, all, same) {
			t.Errorf("%d records after reopening, want %d", len(got), len(all))
		}
	})
}

// TestLargeRecordOnFullDisk refuses the large record only.
func TestLargeRecordOnFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(6 * minSegment)
	l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, manual: true})
	defer abandon(l)
	if _, err := l.Append(1, make([]byte, 5*minSegment)); err != ErrBusy {
		t.Fatalf("first try: %v, want ErrBusy", err)
	}
	l.prepare()
	if _, err := l.Append(1, make([]byte, 5*minSegment)); !errors.As(err, new(*FullError)) {
		t.Fatalf("second try: %v, want a FullError", err)
	}
	if _, err := l.Append(1, make([]byte, 100)); err != nil {
		t.Errorf("a small one: %v", err)
	}
}

// TestInterval wants records to be committed at once and synced once in a while, and no timer when there is nothing to do.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem())
		n := newNews()
		l := mustOpenLog(t, faulty, Options{SegmentSize: minSegment, Interval: time.Second, OnCommit: n.committed})
		before := faulty.Calls(vfs.OpSync)
		for range 10 {
			pos, err := l.Append(1, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if l.Committed() != pos || n.last != pos {
				t.Fatalf("committed %x, told %x, want %x", l.Committed(), n.last, pos)
			}
		}
		if got := faulty.Calls(vfs.OpSync) - before; got != 0 {
			t.Errorf("%d syncs before the interval was over", got)
		}
		time.Sleep(time.Hour)
		if got := faulty.Calls(vfs.OpSync) - before; got != 1 {
			t.Errorf("%d syncs in an hour with one thing to sync", got)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestWritten wants a durable log to sync a record of which only that it is written was promised with the next one that has to be
// synced, or within a while; and an interval log to sync one of which that was promised at once.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem())
		n := newNews()
		l := mustOpenLog(t, faulty, Options{SegmentSize: minSegment, OnCommit: n.committed})
		before := faulty.Calls(vfs.OpSync)
		want := func(what string, wrote, synced Position, syncs, told int) {
			t.Helper()
			synctest.Wait()
			n.mu.Lock()
			defer n.mu.Unlock()
			if got := l.Safe(store.Written); got != wrote {
				t.Errorf("%s: written up to %x, want %x", what, got, wrote)
			}
			if got := l.Safe(store.Synced); got != synced || l.Committed() != synced || n.last != synced {
				t.Errorf("%s: synced up to %x, committed %x, told %x, want %x", what, got, l.Committed(), n.last, synced)
			}
			if got := faulty.Calls(vfs.OpSync) - before; got != syncs || len(n.all) != told {
				t.Errorf("%s: %d syncs, %d news, want %d and %d", what, got, len(n.all), syncs, told)
			}
		}
		one := mustTake(t, l, store.Synced)
		want("synced", one, one, 1, 1)
		two := mustTake(t, l, store.Written)
		want("written", two, one, 1, 2)
		three := mustTake(t, l, store.Default)
		want("both by the next", three, three, 2, 3)
		time.Sleep(time.Hour)
		want("nothing to do", three, three, 2, 3)
		four := mustTake(t, l, store.Written)
		want("written alone", four, three, 2, 4)
		time.Sleep(time.Second)
		want("after a second", four, four, 3, 5)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := mustOpenLog(t, vfs.NewMem(), Options{SegmentSize: minSegment, Interval: time.Minute})
		one := mustTake(t, l, store.Default)
		synctest.Wait()
		if l.Committed() != one || l.Safe(store.Synced) >= one {
			t.Errorf("committed %x, synced %x, want %x and less", l.Committed(), l.Safe(store.Synced), one)
		}
		two := mustTake(t, l, store.Synced)
		synctest.Wait()
		if l.Committed() != two || l.Safe(store.Synced) != two {
			t.Errorf("committed %x, synced %x, want %x", l.Committed(), l.Safe(store.Synced), two)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// mustTake appends a record under a promise.
func mustTake(t *testing.T, l *Log, p store.Promise) Position {
	t.Helper()
	pos, err := l.add(1, false, p, [][]byte{[]byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// TestFailure wants a failed write or sync to end the log, once, for everybody.
func TestFailure(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync} {
		t.Run(op.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := vfs.NewFaulty(vfs.NewMem())
				var failures []error
				l := mustOpenLog(t, faulty, Options{SegmentSize: minSegment, OnFail: func(err error) { failures = append(failures, err) }})
				good, err := l.Append(1, []byte("good"))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				faulty.Set(vfs.Fault{Op: op, Nth: 1, Err: syscall.EIO})
				bad, err := l.Append(1, []byte("bad"))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				select {
				case <-l.Failed():
				default:
					t.Fatal("the log has not failed")
				}
				syncs := faulty.Calls(vfs.OpSync)
				if _, err := l.Append(1); !errors.Is(err, syscall.EIO) {
					t.Errorf("append afterwards: %v", err)
				}
				if err := l.Wait(t.Context(), 1); !errors.Is(err, syscall.EIO) {
					t.Errorf("wait afterwards: %v", err)
				}
				if _, payload, err := l.Read(bad, nil); err != nil || string(payload) != "bad" {
					t.Errorf("reading what was not committed: %q, %v", payload, err)
				}
				if err := l.Close(); !errors.Is(err, syscall.EIO) {
					t.Errorf("close afterwards: %v", err)
				}
				if l.Committed() != good || len(failures) != 1 || !errors.Is(failures[0], syscall.EIO) {
					t.Errorf("committed %x, want %x; failures %v", l.Committed(), good, failures)
				}
				if got := faulty.Calls(vfs.OpSync); got != syncs {
					t.Errorf("%d syncs after one that failed", got-syncs)
				}
			})
		})
	}
}

// TestBusy wants those who were refused to be told.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem())
		told := 0
		l := mustOpenLog(t, faulty, Options{SegmentSize: 1 << 20, MaxPending: 1000, OnRoom: func() { told++ }})
		defer l.Close()
		hold := make(chan struct{})
		faulty.Before(func(op vfs.Op) {
			if op == vfs.OpSync {
				<-hold
			}
		})
		if _, err := l.Append(1, make([]byte, 900)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(1, make([]byte, 900)); err != ErrBusy {
			t.Fatalf("while the disk is busy: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.AppendWait(ctx, 1, make([]byte, 900)); err != context.DeadlineExceeded {
			t.Errorf("waiting in vain: %v", err)
		}
		done := make(chan error)
		go func() {
			_, err := l.AppendWait(t.Context(), 1, make([]byte, 900))
			done <- err
		}()
		synctest.Wait()
		close(hold)
		if err := <-done; err != nil {
			t.Errorf("waiting: %v", err)
		}
		if synctest.Wait(); told == 0 {
			t.Error("nobody was told that there is room")
		}
	})
}

// TestAnchorAndSegments survive reopening.
func TestAnchorAndSegments(t *testing.T) {
	mem := vfs.NewMem()
	opts := Options{SegmentSize: minSegment, manual: true}
	l := mustOpenLog(t, mem, opts)
	var positions []Position
	for range 4 {
		positions = append(positions, mustAppend(t, l, 1, make([]byte, 1000)))
		l.prepare()
		if _, err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := l.Rotate()
	if err != nil || again != 5 {
		t.Fatalf("rotating an empty segment: %d, %v", again, err)
	}
	l.prepare()
	if err := errors.Join(l.SetAnchor(positions[2]), l.Free(1), l.Free(3)); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		all := l.Segments()
		if len(all) != 3 || all[0].Number != 2 || all[1].Number != 4 || all[2].Number != 5 || !all[2].Active || all[0].Active {
			t.Fatalf("segments are %+v", all)
		}
		if s := all[0]; s.First > positions[1] || s.End <= positions[1] || s.Used < 1000 || s.Size != minSegment {
			t.Errorf("segment is %+v", s)
		}
		if l.Anchor() != positions[2] {
			t.Errorf("anchor is %x, want %x", l.Anchor(), positions[2])
		}
		if _, _, err := l.Read(positions[0], nil); err != ErrNotFound {
			t.Errorf("read in a freed segment: %v", err)
		}
	}
	check()
	for range 3 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpenLog(t, mem, opts)
		check()
	}
	abandon(l)
}

// TestReopenMany opens and closes a log until its segment is full of marks.
func TestReopenMany(t *testing.T) {
	mem := vfs.NewMem()
	opts := Options{SegmentSize: minSegment, manual: true}
	for i := range 300 {
		l := mustOpenLog(t, mem, opts)
		if i%50 == 0 {
			mustAppend(t, l, 1, []byte("x"))
		}
		if i%3 == 0 {
			abandon(l)
		} else if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := reopened(t, mem, opts); len(got) != 4 {
		t.Errorf("%d records, want the 4 of 6 that were closed in", len(got))
	}
}

// TestNoAllocations wants Append not to allocate when the log runs.
func TestNoAllocations(t *testing.T) {
	l := mustOpenLog(t, vfs.NewMem(), Options{SegmentSize: 1 << 20, manual: true})
	defer abandon(l)
	parts := [][]byte{[]byte("header"), make([]byte, 128)}
	for range 1000 { // the buffers find their size
		if _, err := l.Append(1, parts...); err != nil {
			t.Fatal(err)
		}
	}
	l.commit()
	for range 1000 {
		l.Append(1, parts...)
	}
	l.commit()
	if n := testing.AllocsPerRun(500, func() {
		if _, err := l.Append(1, parts...); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}

// TestFormat opens a log that was written when the format was made.
func TestFormat(t *testing.T) {
	file, err := os.ReadFile("testdata/format1/00000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	mem := vfs.NewMem()
	if err := mem.MkdirAll(testDir); err != nil {
		t.Fatal(err)
	}
	f, err := mem.OpenFile(testDir+"/"+fileName(1), os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(file, 0); err != nil {
		t.Fatal(err)
	}
	l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, manual: true})
	defer abandon(l)
	got := mustReplay(t, l)
	if len(got) != 3 || string(got[0].payload) != "first" || got[1].kind != 2 || len(got[1].payload) != 200 || got[2].pos != l.Anchor() {
		t.Errorf("it holds %+v, anchor %x", got, l.Anchor())
	}
}

// TestFormatIsStable wants the bytes that the fixture was made of.
func TestFormatIsStable(t *testing.T) {
	epoch := uint64(0x0123456789abcdef)
	mem := vfs.NewMem()
	l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, manual: true, random: func() uint64 { epoch += 0x1111; return epoch }})
	mustAppend(t, l, 1, []byte("first"))
	mustAppend(t, l, 2, bytes.Repeat([]byte("ab"), 100))
	l.commit()
	if err := l.SetAnchor(mustAppend(t, l, 3, nil)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := mem.OpenFile(testDir+"/"+fileName(1), os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, minSegment)
	if err := vfs.ReadFull(f, got, 0); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/format1/00000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the format has changed: FormatVersion has to change with it, and the old one has to be read still")
		if dir := os.Getenv("MAGPIE_WRITE_FORMAT"); dir != "" {
			os.WriteFile(dir+"/00000001.seg", got, 0o600)
		}
	}
}
