package mqtt

import (
	"bytes"
	"testing"
)

var subackGoldens = []golden{
	{"one code", v3, "90 03 0001 00", &Suback{PacketID: 1, Codes: []ReasonCode{Success}}, nil},
	{"one code", v5, "90 04 0001 00 00", &Suback{PacketID: 1, Codes: []ReasonCode{Success}}, nil},
	// The codes keep their order (§3.9.3).
	{"four codes", v3, "90 06 FFFF 02 80 01 00", &Suback{PacketID: 65535, Codes: []ReasonCode{GrantedQoS2, UnspecifiedError, GrantedQoS1, Success}}, []int{3, 4, 5}},
	{
		"with properties", v5, "90 12 0102 0C 1F 0002 'no' 26 0001 'k' 0001 'v' 02 87 8F",
		&Suback{
			PacketID: 258, Codes: []ReasonCode{GrantedQoS2, NotAuthorized, TopicFilterInvalid},
			Props: Properties{}.WithString(ReasonString, "no").WithUser("k", "v"),
		}, []int{16, 17},
	},
}

var subackRefusals = []refusal{
	{"packet id zero", all, 0x90, "0000 00 00", ProtocolError},
	{"empty", all, 0x90, "", MalformedPacket},
	{"no code", v3, 0x90, "0001", ProtocolError},
	{"no code", v5, 0x90, "0001 00", ProtocolError},
	{"no property length [MQTT-2.2.2-1]", v5, 0x90, "0001", MalformedPacket},
	{"return code 3 [v3.1.1 MQTT-3.9.3-2]", v3, 0x90, "0001 03", MalformedPacket},
	{"code of MQTT 5 [v3.1.1 MQTT-3.9.3-2]", v3, 0x90, "0001 87", MalformedPacket},
	{"code of an UNSUBACK [MQTT-3.9.3-2]", v5, 0x90, "0001 00 11", MalformedPacket},
	{"second code is wrong", v5, 0x90, "0001 00 00 FF", MalformedPacket},
	{"subscription id", v5, 0x90, "0001 02 0B 01 00", MalformedPacket},
}

var unsubackGoldens = []golden{
	{"MQTT 3 has no codes", v3, "B0 02 0001", &Unsuback{PacketID: 1}, nil},
	{"one code", v5, "B0 04 0001 00 11", &Unsuback{PacketID: 1, Codes: []ReasonCode{NoSubscriptionExisted}}, nil},
	{
		"with properties", v5, "B0 0C FFFF 05 1F 0002 'no' 00 11 80 87", // in order (§3.11.3)
		&Unsuback{
			PacketID: 65535, Codes: []ReasonCode{Success, NoSubscriptionExisted, UnspecifiedError, NotAuthorized},
			Props: Properties{}.WithString(ReasonString, "no"),
		}, []int{9, 10, 11},
	},
}

var unsubackRefusals = []refusal{
	{"packet id zero", v3, 0xB0, "0000", ProtocolError},
	{"packet id zero", v5, 0xB0, "0000 00 00", ProtocolError},
	{"empty", all, 0xB0, "", MalformedPacket},
	{"code in MQTT 3", v3, 0xB0, "0001 00", MalformedPacket},
	{"no code", v5, 0xB0, "0001 00", ProtocolError},
	{"no property length [MQTT-2.2.2-1]", v5, 0xB0, "0001", MalformedPacket},
	{"code of a SUBACK [MQTT-3.11.3-2]", v5, 0xB0, "0001 00 01", MalformedPacket},
}

func TestSuback(t *testing.T) { checkGoldens(t, subackGoldens) }

func TestSubackRefused(t *testing.T) { checkRefusals(t, subackRefusals) }

func FuzzSuback(f *testing.F) { fuzzPacket(f, SUBACK) }

func TestUnsuback(t *testing.T) { checkGoldens(t, unsubackGoldens) }

func TestUnsubackRefused(t *testing.T) { checkRefusals(t, unsubackRefusals) }

func FuzzUnsuback(f *testing.F) { fuzzPacket(f, UNSUBACK) }

// MQTT 3 knows three grants and one failure [v3.1.1 MQTT-3.9.3-2].
func TestSubackV3Codes(t *testing.T) {
	for _, v := range v3 {
		for code := range 256 {
			p, err := parse(packetOf(0x90, []byte{0, 1, byte(code)}), v)
			if legal := code <= 2 || code == 0x80; legal != (err == nil) {
				t.Errorf("version %s, return code 0x%02X: got %s, error %v", v, code, show(p), err)
			}
		}
	}
}

func TestSubackV3FailsWith80(t *testing.T) {
	s := &Suback{PacketID: 1, Codes: []ReasonCode{GrantedQoS1, NotAuthorized, TopicFilterInvalid, QuotaExceeded}}
	for _, v := range v3 {
		if got := encode(s, v); !bytes.Equal(got, hex("90 06 0001 01 80 80 80")) {
			t.Errorf("version %s: got % X", v, got)
		}
	}
}
