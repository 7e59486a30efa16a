package store

import (
	"sync"
	"sync/atomic"
)

// Memory is the store of a server whose messages live in memory only: a restart forgets them. Every record is as safe as it
// will ever be at once. The zero value is ready.
type Memory struct {
	mu     sync.Mutex // orders the news
	last   atomic.Uint64
	commit func(Position)
}

// Append implements [Store].
func (m *Memory) Append(*Record) (Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Position(m.last.Add(1))
	if m.commit != nil {
		m.commit(p)
	}
	return p, nil
}

// Committed implements [Store].
func (m *Memory) Committed() Position { return Position(m.last.Load()) }

// OnCommit implements [Store].
func (m *Memory) OnCommit(f func(Position)) { m.commit = f }

// Close implements [Store].
func (m *Memory) Close() error { return nil }
