package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// backlog is one measurement of a long queue.
type backlog struct {
	before, after, peak float64 // resident memory in MB: with nothing in the queue, with all of it, and the most at any time
	perMessage          float64 // bytes of it for each message that waits
	in, out             float64 // messages per second into the queue, and out of it when the client is back
}

var backlogColumns = []column[backlog]{
	{"RSS before MB", "%.0f", func(q backlog) float64 { return q.before }},
	{"RSS after MB", "%.0f", func(q backlog) float64 { return q.after }},
	{"most MB", "%.0f", func(q backlog) float64 { return q.peak }},
	{"bytes/message", "%.0f", func(q backlog) float64 { return q.perMessage }},
	{"in messages/s", "%.0f", func(q backlog) float64 { return q.in }},
	{"out messages/s", "%.0f", func(q backlog) float64 { return q.out }},
}

// measureQueue prints what a queue of many messages for one client that is away takes.
func measureQueue(s *settings) error {
	results := make(map[string][]backlog)
	kinds := s.kinds("queue")
	for round := range s.rounds {
		for _, k := range kinds {
			q, err := s.queue(k)
			if err != nil {
				return fmt.Errorf("queue, %s: %w", k.name, err)
			}
			progress("round %d of %d: queue, %s: %.0f MB", round+1, s.rounds, k.name, q.after)
			results[k.name] = append(results[k.name], q)
		}
	}
	fmt.Printf("medians of %d rounds, in parentheses least and most; %d messages of %d bytes\n\n", s.rounds, s.messages, s.payload)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	heading(t, "one client that is away", backlogColumns)
	for _, k := range kinds {
		line(t, k.name, results[k.name], backlogColumns)
	}
	return t.Flush()
}

// queueWindow is how many unacknowledged messages the publisher has under way.
const queueWindow = 1000

// queue fills the queue of a client and lets it come back.
func (s *settings) queue(k kind) (q backlog, err error) {
	b, err := s.start(k)
	if err != nil {
		return q, err
	}
	defer b.stop()
	c, err := connect(b.address, "subscriber", false)
	if err != nil {
		return q, err
	}
	if err := c.subscribe("bench/+"); err != nil {
		return q, err
	}
	c.leave()
	p, err := newPublisher(b.address, "publisher", "bench/0", s.payload, queueWindow)
	if err != nil {
		return q, err
	}
	defer p.leave()
	before, _, err := b.resident()
	if err != nil {
		return q, err
	}
	start := time.Now()
	if err := p.publish(new(atomic.Bool), s.messages); err != nil {
		return q, err
	}
	q.in = float64(s.messages) / time.Since(start).Seconds()
	after, peak, err := b.resident()
	if err != nil {
		return q, err
	}
	q.before, q.after, q.peak = float64(before)/1e6, float64(after)/1e6, float64(peak)/1e6
	q.perMessage = float64(after-before) / float64(s.messages)
	q.out, err = drain(b, s.messages)
	return q, err
}

// drain lets the client come back, and returns how many messages it got per second.
func drain(b *server, messages int) (rate float64, err error) {
	start := time.Now()
	c, err := connect(b.address, "subscriber", false)
	if err != nil {
		return 0, err
	}
	defer c.leave()
	last, err := c.take().await(messages)
	return float64(messages) / last.Sub(start).Seconds(), err
}
