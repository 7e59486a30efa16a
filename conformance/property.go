package conformance

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// kind is the wire type of a property.
type kind byte

const (
	kindByte kind = iota
	kindUint16
	kindUint32
	kindVarint
	kindString // binary data has the same layout
	kindBinary
	kindPair
)

// property describes one row of §2.2.2.2.
type property struct {
	id   byte
	name string
	kind kind
	in   string // packets that a server may send it in
}

var properties = []property{
	{0x01, "format", kindByte, "PUBLISH"},
	{0x02, "expiry", kindUint32, "PUBLISH"},
	{0x03, "content-type", kindString, "PUBLISH"},
	{0x08, "response-topic", kindString, "PUBLISH"},
	{0x09, "correlation", kindBinary, "PUBLISH"},
	{0x0B, "subid", kindVarint, "PUBLISH"},
	{0x11, "session-expiry", kindUint32, "CONNACK"}, // not in a DISCONNECT of the server [MQTT-3.14.2-2]
	{0x12, "assigned-id", kindString, "CONNACK"},
	{0x13, "server-keepalive", kindUint16, "CONNACK"},
	{0x15, "auth-method", kindString, "CONNACK AUTH"},
	{0x16, "auth-data", kindBinary, "CONNACK AUTH"},
	{0x17, "request-problem", kindByte, ""},
	{0x18, "delay", kindUint32, ""},
	{0x19, "request-response", kindByte, ""},
	{0x1A, "response-info", kindString, "CONNACK"},
	{0x1C, "server-reference", kindString, "CONNACK DISCONNECT"},
	{0x1F, "reason", kindString, "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{0x21, "receive-max", kindUint16, "CONNACK"},
	{0x22, "alias-max", kindUint16, "CONNACK"},
	{0x23, "alias", kindUint16, "PUBLISH"},
	{0x24, "max-qos", kindByte, "CONNACK"},
	{0x25, "retain-available", kindByte, "CONNACK"},
	{0x26, "user", kindPair, "CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{0x27, "max-packet", kindUint32, "CONNACK"},
	{0x28, "wildcard-available", kindByte, "CONNACK"},
	{0x29, "subid-available", kindByte, "CONNACK"},
	{0x2A, "shared-available", kindByte, "CONNACK"},
}

// field is a name and its value as text: what a script writes and what a
// decoded packet shows.
type field struct {
	name  string
	value string
}

func (f field) String() string {
	if f.value == "" || strings.ContainsAny(f.value, " \"'") {
		return f.name + "=" + strconv.Quote(f.value)
	}
	return f.name + "=" + strings.Trim(strconv.Quote(f.value), `"`)
}

func propertyNamed(name string) (property, bool) {
	if strings.HasPrefix(name, "user:") {
		name = "user"
	}
	for _, p := range properties {
		if p.name == name {
			return p, true
		}
	}
	return property{}, false
}

// appendProperty appends f as the property p.
func appendProperty(b []byte, p property, f field) ([]byte, error) {
	b = append(b, p.id)
	switch p.kind {
	case kindString, kindBinary:
		return appendString(b, f.value), nil
	case kindPair:
		return appendString(appendString(b, strings.TrimPrefix(f.name, "user:")), f.value), nil
	}
	n, err := strconv.ParseUint(f.value, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("property %s: %w", f.name, err)
	}
	switch p.kind {
	case kindByte:
		return append(b, byte(n)), nil
	case kindUint16:
		return binary.BigEndian.AppendUint16(b, uint16(n)), nil
	case kindUint32:
		return binary.BigEndian.AppendUint32(b, uint32(n)), nil
	}
	return appendVarint(b, int(n)), nil
}

// properties reads a Property Length and what it covers, in a packet of the
// given name.
func (r *reader) properties(packet string) []field {
	section := reader{b: r.take(r.varint())}
	seen := map[byte]bool{}
	var fields []field
	for len(section.b) > 0 && section.err == nil {
		fields = append(fields, section.property(packet, seen))
	}
	if r.err == nil {
		r.err = section.err
	}
	return fields
}

func (r *reader) property(packet string, seen map[byte]bool) field {
	id := byte(r.varint())
	for _, p := range properties {
		if p.id != id {
			continue
		}
		if !strings.Contains(p.in, packet) {
			r.fail("property %s is not allowed in %s", p.name, packet)
		}
		if seen[id] && p.kind != kindPair && p.name != "subid" {
			r.fail("property %s appears twice", p.name)
		}
		seen[id] = true
		return r.value(p)
	}
	r.fail("property 0x%02X does not exist", id)
	return field{}
}

func (r *reader) value(p property) field {
	switch p.kind {
	case kindString:
		return field{p.name, r.string()}
	case kindBinary:
		return field{p.name, string(r.take(int(r.uint16())))}
	case kindPair:
		name := r.string()
		return field{"user:" + name, r.string()}
	case kindByte:
		return r.number(p.name, int(r.byte()))
	case kindUint16:
		return r.number(p.name, int(r.uint16()))
	case kindUint32:
		return r.number(p.name, int(binary.BigEndian.Uint32(r.take(4))))
	}
	return r.number(p.name, r.varint())
}

func (r *reader) number(name string, n int) field {
	return field{name, strconv.Itoa(n)}
}
