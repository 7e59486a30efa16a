package journal

import (
	"fmt"
	"sync"

	"github.com/magpiemq/magpie/internal/vfs"
)

// guess is how many bytes are read for a record of unknown length.
const guess = 512

// Read returns the record at a position, committed or not. The payload is in buf when it has the capacity for the record with
// ten bytes more, and otherwise in a new slice. The error is [ErrNotFound] when the segment has been freed, or a
// [*DamageError] when there is no such record.
func (l *Log) Read(pos Position, buf []byte) (kind byte, payload []byte, err error) {
	s, b, err := l.find(pos, buf)
	if err != nil {
		return 0, nil, err
	}
	if b == nil {
		if b, err = l.load(s, pos, buf); err != nil {
			return 0, nil, err
		}
	}
	return s.record(b, pos)
}

// find finds the segment of a position, and the bytes of the record if they are not in the file yet.
func (l *Log) find(pos Position, buf []byte) (s *segment, b []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s = l.segs[SegmentOf(pos)]
	if s == nil {
		return nil, nil, ErrNotFound
	}
	if pos < l.written {
		return s, nil, nil
	}
	b = l.flushing.bytes(pos)
	if b == nil {
		b = l.filling.bytes(pos)
	}
	h, ok := parseHeader(b)
	if !ok || h.total() > int64(len(b)) {
		return nil, nil, s.bad(pos)
	}
	return s, append(buf[:0], b[:h.total()]...), nil
}

// bad says that there is no record at a position.
func (s *segment) bad(pos Position) error {
	return &DamageError{File: s.path, Offset: OffsetOf(pos), Reason: "no record begins there"}
}

// load reads the bytes of a record from the file.
func (l *Log) load(s *segment, pos Position, buf []byte) ([]byte, error) {
	f, err := l.acquire(s)
	if err != nil {
		return nil, err
	}
	defer s.release()
	off, size := OffsetOf(pos), l.sizeOf(s)
	if off < firstRecord || off >= size {
		return nil, s.bad(pos)
	}
	if cap(buf) < guess {
		buf = make([]byte, 0, guess)
	}
	b := buf[:min(int64(cap(buf)), size-off, readAhead)]
	if err := vfs.ReadFull(f, b, off); err != nil {
		return nil, fmt.Errorf("read journal segment %s: %w", s.path, err)
	}
	h, ok := parseHeader(b)
	if !ok || h.total() > size-off {
		return nil, s.bad(pos)
	}
	have := int64(len(b))
	if h.total() <= have {
		return b[:h.total()], nil
	}
	if int64(cap(b)) < h.total() {
		b = append(make([]byte, 0, h.total()), b...)
	}
	b = b[:h.total()]
	if err := vfs.ReadFull(f, b[have:], off+have); err != nil {
		return nil, fmt.Errorf("read journal segment %s: %w", s.path, err)
	}
	return b, nil
}

// acquire opens a segment for reading; the caller calls s.release.
func (l *Log) acquire(s *segment) (vfs.File, error) {
	f, opened, err := s.acquire(l.fs)
	if opened {
		l.files.add(s)
	}
	if err != nil && err != ErrNotFound {
		return nil, fmt.Errorf("open journal segment: %w", err)
	}
	return f, err
}

// sizeOf returns the size of a segment's file.
func (l *Log) sizeOf(s *segment) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.size
}

// record takes apart a whole record that was read from a position.
func (s *segment) record(b []byte, pos Position) (kind byte, payload []byte, err error) {
	h, ok := parseHeader(b)
	if !ok || h.total() > int64(len(b)) || !h.matches(b, s.epoch, OffsetOf(pos)) || h.kind > MaxKind {
		return 0, nil, s.bad(pos)
	}
	return h.kind, b[h.size:h.total()], nil
}

// The bounds within which [Log.ReadBatch] reads neighbours at once, in bytes: from the first to the last, and between two.
const (
	batchSpan = 256 << 10
	batchGap  = 16 << 10
)

// ReadBatch reads the records at positions, which are in ascending order, with few reads where they lie close together, and
// calls fn with the index and contents of each. The payload is good until fn returns. It stops at the first error; one of fn
// is returned as it is.
func (l *Log) ReadBatch(positions []Position, fn func(i int, kind byte, payload []byte) error) error {
	buf := windows.Get().(*[]byte)
	defer windows.Put(buf)
	var single []byte
	for i := 0; i < len(positions); {
		j := neighbours(positions[i:]) + i
		first := positions[i]
		window := l.around(first, positions[j-1], buf)
		for ; i < j; i++ {
			kind, payload, err := l.within(window, first, positions[i])
			if err != nil {
				kind, payload, err = l.Read(positions[i], single)
			}
			if err == nil {
				err = fn(i, kind, payload)
			}
			if err != nil {
				return err
			}
			if cap(payload) > cap(single) && cap(payload) <= keep {
				single = payload[:0]
			}
		}
	}
	return nil
}

// windows are buffers for neighbours.
var windows = sync.Pool{New: func() any { return new([]byte) }}

// neighbours returns how many of the positions are worth reading at once.
func neighbours(positions []Position) int {
	n := 1
	for n < len(positions) && SegmentOf(positions[n]) == SegmentOf(positions[0]) &&
		positions[n]-positions[0] < batchSpan && positions[n]-positions[n-1] < batchGap {
		n++
	}
	return n
}

// around reads the bytes from one record to some behind the beginning of another, if they are in a file.
func (l *Log) around(first, last Position, window *[]byte) []byte {
	l.mu.Lock()
	s, written := l.segs[SegmentOf(first)], l.written
	l.mu.Unlock()
	if s == nil || first == last || last >= written {
		return nil
	}
	f, err := l.acquire(s)
	if err != nil {
		return nil
	}
	defer s.release()
	size := min(int64(last-first)+batchGap, l.sizeOf(s)-OffsetOf(first))
	if size <= 0 {
		return nil
	}
	if int64(cap(*window)) < size {
		*window = make([]byte, batchSpan+batchGap)
	}
	b := (*window)[:size]
	if vfs.ReadFull(f, b, OffsetOf(first)) != nil {
		return nil
	}
	return b
}

// within takes a record out of a window that begins at first.
func (l *Log) within(window []byte, first, pos Position) (kind byte, payload []byte, err error) {
	if n := pos - first; n < Position(len(window)) {
		l.mu.Lock()
		s := l.segs[SegmentOf(pos)]
		l.mu.Unlock()
		if s != nil {
			return s.record(window[n:], pos)
		}
	}
	return 0, nil, ErrNotFound
}
