//go:build torture

package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// shortRun is how many kills a run has unless MAGPIE_TORTURE_KILLS says otherwise.
const shortRun = 50

// run is one broker with its clients.
type run struct {
	*world
	t           *testing.T
	server      *server
	rng         *rand.Rand
	seed        uint64
	publishers  []*publisher
	subscribers []*subscriber
}

// TestLedger: what was acknowledged outlives kill -9.
func TestLedger(t *testing.T) {
	seed := uint64(number(t, "MAGPIE_TORTURE_SEED", time.Now().UnixNano()))
	kills := int(number(t, "MAGPIE_TORTURE_KILLS", shortRun))
	t.Logf("MAGPIE_TORTURE_SEED=%d MAGPIE_TORTURE_KILLS=%d", seed, kills)
	r := newRun(t, seed)
	defer r.report()
	if !r.begin() {
		return
	}
	var subscribers, publishers sync.WaitGroup
	defer subscribers.Wait()
	defer publishers.Wait()
	for _, s := range r.subscribers {
		subscribers.Go(s.run)
	}
	if !r.subscribed() {
		return
	}
	for _, p := range r.publishers {
		publishers.Go(p.run)
	}
	for i := 0; i < kills && r.ctx.Err() == nil; i++ {
		r.live(i)
	}
	r.quiet.Store(true)
	publishers.Wait()
	r.last.Store(true)
	r.restart()
	subscribers.Wait()
	r.audit()
}

// number reads a number from the environment.
func number(t *testing.T, name string, preset int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return preset
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// newRun makes the clients of a seed.
func newRun(t *testing.T, seed uint64) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := &run{t: t, server: newServer(t), seed: seed, rng: rand.New(rand.NewPCG(seed, 0))}
	r.world = &world{ledger: newLedger(cancel), ctx: ctx, addr: r.server.addr}
	for i := range 6 {
		r.publishers = append(r.publishers, r.newPublisher(i))
	}
	for i := range 4 {
		r.subscribers = append(r.subscribers, r.newSubscriber(i))
	}
	return r
}

// newClient makes client number i of a role; every other one speaks MQTT 3.1.1.
func (r *run) newClient(role string, i int) client {
	v := mqtt.V5
	if i%2 == 1 {
		v = mqtt.V311
	}
	id := fmt.Sprint(role, i)
	return client{world: r.world, id: id, v: v, rng: rand.New(rand.NewPCG(r.seed, r.rng.Uint64()))}
}

func (r *run) newPublisher(i int) *publisher {
	p := &publisher{client: r.newClient("pub", i), window: 1 + 5*i}
	for _, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
		for k := range 2 {
			p.streams = append(p.streams, stream{fmt.Sprintf("t/%s/%d", p.id, k), qos})
		}
		p.streams = append(p.streams, stream{fmt.Sprintf("r/%s/%d", p.id, qos), qos})
	}
	return p
}

func (r *run) newSubscriber(i int) *subscriber {
	qos := mqtt.ExactlyOnce
	if i == 3 {
		qos = mqtt.AtLeastOnce
	}
	return &subscriber{
		client: r.newClient("sub", i), qos: qos, window: uint32(i) * 10,
		got: make(map[stream]int), wills: make(map[string]map[int]int), received: make(map[uint16]string), ready: make(chan struct{}),
	}
}

// begin starts the broker for the first time.
func (r *run) begin() bool {
	if err := r.server.start(); err != nil {
		r.fail("%v", err)
		return false
	}
	return true
}

// subscribed waits until everybody has.
func (r *run) subscribed() bool {
	for _, s := range r.subscribers {
		select {
		case <-s.ready:
		case <-r.ctx.Done():
			return false
		case <-time.After(patience):
			r.fail("%s: no SUBACK", s.id)
			return false
		}
	}
	return true
}

// live is one life of the broker: work, sometimes a look at what is retained, the kill, the next start.
func (r *run) live(i int) {
	if r.rng.IntN(8) == 0 {
		r.wait(time.Duration(r.rng.IntN(60)) * time.Millisecond) // it may still be starting
	} else {
		if r.rng.IntN(3) == 0 {
			r.auditRetained(false)
		}
		r.work(i)
	}
	r.restart()
}

// work lets the clients do some steps, and then some microseconds pass.
func (r *run) work(i int) {
	steps := 1 << r.rng.IntN(13)
	steps += r.rng.IntN(steps)
	select {
	case <-r.after(steps):
	case <-r.ctx.Done():
	case <-r.server.died:
	case <-time.After(2 * patience):
		r.fail("life %d: nothing moves", i)
	}
	r.wait(time.Duration(r.rng.IntN(3000)) * time.Microsecond)
}

func (r *run) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

// restart kills the broker and starts it again.
func (r *run) restart() {
	if r.ctx.Err() == nil && !r.server.alive() {
		r.fail("the broker has ended by itself: %v", r.server.cmd.ProcessState)
	}
	r.lives.Add(1)
	r.server.kill()
	if r.ctx.Err() != nil {
		return
	}
	if err := r.server.start(); err != nil {
		r.fail("%v", err)
	}
	r.lives.Add(1)
}

// audit closes the ledger. The clients have ended.
func (r *run) audit() {
	if r.ctx.Err() != nil {
		return
	}
	r.auditRetained(true)
	for _, s := range r.subscribers {
		s.auditWills()
	}
	streams, wills := r.snapshot()
	messages, deaths := 0, 0
	for _, a := range streams {
		messages += a.sent
	}
	for _, fates := range wills {
		deaths += len(fates)
	}
	r.t.Logf("%d messages, %d connections with a Will", messages, deaths)
}

// report kills the broker and tells what went wrong.
func (r *run) report() {
	if r.server.cmd != nil && r.server.died != nil {
		r.server.kill()
	}
	wrong := r.failures()
	for _, w := range wrong {
		r.t.Error(w)
	}
	if len(wrong) > 0 {
		r.t.Errorf("again: MAGPIE_TORTURE_SEED=%d go test -tags torture ./torture -count=1; the broker's last words:\n%s", r.seed, r.server.log.String())
	}
}

// missing lists what a subscriber has not got: messages of streams, all of which are acknowledged by now, and Wills.
func (s *subscriber) missing() (missing []string) {
	streams, wills := s.snapshot()
	for st, a := range streams {
		last := a.sent
		if st.clears(last) {
			last-- // empty ones have no number
		}
		if got := s.got[st]; got < last {
			missing = append(missing, fmt.Sprintf("%v: got %d, published %d", st, got, last))
		}
	}
	for name, fates := range wills {
		for i, f := range fates {
			if f == promised && s.wills[name][i+1] == 0 {
				missing = append(missing, fmt.Sprintf("Will %d on %q", i+1, name))
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// auditWills looks for Wills that were published although their clients had left with DISCONNECT.
func (s *subscriber) auditWills() {
	_, wills := s.snapshot()
	for name, fates := range wills {
		for i, f := range fates {
			if f == taken && s.wills[name][i+1] > 0 {
				s.fail("%s: Will %d on %q came though its client had left with DISCONNECT", s.id, i+1, name)
			}
		}
	}
}
