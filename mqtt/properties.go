package mqtt

import (
	"encoding/binary"
	"iter"
	"slices"
)

// Property identifies a property of MQTT 5.0 (§2.2.2.2).
type Property byte

// The properties of MQTT 5.0.
const (
	PayloadFormatIndicator          Property = 0x01
	MessageExpiryInterval           Property = 0x02 // seconds
	ContentType                     Property = 0x03
	ResponseTopic                   Property = 0x08
	CorrelationData                 Property = 0x09
	SubscriptionIdentifier          Property = 0x0B
	SessionExpiryInterval           Property = 0x11 // seconds
	AssignedClientIdentifier        Property = 0x12
	ServerKeepAlive                 Property = 0x13 // seconds
	AuthenticationMethod            Property = 0x15
	AuthenticationData              Property = 0x16
	RequestProblemInformation       Property = 0x17
	WillDelayInterval               Property = 0x18 // seconds
	RequestResponseInformation      Property = 0x19
	ResponseInformation             Property = 0x1A
	ServerReference                 Property = 0x1C
	ReasonString                    Property = 0x1F
	ReceiveMaximum                  Property = 0x21
	TopicAliasMaximum               Property = 0x22
	TopicAlias                      Property = 0x23
	MaximumQoS                      Property = 0x24
	RetainAvailable                 Property = 0x25
	UserProperty                    Property = 0x26
	MaximumPacketSize               Property = 0x27 // bytes
	WildcardSubscriptionAvailable   Property = 0x28
	SubscriptionIdentifierAvailable Property = 0x29
	SharedSubscriptionAvailable     Property = 0x2A
)

// Properties is the encoded property section of one packet, without its length. The zero value has none. Parsed
// properties were checked and borrow from the read buffer; they keep their order. A packet has few properties, so a
// look-up walks them.
type Properties []byte

type propertyKind byte

const (
	kindByte propertyKind = iota + 1
	kindTwoBytes
	kindFourBytes
	kindVarint
	kindText
	kindBinary
	kindPair
)

// forWill stands for the Will Properties, which are no packet of their own.
const forWill PacketType = 16

// noZero and boolean are the two rules about values that a property alone can break.
const (
	anyValue = iota
	noZero
	boolean
)

var everyReply = in(CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)

// propertyTable is table 2-4 of the specification: the type of each property, where it may stand, which values it has.
var propertyTable = [0x2B]struct {
	kind propertyKind
	in   packetSet
	rule int
}{
	PayloadFormatIndicator:          {kindByte, in(PUBLISH, forWill), boolean},
	MessageExpiryInterval:           {kindFourBytes, in(PUBLISH, forWill), anyValue},
	ContentType:                     {kindText, in(PUBLISH, forWill), anyValue},
	ResponseTopic:                   {kindText, in(PUBLISH, forWill), anyValue},
	CorrelationData:                 {kindBinary, in(PUBLISH, forWill), anyValue},
	SubscriptionIdentifier:          {kindVarint, in(PUBLISH, SUBSCRIBE), noZero},
	SessionExpiryInterval:           {kindFourBytes, in(CONNECT, CONNACK, DISCONNECT), anyValue},
	AssignedClientIdentifier:        {kindText, in(CONNACK), anyValue},
	ServerKeepAlive:                 {kindTwoBytes, in(CONNACK), anyValue},
	AuthenticationMethod:            {kindText, in(CONNECT, CONNACK, AUTH), anyValue},
	AuthenticationData:              {kindBinary, in(CONNECT, CONNACK, AUTH), anyValue},
	RequestProblemInformation:       {kindByte, in(CONNECT), boolean},
	WillDelayInterval:               {kindFourBytes, in(forWill), anyValue},
	RequestResponseInformation:      {kindByte, in(CONNECT), boolean},
	ResponseInformation:             {kindText, in(CONNACK), anyValue},
	ServerReference:                 {kindText, in(CONNACK, DISCONNECT), anyValue},
	ReasonString:                    {kindText, everyReply, anyValue},
	ReceiveMaximum:                  {kindTwoBytes, in(CONNECT, CONNACK), noZero},
	TopicAliasMaximum:               {kindTwoBytes, in(CONNECT, CONNACK), anyValue},
	TopicAlias:                      {kindTwoBytes, in(PUBLISH), anyValue}, // zero is refused with a code of its own, above
	MaximumQoS:                      {kindByte, in(CONNACK), boolean},
	RetainAvailable:                 {kindByte, in(CONNACK), boolean},
	UserProperty:                    {kindPair, everyReply | in(CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, forWill), anyValue},
	MaximumPacketSize:               {kindFourBytes, in(CONNECT, CONNACK), noZero},
	WildcardSubscriptionAvailable:   {kindByte, in(CONNACK), boolean},
	SubscriptionIdentifierAvailable: {kindByte, in(CONNACK), boolean},
	SharedSubscriptionAvailable:     {kindByte, in(CONNACK), boolean},
}

// field is one property as it lies in the bytes.
type field struct {
	id   Property
	kind propertyKind
	num  uint32 // value of a number
	data []byte // value of a string or binary; the key of a pair
	val  []byte // the value of a pair
	raw  []byte // all of it, identifier included
}

// next cuts the first property off p.
func (p Properties) next() (f field, rest Properties, err error) {
	f.id = Property(p[0]) // every identifier that exists fits in one byte
	if int(f.id) >= len(propertyTable) || propertyTable[f.id].kind == 0 {
		return f, nil, wrong(MalformedPacket, "unknown property")
	}
	f.kind = propertyTable[f.id].kind
	r := reader{b: p[1:]}
	switch f.kind {
	case kindByte:
		f.num = uint32(r.byte())
	case kindTwoBytes:
		f.num = uint32(r.uint16())
	case kindFourBytes:
		if q := r.take(4); q != nil {
			f.num = binary.BigEndian.Uint32(q)
		}
	case kindVarint:
		v, n, err := varint(r.b)
		if err != nil || n == 0 {
			return f, nil, wrong(MalformedPacket, "property ends inside a variable byte integer")
		}
		if n != varintSize(v) {
			return f, nil, errNotMinimal
		}
		f.num = uint32(v)
		r.take(n)
	case kindText:
		f.data = r.text()
	case kindBinary:
		f.data = r.binary()
	case kindPair:
		f.data, f.val = r.text(), r.text()
	}
	f.raw = p[:len(p)-len(r.b)]
	return f, r.b, r.err
}

// check holds the rules that properties can break: known, allowed in a packet of type t, once, with a legal value.
func (p Properties) check(t PacketType) error {
	var seen uint64
	for len(p) > 0 {
		f, rest, err := p.next()
		if err != nil {
			return err
		}
		if !propertyTable[f.id].in.has(t) {
			return wrong(MalformedPacket, "property does not belong in this packet") // §2.2.2.2
		}
		repeatable := f.id == UserProperty || f.id == SubscriptionIdentifier && t == PUBLISH
		if seen>>f.id&1 != 0 && !repeatable {
			return wrong(ProtocolError, "property is there twice")
		}
		seen |= 1 << f.id
		if !f.legal() {
			return wrong(ProtocolError, "property has a value that it must not have")
		}
		p = rest
	}
	return nil
}

func (f *field) legal() bool {
	switch propertyTable[f.id].rule {
	case noZero:
		return f.num != 0
	case boolean:
		return f.num <= 1
	}
	return true
}

// find returns the first property with that identifier.
func (p Properties) find(id Property) (field, bool) {
	for len(p) > 0 {
		f, rest, err := p.next()
		if err != nil {
			return field{}, false
		}
		if f.id == id {
			return f, true
		}
		p = rest
	}
	return field{}, false
}

func (p Properties) has(id Property) bool {
	_, ok := p.find(id)
	return ok
}

// Int returns the value of a property that is a number of any width, and whether it is there.
func (p Properties) Int(id Property) (uint32, bool) {
	f, ok := p.find(id)
	return f.num, ok
}

// Bytes returns the value of a property that is a string or binary data, and whether it is there. It borrows.
func (p Properties) Bytes(id Property) ([]byte, bool) {
	f, ok := p.find(id)
	return f.data, ok
}

// String returns a copy of the value of a string property; empty when it is not there.
func (p Properties) String(id Property) string {
	f, _ := p.find(id)
	return string(f.data)
}

// Flag returns the value of a boolean property, or byDefault when it is not there.
func (p Properties) Flag(id Property, byDefault bool) bool {
	if v, ok := p.Int(id); ok {
		return v != 0
	}
	return byDefault
}

// Ints yields the values of every property with that identifier, for the one number that may repeat: the
// Subscription Identifier.
func (p Properties) Ints(id Property) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for len(p) > 0 {
			f, rest, err := p.next()
			if err != nil || f.id == id && !yield(f.num) {
				return
			}
			p = rest
		}
	}
}

// User yields the User Properties in their order [MQTT-3.3.2-18].
func (p Properties) User() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for len(p) > 0 {
			f, rest, err := p.next()
			if err != nil || f.id == UserProperty && !yield(string(f.data), string(f.val)) {
				return
			}
			p = rest
		}
	}
}

// WithInt returns p with a number appended. It panics when the property is not a number.
func (p Properties) WithInt(id Property, v uint32) Properties {
	p = append(p, byte(id))
	switch propertyTable[id].kind {
	case kindByte:
		return append(p, byte(v))
	case kindTwoBytes:
		return binary.BigEndian.AppendUint16(p, uint16(v))
	case kindFourBytes:
		return binary.BigEndian.AppendUint32(p, v)
	case kindVarint:
		return appendVarint(p, int(v))
	}
	panic("mqtt: property is not a number")
}

// WithFlag returns p with a boolean appended.
func (p Properties) WithFlag(id Property, v bool) Properties {
	if v {
		return p.WithInt(id, 1)
	}
	return p.WithInt(id, 0)
}

// WithString returns p with a string or binary data appended. It panics when the property is neither, or when s is
// longer than 65,535 bytes.
func (p Properties) WithString(id Property, s string) Properties {
	if k := propertyTable[id].kind; k != kindText && k != kindBinary || len(s) > 65_535 {
		panic("mqtt: property is not a string of at most 65,535 bytes")
	}
	return appendText(append(p, byte(id)), s)
}

// WithUser returns p with a User Property appended. It panics when key or value is longer than 65,535 bytes.
func (p Properties) WithUser(key, value string) Properties {
	if len(key) > 65_535 || len(value) > 65_535 {
		panic("mqtt: user property is longer than 65,535 bytes")
	}
	return appendText(appendText(append(p, byte(UserProperty)), key), value)
}

// Without returns a copy of p without the properties named.
func (p Properties) Without(ids ...Property) (kept Properties) {
	for len(p) > 0 {
		f, rest, err := p.next()
		if err != nil {
			break
		}
		if !slices.Contains(ids, f.id) {
			kept = append(kept, f.raw...)
		}
		p = rest
	}
	return kept
}

// ParseProperties checks an encoded property section as it stands in a packet of type t, for those who kept one.
func ParseProperties(b []byte, t PacketType) (Properties, error) {
	p := Properties(b)
	return p, p.check(t)
}
