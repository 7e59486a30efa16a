package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/magpiemq/magpie/transport"
)

// threads waits for connections of any kind: each has a goroutine that reads and one that writes. They do nothing but that; what
// they have read goes to the loop, one piece at a time for each connection.
type threads struct {
	loop   *loop
	url    *url.URL
	dial   transport.DialConfig
	ctx    context.Context // ends with the poller
	cancel context.CancelFunc
	events chan event
	bell   chan struct{}
	timer  *time.Timer
	group  sync.WaitGroup
}

// event is what a goroutine has to tell.
type event struct {
	conn *conn
	what what
	nc   net.Conn // opened
	b    []byte   // all that was read and not taken, or the buffer that was written
	n    int      // how many bytes of it are new
	err  error
}

type what uint8

const (
	wasOpened what = iota
	wasRead
	wasWritten
	hasEnded
)

// stream is a connection's part of it.
type stream struct {
	nc    net.Conn
	taken chan int    // how many bytes of a read the loop has taken
	out   chan []byte // to be written
	spare []byte      // what takes the place of the buffer that is being written
}

func newThreads(l *loop, p *Plan) (poller, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, errors.New("broker's address is not a URL")
	}
	t := &threads{loop: l, url: u, dial: p.dialConfig(), events: make(chan event, 1024), bell: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// tell sends an event to the loop, unless nobody listens any more.
func (t *threads) tell(e event) bool {
	select {
	case t.events <- e:
		return true
	case <-t.ctx.Done():
		return false
	}
}

func (t *threads) open(c *conn) error {
	t.group.Go(func() {
		nc, err := transport.Dial(t.ctx, t.url, t.dial)
		if !t.tell(event{conn: c, what: wasOpened, nc: nc, err: err}) && err == nil {
			_ = nc.Close()
		}
	})
	return nil
}

func (t *threads) wait(d time.Duration) {
	if t.drain() || d == 0 {
		return
	}
	before := now()
	t.timer.Reset(d)
	select {
	case e := <-t.events:
		t.loop.waited += now() - before
		t.take(e)
		t.drain()
	case <-t.bell:
		t.loop.waited += now() - before
	case <-t.timer.C:
		t.loop.waited += now() - before
	}
}

// drain takes the events that are there, but not for ever.
func (t *threads) drain() (any bool) {
	for range cap(t.events) {
		select {
		case e := <-t.events:
			t.take(e)
			any = true
		default:
			return any
		}
	}
	return any
}

// take takes an event.
func (t *threads) take(e event) {
	c := e.conn
	switch {
	case e.what == wasOpened:
		t.opened(c, e.nc, e.err)
	case e.what == wasRead:
		t.read(c, e)
	case c.state == closed:
	case e.err != nil:
		t.loop.end(c, e.err)
	default: // was written
		c.stream.spare = e.b
		t.loop.now = now()
		t.loop.writable(c)
	}
}

func (t *threads) opened(c *conn, nc net.Conn, err error) {
	switch {
	case err != nil:
		t.loop.end(c, err)
	case c.state == closed:
		t.hangUp(nc)
	default:
		s := &stream{nc: nc, taken: make(chan int, 1), out: make(chan []byte, 1)}
		c.stream = s
		t.group.Go(func() { t.readAll(c, s) })
		t.group.Go(func() { t.writeAll(c, s) })
		t.loop.now = now()
		t.loop.opened(c)
	}
}

// hangUp closes a stream. It may want to say goodbye, which can take a while.
func (t *threads) hangUp(nc net.Conn) {
	t.group.Go(func() { _ = nc.Close() })
}

// read hands what was read to the loop. The reader may go on in any case: it finds the end by itself.
func (t *threads) read(c *conn, e event) {
	used := len(e.b)
	s := c.stream
	if c.state != closed {
		t.loop.bytesIn += uint64(e.n)
		used = t.loop.received(c, e.b)
		t.loop.took(c)
	}
	s.taken <- used
}

// firstRead is the size of a connection's buffer until a packet needs more.
const firstRead = 16 << 10

// readAll is the goroutine that reads.
func (t *threads) readAll(c *conn, s *stream) {
	buf, have := make([]byte, firstRead), 0
	for {
		n, err := s.nc.Read(buf[have:])
		if have += n; n > 0 {
			if !t.tell(event{conn: c, what: wasRead, b: buf[:have], n: n}) {
				return
			}
			select {
			case used := <-s.taken:
				have = copy(buf, buf[used:have])
			case <-t.ctx.Done():
				return
			}
		}
		if err != nil {
			t.tell(event{conn: c, what: hasEnded, err: readError(err)})
			return
		}
		if have == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errGone
	}
	return fmt.Errorf("read: %w", err)
}

// writeAll is the goroutine that writes.
func (t *threads) writeAll(c *conn, s *stream) {
	for b := range s.out {
		_, err := s.nc.Write(b)
		if err != nil {
			err = fmt.Errorf("write: %w", err)
		}
		t.tell(event{conn: c, what: wasWritten, b: b, err: err})
	}
}

// flush gives all to the writer. Until that is done the socket counts as full.
func (t *threads) flush(c *conn) error {
	s := c.stream
	c.blocked = true
	s.out <- c.out[c.head:]
	c.out, c.head, s.spare = s.spare[:0], 0, nil
	return nil
}

func (t *threads) drop(c *conn) {
	if c.stream != nil {
		close(c.stream.out)
		t.hangUp(c.stream.nc)
	}
}

func (t *threads) sleep(d time.Duration) {
	before := now()
	time.Sleep(d)
	t.loop.waited += now() - before
}

func (t *threads) wake() {
	select {
	case t.bell <- struct{}{}:
	default: // rings already
	}
}

func (t *threads) close() {
	t.cancel()
	t.group.Wait()
	t.timer.Stop()
	for {
		select {
		case e := <-t.events:
			if e.nc != nil {
				_ = e.nc.Close()
			}
		default:
			return
		}
	}
}
