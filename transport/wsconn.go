package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// maxFrameRead bounds how much of a frame one Read of a dialled connection
// waits for, in bytes.
const maxFrameRead = 4096

var errTextMessage = errors.New("WebSocket message is text, MQTT is binary")

// wsConn is the byte stream inside the binary messages of a WebSocket
// connection; where messages and frames begin and end does not show
// [MQTT-6.0.0-2].
//
// The library's read fills the caller's buffer or reaches the end of the frame,
// whichever comes first, and so would wait for bytes that need not come soon
// while those that did come are kept from the caller. On the accepting side we
// share its buffered reader: Read waits for the first byte by itself and then
// asks only for what is there. That also makes a read deadline harmless, since
// the library never waits, except inside the few bytes of a header. On the
// dialling side the reader is hidden; Read asks for little at a time instead.
type wsConn struct {
	ws     *websocket.Conn
	raw    net.Conn      // carries the frames: the socket, or TLS
	br     *bufio.Reader // between raw and ws; nil on the dialling side
	closed atomic.Bool

	readMu sync.Mutex           // guards all below, and br
	msg    io.Reader            // the message being read; nil between messages
	err    error                // why reading ended for good
	code   websocket.StatusCode // what Close will say
}

func newWSConn(ws *websocket.Conn, raw net.Conn, br *bufio.Reader) *wsConn {
	ws.SetReadLimit(-1) // nothing is kept, so nothing is too big
	return &wsConn{ws: ws, raw: raw, br: br, code: websocket.StatusNormalClosure}
}

// Read implements net.Conn.
func (c *wsConn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if len(p) == 0 || c.err != nil {
		return 0, c.err
	}
	for {
		ready, err := c.await()
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.closed.Load() {
			return 0, err // nothing is lost: the caller may try again
		}
		n := 0
		if err == nil {
			n, err = c.next(p[:min(len(p), ready)])
		}
		if err != nil {
			c.err = c.verdict(err)
		}
		if n > 0 || c.err != nil {
			return n, c.err
		}
	}
}

// next reads from the message at hand, or turns to the following one, whose
// first bytes may still be on the way.
func (c *wsConn) next(p []byte) (int, error) {
	if c.msg == nil {
		return 0, c.nextMessage()
	}
	n, err := c.msg.Read(p)
	if errors.Is(err, io.EOF) {
		c.msg, err = nil, nil
	}
	return n, err
}

// await waits for the first byte and returns how many to ask for.
func (c *wsConn) await() (int, error) {
	if c.br == nil {
		return maxFrameRead, nil
	}
	if _, err := c.br.Peek(1); err != nil {
		return 0, err
	}
	return c.br.Buffered(), nil
}

func (c *wsConn) nextMessage() error {
	kind, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	if kind != websocket.MessageBinary {
		return errTextMessage // [MQTT-6.0.0-1]
	}
	c.msg = r
	return nil
}

// verdict turns the end of reading into what the caller is told and what the
// peer will hear from Close.
func (c *wsConn) verdict(err error) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	case -1: // no close frame
	default:
		return err
	}
	switch {
	case errors.Is(err, errTextMessage):
		c.code = websocket.StatusUnsupportedData
	case errors.Is(err, io.EOF): // without a close frame, perhaps inside a message
		return io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded): // inside a frame: its place is lost
	default:
		c.code = websocket.StatusProtocolError
	}
	return err
}

// Write sends p as one binary message. It does not keep p.
func (c *wsConn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close sends a close frame, waits a moment for the answer, and closes the
// connection below.
func (c *wsConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // wakes Read, which then lets go of the lock
	c.readMu.Lock()
	defer c.readMu.Unlock()
	_ = c.raw.SetDeadline(time.Now().Add(closeWait))
	_ = c.ws.Close(c.code, "") // the peer may be gone already; the socket is closed either way
	return nil
}

func (c *wsConn) LocalAddr() net.Addr                { return c.raw.LocalAddr() }
func (c *wsConn) RemoteAddr() net.Addr               { return c.raw.RemoteAddr() }
func (c *wsConn) SetDeadline(t time.Time) error      { return c.raw.SetDeadline(t) }
func (c *wsConn) SetReadDeadline(t time.Time) error  { return c.raw.SetReadDeadline(t) }
func (c *wsConn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }
