package conformance

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// patience is how long a step waits for the broker. It bounds a failure; no
// passing case comes near it.
const patience = 10 * time.Second

// maxPacket bounds what a broker can make us read.
const maxPacket = 1 << 20

// wire is a network connection, over either transport.
type wire interface {
	io.ReadWriter
	text(string) error // a WebSocket text frame
	drop()             // close at once
}

// errNoProtocol tells of a server that upgraded without a subprotocol.
var errNoProtocol = errors.New("upgrade without subprotocol")

type tcpWire struct{ net.Conn }

func dialTCP(ctx context.Context, address string) (wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	return tcpWire{conn}, err
}

func (tcpWire) text(string) error { return errors.New("text frames need WebSocket") }

func (w tcpWire) drop() { _ = w.Close() }

type wsWire struct {
	net.Conn
	ws *websocket.Conn
}

func dialWS(ctx context.Context, url string, offer []string) (*wsWire, error) {
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: offer})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(2 * maxPacket)
	return &wsWire{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws}, nil
}

func (w *wsWire) text(s string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.ws.Write(ctx, websocket.MessageText, []byte(s))
}

func (w *wsWire) drop() { _ = w.ws.CloseNow() }

// peer is one connection of a case: its wire, and what came in.
type peer struct {
	name     string
	version  Version
	wire     wire
	split    bool
	incoming chan incoming
	watch    *watch
	closed   bool // EOF was seen or we dropped it
}

// incoming is a packet, or the end of the connection.
type incoming struct {
	raw []byte
	end error
}

func newPeer(name string, v Version, w wire) *peer {
	p := &peer{name: name, version: v, wire: w, incoming: make(chan incoming, 1024), watch: newWatch(v)}
	go p.read()
	return p
}

// read cuts the stream into packets until it ends; drop ends it.
func (p *peer) read() {
	defer close(p.incoming)
	r := bufio.NewReader(p.wire)
	for {
		raw, err := readPacket(r)
		if err != nil {
			p.incoming <- incoming{end: err}
			return
		}
		p.incoming <- incoming{raw: raw}
	}
}

func readPacket(r *bufio.Reader) ([]byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > maxPacket {
		return nil, fmt.Errorf("the broker announces a packet of %d bytes", n)
	}
	raw := appendVarint([]byte{first}, int(n))
	head := len(raw)
	raw = slices.Grow(raw, int(n))[:head+int(n)]
	_, err = io.ReadFull(r, raw[head:])
	return raw, err
}

// send writes b, whole or byte by byte. A broker that has hung up already may
// make this fail, which the next expectation tells.
func (p *peer) send(b []byte) {
	if !p.split {
		_, _ = p.wire.Write(b)
		return
	}
	for i := range b {
		_, _ = p.wire.Write(b[i : i+1])
	}
}

func (p *peer) close() {
	p.closed = true
	p.wire.drop()
}

// next waits for a packet on one of the peers and checks it.
func next(peers []*peer, deadline <-chan time.Time) (*peer, *packet, error) {
	p, in, err := receive(peers, deadline)
	if err != nil {
		return nil, nil, err
	}
	if in.end != nil {
		p.closed = true
		return p, nil, nil
	}
	got, err := decode(p.version, in.raw)
	if err != nil {
		return p, nil, err
	}
	return p, got, p.watch.received(got)
}

// receive selects over at most two peers.
func receive(peers []*peer, deadline <-chan time.Time) (*peer, incoming, error) {
	first, second := peers[0], peers[len(peers)-1]
	select {
	case in, ok := <-first.incoming:
		return first, ended(in, ok), nil
	case in, ok := <-second.incoming:
		return second, ended(in, ok), nil
	case <-deadline:
		names := make([]string, len(peers))
		for i, p := range peers {
			names[i] = p.name
		}
		return nil, incoming{}, fmt.Errorf("nothing came on %q within %s", strings.Join(names, "|"), patience)
	}
}

func ended(in incoming, ok bool) incoming {
	if !ok {
		in.end = io.EOF
	}
	return in
}
