package session

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A queue against a slice, at all sizes up to a few hundred and while it goes round.
func TestQueue(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var q queue
		var want []Delivery
		for n := range 3000 {
			switch {
			case rng.IntN(1000) == 0:
				mod := 1 + rng.IntN(4)
				gone := func(d Delivery) bool { return number(d)%4 >= mod }
				before := len(want)
				want = slices.DeleteFunc(want, gone)
				if removed := q.remove(gone); removed != before-len(want) {
					t.Fatalf("seed %d, step %d: removed %d, want %d", seed, n, removed, before-len(want))
				}
			case len(want) > 0 && rng.IntN(100) < 30+n/50:
				if d := q.pop(); !same(d, want[0]) {
					t.Fatalf("seed %d, step %d: got message %d, want %d", seed, n, number(d), number(want[0]))
				}
				want = want[1:]
			default:
				want = append(want, message(n, q1))
				q.push(want[len(want)-1])
			}
			checkQueue(t, seed, &q, want)
		}
	}
}

func checkQueue(t *testing.T, seed uint64, q *queue, want []Delivery) {
	t.Helper()
	size := 0
	for i, d := range want {
		size += d.Size()
		if got := q.buf[q.index(i)]; !same(got, d) {
			t.Fatalf("seed %d: place %d has message %d, want %d", seed, i, number(got), number(d))
		}
	}
	if q.n != len(want) || q.bytes != size {
		t.Fatalf("seed %d: %d messages, %d bytes, want %d, %d", seed, q.n, q.bytes, len(want), size)
	}
	if q.n == 0 && len(q.buf) > keepTable {
		t.Fatalf("seed %d: an empty queue keeps %d places", seed, len(q.buf))
	}
}

// What was popped is not kept alive.
func TestQueueForgets(t *testing.T) {
	var q queue
	for n := range 3 {
		q.push(message(n, q1))
	}
	for range 3 {
		q.pop()
	}
	for i, d := range q.buf {
		if d.Message != nil {
			t.Errorf("place %d keeps its message", i)
		}
	}
}
