package mqtt

import (
	"bytes"
	"testing"
)

var pingGoldens = []golden{
	{"ping", all, "C0 00", ping(PINGREQ), nil},
	{"ping", all, "D0 00", ping(PINGRESP), nil},
}

var pingRefusals = []refusal{
	{"PINGREQ with a body", all, 0xC0, "00", MalformedPacket},
	{"PINGRESP with a body", all, 0xD0, "0001", MalformedPacket},
}

var disconnectGoldens = []golden{
	{"normal", all, "E0 00", &Disconnect{}, nil},
	{"with code", v5, "E0 01 04", &Disconnect{Code: DisconnectWithWill}, []int{0}},
	{
		"with properties", v5, "E0 1A 9C 18 11 00000000 1F 0002 'go' 26 0001 'k' 0001 'v' 1C 0004 'else'",
		&Disconnect{
			Code:  UseAnotherServer,
			Props: Properties{}.WithInt(SessionExpiryInterval, 0).WithString(ReasonString, "go").WithUser("k", "v").WithString(ServerReference, "else"),
		}, []int{0, 1},
	},
	{
		"properties of a normal one", v5, "E0 07 00 05 11 00000001",
		&Disconnect{Props: Properties{}.WithInt(SessionExpiryInterval, 1)}, []int{0, 1},
	},
}

var disconnectRefusals = []refusal{
	{"code in MQTT 3", v3, 0xE0, "00", MalformedPacket},
	{"code of a CONNACK [MQTT-3.14.2-1]", v5, 0xE0, "84", MalformedPacket},
	{"code of a SUBACK [MQTT-3.14.2-1]", v5, 0xE0, "01", MalformedPacket},
	{"unknown code", v5, 0xE0, "FF", MalformedPacket},
	{"property length behind the end", v5, 0xE0, "00 01", MalformedPacket},
	{"property length of two bytes for zero [MQTT-1.5.5-1]", v5, 0xE0, "00 8000", MalformedPacket},
	{"bytes behind the properties", v5, 0xE0, "00 00 00", MalformedPacket},
	{"session expiry twice", v5, 0xE0, "00 0A 11 00000000 11 00000000", ProtocolError},
	{"receive maximum", v5, 0xE0, "00 03 21 0001", MalformedPacket},
}

var authGoldens = []golden{
	{"nothing but success", v5, "F0 00", &Auth{}, nil},
	{
		"continue", v5, "F0 0C 18 0A 15 0002 'me' 16 0002 FF00",
		&Auth{Code: ContinueAuthentication, Props: Properties{}.WithString(AuthenticationMethod, "me").WithString(AuthenticationData, "\xFF\x00")}, []int{0},
	},
	{
		"success with properties", v5, "F0 11 00 0F 15 0001 'm' 1F 0001 'r' 26 0001 'k' 0001 'v'",
		&Auth{Props: Properties{}.WithString(AuthenticationMethod, "m").WithString(ReasonString, "r").WithUser("k", "v")}, []int{0},
	},
	{"again", v5, "F0 06 19 04 15 0001 'm'", &Auth{Code: ReAuthenticate, Props: Properties{}.WithString(AuthenticationMethod, "m")}, []int{0}},
}

var authRefusals = []refusal{
	{"MQTT 3 has no AUTH", v3, 0xF0, "", MalformedPacket},
	{"MQTT 3 has no AUTH, with properties", v3, 0xF0, "18 04 15 0001 'm'", MalformedPacket},
	{"code of a DISCONNECT [MQTT-3.15.2-1]", v5, 0xF0, "04 04 15 0001 'm'", MalformedPacket},
	{"no method", v5, 0xF0, "18 00", ProtocolError},
	{"no method, no property length", v5, 0xF0, "18", ProtocolError},
	{"data without method", v5, 0xF0, "18 04 16 0001 'd'", ProtocolError},
	{"method twice", v5, 0xF0, "18 08 15 0001 'm' 15 0001 'm'", ProtocolError},
	{"method is not UTF-8", v5, 0xF0, "18 04 15 0001 FF", MalformedPacket},
	{"bytes behind the properties", v5, 0xF0, "18 04 15 0001 'm' 00", MalformedPacket},
	{"session expiry", v5, 0xF0, "18 09 15 0001 'm' 11 00000000", MalformedPacket},
}

func TestPing(t *testing.T) { checkGoldens(t, pingGoldens) }

func TestPingRefused(t *testing.T) { checkRefusals(t, pingRefusals) }

func FuzzPingreq(f *testing.F) { fuzzPacket(f, PINGREQ) }

func FuzzPingresp(f *testing.F) { fuzzPacket(f, PINGRESP) }

func TestDisconnect(t *testing.T) { checkGoldens(t, disconnectGoldens) }

func TestDisconnectRefused(t *testing.T) { checkRefusals(t, disconnectRefusals) }

func FuzzDisconnect(f *testing.F) { fuzzPacket(f, DISCONNECT) }

func TestAuth(t *testing.T) { checkGoldens(t, authGoldens) }

func TestAuthRefused(t *testing.T) { checkRefusals(t, authRefusals) }

func FuzzAuth(f *testing.F) { fuzzPacket(f, AUTH) }

// A code of Success and empty properties may be written out, though we leave them out (§3.14.2.1, §3.14.2.2.1).
func TestDisconnectLongForms(t *testing.T) {
	for _, body := range []string{"", "00", "00 00"} {
		if got, err := parse(packetOf(0xE0, hex(body)), V5); err != nil || !same(got, &Disconnect{}) {
			t.Errorf("DISCONNECT %s: got %s, error %v", body, show(got), err)
		}
	}
}

// DISCONNECT of MQTT 3 says nothing, whatever the struct says.
func TestDisconnectV3DropsCode(t *testing.T) {
	d := &Disconnect{Code: ServerShuttingDown, Props: Properties{}.WithString(ReasonString, "bye")}
	for _, v := range v3 {
		if got := encode(d, v); !bytes.Equal(got, hex("E0 00")) {
			t.Errorf("version %s: got % X", v, got)
		}
	}
}
