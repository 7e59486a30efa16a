package interop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	pahov3 "github.com/eclipse/paho.mqtt.golang"

	magpie "github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// contender is a client library in the benchmarks. Each method is what its users would write.
type contender interface {
	connect(b *testing.B, address, id string) contestant
}

// contestant is one connected client.
type contestant interface {
	publish(b *testing.B, name string, payload []byte, qos byte, n int) // n messages as fast as it goes, until all have their answers
	subscribe(b *testing.B, name string, qos byte, each func())
	close()
}

var contenders = []struct {
	name string
	contender
}{
	{"magpie-v5", oursAt(mqtt.V5)},
	{"magpie-v311", oursAt(mqtt.V311)},
	{"paho.golang-v5", pahoV5{}},
	{"paho.mqtt.golang-v311", pahoV3{}},
}

// benchBroker is one magpie for all, in a process of its own so that its work is not counted.
func benchBroker(b *testing.B) string {
	binary, err := build()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", "--mqtt", "127.0.0.1:0", "--http", "off", "--data", b.TempDir(), "--log-format", "json", "--durability", "memory")
	out, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, address, ok := announced(lines.Text()); ok {
			go io.Copy(io.Discard, out)
			return address
		}
	}
	b.Fatal("the broker does not start")
	return ""
}

// BenchmarkClients runs the libraries beside each other on one broker: messages of 64 bytes, published and received with QoS 0 and 1.
//
//	go test -run - -bench Clients -benchmem -count 10 . | benchstat -col /client -
func BenchmarkClients(b *testing.B) {
	address := benchBroker(b)
	payload := make([]byte, 64)
	for qos := range byte(2) {
		for _, c := range contenders {
			b.Run(fmt.Sprintf("do=publish/qos=%d/client=%s", qos, c.name), func(b *testing.B) {
				p := c.connect(b, address, "pub")
				defer p.close()
				b.ReportAllocs()
				b.ResetTimer()
				p.publish(b, "bench/nobody", payload, qos, b.N)
			})
		}
	}
	for qos := range byte(2) {
		for _, c := range contenders {
			b.Run(fmt.Sprintf("do=receive/qos=%d/client=%s", qos, c.name), func(b *testing.B) {
				s := c.connect(b, address, "sub")
				defer s.close()
				var got atomic.Int64
				more := make(chan struct{}, 1)
				s.subscribe(b, "bench/receive", qos, func() {
					if n := got.Add(1); n%64 == 0 || int(n) == b.N {
						select {
						case more <- struct{}{}:
						default:
						}
					}
				})
				b.ReportAllocs()
				b.ResetTimer()
				feed(b, address, "bench/receive", payload, qos, b.N, &got, more)
			})
		}
	}
}

// BenchmarkIdle is what a thousand connected clients that do nothing but one subscription cost each.
func BenchmarkIdle(b *testing.B) {
	address := benchBroker(b)
	for _, c := range contenders {
		b.Run("client="+c.name, func(b *testing.B) {
			for b.Loop() {
				const many = 1000
				before := memory()
				all := make([]contestant, many)
				for i := range all {
					all[i] = c.connect(b, address, fmt.Sprint("idle", i))
					all[i].subscribe(b, fmt.Sprint("bench/idle/", i), 0, func() {})
				}
				b.ReportMetric(float64(memory()-before)/many, "B/client")
				for _, one := range all {
					one.close()
				}
			}
		})
	}
}

// memory is what heap and stacks hold.
func memory() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// feed publishes n messages from packets made before, never far ahead of who receives them, and waits until all have come.
func feed(b *testing.B, address, name string, payload []byte, qos byte, n int, got *atomic.Int64, more <-chan struct{}) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	hello := (&mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: "feed"}).Append(nil)
	const batch = 64
	var packets []byte
	for i := range batch {
		packets = (&mqtt.Publish{Topic: []byte(name), QoS: mqtt.QoS(qos), PacketID: uint16(i + 1), Payload: payload}).Append(packets, mqtt.V5)
	}
	each := len(packets) / batch
	if _, err := nc.Write(hello); err != nil {
		b.Fatal(err)
	}
	go io.Copy(io.Discard, nc)
	for sent := 0; sent < n; {
		k := min(batch, n-sent)
		if _, err := nc.Write(packets[:k*each]); err != nil {
			b.Fatal(err)
		}
		sent += k
		for int64(sent)-got.Load() > 8*batch {
			<-more
		}
	}
	for got.Load() < int64(n) {
		<-more
	}
}

// oursAt is our library with a version.
type oursAt mqtt.Version

type ours struct{ c *magpie.Client }

func (v oursAt) connect(b *testing.B, address, id string) contestant {
	c, err := magpie.Dial(b.Context(), "mqtt://"+address, magpie.WithVersion(mqtt.Version(v)), magpie.WithClientID(id))
	if err != nil {
		b.Fatal(err)
	}
	return ours{c}
}

func (o ours) publish(b *testing.B, name string, payload []byte, qos byte, n int) {
	ctx := context.Background()
	var last *magpie.Publication
	for range n {
		if qos == 0 {
			if err := o.c.Publish(ctx, name, payload, magpie.AtMostOnce); err != nil {
				b.Fatal(err)
			}
			continue
		}
		p, err := o.c.PublishAsync(ctx, name, payload)
		if err != nil {
			b.Fatal(err)
		}
		last = p
	}
	if qos == 0 { // behind all others
		if err := o.c.Publish(ctx, name, payload); err != nil {
			b.Fatal(err)
		}
		return
	}
	<-last.Done()
}

func (o ours) subscribe(b *testing.B, name string, qos byte, each func()) {
	if _, err := o.c.Subscribe(context.Background(), name, func(*magpie.Delivery) { each() }, magpie.QoS(qos)); err != nil {
		b.Fatal(err)
	}
}

func (o ours) close() {
	_ = o.c.Close(context.Background())
	<-o.c.Done()
}

// pahoV5 is eclipse/paho.golang.
type pahoV5 struct{}

type pahoV5Client struct {
	c    *paho.Client
	each func()
}

func (pahoV5) connect(b *testing.B, address, id string) contestant {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	p := &pahoV5Client{}
	p.c = paho.NewClient(paho.ClientConfig{Conn: nc, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(paho.PublishReceived) (bool, error) { p.each(); return true, nil },
	}})
	if _, err := p.c.Connect(b.Context(), &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 60}); err != nil {
		b.Fatal(err)
	}
	return p
}

func (p *pahoV5Client) publish(b *testing.B, name string, payload []byte, qos byte, n int) {
	ctx := context.Background()
	if qos == 0 {
		for range n {
			if _, err := p.c.Publish(ctx, &paho.Publish{Topic: name, Payload: payload}); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := p.c.Publish(ctx, &paho.Publish{Topic: name, Payload: payload, QoS: 1}); err != nil {
			b.Fatal(err)
		}
		return
	}
	var all sync.WaitGroup // Publish waits for the answer: a window is as many goroutines
	const window = 128
	for i := range window {
		all.Go(func() {
			for k := i; k < n; k += window {
				if _, err := p.c.Publish(ctx, &paho.Publish{Topic: name, Payload: payload, QoS: qos}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func (p *pahoV5Client) subscribe(b *testing.B, name string, qos byte, each func()) {
	p.each = each
	if _, err := p.c.Subscribe(context.Background(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: name, QoS: qos}}}); err != nil {
		b.Fatal(err)
	}
}

func (p *pahoV5Client) close() { _ = p.c.Disconnect(&paho.Disconnect{}) }

// pahoV3 is eclipse/paho.mqtt.golang.
type pahoV3 struct{}

type pahoV3Client struct{ c pahov3.Client }

func (pahoV3) connect(b *testing.B, address, id string) contestant {
	o := pahov3.NewClientOptions()
	o.Servers = []*url.URL{{Scheme: "tcp", Host: address}}
	o.SetClientID(id).SetProtocolVersion(4).SetWriteTimeout(10 * time.Second)
	c := pahov3.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		b.Fatal(t.Error())
	}
	return pahoV3Client{c}
}

func (p pahoV3Client) publish(b *testing.B, name string, payload []byte, qos byte, n int) {
	const window = 128
	tokens := make(chan pahov3.Token, window)
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		for t := range tokens {
			if t.Wait() && t.Error() != nil {
				b.Error(t.Error())
			}
		}
	}()
	for range n {
		tokens <- p.c.Publish(name, qos, false, payload)
	}
	if qos == 0 {
		tokens <- p.c.Publish(name, 1, false, payload)
	}
	close(tokens)
	<-settled
}

func (p pahoV3Client) subscribe(b *testing.B, name string, qos byte, each func()) {
	if t := p.c.Subscribe(name, qos, func(pahov3.Client, pahov3.Message) { each() }); t.Wait() && t.Error() != nil {
		b.Fatal(t.Error())
	}
}

func (p pahoV3Client) close() { p.c.Disconnect(100) }
