package auth

import (
	"container/list"
	"sync"

	"github.com/magpiemq/magpie/topic"
)

// maxGranted bounds the filters remembered for one client.
const maxGranted = 1000

// owner is a client under a user: another user's client with the same Client Identifier inherits nothing.
type owner struct{ client, user string }

// grantedFilters remembers which filters clients were allowed to subscribe to, for a bounded number of clients. The one
// whose last change is longest ago is forgotten first; it may receive nothing on these grounds until it is asked about
// again. Safe for many goroutines.
type grantedFilters struct {
	max int

	mu      sync.RWMutex // guards all below
	byOwner map[owner]*list.Element
	recent  list.List // of *grants, the latest change first
}

type grants struct {
	who     owner
	filters map[string]struct{}
}

func newGrantedFilters(max int) *grantedFilters {
	return &grantedFilters{max: max, byOwner: map[owner]*list.Element{}}
}

// set notes a decision. It reports false if a yes cannot be remembered because the client has too many.
func (g *grantedFilters) set(who owner, filter string, yes bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !yes {
		g.remove(who, filter)
		return true
	}
	of := g.touch(who)
	if _, ok := of.filters[filter]; !ok && len(of.filters) >= maxGranted {
		return false
	}
	of.filters[filter] = struct{}{}
	return true
}

func (g *grantedFilters) remove(who owner, filter string) {
	e, ok := g.byOwner[who]
	if !ok {
		return
	}
	of := e.Value.(*grants)
	delete(of.filters, filter)
	if len(of.filters) == 0 {
		g.drop(e)
	}
}

// touch returns the client's grants and makes room for them if need be.
func (g *grantedFilters) touch(who owner) *grants {
	if e, ok := g.byOwner[who]; ok {
		g.recent.MoveToFront(e)
		return e.Value.(*grants)
	}
	if len(g.byOwner) >= g.max {
		g.drop(g.recent.Back())
	}
	of := &grants{who, map[string]struct{}{}}
	g.byOwner[who] = g.recent.PushFront(of)
	return of
}

func (g *grantedFilters) drop(e *list.Element) {
	delete(g.byOwner, e.Value.(*grants).who)
	g.recent.Remove(e)
}

// has reports whether the client was allowed this very filter.
func (g *grantedFilters) has(who owner, filter string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	e, ok := g.byOwner[who]
	if !ok {
		return false
	}
	_, ok = e.Value.(*grants).filters[filter]
	return ok
}

// matches reports whether a filter that the client was allowed matches the name.
func (g *grantedFilters) matches(who owner, name string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	e, ok := g.byOwner[who]
	if !ok {
		return false
	}
	for filter := range e.Value.(*grants).filters {
		if topic.Match(filter, name) {
			return true
		}
	}
	return false
}
