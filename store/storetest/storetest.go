// Package storetest is the suite that every store passes.
package storetest

import (
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// patience is how long a commit may take before the suite gives up.
const patience = 30 * time.Second

// Run tests the store that open returns. It opens one for each test.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("positions", func(t *testing.T) { positions(t, open(t)) })
	t.Run("news", func(t *testing.T) { news(t, open(t)) })
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, open(t)) })
	t.Run("close commits", func(t *testing.T) { closeCommits(t, open(t)) })
}

// log collects the news of a store.
type log struct {
	mu   sync.Mutex
	news []store.Position
	more chan struct{}
}

func listen(s store.Store) *log {
	l := &log{more: make(chan struct{}, 1)}
	s.OnCommit(func(p store.Position) {
		l.mu.Lock()
		l.news = append(l.news, p)
		l.mu.Unlock()
		select {
		case l.more <- struct{}{}:
		default:
		}
	})
	return l
}

// reaches waits until the store has told that p is committed.
func (l *log) reaches(t *testing.T, p store.Position) {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		n := len(l.news)
		done := n > 0 && l.news[n-1] >= p
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-l.more:
		case <-deadline:
			t.Fatalf("position %d was not committed in %v", p, patience)
		}
	}
}

func record(payload string) *store.Record {
	return &store.Record{Message: &mqtt.Message{Topic: "a/b", Payload: []byte(payload), QoS: mqtt.ExactlyOnce}, ClientID: "c", PacketID: 7}
}

func appendOne(t *testing.T, s store.Store, payload string) store.Position {
	t.Helper()
	p, err := s.Append(record(payload))
	if err != nil {
		t.Fatalf("append %q: %v", payload, err)
	}
	return p
}

// positions grow by order of Append, and nothing is committed that was not appended.
func positions(t *testing.T, s store.Store) {
	l := listen(s)
	if got := s.Committed(); got != 0 {
		t.Errorf("an empty store has committed %d", got)
	}
	var last store.Position
	for range 100 {
		p := appendOne(t, s, "x")
		if p <= last {
			t.Fatalf("position %d after %d", p, last)
		}
		last = p
		if c := s.Committed(); c > last {
			t.Fatalf("committed %d, appended %d", c, last)
		}
	}
	l.reaches(t, last)
	if got := s.Committed(); got != last {
		t.Errorf("committed %d, want %d", got, last)
	}
}

// news never goes back and never runs ahead of Committed.
func news(t *testing.T, s store.Store) {
	l := listen(s)
	var last store.Position
	for range 1000 {
		last = appendOne(t, s, "x")
	}
	l.reaches(t, last)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.news {
		if i > 0 && p < l.news[i-1] {
			t.Fatalf("news of %d after %d", p, l.news[i-1])
		}
		if p > s.Committed() {
			t.Fatalf("news of %d, committed %d", p, s.Committed())
		}
	}
}

// manyAtOnce appends from many goroutines: every position is given once.
func manyAtOnce(t *testing.T, s store.Store) {
	l := listen(s)
	const writers, each = 16, 200
	var mu sync.Mutex
	given := make(map[store.Position]bool)
	var last store.Position
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				p, err := s.Append(record("x"))
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				if given[p] {
					t.Errorf("position %d was given twice", p)
				}
				given[p] = true
				last = max(last, p)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(given) != writers*each {
		t.Fatalf("%d positions for %d records", len(given), writers*each)
	}
	l.reaches(t, last)
}

// closeCommits wants everything committed that was appended before Close.
func closeCommits(t *testing.T, s store.Store) {
	listen(s)
	last := appendOne(t, s, "x")
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if got := s.Committed(); got < last {
		t.Errorf("committed %d after Close, want %d", got, last)
	}
}
