package journal

import "fmt"

// Replay calls fn for every record of a caller from a position on that is in the log, in order, up to what was written when
// it was called. From is zero, an anchor, or where a record or a segment begins. The payload is good until fn returns. Damage is
// a [*DamageError]; an error of fn ends the replay and is returned as it is. A segment that is freed meanwhile is ErrNotFound.
func (l *Log) Replay(from Position, fn func(pos Position, kind byte, payload []byte) error) error {
	for _, r := range l.reach(from) {
		if err := l.replay(r, fn); err != nil {
			return err
		}
	}
	return nil
}

// ReplaySegment is Replay of one segment, for looking at what of it is still of value.
func (l *Log) ReplaySegment(number uint32, fn func(pos Position, kind byte, payload []byte) error) error {
	for _, r := range l.reach(at(number, 0)) {
		if r.seg.number == number {
			return l.replay(r, fn)
		}
	}
	return ErrNotFound
}

// stretch is a part of a segment.
type stretch struct {
	seg      *segment
	from, to int64
	sealed   bool // the segment ends there
}

// reach lists what is to be read from a position on.
func (l *Log) reach(from Position) (all []stretch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add := func(s *segment, to int64, sealed bool) {
		if s.number < SegmentOf(from) {
			return
		}
		start := int64(firstRecord)
		if s.number == SegmentOf(from) {
			start = max(start, OffsetOf(from))
		}
		all = append(all, stretch{s, start, to, sealed})
	}
	last := SegmentOf(l.written)
	for _, s := range l.live {
		if s.number < last {
			add(s, s.used, true)
		}
	}
	if s := l.segs[last]; s != nil {
		add(s, OffsetOf(l.written), false)
	}
	return all
}

// replay reads a part of a segment.
func (l *Log) replay(r stretch, fn func(pos Position, kind byte, payload []byte) error) error {
	s := scan(reader{l, r.seg}, r.seg.fileHeader, r.from, r.to)
	for s.off < r.to {
		rec, ok, err := s.next()
		if err != nil {
			return fmt.Errorf("read journal segment %s: %w", r.seg.path, err)
		}
		if !ok {
			return &DamageError{File: r.seg.path, Offset: s.off, Reason: "bad record"}
		}
		if rec.kind > MaxKind {
			continue
		}
		if err := fn(rec.pos, rec.kind, rec.payload); err != nil {
			return err
		}
	}
	return nil
}

// reader reads a segment and holds on to its file only during a read: whoever looks at the records may do what he likes.
type reader struct {
	log *Log
	seg *segment
}

// ReadAt implements [io.ReaderAt].
func (r reader) ReadAt(b []byte, off int64) (int, error) {
	f, err := r.log.acquire(r.seg)
	if err != nil {
		return 0, err
	}
	defer r.seg.release()
	return f.ReadAt(b, off)
}
