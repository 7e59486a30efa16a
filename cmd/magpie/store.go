package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// storeCmd looks after the journal of a broker that is not running.
type storeCmd struct {
	Check   storeCheckCmd   `cmd:"" help:"Read all of a journal and say what is damaged. Nothing is changed."`
	Dump    storeDumpCmd    `cmd:"" help:"Print the records of a journal, one a line."`
	Salvage storeSalvageCmd `cmd:"" help:"Copy what is good of a damaged journal."`
}

// storeDir says where a journal is.
type storeDir struct {
	Dir  string `arg:"" optional:"" help:"Data directory of the broker, or the folder of the journal itself ($MAGPIE_DATA, else magpie-data)."`
	Data string `help:"The same as a flag." placeholder:"DIR"`
}

// find returns the directory that was named and the folder of the journal in it.
func (s *storeDir) find() (dir, folder string, err error) {
	switch dir = s.Dir; {
	case s.Dir != "" && s.Data != "":
		return "", "", usagef("the directory is given twice: %s and --data %s", word(s.Dir), word(s.Data))
	case s.Data != "":
		dir = s.Data
	case s.Dir == "":
		if dir = os.Getenv("MAGPIE_DATA"); dir == "" {
			dir = config.DefaultData
		}
	}
	folder, err = journalIn(dir)
	return dir, folder, err
}

// journalIn returns the folder of the journal: dir itself, or the one in the data directory dir.
func journalIn(dir string) (folder string, err error) {
	if _, err := os.ReadDir(dir); err != nil {
		return "", usage(err, "name the data directory of the broker")
	}
	for _, folder := range []string{filepath.Join(dir, journalFolder), dir} {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			continue
		}
		names, err := os.ReadDir(folder)
		if err != nil {
			return "", err
		}
		for _, n := range names {
			if filepath.Ext(n.Name()) == ".seg" {
				return folder, nil
			}
		}
	}
	return "", usage(fmt.Errorf("there is no journal in %s", word(dir)), "a broker makes one with: magpie serve")
}

// storeCheckCmd checks a journal.
type storeCheckCmd struct {
	storeDir
}

// Help is shown by kong below the usage line.
func (*storeCheckCmd) Help() string {
	return examples(
		"magpie store check", "the journal in ./magpie-data",
		"magpie store check /var/lib/magpie", "exit code 1 when something is damaged",
	)
}

// Run says what is in the journal and what is lost of it; the exit code is 1 when something is.
func (c *storeCheckCmd) Run() error {
	dir, folder, err := c.find()
	if err != nil {
		return err
	}
	k := &checker{progress: newProgress("check", os.Stderr), folder: folder}
	if err := k.measure(); err != nil {
		return err
	}
	report, err := journal.Dump(vfs.OS{}, folder, k.record)
	k.progress.end()
	if err != nil {
		return err
	}
	for _, line := range append(k.summary(&report), losses(&report)...) {
		fmt.Println(line)
	}
	if err := k.judge(dir, folder, &report); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// checker looks at each record of a journal.
type checker struct {
	progress *progress
	folder   string
	total    int64 // bytes of all segments
	before   map[uint32]int64
	closed   bool // the last record says that the log was closed in order
	lost     int  // records that stand for what an earlier salvage could not read
	parser
}

// parser reads records as the broker does at its start. One that is whole may still say nothing that a broker understands.
type parser struct {
	parsed  store.Record
	strange int   // records that cannot be understood
	first   error // what is wrong with the first of them
}

// parse reads a record into p.parsed.
func (p *parser) parse(e journal.Entry) error {
	err := p.parsed.Parse(store.Kind(e.Kind), e.Payload)
	if err != nil {
		if p.strange++; p.first == nil {
			p.first = fmt.Errorf("record at %v: %w", place(e.Position), err)
		}
	}
	return err
}

// measure finds out how much there is to read.
func (k *checker) measure() error {
	all, err := os.ReadDir(k.folder) // in the order of numbers
	if err != nil {
		return err
	}
	k.before = make(map[uint32]int64)
	for _, entry := range all {
		var number uint32
		if n, _ := fmt.Sscanf(entry.Name(), "%08x.seg", &number); n != 1 || filepath.Ext(entry.Name()) != ".seg" {
			continue
		}
		if info, err := entry.Info(); err == nil {
			k.before[number] = k.total
			k.total += info.Size()
		}
	}
	return nil
}

// record looks at one record.
func (k *checker) record(e journal.Entry) error {
	k.progress.show(k.before[journal.SegmentOf(e.Position)]+journal.OffsetOf(e.Position), k.total)
	k.closed = e.Name == "close"
	switch e.Name {
	case "":
		_ = k.parse(e) // is counted
	case "lost":
		k.lost++
	}
	return nil
}

// summary says in words what was found.
func (k *checker) summary(r *journal.Report) []string {
	lines := []string{fmt.Sprintf("%s: %s, %s in %s",
		k.folder, count(int(r.Records), "record"), sizeWord(r.Bytes), count(len(r.Segments), "segment"))}
	if k.lost > 0 {
		lines = append(lines, fmt.Sprintf("%s where an earlier salvage found records lost", count(k.lost, "place")))
	}
	if len(r.Segments) == 0 || !r.Whole() {
		return lines
	}
	last := r.Segments[len(r.Segments)-1]
	end := fmt.Sprintf("it ends in %s at byte %d, ", filepath.Base(last.File), segmentHeader+last.Bytes)
	switch {
	case k.closed:
		end += "where the broker was stopped"
	case r.Torn > 0:
		end += "where the broker was cut off; what was being written behind it was never acknowledged, and the next start clears it away"
	default:
		end += "where the broker was cut off; nothing was being written"
	}
	return append(lines, end)
}

// segmentHeader is where the records of a segment begin, in bytes.
const segmentHeader = 4096

// judge returns nil for a journal in which everything is as it was written.
func (p *parser) judge(dir, folder string, r *journal.Report) error {
	switch {
	case !r.Whole():
		return hinted(fmt.Errorf("%s is damaged: %s", folder, lossWords(r)), "copy what is good with: magpie store salvage "+word(dir)+" NEWDIR")
	case p.strange > 0:
		return hinted(fmt.Errorf("%s has %s that cannot be understood, the first: %w", folder, count(p.strange, "record"), p.first),
			"was it written by a newer magpie?")
	}
	return nil
}

// losses are lines that tell what is missing.
func losses(r *journal.Report) (lines []string) {
	for _, g := range r.Gaps {
		lines = append(lines, fmt.Sprintf("lost: %s, bytes %d to %d: the records in these %s cannot be read",
			filepath.Base(g.File), g.From, g.To, count(int(g.To-g.From), "byte")))
	}
	for _, number := range r.Missing {
		lines = append(lines, fmt.Sprintf("lost: %08x.seg is not there: all records in it", number))
	}
	return lines
}

// lossWords counts what is missing.
func lossWords(r *journal.Report) string {
	var all []string
	if n := len(r.Gaps); n > 0 {
		all = append(all, count(n, "gap"))
	}
	if n := len(r.Missing); n > 0 {
		all = append(all, count(n, "missing segment"))
	}
	return strings.Join(all, " and ")
}

// storeSalvageCmd copies what is good.
type storeSalvageCmd struct {
	Dir    string `arg:"" help:"Data directory of the broker, or the folder of the journal itself. Nothing in it is changed."`
	NewDir string `arg:"" name:"newdir" help:"The same for the copy; it is made."`
}

// Help is shown by kong below the usage line.
func (*storeSalvageCmd) Help() string {
	return examples(
		"magpie store salvage /var/lib/magpie /var/lib/magpie-good", "the copy is what serve --data then takes; what is lost is printed",
	)
}

// Run copies and says what could not be; the exit code is 1 when something is lost.
func (c *storeSalvageCmd) Run() error {
	src, err := journalIn(c.Dir)
	if err != nil {
		return err
	}
	dst := c.NewDir
	if filepath.Clean(src) != filepath.Clean(c.Dir) {
		dst = filepath.Join(dst, journalFolder) // a data directory for a data directory
	}
	if within(src, dst) {
		return usagef("%s lies in the journal that is to be copied: choose another folder", word(c.NewDir))
	}
	p := newProgress("salvage", os.Stderr)
	report, err := journal.Salvage(vfs.OS{}, src, dst, p.show)
	p.end()
	if err != nil {
		return c.explain(err)
	}
	fmt.Printf("copied %s, %s in %s, to %s\n", count(int(report.Records), "record"), sizeWord(report.Bytes), count(len(report.Segments), "segment"), dst)
	for _, line := range losses(&report) {
		fmt.Println(line)
	}
	if report.Whole() {
		fmt.Println("nothing is lost")
		return nil
	}
	return hinted(fmt.Errorf("not everything could be copied from %s: %s", src, lossWords(&report)), c.next(dst))
}

// explain adds the remedy to what kept the copy from being made.
func (c *storeSalvageCmd) explain(err error) error {
	switch {
	case errors.As(err, new(*journal.ForeignError)):
		return usage(err, "")
	case errors.As(err, new(*journal.FullError)):
		return hinted(err, "remove "+word(c.NewDir)+" and choose a folder on a larger disk")
	}
	return err
}

// next says what to do with the copy.
func (c *storeSalvageCmd) next(dst string) string {
	if dst == c.NewDir {
		return "to go on without what is lost, put the copy in the place of " + word(c.Dir)
	}
	return "to go on without what is lost: magpie serve --data " + word(c.NewDir)
}

// within says whether a path is a folder or lies in it.
func within(folder, path string) bool {
	rel, err := filepath.Rel(resolved(folder), resolved(path))
	return err == nil && filepath.IsLocal(rel)
}

// resolved is the absolute path without symbolic links, as far as it exists.
func resolved(path string) string {
	path, _ = filepath.Abs(path) // fails only without a working directory, and then nothing is found at all
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(real, rest)
		}
		if filepath.Dir(path) == path {
			return filepath.Join(path, rest)
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}
