package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
)

// The few numbers of RFC 1928 and RFC 1929 that a client needs.
const (
	socksVersion      = 5
	socksNoAuth       = 0
	socksPassword     = 2
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksIPv6         = 4
	socksPasswordAuth = 1 // version of the sub-negotiation
)

var socksErrors = []string{
	1: "general failure",
	2: "not allowed by its rules",
	3: "network unreachable",
	4: "host unreachable",
	5: "connection refused",
	6: "time to live expired",
	7: "command not supported",
	8: "address type not supported",
}

// connectSOCKS5 asks a SOCKS5 proxy for a connection to address, whose name
// the proxy resolves. It reads the answers and not one byte of what follows.
func connectSOCKS5(conn io.ReadWriter, user *url.Userinfo, address string) error {
	request, err := appendSOCKSConnect(nil, address)
	if err != nil {
		return err
	}
	if err := authenticateSOCKS(conn, user); err != nil {
		return fmt.Errorf("SOCKS5 authentication: %w", err)
	}
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("sending the SOCKS5 request: %w", err)
	}
	if err := readSOCKSReply(conn); err != nil {
		return fmt.Errorf("SOCKS5 connection to %s: %w", address, err)
	}
	return nil
}

func authenticateSOCKS(conn io.ReadWriter, user *url.Userinfo) error {
	hello := []byte{socksVersion, 1, socksNoAuth}
	if user != nil {
		hello = []byte{socksVersion, 2, socksNoAuth, socksPassword}
	}
	var answer [2]byte
	if err := ask(conn, hello, answer[:]); err != nil {
		return err
	}
	switch {
	case answer[0] != socksVersion:
		return fmt.Errorf("proxy speaks version %d", answer[0])
	case answer[1] == socksNoAuth:
		return nil
	case answer[1] == socksPassword && user != nil:
		return sendSOCKSPassword(conn, user)
	}
	return fmt.Errorf("proxy wants a way that we do not know, or a user and password: %w", ErrProxyLogin)
}

func sendSOCKSPassword(conn io.ReadWriter, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) == 0 || len(name) > 255 || len(password) > 255 {
		return errors.New("user or password is empty or longer than 255 bytes")
	}
	b := append([]byte{socksPasswordAuth, byte(len(name))}, name...)
	b = append(append(b, byte(len(password))), password...)
	var answer [2]byte
	if err := ask(conn, b, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return ErrProxyLogin
	}
	return nil
}

// ask sends a question and reads the answer of fixed length.
func ask(conn io.ReadWriter, question, answer []byte) error {
	if _, err := conn.Write(question); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return noEOF(err)
}

func appendSOCKSConnect(b []byte, address string) ([]byte, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number", port)
	}
	b = append(b, socksVersion, socksConnect, 0)
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil && len(host) > 255:
		return nil, fmt.Errorf("host name is longer than 255 bytes")
	case err != nil:
		b = append(append(b, socksName, byte(len(host))), host...)
	case ip.Is4():
		b = append(append(b, socksIPv4), ip.AsSlice()...)
	default:
		b = append(append(b, socksIPv6), ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, uint16(n)), nil
}

// readSOCKSReply reads status, and the address that the proxy connects from,
// which does not matter here.
func readSOCKSReply(r io.Reader) error {
	var head [5]byte // version, status, reserved, type of address, its first byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return noEOF(err)
	}
	if head[0] != socksVersion {
		return fmt.Errorf("proxy speaks version %d", head[0])
	}
	if status := int(head[1]); status != 0 {
		if status < len(socksErrors) {
			return errors.New(socksErrors[status])
		}
		return fmt.Errorf("status %d", status)
	}
	rest := map[byte]int{socksIPv4: 4, socksIPv6: 16, socksName: 1 + int(head[4])}[head[3]]
	if rest == 0 {
		return fmt.Errorf("unknown type of address %d", head[3])
	}
	_, err := io.CopyN(io.Discard, r, int64(rest-1+2)) // one byte has been read; two of port follow
	return noEOF(err)
}
