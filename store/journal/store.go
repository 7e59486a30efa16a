package journal

import (
	"context"
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
// A segment is needed while a replay has to read it, that is from the last checkpoint on, and while a message in it is in use. One
// before the last checkpoint in which little is in use is cleaned: the owner lets what is in use be copied to the end of the log.
type Store struct {
	log  *Log
	opts StoreOptions

	busy  atomic.Bool               // see Busy
	last  atomic.Uint64             // position appended last
	grown atomic.Int64              // bytes appended since the last checkpoint began
	size  atomic.Int64              // bytes of the last checkpoint
	full  atomic.Pointer[FullError] // why messages are refused; nil while they are not

	onCommit, onFail atomic.Value // func(Position), func(error)
	upkeep           store.Upkeep // set by Maintain

	mu   sync.Mutex
	uses map[uint32]*usage // by segment

	cleaning sync.Mutex // held while a checkpoint is taken, and while segments are cleaned and given back
	quiet    quiet      // guarded by cleaning

	wake    chan struct{} // something to clean, or a checkpoint is due
	look    chan struct{} // a segment was made: see how full the disk is
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup
	closing sync.Once
	closed  error
}

// StoreOptions say how a store behaves. The zero value is durable.
type StoreOptions struct {
	Log Options // OnCommit, OnFail and OnRoom are the store's

	// CheckpointAfter is how many bytes are appended before a checkpoint is taken, which bounds the replay. Zero means four
	// segments. When the state is large, it is at least twice the size of the checkpoint before.
	CheckpointAfter int64

	// FullAt is how much of the file system may be in use, by whomever, as a fraction: above it new messages are refused with a
	// [*FullError], until it is one percent less. All other records are taken as long as there is any space. Zero means
	// 0.85; 1 means that messages too are taken while there is space.
	FullAt float64

	// OnFull is called when messages begin to be refused because of FullAt, and when that is over, with the fraction in use, on a
	// goroutine of the store. It must not block or call Close; nil is skipped.
	OnFull func(full bool, used float64)

	// CleanRate is how many bytes of messages are copied in a second, at most, to free segments of which little is in use. Zero
	// means 8 MiB.
	CleanRate int64
}

// behindMost is how many bytes may wait for the device before Busy says so.
const behindMost = 16 << 20

// OpenStore opens the store in a folder, and makes it when there is none. One process at a time can have it.
func OpenStore(fsys vfs.FS, dir string, o StoreOptions) (*Store, error) {
	if o.FullAt == 0 {
		o.FullAt = 0.85
	}
	if o.FullAt < 0 || o.FullAt > 1 {
		return nil, fmt.Errorf("journal: fraction %v of the disk that may be in use is not between 0 and 1", o.FullAt)
	}
	if o.CleanRate <= 0 {
		o.CleanRate = 8 << 20
	}
	s := &Store{opts: o, uses: make(map[uint32]*usage), wake: make(chan struct{}, 1), look: make(chan struct{}, 1)}
	lo := o.Log
	lo.onReady = func() { signal(s.look) }
	lo.MaxPending = 1 << 30 // Busy holds publishers back long before
	lo.OnCommit = s.committed
	lo.OnFail = s.failed
	log, err := Open(fsys, dir, lo)
	if err != nil {
		return nil, err
	}
	s.log = log
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.opts.CheckpointAfter <= 0 {
		s.opts.CheckpointAfter = 4 * log.opts.SegmentSize
	}
	return s, nil
}

func (s *Store) committed(p Position) {
	if s.busy.Load() && s.behind(s.log.Safe(store.Written)) < behindMost/2 {
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

// behind returns about how many bytes were appended and are not written.
func (s *Store) behind(written Position) int64 {
	last := Position(s.last.Load())
	if last <= written {
		return 0
	}
	segments := int64(SegmentOf(last)) - int64(SegmentOf(written))
	return segments*s.log.opts.SegmentSize + OffsetOf(last) - OffsetOf(written)
}

// Busy implements [store.Store].
func (s *Store) Busy() bool { return s.busy.Load() || s.log.tight.Load() }

// OnCommit implements [store.Store].
func (s *Store) OnCommit(f func(Position)) { s.onCommit.Store(f) }

// OnFail implements [store.Store].
func (s *Store) OnFail(f func(error)) { s.onFail.Store(f) }

// Committed implements [store.Store].
func (s *Store) Committed() Position { return s.log.Committed() }

// Safe implements [store.Store].
func (s *Store) Safe(p store.Promise) Position { return s.log.Safe(p) }

// Restore implements [store.Store].
func (s *Store) Restore(f func(Position, *store.Record) error) error {
	var v store.Viewer
	err := s.log.Replay(s.log.Anchor(), func(pos Position, kind byte, payload []byte) error {
		r, err := v.Record(store.Kind(kind), payload)
		if err != nil {
			return fmt.Errorf("record at %x: %w", uint64(pos), err)
		}
		s.grown.Add(int64(len(payload)) + 10) // a process that never lives long must get to a checkpoint too
		if ofState[r.Kind] {
			s.size.Add(int64(len(payload)))
		}
		return f(pos, r)
	})
	return err
}

// Maintain implements [store.Store]. From here on checkpoints are taken, segments cleaned, and the disk is watched.
func (s *Store) Maintain(u store.Upkeep) {
	s.upkeep = u
	s.checkDisk()
	if s.log.opts.manual {
		return
	}
	s.workers.Go(s.clean)
	s.workers.Go(s.watch)
}

// ofState are the kinds of records that make up most of a checkpoint.
var ofState = map[store.Kind]bool{
	store.Session: true, store.Subscribed: true, store.Queue: true, store.Inbound: true, store.Retained: true,
}

// bodies are buffers for encoded records.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// urgent are the kinds of records that make room, or without which a client would be sent something twice or could not come to
// take what waits for it: they are taken as long as there is any space at all.
var urgent = map[store.Kind]bool{
	store.Session: true, store.Left: true, store.Ended: true, store.Unsubscribed: true, store.Done: true, store.Sent: true,
	store.Received: true, store.Completed: true, store.Released: true, store.WillGone: true,
}

// deletes reports whether a record does nothing but remove a retained message.
func deletes(r *store.Record) bool {
	return r.Kind == store.Accepted && len(r.Recipients) == 0 && r.Message.Retain && len(r.Message.Payload) == 0
}

// Append implements [store.Store].
func (s *Store) Append(r *store.Record) (Position, error) {
	makesRoom := urgent[r.Kind] || deletes(r)
	if r.Kind == store.Accepted && !makesRoom {
		if full := s.full.Load(); full != nil {
			return 0, full
		}
	}
	buf := bodies.Get().(*[]byte)
	b := r.Append((*buf)[:0])
	pos, err := s.log.addReady(byte(r.Kind), makesRoom, r.Promise, b)
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
	if !s.busy.Load() && s.behind(s.log.Safe(store.Written)) > behindMost {
		s.busy.Store(true)
	}
	if s.grown.Add(size+10) > s.dueAfter() {
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
	u := s.uses[segment]
	if u == nil {
		u = &usage{}
		s.uses[segment] = u
	}
	u.now += int64(n)
	u.added += max(0, int64(n))
	unused := u.now == 0
	s.mu.Unlock()
	if unused && segment < SegmentOf(s.log.Anchor()) {
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

// viewers read records, see [store.Viewer].
var viewers = sync.Pool{New: func() any { return new(store.Viewer) }}

// LoadAll implements [store.Store].
func (s *Store) LoadAll(at []Position, f func(i int, r *store.Record, err error) bool) {
	v := viewers.Get().(*store.Viewer)
	defer viewers.Put(v)
	for next := 0; next < len(at); {
		first := next
		err := s.log.ReadBatch(at[first:], func(i int, kind byte, payload []byte) error {
			r, err := v.Owned(store.Kind(kind), payload)
			next = first + i + 1
			if !f(first+i, r, err) {
				return errEnough
			}
			return nil
		})
		if err == nil || err == errEnough || !f(next, nil, err) {
			return
		}
		next++
	}
}

// Close implements [store.Store].
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.workers.Wait()
		if s.closed = s.log.Close(); errors.Is(s.closed, ErrClosed) {
			s.closed = nil
		}
	})
	return s.closed
}
