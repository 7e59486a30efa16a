package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"
)

// load is how hard the publishers work.
type load struct{ publishers, window int }

func (l load) String() string { return fmt.Sprintf("%d publishers, window %d", l.publishers, l.window) }

var loads = []load{{1, 1}, {16, 1}, {256, 1}, {1, 64}, {16, 64}, {256, 64}}

// result is one measurement of a broker under a load.
type result struct {
	rate     float64 // messages per second that came to the subscriber
	p50, p99 float64 // ms from the write of a message to the read of its PUBACK
	cpu      float64 // processor time of the broker for a message, in µs
	written  float64 // bytes to the disk for a message
	own      float64 // processor time of the generator for a message, in µs
}

// columns are what the table shows of a result.
var columns = []column[result]{
	{"messages/s", "%.0f", func(r result) float64 { return r.rate }},
	{"PUBACK p50 ms", "%.3g", func(r result) float64 { return r.p50 }},
	{"p99 ms", "%.3g", func(r result) float64 { return r.p99 }},
	{"broker µs/message", "%.3g", func(r result) float64 { return r.cpu }},
	{"bytes to disk/message", "%.0f", func(r result) float64 { return r.written }},
	{"generator µs/message", "%.3g", func(r result) float64 { return r.own }},
}

// measureDurable prints what each broker does under each load.
func measureDurable(s *settings) error {
	results := make(map[string][]result)
	syncs := &histogram{}
	for round := range s.rounds {
		for _, l := range loads {
			for _, k := range s.kinds(l.String()) {
				r, err := s.measure(k, l)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l, k.name, err)
				}
				progress("round %d of %d: %s, %s: %.0f messages/s", round+1, s.rounds, l, k.name, r.rate)
				results[title(l.String(), k)] = append(results[title(l.String(), k)], r)
			}
			if err := measureSync(s.dir, syncs); err != nil {
				return err
			}
		}
	}
	fmt.Printf("write and sync of 4 KiB in a preallocated file: p50 %.3g ms, p99 %.3g ms\n", millis(syncs.quantile(0.5)), millis(syncs.quantile(0.99)))
	fmt.Printf("medians of %d rounds of %v, in parentheses least and most; payload %d bytes\n\n", s.rounds, s.time, s.payload)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, l := range loads {
		kinds := s.kinds(l.String())
		if len(kinds) == 0 {
			continue
		}
		heading(t, l.String(), columns)
		for _, k := range kinds {
			line(t, k.name, results[title(l.String(), k)], columns)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// warmUp comes before every measurement, on the same connections.
const warmUp = 300 * time.Millisecond

// measure starts a broker and lets the publishers work.
func (s *settings) measure(k kind, l load) (r result, err error) {
	b, err := s.start(k)
	if err != nil {
		return r, err
	}
	defer b.stop()
	c, err := connect(b.address, "subscriber", false)
	if err != nil {
		return r, err
	}
	defer c.leave()
	if err := c.subscribe("bench/+"); err != nil {
		return r, err
	}
	g := &generator{sub: c.take()}
	defer g.leave()
	if err := g.connect(b.address, l, s.payload); err != nil {
		return r, err
	}
	if _, err := g.run(warmUp); err != nil {
		return r, err
	}
	before, err := b.usage()
	if err != nil {
		return r, err
	}
	own := ownTime()
	w, err := g.run(s.time)
	if err != nil {
		return r, err
	}
	own = ownTime() - own
	after, err := b.usage()
	if err != nil {
		return r, err
	}
	used, n := after.since(before), float64(w.messages)
	return result{
		rate: n / w.took.Seconds(), p50: millis(w.times.quantile(0.5)), p99: millis(w.times.quantile(0.99)),
		cpu: micros(used.cpu) / n, written: float64(used.written) / n, own: micros(own) / n,
	}, nil
}
