package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// powerLosses is how many times the power goes in one run of the tests.
const powerLosses = 10_000

// TestPowerLoss lets clients do all that they can over a broker whose disk is slow, takes the power away at any moment, with
// other sectors lost each time, and starts another broker on what is left. The clients come back and know what they have been
// promised: acknowledged QoS 1 at least once, QoS 2 exactly once, subscriptions and Wills that were acknowledged, retained
// messages as acknowledged last or later, and order.
func TestPowerLoss(t *testing.T) {
	n := 0
	enough := powerLosses
	if underRace {
		enough /= 20
	}
	for seed := firstSeed(t); n < enough; seed++ {
		synctest.Test(t, func(t *testing.T) { n += playPowerLoss(t, seed) })
		if t.Failed() {
			return
		}
	}
	t.Logf("%d power losses", n)
}

// playPowerLoss goes through some lives of one broker, each of which ends by a power loss, and audits what other power losses on the way
// would have left. It returns how many there were.
func playPowerLoss(t *testing.T, seed uint64) (crashes int) {
	s := newStage(t, seed)
	var left []*stage
	for range 3 {
		if err := s.open(); err != nil {
			s.fatalf("open: %v", err)
		}
		s.slow()
		for range 40 + s.rng.IntN(40) {
			s.step()
			for range s.rng.IntN(4) {
				left = append(left, s.crashed())
			}
		}
		next := s.crashed()
		s.close()
		s = next
	}
	for _, f := range append(left, s) {
		crashes += f.survive(1)
	}
	return crashes
}

// survive starts a broker on what is left and audits, sometimes after another life that ends in the same way.
func (s *stage) survive(more int) (crashes int) {
	if err := s.open(); err != nil {
		s.fatalf("open what is left: %v", err)
	}
	if more > 0 && s.rng.IntN(8) == 0 {
		s.slow()
		for range 1 + s.rng.IntN(12) {
			s.step()
		}
		next := s.crashed()
		s.close()
		return 1 + next.survive(more-1)
	}
	s.reconcile()
	s.audit()
	s.close()
	return 1
}

// step does one random thing and gives it some time.
func (s *stage) step() {
	p := s.l.parties[s.rng.IntN(len(s.l.parties))]
	switch n := s.rng.IntN(100); {
	case p.link == nil:
		p.clean = p.clean || p.lasting && p.filters[shared] == 0 && s.rng.IntN(12) == 0
		s.connect(p)
	case !p.welcome:
	case n < 55:
		s.chat(p)
	case n < 75:
		s.resubscribe(p)
	case n < 88:
		s.pay(p)
	case n < 92:
		s.note("%s drops", p.id)
		_ = p.link.nc.Close()
		s.l.lose(p, true)
	case n < 95:
		s.note("%s leaves", p.id)
		p.link.send((&mqtt.Disconnect{}).Append(nil, p.v))
		s.l.lose(p, false)
	case n < 98:
		s.connect(p)
	default:
		p.clean = p.lasting && p.filters[shared] == 0
		s.connect(p)
	}
	time.Sleep(time.Duration(s.rng.IntN(4000)) * time.Microsecond)
	s.settle()
}

// chat publishes some messages at once.
func (s *stage) chat(p *party) {
	for range 1 + s.rng.IntN(5) {
		if len(p.sending) > 12 {
			return
		}
		qos := mqtt.QoS(s.rng.IntN(3))
		switch s.rng.IntN(5) {
		case 0:
			kind := mqtt.QoS(1 + s.rng.IntN(2)) // of all on one topic: QoS 1 that is sent again would come behind a later QoS 2
			s.publish(p, fmt.Sprintf("r/%s/%d", p.id, kind), min(qos, 1)*kind, true, s.rng.IntN(4) == 0)
		case 1:
			s.publish(p, []string{"s/0", "s/1"}[s.rng.IntN(2)], qos, false, false)
		default:
			s.publish(p, []string{"t/0", "t/1", "t/2"}[s.rng.IntN(3)], qos, false, false)
		}
	}
}

// resubscribe makes or ends a subscription. Members of the shared one stay.
func (s *stage) resubscribe(p *party) {
	for _, filter := range sortedKeys(p.filters) {
		if s.rng.IntN(len(p.filters)) > 0 {
			continue
		}
		if filter != shared && p.subs[filter] == sure && s.rng.IntN(3) == 0 {
			s.unsubscribe(p, filter)
		} else {
			s.subscribe(p, filter)
		}
	}
}
