package journal

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"

	"github.com/magpiemq/magpie/internal/vfs"
)

// segment is one file of the log.
type segment struct {
	fileHeader        // immutable
	path       string // immutable
	size       int64  // how many bytes have space on the disk; guarded by Log.mu
	used       int64  // where its records end, once the log has gone on to the next; guarded by Log.mu

	mu   sync.RWMutex // held shared while file is used for reading, exclusively to open or close it
	file vfs.File     // nil while it is not open
	gone bool         // it was freed: the file may be another segment's by now
}

// firstRecord is where the records of a segment begin.
const firstRecord = page

// acquire returns the file for reading, opened if need be. The caller calls release.
func (s *segment) acquire(fs vfs.FS) (f vfs.File, opened bool, err error) {
	for {
		s.mu.RLock()
		if s.file != nil && !s.gone {
			return s.file, opened, nil
		}
		gone := s.gone
		s.mu.RUnlock()
		if gone {
			return nil, false, ErrNotFound
		}
		if err := s.open(fs); err != nil {
			return nil, false, err
		}
		opened = true
	}
}

func (s *segment) release() { s.mu.RUnlock() }

// open opens the file unless it is.
func (s *segment) open(fs vfs.FS) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil || s.gone {
		return nil
	}
	f, err := fs.OpenFile(s.path, os.O_RDWR)
	if err == nil {
		s.file = f
	}
	return err
}

// close closes the file when nobody is using it; wait says to wait for that.
func (s *segment) close(wait, gone bool) (closed bool) {
	if wait {
		s.mu.Lock()
	} else if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close() // nothing in it waits to be written: what matters was synced
		s.file = nil
	}
	s.gone = s.gone || gone
	return true
}

// segmentAt says which segment a file of the log is.
func segmentAt(dir string, h fileHeader, size int64) *segment {
	return &segment{fileHeader: h, path: filepath.Join(dir, fileName(h.number)), size: size}
}

// startRecord is the payload of the first record in a segment: what the log has to know that older segments, which may be
// freed, have told.
type startRecord struct {
	anchor Position
	size   int64    // of this segment
	live   []extent // the segments before this one that are in the log, in order
}

// extent is a segment and where its records end.
type extent struct {
	number uint32
	used   int64
}

func (s startRecord) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(s.anchor))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.size))
	var last uint32
	for _, e := range s.live {
		b = binary.AppendUvarint(b, uint64(e.number-last))
		b = binary.AppendUvarint(b, uint64(e.used))
		last = e.number
	}
	return b
}

// parseStart reads the payload; ok is false when it makes no sense.
func parseStart(b []byte) (s startRecord, ok bool) {
	if len(b) < 16 {
		return s, false
	}
	s.anchor = Position(binary.LittleEndian.Uint64(b))
	s.size = int64(binary.LittleEndian.Uint64(b[8:]))
	var last uint64
	for b = b[16:]; len(b) > 0; {
		step, n := binary.Uvarint(b)
		if n <= 0 || step == 0 {
			return s, false
		}
		used, m := binary.Uvarint(b[n:])
		if last += step; m <= 0 || last > 1<<32-1 || used < firstRecord+endSize || used > 1<<32-1 {
			return s, false
		}
		s.live = append(s.live, extent{uint32(last), int64(used)})
		b = b[n+m:]
	}
	return s, true
}
