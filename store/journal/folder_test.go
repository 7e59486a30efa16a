package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
)

// snapshot lists what is in the folder but for the lock file.
func snapshot(t *testing.T, mem *vfs.Mem) string {
	t.Helper()
	all, err := mem.ReadDir(testDir)
	if err != nil {
		return ""
	}
	var out strings.Builder
	for _, info := range all {
		if info.Name == lockName || info.Mode.IsDir() {
			continue
		}
		f, err := mem.OpenFile(filepath.Join(testDir, info.Name), os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, info.Size)
		if err := vfs.ReadFull(f, b, 0); err != nil {
			t.Fatal(err)
		}
		out.WriteString(info.Name + "\n" + string(b) + "\n")
	}
	return out.String()
}

func put(t *testing.T, mem *vfs.Mem, name string, data []byte) {
	t.Helper()
	f, err := mem.OpenFile(filepath.Join(testDir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedFolders wants one clear line about each folder that cannot be used, and nothing in it changed.
func TestRefusedFolders(t *testing.T) {
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	tests := []struct {
		name   string
		spoil  func(t *testing.T, mem *vfs.Mem)
		is     func(error) bool
		advice string // part of the text
	}{
		{"another broker's", func(t *testing.T, mem *vfs.Mem) {
			empty(t, mem)
			put(t, mem, "mosquitto.db", []byte("x"))
		}, is(new(*ForeignError)), "magpie import mosquitto"},
		{"of something else", func(t *testing.T, mem *vfs.Mem) {
			empty(t, mem)
			put(t, mem, "notes.txt", []byte("x"))
		}, is(new(*ForeignError)), "an empty folder"},
		{"another broker's under our name", func(t *testing.T, mem *vfs.Mem) {
			empty(t, mem)
			put(t, mem, fileName(1), make([]byte, 100_000))
		}, is(new(*DamageError)), "salvage"},
		{"a newer version", func(t *testing.T, mem *vfs.Mem) {
			h := fileHeader{version: FormatVersion + 1, number: 9}
			put(t, mem, fileName(9), append(h.page(), make([]byte, minSegment-page)...))
		}, is(new(*VersionError)), "a newer one"},
		{"a segment of another log", func(t *testing.T, mem *vfs.Mem) {
			other := build(t, 77, 60, true)
			put(t, mem, fileName(2), fileBytes(t, other.mem, 2))
		}, is(new(*ForeignError)), "the one it had"},
		{"half copied", func(t *testing.T, mem *vfs.Mem) {
			if err := mem.Remove(filepath.Join(testDir, fileName(2))); err != nil {
				t.Fatal(err)
			}
		}, is(new(*MissingError)), "copy it again"},
		{"a file copied in part", func(t *testing.T, mem *vfs.Mem) {
			f, err := mem.OpenFile(filepath.Join(testDir, fileName(2)), os.O_RDWR)
			if err == nil {
				err = f.Truncate(page + 100)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, is(new(*DamageError)), "copy it again"},
		{"only the last segments copied", func(t *testing.T, mem *vfs.Mem) {
			ahead := fileBytes(t, mem, lastFile(t, mem))
			number := lastFile(t, mem)
			empty(t, mem)
			put(t, mem, fileName(number), ahead)
		}, is(new(*MissingError)), "copy it again"},
		{"read-only", func(_ *testing.T, mem *vfs.Mem) { mem.SetReadOnly(true) }, is(new(*AccessError)), "writable"},
		{"read-only and new", func(t *testing.T, mem *vfs.Mem) { empty(t, mem); mem.SetReadOnly(true) }, is(new(*AccessError)), "writable"},
		{"full and new", func(t *testing.T, mem *vfs.Mem) { empty(t, mem); mem.SetCapacity(minSegment / 2) }, is(new(*FullError)), "no space"},
		{"in use", func(t *testing.T, mem *vfs.Mem) {
			if _, err := mem.Lock(filepath.Join(testDir, lockName), "process 42\n"); err != nil {
				t.Fatal(err)
			}
		}, is(new(*LockedError)), "process 42"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := build(t, 9, 60, true)
			test.spoil(t, b.mem)
			before := snapshot(t, b.mem)
			_, err := Open(b.mem, testDir, b.opts)
			if !test.is(err) || !strings.Contains(err.Error(), test.advice) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v", err)
			}
			if after := snapshot(t, b.mem); after != before {
				t.Errorf("the folder was changed: %d bytes before, %d after", len(before), len(after))
			}
		})
	}
}

// empty removes all files.
func empty(t *testing.T, mem *vfs.Mem) {
	t.Helper()
	all, err := mem.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if err := mem.Remove(filepath.Join(testDir, info.Name)); err != nil {
			t.Fatal(err)
		}
	}
}

func lastFile(t *testing.T, mem *vfs.Mem) (last uint32) {
	t.Helper()
	all, err := mem.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if n, ok := parseName(info.Name); ok {
			last = max(last, n)
		}
	}
	return last
}

func fileBytes(t *testing.T, mem *vfs.Mem, number uint32) []byte {
	t.Helper()
	f, err := mem.OpenFile(filepath.Join(testDir, fileName(number)), os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if err := vfs.ReadFull(f, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOneProcess wants the second opening of a folder to name the first, on the real file system.
func TestOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "journal")
	l, err := Open(vfs.OS{}, dir, Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, err := Open(vfs.OS{}, dir, Options{}); !errors.As(err, &locked) || !strings.HasPrefix(locked.Holder, "process ") {
		t.Errorf("second opening: %v", err)
	}
	if _, err := Check(vfs.OS{}, dir, nil); !errors.As(err, &locked) {
		t.Errorf("check of a log that is open: %v", err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder is %v, %v", info.Mode(), err)
	}
	file, err := os.Stat(filepath.Join(dir, fileName(1)))
	if err != nil || file.Mode().Perm() != 0o600 || file.Size() != minSegment {
		t.Errorf("segment is %v, %v", file, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if report, err := Check(vfs.OS{}, dir, nil); err != nil || !report.Whole() {
		t.Errorf("check after Close: %+v, %v", report, err)
	}
}

// TestOtherFilesAreLeftAlone wants files that are not ours to survive in a folder that is.
func TestOtherFilesAreLeftAlone(t *testing.T) {
	b := build(t, 10, 60, false)
	for _, name := range []string{"README", "x.seg", "0000000A.seg", "00000000.seg", "00000001.seg.bak", "zzzzzzzz.old", ".hidden"} {
		put(t, b.mem, name, []byte("keep me"))
	}
	put(t, b.mem, fileName(7)+newSuffix, []byte("left over"))
	put(t, b.mem, "00000001"+oldSuffix, []byte("left over"))
	l := mustOpenLog(t, b.mem, b.opts)
	defer abandon(l)
	names := snapshot(t, b.mem)
	if strings.Count(names, "keep me") != 7 || strings.Contains(names, "left over") {
		t.Errorf("the folder holds %.2000q", names)
	}
}

func TestBadOptions(t *testing.T) {
	for _, size := range []int64{1, minSegment - 1, maxSegment + 1, -5} {
		if _, err := Open(vfs.NewMem(), testDir, Options{SegmentSize: size}); err == nil {
			t.Errorf("a segment size of %d was taken", size)
		}
	}
}

// TestNoAccess wants the reason to be told when a file cannot be opened, by whom, and nothing about writing it.
func TestNoAccess(t *testing.T) {
	for k := 1; k <= 3; k++ {
		b := build(t, 9, 60, true)
		faulty := vfs.NewFaulty(b.mem)
		faulty.Set(vfs.Fault{Op: vfs.OpOpen, Nth: k, Err: os.ErrPermission})
		var access *AccessError
		if _, err := Open(faulty, testDir, b.opts); !errors.As(err, &access) || !strings.Contains(err.Error(), "readable and writable") {
			t.Errorf("open %d: %v", k, err)
		}
	}
}

// TestNotAFolder wants a file in the place of the folder to be called one.
func TestNotAFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(dir, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, filepath.Join(dir, "below")} {
		var foreign *ForeignError
		if _, err := Open(vfs.OS{}, dir, Options{}); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "not a folder") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
