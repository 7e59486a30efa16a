// Package torture kills the broker while it works and audits what is left. Its test runs the real binary with durability durable,
// kills it at random moments, and starts it again on the same data, while publishers and subscribers keep a ledger of what they
// were promised: what was acknowledged arrives, QoS 2 exactly once, each stream in its order; one member of a Shared Subscription
// gets what the others do not; retained messages are as last acknowledged; subscriptions are there after SUBACK and gone after
// UNSUBACK; the Will of whoever was cut off is published, at once, after its delay or with the end of the session; sessions that
// have expired are gone.
//
// It knows the wire and the command line, and nothing of the broker's inside: its clients keep their own state of the handshakes,
// so that a mistake in ours cannot hide itself. No connection may end but by a kill or its client.
//
//	go test ./torture                            # a short run, 50 kills
//	make torture                                 # a thousand kills; MAGPIE_TORTURE_KILLS is another number
//	MAGPIE_TORTURE_SEED=7 go test ./torture      # the schedule of that seed again
//	MAGPIE_TORTURE_KEEP=/tmp/x go test ./torture # the journal of a run that fails stays in this folder, for magpie store dump
//
// The other test, a soak, kills nobody: clients come and go under load for MAGPIE_SOAK_TIME, and the broker must not hold more and more.
// make soak lets that last ten minutes.
//
// A seed fixes who does what in which order and when the kills come, counted in steps of the clients; the operating system decides
// the rest. Nothing is measured: on a slow machine a run takes longer, and only a broker that says nothing for minutes fails, with
// the stacks of its goroutines.
package torture
