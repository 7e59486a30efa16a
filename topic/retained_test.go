package topic

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// check fails if the names are out of order, or a chunk is empty or overfull.
func (r *Retained[V]) check() error {
	n, last := 0, ""
	for i, chunk := range r.chunks {
		if len(chunk) == 0 || len(chunk) > chunkMax {
			return fmt.Errorf("chunk %d has %d items", i, len(chunk))
		}
		for _, item := range chunk {
			if n > 0 && compare(last, item.Name) >= 0 {
				return fmt.Errorf("%q before %q", last, item.Name)
			}
			n, last = n+1, item.Name
		}
	}
	if n != r.len {
		return fmt.Errorf("counted %d names, has %d", r.len, n)
	}
	return nil
}

// byLevels orders names as split.
func byLevels(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// wantMatch asks the oracle about every name.
func wantMatch(names map[string]int, filter string) (out []Item[int]) {
	for name, v := range names {
		if Match(filter, name) {
			out = append(out, Item[int]{name, v})
		}
	}
	slices.SortFunc(out, func(a, b Item[int]) int { return byLevels(a.Name, b.Name) })
	return out
}

func matchAll(r *Retained[int], filter string) (out []Item[int]) {
	r.Match(filter, func(name string, v int) bool {
		out = append(out, Item[int]{name, v})
		return true
	})
	return out
}

func TestCompareIsByLevels(t *testing.T) {
	for seed := range uint64(5000) {
		g := newGen(seed)
		a, b := g.name(), g.name()
		want := byLevels(a, b)
		if got := compare(a, b); cmp.Compare(got, 0) != want {
			t.Fatalf("seed %d: %q, %q: got %d, want %d", seed, a, b, got, want)
		}
		if got := compare([]byte(a), b); cmp.Compare(got, 0) != want {
			t.Fatalf("seed %d: %q as bytes, %q: got %d, want %d", seed, a, b, got, want)
		}
	}
}

// playRetained changes r and its oracle alike.
func playRetained(t *testing.T, label string, g gen, steps int, r *Retained[int], oracle map[string]int) {
	t.Helper()
	for range steps {
		name, v := g.name(), g.Int()
		want, wantOK := oracle[name]
		if got, ok := r.Get(name); got != want || ok != wantOK {
			t.Fatalf("%s: Get(%q): got %v %v, want %v %v", label, name, got, ok, want, wantOK)
		}
		if g.IntN(3) > 0 {
			if old, replaced := r.Set(name, v); old != want || replaced != wantOK {
				t.Fatalf("%s: Set(%q): got %v %v, want %v %v", label, name, old, replaced, want, wantOK)
			}
			oracle[name] = v
			continue
		}
		if old, ok := r.Delete(name); old != want || ok != wantOK {
			t.Fatalf("%s: Delete(%q): got %v %v, want %v %v", label, name, old, ok, want, wantOK)
		}
		delete(oracle, name)
	}
	if err := r.check(); err != nil || r.Len() != len(oracle) {
		t.Fatalf("%s: Len is %d, want %d; %v", label, r.Len(), len(oracle), err)
	}
}

func emptyRetained(t *testing.T, label string, g gen, r *Retained[int], oracle map[string]int) {
	t.Helper()
	names := slices.Sorted(maps.Keys(oracle))
	switch g.IntN(3) {
	case 0:
		slices.Reverse(names)
	case 1:
		g.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	}
	for i, name := range names {
		if _, ok := r.Delete(name); !ok {
			t.Fatalf("%s: Delete(%q) of what is there", label, name)
		}
		if err := r.check(); err != nil && i%50 == 0 {
			t.Fatalf("%s: %v", label, err)
		}
	}
	if r.Len() != 0 || len(r.chunks) != 0 {
		t.Fatalf("%s: emptied, has %d names in %d chunks", label, r.Len(), len(r.chunks))
	}
}

func TestRetainedAgainstOracle(t *testing.T) {
	for seed := range uint64(600) {
		label, g := fmt.Sprintf("seed %d", seed), newGen(seed)
		var r Retained[int]
		oracle := map[string]int{}
		playRetained(t, label, g, 60, &r, oracle)
		for range 20 {
			filter := g.filter()
			if got, want := matchAll(&r, filter), wantMatch(oracle, filter); !slices.Equal(got, want) {
				t.Fatalf("%s: filter %q: got %v, want %v", label, filter, got, want)
			}
		}
		if got := maps.Collect(r.All()); !maps.Equal(got, oracle) {
			t.Fatalf("%s: All: got %v, want %v", label, got, oracle)
		}
		emptyRetained(t, label, g, &r, oracle)
	}
}

func TestWideRetainedAgainstOracle(t *testing.T) {
	for seed := range uint64(6) {
		label, g := fmt.Sprintf("wide seed %d", seed), newWideGen(seed)
		var r Retained[int]
		oracle := map[string]int{}
		playRetained(t, label, g, 6000, &r, oracle)
		if len(r.chunks) < 3 {
			t.Fatalf("%s: only %d chunks: the test has lost its teeth", label, len(r.chunks))
		}
		for range 50 {
			filter := g.filter()
			if got, want := matchAll(&r, filter), wantMatch(oracle, filter); !slices.Equal(got, want) {
				t.Fatalf("%s: filter %q: got %d items, want %d", label, filter, len(got), len(want))
			}
		}
		emptyRetained(t, label, g, &r, oracle)
	}
}

// TestNextWhileNamesChange walks in portions, between which some names come and go: those that stay are found exactly
// once, the others at most once, in order, and what is found matches.
func TestNextWhileNamesChange(t *testing.T) {
	for seed := range uint64(400) {
		g := newGen(seed)
		if seed%20 == 0 {
			g = newWideGen(seed)
		}
		var r Retained[int]
		stay := map[string]int{}
		for i := range 40 + 10*int(seed%20) {
			stay[g.name()] = i
		}
		for name, v := range stay {
			r.Set(name, v)
		}
		churn := func() {
			for range g.IntN(6) {
				if name := g.name(); stay[name] != 0 {
					continue
				} else if _, there := stay[name]; there {
					continue
				} else if g.IntN(2) == 0 {
					r.Set(name, -1)
				} else {
					r.Delete(name)
				}
			}
		}
		filter := g.filter()
		var got []Item[int]
		for next, page := "", 0; ; page++ {
			limit := 1 + g.IntN(4)
			before := len(got)
			if got, next = r.Next(filter, next, limit, got); len(got)-before > limit {
				t.Fatalf("seed %d: %d items in a portion of %d", seed, len(got)-before, limit)
			}
			if next == "" {
				break
			}
			if page > 100000 {
				t.Fatalf("seed %d: filter %q does not end", seed, filter)
			}
			churn()
		}
		for i, item := range got {
			if !Match(filter, item.Name) {
				t.Fatalf("seed %d: filter %q found %q", seed, filter, item.Name)
			}
			if i > 0 && byLevels(got[i-1].Name, item.Name) >= 0 {
				t.Fatalf("seed %d: %q found after %q", seed, item.Name, got[i-1].Name)
			}
		}
		stayed := slices.DeleteFunc(got, func(i Item[int]) bool { return i.Value < 0 })
		if want := wantMatch(stay, filter); !slices.Equal(stayed, want) {
			t.Fatalf("seed %d: filter %q: got %v, want %v", seed, filter, stayed, want)
		}
	}
}

func TestNextLooksAtLimitedNames(t *testing.T) {
	var r Retained[int]
	for i := range 1000 {
		r.Set(fmt.Sprintf("d/%03d/level", i), i)
		r.Set(fmt.Sprintf("d/%03d/status", i), i)
	}
	got, next := r.Next("d/+/nothing", "", 100, nil)
	if len(got) != 0 || next == "" || next > "d/100/status" {
		t.Errorf("got %v, to be continued at %q; want nothing, continued early", got, next)
	}
	got, next = r.Next("#", "d/000/level", 100, nil)
	if len(got) != 100 || next != "d/050/level" {
		t.Errorf("got %d items, to be continued at %q; want 100, at d/050/level", len(got), next)
	}
	if got, next = r.Next("#", "", 0, nil); len(got) != 1 || next != "d/000/status" {
		t.Errorf("limit 0: got %v, %q, want one item", got, next)
	}
	if got, next = r.Next("#", "d/999/status", 1, nil); len(got) != 1 || next != "" {
		t.Errorf("at the last name: got %v, %q, want it and the end", got, next)
	}
	if got, next = r.Next("#", "e", 1, nil); len(got) != 0 || next != "" {
		t.Errorf("behind the last name: got %v, %q, want the end", got, next)
	}
	for i := range 10 {
		r.Set(fmt.Sprintf("long/%d", i)+strings.Repeat("/", 60000), i)
	}
	if got, next = r.Next("long/#", "long", 100, nil); len(got) != 1 || next == "" {
		t.Errorf("long names: got %d of them, want one at a time", len(got))
	}
}

// looks counts the portions of one name that Next needs: the names that it looks at.
func looks(r *Retained[int], filter string) (n int) {
	for next := ""; ; {
		n++
		if _, next = r.Next(filter, next, 1, nil); next == "" {
			return n
		}
	}
}

func TestMatchLeaps(t *testing.T) {
	var r Retained[int]
	for i := range 100 {
		for j := range 100 {
			r.Set(fmt.Sprintf("p/%02d/%02d", i, j), 0)
		}
		r.Set(fmt.Sprintf("q/%02d", i), 0)
		r.Set(fmt.Sprintf("$SYS/%02d", i), 0)
	}
	for _, c := range []struct {
		filter string
		most   int
	}{
		{"p/50/50", 5},
		{"p/50/+", 104},
		{"p/+/50", 304},
		{"q/#", 103},
		{"+/50", 8},
		{"#", 10102},
		{"x", 2},
		{"a/#", 2},
		{"p", 3},
		{"+/+/+/+/+", 10404},
	} {
		if got := looks(&r, c.filter); got > c.most {
			t.Errorf("filter %q: looked at %d names, want at most %d", c.filter, got, c.most)
		}
	}
}

func TestRetainedMatchStops(t *testing.T) {
	var r Retained[int]
	for i := range 1000 {
		r.Set(fmt.Sprint(i), i)
	}
	seen := 0
	r.Match("#", func(string, int) bool { seen++; return seen < 10 })
	if seen != 10 {
		t.Errorf("got %d names, want 10", seen)
	}
	seen = 0
	for range r.All() {
		if seen++; seen == 10 {
			break
		}
	}
	if seen != 10 {
		t.Errorf("got %d names from All, want 10", seen)
	}
}

// TestRetainedChunks sets and deletes in the orders that could leave many small chunks.
func TestRetainedChunks(t *testing.T) {
	const n = 20000
	name := func(i int) string { return fmt.Sprintf("%05d", i) }
	var r Retained[int]
	for i := range n {
		r.Set(name(i), i)
	}
	if most := n/chunkMax + 1; len(r.chunks) > most {
		t.Errorf("set in order: %d chunks, want at most %d", len(r.chunks), most)
	}
	sparse := func(label string, order []int) {
		for _, i := range order {
			if i%chunkMax != 0 {
				r.Delete(name(i))
			}
		}
		if most := r.Len()/(chunkMax/8) + 2; len(r.chunks) > most {
			t.Errorf("%s: %d chunks for %d names, want at most %d", label, len(r.chunks), r.Len(), most)
		}
		for i := range n {
			r.Set(name(i), i)
		}
		if err := r.check(); err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sparse("upwards", order)
	slices.Reverse(order)
	sparse("downwards", order)
	g := newGen(1)
	g.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	sparse("at random", order)
}

func TestRetainedDeepNames(t *testing.T) {
	var r Retained[int]
	oracle := map[string]int{}
	for i := 65525; i <= 65535; i++ {
		r.Set(strings.Repeat("/", i), i)
		oracle[strings.Repeat("/", i)] = i
	}
	for _, filter := range []string{"#", strings.Repeat("+/", 32767) + "+", strings.Repeat("+/", 32767) + "#", strings.Repeat("/", 65530)} {
		if got, want := matchAll(&r, filter), wantMatch(oracle, filter); !slices.Equal(got, want) {
			t.Errorf("filter of %d bytes: got %d names, want %d", len(filter), len(got), len(want))
		}
	}
}
