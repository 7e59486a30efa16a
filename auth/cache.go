package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// cacheKey stands for what a decision was about. It is an HMAC under a key that only this process knows, so that a
// cache in a core dump gives no passwords away.
type cacheKey [sha256.Size]byte

// keyer makes cache keys.
type keyer [32]byte

func newKeyer() *keyer {
	var k keyer
	rand.Read(k[:]) // never fails
	return &k
}

// key digests the parts, each with its length before it so that no two lists of parts collide.
func (k *keyer) key(parts ...[]byte) (out cacheKey) {
	mac := hmac.New(sha256.New, k[:])
	for _, p := range parts {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		mac.Write(p)
	}
	mac.Sum(out[:0])
	return out
}

// cache remembers decisions for a short time, in bounded memory, safe for many goroutines. It keeps two generations:
// when the young one is full it becomes the old one and the former old one is dropped, so that no put costs more than
// a map write and a flood of new keys needs half the size to push out what was just used.
type cache[V any] struct {
	half int
	now  func() time.Time

	mu         sync.Mutex // guards all below
	young, old map[cacheKey]cached[V]
}

type cached[V any] struct {
	value V
	until time.Time
}

// newCache makes a cache of about size entries, at least two.
func newCache[V any](size int, now func() time.Time) *cache[V] {
	return &cache[V]{half: max(size/2, 1), now: now, young: map[cacheKey]cached[V]{}}
}

func (c *cache[V]) get(k cacheKey) (value V, ok bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.young[k]
	if !ok {
		e, ok = c.old[k]
	}
	if !ok || !now.Before(e.until) {
		return value, false
	}
	return e.value, true
}

func (c *cache[V]) put(k cacheKey, value V, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[k]; !ok && len(c.young) >= c.half {
		c.young, c.old = make(map[cacheKey]cached[V]), c.young
	}
	c.young[k] = cached[V]{value, until}
}

func (c *cache[V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = map[cacheKey]cached[V]{}, nil
}

func (c *cache[V]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.young) + len(c.old)
}
