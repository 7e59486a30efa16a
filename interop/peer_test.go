package interop

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything may take before it counts as never. It bounds failures only: no test waits for it to pass.
const patience = 20 * time.Second

// A version is the protocol level of CONNECT.
type version byte

const (
	v31  version = 3
	v311 version = 4
	v5   version = 5
)

func (v version) String() string {
	return map[version]string{v31: "3.1", v311: "3.1.1", v5: "5.0"}[v]
}

// A message is an application message as every peer can send and show it.
type message struct {
	name    string
	payload string
	qos     byte
	retain  bool
	props   properties // 5.0 only
}

type properties struct {
	contentType   string
	responseTopic string
	correlation   string
	user          []property
}

type property struct{ key, value string }

func (m message) String() string {
	return fmt.Sprintf("%q %.60q (%d bytes) QoS %d retain %t %+v", m.name, m.payload, len(m.payload), m.qos, m.retain, m.props)
}

// as is the message as a subscriber at the QoS gets it live.
func (m message) as(qos byte) message {
	m.qos, m.retain = min(m.qos, qos), false
	return m
}

// settings say how a peer connects.
type settings struct {
	version        version
	at             endpoint
	clientID       string
	user, password string
	certificate    bool     // present the client certificate
	will           *message // nil for none
	qos            byte     // requested by every subscription
	keep           bool     // resume the session and keep it: clean session 0, or clean start 0 with an hour of expiry
	returns        bool     // reconnect when the connection breaks; only peers with reconnects
	withhold       bool     // never acknowledge a message; only of embedded peers
}

// by is the settings of another client.
func (s settings) by(clientID string) settings {
	s.clientID = clientID
	return s
}

func (s settings) subscribing(qos byte) settings {
	s.qos = qos
	return s
}

// A peer is a client by somebody else, made to do what the tests ask.
type peer interface {
	// missing says what is not installed.
	missing() error
	// connect subscribes to the filters in a new connection and returns once the broker has acknowledged. The error is a refusal
	// where the broker said why.
	connect(t *testing.T, s settings, filters ...string) (*client, error)
	// publish hands over the messages one by one in a connection of their own, returns once each is acknowledged as its QoS
	// demands, and disconnects.
	publish(t *testing.T, s settings, messages ...message) error
}

// A refusal is the code of a CONNACK that is not 0.
type refusal byte

func (r refusal) Error() string { return fmt.Sprintf("connection refused with %#02x", byte(r)) }

// A client is one connection of a peer.
type client struct {
	arrived chan message // in order of arrival; sent to by the peer's goroutine
	present bool         // CONNACK's Session Present
	leave   func()       // sends DISCONNECT and returns when the connection is closed
	cut     func()       // breaks the connection without DISCONNECT; over TCP only
}

// newClient has room for more messages than any test sends, so that a peer never waits for the test.
func newClient() *client { return &client{arrived: make(chan message, 4096)} }

// next returns the next message that arrives.
func (c *client) next(t *testing.T) message {
	t.Helper()
	select {
	case m := <-c.arrived:
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	panic("unreachable")
}

func (c *client) expect(t *testing.T, want ...message) {
	t.Helper()
	for i, w := range want {
		if got := c.next(t); !reflect.DeepEqual(got, w) {
			t.Fatalf("message %d of %d:\n got %v\nwant %v", i+1, len(want), got, w)
		}
	}
}

// shut breaks a TCP connection under the client that uses it, which reads the end of the stream.
func shut(conn net.Conn) {
	tcp := conn.(*net.TCPConn)
	_ = tcp.CloseRead() // an error means that it is closed already
	_ = tcp.CloseWrite()
}

func (c *client) take(t *testing.T, n int) []message {
	t.Helper()
	var taken []message
	for range n {
		taken = append(taken, c.next(t))
	}
	return taken
}

// until returns what arrives before a message with the Topic Name.
func (c *client) until(t *testing.T, name string) []message {
	t.Helper()
	var before []message
	for m := c.next(t); m.name != name; m = c.next(t) {
		before = append(before, m)
	}
	return before
}

// A kind is a peer and what it can do.
type kind struct {
	name string
	peer
	versions   []version
	networks   []string
	embedded   bool // can withhold acknowledgements, and tells Session Present
	reconnects bool
}

var kinds = []kind{
	{"paho.mqtt.golang", paho3{}, []version{v31, v311}, []string{"tcp", "tls", "ws", "wss", "unix"}, true, true},
	{"paho.golang", paho5{}, []version{v5}, []string{"tcp", "tls", "unix"}, true, false},
	{"autopaho", autoPaho{}, []version{v5}, []string{"tcp", "tls", "ws", "wss"}, true, true},
	{"MQTT.js", mqttJS{}, []version{v31, v311, v5}, []string{"tcp", "tls", "ws", "wss", "unix"}, true, true},
	{"mosquitto", mosquitto{}, []version{v31, v311, v5}, []string{"tcp", "tls", "unix"}, false, false},
}

// everyPeer runs the test with every peer in every version that it knows, over TCP.
func everyPeer(t *testing.T, b *broker, test func(*testing.T, kind, settings)) {
	for _, k := range kinds {
		for _, v := range k.versions {
			t.Run(k.name+"/"+v.String(), func(t *testing.T) {
				need(t, k)
				test(t, k, settings{version: v, at: b.at("tcp"), clientID: fresh()})
			})
		}
	}
}

// everyNetwork is everyPeer over each network that the peer knows.
func everyNetwork(t *testing.T, b *broker, test func(*testing.T, kind, settings)) {
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		for _, network := range k.networks {
			t.Run(network, func(t *testing.T) {
				s.at, s.clientID = b.at(network), fresh()
				test(t, k, s)
			})
		}
	})
}

func need(t *testing.T, p peer) {
	t.Helper()
	if err := p.missing(); err != nil {
		t.Fatalf("%v: run interop/setup.sh", err)
	}
}

func connect(t *testing.T, p peer, s settings, filters ...string) *client {
	t.Helper()
	c, err := p.connect(t, s, filters...)
	if err != nil {
		t.Fatalf("connect as %s: %v", s.clientID, err)
	}
	return c
}

func publish(t *testing.T, p peer, s settings, messages ...message) {
	t.Helper()
	if err := p.publish(t, s, messages...); err != nil {
		t.Fatalf("publish as %s: %v", s.clientID, err)
	}
}

var ids atomic.Int64

// fresh returns a Client Identifier, also good as a topic level, that nobody has had before: short enough for 3.1.
func fresh() string { return fmt.Sprintf("c%d", ids.Add(1)) }

// soon is a context that ends with the test or when patience does.
func soon(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patience)
}
