package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// site is a broker that listens in every way there is, and what its clients need to know.
type site struct {
	*broker.Broker
	urls     map[string]string // by name of the listener
	trusting *tls.Config
	known    *tls.Config // the same with a client certificate

	mu    sync.Mutex
	users map[string]bool // listener and user of everybody who has connected
}

// the users of a site, and what they log in with.
const (
	plainUser   = "plain" // without a password
	scramUser   = "sc,ra=m"
	scramSecret = "pencil"
)

// newSite starts one that ends with the test.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "mq") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	keys, err := auth.NewScramKeys(scramSecret, 4096)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{urls: make(map[string]string), users: make(map[string]bool)}
	s.Broker, err = broker.New(broker.Config{
		Authenticator: auth.Chain{auth.Certificate{}, auth.Static{plainUser: "secret"}},
		Enhanced:      []broker.EnhancedAuthenticator{auth.NewScram(func(user string) (auth.ScramKeys, bool) { return keys, user == scramUser }, nil)},
		Events:        broker.Events{Connected: func(c *broker.ClientInfo) { s.note(c.Listener + " " + c.User) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.listen(t, dir)
	return s
}

func (s *site) note(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[who] = true
}

// had reports whether somebody has connected as that user to that listener.
func (s *site) had(listener, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[listener+" "+user]
}

func (s *site) listen(t *testing.T, dir string) {
	t.Helper()
	secured, demanding := s.certificates(t, dir)
	local := "127.0.0.1:0"
	var listeners []net.Listener
	for _, cfg := range []transport.Config{
		{Name: "mqtt", Network: transport.TCP, Address: local},
		{Name: "mqtts", Network: transport.TLS, Address: local, TLS: secured},
		{Name: "mutual", Network: transport.TLS, Address: local, TLS: demanding},
		{Name: "ws", Network: transport.WS, Address: local},
		{Name: "wss", Network: transport.WSS, Address: local, TLS: secured},
		{Name: "unix", Network: transport.Unix, Address: filepath.Join(dir, "s")},
	} {
		cfg.Log = slog.New(slog.DiscardHandler)
		ln, err := transport.Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		scheme := strings.Replace(cfg.Name, "mutual", "mqtts", 1)
		s.urls[cfg.Name] = scheme + "://" + strings.Replace(ln.Addr().String(), "127.0.0.1", "localhost", 1)
		listeners = append(listeners, ln)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(context.Background(), listeners...) })
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		served.Wait()
	})
}

// certificates makes those of an authority, the server and a client.
func (s *site) certificates(t *testing.T, dir string) (secured, demanding *transport.TLSConfig) {
	t.Helper()
	ca := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	server := issue(t, &x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &ca)
	client := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "bin-7"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, &ca)
	file := func(name, kind string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files := []transport.CertFiles{{Cert: file("cert", "CERTIFICATE", server.Certificate[0]), Key: file("key", "PRIVATE KEY", key)}}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	s.trusting = &tls.Config{RootCAs: roots}
	s.known = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}}
	return &transport.TLSConfig{Certificates: files}, &transport.TLSConfig{
		Certificates: files, ClientCA: file("ca", "CERTIFICATE", ca.Certificate[0]), ClientAuth: transport.RequireClientCert,
	}
}

// issue makes a certificate, signed by an authority or by itself.
func issue(t *testing.T, c *x509.Certificate, by *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1+rand.Int64N(1<<60)), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(crand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestEverySchemeAndProxy: two clients exchange messages of QoS 1 and 2 in every way to reach a broker and to log in, over links that break:
// nothing is lost, QoS 2 comes exactly once, and all of it in order.
func TestEverySchemeAndProxy(t *testing.T) {
	s := newSite(t)
	plain := WithLogin(plainUser, "secret")
	trust, show := WithTLS(s.trusting), WithTLS(s.known)
	tunnel, closed := startProxy(t, connectProxy(""), ""), startProxy(t, connectProxy("user:pass word"), "user:pass word")
	socks, closedSocks := startProxy(t, socksProxy(""), ""), startProxy(t, socksProxy("user:pass word"), "user:pass word")
	for _, w := range []struct {
		name  string
		at    string // the listener
		user  string // that the broker must see
		proxy *proxy
		opts  []Option
		scram bool // MQTT 5.0 only
	}{
		{name: "mqtt", at: "mqtt", user: plainUser, opts: []Option{plain}},
		{name: "mqtts", at: "mqtts", user: plainUser, opts: []Option{plain, trust}},
		{name: "ws", at: "ws", user: plainUser, opts: []Option{plain}},
		{name: "wss", at: "wss", user: plainUser, opts: []Option{plain, trust}},
		{name: "unix", at: "unix", user: plainUser, opts: []Option{plain}},
		{name: "same program", user: plainUser, opts: []Option{plain}},
		{name: "client certificate", at: "mutual", user: "bin-7", opts: []Option{show}},
		{name: "SCRAM", at: "mqtt", user: scramUser, scram: true},
		{name: "SCRAM over wss", at: "wss", user: scramUser, opts: []Option{trust}, scram: true},
		{name: "mqtt by CONNECT", at: "mqtt", user: plainUser, proxy: tunnel, opts: []Option{plain}},
		{name: "mqtts by CONNECT with a password", at: "mqtts", user: plainUser, proxy: closed, opts: []Option{plain, trust}},
		{name: "wss by CONNECT", at: "wss", user: plainUser, proxy: tunnel, opts: []Option{plain, trust}},
		{name: "mqtt by SOCKS5", at: "mqtt", user: plainUser, proxy: socks, opts: []Option{plain}},
		{name: "ws by SOCKS5 with a password", at: "ws", user: plainUser, proxy: closedSocks, opts: []Option{plain}},
		{name: "client certificate by SOCKS5", at: "mutual", user: "bin-7", proxy: socks, opts: []Option{show}},
	} {
		for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			if w.scram && v != mqtt.V5 {
				continue
			}
			t.Run(w.name+"/"+v.String(), func(t *testing.T) {
				link := newLink(t, new(net.Dialer).DialContext, 60)
				link.handshake = 3000
				url := s.urls[w.at]
				if w.at == "" {
					var inside settings
					WithBroker(s.Broker)(&inside)
					link.dial, url = inside.cfg.Transport.Dialer, "mqtt://here"
				}
				opts := append([]Option{WithDialer(link.connect), WithVersion(v)}, w.opts...)
				each := func() []Option {
					if !w.scram {
						return opts
					}
					return append(opts[:len(opts):len(opts)], WithExchange(Scram(scramUser, scramSecret)))
				}
				before := 0
				if w.proxy != nil {
					opts = append(opts, WithProxy(w.proxy.url))
					before = w.proxy.tunnels()
				}
				exchange(t, link, url, func(clients [2]*Client) {
					if w.scram {
						reauthenticate(t, clients)
					}
				}, each)
				if !s.had(w.at, w.user) {
					t.Errorf("nobody was seen as %q at %q", w.user, w.at)
				}
				if w.proxy != nil && w.proxy.tunnels() == before {
					t.Error("the proxy was passed by")
				}
			})
		}
	}
}

// newLink makes one that will be cut so often.
func newLink(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), cuts int) *badLink {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return &badLink{dial: dial, rand: rand.New(rand.NewPCG(seed, 0)), left: cuts}
}

// reauthenticate proves who the clients are once more. One connection each may still be cut.
func reauthenticate(t *testing.T, clients [2]*Client) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range clients {
		err := c.Reauthenticate(ctx)
		for err != nil && ctx.Err() == nil {
			err = c.Reauthenticate(ctx)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestLoginRefused: a client with wrong credentials is told so by every way to log in, goes on rarely, and gets in when they are right.
func TestLoginRefused(t *testing.T) {
	s := newSite(t)
	for name, w := range map[string]struct {
		at   string
		opts []Option
	}{
		"password":       {"ws", []Option{WithLogin(plainUser, "wrong")}},
		"nobody":         {"mqtts", nil},
		"SCRAM password": {"mqtt", []Option{WithExchange(Scram(scramUser, "wrong"))}},
		"SCRAM user":     {"wss", []Option{WithExchange(Scram("nobody", scramSecret))}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := append(w.opts, WithTLS(s.trusting))
			_, err := Dial(t.Context(), s.urls[w.at], opts...)
			isServerError(t, err, mqtt.CONNACK, mqtt.BadUserNameOrPassword)
			told := make(chan time.Duration, 1)
			c, err := Dial(t.Context(), s.urls[w.at], append(opts, WithLazyConnect(), WithBackoff(time.Minute, time.Hour), OnRetry(func(err error, wait time.Duration) {
				isServerError(t, err, mqtt.CONNACK, mqtt.BadUserNameOrPassword)
				told <- wait
			}))...)
			if err != nil {
				t.Fatal(err)
			}
			if wait := <-told; wait != time.Hour {
				t.Errorf("the next attempt is in %v", wait)
			}
			closeNow(t, c)
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		_, err := Dial(t.Context(), s.urls["mutual"], WithTLS(s.trusting))
		if err == nil {
			t.Error("let in")
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		_, err := Dial(t.Context(), s.urls["mqtts"], WithLogin(plainUser, "secret"))
		var unknown *tls.CertificateVerificationError
		if !errors.As(err, &unknown) {
			t.Error(err)
		}
	})
	t.Run("the right one later", func(t *testing.T) {
		password := "wrong"
		c, err := Dial(t.Context(), s.urls["mqtt"], WithLazyConnect(), WithBackoff(time.Millisecond, time.Millisecond),
			WithLoginFunc(func(context.Context) (string, []byte, error) {
				now := password
				password = "secret"
				return plainUser, []byte(now), nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Publish(t.Context(), "a", nil); err != nil {
			t.Error(err)
		}
		closeNow(t, c)
	})
}

// TestProxyRefuses: what a proxy refuses is a typed error, and credentials that it refuses are tried as rarely as those of the server.
func TestProxyRefuses(t *testing.T) {
	s := newSite(t)
	closed, socks := startProxy(t, connectProxy("user:secret"), ""), startProxy(t, socksProxy("user:secret"), "")
	for name, tc := range map[string]struct {
		proxy string
		at    string
		login bool // it is about user and password
	}{
		"CONNECT without a password": {closed.url, "mqtt", true},
		"CONNECT, the wrong one":     {strings.Replace(closed.url, "://", "://user:wrong@", 1), "wss", true},
		"CONNECT to a closed port":   {strings.Replace(closed.url, "://", "://user:secret@", 1), "nowhere", false},
		"SOCKS5 without a password":  {socks.url, "mqtts", true},
		"SOCKS5, the wrong one":      {strings.Replace(socks.url, "://", "://user:wrong@", 1), "ws", true},
		"SOCKS5 to a closed port":    {strings.Replace(socks.url, "://", "://user:secret@", 1), "nowhere", false},
		"no proxy there":             {"socks5://" + closedPort(t), "mqtt", false},
	} {
		t.Run(name, func(t *testing.T) {
			url := s.urls[tc.at]
			if url == "" {
				url = "mqtt://" + closedPort(t)
			}
			opts := []Option{WithProxy(tc.proxy), WithTLS(s.trusting), WithLogin(plainUser, "secret")}
			_, err := Dial(t.Context(), url, opts...)
			var refused *transport.ProxyError
			if !errors.As(err, &refused) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong") {
				t.Fatal(err)
			}
			if errors.Is(err, transport.ErrProxyLogin) != tc.login {
				t.Error(err)
			}
			told := make(chan time.Duration, 1)
			c, err := Dial(t.Context(), url, append(opts, WithLazyConnect(), WithBackoff(time.Minute, time.Hour), OnRetry(func(err error, wait time.Duration) {
				told <- wait
			}))...)
			if err != nil {
				t.Fatal(err)
			}
			want := time.Minute
			if tc.login {
				want = time.Hour
			}
			if wait := <-told; wait != want {
				t.Errorf("the next attempt is in %v, want %v", wait, want)
			}
			closeNow(t, c)
		})
	}
	for _, bad := range []string{"http://%zz", "ftp://proxy", "http://"} {
		var wrong *ConfigError
		if _, err := Dial(t.Context(), s.urls["mqtt"], WithProxy(bad), WithLazyConnect()); !errors.As(err, &wrong) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return fmt.Sprint(ln.Addr())
}
