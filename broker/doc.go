// Package broker is an MQTT server: connections, sessions, routing, retained messages, shared subscriptions, and the
// points at which a program extends it. It listens to nothing by itself and reads no configuration file:
//
//	b, err := broker.New(broker.Config{})
//	ln, err := net.Listen("tcp", "127.0.0.1:1883")
//	err = b.Serve(ctx, ln) // until ctx is done or Shutdown is called
//
// # The hot path
//
// Bytes become packets, packets meet their session, the router finds other sessions, they turn it into bytes again. The files
// in that order: read.go, inbound.go, route.go, outbound.go, write.go. None of them knows a transport: [conn.process]
// takes bytes wherever they came from.
//
// On Linux a loop reads all plain sockets that are ready, see loop.go; a connection with TLS or WebSocket, or elsewhere, has a goroutine
// that reads it. Either way, what was read together is one [turn]: all packets in it are processed, what they cause is appended to the
// outboxes of other connections (outbox.go), and each of those is written once when the turn ends. Whoever appends first to an empty
// outbox puts that connection on its turn's list and owns the flush. A write never waits: what the socket does not take at once is
// written when the loop hears that there is room, or by a goroutine that lives until the outbox is empty.
//
// # Locks
//
// In this order, and never two of the same kind at once: owning, moving, Broker.mu, retained.mu, Session.mu, subscriptions.mu,
// holding.mu, unfinished.mu, conn.mu, memory.mu, limbo.mu. No lock is held while reading, writing or calling an extension point, but
// for moving: it is held for reading while messages are loaded from the store.
package broker
