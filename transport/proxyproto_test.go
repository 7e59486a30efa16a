package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

// v2 builds a header of version 2 with n as its length field.
func v2(command, family byte, n int, rest string) string {
	b := append([]byte(proxyV2Signature), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(n))) + rest
}

func v2ok(command, family byte, rest string) string { return v2(command, family, len(rest), rest) }

const (
	v2four = "\xc0\x00\x02\x01" + "\xc0\x00\x02\x02" + "\x12\x34\x07\x5b"
	v2six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x12\x34\x07\x5b"
)

func v2path(path string) string {
	return path + strings.Repeat("\x00", 108-len(path)) + strings.Repeat("\x00", 108)
}

// proxyHeaders: want is the address, "-" for none declared, or "!" and a part
// of the error.
var proxyHeaders = []struct{ name, header, want string }{
	{"v1 TCP4", "PROXY TCP4 192.0.2.1 192.0.2.2 4660 1883\r\n", "192.0.2.1:4660"},
	{"v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 4660 1883\r\n", "[2001:db8::1]:4660"},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "-"},
	{"v1 unknown with more", "PROXY UNKNOWN ffff::1 ffff::2 1 2 what ever\r\n", "-"},
	{"v1 longest", "PROXY UNKNOWN " + strings.Repeat("x", 107-16) + "\r\n", "-"},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 108-16) + "\r\n", "!no end within 107 bytes"},
	{"v1 never ends", "PROXY UNKNOWN " + strings.Repeat("x", 5000), "!no end within 107 bytes"},
	{"v1 family", "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "!malformed"},
	{"v1 UDP", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "!malformed"},
	{"v1 field missing", "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "!malformed"},
	{"v1 field too many", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "!malformed"},
	{"v1 two blanks", "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", "!malformed"},
	{"v1 wrong family", "PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", "!not of family"},
	{"v1 wrong family 6", "PROXY TCP6 192.0.2.1 2001:db8::2 1 2\r\n", "!not of family"},
	{"v1 bad destination", "PROXY TCP4 192.0.2.1 192.0.2 1 2\r\n", "!destination"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", "!not of family"},
	{"v1 name", "PROXY TCP4 localhost 192.0.2.2 1 2\r\n", "!source"},
	{"v1 port too big", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "!bad port"},
	{"v1 port with zero", "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "!bad port"},
	{"v1 port with sign", "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "!bad port"},
	{"v1 ends in the name", "PROXY AB\r\n\r\n", "!malformed"},
	{"v1 lower case", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "!does not begin"},
	{"MQTT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "!does not begin"},
	{"TLS", "\x16\x03\x01\x02\x00", "!does not begin"},
	{"v2 TCP4", v2ok(0x21, 0x11, v2four), "192.0.2.1:4660"},
	{"v2 TCP6", v2ok(0x21, 0x21, v2six), "[2001:db8::1]:4660"},
	{"v2 unix", v2ok(0x21, 0x31, v2path("/run/x.sock")), "/run/x.sock"},
	{"v2 unix full", v2ok(0x21, 0x31, v2path(strings.Repeat("p", 108))), strings.Repeat("p", 108)},
	{"v2 unix unprintable", v2ok(0x21, 0x31, v2path("/run/\x1b[2J")), "!unprintable"},
	{"v2 unix short", v2ok(0x21, 0x31, v2path("")[:215]), "!need 216"},
	{"v2 TLVs skipped", v2ok(0x21, 0x11, v2four+"\x04\x00\x03abc"), "192.0.2.1:4660"},
	{"v2 4096", v2ok(0x21, 0x11, v2four+strings.Repeat("t", 4096-12)), "192.0.2.1:4660"},
	{"v2 4097", v2ok(0x21, 0x11, v2four+strings.Repeat("t", 4097-12)), "!limit 4096"},
	{"v2 65535", v2(0x21, 0x11, 65535, ""), "!limit 4096"},
	{"v2 TCP4 short", v2ok(0x21, 0x11, v2four[:11]), "!need 12"},
	{"v2 TCP6 short", v2ok(0x21, 0x21, v2six[:35]), "!need 36"},
	{"v2 local", v2ok(0x20, 0x00, ""), "-"},
	{"v2 local with address", v2ok(0x20, 0x11, v2four), "-"},
	{"v2 unspecified", v2ok(0x21, 0x00, "whatever"), "-"},
	{"v2 datagrams", v2ok(0x21, 0x12, v2four), "-"},
	{"v2 command", v2ok(0x22, 0x11, v2four), "!command 0x22"},
	{"v2 version 3", v2ok(0x31, 0x11, v2four), "!command 0x31"},
	{"v2 family", v2ok(0x21, 0x41, v2four), "!family 0x41"},
	{"v2 protocol", v2ok(0x21, 0x13, v2four), "!family 0x13"},
}

func TestProxyHeader(t *testing.T) {
	const after = "\x10\x0cthe next protocol"
	for _, tt := range proxyHeaders {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.header + after)
			got := describe(readProxyHeader(r))
			if part, bad := strings.CutPrefix(tt.want, "!"); bad {
				if !strings.HasPrefix(got, "!") || !strings.Contains(got, part) {
					t.Fatalf("got %s, want an error with %q", got, part)
				}
				return
			}
			if got != tt.want {
				t.Fatalf("got %s, want %s", got, tt.want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != after {
				t.Fatalf("left %q unread, want %q", rest, after)
			}
			slow := iotest.OneByteReader(strings.NewReader(tt.header + after))
			if got := describe(readProxyHeader(slow)); got != tt.want {
				t.Fatalf("byte by byte: got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestProxyHeaderTruncated ends each good header at every byte.
func TestProxyHeaderTruncated(t *testing.T) {
	for _, tt := range proxyHeaders {
		if strings.HasPrefix(tt.want, "!") {
			continue
		}
		for n := range len(tt.header) {
			_, err := readProxyHeader(strings.NewReader(tt.header[:n]))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s, %d bytes: error %v", tt.name, n, err)
			}
		}
	}
}

func describe(addr net.Addr, err error) string {
	switch {
	case err != nil:
		return "!" + err.Error()
	case addr == nil:
		return "-"
	}
	return addr.String()
}

// FuzzProxyHeader: no panic, bounded reading, the same answer however the
// bytes arrive; and what was accepted, written anew, reads the same.
func FuzzProxyHeader(f *testing.F) {
	for _, tt := range proxyHeaders {
		f.Add([]byte(tt.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		addr, err := readProxyHeader(r)
		if used := len(b) - r.Len(); used > 16+maxProxyV2 {
			t.Fatalf("read %d bytes", used)
		}
		slow, slowErr := readProxyHeader(iotest.OneByteReader(bytes.NewReader(b)))
		if (err == nil) != (slowErr == nil) || fmt.Sprint(addr) != fmt.Sprint(slow) {
			t.Fatalf("at once: %v, %v; byte by byte: %v, %v", addr, err, slow, slowErr)
		}
		tcp, ok := addr.(*net.TCPAddr)
		if !ok {
			return
		}
		again, err := readProxyHeader(strings.NewReader(v1Line(tcp.AddrPort())))
		if err != nil || again.String() != addr.String() {
			t.Fatalf("%v written anew reads %v, %v", addr, again, err)
		}
	})
}

func v1Line(a netip.AddrPort) string {
	family := "TCP6"
	if a.Addr().Is4() {
		family = "TCP4"
	}
	return fmt.Sprintf("PROXY %s %s %[2]s %d %[3]d\r\n", family, a.Addr(), a.Port())
}

func proxied(t *testing.T, cfg Config, networks ...string) *Listener {
	for _, n := range networks {
		cfg.ProxyProtocol = append(cfg.ProxyProtocol, netip.MustParsePrefix(n))
	}
	return open(t, cfg)
}

func TestProxyOnTCP(t *testing.T) {
	for _, header := range []string{"PROXY TCP4 192.0.2.1 192.0.2.2 4660 1883\r\n", v2ok(0x21, 0x11, v2four)} {
		l := proxied(t, Config{Network: TCP}, "10.0.0.0/8", "127.0.0.0/8")
		client := connect(t, l)
		io.WriteString(client, header+"hello")
		c := accept(t, l)
		if got := c.RemoteAddr().String(); got != "192.0.2.1:4660" {
			t.Errorf("remote %s", got)
		}
		if got := c.Info().Peer.String(); got != client.LocalAddr().String() {
			t.Errorf("peer %s, want %s", got, client.LocalAddr())
		}
		expectRaw(t, c, "hello") // nothing was read beyond the header
	}
}

func TestProxyLocalKeepsPeer(t *testing.T) {
	l := proxied(t, Config{Network: TCP}, "127.0.0.1/32")
	client := connect(t, l)
	io.WriteString(client, "PROXY UNKNOWN\r\nx")
	c := accept(t, l)
	if got := c.RemoteAddr().String(); got != client.LocalAddr().String() {
		t.Errorf("remote %s, want %s", got, client.LocalAddr())
	}
	expect(t, c, "x")
}

func TestProxyOfStrangersIsNotParsed(t *testing.T) {
	l := proxied(t, Config{Network: TCP}, "192.0.2.0/24")
	client := connect(t, l)
	const line = "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"
	io.WriteString(client, line)
	c := accept(t, l)
	if got := c.RemoteAddr().String(); got != client.LocalAddr().String() {
		t.Errorf("remote %s: a stranger chose its address", got)
	}
	expect(t, c, line)
}

func TestProxyRequired(t *testing.T) {
	failed := make(chan error, 1)
	l := proxied(t, Config{Network: TCP, HandshakeFailed: func(_ net.Addr, err error) { failed <- err }}, "127.0.0.0/8")
	client := connect(t, l)
	io.WriteString(client, "\x10") // the first byte of a CONNECT is enough
	expectEnd(t, client)
	if err := <-failed; !errors.Is(err, errNotProxy) {
		t.Errorf("reported %v", err)
	}
}
