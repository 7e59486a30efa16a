package loadgen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// listen starts a broker behind one listener, and returns its address.
func listen(t *testing.T, cfg transport.Config) string {
	t.Helper()
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := transport.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestTransports puts the load on every kind of stream.
func TestTransports(t *testing.T) {
	dir, err := os.MkdirTemp("", "loadgen") // a test's own directory is too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	files, pool := certificate(t, dir)
	trust := transport.DialConfig{TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	tests := map[string]struct {
		listen transport.Config
		url    string
		dial   transport.DialConfig
		core   string
	}{
		"unix":  {transport.Config{Network: transport.Unix, Address: filepath.Join(dir, "s")}, "unix://", transport.DialConfig{}, core()},
		"tls":   {transport.Config{Network: transport.TLS, Address: "127.0.0.1:0", TLS: files}, "mqtts://", trust, "goroutines"},
		"ws":    {transport.Config{Network: transport.WS, Address: "127.0.0.1:0"}, "ws://", transport.DialConfig{}, "goroutines"},
		"wss":   {transport.Config{Network: transport.WSS, Address: "127.0.0.1:0", TLS: files}, "wss://", trust, "goroutines"},
		"ipv6":  {transport.Config{Network: transport.TCP, Address: "[::1]:0"}, "mqtt://", transport.DialConfig{}, core()},
		"dialr": {transport.Config{Network: transport.TCP, Address: "127.0.0.1:0"}, "mqtt://", transport.DialConfig{Dialer: (&net.Dialer{}).DialContext}, "goroutines"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := fanIn(test.url+listen(t, test.listen), false)
			p.Dial, p.Parallel = test.dial, 2
			r := mustRun(t, p)
			checkAll(t, r, 300, 300, 1)
			if r.Generator.Core != test.core {
				t.Errorf("on %s, want %s", r.Generator.Core, test.core)
			}
		})
	}
}

// core is how plain connections are made on this system.
func core() string {
	if hasRaw {
		return "epoll"
	}
	return "goroutines"
}

// certificate makes one for localhost that signs itself.
func certificate(t *testing.T, dir string) (*transport.TLSConfig, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := transport.CertFiles{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key")}
	writePEM(t, files.Cert, "CERTIFICATE", der)
	writePEM(t, files.Key, "PRIVATE KEY", keyDER)
	pool := x509.NewCertPool()
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool.AddCert(c)
	return &transport.TLSConfig{Certificates: []transport.CertFiles{files}}, pool
}

// TestSizes sends payloads that need no room, that need a place of their own, and that are never whole in memory.
func TestSizes(t *testing.T) {
	url := magpie(t, broker.Config{Limits: broker.Limits{PacketSize: 4 << 20, OutboxBytes: 64 << 20}})
	for _, size := range []int{MinSize, 127, 128, 16_000, 16_384, 64 << 10, 600 << 10, 3 << 20} {
		for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			onBoth(t, func(t *testing.T, goroutines bool) {
				p := fanIn(url, goroutines)
				p.Size, p.Version, p.Count, p.Window, p.SubQoS, p.QoS = size, v, 12, 2, 2, 2
				r := mustRun(t, p)
				checkAll(t, r, 12, 12, 2)
			})
		}
	}
}

// TestRetain leaves nothing behind.
func TestRetain(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), ln) }()
	p := fanIn("mqtt://"+ln.Addr().String(), false)
	p.Retain, p.Prefix = true, "kept"
	r := mustRun(t, p)
	checkAll(t, r, 300, 300, 1)
	if err := b.Shutdown(t.Context()); err != nil { // after it all packets have been taken
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept/0", "kept/1", "kept/2"} {
		if m := b.RetainedMessage(name); m != nil {
			t.Errorf("%s is retained still", name)
		}
	}
}

// TestIdle holds connections until the context ends, and subscribes if it is asked to.
func TestIdle(t *testing.T) {
	onBoth(t, func(t *testing.T, goroutines bool) {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		f := newFake(t, mqtt.V5, func(f *fake) {
			f.before = func(f *fake, _ *fakeConn, got mqtt.PacketType) error {
				if got == mqtt.PINGREQ {
					if f.count++; f.count == 20 {
						cancel() // everybody has been kept alive
					}
				}
				return nil
			}
		})
		p := Plan{URL: f.url(), Idle: 20, Filter: "a/{n}", KeepAlive: time.Second, Duration: time.Hour, ConnectRate: 1000, Goroutines: goroutines}
		r, err := Run(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		if c := r.Connections; c.Connected != 20 || c.Failed != 0 || c.Lost != 0 || c.ConnackTime.Count != 20 || r.Seconds == 0 {
			t.Errorf("connections: %+v in %v s", c, r.Seconds)
		}
	})
}

// TestStrangers counts what other processes publish, and finds the gaps.
func TestStrangers(t *testing.T) {
	f := newFake(t, mqtt.V5, func(f *fake) {
		f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
			switch n {
			case 10:
				return nil
			case 20:
				return []mqtt.Publish{m, m}
			case 30:
				m.Payload = []byte("not one of these")
			}
			return []mqtt.Publish{m}
		}
	})
	ready := make(chan struct{})
	f.mu.Lock()
	f.before = func(_ *fake, _ *fakeConn, got mqtt.PacketType) error {
		if got == mqtt.SUBSCRIBE {
			close(ready)
		}
		return nil
	}
	f.mu.Unlock()
	done := make(chan *Report)
	go func() {
		p := Plan{URL: f.url(), Subscribers: 1, Filter: "x/#", SubQoS: 1, Count: 299}
		r, err := Run(context.Background(), p)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	<-ready
	p := Plan{URL: f.url(), Publishers: 1, Topic: "{prefix}/{n}", Prefix: "x", QoS: 1, Count: 300}
	if r := mustRun(t, p); r.Acked != 300 {
		t.Errorf("acknowledged %d", r.Acked)
	}
	r := <-done
	if r.Received != 298 || r.Foreign != 1 || r.Duplicated != 1 || r.Lost != 2 || r.OutOfOrder != 0 || r.Latency.Count != 298 {
		t.Errorf("%+v", r)
	}
}

// TestReceiveMaximum keeps to what the broker allows.
func TestReceiveMaximum(t *testing.T) {
	most := 0
	f := newFake(t, mqtt.V5, func(f *fake) {
		f.connack.Props = mqtt.Properties(nil).WithInt(mqtt.ReceiveMaximum, 3)
		f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
			most = max(most, int(m.PacketID))
			return []mqtt.Publish{m}
		}
	})
	p := fanIn(f.url(), false)
	r := mustRun(t, p)
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Acked != 300 || most != 3 {
		t.Errorf("%d acknowledged, with identifiers up to %d", r.Acked, most)
	}
}

// TestOmission counts the time that a message had to wait to be sent: a broker that stands still is not spared.
func TestOmission(t *testing.T) {
	const still = 300 * time.Millisecond
	f := newFake(t, mqtt.V5, func(f *fake) {
		f.fault = func(n int, m mqtt.Publish) []mqtt.Publish {
			if n == 100 {
				time.Sleep(still) // is what is tested
			}
			return []mqtt.Publish{m}
		}
	})
	p := fanIn(f.url(), false)
	p.Rate, p.Count, p.Inflight = 1000, 500, 1
	r := mustRun(t, p)
	checkAll(t, r, 500, 500, 1)
	if r.Throttled == 0 || r.Latency.P50 < 1000 {
		t.Errorf("throttled %d times, latency %+v", r.Throttled, r.Latency)
	}
}

// TestProgress is told of every phase, in the time of a bubble: nothing here waits for the clock of this machine.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &director{run: newRun(Plan{}.withDefaults(1), 1), ctx: t.Context()}
		var told []Progress
		d.plan.Progress = func(p Progress) { told = append(told, p) }
		for i := range 10 {
			d.show(counters{connected: i, sent: uint64(1000 * i)})
			time.Sleep(250 * time.Millisecond)
		}
		if len(told) != 5 || told[4].Connected != 8 || told[4].Sent != 4000 {
			t.Errorf("told %+v", told)
		}
	})
}
