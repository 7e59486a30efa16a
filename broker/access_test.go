package broker

import (
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// rules is an Authorizer that answers "action topic" by its table, and yes to everything else.
type rules map[string]error

func (z rules) Authorize(_ *ClientInfo, a Action, topic string) error { return z[a.String()+" "+topic] }

// changing is an Authorizer whose rules can be replaced. It counts the questions.
type changing struct {
	mu    sync.Mutex
	rules rules
	asked map[string]int
}

func (z *changing) Authorize(c *ClientInfo, a Action, topic string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.asked == nil {
		z.asked = make(map[string]int)
	}
	z.asked[a.String()+" "+topic]++
	return z.rules.Authorize(c, a, topic)
}

func (z *changing) set(r rules) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rules = r
}

func (z *changing) questions(about string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[about]
}

// deny is a rule's answer.
var deny error = mqtt.NotAuthorized
