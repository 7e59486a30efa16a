package journal

// batch is what waits to be written: records, one behind the other, and where they go.
type batch struct {
	buf    []byte
	pieces []piece
	marks  []unfilled
	frees  []*segment // to be given back once the batch is synced
	eager  bool       // to be synced at once, not only written
	last   Position   // of the last record of a caller; zero when there is none
	end    Position   // where the log ends with it
}

// piece is a part of the buffer that goes to one segment.
type piece struct {
	seg      *segment
	off      int64 // in the file
	from, to int   // in the buffer
}

// unfilled is a mark whose contents are not known before the batch is written.
type unfilled struct {
	epoch uint64
	off   int64 // in the file
	at    int   // in the buffer
}

// keep is how many bytes of buffer a log holds on to when it does not need them.
const keep = 1 << 20

// reset empties the batch. A buffer that was much too large for its batch is given up.
func (b *batch) reset() {
	if cap(b.buf) > keep && len(b.buf) < cap(b.buf)/4 {
		b.buf = nil
	}
	clear(b.pieces)
	clear(b.frees)
	*b = batch{buf: b.buf[:0], pieces: b.pieces[:0], marks: b.marks[:0], frees: b.frees[:0]}
}

// grew notes that the bytes of the buffer from n on go to off in a segment.
func (b *batch) grew(seg *segment, off int64, n int) {
	if i := len(b.pieces) - 1; i >= 0 && b.pieces[i].seg == seg {
		b.pieces[i].to = len(b.buf)
	} else {
		b.pieces = append(b.pieces, piece{seg, off, n, len(b.buf)})
	}
	p := b.pieces[len(b.pieces)-1]
	b.end = at(seg.number, p.off+int64(p.to-p.from))
}

// pad fills the last piece with zeros to a whole page. Writing a part of a page that is not in memory means reading it first,
// and behind the end of the log nothing old is left that somebody has to look at.
func (b *batch) pad() {
	p := &b.pieces[len(b.pieces)-1]
	end := p.off + int64(p.to-p.from)
	var zeros [page]byte
	b.buf = append(b.buf[:p.to], zeros[:roundUp(end)-end]...)
	p.to = len(b.buf)
}

// seal fills in the marks.
func (b *batch) seal(synced Position) {
	for _, m := range b.marks {
		putMark(b.buf[m.at:], kindMark, m.epoch, m.off, synced)
	}
}

// bytes returns the bytes at a position and all that follow in its segment; nil when the batch does not hold them.
func (b *batch) bytes(pos Position) []byte {
	if b == nil || pos >= b.end {
		return nil // behind the end is padding, and the next batch
	}
	for _, p := range b.pieces {
		n := OffsetOf(pos) - p.off
		if p.seg.number == SegmentOf(pos) && n >= 0 && n < int64(p.to-p.from) {
			return b.buf[p.from+int(n) : p.to]
		}
	}
	return nil
}

// roundUp returns the next multiple of page.
func roundUp(n int64) int64 { return (n + page - 1) &^ (page - 1) }
