package loadgen

import "math/bits"

// histogram counts times in nanoseconds. Buckets grow with what they count: each power of two is divided into as many, so a
// quantile is less than 1 % off. Adding allocates nothing.
type histogram struct {
	buckets [(64 - stepBits) * steps]uint64
	n       uint64
	max     int64
}

// steps is how many buckets there are from one power of two to the next.
const (
	stepBits = 6
	steps    = 1 << stepBits
)

// add counts a time; a negative one, of clocks that disagree, is zero.
func (h *histogram) add(ns int64) {
	ns = max(ns, 0)
	h.buckets[bucketOf(uint64(ns))]++
	h.n++
	h.max = max(h.max, ns)
}

func bucketOf(v uint64) int {
	if v < steps {
		return int(v)
	}
	shift := bits.Len64(v) - stepBits - 1
	return shift*steps + int(v>>shift) // the leading one of v>>shift makes up for shift+1
}

// middle is the time in the middle of a bucket.
func middle(bucket int) float64 {
	if bucket < 2*steps {
		return float64(bucket)
	}
	shift := bucket/steps - 1
	return (float64(bucket-shift*steps) + 0.5) * float64(uint64(1)<<shift)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile returns the time, in nanoseconds, that the fraction q of those counted does not exceed; zero of nothing.
func (h *histogram) quantile(q float64) float64 {
	if h.n == 0 {
		return 0
	}
	rank := max(1, uint64(q*float64(h.n)+0.5))
	for i, n := range h.buckets {
		if n >= rank {
			return min(middle(i), float64(h.max))
		}
		rank -= n
	}
	return float64(h.max)
}

// Latency is a distribution of times, in microseconds.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

func (h *histogram) latency() Latency {
	us := func(q float64) float64 { return h.quantile(q) / 1000 }
	return Latency{h.n, us(0.5), us(0.9), us(0.99), us(0.999), float64(h.max) / 1000}
}
