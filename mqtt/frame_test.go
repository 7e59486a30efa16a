package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// Remaining Lengths at the borders of each width (table 2-1 of 3.1.1, table 1-1 of 5.0).
var lengths = []struct {
	wire  string
	value int
}{
	{"00", 0}, {"7F", 127}, {"8001", 128}, {"FF7F", 16_383}, {"808001", 16_384}, {"FFFF7F", 2_097_151},
	{"80808001", 2_097_152}, {"FFFFFF7F", 268_435_455},
}

// The fixed header alone tells the size of the packet.
func TestParseFrameLengths(t *testing.T) {
	for _, l := range lengths {
		b := hex("30" + l.wire)
		for _, v := range append(all, 0) {
			f, size, err := ParseFrame(b, v, MaxPacket)
			if err != nil || size != len(b)+l.value || f.Type != PUBLISH {
				t.Errorf("version %s, length %s: frame %+v, size %d, error %v", v, l.wire, f, size, err)
			}
			if whole := l.value == 0; whole != (f.Body != nil) {
				t.Errorf("version %s, length %s: body % X", v, l.wire, f.Body)
			}
		}
		if got := appendVarint(nil, l.value); !bytes.Equal(got, hex(l.wire)) || varintSize(l.value) != len(got) {
			t.Errorf("%d is written % X, of size %d", l.value, got, varintSize(l.value))
		}
	}
}

// A length that takes more bytes than it needs is malformed in 5.0 [MQTT-1.5.5-1] and legal before; five bytes are too
// many for all.
func TestParseFramePaddedLengths(t *testing.T) {
	for _, l := range []string{"8000", "808000", "80808000", "FF00", "FF8000", "81808000", "FFFF00", "FFFF8000", "FFFFFF00"} {
		b := hex("C0" + l)
		want, _ := binary.Uvarint(hex(l))
		for _, v := range append(v3, 0) {
			if _, size, err := ParseFrame(b, v, MaxPacket); err != nil || size != len(b)+int(want) {
				t.Errorf("version %s, length %s: size %d, error %v", v, l, size, err)
			}
		}
		f, _, err := ParseFrame(b, V5, MaxPacket)
		checkCode(t, f, err, MalformedPacket)
	}
	for _, l := range []string{"80808080", "FFFFFFFF", "8080808000", "8080808001"} {
		for _, v := range append(all, 0) {
			f, _, err := ParseFrame(hex("C0"+l), v, MaxPacket)
			checkCode(t, f, err, MalformedPacket)
		}
	}
}

// While the header is not whole there is nothing to say.
func TestParseFrameIncomplete(t *testing.T) {
	for _, wire := range []string{"", "30", "30 80", "30 8080", "30 808080", "10 FF", "82 FFFF", "C0"} {
		for _, v := range all {
			f, size, err := ParseFrame(hex(wire), v, 16)
			if err != nil || size != 0 || f.Body != nil {
				t.Errorf("%q: frame %+v, size %d, error %v", wire, f, size, err)
			}
		}
	}
}

// The limit counts the whole packet, and holds as soon as the fixed header is there: nothing is buffered for a packet
// that is refused (§3.2.2.3.6).
func TestParseFrameLimit(t *testing.T) {
	for _, l := range lengths {
		b := hex("30" + l.wire) // two to five bytes
		whole := len(b) + l.value
		for _, v := range append(all, 0) {
			if _, size, err := ParseFrame(b, v, whole); err != nil || size != whole {
				t.Errorf("version %s, limit %d: size %d, error %v", v, whole, size, err)
			}
			f, size, err := ParseFrame(b, v, whole-1)
			checkCode(t, f, err, PacketTooLarge)
			if size != 0 || f.Body != nil {
				t.Errorf("version %s, limit %d: frame %+v, size %d", v, whole-1, f, size)
			}
		}
	}
	if want := 5 + lengths[len(lengths)-1].value; MaxPacket != want {
		t.Errorf("MaxPacket is %d, want %d", MaxPacket, want)
	}
}

// The flags of every type (§2.1.3) [MQTT-2.1.3-1], [v3.1.1 MQTT-2.2.2-1], [v3.1.1 MQTT-2.2.2-2]: PUBREL [MQTT-3.6.1-1],
// SUBSCRIBE [MQTT-3.8.1-1], UNSUBSCRIBE [MQTT-3.10.1-1], DISCONNECT [MQTT-3.14.1-1], AUTH [MQTT-3.15.1-1]; and in 3.1.1
// [v3.1.1 MQTT-3.6.1-1], [v3.1.1 MQTT-3.8.1-1], [v3.1.1 MQTT-3.10.1-1], [v3.1.1 MQTT-3.14.1-1]. The first byte is enough.
func TestParseFrameFlags(t *testing.T) {
	for first := range 256 {
		for _, v := range append(all, 0) {
			f, _, err := ParseFrame([]byte{byte(first)}, v, MaxPacket)
			if legalFirstByte(first>>4, first&15, v) {
				if err != nil {
					t.Errorf("version %s, first byte %02X: %v", v, first, err)
				}
				continue
			}
			t.Run(fmt.Sprintf("%s/%02X", v, first), func(t *testing.T) { checkCode(t, f, err, MalformedPacket) })
		}
	}
}

func legalFirstByte(typ, flags int, v Version) bool {
	switch typ {
	case 0:
		return false
	case 3:
		return true
	case 6, 8, 10:
		return flags == 0b0010 || v == V31 && flags == 0b1010 // a request that 3.1 repeats has DUP
	}
	return flags == 0
}

// conversation is every golden packet of a version, one behind the other.
func conversation(v Version) (packets [][]byte) {
	for _, g := range goldens() {
		if slices.Contains(g.versions, v) {
			packets = append(packets, hex(g.wire))
		}
	}
	return packets
}

// A stream gives the same packets however it is cut: fed byte by byte, each appears with its last byte.
func TestParseFrameByteByByte(t *testing.T) {
	for _, v := range all {
		packets := conversation(v)
		var buf []byte
		for _, c := range bytes.Join(packets, nil) {
			buf = append(buf, c)
			f, size, err := ParseFrame(buf, v, MaxPacket)
			if err != nil {
				t.Fatalf("version %s, % X: %v", v, buf, err)
			}
			if size == 0 || size > len(buf) {
				continue
			}
			if !bytes.Equal(buf, packets[0]) || !bytes.Equal(packetOf(f.Type.first(f.Flags), f.Body), packets[0]) {
				t.Fatalf("version %s: frame %+v of % X, want % X", v, f, buf, packets[0])
			}
			buf, packets = nil, packets[1:]
		}
		if len(buf)+len(packets) > 0 {
			t.Errorf("version %s: %d bytes and %d packets are left over", v, len(buf), len(packets))
		}
	}
}

// A buffer of many packets gives one after the other.
func TestParseFrameBatch(t *testing.T) {
	for _, v := range all {
		packets := conversation(v)
		rest := bytes.Join(packets, nil)
		for i, want := range packets {
			f, size, err := ParseFrame(rest, v, MaxPacket)
			if err != nil || size != len(want) || !bytes.HasSuffix(want, f.Body) || cap(f.Body) != len(f.Body) {
				t.Fatalf("version %s, packet %d: frame %+v, size %d, error %v, want % X", v, i, f, size, err, want)
			}
			rest = rest[size:]
		}
		if len(rest) > 0 {
			t.Errorf("version %s: % X is left over", v, rest)
		}
	}
}

func (t PacketType) first(flags byte) byte { return byte(t)<<4 | flags }

// FuzzFrame reads a stream: the frames do not depend on how it is cut, and each is a packet that can be read or is
// refused with a reason code.
func FuzzFrame(f *testing.F) {
	for _, v := range all {
		f.Add(byte(v), bytes.Join(conversation(v), nil))
	}
	for _, r := range refusals() {
		f.Add(byte(r.versions[0]), packetOf(r.first, hex(r.body)))
	}
	f.Fuzz(func(t *testing.T, version byte, stream []byte) {
		v := V31 + Version(version)%3
		for len(stream) > 0 {
			frame, size, err := ParseFrame(stream, v, 1<<16)
			checkPrefixes(t, stream, v, size, err)
			if err != nil || size == 0 || size > len(stream) {
				return
			}
			if !frame.padded && !bytes.Equal(packetOf(frame.Type.first(frame.Flags), frame.Body), stream[:size]) {
				t.Fatalf("frame %+v of % X", frame, stream[:size])
			}
			checkRoundTrip(t, frame, v)
			stream = stream[size:]
		}
	})
}

// checkPrefixes wants that fewer bytes say the same or that they are too few.
func checkPrefixes(t *testing.T, b []byte, v Version, size int, err error) {
	t.Helper()
	for n := range min(len(b), 6) {
		f, s, e := ParseFrame(b[:n], v, 1<<16)
		if undecided := e == nil && s == 0; undecided {
			continue
		}
		if s != size || (e == nil) != (err == nil) || f.Body != nil && len(b[:n]) < size {
			t.Fatalf("% X: size %d, error %v; its first %d bytes: frame %+v, size %d, error %v", b, size, err, n, f, s, e)
		}
	}
}
