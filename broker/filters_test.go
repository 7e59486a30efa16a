package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// TestFilters compares a session's subscriptions with a map, from none to more than the list takes and back.
func TestFilters(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var f filters
		oracle := make(map[string]*subscription)
		for range 500 {
			name := fmt.Sprint("f/", rnd.IntN(1+int(seed)))
			if rnd.IntN(3) > 0 {
				s := &subscription{Subscription: mqtt.Subscription{Filter: name}}
				f.set(s)
				oracle[name] = s
			} else {
				f.delete(name)
				delete(oracle, name)
			}
			all := slices.Collect(f.all())
			if f.len() != len(oracle) || len(all) != len(oracle) {
				t.Fatalf("seed %d: %d subscriptions, %d seen, want %d", seed, f.len(), len(all), len(oracle))
			}
			for _, s := range all {
				if oracle[s.Filter] != s {
					t.Fatalf("seed %d: %s is another subscription", seed, s.Filter)
				}
			}
			if got := f.get(name); got != oracle[name] {
				t.Fatalf("seed %d: %s is %p, want %p", seed, name, got, oracle[name])
			}
			for range f.all() {
				break
			}
		}
	}
}
