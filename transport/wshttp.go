package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// maxRequestHeader bounds request line and headers of an upgrade, in bytes.
const maxRequestHeader = 16 << 10

// accept reads the one HTTP request that a connection to a "ws" or "wss"
// listener carries and upgrades it. There is no http.Server here: the request
// is part of the handshake, under its deadline and its limit on numbers.
func (u *upgrader) accept(c *Conn) error {
	limited := &io.LimitedReader{R: c.Conn, N: maxRequestHeader}
	br := bufio.NewReader(limited)
	w := &reply{conn: c.Conn, br: br, header: http.Header{}}
	r, err := http.ReadRequest(br)
	switch {
	case err != nil && limited.N <= 0:
		http.Error(w, "request header is too large", http.StatusRequestHeaderFieldsTooLarge)
	case errors.Is(err, io.EOF): // nobody to answer
		return noEOF(err)
	case err != nil:
		http.Error(w, "malformed request", http.StatusBadRequest)
	case r.URL.Path != u.path():
		err = fmt.Errorf("path %q, not %q", r.URL.Path, u.path())
		http.Error(w, "MQTT over WebSocket is at "+u.path(), http.StatusNotFound)
	default:
		err = u.upgrade(c, w, r)
	}
	if e := w.finish(); err == nil {
		err = e
	}
	return err
}

func (u *upgrader) path() string {
	if u.cfg.Path == "" {
		return defaultWSPath
	}
	return u.cfg.Path
}

// reply is the http.ResponseWriter of a connection that carries one request: a
// refusal is collected and sent by finish; 101 is sent at once, and the
// connection is the upgrader's from then on.
type reply struct {
	conn   net.Conn
	br     *bufio.Reader
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *reply) Header() http.Header         { return w.header }
func (w *reply) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *reply) WriteHeader(code int)        { w.code = code }

// Hijack implements http.Hijacker.
func (w *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.send(); err != nil {
		return nil, nil, err
	}
	return w.conn, bufio.NewReadWriter(w.br, bufio.NewWriter(w.conn)), nil
}

// finish sends the refusal, if it was one.
func (w *reply) finish() error {
	if w.code == 0 || w.code == http.StatusSwitchingProtocols {
		return nil
	}
	w.header.Set("Connection", "close")
	w.header.Set("Content-Length", fmt.Sprint(w.body.Len()))
	return w.send()
}

func (w *reply) send() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", w.code, http.StatusText(w.code))
	_ = w.header.Write(&b) // to memory
	b.WriteString("\r\n")
	b.Write(w.body.Bytes())
	_, err := w.conn.Write(b.Bytes())
	return err
}

// hijackWriter notes the connection and the reader that a hijacker gets: the
// WebSocket library reads through that reader, so it tells how many bytes can
// be read without waiting.
type hijackWriter struct {
	http.ResponseWriter
	conn net.Conn
	br   *bufio.Reader
}

// Hijack implements http.Hijacker.
func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.conn, w.br = conn, brw.Reader
	return conn, brw, nil
}
