package interop

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	nats "github.com/nats-io/nats-server/v2/server"

	magpie "github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// servers are the brokers that our client library runs against, and what can be asked of them.
var servers = map[string]struct {
	start   func(t testing.TB) (address string)
	newest  mqtt.Version
	resumes bool // continues handshakes after a broken connection
	ordered bool // and sends again in the order of before
}{
	"magpie":    {startMagpie, mqtt.V5, true, true},
	"mosquitto": {startMosquitto, mqtt.V5, true, true},
	"mochi":     {startMochi, mqtt.V5, false, false}, // takes a Packet Identifier of one direction for one of the other
	"nats":      {startNATS, mqtt.V311, true, false}, // what had no acknowledgement comes behind what is new
}

var oneListener = []listener{{"tcp", "tcp", "127.0.0.1:0"}}

func startMagpie(t testing.TB) string {
	return launchMagpie(t.(*testing.T), t.TempDir(), oneListener, nil, "")["tcp"]
}

func startMosquitto(t testing.TB) string {
	return launchMosquitto(t.(*testing.T), t.TempDir(), oneListener, nil, "")["tcp"]
}

func startMochi(t testing.TB) string {
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	ln := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := s.AddListener(ln); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return ln.Address()
}

func startNATS(t testing.TB) string {
	o := &nats.Options{ServerName: "nats", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: filepath.Join(t.TempDir(), "js"), NoLog: true, NoSigs: true}
	o.MQTT.Host, o.MQTT.Port, o.MQTT.AckWait = "127.0.0.1", -1, time.Second
	s, err := nats.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("nats-server does not start")
	}
	return fmt.Sprintf("127.0.0.1:%d", o.MQTT.Port)
}

// dial makes a client that is closed at the end of the test.
func dialOurs(t testing.TB, address string, opts ...magpie.Option) *magpie.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := magpie.Dial(ctx, "mqtt://"+address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		<-c.Done()
	})
	return c
}

// TestClient runs our client library against brokers of others.
func TestClient(t *testing.T) {
	for name, s := range servers {
		t.Run(name, func(t *testing.T) {
			address := s.start(t)
			t.Run("newest version", func(t *testing.T) {
				info, _ := dialOurs(t, address).Server()
				if info.Version != s.newest {
					t.Errorf("MQTT %v, want %v", info.Version, s.newest)
				}
			})
			for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
				if v > s.newest {
					continue
				}
				t.Run(v.String(), func(t *testing.T) {
					t.Run("messages", func(t *testing.T) { testMessages(t, address, v) })
					t.Run("request", func(t *testing.T) { testOurRequest(t, address, v) })
					if s.resumes {
						t.Run("away", func(t *testing.T) { testAway(t, address, v) })
						t.Run("cuts", func(t *testing.T) { testOurCuts(t, address, v, s.ordered) })
					}
				})
			}
		})
	}
}

// testMessages exchanges messages of every QoS, retained ones too.
func testMessages(t *testing.T, address string, v mqtt.Version) {
	c := dialOurs(t, address, magpie.WithVersion(v))
	root := fmt.Sprintf("messages/%d/", v)
	ctx, cancel := soon(t)
	defer cancel()
	got := make(chan string, 10)
	sub, err := c.Subscribe(ctx, root+"+", func(d *magpie.Delivery) { got <- fmt.Sprintf("%s %s", d.Topic, d.Payload) }, magpie.ExactlyOnce)
	if err != nil {
		t.Fatal(err)
	}
	for _, qos := range []magpie.QoS{magpie.AtMostOnce, magpie.AtLeastOnce, magpie.ExactlyOnce} {
		if err := c.Publish(ctx, root+"a", fmt.Append(nil, qos), qos, magpie.Retain); err != nil {
			t.Error(err)
		}
		if m, want := <-got, fmt.Sprint(root, "a ", qos); m != want {
			t.Errorf("got %q, want %q", m, want)
		}
	}
	if err := sub.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.Subscribe(ctx, root+"a", func(d *magpie.Delivery) { got <- fmt.Sprintf("%s %v", d.Payload, d.Retain) }); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m != "2 true" {
		t.Errorf("retained: %q", m)
	}
}

func testOurRequest(t *testing.T, address string, v mqtt.Version) {
	server, c := dialOurs(t, address, magpie.WithVersion(v)), dialOurs(t, address, magpie.WithVersion(v))
	ctx, cancel := soon(t)
	defer cancel()
	root := fmt.Sprintf("request/%d/", v)
	if _, err := server.Subscribe(ctx, root+"ask", func(d *magpie.Delivery) {
		err := server.Reply(ctx, d, append([]byte("re:"), d.Payload...))
		if v != mqtt.V5 {
			err = server.Publish(ctx, root+"answer", append([]byte("re:"), d.Payload...))
		}
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	ask := c.Request
	if v != mqtt.V5 {
		ask = func(ctx context.Context, name string, payload []byte, opts ...magpie.PublishOption) (*magpie.Delivery, error) {
			return c.RequestOn(ctx, root+"answer", name, payload, opts...)
		}
	}
	for i := range 5 {
		if d, err := ask(ctx, root+"ask", fmt.Append(nil, i)); err != nil || string(d.Payload) != fmt.Sprint("re:", i) {
			t.Fatalf("%v: %v", d, err)
		}
	}
}

// testAway: a session outlives its program.
func testAway(t *testing.T, address string, v mqtt.Version) {
	id := fmt.Sprintf("away%d", v)
	name := "away/" + id
	ctx, cancel := soon(t)
	defer cancel()
	got := make(chan string, 10)
	open := func() *magpie.Client {
		c, err := magpie.Dial(ctx, "mqtt://"+address, magpie.WithVersion(v), magpie.WithClientID(id), magpie.WithSession(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(ctx, name, func(d *magpie.Delivery) { got <- string(d.Payload) }, magpie.ExactlyOnce); err != nil {
			t.Fatal(err)
		}
		return c
	}
	leave := func(c *magpie.Client) {
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
		<-c.Done()
	}
	leave(open())
	other := dialOurs(t, address, magpie.WithVersion(v))
	for i := range 5 {
		if err := other.Publish(ctx, name, fmt.Append(nil, i), magpie.QoS(1+i%2)); err != nil {
			t.Fatal(err)
		}
	}
	c := open()
	for range 5 {
		select {
		case <-got:
		case <-ctx.Done():
			t.Fatal("messages are missing")
		}
	}
	leave(c)
}

// cutter is a dialer whose streams break after a random number of bytes.
type cutter struct {
	mu   sync.Mutex
	left int
}

func (k *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil || k.left == 0 {
		return nc, err
	}
	k.left--
	return &cutStream{Conn: nc, left: 500 + rand.IntN(5000)}, nil
}

type cutStream struct {
	net.Conn
	left int // bytes to read
}

func (c *cutStream) Read(b []byte) (int, error) {
	if c.left <= 0 {
		_ = c.Close()
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// testOurCuts: over links that break, QoS 1 is not lost and QoS 2 comes once, in order.
func testOurCuts(t *testing.T, address string, v mqtt.Version, ordered bool) {
	for _, qos := range []magpie.QoS{magpie.AtLeastOnce, magpie.ExactlyOnce} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			var k = cutter{left: 40}
			client := func(role string) *magpie.Client {
				return dialOurs(t, address, magpie.WithVersion(v), magpie.WithLazyConnect(), magpie.WithDialer(k.dial),
					magpie.WithClientID(fmt.Sprintf("cut%s%d%d", role, v, qos)), magpie.WithSession(time.Hour), magpie.WithBackoff(time.Millisecond, 5*time.Millisecond))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			got := make(chan uint64, 100_000)
			name := fmt.Sprintf("cuts/%d/%d", v, qos)
			if _, err := client("sub").Subscribe(ctx, name, func(d *magpie.Delivery) { got <- binary.BigEndian.Uint64(d.Payload) }, qos); err != nil {
				t.Fatal(err)
			}
			pub := client("pub")
			const many = 1000
			var all sync.WaitGroup
			all.Go(func() {
				for n := range uint64(many) {
					if _, err := pub.PublishAsync(ctx, name, binary.BigEndian.AppendUint64(nil, n), qos); err != nil {
						t.Error(err)
					}
				}
			})
			repeated := 0
			seen := make(map[uint64]bool)
			for next := uint64(0); len(seen) < many; {
				select {
				case n := <-got:
					if ordered && n > next {
						t.Fatalf("%d where %d was due", n, next)
					}
					if seen[n] {
						repeated++
					}
					seen[n] = true
					next = max(next, n+1)
				case <-ctx.Done():
					t.Fatalf("%d messages of %d have come", len(seen), many)
				}
			}
			all.Wait()
			if qos == magpie.ExactlyOnce && repeated > 0 {
				t.Errorf("%d messages came twice", repeated)
			}
			t.Logf("%d cuts left, %d repeated, %s", k.left, repeated, strings.TrimSpace(fmt.Sprintf("%+v", pub.Stats())))
		})
	}
}
