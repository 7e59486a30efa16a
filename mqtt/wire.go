package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// reader reads the body of a packet from front to back. The first error sticks; later reads return zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(wrong(MalformedPacket, "packet ends inside a field"))
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if p := r.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

// binary reads Binary Data (§1.5.6): two bytes of length, then that many bytes. It borrows.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 Encoded String (§1.5.4). It borrows.
func (r *reader) text() []byte { return r.textOr("") }

// textOr is text, with one string that is known to be good.
func (r *reader) textOr(good string) []byte {
	p := r.binary()
	if r.err == nil && string(p) != good && !validText(p) {
		r.fail(wrong(MalformedPacket, "string is not valid UTF-8"))
		return nil
	}
	return p
}

// packetID reads a Packet Identifier, which is never zero [MQTT-2.2.1-3].
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if r.err == nil && id == 0 {
		r.fail(wrong(ProtocolError, "packet identifier is zero"))
	}
	return id
}

// properties reads and checks the properties of a packet of type t (§2.2.2).
func (r *reader) properties(t PacketType) Properties {
	length, n, err := varint(r.b)
	if err == nil && n == 0 && r.err == nil {
		err = wrong(MalformedPacket, "packet ends inside the property length")
	}
	if err != nil {
		r.fail(err)
		return nil
	}
	if n != varintSize(length) {
		r.fail(errNotMinimal)
		return nil
	}
	r.take(n)
	p := Properties(r.take(length))
	if r.err == nil {
		if err := p.check(t); err != nil {
			r.fail(err)
			return nil
		}
	}
	if len(p) == 0 {
		return nil
	}
	return p
}

// end returns the error of the whole packet; bytes left over are one.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = wrong(MalformedPacket, "packet is longer than its content")
	}
	return r.err
}

// validText holds the rules of a UTF-8 Encoded String: well-formed, no surrogates [MQTT-1.5.4-1], no U+0000 [MQTT-1.5.4-2].
func validText(p []byte) bool { return bytes.IndexByte(p, 0) < 0 && utf8.Valid(p) }

func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendProperties appends the property length and the properties.
func appendProperties(b []byte, p Properties) []byte {
	return append(appendVarint(b, len(p)), p...)
}

// propertiesSize is the number of bytes that appendProperties appends.
func propertiesSize(p Properties) int { return varintSize(len(p)) + len(p) }
