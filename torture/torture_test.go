package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// shortRun is how many kills a run has unless MAGPIE_TORTURE_KILLS says otherwise.
const shortRun = 50

// config makes the files of the journal so small that they are changed, given back and checkpointed all the time, and lets large
// messages pass.
const config = `
journal:
  segment_size: 256KiB
http:
  address: "off"
`

// run is one broker with its clients.
type run struct {
	*world
	t           *testing.T
	rng         *rand.Rand
	seed        uint64
	publishers  []*publisher
	subscribers []*subscriber
	switchers   []*switcher
	mortals     *mortals
}

// TestLedger: what was acknowledged outlives kill -9.
func TestLedger(t *testing.T) {
	seed := uint64(number(t, "MAGPIE_TORTURE_SEED", time.Now().UnixNano()))
	kills := int(number(t, "MAGPIE_TORTURE_KILLS", shortRun))
	t.Logf("MAGPIE_TORTURE_SEED=%d MAGPIE_TORTURE_KILLS=%d", seed, kills)
	r := newRun(t, seed)
	defer r.report()
	if err := r.server.start(); err != nil {
		r.fail("%v", err)
		return
	}
	var subscribers, others sync.WaitGroup
	defer subscribers.Wait()
	defer others.Wait()
	for _, s := range r.subscribers {
		subscribers.Go(s.run)
	}
	if !r.subscribed() {
		return
	}
	for _, p := range r.publishers {
		others.Go(p.run)
	}
	for _, s := range r.switchers {
		others.Go(s.run)
	}
	others.Go(r.mortals.run)
	for i := 0; i < kills && r.ctx.Err() == nil; i++ {
		r.live(i)
	}
	r.quiet.Store(true)
	others.Wait()
	r.last.Store(true)
	r.restart() // once more, when nobody publishes; it also wakes who waits for messages
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
	r := &run{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0))}
	r.world = &world{ledger: newLedger(cancel), ctx: ctx, server: newServer(t, config)}
	for i := range 6 {
		r.publishers = append(r.publishers, r.newPublisher(i))
	}
	for i := range 4 {
		r.subscribers = append(r.subscribers, r.newSubscriber(i))
	}
	group := newGroupBook(r.ledger)
	for i := range 3 {
		r.subscribers = append(r.subscribers, r.newMember(i, group))
	}
	for i := range 4 {
		r.switchers = append(r.switchers, r.newSwitcher(i))
	}
	r.mortals = &mortals{client: r.newClient("mortal", 0)}
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
	p := &publisher{client: r.newClient("pub", i), window: 1 + 5*i, restless: 300}
	switch i {
	case 2:
		p.delay = aDay
	case 3:
		p.restless = 40
	}
	for _, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
		for k := range 2 {
			p.streams = append(p.streams, stream{fmt.Sprintf("t/%s/%d", p.id, k), qos})
		}
		p.streams = append(p.streams, stream{fmt.Sprintf("r/%s/%d", p.id, qos), qos}, stream{"s/" + p.id, qos})
	}
	return p
}

func (r *run) newSubscriber(i int) *subscriber {
	s := &subscriber{
		client: r.newClient("sub", i), filters: []string{"t/#", "r/#", "w/+"}, qos: mqtt.ExactlyOnce, window: uint32(i) * 10, restless: 600,
		received: make(map[uint16]string), ready: make(chan struct{}),
	}
	if i == 2 {
		s.restless = 100
	}
	if i == 3 {
		s.qos = mqtt.AtLeastOnce
	}
	s.book = newOrderBook(r.ledger, s.qos)
	return s
}

// newMember makes a member of the Shared Subscription.
func (r *run) newMember(i int, group *groupBook) *subscriber {
	return &subscriber{
		client: r.newClient("member", i), book: group, filters: []string{"$share/g/s/#"}, qos: mqtt.ExactlyOnce, window: 20, restless: 100,
		received: make(map[uint16]string), ready: make(chan struct{}),
	}
}

// newSwitcher makes one for each version and QoS.
func (r *run) newSwitcher(i int) *switcher {
	return &switcher{
		client: r.newClient("switch", i), qos: mqtt.QoS(1 + i/2),
		wanted: make(map[int]bool), got: make(map[int]bool), received: make(map[uint16]bool),
	}
}

// subscribed waits until everybody has.
func (r *run) subscribed() bool {
	for _, s := range r.subscribers {
		select {
		case <-s.ready:
		case <-r.ctx.Done():
			return false
		case <-time.After(2 * patience):
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
	case <-r.server.gone():
	case <-time.After(2 * patience):
		r.server.dump()
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
		r.fail("the broker has ended by itself")
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
	r.mortals.audit()
	for _, s := range r.subscribers {
		if err := s.close(); err != nil {
			r.fail("%s: %v", s.id, err)
		}
	}
	streams, wills := r.snapshot()
	messages, connections := 0, 0
	for _, a := range streams {
		messages += a.sent
	}
	for _, fates := range wills {
		connections += len(fates)
	}
	switched := 0
	for _, s := range r.switchers {
		switched += s.sent
	}
	r.t.Logf("%d messages, %d more between SUBACK and UNSUBACK and after, %d connections with a Will, %d sessions that expired",
		messages, switched, connections, len(r.mortals.ending))
}

// report kills the broker and tells what went wrong.
func (r *run) report() {
	r.server.kill()
	wrong := r.failures()
	for _, w := range wrong {
		r.t.Error(w)
	}
	if keep := os.Getenv("MAGPIE_TORTURE_KEEP"); keep != "" && len(wrong) > 0 {
		r.t.Logf("the journal is kept: %v", os.CopyFS(keep, os.DirFS(r.server.data+"/journal")))
	}
	if len(wrong) > 0 {
		r.t.Errorf("again: MAGPIE_TORTURE_SEED=%d go test ./torture -count=1; the broker's last words:\n%s", r.seed, r.server.log.String())
	}
}
