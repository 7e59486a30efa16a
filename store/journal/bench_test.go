package journal

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
)

// waiters lets producers wait for the commit of their records.
type waiters struct {
	mu   sync.Mutex
	more *sync.Cond
	last Position
}

func (w *waiters) committed(p Position) {
	w.mu.Lock()
	w.last = p
	w.mu.Unlock()
	w.more.Broadcast()
}

func (w *waiters) wait(p Position) {
	w.mu.Lock()
	for w.last < p {
		w.more.Wait()
	}
	w.mu.Unlock()
}

// BenchmarkDurable appends records of 128 bytes on the real file system; each producer waits until its record is synced
// before it appends the next.
func BenchmarkDurable(b *testing.B) {
	for _, producers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			fsys := vfs.NewFaulty(vfs.OS{}) // counts
			w := &waiters{}
			w.more = sync.NewCond(&w.mu)
			l, err := Open(fsys, filepath.Join(b.TempDir(), "journal"), Options{OnCommit: w.committed})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			syncs, bytes := fsys.Calls(vfs.OpSync), fsys.Written()
			b.ReportAllocs()
			b.ResetTimer()
			produce(b, l, w, producers)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(fsys.Calls(vfs.OpSync)-syncs)/float64(b.N), "syncs/record")
			b.ReportMetric(float64(fsys.Written()-bytes)/float64(b.N), "bytes/record")
		})
	}
}

func produce(b *testing.B, l *Log, w *waiters, producers int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for range producers {
		group.Go(func() {
			parts := [][]byte{make([]byte, 128)}
			for left.Add(-1) >= 0 {
				pos, err := l.AppendWait(b.Context(), 1, parts...)
				if err != nil {
					b.Error(err)
					return
				}
				w.wait(pos)
			}
		})
	}
	group.Wait()
}

// BenchmarkPipelined appends without waiting for the commit of each record, as a broker does.
func BenchmarkPipelined(b *testing.B) {
	fsys := vfs.NewFaulty(vfs.OS{})
	l, err := Open(fsys, filepath.Join(b.TempDir(), "journal"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	parts := [][]byte{make([]byte, 128)}
	syncs, bytes := fsys.Calls(vfs.OpSync), fsys.Written()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.AppendWait(b.Context(), 1, parts...); err != nil {
			b.Fatal(err)
		}
		freeOld(b, l)
	}
	b.ReportMetric(float64(fsys.Calls(vfs.OpSync)-syncs)/float64(b.N), "syncs/record")
	b.ReportMetric(float64(fsys.Written()-bytes)/float64(b.N), "bytes/record")
}

// freeOld keeps the log at a few segments, which are recycled.
func freeOld(b *testing.B, l *Log) {
	l.mu.Lock()
	n := len(l.live)
	l.mu.Unlock()
	if n > 3 {
		if err := l.Free(l.Segments()[0].Number); err != nil && err != ErrBusy {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend is the cost of Append itself, without a disk.
func BenchmarkAppend(b *testing.B) {
	l, err := Open(vfs.NewMem(), testDir, Options{SegmentSize: 256 << 20, MaxPending: 1 << 30, manual: true})
	if err != nil {
		b.Fatal(err)
	}
	defer abandon(l)
	parts := [][]byte{make([]byte, 128)}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := l.Append(1, parts...); err != nil {
			b.Fatal(err)
		}
		if n++; n%10_000 == 0 {
			l.mu.Lock()
			l.off, l.marked = firstRecord, 0
			l.filling.reset()
			l.mu.Unlock()
		}
	}
}

// BenchmarkReplay reads a log of records of 128 bytes from the page cache.
func BenchmarkReplay(b *testing.B) {
	l, err := Open(vfs.OS{}, filepath.Join(b.TempDir(), "journal"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const records = 400_000
	parts := [][]byte{make([]byte, 128)}
	for range records {
		if _, err := l.AppendWait(b.Context(), 1, parts...); err != nil {
			b.Fatal(err)
		}
	}
	for l.Committed() < l.Segments()[0].End-200 {
		l.Wait(b.Context(), 1)
	}
	b.ResetTimer()
	n := 0
	for b.Loop() {
		if err := l.Replay(0, func(Position, byte, []byte) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkRead reads single records from the page cache.
func BenchmarkRead(b *testing.B) {
	w := &waiters{}
	w.more = sync.NewCond(&w.mu)
	l, err := Open(vfs.OS{}, filepath.Join(b.TempDir(), "journal"), Options{OnCommit: w.committed})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var positions []Position
	parts := [][]byte{make([]byte, 128)}
	for range 10_000 {
		pos, err := l.AppendWait(b.Context(), 1, parts...)
		if err != nil {
			b.Fatal(err)
		}
		positions = append(positions, pos)
	}
	w.wait(positions[len(positions)-1])
	b.Run("one by one", func(b *testing.B) {
		buf := make([]byte, 512)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, _, err := l.Read(positions[i%len(positions)], buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("batches of 1000", func(b *testing.B) {
		n := 0
		for b.Loop() {
			if err := l.ReadBatch(positions[n%9000:][:1000], func(int, byte, []byte) error { n++; return nil }); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
	})
}
