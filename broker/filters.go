package broker

import (
	"iter"
	"slices"
)

// filters are the subscriptions of one session by their filters as the client sent them. Most clients have a few, which a list finds as fast
// and keeps in a tenth of the memory; who has many gets a map.
type filters struct {
	few  []*subscription
	many map[string]*subscription // in place of few
}

// fewFilters is how many the list takes.
const fewFilters = 8

// len returns how many there are.
func (f *filters) len() int { return len(f.few) + len(f.many) }

// get returns the subscription to a filter, nil if there is none.
func (f *filters) get(filter string) *subscription {
	if f.many != nil {
		return f.many[filter]
	}
	if i := f.find(filter); i >= 0 {
		return f.few[i]
	}
	return nil
}

func (f *filters) find(filter string) int {
	return slices.IndexFunc(f.few, func(s *subscription) bool { return s.Filter == filter })
}

// set puts a subscription in, in place of the one to the same filter.
func (f *filters) set(s *subscription) {
	if f.many != nil {
		f.many[s.Filter] = s
		return
	}
	if i := f.find(s.Filter); i >= 0 {
		f.few[i] = s
		return
	}
	if len(f.few) < fewFilters {
		f.few = append(f.few, s)
		return
	}
	f.many = make(map[string]*subscription)
	for _, old := range f.few {
		f.many[old.Filter] = old
	}
	f.few, f.many[s.Filter] = nil, s
}

// delete takes the subscription to a filter out, if there is one.
func (f *filters) delete(filter string) {
	if f.many != nil {
		delete(f.many, filter)
	} else if i := f.find(filter); i >= 0 {
		f.few = slices.Delete(f.few, i, i+1)
	}
}

// all goes through the subscriptions, in no particular order. They must not change meanwhile.
func (f *filters) all() iter.Seq[*subscription] {
	return func(yield func(*subscription) bool) {
		for _, s := range f.many {
			if !yield(s) {
				return
			}
		}
		for _, s := range f.few {
			if !yield(s) {
				return
			}
		}
	}
}
