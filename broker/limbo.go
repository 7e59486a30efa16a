package broker

import (
	"errors"
	"sync"
	"time"
)

// limbo counts what has been taken out of a session and is not in the store at its next place yet: a Will that is about to be
// published, messages of a Shared Subscription on their way to another member. A checkpoint that looks at the session meanwhile does
// not see them, and must not be the one that a restart begins with before the records of their next place stand in the log: so it
// waits for them at its end. Who begins later has been seen where it was.
type limbo struct {
	mu       sync.Mutex // guards all below; a leaf
	epoch    int        // changes with each checkpoint
	under    map[int]int
	returned bool          // something came back to where it was, of which the records do not tell
	over     chan struct{} // closed when nobody is left of what end waits for; nil when it does not wait
	most     int           // the last epoch that it waits for
}

// enter is called before something is taken out. The store knows all when its epoch is given to leave.
func (l *limbo) enter() (epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.under == nil {
		l.under = make(map[int]int)
	}
	l.under[l.epoch]++
	return l.epoch
}

func (l *limbo) leave(epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.under[epoch]--; l.under[epoch] == 0 {
		delete(l.under, epoch)
	}
	if l.over != nil && l.none(l.most) {
		close(l.over)
		l.over = nil
	}
}

// none reports whether nobody is left of those who began until an epoch. The caller holds mu.
func (l *limbo) none(most int) bool {
	for epoch := range l.under {
		if epoch <= most {
			return false
		}
	}
	return true
}

// giveBack notes that something came back to where it was.
func (l *limbo) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned = true
}

// limboMost bounds what a checkpoint waits: somebody may be asking an Authorizer that does not answer.
const limboMost = 10 * time.Second

// errDisturbed is why a checkpoint is no good. There will be another.
var errDisturbed = errors.New("something was on its way between sessions")

// begin begins a checkpoint. There is one at a time.
func (l *limbo) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned = false
}

// end waits for all that was under way when it was called, and returns why the checkpoint is no good.
func (l *limbo) end() error {
	if over := l.turn(); over != nil {
		most := time.NewTimer(limboMost)
		defer most.Stop()
		select {
		case <-over:
		case <-most.C:
			return errDisturbed
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.returned {
		return errDisturbed
	}
	return nil
}

// turn begins the next epoch, and returns what is closed when all before is over; nil when it is.
func (l *limbo) turn() (over <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most, l.over = l.epoch, nil
	l.epoch++
	if l.none(l.most) {
		return nil
	}
	l.over = make(chan struct{})
	return l.over
}
