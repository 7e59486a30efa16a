package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const defaultDialTimeout = 30 * time.Second

// DialConfig says how [Dial] connects. The zero value works.
type DialConfig struct {
	// TLS is for "mqtts" and "wss"; it is cloned. nil means the authorities of
	// the system. An empty ServerName means the host of the URL, a zero
	// MinVersion TLS 1.2.
	TLS *tls.Config

	// Dialer opens the socket, to the server or to the proxy. nil means a
	// net.Dialer.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy is the proxy to go through: http, https (both with CONNECT) or
	// socks5, user and password included; the proxy resolves the host name. nil
	// means what the environment says: HTTPS_PROXY for wss, HTTP_PROXY for ws,
	// ALL_PROXY for these and for mqtt and mqtts, each also in lower case, but
	// never for the hosts of NO_PROXY nor for this machine. Unix sockets know no proxy.
	Proxy *url.URL

	Direct  bool          // go through no proxy, whatever Proxy and the environment say
	Header  http.Header   // sent with the WebSocket request
	Timeout time.Duration // for everything together, besides the context's deadline; zero means 30 s
}

// target is a URL taken apart.
type target struct {
	network string   // as in Info
	address string   // host:port or path
	host    string   // without port and brackets
	url     *url.URL // for WebSocket: scheme http or https, without user
}

// defaultDialPort is the port of a URL that names none; of ws and wss it is HTTP's.
var defaultDialPort = map[string]string{TCP: "1883", TLS: "8883", WS: "80", WSS: "443"}

var networkOf = map[string]string{
	"mqtt": TCP, "tcp": TCP,
	"mqtts": TLS, "ssl": TLS, "tls": TLS,
	"ws": WS, "wss": WSS, "unix": Unix,
}

// Dial connects to the server that u names: mqtt or tcp (port 1883 if none is
// given), mqtts, ssl or tls (8883), ws (80), wss (443), each with a host, or
// unix with a path. The path of ws and wss is /mqtt if u has none. User and
// password in u are not used: they belong to the protocol above. ctx governs
// the dialling only. The connection is a *[Conn]; the caller must Close it.
func Dial(ctx context.Context, u *url.URL, cfg DialConfig) (net.Conn, error) {
	t, err := parseTarget(u)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	c, err := cfg.dial(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", u.Redacted(), err)
	}
	return c, nil
}

// CheckURL says what is wrong with a URL that [Dial] can never connect to.
func CheckURL(u *url.URL) error {
	_, err := parseTarget(u)
	return err
}

func parseTarget(u *url.URL) (target, error) {
	network, ok := networkOf[u.Scheme]
	if !ok {
		return target{}, fmt.Errorf("URL %s: unknown scheme %q: use mqtt, mqtts, ws, wss or unix", u.Redacted(), u.Scheme)
	}
	if network == Unix {
		return parseUnixTarget(u)
	}
	t := target{network: network, host: u.Hostname()}
	if t.host == "" {
		return target{}, fmt.Errorf("URL %s has no host", u.Redacted())
	}
	port := u.Port()
	if port == "" {
		port = defaultDialPort[network]
	}
	t.address = net.JoinHostPort(t.host, port)
	if network == WS || network == WSS {
		t.url = httpURL(u)
	}
	return t, nil
}

func parseUnixTarget(u *url.URL) (target, error) {
	path := u.Path
	if path == "" {
		path = u.Opaque // unix:relative/path
	}
	if u.Host != "" {
		return target{}, fmt.Errorf("URL %s has a host: write unix:///path, with three slashes", u.Redacted())
	}
	if path == "" {
		return target{}, fmt.Errorf("URL %s has no path", u.Redacted())
	}
	return target{network: Unix, address: path}, nil
}

// httpURL is the address of the WebSocket request.
func httpURL(u *url.URL) *url.URL {
	h := *u
	h.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	h.User = nil // MQTT's, not HTTP's
	if h.Path == "" {
		h.Path = defaultWSPath
	}
	return &h
}

// dial opens the socket and puts the layers of the network on it.
func (d *DialConfig) dial(ctx context.Context, t target) (*Conn, error) {
	base, err := d.connect(ctx, t)
	if err != nil {
		return nil, err
	}
	c := newConn(base, Info{Network: t.network})
	err = guard(ctx, base, func() error {
		if t.network == TLS || t.network == WSS {
			if err := startTLS(c, tls.Client(base, d.clientTLS(t.host))); err != nil {
				return err
			}
		}
		if t.url != nil {
			return d.upgrade(ctx, c, t.url)
		}
		return nil
	})
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// connect opens the socket, through a proxy if there is one.
func (d *DialConfig) connect(ctx context.Context, t target) (net.Conn, error) {
	if t.network == Unix {
		return d.open(ctx, "unix", t.address)
	}
	proxy, err := d.proxy(t)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return d.open(ctx, "tcp", t.address)
	}
	conn, err := d.throughProxy(ctx, proxy, t.address)
	if err != nil {
		return nil, &ProxyError{Proxy: proxy.Redacted(), Err: err}
	}
	return conn, nil
}

func (d *DialConfig) open(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Dialer != nil {
		return d.Dialer(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (d *DialConfig) clientTLS(host string) *tls.Config {
	t := d.TLS.Clone()
	if t == nil {
		t = new(tls.Config)
	}
	if t.ServerName == "" {
		t.ServerName = host
	}
	if t.MinVersion == 0 {
		t.MinVersion = tls.VersionTLS12
	}
	return t
}

// guard runs f, whose reads and writes on conn fail as soon as ctx is done.
func guard(ctx context.Context, conn net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() {
		return ctx.Err()
	}
	return err
}

// upgrade makes c a WebSocket connection.
func (d *DialConfig) upgrade(ctx context.Context, c *Conn, u *url.URL) error {
	ws, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     onConn{c.Conn},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:      d.Header,
		Host:            d.Header.Get("Host"),
		Subprotocols:    []string{subprotocol}, // [MQTT-6.0.0-3]
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return fmt.Errorf("WebSocket upgrade: %w", withAnswer(err, resp))
	}
	c.info.Subprotocol = ws.Subprotocol()
	c.push(newWSConn(ws, c.Conn, nil))
	if c.info.Subprotocol != subprotocol {
		return errors.New("server does not speak the WebSocket subprotocol mqtt")
	}
	return nil
}

// withAnswer adds the beginning of what the server said to the error.
func withAnswer(err error, resp *http.Response) error {
	if resp == nil || resp.Body == nil {
		return err
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return err
	}
	return fmt.Errorf("%w: server says %q", err, text)
}

// onConn is an http.RoundTripper for one request on a connection that exists.
// When the answer is 101 its body is the connection.
type onConn struct{ net.Conn }

func (c onConn) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Write(c); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: c, N: maxRequestHeader}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		ahead, _ := br.Peek(br.Buffered())
		resp.Body = switched{io.MultiReader(bytes.NewReader(ahead), c.Conn), c.Conn}
	}
	return resp, nil
}

// switched is a connection whose first bytes have been read already.
type switched struct {
	io.Reader
	io.WriteCloser
}

func (s switched) Read(p []byte) (int, error) { return s.Reader.Read(p) }
