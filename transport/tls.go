package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ClientAuth says whether clients show a certificate.
type ClientAuth string

// The values of [ClientAuth]; the empty string means NoClientCert.
const (
	NoClientCert      ClientAuth = "none"    // clients are not asked
	RequestClientCert ClientAuth = "request" // asked; whoever shows one must show a valid one
	RequireClientCert ClientAuth = "require" // only clients with a valid certificate
)

// CertFiles names the PEM files of one certificate.
type CertFiles struct {
	Cert string // the certificate, then its intermediates
	Key  string // its private key
}

// TLSConfig is the TLS side of a listener. The files are read by [Listen] and
// again after they changed: at a handshake, when the last look at them was a
// second ago or more, and by [Listener.Reload]. A change that cannot be loaded
// is logged once and leaves the old certificates in use.
type TLSConfig struct {
	Certificates []CertFiles // at least one; chosen by the server name the client asks for, else the first that the client understands
	ClientCA     string      // PEM file of the authorities that sign client certificates; needed unless ClientAuth is none
	ClientAuth   ClientAuth  // empty means none
	MinVersion   uint16      // tls.VersionTLS12 or tls.VersionTLS13; zero means 1.2
}

func (c *TLSConfig) validate() error {
	if len(c.Certificates) == 0 {
		return errors.New("TLS has no certificate")
	}
	for _, f := range c.Certificates {
		if f.Cert == "" || f.Key == "" {
			return fmt.Errorf("TLS needs both files of a certificate: have certificate %q and key %q", f.Cert, f.Key)
		}
	}
	if _, err := c.ClientAuth.tls(); err != nil {
		return err
	}
	wantsCA := c.ClientAuth != "" && c.ClientAuth != NoClientCert
	if wantsCA && c.ClientCA == "" {
		return fmt.Errorf("client certificates (%s) need the file of their authority", c.ClientAuth)
	}
	if !wantsCA && c.ClientCA != "" {
		return errors.New("client authority has no effect: client certificates are neither requested nor required")
	}
	switch c.MinVersion {
	case 0, tls.VersionTLS12, tls.VersionTLS13:
		return nil
	}
	return fmt.Errorf("minimum version %s: use TLS 1.2 or 1.3", tls.VersionName(c.MinVersion))
}

func (a ClientAuth) tls() (tls.ClientAuthType, error) {
	switch a {
	case "", NoClientCert:
		return tls.NoClientCert, nil
	case RequestClientCert:
		return tls.VerifyClientCertIfGiven, nil
	case RequireClientCert:
		return tls.RequireAndVerifyClientCert, nil
	}
	return 0, fmt.Errorf("unknown client authentication %q: use none, request or require", string(a))
}

// files lists what load reads, in a fixed order.
func (c *TLSConfig) files() []string {
	var names []string
	for _, f := range c.Certificates {
		names = append(names, f.Cert, f.Key)
	}
	if c.ClientCA != "" {
		names = append(names, c.ClientCA)
	}
	return names
}

// load reads the files.
func (c *TLSConfig) load() (*tls.Config, error) {
	auth, err := c.ClientAuth.tls()
	if err != nil {
		return nil, err
	}
	t := &tls.Config{MinVersion: max(c.MinVersion, tls.VersionTLS12), ClientAuth: auth}
	for _, f := range c.Certificates {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		t.Certificates = append(t.Certificates, cert)
	}
	if c.ClientCA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client authority: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client authority: no certificate in %s", c.ClientCA)
	}
	return t, nil
}

// certs serves the newest certificates that could be loaded.
type certs struct {
	cfg     TLSConfig
	log     *slog.Logger
	now     func() time.Time
	server  *tls.Config // asks current at each handshake; owns the session ticket keys
	current atomic.Pointer[tls.Config]

	mu     sync.Mutex // guards all below
	looked time.Time
	seen   []os.FileInfo // as they were before the last attempt to load; nil entries could not be read
}

// lookEvery is the least time between two looks at the files.
const lookEvery = time.Second

func newCerts(cfg TLSConfig, log *slog.Logger) (*certs, error) {
	c := &certs{cfg: cfg, log: log, now: time.Now}
	c.server = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c.follow()
		return c.current.Load(), nil
	}}
	if err := c.reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// reload loads the files. Their state is noted before they are read: what
// changes meanwhile is seen as a change at the next look.
func (c *certs) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(c.stat())
}

// follow loads the files if they changed. One handshake does it for all; the
// others go on with the certificates there are.
func (c *certs) follow() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.now().Sub(c.looked) < lookEvery {
		return
	}
	state := c.stat()
	if sameFiles(state, c.seen) {
		return
	}
	if err := c.load(state); err != nil {
		c.log.Error("keeping the old certificates", "err", err)
	} else {
		c.log.Info("certificates reloaded")
	}
}

func (c *certs) load(state []os.FileInfo) error {
	c.seen = state
	t, err := c.cfg.load()
	if err != nil {
		return err
	}
	c.current.Store(t)
	return nil
}

func (c *certs) stat() []os.FileInfo {
	c.looked = c.now()
	var state []os.FileInfo
	for _, name := range c.cfg.files() {
		info, err := os.Stat(name)
		if err != nil {
			info = nil
		}
		state = append(state, info)
	}
	return state
}

func sameFiles(a, b []os.FileInfo) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil {
			if a[i] != b[i] {
				return false
			}
			continue
		}
		if !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}
