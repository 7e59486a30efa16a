package broker

import (
	"sync"
	"time"
)

// logLimit lets a few lines a minute through for each address, so that nobody fills the disk with complaints about himself.
type logLimit struct {
	mu    sync.Mutex
	since time.Time
	lines map[string]int
}

const (
	logWindow      = time.Minute
	logLines       = 20     // per address and window
	logAddresses   = 10_000 // beyond it a window ends early
	loopbackBursts = 50     // times as many lines for this machine itself, where people try things
)

// allow reports whether one more line about the address may be written now.
func (l *logLimit) allow(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.lines == nil || now.Sub(l.since) > logWindow || len(l.lines) >= logAddresses {
		l.since, l.lines = now, make(map[string]int)
	}
	l.lines[address]++
	most := logLines
	if address == "127.0.0.1" || address == "::1" || address == "" {
		most *= loopbackBursts
	}
	return l.lines[address] <= most
}
