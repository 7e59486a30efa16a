package mqtt

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

var publishGoldens = []golden{
	{"QoS 0", v3, "30 09 0003 'a/b' 'body'", pub("a/b", "body"), span(5, 9)},     // no Packet Identifier [v3.1.1 MQTT-2.3.1-5]
	{"QoS 0", v5, "30 0A 0003 'a/b' 00 'body'", pub("a/b", "body"), span(6, 10)}, // [MQTT-2.2.1-2], [MQTT-2.2.2-1]
	{"no payload", v3, "30 05 0003 'a/b'", pub("a/b", ""), nil},
	{"no payload", v5, "30 06 0003 'a/b' 00", pub("a/b", ""), nil},
	{"QoS 1", v3, "32 0B 0003 'a/b' 0001 'body'", &Publish{QoS: AtLeastOnce, Topic: []byte("a/b"), PacketID: 1, Payload: []byte("body")}, span(7, 11)},
	{"QoS 1", v5, "32 0C 0003 'a/b' 0001 00 'body'", &Publish{QoS: AtLeastOnce, Topic: []byte("a/b"), PacketID: 1, Payload: []byte("body")}, span(8, 12)},
	{
		"QoS 2, DUP and retain", v3, "3D 08 0003 'a/b' FFFF 'x'",
		&Publish{Dup: true, QoS: ExactlyOnce, Retain: true, Topic: []byte("a/b"), PacketID: 65535, Payload: []byte("x")}, span(7, 8),
	},
	{
		"QoS 2, DUP and retain", v5, "3D 09 0003 'a/b' FFFF 00 'x'",
		&Publish{Dup: true, QoS: ExactlyOnce, Retain: true, Topic: []byte("a/b"), PacketID: 65535, Payload: []byte("x")}, span(8, 9),
	},
	{"retain", all[:2], "31 05 0003 'a/b'", &Publish{Retain: true, Topic: []byte("a/b")}, nil},
	{
		"properties that travel", v5,
		"30 27 0001 't' 21 01 01 03 0004 'text' 08 0003 'r/t' 09 0002 00FF 26 0001 'k' 0001 'v' 26 0001 'k' 0000 'pp'",
		&Publish{
			Topic: []byte("t"), Payload: []byte("pp"),
			Props: Properties{}.WithInt(PayloadFormatIndicator, 1).WithString(ContentType, "text").WithString(ResponseTopic, "r/t").
				WithString(CorrelationData, "\x00\xFF").WithUser("k", "v").WithUser("k", ""),
		}, span(37, 39),
	},
	{
		"properties of this hop", v5,
		"34 1A 0001 't' 0102 12 02 0000003C 23 0007 0B 01 0B 8001 0B FFFFFF7F 'pp'",
		&Publish{
			QoS: ExactlyOnce, Topic: []byte("t"), PacketID: 258, Payload: []byte("pp"), HasExpiry: true, Expiry: 60,
			HasAlias: true, Alias: 7, IDs: []uint32{1, 128, 268_435_455},
		}, span(24, 26),
	},
	{"alias instead of a name", v5, "30 06 0000 03 23 0001", &Publish{HasAlias: true, Alias: 1}, nil},
	{"alias zero is left to the session", v5, "30 07 0001 't' 03 23 0000", &Publish{Topic: []byte("t"), HasAlias: true}, nil},
	{
		"both kinds of properties", v5,
		"30 11 0001 't' 0D 02 00000000 23 0001 01 00 03 0000",
		&Publish{
			Topic: []byte("t"), HasExpiry: true, HasAlias: true, Alias: 1,
			Props: Properties{}.WithInt(PayloadFormatIndicator, 0).WithString(ContentType, ""),
		}, nil,
	},
}

var publishRefusals = []refusal{
	{"QoS 3 [MQTT-3.3.1-4], [v3.1.1 MQTT-3.3.1-4]", all, 0x36, "0001 't' 0001 00", MalformedPacket},
	{"QoS 3 with DUP and retain", all, 0x3F, "0001 't' 0001 00", MalformedPacket},
	{"DUP with QoS 0 [MQTT-3.3.1-2], [v3.1.1 MQTT-3.3.1-2]", all, 0x38, "0001 't' 00", MalformedPacket},
	{"DUP with QoS 0 and retain", all, 0x39, "0001 't' 00", MalformedPacket},
	{"packet id zero, QoS 1 [MQTT-2.2.1-3], [v3.1.1 MQTT-2.3.1-1]", all, 0x32, "0001 't' 0000 00", ProtocolError},
	{"packet id zero, QoS 2", all, 0x34, "0001 't' 0000 00", ProtocolError},
	{"no packet id", all, 0x32, "0001 't'", MalformedPacket},
	{"half a packet id", all, 0x34, "0001 't' 00", MalformedPacket},
	{"empty", all, 0x30, "", MalformedPacket},
	{"no topic [MQTT-3.3.2-1], [v3.1.1 MQTT-3.3.2-1]", all, 0x30, "00", MalformedPacket},
	{"topic is longer than the packet", all, 0x30, "FFFF 't'", MalformedPacket},
	{"topic is not UTF-8 [MQTT-3.3.2-1], [v3.1.1 MQTT-3.3.2-1]", all, 0x30, "0001 FF 00", MalformedPacket},
	{"topic with U+0000 [MQTT-1.5.4-2], [v3.1.1 MQTT-1.5.3-2]", all, 0x30, "0003 'a' 00 'b' 00", MalformedPacket},
	{"topic is empty [v3.1.1 MQTT-4.7.3-1]", v3, 0x30, "0000 'x'", MalformedPacket},
	{"neither topic nor alias", v5, 0x30, "0000 00 'x'", ProtocolError},
	{"no property length [MQTT-2.2.2-1]", v5, 0x30, "0001 't'", MalformedPacket},
	{"property length behind the end", v5, 0x30, "0001 't' 01", MalformedPacket},
	{"property length of two bytes for zero [MQTT-1.5.5-1]", v5, 0x30, "0001 't' 8000", MalformedPacket},
	{"payload format 2", v5, 0x30, "0001 't' 02 01 02", ProtocolError},
	{"expiry twice", v5, 0x30, "0001 't' 0A 02 00000001 02 00000001", ProtocolError},
	{"alias twice", v5, 0x30, "0001 't' 06 23 0001 23 0001", ProtocolError},
	{"subscription id 0", v5, 0x30, "0001 't' 02 0B 00", ProtocolError},
	{"subscription id is longer than needed [MQTT-1.5.5-1]", v5, 0x30, "0001 't' 03 0B 8100", MalformedPacket},
	{"subscription id of five bytes", v5, 0x30, "0001 't' 06 0B 8080808001", MalformedPacket},
	{"subscription id is cut off", v5, 0x30, "0001 't' 02 0B 80", MalformedPacket},
	{"response topic is not UTF-8 [MQTT-3.3.2-13]", v5, 0x30, "0001 't' 04 08 0001 FF", MalformedPacket},
	{"content type is not UTF-8 [MQTT-3.3.2-19]", v5, 0x30, "0001 't' 04 03 0001 FF", MalformedPacket},
	{"reason string in a PUBLISH", v5, 0x30, "0001 't' 04 1F 0001 'r'", MalformedPacket},
}

func pub(topic, payload string) *Publish {
	return &Publish{Topic: []byte(topic), Payload: []byte(payload)}
}

func TestPublish(t *testing.T) { checkGoldens(t, publishGoldens) }

func TestPublishRefused(t *testing.T) { checkRefusals(t, publishRefusals) }

func FuzzPublish(f *testing.F) { fuzzPacket(f, PUBLISH) }

// All sixteen flags: QoS 3, and DUP with QoS 0, are the illegal ones.
func TestPublishFlags(t *testing.T) {
	for _, v := range all {
		for flags := range byte(16) {
			dup, qos, retain := flags&8 != 0, flags>>1&3, flags&1 != 0
			p, err := parse(packetOf(0x30|flags, hex("0001 't' 0001 00")), v)
			if legal := qos < 3 && !(dup && qos == 0); legal != (err == nil) {
				t.Errorf("version %s, flags %04b: error %v", v, flags, err)
			} else if legal {
				got := p.(*Publish)
				if got.Dup != dup || got.QoS != QoS(qos) || got.Retain != retain {
					t.Errorf("version %s, flags %04b: got %s", v, flags, show(p))
				}
			}
		}
	}
}

// Properties of this hop may stand anywhere between the others, which keep their order [MQTT-3.3.2-18] and bytes.
func TestPublishSortsProperties(t *testing.T) {
	hop := [][]byte{hex("02 0000000A"), hex("23 0003"), hex("0B 05"), hex("0B 8006")}
	travel := [][]byte{hex("26 0001 'z' 0001 '1'"), hex("01 01"), hex("26 0001 'a' 0001 '2'"), hex("26 0001 'z' 0001 '3'"), hex("09 0003 000102")}
	for seed := range 1 << (len(hop) + len(travel)) {
		props, want := interleave(seed, hop, travel)
		b := carriers["PUBLISH"].with(props)
		p, err := parse(b, V5)
		if err != nil {
			t.Fatalf("% X: %v", b, err)
		}
		got := p.(*Publish)
		if !bytes.Equal(got.Props, slices.Concat(want...)) || string(got.Payload) != "payload" {
			t.Fatalf("% X: properties % X, want % X; payload %q", b, got.Props, slices.Concat(want...), got.Payload)
		}
	}
}

// interleave picks the properties whose bit is set in seed, of hop and travel by turns; want are those that travel.
func interleave(seed int, hop, travel [][]byte) (props []byte, want [][]byte) {
	for i := range max(len(hop), len(travel)) {
		if i < len(travel) && seed>>(len(hop)+i)&1 != 0 {
			props, want = append(props, travel[i]...), append(want, travel[i])
		}
		if i < len(hop) && seed>>i&1 != 0 {
			props = append(props, hop[i]...)
		}
	}
	return props, want
}

// User Properties arrive in their order, equal ones included [MQTT-3.3.2-17], [MQTT-3.3.2-18].
func TestPublishUserProperties(t *testing.T) {
	pairs := [][2]string{{"b", "1"}, {"a", "2"}, {"b", "1"}, {"", ""}, {"a", "3"}}
	p := Publish{Topic: []byte("t")}
	for _, pair := range pairs {
		p.Props = p.Props.WithUser(pair[0], pair[1])
	}
	parsed, err := parse(encode(&p, V5), V5)
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]string
	for key, value := range parsed.(*Publish).Props.User() {
		got = append(got, [2]string{key, value})
	}
	if !slices.Equal(got, pairs) {
		t.Errorf("got %q, want %q", got, pairs)
	}
}

// Size says what Append does, over every width of the lengths.
func TestPublishSize(t *testing.T) {
	for _, v := range all {
		for _, g := range publishGoldens {
			checkSize(t, g.packet.(*Publish), v)
		}
		for _, n := range []int{0, 100, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_378, 16_383, 16_384, 2_097_140, 2_097_152} {
			checkSize(t, &Publish{Topic: []byte("t"), QoS: AtLeastOnce, PacketID: 1, Payload: make([]byte, n)}, v)
			checkSize(t, &Publish{Topic: []byte("t"), Props: make(Properties, n)}, v) // Append does not look into them
		}
	}
}

func checkSize(t *testing.T, p *Publish, v Version) {
	t.Helper()
	if got, want := p.Size(v), len(p.Append(nil, v)); got != want {
		t.Errorf("version %s, payload of %d, properties of %d: Size %d, but Append makes %d bytes", v, len(p.Payload), len(p.Props), got, want)
	}
}

// A topic of 65,535 bytes is the longest.
func TestPublishLongTopic(t *testing.T) {
	for _, v := range all {
		want := &Publish{Topic: []byte(strings.Repeat("a", 65_535)), Payload: []byte("x")}
		if got, err := parse(encode(want, v), v); err != nil || !same(got, want) {
			t.Errorf("version %s: error %v", v, err)
		}
	}
}

// What Parse sets cannot be appended to over what follows it in the read buffer.
func TestPublishBorrowsItsOwnBytesOnly(t *testing.T) {
	b := append(hex("32 11 0001 't' 0001 07 26 0001 'k' 0001 'v' 'body'"), "next packet"...)
	f, _, err := ParseFrame(b, V5, MaxPacket)
	if err != nil {
		t.Fatal(err)
	}
	var p Publish
	if err := p.Parse(f, V5); err != nil {
		t.Fatal(err)
	}
	_ = append(p.Payload, "overwritten"...)
	_ = append(p.Topic, "overwritten"...)
	_ = append(p.Props, "overwritten"...)
	if want := "next packet"; string(b[len(b)-len(want):]) != want || string(p.Payload) != "body" || p.PacketID != 1 {
		t.Errorf("buffer is now %q, packet %s", b, show(&p))
	}
}

// A Publish is used again for the next packet: nothing of the last one may remain, but the array of IDs may.
func TestPublishParseForgets(t *testing.T) {
	var p Publish
	for _, g := range publishGoldens {
		for _, v := range g.versions {
			f, _, err := ParseFrame(hex(g.wire), v, MaxPacket)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Parse(f, v); err != nil || !same(&p, g.packet) {
				t.Errorf("%s: got %s, error %v", g.name, show(&p), err)
			}
		}
	}
}

// TestPublishKnown: a Topic Name that the caller vouches for is not checked, any other one is.
func TestPublishKnown(t *testing.T) {
	bad := []byte{0, 2, 'a', 0xff, 'x'}
	for known, want := range map[string]error{"": MalformedPacket, "a": MalformedPacket, "a\xff": nil} {
		p := Publish{Known: known}
		if err := p.Parse(Frame{Type: PUBLISH, Body: bytes.Clone(bad)}, V311); !errors.Is(err, want) {
			t.Errorf("known %q: %v, want %v", known, err, want)
		}
		if p.Known != known {
			t.Errorf("known is %q, was %q", p.Known, known)
		}
	}
}
