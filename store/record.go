package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
	"unsafe"

	"github.com/magpiemq/magpie/mqtt"
)

// Position is a place in the order of records. It grows from record to record, not by one; 0 stands before all of them.
type Position uint64

// SessionID numbers a session. The server gives it; no two sessions of one store have the same. 0 is nobody: a session that
// does not outlive its connection.
type SessionID uint64

// Kind says what a record tells.
type Kind byte

// The kinds of records. Their values are part of the format on disk.
const (
	Session      Kind = 1  // a session as it is from a CONNECT on: made, or taken up again
	Left         Kind = 2  // its connection has ended; it waits for its client until Time plus Expiry
	Ended        Kind = 3  // the session is no more
	Subscribed   Kind = 4  // Subscription and IDs, in place of one with the same filter
	Unsubscribed Kind = 5  // Subscription.Filter
	Accepted     Kind = 6  // Message, for Recipients; retained if it says so; received from Session under PacketID if those are set; the Will of Session if only that is set
	Done         Kind = 7  // Session needs the message at About no more
	Sent         Kind = 8  // Session was sent the QoS 2 message at About under PacketID
	Received     Kind = 9  // Session has acknowledged PacketID with PUBREC: it needs the message at About no more, only PUBREL
	Completed    Kind = 10 // Session has acknowledged PacketID with PUBCOMP; the message was at About
	Released     Kind = 11 // Session has released the message that it published under PacketID
	WillGone     Kind = 12 // the Will of Session has been published, or never will be
	Moved        Kind = 13 // Message was copied from About to here; if Session is set, that one needs it no more, and Recipients do
	Queue        Kind = 14 // Refs wait for Session, in this order; only in checkpoints
	Inbound      Kind = 15 // PacketIDs are received from Session and not released; only in checkpoints
	Retained     Kind = 16 // Refs are retained messages; only in checkpoints
)

// Record is one fact. Which fields mean something depends on the kind. All records in their order, one applied after the other,
// give the state; applying one twice changes nothing.
type Record struct {
	Kind         Kind
	Session      SessionID
	About        Position // of an Accepted or Moved record
	PacketID     uint16
	ClientID     string
	Owner        string
	Version      mqtt.Version
	Expiry       time.Duration // negative means never
	Time         time.Time
	Will         *Will
	Subscription mqtt.Subscription
	IDs          []uint32
	Message      *mqtt.Message
	Recipients   []Recipient
	Refs         []Ref
	Bytes        int64 // of the messages of Refs that wait, together
	PacketIDs    []uint16

	Promise Promise // how soon the record has to be safe; not encoded
}

// Recipient is a session that is to get a message, and how.
type Recipient struct {
	Session SessionID
	QoS     mqtt.QoS
	Retain  bool
	IDs     []uint32 // Subscription Identifiers
	Share   string   // the Shared Subscription it came through
}

// Will is the Will of a session.
type Will struct {
	Message *mqtt.Message
	Expiry  time.Duration // of the message, from when it is published; zero for none
	Delay   time.Duration
}

// Ref is one message on its way to one session, as a checkpoint keeps it.
type Ref struct {
	About    Position
	QoS      mqtt.QoS
	Retain   bool
	Shared   bool
	PacketID uint16 // of one that was sent
	Received bool   // and acknowledged by PUBREC
}

// Waiting returns how many of Refs wait, and are not in flight.
func (r *Record) Waiting() (n int) {
	for i := range r.Refs {
		if r.Refs[i].PacketID == 0 {
			n++
		}
	}
	return n
}

// MeanBytes returns the mean size of the messages of Refs that wait.
func (r *Record) MeanBytes() uint32 {
	if n := r.Waiting(); n > 0 {
		return uint32(min(r.Bytes/int64(n), math.MaxUint32))
	}
	return 0
}

// errDamaged says that a record is not one of ours.
var errDamaged = errors.New("record is damaged")

// Append appends the encoded record to b, without its kind.
func (r *Record) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(r.Session))
	switch r.Kind {
	case Session:
		b = appendString(appendString(b, r.ClientID), r.Owner)
		b = appendTime(append(b, byte(r.Version)), r.Time)
		b = binary.AppendVarint(b, int64(r.Expiry))
		b = appendWill(b, r.Will)
	case Left:
		b = binary.AppendVarint(appendTime(b, r.Time), int64(r.Expiry))
	case Subscribed:
		s := &r.Subscription
		b = append(appendString(b, s.Filter), byte(s.QoS)|flag(s.NoLocal, 4)|flag(s.RetainAsPublished, 8)|byte(s.RetainHandling)<<4)
		b = appendInts(b, r.IDs)
	case Unsubscribed:
		b = appendString(b, r.Subscription.Filter)
	case Accepted:
		b = binary.AppendUvarint(b, uint64(r.PacketID))
		b = appendRecipients(b, r.Recipients)
		b = appendMessage(b, r.Message)
	case Moved:
		b = binary.AppendUvarint(b, uint64(r.About))
		b = appendRecipients(b, r.Recipients)
		b = appendMessage(b, r.Message)
	case Done:
		b = binary.AppendUvarint(b, uint64(r.About))
	case Sent, Received, Completed:
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.About)), uint64(r.PacketID))
	case Released:
		b = binary.AppendUvarint(b, uint64(r.PacketID))
	case Queue:
		b = appendRefs(binary.AppendUvarint(b, uint64(r.Bytes)), r.Refs)
	case Retained:
		b = appendRefs(b, r.Refs)
	case Inbound:
		b = appendInts(b, r.PacketIDs)
	}
	return b
}

// Parse reads a record of the kind. Strings and payloads are copied: b may be reused.
func (r *Record) Parse(k Kind, b []byte) error {
	*r = Record{}
	return r.parse(k, &decoder{b: b})
}

// Viewer reads records one after the other, for long replays, without copies of what those see most. The zero value is ready.
type Viewer struct {
	record     Record
	message    mqtt.Message
	recipients []Recipient
	ids        []uint32
	copies     bool // messages are copied, as those to be retained always are
	topic      string
	publisher  string // of the message copied last
}

// Record is [Record.Parse] into the viewer's own record, whose Recipients, and whose Message unless that is to be retained, are
// good until b changes or the viewer is used again.
func (v *Viewer) Record(k Kind, b []byte) (*Record, error) {
	v.record = Record{}
	err := v.record.parse(k, &decoder{b: b, into: v})
	return &v.record, err
}

// Owned is Record with a Message that is the caller's to keep. Its Topic and Publisher share the memory of the one before if they are the
// same.
func (v *Viewer) Owned(k Kind, b []byte) (*Record, error) {
	v.copies = true
	defer func() { v.copies = false }()
	return v.Record(k, b)
}

func (r *Record) parse(k Kind, d *decoder) error {
	r.Kind = k
	r.Session = SessionID(d.uint())
	switch k {
	case Session:
		r.ClientID, r.Owner = d.string(), d.string()
		r.Version, r.Time, r.Expiry, r.Will = mqtt.Version(d.byte()), d.time(), time.Duration(d.int()), d.will()
	case Left:
		r.Time, r.Expiry = d.time(), time.Duration(d.int())
	case Subscribed:
		s := &r.Subscription
		s.Filter = d.string()
		o := d.byte()
		s.QoS, s.NoLocal, s.RetainAsPublished, s.RetainHandling = mqtt.QoS(o&3), o&4 != 0, o&8 != 0, mqtt.RetainHandling(o>>4)
		r.IDs = ints[uint32](d)
	case Unsubscribed:
		r.Subscription.Filter = d.string()
	case Accepted:
		r.PacketID, r.Recipients, r.Message = uint16(d.uint()), d.recipients(), d.message()
	case Moved:
		r.About, r.Recipients, r.Message = Position(d.uint()), d.recipients(), d.message()
	case Done:
		r.About = Position(d.uint())
	case Sent, Received, Completed:
		r.About, r.PacketID = Position(d.uint()), uint16(d.uint())
	case Released:
		r.PacketID = uint16(d.uint())
	case Queue:
		r.Bytes, r.Refs = int64(d.uint()), d.refs()
	case Retained:
		r.Refs = d.refs()
	case Inbound:
		r.PacketIDs = ints[uint16](d)
	case Ended, WillGone:
	default:
		return fmt.Errorf("record of kind %d: %w", k, errDamaged)
	}
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("record of kind %d: %w", k, errDamaged)
	}
	return nil
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendInts[N uint16 | uint32](b []byte, ns []N) []byte {
	b = binary.AppendUvarint(b, uint64(len(ns)))
	for _, n := range ns {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

// appendTime appends milliseconds since 1970, 0 for the zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

// appendMessage appends the message. The payload comes last but needs its length all the same, since a Will has more behind it.
func appendMessage(b []byte, m *mqtt.Message) []byte {
	b = append(b, byte(m.QoS)|flag(m.Retain, 4))
	b = appendTime(b, m.Expires)
	b = appendString(appendString(b, m.Topic), m.Publisher)
	return appendString(appendString(b, []byte(m.Props)), m.Payload)
}

func appendWill(b []byte, w *Will) []byte {
	if w == nil {
		return append(b, 0)
	}
	b = binary.AppendVarint(binary.AppendVarint(append(b, 1), int64(w.Delay)), int64(w.Expiry))
	return appendMessage(b, w.Message)
}

func appendRecipients(b []byte, rs []Recipient) []byte {
	b = binary.AppendUvarint(b, uint64(len(rs)))
	for i := range rs {
		r := &rs[i]
		more := len(r.IDs) > 0 || r.Share != ""
		b = append(binary.AppendUvarint(b, uint64(r.Session)), byte(r.QoS)|flag(r.Retain, 4)|flag(more, 8))
		if more {
			b = appendString(appendInts(b, r.IDs), r.Share)
		}
	}
	return b
}

// appendRefs appends references; positions as differences, which are small when they are in order.
func appendRefs(b []byte, refs []Ref) []byte {
	b = binary.AppendUvarint(b, uint64(len(refs)))
	last := Position(0)
	for _, r := range refs {
		b = binary.AppendVarint(b, int64(r.About-last))
		b = binary.AppendUvarint(b, uint64(r.PacketID)<<5|uint64(byte(r.QoS)|flag(r.Retain, 4)|flag(r.Shared, 8)|flag(r.Received, 16)))
		last = r.About
	}
	return b
}

// decoder reads what the functions above wrote. The first mistake sticks.
type decoder struct {
	b    []byte
	bad  bool
	into *Viewer // nil: what is read is copied
}

func (d *decoder) fail() {
	d.bad, d.b = true, nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) string() string { return string(d.bytes()) }

// count reads how many things follow, of which each takes at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func ints[N uint16 | uint32](d *decoder) (ns []N) {
	for range d.count() {
		ns = append(ns, N(d.uint()))
	}
	return ns
}

func (d *decoder) time() time.Time {
	if ms := d.int(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

func (d *decoder) message() *mqtt.Message {
	o := d.byte()
	if d.into != nil && o&4 == 0 && !d.into.copies {
		return d.viewMessage(mqtt.QoS(o & 3))
	}
	m := &mqtt.Message{QoS: mqtt.QoS(o & 3), Retain: o&4 != 0, Expires: d.time()}
	if v := d.into; v != nil {
		v.topic, v.publisher = d.stringLike(v.topic), d.stringLike(v.publisher)
		m.Topic, m.Publisher = v.topic, v.publisher
	} else {
		m.Topic, m.Publisher = d.string(), d.string()
	}
	props, payload := d.bytes(), d.bytes()
	kept := append(append(make([]byte, 0, len(payload)+len(props)), payload...), props...)
	m.Payload, m.Props = kept[:len(payload):len(payload)], mqtt.Properties(kept[len(payload):])
	return m
}

// stringLike reads a string, which is the one given if it equals that.
func (d *decoder) stringLike(s string) string {
	if b := d.bytes(); string(b) != s {
		return string(b)
	}
	return s
}

// viewMessage reads the rest of a message that is not to be retained, in place.
func (d *decoder) viewMessage(qos mqtt.QoS) *mqtt.Message {
	m := &d.into.message
	*m = mqtt.Message{QoS: qos, Expires: d.time(), Topic: view(d.bytes()), Publisher: view(d.bytes())}
	m.Props, m.Payload = mqtt.Properties(d.bytes()), d.bytes()
	return m
}

// view returns a string that shares the memory of b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (d *decoder) will() *Will {
	if d.byte() == 0 {
		return nil
	}
	d.into = nil // its message is kept
	return &Will{Delay: time.Duration(d.int()), Expiry: time.Duration(d.int()), Message: d.message()}
}

func (d *decoder) recipients() (rs []Recipient) {
	n := d.count()
	if d.into != nil {
		return d.viewRecipients(n)
	}
	if n > 0 {
		rs = make([]Recipient, 0, n)
	}
	for range n {
		rs = append(rs, d.recipient())
	}
	return rs
}

// viewRecipients reads n recipients into what is there for that.
func (d *decoder) viewRecipients(n int) []Recipient {
	rs := d.into.recipients[:0]
	d.into.ids = d.into.ids[:0]
	for range n {
		rs = append(rs, d.recipient())
	}
	d.into.recipients = rs
	return rs
}

func (d *decoder) recipient() Recipient {
	r := Recipient{Session: SessionID(d.uint())}
	o := d.byte()
	r.QoS, r.Retain = mqtt.QoS(o&3), o&4 != 0
	switch {
	case o&8 == 0:
	case d.into == nil:
		r.IDs, r.Share = ints[uint32](d), d.string()
	default:
		r.IDs, r.Share = d.viewIDs(), view(d.bytes())
	}
	return r
}

// viewIDs is ints without a slice of its own.
func (d *decoder) viewIDs() []uint32 {
	ids, n := d.into.ids, len(d.into.ids)
	for range d.count() {
		ids = append(ids, uint32(d.uint()))
	}
	d.into.ids = ids
	return ids[n:len(ids):len(ids)]
}

func (d *decoder) refs() (refs []Ref) {
	n := d.count()
	if n > 0 {
		refs = make([]Ref, 0, n)
	}
	last := Position(0)
	for range n {
		last += Position(d.int())
		o := d.uint()
		refs = append(refs, Ref{
			About: last, QoS: mqtt.QoS(o & 3), Retain: o&4 != 0, Shared: o&8 != 0, Received: o&16 != 0, PacketID: uint16(o >> 5),
		})
	}
	return refs
}
