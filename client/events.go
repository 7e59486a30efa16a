package client

import "sync"

// mostEvents is how many events wait for the user's functions; beyond it the oldest is lost.
const mostEvents = 64

// events calls the user's On… functions, one after the other, on a goroutine that lives while there are any. The zero value is ready.
type events struct {
	mu      sync.Mutex
	waiting []func()
	running bool
	over    bool
}

// add queues an event for the functions of a client.
func (e *events) add(c *Client, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return
	}
	if len(e.waiting) == mostEvents {
		e.waiting = e.waiting[1:]
	}
	e.waiting = append(e.waiting, f)
	if !e.running {
		e.running = true
		c.handlers.Go(e.run)
	}
}

func (e *events) run() {
	for f := e.take(); f != nil; f = e.take() {
		f()
	}
}

func (e *events) take() func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) == 0 {
		e.running = false
		return nil
	}
	f := e.waiting[0]
	e.waiting = e.waiting[1:]
	return f
}

// close takes no more events; those that wait are still told.
func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}
