package loadgen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hasRaw tells that there are raw sockets on this system.
const hasRaw = true

// epoll waits for raw sockets that never block.
type epoll struct {
	loop    *loop
	address unix.Sockaddr
	sources []unix.Sockaddr // to connect from, in turn; empty leaves it to the system
	family  int
	fd      int
	bell    int  // eventfd that wakes
	spare   bool // there are more processors than loops
	events  []unix.EpollEvent
	buf     []byte
}

// bellSlot is the slot of the eventfd, which is no connection.
const bellSlot = -1

// newRawPoller makes a poller for plain sockets.
func newRawPoller(l *loop, t *target) (poller, error) {
	p := &epoll{loop: l, events: make([]unix.EpollEvent, 1024), buf: make([]byte, readSize)}
	p.aim(t)
	p.spare = runtime.GOMAXPROCS(0) > l.plan.Loops
	var err error
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if p.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = unix.Close(p.fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, p.bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: bellSlot}); err != nil {
		p.close()
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	return p, nil
}

// target is where raw sockets connect to.
type target struct {
	path    string // of a Unix socket, or
	ip      netip.Addr
	port    int
	sources int // how many addresses of this machine to connect from; 0 leaves it to the system
}

// resolve finds the address of the broker once for all connections.
func resolve(ctx context.Context, p *Plan) (*target, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, fmt.Errorf("broker's address: %w", err)
	}
	if u.Scheme == "unix" {
		path := u.Path
		if path == "" {
			path = u.Opaque
		}
		return &target{path: path}, nil
	}
	port, err := strconv.Atoi(u.Port())
	if u.Port() == "" {
		port, err = 1883, nil
	}
	if err != nil {
		return nil, fmt.Errorf("port %q of the broker: %w", u.Port(), err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("broker's address: %w", err)
	}
	t := &target{ip: preferred(ips), port: port}
	if t.ip.Is4() && t.ip.IsLoopback() && p.connections() > perSource {
		t.sources = (p.connections()-1)/perSource + 1
	}
	return t, nil
}

// preferred takes the first IPv4 address, or the first of all: localhost is both, and brokers often listen on the old one.
func preferred(ips []netip.Addr) netip.Addr {
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap()
		}
	}
	return ips[0]
}

// perSource is how many connections leave from one address: a little less than there are ports for them.
const perSource = 20_000

// aim makes the addresses for a poller. Package unix writes into them, so each has its own.
func (p *epoll) aim(t *target) {
	switch {
	case t.path != "":
		p.family, p.address = unix.AF_UNIX, &unix.SockaddrUnix{Name: t.path}
	case t.ip.Is4():
		p.family, p.address = unix.AF_INET, &unix.SockaddrInet4{Port: t.port, Addr: t.ip.As4()}
	default:
		p.family, p.address = unix.AF_INET6, &unix.SockaddrInet6{Port: t.port, Addr: t.ip.As16()}
	}
	for i := range t.sources {
		p.sources = append(p.sources, &unix.SockaddrInet4{Addr: [4]byte{127, 0, byte(i), 1}})
	}
}

func (p *epoll) open(c *conn) error {
	fd, err := unix.Socket(p.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err = p.connect(fd, c.slot); err == nil {
		c.fd, c.armed = fd, true
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(c.slot)})
	}
	if err != nil {
		_ = unix.Close(fd)
		c.fd = -1
	}
	return err
}

func (p *epoll) connect(fd, slot int) error {
	if p.family != unix.AF_UNIX {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("TCP_NODELAY: %w", err)
		}
	}
	if len(p.sources) > 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // older kernels run out of ports sooner
		if err := unix.Bind(fd, p.sources[slot%len(p.sources)]); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	switch err := unix.Connect(fd, p.address); err {
	case nil, unix.EINPROGRESS:
		return nil
	case unix.EAGAIN: // a Unix socket's backlog is full
		return errLater
	default:
		return fmt.Errorf("connect: %w", err)
	}
}

func (p *epoll) wait(d time.Duration) {
	for _, e := range p.events[:p.poll(d)] {
		if e.Fd == bellSlot {
			var b [8]byte
			_, _ = unix.Read(p.bell, b[:])
			continue
		}
		p.ready(p.loop.conns[e.Fd], e.Events)
	}
}

// poll returns how many events there are.
func (p *epoll) poll(d time.Duration) int {
	var n uintptr
	var errno syscall.Errno
	if d == 0 {
		n, errno = p.pollNow()
	} else {
		before := now()
		n, errno = p.pollFor(d)
		p.loop.waited += now() - before
	}
	if errno == unix.EINTR {
		return 0
	}
	if errno != 0 {
		panic(fmt.Sprintf("epoll_wait: %v", errno))
	}
	return int(n)
}

// pollNow does not tell the scheduler: the call cannot block, and telling takes as long as the call.
func (p *epoll) pollNow() (uintptr, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
	return n, errno
}

// shortWait is a wait that the scheduler is not told of, as long as it has another processor for other goroutines: leaving it and
// coming back costs more than the system call, thousands of times a second.
const shortWait = time.Millisecond

// timespec is what epoll_pwait2 takes on every architecture.
type timespec struct{ sec, nsec int64 }

func (p *epoll) pollFor(d time.Duration) (uintptr, syscall.Errno) {
	t := timespec{int64(d / time.Second), int64(d % time.Second)}
	call := unix.Syscall6
	if d <= shortWait && p.spare {
		call = unix.RawSyscall6
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(unsafe.Pointer(&t)), 0, 0)
	if errno == unix.ENOSYS { // before Linux 5.11
		ms := (d + time.Millisecond - 1) / time.Millisecond
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(ms), 0, 0)
	}
	return n, errno
}

// ready takes an event.
func (p *epoll) ready(c *conn, events uint32) {
	if c.state == closed {
		return
	}
	if c.state == dialling {
		p.connected(c)
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		p.read(c)
	}
	if events&unix.EPOLLOUT != 0 && c.state != closed {
		p.arm(c, false)
		p.loop.writable(c)
	}
}

// connected asks how connecting has ended.
func (p *epoll) connected(c *conn) {
	errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	if err != nil {
		p.loop.end(c, fmt.Errorf("connect: %w", err))
		return
	}
	p.arm(c, false)
	p.loop.opened(c)
}

// arm asks to be told when the socket can be written, or not to be.
func (p *epoll) arm(c *conn, out bool) {
	if c.armed == out {
		return
	}
	c.armed = out
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.slot)}
	if out {
		e.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, c.fd, &e); err != nil {
		panic(fmt.Sprintf("epoll_ctl: %v", err))
	}
}

// turns is how often a socket is read in one turn while it fills the buffer, so that no other starves.
const turns = 4

// read takes what has come.
func (p *epoll) read(c *conn) {
	for range turns {
		rest := copy(p.buf, c.rest)
		n, errno := rawRead(c.fd, p.buf[rest:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			return
		case errno != 0:
			p.loop.end(c, fmt.Errorf("read: %w", errno))
			return
		case n == 0:
			p.loop.end(c, errGone)
			return
		}
		b := p.buf[:rest+n]
		p.loop.bytesIn += uint64(n)
		used := p.loop.received(c, b)
		c.rest = append(c.rest[:0], b[used:]...)
		p.loop.took(c)
		if len(b) < len(p.buf) || c.state == closed {
			return
		}
	}
}

// rawRead and rawWrite do not tell the scheduler: these sockets never block.
func rawRead(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	return int(n), errno
}

func rawWrite(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

func (p *epoll) flush(c *conn) error {
	n, errno := rawWrite(c.fd, c.out[c.head:])
	switch errno {
	case 0:
		c.written(n)
	case unix.EAGAIN, unix.EINTR:
	default:
		return fmt.Errorf("write: %w", errno)
	}
	c.blocked = c.backlog() > 0
	p.arm(c, c.blocked)
	return nil
}

func (p *epoll) drop(c *conn) {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd, c.rest = -1, nil
}

func (p *epoll) sleep(d time.Duration) {
	before := now()
	t := unix.NsecToTimespec(int64(d))
	call := unix.Syscall
	if d <= shortWait && p.spare {
		call = unix.RawSyscall
	}
	_, _, _ = call(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0) // a signal makes it shorter
	p.loop.waited += now() - before
}

func (p *epoll) wake() {
	_, _ = unix.Write(p.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // when it is full, it rings already
}

func (p *epoll) close() {
	_ = unix.Close(p.bell)
	_ = unix.Close(p.fd)
}

// settle keeps the loop on a thread of its own, where short sleeps are as short as asked for. The thread ends with the loop.
func settle() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
}
