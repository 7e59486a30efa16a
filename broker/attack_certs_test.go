package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// attackCerts are an authority and the files of a listener that it signed.
type attackCerts struct {
	t         testing.TB
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	files     transport.CertFiles
	ca        string // file of the authority
	serial    int64
}

func newAttackCerts(t testing.TB) *attackCerts {
	t.Helper()
	dir := t.TempDir()
	c := &attackCerts{t: t, ca: filepath.Join(dir, "ca.crt")}
	c.files = transport.CertFiles{Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key")}
	c.key = c.newKey()
	template := c.template("authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &c.key.PublicKey, c.key)
	if err == nil {
		c.authority, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.write(c.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c.renew()
	return c
}

func (c *attackCerts) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	return key
}

func (c *attackCerts) template(name string) *x509.Certificate {
	c.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

// issue returns a new certificate and its key as PEM.
func (c *attackCerts) issue(name string) (cert, key []byte) {
	k := c.newKey()
	der, err := x509.CreateCertificate(rand.Reader, c.template(name), c.authority, &k.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		c.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// renew writes a new certificate and key for the listener.
func (c *attackCerts) renew() {
	cert, key := c.issue("localhost")
	c.write(c.files.Cert, cert)
	c.write(c.files.Key, key)
}

func (c *attackCerts) write(name string, data []byte) {
	if err := os.WriteFile(name, data, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *attackCerts) read(name string) []byte {
	data, err := os.ReadFile(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

func (c *attackCerts) config() *transport.TLSConfig {
	return &transport.TLSConfig{Certificates: []transport.CertFiles{c.files}}
}

func (c *attackCerts) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.authority)
	return pool
}

// TestA20ReloadUnderLoad: certificates, keys and the authority of clients are reloaded again and again, mostly broken
// (empty, cut, foreign, gone), while clients come and go. A reload that fails says so and changes nothing: no
// handshake fails, no connection ends, and at no moment is a client without certificate let in.
func TestA20ReloadUnderLoad(t *testing.T) {
	certs := newAttackCerts(t)
	cfg := certs.config()
	cfg.ClientCA, cfg.ClientAuth = certs.ca, transport.RequireClientCert
	secure := attackListen(t, transport.Config{Name: "tls", Network: transport.TLS, TLS: cfg})
	a := newArena(t, broker.Config{}, secure)
	own, err := tls.X509KeyPair(certs.issue("device"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: certs.pool(), ServerName: "localhost", Certificates: []tls.Certificate{own}}
	stays, err := tls.Dial("tcp", secure.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	old := newFoe(t, stays, mqtt.V5)
	old.connect(hello(mqtt.V5, "a20-old"))

	stop, served := make(chan struct{}), make(chan struct{})
	var load sync.WaitGroup
	for i := range 3 {
		load.Go(func() { tlsLoad(t, secure.Addr().String(), config, fmt.Sprint("a20-", i), served, stop) })
	}
	load.Go(func() { tlsStrangers(t, secure.Addr().String(), certs.pool(), stop) })
	for range 3 {
		certs.breakFiles(secure, served)
		certs.renew()
		if err := secure.Reload(); err != nil {
			t.Errorf("reload of good files: %v", err)
		}
		old.alive("a connection from before")
	}
	close(stop)
	load.Wait()

	now, err := tls.Dial("tcp", secure.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if serial := now.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != certs.serial {
		t.Errorf("the listener shows certificate %d, the newest is %d", serial, certs.serial)
	}
	if n := a.broker.Stats().Sessions; n < 3 {
		t.Errorf("%d sessions at the end", n)
	}
}

// breakFiles breaks each file in each way, reloads, waits until one more client was served, and mends it.
func (c *attackCerts) breakFiles(ln *transport.Listener, served <-chan struct{}) {
	_, foreign := c.issue("foreign")
	for _, name := range []string{c.files.Cert, c.files.Key, c.ca} {
		good := c.read(name)
		for what, bad := range map[string][]byte{"empty": nil, "cut": good[:len(good)/2], "foreign": foreign, "text": []byte("hello\n")} {
			c.write(name, bad)
			if err := ln.Reload(); err == nil {
				c.t.Errorf("%s is %s, and the reload said nothing", filepath.Base(name), what)
			}
			select {
			case <-served:
			case <-time.After(attackPatience):
				c.t.Fatalf("nobody is served while %s is %s", filepath.Base(name), what)
			}
		}
		if err := os.Remove(name); err != nil {
			c.t.Fatal(err)
		}
		if err := ln.Reload(); err == nil {
			c.t.Errorf("%s is gone, and the reload said nothing", filepath.Base(name))
		}
		c.write(name, good)
	}
}

// tlsLoad connects, makes sure of being let in, and leaves, until it is told to stop.
func tlsLoad(t *testing.T, addr string, config *tls.Config, id string, served chan<- struct{}, stop <-chan struct{}) {
	for {
		nc, err := tls.Dial("tcp", addr, config)
		if err != nil {
			t.Errorf("handshake during reloads: %v", err)
			return
		}
		f := &foe{t: t, nc: nc, version: mqtt.V5}
		_ = nc.SetDeadline(time.Now().Add(attackPatience))
		f.throw((&mqtt.Connect{Version: mqtt.V5, ClientID: id}).Append(nil))
		if p, err := f.read(); err != nil || p.Type != mqtt.CONNACK || p.Body[1] != 0 {
			t.Errorf("CONNECT during reloads: %s %v", p.Type, err)
		}
		_ = nc.Close()
		select {
		case <-stop:
			return
		case served <- struct{}{}:
		}
	}
}

// tlsStrangers tries to get in without a certificate.
func tlsStrangers(t *testing.T, addr string, roots *x509.CertPool, stop <-chan struct{}) {
	for {
		nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if err == nil { // TLS 1.3: the client learns later that it is refused
			f := &foe{t: t, nc: nc, version: mqtt.V5}
			_ = nc.SetDeadline(time.Now().Add(attackPatience))
			f.throw((&mqtt.Connect{Version: mqtt.V5, ClientID: "stranger"}).Append(nil))
			if p, err := f.read(); err == nil {
				t.Errorf("a client without certificate got %s", p.Type)
			}
			_ = nc.Close()
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}
