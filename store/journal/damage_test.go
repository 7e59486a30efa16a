package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
)

// builtLog is a log of several segments, closed, with all that is in it.
type builtLog struct {
	mem     *vfs.Mem
	opts    Options
	history []appended
}

// build makes a log of n records; it closes it unless it is to look like after a power loss.
func build(t *testing.T, seed uint64, n int, closed bool) builtLog {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	b := builtLog{mem: vfs.NewMem(), opts: Options{SegmentSize: minSegment, manual: true, random: rng.Uint64}}
	l := mustOpenLog(t, b.mem, b.opts)
	for i := range n {
		payload := bytes.Repeat([]byte{byte(i)}, rng.IntN(300))
		b.history = append(b.history, appended{mustAppend(t, l, byte(1+i%MaxKind), payload), byte(1 + i%MaxKind), payload})
		if rng.IntN(3) == 0 {
			l.commit()
			l.prepare()
		}
	}
	l.commit()
	if !closed {
		abandon(l)
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func mustOpenLog(t *testing.T, fsys vfs.FS, opts Options) *Log {
	t.Helper()
	l, err := Open(fsys, testDir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// mustAppend appends and drives the log by hand while it is busy.
func mustAppend(t *testing.T, l *Log, kind byte, payload []byte) Position {
	t.Helper()
	for range 5 {
		pos, err := l.Append(kind, payload)
		if err == nil {
			return pos
		} else if err != ErrBusy {
			t.Fatal(err)
		}
		l.commit()
		l.prepare()
	}
	t.Fatal("the log stays busy")
	return 0
}

// mustReplay returns everything in the log.
func mustReplay(t *testing.T, l *Log) (got []appended) {
	t.Helper()
	err := l.Replay(0, func(pos Position, kind byte, payload []byte) error {
		got = append(got, appended{pos, kind, bytes.Clone(payload)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func same(a, b appended) bool {
	return a.pos == b.pos && a.kind == b.kind && bytes.Equal(a.payload, b.payload)
}

// change opens a file of the log and changes it.
func change(t *testing.T, mem *vfs.Mem, number uint32, f func(vfs.File)) {
	t.Helper()
	file, err := mem.OpenFile(testDir+"/"+fileName(number), os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f(file)
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

// flip turns one bit of a byte.
func flip(t *testing.T, mem *vfs.Mem, pos Position, off int64, bit int) {
	t.Helper()
	change(t, mem, SegmentOf(pos), func(f vfs.File) {
		var b [1]byte
		if err := vfs.ReadFull(f, b[:], OffsetOf(pos)+off); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << bit
		if _, err := f.WriteAt(b[:], OffsetOf(pos)+off); err != nil {
			t.Fatal(err)
		}
	})
}

// places lists every record in a log with those of the log itself.
func places(t *testing.T, mem *vfs.Mem) (all []Position) {
	t.Helper()
	if _, err := Dump(mem, testDir, func(e Entry) error { all = append(all, e.Position); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestBitFlips damages every record of a log that was closed. Either opening or reading says so, naming file and place; salvage
// brings back all records but those that lay in what it reports as lost, and the copy opens.
func TestBitFlips(t *testing.T) {
	whole := build(t, 1, 120, true)
	rng := rand.New(rand.NewPCG(1, 3))
	for _, pos := range places(t, whole.mem) {
		for range 3 {
			mem := whole.mem.Clone()
			off, bit := int64(rng.IntN(minRecord)), rng.IntN(8)
			flip(t, mem, pos, off, bit)
			noticed(t, mem, whole, pos)
			salvaged(t, mem, whole, 1)
		}
	}
}

// TestBitFlipsBeforeMark damages every record of a log that was not closed. What a later batch says was synced is damage; only
// what follows may be the torn end.
func TestBitFlipsBeforeMark(t *testing.T) {
	whole := build(t, 11, 100, false)
	var synced Position
	if _, err := Dump(whole.mem, testDir, func(e Entry) error {
		if p, ok := parseMarkAnyEpoch(e); ok {
			synced = p
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	last := whole.history[len(whole.history)-1].pos
	if SegmentOf(synced) != SegmentOf(last) || OffsetOf(synced) < 2*firstRecord-3000 {
		t.Fatalf("the last mark tells %x, which tests nothing", synced)
	}
	for _, pos := range places(t, whole.mem) {
		mem := whole.mem.Clone()
		flip(t, mem, pos, 0, 3)
		if pos < synced {
			noticed(t, mem, whole, pos)
		} else if got := reopened(t, mem, whole.opts); len(got) >= len(whole.history) || len(got) > 0 && got[len(got)-1].pos >= pos {
			t.Fatalf("torn at %x: %d records", pos, len(got))
		}
	}
}

// parseMarkAnyEpoch reads what a mark tells.
func parseMarkAnyEpoch(e Entry) (Position, bool) {
	if e.Name != "mark" {
		return 0, false
	}
	return parseMark(e.Payload, binary.LittleEndian.Uint64(e.Payload))
}

// TestStaleTail lets the first sector of a batch be lost and the rest of it survive, and then ends the next batch exactly where
// a record of the lost one begins: that record must not come back.
func TestStaleTail(t *testing.T) {
	for _, closed := range []bool{false, true} {
		mem := vfs.NewMem()
		opts := Options{SegmentSize: 4 * minSegment, manual: true}
		l := mustOpenLog(t, mem, opts)
		mustAppend(t, l, 1, []byte("base"))
		l.commit()
		if closed {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = mustOpenLog(t, mem, opts)
		}
		lost := at(l.active.number, l.off)
		border := 2 * firstRecord
		fill := func() {
			t.Helper()
			target := int64(border) - l.off - markSize
			mustAppend(t, l, 1, make([]byte, target-recordSize(1000)+1000))
			if l.off != int64(border) {
				t.Fatalf("the record ends at %d, want %d", l.off, border)
			}
		}
		fill()
		mustAppend(t, l, 1, []byte("stale"))
		l.commit()
		abandon(l)
		change(t, mem, SegmentOf(lost), func(f vfs.File) {
			if _, err := f.WriteAt(make([]byte, markSize), OffsetOf(lost)); err != nil {
				t.Fatal(err)
			}
		})
		l = mustOpenLog(t, mem, opts)
		fill()
		l.commit()
		abandon(l)
		if got := reopened(t, mem, opts); len(got) != 2 {
			t.Errorf("closed %v: %d records, want 2: %q", closed, len(got), got[len(got)-1].payload)
		}
	}
}

// noticed wants opening and replaying to fail because of the damage at a place.
func noticed(t *testing.T, mem *vfs.Mem, whole builtLog, pos Position) {
	t.Helper()
	if isLastMark(t, whole, pos) {
		return // the mark of an orderly end tells only about what is before it
	}
	mem = mem.Clone()
	l, err := Open(mem, testDir, whole.opts)
	if err == nil {
		err = l.Replay(0, func(Position, byte, []byte) error { return nil })
		abandon(l)
	}
	var damage *DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("damage at %x was not noticed: %v", pos, err)
	}
	if damage.File != testDir+"/"+fileName(SegmentOf(pos)) || damage.Offset != OffsetOf(pos) {
		t.Fatalf("damage at %x is reported as %v", pos, err)
	}
}

func isLastMark(t *testing.T, whole builtLog, pos Position) bool {
	all := places(t, whole.mem)
	return pos == all[len(all)-1]
}

// salvaged copies a damaged log and holds the copy against what it was. At most gaps places may be lost.
func salvaged(t *testing.T, mem *vfs.Mem, whole builtLog, gaps int) {
	t.Helper()
	const dst = "/data/copy"
	report, err := Salvage(mem, testDir, dst, nil)
	if err != nil {
		t.Fatalf("salvage: %v", err)
	}
	if len(report.Gaps)+len(report.Missing) > gaps {
		t.Fatalf("salvage reports %v and %v as lost", report.Gaps, report.Missing)
	}
	l, err := Open(mem, dst, whole.opts)
	if err != nil {
		t.Fatalf("opening the copy: %v", err)
	}
	defer abandon(l)
	got := mustReplay(t, l)
	for _, r := range whole.history {
		lost := slices.Contains(report.Missing, SegmentOf(r.pos)) || slices.ContainsFunc(report.Gaps, func(g Gap) bool {
			return g.File == testDir+"/"+fileName(SegmentOf(r.pos)) && g.From <= OffsetOf(r.pos) && OffsetOf(r.pos) < g.To
		})
		if lost {
			continue
		}
		if len(got) == 0 || !same(got[0], r) {
			t.Fatalf("record %x is not in the copy, nor reported: %v %v", r.pos, report.Gaps, report.Missing)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		t.Fatalf("the copy holds %x, which was not in the log", got[0].pos)
	}
	if again, err := Check(mem, testDir, nil); err != nil || again.Whole() != (len(report.Gaps)+len(report.Missing) == 0) {
		t.Fatalf("check after salvage: %+v, %v", again, err)
	}
	mustAppend(t, l, 1, []byte("the copy can be used"))
}

// TestTruncation cuts the file of each segment at the beginning of every record.
func TestTruncation(t *testing.T) {
	whole := build(t, 2, 100, true)
	all := places(t, whole.mem)
	for i, pos := range all {
		mem := whole.mem.Clone()
		change(t, mem, SegmentOf(pos), func(f vfs.File) {
			if err := f.Truncate(OffsetOf(pos) + 1); err != nil {
				t.Fatal(err)
			}
		})
		if l, err := Open(mem.Clone(), testDir, whole.opts); !errors.As(err, new(*DamageError)) {
			t.Fatalf("cut at record %d of %d, %x: %v, %v", i, len(all), pos, l, err)
		}
		salvaged(t, mem, whole, 2)
	}
}

// TestMissingSegment removes each file of a log.
func TestMissingSegment(t *testing.T) {
	whole := build(t, 3, 200, true)
	last := SegmentOf(whole.history[len(whole.history)-1].pos)
	for number := uint32(1); number <= last; number++ {
		mem := whole.mem.Clone()
		if err := mem.Remove(testDir + "/" + fileName(number)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(mem.Clone(), testDir, whole.opts)
		var missing *MissingError
		if !errors.As(err, &missing) || missing.Number != number {
			t.Errorf("without segment %d: %v", number, err)
		}
		salvaged(t, mem, whole, 1)
	}
}

// TestDamagedHeader wants a log with a bad header to be refused, and its second copy to be enough for salvage.
func TestDamagedHeader(t *testing.T) {
	whole := build(t, 4, 200, true)
	last := SegmentOf(whole.history[len(whole.history)-1].pos)
	for number := uint32(1); number <= last; number++ {
		for off := int64(0); off < headerSize; off += 5 {
			mem := whole.mem.Clone()
			flip(t, mem, at(number, 0), off, int(off%8))
			_, err := Open(mem.Clone(), testDir, whole.opts)
			if !errors.As(err, new(*DamageError)) && !errors.As(err, new(*VersionError)) {
				t.Fatalf("header of %d damaged at %d: %v", number, off, err)
			}
			if !errors.As(err, new(*VersionError)) {
				salvaged(t, mem, whole, 0)
			}
		}
	}
}

// TestBothHeadersDamaged wants the loss of a whole segment to be reported.
func TestBothHeadersDamaged(t *testing.T) {
	whole := build(t, 5, 200, true)
	mem := whole.mem.Clone()
	flip(t, mem, at(2, 0), 20, 1)
	flip(t, mem, at(2, 0), headerCopy+20, 1)
	salvaged(t, mem, whole, 1)
	report, err := Check(mem, testDir, nil)
	if err != nil || len(report.Gaps) != 1 || report.Gaps[0].From != 0 || report.Gaps[0].File != testDir+"/"+fileName(2) {
		t.Errorf("report is %+v, %v", report, err)
	}
}

// TestRandomDamage writes garbage anywhere and everywhere: no panic, nothing wrong in the copy, no record that never was.
func TestRandomDamage(t *testing.T) {
	whole := build(t, 6, 150, false)
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 4))
		mem := whole.mem.Clone()
		for range 1 + rng.IntN(4) {
			number := uint32(1 + rng.IntN(4))
			garbage := make([]byte, rng.IntN(2000))
			for i := range garbage {
				garbage[i] = byte(rng.Uint32() * uint32(seed%2))
			}
			change(t, mem, number, func(f vfs.File) { f.WriteAt(garbage, int64(rng.IntN(minSegment-2000))) })
		}
		only(t, seed, mem, whole)
	}
}

// only wants that nothing comes out of a damaged log and its copy that was not in the whole one.
func only(t *testing.T, seed uint64, mem *vfs.Mem, whole builtLog) {
	t.Helper()
	check := func(l *Log, err error) {
		if err != nil {
			return
		}
		defer abandon(l)
		l.Replay(0, func(pos Position, kind byte, payload []byte) error {
			i, ok := slices.BinarySearchFunc(whole.history, pos, func(r appended, p Position) int { return int(int64(r.pos) - int64(p)) })
			if !ok || !same(whole.history[i], appended{pos, kind, payload}) {
				t.Fatalf("seed %d: record %x was never appended so", seed, pos)
			}
			return nil
		})
	}
	check(Open(mem.Clone(), testDir, whole.opts))
	if _, err := Salvage(mem, testDir, "/copy", nil); err != nil {
		return
	}
	l, err := Open(mem, "/copy", whole.opts)
	if err != nil {
		t.Fatalf("seed %d: opening the copy: %v", seed, err)
	}
	check(l, err)
}

// TestSalvageTwice wants what was lost once to be no damage in the copy, and to stay where it was in a copy of the copy.
func TestSalvageTwice(t *testing.T) {
	whole := build(t, 7, 60, true)
	mem := whole.mem.Clone()
	flip(t, mem, whole.history[5].pos, 0, 0)
	if _, err := Salvage(mem, testDir, "/one", nil); err != nil {
		t.Fatal(err)
	}
	report, err := Salvage(mem, "/one", "/two", nil)
	if err != nil || !report.Whole() || report.Records != int64(len(whole.history)-1) {
		t.Fatalf("second salvage: %+v, %v", report, err)
	}
	l, err := Open(mem, "/two", whole.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer abandon(l)
	if _, _, err := l.Read(whole.history[5].pos, nil); !errors.As(err, new(*DamageError)) {
		t.Errorf("reading a lost record: %v", err)
	}
	if _, payload, err := l.Read(whole.history[6].pos, nil); err != nil || !bytes.Equal(payload, whole.history[6].payload) {
		t.Errorf("reading the one after it: %v", err)
	}
}

// TestLostRecord wants a record of every size to fill a gap.
func TestLostRecord(t *testing.T) {
	for n := int64(minRecord); n < 40000; n = n + 1 + n/50 {
		b := appendLost(nil, n, 7, 99)
		h, ok := parseHeader(b)
		if int64(len(b)) != n || !ok || h.total() != n || h.kind != kindLost || !h.matches(b, 7, 99) {
			t.Fatalf("a lost record of %d bytes has %d: %+v", n, len(b), h)
		}
	}
	for _, n := range []int64{132, 133, 134, 135, 16389, 16390, 16391, 16392} {
		if b := appendLost(nil, n, 7, 99); int64(len(b)) != n {
			t.Fatalf("a lost record of %d bytes has %d", n, len(b))
		}
	}
}

// FuzzReplay gives arbitrary bytes as the contents of a segment.
func FuzzReplay(f *testing.F) {
	h := fileHeader{version: FormatVersion, number: 1, epoch: 1, id: logID{1}}
	start := appendRecord(nil, kindStart, startRecord{size: minSegment}.append(nil), h.epoch, firstRecord)
	f.Add(start)
	f.Add(appendRecord(start, 1, []byte("x"), h.epoch, firstRecord+int64(len(start))))
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := vfs.NewMem()
		if err := mem.MkdirAll(testDir); err != nil {
			t.Fatal(err)
		}
		file, err := mem.OpenFile(testDir+"/"+fileName(1), os.O_RDWR|os.O_CREATE)
		if err != nil {
			t.Fatal(err)
		}
		data = data[:min(len(data), minSegment-firstRecord)]
		if _, err := file.WriteAt(h.page(), 0); err != nil {
			t.Fatal(err)
		}
		if err := file.Preallocate(minSegment); err != nil {
			t.Fatal(err)
		}
		file.WriteAt(data, firstRecord)
		wantSafe(t, mem)
	})
}

// wantSafe opens, checks, dumps and salvages whatever it is.
func wantSafe(t *testing.T, mem *vfs.Mem) {
	Check(mem.Clone(), testDir, nil)
	salvage := mem.Clone()
	if _, err := Salvage(salvage, testDir, "/copy", nil); err == nil {
		if l, err := Open(salvage, "/copy", Options{SegmentSize: minSegment, manual: true}); err != nil {
			t.Errorf("the copy does not open: %v", err)
		} else {
			abandon(l)
		}
	}
	l, err := Open(mem, testDir, Options{SegmentSize: minSegment, manual: true})
	if err != nil {
		return
	}
	defer abandon(l)
	n := len(mustReplay(t, l))
	pos := mustAppend(t, l, 9, []byte("more"))
	l.commit()
	if kind, payload, err := l.Read(pos, nil); err != nil || kind != 9 || string(payload) != "more" {
		t.Errorf("reading what was appended: %d %q %v", kind, payload, err)
	}
	if got := len(mustReplay(t, l)); got != n+1 {
		t.Errorf("%d records after one more, there were %d", got, n)
	}
}

// FuzzRecord wants that what parses is what was encoded.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("payload"), byte(1), uint64(1), int64(4096))
	f.Fuzz(func(t *testing.T, payload []byte, kind byte, epoch uint64, off int64) {
		kind = max(kind, 1)
		b := appendRecord(nil, kind, payload, epoch, off)
		h, ok := parseHeader(b)
		if !ok || h.kind != kind || h.n != len(payload) || h.total() != int64(len(b)) || int64(len(b)) != recordSize(len(payload)) {
			t.Fatalf("header %+v of %d bytes", h, len(b))
		}
		if !h.matches(b, epoch, off) {
			t.Fatal("it does not match itself")
		}
		if mask(epoch, off) != mask(epoch, off+1) && h.matches(b, epoch, off+1) {
			t.Fatal("it matches another place")
		}
		s := scan(bytes.NewReader(b), fileHeader{epoch: epoch}, 0, int64(len(b)))
		s.off = 0
		if _, ok, err := s.next(); err != nil && err != io.ErrUnexpectedEOF || ok != h.matches(b, epoch, 0) {
			t.Fatalf("scan: %v, %v", ok, err)
		}
	})
}
