package broker_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// wsFoe speaks WebSocket by hand, so that its frames can lie.
type wsFoe struct {
	net.Conn
	in *bufio.Reader
}

// upgradeRequest asks for WebSocket with these further header lines, which may replace others.
func upgradeRequest(path string, lines ...string) string {
	r := "GET " + path + " HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	return r + strings.Join(append(lines, "\r\n"), "\r\n")
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, attackPatience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(2 * attackPatience))
	return nc
}

// dialWS makes a WebSocket connection.
func dialWS(t *testing.T, addr string) *wsFoe {
	t.Helper()
	nc := dialRaw(t, addr)
	_, _ = io.WriteString(nc, upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: mqtt"))
	w := &wsFoe{nc, bufio.NewReader(nc)}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	return w
}

// The opcodes of frames, with the bit that says that the message ends here.
const (
	wsContinue = 0x0
	wsText     = 0x81
	wsBinary   = 0x82
	wsPart     = 0x02 // binary, to be continued
	wsClose    = 0x88
	wsPing     = 0x89
)

// wsFrame is a frame from a client, masked with zeros, that says it has n bytes.
func wsFrame(first byte, n uint64, payload []byte) []byte {
	b := []byte{first}
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), n)
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func (w *wsFoe) throw(first byte, payload []byte) {
	_, _ = w.Write(wsFrame(first, uint64(len(payload)), payload))
}

// receive returns the payloads of binary frames until n bytes of MQTT have come or the connection ends.
func (w *wsFoe) receive(n int) (got []byte, err error) {
	for len(got) < n {
		var head [2]byte
		if _, err := io.ReadFull(w.in, head[:]); err != nil {
			return got, err
		}
		size := uint64(head[1])
		switch size {
		case 126:
			var b [2]byte
			_, _ = io.ReadFull(w.in, b[:])
			size = uint64(binary.BigEndian.Uint16(b[:]))
		case 127:
			return got, fmt.Errorf("a frame of 64 KiB from the broker")
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(w.in, payload); err != nil {
			return got, err
		}
		if head[0] == wsBinary {
			got = append(got, payload...)
		}
	}
	return got, nil
}

// login sends a CONNECT and expects the CONNACK.
func (w *wsFoe) login(t *testing.T, id string) {
	t.Helper()
	c := hello(mqtt.V311, id)
	w.throw(wsBinary, c.Append(nil))
	if got, err := w.receive(4); err != nil || got[0] != 0x20 || got[3] != 0 {
		t.Fatalf("CONNACK over WebSocket: % x, %v", got, err)
	}
}

// mustEnd checks that the broker closes the connection.
func (w *wsFoe) mustEnd(t *testing.T, what string) {
	t.Helper()
	if got, err := w.receive(1 << 20); !attackEnded(err) {
		t.Errorf("%s: received % x, %v", what, got, err)
	}
	_ = w.Close()
}

func newWSArena(t *testing.T, cfg broker.Config) (a *arena, addr string) {
	t.Helper()
	ws := attackListen(t, transport.Config{Name: "ws", Network: transport.WS})
	return newArena(t, cfg, ws), ws.Addr().String()
}

// TestA05FrameAndPacketLengths: the attacker lets the lengths of WebSocket frames and MQTT packets contradict each
// other, in both directions. Frames mean nothing to MQTT: a packet that goes on in the next frame is waited for, bytes
// behind a packet are the next packet, and what never comes is not set aside in memory.
func TestA05FrameAndPacketLengths(t *testing.T) {
	a, addr := newWSArena(t, broker.Config{})
	publish := mqtt.Publish{Topic: []byte("a5/x"), Payload: []byte("payload"), QoS: mqtt.AtLeastOnce, PacketID: 5}
	packet := publish.Append(nil, mqtt.V311)

	w := dialWS(t, addr)
	w.login(t, "a5-split")
	for i := range packet { // each byte a frame, with a ping and an empty frame between
		w.throw(wsBinary, packet[i:i+1])
		w.throw(wsPing, []byte("?"))
		w.throw(wsBinary, nil)
	}
	if got, err := w.receive(4); err != nil || got[0] != 0x40 {
		t.Errorf("a packet in many frames: % x, %v", got, err)
	}
	w.throw(wsBinary, append(append(mqtt.AppendPingreq(nil), packet...), packet[:3]...))
	w.throw(wsPart, packet[3:5])
	w.throw(wsContinue, nil)
	w.throw(0x80|wsContinue, packet[5:])
	if got, err := w.receive(2 + 4 + 4); err != nil || got[0] != 0xD0 || got[2] != 0x40 || got[6] != 0x40 {
		t.Errorf("many packets in a frame: % x, %v", got, err)
	}

	before := memory()
	for i := range 50 {
		w := dialWS(t, addr)
		w.login(t, fmt.Sprint("a5-", i))
		switch i % 4 {
		case 0: // MQTT says more than the frame has
			w.throw(wsBinary, append(claim(0x30, 1<<20-6), "\x00\x01t"...))
		case 1: // the frame says more than will come
			_, _ = w.Write(wsFrame(wsBinary, 1<<62, mqtt.AppendPingreq(nil)))
			if got, err := w.receive(2); err != nil || got[0] != 0xD0 {
				t.Errorf("PINGREQ in a frame without end: % x, %v", got, err)
			}
		case 2: // both
			_, _ = w.Write(wsFrame(wsBinary, 1<<40, claim(0x30, 1<<20-6)))
		case 3: // MQTT says more than is allowed
			w.throw(wsBinary, claim(0x30, largest))
			w.mustEnd(t, "256 MB claimed in a frame")
		}
	}
	a.grownLess("lengths that lie", before, 8<<20)
}

// TestA05Frames: what breaks the rules of WebSocket ends that connection.
func TestA05Frames(t *testing.T) {
	_, addr := newWSArena(t, broker.Config{})
	ping := mqtt.AppendPingreq(nil)
	frames := map[string][]byte{
		"text":                    wsFrame(wsText, 2, ping),
		"unmasked":                {wsBinary, 2, ping[0], ping[1]},
		"reserved bit":            wsFrame(wsBinary|0x40, 2, ping),
		"reserved opcode":         wsFrame(0x83, 2, ping),
		"continuation of nothing": wsFrame(0x80, 2, ping),
		"length of 2^63":          append([]byte{wsBinary, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0}, 0, 0, 0, 0, 0xC0, 0),
		"ping of 200 bytes":       wsFrame(wsPing, 200, make([]byte, 200)),
		"ping in parts":           wsFrame(wsPing&^0x80, 0, nil),
		"new message inside one":  append(wsFrame(wsPart, 1, ping[:1]), wsFrame(wsBinary, 1, ping[1:])...),
		"close of one byte":       wsFrame(wsClose, 1, []byte{3}),
		"HTTP again":              []byte(upgradeRequest("/mqtt")),
	}
	for what, b := range frames {
		w := dialWS(t, addr)
		w.login(t, "a5")
		_, _ = w.Write(b)
		w.mustEnd(t, what)
	}
	w := dialWS(t, addr)
	w.login(t, "a5")
	go func() { // control frames without end, and no pong is read until the client wants something else
		for range 20_000 {
			w.throw(wsPing, []byte("ping"))
		}
		w.throw(wsBinary, ping)
	}()
	if got, err := w.receive(2); err != nil || got[0] != 0xD0 {
		t.Errorf("after 20,000 pings: % x, %v", got, err)
	}
}

// TestA05Upgrade: no MQTT without the subprotocol, from a foreign web page, elsewhere than on the path, or on a listener that
// is not for WebSocket, where an HTTP request is a malformed packet that gets no answer.
func TestA05Upgrade(t *testing.T) {
	a, addr := newWSArena(t, broker.Config{})
	requests := map[string]string{
		"no subprotocol":      upgradeRequest("/mqtt"),
		"another subprotocol": upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: chat, mqttx"),
		"foreign page":        upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: mqtt", "Origin: https://evil.example"),
		"another path":        upgradeRequest("/mqtt/../admin", "Sec-WebSocket-Protocol: mqtt"),
		"not an upgrade":      "GET /mqtt HTTP/1.1\r\nHost: broker\r\n\r\n",
		"posted":              strings.Replace(upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: mqtt"), "GET", "POST", 1),
		"endless header":      "GET /mqtt HTTP/1.1\r\nHost: broker\r\nX: " + strings.Repeat("x", 4<<20),
		"MQTT":                string(attackConnect([]byte{0}, []byte{0}, 2)),
	}
	for what, r := range requests {
		nc := dialRaw(t, addr)
		go func() {
			_, _ = io.WriteString(nc, r)
			_ = nc.(*net.TCPConn).CloseWrite()
		}()
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err == nil && resp.StatusCode < 400 {
			t.Errorf("%s: %s", what, resp.Status)
		}
		_ = nc.Close()
	}
	plain := dialRaw(t, a.addr)
	_, _ = io.WriteString(plain, upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: mqtt"))
	if got, err := io.ReadAll(plain); len(got) > 0 || err != nil && !attackEnded(err) {
		t.Errorf("upgrade on the TCP listener: answered %q, %v", got, err)
	}
	if n := a.broker.Stats().Connected; n != 2 {
		t.Errorf("%d clients are connected, want the bystander's two", n)
	}
}
