package broker_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// specimen is a whole packet, the connection it is for, and which shorter bodies are whole packets too.
type specimen struct {
	name   string
	bytes  []byte
	before bool                // comes first on its connection
	legal  func(body int) bool // a body cut to so many bytes breaks no rule
}

// specimens are packets of every type that a client sends, with everything that the version lets them have.
func specimens(v mqtt.Version) (all []specimen) {
	var props, connProps, will mqtt.Properties
	if v == mqtt.V5 {
		props = props.WithUser("key", "value")
		connProps = props.WithInt(mqtt.SessionExpiryInterval, 60).WithInt(mqtt.ReceiveMaximum, 9)
		will = props.WithInt(mqtt.WillDelayInterval, 5).WithString(mqtt.ContentType, "text")
	}
	never := func(int) bool { return false }
	add := func(name string, b []byte, legal func(int) bool) { all = append(all, specimen{name, b, false, legal}) }

	c := hello(v, "a1")
	c.Props = connProps
	c.Will = &mqtt.Will{Topic: "a1/will", Payload: []byte("gone"), QoS: mqtt.AtLeastOnce, Retain: true, Props: will}
	first := specimen{"CONNECT", c.Append(nil), true, never}
	if v == mqtt.V31 { // flags may announce credentials that the packet has no room for
		user := len(first.bytes) - 2 - len("\x00\x09bystander\x00\x0alooks-away")
		first.legal = func(n int) bool { return n == user || n == user+len("\x00\x09bystander") }
	}
	all = append(all, first)

	for qos := range mqtt.QoS(3) {
		p := mqtt.Publish{QoS: qos, PacketID: 7, Topic: []byte("a1/talk"), Payload: []byte("payload"), Props: props}
		b := p.Append(nil, v)
		head := len(b) - 2 - len(p.Payload)
		add(fmt.Sprintf("PUBLISH of QoS %d", qos), b, func(n int) bool { return n >= head })
	}
	for _, kind := range []mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP} {
		p := mqtt.Ack{Type: kind, PacketID: 7, Props: props}
		add(kind.String(), p.Append(nil, v), func(n int) bool { return v == mqtt.V5 && (n == 2 || n == 3) })
	}
	s := mqtt.Subscribe{PacketID: 7, Props: props, Subscriptions: []mqtt.Subscription{{Filter: "a1/+/x"}}}
	add("SUBSCRIBE", s.Append(nil, v), never)
	u := mqtt.Unsubscribe{PacketID: 7, Props: props, Filters: []string{"a1/+/x"}}
	add("UNSUBSCRIBE", u.Append(nil, v), never)
	add("PINGREQ", mqtt.AppendPingreq(nil), never)
	d := mqtt.Disconnect{Code: mqtt.DisconnectWithWill, Props: props}
	add("DISCONNECT", d.Append(nil, v), func(n int) bool { return v == mqtt.V5 && n <= 1 })
	auth := mqtt.Auth{Code: mqtt.ReAuthenticate, Props: props.WithString(mqtt.AuthenticationMethod, "none")}
	add("AUTH", auth.Append(nil), never)
	return all
}

// TestA01TruncatedPackets: the attacker cuts every packet at every byte and then goes away, fills up with garbage, or
// says in the fixed header that this is all. The broker waits for the rest, or ends the connection as a malformed packet
// does; it never reads beyond the packet, never answers a part of one, and nobody else notices.
func TestA01TruncatedPackets(t *testing.T) {
	for _, v := range attackVersions {
		t.Run("v"+v.String(), func(t *testing.T) {
			a := newArena(t, broker.Config{})
			for _, s := range specimens(v) {
				for cut := range len(s.bytes) {
					a.cutAndLeave(v, s, cut)
					a.cutAndFill(v, s, cut)
					if cut >= 2 {
						a.cutAndClaim(v, s, cut)
					}
				}
			}
		})
	}
}

// stage opens the connection that a specimen is for.
func (a *arena) stage(v mqtt.Version, s specimen) *foe {
	a.Helper()
	if s.before {
		return a.open(v)
	}
	return a.login(v, "a1")
}

// cutAndLeave sends a part and closes.
func (a *arena) cutAndLeave(v mqtt.Version, s specimen, cut int) {
	a.Helper()
	f := a.stage(v, s)
	f.throw(s.bytes[:cut])
	_ = f.nc.(interface{ CloseWrite() error }).CloseWrite()
	if code, silent := f.end(); !silent && !(s.name == "AUTH" && code.Failed()) {
		a.Errorf("%s cut at byte %d: answered with 0x%02X before it was whole", s.name, cut, byte(code))
	}
	_ = f.nc.Close()
}

// cutAndFill sends a part and then garbage that begins no packet.
func (a *arena) cutAndFill(v mqtt.Version, s specimen, cut int) {
	a.Helper()
	f := a.stage(v, s)
	f.throw(append(bytes.Clone(s.bytes[:cut]), bytes.Repeat([]byte{0xFF}, 256)...))
	if code, _ := f.end(); v == mqtt.V5 && !s.before && s.name != "DISCONNECT" && !code.Failed() {
		a.Errorf("%s cut at byte %d and garbage: ended with 0x%02X", s.name, cut, byte(code))
	}
	_ = f.nc.Close()
}

// cutAndClaim sends a part whose fixed header says that it is the whole.
func (a *arena) cutAndClaim(v mqtt.Version, s specimen, cut int) {
	a.Helper()
	f := a.stage(v, s)
	b := bytes.Clone(s.bytes[:cut])
	b[1] = byte(cut - 2)
	what := fmt.Sprintf("%s shortened to %d bytes", s.name, cut)
	f.throw(b)
	switch {
	case s.name == "DISCONNECT" && s.legal(cut-2):
		if _, silent := f.end(); !silent {
			a.Errorf("%s: answered", what)
		}
	case s.before && s.legal(cut-2):
		f.until(mqtt.CONNACK)
	case s.legal(cut - 2):
		f.alive(what)
	case s.before:
		if code, silent := f.end(); !silent && !code.Failed() {
			a.Errorf("%s: accepted with 0x%02X", what, byte(code))
		}
	default:
		f.mustEnd(what, mqtt.MalformedPacket, mqtt.ProtocolError)
	}
	_ = f.nc.Close()
}

// TestA02ServerPackets: the attacker sends what only a server sends, whole and empty, and before CONNECT everything
// else that is not one. Before CONNECT the connection is closed without a word; after it, as a protocol error.
func TestA02ServerPackets(t *testing.T) {
	for _, v := range attackVersions {
		t.Run("v"+v.String(), func(t *testing.T) {
			a := newArena(t, broker.Config{})
			connack := mqtt.Connack{Code: mqtt.Success}
			suback := mqtt.Suback{PacketID: 1, Codes: []mqtt.ReasonCode{0}}
			unsuback := mqtt.Unsuback{PacketID: 1, Codes: []mqtt.ReasonCode{0}}
			server := [][]byte{
				connack.Append(nil, v), suback.Append(nil, v), unsuback.Append(nil, v), mqtt.AppendPingresp(nil),
				{0x20, 0}, {0x90, 0}, {0xB0, 0}, {0x20, 2, 0xFF, 0xFF}, {0x90, 1, 0}, {0xB0, 3, 0, 0, 0}, {0xD0, 1, 0},
			}
			first := server
			for _, s := range specimens(v)[1:] {
				first = append(first, s.bytes)
			}
			for _, b := range first {
				f := a.open(v)
				f.throw(b)
				if code, silent := f.end(); !silent {
					t.Errorf("% x before CONNECT: answered with 0x%02X", b, byte(code))
				}
			}
			for _, b := range server {
				f := a.login(v, "a2")
				f.throw(b)
				f.mustEnd(fmt.Sprintf("% x", b), mqtt.ProtocolError, mqtt.MalformedPacket)
			}
		})
	}
}

// TestA03BadProperties: the attacker sends each class of bad property wherever properties stand, in the Will too: unknown,
// foreign, repeated, cut off, too long, with a value that must not be. The packet is refused as malformed or as a protocol
// error, as the class demands.
func TestA03BadProperties(t *testing.T) {
	a := newArena(t, broker.Config{})
	for _, where := range propertyPlaces {
		for _, bad := range badProperties {
			what := fmt.Sprintf("%s in %s", bad.name, where.name)
			section := bad.section
			if section == nil {
				section = append([]byte{byte(len(bad.props))}, bad.props...)
			}
			packet := where.packet(section)
			if where.connect {
				f := a.open(mqtt.V5)
				f.throw(packet)
				if code, silent := f.end(); silent || code != bad.code {
					t.Errorf("%s: CONNACK 0x%02X (silent: %t), want 0x%02X", what, byte(code), silent, byte(bad.code))
				}
				continue
			}
			f := a.login(mqtt.V5, "a3")
			f.throw(packet)
			f.mustEnd(what, bad.code)
		}
	}
}

// badProperties are bad in every packet. section is the whole section, with its length, where that is what is bad.
var badProperties = []struct {
	name    string
	props   []byte
	section []byte
	code    mqtt.ReasonCode
}{
	{"unknown 0x00", []byte{0}, nil, mqtt.MalformedPacket},
	{"unknown 0x04", []byte{4, 1}, nil, mqtt.MalformedPacket},
	{"unknown 0x7F", []byte{0x7F, 0, 1}, nil, mqtt.MalformedPacket},
	{"unknown of two bytes", []byte{0x80, 0x01, 0}, nil, mqtt.MalformedPacket},
	{"unknown of four bytes", []byte{0xFF, 0xFF, 0xFF, 0x7F}, nil, mqtt.MalformedPacket},
	{"a CONNACK's", []byte{0x24, 1}, nil, mqtt.MalformedPacket},
	{"a CONNACK's text", []byte{0x12, 0, 1, 'x'}, nil, mqtt.MalformedPacket},
	{"user property without value", []byte{0x26, 0, 1, 'k'}, nil, mqtt.MalformedPacket},
	{"user property of 65535 bytes", []byte{0x26, 0xFF, 0xFF, 'k', 0, 0}, nil, mqtt.MalformedPacket},
	{"user property with NUL", []byte{0x26, 0, 1, 0, 0, 0}, nil, mqtt.MalformedPacket},
	{"user property with a surrogate", []byte{0x26, 0, 3, 0xED, 0xA0, 0x80, 0, 0}, nil, mqtt.MalformedPacket},
	{"identifier without value", []byte{0x26}, nil, mqtt.MalformedPacket},
	{"length beyond the packet", nil, []byte{0xFF, 0xFF, 0x7F}, mqtt.MalformedPacket},
	{"length of five bytes", nil, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0x01}, mqtt.MalformedPacket},
	{"length that is not minimal", nil, []byte{0x80, 0x00}, mqtt.MalformedPacket},
	{"length inside a property", nil, []byte{3, 0x26, 0, 1, 'k', 0, 1, 'v'}, mqtt.MalformedPacket},
}

// propertyPlaces are all sections of all packets from a client. What follows the section is long enough that a wrong
// length may point into it.
var propertyPlaces = []struct {
	name    string
	connect bool
	packet  func(section []byte) []byte
}{
	{"CONNECT", true, func(s []byte) []byte { return attackConnect(s, []byte{0}, 2) }},
	{"the Will", true, func(s []byte) []byte { return attackConnect([]byte{0}, s, 2) }},
	{"the Will of a retained QoS 2 message", true, func(s []byte) []byte { return attackConnect([]byte{0}, s, 2|2<<3|1<<5) }},
	{"PUBLISH", false, func(s []byte) []byte { return attackPacket(0x32, "\x00\x01t\x00\x07", s, "payload") }},
	{"PUBACK", false, func(s []byte) []byte { return attackPacket(0x40, "\x00\x07\x00", s, "") }},
	{"PUBREC", false, func(s []byte) []byte { return attackPacket(0x50, "\x00\x07\x00", s, "") }},
	{"PUBREL", false, func(s []byte) []byte { return attackPacket(0x62, "\x00\x07\x00", s, "") }},
	{"PUBCOMP", false, func(s []byte) []byte { return attackPacket(0x70, "\x00\x07\x00", s, "") }},
	{"SUBSCRIBE", false, func(s []byte) []byte { return attackPacket(0x82, "\x00\x07", s, "\x00\x01t\x00") }},
	{"UNSUBSCRIBE", false, func(s []byte) []byte { return attackPacket(0xA2, "\x00\x07", s, "\x00\x01t") }},
	{"DISCONNECT", false, func(s []byte) []byte { return attackPacket(0xE0, "\x00", s, "") }},
	{"AUTH", false, func(s []byte) []byte { return attackPacket(0xF0, "\x18", s, "") }},
}

// attackPacket puts a property section between what is before and after it.
func attackPacket(first byte, before string, section []byte, after string) []byte {
	body := append(append([]byte(before), section...), after...)
	return append([]byte{first, byte(len(body))}, body...)
}

// attackConnect is a CONNECT with a Will and the sections given.
func attackConnect(props, willProps []byte, flags byte) []byte {
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 5, flags | 1<<2, 0, 0}, props...)
	body = append(body, 0, 2, 'a', '3')
	body = append(append(body, willProps...), "\x00\x04will\x00\x04gone"...)
	return append([]byte{0x10, byte(len(body))}, body...)
}

// TestA03ValuesThatMustNotBe: properties that are well-formed and in their place, but twice, or with a value that the
// specification forbids, are a protocol error.
func TestA03ValuesThatMustNotBe(t *testing.T) {
	a := newArena(t, broker.Config{})
	connect := map[string][]byte{
		"session expiry twice":         {0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1},
		"receive maximum 0":            {0x21, 0, 0},
		"maximum packet size 0":        {0x27, 0, 0, 0, 0},
		"request problem 2":            {0x17, 2},
		"request response 255":         {0x19, 255},
		"authentication data alone":    {0x16, 0, 1, 'x'},
		"authentication method twice":  {0x15, 0, 1, 'x', 0x15, 0, 1, 'y'},
		"topic alias maximum repeated": {0x22, 0, 1, 0x22, 0, 1},
	}
	for what, props := range connect {
		f := a.open(mqtt.V5)
		f.throw(attackConnect(append([]byte{byte(len(props))}, props...), []byte{0}, 2))
		if code, _ := f.end(); code != mqtt.ProtocolError {
			t.Errorf("%s: CONNACK 0x%02X, want 0x82", what, byte(code))
		}
	}
	will := map[string][]byte{
		"delay twice":          {0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1},
		"payload format 2":     {0x01, 2},
		"content type twice":   {0x03, 0, 1, 'x', 0x03, 0, 1, 'x'},
		"wild response topic":  {0x08, 0, 1, '#'},
		"empty response topic": {0x08, 0, 0},
	}
	for what, props := range will {
		f := a.open(mqtt.V5)
		f.throw(attackConnect([]byte{0}, append([]byte{byte(len(props))}, props...), 2))
		if code, _ := f.end(); code != mqtt.ProtocolError {
			t.Errorf("%s in the Will: CONNACK 0x%02X, want 0x82", what, byte(code))
		}
	}
	publish := map[string][]byte{
		"expiry twice":            {0x02, 0, 0, 0, 1, 0x02, 0, 0, 0, 1},
		"payload format 2":        {0x01, 2},
		"subscription identifier": {0x0B, 1},
		"identifier 0":            {0x0B, 0},
		"topic alias twice":       {0x23, 0, 1, 0x23, 0, 2},
		"wild response topic":     {0x08, 0, 1, '+'},
	}
	for what, props := range publish {
		f := a.login(mqtt.V5, "a3")
		f.throw(attackPacket(0x32, "\x00\x01t\x00\x07", append([]byte{byte(len(props))}, props...), "x"))
		f.mustEnd(what+" in PUBLISH", mqtt.ProtocolError)
	}
	f := a.login(mqtt.V5, "a3")
	f.throw(attackPacket(0x82, "\x00\x07", []byte{2, 0x0B, 0}, "\x00\x01t\x00"))
	f.mustEnd("identifier 0 in SUBSCRIBE", mqtt.ProtocolError)
}
