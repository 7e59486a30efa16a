package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

// Store is a [store.Store] on a log: what its records mean, when they are needed no more, and checkpoints, which are records of
// the whole state in the log itself, between others. After a restart the replay begins where the last whole checkpoint began.
//
// A segment is needed while a replay has to read it, that is from the last checkpoint on, and while a message in it is in use.
type Store struct {
	log  *Log
	opts StoreOptions

	busy  atomic.Bool   // see Busy
	last  atomic.Uint64 // position appended last
	grown atomic.Int64  // bytes appended since the last checkpoint began
	size  atomic.Int64  // bytes of the last checkpoint

	onCommit, onFail atomic.Value // func(Position), func(error)
	emitState        func(emit func(*store.Record) error) error

	mu   sync.Mutex
	uses map[uint32]int64 // of messages, by segment

	wake    chan struct{} // something to clean, or a checkpoint is due
	done    chan struct{}
	cleaner sync.WaitGroup
	closing sync.Once
	closed  error
}

// StoreOptions say how a store behaves. The zero value is durable.
type StoreOptions struct {
	Log Options // OnCommit, OnFail and OnRoom are the store's

	// CheckpointAfter is how many bytes are appended before a checkpoint is taken, which bounds the replay. Zero means four
	// segments. When the state is large, it is at least twice the size of the checkpoint before.
	CheckpointAfter int64
}

// behindMost is how many bytes may wait for the device before Busy says so.
const behindMost = 16 << 20

// OpenStore opens the store in a folder, and makes it when there is none. One process at a time can have it.
func OpenStore(fsys vfs.FS, dir string, o StoreOptions) (*Store, error) {
	s := &Store{opts: o, uses: make(map[uint32]int64), wake: make(chan struct{}, 1), done: make(chan struct{})}
	lo := o.Log
	lo.MaxPending = 1 << 30 // Busy holds publishers back long before
	lo.OnCommit = s.committed
	lo.OnFail = s.failed
	log, err := Open(fsys, dir, lo)
	if err != nil {
		return nil, err
	}
	s.log = log
	if s.opts.CheckpointAfter <= 0 {
		s.opts.CheckpointAfter = 4 * log.opts.SegmentSize
	}
	return s, nil
}

func (s *Store) committed(p Position) {
	if s.busy.Load() && s.behind(p) < behindMost/2 {
		s.busy.Store(false)
	}
	if f, ok := s.onCommit.Load().(func(Position)); ok {
		f(p)
	}
}

func (s *Store) failed(err error) {
	if f, ok := s.onFail.Load().(func(error)); ok {
		f(err)
	}
}

// behind returns about how many bytes were appended and are not committed.
func (s *Store) behind(committed Position) int64 {
	last := Position(s.last.Load())
	if last <= committed {
		return 0
	}
	segments := int64(SegmentOf(last)) - int64(SegmentOf(committed))
	return segments*s.log.opts.SegmentSize + OffsetOf(last) - OffsetOf(committed)
}

// Busy implements [store.Store].
func (s *Store) Busy() bool { return s.busy.Load() }

// OnCommit implements [store.Store].
func (s *Store) OnCommit(f func(Position)) { s.onCommit.Store(f) }

// OnFail implements [store.Store].
func (s *Store) OnFail(f func(error)) { s.onFail.Store(f) }

// OnCheckpoint implements [store.Store].
func (s *Store) OnCheckpoint(f func(emit func(*store.Record) error) error) { s.emitState = f }

// Committed implements [store.Store].
func (s *Store) Committed() Position { return s.log.Committed() }

// Restore implements [store.Store]. From here on checkpoints are taken.
func (s *Store) Restore(f func(Position, *store.Record) error) error {
	var r store.Record
	err := s.log.Replay(s.log.Anchor(), func(pos Position, kind byte, payload []byte) error {
		if err := r.Parse(store.Kind(kind), payload); err != nil {
			return fmt.Errorf("record at %x: %w", uint64(pos), err)
		}
		s.grown.Add(int64(len(payload)) + 10) // a process that never lives long must get to a checkpoint too
		return f(pos, &r)
	})
	if err == nil {
		s.cleaner.Go(s.clean)
	}
	return err
}

// bodies are buffers for encoded records.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// urgent are the kinds of records that make room, or without which a client would be sent something twice: they are taken as
// long as there is any space at all.
var urgent = map[store.Kind]bool{
	store.Left: true, store.Ended: true, store.Unsubscribed: true, store.Done: true, store.Sent: true, store.Received: true,
	store.Completed: true, store.Released: true, store.WillGone: true,
}

// Append implements [store.Store].
func (s *Store) Append(r *store.Record) (Position, error) {
	buf := bodies.Get().(*[]byte)
	b := r.Append((*buf)[:0])
	add := s.log.Append
	if urgent[r.Kind] {
		add = s.log.AppendUrgent
	}
	pos, err := add(byte(r.Kind), b)
	size := int64(len(b))
	*buf = b
	bodies.Put(buf)
	if err != nil {
		return 0, err
	}
	if r.Kind == store.Accepted {
		n := len(r.Recipients)
		if r.Message.Retain && len(r.Message.Payload) > 0 {
			n++
		}
		s.Use(pos, n)
	}
	s.appended(pos, size)
	return pos, nil
}

// appended notes that the log has grown.
func (s *Store) appended(pos Position, size int64) {
	for {
		last := s.last.Load()
		if uint64(pos) <= last || s.last.CompareAndSwap(last, uint64(pos)) {
			break
		}
	}
	if !s.busy.Load() && s.behind(s.log.Committed()) > behindMost {
		s.busy.Store(true)
	}
	if due := max(s.opts.CheckpointAfter, 2*s.size.Load()); s.grown.Add(size+10) > due {
		signal(s.wake)
	}
}

// Use implements [store.Store].
func (s *Store) Use(at Position, n int) {
	if n == 0 {
		return
	}
	segment := SegmentOf(at)
	s.mu.Lock()
	left := s.uses[segment] + int64(n)
	if left == 0 {
		delete(s.uses, segment)
	} else {
		s.uses[segment] = left
	}
	s.mu.Unlock()
	if left == 0 && segment < SegmentOf(s.log.Anchor()) {
		signal(s.wake)
	}
}

// Load implements [store.Store].
func (s *Store) Load(at Position, r *store.Record) error {
	buf := bodies.Get().(*[]byte)
	defer bodies.Put(buf)
	kind, payload, err := s.log.Read(at, (*buf)[:0])
	if err != nil {
		return err
	}
	err = r.Parse(store.Kind(kind), payload)
	if cap(payload) > cap(*buf) {
		*buf = payload
	}
	return err
}

// clean takes checkpoints and gives segments back until the store is closed.
func (s *Store) clean() {
	for {
		select {
		case <-s.done:
			return
		case <-s.wake:
		}
		if s.grown.Load() > max(s.opts.CheckpointAfter, 2*s.size.Load()) {
			if s.checkpoint() != nil {
				continue // no room, or the log has failed: the old checkpoint stays in force, and there will be another try
			}
		}
		s.free()
	}
}

// checkpoint writes the whole state into the log, from the beginning of a segment on, and makes that the anchor.
func (s *Store) checkpoint() error {
	if s.emitState == nil {
		return nil
	}
	active, err := s.log.Rotate()
	if err != nil {
		return err
	}
	s.grown.Store(0)
	size := int64(0)
	err = s.emitState(func(r *store.Record) error {
		buf := bodies.Get().(*[]byte)
		defer bodies.Put(buf)
		*buf = r.Append((*buf)[:0])
		size += int64(len(*buf))
		_, err := s.log.Append(byte(r.Kind), *buf)
		return err
	})
	if err != nil {
		return err
	}
	s.size.Store(size)
	return s.log.SetAnchor(at(active, 0))
}

// free gives back the segments that nobody needs.
func (s *Store) free() {
	before := SegmentOf(s.log.Anchor())
	for _, info := range s.log.Segments() {
		s.mu.Lock()
		used := s.uses[info.Number] > 0
		s.mu.Unlock()
		if info.Number >= before || info.Active || used {
			continue
		}
		if err := s.log.Free(info.Number); err != nil {
			return
		}
	}
}

// Checkpoint takes one now, for tests and before a backup.
func (s *Store) Checkpoint() error {
	if err := s.checkpoint(); err != nil {
		return err
	}
	s.free()
	return nil
}

// Close implements [store.Store].
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.done)
		s.cleaner.Wait()
		if s.closed = s.log.Close(); errors.Is(s.closed, ErrClosed) {
			s.closed = nil
		}
	})
	return s.closed
}
