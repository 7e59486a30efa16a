package topic

import (
	"iter"
	"strings"
)

// Tree maps Topic Filters to subscriptions, and finds those whose filters match a name. A subscription is a filter and
// a key (who), with a value (how). The zero Tree is empty and ready.
//
// It is not safe for concurrent use, except that methods that do not change it (Match, Get, All, Len, Filters) may run
// at the same time as each other. It keeps no reference to a filter passed in.
//
// The simple version is a tree with one node per level and a map of children in each. It is not enough: most nodes
// would have one child, and a client could make 65,535 nodes by one SUBSCRIBE. So levels that never part share a node;
// see node.
//
// Match visits a node at most once, since each has only one way to it, and compares at most the bytes of its path: it
// costs no more than the filters that share a beginning with the name, however + and literal levels are mixed.
type Tree[K comparable, V any] struct {
	root          node[K, V]
	subscriptions int
	filters       int
	nodes         int // without the root
}

// Len returns the number of subscriptions.
func (t *Tree[K, V]) Len() int { return t.subscriptions }

// Filters returns the number of distinct filters.
func (t *Tree[K, V]) Filters() int { return t.filters }

// Set adds the subscription of k to filter, or replaces its value, and reports whether it was there before.
func (t *Tree[K, V]) Set(filter string, k K, v V) (replaced bool) {
	n, below := t.place(filter)
	s := n.set(below)
	if *s == nil {
		*s = new(set[K, V])
		t.filters++
	}
	if (*s).put(k, v) {
		return true
	}
	t.subscriptions++
	return false
}

// Get returns the value of k's subscription to filter, this very filter: nothing is matched.
func (t *Tree[K, V]) Get(filter string, k K) (v V, ok bool) {
	_, n, below := t.find(filter)
	if n == nil {
		return v, false
	}
	s := *n.set(below)
	if i, ok := s.find(k); ok {
		return s.list[i].Value, true
	}
	return v, false
}

// Delete removes the subscription of k to filter and reports whether there was one.
func (t *Tree[K, V]) Delete(filter string, k K) bool {
	parent, n, below := t.find(filter)
	if n == nil {
		return false
	}
	s := n.set(below)
	if !(*s).remove(k) {
		return false
	}
	t.subscriptions--
	if (*s).len() == 0 {
		*s = nil
		t.filters--
		t.prune(parent, n)
	}
	return true
}

// Match appends the subscriptions whose filters match name to dst, and returns it with the number of filters they came
// from. If that is at most one, no key occurs twice in what was appended. Those of one filter stand together, in the
// order of their arrival as far as none was deleted since. It does not allocate while dst has room, unless the name
// passes dozens of places where + and a literal level both apply.
func (t *Tree[K, V]) Match(name string, dst []Entry[K, V]) (out []Entry[K, V], filters int) {
	if name == "" {
		return dst, 0
	}
	type step struct {
		node *node[K, V]
		at   int // where in name the level after the node starts; len(name)+1 after the last
	}
	var room [32]step
	todo := append(room[:0], step{&t.root, 0})
	for len(todo) > 0 {
		n, at := todo[len(todo)-1].node, todo[len(todo)-1].at
		todo = todo[:len(todo)-1]
		wild := at > 0 || name[0] != '$' // [MQTT-4.7.2-1]
		if n.below != nil && wild {
			dst = append(dst, n.below.list...) // also when name ends here: # includes the parent level (§4.7.1.2)
			filters++
		}
		if at > len(name) {
			if n.exact != nil {
				dst = append(dst, n.exact.list...)
				filters++
			}
			continue
		}
		if n.plus != nil && wild {
			if next := n.plus.follow(name, at); next > 0 {
				todo = append(todo, step{n.plus, next})
			}
		}
		if n.kids == nil {
			continue
		}
		if kid := n.kids.get(name[at:levelEnd(name, at)]); kid != nil {
			if next := kid.follow(name, at); next > 0 {
				todo = append(todo, step{kid, next})
			}
		}
	}
	return dst, filters
}

// All iterates over every subscription with its filter, in no particular order. The tree must not change meanwhile.
func (t *Tree[K, V]) All() iter.Seq2[string, Entry[K, V]] {
	return func(yield func(string, Entry[K, V]) bool) {
		t.walk(func(n *node[K, V], above []byte) bool {
			if n.exact != nil && !n.exact.each(string(above[:max(0, len(above)-1)]), yield) {
				return false
			}
			return n.below == nil || n.below.each(string(above)+"#", yield)
		})
	}
}

// walk visits every node with the levels that lead to it and through it, each followed by a slash, until visit says no.
func (t *Tree[K, V]) walk(visit func(n *node[K, V], above []byte) bool) {
	type step struct {
		node *node[K, V]
		at   int // how much of above is the parent's
	}
	var above []byte
	todo := []step{{&t.root, 0}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		above = above[:s.at]
		if s.node != &t.root {
			above = append(append(above, s.node.path...), '/')
		}
		if !visit(s.node, above) {
			return
		}
		for child := range s.node.children() {
			todo = append(todo, step{child, len(above)})
		}
	}
}

// stem separates a last level # from the rest of filter. The stem of "#" is the root, which has no levels.
func stem(filter string) (levels string, root, below bool) {
	if filter == "#" {
		return "", true, true
	}
	levels, below = strings.CutSuffix(filter, "/#")
	return levels, false, below
}

// place returns the node of filter, which it makes if need be, and whether the filter ends with #.
func (t *Tree[K, V]) place(filter string) (n *node[K, V], below bool) {
	rest, root, below := stem(filter)
	if root {
		return &t.root, below
	}
	for n = &t.root; ; {
		level, _, _ := strings.Cut(rest, "/")
		child := n.child(level)
		if child == nil {
			child = &node[K, V]{path: strings.Clone(rest)}
			n.adopt(child)
			t.nodes++
			return child, below
		}
		common := commonLevels(child.path, rest)
		if common < len(child.path) {
			child.split(common)
			n.rekey(child)
			t.nodes++
		}
		if common == len(rest) {
			return child, below
		}
		n, rest = child, rest[common+1:]
	}
}

// find returns the node of filter and its parent, or nil if there is none, and whether the filter ends with #.
func (t *Tree[K, V]) find(filter string) (parent, n *node[K, V], below bool) {
	rest, root, below := stem(filter)
	if root {
		return nil, &t.root, below
	}
	for n = &t.root; ; {
		level, _, _ := strings.Cut(rest, "/")
		parent, n = n, n.child(level)
		switch {
		case n == nil || !strings.HasPrefix(rest, n.path):
			return nil, nil, false
		case len(rest) == len(n.path):
			return parent, n, below
		case rest[len(n.path)] != '/':
			return nil, nil, false
		}
		rest = rest[len(n.path)+1:]
	}
}

// prune restores the invariants after n lost a set. At most n goes, and one node on the way merges with its child: a
// parent without sets had another child, so pruning never climbs higher.
func (t *Tree[K, V]) prune(parent, n *node[K, V]) {
	if n == &t.root || n.hasSets() {
		return
	}
	if n.plus == nil && n.kids == nil {
		parent.disown(n)
		t.nodes--
		if n = parent; n == &t.root || n.hasSets() {
			return
		}
	}
	if child := n.onlyChild(); child != nil {
		n.absorb(child)
		t.nodes--
	}
}
