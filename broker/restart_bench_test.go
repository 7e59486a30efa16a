//go:build unix

package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// What each session of BenchmarkRestart has. The sessions are MAGPIE_RESTART_SESSIONS, 2000 when that is not set.
const (
	restartSubscriptions = 10
	restartQueue         = 50
)

// BenchmarkRestart is the way from a folder on the real file system to a broker that can let clients in. The sessions are those
// of devices that are away, each with nine filters of its own and one that all share.
//
// What waits for them is one message for each place in a queue, as with commands: the most records that so many references can
// take; or news, each for a hundred sessions. The replay begins at a checkpoint taken at the end, or reads everything that was
// ever appended, which is more than a running broker lets come together.
func BenchmarkRestart(b *testing.B) {
	sessions := 2000
	if n, err := strconv.Atoi(os.Getenv("MAGPIE_RESTART_SESSIONS")); err == nil {
		sessions = n
	}
	for _, way := range []struct {
		name   string
		fanOut int
	}{{"commands", 1}, {"news", 100}} {
		dir := filepath.Join(b.TempDir(), "journal")
		b.Run(way.name+" all records", func(b *testing.B) {
			if _, err := os.Stat(dir); err != nil { // the benchmark is called again with a larger N
				buildFolder(b, dir, sessions, way.fanOut)
			}
			benchRestart(b, dir, sessions, false)
		})
		b.Run(way.name+" checkpoint", func(b *testing.B) {
			benchRestart(b, dir, sessions, true)
		})
	}
}

// buildFolder makes the folder by appending what a broker would.
func buildFolder(b *testing.B, dir string, sessions, fanOut int) {
	s, err := journal.OpenStore(vfs.OS{}, dir, journal.StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	keep := func(r store.Record) {
		for s.Busy() {
			time.Sleep(time.Millisecond)
		}
		if _, err := s.Append(&r); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Restore(func(store.Position, *store.Record) error { return nil }); err != nil {
		b.Fatal(err)
	}
	for i := range sessions {
		keepSession(keep, i)
	}
	for i := range sessions * restartQueue / fanOut {
		keep(waitingMessage(i, sessions, fanOut))
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// device is the product and id of the i-th device, as they stand in topics.
func device(i int) string { return fmt.Sprintf("d/bins/%08d/", i) }

// keepSession makes a session and its subscriptions, and lets its client leave.
func keepSession(keep func(store.Record), i int) {
	id := store.SessionID(i + 1)
	keep(store.Record{
		Kind: store.Session, Session: id, ClientID: fmt.Sprintf("bin-%08d", i), Owner: "bins", Version: mqtt.V5,
		Time: time.Now(), Expiry: -1,
	})
	for k := range restartSubscriptions {
		filter := fmt.Sprintf("%scommand/c%d/+", device(i), k)
		if k == 0 {
			filter = "p/bins/news/#"
		}
		keep(store.Record{Kind: store.Subscribed, Session: id, Subscription: mqtt.Subscription{Filter: filter, QoS: 1}, IDs: []uint32{uint32(k + 1)}})
	}
	keep(store.Record{Kind: store.Left, Session: id, Time: time.Now(), Expiry: -1})
}

// waitingMessage is the i-th message; its recipients are as many sessions as fanOut says, everybody in turn.
func waitingMessage(i, sessions, fanOut int) store.Record {
	r := store.Record{Kind: store.Accepted, Recipients: make([]store.Recipient, fanOut)}
	for k := range r.Recipients {
		to := (i*fanOut + k) % sessions
		r.Recipients[k] = store.Recipient{Session: store.SessionID(to + 1), QoS: 1, IDs: []uint32{2}}
	}
	r.Message = &mqtt.Message{
		Topic: device(i%sessions) + "command/c1/go", Publisher: "platform", QoS: 1, Payload: make([]byte, 64),
	}
	return r
}

// benchRestart measures restarts on the folder, each with the heap that it leaves and the most memory it took.
func benchRestart(b *testing.B, dir string, sessions int, checkpoint bool) {
	if checkpoint {
		s, _ := restart(b, dir, sessions)
		if err := s.Checkpoint(); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	var took, cpu []time.Duration
	var heap int64
	var peak uint64
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		debug.FreeOSMemory()
		before := liveHeap()
		most := watchMemory()
		b.StartTimer()
		start, used := time.Now(), processorTime()
		s, broker := restart(b, dir, sessions)
		took, cpu = append(took, time.Since(start)), append(cpu, processorTime()-used)
		b.StopTimer()
		peak = max(peak, most())
		runtime.GC()
		heap = max(heap, liveHeap()-before)
		runtime.KeepAlive(broker)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.StopTimer()
	slices.Sort(took)
	slices.Sort(cpu)
	b.ReportMetric(took[0].Seconds(), "s-min")
	b.ReportMetric(took[len(took)/2].Seconds(), "s-median")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-max")
	b.ReportMetric(cpu[len(cpu)/2].Seconds(), "s-cpu") // on a machine with other things to do, the better figure
	b.ReportMetric(float64(heap>>20), "MB-after")
	b.ReportMetric(float64(peak>>20), "MB-peak")
	b.ReportMetric(0, "ns/op")
}

// restart opens the store and makes a broker on it, which must have everything.
func restart(b *testing.B, dir string, sessions int) (*journal.Store, *Broker) {
	s, err := journal.OpenStore(vfs.OS{}, dir, journal.StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	broker, err := New(Config{Store: s, SysInterval: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = broker.Shutdown(context.Background()) })
	last, there := broker.Client(fmt.Sprintf("bin-%08d", sessions-1))
	if !there || last.QueuedMessages != restartQueue || broker.subs.tree.Len() != sessions*restartSubscriptions {
		b.Fatalf("not all is restored: %+v, %d subscriptions", last, broker.subs.tree.Len())
	}
	return s, broker
}

// processorTime is how much of the processors this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // which cannot fail so
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// liveHeap is what the heap holds, garbage included.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// watchMemory samples what the process has of the system's memory until the function that it returns is called, which returns
// the most of it in bytes.
func watchMemory() (most func() uint64) {
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		most := uint64(0)
		for tick := time.Tick(5 * time.Millisecond); ; {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64()-sample[1].Value.Uint64())
			select {
			case <-tick:
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-peak
	}
}
