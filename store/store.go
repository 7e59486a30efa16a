// Package store is what outlives a message's way through the server: an order in which records are kept, and the news of how
// far they are safe.
//
// A server that accepts a message of QoS 1 or 2, or one to be retained, appends a record and acknowledges the message when the
// store says that the record is committed, not before (§4.3). What "safe" means is the store's business: [Memory] keeps
// nothing that outlives the process and is therefore always done; one on disk is done when the bytes are synced. The server
// never waits for a store: it goes on reading, and batches form by themselves while one is being written.
package store

import "github.com/magpiemq/magpie/mqtt"

// Position is a place in the order of records. The first record has 1; 0 stands before all of them.
type Position uint64

// Record is one thing to keep. It belongs to the caller and is good for the duration of the call; the Message in it is
// immutable and may be kept.
type Record struct {
	Message  *mqtt.Message // the message that the server takes responsibility for
	ClientID string        // of the session that published it; empty for the server itself
	PacketID uint16        // under which a QoS 2 message was received, so that both are kept as one; zero for others
}

// Store keeps records. Its methods may be called by many goroutines at once, and none of them waits for a device.
type Store interface {
	// Append takes the record, behind all earlier ones. An error means that the record is not kept and never will be: the
	// message is refused with Quota exceeded (0x97), and everything else goes on.
	Append(r *Record) (Position, error)

	// Committed returns the position up to which every record is safe. It never goes back.
	Committed() Position

	// OnCommit sets the function that is called after Committed has advanced, with what it returns; on a goroutine of the
	// store or, when a record is safe at once, within Append. It is set once, before the first Append, and must not block.
	OnCommit(func(Position))

	// Close commits what was appended and ends the store.
	Close() error
}
