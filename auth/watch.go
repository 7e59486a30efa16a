package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxFile bounds what is read of any one file.
const maxFile = 256 << 20

// settle is how old a modification time must be before it is trusted: two writes within one tick of a coarse file
// system clock leave the same time and perhaps the same size.
const settle = 2 * time.Second

// Reloader is something made from a file that can be made again. [PasswordFile], [ACLFile] and [JWT] are Reloaders.
type Reloader interface {
	// Path returns the file's name as it was given.
	Path() string
	// Reload reads the file now. On error, what was in force stays in force.
	Reload() error
	// Poll reads the file if it seems to have changed since it was last read, and reports whether its content was new
	// and good. A fault is returned once, not again until the file changes.
	Poll() (changed bool, err error)
}

// source keeps the parsed content of one file.
type source[T any] struct {
	path  string
	parse func(path string, data []byte) (T, error)

	current atomic.Pointer[loaded[T]] // read without the lock

	mu     sync.Mutex // guards all below; held while the file is read
	seen   stamp
	digest [sha256.Size]byte // of what was last read, good or not
}

// loaded is a value or the reason why there is none.
type loaded[T any] struct {
	value T
	err   error
}

// openSource reads the file for the first time. The source is usable in any case.
func openSource[T any](path string, parse func(string, []byte) (T, error)) (*source[T], error) {
	s := &source[T]{path: path, parse: parse}
	var none T
	s.current.Store(&loaded[T]{value: none, err: fmt.Errorf("%s was not read", path)})
	err := s.Reload()
	return s, err
}

// Path returns the file's name as it was given.
func (s *source[T]) Path() string { return s.path }

// value returns what is in force, or why nothing is. It does not block.
func (s *source[T]) value() (T, error) {
	l := s.current.Load()
	return l.value, l.err
}

// Reload reads the file now. On error, what was in force stays in force.
func (s *source[T]) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.read()
	return err
}

// Poll reads the file if it seems to have changed; see [Reloader].
func (s *source[T]) Poll() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := stampOf(s.path)
	if now.same(&s.seen) && s.seen.settled {
		return false, nil
	}
	before := s.digest
	changed, err = s.read()
	if s.digest == before {
		return false, nil // the same content, or the same fault, as last time
	}
	return changed, err
}

// read parses the file and puts it in force if it is good.
func (s *source[T]) read() (good bool, err error) {
	s.seen = stampOf(s.path) // before reading, so that a write in between is seen as a change
	data, err := readAll(s.path)
	if err != nil {
		s.digest = sha256.Sum256([]byte("unreadable"))
		return false, s.fail(err)
	}
	s.digest = sha256.Sum256(data)
	value, err := s.parse(s.path, data)
	if err != nil {
		return false, s.fail(err)
	}
	s.current.Store(&loaded[T]{value: value})
	return true, nil
}

// fail keeps the last good content in force; without any, the fault is.
func (s *source[T]) fail(err error) error {
	if s.current.Load().err != nil {
		s.current.Store(&loaded[T]{err: err})
	}
	return err
}

func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB", path, maxFile>>20)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// stamp is what the file system says about a file without reading it.
type stamp struct {
	info    os.FileInfo // nil when there is no file
	settled bool        // the modification time can be trusted
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{settled: true}
	}
	return stamp{info: info, settled: time.Since(info.ModTime()) > settle}
}

func (s *stamp) same(o *stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

// Watcher reads files again when they change. Polling is deliberate: it works on every file system, through symbolic
// links and renames, where notifications do not.
type Watcher struct {
	Files    []Reloader
	Interval time.Duration // between looks; zero means one second
	// OnChange runs after a round in which at least one file brought something new. The owner calls the broker's
	// Reauthorize here. May be nil.
	OnChange func()
	// OnError hears each fault once. The last good content stays in force. May be nil.
	OnError func(path string, err error)
}

// Run looks at the files until ctx is done. Its goroutine is the caller's; the callbacks run on it.
func (w *Watcher) Run(ctx context.Context) {
	interval := w.Interval
	if interval <= 0 {
		interval = time.Second
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

func (w *Watcher) look() {
	var any bool
	for _, f := range w.Files {
		changed, err := f.Poll()
		any = any || changed
		if err != nil && w.OnError != nil {
			w.OnError(f.Path(), err)
		}
	}
	if any && w.OnChange != nil {
		w.OnChange()
	}
}

// Reload reads every file now, whether it changed or not, as for SIGHUP, and then calls OnChange. It returns all faults
// together; the files that have none are in force.
func (w *Watcher) Reload() error {
	var errs []error
	for _, f := range w.Files {
		if err := f.Reload(); err != nil {
			errs = append(errs, err)
		}
	}
	if w.OnChange != nil {
		w.OnChange()
	}
	return errors.Join(errs...)
}
