package topic

import (
	"fmt"
	"runtime"
	"testing"
)

const million = 1_000_000

// bigFilter is one of a million filters as an installation has them: 9 of 10 literal, the others with + or #.
func bigFilter(i int) string {
	switch i % 20 {
	case 0:
		return fmt.Sprintf("d/p%d/dev%07d/#", i%100, i)
	case 1:
		return fmt.Sprintf("d/+/dev%07d/command/+", i)
	}
	return fmt.Sprintf("d/p%d/dev%07d/desired", i%100, i)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bigTree is made once for all benchmarks that ask for it.
func bigTree(b *testing.B) (tree *Tree[int, int], bytesPerFilter float64) {
	b.Helper()
	if million == bigOnce.tree.Len() {
		return &bigOnce.tree, bigOnce.bytes
	}
	before := heap()
	for i := range million {
		bigOnce.tree.Set(bigFilter(i), i, i)
	}
	bigOnce.bytes = float64(heap()-before) / million
	return &bigOnce.tree, bigOnce.bytes
}

var bigOnce struct {
	tree  Tree[int, int]
	bytes float64
}

func BenchmarkTreeMatch(b *testing.B) {
	for _, c := range []struct {
		label, name string
		want        int
	}{
		{"exact", "d/p42/dev%07d/desired", 1},
		{"hash", "d/p40/dev%07d/telemetry/now", 1},
		{"plus", "d/p41/dev%07d/command/reboot", 1},
		{"none", "d/p42/dev%07d/telemetry", 0},
	} {
		b.Run(c.label, func(b *testing.B) {
			tree, bytes := bigTree(b)
			names := make([]string, 10000)
			residue := map[string]int{"hash": 40, "plus": 41}[c.label]
			if residue == 0 {
				residue = 42
			}
			for i := range names {
				names[i] = fmt.Sprintf(c.name, residue+100*i)
			}
			var dst []Entry[int, int]
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				dst, _ = tree.Match(names[i*7919%len(names)], dst[:0])
				i++
				if len(dst) != c.want {
					b.Fatalf("got %d entries, want %d", len(dst), c.want)
				}
			}
			b.ReportMetric(bytes, "B/filter")
		})
	}
}

func BenchmarkTreeFanOut10k(b *testing.B) {
	var tree Tree[int, int]
	for i := range 10000 {
		tree.Set("d/p/all", i, i)
	}
	dst := make([]Entry[int, int], 0, 10000)
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = tree.Match("d/p/all", dst[:0])
	}
	if len(dst) != 10000 {
		b.Fatalf("got %d entries, want 10000", len(dst))
	}
}

// BenchmarkTreeChurn subscribes and unsubscribes in a tree of a million filters.
func BenchmarkTreeChurn(b *testing.B) {
	tree, _ := bigTree(b)
	filters := make([]string, 10000)
	for i := range filters {
		filters[i] = fmt.Sprintf("d/p%d/new%d/+", i%100, i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		filter := filters[i%len(filters)]
		tree.Set(filter, -1, i)
		tree.Delete(filter, -1)
		i++
	}
}

// BenchmarkTreeChurnOneFilter is the same for one of 10,000 subscribers of a filter.
func BenchmarkTreeChurnOneFilter(b *testing.B) {
	var tree Tree[int, int]
	for i := range 10000 {
		tree.Set("d/p/all", i, i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		tree.Delete("d/p/all", i%10000)
		tree.Set("d/p/all", i%10000, i)
		i++
	}
}

var bigRetainedOnce struct {
	retained Retained[*int]
	bytes    float64
}

// bigRetained has 200,000 devices with five names each; bytes do not count the names' own, which a message has anyway.
func bigRetained(b *testing.B) (r *Retained[*int], bytesPerName float64) {
	b.Helper()
	r = &bigRetainedOnce.retained
	if r.Len() == million {
		return r, bigRetainedOnce.bytes
	}
	names := make([]string, 0, million)
	for i := range million / 5 {
		for _, leaf := range []string{"status", "desired", "level", "battery", "position"} {
			names = append(names, fmt.Sprintf("d/p%d/dev%07d/%s", i%100, i, leaf))
		}
	}
	newGen(1).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	before, one := heap(), 1
	for _, name := range names {
		r.Set(name, &one)
	}
	bigRetainedOnce.bytes = float64(heap()-before) / million
	runtime.KeepAlive(names)
	return r, bigRetainedOnce.bytes
}

func BenchmarkRetainedMatch(b *testing.B) {
	for _, c := range []struct {
		filter string
		want   int
	}{
		{"d/p42/dev0000042/status", 1},
		{"d/p42/dev0000042/#", 5},
		{"d/+/dev0000042/status", 1},
		{"d/p42/+/status", 2000},
		{"d/+/+/status", 200_000},
		{"#", million},
		{"x/#", 0},
	} {
		b.Run(c.filter, func(b *testing.B) {
			r, bytes := bigRetained(b)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				r.Match(c.filter, func(string, *int) bool { n++; return true })
			}
			if n != c.want {
				b.Fatalf("got %d names, want %d", n, c.want)
			}
			b.ReportMetric(bytes, "B/name")
		})
	}
}

func BenchmarkRetainedSetDelete(b *testing.B) {
	r, _ := bigRetained(b)
	names := make([]string, 10000)
	for i := range names {
		names[i] = fmt.Sprintf("d/p%d/dev%07d/new", i%100, i*17)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		name := names[i*7919%len(names)]
		r.Set(name, nil)
		r.Delete(name)
		i++
	}
}

func BenchmarkRetainedReplace(b *testing.B) {
	r, _ := bigRetained(b)
	names := make([]string, 10000)
	for i := range names {
		names[i] = fmt.Sprintf("d/p%d/dev%07d/level", i%100, i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Set(names[i*7919%len(names)], nil)
		i++
	}
}

func BenchmarkValidateName(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if ValidateName("d/scenic-area/bin0000042/telemetry", Limits{}) != nil {
			b.Fatal("valid name refused")
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !Match("d/+/bin0000042/#", "d/scenic-area/bin0000042/telemetry") {
			b.Fatal("no match")
		}
	}
}
