package journal

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
)

// Options say how a log behaves. The zero value is a durable log.
type Options struct {
	// SegmentSize is the size of a segment in bytes, rounded up to a multiple of 4096, from 8 KiB to 1 GiB. Zero means 64 MiB. A
	// record that is larger gets a larger segment. The size may differ from one opening of a log to the next.
	SegmentSize int64

	// Interval is how often the log is synced when records count as committed once they are written: a power loss
	// may take what was committed in that time, the end of the process may not. Zero means that they count once they are
	// synced, and that each batch is.
	Interval time.Duration

	// MaxPending is how many bytes may wait for the disk before Append returns [ErrBusy]. Zero means 16 MiB. One record is
	// always taken when nothing waits, whatever its size.
	MaxPending int

	// Spares is how many freed segments are kept to be used again, besides the two that stand ready. Zero means 4; less than
	// zero means none.
	Spares int

	// OnCommit is called after Committed has advanced, with what it returns. OnRoom is called when it is worth trying again
	// what was answered by ErrBusy. OnFail is called once when a write or a sync went wrong; nothing will be committed any
	// more. All run on goroutines of the log, must not block and must not call Close; nil is skipped.
	OnCommit func(Position)
	OnRoom   func()
	OnFail   func(error)

	manual bool          // tests drive the log by commit and prepare; it has no goroutines
	random func() uint64 // where epochs come from
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
	if o.random == nil {
		o.random = randomEpoch
	}
	return nil
}

// readyAhead is how many segments stand ready. The last one is for [Log.AppendUrgent] alone.
const readyAhead = 2

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

	committed atomic.Uint64

	mu       sync.Mutex // guards all below but the fields of the committer and the preparer
	err      error      // why nothing is appended any more
	full     error      // why the segments that should stand ready do not; nil while they do, or are being made
	segs     map[uint32]*segment
	live     []*segment // the same but the active one, in order
	active   *segment   // where the log ends
	off      int64      // and at which place in it
	records  int        // of callers in the active segment
	marked   int        // bytes in the filling batch since the last mark
	ready    []*segment // what follows, in order
	grow     growth
	doomed   []*segment // freed, and the news of that is synced
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
	return l.add(kind, false, parts)
}

// AppendUrgent is Append for records that make room, such as acknowledgements and deletions: when the disk is full, it has
// one more segment than Append.
func (l *Log) AppendUrgent(kind byte, parts ...[]byte) (Position, error) {
	return l.add(kind, true, parts)
}

// AppendWait is Append that waits while the log is busy, until ctx is done.
func (l *Log) AppendWait(ctx context.Context, kind byte, parts ...[]byte) (Position, error) {
	for {
		pos, err := l.add(kind, false, parts)
		if err != ErrBusy {
			return pos, err
		}
		if err := l.Wait(ctx, length(parts)); err != nil {
			return 0, err
		}
	}
}

func (l *Log) add(kind byte, urgent bool, parts [][]byte) (Position, error) {
	if kind == 0 || kind > MaxKind {
		return 0, ErrKind
	}
	n := length(parts)
	if n > MaxPayload {
		return 0, ErrTooLarge
	}
	pos, err := l.take(kind, urgent, n, sum(parts), parts)
	if err == nil {
		signal(l.wake)
	}
	return pos, err
}

func (l *Log) take(kind byte, urgent bool, n int, crc uint32, parts [][]byte) (Position, error) {
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
	return at(l.active.number, off)
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
	l.active, l.off, l.records = next, firstRecord, 0
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
func (l *Log) Committed() Position { return Position(l.committed.Load()) }

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
