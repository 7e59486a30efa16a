package broker

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/magpiemq/magpie/internal/poll"
)

// # A kernel in memory
//
// kernel has streams with little room, and tells their edges as epoll does: once for each change, with what holds when it is asked for.
// It works in a bubble of synctest. It is as unfriendly as a real one may be, and more often: bytes arrive one by one or late, a write is
// taken in part or not at all, edges come twice, in any order, or without a reason, descriptors are used again at once, and events come
// for the socket that had one before.
//
// It watches its users: who touches a descriptor that is closed, or reads one twice at a time, fails the test.
type kernel struct {
	tb   testing.TB
	seed uint64
	odds int // one in so many things goes wrong that may; 0 for none
	room int // bytes that a stream holds in each direction

	failTake, failAdd, failGive error
	onWait                      func(most time.Duration) // called before each wait; may be nil
	manual                      bool                     // only a test that asks without waiting hears of events

	mu    sync.Mutex // guards all below, and all streams
	rng   *rand.Rand
	fds   []*end // by descriptor; nil is free
	ready []*end
	stale []poll.Event // of sockets that had their descriptor before
	wakes int
	woken *sync.Cond // somebody in Wait is to look
	brief int        // who waits for a while only
	ends  int        // that are open on the broker's side
}

// firstFD is the lowest descriptor.
const firstFD = 3

func newKernel(tb testing.TB, seed uint64, odds, room int) *kernel {
	k := &kernel{tb: tb, seed: seed, odds: odds, room: room, rng: rand.New(rand.NewPCG(seed, 3)), fds: make([]*end, firstFD)}
	k.woken = sync.NewCond(&k.mu)
	return k
}

// seedOf makes a seed of the name of a test.
func seedOf(t *testing.T) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, t.Name())
	return h.Sum64() ^ firstSeed(t)
}

// poller is for Config.newPoller.
func (k *kernel) poller() (poller, error) { return memPoller{k}, nil }

// unlucky reports whether something goes wrong now. The caller holds k.mu.
func (k *kernel) unlucky() bool { return k.odds > 0 && k.rng.IntN(k.odds) == 0 }

// broken fails the test.
func (k *kernel) broken(format string, args ...any) {
	k.tb.Errorf("kernel, seed %d: %s", k.seed, fmt.Sprintf(format, args...))
}

// check fails the test when the broker has left something open.
func (k *kernel) check() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for fd, e := range k.fds {
		if e != nil {
			k.broken("descriptor %d is open", fd)
		}
	}
	if k.ends != 0 {
		k.broken("the broker has %d connections open", k.ends)
	}
}

// end is one of the two ends of a stream.
type end struct {
	k       *kernel
	peer    *end
	mine    bool // the broker's
	refs    int  // descriptors and net.Conns
	got     []byte
	fin     bool       // the peer has sent its last byte
	reset   bool       // nothing can be sent any more, nor received but what is in got
	full    bool       // a write found no room: room is an edge
	flood   []byte     // comes again and again behind got, as long as rounds lasts
	rounds  int        // reads
	onFlood func()     // called for each
	sink    bool       // what arrives is counted and thrown away
	sunk    int        // bytes
	writes  int        // of the peer
	change  *sync.Cond // something of the above

	fd               int // 0 for none
	tag              uint32
	watched, queued  bool
	reading, writing bool
}

// connect makes a stream and returns both of its ends.
func (k *kernel) connect() (client, server *memConn) {
	a, b := &end{k: k, refs: 1}, &end{k: k, refs: 1, mine: true}
	for _, e := range []*end{a, b} {
		e.change, e.got = sync.NewCond(&k.mu), make([]byte, 0, k.room)
	}
	a.peer, b.peer = b, a
	k.mu.Lock()
	k.ends++
	k.mu.Unlock()
	return &memConn{end: a}, &memConn{end: b}
}

// read reads what has arrived. The caller holds k.mu.
func (e *end) read(b []byte) (n int, err error) {
	for e.rounds > 0 && len(e.got) < len(b) {
		e.got = append(e.got, e.flood...)
	}
	if e.rounds > 0 {
		e.rounds--
		e.onFlood()
	}
	switch {
	case len(e.got) > 0:
		n = copy(b, e.got)
		e.got = append(e.got[:0], e.got[n:]...)
		e.peer.roomier()
		return n, nil
	case e.reset:
		return 0, syscall.ECONNRESET
	case e.fin:
		return 0, io.EOF
	}
	return 0, poll.ErrAgain
}

// write writes what there is room for. The caller holds k.mu.
func (e *end) write(b []byte) (n int, err error) {
	p := e.peer
	p.writes++
	switch {
	case e.reset:
		return 0, syscall.ECONNRESET
	case p.refs == 0 || p.fin:
		return 0, syscall.EPIPE
	case p.sink:
		p.sunk += len(b)
		return len(b), nil
	}
	n = min(len(b), e.k.room-len(p.got))
	p.got = append(p.got, b[:n]...)
	if n > 0 {
		p.changed()
	}
	if n < len(b) {
		e.full = true
		return n, poll.ErrAgain
	}
	return n, nil
}

// hasRoom is true for an end from which a good part of what it may have under way has arrived, as with TCP.
func (e *end) hasRoom() bool { return len(e.peer.got)*3 <= e.k.room*2 }

// changed tells who waits for the end.
func (e *end) changed() {
	e.change.Broadcast()
	e.edge()
}

// roomier is called when the peer has read.
func (e *end) roomier() {
	e.change.Broadcast()
	if e.full && e.hasRoom() {
		e.full = false
		e.edge()
	}
}

// edge puts the end among those that are ready, once.
func (e *end) edge() {
	if e.watched && !e.queued {
		e.queued = true
		e.k.ready = append(e.k.ready, e)
		e.k.woken.Signal()
	}
}

// event is what holds now.
func (e *end) event() poll.Event {
	over := e.fin || e.reset
	return poll.Event{
		FD: e.fd, Tag: e.tag, Readable: over || len(e.got) > 0, Writable: e.reset || e.hasRoom(), HungUp: over,
	}
}

// release lets go of one reference; the last one closes the end. Bytes that nobody has read reset the stream.
func (e *end) release() {
	if e.refs--; e.refs > 0 {
		return
	}
	if e.mine {
		e.k.ends--
	}
	e.peer.fin = true
	if len(e.got) > 0 {
		e.peer.reset = true
	}
	e.peer.changed()
	e.change.Broadcast()
}

// memConn is a stream as a net.Conn.
type memConn struct {
	*end
	closed bool
	limits [2]time.Time // of reads and writes
	alarms [2]*time.Timer
}

// usable returns why not, for reads (0) or writes (1). The caller holds k.mu.
func (c *memConn) usable(way int) error {
	switch at := c.limits[way]; {
	case c.closed:
		return net.ErrClosed
	case !at.IsZero() && !time.Now().Before(at):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *memConn) Read(b []byte) (n int, err error) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	for {
		if err := c.usable(0); err != nil {
			return 0, err
		}
		if n, err = c.read(b); err != poll.ErrAgain {
			return n, err
		}
		c.change.Wait()
	}
}

func (c *memConn) Write(b []byte) (n int, err error) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	for {
		if err := c.usable(1); err != nil {
			return n, err
		}
		wrote, err := c.write(b[n:])
		if n += wrote; err != poll.ErrAgain {
			return n, err
		}
		c.change.Wait()
	}
}

func (c *memConn) Close() error {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	for _, alarm := range c.alarms {
		if alarm != nil {
			alarm.Stop()
		}
	}
	c.release()
	c.change.Broadcast()
	return nil
}

// CloseWrite sends the last byte.
func (c *memConn) CloseWrite() error {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.peer.fin = true
	c.peer.changed()
	return nil
}

// abort closes the stream with a reset.
func (c *memConn) abort() {
	c.k.mu.Lock()
	c.peer.reset = true
	c.k.mu.Unlock()
	_ = c.Close()
}

func (c *memConn) limit(way int, at time.Time) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if c.alarms[way] != nil {
		c.alarms[way].Stop()
	}
	if c.limits[way] = at; !at.IsZero() && !c.closed {
		c.alarms[way] = time.AfterFunc(time.Until(at), func() {
			c.k.mu.Lock()
			defer c.k.mu.Unlock()
			c.change.Broadcast()
		})
	}
	c.change.Broadcast()
}

func (c *memConn) SetDeadline(at time.Time) error {
	c.limit(0, at)
	c.limit(1, at)
	return nil
}

func (c *memConn) SetReadDeadline(at time.Time) error  { c.limit(0, at); return nil }
func (c *memConn) SetWriteDeadline(at time.Time) error { c.limit(1, at); return nil }
func (c *memConn) LocalAddr() net.Addr                 { return textAddr("memory") }
func (c *memConn) RemoteAddr() net.Addr                { return textAddr("pipe") } // as net.Pipe

// fill implements rawIO.
func (c *memConn) fill(in *input) (n int, err error) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	for len(c.got) == 0 && !c.fin && !c.reset {
		if err := c.usable(0); err != nil {
			return 0, err
		}
		c.change.Wait()
	}
	if err := c.usable(0); err != nil {
		return 0, err
	}
	return c.into(in)
}

func (c *memConn) into(in *input) (n int, err error) {
	in.acquire()
	n, err = c.read(in.buf[in.n:])
	in.n += n
	return n, err
}

// fillNow implements rawIO.
func (c *memConn) fillNow(in *input) (n int, err error) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if n, err = c.into(in); err == poll.ErrAgain {
		in.release()
		err = nil
	}
	return n, err
}

// tryWrite implements rawIO.
func (c *memConn) tryWrite(b []byte) (n int, err error) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if err := c.usable(1); err != nil {
		return 0, err
	}
	if n, err = c.write(b); err == poll.ErrAgain {
		err = nil
	}
	return n, err
}

// memPoller is the kernel as loops see it.
type memPoller struct{ *kernel }

func (p memPoller) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.fds {
		if e != nil && e.watched {
			e.watched = false
		}
	}
	p.ready, p.stale = nil, nil
	return nil
}

func (p memPoller) Take(nc net.Conn) (fd int, err error) {
	c, ok := nc.(*memConn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failTake != nil {
		return -1, p.failTake
	}
	if c.closed {
		return -1, net.ErrClosed
	}
	if fd = slices.Index(p.fds[firstFD:], nil) + firstFD; fd < firstFD {
		fd = len(p.fds)
		p.fds = append(p.fds, nil)
	}
	p.fds[fd] = c.end
	c.refs++
	c.fd = fd
	return fd, nil
}

// at returns who has the descriptor. The caller holds mu.
func (p memPoller) at(fd int, what string) *end {
	if fd < 0 || fd >= len(p.fds) || p.fds[fd] == nil {
		p.broken("%s of descriptor %d, which is closed", what, fd)
		return nil
	}
	return p.fds[fd]
}

// free makes the descriptor one for others.
func (p memPoller) free(e *end) {
	if e.reading || e.writing {
		p.broken("descriptor %d is closed while somebody reads (%v) or writes (%v)", e.fd, e.reading, e.writing)
	}
	if e.watched && p.unlucky() {
		p.stale = append(p.stale, poll.Event{FD: e.fd, Tag: e.tag, Readable: true, Writable: true, HungUp: true})
		p.woken.Signal()
	}
	if i := slices.Index(p.ready, e); i >= 0 {
		p.ready = slices.Delete(p.ready, i, i+1)
	}
	p.fds[e.fd] = nil
	e.fd, e.watched, e.queued = 0, false, false
}

func (p memPoller) Give(fd int) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.at(fd, "Give")
	if e == nil {
		return nil, syscall.EBADF
	}
	p.free(e)
	if p.failGive != nil {
		e.release()
		return nil, p.failGive
	}
	return &memConn{end: e}, nil
}

func (p memPoller) Add(fd int, tag uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.at(fd, "Add")
	switch {
	case e == nil:
		return syscall.EBADF
	case p.failAdd != nil:
		return p.failAdd
	case tag == 0:
		p.broken("a tag of 0")
	}
	e.watched, e.tag = true, tag
	e.edge()
	return nil
}

func (p memPoller) Shut(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.at(fd, "Shut"); e != nil {
		p.free(e)
		e.release()
	}
}

func (p memPoller) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes++
	p.woken.Broadcast()
}

func (p memPoller) Pause(d time.Duration) { time.Sleep(d) }

func (p memPoller) Wait(events []poll.Event, most time.Duration) (n int, err error) {
	if p.onWait != nil {
		p.onWait(most)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.await(most) || p.unlucky() { // EINTR
		return 0, nil
	}
	for i := range p.ready {
		if j := p.rng.IntN(i + 1); p.odds > 0 {
			p.ready[i], p.ready[j] = p.ready[j], p.ready[i]
		}
	}
	for n < len(events) && len(p.stale) > 0 {
		events[n] = p.stale[0]
		p.stale = p.stale[1:]
		n++
	}
	for ready := len(p.ready); n < len(events) && ready > 0 && (n == 0 || !p.unlucky()); ready-- {
		e := p.ready[0]
		p.ready = append(p.ready[:0], p.ready[1:]...)
		e.queued = false
		if ev := e.event(); ev.Readable || ev.Writable {
			events[n] = ev
			n++
		}
		if p.unlucky() {
			e.edge()
		}
	}
	return n, nil
}

// await waits for something to tell, and reports whether there is. The caller holds mu.
func (p memPoller) await(most time.Duration) bool {
	var end time.Time
	if most > 0 {
		end = time.Now().Add(most)
		defer p.bell(most).Stop()
		p.brief++
		defer func() { p.brief-- }()
	}
	for {
		switch {
		case p.wakes > 0 && (most >= 0 || p.brief == 0): // where it does least
			p.wakes--
			p.woken.Broadcast()
			return false
		case len(p.ready)+len(p.stale) > 0 && (most == 0 || !p.manual):
			return true
		case most == 0 || most > 0 && !time.Now().Before(end):
			return false
		}
		p.woken.Wait()
	}
}

// bell wakes who waits when the time is over.
func (p memPoller) bell(after time.Duration) *time.Timer {
	return time.AfterFunc(after, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.woken.Broadcast()
	})
}

// dwell gives others time to do what they must not while one reads or writes. The caller holds mu.
func (p memPoller) dwell(busy *bool, what string, fd int) {
	if *busy {
		p.broken("two %s descriptor %d at a time", what, fd)
	}
	if p.odds == 0 {
		return
	}
	*busy = true
	p.mu.Unlock()
	runtime.Gosched()
	p.mu.Lock()
	*busy = false
}

func (p memPoller) Read(fd int, b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.at(fd, "Read")
	if e == nil {
		return 0, syscall.EBADF
	}
	p.dwell(&e.reading, "read", fd)
	if e.watched && !e.fin && !e.reset && p.unlucky() { // it is still on its way
		e.edge()
		return 0, poll.ErrAgain
	}
	few := p.unlucky()
	if few {
		b = b[:1+p.rng.IntN(min(len(b), 8))]
	}
	n, err = e.read(b)
	if few && len(e.got) > 0 {
		e.edge() // what is left comes now
	}
	return n, err
}

func (p memPoller) Write(fd int, b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.at(fd, "Write")
	if e == nil {
		return 0, syscall.EBADF
	}
	p.dwell(&e.writing, "write", fd)
	if e.watched && len(b) > 1 && p.unlucky() { // there is room for some only, and at once for more
		n, err = e.write(b[:p.rng.IntN(min(len(b), 8))])
		if err == nil {
			e.full, err = true, poll.ErrAgain
			e.edge()
		}
		return n, err
	}
	return e.write(b)
}
