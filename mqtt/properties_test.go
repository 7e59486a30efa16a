package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// carrier is a packet around a place for properties, of MQTT 5.0.
type carrier struct {
	first         byte
	before, after string // as hex reads them
}

// carriers are the fourteen places where properties stand. "will" is the second one in a CONNECT.
var carriers = map[string]carrier{
	"CONNECT":     {0x10, "0004 'MQTT' 05 02 0000", "0001 'c'"},
	"will":        {0x10, "0004 'MQTT' 05 06 0000 00 0001 'c'", "0001 't' 0001 'm'"},
	"CONNACK":     {0x20, "00 00", ""},
	"PUBLISH":     {0x32, "0001 't' 0001", "'payload'"},
	"PUBACK":      {0x40, "0001 00", ""},
	"PUBREC":      {0x50, "0001 00", ""},
	"PUBREL":      {0x62, "0001 00", ""},
	"PUBCOMP":     {0x70, "0001 00", ""},
	"SUBSCRIBE":   {0x82, "0001", "0001 'f' 01"},
	"SUBACK":      {0x90, "0001", "01"},
	"UNSUBSCRIBE": {0xA2, "0001", "0001 'f'"},
	"UNSUBACK":    {0xB0, "0001", "11"},
	"DISCONNECT":  {0xE0, "04", ""},
	"AUTH":        {0xF0, "18", ""},
}

func (c carrier) with(props []byte) []byte { return c.wire(V5, props) }

// wire leaves the properties out before MQTT 5.0.
func (c carrier) wire(v Version, props []byte) []byte {
	var section []byte
	if v == V5 {
		section = append(binary.AppendUvarint(nil, uint64(len(props))), props...)
	}
	return packetOf(c.first, hex(c.before), section, hex(c.after))
}

// samples is one value of each type, with what it means. It tells text from binary data, and the widths of numbers.
var samples = map[string]struct {
	wire string
	num  uint32
	data string
}{
	"byte":   {"01", 1, ""},
	"two":    {"0102", 0x0102, ""},
	"four":   {"01020304", 0x01020304, ""},
	"varint": {"8101", 129, ""},
	"text":   {"0004 C3A4 'b/'", 0, "äb/"},
	"binary": {"0003 FF0080", 0, "\xFF\x00\x80"},
	"pair":   {"0001 'k' 0002 C3BC", 0, "k"},
}

const everyReplyPacket = " CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"

// propertyRules is table 2-4 of the specification and §3.x.2.2 for the values, read once more.
var propertyRules = []struct {
	id     Property
	wire   byte
	kind   string
	places string
	wrong  string // values that are a protocol error: "zero", or "above 1"
}{
	{PayloadFormatIndicator, 1, "byte", "PUBLISH will", "above 1"},
	{MessageExpiryInterval, 2, "four", "PUBLISH will", ""},
	{ContentType, 3, "text", "PUBLISH will", ""},
	{ResponseTopic, 8, "text", "PUBLISH will", ""},
	{CorrelationData, 9, "binary", "PUBLISH will", ""},
	{SubscriptionIdentifier, 11, "varint", "PUBLISH SUBSCRIBE", "zero"},
	{SessionExpiryInterval, 17, "four", "CONNECT CONNACK DISCONNECT", ""},
	{AssignedClientIdentifier, 18, "text", "CONNACK", ""},
	{ServerKeepAlive, 19, "two", "CONNACK", ""},
	{AuthenticationMethod, 21, "text", "CONNECT CONNACK AUTH", ""},
	{AuthenticationData, 22, "binary", "CONNECT CONNACK AUTH", ""},
	{RequestProblemInformation, 23, "byte", "CONNECT", "above 1"},
	{WillDelayInterval, 24, "four", "will", ""},
	{RequestResponseInformation, 25, "byte", "CONNECT", "above 1"},
	{ResponseInformation, 26, "text", "CONNACK", ""},
	{ServerReference, 28, "text", "CONNACK DISCONNECT", ""},
	{ReasonString, 31, "text", everyReplyPacket, ""},
	{ReceiveMaximum, 33, "two", "CONNECT CONNACK", "zero"},
	{TopicAliasMaximum, 34, "two", "CONNECT CONNACK", ""},
	{TopicAlias, 35, "two", "PUBLISH", ""},
	{MaximumQoS, 36, "byte", "CONNACK", "above 1"},
	{RetainAvailable, 37, "byte", "CONNACK", "above 1"},
	{UserProperty, 38, "pair", "CONNECT will PUBLISH SUBSCRIBE UNSUBSCRIBE" + everyReplyPacket, ""},
	{MaximumPacketSize, 39, "four", "CONNECT CONNACK", "zero"},
	{WildcardSubscriptionAvailable, 40, "byte", "CONNACK", "above 1"},
	{SubscriptionIdentifierAvailable, 41, "byte", "CONNACK", "above 1"},
	{SharedSubscriptionAvailable, 42, "byte", "CONNACK", "above 1"},
}

// method is an Authentication Method, which AUTH must have, and a CONNECT with Authentication Data.
var method = hex("15 0001 'm'")

// inPlace puts a property into a place, with what else the packet needs then.
func inPlace(place string, id Property, props ...[]byte) []byte {
	needs := place == "AUTH" || place == "CONNECT" && id == AuthenticationData
	if needs && id != AuthenticationMethod {
		props = append([][]byte{method}, props...)
	}
	return carriers[place].with(slices.Concat(props...))
}

func property(id byte, value string) []byte { return append([]byte{id}, hex(value)...) }

// Every property in every place: read and written where it belongs, malformed where it does not (§2.2.2.2).
func TestPropertyPlaces(t *testing.T) {
	for _, rule := range propertyRules {
		for place := range carriers {
			b := inPlace(place, rule.id, property(rule.wire, samples[rule.kind].wire))
			p, err := parse(b, V5)
			if !allowed(rule.places, place) {
				t.Run(fmt.Sprintf("%d in %s", rule.wire, place), func(t *testing.T) { checkCode(t, p, err, MalformedPacket) })
			} else if err != nil {
				t.Errorf("property %d in %s: %v", rule.wire, place, err)
			} else if got := encode(p, V5); !bytes.Equal(got, b) {
				t.Errorf("property %d in %s: read % X, wrote % X", rule.wire, place, b, got)
			}
		}
	}
}

func allowed(places, place string) bool { return slices.Contains(strings.Fields(places), place) }

// Twice is a protocol error, but for User Properties, and Subscription Identifiers of a PUBLISH (§3.3.2.3.8).
func TestPropertyTwice(t *testing.T) {
	for _, rule := range propertyRules {
		for place := range strings.FieldsSeq(rule.places) {
			once := property(rule.wire, samples[rule.kind].wire)
			b := inPlace(place, rule.id, once, once)
			p, err := parse(b, V5)
			if rule.id == UserProperty || rule.id == SubscriptionIdentifier && place == "PUBLISH" {
				if err != nil || !bytes.Equal(encode(p, V5), b) {
					t.Errorf("property %d twice in %s: got %s, error %v", rule.wire, place, show(p), err)
				}
				continue
			}
			t.Run(fmt.Sprintf("%d in %s", rule.wire, place), func(t *testing.T) { checkCode(t, p, err, ProtocolError) })
		}
	}
}

// A property that ends early is malformed, at every byte.
func TestPropertyTruncated(t *testing.T) {
	for _, rule := range propertyRules {
		whole := property(rule.wire, samples[rule.kind].wire)
		for place := range strings.FieldsSeq(rule.places) {
			for n := 1; n < len(whole); n++ {
				p, err := parse(inPlace(place, rule.id, whole[:n]), V5)
				t.Run(fmt.Sprintf("%d of %d bytes in %s", rule.wire, n, place), func(t *testing.T) { checkCode(t, p, err, MalformedPacket) })
			}
		}
	}
}

// Values that the specification calls a protocol error; all others of that type are legal.
func TestPropertyValues(t *testing.T) {
	width := map[string]int{"byte": 1, "two": 2, "four": 4, "varint": 1}
	for _, rule := range propertyRules {
		size := width[rule.kind]
		for place := range strings.FieldsSeq(rule.places) {
			for value := range 256 {
				if size == 0 || rule.kind == "varint" && value > 127 {
					continue // not a number; not a number of one byte
				}
				props := append(append([]byte{rule.wire}, make([]byte, size-1)...), byte(value))
				_, err := parse(inPlace(place, rule.id, props), V5)
				wrong := rule.wrong == "zero" && value == 0 || rule.wrong == "above 1" && value > 1
				if wrong {
					checkCode(t, rule.id, err, ProtocolError)
				} else if err != nil {
					t.Errorf("property %d in %s with value %d: %v", rule.wire, place, value, err)
				}
			}
		}
	}
}

// The identifiers that do not exist are malformed, those of several bytes included.
func TestPropertyUnknown(t *testing.T) {
	known := map[byte]bool{}
	for _, rule := range propertyRules {
		known[rule.wire] = true
	}
	for id := range 256 {
		for place := range carriers {
			if known[byte(id)] {
				continue
			}
			p, err := parse(inPlace(place, 0, []byte{byte(id), 1, 0, 0, 0}), V5)
			checkCode(t, p, err, MalformedPacket)
		}
	}
	if len(known) != 27 {
		t.Errorf("the table has %d properties", len(known))
	}
}

// The constants have the values of the specification, the builders write what the packets carry, and the look-ups
// read it, behind other properties as well.
func TestPropertyBuilders(t *testing.T) {
	var before Properties
	var skip []byte
	for _, rule := range propertyRules {
		sample := samples[rule.kind]
		whole := property(rule.wire, sample.wire)
		got := build(before, rule.id, rule.kind, sample.num, sample.data)
		if !bytes.Equal(got, append(slices.Clone(skip), whole...)) {
			t.Fatalf("property %d: built % X, want % X", rule.wire, got[len(before):], whole)
		}
		if before.has(rule.id) {
			t.Errorf("property %d is found before it is there", rule.wire)
		}
		if n, ok := got.Int(rule.id); !ok || n != sample.num {
			t.Errorf("property %d: Int %d, %t", rule.wire, n, ok)
		}
		if b, ok := got.Bytes(rule.id); !ok || string(b) != sample.data || got.String(rule.id) != sample.data {
			t.Errorf("property %d: Bytes %q, %t, String %q", rule.wire, b, ok, got.String(rule.id))
		}
		before, skip = got, append(skip, whole...)
	}
}

func build(p Properties, id Property, kind string, num uint32, data string) Properties {
	switch kind {
	case "text", "binary":
		return p.WithString(id, data)
	case "pair":
		return p.WithUser(data, "ü")
	}
	return p.WithInt(id, num)
}

func TestPropertyFlag(t *testing.T) {
	var none Properties
	for _, byDefault := range []bool{false, true} {
		if none.Flag(RetainAvailable, byDefault) != byDefault {
			t.Errorf("default %t is not returned", byDefault)
		}
		for _, v := range []bool{false, true} {
			if none.WithFlag(RetainAvailable, v).Flag(RetainAvailable, byDefault) != v {
				t.Errorf("%t is not returned, the default being %t", v, byDefault)
			}
		}
	}
}

func TestPropertyInts(t *testing.T) {
	want := []uint32{5, 1, 268_435_455, 1}
	p := Properties{}.WithString(ContentType, "t")
	for _, id := range want {
		p = p.WithInt(SubscriptionIdentifier, id).WithUser("k", "v")
	}
	if got := slices.Collect(p.Ints(SubscriptionIdentifier)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for got := range p.Ints(SubscriptionIdentifier) {
		if got != want[0] {
			t.Errorf("first is %d", got)
		}
		break // the iterator stops when it is told
	}
	for key := range p.User() {
		if key != "k" {
			t.Errorf("first key is %q", key)
		}
		break
	}
}

// Look-ups in bytes that nobody checked end without a value, not with a panic.
func TestPropertyLookUpInGarbage(t *testing.T) {
	for _, p := range []Properties{{0xFF}, hex("02 0000"), hex("26 0001 'k' 00"), hex("1F 0001 FF")} {
		if n, ok := p.Int(TopicAlias); ok || n != 0 {
			t.Errorf("% X: Int %d, %t", p, n, ok)
		}
		if ids := slices.Collect(p.Ints(MessageExpiryInterval)); ids != nil {
			t.Errorf("% X: Ints %v", p, ids)
		}
		for key, value := range p.User() {
			t.Errorf("% X: User Property %q, %q", p, key, value)
		}
	}
}

// The builders refuse what the format cannot hold.
func TestPropertyBuildersPanic(t *testing.T) {
	long := strings.Repeat("x", 65_536)
	for name, f := range map[string]func(){
		"number for a text":         func() { Properties{}.WithInt(ContentType, 1) },
		"text for a number":         func() { Properties{}.WithString(TopicAlias, "1") },
		"text for a pair":           func() { Properties{}.WithString(UserProperty, "1") },
		"text of 65,536 bytes":      func() { Properties{}.WithString(ContentType, long) },
		"user key of 65,536 bytes":  func() { Properties{}.WithUser(long, "") },
		"user value of that length": func() { Properties{}.WithUser("", long) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
	if p := (Properties{}).WithUser(long[1:], long[1:]); len(p) != 1+2*(2+65_535) {
		t.Errorf("User Property of the greatest length takes %d bytes", len(p))
	}
}

// ParseProperties applies the rules of the packet's type to a section that stood by itself.
func TestParseProperties(t *testing.T) {
	if p, err := ParseProperties(hex("01 01 26 0001 'k' 0000"), PUBLISH); err != nil || !p.Flag(PayloadFormatIndicator, false) {
		t.Errorf("got % X, error %v", p, err)
	}
	if p, err := ParseProperties(nil, CONNACK); err != nil || len(p) != 0 {
		t.Errorf("none: got % X, error %v", p, err)
	}
	p, err := ParseProperties(hex("01 01"), CONNACK)
	checkCode(t, p, err, MalformedPacket)
	p, err = ParseProperties(hex("01 01 01 01"), PUBLISH)
	checkCode(t, p, err, ProtocolError)
}

// Checked properties can be taken apart and built again, byte by byte the same.
func FuzzProperties(f *testing.F) {
	for _, rule := range propertyRules {
		for place := range strings.FieldsSeq(rule.places) {
			f.Add(carriers[place].first>>4, property(rule.wire, samples[rule.kind].wire))
		}
	}
	kinds := map[Property]string{}
	for _, rule := range propertyRules {
		kinds[rule.id] = rule.kind
	}
	f.Fuzz(func(t *testing.T, typ byte, b []byte) {
		p, err := ParseProperties(b, PacketType(typ%17))
		if err != nil {
			checkParseError(t, Frame{Type: PacketType(typ % 17), Body: b}, err)
			return
		}
		var again Properties
		for rest := p; len(rest) > 0; {
			one, after, err := rest.next()
			if err != nil {
				t.Fatalf("% X was checked, but: %v", b, err)
			}
			if kinds[one.id] == "pair" {
				again = again.WithUser(string(one.data), string(one.val))
			} else {
				again = build(again, one.id, kinds[one.id], one.num, string(one.data))
			}
			rest = after
		}
		if !bytes.Equal(again, b) {
			t.Errorf("took apart % X, built % X", b, []byte(again))
		}
	})
}
