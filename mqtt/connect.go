package mqtt

import "encoding/binary"

// Connect is the CONNECT packet (§3.1).
type Connect struct {
	Version     Version
	CleanStart  bool   // called Clean Session by MQTT 3
	KeepAlive   uint16 // seconds; zero switches it off
	ClientID    string
	Will        *Will // nil when there is none
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte // borrows
	Props       Properties
}

// Will is the Will Message inside a CONNECT (§3.1.2.5).
type Will struct {
	Topic   string
	Payload []byte // borrows
	QoS     QoS
	Retain  bool
	Props   Properties // with the Will Delay Interval
}

// The bits of the Connect Flags (§3.1.2.3).
const (
	flagCleanStart = 1 << 1
	flagWill       = 1 << 2
	flagWillQoS    = 3 << 3
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUsername   = 1 << 7
)

// Parse reads the body of a CONNECT. It finds the protocol version in the packet; when that is one that nobody knows,
// it sets Version, leaves the rest, and returns UnsupportedProtocolVersion. Version is 0 when even the protocol name is not there.
func (c *Connect) Parse(f Frame) error {
	*c = Connect{}
	r := reader{b: f.Body}
	if err := c.parseProtocol(&r); err != nil {
		return err
	}
	if f.padded && c.Version == V5 { // ParseFrame did not know the version yet
		return errNotMinimal
	}
	flags := r.byte()
	c.KeepAlive = r.uint16()
	if r.err == nil {
		if err := checkConnectFlags(flags, c.Version); err != nil {
			return err
		}
	}
	c.CleanStart = flags&flagCleanStart != 0
	if c.Version == V5 {
		c.Props = r.properties(CONNECT)
	}
	c.ClientID = string(r.text()) // [MQTT-3.1.3-3], [MQTT-3.1.3-4]
	if flags&flagWill != 0 {
		c.Will = parseWill(&r, flags, c.Version)
	}
	c.parseCredentials(&r, flags)
	if err := r.end(); err != nil {
		return err
	}
	if !c.Props.has(AuthenticationMethod) && c.Props.has(AuthenticationData) {
		return wrong(ProtocolError, "authentication data without a method") // §3.1.2.11.10
	}
	return nil
}

// parseCredentials reads User Name and Password. In MQTT 3.1 the length of the packet wins over the flags: a string
// that is announced may be missing.
func (c *Connect) parseCredentials(r *reader, flags byte) {
	follows := func(flag byte) bool {
		missing := c.Version == V31 && r.err == nil && len(r.b) == 0
		return flags&flag != 0 && !missing
	}
	if c.HasUsername = follows(flagUsername); c.HasUsername {
		c.Username = string(r.text()) // [MQTT-3.1.3-12]
	}
	if c.HasPassword = follows(flagPassword); c.HasPassword {
		c.Password = r.binary()
	}
}

func (c *Connect) parseProtocol(r *reader) error {
	name, level := string(r.text()), r.byte()
	if r.err != nil {
		return r.err
	}
	c.Version = Version(level)
	switch {
	case name == "MQTT" && (c.Version == V311 || c.Version == V5), name == "MQIsdp" && c.Version == V31:
		return nil
	case name == "MQTT" || name == "MQIsdp":
		return wrong(UnsupportedProtocolVersion, "no such protocol level") // [MQTT-3.1.2-2]
	}
	c.Version = 0                                              // another protocol: whoever sent this would not understand a CONNACK
	return wrong(MalformedPacket, "protocol name is not MQTT") // [MQTT-3.1.2-1]
}

// checkConnectFlags refuses what must not be set. MQTT 3.1 disregards the reserved bit, and the bits of a will that is
// not there.
func checkConnectFlags(flags byte, v Version) error {
	switch {
	case flags&1 != 0 && v != V31:
		return wrong(MalformedPacket, "reserved connect flag is set") // [MQTT-3.1.2-3]
	case flags&flagWill == 0 && flags&(flagWillQoS|flagWillRetain) != 0 && v != V31:
		return wrong(MalformedPacket, "will flags are set without a will") // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
	case flags&flagWill != 0 && flags&flagWillQoS == flagWillQoS:
		return wrong(MalformedPacket, "will QoS is 3") // [MQTT-3.1.2-12]
	case v != V5 && flags&(flagUsername|flagPassword) == flagPassword:
		return wrong(MalformedPacket, "password without user name") // [v3.1.1 MQTT-3.1.2-22]
	}
	return nil
}

func parseWill(r *reader, flags byte, v Version) *Will {
	w := &Will{QoS: QoS(flags & flagWillQoS >> 3), Retain: flags&flagWillRetain != 0}
	if v == V5 {
		w.Props = r.properties(forWill)
	}
	w.Topic = string(r.text()) // [MQTT-3.1.3-11]
	w.Payload = r.binary()
	return w
}

// Append appends the CONNECT to b.
func (c *Connect) Append(b []byte) []byte {
	name := "MQTT"
	if c.Version == V31 {
		name = "MQIsdp"
	}
	b = appendVarint(append(b, byte(CONNECT)<<4), c.size(name))
	b = append(appendText(b, name), byte(c.Version), c.flags())
	b = binary.BigEndian.AppendUint16(b, c.KeepAlive)
	if c.Version == V5 {
		b = appendProperties(b, c.Props)
	}
	b = appendText(b, c.ClientID)
	if w := c.Will; w != nil {
		if c.Version == V5 {
			b = appendProperties(b, w.Props)
		}
		b = appendText(appendText(b, w.Topic), w.Payload)
	}
	if c.HasUsername {
		b = appendText(b, c.Username)
	}
	if c.HasPassword {
		b = appendText(b, c.Password)
	}
	return b
}

func (c *Connect) flags() (flags byte) {
	set := func(on bool, bit byte) {
		if on {
			flags |= bit
		}
	}
	set(c.CleanStart, flagCleanStart)
	set(c.HasUsername, flagUsername)
	set(c.HasPassword, flagPassword)
	if c.Will != nil {
		flags |= flagWill | byte(c.Will.QoS)<<3
		set(c.Will.Retain, flagWillRetain)
	}
	return flags
}

func (c *Connect) size(name string) int {
	n := 2 + len(name) + 4 + 2 + len(c.ClientID)
	if c.Version == V5 {
		n += propertiesSize(c.Props)
	}
	if w := c.Will; w != nil {
		n += 4 + len(w.Topic) + len(w.Payload)
		if c.Version == V5 {
			n += propertiesSize(w.Props)
		}
	}
	if c.HasUsername {
		n += 2 + len(c.Username)
	}
	if c.HasPassword {
		n += 2 + len(c.Password)
	}
	return n
}
