// Package store is what outlives the process: a sequence of records, and the news of how far they are safe.
//
// A server that takes responsibility for something (a message, a subscription, a session) appends a [Record], and
// acknowledges when the store says that the record is committed, not before (§4.3). It never waits for a store: it goes on
// reading, and batches form by themselves while one is being written. After a restart it applies the records in their
// order and has its state again.
//
// Queues live in the store, not in memory: what waits for a client is a [Position] of eight bytes, and the message is loaded
// when the client comes.
package store

import "errors"

// Promise says against what a record has to be safe before its owner acts on it.
type Promise uint8

// The promises. A store that keeps nothing on a disk keeps all of them at once.
const (
	Default Promise = iota // what the store is configured to: Synced or Written
	Written                // the end of the process does not take the record; a loss of power in the next moments may
	Synced                 // a loss of power does not take it
)

// ErrGone says that a message is not kept any more: its space was given back when nobody had a use for it.
var ErrGone = errors.New("the message is not kept any more")

// ErrDamaged says that what stands at a position is not what was written there.
var ErrDamaged = errors.New("the message is damaged")

// Mover copies the message at a position behind all other records, as a Moved record, and returns where it is now. The copy names
// the recipients that needs reports; nil stands for none.
type Mover func(at Position, needs func(SessionID) bool) (Position, error)

// Store keeps records. Its methods may be called by many goroutines at once, and but for Load, LoadAll, Restore and Close none of them
// waits for a device.
type Store interface {
	// Restore calls f for every record that is needed, in order. It is called once, before anything else but the On… methods; nothing
	// is given back before [Store.Maintain]. f must not keep the record, its Recipients, nor its Message unless that is to be retained; it may keep what else the
	// record's pointers and slices point to.
	Restore(f func(at Position, r *Record) error) error

	// Append takes the record behind all earlier ones. An error means that the record is not kept and never will be: what
	// it was about is refused with Quota exceeded (0x97), and everything else goes on. An Accepted record is in use once for
	// each recipient, and once more when it is retained.
	Append(r *Record) (Position, error)

	// Use counts n more uses of the message at a position, fewer when n is negative. What is not in use need not be kept.
	// After Restore the owner tells every use anew.
	Use(at Position, n int)

	// Load reads an Accepted or Moved record again. The error is [ErrGone] when it was not in use any more, and
	// [ErrDamaged] when it can never be read; any other may pass.
	Load(at Position, r *Record) error

	// LoadAll is Load of several records in that order, until f says no. The error is that of one record. The record is good until f
	// returns, and its Message is f's to keep.
	LoadAll(at []Position, f func(i int, r *Record, err error) bool)

	// Busy reports whether so much waits for the device that clients who publish should not be read for a moment.
	Busy() bool

	// Committed returns the position up to which every record is as safe as the store promises of itself: Safe(Default).
	Committed() Position

	// Safe returns the position up to which every record keeps a promise, whatever was asked for the record itself. It never
	// goes back; that of Written is never behind that of Synced.
	Safe(Promise) Position

	// OnCommit sets the function that is called after Safe has advanced for any promise, with what Committed returns, on a
	// goroutine of the store. OnFail sets the one that is called when the store can commit nothing any more. Both are set before
	// Restore.
	OnCommit(func(Position))
	OnFail(func(error))

	// Maintain starts to give space back. The owner calls it once, when it has restored its state and told every use of it.
	Maintain(Upkeep)

	// Close commits what was appended and ends the store.
	Close() error
}

// Upkeep is what the owner of a store does so that the store can forget. The functions are called on a goroutine of the store, one at a
// time, while records are appended.
type Upkeep struct {
	// Checkpoint emits the whole state as records. What belongs together (a session, a retained message) has to be emitted under the
	// lock under which it changes, so that its records stand in the log where they are true; emit does not wait.
	Checkpoint func(emit func(*Record) error) error

	// Clean stops the use of messages between two positions, from and what is behind it but not to, because few of those there are in
	// use and the space is wanted. It has each message that is in use copied by move, with none of its locks held, since that
	// waits; then it uses the copy and not the original, and counts that by Use. It returns an error of move; what was moved
	// before stays moved.
	Clean func(from, to Position, move Mover) error
}
