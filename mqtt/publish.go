package mqtt

import (
	"encoding/binary"
)

// Publish is the PUBLISH packet (§3.3): one hop of an application message.
//
// Properties that belong to this hop alone (Topic Alias, Subscription Identifiers) and the Message Expiry Interval,
// which changes at every hop, are fields; Props holds those that travel unaltered.
type Publish struct {
	Dup      bool
	QoS      QoS
	Retain   bool
	Topic    []byte // the Topic Name; borrows; may be empty when there is an alias
	PacketID uint16 // for QoS 1 and 2

	HasAlias  bool
	Alias     uint16   // Topic Alias; zero on the wire is an error of its own (0x94) and left to the session
	HasExpiry bool     // whether there is a Message Expiry Interval
	Expiry    uint32   // Message Expiry Interval, seconds
	IDs       []uint32 // Subscription Identifiers, server to client only; Parse reuses its array
	Props     Properties

	Payload []byte // borrows

	Known string // a Topic Name that Parse need not check again, such as the one before; empty for none. Parse leaves it as it is
}

// Parse reads the body of a PUBLISH without allocating. Everything it sets borrows from f.Body, where it may move
// properties together; so a body is parsed once.
func (p *Publish) Parse(f Frame, v Version) error {
	*p = Publish{Dup: f.Flags&8 != 0, QoS: QoS(f.Flags >> 1 & 3), Retain: f.Flags&1 != 0, IDs: p.IDs[:0], Known: p.Known}
	if p.QoS == 3 {
		return wrong(MalformedPacket, "QoS is 3") // [MQTT-3.3.1-4]
	}
	if p.Dup && p.QoS == AtMostOnce {
		return wrong(MalformedPacket, "DUP is set with QoS 0") // [MQTT-3.3.1-2]
	}
	r := reader{b: f.Body}
	p.Topic = r.textOr(p.Known) // [MQTT-3.3.2-1]
	if p.QoS > AtMostOnce {
		p.PacketID = r.packetID() // [MQTT-2.2.1-3]
	}
	if v == V5 {
		p.Props = r.properties(PUBLISH)
		p.takeHop()
	}
	if r.err != nil {
		return r.err
	}
	p.Payload = r.b
	if len(p.Topic) == 0 && !p.HasAlias {
		if v == V5 {
			return wrong(ProtocolError, "neither topic name nor topic alias") // §3.3.2.1
		}
		return wrong(MalformedPacket, "topic name is empty") // [v3.1.1 MQTT-4.7.3-1]
	}
	return nil
}

// takeHop moves the properties of this hop out of Props into fields. Most packets have none and nothing moves.
func (p *Publish) takeHop() {
	kept := p.Props[:0]
	for rest := p.Props; len(rest) > 0; {
		f, after, err := rest.next()
		if err != nil {
			break // cannot be: the properties were checked
		}
		switch f.id {
		case MessageExpiryInterval:
			p.HasExpiry, p.Expiry = true, f.num
		case TopicAlias:
			p.HasAlias, p.Alias = true, uint16(f.num)
		case SubscriptionIdentifier:
			p.IDs = append(p.IDs, f.num)
		default:
			kept = append(kept, f.raw...)
		}
		rest = after
	}
	p.Props = kept
}

// Append appends the PUBLISH to b without allocating beyond the growth of b.
func (p *Publish) Append(b []byte, v Version) []byte {
	props := p.propertiesLen()
	size := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > AtMostOnce {
		size += 2
	}
	if v == V5 {
		size += varintSize(props) + props
	}
	b = appendVarint(append(b, byte(PUBLISH)<<4|p.flags()), size)
	b = appendText(b, p.Topic)
	if p.QoS > AtMostOnce {
		b = binary.BigEndian.AppendUint16(b, p.PacketID)
	}
	if v == V5 {
		b = p.appendProperties(appendVarint(b, props))
	}
	return append(b, p.Payload...)
}

// Size is the number of bytes that Append appends, for the peer's Maximum Packet Size.
func (p *Publish) Size(v Version) int {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > AtMostOnce {
		n += 2
	}
	if v == V5 {
		props := p.propertiesLen()
		n += varintSize(props) + props
	}
	return 1 + varintSize(n) + n
}

func (p *Publish) flags() byte {
	f := byte(p.QoS) << 1
	if p.Dup {
		f |= 8
	}
	if p.Retain {
		f |= 1
	}
	return f
}

func (p *Publish) propertiesLen() int {
	n := len(p.Props)
	if p.HasExpiry {
		n += 5
	}
	if p.HasAlias {
		n += 3
	}
	for _, id := range p.IDs {
		n += 1 + varintSize(int(id))
	}
	return n
}

func (p *Publish) appendProperties(b []byte) []byte {
	if p.HasExpiry {
		b = binary.BigEndian.AppendUint32(append(b, byte(MessageExpiryInterval)), p.Expiry)
	}
	if p.HasAlias {
		b = binary.BigEndian.AppendUint16(append(b, byte(TopicAlias)), p.Alias)
	}
	for _, id := range p.IDs {
		b = appendVarint(append(b, byte(SubscriptionIdentifier)), int(id))
	}
	return append(b, p.Props...)
}
