package main

import (
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
)

// TestHistogram compares quantiles with those of the sorted durations.
func TestHistogram(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var h, other histogram
		var all []time.Duration
		for range 1 + rng.IntN(500) {
			d := time.Duration(rng.Uint64() >> (1 + rng.IntN(63)))
			all = append(all, d)
			if rng.IntN(2) == 0 {
				h.add(d)
			} else {
				other.add(d)
			}
		}
		h.merge(&other)
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.99} {
			want, got := all[int(q*float64(len(all)))], h.quantile(q)
			if got > want || want-got > want/perDouble {
				t.Fatalf("seed %d: quantile %v is %d, want %d or a little less", seed, q, got, want)
			}
		}
	}
}

// TestParseStat: the name of a process may hold anything.
func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 123 45 0 0 20 0 8 0 99"
	for _, name := range []string{"(magpie)", "(a b)", "(x) S 1 (y)", "()"} {
		got, err := parseStat("77 " + name + rest)
		if want := 1680 * time.Millisecond; err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "77 (magpie) S 1 2", "77 (magpie)" + strings.Replace(rest, "123", "x", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestField(t *testing.T) {
	const file = "VmPeak:\t  100 kB\nVmRSS:\t    42 kB\nempty:\n"
	if n, err := field(file, "VmRSS:"); n != 42 || err != nil {
		t.Errorf("%d, %v, want 42", n, err)
	}
	for _, name := range []string{"VmHWM:", "empty:"} {
		if n, err := field(file, name); err == nil {
			t.Errorf("%s is %d, want an error", name, n)
		}
	}
}

func TestLine(t *testing.T) {
	columns := []column[float64]{
		{"it", "%.1f", func(f float64) float64 { return f }},
		{"twice", "%.0f", func(f float64) float64 { return 2 * f }},
	}
	for _, c := range []struct {
		rounds []float64
		want   string
	}{
		{[]float64{3, 1, 2}, "x\t2.0 (1.0–3.0)\t4 (2–6)\n"},
		{[]float64{4, 1, 2, 3}, "x\t2.5 (1.0–4.0)\t5 (2–8)\n"},
		{[]float64{7}, "x\t7.0 (7.0–7.0)\t14 (14–14)\n"},
	} {
		var b strings.Builder
		if line(&b, "x", c.rounds, columns); b.String() != c.want {
			t.Errorf("%v: %q, want %q", c.rounds, b.String(), c.want)
		}
	}
}

// serve runs a broker in this process.
func serve(t *testing.T) (address string) {
	t.Helper()
	b, err := broker.New(broker.Config{SysInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(t.Context(), ln) }()
	t.Cleanup(func() { <-served }) // t.Context is done by then
	return ln.Addr().String()
}

// TestGenerator: every message that is counted was acknowledged and has come to the subscriber, in all runs and across the end of
// the Packet Identifiers.
func TestGenerator(t *testing.T) {
	for _, l := range []load{{1, 1}, {3, 64}} {
		address := serve(t)
		c, err := connect(address, "subscriber", false)
		if err != nil {
			t.Fatal(err)
		}
		defer c.leave()
		if err := c.subscribe("bench/+"); err != nil {
			t.Fatal(err)
		}
		g := &generator{sub: c.take()}
		defer g.leave()
		if err := g.connect(address, l, 16); err != nil {
			t.Fatal(err)
		}
		g.pubs[0].sends, g.pubs[0].acks = 65_500, 65_500
		if err := g.pubs[0].publish(new(atomic.Bool), 100); err != nil {
			t.Fatalf("%v: %v", l, err)
		}
		g.sent = 100
		for range 2 {
			w, err := g.run(10 * time.Millisecond)
			if err != nil {
				t.Fatalf("%v: %v", l, err)
			}
			if w.messages == 0 || w.messages != w.times.n || w.took <= 0 {
				t.Errorf("%v: %d messages, %d times, took %v", l, w.messages, w.times.n, w.took)
			}
		}
		if got := g.sub.count.Load(); got != int64(g.sent) {
			t.Errorf("%v: %d messages have come, want %d", l, got, g.sent)
		}
	}
}

// TestSubscriberGone: who waits for messages hears when none can come any more.
func TestSubscriberGone(t *testing.T) {
	c, err := connect(serve(t), "subscriber", true)
	if err != nil {
		t.Fatal(err)
	}
	sub := c.take()
	c.leave()
	if _, err := sub.await(1); err == nil {
		t.Error("no error")
	}
}
