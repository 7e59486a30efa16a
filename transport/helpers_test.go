package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; none should come near it.
const patience = 20 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	a := &authority{key: newKey(t)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns certificate and key as PEM; edit completes the template.
func (a *authority) issue(t *testing.T, cn string, edit func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if edit != nil {
		edit(template)
	}
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", raw)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (a *authority) pem() []byte { return pemOf("CERTIFICATE", a.cert.Raw) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// client returns a certificate for the dialling side.
func (a *authority) client(t *testing.T, cn string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(a.issue(t, cn, edit))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serverFiles writes a certificate for localhost (or names) into dir.
func (a *authority) serverFiles(t *testing.T, dir, cn string, names ...string) CertFiles {
	t.Helper()
	f := CertFiles{Cert: filepath.Join(dir, cn+".crt"), Key: filepath.Join(dir, cn+".key")}
	cert, key := a.issue(t, cn, func(c *x509.Certificate) {
		c.DNSNames = append([]string{"localhost"}, names...)
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	})
	replaceFile(t, f.Cert, cert)
	replaceFile(t, f.Key, key)
	return f
}

// replaceFile renames a new file over the old one, as careful tools do.
func replaceFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

var quiet = slog.New(slog.DiscardHandler)

// open starts a listener that ends with the test.
func open(t *testing.T, cfg Config) *Listener {
	t.Helper()
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// accept waits for the next connection of l, which ends with the test.
func accept(t *testing.T, l net.Listener) *Conn {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		got <- result{c, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatal(r.err)
		}
		t.Cleanup(func() { r.c.Close() })
		return r.c.(*Conn)
	case <-time.After(patience):
		t.Fatal("nothing to accept")
		return nil
	}
}

// connect opens a plain socket to l that ends with the test.
func connect(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(l.Addr().Network(), l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// dialTo dials l by its kind, with the path and user that rest says.
func dialTo(t *testing.T, l *Listener, cfg DialConfig) (net.Conn, error) {
	t.Helper()
	u := &url.URL{Scheme: l.Network(), Host: l.Addr().String()}
	if l.Network() == Unix {
		u = &url.URL{Scheme: Unix, Path: l.Addr().String()}
	}
	c, err := Dial(testContext(t), u, cfg)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// pair dials l and returns both ends.
func pair(t *testing.T, l *Listener, cfg DialConfig) (client, server *Conn) {
	t.Helper()
	c, err := dialTo(t, l, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn), accept(t, l)
}

// send writes s to one end and expects it at the other.
func send(t *testing.T, from, to net.Conn, s string) {
	t.Helper()
	errc := make(chan error, 1)
	go func() {
		_, err := io.WriteString(from, s)
		errc <- err
	}()
	expect(t, to, s)
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly s.
func expect(t *testing.T, c net.Conn, s string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, len(s))
	n, err := io.ReadFull(c, b)
	if err != nil || string(b) != s {
		t.Fatalf("read %.80q, %v; want %.80q", b[:n], err, s)
	}
}

// expectEnd reads until the peer has ended the connection, in whatever way.
func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("connection is still open")
	}
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want one with %q", err, text)
	}
}
