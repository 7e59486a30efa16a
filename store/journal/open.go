package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/magpiemq/magpie/internal/vfs"
)

// Open opens the log in a folder, or makes one in a folder that is empty or does not exist. It finds the end of the log, cuts
// off what was being written when the last process ended, and returns when everything in the log is durable.
//
// When the folder cannot be used, the error says what to do: [*LockedError], [*DamageError], [*MissingError],
// [*VersionError], [*ForeignError], [*AccessError] or [*FullError]. Nothing in the folder was changed then, but for its lock
// file.
func Open(fsys vfs.FS, dir string, opts Options) (*Log, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	l := &Log{
		fs: fsys, dir: dir, opts: opts,
		segs:    make(map[uint32]*segment),
		filling: new(batch), spare: new(batch),
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), quit: make(chan struct{}), dead: make(chan struct{}),
	}
	l.opts.OnFail = nil // who opens gets an error
	if err := l.open(); err != nil {
		l.closeFiles()
		if l.lock != nil {
			l.lock.Close()
		}
		return nil, explain(dir, err)
	}
	l.opts.OnFail = opts.OnFail
	if !opts.manual {
		l.wait.Add(2)
		go l.committer()
		go l.preparer()
	}
	return l, nil
}

// explain turns what a file system says into what to do.
func explain(dir string, err error) error {
	var locked *vfs.LockedError
	switch {
	case errors.As(err, &locked):
		return &LockedError{Dir: dir, Holder: locked.Note}
	case errors.As(err, new(*FullError)), errors.As(err, new(*AccessError)):
		return err
	case isSpace(err):
		return &FullError{Dir: dir, Err: err}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &AccessError{Dir: dir, Err: err}
	case errors.Is(err, syscall.ENOTDIR):
		return &ForeignError{File: dir, Reason: "not a folder"}
	}
	return err
}

func (l *Log) open() error {
	if !l.mayBeInUse() {
		if _, err := examine(l.fs, l.dir); err != nil {
			return err // before anything is made in a folder that is not ours
		}
	}
	if err := l.fs.MkdirAll(l.dir); err != nil {
		return fmt.Errorf("make journal folder: %w", err)
	}
	lock, err := l.fs.Lock(filepath.Join(l.dir, lockName), fmt.Sprintf("process %d\n", os.Getpid()))
	if err != nil {
		return err
	}
	l.lock = lock
	st, err := examine(l.fs, l.dir)
	if err != nil {
		return err
	}
	// The process before this one may have ended between a rename and its sync.
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync journal folder: %w", err)
	}
	if st == nil {
		if st, err = l.create(); err != nil {
			return err
		}
	}
	if err := l.resume(st); err != nil {
		return err
	}
	return l.tidy(st)
}

// mayBeInUse says whether there is a lock file: then whoever holds it may be changing what examine has looked at.
func (l *Log) mayBeInUse() bool {
	_, err := l.fs.Stat(filepath.Join(l.dir, lockName))
	return err == nil
}

// create makes the first segment of a new log.
func (l *Log) create() (*state, error) {
	if err := l.fs.SyncDir(filepath.Dir(l.dir)); err != nil {
		return nil, fmt.Errorf("sync the folder around the journal: %w", err)
	}
	for i := 0; i < len(l.id); i += 8 {
		for j, r := 0, l.opts.random(); j < 8; j++ {
			l.id[i+j] = byte(r >> (8 * j))
		}
	}
	s, err := l.make(1)
	if err != nil {
		return nil, fmt.Errorf("make the first segment: %w", err)
	}
	s.close(true, false)
	return &state{active: s.fileHeader, size: s.size, tail: firstRecord, unsynced: firstRecord, clean: true}, nil
}

// resume makes the end of the log durable and free of what was torn, and goes on from there.
func (l *Log) resume(st *state) error {
	l.id, l.anchor = st.active.id, st.anchor
	l.active, l.off, l.records = segmentAt(l.dir, st.active, st.size), st.tail, st.records
	l.segs[l.active.number] = l.active
	if err := l.active.open(l.fs); err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	for i, e := range st.live {
		s := segmentAt(l.dir, st.headers[i], st.sizes[i])
		s.used = e.used
		l.live = append(l.live, s)
		l.segs[s.number] = s
	}
	l.out = l.active
	l.synced = at(l.active.number, st.unsynced)
	l.written = at(l.active.number, l.off)
	l.wrote.Store(uint64(st.last))
	l.safe.Store(uint64(st.last))
	if err := l.settle(st); err != nil {
		return err
	}
	return l.reopen(st)
}

// settle makes the end of the log durable.
func (l *Log) settle(st *state) error {
	if st.before > 0 {
		if err := l.settleBefore(st); err != nil {
			return err
		}
	}
	f, buf := l.active.file, make([]byte, min(readAhead, st.size))
	if err := rewrite(f, st.unsynced, st.tail, buf); err != nil {
		return err
	}
	if !st.clean {
		to, err := l.torn(f, st)
		if err == nil {
			err = cut(f, st.tail, to, buf)
		}
		if err != nil {
			return fmt.Errorf("cut end of journal: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync end of journal: %w", err)
	}
	l.synced = l.written
	return nil
}

// settleBefore makes the end of the segment before the active one durable.
func (l *Log) settleBefore(st *state) error {
	s := l.live[len(l.live)-1]
	if err := s.open(l.fs); err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	if err := rewrite(s.file, st.before, s.used, make([]byte, min(readAhead, s.size))); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync end of journal: %w", err)
	}
	return nil
}

// rewrite writes once more what is not known to be synced: pages that another process could not sync look as if they were.
func rewrite(f vfs.File, from, to int64, buf []byte) error {
	for off := from; off < to; {
		b := buf[:min(int64(len(buf)), to-off)]
		if err := vfs.ReadFull(f, b, off); err != nil {
			return fmt.Errorf("read end of journal: %w", err)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return fmt.Errorf("rewrite end of journal: %w", err)
		}
		off += int64(len(b))
	}
	return nil
}

// torn returns the offset before which the rest of a torn batch lies. All of it was written behind the last place that was synced, and
// no more than atRisk bytes. The record at the tail may have begun before that place, but if so its header was synced with it
// and tells where it was to end.
func (l *Log) torn(f vfs.File, st *state) (int64, error) {
	b := make([]byte, min(maxHeader, st.size-st.tail))
	if err := vfs.ReadFull(f, b, st.tail); err != nil {
		return 0, err
	}
	end := st.tail + maxHeader
	if h, ok := parseHeader(b); ok {
		end = max(end, st.tail+h.total())
	}
	return min(st.size, roundUp(end+l.opts.atRisk)), nil
}

// cut overwrites a part of a file with zeros: the rest of a torn batch must not be taken for the continuation of a new one. It does
// not look what is there: what a process before this one could not sync may read as zeros and not be.
func cut(f vfs.File, from, to int64, buf []byte) error {
	clear(buf)
	for off := from; off < to; off += int64(len(buf)) {
		if _, err := f.WriteAt(buf[:min(int64(len(buf)), to-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// reopen writes that the log goes on, so that it does not end with the mark of an orderly end, and thereby finds out whether
// it can be written at all.
func (l *Log) reopen(st *state) error {
	l.mu.Lock()
	if !st.started {
		l.begin()
	}
	if l.off+markSize+markSize+endSize <= l.active.size {
		l.mark()
	}
	l.mu.Unlock()
	l.commit()
	l.syncNow()
	return l.Err()
}

// tidy removes what a crash has left over and sees to it that there are segments ready.
func (l *Log) tidy(st *state) error {
	for _, name := range st.strays {
		if err := l.fs.Remove(filepath.Join(l.dir, name)); err != nil {
			return fmt.Errorf("remove what is left over from a crash: %w", err)
		}
	}
	if len(st.strays) > 0 {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return fmt.Errorf("sync journal folder: %w", err)
		}
	}
	for i, h := range st.ahead {
		s := segmentAt(l.dir, h, st.aheadSizes[i])
		if err := s.open(l.fs); err != nil {
			return fmt.Errorf("open journal segment: %w", err)
		}
		l.ready = append(l.ready, s)
	}
	l.prepare()
	return l.Err()
}
