package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

const testDir = "/data/journal"

// appended is a record that the log has taken.
type appended struct {
	pos     Position
	kind    byte
	payload []byte
}

// world is a log that is driven by a random script, beside a list of what it has to remember. Nothing in it is concurrent: the
// script decides when the committer and the preparer do what they do.
type world struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	mem     *vfs.Mem
	faulty  *vfs.Faulty
	opts    Options
	log     *Log
	history []appended      // in order
	freed   map[uint32]bool // segments that were given to Free
	anchors map[Position]bool
	trace   []string
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), mem: vfs.NewMem(),
		freed: make(map[uint32]bool), anchors: map[Position]bool{0: true},
	}
	w.opts = Options{SegmentSize: int64(minSegment) << w.rng.IntN(2), MaxPending: 6000, Spares: w.rng.IntN(3) - 1, manual: true, random: w.rng.Uint64}
	if w.rng.IntN(2) == 0 {
		w.opts.atRisk = 1 + w.rng.Int64N(minSegment)
	}
	if w.rng.IntN(4) == 0 {
		w.opts.Interval = 1 // any: the script decides when to sync
	}
	w.faulty = vfs.NewFaulty(w.mem)
	return w
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: %s\nlast steps: %q", w.seed, fmt.Sprintf(format, args...), w.trace[max(0, len(w.trace)-25):])
}

// open opens the log; it may fail where faults are about.
func (w *world) open() error {
	l, err := Open(w.faulty, testDir, w.opts)
	if err != nil {
		w.log = nil
		return err
	}
	w.log = l
	return nil
}

// safe returns the position before which everything has to survive a power loss.
func (w *world) safe() Position {
	if w.log == nil {
		return 0
	}
	return w.log.Safe(store.Synced) + 1
}

// wrote returns the position before which everything has to survive the end of the process.
func (w *world) wrote() Position {
	if w.log == nil {
		return 0
	}
	return w.log.Safe(store.Written) + 1
}

// step does one random thing.
func (w *world) step() {
	l := w.log
	switch n := w.rng.IntN(100); {
	case n < 55:
		w.append()
	case n < 75:
		w.note("commit")
		l.commit()
	case n < 80:
		w.note("sync")
		l.syncNow()
	case n < 86:
		w.note("prepare")
		l.prepare()
	case n < 87:
		w.note("drop spares")
		l.dropSpares()
	case n < 88:
		lean := w.rng.IntN(2) == 0
		w.note("lean %v", lean)
		l.keepLean(lean)
	case n < 90:
		number, err := l.Rotate()
		w.note("rotate to %d, %v", number, err)
	case n < 96:
		w.free()
	case n < 98:
		w.anchor()
	default:
		w.read()
	}
}

func (w *world) append() {
	size := w.rng.IntN(200)
	switch w.rng.IntN(40) {
	case 0:
		size = 0
	case 1:
		size = w.rng.IntN(5000)
	case 2:
		size = w.rng.IntN(40000) // more than a segment
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(w.rng.Uint32())
	}
	kind, cut := byte(1+w.rng.IntN(MaxKind)), w.rng.IntN(size+1)
	promise := store.Promise(w.rng.IntN(3))
	pos, err := w.log.add(kind, w.rng.IntN(3) == 0, promise, [][]byte{payload[:cut], payload[cut:]})
	w.note("append %d bytes, promise %d: %x, %v", size, promise, pos, err)
	if err == nil {
		w.history = append(w.history, appended{pos, kind, payload})
	} else if err == ErrTooLarge || err == ErrKind {
		w.fatalf("append: %v", err)
	}
}

func (w *world) free() {
	all := w.log.Segments()
	number := all[w.rng.IntN(len(all))].Number
	err := w.log.Free(number)
	w.note("free %d, %v", number, err)
	if err == nil {
		w.freed[number] = true
	}
}

func (w *world) anchor() {
	if len(w.history) == 0 {
		return
	}
	pos := w.history[w.rng.IntN(len(w.history))].pos
	err := w.log.SetAnchor(pos)
	w.note("anchor %x, %v", pos, err)
	if err == nil {
		w.anchors[pos] = true
	}
}

// read reads a random record, wherever it may be at the moment.
func (w *world) read() {
	if len(w.history) == 0 {
		return
	}
	r := w.history[w.rng.IntN(len(w.history))]
	kind, payload, err := w.log.Read(r.pos, make([]byte, w.rng.IntN(1000)))
	if w.freed[SegmentOf(r.pos)] {
		if err != ErrNotFound {
			w.fatalf("read of %x in a freed segment: %v", r.pos, err)
		}
	} else if err == nil && (kind != r.kind || !bytes.Equal(payload, r.payload)) {
		w.fatalf("read of %x: other contents", r.pos)
	} else if err != nil && !errors.Is(err, errInjected) {
		w.fatalf("read of %x: %v", r.pos, err)
	}
}

var errInjected = errors.New("injected")

// recovered opens what is left of the log and holds it against what has to be there: all records before safe in segments
// that were not freed, and of the later ones the first so many. It returns the log, open, and what is in it.
func (w *world) recovered(fsys vfs.FS, safe Position) (*Log, []appended) {
	w.t.Helper()
	l, err := Open(fsys, testDir, w.opts)
	if err != nil {
		w.fatalf("opening what is left, of which everything before %x is safe: %v", safe, err)
	}
	got := w.replay(l)
	live := make(map[uint32]bool)
	for _, s := range l.Segments() {
		live[s.Number] = true
	}
	var want []appended
	must := 0
	for _, r := range w.history {
		number := SegmentOf(r.pos)
		if !live[number] && w.freed[number] {
			continue
		}
		if want = append(want, r); r.pos < safe {
			must = len(want)
		}
	}
	if len(got) < must || len(got) > len(want) {
		w.fatalf("%d records after recovery, want %d to %d; segments %v", len(got), must, len(want), slices.Sorted(maps.Keys(live)))
	}
	for i, r := range got {
		if r.pos != want[i].pos || r.kind != want[i].kind || !bytes.Equal(r.payload, want[i].payload) {
			w.fatalf("record %d after recovery is %x, want %x, or their contents differ", i, r.pos, want[i].pos)
		}
	}
	if !w.anchors[l.Anchor()] {
		w.fatalf("anchor %x was never set", l.Anchor())
	}
	if len(got) > 0 && l.Committed() < got[len(got)-1].pos {
		w.fatalf("committed %x after recovery, but %x is in the log", l.Committed(), got[len(got)-1].pos)
	}
	return l, got
}

func (w *world) replay(l *Log) (got []appended) {
	w.t.Helper()
	err := l.Replay(0, func(pos Position, kind byte, payload []byte) error {
		got = append(got, appended{pos, kind, bytes.Clone(payload)})
		return nil
	})
	if err != nil {
		w.fatalf("replay: %v", err)
	}
	return got
}

// inherit goes on with a log that was recovered.
func (w *world) inherit(mem *vfs.Mem, l *Log, got []appended) {
	w.note("restarted with %d of %d records", len(got), len(w.history))
	w.mem, w.faulty = mem, vfs.NewFaulty(mem)
	w.history = got
	live := make(map[uint32]bool)
	for _, s := range l.Segments() {
		live[s.Number] = true
	}
	maps.DeleteFunc(w.freed, func(n uint32, _ bool) bool { return live[n] })
	if err := l.Close(); err != nil {
		w.fatalf("close after recovery: %v", err)
	}
	if err := w.open(); err != nil {
		w.fatalf("second opening: %v", err)
	}
	if again := w.replay(w.log); len(again) != len(got) {
		w.fatalf("%d records at the second opening, %d at the first", len(again), len(got))
	}
}
