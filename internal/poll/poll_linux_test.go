package poll

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon bounds every wait for an event that must come.
const soon = 20 * time.Second

// newPoller makes a set that is freed with the test.
func newPoller(t *testing.T) *Poller {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// wires are the kinds of sockets.
var wires = map[string]func(*testing.T) net.Listener{
	"tcp": func(t *testing.T) net.Listener { return listen(t, "tcp", "127.0.0.1:0") },
	"unix": func(t *testing.T) net.Listener {
		return listen(t, "unix", filepath.Join(t.TempDir(), "s"))
	},
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// dial connects through ln. Both ends are closed with the test, if they are open then.
func dial(t *testing.T, ln net.Listener) (near, far net.Conn) {
	t.Helper()
	near, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
	})
	return near, far
}

// take takes nc over and closes it.
func take(t *testing.T, p *Poller, nc net.Conn) int {
	t.Helper()
	fd, err := p.Take(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Close(); err != nil {
		t.Fatal(err)
	}
	return fd
}

// onWires runs a test over each kind: near is a connection, fd the socket at its other end, which is not in the set yet.
func onWires(t *testing.T, test func(t *testing.T, p *Poller, near net.Conn, fd int)) {
	for name, open := range wires {
		t.Run(name, func(t *testing.T) {
			p := newPoller(t)
			near, far := dial(t, open(t))
			test(t, p, near, take(t, p, far))
		})
	}
}

// next waits for one event, which must be of fd and tag.
func next(t *testing.T, p *Poller, fd int, tag uint32) Event {
	t.Helper()
	var events [4]Event
	n, err := p.Wait(events[:], soon)
	if n != 1 || err != nil {
		t.Fatalf("%d events, %v, want one", n, err)
	}
	if e := events[0]; e.FD != fd || e.Tag != tag {
		t.Fatalf("an event of socket %d, tag %d, want %d, %d", e.FD, e.Tag, fd, tag)
	}
	return events[0]
}

// readable waits until there is something to read. Other edges may come before.
func readable(t *testing.T, p *Poller, fd int, tag uint32) Event {
	t.Helper()
	for {
		if e := next(t, p, fd, tag); e.Readable {
			return e
		}
	}
}

// quiet fails if there is an event.
func quiet(t *testing.T, p *Poller, when string) {
	t.Helper()
	var events [4]Event
	if n, err := p.Wait(events[:], 0); n != 0 || err != nil {
		t.Fatalf("%s: events %+v, %v, want none", when, events[:n], err)
	}
}

func add(t *testing.T, p *Poller, fd int, tag uint32) {
	t.Helper()
	if err := p.Add(fd, tag); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// wantRead reads, and expects these bytes and that error.
func wantRead(t *testing.T, p *Poller, fd int, room int, want string, wantErr error) {
	t.Helper()
	b := make([]byte, room)
	n, err := p.Read(fd, b)
	if string(b[:n]) != want || !errors.Is(err, wantErr) {
		t.Fatalf("read %q, %v, want %q, %v", b[:n], err, want, wantErr)
	}
}

// A socket is told of when it is added and ready, and once for each change: bytes that were not read are not told of again.
func TestEdges(t *testing.T) {
	onWires(t, func(t *testing.T, p *Poller, near net.Conn, fd int) {
		defer p.Shut(fd)
		quiet(t, p, "before Add")
		write(t, near, "early")
		add(t, p, fd, 7)
		if e := readable(t, p, fd, 7); !e.Writable || e.HungUp {
			t.Errorf("first event %+v", e)
		}
		quiet(t, p, "told once")
		wantRead(t, p, fd, 2, "ea", nil)
		quiet(t, p, "what is left is no edge")
		wantRead(t, p, fd, 100, "rly", nil)
		wantRead(t, p, fd, 100, "", ErrAgain)
		write(t, near, "late")
		readable(t, p, fd, 7)
		wantRead(t, p, fd, 100, "late", nil)
	})
}

// The end of the stream is told together with what stands before it; both are there to read, in order.
func TestHangUpBehindBytes(t *testing.T) {
	onWires(t, func(t *testing.T, p *Poller, near net.Conn, fd int) {
		defer p.Shut(fd)
		write(t, near, "last words")
		if err := near.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		add(t, p, fd, 1)
		e := readable(t, p, fd, 1)
		for !e.HungUp { // the bytes may be faster
			e = next(t, p, fd, 1)
		}
		wantRead(t, p, fd, 4, "last", nil)
		wantRead(t, p, fd, 100, " words", nil)
		wantRead(t, p, fd, 100, "", io.EOF)
		wantRead(t, p, fd, 100, "", io.EOF)
		if _, err := p.Write(fd, []byte("half open")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 9)
		if _, err := io.ReadFull(near, got); err != nil || string(got) != "half open" {
			t.Errorf("the other half brought %q, %v", got, err)
		}
	})
}

// A reset is told as readable, writable and hung up, and is an error of reads and writes.
func TestReset(t *testing.T) {
	p := newPoller(t)
	near, far := dial(t, wires["tcp"](t))
	fd := take(t, p, far)
	defer p.Shut(fd)
	add(t, p, fd, 1)
	_ = near.(*net.TCPConn).SetLinger(0)
	_ = near.Close()
	for e := next(t, p, fd, 1); !e.HungUp || !e.Readable || !e.Writable; {
		e = next(t, p, fd, 1)
	}
	wantRead(t, p, fd, 10, "", syscall.ECONNRESET)
	if n, err := p.Write(fd, []byte("x")); n != 0 || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}

// A socket that takes no more says so, and is told of when it does; everything arrives.
func TestWriteEdge(t *testing.T) {
	onWires(t, func(t *testing.T, p *Poller, near net.Conn, fd int) {
		add(t, p, fd, 1)
		next(t, p, fd, 1)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		n, err := p.Write(fd, sent)
		if err != ErrAgain || n == 0 || n == len(sent) {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(sent), err)
		}
		quiet(t, p, "full")
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(near)
			got <- b
		}()
		for n < len(sent) {
			if e := next(t, p, fd, 1); !e.Writable {
				t.Fatalf("event %+v", e)
			}
			more, err := p.Write(fd, sent[n:])
			if n += more; err != nil && err != ErrAgain {
				t.Fatal(err)
			}
		}
		p.Shut(fd)
		if b := <-got; !bytes.Equal(b, sent) {
			t.Errorf("%d bytes arrived, other ones", len(b))
		}
	})
}

// Take leaves the socket open when the connection is closed; it refuses what is no plain socket, or closed.
func TestTake(t *testing.T) {
	p := newPoller(t)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := p.Take(a); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a pipe: %v", err)
	}
	near, far := dial(t, wires["tcp"](t))
	_ = near.Close()
	if fd, err := p.Take(near); err == nil {
		t.Errorf("a closed connection: descriptor %d", fd)
	}
	fd := take(t, p, far)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: a child would inherit it", flags, err)
	}
	p.Shut(fd)
	if err := p.Add(fd, 1); err == nil {
		t.Error("a closed descriptor was added")
	}
}

// Give makes a connection that works with deadlines like any other, and of which nothing is told any more, whether it was added or not.
func TestGive(t *testing.T) {
	for _, added := range []bool{false, true} {
		onWires(t, func(t *testing.T, p *Poller, near net.Conn, fd int) {
			if added {
				add(t, p, fd, 1)
				next(t, p, fd, 1)
			}
			nc, err := p.Give(fd)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			write(t, near, "hello")
			quiet(t, p, "given away")
			b := make([]byte, 5)
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
			_ = nc.SetReadDeadline(time.Unix(1, 0))
			if _, err := nc.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}
			if half, ok := nc.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				t.Error("its writing side cannot be closed")
			}
			if _, err := near.Read(b); err != io.EOF {
				t.Errorf("the other end: %v", err)
			}
		})
	}
}

// Descriptors are used again at once. The tag tells whom an event is about; one that is closed is told of no more.
func TestTags(t *testing.T) {
	p := newPoller(t)
	ln := wires["tcp"](t)
	last, reused := -1, 0
	for tag := uint32(1); tag < 100; tag++ {
		near, far := dial(t, ln)
		fd := take(t, p, far)
		if fd == last {
			reused++
		}
		last = fd
		add(t, p, fd, tag)
		write(t, near, fmt.Sprint(tag))
		readable(t, p, fd, tag)
		wantRead(t, p, fd, 10, fmt.Sprint(tag), nil)
		write(t, near, "never read")
		readable(t, p, fd, tag)
		p.Shut(fd)
		quiet(t, p, "closed")
		_ = near.Close()
	}
	if reused == 0 {
		t.Error("no descriptor came twice: this test shows nothing")
	}
}

// Wake ends one Wait that is under way, or the next one; it stands for no event.
func TestWake(t *testing.T) {
	p := newPoller(t)
	for range 3 {
		done := make(chan error, 1)
		go func() {
			var events [1]Event
			n, err := p.Wait(events[:], -1)
			done <- errors.Join(err, map[bool]error{true: errors.New("an event")}[n != 0])
		}()
		p.Wake()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(soon):
			t.Fatal("Wait goes on")
		}
		quiet(t, p, "woken")
	}
}

// An alarm beside events costs none of them, whatever the size of the slice.
func TestManyEvents(t *testing.T) {
	p := newPoller(t)
	ln := wires["unix"](t)
	const sockets = MaxEvents + 50
	waiting := make(map[uint32]bool)
	for tag := uint32(1); tag <= sockets; tag++ {
		_, far := dial(t, ln)
		fd := take(t, p, far)
		defer p.Shut(fd)
		add(t, p, fd, tag)
		waiting[tag] = true
	}
	p.Wake()
	rng := rand.New(rand.NewPCG(1, 1))
	for rounds := 0; len(waiting) > 0; rounds++ {
		events := make([]Event, 1+rng.IntN(2*MaxEvents))
		n, err := p.Wait(events, soon)
		if err != nil || n > MaxEvents || rounds > sockets+1 {
			t.Fatalf("%d events, %v, %d still to come", n, err, len(waiting))
		}
		for _, e := range events[:n] {
			if !waiting[e.Tag] {
				t.Fatalf("twice, or nobody's: %+v", e)
			}
			delete(waiting, e.Tag)
		}
	}
}

// An edge is told to one of those who wait. Each byte of many sockets is read by somebody, however many wait at once.
func TestManyWaiters(t *testing.T) {
	p := newPoller(t)
	ln := wires["tcp"](t)
	const sockets, rounds, waiters = 20, 50, 4
	var busy [1 << 16]sync.Mutex // by descriptor: only one reads
	var near []net.Conn
	for i := range sockets {
		n, far := dial(t, ln)
		near = append(near, n)
		fd := take(t, p, far)
		defer p.Shut(fd)
		add(t, p, fd, uint32(i+1))
	}
	got := make(chan int, waiters*sockets*rounds)
	over := make(chan struct{})
	var wait sync.WaitGroup
	for range waiters {
		wait.Go(func() {
			var events [8]Event
			var b [16]byte
			for {
				n, err := p.Wait(events[:], -1)
				if err != nil {
					t.Error(err)
				}
				select {
				case <-over:
					p.Wake() // for the next
					return
				default:
				}
				for _, e := range events[:n] {
					busy[e.FD].Lock()
					for {
						n, err := p.Read(e.FD, b[:])
						if err != nil {
							break
						}
						got <- n
					}
					busy[e.FD].Unlock()
				}
			}
		})
	}
	for range rounds {
		for _, nc := range near {
			write(t, nc, "x")
		}
		for bytes := 0; bytes < sockets; {
			select {
			case n := <-got:
				bytes += n
			case <-time.After(soon):
				t.Fatal("an edge was told to nobody")
			}
		}
	}
	close(over)
	p.Wake()
	wait.Wait()
}

// Pause waits at least about as long as it is told to.
func TestPause(t *testing.T) {
	p := newPoller(t)
	began := time.Now()
	for range 5 {
		p.Pause(2 * time.Millisecond)
	}
	if took := time.Since(began); took < 2*time.Millisecond { // signals may make one shorter, not all
		t.Errorf("five pauses of 2 ms took %v", took)
	}
}

// A set that is closed leaves nothing open.
func TestClose(t *testing.T) {
	before := descriptors(t)
	for range 100 {
		p, err := New()
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Close()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
