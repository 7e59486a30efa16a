package journal

import (
	"encoding/binary"
	"slices"

	"github.com/magpiemq/magpie/store"
)

// SegmentInfo describes a segment.
type SegmentInfo struct {
	Number  uint32
	First   Position // where its records begin
	End     Position // behind the last one
	Size    int64    // of the file, in bytes
	Used    int64    // bytes of it that hold records
	Records int      // of callers; counted in the active one only
	Active  bool     // the log ends in it
}

// Segments describes the segments of the log in order; the active one is the last.
func (l *Log) Segments() []SegmentInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]SegmentInfo, 0, len(l.live)+1)
	for _, s := range l.live {
		all = append(all, s.info(s.used))
	}
	last := l.active.info(l.off)
	last.Active, last.Records = true, l.records
	return append(all, last)
}

func (s *segment) info(used int64) SegmentInfo {
	return SegmentInfo{Number: s.number, First: at(s.number, firstRecord), End: at(s.number, used), Size: s.size, Used: used - firstRecord}
}

// Free gives a segment back, all of whose records mean nothing any more: from now on it is not in the log. Its file is used
// again once that is on the disk, behind everything appended before. The error is [ErrActive], [ErrNotFound], or one of
// Append.
func (l *Log) Free(number uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.segs[number]
	if s == nil {
		return ErrNotFound
	} else if s == l.active {
		return ErrActive
	}
	if err := l.addOwn(kindFree, uint64(number)); err != nil {
		return err
	}
	delete(l.segs, number)
	l.live = slices.DeleteFunc(l.live, func(other *segment) bool { return other == s })
	l.filling.frees = append(l.filling.frees, s)
	return nil
}

// SetAnchor notes from where a replay can begin: a checkpoint. It is in force once what was appended before is committed, and
// outlives the process; the newest one counts. Segments before it may still be in the log.
func (l *Log) SetAnchor(pos Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.addOwn(kindAnchor, uint64(pos)); err != nil {
		return err
	}
	l.anchor = pos
	return nil
}

// Anchor returns what SetAnchor has set last, in this process or an earlier one; zero when it never has.
func (l *Log) Anchor() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.anchor
}

// Rotate ends the active segment, unless nothing was appended to it, and returns the number of the one that is active then:
// all that follows is in segments from this number on. The error is one of Append.
func (l *Log) Rotate() (active uint32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	if l.records == 0 {
		return l.active.number, nil
	}
	if err := l.haveReady(2, false, 0); err != nil {
		return 0, err
	}
	l.advance()
	signal(l.wake)
	return l.active.number, nil
}

// end returns where the log ends: a record that is appended after this stands there or behind.
func (l *Log) end() (Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return at(l.active.number, l.off), l.err
}

// lacking says whether there was no space for a segment that should stand ready.
func (l *Log) lacking() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full != nil
}

// space is about how many bytes can be appended when no further segment can be made.
func (l *Log) space() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.active.size - l.off - l.slack()
	for _, s := range l.ready {
		n += s.size - firstRecord - l.slack()
	}
	return n
}

// addOwn appends a record of the log itself. It may use what is left free in each segment for that. The caller holds mu.
func (l *Log) addOwn(kind byte, n uint64) error {
	if l.err != nil {
		return l.err
	}
	payload := binary.AppendUvarint(nil, n)
	if size := recordSize(len(payload)); !l.fits(size) {
		if err := l.haveReady(1, false, size); err != nil {
			return err
		}
		l.advance()
	}
	l.mark()
	l.putOwn(kind, payload)
	l.filling.eager = l.filling.eager || l.resolve(store.Default) == store.Synced
	signal(l.wake)
	return nil
}

// ownNumber reads the payload of such a record; zero when it is none.
func ownNumber(b []byte) uint64 {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0
	}
	return n
}
