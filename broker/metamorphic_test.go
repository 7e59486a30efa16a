package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// The metamorphic test runs one random script over brokers that must not differ: without a store, with one in memory, with a
// journal, with a journal and a restart where the others only lose all connections, and with a power loss there. What each party
// sees between two steps has to be the same: nothing but the order between different publishers, topics and QoS is left open. Of a
// shared subscription the members together are looked at.

// ground is what a script runs over.
type ground struct {
	name    string
	store   func(*stage) store.Store // nil: the stage's journal
	restart func(*stage) *stage
	looped  bool // by loops, which pause
}

var grounds = []ground{
	{"no store", func(*stage) store.Store { return nil }, (*stage).cut, false},
	{"store in memory", func(*stage) store.Store { return &store.Memory{} }, (*stage).cut, false},
	{"journal", nil, (*stage).cut, false},
	{"journal, restarted", nil, (*stage).restarted, false},
	{"journal, power loss", nil, (*stage).darkened, false},
	{"loops", func(*stage) store.Store { return nil }, (*stage).cut, true},
	{"loops, journal, power loss", nil, (*stage).darkened, true},
}

// cut ends all connections.
func (s *stage) cut() *stage {
	for _, p := range s.l.parties {
		if p.link != nil {
			_ = p.link.nc.Close()
			s.l.lose(p, true)
		}
	}
	synctest.Wait()
	return s
}

// restarted ends the broker in good order and starts another one.
func (s *stage) restarted() *stage {
	s.shut()
	for _, p := range s.l.parties {
		s.l.lose(p, true)
	}
	if err := s.open(); err != nil {
		s.fatalf("open: %v", err)
	}
	synctest.Wait()
	return s
}

// darkened lets the power go and starts another broker.
func (s *stage) darkened() *stage {
	synctest.Wait()
	next := s.crashed()
	for i, p := range next.l.parties {
		p.history = s.l.parties[i].history
	}
	next.rng = s.rng // the script goes on
	s.close()
	if err := next.open(); err != nil {
		next.fatalf("open: %v", err)
	}
	synctest.Wait()
	return next
}

func TestMetamorphic(t *testing.T) {
	for seed := firstSeed(t); seed < firstSeed(t)+60; seed++ {
		var want []string
		for _, g := range grounds {
			var got []string
			synctest.Test(t, func(t *testing.T) { got = playOn(t, g, seed) })
			if t.Failed() {
				t.Fatalf("seed %d, %s", seed, g.name)
			}
			if want == nil {
				want = got
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("seed %d: %s differs from %s:\n%s", seed, g.name, grounds[0].name, differ(got[i], want[i]))
				}
			}
		}
	}
}

// differ shows where two histories part.
func differ(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-25)
	return fmt.Sprintf("%s got\n  %s\nwant\n  %s", a[0], strings.Join(a[from:min(i+6, len(a))], "\n  "), strings.Join(b[from:min(i+6, len(b))], "\n  "))
}

// playOn plays a script and returns what each party saw, and at last what the shared subscription got.
func playOn(t *testing.T, g ground, seed uint64) (histories []string) {
	s := newStage(t, seed)
	s.l = newTroupe()
	s.late, s.manual, s.recorded, s.lapses, s.ground, s.looped, s.pause = false, true, true, true, g.store, g.looped, defaultPace
	if err := s.open(); err != nil {
		s.fatalf("open: %v", err)
	}
	for i := range 120 {
		if s.rng.IntN(12) == 0 {
			s.note("restart")
			s = g.restart(s)
		} else {
			s.act(s.l.parties[s.rng.IntN(len(s.l.parties))])
		}
		s.calm(fmt.Sprintf("--- %d", i))
	}
	s.reconcile()
	s.calm("--- end")
	for _, p := range s.l.parties {
		histories = append(histories, p.id+"\n"+strings.Join(p.history, "\n"))
	}
	histories = append(histories, s.groupHistory())
	s.close()
	return histories
}

// newTroupe are the parties of the script. Windows are wide, as what is sent first is not the same everywhere.
func newTroupe() *ledger {
	l := &ledger{retained: make(map[string][]int)}
	l.add(party{id: "a", v: mqtt.V311, lasting: true, filters: map[string]mqtt.QoS{"t/#": 2, "w/+": 2, "r/#": 1}, slow: true})
	l.add(party{id: "b", v: mqtt.V5, lasting: true, filters: map[string]mqtt.QoS{"t/0": 1, "t/+": 2, "r/+/1": 2, "w/#": 1}, wills: true})
	l.add(party{id: "m", v: mqtt.V5, lasting: true, filters: map[string]mqtt.QoS{shared: 2}})
	l.add(party{id: "n", v: mqtt.V311, lasting: true, filters: map[string]mqtt.QoS{shared: 2, "t/1": 1}})
	l.add(party{id: "v", v: mqtt.V5, wills: true})
	l.add(party{id: "x", v: mqtt.V5, lasting: true, expiry: 100, filters: map[string]mqtt.QoS{"t/#": 1, "t/1": 2, "w/v": 2}, wills: true, delay: 40, slow: true})
	return l
}

// act is one step of the script. It depends on the seed and on nothing that the broker may choose.
func (s *stage) act(p *party) {
	switch n := s.rng.IntN(100); {
	case n < 6:
		s.note("time goes by")
		time.Sleep(time.Duration(10+s.rng.IntN(60)) * time.Second)
	case p.link == nil:
		p.clean = p.clean || p.lasting && p.filters[shared] == 0 && s.rng.IntN(8) == 0
		s.connect(p)
	case n < 55:
		s.chat(p)
	case n < 72:
		s.resubscribe(p)
	case n < 84:
		p.holds = p.slow && !p.holds
	case n < 88:
		_ = p.link.nc.Close()
		s.l.lose(p, true)
	case n < 92:
		p.link.send((&mqtt.Disconnect{}).Append(nil, p.v))
		s.l.lose(p, false)
	default:
		p.clean = p.clean || p.lasting && p.filters[shared] == 0 && n > 97
		s.connect(p)
	}
}

// calm waits until all is quiet, and puts what each party saw into an order that does not depend on the broker.
func (s *stage) calm(step string) {
	for range 30 { // always as long: the end of a connection that is taken over takes a moment, some records are synced within a second
		time.Sleep(50 * time.Millisecond)
		for moved := true; moved; moved = s.settle() {
			for _, p := range s.l.parties {
				if p.link != nil && !p.holds {
					s.pay(p)
				}
			}
		}
	}
	for _, p := range s.l.parties {
		seen := p.history[p.told:]
		slices.SortStableFunc(seen, func(x, y string) int { return cmp.Compare(streamOf(x), streamOf(y)) })
		p.history = append(p.history, step)
		p.told = len(p.history)
	}
}

// streamOf returns the part of an entry within which order is kept.
func streamOf(entry string) string {
	name, _, _ := strings.Cut(entry, ": ")
	return name
}

// groupHistory lists what reached the shared subscription.
func (s *stage) groupHistory() string {
	var b strings.Builder
	for _, m := range s.l.postings {
		if !strings.HasPrefix(m.name, "s/") || m.qos == 0 {
			continue
		}
		times := 0
		for _, p := range s.l.parties {
			if got := p.got[m.n]; got != nil {
				times += got[1] + got[2]
			}
		}
		fmt.Fprintf(&b, "%d: %v\n", m.n, times > 0)
	}
	return b.String()
}
