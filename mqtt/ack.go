package mqtt

import "encoding/binary"

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7): four packets of one layout.
type Ack struct {
	Type     PacketType
	PacketID uint16
	Code     ReasonCode // Success for MQTT 3, which has no other
	Props    Properties
}

// Parse reads the body of the packet without allocating.
func (a *Ack) Parse(f Frame, v Version) error {
	*a = Ack{Type: f.Type}
	r := reader{b: f.Body}
	a.PacketID = r.packetID()
	if v != V5 || len(r.b) == 0 { // a reason code of Success may be left out (§3.4.2.1)
		return r.end()
	}
	a.Code = ReasonCode(r.byte())
	if !a.Code.allowedIn(f.Type) {
		return wrong(MalformedPacket, "reason code does not belong in this packet")
	}
	if len(r.b) > 0 { // so may the properties (§3.4.2.2.1)
		a.Props = r.properties(f.Type)
	}
	return r.end()
}

// Append appends the packet to b.
func (a *Ack) Append(b []byte, v Version) []byte {
	first := byte(a.Type) << 4
	if a.Type == PUBREL {
		first |= 2 // [MQTT-3.6.1-1]
	}
	if v != V5 || a.Code == Success && len(a.Props) == 0 {
		return binary.BigEndian.AppendUint16(append(b, first, 2), a.PacketID)
	}
	if len(a.Props) == 0 {
		return append(binary.BigEndian.AppendUint16(append(b, first, 3), a.PacketID), byte(a.Code))
	}
	b = appendVarint(append(b, first), 3+propertiesSize(a.Props))
	b = append(binary.BigEndian.AppendUint16(b, a.PacketID), byte(a.Code))
	return appendProperties(b, a.Props)
}
