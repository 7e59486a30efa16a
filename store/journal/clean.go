package journal

import (
	"errors"
	"time"

	"github.com/magpiemq/magpie/store"
)

// A segment before the anchor is cleaned when less than these shares of it are in use: normally, and when the disk is full.
const (
	shareToClean     = 0.25
	shareWhenPressed = 0.50
)

// usage is what is known of the messages in a segment.
type usage struct {
	now   int64 // uses
	added int64 // uses that were added since the store was opened
	mean  int64 // bytes of the record of a message, from a sample; zero is unknown
	seen  int64 // uses that were left when the segment was cleaned last; zero is never
}

// quiet tells how long nothing was appended.
type quiet struct {
	grown int64
	since time.Time
}

// quietFor is how long nothing has to be appended before a checkpoint is taken only to give back segments.
const quietFor = time.Minute

// clean takes checkpoints and gives segments back until the store is closed.
func (s *Store) clean() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		}
		s.tidy()
	}
}

// tidy does what is due. One goroutine at a time does: messages are not moved while the state is emitted.
func (s *Store) tidy() {
	s.cleaning.Lock()
	defer s.cleaning.Unlock()
	for more := true; more && s.ctx.Err() == nil; {
		if s.checkpointDue() {
			_ = s.checkpoint() // no room, or the log has failed: the old one stays in force, and there will be another try
		}
		s.free()
		if more = s.cleanOne(); more {
			s.free()
		}
	}
}

// dueAfter is how many bytes are appended before a checkpoint is due.
func (s *Store) dueAfter() int64 { return max(s.opts.CheckpointAfter, 2*s.size.Load()) }

// pressed reports whether the disk is full.
func (s *Store) pressed() bool { return s.full.Load() != nil || s.log.lacking() }

// checkpointDue decides whether to take a checkpoint: when the log has grown, so that a replay stays short, and when that is all that
// keeps segments from being freed while the space is wanted, or nothing else happens.
func (s *Store) checkpointDue() bool {
	grown := s.grown.Load()
	if grown != s.quiet.grown {
		s.quiet = quiet{grown, time.Now()}
	}
	due := grown > s.dueAfter()
	if pressed := s.pressed(); !due && (pressed || time.Since(s.quiet.since) >= quietFor) {
		due = s.gain() > max(2*s.size.Load(), s.log.opts.SegmentSize/2)
	}
	return due && s.hasRoomFor(s.size.Load())
}

// hasRoomFor reports whether so many bytes can be appended: always while more segments can be made.
func (s *Store) hasRoomFor(n int64) bool { return !s.log.lacking() || n+n/4 < s.log.space() }

// gain is about how many bytes could be given back after a checkpoint.
func (s *Store) gain() (bytes int64) {
	limit := s.shareToClean()
	for _, info := range s.log.Segments() {
		if info.Active || info.Number < SegmentOf(s.log.Anchor()) {
			continue
		}
		if share := s.share(info, limit); share < limit {
			bytes += info.Size - int64(share*float64(info.Used))
		}
	}
	return bytes
}

// checkpoint writes the whole state into the log, and makes the place where it begins the anchor.
func (s *Store) checkpoint() error {
	if s.upkeep.Checkpoint == nil {
		return nil
	}
	begin, err := s.log.end()
	if err != nil {
		return err
	}
	s.grown.Store(0)
	size := int64(0)
	err = s.upkeep.Checkpoint(func(r *store.Record) error {
		buf := bodies.Get().(*[]byte)
		defer bodies.Put(buf)
		*buf = r.Append((*buf)[:0])
		size += int64(len(*buf)) + 10
		_, err := s.log.addReady(byte(r.Kind), true, store.Written, *buf) // the anchor behind them all is synced
		return err
	})
	if err != nil {
		s.size.Store(max(s.size.Load(), 2*size)) // so much has no room, and is not tried again at once
		return err
	}
	s.size.Store(size)
	return s.setAnchor(begin)
}

func (s *Store) setAnchor(p Position) error {
	for {
		err := s.log.SetAnchor(p)
		if err != ErrBusy {
			return err
		}
		s.log.awaitReady(func() (behind bool, err error) {
			if s.log.err != nil {
				return false, s.log.err
			}
			return false, s.log.haveReady(1, false, page)
		})
	}
}

// free gives back the segments that nobody needs.
func (s *Store) free() {
	before := SegmentOf(s.log.Anchor())
	for _, info := range s.log.Segments() {
		if info.Number >= before || info.Active || s.usage(info.Number).now > 0 {
			continue
		}
		if s.log.Free(info.Number) != nil {
			return
		}
		s.mu.Lock()
		delete(s.uses, info.Number)
		s.mu.Unlock()
	}
}

func (s *Store) usage(number uint32) (u usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.uses[number]; known != nil {
		u = *known
	}
	return u
}

// Uses returns how many uses of messages are counted, by segment.
func (s *Store) Uses() map[uint32]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[uint32]int64)
	for number, u := range s.uses {
		if u.now != 0 {
			all[number] = u.now
		}
	}
	return all
}

// learn changes what is known of a segment, if it is in use.
func (s *Store) learn(number uint32, f func(u *usage)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uses[number]; u != nil {
		f(u)
	}
}

// forgetLooks lets every segment be cleaned again: the disk is full, and less is gain enough.
func (s *Store) forgetLooks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uses {
		u.seen = 0
	}
}

func (s *Store) shareToClean() float64 {
	if s.pressed() {
		return shareWhenPressed
	}
	return shareToClean
}

// share is about which fraction of a segment is in use: the smaller of two guesses, each of which may be far too high. One message for
// many sessions counts as many uses, and which uses there were before the store was opened is not known. 1 means that it was
// cleaned and little has changed since.
func (s *Store) share(info SegmentInfo, limit float64) float64 {
	u := s.usage(info.Number)
	if u.now <= 0 {
		return 0
	}
	if u.seen > 0 && u.now > u.seen/2 {
		return 1
	}
	byUses := float64(u.now) / float64(u.added)
	if byUses < limit {
		return byUses
	}
	if u.mean == 0 {
		u.mean = s.meanSize(info)
		s.learn(info.Number, func(known *usage) { known.mean = u.mean })
	}
	return min(byUses, float64(u.now*u.mean)/float64(info.Used))
}

// The size of a sample: messages, and bytes of other records between them.
const (
	sampleMessages = 512
	sampleBytes    = 4 << 20
)

var errEnough = errors.New("enough")

// meanSize reads some of the records of a segment and returns the mean size of those of messages, or that of the segment when it
// meets none.
func (s *Store) meanSize(info SegmentInfo) int64 {
	messages, bytes, others := int64(0), int64(0), 0
	_ = s.log.ReplaySegment(info.Number, func(_ Position, kind byte, payload []byte) error {
		if k := store.Kind(kind); k == store.Accepted || k == store.Moved {
			messages++
			bytes += recordSize(len(payload))
		} else {
			others += len(payload)
		}
		if messages >= sampleMessages || others > sampleBytes {
			return errEnough
		}
		return nil
	})
	if messages == 0 {
		return max(1, info.Used)
	}
	return bytes / messages
}

// cleanOne cleans the segment of which the least is in use, if there is one that is worth it.
func (s *Store) cleanOne() bool {
	if s.upkeep.Clean == nil {
		return false
	}
	least, best := s.shareToClean(), SegmentInfo{}
	before := SegmentOf(s.log.Anchor())
	for _, info := range s.log.Segments() {
		if info.Active || info.Number >= before {
			continue
		}
		if share := s.share(info, least); 0 < share && share < least {
			least, best = share, info // one of which nothing is in use could not be freed, for another reason
		}
	}
	if best.Number == 0 || !s.hasRoomFor(int64(2*least*float64(best.Used))) {
		return false
	}
	m := mover{store: s, left: best.Used * 3 / 4, urgent: s.log.lacking(), began: time.Now()}
	err := s.upkeep.Clean(at(best.Number, 0), at(best.Number+1, 0), m.move)
	if !errors.As(err, new(*FullError)) {
		s.learn(best.Number, func(u *usage) { u.seen = max(1, u.now) })
	}
	return err == nil || errors.Is(err, errLively)
}

// mover copies the messages of one segment, at the pace that the options say.
type mover struct {
	store  *Store
	left   int64 // how many bytes are worth it
	urgent bool
	began  time.Time
	moved  int64 // bytes
}

// errLively says that more of a segment is in use than was thought.
var errLively = errors.New("journal: too much of the segment is in use")

// move is a [store.Mover].
func (m *mover) move(pos Position, needs func(store.SessionID) bool) (Position, error) {
	var r store.Record
	if err := m.store.Load(pos, &r); err != nil {
		return 0, err
	}
	moved := store.Record{Kind: store.Moved, About: pos, Message: r.Message}
	for _, to := range r.Recipients {
		if needs != nil && needs(to.Session) {
			moved.Recipients = append(moved.Recipients, to)
		}
	}
	body := moved.Append(nil)
	size := recordSize(len(body))
	if m.left -= size; m.left < 0 {
		return 0, errLively
	}
	if err := m.pace(size); err != nil {
		return 0, err
	}
	copied, err := m.store.log.addReady(byte(moved.Kind), m.urgent, store.Written, body) // what frees the original is synced
	if err == nil {
		m.store.appended(copied, size)
	}
	return copied, err
}

// pace waits until the bytes may be copied. It does not wait for moments too short to be worth it.
func (m *mover) pace(size int64) error {
	const worth = 5 * time.Millisecond
	m.moved += size
	due := m.began.Add(time.Duration(float64(m.moved) / float64(m.store.opts.CleanRate) * float64(time.Second)))
	wait := time.Until(due)
	if wait < worth {
		return m.store.ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-m.store.ctx.Done():
		return m.store.ctx.Err()
	}
}

// Checkpoint takes one now and gives back what nobody needs then.
func (s *Store) Checkpoint() error {
	s.cleaning.Lock()
	defer s.cleaning.Unlock()
	if err := s.checkpoint(); err != nil {
		return err
	}
	s.free()
	return nil
}
