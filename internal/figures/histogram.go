package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of which each is 1/32 wider than the one before: quantiles are that exact.
type histogram struct {
	buckets [64 * perDouble]uint32
	n       int
}

// perDouble is how many buckets there are from one power of two to the next.
const perDouble = 32

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < perDouble {
		return int(v)
	}
	shift := bits.Len64(v) - bits.Len64(perDouble)
	return shift*perDouble + int(v>>shift)
}

// floor is the shortest duration of a bucket.
func floor(bucket int) time.Duration {
	if bucket < 2*perDouble {
		return time.Duration(bucket)
	}
	shift := bucket/perDouble - 1
	return time.Duration(perDouble+bucket%perDouble) << shift
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucket(d)]++
	h.n++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.n += o.n
}

// quantile returns a duration that the fraction q of those counted does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rest := int(q * float64(h.n))
	for i, n := range h.buckets {
		if rest -= int(n); rest < 0 {
			return floor(i)
		}
	}
	return 0
}
