package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// Opcodes of RFC 6455.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// frame builds a frame as a client sends it.
func frame(fin bool, op byte, payload string) string {
	head := []byte{op, 0x80}
	if fin {
		head[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		head[1] |= byte(n)
	case n < 1<<16:
		head[1] |= 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] |= 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	mask := [4]byte{0xa1, 0xb2, 0xc3, 0xd4}
	head = append(head, mask[:]...)
	for i := range len(payload) {
		head = append(head, payload[i]^mask[i%4])
	}
	return string(head)
}

// readFrame reads a frame as a server sends it.
func readFrame(t *testing.T, r io.Reader) (op byte, payload string) {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatalf("reading a frame: %v", err)
	}
	if head[1] > 125 {
		t.Fatalf("frame with length byte %d: test reads only short ones without mask", head[1])
	}
	b := make([]byte, head[1])
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("reading a frame: %v", err)
	}
	return head[0] & 15, string(b)
}

// expectClose reads a close frame with the status, then the end.
func expectClose(t *testing.T, r io.Reader, status uint16) {
	t.Helper()
	op, payload := readFrame(t, r)
	if op != opClose || len(payload) < 2 || binary.BigEndian.Uint16([]byte(payload)) != status {
		t.Fatalf("frame %d %q, want a close frame with %d", op, payload, status)
	}
}

const upgradeHead = "GET /mqtt HTTP/1.1\r\nHost: broker.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// request writes the header of an upgrade with more lines, and reads the answer.
func request(t *testing.T, c net.Conn, header string) (*http.Response, *bufio.Reader) {
	t.Helper()
	// A refusal may come before all is written.
	go io.WriteString(c, header)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp, br
}

// wsPair returns a raw client, after the upgrade, and the server's end.
func wsPair(t *testing.T, l *Listener) (net.Conn, *bufio.Reader, *Conn) {
	t.Helper()
	client := connect(t, l)
	resp, br := request(t, client, upgradeHead+"Sec-WebSocket-Protocol: mqtt\r\n\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	return client, br, accept(t, l)
}

func TestWebSocket(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	for _, cfg := range []Config{{Network: WS}, {Network: WSS, TLS: tlsCfg}} {
		t.Run(cfg.Network, func(t *testing.T) {
			l := open(t, cfg)
			client, server := pair(t, l, DialConfig{TLS: clientTLS(ca)})
			for _, n := range []int{1, 125, 126, 65535, 65536, 1 << 20} {
				s := strings.Repeat("0123456789abcdef", n/16+1)[:n]
				send(t, client, server, s)
				send(t, server, client, s)
			}
			for _, c := range []*Conn{client, server} {
				info := c.Info()
				if info.Subprotocol != "mqtt" || info.Network != cfg.Network || (info.TLS != nil) != (cfg.TLS != nil) {
					t.Errorf("info %+v", info)
				}
				if _, err := c.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("raw access: %v", err)
				}
			}
			if got := server.RemoteAddr().String(); got != client.LocalAddr().String() {
				t.Errorf("remote %s, want %s", got, client.LocalAddr())
			}
		})
	}
}

func TestWebSocketConfiguredPath(t *testing.T) {
	l := open(t, Config{Network: WS, WS: &WSConfig{Path: "/broker"}})
	if _, err := dialTo(t, l, DialConfig{}); err == nil {
		t.Error("connected at /mqtt")
	}
	c, err := Dial(testContext(t), parseURL(t, "ws://"+l.Addr().String()+"/broker?token=1"), DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, accept(t, l), "hello")
}

// TestSplitAndMerge sends the same bytes in every division into frames and
// messages [MQTT-6.0.0-2].
func TestSplitAndMerge(t *testing.T) {
	client, br, server := wsPair(t, open(t, Config{Network: WS}))
	const stream = "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\xc0\x00\x30\x05\x00\x01axy"
	check := func(wire string) {
		t.Helper()
		if _, err := io.WriteString(client, wire); err != nil {
			t.Fatal(err)
		}
		expect(t, server, stream)
	}
	check(frame(true, opBinary, stream))
	for i := range len(stream) + 1 {
		a, b := stream[:i], stream[i:]
		check(frame(true, opBinary, a) + frame(true, opBinary, b))
		check(frame(false, opBinary, a) + frame(true, opContinue, b))
		if b == "" {
			continue // nobody would read the ping
		}
		check(frame(false, opBinary, a) + frame(true, opPing, "?") + frame(true, opContinue, b))
		if op, payload := readFrame(t, br); op != opPong || payload != "?" {
			t.Fatalf("split at %d: frame %d %q, want a pong", i, op, payload)
		}
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		if _, err := io.WriteString(client, randomFrames(rnd, stream)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := make([]byte, len(stream))
		server.SetReadDeadline(time.Now().Add(patience))
		for n := 0; n < len(got); { // by small reads, too
			m, err := server.Read(got[n:min(len(got), n+1+rnd.IntN(8))])
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			n += m
		}
		if string(got) != stream {
			t.Fatalf("seed %d: read %q", seed, got)
		}
	}
}

// randomFrames divides s into messages and these into frames, some empty.
func randomFrames(rnd *rand.Rand, s string) string {
	var wire strings.Builder
	op := byte(opBinary)
	for s != "" || op == opContinue {
		n := rnd.IntN(min(len(s), 9) + 1)
		fin := rnd.IntN(2) == 0
		wire.WriteString(frame(fin, op, s[:n]))
		op, s = opContinue, s[n:]
		if fin {
			op = opBinary
		}
	}
	return wire.String()
}

// TestPartialFrame: what has arrived of a frame is read at once, however much
// the frame announces (A5).
func TestPartialFrame(t *testing.T) {
	client, _, server := wsPair(t, open(t, Config{Network: WS}))
	head := []byte{0x80 | opBinary, 0x80 | 127}
	head = binary.BigEndian.AppendUint64(head, 1<<62)
	head = append(head, 0, 0, 0, 0) // a mask that changes nothing
	client.Write(head)
	buf := make([]byte, 64<<10)
	for _, s := range []string{"a", "first packet", strings.Repeat("x", 3000)} {
		io.WriteString(client, s)
		server.SetReadDeadline(time.Now().Add(patience))
		for got := 0; got < len(s); {
			n, err := server.Read(buf)
			if err != nil {
				t.Fatalf("after %d of %d bytes: %v", got, len(s), err)
			}
			got += n
		}
	}
}

// TestBytesBehindTheRequest: a client may send its first frame without
// waiting for the answer.
func TestBytesBehindTheRequest(t *testing.T) {
	l := open(t, Config{Network: WS})
	client := connect(t, l)
	request(t, client, upgradeHead+"Sec-WebSocket-Protocol: mqtt\r\n\r\n"+frame(true, opBinary, "hello"))
	expect(t, accept(t, l), "hello")
}

// TestBadFrames: the connection ends with the right status; so it stays.
func TestBadFrames(t *testing.T) {
	for _, tt := range []struct {
		name, wire string
		status     uint16
	}{
		{"text", frame(true, opText, "hello"), 1003}, // [MQTT-6.0.0-1]
		{"empty text", frame(true, opText, ""), 1003},
		{"unmasked", "\x82\x01a", 1002},
		{"reserved bit", "\xc2\x80\x00\x00\x00\x00", 1002},
		{"opcode", "\x83\x80\x00\x00\x00\x00", 1002},
		{"continuation of nothing", frame(true, opContinue, "x"), 1002},
		{"message in a message", frame(false, opBinary, "") + frame(true, opBinary, ""), 1002},
		{"long ping", frame(true, opPing, strings.Repeat("p", 126)), 1002},
		{"fragmented ping", frame(false, opPing, "p"), 1002},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, br, server := wsPair(t, open(t, Config{Network: WS}))
			io.WriteString(client, tt.wire)
			server.SetReadDeadline(time.Now().Add(patience))
			_, err := server.Read(make([]byte, 10))
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || err == io.EOF {
				t.Fatalf("Read: %v", err)
			}
			if _, again := server.Read(make([]byte, 10)); again != err {
				t.Errorf("second Read: %v, want %v", again, err)
			}
			server.Close()
			expectClose(t, br, tt.status)
		})
	}
}

// TestUpgradeRefused: the client hears why; nothing reaches Accept.
func TestUpgradeRefused(t *testing.T) {
	const sub = "Sec-WebSocket-Protocol: mqtt\r\n"
	for _, tt := range []struct {
		name, request string
		status        int
		text          string
	}{
		{"no subprotocol", upgradeHead + "\r\n", 400, `needs the subprotocol "mqtt"`}, // [MQTT-6.0.0-3]
		{"other subprotocol", upgradeHead + "Sec-WebSocket-Protocol: amqp, mqtt5\r\n\r\n", 400, `needs the subprotocol "mqtt"`},
		{"upper case", upgradeHead + "Sec-WebSocket-Protocol: MQTT\r\n\r\n", 400, `needs the subprotocol "mqtt"`},
		{"other path", strings.Replace(upgradeHead, "/mqtt", "/", 1) + sub + "\r\n", 404, "is at /mqtt"},
		{"no upgrade", "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", 426, ""},
		{"POST", strings.Replace(upgradeHead, "GET", "POST", 1) + sub + "\r\n", 405, ""},
		{"HTTP/1.0", strings.Replace(upgradeHead, "HTTP/1.1", "HTTP/1.0", 1) + sub + "\r\n", 426, ""},
		{"version", strings.Replace(upgradeHead, ": 13", ": 8", 1) + sub + "\r\n", 400, "version"},
		{"key", strings.Replace(upgradeHead, "AAAA==", "", 1) + sub + "\r\n", 400, "Key"},
		{"foreign origin", upgradeHead + sub + "Origin: https://evil.example.net\r\n\r\n", 403, ""},
		{"garbage", "\x10\x0c\x00\x04MQTT\r\n\r\n", 400, "malformed"},
		{"header too large", upgradeHead + "X: " + strings.Repeat("x", maxRequestHeader) + "\r\n\r\n", 431, "too large"},
		{"header without end", "GET /" + strings.Repeat("x", 2*maxRequestHeader), 431, "too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			l := open(t, Config{Network: WS, HandshakeFailed: func(_ net.Addr, err error) { failed <- err }})
			client := connect(t, l)
			resp, br := request(t, client, tt.request)
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || !strings.Contains(string(text), tt.text) {
				t.Errorf("%s: %q; want %d with %q", resp.Status, text, tt.status, tt.text)
			}
			if _, err := br.ReadByte(); err == nil {
				t.Error("connection goes on")
			}
			if err := <-failed; !strings.HasPrefix(err.Error(), "WebSocket upgrade: ") {
				t.Errorf("reported %v", err)
			}
		})
	}
}

// TestOrigins: Host is broker.example.com.
func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		allowed []string
		origin  string
		ok      bool
	}{
		{nil, "", true},
		{nil, "http://broker.example.com", true},
		{nil, "https://BROKER.example.com", true},
		{nil, "https://broker.example.com:8443", false},
		{nil, "https://example.com", false},
		{nil, "null", false},
		{[]string{"*.example.com"}, "https://app.example.com", true},
		{[]string{"*.example.com"}, "https://app.example.com.evil.net", false},
		{[]string{"*.example.com"}, "https://example.com", false},
		{[]string{"https://app.example.net"}, "https://app.example.net", true},
		{[]string{"https://app.example.net"}, "http://app.example.net", false},
		{[]string{"*"}, "https://evil.example.net", true},
		{[]string{"a.example.net", "b.example.net"}, "https://b.example.net", true},
	} {
		l := open(t, Config{Network: WS, WS: &WSConfig{Origins: tt.allowed}})
		header := upgradeHead + "Sec-WebSocket-Protocol: mqtt\r\n"
		if tt.origin != "" {
			header += "Origin: " + tt.origin + "\r\n"
		}
		resp, _ := request(t, connect(t, l), header+"\r\n")
		if ok := resp.StatusCode == http.StatusSwitchingProtocols; ok != tt.ok {
			t.Errorf("allowed %q, origin %q: %s", tt.allowed, tt.origin, resp.Status)
		}
	}
}

func TestSubprotocols(t *testing.T) {
	for _, tt := range []struct{ offer, want string }{
		{"mqtt", "mqtt"},
		{"mqttv3.1", "mqttv3.1"},
		{"mqttv3.1, mqtt", "mqtt"},
		{"amqp,mqtt", "mqtt"},
		{"amqp\r\nSec-WebSocket-Protocol:  mqtt", "mqtt"},
	} {
		l := open(t, Config{Network: WS})
		resp, _ := request(t, connect(t, l), upgradeHead+"Sec-WebSocket-Protocol: "+tt.offer+"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != tt.want { // [MQTT-6.0.0-4]
			t.Errorf("offered %q: answer %q, want %q", tt.offer, got, tt.want)
		}
		if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("extensions %q", got)
		}
		if got := accept(t, l).Info().Subprotocol; got != tt.want {
			t.Errorf("offered %q: info has %q", tt.offer, got)
		}
	}
}

func TestWebSocketClose(t *testing.T) {
	client, br, server := wsPair(t, open(t, Config{Network: WS}))
	io.WriteString(server, "last words")
	if op, payload := readFrame(t, br); op != opBinary || payload != "last words" {
		t.Errorf("frame %d %q", op, payload)
	}
	if err := server.Close(); err != nil { // the peer does not answer
		t.Error(err)
	}
	expectClose(t, br, 1000)
	expectEnd(t, client)
	if err := server.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
}

func TestCloseWakesRead(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	for _, cfg := range []Config{{Network: TCP}, {Network: TLS, TLS: tlsCfg}, {Network: WS}, {Network: WSS, TLS: tlsCfg}} {
		t.Run(cfg.Network, func(t *testing.T) {
			client, server := pair(t, open(t, cfg), DialConfig{TLS: clientTLS(ca)})
			for _, c := range []*Conn{server, client} {
				ended := make(chan error)
				go func() {
					_, err := c.Read(make([]byte, 1))
					ended <- err
				}()
				c.Close()
				if err := <-ended; err == nil {
					t.Error("Read goes on after Close")
				} else if c == server && !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read: %v", err)
				}
			}
		})
	}
}

// stuck is a layer that cannot say goodbye while its socket is open.
type stuck struct {
	net.Conn
	socketClosed <-chan struct{}
}

func (s stuck) Close() error {
	<-s.socketClosed
	return nil
}

type closeSignal struct {
	net.Conn
	closed chan struct{}
}

func (c closeSignal) Close() error {
	close(c.closed)
	return c.Conn.Close()
}

// TestCloseIsBounded: however long a layer would take.
func TestCloseIsBounded(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	base := closeSignal{a, make(chan struct{})}
	c := newConn(base, Info{})
	c.push(stuck{base, base.closed})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseOfStuckPeer: the peer reads nothing and the buffers are full.
func TestCloseOfStuckPeer(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	for _, cfg := range []Config{{Network: TLS, TLS: tlsCfg}, {Network: WS}, {Network: WSS, TLS: tlsCfg}} {
		t.Run(cfg.Network, func(t *testing.T) {
			_, server := pair(t, open(t, cfg), DialConfig{TLS: clientTLS(ca)})
			begun, ended := make(chan struct{}), make(chan error)
			go func() {
				chunk := make([]byte, 1<<20)
				_, err := server.Write(chunk)
				close(begun)
				for err == nil {
					_, err = server.Write(chunk)
				}
				ended <- err
			}()
			<-begun
			server.Close()
			<-ended
		})
	}
}

func TestPeerEnds(t *testing.T) {
	for _, tt := range []struct {
		name, wire string
		want       error
	}{
		{"close frame", frame(true, opClose, "\x03\xe8"), io.EOF},
		{"going away", frame(true, opClose, "\x03\xe9"), io.EOF},
		{"close frame without status", frame(true, opClose, ""), io.EOF},
		{"no close frame", "", io.EOF},
		{"after a message", frame(true, opBinary, ""), io.EOF},
		{"in a header", "\x82", io.EOF},
		{"in a frame", frame(true, opBinary, "x")[:6], io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, _, server := wsPair(t, open(t, Config{Network: WS}))
			io.WriteString(client, tt.wire)
			client.(*net.TCPConn).CloseWrite()
			server.SetReadDeadline(time.Now().Add(patience))
			if _, err := server.Read(make([]byte, 10)); !errors.Is(err, tt.want) {
				t.Errorf("Read: %v, want %v", err, tt.want)
			}
		})
	}
}

// TestReadDeadline: it passes without harm between and inside frames.
func TestReadDeadline(t *testing.T) {
	client, _, server := wsPair(t, open(t, Config{Network: WS}))
	timesOut := func() {
		t.Helper()
		server.SetReadDeadline(time.Now().Add(-time.Second))
		_, err := server.Read(make([]byte, 10))
		if e, ok := err.(net.Error); !ok || !e.Timeout() {
			t.Fatalf("Read: %v, want a net.Error that is a time-out", err)
		}
	}
	timesOut()
	f := frame(true, opBinary, "hello")
	io.WriteString(client, f[:8])
	expect(t, server, "he")
	timesOut()
	io.WriteString(client, f[8:])
	expect(t, server, "llo")
}

func TestWriteDeadline(t *testing.T) {
	_, _, server := wsPair(t, open(t, Config{Network: WS}))
	server.SetWriteDeadline(time.Now().Add(-time.Second))
	if _, err := server.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
}

// TestWSHandler: the same behind somebody else's HTTP server.
func TestWSHandler(t *testing.T) {
	for _, secure := range []bool{false, true} {
		conns := make(chan *Conn, 1)
		h, err := WSHandler("http", WSConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, func(c *Conn) { conns <- c })
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle("/api/mqtt", h)
		s := httptest.NewUnstartedServer(mux)
		s.Config.ReadTimeout, s.Config.WriteTimeout = time.Hour, time.Hour
		u, cfg, network := "ws://", DialConfig{Header: http.Header{"X-Forwarded-For": {"192.0.2.7"}}}, WS
		if secure {
			s.StartTLS()
			u, network = "wss://", WSS
			cfg.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			cfg.TLS.NextProtos = []string{"http/1.1"}
		} else {
			s.Start()
		}
		defer s.Close()
		client, err := Dial(testContext(t), parseURL(t, u+s.Listener.Addr().String()+"/api/mqtt"), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server := <-conns
		send(t, client, server, "to the server")
		send(t, server, client, "to the client")
		info := server.Info()
		if info.Listener != "http" || info.Network != network || (info.TLS != nil) != secure {
			t.Errorf("info %+v", info)
		}
		if info.Remote.String() != "192.0.2.7:0" || info.Peer.String() != client.LocalAddr().String() {
			t.Errorf("remote %v, peer %v", info.Remote, info.Peer)
		}
		if _, isTLS := server.base.(*tls.Conn); isTLS {
			t.Error("base is not the socket")
		}
		server.Close()
		if n, err := io.Copy(io.Discard, client); n != 0 || err != nil {
			t.Errorf("client reads %d bytes, %v after the close frame", n, err)
		}
	}
}

func TestWSHandlerRefuses(t *testing.T) {
	h, err := WSHandler("http", WSConfig{}, func(*Conn) { t.Error("accepted") })
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	defer s.Close()
	_, err = Dial(testContext(t), parseURL(t, "ws"+strings.TrimPrefix(s.URL, "http")), DialConfig{Header: http.Header{"Origin": {"https://evil.example.net"}}})
	wantError(t, err, "403")
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a browser gets %s", resp.Status)
	}
	s.Client().CloseIdleConnections()
	_, err = WSHandler("http", WSConfig{Origins: []string{"["}}, nil)
	wantError(t, err, "origin pattern")
}

func TestForwardedFor(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		peer   string
		header []string
		want   string
	}{
		{"10.0.0.1:5", nil, "10.0.0.1:5"},
		{"10.0.0.1:5", []string{"192.0.2.1"}, "192.0.2.1:0"},
		{"[::ffff:10.0.0.1]:5", []string{"192.0.2.1"}, "192.0.2.1:0"},
		{"192.0.2.9:5", []string{"192.0.2.1"}, "192.0.2.9:5"},                     // not a trusted proxy
		{"10.0.0.1:5", []string{"198.51.100.1, 192.0.2.1"}, "192.0.2.1:0"},        // the client's own claim is in front
		{"10.0.0.1:5", []string{"198.51.100.1", "192.0.2.1"}, "192.0.2.1:0"},      // in lines of their own
		{"10.0.0.1:5", []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1:0"},            // two proxies
		{"10.0.0.1:5", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},              // all trusted
		{"10.0.0.1:5", []string{"nonsense"}, "10.0.0.1:5"},                        //
		{"10.0.0.1:5", []string{"192.0.2.1, nonsense, 10.0.0.2"}, "10.0.0.2:0"},   // up to the nonsense
		{"10.0.0.1:5", []string{""}, "10.0.0.1:5"},                                //
		{"10.0.0.1:5", []string{"192.0.2.1:99"}, "192.0.2.1:99"},                  //
		{"[fd00::1]:5", []string{"2001:db8::1"}, "[2001:db8::1]:0"},               //
		{"[fd00::1]:5", []string{"[2001:db8::1]:77"}, "[2001:db8::1]:77"},         //
		{"[fd00::1]:5", []string{"[2001:db8::1]"}, "[2001:db8::1]:0"},             //
		{"10.0.0.1:5", []string{strings.Repeat("10.0.0.2,", 1000)}, "10.0.0.1:5"}, // ends in an empty entry
		{"10.0.0.1:5", []string{"1.1.1.1" + strings.Repeat(",10.0.0.2", 1000)}, "10.0.0.2:0"},
	} {
		peer := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.peer))
		h := http.Header{"X-Forwarded-For": tt.header}
		if got := forwardedFor(peer, h, trusted).String(); got != tt.want {
			t.Errorf("peer %s, header %.60q: %s, want %s", tt.peer, tt.header, got, tt.want)
		}
	}
}

func TestProxyUnderTLSAndWebSocket(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}
	for _, cfg := range []Config{{Network: TLS, TLS: tlsCfg}, {Network: WS}, {Network: WSS, TLS: tlsCfg}} {
		for _, header := range []string{"PROXY TCP4 192.0.2.1 192.0.2.2 4660 1883\r\n", v2ok(0x21, 0x11, v2four)} {
			l := proxied(t, cfg, "127.0.0.0/8")
			dial := DialConfig{TLS: clientTLS(ca), Dialer: dialWithHeader(header)}
			client, server := pair(t, l, dial)
			if got := server.RemoteAddr().String(); got != "192.0.2.1:4660" {
				t.Errorf("%s: remote %s", cfg.Network, got)
			}
			send(t, client, server, "hello")
		}
	}
}

// FuzzFrames: whatever a client sends after the upgrade, Read ends, and what it
// returned is at most what was sent.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(true, opBinary, "hello")))
	f.Add([]byte(frame(false, opBinary, "a") + frame(true, opPing, "p") + frame(true, opContinue, "b")))
	f.Add([]byte(frame(true, opClose, "\x03\xe8")))
	f.Add([]byte("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00data"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		a, b := net.Pipe()
		c := newConn(b, Info{})
		ready := make(chan error, 1)
		go func() { ready <- (&upgrader{}).accept(c) }()
		if _, err := io.WriteString(a, upgradeHead+"Sec-WebSocket-Protocol: mqtt\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			io.Copy(io.Discard, a)
		}()
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		go func() {
			a.Write(wire)
			a.Close()
		}()
		var got bytes.Buffer
		io.Copy(&got, c)
		if got.Len() > len(wire) {
			t.Errorf("read %d bytes of %d", got.Len(), len(wire))
		}
		c.Close()
		<-drained
	})
}

func ExampleWSHandler() {
	h, err := WSHandler("http", WSConfig{}, func(c *Conn) {
		defer c.Close()
		fmt.Println("from", c.RemoteAddr())
	})
	if err != nil {
		panic(err)
	}
	http.Handle("/mqtt", h)
}
