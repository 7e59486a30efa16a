//go:build unix

package broker

import (
	"io"
	"net"
	"syscall"
)

// rawSocket reads and writes a socket without waiting and without a buffer while there is nothing to read. Its closures are
// made once per connection.
type rawSocket struct {
	rc syscall.RawConn

	in      *input
	n       int
	err     error
	readFn  func(fd uintptr) bool
	out     []byte
	wrote   int
	werr    error
	writeFn func(fd uintptr) bool
}

// newRawIO returns nil when nc is not a plain socket.
func newRawIO(nc net.Conn) rawIO {
	if r, ok := nc.(rawIO); ok {
		return r
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &rawSocket{rc: rc}
	r.readFn, r.writeFn = r.readable, r.write
	return r
}

// fill waits for bytes and reads them into in. One goroutine at a time.
func (r *rawSocket) fill(in *input) (n int, err error) {
	r.in, r.n, r.err = in, 0, nil
	if err := r.rc.Read(r.readFn); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// fillNow reads into in what has arrived.
func (r *rawSocket) fillNow(in *input) (n int, err error) {
	r.in, r.n, r.err = in, 0, nil
	if err := r.rc.Control(func(fd uintptr) { r.readable(fd) }); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// readable reports whether the wait is over.
func (r *rawSocket) readable(fd uintptr) bool {
	r.in.acquire()
	for {
		n, err := syscall.Read(int(fd), r.in.buf[r.in.n:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.in.release()
			return false
		case err != nil:
			r.err = err
		case n == 0:
			r.err = io.EOF
		default:
			r.n = n
			r.in.n += n
		}
		return true
	}
}

// tryWrite writes what the socket takes at once. One goroutine at a time.
func (r *rawSocket) tryWrite(b []byte) (n int, err error) {
	r.out, r.wrote, r.werr = b, 0, nil
	if err := r.rc.Write(r.writeFn); err != nil {
		return 0, err
	}
	r.out = nil
	return r.wrote, r.werr
}

func (r *rawSocket) write(fd uintptr) bool {
	for r.wrote < len(r.out) {
		n, err := syscall.Write(int(fd), r.out[r.wrote:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return true // the rest is for the goroutine that may wait
		case err != nil:
			r.werr = err
			return true
		}
		r.wrote += n
	}
	return true
}
