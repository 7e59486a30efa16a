package main

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// generator is some publishers and one subscriber. Each connection has one goroutine.
type generator struct {
	pubs []*publisher
	sub  *subscriber
	sent int // in all runs
}

// connect makes the publishers, each with a name of its own to publish to.
func (g *generator) connect(address string, l load, payload int) error {
	for i := range l.publishers {
		p, err := newPublisher(address, fmt.Sprint("publisher", i), fmt.Sprint("bench/", i), payload, l.window)
		if err != nil {
			return err
		}
		g.pubs = append(g.pubs, p)
	}
	return nil
}

func (g *generator) leave() {
	for _, p := range g.pubs {
		p.leave()
	}
}

// work is what was done in a run.
type work struct {
	messages int
	took     time.Duration // until the subscriber had the last one
	times    *histogram
}

// run lets everybody publish for so long, and waits until all has come to the subscriber.
func (g *generator) run(d time.Duration) (w work, err error) {
	var stop atomic.Bool
	errs := make([]error, len(g.pubs))
	var group sync.WaitGroup
	start := time.Now()
	for i, p := range g.pubs {
		p.times = histogram{}
		w.messages -= p.acks
		group.Go(func() { errs[i] = p.publish(&stop, math.MaxInt32) })
	}
	time.AfterFunc(d, func() { stop.Store(true) })
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return w, err
	}
	w.times = &histogram{}
	for _, p := range g.pubs {
		w.messages += p.acks
		w.times.merge(&p.times)
	}
	g.sent += w.messages
	last, err := g.sub.await(g.sent)
	w.took = last.Sub(start)
	return w, err
}
