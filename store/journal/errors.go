package journal

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/magpiemq/magpie/store"
)

// What the methods of a [Log] return. None of them is a reason to stop; a log that is dead says so by [Log.Failed].
var (
	// ErrBusy says that the record was not taken, because as many bytes as allowed wait for the disk already, or because the
	// next segment is just being made. [Log.Wait] and Options.OnRoom tell when to try again.
	ErrBusy = errors.New("journal: busy")

	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("journal: closed")

	// ErrTooLarge says that a payload is larger than [MaxPayload].
	ErrTooLarge = errors.New("journal: record is too large")

	// ErrKind says that the kind of a record is 0 or above [MaxKind].
	ErrKind = errors.New("journal: no such kind of record")

	// ErrNotFound says that the segment of a position, or one of this number, is not in the log: freed, or never there.
	ErrNotFound = fmt.Errorf("journal: no such segment: %w", store.ErrGone)

	// ErrActive says that a segment cannot be freed, because the log ends in it.
	ErrActive = errors.New("journal: segment is in use")
)

// FullError says that there was no space for another segment, or that the disk is fuller than a store wants it to be. The record was
// not taken; the log lives on, and goes on by itself when there is space again.
type FullError struct {
	Dir   string
	Err   error   // what the file system said; nil when it is the limit
	Used  float64 // the fraction of the disk that is in use, when it is the limit
	Limit float64 // and StoreOptions.FullAt
}

func (e *FullError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("journal %s: the disk is %.0f %% full (limit %.0f %%): make room on it, or raise the limit", e.Dir, 100*e.Used, 100*e.Limit)
	}
	return fmt.Sprintf("journal %s: no space for another segment: %v", e.Dir, e.Err)
}

func (e *FullError) Unwrap() error { return e.Err }

// DamageError says that something that was on the disk, synced, is not there any more as it was written.
type DamageError struct {
	File   string // path of the segment
	Offset int64  // of the first byte that cannot be read, in bytes
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal segment %s is damaged at byte %d (%s): nothing was changed; `magpie store salvage` copies what is good",
		e.File, e.Offset, e.Reason)
}

// Is makes it a [store.ErrDamaged].
func (e *DamageError) Is(target error) bool { return target == store.ErrDamaged }

// MissingError says that a segment is not there although records in it are needed.
type MissingError struct {
	Dir    string
	Number uint32
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("journal %s lacks the segment %s: the folder was copied in part or a file was removed; copy it again, or `magpie store salvage` copies what is there",
		e.Dir, fileName(e.Number))
}

// VersionError says that a segment was written by another version of the program.
type VersionError struct {
	File    string
	Version uint32 // of its format
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("journal segment %s has format %d and this program knows formats up to %d: start it with the magpie that wrote it, or a newer one",
		e.File, e.Version, FormatVersion)
}

// ForeignError says that a folder holds something that is not ours.
type ForeignError struct {
	File   string
	Reason string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s is %s: give the journal an empty folder of its own, or the one it had", e.File, e.Reason)
}

// LockedError says that another process has the log open.
type LockedError struct {
	Dir    string
	Holder string // "process 123", or empty
}

func (e *LockedError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("journal %s is in use by %s: stop that one first, or choose another folder", e.Dir, holder)
}

// AccessError says that the folder cannot be used as it is: read-only, or another user's, or some of its files are.
type AccessError struct {
	Dir string
	Err error
}

func (e *AccessError) Error() string {
	if errors.Is(e.Err, syscall.EROFS) {
		return fmt.Sprintf("journal %s is on a read-only file system: %v: make it writable, or choose another folder", e.Dir, e.Err)
	}
	return fmt.Sprintf("journal %s is not open to this user: %v: make the folder and its files readable and writable, or choose another", e.Dir, e.Err)
}

func (e *AccessError) Unwrap() error { return e.Err }
