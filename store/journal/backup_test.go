package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

const copyDir = "/data/copy"

// unpacked restores a backup on an empty disk and returns the records in it.
func unpacked(t *testing.T, backup []byte) []appended {
	t.Helper()
	mem := vfs.NewMem()
	if _, err := Unpack(mem, copyDir, bytes.NewReader(backup), nil); err != nil {
		t.Fatal(err)
	}
	return restored(t, mem)
}

// restored opens what was unpacked and returns the records in it.
func restored(t *testing.T, mem *vfs.Mem) []appended {
	t.Helper()
	l, err := Open(mem, copyDir, Options{SegmentSize: minSegment, manual: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return mustReplay(t, l)
}

// TestBackupAnyMoment takes backups of a log that does random things, at random moments: what is restored is a log that holds, in
// order, everything that was committed, and of the rest a beginning.
func TestBackupAnyMoment(t *testing.T) {
	for seed := range uint64(40) {
		w := newWorld(t, seed)
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			for range w.rng.IntN(40) {
				w.step()
			}
			w.backup()
		}
		w.log.Close()
	}
}

// backup takes a backup, during which the script goes on, and compares.
func (w *world) backup() {
	w.t.Helper()
	committed, history := w.log.Safe(store.Written), len(w.history)
	img, release, err := w.log.pin()
	if err != nil {
		w.fatalf("pin: %v", err)
	}
	w.note("backup up to %x", uint64(img.end))
	freed := make(map[uint32]bool) // when the backup began
	for number := range w.freed {
		freed[number] = true
	}
	var out bytes.Buffer
	mind := writerFunc(func(b []byte) (int, error) { // the disk is slow, and the log lives on
		for range w.rng.IntN(3) {
			w.step()
		}
		return out.Write(b)
	})
	info, err := writeBackup(context.Background(), w.log.fs, img, mind, "magpie test")
	if err != nil {
		w.fatalf("backup: %v", err)
	}
	if info.Bytes != int64(out.Len()) {
		w.fatalf("backup has %d bytes, and says %d", out.Len(), info.Bytes)
	}
	release()
	mem := vfs.NewMem()
	got, err := unpack(mem, copyDir, &out, nil, func(Entry) error { return nil })
	if err != nil {
		w.fatalf("unpack: %v", err)
	} else if got != info {
		w.fatalf("unpacked %+v, backup said %+v", got, info)
	}
	l, err := Open(mem, copyDir, Options{SegmentSize: minSegment, manual: true})
	if err != nil {
		w.fatalf("open what was restored: %v", err)
	}
	defer l.Close()
	w.compare(mustReplay(w.t, l), w.history[:history], freed, committed)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// compare wants all of history up to a position, without what was freed, and behind it a beginning of the rest.
func (w *world) compare(got, history []appended, freed map[uint32]bool, committed Position) {
	w.t.Helper()
	i := 0
	for _, a := range history {
		switch {
		case i < len(got) && same(got[i], a):
			i++
		case freed[SegmentOf(a.pos)]:
		case a.pos > committed:
			if i != len(got) {
				w.fatalf("record %x is missing, and later ones are there", uint64(a.pos))
			}
		default:
			w.fatalf("record %x is missing of a backup that began when %x was committed", uint64(a.pos), uint64(committed))
		}
	}
	if i != len(got) {
		w.fatalf("%d records too many", len(got)-i)
	}
}

// aBackup makes a small one of three segments.
func aBackup(t testing.TB) (backup []byte, want []appended) {
	t.Helper()
	mem := vfs.NewMem()
	l, err := Open(mem, testDir, Options{SegmentSize: minSegment, manual: true, random: rand.New(rand.NewPCG(7, 7)).Uint64})
	if err != nil {
		t.Fatal(err)
	}
	payload := (&store.Record{Kind: store.Left, Session: 7}).Append(nil)
	for len(l.Segments()) < 3 {
		pos, err := l.Append(byte(store.Left), payload)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, appended{pos, byte(store.Left), payload})
		l.commit()
		l.prepare()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	info, err := Backup(context.Background(), mem, testDir, &out, "magpie test")
	if err != nil {
		t.Fatal(err)
	}
	if info.Segments != 3 || info.Records != int64(len(want)) || info.Program != "magpie test" {
		t.Fatalf("backup says %+v of %d records", info, len(want))
	}
	return out.Bytes(), want
}

func TestBackupOfClosedLog(t *testing.T) {
	backup, want := aBackup(t)
	got := unpacked(t, backup)
	if len(got) != len(want) {
		t.Fatalf("%d records restored, of %d", len(got), len(want))
	}
	for i := range got {
		if !same(got[i], want[i]) {
			t.Fatalf("record %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestCutBackup cuts a backup at every length: none of them passes for a whole one.
func TestCutBackup(t *testing.T) {
	backup, _ := aBackup(t)
	for n := range backup {
		if n%509 != 0 && n < len(backup)-2100 && n > 600 {
			continue
		}
		_, err := CheckBackup(bytes.NewReader(backup[:n]), nil)
		if !errors.As(err, new(*BackupError)) || !strings.Contains(err.Error(), "cut off") {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(backup), err)
		}
	}
	for _, n := range []int{0, 1, 511, 5000, len(backup) / 2, len(backup) - 1} {
		if _, err := Unpack(vfs.NewMem(), copyDir, bytes.NewReader(backup[:n]), nil); !errors.As(err, new(*BackupError)) {
			t.Fatalf("unpacked after a cut after %d bytes: %v", n, err)
		}
	}
}

// TestChangedBackup changes a bit anywhere: it is noticed.
func TestChangedBackup(t *testing.T) {
	backup, _ := aBackup(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range backup {
		if n%257 != 0 && n < len(backup)-2100 && n > 600 {
			continue
		}
		bit := byte(1) << rng.IntN(8)
		backup[n] ^= bit
		if _, err := CheckBackup(bytes.NewReader(backup), nil); err == nil {
			t.Fatalf("byte %d changed by %#x is not noticed", n, bit)
		}
		backup[n] ^= bit
	}
	for _, more := range []string{"x", strings.Repeat("\x00", 512)} {
		if _, err := CheckBackup(strings.NewReader(string(backup)+more), nil); err == nil {
			t.Fatal("bytes behind the end are not noticed")
		}
	}
}

// TestBackupNoticesDamage wants no backup of a log with a bad record, be it open or not.
func TestBackupNoticesDamage(t *testing.T) {
	mem := vfs.NewMem()
	l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, manual: true})
	for len(l.Segments()) < 2 {
		mustAppend(t, l, 9, make([]byte, 100))
		l.commit()
		l.prepare()
	}
	flip(t, mem, at(1, 0), firstRecord+500, 3)
	img, release, err := l.pin()
	if err != nil {
		t.Fatal(err)
	}
	_, err = writeBackup(context.Background(), mem, img, io.Discard, "")
	release()
	if !errors.As(err, new(*DamageError)) {
		t.Errorf("backup of a damaged open log: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Backup(context.Background(), mem, testDir, io.Discard, ""); !errors.As(err, new(*DamageError)) {
		t.Errorf("backup of a damaged closed log: %v", err)
	}
}

func TestBackupErrors(t *testing.T) {
	mem := vfs.NewMem()
	if _, err := Backup(context.Background(), mem, testDir, io.Discard, ""); err == nil {
		t.Error("backup of nothing")
	}
	l := mustOpenLog(t, mem, Options{SegmentSize: minSegment, manual: true})
	if _, err := Backup(context.Background(), mem, testDir, io.Discard, ""); !errors.As(err, new(*LockedError)) {
		t.Errorf("backup of a folder that somebody uses: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.pin(); !errors.Is(err, ErrClosed) {
		t.Errorf("backup of a closed log: %v", err)
	}
	full := writerFunc(func([]byte) (int, error) { return 0, syscall.ENOSPC })
	if _, err := Backup(context.Background(), mem, testDir, full, ""); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("backup to a full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Backup(ctx, mem, testDir, io.Discard, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("backup that was given up: %v", err)
	}
}

func TestUnpackErrors(t *testing.T) {
	backup, _ := aBackup(t)
	mem := vfs.NewMem()
	if err := mem.MkdirAll(testDir); err != nil {
		t.Fatal(err)
	}
	put(t, mem, "mine", []byte("x"))
	if _, err := Unpack(mem, testDir, bytes.NewReader(backup), nil); !errors.As(err, new(*ForeignError)) {
		t.Errorf("into a folder with something in it: %v", err)
	}
	mem.SetCapacity(20 << 10)
	if _, err := Unpack(mem, copyDir, bytes.NewReader(backup), nil); !errors.As(err, new(*FullError)) {
		t.Errorf("to a full disk: %v", err)
	}
	newer := bytes.Replace(bytes.Clone(backup), []byte(`"format": 1`), []byte(`"format": 9`), 1)
	if _, err := CheckBackup(bytes.NewReader(newer), nil); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("a backup of another format: %v", err)
	}
}

// TestUnpackFaults makes every call that matters fail once. That is an error, unless it was a look at something that is looked at
// twice.
func TestUnpackFaults(t *testing.T) {
	backup, want := aBackup(t)
	for _, op := range []vfs.Op{vfs.OpOpen, vfs.OpMkdir, vfs.OpReadDir, vfs.OpSyncDir, vfs.OpRead, vfs.OpWrite, vfs.OpPreallocate, vfs.OpSync} {
		for k := 1; ; k++ {
			mem := vfs.NewMem()
			faulty := vfs.NewFaulty(mem)
			faulty.Set(vfs.Fault{Op: op, Nth: k, Err: errors.Join(errInjected, syscall.EIO)})
			_, err := Unpack(faulty, copyDir, bytes.NewReader(backup), nil)
			if faulty.Calls(op) < k {
				break
			}
			if err != nil && !errors.Is(err, errInjected) {
				t.Errorf("%v failed for the %dth time: %v", op, k, err)
			} else if err == nil && op != vfs.OpRead && op != vfs.OpOpen {
				t.Errorf("%v failed for the %dth time, and nobody noticed", op, k)
			} else if err == nil && len(restored(t, mem)) != len(want) {
				t.Errorf("%v failed for the %dth time, and something is missing", op, k)
			}
		}
	}
}

// FuzzBackup wants no panic, no endless work and no success from what is not a backup.
func FuzzBackup(f *testing.F) {
	backup, _ := aBackup(f)
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{1}, uint32(600))
	f.Add([]byte(`{"format":1}`), uint32(512))
	f.Fuzz(func(t *testing.T, patch []byte, at uint32) {
		b := bytes.Clone(backup)
		n := copy(b[int(at)%len(b):], patch)
		_, err := CheckBackup(bytes.NewReader(b), nil)
		if (err == nil) != bytes.Equal(b, backup) {
			t.Fatalf("%d bytes changed at %d: %v", n, at, err)
		}
		_, _ = CheckBackup(bytes.NewReader(patch), nil)
	})
}

// TestBackupUnderLoad backs a store up while many append, free and take checkpoints, and restores: everything that was committed
// before is there, in the order of each writer.
func TestBackupUnderLoad(t *testing.T) {
	s, err := OpenStore(vfs.OS{}, t.TempDir(), StoreOptions{Log: Options{SegmentSize: 64 << 10}, CheckpointAfter: 200 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Maintain(store.Upkeep{Checkpoint: func(func(*store.Record) error) error { return nil }})
	if err := s.Restore(func(Position, *store.Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, s)
	for n := 0; n < 20 || s.log.Anchor() == 0; n++ { // until something was freed, too
		committed := load.committed()
		var out bytes.Buffer
		if _, err := s.Backup(context.Background(), &out, ""); err != nil {
			t.Fatal(err)
		}
		checkLoad(t, out.Bytes(), committed)
	}
	load.stop()
}

// load appends messages from several goroutines. What each has appended is in use only for a while.
type load struct {
	mu   sync.Mutex
	sent [4]uint64 // the last message of each writer that is committed
	stop func()
}

func startLoad(t *testing.T, s *Store) *load {
	l := &load{}
	var wait sync.WaitGroup
	done := make(chan struct{})
	committed := newNews()
	s.OnCommit(committed.committed)
	for i := range l.sent {
		wait.Go(func() { l.write(t, s, i, committed, done) })
	}
	l.stop = sync.OnceFunc(func() { close(done); wait.Wait() })
	t.Cleanup(l.stop)
	return l
}

func (l *load) write(t *testing.T, s *Store, who int, committed *news, done chan struct{}) {
	var kept []Position
	for n := uint64(1); ; n++ {
		select {
		case <-done:
			return
		default:
		}
		payload := binary.BigEndian.AppendUint64([]byte{byte(who)}, n)
		m := &mqtt.Message{Topic: "load", Payload: append(payload, make([]byte, 200)...)}
		pos, err := s.Append(&store.Record{Kind: store.Accepted, Message: m, Recipients: []store.Recipient{{Session: 1, QoS: 1}}})
		if errors.Is(err, ErrBusy) {
			n--
			continue
		} else if err != nil {
			t.Errorf("append: %v", err)
			return
		}
		committed.wait(pos)
		l.mu.Lock()
		l.sent[who] = n
		l.mu.Unlock()
		if kept = append(kept, pos); len(kept) > 300 {
			s.Use(kept[0], -1)
			kept = kept[1:]
		}
	}
}

// committed tells what is committed.
func (l *load) committed() [4]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

func checkLoad(t *testing.T, backup []byte, sent [4]uint64) {
	t.Helper()
	var last [4]uint64
	for _, a := range unpacked(t, backup) {
		var r store.Record
		if err := r.Parse(store.Kind(a.kind), a.payload); err != nil {
			t.Fatal(err)
		}
		who, n := r.Message.Payload[0], binary.BigEndian.Uint64(r.Message.Payload[1:])
		if last[who] != 0 && n != last[who]+1 {
			t.Fatalf("writer %d: message %d follows %d", who, n, last[who])
		}
		last[who] = n
	}
	for who := range sent {
		if last[who] < sent[who] {
			t.Fatalf("writer %d: message %d was committed before the backup, which ends with %d", who, sent[who], last[who])
		}
	}
}
