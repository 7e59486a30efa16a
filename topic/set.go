package topic

// Entry is one subscription as Tree.Match returns it: who subscribed, and what was stored with it.
type Entry[K comparable, V any] struct {
	Key   K
	Value V
}

// indexSetAbove is the number of entries up to which a set is searched from end to end.
const indexSetAbove = 16

// set holds the subscriptions of one filter as a slice, which is what Match copies. A long one also has an index, so
// that one of 10,000 subscribers leaves in constant time. The order is that of arrival, except that a removal moves
// the last entry into the gap.
type set[K comparable, V any] struct {
	list  []Entry[K, V]
	index map[K]int32 // where in list each key is; nil while the list is short
}

func (s *set[K, V]) len() int {
	if s == nil {
		return 0
	}
	return len(s.list)
}

func (s *set[K, V]) find(k K) (int, bool) {
	if s == nil {
		return 0, false
	}
	if s.index != nil {
		i, ok := s.index[k]
		return int(i), ok
	}
	for i := range s.list {
		if s.list[i].Key == k {
			return i, true
		}
	}
	return 0, false
}

func (s *set[K, V]) put(k K, v V) (replaced bool) {
	if i, ok := s.find(k); ok {
		s.list[i].Value = v
		return true
	}
	s.list = append(s.list, Entry[K, V]{k, v})
	if s.index != nil {
		s.index[k] = int32(len(s.list) - 1)
	} else {
		s.reindex()
	}
	return false
}

func (s *set[K, V]) remove(k K) bool {
	i, ok := s.find(k)
	if !ok {
		return false
	}
	last := len(s.list) - 1
	if i != last {
		s.list[i] = s.list[last]
		if s.index != nil {
			s.index[s.list[i].Key] = int32(i)
		}
	}
	s.list[last] = Entry[K, V]{} // lets go of what it pointed to
	s.list = s.list[:last]
	delete(s.index, k)
	if cap(s.list) > indexSetAbove && last <= cap(s.list)/4 {
		s.shrink()
	}
	return true
}

// shrink gives memory back after many have left; a Go map never does so by itself.
func (s *set[K, V]) shrink() {
	s.list = append(make([]Entry[K, V], 0, 2*len(s.list)), s.list...)
	s.index = nil
	s.reindex()
}

func (s *set[K, V]) reindex() {
	if len(s.list) <= indexSetAbove {
		return
	}
	s.index = make(map[K]int32, len(s.list))
	for i := range s.list {
		s.index[s.list[i].Key] = int32(i)
	}
}

// each yields every entry with filter and reports whether to go on.
func (s *set[K, V]) each(filter string, yield func(string, Entry[K, V]) bool) bool {
	for _, e := range s.list {
		if !yield(filter, e) {
			return false
		}
	}
	return true
}
