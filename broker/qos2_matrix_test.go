package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// The matrix of QoS 2 (A22, figure 4.3): the power goes after every step of the handshake, with the broker as receiver and as sender;
// the disk has what the step means, or not yet; the client has seen the answer, or not. Then everybody comes back, and the power
// may go again, at every moment of that. The message has to arrive exactly once, and the next one under the same identifier too.

// moment is a cell of the matrix.
type moment struct {
	role    string // of the broker
	version mqtt.Version
	steps   int  // that were made, the last of which is the one that matters
	held    bool // the disk has not what it means
	seen    bool // the client has what came of it
	killed  bool // only the process ends, and nothing that was written is lost
	again   int  // rounds of coming back after which the power goes once more; 0 for never
	seed    uint64
}

// scripts are the steps of the client's side, by the role of the broker.
var scripts = map[string][]func(*duet){
	"receiver": {
		func(d *duet) { d.publish(d.pub, "q", mqtt.ExactlyOnce, false, false) },
		func(d *duet) { d.pay(d.pub) }, // PUBREL
	},
	"sender": {
		func(d *duet) { d.connect(d.sub) }, // PUBLISH follows
		func(d *duet) { d.pay(d.sub) },     // PUBREC
		func(d *duet) { d.pay(d.sub) },     // PUBCOMP
	},
	"live sender": {
		func(d *duet) { d.publish(d.pub, "q", mqtt.ExactlyOnce, false, false) },
		func(d *duet) { d.pay(d.sub) },
		func(d *duet) { d.pay(d.sub) },
	},
}

// cells lists the whole matrix.
func cells() (all []moment) {
	for _, role := range []string{"receiver", "sender", "live sender"} {
		for step := range scripts[role] {
			for i := range 1 << 4 {
				for again := range 6 {
					for seed := range uint64(3) {
						all = append(all, moment{
							role: role, version: []mqtt.Version{mqtt.V311, mqtt.V5}[i&1], steps: step + 1,
							held: i&2 != 0, seen: i&4 != 0, killed: i&8 != 0, again: again, seed: seed,
						})
					}
				}
			}
		}
	}
	return all
}

func TestQoS2Matrix(t *testing.T) {
	all := cells()
	for _, m := range all {
		synctest.Test(t, func(t *testing.T) { playMoment(t, m) })
		if t.Failed() {
			t.Fatalf("in the cell %+v", m)
		}
	}
	t.Logf("%d cells", len(all))
}

// duet is a publisher and a subscriber.
type duet struct {
	*stage
	pub, sub *party
}

func newDuet(t *testing.T, m moment) *duet {
	s := newStage(t, m.seed)
	s.l = &ledger{retained: make(map[string][]int)}
	s.label, s.late, s.manual = fmt.Sprintf("%+v", m), false, true
	d := &duet{
		stage: s,
		pub:   s.l.add(party{id: "pub", v: m.version, lasting: true}),
		sub:   s.l.add(party{id: "sub", v: m.version, lasting: true, filters: map[string]mqtt.QoS{"q": 2}}),
	}
	d.enter()
	return d
}

// enter starts a broker on the disk.
func (d *duet) enter() {
	if err := d.open(); err != nil {
		d.fatalf("open: %v", err)
	}
}

// playMoment goes to the moment, lets the power go, and looks whether everything comes right.
func playMoment(t *testing.T, m moment) {
	d := newDuet(t, m)
	actor := d.prepare(m)
	d.goTo(m)
	if m.held && m.seen {
		d.saidNothing(m, actor)
	}
	d.lights(m)
	if m.again > 0 {
		d.comeBack(m.again)
		d.lights(m)
	}
	d.reconcile()
	d.audit()
	d.pub.lastID = 0 // the identifier of before, for a new message
	for range 2 {
		d.publish(d.pub, "q", mqtt.ExactlyOnce, false, false)
		d.reconcile()
	}
	d.audit()
	d.close()
}

// prepare makes the subscription, and what comes before the first step. It returns the party with which the broker has the
// handshake.
func (d *duet) prepare(m moment) (actor *party) {
	d.connect(d.pub)
	d.connect(d.sub)
	d.settle()
	d.subscribe(d.sub, "q")
	d.settle()
	if m.role == "live sender" {
		return d.sub
	}
	_ = d.sub.link.nc.Close()
	d.l.lose(d.sub, true)
	if m.role == "receiver" {
		return d.pub
	}
	d.publish(d.pub, "q", mqtt.ExactlyOnce, false, false)
	for range 2 {
		d.settle()
		d.pay(d.pub)
	}
	d.settle()
	return d.sub
}

// goTo makes the steps.
func (d *duet) goTo(m moment) {
	for i, step := range scripts[m.role][:m.steps] {
		last := i == m.steps-1
		if last && m.held {
			d.pace.hold()
		}
		step(d)
		synctest.Wait()
		if !last || m.seen {
			d.settle()
		}
	}
}

// saidNothing checks that the broker did not go on after the last step, of which the disk has nothing.
func (d *duet) saidNothing(m moment, actor *party) {
	if len(actor.owed) > 0 {
		d.fatalf("the broker goes on with a handshake that is not on the disk")
	}
	if m.role == "receiver" && len(d.pub.sending) != 1 {
		d.fatalf("the broker completes a handshake whose end is not on the disk")
	}
}

// comeBack connects both, and lets them answer for so many rounds.
func (d *duet) comeBack(rounds int) {
	d.connect(d.pub)
	d.connect(d.sub)
	for range rounds - 1 {
		d.settle()
		d.pay(d.pub)
		d.pay(d.sub)
	}
	synctest.Wait()
}

// lights lets the power or the process go, and starts another broker.
func (d *duet) lights(m moment) {
	killed := d.disk.Clone()
	next := d.crashed()
	if m.killed {
		next.disk = killed
	}
	d.close()
	d.stage = next
	d.pub, d.sub = d.l.parties[0], d.l.parties[1]
	d.enter()
}

// TestSharedHandover: a member of a shared subscription goes away, and what it had not received goes to another one; the power goes
// at any moment of that. Each message reaches one of them, once.
func TestSharedHandover(t *testing.T) {
	for seed := firstSeed(t); seed < firstSeed(t)+400; seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t, seed)
			s.l = &ledger{retained: make(map[string][]int)}
			s.manual = true
			members := map[string]mqtt.QoS{shared: 2}
			one := s.l.add(party{id: "one", v: mqtt.V5, lasting: true, window: 1, filters: members})
			s.l.add(party{id: "two", v: mqtt.V311, lasting: true, filters: members})
			pub := s.l.add(party{id: "pub", v: mqtt.V5, lasting: true})
			if err := s.open(); err != nil {
				s.fatalf("open: %v", err)
			}
			for _, p := range s.l.parties {
				s.connect(p)
				s.settle()
				if p != pub {
					s.subscribe(p, shared)
					s.settle()
				}
			}
			for i := range 12 {
				s.publish(pub, "s/0", mqtt.QoS(1+i%2), false, false)
			}
			s.settle()
			s.slow()
			_ = one.link.nc.Close()
			s.l.lose(one, true)
			time.Sleep(time.Duration(s.rng.IntN(9000)) * time.Microsecond)
			next := s.crashed()
			s.close()
			next.survive(0)
		})
		if t.Failed() {
			return
		}
	}
}
