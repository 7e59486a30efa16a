package conformance

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// packet is a packet of the server, decoded.
type packet struct {
	description
	version Version
	raw     []byte
}

func (p *packet) String() string {
	words := []string{p.name}
	for _, f := range p.fields {
		words = append(words, f.String())
	}
	for _, c := range p.codes {
		words = append(words, fmt.Sprintf("%02X", c))
	}
	return strings.Join(words, " ")
}

// decode decodes a whole packet from a server, strictly.
func decode(v Version, raw []byte) (*packet, error) {
	p := &packet{version: v, raw: raw}
	p.name = packetNames[raw[0]>>4]
	r := &reader{b: raw[1:], version: v}
	if n := r.varint(); n != len(r.b) {
		return nil, fmt.Errorf("packet % X has a wrong Remaining Length", raw)
	}
	r.packet(p, raw[0]&15)
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes are left over", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("%s % X: %w", p.name, raw[:min(len(raw), 64)], r.err)
	}
	return p, nil
}

// reader takes fields off the front of b; after an error it returns zeros.
type reader struct {
	b       []byte
	version Version
	err     error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("it ends within a field")
		return make([]byte, 4)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) byte() byte { return r.take(1)[0] }

func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }

func (r *reader) string() string {
	s := string(r.take(int(r.uint16())))
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		r.fail("string %q is not good UTF-8", s)
	}
	return s
}

func (r *reader) varint() int {
	n, size := binary.Uvarint(r.b[:min(4, len(r.b))])
	if size <= 0 || size > 1 && r.b[size-1] == 0 {
		r.fail("bad Variable Byte Integer")
		return 0
	}
	r.b = r.b[size:]
	return int(n)
}

func (r *reader) packet(p *packet, flags byte) {
	if p.name == "PUBLISH" {
		r.publish(p, flags)
		return
	}
	if want := map[string]byte{"PUBREL": 2}[p.name]; flags != want {
		r.fail("flags are %04b", flags)
	}
	switch p.name {
	case "CONNACK":
		r.connack(p)
	case "PUBACK", "PUBREC", "PUBREL", "PUBCOMP":
		r.id(p)
		r.reason(p)
	case "SUBACK", "UNSUBACK":
		r.id(p)
		r.optional(p)
		p.codes = slices.Clone(r.take(len(r.b)))
	case "PINGRESP":
	case "DISCONNECT", "AUTH":
		r.reason(p)
	default:
		r.fail("a server does not send it")
	}
}

func (r *reader) connack(p *packet) {
	flags := r.byte()
	if flags > 1 {
		r.fail("Connect Acknowledge Flags are %08b [MQTT-3.2.2-1]", flags)
	}
	p.fields = append(p.fields, r.number("sp", int(flags)))
	p.codes = []byte{r.byte()}
	if p.codes[0] == 1 && len(r.b) == 0 || p.codes[0] == 0x84 {
		r.version = V311 // a version that the server does not speak may be refused in either form
		r.b = nil
	}
	r.optional(p)
}

func (r *reader) publish(p *packet, flags byte) {
	qos := flags >> 1 & 3
	if qos == 3 {
		r.fail("QoS is 3")
	}
	p.fields = append(p.fields, field{"topic", r.string()}, r.number("qos", int(qos)),
		r.number("retain", int(flags&1)), r.number("dup", int(flags>>3)))
	if qos > 0 {
		r.id(p)
	}
	r.optional(p)
	p.fields = append(p.fields, field{"payload", string(r.take(len(r.b)))})
}

func (r *reader) id(p *packet) {
	n := r.uint16()
	if n == 0 {
		r.fail("Packet Identifier is 0")
	}
	p.fields = append(p.fields, field{"id", strconv.Itoa(int(n))})
}

// optional reads the properties, in version 5.
func (r *reader) optional(p *packet) {
	if r.version == V5 {
		p.fields = append(p.fields, r.properties(p.name)...)
	}
}

// reason reads a Reason Code and properties, both of which may be left out.
func (r *reader) reason(p *packet) {
	if r.version != V5 {
		return
	}
	p.codes = []byte{0}
	if len(r.b) > 0 {
		p.codes[0] = r.byte()
	}
	if len(r.b) > 0 {
		r.optional(p)
	}
}
