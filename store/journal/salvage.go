package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/magpiemq/magpie/internal/vfs"
)

// Salvage copies what can be read of the log in src into dst, an empty folder or one that does not exist, and reports
// what is lost. In the copy every record has the position it had, and where something was lost stands a record that says
// so; the copy opens like any log. The source is not changed. Progress is as in [Check].
func Salvage(fsys vfs.FS, src, dst string, progress func(done, total int64)) (Report, error) {
	if err := mustBeEmpty(fsys, dst); err != nil {
		return Report{}, err
	}
	if err := fsys.MkdirAll(dst); err != nil {
		return Report{}, explain(dst, fmt.Errorf("make folder: %w", err))
	}
	c := &copier{fs: fsys, dir: dst}
	report, err := inspect(fsys, src, &watcher{begin: c.begin, record: c.record, gap: c.gap, end: c.end, progress: progress})
	if err != nil {
		if c.file != nil {
			c.file.Close()
		}
		return report, err
	}
	if len(report.Segments) == 0 {
		return report, fmt.Errorf("salvage %s: nothing in it can be read", src)
	}
	if err := c.finish(report); err != nil {
		return report, explain(dst, fmt.Errorf("write the copy: %w", err))
	}
	return report, nil
}

func mustBeEmpty(fsys vfs.FS, dir string) error {
	all, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(all) > 0 {
		return &ForeignError{File: filepath.Join(dir, all[0].Name), Reason: "there already"}
	}
	return nil
}

// copier writes a copy of a log, one segment after the other.
type copier struct {
	fs     vfs.FS
	dir    string
	header fileHeader
	file   vfs.File
	off    int64 // how much is written
	buf    []byte
	live   []extent
}

// begin begins a segment.
func (c *copier) begin(h fileHeader) (err error) {
	c.header, c.off, c.buf = h, 0, append(c.buf[:0], h.page()...)
	c.file, err = c.fs.OpenFile(filepath.Join(c.dir, fileName(h.number)), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	return err
}

// place is where the next record goes.
func (c *copier) place() int64 { return c.off + int64(len(c.buf)) }

func (c *copier) record(e entry) error {
	if OffsetOf(e.pos) != c.place() {
		panic("journal: salvage has lost its place")
	}
	c.buf = appendRecord(c.buf, e.kind, e.payload, c.header.epoch, c.place())
	return c.write(readAhead)
}

// gap fills the place of what is lost.
func (c *copier) gap(from, to int64) error {
	if from != c.place() {
		panic("journal: salvage has lost its place")
	}
	for from < to {
		n := min(to-from, readAhead)
		if rest := to - from - n; rest > 0 && rest < minRecord {
			n -= minRecord
		}
		if n < minRecord {
			return nil // what is left at the end of a segment
		}
		c.buf = appendLost(c.buf, n, c.header.epoch, from)
		from += n
		if err := c.write(readAhead); err != nil {
			return err
		}
	}
	return nil
}

// appendLost appends a record of exactly n bytes, of which there are at least minRecord. The length is written longer than
// need be where only that fits.
func appendLost(b []byte, n int64, epoch uint64, off int64) []byte {
	width := int64(1)
	for n-5-width >= 1<<(7*width) {
		width++
	}
	start, payload := len(b), make([]byte, n-5-width)
	b = append(b, 0, 0, 0, 0, kindLost)
	for i, rest := int64(1), uint64(len(payload)); i <= width; i, rest = i+1, rest>>7 {
		c := byte(rest & 0x7f)
		if i < width {
			c |= 0x80
		}
		b = append(b, c)
	}
	crc := crc32.Update(crc32.Checksum(payload, castagnoli), castagnoli, b[start+4:])
	binary.LittleEndian.PutUint32(b[start:], crc^mask(epoch, off))
	return append(b, payload...)
}

// write writes what is in the buffer when it is at least n bytes.
func (c *copier) write(n int) error {
	if len(c.buf) < n {
		return nil
	}
	if _, err := c.file.WriteAt(c.buf, c.off); err != nil {
		return err
	}
	c.off += int64(len(c.buf))
	c.buf = c.buf[:0]
	return nil
}

// end ends a segment: every one in the copy is followed by another.
func (c *copier) end(ended bool) error {
	if !ended {
		c.buf = appendRecord(c.buf, kindEnd, nil, c.header.epoch, c.place())
	}
	c.live = append(c.live, extent{c.header.number, c.place()})
	return c.closeFile()
}

// closeFile writes what is left of a segment, to a whole page, and makes it durable.
func (c *copier) closeFile() error {
	c.buf = append(c.buf, make([]byte, roundUp(c.place())-c.place())...)
	err := c.write(0)
	if err == nil {
		err = c.file.Sync()
	}
	err = errors.Join(err, c.file.Close())
	c.file = nil
	return err
}

// finish writes the segment in which the copy ends.
func (c *copier) finish(report Report) error {
	last := c.live[len(c.live)-1].number
	for _, number := range report.Missing {
		last = max(last, number)
	}
	h := fileHeader{version: FormatVersion, number: last + 1, epoch: randomEpoch(), id: c.header.id}
	if err := c.begin(h); err != nil {
		return err
	}
	start := startRecord{anchor: report.Anchor, live: c.live}
	size := max(minSegment, roundUp(firstRecord+recordSize(len(start.append(nil)))+page))
	if err := c.file.Preallocate(size); err != nil {
		return err
	}
	start.size = size
	c.buf = appendRecord(c.buf, kindStart, start.append(nil), h.epoch, c.place())
	off := c.place()
	c.buf = append(c.buf, make([]byte, markSize)...)
	putMark(c.buf[len(c.buf)-markSize:], kindClose, h.epoch, off, at(h.number, off))
	if err := c.closeFile(); err != nil {
		return err
	}
	return c.fs.SyncDir(c.dir)
}
