package vfs

import (
	"io"
	"sync"
)

// Op is a kind of call to a file system.
type Op uint8

// The kinds of calls. AnyOp stands for all of them.
const (
	AnyOp Op = iota
	OpOpen
	OpMkdir
	OpReadDir
	OpStat
	OpRename
	OpRemove
	OpSyncDir
	OpLock
	OpRead
	OpWrite
	OpTruncate
	OpPreallocate
	OpSync
	ops // how many
)

var opNames = [ops]string{"any", "open", "mkdir", "readdir", "stat", "rename", "remove", "syncdir", "lock", "read", "write",
	"truncate", "preallocate", "sync"}

func (o Op) String() string { return opNames[o] }

// Ops lists every kind of call, without AnyOp.
func Ops() (all []Op) {
	for o := AnyOp + 1; o < ops; o++ {
		all = append(all, o)
	}
	return all
}

// Fault says which calls fail and how. A failing call does nothing, but for a short write.
type Fault struct {
	Op      Op    // of this kind; AnyOp for all
	Nth     int   // the Nth such call since the fault was set, from 1; zero is none
	Forever bool  // and all of them after it
	Err     error // what they return
	Short   bool  // a write writes the first half of its bytes before it fails
}

// Faulty is a file system that fails on demand and counts. Space, Size and Close never fail. Make one with [NewFaulty].
type Faulty struct {
	fs FS

	mu     sync.Mutex // guards all below
	fault  Fault
	since  int // calls of the kind of fault since it was set
	calls  [ops]int
	bytes  int64
	before func(Op)
}

// NewFaulty wraps a file system. Without a fault it only counts.
func NewFaulty(fs FS) *Faulty { return &Faulty{fs: fs} }

// Set replaces the fault; the calls it speaks of are counted from now on.
func (f *Faulty) Set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.since = fault, 0
}

// Before sets a function that is called before each call is carried out, on the caller's goroutine; nil for none. It may
// use the file system inside, not this one.
func (f *Faulty) Before(fn func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = fn
}

// Calls returns how many calls of a kind there were, failed ones included.
func (f *Faulty) Calls(o Op) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o != AnyOp {
		return f.calls[o]
	}
	for _, c := range f.calls {
		n += c
	}
	return n
}

// Written returns how many bytes the successful writes have carried.
func (f *Faulty) Written() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// check counts a call and returns the error with which it has to fail.
func (f *Faulty) check(o Op) (err error, short bool) {
	f.mu.Lock()
	before := f.before
	f.calls[o]++
	if f.fault.Nth > 0 && (f.fault.Op == AnyOp || f.fault.Op == o) {
		f.since++
		if f.since == f.fault.Nth || f.fault.Forever && f.since > f.fault.Nth {
			err, short = f.fault.Err, f.fault.Short
		}
	}
	f.mu.Unlock()
	if before != nil {
		before(o)
	}
	return err, short
}

// try carries out a call that has no result unless it has to fail.
func (f *Faulty) try(o Op, name string, call func() error) error {
	if err, _ := f.check(o); err != nil {
		return fail(o.String(), name, err)
	}
	return call()
}

// OpenFile implements [FS].
func (f *Faulty) OpenFile(name string, flag int) (file File, err error) {
	err = f.try(OpOpen, name, func() error {
		inner, err := f.fs.OpenFile(name, flag)
		file = &faultyFile{File: inner, fs: f, name: name}
		return err
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// MkdirAll implements [FS].
func (f *Faulty) MkdirAll(dir string) error {
	return f.try(OpMkdir, dir, func() error { return f.fs.MkdirAll(dir) })
}

// ReadDir implements [FS].
func (f *Faulty) ReadDir(dir string) (all []Info, err error) {
	err = f.try(OpReadDir, dir, func() error { all, err = f.fs.ReadDir(dir); return err })
	return all, err
}

// Stat implements [FS].
func (f *Faulty) Stat(name string) (info Info, err error) {
	err = f.try(OpStat, name, func() error { info, err = f.fs.Stat(name); return err })
	return info, err
}

// Rename implements [FS].
func (f *Faulty) Rename(from, to string) error {
	return f.try(OpRename, from, func() error { return f.fs.Rename(from, to) })
}

// Remove implements [FS].
func (f *Faulty) Remove(name string) error {
	return f.try(OpRemove, name, func() error { return f.fs.Remove(name) })
}

// SyncDir implements [FS].
func (f *Faulty) SyncDir(dir string) error {
	return f.try(OpSyncDir, dir, func() error { return f.fs.SyncDir(dir) })
}

// Lock implements [FS].
func (f *Faulty) Lock(name, note string) (lock io.Closer, err error) {
	err = f.try(OpLock, name, func() error { lock, err = f.fs.Lock(name, note); return err })
	return lock, err
}

// Space implements [FS].
func (f *Faulty) Space(dir string) (free, total int64, err error) { return f.fs.Space(dir) }

type faultyFile struct {
	File
	fs   *Faulty
	name string
}

func (f *faultyFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.fs.try(OpRead, f.name, func() error { n, err = f.File.ReadAt(b, off); return err })
	return n, err
}

func (f *faultyFile) WriteAt(b []byte, off int64) (n int, err error) {
	err, short := f.fs.check(OpWrite)
	if err != nil {
		if short {
			n, _ = f.File.WriteAt(b[:len(b)/2], off)
		}
		return n, fail(OpWrite.String(), f.name, err)
	}
	n, err = f.File.WriteAt(b, off)
	f.fs.mu.Lock()
	f.fs.bytes += int64(n)
	f.fs.mu.Unlock()
	return n, err
}

func (f *faultyFile) Truncate(size int64) error {
	return f.fs.try(OpTruncate, f.name, func() error { return f.File.Truncate(size) })
}

func (f *faultyFile) Preallocate(size int64) error {
	return f.fs.try(OpPreallocate, f.name, func() error { return f.File.Preallocate(size) })
}

func (f *faultyFile) Sync() error {
	return f.fs.try(OpSync, f.name, f.File.Sync)
}
