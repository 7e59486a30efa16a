package mqtt

// Frame is one whole control packet, its body not yet looked at.
type Frame struct {
	Type  PacketType
	Flags byte   // the low four bits of the fixed header
	Body  []byte // variable header and payload; borrows from the buffer

	padded bool // the Remaining Length takes more bytes than it needs
}

// MaxPacket is the size in bytes of the largest control packet: 5 bytes of fixed header and 268,435,455 more (§2.1.4).
const MaxPacket = 5 + 268_435_455

// ParseFrame finds the first control packet in b.
//
// Size is the number of bytes that the packet takes, fixed header included. When size > len(b) the packet is not whole
// yet and f.Body is nil; size is 0 while not even the fixed header is there. A packet of more than limit bytes is
// refused with PacketTooLarge as soon as its fixed header is known, so nobody buffers it. Version zero means that no
// CONNECT was seen yet.
func ParseFrame(b []byte, v Version, limit int) (f Frame, size int, err error) {
	if len(b) == 0 {
		return Frame{}, 0, nil
	}
	f.Type, f.Flags = PacketType(b[0]>>4), b[0]&15
	if err := f.checkFlags(v); err != nil {
		return Frame{}, 0, err
	}
	length, n, err := varint(b[1:])
	if err != nil {
		return Frame{}, 0, err
	}
	if n == 0 {
		return Frame{}, 0, nil
	}
	if f.padded = n != varintSize(length); f.padded && v == V5 {
		return Frame{}, 0, errNotMinimal
	}
	size = 1 + n + length
	if size > limit {
		return Frame{}, 0, PacketTooLarge // [MQTT-3.1.2-24], [MQTT-3.2.2-15]
	}
	if size <= len(b) {
		f.Body = b[1+n : size : size]
	}
	return f, size, nil
}

// checkFlags holds the table of §2.1.3: every type but PUBLISH has one legal value. MQTT 3.1 lets a client set DUP on
// the requests that it may repeat.
func (f Frame) checkFlags(v Version) error {
	want := byte(0)
	switch f.Type {
	case 0:
		return wrong(MalformedPacket, "packet type 0 is reserved")
	case PUBLISH:
		return nil // checked where they are parsed
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		want = 2 // [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]
		if v == V31 && f.Flags == 2|8 {
			return nil
		}
	}
	if f.Flags != want {
		return wrong(MalformedPacket, "reserved bits of the fixed header are set") // [MQTT-2.1.3-1]
	}
	return nil
}

// errNotMinimal refuses an integer that takes more bytes than it needs [MQTT-1.5.5-1]; MQTT 3 has no such rule.
var errNotMinimal = wrong(MalformedPacket, "variable byte integer is longer than needed")

// varint reads a Variable Byte Integer (§1.5.5). n is 0 when b ends before the integer does.
func varint(b []byte) (value, n int, err error) {
	for i, c := range b {
		if i == 4 {
			break
		}
		value |= int(c&127) << (7 * i)
		if c < 128 {
			return value, i + 1, nil
		}
	}
	if len(b) >= 4 {
		return 0, 0, wrong(MalformedPacket, "variable byte integer is longer than four bytes")
	}
	return 0, 0, nil
}

func appendVarint(b []byte, n int) []byte {
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(b, byte(n))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}
