package journal

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

// BackupError says that a file is no backup, or not a whole one.
type BackupError struct {
	Reason string
}

func (e *BackupError) Error() string { return "this is not a whole backup: " + e.Reason }

// Progress is told how many bytes of all are done.
type Progress func(done, total int64)

// CheckBackup reads a backup and finds out whether it is whole. What it holds is what was written; whether that makes a log
// is found out by [Unpack].
func CheckBackup(r io.Reader, progress Progress) (BackupInfo, error) {
	u := &unpacker{progress: progress, put: func(backupFile) (io.WriteCloser, error) { return discard{}, nil }}
	err := u.run(r)
	return u.info, err
}

// discard is a file that nobody keeps.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

// Unpack makes a log of a backup in a folder that is empty or does not exist, and verifies it: the backup as a whole, every record,
// and that the log opens where the backup says it ends. Everything is durable when it returns. After an error the folder
// may hold a part of the log, which is of no use.
func Unpack(fsys vfs.FS, dir string, r io.Reader, progress Progress) (BackupInfo, error) {
	var parsed store.Record
	return unpack(fsys, dir, r, progress, func(e Entry) error {
		if e.Name != "" {
			return nil // the log's own, which has been understood
		}
		return parsed.Parse(store.Kind(e.Kind), e.Payload)
	})
}

func unpack(fsys vfs.FS, dir string, r io.Reader, progress Progress, record func(Entry) error) (BackupInfo, error) {
	if err := mustBeEmpty(fsys, dir); err != nil {
		return BackupInfo{}, err
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return BackupInfo{}, explain(dir, fmt.Errorf("make folder: %w", err))
	}
	u := &unpacker{progress: progress, put: func(f backupFile) (io.WriteCloser, error) { return create(fsys, dir, f) }}
	if err := u.run(r); err != nil {
		return u.info, explain(dir, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return u.info, fmt.Errorf("sync journal folder: %w", err)
	}
	return u.info, u.verify(fsys, dir, record)
}

// segmentFile is a segment that is being unpacked.
type segmentFile struct {
	file vfs.File
	off  int64
}

// create makes the file of a segment with all its space.
func create(fsys vfs.FS, dir string, f backupFile) (io.WriteCloser, error) {
	file, err := fsys.OpenFile(filepath.Join(dir, f.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := file.Preallocate(f.Size); err != nil {
		file.Close()
		return nil, err
	}
	return &segmentFile{file: file}, nil
}

func (s *segmentFile) Write(b []byte) (int, error) {
	n, err := s.file.WriteAt(b, s.off)
	s.off += int64(n)
	return n, err
}

// Close makes it durable.
func (s *segmentFile) Close() error { return errors.Join(s.file.Sync(), s.file.Close()) }

// unpacker reads a backup.
type unpacker struct {
	put      func(backupFile) (io.WriteCloser, error)
	progress Progress
	in       *summed
	tar      *tar.Reader
	manifest manifest
	total    int64 // bytes of the whole backup, nearly
	info     BackupInfo
}

// summed is a reader that sums and counts what was read.
type summed struct {
	r   io.Reader
	sum hash.Hash
	n   int64
}

func (s *summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.sum.Write(b[:n])
	s.n += int64(n)
	return n, err
}

func (u *unpacker) run(r io.Reader) error {
	u.in = &summed{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	u.tar = tar.NewReader(u.in)
	if err := u.readManifest(); err != nil {
		return err
	}
	for _, f := range u.manifest.Files {
		if err := u.file(f); err != nil {
			return err
		}
	}
	if err := u.readSummary(); err != nil {
		return err
	}
	if err := u.readSum(); err != nil {
		return err
	}
	u.info.Bytes = u.in.n
	return nil
}

// next goes on to the file with this name, and returns its size.
func (u *unpacker) next(name string) (int64, error) {
	h, err := u.tar.Next()
	if err != nil {
		return 0, cutOff(err)
	}
	if h.Name != name || h.Typeflag != tar.TypeReg || h.Format != tar.FormatUSTAR || h.Size < 0 {
		return 0, &BackupError{fmt.Sprintf("%s is not where it should be", strings.TrimPrefix(name, backupRoot))}
	}
	return h.Size, nil
}

// cutOff says in words why a backup cannot be read on.
func cutOff(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &BackupError{"it was cut off"}
	case errors.Is(err, tar.ErrHeader):
		return &BackupError{"it was damaged, or is something else"}
	}
	return fmt.Errorf("read the backup: %w", err)
}

// maxIndex is the largest manifest that is read, in bytes.
const maxIndex = 16 << 20

// readJSON reads a file that tells about the others.
func (u *unpacker) readJSON(name string, into any) error {
	size, err := u.next(name)
	if err != nil {
		return err
	}
	if size > maxIndex {
		return &BackupError{name + " is too large"}
	}
	b, err := io.ReadAll(u.tar)
	if err != nil {
		return cutOff(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return &BackupError{fmt.Sprintf("%s: %v", name, err)}
	}
	return nil
}

func (u *unpacker) readManifest() error {
	m := &u.manifest
	if err := u.readJSON(backupIndex, m); err != nil {
		return err
	}
	if m.Format < 1 || m.Format > BackupVersion {
		return fmt.Errorf("this backup has format %d and this program knows formats up to %d: restore it with the magpie that made it (%s), or a newer one",
			m.Format, BackupVersion, m.Program)
	}
	u.total = u.in.n
	last := uint32(0)
	for _, f := range m.Files {
		number, ok := parseName(f.Name)
		if !ok || number <= last || f.Length < firstRecord || f.Size < f.Length || f.Size > 1<<32 || f.Size%page != 0 {
			return &BackupError{"its manifest makes no sense"}
		}
		last = number
		u.total += f.Length
	}
	if last == 0 || last != SegmentOf(m.End) {
		return &BackupError{"its manifest makes no sense"}
	}
	u.info = BackupInfo{Program: m.Program, Time: m.Time, Segments: len(m.Files)}
	return nil
}

// file reads a segment.
func (u *unpacker) file(f backupFile) error {
	size, err := u.next(backupFolder + f.Name)
	if err != nil {
		return err
	}
	if size != f.Length {
		return &BackupError{f.Name + " has not the size that the manifest says"}
	}
	out, err := u.put(f)
	if err != nil {
		return fmt.Errorf("make journal segment: %w", err)
	}
	err = u.copy(out)
	if closed := out.Close(); err == nil && closed != nil {
		err = fmt.Errorf("sync journal segment: %w", closed)
	}
	return err
}

// copy copies the present file.
func (u *unpacker) copy(out io.Writer) error {
	for buf := make([]byte, 64<<10); ; {
		n, err := u.tar.Read(buf)
		if _, err := out.Write(buf[:n]); err != nil {
			return fmt.Errorf("write journal segment: %w", err)
		}
		if u.progress != nil {
			u.progress(u.in.n, u.total)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return cutOff(err)
		}
	}
}

func (u *unpacker) readSummary() error {
	var s summary
	if err := u.readJSON(backupSummary, &s); err != nil {
		return err
	}
	u.info.Records, u.info.Messages = s.Records, s.Messages
	return nil
}

// readSum compares the checksum, and wants nothing but zeros behind it: that is how a tar file ends.
func (u *unpacker) readSum() error {
	size, err := u.next(backupSum)
	if err != nil {
		return err
	}
	want := hex.EncodeToString(u.in.sum.Sum(nil))
	const blocks = 512 + 2*512
	rest, err := io.ReadAll(io.LimitReader(u.in, blocks+1))
	switch {
	case err != nil:
		return cutOff(err)
	case len(rest) < blocks:
		return &BackupError{"it was cut off"}
	case size != int64(len(want)), string(rest[:len(want)]) != want:
		return &BackupError{"it does not match its checksum"}
	case len(rest) > blocks, !bytes.Equal(rest[len(want):], make([]byte, blocks-len(want))):
		return &BackupError{"something else follows it"}
	}
	return nil
}

// verify makes sure of what was unpacked.
func (u *unpacker) verify(fsys vfs.FS, dir string, record func(Entry) error) error {
	report, err := Dump(fsys, dir, record)
	if err != nil {
		return fmt.Errorf("verify the backup: %w", err)
	}
	if !report.Whole() {
		return &BackupError{"the journal in it is damaged"}
	}
	st, err := examine(fsys, dir)
	if err != nil {
		return explain(dir, err)
	}
	if st == nil || at(st.active.number, st.tail) != u.manifest.End || hex.EncodeToString(st.active.id[:]) != u.manifest.Log {
		return &BackupError{"the journal in it does not end where it should"}
	}
	return nil
}
