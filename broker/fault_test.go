package broker

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
)

var errInjected = errors.New("injected")

// TestStoreFaults (A23) lets the k-th call of each kind to the file system fail, for every k of a script, alone or with all after it:
// while the broker starts, while clients use it, and while it ends. What it promised is there afterwards, it does not hang, and it
// says why it ended.
func TestStoreFaults(t *testing.T) {
	runs := 0
	for seed := firstSeed(t); seed < firstSeed(t)+3; seed++ {
		calls := make(map[vfs.Op]int)
		synctest.Test(t, func(t *testing.T) { calls = playFault(t, seed, vfs.Fault{}) })
		for _, op := range vfs.Ops() {
			for k := 1; k <= calls[op] && !t.Failed(); k++ {
				for _, fault := range faultsOf(op, k) {
					synctest.Test(t, func(t *testing.T) { playFault(t, seed, fault) })
					runs++
				}
			}
		}
	}
	if runs < 300 && !t.Failed() {
		t.Errorf("only %d faults were tried", runs)
	}
	t.Logf("%d faults", runs)
}

// faultsOf lists the ways in which a call can fail.
func faultsOf(op vfs.Op, k int) []vfs.Fault {
	eio, full := errors.Join(errInjected, syscall.EIO), errors.Join(errInjected, syscall.ENOSPC)
	all := []vfs.Fault{{Op: op, Nth: k, Err: eio}, {Op: op, Nth: k, Err: full, Forever: true}}
	if op == vfs.OpWrite {
		all = append(all, vfs.Fault{Op: op, Nth: k, Err: full, Short: true})
	}
	return all
}

// playFault lets clients use a broker on a disk that was left by a crash and fails, and audits. It returns how many calls there were.
func playFault(t *testing.T, seed uint64, fault vfs.Fault) map[vfs.Op]int {
	s := newStage(t, seed)
	s.play(30)
	s = s.crashed()
	s.label = fmt.Sprintf("seed %d, %s %d fails with %q, forever %v, short %v", seed, fault.Op, fault.Nth, fault.Err, fault.Forever, fault.Short)
	s.lenient, s.fault = true, fault
	s.watch = func(fsys vfs.FS) vfs.FS {
		return &onceFS{FS: fsys, disk: s.disk, failed: make(map[string]bool), again: s.Errorf}
	}
	if err := s.open(); err != nil {
		s.opensLater(err)
	} else {
		s.useFaulty()
	}
	calls := make(map[vfs.Op]int)
	for _, op := range vfs.Ops() {
		calls[op] = s.faulty.Calls(op)
	}
	return calls
}

// play lets clients use a new broker for some steps.
func (s *stage) play(steps int) {
	if err := s.open(); err != nil {
		s.fatalf("open: %v", err)
	}
	s.slow()
	for range steps {
		s.step()
	}
}

// opensLater is for a store that could not be opened: it has said why, and once the disk works everything is there.
func (s *stage) opensLater(err error) {
	if !errors.Is(err, errInjected) {
		s.fatalf("open: %v", err)
	}
	s.close()
	s.outlives()
}

// useFaulty lets clients use the broker while the disk fails, and later while it works again, if the store has survived that.
func (s *stage) useFaulty() {
	b := s.b
	s.slow()
	for range 40 {
		s.step()
	}
	s.outlives()
	s.pace.hurry()
	time.Sleep(10 * time.Millisecond) // calls under way may still fail
	s.faulty.Set(vfs.Fault{})
	if b.failure.Load() == nil {
		time.Sleep(5 * time.Second) // until the journal tries again to get space
		s.reconcile()
		s.l.pardonWills()
	}
	if b.failure.Load() == nil { // still
		s.audit()
	}
	s.outlives()
	s.close()
}

// pardonWills takes it that any Will may have been refused: when it was due there was no space for it.
func (l *ledger) pardonWills() {
	for _, m := range l.postings {
		if m.will {
			m.fate = void
		}
	}
}

// outlives audits what the end of the process leaves, and what a power loss leaves.
func (s *stage) outlives() {
	killed := s.crashed()
	killed.disk = s.disk.Clone()
	for _, f := range []*stage{killed, s.crashed(), s.crashed()} {
		f.late, f.lenient = false, false
		f.l.pardonWills()
		f.survive(0)
	}
}

// onceFS does what Linux does to a file that it could not sync: what was not written counts as written. So it complains when that
// file is synced again, which proves nothing.
type onceFS struct {
	vfs.FS
	disk  *vfs.Mem
	again func(format string, args ...any)

	mu     sync.Mutex
	failed map[string]bool
}

func (f *onceFS) OpenFile(name string, flag int) (vfs.File, error) {
	file, err := f.FS.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	if flag&os.O_TRUNC != 0 {
		f.note(name, false) // another file
	}
	return &onceFile{file, f, name}, nil
}

func (f *onceFS) Rename(from, to string) error {
	f.note(to, false)
	return f.FS.Rename(from, to)
}

func (f *onceFS) note(name string, failed bool) (before bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, f.failed[name] = f.failed[name], failed
	return before
}

type onceFile struct {
	vfs.File
	fs   *onceFS
	name string
}

func (f *onceFile) Sync() error {
	err := f.File.Sync()
	if err != nil {
		f.fs.disk.ForgetDirty(f.name)
	}
	if f.fs.note(f.name, err != nil) {
		f.fs.again("%s was synced again after that had failed", f.name)
	}
	return err
}
