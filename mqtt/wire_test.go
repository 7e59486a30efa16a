package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// texts holds the rules of a UTF-8 Encoded String (§1.5.4), which are those of 3.1.1 ([v3.1.1] §1.5.3).
var texts = []struct {
	name  string
	bytes string // as hex reads it
	legal bool
}{
	{"letters", "'abc'", true},
	{"two, three and four bytes", "C3A4 E6B8A9 F09F90A6", true},
	{"first and last of each length", "01 7F C280 DFBF E0A080 EFBFBF F0908080 F48FBFBF", true},
	{"around the surrogates", "ED9FBF EE8080", true},
	{"byte order mark, kept [MQTT-1.5.4-3], [v3.1.1 MQTT-1.5.3-3]", "EFBBBF 'a' EFBBBF", true},
	{"non-characters", "EFB790 EFBFBE EFBFBF F09FBFBE", true},
	{"control characters", "01 1F 7F C285", true},
	{"U+0000 [MQTT-1.5.4-2], [v3.1.1 MQTT-1.5.3-2]", "00", false},
	{"U+0000 between letters", "'a' 00 'b'", false},
	{"U+0000 at the end", "'ab' 00", false},
	{"overlong U+0000", "C080", false},
	{"overlong slash, two bytes", "C0AF", false},
	{"overlong slash, three bytes", "E080AF", false},
	{"overlong slash, four bytes", "F08080AF", false},
	{"overlong last of two bytes", "E09FBF", false},
	{"overlong last of three bytes", "F08FBFBF", false},
	{"first surrogate [MQTT-1.5.4-1], [v3.1.1 MQTT-1.5.3-1]", "EDA080", false},
	{"last surrogate", "EDBFBF", false},
	{"pair of surrogates", "EDA0BD EDB0A6", false},
	{"above U+10FFFF", "F4908080", false},
	{"five bytes", "F888808080", false},
	{"continuation alone", "80", false},
	{"start alone", "C3", false},
	{"two of three bytes", "E6B8", false},
	{"three of four bytes", "F09F90", false},
	{"start and letter", "C3 'a'", false},
	{"Latin-1", "'caf' E9", false},
	{"bytes that never occur", "FE FF", false},
}

// textPlaces is every place of a string in packets of version v, as a function that puts one there.
func textPlaces(v Version) map[string]func(s []byte) []byte {
	name, props := "MQTT", "00"
	if v == V31 {
		name = "MQIsdp"
	}
	if v != V5 {
		props = ""
	}
	connect := func(flags byte) []byte { return slices.Concat(text(name), []byte{byte(v), flags, 0, 0}, hex(props)) }
	places := map[string]func([]byte) []byte{
		"ClientID":  func(s []byte) []byte { return packetOf(0x10, connect(2), text(string(s))) },
		"user name": func(s []byte) []byte { return packetOf(0x10, connect(0x82), text("c"), text(string(s))) },
		"will topic": func(s []byte) []byte {
			return packetOf(0x10, connect(6), text("c"), hex(props), text(string(s)), text("m"))
		},
		"topic name": func(s []byte) []byte { return packetOf(0x30, text(string(s)), hex(props), hex("'payload'")) },
		"filter":     func(s []byte) []byte { return packetOf(0x82, hex("0001"+props), text(string(s)), hex("01")) },
		"unsubscribed filter": func(s []byte) []byte {
			return packetOf(0xA2, hex("0001"+props), text("first"), text(string(s)))
		},
	}
	if v == V5 {
		addTextProperties(places)
	}
	return places
}

// addTextProperties adds the properties that are text, in each packet that they are allowed in, and both halves of a
// User Property [MQTT-1.5.7-1].
func addTextProperties(places map[string]func(s []byte) []byte) {
	for _, rule := range propertyRules {
		for place := range strings.FieldsSeq(rule.places) {
			at := fmt.Sprintf("property %d in %s", rule.wire, place)
			switch rule.kind {
			case "text":
				places[at] = func(s []byte) []byte { return inPlace(place, rule.id, []byte{rule.wire}, text(string(s))) }
			case "pair":
				places[at+", key"] = func(s []byte) []byte { return inPlace(place, rule.id, []byte{rule.wire}, text(string(s)), text("v")) }
				places[at+", value"] = func(s []byte) []byte { return inPlace(place, rule.id, []byte{rule.wire}, text("k"), text(string(s))) }
			}
		}
	}
}

// Every rule of strings in every place of a string.
func TestText(t *testing.T) {
	for _, v := range all {
		for at, put := range textPlaces(v) {
			for _, s := range texts {
				b := put(hex(s.bytes))
				p, err := parse(b, v)
				if !s.legal {
					t.Run(fmt.Sprintf("%s/%s/%s", v, at, s.name), func(t *testing.T) { checkCode(t, p, err, MalformedPacket) })
				} else if err != nil || string(encode(p, v)) != string(b) {
					t.Errorf("version %s, %s, %s: got %s, error %v", v, at, s.name, show(p), err)
				}
			}
		}
	}
}

// Binary Data has no rules (§1.5.6), nor has a payload.
func TestBinaryIsAnything(t *testing.T) {
	for _, s := range texts {
		data := string(hex(s.bytes))
		connect := &Connect{
			Version: V5, HasPassword: true, Password: []byte(data),
			Props: Properties{}.WithString(AuthenticationMethod, "m").WithString(AuthenticationData, data),
			Will:  &Will{Topic: "t", Payload: []byte(data), Props: Properties{}.WithString(CorrelationData, data)},
		}
		if got, err := parse(encode(connect, V5), V5); err != nil || !same(got, connect) {
			t.Errorf("%s: got %s, error %v", s.name, show(got), err)
		}
		publish := pub("t", data)
		publish.Props = Properties{}.WithString(CorrelationData, data)
		if got, err := parse(encode(publish, V5), V5); err != nil || !same(got, publish) {
			t.Errorf("%s: got %s, error %v", s.name, show(got), err)
		}
	}
}

func TestNames(t *testing.T) {
	for v, want := range map[Version]string{V31: "3.1", V311: "3.1.1", V5: "5.0", 0: "level 0", 6: "level 6"} {
		if v.String() != want {
			t.Errorf("version %d is %q, want %q", byte(v), v, want)
		}
	}
	for i, want := range strings.Fields("RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT AUTH") {
		if got := PacketType(i).String(); got != want {
			t.Errorf("type %d is %q, want %q", i, got, want)
		}
	}
}
