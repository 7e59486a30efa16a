package mqtt

import "encoding/binary"

// Subscribe is the SUBSCRIBE packet (§3.8).
type Subscribe struct {
	PacketID      uint16
	Subscriptions []Subscription // at least one
	Props         Properties     // may hold a Subscription Identifier
}

// Subscription is a Topic Filter with its Subscription Options (§3.8.3.1). MQTT 3 has only the QoS.
type Subscription struct {
	Filter            string
	QoS               QoS // the highest at which the client wants to receive
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    RetainHandling
}

// RetainHandling says whether retained messages are sent when a subscription is made (§3.8.3.1).
type RetainHandling byte

// The values of Retain Handling.
const (
	SendRetained      RetainHandling = 0 // at every SUBSCRIBE
	SendRetainedIfNew RetainHandling = 1 // only when the subscription did not exist
	DoNotSendRetained RetainHandling = 2
)

// Parse reads the body of a SUBSCRIBE. Whether a filter is well-formed is the business of package topic.
func (s *Subscribe) Parse(f Frame, v Version) error {
	*s = Subscribe{}
	r := reader{b: f.Body}
	s.PacketID = r.packetID()
	if v == V5 {
		s.Props = r.properties(SUBSCRIBE)
	}
	for r.err == nil && len(r.b) > 0 {
		sub := Subscription{Filter: string(r.text())} // [MQTT-3.8.3-1]
		if err := sub.parseOptions(r.byte(), v); err != nil {
			r.fail(err)
		}
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	if r.err == nil && len(s.Subscriptions) == 0 {
		return wrong(ProtocolError, "SUBSCRIBE without a topic filter") // [MQTT-3.8.3-2]
	}
	return r.end()
}

func (s *Subscription) parseOptions(o byte, v Version) error {
	reserved := byte(0xFC)
	if v == V5 {
		reserved = 0xC0
	}
	s.QoS = QoS(o & 3)
	s.NoLocal = o&4 != 0
	s.RetainAsPublished = o&8 != 0
	s.RetainHandling = RetainHandling(o >> 4 & 3)
	switch {
	case o&reserved != 0:
		return wrong(MalformedPacket, "reserved subscription options are set") // [MQTT-3.8.3-5], [v3.1.1 MQTT-3.8.3-4]
	case s.QoS == 3 && v == V5:
		return wrong(ProtocolError, "maximum QoS of a subscription is 3") // §3.8.3.1
	case s.QoS == 3:
		return wrong(MalformedPacket, "requested QoS is 3") // [v3.1.1 MQTT-3.8.3-4]
	case s.RetainHandling == 3:
		return wrong(ProtocolError, "retain handling is 3") // §3.8.3.1
	}
	return nil
}

func (s *Subscription) options(v Version) byte {
	o := byte(s.QoS)
	if v != V5 {
		return o
	}
	if s.NoLocal {
		o |= 4
	}
	if s.RetainAsPublished {
		o |= 8
	}
	return o | byte(s.RetainHandling)<<4
}

// Append appends the SUBSCRIBE to b.
func (s *Subscribe) Append(b []byte, v Version) []byte {
	n := 2
	for i := range s.Subscriptions {
		n += 3 + len(s.Subscriptions[i].Filter)
	}
	if v == V5 {
		n += propertiesSize(s.Props)
	}
	b = appendVarint(append(b, byte(SUBSCRIBE)<<4|2), n)
	b = binary.BigEndian.AppendUint16(b, s.PacketID)
	if v == V5 {
		b = appendProperties(b, s.Props)
	}
	for i := range s.Subscriptions {
		b = append(appendText(b, s.Subscriptions[i].Filter), s.Subscriptions[i].options(v))
	}
	return b
}

// Unsubscribe is the UNSUBSCRIBE packet (§3.10).
type Unsubscribe struct {
	PacketID uint16
	Filters  []string // at least one
	Props    Properties
}

// Parse reads the body of an UNSUBSCRIBE.
func (u *Unsubscribe) Parse(f Frame, v Version) error {
	*u = Unsubscribe{}
	r := reader{b: f.Body}
	u.PacketID = r.packetID()
	if v == V5 {
		u.Props = r.properties(UNSUBSCRIBE)
	}
	for r.err == nil && len(r.b) > 0 {
		u.Filters = append(u.Filters, string(r.text())) // [MQTT-3.10.3-1]
	}
	if r.err == nil && len(u.Filters) == 0 {
		return wrong(ProtocolError, "UNSUBSCRIBE without a topic filter") // [MQTT-3.10.3-2]
	}
	return r.end()
}

// Append appends the UNSUBSCRIBE to b.
func (u *Unsubscribe) Append(b []byte, v Version) []byte {
	n := 2
	for _, f := range u.Filters {
		n += 2 + len(f)
	}
	if v == V5 {
		n += propertiesSize(u.Props)
	}
	b = appendVarint(append(b, byte(UNSUBSCRIBE)<<4|2), n)
	b = binary.BigEndian.AppendUint16(b, u.PacketID)
	if v == V5 {
		b = appendProperties(b, u.Props)
	}
	for _, f := range u.Filters {
		b = appendText(b, f)
	}
	return b
}
