package journal

import (
	"io"

	"github.com/magpiemq/magpie/internal/vfs"
)

// readAhead is how much a scanner reads at once, in bytes.
const readAhead = 1 << 20

// entry is a record as a scanner meets it.
type entry struct {
	pos     Position
	kind    byte
	payload []byte // good until the next call
	size    int64  // of the whole record, in bytes
}

// scanner reads the records of one segment in order.
type scanner struct {
	file   io.ReaderAt
	number uint32
	epoch  uint64
	off    int64 // of the next record
	end    int64 // nothing is read from here on

	buf  []byte // a window of the file
	base int64  // where it begins
}

// scan returns a scanner over [from, end) of a file.
func scan(file io.ReaderAt, h fileHeader, from, end int64) *scanner {
	return &scanner{file: file, number: h.number, epoch: h.epoch, off: from, end: max(from, end)}
}

// next returns the record at s.off and steps behind it. When there is no whole record, ok is false and s.off stays.
func (s *scanner) next() (r entry, ok bool, err error) {
	b, err := s.window(maxHeader)
	if err != nil {
		return r, false, err
	}
	h, ok := parseHeader(b)
	if !ok || h.total() > s.end-s.off {
		return r, false, nil
	}
	if int64(len(b)) < h.total() {
		if b, err = s.window(h.total()); err != nil {
			return r, false, err
		}
	}
	if !h.matches(b, s.epoch, s.off) {
		return r, false, nil
	}
	r = entry{at(s.number, s.off), h.kind, b[h.size:h.total()], h.total()}
	s.off += h.total()
	return r, true, nil
}

// window returns the bytes from s.off on, at least n of them unless the segment ends before.
func (s *scanner) window(n int64) ([]byte, error) {
	n = min(n, s.end-s.off)
	have := s.base + int64(len(s.buf)) - s.off
	if s.off >= s.base && have >= n {
		return s.buf[s.off-s.base:], nil
	}
	size := min(max(n, readAhead), s.end-s.off)
	if int64(cap(s.buf)) < size {
		s.buf = make([]byte, size)
	}
	s.buf, s.base = s.buf[:size], s.off
	if err := vfs.ReadFull(s.file, s.buf, s.off); err != nil {
		s.buf = s.buf[:0]
		return nil, err
	}
	return s.buf, nil
}

// marks visits the marks at or behind off, until visit says that it has seen enough.
func (s *scanner) marks(off int64, visit func(place int64, synced Position) (more bool)) error {
	buf := make([]byte, min(readAhead, max(0, s.end-off)))
	for off < s.end {
		b := buf[:min(int64(len(buf)), s.end-off)]
		if err := vfs.ReadFull(s.file, b, off); err != nil {
			return err
		}
		for i := indexMark(b, s.epoch, off); i >= 0; {
			synced, _ := parseMark(b[i+minRecord:i+markSize], s.epoch)
			if !visit(off+int64(i), synced) {
				return nil
			}
			i++
			next := indexMark(b[i:], s.epoch, off+int64(i))
			if next < 0 {
				break
			}
			i += next
		}
		if off+int64(len(b)) == s.end {
			return nil
		}
		off += int64(len(b)) - markSize + 1 // one may lie across the border
	}
	return nil
}

// proof says whether a mark behind s.off tells that the log was synced beyond it: then the record at s.off was whole once.
func (s *scanner) proof() (proven bool, err error) {
	err = s.marks(s.off, func(_ int64, synced Position) bool {
		proven = synced > at(s.number, s.off)
		return !proven
	})
	return proven, err
}

// resync looks behind a bad record for a good one: where the bad one says it ends, or else the next mark.
func (s *scanner) resync() (place int64, ok bool, err error) {
	b, err := s.window(maxHeader)
	if err != nil {
		return 0, false, err
	}
	if h, ok := parseHeader(b); ok && h.total() < s.end-s.off {
		m := *s
		m.buf, m.base, m.off = nil, 0, s.off+h.total()
		if _, ok, err := m.next(); err != nil || ok {
			return s.off + h.total(), ok, err
		}
	}
	err = s.marks(s.off+1, func(p int64, _ Position) bool {
		place, ok = p, true
		return false
	})
	return place, ok, err
}
