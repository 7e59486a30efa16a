package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// retryFull is how long the preparer waits before it tries again to get space, unless something is freed before. keepSpares is how
// long it keeps freed segments when nothing happens.
const (
	retryFull  = 500 * time.Millisecond
	keepSpares = time.Minute
)

// preparer keeps segments ready and takes freed ones back, until the log is closed.
func (l *Log) preparer() {
	defer l.wait.Done()
	for {
		var again, idle <-chan time.Time
		if l.prepare() {
			again = time.After(retryFull)
		}
		if len(l.old) > 0 {
			idle = time.After(keepSpares)
		}
		select {
		case <-l.kick:
		case <-again:
		case <-idle:
			l.dropSpares()
		case <-l.quit:
			return
		}
	}
}

// keepLean says whether freed segments are removed at once, because others need the space.
func (l *Log) keepLean(on bool) {
	l.mu.Lock()
	l.lean = on
	l.mu.Unlock()
	signal(l.kick)
}

// dropSpares removes the files of freed segments.
func (l *Log) dropSpares() {
	for _, old := range l.old {
		l.fs.Remove(old) // if that fails, the next opening does it
	}
	l.old = nil
}

// prepare takes back what was freed and makes what should stand ready. It reports whether there was no space for that.
func (l *Log) prepare() (lacking bool) {
	l.takeBack()
	lacking = l.makeReady()
	l.growReady()
	return lacking
}

// makeReady makes segments until enough stand ready. It reports whether there was no space for one.
func (l *Log) makeReady() (lacking bool) {
	for {
		l.mu.Lock()
		number, missing := l.active.number+uint32(len(l.ready))+1, len(l.ready) < l.ahead() && !l.failed()
		l.mu.Unlock()
		if !missing {
			l.prepared(nil, nil)
			return false
		}
		s, err := l.make(number)
		if errors.As(err, new(*dirError)) {
			l.fail(err)
			return false
		}
		l.prepared(s, err)
		if err != nil {
			return true
		}
	}
}

// prepared adds a segment to those that stand ready, or notes why there is none.
func (l *Log) prepared(s *segment, err error) {
	l.mu.Lock()
	if l.full = nil; err != nil {
		l.full = &FullError{Dir: l.dir, Err: err}
	}
	if s != nil {
		l.ready = append(l.ready, s)
	}
	tell := func() {}
	if s != nil || err != nil {
		l.tight.Store(false)
		tell = l.madeRoom()
	}
	l.mu.Unlock()
	tell()
	if s != nil && l.opts.onReady != nil {
		l.opts.onReady()
	}
}

// dirError says that the names in the folder could not be made durable. It ends the log, like any sync that went wrong.
type dirError struct{ err error }

func (e *dirError) Error() string { return fmt.Sprintf("sync journal folder: %v", e.err) }
func (e *dirError) Unwrap() error { return e.err }

// The names of files that are not segments, or not yet.
const (
	lockName  = "LOCK"
	newSuffix = ".new" // being prepared
	oldSuffix = ".old" // was freed
)

// make makes an empty segment, out of a freed one where there is one: allocated, named, and all of that durable.
func (l *Log) make(number uint32) (*segment, error) {
	h := fileHeader{version: FormatVersion, number: number, epoch: l.opts.random(), id: l.id}
	s := segmentAt(l.dir, h, l.opts.SegmentSize)
	temporary := s.path + newSuffix
	if err := l.lay(temporary, h); err != nil {
		l.fs.Remove(temporary) // if it cannot be removed either, the next try or opening does it
		return nil, err
	}
	if err := l.fs.Rename(temporary, s.path); err != nil {
		l.fs.Remove(temporary)
		return nil, err
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return nil, &dirError{err}
	}
	if err := s.open(l.fs); err != nil {
		return nil, err
	}
	return s, nil
}

// lay writes the file of an empty segment, and syncs it.
func (l *Log) lay(path string, h fileHeader) error {
	flag := os.O_RDWR | os.O_CREATE | os.O_TRUNC
	if n := len(l.old) - 1; n >= 0 {
		old := l.old[n]
		l.old = l.old[:n]
		if l.fs.Rename(old, path) == nil {
			flag = os.O_RDWR
		}
	}
	f, err := l.fs.OpenFile(path, flag)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Preallocate(l.opts.SegmentSize); err != nil {
		return err
	}
	if _, err := f.WriteAt(h.page(), 0); err != nil {
		return err
	}
	return f.Sync()
}

// growReady makes the first ready segment as large as somebody wishes.
func (l *Log) growReady() {
	l.mu.Lock()
	want := l.grow.want
	if want == 0 || len(l.ready) == 0 {
		l.mu.Unlock()
		return
	}
	s := l.ready[0]
	l.mu.Unlock()

	err := s.file.Preallocate(want)
	if err == nil {
		err = s.file.Sync() // the start of the segment will tell its size
	}
	l.mu.Lock()
	l.grow = growth{}
	if err == nil {
		s.size = want
	} else {
		l.grow.err = &FullError{Dir: l.dir, Err: err}
	}
	tell := l.madeRoom()
	l.mu.Unlock()
	tell()
}

// takeBack makes spares of the files of freed segments, or removes them. The names need not be synced: an old one that comes
// back after a crash is not in the log any more, and is removed whatever the file holds by then.
func (l *Log) takeBack() {
	l.mu.Lock()
	var doomed []*segment
	if l.pins == 0 {
		doomed, l.doomed = l.doomed, nil
	}
	lean := l.lean
	l.mu.Unlock()
	if lean {
		l.dropSpares()
	}
	for _, s := range doomed {
		s.close(true, true)
		l.files.drop(s)
		if lean || len(l.old) >= l.opts.Spares || s.size != l.opts.SegmentSize {
			l.fs.Remove(s.path) // if that fails, the next opening does it
			continue
		}
		old := strings.TrimSuffix(s.path, filepath.Ext(s.path)) + oldSuffix
		if l.fs.Rename(s.path, old) == nil {
			l.old = append(l.old, old)
		}
	}
}

// randomEpoch returns a number that nobody can guess.
func randomEpoch() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// isSpace says whether an error means that the disk is full.
func isSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// maxOpen is how many segments are open for reading at once, besides those that are written.
const maxOpen = 128

// fileLimit closes files that were opened for reading when there are too many.
type fileLimit struct {
	mu   sync.Mutex
	open []*segment // least recently opened first
}

// add notes that a segment is open.
func (f *fileLimit) add(s *segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.open, s) {
		return
	}
	f.open = append(f.open, s)
	if len(f.open) <= maxOpen {
		return
	}
	for i, old := range f.open {
		if old != s && old.close(false, false) {
			f.open = slices.Delete(f.open, i, i+1)
			return
		}
	}
}

// drop forgets a segment.
func (f *fileLimit) drop(s *segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.open, s); i >= 0 {
		f.open = slices.Delete(f.open, i, i+1)
	}
}
