package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/magpiemq/magpie/internal/vfs"
)

// state is what a folder holds. Looking for it changes nothing.
type state struct {
	active   fileHeader // the segment in which the log ends
	size     int64      // of its file
	started  bool       // it has records
	tail     int64      // where the next one goes
	unsynced int64      // what lies before this is known to be synced
	before   int64      // the same of the segment before it, when the active one has not started; zero for nothing
	clean    bool       // nothing was being written when the log was left
	records  int        // of callers in the active segment
	last     Position   // up to which everything is in the log
	anchor   Position

	live       []extent // the segments before it, and their headers and sizes
	headers    []fileHeader
	sizes      []int64
	ahead      []fileHeader // empty ones after it, and their sizes
	aheadSizes []int64
	strays     []string // files that mean nothing
}

// examiner is the state while it is being found.
type examiner struct {
	state
	fs    vfs.FS
	dir   string
	files map[uint32]vfs.Info
	walk  walked // through the last segment with records
}

// walked is what the records of a segment tell.
type walked struct {
	header  fileHeader
	size    int64
	end     int64 // where its good records end
	ended   bool  // by the record that says so
	clean   bool
	synced  Position
	last    Position
	records int
	start   startRecord
	freed   []uint32
}

// examine finds out what a folder holds; nil when it holds no log and could take one.
func examine(fsys vfs.FS, dir string) (*state, error) {
	e := &examiner{fs: fsys, dir: dir}
	if err := e.list(); err != nil || len(e.files) == 0 {
		return nil, err
	}
	if err := e.findEnd(); err != nil {
		return nil, err
	}
	if err := e.checkLive(); err != nil {
		return nil, err
	}
	if err := e.findAhead(); err != nil {
		return nil, err
	}
	return &e.state, nil
}

// list sorts the names in the folder.
func (e *examiner) list() error {
	all, err := e.fs.ReadDir(e.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read journal folder: %w", err)
	}
	e.files = make(map[uint32]vfs.Info)
	var other string
	for _, info := range all {
		if number, ok := parseName(info.Name); ok {
			e.files[number] = info
		} else if isLeftOver(info.Name) {
			e.strays = append(e.strays, info.Name)
		} else if info.Name != lockName && info.Name[0] != '.' && info.Name != "lost+found" {
			other = info.Name
		}
	}
	if len(e.files) == 0 && other != "" {
		return &ForeignError{File: filepath.Join(e.dir, other), Reason: foreign(other)}
	}
	return nil
}

// foreign says what a file is that is not ours.
func foreign(name string) string {
	if name == "mosquitto.db" {
		return "a database of Mosquitto, which `magpie import mosquitto` reads, and not part of a journal"
	}
	return "not part of a journal"
}

// isLeftOver says whether a file is a segment that was being prepared or was freed.
func isLeftOver(name string) bool {
	if base, ok := strings.CutSuffix(name, newSuffix); ok {
		_, ok := parseName(base)
		return ok
	}
	base, ok := strings.CutSuffix(name, oldSuffix)
	_, ours := parseName(base + ".seg")
	return ok && ours
}

// path returns where a segment is.
func (e *examiner) path(number uint32) string { return filepath.Join(e.dir, fileName(number)) }

// header reads the header of a segment.
func (e *examiner) header(number uint32) (h fileHeader, err error) {
	return readHeader(e.fs, e.path(number), number)
}

// readHeader reads the header of a file that should be the segment of this number.
func readHeader(fsys vfs.FS, path string, number uint32) (h fileHeader, err error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return h, fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	return headerOf(f, path, number)
}

func headerOf(f vfs.File, path string, number uint32) (h fileHeader, err error) {
	size, err := f.Size()
	if err != nil {
		return h, fmt.Errorf("read journal segment: %w", err)
	}
	b := make([]byte, min(size, headerSize))
	if err := vfs.ReadFull(f, b, 0); err != nil {
		return h, fmt.Errorf("read journal segment: %w", err)
	}
	h, reason := parseFileHeader(b)
	switch {
	case reason != "":
		return h, &DamageError{File: path, Reason: reason}
	case h.version == 0 || h.version > FormatVersion:
		return h, &VersionError{File: path, Version: h.version}
	case h.number != number:
		return h, &DamageError{File: path, Reason: fmt.Sprintf("it is segment %d under another name", h.number)}
	}
	return h, nil
}

// findEnd finds the segment in which the log ends, and where.
func (e *examiner) findEnd() error {
	numbers := slices.Sorted(maps.Keys(e.files))
	for _, number := range slices.Backward(numbers) {
		w, started, err := e.walkThrough(number)
		if err != nil {
			return err
		}
		if started {
			e.walk = w
			return e.endAt(w)
		}
	}
	return e.endBeforeStart(numbers[0])
}

// endBeforeStart handles a log of which not even the first record was written.
func (e *examiner) endBeforeStart(first uint32) error {
	if first != 1 {
		return &MissingError{Dir: e.dir, Number: first - 1}
	}
	return e.endIn(1)
}

// endAt decides where the log ends, given the last segment that has begun.
func (e *examiner) endAt(w walked) error {
	e.anchor, e.last = w.start.anchor, w.last
	for _, x := range w.start.live {
		if !slices.Contains(w.freed, x.number) {
			e.live = append(e.live, x)
		}
	}
	if w.ended {
		e.live = append(e.live, extent{w.header.number, w.end})
		e.before = w.known()
		return e.endIn(w.header.number + 1)
	}
	e.active, e.size, e.started, e.tail = w.header, w.size, true, w.end
	e.clean, e.records, e.unsynced = w.clean, w.records, w.known()
	return nil
}

// known returns the offset before which everything is known to be synced.
func (w *walked) known() int64 {
	if SegmentOf(w.synced) != w.header.number {
		return firstRecord
	}
	return min(max(firstRecord, OffsetOf(w.synced)), w.end)
}

// endIn handles a log that ends at the very beginning of a segment: the first batch in it was torn, or never written.
func (e *examiner) endIn(number uint32) error {
	info, ok := e.files[number]
	if !ok {
		return &MissingError{Dir: e.dir, Number: number}
	}
	h, err := e.header(number)
	if err != nil {
		return err
	}
	if len(e.live) > 0 && h.id != e.walk.header.id {
		return &ForeignError{File: e.path(number), Reason: "part of another journal"}
	}
	e.active, e.size, e.tail, e.unsynced = h, info.Size&^(page-1), firstRecord, firstRecord
	if e.size < minSegment {
		return &DamageError{File: e.path(number), Offset: info.Size, Reason: "the file is too short"}
	}
	return e.torn(h, firstRecord, "it does not begin as a segment does")
}

// torn returns a DamageError when the record at off in a segment was whole once.
func (e *examiner) torn(h fileHeader, off int64, reason string) error {
	f, err := e.fs.OpenFile(e.path(h.number), os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read journal segment: %w", err)
	}
	proven, err := scan(f, h, off, size).proof()
	if err != nil {
		return fmt.Errorf("read journal segment: %w", err)
	} else if proven {
		return &DamageError{File: e.path(h.number), Offset: off, Reason: reason}
	}
	return nil
}

// walkThrough reads all records of a segment. started is false when there are none.
func (e *examiner) walkThrough(number uint32) (w walked, started bool, err error) {
	f, err := e.fs.OpenFile(e.path(number), os.O_RDONLY)
	if err != nil {
		return w, false, fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	if w.header, err = headerOf(f, e.path(number), number); err != nil {
		return w, false, err
	}
	size, err := f.Size()
	if err != nil {
		return w, false, fmt.Errorf("read journal segment: %w", err)
	}
	if size < minSegment {
		return w, false, &DamageError{File: e.path(number), Offset: size, Reason: "the file is shorter than it was: it was copied in part, copy it again"}
	}
	w.size = size &^ (page - 1)
	s := scan(f, w.header, firstRecord, size)
	for more := true; more; {
		r, ok, err := s.next()
		if err != nil {
			return w, false, fmt.Errorf("read journal segment: %w", err)
		}
		if !ok {
			break
		}
		if more, err = w.take(r); err != nil {
			return w, false, &DamageError{File: e.path(number), Offset: OffsetOf(r.pos), Reason: err.Error()}
		}
	}
	w.end = s.off
	if w.end == firstRecord {
		return w, false, nil
	}
	return w, true, e.checkWalk(w)
}

// checkWalk looks for damage in the last segment.
func (e *examiner) checkWalk(w walked) error {
	if w.size < w.start.size {
		return &DamageError{File: e.path(w.header.number), Offset: w.size, Reason: "the file is shorter than it was: it was copied in part, copy it again"}
	}
	if w.ended {
		return nil
	}
	return e.torn(w.header, w.end, "bad record")
}

var errOrder = errors.New("a record is not where it belongs")

// take learns from a record. more is false when none can follow.
func (w *walked) take(r entry) (more bool, err error) {
	w.clean = r.kind == kindClose
	first := OffsetOf(r.pos) == firstRecord
	if first != (r.kind == kindStart) {
		return false, errOrder
	}
	switch r.kind {
	case kindStart:
		var ok bool
		if w.start, ok = parseStart(r.payload); !ok {
			return false, errOrder
		}
		if len(w.start.live) > 0 {
			w.last = r.pos // everything before is in the log
		}
	case kindMark, kindClose:
		if synced, ok := parseMark(r.payload, w.header.epoch); ok {
			w.synced = max(w.synced, synced)
		}
	case kindFree:
		w.freed = append(w.freed, uint32(ownNumber(r.payload)))
	case kindAnchor:
		w.start.anchor = Position(ownNumber(r.payload))
	case kindEnd:
		w.ended = true
		return false, nil
	default:
		if r.kind <= MaxKind {
			w.last = r.pos
			w.records++
		}
	}
	return true, nil
}

// checkLive makes sure that every segment that the log refers to is there, down to its last record.
func (e *examiner) checkLive() error {
	for _, x := range e.live {
		info, ok := e.files[x.number]
		if !ok {
			return &MissingError{Dir: e.dir, Number: x.number}
		}
		h, err := e.checkSealed(x)
		if err != nil {
			return err
		}
		e.headers, e.sizes = append(e.headers, h), append(e.sizes, info.Size)
	}
	return nil
}

// checkSealed makes sure that a segment ends where it should.
func (e *examiner) checkSealed(x extent) (h fileHeader, err error) {
	path := e.path(x.number)
	f, err := e.fs.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return h, fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	if h, err = headerOf(f, path, x.number); err != nil {
		return h, err
	}
	if h.id != e.walk.header.id {
		return h, &ForeignError{File: path, Reason: "part of another journal"}
	}
	size, err := f.Size()
	if err != nil {
		return h, fmt.Errorf("read journal segment: %w", err)
	}
	if size < x.used {
		return h, &DamageError{File: path, Offset: size, Reason: "the file is shorter than it was: it was copied in part, copy it again"}
	}
	r, ok, err := scan(f, h, x.used-endSize, x.used).next()
	if err != nil {
		return h, fmt.Errorf("read journal segment: %w", err)
	} else if !ok || r.kind != kindEnd {
		return h, &DamageError{File: path, Offset: x.used - endSize, Reason: "it does not end as it did"}
	}
	return h, nil
}

// findAhead finds the empty segments that stand ready. All others that the log does not refer to mean nothing.
func (e *examiner) findAhead() error {
	next := e.active.number + 1
	for _, number := range slices.Sorted(maps.Keys(e.files)) {
		info := e.files[number]
		live := slices.ContainsFunc(e.live, func(x extent) bool { return x.number == number })
		if live || number == e.active.number {
			continue
		}
		if number != next || info.Size < minSegment {
			e.strays = append(e.strays, info.Name)
			continue
		}
		h, err := e.header(number)
		if err != nil {
			return err
		}
		if h.id != e.active.id {
			return &ForeignError{File: e.path(number), Reason: "part of another journal"}
		}
		e.ahead, e.aheadSizes = append(e.ahead, h), append(e.aheadSizes, info.Size&^(page-1))
		next++
	}
	return nil
}
