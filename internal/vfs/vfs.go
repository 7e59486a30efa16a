// Package vfs is the file system as the journal sees it: few calls, each of which says what it makes durable. There is the
// real one ([OS]), one in memory that can lose power ([Mem]), and a wrapper around any of them that fails on demand ([Faulty]).
//
// What a power loss may do is the contract between the journal and these implementations:
//
//   - Bytes written and not yet synced arrive in any order, in whole sectors of [SectorSize] bytes or not at all.
//   - A sector is old or new, never a mixture and never lost when it was synced before.
//   - A file whose folder was not synced since it was created, renamed or removed may have its old name, its new one, both
//     or none. Its synced bytes are there under whatever name is.
//   - [File.Sync] makes bytes and size durable, not the name. [FS.SyncDir] makes names durable, not bytes.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// SectorSize is the unit in bytes that a disk writes completely or not at all.
const SectorSize = 512

// FS is a file system. Its methods may be called by many goroutines at once; all of them may wait for a disk.
type FS interface {
	// OpenFile opens a file with flags as for [os.OpenFile]; a new one has permission 0600.
	OpenFile(name string, flag int) (File, error)

	// MkdirAll makes a folder and what is missing above it with permission 0700, and makes the new names durable.
	MkdirAll(dir string) error

	// ReadDir lists a folder by name.
	ReadDir(dir string) ([]Info, error)

	// Stat describes a file or folder; the error is [fs.ErrNotExist] where there is none.
	Stat(name string) (Info, error)

	// Rename gives a file another name in the same folder, whose present owner disappears. On some systems the file must
	// not be open.
	Rename(from, to string) error

	// Remove removes a file.
	Remove(name string) error

	// SyncDir makes durable which names are in a folder, where the system can do that.
	SyncDir(dir string) error

	// Lock takes the exclusive lock on a file, which it makes if need be, and writes note into it if it can.
	// It does not wait: when another holds the lock, in this process or another, the error is a [*LockedError]. The lock
	// ends with Close and with the process.
	Lock(name, note string) (io.Closer, error)

	// Space tells how many bytes are free for this process on the disk that holds dir, and how many it has.
	Space(dir string) (free, total int64, err error)
}

// File is an open file. Reading, writing and syncing may be called by many goroutines at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Size returns the length in bytes.
	Size() (int64, error)

	// Truncate cuts the file to size bytes, or lengthens it with zeros that may have no space on the disk.
	Truncate(size int64) error

	// Preallocate makes the file at least size bytes long and reserves space for all of them, so that a later write below
	// size cannot fail for want of space. What the file holds is kept; what is new reads as zeros.
	Preallocate(size int64) error

	// Sync makes the bytes and the length durable. After an error nobody knows what is on the disk: calling it again
	// proves nothing.
	Sync() error
}

// Info describes a file or folder.
type Info struct {
	Name string // last element of the path
	Size int64  // in bytes; of a file
	Mode fs.FileMode
}

// LockedError says that somebody else holds a lock.
type LockedError struct {
	Name string // of the lock file
	Note string // what the holder wrote into it, without space around; may be empty
}

func (e *LockedError) Error() string {
	if e.Note == "" {
		return fmt.Sprintf("lock %s: held by another process", e.Name)
	}
	return fmt.Sprintf("lock %s: held by %s", e.Name, e.Note)
}

// errClosed is what a closed file of [Mem] answers.
var errClosed = fs.ErrClosed

// ReadFull reads len(b) bytes at off. A file that ends before is an error that says so.
func ReadFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
