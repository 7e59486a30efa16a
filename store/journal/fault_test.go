package journal

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
)

// TestFaults runs scripts in which the k-th call of a kind fails, for every kind and every k, alone or with all after it: while
// the log is opened after a crash, while it works, and while it is closed. Afterwards nothing that was committed may be lost.
func TestFaults(t *testing.T) {
	runs := 0
	for seed := range uint64(12) {
		calls := make(map[vfs.Op]int)
		clean := faultRun(t, seed, vfs.Fault{})
		for _, op := range vfs.Ops() {
			calls[op] = clean.Calls(op)
		}
		for _, op := range vfs.Ops() {
			for k := 1; k <= calls[op]; k++ {
				for _, fault := range faults(op, k) {
					faultRun(t, seed, fault)
					runs++
				}
			}
		}
	}
	if runs < 1000 {
		t.Errorf("only %d faults were tried", runs)
	}
	t.Logf("%d faults", runs)
}

// faults lists the ways in which a call can fail.
func faults(op vfs.Op, k int) []vfs.Fault {
	eio, full := errors.Join(errInjected, syscall.EIO), errors.Join(errInjected, syscall.ENOSPC)
	all := []vfs.Fault{
		{Op: op, Nth: k, Err: eio},
		{Op: op, Nth: k, Err: full, Forever: true},
	}
	if op == vfs.OpWrite {
		all = append(all, vfs.Fault{Op: op, Nth: k, Err: full, Short: true})
	}
	return all
}

// faultRun prepares a log that was left by a crash, goes on with it under a fault, and checks what comes out.
func faultRun(t *testing.T, seed uint64, fault vfs.Fault) *vfs.Faulty {
	w := newWorld(t, seed)
	if err := w.open(); err != nil {
		w.fatalf("open: %v", err)
	}
	for range 60 {
		w.step()
	}
	safe, next := w.safe(), w.mem.Clone() // the process ends; what it had not synced is still in doubt
	w.forgetUnwritten()
	abandon(w.log)
	w.mem, w.faulty = next, vfs.NewFaulty(next)
	w.note("fault %v", fmt.Sprintf("%+v", fault))
	w.faulty.Set(fault)
	w.faulty.Before(nil)

	if err := w.open(); err == nil {
		for _, s := range w.log.Segments() {
			delete(w.freed, s.Number)
		}
		safe = w.underFault(safe)
	} else if !errors.Is(err, errInjected) {
		w.fatalf("open: %v", err)
	}
	if fault.Op == vfs.OpSync {
		w.forgetDirty()
	}
	w.outlives(safe)
	return w.faulty
}

// underFault runs a script and closes the log. It returns what has to survive.
func (w *world) underFault(safe Position) Position {
	before := w.safe()
	for range 60 {
		w.step()
	}
	safe = max(safe, before, w.safe())
	if err := w.log.Close(); err == nil && len(w.history) > 0 {
		safe = w.history[len(w.history)-1].pos + 1 // Close says that it is
	} else if err != nil && !errors.Is(err, errInjected) {
		w.fatalf("close: %v", err)
	}
	select {
	case <-w.log.Failed():
		if _, err := w.log.Append(1); !errors.Is(err, errInjected) || w.log.Err() == nil {
			w.fatalf("a log that has failed says %v", err)
		}
	default:
	}
	return max(safe, w.safe())
}

// forgetUnwritten takes off the list what the end of the process loses.
func (w *world) forgetUnwritten() {
	w.history = slices.DeleteFunc(w.history, func(r appended) bool { return r.pos >= w.log.written })
}

// forgetDirty lets the system believe that what it could not sync is clean.
func (w *world) forgetDirty() {
	all, err := w.mem.ReadDir(testDir)
	if err != nil {
		w.fatalf("%v", err)
	}
	for _, info := range all {
		w.mem.ForgetDirty(testDir + "/" + info.Name)
	}
}

// outlives opens the log three times: after the end of the process, after a power loss, and after a power loss that comes
// once the log was opened after the end of the process.
func (w *world) outlives(safe Position) {
	w.t.Helper()
	lost := w.mem.Crash(w.rng.Uint64())
	l, _ := w.recovered(lost, safe)
	abandon(l)

	killed := w.mem.Clone()
	l, got := w.recovered(killed, safe)
	w.stays(killed, l, got)
}
