package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/magpiemq/magpie/internal/vfs"
)

// Report tells what is in a folder and what of it is lost.
type Report struct {
	Segments []SegmentReport // in order, without those that mean nothing
	Records  int64           // of callers, in all of them
	Bytes    int64           // of all records, in bytes
	Gaps     []Gap           // what cannot be read
	Missing  []uint32        // segments that are not there
	Anchor   Position        // as [Log.Anchor]
	Torn     int64           // bytes at the end that were being written and never counted; no damage
}

// Whole says whether nothing is lost.
func (r *Report) Whole() bool { return len(r.Gaps) == 0 && len(r.Missing) == 0 }

// SegmentReport is one segment of a [Report].
type SegmentReport struct {
	Number  uint32
	File    string
	Records int64 // of callers
	Bytes   int64 // of all records, in bytes
}

// Gap is a part of a segment that cannot be read. Records that lay in it are lost, and nothing else is.
type Gap struct {
	File     string
	From, To int64 // offsets in the file
}

func (g Gap) String() string {
	return fmt.Sprintf("%s: bytes %d to %d, %d in all", g.File, g.From, g.To, g.To-g.From)
}

// Entry is a record as [Dump] shows it.
type Entry struct {
	Position Position
	Kind     byte
	Name     string // of a record of the log itself; empty for those of callers
	Payload  []byte // good until the function returns
}

var ownNames = [...]string{"start", "mark", "close", "end", "free", "anchor", "lost"}

// ownName names a kind of record that belongs to the log.
func ownName(kind byte) string {
	if i := int(kind) - int(kindStart); i >= 0 && i < len(ownNames) {
		return ownNames[i]
	}
	return ""
}

// Check reads every record in a folder and reports what it found. The log must not be open. Progress, which may be nil, is
// called now and then with how many of all bytes were read.
func Check(fsys vfs.FS, dir string, progress func(done, total int64)) (Report, error) {
	return inspect(fsys, dir, &watcher{progress: progress})
}

// Dump is Check that calls fn for every record in order, those of the log itself included. An error of fn ends it.
func Dump(fsys vfs.FS, dir string, fn func(Entry) error) (Report, error) {
	return inspect(fsys, dir, &watcher{record: func(e entry) error {
		return fn(Entry{e.pos, e.kind, ownName(e.kind), e.payload})
	}})
}

// watcher is told what a survey meets, in order; nil is skipped.
type watcher struct {
	begin    func(h fileHeader) error
	record   func(entry) error
	gap      func(from, to int64) error
	end      func(ended bool) error // of a segment; by the record that says so
	progress func(done, total int64)
}

// inspect surveys a folder that nobody uses.
func inspect(fsys vfs.FS, dir string, w *watcher) (Report, error) {
	unlock, err := lockIfPossible(fsys, dir)
	if err != nil {
		return Report{}, explain(dir, err)
	}
	defer unlock()
	s := &survey{examiner: examiner{fs: fsys, dir: dir}, watch: w, headers: make(map[uint32]fileHeader)}
	if err := s.run(); err != nil {
		return s.report, explain(dir, err)
	}
	return s.report, nil
}

// lockIfPossible takes the lock of a log that has one. In a folder that cannot be written nobody else can be writing.
func lockIfPossible(fsys vfs.FS, dir string) (unlock func(), err error) {
	name := filepath.Join(dir, lockName)
	if _, err := fsys.Stat(name); err != nil {
		return func() {}, nil
	}
	lock, err := fsys.Lock(name, "")
	if errors.As(err, new(*vfs.LockedError)) {
		return nil, err
	} else if err != nil {
		return func() {}, nil
	}
	return func() { lock.Close() }, nil
}

// survey reads what can be read of a log, whatever happened to it.
type survey struct {
	examiner
	headers   map[uint32]fileHeader
	extents   map[uint32]int64 // of the segments in the log, where they end; zero when that is not known
	lastOne   uint32           // the last segment with records
	lastEnd   int64            // where its records end
	lastEnded bool             // it ends by the record that says so
	watch     *watcher
	report    Report
	done      int64
	total     int64
}

func (s *survey) run() error {
	if err := s.list(); err != nil {
		return err
	}
	if len(s.files) == 0 {
		return fmt.Errorf("journal %s: there is none in this folder", s.dir)
	}
	if err := s.readHeaders(); err != nil {
		return err
	}
	if err := s.findExtents(); err != nil {
		return err
	}
	for _, number := range slices.Sorted(maps.Keys(s.extents)) {
		if err := s.segment(number); err != nil {
			return err
		}
	}
	return s.afterLast()
}

// afterLast looks for what should be behind the last record that can be read.
func (s *survey) afterLast() error {
	if s.lastOne == 0 {
		return nil
	}
	number, from, least := s.lastOne, s.lastEnd, int64(minSegment)
	if s.lastEnded {
		number, from = number+1, 0
	} else if start, ok, err := s.startOf(number); err != nil {
		return err
	} else if ok {
		least = start.size
	}
	if info, ok := s.files[number]; !ok {
		s.report.Missing = append(s.report.Missing, number)
	} else if info.Size < least {
		s.report.Gaps = append(s.report.Gaps, Gap{s.path(number), from, least})
	}
	return nil
}

// readHeaders reads the headers of all segments, by their second copies if need be.
func (s *survey) readHeaders() error {
	for number := range s.files {
		f, err := s.fs.OpenFile(s.path(number), os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("open journal segment: %w", err)
		}
		h, err := anyHeader(f, s.path(number), number)
		f.Close()
		if errors.As(err, new(*VersionError)) {
			return err
		} else if err == nil {
			s.headers[number] = h
		}
	}
	return nil
}

// anyHeader reads the header of a segment, or its copy.
func anyHeader(f vfs.File, path string, number uint32) (fileHeader, error) {
	h, err := headerOf(f, path, number)
	if err == nil || errors.As(err, new(*VersionError)) {
		return h, err
	}
	b := make([]byte, headerSize)
	if vfs.ReadFull(f, b, headerCopy) != nil {
		return h, err
	}
	second, reason := parseFileHeader(b)
	if reason != "" || second.number != number || second.version != FormatVersion {
		return h, err
	}
	return second, nil
}

// findExtents finds out which segments are in the log: those that the newest readable start of a segment lists, and those
// that came later, but for what was freed since.
func (s *survey) findExtents() error {
	s.extents = make(map[uint32]int64)
	var later []uint32
	var first startRecord
	for _, number := range slices.Backward(slices.Sorted(maps.Keys(s.files))) {
		later = append(later, number)
		start, ok, err := s.startOf(number)
		if err != nil {
			return err
		}
		if ok {
			first = start
			break
		}
	}
	for _, x := range first.live {
		s.extents[x.number] = x.used
	}
	if err := s.addLater(later); err != nil {
		return err
	}
	if s.report.Anchor == 0 {
		s.report.Anchor = first.anchor
	}
	for number := range s.extents {
		s.total += s.files[number].Size
	}
	return nil
}

// startOf reads the start of a segment.
func (s *survey) startOf(number uint32) (start startRecord, ok bool, err error) {
	h, ok := s.headers[number]
	if !ok {
		return start, false, nil
	}
	f, err := s.fs.OpenFile(s.path(number), os.O_RDONLY)
	if err != nil {
		return start, false, fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	r, ok, err := scan(f, h, firstRecord, s.files[number].Size).next()
	if err != nil || !ok || r.kind != kindStart {
		return start, false, err
	}
	start, ok = parseStart(r.payload)
	return start, ok, nil
}

// addLater adds the segments from the newest readable start on, given from the last to the first, and takes away what they
// have freed.
func (s *survey) addLater(later []uint32) error {
	var freed []uint32
	for _, number := range later {
		records, anchor := 0, Position(0)
		_, _, err := s.sweep(number, 0, s.files[number].Size, s.lastOne == 0, &watcher{record: func(e entry) error {
			records++
			if e.kind == kindFree {
				freed = append(freed, uint32(ownNumber(e.payload)))
			} else if e.kind == kindAnchor {
				anchor = Position(ownNumber(e.payload))
			}
			return nil
		}})
		if err != nil {
			return err
		}
		s.later(number, records, anchor)
	}
	for _, number := range freed {
		delete(s.extents, number)
	}
	return nil
}

// later notes what is in a segment from the newest readable start on. The last one comes first.
func (s *survey) later(number uint32, records int, anchor Position) {
	if _, readable := s.headers[number]; records > 0 || !readable {
		s.extents[number] = 0
	}
	if records > 0 && s.lastOne == 0 {
		s.lastOne = number
	}
	if s.report.Anchor == 0 {
		s.report.Anchor = anchor
	}
}

// segment reports on one segment.
func (s *survey) segment(number uint32) error {
	info, ok := s.files[number]
	if !ok {
		s.report.Missing = append(s.report.Missing, number)
		return nil
	}
	path, used := s.path(number), s.extents[number]
	if h, ok := s.headers[number]; !ok {
		s.report.Gaps = append(s.report.Gaps, Gap{path, 0, max(info.Size, used)})
		return nil
	} else if s.watch.begin != nil {
		if err := s.watch.begin(h); err != nil {
			return err
		}
	}
	part := SegmentReport{Number: number, File: path}
	end, ended, err := s.sweep(number, used, info.Size, number == s.lastOne, s.counting(&part))
	if err != nil {
		return err
	}
	if number == s.lastOne {
		s.lastEnd, s.lastEnded = end, ended
	}
	if number == s.lastOne && !ended {
		s.report.Torn = s.tornBytes(number, end)
	}
	s.report.Segments = append(s.report.Segments, part)
	s.progress(info.Size)
	if s.watch.end != nil {
		return s.watch.end(ended)
	}
	return nil
}

// counting is the watcher that fills in the report and passes on what it hears.
func (s *survey) counting(part *SegmentReport) *watcher {
	return &watcher{
		record: func(e entry) error {
			part.Bytes += e.size
			s.report.Bytes += e.size
			if e.kind <= MaxKind {
				part.Records++
				s.report.Records++
			}
			if e.kind == kindLost {
				return s.lost(e)
			}
			if s.watch.record != nil {
				return s.watch.record(e)
			}
			return nil
		},
		gap: func(from, to int64) error {
			s.report.Gaps = append(s.report.Gaps, Gap{part.File, from, to})
			if s.watch.gap != nil {
				return s.watch.gap(from, to)
			}
			return nil
		},
	}
}

// lost handles what an earlier salvage could not read. It is no damage: that was reported then.
func (s *survey) lost(e entry) error {
	switch from := OffsetOf(e.pos); {
	case s.watch.gap != nil:
		return s.watch.gap(from, from+e.size)
	case s.watch.record != nil:
		return s.watch.record(e)
	}
	return nil
}

// progress tells that so many more bytes were looked at.
func (s *survey) progress(n int64) {
	s.done += n
	if s.watch.progress != nil {
		s.watch.progress(s.done, s.total)
	}
}

// tornBytes returns how far behind end something is that was not zero, in a segment that ends there.
func (s *survey) tornBytes(number uint32, end int64) int64 {
	f, err := s.fs.OpenFile(s.path(number), os.O_RDONLY)
	if err != nil {
		return 0
	}
	defer f.Close()
	b := make([]byte, max(0, min(page, s.files[number].Size-end)))
	if vfs.ReadFull(f, b, end) != nil {
		return 0
	}
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return int64(n)
}

// sweep reads the records of a segment and steps over what is bad. Used is where they end, zero when that is not known. In the
// last segment, bad records behind which nothing was synced are the end. It returns where it stopped, and whether by the
// record that ends a segment.
func (s *survey) sweep(number uint32, used, size int64, last bool, w *watcher) (end int64, ended bool, err error) {
	h, ok := s.headers[number]
	if !ok {
		return 0, false, nil
	}
	f, err := s.fs.OpenFile(s.path(number), os.O_RDONLY)
	if err != nil {
		return 0, false, fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	limit := size
	if used > 0 {
		limit = min(size, used)
	}
	sc := scan(f, h, firstRecord, limit)
	for sc.off < limit {
		e, ok, err := sc.next()
		if err != nil {
			return sc.off, false, fmt.Errorf("read journal segment: %w", err)
		}
		if ok {
			if err := w.record(e); err != nil || e.kind == kindEnd {
				return sc.off, e.kind == kindEnd, err
			}
			continue
		}
		if on, err := sc.skip(last, max(limit, used), w); err != nil || !on {
			return sc.off, false, err
		}
	}
	if used > limit && w.gap != nil {
		err = w.gap(sc.off, used)
	}
	return sc.off, false, err
}

// skip steps over a bad record. It says whether there is something behind it; if not, all up to limit is lost, or nothing is
// because the log ends here.
func (s *scanner) skip(last bool, limit int64, w *watcher) (on bool, err error) {
	if last {
		if proven, err := s.proof(); err != nil || !proven {
			return false, err
		}
	}
	place, ok, err := s.resync()
	if err != nil {
		return false, fmt.Errorf("read journal segment: %w", err)
	}
	if !ok {
		place = limit
	}
	if w.gap != nil {
		err = w.gap(s.off, place)
	}
	if ok {
		s.off = place
	}
	return ok, err
}
