package mqtt

import (
	"bytes"
	"testing"
)

var subscribeGoldens = []golden{
	{"one filter", v3, "82 08 0001 0003 'a/b' 00", &Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a/b"}}}, nil},
	{"one filter", v5, "82 09 0001 00 0003 'a/b' 00", &Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a/b"}}}, nil},
	{
		"three filters", v3, "82 0F FFFF 0001 '#' 00 0001 '+' 01 0002 '/a' 02",
		&Subscribe{PacketID: 65535, Subscriptions: []Subscription{{Filter: "#"}, {Filter: "+", QoS: AtLeastOnce}, {Filter: "/a", QoS: ExactlyOnce}}},
		[]int{6, 10},
	},
	{
		"every option", v5, "82 1A 0001 0A 0B FFFF03 26 0001 'k' 0000 0001 'a' 04 0001 'b' 1A 0002 'cc' 2D",
		&Subscribe{
			PacketID: 1, Props: Properties{}.WithInt(SubscriptionIdentifier, 65535).WithUser("k", ""),
			Subscriptions: []Subscription{
				{Filter: "a", NoLocal: true, RetainHandling: SendRetained},
				{Filter: "b", QoS: ExactlyOnce, RetainAsPublished: true, RetainHandling: SendRetainedIfNew},
				{Filter: "cc", QoS: AtLeastOnce, NoLocal: true, RetainAsPublished: true, RetainHandling: DoNotSendRetained},
			},
		}, []int{17, 21},
	},
	{"empty filter is left to package topic", v3, "82 05 0001 0000 01", &Subscribe{PacketID: 1, Subscriptions: []Subscription{{QoS: AtLeastOnce}}}, nil},
}

var subscribeRefusals = []refusal{
	{"packet id zero [MQTT-2.2.1-3], [v3.1.1 MQTT-2.3.1-1]", all, 0x82, "0000 00 0001 'a' 00", ProtocolError},
	{"empty", all, 0x82, "", MalformedPacket},
	{"no filter [MQTT-3.8.3-2]", v5, 0x82, "0001 00", ProtocolError},
	{"no filter [v3.1.1 MQTT-3.8.3-3]", v3, 0x82, "0001", ProtocolError},
	{"no property length [MQTT-2.2.2-1]", v5, 0x82, "0001", MalformedPacket},
	{"no options", v5, 0x82, "0001 00 0001 'a'", MalformedPacket},
	{"no options", v3, 0x82, "0001 0001 'a'", MalformedPacket},
	{"no options for the second filter", v5, 0x82, "0001 00 0001 'a' 00 0001 'b'", MalformedPacket},
	{"filter is longer than the packet", v5, 0x82, "0001 00 00FF 'a' 00", MalformedPacket},
	{"filter is not UTF-8 [MQTT-3.8.3-1]", v5, 0x82, "0001 00 0001 FF 00", MalformedPacket},
	{"filter is not UTF-8 [v3.1.1 MQTT-3.8.3-1]", v3, 0x82, "0001 0001 FF 00", MalformedPacket},
	{"QoS 3", v5, 0x82, "0001 00 0001 'a' 03", ProtocolError},
	{"QoS 3 [v3.1.1 MQTT-3.8.3-4]", v3, 0x82, "0001 0001 'a' 03", MalformedPacket},
	{"retain handling 3", v5, 0x82, "0001 00 0001 'a' 30", ProtocolError},
	{"reserved option bit 6 [MQTT-3.8.3-5]", v5, 0x82, "0001 00 0001 'a' 40", MalformedPacket},
	{"reserved option bit 7 [MQTT-3.8.3-5]", v5, 0x82, "0001 00 0001 'a' 80", MalformedPacket},
	{"options of MQTT 5 [v3.1.1 MQTT-3.8.3-4]", v3, 0x82, "0001 0001 'a' 04", MalformedPacket},
	{"subscription id 0", v5, 0x82, "0001 02 0B 00 0001 'a' 00", ProtocolError},
	{"subscription id twice", v5, 0x82, "0001 04 0B 01 0B 02 0001 'a' 00", ProtocolError},
	{"property of a PUBLISH", v5, 0x82, "0001 02 01 01 0001 'a' 00", MalformedPacket},
}

var unsubscribeGoldens = []golden{
	{"one filter", v3, "A2 07 0001 0003 'a/b'", &Unsubscribe{PacketID: 1, Filters: []string{"a/b"}}, nil},
	{"one filter", v5, "A2 08 0001 00 0003 'a/b'", &Unsubscribe{PacketID: 1, Filters: []string{"a/b"}}, nil},
	{"three filters", v3, "A2 0C FFFF 0001 '#' 0001 '+' 0002 '/a'", &Unsubscribe{PacketID: 65535, Filters: []string{"#", "+", "/a"}}, []int{5, 8}},
	{
		"with properties", v5, "A2 10 0102 07 26 0001 'k' 0001 'v' 0001 'a' 0001 'b'",
		&Unsubscribe{PacketID: 258, Filters: []string{"a", "b"}, Props: Properties{}.WithUser("k", "v")}, []int{13},
	},
}

var unsubscribeRefusals = []refusal{
	{"packet id zero [MQTT-2.2.1-3], [v3.1.1 MQTT-2.3.1-1]", all, 0xA2, "0000 00 0001 'a'", ProtocolError},
	{"empty", all, 0xA2, "", MalformedPacket},
	{"no filter [MQTT-3.10.3-2]", v5, 0xA2, "0001 00", ProtocolError},
	{"no filter [v3.1.1 MQTT-3.10.3-2]", v3, 0xA2, "0001", ProtocolError},
	{"no property length [MQTT-2.2.2-1]", v5, 0xA2, "0001", MalformedPacket},
	{"filter is longer than the packet", all, 0xA2, "0001 00 00FF 'a'", MalformedPacket},
	{"filter is not UTF-8 [MQTT-3.10.3-1]", v5, 0xA2, "0001 00 0001 FF", MalformedPacket},
	{"filter is not UTF-8 [v3.1.1 MQTT-3.10.3-1]", v3, 0xA2, "0001 0001 FF", MalformedPacket},
	{"reason string", v5, 0xA2, "0001 04 1F 0001 'a' 0001 'a'", MalformedPacket},
}

func TestSubscribe(t *testing.T) { checkGoldens(t, subscribeGoldens) }

func TestSubscribeRefused(t *testing.T) { checkRefusals(t, subscribeRefusals) }

func FuzzSubscribe(f *testing.F) { fuzzPacket(f, SUBSCRIBE) }

func TestUnsubscribe(t *testing.T) { checkGoldens(t, unsubscribeGoldens) }

func TestUnsubscribeRefused(t *testing.T) { checkRefusals(t, unsubscribeRefusals) }

func FuzzUnsubscribe(f *testing.F) { fuzzPacket(f, UNSUBSCRIBE) }

// All 256 Subscription Options, both ways.
func TestSubscribeOptions(t *testing.T) {
	for _, v := range all {
		for o := range 256 {
			b := carriers["SUBSCRIBE"].wire(v, nil)
			b[len(b)-1] = byte(o)
			p, err := parse(b, v)
			legal := o <= 2
			if v == V5 {
				legal = o>>6 == 0 && o&3 != 3 && o>>4&3 != 3 // [MQTT-3.8.3-5]
			}
			if legal != (err == nil) {
				t.Errorf("version %s, options %08b: error %v", v, o, err)
			} else if legal && !bytes.Equal(encode(p, v), b) {
				t.Errorf("version %s, options %08b: read as %s", v, o, show(p))
			}
		}
	}
}

// MQTT 3 has no room for the options of MQTT 5.
func TestSubscribeV3DropsOptions(t *testing.T) {
	s := &Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a", QoS: ExactlyOnce, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}}
	for _, v := range v3 {
		if got := encode(s, v); !bytes.Equal(got, hex("82 06 0001 0001 'a' 02")) {
			t.Errorf("version %s: got % X", v, got)
		}
	}
}
