package mosquitto

import (
	"bytes"
	"encoding/binary"

	"github.com/magpiemq/magpie/mqtt"
)

// file writes a mosquitto.db as the tests want it.
type file struct {
	bytes.Buffer
	format int
	order  binary.ByteOrder
	narrow bool // a machine of 32 bits wrote it
}

func newFile(format int, order binary.ByteOrder, narrow bool) *file {
	f := &file{format: format, order: order, narrow: narrow}
	f.Write(magic)
	f.Write([]byte{0, 0, 0, 0, 0, 0, 0, byte(format)})
	b := append(f.long(9999), 1, 8, 0, 0)
	if !narrow {
		b = append(b, 0, 0, 0, 0)
	}
	f.chunk(kindConfig, b)
	return f
}

func (f *file) long(n uint64) []byte {
	b := make([]byte, 8)
	f.order.PutUint64(b, n)
	return b
}

func (f *file) chunk(kind uint32, parts ...[]byte) {
	b := bytes.Join(parts, nil)
	f.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, kind), uint32(len(b))))
	f.Write(b)
}

func be16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func be32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func (f *file) client(c Client) {
	expires := uint64(0)
	if !c.Expires.IsZero() {
		expires = uint64(c.Expires.Unix())
	}
	parts := [][]byte{f.long(expires), be32(int(c.Expiry)), be16(77), be16(len(c.ClientID))}
	if f.format > 5 {
		parts = append(parts, be16(1883), be16(len(c.User)))
		if !f.narrow {
			parts = append(parts, make([]byte, 4))
		}
	}
	parts = append(parts, []byte(c.ClientID))
	if f.format > 5 {
		parts = append(parts, []byte(c.User))
	}
	f.chunk(kindClient, parts...)
}

func bit(on bool, mask byte) byte {
	if on {
		return mask
	}
	return 0
}

// properties are written with their length before them, and not at all when there are none.
func properties(p mqtt.Properties) []byte {
	if len(p) == 0 {
		return nil
	}
	return append(binary.AppendUvarint(nil, uint64(len(p))), p...)
}

func (f *file) message(m Message) {
	expires := uint64(0)
	if !m.Expires.IsZero() {
		expires = uint64(m.Expires.Unix())
	}
	const user = "somebody"
	f.chunk(kindMessage, f.long(m.Number), f.long(expires), be32(len(m.Payload)), be16(5), be16(len(m.Publisher)), be16(len(user)),
		be16(len(m.Topic)), be16(1883), []byte{byte(m.QoS), bit(m.Retain, 1)},
		[]byte(m.Publisher), []byte(user), []byte(m.Topic), m.Payload, properties(m.Props))
}

func (f *file) delivery(d Delivery) {
	var p mqtt.Properties
	for _, id := range d.IDs {
		p = p.WithInt(mqtt.SubscriptionIdentifier, id)
	}
	f.chunk(kindDelivery, f.long(d.Message), be16(int(d.PacketID)), be16(len(d.ClientID)),
		[]byte{byte(d.QoS), byte(d.State), bit(d.Retain, 0x10) | 1, bit(!d.Inbound, 1)}, []byte(d.ClientID), properties(p))
}

func (f *file) subscription(s Subscription) {
	f.chunk(kindSubscription, be32(int(s.ID)), be16(len(s.ClientID)), be16(len(s.Filter)),
		[]byte{byte(s.QoS), bit(s.NoLocal, 4) | bit(s.RetainAsPublished, 8), 0, 0}, []byte(s.ClientID), []byte(s.Filter))
}

// write writes everything as Mosquitto orders it.
func (f *file) write(db *DB) []byte {
	for _, m := range db.Messages {
		f.message(m)
	}
	for _, c := range db.Clients {
		f.client(c)
		for _, d := range db.Deliveries {
			if d.ClientID == c.ClientID {
				f.delivery(d)
			}
		}
	}
	for _, s := range db.Subscriptions {
		f.subscription(s)
	}
	for _, n := range db.Retained {
		f.chunk(kindRetained, f.long(n))
	}
	return f.Bytes()
}
