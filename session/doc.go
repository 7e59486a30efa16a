// Package session is one client's protocol memory: packet identifiers, windows, the states of QoS 1 and 2, Topic
// Aliases, the Will's timing, and the queue of messages on their way to a peer.
//
// Sender and receiver are symmetric (§4.3), so broker and client use the same two halves: [Inbound] remembers what was
// received, [Outbound] what is being sent. Nothing here has a goroutine, a lock or a clock: the owner serialises the
// calls, passes the time, and does what they return.
package session
