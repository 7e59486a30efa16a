package mqtt

import "testing"

var ackGoldens = []golden{
	{"short", all, "40 02 0001", &Ack{Type: PUBACK, PacketID: 1}, nil},
	{"short", all, "50 02 0102", &Ack{Type: PUBREC, PacketID: 258}, nil},
	{"short", all, "62 02 FFFF", &Ack{Type: PUBREL, PacketID: 65535}, nil}, // [MQTT-3.6.1-1], [v3.1.1 MQTT-3.6.1-1]
	{"short", all, "70 02 8000", &Ack{Type: PUBCOMP, PacketID: 32768}, nil},
	{"with code", v5, "40 03 0001 10", &Ack{Type: PUBACK, PacketID: 1, Code: NoMatchingSubscribers}, []int{2}},
	{"with code", v5, "50 03 0001 97", &Ack{Type: PUBREC, PacketID: 1, Code: QuotaExceeded}, []int{2}},
	{"with code", v5, "62 03 0001 92", &Ack{Type: PUBREL, PacketID: 1, Code: PacketIdentifierNotFound}, []int{2}},
	{"with code", v5, "70 03 0001 92", &Ack{Type: PUBCOMP, PacketID: 1, Code: PacketIdentifierNotFound}, []int{2}},
	{"with properties", v5, "40 12 0001 87 0E 1F 0004 'text' 26 0001 'k' 0001 'v'", ackWithProperties(PUBACK, NotAuthorized), []int{2, 3}},
	{"with properties", v5, "50 12 0001 99 0E 1F 0004 'text' 26 0001 'k' 0001 'v'", ackWithProperties(PUBREC, PayloadFormatInvalid), []int{2, 3}},
	{"with properties", v5, "62 12 0001 92 0E 1F 0004 'text' 26 0001 'k' 0001 'v'", ackWithProperties(PUBREL, PacketIdentifierNotFound), []int{2, 3}},
	{"with properties", v5, "70 12 0001 00 0E 1F 0004 'text' 26 0001 'k' 0001 'v'", ackWithProperties(PUBCOMP, Success), []int{2, 3}},
}

func ackWithProperties(typ PacketType, code ReasonCode) *Ack {
	return &Ack{Type: typ, PacketID: 1, Code: code, Props: Properties{}.WithString(ReasonString, "text").WithUser("k", "v")}
}

var ackRefusals = eachAck([]refusal{
	{"packet id zero", all, 0, "0000", ProtocolError},
	{"empty", all, 0, "", MalformedPacket},
	{"half a packet id", all, 0, "01", MalformedPacket},
	{"code in MQTT 3", v3, 0, "0001 00", MalformedPacket},
	{"property length in MQTT 3", v3, 0, "0001 00 00", MalformedPacket},
	{"code of a SUBACK", v5, 0, "0001 01", MalformedPacket},
	{"code of a DISCONNECT", v5, 0, "0001 04", MalformedPacket},
	{"unknown code", v5, 0, "0001 FF", MalformedPacket},
	{"property length behind the end", v5, 0, "0001 00 01", MalformedPacket},
	{"property length of two bytes for zero [MQTT-1.5.5-1]", v5, 0, "0001 00 8000", MalformedPacket},
	{"bytes behind the properties", v5, 0, "0001 00 00 00", MalformedPacket},
	{"reason string twice", v5, 0, "0001 00 08 1F 0001 'a' 1F 0001 'b'", ProtocolError},
	{"property of a PUBLISH", v5, 0, "0001 00 02 01 01", MalformedPacket},
	{"reason string is not UTF-8", v5, 0, "0001 00 04 1F 0001 80", MalformedPacket},
	{"user property's key is not UTF-8 [MQTT-1.5.7-1]", v5, 0, "0001 00 06 26 0001 80 0000", MalformedPacket},
	{"user property's value is not UTF-8 [MQTT-1.5.7-1]", v5, 0, "0001 00 06 26 0000 0001 80", MalformedPacket},
})

// eachAck says the same of PUBACK, PUBREC, PUBREL and PUBCOMP.
func eachAck(rs []refusal) (out []refusal) {
	for _, first := range []byte{0x40, 0x50, 0x62, 0x70} {
		for _, r := range rs {
			r.first, r.rule = first, PacketType(first>>4).String()+": "+r.rule
			out = append(out, r)
		}
	}
	return out
}

func TestAck(t *testing.T) { checkGoldens(t, ackGoldens) }

func TestAckRefused(t *testing.T) { checkRefusals(t, ackRefusals) }

func FuzzPuback(f *testing.F)  { fuzzPacket(f, PUBACK) }
func FuzzPubrec(f *testing.F)  { fuzzPacket(f, PUBREC) }
func FuzzPubrel(f *testing.F)  { fuzzPacket(f, PUBREL) }
func FuzzPubcomp(f *testing.F) { fuzzPacket(f, PUBCOMP) }

// A code of Success and empty properties may be written out, though we leave them out (§3.4.2.1).
func TestAckLongForms(t *testing.T) {
	for _, first := range []byte{0x40, 0x50, 0x62, 0x70} {
		want := &Ack{Type: PacketType(first >> 4), PacketID: 7}
		for _, body := range []string{"0007", "0007 00", "0007 00 00"} {
			if got, err := parse(packetOf(first, hex(body)), V5); err != nil || !same(got, want) {
				t.Errorf("%v %s: got %s, error %v", want.Type, body, show(got), err)
			}
		}
	}
}

// In MQTT 3 an acknowledgement has a packet identifier and nothing else, whatever the struct says.
func TestAckV3DropsCode(t *testing.T) {
	for _, v := range v3 {
		if got := encode(ackWithProperties(PUBACK, NotAuthorized), v); string(got) != "\x40\x02\x00\x01" {
			t.Errorf("version %s: got % X", v, got)
		}
	}
}
