package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Info says where a connection came from. It does not change; the ConnectionState
// is shared by all copies and must not be modified.
type Info struct {
	Listener    string               // Config.Name, or the name given to WSHandler; empty when dialled
	Network     string               // "tcp", "tls", "ws", "wss" or "unix"
	Remote      net.Addr             // the client: as declared by a trusted proxy, otherwise Peer
	Peer        net.Addr             // the other end of the socket
	TLS         *tls.ConnectionState // after the handshake; nil without TLS
	Subprotocol string               // "mqtt" or "mqttv3.1" on WebSocket, otherwise empty
}

// Where [Info.CertIdentity] looks for a name.
const (
	IdentityCN    = "cn"    // common name of the subject
	IdentityDNS   = "dns"   // first DNS name among the alternative names
	IdentityURI   = "uri"   // first URI among the alternative names
	IdentityEmail = "email" // first e-mail address among the alternative names
)

// CertIdentity returns the name in the client's certificate, or "" when there
// is no verified certificate, no such name in it, or from is not one of the
// Identity constants. The name is the certificate's text, unescaped.
func (i Info) CertIdentity(from string) string {
	if i.TLS == nil || len(i.TLS.VerifiedChains) == 0 {
		return ""
	}
	cert := i.TLS.PeerCertificates[0]
	switch from {
	case IdentityCN:
		return cert.Subject.CommonName
	case IdentityDNS:
		return first(cert.DNSNames)
	case IdentityEmail:
		return first(cert.EmailAddresses)
	case IdentityURI:
		if len(cert.URIs) > 0 {
			return cert.URIs[0].String()
		}
	}
	return ""
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// Conn is a connection whose handshakes are done. Like any net.Conn it may be
// read by one goroutine while another writes, and closed by a third.
//
// On WebSocket a read deadline may pass and be set anew only on accepted
// connections; on dialled ones, and for writes everywhere above TLS, a deadline
// that passes in the middle of a frame or record ends the stream.
type Conn struct {
	net.Conn          // the stream above TLS and WebSocket
	base     net.Conn // the socket below them
	layered  bool     // Conn is not base
	info     Info
}

// newConn wraps a stream that may have TLS of its own, as from an https proxy.
func newConn(stream net.Conn, info Info) *Conn {
	base := socketOf(stream)
	_, isTLS := stream.(*tls.Conn)
	info.Peer = base.RemoteAddr()
	info.Remote = info.Peer
	return &Conn{Conn: stream, base: base, layered: isTLS, info: info}
}

// socketOf returns the connection below TLS.
func socketOf(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// push puts a layer over the stream.
func (c *Conn) push(layer net.Conn) { c.Conn, c.layered = layer, true }

// Info returns where c came from.
func (c *Conn) Info() Info { return c.info }

// RemoteAddr returns Info().Remote.
func (c *Conn) RemoteAddr() net.Addr { return c.info.Remote }

// NetConn returns the stream without this wrapper. On "tcp" and "unix" it is
// the *net.TCPConn or *net.UnixConn, for those who want net.Buffers to become
// one system call. Close c, not what NetConn returns.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// SyscallConn implements syscall.Conn for connections without TLS or
// WebSocket, with or without a PROXY header: no byte that follows the header
// has been read. Otherwise the error is errors.ErrUnsupported.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.base.(syscall.Conn); ok && !c.layered {
		return sc.SyscallConn()
	}
	return nil, fmt.Errorf("raw access to a %s connection: %w", c.info.Network, errors.ErrUnsupported)
}

// Close ends the connection and wakes blocked reads and writes. With TLS or
// WebSocket it says goodbye first, which takes at most 100 ms when the peer
// does not listen; otherwise it does not block.
func (c *Conn) Close() error {
	if !c.layered {
		return c.Conn.Close()
	}
	hard := time.AfterFunc(closeWait, func() { _ = c.base.Close() })
	defer hard.Stop()
	return c.Conn.Close()
}
