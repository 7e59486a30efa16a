package loadgen

import (
	"errors"
	"time"
)

// poller is how a loop waits for its connections. All methods but wake are for the goroutine of the loop, which it tells what has
// happened by the methods of [loop]: opened, received, writable and end.
type poller interface {
	// open begins to connect. The error is errLater when it must be tried again.
	open(c *conn) error
	// wait tells what has happened, and waits for it for so long; it returns early after wake.
	wait(d time.Duration)
	// flush writes what c has to write, and sets c.blocked while the socket does not take all of it.
	flush(c *conn) error
	// drop closes the socket of c.
	drop(c *conn)
	// sleep lets time pass, in steps of microseconds if the system can.
	sleep(d time.Duration)
	// wake ends the wait that is going on, or the next one. Any goroutine may call it.
	wake()
	// close ends everything the poller has started, and waits for it.
	close()
}

// errLater is not a failure: the system has no room for another connection attempt just now.
var errLater = errors.New("connect later")
