package auth

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The cache returns nothing but what was put last and is still good, and never holds more than its size.
func TestCacheOracle(t *testing.T) {
	type held struct {
		value int
		until time.Time
	}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		now := time.Unix(1000, 0)
		c := newCache[int](10, func() time.Time { return now })
		want := map[cacheKey]held{}
		for i := range 500 {
			k := cacheKey{byte(rng.IntN(20))}
			switch rng.IntN(4) {
			case 0:
				h := held{i, now.Add(time.Duration(rng.IntN(10)) * time.Second)}
				c.put(k, h.value, h.until)
				want[k] = h
				if v, ok := c.get(k); ok != now.Before(h.until) || ok && v != i {
					t.Fatalf("seed %d: what was just put is not there", seed)
				}
			case 1:
				now = now.Add(time.Second)
			default:
				v, ok := c.get(k)
				if h := want[k]; ok && (v != h.value || !now.Before(h.until)) {
					t.Fatalf("seed %d: got %d, want %d until %v, now %v", seed, v, h.value, h.until, now)
				}
			}
			if c.len() > 10 {
				t.Fatalf("seed %d: %d entries", seed, c.len())
			}
		}
	}
}

func TestCacheClear(t *testing.T) {
	c := newCache[int](10, time.Now)
	c.put(cacheKey{1}, 1, time.Now().Add(time.Hour))
	c.clear()
	if _, ok := c.get(cacheKey{1}); ok {
		t.Error("still there")
	}
}

// Parts must not run into each other: user "ab" with password "c" is not user "a" with password "bc".
func TestKeyer(t *testing.T) {
	k := newKeyer()
	if k.key([]byte("ab"), []byte("c")) == k.key([]byte("a"), []byte("bc")) {
		t.Error("parts run into each other")
	}
	first, again, elsewhere := k.key([]byte("a")), k.key([]byte("a")), newKeyer().key([]byte("a"))
	if first != again {
		t.Error("the same parts give different keys")
	}
	if first == elsewhere {
		t.Error("two processes share a key")
	}
}
