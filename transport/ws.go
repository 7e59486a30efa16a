package transport

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"

	"github.com/coder/websocket"
)

const (
	defaultWSPath   = "/mqtt"
	subprotocol     = "mqtt"
	oldSubprotocol  = "mqttv3.1" // what clients said before MQTT 3.1.1 settled the name
	maxForwardedFor = 32         // proxies in a row that we follow
)

// WSConfig is the WebSocket side of a listener or of [WSHandler]. Clients must
// offer the subprotocol "mqtt" (or "mqttv3.1"); there is no compression; frames
// may be of any size, they are never held in memory as a whole.
type WSConfig struct {
	Path string // where clients connect; empty means /mqtt; not used by WSHandler, whose mux decides

	// Origins lists the web sites whose scripts may connect, as host patterns
	// like "*.example.com" or, with a scheme, "https://example.com"; "*" is any
	// site. Programs that are not browsers send no origin and may always
	// connect, as may pages of the very host they connect to. Empty means
	// nobody else.
	Origins []string

	// TrustedProxies are the networks whose X-Forwarded-For is believed. Empty
	// means nobody's.
	TrustedProxies []netip.Prefix
}

func (c *WSConfig) validate() error {
	if c.Path != "" && c.Path[0] != '/' {
		return fmt.Errorf("WebSocket path %q does not begin with /", c.Path)
	}
	for _, o := range c.Origins {
		if _, err := path.Match(o, ""); err != nil {
			return fmt.Errorf("origin pattern %q: %w", o, err)
		}
	}
	return nil
}

// WSHandler returns a handler that upgrades requests to WebSocket and passes
// the connection to accept, which owns it. accept runs on the goroutine of the
// request and may return before the connection ends; the deadlines of the HTTP
// server no longer apply then. The name appears as Info.Listener.
func WSHandler(name string, cfg WSConfig, accept func(*Conn)) (http.Handler, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	u := &upgrader{cfg}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &Conn{info: Info{Listener: name, Network: WS, TLS: r.TLS}}
		if r.TLS != nil {
			c.info.Network = WSS
		}
		if u.upgrade(c, w, r) == nil { // otherwise the client has its answer
			accept(c)
		}
	}), nil
}

// upgrader turns HTTP requests into WebSocket connections.
type upgrader struct{ cfg WSConfig }

// upgrade answers r: with 101 and c as a WebSocket connection, or with the
// reason why not and an error.
func (u *upgrader) upgrade(c *Conn, w http.ResponseWriter, r *http.Request) error {
	sub := chooseSubprotocol(r.Header)
	if sub == "" && r.Header.Get("Upgrade") != "" {
		// [MQTT-6.0.0-3]
		http.Error(w, `MQTT over WebSocket needs the subprotocol "mqtt" in Sec-WebSocket-Protocol`, http.StatusBadRequest)
		return errors.New("no subprotocol mqtt offered")
	}
	hw := &hijackWriter{ResponseWriter: w}
	ws, err := websocket.Accept(hw, r, &websocket.AcceptOptions{
		Subprotocols:    []string{sub}, // [MQTT-6.0.0-4]
		OriginPatterns:  u.cfg.Origins,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return err
	}
	if c.Conn == nil {
		*c = *newConn(hw.conn, c.info)
	}
	c.push(newWSConn(ws, hw.conn, hw.br))
	c.info.Subprotocol = sub
	c.info.Remote = forwardedFor(c.info.Remote, r.Header, u.cfg.TrustedProxies)
	return nil
}

// chooseSubprotocol returns the best of the subprotocols that the client offers.
func chooseSubprotocol(h http.Header) string {
	best := ""
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(line, ",") {
			switch strings.TrimSpace(offer) {
			case subprotocol:
				return subprotocol
			case oldSubprotocol:
				best = oldSubprotocol
			}
		}
	}
	return best
}

// forwardedFor returns the client behind a chain of trusted proxies. Each proxy
// appends the address it was called from, so the chain is walked from its end
// for as long as the address at hand is trusted; what a client wrote in front
// of it is never believed.
func forwardedFor(peer net.Addr, h http.Header, trusted []netip.Prefix) net.Addr {
	chain := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	at := peer
	for range maxForwardedFor {
		if len(chain) == 0 || !within(ipOf(at), trusted) {
			break
		}
		last := strings.TrimSpace(chain[len(chain)-1])
		chain = chain[:len(chain)-1]
		next, ok := parseForwarded(last)
		if !ok {
			break
		}
		at = next
	}
	return at
}

// parseForwarded reads an IP address with or without a port.
func parseForwarded(s string) (net.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return net.TCPAddrFromAddrPort(ap), true
	}
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return nil, false
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)), true
}
