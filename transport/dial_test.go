package transport

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// dialWithHeader sends s before anything else, as a proxy would.
func dialWithHeader(s string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			_, err = io.WriteString(c, s)
		}
		return c, err
	}
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"mqtt://h", "tcp h:1883"},
		{"tcp://h:1", "tcp h:1"},
		{"mqtts://h", "tls h:8883"},
		{"ssl://h", "tls h:8883"},
		{"tls://u:p@h", "tls h:8883"},
		{"mqtt://[::1]", "tcp [::1]:1883"},
		{"mqtts://[2001:db8::1]:5", "tls [2001:db8::1]:5"},
		{"ws://h", "ws h:80 http://h/mqtt"},
		{"ws://u:p@h:81/x?q=1", "ws h:81 http://h:81/x?q=1"},
		{"wss://h", "wss h:443 https://h/mqtt"},
		{"unix:///run/m.sock", "unix /run/m.sock"},
		{"unix:m.sock", "unix m.sock"},
		{"unix://run/m.sock", "!three slashes"},
		{"unix://", "!no path"},
		{"http://h", `!unknown scheme "http"`},
		{"h:1883", `!unknown scheme "h"`},
		{"mqtt://", "!has no host"},
		{"mqtt://:1883", "!has no host"},
	} {
		got, err := parseTarget(parseURL(t, tt.url))
		text := got.network + " " + got.address
		if got.url != nil {
			text += " " + got.url.String()
		}
		if part, bad := strings.CutPrefix(tt.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %v, want %q", tt.url, err, part)
			}
		} else if err != nil || text != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.url, text, err, tt.want)
		}
	}
}

func TestDialErrorsHidePasswords(t *testing.T) {
	for _, s := range []string{"http://u:secret@h", "mqtt://u:secret@127.0.0.1:1", "ws://u:secret@127.0.0.1:1"} {
		_, err := Dial(testContext(t), parseURL(t, s), DialConfig{})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", s, err)
		}
	}
	_, err := Dial(testContext(t), parseURL(t, "mqtt://192.0.2.1"), DialConfig{Proxy: parseURL(t, "http://u:secret@127.0.0.1:1")})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestDialUnverifiedServer(t *testing.T) {
	ca, stranger := newAuthority(t, "ca"), newAuthority(t, "stranger")
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}})
	_, err := dialTo(t, l, DialConfig{TLS: clientTLS(stranger)})
	wantError(t, err, "TLS handshake")
	_, err = dialTo(t, l, DialConfig{})
	wantError(t, err, "TLS handshake")
	wrongName := clientTLS(ca)
	wrongName.ServerName = "example.net"
	_, err = dialTo(t, l, DialConfig{TLS: wrongName})
	wantError(t, err, "example.net")
	noName := clientTLS(ca)
	noName.ServerName = "" // then the host of the URL counts: 127.0.0.1
	if _, err := dialTo(t, l, DialConfig{TLS: noName}); err != nil {
		t.Error(err)
	}
	if noName.ServerName != "" {
		t.Error("the caller's TLS settings were changed")
	}
}

// TestDialEnds: the context ends a dial to a server that says nothing.
func TestDialEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	address := silent.Addr().String()
	for _, tt := range []struct {
		url string
		cfg DialConfig
	}{
		{"mqtts://" + address, DialConfig{}},
		{"ws://" + address, DialConfig{}},
		{"mqtt://192.0.2.1", DialConfig{Proxy: parseURL(t, "http://"+address)}},
		{"mqtt://192.0.2.1", DialConfig{Proxy: parseURL(t, "https://"+address)}},
		{"mqtt://192.0.2.1", DialConfig{Proxy: parseURL(t, "socks5://"+address)}},
	} {
		ctx, cancel := context.WithCancel(testContext(t))
		ended := make(chan error, 1)
		go func() {
			_, err := Dial(ctx, parseURL(t, tt.url), tt.cfg)
			ended <- err
		}()
		c, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", tt.url, err)
		}
		c.Close()

		tt.cfg.Timeout = 1
		if _, err := Dial(testContext(t), parseURL(t, tt.url), tt.cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, time-out: %v", tt.url, err)
		}
	}
}

// TestDialContextIsForDiallingOnly: the connection outlives it.
func TestDialContextIsForDiallingOnly(t *testing.T) {
	l := open(t, Config{Network: WS})
	ctx, cancel := context.WithCancel(testContext(t))
	c, err := Dial(ctx, parseURL(t, "ws://"+l.Addr().String()), DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	server := accept(t, l)
	send(t, c, server, "a")
	send(t, server, c, "b")
}

func TestDialTellsWhatTheServerSaid(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "closed on\x1b[2J Sundays", http.StatusTeapot)
	}))
	defer s.Close()
	_, err := Dial(testContext(t), parseURL(t, "ws://"+s.Listener.Addr().String()), DialConfig{})
	wantError(t, err, `server says "closed on\x1b[2J Sundays"`)
}

func TestDialFollowsNoRedirect(t *testing.T) {
	s := httptest.NewServer(http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	defer s.Close()
	_, err := Dial(testContext(t), parseURL(t, "ws://"+s.Listener.Addr().String()), DialConfig{})
	wantError(t, err, "302")
}

// TestDialNeedsSubprotocol: a server of something else is not taken for MQTT.
func TestDialNeedsSubprotocol(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	defer s.Close()
	_, err := Dial(testContext(t), parseURL(t, "ws://"+s.Listener.Addr().String()), DialConfig{})
	wantError(t, err, "does not speak the WebSocket subprotocol mqtt")
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestDialHeader(t *testing.T) {
	got := make(chan *http.Request, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer s.Close()
	Dial(testContext(t), parseURL(t, "ws://user:password@"+s.Listener.Addr().String()), DialConfig{Header: http.Header{"X-Key": {"v"}, "Host": {"other.example.com"}}})
	r := <-got
	if r.Header.Get("X-Key") != "v" || r.Host != "other.example.com" || r.URL.Path != "/mqtt" {
		t.Errorf("request %s %s %v", r.Host, r.URL, r.Header)
	}
	if a := r.Header.Get("Authorization"); a != "" {
		t.Errorf("MQTT's password was sent to HTTP: %s", a)
	}
}

func TestBypass(t *testing.T) {
	for _, tt := range []struct {
		address, list string
		want          bool
	}{
		{"broker.example.com:1883", "", false},
		{"localhost:1883", "", true},
		{"127.0.0.5:1883", "", true},
		{"[::1]:1883", "", true},
		{"broker.example.com:1883", "*", true},
		{"broker.example.com:1883", "example.com", true},
		{"broker.example.com:1883", ".example.com", true},
		{"broker.example.com:1883", "*.example.com", true},
		{"BROKER.Example.com.:1883", " Example.COM ", true},
		{"example.com:1883", "example.com", true},
		{"notexample.com:1883", "example.com", false},
		{"broker.example.com:1883", "example.com:1883", true},
		{"broker.example.com:1883", "example.com:8883", false},
		{"10.1.2.3:1883", "10.0.0.0/8", true},
		{"11.1.2.3:1883", "10.0.0.0/8", false},
		{"192.0.2.1:1883", "192.0.2.1", true},
		{"192.0.2.1:1883", "192.0.2.1:1883", true},
		{"[2001:db8::1]:1883", "2001:db8::1", true},
		{"[2001:db8::1]:1883", "[2001:db8::1]:1883", true},
		{"[2001:db8::1]:1883", "2001:db8::/32", true},
		{"broker.example.com:1883", "other.net,, .", false},
		{"broker.example.com:1883", "other.net,example.com", true},
	} {
		host, _, _ := net.SplitHostPort(tt.address)
		if got := bypass(host, tt.address, tt.list); got != tt.want {
			t.Errorf("%s with %q: %v", tt.address, tt.list, got)
		}
	}
}

func TestProxyFromEnvironment(t *testing.T) {
	for _, tt := range []struct{ network, env, want string }{
		{TCP, "", ""},
		{TCP, "HTTP_PROXY=http://a HTTPS_PROXY=http://b", ""},
		{TCP, "ALL_PROXY=socks5://p:1", "socks5://p:1"},
		{TLS, "all_proxy=socks5h://p", "socks5h://p"},
		{WS, "HTTP_PROXY=http://a HTTPS_PROXY=http://b ALL_PROXY=http://c", "http://a"},
		{WSS, "HTTP_PROXY=http://a https_proxy=b:3128 ALL_PROXY=http://c", "http://b:3128"},
		{WSS, "HTTP_PROXY=http://a ALL_PROXY=http://c", "http://c"},
		{WSS, "HTTPS_PROXY=http://a NO_PROXY=example.com", ""},
		{WSS, "HTTPS_PROXY=ftp://a", `!unknown scheme "ftp"`},
		{WSS, "HTTPS_PROXY=http://", "!has no host"},
		{WSS, "HTTPS_PROXY=http://u:secret@[", "!not a URL"},
	} {
		t.Run(tt.network+" "+tt.env, func(t *testing.T) {
			clearProxies(t)
			for setting := range strings.FieldsSeq(tt.env) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv(name, value)
			}
			u, err := new(DialConfig).proxy(target{network: tt.network, host: "broker.example.com", address: "broker.example.com:1"})
			if part, bad := strings.CutPrefix(tt.want, "!"); bad {
				wantError(t, err, part)
				if strings.Contains(err.Error(), "secret") {
					t.Error(err)
				}
				return
			}
			got := ""
			if u != nil {
				got = u.String()
			}
			if err != nil || got != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
	t.Setenv("ALL_PROXY", "socks5://p")
	if u, err := (&DialConfig{Direct: true}).proxy(target{network: TCP, host: "h"}); u != nil || err != nil {
		t.Errorf("direct: %v, %v", u, err)
	}
}

func clearProxies(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

// fakeProxy runs answer for each connection and ends with the test.
func fakeProxy(t *testing.T, answer func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				answer(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// splice connects two connections until both have ended.
func splice(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(p[0], p[1])
			p[0].Close()
			p[1].Close()
		})
	}
	wg.Wait()
}

// connectProxy is an HTTP proxy that leads every name to address.
func connectProxy(t *testing.T, address string, asked chan<- *http.Request) string {
	return fakeProxy(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			t.Error(err)
			return
		}
		asked <- r
		up, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
		splice(c, up)
	})
}

func TestHTTPProxy(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsCfg := &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server", "broker.test")}}
	for _, tt := range []struct {
		cfg  Config
		url  string
		asks string
	}{
		{Config{Network: TCP}, "mqtt://broker.test", "broker.test:1883"},
		{Config{Network: TLS, TLS: tlsCfg}, "mqtts://broker.test", "broker.test:8883"},
		{Config{Network: WS}, "ws://broker.test", "broker.test:80"},
		{Config{Network: WSS, TLS: tlsCfg}, "wss://broker.test", "broker.test:443"},
	} {
		t.Run(tt.cfg.Network, func(t *testing.T) {
			l := open(t, tt.cfg)
			asked := make(chan *http.Request, 1)
			proxy := parseURL(t, "http://user:pass@"+connectProxy(t, l.Addr().String(), asked))
			dial := clientTLS(ca)
			dial.ServerName = "" // the URL's host, not the proxy's
			client, err := Dial(testContext(t), parseURL(t, tt.url), DialConfig{Proxy: proxy, TLS: dial})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server := accept(t, l)
			send(t, client, server, "to the server")
			send(t, server, client, "to the client")
			r := <-asked
			if r.Method != http.MethodConnect || r.Host != tt.asks {
				t.Errorf("proxy was asked %s %s, want CONNECT %s", r.Method, r.Host, tt.asks)
			}
			want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))
			if got := r.Header.Get("Proxy-Authorization"); got != want {
				t.Errorf("authorization %q, want %q", got, want)
			}
			if tt.cfg.Network == TCP {
				if _, err := client.(*Conn).SyscallConn(); err != nil {
					t.Error(err) // nothing was read beyond the answer
				}
			}
		})
	}
}

func TestHTTPProxyRefuses(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n": "no tunnel to 192.0.2.1:1883: status 407",
		"nonsense\r\n\r\n":    "malformed",
		"HTTP/1.1 200 OK\r\n": "unexpected EOF",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20000): "no end within",
	} {
		proxy := fakeProxy(t, func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, answer)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		})
		_, err := Dial(testContext(t), parseURL(t, "mqtt://192.0.2.1"), DialConfig{Proxy: &url.URL{Scheme: "http", Host: proxy}})
		wantError(t, err, want)
	}
}

// TestHTTPSProxy: the proxy is not known to the system's authorities, so all
// that can be shown here is that it is checked.
func TestHTTPSProxy(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	s.Config.ErrorLog = nil
	_, err := Dial(testContext(t), parseURL(t, "mqtt://192.0.2.1"), DialConfig{Proxy: parseURL(t, s.URL)})
	wantError(t, err, "certificate")
}

// socksProxy speaks just enough SOCKS5, and leads everything to address.
func socksProxy(t *testing.T, address string, asked chan<- string) string {
	return fakeProxy(t, func(c net.Conn) {
		hello := make([]byte, 2)
		io.ReadFull(c, hello)
		methods := make([]byte, hello[1])
		io.ReadFull(c, methods)
		log := fmt.Sprintf("%x", methods)
		if strings.Contains(string(methods), "\x02") {
			c.Write([]byte{5, 2})
			log += fmt.Sprintf(" %q", readSOCKSLogin(c))
			c.Write([]byte{1, 0})
		} else {
			c.Write([]byte{5, 0})
		}
		head := make([]byte, 5)
		io.ReadFull(c, head)
		n := map[byte]int{1: 3, 3: int(head[4]), 4: 15}[head[3]]
		rest := make([]byte, n+2)
		io.ReadFull(c, rest)
		asked <- fmt.Sprintf("%s %x %q", log, head[:4], string(head[4])+string(rest))
		up, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write([]byte{5, 0, 0, 3, 4, 'n', 'a', 'm', 'e', 0, 99}) // bound to a name, of all things
		splice(c, up)
	})
}

func readSOCKSLogin(c net.Conn) []string {
	head := make([]byte, 2)
	io.ReadFull(c, head)
	user := make([]byte, head[1])
	io.ReadFull(c, user)
	io.ReadFull(c, head[:1])
	password := make([]byte, head[0])
	io.ReadFull(c, password)
	return []string{string(user), string(password)}
}

func TestSOCKS5(t *testing.T) {
	for _, tt := range []struct{ url, user, asks string }{
		{"mqtt://broker.test", "", `00 05010003 "\vbroker.test\a["`},
		{"ws://broker.test", "", `00 05010003 "\vbroker.test\x00P"`},
		{"mqtt://192.0.2.1", "", `00 05010001 "À\x00\x02\x01\a["`},
		{"mqtt://192.0.2.1", "user:pass@", `0002 ["user" "pass"] 05010001 "À\x00\x02\x01\a["`},
		{"mqtt://[2001:db8::1]:1", "", `00 05010004 " \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01"`},
	} {
		t.Run(tt.url+" "+tt.user, func(t *testing.T) {
			u := parseURL(t, tt.url)
			l := open(t, Config{Network: networkOf[u.Scheme]})
			asked := make(chan string, 1)
			proxy := parseURL(t, "socks5://"+tt.user+socksProxy(t, l.Addr().String(), asked))
			client, err := Dial(testContext(t), u, DialConfig{Proxy: proxy})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server := accept(t, l)
			send(t, client, server, "to the server")
			send(t, server, client, "to the client")
			if got := <-asked; got != tt.asks {
				t.Errorf("proxy was asked\n%s, want\n%s", got, tt.asks)
			}
		})
	}
}

// scripted answers questions of any kind with what it was given.
type scripted struct{ io.Reader }

func (scripted) Write(p []byte) (int, error) { return len(p), nil }

func TestSOCKS5Refuses(t *testing.T) {
	login := url.UserPassword("user", "pass")
	for _, tt := range []struct {
		name    string
		user    *url.Userinfo
		answers string
		want    string
	}{
		{"version 4", nil, "\x04\x5a", "speaks version 4"},
		{"no way", nil, "\x05\xff", "a way that we do not know"},
		{"password not offered", nil, "\x05\x02", "a way that we do not know"},
		{"password refused", login, "\x05\x02\x01\x01", "user or password refused"},
		{"long user", url.User(strings.Repeat("u", 256)), "\x05\x02", "longer than 255"},
		{"not allowed", nil, "\x05\x00\x05\x02\x00\x01\x00", "not allowed by its rules"},
		{"unknown status", nil, "\x05\x00\x05\x63\x00\x01\x00", "status 99"},
		{"version in the reply", nil, "\x05\x00\x04\x00\x00\x01\x00", "speaks version 4"},
		{"address type", nil, "\x05\x00\x05\x00\x00\x07\x00", "unknown type of address 7"},
		{"truncated hello", nil, "\x05", "unexpected EOF"},
		{"truncated reply", nil, "\x05\x00\x05\x00\x00\x01\x00\x00", "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := connectSOCKS5(scripted{strings.NewReader(tt.answers)}, tt.user, "h:1")
			wantError(t, err, tt.want)
		})
	}
	err := connectSOCKS5(scripted{strings.NewReader("")}, nil, strings.Repeat("h", 256)+":1")
	wantError(t, err, "longer than 255")
}

// TestSOCKS5ReadsExactly: what follows the reply stays in the socket.
func TestSOCKS5ReadsExactly(t *testing.T) {
	for _, bound := range []string{
		"\x01\x7f\x00\x00\x01\x00\x50", "\x03\x00\x00\x50", "\x03\x01a\x00\x50",
		"\x04" + strings.Repeat("\x00", 16) + "\x00\x50",
	} {
		r := strings.NewReader("\x05\x00\x05\x00\x00" + bound + "next")
		if err := connectSOCKS5(scripted{r}, nil, "h:1"); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "next" {
			t.Errorf("%q: left %q unread", bound, rest)
		}
	}
}
