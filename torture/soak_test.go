package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// shortSoak is how long the load lasts unless MAGPIE_SOAK_TIME says otherwise.
const shortSoak = 8 * time.Second

// soakConfig has small files, so that the disk is given back within the time of a short run.
const soakConfig = `
journal:
  segment_size: 1MiB
http:
  address: "127.0.0.1:0"
sys_interval: never
`

// The size of the load: so many workers, each of whom is one ClientID, use so many topics.
const (
	soakers    = 48
	soakTopics = 32
)

// soak is a broker under a load that changes all the time and never grows.
type soak struct {
	*world
	t       *testing.T
	seed    uint64
	samples []sample
}

// TestSoak: connections, subscriptions, sessions with queues, retained messages, takeovers, Wills and shared subscriptions come and go
// under load, and what the broker holds stays as much as it was. A first tenth of the time warms it up. Then its memory, goroutines,
// file descriptors and disk must not be more in the last quarter than in the second one, beyond the slack of each; and when all
// clients have taken back what they had, it has nothing left, and holds what it held after the warm-up.
func TestSoak(t *testing.T) {
	length := shortSoak
	if text := os.Getenv("MAGPIE_SOAK_TIME"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("MAGPIE_SOAK_TIME: %v", err)
		}
	}
	seed := uint64(number(t, "MAGPIE_TORTURE_SEED", time.Now().UnixNano()))
	t.Logf("MAGPIE_TORTURE_SEED=%d MAGPIE_SOAK_TIME=%v", seed, length)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &soak{t: t, seed: seed, world: &world{ledger: newLedger(cancel), ctx: ctx, server: newServer(t, soakConfig)}}
	defer s.report()
	if err := s.server.start(); err != nil {
		s.fail("%v", err)
		return
	}
	s.load(length/10, 0)
	before := s.released("after the warm-up", sample{})
	s.load(length-length/10, 40)
	s.trend()
	s.released("at the end", before)
	s.table()
	if metrics, err := s.metrics(); err == nil {
		t.Logf("%.0f connections, %.0f messages in, %.0f out", metrics[`magpie_packets_received_total{type="CONNECT"}`],
			sum(metrics, "magpie_messages_received_total"), sum(metrics, "magpie_messages_sent_total"))
	}
}

// sum adds up a metric over its labels.
func sum(metrics map[string]float64, name string) (total float64) {
	for key, v := range metrics {
		if strings.HasPrefix(key, name+"{") {
			total += v
		}
	}
	return total
}

// load lets the workers work for a while and takes so many samples meanwhile.
func (s *soak) load(length time.Duration, samples int) {
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for i := range soakers {
		rng := rand.New(rand.NewPCG(s.seed, uint64(i)<<32|uint64(samples)))
		w := &soaker{client: client{world: s.world, id: fmt.Sprint("soak", i), v: mqtt.V5, rng: rng}, stop: stop}
		if i%2 == 1 {
			w.v = mqtt.V311
		}
		workers.Go(w.run)
	}
	every := time.NewTicker(length / time.Duration(max(samples, 1)))
	defer every.Stop()
	for range max(samples, 1) {
		select {
		case <-every.C:
		case <-s.ctx.Done():
		}
		if samples > 0 && s.ctx.Err() == nil {
			s.sample("load")
		}
	}
	close(stop)
	workers.Wait()
	s.clear()
}

// clear removes what the workers may have left as retained.
func (s *soak) clear() {
	c := client{world: s.world, id: "cleaner", v: mqtt.V5, rng: rand.New(rand.NewPCG(s.seed, 1))}
	c.link, _ = c.dial(func(int64) mqtt.Connect { return mqtt.Connect{Version: c.v, ClientID: c.id, CleanStart: true} })
	if c.link == nil {
		return
	}
	for i := range soakTopics {
		p := mqtt.Publish{Topic: []byte(topicName(i)), QoS: mqtt.AtLeastOnce, PacketID: uint16(i + 1), Retain: true}
		c.link.out = p.Append(c.link.out, c.v)
	}
	for range soakTopics {
		c.link.flush()
		if _, err := c.link.next(); err != nil {
			c.ended(c.link, err)
			return
		}
	}
	c.leave(mqtt.Success)
}

func topicName(i int) string { return fmt.Sprintf("soak/%d/x", i) }

// trend compares the second quarter of the samples with the last one.
func (s *soak) trend() {
	n := len(s.samples)
	if s.ctx.Err() != nil || n < 8 {
		return
	}
	for i, what := range measures {
		early, late := median(s.samples[n/4:n/2], i), median(s.samples[n*3/4:], i)
		if late > what.bound(early) {
			s.fail("%s grows: %.0f in the second quarter, %.0f in the last, %.0f are allowed", what.name, early, late, what.bound(early))
		}
	}
}

func median(samples []sample, measure int) float64 {
	var vs []float64
	for _, x := range samples {
		vs = append(vs, x.values[measure])
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

// released waits until everything is taken back, and what the broker holds is not more than before, which is zero for the first time.
// The runtime gives memory back when it likes, within minutes.
func (s *soak) released(what string, before sample) (now sample) {
	for began := time.Now(); s.ctx.Err() == nil; {
		now = s.measure(what)
		held := now.held(before)
		if len(held) == 0 {
			s.samples = append(s.samples, now)
			return now
		}
		if time.Since(began) > 2*patience {
			s.samples = append(s.samples, now)
			s.fail("%s the broker still holds %q", what, held)
			return now
		}
		time.Sleep(100 * time.Millisecond)
	}
	return now
}

func (s *soak) sample(what string) { s.samples = append(s.samples, s.measure(what)) }

// table prints the samples.
func (s *soak) table() {
	text := fmt.Sprintf("\n%-18s", "")
	for _, m := range measures {
		text += fmt.Sprintf("%12s", m.name)
	}
	for _, m := range remains {
		m, _, _ = strings.Cut(strings.TrimPrefix(m, "clients_"), "_")
		text += fmt.Sprintf("%14s", m)
	}
	for i, x := range s.samples {
		if x.what == "load" && i%4 != 0 {
			continue
		}
		text += fmt.Sprintf("\n%-18s", x.what)
		for i, v := range x.values {
			text += fmt.Sprintf("%12.1f", v/measures[i].unit)
		}
		for _, v := range x.left {
			text += fmt.Sprintf("%14.0f", v)
		}
	}
	s.t.Log(text)
}

func (s *soak) report() {
	wrong := s.failures()
	if len(wrong) > 0 {
		s.table()
	}
	s.server.kill()
	for _, w := range wrong {
		s.t.Error(w)
	}
	if len(wrong) > 0 {
		s.t.Errorf("again: MAGPIE_TORTURE_SEED=%d go test ./torture -run TestSoak -count=1; the broker's last words:\n%s", s.seed, s.server.log.String())
	}
}
