package broker

import (
	"container/list"
	"fmt"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// unfinished are the packets of which the beginning has come: a client may send all but the last byte of the largest packet and then
// wait for ever, on as many connections as it has. They take an eighth of the memory limit together, and when that is full the connection
// that has been silent for longest makes room. A client whose packet is on its way is never that one while others only wait.
type unfinished struct {
	most int64 // bytes; zero: no limit

	mu    sync.Mutex // guards all below, and conn.place
	total int64
	order list.List // of *conn, with those that got something last at the back
}

// smallPart is how many bytes of an unfinished packet are not worth counting.
const smallPart = 4 << 10

// errUnfinished ends connections that keep others from finishing their packets.
var errUnfinished = fmt.Errorf("%w: too many large packets are unfinished", mqtt.QuotaExceeded)

// noteUnfinished counts what the connection keeps of an unfinished packet. The goroutine that reads it calls this.
func (c *conn) noteUnfinished(n int) {
	u := &c.broker.unfinished
	if n < smallPart {
		n = 0
	}
	before := c.unfinished.Load()
	if u.most == 0 || n == 0 && before == 0 {
		return
	}
	c.broker.memory.add(int64(n) - before)
	for _, late := range u.note(c, int64(n)) {
		late.evict(errUnfinished)
	}
}

// note counts n bytes for c and returns who has to go.
func (u *unfinished) note(c *conn, n int64) (late []*conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.place != nil {
		u.total -= c.unfinished.Load()
		u.order.Remove(c.place)
		c.place = nil
	}
	c.unfinished.Store(n)
	if n == 0 || c.ending() != nil {
		return nil
	}
	u.total += n
	c.place = u.order.PushBack(c)
	for u.total > u.most {
		oldest := u.order.Remove(u.order.Front()).(*conn)
		oldest.place = nil
		u.total -= oldest.unfinished.Load()
		late = append(late, oldest)
	}
	return late
}
