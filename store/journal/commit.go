package journal

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// committer writes batches until the log is closed.
func (l *Log) committer() {
	defer l.wait.Done()
	var tick <-chan time.Time // when the log is to be synced; nil when it is
	for {
		select {
		case <-l.wake:
			runtime.Gosched() // whoever was told of the last batch may have the next record at hand
			if l.commit() && tick == nil && l.due() {
				tick = time.After(l.opts.SyncWithin)
			}
		case <-tick:
			tick = nil
			l.syncNow()
		case <-l.quit:
			l.commit()
			l.syncNow()
			return
		}
	}
}

// commit writes what waits, and reports whether there was anything.
func (l *Log) commit() bool {
	b := l.flush()
	if b == nil {
		return false
	}
	err := l.write(b)
	if err == nil && b.eager {
		err = l.sync(b.end)
	}
	l.finish(b, err)
	return true
}

// due says whether something is written and not synced.
func (l *Log) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written > l.synced && !l.failed()
}

// flush takes the batch that was being filled; nil when it is empty or will never be written.
func (l *Log) flush() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.filling
	if len(b.buf) == 0 || l.failed() {
		return nil
	}
	b.pad()
	l.filling, l.flushing, l.spare = l.spare, b, nil
	l.marked = 0
	b.seal(l.synced)
	return b
}

// failed says whether a write or sync went wrong. The caller holds mu.
func (l *Log) failed() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// write writes a batch. A segment is synced before the first byte goes to the one after it: only the last one of a log can
// have a torn end.
func (l *Log) write(b *batch) error {
	for _, p := range b.pieces {
		if l.out != p.seg {
			if err := l.leave(p.seg); err != nil {
				return err
			}
		}
		if err := l.writePiece(b.buf[p.from:p.to], p.off); err != nil {
			return err
		}
	}
	l.unsynced = append(l.unsynced, b.frees...)
	return nil
}

// unsyncedMost is how many bytes may be written and not synced. So many may be torn by a power loss, and have to be overwritten by
// the next opening: docs/journal-format.md promises it.
const unsyncedMost = 8 << 20

// writePiece writes to the segment in which the log ends, and syncs in between when much was written since the last time.
func (l *Log) writePiece(b []byte, off int64) error {
	for len(b) > 0 {
		if l.risk >= l.opts.atRisk {
			if err := l.syncFile(); err != nil {
				return err
			}
		}
		n := min(int64(len(b)), l.opts.atRisk-l.risk)
		if _, err := l.out.file.WriteAt(b[:n], off); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
		l.risk += n
		b, off = b[n:], off+n
	}
	return nil
}

// syncFile makes durable what was written to the segment in which the log ends.
func (l *Log) syncFile() error {
	if err := l.out.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	l.risk = 0
	return nil
}

// leave syncs the segment that was being written and goes on to the next.
func (l *Log) leave(next *segment) error {
	if l.out != nil {
		if err := l.sync(at(next.number, 0)); err != nil {
			return err
		}
		l.files.add(l.out)
	}
	l.out = next
	return nil
}

// sync makes durable what was written, which reaches up to end.
func (l *Log) sync(end Position) error {
	if err := l.syncFile(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = end
	if len(l.unsynced) > 0 {
		l.doomed = append(l.doomed, l.unsynced...)
		clear(l.unsynced)
		l.unsynced = l.unsynced[:0]
		signal(l.kick)
	}
	return nil
}

// syncNow makes durable what was written since the last sync.
func (l *Log) syncNow() {
	if !l.due() {
		return
	}
	if err := l.sync(l.written); err != nil { // which nobody else changes
		l.fail(err)
		return
	}
	l.advanced(0, Position(l.wrote.Load()))
}

// advanced notes up to which record of a caller the log is written and synced now, zero for no news, and tells.
func (l *Log) advanced(wrote, safe Position) {
	news := raise(&l.wrote, wrote)
	if news = raise(&l.safe, safe) || news; news && l.opts.OnCommit != nil {
		l.opts.OnCommit(l.Committed())
	}
}

// raise sets a position unless it is there already.
func raise(at *atomic.Uint64, p Position) (changed bool) {
	if at.Load() >= uint64(p) {
		return false
	}
	at.Store(uint64(p))
	return true
}

// finish tells that a batch is committed, or that the log has failed.
func (l *Log) finish(b *batch, err error) {
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	l.written = b.end
	wrote, safe := max(b.last, Position(l.wrote.Load())), Position(0)
	if b.eager {
		safe = wrote // and all before it
	}
	b.reset()
	l.flushing, l.spare = nil, b
	tell := l.madeRoom()
	l.mu.Unlock()
	l.advanced(wrote, safe)
	tell()
}

// fail ends the log. What it could not write stays where it is, so that it can be read.
func (l *Log) fail(err error) {
	l.mu.Lock()
	if l.failed() {
		l.mu.Unlock()
		return
	}
	l.err = fmt.Errorf("%w: nothing is committed any more; only a restart finds out what is on the disk", err)
	close(l.dead)
	l.tight.Store(false)
	tell := l.madeRoom()
	l.mu.Unlock()
	if l.opts.OnFail != nil {
		l.opts.OnFail(err)
	}
	tell()
}

// Close commits what was appended, makes it durable and ends the log. It returns why the log has failed, if it has.
func (l *Log) Close() error {
	err := ErrClosed
	l.closing.Do(func() { err = l.close() })
	return err
}

func (l *Log) close() error {
	l.mu.Lock()
	err := l.err
	if err == nil {
		l.err = ErrClosed
	}
	tell := l.madeRoom()
	l.mu.Unlock()
	tell()
	close(l.quit)
	l.wait.Wait()
	if l.opts.manual {
		l.commit()
		l.syncNow()
	}
	if !l.failed() {
		err = l.sealOff()
	} else {
		err = l.Err()
	}
	l.closeFiles()
	l.lock.Close()
	return err
}

// sealOff writes a mark that says that nothing was going on, where there is space for it. Without it the next opening has a
// little more to do.
func (l *Log) sealOff() error {
	if l.off+markSize+markSize+endSize > l.active.size {
		return nil
	}
	b := make([]byte, roundUp(l.off+markSize)-l.off)
	putMark(b, kindClose, l.active.epoch, l.off, at(l.active.number, l.off))
	if _, err := l.active.file.WriteAt(b, l.off); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	if err := l.active.file.Sync(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// closeFiles closes every file of the log.
func (l *Log) closeFiles() {
	all := slices.Concat(slices.Collect(maps.Values(l.segs)), l.ready, l.doomed, l.unsynced, l.filling.frees)
	if l.flushing != nil {
		all = append(all, l.flushing.frees...)
	}
	for _, s := range all {
		s.close(true, false)
	}
}
