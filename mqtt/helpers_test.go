package mqtt

import (
	"bytes"
	"encoding/binary"
	enc "encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var (
	v3   = []Version{V31, V311}
	v311 = []Version{V311}
	v31  = []Version{V31}
	v5   = []Version{V5}
	all  = []Version{V31, V311, V5}
)

// golden is a packet and the bytes that it is, both ways.
type golden struct {
	name     string
	versions []Version // in which the packet looks like this
	wire     string    // as hex reads it
	packet   any       // a pointer to the packet's type, or a ping
	shorter  []int     // lengths of the body at which it may end as well
}

// refusal is a packet that must not be parsed.
type refusal struct {
	rule     string
	versions []Version
	first    byte   // of the fixed header; the Remaining Length is filled in
	body     string // as hex reads it
	want     ReasonCode
}

// ping stands for a PINGREQ or PINGRESP, which have no type of their own.
type ping PacketType

func goldens() []golden {
	return slices.Concat(connectGoldens, connackGoldens, publishGoldens, ackGoldens, subscribeGoldens, unsubscribeGoldens,
		subackGoldens, unsubackGoldens, pingGoldens, disconnectGoldens, authGoldens)
}

func refusals() []refusal {
	return slices.Concat(connectRefusals, connackRefusals, publishRefusals, ackRefusals, subscribeRefusals,
		unsubscribeRefusals, subackRefusals, unsubackRefusals, pingRefusals, disconnectRefusals, authRefusals)
}

// hex reads hexadecimal digits, with spaces at will, and text between single quotes.
func hex(s string) []byte {
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		digits, err := enc.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			panic(fmt.Sprintf("test data %q: %v", s, err))
		}
		b = append(b, digits...)
	}
	return b
}

// packetOf puts a fixed header before the parts of a body.
func packetOf(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

// text is a UTF-8 Encoded String or Binary Data.
func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

// span holds the numbers from first to last, last excluded.
func span(first, last int) (s []int) {
	for i := first; i < last; i++ {
		s = append(s, i)
	}
	return s
}

var errNotWhole = errors.New("the bytes are not exactly one packet")

// parse reads b, which is one packet, as the broker would: the version is unknown before CONNECT.
func parse(b []byte, v Version) (any, error) {
	if PacketType(b[0]>>4) == CONNECT {
		v = 0
	}
	f, size, err := ParseFrame(b, v, MaxPacket)
	if err != nil {
		return nil, err
	}
	if size != len(b) {
		return nil, errNotWhole
	}
	return decode(f, v)
}

// decode calls the Parse method of the packet's type, on a copy: PUBLISH may move bytes.
func decode(f Frame, v Version) (p any, err error) {
	f.Body = slices.Clone(f.Body)
	switch f.Type {
	case CONNECT:
		c := new(Connect)
		return c, c.Parse(f)
	case AUTH:
		a := new(Auth)
		return a, a.Parse(f, v)
	case PINGREQ, PINGRESP:
		return ping(f.Type), ParseEmpty(f)
	}
	q := newPacket(f.Type)
	return q, q.Parse(f, v)
}

type packet interface {
	Parse(Frame, Version) error
	Append([]byte, Version) []byte
}

func newPacket(t PacketType) packet {
	switch t {
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return new(Ack)
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case DISCONNECT:
		return new(Disconnect)
	}
	panic("no such packet type")
}

func encode(p any, v Version) []byte {
	switch p := p.(type) {
	case *Connect:
		return p.Append(nil)
	case *Auth:
		return p.Append(nil)
	case ping:
		if PacketType(p) == PINGREQ {
			return AppendPingreq(nil)
		}
		return AppendPingresp(nil)
	}
	return p.(packet).Append(nil, v)
}

// same compares two packets; an empty slice is as good as nil.
func same(a, b any) bool { return sameValue(reflect.ValueOf(a), reflect.ValueOf(b)) }

func sameValue(a, b reflect.Value) bool {
	if a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		return sameValue(a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !sameValue(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return sameSlice(a, b)
	}
	return a.Equal(b)
}

func sameSlice(a, b reflect.Value) bool {
	if a.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(a.Bytes(), b.Bytes())
	}
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if !sameValue(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

// show prints a packet, the will included.
func show(p any) string {
	if c, ok := p.(*Connect); ok && c.Will != nil {
		return fmt.Sprintf("%+v with will %+v", *c, *c.Will)
	}
	return fmt.Sprintf("%+v", p)
}

// checkGoldens compares both ways.
func checkGoldens(t *testing.T, gs []golden) {
	t.Helper()
	for _, g := range gs {
		for _, v := range g.versions {
			t.Run(fmt.Sprintf("%s/%s", v, g.name), func(t *testing.T) {
				want := hex(g.wire)
				if got, err := parse(want, v); err != nil || !same(got, g.packet) {
					t.Errorf("parse % X\n got %s, error %v\nwant %s", want, show(got), err, show(g.packet))
				}
				if got := encode(g.packet, v); !bytes.Equal(got, want) {
					t.Errorf("append %s\n got % X\nwant % X", show(g.packet), got, want)
				}
			})
		}
	}
}

func checkRefusals(t *testing.T, rs []refusal) {
	t.Helper()
	for _, r := range rs {
		for _, v := range r.versions {
			t.Run(fmt.Sprintf("%s/%s", v, r.rule), func(t *testing.T) {
				p, err := parse(packetOf(r.first, hex(r.body)), v)
				checkCode(t, p, err, r.want)
			})
		}
	}
}

// checkCode wants an error that is, or wraps, the code.
func checkCode(t testing.TB, p any, err error, want ReasonCode) {
	t.Helper()
	var got ReasonCode
	switch {
	case err == nil:
		t.Errorf("parsed as %s, want %v", show(p), want.Error())
	case !errors.As(err, &got) || got != want || !errors.Is(err, want):
		t.Errorf("got error %v, want %v", err, want.Error())
	}
}

// checkRoundTrip wants of any frame: when it can be parsed, it can be encoded, in no more bytes, and parsed again to
// the same packet; when it cannot, the error is a reason code.
func checkRoundTrip(t testing.TB, f Frame, v Version) {
	t.Helper()
	before := slices.Clone(f.Body)
	p, err := decode(f, v)
	if err != nil {
		checkParseError(t, f, err)
		return
	}
	if c, ok := p.(*Connect); ok {
		v = c.Version
	}
	b := encode(p, v)
	if limit := len(packetOf(0, before)); len(b) > limit {
		t.Errorf("%v of %d bytes was encoded as %d: % X", f.Type, limit, len(b), b)
	}
	again, err := parse(b, v)
	if err != nil || !same(p, again) {
		t.Fatalf("%v % X, version %s, body % X\nfirst %s\nagain %s, error %v", f.Type, b, v, before, show(p), show(again), err)
	}
	if c := encode(again, v); !bytes.Equal(b, c) {
		t.Errorf("encoded again differs\nfirst % X\nagain % X", b, c)
	}
}

// checkParseError wants a code that the specification gives for a packet that is wrong by itself.
func checkParseError(t testing.TB, f Frame, err error) {
	t.Helper()
	var code ReasonCode
	switch ok := errors.As(err, &code); {
	case ok && (code == MalformedPacket || code == ProtocolError):
	case ok && code == UnsupportedProtocolVersion && f.Type == CONNECT:
	default:
		t.Errorf("%v % X: error %v is no reason code for it", f.Type, f.Body, err)
	}
}

// fuzzPacket fuzzes one packet type, from its goldens and refusals.
func fuzzPacket(f *testing.F, typ PacketType) {
	for _, g := range goldens() {
		if b := hex(g.wire); PacketType(b[0]>>4) == typ {
			frame, _, _ := ParseFrame(b, g.versions[0], MaxPacket)
			for _, v := range g.versions {
				f.Add(byte(v), frame.Flags, frame.Body)
			}
		}
	}
	for _, r := range refusals() {
		if PacketType(r.first>>4) == typ {
			f.Add(byte(r.versions[0]), r.first&15, hex(r.body))
		}
	}
	f.Fuzz(func(t *testing.T, version, flags byte, body []byte) {
		v := V31 + Version(version)%3
		checkRoundTrip(t, Frame{Type: typ, Flags: flags & 15, Body: body}, v)
	})
}
