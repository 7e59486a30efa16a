package loadgen

import (
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds every run of a test, which otherwise ends by its count.
const deadline = 60 * time.Second

// magpie starts a broker in this process, and returns its URL.
func magpie(t testing.TB, cfg broker.Config) string {
	t.Helper()
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
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
	return "mqtt://" + ln.Addr().String()
}

// scenarios are small ones of each shape.
var scenarios = map[string]Plan{
	"fan-in":  {Publishers: 10, Subscribers: 1, Window: 20, Topic: "{prefix}/{n}", Filter: "{prefix}/#"},
	"fan-out": {Publishers: 1, Subscribers: 20, Window: 50, Topic: "{prefix}/all", Filter: "{prefix}/all"},
	"pairs":   {Publishers: 10, Subscribers: 10, Window: 50, Topic: "{prefix}/{n}", Filter: "{prefix}/{n}"},
	"spread":  {Publishers: 20, Subscribers: 2, Rate: 20_000, Topic: "{prefix}/{n}", Filter: "{prefix}/#"},
	"shared":  {Publishers: 5, Subscribers: 4, Window: 50, Topic: "{prefix}/{n}", Filter: "$share/g/{prefix}/#"},
}

// TestScenarios runs every scenario with every QoS and version in every way to wait: all must come, once and in order.
func TestScenarios(t *testing.T) {
	const messages = 1500
	url := magpie(t, broker.Config{})
	cores := map[string]func(*Plan){
		"epoll":      func(*Plan) {},
		"two loops":  func(p *Plan) { p.Loops = 2 },
		"goroutines": func(p *Plan) { p.Goroutines = true },
	}
	for core, set := range cores {
		for name, p := range scenarios {
			for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
				for qos := range mqtt.QoS(3) {
					t.Run(fmt.Sprintf("%s/%s/%v/QoS%d", core, name, v, qos), func(t *testing.T) {
						p := p
						p.URL, p.Version, p.QoS, p.SubQoS, p.Count = url, v, qos, qos, messages
						set(&p)
						r := mustRun(t, p)
						fan := uint64(1)
						if name == "fan-out" || name == "spread" {
							fan = uint64(p.Subscribers)
						}
						checkAll(t, r, messages, messages*fan, qos)
					})
				}
			}
		}
	}
}

// mustRun runs a plan that must work.
func mustRun(t testing.TB, p Plan) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	p.Drain = cmp.Or(p.Drain, deadline/3) // a machine with much else to do is no broker that loses
	r, err := Run(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("the run did not end by itself: %+v", r)
	}
	return r
}

// checkAll demands that everything has come as it should.
func checkAll(t testing.TB, r *Report, sent, received uint64, qos mqtt.QoS) {
	t.Helper()
	if c := r.Connections; c.Connected != c.Wanted || c.Failed != 0 || c.Lost != 0 {
		t.Errorf("connections: %+v", c)
	}
	acked := sent
	if qos == 0 {
		acked = 0
	}
	if r.Sent != sent || r.Acked != acked || r.Expected != received || r.Received != received {
		t.Errorf("sent %d, acknowledged %d, expected %d, received %d; want %d, %d, %d, %[7]d", r.Sent, r.Acked, r.Expected, r.Received, sent, acked, received)
	}
	if r.Lost+r.LostAcked+r.Duplicated+r.OutOfOrder+r.Foreign+r.Refused != 0 {
		t.Errorf("not as it should be: %+v", r)
	}
	if r.Latency.Count != received {
		t.Errorf("%d latencies of %d messages", r.Latency.Count, received)
	}
}

// writePEM writes a file.
func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
