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

// Store keeps records. Its methods may be called by many goroutines at once, and but for Load, Restore and Close none of them
// waits for a device.
type Store interface {
	// Restore calls f for every record that is needed, in order. It is called once, before anything else but the On… methods. f
	// must not keep the record, except for what its pointers and slices point to.
	Restore(f func(at Position, r *Record) error) error

	// Append takes the record behind all earlier ones. An error means that the record is not kept and never will be: what
	// it was about is refused with Quota exceeded (0x97), and everything else goes on. An Accepted record is in use once for
	// each recipient, and once more when it is retained.
	Append(r *Record) (Position, error)

	// Use counts n more uses of the message at a position, fewer when n is negative. What is not in use need not be kept.
	// After Restore the owner tells every use anew.
	Use(at Position, n int)

	// Load reads an Accepted or Moved record again.
	Load(at Position, r *Record) error

	// Busy reports whether so much waits for the device that clients who publish should not be read for a moment.
	Busy() bool

	// Committed returns the position up to which every record is safe. It never goes back.
	Committed() Position

	// OnCommit sets the function that is called after Committed has advanced, with what it returns, on a goroutine of the
	// store. OnFail sets the one that is called when the store can commit nothing any more. OnCheckpoint sets the one that
	// emits the whole state as records; it is called on a goroutine of the store while other records are appended. What
	// belongs together (a session, a retained message) has to be emitted under the lock under which it changes, so that
	// its records stand in the log where they are true; emit does not wait. All are set before Restore.
	OnCommit(func(Position))
	OnFail(func(error))
	OnCheckpoint(func(emit func(*Record) error) error)

	// Close commits what was appended and ends the store.
	Close() error
}
