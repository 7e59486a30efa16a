package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// script is a random sequence of calls that is carried out on two file systems, and the answers of which must be equal.
type script struct {
	rng   *rand.Rand
	files map[string][2]File
}

// kind reduces an error to what both must agree on.
func kind(err error) string {
	if errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) {
		return "not open for that" // systems differ in which of the two
	}
	for _, known := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrClosed, io.EOF} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err != nil {
		return "other"
	}
	return ""
}

func (s *script) name() string { return string('a' + rune(s.rng.IntN(4))) }

// step makes one call on a system and tells what came of it.
func (s *script) steps() (desc string, call func(i int, fsys FS, dir string) string) {
	name, other := s.name(), s.name()
	off, data := int64(s.rng.IntN(3000)), make([]byte, s.rng.IntN(1500))
	for i := range data {
		data[i] = byte(s.rng.Uint32())
	}
	flag := []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_RDWR | os.O_CREATE | os.O_EXCL, os.O_RDWR | os.O_CREATE | os.O_TRUNC}[s.rng.IntN(5)]
	file := s.files[name]
	onFile := func(f func(File) string) func(int, FS, string) string {
		return func(i int, _ FS, _ string) string {
			if file[i] == nil {
				return "not open"
			}
			return f(file[i])
		}
	}
	switch s.rng.IntN(11) {
	case 0, 1:
		return fmt.Sprintf("open %s %x", name, flag), func(i int, fsys FS, dir string) string {
			f, err := fsys.OpenFile(filepath.Join(dir, name), flag)
			if err == nil {
				both := s.files[name]
				if i == 0 {
					both = [2]File{}
				}
				both[i] = f
				s.files[name] = both
			}
			return kind(err)
		}
	case 2, 3, 4:
		return fmt.Sprintf("write %s %d bytes at %d", name, len(data), off), onFile(func(f File) string {
			n, err := f.WriteAt(data, off)
			return fmt.Sprint(n, kind(err))
		})
	case 5, 6:
		return fmt.Sprintf("read %s %d bytes at %d", name, len(data), off), onFile(func(f File) string {
			b := make([]byte, len(data))
			n, err := f.ReadAt(b, off)
			return fmt.Sprintf("%d %x %s", n, b[:n], kind(err))
		})
	case 7:
		return fmt.Sprintf("truncate %s %d", name, off), onFile(func(f File) string { return kind(f.Truncate(off)) })
	case 8:
		return fmt.Sprintf("preallocate %s %d", name, off), onFile(func(f File) string {
			err := f.Preallocate(off + 1)
			size, _ := f.Size()
			return fmt.Sprint(size, kind(err))
		})
	case 9:
		return fmt.Sprintf("rename %s %s", name, other), func(_ int, fsys FS, dir string) string {
			return kind(fsys.Rename(filepath.Join(dir, name), filepath.Join(dir, other)))
		}
	default:
		return "remove " + name, func(_ int, fsys FS, dir string) string { return kind(fsys.Remove(filepath.Join(dir, name))) }
	}
}

// contents lists everything in a folder.
func contents(t *testing.T, fsys FS, dir string) string {
	t.Helper()
	all, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, info := range all {
		again, err := fsys.Stat(filepath.Join(dir, info.Name))
		if err != nil || again.Size != info.Size {
			t.Fatalf("stat %s: %+v, %v; listed as %+v", info.Name, again, err, info)
		}
		fmt.Fprintf(&out, "%s %x\n", info.Name, readAll(t, fsys, filepath.Join(dir, info.Name)))
	}
	return out.String()
}

func readAll(t *testing.T, fsys FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if err := ReadFull(f, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMemIsLikeOS runs random scripts on the real file system and on the one in memory.
func TestMemIsLikeOS(t *testing.T) {
	for seed := range uint64(100) {
		mem, dir := NewMem(), t.TempDir()
		if err := mem.MkdirAll("/x/y"); err != nil {
			t.Fatal(err)
		}
		systems, dirs := [2]FS{OS{}, mem}, [2]string{dir, "/x/y"}
		s := &script{rng: rand.New(rand.NewPCG(seed, 0)), files: make(map[string][2]File)}
		for i := range 150 {
			desc, call := s.steps()
			want := call(0, systems[0], dirs[0])
			if got := call(1, systems[1], dirs[1]); got != want {
				t.Fatalf("seed %d, step %d, %s: memory says %.200q, the system %.200q", seed, i, desc, got, want)
			}
		}
		if got, want := contents(t, mem, "/x/y"), contents(t, OS{}, dir); got != want {
			t.Fatalf("seed %d: memory ends with\n%.500s\nthe system with\n%.500s", seed, got, want)
		}
		for _, both := range s.files {
			both[0].Close()
		}
	}
}

func mustOpen(t *testing.T, fsys FS, name string) File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustWrite(t *testing.T, f File, b []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestCrashKeepsWhatWasSynced wants each sector to be one that was written, and the synced ones untouched.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	mem := NewMem()
	f := mustOpen(t, mem, "/a")
	mustWrite(t, f, bytes.Repeat([]byte{1}, 4*SectorSize), 0)
	if err := errors.Join(f.Sync(), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, bytes.Repeat([]byte{2}, 2*SectorSize), SectorSize/2) // touches sectors 0, 1 and 2
	mustWrite(t, f, bytes.Repeat([]byte{3}, SectorSize), SectorSize)     // sector 1

	outcomes := make(map[string]bool)
	for seed := range uint64(1000) {
		b := readAll(t, mem.Crash(seed), "/a")
		if len(b) != 4*SectorSize || !bytes.Equal(b[3*SectorSize:], bytes.Repeat([]byte{1}, SectorSize)) {
			t.Fatalf("seed %d: a synced sector has changed", seed)
		}
		for i, allowed := range [][]string{{"11", "12"}, {"11", "22", "33"}, {"11", "21"}} {
			sector := b[i*SectorSize : (i+1)*SectorSize]
			got := fmt.Sprint(sector[0], sector[SectorSize-1])
			ok := false
			for _, a := range allowed {
				ok = ok || got == fmt.Sprintf("%c %c", a[0], a[1])
			}
			if !ok {
				t.Fatalf("seed %d: sector %d is %s, which it never was", seed, i, got)
			}
		}
		outcomes[fmt.Sprint(b[SectorSize-1], b[SectorSize], b[2*SectorSize])] = true
	}
	if len(outcomes) != 2*3*2 {
		t.Errorf("1000 crashes had %d of 12 outcomes: sectors are not independent", len(outcomes))
	}
	if got := readAll(t, mem, "/a"); got[SectorSize] != 3 {
		t.Errorf("the crash has changed the original")
	}
}

// TestCrashNames wants names that were not synced to be old or new.
func TestCrashNames(t *testing.T) {
	mem := NewMem()
	for _, name := range []string{"/old", "/gone"} {
		f := mustOpen(t, mem, name)
		mustWrite(t, f, []byte(name), 0)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mem.Rename("/old", "/new"), mem.Remove("/gone")); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for seed := range uint64(200) {
		seen[contents(t, mem.Crash(seed), "/")]++
	}
	if len(seen) != 8 {
		t.Errorf("200 crashes had %d of 8 outcomes: %v", len(seen), seen)
	}
	if err := mem.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(50) {
		if got, want := contents(t, mem.Crash(seed), "/"), contents(t, mem, "/"); got != want {
			t.Fatalf("seed %d: after a sync of the folder it holds %q, want %q", seed, got, want)
		}
	}
}

// TestClone wants a copy that holds the same, and forgets the same in a crash.
func TestClone(t *testing.T) {
	mem := NewMem()
	f := mustOpen(t, mem, "/a")
	mustWrite(t, f, bytes.Repeat([]byte{1}, 2000), 0)
	if err := errors.Join(f.Sync(), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, bytes.Repeat([]byte{2}, 2000), 500)
	if err := mem.Rename("/a", "/b"); err != nil {
		t.Fatal(err)
	}
	clone := mem.Clone()
	if got, want := contents(t, clone, "/"), contents(t, mem, "/"); got != want {
		t.Fatalf("the copy holds %q, want %q", got, want)
	}
	for seed := range uint64(50) {
		if got, want := contents(t, clone.Crash(seed), "/"), contents(t, mem.Crash(seed), "/"); got != want {
			t.Fatalf("seed %d: the copy loses %q, the original %q", seed, got, want)
		}
	}
	mustWrite(t, mustOpen(t, clone, "/b"), []byte{9}, 0)
	if got := readAll(t, mem, "/b"); got[0] != 1 {
		t.Error("writing to the copy has changed the original")
	}
}

// TestForgetDirty wants a later Sync to be of no use, and writing again to be.
func TestForgetDirty(t *testing.T) {
	mem := NewMem()
	f := mustOpen(t, mem, "/a")
	mustWrite(t, f, bytes.Repeat([]byte{1}, 2*SectorSize), 0)
	if err := errors.Join(f.Sync(), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, bytes.Repeat([]byte{2}, 2*SectorSize), 0)
	mem.ForgetDirty("/a")
	mustWrite(t, f, bytes.Repeat([]byte{2}, SectorSize), SectorSize)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if b := readAll(t, mem, "/a"); b[0] != 2 || b[SectorSize] != 2 {
		t.Errorf("the file reads as %d, %d; want 2, 2", b[0], b[SectorSize])
	}
	if b := readAll(t, mem.Clone().Crash(1), "/a"); b[0] != 1 || b[SectorSize] != 2 {
		t.Errorf("after a crash it reads as %d, %d; want 1, 2", b[0], b[SectorSize])
	}
}

// TestCrashSize wants the length of a file to be one that it had.
func TestCrashSize(t *testing.T) {
	mem := NewMem()
	f := mustOpen(t, mem, "/a")
	if err := errors.Join(f.Truncate(5000), f.Sync(), mem.SyncDir("/"), f.Truncate(100), f.Preallocate(9000)); err != nil {
		t.Fatal(err)
	}
	seen := make(map[int64]bool)
	for seed := range uint64(100) {
		info, err := mem.Crash(seed).Stat("/a")
		if err != nil {
			t.Fatal(err)
		}
		seen[info.Size] = true
	}
	if len(seen) != 3 || !seen[5000] || !seen[100] || !seen[9000] {
		t.Errorf("sizes after a crash are %v, want 100, 5000 and 9000", seen)
	}
}

func TestMemCapacity(t *testing.T) {
	mem := NewMem()
	mem.SetCapacity(1000)
	f := mustOpen(t, mem, "/a")
	if err := f.Preallocate(900); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 200), 900); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing beyond the disk: %v, want ENOSPC", err)
	}
	mustWrite(t, f, make([]byte, 900), 0)
	if free, total, err := mem.Space("/"); free != 100 || total != 1000 || err != nil {
		t.Errorf("space is %d of %d, %v; want 100 of 1000", free, total, err)
	}
	if err := mem.Remove("/a"); err != nil {
		t.Fatal(err)
	}
	if free, _, _ := mem.Space("/"); free != 1000 {
		t.Errorf("%d bytes are free when nothing is there, want 1000", free)
	}
}

func TestMemReadOnly(t *testing.T) {
	mem := NewMem()
	mustOpen(t, mem, "/a")
	mem.SetReadOnly(true)
	_, open := mem.OpenFile("/b", os.O_RDWR|os.O_CREATE)
	_, lock := mem.Lock("/a", "")
	for what, err := range map[string]error{"open": open, "lock": lock, "remove": mem.Remove("/a"), "rename": mem.Rename("/a", "/b"), "mkdir": mem.MkdirAll("/d")} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	if _, err := mem.OpenFile("/a", os.O_RDONLY); err != nil {
		t.Errorf("open for reading: %v", err)
	}
}
