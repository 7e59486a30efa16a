package client

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store/journal"
)

// The kinds of records in the queue's log. Their values are part of the format on disk.
const (
	recordMessage  = 1 // the message: when it expires, 8 bytes of Unix nanoseconds or zero, and a PUBLISH of MQTT 5.0
	recordSent     = 2 // position and Packet Identifier: the message of QoS 2 there is about to be sent
	recordReceived = 3 // the same: PUBREC has come
	recordDone     = 4 // position: the message there is of no use any more

	// These are of messages that come: position is zero.
	recordHandled   = 5 // Packet Identifier: the message of QoS 2 under it was handled
	recordReleased  = 6 // the same: PUBREL has come
	recordForgotten = 7 // nothing was handled under any: the session is a new one
)

const (
	queueSegment = 4 << 20        // bytes
	retryNotes   = time.Second    // when the disk is full
	loadAtOnce   = 64             // messages
	noteSize     = 10             // bytes of a note: position and Packet Identifier
	stampSize    = 8              // bytes before the PUBLISH
	queueFolder  = "log"          // of the journal
	asideFolder  = "refused"      // of messages that were set aside
	mostAside    = 10_000         // files in it
	allCommitted = math.MaxUint64 // the session need not wait: the writer does
)

// queue keeps the messages of QoS 1 and 2 on the disk, in the log of package journal, until they are done, and which messages of QoS 2 were
// handled that came from the server. What is in the log says all; a segment whose messages, and those of all before it, are done is given
// back.
//
// A step of QoS 2 is written down before the packet that follows from it is written to the socket, so that a restart continues the
// handshake instead of beginning another. The session goes on at once, and the connection's writer waits: notes are numbered in
// their order, and what it takes knows the last one it depends on.
type queue struct {
	client *Client
	dir    string
	log    *journal.Log
	limit  int64 // bytes of messages

	// Session.mu guards these.
	live    map[uint32]int          // messages that are not done, by segment
	open    map[uint16]*handledNote // by Packet Identifier
	newest  uint32                  // segment of the last record
	rotated bool                    // newest has changed: there may be segments to give back
	backlog []note                  // that the log does not take at the moment, in order
	aside   []asideEntry            // wait for the loader
	retry   *time.Timer             // for the backlog when the disk is full; nil while that is not waited for
	over    bool                    // nothing is written down any more

	wake  chan struct{} // the loader has something to do
	quit  chan struct{}
	group sync.WaitGroup

	mu      sync.Mutex // guards all below; after Session.mu
	changed sync.Cond  // safeTo, err
	number  uint64     // of the last record, or of the last one in the backlog
	marks   []mark     // records in the log that are not safe yet
	safeTo  uint64     // number
	waiters []waiter   // in order
	err     error      // why nothing becomes safe any more
}

// note is a record without a message.
type note struct {
	kind   byte
	data   []byte
	number uint64
}

// mark is where a record is.
type mark struct {
	number   uint64
	position journal.Position
}

// waiter is told when a record is safe.
type waiter struct {
	number uint64
	tell   func(error)
}

// openQueue opens the queue in a folder and gives the session what waits in it.
func openQueue(dir string, limit int64, c *Client) (*queue, error) {
	q := &queue{
		client: c, dir: dir, limit: limit, live: make(map[uint32]int), open: make(map[uint16]*handledNote), rotated: true,
		wake: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	q.changed.L = &q.mu
	log, err := journal.Open(c.set.queueFS, filepath.Join(dir, queueFolder), journal.Options{
		SegmentSize: c.set.queueSegment, Spares: 1,
		OnCommit: q.committed, OnRoom: q.roomAgain, OnFail: q.failed,
	})
	if err != nil {
		return nil, err
	}
	q.log = log
	if err := q.restore(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	q.group.Go(q.serve)
	return q, nil
}

// close ends the queue: what was accepted is on the disk.
func (q *queue) close() {
	if q == nil {
		return
	}
	close(q.quit)
	q.group.Wait()
	q.flushLast()
	err := q.log.Close()
	if err == nil {
		q.committed(q.log.Committed())
		err = ErrClosed
	}
	q.end(err)
}

// flushLast gives the log what it did not take before, for the last time.
func (q *queue) flushLast() {
	q.client.session.mu.Lock()
	defer q.client.session.mu.Unlock()
	if q.retry != nil {
		q.retry.Stop()
	}
	q.flush()
	q.over = true
}

// settle waits until what was given to the log is on the disk.
func (q *queue) settle() {
	if q == nil {
		return
	}
	q.client.session.mu.Lock()
	q.flush()
	q.client.session.mu.Unlock()
	if n := q.lastPlaced(); n > 0 {
		_ = q.wait(n) // an error has ended the client
	}
}

// lastPlaced returns the number of the last record in the log that is not safe yet; zero for none.
func (q *queue) lastPlaced() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.marks) == 0 {
		return 0
	}
	return q.marks[len(q.marks)-1].number
}

// hasRoom reports whether another message may wait, holding Session.mu.
func (q *queue) hasRoom() bool {
	_, bytes := q.client.session.pending()
	return int64(bytes) < q.limit
}

// accept writes a message down, holding Session.mu, and returns the number that has to be safe for it to be. Nothing is accepted before the
// backlog, so that numbers are in the order of the log.
func (q *queue) accept(p *Publication) (number uint64, err error) {
	if q.flush(); len(q.backlog) > 0 {
		return 0, journal.ErrBusy
	}
	pos, err := q.log.Append(recordMessage, appendMessage(nil, p.message))
	if err != nil {
		return 0, err
	}
	p.position = uint64(pos)
	q.live[journal.SegmentOf(pos)]++
	return q.placed(pos, q.nextNumber()), nil
}

// busy reports whether the log takes a record later.
func busy(err error) bool { return errors.Is(err, journal.ErrBusy) }

// waitUnlocked waits, without Session.mu meanwhile, until the log takes a record.
func (q *queue) waitUnlocked(ctx context.Context, n int) error {
	mu := &q.client.session.mu
	mu.Unlock()
	defer mu.Lock()
	return q.log.Wait(ctx, n+stampSize+256)
}

// note writes down a step of a message, holding Session.mu, and returns its number.
func (q *queue) note(kind byte, position uint64, id uint16) uint64 {
	number := q.append(kind, position, id)
	q.flush()
	return number
}

// append puts a note into the backlog.
func (q *queue) append(kind byte, position uint64, id uint16) uint64 {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, noteSize), position)
	b = binary.LittleEndian.AppendUint16(b, id)
	n := note{kind: kind, data: b, number: q.nextNumber()}
	q.backlog = append(q.backlog, n)
	return n.number
}

// done writes down that a message is of no use any more, holding Session.mu.
func (q *queue) done(position uint64) {
	q.note(recordDone, position, 0)
	segment := journal.SegmentOf(journal.Position(position))
	if q.live[segment]--; q.live[segment] > 0 {
		return
	}
	delete(q.live, segment)
	if segment != q.newest {
		q.free()
	}
}

// free gives back the segments at the beginning that hold no message, holding Session.mu. Only those: a note about a message is never gone
// before the message.
func (q *queue) free() {
	q.rotated = false
	segments := q.log.Segments()
	for _, s := range segments[:len(segments)-1] {
		if q.live[s.Number] > 0 || !q.renew(s.Number) || q.log.Free(s.Number) != nil {
			return // an error passes, or has ended the log
		}
	}
}

// flush gives the backlog to the log, as far as it takes it.
func (q *queue) flush() {
	for len(q.backlog) > 0 {
		n := q.backlog[0]
		pos, err := q.log.AppendUrgent(n.kind, n.data)
		if err != nil {
			q.flushLater(err)
			return
		}
		q.backlog = q.backlog[1:]
		q.noted(&n, pos)
		q.placed(pos, n.number)
	}
	q.backlog = nil
}

// flushLater sees to it that flush is called again: a log that is busy says when, a full disk does not.
func (q *queue) flushLater(err error) {
	if busy(err) || q.retry != nil {
		return
	}
	q.retry = time.AfterFunc(retryNotes, func() {
		q.client.session.mu.Lock()
		defer q.client.session.mu.Unlock()
		q.retry = nil
		q.flush()
	})
}

// roomAgain is called by the log.
func (q *queue) roomAgain() {
	q.client.session.mu.Lock()
	defer q.client.session.mu.Unlock()
	q.flush()
}

func (q *queue) nextNumber() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.number++
	return q.number
}

// last returns the number of what was written down last.
func (q *queue) last() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.number
}

// placed notes where a record is, and returns its number.
func (q *queue) placed(pos journal.Position, number uint64) uint64 {
	if s := journal.SegmentOf(pos); s != q.newest {
		q.newest, q.rotated = s, true
		q.wakeLoader()
	}
	q.mu.Lock()
	q.marks = append(q.marks, mark{number, pos})
	q.mu.Unlock()
	q.committed(q.log.Committed()) // it may be already
	return number
}

// committed is called by the log.
func (q *queue) committed(to journal.Position) {
	for _, w := range q.advance(to) {
		w.tell(nil)
	}
}

// advance moves what is safe and returns whom to tell.
func (q *queue) advance(to journal.Position) (tell []waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.marks) && q.marks[n].position <= to {
		q.safeTo = q.marks[n].number
		n++
	}
	if n == 0 {
		return nil
	}
	q.marks = q.marks[n:]
	for len(q.waiters) > 0 && q.waiters[0].number <= q.safeTo {
		tell = append(tell, q.waiters[0])
		q.waiters = q.waiters[1:]
	}
	q.changed.Broadcast()
	return tell
}

// whenSafe calls tell when a record is safe, or never will be. It must not block.
func (q *queue) whenSafe(number uint64, tell func(error)) {
	q.mu.Lock()
	if q.safeTo < number && q.err == nil {
		i := len(q.waiters)
		for i > 0 && q.waiters[i-1].number > number {
			i--
		}
		q.waiters = append(q.waiters[:i:i], append([]waiter{{number, tell}}, q.waiters[i:]...)...)
		q.mu.Unlock()
		return
	}
	var err error
	if q.safeTo < number {
		err = q.err
	}
	q.mu.Unlock()
	tell(err)
}

// wait waits until a record is safe. The error is why it never will be.
func (q *queue) wait(number uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.safeTo < number && q.err == nil {
		q.changed.Wait()
	}
	if q.safeTo < number {
		return q.err
	}
	return nil
}

// failed is called by the log when nothing becomes safe any more: the client cannot go on.
func (q *queue) failed(err error) {
	q.end(err)
	q.client.fail(err)
}

// end tells everybody who waits.
func (q *queue) end(err error) {
	q.mu.Lock()
	waiters := q.waiters
	q.waiters = nil
	if q.err == nil {
		q.err = err
	}
	q.changed.Broadcast()
	q.mu.Unlock()
	for _, w := range waiters {
		w.tell(err)
	}
}

// appendMessage encodes a message.
func appendMessage(b []byte, m *mqtt.Message) []byte {
	var expires int64
	if !m.Expires.IsZero() {
		expires = m.Expires.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(expires))
	p := packetOf(m)
	p.PacketID, p.HasExpiry = 1, false
	return p.Append(b, mqtt.V5)
}

var errNoMessage = errors.New("record is not a message")

// parseMessage decodes a message. It copies.
func parseMessage(b []byte) (*mqtt.Message, error) {
	if len(b) < stampSize {
		return nil, errNoMessage
	}
	f, size, err := mqtt.ParseFrame(b[stampSize:], mqtt.V5, mqtt.MaxPacket)
	if err != nil || size != len(b)-stampSize || f.Type != mqtt.PUBLISH {
		return nil, errNoMessage
	}
	var p mqtt.Publish
	if err := p.Parse(f, mqtt.V5); err != nil || p.QoS == mqtt.AtMostOnce {
		return nil, errNoMessage
	}
	m := p.Message(string(p.Topic), "", time.Time{})
	if expires := int64(binary.LittleEndian.Uint64(b)); expires != 0 {
		m.Expires = time.Unix(0, expires)
	}
	return m, nil
}
