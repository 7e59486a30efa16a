package mqtt

import (
	"bytes"
	"testing"
)

var connackGoldens = []golden{
	{"accepted", v5, "20 03 00 00 00", &Connack{}, nil}, // [MQTT-2.2.2-1]
	{"accepted", v3, "20 02 00 00", &Connack{}, nil},
	{"session present", v5, "20 03 01 00 00", &Connack{SessionPresent: true}, nil},
	{"session present", v311, "20 02 01 00", &Connack{SessionPresent: true}, nil},
	{"not authorized", v5, "20 03 00 87 00", &Connack{Code: NotAuthorized}, nil},
	{"unacceptable protocol version", v3, "20 02 00 01", &Connack{Code: UnsupportedProtocolVersion}, nil},
	{"identifier rejected", v3, "20 02 00 02", &Connack{Code: ClientIdentifierNotValid}, nil},
	{"server unavailable", v3, "20 02 00 03", &Connack{Code: ServerUnavailable}, nil},
	{"bad user name or password", v3, "20 02 00 04", &Connack{Code: BadUserNameOrPassword}, nil},
	{"not authorized", v3, "20 02 00 05", &Connack{Code: NotAuthorized}, nil},
	{
		"every property", v5,
		"20 45 01 00 42 11 0000003C 21 000A 24 01 25 00 27 00010000 12 0002 'id' 22 0020 1F 0002 'ok' 26 0001 'k' 0001 'v'" +
			"28 01 29 00 2A 01 13 001E 1A 0002 'ri' 1C 0003 'srv' 15 0001 'm' 16 0002 FF00",
		&Connack{
			SessionPresent: true,
			Props: Properties{}.WithInt(SessionExpiryInterval, 60).WithInt(ReceiveMaximum, 10).WithInt(MaximumQoS, 1).
				WithFlag(RetainAvailable, false).WithInt(MaximumPacketSize, 65536).WithString(AssignedClientIdentifier, "id").
				WithInt(TopicAliasMaximum, 32).WithString(ReasonString, "ok").WithUser("k", "v").WithFlag(WildcardSubscriptionAvailable, true).
				WithFlag(SubscriptionIdentifierAvailable, false).WithFlag(SharedSubscriptionAvailable, true).WithInt(ServerKeepAlive, 30).
				WithString(ResponseInformation, "ri").WithString(ServerReference, "srv").WithString(AuthenticationMethod, "m").
				WithString(AuthenticationData, "\xFF\x00"),
		}, nil,
	},
}

var connackRefusals = []refusal{
	{"reserved flags [MQTT-3.2.2-1]", v5, 0x20, "02 00 00", MalformedPacket},
	{"reserved flags", v311, 0x20, "80 00", MalformedPacket},
	{"reason code of another packet [MQTT-3.2.2-8]", v5, 0x20, "00 8D 00", MalformedPacket},
	{"return code 6", v3, 0x20, "00 06", MalformedPacket},
	{"return code 0x80", v3, 0x20, "00 80", MalformedPacket},
	{"empty", all, 0x20, "", MalformedPacket},
	{"flags alone", all, 0x20, "00", MalformedPacket},
	{"without property length [MQTT-2.2.2-1]", v5, 0x20, "00 00", MalformedPacket},
	{"properties in MQTT 3", v3, 0x20, "00 00 00", MalformedPacket},
	{"bytes behind the properties", v5, 0x20, "00 00 00 00", MalformedPacket},
	{"maximum QoS 2", v5, 0x20, "00 00 02 24 02", ProtocolError},
	{"retain available 2", v5, 0x20, "00 00 02 25 02", ProtocolError},
	{"receive maximum 0", v5, 0x20, "00 00 03 21 0000", ProtocolError},
	{"assigned ClientID twice", v5, 0x20, "00 00 08 12 0001 'a' 12 0001 'b'", ProtocolError},
}

func TestConnack(t *testing.T) { checkGoldens(t, connackGoldens) }

func TestConnackRefused(t *testing.T) { checkRefusals(t, connackRefusals) }

func FuzzConnack(f *testing.F) { fuzzPacket(f, CONNACK) }

// MQTT 3 has five refusals; other codes become the nearest one, and HasConnackV3 tells which have one.
func TestConnackV3ReturnCodes(t *testing.T) {
	returnCode := map[ReasonCode]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIdentifierNotValid: 2, ServerUnavailable: 3, ServerBusy: 3,
		ConnectionRateExceeded: 3, QuotaExceeded: 3, UseAnotherServer: 3, ServerMoved: 3, BadUserNameOrPassword: 4,
		NotAuthorized: 5, Banned: 5,
	}
	for n := range 256 {
		code := ReasonCode(n)
		want, has := returnCode[code]
		if !has {
			want = 3
		}
		if code.HasConnackV3() != has {
			t.Errorf("%v: HasConnackV3 is %t", code.Error(), !has)
		}
		for _, v := range v3 {
			if got := encode(&Connack{Code: code}, v); !bytes.Equal(got, []byte{0x20, 2, 0, want}) {
				t.Errorf("%v in version %s: got % X, want return code %d", code.Error(), v, got, want)
			}
		}
	}
}

// MQTT 3.1 has no Session Present: the byte is not used, and a server leaves it zero.
func TestConnackV31HasNoSessionPresent(t *testing.T) {
	p, err := parse(hex("20 02 FF 00"), V31)
	if err != nil || !same(p, &Connack{}) {
		t.Errorf("got %s, error %v", show(p), err)
	}
	if got := encode(&Connack{SessionPresent: true}, V31); !bytes.Equal(got, hex("20 02 00 00")) {
		t.Errorf("got % X", got)
	}
}
