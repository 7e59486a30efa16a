package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// stage is a broker on a journal on a disk, and the parties that use it. Nothing else happens in its bubble.
type stage struct {
	*testing.T
	l      *ledger
	rng    *rand.Rand // of what the parties do
	luck   *rand.Rand // of what happens to the disk
	label  string     // how to come here again
	disk   *vfs.Mem
	faulty *vfs.Faulty
	pace   *pace
	store  *journal.Store
	b      *Broker
	served chan error // what Serve has returned
	links  []*link
	fault  vfs.Fault           // of the disk, from before the store is opened
	watch  func(vfs.FS) vfs.FS // stands before the disk; nil for nobody
	trace  []string

	late     bool                     // parties answer late, sometimes
	manual   bool                     // parties answer when they are told to
	lenient  bool                     // the store may fail, so the broker may refuse
	recorded bool                     // parties write down what they see
	lapses   bool                     // sessions may expire
	ground   func(*stage) store.Store // in place of the journal; nil for that
	looped   bool                     // connections are served by loops
	pause    time.Duration            // Config.Pace of the loops
	k        *kernel                  // nil unless looped
}

// pace makes the disk slow, in the bubble's time: so a look at any moment finds it between any two calls. How long a call takes
// depends on its kind and number only, whatever else goes on.
type pace struct {
	seed uint64

	mu    sync.Mutex
	off   bool
	held  chan struct{} // nobody goes on until it is closed; nil when nothing is held
	calls map[vfs.Op]uint64
}

func (p *pace) before(op vfs.Op) {
	switch op {
	case vfs.OpWrite, vfs.OpSync, vfs.OpPreallocate, vfs.OpRename, vfs.OpSyncDir, vfs.OpRemove:
	default:
		return
	}
	p.mu.Lock()
	p.calls[op]++
	off, held, r := p.off, p.held, rand.New(rand.NewPCG(p.seed, uint64(op)<<32|p.calls[op]))
	p.mu.Unlock()
	if held != nil {
		<-held
		return
	}
	if !off {
		time.Sleep(time.Duration(r.IntN(2500)) * time.Microsecond)
	}
}

// hurry lets everything go on at once.
func (p *pace) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off = true; p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// hold stops the disk: nothing reaches it any more.
func (p *pace) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

func newStage(t *testing.T, seed uint64) *stage {
	return &stage{
		T: t, l: newLedger(), rng: rand.New(rand.NewPCG(seed, 7)), luck: rand.New(rand.NewPCG(seed, 9)), label: fmt.Sprintf("seed %d", seed), disk: vfs.NewMem(), late: true,
		looped: seed%2 == 1, pause: -1,
	}
}

func (s *stage) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// record writes down what p sees, for those who compare.
func (s *stage) record(p *party, format string, args ...any) {
	if s.recorded {
		p.history = append(p.history, fmt.Sprintf(format, args...))
	}
}

func (s *stage) fatalf(format string, args ...any) {
	s.Helper()
	s.Fatalf("%s: %s\nlast steps:\n  %s", s.label, fmt.Sprintf(format, args...), strings.Join(s.trace[max(0, len(s.trace)-150):], "\n  "))
}

// stageOptions make segments and checkpoints small, so that a short script goes through many.
var stageOptions = journal.StoreOptions{Log: journal.Options{SegmentSize: 8 << 10}, CheckpointAfter: 6 << 10}

// open starts a broker on the disk. The error is of the store.
func (s *stage) open() error {
	s.faulty = vfs.NewFaulty(s.disk)
	s.pace = &pace{seed: s.luck.Uint64(), off: true, calls: make(map[vfs.Op]uint64)}
	s.faulty.Before(s.pace.before)
	s.faulty.Set(s.fault)
	var fsys vfs.FS = s.faulty
	if s.watch != nil {
		fsys = s.watch(fsys)
	}
	return s.openOn(fsys)
}

func (s *stage) openOn(fsys vfs.FS) (err error) {
	cfg := Config{SysInterval: -1, Limits: Limits{MaxInflight: 8}}
	if s.recorded {
		cfg.Limits.MaxInflight = 1024
	}
	if s.ground != nil {
		cfg.Store = s.ground(s)
	} else if s.store, err = journal.OpenStore(fsys, "j", stageOptions); err != nil {
		return err
	} else {
		cfg.Store = s.store
	}
	if s.k = nil; s.looped {
		s.k = newKernel(s.T, s.luck.Uint64(), 8, 1024)
		cfg.newPoller, cfg.Pace = s.k.poller, s.pause
	}
	s.Cleanup(s.close)
	if s.b, err = New(cfg); err != nil {
		return err
	}
	served, ln := make(chan error, 1), &idleListener{closed: make(chan struct{})}
	s.served = served
	b := s.b
	go func() { served <- b.Serve(context.Background(), ln) }()
	synctest.Wait()
	return nil
}

// idleListener never has a connection.
type idleListener struct {
	once   sync.Once
	closed chan struct{}
}

func (l *idleListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *idleListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *idleListener) Addr() net.Addr { return nowhere{} }

// pair returns both ends of a connection, of which the broker is to get the second.
func (s *stage) pair() (client, server net.Conn) {
	if s.k != nil {
		return s.k.connect()
	}
	return net.Pipe()
}

// slow makes the disk take its time.
func (s *stage) slow() {
	s.pace.mu.Lock()
	defer s.pace.mu.Unlock()
	s.pace.off = false
}

// close ends the broker, whose disk nobody looks at any more.
func (s *stage) close() {
	for _, l := range s.links {
		_ = l.nc.Close()
	}
	s.shut()
}

// shut ends the broker and the store, while clients may be connected.
func (s *stage) shut() {
	if s.pace != nil {
		s.pace.hurry()
	}
	synctest.Wait()
	if s.b != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.b.Shutdown(ctx); err != nil {
			s.Errorf("%s: shutdown: %v", s.label, err)
		}
		if err, failed := <-s.served, s.b.failure.Load(); (err != nil) != (failed != nil) || failed != nil && !errors.Is(err, *failed) {
			s.Errorf("%s: Serve returns %v, the store has failed with %v", s.label, err, failed)
		}
	}
	if s.store != nil {
		_ = s.store.Close() // it may have failed before, on purpose
	}
	if s.b != nil && s.k != nil {
		s.k.check()
	}
	s.store, s.b, s.links = nil, nil, nil
}

// crashed returns the stage as a power loss at this moment leaves it, for somebody to open.
func (s *stage) crashed() *stage {
	seed := s.luck.Uint64()
	return &stage{
		T: s.T, l: s.l.clone(), rng: rand.New(rand.NewPCG(seed, 8)), luck: rand.New(rand.NewPCG(seed, 9)), label: fmt.Sprintf("%s, step %d, crash %d", s.label, len(s.trace), seed),
		disk: s.disk.Crash(seed), late: s.late, manual: s.manual, lenient: s.lenient, recorded: s.recorded, lapses: s.lapses, looped: s.looped, pause: s.pause, trace: slices.Clip(append(slices.Clip(s.trace), "power loss")),
	}
}
