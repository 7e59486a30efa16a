package loadgen

import (
	"encoding/binary"
	"time"
)

// MinSize is the smallest payload in bytes: every one begins with a stamp.
const MinSize = 24

// stamp is the beginning of a payload. Numbers are little-endian on the wire.
type stamp struct {
	run  uint32 // random, so that no run takes another's messages for its own
	pub  uint32 // number of the publisher
	seq  uint64 // of the message at its publisher, from 1
	time int64  // when it was due, or written; nanoseconds since 1970
}

func (s stamp) put(b []byte) {
	b = b[:MinSize]
	binary.LittleEndian.PutUint32(b, s.run)
	binary.LittleEndian.PutUint32(b[4:], s.pub)
	binary.LittleEndian.PutUint64(b[8:], s.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(s.time))
}

// restamp changes what differs from one message of a publisher to the next.
func restamp(b []byte, seq uint64, at int64) {
	b = b[:MinSize]
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(at))
}

func readStamp(b []byte) stamp {
	b = b[:MinSize]
	return stamp{
		binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:]), int64(binary.LittleEndian.Uint64(b[16:])),
	}
}

// The clock never goes back, and two processes on one machine agree about it as well as about the time of day.
var (
	started   = time.Now()
	startedAt = started.UnixNano()
)

// now returns nanoseconds since 1970.
func now() int64 { return startedAt + int64(time.Since(started)) }
