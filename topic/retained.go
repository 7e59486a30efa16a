package topic

import (
	"iter"
	"math"
	"slices"
	"sort"
)

// Item is a Topic Name and what Retained holds for it.
type Item[V any] struct {
	Name  string
	Value V
}

// Retained maps Topic Names to values, and finds those whose names match a filter. The zero Retained is empty and
// ready.
//
// It is not safe for concurrent use, except that methods that do not change it (Match, Next, Get, All, Len) may run at
// the same time as each other. It keeps the name passed to Set, which may therefore share memory with the value.
//
// The simple version is a map, or a tree with a node per level. The map has to look at every name for each filter. The
// tree does not, but nobody can hold a lock while ten million names answer one "#", and a walk through maps cannot be
// left and taken up again. So the names are kept sorted, level by level (compare), and a filter leaps through them:
// where a name does not match, aim says before which name no other can, and the next look is there, a binary search
// away. "+/status" looks at two names or so for each first level, whatever else is below it; and a walk continues
// anywhere, whatever has changed meanwhile.
//
// The sorted names are cut into chunks, never empty, in order. A search finds the chunk by its first name, then the
// name; a change moves at most one chunk's items. Names cost their bytes and 16 more, not a node per level.
type Retained[V any] struct {
	chunks [][]Item[V]
	len    int
}

// chunkMax is the most items in a chunk; a full one is halved, and two that fill half a chunk become one.
const chunkMax = 256

// spot is where an item is, or would be.
type spot struct{ chunk, item int }

// Len returns the number of names.
func (r *Retained[V]) Len() int { return r.len }

// Get returns the value of name.
func (r *Retained[V]) Get(name string) (v V, ok bool) {
	if at := seek(r, spot{}, name); r.holds(at, name) {
		return r.item(at).Value, true
	}
	return v, false
}

// Set gives name the value v, and returns the one it had, if any.
func (r *Retained[V]) Set(name string, v V) (old V, replaced bool) {
	at := seek(r, spot{}, name)
	if r.holds(at, name) {
		item := r.item(at)
		old = item.Value
		*item = Item[V]{name, v} // the new name too: it may share memory with v
		return old, true
	}
	r.insert(at, Item[V]{name, v})
	r.len++
	return old, false
}

// Delete removes name, and returns the value it had, if any.
func (r *Retained[V]) Delete(name string) (old V, ok bool) {
	at := seek(r, spot{}, name)
	if !r.holds(at, name) {
		return old, false
	}
	old = r.item(at).Value
	r.chunks[at.chunk] = slices.Delete(r.chunks[at.chunk], at.item, at.item+1)
	r.len--
	r.tidy(at.chunk)
	return old, true
}

// Match yields every name that filter matches, with its value, in the order of names, until yield says no. It holds up
// its caller for as long as that takes: see Next for many names. Yield must not change r.
func (r *Retained[V]) Match(filter string, yield func(name string, v V) bool) {
	r.scan(filter, "", math.MaxInt, yield)
}

// Next is Match in portions, between which r may change. It looks at no more than limit names, at least one, and a
// long name counts once more for each 256 bytes, so limit also bounds the time. It starts at the place called from;
// appends those that filter matches to dst, possibly none; and returns dst with the place to continue from, which is
// "" when there is nothing left. The first call takes "", later calls what the last one returned (any name will do: it
// need not exist, and is included).
//
// A name that is there from the first call to the last is found exactly once; one that comes or goes meanwhile, at
// most once.
func (r *Retained[V]) Next(filter, from string, limit int, dst []Item[V]) (out []Item[V], next string) {
	next = r.scan(filter, from, max(limit, 1), func(name string, v V) bool {
		dst = append(dst, Item[V]{name, v})
		return true
	})
	return dst, next
}

// All iterates over every name, those that begin with $ included, in order. r must not change meanwhile.
func (r *Retained[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, chunk := range r.chunks {
			for _, item := range chunk {
				if !yield(item.Name, item.Value) {
					return
				}
			}
		}
	}
}

// scan looks at names within limit (see Next), from the first that is not before from, and yields those that match. It
// returns the name to look at next, or "" at the end.
func (r *Retained[V]) scan(filter, from string, limit int, yield func(string, V) bool) (next string) {
	var target []byte
	at := r.start(seek(r, spot{}, from))
	for at.chunk < len(r.chunks) {
		item := r.item(at)
		if limit <= 0 {
			return item.Name
		}
		limit -= 1 + len(item.Name)>>8
		var v verdict
		switch target, v = aim(target[:0], filter, item.Name); v {
		case done:
			return ""
		case leap:
			at = r.start(seek(r, at, target))
		case match:
			if !yield(item.Name, item.Value) {
				return ""
			}
			at = r.start(spot{at.chunk, at.item + 1})
		}
	}
	return ""
}

func (r *Retained[V]) item(at spot) *Item[V] { return &r.chunks[at.chunk][at.item] }

func (r *Retained[V]) holds(at spot, name string) bool {
	return at.chunk < len(r.chunks) && at.item < len(r.chunks[at.chunk]) && r.item(at).Name == name
}

// start turns the end of a chunk into the start of the next one, so that the spot has an item unless it is the very
// end.
func (r *Retained[V]) start(at spot) spot {
	if at.chunk < len(r.chunks) && at.item == len(r.chunks[at.chunk]) {
		return spot{at.chunk + 1, 0}
	}
	return at
}

// seek returns the first spot, from the given one on, whose name is not before target. It may be the end of a chunk,
// where such a name would be inserted.
func seek[V any, S ~string | ~[]byte](r *Retained[V], from spot, target S) spot {
	if len(r.chunks) == 0 {
		return spot{}
	}
	// Most leaps are short: a target within this chunk needs no search among the chunks. This takes a quarter off
	// BenchmarkRetainedMatch/d/+/+/status.
	if here := r.chunks[from.chunk]; compare(here[len(here)-1].Name, target) < 0 {
		later := r.chunks[from.chunk+1:]
		if n := sort.Search(len(later), func(i int) bool { return compare(later[i][0].Name, target) > 0 }); n > 0 {
			from = spot{from.chunk + n, 0}
		}
	}
	items := r.chunks[from.chunk][from.item:]
	from.item += sort.Search(len(items), func(i int) bool { return compare(items[i].Name, target) >= 0 })
	return from
}

func (r *Retained[V]) insert(at spot, item Item[V]) {
	if len(r.chunks) == 0 {
		r.chunks = append(r.chunks, nil)
	}
	if len(r.chunks[at.chunk]) == chunkMax {
		at = r.halve(at)
	}
	r.chunks[at.chunk] = slices.Insert(r.chunks[at.chunk], at.item, item)
}

// halve makes two chunks of one and returns where at is now. If the new item comes last of all, the full chunk stays
// as it is: names that arrive in order fill their chunks.
func (r *Retained[V]) halve(at spot) spot {
	old, half := r.chunks[at.chunk], chunkMax/2
	if at.chunk == len(r.chunks)-1 && at.item == chunkMax {
		half = chunkMax
	}
	upper := append(make([]Item[V], 0, chunkMax), old[half:]...)
	clear(old[half:])
	r.chunks[at.chunk] = old[:half]
	r.chunks = slices.Insert(r.chunks, at.chunk+1, upper)
	if at.item > half || half == chunkMax {
		return spot{at.chunk + 1, at.item - half}
	}
	return at
}

// tidy removes a chunk that became empty, and merges one that became small with a neighbour.
func (r *Retained[V]) tidy(chunk int) {
	if len(r.chunks[chunk]) == 0 {
		r.chunks = slices.Delete(r.chunks, chunk, chunk+1)
		return
	}
	for lower := max(0, chunk-1); lower <= chunk && lower+1 < len(r.chunks); lower++ {
		upper := lower + 1
		if len(r.chunks[lower])+len(r.chunks[upper]) <= chunkMax/2 {
			r.chunks[lower] = append(r.chunks[lower], r.chunks[upper]...)
			r.chunks = slices.Delete(r.chunks, upper, upper+1)
			return
		}
	}
}
