// Package loadgen puts a load on an MQTT broker and tells what became of it: how many messages came through, how long they took,
// and which of them were lost, came twice or out of order. It knows MQTT from the client's side, any broker's; it knows nothing of
// command lines, and prints nothing.
//
//	report, err := loadgen.Run(ctx, loadgen.Plan{Publishers: 100, Subscribers: 1, Topic: "{prefix}/{n}", Filter: "{prefix}/#", Duration: 5 * time.Second})
//
// A generator that is slower than the broker measures itself. So the messages do not pass through package client: a [loop] owns
// many connections and all that belongs to them, and is one goroutine without locks. PUBLISH packets are made once, and only the
// Packet Identifier, the sequence number and the time are written into each; what comes is scanned where it was read. Nothing is
// allocated per message. A loop waits in one of two ways, the same code above both: with epoll on raw sockets (plain TCP and Unix
// sockets on Linux), or on two goroutines per connection (TLS, WebSocket, a proxy, other systems), which costs several times as
// much; [Report] says when the generator was the limit.
//
// # What is measured
//
// Each payload begins with the number of the run, of its publisher, its sequence number there, and the time. With a rate, messages
// are due at times that do not depend on how the broker does, and the time in a payload is the one when it was due: what had to
// wait because the broker was slow has waited, and is counted so. Without a rate a window bounds what is under way, and a message's
// time begins when it is written.
//
// Throughput, latency and the broker's processor time belong to the measured time alone; lost, duplicated and out of order to the
// whole run, with what came before and after it.
package loadgen
