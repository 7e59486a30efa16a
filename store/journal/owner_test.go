package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// fact is something that the owner has told the store.
type fact struct {
	at      Position
	message string // its payload
	to      []store.SessionID
	topic   string          // of a retained message; with an empty message what is retained is removed
	done    store.SessionID // that needs the message no more
}

// belief is what is known after some facts: for each session what waits for it, in order, and what is retained.
type belief struct {
	queues   map[store.SessionID][]string
	retained map[string]string
}

func (b *belief) String() string {
	var out strings.Builder
	for _, id := range slices.Sorted(maps.Keys(b.queues)) {
		fmt.Fprintf(&out, "%d: %q\n", id, b.queues[id])
	}
	for _, name := range slices.Sorted(maps.Keys(b.retained)) {
		fmt.Fprintf(&out, "%s: %q\n", name, b.retained[name])
	}
	return out.String()
}

// believe sums up the facts up to a position.
func believe(facts []fact, last Position) *belief {
	b := &belief{make(map[store.SessionID][]string), make(map[string]string)}
	for _, f := range facts {
		if f.at > last {
			break
		}
		for _, id := range f.to {
			b.queues[id] = append(b.queues[id], f.message)
		}
		if f.done != 0 {
			b.queues[f.done] = slices.DeleteFunc(b.queues[f.done], func(m string) bool { return m == f.message })
		}
		if f.topic != "" && f.message != "" {
			b.retained[f.topic] = f.message
		} else if f.topic != "" {
			delete(b.retained, f.topic)
		}
	}
	maps.DeleteFunc(b.queues, func(_ store.SessionID, q []string) bool { return len(q) == 0 })
	return b
}

// owner uses a store as a broker does, one step at a time: nothing is concurrent, the script decides when the goroutines of store and
// log do what they do.
type owner struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	mem    *vfs.Mem
	faulty *vfs.Faulty
	opts   StoreOptions
	store  *Store
	facts  []fact
	last   int // number of the last message

	queues   map[store.SessionID][]Position
	retained map[string]Position
	moved    map[Position]Position // while a log is replayed
	gone     map[Position]Position
	replaced map[string]Position

	checkpoints, cleaned, copied int
	trace                        []string
}

const ownerSessions = 5

func newOwner(t *testing.T, seed uint64) *owner {
	o := &owner{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 11)), mem: vfs.NewMem()}
	o.faulty = vfs.NewFaulty(o.mem)
	o.opts = StoreOptions{
		Log:             Options{SegmentSize: minSegment, Spares: o.rng.IntN(3) - 1, manual: true, random: o.rng.Uint64, atRisk: 1 + o.rng.Int64N(minSegment)},
		CheckpointAfter: 1 + o.rng.Int64N(3*minSegment), CleanRate: 1 << 50,
	}
	if o.rng.IntN(4) == 0 {
		o.opts.Log.Interval = 1
	}
	return o
}

func (o *owner) note(format string, args ...any) {
	o.trace = append(o.trace, fmt.Sprintf(format, args...))
}

func (o *owner) fatalf(format string, args ...any) {
	o.t.Helper()
	o.t.Fatalf("seed %d: %s\nlast steps: %q", o.seed, fmt.Sprintf(format, args...), o.trace[max(0, len(o.trace)-25):])
}

// open opens the store and restores what is in it.
func (o *owner) open(fsys vfs.FS) error {
	s, err := OpenStore(fsys, testDir, o.opts)
	if err != nil {
		return err
	}
	o.store = s
	o.queues, o.retained = make(map[store.SessionID][]Position), make(map[string]Position)
	o.moved, o.gone, o.replaced = make(map[Position]Position), make(map[Position]Position), make(map[string]Position)
	if err := s.Restore(o.apply); err != nil {
		return err
	}
	for id, q := range o.queues {
		for i, p := range q {
			q[i] = o.where(p)
			s.Use(q[i], 1)
		}
		if len(q) == 0 {
			delete(o.queues, id)
		}
	}
	for name, p := range o.retained {
		o.retained[name] = o.where(p)
		s.Use(o.where(p), 1)
	}
	s.Maintain(store.Upkeep{Checkpoint: o.emit, Clean: o.clean})
	return nil
}

func (o *owner) where(p Position) Position {
	for o.moved[p] != 0 {
		p = o.moved[p]
	}
	return p
}

// apply applies a record.
func (o *owner) apply(at Position, r *store.Record) error {
	switch r.Kind {
	case store.Accepted:
		for _, to := range r.Recipients {
			o.queues[to.Session] = append(o.queues[to.Session], at)
		}
		switch m := r.Message; {
		case m.Retain && len(m.Payload) > 0:
			o.retained[m.Topic], o.replaced[m.Topic] = at, at
		case m.Retain:
			delete(o.retained, m.Topic)
			o.replaced[m.Topic] = at
		}
	case store.Done:
		o.remove(r.Session, r.About)
	case store.Queue:
		rest := o.queues[r.Session]
		queue := make([]Position, 0, len(r.Refs))
		for _, ref := range r.Refs {
			queue = append(queue, ref.About)
		}
		o.queues[r.Session] = queue // nothing is concurrent: it is the whole truth
		if len(rest) > len(queue) {
			return fmt.Errorf("%d messages are not in the checkpoint", len(rest)-len(queue))
		}
	case store.Retained:
		for _, ref := range r.Refs {
			var m store.Record
			if err := o.store.Load(ref.About, &m); errors.Is(err, store.ErrGone) {
				o.gone[ref.About] = at
			} else if err != nil {
				return err
			} else {
				o.retained[m.Message.Topic] = ref.About
			}
		}
	case store.Moved:
		o.moved[r.About] = at
		if named := o.gone[r.About]; named != 0 && o.replaced[r.Message.Topic] < named {
			o.retained[r.Message.Topic] = at
		}
	}
	return nil
}

func (o *owner) remove(id store.SessionID, at Position) (found bool) {
	q := o.queues[id]
	i := slices.IndexFunc(q, func(p Position) bool { return o.where(p) == o.where(at) })
	if i >= 0 {
		o.queues[id] = slices.Delete(q, i, i+1)
	}
	return i >= 0
}

// emit implements a checkpoint.
func (o *owner) emit(emit func(*store.Record) error) error {
	o.checkpoints++
	o.note("checkpoint")
	for id := store.SessionID(1); id <= ownerSessions; id++ {
		r := store.Record{Kind: store.Queue, Session: id}
		for _, p := range o.queues[id] {
			r.Refs = append(r.Refs, store.Ref{About: p, QoS: 1})
		}
		if err := emit(&r); err != nil {
			return err
		}
	}
	r := store.Record{Kind: store.Retained}
	for _, name := range slices.Sorted(maps.Keys(o.retained)) {
		r.Refs = append(r.Refs, store.Ref{About: o.retained[name]})
	}
	return emit(&r)
}

// clean moves what is in use, while other things happen.
func (o *owner) clean(from, to Position, move store.Mover) error {
	o.cleaned++
	o.note("clean %x", from)
	used := make(map[Position]bool)
	needs := make(map[Position]map[store.SessionID]bool)
	for id, q := range o.queues {
		for _, p := range q {
			if from <= p && p < to {
				used[p] = true
				if needs[p] == nil {
					needs[p] = make(map[store.SessionID]bool)
				}
				needs[p][id] = true
			}
		}
	}
	for _, p := range o.retained {
		used[p] = used[p] || from <= p && p < to
	}
	delete(used, 0)
	maps.DeleteFunc(used, func(_ Position, in bool) bool { return !in })
	var err error
	moved := make(map[Position]Position)
	for _, p := range slices.Sorted(maps.Keys(used)) {
		var at Position
		if at, err = move(p, func(id store.SessionID) bool { return needs[p][id] }); err != nil {
			break
		}
		o.copied++
		moved[p] = at
		if o.rng.IntN(3) == 0 {
			o.little()
		}
	}
	change := func(p Position) Position {
		if to := moved[p]; to != 0 {
			o.store.Use(to, 1)
			o.store.Use(p, -1)
			return to
		}
		return p
	}
	for _, q := range o.queues {
		for i, p := range q {
			q[i] = change(p)
		}
	}
	for name, p := range o.retained {
		o.retained[name] = change(p)
	}
	return err
}

// little does something that may happen at any time.
func (o *owner) little() {
	switch n := o.rng.IntN(10); {
	case n < 3:
		o.accept()
	case n < 7:
		o.finish()
	default:
		o.note("commit")
		o.store.log.commit()
	}
}

func (o *owner) step() {
	switch n := o.rng.IntN(100); {
	case n < 35:
		o.accept()
	case n < 75:
		o.finish()
	case n < 88:
		o.note("commit")
		o.store.log.commit()
	case n < 92:
		o.note("prepare")
		o.store.log.prepare()
	case n < 94:
		o.store.log.syncNow()
	default:
		o.note("tidy")
		o.store.tidy()
	}
}

// accept takes a message for some sessions, or retains it, or removes what is retained.
func (o *owner) accept() {
	o.last++
	m := &mqtt.Message{Topic: "t", QoS: 1, Payload: fmt.Appendf(nil, "%d %s", o.last, strings.Repeat("x", o.rng.IntN(400)))}
	r := store.Record{Kind: store.Accepted, Message: m, Promise: store.Promise(o.rng.IntN(3))}
	f := fact{}
	for id := store.SessionID(1); id <= ownerSessions; id++ {
		if o.rng.IntN(3) == 0 {
			r.Recipients = append(r.Recipients, store.Recipient{Session: id, QoS: 1})
			f.to = append(f.to, id)
		}
	}
	if o.rng.IntN(6) == 0 {
		m.Retain, m.Topic = true, fmt.Sprint("r", o.rng.IntN(8))
		f.topic = m.Topic
		if o.rng.IntN(4) == 0 {
			m.Payload, r.Recipients, f.to = nil, nil, nil
		}
	}
	if f.message = string(m.Payload); len(f.to) == 0 && f.topic == "" {
		return
	}
	at, err := o.store.Append(&r)
	o.note("accept %d for %v %s: %x, %v", o.last, f.to, f.topic, at, err)
	if err != nil {
		return
	}
	f.at = at
	o.facts = append(o.facts, f)
	for _, id := range f.to {
		o.queues[id] = append(o.queues[id], at)
	}
	if f.topic == "" {
		return
	}
	if old := o.retained[f.topic]; old != 0 {
		o.store.Use(old, -1)
		delete(o.retained, f.topic)
	}
	if f.message != "" {
		o.retained[f.topic] = at
	}
}

// finish lets a session be done with a message, mostly the first. The last session hardly ever is.
func (o *owner) finish() {
	id := store.SessionID(1 + o.rng.IntN(ownerSessions))
	q := o.queues[id]
	if len(q) == 0 || id == ownerSessions && len(q) < 20 {
		return
	}
	at := q[o.rng.IntN(1+o.rng.IntN(len(q)))]
	o.done(id, at)
}

func (o *owner) done(id store.SessionID, at Position) {
	message := o.load(at)
	if message == unreadable {
		return
	}
	pos, err := o.store.Append(&store.Record{Kind: store.Done, Session: id, About: at, Promise: store.Promise(o.rng.IntN(3))})
	o.note("done %d %x: %x, %v", id, at, pos, err)
	if err == nil {
		o.facts = append(o.facts, fact{at: pos, done: id, message: message})
		o.remove(id, at)
		o.store.Use(at, -1)
	}
}

// unreadable stands for a message that a fault keeps from being read.
const unreadable = "unreadable"

// load reads a message back.
func (o *owner) load(at Position) string {
	o.t.Helper()
	var r store.Record
	if err := o.store.Load(at, &r); err != nil {
		if errors.Is(err, errInjected) {
			return unreadable
		}
		o.fatalf("load of %x: %v", at, err)
	}
	return string(r.Message.Payload)
}

// believes returns what the owner believes.
func (o *owner) believes() *belief {
	b := &belief{make(map[store.SessionID][]string), make(map[string]string)}
	for id, q := range o.queues {
		for _, p := range q {
			b.queues[id] = append(b.queues[id], o.load(p))
		}
	}
	for name, p := range o.retained {
		b.retained[name] = o.load(p)
	}
	return b
}

// audit wants the store to count exactly what is in use.
func (o *owner) audit() {
	o.t.Helper()
	want := make(map[uint32]int64)
	for _, q := range o.queues {
		for _, p := range q {
			want[SegmentOf(p)]++
		}
	}
	for _, p := range o.retained {
		want[SegmentOf(p)]++
	}
	got := o.store.Uses()
	if !maps.Equal(got, want) {
		o.fatalf("the store counts uses %v, there are %v", got, want)
	}
}

// recovered opens what is left of the store, and wants it to say what the facts up to some moment say, and no less than safe.
func (o *owner) recovered(fsys vfs.FS, safe Position) *owner {
	o.t.Helper()
	after := &owner{t: o.t, seed: o.seed, rng: o.rng, opts: o.opts, trace: o.trace, last: o.last}
	if err := after.open(fsys); err != nil {
		o.fatalf("opening what is left: %v", err)
	}
	last := after.store.Committed()
	if last < safe {
		o.fatalf("the log ends at %x, and everything up to %x is safe", last, safe)
	}
	got, want := after.believes().String(), believe(o.facts, last).String()
	if got != want {
		o.fatalf("after recovery up to %x:\n%s\nwant:\n%s", last, got, want)
	}
	after.audit()
	for i, f := range o.facts {
		if f.at > last {
			o.facts = o.facts[:i:i]
			break
		}
	}
	after.facts = o.facts
	return after
}

func (o *owner) abandon() { abandon(o.store.log) }

// storeCrashes is how many times the power goes in the test below.
const storeCrashes = 2000

// TestStoreCrashes takes the power, or ends the process, before random calls to the file system of an owner whose segments are
// cleaned and checkpointed all the time: no message that was safe is lost, none comes back that was done, and order is kept.
func TestStoreCrashes(t *testing.T) {
	crashes, cleaned, copied := 0, 0, 0
	for seed := uint64(0); crashes < storeCrashes; seed++ {
		o := newOwner(t, seed)
		if err := o.open(o.faulty); err != nil {
			o.fatalf("open: %v", err)
		}
		for range 3 {
			o.faulty.Before(func(op vfs.Op) {
				if o.rng.IntN(20) != 0 {
					return
				}
				left, safe := o.crash()
				o.note("(crash before %v)", op)
				copied := *o // what survives does not change what goes on
				copied.recovered(left, safe).abandon()
				crashes++
			})
			for range 300 {
				o.step()
				if err := o.store.log.Err(); err != nil {
					o.fatalf("the log has failed: %v", err)
				}
			}
			o.faulty.Before(nil)
			o.audit()
			cleaned, copied = cleaned+o.cleaned, copied+o.copied
			left, safe := o.crash()
			o.abandon()
			after := o.recovered(left, safe)
			after.mem, after.faulty = left, vfs.NewFaulty(left)
			after.abandon()
			if err := after.open(after.faulty); err != nil {
				o.fatalf("second opening: %v", err)
			}
			o = after
		}
		o.drain()
		if err := o.store.Close(); err != nil {
			o.fatalf("close: %v", err)
		}
	}
	if cleaned < storeCrashes/20 || copied < storeCrashes/20 {
		t.Errorf("only %d segments were cleaned and %d messages copied", cleaned, copied)
	}
	t.Logf("%d crashes, %d segments cleaned, %d messages copied", crashes, cleaned, copied)
}

func (o *owner) crash() (*vfs.Mem, Position) {
	if o.rng.IntN(4) == 0 {
		return o.mem.Clone(), o.store.Safe(store.Written)
	}
	return o.mem.Crash(o.rng.Uint64()), o.store.Safe(store.Synced)
}

// drain finishes everything, and wants no segment but the active one to stay.
func (o *owner) drain() {
	for id, q := range o.queues {
		for _, at := range slices.Clone(q) {
			o.done(id, at)
		}
	}
	for name, p := range o.retained {
		o.store.Use(p, -1)
		delete(o.retained, name)
	}
	o.audit()
	if err := o.store.Checkpoint(); err != nil {
		o.fatalf("checkpoint: %v", err)
	}
	if all := o.store.log.Segments(); int64(len(all)) > 2+o.store.size.Load()/minSegment {
		o.fatalf("%d segments stay", len(all))
	}
}

// TestStoreFaults lets the k-th call of a kind fail, for every kind and every k, alone or with all after it, while segments are cleaned
// and checkpoints taken. Nothing that was safe may be lost, nothing that was done may come back, and a store that has not failed
// goes on when the fault is over.
func TestStoreFaults(t *testing.T) {
	runs, failed, cleaned := 0, 0, 0
	for seed := range uint64(4) {
		base := newOwner(t, seed)
		if err := base.open(base.faulty); err != nil {
			base.fatalf("open: %v", err)
		}
		for range 300 {
			base.step()
		}
		if err := base.store.Close(); err != nil {
			base.fatalf("close: %v", err)
		}
		clean := base.underFault(vfs.Fault{})
		cleaned += clean.cleaned
		for _, op := range vfs.Ops() {
			for k := 1; k <= clean.faulty.Calls(op); k++ {
				for _, fault := range faults(op, k) {
					if base.underFault(fault).store.log.Err() != nil {
						failed++
					}
					runs++
				}
			}
		}
	}
	if runs < 500 || failed < 100 || failed > runs-100 || cleaned < 4 {
		t.Errorf("%d faults were tried, of which %d ended the log, while %d segments were cleaned", runs, failed, cleaned)
	}
	t.Logf("%d faults, of which %d ended the log", runs, failed)
}

// underFault goes on from a copy of what o has on the disk, under a fault.
func (o *owner) underFault(fault vfs.Fault) *owner {
	mem := o.mem.Clone()
	after := &owner{t: o.t, seed: o.seed, rng: rand.New(rand.NewPCG(o.seed, 12)), mem: mem, faulty: vfs.NewFaulty(mem), last: o.last}
	after.opts, after.facts = o.opts, slices.Clone(o.facts)
	after.opts.Log.random = after.rng.Uint64
	if err := after.open(after.faulty); err != nil {
		o.fatalf("open: %v", err)
	}
	opened := after.faulty.Calls(fault.Op)
	if fault.Nth > opened {
		fault.Nth -= opened
	}
	after.note("fault %+v", fault)
	after.faulty.Set(fault)
	for range 80 {
		after.step()
	}
	after.note("the fault is over")
	after.faulty.Set(vfs.Fault{})
	if after.store.log.Err() == nil {
		after.goesOn()
	}
	safe := after.store.Safe(store.Synced)
	if fault.Op == vfs.OpSync {
		all, err := mem.ReadDir(testDir)
		if err != nil {
			o.fatalf("%v", err)
		}
		for _, info := range all {
			mem.ForgetDirty(testDir + "/" + info.Name)
		}
	}
	left := mem.Crash(after.rng.Uint64())
	after.abandon()
	copied := *after
	copied.recovered(left, safe).abandon()
	after.recovered(mem.Clone(), safe).abandon()
	return after
}

// goesOn wants everything to work again.
func (o *owner) goesOn() {
	o.t.Helper()
	for range 50 {
		o.step()
	}
	o.store.log.commit()
	o.store.log.prepare()
	before := len(o.facts)
	for range 5 {
		o.accept()
	}
	if len(o.facts) == before {
		o.fatalf("nothing is accepted after the fault")
	}
	o.audit()
}

// TestMoved copies a message twice and wants the records of both to be read back.
func TestMoved(t *testing.T) {
	o := newOwner(t, 1)
	if err := o.open(o.faulty); err != nil {
		t.Fatal(err)
	}
	m := &mqtt.Message{Topic: "a", Payload: []byte("hello"), QoS: 1}
	at, err := o.store.Append(&store.Record{Kind: store.Accepted, Message: m, Recipients: []store.Recipient{
		{Session: 1, QoS: 1}, {Session: 2, QoS: 1, IDs: []uint32{7}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		mv := mover{store: o.store, left: 1 << 20}
		to, err := mv.move(at, func(id store.SessionID) bool { return id == 2 })
		if err != nil {
			t.Fatal(err)
		}
		var r store.Record
		if err := o.store.Load(to, &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind != store.Moved || r.About != at || len(r.Recipients) != 1 || r.Recipients[0].IDs[0] != 7 || !bytes.Equal(r.Message.Payload, m.Payload) {
			t.Fatalf("got %+v", r)
		}
		at = to
	}
	o.abandon()
}
