package broker

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/internal/poll"
)

// # The loop
//
// Most of what a broker does is system calls, and a goroutine for each connection makes more of them than there need be: each is woken
// for one client's bytes and writes what they cause. A loop waits for all plain sockets at once. The bytes of all those that are ready
// are one [turn]: a hundred publishers that were ready together cost their subscriber one write. A connection that is silent costs no
// goroutine, no stack and no buffer.
//
// A connection comes to the loop when its client has been accepted, and is still served by the functions that serve a goroutine
// ([conn.process] and all behind it). What differs is who waits. The loop never does: a packet that may have to (SUBSCRIBE asks an
// Authorizer, for instance), a pause, the end of a connection are for a goroutine that lives as long as that lasts.
//
// Whoever serves the connection owns it, the loop or a goroutine. Who finds it owned leaves word (a bit of [socket.state]), which the
// owner looks at when it lets go. So nothing that belongs to reading needs a lock, and it does not matter how many loops there are:
// one, while it keeps up.

// poller is what the loop needs of the kernel; see package poll. Tests have one of their own.
type poller interface {
	Take(nc net.Conn) (fd int, err error)
	Give(fd int) (net.Conn, error)
	Add(fd int, tag uint32) error
	Shut(fd int)
	Wait(events []poll.Event, most time.Duration) (n int, err error)
	Wake()
	Pause(time.Duration)
	Read(fd int, b []byte) (n int, err error)
	Write(fd int, b []byte) (n int, err error)
	Close() error
}

// loops serve the connections of clients on plain sockets.
type loops struct {
	broker    *Broker
	newPoller func() (poller, error)
	count     int // of loops
	pace      time.Duration

	once   sync.Once
	last   sync.Once
	err    error
	poll   poller
	tasks  sync.WaitGroup
	table                // of connections by descriptor
	tag    atomic.Uint32 // given last
	over   atomic.Bool   // the broker has shut down
	join   chan struct{} // wakes a loop that rests
	quit   chan struct{} // closed when the broker has shut down
	strain atomic.Bool   // the first loop has had no pause for a while
}

// init prepares for the first connection. It fails when there have to be loops and cannot be any.
func (ls *loops) init(b *Broker) error {
	ls.broker, ls.newPoller, ls.count, ls.pace = b, b.config.newPoller, b.config.Loops, b.config.Pace
	ls.join, ls.quit = make(chan struct{}), make(chan struct{})
	if ls.newPoller == nil {
		ls.newPoller = func() (poller, error) { return poll.New() }
	}
	if ls.count == 0 {
		ls.count = runtime.GOMAXPROCS(0)
	}
	if ls.pace == 0 {
		ls.pace = defaultPace
	}
	if b.config.IO != IOReactor {
		return nil
	}
	p, err := ls.newPoller()
	if err != nil {
		return fmt.Errorf("loops for connections: %w", err)
	}
	return p.Close()
}

// defaultPace is short beside what a network takes.
const defaultPace = 250 * time.Microsecond

// socket is what the loop knows of a connection.
type socket struct {
	fd    int32
	tag   uint32
	state atomic.Uint32
}

// The bits of socket.state.
const (
	isLooped   uint32 = 1 << iota // the loop hears of the socket, not net
	isOwned                       // somebody serves the connection
	isReadable                    // there may be bytes
	isEnding                      // conn.cause is set
	isHungUp                      // the client has sent its last byte: a read that brings few is not the last one
)

// notWords are the bits that nobody takes away.
const notWords = isLooped | isOwned | isHungUp

// claim makes the caller the owner. If there is one already it leaves word.
func (s *socket) claim(word uint32) bool {
	for {
		now := s.state.Load()
		next := now | isOwned | word&isHungUp
		if now&isOwned != 0 {
			next = now | word
		}
		if s.state.CompareAndSwap(now, next) {
			return now&isOwned == 0
		}
	}
}

// onLoop reports whether net does not have the socket.
func (s *socket) onLoop() bool { return s.state.Load()&isLooped != 0 }

// end leaves word that the connection is to end. mine is true when a loop would serve it, and nobody does: then the caller owns it.
func (s *socket) end() (onLoop, mine bool) {
	for {
		now := s.state.Load()
		next := now | isEnding
		if mine = now&isLooped != 0 && now&isOwned == 0; mine {
			next = now | isOwned
		}
		if s.state.CompareAndSwap(now, next) {
			return now&isLooped != 0, mine
		}
	}
}

// let lets go of the connection, unless somebody has left word: then the caller stays the owner and gets the words.
func (s *socket) let() (words uint32) {
	for {
		now := s.state.Load()
		words = now &^ notWords
		next := now &^ words
		if words == 0 {
			next = now &^ isOwned
		}
		if s.state.CompareAndSwap(now, next) {
			return words
		}
	}
}

// table finds a connection by its descriptor. Descriptors are small numbers, as few as there may be.
type table struct {
	pages *[1 << 14]atomic.Pointer[page]
}

type page [1 << 10]atomic.Pointer[conn]

func (t *table) at(fd int) *atomic.Pointer[conn] {
	slot := &t.pages[fd>>10]
	p := slot.Load()
	for p == nil {
		slot.CompareAndSwap(nil, new(page))
		p = slot.Load()
	}
	return &p[fd&(len(p)-1)]
}

// start starts the loops, the first time; err is why there are none. A program that embeds a broker without plain sockets has none.
func (ls *loops) start() error {
	ls.once.Do(func() {
		if ls.broker.config.IO == IOGoroutine {
			ls.err = errors.ErrUnsupported
			return
		}
		if ls.poll, ls.err = ls.newPoller(); ls.err != nil {
			if !errors.Is(ls.err, errors.ErrUnsupported) {
				ls.broker.log.Warn("every connection gets a goroutine", "reason", ls.err)
			}
			return
		}
		ls.pages = new([1 << 14]atomic.Pointer[page])
		ls.tasks.Go(func() { ls.run(true) })
		for range ls.count - 1 {
			ls.tasks.Go(func() { ls.run(false) })
		}
	})
	return ls.err
}

// end ends the loops. No connection is left, and none will come.
func (ls *loops) end() {
	ls.once.Do(func() { ls.err = errShutDown })
	if ls.err != nil {
		return
	}
	ls.last.Do(func() {
		ls.over.Store(true)
		close(ls.quit)
		ls.poll.Wake()
		ls.tasks.Wait()
		_ = ls.poll.Close()
	})
}

// loop is one of them: what it has at hand.
type loop struct {
	*loops
	events [poll.MaxEvents]poll.Event
	ended  time.Time // when the last turn did
	again  []*conn   // owned; there may be more to read than one turn does
	next   []*conn   // of again, while that is gone through
}

// run serves until the broker ends. The first loop always does, the others while it is under strain.
func (ls *loops) run(first bool) {
	l := &loop{loops: ls}
	defer l.poll.Wake() // which is for one loop: the next one may be waiting, too
	if first {
		l.lead()
		return
	}
	for {
		select {
		case <-l.join:
			l.help()
		case <-l.quit:
			return
		}
	}
}

// help serves beside the first loop until there is not enough to do for both.
func (l *loop) help() {
	for n := 1; n > 0 && l.strain.Load() && !l.over.Load(); {
		n, _, _ = l.turn(time.Millisecond)
	}
	for len(l.again) > 0 {
		l.turn(0)
	}
}

// strainAfter is for how long the first loop has to be busy without a pause to get help. What it has waited for less than briefly was
// no pause.
const (
	strainAfter = 5 * time.Millisecond
	briefly     = 20 * time.Microsecond
)

// paceFrom is how many events a turn has to have, on average, for the loop to pace itself.
const paceFrom = 2.5

// lead is the first loop: it waits for as long as nothing happens. When clients come close one behind the other it pauses for a moment
// after each turn, as network cards do with their interrupts: what has come meanwhile is done at once. A turn that took longer than such
// a pause has given them time enough.
func (l *loop) lead() {
	since := time.Now() // it has been busy
	average := 0.0      // events in a turn, lately
	for !l.over.Load() {
		n, waited, took := l.turn(-1)
		if waited > briefly {
			l.strain.Store(false)
			since = l.ended
		}
		if average += (float64(n) - average) / 8; average > paceFrom && took < l.pace {
			l.poll.Pause(l.pace)
			continue
		}
		if n > 1 && l.count > 1 && l.ended.Sub(since) > strainAfter {
			l.strain.Store(true)
			select {
			case l.join <- struct{}{}:
			default:
			}
		}
	}
}

// turn waits for events as long as most says, serves those connections, and returns how many there were and how long both took.
func (l *loop) turn(most time.Duration) (n int, waited, took time.Duration) {
	l.awaitStore()
	if len(l.again) > 0 {
		most = 0
	}
	n, err := l.poll.Wait(l.events[:], most)
	if err != nil {
		panic("broker: " + err.Error()) // the descriptor is ours and valid
	}
	if n == 0 && len(l.again) == 0 {
		return 0, most, 0
	}
	t := l.broker.beginTurn()
	began := t.now
	t.looped = true
	l.next, l.again = l.again, l.next[:0]
	for i, c := range l.next {
		l.next[i] = nil
		l.serveOrDefer(c, t)
	}
	for i := range l.events[:n] {
		l.event(&l.events[i], t)
	}
	n += len(l.next)
	t.end()
	waited = began.Sub(l.ended)
	l.ended = time.Now()
	return n, waited, l.ended.Sub(began)
}

// awaitStore waits while the store has more to write than it can, so that publishers take the pace of the disk: all of them would have to
// wait, so nobody is read for a moment.
func (l *loop) awaitStore() {
	for s := l.broker.store; s != nil && s.Busy() && !l.over.Load(); {
		l.poll.Pause(time.Millisecond)
	}
}

// event tells a connection what has happened to its socket.
func (l *loop) event(e *poll.Event, t *turn) {
	c := l.at(e.FD).Load()
	if c == nil || c.socket.tag != e.Tag {
		return // it had the descriptor before, and has ended
	}
	if e.Writable && c.pending.Load() > 0 {
		c.writable(t)
	}
	word := isReadable
	if e.HungUp {
		word |= isHungUp
	}
	if e.Readable && c.socket.claim(word) {
		l.serveOrDefer(c, t)
	}
}

// turnBytes is how many bytes, read and to be written, make a turn long enough: who is ready then has to wait for the next one, so that
// what was done already is written first.
const turnBytes = 4 << 20

// serveOrDefer serves a connection that the loop owns, in this turn or in the next one.
func (l *loop) serveOrDefer(c *conn, t *turn) {
	if t.bytesIn+t.bytesOut > turnBytes {
		l.again = append(l.again, c)
		return
	}
	l.serve(c, t)
}

// serve lets a connection that the loop owns process what has arrived.
func (l *loop) serve(c *conn, t *turn) {
	for {
		n, more, err := c.read(t)
		switch {
		case err == errMustWait, err == nil && c.mustWait(n):
			t.flush()
			go c.goOn(n)
			return
		case err != nil:
			t.flush() // what came before may have been answered
			go c.leaveLoop(err)
			return
		case c.ending() != nil: // a client that never falls silent would keep the word from being heard
			t.flush()
			go c.leaveLoop(nil)
			return
		case more:
			l.again = append(l.again, c)
			return
		}
		if words := c.socket.let(); words&isEnding != 0 {
			go c.leaveLoop(nil)
			return
		} else if words == 0 {
			return
		}
	}
}

// read reads what has arrived at once, n bytes, and processes it. more says that there may be more. The caller owns the connection.
func (c *conn) read(t *turn) (n int, more bool, err error) {
	in := &c.in
	in.acquire()
	defer in.release()
	room := len(in.buf) - in.n
	n, err = c.broker.loops.poll.Read(int(c.socket.fd), in.buf[in.n:])
	if err == poll.ErrAgain {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, lost(err)
	}
	in.n += n
	c.lastRead.Store(int64(t.now.Sub(c.broker.started)))
	t.bytesIn += n
	return n, n == room || c.socket.state.Load()&isHungUp != 0, c.digest(t)
}

// goOn serves a connection where it may wait, until it has processed what has arrived. It has just read n bytes. The caller owns the
// connection, and does not afterwards.
func (c *conn) goOn(n int) {
	t := c.broker.beginTurn()
	c.in.acquire()
	err := c.digest(t)
	c.in.release()
	t.end()
	for err == nil {
		if c.wait(n); c.ending() != nil {
			break
		}
		var more bool
		t := c.broker.beginTurn()
		n, more, err = c.read(t)
		t.end()
		if err != nil || more || c.mustWait(n) {
			continue
		}
		switch words := c.socket.let(); {
		case words == 0:
			return
		case words&isEnding != 0:
			c.leaveLoop(nil)
			return
		}
	}
	c.leaveLoop(err)
}

// errMustWait is returned on a loop for a packet that may have to wait. Nothing has come of it yet.
var errMustWait = errors.New("a loop does not wait")

// park gives the connection to the loop, if it may have it, and reports whether it did: then the caller does not own it any more.
func (c *conn) park() bool {
	ls := &c.broker.loops
	if c.state != connected || c.raw == nil || c.homely || ls.start() != nil {
		return false
	}
	fd, err := ls.poll.Take(c.nc)
	if err != nil {
		c.homely = true
		return false
	}
	c.in.release()
	c.socket.fd, c.socket.tag = int32(fd), ls.nextTag()
	nc, ok := c.enterLoop()
	if !ok {
		ls.poll.Shut(fd)
		return false
	}
	_ = nc.Close()
	ls.at(fd).Store(c)
	if err := ls.poll.Add(fd, c.socket.tag); err != nil {
		c.stop(err)
	}
	c.goOn(0)
	return true
}

// nextTag returns a tag that is not 0.
func (ls *loops) nextTag() uint32 {
	for {
		if tag := ls.tag.Add(1); tag != 0 {
			return tag
		}
	}
}

// enterLoop makes the loop the one that hears of the socket, unless the connection is to end, or somebody is writing to it.
func (c *conn) enterLoop() (nc net.Conn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing || c.failed || !c.socket.state.CompareAndSwap(0, isLooped|isOwned) {
		return nil, false
	}
	nc = c.nc
	c.nc, c.raw, c.looped = nil, nil, true
	return nc, true
}

// leaveLoop ends a connection of the loop because of err, or because of its cause. The caller owns it, for good.
func (c *conn) leaveLoop(err error) {
	if err == nil {
		err = c.finishReading(c.ending())
	}
	c.finish(err)
}

// reclaim makes a net.Conn of the socket again, for what is to be said at the end of the connection. Nobody else writes any more.
func (c *conn) reclaim() error {
	fd := c.forgetSocket()
	nc, err := c.broker.loops.poll.Give(fd)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		return err
	}
	c.nc, c.looped = nc, false
	return nil
}

// forgetSocket takes the connection out of the table, so that no event finds it.
func (c *conn) forgetSocket() (fd int) {
	fd = int(c.socket.fd)
	c.broker.loops.at(fd).Store(nil)
	return fd
}
