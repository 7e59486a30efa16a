package journal

import (
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
)

// crashes is how many power losses and killed processes the random scripts go through.
const crashes = 10_000

// TestCrashes stops random scripts before random calls to the file system: by the end of the process, which loses nothing that
// was written, or by a power loss, which loses what was not synced in any combination of sectors and names. What is
// recovered must be all that was safe, in order, and nothing else; and so again when the recovery is stopped in the middle.
func TestCrashes(t *testing.T) {
	n := 0
	for seed := uint64(0); n < crashes; seed++ {
		w := newWorld(t, seed)
		if err := w.open(); err != nil {
			w.fatalf("open: %v", err)
		}
		for range 3 {
			n += w.runAndCrash()
		}
		if err := w.log.Close(); err != nil {
			w.fatalf("close: %v", err)
		}
		w.checkWhole(w.mem)
	}
	t.Logf("%d crashes", n)
}

// runAndCrash runs a script that is stopped many times, and goes on from one of these moments.
func (w *world) runAndCrash() (crashes int) {
	var next *vfs.Mem
	var safe Position
	w.faulty.Before(func(op vfs.Op) {
		if w.rng.IntN(5) == 0 {
			next, safe = w.crash()
			w.note("(crash before %v)", op)
			crashes += w.survives(next.Clone(), safe, w.safe(), 1)
		}
	})
	for range 40 + w.rng.IntN(80) {
		w.step()
		if err := w.log.Err(); err != nil {
			w.fatalf("the log has failed: %v", err)
		}
	}
	w.faulty.Before(nil)
	// Go on with what a crash at the end leaves.
	next, safe = w.crash()
	abandon(w.log)
	l, got := w.recovered(next, safe)
	w.inherit(next, l, got)
	return crashes + 1
}

// crash returns what is left of the file system, and the position before which all has to be there.
func (w *world) crash() (left *vfs.Mem, safe Position) {
	if w.rng.IntN(4) == 0 {
		return w.mem.Clone(), w.wrote()
	}
	return w.mem.Crash(w.rng.Uint64()), w.safe()
}

// survives recovers from a crash, which everything before safe survives, sometimes while losing power again, which everything
// before synced survives.
func (w *world) survives(mem *vfs.Mem, safe, synced Position, depth int) (crashes int) {
	crashes = 1
	fsys := vfs.NewFaulty(mem)
	if depth > 0 && w.rng.IntN(4) == 0 {
		fsys.Before(func(vfs.Op) {
			if w.rng.IntN(8) == 0 {
				crashes += w.survives(mem.Crash(w.rng.Uint64()), synced, synced, depth-1)
			}
		})
	}
	if w.rng.IntN(8) == 0 {
		w.checkWhole(mem)
	}
	l, got := w.recovered(fsys, safe)
	fsys.Before(nil)
	w.stays(mem, l, got)
	return crashes
}

// stays wants what was recovered to be durable at once, and what is committed afterwards too.
func (w *world) stays(mem *vfs.Mem, l *Log, got []appended) {
	n := len(got)
	for range w.rng.IntN(3) {
		if len(l.ready) == 0 {
			break // nobody makes one here
		}
		l.advance() // to use what was found ready
		if _, err := l.AppendUrgent(1, []byte("after recovery")); err != nil {
			w.fatalf("append after recovery: %v", err)
		}
		n++
		l.commit()
		l.syncNow()
	}
	after := mem.Crash(w.rng.Uint64())
	abandon(l)
	l, err := Open(after, testDir, w.opts)
	if err != nil {
		w.fatalf("opening after a crash right after recovery: %v", err)
	}
	if again := w.replay(l); len(again) != n {
		w.fatalf("%d records were there after recovery, and %d after another crash", n, len(again))
	}
	abandon(l)
}

// abandon forgets a log as the end of its process would.
func abandon(l *Log) {
	l.closeFiles()
	l.lock.Close()
}

// checkWhole wants Check to find nothing wrong.
func (w *world) checkWhole(mem *vfs.Mem) {
	w.t.Helper()
	if _, err := mem.Stat(testDir + "/" + fileName(1)); err != nil && len(w.freed) == 0 {
		return // it crashed before there was anything
	}
	report, err := Check(mem.Clone(), testDir, nil)
	if err != nil || !report.Whole() {
		w.fatalf("check finds damage where there is none: %+v, %v", report, err)
	}
}

// TestTornRest tears the first record of a batch and leaves the others whole, and puts in its place, after the restart, a record that
// ends where it did: what follows is from before the crash, and not in the log.
func TestTornRest(t *testing.T) {
	const page = int64(page)
	for _, pages := range []int64{1, 2, 20} { // the last is larger than what may be at risk
		opts := Options{SegmentSize: 64 * page, Interval: 1, atRisk: 4 * page, manual: true}
		mem := vfs.NewMem()
		l := mustOpenLog(t, mem, opts)
		mustAppend(t, l, 1, []byte("before"))
		l.commit()
		l.syncNow()
		end := roundUp(l.off) + pages*page
		torn := mustAppend(t, l, 2, make([]byte, payloadFor(end-l.off-markSize)))
		for range 5 {
			mustAppend(t, l, 3, make([]byte, 200))
		}
		l.commit()
		abandon(l)
		flip(t, mem, torn, 20, 0)

		l = mustOpenLog(t, mem, opts)
		if got := mustReplay(t, l); len(got) != 1 {
			t.Fatalf("%d pages: %d records after the crash, want 1", pages, len(got))
		}
		mustAppend(t, l, 4, make([]byte, payloadFor(end-l.off-markSize)))
		l.commit()
		if l.off != end {
			t.Fatalf("%d pages: the new record ends at %d, want %d", pages, l.off, end)
		}
		abandon(l)
		if got := reopened(t, mem, opts); len(got) != 2 || got[1].kind != 4 {
			t.Errorf("%d pages: %d records after all, want 2", pages, len(got))
		}
	}
}

// payloadFor returns how long the payload is of a record that takes so many bytes.
func payloadFor(size int64) int {
	n := int(size) - minRecord
	for recordSize(n) > size {
		n--
	}
	return n
}
