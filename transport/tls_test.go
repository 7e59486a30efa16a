package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func clientTLS(ca *authority, certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", Certificates: certs}
}

// servedName dials and returns the common name of the server's certificate.
func servedName(t *testing.T, l *Listener, cfg *tls.Config) string {
	t.Helper()
	client, server := pair(t, l, DialConfig{TLS: cfg})
	send(t, client, server, "x")
	defer client.Close()
	return client.Info().TLS.PeerCertificates[0].Subject.CommonName
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}})
	client, server := pair(t, l, DialConfig{TLS: clientTLS(ca)})
	send(t, client, server, strings.Repeat("to the server", 5000))
	send(t, server, client, strings.Repeat("to the client", 5000))
	if s := server.Info().TLS; s == nil || s.Version != tls.VersionTLS13 {
		t.Errorf("state %v", s)
	}
	if _, err := server.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("raw access under TLS: %v", err)
	}
	server.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("after Close the client reads %v, want EOF", err)
	}
}

func TestTLSVersions(t *testing.T) {
	ca := newAuthority(t, "ca")
	files := []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}
	for _, tt := range []struct {
		min, client uint16
		ok          bool
	}{
		{0, tls.VersionTLS11, false},
		{0, tls.VersionTLS12, true},
		{0, tls.VersionTLS13, true},
		{tls.VersionTLS13, tls.VersionTLS12, false},
		{tls.VersionTLS13, tls.VersionTLS13, true},
	} {
		l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: files, MinVersion: tt.min}})
		cfg := clientTLS(ca)
		cfg.MinVersion, cfg.MaxVersion = tt.client, tt.client
		_, err := dialTo(t, l, DialConfig{TLS: cfg})
		if (err == nil) != tt.ok {
			t.Errorf("minimum %s, client %s: %v", tls.VersionName(tt.min), tls.VersionName(tt.client), err)
		}
	}
}

func TestPlainTextToTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{ca.serverFiles(t, t.TempDir(), "server")}}})
	client := connect(t, l)
	client.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"))
	expectEnd(t, client)
}

func TestSNI(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{
		ca.serverFiles(t, dir, "first"), ca.serverFiles(t, dir, "second", "b.example.com"),
	}}})
	for name, want := range map[string]string{"localhost": "first", "b.example.com": "second"} {
		cfg := clientTLS(ca)
		cfg.ServerName = name
		if got := servedName(t, l, cfg); got != want {
			t.Errorf("%s: served %s, want %s", name, got, want)
		}
	}
	unknown := clientTLS(ca)
	unknown.ServerName, unknown.InsecureSkipVerify = "c.example.com", true
	if got := servedName(t, l, unknown); got != "first" {
		t.Errorf("unknown name: served %s, want first", got)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, stranger, dir := newAuthority(t, "ca"), newAuthority(t, "stranger"), t.TempDir()
	files := []CertFiles{ca.serverFiles(t, dir, "server")}
	caFile := filepath.Join(dir, "ca.crt")
	replaceFile(t, caFile, ca.pem())
	good := ca.client(t, "device-1", func(c *x509.Certificate) {
		c.DNSNames = []string{"d1.example.com", "other"}
		c.EmailAddresses = []string{"d1@example.com"}
		c.URIs = []*url.URL{{Scheme: "urn", Opaque: "device:1"}}
	})
	for _, tt := range []struct {
		name string
		auth ClientAuth
		cert []tls.Certificate
		want map[string]string // by Identity; nil: refused
	}{
		{"none", NoClientCert, []tls.Certificate{good}, map[string]string{"cn": ""}},
		{"request, shown", RequestClientCert, []tls.Certificate{good},
			map[string]string{"cn": "device-1", "dns": "d1.example.com", "email": "d1@example.com", "uri": "urn:device:1", "": "", "CN": ""}},
		{"request, not shown", RequestClientCert, nil, map[string]string{"cn": ""}},
		{"request, of a stranger", RequestClientCert, []tls.Certificate{stranger.client(t, "device-1", nil)}, nil},
		{"require, shown", RequireClientCert, []tls.Certificate{good}, map[string]string{"cn": "device-1"}},
		{"require, bare", RequireClientCert, []tls.Certificate{ca.client(t, "", nil)}, map[string]string{"cn": "", "dns": "", "email": "", "uri": ""}},
		{"require, not shown", RequireClientCert, nil, nil},
		{"require, of a stranger", RequireClientCert, []tls.Certificate{stranger.client(t, "device-1", nil)}, nil},
		{"require, expired", RequireClientCert, []tls.Certificate{ca.client(t, "device-1", expired)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			cfg := Config{Network: TLS, TLS: &TLSConfig{Certificates: files, ClientAuth: tt.auth}}
			cfg.HandshakeFailed = func(_ net.Addr, err error) { failed <- err }
			if tt.auth != NoClientCert {
				cfg.TLS.ClientCA = caFile
			}
			l := open(t, cfg)
			dial := clientTLS(ca)
			if tt.cert != nil { // also when the server's list of authorities does not match
				dial.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.cert[0], nil }
			}
			// In TLS 1.3 the client is done before the server has judged.
			client, err := dialTo(t, l, DialConfig{TLS: dial})
			if tt.want == nil {
				if err == nil {
					expectEnd(t, client)
				}
				if err := <-failed; !strings.Contains(err.Error(), "TLS handshake") {
					t.Errorf("reported %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info := accept(t, l).Info()
			for from, want := range tt.want {
				if got := info.CertIdentity(from); got != want {
					t.Errorf("identity from %q: %q, want %q", from, got, want)
				}
			}
		})
	}
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Minute)
}

func TestCertIdentityNeedsVerification(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"admin"}}
	info := Info{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}
	if got := info.CertIdentity(IdentityDNS); got != "" {
		t.Errorf("unverified certificate gives %q", got)
	}
	if got := (Info{}).CertIdentity(IdentityCN); got != "" {
		t.Errorf("no TLS gives %q", got)
	}
}

func TestMissingFiles(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	good := ca.serverFiles(t, dir, "server")
	other := ca.serverFiles(t, dir, "other")
	empty := filepath.Join(dir, "empty")
	replaceFile(t, empty, nil)
	for _, tt := range []struct {
		cfg  TLSConfig
		want string
	}{
		{TLSConfig{Certificates: []CertFiles{{Cert: "/nowhere.crt", Key: good.Key}}}, "/nowhere.crt"},
		{TLSConfig{Certificates: []CertFiles{{Cert: good.Cert, Key: other.Key}}}, "private key does not match"},
		{TLSConfig{Certificates: []CertFiles{{Cert: empty, Key: good.Key}}}, empty},
		{TLSConfig{Certificates: []CertFiles{good}, ClientAuth: RequireClientCert, ClientCA: "/nowhere.ca"}, "client authority: "},
		{TLSConfig{Certificates: []CertFiles{good}, ClientAuth: RequireClientCert, ClientCA: empty}, "no certificate in " + empty},
	} {
		_, err := Listen(Config{Network: TLS, Address: "127.0.0.1:0", TLS: &tt.cfg})
		wantError(t, err, tt.want)
	}
}

func TestReload(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	files := ca.serverFiles(t, dir, "server")
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{files}}})
	open1, server1 := pair(t, l, DialConfig{TLS: clientTLS(ca)})

	cert, key := ca.issue(t, "renewed", func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	replaceFile(t, files.Cert, cert)
	wantError(t, l.Reload(), "private key does not match")
	if got := servedName(t, l, clientTLS(ca)); got != "server" {
		t.Errorf("after a bad reload: served %s, want the old one", got)
	}
	replaceFile(t, files.Key, key)
	if err := l.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := servedName(t, l, clientTLS(ca)); got != "renewed" {
		t.Errorf("after the reload: served %s", got)
	}
	send(t, open1, server1, "connections that were open stay open")
}

func TestReloadWithoutTLS(t *testing.T) {
	if err := open(t, Config{Network: TCP}).Reload(); err != nil {
		t.Error(err)
	}
}

// follower returns certificates whose clock the test moves, and their log.
func follower(t *testing.T, cfg TLSConfig) (*certs, *bytes.Buffer, *time.Time) {
	t.Helper()
	log, now := new(bytes.Buffer), time.Unix(1e9, 0)
	c, err := newCerts(cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return now }
	c.looked = now
	return c, log, &now
}

func (c *certs) name() string { return c.current.Load().Certificates[0].Leaf.Subject.CommonName }

// TestFollowFiles: looks at most once a second, keeps the old after a bad
// change and logs that once, takes the next good one.
func TestFollowFiles(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	files := ca.serverFiles(t, dir, "server")
	c, log, now := follower(t, TLSConfig{Certificates: []CertFiles{files}})
	step := func(d time.Duration, wantName string, wantErrors int) {
		t.Helper()
		*now = now.Add(d)
		c.follow()
		if got := c.name(); got != wantName {
			t.Fatalf("serving %s, want %s", got, wantName)
		}
		if got := strings.Count(log.String(), "level=ERROR"); got != wantErrors {
			t.Fatalf("%d errors logged, want %d:\n%s", got, wantErrors, log)
		}
	}
	seen := c.current.Load()
	step(time.Second, "server", 0)
	if c.current.Load() != seen {
		t.Fatal("loaded without a change")
	}
	cert, key := ca.issue(t, "second", nil)
	replaceFile(t, files.Cert, cert)
	step(time.Second-1, "server", 0) // not looked yet
	step(1, "server", 1)             // certificate without its key
	step(time.Second, "server", 1)   // the same trouble is not news
	replaceFile(t, files.Key, key)
	step(time.Second, "second", 1)
	os.Remove(files.Cert)
	step(time.Second, "second", 2)
	step(time.Second, "second", 2)
	replaceFile(t, files.Cert, cert)
	step(time.Second, "second", 2)
}

// TestFollowClientAuthority: the pool follows its file, also for clients that
// would resume a session from before.
func TestFollowClientAuthority(t *testing.T) {
	ca, next, dir := newAuthority(t, "ca"), newAuthority(t, "next"), t.TempDir()
	caFile := filepath.Join(dir, "ca.crt")
	replaceFile(t, caFile, ca.pem())
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{
		Certificates: []CertFiles{ca.serverFiles(t, dir, "server")},
		ClientAuth:   RequireClientCert, ClientCA: caFile,
	}})
	old := clientTLS(ca, ca.client(t, "old", nil))
	old.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	identity := func(cfg *tls.Config) (string, bool) {
		client, server := pair(t, l, DialConfig{TLS: cfg})
		send(t, server, client, "ticket, then this") // the session ticket arrives before
		return server.Info().CertIdentity(IdentityCN), server.Info().TLS.DidResume
	}
	for i, resumed := range []bool{false, true} {
		if name, did := identity(old); name != "old" || did != resumed {
			t.Fatalf("connection %d: %q, resumed %v", i, name, did)
		}
	}
	replaceFile(t, caFile, next.pem())
	if err := l.Reload(); err != nil {
		t.Fatal(err)
	}
	if name, _ := identity(clientTLS(ca, next.client(t, "new", nil))); name != "new" {
		t.Errorf("client of the new authority is %q", name)
	}
	if client, err := dialTo(t, l, DialConfig{TLS: old}); err == nil {
		expectEnd(t, client)
		select {
		case a := <-l.ready:
			a.conn.Close()
			t.Error("client of the old authority was let in")
		default:
		}
	}
}

// TestReloadUnderLoad (A20): connections come in while good and bad files
// change places; each is served by a certificate that was good.
func TestReloadUnderLoad(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	files := ca.serverFiles(t, dir, "server")
	l := open(t, Config{Network: TLS, TLS: &TLSConfig{Certificates: []CertFiles{files}}})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for range 15 {
				c, err := dialTo(t, l, DialConfig{TLS: clientTLS(ca)})
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			}
		})
	}
	served := make(chan int)
	go func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				served <- n
				return
			}
			n++
			c.Close()
		}
	}()
	good, goodKey := ca.issue(t, "renewed", func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	for i := range 30 {
		replaceFile(t, files.Cert, []byte("nonsense"))
		wantError(t, l.Reload(), files.Cert)
		replaceFile(t, files.Cert, good)
		replaceFile(t, files.Key, goodKey)
		if err := l.Reload(); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
	}
	clients.Wait()
	l.Close()
	if n := <-served; n == 0 {
		t.Error("nobody was served")
	}
}
