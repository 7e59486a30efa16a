package mqtt

import "encoding/binary"

// Suback is the SUBACK packet (§3.9).
type Suback struct {
	PacketID uint16
	Codes    []ReasonCode // one for each Topic Filter, in its order [MQTT-3.8.4-6]
	Props    Properties
}

// Parse reads the body of a SUBACK. The failure of MQTT 3.1.1 is UnspecifiedError, which has the same value.
func (s *Suback) Parse(f Frame, v Version) error {
	*s = Suback{}
	r := reader{b: f.Body}
	s.PacketID = r.packetID()
	if v == V5 {
		s.Props = r.properties(SUBACK)
	}
	s.Codes = r.codes(SUBACK)
	for _, c := range s.Codes {
		if v != V5 && c > GrantedQoS2 && c != UnspecifiedError {
			return wrong(MalformedPacket, "no such return code") // [v3.1.1 MQTT-3.9.3-2]
		}
	}
	return r.end()
}

// Append appends the SUBACK to b. For MQTT 3 every failure is 0x80.
func (s *Suback) Append(b []byte, v Version) []byte {
	n := 2 + len(s.Codes)
	if v == V5 {
		n += propertiesSize(s.Props)
	}
	b = appendVarint(append(b, byte(SUBACK)<<4), n)
	b = binary.BigEndian.AppendUint16(b, s.PacketID)
	if v == V5 {
		return appendCodes(appendProperties(b, s.Props), s.Codes)
	}
	for _, c := range s.Codes {
		if c.Failed() {
			c = UnspecifiedError
		}
		b = append(b, byte(c))
	}
	return b
}

// Unsuback is the UNSUBACK packet (§3.11).
type Unsuback struct {
	PacketID uint16
	Codes    []ReasonCode // one for each Topic Filter [MQTT-3.11.3-1]; MQTT 3 has none
	Props    Properties
}

// Parse reads the body of an UNSUBACK.
func (u *Unsuback) Parse(f Frame, v Version) error {
	*u = Unsuback{}
	r := reader{b: f.Body}
	u.PacketID = r.packetID()
	if v == V5 {
		u.Props = r.properties(UNSUBACK)
		u.Codes = r.codes(UNSUBACK)
	}
	return r.end()
}

// Append appends the UNSUBACK to b.
func (u *Unsuback) Append(b []byte, v Version) []byte {
	if v != V5 {
		return binary.BigEndian.AppendUint16(append(b, byte(UNSUBACK)<<4, 2), u.PacketID)
	}
	b = appendVarint(append(b, byte(UNSUBACK)<<4), 2+propertiesSize(u.Props)+len(u.Codes))
	b = binary.BigEndian.AppendUint16(b, u.PacketID)
	return appendCodes(appendProperties(b, u.Props), u.Codes)
}

// codes reads the reason codes that fill the rest of a SUBACK or UNSUBACK.
func (r *reader) codes(t PacketType) []ReasonCode {
	if r.err == nil && len(r.b) == 0 {
		r.fail(wrong(ProtocolError, "acknowledgement without a reason code"))
	}
	codes := make([]ReasonCode, len(r.b))
	for i := range codes {
		codes[i] = ReasonCode(r.byte())
		if !codes[i].allowedIn(t) {
			r.fail(wrong(MalformedPacket, "reason code does not belong in this packet")) // [MQTT-3.9.3-2]
			return nil
		}
	}
	return codes
}

func appendCodes(b []byte, codes []ReasonCode) []byte {
	for _, c := range codes {
		b = append(b, byte(c))
	}
	return b
}
