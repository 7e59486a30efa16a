package journal

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
)

// A backup is a tar file: a manifest, the segments as far as they mean something, a summary, and the SHA-256 of everything
// before it, by which one that was cut off or changed on its way is recognised. What is in it is the log as a crash at one
// moment would have left it, so whoever restores it opens it like any other.

// BackupVersion is the version of the backups that this package writes, and the highest that it reads.
const BackupVersion = 1

// The names in a backup, in their order, but for the segments between manifest and summary.
const (
	backupRoot    = "magpie-backup/"
	backupIndex   = backupRoot + "manifest.json"
	backupFolder  = backupRoot + "journal/"
	backupSummary = backupRoot + "summary.json"
	backupSum     = backupRoot + "sha256"
)

// BackupInfo says what is in a backup.
type BackupInfo struct {
	Program  string    // that made it
	Time     time.Time // when it began
	Segments int
	Records  int64
	Messages int64 // records of messages, those included that everybody has got by now
	Bytes    int64 // of the whole file
}

// manifest is the first file of a backup.
type manifest struct {
	Format  int          `json:"format"`
	Program string       `json:"program"`
	Time    time.Time    `json:"time"`
	Log     string       `json:"log"` // its id
	End     Position     `json:"end"`
	Files   []backupFile `json:"files"`
}

// backupFile is a segment in a backup.
type backupFile struct {
	Name   string `json:"name"`
	Length int64  `json:"length"` // bytes of it in the backup
	Size   int64  `json:"size"`   // bytes it has to have; what the backup has not is zeros
}

// summary is the last file of a backup but for the checksum.
type summary struct {
	Records  int64 `json:"records"`
	Messages int64 `json:"messages"`
}

// image is a log at one moment.
type image struct {
	id    logID
	end   Position
	parts []stretch // in order; the last one has the end in it
}

// Backup writes a backup of everything that is committed, and maybe a little more, while the store goes on. Every record is checked
// on the way. It takes as long as w does; segments that are freed meanwhile keep their space until it returns. Program is
// what the backup says about its origin.
func (s *Store) Backup(ctx context.Context, w io.Writer, program string) (BackupInfo, error) {
	img, release, err := s.log.pin()
	if err != nil {
		return BackupInfo{}, err
	}
	defer release()
	return writeBackup(ctx, s.log.fs, img, w, program)
}

// Backup writes a backup of a log that is not open, and keeps it locked meanwhile. Nothing in the folder is changed.
func Backup(ctx context.Context, fsys vfs.FS, dir string, w io.Writer, program string) (BackupInfo, error) {
	unlock, err := lockIfPossible(fsys, dir)
	if err != nil {
		return BackupInfo{}, explain(dir, err)
	}
	defer unlock()
	st, err := examine(fsys, dir)
	if err == nil && st == nil {
		err = fmt.Errorf("journal %s: there is none in this folder", dir)
	}
	if err != nil {
		return BackupInfo{}, explain(dir, err)
	}
	return writeBackup(ctx, fsys, st.image(dir), w, program)
}

// pin returns the log as it is written, and keeps the files of freed segments until release is called.
func (l *Log) pin() (img image, release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return img, nil, l.err
	}
	l.pins++
	return l.image(), l.unpin, nil
}

func (l *Log) unpin() {
	l.mu.Lock()
	l.pins--
	l.mu.Unlock()
	signal(l.kick)
}

// image describes what is written. A segment is still a part of that when the record that frees it is not. The caller holds mu.
func (l *Log) image() image {
	img := image{id: l.id, end: l.written}
	all := append(slices.Concat(l.live, l.filling.frees), l.active)
	if l.flushing != nil {
		all = append(all, l.flushing.frees...)
	}
	slices.SortFunc(all, func(a, b *segment) int { return int(a.number) - int(b.number) })
	for _, s := range all {
		switch {
		case s.number < SegmentOf(img.end):
			img.parts = append(img.parts, stretch{seg: s, to: s.used, sealed: true})
		case s.number == SegmentOf(img.end):
			img.parts = append(img.parts, stretch{seg: s, to: OffsetOf(img.end)})
		}
	}
	return img
}

// image describes a log that is not open.
func (st *state) image(dir string) image {
	img := image{id: st.active.id, end: at(st.active.number, st.tail)}
	for i, e := range st.live {
		img.parts = append(img.parts, stretch{seg: segmentAt(dir, st.headers[i], st.sizes[i]), to: e.used, sealed: true})
	}
	img.parts = append(img.parts, stretch{seg: segmentAt(dir, st.active, st.size), to: st.tail})
	return img
}

// manifest describes the files of an image.
func (img image) manifest(program string) manifest {
	m := manifest{
		Format: BackupVersion, Program: program, Time: time.Now().UTC().Truncate(time.Second), Log: hex.EncodeToString(img.id[:]), End: img.end,
	}
	for _, p := range img.parts {
		size := roundUp(p.to)
		if !p.sealed {
			size = max(size, p.seg.size) // the log goes on in it
		}
		m.Files = append(m.Files, backupFile{fileName(p.seg.number), p.to, size})
	}
	return m
}

// packer writes a backup.
type packer struct {
	ctx  context.Context
	fs   vfs.FS
	tar  *tar.Writer
	sum  hash.Hash // of everything written so far
	out  *counter
	time time.Time
	info BackupInfo
}

// counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func writeBackup(ctx context.Context, fsys vfs.FS, img image, w io.Writer, program string) (BackupInfo, error) {
	m := img.manifest(program)
	p := &packer{ctx: ctx, fs: fsys, sum: sha256.New(), time: m.Time}
	p.info = BackupInfo{Program: m.Program, Time: m.Time, Segments: len(m.Files)}
	p.out = &counter{w: io.MultiWriter(w, p.sum)}
	p.tar = tar.NewWriter(p.out)
	if err := p.write(img, m); err != nil {
		return p.info, fmt.Errorf("backup: %w", err)
	}
	p.info.Bytes = p.out.n
	return p.info, nil
}

func (p *packer) write(img image, m manifest) error {
	if err := p.addJSON(backupIndex, m); err != nil {
		return err
	}
	for _, part := range img.parts {
		if err := p.addSegment(part); err != nil {
			return err
		}
	}
	if err := p.addJSON(backupSummary, summary{p.info.Records, p.info.Messages}); err != nil {
		return err
	}
	if err := p.begin(backupSum, 2*sha256.Size); err != nil {
		return err
	}
	if _, err := io.WriteString(p.tar, hex.EncodeToString(p.sum.Sum(nil))); err != nil {
		return err
	}
	return p.tar.Close()
}

// begin begins a file of the backup.
func (p *packer) begin(name string, size int64) error {
	if err := p.tar.Flush(); err != nil { // to the end of the file before
		return err
	}
	return p.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: p.time, Format: tar.FormatUSTAR,
	})
}

func (p *packer) addJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if err := p.begin(name, int64(len(b))); err != nil {
		return err
	}
	_, err = p.tar.Write(b)
	return err
}

// addSegment checks and copies a segment.
func (p *packer) addSegment(part stretch) error {
	f, err := p.fs.OpenFile(part.seg.path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	defer f.Close()
	if err := p.check(f, part); err != nil {
		return err
	}
	if err := p.begin(backupFolder+filepath.Base(part.seg.path), part.to); err != nil {
		return err
	}
	_, err = io.Copy(p.tar, &untilDone{p.ctx, io.NewSectionReader(f, 0, part.to)})
	return err
}

// check reads the records of a segment: a backup of a damaged log would be noticed when it is needed, which is too late.
func (p *packer) check(f vfs.File, part stretch) error {
	if _, err := headerOf(f, part.seg.path, part.seg.number); err != nil {
		return err
	}
	s, last := scan(f, part.seg.fileHeader, firstRecord, part.to), byte(0)
	for s.off < part.to {
		e, ok, err := s.next()
		if err == nil {
			err = p.ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read journal segment %s: %w", part.seg.path, err)
		} else if !ok {
			return &DamageError{File: part.seg.path, Offset: s.off, Reason: "bad record"}
		}
		last = e.kind
		p.info.count(e.kind)
	}
	if part.sealed && last != kindEnd {
		return &DamageError{File: part.seg.path, Offset: s.off, Reason: "it does not end as it did"}
	}
	return nil
}

// count counts a record.
func (i *BackupInfo) count(kind byte) {
	if kind <= MaxKind {
		i.Records++
	}
	if k := store.Kind(kind); k == store.Accepted || k == store.Moved {
		i.Messages++
	}
}

// untilDone reads until ctx is done.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b[:min(len(b), readAhead)])
}
