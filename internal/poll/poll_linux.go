package poll

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Poller is a set of sockets, made by New. Its methods may be called by many goroutines at once, but for one socket only one reads and one
// writes at a time, and nobody does either when it is closed.
type Poller struct {
	epoll int
	alarm int // an eventfd: readable, for good, when Wait is to return
}

// alarmTag marks the events of the alarm, whose descriptor is no socket's.
const alarmTag = 0

// New makes an empty set. Close frees it.
func New() (*Poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	alarm, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &Poller{epoll: epoll, alarm: alarm}
	if err := p.control(unix.EPOLL_CTL_ADD, alarm, unix.EPOLLIN, alarmTag); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close frees the set. Its sockets stay open; nobody may be in Wait.
func (p *Poller) Close() error {
	return errors.Join(unix.Close(p.epoll), unix.Close(p.alarm))
}

func (p *Poller) control(op, fd int, events, tag uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(tag)}
	if err := unix.EpollCtl(p.epoll, op, fd, &e); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// Take takes the socket over from nc, which must be a plain TCP or Unix connection; otherwise the error is errors.ErrUnsupported. The
// caller closes nc, which leaves the socket open, and puts fd into the set by Add or frees it by Shut.
func (p *Poller) Take(nc net.Conn) (fd int, err error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = rc.Control(func(old uintptr) {
		fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, failed); err != nil {
		return -1, fmt.Errorf("taking the socket over: %w", err)
	}
	return fd, nil
}

// Give makes a net.Conn of a socket again. fd is not valid any more, whatever the error.
func (p *Poller) Give(fd int) (net.Conn, error) {
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) // it may not have come in
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	return net.FileConn(f)
}

// Add begins to tell events of a socket: at once, if it is ready. tag is not 0.
func (p *Poller) Add(fd int, tag uint32) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, tag)
}

// Shut closes a socket.
func (p *Poller) Shut(fd int) { _ = unix.Close(fd) }

// Wait waits for events, for as long as most says if that is not negative, and returns how many there are. 0 without an error means that
// the time is over, or Wake was called.
func (p *Poller) Wait(events []Event, most time.Duration) (n int, err error) {
	var raw [MaxEvents]unix.EpollEvent
	n, err = wait(p.epoll, raw[:min(len(events), MaxEvents)], most)
	if err != nil {
		return 0, err
	}
	kept := 0
	for i := range raw[:n] {
		e := &raw[i]
		if e.Pad == alarmTag {
			continue
		}
		events[kept] = Event{
			FD: int(e.Fd), Tag: uint32(e.Pad),
			Readable: e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
			Writable: e.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0,
			HungUp:   e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
		}
		kept++
	}
	return kept, nil
}

func wait(epoll int, raw []unix.EpollEvent, most time.Duration) (n int, err error) {
	ms := -1
	if most >= 0 {
		ms = int((most + time.Millisecond - 1) / time.Millisecond)
	}
	n, err = unix.EpollWait(epoll, raw, ms)
	switch {
	case err == unix.EINTR:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("epoll_wait: %w", err)
	}
	return n, nil
}

// Wake makes every Wait return at once from now on, whoever is in it or comes later.
func (p *Poller) Wake() {
	_, _ = unix.Write(p.alarm, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Pause waits. The kernel does it more cheaply than the scheduler of Go.
func (p *Poller) Pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal makes it shorter
}

// Read reads what has arrived. n is 0 only with an error: ErrAgain, io.EOF or what the socket says.
func (p *Poller) Read(fd int, b []byte) (n int, err error) {
	for {
		n, err = unix.Read(fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == unix.EAGAIN:
			return 0, ErrAgain
		case err != unix.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// Write writes as much as the socket takes. n < len(b) has an error: ErrAgain or what the socket says.
func (p *Poller) Write(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		wrote, err := unix.Write(fd, b[n:])
		switch {
		case wrote > 0:
			n += wrote
		case err == unix.EAGAIN:
			return n, ErrAgain
		case err != nil && err != unix.EINTR:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}
