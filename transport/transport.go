// Package transport knows how byte streams come into being: listeners and
// dialers for TCP, TLS, WebSocket and Unix sockets, certificates that follow
// their files, and the PROXY protocol of load balancers. It refuses to know
// what the bytes mean; of MQTT it knows one thing, the name of the WebSocket
// subprotocol.
//
// A [Listener] finishes every handshake (PROXY header, TLS, WebSocket) on
// goroutines of its own, limited in number and in time, so that a peer that
// says nothing keeps nobody else waiting. What Accept returns is ready for the
// first byte of the protocol above. [Dial] is the other end.
package transport

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// The networks of a [Config].
const (
	TCP  = "tcp"
	TLS  = "tls"
	WS   = "ws"
	WSS  = "wss"
	Unix = "unix"
)

const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxPending       = 1024
	defaultUnixMode         = fs.FileMode(0o660)

	// closeWait is how long Close may spend on a polite end of TLS or
	// WebSocket before the socket is simply closed.
	closeWait = 100 * time.Millisecond
)

// Config describes one listener. Only Network and Address are required.
type Config struct {
	Name    string // shown in logs and to authenticators; empty means "network://address"
	Network string // "tcp", "tls", "ws", "wss" or "unix"
	Address string // host:port, an IPv6 host in brackets, port 0 lets the kernel choose; or the path of the Unix socket

	TLS *TLSConfig // required by "tls" and "wss", refused by the others
	WS  *WSConfig  // for "ws" and "wss"; nil means the zero WSConfig

	// ProxyProtocol names the networks whose peers must begin with a PROXY
	// header, version 1 or 2. From all other peers the header is not
	// understood: their bytes are the protocol above, whatever they say.
	// Empty means nobody. Not for Unix sockets, whose peers have no address.
	ProxyProtocol []netip.Prefix

	UnixMode         fs.FileMode   // permission bits of the Unix socket; zero means 0660
	HandshakeTimeout time.Duration // for PROXY, TLS and WebSocket together; zero means 10 s
	MaxPending       int           // handshakes under way at a time, beyond it the oldest is dropped; zero means 1024

	// HandshakeFailed is told of each connection that ended before Accept
	// could return it, the dropped ones included. It runs on that
	// connection's goroutine, possibly many at a time, and must return
	// quickly; [Listener.Close] waits for it. nil means nobody is told.
	HandshakeFailed func(remote net.Addr, err error)

	Log *slog.Logger // rare events of the listener itself; nil means slog.Default()
}

// Loopback reports whether only programs of this machine can reach the
// listener: its host is localhost or a loopback address, or it is a Unix socket.
func (c Config) Loopback() bool {
	if c.Network == Unix {
		return true
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// withDefaults returns c with every zero value replaced by what it means.
func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = c.Network + "://" + c.Address
	}
	if c.WS == nil {
		c.WS = &WSConfig{}
	}
	if c.UnixMode == 0 {
		c.UnixMode = defaultUnixMode
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = defaultHandshakeTimeout
	}
	if c.MaxPending == 0 {
		c.MaxPending = defaultMaxPending
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Validate reports the first setting that cannot work, in words for whoever
// wrote the configuration. It opens no file and no socket; [Listen] calls it.
func (c Config) Validate() error {
	if err := c.validateNetwork(); err != nil {
		return err
	}
	switch {
	case c.HandshakeTimeout < 0:
		return fmt.Errorf("handshake timeout %v is negative", c.HandshakeTimeout)
	case c.MaxPending < 0:
		return fmt.Errorf("limit of %d pending handshakes is negative", c.MaxPending)
	case c.UnixMode&^fs.ModePerm != 0:
		return fmt.Errorf("mode %#o of the unix socket has more than permission bits", uint32(c.UnixMode))
	}
	if c.WS == nil {
		return nil
	}
	return c.WS.validate()
}

func (c Config) validateNetwork() error {
	switch c.Network {
	case TCP, WS:
		if c.TLS != nil {
			return fmt.Errorf("network %q takes no TLS settings: use %q", c.Network, secure[c.Network])
		}
		return checkAddress(c.Address, defaultPort[c.Network])
	case TLS, WSS:
		if c.TLS == nil {
			return fmt.Errorf("network %q needs TLS settings", c.Network)
		}
		if err := c.TLS.validate(); err != nil {
			return err
		}
		return checkAddress(c.Address, defaultPort[c.Network])
	case Unix:
		return c.validateUnix()
	}
	return fmt.Errorf("unknown network %q: use tcp, tls, ws, wss or unix", c.Network)
}

func (c Config) validateUnix() error {
	switch {
	case c.Address == "":
		return errors.New("path of the unix socket is empty")
	case c.TLS != nil:
		return errors.New("unix sockets take no TLS settings")
	case len(c.ProxyProtocol) > 0:
		return errors.New("unix sockets take no PROXY protocol: their peers have no address to trust")
	}
	return nil
}

var (
	secure      = map[string]string{TCP: TLS, WS: WSS}
	defaultPort = map[string]string{TCP: "1883", TLS: "8883", WS: "8083", WSS: "8084"}
)
