package journal

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

// Options say how a log behaves. The zero value is a durable log.
type Options struct {
	// SegmentSize is the size of a segment in bytes, rounded up to a multiple of 4096, from 8 KiB to 1 GiB. Zero means 64 MiB. A
	// record that is larger gets a larger segment. The size may differ from one opening of a log to the next.
	SegmentSize int64

	// Interval is how often the log is synced when records count as committed once they are written: a power loss
	// may take what was committed in that time, the end of the process may not. Zero means that they count once they are
	// synced, and that each batch is that has one of which that was promised.
	Interval time.Duration

	// SyncWithin is how long what was written may wait to be synced when no Interval says it: records of which less was
	// promised. Zero means a second.
	SyncWithin time.Duration

	// MaxPending is how many bytes may wait for the disk before Append returns [ErrBusy]. Zero means 16 MiB. One record is
	// always taken when nothing waits, whatever its size.
	MaxPending int

	// Spares is how many freed segments are kept for a minute to be used again, besides the two that stand ready. Zero means 4;
	// less than zero means none.
	Spares int

	// OnCommit is called after Committed or Safe has advanced, with what Committed returns. OnRoom is called when it is worth trying again
	// what was answered by ErrBusy. OnFail is called once when a write or a sync went wrong; nothing will be committed any
	// more. All run on goroutines of the log, must not block and must not call Close; nil is skipped.
	OnCommit func(Position)
	OnRoom   func()
	OnFail   func(error)

	onReady func()        // called on the preparer's goroutine after a segment was made
	atRisk  int64         // bytes that may be written and not synced, see unsyncedMost
	manual  bool          // tests drive the log by commit and prepare; it has no goroutines
	random  func() uint64 // where epochs come from
}

// The limits of Options.SegmentSize.
const (
	defaultSegment = 64 << 20
	minSegment     = 8 << 10
	maxSegment     = 1 << 30
)

func (o *Options) check() error {
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegment
	}
	if o.SegmentSize < minSegment || o.SegmentSize > maxSegment {
		return fmt.Errorf("journal: segment size %d is not between %d and %d", o.SegmentSize, minSegment, maxSegment)
	}
	o.SegmentSize = roundUp(o.SegmentSize)
	if o.MaxPending <= 0 {
		o.MaxPending = 16 << 20
	}
	if o.Spares == 0 {
		o.Spares = 4
	}
	if o.Interval > 0 {
		o.SyncWithin = o.Interval
	} else if o.SyncWithin <= 0 {
		o.SyncWithin = time.Second
	}
	if o.random == nil {
		o.random = randomEpoch
	}
	if o.atRisk <= 0 {
		o.atRisk = unsyncedMost
	}
	return nil
}

// makeEarly is how many bytes before the end of the active segment, unless a half is more, it is time for a second segment to stand
// ready.
const makeEarly = 4 << 20

// markEvery is how many bytes of a batch one mark is for: what a bad record can take with it when its length is bad too.
const markEvery = 64 << 10

// Log is an open log. Make one with [Open].
type Log struct {
	// Immutable.
	fs   vfs.FS
	dir  string
	opts Options
	id   logID
	lock io.Closer

	wrote atomic.Uint64 // position of the last record of a caller that is written
	safe  atomic.Uint64 // and of the last one that is synced
	tight atomic.Bool   // the active segment is nearly full and the preparer is late

	mu       sync.Mutex // guards all below but the fields of the committer and the preparer
	err      error      // why nothing is appended any more
	full     error      // why the segments that should stand ready do not; nil while they do, or are being made
	segs     map[uint32]*segment
	live     []*segment // the same but the active one, in order
	active   *segment   // where the log ends
	off      int64      // and at which place in it
	records  int        // of callers in the active segment
	marked   int        // bytes in the filling batch since the last mark
	ready    []*segment // what follows, in order; the last one is for AppendUrgent alone
	wanted   int        // how many have to stand ready for what was refused
	lean     bool       // freed segments are not kept: somebody else needs the space
	grow     growth
	doomed   []*segment // freed, and the news of that is synced
	pins     int        // backups that are being made: doomed segments stay as they are
	anchor   Position
	synced   Position // nothing before it can be lost
	written  Position // everything before it can be read from the files
	filling  *batch
	flushing *batch // being written; nil while there is none
	spare    *batch
	refused  bool          // somebody was answered by ErrBusy
	room     chan struct{} // closed when that may have changed; nil when nobody waits
	payload  []byte        // of records of the log itself, to be used again

	out      *segment   // of the committer: where the last batch ended
	risk     int64      // of the committer: bytes written and not synced
	unsynced []*segment // of the committer: freed by batches that are written but not synced
	old      []string   // of the preparer: files of freed segments

	wake    chan struct{} // there is something to write
	kick    chan struct{} // there is something to prepare
	quit    chan struct{} // closed by Close
	dead    chan struct{} // closed by the first failure
	closing sync.Once
	wait    sync.WaitGroup // for both goroutines
	files   fileLimit
}

// growth is a wish for a segment larger than usual.
type growth struct {
	want int64 // bytes; zero is no wish
	err  error // why it cannot be had
}

// Append takes a record, behind all earlier ones, and returns where it is. It copies the parts, which make up the payload,
// and does not wait for the disk. After an error the record is not in the log and never will be: [ErrBusy] and [*FullError]
// pass, any other error stays. Without one it is committed when Committed reaches its position, unless the log fails before.
func (l *Log) Append(kind byte, parts ...[]byte) (Position, error) {
	return l.add(kind, false, store.Default, parts)
}

// AppendUrgent is Append for records that make room, such as acknowledgements and deletions: when the disk is full, it has
// one more segment than Append.
func (l *Log) AppendUrgent(kind byte, parts ...[]byte) (Position, error) {
	return l.add(kind, true, store.Default, parts)
}

// AppendWritten is Append of a record that has to be written soon, and synced only within Options.SyncWithin or with others:
// [Log.Safe] tells of both.
func (l *Log) AppendWritten(kind byte, parts ...[]byte) (Position, error) {
	return l.add(kind, false, store.Written, parts)
}

// AppendWait is Append that waits while the log is busy, until ctx is done.
func (l *Log) AppendWait(ctx context.Context, kind byte, parts ...[]byte) (Position, error) {
	for {
		pos, err := l.add(kind, false, store.Default, parts)
		if err != ErrBusy {
			return pos, err
		}
		if err := l.Wait(ctx, length(parts)); err != nil {
			return 0, err
		}
	}
}

func (l *Log) add(kind byte, urgent bool, promise store.Promise, parts [][]byte) (Position, error) {
	if kind == 0 || kind > MaxKind {
		return 0, ErrKind
	}
	n := length(parts)
	if n > MaxPayload {
		return 0, ErrTooLarge
	}
	pos, err := l.take(kind, urgent, l.resolve(promise) == store.Synced, n, sum(parts), parts)
	if err == nil {
		signal(l.wake)
	}
	return pos, err
}

// resolve says what the default is.
func (l *Log) resolve(p store.Promise) store.Promise {
	switch {
	case p != store.Default:
		return p
	case l.opts.Interval > 0:
		return store.Written
	}
	return store.Synced
}

func (l *Log) take(kind byte, urgent, eager bool, n int, crc uint32, parts [][]byte) (Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := recordSize(n)
	fits, err := l.admit(size, urgent)
	if err != nil {
		return 0, err
	}
	if !fits {
		l.advance()
	}
	l.mark()
	pos := l.put(kind, n, crc, parts)
	l.filling.last = pos
	l.filling.eager = l.filling.eager || eager
	l.records++
	return pos, nil
}

// slack is what is left free in each segment for records of the log itself, so that freeing works when nothing else does.
func (l *Log) slack() int64 { return min(page, l.opts.SegmentSize/16) }

// fits says whether so many bytes have space in the active segment, and a mark before them, and behind them what may have
// to follow.
func (l *Log) fits(size int64) bool {
	return l.off+markSize+size+markSize+endSize <= l.active.size
}

// admit decides whether a record of a caller is taken, and whether it goes to the active segment or the next one.
func (l *Log) admit(size int64, urgent bool) (fits bool, err error) {
	if l.err != nil {
		return false, l.err
	}
	if pending := l.pending(); pending > 0 && int64(pending)+size > int64(l.opts.MaxPending) {
		l.refused = true
		return false, ErrBusy
	}
	need := 0
	if fits = l.fits(size + l.slack()); !fits {
		need++
	}
	if !urgent {
		need++ // the last one is not for everybody
	}
	return fits, l.haveReady(need, fits, size)
}

// haveReady says whether n segments stand ready, the first of them large enough unless the record goes elsewhere.
func (l *Log) haveReady(n int, fits bool, size int64) error {
	if len(l.ready) < n {
		if l.full != nil {
			return l.full
		}
		l.wanted = max(l.wanted, n)
		return l.refuse()
	}
	if fits {
		return nil
	}
	want := l.sizeFor(size)
	if l.ready[0].size >= want {
		return nil
	}
	if err := l.grow.err; err != nil {
		l.grow = growth{}
		return err
	}
	l.grow.want = max(l.grow.want, want)
	return l.refuse()
}

// sizeFor returns how large a segment has to be that begins with a record of so many bytes.
func (l *Log) sizeFor(size int64) int64 {
	start := recordSize(len(l.startPayload()))
	return roundUp(firstRecord + start + markSize + size + l.slack() + 2*(markSize+endSize))
}

// refuse remembers that somebody wants to be told when the preparer is done, and wakes it.
func (l *Log) refuse() error {
	l.refused = true
	signal(l.kick)
	return ErrBusy
}

// pending returns how many bytes wait for the disk.
func (l *Log) pending() int {
	n := len(l.filling.buf)
	if l.flushing != nil {
		n += len(l.flushing.buf)
	}
	return n
}

// put encodes a record where the log ends. There has to be space for it.
func (l *Log) put(kind byte, n int, crc uint32, parts [][]byte) Position {
	b, start, off := l.filling, len(l.filling.buf), l.off
	b.buf = appendHeader(b.buf, kind, n, crc, l.active.epoch, off)
	for _, p := range parts {
		b.buf = append(b.buf, p...)
	}
	size := len(b.buf) - start
	b.grew(l.active, off, start)
	l.off += int64(size)
	l.marked += size
	l.lookAhead(off)
	return at(l.active.number, off)
}

// ahead is how many segments should stand ready: one, so that a log in which little happens takes no more space than it needs,
// and a second one in time before the active segment is full.
func (l *Log) ahead() int {
	n := 1
	if l.active.size-l.off < l.early() {
		n = 2
	}
	return max(n, l.wanted)
}

func (l *Log) early() int64 { return max(makeEarly, l.active.size/2) }

// lookAhead wakes the preparer when the log has grown, from an offset, to where another segment has to stand ready, and notes when
// it is about to be late.
func (l *Log) lookAhead(from int64) {
	early := l.active.size - l.early()
	if from <= early && l.off > early {
		signal(l.kick)
	}
	if len(l.ready) < 2 && l.full == nil && l.active.size-l.off < l.active.size/8 {
		l.tight.Store(true)
	}
}

// putOwn encodes a record of the log itself.
func (l *Log) putOwn(kind byte, payload []byte) {
	b, start, off := l.filling, len(l.filling.buf), l.off
	b.buf = appendRecord(b.buf, kind, payload, l.active.epoch, off)
	b.grew(l.active, off, start)
	l.off += int64(len(b.buf) - start)
}

// mark begins a batch, or the next part of a large one, with a mark.
func (l *Log) mark() {
	if len(l.filling.buf) > 0 && l.marked < markEvery {
		return
	}
	var empty [markPayload]byte
	l.filling.marks = append(l.filling.marks, unfilled{l.active.epoch, l.off, len(l.filling.buf)})
	l.putOwn(kindMark, empty[:])
	l.marked = 0
}

// advance ends the active segment and goes on to the next, which has to stand ready.
func (l *Log) advance() {
	l.putOwn(kindEnd, nil)
	l.filling.pad() // the next bytes of the buffer go elsewhere
	l.active.used = l.off
	l.live = append(l.live, l.active)
	next := l.ready[0]
	l.ready = append(l.ready[:0], l.ready[1:]...)
	l.active, l.off, l.records, l.wanted = next, firstRecord, 0, 0
	l.begin()
	signal(l.kick)
}

// begin writes what a segment begins with.
func (l *Log) begin() {
	l.segs[l.active.number] = l.active
	l.putOwn(kindStart, l.startPayload())
	l.marked = markEvery // whatever follows is behind a mark
}

// startPayload returns the payload of the start of a segment at this moment, for the time of a call.
func (l *Log) startPayload() []byte {
	s := startRecord{anchor: l.anchor, size: l.active.size, live: make([]extent, 0, len(l.live)+1)}
	for _, seg := range l.live {
		s.live = append(s.live, extent{seg.number, seg.used})
	}
	l.payload = s.append(l.payload[:0])
	return l.payload
}

// Committed returns the position up to which every record is safe. It never goes back.
func (l *Log) Committed() Position { return l.Safe(store.Default) }

// Safe returns the position up to which every record keeps a promise.
func (l *Log) Safe(p store.Promise) Position {
	if l.resolve(p) == store.Synced {
		return Position(l.safe.Load())
	}
	return Position(l.wrote.Load())
}

// Failed is closed when a write or a sync went wrong: what was appended and is not committed may be lost, and only opening
// the log again tells.
func (l *Log) Failed() <-chan struct{} { return l.dead }

// Err returns why nothing is appended any more; nil while there is no reason.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Wait waits until a record with a payload of n bytes would be taken, or refused for another reason than ErrBusy, which it
// does not return, or until ctx is done.
func (l *Log) Wait(ctx context.Context, n int) error {
	for {
		l.mu.Lock()
		_, err := l.admit(recordSize(n), false)
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		if err != ErrBusy {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// addReady is add that waits while segments are filled faster than they are made: nobody is refused for that.
func (l *Log) addReady(kind byte, urgent bool, promise store.Promise, payload []byte) (Position, error) {
	for {
		pos, err := l.add(kind, urgent, promise, [][]byte{payload})
		if err != ErrBusy {
			return pos, err
		}
		size := recordSize(len(payload))
		again := l.awaitReady(func() (behind bool, err error) {
			_, err = l.admit(size, urgent)
			return int64(l.pending())+size > int64(l.opts.MaxPending), err
		})
		if !again {
			return 0, err
		}
	}
}

// awaitReady waits for the preparer until admits says something else than ErrBusy, and reports whether that is worth another try: not
// when the committer is behind. For that one it does not wait, since who calls may hold what it needs to tell about a commit; the
// preparer needs nobody. admits is called with mu held.
func (l *Log) awaitReady(admits func() (behind bool, err error)) bool {
	for {
		l.mu.Lock()
		behind, err := admits()
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		if err != ErrBusy || behind {
			return !behind
		}
		if l.opts.manual {
			l.prepare()
			continue
		}
		<-room
	}
}

// madeRoom tells those who were refused to try again. The caller holds mu and calls what it returns without.
func (l *Log) madeRoom() (tell func()) {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	if !l.refused || l.opts.OnRoom == nil {
		return func() {}
	}
	l.refused = false
	return l.opts.OnRoom
}

// signal wakes a goroutine that is not awake.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
