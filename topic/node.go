package topic

import (
	"iter"
	"strings"
)

// node is one place in a Tree. A node is reached by the levels of its path, after those of the nodes above it.
//
// Only places where filters part or end have a node: the filter "d/bin/7/level" alone is one node, however many levels
// it has, so a subscription to 65,535 levels costs its bytes and not 65,535 nodes. The invariants (the tests check the
// first two after every change):
//   - a node that is not the root has a set, or at least two children;
//   - no two children of a node begin with the same level;
//   - path is a string of its own, so that a short path never keeps a long filter in memory.
type node[K comparable, V any] struct {
	path  string      // one or more levels, joined by slashes, literal or +, never #; nothing at the root
	exact *set[K, V]  // subscriptions to the filter that ends here; nil if none
	below *set[K, V]  // subscriptions to the filter that goes on with one last level #; nil if none
	plus  *node[K, V] // the child whose path begins with the level +; nil if none
	kids  *kids[K, V] // the children whose paths begin with a literal level; nil if none
}

// firstLevel returns the level by which the parent finds the node.
func (n *node[K, V]) firstLevel() string {
	level, _, _ := strings.Cut(n.path, "/")
	return level
}

func (n *node[K, V]) begins(level string) bool {
	return strings.HasPrefix(n.path, level) && (len(n.path) == len(level) || n.path[len(level)] == '/')
}

// follow walks the node's path along name, from the level that starts at byte at, and returns where the next level
// starts, which is len(name)+1 after the last. It returns -1 if the path does not match.
func (n *node[K, V]) follow(name string, at int) int {
	path := n.path
	for {
		literal, rest, plus := strings.Cut(path, "+")
		if !strings.HasPrefix(name[at:], literal) {
			return -1
		}
		at += len(literal)
		if !plus {
			break
		}
		at = levelEnd(name, at)
		path = rest
	}
	if at < len(name) && name[at] != '/' {
		return -1
	}
	return at + 1
}

// levelEnd returns where the level that starts at byte at of s ends: at a slash or at the end.
func levelEnd(s string, at int) int {
	if i := strings.IndexByte(s[at:], '/'); i >= 0 {
		return at + i
	}
	return len(s)
}

// child returns the child that begins with level, or nil.
func (n *node[K, V]) child(level string) *node[K, V] {
	if level == "+" {
		return n.plus
	}
	return n.kids.get(level)
}

// adopt adds a child. There is none with the same first level.
func (n *node[K, V]) adopt(child *node[K, V]) {
	if child.firstLevel() == "+" {
		n.plus = child
		return
	}
	if n.kids == nil {
		n.kids = new(kids[K, V])
	}
	n.kids.put(child)
}

// disown removes a child.
func (n *node[K, V]) disown(child *node[K, V]) {
	if n.plus == child {
		n.plus = nil
		return
	}
	n.kids.remove(child.firstLevel())
	if n.kids.len() == 0 {
		n.kids = nil
	}
}

// rekey lets the key by which a child is found be part of the child's present path, not of a longer one that it had
// before.
func (n *node[K, V]) rekey(child *node[K, V]) {
	if n.plus == child || n.kids.index == nil {
		return
	}
	level := child.firstLevel()
	delete(n.kids.index, level)
	n.kids.index[level] = child
}

// children iterates over the children, + first, the others in no particular order.
func (n *node[K, V]) children() iter.Seq[*node[K, V]] {
	return func(yield func(*node[K, V]) bool) {
		if n.plus != nil && !yield(n.plus) {
			return
		}
		n.kids.all(yield)
	}
}

// onlyChild returns the child if there is exactly one, else nil.
func (n *node[K, V]) onlyChild() (only *node[K, V]) {
	if n.plus == nil && n.kids.len() == 1 {
		n.kids.all(func(c *node[K, V]) bool { only = c; return false })
		return only
	}
	if n.kids == nil {
		return n.plus
	}
	return nil
}

// set returns where the node keeps the subscriptions to the filter that ends here, or to the one that goes on with #.
func (n *node[K, V]) set(below bool) **set[K, V] {
	if below {
		return &n.below
	}
	return &n.exact
}

func (n *node[K, V]) hasSets() bool {
	return n.exact != nil || n.below != nil
}

// split keeps the first bytes of the path, which end at a level's end, and moves everything else into a new only child.
func (n *node[K, V]) split(bytes int) {
	lower := *n
	lower.path = strings.Clone(n.path[bytes+1:])
	*n = node[K, V]{path: strings.Clone(n.path[:bytes])}
	n.adopt(&lower)
}

// absorb takes the place of the only child: the opposite of split.
func (n *node[K, V]) absorb(child *node[K, V]) {
	path := n.path + "/" + child.path
	*n = *child
	n.path = path
}

// commonLevels returns the length of the longest run of whole levels that a and b both begin with. Their first levels
// are equal.
func commonLevels(a, b string) int {
	i := commonPrefix(a, b)
	if (i == len(a) || a[i] == '/') && (i == len(b) || b[i] == '/') {
		return i
	}
	return strings.LastIndexByte(a[:i], '/')
}

// indexKidsAbove is the number of children up to which they are searched from end to end.
const indexKidsAbove = 8

// kids holds the children of a node that begin with a literal level: few in a list, many in a map. A nil *kids is
// empty.
type kids[K comparable, V any] struct {
	list  []*node[K, V]
	index map[string]*node[K, V] // by first level, instead of list; nil while there are few
	peak  int                    // the most that index held since it was made
}

func (c *kids[K, V]) len() int {
	if c == nil {
		return 0
	}
	return len(c.list) + len(c.index)
}

func (c *kids[K, V]) get(level string) *node[K, V] {
	if c == nil {
		return nil
	}
	if c.index != nil {
		return c.index[level]
	}
	for _, n := range c.list {
		if n.begins(level) {
			return n
		}
	}
	return nil
}

func (c *kids[K, V]) all(yield func(*node[K, V]) bool) {
	if c == nil {
		return
	}
	for _, n := range c.list {
		if !yield(n) {
			return
		}
	}
	for _, n := range c.index {
		if !yield(n) {
			return
		}
	}
}

func (c *kids[K, V]) put(n *node[K, V]) {
	if c.index == nil && len(c.list) < indexKidsAbove {
		c.list = append(c.list, n)
		return
	}
	if c.index == nil {
		c.rebuild()
	}
	c.index[n.firstLevel()] = n
	c.peak = max(c.peak, len(c.index))
}

func (c *kids[K, V]) remove(level string) {
	if c.index != nil {
		delete(c.index, level)
		if len(c.index) <= c.peak/4 {
			c.rebuild()
		}
		return
	}
	for i, n := range c.list {
		if n.begins(level) {
			last := len(c.list) - 1
			c.list[i], c.list[last] = c.list[last], nil
			c.list = c.list[:last]
			return
		}
	}
}

// rebuild moves the children into what suits their number: a list when a map has become nearly empty, else a new map,
// because a Go map never gives memory back by itself.
func (c *kids[K, V]) rebuild() {
	old := *c
	*c = kids[K, V]{}
	if old.len() >= indexKidsAbove {
		c.index = make(map[string]*node[K, V], old.len()+1)
		c.peak = old.len()
	}
	old.all(func(n *node[K, V]) bool { c.put(n); return true })
}
