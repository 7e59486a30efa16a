package mqtt

import (
	"fmt"
	"slices"
	"testing"
)

// The goldens are what the tests of this file start from: they have every type in every version, and in 5.0 without
// and with properties.
func TestGoldensAreComplete(t *testing.T) {
	have := map[string]bool{}
	for _, g := range goldens() {
		for _, v := range g.versions {
			typ := PacketType(hex(g.wire)[0] >> 4)
			have[fmt.Sprintf("%v %s", typ, v)] = true
			have[fmt.Sprintf("%v %s, properties %t", typ, v, hasProperties(g.packet))] = true
		}
	}
	for typ := CONNECT; typ <= AUTH; typ++ {
		for _, v := range all {
			if typ != AUTH && !have[fmt.Sprintf("%v %s", typ, v)] {
				t.Errorf("no %v of version %s", typ, v)
			}
		}
		for _, with := range []bool{false, true} {
			if key := fmt.Sprintf("%v %s, properties %t", typ, V5, with); !have[key] && typ != PINGREQ && typ != PINGRESP {
				t.Errorf("no %s", key)
			}
		}
	}
}

func hasProperties(p any) bool {
	switch p := p.(type) {
	case *Connect:
		return len(p.Props) > 0
	case *Connack:
		return len(p.Props) > 0
	case *Publish:
		return len(p.Props) > 0
	case *Ack:
		return len(p.Props) > 0
	case *Subscribe:
		return len(p.Props) > 0
	case *Suback:
		return len(p.Props) > 0
	case *Unsubscribe:
		return len(p.Props) > 0
	case *Unsuback:
		return len(p.Props) > 0
	case *Disconnect:
		return len(p.Props) > 0
	case *Auth:
		return len(p.Props) > 0
	}
	return false
}

// eachGolden calls f for every golden packet in every version.
func eachGolden(f func(g golden, v Version, b []byte, body []byte)) {
	for _, g := range goldens() {
		for _, v := range g.versions {
			b := hex(g.wire)
			frame, _, _ := ParseFrame(b, v, MaxPacket)
			f(g, v, b, frame.Body)
		}
	}
}

// Cut anywhere, a packet is not whole yet: no frame, no error.
func TestTruncatedFrame(t *testing.T) {
	eachGolden(func(g golden, v Version, b, _ []byte) {
		for n := range b {
			f, size, err := ParseFrame(b[:n], v, MaxPacket)
			if err != nil || f.Body != nil || size != 0 && size != len(b) {
				t.Errorf("%s/%s: %d of %d bytes: frame %+v, size %d, error %v", v, g.name, n, len(b), f, size, err)
				return
			}
		}
	})
}

// A body that is cut, with a Remaining Length that agrees, is an error, except where the shorter packet is legal.
func TestTruncatedBody(t *testing.T) {
	eachGolden(func(g golden, v Version, b, body []byte) {
		for n := range body {
			p, err := parse(packetOf(b[0], body[:n]), v)
			if legal := slices.Contains(g.shorter, n); legal != (err == nil) {
				t.Errorf("%s/%s: body of %d of %d bytes: got %s, error %v", v, g.name, n, len(body), show(p), err)
			}
			checkRoundTrip(t, Frame{Type: PacketType(b[0] >> 4), Flags: b[0] & 15, Body: body[:n]}, v)
		}
	})
}

// One byte more, with a Remaining Length that agrees, is an error too: no field begins with 0xFF. Only a payload grows.
func TestLeftoverBytes(t *testing.T) {
	eachGolden(func(g golden, v Version, b, body []byte) {
		p, err := parse(packetOf(b[0], body, []byte{0xFF}), v)
		if PacketType(b[0]>>4) != PUBLISH {
			checkCode(t, p, err, MalformedPacket)
		} else if err != nil {
			t.Errorf("%s/%s with a longer payload: %v", v, g.name, err)
		}
	})
}

// Any single bit may be wrong, and any single byte any other: the packet is refused with a reason code, or it is
// another packet that keeps all promises.
func TestDamagedPackets(t *testing.T) {
	eachGolden(func(_ golden, v Version, b, body []byte) {
		for i := range body {
			for _, mask := range []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF, body[i], ^body[i]} {
				damaged := slices.Clone(body)
				damaged[i] ^= mask
				checkRoundTrip(t, Frame{Type: PacketType(b[0] >> 4), Flags: b[0] & 15, Body: damaged}, v)
			}
		}
	})
}

// A packet that is read as another type or version is refused or keeps all promises as well.
func TestConfusedPackets(t *testing.T) {
	eachGolden(func(_ golden, _ Version, b, body []byte) {
		for typ := CONNECT; typ <= AUTH; typ++ {
			for _, v := range all {
				checkRoundTrip(t, Frame{Type: typ, Flags: b[0] & 15, Body: body}, v)
			}
		}
	})
}
