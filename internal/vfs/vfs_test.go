package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// everywhere runs a test on both file systems.
func everywhere(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) { test(t, NewMem(), "/") })
}

func TestLock(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "LOCK")
		first, err := fsys.Lock(name, "process 7\n")
		if err != nil {
			t.Fatal(err)
		}
		_, err = fsys.Lock(name, "process 8\n")
		var held *LockedError
		if !errors.As(err, &held) || held.Note != "process 7" || held.Name != name {
			t.Fatalf("second lock: %v, want one held by process 7", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := fsys.Lock(name, "p 9\n")
		if err != nil {
			t.Fatalf("lock after it was given back: %v", err)
		}
		defer again.Close()
		if got := readAll(t, fsys, name); string(got) != "p 9\n" {
			t.Errorf("lock file holds %q", got)
		}
	})
}

func TestMkdirAll(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys FS, dir string) {
		deep := filepath.Join(dir, "a", "b", "c")
		for range 2 {
			if err := fsys.MkdirAll(deep); err != nil {
				t.Fatal(err)
			}
		}
		info, err := fsys.Stat(deep)
		if err != nil || !info.Mode.IsDir() || info.Mode.Perm() != 0o700 {
			t.Errorf("folder is %+v, %v; want one with 0700", info, err)
		}
		file := filepath.Join(dir, "f")
		mustOpen(t, fsys, file).Close()
		if err := fsys.MkdirAll(filepath.Join(file, "x")); err == nil {
			t.Error("a folder was made inside a file")
		}
	})
}

func TestPermissions(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	mustOpen(t, OS{}, name).Close()
	if info, err := (OS{}).Stat(name); err != nil || info.Mode.Perm() != 0o600 {
		t.Errorf("file is %+v, %v; want 0600", info, err)
	}
}

func TestSpace(t *testing.T) {
	free, total, err := OS{}.Space(t.TempDir())
	if err != nil || free <= 0 || total < free {
		t.Errorf("space is %d of %d, %v", free, total, err)
	}
}

// TestFill tests the way to reserve space of systems without a call for it.
func TestFill(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{3 << 20, 100} {
		if err := fill(f, size); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "abc\x00" {
		t.Errorf("file begins with %q, %v", b, err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 3<<20 {
		t.Errorf("file is %d bytes long, %v", info.Size(), err)
	}
}

func TestFaulty(t *testing.T) {
	broken := errors.New("broken")
	calls := map[Op]func(f *Faulty, file File) error{
		OpOpen:        func(f *Faulty, _ File) error { _, err := f.OpenFile("/a", os.O_RDONLY); return err },
		OpMkdir:       func(f *Faulty, _ File) error { return f.MkdirAll("/d") },
		OpReadDir:     func(f *Faulty, _ File) error { _, err := f.ReadDir("/"); return err },
		OpStat:        func(f *Faulty, _ File) error { _, err := f.Stat("/a"); return err },
		OpRename:      func(f *Faulty, _ File) error { return f.Rename("/a", "/a") },
		OpRemove:      func(f *Faulty, _ File) error { mustOpen(t, f.fs, "/r"); return f.Remove("/r") },
		OpSyncDir:     func(f *Faulty, _ File) error { return f.SyncDir("/") },
		OpLock:        func(f *Faulty, _ File) error { return closeLock(f.Lock("/l", "")) },
		OpRead:        func(_ *Faulty, file File) error { _, err := file.ReadAt(nil, 0); return err },
		OpWrite:       func(_ *Faulty, file File) error { _, err := file.WriteAt([]byte("abcd"), 0); return err },
		OpTruncate:    func(_ *Faulty, file File) error { return file.Truncate(10) },
		OpPreallocate: func(_ *Faulty, file File) error { return file.Preallocate(10) },
		OpSync:        func(_ *Faulty, file File) error { return file.Sync() },
	}
	for _, op := range Ops() {
		t.Run(op.String(), func(t *testing.T) {
			f := NewFaulty(NewMem())
			file := mustOpen(t, f, "/a")
			count := f.Calls(op)
			for i, fault := range []Fault{{}, {Op: op, Nth: 2, Err: broken}, {Nth: 3, Err: broken, Forever: true}} {
				f.Set(fault)
				for n := 1; n <= 4; n++ {
					err := calls[op](f, file)
					want := fault.Nth == n || fault.Forever && n > fault.Nth
					if errors.Is(err, broken) != want || err != nil && !want {
						t.Errorf("fault %d, call %d: %v", i, n, err)
					}
				}
			}
			if got := f.Calls(op) - count; got != 12 {
				t.Errorf("%d calls were counted, want 12", got)
			}
		})
	}
}

func closeLock(lock interface{ Close() error }, err error) error {
	if err != nil {
		return err
	}
	return lock.Close()
}

func TestShortWrite(t *testing.T) {
	f := NewFaulty(NewMem())
	file := mustOpen(t, f, "/a")
	f.Set(Fault{Op: OpWrite, Nth: 1, Err: syscall.ENOSPC, Short: true})
	n, err := file.WriteAt([]byte("abcdef"), 0)
	if n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("short write: %d, %v", n, err)
	}
	if got := readAll(t, f, "/a"); string(got) != "abc" {
		t.Errorf("it has written %q", got)
	}
}

func TestClosedFile(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, filepath.Join(dir, "a"))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("write to a closed file: %v", err)
		}
	})
}
