package broker_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// TestA08SlowConnect: the attacker sends a CONNECT byte by byte, or nothing, or answers each step of an exchange without
// end, always a little. What counts is the time until the client is accepted, not the time since the last byte. Who is
// slow and done in time is let in.
func TestA08SlowConnect(t *testing.T) {
	connect := hello(mqtt.V5, "a8")
	endless := hello(mqtt.V5, "a8")
	endless.Props = endless.Props.WithString(mqtt.AuthenticationMethod, "endless")
	step := (&mqtt.Auth{Code: mqtt.ContinueAuthentication, Props: endless.Props}).Append(nil)
	for _, c := range []struct {
		name   string
		chunks [][]byte
		pause  time.Duration
		ends   time.Duration // after that long; zero means that the client is let in
	}{
		{"nothing", nil, 0, 10 * time.Second},
		{"a byte a second", bytewise(connect.Append(nil)), time.Second, 10 * time.Second},
		{"a byte in 100 ms", bytewise(connect.Append(nil)), 100 * time.Millisecond, 0},
		{"steps without end", repeated(endless.Append(nil), step, 50), 3 * time.Second, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bubbleBroker(t, broker.Config{Enhanced: []broker.EnhancedAuthenticator{endlessMethod{}}})
				f, ended := bubbleConn(t, b)
				start := time.Now()
				var sender sync.WaitGroup
				sender.Go(func() { trickle(f, c.chunks, c.pause) })
				defer sender.Wait()
				if c.ends == 0 {
					synctest.Wait()
					time.Sleep(9 * time.Second)
					if !b.Clients()[0].Connected {
						t.Error("a slow client was not let in")
					}
					_ = f.Close()
					<-ended
					return
				}
				<-ended
				if took := time.Since(start); took != c.ends {
					t.Errorf("ended after %v, want %v", took, c.ends)
				}
				if n := len(b.Clients()); n != 0 {
					t.Errorf("%d sessions were made", n)
				}
			})
		})
	}
}

// TestA08HugeKeepAlive: the attacker asks for the longest Keep Alive, or none, and then is silent. Where the operator limits
// it, MQTT 5.0 clients are told and held to the limit.
func TestA08HugeKeepAlive(t *testing.T) {
	for _, keepAlive := range []uint16{0, 65_535} {
		synctest.Test(t, func(t *testing.T) {
			b := bubbleBroker(t, broker.Config{Limits: broker.Limits{MaxKeepAlive: time.Minute}})
			nc, ended := bubbleConn(t, b)
			c := hello(mqtt.V5, "a8")
			c.KeepAlive = keepAlive
			_, _ = nc.Write(c.Append(nil))
			start := time.Now()
			<-ended
			if took := time.Since(start); took != 90*time.Second {
				t.Errorf("Keep Alive %d: ended after %v, want 90s", keepAlive, took)
			}
		})
	}
}

// lateUsers takes longer to decide than a login may take, for the user late.
type lateUsers struct{}

func (lateUsers) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.Username == "late" {
		time.Sleep(15 * time.Second)
	}
	return broker.Grant{User: "same"}, nil
}

// TestA08LateLogin: the decision about a login comes after its time is over. It takes no session over any more.
func TestA08LateLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubbleBroker(t, broker.Config{Authenticator: lateUsers{}})
		victim, victimEnded := bubbleConn(t, b)
		c := hello(mqtt.V5, "a8")
		_, _ = victim.Write(c.Append(nil))
		late, lateEnded := bubbleConn(t, b)
		c.Username = "late"
		_, _ = late.Write(c.Append(nil))
		<-lateEnded
		select {
		case <-victimEnded:
			t.Error("the session was taken over")
		default:
		}
		if st, _ := b.Client("a8"); !st.Connected {
			t.Error("the first client is not connected")
		}
	})
}

func bytewise(b []byte) (chunks [][]byte) {
	for i := range b {
		chunks = append(chunks, b[i:i+1])
	}
	return chunks
}

func repeated(first, then []byte, n int) [][]byte {
	chunks := [][]byte{first}
	for range n {
		chunks = append(chunks, then)
	}
	return chunks
}

func trickle(w io.Writer, chunks [][]byte, pause time.Duration) {
	for _, chunk := range chunks {
		time.Sleep(pause) // the attack itself, in the time of the bubble
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// bubbleBroker is a broker inside a bubble of synctest, where there are no sockets.
func bubbleBroker(t *testing.T, cfg broker.Config) *broker.Broker {
	cfg.SysInterval = -1
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// bubbleConn connects to the broker. What it sends is thrown away; ended is closed when it has closed the connection.
func bubbleConn(t *testing.T, b *broker.Broker) (nc net.Conn, ended <-chan struct{}) {
	client, server := net.Pipe()
	b.ServeConn(server)
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, client)
		close(done)
	}()
	t.Cleanup(func() { _ = client.Close() })
	return client, done
}

// endlessMethod is an Authentication Method that is never content.
type endlessMethod struct{}

func (endlessMethod) Method() string                                          { return "endless" }
func (m endlessMethod) Start(*broker.ConnectRequest) (broker.Exchange, error) { return m, nil }
func (endlessMethod) Grant() broker.Grant                                     { return broker.Grant{} }
func (endlessMethod) Next(context.Context, []byte) (reply []byte, done bool, err error) {
	return []byte("more"), false, nil
}

// TestA08HalfOpenHandshakes: the attacker holds more half-open handshakes of TLS and WebSocket than the listener keeps:
// with nothing, with half of a hello, with headers that never end. A client that means it gets in at once, and the
// handshakes end by themselves.
func TestA08HalfOpenHandshakes(t *testing.T) {
	id := newAttackCerts(t)
	secure := attackListen(t, transport.Config{
		Name: "tls", Network: transport.TLS, TLS: id.config(), MaxPending: 8, HandshakeTimeout: 2 * time.Second,
	})
	web := attackListen(t, transport.Config{Name: "ws", Network: transport.WS, MaxPending: 8, HandshakeTimeout: 2 * time.Second})
	a := newArena(t, broker.Config{Limits: broker.Limits{ConnectTimeout: attackPatience}}, secure, web)

	starts := map[net.Listener][]string{
		secure: {"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", "\x16\x03\x01\x40\x00" + string(make([]byte, 100))},
		web:    {"", "G", "GET /mqtt HTTP/1.1\r\nHost: broker\r\n", "GET /mqtt HTTP/1.1\r\nX: " + string(make([]byte, 100))},
	}
	var half []net.Conn
	for ln, texts := range starts {
		for i := range 40 {
			nc := dialRaw(t, ln.Addr().String())
			_, _ = io.WriteString(nc, texts[i%len(texts)])
			half = append(half, nc)
		}
	}
	good, err := tls.Dial("tcp", secure.Addr().String(), &tls.Config{RootCAs: id.pool(), ServerName: "localhost"})
	if err != nil {
		t.Fatalf("TLS beside half-open handshakes: %v", err)
	}
	if ack := newFoe(t, good, mqtt.V5).connect(hello(mqtt.V5, "a8-tls")); ack.Code != mqtt.Success {
		t.Errorf("CONNECT over TLS: %v", ack.Code)
	}
	dialWS(t, web.Addr().String()).login(t, "a8-ws")
	for _, nc := range half {
		if _, err := io.Copy(io.Discard, nc); err != nil && !attackEnded(err) {
			t.Errorf("a half-open handshake: %v", err)
		}
	}
	if n := a.broker.Stats().Connections; n != 4 {
		t.Errorf("the broker has %d connections, want the bystander's and the two good ones", n)
	}
}
