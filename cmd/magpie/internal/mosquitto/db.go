package mosquitto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// DB is what a mosquitto.db holds.
type DB struct {
	Format        int // of the file
	Clients       []Client
	Subscriptions []Subscription
	Messages      []Message
	Deliveries    []Delivery // of each client in their order
	Retained      []uint64   // messages by number
}

// Never is a session expiry: the session stays.
const Never = math.MaxUint32

// Client is a session.
type Client struct {
	ClientID string
	User     string    // empty for none, and in files of format 5, which do not tell
	Expiry   uint32    // seconds after the end of the connection, or Never
	Expires  time.Time // zero when it was connected, or never expires
}

// Subscription is one of a session.
type Subscription struct {
	ClientID          string
	Filter            string
	QoS               mqtt.QoS
	NoLocal           bool
	RetainAsPublished bool
	ID                uint32 // Subscription Identifier, zero for none
}

// Message is an application message.
type Message struct {
	Number uint64 // by which others refer to it; it grows with time
	mqtt.Message
}

// Delivery is a message on its way: from a session's client when it is inbound, otherwise to it.
type Delivery struct {
	ClientID string
	Message  uint64
	PacketID uint16
	QoS      mqtt.QoS
	Retain   bool
	Inbound  bool
	State    State
	IDs      []uint32 // Subscription Identifiers
}

// State says how far a delivery is.
type State byte

// The states as the file has them.
const (
	stateToSend      State = 4 // of QoS 2; perhaps it was sent once
	stateSent        State = 5 // PUBREC is missing
	stateToRelease   State = 6 // PUBREC has come
	stateReleased    State = 9 // PUBCOMP is missing
	stateQueued      State = 11
	stateLast              = stateQueued
	kindConfig             = 1
	kindMessage            = 2
	kindDelivery           = 3
	kindRetained           = 4
	kindSubscription       = 5
	kindClient             = 6
)

var magic = []byte("\x00\xb5\x00mosquitto db")

// FormatError says where a file stops making sense.
type FormatError struct {
	Offset int64 // in bytes
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("not a mosquitto.db that can be read: %s, at byte %d", e.Reason, e.Offset)
}

// ReadDB reads a mosquitto.db of size bytes, of Mosquitto 1.6 or later.
func ReadDB(r io.Reader, size int64) (*DB, error) {
	d := &dbReader{in: bufio.NewReaderSize(r, 64<<10), size: size, native: binary.LittleEndian, db: &DB{}}
	if err := d.header(); err != nil {
		return nil, err
	}
	for d.off < d.size {
		if err := d.chunk(); err != nil {
			return nil, err
		}
	}
	return d.db, nil
}

// dbReader reads a file chunk by chunk.
type dbReader struct {
	in     *bufio.Reader
	off    int64
	size   int64
	native binary.ByteOrder // of the machine that wrote the file: numbers of 64 bits are in its order, all others in that of networks
	packed bool             // it was one of 32 bits, which leaves less space between numbers
	db     *DB
}

func (d *dbReader) fail(format string, args ...any) error {
	return &FormatError{d.off, fmt.Sprintf(format, args...)}
}

// read reads n bytes.
func (d *dbReader) read(n int64) ([]byte, error) {
	if n > d.size-d.off {
		return nil, d.fail("it is cut off")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.in, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, d.fail("it is cut off")
	} else if err != nil {
		return nil, fmt.Errorf("read mosquitto.db: %w", err)
	}
	d.off += n
	return b, nil
}

// header reads what the file begins with: what it is, four bytes that mean nothing, the format.
func (d *dbReader) header() error {
	b, err := d.in.Peek(len(magic))
	if bytes.HasPrefix(b, []byte("SQLite format 3")) {
		return d.fail("it is a database of the plugin persist_sqlite, whose contents are not imported")
	}
	if err != nil || !bytes.Equal(b, magic) {
		return d.fail("it begins with something else")
	}
	if b, err = d.read(int64(len(magic)) + 8); err != nil {
		return err
	}
	switch format := binary.BigEndian.Uint32(b[len(magic)+4:]); format {
	case 5, 6:
		d.db.Format = int(format)
	case 2, 3, 4:
		return d.fail("it has format %d, of Mosquitto 1.5 or older: start Mosquitto 2.0 with it once, which writes a newer one", format)
	default:
		return d.fail("it has format %d, which is not known here", format)
	}
	return nil
}

// chunk reads one chunk.
func (d *dbReader) chunk() error {
	b, err := d.read(8)
	if err != nil {
		return err
	}
	kind, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if b, err = d.read(int64(n)); err != nil {
		return err
	}
	f := fields{b: b, native: d.native}
	switch kind {
	case kindConfig:
		err = d.config(&f)
	case kindMessage:
		d.message(&f)
	case kindDelivery:
		d.delivery(&f)
	case kindRetained:
		d.db.Retained = append(d.db.Retained, f.long())
	case kindSubscription:
		d.subscription(&f)
	case kindClient:
		d.client(&f)
	}
	if err == nil && f.bad {
		err = d.fail("a chunk of kind %d makes no sense", kind)
	}
	return err
}

// config learns about the machine that wrote the file.
func (d *dbReader) config(f *fields) error {
	d.packed = len(f.b) == 12
	last := f.long()
	f.byte() // shut down in order
	if f.byte() != 8 {
		return d.fail("its numbers have not 64 bits")
	}
	if reversed := binary.BigEndian.Uint64(binary.LittleEndian.AppendUint64(nil, last)); reversed < last && last > 1<<48 {
		d.native = binary.BigEndian
	}
	return nil
}

func (d *dbReader) client(f *fields) {
	expires, c, user := f.long(), Client{Expiry: f.int()}, uint16(0)
	f.short() // the last Packet Identifier
	id := f.short()
	if d.db.Format > 5 {
		f.short() // the port of the listener
		user = f.short()
		if !d.packed {
			f.bytes(4)
		}
	}
	c.ClientID, c.User = f.string(int(id)), f.string(int(user))
	c.Expires = unixTime(expires)
	d.db.Clients = append(d.db.Clients, c)
}

func (d *dbReader) message(f *fields) {
	m := Message{Number: f.long()}
	m.Expires = unixTime(f.long())
	payload := f.int()
	f.short() // Packet Identifier of the publisher
	publisher, user, name := f.short(), f.short(), f.short()
	f.short() // the port of the listener
	m.QoS, m.Retain = mqtt.QoS(f.byte()), f.byte() != 0
	m.Publisher = f.string(int(publisher))
	f.bytes(int64(user))
	m.Topic, m.Payload = f.string(int(name)), f.bytes(int64(payload))
	m.Props = f.properties().Without(mqtt.MessageExpiryInterval, mqtt.TopicAlias, mqtt.SubscriptionIdentifier)
	f.bad = f.bad || m.QoS > mqtt.ExactlyOnce
	d.db.Messages = append(d.db.Messages, m)
}

func (d *dbReader) delivery(f *fields) {
	v := Delivery{Message: f.long(), PacketID: f.short()}
	id := f.short()
	v.QoS, v.State = mqtt.QoS(f.byte()), State(f.byte())
	v.Retain = f.byte()>>4 != 0
	v.Inbound = f.byte() == 0
	v.ClientID = f.string(int(id))
	for id := range f.properties().Ints(mqtt.SubscriptionIdentifier) {
		v.IDs = append(v.IDs, id)
	}
	f.bad = f.bad || v.QoS > mqtt.ExactlyOnce || v.State > stateLast
	d.db.Deliveries = append(d.db.Deliveries, v)
}

func (d *dbReader) subscription(f *fields) {
	s := Subscription{ID: f.int()}
	id, filter := f.short(), f.short()
	qos, options := mqtt.QoS(f.byte()), f.byte()
	f.bytes(2)
	s.ClientID, s.Filter = f.string(int(id)), f.string(int(filter))
	s.QoS, s.NoLocal, s.RetainAsPublished = qos, options&4 != 0, options&8 != 0
	f.bad = f.bad || qos > mqtt.ExactlyOnce
	d.db.Subscriptions = append(d.db.Subscriptions, s)
}

// unixTime reads a time in seconds; zero is none.
func unixTime(seconds uint64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(int64(min(seconds, 1<<40)), 0)
}

// fields reads the fields of a chunk. The first mistake sticks.
type fields struct {
	b      []byte
	native binary.ByteOrder
	bad    bool
}

// bytes returns the next n bytes.
func (f *fields) bytes(n int64) []byte {
	if n > int64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}

// fixed returns the next n bytes, or zeros.
func (f *fields) fixed(n int64) []byte {
	if b := f.bytes(n); b != nil {
		return b
	}
	return make([]byte, n)
}

func (f *fields) byte() byte          { return f.fixed(1)[0] }
func (f *fields) short() uint16       { return binary.BigEndian.Uint16(f.fixed(2)) }
func (f *fields) int() uint32         { return binary.BigEndian.Uint32(f.fixed(4)) }
func (f *fields) long() uint64        { return f.native.Uint64(f.fixed(8)) }
func (f *fields) string(n int) string { return string(f.bytes(int64(n))) }

// properties reads properties with their length before them, or nothing at the end.
func (f *fields) properties() mqtt.Properties {
	if len(f.b) == 0 {
		return nil
	}
	n, size := binary.Uvarint(f.b) // as MQTT writes lengths
	if size <= 0 || size > 4 || n != uint64(len(f.b)-size) {
		f.bad = true
		return nil
	}
	p, err := mqtt.ParseProperties(f.b[size:], mqtt.PUBLISH)
	f.bad = f.bad || err != nil
	return p
}
