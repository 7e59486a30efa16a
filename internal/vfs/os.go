package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// OS is the real file system. The zero value is ready.
type OS struct{}

// OpenFile implements [FS].
func (OS) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// MkdirAll implements [FS].
func (o OS) MkdirAll(dir string) error {
	var missing []string // deepest first
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err == nil && info.IsDir() {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return os.MkdirAll(dir, 0o700) // has the right words for what is wrong
		}
		missing = append(missing, at)
	}
	for _, at := range slices.Backward(missing) {
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := o.SyncDir(filepath.Dir(at)); err != nil {
			return err
		}
	}
	return nil
}

// ReadDir implements [FS].
func (OS) ReadDir(dir string) ([]Info, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := make([]Info, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		} else if err != nil {
			return nil, err
		}
		all = append(all, Info{Name: e.Name(), Size: info.Size(), Mode: info.Mode()})
	}
	return all, nil
}

// Stat implements [FS].
func (OS) Stat(name string) (Info, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: info.Name(), Size: info.Size(), Mode: info.Mode()}, nil
}

// Rename implements [FS].
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements [FS].
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements [FS].
func (OS) SyncDir(dir string) error { return syncDir(dir) }

// Space implements [FS].
func (OS) Space(dir string) (free, total int64, err error) { return space(dir) }

// Lock implements [FS].
func (OS) Lock(name, note string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		held, _ := io.ReadAll(io.LimitReader(f, 256)) // only for the text of the error
		f.Close()
		if errors.Is(err, errHeld) {
			err = &LockedError{Name: name, Note: strings.TrimSpace(string(held))}
		}
		return nil, err
	}
	if note != "" {
		f.WriteAt([]byte(note), 0) // helps whoever finds the lock held; a full disk must not keep anybody from it
		f.Truncate(int64(len(note)))
	}
	return f, nil
}

// errHeld is what lockFile returns when somebody else holds the lock.
var errHeld = errors.New("held")

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Preallocate(size int64) error { return preallocate(f.File, size) }
func (f osFile) Sync() error                  { return datasync(f.File) }

// fill writes zeros from the end of the file up to size: the way to reserve space that works everywhere.
func fill(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := info.Size(); at < size; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
