package topic

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// subs is the oracle of Tree: filter → key → value.
type subs map[string]map[int]int

func (m subs) set(filter string, k, v int) (replaced bool) {
	if m[filter] == nil {
		m[filter] = map[int]int{}
	}
	_, replaced = m[filter][k]
	m[filter][k] = v
	return replaced
}

func (m subs) delete(filter string, k int) (ok bool) {
	_, ok = m[filter][k]
	delete(m[filter], k)
	if len(m[filter]) == 0 {
		delete(m, filter)
	}
	return ok
}

func (m subs) match(name string) (out []Entry[int, int], filters int) {
	for filter, entries := range m {
		if !Match(filter, name) {
			continue
		}
		filters++
		for k, v := range entries {
			out = append(out, Entry[int, int]{k, v})
		}
	}
	return sorted(out), filters
}

func (m subs) len() (n int) {
	for _, entries := range m {
		n += len(entries)
	}
	return n
}

func sorted(entries []Entry[int, int]) []Entry[int, int] {
	slices.SortFunc(entries, func(a, b Entry[int, int]) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
	return entries
}

// check fails if an invariant of node, set, kids or the counters is broken.
func (t *Tree[K, V]) check() error {
	nodes, filters, subscriptions := -1, 0, 0
	var err error
	t.walk(func(n *node[K, V], above []byte) bool {
		nodes++
		for _, s := range []*set[K, V]{n.exact, n.below} {
			if s == nil {
				continue
			}
			filters++
			subscriptions += s.len()
			err = cmp.Or(err, s.check())
		}
		err = cmp.Or(err, n.check(n == &t.root))
		return err == nil
	})
	if err != nil {
		return err
	}
	if got, want := [3]int{t.nodes, t.filters, t.subscriptions}, [3]int{nodes, filters, subscriptions}; got != want {
		return fmt.Errorf("counted nodes, filters, subscriptions as %v, has %v", got, want)
	}
	return nil
}

func (s *set[K, V]) check() error {
	if s.len() == 0 {
		return fmt.Errorf("empty set")
	}
	if s.index != nil && len(s.index) != len(s.list) {
		return fmt.Errorf("index of %d for %d entries", len(s.index), len(s.list))
	}
	for i, e := range s.list {
		if at, ok := s.find(e.Key); !ok || at != i {
			return fmt.Errorf("entry %d found at %d, %v", i, at, ok)
		}
	}
	return nil
}

func (n *node[K, V]) check(root bool) error {
	seen := map[string]bool{}
	for child := range n.children() {
		level := child.firstLevel()
		if seen[level] {
			return fmt.Errorf("%q: two children begin with %q", n.path, level)
		}
		seen[level] = true
		if n.child(level) != child {
			return fmt.Errorf("%q: child %q is not found by its level", n.path, level)
		}
	}
	if !root && !n.hasSets() && len(seen) < 2 {
		return fmt.Errorf("%q: no set and %d children", n.path, len(seen))
	}
	if n.kids != nil && n.kids.len() == 0 {
		return fmt.Errorf("%q: empty kids", n.path)
	}
	return nil
}

// play changes a tree and its oracle alike, then compares what they answer.
func play(t *testing.T, label string, g gen, steps, keys int) {
	var tree Tree[int, int]
	oracle := subs{}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s: %s\nfilters: %q", label, fmt.Sprintf(format, args...), slices.Sorted(maps.Keys(oracle)))
	}
	var filters []string
	for range steps {
		filter, k, v := g.filter(), g.IntN(keys), g.Int()
		if len(filters) > 0 && g.IntN(2) == 0 {
			filter = filters[g.IntN(len(filters))]
		}
		filters = append(filters, filter)
		if g.IntN(5) < 3 {
			if got, want := tree.Set(filter, k, v), oracle.set(filter, k, v); got != want {
				fail("Set(%q, %d): got %v, want %v", filter, k, got, want)
			}
		} else if got, want := tree.Delete(filter, k), oracle.delete(filter, k); got != want {
			fail("Delete(%q, %d): got %v, want %v", filter, k, got, want)
		}
		want, wantOK := oracle[filter][k]
		if got, ok := tree.Get(filter, k); got != want || ok != wantOK {
			fail("Get(%q, %d): got %v %v, want %v %v", filter, k, got, ok, want, wantOK)
		}
		if err := tree.check(); err != nil {
			fail("after %q: %v", filter, err)
		}
	}
	if tree.Len() != oracle.len() || tree.Filters() != len(oracle) {
		fail("Len, Filters: got %d, %d, want %d, %d", tree.Len(), tree.Filters(), oracle.len(), len(oracle))
	}
	for range 20 {
		name := g.name()
		got, n := tree.Match(name, nil)
		want, wantN := oracle.match(name)
		if !slices.Equal(sorted(got), want) || n != wantN {
			fail("Match(%q): got %v from %d filters, want %v from %d", name, got, n, want, wantN)
		}
	}
	found := subs{}
	for filter, e := range tree.All() {
		if found.set(filter, e.Key, e.Value) {
			fail("All: %q, %d twice", filter, e.Key)
		}
	}
	if !maps.EqualFunc(found, oracle, maps.Equal) {
		fail("All: got %v, want %v", found, oracle)
	}
	for filter, entries := range oracle {
		for k := range entries {
			if !tree.Delete(filter, k) {
				fail("Delete(%q, %d) of what All has", filter, k)
			}
		}
	}
	if err := tree.check(); err != nil || tree.nodes != 0 || tree.root.hasSets() || tree.root.kids != nil || tree.root.plus != nil {
		fail("emptied tree has %d nodes, %v", tree.nodes, err)
	}
}

func TestTreeAgainstOracle(t *testing.T) {
	for seed := range uint64(600) {
		play(t, fmt.Sprintf("seed %d", seed), newGen(seed), 40, 3)
	}
}

func TestWideTreeAgainstOracle(t *testing.T) {
	for seed := range uint64(5) {
		play(t, fmt.Sprintf("wide seed %d", seed), newWideGen(seed), 300, 2)
	}
}

func TestManySubscribersAgainstOracle(t *testing.T) {
	for seed := range uint64(20) {
		g := newGen(seed)
		g.levels, g.depth = g.levels[:1], 1
		play(t, fmt.Sprintf("many seed %d", seed), g, 400, 100)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a/b\n+/b\n#\na/#\na/+/#\n$a/#", "a/b")
	f.Add("/\n//\n+/+\n+/#\n/#", "/")
	f.Add("$a\n$a/#\n#\n+\n+/b", "$a/b")
	f.Add("aa/b/c\naa/b\naa/bc\naa\na", "aa/b")
	f.Fuzz(func(t *testing.T, lines, name string) {
		if ValidateName(name, Limits{}) != nil {
			return
		}
		var tree Tree[int, int]
		oracle := subs{}
		var retained Retained[int]
		retained.Set(name, 1)
		for i, filter := range strings.Split(lines, "\n") {
			if _, _, shared := ParseShare(filter); shared || ValidateFilter(filter, Limits{}) != nil {
				continue
			}
			if got, want := tree.Set(filter, i%3, i), oracle.set(filter, i%3, i); got != want {
				t.Fatalf("Set(%q, %d): got %v, want %v", filter, i%3, got, want)
			}
			found := false
			retained.Match(filter, func(n string, _ int) bool { found = found || n == name; return true })
			if found != Match(filter, name) {
				t.Fatalf("Retained, filter %q, name %q: got %v", filter, name, found)
			}
			if !strings.ContainsAny(filter, "+#") {
				retained.Set(filter, i) // something to walk past
				retained.Set(name, 1)
			}
		}
		got, n := tree.Match(name, nil)
		want, wantN := oracle.match(name)
		if !slices.Equal(sorted(got), want) || n != wantN {
			t.Fatalf("Match(%q) in %q: got %v from %d, want %v from %d", name, lines, got, n, want, wantN)
		}
		if err := tree.check(); err != nil {
			t.Fatal(err)
		}
		for filter, entries := range oracle {
			for k := range entries {
				tree.Delete(filter, k)
			}
		}
		if err := tree.check(); err != nil || tree.nodes != 0 {
			t.Fatalf("emptied tree has %d nodes, %v", tree.nodes, err)
		}
	})
}

func TestMatchKeepsDst(t *testing.T) {
	var tree Tree[string, int]
	tree.Set("a/+", "x", 2)
	tree.Set("a/+", "y", 3)
	got, filters := tree.Match("a/b", []Entry[string, int]{{"before", 1}})
	if want := []Entry[string, int]{{"before", 1}, {"x", 2}, {"y", 3}}; !slices.Equal(got, want) || filters != 1 {
		t.Errorf("got %v from %d filters, want %v from 1", got, filters, want)
	}
}

func TestMatchOfEmptyNameFindsNothing(t *testing.T) {
	var tree Tree[int, int]
	tree.Set("#", 1, 1)
	tree.Set("+", 1, 1)
	if got, filters := tree.Match("", nil); len(got) != 0 || filters != 0 {
		t.Errorf("got %v from %d filters, want nothing", got, filters)
	}
}

func TestAllStops(t *testing.T) {
	var tree Tree[int, int]
	for i := range 20 {
		tree.Set("a", i, 0)
		tree.Set("b/#", i, 0)
	}
	for stop := 1; stop < 40; stop++ {
		seen := 0
		for range tree.All() {
			if seen++; seen == stop {
				break
			}
		}
		if seen != stop {
			t.Fatalf("got %d, want %d", seen, stop)
		}
	}
}

// TestDeepTopics is attack A7: names and filters of as many levels as fit. Every kind of walk must come back.
func TestDeepTopics(t *testing.T) {
	name := strings.Repeat("/", 65535)
	filters := []string{name, strings.Repeat("+/", 32767) + "+", strings.Repeat("+/", 32767) + "#", strings.Repeat("/", 65533) + "/#"}
	var tree Tree[int, int]
	for i, filter := range filters {
		tree.Set(filter, i, i)
	}
	if tree.nodes > 2*len(filters) {
		t.Errorf("got %d nodes for %d filters", tree.nodes, len(filters))
	}
	oracle := subs{}
	for filter, e := range tree.All() {
		oracle.set(filter, e.Key, e.Value)
	}
	for _, name := range []string{name, name[:32767], name[:65534], name[:1]} {
		got, n := tree.Match(name, nil)
		if want, wantN := oracle.match(name); !slices.Equal(sorted(got), want) || n != wantN {
			t.Errorf("%d levels: got %v from %d, want %v from %d", len(name)+1, got, n, want, wantN)
		}
	}
	for i, filter := range filters {
		if !tree.Delete(filter, i) {
			t.Errorf("filter %d was not there", i)
		}
	}
	if tree.nodes != 0 {
		t.Errorf("emptied tree has %d nodes", tree.nodes)
	}
}

// TestDeepChain has a node at each of 2,000 levels, with a + beside each: Match has to remember that many other ways.
func TestDeepChain(t *testing.T) {
	const depth = 2000
	var tree Tree[int, int]
	filter := "a"
	for i := range depth {
		tree.Set(filter, i, 0)
		tree.Set(filter+"/+", i, 1)
		tree.Set(filter+"/+/a", i, 2)
		filter += "/a"
	}
	got, filters := tree.Match(strings.TrimSuffix(filter, "/a"), nil)
	want := sorted([]Entry[int, int]{{depth - 1, 0}, {depth - 2, 1}, {depth - 3, 2}})
	if !slices.Equal(sorted(got), want) || filters != 3 {
		t.Errorf("got %v from %d filters, want %v from 3", got, filters, want)
	}
	for filter = "a"; tree.Len() > 0; filter += "/a" {
		i := len(filter) / 2
		if !tree.Delete(filter, i) || !tree.Delete(filter+"/+", i) || !tree.Delete(filter+"/+/a", i) {
			t.Fatalf("level %d was not there", i)
		}
	}
	if tree.nodes != 0 {
		t.Errorf("emptied tree has %d nodes", tree.nodes)
	}
}

// TestMatchVisitsNodesOnce holds all 2^12 filters of 12 levels that are a or +: all match, by as many ways.
func TestMatchVisitsNodesOnce(t *testing.T) {
	const depth = 12
	var tree Tree[int, int]
	for bits := range 1 << depth {
		levels := make([]string, depth)
		for i := range levels {
			levels[i] = []string{"a", "+"}[bits>>i&1]
		}
		tree.Set(strings.Join(levels, "/"), bits, bits)
	}
	name := strings.Repeat("a/", depth-1) + "a"
	if got, filters := tree.Match(name, nil); len(got) != 1<<depth || filters != 1<<depth {
		t.Errorf("got %d entries from %d filters, want %d", len(got), filters, 1<<depth)
	}
	if got, filters := tree.Match(name+"/a", nil); len(got) != 0 || filters != 0 {
		t.Errorf("one level more: got %d entries from %d filters, want none", len(got), filters)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	var tree Tree[int, int]
	for i := range 100 {
		tree.Set(fmt.Sprintf("d/p%d/+/level", i), i, i)
		tree.Set("d/+/x/#", i, i)
	}
	tree.Set("#", 1, 1)
	dst := make([]Entry[int, int], 0, 200)
	if n := testing.AllocsPerRun(100, func() {
		if out, filters := tree.Match("d/p7/x/level", dst); len(out) != 102 || filters != 3 {
			t.Fatalf("got %d entries from %d filters, want 102 from 3", len(out), filters)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestSetShrinks(t *testing.T) {
	var tree Tree[int, int]
	for i := range 10000 {
		tree.Set("a", i, i)
	}
	for i := range 9990 {
		tree.Delete("a", i)
	}
	s := tree.root.child("a").exact
	if cap(s.list) > 64 || s.index != nil {
		t.Errorf("10 of 10,000 entries left: capacity %d, indexed %v", cap(s.list), s.index != nil)
	}
	if got, _ := tree.Match("a", nil); len(got) != 10 {
		t.Errorf("got %d entries, want 10", len(got))
	}
}

// TestInvalidTopicsDoNoHarm holds the package comment to its word.
func TestInvalidTopicsDoNoHarm(t *testing.T) {
	for seed := range uint64(300) {
		g := newGen(seed)
		text := func() string {
			b := make([]byte, g.IntN(6))
			for i := range b {
				b[i] = "a+#/$\x00\xff"[g.IntN(7)]
			}
			return string(b)
		}
		var tree Tree[int, int]
		var r Retained[int]
		oracle := subs{}
		for range 40 {
			filter, name := text(), text()
			tree.Set(filter, 1, 1)
			oracle.set(filter, 1, 1)
			tree.Match(name, nil)
			r.Set(name, 1)
			r.Match(filter, func(string, int) bool { return true })
			if err := cmp.Or(tree.check(), r.check()); err != nil {
				t.Fatalf("seed %d: after filter %q, name %q: %v", seed, filter, name, err)
			}
		}
		for filter := range oracle {
			if !tree.Delete(filter, 1) {
				t.Fatalf("seed %d: Delete(%q) of what is there", seed, filter)
			}
		}
		if tree.nodes != 0 {
			t.Fatalf("seed %d: emptied tree has %d nodes", seed, tree.nodes)
		}
	}
}
