package mqtt

import (
	"strings"
	"testing"
)

var connectGoldens = []golden{
	// [MQTT-2.2.2-1]: no properties are a property length of zero. [MQTT-3.1.3-3]: the ClientID is there, if empty.
	{"least", v5, "10 0D 0004 'MQTT' 05 02 0000 00 0000", &Connect{Version: V5, CleanStart: true}, nil},
	{"least", v311, "10 0C 0004 'MQTT' 04 02 0000 0000", &Connect{Version: V311, CleanStart: true}, nil},
	{"least", v31, "10 0F 0006 'MQIsdp' 03 02 000A 0001 'c'", &Connect{Version: V31, CleanStart: true, KeepAlive: 10, ClientID: "c"}, nil},
	{
		// The order of the payload [MQTT-3.1.3-1], and that each flag brings its field [MQTT-3.1.2-9], [MQTT-3.1.2-17], [MQTT-3.1.2-19].
		"everything", v5,
		"10 69 0004 'MQTT' 05 F4 003C" +
			"24 11 0000003C 21 0014 27 00001000 22 000A 19 01 17 00 26 0001 'k' 0001 'v' 15 0001 'm' 16 0002 FF00" +
			"0002 'id'" +
			"20 18 00000005 01 01 02 0000000A 03 0001 't' 08 0001 'r' 09 0002 00FF 26 0001 'a' 0001 'b'" +
			"0004 'will' 0003 'bye' 0004 'user' 0002 FF00",
		&Connect{
			Version: V5, KeepAlive: 60, ClientID: "id", HasUsername: true, Username: "user", HasPassword: true, Password: []byte{0xFF, 0},
			Props: Properties{}.WithInt(SessionExpiryInterval, 60).WithInt(ReceiveMaximum, 20).WithInt(MaximumPacketSize, 4096).
				WithInt(TopicAliasMaximum, 10).WithFlag(RequestResponseInformation, true).WithFlag(RequestProblemInformation, false).
				WithUser("k", "v").WithString(AuthenticationMethod, "m").WithString(AuthenticationData, "\xFF\x00"),
			Will: &Will{
				Topic: "will", Payload: []byte("bye"), QoS: ExactlyOnce, Retain: true,
				Props: Properties{}.WithInt(WillDelayInterval, 5).WithInt(PayloadFormatIndicator, 1).WithInt(MessageExpiryInterval, 10).
					WithString(ContentType, "t").WithString(ResponseTopic, "r").WithString(CorrelationData, "\x00\xFF").WithUser("a", "b"),
			},
		}, nil,
	},
	{
		"everything", v311, // [v3.1.1 MQTT-3.1.3-1], [v3.1.1 MQTT-3.1.2-9], [v3.1.1 MQTT-3.1.2-19], [v3.1.1 MQTT-3.1.2-21]
		"10 24 0004 'MQTT' 04 EE FFFF 0002 'id' 0004 'will' 0003 'bye' 0004 'user' 0003 'pwd'",
		&Connect{
			Version: V311, CleanStart: true, KeepAlive: 65535, ClientID: "id", HasUsername: true, Username: "user", HasPassword: true,
			Password: []byte("pwd"), Will: &Will{Topic: "will", Payload: []byte("bye"), QoS: AtLeastOnce, Retain: true},
		}, nil,
	},
	{
		"everything", v31,
		"10 26 0006 'MQIsdp' 03 D4 0001 0002 'id' 0004 'will' 0003 'bye' 0004 'user' 0003 'pwd'",
		&Connect{
			Version: V31, KeepAlive: 1, ClientID: "id", HasUsername: true, Username: "user", HasPassword: true,
			Password: []byte("pwd"), Will: &Will{Topic: "will", Payload: []byte("bye"), QoS: ExactlyOnce},
		}, []int{27, 33}, // MQTT 3.1 lets announced strings be missing
	},
	{
		"empty will and user name", v5, "10 14 0004 'MQTT' 05 84 0000 00 0000 00 0000 0000 0000",
		&Connect{Version: V5, HasUsername: true, Will: &Will{}}, nil,
	},
	{
		"user name alone", v311, "10 11 0004 'MQTT' 04 80 0000 0000 0003 'bob'",
		&Connect{Version: V311, HasUsername: true, Username: "bob"}, nil,
	},
	{
		"password alone", v5, "10 12 0004 'MQTT' 05 40 0000 00 0000 0003 'pwd'", // MQTT 5.0 allows it
		&Connect{Version: V5, HasPassword: true, Password: []byte("pwd")}, nil,
	},
	{
		"method without data", v5, "10 11 0004 'MQTT' 05 00 0000 04 15 0001 'm' 0000",
		&Connect{Version: V5, Props: Properties{}.WithString(AuthenticationMethod, "m")}, nil,
	},
}

var connectRefusals = []refusal{
	{"protocol name [MQTT-3.1.2-1], [v3.1.1 MQTT-3.1.2-1]", all, 0x10, "0004 'MQTX' 05 02 0000 00 0000", MalformedPacket},
	{"protocol name in lower case", all, 0x10, "0004 'mqtt' 05 02 0000 00 0000", MalformedPacket},
	{"protocol name is empty", all, 0x10, "0000 05 02 0000 00 0000", MalformedPacket},
	{"protocol level 6 [MQTT-3.1.2-2]", all, 0x10, "0004 'MQTT' 06 02 0000 00 0000", UnsupportedProtocolVersion},
	{"protocol level 0 [v3.1.1 MQTT-3.1.2-2]", all, 0x10, "0004 'MQTT' 00 02 0000 0000", UnsupportedProtocolVersion},
	{"protocol level alone", all, 0x10, "0004 'MQTT' 07", UnsupportedProtocolVersion},
	{"name of 3.1.1 with level of 3.1", all, 0x10, "0004 'MQTT' 03 02 0000 0000", UnsupportedProtocolVersion},
	{"name of 3.1 with level of 3.1.1", all, 0x10, "0006 'MQIsdp' 04 02 0000 0000", UnsupportedProtocolVersion},
	{"reserved flag [MQTT-3.1.2-3]", v5, 0x10, "0004 'MQTT' 05 03 0000 00 0000", MalformedPacket},
	{"reserved flag [v3.1.1 MQTT-3.1.2-3]", v311, 0x10, "0004 'MQTT' 04 03 0000 0000", MalformedPacket},
	{"will QoS 1 without will [MQTT-3.1.2-11]", v5, 0x10, "0004 'MQTT' 05 08 0000 00 0000", MalformedPacket},
	{"will QoS 2 without will [MQTT-3.1.2-11]", v5, 0x10, "0004 'MQTT' 05 10 0000 00 0000", MalformedPacket},
	{"will QoS without will [v3.1.1 MQTT-3.1.2-11], [v3.1.1 MQTT-3.1.2-13]", v311, 0x10, "0004 'MQTT' 04 08 0000 0000", MalformedPacket},
	{"will QoS 3 [MQTT-3.1.2-12]", v5, 0x10, "0004 'MQTT' 05 1C 0000 00 0000 00 0001 't' 0000", MalformedPacket},
	{"will QoS 3 [v3.1.1 MQTT-3.1.2-14]", v311, 0x10, "0004 'MQTT' 04 1C 0000 0000 0001 't' 0000", MalformedPacket},
	{"will QoS 3 in 3.1", v31, 0x10, "0006 'MQIsdp' 03 1C 0000 0000 0001 't' 0000", MalformedPacket},
	{"will retain without will [MQTT-3.1.2-13]", v5, 0x10, "0004 'MQTT' 05 20 0000 00 0000", MalformedPacket},
	{"will retain without will [v3.1.1 MQTT-3.1.2-15]", v311, 0x10, "0004 'MQTT' 04 20 0000 0000", MalformedPacket},
	{"will flag without will [MQTT-3.1.2-9]", v5, 0x10, "0004 'MQTT' 05 04 0000 00 0000", MalformedPacket},
	{"will without will flag [v3.1.1 MQTT-3.1.2-11]", v311, 0x10, "0004 'MQTT' 04 00 0000 0000 0001 't' 0000", MalformedPacket},
	{"will without message [v3.1.1 MQTT-3.1.2-9]", v311, 0x10, "0004 'MQTT' 04 04 0000 0000 0001 't'", MalformedPacket},
	{"user name without flag [MQTT-3.1.2-16]", v5, 0x10, "0004 'MQTT' 05 00 0000 00 0000 0001 'u'", MalformedPacket},
	{"user name without flag [v3.1.1 MQTT-3.1.2-18]", v311, 0x10, "0004 'MQTT' 04 00 0000 0000 0001 'u'", MalformedPacket},
	{"flag without user name [MQTT-3.1.2-17]", v5, 0x10, "0004 'MQTT' 05 80 0000 00 0000", MalformedPacket},
	{"flag without user name [v3.1.1 MQTT-3.1.2-19]", v311, 0x10, "0004 'MQTT' 04 80 0000 0000", MalformedPacket},
	{"password without flag [MQTT-3.1.2-18]", v5, 0x10, "0004 'MQTT' 05 80 0000 00 0000 0001 'u' 0001 'p'", MalformedPacket},
	{"password without flag [v3.1.1 MQTT-3.1.2-20]", v311, 0x10, "0004 'MQTT' 04 80 0000 0000 0001 'u' 0001 'p'", MalformedPacket},
	{"flag without password [MQTT-3.1.2-19]", v5, 0x10, "0004 'MQTT' 05 C0 0000 00 0000 0001 'u'", MalformedPacket},
	{"flag without password [v3.1.1 MQTT-3.1.2-21]", v311, 0x10, "0004 'MQTT' 04 C0 0000 0000 0001 'u'", MalformedPacket},
	{"password without user name [v3.1.1 MQTT-3.1.2-22]", v311, 0x10, "0004 'MQTT' 04 40 0000 0000 0001 'p'", MalformedPacket},
	{"password without user name in 3.1", v31, 0x10, "0006 'MQIsdp' 03 40 0000 0000 0001 'p'", MalformedPacket},
	{"no ClientID [MQTT-3.1.3-3]", v5, 0x10, "0004 'MQTT' 05 02 0000 00", MalformedPacket},
	{"no ClientID [v3.1.1 MQTT-3.1.3-3]", v311, 0x10, "0004 'MQTT' 04 02 0000", MalformedPacket},
	{"ClientID is not UTF-8 [MQTT-3.1.3-4]", v5, 0x10, "0004 'MQTT' 05 02 0000 00 0001 FF", MalformedPacket},
	{"ClientID is not UTF-8 [v3.1.1 MQTT-3.1.3-4]", v311, 0x10, "0004 'MQTT' 04 02 0000 0001 FF", MalformedPacket},
	{"will topic is not UTF-8 [MQTT-3.1.3-11]", v5, 0x10, "0004 'MQTT' 05 04 0000 00 0000 00 0001 FF 0000", MalformedPacket},
	{"will topic is not UTF-8 [v3.1.1 MQTT-3.1.3-10]", v311, 0x10, "0004 'MQTT' 04 04 0000 0000 0001 FF 0000", MalformedPacket},
	{"user name is not UTF-8 [MQTT-3.1.3-12]", v5, 0x10, "0004 'MQTT' 05 80 0000 00 0000 0001 FF", MalformedPacket},
	{"user name is not UTF-8 [v3.1.1 MQTT-3.1.3-11]", v311, 0x10, "0004 'MQTT' 04 80 0000 0000 0001 FF", MalformedPacket},
	{"bytes behind the payload [MQTT-3.1.4-1], [v3.1.1 MQTT-3.1.4-1]", all, 0x10, "0004 'MQTT' 05 02 0000 00 0000 00", MalformedPacket},
	{"receive maximum 0", v5, 0x10, "0004 'MQTT' 05 02 0000 03 21 0000 0000", ProtocolError},
	{"maximum packet size 0", v5, 0x10, "0004 'MQTT' 05 02 0000 05 27 00000000 0000", ProtocolError},
	{"request problem information 2", v5, 0x10, "0004 'MQTT' 05 02 0000 02 17 02 0000", ProtocolError},
	{"authentication data without method", v5, 0x10, "0004 'MQTT' 05 02 0000 04 16 0001 'x' 0000", ProtocolError},
	{"session expiry twice", v5, 0x10, "0004 'MQTT' 05 02 0000 0A 11 00000001 11 00000001 0000", ProtocolError},
	{"will delay in the properties of the packet", v5, 0x10, "0004 'MQTT' 05 02 0000 05 18 00000001 0000", MalformedPacket},
	{"session expiry in the will", v5, 0x10, "0004 'MQTT' 05 04 0000 00 0000 05 11 00000001 0001 't' 0000", MalformedPacket},
	{"will delay twice", v5, 0x10, "0004 'MQTT' 05 04 0000 00 0000 0A 18 00000001 18 00000001 0001 't' 0000", ProtocolError},
	{"will payload format 2", v5, 0x10, "0004 'MQTT' 05 04 0000 00 0000 02 01 02 0001 't' 0000", ProtocolError},
	{"property length behind the end", v5, 0x10, "0004 'MQTT' 05 02 0000 7F 0000", MalformedPacket},
	{"property length ends the packet", v5, 0x10, "0004 'MQTT' 05 02 0000 80", MalformedPacket},
	{"property length of two bytes for zero [MQTT-1.5.5-1]", v5, 0x10, "0004 'MQTT' 05 02 0000 8000 0000", MalformedPacket},
	{"property length of five bytes", v5, 0x10, "0004 'MQTT' 05 02 0000 8080808000 0000", MalformedPacket},
}

func TestConnect(t *testing.T) { checkGoldens(t, connectGoldens) }

func TestConnectRefused(t *testing.T) { checkRefusals(t, connectRefusals) }

func FuzzConnect(f *testing.F) { fuzzPacket(f, CONNECT) }

// A server that does not know the version still wants to know which it was, to answer [v3.1.1 MQTT-3.1.2-2].
func TestConnectUnknownVersion(t *testing.T) {
	for level := range 256 {
		body := append(hex("0004 'MQTT'"), byte(level), 0x02, 0, 0)
		if level == int(V5) {
			body = append(body, 0) // properties
		}
		var c Connect
		err := c.Parse(Frame{Type: CONNECT, Body: append(body, text("c")...)})
		if c.Version != Version(level) {
			t.Errorf("level %d was read as %d", level, c.Version)
		}
		if known := level == int(V311) || level == int(V5); known != (err == nil) {
			t.Errorf("level %d: error %v", level, err)
		} else if !known {
			checkCode(t, &c, err, UnsupportedProtocolVersion)
		}
	}
}

// Of the 256 values of the Connect Flags, those are legal that the rules of §3.1.2.3 to §3.1.2.9 leave over.
func TestConnectFlags(t *testing.T) {
	for _, v := range all {
		for flags := range 256 {
			_, err := parse(connectWith(byte(flags), v), v)
			if want := legalConnectFlags(flags, v); want != (err == nil) {
				t.Errorf("version %s, connect flags %08b: error %v", v, flags, err)
			}
		}
	}
}

func legalConnectFlags(flags int, v Version) bool {
	reserved, will, willQoS, willRetain := flags&1, flags>>2&1, flags>>3&3, flags>>5&1
	password, username := flags>>6&1, flags>>7
	if will == 1 && willQoS == 3 {
		return false
	}
	if v == V31 {
		return password <= username // it disregards the others
	}
	if reserved == 1 || will == 0 && willQoS+willRetain > 0 {
		return false
	}
	return v == V5 || password <= username
}

// connectWith makes a CONNECT with the fields that the flags announce.
func connectWith(flags byte, v Version) []byte {
	name, props := "MQTT", []byte(nil)
	if v == V31 {
		name = "MQIsdp"
	}
	if v == V5 {
		props = []byte{0}
	}
	parts := [][]byte{text(name), {byte(v), flags, 0, 0}, props, text("c")}
	if flags&4 != 0 {
		parts = append(parts, props, text("t"), text("m"))
	}
	for bit := byte(0x80); bit >= 0x40; bit >>= 1 {
		if flags&bit != 0 {
			parts = append(parts, text("x"))
		}
	}
	return packetOf(0x10, parts...)
}

// MQTT 3.1 lets the length of the packet win over the flags: announced strings may be missing.
func TestConnectV31MissingCredentials(t *testing.T) {
	for _, c := range []struct {
		body                     string
		hasUsername, hasPassword bool
	}{
		{"0006 'MQIsdp' 03 C2 0000 0001 'c'", false, false},
		{"0006 'MQIsdp' 03 C2 0000 0001 'c' 0001 'u'", true, false},
		{"0006 'MQIsdp' 03 C2 0000 0001 'c' 0001 'u' 0001 'p'", true, true},
		{"0006 'MQIsdp' 03 82 0000 0001 'c'", false, false},
	} {
		p, err := parse(packetOf(0x10, hex(c.body)), V31)
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if got := p.(*Connect); got.HasUsername != c.hasUsername || got.HasPassword != c.hasPassword {
			t.Errorf("%s: got %s", c.body, show(p))
		}
	}
}

// The version is not known when the frame is found, so CONNECT itself applies the rule of 5.0 about the Remaining
// Length [MQTT-1.5.5-1], which MQTT 3 does not have.
func TestConnectPaddedLength(t *testing.T) {
	for _, v := range all {
		b := connectWith(2, v)
		padded := append([]byte{b[0], b[1] | 0x80, 0}, b[2:]...)
		p, err := parse(padded, v)
		if v == V5 {
			checkCode(t, p, err, MalformedPacket)
		} else if err != nil {
			t.Errorf("version %s: %v", v, err)
		}
	}
}

// A server accepts ClientIDs of 1 to 23 letters and digits [MQTT-3.1.3-5], [v3.1.1 MQTT-3.1.3-5]; the format allows up to 65,535 bytes.
func TestConnectClientIDLengths(t *testing.T) {
	for _, n := range []int{0, 1, 23, 24, 255, 256, 65535} {
		for _, v := range all {
			want := &Connect{Version: v, ClientID: strings.Repeat("Z", n)}
			got, err := parse(encode(want, v), v)
			if err != nil || !same(got, want) {
				t.Errorf("version %s, ClientID of %d bytes: error %v", v, n, err)
			}
		}
	}
}

// Parse owes nothing to what the struct held before.
func TestConnectParseForgets(t *testing.T) {
	c := Connect{Version: V31, Username: "old", HasUsername: true, Will: &Will{Topic: "old"}, Props: Properties{1}, Password: []byte("old")}
	f, _, err := ParseFrame(hex("10 0C 0004 'MQTT' 04 02 0000 0000"), 0, MaxPacket)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Parse(f); err != nil || !same(&c, &Connect{Version: V311, CleanStart: true}) {
		t.Errorf("got %s, error %v", show(&c), err)
	}
}
