package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// authority signs certificates for tests.
type authority struct {
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func cmdCerts(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(makeCerts(ts.MkAbs(".")))
}

// makeCerts writes an authority and what it has signed.
func makeCerts(dir string) error {
	a := &authority{dir: dir}
	day := 24 * time.Hour
	now := time.Now()
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now.Add(-100 * day), NotAfter: now.Add(1000 * day),
	}
	for _, c := range []struct {
		name string
		cert *x509.Certificate
	}{
		{"ca", ca},
		{"server", leaf("server", now.Add(-day), now.Add(90*day+time.Hour), "localhost")},
		{"other", leaf("other", now.Add(-day), now.Add(30*day+time.Hour), "localhost")},
		{"client", leaf("device-7", now.Add(-day), now.Add(90*day+time.Hour), "device-7.example")},
		{"expired", leaf("old", now.Add(-10*day), now.Add(-day), "localhost")},
		{"noname", leaf("noname", now.Add(-day), now.Add(90*day))},
	} {
		if err := a.write(c.name, c.cert); err != nil {
			return err
		}
	}
	return nil
}

func leaf(name string, from, to time.Time, names ...string) *x509.Certificate {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(names) > 0 {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	return c
}

// write signs a certificate and writes name.crt and name.key. The first one is the authority itself.
func (a *authority) write(name string, c *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if a.cert == nil {
		a.cert, a.key = c, key
	}
	a.serial++
	c.SerialNumber = big.NewInt(a.serial)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(filepath.Join(a.dir, name+".key"), "PRIVATE KEY", private)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
