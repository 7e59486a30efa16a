package store

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// Memory is a store that lives as long as the process: a new server on the same Memory has the state of the one before.
// Every record is safe as soon as it is appended, and none is ever forgotten, so it is for tests and short lives. The zero
// value is ready.
type Memory struct {
	mu      sync.RWMutex
	records []encoded // the record at position p is records[p-1]
	last    atomic.Uint64
}

type encoded struct {
	kind Kind
	body []byte
}

var errNoRecord = errors.New("there is no such record")

// Restore implements [Store].
func (m *Memory) Restore(f func(Position, *Record) error) error {
	m.mu.RLock()
	records := m.records
	m.mu.RUnlock()
	var r Record
	for i, e := range records {
		if err := r.Parse(e.kind, e.body); err != nil {
			return err
		}
		if err := f(Position(i+1), &r); err != nil {
			return err
		}
	}
	return nil
}

// Append implements [Store].
func (m *Memory) Append(r *Record) (Position, error) {
	e := encoded{r.Kind, r.Append(nil)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, e)
	return Position(m.last.Add(1)), nil
}

// Load implements [Store].
func (m *Memory) Load(at Position, r *Record) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if at == 0 || int(at) > len(m.records) {
		return errNoRecord
	}
	e := m.records[at-1]
	return r.Parse(e.kind, e.body)
}

// LoadAll implements [Store].
func (m *Memory) LoadAll(at []Position, f func(i int, r *Record, err error) bool) {
	for i, p := range at {
		var r Record
		if err := m.Load(p, &r); !f(i, &r, err) {
			return
		}
	}
}

// Committed implements [Store].
func (m *Memory) Committed() Position { return Position(m.last.Load()) }

// Safe implements [Store].
func (m *Memory) Safe(Promise) Position { return m.Committed() }

// Busy implements [Store]: memory never is.
func (m *Memory) Busy() bool { return false }

// Use implements [Store]: everything is kept anyway.
func (m *Memory) Use(Position, int) {}

// OnCommit implements [Store]: nobody ever waits.
func (m *Memory) OnCommit(func(Position)) {}

// OnFail implements [Store]: memory does not fail.
func (m *Memory) OnFail(func(error)) {}

// Maintain implements [Store]: nothing is ever given back.
func (m *Memory) Maintain(Upkeep) {}

// Close implements [Store].
func (m *Memory) Close() error { return nil }

// Clone returns a store with the records of now, which goes its own way from then on.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := &Memory{records: slices.Clone(m.records)}
	c.last.Store(uint64(len(c.records)))
	return c
}
