package loadgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/magpiemq/magpie/mqtt"
)

// conn is one connection. It belongs to its loop, and so do its publisher and its subscriber; all but slot and number may only be
// touched there.
type conn struct {
	slot   int // place in its loop
	number int // among those of its role, as it is in topics
	state  state
	pub    *publisher  // nil if it does not publish
	sub    *subscriber // nil if it does not count messages

	out     []byte // out[head:] is to be written
	head    int
	blocked bool // the socket takes no more for now
	dirty   bool // in the loop's list of those to be flushed
	passing passing

	begun int64 // when it was due to connect
	wrote int64 // when something was last sent

	fd     int     // of a raw socket; -1 if there is none
	armed  bool    // epoll tells when it can be written
	rest   []byte  // the beginning of a packet, between two reads
	stream *stream // with goroutines
}

type state uint8

const (
	waiting     state = iota // for its turn to connect
	dialling                 // no stream yet
	greeting                 // CONNECT is sent
	subscribing              // SUBSCRIBE is sent
	ready
	closed
)

// arrival is a PUBLISH that has come, as far as it matters here.
type arrival struct {
	qos   mqtt.QoS
	id    uint16
	ours  bool // whether it is of this run
	stamp stamp
}

// passing is a large PUBLISH of which the beginning was read: the rest goes by without being kept.
type passing struct {
	rest int // bytes to come
	arrival
}

// room returns what is to be written, with room for n more bytes.
func (c *conn) room(n int) []byte {
	if cap(c.out)-len(c.out) >= n {
		return c.out
	}
	if c.head > 0 {
		c.out = c.out[:copy(c.out, c.out[c.head:])]
		c.head = 0
	}
	c.out = slices.Grow(c.out, n)
	return c.out
}

// backlog is how many bytes wait to be written.
func (c *conn) backlog() int { return len(c.out) - c.head }

// written notes that the socket has taken so many bytes.
func (c *conn) written(n int) {
	if c.head += n; c.head == len(c.out) {
		c.out, c.head = c.out[:0], 0
	}
}

// Limits of what a loop reads and keeps.
const (
	readSize   = 512 << 10 // the buffer of a loop, and the largest packet that must be whole
	passSize   = 8 << 10   // a larger PUBLISH need not be
	backlogMax = 1 << 20   // bytes waiting for one socket, beyond which nothing is published there
)

// errTooLarge ends a connection whose broker sends what nobody asked for.
var errTooLarge = fmt.Errorf("%w: more than %d bytes", mqtt.PacketTooLarge, readSize)

// received takes what was read from a connection, and returns how many bytes it has used; the rest is the beginning of a packet.
func (l *loop) received(c *conn, b []byte) (used int) {
	l.now = now()
	l.lastMoved = l.now
	used = l.pass(c, b)
	for used < len(b) && c.state != closed {
		if n := l.publishes(c, b[used:]); n > 0 {
			used += n
			continue
		}
		f, size, err := mqtt.ParseFrame(b[used:], l.version, mqtt.MaxPacket)
		switch {
		case err != nil:
			l.end(c, err)
		case size == 0:
			return used
		case f.Body == nil:
			return l.partial(c, b, used, size)
		case f.Type == mqtt.PUBLISH:
			l.publish(c, f.Flags, f.Body)
			used += size
		default:
			if err := l.packet(c, f); err != nil {
				l.end(c, err)
			}
			used += size
		}
	}
	return used
}

// publishes takes the PUBLISH packets at the beginning of b, and returns how many bytes they have. It knows only those that are
// whole and have less than 16 KiB, and leaves the others to [mqtt.ParseFrame]: that is a tenth of what a message costs.
func (l *loop) publishes(c *conn, b []byte) (used int) {
	for len(b)-used > 2 && mqtt.PacketType(b[used]>>4) == mqtt.PUBLISH && c.state != closed {
		header, n := used+2, int(b[used+1])
		if n >= 128 {
			if b[used+2] >= 128 {
				break
			}
			header, n = used+3, n&127|int(b[used+2])<<7
		}
		if n > len(b)-header {
			break
		}
		l.publish(c, b[used]&15, b[header:header+n])
		used = header + n
	}
	return used
}

// publish takes a whole PUBLISH.
func (l *loop) publish(c *conn, flags byte, body []byte) {
	var a arrival
	if err := l.scan(&a, flags, body, 0); err != nil {
		l.end(c, err)
		return
	}
	l.arrive(c, &a)
}

// partial decides about the beginning of a packet: it is kept until the rest has come, unless it is a large PUBLISH whose payload
// need not be kept.
func (l *loop) partial(c *conn, b []byte, used, size int) int {
	rest := b[used:]
	if mqtt.PacketType(rest[0]>>4) == mqtt.PUBLISH && size > passSize {
		header := 2 + slices.IndexFunc(rest[1:], func(b byte) bool { return b < 128 })
		err := l.scan(&c.passing.arrival, rest[0]&15, rest[header:], size-len(rest))
		switch {
		case err == nil:
			c.passing.rest = size - len(rest)
			return len(b)
		case !errors.Is(err, errShort):
			l.end(c, err)
			return used
		}
	}
	if size > readSize && len(rest) > readSize/2 {
		l.end(c, errTooLarge)
	}
	return used
}

// pass lets the rest of a large PUBLISH go by.
func (l *loop) pass(c *conn, b []byte) (used int) {
	if c.passing.rest == 0 {
		return 0
	}
	used = min(c.passing.rest, len(b))
	if c.passing.rest -= used; c.passing.rest == 0 {
		l.arrive(c, &c.passing.arrival)
	}
	return used
}

// scan reads the body of a PUBLISH (§3.3), of which so many bytes are still to come. The error is errShort if they are needed.
func (l *loop) scan(a *arrival, flags byte, body []byte, left int) error {
	if len(body) < 2 {
		return errShort
	}
	*a = arrival{qos: mqtt.QoS(flags >> 1 & 3)}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if a.qos > mqtt.AtMostOnce {
		if len(body) < at+2 {
			return errShort
		}
		a.id = binary.BigEndian.Uint16(body[at:])
		at += 2
		if a.qos > mqtt.ExactlyOnce || a.id == 0 {
			return errMalformed // [MQTT-3.3.1-4], [MQTT-2.2.1-3]
		}
	}
	if l.version == mqtt.V5 {
		var whole bool
		if at, whole = skipProperties(body, at); !whole && left > 0 {
			return errShort
		}
	}
	size := len(body) + left - at // of the payload
	switch {
	case size < 0:
		return errMalformed
	case size < MinSize:
		return nil
	case len(body) < at+MinSize:
		return errShort
	}
	a.stamp = readStamp(body[at:])
	a.ours = l.ours(&a.stamp, size)
	return nil
}

// skipProperties returns the place behind the properties at a place of b. It is beyond every packet when their length is none, or is not
// there as a whole.
func skipProperties(b []byte, at int) (next int, whole bool) {
	n := 0
	for i := range 4 {
		if at+i >= len(b) {
			return mqtt.MaxPacket + 1, false
		}
		n |= int(b[at+i]&127) << (7 * i)
		if b[at+i] < 128 {
			return at + i + 1 + n, true
		}
	}
	return mqtt.MaxPacket + 1, true
}

// Errors of what a broker has sent.
var (
	errUnexpected = fmt.Errorf("%w: packet that nobody waits for", mqtt.ProtocolError)
	errMalformed  = fmt.Errorf("%w: PUBLISH", mqtt.MalformedPacket)
	errShort      = fmt.Errorf("%w: PUBLISH ends inside a field", mqtt.MalformedPacket)
	errGone       = errors.New("closed by the broker")
)

// packet takes a whole packet that is not a PUBLISH.
func (l *loop) packet(c *conn, f mqtt.Frame) error {
	switch f.Type {
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP:
		if c.pub == nil || len(f.Body) < 2 {
			return errUnexpected
		}
		return l.acknowledged(c.pub, f.Type, binary.BigEndian.Uint16(f.Body), len(f.Body) > 2 && f.Body[2] >= 0x80)
	case mqtt.PUBREL:
		if c.sub == nil || len(f.Body) < 2 {
			return errUnexpected
		}
		l.release(c.sub, binary.BigEndian.Uint16(f.Body))
		return nil
	case mqtt.CONNACK:
		return l.connack(c, f)
	case mqtt.SUBACK:
		return l.suback(c, f)
	case mqtt.PINGRESP:
		return nil
	case mqtt.DISCONNECT:
		var d mqtt.Disconnect
		if err := d.Parse(f, l.version); err != nil {
			return err
		}
		return fmt.Errorf("DISCONNECT of the broker: %w", d.Code)
	}
	return errUnexpected
}
