package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	proxyV1Prefix    = "PROXY "
	proxyV2Signature = "\r\n\r\n\x00\r\nQUIT\n"

	maxProxyV1 = 107  // bytes of a version 1 line, CR LF included
	maxProxyV2 = 4096 // bytes after the fixed 16 of version 2
)

var errNotProxy = errors.New("connection does not begin with one")

// readProxyHeader reads a PROXY header of version 1 or 2, and not one byte
// more. The address is the client's, or nil when the proxy speaks for itself
// or does not know: the peer of the socket is the client then.
func readProxyHeader(r io.Reader) (net.Addr, error) {
	// Both versions are longer than the signature of version 2.
	start := make([]byte, len(proxyV2Signature), maxProxyV1)
	if err := readProxyStart(r, start); err != nil {
		return nil, err
	}
	if string(start) == proxyV2Signature {
		return readProxyV2(r)
	}
	line, err := readThrough(r, start, "\r\n", maxProxyV1)
	if err != nil {
		return nil, err
	}
	return parseProxyV1(string(line[:len(line)-2]))
}

// readProxyStart fills b and gives up at the first byte that no header has
// there: a client that speaks MQTT is refused at once, not at the time-out.
func readProxyStart(r io.Reader, b []byte) error {
	for n := 0; n < len(b); {
		m, err := r.Read(b[n:])
		n += m
		v1 := min(n, len(proxyV1Prefix))
		if string(b[:n]) != proxyV2Signature[:n] && string(b[:v1]) != proxyV1Prefix[:v1] {
			return errNotProxy
		}
		if err != nil && n < len(b) {
			return noEOF(err)
		}
	}
	return nil
}

// readThrough appends bytes of r to b until b ends in end, reading one at a
// time so that what follows stays in the socket. More than limit bytes in all
// is an error.
func readThrough(r io.Reader, b []byte, end string, limit int) ([]byte, error) {
	var one [1]byte
	for !bytes.HasSuffix(b, []byte(end)) {
		if len(b) >= limit {
			return nil, fmt.Errorf("no end within %d bytes", limit)
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, noEOF(err)
		}
		b = append(b, one[0])
	}
	return b, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseProxyV1 reads the line without its end:
// "PROXY TCP4 source destination source-port destination-port".
func parseProxyV1(line string) (net.Addr, error) {
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" {
		return nil, nil // whatever follows is not for us
	}
	if f[1] != "TCP4" && f[1] != "TCP6" || len(f) != 6 {
		return nil, fmt.Errorf("malformed line %q", line)
	}
	src, err := parseProxyV1Addr(f[1], f[2], f[4])
	if err != nil {
		return nil, fmt.Errorf("source in line %q: %w", line, err)
	}
	if _, err := parseProxyV1Addr(f[1], f[3], f[5]); err != nil {
		return nil, fmt.Errorf("destination in line %q: %w", line, err)
	}
	return net.TCPAddrFromAddrPort(src), nil
}

func parseProxyV1Addr(family, host, port string) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if ip.Is4() != (family == "TCP4") || ip.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%s is not of family %s", host, family)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, fmt.Errorf("bad port %q", port)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// readProxyV2 reads what follows the signature: version and command, family
// and protocol, the length of the rest; then addresses and extensions.
func readProxyV2(r io.Reader) (net.Addr, error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, noEOF(err)
	}
	size := int(binary.BigEndian.Uint16(fixed[2:]))
	if size > maxProxyV2 {
		return nil, fmt.Errorf("%d bytes of addresses, limit %d", size, maxProxyV2)
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, noEOF(err)
	}
	switch fixed[0] {
	case 0x20: // LOCAL: a health check of the proxy, no client behind it
		return nil, nil
	case 0x21: // PROXY
		return parseProxyV2Addr(fixed[1], rest)
	}
	return nil, fmt.Errorf("unknown version or command %#02x", fixed[0])
}

// parseProxyV2Addr returns the source; what follows the addresses (TLVs) is
// skipped.
func parseProxyV2Addr(family byte, b []byte) (net.Addr, error) {
	switch family {
	case 0x11:
		return proxyV2IP(b, 4)
	case 0x21:
		return proxyV2IP(b, 16)
	case 0x31:
		return proxyV2Unix(b)
	case 0x00, 0x12, 0x22, 0x32: // unspecified, or datagrams: nothing that we could use
		return nil, nil
	}
	return nil, fmt.Errorf("unknown address family %#02x", family)
}

// proxyV2IP reads source, destination (size bytes each) and the two ports.
func proxyV2IP(b []byte, size int) (net.Addr, error) {
	if len(b) < 2*size+4 {
		return nil, fmt.Errorf("%d bytes of addresses, need %d", len(b), 2*size+4)
	}
	ip, _ := netip.AddrFromSlice(b[:size])
	port := binary.BigEndian.Uint16(b[2*size:])
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port)), nil
}

// proxyV2Unix reads two paths of 108 bytes, each ended by NUL if shorter.
func proxyV2Unix(b []byte) (net.Addr, error) {
	const size = 108
	if len(b) < 2*size {
		return nil, fmt.Errorf("%d bytes of addresses, need %d", len(b), 2*size)
	}
	path, _, _ := bytes.Cut(b[:size], []byte{0})
	if !utf8.Valid(path) || bytes.ContainsFunc(path, unicode.IsControl) {
		return nil, fmt.Errorf("unprintable path %q", path)
	}
	return &net.UnixAddr{Name: string(path), Net: "unix"}, nil
}
