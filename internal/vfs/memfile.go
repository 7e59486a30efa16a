package vfs

import (
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// inode is the contents of a file: what it holds now, and what each sector and the size were since the last Sync.
type inode struct {
	data  []byte // at least size long; zero behind size
	size  int64
	old   map[int64][][]byte // former contents by sector number, oldest first: the first is what was synced
	sizes []int64            // former sizes, oldest first
	lost  map[int64]bool     // sectors that a failed Sync has left marked as clean: a later Sync does not write them
}

// write replaces bytes, and remembers the sectors as they were.
func (n *inode) write(b []byte, off int64) {
	if len(b) == 0 {
		return
	}
	end := off + int64(len(b))
	n.grow(max(end, n.size))
	n.remember(off, end)
	copy(n.data[off:], b)
}

// grow lengthens the file with zeros.
func (n *inode) grow(size int64) {
	if size == n.size {
		return
	}
	n.sizes = append(n.sizes, n.size)
	if missing := size - int64(len(n.data)); missing > 0 {
		n.data = append(n.data, make([]byte, missing)...)
	}
	n.size = size
}

// resize cuts or lengthens the file.
func (n *inode) resize(size int64) {
	if size >= n.size {
		n.grow(size)
		return
	}
	n.remember(size, n.size)
	clear(n.data[size:])
	n.sizes = append(n.sizes, n.size)
	n.size = size
}

// remember keeps what the sectors that touch [from, to) hold now.
func (n *inode) remember(from, to int64) {
	for s := from / SectorSize; s*SectorSize < to; s++ {
		sector := n.data[s*SectorSize : min((s+1)*SectorSize, int64(len(n.data)))]
		n.old[s] = append(n.old[s], slices.Clone(sector))
		delete(n.lost, s)
	}
}

// sync forgets the past, except of what it believes to be written.
func (n *inode) sync() {
	maps.DeleteFunc(n.old, func(s int64, _ [][]byte) bool { return !n.lost[s] })
	n.sizes = nil
}

// forget marks what is not synced as clean.
func (n *inode) forget() {
	n.lost = make(map[int64]bool)
	for s := range n.old {
		n.lost[s] = true
	}
}

func (n *inode) clone() *inode {
	old := make(map[int64][][]byte, len(n.old))
	for s, past := range n.old {
		old[s] = slices.Clone(past) // the sectors in it never change
	}
	return &inode{data: slices.Clone(n.data), size: n.size, old: old, sizes: slices.Clone(n.sizes), lost: maps.Clone(n.lost)}
}

// crash returns what is left of the file: each sector and the size as they were at some moment since the last Sync.
func (n *inode) crash(rng *rand.Rand) *inode {
	after := &inode{old: make(map[int64][][]byte)}
	sizes := append(slices.Clone(n.sizes), n.size)
	after.size = sizes[rng.IntN(len(sizes))]
	after.data = make([]byte, max(after.size, int64(len(n.data))))
	copy(after.data, n.data)
	odds := rng.IntN(4) // sometimes nearly all is written, sometimes nearly nothing
	for _, s := range sorted(n.old) {
		past := n.old[s]
		if rng.IntN(4) < odds && !n.lost[s] {
			continue // the newest
		}
		sector := after.data[s*SectorSize : min((s+1)*SectorSize, int64(len(after.data)))]
		clear(sector)
		if n.lost[s] {
			copy(sector, past[0])
		} else {
			copy(sector, past[rng.IntN(len(past))])
		}
	}
	clear(after.data[after.size:])
	return after
}

func sorted(m map[int64][][]byte) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// memFile is a file of [Mem] that somebody has opened.
type memFile struct {
	mem      *Mem
	inode    *inode
	name     string
	writable bool
	closed   bool // guarded by mem.mu
}

// use locks the file system and runs f, unless the file cannot be used.
func (f *memFile) use(op string, write bool, run func(*inode) error) error {
	f.mem.mu.Lock()
	defer f.mem.mu.Unlock()
	err := errClosed
	if !f.closed {
		if err = syscall.EBADF; !write || f.writable {
			err = run(f.inode)
		}
	}
	if err != nil && err != io.EOF {
		return fail(op, f.name, err)
	}
	return err
}

func (f *memFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.use("read", false, func(file *inode) error {
		if off < 0 {
			return syscall.EINVAL
		}
		if off < file.size {
			n = copy(b, file.data[off:file.size])
		}
		if n < len(b) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (f *memFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.use("write", true, func(file *inode) error {
		if off < 0 {
			return syscall.EINVAL
		}
		if err := f.mem.room(file, off+int64(len(b))); err != nil {
			return err
		}
		file.write(b, off)
		n = len(b)
		return nil
	})
	return n, err
}

func (f *memFile) Size() (size int64, err error) {
	err = f.use("stat", false, func(file *inode) error { size = file.size; return nil })
	return size, err
}

func (f *memFile) Truncate(size int64) error {
	return f.use("truncate", true, func(file *inode) error {
		if size < 0 {
			return syscall.EINVAL
		}
		if err := f.mem.room(file, size); err != nil {
			return err
		}
		file.resize(size)
		return nil
	})
}

func (f *memFile) Preallocate(size int64) error {
	return f.use("fallocate", true, func(file *inode) error {
		if size <= 0 {
			return syscall.EINVAL
		}
		if err := f.mem.room(file, size); err != nil {
			return err
		}
		file.grow(max(size, file.size))
		return nil
	})
}

func (f *memFile) Sync() error {
	return f.use("fdatasync", false, func(file *inode) error { file.sync(); return nil })
}

func (f *memFile) Close() error {
	return f.use("close", false, func(*inode) error { f.closed = true; return nil })
}
