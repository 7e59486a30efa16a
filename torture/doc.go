// Package torture kills the broker while it works and audits what is left. Its test runs the real binary with durability durable,
// kills it at random moments, and starts it again on the same data, while publishers and subscribers keep a ledger of what they
// were promised: what was acknowledged arrives, QoS 2 exactly once, each stream in its order, retained messages as last
// acknowledged, and the Will of whoever was cut off.
//
// It knows the wire and the command line, and nothing of the broker's inside: its clients keep their own state of the handshakes,
// so that a mistake in ours cannot hide itself.
//
//	go test -tags torture ./torture                    # a short run, 50 kills
//	make torture                                       # a thousand kills; MAGPIE_TORTURE_KILLS is another number
//	MAGPIE_TORTURE_SEED=7 go test -tags torture ./torture -count=1   # the schedule of that seed again
//
// It has a build tag, and is not among the tests of every change, until it passes every time: see the changelog.
//
// A seed fixes who does what in which order and when the kills come, counted in steps of the clients; the operating system decides
// the rest.
package torture
