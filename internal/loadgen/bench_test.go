package loadgen

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// relay copies whole PUBLISH packets from everybody to all subscribers: the least that a broker can do.
type relay struct {
	mu   sync.Mutex // guards all below
	subs []net.Conn
}

// newRelay starts one, and returns its URL.
func newRelay(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := &relay{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer func() { _ = c.Close() }()
				r.serve(c)
			})
		}
	})
	b.Cleanup(func() {
		_ = ln.Close()
		group.Wait()
	})
	return "mqtt://" + ln.Addr().String()
}

func (r *relay) serve(c net.Conn) {
	buf, have := make([]byte, 256<<10), 0
	for {
		n, err := c.Read(buf[have:])
		if err != nil {
			return
		}
		have += n
		whole := 0
		for {
			f, size, err := mqtt.ParseFrame(buf[whole:have], mqtt.V311, mqtt.MaxPacket)
			if err != nil || size == 0 || size > have-whole {
				break
			}
			if f.Type == mqtt.DISCONNECT {
				return
			}
			if f.Type != mqtt.PUBLISH {
				r.greet(c, f.Type)
				copy(buf[whole:], buf[whole+size:have])
				have -= size
				continue
			}
			whole += size
		}
		r.copyOut(buf[:whole])
		have = copy(buf, buf[whole:have])
	}
}

func (r *relay) greet(c net.Conn, t mqtt.PacketType) {
	switch t {
	case mqtt.CONNECT:
		_, _ = c.Write([]byte{0x20, 2, 0, 0})
	case mqtt.SUBSCRIBE:
		r.mu.Lock()
		r.subs = append(r.subs, c)
		r.mu.Unlock()
		_, _ = c.Write([]byte{0x90, 3, 0, 1, 0})
	}
}

func (r *relay) copyOut(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.subs {
		_, _ = s.Write(b)
	}
}

// BenchmarkRelay is what a message costs the generator and the relay together; the generator's own part is the metric.
func BenchmarkRelay(b *testing.B) {
	for name, p := range map[string]Plan{
		"fan-in":  {Publishers: 100, Subscribers: 1, Window: 20, Topic: "{prefix}/{n}", Filter: "{prefix}/#"},
		"fan-out": {Publishers: 1, Subscribers: 100, Window: 100, Topic: "{prefix}/all", Filter: "{prefix}/all"},
	} {
		for _, core := range []string{"epoll", "goroutines"} {
			b.Run(name+"/"+core, func(b *testing.B) {
				p := p
				p.URL, p.Version, p.Count, p.Coalesce, p.Goroutines = newRelay(b), mqtt.V311, int64(b.N), 100*time.Microsecond, core == "goroutines"
				b.ReportAllocs()
				r := mustRun(b, p)
				if r.Lost != 0 {
					b.Errorf("lost %d", r.Lost)
				}
				b.ReportMetric(r.ReceivedRate, "deliveries/s")
				b.ReportMetric(r.Generator.Busy*100, "%busy")
			})
		}
	}
}
