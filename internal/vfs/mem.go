package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows what a power loss would leave of it: see [Mem.Crash]. Folders are durable as
// soon as they are made. Make one with [NewMem].
type Mem struct {
	mu       sync.Mutex // guards all below, the inodes included
	dirs     map[string]bool
	names    map[string]*inode
	unsynced map[string][]*inode // what names stood for since their folder was synced, oldest first; nil is nothing
	locks    map[string]string
	capacity int64 // bytes; zero is no limit
	readOnly bool
}

// NewMem returns an empty file system with the root folder and the working directory.
func NewMem() *Mem {
	return &Mem{
		dirs:     map[string]bool{"/": true, ".": true},
		names:    make(map[string]*inode),
		unsynced: make(map[string][]*inode),
		locks:    make(map[string]string),
	}
}

// SetCapacity limits the sum of all file sizes to n bytes; more is ENOSPC. Zero is no limit.
func (m *Mem) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// SetReadOnly makes every change an error, or allows changes again. Files that are open stay as they are.
func (m *Mem) SetReadOnly(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.readOnly = on
}

// changing says whether something may be changed.
func (m *Mem) changing(op, name string) error {
	if m.readOnly {
		return fail(op, name, syscall.EROFS)
	}
	return nil
}

// Crash returns what a power loss at this moment leaves: everything synced, and of the rest what the seed decides. The
// original is not touched. The copy has no locks and no open files.
func (m *Mem) Crash(seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 0))
	after := NewMem()
	after.dirs, after.capacity = maps.Clone(m.dirs), m.capacity
	survivors := make(map[*inode]*inode) // two names of one file stay one file
	for _, name := range m.everyName() {
		choices := append(slices.Clone(m.unsynced[name]), m.names[name])
		file := choices[rng.IntN(len(choices))]
		if file == nil {
			continue
		}
		if survivors[file] == nil {
			survivors[file] = file.crash(rng)
		}
		after.names[name] = survivors[file]
	}
	return after
}

// Clone returns a copy in the state in which the end of all processes would leave the original: nothing is lost, and what was
// not synced can still be lost by a power loss. The copy has no locks and no open files.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	clones := make(map[*inode]*inode)
	clone := func(file *inode) *inode {
		if file != nil && clones[file] == nil {
			clones[file] = file.clone()
		}
		return clones[file]
	}
	after := NewMem()
	after.dirs, after.capacity, after.readOnly = maps.Clone(m.dirs), m.capacity, m.readOnly
	for name, file := range m.names {
		after.names[name] = clone(file)
	}
	for name, past := range m.unsynced {
		for _, file := range past {
			after.unsynced[name] = append(after.unsynced[name], clone(file))
		}
	}
	return after
}

// ForgetDirty does what Linux does to a file that it could not sync: what was written can be read, and counts as clean. A
// power loss takes it, also after a later Sync that has nothing to say, unless it was written again in between.
func (m *Mem) ForgetDirty(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if file := m.names[filepath.Clean(name)]; file != nil {
		file.forget()
	}
}

// everyName lists all names that exist or may have existed, sorted so that a seed means one outcome.
func (m *Mem) everyName() []string {
	all := maps.Clone(m.unsynced)
	for name := range m.names {
		all[name] = nil
	}
	return slices.Sorted(maps.Keys(all))
}

// bind lets a name stand for a file, or for nothing, and remembers what it stood for.
func (m *Mem) bind(name string, file *inode) {
	m.unsynced[name] = append(m.unsynced[name], m.names[name])
	if file == nil {
		delete(m.names, name)
	} else {
		m.names[name] = file
	}
}

// OpenFile implements [FS].
func (m *Mem) OpenFile(name string, flag int) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	file := m.names[name]
	writable := flag&(os.O_RDWR|os.O_WRONLY) != 0
	switch {
	case m.dirs[name]:
		return nil, fail("open", name, syscall.EISDIR)
	case m.readOnly && (writable || file == nil && flag&os.O_CREATE != 0):
		return nil, fail("open", name, syscall.EROFS)
	case !m.dirs[filepath.Dir(name)]:
		return nil, fail("open", name, fs.ErrNotExist)
	case file == nil && flag&os.O_CREATE == 0:
		return nil, fail("open", name, fs.ErrNotExist)
	case file != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, fail("open", name, fs.ErrExist)
	case file == nil:
		file = &inode{old: make(map[int64][][]byte)}
		m.bind(name, file)
	}
	if flag&os.O_TRUNC != 0 {
		file.resize(0)
	}
	return &memFile{mem: m, inode: file, name: name, writable: writable}, nil
}

// MkdirAll implements [FS].
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := filepath.Clean(dir); !m.dirs[at]; at = filepath.Dir(at) {
		if err := m.changing("mkdir", at); err != nil {
			return err
		}
		if m.names[at] != nil {
			return fail("mkdir", at, syscall.ENOTDIR)
		}
		m.dirs[at] = true
	}
	return nil
}

// ReadDir implements [FS].
func (m *Mem) ReadDir(dir string) ([]Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	if !m.dirs[dir] {
		return nil, fail("open", dir, fs.ErrNotExist)
	}
	var all []Info
	for name := range m.dirs {
		if filepath.Dir(name) == dir && name != dir {
			all = append(all, Info{Name: filepath.Base(name), Mode: fs.ModeDir | 0o700})
		}
	}
	for name, file := range m.names {
		if filepath.Dir(name) == dir {
			all = append(all, Info{Name: filepath.Base(name), Size: file.size, Mode: 0o600})
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Stat implements [FS].
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.dirs[name] {
		return Info{Name: filepath.Base(name), Mode: fs.ModeDir | 0o700}, nil
	}
	file := m.names[name]
	if file == nil {
		return Info{}, fail("stat", name, fs.ErrNotExist)
	}
	return Info{Name: filepath.Base(name), Size: file.size, Mode: 0o600}, nil
}

// Rename implements [FS].
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, to = filepath.Clean(from), filepath.Clean(to)
	file := m.names[from]
	if file == nil || !m.dirs[filepath.Dir(to)] {
		return fail("rename", from, fs.ErrNotExist)
	}
	if err := m.changing("rename", from); err != nil || from == to {
		return err
	}
	m.bind(to, file)
	m.bind(from, nil)
	return nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.names[name] == nil {
		return fail("remove", name, fs.ErrNotExist)
	}
	if err := m.changing("remove", name); err != nil {
		return err
	}
	m.bind(name, nil)
	return nil
}

// SyncDir implements [FS].
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	if !m.dirs[dir] {
		return fail("open", dir, fs.ErrNotExist)
	}
	maps.DeleteFunc(m.unsynced, func(name string, _ []*inode) bool { return filepath.Dir(name) == dir })
	return nil
}

// Lock implements [FS].
func (m *Mem) Lock(name, note string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if held, ok := m.locks[name]; ok {
		return nil, &LockedError{Name: name, Note: strings.TrimSpace(held)}
	}
	m.locks[name] = note
	if note != "" {
		file := f.(*memFile).inode
		file.resize(0)
		file.write([]byte(note), 0)
	}
	return &memLock{mem: m, name: name}, nil
}

type memLock struct {
	mem  *Mem
	name string
	once sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.mem.mu.Lock()
		defer l.mem.mu.Unlock()
		delete(l.mem.locks, l.name)
	})
	return nil
}

// Space implements [FS].
func (m *Mem) Space(string) (free, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity == 0 {
		return 1 << 40, 1 << 40, nil
	}
	return max(0, m.capacity-m.used()), m.capacity, nil
}

// used sums the sizes of all files that have a name.
func (m *Mem) used() (n int64) {
	seen := make(map[*inode]bool)
	for _, file := range m.names {
		if !seen[file] {
			n += file.size
		}
		seen[file] = true
	}
	return n
}

// room says whether a file may grow to size.
func (m *Mem) room(file *inode, size int64) error {
	if m.capacity != 0 && size > file.size && m.used()+size-file.size > m.capacity {
		return syscall.ENOSPC
	}
	return nil
}

func fail(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }
